//! Presence from the node's side: drives the state machine of `halloo_protocol::presence` with the roster, the directory and the connections.
//!
//! The machine decides who hears what from whom; here are the streams, the records that tell which devices contacts have and where they
//! publish, and what the user chose to be, which survives a restart. A device publishes at its mailboxes, which carry presence too; so their
//! names are in its entry already.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use bincode::{Decode, Encode};
use halloo_protocol::contact::Standing;
use halloo_protocol::contact::privacy::Audience;
use halloo_protocol::directory::{DirectoryRecord, Helper, Reachability, RecordKey};
use halloo_protocol::identity::UserId;
use halloo_protocol::kademlia::DisconnectReason;
use halloo_protocol::key::{DeviceKey, IdentityKey};
use halloo_protocol::node::Roles;
use halloo_protocol::presence::{
    Action, CONTACTS_MAX, Config, Contact, ContactDevice, GossipConfig, LocalDevice, MOOD_BYTES_MAX, Peer, Presence,
    PresenceGossip, Shown, Source, State, Status,
};
use halloo_protocol::time::Now;
use halloo_protocol::wire::Frame;
use libp2p::PeerId;
use tracing::{debug, warn};

use crate::address;
use crate::builder::Settings;
use crate::contacts::ContactsState;
use crate::directory::Waiter;
use crate::event_loop::EventLoop;
use crate::handle::directory::ResolveError;
use crate::handle::presence::{
    OwnPresence, PresenceChange, PresenceCommand, PresenceError, PresenceList, PresenceReachability, PresenceSource,
    PresenceState as Named, PresenceView,
};
use crate::handle::{Event, Reply};
use crate::identity::LocalIdentity;
use crate::network::Target;
use crate::store::{Store, StoreError};
use crate::streams::Keeper;

const CHOSEN: &str = "presence";
const SEQUENCE: &str = "presence sequence";

/// How often own state is compared with what was said, and records of contacts are asked for.
const CHECK_EVERY: Duration = Duration::from_millis(500);

/// Records asked for at each look: a list of a thousand contacts is worked off within minutes, beside everything else.
const RESOLVES_PER_CHECK: usize = 4;

/// How long a record that was found serves: devices that come and go are told by presence itself.
const RESOLVE_AGAIN: Duration = Duration::from_secs(3_600);

/// The same for one that wasn't found; and, doubled each time, for one of a device that hasn't named yet where it publishes.
const RESOLVE_RETRY: Duration = Duration::from_secs(60);

/// How long a contact's device that fell silent has to answer: a way through a relay takes some round trips, and with the 20 s of silence before
/// it the contact is seen to be gone within half a minute.
const PROBE_TIME: Duration = Duration::from_secs(6);

/// Devices looked for at once: each costs a dial or two.
const PROBES_MAX: usize = 64;

/// When a keeper's word that wasn't there is looked for again.
const LEASE_RETRIES: [Duration; 3] = [Duration::from_secs(10), Duration::from_secs(60), Duration::from_secs(600)];

/// What the user chose to be.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
struct Chosen {
    state: State,
    mood: String,
}

impl Default for Chosen {
    fn default() -> Self {
        Self { state: State::Online, mood: String::new() }
    }
}

/// A contact as presence follows it.
#[derive(Clone, Debug)]
struct Followed {
    user: UserId,
    /// When its record is asked for again.
    resolve_at: Instant,
    is_resolving: bool,
    /// What is in the cache won't do.
    wants_newest: bool,
    /// How often the record named no place where to ask for its presence.
    unplaced_tries: u32,
    /// A device's keeper's word is wanted from the next record.
    wants_lease: BTreeSet<DeviceKey>,
    /// How often it was looked for in vain.
    lease_tries: usize,
}

/// A contact's device that fell silent, being dialled.
#[derive(Clone, Copy, Debug)]
struct Probe {
    contact: IdentityKey,
    until: Instant,
    is_dialled: bool,
}

