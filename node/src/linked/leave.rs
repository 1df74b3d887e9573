//! Leave for contacts in linked systems to wake this user's devices: given at the own accounts' places and in the entry, taken from others' places.
//!
//! The key that it goes by follows from that of the contacts here. Whoever leaves a contact list, and an account that is unlinked, begins a new one of either; then helpers
//! are told, the entry is sealed anew, and what stands at the places is said anew.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use halloo_protocol::call::CallId;
use halloo_protocol::capability::{Capability, Service};
use halloo_protocol::contact::Standing;
use halloo_protocol::contact::privacy::{Audience, Kind, PrivacySettings};
use halloo_protocol::directory::{DeviceEntry, PrivatePart, PushAddress, SealedPart};
use halloo_protocol::identity::UserId;
use halloo_protocol::key::{DeviceKey, SecretKey};
use halloo_protocol::linked::{Association, LeaveScope, LinkedId, LinkedLeave, Shown, Sighting};
use halloo_protocol::wire::{self, Signed};
use tracing::{debug, warn};

use crate::event_loop::EventLoop;
use crate::store::StoreError;

/// Extension of an entry: a sealed part for contacts in linked systems.
pub(crate) const LINKED_PART: u16 = 0x0002;

/// Largest such part, with epoch and nonce.
const LINKED_PART_BYTES_MAX: usize = 1_024;

/// A new key is news for every contact: when people leave one after the other, so often at most.
const TURN_EVERY: Duration = Duration::from_secs(600);
const TURN_EVERY_MAX: Duration = Duration::from_secs(6 * 3_600);

/// How often the place of somebody is looked at because what was seen there opens nothing.
const RENEW_EVERY: Duration = Duration::from_secs(60);

/// People blocked of whom it is remembered who they are in linked systems.
const DENIED_MAX: usize = 200;

const DENIED: &str = "linked blocked";

/// Places looked at for that, and calls that wait for it.
const RENEWING_MAX: usize = 64;

/// When the key is turned next.
#[derive(Debug, Default)]
pub(super) struct KeyTurn {
    turned_at: Option<Instant>,
    due_at: Option<Instant>,
    /// Between turns for people who leave; longer for those who come and go.
    pause: Duration,
}

impl KeyTurn {
    /// When the next turn may be.
    fn next(&self, now: Instant) -> Instant {
        self.turned_at.map_or(now, |at| (at + self.pause).max(now))
    }

    /// It is turned: the pause is twice as long if the last turn is not long ago.
    fn turned(&mut self, now: Instant) {
        let is_often = self.turned_at.is_some_and(|at| now.saturating_duration_since(at) < self.pause * 4);
        self.pause = if is_often { (self.pause * 2).min(TURN_EVERY_MAX) } else { TURN_EVERY };
        (self.turned_at, self.due_at) = (Some(now), None);
    }
}

// Giving leave.
impl EventLoop {
    /// Whether contacts in linked systems are given leave for anything.
    fn gives_linked_leave(&self) -> bool {
        self.shows_association() && !scope_of(self.privacy_settings()).is_empty()
    }

