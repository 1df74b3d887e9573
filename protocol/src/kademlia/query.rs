//! Runs look-ups: starts them, feeds them verified answers, hands out their results.

use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;

use super::hearsay;
use super::known;
use super::lookup::{End, Goal, Lookup, Purpose};
use super::messages::{
    Answer, CLOSER_MAX, EXTENSION_DOUBTFUL, FindNode, FindRecord, RecordAnswer, RecordOutcome, Request, StoreRefusal,
};
use super::publish::Found;
use super::routing_table::REPLICAS;
use super::store::{self, Refused};
use super::{BOOTSTRAP_WALKS, Bootstrap, CLIENT_BREADTH, CLIENT_WALKS, Directory, Errand, Event, QueryId};
use crate::directory::{DirectoryRecord, Place, RecordKey};
use crate::identity::TrustStore;
use crate::key::DeviceKey;
use crate::node::Descriptor;
use crate::time::{Now, UnixTime};
use crate::wire::Extensions;

/// Nodes a look-up starts from, of the proved and of the hints each: four replica sets and no more, whatever the table holds.
const START_MAX: usize = 4 * REPLICAS;

/// How sure a look-up should be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// The first valid record: enough to dial, since the peer then proves its device key.
    #[default]
    First,
    /// The newest of all replicas that answer.
    Settled,
}

/// How to look up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FindOptions {
    /// How sure to be.
    pub mode: Mode,
    /// Ask others even if this node holds the record itself: shows that the network has it.
    pub is_remote_only: bool,
}

/// What a look-up found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FindOutcome {
    /// A valid record.
    Found(Box<DirectoryRecord>),
    /// There is none: most of the living replicas say so, over disjoint paths.
    Absent,
    /// Too few could be asked to know.
    Inconclusive,
}

/// A look-up's result and how it came about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FindResult {
    /// Under which key.
    pub key: RecordKey,
    /// What.
    pub outcome: FindOutcome,
    /// Requests sent for it.
    pub requests: u32,
    /// Valid answers among them.
    pub answers: u32,
    /// Most of the living replicas were heard.
    pub is_settled: bool,
    /// Replicas that hold exactly this.
    pub agreeing: usize,
    /// Replicas counted: the eight closest that live, of few nodes fewer.
    pub replicas: usize,
    /// How long it took.
    pub elapsed: Duration,
}

impl FindResult {
    /// The record, if one was found.
    #[must_use]
    pub fn record(&self) -> Option<&DirectoryRecord> {
        match &self.outcome {
            FindOutcome::Found(record) => Some(record),
            _ => None,
        }
    }
}

impl Directory {
    /// Looks a record up; ends in [`Event::Found`].
    pub fn find_record(&mut self, now: Now, key: RecordKey, options: FindOptions) -> QueryId {
        let is_settled = options.mode == Mode::Settled;
        let goal = Goal::Record { key, settled: is_settled };
        let held = self.store.get(&key).filter(|_| !options.is_remote_only);
        let own_copy = held.map(|held| (held.record.clone(), !self.is_doubtful(now, &key, held)));
        self.start_lookup(now, goal, Place(key.0), Purpose::Find, own_copy)
    }

    /// Joins the network: looks this node's own neighbourhood up, then a few far ones; ends in [`Event::Bootstrapped`].
    /// Tell it of some nodes first ([`Directory::add_hearsay`]).
    pub fn bootstrap(&mut self, now: Now) -> QueryId {
        let query = self.next_query();
        let walks_left = if self.local.is_serving { BOOTSTRAP_WALKS } else { 1 };
        if let Some(superseded) = self.bootstrap.replace(Bootstrap { query, walks_left }) {
            let servers = self.table.live_count();
            self.event(Event::Bootstrapped { query: superseded.query, servers });
        }
        let target = self.local.place.unwrap_or_else(|| self.random_point());
        let breadth = if self.local.is_serving { REPLICAS } else { CLIENT_BREADTH };
        self.start_lookup(now, Goal::Nodes { breadth }, target, Purpose::Bootstrap, None);
        query
    }

    pub(super) fn refresh(&mut self, now: Now) {
        if let Some(place) = self.local.place.filter(|_| self.local.is_serving) {
            self.start_lookup(now, Goal::Nodes { breadth: 3 }, place, Purpose::Refresh, None);
        }
        // What somebody who serves has seen others learn from them: they go and see. A client is mostly told, by more than two, and goes too now and then, so that
        // it doesn't depend on what a few say.
        let asked = self.sample(now);
        let walks = self.local.is_serving || asked < CLIENT_BREADTH || self.rng.random_ratio(1, CLIENT_WALKS);
        if walks {
            let target = self.random_point();
            self.start_lookup(now, Goal::Nodes { breadth: 2 }, target, Purpose::Refresh, None);
        }
    }

