//! The directory's state machine as a [`Machine`], and the world its nodes live in.
//!
//! What the daemon's event loop does for a [`Directory`], [`DirectoryNode`] does here: hellos ride with the first message of a connection,
//! neighbours are kept connected, the own record is published after joining and its lease renewed. Attackers are the same node with another
//! [`Behaviour`].

mod behaviour;
pub mod calibration;
pub mod picture;
pub mod rows;
pub mod soak;
pub mod swarm;
mod world;

pub use behaviour::{Behaviour, Lie, Ring};
pub use world::{Identity, World, descriptor_of, secret};

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use halloo_protocol::directory::RecordKey;
use halloo_protocol::kademlia::{
    Action, Answer, Config, Connected, Directory, DisconnectReason, Event, Failure, FindOptions, LocalNode, Mode, NetworkGroup,
    QueryId, Reply, Request, RequestId, RequestSource,
};
use halloo_protocol::node::{Descriptor, Roles};
use halloo_protocol::time::Now;
use halloo_protocol::wire::FrameKind;

use crate::machine::{Closed, Input, Kind, Machine, NodeId, Outbox};

/// Most neighbours kept connected, as in the daemon.
const KEPT_MAX: usize = 8;

/// How soon after a change neighbours are chosen anew, as in the daemon.
const KEEP_EVERY: Duration = Duration::from_secs(5);

/// When a lease is renewed: at half its time, as in the daemon.
const LEASE_RENEWAL: Duration = Duration::from_secs(1_800);

/// A join that met nobody is tried again after this.
const JOIN_AGAIN: Duration = Duration::from_secs(10);

/// The hello's kind, for counting: it rides in front of a connection's first message.
pub const HELLO: Kind = Kind(FrameKind::NOTICE | 1);

/// What directory nodes send each other.
#[derive(Debug)]
pub struct Message {
    /// The sender's hello rides in front: the first message of a connection.
    pub has_hello: bool,
    /// The rest.
    pub body: Body,
}

/// What a message says.
#[derive(Debug)]
pub enum Body {
    /// "This is me"; alone where a connection is kept and nothing was asked yet.
    Hello,
    /// A question, and its number.
    Request(RequestId, Request),
    /// Its answer.
    Reply(RequestId, Reply),
}

/// What a node's process leaves on disk.
#[derive(Clone, Debug, Default)]
pub struct Left {
    /// Its address book.
    pub book: Vec<Arc<Descriptor>>,
    /// The records that it keeps for others, encoded; equal ones are in memory once.
    pub records: Vec<(RecordKey, Arc<[u8]>)>,
}

/// When a starting node does what it does then.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Starting {
    /// How long after its start a server begins to serve, unless it is the first: it joins as a client until then, though it says that it serves, as the daemon of a lab does.
    pub serves_after: Duration,
    /// How long after its start it publishes at the earliest.
    pub publishes_after: Duration,
    /// How long after its publication it reads its record back.
    pub reads_back_after: Duration,
}

/// How a node of the simulation is set up.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Its directory's settings.
    pub config: Config,
    /// Whether it serves.
    pub is_serving: bool,
    /// When it does what a start brings.
    pub starting: Starting,
    /// Whether it publishes its record after joining and renews its lease.
    pub publishes: bool,
    /// Who it knows at the start.
    pub knows: Vec<NodeId>,
    /// What an earlier run left on its disk.
    pub left: Left,
    /// What it does to others.
    pub behaviour: Behaviour,
}

/// A directory node and its owner.
#[derive(Debug)]
pub struct DirectoryNode {
    me: NodeId,
    setup: Setup,
    /// The production state machine.
    pub directory: Directory,
    greeted: BTreeSet<NodeId>,
    kept: BTreeSet<NodeId>,
    keep_at: Option<Instant>,
    join: Option<QueryId>,
    join_at: Option<Instant>,
    serve_at: Option<Instant>,
    publish_from: Option<Instant>,
    publishing: Option<QueryId>,
    read_back_at: Option<Instant>,
    reading_back: Option<QueryId>,
    is_ready: bool,
    lease_at: Option<Instant>,
    leases: u64,
    sequence: u64,
}

