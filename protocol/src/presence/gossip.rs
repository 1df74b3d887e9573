//! One broadcast tree per topic, mended lazily. Knows topics and neighbours, no names and no states.
//!
//! Each node asks, for each topic it wants, *one* neighbour to push documents at once ([`Mode::Push`], its parent), and, unless that is the
//! owner itself or a carrier, another one to tell soon what it has ([`Mode::Soon`]); all others tell when something else goes that way
//! ([`Mode::Ride`]), at the latest with the next heartbeat. So a document goes over each edge of the tree once, a digest of some bytes over
//! one other edge per node, and the rest rides.
//!
//! Whoever is told of a newer document waits a moment for its parent, then asks the teller to push, which becomes the parent: the tree is mended
//! where it broke. It has no cycles: a node's parent is the one that gave it its newest document, or one that had that document and stands no
//! farther from the owner. Distances are nobody's signed word; who lies about them gains a place in a tree, loses it when the first document
//! is missed, and isn't asked again while others are there.
//!
//! Three ways lead to a topic:
//!
//! - The owner, if connected.
//! - A contact of the owner, if both neighbours are contacts of each other and the owner allows passing on. They find out what they share by
//!   tags, which say nothing to who doesn't know the topic.
//! - A carrier: whoever has the role takes documents from owners and names of topics from watchers, and asks the owner's carriers for
//!   what nobody brings to it.
//!
//! # Bounds
//!
//! Per neighbour and topic at most one document is waiting, always the newest; frames to a neighbour are [`Config::pace`] apart. What a neighbour
//! may name, bring and say is bounded per link and in time ([`limits`](self::link)); what is beyond is dropped, and counted.

mod hint;
mod link;
mod receive;
mod rest;
mod tacit;
#[cfg(test)]
mod tests;
mod tree;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::agenda::Agenda;
use super::document::SealedDocument;
use super::memo::Memo;
use super::message::{CARRIERS_MAX, Mode, PresenceGossip};
use super::topic::{Topic, TopicSigner};
use crate::key::{DeviceKey, IdentityKey, PublicKey, SignatureError};
use crate::time::{Now, UnixTime};
use crate::wire::{Body, Signed};
use hint::{HeldHint, Testimony};
use link::Link;
use tacit::Tacit;

/// Two digests of a topic go to a neighbour within this, if it wants them soon.
const COMPANY: Duration = Duration::from_millis(500);

/// How long what can wait waits for company: changes of mode.
const COMPANY_LONG: Duration = Duration::from_millis(900);

/// How long a topic rests before its tree is looked at again.
const SETTLE: Duration = Duration::from_millis(500);

/// A timer that fires this late was slept through: then silence of others proves nothing.
const SLEPT: Duration = Duration::from_secs(5);

/// Neighbours that are lost within this may have been lost with our own connection to the network.
const LOST_TOGETHER: Duration = Duration::from_secs(60);

/// How often what has expired is swept out.
const SWEEP_EVERY: Duration = Duration::from_secs(60);

/// How often topics are swept out of which nothing expires: those of neighbours that went away.
const SWEEP_ALL_EVERY: Duration = Duration::from_secs(600);

/// First pause before a carrier is dialled again; doubled each time, up to [`REDIAL_MAX`].
const REDIAL: Duration = Duration::from_secs(2);

/// Longest pause before a carrier is dialled again.
const REDIAL_MAX: Duration = Duration::from_secs(300);

/// How a node gossips.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Passes on documents of contacts to contacts. A device on battery doesn't.
    pub passes_on: bool,
    /// Serves as carrier.
    pub is_carrier: bool,
    /// Least time between two frames to a neighbour.
    pub pace: Duration,
    /// A neighbour that we have to do with hears something from us this often; if there is nothing to say, an empty frame.
    pub heartbeat: Duration,
    /// A neighbour that we have to do with and that wasn't heard for so long is gone.
    pub silence: Duration,
    /// Most neighbours; more are ignored.
    pub links_max: usize,
    /// Most topics altogether.
    pub topics_max: usize,
    /// Most topics a neighbour may name.
    pub names_max: usize,
}

