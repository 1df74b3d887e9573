//! Whom this node knows: descriptors by place, bounded, with what is proved kept apart from what was only heard.
//!
//! A descriptor is *proved* when its node's hello showed a certificate chain that gives it its place. Only proved, living nodes are passed on
//! to others, count as replicas and may say "no such record". What others tell is a *hint*: good enough to ask, promoted by the hello that
//! follows. Nodes that fail twice count as dead; they stay as hints for a while, because networks fail more often than nodes.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::directory::{Distance, Place, RecordKey};
use crate::key::{AuthorityKey, DeviceKey};
use crate::node::{Address, Descriptor, Roles};
use crate::time::UnixTime;

/// Nodes that keep one record.
pub const REPLICAS: usize = 8;

/// Bucket size up to which a bucket gives up a proved node for nobody but one of our nearest neighbours.
const BUCKET_MIN: usize = 16;

/// Most nodes of one network among the replicas of a record.
pub(super) const GROUP_REPLICAS_MAX: usize = 2;

/// Most nodes of one network in one bucket: a quarter of [`BUCKET_MIN`].
const GROUP_BUCKET_MAX: usize = 4;

/// Failures in a row after which a node counts as dead. One may be a lost packet.
const FAILURES_DEAD: u8 = 2;

/// Failures in a row after which a proved node is forgotten.
const FAILURES_FORGET: u8 = 6;

/// How long a dead node isn't asked again.
const DEAD_RETRY: Duration = Duration::from_secs(60);

/// How long a node that lied about its place is refused.
const BAN: Duration = Duration::from_secs(3_600);

/// Most bans remembered; the one that ends first makes room.
const BANS_MAX: usize = 1_024;

/// False places told by one node after which its hints are ignored. A few happen honestly: devices move.
const STRIKES_MAX: u8 = 3;

/// Most tellers with strikes remembered, and most connections of unknown nodes.
const NOTES_MAX: usize = 4_096;

/// Most peers in all: what two bytes can number.
const PEERS_MAX: usize = 65_000;

/// Hints compared when one has to go.
const HINTS_COMPARED: usize = 16;

/// Round trips remembered for the node's median.
const RTT_SAMPLES: usize = 64;

/// Taken as the round trip before one was measured: a call across a continent and back.
const RTT_DEFAULT: Duration = Duration::from_millis(200);

/// A network in which many nodes may have one owner: a /24 of IPv4 or a /48 of IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NetworkGroup(pub u64);

impl NetworkGroup {
    /// The network of an address; `None` for one that isn't an IP address.
    #[must_use]
    pub fn of(address: &Address) -> Option<Self> {
        match address {
            Address::V4 { ip, .. } => Some(Self(u64::from(u32::from_be_bytes(*ip) >> 8))),
            Address::V6 { ip, .. } => {
                let prefix = ip.iter().take(6).fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
                Some(Self(1 << 63 | prefix))
            }
            Address::Other(_) => None,
        }
    }

    /// The network of a descriptor's first IP address.
    #[must_use]
    pub fn of_descriptor(descriptor: &Descriptor) -> Option<Self> {
        descriptor.addresses.iter().find_map(Self::of)
    }
}

/// Most proved nodes and most hints.
#[derive(Clone, Copy, Debug)]
pub(super) struct TableLimits {
    pub(super) proved: usize,
    pub(super) hints: usize,
}

/// Whose word gives a node its place, and until when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Proof {
    pub(super) authority: AuthorityKey,
    pub(super) serial: u64,
    pub(super) not_after: UnixTime,
}

/// Small on purpose, since there are thousands: times are whole seconds since the table's start, the rest is shared or absent.
#[derive(Clone, Debug)]
struct Peer {
    descriptor: Arc<Descriptor>,
    proof: Option<Box<Proof>>,
    told_by: Option<Arc<DeviceKey>>,
    rtt_micros: u32,
    failed_at: u32,
    added: u32,
    /// When it last showed life, or somebody named it.
    seen: u32,
    failures: u8,
}

impl Peer {
    const fn is_live(&self) -> bool {
        self.proof.is_some() && self.failures < FAILURES_DEAD
    }

    fn may_be_asked(&self, now: u32) -> bool {
        self.failures < FAILURES_DEAD || u64::from(now.saturating_sub(self.failed_at)) >= DEAD_RETRY.as_secs()
    }

    fn group(&self) -> Option<NetworkGroup> {
        NetworkGroup::of_descriptor(&self.descriptor)
    }

    fn rtt(&self) -> Option<Duration> {
        (self.rtt_micros > 0).then(|| Duration::from_micros(self.rtt_micros.into()))
    }
}

/// Peers by number, so that indexes cost two bytes an entry. Numbers of those removed are used again.
#[derive(Clone, Debug, Default)]
struct Slab {
    peers: Vec<Option<Peer>>,
    free: Vec<u16>,
    by_device: Index,
}

