//! A user's signed word that an identity in another system is theirs.

use bincode::{Decode, Encode};

use super::id::LinkedId;
use crate::identity::UserId;
use crate::key::{IdentityKey, SecretKey, SignatureError};
use crate::time::UnixTime;
use crate::wire::{Body, DecodeError, Extensions, Signed};

/// Longest validity of an association. Whoever stays linked says it anew in time; who has lost the key, or the account, is rid of it in the end.
pub const ASSOCIATION_SECS_MAX: u64 = 90 * 86_400;

/// How it is shown that the other identity agrees. A number, for there will be more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct ProofMethod(pub u16);

impl ProofMethod {
    /// The association stands where only the owner of the other identity can write; in XMPP in a personal eventing node of theirs (XEP-0163).
    pub const OWN_ITEM: Self = Self(0);

    /// An OpenID Connect provider's token goes with it ([`ProviderToken`](super::ProviderToken)).
    pub const PROVIDER_TOKEN: Self = Self(1);

    /// An authority's word goes with it ([`AddressWord`](super::AddressWord)).
    pub const AUTHORITY_WORD: Self = Self(2);

    /// Whether it travels with the association, and is verified without asking anybody.
    #[must_use]
    pub const fn stands_by_itself(self) -> bool {
        matches!(self, Self::PROVIDER_TOKEN | Self::AUTHORITY_WORD)
    }
}

/// "This identity in another system is mine." Signed by the user's identity key; of one user and identity the highest serial counts.
///
/// By itself it shows what the user claims; that the other identity agrees is shown by [`Association::method`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Association {
    /// Who says it.
    pub user: UserId,
    /// Their identity key, which signs this.
    pub identity: IdentityKey,
    /// Who they are in the other system.
    pub linked: LinkedId,
    /// How it is shown.
    pub method: ProofMethod,
    /// Grows with every statement of this user about this identity; at least the time in seconds.
    pub serial: u64,
    /// Takes it back: there is no association any more, whatever was said with lower serials.
    pub is_revoked: bool,
    /// Valid from.
    pub not_before: UnixTime,
    /// Valid until, inclusive; at most [`ASSOCIATION_SECS_MAX`] after `not_before`.
    pub not_after: UnixTime,
    /// Room to grow.
    pub extensions: Extensions,
}

/// What [`Association::sign`] needs.
#[derive(Clone, Debug)]
pub struct AssociationParams {
    /// Who says it.
    pub user: UserId,
    /// Who they are in the other system.
    pub linked: LinkedId,
    /// How it is shown.
    pub method: ProofMethod,
    /// The serial of the last one about this identity; 0 if there was none.
    pub last_serial: u64,
    /// Now.
    pub now: UnixTime,
}

/// Why an association isn't believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AssociationError {
    /// The identity key that it names didn't sign it.
    #[error("association: {0}")]
    Signature(#[from] SignatureError),
    /// Not valid yet.
    #[error("the association begins at {0}")]
    NotYet(UnixTime),
    /// Not valid any more.
    #[error("the association ended at {0}")]
    Expired(UnixTime),
    /// Taken back.
    #[error("the association was taken back")]
    Revoked,
}

impl Body for Association {
    const KIND: u16 = 0x0b01;
    const LIMIT: usize = 768;

    fn check(&self) -> Result<(), DecodeError> {
        if matches!(&self.user, UserId::Key(key) if *key != self.identity) {
            return Err(DecodeError::invalid("user", "another key than the identity's"));
        }
        if self.not_after < self.not_before || self.not_after.secs_since(self.not_before) > ASSOCIATION_SECS_MAX {
            return Err(DecodeError::invalid(
                "not_after",
                format!("before not_before, or more than {ASSOCIATION_SECS_MAX} s after"),
            ));
        }
        Ok(())
    }
}

impl Association {
    /// Says it, for the longest time, from an hour ago on so that a peer whose clock is behind believes it.
    #[must_use]
    pub fn sign(params: AssociationParams, identity: &SecretKey) -> Signed<Self> {
        Signed::sign(Self::new(params, identity, false), identity)
    }

    /// Takes it back.
    #[must_use]
    pub fn revoke(params: AssociationParams, identity: &SecretKey) -> Signed<Self> {
        Signed::sign(Self::new(params, identity, true), identity)
    }

    fn new(params: AssociationParams, identity: &SecretKey, is_revoked: bool) -> Self {
        let not_before = params.now.minus_secs(3_600);
        Self {
            user: params.user,
            identity: IdentityKey(identity.public()),
            linked: params.linked,
            method: params.method,
            serial: params.now.0.max(params.last_serial.saturating_add(1)),
            is_revoked,
            not_before,
            not_after: not_before.plus_secs(ASSOCIATION_SECS_MAX),
            extensions: Extensions::none(),
        }
    }

    /// Checks signature and times, and that it isn't the taking back of one.
    ///
    /// # Errors
    /// [`AssociationError`].
    pub fn verify(signed: &Signed<Self>, now: UnixTime) -> Result<&Self, AssociationError> {
        let said = Self::verify_signature(signed)?;
        if said.is_revoked {
            return Err(AssociationError::Revoked);
        }
        if said.not_before.is_from_the_future(now) {
            return Err(AssociationError::NotYet(said.not_before));
        }
        if now > said.not_after {
            return Err(AssociationError::Expired(said.not_after));
        }
        Ok(said)
    }

    /// Checks that its user signed it, whatever it says.
    ///
    /// # Errors
    /// [`AssociationError::Signature`].
    pub fn verify_signature(signed: &Signed<Self>) -> Result<&Self, AssociationError> {
        Ok(signed.verify(&signed.unverified().identity.0)?)
    }

    /// From then on it is said anew: half of its time is over.
    #[must_use]
    pub const fn renew_at(&self) -> UnixTime {
        self.not_before.plus_secs(self.not_after.secs_since(self.not_before) / 2)
    }
}
