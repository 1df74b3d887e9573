//! One kind of token for everything a helper does for somebody else's sake: push, hand-over of invites, mailbox, presence fetch.
//!
//! The issuer (a device, or its user) signs a [`Capability`] for a holder, who is known to the helper by a key made for this pair alone: a
//! pseudonym. Each request carries a [`CapabilityProof`] signed with that key, over this very request, for this very helper. So a copied token
//! is worth nothing, and the helper learns no name. It checks offline ([`verify`]).
//!
//! Until people are contacts there is one narrow door: a capability whose holder is [`Holder::Certified`] serves anybody whom an authority that
//! the helper trusts has named, at the rate of strangers.
//!
//! Revocation: by id, or all at once by raising the epoch ([`CapabilityRules`], kept by the helper, told by the issuer).

use std::collections::BTreeSet;

use bincode::{Decode, Encode};

pub use crate::id::CapabilityId;
use crate::identity::VerifiedChain;
use crate::key::{DeviceKey, IdentityKey, PublicKey, SecretKey, SignatureError};
use crate::time::{CLOCK_TOLERANCE_SECS, UnixTime};
use crate::wire::{Body, DecodeError, Extensions, Signed};

/// Longest validity of a capability.
pub const CAPABILITY_SECS_MAX: u64 = 366 * 86_400;

/// Most single revocations a helper keeps per issuer; beyond it the issuer raises its epoch.
pub const REVOKED_MAX: usize = 64;

/// Who gives a capability away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub enum Issuer {
    /// One device, for itself.
    Device(DeviceKey),
    /// A user, for all their devices.
    Identity(IdentityKey),
}

impl Issuer {
    /// The key that signs.
    #[must_use]
    pub const fn key(&self) -> PublicKey {
        match self {
            Self::Device(device) => device.0,
            Self::Identity(identity) => identity.0,
        }
    }
}

/// What a capability is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub enum Service {
    /// Wake the issuer through its gateway.
    Push,
    /// Hand an invite over through the issuer's relay.
    InviteHandOver,
    /// Leave a message in the issuer's mailbox.
    Mailbox,
    /// Fetch the issuer's sealed presence.
    PresenceFetch,
}

/// Who may use a capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub enum Holder {
    /// Whoever has the secret half of this key, made for the pair of issuer and holder.
    Key(PublicKey),
    /// Any device whose chain the helper believes; it signs with its device key.
    Certified,
}

/// How much a holder may ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct Limits {
    /// Requests per hour, evenly refilled. The helper's own limit may be lower.
    pub per_hour: u32,
    /// Largest payload of one request, in bytes.
    pub payload_bytes_max: u32,
}

/// The token. Signed by the issuer.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Capability {
    /// Names it for revocation.
    pub id: CapabilityId,
    /// Who gives it, and signs.
    pub issuer: Issuer,
    /// For what.
    pub service: Service,
    /// To whom.
    pub holder: Holder,
    /// How much.
    pub limits: Limits,
    /// The issuer's epoch when it was made; void once the issuer's is higher.
    pub epoch: u32,
    /// Valid from.
    pub not_before: UnixTime,
    /// Valid until, inclusive; at most [`CAPABILITY_SECS_MAX`] after `not_before`.
    pub not_after: UnixTime,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Body for Capability {
    const KIND: u16 = 0x0401;
    const LIMIT: usize = 512;

    fn check(&self) -> Result<(), DecodeError> {
        if self.not_after < self.not_before || self.not_after.secs_since(self.not_before) > CAPABILITY_SECS_MAX {
            return Err(DecodeError::invalid("not_after", format!("more than {CAPABILITY_SECS_MAX} s after start, or before it")));
        }
        Ok(())
    }
}

/// The holder's word for one request. Signed with the holder's key.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct CapabilityProof {
    /// Which capability is used.
    pub capability: CapabilityId,
    /// The helper asked: a proof can't be carried to another.
    pub helper: DeviceKey,
    /// Hash of the request, as the service defines it.
    pub request_hash: [u8; 32],
    /// When it was asked, by the holder's corrected clock.
    pub at: UnixTime,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Body for CapabilityProof {
    const KIND: u16 = 0x0402;
    const LIMIT: usize = 256;
}

