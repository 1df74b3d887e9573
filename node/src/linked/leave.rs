//! Leave for contacts in linked systems to wake this user's devices: given at the own accounts' places and in the entry, taken from others' places.
//!
//! The key that it goes by follows from that of the contacts here. Whoever leaves a contact list, and an account that is unlinked, begins a new one of either; then helpers
//! are told, the entry is sealed anew, and what stands at the places is said anew.

use std::time::{Duration, Instant};

use halloo_protocol::capability::{Capability, Service};
use halloo_protocol::contact::privacy::{Audience, Kind};
use halloo_protocol::directory::{DeviceEntry, PrivatePart, PushAddress, SealedPart};
use halloo_protocol::identity::UserId;
use halloo_protocol::key::{DeviceKey, SecretKey};
use halloo_protocol::linked::{Association, LinkedId, LinkedLeave, Shown};
use halloo_protocol::wire::{self, Signed};
use tracing::{debug, warn};

use crate::event_loop::EventLoop;

/// Extension of an entry: a sealed part for contacts in linked systems.
pub(crate) const LINKED_PART: u16 = 0x0002;

/// Largest such part, with epoch and nonce.
const LINKED_PART_BYTES_MAX: usize = 1_024;

/// A new key is news for every contact: when people leave one after the other, so often at most.
const TURN_EVERY: Duration = Duration::from_secs(600);

/// When the key is turned next.
#[derive(Debug, Default)]
pub(super) struct KeyTurn {
    turned_at: Option<Instant>,
    due_at: Option<Instant>,
}

// Giving leave.
impl EventLoop {
    /// Whether contacts in linked systems may do anything for which they need leave.
    fn gives_linked_leave(&self) -> bool {
        let settings = self.privacy_settings();
        let is_for_them = |kind| settings.audience(kind) >= Audience::Linked;
        let shows = self.linked.accounts.keys().any(|id| !self.linked.token_only.contains(id));
        shows && (is_for_them(Kind::Call) || is_for_them(Kind::Message))
    }

    /// An association, with the leave that stands beside it.
    pub(super) fn shown_with(&self, association: Signed<Association>) -> Shown {
        let is_given = self.gives_linked_leave() && !association.unverified().is_revoked;
        let key = is_given.then(|| self.contacts.presence_secret().linked_key());
        let leave = key.and_then(|key| self.identity.linked_leave(key, self.now().unix));
        Shown { association, leave: leave.as_ref().map(wire::encode) }
    }

    /// How this device is woken, for its entry.
    pub(crate) fn linked_part(&mut self, device: DeviceKey) -> Option<SealedPart> {
        // Where anyone may call, everybody is told how.
        if !self.gives_linked_leave() || self.privacy_settings().is_open() {
            return None;
        }
        let push: Vec<PushAddress> =
            self.push_addresses().into_iter().map(|address| PushAddress { capability: Vec::new(), ..address }).collect();
        if push.is_empty() {
            return None;
        }
        let mut part = PrivatePart { push, ..PrivatePart::default() };
        while !part.fits() {
            part.push.pop()?;
        }
        let key = self.contacts.presence_secret().linked_key();
        let nonce = self.random();
        Some(key.seal_key().seal(key.epoch, &device, &part, nonce))
    }

    /// What the part of an own entry says, to compare.
    pub(crate) fn own_linked_part(&self, entry: &DeviceEntry) -> Option<PrivatePart> {
        let sealed = sealed_part(entry)?;
        self.contacts.presence_secret().linked_key().seal_key().open(&entry.device, &sealed).ok()
    }

    /// There is another key, whoever has turned it.
    pub(crate) fn linked_key_changed(&mut self) {
        self.linked.readers.values_mut().for_each(halloo_protocol::linked::Readers::begin);
        self.keep_sightings_soon();
        self.linked_leave_changed();
    }

    /// Another key, or others who may call or write: the places and the entry say so.
    pub(crate) fn linked_leave_changed(&mut self) {
        self.publish_soon();
        let is_settled = |account: &super::Account| account.is_connected && account.asked.is_none();
        let accounts = self.linked.accounts.iter().filter(|(_, account)| is_settled(account));
        let accounts: Vec<LinkedId> = accounts.map(|(id, _)| id.clone()).collect();
        accounts.iter().for_each(|id| self.show_own(id));
    }

    pub(super) fn turn_key_if_somebody_left(&mut self) {
        if self.linked.readers.values().any(halloo_protocol::linked::Readers::has_left) {
            let now = Instant::now();
            let next = self.linked.key.turned_at.map_or(now, |at| at + TURN_EVERY);
            self.linked.key.due_at.get_or_insert(next.max(now));
            self.turn_key_when_due(now);
        }
    }

    pub(super) fn turn_key_when_due(&mut self, now: Instant) {
        if self.linked.key.due_at.is_some_and(|at| at <= now) {
            self.turn_key(now);
        }
    }

    /// Whoever isn't told has nothing from now on.
    pub(super) fn turn_key(&mut self, now: Instant) {
        self.linked.key = KeyTurn { turned_at: Some(now), due_at: None };
        debug!("contacts in linked systems get another key");
        if let Err(error) = self.run_roster(|roster, signer| roster.renew_keys(signer)) {
            warn!(%error, "contacts in linked systems keep the key they have");
        }
    }
}

// Taking it.
impl EventLoop {
    /// The leave that a user shows at their place in a linked system, if one of the own contact lists has them.
    fn linked_leave_of(&self, user: &UserId) -> Option<&LinkedLeave> {
        self.seen_as(user).filter_map(|(_, _, sighting)| sighting.leave.as_ref()).max_by_key(|leave| leave.key.epoch)
    }

    /// What a contact in a linked system lets this user do, and the key to do it with.
    pub(crate) fn linked_capability(&self, user: &UserId, service: Service) -> Option<(Signed<Capability>, SecretKey)> {
        let leave = self.linked_leave_of(user)?;
        Some((leave.capability(service)?.clone(), leave.key.holder()))
    }

    /// What an entry says to contacts in linked systems, if this user is one.
    pub(crate) fn open_linked_part(&self, user: &UserId, entry: &DeviceEntry) -> Option<PrivatePart> {
        let sealed = sealed_part(entry)?;
        let leave = self.linked_leave_of(user)?;
        let part = leave.key.seal_key().open(&entry.device, &sealed).ok()?;
        // Nothing else is theirs to say here.
        Some(PrivatePart { push: leave.fill(part.push), ..PrivatePart::default() })
    }
}

fn sealed_part(entry: &DeviceEntry) -> Option<SealedPart> {
    wire::decode(entry.extensions.find(LINKED_PART)?, LINKED_PART_BYTES_MAX).ok()
}
