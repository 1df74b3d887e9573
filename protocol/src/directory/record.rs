//! The record itself: validation and merging.

use std::collections::BTreeMap;
use std::sync::Arc;

use bincode::{Decode, Encode};

use super::RecordKey;
use super::entry::{DEVICE_LEASE_SECS_MAX, DeviceEntry, Lease, Reachability};
use crate::identity::{ChainError, DeviceCertificate, KeySuccession, Tombstone, TrustStore, UserChain, UserId};
use crate::key::{DeviceKey, IdentityKey, SignatureError, hash};
use crate::time::UnixTime;
use crate::wire::{self, DecodeError, Extensions, Signed};

/// Most devices in a record; of more, those with the newest certificates stay.
pub const DEVICES_MAX: usize = 16;

/// Most tombstones in a record; of more, those that last longest stay.
pub const TOMBSTONES_MAX: usize = 16;

/// Most key successions in a record.
const SUCCESSIONS_MAX: usize = 4;

/// Largest encoded record. Bounds what a replica stores per name.
pub const RECORD_BYTES_MAX: usize = 16 * 1024;

/// Largest encoding of a record's own extensions. No signature covers them, so anybody can add to them: they get a small
/// place of their own and never push out what a device signed.
const HINT_BYTES_MAX: usize = 512;

/// What the counts of a record's three lists take at most: each list is shorter than 251.
const LIST_COUNTS_BYTES: usize = 3;

/// What everything else in a record may take.
const SIGNED_BYTES_MAX: usize = RECORD_BYTES_MAX - HINT_BYTES_MAX;

/// Why a record is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// It isn't a record.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The user's chain doesn't hold.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// It belongs under another key than the one it was stored or asked under.
    #[error("the record belongs under {actual:?}, not {claimed:?}")]
    WrongKey {
        /// Key it was presented under.
        claimed: RecordKey,
        /// Key of the user inside.
        actual: RecordKey,
    },
    /// More parts than allowed.
    #[error("{count} {what}, at most {max}")]
    TooMany {
        /// Which part.
        what: &'static str,
        /// How many.
        count: usize,
        /// How many are allowed.
        max: usize,
    },
    /// The device didn't sign its entry or lease, or the identity key a tombstone.
    #[error("{what}: {source}")]
    Signature {
        /// Which part.
        what: &'static str,
        /// The failed verification.
        source: SignatureError,
    },
    /// Certificate and entry name different devices, or a lease names another entry.
    #[error("{0}")]
    Mismatch(&'static str),
    /// An entry or lease is dated further ahead than clocks differ.
    #[error("{what} is dated {issued_at}, which hasn't come")]
    FromTheFuture {
        /// Which part.
        what: &'static str,
        /// Its date.
        issued_at: UnixTime,
    },
    /// Every entry has expired.
    #[error("the record's last entry expired at {0}")]
    Expired(UnixTime),
    /// Every device in it was removed by its user.
    #[error("every device in the record has been removed by its user")]
    Removed,
    /// It has no entry.
    #[error("the record has no entry")]
    Empty,
}

/// A keeper's lease with the keeper that signed it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct KeeperLease {
    /// The keeper; must be named in the entry.
    pub keeper: DeviceKey,
    /// Its word.
    pub lease: Signed<Lease>,
}

/// One device in a record.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct EntryParts {
    /// The user's word for the device.
    pub certificate: Signed<DeviceCertificate>,
    /// The device's word about itself.
    pub entry: Signed<DeviceEntry>,
    /// The device's own lease.
    pub lease: Option<Signed<Lease>>,
    /// A keeper's lease.
    pub keeper_lease: Option<KeeperLease>,
}

impl EntryParts {
    /// The device.
    #[must_use]
    pub const fn device(&self) -> DeviceKey {
        self.entry.unverified().device
    }

    /// The entry's content. Verified when it comes out of a [`DirectoryRecord`].
    #[must_use]
    pub const fn entry(&self) -> &DeviceEntry {
        self.entry.unverified()
    }

    /// How the device can be reached at `now`, by the newest lease that holds: the device's own, else its keeper's.
    #[must_use]
    pub fn reachability(&self, now: UnixTime) -> Reachability {
        let own = self.lease.as_ref().map(Signed::unverified);
        let keeper = self.keeper_lease.as_ref().map(|kept| kept.lease.unverified());
        own.filter(|lease| now <= lease.until)
            .or_else(|| keeper.filter(|lease| now <= lease.until))
            .map_or(Reachability::None, |lease| lease.reachability)
    }

