//! Who holds which reservations and circuits, and who may have one more.
//!
//! No I/O and no clock. A circuit counts for whoever has opened it: being called by many is no fault of the callee.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use halloo_protocol::key::PublicKey;
use halloo_protocol::rate::RateLimiter;
use libp2p::swarm::ConnectionId;
use libp2p::{Multiaddr, PeerId, relay};

use super::limits::{ADDRESS_RATE, Limits, Shares, USER_RATE};
use crate::address;

/// Users and addresses whose rates are remembered.
const RATES_MAX: usize = 16_384;

/// How long a circuit may be in the making. The relay gives each step at most 60 s, and doesn't say so if the callee goes away meanwhile.
const PENDING_MAX: Duration = Duration::from_secs(150);

/// On whose account something goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Account {
    /// A user, by identity key.
    User(PublicKey),
    /// Peers of whom nothing is known, in one network (IPv4 /24, IPv6 /48).
    Network(u64),
    /// A peer of whom nothing is known, in a lab or at no IP address.
    Peer(PeerId),
}

/// How many there are, seen from one account.
#[derive(Clone, Copy, Debug, Default)]
struct Counted {
    total: usize,
    own: usize,
    unknown: usize,
}

/// True if one more is within bounds.
fn have_room(shares: &Shares, account: &Account, counted: Counted) -> bool {
    let own = match account {
        Account::User(_) => shares.user,
        Account::Network(_) | Account::Peer(_) => shares.address,
    };
    let is_unknown = !matches!(account, Account::User(_));
    counted.total < shares.total && counted.own < own && (!is_unknown || counted.unknown < shares.unknown)
}

/// What stands on one connection.
#[derive(Debug)]
struct Link {
    account: Account,
    /// Where it counts when its user isn't known.
    fallback: Account,
    is_reserved: bool,
    circuits: usize,
    /// Circuits allowed whose making hasn't ended, the oldest first: since when.
    pending: VecDeque<Instant>,
    /// Circuits refused here, whose refusal the relay hasn't told yet.
    refused: usize,
}

impl Link {
    fn is_empty(&self) -> bool {
        !self.is_reserved && self.circuits == 0 && self.pending.is_empty() && self.refused == 0
    }

    fn opened(&self) -> usize {
        self.circuits + self.pending.len()
    }
}

/// What a relay holds and has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Reservations now.
    pub reservations: usize,
    /// Circuits now.
    pub circuits: usize,
    /// Circuits made since the start.
    pub circuits_made: u64,
    /// Reservations refused since the start.
    pub reservations_refused: u64,
    /// Circuits refused since the start.
    pub circuits_refused: u64,
}

/// See the [module's documentation](self).
#[derive(Debug)]
pub(super) struct Ledger {
    limits: Limits,
    is_lab: bool,
    /// Peers whose user is known, as long as they are connected.
    users: HashMap<PeerId, PublicKey>,
    /// Connections on which anything stands; bounded by the swarm's limit of connections.
    links: HashMap<(PeerId, ConnectionId), Link>,
    rates: RateLimiter<Account>,
    /// On which connection the relay is asked now.
    asking: Option<ConnectionId>,
    counts: Usage,
}

impl Ledger {
    pub(super) fn new(limits: Limits, is_lab: bool) -> Self {
        Self {
            limits,
            is_lab,
            users: HashMap::new(),
            links: HashMap::new(),
            rates: RateLimiter::new(RATES_MAX),
            asking: None,
            counts: Usage::default(),
        }
    }

    /// What follows comes from this connection.
    pub(super) const fn asking_on(&mut self, connection: ConnectionId) {
        self.asking = Some(connection);
    }

    /// A peer asks to be reachable here, or to stay it.
    pub(super) fn admit_reservation(&mut self, peer: PeerId, address: &Multiaddr, now: Instant) -> bool {
        let is_allowed = self.allows_reservation(peer, address, now);
        if !is_allowed {
            self.counts.reservations_refused += 1;
        }
        is_allowed
    }