impl Default for Config {
    /// A person's device: passes on, carries for nobody.
    fn default() -> Self {
        Self {
            passes_on: true,
            is_carrier: false,
            pace: Duration::from_millis(50),
            heartbeat: Duration::from_secs(12),
            // One heartbeat, and what a busy machine or a lost packet may add.
            silence: Duration::from_secs(20),
            links_max: 512,
            // 1,000 contacts with two devices each, on the day when topics change.
            topics_max: 4_096,
            names_max: 4_096,
        }
    }
}

impl Config {
    /// A carrier.
    #[must_use]
    pub fn carrier() -> Self {
        Self { is_carrier: true, links_max: 4_096, topics_max: 262_144, ..Self::default() }
    }
}

/// A neighbour, as the transport and the hello have shown it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Neighbour {
    /// Its device key.
    pub device: DeviceKey,
    /// Its user, verified.
    pub identity: IdentityKey,
    /// Whether we and its user are each other's contacts.
    pub is_contact: bool,
    /// Whether it has the role carrier.
    pub is_carrier: bool,
    /// Whether it is a device of our own user.
    pub is_own: bool,
}

/// A topic we want to hear of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Watch {
    /// The device whose topic it is.
    pub device: DeviceKey,
    /// Whether its owner lets contacts pass it on.
    pub may_pass_on: bool,
    /// Where its owner publishes; at most [`CARRIERS_MAX`] count.
    pub carriers: Arc<[DeviceKey]>,
    /// The device's topic of the day before, if it was watched: the tree is built as that one was, without haste.
    pub follows: Option<Topic>,
}

/// By which way something came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Way {
    /// From the device itself.
    Direct,
    /// From a contact.
    Contact,
    /// From a carrier.
    Carrier,
}

/// Why a neighbour's words were dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Misdeed {
    /// A document, hint or appointment that its topic didn't sign.
    Forged,
    /// More than the limits allow.
    TooMuch,
}

/// What the owner should do, or know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Output {
    /// Send a frame.
    Send { to: DeviceKey, frame: PresenceGossip, is_heartbeat: bool },
    /// Open a connection to a carrier.
    Connect(DeviceKey),
    /// A connection to a carrier is no longer needed here.
    Release(DeviceKey),
    /// A watched topic has a new document.
    Newest { topic: Topic, document: SealedDocument, way: Way, hops: u8 },
    /// Witnesses say that the owner of a watched topic fell silent after the document with this sequence.
    Hinted { topic: Topic, sequence: u64, witnesses: usize },
    /// The owner of a watched topic was a neighbour and fell silent, after the document with this sequence.
    OwnerLost {
        topic: Topic,
        sequence: u64,
        /// When it was heard last.
        heard_at: Instant,
        /// There was no other neighbour whose silence would show that it is us who are cut off.
        is_only_one: bool,
    },
    /// Somebody holds a newer document of an own topic than we do: another run of this device published it.
    OwnNewer { topic: Topic, sequence: u64 },
    /// Witnesses say that we fell silent.
    OwnDoubted,
    /// A neighbour hasn't been heard; the connection is as good as gone.
    Silent(DeviceKey),
    /// A neighbour breaks the rules.
    Misbehaved { device: DeviceKey, misdeed: Misdeed },
    /// This process slept.
    Resumed,
}

