//! Whom this node knows: descriptors by place, bounded, with what is proved kept apart from what was only heard.
//!
//! A descriptor is *proved* when its node's hello showed a certificate chain that gives it its place. Only proved, living nodes are vouched for
//! to others, count as replicas and may say "no such record". What others tell is a *hint*: good enough to ask, promoted by the hello that
//! follows. Nodes that fail twice count as dead; they stay as hints for a while, because networks fail more often than nodes.

mod distrust;
mod first_contacts;
mod peers;
mod tellers;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::distrust::Distrust;
use self::first_contacts::FirstContacts;
pub(super) use self::peers::Mark;
use self::peers::{Met, PEERS_MAX, Peer, Peers, Secs, Which};
use self::tellers::{Teller, Tellers};
use crate::directory::{Distance, Place, PlaceOwner, RecordKey};
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

/// Most connections noted, those of unknown nodes included.
const CONNECTIONS_MAX: usize = 4_096;

/// Nodes that are nearer to what is far, by the distance of our eighth neighbour. Chance makes that wrong by a half now and then; fewer than eight where 24 are to be expected it hardly makes.
const RANK_FAR: u128 = 24;

/// Hints compared when one has to go.
const HINTS_COMPARED: usize = 16;

/// Round trips remembered for the node's median.
const RTT_SAMPLES: usize = 64;

/// Who showed life within so many seconds most likely lives; who did within three times as many less likely, then within seven times, and so on.
const FRESH_SECS: u32 = 5 * 60;

/// Taken as the seconds between a node's last sign of life and another's word of it.
const HEARSAY_SECS: u32 = 5 * 60;

/// Others are told of who is known by hearsay alone if somebody named it within so many seconds.
const RUMOUR_SECS: u32 = 30 * 60;

/// Seconds without a sign of life after which a proved node makes room for another: so many that whoever has many certificates can't put those who are just seldom met out of a table.
const STALE_SECS: u32 = 24 * 3_600;

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

/// How much a table holds.
#[derive(Clone, Copy, Debug)]
pub(super) struct TableLimits {
    pub(super) proved: usize,
    pub(super) hints: usize,
    /// No caps per network.
    pub(super) is_lab: bool,
}

/// Whose word gives a node its place, and until when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Proof {
    pub(super) authority: AuthorityKey,
    pub(super) serial: u64,
    pub(super) not_after: UnixTime,
}

#[derive(Clone, Copy, Debug)]
struct Connection {
    rtt: Option<Duration>,
    relayed: bool,
    /// When it was asked the last question for whom it knows that it has answered.
    sampled: Option<Secs>,
    /// The place that its hello has proved, if there was no room for it among the proved.
    place: Option<Place>,
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
    peers: Peers,
    connections: BTreeMap<DeviceKey, Connection>,
    distrust: Distrust,
    /// Microseconds.
    rtts: VecDeque<u32>,
    contacts: FirstContacts,
    tellers: Tellers,
    fresh_hints_lost: u64,
    /// How dense the network is around a place that isn't ours, see [`RoutingTable::note_density`].
    elsewhere_bits: Option<u32>,
}

/// First and last key of the span around `place` outside which the node there is nobody's replica: eight times wider than the span that holds
/// the node and eight others, so that a chance gap in the next span over doesn't matter.
pub(super) type KeySpan = (RecordKey, RecordKey);

/// First and last point that share the first `bits` bits with `point`.
fn span(point: &Place, bits: u32) -> (Place, Place) {
    let (mut low, mut high) = (point.0, point.0);
    for (half, (low, high)) in (0..).zip(low.as_chunks_mut::<16>().0.iter_mut().zip(high.as_chunks_mut::<16>().0)) {
        let free = u128::MAX.checked_shr(bits.saturating_sub(128 * half)).unwrap_or(0);
        *low = (u128::from_be_bytes(*low) & !free).to_be_bytes();
        *high = (u128::from_be_bytes(*high) | free).to_be_bytes();
    }
    (Place(low), Place(high))
}

