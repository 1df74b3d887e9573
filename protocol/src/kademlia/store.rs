//! The records this node keeps for others: verified, merged, bounded.
//!
//! Limits, and what happens at each: per sender and per network (refused by name), in total by number and by bytes (the record farthest from our
//! place makes room, and only for a nearer one), users without an authority together (their names cost nothing, so they get a share), expiry.
//! Nothing is evicted by age of use: a flood of far records can't push out near ones.

mod shared;

pub use shared::share_records;

use std::collections::BTreeMap;
use std::sync::Arc;

use super::messages::{DETAIL_BYTES_MAX, LEASED_RECORD_BYTES, StoreRefusal};
use super::routing_table::{KeySpan, Mark, NetworkGroup, REPLICAS};
use crate::directory::{DirectoryRecord, Place, RECORD_BYTES_MAX, RecordError, RecordKey, UnverifiedRecord};
use crate::identity::{ChainError, TrustStore, UserChain};
use crate::key::DeviceKey;
use crate::node::Descriptor;
use crate::time::UnixTime;

/// Bounds of what a node keeps for others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreLimits {
    /// Distinct keys from one client. A device publishes one record, a gateway those of the users it keeps.
    pub per_client: usize,
    /// Distinct keys from one directory node, which repairs for many.
    pub per_server: usize,
    /// Distinct keys from one network (/24 or /48).
    pub per_network: usize,
    /// Records of users without an authority.
    pub unnamed: usize,
    /// All records.
    pub records: usize,
    /// All records' bytes.
    pub bytes: usize,
}

impl Default for StoreLimits {
    /// At most 65,536 records and 64 MiB: eight replicas of a record and nine clients to a server make a node's fair share below 100.
    fn default() -> Self {
        Self { per_client: 256, per_server: 4_096, per_network: 8_192, unnamed: 8_192, records: 65_536, bytes: 64 * 1024 * 1024 }
    }
}

/// Replicas that must hold the same as this node before it believes what it kept from an earlier run: half, since others may have been away too.
const CONFIRMING_MIN: usize = REPLICAS / 2;

/// Most nodes remembered per record as holding the same: two replica sets.
const SYNCED_MAX: usize = 16;

/// Who sent a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sender {
    pub(super) device: DeviceKey,
    pub(super) group: Option<NetworkGroup>,
    pub(super) is_server: bool,
}

/// A record with what follows from it.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) record: DirectoryRecord,
    pub(super) bytes: Vec<u8>,
    /// Content hash: what replicas compare.
    pub(super) hash: [u8; 32],
    /// State hash: what askers compare.
    pub(super) state: [u8; 32],
    /// When the first of its parts ends: before, there is nothing to prune.
    ends_at: UnixTime,
}

impl Kept {
    fn new(record: DirectoryRecord) -> Arc<Self> {
        let bytes = record.to_bytes();
        let state = DirectoryRecord::state_hash_of(&bytes);
        shared::one_of(state, || Self { hash: record.content_hash(), ends_at: first_end(&record), state, bytes, record })
    }
}

/// A few nodes, each once.
#[derive(Clone, Debug, Default)]
struct Marks(Vec<Mark>);

impl Marks {
    fn contains(&self, mark: Mark) -> bool {
        self.0.contains(&mark)
    }

    fn insert(&mut self, mark: Mark) {
        if self.0.len() < SYNCED_MAX && !self.contains(mark) {
            self.0.push(mark);
        }
    }

    fn remove(&mut self, mark: Mark) {
        self.0.retain(|known| *known != mark);
    }
}

#[derive(Clone, Debug)]
pub(super) struct Held {
    kept: Arc<Kept>,
    sender: Sender,
    /// Nodes known to hold the same content.
    synced: Marks,
    /// Nodes that held what this replaced, and may hold it still.
    former: Marks,
    /// It comes from an earlier run, or came before this node was known here, and hasn't been compared with what others hold since.
    is_unconfirmed: bool,
    is_shown: bool,
}

impl std::ops::Deref for Held {
    type Target = Kept;

    fn deref(&self) -> &Kept {
        &self.kept
    }
}

impl Held {
    pub(super) fn is_synced(&self, device: &DeviceKey) -> bool {
        self.synced.contains(Mark::of(device))
    }

    /// Nodes that held what this replaced, and aren't known to hold this.
    pub(super) fn behind(&self) -> impl Iterator<Item = Mark> {
        self.former.0.iter().copied().filter(|mark| !self.synced.contains(*mark))
    }