/// What a node has done, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Frames sent, heartbeats not counted.
    pub frames: u64,
    /// Heartbeats sent: frames that went because nothing else had, whatever rode with them.
    pub heartbeats: u64,
    /// Documents sent.
    pub documents: u64,
    /// Digests sent.
    pub digests: u64,
    /// Documents received that were new.
    pub received: u64,
    /// Those, by how many had passed them on, the owner included: 1 to 7, and more.
    pub hops: [u64; 8],
    /// Documents received that were known already.
    pub duplicates: u64,
    /// Times a parent was replaced because a document was missed.
    pub grafts: u64,
    /// What was received and dropped: forged.
    pub forged: u64,
    /// What was received and dropped: too much.
    pub excess: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct LinkId(u32);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct TopicId(u32);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Timer {
    /// A frame is to be written.
    Flush(LinkId),
    /// Time for a heartbeat, or to miss the other's.
    Beat(LinkId),
    /// A document that others have should have come.
    Missing(TopicId),
    /// The topic's tree is to be looked at.
    Settle(TopicId),
    /// A carrier is to be dialled.
    Dial(DeviceKey),
    /// What has expired is to be swept out.
    Sweep,
}

/// A neighbour that we asked for a topic.
#[derive(Clone, Copy, Debug)]
struct In {
    link: LinkId,
    slot: u16,
    /// What we asked for.
    mode: Mode,
    /// It has shown that it knows the topic.
    is_known: bool,
    /// It is a carrier: it has the topic from elsewhere, and nothing from us.
    is_carrier: bool,
    /// The newest it has told of.
    sequence: u64,
    /// How far it says it is from the owner.
    hops: u8,
    /// How often it was the parent when a document was missed.
    misses: u8,
}

/// A neighbour that asked us for a topic; or a carrier to which we bring our own.
#[derive(Clone, Copy, Debug)]
struct Out {
    link: LinkId,
    /// Its number; `None` for a carrier that didn't ask.
    slot: Option<u16>,
    mode: Mode,
    /// The newest it is known to have.
    known: u64,
}

#[derive(Clone, Debug)]
struct Held {
    document: SealedDocument,
    sequence: u64,
    hops: u8,
}

#[derive(Clone, Debug)]
struct Missing {
    sequence: u64,
    tried: Vec<LinkId>,
}

#[derive(Debug)]
struct TopicState {
    topic: Topic,
    own: Option<TopicSigner>,
    watch: Option<Watch>,
    /// Carriers that watchers said have it; for carriers.
    upstreams: Vec<DeviceKey>,
    held: Option<Held>,
    parent: Option<LinkId>,
    ins: Vec<In>,
    outs: Vec<Out>,
    missing: Option<Missing>,
    hints: Vec<HeldHint>,
    testimony: Option<Testimony>,
    switch_after: Option<Instant>,
    /// There is no hurry: what is to be said about it rides.
    is_unhurried: bool,
}

impl TopicState {
    fn new(topic: Topic) -> Self {
        Self {
            topic,
            own: None,
            watch: None,
            upstreams: Vec::new(),
            held: None,
            parent: None,
            ins: Vec::new(),
            outs: Vec::new(),
            missing: None,
            hints: Vec::new(),
            testimony: None,
            switch_after: None,
            is_unhurried: false,
        }
    }

    fn sequence(&self) -> u64 {
        self.held.as_ref().map_or(0, |held| held.sequence)
    }

    /// Distance from the owner; the farthest while there is no document.
    fn hops(&self) -> u8 {
        if self.own.is_some() { 0 } else { self.held.as_ref().map_or(u8::MAX, |held| held.hops) }
    }

    fn find_in(&mut self, link: LinkId) -> Option<&mut In> {
        self.ins.iter_mut().find(|entry| entry.link == link)
    }

    fn find_out(&mut self, link: LinkId) -> Option<&mut Out> {
        self.outs.iter_mut().find(|entry| entry.link == link)
    }

