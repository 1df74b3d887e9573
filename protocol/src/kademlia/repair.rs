//! Brings records back to eight living replicas when nodes die or join.
//!
//! A death near a record makes it *dirty* after a delay: a few seconds of jitter for the closest living replica, [`RANK_DELAY`] more for each
//! rank after it, so that mostly one node sends and the others find, by one small offer of hashes, that nothing is left to do. A node that
//! joins is offered what it should hold by the two closest in the same way; the others look after it at their next *round*, some minutes later,
//! when much goes together. Who holds a record and isn't among its replicas leaves it to them, once half of them are known to hold the same.
//! Stores that follow an offer are sent a few at a time.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::RngExt;

use super::messages::{
    EXTENSION_PASSED, Request, SYNC_ITEMS_MAX, Store, StoreAnswer, StoreOutcome, SyncItem, SyncOffer, SyncWant,
};
use super::routing_table::{Mark, REPLICAS};
use super::store::{Held, Sender};
use super::{Directory, Errand, Failure, RecordKey};
use crate::directory::Place;
use crate::identity::TrustStore;
use crate::key::DeviceKey;
use crate::node::Descriptor;
use crate::time::Now;
use crate::wire::Extensions;

/// Least and most delay of the closest replica: long enough to gather several deaths, short against the lifetime of seven others.
const DELAY: std::ops::RangeInclusive<u64> = 1_000..=4_000;

/// Delay, in milliseconds, before a node that has joined compares what it kept from an earlier run.
const RESYNC_DELAY: std::ops::RangeInclusive<u64> = 100..=1_000;

/// How long after joining records of an earlier run are told apart: the comparison and the stores that follow it take a few seconds; where
/// nobody is there to compare with, they are what there is.
const DOUBT: Duration = Duration::from_secs(30);

/// How much longer each replica waits than the one before it.
const RANK_DELAY: Duration = Duration::from_secs(5);

/// Replicas that hurry to a node that has joined, and to those that hold what a publication replaced: one does it, one more in case it doesn't.
const HURRYING: usize = 2;

/// Replicas that a node beside them offers to, once half of them are known to hold the same.
const BESIDE: usize = 2;

/// From one round to the next, in seconds: some five changes of a neighbourhood of thirty nodes with sessions of an hour.
const ROUND: std::ops::RangeInclusive<u64> = 300..=600;

/// What is due so soon goes along with what is due now.
const EARLY: Duration = Duration::from_secs(1);

/// After a failure, or when the other side is busy.
const RETRY: Duration = Duration::from_secs(15);

/// Records looked at per wake-up, so that a large store doesn't hold up everything else.
const BATCH_MAX: usize = 512;

/// Stores on their way at once, and waiting. What doesn't fit becomes dirty again.
const STORES_MAX: usize = 16;
const QUEUE_MAX: usize = 4_096;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Joined,
    Died,
}

/// Whom a record is offered to when it is due; the later includes the earlier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Scope {
    /// Nodes beside the replicas that held what it replaced.
    Former,
    /// The replicas too that aren't known to hold it.
    Replicas,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Repair {
    due: BTreeSet<(Instant, RecordKey)>,
    dirty: BTreeMap<RecordKey, (Instant, Scope)>,
    queue: VecDeque<(DeviceKey, RecordKey)>,
    in_flight: usize,
    /// Records of an earlier run that are on their way to somebody who holds something else: that one's answer brings what is newer, and the others
    /// needn't say it too.
    comparing: BTreeSet<RecordKey>,
    /// The next round: what doesn't hurry is due then.
    round_at: Option<Instant>,
    /// When records of an earlier run are as good as any; `None` before this node has joined.
    pub(super) doubt_ends: Option<Instant>,
}

impl Repair {
    /// Two plans for one record become one: the earlier time, the wider scope.
    fn schedule(&mut self, key: RecordKey, at: Instant, scope: Scope) {
        let known = self.dirty.get(&key).copied().unwrap_or((at, scope));
        let (at, scope) = (at.min(known.0), scope.max(known.1));
        self.forget(&key);
        self.dirty.insert(key, (at, scope));
        self.due.insert((at, key));
    }

    pub(super) fn forget(&mut self, key: &RecordKey) -> Option<Scope> {
        let (at, scope) = self.dirty.remove(key)?;
        self.due.remove(&(at, *key));
        Some(scope)
    }