    fn allows_reservation(&mut self, peer: PeerId, address: &Multiaddr, now: Instant) -> bool {
        let Some((key, account)) = self.link(peer, address) else { return false };
        let is_renewal = self.links.get(&key).is_some_and(|link| link.is_reserved);
        let shares = self.limits.reservations;
        let has_room = is_renewal || have_room(&shares, &account, self.count(&account, |link| usize::from(link.is_reserved)));
        let is_allowed = has_room && self.is_within_rate(account, address, now);
        if let Some(link) = self.links.get_mut(&key) {
            link.is_reserved |= is_allowed;
        }
        self.forget_empty(key);
        is_allowed
    }

    /// A peer asks for a circuit to somebody.
    pub(super) fn admit_circuit(&mut self, peer: PeerId, address: &Multiaddr, now: Instant) -> bool {
        let Some((key, account)) = self.link(peer, address) else { return false };
        for link in self.links.values_mut() {
            while link.pending.front().is_some_and(|since| now.saturating_duration_since(*since) >= PENDING_MAX) {
                link.pending.pop_front();
            }
        }
        let has_room = have_room(&self.limits.circuits, &account, self.count(&account, Link::opened));
        let is_allowed = has_room && self.is_within_rate(account, address, now);
        if !is_allowed {
            self.counts.circuits_refused += 1;
        }
        if let Some(link) = self.links.get_mut(&key) {
            if is_allowed {
                link.pending.push_back(now);
            } else {
                link.refused += 1;
            }
        }
        is_allowed
    }

    /// The link of the connection that asks, and its account.
    fn link(&mut self, peer: PeerId, address: &Multiaddr) -> Option<((PeerId, ConnectionId), Account)> {
        let key = (peer, self.asking?);
        let network = address::network_group(address).filter(|_| !self.is_lab);
        let fallback = network.map_or(Account::Peer(peer), Account::Network);
        let account = self.users.get(&peer).map_or(fallback, |user| Account::User(*user));
        let link = self.links.entry(key).or_insert_with(|| Link {
            account,
            fallback,
            is_reserved: false,
            circuits: 0,
            pending: VecDeque::new(),
            refused: 0,
        });
        // What stands there may still count by address. Whatever is new counts for the user, so that nobody goes on under an address.
        if link.is_empty() {
            link.account = account;
        }
        Some((key, link.account))
    }

    fn forget_empty(&mut self, key: (PeerId, ConnectionId)) {
        if self.links.get(&key).is_some_and(Link::is_empty) {
            self.links.remove(&key);
        }
    }

    fn count(&self, account: &Account, of: impl Fn(&Link) -> usize) -> Counted {
        let mut counted = Counted::default();
        for link in self.links.values() {
            let number = of(link);
            counted.total += number;
            counted.own += if link.account == *account { number } else { 0 };
            counted.unknown += if matches!(link.account, Account::User(_)) { 0 } else { number };
        }
        counted
    }

    fn is_within_rate(&mut self, account: Account, address: &Multiaddr, now: Instant) -> bool {
        if self.is_lab {
            return true;
        }
        let network = address::network_group(address).map(Account::Network);
        let own = matches!(account, Account::User(_) | Account::Peer(_)).then_some((account, USER_RATE));
        let all = network.map(|network| (network, ADDRESS_RATE));
        own.into_iter().chain(all).all(|(account, rate)| self.rates.take(&account, rate, now).is_ok())
    }

