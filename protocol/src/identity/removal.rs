//! Removed devices, as those know them who meet the user or keep something for them.
//!
//! A user's [`Tombstone`]s stand in the directory record. Because the removed device is to be out at once, and also where nobody looks the record up,
//! they travel as well: in the hello of every other device of the user, in what contacts are told, and between own devices. Each is signed by the
//! identity key, so it doesn't matter who brings it.

use std::collections::BTreeMap;

use super::certificate::Tombstone;
use crate::directory::TOMBSTONES_MAX;
use crate::key::{DeviceKey, IdentityKey};
use crate::time::UnixTime;
use crate::wire::{self, Extensions, Signed};

/// Extension of a hello, a contact update and a share among own devices: the sender's user's tombstones, a list of at most [`TOMBSTONES_MAX`].
pub const TOMBSTONES_EXTENSION: u16 = 0x0001;

/// Users who are nothing to this one, of whom removed devices are remembered. When full, the one of whom no device will be remembered soonest is
/// forgotten: its record, or its next hello, teaches again.
pub const STRANGERS_REMOVALS_MAX: usize = 1_024;

/// Largest encoding of a list: sixteen tombstones with their signatures.
const LIST_BYTES_MAX: usize = 4_096;

/// Adds a user's tombstones to what is sent; without any, nothing.
#[must_use]
pub fn with_tombstones(extensions: Extensions, tombstones: &[Signed<Tombstone>]) -> Extensions {
    if tombstones.is_empty() {
        return extensions;
    }
    let list: Vec<&Signed<Tombstone>> = tombstones.iter().take(TOMBSTONES_MAX).collect();
    extensions.with(TOMBSTONES_EXTENSION, wire::encode(&list))
}

/// The tombstones that came with a message, as far as `identity` has signed them.
#[must_use]
pub fn tombstones_in(extensions: &Extensions, identity: &IdentityKey) -> Vec<Signed<Tombstone>> {
    let list = extensions
        .find(TOMBSTONES_EXTENSION)
        .and_then(|bytes| wire::decode::<Vec<Signed<Tombstone>>>(bytes, LIST_BYTES_MAX).ok());
    let list = list.unwrap_or_default().into_iter().take(TOMBSTONES_MAX);
    list.filter(|tombstone| tombstone.verify(&identity.0).is_ok()).collect()
}

#[derive(Clone, Debug, Default)]
struct OfUser {
    is_kept: bool,
    devices: BTreeMap<DeviceKey, Signed<Tombstone>>,
}

impl OfUser {
    fn last_until(&self) -> UnixTime {
        self.devices.values().map(|tombstone| tombstone.unverified().until).max().unwrap_or_default()
    }
}

/// All removed devices that are known.
#[derive(Clone, Debug, Default)]
pub(super) struct Removals(BTreeMap<IdentityKey, OfUser>);

impl Removals {
    /// Takes a tombstone whose signature was checked. True if it was news.
    pub(super) fn insert(&mut self, identity: IdentityKey, tombstone: Signed<Tombstone>, is_kept: bool) -> bool {
        let device = tombstone.unverified().device;
        let until = tombstone.unverified().until;
        let user = self.0.entry(identity).or_default();
        user.is_kept |= is_kept;
        if user.devices.get(&device).is_some_and(|known| known.unverified().until >= until) {
            return false;
        }
        user.devices.insert(device, tombstone);
        while user.devices.len() > TOMBSTONES_MAX {
            let first = user.devices.values().map(|known| (known.unverified().until, known.unverified().device)).min();
            let Some((_, device)) = first else { break };
            user.devices.remove(&device);
        }
        let is_there = user.devices.contains_key(&device);
        self.bound(&identity);
        is_there
    }

    fn bound(&mut self, newest: &IdentityKey) {
        while self.0.values().filter(|user| !user.is_kept).count() > STRANGERS_REMOVALS_MAX {
            let strangers = self.0.iter().filter(|(identity, user)| !user.is_kept && *identity != newest);
            let Some(identity) = strangers.min_by_key(|(_, user)| user.last_until()).map(|(identity, _)| *identity) else {
                return;
            };
            self.0.remove(&identity);
        }
    }

    pub(super) fn find(&self, identity: &IdentityKey, device: &DeviceKey, now: UnixTime) -> Option<&Signed<Tombstone>> {
        self.0.get(identity)?.devices.get(device).filter(|tombstone| now <= tombstone.unverified().until)
    }

    pub(super) fn of_user(&self, identity: &IdentityKey) -> impl Iterator<Item = &Signed<Tombstone>> {
        self.0.get(identity).into_iter().flat_map(|user| user.devices.values())
    }