    pub(super) fn wake_at(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// The next record that is due by `until`.
    fn take_due(&mut self, until: Instant) -> Option<(RecordKey, Scope)> {
        let (at, key) = self.due.first().copied()?;
        if at > until {
            return None;
        }
        self.forget(&key).map(|scope| (key, scope))
    }
}

impl Directory {
    /// A proved node appeared or disappeared: which records does it touch?
    pub(super) fn neighbourhood_changed(&mut self, now: Now, node: &Arc<Descriptor>, change: Change) {
        if change == Change::Died {
            self.store.forget_synced(&node.device);
        }
        if !self.local.is_serving {
            return;
        }
        if change == Change::Died && self.local.place.is_some_and(|place| self.is_replica(&RecordKey(place.0), node)) {
            self.plan_to_look_around_for(now, node.place.owner());
        }
        let touched: Vec<_> =
            self.store.keys_in(self.table.replica_span(&node.place)).filter(|key| self.is_replica(key, node)).collect();
        // One pause for all of them, so that they go out together: most of an offer's bytes are its packets'.
        let jitter = self.repair_jitter();
        for key in touched {
            // Who has joined knows of nothing yet, and does nothing for it.
            let is_ahead = change == Change::Joined && self.is_nearer(&key, node);
            let rank = self.rank_of_self(&key) - usize::from(is_ahead);
            if rank >= REPLICAS && self.is_left_to_replicas(&key) {
                continue;
            }
            if rank < HURRYING || (rank < REPLICAS && change == Change::Died) {
                self.mark_dirty(now, key, jitter);
            } else {
                let at = self.next_round(now);
                self.repair.schedule(key, at, Scope::Replicas);
            }
        }
    }

    /// True if `node` is nearer to `key` than this one, and so is counted in this one's rank.
    fn is_nearer(&self, key: &RecordKey, node: &Descriptor) -> bool {
        let target = Place(key.0);
        let own = self.local.place.map(|place| target.distance(&place));
        own.is_some_and(|own| self.rank_of_self(key) > 0 && target.distance(&node.place) < own)
    }

    /// True if half of the replicas are known to hold what is held here.
    fn is_left_to_replicas(&self, key: &RecordKey) -> bool {
        let replicas = self.live_targets(key);
        self.store.get(key).is_some_and(|held| held.is_confirmed_by(&replicas))
    }

    fn next_round(&mut self, now: Now) -> Instant {
        match self.repair.round_at {
            Some(at) if at > now.instant => at,
            _ => {
                let at = now.instant + Duration::from_secs(self.rng.random_range(ROUND));
                *self.repair.round_at.insert(at)
            }
        }
    }

    pub(super) fn repair_jitter(&mut self) -> Duration {
        Duration::from_millis(self.rng.random_range(DELAY))
    }

    /// True if `node` is, or would be if it lived, among the replicas of `key`.
    fn is_replica(&self, key: &RecordKey, node: &Descriptor) -> bool {
        self.table.closer_than(&Place(key.0), &node.place, REPLICAS) < REPLICAS
    }

    pub(super) fn mark_dirty(&mut self, now: Now, key: RecordKey, jitter: Duration) {
        let rank = self.local.place.map_or(REPLICAS, |place| self.table.closer_than(&Place(key.0), &place, REPLICAS));
        let delay = jitter + RANK_DELAY * u32::try_from(rank).unwrap_or(u32::MAX);
        self.repair.schedule(key, now.instant + delay, Scope::Replicas);
    }

    /// A record changed that nodes beside the replicas hold as it was: they stood in for some that were away, publishers pass them by now, and
    /// who asks them would hear what is out of date.
    pub(super) fn tell_former_replicas(&mut self, now: Now, key: RecordKey) {
        let replicas = self.live_targets(&key);
        let is_replica = |mark| replicas.iter().any(|replica| Mark::of(&replica.device) == mark);
        let is_due = self.store.get(&key).is_some_and(|held| held.behind().any(|mark| !is_replica(mark)));
        let rank = self.rank_of_self(&key);
        if is_due && rank < HURRYING {
            let delay = self.repair_jitter() + RANK_DELAY * u32::try_from(rank).unwrap_or(u32::MAX);
            self.repair.schedule(key, now.instant + delay, Scope::Former);
        } else {
            self.store.forget_former(&key);
        }
    }

    /// After joining: what is held from an earlier run may be out of date, and the others wait for their rank before they look. So it is
    /// compared at once; whoever holds something newer answers our offer's store with it.
    pub(super) fn resync(&mut self, now: Now) {
        self.repair.doubt_ends.get_or_insert(now.instant + DOUBT);
        if !self.local.is_serving {
            return;
        }
        let held: Vec<RecordKey> = self.store.keys().collect();
        for key in held {
            let delay = Duration::from_millis(self.rng.random_range(RESYNC_DELAY));
            self.repair.schedule(key, now.instant + delay, Scope::Replicas);
        }
    }

