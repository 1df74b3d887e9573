//! Brings own records and leases to their replicas, and reads what these say.
//!
//! A publication asks the two closest nodes who is closest, stores at the eight closest, and goes on to the next where one fails. What a replica
//! answers to hold beyond what was sent is verified, merged into our copy and reported; replicas that hold less than that are given it in a
//! second round. It counts as accepted when most of the replicas acknowledged it. Timers: republication, sooner with growing pauses after a
//! failure, and reading back through others.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::lookup::{Goal, Purpose};
use super::messages::{LeaseOutcome, RenewLease, Request, Store, StoreAnswer, StoreOutcome, StoreRefusal};
use super::query::{FindOutcome, FindResult};
use super::routing_table::{GROUP_REPLICAS_MAX, NetworkGroup, REPLICAS, RoutingTable};
use super::store::Sender;
use super::{Directory, Errand, Event, QueryId};
use crate::directory::{DirectoryRecord, Lease, Place, RecordKey};
use crate::identity::TrustStore;
use crate::key::DeviceKey;
use crate::node::{Descriptor, Roles};
use crate::time::Now;
use crate::wire::{Extensions, Signed};

/// Nodes that must have answered who is closest before storing.
const FIND_BREADTH: usize = 2;

/// Most own records: one per user of an edge that serves several.
const OWN_MAX: usize = 256;

/// Most nodes a publication tries.
const CANDIDATES_MAX: usize = 4 * REPLICAS;

/// Most nodes remembered that took an earlier publication and are no replicas any longer: two replica sets.
const PASSED_BY_MAX: usize = 2 * REPLICAS;

/// Rounds that bring replicas what other replicas turned out to hold.
const ROUNDS_MAX: u8 = 2;

/// First and longest pause after a publication that wasn't accepted.
const RETRY_MIN: Duration = Duration::from_secs(5);
const RETRY_MAX: Duration = Duration::from_secs(300);

/// Publications in a row that are made again soon because more nodes must live around the record's place than are known: by chance there are that few.
const STRAYS_MAX: u32 = 4;

/// When something is amiss with the replicas.
const SOON: Duration = Duration::from_secs(2);

/// First reading back after a publication was accepted for the first time.
const FIRST_READ_BACK: Duration = Duration::from_secs(30);

/// How a publication went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishReport {
    /// Whose record.
    pub key: RecordKey,
    /// Most of the replicas acknowledged that they hold it.
    pub is_accepted: bool,
    /// Replicas that hold it, this node included if it is one.
    pub accepted: usize,
    /// Who refused, and why.
    pub refused: Vec<(DeviceKey, StoreRefusal)>,
    /// Nodes that didn't answer.
    pub failed: usize,
    /// Requests sent, finding the replicas included.
    pub requests: u32,
    /// How long it took.
    pub elapsed: Duration,
}

/// How a lease's renewal went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseReport {
    /// Whose record.
    pub key: RecordKey,
    /// Replicas asked.
    pub asked: usize,
    /// Of these, took the lease.
    pub renewed: usize,
    /// Of these, needed and took the whole record.
    pub stored: usize,
    /// Of these, refused or didn't answer.
    pub failed: usize,
}

#[derive(Clone, Debug)]
pub(super) struct OwnRecord {
    record: DirectoryRecord,
    /// Who took the last publication.
    replicas: Vec<Arc<Descriptor>>,
    /// The content hash of what was last accepted, and nodes that took it before, without those that were replicas when it was last published.
    published_hash: [u8; 32],
    passed_by: BTreeMap<DeviceKey, Arc<Descriptor>>,
    /// Who took the lease of the renewal that ended last: they hold what was published, if that was this content.
    renewed: BTreeMap<DeviceKey, Arc<Descriptor>>,
    /// The last publication left these out: the next asks all, who may hold more of the user's other devices.
    has_spared: bool,
    next_at: Instant,
    read_back_at: Option<Instant>,
    failures: u32,
    /// Publications in a row that may be where nobody looks.
    strays: u32,
    running: usize,
}

