//! Tokens for one event, from the server of the other system: for whoever wants their contacts there to learn who they are here with a call, and not before.
//!
//! 1. The caller puts a commitment to the event at a place that only they can write to, and gets the token from the server: the name that it has given to it.
//! 2. The set-up request carries the token ([`TokenPart`]), sealed.
//! 3. The callee asks the server what stands at the caller's place under that token, and compares: [`TokenPart::commitment`].
//! 4. When the event ends, the caller has the server forget the token. It counts for [`TOKEN_SECS_MAX`] at most.
//!
//! What stands there is a hash over the call's random id, so nobody else who reads it learns whose call it is, or to whom.

use bincode::{Decode, Encode};

use super::id::LinkedId;
use crate::call::{CallId, Invite};
use crate::identity::UserId;
use crate::key::{IdentityKey, hash};
use crate::time::UnixTime;
use crate::wire::{self, DecodeError, Extensions};

/// Tag of the invite's extension that holds a [`TokenPart`].
pub const TOKEN_EXTENSION: u16 = 0x000d;

/// Longest time that a token counts: as long as a call may ring, and clocks differ.
pub const TOKEN_SECS_MAX: u64 = 600;

/// Longest token.
pub const TOKEN_BYTES_MAX: usize = 128;

/// Largest [`TokenPart`].
const PART_BYTES_MAX: usize = 768;

/// The caller calls somebody whom they know in another system, and shows a token of its server.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct TokenPart {
    /// Who the caller is there.
    pub caller: LinkedId,
    /// Who the callee is there.
    pub callee: LinkedId,
    /// What the server has given to the caller, and shows to the callee.
    pub token: String,
    /// Until when it counts.
    pub not_after: UnixTime,
    /// Room to grow.
    pub extensions: Extensions,
}

impl TokenPart {
    /// What has to stand at the caller's place under the token, for this call of this user. It is put there before there is a token.
    #[must_use]
    pub fn commitment(&self, user: &UserId, identity: &IdentityKey, call: CallId) -> [u8; 32] {
        let (caller, callee) = (wire::encode(&self.caller), wire::encode(&self.callee));
        let (user, until) = (wire::encode(user), self.not_after.0.to_be_bytes());
        hash("halloo event token", &[&wire::encode(&call), &caller, &callee, &user, identity.0.as_bytes(), &until])
    }

    /// The invite's extensions with this among them.
    #[must_use]
    pub fn add_to(&self, extensions: Extensions) -> Extensions {
        extensions.with(TOKEN_EXTENSION, wire::encode(self))
    }

    /// What an invite says. Whoever can't read it judges the invite as that of a stranger.
    ///
    /// # Errors
    /// [`DecodeError`] if it says something that can't be read, or names a token that is none.
    pub fn of(invite: &Invite) -> Result<Option<Self>, DecodeError> {
        let part =
            invite.extensions.find(TOKEN_EXTENSION).map(|bytes| wire::decode::<Self>(bytes, PART_BYTES_MAX)).transpose()?;
        part.map(Self::checked).transpose()
    }

    fn checked(self) -> Result<Self, DecodeError> {
        if is_token(&self.token) {
            Ok(self)
        } else {
            Err(DecodeError::invalid("token", "empty, too long, or not of printable ASCII"))
        }
    }
}

/// Whether something can be a token.
#[must_use]
pub fn is_token(text: &str) -> bool {
    (1..=TOKEN_BYTES_MAX).contains(&text.len()) && text.chars().all(|character| character.is_ascii_graphic())
}
