//! The directory from the node's side: drives the state machine, keeps our own record published, resolves names.
//!
//! The deciding is `halloo_protocol::kademlia`'s. Here its requests become frames, its records go to disk, and its events reach whoever asked:
//! commands, dials, messages ([`Waiter`]). What was found is cached in memory and on disk, so that people we talk to are found again without a
//! look-up, also after a restart.

mod own;
mod resolve;

pub(crate) use resolve::kind_word;

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use halloo_protocol::directory::{
    DEVICE_NAME_BYTES_MAX, DeviceEntry, DirectoryRecord, ENTRY_SECS_MAX, EntryParts, Lease, PrivatePart, Reachability,
    RecordError, RecordKey, SealKey, UnverifiedRecord,
};
use halloo_protocol::identity::{ChainError, UserId, VerifiedChain};
use halloo_protocol::kademlia::{
    Action, Answer, Config, Connected, Directory, DisconnectReason, Event as KadEvent, Failure as KadFailure, FindOptions,
    FindOutcome, FindResult, LocalNode, Mode, QueryId, Reply as KadReply, Request, RequestId, RequestSource,
};
use halloo_protocol::key::DeviceKey;
use halloo_protocol::node::{Descriptor, Roles};
use halloo_protocol::time::{Now, UnixTime};
use halloo_protocol::wire::{self, Extensions, Frame, FrameKind, Signed};
use libp2p::swarm::ConnectionId;
use libp2p::{Multiaddr, PeerId};
use tracing::{debug, info, warn};

use crate::address;
use crate::calls::describe;
use crate::event_loop::EventLoop;
use crate::handle::directory::{DeviceReachability, ResolveError, ResolveOptions, ResolveSource, Resolved, ResolvedDevice};
use crate::handle::events::Ready;
use crate::handle::network::{Explanation, NetworkError, WhyError};
use crate::handle::totals::{Publication, Renewal};
use crate::handle::{Event, Reply};
use crate::network::{Peer, Purpose, Target};
use crate::rpc::{self, Failure};
use crate::store::{KnownNode, Pinned, ReplicaChange, StoreError};
use crate::streams::Keeper;

/// How often a node without servers tries its ways into the network again.
const JOIN_RETRY: Duration = Duration::from_secs(3);

/// Pause after a join that met no server, doubled with every further one until it is 16 s.
const JOIN_AGAIN: Duration = Duration::from_millis(250);
const JOIN_AGAIN_DOUBLINGS: u32 = 6;

/// How long after the start look-ups wait for the first join: who has just switched a node on, and calls, isn't told that there is no network.
const FIRST_JOIN: Duration = JOIN_RETRY;

/// How often what the state machine wants on disk is written.
const FLUSH_EVERY: Duration = Duration::from_millis(500);

/// Most changes written at once.
const FLUSH_MAX: usize = 1_024;

/// Neighbours kept connected, so that their deaths are noticed.
const KEPT_MAX: usize = 8;

/// How often the neighbours to keep are chosen anew.
const KEEP_EVERY: Duration = Duration::from_secs(5);

/// Address-book entries taken at the start.
const KNOWN_NODES_MAX: usize = 256;

/// Extension of an entry: a sealed part of epoch 0, which opens for everybody who knows the name.
const OPEN_PART: u16 = 0x0001;

const SEQUENCE: &str = "entry sequence";
const LEASE_NUMBER: &str = "lease number";

/// Who waits for a look-up.
#[derive(Debug)]
pub(crate) enum Waiter {
    /// `resolve`.
    Command(ResolveOptions, Reply<Resolved, ResolveError>),
    /// `why`.
    Why(String, Reply<Explanation, WhyError>),
    /// A call.
    Dial(halloo_protocol::call::CallId),
    /// A call whose invite this device couldn't open.
    Redial(crate::calls::InviteTarget),
    /// A call to a device that isn't where its record says.
    Moved(crate::calls::InviteTarget),
    /// A call that goes on with a cached record meanwhile.
    DialAgain(halloo_protocol::call::CallId),
    /// Messages to this user.
    Messages,
    /// Messages to this user, whose record has another key than they are for: what one replica says may be what we had, so all are asked.
    MessagesAgain,
    /// A contact's presence.
    Presence,
    /// Somebody who is being added to the contact list.
    Contact(Box<crate::contacts::Adding>),
    /// What is done with own devices.
    Devices(Box<crate::devices::DevicesTask>),
    /// Somebody who is being added to a group.
    Group(Box<crate::groups::GroupAdding>),
}

