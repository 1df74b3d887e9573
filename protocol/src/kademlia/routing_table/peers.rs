//! The peers of a routing table, in some 30 bytes each beside their descriptor, and in the order of their places.
//!
//! A table has thousands of them and is asked at every request. So an entry is small (times are whole seconds since the table's start, what is rare is
//! kept apart), entries stay where they are, and what orders them are arrays of the first 32 bits of a key beside the entry's number: searched by halving, and moved by one
//! copy when something comes in between.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::tellers::Teller;
use super::{DEAD_RETRY, FAILURES_DEAD, NetworkGroup, Proof};
use crate::directory::{Distance, Place};
use crate::key::DeviceKey;
use crate::node::Descriptor;

/// A peer's number in its table, used again once it is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Slot(u16);

/// Most peers of a table, so that each has a number, and those met another below [`MET`].
pub(super) const PEERS_MAX: usize = MET as usize;

/// A device by the first 64 bits of its key, where a list of whole keys would be too long: to make a key with another's costs 2^64 tries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::kademlia) struct Mark(u64);

impl Mark {
    pub(in crate::kademlia) fn of(device: &DeviceKey) -> Self {
        Self(device.as_bytes().first_chunk().map_or(0, |first| u64::from_be_bytes(*first)))
    }
}

/// Seconds since the table's start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Secs(pub(super) u32);

/// What is known of those alone whose places are proved: few of a table's peers.
#[derive(Clone, Debug)]
pub(super) struct Met {
    pub(super) proof: Proof,
    /// When its place was proved first.
    pub(super) added: Secs,
    /// Since when it counts as living; if it doesn't, it means nothing.
    pub(super) living_since: Secs,
    /// When it failed last, if it did.
    pub(super) failed_at: Secs,
    /// Microseconds; 0 if none was measured.
    rtt: u32,
}

impl Met {
    pub(super) const fn new(proof: Proof, now: Secs) -> Self {
        Self { proof, added: now, living_since: now, failed_at: Secs(0), rtt: 0 }
    }

    pub(super) fn rtt(&self) -> Option<Duration> {
        (self.rtt > 0).then(|| Duration::from_micros(self.rtt.into()))
    }

    /// Half old, half new: follows a change within a few answers.
    pub(super) fn measured(&mut self, rtt: Duration) {
        let new = u32::try_from(rtt.as_micros()).unwrap_or(u32::MAX).max(1);
        self.rtt = if self.rtt == 0 { new } else { self.rtt / 2 + new / 2 };
    }
}

/// How a peer is known, in two bytes: 0, nobody said who told of it; below [`MET`], who told, one more than its number; from there on the number of what is known of those met.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Standing(u16);

/// The first number of those met.
const MET: u16 = 1 << 15;

impl Standing {
    fn told_by(teller: Option<Teller>) -> Self {
        Self(teller.map_or(0, |teller| teller.0 + 1))
    }

    fn met(number: usize) -> Self {
        Self(u16::try_from(number).unwrap_or(u16::MAX) | MET)
    }

    fn as_teller(self) -> Option<Teller> {
        if self.0 < MET { self.0.checked_sub(1).map(Teller) } else { None }
    }

    fn as_met(self) -> Option<usize> {
        self.0.checked_sub(MET).map(usize::from)
    }
}

#[derive(Clone, Debug)]
pub(super) struct Peer {
    pub(super) descriptor: Arc<Descriptor>,
    /// When it last showed life, or somebody told of it.
    pub(super) seen: Secs,
    standing: Standing,
    pub(super) failures: u8,
    /// It was silent longer than others are, and hasn't answered since.
    pub(super) is_suspect: bool,
}

impl Peer {
    /// Who is known by hearsay alone, or isn't among [`Peers`] yet.
    pub(super) fn told(descriptor: Arc<Descriptor>, seen: Secs, teller: Option<Teller>) -> Self {
        Self { descriptor, seen, standing: Standing::told_by(teller), failures: 0, is_suspect: false }
    }

    pub(super) fn told_by(&self) -> Option<Teller> {
        self.standing.as_teller()
    }

    pub(super) fn is_met(&self) -> bool {
        self.standing.as_met().is_some()
    }

    pub(super) fn is_live(&self) -> bool {
        self.is_met() && self.failures < FAILURES_DEAD
    }

    pub(super) fn group(&self) -> Option<NetworkGroup> {
        NetworkGroup::of_descriptor(&self.descriptor)
    }
}

/// Numbers of peers in the order of a key's first 32 bits.
#[derive(Clone, Debug, Default)]
struct Index {
    prefixes: Vec<u32>,
    slots: Vec<Slot>,
}

fn prefix(bytes: &[u8; 32]) -> u32 {
    bytes.first_chunk().map_or(0, |first| u32::from_be_bytes(*first))
}