    /// Rank for staying when there are too many devices: newest certificate first. Never falls in a merge.
    fn rank(&self) -> (u64, DeviceKey) {
        (self.certificate.unverified().serial, self.device())
    }

    fn join(self, other: Self) -> Self {
        let certificate = newest(self.certificate, other.certificate, |certificate| certificate.unverified().serial);
        let (entry, leases) = match order(&self.entry, &other.entry, |entry| entry.unverified().sequence) {
            std::cmp::Ordering::Greater => (self.entry, vec![(self.lease, self.keeper_lease)]),
            std::cmp::Ordering::Less => (other.entry, vec![(other.lease, other.keeper_lease)]),
            std::cmp::Ordering::Equal => (self.entry, vec![(self.lease, self.keeper_lease), (other.lease, other.keeper_lease)]),
        };
        let (mut lease, mut keeper_lease) = (None, None);
        for (own, keeper) in leases {
            lease = newest_of(lease, own, |lease| lease.unverified().number);
            keeper_lease = newest_keeper_lease(keeper_lease, keeper);
        }
        Self { certificate, entry, lease, keeper_lease }
    }
}

fn order<T: wire::Body>(a: &Signed<T>, b: &Signed<T>, number: impl Fn(&Signed<T>) -> u64) -> std::cmp::Ordering {
    // Equal numbers with different content happen when a device was restored from a backup, or lies; any fixed order will do.
    number(a).cmp(&number(b)).then_with(|| wire::encode(a).cmp(&wire::encode(b)))
}

fn newest<T: wire::Body>(a: Signed<T>, b: Signed<T>, number: impl Fn(&Signed<T>) -> u64) -> Signed<T> {
    if order(&a, &b, number).is_ge() { a } else { b }
}

fn newest_of<T: wire::Body>(a: Option<Signed<T>>, b: Option<Signed<T>>, number: impl Fn(&Signed<T>) -> u64) -> Option<Signed<T>> {
    match (a, b) {
        (Some(a), Some(b)) => Some(newest(a, b, number)),
        (a, b) => a.or(b),
    }
}

fn newest_keeper_lease(a: Option<KeeperLease>, b: Option<KeeperLease>) -> Option<KeeperLease> {
    match (a, b) {
        (Some(a), Some(b)) => {
            let key = |kept: &KeeperLease| (kept.lease.unverified().until, wire::encode(kept));
            Some(if key(&a) >= key(&b) { a } else { b })
        }
        (a, b) => a.or(b),
    }
}

/// A record as it arrives: well formed, and not believed.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct UnverifiedRecord {
    /// Whose record.
    pub user: UserChain,
    /// Changes of the identity key, signed by the old ones.
    pub successions: Vec<Signed<KeySuccession>>,
    /// Removed devices.
    pub tombstones: Vec<Signed<Tombstone>>,
    /// Devices.
    pub entries: Vec<EntryParts>,
    /// Room to grow; kept and passed on, not covered by any signature, so only hints may go here.
    pub extensions: Extensions,
}