#[derive(Clone, Debug)]
struct InFlight {
    to: Arc<Descriptor>,
    patient_until: Instant,
    hash: [u8; 32],
}

#[derive(Clone, Debug)]
pub(super) struct Publish {
    key: RecordKey,
    started: Instant,
    stepped: Instant,
    is_storing: bool,
    is_replica: bool,
    is_astray: bool,
    candidates: Vec<Arc<Descriptor>>,
    tried: BTreeSet<DeviceKey>,
    in_flight: BTreeMap<DeviceKey, InFlight>,
    accepted: BTreeMap<DeviceKey, ([u8; 32], Arc<Descriptor>)>,
    refused: Vec<(DeviceKey, StoreRefusal)>,
    failed: usize,
    requests: u32,
    round: u8,
}

/// What the look-up for a publication brought.
#[derive(Clone, Debug)]
pub(super) struct Found {
    /// Those closest to the record's place.
    pub(super) replicas: Vec<Arc<Descriptor>>,
    /// More live there than are known.
    pub(super) is_astray: bool,
    /// What it took.
    pub(super) requests: u32,
}

#[derive(Clone, Debug)]
pub(super) struct LeaseQuery {
    in_flight: BTreeMap<DeviceKey, Arc<Descriptor>>,
    renewed: BTreeMap<DeviceKey, Arc<Descriptor>>,
    report: LeaseReport,
}

/// Refusals that concern the record, not the replica: others will say the same.
const fn is_about_record(reason: StoreRefusal) -> bool {
    use StoreRefusal::{Expired, Future, Invalid, Revoked, TooLarge, UnknownAuthority};
    matches!(reason, Invalid | UnknownAuthority | Revoked | Expired | Future | TooLarge)
}

impl Publish {
    fn add_candidate(&mut self, descriptor: Arc<Descriptor>) {
        let is_known = self.candidates.iter().any(|known| known.device == descriptor.device);
        if !is_known && self.candidates.len() < CANDIDATES_MAX && descriptor.roles.contains(Roles::DIRECTORY) {
            self.candidates.push(descriptor);
            let target = Place(self.key.0);
            self.candidates.sort_by_key(|descriptor| target.distance(&descriptor.place));
        }
    }

    /// The next nodes to store at.
    fn next_targets(&self, now: Instant, is_lab: bool) -> Vec<Arc<Descriptor>> {
        let patient = self.in_flight.values().filter(|flight| flight.patient_until > now).count();
        let hopeless = self.refused.iter().filter(|(_, reason)| is_about_record(*reason)).count();
        let have = self.accepted.len() + patient + hopeless + usize::from(self.is_replica);
        let mut groups: BTreeMap<Option<NetworkGroup>, usize> = BTreeMap::new();
        let used = self.accepted.values().map(|(_, to)| to).chain(self.in_flight.values().map(|flight| &flight.to));
        let mut owners = BTreeSet::new();
        for descriptor in used {
            *groups.entry(NetworkGroup::of_descriptor(descriptor)).or_default() += 1;
            owners.insert(descriptor.place.owner());
        }
        let mut targets = Vec::new();
        for candidate in self.candidates.iter().filter(|candidate| !self.tried.contains(&candidate.device)) {
            if have + targets.len() >= REPLICAS {
                break;
            }
            let count = groups.entry(NetworkGroup::of_descriptor(candidate)).or_default();
            if is_lab || (*count < GROUP_REPLICAS_MAX && owners.insert(candidate.place.owner())) {
                *count += 1;
                targets.push(Arc::clone(candidate));
            }
        }
        targets
    }

