//! Leave for contacts in linked systems to wake a user's devices and to leave letters for them, without being told anything else.
//!
//! Whoever is to have it isn't known beforehand: a contact elsewhere may link their account while this user is away. So there is one [`LinkedKey`] for all of them,
//! which stands beside the association, where the contact list can read it. It opens a part of the user's entries that says where the devices are woken, and
//! nothing else; and it signs as the holder of the capabilities in the [`LinkedLeave`].
//!
//! The key follows from the secret of an epoch that the user's own devices share (`PresenceSecret`), so each of them can seal for it. When somebody leaves a contact list, or the
//! account is unlinked, a new epoch begins, and with it another key: the capabilities of the old one are void at every gateway, mailbox and relay.

use std::fmt;

use bincode::{Decode, Encode};
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::association::{ASSOCIATION_SECS_MAX, Association};
use crate::capability::{Capability, CapabilityId, Holder, Issuer, Limits, Service};
use crate::directory::{PushAddress, SealKey};
use crate::key::{IdentityKey, SecretKey, hash};
use crate::time::UnixTime;
use crate::wire::{self, DecodeError, Extensions, Signed};

/// Largest leave.
pub const LEAVE_BYTES_MAX: usize = 1_024;

/// Most capabilities in one.
const CAPABILITIES_MAX: usize = 4;

/// What contacts in linked systems may do, as far as they need leave for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeaveScope {
    /// Ring.
    pub calls: bool,
    /// Write.
    pub messages: bool,
}

impl LeaveScope {
    /// Whether it is nothing at all.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        !self.calls && !self.messages
    }

    /// Whether something of `before` is missing: whoever has leave for that has it still.
    #[must_use]
    pub const fn is_less_than(self, before: Self) -> bool {
        (before.calls && !self.calls) || (before.messages && !self.messages)
    }

    fn services(self) -> impl Iterator<Item = Service> {
        let all = [(Service::Push, !self.is_empty()), (Service::InviteHandOver, self.calls), (Service::Mailbox, self.messages)];
        all.into_iter().filter_map(|(service, is_given)| is_given.then_some(service))
    }
}

/// Requests an hour of all contacts in linked systems together, and the largest: an invite or a letter.
const PER_HOUR: u32 = 30;
const PAYLOAD_BYTES_MAX: u32 = 65_536;

/// How long before its making a capability counts, for clocks that are behind.
const BACKDATED_SECS: u64 = 3_600;

/// What all of a user's contacts in linked systems hold.
#[derive(Clone, PartialEq, Eq, Encode, Decode, Zeroize, ZeroizeOnDrop)]
pub struct LinkedKey {
    /// Of which epoch of the user it is.
    pub epoch: u32,
    seal: [u8; 32],
    holder: [u8; 32],
}

impl fmt::Debug for LinkedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LinkedKey(epoch {}, ..)", self.epoch)
    }
}

impl LinkedKey {
    /// The key of an epoch, from the secret that the user's own devices share.
    #[must_use]
    pub fn of_secret(epoch: u32, secret: &[u8; 32]) -> Self {
        let derive = |tag| hash(tag, &[&epoch.to_be_bytes(), secret]);
        Self { epoch, seal: derive("halloo linked seal key"), holder: derive("halloo linked holder key") }
    }

    /// What seals the part of an entry that is for contacts in linked systems.
    #[must_use]
    pub const fn seal_key(&self) -> SealKey {
        SealKey::from_bytes(self.seal)
    }

    /// What signs for requests under the capabilities.
    #[must_use]
    pub fn holder(&self) -> SecretKey {
        SecretKey::from_bytes(self.holder)
    }
}

/// A [`LinkedKey`], and what may be done with it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct LinkedLeave {
    /// The key.
    pub key: LinkedKey,
    /// What helpers of the user's devices honour; signed by the user.
    pub capabilities: Vec<Signed<Capability>>,
    /// Room to grow.
    pub extensions: Extensions,
}