impl UnverifiedRecord {
    /// Decodes a record from bytes.
    ///
    /// # Errors
    /// [`RecordError::Decode`] if the bytes are more than [`RECORD_BYTES_MAX`] or aren't a record.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, RecordError> {
        Ok(wire::decode(bytes, RECORD_BYTES_MAX)?)
    }

    /// The key this record *claims* to belong under.
    #[must_use]
    pub fn claimed_key(&self) -> RecordKey {
        RecordKey::of(&self.user.claimed_id())
    }

    /// Checks every signature, certificate, date and count. Expired entries and those of removed devices are dropped; anything
    /// forged or dated ahead refuses the whole record, since an honest node passes on no such thing.
    ///
    /// # Errors
    /// [`RecordError`]: what is wrong, or that nothing living is left.
    pub fn verify(self, now: UnixTime, trust: &TrustStore) -> Result<DirectoryRecord, RecordError> {
        let checked = self.verify_parts(now, trust)?;
        let last_expiry = checked.entries.values().map(|parts| parts.entry().expires_at).max();
        let had_entries = !checked.entries.is_empty();
        let record = checked.prune(now);
        if !record.entries.is_empty() {
            return Ok(record);
        }
        match last_expiry {
            Some(expiry) if had_entries && expiry < now => Err(RecordError::Expired(expiry)),
            _ => Err(RecordError::Empty),
        }
    }

    fn verify_parts(self, now: UnixTime, trust: &TrustStore) -> Result<DirectoryRecord, RecordError> {
        check_count("devices", self.entries.len(), DEVICES_MAX)?;
        check_count("tombstones", self.tombstones.len(), TOMBSTONES_MAX)?;
        check_count("key successions", self.successions.len(), SUCCESSIONS_MAX)?;
        check_count("bytes of unsigned extensions", wire::encoded_len(&self.extensions), HINT_BYTES_MAX)?;
        let length = wire::encoded_len(&self);
        if length > RECORD_BYTES_MAX {
            return Err(DecodeError::TooLarge { length, limit: RECORD_BYTES_MAX }.into());
        }
        let user = self.user.verify(now, trust)?;
        self.successions.iter().try_for_each(|succession| verify_succession(succession, &user.id))?;
        let mut tombstones = BTreeMap::new();
        for tombstone in self.tombstones {
            tombstone.verify(&user.identity.0).map_err(|source| RecordError::Signature { what: "tombstone", source })?;
            let device = tombstone.unverified().device;
            let joined = newest_of(tombstones.remove(&device), Some(tombstone), |t| t.unverified().until.0);
            tombstones.extend(joined.map(|tombstone| (device, tombstone)));
        }
        let had_entries = !self.entries.is_empty();
        let mut entries = BTreeMap::new();
        for parts in self.entries {
            let device = parts.device();
            if is_removed(&tombstones, &device, now) || trust.is_device_removed(&user.identity, &device, now) {
                continue;
            }
            verify_entry(&parts, &user.identity, now)?;
            join_into(&mut entries, parts);
        }
        if entries.is_empty() && had_entries {
            return Err(RecordError::Removed);
        }
        let successions = self.successions.into_iter().map(|s| (wire::encode(&s), s)).collect();
        Ok(DirectoryRecord {
            key: user.record_key(),
            identity: user.identity,
            serial: user.serial,
            user: self.user,
            successions,
            tombstones,
            entries,
            extensions: self.extensions,
        })
    }
}

fn verify_succession(succession: &Signed<KeySuccession>, user: &UserId) -> Result<(), RecordError> {
    let refuse = |source| RecordError::Signature { what: "key succession", source };
    let content = succession.verify(&succession.unverified().old.0).map_err(refuse)?;
    content.verify_accepted().map_err(refuse)?;
    match user {
        UserId::Named { authority, name } if *authority == content.authority && *name == content.name => Ok(()),
        _ => Err(RecordError::Mismatch("a key succession is about another user")),
    }
}

fn check_count(what: &'static str, count: usize, max: usize) -> Result<(), RecordError> {
    if count > max { Err(RecordError::TooMany { what, count, max }) } else { Ok(()) }
}

fn is_removed(tombstones: &BTreeMap<DeviceKey, Signed<Tombstone>>, device: &DeviceKey, now: UnixTime) -> bool {
    tombstones.get(device).is_some_and(|tombstone| now <= tombstone.unverified().until)
}

fn verify_entry(parts: &EntryParts, identity: &IdentityKey, now: UnixTime) -> Result<(), RecordError> {
    let entry = parts.entry();
    let device = entry.device;
    if parts.certificate.unverified().device != device {
        return Err(RecordError::Mismatch("an entry stands under another device's certificate"));
    }
    // An expired certificate isn't forgery: the entry falls out in `prune`.
    let certificate = parts.certificate.verify(&identity.0).map_err(ChainError::DeviceSignature)?;
    if certificate.not_before.is_from_the_future(now) {
        return Err(ChainError::DeviceNotYet(certificate.not_before).into());
    }
    parts.entry.verify(&device.0).map_err(|source| RecordError::Signature { what: "entry", source })?;
    if entry.issued_at.is_from_the_future(now) {
        return Err(RecordError::FromTheFuture { what: "entry", issued_at: entry.issued_at });
    }
    if let Some(lease) = &parts.lease {
        verify_lease(lease, &device, parts, now)?;
        let lease = lease.unverified();
        if lease.until.secs_since(lease.issued_at) > DEVICE_LEASE_SECS_MAX {
            return Err(RecordError::Mismatch("a device signed itself a lease longer than an hour"));
        }
    }
    if let Some(kept) = &parts.keeper_lease {
        verify_lease(&kept.lease, &kept.keeper, parts, now)?;
        if !entry.keepers.iter().any(|keeper| keeper.device == kept.keeper) {
            return Err(RecordError::Mismatch("a lease by a node that isn't the device's keeper"));
        }
        if kept.lease.unverified().reachability != Reachability::Push {
            return Err(RecordError::Mismatch("a keeper's lease that says something else than push"));
        }
    }
    Ok(())
}