    /// Where the eighth nearest of those stands that took the record and whose place is proved, if there are as many: anybody can name nodes wherever he likes, and let them accept all.
    fn eighth_replica(&self, table: &RoutingTable) -> Option<Place> {
        let places = self.accepted.values().map(|(_, replica)| (replica.place, table.proved_place(&replica.device)));
        let mut places: Vec<_> = places.filter(|(told, proved)| *proved == Some(*told)).map(|(told, _)| told).collect();
        places.sort_unstable_by_key(|place| self.key.distance(place));
        places.get(REPLICAS - 1).copied()
    }

    fn report(&self, now: Instant) -> PublishReport {
        let accepted = self.accepted.len() + usize::from(self.is_replica);
        let judged = self
            .refused
            .iter()
            .filter(|(device, reason)| *reason != StoreRefusal::NotResponsible && !self.accepted.contains_key(device));
        let total = (accepted + judged.count() + self.failed).min(REPLICAS);
        PublishReport {
            key: self.key,
            is_accepted: accepted > total / 2,
            accepted,
            refused: self.refused.clone(),
            failed: self.failed,
            requests: self.requests,
            elapsed: now.saturating_duration_since(self.started),
        }
    }
}

impl Directory {
    /// Publishes an own record, now and again until [`Directory::unpublish`]; ends in [`Event::Published`].
    ///
    /// What was published under the key before is merged in, so that an entry of another device isn't lost.
    pub fn publish(&mut self, now: Now, record: DirectoryRecord) -> QueryId {
        let key = record.key();
        let query = self.next_query();
        if self.is_full_of_queries() || (self.own.len() >= OWN_MAX && !self.own.contains_key(&key)) {
            let report = PublishReport {
                key,
                is_accepted: false,
                accepted: 0,
                refused: Vec::new(),
                failed: 0,
                requests: 0,
                elapsed: Duration::ZERO,
            };
            self.event(Event::Published { query, report });
            return query;
        }
        let next_at = now.instant + self.config.republish_every;
        match self.own.get_mut(&key) {
            Some(own) if own.record.identity() == record.identity() => {
                own.record = record.merge(own.record.clone()).prune(now.unix)
            }
            Some(own) => own.record = record,
            None => {
                let own = OwnRecord {
                    record,
                    replicas: Vec::new(),
                    published_hash: [0; 32],
                    passed_by: BTreeMap::new(),
                    renewed: BTreeMap::new(),
                    has_spared: false,
                    next_at,
                    read_back_at: None,
                    failures: 0,
                    strays: 0,
                    running: 0,
                };
                self.own.insert(key, Box::new(own));
            }
        }
        self.start_publish(now, key, query);
        query
    }

    /// Stops publishing a record. Its replicas keep it until it expires.
    pub fn unpublish(&mut self, key: &RecordKey) {
        self.own.remove(key);
    }

    /// An own record, with all that replicas added to it.
    #[must_use]
    pub fn own_record(&self, key: &RecordKey) -> Option<&DirectoryRecord> {
        self.own.get(key).map(|own| &own.record)
    }

    /// True of an own record that no majority of replicas has taken yet: what they hold of the user's other devices comes with their answers.
    pub(super) fn is_published_first(&self, key: &RecordKey) -> bool {
        self.own.get(key).is_some_and(|own| own.published_hash == [0; 32])
    }

    fn start_publish(&mut self, now: Now, key: RecordKey, query: QueryId) {
        let Some(own) = self.own.get_mut(&key) else { return };
        own.running += 1;
        let publish = Publish {
            key,
            started: now.instant,
            stepped: now.instant,
            is_storing: false,
            is_replica: false,
            is_astray: false,
            candidates: Vec::new(),
            tried: BTreeSet::new(),
            in_flight: BTreeMap::new(),
            accepted: BTreeMap::new(),
            refused: Vec::new(),
            failed: 0,
            requests: 0,
            round: 0,
        };
        self.publishes.insert(query, Box::new(publish));
        self.start_lookup(now, Goal::Nodes { breadth: FIND_BREADTH }, Place(key.0), Purpose::Publish(query), None);
    }