    pub(super) const fn is_unconfirmed(&self) -> bool {
        self.is_unconfirmed
    }

    /// It was shown to one who holds something else, and that one had nothing newer to show.
    pub(super) const fn is_shown(&self) -> bool {
        self.is_shown
    }

    /// Half a set of replicas, of these, is known to hold the same.
    pub(super) fn is_confirmed_by(&self, replicas: &[Arc<Descriptor>]) -> bool {
        replicas.iter().filter(|replica| self.is_synced(&replica.device)).count() >= CONFIRMING_MIN
    }
}

/// What a store did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stored {
    /// The content held changed (leases apart).
    pub(super) is_changed: bool,
    /// What is held is more than what was sent.
    pub(super) is_merged: bool,
    /// Bytes to write to disk are new.
    pub(super) is_news: bool,
}

/// A refusal with its words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) reason: StoreRefusal,
    pub(super) detail: String,
}

impl Refused {
    pub(super) fn new(reason: StoreRefusal, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into() }
    }

    /// The words, as long as they may be on the wire.
    pub(super) fn short_detail(&self) -> String {
        let mut detail = self.detail.clone();
        while detail.len() > DETAIL_BYTES_MAX {
            detail.pop();
        }
        detail
    }
}

impl From<&RecordError> for Refused {
    fn from(error: &RecordError) -> Self {
        let reason = match error {
            RecordError::Chain(chain) => match chain {
                ChainError::UnknownAuthority(_) => StoreRefusal::UnknownAuthority,
                ChainError::UserRevoked(_) | ChainError::SigningRevoked(_) => StoreRefusal::Revoked,
                ChainError::UserExpired(_) | ChainError::SigningExpired { .. } | ChainError::DeviceExpired(_) => {
                    StoreRefusal::Expired
                }
                ChainError::UserNotYet(_) | ChainError::DeviceNotYet(_) => StoreRefusal::Future,
                _ => StoreRefusal::Invalid,
            },
            RecordError::FromTheFuture { .. } => StoreRefusal::Future,
            RecordError::Expired(_) => StoreRefusal::Expired,
            RecordError::Removed => StoreRefusal::Revoked,
            _ => StoreRefusal::Invalid,
        };
        Self::new(reason, error.to_string())
    }
}

/// Decodes a record without believing it.
pub(super) fn parse(bytes: &[u8]) -> Result<UnverifiedRecord, Refused> {
    if bytes.len() > RECORD_BYTES_MAX {
        let detail = format!("{} bytes, at most {RECORD_BYTES_MAX}", bytes.len());
        return Err(Refused::new(StoreRefusal::TooLarge, detail));
    }
    UnverifiedRecord::from_bytes(bytes).map_err(|error| Refused::from(&error))
}

#[derive(Clone, Debug)]
pub(super) struct ReplicaStore {
    limits: StoreLimits,
    origin: Place,
    is_lab: bool,
    held: BTreeMap<RecordKey, Held>,
    bytes: usize,
    unnamed: usize,
    by_sender: BTreeMap<DeviceKey, usize>,
    by_group: BTreeMap<NetworkGroup, usize>,
}

impl ReplicaStore {
    pub(super) fn new(limits: StoreLimits, place: Option<Place>, is_lab: bool) -> Self {
        Self {
            limits,
            origin: place.unwrap_or(Place([0; 32])),
            is_lab,
            held: BTreeMap::new(),
            bytes: 0,
            unnamed: 0,
            by_sender: BTreeMap::new(),
            by_group: BTreeMap::new(),
        }
    }

    pub(super) fn get(&self, key: &RecordKey) -> Option<&Held> {
        self.held.get(key)
    }

    /// What is held under keys that begin with `first`: mostly one record, or none.
    pub(super) fn beginning_with(&self, first: [u8; LEASED_RECORD_BYTES]) -> impl Iterator<Item = (&RecordKey, &Held)> {
        let mut low = RecordKey([0; 32]);
        low.0[..LEASED_RECORD_BYTES].copy_from_slice(&first);
        self.held.range(low..).take_while(move |(key, _)| key.0.starts_with(&first))
    }

    /// Every key held.
    pub(super) fn keys(&self) -> impl Iterator<Item = RecordKey> {
        self.held.keys().copied()
    }

    pub(super) fn keys_in(&self, (first, last): KeySpan) -> impl Iterator<Item = RecordKey> {
        self.held.range(first..=last).map(|(key, _)| *key)
    }

    pub(super) fn set_origin(&mut self, place: Option<Place>) {
        self.origin = place.unwrap_or(Place([0; 32]));
    }

