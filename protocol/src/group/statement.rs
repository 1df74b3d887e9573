//! What is signed.

use bincode::{Decode, Encode};

use super::{GroupId, NAME_BYTES_MAX};
use crate::identity::{DeviceCertificate, UserId};
use crate::key::{DeviceKey, IdentityKey, SignatureError, hash};
use crate::time::UnixTime;
use crate::wire::{self, Body, DecodeError, Extensions, Signed};

/// The lowest rank of an admin; the founder's is 0.
pub const RANK_MAX: u8 = 3;

/// The last round of statements about one subject: far above what anybody needs, far below what would lock the subject for good.
pub const ROUND_MAX: u32 = 1 << 24;

/// Devices named in [`GroupStatement::seen`].
pub const SEEN_MAX: usize = 16;

/// A user in a group.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct Member {
    /// By which their devices are found.
    pub user: UserId,
    /// By which they are known: a name under another key is another member.
    pub identity: IdentityKey,
}

/// Founds a group. Signed by a device of the founder.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct GroupGenesis {
    /// Who founds it.
    pub founder: Member,
    /// Drawn at random: the same founder founds another group by the same name.
    pub nonce: [u8; 16],
    /// Its first name, at most [`NAME_BYTES_MAX`] bytes.
    pub name: String,
    /// When.
    pub founded_at: UnixTime,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Body for GroupGenesis {
    const KIND: u16 = 0x0a01;
    const LIMIT: usize = 512;

    fn check(&self) -> Result<(), DecodeError> {
        check_name(&self.name)
    }
}

impl GroupGenesis {
    /// The group that it founds.
    #[must_use]
    pub fn id(genesis: &Signed<Self>) -> GroupId {
        let digest = hash("halloo group", &[genesis.body_bytes()]);
        let mut id = [0; 16];
        id.copy_from_slice(&digest[..16]);
        GroupId(id)
    }
}

/// What changes.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Change {
    /// Somebody is a member: plain, or an admin of this rank. Also gives a member another rank, or takes it.
    Add {
        /// Who.
        member: Member,
        /// From 1 to [`RANK_MAX`] for an admin.
        rank: Option<u8>,
    },
    /// Somebody is no member any more.
    Remove {
        /// Who.
        identity: IdentityKey,
    },
    /// The author goes.
    Leave,
    /// The group is called so.
    Rename {
        /// At most [`NAME_BYTES_MAX`] bytes.
        name: String,
    },
}

impl Change {
    /// The order within a round: what takes away comes last.
    pub(super) const fn order(&self) -> u8 {
        match self {
            Self::Add { .. } | Self::Rename { .. } => 0,
            Self::Remove { .. } => 1,
            Self::Leave => 2,
        }
    }
}

/// What a user says in a group. Signed by a device of theirs.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct GroupStatement {
    /// In which group.
    pub group: GroupId,
    /// Who says it.
    pub author: IdentityKey,
    /// [`Vouched::hash`] of the statement that made the author an admin; zeros for the founder, and for leaving.
    pub right: [u8; 32],
    /// Grows with every statement of this device in this group, and is at least the time in seconds, so that a device restored from a backup goes on
    /// above what it said before.
    pub number: u64,
    /// One more than the greatest round that the author knew about the same member (or about the name); at most [`ROUND_MAX`].
    pub round: u32,
    /// What.
    pub change: Change,
    /// The newest statements that the author had of the member's devices: what a removed admin has said beyond them is void. At most [`SEEN_MAX`].
    pub seen: Vec<(DeviceKey, u64)>,
    /// When.
    pub said_at: UnixTime,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Body for GroupStatement {
    const KIND: u16 = 0x0a02;
    const LIMIT: usize = 1_536;

    fn check(&self) -> Result<(), DecodeError> {
        if self.round == 0 || self.round > ROUND_MAX {
            return Err(DecodeError::invalid("round", format!("{}, from 1 to {ROUND_MAX}", self.round)));
        }
        if self.seen.len() > SEEN_MAX {
            return Err(DecodeError::invalid("seen", format!("{}, at most {SEEN_MAX}", self.seen.len())));
        }
        match &self.change {
            Change::Add { rank: Some(rank), .. } if *rank == 0 || *rank > RANK_MAX => {
                Err(DecodeError::invalid("rank", format!("{rank}, from 1 to {RANK_MAX}")))
            }
            Change::Rename { name } => check_name(name),
            Change::Add { .. } | Change::Remove { .. } | Change::Leave => Ok(()),
        }
    }
}

impl GroupStatement {
    /// The member it is about; `None` if it is about the name.
    #[must_use]
    pub const fn subject(&self) -> Option<IdentityKey> {
        match &self.change {
            Change::Add { member, .. } => Some(member.identity),
            Change::Remove { identity } => Some(*identity),
            Change::Leave => Some(self.author),
            Change::Rename { .. } => None,
        }
    }

    /// True if it was seen by whoever names these.
    pub(super) fn is_within(&self, device: &DeviceKey, seen: &[(DeviceKey, u64)]) -> bool {
        seen.iter().any(|(named, number)| named == device && self.number <= *number)
    }
}

/// Checks a group's name.
fn check_name(name: &str) -> Result<(), DecodeError> {
    if name.len() > NAME_BYTES_MAX || name.trim().is_empty() || name.chars().any(char::is_control) {
        return Err(DecodeError::invalid(
            "name",
            format!("empty, longer than {NAME_BYTES_MAX} bytes, or with control characters"),
        ));
    }
    Ok(())
}

/// Something signed that says whose it is.
pub trait Attested: Body {
    /// By which key the device's certificate has to be signed.
    fn author(&self) -> IdentityKey;
}

impl Attested for GroupGenesis {
    fn author(&self) -> IdentityKey {
        self.founder.identity
    }
}

impl Attested for GroupStatement {
    fn author(&self) -> IdentityKey {
        self.author
    }
}

/// Why a statement isn't believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StatementError {
    /// The author didn't certify the device.
    #[error("device certificate: {0}")]
    Certificate(SignatureError),
    /// The device didn't sign.
    #[error("statement: {0}")]
    Signature(SignatureError),
    /// It is about another group.
    #[error("the statement is of another group")]
    WrongGroup,
}

/// A statement with the certificate of the device that signed it: proves by itself what the owner of an identity key has said.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Vouched<T: Body> {
    /// The statement.
    pub statement: Signed<T>,
    /// Its author's word for the device.
    pub certificate: Signed<DeviceCertificate>,
}

impl<T: Attested> Vouched<T> {
    /// Checks both signatures. Times of the certificate aren't looked at: the statement counts for as long as the group does.
    ///
    /// # Errors
    /// [`StatementError`].
    pub fn verify(&self) -> Result<(), StatementError> {
        let author = self.statement.unverified().author();
        let device = self.certificate.verify(&author.0).map_err(StatementError::Certificate)?.device;
        self.statement.verify(&device.0).map_err(StatementError::Signature)?;
        Ok(())
    }

    /// What is said.
    #[must_use]
    pub const fn said(&self) -> &T {
        self.statement.unverified()
    }

    /// The device that signed.
    #[must_use]
    pub const fn device(&self) -> DeviceKey {
        self.certificate.unverified().device
    }

    /// Names it. Of the statement alone: with another certificate of the same device it is the same.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        hash("halloo group statement", &[&self.device().0.0, &wire::encode(&self.statement)])
    }
}
