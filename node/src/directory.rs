//! The directory from the node's side: drives the state machine, keeps our own record published, resolves names.
//!
//! The deciding is `halloo_protocol::kademlia`'s. Here its requests become frames, its records go to disk, and its events reach whoever asked:
//! commands, dials, messages ([`Waiter`]). What was found is cached in memory and on disk, so that people we talk to are found again without a
//! look-up, also after a restart.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use halloo_protocol::directory::{
    DEVICE_LEASE_SECS_MAX, DEVICE_NAME_BYTES_MAX, DeviceEntry, DirectoryRecord, ENTRY_SECS_MAX, EntryParts, Lease, PrivatePart,
    Reachability, RecordError, RecordKey, SealKey, UnverifiedRecord,
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
use crate::handle::network::{Explanation, WhyError};
use crate::handle::{Event, Reply};
use crate::network::{Peer, Purpose, Target};
use crate::rpc::{self, Failure};
use crate::store::{KnownNode, Pinned, ReplicaChange, StoreError};

/// How long a cached record answers without asking the network.
const CACHE_FRESH: Duration = Duration::from_secs(5 * 60);

/// Records kept in memory; the one fetched longest ago makes room.
const CACHE_MAX: usize = 1_024;

/// Look-ups under way for different names.
const LOOKUPS_MAX: usize = 512;

/// Waiters for one look-up.
const WAITERS_MAX: usize = 256;

/// How long our own lease runs, and when it is renewed: half time, so that one lost renewal does no harm.
const LEASE_SECS: u64 = DEVICE_LEASE_SECS_MAX;
const LEASE_RENEWAL: Duration = Duration::from_secs(LEASE_SECS / 2);

/// How long to wait before a publication that failed is tried again.
const PUBLISH_RETRY: Duration = Duration::from_secs(3);

/// How long to wait before reading the own record back again.
const READ_BACK_RETRY: Duration = Duration::from_secs(1);

/// How often a node without servers tries its ways into the network again.
const JOIN_RETRY: Duration = Duration::from_secs(3);

/// Pause after a join that met no server, doubled with every further one until it is 16 s.
const JOIN_AGAIN: Duration = Duration::from_millis(250);
const JOIN_AGAIN_DOUBLINGS: u32 = 6;

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
    Redial(halloo_protocol::call::CallId, DeviceKey),
    /// A call that goes on with a cached record meanwhile.
    DialAgain(halloo_protocol::call::CallId),
    /// Messages to this user.
    Messages,
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
}