    /// An association, with the leave that stands beside it.
    pub(super) fn shown_with(&self, association: Signed<Association>) -> Shown {
        let is_given = self.gives_linked_leave() && !association.unverified().is_revoked;
        let key = is_given.then(|| self.contacts.presence_secret().linked_key());
        let scope = scope_of(self.privacy_settings());
        let signed = self.linked.accounts.get(&association.unverified().linked).and_then(|account| account.leave.clone());
        let signed = signed.filter(|leave| key.as_ref().is_some_and(|key| *key == leave.key));
        let leave = key.and_then(|key| self.identity.linked_leave(key, scope, self.now().unix)).or(signed);
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

    /// Others may call or write. Whoever has had leave for what isn't allowed any more is to have it no longer.
    pub(crate) fn linked_scope_changed(&mut self, before: &PrivacySettings) {
        let (before, now) = (scope_of(before), scope_of(self.privacy_settings()));
        if !self.has_linked() {
            return;
        }
        self.tell_contacts_soon();
        if now.is_less_than(before) {
            self.turn_key();
        } else if now != before {
            self.linked_leave_changed();
        }
    }

    /// Another key, or more leave: the places and the entry say so.
    fn linked_leave_changed(&mut self) {
        self.publish_soon();
        self.all_listings_changed();
        let is_settled = |account: &super::Account| account.is_connected && account.asked.is_none();
        let accounts = self.linked.accounts.iter().filter(|(_, account)| is_settled(account));
        let accounts: Vec<LinkedId> = accounts.map(|(id, _)| id.clone()).collect();
        accounts.iter().for_each(|id| self.show_own(id));
    }

    pub(super) fn turn_key_if_somebody_left(&mut self) {
        if self.linked.readers.values().any(halloo_protocol::linked::Readers::has_left) {
            let now = Instant::now();
            let next = self.linked.key.next(now);
            if self.linked.key.due_at.is_none() {
                self.linked.key.due_at = Some(next);
                // On disk before anything else: who has left is known after a crash too.
                self.keep_sightings();
            }
            self.turn_key_when_due(now);
        }
    }

    pub(super) fn turn_key_when_due(&mut self, now: Instant) {
        if self.linked.key.due_at.is_some_and(|at| at <= now) {
            self.linked.key.turned(now);
            self.turn_key();
        }
    }

    /// Whoever isn't told has nothing from now on.
    pub(super) fn turn_key(&mut self) {
        // Whoever has left meanwhile is served by this one as well. It delays none for those who leave next: nobody else can ask for it.
        self.linked.key.due_at = None;
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
        // Anybody may show another's name: the leave of who is known to be that user comes first.
        let rank = |sighting: &Sighting| {
            let said = sighting.association.as_ref().map(Signed::unverified);
            said.is_some_and(|said| self.is_vouched(&said.user, &said.identity))
        };
        let leaves = self.seen_as(user).filter_map(|(_, _, sighting)| Some((rank(sighting), sighting.leave.as_ref()?)));
        leaves.max_by_key(|(is_vouched, leave)| (*is_vouched, leave.key.epoch)).map(|(_, leave)| leave)
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

/// Places that are looked at again, because the leave that was seen there is of an earlier epoch than an entry.
#[derive(Debug, Default)]
pub(super) struct Renewing {
    looked: VecDeque<(LinkedId, Instant)>,
    calls: VecDeque<(LinkedId, CallId)>,
}

impl EventLoop {
    /// Looks at a user's place again if what was seen there doesn't open what an entry has for contacts in linked systems. A call goes on when that was seen.
    pub(crate) fn renew_linked_leave(&mut self, user: &UserId, entry: &DeviceEntry, call: Option<CallId>) {
        let Some(sealed) = sealed_part(entry) else { return };
        let newest = self.linked_leave_of(user).map_or(0, |leave| leave.key.epoch);
        let seen = self.seen_as(user).next().map(|(account, place, _)| (account.clone(), place.clone()));
        let Some((account, place)) = seen.filter(|_| sealed.epoch > newest) else { return };
        let renewing = &mut self.linked.renewing;
        let now = Instant::now();
        renewing.looked.retain(|(_, at)| now.saturating_duration_since(*at) < RENEW_EVERY);
        if renewing.looked.len() >= RENEWING_MAX || renewing.looked.iter().any(|(looked, _)| *looked == place) {
            return;
        }
        renewing.looked.push_back((place.clone(), now));
        if let Some(call) = call {
            renewing.calls.truncate(RENEWING_MAX - 1);
            renewing.calls.push_back((place.clone(), call));
        }
        self.look_at(&account, &place);
    }

    /// A place was looked at: calls that waited for it invite by what stands there.
    pub(super) fn linked_leave_looked(&mut self, place: &LinkedId) {
        let calls = std::mem::take(&mut self.linked.renewing.calls);
        let (ready, waiting): (Vec<_>, Vec<_>) = calls.into_iter().partition(|(waiting, _)| waiting == place);
        self.linked.renewing.calls = waiting.into();
        ready.into_iter().for_each(|(_, call)| self.invite_by_new_leave(call));
    }
}

/// People who are blocked, as they are in linked systems: what stands at own places isn't shown to them.
impl EventLoop {
    /// Somebody is blocked, or isn't any more, on this device or another. Whoever is blocked has no leave from then on, and isn't shown the next key.
    pub(crate) fn linked_block_changed(&mut self, user: &UserId) {
        let is_blocked = self.contacts.roster().standing(user) == Standing::Blocked;
        let before = self.linked.denied.len();
        if is_blocked {
            let ids: Vec<LinkedId> = self.linked_peers_of(user).iter().filter_map(|peer| peer.id.parse().ok()).collect();
            let room = DENIED_MAX.saturating_sub(before);
            self.linked.denied.extend(ids.into_iter().take(room).map(|id| (id, user.clone())));
        } else {
            self.linked.denied.retain(|_, denied| denied != user);
        }
        if self.linked.denied.len() == before {
            return;
        }
        let denied: Vec<(LinkedId, UserId)> = self.linked.denied.iter().map(|(id, user)| (id.clone(), user.clone())).collect();
        if let Err(error) = self.store.transaction::<_, StoreError>(|tx| tx.put_setting_value(DENIED, &denied)) {
            warn!(%error, "who is blocked in linked systems isn't written");
        }
        if is_blocked {
            // Once what is under way is done.
            self.linked.key.due_at = Some(Instant::now());
        } else {
            self.linked_leave_changed();
        }
    }

    pub(super) fn read_denied(&mut self) {
        match self.store.read::<_, StoreError>(|view| view.setting_value::<Vec<(LinkedId, UserId)>>(DENIED)) {
            Ok(denied) => self.linked.denied = denied.unwrap_or_default().into_iter().collect(),
            Err(error) => warn!(%error, "who is blocked in linked systems isn't read"),
        }
    }

    /// Who of a system isn't to be shown anything.
    pub(super) fn denied_in(&self, account: &LinkedId) -> Vec<LinkedId> {
        self.linked.denied.keys().filter(|id| id.system() == account.system()).cloned().collect()
    }
}

/// What contacts in linked systems may do.
pub(super) fn scope_of(settings: &PrivacySettings) -> LeaveScope {
    let is_for_them = |kind| settings.audience(kind) >= Audience::Linked;
    LeaveScope { calls: is_for_them(Kind::Call), messages: is_for_them(Kind::Message) }
}

fn sealed_part(entry: &DeviceEntry) -> Option<SealedPart> {
    wire::decode(entry.extensions.find(LINKED_PART)?, LINKED_PART_BYTES_MAX).ok()
}
