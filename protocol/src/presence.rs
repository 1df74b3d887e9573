//! Presence: what contacts see of each other, and how it gets to them through no server.
//!
//! Each device says what its user chose to be ([`Document`]), signed, sealed for contacts, under a [`Topic`] that changes daily and means
//! nothing to others. Documents go along one tree per topic, from neighbour to neighbour, once to each who wants them (`gossip`). What is
//! shown of a contact is what their devices said last, with its age and by whom it came ([`ContactView`]).
//!
//! [`Presence`] is one device's whole part in this, without I/O.
//!
//! # Calling contract
//!
//! - Inputs take [`Now`]: [`Presence::set_status`], [`Presence::set_contact`], [`Presence::remove_contact`], [`Presence::set_carriers`],
//!   [`Presence::set_secret`], [`Presence::handle_connected`], [`Presence::handle_disconnected`], [`Presence::handle_frame`],
//!   [`Presence::handle_keeper_lease`], [`Presence::handle_unanswered`], [`Presence::handle_timeout`].
//! - After every input drain [`Presence::poll_action`]; then sleep until [`Presence::poll_timeout`] and call
//!   [`Presence::handle_timeout`].
//! - Frames to one neighbour must arrive in order, or not at all and then with a disconnect: overlay streams do.
//! - A neighbour is reported when its hello is verified, and not before.
//!
//! # Who learns what
//!
//! | who | learns |
//! | --- | --- |
//! | a contact | the document; which contacts both share, unless their owners forbid it |
//! | a contact, of others | how many topics a neighbour asks for |
//! | a carrier | which device publishes under a topic and which devices ask for it, for a day; how often, and size classes |
//! | anybody else | nothing |

mod agenda;
mod document;
mod few;
mod gossip;
mod loss;
mod memo;
mod message;
mod topic;
mod view;

pub use document::{
    DOCUMENT_SECS_MAX, Document, DocumentError, MOOD_BYTES_MAX, SEALED_SIZES, SealedBody, SealedDocument, State, next_sequence,
};
pub use gossip::{Config as GossipConfig, Counters, Misdeed, Way};
pub use memo::Memo;
pub use message::{
    Appointment, CARRIERS_MAX, DOCUMENTS_PER_FRAME_MAX, Digest, HINTS_PER_FRAME_MAX, Mode, NamedTopic, Part, PassedDocument,
    PassedHint, PresenceGossip, PresenceHint, PresenceWitness, TOPICS_PER_FRAME_MAX, TopicName, TopicPlace, TopicSlot, TopicWant,
};
pub use topic::{Day, LinkTag, PresenceKey, PresenceSecret, TOPIC_SECS, Topic, TopicSigner};
pub use view::{ContactView, HINTS_BELIEVED, Shown, Source};

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::directory::{DEVICES_MAX, DeviceKind, Reachability};
use crate::identity::{DeviceCertificate, verify_device};
use crate::kademlia::DisconnectReason;
use crate::key::{DeviceKey, IdentityKey, SecretKey};
use crate::time::{CLOCK_TOLERANCE_SECS, Now, UnixTime};
use crate::wire::{Extensions, Signed};

use agenda::Agenda;
use few::FewMap;
use gossip::{Gossip, Neighbour, Output, Watch};
use loss::Losses;

/// Least time between two documents of our own; changes in between go together.
const PUBLISH_PAUSE: Duration = Duration::from_millis(250);

/// Least time between two documents that only refute a hint.
const REFUTE_PAUSE: Duration = Duration::from_secs(15);

/// Most contacts.
pub const CONTACTS_MAX: usize = 2_048;

/// How presence behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The trees.
    pub gossip: GossipConfig,
    /// How long a document is valid: at most [`DOCUMENT_SECS_MAX`].
    pub valid_secs: u64,
    /// How often one is made though nothing has changed: well below the validity.
    pub refresh: Duration,
}

impl Default for Config {
    /// Valid for an hour, made anew after half of it.
    fn default() -> Self {
        Self { gossip: GossipConfig::default(), valid_secs: DOCUMENT_SECS_MAX, refresh: Duration::from_secs(1_800) }
    }
}

