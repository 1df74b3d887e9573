//! The directory: who keeps which record, found in a request or two. Our own Kademlia, without I/O.
//!
//! Records lie at the [`REPLICAS`] nodes whose places are closest to their key. A node's place follows from its certificate, so nobody chooses
//! whose record to sit on. One [`Directory`] per node holds its tables and does all the deciding; the same code runs in the daemon and in the
//! simulator. It reads no clock, opens no connection, spawns nothing, and draws its randomness from the seed it is given: same inputs, same
//! outputs.
//!
//! # Calling contract
//!
//! The owner tells what happened and does what is asked:
//!
//! - `handle_*` takes an input and [`Now`]. Inputs: [`Directory::handle_connected`], [`Directory::handle_hello`] (when a peer's chain and
//!   descriptor are verified), [`Directory::handle_disconnected`], [`Directory::handle_request`], [`Directory::handle_answer`],
//!   [`Directory::handle_trust_changed`], [`Directory::handle_timeout`].
//! - [`Directory::find_record`], [`Directory::publish`], [`Directory::renew_lease`] and [`Directory::bootstrap`] start queries; each ends in
//!   exactly one [`Event`] that names its [`QueryId`].
//! - After every input, drain [`Directory::poll_action`] until `None`; then sleep until [`Directory::poll_timeout`] at most, and call
//!   [`Directory::handle_timeout`].
//! - [`Action::Send`] wants a request delivered to a node, dialling it if need be. The owner owes one [`Directory::handle_answer`] for it, the
//!   answer or a [`Failure`]; it needs no timer of its own, since requests time out in here, and what comes later is ignored.
//! - A handshake that follows a dial is reported with [`Directory::handle_connected`] *before* the answer: it is a sign of life that stops
//!   hedging.
//!
//! # Tables
//!
//! Descriptors, not connections. Proved nodes (a chain gave them their place) and hints (others told) are apart: only proved, living nodes
//! are vouched for to others, count as replicas, and may say "no such record"; of the others those near a key are named as such. See `routing_table`. Only nodes with the directory role are in tables; a client
//! ([`LocalNode::is_serving`] false) asks and isn't asked. The owner keeps [`Directory::neighbours`] connected, since their deaths must be
//! noticed; other connections are its own business.
//!
//! # Look-up, publishing, repair
//!
//! Look-ups hedge instead of flooding (`lookup`). A publication finds the replicas with two questions, stores, and reads every
//! acknowledgement: what replicas hold beyond it is merged into our own copy, reported, and brought to the others (`publish`). Refreshes send a
//! lease of about 100 bytes. When a neighbour dies or joins, the records whose replica set changed are offered by hash to those not known to
//! hold them: the closest replica first, the others later, so that mostly one of them sends (`repair`).
//!
//! # Defences, each with its limit in one place
//!
//! | attack | answer |
//! | --- | --- |
//! | forged, expired, revoked, future-dated records | verified at store and at look-up; refused with a reason |
//! | rollback | merge: a replica answers with the newer one it holds |
//! | floods of keys | shares per sender, network, total; far records make room for near ones, never the reverse |
//! | floods of requests | token buckets per peer; [`Reply::Busy`] |
//! | false places | the hello's chain decides; refused, banned for an hour, the teller noted |
//! | invented nodes | passed on one step and no further, as hearsay, to be asked for one record; a teller whose nodes fail is asked last |
//! | false "absent" | majority of the living replicas, places proved, four disjoint paths |
//! | crowding | two replicas, four bucket entries per /24 or /48 (not in a lab); the long-known stay |

mod around;
mod hearsay;
mod known;
mod lateness;
mod limits;
mod listings;
mod lookup;
mod messages;
mod publish;
mod query;
mod repair;
mod routing_table;
mod sample;
mod serve;
mod store;