/// Numbers of peers in the order of a key's first 64 bits.
#[derive(Clone, Debug, Default)]
struct Index {
    prefixes: Vec<u64>,
    slots: Vec<u16>,
}

fn prefix(bytes: &[u8; 32]) -> u64 {
    bytes.iter().take(8).fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

impl Index {
    const fn len(&self) -> usize {
        self.slots.len()
    }

    fn range(&self, low: u64, high: u64) -> std::ops::Range<usize> {
        self.prefixes.partition_point(|prefix| *prefix < low)..self.prefixes.partition_point(|prefix| *prefix <= high)
    }

    fn insert(&mut self, prefix: u64, slot: u16) {
        let at = self.prefixes.partition_point(|known| *known < prefix);
        if self.prefixes.len() == self.prefixes.capacity() {
            // A table grows by eighths: doubling would waste half of it.
            let more = 8 + self.prefixes.len() / 8;
            self.prefixes.reserve_exact(more);
            self.slots.reserve_exact(more);
        }
        self.prefixes.insert(at, prefix);
        self.slots.insert(at, slot);
    }

    fn remove(&mut self, prefix: u64, slot: u16) {
        let range = self.range(prefix, prefix);
        if let Some(at) = range.into_iter().find(|at| self.slots.get(*at) == Some(&slot)) {
            self.prefixes.remove(at);
            self.slots.remove(at);
        }
    }

    fn slots_in(&self, range: std::ops::Range<usize>) -> impl Iterator<Item = u16> {
        self.slots.get(range).into_iter().flatten().copied()
    }
}

impl Slab {
    fn get(&self, slot: u16) -> Option<&Peer> {
        self.peers.get(usize::from(slot))?.as_ref()
    }

    fn slot_of(&self, device: &DeviceKey) -> Option<u16> {
        let prefix = prefix(device.as_bytes());
        let range = self.by_device.range(prefix, prefix);
        self.by_device.slots_in(range).find(|slot| self.get(*slot).is_some_and(|peer| peer.descriptor.device == *device))
    }

    fn by_device(&self, device: &DeviceKey) -> Option<&Peer> {
        self.get(self.slot_of(device)?)
    }

    fn by_device_mut(&mut self, device: &DeviceKey) -> Option<&mut Peer> {
        let slot = self.slot_of(device)?;
        self.peers.get_mut(usize::from(slot))?.as_mut()
    }

    fn insert(&mut self, peer: Peer) -> u16 {
        let prefix = prefix(peer.descriptor.device.as_bytes());
        let slot = match self.free.pop() {
            Some(slot) => {
                if let Some(place) = self.peers.get_mut(usize::from(slot)) {
                    *place = Some(peer);
                }
                slot
            }
            None => {
                if self.peers.len() == self.peers.capacity() {
                    self.peers.reserve_exact(8 + self.peers.len() / 8);
                }
                self.peers.push(Some(peer));
                u16::try_from(self.peers.len() - 1).unwrap_or(u16::MAX)
            }
        };
        self.by_device.insert(prefix, slot);
        slot
    }

    fn remove(&mut self, slot: u16) -> Option<Peer> {
        let peer = self.peers.get_mut(usize::from(slot))?.take()?;
        self.by_device.remove(prefix(peer.descriptor.device.as_bytes()), slot);
        self.free.push(slot);
        Some(peer)
    }
}

#[derive(Clone, Copy, Debug)]
struct Connection {
    rtt: Option<Duration>,
    relayed: bool,
}

/// A node for a query to start from.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) descriptor: Arc<Descriptor>,
    /// Through whom we know it: itself if its place is proved.
    pub(super) root: DeviceKey,
}

/// What became of a descriptor offered as proved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// Now counted among the living, and wasn't before.
    New,
    /// Was there already.
    Known,
    /// Serves no directory: not in the tables.
    Client,
    /// The table, or its share for this network, is full.
    Full,
    /// It lied about its place lately.
    Banned,
}

#[derive(Clone, Debug)]
pub(super) struct RoutingTable {
    device: DeviceKey,
    origin: Place,
    capacity: usize,
    hints_capacity: usize,
    lab: bool,
    start: Instant,
    slab: Slab,
    live: Index,
    hints: Index,
    /// Where the search for a hint to give up goes on.
    cursor: usize,
    connections: BTreeMap<DeviceKey, Connection>,
    bans: BTreeMap<DeviceKey, Instant>,
    strikes: BTreeMap<DeviceKey, u8>,
    rtts: VecDeque<Duration>,
}

/// First and last key of the span around `place` outside which the node there is nobody's replica: eight times wider than the span that holds
/// the node and eight others, so that a chance gap in the next span over doesn't matter.
pub(super) type KeySpan = (RecordKey, RecordKey);