/// The directory's state in a node.
#[derive(Debug)]
pub(crate) struct DirectoryState {
    pub(crate) machine: Directory,
    jobs: HashMap<QueryId, Job>,
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
        self.judge_hellos_anew();
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
        match self.directory.machine.handle_hello(now, chain, descriptor.clone()) {
            Ok(()) => {
                if descriptor.roles.contains(Roles::DIRECTORY) {
                    self.remember_node(&descriptor, now.unix);
                    self.begin_bootstrap(now);
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
            KadEvent::OwnRecordMerged { record } => self.own_record_merged(&record),
            KadEvent::OwnRecordDisplaced { record } => self.own_record_displaced(&record),
            KadEvent::Bootstrapped { query, servers } if self.directory.bootstrapping == Some(query) => {
                self.directory.bootstrapping = None;
                self.directory.bootstrapped = servers > 0;
                debug!(servers, "joined the directory");
                if servers > 0 {
                    self.messages_network_up();
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
        for descriptor in self.directory.machine.table_snapshot().into_iter().take(KEPT_MAX) {
            if let Some(target) = Target::of_descriptor(&descriptor, self.dials_private()) {
                self.dial(&target);
            }
        }
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
            self.swarm.behaviour_mut().streams.keep(gone, false);
        }
        for target in wanted {
            self.swarm.behaviour_mut().streams.keep(target.peer, true);
            if !self.swarm.behaviour().streams.is_connected(&target.peer) {
                self.dial(&target);
            }
        }
        self.directory.kept = peers;
    }
}

// Our own record.
impl EventLoop {
    /// Publishes as soon as there is somebody to publish to.
    pub(crate) fn publish_soon(&mut self) {
        self.directory.own.publish_at.get_or_insert_with(Instant::now);
    }

    fn publish_own(&mut self, now: Now) {
        if self.directory.own.publishing.is_some() {
            // The running publication is of an older entry; this one follows it.
            self.directory.own.publish_at = Some(now.instant + PUBLISH_RETRY / 10);
            return;
        }
        if !self.directory.bootstrapped && !self.is_first_node() {
            self.directory.own.publish_at = Some(now.instant + PUBLISH_RETRY / 10);
            return;
        }
        self.directory.own.publish_at = None;
        let record = match self.own_record(now) {
            Ok(record) => record,
            Err(error) => {
                warn!(error, "own record can't be made");
                self.directory.own.publish_at = Some(now.instant + PUBLISH_RETRY);
                return;
            }
        };
        self.directory.own.publishing = Some(self.directory.machine.publish(now, record));
    }

    /// Our record with our own entry only: replicas join it with what they hold of our other devices.
    fn own_record(&mut self, now: Now) -> Result<DirectoryRecord, String> {
        let entry = self.own_entry(now)?;
        let lease = self.own_lease(&entry, now).map_err(|error| describe(&error))?;
        let chain = self.identity.chain().clone();
        let parts = EntryParts { certificate: chain.device, entry, lease: Some(lease), keeper_lease: None };
        let record = UnverifiedRecord {
            user: chain.user,
            successions: Vec::new(),
            tombstones: Vec::new(),
            entries: vec![parts],
            extensions: Extensions::none(),
        };
        record.verify(now.unix, &self.trust).map_err(|error| describe(&error))
    }

    /// Our entry: the one we have if nothing in it has changed, else a new one under the next number.
    fn own_entry(&mut self, now: Now) -> Result<Signed<DeviceEntry>, String> {
        let mut next = self.describe_self(now);
        if let Some(current) = &self.directory.own.entry {
            let same = {
                let current = current.unverified();
                let kept = DeviceEntry {
                    sequence: current.sequence,
                    issued_at: current.issued_at,
                    expires_at: current.expires_at,
                    sealed: current.sealed.clone(),
                    ..next.clone()
                };
                let half_used = now.unix.secs_since(current.issued_at) > ENTRY_SECS_MAX / 2;
                let misdated = current.issued_at.is_from_the_future(now.unix) || current.sequence < self.directory.own.sequence;
                kept == *current && self.sealed_matches(current, &next) && !half_used && !misdated
            };
            if same {
                return Ok(current.clone());
            }
        }
        next.sequence = self.directory.own.sequence.saturating_add(1);
        // Kept before it is used: after a crash the next number is higher, never the same with other content.
        self.store
            .transaction::<_, StoreError>(|tx| tx.put_setting_value(SEQUENCE, &next.sequence))
            .map_err(|error| describe(&error))?;
        self.directory.own.sequence = next.sequence;
        let signed = Signed::sign(next, self.identity.device_key());
        self.directory.own.entry = Some(signed.clone());
        Ok(signed)
    }

    /// True if the sealed parts, whose nonces differ, hold the same.
    fn sealed_matches(&self, current: &DeviceEntry, next: &DeviceEntry) -> bool {
        let key = SealKey::of_name(&self.identity.user_id());
        let open = |entry: &DeviceEntry| entry.sealed.as_ref().and_then(|sealed| key.open(&entry.device, sealed).ok());
        open(current) == open(next)
    }

    fn describe_self(&mut self, now: Now) -> DeviceEntry {
        let device = self.identity.device();
        let private = PrivatePart {
            name: self.settings.device_name.clone(),
            kind: self.settings.device_kind,
            addresses: Vec::new(),
            push: self.push_addresses(),
            extensions: Extensions::none(),
        };
        let private = fitted(private);
        let nonce = self.random();
        let sealed = SealKey::of_name(&self.identity.user_id()).seal(0, &device, &private, nonce);
        DeviceEntry {
            device,
            sequence: 0,
            issued_at: now.unix,
            expires_at: now.unix.plus_secs(ENTRY_SECS_MAX),
            addresses: self.open_addresses(),
            relays: self.relay_helpers(),
            mailboxes: Vec::new(),
            keepers: self.keepers(),
            features: 0,
            hpke_key: self.hpke.public(),
            fallback_key: None,
            sealed: Some(sealed),
            extensions: Extensions::none(),
        }
    }

    fn own_lease(&mut self, entry: &Signed<DeviceEntry>, now: Now) -> Result<Signed<Lease>, StoreError> {
        let number = self.directory.own.lease_number.saturating_add(1);
        self.store.transaction::<_, StoreError>(|tx| tx.put_setting_value(LEASE_NUMBER, &number))?;
        self.directory.own.lease_number = number;
        self.directory.own.lease_at = Some(now.instant + LEASE_RENEWAL);
        let reachability = if entry.unverified().addresses.is_empty() { Reachability::Relayed } else { Reachability::Direct };
        let lease = Lease {
            device: entry.unverified().device,
            entry_hash: entry.body_hash(),
            number,
            reachability,
            issued_at: now.unix,
            until: now.unix.plus_secs(LEASE_SECS),
            extensions: Extensions::none(),
        };
        Ok(Signed::sign(lease, self.identity.device_key()))
    }

    fn renew_own_lease(&mut self, now: Now) {
        self.directory.own.lease_at = Some(now.instant + LEASE_RENEWAL);
        let Some(entry) = self.directory.own.entry.clone() else { return };
        match self.own_lease(&entry, now) {
            Ok(lease) => {
                let key = RecordKey::of(&self.identity.user_id());
                self.directory.machine.renew_lease(now, key, None, lease);
            }
            Err(error) => warn!(%error, "lease not renewed"),
        }
    }

    fn published(&mut self, accepted: u32, report: &halloo_protocol::kademlia::PublishReport) {
        self.directory.own.publishing = None;
        self.directory.own.replicas = accepted;
        let now = Instant::now();
        if accepted == 0 {
            debug!(?report, "record not published");
            if !self.is_first_node() {
                self.directory.own.publish_at.get_or_insert(now + PUBLISH_RETRY);
            }
            return;
        }
        debug!(accepted, "record published");
        self.events.send(Event::Published { replicas: accepted });
        if self.directory.own.publish_at.is_none() {
            self.push_announced();
        }
        if !self.ready {
            self.directory.own.read_back_at.get_or_insert(now);
        }
    }

    fn read_back(&mut self, result: &FindResult) {
        self.directory.own.read_back = None;
        let device = self.identity.device();
        let found = result.record().and_then(|record| record.entry(&device)).map(|parts| parts.entry().sequence);
        if found.is_some_and(|sequence| sequence >= self.directory.own.sequence) {
            self.become_ready();
        } else if !self.ready {
            self.directory.own.read_back_at = Some(Instant::now() + READ_BACK_RETRY);
        }
    }

    /// The first node of a network has nobody to read its record back from: it is ready when it listens.
    pub(crate) fn check_ready(&mut self) {
        let listens = self.reach.listen().next().is_some();
        if !self.ready && listens && self.is_first_node() && self.identity.authority().is_some() {
            self.become_ready();
        }
    }

    fn become_ready(&mut self) {
        if self.ready {
            return;
        }
        self.ready = true;
        info!("ready");
        let ready = Ready {
            peer_id: self.swarm.local_peer_id().to_string(),
            listen: self.reach.listen().map(ToString::to_string).collect(),
            api: self.settings.api.clone(),
            roles: crate::diagnosis::role_names(self.roles()),
        };
        self.events.send(Event::Ready(ready));
    }

    /// A replica holds more than we published: our other devices, or, after a restore from a backup, a newer entry of our own.
    fn own_record_merged(&mut self, record: &DirectoryRecord) {
        let device = self.identity.device();
        let Some(parts) = record.entry(&device) else { return };
        let (sequence, lease) = (parts.entry().sequence, parts.lease.as_ref().map_or(0, |lease| lease.unverified().number));
        self.directory.own.lease_number = self.directory.own.lease_number.max(lease);
        if sequence > self.directory.own.sequence {
            info!(sequence, "the network holds a newer entry of this device: going on above it");
            self.directory.own.sequence = sequence;
            self.directory.own.entry = None;
            self.publish_soon();
        }
    }

    /// Our name stands with another key in the directory.
    fn own_record_displaced(&mut self, record: &DirectoryRecord) {
        let event = Event::IdentityChanged {
            username: self.labels.display(&record.user_id()),
            old_identity: self.identity.identity().to_string(),
            new_identity: record.identity().to_string(),
        };
        warn!("this user's name now belongs to another key");
        self.events.send(event);
    }
}

// Resolving.
impl EventLoop {
    pub(crate) fn handle_resolve(&mut self, user: &str, options: ResolveOptions, reply: Reply<Resolved, ResolveError>) {
        match self.labels.parse(user) {
            Ok(user) => self.resolve_user(&user, Waiter::Command(options, reply)),
            Err(error) => reply.send(Err(error.into())),
        }
    }

    pub(crate) fn handle_why(&mut self, user: &str, reply: Reply<Explanation, WhyError>) {
        match self.labels.parse(user) {
            Ok(id) => {
                let shown = self.labels.display(&id);
                self.resolve_user(&id, Waiter::Why(shown, reply));
            }
            Err(error) => reply.send(Err(error.into())),
        }
    }

    /// Finds a user's record for `waiter`: in the cache if it is fresh enough, else in the directory. Look-ups of one user are shared.
    pub(crate) fn resolve_user(&mut self, user: &UserId, waiter: Waiter) {
        let now = self.now();
        let key = RecordKey::of(user);
        let options = match &waiter {
            Waiter::Command(options, _) => *options,
            Waiter::Why(..) | Waiter::DialAgain(_) => ResolveOptions { fresh: true, settled: false },
            // What the nearest replica says may be what we had: all are asked.
            Waiter::Redial(..) => ResolveOptions { fresh: true, settled: true },
            Waiter::Dial(_) | Waiter::Messages => ResolveOptions::default(),
        };
        if !options.fresh
            && !options.settled
            && let Some((record, age)) = self.cached(&key, now.unix)
            && age < CACHE_FRESH
        {
            let found = Answered { source: ResolveSource::Cache, settled: false, age, requests: 0, elapsed: Duration::ZERO };
            return self.satisfy(waiter, user, Ok((&record, found)));
        }
        let mode = if options.settled { Mode::Settled } else { Mode::First };
        if mode == Mode::First
            && let Some(job) = self.directory.jobs.values_mut().find(|job| job.user == *user && job.waiters.len() < WAITERS_MAX)
        {
            job.waiters.push(waiter);
            return;
        }
        if self.directory.jobs.len() >= LOOKUPS_MAX {
            let full = crate::handle::problem::NodeError::LimitReached { what: "look-ups", max: LOOKUPS_MAX };
            return self.satisfy(waiter, user, Err(ResolveError::Node(full)));
        }
        // A message comes here when what was known failed: our own copy, which may be from an earlier run, is known too.
        // A network's only server has nobody to ask: what it holds itself is what there is.
        let has_others = self.directory.machine.table_counts().0 > 0;
        let is_remote_only = has_others && (options.fresh || matches!(waiter, Waiter::Messages));
        let query = self.directory.machine.find_record(now, key, FindOptions { mode, is_remote_only });
        self.directory.jobs.insert(query, Job { user: user.clone(), waiters: vec![waiter] });
    }

    fn cached(&mut self, key: &RecordKey, now: UnixTime) -> Option<(DirectoryRecord, Duration)> {
        if !self.directory.cache.contains_key(key)
            && let Ok(Some(stored)) = self.store.read::<_, StoreError>(|view| view.cached_record(key))
            && let Ok(record) = UnverifiedRecord::from_bytes(&stored.record).and_then(|record| record.verify(now, &self.trust))
        {
            self.cache(record, stored.fetched_at);
        }
        let cached = self.directory.cache.get(key)?;
        // Verified anew: since it was fetched it may have expired or been revoked.
        let record = cached.record.to_unverified().verify(now, &self.trust).ok()?;
        Some((record, Duration::from_secs(now.secs_since(cached.fetched))))
    }

    fn cache(&mut self, record: DirectoryRecord, fetched: UnixTime) {
        let cache = &mut self.directory.cache;
        if cache.len() >= CACHE_MAX
            && !cache.contains_key(&record.key())
            && let Some(oldest) = cache.iter().min_by_key(|(_, cached)| cached.fetched).map(|(key, _)| *key)
        {
            cache.remove(&oldest);
        }
        cache.insert(record.key(), Cached { record, fetched });
    }

    /// Forgets what we have of a user: it turned out to be old.
    pub(crate) fn forget_cached(&mut self, user: &UserId) {
        let key = RecordKey::of(user);
        self.directory.cache.remove(&key);
        if let Err(error) = self.store.transaction::<_, StoreError>(|tx| tx.remove_cached_record(&key)) {
            debug!(%error, "cache not written");
        }
    }

    fn lookup_finished(&mut self, query: QueryId, result: &FindResult) {
        let Some(job) = self.directory.jobs.remove(&query) else { return };
        let user = job.user;
        let answered = Answered {
            source: ResolveSource::Directory,
            settled: result.is_settled,
            age: Duration::ZERO,
            requests: result.requests,
            elapsed: result.elapsed,
        };
        let found = match &result.outcome {
            FindOutcome::Found(record) => self.accept_found(&user, record),
            FindOutcome::Absent if self.is_known_revoked(&user) => {
                Err(ResolveError::Revoked { username: self.labels.display(&user) })
            }
            FindOutcome::Absent => {
                let replicas = u32::try_from(result.replicas).unwrap_or(u32::MAX);
                Err(ResolveError::NotFound { username: self.labels.display(&user), replicas })
            }
            FindOutcome::Inconclusive if self.directory.machine.table_counts().0 == 0 => Err(ResolveError::NoServers),
            FindOutcome::Inconclusive => {
                Err(ResolveError::TimedOut { username: self.labels.display(&user), limit: result.elapsed })
            }
        };
        for waiter in job.waiters {
            let outcome = found.as_ref().map(|record| (record, answered.clone())).map_err(Clone::clone);
            self.satisfy(waiter, &user, outcome);
        }
    }

    /// Compares the record's key with the one we know, keeps the record, and tells if the key is another.
    /// True if we once had a record of this user, and its certificate was revoked since.
    fn is_known_revoked(&self, user: &UserId) -> bool {
        let key = RecordKey::of(user);
        let Ok(Some(stored)) = self.store.read::<_, StoreError>(|view| view.cached_record(&key)) else { return false };
        let verified =
            UnverifiedRecord::from_bytes(&stored.record).and_then(|record| record.verify(self.now().unix, &self.trust));
        matches!(verified, Err(RecordError::Chain(ChainError::UserRevoked(_) | ChainError::SigningRevoked(_))))
    }

    fn accept_found(&mut self, user: &UserId, record: &DirectoryRecord) -> Result<DirectoryRecord, ResolveError> {
        let now = self.now().unix;
        let (identity, serial) = (record.identity(), record.user_serial());
        let pinned = self.store.transaction::<_, StoreError>(|tx| {
            let pinned = tx.pin(user, identity, serial, now)?;
            if let Pinned::Changed { .. } = &pinned {
                tx.repin(user, identity, serial, now)?;
            }
            tx.put_cached_record(&record.key(), &record.to_bytes(), now)?;
            Ok(pinned)
        });
        match pinned {
            Ok(Pinned::Changed { old }) if !record.is_successor_of(&old.identity) => {
                let username = self.labels.display(user);
                warn!("a known name came with another identity key");
                self.events.send(Event::IdentityChanged {
                    username,
                    old_identity: old.identity.to_string(),
                    new_identity: identity.to_string(),
                });
            }
            Ok(_) => {}
            Err(error) => debug!(%error, "record not cached"),
        }
        self.cache(record.clone(), now);
        Ok(record.clone())
    }

    fn satisfy(&mut self, waiter: Waiter, user: &UserId, outcome: Result<(&DirectoryRecord, Answered), ResolveError>) {
        match waiter {
            Waiter::Command(_, reply) => reply.send(outcome.map(|(record, answered)| self.resolved(record, &answered))),
            Waiter::Why(shown, reply) => {
                let found = outcome.map(|(record, _)| record);
                let explanation = self.explain(&shown, found.as_ref().copied());
                reply.send(Ok(explanation));
            }
            Waiter::Dial(call) => {
                let found = outcome.map(|(record, answered)| (record.clone(), answered.source == ResolveSource::Cache));
                self.dial_resolved(call, user, found);
            }
            Waiter::DialAgain(call) => self.dial_resolved_again(call, outcome.ok().map(|(record, _)| record)),
            Waiter::Redial(call, device) => self.redial_resolved(call, device, outcome.map(|(record, _)| record.clone())),
            Waiter::Messages => self.messages_resolved(user, outcome.map(|(record, _)| record.clone())),
        }
    }

    fn resolved(&self, record: &DirectoryRecord, answered: &Answered) -> Resolved {
        let now = self.now().unix;
        Resolved {
            username: self.labels.display(&record.user_id()),
            identity: record.identity().to_string(),
            devices: record.entries().map(|parts| self.device_view(record, parts, now).1).collect(),
            source: answered.source,
            settled: answered.settled,
            age_ms: crate::diagnosis::millis(answered.age),
            requests: answered.requests,
            elapsed_ms: crate::diagnosis::millis(answered.elapsed),
        }
    }

    /// A device as this caller may see it.
    pub(crate) fn device_view(&self, record: &DirectoryRecord, parts: &EntryParts, now: UnixTime) -> (PeerId, ResolvedDevice) {
        let device = parts.device();
        // Verified entries are signed by their key, so it is a point on the curve.
        let peer = address::peer_id(&device).unwrap_or_else(PeerId::random);
        let private = self.private_part(record, parts);
        let reachability = match parts.reachability(now) {
            Reachability::Direct => DeviceReachability::Direct,
            Reachability::Relayed => DeviceReachability::Relayed,
            Reachability::Push => DeviceReachability::Push,
            Reachability::None if private.as_ref().is_some_and(|part| !part.push.is_empty()) => DeviceReachability::Push,
            Reachability::None => DeviceReachability::None,
        };
        let addresses = self.device_addresses(parts, private.as_ref(), peer);
        let view = ResolvedDevice {
            peer_id: peer.to_string(),
            name: private.as_ref().map(|part| part.name.clone()).filter(|name| !name.is_empty()),
            kind: private.as_ref().map(|part| kind_word(part.kind).to_owned()),
            addresses: addresses.iter().map(ToString::to_string).collect(),
            reachability,
        };
        (peer, view)
    }

    /// The sealed part of an entry, if we hold its key.
    pub(crate) fn private_part(&self, record: &DirectoryRecord, parts: &EntryParts) -> Option<PrivatePart> {
        let sealed = parts.entry().sealed.as_ref()?;
        SealKey::of_name(&record.user_id()).open(&parts.device(), sealed).ok()
    }

    fn device_addresses(&self, parts: &EntryParts, private: Option<&PrivatePart>, peer: PeerId) -> Vec<Multiaddr> {
        let entry = parts.entry();
        let private = private.map(|part| part.addresses.as_slice()).unwrap_or_default();
        let mut addresses = self.dialable(entry.addresses.iter().chain(private));
        addresses.extend(self.circuit_addresses(&entry.relays, peer));
        addresses.extend(self.nearby_addresses(&peer));
        addresses
    }

    /// Addresses that somebody else names, as far as they may be dialled.
    pub(crate) fn dialable<'a>(&self, addresses: impl IntoIterator<Item = &'a halloo_protocol::node::Address>) -> Vec<Multiaddr> {
        let private = self.dials_private();
        addresses.into_iter().filter_map(address::from_wire).filter(|address| address::may_dial(address, private)).collect()
    }

    /// True in a lab, and in a network that lives on private addresses alone: nobody connected is reached over the internet.
    fn dials_private(&self) -> bool {
        let is_outside = |peer: &Peer| peer.address.as_ref().and_then(address::ip_of).is_some_and(address::is_public);
        self.settings.lab || !self.peers.iter().any(|(_, peer)| is_outside(peer))
    }

    /// Where to send something to a device.
    pub(crate) fn device_target(&self, record: &DirectoryRecord, parts: &EntryParts) -> Option<Target> {
        let peer = address::peer_id(&parts.device())?;
        let private = self.private_part(record, parts);
        Some(Target { peer, addresses: self.device_addresses(parts, private.as_ref(), peer) })
    }

    /// Names the entry of a device as the cache has it: another hash means that the device has published since.
    pub(crate) fn cached_entry_hash(&self, user: &UserId, device: &DeviceKey) -> Option<[u8; 32]> {
        let record = &self.directory.cache.get(&RecordKey::of(user))?.record;
        Some(record.entry(device)?.entry.body_hash())
    }

    /// A device of a user we have the record of.
    pub(crate) fn cached_target(&self, user: &UserId, device: &DeviceKey) -> Option<Target> {
        let record = &self.directory.cache.get(&RecordKey::of(user))?.record;
        self.device_target(record, record.entry(device)?)
    }
}

/// How a look-up was answered.
#[derive(Clone, Debug)]
struct Answered {
    source: ResolveSource,
    settled: bool,
    age: Duration,
    requests: u32,
    elapsed: Duration,
}

/// A private part that fits into an entry: names are cut, and what leads to the second gateway is left out first.
fn fitted(mut private: PrivatePart) -> PrivatePart {
    let end = private.name.floor_char_boundary(DEVICE_NAME_BYTES_MAX);
    private.name.truncate(end);
    while !private.fits() {
        if private.push.len() > 1 {
            warn!("a push gateway is left out of the record: it doesn't fit");
            private.push.pop();
        } else if private.push.first_mut().is_none_or(|only| only.gateway.addresses.pop().is_none())
            && private.push.pop().is_none()
        {
            break;
        }
    }
    private
}

/// The word the interface uses for a kind of machine.
pub(crate) const fn kind_word(kind: halloo_protocol::directory::DeviceKind) -> &'static str {
    use halloo_protocol::directory::DeviceKind;
    match kind {
        DeviceKind::Phone => "phone",
        DeviceKind::Tablet => "tablet",
        DeviceKind::Laptop => "laptop",
        DeviceKind::Desktop => "desktop",
        DeviceKind::Server => "server",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use halloo_protocol::directory::{Helper, PushAddress};
    use halloo_protocol::key::PublicKey;
    use halloo_protocol::node::Address;

    #[test]
    fn a_private_part_is_made_to_fit() {
        let address = |byte| Address::Other(vec![byte; 160]);
        let gateway = |number: u8| PushAddress {
            gateway: Helper { device: DeviceKey(PublicKey([number; 32])), addresses: vec![address(1), address(2)] },
            handle: vec![number; 32],
            capability: vec![number; 160],
        };
        let part = |name: &str, gateways: u8| PrivatePart {
            name: name.to_owned(),
            kind: halloo_protocol::directory::DeviceKind::Phone,
            addresses: Vec::new(),
            push: (0..gateways).map(gateway).collect(),
            extensions: Extensions::none(),
        };
        let small = part("phone", 1);
        assert_eq!(fitted(small.clone()), small);
        let cut = fitted(part(&"\u{1f4f1}".repeat(40), 2));
        assert!(cut.fits(), "what doesn't fit makes the whole record one that nobody takes");
        assert_eq!((cut.push.len(), cut.name.len()), (1, DEVICE_NAME_BYTES_MAX));
        let mut vast = part("phone", 1);
        vast.push[0].capability = vec![0; 700];
        assert!(fitted(vast).push.is_empty());
    }
}