impl LinkedLeave {
    /// Gives leave, for as long as an association holds.
    #[must_use]
    pub fn sign(key: LinkedKey, scope: LeaveScope, identity: &SecretKey, now: UnixTime) -> Self {
        let issuer = Issuer::Identity(IdentityKey(identity.public()));
        let holder = Holder::Key(key.holder().public());
        let not_before = now.minus_secs(BACKDATED_SECS);
        let capability = |service: Service| {
            let name = hash("halloo linked capability", &[&key.holder, &wire::encode(&service)]);
            let id = CapabilityId(name.first_chunk().copied().unwrap_or_default());
            let limits = Limits { per_hour: PER_HOUR, payload_bytes_max: PAYLOAD_BYTES_MAX };
            let not_after = not_before.plus_secs(ASSOCIATION_SECS_MAX);
            let epoch = key.epoch;
            let extensions = Extensions::none();
            Signed::sign(Capability { id, issuer, service, holder, limits, epoch, not_before, not_after, extensions }, identity)
        };
        let capabilities = scope.services().map(capability).collect();
        Self { key, capabilities, extensions: Extensions::none() }
    }

    /// Reads one that stood beside an association. Helpers check the signatures: what doesn't hold is of no use, and does no harm.
    ///
    /// # Errors
    /// [`DecodeError`] for what can't be read, or isn't the leave of the user of the association.
    pub fn read(bytes: &[u8], said: &Association) -> Result<Self, DecodeError> {
        let leave: Self = wire::decode(bytes, LEAVE_BYTES_MAX)?;
        leave.check(said)?;
        Ok(leave)
    }

    fn check(&self, said: &Association) -> Result<(), DecodeError> {
        if self.capabilities.len() > CAPABILITIES_MAX {
            return Err(DecodeError::invalid("capabilities", format!("{}, at most {CAPABILITIES_MAX}", self.capabilities.len())));
        }
        let (issuer, holder) = (Issuer::Identity(said.identity), Holder::Key(self.key.holder().public()));
        let is_theirs = |capability: &Signed<Capability>| {
            let capability = capability.unverified();
            capability.issuer == issuer && capability.holder == holder && capability.epoch == self.key.epoch
        };
        if self.capabilities.iter().all(is_theirs) {
            Ok(())
        } else {
            Err(DecodeError::invalid("capabilities", "of another user, holder or epoch"))
        }
    }

    /// The capability for a service.
    #[must_use]
    pub fn capability(&self, service: Service) -> Option<&Signed<Capability>> {
        self.capabilities.iter().find(|capability| capability.unverified().service == service)
    }