#[derive(Debug)]
struct Job {
    user: UserId,
    waiters: Vec<Waiter>,
}

#[derive(Clone, Debug)]
struct Cached {
    record: DirectoryRecord,
    fetched: UnixTime,
}

/// Our own entry and how far its publication is.
#[derive(Debug, Default)]
struct Own {
    sequence: u64,
    lease_number: u64,
    entry: Option<Signed<DeviceEntry>>,
    publish_at: Option<Instant>,
    publishing: Option<QueryId>,
    lease_at: Option<Instant>,
    read_back: Option<QueryId>,
    read_back_at: Option<Instant>,
    replicas: u32,
    /// Who waits for the next publication, and for the one that runs.
    publish_waiters: Vec<Reply<Publication, NetworkError>>,
    publishing_waiters: Vec<Reply<Publication, NetworkError>>,
    lease_waiters: Vec<(QueryId, Reply<Renewal, NetworkError>)>,
}

/// The directory's state in a node.
#[derive(Debug)]
pub(crate) struct DirectoryState {
    pub(crate) machine: Directory,
    jobs: HashMap<QueryId, Job>,
    /// Look-ups that had nobody to ask yet, for as long as [`FIRST_JOIN`].
    early: Vec<Job>,
    cache: HashMap<RecordKey, Cached>,
    own: Own,
    unwritten: Vec<ReplicaChange>,
    unwritten_nodes: HashMap<DeviceKey, KnownNode>,
    flush_at: Option<Instant>,
    join_at: Option<Instant>,
    /// Joins in a row that met no server.
    empty_joins: u32,
    bootstrapped: bool,
    bootstrapping: Option<QueryId>,
    kept: HashSet<PeerId>,
    keep_at: Instant,
    warned_alone: bool,
}

impl DirectoryState {
    pub(crate) fn new(local: LocalNode, is_lab: bool, seed: [u8; 32], own: (u64, u64), now: Now) -> Self {
        let config = Config { is_lab, ..Config::default() };
        Self {
            machine: Directory::new(config, local, seed, now.instant),
            jobs: HashMap::new(),
            early: Vec::new(),
            cache: HashMap::new(),
            own: Own { sequence: own.0, lease_number: own.1, ..Own::default() },
            unwritten: Vec::new(),
            unwritten_nodes: HashMap::new(),
            flush_at: None,
            join_at: Some(now.instant),
            empty_joins: 0,
            bootstrapped: false,
            bootstrapping: None,
            kept: HashSet::new(),
            keep_at: now.instant,
            warned_alone: false,
        }
    }

    /// Replicas that acknowledged our record last time.
    pub(crate) const fn own_replicas(&self) -> u32 {
        self.own.replicas
    }
}

/// Sequence and lease numbers used so far.
///
/// # Errors
/// [`StoreError`] if the database can't be read.
pub(crate) fn own_numbers(store: &crate::store::Store) -> Result<(u64, u64), StoreError> {
    store.read(|view| Ok((view.setting_value(SEQUENCE)?.unwrap_or(0), view.setting_value(LEASE_NUMBER)?.unwrap_or(0))))
}

const fn kad_failure(failure: Failure) -> KadFailure {
    match failure {
        Failure::Timeout | Failure::Overloaded => KadFailure::Timeout,
        Failure::Unreachable => KadFailure::Unreachable,
        Failure::Disconnected => KadFailure::Disconnected,
        Failure::Unsupported => KadFailure::Unsupported,
        Failure::Busy => KadFailure::Busy,
    }
}

// The state machine's inputs and outputs.
impl EventLoop {
    pub(crate) fn directory_start(&mut self) {
        let now = self.now();
        match self.store.read::<_, StoreError>(|view| Ok((view.replicas()?, view.known_nodes(KNOWN_NODES_MAX)?))) {
            Ok((replicas, nodes)) => {
                self.directory.machine.restore(now, &self.trust, replicas);
                let known = nodes.iter().filter_map(|node| wire::decode::<Descriptor>(&node.descriptor, 1_024).ok());
                let known: Vec<Descriptor> = known.filter(|descriptor| descriptor.check().is_ok()).collect();
                self.directory.machine.add_hearsay(now, known);
            }
            Err(error) => warn!(%error, "directory not restored from the database"),
        }
        self.publish_soon();
    }

    /// Our place, serving or role has changed.
    pub(crate) fn directory_role_changed(&mut self) {
        let local = self.local_node();
        if *self.directory.machine.local() != local {
            let now = self.now();
            self.directory.machine.set_local(now, local);
        }
    }