/// First and last point that share the first `bits` bits with `point`.
fn span(point: &Place, bits: u32) -> (Place, Place) {
    let (mut low, mut high) = (point.0, point.0);
    for (index, (low, high)) in low.iter_mut().zip(high.iter_mut()).enumerate() {
        let kept = bits.saturating_sub(8 * u32::try_from(index).unwrap_or(u32::MAX)).min(8);
        let mask = if kept == 8 { 0 } else { 0xff_u8 >> kept };
        *low &= !mask;
        *high |= mask;
    }
    (Place(low), Place(high))
}

/// The `count` of `index` nearest to `target`: widens the shared prefix until enough are inside, so the cost is that of the answer.
fn nearest(slab: &Slab, index: &Index, target: &Place, count: usize) -> Vec<(Distance, u16)> {
    let point = prefix(&target.0);
    let at = index.prefixes.partition_point(|prefix| *prefix < point);
    let beside = [index.prefixes.get(at), at.checked_sub(1).and_then(|before| index.prefixes.get(before))];
    let shared = beside.into_iter().flatten().map(|prefix| (prefix ^ point).leading_zeros()).max();
    let Some(mut bits) = shared else { return Vec::new() };
    let range = loop {
        let free = u64::MAX.checked_shr(bits).unwrap_or(0);
        let range = index.range(point & !free, point | free);
        if bits == 0 || range.len() >= count {
            break range;
        }
        bits -= 1;
    };
    let peers = index.slots_in(range).filter_map(|slot| Some((slot, slab.get(slot)?)));
    let mut found: Vec<_> = peers.map(|(slot, peer)| (target.distance(&peer.descriptor.place), slot)).collect();
    if found.len() > count && count > 0 {
        found.select_nth_unstable(count - 1);
        found.truncate(count);
    }
    found.sort_unstable();
    found.truncate(count);
    found
}

impl RoutingTable {
    pub(super) fn new(device: DeviceKey, place: Option<Place>, limits: TableLimits, lab: bool, now: Instant) -> Self {
        Self {
            device,
            origin: place.unwrap_or(Place(*device.as_bytes())),
            capacity: limits.proved.clamp(1, PEERS_MAX / 2),
            hints_capacity: limits.hints.clamp(1, PEERS_MAX / 2),
            lab,
            start: now,
            slab: Slab::default(),
            live: Index::default(),
            hints: Index::default(),
            cursor: 0,
            connections: BTreeMap::new(),
            bans: BTreeMap::new(),
            strikes: BTreeMap::new(),
            rtts: VecDeque::new(),
        }
    }

    fn secs(&self, now: Instant) -> u32 {
        u32::try_from(now.saturating_duration_since(self.start).as_secs()).unwrap_or(u32::MAX)
    }

    pub(super) fn set_origin(&mut self, place: Option<Place>) {
        self.origin = place.unwrap_or(Place(*self.device.as_bytes()));
    }

    /// Takes in a descriptor whose place a chain has proved.
    pub(super) fn prove(&mut self, now: Instant, descriptor: impl Into<Arc<Descriptor>>, proof: Proof) -> Admission {
        let descriptor = descriptor.into();
        let device = descriptor.device;
        if device == self.device {
            return Admission::Client;
        }
        if self.is_banned(&device, now) {
            return Admission::Banned;
        }
        if !descriptor.roles.contains(Roles::DIRECTORY) {
            self.remove(&device);
            return Admission::Client;
        }
        let before = self.remove(&device);
        let was_live = before.as_ref().is_some_and(Peer::is_live);
        if let Some(told) = &before
            && told.descriptor.place != descriptor.place
            && let Some(teller) = &told.told_by
        {
            self.strike(**teller);
        }
        let group = NetworkGroup::of_descriptor(&descriptor);
        if !was_live && !self.make_room(&descriptor.place, group) {
            return Admission::Full;
        }
        let peer = Peer {
            descriptor,
            proof: Some(Box::new(proof)),
            told_by: None,
            failures: 0,
            failed_at: 0,
            rtt_micros: before.as_ref().map_or(0, |peer| peer.rtt_micros),
            added: before.as_ref().filter(|peer| peer.proof.is_some()).map_or(self.secs(now), |peer| peer.added),
            seen: self.secs(now),
        };
        self.insert(peer);
        if was_live { Admission::Known } else { Admission::New }
    }