    pub(super) fn publish_found_replicas(&mut self, now: Now, query: QueryId, found: Found) {
        let Some(publish) = self.publishes.get_mut(&query) else { return };
        for descriptor in found.replicas {
            publish.add_candidate(descriptor);
        }
        publish.is_storing = true;
        publish.is_astray = found.is_astray;
        publish.requests += found.requests;
        let key = publish.key;
        self.spare_renewed(query, key);
        self.store_locally(now, query, key);
        self.drive_publish(now, query);
    }

    /// Replicas that have just taken a lease for the content that is published again are as good as asked: what is missing are the others. Not twice in a row, for a
    /// lease speaks of one device's entry alone.
    fn spare_renewed(&mut self, query: QueryId, key: RecordKey) {
        let Some(own) = self.own.get_mut(&key) else { return };
        let (renewed, hash) = (std::mem::take(&mut own.renewed), own.record.content_hash());
        own.has_spared = !own.has_spared && !renewed.is_empty() && own.published_hash == hash;
        let Some(publish) = self.publishes.get_mut(&query).filter(|_| own.has_spared) else { return };
        let nearest = publish.candidates.iter().take(REPLICAS).map(|candidate| candidate.device).collect::<BTreeSet<_>>();
        for (device, to) in renewed.into_iter().filter(|(device, _)| nearest.contains(device)) {
            publish.tried.insert(device);
            publish.accepted.insert(device, (hash, to));
        }
    }

    /// If this node is one of the record's replicas, it stores like any other; if it was one and still holds what was, it isn't to answer with that.
    fn store_locally(&mut self, now: Now, query: QueryId, key: RecordKey) {
        let is_replica = self.is_own_replica(&key);
        if !is_replica && self.store.get(&key).is_none() {
            return;
        }
        let Some(record) = self.own.get(&key).map(|own| own.record.clone()) else { return };
        let sender = Sender { device: self.local.device, group: None, is_server: true };
        // A refusal as stale means that the store holds as much already; merging below takes care of it.
        let _ = self.take_record(now, record, sender);
        if let Some(held) = self.store.get(&key).map(|held| held.record.clone()) {
            let is_ours = self.merge_own(now, key, held);
            if let Some(publish) = self.publishes.get_mut(&query) {
                publish.is_replica = is_ours && is_replica;
            }
        }
    }

    fn drive_publish(&mut self, now: Now, query: QueryId) {
        let Some(mut publish) = self.publishes.remove(&query) else { return };
        publish.stepped = now.instant;
        let Some(record) = self.own.get(&publish.key).map(|own| own.record.clone()) else {
            return self.finish_publish(now, query, &publish);
        };
        let hash = record.content_hash();
        let mut targets = if publish.is_storing { publish.next_targets(now.instant, self.config.is_lab) } else { Vec::new() };
        if publish.is_storing && targets.is_empty() && publish.in_flight.is_empty() && publish.round < ROUNDS_MAX {
            publish.round += 1;
            let behind = publish.accepted.values().filter(|(held, _)| *held != hash);
            targets = behind.map(|(_, to)| Arc::clone(to)).collect();
            if (publish.is_replica || self.store.get(&publish.key).is_some()) && !targets.is_empty() {
                let sender = Sender { device: self.local.device, group: None, is_server: true };
                let _ = self.take_record(now, record.clone(), sender);
            }
        }
        let bytes = if targets.is_empty() { Vec::new() } else { record.to_bytes() };
        for to in targets {
            let device = to.device;
            publish.requests += 1;
            publish.tried.insert(device);
            // Twice a look-up's patience: a replica checks signatures and writes before it answers.
            let patient_until = now.instant + 2 * self.patience(now, &device);
            publish.in_flight.insert(device, InFlight { to: Arc::clone(&to), patient_until, hash });
            let request = Request::Store(Store { record: bytes.clone(), extensions: Extensions::none() });
            self.send(now, to, request, Errand::Publish(query));
        }
        if publish.is_storing && publish.in_flight.is_empty() {
            self.finish_publish(now, query, &publish);
        } else {
            self.publishes.insert(query, publish);
        }
    }