/// The machine, and what it needs of the rest of the node.
#[derive(Debug)]
pub(crate) struct PresenceState {
    machine: Presence,
    chosen: Chosen,
    epoch: u32,
    kept_sequence: u64,
    followed: BTreeMap<IdentityKey, Followed>,
    carriers: BTreeMap<DeviceKey, Helper>,
    /// Devices that are looked for, and until when. At most [`PROBES_MAX`].
    probes: BTreeMap<DeviceKey, Probe>,
    check_at: Instant,
    is_leaving: bool,
    /// What this device speaks for sleeps, and is woken by a push.
    is_asleep: bool,
    dirty: VecDeque<IdentityKey>,
}

impl PresenceState {
    /// Takes up what was chosen and said before.
    ///
    /// # Errors
    /// [`StoreError`] if the database can't be read.
    pub(crate) fn open(
        store: &Store,
        identity: &LocalIdentity,
        settings: &Settings,
        contacts: &ContactsState,
        seed: [u8; 32],
        now: Now,
    ) -> Result<Self, StoreError> {
        let read = |view: &crate::store::View| Ok((view.setting_value::<Chosen>(CHOSEN)?, view.setting_value::<u64>(SEQUENCE)?));
        let (chosen, sequence) = store.read::<_, StoreError>(read)?;
        let is_carrier = settings.roles.contains(Roles::CARRIER);
        let gossip = if is_carrier { GossipConfig::carrier() } else { GossipConfig::default() };
        let local = LocalDevice { identity: identity.identity(), key: identity.device_key().clone(), kind: settings.device_kind };
        let secret = contacts.presence_secret().clone();
        let (epoch, kept_sequence) = (secret.epoch(), sequence.unwrap_or(0));
        let machine = Presence::new(Config { gossip, ..Config::default() }, local, secret, kept_sequence, seed, now);
        Ok(Self {
            machine,
            chosen: chosen.unwrap_or_default(),
            epoch,
            kept_sequence,
            followed: BTreeMap::new(),
            carriers: BTreeMap::new(),
            probes: BTreeMap::new(),
            check_at: now.instant,
            is_leaving: false,
            is_asleep: false,
            dirty: VecDeque::new(),
        })
    }

    /// When the machine wants to be called.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.machine.poll_timeout()
    }
}

// What drives the machine.
impl EventLoop {
    pub(crate) fn presence_tick(&mut self, now: Now) {
        if self.presence.machine.poll_timeout().is_some_and(|at| at <= now.instant) {
            self.presence.machine.handle_timeout(now);
        }
        if self.presence.check_at <= now.instant {
            self.presence.check_at = now.instant + CHECK_EVERY;
            self.follow_secret(now);
            self.follow_contacts(now);
            self.say_status(now);
            self.follow_carriers(now);
            self.follow_probes(now);
            self.resolve_contacts(now.instant);
        }
        self.drive_presence();
    }

    /// A removed contact changes the secret; nothing is said under the old one from then on.
    pub(crate) fn follow_secret(&mut self, now: Now) {
        let secret = self.contacts.presence_secret();
        if secret.epoch() != self.presence.epoch {
            self.presence.epoch = secret.epoch();
            let secret = secret.clone();
            self.presence.machine.set_secret(now, secret);
        }
    }

    /// Follows the roster: whoever is a contact and has given a key is seen.
    fn follow_contacts(&mut self, now: Now) {
        let roster = self.contacts.roster();
        let is_seen = |entry: &&halloo_protocol::contact::RosterEntry| {
            entry.standing() == Standing::Contact && entry.presence_keys(None).next().is_some()
        };
        let seen: BTreeMap<IdentityKey, UserId> = roster
            .entries()
            .filter(is_seen)
            .filter_map(|entry| Some((entry.identity()?, entry.user.clone())))
            .take(CONTACTS_MAX)
            .collect();
        let gone: Vec<IdentityKey> = self.presence.followed.keys().filter(|known| !seen.contains_key(known)).copied().collect();
        for identity in gone {
            self.presence.followed.remove(&identity);
            self.presence.machine.remove_contact(now, &identity);
        }
        for (identity, user) in seen {
            let fresh = Followed {
                user,
                resolve_at: now.instant,
                is_resolving: false,
                wants_newest: false,
                unplaced_tries: 0,
                wants_lease: BTreeSet::new(),
                lease_tries: 0,
            };
            self.presence.followed.entry(identity).or_insert(fresh);
        }
        while let Some(identity) = self.presence.dirty.pop_front() {
            self.follow_record(&identity, now);
        }
    }