/// This device.
#[derive(Clone, Debug)]
pub struct LocalDevice {
    /// Its user.
    pub identity: IdentityKey,
    /// Its key.
    pub key: SecretKey,
    /// What machine it is.
    pub kind: DeviceKind,
}

/// What this device says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// What the user chose to be.
    pub state: State,
    /// The user's own words; cut at [`MOOD_BYTES_MAX`] bytes.
    pub mood: String,
    /// How this device can be reached.
    pub reachability: Reachability,
    /// How many devices the user has.
    pub devices: u8,
}

/// One device of a contact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContactDevice {
    /// The identity key's word for it, from the directory; tombstones have been heeded.
    pub certificate: Signed<DeviceCertificate>,
    /// Where it publishes.
    pub carriers: Vec<DeviceKey>,
}

/// Somebody whose presence we see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contact {
    /// The identity key that we pinned.
    pub identity: IdentityKey,
    /// The newest presence key they gave us.
    pub key: PresenceKey,
    /// Their devices, at most [`DEVICES_MAX`].
    pub devices: Vec<ContactDevice>,
    /// Whether they let other contacts pass their presence on.
    pub may_pass_on: bool,
}

/// A connection whose hello is verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its device.
    pub device: DeviceKey,
    /// Its user.
    pub identity: IdentityKey,
    /// Whether its descriptor has the role carrier.
    pub is_carrier: bool,
}