pub use listings::{ListingReport, ListingSearch};
pub use messages::{
    Answer, BriefLease, CLOSER_MAX, DETAIL_BYTES_MAX, EXTENSION_DOUBTFUL, EXTENSION_HEARSAY, EXTENSION_KNOWN, EXTENSION_NEWS,
    EXTENSION_PASSED, FindListings, FindNode, FindRecord, LEASED_ENTRY_BYTES, LEASED_RECORD_BYTES, LISTINGS_MAX,
    LISTINGS_NAMED_MAX, LISTINGS_UNNAMED_MAX, LeaseAnswer, LeaseOutcome, ListingStored, ListingsFound, Nodes, RecordAnswer,
    RecordOutcome, RenewLease, Request, SYNC_ITEMS_MAX, Store, StoreAnswer, StoreListing, StoreOutcome, StoreRefusal, SyncItem,
    SyncOffer, SyncWant,
};
pub use publish::{LeaseReport, PublishReport};
pub use query::{FindOptions, FindOutcome, FindResult, Mode};
pub use routing_table::{NetworkGroup, REPLICAS};
pub use serve::{Reply, RequestSource};
pub use store::{StoreLimits, share_records};

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::directory::{DirectoryRecord, Place, RecordKey};
use crate::identity::{TrustStore, UserId, VerifiedChain};
use crate::key::DeviceKey;
use crate::node::{Descriptor, Roles};
use crate::time::Now;

use limits::RateLimits;
use listings::{ListingQuery, ListingStore};
use lookup::Lookup;
use publish::{LeaseQuery, OwnRecord, Publish};
use routing_table::{Admission, Proof, RoutingTable, TableLimits};
use store::ReplicaStore;

/// Neighbours whose deaths must be noticed: two replica sets.
const NEIGHBOURS: usize = 2 * REPLICAS;

/// Most queries at once; of more, the newest ends at once without a result.
const QUERIES_MAX: usize = 1_024;

/// How often expired records and bans are swept out.
const SWEEP_EVERY: Duration = Duration::from_secs(60);

/// Random far targets asked about when joining, so that the table isn't all neighbours.
const BOOTSTRAP_WALKS: usize = 3;

/// Of so many refreshes of a client one walks among strangers.
const CLIENT_WALKS: u32 = 3;

/// Whom a client looks for when it joins: those to keep connected. It is nobody's neighbour.
const CLIENT_BREADTH: usize = 3;

/// How much rarer a client looks a random point up: it has no neighbourhood, and look-ups of its own bring it nodes as well.
const CLIENT_REFRESH: u32 = 3;

/// How often a node that knows fewer than eight others looks for more.
const LONELY_REFRESH: Duration = Duration::from_secs(60);

/// Room kept for what is to be done.
const ACTIONS_KEPT: usize = 4;

/// How a node's directory behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// True in a lab, where all nodes are in one network: no caps per network.
    pub is_lab: bool,
    /// Most proved nodes in the table, at most 8,192.
    pub table_max: usize,
    /// Most hints beside them, at most 8,192.
    pub hints_max: usize,
    /// Bounds of the store.
    pub store: StoreLimits,
    /// A request unanswered for so long has failed.
    pub request_timeout: Duration,
    /// No hedge before this, however short the round trip: a busy machine isn't a dead one.
    pub hedge_min: Duration,
    /// How often own records are stored anew, changed or not. Repair keeps replicas meanwhile; this covers what repair missed. A little rarer than
    /// leases are renewed: a renewal that a replica misses brings the publication forward, over connections that are open for it anyway.
    pub republish_every: Duration,
    /// How often a server looks its own neighbourhood and a random point up; a client, which nobody needs to know, does a third as often.
    pub refresh_every: Duration,
    /// How often an own record is read back through others.
    pub read_back_every: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            is_lab: false,
            table_max: 1_024,
            hints_max: 3_072,
            store: StoreLimits::default(),
            request_timeout: Duration::from_secs(5),
            hedge_min: Duration::from_millis(150),
            republish_every: Duration::from_secs(40 * 60),
            refresh_every: Duration::from_secs(10 * 60),
            read_back_every: Duration::from_secs(2 * 3_600),
        }
    }
}

/// This node, as its directory sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalNode {
    /// Its device key.
    pub device: DeviceKey,
    /// Its place; `None` before enrolment.
    pub place: Option<Place>,
    /// Whether it holds records and answers. Needs a place.
    pub is_serving: bool,
}

/// Names a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueryId(pub u64);