    /// Whose device a connected peer is. What it holds counts for its user from now on, as far as the user's share goes; the rest stays where it is,
    /// or else whoever asks first and says afterwards who asks would have no limit.
    pub(super) fn set_user(&mut self, peer: PeerId, user: Option<PublicKey>) {
        match user {
            Some(user) => self.users.insert(peer, user),
            None => self.users.remove(&peer),
        };
        let keys: Vec<(PeerId, ConnectionId)> = self.links.keys().filter(|(of, _)| *of == peer).copied().collect();
        for key in keys {
            let Some(link) = self.links.get(&key) else { continue };
            let account = user.map_or(link.fallback, Account::User);
            if account == link.account {
                continue;
            }
            let (reserved, opened) = (usize::from(link.is_reserved), link.opened());
            let fits = |shares: &Shares, counted: Counted, more: usize| counted.own + more <= shares.user;
            let moves = user.is_none()
                || (fits(&self.limits.reservations, self.count(&account, |link| usize::from(link.is_reserved)), reserved)
                    && fits(&self.limits.circuits, self.count(&account, Link::opened), opened));
            if let Some(link) = self.links.get_mut(&key).filter(|_| moves) {
                link.account = account;
            }
        }
    }

    /// The relay tells what became of something that a connection had asked for.
    pub(super) fn note(&mut self, peer: PeerId, connection: ConnectionId, event: &relay::Event) {
        let key = (peer, connection);
        let Some(link) = self.links.get_mut(&key) else { return };
        // Those of other connections, and those that say what isn't counted, change nothing.
        #[expect(deprecated, reason = "how a circuit fails to be made is told by these events and no other way")]
        match event {
            relay::Event::ReservationTimedOut { .. } => link.is_reserved = false,
            relay::Event::CircuitReqAccepted { src_peer_id, .. } if *src_peer_id == peer => {
                link.pending.pop_front();
                link.circuits += 1;
                self.counts.circuits_made += 1;
            }
            relay::Event::CircuitReqDenied { src_peer_id, .. } | relay::Event::CircuitReqDenyFailed { src_peer_id, .. }
                if *src_peer_id == peer =>
            {
                // Which of the two it was can't be seen; in the end each is told once.
                if link.refused > 0 {
                    link.refused -= 1;
                } else {
                    link.pending.pop_front();
                }
            }
            relay::Event::CircuitReqAcceptFailed { src_peer_id, .. } if *src_peer_id == peer => {
                link.pending.pop_front();
            }
            relay::Event::CircuitClosed { src_peer_id, .. } if *src_peer_id == peer => {
                link.circuits = link.circuits.saturating_sub(1);
            }
            _ => {}
        }
        self.forget_empty(key);
    }

    /// A connection has closed, and whatever stood on it is gone. What others had opened to this peer ends at their own connections.
    pub(super) fn closed(&mut self, peer: PeerId, connection: ConnectionId, is_last: bool) {
        self.links.remove(&(peer, connection));
        if is_last {
            self.users.remove(&peer);
        }
    }

    /// The connection of a peer's newest reservation: after a change of network an older one may be dead, and isn't known to be for half a minute.
    pub(super) fn reservation_of(&self, peer: &PeerId) -> Option<ConnectionId> {
        let reserved = self.links.iter().filter(|((of, _), link)| of == peer && link.is_reserved);
        reserved.map(|((_, connection), _)| *connection).max()
    }