    fn carriers(&self) -> &[DeviceKey] {
        match &self.watch {
            Some(watch) if self.upstreams.is_empty() => &watch.carriers,
            _ => &self.upstreams,
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Dial {
    pause: Duration,
}

/// The state machine. Contract as in the [parent module](super).
#[derive(Debug)]
pub(super) struct Gossip {
    config: Config,
    local: DeviceKey,
    rng: ChaCha8Rng,
    topics: Vec<Option<TopicState>>,
    topic_ids: BTreeMap<Topic, TopicId>,
    free_topics: Vec<TopicId>,
    own: BTreeSet<TopicId>,
    links: Vec<Option<Box<Link>>>,
    link_ids: HashMap<DeviceKey, LinkId>,
    free_links: Vec<LinkId>,
    /// Carriers that this device uses.
    homes: Vec<DeviceKey>,
    /// How many topics need a carrier that isn't one of ours.
    upstream_users: BTreeMap<DeviceKey, usize>,
    dials: BTreeMap<DeviceKey, Dial>,
    /// Numbers of witnesses, by person.
    witness_numbers: BTreeMap<IdentityKey, u16>,
    agenda: Agenda<Timer>,
    /// When a neighbour was last lost without a word.
    lost_at: Option<Instant>,
    outputs: VecDeque<Output>,
    counters: Counters,
    memo: Option<Arc<Memo>>,
    tacit: Tacit,
    /// No document ends before.
    next_end: UnixTime,
    swept_at: Instant,
}

impl Gossip {
    pub(super) fn new(config: Config, local: DeviceKey, seed: [u8; 32], now: Instant) -> Self {
        let mut gossip = Self {
            config,
            local,
            rng: ChaCha8Rng::from_seed(seed),
            topics: Vec::new(),
            topic_ids: BTreeMap::new(),
            free_topics: Vec::new(),
            own: BTreeSet::new(),
            links: Vec::new(),
            link_ids: HashMap::new(),
            free_links: Vec::new(),
            homes: Vec::new(),
            upstream_users: BTreeMap::new(),
            dials: BTreeMap::new(),
            witness_numbers: BTreeMap::new(),
            agenda: Agenda::default(),
            lost_at: None,
            outputs: VecDeque::new(),
            counters: Counters::default(),
            memo: None,
            tacit: Tacit::new(now),
            next_end: UnixTime(u64::MAX),
            swept_at: now,
        };
        gossip.arm(Timer::Sweep, now + SWEEP_EVERY);
        gossip
    }

    pub(super) fn set_memo(&mut self, memo: Arc<Memo>) {
        self.memo = Some(memo);
    }

    /// The content of something signed, if the signature holds.
    fn verified<'a, T: Body>(&self, object: &'a Signed<T>, key: &PublicKey) -> Result<&'a T, SignatureError> {
        match &self.memo {
            Some(memo) => memo.verify(object, key),
            None => object.verify(key),
        }
    }

    pub(super) const fn counters(&self) -> Counters {
        self.counters
    }

    pub(super) fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.agenda.next()
    }

    /// Whether a neighbour that lives has shown since `at` that we aren't cut off: had its heartbeats got lost, it would be gone by then.
    pub(super) fn is_heard_after(&self, at: Instant) -> bool {
        self.links.iter().flatten().any(|link| link.heard_at > at + self.config.heartbeat)
    }

    /// How many topics are held, and how many neighbours.
    pub(super) fn size(&self) -> (usize, usize) {
        (self.topic_ids.len(), self.link_ids.len())
    }

    /// Starts to publish under a topic.
    pub(super) fn add_own(&mut self, now: Now, signer: TopicSigner) {
        let Some(id) = self.topic_or_new(signer.topic()) else { return };
        self.state(id).own = Some(signer);
        self.own.insert(id);
        for link in self.link_list() {
            self.offer(now.instant, id, link);
        }
    }

    /// A new document of our own.
    pub(super) fn publish(&mut self, now: Now, topic: &Topic, document: SealedDocument) {
        let Some(id) = self.topic_ids.get(topic).copied() else { return };
        if self.state(id).own.is_none() || self.state(id).sequence() >= document.sequence() {
            return;
        }
        self.keep(now, id, document, 0, None);
    }

    /// Stops publishing under a topic. What is out there expires.
    pub(super) fn remove_own(&mut self, topic: &Topic) {
        if let Some(id) = self.topic_ids.get(topic).copied() {
            self.own.remove(&id);
            self.state(id).own = None;
            self.withhold(id);
            self.forget_topic(id);
        }
    }