fn verify_lease(lease: &Signed<Lease>, signer: &DeviceKey, parts: &EntryParts, now: UnixTime) -> Result<(), RecordError> {
    let content = lease.verify(&signer.0).map_err(|source| RecordError::Signature { what: "lease", source })?;
    if content.device != parts.device() || content.entry_hash != parts.entry.body_hash() {
        return Err(RecordError::Mismatch("a lease is about another entry"));
    }
    if content.issued_at.is_from_the_future(now) {
        return Err(RecordError::FromTheFuture { what: "lease", issued_at: content.issued_at });
    }
    Ok(())
}

fn join_into(entries: &mut BTreeMap<DeviceKey, Arc<EntryParts>>, parts: EntryParts) {
    let device = parts.device();
    let joined = match entries.remove(&device) {
        Some(known) => Arc::unwrap_or_clone(known).join(parts),
        None => parts,
    };
    entries.insert(device, Arc::new(joined));
}

/// Those successions from which steps lead to `identity`, the last steps first when there are too many.
fn successions_leading_to(
    identity: IdentityKey,
    mut left: BTreeMap<Vec<u8>, Signed<KeySuccession>>,
) -> BTreeMap<Vec<u8>, Signed<KeySuccession>> {
    let mut kept = BTreeMap::new();
    let mut heirs = vec![identity];
    while !heirs.is_empty() && !left.is_empty() {
        let (step, rest): (BTreeMap<_, _>, BTreeMap<_, _>) =
            left.into_iter().partition(|(_, succession)| heirs.contains(&succession.unverified().new));
        left = rest;
        heirs = step.values().map(|succession| succession.unverified().old).collect();
        let mut step: Vec<_> = step.into_iter().collect();
        step.sort_by_key(|(bytes, succession)| std::cmp::Reverse((succession.unverified().at, bytes.clone())));
        kept.extend(step.into_iter().take(SUCCESSIONS_MAX - kept.len()));
    }
    kept
}

/// A record whose every signature, certificate and date has been checked. Only [`UnverifiedRecord::verify`] and merging make one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectoryRecord {
    key: RecordKey,
    identity: IdentityKey,
    serial: u64,
    user: UserChain,
    successions: BTreeMap<Vec<u8>, Signed<KeySuccession>>,
    tombstones: BTreeMap<DeviceKey, Signed<Tombstone>>,
    /// Shared, so that copies of a record are cheap; and a map of bare parts would reserve 11 KB for its first.
    entries: BTreeMap<DeviceKey, Arc<EntryParts>>,
    extensions: Extensions,
}

impl DirectoryRecord {
    /// Where it is kept.
    #[must_use]
    pub const fn key(&self) -> RecordKey {
        self.key
    }

    /// The user's identity key.
    #[must_use]
    pub const fn identity(&self) -> IdentityKey {
        self.identity
    }

    /// Serial of the user certificate in it.
    #[must_use]
    pub const fn user_serial(&self) -> u64 {
        self.serial
    }

    /// The user's chain.
    #[must_use]
    pub const fn user(&self) -> &UserChain {
        &self.user
    }

    /// The user, as the verified chain says.
    #[must_use]
    pub fn user_id(&self) -> UserId {
        self.user.claimed_id()
    }

    /// All devices, in the order of their keys.
    pub fn entries(&self) -> impl Iterator<Item = &EntryParts> {
        self.entries.values().map(Arc::as_ref)
    }

    /// One device.
    #[must_use]
    pub fn entry(&self, device: &DeviceKey) -> Option<&EntryParts> {
        self.entries.get(device).map(Arc::as_ref)
    }

    /// Removed devices.
    pub fn tombstones(&self) -> impl Iterator<Item = &Tombstone> {
        self.tombstones.values().map(Signed::unverified)
    }

    /// Removed devices, with the user's signature.
    pub fn signed_tombstones(&self) -> impl Iterator<Item = &Signed<Tombstone>> {
        self.tombstones.values()
    }