/// Names a request that is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Failure {
    /// None came in time.
    Timeout,
    /// The connection went away.
    Disconnected,
    /// The node couldn't be dialled.
    Unreachable,
    /// The node doesn't know the request, or sent what can't be read.
    Unsupported,
    /// The node says that we ask too much.
    Busy,
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DisconnectReason {
    /// Either side closed it to save resources; the node lives.
    Idle,
    /// Its heartbeat stopped, or it broke and couldn't be dialled again at once. Counts as a death, so a connection closed for
    /// being idle mustn't be reported so.
    Lost,
    /// The node said goodbye.
    Left,
}

/// A connection that was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connected {
    /// To whom; the transport has checked that they hold the key.
    pub device: DeviceKey,
    /// Round trip measured in the handshake.
    pub rtt: Option<Duration>,
    /// Over a relay.
    pub is_relayed: bool,
}

/// A peer's descriptor claims another place than its chain gives it, or is another node's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{device} claims {claimed:?} where its certificate gives {proved:?}")]
pub struct FalsePlace {
    /// The peer.
    pub device: DeviceKey,
    /// What it claims.
    pub claimed: Place,
    /// What its chain proves.
    pub proved: Option<Place>,
    /// Who had told us about it.
    pub teller: Option<DeviceKey>,
}

/// What the owner should do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Deliver a request, dialling if need be, and report the answer under its id.
    Send {
        /// To whom.
        to: Arc<Descriptor>,
        /// Names it in [`Directory::handle_answer`].
        id: RequestId,
        /// What to send.
        request: Request,
    },
    /// Write a record to disk.
    Persist {
        /// Under this key.
        key: RecordKey,
        /// What [`Directory::restore`] takes.
        bytes: Vec<u8>,
    },
    /// Delete a record from disk.
    Forget {
        /// Its key.
        key: RecordKey,
    },
    /// Something to know.
    Event(Event),
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A look-up has ended.
    Found {
        /// Which.
        query: QueryId,
        /// With what.
        result: FindResult,
    },
    /// A publication has ended. Republications by timer are reported too.
    Published {
        /// Which.
        query: QueryId,
        /// With what.
        report: PublishReport,
    },
    /// A lease was brought to the replicas.
    LeaseRenewed {
        /// Which.
        query: QueryId,
        /// With what.
        report: LeaseReport,
    },
    /// Replicas hold more about one of our own records than we do; this is both together. If an entry of this very device is newer
    /// there (it was restored from a backup), go on above its sequence number and publish again.
    OwnRecordMerged {
        /// Both together.
        record: Box<DirectoryRecord>,
    },
    /// Under our own name the directory holds a record of another identity key with a newer certificate.
    OwnRecordDisplaced {
        /// The other one.
        record: Box<DirectoryRecord>,
    },
    /// A listing was brought to its replicas.
    ListingStored {
        /// Which.
        query: QueryId,
        /// With what.
        report: ListingReport,
    },
    /// A search for listings has ended.
    ListingsFound {
        /// Which.
        query: QueryId,
        /// With what.
        search: ListingSearch,
    },
    /// Joining has ended.
    Bootstrapped {
        /// Which.
        query: QueryId,
        /// Proved, living nodes known.
        servers: usize,
    },
}

/// What a directory has done, by kind. Requests count questions; answers aren't counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Requests sent, by frame kind.
    pub sent: BTreeMap<u16, u64>,
    /// Requests received, by frame kind.
    pub received: BTreeMap<u16, u64>,
    /// Stores refused, by [`StoreRefusal::code`].
    pub refused: BTreeMap<u16, u64>,
    /// Requests refused because a peer asks too much.
    pub busy: u64,
    /// Requests that failed, by reason.
    pub failures: BTreeMap<Failure, u64>,
    /// Answers that weren't valid.
    pub invalid_answers: u64,
    /// Peers whose descriptors claimed a place that isn't theirs.
    pub false_places: u64,
    /// Nodes of the own table to whom no connection was open and who were asked: those that showed life, in time or late.
    pub first_contacts: u64,
    /// The same: those that didn't in time. Who is late is among both, unless the look-up has ended before.
    pub silent_contacts: u64,
}

