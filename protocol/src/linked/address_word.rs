//! An authority's signed word that an address is a user's: it has sent a code there, and the user has shown it.

use bincode::{Decode, Encode};

use super::association::{ASSOCIATION_SECS_MAX, Association};
use super::id::LinkedId;
use super::proof::{PROOF_BYTES_MAX, ProofError};
use crate::identity::{SigningCertificate, TrustStore, UserId};
use crate::key::{AuthorityKey, IdentityKey};
use crate::time::UnixTime;
use crate::wire::{self, Body, DecodeError, Extensions, Signed};

/// Longest validity of an authority's word for an address: addresses pass on to others.
pub const ADDRESS_WORD_SECS_MAX: u64 = ASSOCIATION_SECS_MAX;

/// "Whoever has this address has shown that they are this user." Signed by a signing key of an authority.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct AddressWord {
    /// Who has shown it; of any authority, or none.
    pub user: UserId,
    /// Their identity key.
    pub identity: IdentityKey,
    /// The address: mail, telephone or SIP.
    pub linked: LinkedId,
    /// Valid from.
    pub not_before: UnixTime,
    /// Valid until, inclusive; at most [`ADDRESS_WORD_SECS_MAX`] after `not_before`.
    pub not_after: UnixTime,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Body for AddressWord {
    const KIND: u16 = 0x0b10;
    const LIMIT: usize = 640;

    fn check(&self) -> Result<(), DecodeError> {
        if matches!(&self.user, UserId::Key(key) if *key != self.identity) {
            return Err(DecodeError::invalid("user", "another key than the identity's"));
        }
        if self.not_after < self.not_before || self.not_after.secs_since(self.not_before) > ADDRESS_WORD_SECS_MAX {
            return Err(DecodeError::invalid(
                "not_after",
                format!("before not_before, or more than {ADDRESS_WORD_SECS_MAX} s after"),
            ));
        }
        Ok(())
    }
}

/// The word, and what shows that the authority has said it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct AddressProof {
    /// The authority's root.
    pub authority: AuthorityKey,
    /// The authority's word for its signing key.
    pub signing: Signed<SigningCertificate>,
    /// The word.
    pub word: Signed<AddressWord>,
    /// Room to grow.
    pub extensions: Extensions,
}

impl AddressProof {
    /// As it travels.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        wire::encode(self)
    }

    /// Reads what has travelled.
    ///
    /// # Errors
    /// [`ProofError::Unreadable`].
    pub fn read(bytes: &[u8]) -> Result<Self, ProofError> {
        wire::decode(bytes, PROOF_BYTES_MAX).map_err(|_| ProofError::Unreadable)
    }

    /// Checks that a trusted authority says that the address of `said` is its user's. Gives since when.
    ///
    /// # Errors
    /// [`ProofError`].
    pub fn verify(&self, said: &Association, authorities: &TrustStore, now: UnixTime) -> Result<UnixTime, ProofError> {
        let signing = authorities.signing(&self.authority, &self.signing, now).map_err(|_| ProofError::Issuer)?;
        let word = self.word.verify(&signing.key).map_err(|_| ProofError::Signature)?;
        if word.user != said.user || word.identity != said.identity {
            return Err(ProofError::OtherUser);
        }
        if word.linked != said.linked {
            return Err(ProofError::OtherIdentity);
        }
        let is_in_time = !word.not_before.is_from_the_future(now) && now <= word.not_after;
        is_in_time.then_some(word.not_before).ok_or(ProofError::Time)
    }
}