    /// Takes in what somebody told. Never replaces anything proved, nor another's word that hasn't failed yet.
    pub(super) fn hear(&mut self, now: Instant, descriptor: impl Into<Arc<Descriptor>>, teller: Option<&Arc<DeviceKey>>) {
        let descriptor = descriptor.into();
        let device = descriptor.device;
        let is_ignored = device == self.device
            || !descriptor.roles.contains(Roles::DIRECTORY)
            || self.is_banned(&device, now)
            || self.slab.by_device(&device).is_some_and(|known| known.proof.is_some() || known.failures == 0)
            || teller.is_some_and(|teller| self.strikes.get(&**teller).is_some_and(|strikes| *strikes >= STRIKES_MAX));
        if is_ignored {
            let heard_at = self.secs(now);
            // Named again, and not known better: still there, it seems.
            if let Some(hint) = self.slab.by_device_mut(&device).filter(|peer| peer.proof.is_none() && peer.failures == 0) {
                hint.seen = heard_at;
            }
            return;
        }
        // A node that came back has other addresses than those that failed.
        self.remove(&device);
        if self.hints.len() >= self.hints_capacity {
            self.drop_a_hint();
        }
        let added = self.secs(now);
        let told_by = teller.cloned();
        self.insert(Peer { descriptor, proof: None, told_by, failures: 0, failed_at: 0, rtt_micros: 0, added, seen: added });
    }

    /// Gives up one hint: of a handful, the one that failed most, else the oldest. Hints age fast, so that which handful hardly matters; what
    /// matters is that a flood of hints doesn't cost a search of them all each.
    fn drop_a_hint(&mut self) {
        let mut worst: Option<(u8, std::cmp::Reverse<u32>, u16)> = None;
        let mut seen = 0;
        for _ in 0..self.slab.peers.len() {
            self.cursor = (self.cursor + 1) % self.slab.peers.len();
            let slot = u16::try_from(self.cursor).unwrap_or(u16::MAX);
            let Some(peer) = self.slab.get(slot).filter(|peer| !peer.is_live()) else { continue };
            worst = worst.max(Some((peer.failures, std::cmp::Reverse(peer.seen), slot)));
            seen += 1;
            if seen >= HINTS_COMPARED {
                break;
            }
        }
        if let Some((.., slot)) = worst {
            self.remove_slot(slot);
        }
    }

    /// Makes room for one more proved node at `place`; false if the table prefers what it has.
    fn make_room(&mut self, place: &Place, group: Option<NetworkGroup>) -> bool {
        let bucket = self.bucket_of(place);
        if !self.lab {
            let same = self.bucket(bucket).filter(|(_, peer)| peer.group() == group).count();
            if same >= GROUP_BUCKET_MAX {
                return false;
            }
        }
        if self.live.len() < self.capacity {
            return true;
        }
        // Our nearest neighbours always find room, and never make any.
        let near = nearest(&self.slab, &self.live, &self.origin, BUCKET_MIN).last().map(|(distance, _)| *distance);
        let is_near = |place: &Place| near.is_some_and(|near| self.origin.distance(place) <= near);
        let mut sizes: BTreeMap<u32, usize> = BTreeMap::new();
        for peer in self.all(&self.live).filter(|peer| !is_near(&peer.descriptor.place)) {
            *sizes.entry(self.bucket_of(&peer.descriptor.place)).or_default() += 1;
        }
        let fullest = sizes.iter().max_by_key(|(bucket, size)| (**size, std::cmp::Reverse(**bucket)));
        let Some((&fullest, &size)) = fullest else { return false };
        // Among the like, who is known longer stays.
        let is_like = fullest == bucket || size <= BUCKET_MIN || sizes.get(&bucket).copied().unwrap_or(0) >= size;
        if is_like && !is_near(place) {
            return false;
        }
        let youngest = self
            .bucket(fullest)
            .filter(|(_, peer)| !self.connections.contains_key(&peer.descriptor.device))
            .filter(|(_, peer)| !is_near(&peer.descriptor.place))
            .map(|(slot, peer)| (peer.failures, peer.added, peer.descriptor.device, slot))
            .max();
        match youngest {
            Some((.., slot)) => self.remove_slot(slot).is_some(),
            None => false,
        }
    }

    fn bucket_of(&self, place: &Place) -> u32 {
        self.origin.distance(place).leading_zeros()
    }

    fn bucket(&self, bucket: u32) -> impl Iterator<Item = (u16, &Peer)> {
        let (low, high) = span(&self.origin, bucket);
        let range = self.live.range(prefix(&low.0), prefix(&high.0));
        let peers = self.live.slots_in(range).filter_map(|slot| Some((slot, self.slab.get(slot)?)));
        peers.filter(move |(_, peer)| self.bucket_of(&peer.descriptor.place) == bucket)
    }

    fn all(&self, index: &Index) -> impl Iterator<Item = &Peer> {
        index.slots_in(0..index.len()).filter_map(|slot| self.slab.get(slot))
    }

    fn insert(&mut self, peer: Peer) {
        let at = prefix(&peer.descriptor.place.0);
        let is_live = peer.is_live();
        let slot = self.slab.insert(peer);
        if is_live { self.live.insert(at, slot) } else { self.hints.insert(at, slot) }
    }