/// Room for an eighth more: twice as much would leave half of a table empty.
fn make_room<T>(entries: &mut Vec<T>) {
    if entries.len() == entries.capacity() {
        entries.reserve_exact(8 + entries.len() / 8);
    }
}

impl Index {
    fn range(&self, low: u32, high: u32) -> Range<usize> {
        self.prefixes.partition_point(|prefix| *prefix < low)..self.prefixes.partition_point(|prefix| *prefix <= high)
    }

    /// Where those are that share their first `bits` bits with `point`; its first 32 if it is more.
    fn sharing(&self, point: &Place, bits: u32) -> Range<usize> {
        let (point, free) = (prefix(&point.0), u32::MAX.checked_shr(bits).unwrap_or(0));
        self.range(point & !free, point | free)
    }

    fn insert(&mut self, prefix: u32, slot: Slot) {
        let at = self.prefixes.partition_point(|known| *known < prefix);
        make_room(&mut self.prefixes);
        make_room(&mut self.slots);
        self.prefixes.insert(at, prefix);
        self.slots.insert(at, slot);
    }

    fn remove(&mut self, prefix: u32, slot: Slot) {
        if let Some(at) = self.range(prefix, prefix).find(|at| self.slots.get(*at) == Some(&slot)) {
            self.prefixes.remove(at);
            self.slots.remove(at);
        }
    }

    fn slots(&self, range: Range<usize>) -> impl Iterator<Item = Slot> {
        self.slots.get(range).into_iter().flatten().copied()
    }
}

/// Which of a table's peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Which {
    /// Proved and living.
    Live,
    /// All others.
    Hints,
}

/// Peers by device and by place.
#[derive(Clone, Debug, Default)]
pub(super) struct Peers {
    peers: Vec<Option<Peer>>,
    free: Vec<Slot>,
    /// What is known of those met, by the number in their standing.
    met: Vec<Option<Met>>,
    by_device: Index,
    live: Index,
    hints: Index,
    /// Where the search for a hint to give up goes on.
    cursor: usize,
}

impl Peers {
    const fn index(&self, which: Which) -> &Index {
        match which {
            Which::Live => &self.live,
            Which::Hints => &self.hints,
        }
    }

    const fn index_mut(&mut self, is_live: bool) -> &mut Index {
        if is_live { &mut self.live } else { &mut self.hints }
    }

    pub(super) const fn len(&self, which: Which) -> usize {
        self.index(which).slots.len()
    }

    fn at(&self, slot: Slot) -> Option<&Peer> {
        self.peers.get(usize::from(slot.0))?.as_ref()
    }

    fn slot_of(&self, device: &DeviceKey) -> Option<Slot> {
        let prefix = prefix(device.as_bytes());
        let mut same = self.by_device.slots(self.by_device.range(prefix, prefix));
        same.find(|slot| self.at(*slot).is_some_and(|peer| peer.descriptor.device == *device))
    }

    pub(super) fn get(&self, device: &DeviceKey) -> Option<&Peer> {
        self.at(self.slot_of(device)?)
    }

    /// Those with a mark: one, or none.
    pub(super) fn marked(&self, mark: Mark) -> impl Iterator<Item = &Peer> {
        let prefix = (mark.0 >> 32) as u32;
        let like = self.by_device.slots(self.by_device.range(prefix, prefix)).filter_map(|slot| self.at(slot));
        like.filter(move |peer| Mark::of(&peer.descriptor.device) == mark)
    }

    /// Who told of any of them.
    pub(super) fn tellers(&self) -> impl Iterator<Item = Teller> {
        self.peers.iter().flatten().filter_map(Peer::told_by)
    }

    /// What is known of a peer if it was met.
    pub(super) fn met(&self, peer: &Peer) -> Option<&Met> {
        self.met.get(peer.standing.as_met()?)?.as_ref()
    }

    /// False of who has died lately.
    pub(super) fn may_be_asked(&self, peer: &Peer, now: Secs) -> bool {
        let failed_at = self.met(peer).map_or(Secs(0), |met| met.failed_at);
        peer.failures < FAILURES_DEAD || now.0.saturating_sub(failed_at.0) as u64 >= DEAD_RETRY.as_secs()
    }

    fn note_met(&mut self, met: Met) -> Standing {
        let free = self.met.iter().position(Option::is_none).unwrap_or_else(|| {
            make_room(&mut self.met);
            self.met.push(None);
            self.met.len() - 1
        });
        if let Some(room) = self.met.get_mut(free) {
            *room = Some(met);
        }
        Standing::met(free)
    }