    /// Forgets those that are over; tells which.
    pub(super) fn prune(&mut self, now: UnixTime) -> Vec<(IdentityKey, DeviceKey)> {
        let mut over = Vec::new();
        for (identity, user) in &mut self.0 {
            let gone = user.devices.extract_if(.., |_, tombstone| now > tombstone.unverified().until);
            over.extend(gone.map(|(device, _)| (*identity, device)));
        }
        self.0.retain(|_, user| !user.devices.is_empty());
        over
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{Chain, ChainError, DEVICE_CERTIFICATE_SECS_MAX, TrustStore};
    use crate::key::{PublicKey, SecretKey};
    use crate::test_identity::{Authority, NOW};

    fn tombstone(identity: &SecretKey, device: DeviceKey, until: UnixTime) -> Signed<Tombstone> {
        Signed::sign(Tombstone { device, removed_at: NOW, until, extensions: Extensions::none() }, identity)
    }

    fn identity_of(chain: &Chain) -> IdentityKey {
        match &chain.user {
            crate::identity::UserChain::Named { user, .. } => user.unverified().identity,
            crate::identity::UserChain::Key(identity) => *identity,
        }
    }

    #[test]
    fn a_removed_device_is_believed_no_more_until_its_certificate_would_have_ended() {
        let authority = Authority::new(1);
        let mut trust = authority.trust();
        let (alice, bob) = (authority.person("alice", 10), authority.person("bob", 20));
        let identity = SecretKey::from_bytes([10; 32]);
        assert_eq!(IdentityKey(identity.public()), identity_of(&alice.chain));
        let until = NOW.plus_secs(1_000);
        // Somebody else's word about alice's device.
        let foreign = tombstone(&SecretKey::from_bytes([20; 32]), alice.device(), until);
        assert!(trust.apply_tombstone(&identity_of(&alice.chain), &foreign, true, NOW).is_err());
        assert_eq!(trust.apply_tombstone(&identity_of(&bob.chain), &foreign, true, NOW), Ok(true));
        assert!(alice.chain.verify(NOW, &trust).is_ok());

        let own = tombstone(&identity, alice.device(), until);
        assert_eq!(trust.apply_tombstone(&identity_of(&alice.chain), &own, true, NOW), Ok(true));
        assert_eq!(trust.apply_tombstone(&identity_of(&alice.chain), &own, true, NOW), Ok(false));
        assert_eq!(alice.chain.verify(NOW, &trust), Err(ChainError::DeviceRemoved(NOW)));
        assert!(bob.chain.verify(NOW, &trust).is_ok());
        assert!(alice.chain.verify(until.plus_secs(1), &trust).is_ok());
        assert_eq!(trust.prune_tombstones(until.plus_secs(1)).len(), 2);
        assert_eq!(trust.apply_tombstone(&identity_of(&alice.chain), &own, true, until.plus_secs(1)), Ok(false), "over");
    }

    #[test]
    fn lists_travel_and_what_others_signed_falls_out() {
        let (mine, theirs) = (SecretKey::from_bytes([1; 32]), SecretKey::from_bytes([2; 32]));
        let device = |number| DeviceKey(PublicKey([number; 32]));
        let until = NOW.plus_secs(DEVICE_CERTIFICATE_SECS_MAX);
        let list = [tombstone(&mine, device(1), until), tombstone(&theirs, device(2), until)];
        let extensions = with_tombstones(Extensions::none(), &list);
        assert_eq!(tombstones_in(&extensions, &IdentityKey(mine.public())), list[..1]);
        assert_eq!(with_tombstones(Extensions::none(), &[]), Extensions::none());
        assert!(
            tombstones_in(&Extensions::none().with(TOMBSTONES_EXTENSION, vec![255; 40]), &IdentityKey(mine.public())).is_empty()
        );
        let full: Vec<_> = (0..16).map(|number| tombstone(&mine, device(number), until)).collect();
        assert_eq!(tombstones_in(&with_tombstones(Extensions::none(), &full), &IdentityKey(mine.public())).len(), 16);
    }

    #[test]
    fn strangers_cannot_crowd_out_whom_we_know() {
        let mut trust = TrustStore::new();
        let identity = |number: u16| {
            let mut seed = [7; 32];
            seed[..2].copy_from_slice(&number.to_be_bytes());
            SecretKey::from_bytes(seed)
        };
        let device = DeviceKey(PublicKey([1; 32]));
        let known = identity(0);
        let until = |secs: u64| NOW.plus_secs(secs);
        assert_eq!(
            trust.apply_tombstone(&IdentityKey(known.public()), &tombstone(&known, device, until(1)), true, NOW),
            Ok(true)
        );
        for number in 1..=1_100 {
            let stranger = identity(number);
            let made = tombstone(&stranger, device, until(u64::from(number) + 10));
            assert_eq!(trust.apply_tombstone(&IdentityKey(stranger.public()), &made, false, NOW), Ok(true));
        }
        assert!(trust.is_device_removed(&IdentityKey(known.public()), &device, NOW));
        assert!(!trust.is_device_removed(&IdentityKey(identity(1).public()), &device, NOW), "the one soonest over makes room");
        assert!(trust.is_device_removed(&IdentityKey(identity(1_100).public()), &device, NOW));
        for number in 0..40 {
            let made = tombstone(&known, DeviceKey(PublicKey([number; 32])), until(100 + u64::from(number)));
            let _news = trust.apply_tombstone(&IdentityKey(known.public()), &made, true, NOW);
        }
        assert_eq!(trust.tombstones_of(&IdentityKey(known.public())).count(), TOMBSTONES_MAX);
    }
}