    pub(super) fn start_lookup(
        &mut self,
        now: Now,
        goal: Goal,
        target: Place,
        purpose: Purpose,
        own_copy: Option<(DirectoryRecord, bool)>,
    ) -> QueryId {
        let query = self.next_query();
        let mut lookup = Lookup::new(goal, target, purpose, self.local.device, self.config.is_lab, now.instant);
        if self.is_full_of_queries() {
            self.finish_lookup(now, query, &lookup, End::Inconclusive);
            return query;
        }
        lookup.start_from(self.table.worth_asking(&target, START_MAX, now.instant));
        if let Some((record, is_sure)) = own_copy {
            lookup.take(record, is_sure);
        }
        self.lookups.insert(query, Box::new(lookup));
        self.drive_lookup(now, query);
        query
    }

    pub(super) fn drive_lookup(&mut self, now: Now, query: QueryId) {
        let Some(mut lookup) = self.lookups.remove(&query) else { return };
        for (silent, is_own) in lookup.newly_silent(now.instant) {
            if !self.table.is_connected(&silent) {
                self.table.suspect(&silent);
                if is_own {
                    self.counters.silent_contacts += 1;
                    self.table.contacted(false);
                }
            }
        }
        lookup.grant(self.lateness.allowance(now.instant));
        let step = lookup.step(now.instant, &self.table);
        for to in step.ask {
            let known = lookup.known_beside(&to.device, now.instant);
            let salt = if known.is_empty() { known::Salt::default() } else { self.rng.random() };
            let request = question(&lookup, &known, salt);
            lookup.asked(&to.device, now.instant, self.patience(now, &to.device));
            self.send(now, to, request, Errand::Lookup { query, known });
        }
        match step.end {
            Some(end) => self.finish_lookup(now, query, &lookup, end),
            None => {
                self.lookups.insert(query, lookup);
            }
        }
    }

    pub(super) fn fail_lookups_of(&mut self, now: Now, device: &DeviceKey) {
        for query in self.lookups.keys().copied().collect::<Vec<_>>() {
            if let Some(lookup) = self.lookups.get_mut(&query) {
                lookup.failed(device);
            }
            self.drive_lookup(now, query);
        }
    }

    pub(super) fn lookup_answered(
        &mut self,
        now: Now,
        trust: &TrustStore,
        query: QueryId,
        from: &DeviceKey,
        known: &[Arc<Descriptor>],
        answer: Answer,
    ) {
        let Some(mut lookup) = self.lookups.remove(&query) else { return };
        let answer = with_known(known, answer);
        let proved = self.table.proved_place(from);
        let is_believable = match (lookup.goal, answer) {
            // A node that stands elsewhere than we were told was a false hint.
            _ if proved.is_some() && proved != lookup.place_of(from) => false,
            (Goal::Record { key, .. }, Some(Answer::Record(answer))) => {
                self.record_answered(now, trust, key, &mut lookup, from, answer, proved.is_some())
            }
            (Goal::Nodes { .. }, Some(Answer::Nodes(answer))) => {
                lookup.answered(from);
                self.hear_closer(now, &mut lookup, from, answer.closer, &[]);
                true
            }
            _ => false,
        };
        if !is_believable {
            self.counters.invalid_answers += 1;
            lookup.failed(from);
        }
        self.lookups.insert(query, lookup);
        self.drive_lookup(now, query);
    }

    #[allow(clippy::too_many_arguments, reason = "one answer with all that is needed to judge it")]
    fn record_answered(
        &mut self,
        now: Now,
        trust: &TrustStore,
        key: RecordKey,
        lookup: &mut Lookup,
        from: &DeviceKey,
        answer: RecordAnswer,
        is_proved: bool,
    ) -> bool {
        // Who stands far from a key may take itself for a replica, and publications pass it by.
        let is_sure = answer.extensions.find(EXTENSION_DOUBTFUL).is_none() && !lookup.is_guide(from);
        match answer.outcome {
            RecordOutcome::Found(bytes) => match verify_bytes(&bytes, key, now.unix, trust) {
                Ok(record) => {
                    lookup.found(from, record, is_sure);
                    true
                }
                Err(refused) => {
                    // An expired copy may be honest neglect; a forged one is not.
                    if refused.reason == StoreRefusal::Invalid {
                        self.table.strike(*from);
                    }
                    false
                }
            },
            RecordOutcome::Same => lookup.same(from, is_sure),
            RecordOutcome::Absent => {
                let Ok(mut hearsay) = hearsay::named_in(&answer.extensions) else { return false };
                // Of whom this node knows, who has met them told it more.
                hearsay.retain(|node| !self.table.is_known(&node.device));
                lookup.absent(from, is_proved);
                self.hear_closer(now, lookup, from, answer.closer, &hearsay);
                true
            }
        }
    }