    pub(crate) fn directory_identity_changed(&mut self) {
        self.directory_role_changed();
        self.directory.own.entry = None;
        self.directory.own.replicas = 0;
        self.ready = false;
        // Peers judge us anew by the hello that follows, and we them by the new trust.
        self.hear_hellos_anew();
    }

    pub(crate) fn local_node(&self) -> LocalNode {
        LocalNode { device: self.identity.device(), place: self.identity.place(), is_serving: self.is_serving() }
    }

    pub(crate) fn directory_connected(&mut self, peer: PeerId) {
        let Some(known) = self.peers.get(&peer) else { return };
        let connected = Connected { device: known.device, rtt: known.rtt, is_relayed: known.relayed };
        let now = self.now();
        self.directory.machine.handle_connected(now, connected);
    }

    pub(crate) fn directory_disconnected(&mut self, peer: &Peer, reason: DisconnectReason) {
        let now = self.now();
        self.directory.machine.handle_disconnected(now, &peer.device, reason);
    }

    /// A peer has shown who it is and what it serves.
    pub(crate) fn directory_greeted(&mut self, peer: PeerId, chain: Option<&VerifiedChain>, descriptor: Option<Descriptor>) {
        let (Some(chain), Some(descriptor)) = (chain, descriptor) else { return };
        let now = self.now();
        self.relay_greeted(peer, descriptor.roles);
        match self.directory.machine.handle_hello(now, chain, descriptor.clone()) {
            Ok(()) => {
                if descriptor.roles.contains(Roles::DIRECTORY) {
                    self.remember_node(&descriptor, now.unix);
                    self.begin_bootstrap(now);
                    self.repeat_early_lookups();
                }
            }
            Err(error) => {
                debug!(%peer, %error, "peer refused as a directory node");
                self.counters.false_places += 1;
                if let Some(known) = self.peers.get_mut(&peer) {
                    known.descriptor = None;
                }
            }
        }
    }

    /// Written with the next flush: a peer's hellos mustn't cost a commit each.
    fn remember_node(&mut self, descriptor: &Descriptor, now: UnixTime) {
        let node = KnownNode { device: descriptor.device, descriptor: wire::encode(descriptor), seen_at: now };
        self.directory.unwritten_nodes.insert(node.device, node);
        if self.directory.unwritten_nodes.len() >= FLUSH_MAX {
            return self.flush_directory();
        }
        self.directory.flush_at.get_or_insert_with(|| Instant::now() + FLUSH_EVERY);
    }

    fn begin_bootstrap(&mut self, now: Now) {
        if !self.directory.bootstrapped && self.directory.bootstrapping.is_none() {
            self.directory.bootstrapping = Some(self.directory.machine.bootstrap(now));
        }
    }

    /// A peer's user was revoked.
    pub(crate) fn directory_revoked(&mut self, peer: PeerId) {
        if let Some(known) = self.peers.get(&peer) {
            let device = known.device;
            let now = self.now();
            self.directory.machine.handle_disconnected(now, &device, DisconnectReason::Left);
        }
    }

    pub(crate) fn handle_directory_request(&mut self, peer: PeerId, via: ConnectionId, frame: &Frame) {
        let request = match Request::from_frame(frame) {
            Ok(request) => request,
            Err(error) => {
                debug!(%peer, %error, "directory request refused");
                self.counters.malformed += 1;
                return self.answer_encoded(peer, via, frame.id, FrameKind::UNSUPPORTED, Vec::new());
            }
        };
        let Some(known) = self.peers.get(&peer) else { return };
        let source = RequestSource { device: known.device, network_group: self.group_of(&peer) };
        let now = self.now();
        match self.directory.machine.handle_request(now, &self.trust, source, request) {
            KadReply::Answer(answer) => {
                let frame = answer.to_frame(frame.id);
                self.answer_encoded(peer, via, frame.id, frame.kind, frame.body);
            }
            KadReply::Busy => self.answer_encoded(peer, via, frame.id, FrameKind::BUSY, Vec::new()),
            KadReply::Unsupported => self.answer_encoded(peer, via, frame.id, FrameKind::UNSUPPORTED, Vec::new()),
        }
    }

    pub(crate) fn directory_answer(&mut self, request: RequestId, frame: &Frame) {
        let now = self.now();
        let answer = Answer::from_frame(frame).map_err(|error| {
            debug!(%error, "directory answer refused");
            self.counters.malformed += 1;
            KadFailure::Unsupported
        });
        self.directory.machine.handle_answer(now, &self.trust, request, answer);
    }

