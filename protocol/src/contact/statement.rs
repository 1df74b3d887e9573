//! One user's signed word about another.

use bincode::{Decode, Encode};

use crate::identity::DeviceCertificate;
use crate::key::{DeviceKey, IdentityKey, SignatureError};
use crate::time::UnixTime;
use crate::wire::{self, Body, Extensions, Signed};

/// What a user says about another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub enum Stance {
    /// "I would like to be your contact."
    Asked,
    /// "Yes."
    Accepted,
    /// "No", or "no longer".
    Removed,
}

/// A user's word about another. Signed by one of the user's devices; the newest counts.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ContactStatement {
    /// Who speaks.
    pub owner: IdentityKey,
    /// About whom.
    pub other: IdentityKey,
    /// Grows with every statement of this owner about this other. At least the time in seconds, so that a device restored from a backup goes on
    /// above what it said before.
    pub sequence: u64,
    /// What is said.
    pub stance: Stance,
    /// Ends the other's statements up to this sequence, for good: what the other says afterwards is a new beginning, and a removal that crosses
    /// with a new request doesn't end it.
    pub ends: u64,
    /// When it was made.
    pub issued_at: UnixTime,
    /// Room to grow.
    pub extensions: Extensions,
}

/// Greatest [`sequence`](ContactStatement::sequence), and greatest [`ends`](ContactStatement::ends), that is believed of others. Own statements go
/// above what the other ends: if that could be the end of all numbers, there would be no way to say anything any more, and no way to take it back.
pub const SEQUENCE_MAX: u64 = u64::MAX >> 1;

impl Body for ContactStatement {
    const KIND: u16 = 0x0601;
    const LIMIT: usize = 256;
}

impl ContactStatement {
    /// True unless it says no.
    #[must_use]
    pub const fn is_yes(&self) -> bool {
        matches!(self.stance, Stance::Asked | Stance::Accepted)
    }

    /// True if `answer`, of the other, ends this statement.
    #[must_use]
    pub const fn is_ended_by(&self, answer: &Self) -> bool {
        self.sequence <= answer.ends
    }
}

/// Whether two users, by their newest statements about each other, are contacts. Both sides see the same.
#[must_use]
pub fn is_mutual(one: &ContactStatement, other: &ContactStatement) -> bool {
    one.is_yes() && other.is_yes() && !one.is_ended_by(other) && !other.is_ended_by(one)
}

/// Why a statement isn't believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StatementError {
    /// The owner didn't certify the device.
    #[error("device certificate: {0}")]
    Certificate(SignatureError),
    /// The device didn't sign.
    #[error("statement: {0}")]
    Signature(SignatureError),
    /// It is somebody else's word, or about somebody else.
    #[error("the statement is not of this user about this one")]
    WrongParties,
    /// A number is above [`SEQUENCE_MAX`].
    #[error("the statement's numbers leave no room for others")]
    OutOfRange,
}

/// A statement with the certificate of the device that signed it: proves by itself what the owner of an identity key has said.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Attested {
    /// The statement.
    pub statement: Signed<ContactStatement>,
    /// The owner's word for the device.
    pub certificate: Signed<DeviceCertificate>,
}

impl Attested {
    /// Checks that `owner` says it about `other`. Times of the certificate aren't looked at: it counted when the statement was taken.
    ///
    /// # Errors
    /// [`StatementError`].
    pub fn verify(
        statement: Signed<ContactStatement>,
        certificate: Signed<DeviceCertificate>,
        owner: &IdentityKey,
        other: &IdentityKey,
    ) -> Result<Self, StatementError> {
        let said = statement.unverified();
        if said.owner != *owner || said.other != *other {
            return Err(StatementError::WrongParties);
        }
        let device = certificate.verify(&owner.0).map_err(StatementError::Certificate)?.device;
        statement.verify(&device.0).map_err(StatementError::Signature)?;
        Ok(Self { statement, certificate })
    }

    /// The same of somebody else, whose numbers have to be within [`SEQUENCE_MAX`].
    ///
    /// # Errors
    /// [`StatementError`].
    pub fn verify_of_other(
        statement: Signed<ContactStatement>,
        certificate: Signed<DeviceCertificate>,
        owner: &IdentityKey,
        other: &IdentityKey,
    ) -> Result<Self, StatementError> {
        let said = statement.unverified();
        if said.sequence.max(said.ends) > SEQUENCE_MAX {
            return Err(StatementError::OutOfRange);
        }
        Self::verify(statement, certificate, owner, other)
    }

    /// What is said; its signature was checked when it was taken.
    #[must_use]
    pub const fn said(&self) -> &ContactStatement {
        self.statement.unverified()
    }

    /// The device that signed.
    #[must_use]
    pub const fn device(&self) -> DeviceKey {
        self.certificate.unverified().device
    }

    /// Of two statements of one owner about one other, the one that counts is the greater: the newer, and of equally new ones the one whose
    /// bytes sort last.
    #[must_use]
    pub fn rank(&self) -> (u64, Vec<u8>) {
        (self.said().sequence, wire::encode(self))
    }
}
