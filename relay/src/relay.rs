//! The state machine: packets in, packets out, no socket and no clock.
//!
//! ```text
//!  client ──── handle_client ──► Relay ──── Sink::to_peer ────► peer
//!         ◄─── Sink::to_client ──       ◄─── handle_peer ──────
//!         ◄─── Sink::respond ────
//! ```
//!
//! **Calling it.** One thread owns a [`Relay`]. It calls [`Relay::handle_client`] for every packet on one of the relay's own addresses,
//! [`Relay::handle_peer`] for every packet on a relayed socket, [`Relay::handle_stream_closed`] when a connection ends, and
//! [`Relay::handle_timeout`] when [`Relay::poll_timeout`] has come. What is to be done about it is said to the [`Sink`] within the call.
//! `now` may be one reading for a whole batch of packets; it must not go back.
//!
//! **Threads.** Several relays with one [`Shared`] are one server: same users, quotas, ports. Each has its own sockets for the
//! clients, on the same addresses (SO_REUSEPORT), and whose client's packets arrive at which is the system's choice, as long as it stays the
//! same for a five-tuple. A client on UDP may be answered from any of them, as all have the same address: that is how a packet for a
//! client of another thread leaves at once. Relayed sockets and streams belong to the relay that opened or was given them.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::StdRng;
use slab::Slab;

use crate::allocation::directory::Directory;
use crate::allocation::five_tuple::FiveTuples;
use crate::allocation::ports::Ports;
use crate::allocation::spares::{SPARE_LIFETIME, Spare, Spares};
use crate::allocation::{Allocation, Family, relayed_id};
use crate::auth::Authenticator;
use crate::auth::nonce::Nonces;
use crate::defaults;
use crate::handler::REALM_BYTES_MAX;
use crate::metrics::Metrics;
use crate::packet::{ClientPath, Sink, StreamId};
use crate::peer_filter::PeerFilter;
use crate::quota::share::{Shares, UserId};
use crate::quota::{Limits, RateLimit, SourceRates};
use crate::time::{Moment, UnixTime};

/// Timers of ended allocations that are kept, beside as many as there are allocations, before they are cleared out.
const IDLE_TIMERS_MAX: usize = 64;

/// The address relayed sockets of one family are bound to, and what peers see of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RelayedIp {
    /// An address of this machine.
    pub local: IpAddr,
    /// The same as seen from outside: another one behind a NAT that maps ports to themselves.
    pub external: IpAddr,
}

/// How relays behave; the same for all threads.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Settings {
    /// Whether there is anybody who may allocate. If not, TURN requests get error 403 at once.
    pub serves_turn: bool,
    /// Scope of the credentials, at most [`crate::handler::REALM_BYTES_MAX`] bytes.
    pub realm: Box<str>,
    /// Addresses relayed, at most one of each family.
    pub relayed: Vec<RelayedIp>,
    /// First and last relayed port.
    pub ports: (u16, u16),
    /// Whether sockets can set DF: if not, DONT-FRAGMENT is an unknown attribute.
    pub can_set_dont_fragment: bool,
    /// What users may use.
    pub limits: Limits,
    /// How often one source address is answered before it is known who it is.
    pub rate_limit: RateLimit,
    /// Source addresses remembered for that, by each thread.
    pub sources_max: u32,
    /// Longest lifetime of an allocation without a refresh.
    pub lifetime_max: Duration,
    /// How long a nonce is good.
    pub nonce_lifetime: Duration,
    /// Peers never sent to.
    pub peer_filter: PeerFilter,
    /// Where new clients are sent while this relay drains (error 300).
    pub alternate: Option<SocketAddr>,
}

impl Settings {
    /// The defaults, for a relay with these addresses, one of each family at most. The machine's own addresses have to be added to
    /// [`PeerFilter::own`] by the caller, who knows them.
    #[must_use]
    pub fn new(realm: &str, relayed: Vec<RelayedIp>) -> Self {
        Self {
            serves_turn: true,
            realm: realm.into(),
            ports: defaults::RELAYED_PORTS,
            can_set_dont_fragment: false,
            limits: Limits::default(),
            rate_limit: RateLimit { per_sec: defaults::RESPONSES_PER_SOURCE_PER_SEC, burst: defaults::RESPONSE_BURST_PER_SOURCE },
            sources_max: defaults::SOURCES_MAX,
            lifetime_max: defaults::LIFETIME_MAX,
            nonce_lifetime: defaults::NONCE_LIFETIME,
            peer_filter: PeerFilter {
                own: relayed.iter().flat_map(|ip| [ip.local, ip.external]).collect(),
                ..PeerFilter::default()
            },
            alternate: None,
            relayed,
        }
    }
}

