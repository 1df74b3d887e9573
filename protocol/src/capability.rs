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
            return Err(DecodeError::invalid(
                "not_after",
                format!("more than {CAPABILITY_SECS_MAX} s after start, or before it"),
            ));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::VerifiedChain;
    use crate::test_identity::{Authority, NOW, Person};
    use crate::wire;

    const HELPER: DeviceKey = DeviceKey(PublicKey([77; 32]));
    const REQUEST: [u8; 32] = [9; 32];

    struct Scene {
        bob: Person,
        bob_chain: VerifiedChain,
        alice: Person,
        alice_chain: VerifiedChain,
        pairwise: SecretKey,
        rules: CapabilityRules,
    }

    fn scene() -> Scene {
        let authority = Authority::new(1);
        let (bob, alice) = (authority.person("bob", 20), authority.person("alice", 10));
        let trust = authority.trust();
        let bob_chain = bob.chain.verify(NOW, &trust).expect("good");
        let alice_chain = alice.chain.verify(NOW, &trust).expect("good");
        let rules = CapabilityRules::new(bob.device(), bob_chain.user.identity, 3);
        Scene { bob, bob_chain, alice, alice_chain, pairwise: SecretKey::from_bytes([55; 32]), rules }
    }

    impl Scene {
        fn token(&self, holder: Holder) -> Capability {
            Capability {
                id: CapabilityId([4; 16]),
                issuer: Issuer::Device(self.bob.device()),
                service: Service::Push,
                holder,
                limits: Limits { per_hour: 20, payload_bytes_max: 2_800 },
                epoch: 3,
                not_before: NOW,
                not_after: NOW.plus_secs(86_400),
                extensions: Extensions::none(),
            }
        }

        fn check(&self, token: Capability, proof_key: &SecretKey) -> Result<Grant, CapabilityError> {
            let proof = CapabilityProof::sign(token.id, HELPER, REQUEST, NOW, proof_key);
            self.check_proof(&Signed::sign(token, &self.bob.device_key), &proof, Some(&self.alice_chain))
        }

        fn check_proof(
            &self,
            capability: &Signed<Capability>,
            proof: &Signed<CapabilityProof>,
            presenter: Option<&VerifiedChain>,
        ) -> Result<Grant, CapabilityError> {
            let service = Service::Push;
            let request =
                CapabilityRequest { capability, proof, service, request_hash: REQUEST, payload_bytes: 1_800, presenter };
            verify(&request, &self.rules, &HELPER, NOW)
        }
    }

    #[test]
    fn the_holder_is_served_under_a_pseudonym() {
        let scene = scene();
        let holder = Holder::Key(scene.pairwise.public());
        let grant = scene.check(scene.token(holder), &scene.pairwise).expect("served");
        assert_eq!(grant.holder, scene.pairwise.public());
        assert!(!grant.is_stranger);
        let size = wire::encode(&Signed::sign(scene.token(holder), &scene.bob.device_key)).len();
        assert!(size <= 200, "{size} bytes go into every device entry");
    }

    #[test]
    fn a_copied_token_is_worth_nothing() {
        let scene = scene();
        let holder = Holder::Key(scene.pairwise.public());
        for thief in [&scene.alice.device_key, &SecretKey::from_bytes([1; 32])] {
            let refused = scene.check(scene.token(holder), thief);
            assert!(matches!(refused, Err(CapabilityError::ProofSignature(_))), "{refused:?}");
        }
    }

    #[test]
    fn a_proof_serves_one_request_at_one_helper_for_a_while() {
        let scene = scene();
        let token = Signed::sign(scene.token(Holder::Key(scene.pairwise.public())), &scene.bob.device_key);
        let id = token.unverified().id;
        let check =
            |helper, hash, at, id| scene.check_proof(&token, &CapabilityProof::sign(id, helper, hash, at, &scene.pairwise), None);
        assert!(check(HELPER, REQUEST, NOW, id).is_ok());
        let other = DeviceKey(PublicKey([78; 32]));
        assert_eq!(check(other, REQUEST, NOW, id), Err(CapabilityError::WrongProof("helper")));
        assert_eq!(check(HELPER, [8; 32], NOW, id), Err(CapabilityError::WrongProof("request")));
        assert_eq!(check(HELPER, REQUEST, NOW, CapabilityId([5; 16])), Err(CapabilityError::WrongProof("capability")));
        for at in [NOW.minus_secs(301), NOW.plus_secs(301)] {
            assert_eq!(check(HELPER, REQUEST, at, id), Err(CapabilityError::ProofTime(at)));
        }
    }

    #[test]
    fn strangers_need_a_chain() {
        let scene = scene();
        let token = scene.token(Holder::Certified);
        let grant = scene.check(token.clone(), &scene.alice.device_key).expect("certified");
        assert!(grant.is_stranger);
        assert_eq!(grant.holder, scene.alice_chain.user.identity.0);
        let signed = Signed::sign(token.clone(), &scene.bob.device_key);
        let proof = CapabilityProof::sign(token.id, HELPER, REQUEST, NOW, &scene.alice.device_key);
        assert_eq!(scene.check_proof(&signed, &proof, None), Err(CapabilityError::NotCertified));
        assert!(matches!(scene.check_proof(&signed, &proof, Some(&scene.bob_chain)), Err(CapabilityError::ProofSignature(_))));
    }

    #[test]
    fn forged_expired_foreign_and_oversized_are_refused() {
        let scene = scene();
        let good = scene.token(Holder::Key(scene.pairwise.public()));
        let check = |token: Capability| scene.check(token, &scene.pairwise);
        assert!(check(good.clone()).is_ok());
        let issuer = Issuer::Device(scene.alice.device());
        assert_eq!(check(Capability { issuer, ..good.clone() }), Err(CapabilityError::WrongIssuer(issuer)));
        // Names the user as issuer, and the device has signed.
        let issuer = Issuer::Identity(scene.bob_chain.user.identity);
        assert!(matches!(check(Capability { issuer, ..good.clone() }), Err(CapabilityError::Signature(_))));
        assert!(matches!(
            check(Capability { service: Service::Mailbox, ..good.clone() }),
            Err(CapabilityError::WrongService { .. })
        ));
        let not_after = NOW.minus_secs(1);
        assert_eq!(check(Capability { not_after, ..good.clone() }), Err(CapabilityError::Expired(not_after)));
        let not_before = NOW.plus_secs(301);
        assert_eq!(check(Capability { not_before, ..good.clone() }), Err(CapabilityError::NotYet(not_before)));
        let limits = Limits { per_hour: 1, payload_bytes_max: 1_799 };
        assert!(matches!(check(Capability { limits, ..good.clone() }), Err(CapabilityError::TooLarge { .. })));
        let forged = Signed::sign(good.clone(), &scene.alice.device_key);
        let proof = CapabilityProof::sign(good.id, HELPER, REQUEST, NOW, &scene.pairwise);
        assert!(matches!(scene.check_proof(&forged, &proof, None), Err(CapabilityError::Signature(_))));
    }

    #[test]
    fn revocation_by_id_and_by_epoch() {
        let mut scene = scene();
        let token = scene.token(Holder::Key(scene.pairwise.public()));
        assert!(scene.rules.revoke(token.id));
        assert_eq!(scene.check(token.clone(), &scene.pairwise), Err(CapabilityError::Revoked(token.id)));
        for number in 0..REVOKED_MAX + 10 {
            let is_room = scene.rules.revoke(CapabilityId([u8::try_from(number + 10).expect("small"); 16]));
            assert_eq!(is_room, number + 1 < REVOKED_MAX);
        }
        assert!(scene.rules.raise_epoch(4));
        assert!(!scene.rules.raise_epoch(3), "never back");
        assert_eq!(scene.check(token.clone(), &scene.pairwise), Err(CapabilityError::OldEpoch { found: 3, newest: 4 }));
        assert!(scene.check(Capability { epoch: 4, id: CapabilityId([6; 16]), ..token }, &scene.pairwise).is_ok());
    }
}