    /// Takes in whom a node has named: those it has met, for later too, and for this look-up those it knows by hearsay.
    fn hear_closer(
        &mut self,
        now: Now,
        lookup: &mut Lookup,
        from: &DeviceKey,
        closer: Vec<Arc<Descriptor>>,
        hearsay: &[Arc<Descriptor>],
    ) {
        lookup.told(from, &closer, hearsay);
        for descriptor in closer {
            self.table.hear(now.instant, descriptor, Some(from));
        }
    }

    fn finish_lookup(&mut self, now: Now, query: QueryId, lookup: &Lookup, end: End) {
        match lookup.purpose {
            Purpose::Find => {
                let result = result_of(now, lookup, end);
                self.event(Event::Found { query, result });
            }
            Purpose::Bootstrap => self.bootstrap_walked(now),
            Purpose::Refresh => {}
            Purpose::Publish(publish) => {
                let found = Found {
                    replicas: lookup.closest(now.instant, 2 * REPLICAS),
                    is_astray: lookup.is_astray(now.instant, &self.table),
                    requests: lookup.requests,
                };
                self.publish_found_replicas(now, publish, found);
            }
            Purpose::Listing(listing) => {
                let replicas = lookup.closest(now.instant, 2 * REPLICAS);
                self.listing_found_replicas(now, listing, replicas);
            }
            Purpose::ReadBack(key) => {
                let result = result_of(now, lookup, end);
                self.own_read_back(now, key, result);
            }
        }
    }

    fn bootstrap_walked(&mut self, now: Now) {
        let Some(bootstrap) = &mut self.bootstrap else { return };
        if bootstrap.walks_left > 0 && self.table.live_count() + self.table.hint_count() > 0 {
            bootstrap.walks_left -= 1;
            let target = self.random_point();
            self.start_lookup(now, Goal::Nodes { breadth: 2 }, target, Purpose::Bootstrap, None);
            return;
        }
        let query = bootstrap.query;
        self.bootstrap = None;
        self.plan_to_look_around(now);
        self.sample(now);
        let servers = self.table.live_count();
        self.resync(now);
        self.event(Event::Bootstrapped { query, servers });
    }

    /// Verifies bytes that came as an acknowledgement for `key`.
    pub(super) fn verify_held(bytes: &[u8], key: RecordKey, now: UnixTime, trust: &TrustStore) -> Option<DirectoryRecord> {
        verify_bytes(bytes, key, now, trust).ok()
    }
}

/// What a look-up asks, of who needn't spell out what is known.
fn question(lookup: &Lookup, known: &[Arc<Descriptor>], salt: known::Salt) -> Request {
    let want = u8::try_from(CLOSER_MAX).unwrap_or(u8::MAX);
    let extensions = known::with_marks(Extensions::none(), known, salt);
    match lookup.goal {
        Goal::Record { key, .. } => {
            let have_hash = lookup.found.as_ref().map(DirectoryRecord::state_hash);
            Request::FindRecord(FindRecord { key, have_hash, want, extensions })
        }
        Goal::Nodes { .. } => Request::FindNode(FindNode { target: lookup.target.0, want, extensions }),
    }
}

/// An answer with all that it names; `None` if it names what wasn't known.
fn with_known(known: &[Arc<Descriptor>], answer: Answer) -> Option<Answer> {
    Some(match answer {
        Answer::Nodes(mut answer) => {
            answer.closer = known::all_named(known, answer.closer, &answer.extensions)?;
            Answer::Nodes(answer)
        }
        Answer::Record(mut answer) => {
            answer.closer = known::all_named(known, answer.closer, &answer.extensions)?;
            Answer::Record(answer)
        }
        other => other,
    })
}

fn verify_bytes(bytes: &[u8], key: RecordKey, now: UnixTime, trust: &TrustStore) -> Result<DirectoryRecord, Refused> {
    let record = store::parse(bytes)?;
    if record.claimed_key() != key {
        return Err(Refused::new(StoreRefusal::Invalid, "another user's record"));
    }
    record.verify(now, trust).map_err(|error| Refused::from(&error))
}

fn result_of(now: Now, lookup: &Lookup, end: End) -> FindResult {
    let agreement = lookup.agreement(now.instant);
    let key = match lookup.goal {
        Goal::Record { key, .. } => key,
        Goal::Nodes { .. } => RecordKey(lookup.target.0),
    };
    let outcome = match (&lookup.found, end) {
        (Some(record), _) => FindOutcome::Found(Box::new(record.clone())),
        (None, End::Absent) => FindOutcome::Absent,
        (None, _) => FindOutcome::Inconclusive,
    };
    FindResult {
        key,
        is_settled: agreement.is_settled || outcome == FindOutcome::Absent,
        outcome,
        requests: lookup.requests,
        answers: lookup.answers,
        agreeing: agreement.agreeing,
        replicas: agreement.replicas,
        elapsed: now.instant.saturating_duration_since(lookup.started),
    }
}