/// What all threads of a server have in common.
pub struct Shared {
    pub(crate) settings: Settings,
    pub(crate) authenticator: Box<dyn Authenticator>,
    pub(crate) epoch: Instant,
    pub(crate) nonces: Nonces,
    pub(crate) ports: Ports,
    pub(crate) shares: Shares,
    pub(crate) directory: Directory,
    draining: AtomicBool,
    /// Wall-clock time of the epoch, so that one clock is read for both.
    unix_epoch: AtomicU64,
    hash_secret: u64,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Shared {
    /// `secret` has to be random, and may be the same after a restart: then nonces stay good.
    ///
    /// # Panics
    /// If the realm is longer than [`REALM_BYTES_MAX`].
    #[must_use]
    pub fn new(
        settings: Settings,
        authenticator: Box<dyn Authenticator>,
        secret: [u8; 32],
        now: Instant,
        unix_now: UnixTime,
    ) -> Arc<Self> {
        assert!(settings.realm.len() <= REALM_BYTES_MAX, "a realm has at most {REALM_BYTES_MAX} bytes");
        let hash_secret = u64::from_le_bytes(*secret.first_chunk().expect("32 bytes have 8"));
        Arc::new(Self {
            nonces: Nonces::new(secret, settings.nonce_lifetime, authenticator.knows_hashes()),
            ports: Ports::new(settings.ports.0, settings.ports.1),
            shares: Shares::new(settings.limits),
            directory: Directory::default(),
            draining: AtomicBool::new(false),
            unix_epoch: AtomicU64::new(unix_now.0),
            epoch: now,
            hash_secret,
            authenticator,
            settings,
        })
    }

    /// From now on no new allocations are made (error 300 or 508); those there are go on.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Tells the relay the wall-clock time. It goes on from there with the monotonic one; call this now and then, as clocks are set.
    pub fn set_unix_time(&self, now: Instant, unix_now: UnixTime) {
        let elapsed = now.saturating_duration_since(self.epoch).as_secs();
        self.unix_epoch.store(unix_now.0.saturating_sub(elapsed), Ordering::Relaxed);
    }

    pub(crate) fn unix_time(&self, now: Moment) -> UnixTime {
        let elapsed = now.since(Moment::default()).as_secs();
        UnixTime(self.unix_epoch.load(Ordering::Relaxed).saturating_add(elapsed))
    }

    pub(crate) fn moment(&self, now: Instant) -> Moment {
        Moment::new(self.epoch, now)
    }

    pub(crate) fn relayed_ip(&self, family: Family) -> Option<RelayedIp> {
        self.settings.relayed.iter().find(|ip| ip.local.is_ipv4() == (family == Family::V4)).copied()
    }

    /// Whether this is an address of our relayed sockets, as peers see it.
    #[inline]
    pub(crate) fn is_relayed_ip(&self, ip: IpAddr) -> bool {
        self.settings.relayed.iter().any(|relayed| relayed.external == ip)
    }

    /// Whether this is, or could be, a relayed address of ours.
    #[inline]
    pub(crate) fn is_relayed(&self, peer: SocketAddr) -> bool {
        self.is_relayed_ip(peer.ip()) && self.ports.contain(peer.port())
    }

    /// The address as peers see it, of an address our own machine has.
    #[inline]
    pub(crate) fn external(&self, address: SocketAddr) -> SocketAddr {
        self.settings
            .relayed
            .iter()
            .find(|relayed| relayed.local == address.ip())
            .map_or(address, |relayed| SocketAddr::new(relayed.external, address.port()))
    }

    /// The reverse: where our own machine reaches a relayed address.
    #[inline]
    pub(crate) fn local(&self, address: SocketAddr) -> SocketAddr {
        self.settings
            .relayed
            .iter()
            .find(|relayed| relayed.external == address.ip())
            .map_or(address, |relayed| SocketAddr::new(relayed.local, address.port()))
    }
}

/// One thread's relay.
#[derive(Debug)]
pub struct Relay {
    pub(crate) shared: Arc<Shared>,
    pub(crate) worker: u16,
    pub(crate) allocations: Slab<Allocation>,
    pub(crate) by_client: FiveTuples,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) rates: SourceRates,
    pub(crate) rng: StdRng,
    /// When allocations run out, as it was when they were made or last came up; checked against the allocation itself then.
    pub(crate) timers: BinaryHeap<Reverse<(Moment, u32, u32)>>,
    pub(crate) generation: u32,
    /// When it is to be looked for reservations of ports that have run out.
    pub(crate) reservations_due: Option<Moment>,
    pub(crate) spares: Spares,
    /// The last reading of the clock, which a batch of packets has in common.
    clock: (Instant, Moment),
}

impl Relay {
    /// The relay of thread number `worker`. `seed` has to be random: relayed ports come from it.
    #[must_use]
    pub fn new(shared: Arc<Shared>, worker: u16, seed: [u8; 32]) -> Self {
        let settings = &shared.settings;
        Self {
            rates: SourceRates::new(settings.rate_limit, settings.sources_max, std::hash::RandomState::new()),
            by_client: FiveTuples::new(shared.hash_secret),
            worker,
            allocations: Slab::new(),
            metrics: Arc::default(),
            rng: StdRng::from_seed(seed),
            timers: BinaryHeap::new(),
            generation: 0,
            reservations_due: None,
            spares: Spares::default(),
            clock: (shared.epoch, Moment::default()),
            shared,
        }
    }