    /// Wants to hear of a topic from now on, or otherwise than before.
    pub(super) fn watch(&mut self, now: Now, topic: Topic, watch: Watch) {
        let Some(id) = self.topic_or_new(topic) else { return };
        let mut watch = watch;
        if watch.carriers.len() > CARRIERS_MAX {
            watch.carriers = watch.carriers[..CARRIERS_MAX].into();
        }
        let same = |known: &Watch| Watch { follows: watch.follows, ..known.clone() } == watch;
        if self.state(id).watch.as_ref().is_some_and(same) {
            return;
        }
        self.state(id).is_unhurried = watch.follows.is_some();
        if self.state(id).watch.is_some() {
            self.leave_links(id);
        }
        if !watch.may_pass_on {
            self.withhold(id);
        }
        self.upstreams_changed(id, |state| state.watch = Some(watch), Some(now.instant));
        for link in self.link_list() {
            self.introduce(now.instant, id, link);
            self.offer(now.instant, id, link);
        }
        self.settle_soon(id, now.instant);
    }

    /// Serves a topic to no contact any more: its owner forbids it, or isn't ours.
    fn withhold(&mut self, id: TopicId) {
        for link in self.link_list() {
            if !self.link(link).peer.is_contact {
                continue;
            }
            if let Some(slot) = self.state(id).find_out(link).and_then(|out| out.slot) {
                self.state(id).outs.retain(|out| out.link != link);
                self.link(link).theirs.remove(&slot);
            }
            self.link(link).forget_tags(id);
        }
    }

    /// No longer wants to hear of a topic.
    pub(super) fn unwatch(&mut self, now: Now, topic: &Topic) {
        let Some(id) = self.topic_ids.get(topic).copied() else { return };
        self.leave_links(id);
        if self.state(id).own.is_none() {
            self.withhold(id);
        }
        self.upstreams_changed(id, |state| state.watch = None, Some(now.instant));
        if self.state(id).outs.is_empty() {
            self.forget_topic(id);
        }
    }

    /// The carriers that this device uses, preferred first.
    pub(super) fn set_homes(&mut self, now: Now, homes: Vec<DeviceKey>) {
        let homes: Vec<_> = homes.into_iter().filter(|home| *home != self.local).take(CARRIERS_MAX).collect();
        if homes == self.homes {
            return;
        }
        let left: Vec<_> = self.homes.iter().filter(|home| !homes.contains(home)).copied().collect();
        self.homes = homes;
        for home in left {
            self.leave_home(home, now.instant);
        }
        for home in self.homes.clone() {
            match self.link_ids.get(&home).copied() {
                Some(link) => self.enter_home(now.instant, link),
                None => self.want_connection(home, now.instant),
            }
        }
        self.settle_all(now.instant);
    }

    /// Something that was due has come.
    pub(super) fn handle_timeout(&mut self, now: Now) {
        self.notice_sleep(now);
        while let Some(timer) = self.agenda.take_due(now.instant) {
            match timer {
                Timer::Flush(link) => self.flush(link, now, false),
                Timer::Beat(link) => self.beat(link, now),
                Timer::Missing(topic) => self.graft(topic, now),
                Timer::Settle(topic) => self.settle(topic, now.instant),
                Timer::Dial(device) => self.dial(device, now.instant),
                Timer::Sweep => self.sweep(now),
            }
        }
    }

    /// If a timer is long overdue this process wasn't running: the silence of others proves nothing, and they may have taken us for gone.
    fn notice_sleep(&mut self, now: Now) {
        // What is overdue is planned for now, so that this is noticed once.
        if !self.agenda.catch_up(now.instant, SLEPT) {
            return;
        }
        for link in self.links.iter_mut().flatten() {
            link.heard_at = now.instant;
            link.asked_at = link.asked_at.map(|_| now.instant);
        }
        self.outputs.push_back(Output::Resumed);
    }