    fn finish_publish(&mut self, now: Now, query: QueryId, publish: &Publish) {
        let report = publish.report(now.instant);
        let (failures, strays) = self.own.get(&publish.key).map_or((0, 0), |own| (own.failures, own.strays));
        let again = |times: u32| (RETRY_MIN * 2_u32.saturating_pow(times.min(16))).min(RETRY_MAX);
        let is_astray = publish.is_astray && strays < STRAYS_MAX;
        let pause = match (report.is_accepted, is_astray) {
            (true, false) => self.config.republish_every,
            (true, true) => again(strays),
            (false, _) => again(failures),
        };
        let next_at = now.instant + self.jittered(pause);
        if report.is_accepted {
            self.tell_those_passed_by(now, query, publish);
        }
        if report.is_accepted && !self.local.is_serving {
            let eighth = publish.eighth_replica(&self.table);
            self.table.note_density(&Place(publish.key.0), eighth.as_ref());
        }
        if let Some(own) = self.own.get_mut(&publish.key) {
            own.running = own.running.saturating_sub(1);
            own.next_at = next_at;
            own.strays = if publish.is_astray { (strays + 1).min(STRAYS_MAX) } else { 0 };
            own.failures = if report.is_accepted { 0 } else { own.failures.saturating_add(1) };
            own.replicas = publish.accepted.values().map(|(_, to)| Arc::clone(to)).collect();
            if report.is_accepted && own.read_back_at.is_none() {
                own.read_back_at = Some(now.instant + FIRST_READ_BACK);
            }
        }
        self.event(Event::Published { query, report });
    }

    /// Nodes that took an earlier publication and weren't among the closest this time hold what is out of date, and may not know that they are
    /// no replicas any longer. Nobody waits for their answers.
    fn tell_those_passed_by(&mut self, now: Now, query: QueryId, publish: &Publish) {
        let Some(own) = self.own.get_mut(&publish.key) else { return };
        let hash = own.record.content_hash();
        own.passed_by.extend(own.replicas.drain(..).map(|replica| (replica.device, replica)));
        own.passed_by.retain(|device, _| !publish.accepted.contains_key(device) && self.table.is_live(device));
        while own.passed_by.len() > PASSED_BY_MAX {
            own.passed_by.pop_first();
        }
        if std::mem::replace(&mut own.published_hash, hash) == hash {
            return;
        }
        let (behind, record) = (std::mem::take(&mut own.passed_by), own.record.to_bytes());
        for to in behind.into_values() {
            let request = Request::Store(Store { record: record.clone(), extensions: Extensions::none() });
            self.send(now, to, request, Errand::Publish(query));
        }
    }

    pub(super) fn publish_answered(
        &mut self,
        now: Now,
        trust: &TrustStore,
        query: QueryId,
        from: &DeviceKey,
        answer: StoreAnswer,
    ) {
        let Some(publish) = self.publishes.get_mut(&query) else { return };
        let Some(flight) = publish.in_flight.remove(from) else { return };
        let key = publish.key;
        let held = answer.record.map(|bytes| Self::verify_held(&bytes, key, now.unix, trust));
        let verdict = match (&answer.outcome, held) {
            (_, Some(None)) => Err(StoreRefusal::Invalid),
            (StoreOutcome::Accepted | StoreOutcome::Refused { reason: StoreRefusal::Stale, .. }, Some(Some(held))) => {
                let hash = held.content_hash();
                if self.merge_own(now, key, held) { Ok(hash) } else { Err(StoreRefusal::Stale) }
            }
            (StoreOutcome::Accepted, None) if answer.holds == Some(flight.hash) => Ok(flight.hash),
            // It says it holds something else and doesn't show it.
            (StoreOutcome::Accepted, None) => Err(StoreRefusal::Invalid),
            (StoreOutcome::Refused { reason, .. }, _) => Err(*reason),
        };
        let is_stale = matches!(answer.outcome, StoreOutcome::Refused { reason: StoreRefusal::Stale, .. });
        let Some(publish) = self.publishes.get_mut(&query) else { return };
        match verdict {
            Ok(hash) => {
                if is_stale {
                    publish.refused.push((*from, StoreRefusal::Stale));
                }
                publish.accepted.insert(*from, (hash, flight.to));
            }
            Err(reason) => {
                publish.accepted.remove(from);
                publish.refused.push((*from, reason));
            }
        }
        for descriptor in answer.closer {
            publish.add_candidate(descriptor);
        }
        self.drive_publish(now, query);
    }