    /// The record without this device, which its user has removed; `None` if no other is left.
    #[must_use]
    pub fn without(mut self, device: &DeviceKey) -> Option<Self> {
        self.entries.remove(device);
        (!self.entries.is_empty()).then_some(self)
    }

    /// True if the old identity key `old` says, in one step or several, that this record's key is its successor.
    #[must_use]
    pub fn is_successor_of(&self, old: &IdentityKey) -> bool {
        // Only successions that lead to this record's key are kept.
        *old == self.identity || self.successions.values().any(|succession| succession.unverified().old == *old)
    }

    /// Names this content, leases and unsigned extensions apart: two replicas with equal hashes have nothing else to tell each other.
    #[must_use]
    pub fn content_hash(&self) -> [u8; 32] {
        let mut parts = vec![wire::encode(&self.user)];
        parts.extend(self.successions.keys().cloned());
        parts.extend(self.tombstones.values().map(wire::encode));
        parts.extend(self.entries.values().map(|entry| wire::encode(&(&entry.certificate, &entry.entry))));
        let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
        hash("halloo record content", &parts)
    }

    /// Names this content, leases and all: two replicas with equal ones have nothing to tell each other.
    #[must_use]
    pub fn state_hash(&self) -> [u8; 32] {
        Self::state_hash_of(&self.to_bytes())
    }

    /// The state hash of a record with these bytes.
    pub(crate) fn state_hash_of(bytes: &[u8]) -> [u8; 32] {
        hash("halloo record state", &[bytes])
    }

    /// The record as it travels.
    #[must_use]
    pub fn to_unverified(&self) -> UnverifiedRecord {
        UnverifiedRecord {
            user: self.user.clone(),
            successions: self.successions.values().cloned().collect(),
            tombstones: self.tombstones.values().cloned().collect(),
            entries: self.entries.values().map(|parts| EntryParts::clone(parts)).collect(),
            extensions: self.extensions.clone(),
        }
    }