    /// Adds a peer that isn't there, to fewer than [`PEERS_MAX`], with what is known of it if it was met.
    pub(super) fn insert(&mut self, mut peer: Peer, met: Option<Met>) {
        if let Some(met) = met {
            peer.standing = self.note_met(met);
        }
        let (device, place) = (prefix(peer.descriptor.device.as_bytes()), prefix(&peer.descriptor.place.0));
        let is_live = peer.is_live();
        let slot = self.free.pop().unwrap_or_else(|| {
            make_room(&mut self.peers);
            self.peers.push(None);
            Slot(u16::try_from(self.peers.len() - 1).unwrap_or(u16::MAX))
        });
        if let Some(room) = self.peers.get_mut(usize::from(slot.0)) {
            *room = Some(peer);
        }
        self.by_device.insert(device, slot);
        self.index_mut(is_live).insert(place, slot);
    }

    /// Takes a peer out, with what is known of it if it was met.
    pub(super) fn remove(&mut self, device: &DeviceKey) -> Option<(Peer, Option<Met>)> {
        let slot = self.slot_of(device)?;
        let peer = self.peers.get_mut(usize::from(slot.0))?.take()?;
        self.by_device.remove(prefix(device.as_bytes()), slot);
        self.index_mut(peer.is_live()).remove(prefix(&peer.descriptor.place.0), slot);
        self.free.push(slot);
        let met = peer.standing.as_met().and_then(|number| self.met.get_mut(number)?.take());
        Some((peer, met))
    }

    /// Changes what isn't part of its descriptor.
    pub(super) fn change(&mut self, device: &DeviceKey, change: impl FnOnce(&mut Peer, Option<&mut Met>)) {
        let Some(slot) = self.slot_of(device) else { return };
        let Some(Some(peer)) = self.peers.get_mut(usize::from(slot.0)) else { return };
        let was_live = peer.is_live();
        let met = peer.standing.as_met().and_then(|number| self.met.get_mut(number)?.as_mut());
        change(peer, met);
        let (is_live, place) = (peer.is_live(), prefix(&peer.descriptor.place.0));
        if was_live != is_live {
            self.index_mut(was_live).remove(place, slot);
            self.index_mut(is_live).insert(place, slot);
        }
    }

    /// In the order of their places.
    pub(super) fn iter(&self, which: Which) -> impl Iterator<Item = &Peer> {
        self.index(which).slots.iter().filter_map(|slot| self.at(*slot))
    }

    /// Those whose places share their first `bits` bits, at most 32, with `point`, and a few more beside them if it is more.
    pub(super) fn around(&self, which: Which, point: &Place, bits: u32) -> impl Iterator<Item = &Peer> {
        let index = self.index(which);
        index.slots(index.sharing(point, bits)).filter_map(|slot| self.at(slot))
    }

    /// How many they are.
    pub(super) fn count_around(&self, which: Which, point: &Place, bits: u32) -> usize {
        self.index(which).sharing(point, bits).len()
    }

    /// The `count` nearest to `target`, nearest first: widens the shared prefix until enough are inside, so the cost is that of the answer.
    pub(super) fn nearest(&self, which: Which, target: &Place, count: usize) -> Vec<(Distance, &Peer)> {
        let (point, index) = (prefix(&target.0), self.index(which));
        let at = index.prefixes.partition_point(|prefix| *prefix < point);
        let beside = [index.prefixes.get(at), at.checked_sub(1).and_then(|before| index.prefixes.get(before))];
        let shared = beside.into_iter().flatten().map(|prefix| (prefix ^ point).leading_zeros()).max();
        let Some(mut bits) = shared else { return Vec::new() };
        let range = loop {
            let range = index.sharing(target, bits);
            if bits == 0 || range.len() >= count {
                break range;
            }
            bits -= 1;
        };
        let peers = index.slots(range).filter_map(|slot| self.at(slot));
        let mut found: Vec<_> = peers.map(|peer| (target.distance(&peer.descriptor.place), peer)).collect();
        found.sort_unstable_by_key(|(distance, peer)| (*distance, peer.descriptor.device));
        found.truncate(count);
        found
    }

    /// Of the next `compared` hints the one that failed most, else the one that nobody has named for longest.
    pub(super) fn worst_of_some_hints(&mut self, compared: usize) -> Option<DeviceKey> {
        let mut worst: Option<(u8, std::cmp::Reverse<Secs>, Slot)> = None;
        let mut seen = 0;
        for _ in 0..self.peers.len() {
            self.cursor = (self.cursor + 1) % self.peers.len();
            let slot = Slot(u16::try_from(self.cursor).unwrap_or(u16::MAX));
            let Some(peer) = self.at(slot).filter(|peer| !peer.is_live()) else { continue };
            worst = worst.max(Some((peer.failures, std::cmp::Reverse(peer.seen), slot)));
            seen += 1;
            if seen >= compared {
                break;
            }
        }
        worst.and_then(|(.., slot)| self.at(slot)).map(|peer| peer.descriptor.device)
    }
}