    /// Something about a user in the list has changed: their keys may be others.
    pub(crate) fn presence_contact_changed(&mut self, user: &UserId) {
        let known = self.presence.followed.iter().find(|(_, followed)| followed.user == *user).map(|(identity, _)| *identity);
        if let Some(identity) = known
            && !self.presence.dirty.contains(&identity)
        {
            self.presence.dirty.push_back(identity);
        }
        self.presence.check_at = Instant::now();
    }

    fn resolve_contacts(&mut self, now: Instant) {
        let is_due = |followed: &&Followed| !followed.is_resolving && followed.resolve_at <= now;
        let due: Vec<UserId> = self
            .presence
            .followed
            .values()
            .filter(is_due)
            .take(RESOLVES_PER_CHECK)
            .map(|followed| followed.user.clone())
            .collect();
        for user in due {
            if let Some(followed) = self.presence.followed.values_mut().find(|followed| followed.user == user) {
                followed.is_resolving = true;
                // What was found before the device fell silent has an older word of its keeper, or none.
                if std::mem::take(&mut followed.wants_newest) || !followed.wants_lease.is_empty() {
                    self.forget_cached(&user);
                }
            }
            self.resolve_user(&user, Waiter::Presence);
        }
    }

    /// A look-up for presence has ended.
    pub(crate) fn presence_resolved(&mut self, user: &UserId, found: Result<DirectoryRecord, ResolveError>) {
        let now = self.now();
        let known = self.presence.followed.iter_mut().find(|(_, followed)| followed.user == *user);
        let Some((identity, followed)) = known else { return };
        followed.is_resolving = false;
        followed.resolve_at = now.instant + if found.is_ok() { RESOLVE_AGAIN } else { RESOLVE_RETRY };
        let identity = *identity;
        match found {
            Ok(_) => {
                self.follow_record(&identity, now);
                self.dial_probed(&identity);
            }
            Err(error) => debug!(%error, "a contact's record wasn't found"),
        }
        self.drive_presence();
    }