impl DirectoryNode {
    /// A node with the identity of number `me`; `seed` feeds its directory.
    #[must_use]
    pub fn new(world: &World, me: NodeId, setup: Setup, seed: [u8; 32], now: Now) -> Self {
        let identity = world.identity(me);
        let is_first = setup.knows.is_empty();
        let is_serving = setup.is_serving && (is_first || setup.starting.serves_after.is_zero());
        let local = LocalNode { device: identity.chain.device, place: identity.chain.place, is_serving };
        let directory = Directory::new(setup.config.clone(), local, seed, now.instant);
        Self {
            me,
            setup,
            directory,
            greeted: BTreeSet::new(),
            kept: BTreeSet::new(),
            keep_at: None,
            join: None,
            join_at: None,
            serve_at: None,
            publish_from: None,
            publishing: None,
            read_back_at: None,
            reading_back: None,
            is_ready: false,
            lease_at: None,
            leases: 0,
            sequence: 0,
        }
    }

    /// Its process has ended: what is on disk is all that is left, and all that takes memory.
    pub fn pack_up(&mut self, world: &mut World, book_max: usize, now: Now) {
        let records = self.directory.records().map(|(key, bytes)| (key, world.on_disk(key, bytes))).collect();
        self.setup.left = Left { book: self.directory.known(book_max), records };
        *self = Self::new(world, self.me, self.setup.clone(), [0; 32], now);
    }

    /// Takes what an earlier run left.
    #[must_use]
    pub fn take_left(&mut self) -> Left {
        std::mem::take(&mut self.setup.left)
    }

    /// What it does to others; may be changed while it runs.
    pub const fn behaviour_mut(&mut self) -> &mut Behaviour {
        &mut self.setup.behaviour
    }

    /// What it does to others.
    #[must_use]
    pub const fn behaviour(&self) -> &Behaviour {
        &self.setup.behaviour
    }

    /// Whether it serves.
    #[must_use]
    pub const fn is_serving(&self) -> bool {
        self.setup.is_serving
    }

    /// Looks a record up; the node reports [`Event::Found`].
    pub fn find(&mut self, world: &World, now: Now, key: RecordKey, options: FindOptions, out: &mut Outbox<Self>) -> QueryId {
        let query = self.directory.find_record(now, key, options);
        self.drain(world, now, out);
        query
    }

    /// Publishes the node's own record with a new entry; it reports [`Event::Published`].
    pub fn publish(&mut self, world: &mut World, now: Now, out: &mut Outbox<Self>) -> QueryId {
        // The first number is above those of earlier runs, as a daemon's database would see to.
        self.sequence = world.next_sequence(self.me);
        self.leases += 1;
        let record = world.sign_record(self.me, self.sequence, self.leases, now.unix);
        let query = self.directory.publish(now, record);
        self.publishing = Some(query);
        self.lease_at = Some(now.instant + LEASE_RENEWAL);
        self.drain(world, now, out);
        query
    }

    /// Renews the lease of the node's own record now.
    pub fn refresh(&mut self, world: &mut World, now: Now, out: &mut Outbox<Self>) {
        self.renew_lease(world, now);
        self.drain(world, now, out);
    }

    fn renew_lease(&mut self, world: &mut World, now: Now) {
        self.leases += 1;
        self.lease_at = Some(now.instant + LEASE_RENEWAL);
        let key = world.identity(self.me).key;
        let entry = self.directory.own_record(&key).and_then(|record| record.entries().next().cloned());
        if let Some(entry) = entry {
            let lease = world.sign_lease(self.me, &entry.entry, self.leases, now.unix);
            self.directory.renew_lease(now, key, None, lease);
        }
    }

    fn join(&mut self, now: Now) {
        self.join_at = None;
        self.join = Some(self.directory.bootstrap(now));
    }

    fn start(&mut self, world: &World, now: Now) {
        let known: Vec<_> = self.setup.knows.iter().map(|node| Arc::clone(&world.identity(*node).descriptor)).collect();
        let left = self.take_left();
        self.directory.restore(now, &world.trust, left.records);
        self.directory.add_hearsay(now, known.into_iter().chain(left.book));
        self.publish_from = Some(now.instant + self.setup.starting.publishes_after);
        if self.setup.is_serving && !self.directory.local().is_serving {
            self.serve_at = Some(now.instant + self.setup.starting.serves_after);
        }
        self.join(now);
    }