    fn remove(&mut self, device: &DeviceKey) -> Option<Peer> {
        self.remove_slot(self.slab.slot_of(device)?)
    }

    fn remove_slot(&mut self, slot: u16) -> Option<Peer> {
        let peer = self.slab.remove(slot)?;
        let at = prefix(&peer.descriptor.place.0);
        if peer.is_live() {
            self.live.remove(at, slot)
        } else {
            self.hints.remove(at, slot)
        }
        Some(peer)
    }

    /// Refuses a node for an hour. True if it was among the living.
    pub(super) fn ban(&mut self, now: Instant, device: DeviceKey) -> bool {
        let peer = self.remove(&device);
        if let Some(teller) = peer.as_ref().and_then(|peer| peer.told_by.clone()) {
            self.strike(*teller);
        }
        if self.bans.len() >= BANS_MAX
            && let Some(first) = self.bans.iter().min_by_key(|(_, until)| **until).map(|(device, _)| *device)
        {
            self.bans.remove(&first);
        }
        self.bans.insert(device, now + BAN);
        peer.is_some_and(|peer| peer.is_live())
    }

    fn is_banned(&self, device: &DeviceKey, now: Instant) -> bool {
        self.bans.get(device).is_some_and(|until| now < *until)
    }

    /// Counts one falsehood against a node.
    pub(super) fn strike(&mut self, device: DeviceKey) {
        if self.strikes.len() < NOTES_MAX || self.strikes.contains_key(&device) {
            let strikes = self.strikes.entry(device).or_default();
            *strikes = strikes.saturating_add(1);
        }
    }

    pub(super) fn told_by(&self, device: &DeviceKey) -> Option<DeviceKey> {
        self.slab.by_device(device)?.told_by.as_deref().copied()
    }

    pub(super) fn connected(&mut self, now: Instant, device: DeviceKey, rtt: Option<Duration>, relayed: bool) {
        if self.connections.len() < NOTES_MAX || self.connections.contains_key(&device) {
            self.connections.insert(device, Connection { rtt, relayed });
        }
        self.succeeded(now, &device, rtt);
    }

    pub(super) fn disconnected(&mut self, now: Instant, device: &DeviceKey, is_well: bool) {
        let seen = self.secs(now);
        if self.connections.remove(device).is_some()
            && is_well
            && let Some(peer) = self.slab.by_device_mut(device)
        {
            peer.seen = seen;
        }
    }

    /// A node showed life.
    pub(super) fn succeeded(&mut self, now: Instant, device: &DeviceKey, rtt: Option<Duration>) {
        let seen = self.secs(now);
        if let Some(rtt) = rtt {
            if self.rtts.len() >= RTT_SAMPLES {
                self.rtts.pop_front();
            }
            self.rtts.push_back(rtt);
        }
        let Some(slot) = self.slab.slot_of(device) else { return };
        let Some(Some(peer)) = self.slab.peers.get_mut(usize::from(slot)) else { return };
        let (was_live, at) = (peer.is_live(), prefix(&peer.descriptor.place.0));
        peer.failures = 0;
        peer.seen = seen;
        if let Some(rtt) = rtt {
            let new = u32::try_from(rtt.as_micros()).unwrap_or(u32::MAX).max(1);
            // Half old, half new: follows a change within a few answers.
            peer.rtt_micros = if peer.rtt_micros == 0 { new } else { peer.rtt_micros / 2 + new / 2 };
        }
        if !was_live && peer.is_live() {
            self.hints.remove(at, slot);
            self.live.insert(at, slot);
        }
    }

    /// A node didn't answer. True if that made it dead.
    pub(super) fn failed(&mut self, now: Instant, device: &DeviceKey, is_certain: bool) -> bool {
        let Some(mut peer) = self.remove(device) else { return false };
        let was_live = peer.is_live();
        peer.failures = peer.failures.saturating_add(1).max(if is_certain { FAILURES_DEAD } else { 0 });
        peer.failed_at = self.secs(now);
        let is_live = peer.is_live();
        let is_worth_keeping = peer.failures < if peer.proof.is_some() { FAILURES_FORGET } else { FAILURES_DEAD };
        if is_worth_keeping {
            self.insert(peer);
        }
        self.trim_hints();
        was_live && !is_live
    }

    fn trim_hints(&mut self) {
        while self.hints.len() > self.hints_capacity {
            self.drop_a_hint();
        }
    }

    /// Drops nodes whose certificate has ended or was revoked; returns them.
    pub(super) fn retain_proved(&mut self, is_valid: impl Fn(&Proof) -> bool) -> Vec<Arc<Descriptor>> {
        let proved = self.slab.peers.iter().flatten();
        let gone = proved.filter(|peer| peer.proof.as_ref().is_some_and(|proof| !is_valid(proof)));
        let gone: Vec<_> = gone.map(|peer| Arc::clone(&peer.descriptor)).collect();
        for descriptor in &gone {
            self.remove(&descriptor.device);
        }
        gone
    }