    /// Tells the machine which devices a contact has, by the record we have of them.
    fn follow_record(&mut self, identity: &IdentityKey, now: Now) {
        let Some(followed) = self.presence.followed.get_mut(identity) else { return };
        let user = followed.user.clone();
        let wanted = std::mem::take(&mut followed.wants_lease);
        let entry = self.contacts.roster().entry(&user);
        let may_pass_on = entry.is_none_or(|entry| entry.pass_on().is_allowed);
        let key = entry.and_then(|entry| entry.presence_keys(None).next().cloned());
        let record = self.cached_record(&RecordKey::of(&user)).filter(|record| record.identity() == *identity);
        let (Some(key), Some(record)) = (key, record.cloned()) else {
            if let Some(followed) = self.presence.followed.get_mut(identity) {
                followed.resolve_at = now.instant;
            }
            return;
        };
        let devices = record.entries().map(|parts| {
            let entry = parts.entry();
            let carriers = entry.mailboxes.iter().map(|helper| helper.device).collect();
            ContactDevice { certificate: parts.certificate.clone(), carriers }
        });
        let contact = Contact { identity: *identity, key, devices: devices.collect(), may_pass_on };
        self.presence.machine.set_contact(now, contact);
        for helper in record.entries().flat_map(|parts| parts.entry().mailboxes.iter()) {
            if self.presence.carriers.len() < CARRIERS_KNOWN_MAX || self.presence.carriers.contains_key(&helper.device) {
                self.presence.carriers.insert(helper.device, helper.clone());
            }
        }
        let mut unkept = BTreeSet::new();
        for parts in record.entries().filter(|parts| wanted.contains(&parts.device())) {
            // Verified with the record: signed by a keeper that the entry names.
            match parts.keeper_lease.as_ref().map(|kept| kept.lease.unverified().until).filter(|until| *until > now.unix) {
                Some(until) => self.presence.machine.handle_keeper_lease(now, identity, &parts.device(), until),
                None if parts.entry().keepers.is_empty() => {}
                None => drop(unkept.insert(parts.device())),
            }
        }
        let is_unplaced = record.entries().any(|parts| parts.entry().mailboxes.is_empty());
        let Some(followed) = self.presence.followed.get_mut(identity) else { return };
        if is_unplaced {
            // It is looked up before its device has found mailboxes: then nobody could ask for its presence but the device itself.
            let pause = (RESOLVE_RETRY * 2_u32.pow(followed.unplaced_tries.min(6))).min(RESOLVE_AGAIN);
            followed.unplaced_tries += 1;
            followed.wants_newest = true;
            followed.resolve_at = followed.resolve_at.min(now.instant + pause);
        } else {
            followed.unplaced_tries = 0;
        }
        let pause = LEASE_RETRIES.get(followed.lease_tries).filter(|_| !unkept.is_empty());
        followed.lease_tries = if unkept.is_empty() { 0 } else { followed.lease_tries.saturating_add(1) };
        if let Some(pause) = pause {
            // The keeper may not have heard of the newest entry yet.
            followed.wants_lease.extend(unkept);
            followed.resolve_at = followed.resolve_at.min(now.instant + *pause);
        }
    }

    /// Says what the user chose, and how this device can be reached.
    fn say_status(&mut self, now: Now) {
        if !self.ready {
            return;
        }
        let is_hidden = self.contacts.privacy().presence == Audience::Nobody;
        let reachability = if self.presence.is_asleep {
            Reachability::Push
        } else if self.is_reachable() || !self.open_addresses().is_empty() {
            Reachability::Direct
        } else if self.reach.relays().next().is_some() {
            Reachability::Relayed
        } else {
            Reachability::None
        };
        let own = self.directory.machine.own_record(&RecordKey::of(&self.identity.user_id()));
        let devices = own.map_or(1, |record| record.entries().count());
        let chosen = &self.presence.chosen;
        let status = Status {
            state: if is_hidden || self.presence.is_leaving { State::Offline } else { chosen.state },
            mood: if is_hidden { String::new() } else { chosen.mood.clone() },
            reachability,
            devices: u8::try_from(devices).unwrap_or(u8::MAX),
        };
        self.presence.machine.set_status(now, status);
    }

    /// This device goes off: contacts see it unless another device of the user says otherwise.
    pub(crate) fn presence_leave(&mut self) {
        self.presence.is_leaving = true;
        let now = self.now();
        self.say_status(now);
        self.drive_presence();
    }

    /// Our mailboxes carry our presence.
    fn follow_carriers(&mut self, now: Now) {
        let own = self.mailbox_helpers();
        for helper in &own {
            self.presence.carriers.insert(helper.device, helper.clone());
        }
        self.presence.machine.set_carriers(now, own.into_iter().map(|helper| helper.device).collect());
    }

    /// A peer's hello is verified.
    pub(crate) fn presence_peer_greeted(&mut self, peer: PeerId) {
        let now = self.now();
        let Some(known) = self.peers.get(&peer) else { return };
        let Some(chain) = &known.chain else { return };
        let is_carrier = known.descriptor.as_ref().is_some_and(|descriptor| descriptor.roles.contains(Roles::CARRIER));
        let peer = Peer { device: known.device, identity: chain.user.identity, is_carrier };
        self.presence.probes.remove(&peer.device);
        self.presence.machine.handle_connected(now, peer);
        self.drive_presence();
    }