/// What a request on its way is for.
#[derive(Clone, Debug)]
enum Errand {
    Lookup {
        query: QueryId,
        /// What the other needn't spell out.
        known: Vec<Arc<Descriptor>>,
    },
    Publish(QueryId),
    Lease(QueryId),
    LeaseStore(QueryId),
    Offer(Vec<SyncItem>),
    /// A question for whoever the other knows.
    Sample(Box<sample::Sample>),
    Repair(RecordKey),
    Listing(QueryId),
}

#[derive(Clone, Debug)]
struct Pending {
    to: DeviceKey,
    sent: Instant,
    deadline: Instant,
    was_connected: bool,
    errand: Errand,
}

#[derive(Clone, Copy, Debug)]
struct Bootstrap {
    query: QueryId,
    walks_left: usize,
}

/// One node's directory. See the [module's calling contract](self).
#[derive(Debug)]
pub struct Directory {
    config: Config,
    local: LocalNode,
    rng: ChaCha8Rng,
    table: RoutingTable,
    store: ReplicaStore,
    rates: RateLimits,
    actions: VecDeque<Action>,
    next_id: u64,
    pending: BTreeMap<RequestId, Pending>,
    lookups: BTreeMap<QueryId, Box<Lookup>>,
    publishes: BTreeMap<QueryId, Box<Publish>>,
    leases: BTreeMap<QueryId, LeaseQuery>,
    listings: ListingStore,
    listing_queries: BTreeMap<QueryId, ListingQuery>,
    own: BTreeMap<RecordKey, Box<OwnRecord>>,
    bootstrap: Option<Bootstrap>,
    repair: repair::Repair,
    sweep_at: Instant,
    refresh_at: Instant,
    around: around::Around,
    heard: sample::Heard,
    lateness: lateness::Lateness,
    counters: Counters,
}

impl Directory {
    /// A directory that knows nobody. `seed` feeds its randomness: jitter and random targets.
    #[must_use]
    pub fn new(config: Config, local: LocalNode, seed: [u8; 32], now: Instant) -> Self {
        let local = LocalNode { is_serving: local.is_serving && local.place.is_some(), ..local };
        let limits = TableLimits { proved: config.table_max, hints: config.hints_max, is_lab: config.is_lab };
        Self {
            rng: ChaCha8Rng::from_seed(seed),
            table: RoutingTable::new(local.device, local.place, limits, now),
            store: ReplicaStore::new(config.store, local.place, config.is_lab),
            rates: RateLimits::default(),
            actions: VecDeque::new(),
            next_id: 1,
            pending: BTreeMap::new(),
            lookups: BTreeMap::new(),
            publishes: BTreeMap::new(),
            leases: BTreeMap::new(),
            listings: ListingStore::default(),
            listing_queries: BTreeMap::new(),
            own: BTreeMap::new(),
            bootstrap: None,
            repair: repair::Repair::default(),
            sweep_at: now + SWEEP_EVERY,
            refresh_at: now + config.refresh_every.min(LONELY_REFRESH),
            around: around::Around::default(),
            heard: sample::Heard::default(),
            lateness: lateness::Lateness::default(),
            counters: Counters::default(),
            config,
            local,
        }
    }

    /// Starts or stops serving, or takes a new place after enrolment. Records held stay held; neighbours are looked up anew.
    pub fn set_local(&mut self, now: Now, local: LocalNode) {
        self.local = LocalNode { is_serving: local.is_serving && local.place.is_some(), ..local };
        self.table.set_origin(local.place);
        self.store.set_origin(local.place);
        self.refresh_at = now.instant;
        // Who has joined as a client hasn't met its neighbours.
        if self.local.is_serving {
            self.plan_to_look_around(now);
        }
    }

    /// Takes back records that an earlier run persisted; each is verified again, and those that don't hold are forgotten.
    pub fn restore(&mut self, now: Now, trust: &TrustStore, records: impl IntoIterator<Item = (RecordKey, impl AsRef<[u8]>)>) {
        let sender = store::Sender { device: self.local.device, group: None, is_server: true };
        for (key, bytes) in records {
            let verified = store::parse(bytes.as_ref()).ok().and_then(|record| record.verify(now.unix, trust).ok());
            let is_kept = match verified {
                Some(record) if record.key() == key => {
                    let gone = self.store.put(record, sender, now.unix).map(|(_, gone)| gone);
                    self.forget_all(gone.unwrap_or_default());
                    self.store.set_unconfirmed(&key, true);
                    self.store.get(&key).is_some()
                }
                _ => false,
            };
            if !is_kept {
                self.actions.push_back(Action::Forget { key });
            }
        }
    }