    pub(super) fn expire_bans(&mut self, now: Instant) {
        self.bans.retain(|_, until| now < *until);
    }

    /// The closest proved, living nodes.
    pub(super) fn closest(&self, target: &Place, count: usize) -> Vec<Arc<Descriptor>> {
        let found = nearest(&self.slab, &self.live, target, count);
        found.iter().filter_map(|(_, slot)| self.slab.get(*slot)).map(|peer| Arc::clone(&peer.descriptor)).collect()
    }

    /// The closest nodes, those included that others told of and that haven't failed.
    pub(super) fn nearest_or_told(&self, target: &Place, count: usize) -> Vec<Arc<Descriptor>> {
        let mut found = nearest(&self.slab, &self.live, target, count);
        found.extend(nearest(&self.slab, &self.hints, target, count));
        found.sort_unstable();
        let peers = found.iter().filter_map(|(_, slot)| self.slab.get(*slot)).filter(|peer| peer.failures == 0);
        peers.take(count).map(|peer| Arc::clone(&peer.descriptor)).collect()
    }

    /// The distance of the `count`th node nearest to us of all we know of, as a share of the key space.
    pub(super) fn own_radius(&self, count: usize) -> Option<f64> {
        let mut near = nearest(&self.slab, &self.live, &self.origin, count);
        near.extend(nearest(&self.slab, &self.hints, &self.origin, count));
        near.sort_unstable();
        near.get(count.checked_sub(1)?).map(|(distance, _)| distance.share())
    }

    /// True if fewer than `count` living nodes are nearer to us than `place`.
    pub(super) fn is_neighbour(&self, place: &Place, count: usize) -> bool {
        self.closer_than(&self.origin, place, count) < count
    }

    /// The closest nodes worth asking, hints included: `count` of each kind.
    pub(super) fn worth_asking(&self, target: &Place, count: usize, now: Instant) -> Vec<Known> {
        let known = |peer: &Peer| Known {
            descriptor: Arc::clone(&peer.descriptor),
            root: peer.told_by.as_deref().copied().unwrap_or(peer.descriptor.device),
        };
        let now = self.secs(now);
        let live = nearest(&self.slab, &self.live, target, count);
        let hints = nearest(&self.slab, &self.hints, target, 2 * count);
        let live = live.iter().filter_map(|(_, slot)| self.slab.get(*slot)).map(known);
        let hints = hints.iter().filter_map(|(_, slot)| self.slab.get(*slot)).filter(|peer| peer.may_be_asked(now));
        live.chain(hints.take(count).map(known)).collect()
    }

    /// The nodes that should keep what lies at `target`, closest first, not counting ourselves: at most two of one network.
    pub(super) fn replica_set(&self, target: &Place) -> Vec<Arc<Descriptor>> {
        if self.lab {
            return self.closest(target, REPLICAS);
        }
        let mut groups: BTreeMap<Option<NetworkGroup>, usize> = BTreeMap::new();
        let mut chosen = Vec::new();
        for (_, slot) in nearest(&self.slab, &self.live, target, 6 * REPLICAS) {
            let Some(peer) = self.slab.get(slot) else { continue };
            let count = groups.entry(peer.group()).or_default();
            if *count < GROUP_REPLICAS_MAX && chosen.len() < REPLICAS {
                *count += 1;
                chosen.push(Arc::clone(&peer.descriptor));
            }
        }
        chosen
    }

    /// How many living nodes are closer to `target` than `place`.
    pub(super) fn closer_than(&self, target: &Place, place: &Place, max: usize) -> usize {
        let own = target.distance(place);
        nearest(&self.slab, &self.live, target, max).iter().filter(|(distance, _)| *distance < own).count()
    }

    /// Bits a place must share with a key so that its node is almost surely among the replicas: one more than the eighth nearest of all we
    /// know of shares with us. Hints count: this is about how dense the network is, and only orders questions.
    pub(super) fn core_bits(&self) -> Option<u32> {
        let mut near = nearest(&self.slab, &self.live, &self.origin, REPLICAS);
        near.extend(nearest(&self.slab, &self.hints, &self.origin, REPLICAS));
        near.sort_unstable();
        near.get(REPLICAS - 1).map(|(distance, _)| distance.leading_zeros() + 1)
    }

    pub(super) fn replica_span(&self, place: &Place) -> KeySpan {
        let ninth = nearest(&self.slab, &self.live, place, REPLICAS + 1)
            .get(REPLICAS)
            .map_or(0, |(distance, _)| distance.leading_zeros());
        let (low, high) = span(place, ninth.saturating_sub(3));
        (RecordKey(low.0), RecordKey(high.0))
    }