    /// How devices are woken, with the capability that entries leave out because it is the same everywhere.
    #[must_use]
    pub fn fill(&self, push: Vec<PushAddress>) -> Vec<PushAddress> {
        let Some(capability) = self.capability(Service::Push).map(wire::encode) else { return Vec::new() };
        push.into_iter().map(|address| PushAddress { capability: capability.clone(), ..address }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capability::{CapabilityError, CapabilityProof, CapabilityRequest, CapabilityRules, verify};
    use crate::identity::UserId;
    use crate::key::{DeviceKey, PublicKey};
    use crate::linked::{AssociationParams, ProofMethod};
    use crate::presence::PresenceSecret;
    use crate::test_identity::NOW;

    const GATEWAY: DeviceKey = DeviceKey(PublicKey([77; 32]));
    const DEVICE: DeviceKey = DeviceKey(PublicKey([78; 32]));
    const REQUEST: [u8; 32] = [9; 32];
    const ALL: LeaveScope = LeaveScope { calls: true, messages: true };

    fn bob() -> SecretKey {
        SecretKey::from_bytes([1; 32])
    }

    fn said(of: &SecretKey) -> Association {
        let user = UserId::Key(IdentityKey(of.public()));
        let linked = "xmpp:bob@there.example".parse().expect("an address");
        let params = AssociationParams { user, linked, method: ProofMethod::OWN_ITEM, last_serial: 0, now: NOW };
        Association::sign(params, of).unverified().clone()
    }

    fn leave(epoch: u32) -> LinkedLeave {
        LinkedLeave::sign(PresenceSecret::new(epoch, [5; 32]).linked_key(), ALL, &bob(), NOW)
    }

    fn asked(leave: &LinkedLeave, service: Service, key: &SecretKey, rules: &CapabilityRules) -> Result<(), CapabilityError> {
        let capability = leave.capability(service).expect("of every service");
        let proof = CapabilityProof::sign(capability.unverified().id, GATEWAY, REQUEST, NOW, key);
        let request = CapabilityRequest {
            capability,
            proof: &proof,
            service,
            request_hash: REQUEST,
            payload_bytes: 2_800,
            presenter: None,
        };
        verify(&request, rules, &GATEWAY, NOW).map(|grant| assert!(!grant.is_stranger))
    }

    #[test]
    fn whoever_reads_it_is_served_until_the_epoch_ends() {
        let read = LinkedLeave::read(&wire::encode(&leave(3)), &said(&bob())).expect("in order");
        let mut rules = CapabilityRules::new(DEVICE, IdentityKey(bob().public()), 3);
        for service in ALL.services() {
            assert_eq!(asked(&read, service, &read.key.holder(), &rules), Ok(()));
            let thief = SecretKey::from_bytes([8; 32]);
            assert!(matches!(asked(&read, service, &thief, &rules), Err(CapabilityError::ProofSignature(_))));
        }
        assert!(read.capability(Service::PresenceFetch).is_none(), "presence stays with contacts");
        rules.raise_epoch(4);
        let ended = CapabilityError::OldEpoch { found: 3, newest: 4 };
        assert_eq!(asked(&read, Service::Push, &read.key.holder(), &rules), Err(ended));
        assert_eq!(asked(&leave(4), Service::Push, &leave(4).key.holder(), &rules), Ok(()));
    }

    #[test]
    fn leave_is_given_for_what_is_allowed_alone() {
        let scope = |calls, messages| LeaveScope { calls, messages };
        let given = |scope: LeaveScope| scope.services().collect::<Vec<_>>();
        assert_eq!(given(scope(true, false)), [Service::Push, Service::InviteHandOver]);
        assert_eq!(given(scope(false, true)), [Service::Push, Service::Mailbox]);
        assert_eq!(given(scope(false, false)), []);
        for (now, before, is_less) in [
            (scope(true, true), scope(true, true), false),
            (scope(true, true), scope(false, false), false),
            (scope(false, true), scope(true, true), true),
            (scope(true, false), scope(false, true), true),
        ] {
            assert_eq!(now.is_less_than(before), is_less, "{now:?} after {before:?}");
        }
    }

    #[test]
    fn it_follows_from_the_secret_and_from_the_epoch() {
        let key = |epoch, seed| PresenceSecret::new(epoch, [seed; 32]).linked_key();
        assert_eq!(key(3, 5), key(3, 5));
        let all = [key(3, 5), key(4, 5), key(3, 6)];
        for (at, one) in all.iter().enumerate() {
            for other in &all[at + 1..] {
                assert!(one.seal != other.seal && one.holder != other.holder);
            }
        }
        assert_ne!(key(3, 5).seal, key(3, 5).holder);
    }

    #[test]
    fn the_leave_of_another_user_or_epoch_is_not_taken() {
        let mallory = SecretKey::from_bytes([2; 32]);
        let bytes = wire::encode(&leave(3));
        assert!(bytes.len() < LEAVE_BYTES_MAX, "{}", bytes.len());
        assert!(LinkedLeave::read(&bytes, &said(&mallory)).is_err(), "copied to another's place");
        let other_key = LinkedLeave { key: leave(4).key, ..leave(3) };
        assert!(LinkedLeave::read(&wire::encode(&other_key), &said(&bob())).is_err());
        let mut many = leave(3);
        many.capabilities.extend(leave(3).capabilities);
        assert!(LinkedLeave::read(&wire::encode(&many), &said(&bob())).is_err());
        assert!(LinkedLeave::read(&bytes[..bytes.len() - 1], &said(&bob())).is_err());
    }

    #[test]
    fn addresses_gain_the_capability_that_entries_leave_out() {
        let gateway = crate::directory::Helper { device: GATEWAY, addresses: Vec::new() };
        let bare = PushAddress { gateway, handle: vec![1; 16], capability: Vec::new() };
        let filled = leave(3).fill(vec![bare.clone()]);
        assert_eq!(filled[0].handle, bare.handle);
        let capability: Signed<Capability> = wire::decode(&filled[0].capability, 768).expect("whole");
        assert_eq!(Some(&capability), leave(3).capability(Service::Push));
        let nothing = LinkedLeave { capabilities: Vec::new(), ..leave(3) };
        assert_eq!(nothing.fill(vec![bare]), Vec::new());
    }
}