    /// Wants `timer` to fire at `at`, unless it fires before.
    fn arm(&mut self, timer: Timer, at: Instant) {
        self.agenda.plan_by(timer, at);
    }

    fn disarm(&mut self, timer: Timer) {
        self.agenda.cancel(&timer);
    }

    /// The state of a topic that exists: ids are handed out here, and taken back from everywhere when it goes.
    fn state(&mut self, id: TopicId) -> &mut TopicState {
        self.topics.get_mut(id.0 as usize).and_then(Option::as_mut).expect("ids are of topics that exist")
    }

    /// The same for links.
    fn link(&mut self, id: LinkId) -> &mut Link {
        let link = self.links.get_mut(id.0 as usize).and_then(Option::as_mut).expect("ids are of links that exist");
        if link.is_tacit {
            self.counters.heartbeats += self.tacit.touch(id, link, self.config.heartbeat);
        }
        link
    }

    fn has_topic(&self, id: TopicId) -> bool {
        self.topics.get(id.0 as usize).is_some_and(Option::is_some)
    }

    fn has_link(&self, id: LinkId) -> bool {
        self.links.get(id.0 as usize).is_some_and(Option::is_some)
    }

    /// All links, in the order of devices: the same in every run.
    fn link_list(&self) -> Vec<LinkId> {
        let mut links: Vec<_> = self.link_ids.iter().map(|(device, id)| (*device, *id)).collect();
        links.sort_unstable();
        links.into_iter().map(|(_, id)| id).collect()
    }

    fn topic_or_new(&mut self, topic: Topic) -> Option<TopicId> {
        if let Some(id) = self.topic_ids.get(&topic) {
            return Some(*id);
        }
        if self.topic_ids.len() >= self.config.topics_max {
            self.counters.excess += 1;
            return None;
        }
        let id = self.free_topics.pop().unwrap_or_else(|| {
            self.topics.push(None);
            TopicId(u32::try_from(self.topics.len() - 1).unwrap_or(u32::MAX))
        });
        self.topics[id.0 as usize] = Some(TopicState::new(topic));
        self.topic_ids.insert(topic, id);
        Some(id)
    }

    /// Removes a topic that nobody here has to do with, with all that points to it.
    fn forget_topic(&mut self, id: TopicId) {
        if self.state(id).watch.is_some() || self.state(id).own.is_some() {
            return;
        }
        self.leave_links(id);
        self.upstreams_changed(id, |state| state.upstreams.clear(), None);
        let state = self.state(id);
        let topic = state.topic;
        for out in std::mem::take(&mut state.outs) {
            if let Some(slot) = out.slot {
                self.link(out.link).theirs.remove(&slot);
            }
        }
        for link in self.links.iter_mut().flatten() {
            link.forget_topic(id);
        }
        self.disarm(Timer::Missing(id));
        self.disarm(Timer::Settle(id));
        self.topic_ids.remove(&topic);
        self.topics[id.0 as usize] = None;
        self.free_topics.push(id);
    }

    fn sweep(&mut self, now: Now) {
        self.arm(Timer::Sweep, now.instant + SWEEP_EVERY);
        if now.unix < self.next_end && now.instant < self.swept_at + SWEEP_ALL_EVERY {
            return;
        }
        self.swept_at = now.instant;
        self.next_end = UnixTime(u64::MAX);
        let ids: Vec<_> = self.topic_ids.values().copied().collect();
        for id in ids {
            let state = self.state(id);
            if state.held.as_ref().is_some_and(|held| held.document.expires_at() <= now.unix) {
                state.held = None;
                state.hints.clear();
                self.doubt_carrier(id, now.instant);
            }
            let end = self.state(id).held.as_ref().map_or(UnixTime(u64::MAX), |held| held.document.expires_at());
            self.next_end = self.next_end.min(end);
            let state = self.state(id);
            let is_idle = state.own.is_none() && state.watch.is_none() && state.outs.is_empty();
            if is_idle && state.held.is_none() {
                self.forget_topic(id);
            }
        }
    }
}