    /// The record's bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        wire::encode(&self.to_unverified())
    }

    /// Joins two copies of one user's record: commutative, associative and idempotent, whatever was merged before.
    ///
    /// The one exception is a user who overfills the record: when more than [`TOMBSTONES_MAX`] removals, more than four
    /// successions or more than [`RECORD_BYTES_MAX`] of entries come together, what falls out can depend on the order of merging. The
    /// result is always within the limits, and the same for two copies whichever comes first.
    ///
    /// The higher user certificate serial decides which identity key the name has; entries of another identity don't carry
    /// over. (An authority never goes back to a former key of a name, so identities follow each other in the order of serials.)
    /// Records under different keys aren't merged: the first is returned.
    #[must_use]
    pub fn merge(self, other: Self) -> Self {
        if self.key != other.key {
            return self;
        }
        if self.identity != other.identity {
            let self_wins = (self.serial, self.identity) > (other.serial, other.identity);
            let (mut winner, loser) = if self_wins { (self, other) } else { (other, self) };
            winner.successions.extend(loser.successions);
            return winner.bounded();
        }
        let user_key = |record: &Self| (record.serial, wire::encode(&record.user));
        let newer_first = user_key(&self) >= user_key(&other);
        let (mut merged, older) = if newer_first { (self, other) } else { (other, self) };
        merged.successions.extend(older.successions);
        for (device, tombstone) in older.tombstones {
            let joined = newest_of(merged.tombstones.remove(&device), Some(tombstone), |t| t.unverified().until.0);
            merged.tombstones.extend(joined.map(|tombstone| (device, tombstone)));
        }
        for parts in older.entries.into_values() {
            join_into(&mut merged.entries, Arc::unwrap_or_clone(parts));
        }
        if wire::encode(&older.extensions) > wire::encode(&merged.extensions) {
            merged.extensions = older.extensions;
        }
        merged.bounded()
    }

    /// Drops what no longer holds at `now`: expired entries and certificates, leases run out, tombstones past their need, entries of
    /// removed devices.
    #[must_use]
    pub fn prune(mut self, now: UnixTime) -> Self {
        self.tombstones.retain(|_, tombstone| now <= tombstone.unverified().until);
        self.entries.retain(|_, parts| now <= parts.entry().expires_at && now <= parts.certificate.unverified().not_after);
        for parts in self.entries.values_mut() {
            let is_over = |lease: &Signed<Lease>| lease.unverified().until < now;
            if parts.lease.as_ref().is_some_and(is_over) {
                Arc::make_mut(parts).lease = None;
            }
            if parts.keeper_lease.as_ref().is_some_and(|kept| is_over(&kept.lease)) {
                Arc::make_mut(parts).keeper_lease = None;
            }
        }
        self.bounded()
    }

    /// True if nothing living is left in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Takes over a lease for an entry it holds. `Ok(true)` if it was news.
    ///
    /// A lease that is over is no news.
    ///
    /// # Errors
    /// [`RecordError`] if the lease is for no entry here, is forged, is dated ahead, or has no room in the record.
    pub fn apply_lease(&mut self, lease: Signed<Lease>, keeper: Option<DeviceKey>, now: UnixTime) -> Result<bool, RecordError> {
        let (device, until) = (lease.unverified().device, lease.unverified().until);
        let known = self.entries.get(&device).ok_or(RecordError::Mismatch("a lease for a device that isn't in the record"))?;
        let mut candidate = EntryParts::clone(known);
        match keeper {
            None => candidate.lease = Some(lease),
            Some(keeper) => candidate.keeper_lease = Some(KeeperLease { keeper, lease }),
        }
        verify_entry(&candidate, &self.identity, now)?;
        let joined = EntryParts::clone(known).join(candidate);
        if now > until || joined == **known {
            return Ok(false);
        }
        let growth = wire::encoded_len(&joined).saturating_sub(wire::encoded_len(&**known));
        let length = self.signed_len() + growth;
        if length > SIGNED_BYTES_MAX {
            return Err(DecodeError::TooLarge { length, limit: SIGNED_BYTES_MAX }.into());
        }
        self.entries.insert(device, Arc::new(joined));
        Ok(true)
    }

    /// Removes devices that have a tombstone and keeps counts and size within limits, by ranks that merging never lowers.
    fn bounded(mut self) -> Self {
        while self.tombstones.len() > TOMBSTONES_MAX {
            let first_to_end = self.tombstones.values().map(|t| (t.unverified().until, t.unverified().device)).min();
            if let Some((_, device)) = first_to_end {
                self.tombstones.remove(&device);
            }
        }
        let tombstones = &self.tombstones;
        self.entries.retain(|device, _| !tombstones.contains_key(device));
        while self.entries.len() > DEVICES_MAX {
            if let Some((_, device)) = self.entries.values().map(|parts| parts.rank()).min() {
                self.entries.remove(&device);
            }
        }
        self.successions = successions_leading_to(self.identity, self.successions);
        if self.signed_len() > SIGNED_BYTES_MAX {
            self.drop_what_does_not_fit();
        }
        self
    }

    /// Encoded length without the unsigned extensions.
    fn signed_len(&self) -> usize {
        self.entries.values().map(|parts| wire::encoded_len(&**parts)).sum::<usize>() + self.len_without_entries()
    }

    fn len_without_entries(&self) -> usize {
        let successions: usize = self.successions.keys().map(Vec::len).sum();
        let tombstones: usize = self.tombstones.values().map(wire::encoded_len).sum();
        wire::encoded_len(&self.user) + successions + tombstones + LIST_COUNTS_BYTES
    }

    /// Keeps devices, newest certificate first, while they fit without leases; then leases while they fit.
    fn drop_what_does_not_fit(&mut self) {
        let mut length = self.len_without_entries();
        let entries = std::mem::take(&mut self.entries).into_values();
        let mut by_rank: Vec<_> = entries.map(Arc::unwrap_or_clone).collect();
        by_rank.sort_by_key(|parts| std::cmp::Reverse(parts.rank()));
        let mut kept = Vec::new();
        for mut parts in by_rank {
            let leases = (parts.lease.take(), parts.keeper_lease.take());
            let added = wire::encoded_len(&parts);
            if length + added <= SIGNED_BYTES_MAX {
                length += added;
                kept.push((parts, leases));
            }
        }
        for (mut parts, (lease, keeper_lease)) in kept {
            let bare = wire::encoded_len(&parts);
            let with_leases = EntryParts { lease, keeper_lease, ..parts.clone() };
            let added = wire::encoded_len(&with_leases) - bare;
            if length + added <= SIGNED_BYTES_MAX {
                length += added;
                parts = with_leases;
            }
            self.entries.insert(parts.device(), Arc::new(parts));
        }
    }
}