    pub(crate) fn directory_failure(&mut self, request: RequestId, failure: Failure) {
        let now = self.now();
        self.directory.machine.handle_answer(now, &self.trust, request, Err(kad_failure(failure)));
    }

    /// Does what the state machine wants.
    pub(crate) fn drive_directory(&mut self) {
        while let Some(action) = self.directory.machine.poll_action() {
            match action {
                Action::Send { to, id, request } => self.send_directory_request(&to, id, &request),
                Action::Persist { key, bytes } => self.write_later(ReplicaChange::Put(key, bytes)),
                Action::Forget { key } => self.write_later(ReplicaChange::Remove(key)),
                Action::Event(event) => self.handle_directory_event(event),
            }
        }
    }

    fn send_directory_request(&mut self, to: &Descriptor, id: RequestId, request: &Request) {
        let Some(target) = Target::of_descriptor(to, self.dials_private()) else {
            let now = self.now();
            return self.directory.machine.handle_answer(now, &self.trust, id, Err(KadFailure::Unreachable));
        };
        let frame = request.to_frame(0);
        self.request_encoded(&target, frame.kind, frame.body, Purpose::Directory(id), rpc::REQUEST_TIMEOUT);
    }

    fn write_later(&mut self, change: ReplicaChange) {
        self.directory.unwritten.push(change);
        if self.directory.unwritten.len() >= FLUSH_MAX {
            return self.flush_directory();
        }
        self.directory.flush_at.get_or_insert_with(|| Instant::now() + FLUSH_EVERY);
    }

    /// Writes replicas to disk. An acknowledged record that is lost in a crash before is repaired by the other replicas.
    pub(crate) fn flush_directory(&mut self) {
        self.directory.flush_at = None;
        let changes = std::mem::take(&mut self.directory.unwritten);
        let nodes = std::mem::take(&mut self.directory.unwritten_nodes);
        if changes.is_empty() && nodes.is_empty() {
            return;
        }
        let written = self.store.transaction::<_, StoreError>(|tx| {
            tx.change_replicas(&changes)?;
            nodes.values().try_for_each(|node| tx.put_known_node(node))
        });
        if let Err(error) = written {
            warn!(%error, "replicas and address book not written");
        }
    }

    fn handle_directory_event(&mut self, event: KadEvent) {
        match event {
            KadEvent::Found { query, result } if self.directory.own.read_back == Some(query) => self.read_back(&result),
            KadEvent::Found { query, result } => self.lookup_finished(query, &result),
            KadEvent::Published { query, report } if self.directory.own.publishing == Some(query) => {
                self.published(u32::try_from(report.accepted).unwrap_or(u32::MAX), &report);
            }
            KadEvent::LeaseRenewed { query, report } => self.lease_renewed(query, &report),
            KadEvent::OwnRecordMerged { record } => self.own_record_merged(&record),
            KadEvent::OwnRecordDisplaced { record } => self.own_record_displaced(&record),
            KadEvent::ListingStored { query, report } => self.listing_stored(query, &report),
            KadEvent::ListingsFound { query, search } => self.listings_found(query, &search),
            KadEvent::Bootstrapped { query, servers } if self.directory.bootstrapping == Some(query) => {
                self.directory.bootstrapping = None;
                self.directory.bootstrapped = servers > 0;
                debug!(servers, "joined the directory");
                if servers > 0 {
                    self.messages_network_up();
                    self.repeat_early_lookups();
                }
                self.plan_next_join(servers);
                self.publish_soon();
            }
            _ => {}
        }
    }

    /// A join that met no server, as when all connections were closed for a new identity, is tried again soon, then more and more rarely.
    fn plan_next_join(&mut self, servers: usize) {
        if servers > 0 {
            self.directory.empty_joins = 0;
            return;
        }
        let pause = JOIN_AGAIN * 2_u32.pow(self.directory.empty_joins.min(JOIN_AGAIN_DOUBLINGS));
        self.directory.empty_joins = self.directory.empty_joins.saturating_add(1);
        let at = Instant::now() + pause;
        self.directory.join_at = Some(self.directory.join_at.map_or(at, |planned| planned.min(at)));
    }

    /// Ways into the network: the nodes of the invite, of `--bootstrap`, and those found nearby.
    pub(crate) fn join_network(&mut self) {
        self.directory.join_at = Some(Instant::now());
    }