    pub(super) fn len(&self) -> usize {
        self.held.len()
    }

    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Refuses what the sender has no room for, before any signature is checked.
    pub(super) fn admit(&self, key: &RecordKey, user: &UserChain, sender: &Sender) -> Result<(), Refused> {
        if self.held.contains_key(key) {
            return Ok(());
        }
        let share = if sender.is_server { self.limits.per_server } else { self.limits.per_client };
        if self.by_sender.get(&sender.device).copied().unwrap_or(0) >= share {
            return Err(Refused::new(StoreRefusal::QuotaPeer, format!("{share} keys of one sender")));
        }
        let in_network = sender.group.and_then(|group| self.by_group.get(&group)).copied().unwrap_or(0);
        if !self.is_lab && in_network >= self.limits.per_network {
            return Err(Refused::new(StoreRefusal::QuotaNetwork, format!("{in_network} keys of one network")));
        }
        if matches!(user, UserChain::Key(_)) && self.unnamed >= self.limits.unnamed {
            return Err(Refused::new(StoreRefusal::QuotaTotal, "full for users without an authority"));
        }
        let is_full = self.held.len() >= self.limits.records || self.bytes >= self.limits.bytes;
        if is_full && self.farthest().is_none_or(|farthest| farthest.distance(&self.origin) <= key.distance(&self.origin)) {
            return Err(Refused::new(StoreRefusal::QuotaTotal, "full with nearer records"));
        }
        Ok(())
    }

    fn farthest(&self) -> Option<RecordKey> {
        self.held.keys().max_by_key(|key| key.distance(&self.origin)).copied()
    }

    /// Joins a verified record with what is held. Returns what changed, and the keys that had to go to make room.
    pub(super) fn put(
        &mut self,
        record: DirectoryRecord,
        sender: Sender,
        now: UnixTime,
    ) -> Result<(Stored, Vec<RecordKey>), Refused> {
        let key = record.key();
        let sent_hash = record.content_hash();
        let Some(held) = self.held.remove(&key) else {
            self.insert(record, sender, Marks::default(), Marks::default());
            let gone = self.shrink();
            if gone.contains(&key) {
                return Err(Refused::new(StoreRefusal::QuotaTotal, "full with nearer records"));
            }
            return Ok((Stored { is_changed: true, is_merged: false, is_news: true }, gone));
        };
        self.uncount(&held);
        let merged = held.record.clone().merge(record).prune(now);
        if merged.is_empty() {
            // Both sides together remove every device: nobody could verify such a record.
            return Err(Refused::new(StoreRefusal::Revoked, "no device is left in the record"));
        }
        let hash = merged.content_hash();
        let is_changed = hash != held.hash;
        let is_news = is_changed || merged != held.record;
        let brought_first = held.sender;
        let (synced, former) = if is_changed {
            let mut former = held.synced;
            held.former.0.into_iter().for_each(|mark| former.insert(mark));
            (Marks::default(), former)
        } else {
            (held.synced, held.former)
        };
        self.insert(merged, brought_first, synced, former);
        // Who sends something older confirms nothing, and one who sends the same confirms no more than any.
        self.set_unconfirmed(&key, held.is_unconfirmed && !is_changed);
        if sent_hash == hash && sender.is_server {
            self.mark_synced(&key, sender.device);
        }
        if !is_changed && sent_hash != hash {
            return Err(Refused::new(StoreRefusal::Stale, "everything sent is known, or older than what is held"));
        }
        let gone = self.shrink();
        Ok((Stored { is_changed, is_merged: sent_hash != hash, is_news }, gone))
    }

    /// Puts a changed copy of a held record back: a lease renewed.
    pub(super) fn replace(&mut self, record: DirectoryRecord) {
        let Some(held) = self.held.remove(&record.key()) else { return };
        self.uncount(&held);
        let key = record.key();
        self.insert(record, held.sender, held.synced, held.former);
        self.set_unconfirmed(&key, held.is_unconfirmed);
    }

    /// Marks a record as one that others may have more of, or as compared with theirs.
    pub(super) fn set_unconfirmed(&mut self, key: &RecordKey, is_unconfirmed: bool) {
        if let Some(held) = self.held.get_mut(key) {
            held.is_unconfirmed = is_unconfirmed;
        }
    }

    /// Notes that a record was shown to one who holds something else, in vain.
    pub(super) fn set_shown(&mut self, key: &RecordKey) {
        if let Some(held) = self.held.get_mut(key) {
            held.is_shown = true;
        }
    }