    /// A connection is open.
    pub fn handle_connected(&mut self, now: Now, connected: Connected) {
        let device = connected.device;
        self.table.connected(now.instant, device, connected.rtt, connected.is_relayed);
        let until = now.instant + self.patience(now, &device);
        let mut is_first_contact = false;
        for pending in self.pending.values().filter(|pending| pending.to == device) {
            if let Errand::Lookup { query, .. } = &pending.errand
                && let Some(lookup) = self.lookups.get_mut(query)
            {
                is_first_contact |= lookup.extend_patience(&device, until) && !pending.was_connected;
            }
        }
        if is_first_contact {
            self.counters.first_contacts += 1;
            self.table.contacted(true);
        }
    }

    /// A peer's hello holds: `chain` is verified, `descriptor` is what it says about itself.
    ///
    /// # Errors
    /// [`FalsePlace`] if the descriptor isn't that device's or claims another place than its chain gives it. The peer is then out of
    /// all tables and refused for an hour; the owner should close the connection.
    #[allow(clippy::result_large_err, reason = "rare, and the owner wants every fact for its log")]
    pub fn handle_hello(
        &mut self,
        now: Now,
        chain: &VerifiedChain,
        descriptor: impl Into<Arc<Descriptor>>,
    ) -> Result<(), FalsePlace> {
        let descriptor = descriptor.into();
        let device = chain.device;
        let (UserId::Named { authority, .. }, Some(place)) = (&chain.user.id, chain.place) else {
            return self.refuse_place(now, chain, &descriptor);
        };
        if descriptor.device != device || descriptor.place != place {
            return self.refuse_place(now, chain, &descriptor);
        }
        let proof = Proof { authority: *authority, serial: chain.user.serial, not_after: chain.not_after };
        let before = self.table.live_descriptor(&device);
        let admission = self.table.prove(now.instant, Arc::clone(&descriptor), proof);
        match (admission, before) {
            (Admission::New, _) => self.neighbourhood_changed(now, &descriptor, repair::Change::Joined),
            // It serves no longer.
            (Admission::Client, Some(before)) => self.neighbourhood_changed(now, &before, repair::Change::Died),
            _ => {}
        }
        self.sample_met(now, &device);
        Ok(())
    }

    #[allow(clippy::result_large_err, reason = "as handle_hello")]
    fn refuse_place(&mut self, now: Now, chain: &VerifiedChain, descriptor: &Descriptor) -> Result<(), FalsePlace> {
        // Who has no place may still be a client; only a claim to serve is false.
        if descriptor.device == chain.device && !descriptor.roles.contains(Roles::DIRECTORY) && chain.place.is_none() {
            return Ok(());
        }
        let device = chain.device;
        let teller = self.table.told_by(&device);
        let known = self.table.live_descriptor(&device);
        if self.table.ban(now.instant, device)
            && let Some(known) = known
        {
            self.neighbourhood_changed(now, &known, repair::Change::Died);
        }
        self.counters.false_places += 1;
        self.fail_lookups_of(now, &device);
        Err(FalsePlace { device, claimed: descriptor.place, proved: chain.place, teller })
    }

    /// A connection has ended. [`DisconnectReason::Lost`] and [`DisconnectReason::Left`] make the node dead for the tables until it is heard again.
    pub fn handle_disconnected(&mut self, now: Now, device: &DeviceKey, reason: DisconnectReason) {
        self.table.disconnected(device);
        if reason == DisconnectReason::Idle {
            return;
        }
        self.note_failure(now, device, true);
        let hopeless: Vec<_> = self.pending.iter().filter(|(_, pending)| pending.to == *device).map(|(id, _)| *id).collect();
        for id in hopeless {
            self.fail_request(now, id, Failure::Disconnected);
        }
    }