    pub(super) fn is_live(&self, device: &DeviceKey) -> bool {
        self.slab.by_device(device).is_some_and(Peer::is_live)
    }

    pub(super) fn live_descriptor(&self, device: &DeviceKey) -> Option<Arc<Descriptor>> {
        self.slab.by_device(device).filter(|peer| peer.is_live()).map(|peer| Arc::clone(&peer.descriptor))
    }

    /// The place a chain proved, if any.
    pub(super) fn proved_place(&self, device: &DeviceKey) -> Option<Place> {
        self.slab.by_device(device).filter(|peer| peer.proof.is_some()).map(|peer| peer.descriptor.place)
    }

    pub(super) fn is_connected(&self, device: &DeviceKey) -> bool {
        self.connections.contains_key(device)
    }

    /// Up to `count` proved, living nodes with an open connection.
    pub(super) fn connected_servers(&self, count: usize) -> Vec<Arc<Descriptor>> {
        let connected = self.connections.keys().filter_map(|device| self.live_descriptor(device));
        connected.take(count).collect()
    }

    /// How long nobody has heard of a node, in steps of ten minutes; a hint's teller heard of it earlier, so it counts a step more. With sessions of
    /// an hour (median) each step means one in nine more is gone.
    fn staleness(&self, peer: Option<&Peer>, now: Instant) -> u32 {
        let now = self.secs(now);
        peer.map_or(u32::MAX, |peer| now.saturating_sub(peer.seen) / 600 + u32::from(peer.proof.is_none()))
    }

    /// True if a node is almost surely there: connected, or its hello was read or its answer came within ten minutes.
    pub(super) fn is_sure(&self, device: &DeviceKey, now: Instant) -> bool {
        self.is_connected(device)
            || self.slab.by_device(device).is_some_and(|peer| peer.is_live() && self.staleness(Some(peer), now) == 0)
    }

    /// The connected, proved, living nodes closest to `target`.
    pub(super) fn connected_near(&self, target: &Place, count: usize) -> Vec<Arc<Descriptor>> {
        let mut near: Vec<_> = self.connections.keys().filter_map(|device| self.live_descriptor(device)).collect();
        near.sort_by_key(|descriptor| target.distance(&descriptor.place));
        near.truncate(count);
        near
    }

    /// Order between nodes that are equally likely to have the answer: failures, open connections, how long they weren't heard of, round trip in
    /// steps of 20 ms.
    pub(super) fn preference(&self, device: &DeviceKey, now: Instant) -> (u8, bool, u32, bool, bool, u128) {
        let peer = self.slab.by_device(device);
        let connection = self.connections.get(device);
        let rtt = peer.and_then(Peer::rtt).or_else(|| connection.and_then(|c| c.rtt));
        (
            peer.map_or(0, |peer| peer.failures),
            connection.is_none(),
            if connection.is_some() { 0 } else { self.staleness(peer, now) },
            peer.is_none_or(|peer| peer.proof.is_none()),
            connection.is_some_and(|connection| connection.relayed),
            rtt.unwrap_or_else(|| self.median_rtt()).as_millis() / 20,
        )
    }

    /// The median of the round trips measured lately.
    pub(super) fn median_rtt(&self) -> Duration {
        let mut sorted: Vec<Duration> = self.rtts.iter().copied().collect();
        sorted.sort_unstable();
        sorted.get(sorted.len() / 2).copied().unwrap_or(RTT_DEFAULT)
    }

    /// The round trip expected of a node.
    pub(super) fn rtt(&self, device: &DeviceKey) -> Duration {
        let own = self.slab.by_device(device).and_then(Peer::rtt);
        own.or_else(|| self.connections.get(device).and_then(|c| c.rtt)).unwrap_or_else(|| self.median_rtt())
    }

    pub(super) fn live_count(&self) -> usize {
        self.live.len()
    }

    pub(super) fn hint_count(&self) -> usize {
        self.hints.len()
    }