    pub(super) fn usage(&self) -> Usage {
        Usage {
            reservations: self.links.values().filter(|link| link.is_reserved).count(),
            circuits: self.links.values().map(|link| link.circuits).sum(),
            ..self.counts
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::limits::{ADDRESS_SHARE, CIRCUITS_PER_USER, RESERVATIONS_PER_USER, RelayLimits, UNKNOWN_SHARE};
    use super::*;

    const RESERVATIONS: usize = 512;
    const CIRCUITS: usize = 256;

    fn ledger(is_lab: bool) -> Ledger {
        let limits = RelayLimits { reservations: RESERVATIONS, circuits: CIRCUITS, ..RelayLimits::default() };
        Ledger::new(Limits::new(limits), is_lab)
    }

    fn at(network: u8) -> Multiaddr {
        format!("/ip4/203.0.{network}.7/tcp/4001").parse().expect("an address")
    }

    fn user(byte: u8) -> PublicKey {
        PublicKey([byte; 32])
    }

    /// Asks as peers with a connection each.
    struct Asker {
        ledger: Ledger,
        now: Instant,
        connections: usize,
    }

    impl Asker {
        fn new(is_lab: bool) -> Self {
            Self { ledger: ledger(is_lab), now: Instant::now(), connections: 0 }
        }

        fn peer(&mut self, of: Option<u8>) -> (PeerId, ConnectionId) {
            self.connections += 1;
            let peer = PeerId::random();
            if let Some(of) = of {
                self.ledger.set_user(peer, Some(user(of)));
            }
            (peer, ConnectionId::new_unchecked(self.connections))
        }

        fn asks(&mut self, (peer, connection): (PeerId, ConnectionId), network: u8) -> bool {
            // Rates are looked at elsewhere.
            self.now += if self.ledger.is_lab { Duration::ZERO } else { Duration::from_secs(60) };
            self.ledger.asking_on(connection);
            self.ledger.admit_circuit(peer, &at(network), self.now)
        }

        fn made(&mut self, (peer, connection): (PeerId, ConnectionId)) {
            let event = relay::Event::CircuitReqAccepted { src_peer_id: peer, dst_peer_id: PeerId::random() };
            self.ledger.note(peer, connection, &event);
        }

        fn reserves(&mut self, (peer, connection): (PeerId, ConnectionId), network: u8) -> bool {
            self.now += Duration::from_secs(60);
            self.ledger.asking_on(connection);
            self.ledger.admit_reservation(peer, &at(network), self.now)
        }
    }

    #[test]
    fn circuits_are_counted_by_user_over_all_devices_and_addresses() {
        let mut asker = Asker::new(false);
        for number in 0..CIRCUITS_PER_USER {
            let device = asker.peer(Some(1));
            assert!(asker.asks(device, number as u8), "circuit {number}");
            asker.made(device);
        }
        let one_more = asker.peer(Some(1));
        assert!(!asker.asks(one_more, 200), "another device has no share of its own");
        let other = asker.peer(Some(2));
        assert!(asker.asks(other, 200), "others aren't touched");
        assert_eq!((asker.ledger.usage().circuits, asker.ledger.usage().circuits_refused), (CIRCUITS_PER_USER, 1));
    }

    #[test]
    fn unknown_peers_share_what_their_address_has() {
        let mut asker = Asker::new(false);
        let per_address = CIRCUITS / ADDRESS_SHARE;
        let served = |asker: &mut Asker, network: u8| {
            (0..CIRCUITS)
                .filter(|_| {
                    let peer = asker.peer(None);
                    let is_served = asker.asks(peer, network);
                    if is_served {
                        asker.made(peer);
                    }
                    is_served
                })
                .count()
        };
        assert_eq!(served(&mut asker, 1), per_address, "peer ids cost nothing and get nothing");
        let others: usize = (2..9).map(|network| served(&mut asker, network)).sum();
        assert_eq!(per_address + others, CIRCUITS / UNKNOWN_SHARE, "and all of them leave room for users");
        let known = asker.peer(Some(1));
        assert!(asker.asks(known, 1));
    }

    #[test]
    fn who_shows_its_name_afterwards_is_counted_all_the_same() {
        let mut asker = Asker::new(false);
        let mut served = 0;
        for _ in 0..1_000 {
            let peer = asker.peer(None);
            if asker.asks(peer, 1) {
                served += 1;
                asker.made(peer);
            }
            asker.ledger.set_user(peer.0, Some(user(1)));
        }
        assert_eq!(served, CIRCUITS_PER_USER + CIRCUITS / ADDRESS_SHARE, "the user's share, then the address's");
    }

    #[test]
    fn what_ends_makes_room_however_it_ends() {
        let mut asker = Asker::new(true);
        let device = asker.peer(Some(1));
        let src_peer_id = device.0;
        let dst_peer_id = PeerId::random();
        for _ in 0..CIRCUITS_PER_USER {
            assert!(asker.asks(device, 1));
        }
        assert!(!asker.asks(device, 1) && !asker.asks(device, 1), "those in the making count");
        let denied = || relay::Event::CircuitReqDenied { src_peer_id, dst_peer_id, status: relay::StatusCode::NoReservation };
        // The two refused here, then one that the relay couldn't make.
        for (refusal, has_room) in [(0, false), (1, false), (2, true)] {
            asker.ledger.note(device.0, device.1, &denied());
            let is_served = asker.asks(device, 1);
            assert_eq!(is_served, has_room, "after refusal {refusal}");
            if !is_served {
                // Its refusal is told too.
                asker.ledger.note(device.0, device.1, &denied());
            }
        }
        for _ in 0..CIRCUITS_PER_USER {
            asker.made(device);
        }
        assert!(!asker.asks(device, 1));
        asker.ledger.note(device.0, device.1, &denied());
        // The other end's connection is told to have closed by its own handler too; only the opener's counts.
        let closed = || relay::Event::CircuitClosed { src_peer_id, dst_peer_id, error: None };
        asker.ledger.note(dst_peer_id, ConnectionId::new_unchecked(9_999), &closed());
        assert!(!asker.asks(device, 1));
        asker.ledger.note(device.0, device.1, &denied());
        asker.ledger.note(device.0, device.1, &closed());
        assert!(asker.asks(device, 1));
        asker.ledger.closed(device.0, device.1, true);
        assert!(asker.ledger.links.is_empty() && asker.ledger.users.is_empty());
        let again = asker.peer(Some(1));
        assert!(asker.asks(again, 1));
        asker.now += PENDING_MAX;
        asker.asks(again, 1);
        assert_eq!(asker.ledger.links.values().map(Link::opened).sum::<usize>(), 1, "what never ended is forgotten");
    }

    #[test]
    fn reservations_are_counted_by_user_and_renewed_also_when_all_are_taken() {
        let mut asker = Asker::new(false);
        let devices: Vec<_> = (0..RESERVATIONS_PER_USER).map(|_| asker.peer(Some(1))).collect();
        assert!(devices.iter().all(|device| asker.reserves(*device, 1)));
        let one_more = asker.peer(Some(1));
        assert!(!asker.reserves(one_more, 1));
        assert_eq!(asker.ledger.reservation_of(&one_more.0), None);
        let mut of = 2;
        while asker.ledger.usage().reservations < RESERVATIONS {
            let device = asker.peer(Some(of));
            assert!(asker.reserves(device, of));
            of = if of == 200 { 2 } else { of + 1 };
        }
        let late = asker.peer(Some(250));
        assert!(!asker.reserves(late, 1), "all are taken");
        assert!(asker.reserves(devices[0], 1), "a renewal takes none");
        assert_eq!(asker.ledger.reservation_of(&devices[0].0), Some(devices[0].1));
        let timed_out = relay::Event::ReservationTimedOut { src_peer_id: devices[0].0 };
        asker.ledger.note(devices[0].0, devices[0].1, &timed_out);
        assert_eq!(asker.ledger.reservation_of(&devices[0].0), None);
        assert!(asker.reserves(late, 1));
        assert_eq!(asker.ledger.usage().reservations_refused, 2);
    }

    #[test]
    fn asking_has_a_rate_by_user_but_in_a_lab() {
        for (is_lab, expected) in [(false, USER_RATE.burst as usize), (true, 200)] {
            let mut ledger = ledger(is_lab);
            let peer = PeerId::random();
            ledger.set_user(peer, Some(user(1)));
            let now = Instant::now();
            ledger.asking_on(ConnectionId::new_unchecked(1));
            let served = (0..200).filter(|_| ledger.admit_reservation(peer, &at(1), now)).count();
            assert_eq!(served, expected);
        }
    }
}