    /// The last connection to a peer is gone.
    pub(crate) fn presence_disconnected(&mut self, device: &DeviceKey, reason: DisconnectReason) {
        let now = self.now();
        self.presence.machine.handle_disconnected(now, device, reason);
        self.drive_presence();
    }

    pub(crate) fn handle_presence_frame(&mut self, peer: PeerId, frame: &Frame) {
        let Some(device) = self.peers.get(&peer).filter(|known| known.chain.is_some()).map(|known| known.device) else { return };
        match frame.parse::<PresenceGossip>() {
            Ok(gossip) => {
                let now = self.now();
                self.presence.machine.handle_frame(now, &device, gossip);
                self.drive_presence();
            }
            Err(_) => self.counters.malformed += 1,
        }
    }

    /// Does what the machine wants.
    fn drive_presence(&mut self) {
        while let Some(action) = self.presence.machine.poll_action() {
            match action {
                Action::Send { to, frame, .. } => {
                    if let Some(peer) = address::peer_id(&to).filter(|peer| self.peers.get(peer).is_some()) {
                        self.notify(&Target::connected(peer), &frame);
                    }
                }
                Action::Connect(device) => self.connect_carrier(&device),
                Action::Release(device) => self.release_carrier(&device),
                Action::Changed { contact, shown } => self.presence_changed(&contact, &shown),
                Action::KeeperLeaseWanted { contact, device } => {
                    if let Some(followed) = self.presence.followed.get_mut(&contact) {
                        followed.wants_lease.insert(device);
                        followed.resolve_at = Instant::now();
                    }
                }
                Action::Probe { contact, device } => self.begin_probe(contact, device),
                Action::ContactOutdated { contact } => self.want_newest(&contact),
                Action::Silent(device) => self.drop_if_silent(&device, SILENCE),
                Action::Misbehaved { device, misdeed } => {
                    debug!(%device, ?misdeed, "presence of a peer refused");
                    self.counters.malformed += 1;
                }
                _ => {}
            }
        }
        self.keep_sequence();
    }

    fn keep_sequence(&mut self) {
        let sequence = self.presence.machine.sequence();
        if sequence == self.presence.kept_sequence {
            return;
        }
        self.presence.kept_sequence = sequence;
        if let Err(error) = self.store.transaction::<_, StoreError>(|tx| tx.put_setting_value(SEQUENCE, &sequence)) {
            warn!(%error, "presence sequence not kept");
        }
    }

    /// Wants a contact's record anew, whatever the cache has.
    fn want_newest(&mut self, contact: &IdentityKey) {
        if let Some(followed) = self.presence.followed.get_mut(contact) {
            followed.wants_newest = true;
            followed.resolve_at = Instant::now();
        }
    }

    /// Looks for a device that fell silent: where it was, and where its newest record says.
    fn begin_probe(&mut self, contact: IdentityKey, device: DeviceKey) {
        if self.presence.probes.len() >= PROBES_MAX && !self.presence.probes.contains_key(&device) {
            // As if it hadn't been tried: what is shown stays until its document ends.
            return;
        }
        let probe = Probe { contact, until: Instant::now() + PROBE_TIME, is_dialled: false };
        self.presence.probes.insert(device, probe);
        self.want_newest(&contact);
        self.presence.check_at = Instant::now();
    }

    /// Dials the devices of a contact that are looked for, by the record we have.
    fn dial_probed(&mut self, contact: &IdentityKey) {
        let devices: Vec<DeviceKey> =
            self.presence.probes.iter().filter(|(_, probe)| probe.contact == *contact).map(|(device, _)| *device).collect();
        let Some(user) = self.presence.followed.get(contact).map(|followed| followed.user.clone()) else { return };
        let record = self.cached_record(&RecordKey::of(&user)).filter(|record| record.identity() == *contact).cloned();
        for device in devices {
            let parts = record.as_ref().and_then(|record| record.entries().find(|parts| parts.device() == device));
            let target = record.as_ref().zip(parts).and_then(|(record, parts)| self.device_target(record, parts));
            let Some(target) = target else { continue };
            // The connection that fell silent takes a moment to close.
            if !self.swarm.is_connected(&target.peer) {
                self.dial_moved(&target);
                if let Some(probe) = self.presence.probes.get_mut(&device) {
                    probe.is_dialled = true;
                }
            }
        }
    }