    /// A node answered a request, or didn't. Unknown and late ids are ignored.
    pub fn handle_answer(&mut self, now: Now, trust: &TrustStore, id: RequestId, answer: Result<Answer, Failure>) {
        let answer = match answer {
            Ok(answer) => answer,
            Err(failure) => return self.fail_request(now, id, failure),
        };
        let Some(pending) = self.pending.remove(&id) else { return };
        // Only an open connection's answer measures a round trip; a cold one includes the handshake.
        let rtt = pending.was_connected.then(|| now.instant.saturating_duration_since(pending.sent));
        self.note_life(now, &pending.to, rtt);
        match (pending.errand, answer) {
            (Errand::Lookup { query, known }, answer) => {
                self.lookup_answered(now, trust, query, &pending.to, &known, answer);
            }
            (Errand::Publish(query), Answer::Store(answer)) => self.publish_answered(now, trust, query, &pending.to, answer),
            (Errand::Lease(query), Answer::Lease(answer)) => self.lease_answered(now, query, &pending.to, answer.outcome),
            (Errand::LeaseStore(query), Answer::Store(answer)) => self.lease_stored(now, query, &pending.to, &answer),
            (Errand::Offer(items), Answer::SyncWant(want)) => self.offer_answered(now, &pending.to, &items, &want),
            (Errand::Listing(query), Answer::ListingStored(answer)) => self.listing_stored(now, query, &pending.to, &answer),
            (Errand::Listing(query), Answer::Listings(answer)) => self.listings_answered(now, query, &pending.to, answer),
            (Errand::Sample(sample), Answer::Nodes(answer)) => self.sample_answered(now, &pending.to, &sample, answer),
            (Errand::Repair(key), Answer::Store(answer)) => self.repair_answered(now, trust, key, &pending.to, answer),
            (errand, _) => {
                self.counters.invalid_answers += 1;
                self.errand_failed(now, errand, &pending.to, Failure::Unsupported);
            }
        }
    }

    fn fail_request(&mut self, now: Now, id: RequestId, failure: Failure) {
        let Some(pending) = self.pending.remove(&id) else { return };
        *self.counters.failures.entry(failure).or_default() += 1;
        match failure {
            failure if Self::is_just_older(&pending.errand, failure) => self.note_life(now, &pending.to, None),
            Failure::Busy => self.note_life(now, &pending.to, None),
            Failure::Unreachable => self.note_failure(now, &pending.to, true),
            Failure::Timeout | Failure::Disconnected | Failure::Unsupported => self.note_failure(now, &pending.to, false),
        }
        self.errand_failed(now, pending.errand, &pending.to, failure);
    }

    fn errand_failed(&mut self, now: Now, errand: Errand, to: &DeviceKey, failure: Failure) {
        match errand {
            Errand::Lookup { query, .. } => {
                if let Some(lookup) = self.lookups.get_mut(&query) {
                    lookup.failed(to);
                }
                self.drive_lookup(now, query);
            }
            Errand::Publish(query) => self.publish_failed(now, query, to),
            Errand::Lease(query) | Errand::LeaseStore(query) => self.lease_failed(now, query, to),
            Errand::Offer(items) => self.offer_failed(now, &items, failure),
            Errand::Repair(key) => self.repair_failed(now, key, failure),
            Errand::Listing(query) => self.listing_failed(now, query, to),
            Errand::Sample(_) => {}
        }
    }

    fn note_life(&mut self, now: Now, device: &DeviceKey, rtt: Option<Duration>) {
        let was_live = self.table.is_live(device);
        self.table.succeeded(now.instant, device, rtt);
        if !was_live && let Some(descriptor) = self.table.live_descriptor(device) {
            self.neighbourhood_changed(now, &descriptor, repair::Change::Joined);
        }
    }

    fn note_failure(&mut self, now: Now, device: &DeviceKey, is_certain: bool) {
        let descriptor = self.table.live_descriptor(device);
        if self.table.failed(now.instant, device, is_certain)
            && let Some(descriptor) = descriptor
        {
            self.neighbourhood_changed(now, &descriptor, repair::Change::Died);
        }
    }