    /// All proved, living nodes.
    pub(super) fn snapshot(&self) -> Vec<Descriptor> {
        self.all(&self.live).map(|peer| Descriptor::clone(&peer.descriptor)).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::key::{PublicKey, hash};
    use crate::node::{LoadClass, Transport};

    fn descriptor(number: u32, subnet: u8) -> Descriptor {
        let bytes = number.to_be_bytes();
        Descriptor {
            device: DeviceKey(PublicKey(hash("device", &[&bytes]))),
            place: Place(hash("place", &[&bytes])),
            roles: Roles::DIRECTORY,
            load: LoadClass(0),
            addresses: vec![Address::V4 { ip: [10, bytes[2], subnet, bytes[3]], port: 1, transport: Transport::Quic }],
        }
    }

    fn proof() -> Proof {
        Proof { authority: AuthorityKey(PublicKey([1; 32])), serial: 1, not_after: UnixTime(u64::MAX) }
    }

    fn table(capacity: usize, lab: bool) -> RoutingTable {
        RoutingTable::new(
            DeviceKey(PublicKey([7; 32])),
            Some(Place(hash("place", &[b"own"]))),
            TableLimits { proved: capacity, hints: 64 },
            lab,
            Instant::now(),
        )
    }

    #[test]
    fn the_closest_are_those_a_full_sort_finds() {
        let now = Instant::now();
        let mut table = table(1_000, true);
        let all: Vec<_> = (0..300).map(|number| descriptor(number, 0)).collect();
        for descriptor in &all {
            assert_eq!(table.prove(now, descriptor.clone(), proof()), Admission::New);
        }
        for round in 0..50_u32 {
            let target = Place(hash("target", &[&round.to_be_bytes()]));
            let mut sorted = all.clone();
            sorted.sort_by_key(|descriptor| target.distance(&descriptor.place));
            let found: Vec<_> = table.closest(&target, 20).iter().map(|d| d.device).collect();
            assert_eq!(found, sorted[..20].iter().map(|d| d.device).collect::<Vec<_>>());
        }
        assert_eq!(table.closest(&Place([0; 32]), 1_000).len(), 300);
    }

    #[test]
    fn a_full_table_keeps_its_neighbours_and_those_known_longest() {
        let start = Instant::now();
        let mut table = table(64, true);
        for number in 0..2_000 {
            table.prove(start + Duration::from_secs(number.into()), descriptor(number, 0), proof());
            assert!(table.live_count() <= 64);
        }
        let origin = table.origin;
        let mut sorted: Vec<_> = (0..2_000).map(|number| descriptor(number, 0)).collect();
        sorted.sort_by_key(|descriptor| origin.distance(&descriptor.place));
        let found: BTreeSet<_> = table.closest(&origin, 8).iter().map(|d| d.device).collect();
        assert!(sorted[..8].iter().all(|d| found.contains(&d.device)), "near neighbours find room");
        assert!((0..16).filter(|number| table.is_live(&descriptor(*number, 0).device)).count() >= 12, "old ones stay");
    }

    #[test]
    fn one_network_gets_two_replicas_and_four_places_in_a_bucket() {
        let now = Instant::now();
        let mut table = table(1_000, false);
        for number in 0..200 {
            let mut one = descriptor(number, 0);
            one.addresses = vec![Address::V4 { ip: [10, 0, 0, 1], port: 1, transport: Transport::Quic }];
            table.prove(now, one, proof());
        }
        assert!(table.bucket(0).count() <= GROUP_BUCKET_MAX);
        for number in 1_000..1_100 {
            table.prove(now, descriptor(number, u8::try_from(number % 250).unwrap_or(0)), proof());
        }
        let set = table.replica_set(&Place([3; 32]));
        assert_eq!(set.len(), REPLICAS);
        let crowded = NetworkGroup::of(&Address::V4 { ip: [10, 0, 0, 9], port: 9, transport: Transport::Tcp });
        assert!(set.iter().filter(|d| NetworkGroup::of_descriptor(d) == crowded).count() <= GROUP_REPLICAS_MAX);
    }

    #[test]
    fn what_is_heard_stays_a_hint_until_proved() {
        let now = Instant::now();
        let mut table = table(100, true);
        let node = descriptor(1, 0);
        table.hear(now, node.clone(), None);
        assert!(table.closest(&node.place, 8).is_empty(), "a hint isn't passed on");
        assert_eq!(table.worth_asking(&node.place, 8, now).len(), 1, "but it is asked");
        assert_eq!(table.prove(now, node.clone(), proof()), Admission::New);
        assert_eq!(table.closest(&node.place, 8).len(), 1);
        assert!(!table.failed(now, &node.device, false));
        assert!(table.failed(now, &node.device, false), "twice silent is dead");
        assert!(table.closest(&node.place, 8).is_empty());
        table.succeeded(now, &node.device, None);
        assert!(table.is_live(&node.device), "and back at the first sign of life");
    }

    #[test]
    fn hints_are_bounded_and_liars_lose_their_say() {
        let now = Instant::now();
        let mut table = table(100, true);
        for number in 0..1_000 {
            table.hear(now, descriptor(number, 0), None);
        }
        assert_eq!(table.hint_count(), 64);
        let liar = Arc::new(descriptor(5_000, 0).device);
        for number in 2_000..2_003 {
            table.hear(now, descriptor(number, 0), Some(&liar));
            let mut real = descriptor(number, 0);
            real.place = Place([9; 32]);
            table.prove(now, real, proof());
        }
        table.hear(now, descriptor(2_010, 0), Some(&liar));
        assert!(table.slab.by_device(&descriptor(2_010, 0).device).is_none());
    }
}