    pub(super) fn publish_failed(&mut self, now: Now, query: QueryId, to: &DeviceKey) {
        if let Some(publish) = self.publishes.get_mut(&query)
            && publish.in_flight.remove(to).is_some()
        {
            publish.accepted.remove(to);
            publish.failed += 1;
        }
        self.drive_publish(now, query);
    }

    /// Joins what the directory holds with our own copy and reports what was news. False if it is somebody else's under our name.
    fn merge_own(&mut self, now: Now, key: RecordKey, other: DirectoryRecord) -> bool {
        let Some(own) = self.own.get_mut(&key) else { return false };
        if other.identity() != own.record.identity() {
            if other.user_serial() > own.record.user_serial() {
                self.event(Event::OwnRecordDisplaced { record: Box::new(other) });
            }
            return false;
        }
        let before = own.record.content_hash();
        own.record = own.record.clone().merge(other).prune(now.unix);
        if own.record.content_hash() != before {
            let record = Box::new(own.record.clone());
            self.event(Event::OwnRecordMerged { record });
        }
        true
    }

    pub(super) fn own_read_back(&mut self, now: Now, key: RecordKey, result: FindResult) {
        let is_well = match result.outcome {
            FindOutcome::Found(record) => {
                let seen = record.content_hash();
                self.merge_own(now, key, *record);
                let is_ours = self.own.get(&key).is_some_and(|own| own.record.content_hash() == seen);
                is_ours && result.agreeing * 2 > result.replicas
            }
            FindOutcome::Absent => false,
            // Nobody could be asked: publishing would fare no better.
            FindOutcome::Inconclusive => true,
        };
        let soon = now.instant + self.jittered(SOON);
        if let Some(own) = self.own.get_mut(&key)
            && !is_well
        {
            own.next_at = own.next_at.min(soon);
        }
    }

    pub(super) fn publish_wake_at(&self) -> Option<Instant> {
        let flights = self.publishes.values().flat_map(|publish| {
            let waits = publish.in_flight.values().map(|flight| flight.patient_until);
            waits.filter(|at| *at > publish.stepped)
        });
        let timers = self.own.values().flat_map(|own| [Some(own.next_at).filter(|_| own.running == 0), own.read_back_at]);
        flights.chain(timers.flatten()).min()
    }

    pub(super) fn publish_timeout(&mut self, now: Now) {
        for query in self.publishes.keys().copied().collect::<Vec<_>>() {
            self.drive_publish(now, query);
        }
        let due = |at: Instant| at <= now.instant;
        let publish: Vec<_> =
            self.own.iter().filter(|(_, own)| own.running == 0 && due(own.next_at)).map(|(key, _)| *key).collect();
        for key in publish {
            let query = self.next_query();
            self.start_publish(now, key, query);
        }
        let read: Vec<_> = self.own.iter().filter(|(_, own)| own.read_back_at.is_some_and(due)).map(|(key, _)| *key).collect();
        for key in read {
            let next = now.instant + self.jittered(self.config.read_back_every);
            if let Some(own) = self.own.get_mut(&key) {
                own.read_back_at = Some(next);
            }
            self.start_lookup(now, Goal::Record { key, settled: true }, Place(key.0), Purpose::ReadBack(key), None);
        }
    }