    fn follow_probes(&mut self, now: Now) {
        let undialled: BTreeSet<IdentityKey> =
            self.presence.probes.values().filter(|probe| !probe.is_dialled).map(|probe| probe.contact).collect();
        for contact in undialled {
            self.dial_probed(&contact);
        }
        let over: Vec<DeviceKey> =
            self.presence.probes.iter().filter(|(_, probe)| probe.until <= now.instant).map(|(device, _)| *device).collect();
        for device in over {
            self.presence.probes.remove(&device);
            let peer = address::peer_id(&device);
            let living = peer.filter(|peer| self.peers.get(peer).is_some_and(crate::network::Peer::is_living));
            match living {
                // It was heard otherwise all the time.
                Some(peer) => self.presence_peer_greeted(peer),
                None => self.presence.machine.handle_unanswered(now, &device),
            }
        }
    }

    fn connect_carrier(&mut self, device: &DeviceKey) {
        // Both what a contact's record says and what the routing table has seen: a contact that names false addresses costs a dial, no carrier.
        let named = self.presence.carriers.get(device).and_then(|helper| self.strange_helper_target(helper));
        let private = self.dials_private();
        let seen = self.directory.machine.table().find(|descriptor| descriptor.device == *device);
        let seen = seen.and_then(|descriptor| Target::of_descriptor(descriptor, private));
        let Some(mut target) = named.or_else(|| seen.clone()) else { return };
        for address in seen.into_iter().flat_map(|seen| seen.addresses) {
            if !target.addresses.contains(&address) {
                target.addresses.push(address);
            }
        }
        self.swarm.behaviour_mut().streams.keep(target.peer, Keeper::Presence, true);
        if !self.swarm.behaviour().streams.is_connected(&target.peer) {
            self.dial(&target);
        }
    }

    fn release_carrier(&mut self, device: &DeviceKey) {
        if let Some(peer) = address::peer_id(device) {
            self.swarm.behaviour_mut().streams.keep(peer, Keeper::Presence, false);
        }
    }

    fn presence_changed(&self, contact: &IdentityKey, shown: &Shown) {
        let Some(followed) = self.presence.followed.get(contact) else { return };
        self.events.send(Event::Presence(view_of(self.labels.display(&followed.user), shown)));
    }
}

/// Carriers of contacts whose addresses are remembered.
const CARRIERS_KNOWN_MAX: usize = 4_096;

/// A connection on which nothing at all came for so long is closed, if presence misses a neighbour there.
const SILENCE: Duration = Duration::from_secs(15);

// Commands.
impl EventLoop {
    pub(crate) fn handle_presence(&mut self, command: PresenceCommand) {
        match command {
            PresenceCommand::Own(reply) => reply.send(Ok(self.own_presence())),
            PresenceCommand::Set { change, reply } => reply.send(self.set_presence(change)),
            PresenceCommand::Get { user, reply } => self.get_presence(&user, reply),
            PresenceCommand::List(reply) => reply.send(Ok(self.presence_list())),
            PresenceCommand::Asleep { is_asleep, reply } => {
                self.presence.is_asleep = is_asleep;
                let now = self.now();
                self.say_status(now);
                self.drive_presence();
                reply.send(Ok(()));
            }
        }
    }

    fn own_presence(&self) -> OwnPresence {
        let chosen = &self.presence.chosen;
        OwnPresence {
            state: chosen.state.into(),
            mood: chosen.mood.clone(),
            is_hidden: self.contacts.privacy().presence == Audience::Nobody,
        }
    }