impl CapabilityProof {
    /// Signs a proof with the holder's key: the pairwise key, or the device key for a capability of [`Holder::Certified`].
    #[must_use]
    pub fn sign(
        capability: CapabilityId,
        helper: DeviceKey,
        request_hash: [u8; 32],
        at: UnixTime,
        key: &SecretKey,
    ) -> Signed<Self> {
        Signed::sign(Self { capability, helper, request_hash, at, extensions: Extensions::none() }, key)
    }
}

/// Why a capability isn't honoured.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CapabilityError {
    /// Issued by somebody else than who is served here.
    #[error("the capability is issued by {0:?}, who isn't served under this handle")]
    WrongIssuer(Issuer),
    /// For something else.
    #[error("the capability is for {found:?}, not {wanted:?}")]
    WrongService {
        /// What it is for.
        found: Service,
        /// What was asked.
        wanted: Service,
    },
    /// The issuer didn't sign it.
    #[error("capability: {0}")]
    Signature(SignatureError),
    /// Not valid yet.
    #[error("the capability isn't valid before {0}")]
    NotYet(UnixTime),
    /// Over.
    #[error("the capability expired at {0}")]
    Expired(UnixTime),
    /// From an epoch that the issuer has ended.
    #[error("the capability is of epoch {found}, the issuer's is {newest}")]
    OldEpoch {
        /// Epoch of the capability.
        found: u32,
        /// Epoch of the issuer.
        newest: u32,
    },
    /// Taken back by name.
    #[error("capability {0} was revoked")]
    Revoked(CapabilityId),
    /// For certified users, and the asker has shown no chain that holds.
    #[error("the capability is for certified users")]
    NotCertified,
    /// The proof is for another capability, helper or request.
    #[error("the proof is for another {0}")]
    WrongProof(&'static str),
    /// The holder's key didn't sign the proof: a copied token.
    #[error("proof: {0}")]
    ProofSignature(SignatureError),
    /// The proof is older, or dated further ahead, than clocks differ.
    #[error("the proof is of {0}, too far from now")]
    ProofTime(UnixTime),
    /// The payload is larger than the issuer allows.
    #[error("{length} bytes, the capability allows {limit}")]
    TooLarge {
        /// Bytes sent.
        length: usize,
        /// Bytes allowed.
        limit: u32,
    },
}

/// What a helper keeps about an issuer: whose capabilities count, and which no longer.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct CapabilityRules {
    /// The device served.
    pub device: DeviceKey,
    /// Its user: their capabilities count too.
    pub identity: IdentityKey,
    epoch: u32,
    revoked: BTreeSet<CapabilityId>,
}

impl CapabilityRules {
    /// Rules for a device and its user.
    #[must_use]
    pub const fn new(device: DeviceKey, identity: IdentityKey, epoch: u32) -> Self {
        Self { device, identity, epoch, revoked: BTreeSet::new() }
    }

    /// The oldest epoch that counts.
    #[must_use]
    pub const fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Voids every capability of an earlier epoch, which makes single revocations needless. Never goes back. True if it was news.
    pub fn raise_epoch(&mut self, epoch: u32) -> bool {
        let is_news = epoch > self.epoch;
        if is_news {
            self.epoch = epoch;
            self.revoked.clear();
        }
        is_news
    }

    /// Voids one capability. False if [`REVOKED_MAX`] are revoked already: raise the epoch.
    pub fn revoke(&mut self, id: CapabilityId) -> bool {
        if self.revoked.len() >= REVOKED_MAX && !self.revoked.contains(&id) {
            return false;
        }
        self.revoked.insert(id);
        true
    }

    /// True if the capability was revoked by id.
    #[must_use]
    pub fn is_revoked(&self, id: &CapabilityId) -> bool {
        self.revoked.contains(id)
    }

    fn serves(&self, issuer: &Issuer) -> bool {
        match issuer {
            Issuer::Device(device) => *device == self.device,
            Issuer::Identity(identity) => *identity == self.identity,
        }
    }
}