    fn try_to_join(&mut self, now: Now) {
        let connected_servers = self.peers.with_roles(Roles::DIRECTORY).count();
        if connected_servers > 0 {
            self.begin_bootstrap(now);
            let wait = if self.directory.bootstrapped { JOIN_RETRY * 10 } else { JOIN_RETRY / 6 };
            self.directory.join_at = Some(now.instant + wait);
            self.directory.warned_alone = false;
            return;
        }
        self.directory.join_at = Some(now.instant + JOIN_RETRY);
        let mut addresses: Vec<Multiaddr> = self.settings.bootstrap.clone();
        for address in addresses.drain(..) {
            if let Err(error) = self.swarm.dial(address.clone()) {
                debug!(%address, %error, "bootstrap address not dialled");
            }
        }
        for helper in crate::enrolment::known_bootstrap(&self.store) {
            if let Some(target) = self.helper_target(&helper).filter(|target| !target.addresses.is_empty()) {
                self.dial(&target);
            }
        }
        let private = self.dials_private();
        let known = self.directory.machine.table().take(KEPT_MAX);
        let known: Vec<Target> = known.filter_map(|descriptor| Target::of_descriptor(descriptor, private)).collect();
        known.iter().for_each(|target| self.dial(target));
        let is_alone = self.peers.len() == 0 && !self.is_first_node();
        if is_alone && !self.directory.warned_alone && self.started.elapsed() > JOIN_RETRY {
            self.directory.warned_alone = true;
            warn!("no other node was found yet; still trying (give an address with --bootstrap, or enrol with an invite code)");
            let detail = "no other node was found yet; still trying".to_owned();
            self.events.send(Event::Warning { code: "no-peers".into(), detail });
        }
    }

    /// True for the node that starts a network: it has the role for it and was told of nobody.
    pub(crate) fn is_first_node(&self) -> bool {
        let starts = self.settings.roles.contains(Roles::DIRECTORY) || self.settings.roles.contains(Roles::AUTHORITY);
        starts && self.settings.bootstrap.is_empty() && crate::enrolment::known_bootstrap(&self.store).is_empty()
    }

    /// True for a node that was started just now, knows of a network or may find one, and isn't in it yet.
    fn is_joining_first(&self) -> bool {
        !self.directory.bootstrapped && self.started.elapsed() < FIRST_JOIN && !self.is_first_node()
    }

    /// A dial that reached nobody.
    pub(crate) fn directory_dial_failed(&mut self, peer: &PeerId) {
        if let Some(device) = address::device_key(peer) {
            let now = self.now();
            self.directory.machine.handle_disconnected(now, &device, DisconnectReason::Lost);
        }
    }

    pub(crate) fn directory_tick(&mut self, now: Now) {
        if self.directory.flush_at.is_some_and(|at| at <= now.instant) {
            self.flush_directory();
        }
        if self.directory.join_at.is_some_and(|at| at <= now.instant) {
            self.try_to_join(now);
        }
        if !self.is_joining_first() {
            self.repeat_early_lookups();
        }
        if self.directory.keep_at <= now.instant {
            self.directory.keep_at = now.instant + KEEP_EVERY;
            self.keep_neighbours();
        }
        if self.directory.own.publish_at.is_some_and(|at| at <= now.instant) {
            self.publish_own(now);
        }
        if self.directory.own.lease_at.is_some_and(|at| at <= now.instant) {
            self.renew_own_lease(now);
        }
        if self.directory.own.read_back_at.is_some_and(|at| at <= now.instant) {
            self.directory.own.read_back_at = None;
            let options = FindOptions { mode: Mode::First, is_remote_only: true };
            let key = RecordKey::of(&self.identity.user_id());
            self.directory.own.read_back = Some(self.directory.machine.find_record(now, key, options));
        }
        self.check_ready();
    }

    /// Keeps the nearest neighbours connected, and lets the former ones go.
    fn keep_neighbours(&mut self) {
        let wanted: Vec<Target> = self
            .directory
            .machine
            .neighbours()
            .iter()
            .take(KEPT_MAX)
            .filter_map(|descriptor| Target::of_descriptor(descriptor, self.dials_private()))
            .collect();
        let peers: HashSet<PeerId> = wanted.iter().map(|target| target.peer).collect();
        for gone in self.directory.kept.difference(&peers).copied().collect::<Vec<_>>() {
            self.swarm.behaviour_mut().streams.keep(gone, Keeper::Directory, false);
        }
        for target in wanted {
            self.swarm.behaviour_mut().streams.keep(target.peer, Keeper::Directory, true);
            if !self.swarm.behaviour().streams.is_connected(&target.peer) {
                self.dial(&target);
            }
        }
        self.directory.kept = peers;
    }
}