    /// Brings a lease to the replicas of a record: a device its own, a keeper (`keeper` is then this node) that of a device it keeps.
    /// Ends in [`Event::LeaseRenewed`]. Replicas of an own record that miss it get all of it.
    pub fn renew_lease(&mut self, now: Now, key: RecordKey, keeper: Option<DeviceKey>, lease: Signed<Lease>) -> QueryId {
        let query = self.next_query();
        if let Some(own) = self.own.get_mut(&key) {
            // A lease for another entry than ours changes nothing here; the replicas judge it.
            let _ = own.record.apply_lease(lease.clone(), keeper, now.unix);
        }
        self.renew_held(now, &key, keeper, lease.clone());
        let known = self.own.get(&key).map(|own| own.replicas.clone()).filter(|replicas| !replicas.is_empty());
        let targets = if self.is_full_of_queries() { Vec::new() } else { known.unwrap_or_else(|| self.live_targets(&key)) };
        let report = LeaseReport { key, asked: targets.len(), renewed: 0, stored: 0, failed: 0 };
        let in_flight = targets.iter().map(|to| (to.device, Arc::clone(to))).collect();
        self.leases.insert(query, LeaseQuery { in_flight, renewed: BTreeMap::new(), report });
        for to in targets {
            let lease = Box::new(RenewLease::new(key, keeper, &lease));
            self.send(now, to, Request::RenewLease(lease), Errand::Lease(query));
        }
        self.finish_lease_if_done(now, query);
        query
    }

    pub(super) fn lease_answered(&mut self, now: Now, query: QueryId, from: &DeviceKey, outcome: LeaseOutcome) {
        let Some(lease) = self.leases.get_mut(&query) else { return };
        let Some(to) = lease.in_flight.get(from).cloned() else { return };
        let own = self.own.get(&lease.report.key).map(|own| own.record.to_bytes());
        match (outcome, own) {
            (LeaseOutcome::NeedRecord, Some(record)) => {
                let request = Request::Store(Store { record, extensions: Extensions::none() });
                return self.send(now, to, request, Errand::LeaseStore(query));
            }
            (LeaseOutcome::Renewed, _) => {
                lease.report.renewed += 1;
                lease.renewed.insert(*from, to);
            }
            _ => lease.report.failed += 1,
        }
        lease.in_flight.remove(from);
        self.finish_lease_if_done(now, query);
    }

    pub(super) fn lease_stored(&mut self, now: Now, query: QueryId, from: &DeviceKey, answer: &StoreAnswer) {
        let Some(lease) = self.leases.get_mut(&query) else { return };
        if lease.in_flight.remove(from).is_some() {
            match answer.outcome {
                StoreOutcome::Accepted => lease.report.stored += 1,
                StoreOutcome::Refused { .. } => lease.report.failed += 1,
            }
        }
        self.finish_lease_if_done(now, query);
    }

    pub(super) fn lease_failed(&mut self, now: Now, query: QueryId, to: &DeviceKey) {
        if let Some(lease) = self.leases.get_mut(&query)
            && lease.in_flight.remove(to).is_some()
        {
            lease.report.failed += 1;
        }
        self.finish_lease_if_done(now, query);
    }

    fn finish_lease_if_done(&mut self, now: Now, query: QueryId) {
        if self.leases.get(&query).is_none_or(|lease| !lease.in_flight.is_empty()) {
            return;
        }
        let Some(lease) = self.leases.remove(&query) else { return };
        let report = lease.report;
        let soon = now.instant + self.jittered(SOON);
        if let Some(own) = self.own.get_mut(&report.key)
            && (report.failed > 0 || report.asked == 0)
        {
            own.next_at = own.next_at.min(soon);
            own.renewed = lease.renewed;
        }
        self.event(Event::LeaseRenewed { query, report });
    }
}