    /// The trusted authorities or their revocation lists changed: records and nodes of users taken back are dropped.
    pub fn handle_trust_changed(&mut self, now: Now, trust: &TrustStore) {
        let gone = self.store.revoke(now.unix, trust);
        self.listings.revoke(trust);
        self.forget_all(gone);
        self.drop_unproved(now, trust);
    }

    fn drop_unproved(&mut self, now: Now, trust: &TrustStore) {
        let gone = self.table.retain_proved(|proof| {
            now.unix <= proof.not_after
                && trust.is_trusted(&proof.authority)
                && !trust.is_user_revoked(&proof.authority, proof.serial)
        });
        for descriptor in gone {
            self.neighbourhood_changed(now, &descriptor, repair::Change::Died);
        }
    }

    /// Time has passed. Call when [`Directory::poll_timeout`] says so; calling earlier does nothing.
    pub fn handle_timeout(&mut self, now: Now) {
        if let Some(due) = self.poll_timeout().filter(|due| *due <= now.instant) {
            self.lateness.note(now.instant, due);
        }
        let late: Vec<_> =
            self.pending.iter().filter(|(_, pending)| pending.deadline <= now.instant).map(|(id, _)| *id).collect();
        for id in late {
            self.fail_request(now, id, Failure::Timeout);
        }
        let due: Vec<_> =
            self.lookups.iter().filter(|(_, lookup)| lookup.wake_at() <= now.instant).map(|(query, _)| *query).collect();
        for query in due {
            self.drive_lookup(now, query);
        }
        self.publish_timeout(now);
        self.repair_timeout(now);
        if self.sweep_at <= now.instant {
            self.sweep_at = now.instant + SWEEP_EVERY;
            let gone = self.store.expire(now.unix);
            self.forget_all(gone);
            self.listings.expire(now.unix);
            self.pass_listings_on(now);
            self.table.expire_bans(now.instant);
            self.rates.sweep(now.instant);
        }
        if self.around.due().is_some_and(|at| at <= now.instant) {
            self.look_around(now);
        }
        if self.refresh_at <= now.instant {
            // Who knows hardly anybody asks more often: one death away from being alone.
            let is_lonely = self.table.live_count() < REPLICAS;
            let every = match self.local.is_serving {
                _ if is_lonely => self.config.refresh_every.min(LONELY_REFRESH),
                true => self.config.refresh_every,
                false => self.config.refresh_every * CLIENT_REFRESH,
            };
            self.refresh_at = now.instant + self.jittered(every);
            self.refresh(now);
        }
    }