    /// Does what the directory wants.
    fn drain(&mut self, world: &World, now: Now, out: &mut Outbox<Self>) {
        while let Some(action) = self.directory.poll_action() {
            match action {
                Action::Send { to, id, request } => match world.node_of(&to.device) {
                    Some(node) => {
                        let bytes = request.frame_len(1);
                        self.say(world, node, Kind(request.kind().0), bytes, Body::Request(id, request), out);
                    }
                    None => out.dial_nobody(),
                },
                Action::Persist { .. } | Action::Forget { .. } => {}
                Action::Event(Event::Found { query, .. }) if self.reading_back == Some(query) => self.reading_back = None,
                Action::Event(event) => {
                    self.note(world, now, &event);
                    out.event(event);
                }
            }
        }
    }

    fn note(&mut self, world: &World, now: Now, event: &Event) {
        match event {
            Event::Bootstrapped { query, servers } if self.join == Some(*query) => {
                self.join = None;
                if *servers == 0 && !self.setup.knows.is_empty() {
                    self.join_at = Some(now.instant + JOIN_AGAIN);
                } else if self.setup.publishes && self.publishing.is_none() {
                    // The owner's next turn.
                    self.lease_at = Some(self.publish_from.map_or(now.instant, |from| from.max(now.instant)));
                }
            }
            Event::Published { report, .. } if report.accepted > 0 && !self.is_ready => {
                // As a daemon does before it calls itself ready: through others, once.
                self.is_ready = true;
                match self.setup.starting.reads_back_after {
                    Duration::ZERO => self.read_back(world, now),
                    later => self.read_back_at = Some(now.instant + later),
                }
            }
            _ => {}
        }
    }

    /// Begins to serve, and says hello again to those connected: some have asked it before, in vain.
    fn serve(&mut self, world: &World, now: Now, out: &mut Outbox<Self>) {
        let local = *self.directory.local();
        self.directory.set_local(now, LocalNode { is_serving: true, ..local });
        let hello_bytes = world.identity(self.me).hello_bytes;
        for peer in &self.greeted {
            out.send(*peer, HELLO, hello_bytes, Message { has_hello: true, body: Body::Hello });
        }
    }

    fn read_back(&mut self, world: &World, now: Now) {
        let options = FindOptions { mode: Mode::First, is_remote_only: true };
        self.reading_back = Some(self.directory.find_record(now, world.identity(self.me).key, options));
    }

    fn say(&mut self, world: &World, to: NodeId, kind: Kind, bytes: usize, body: Body, out: &mut Outbox<Self>) {
        let has_hello = self.greeted.insert(to);
        let hello = if has_hello { world.identity(self.me).hello_bytes } else { 0 };
        out.send(to, kind, bytes + hello, Message { has_hello, body });
    }

    /// Reads the hello that rides with a connection's first message.
    fn meet(&mut self, world: &World, now: Now, peer: NodeId) {
        let identity = world.identity(peer);
        let descriptor = if world.is_serving(peer) { Arc::clone(&identity.descriptor) } else { Arc::clone(&identity.client) };
        // A refusal is counted by the directory.
        let _ = self.directory.handle_hello(now, &identity.chain, descriptor);
        self.keep_at.get_or_insert(now.instant + KEEP_EVERY);
    }

    /// What the node answers to a request of `from`; `None` is silence.
    pub fn reply_to(&mut self, world: &World, now: Now, from: NodeId, request: Request) -> Option<Reply> {
        let identity = world.identity(from);
        let source =
            RequestSource { device: identity.chain.device, network_group: NetworkGroup::of_descriptor(&identity.descriptor) };
        let behaviour = self.setup.behaviour.clone();
        if behaviour.swallows(&request) {
            return behaviour.lie(world, now, self.me, &request, None);
        }
        let lie_wanted = behaviour.is_lying().then(|| request.clone());
        let honest = self.directory.handle_request(now, &world.trust, source, request);
        match lie_wanted {
            Some(request) => behaviour.lie(world, now, self.me, &request, Some(honest)),
            None => Some(honest),
        }
    }