    fn insert(&mut self, record: DirectoryRecord, sender: Sender, synced: Marks, former: Marks) {
        let held = Held { kept: Kept::new(record), sender, synced, former, is_unconfirmed: false, is_shown: false };
        self.bytes += held.bytes.len();
        self.unnamed += usize::from(matches!(held.record.user(), UserChain::Key(_)));
        *self.by_sender.entry(sender.device).or_default() += 1;
        if let Some(group) = sender.group {
            *self.by_group.entry(group).or_default() += 1;
        }
        self.held.insert(held.record.key(), held);
    }

    fn uncount(&mut self, held: &Held) {
        self.bytes = self.bytes.saturating_sub(held.bytes.len());
        self.unnamed = self.unnamed.saturating_sub(usize::from(matches!(held.record.user(), UserChain::Key(_))));
        decrement(&mut self.by_sender, &held.sender.device);
        if let Some(group) = &held.sender.group {
            decrement(&mut self.by_group, group);
        }
    }

    pub(super) fn remove(&mut self, key: &RecordKey) -> bool {
        match self.held.remove(key) {
            Some(held) => {
                self.uncount(&held);
                true
            }
            None => false,
        }
    }

    fn shrink(&mut self) -> Vec<RecordKey> {
        let mut gone = Vec::new();
        while self.held.len() > self.limits.records || self.bytes > self.limits.bytes {
            let Some(farthest) = self.farthest() else { break };
            self.remove(&farthest);
            gone.push(farthest);
        }
        gone
    }

    /// Drops what is valid no longer; returns the keys.
    pub(super) fn expire(&mut self, now: UnixTime) -> Vec<RecordKey> {
        let mut gone = Vec::new();
        let due: Vec<_> = self.held.iter().filter(|(_, held)| held.ends_at < now).map(|(key, _)| *key).collect();
        for key in due {
            let Some(held) = self.held.get(&key) else { continue };
            let pruned = held.record.clone().prune(now);
            if user_end(pruned.user()) < now || pruned.is_empty() {
                self.remove(&key);
                gone.push(key);
            } else {
                self.replace(pruned);
            }
        }
        gone
    }

    /// Drops the records of users whom their authority took back; returns the keys.
    pub(super) fn revoke(&mut self, now: UnixTime, trust: &TrustStore) -> Vec<RecordKey> {
        let is_gone = |held: &Held| held.record.user().verify(now, trust).is_err();
        let gone: Vec<_> = self.held.iter().filter(|(_, held)| is_gone(held)).map(|(key, _)| *key).collect();
        for key in &gone {
            self.remove(key);
        }
        gone
    }

    pub(super) fn mark_synced(&mut self, key: &RecordKey, device: DeviceKey) {
        if let Some(held) = self.held.get_mut(key) {
            held.synced.insert(Mark::of(&device));
            held.is_unconfirmed &= held.synced.0.len() < CONFIRMING_MIN;
        }
    }

    /// What was replaced has been told to those that held it.
    pub(super) fn forget_former(&mut self, key: &RecordKey) {
        if let Some(held) = self.held.get_mut(key) {
            held.former = Marks::default();
        }
    }

    pub(super) fn forget_synced(&mut self, device: &DeviceKey) {
        let mark = Mark::of(device);
        for held in self.held.values_mut() {
            held.synced.remove(mark);
            held.former.remove(mark);
        }
    }
}

/// When the user's certificates end, and with them the whole record.
fn user_end(user: &UserChain) -> UnixTime {
    match user {
        UserChain::Named { signing, user, .. } => user.unverified().not_after.min(signing.unverified().not_after),
        UserChain::Key(_) => UnixTime(u64::MAX),
    }
}

/// When the first part of a record ends.
fn first_end(record: &DirectoryRecord) -> UnixTime {
    let entries = record.entries().flat_map(|parts| {
        let lease = parts.lease.as_ref().map(|lease| lease.unverified().until);
        let keeper = parts.keeper_lease.as_ref().map(|kept| kept.lease.unverified().until);
        [Some(parts.entry().expires_at), Some(parts.certificate.unverified().not_after), lease, keeper]
    });
    let tombstones = record.tombstones().map(|tombstone| tombstone.until);
    entries.flatten().chain(tombstones).chain([user_end(record.user())]).min().unwrap_or(UnixTime(0))
}

fn decrement<K: Ord>(counts: &mut BTreeMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count = count.saturating_sub(1);
        if *count == 0 {
            counts.remove(key);
        }
    }
}