    /// This thread's counters.
    #[must_use]
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// What all threads have in common.
    #[must_use]
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Allocations of this thread.
    #[must_use]
    pub fn allocation_count(&self) -> usize {
        self.allocations.len()
    }

    /// Whether the client with this path has an allocation.
    #[must_use]
    pub fn has_allocation(&mut self, path: &ClientPath) -> bool {
        self.by_client.get(path).is_some()
    }

    /// When [`handle_timeout`](Self::handle_timeout) wants to be called: when the next allocation or reservation ends, or a socket
    /// has waited long enough for its user.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let ends = self.timers.peek().map(|Reverse((at, ..))| *at);
        ends.into_iter().chain(self.reservations_due).chain(self.spares.due()).min().and_then(|at| at.instant(self.shared.epoch))
    }

    /// Ends the allocations and reservations whose time has come.
    pub fn handle_timeout<'b>(&mut self, now: Instant, out: &mut impl Sink<'b>) {
        let now = self.moment(now);
        if self.reservations_due.is_some_and(|due| due <= now) {
            self.reservations_due = self.shared.ports.forget_expired(now);
        }
        while let Some(spare) = self.spares.take_due(now) {
            self.close_spare(spare, out);
        }
        while let Some(Reverse((at, slot, generation))) = self.timers.peek().copied() {
            if at > now {
                break;
            }
            self.timers.pop();
            let alive = self.allocations.get(slot as usize).filter(|allocation| allocation.generation == generation);
            match alive.map(|allocation| allocation.expires) {
                None => {}
                Some(expires) if expires > now => self.timers.push(Reverse((expires, slot, generation))),
                Some(_) => self.end_allocation(slot as usize, now, out),
            }
        }
    }

    /// A connection has ended, and with it the allocation made over it (RFC 8656 section 7).
    pub fn handle_stream_closed<'b>(&mut self, stream: StreamId, address: SocketAddr, out: &mut impl Sink<'b>) {
        let path = ClientPath { address, transport: crate::packet::Transport::Stream(stream) };
        if let Some(slot) = self.by_client.get(&path) {
            self.end_allocation(slot, self.clock.1, out);
        }
    }

    /// Ends all allocations, for an orderly end of the server.
    pub fn close<'b>(&mut self, out: &mut impl Sink<'b>) {
        let slots: Vec<usize> = self.allocations.iter().map(|(slot, _)| slot).collect();
        slots.into_iter().for_each(|slot| self.end_allocation(slot, self.clock.1, out));
        while let Some(spare) = self.spares.take_oldest() {
            self.close_spare(spare, out);
        }
    }

    #[inline]
    pub(crate) fn moment(&mut self, now: Instant) -> Moment {
        if self.clock.0 != now {
            self.clock = (now, self.shared.moment(now));
        }
        self.clock.1
    }

    pub(crate) fn end_allocation<'b>(&mut self, slot: usize, now: Moment, out: &mut impl Sink<'b>) {
        let Some(allocation) = self.allocations.try_remove(slot) else { return };
        allocation.entry.hide();
        self.by_client.remove(&allocation.client);
        for family in Family::ALL {
            if let Some(relayed) = allocation.relayed(family) {
                self.shared.directory.remove(relayed);
                self.keep_or_close((slot, family), relayed.port(), allocation.owner.user, now, out);
            }
        }
        self.shared.shares.dismiss(allocation.owner.user, allocation.owner.client_share, allocation.lease);
        self.metrics.count_allocation_ended();
        self.forget_timers();
    }

    /// The socket of an allocation that ends: for another one of the user, if there is room.
    fn keep_or_close<'b>(
        &mut self,
        (slot, family): (usize, Family),
        port: u16,
        user: UserId,
        now: Moment,
        out: &mut impl Sink<'b>,
    ) {
        let id = relayed_id(slot, family);
        if self.shared.is_draining() || !self.shared.ports.try_begin_spare() {
            out.close_relayed(id);
        } else if let Some(parked) = out.park_relayed(id) {
            self.spares.push(Spare { parked, user, family, port, until: now.after(SPARE_LIFETIME) });
            return;
        } else {
            self.shared.ports.end_spare();
        }
        self.shared.ports.give_back(family, port);
    }

    pub(crate) fn close_spare<'b>(&mut self, spare: Spare, out: &mut impl Sink<'b>) {
        out.close_parked(spare.parked);
        self.shared.ports.end_spare();
        self.shared.ports.give_back(spare.family, spare.port);
    }

    /// Timers of allocations that ended early would stay for an hour: a client that allocates and gives back all the time must not fill memory with them.
    fn forget_timers(&mut self) {
        if self.timers.len() > 2 * self.allocations.len() + IDLE_TIMERS_MAX {
            let allocations = &self.allocations;
            self.timers.retain(|Reverse((_, slot, generation))| {
                allocations.get(*slot as usize).is_some_and(|allocation| allocation.generation == *generation)
            });
        }
    }
}