impl RoutingTable {
    pub(super) fn new(device: DeviceKey, place: Option<Place>, limits: TableLimits, start: Instant) -> Self {
        Self {
            device,
            origin: place.unwrap_or(Place(*device.as_bytes())),
            capacity: limits.proved.clamp(1, PEERS_MAX / 4),
            hints_capacity: limits.hints.clamp(1, PEERS_MAX / 4),
            lab: limits.is_lab,
            start,
            peers: Peers::default(),
            connections: BTreeMap::new(),
            distrust: Distrust::default(),
            rtts: VecDeque::new(),
            contacts: FirstContacts::default(),
            tellers: Tellers::default(),
            fresh_hints_lost: 0,
            elsewhere_bits: None,
        }
    }

    fn secs(&self, now: Instant) -> Secs {
        Secs(u32::try_from(now.saturating_duration_since(self.start).as_secs()).unwrap_or(u32::MAX))
    }

    pub(super) fn set_origin(&mut self, place: Option<Place>) {
        self.origin = place.unwrap_or(Place(*self.device.as_bytes()));
        self.elsewhere_bits = None;
    }

    /// The eighth replica of what lies at `target` stands at `eighth`; `None` if there are fewer. For a client, which hardly knows its own neighbourhood: among 7,000 servers most took the
    /// network for a quarter of what it is, some for a hundredth.
    pub(super) fn note_density(&mut self, target: &Place, eighth: Option<&Place>) {
        self.elsewhere_bits = eighth.map(|eighth| target.distance(eighth).leading_zeros() + 1);
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
            self.peers.remove(&device);
            return Admission::Client;
        }
        let before = self.peers.remove(&device);
        let was_live = before.as_ref().is_some_and(|(peer, _)| peer.is_live());
        if let Some((told, _)) = &before
            && told.descriptor.place != descriptor.place
            && let Some(teller) = self.key_of(told.told_by())
        {
            self.strike(teller);
        }
        let group = NetworkGroup::of_descriptor(&descriptor);
        if !was_live && !self.make_room(now, &descriptor.place, group) {
            if let Some(connection) = self.connections.get_mut(&device) {
                connection.place = Some(descriptor.place);
            }
            self.hear(now, descriptor, None);
            return Admission::Full;
        }
        let peer = Peer::told(descriptor, self.secs(now), None);
        let met = match before.and_then(|(_, met)| met) {
            Some(mut met) => {
                met.living_since = if was_live { met.living_since } else { peer.seen };
                met.proof = proof;
                met
            }
            None => {
                let mut met = Met::new(proof, peer.seen);
                let measured = self.connections.get(&device).and_then(|connection| connection.rtt);
                measured.into_iter().for_each(|rtt| met.measured(rtt));
                met
            }
        };
        self.peers.insert(peer, Some(met));
        if was_live { Admission::Known } else { Admission::New }
    }

    fn key_of(&self, teller: Option<Teller>) -> Option<DeviceKey> {
        self.tellers.key(teller?)
    }

    /// Takes in what somebody told. Never replaces anything proved, nor another's word that hasn't failed yet. True if the node wasn't known, or by another word that has failed.
    pub(super) fn hear(&mut self, now: Instant, descriptor: impl Into<Arc<Descriptor>>, teller: Option<&DeviceKey>) -> bool {
        let descriptor = descriptor.into();
        let device = descriptor.device;
        let is_ignored = device == self.device
            || !descriptor.roles.contains(Roles::DIRECTORY)
            || self.is_banned(&device, now)
            || teller.is_some_and(|teller| self.distrust.is_ignored(teller));
        if is_ignored {
            return false;
        }
        match self.peers.get(&device) {
            Some(known) if known.is_met() => return false,
            Some(known) if known.failures == 0 => {
                // Whom several name stays longest.
                if self.key_of(known.told_by()).as_ref() != teller {
                    let seen = self.secs(now);
                    self.peers.change(&device, |peer, _| peer.seen = seen);
                }
                return false;
            }
            _ => {}
        }
        // A node that came back has other addresses than those that failed.
        self.peers.remove(&device);
        if self.hint_count() >= self.hints_capacity {
            self.drop_a_hint(now);
        }
        let teller = teller.and_then(|teller| self.tellers.number(teller, self.peers.tellers()));
        self.peers.insert(Peer::told(descriptor, self.secs(now), teller), None);
        true
    }

    /// Gives up one hint: of a handful, the one that failed most, else the one that nobody has named for longest. Hints age fast, so which handful hardly matters; what does is that a flood of
    /// hints doesn't cost a search of them all each.
    fn drop_a_hint(&mut self, now: Instant) {
        let Some(worst) = self.peers.worst_of_some_hints(HINTS_COMPARED) else { return };
        let lost = self.peers.remove(&worst);
        self.fresh_hints_lost += u64::from(lost.is_some_and(|(peer, _)| self.is_fresh(now, &peer)));
    }

    /// Whether who is known by hearsay was named lately, and hasn't been silent.
    fn is_fresh(&self, now: Instant, peer: &Peer) -> bool {
        peer.failures == 0 && !peer.is_suspect && self.secs(now).0.saturating_sub(peer.seen.0) <= RUMOUR_SECS
    }

    /// Makes room for one more proved node at `place`; false if the table prefers what it has.
    fn make_room(&mut self, now: Instant, place: &Place, group: Option<NetworkGroup>) -> bool {
        let bucket = self.bucket_of(place);
        if !self.lab {
            let same = self.bucket(bucket).filter(|peer| peer.group() == group).count();
            if same >= GROUP_BUCKET_MAX {
                return false;
            }
        }
        if self.live_count() < self.capacity {
            return true;
        }
        // Our nearest neighbours always find room, and never make any.
        let near = self.peers.nearest(Which::Live, &self.origin, BUCKET_MIN).last().map(|(distance, _)| *distance);
        let is_near = |place: &Place| near.is_some_and(|near| self.origin.distance(place) <= near);
        if let Some(stale) = self.stalest(now).filter(|peer| !is_near(&peer.descriptor.place)).map(|peer| peer.descriptor.device)
        {
            return self.peers.remove(&stale).is_some();
        }
        let mut sizes: BTreeMap<u32, usize> = BTreeMap::new();
        for peer in self.peers.iter(Which::Live).filter(|peer| !is_near(&peer.descriptor.place)) {
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
            .filter(|peer| !self.connections.contains_key(&peer.descriptor.device))
            .filter(|peer| !is_near(&peer.descriptor.place))
            .filter_map(|peer| Some((peer.failures, self.peers.met(peer)?.added, peer.descriptor.device)))
            .max();
        match youngest {
            Some((.., device)) => self.peers.remove(&device).is_some(),
            None => false,
        }
    }

    /// Of the proved to whom no connection is open the one that has shown no sign of life for longest, if that is long.
    fn stalest(&self, now: Instant) -> Option<&Peer> {
        let stale = self.peers.iter(Which::Live).filter(|peer| !self.connections.contains_key(&peer.descriptor.device));
        let stalest = stale.min_by_key(|peer| (peer.seen, peer.descriptor.device));
        stalest.filter(|peer| self.secs(now).0.saturating_sub(peer.seen.0) > STALE_SECS)
    }

    fn bucket_of(&self, place: &Place) -> u32 {
        self.origin.distance(place).leading_zeros()
    }

    fn bucket(&self, bucket: u32) -> impl Iterator<Item = &Peer> {
        let around = self.peers.around(Which::Live, &self.origin, bucket);
        around.filter(move |peer| self.bucket_of(&peer.descriptor.place) == bucket)
    }

    /// Refuses a node for an hour. True if it was among the living.
    pub(super) fn ban(&mut self, now: Instant, device: DeviceKey) -> bool {
        let peer = self.peers.remove(&device);
        if let Some(connection) = self.connections.get_mut(&device) {
            connection.place = None;
        }
        if let Some(teller) = peer.as_ref().and_then(|(peer, _)| self.key_of(peer.told_by())) {
            self.strike(teller);
        }
        self.distrust.ban(now, device);
        peer.is_some_and(|(peer, _)| peer.is_live())
    }

    fn is_banned(&self, device: &DeviceKey, now: Instant) -> bool {
        self.distrust.is_banned(device, now)
    }

    /// Counts one falsehood against a node.
    pub(super) fn strike(&mut self, device: DeviceKey) {
        self.distrust.strike(device);
    }

    pub(super) fn told_by(&self, device: &DeviceKey) -> Option<DeviceKey> {
        self.key_of(self.peers.get(device)?.told_by())
    }

    pub(super) fn connected(&mut self, now: Instant, device: DeviceKey, rtt: Option<Duration>, relayed: bool) {
        if self.connections.len() < CONNECTIONS_MAX || self.connections.contains_key(&device) {
            let before = self.connections.get(&device);
            let (sampled, place) = before.map_or((None, None), |before| (before.sampled, before.place));
            self.connections.insert(device, Connection { rtt, relayed, sampled, place });
        }
        self.succeeded(now, &device, rtt);
    }

    pub(super) fn disconnected(&mut self, device: &DeviceKey) {
        self.connections.remove(device);
    }

    /// A node showed life.
    pub(super) fn succeeded(&mut self, now: Instant, device: &DeviceKey, rtt: Option<Duration>) {
        if let Some(rtt) = rtt {
            if self.rtts.len() >= RTT_SAMPLES {
                self.rtts.pop_front();
            }
            self.rtts.push_back(u32::try_from(rtt.as_micros()).unwrap_or(u32::MAX));
        }
        let seen = self.secs(now);
        self.peers.change(device, |peer, met| {
            let was_live = peer.is_live();
            (peer.failures, peer.is_suspect, peer.seen) = (0, false, seen);
            if let Some(met) = met {
                met.living_since = if was_live { met.living_since } else { seen };
                rtt.into_iter().for_each(|rtt| met.measured(rtt));
            }
        });
    }

    /// A node to whom no connection was open hasn't shown life in time: it is asked after others until it does.
    pub(super) fn suspect(&mut self, device: &DeviceKey) {
        self.peers.change(device, |peer, _| peer.is_suspect = true);
    }

    /// Whether a node of this table to whom no connection was open has shown life in time. Those that others have just named don't count: they live more often.
    pub(super) fn contacted(&mut self, is_alive: bool) {
        self.contacts.note(is_alive);
    }

    /// How many nodes to ask at once so that one of them lives in 399 of 400 cases, by how it went lately; at most four.
    pub(super) fn first_width(&self) -> usize {
        self.contacts.width()
    }

    /// A node didn't answer. True if that made it dead.
    pub(super) fn failed(&mut self, now: Instant, device: &DeviceKey, is_certain: bool) -> bool {
        let Some((mut peer, mut met)) = self.peers.remove(device) else { return false };
        let was_live = peer.is_live();
        peer.failures = peer.failures.saturating_add(1).max(if is_certain { FAILURES_DEAD } else { 0 });
        if let Some(met) = &mut met {
            met.failed_at = self.secs(now);
        }
        let is_live = peer.is_live();
        let is_worth_keeping = peer.failures < if met.is_some() { FAILURES_FORGET } else { FAILURES_DEAD };
        if is_worth_keeping {
            self.peers.insert(peer, met);
        }
        while self.hint_count() > self.hints_capacity {
            self.drop_a_hint(now);
        }
        was_live && !is_live
    }

    /// Drops nodes whose certificate has ended or was revoked; returns them.
    pub(super) fn retain_proved(&mut self, is_valid: impl Fn(&Proof) -> bool) -> Vec<Arc<Descriptor>> {
        let all = self.peers.iter(Which::Live).chain(self.peers.iter(Which::Hints));
        let gone = all.filter(|peer| self.peers.met(peer).is_some_and(|met| !is_valid(&met.proof)));
        let gone: Vec<_> = gone.map(|peer| Arc::clone(&peer.descriptor)).collect();
        for descriptor in &gone {
            self.peers.remove(&descriptor.device);
        }
        // Whose place these had from isn't kept: they prove it anew with their next hello.
        self.connections.values_mut().for_each(|connection| connection.place = None);
        gone
    }

    pub(super) fn expire_bans(&mut self, now: Instant) {
        self.distrust.expire(now);
    }

    /// The closest proved, living nodes.
    pub(super) fn closest(&self, target: &Place, count: usize) -> Vec<Arc<Descriptor>> {
        self.peers.nearest(Which::Live, target, count).iter().map(|(_, peer)| Arc::clone(&peer.descriptor)).collect()
    }

    /// The closest of those who came to count as living within the last `within`.
    pub(super) fn closest_news(&self, now: Instant, within: Duration, target: &Place, count: usize) -> Vec<Arc<Descriptor>> {
        let since = self.secs(now.checked_sub(within).unwrap_or(self.start));
        let news = self.peers.iter(Which::Live).filter(|peer| self.peers.met(peer).is_some_and(|met| met.living_since >= since));
        let mut news: Vec<_> = news.map(|peer| (target.distance(&peer.descriptor.place), &peer.descriptor)).collect();
        let order = |(distance, node): &(Distance, &Arc<Descriptor>)| (*distance, node.device);
        if news.len() > count {
            news.select_nth_unstable_by_key(count, order);
            news.truncate(count);
        }
        news.sort_unstable_by_key(order);
        news.into_iter().map(|(_, node)| Arc::clone(node)).collect()
    }

    /// How long ago a connected node was asked for whom it knows, if it was and has answered.
    pub(super) fn sampled_before(&self, now: Instant, device: &DeviceKey) -> Option<Duration> {
        let at = self.connections.get(device)?.sampled?;
        Some(Duration::from_secs(u64::from(self.secs(now).0.saturating_sub(at.0))))
    }

    /// A connected node has said whom it knows, to a question of this time.
    pub(super) fn sampled(&mut self, asked_at: Instant, device: &DeviceKey) {
        let at = self.secs(asked_at);
        if let Some(connection) = self.connections.get_mut(device) {
            connection.sampled = connection.sampled.max(Some(at));
        }
    }

    /// The closest nodes worth asking, hints included: `count` of each kind.
    pub(super) fn worth_asking(&self, target: &Place, count: usize, now: Instant) -> Vec<Known> {
        let known = |peer: &Peer| Known {
            descriptor: Arc::clone(&peer.descriptor),
            root: self.key_of(peer.told_by()).unwrap_or(peer.descriptor.device),
        };
        let now = self.secs(now);
        let live = self.peers.nearest(Which::Live, target, count).into_iter().map(|(_, peer)| known(peer));
        let hints = self.peers.nearest(Which::Hints, target, 2 * count).into_iter().map(|(_, peer)| peer);
        live.chain(hints.filter(|peer| self.peers.may_be_asked(peer, now)).take(count).map(known)).collect()
    }

    /// The closest of all that are known, hints included: `count` in all.
    pub(super) fn closest_known(&self, target: &Place, count: usize) -> Vec<Arc<Descriptor>> {
        let mut near = self.peers.nearest(Which::Live, target, count);
        near.extend(self.peers.nearest(Which::Hints, target, count));
        near.sort_unstable_by_key(|(distance, peer)| (*distance, peer.descriptor.device));
        near.iter().take(count).map(|(_, peer)| Arc::clone(&peer.descriptor)).collect()
    }

    /// Of the `count` closest that are known those whom this table doesn't vouch for, and somebody has named lately.
    pub(super) fn closest_hearsay(&self, now: Instant, target: &Place, count: usize) -> Vec<Arc<Descriptor>> {
        let mut near = self.peers.nearest(Which::Hints, target, 2 * count);
        near.retain(|(_, peer)| self.is_fresh(now, peer));
        near.truncate(count);
        let met = self.peers.nearest(Which::Live, target, count);
        let is_among = |distance: &Distance| met.iter().filter(|(met, _)| met < distance).count();
        let among = near.iter().enumerate().filter(|(rank, (distance, _))| rank + is_among(distance) < count);
        among.map(|(_, (_, peer))| Arc::clone(&peer.descriptor)).collect()
    }

    /// The proved servers to whom connections are open that are closest to `target`.
    pub(super) fn closest_connected(&self, target: &Place, count: usize) -> Vec<Arc<Descriptor>> {
        let mut connected = self.connected_servers();
        connected.retain(|node| !self.is_suspect(&node.device));
        connected.sort_by_cached_key(|node| (target.distance(&node.place), node.device));
        connected.truncate(count);
        connected
    }

    /// Proved servers to whom connections are open.
    pub(super) fn connected_servers(&self) -> Vec<Arc<Descriptor>> {
        self.connections.keys().filter_map(|device| self.live_descriptor(device)).collect()
    }

    /// The nodes that should keep what lies at `target`, closest first, not counting ourselves: at most two of one network, and one of a user.
    pub(super) fn replica_set(&self, target: &Place) -> Vec<Arc<Descriptor>> {
        if self.lab {
            return self.closest(target, REPLICAS);
        }
        self.unlike(target, GROUP_REPLICAS_MAX, None)
    }

    /// The eight closest nodes of which no more than `of_network` are of one network, and no two of one user; none of `but`.
    fn unlike(&self, target: &Place, of_network: usize, but: Option<PlaceOwner>) -> Vec<Arc<Descriptor>> {
        // Hardly ever are the nearest like each other: looking further costs much and is seldom needed.
        let few = self.unlike_among(target, REPLICAS + GROUP_REPLICAS_MAX, of_network, but);
        if few.len() == REPLICAS { few } else { self.unlike_among(target, 6 * REPLICAS, of_network, but) }
    }

    fn unlike_among(&self, target: &Place, count: usize, of_network: usize, but: Option<PlaceOwner>) -> Vec<Arc<Descriptor>> {
        let mut groups: BTreeMap<Option<NetworkGroup>, usize> = BTreeMap::new();
        let mut owners: BTreeSet<PlaceOwner> = but.into_iter().collect();
        let mut chosen = Vec::new();
        for (_, peer) in self.peers.nearest(Which::Live, target, count) {
            let seen = groups.entry(peer.group()).or_default();
            if *seen < of_network && chosen.len() < REPLICAS && owners.insert(peer.descriptor.place.owner()) {
                *seen += 1;
                chosen.push(Arc::clone(&peer.descriptor));
            }
        }
        chosen
    }

    /// How many living nodes are closer to `target` than `place`; `max` if it is more.
    pub(super) fn closer_than(&self, target: &Place, place: &Place, max: usize) -> usize {
        let own = target.distance(place);
        let shared = own.leading_zeros();
        // Whoever shares one more bit is closer, and whoever is closer shares as many at least. Of a few dozen nodes each has to be looked at.
        if shared < u32::BITS && self.peers.count_around(Which::Live, target, shared + 1) >= max {
            return max;
        }
        let around = self.peers.around(Which::Live, target, shared.min(u32::BITS));
        around.filter(|peer| target.distance(&peer.descriptor.place) < own).take(max).count()
    }

    /// Bits a place must share with a key so that its node is almost surely among the replicas: one more than the eighth nearest of all we
    /// know of shares with us, or than the eighth replica of what a client published shares with that. Hints count: this is about how dense the network is, orders questions, and says whether connected nodes are asked beside the first.
    pub(super) fn core_bits(&self) -> Option<u32> {
        let near = [Which::Live, Which::Hints].map(|which| self.peers.nearest(which, &self.origin, REPLICAS));
        let mut distances: Vec<_> = near.into_iter().flatten().map(|(distance, _)| distance).collect();
        distances.sort_unstable();
        let own = distances.get(REPLICAS - 1).map(|distance| distance.leading_zeros() + 1);
        own.max(self.elsewhere_bits)
    }

    /// The same by the proved alone, few of one network and one of a user: hearsay costs nothing, and this says whether enough was asked.
    pub(super) fn proved_core_bits(&self) -> Option<u32> {
        let near = self.replica_set(&self.origin);
        near.get(REPLICAS - 1).map(|eighth| self.origin.distance(&eighth.place).leading_zeros() + 1)
    }

    /// Whether what lies at `target` is too far off for us to be one of its replicas, however few are known around it: our own neighbourhood is the only one that we know well, and as far as it is dense
    /// [`RANK_FAR`] nodes would be nearer than we. Of each user one neighbour counts, in a lab too, and none of our own.
    pub(super) fn is_far(&self, target: &Place) -> bool {
        let of_network = if self.lab { usize::MAX } else { GROUP_REPLICAS_MAX };
        let near = self.unlike(&self.origin, of_network, Some(self.origin.owner()));
        let eighth = near.get(REPLICAS - 1).map(|eighth| self.origin.distance(&eighth.place).prefix());
        eighth.is_some_and(|eighth| self.origin.distance(target).prefix() / RANK_FAR > eighth / REPLICAS as u128)
    }

    pub(super) fn replica_span(&self, place: &Place) -> KeySpan {
        let ninth = self
            .peers
            .nearest(Which::Live, place, REPLICAS + 1)
            .get(REPLICAS)
            .map_or(0, |(distance, _)| distance.leading_zeros());
        let (low, high) = span(place, ninth.saturating_sub(3));
        (RecordKey(low.0), RecordKey(high.0))
    }

    /// Whether a node is in the table, met or by hearsay.
    pub(super) fn is_known(&self, device: &DeviceKey) -> bool {
        self.peers.get(device).is_some()
    }

    pub(super) fn is_live(&self, device: &DeviceKey) -> bool {
        self.peers.get(device).is_some_and(Peer::is_live)
    }

    pub(super) fn live_descriptor(&self, device: &DeviceKey) -> Option<Arc<Descriptor>> {
        self.peers.get(device).filter(|peer| peer.is_live()).map(|peer| Arc::clone(&peer.descriptor))
    }

    /// The living node with a mark.
    pub(super) fn live_marked(&self, mark: Mark) -> Option<Arc<Descriptor>> {
        self.peers.marked(mark).find(|peer| peer.is_live()).map(|peer| Arc::clone(&peer.descriptor))
    }

    /// The place a chain proved, if any.
    pub(super) fn proved_place(&self, device: &DeviceKey) -> Option<Place> {
        let proved = self.peers.get(device).filter(|peer| peer.is_met()).map(|peer| peer.descriptor.place);
        proved.or_else(|| self.connections.get(device)?.place)
    }

    pub(super) fn is_connected(&self, device: &DeviceKey) -> bool {
        self.connections.contains_key(device)
    }

    /// Whether a node was silent when it was last asked.
    pub(super) fn is_suspect(&self, device: &DeviceKey) -> bool {
        self.peers.get(device).is_some_and(|peer| peer.is_suspect || peer.failures > 0)
    }

    /// How long ago a peer showed life: 0 within [`FRESH_SECS`], 1 within three times as many, 2 within seven times, and so on.
    fn staleness(&self, now: Instant, peer: &Peer) -> u32 {
        let own = self.secs(now).0.saturating_sub(peer.seen.0);
        let age = if peer.is_met() { own } else { own.saturating_add(HEARSAY_SECS) };
        (age / FRESH_SECS + 1).ilog2()
    }

    /// Order between nodes that are equally likely to have the answer: failures, open connections, time since they showed life, proof, round trip in steps of 20 ms.
    pub(super) fn preference(&self, now: Instant, device: &DeviceKey) -> (u8, bool, u32, bool, bool, u128) {
        let peer = self.peers.get(device);
        let connection = self.connections.get(device);
        let rtt = peer.and_then(|peer| self.measured(peer)).or_else(|| connection.and_then(|c| c.rtt));
        (
            peer.map_or(0, |peer| peer.failures),
            connection.is_none(),
            peer.map_or(u32::MAX, |peer| self.staleness(now, peer)),
            peer.is_none_or(|peer| !peer.is_met()),
            connection.is_some_and(|connection| connection.relayed),
            rtt.unwrap_or_else(|| self.median_rtt()).as_millis() / 20,
        )
    }

    fn measured(&self, peer: &Peer) -> Option<Duration> {
        self.peers.met(peer)?.rtt()
    }

    /// The median of the round trips measured lately.
    pub(super) fn median_rtt(&self) -> Duration {
        let mut sorted: Vec<u32> = self.rtts.iter().copied().collect();
        sorted.sort_unstable();
        sorted.get(sorted.len() / 2).map_or(RTT_DEFAULT, |micros| Duration::from_micros((*micros).into()))
    }

    /// The round trip expected of a node.
    pub(super) fn rtt(&self, device: &DeviceKey) -> Duration {
        let own = self.peers.get(device).and_then(|peer| self.measured(peer));
        own.or_else(|| self.connections.get(device).and_then(|c| c.rtt)).unwrap_or_else(|| self.median_rtt())
    }

    pub(super) fn live_count(&self) -> usize {
        self.peers.len(Which::Live)
    }

    pub(super) fn hint_count(&self) -> usize {
        self.peers.len(Which::Hints)
    }

    /// How many have been given up, since the table's start, whom somebody had named lately, for others known by hearsay.
    pub(super) const fn fresh_hints_lost(&self) -> u64 {
        self.fresh_hints_lost
    }

    /// All proved, living nodes.
    pub(super) fn living(&self) -> impl Iterator<Item = &Descriptor> {
        self.peers.iter(Which::Live).map(|peer| &*peer.descriptor)
    }
}

#[cfg(test)]
mod tests;