    fn read(&mut self, world: &World, now: Now, from: NodeId, body: Body, out: &mut Outbox<Self>) {
        match body {
            Body::Hello => {
                if !self.greeted.contains(&from) {
                    self.say(world, from, HELLO, 0, Body::Hello, out);
                }
            }
            Body::Request(id, request) => {
                if let Some(reply) = self.reply_to(world, now, from, request) {
                    let (kind, bytes) = reply.frame_kind_and_len(1);
                    self.say(world, from, Kind(kind.0), bytes, Body::Reply(id, reply), out);
                }
            }
            Body::Reply(id, reply) => {
                let answer: Result<Answer, Failure> = match reply {
                    Reply::Answer(answer) => Ok(answer),
                    Reply::Busy => Err(Failure::Busy),
                    Reply::Unsupported => Err(Failure::Unsupported),
                };
                self.directory.handle_answer(now, &world.trust, id, answer);
            }
        }
    }

    fn keep_neighbours(&mut self, world: &World, out: &mut Outbox<Self>) {
        let wanted: BTreeSet<NodeId> =
            self.directory.neighbours().iter().take(KEPT_MAX).filter_map(|near| world.node_of(&near.device)).collect();
        for gone in self.kept.difference(&wanted) {
            out.keep(*gone, false);
        }
        for node in &wanted {
            out.dial(*node);
            out.keep(*node, true);
        }
        self.kept = wanted;
    }

    fn timeout(&mut self, world: &mut World, now: Now, out: &mut Outbox<Self>) {
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= now.instant);
        self.directory.handle_timeout(now);
        if is_due(self.join_at) {
            self.join(now);
        }
        if is_due(self.serve_at) {
            self.serve_at = None;
            self.serve(world, now, out);
        }
        if is_due(self.read_back_at) {
            self.read_back_at = None;
            self.read_back(world, now);
        }
        if is_due(self.lease_at) {
            if self.publishing.is_some() {
                self.renew_lease(world, now);
            } else {
                self.publish(world, now, out);
            }
        }
        if is_due(self.keep_at) {
            self.keep_at = None;
            self.keep_neighbours(world, out);
        }
    }
}

impl Machine for DirectoryNode {
    type Message = Message;
    type Event = Event;
    type World = World;

    fn handle(&mut self, world: &mut World, now: Now, input: Input<Message>, out: &mut Outbox<Self>) {
        match input {
            Input::Start => self.start(world, now),
            Input::Timeout => self.timeout(world, now, out),
            Input::Connected { peer, is_dialler, .. } => {
                let connected = Connected { device: world.identity(peer).chain.device, rtt: None, is_relayed: false };
                self.directory.handle_connected(now, connected);
                if self.kept.contains(&peer) {
                    out.keep(peer, true);
                }
                if is_dialler && !self.greeted.contains(&peer) {
                    self.say(world, peer, HELLO, 0, Body::Hello, out);
                }
            }
            Input::Disconnected { peer, reason } => {
                self.greeted.remove(&peer);
                let reason = match reason {
                    Closed::Idle => DisconnectReason::Idle,
                    Closed::Lost => DisconnectReason::Lost,
                    Closed::Left => DisconnectReason::Left,
                };
                self.directory.handle_disconnected(now, &world.identity(peer).chain.device, reason);
                self.keep_at.get_or_insert(now.instant + KEEP_EVERY);
            }
            Input::DialFailed { peer } => {
                self.greeted.remove(&peer);
                self.directory.handle_disconnected(now, &world.identity(peer).chain.device, DisconnectReason::Lost);
                self.keep_at.get_or_insert(now.instant + KEEP_EVERY);
            }
            Input::Message { from, message } => {
                if message.has_hello {
                    self.meet(world, now, from);
                }
                self.read(world, now, from, message.body, out);
            }
        }
        self.drain(world, now, out);
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let own = [self.keep_at, self.lease_at, self.join_at, self.serve_at, self.read_back_at];
        own.into_iter().chain([self.directory.poll_timeout()]).flatten().min()
    }
}

/// A server's and a client's roles.
#[must_use]
pub const fn roles(is_serving: bool) -> Roles {
    if is_serving { Roles::DIRECTORY } else { Roles(0) }
}