    fn set_presence(&mut self, change: PresenceChange) -> Result<OwnPresence, PresenceError> {
        let mut chosen = self.presence.chosen.clone();
        if let Some(state) = change.state {
            chosen.state = state.into();
        }
        if let Some(mood) = change.mood {
            if mood.len() > MOOD_BYTES_MAX {
                return Err(PresenceError::MoodTooLong { bytes: mood.len(), max: MOOD_BYTES_MAX });
            }
            chosen.mood = mood;
        }
        self.store
            .transaction::<_, StoreError>(|tx| tx.put_setting_value(CHOSEN, &chosen))
            .map_err(|error| PresenceError::Node(crate::handle::problem::NodeError::Internal { detail: error.to_string() }))?;
        self.presence.chosen = chosen;
        let now = self.now();
        self.say_status(now);
        self.drive_presence();
        Ok(self.own_presence())
    }

    fn get_presence(&self, user: &str, reply: Reply<PresenceView, PresenceError>) {
        let user = match self.labels.parse(user) {
            Ok(user) => user,
            Err(error) => return reply.send(Err(error.into())),
        };
        let username = self.labels.display(&user);
        let entry = self.contacts.roster().entry(&user).filter(|entry| entry.standing() == Standing::Contact);
        let Some(identity) = entry.and_then(halloo_protocol::contact::RosterEntry::identity) else {
            return reply.send(Err(PresenceError::NotAContact { username }));
        };
        reply.send(Ok(view_of(username, &self.presence.machine.shown(self.now(), &identity))));
    }

    /// What is known of a contact's presence; `None` of others.
    pub(crate) fn presence_of(&self, user: &UserId) -> Option<PresenceView> {
        let entry = self.contacts.roster().entry(user).filter(|entry| entry.standing() == Standing::Contact)?;
        let identity = entry.identity()?;
        Some(view_of(self.labels.display(user), &self.presence.machine.shown(self.now(), &identity)))
    }

    /// Whether the user doesn't wish to be disturbed.
    pub(crate) fn is_dnd(&self) -> bool {
        self.presence.chosen.state == State::Dnd
    }

    /// What the user has chosen to show.
    pub(crate) const fn presence_state_chosen(&self) -> State {
        self.presence.chosen.state
    }

    fn presence_list(&self) -> PresenceList {
        let now = self.now();
        let views = self.presence.followed.iter().map(|(identity, followed)| {
            view_of(self.labels.display(&followed.user), &self.presence.machine.shown(now, identity))
        });
        let mut contacts: Vec<PresenceView> = views.collect();
        contacts.sort_by(|one, other| one.username.cmp(&other.username));
        PresenceList { contacts }
    }
}

fn view_of(username: String, shown: &Shown) -> PresenceView {
    PresenceView {
        username,
        state: shown.state.into(),
        mood: shown.mood.clone(),
        reachability: match shown.reachability {
            Reachability::Direct => PresenceReachability::Direct,
            Reachability::Relayed => PresenceReachability::Relayed,
            Reachability::Push => PresenceReachability::Push,
            Reachability::None => PresenceReachability::None,
        },
        age_ms: crate::diagnosis::millis(shown.age),
        source: shown.source.into(),
    }
}

impl From<State> for Named {
    fn from(state: State) -> Self {
        match state {
            State::Offline => Self::Offline,
            State::Away => Self::Away,
            State::Online => Self::Online,
            State::Dnd => Self::Dnd,
        }
    }
}

impl From<Named> for State {
    fn from(state: Named) -> Self {
        match state {
            Named::Offline => Self::Offline,
            Named::Away => Self::Away,
            Named::Online => Self::Online,
            Named::Dnd => Self::Dnd,
        }
    }
}

impl From<Source> for PresenceSource {
    fn from(source: Source) -> Self {
        match source {
            Source::Direct => Self::Direct,
            Source::Contact => Self::Contact,
            Source::Carrier => Self::Carrier,
            Source::Hint => Self::Hint,
            Source::Lease => Self::Lease,
            Source::Nobody => Self::Nobody,
        }
    }
}