/// What the owner should do, or know.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Action {
    /// Send a notice on the open stream; if there is none, drop it.
    Send {
        /// To whom.
        to: DeviceKey,
        /// What.
        frame: PresenceGossip,
        /// It goes only so that something goes: not needed where the transport shows in other ways that this process lives.
        is_heartbeat: bool,
    },
    /// Open a connection to this carrier, if it is one and can be; repeated with growing pauses until it is there.
    Connect(DeviceKey),
    /// Presence no longer needs the connection to this carrier.
    Release(DeviceKey),
    /// What is shown of a contact has changed.
    Changed {
        /// Whose.
        contact: IdentityKey,
        /// What is shown now.
        shown: Shown,
    },
    /// A contact's device speaks no longer: look its record up; if a keeper's lease is valid, report it by
    /// [`Presence::handle_keeper_lease`].
    KeeperLeaseWanted {
        /// Whose.
        contact: IdentityKey,
        /// Which device.
        device: DeviceKey,
    },
    /// A contact's device was connected to us and fell silent: dial it anew, by every way that its newest record names. If it doesn't answer within
    /// some seconds, call [`Presence::handle_unanswered`]; if it does, its hello is reported as any.
    Probe {
        /// Whose.
        contact: IdentityKey,
        /// Which device.
        device: DeviceKey,
    },
    /// A contact has other devices than we know: look the record up, and call [`Presence::set_contact`].
    ContactOutdated {
        /// Whose.
        contact: IdentityKey,
    },
    /// A neighbour fell silent, or has to be met anew: close the connection, and report that it is closed.
    Silent(DeviceKey),
    /// A neighbour breaks the rules.
    Misbehaved {
        /// Which.
        device: DeviceKey,
        /// How.
        misdeed: Misdeed,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Timer {
    /// Something of ours is to be published.
    Publish,
    /// Our topics change.
    OwnDay,
    /// A contact's topics change.
    Day(IdentityKey),
    /// What is shown of a contact changes with time.
    Lapse(IdentityKey),
}

#[derive(Debug)]
struct Known {
    key: PresenceKey,
    may_pass_on: bool,
    /// The devices whose certificates hold.
    devices: FewMap<DeviceKey, KnownDevice>,
    view: ContactView,
    shown: Shown,
    /// The number of devices for which the record was last asked for.
    outdated: Option<u8>,
}

#[derive(Debug)]
struct KnownDevice {
    /// Where it publishes.
    carriers: Arc<[DeviceKey]>,
    topics: FewMap<Day, Topic>,
}

#[derive(Clone, Copy, Debug)]
struct Origin {
    contact: IdentityKey,
    device: DeviceKey,
    day: Day,
}

/// One device's presence. See the [module's calling contract](self).
#[derive(Debug)]
pub struct Presence {
    config: Config,
    local: LocalDevice,
    device: DeviceKey,
    secret: PresenceSecret,
    rng: ChaCha8Rng,
    gossip: Gossip,
    status: Option<Status>,
    sequence: u64,
    published_at: Option<Instant>,
    own: BTreeMap<Day, Topic>,
    contacts: BTreeMap<IdentityKey, Known>,
    origins: BTreeMap<Topic, Origin>,
    peers: BTreeMap<DeviceKey, Peer>,
    losses: Losses,
    agenda: Agenda<Timer>,
    actions: VecDeque<Action>,
    memo: Option<Arc<Memo>>,
}

impl Presence {
    /// Says nothing and knows nobody yet. `last_sequence` is the highest that an earlier run has seen ([`Presence::sequence`]); 0 is safe
    /// where clocks are right. `seed` must be secret and new for each run: nonces and keys come from it.
    #[must_use]
    pub fn new(config: Config, local: LocalDevice, secret: PresenceSecret, last_sequence: u64, seed: [u8; 32], now: Now) -> Self {
        let device = DeviceKey(local.key.public());
        let mut rng = ChaCha8Rng::from_seed(seed);
        let gossip = Gossip::new(config.gossip.clone(), device, rng.random(), now.instant);
        let mut presence = Self {
            config,
            local,
            device,
            secret,
            rng,
            gossip,
            status: None,
            sequence: last_sequence,
            published_at: None,
            own: BTreeMap::new(),
            contacts: BTreeMap::new(),
            origins: BTreeMap::new(),
            peers: BTreeMap::new(),
            losses: Losses::default(),
            agenda: Agenda::default(),
            actions: VecDeque::new(),
            memo: None,
        };
        presence.turn_own_day(now);
        presence
    }

    /// Shares arithmetic with other devices of this process.
    pub fn set_memo(&mut self, memo: Arc<Memo>) {
        self.gossip.set_memo(memo.clone());
        self.memo = Some(memo);
    }

    /// Takes a new secret, of a higher epoch: contacts who get its key read on, others find nothing more.
    pub fn set_secret(&mut self, now: Now, secret: PresenceSecret) {
        for topic in std::mem::take(&mut self.own).into_values() {
            self.gossip.remove_own(&topic);
        }
        self.secret = secret;
        self.turn_own_day(now);
        self.publish_by(now, now.instant);
        self.drain(now);
    }

    /// Says this from now on.
    pub fn set_status(&mut self, now: Now, status: Status) {
        if self.status.as_ref() == Some(&status) {
            return;
        }
        self.status = Some(status);
        self.publish_by(now, now.instant);
        self.drain(now);
    }

    /// Makes a document though nothing has changed; for measurements.
    pub fn refresh(&mut self, now: Now) {
        self.publish_by(now, now.instant);
        self.drain(now);
    }

    /// Sees the presence of a contact from now on, or with other keys or devices than before. Returns how many of the devices' certificates
    /// hold; others aren't heard. Own other devices are contacts of the own identity.
    pub fn set_contact(&mut self, now: Now, mut contact: Contact) -> usize {
        contact.devices.truncate(DEVICES_MAX);
        let identity = contact.identity;
        if !self.contacts.contains_key(&identity) && self.contacts.len() >= CONTACTS_MAX {
            return 0;
        }
        let mut devices: FewMap<DeviceKey, Arc<[DeviceKey]>> = FewMap::new();
        for device in &contact.devices {
            let valid = match &self.memo {
                Some(memo) => memo.device(&device.certificate, &identity, now.unix),
                None => verify_device(&device.certificate, &identity, now.unix).map(|found| found.device).ok(),
            };
            if let Some(valid) = valid.filter(|valid| *valid != self.device) {
                devices.get_or_insert_with(valid, || device.carriers.as_slice().into());
            }
        }
        let known = self.contacts.remove(&identity);
        let (mut view, shown, old) = match known {
            Some(known) => {
                let is_same_key = known.key == contact.key;
                let mut old = known.devices;
                let stays = |device: &DeviceKey| is_same_key && devices.contains_key(device);
                for topic in old.iter().filter(|(device, _)| !stays(device)).flat_map(|(_, known)| known.topics.values()) {
                    self.gossip.unwatch(now, topic);
                    self.origins.remove(topic);
                }
                old.retain(|device, _| stays(device));
                (known.view, known.shown, old)
            }
            None => (ContactView::new(), Shown::unknown(), FewMap::new()),
        };
        view.retain(|device| devices.contains_key(device));
        let mut known_devices = old;
        for (device, carriers) in devices.iter() {
            let known = KnownDevice { carriers: carriers.clone(), topics: FewMap::new() };
            known_devices.get_or_insert_with(*device, || known).carriers = carriers.clone();
        }
        let count = devices.len();
        let (key, may_pass_on) = (contact.key, contact.may_pass_on);
        self.contacts.insert(identity, Known { key, may_pass_on, devices: known_devices, view, shown, outdated: None });
        self.turn_day(now, identity);
        self.update_peers(now, &identity);
        self.review(now, identity);
        self.drain(now);
        count
    }

    /// No longer sees a contact's presence, nor passes it on. The caller changes the own secret, so that they no longer see ours, and closes
    /// their connections.
    pub fn remove_contact(&mut self, now: Now, identity: &IdentityKey) {
        let Some(known) = self.contacts.remove(identity) else { return };
        for topic in known.devices.values().flat_map(|device| device.topics.values()) {
            self.gossip.unwatch(now, topic);
            self.origins.remove(topic);
        }
        self.losses.forget_contact(identity);
        self.agenda.cancel(&Timer::Day(*identity));
        self.agenda.cancel(&Timer::Lapse(*identity));
        self.update_peers(now, identity);
        self.drain(now);
    }

    /// The carriers that this device uses, preferred first: two or three, near and of different networks.
    pub fn set_carriers(&mut self, now: Now, carriers: Vec<DeviceKey>) {
        self.gossip.set_homes(now, carriers);
        self.drain(now);
    }

    /// A connection is there, and its hello is verified.
    pub fn handle_connected(&mut self, now: Now, peer: Peer) {
        self.peers.insert(peer.device, peer);
        let neighbour = self.neighbour(&peer);
        self.meet(now, &peer.device, peer.identity);
        self.gossip.handle_connected(now, neighbour);
        self.drain(now);
    }

    /// A connection has ended.
    pub fn handle_disconnected(&mut self, now: Now, device: &DeviceKey, reason: DisconnectReason) {
        self.peers.remove(device);
        self.gossip.handle_disconnected(now, device, reason);
        self.drain(now);
    }

    /// A notice has come.
    pub fn handle_frame(&mut self, now: Now, from: &DeviceKey, frame: PresenceGossip) {
        self.gossip.handle_frame(now, from, frame);
        self.drain(now);
    }

    /// A contact's device has a keeper that vouches for it until then; the caller has verified the lease.
    pub fn handle_keeper_lease(&mut self, now: Now, contact: &IdentityKey, device: &DeviceKey, until: UnixTime) {
        if let Some(known) = self.contacts.get_mut(contact) {
            known.view.keep(device, until, now.unix);
            self.review(now, *contact);
        }
    }

    /// The time of [`Presence::poll_timeout`] has come.
    pub fn handle_timeout(&mut self, now: Now) {
        while let Some(timer) = self.agenda.take_due(now.instant) {
            match timer {
                Timer::Publish => self.publish(now),
                Timer::OwnDay => self.turn_own_day(now),
                Timer::Day(identity) => self.turn_day(now, identity),
                Timer::Lapse(identity) => self.review(now, identity),
            }
        }
        self.gossip.handle_timeout(now);
        self.drain(now);
        self.look_again(now);
    }

    /// For simulations with tacit links: says what time it is, before any input. See [`Presence::begin_tacit`].
    pub fn set_clock(&mut self, now: Now) {
        self.gossip.set_clock(now.instant);
    }

    /// For simulations with tacit links: plans heartbeats that take something along, after any input.
    pub fn plan_beats(&mut self) {
        self.gossip.plan_beats();
    }

    /// For simulations, whose driver knows both ends of a connection: empty heartbeats to this neighbour are counted from now on, and not sent; nor are
    /// its own waited for. The same begins at the other end at once. While there are such links, [`Presence::set_clock`] is called before every input,
    /// and [`Presence::plan_beats`] after it.
    pub fn begin_tacit(&mut self, device: &DeviceKey) {
        self.gossip.begin_tacit(device);
    }

    /// For simulations: ends [`Presence::begin_tacit`], because the other end is gone. `heard_at`: when its last heartbeat came.
    pub fn end_tacit(&mut self, device: &DeviceKey, heard_at: Option<Instant>) {
        self.gossip.end_tacit(device, heard_at);
    }

    /// For simulations: when the last heartbeat left for a neighbour that was counted and not sent.
    pub fn last_beat(&mut self, device: &DeviceKey) -> Option<Instant> {
        self.gossip.last_beat(device)
    }

    /// For simulations: brings [`Counters::heartbeats`] up to the time of [`Presence::set_clock`].
    pub fn count_beats(&mut self) {
        self.gossip.count_beats();
    }

    /// What is to be done, in order.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When [`Presence::handle_timeout`] is to be called at the latest.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.agenda.next().into_iter().chain(self.gossip.poll_timeout()).chain(self.losses.poll_timeout()).min()
    }

    /// What is shown of a contact.
    #[must_use]
    pub fn shown(&self, now: Now, contact: &IdentityKey) -> Shown {
        self.contacts.get(contact).map_or_else(Shown::unknown, |known| known.view.shown(now))
    }

    /// The highest sequence of our own that is known: to be kept on disk.
    #[must_use]
    pub const fn sequence(&self) -> u64 {
        self.sequence
    }

    /// What was done, counted.
    #[must_use]
    pub const fn counters(&self) -> Counters {
        self.gossip.counters()
    }

    /// Topics held and neighbours known, for bounds.
    #[must_use]
    pub fn size(&self) -> (usize, usize) {
        self.gossip.size()
    }

    fn neighbour(&self, peer: &Peer) -> Neighbour {
        let contact = self.contacts.get(&peer.identity);
        let is_contact = contact.is_some_and(|known| known.devices.contains_key(&peer.device));
        let is_own = peer.identity == self.local.identity;
        Neighbour { device: peer.device, identity: peer.identity, is_contact, is_carrier: peer.is_carrier, is_own }
    }

    fn update_peers(&mut self, now: Now, identity: &IdentityKey) {
        let peers: Vec<_> = self.peers.values().filter(|peer| peer.identity == *identity).copied().collect();
        for peer in peers {
            let is_contact = self.neighbour(&peer).is_contact;
            self.gossip.set_contact(now, &peer.device, is_contact);
        }
    }

    fn publish_by(&mut self, now: Now, at: Instant) {
        let at = self.published_at.map_or(at, |last| at.max(last + PUBLISH_PAUSE));
        if at <= now.instant {
            self.publish(now);
        } else {
            self.agenda.plan_by(Timer::Publish, at);
        }
    }

    fn publish(&mut self, now: Now) {
        let Some(status) = self.status.clone() else { return };
        self.turn_own_day(now);
        self.sequence = next_sequence(self.sequence, now.unix);
        let document = Document {
            identity: self.local.identity,
            device: self.device,
            sequence: self.sequence,
            issued_at: now.unix,
            expires_at: now.unix.plus_secs(self.config.valid_secs.min(DOCUMENT_SECS_MAX)),
            state: status.state,
            reachability: status.reachability,
            kind: self.local.kind,
            devices: status.devices,
            mood: cut(status.mood, MOOD_BYTES_MAX),
            extensions: Extensions::none(),
        };
        let day = self.secret.key().day(now.unix);
        let nonce = self.rng.random();
        let sealed = SealedDocument::seal(document, &self.local.key, &self.secret, nonce);
        if let (Ok(sealed), Some(topic)) = (sealed, self.own.get(&day)) {
            self.gossip.publish(now, topic, sealed);
        }
        self.published_at = Some(now.instant);
        let refresh = self.config.refresh.mul_f64(self.rng.random_range(0.9..1.0));
        self.agenda.plan(Timer::Publish, now.instant + refresh);
    }

    /// Our topics of today, and of tomorrow or yesterday while clocks may disagree.
    fn turn_own_day(&mut self, now: Now) {
        let key = self.secret.key();
        let days: BTreeSet<_> = key.days(now.unix).collect();
        let is_new_day = self.published_at.is_some() && !self.own.contains_key(&key.day(now.unix));
        for (_, topic) in self.own.extract_if(.., |day, _| !days.contains(day)) {
            self.gossip.remove_own(&topic);
        }
        for day in days {
            if let std::collections::btree_map::Entry::Vacant(entry) = self.own.entry(day) {
                let signer = self.secret.signer(&self.device, day);
                entry.insert(signer.topic());
                self.gossip.add_own(now, signer);
            }
        }
        let next = next_turn(&key, now);
        self.agenda.plan(Timer::OwnDay, next);
        // At the start of a day its topic is empty.
        let start = key.day_start(key.day(now.unix));
        if is_new_day || (self.published_at.is_some() && now.unix.secs_since(start) == 0) {
            self.agenda.plan(Timer::Publish, now.instant + PUBLISH_PAUSE);
        }
    }

    fn turn_day(&mut self, now: Now, identity: IdentityKey) {
        let Some(known) = self.contacts.get_mut(&identity) else { return };
        let days: Vec<_> = known.key.days(now.unix).collect();
        for (device, KnownDevice { carriers, topics }) in &mut known.devices {
            topics.retain(|day, topic| {
                let stays = days.contains(day);
                if !stays {
                    self.gossip.unwatch(now, topic);
                    self.origins.remove(topic);
                }
                stays
            });
            for day in &days {
                let follows = topics.iter().rfind(|(known, _)| *known < day).map(|(_, topic)| *topic);
                let found = topics.get(day).copied().or_else(|| match &self.memo {
                    Some(memo) => memo.topic(&known.key, device, *day),
                    None => known.key.topic(device, *day),
                });
                let Some(topic) = found else { continue };
                topics.get_or_insert_with(*day, || topic);
                self.origins.insert(topic, Origin { contact: identity, device: *device, day: *day });
                let may_pass_on = known.may_pass_on;
                let watch = Watch { device: *device, may_pass_on, carriers: carriers.clone(), follows };
                self.gossip.watch(now, topic, watch);
            }
        }
        let next = next_turn(&known.key, now);
        self.agenda.plan(Timer::Day(identity), next);
    }

    /// Looks at what is shown of a contact, tells of changes, and plans the next look.
    fn review(&mut self, now: Now, identity: IdentityKey) {
        let Some(known) = self.contacts.get_mut(&identity) else { return };
        let shown = known.view.shown(now);
        if shown.differs(&known.shown) {
            known.shown = shown.clone();
            self.actions.push_back(Action::Changed { contact: identity, shown });
        }
        for device in known.view.unasked(now.unix) {
            self.actions.push_back(Action::KeeperLeaseWanted { contact: identity, device });
        }
        match known.view.next_change(now.unix) {
            Some(at) => {
                let wait = Duration::from_secs(at.secs_since(now.unix));
                self.agenda.plan(Timer::Lapse(identity), now.instant + wait);
            }
            None => self.agenda.cancel(&Timer::Lapse(identity)),
        }
    }

    fn drain(&mut self, now: Now) {
        while let Some(output) = self.gossip.poll_output() {
            match output {
                Output::Send { to, frame, is_heartbeat } => {
                    self.actions.push_back(Action::Send { to, frame, is_heartbeat });
                }
                Output::Connect(device) => self.actions.push_back(Action::Connect(device)),
                Output::Release(device) => self.actions.push_back(Action::Release(device)),
                Output::Silent(device) => {
                    self.peers.remove(&device);
                    self.actions.push_back(Action::Silent(device));
                }
                Output::Misbehaved { device, misdeed } => self.actions.push_back(Action::Misbehaved { device, misdeed }),
                Output::Newest { topic, document, way, .. } => self.hear(now, &topic, &document, way),
                Output::Hinted { topic, sequence, witnesses } => self.doubt(now, &topic, sequence, witnesses),
                Output::OwnerLost { topic, sequence, heard_at, is_only_one } => {
                    let Some(origin) = self.origins.get(&topic).copied() else { continue };
                    let Some(known) = self.contacts.get(&origin.contact) else { continue };
                    let sequence = document::inner_sequence(&known.key, origin.day, sequence);
                    self.peers.remove(&origin.device);
                    self.lose(now, (origin.contact, origin.device), sequence, heard_at, is_only_one);
                }
                Output::OwnNewer { topic, sequence } => self.overtake(now, &topic, sequence),
                Output::OwnDoubted => {
                    let at = self.published_at.map_or(now.instant, |last| last + REFUTE_PAUSE);
                    self.publish_by(now, at);
                }
                Output::Resumed => {
                    self.doubt_losses(now);
                    self.publish_by(now, now.instant);
                }
            }
        }
    }

    fn hear(&mut self, now: Now, topic: &Topic, sealed: &SealedDocument, way: Way) {
        let Some(origin) = self.origins.get(topic).copied() else { return };
        let Some(known) = self.contacts.get_mut(&origin.contact) else { return };
        let Ok(document) = sealed.open(&known.key, &origin.contact, &origin.device, (origin.day, topic)) else { return };
        let devices = document.devices;
        if known.view.hear(document, way) {
            let count = known.devices.len() + usize::from(origin.contact == self.local.identity);
            if usize::from(devices) != count && known.outdated != Some(devices) {
                known.outdated = Some(devices);
                self.actions.push_back(Action::ContactOutdated { contact: origin.contact });
            }
            self.review(now, origin.contact);
        }
    }

    fn doubt(&mut self, now: Now, topic: &Topic, sequence: u64, witnesses: usize) {
        let Some(origin) = self.origins.get(topic).copied() else { return };
        let Some(known) = self.contacts.get_mut(&origin.contact) else { return };
        let sequence = document::inner_sequence(&known.key, origin.day, sequence);
        known.view.doubt(&origin.device, sequence, witnesses);
        self.review(now, origin.contact);
    }

    /// Another run of this device has published since: goes on above it.
    fn overtake(&mut self, now: Now, topic: &Topic, sequence: u64) {
        let day = self.own.iter().find(|(_, own)| *own == topic).map(|(day, _)| *day);
        let Some(day) = day else { return };
        let sequence = document::inner_sequence(&self.secret.key(), day, sequence);
        if sequence >= self.sequence {
            self.sequence = sequence;
            self.publish_by(now, now.instant);
        }
    }
}

/// When the set of days listened to changes next.
fn next_turn(key: &PresenceKey, now: Now) -> Instant {
    let day = key.day(now.unix);
    let changes = [day, Day(day.0 + 1)].into_iter().flat_map(|day| {
        let start = key.day_start(day);
        [start.minus_secs(CLOCK_TOLERANCE_SECS), start, start.plus_secs(CLOCK_TOLERANCE_SECS + 1)]
    });
    let next = changes.filter(|at| *at > now.unix).min().unwrap_or(now.unix.plus_secs(3_600));
    now.instant + Duration::from_secs(next.secs_since(now.unix))
}

fn cut(mut text: String, most: usize) -> String {
    let mut end = text.len().min(most);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text
}