    pub(super) fn repair_timeout(&mut self, now: Now) {
        if self.repair.wake_at().is_none_or(|at| at > now.instant) {
            return;
        }
        let mut offers: BTreeMap<DeviceKey, (Arc<Descriptor>, Vec<SyncItem>)> = BTreeMap::new();
        for _ in 0..BATCH_MAX {
            let Some((key, scope)) = self.repair.take_due(now.instant + EARLY) else { break };
            let Some(held) = self.store.get(&key) else { continue };
            let item = SyncItem { key, hash: held.hash };
            let replicas = self.live_targets(&key);
            let others = match scope {
                // Its publisher has brought it to the replicas and heard from each; that the others need telling is no reason to ask them.
                Scope::Former => 0,
                Scope::Replicas if self.is_own_replica(&key) => REPLICAS - 1,
                Scope::Replicas if held.is_confirmed_by(&replicas) => BESIDE,
                Scope::Replicas => REPLICAS,
            };
            let former = held.behind().filter_map(|mark| self.table.live_marked(mark));
            let former = former.filter(|former| replicas.iter().all(|replica| replica.device != former.device));
            let former: Vec<_> = former.collect();
            let replicas = replicas.into_iter().take(others).filter(|replica| !held.is_synced(&replica.device));
            for to in replicas.chain(former) {
                offers.entry(to.device).or_insert_with(|| (to, Vec::new())).1.push(item);
            }
            self.store.forget_former(&key);
        }
        for (to, items) in offers.into_values() {
            for items in items.chunks(SYNC_ITEMS_MAX) {
                let request = Request::SyncOffer(SyncOffer { items: items.to_vec(), extensions: Extensions::none() });
                self.send(now, Arc::clone(&to), request, Errand::Offer(items.to_vec()));
            }
        }
    }

    pub(super) fn offer_answered(&mut self, now: Now, from: &DeviceKey, items: &[SyncItem], answer: &SyncWant) {
        let passed = answer.extensions.find(EXTENSION_PASSED);
        // What can't be read says of none that it is held.
        let passed = passed.map_or(0, |bytes| bytes.try_into().map_or(u64::MAX, u64::from_le_bytes));
        for (number, item) in (0..).zip(items) {
            if !answer.keys.contains(&item.key) {
                if passed & 1_u64.checked_shl(number).unwrap_or(0) == 0 {
                    self.store.mark_synced(&item.key, *from);
                }
                continue;
            }
            let is_old = self.store.get(&item.key).is_some_and(|held| held.is_unconfirmed() && !held.is_shown());
            let has_room = self.repair.queue.len() < QUEUE_MAX;
            if has_room && (!is_old || self.repair.comparing.insert(item.key)) {
                self.repair.queue.push_back((*from, item.key));
            } else {
                self.repair.schedule(item.key, now.instant + RETRY, Scope::Replicas);
            }
        }
        self.pump_repairs(now);
    }

    fn pump_repairs(&mut self, now: Now) {
        while self.repair.in_flight < STORES_MAX {
            let Some((device, key)) = self.repair.queue.pop_front() else { return };
            let (Some(to), Some(held)) = (self.table.live_descriptor(&device), self.store.get(&key)) else {
                self.repair.comparing.remove(&key);
                continue;
            };
            let request = Request::Store(Store { record: held.bytes.clone(), extensions: Extensions::none() });
            self.repair.in_flight += 1;
            self.send(now, to, request, Errand::Repair(key));
        }
    }

    pub(super) fn offer_failed(&mut self, now: Now, items: &[SyncItem], failure: Failure) {
        // A dead node's place is taken by the next; one that doesn't speak this won't learn.
        if failure != Failure::Unsupported {
            for item in items {
                self.repair.schedule(item.key, now.instant + RETRY, Scope::Replicas);
            }
        }
    }

    pub(super) fn repair_answered(
        &mut self,
        now: Now,
        trust: &TrustStore,
        key: RecordKey,
        from: &DeviceKey,
        answer: StoreAnswer,
    ) {
        self.repair.in_flight = self.repair.in_flight.saturating_sub(1);
        let newer = answer.record.and_then(|bytes| Self::verify_held(&bytes, key, now.unix, trust));
        if let Some(newer) = newer {
            let sender = Sender { device: *from, group: None, is_server: true };
            // A refusal means that we held as much.
            let _ = self.take_record(now, newer, sender);
        }
        let is_same = self.store.get(&key).is_some_and(|held| answer.holds == Some(held.hash));
        if is_same || matches!(answer.outcome, StoreOutcome::Refused { .. }) {
            // Refused for good: asking again at the next change is soon enough.
            self.store.mark_synced(&key, *from);
        }
        self.compared(now, key);
        self.pump_repairs(now);
    }

    /// Whom a record of an earlier run was shown to has answered, or hasn't. If it is no wiser, all others are shown it at once.
    fn compared(&mut self, now: Now, key: RecordKey) {
        if self.repair.comparing.remove(&key) && self.store.get(&key).is_some_and(Held::is_unconfirmed) {
            self.store.set_shown(&key);
            self.repair.schedule(key, now.instant, Scope::Replicas);
        }
    }

    pub(super) fn repair_failed(&mut self, now: Now, key: RecordKey, failure: Failure) {
        self.repair.in_flight = self.repair.in_flight.saturating_sub(1);
        self.compared(now, key);
        if failure != Failure::Unsupported {
            self.repair.schedule(key, now.instant + RETRY, Scope::Replicas);
        }
        self.pump_repairs(now);
    }
}
