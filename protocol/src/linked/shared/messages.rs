//! What own devices say to each other of linked accounts. From anybody else these are refused.

use bincode::{Decode, Encode};

use super::SharedPiece;
use crate::linked::association::Association;
use crate::linked::id::LinkedId;
use crate::linked::leave::LinkedLeave;
use crate::linked::merge::IdentityMerge;
use crate::linked::sighting::Sighting;
use crate::linked::token::{TOKEN_BYTES_MAX, is_token};
use crate::wire::{self, DecodeError, Extensions, FrameKind, Message, Signed};

/// Pieces in one [`LinkedShare`], and their bytes: the largest piece always fits.
pub const SHARE_PIECES_MAX: usize = 64;
const SHARE_BYTES_MAX: usize = 40 * 1024;

/// What changed, from one own device to another that is connected. What isn't heard is read from the vault.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct LinkedShare {
    /// At most [`SHARE_PIECES_MAX`].
    pub pieces: Vec<SharedPiece>,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Message for LinkedShare {
    const KIND: FrameKind = FrameKind(FrameKind::NOTICE | 0x0099);
    const LIMIT: usize = 61_440;

    fn check(&self) -> Result<(), DecodeError> {
        if self.pieces.len() > SHARE_PIECES_MAX {
            return Err(DecodeError::invalid("pieces", format!("{}, at most {SHARE_PIECES_MAX}", self.pieces.len())));
        }
        self.pieces.iter().try_for_each(SharedPiece::check)
    }
}

impl LinkedShare {
    /// As many as it takes for all of these.
    #[must_use]
    pub fn of(pieces: &[SharedPiece]) -> Vec<Self> {
        let mut shares: Vec<Self> = Vec::new();
        let mut bytes = 0;
        for piece in pieces {
            let length = wire::encoded_len(piece);
            let last =
                shares.last_mut().filter(|share| share.pieces.len() < SHARE_PIECES_MAX && bytes + length <= SHARE_BYTES_MAX);
            match last {
                Some(share) => share.pieces.push(piece.clone()),
                None => {
                    bytes = 0;
                    shares.push(Self { pieces: vec![piece.clone()], extensions: Extensions::none() });
                }
            }
            bytes += length;
        }
        shares
    }
}

/// What is asked of the holder of an account.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum LinkedQuestion {
    /// What stands at a contact's place now?
    Look(LinkedId),
    /// What does the server of a contact show under a token?
    Token {
        /// At whose place.
        at: LinkedId,
        /// The token.
        token: String,
    },
    /// End the link, and take back what stands at the account's place.
    Remove,
    /// Sign an association for the asker, who has the login; of a device that has the identity key.
    Sign {
        /// The serial of the last one.
        last_serial: u64,
        /// Whether it is to be taken back.
        is_revoked: bool,
        /// The identity that this user has taken over.
        merge: Option<Box<Signed<IdentityMerge>>>,
    },
}

/// A question of an own device to the one that has the login of an account, or the identity key. Refused from anybody else.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct LinkedAsk {
    /// Which account.
    pub account: LinkedId,
    /// What.
    pub question: LinkedQuestion,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Message for LinkedAsk {
    const KIND: FrameKind = FrameKind(0x0098);
    const LIMIT: usize = 1_024;

    fn check(&self) -> Result<(), DecodeError> {
        match &self.question {
            LinkedQuestion::Token { token, .. } if !is_token(token) => {
                Err(DecodeError::invalid("token", format!("empty, not printable, or longer than {TOKEN_BYTES_MAX}")))
            }
            _ => Ok(()),
        }
    }
}

/// What the holder says.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum LinkedReply {
    /// It can't be said now: not connected to the account, too much asked, or not the holder.
    Unable,
    /// What stands there.
    Seen(Box<Sighting>),
    /// They are no contact of the account.
    NoContact,
    /// What the server shows under the token.
    Token(Option<[u8; 32]>),
    /// The link has ended.
    Removed {
        /// Whether the account's place says so too.
        is_taken_back: bool,
    },
    /// The association, and the leave to be shown beside it.
    Signed {
        /// The association.
        association: Box<Signed<Association>>,
        /// The leave; none where nothing is given.
        leave: Option<Box<LinkedLeave>>,
    },
}

/// Answer to [`LinkedAsk`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct LinkedTold {
    /// What is said.
    pub reply: LinkedReply,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Message for LinkedTold {
    const KIND: FrameKind = FrameKind(FrameKind::ANSWER | LinkedAsk::KIND.0);
    const LIMIT: usize = 4_096;
}