    /// When [`Directory::handle_timeout`] should be called at the latest.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let pending = self.pending.values().map(|pending| pending.deadline).min();
        let lookups = self.lookups.values().map(|lookup| lookup.wake_at()).min();
        [
            pending,
            lookups,
            self.publish_wake_at(),
            self.repair.wake_at(),
            Some(self.sweep_at),
            Some(self.refresh_at),
            self.around.due(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// The next thing to do, oldest first.
    pub fn poll_action(&mut self) -> Option<Action> {
        let action = self.actions.pop_front();
        // Room for as much as there ever was to do at once would stay empty for good.
        if self.actions.is_empty() && self.actions.capacity() > ACTIONS_KEPT {
            self.actions = VecDeque::new();
        }
        action
    }

    /// Takes in descriptors that nobody has proved: the address book on disk, an invite's list, the command line.
    pub fn add_hearsay(&mut self, now: Now, descriptors: impl IntoIterator<Item = impl Into<Arc<Descriptor>>>) {
        for descriptor in descriptors {
            self.table.hear(now.instant, descriptor, None);
        }
    }

    /// The nodes of the table that count as living, in no order.
    pub fn table(&self) -> impl Iterator<Item = &Descriptor> {
        self.table.living()
    }

    /// Up to `count` proved, living nodes, those nearest to us first: an address book.
    #[must_use]
    pub fn known(&self, count: usize) -> Vec<Arc<Descriptor>> {
        self.table.closest(&self.place(), count)
    }

    /// The nodes to keep connected: the closest to us if we serve, whose deaths must be noticed; a few for clients.
    #[must_use]
    pub fn neighbours(&self) -> Vec<Arc<Descriptor>> {
        self.table.closest(&self.place(), if self.local.is_serving { NEIGHBOURS } else { 3 })
    }

    /// The nodes closest to a point, for finding servers near a key.
    #[must_use]
    pub fn closest(&self, target: &Place, count: usize) -> Vec<Arc<Descriptor>> {
        self.table.closest(target, count)
    }

    /// Numbers of proved nodes and of hints in the table.
    #[must_use]
    pub fn table_counts(&self) -> (usize, usize) {
        (self.table.live_count(), self.table.hint_count())
    }

    /// Numbers of records held for others, and their bytes.
    #[must_use]
    pub fn store_counts(&self) -> (usize, usize) {
        (self.store.len(), self.store.bytes())
    }

    /// Requests on their way.
    #[must_use]
    pub fn requests_in_flight(&self) -> usize {
        self.pending.len()
    }

    /// The record held under `key`, if this node is one of its replicas.
    #[must_use]
    pub fn held(&self, key: &RecordKey) -> Option<&DirectoryRecord> {
        self.store.get(key).map(|held| &held.record)
    }

    /// All records held for others, encoded: what has been persisted, unless the owner dropped an action.
    pub fn records(&self) -> impl Iterator<Item = (RecordKey, &[u8])> {
        self.store.keys().filter_map(|key| self.store.get(&key).map(|held| (key, held.bytes.as_slice())))
    }

    /// What this directory has done so far.
    #[must_use]
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// This node.
    #[must_use]
    pub const fn local(&self) -> &LocalNode {
        &self.local
    }

    fn event(&mut self, event: Event) {
        self.actions.push_back(Action::Event(event));
    }

    fn forget_all(&mut self, keys: Vec<RecordKey>) {
        for key in keys {
            self.repair.forget(&key);
            self.actions.push_back(Action::Forget { key });
        }
    }

    fn persist(&mut self, key: &RecordKey) {
        if let Some(held) = self.store.get(key) {
            self.actions.push_back(Action::Persist { key: *key, bytes: held.bytes.clone() });
        }
    }

    fn next_query(&mut self) -> QueryId {
        self.next_id += 1;
        QueryId(self.next_id)
    }

    fn is_full_of_queries(&self) -> bool {
        self.lookups.len() + self.publishes.len() + self.leases.len() + self.listing_queries.len() >= QUERIES_MAX
    }

    fn send(&mut self, now: Now, to: Arc<Descriptor>, request: Request, errand: Errand) {
        self.next_id += 1;
        let id = RequestId(self.next_id);
        let device = to.device;
        let pending = Pending {
            to: device,
            sent: now.instant,
            deadline: now.instant + self.config.request_timeout + self.lateness.allowance(now.instant),
            was_connected: self.table.is_connected(&device),
            errand,
        };
        self.pending.insert(id, pending);
        *self.counters.sent.entry(request.kind().0).or_default() += 1;
        self.actions.push_back(Action::Send { to, id, request });
    }

    /// How long a sign of life may take before others are asked too: 1.5 round trips, and longer where this node itself is late.
    fn patience(&self, now: Now, device: &DeviceKey) -> Duration {
        let usual = (self.table.rtt(device) * 3 / 2).clamp(self.config.hedge_min, self.config.request_timeout);
        usual + self.lateness.allowance(now.instant)
    }

    /// Between 3/4 and 5/4 of `delay`, so that nodes started together don't act together.
    fn jittered(&mut self, delay: Duration) -> Duration {
        let millis = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX / 4).max(4);
        Duration::from_millis(self.rng.random_range(millis - millis / 4..=millis.saturating_add(millis / 4)))
    }

    /// This node's place; who has none takes its key for one, so that not all such nodes choose the same servers.
    fn place(&self) -> Place {
        self.local.place.unwrap_or(Place(*self.local.device.as_bytes()))
    }

    fn random_point(&mut self) -> Place {
        Place(self.rng.random())
    }

    /// Whether this node is among the replicas of `key`, as far as it can see.
    fn is_own_replica(&self, key: &RecordKey) -> bool {
        self.local.is_serving && !self.is_beside(key, 0)
    }

    fn live_targets(&self, key: &RecordKey) -> Vec<Arc<Descriptor>> {
        self.table.replica_set(&Place(key.0))
    }
}