/// What a helper is asked, as far as the capability matters.
#[derive(Clone, Copy, Debug)]
pub struct CapabilityRequest<'a> {
    /// The token shown.
    pub capability: &'a Signed<Capability>,
    /// The proof shown.
    pub proof: &'a Signed<CapabilityProof>,
    /// What is asked for.
    pub service: Service,
    /// Hash of the request as received.
    pub request_hash: [u8; 32],
    /// Size of its payload, in bytes.
    pub payload_bytes: usize,
    /// Who the connection's hello has shown the asker to be, if anybody.
    pub presenter: Option<&'a VerifiedChain>,
}

/// Leave to serve one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The capability used.
    pub capability: CapabilityId,
    /// Under whom to count it: the pairwise key, or a certified user's identity key.
    pub holder: PublicKey,
    /// Requests per hour the issuer allows this holder.
    pub per_hour: u32,
    /// True if it came through the door for strangers.
    pub is_stranger: bool,
}

/// Checks a capability and its proof, as `helper`, by `rules`. Needs no network. Rates are counted by the caller, under [`Grant::holder`].
///
/// # Errors
/// [`CapabilityError`]: the first check that fails. Cheap checks come before signatures.
pub fn verify(
    request: &CapabilityRequest<'_>,
    rules: &CapabilityRules,
    helper: &DeviceKey,
    now: UnixTime,
) -> Result<Grant, CapabilityError> {
    let capability = request.capability.unverified();
    check_claims(capability, request, rules, now)?;
    check_proof_claims(request.proof.unverified(), capability.id, request.request_hash, helper, now)?;
    request.capability.verify(&capability.issuer.key()).map_err(CapabilityError::Signature)?;
    let (signer, holder, is_stranger) = match (capability.holder, request.presenter) {
        (Holder::Key(key), _) => (key, key, false),
        (Holder::Certified, Some(chain)) if chain.user.name().is_some() => (chain.device.0, chain.user.identity.0, true),
        (Holder::Certified, _) => return Err(CapabilityError::NotCertified),
    };
    request.proof.verify(&signer).map_err(CapabilityError::ProofSignature)?;
    Ok(Grant { capability: capability.id, holder, per_hour: capability.limits.per_hour, is_stranger })
}

fn check_claims(
    capability: &Capability,
    request: &CapabilityRequest<'_>,
    rules: &CapabilityRules,
    now: UnixTime,
) -> Result<(), CapabilityError> {
    if !rules.serves(&capability.issuer) {
        return Err(CapabilityError::WrongIssuer(capability.issuer));
    }
    if capability.service != request.service {
        return Err(CapabilityError::WrongService { found: capability.service, wanted: request.service });
    }
    if capability.not_before.is_from_the_future(now) {
        return Err(CapabilityError::NotYet(capability.not_before));
    }
    if now > capability.not_after {
        return Err(CapabilityError::Expired(capability.not_after));
    }
    if capability.epoch < rules.epoch {
        return Err(CapabilityError::OldEpoch { found: capability.epoch, newest: rules.epoch });
    }
    if rules.is_revoked(&capability.id) {
        return Err(CapabilityError::Revoked(capability.id));
    }
    let limit = capability.limits.payload_bytes_max;
    if u32::try_from(request.payload_bytes).unwrap_or(u32::MAX) > limit {
        return Err(CapabilityError::TooLarge { length: request.payload_bytes, limit });
    }
    Ok(())
}

fn check_proof_claims(
    proof: &CapabilityProof,
    capability: CapabilityId,
    request_hash: [u8; 32],
    helper: &DeviceKey,
    now: UnixTime,
) -> Result<(), CapabilityError> {
    if proof.capability != capability {
        return Err(CapabilityError::WrongProof("capability"));
    }
    if proof.helper != *helper {
        return Err(CapabilityError::WrongProof("helper"));
    }
    if proof.request_hash != request_hash {
        return Err(CapabilityError::WrongProof("request"));
    }
    if proof.at.is_from_the_future(now) || now.secs_since(proof.at) > CLOCK_TOLERANCE_SECS {
        return Err(CapabilityError::ProofTime(proof.at));
    }
    Ok(())
}
