//! Keeps a number of circuit relay v2 reservations, so that a node nobody can dial stays reachable.
//!
//! A reservation is a listener on a `/p2p-circuit` address; libp2p's relay client renews it, and closes
//! the listener when the relay goes away or refuses. Getting another one is this module's task. It is a
//! state machine: it opens no connection, reads no clock and has no task. [`driver`] joins it to a swarm.
//!
//! How to drive [`Reservations`]: after each `set_*` or `handle_*` call, take [`Reservations::poll_output`]
//! until it is `None`; call [`Reservations::handle_timeout`] at [`Reservations::poll_timeout`].
//!
//! Reservations are tracked by listener, since a refused renewal closes a listener that may have no
//! address. None is given up by removing its listener: libp2p-relay 0.22 panics if an acceptance
//! arrives for a listener just removed. Instead the connection to the relay is closed, and the
//! listener with it.

pub mod driver;
#[cfg(test)]
mod tests;

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use libp2p::{Multiaddr, PeerId, core::transport::ListenerId};
use rand::{RngExt, SeedableRng, rngs::StdRng};

use crate::swarm::circuit_address;

/// Reservations held at a time: losing one relay must not cost reachability.
pub const WANTED: usize = 2;

/// Relays remembered as candidates; later ones in the list are ignored.
pub const MAX_CANDIDATES: usize = 32;

/// Addresses remembered per candidate.
pub const MAX_ADDRESSES: usize = 8;

/// A relay that has not answered for this long is not waited for: another candidate is tried beside
/// it. If it answers after all, its reservation is kept as well.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// Wait after a relay's first failure; doubled with each further one. Each wait is spread over
/// 50 % to 150 %, so that the clients of a relay that restarts do not come back all at once.
pub const BACKOFF_FIRST: Duration = Duration::from_secs(1);

/// The longest wait before the spread.
pub const BACKOFF_MAX: Duration = Duration::from_secs(300);

/// A reservation held this long makes the relay's earlier failures forgotten.
pub const STABLE_AFTER: Duration = Duration::from_secs(60);

/// How long closing the connection to a relay may take before it is asked again anyway.
pub const LEAVE_TIMEOUT: Duration = Duration::from_secs(3);

/// A relay we may reserve at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The relay.
    pub relay: PeerId,
    /// How to dial it, best first; with or without `/p2p` at the end. A failure turns to the next one.
    pub addresses: Vec<Multiaddr>,
}

/// Why a reservation is gone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LossReason {
    /// The relay refused to renew, or the client gave up: the listener's words.
    #[error("listener closed: {0}")]
    ListenerClosed(String),
    /// The connection to the relay closed.
    #[error("disconnected from the relay")]
    Disconnected,
    /// Given up to be renewed over the new network.
    #[error("the network has changed")]
    NetworkChanged,
    /// Given up to be renewed after sleep, which it cannot have survived for certain.
    #[error("the machine has slept")]
    Slept,
    /// Given up because no reservation is needed any more.
    #[error("not needed")]
    NotNeeded,
}

/// What [`Reservations`] reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// We can be dialled at this circuit address. A relay with several addresses gives several events.
    Reserved {
        /// The relay.
        relay: PeerId,
        /// Our address through it, ending in `/p2p-circuit/p2p/<us>`.
        address: Multiaddr,
    },
    /// None of the relay's circuit addresses holds any longer.
    Lost {
        /// The relay.
        relay: PeerId,
        /// Why.
        reason: LossReason,
    },
    /// An attempt to reserve failed; there will be others.
    Refused {
        /// The relay.
        relay: PeerId,
        /// The listener's words.
        reason: String,
    },
}

/// What the owner is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Listen on this address, then call [`Reservations::handle_listening`] or
    /// [`Reservations::handle_listen_failed`].
    Listen {
        /// The relay.
        relay: PeerId,
        /// Ends in `/p2p-circuit`.
        address: Multiaddr,
    },
    /// Close all connections to this relay. Not an error if there are none.
    Disconnect {
        /// The relay.
        relay: PeerId,
    },
    /// Tell whom it concerns.
    Event(Event),
}

/// A relay's state. Timers: `Idle::not_before`, `Pending::since` + [`PATIENCE`], `Leaving::until`.
#[derive(Debug)]
enum State {
    /// Nothing under way. Not asked before this moment.
    Idle { not_before: Option<Instant> },
    /// `Output::Listen` is out; the listener's id is known once the owner has acted on it.
    Pending { listener: Option<ListenerId>, since: Instant },
    /// No answer within [`PATIENCE`]; the relay client's own time-outs end this.
    Slow { listener: Option<ListenerId> },
    /// Reserved, with these circuit addresses.
    Reserved { listener: ListenerId, addresses: Vec<Multiaddr>, since: Instant },
    /// `Output::Disconnect` is out. Asking again at once could pick the dying connection.
    Leaving { until: Instant },
}

#[derive(Debug)]
struct Relay {
    id: PeerId,
    /// Empty when no longer a candidate; then forgotten once idle.
    addresses: Vec<Multiaddr>,
    /// Which address is next.
    next_address: usize,
    /// Failures in a row.
    failures: u32,
    state: State,
}

impl Relay {
    fn listener(&self) -> Option<ListenerId> {
        match &self.state {
            State::Pending { listener, .. } | State::Slow { listener } => *listener,
            State::Reserved { listener, .. } => Some(*listener),
            State::Idle { .. } | State::Leaving { .. } => None,
        }
    }

    /// Whether it fills one of the wanted places, or is expected to.
    fn counts(&self) -> bool {
        matches!(self.state, State::Pending { .. } | State::Reserved { .. })
    }

    fn may_be_asked(&self, now: Instant) -> bool {
        !self.addresses.is_empty() && matches!(&self.state, State::Idle { not_before } if not_before.is_none_or(|t| t <= now))
    }

    fn next_deadline(&self) -> Option<Instant> {
        match &self.state {
            State::Idle { not_before } => *not_before,
            State::Pending { since, .. } => Some(*since + PATIENCE),
            State::Leaving { until } => Some(*until),
            State::Slow { .. } | State::Reserved { .. } => None,
        }
    }
}

/// The supervisor: see the [module's documentation](self).
#[derive(Debug)]
pub struct Reservations {
    wanted: usize,
    needed: bool,
    /// In order of preference.
    relays: Vec<Relay>,
    /// Reserved relays to renew after a change of network, one after the other, so that the
    /// node stays reachable if the old paths still work.
    to_renew: VecDeque<PeerId>,
    /// Taken by the owner after every call: a few per relay.
    outputs: VecDeque<Output>,
    rng: StdRng,
}

impl Reservations {
    /// A supervisor that will hold `wanted` reservations ([`WANTED`]) once they are needed and there are
    /// candidates. `seed` spreads the waits.
    pub fn new(wanted: usize, seed: u64) -> Self {
        Self {
            wanted,
            needed: false,
            relays: Vec::new(),
            to_renew: VecDeque::new(),
            outputs: VecDeque::new(),
            rng: StdRng::seed_from_u64(seed),
        }
    }

    /// Replaces the candidates, best first. Reservations at relays no longer named stay until lost.
    pub fn set_candidates(&mut self, candidates: Vec<Candidate>, now: Instant) {
        let mut old = std::mem::take(&mut self.relays);
        for candidate in candidates.into_iter().take(MAX_CANDIDATES) {
            if self.relays.iter().any(|relay| relay.id == candidate.relay) {
                continue;
            }
            let known = old.iter().position(|relay| relay.id == candidate.relay);
            let mut relay = known.map_or_else(
                || Relay {
                    id: candidate.relay,
                    addresses: Vec::new(),
                    next_address: 0,
                    failures: 0,
                    state: State::Idle { not_before: None },
                },
                |index| old.swap_remove(index),
            );
            let mut addresses = candidate.addresses;
            addresses.truncate(MAX_ADDRESSES);
            if relay.addresses != addresses {
                relay.addresses = addresses;
                relay.next_address = 0;
            }
            self.relays.push(relay);
        }
        for mut relay in old {
            relay.addresses.clear();
            self.relays.push(relay);
        }
        self.schedule(now);
    }

    /// Whether this node needs reservations: no, once it is known to be reachable directly.
    pub fn set_needed(&mut self, needed: bool, now: Instant) {
        if self.needed == needed {
            return;
        }
        self.needed = needed;
        if !needed {
            self.to_renew.clear();
            for index in 0..self.relays.len() {
                self.leave(index, LossReason::NotNeeded, now);
            }
        }
        self.schedule(now);
    }

    /// `Output::Listen` for this relay has made this listener.
    pub fn handle_listening(&mut self, relay: PeerId, listener: ListenerId) {
        if let Some(relay) = self.relays.iter_mut().find(|known| known.id == relay)
            && let State::Pending { listener: slot, .. } | State::Slow { listener: slot } = &mut relay.state
        {
            *slot = Some(listener);
        }
    }

    /// `Output::Listen` for this relay could not be done.
    pub fn handle_listen_failed(&mut self, relay: PeerId, reason: String, now: Instant) {
        if let Some(index) = self.relays.iter().position(|known| known.id == relay) {
            self.fail(index, reason, now);
            self.schedule(now);
        }
    }

    /// A listener has a new address. Listeners of others are ignored, here and below.
    pub fn handle_new_address(&mut self, listener: ListenerId, address: &Multiaddr, now: Instant) {
        let Some(index) = self.by_listener(listener) else {
            return;
        };
        let relay = &mut self.relays[index];
        if let State::Reserved { addresses, .. } = &mut relay.state {
            // Renewals repeat what is known.
            if addresses.contains(address) {
                return;
            }
            addresses.push(address.clone());
        } else {
            relay.state = State::Reserved { listener, addresses: vec![address.clone()], since: now };
        }
        self.outputs.push_back(Output::Event(Event::Reserved { relay: relay.id, address: address.clone() }));
        self.schedule(now);
    }

    /// A listener has lost an address.
    pub fn handle_expired_address(&mut self, listener: ListenerId, address: &Multiaddr) {
        if let Some(index) = self.by_listener(listener)
            && let State::Reserved { addresses, .. } = &mut self.relays[index].state
        {
            addresses.retain(|known| known != address);
        }
    }

    /// A listener has closed: the reservation was refused, not renewed, or its connection is gone.
    pub fn handle_listener_closed(&mut self, listener: ListenerId, reason: String, now: Instant) {
        if let Some(index) = self.by_listener(listener) {
            self.fail(index, reason, now);
            self.schedule(now);
        }
    }

    /// The last connection to a peer has closed.
    pub fn handle_disconnected(&mut self, peer: PeerId, now: Instant) {
        let Some(index) = self.relays.iter().position(|relay| relay.id == peer) else {
            return;
        };
        match self.relays[index].state {
            State::Leaving { .. } => {
                self.relays[index].state = State::Idle { not_before: None };
            }
            State::Reserved { .. } => self.lose(index, LossReason::Disconnected, now),
            // The listener's closing says more.
            State::Idle { .. } | State::Pending { .. } | State::Slow { .. } => {}
        }
        self.schedule(now);
    }

    /// Addresses of this machine have come or gone. Call when it has settled: reservations are renewed
    /// one after the other, and relays that failed before are tried again.
    pub fn handle_network_changed(&mut self, now: Instant) {
        self.forget_failures();
        for relay in &self.relays {
            let known = self.to_renew.contains(&relay.id);
            if matches!(relay.state, State::Reserved { .. }) && !known {
                self.to_renew.push_back(relay.id);
            }
        }
        self.schedule(now);
    }

    /// The machine has slept: connections and reservations may be dead without knowing it. All are made anew.
    pub fn handle_wake(&mut self, now: Instant) {
        self.forget_failures();
        self.to_renew.clear();
        for index in 0..self.relays.len() {
            self.leave(index, LossReason::Slept, now);
        }
        self.schedule(now);
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to call [`Reservations::handle_timeout`]. `None`: not before the next input.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let places = self.needed && self.held_or_asked() < self.wanted;
        self.relays
            .iter()
            // Waiting relays matter only while a place is free.
            .filter(|relay| places || !matches!(relay.state, State::Idle { .. }))
            .filter(|relay| !relay.addresses.is_empty() || !matches!(relay.state, State::Idle { .. }))
            .filter_map(Relay::next_deadline)
            .min()
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        for relay in &mut self.relays {
            match relay.state {
                State::Pending { listener, since } if since + PATIENCE <= now => {
                    relay.state = State::Slow { listener };
                }
                State::Leaving { until } if until <= now => {
                    relay.state = State::Idle { not_before: None };
                }
                _ => {}
            }
        }
        self.schedule(now);
    }

    /// Our circuit addresses, those of the preferred relays first.
    pub fn addresses(&self) -> impl Iterator<Item = &Multiaddr> {
        self.relays.iter().flat_map(|relay| match &relay.state {
            State::Reserved { addresses, .. } => addresses.as_slice(),
            _ => &[],
        })
    }

    /// The relays we have reservations at.
    pub fn reserved(&self) -> impl Iterator<Item = PeerId> {
        self.relays.iter().filter(|relay| matches!(relay.state, State::Reserved { .. })).map(|relay| relay.id)
    }

    fn by_listener(&self, listener: ListenerId) -> Option<usize> {
        self.relays.iter().position(|relay| relay.listener() == Some(listener))
    }

    fn held_or_asked(&self) -> usize {
        self.relays.iter().filter(|relay| relay.counts()).count()
    }

    /// Fills free places with the best candidates that may be asked, and moves renewals on.
    fn schedule(&mut self, now: Instant) {
        self.relays.retain(|relay| !relay.addresses.is_empty() || !matches!(relay.state, State::Idle { .. }));
        self.fill(now);
        self.renew_next(now);
        self.fill(now);
    }

    fn fill(&mut self, now: Instant) {
        if !self.needed {
            return;
        }
        let mut free = self.wanted.saturating_sub(self.held_or_asked());
        for relay in &mut self.relays {
            if free == 0 {
                break;
            }
            if !relay.may_be_asked(now) {
                continue;
            }
            free -= 1;
            let address = &relay.addresses[relay.next_address % relay.addresses.len()];
            self.outputs.push_back(Output::Listen { relay: relay.id, address: circuit_address(relay.id, address, None) });
            relay.state = State::Pending { listener: None, since: now };
        }
    }

    fn renew_next(&mut self, now: Instant) {
        let under_way = |relay: &Relay| matches!(relay.state, State::Pending { .. } | State::Leaving { .. });
        while !self.relays.iter().any(under_way)
            && let Some(next) = self.to_renew.pop_front()
        {
            let reserved = |relay: &Relay| relay.id == next && matches!(relay.state, State::Reserved { .. });
            if let Some(index) = self.relays.iter().position(reserved) {
                self.leave(index, LossReason::NetworkChanged, now);
            }
        }
    }

    /// Closes the connection under whatever is under way with a relay.
    fn leave(&mut self, index: usize, reason: LossReason, now: Instant) {
        let relay = &mut self.relays[index];
        match relay.state {
            State::Idle { .. } | State::Leaving { .. } => return,
            State::Reserved { .. } => self.outputs.push_back(Output::Event(Event::Lost { relay: relay.id, reason })),
            State::Pending { .. } | State::Slow { .. } => {}
        }
        relay.state = State::Leaving { until: now + LEAVE_TIMEOUT };
        self.outputs.push_back(Output::Disconnect { relay: relay.id });
    }

    /// An attempt or a reservation has failed by the listener's word.
    fn fail(&mut self, index: usize, reason: String, now: Instant) {
        let relay = &self.relays[index];
        match relay.state {
            State::Reserved { .. } => self.lose(index, LossReason::ListenerClosed(reason), now),
            State::Pending { .. } | State::Slow { .. } => {
                self.outputs.push_back(Output::Event(Event::Refused { relay: relay.id, reason }));
                self.back_off(index, now);
            }
            State::Idle { .. } | State::Leaving { .. } => {}
        }
    }

    fn lose(&mut self, index: usize, reason: LossReason, now: Instant) {
        let relay = &mut self.relays[index];
        if let State::Reserved { since, .. } = relay.state
            && now >= since + STABLE_AFTER
        {
            relay.failures = 0;
        }
        self.outputs.push_back(Output::Event(Event::Lost { relay: relay.id, reason }));
        self.back_off(index, now);
    }

    fn back_off(&mut self, index: usize, now: Instant) {
        let relay = &mut self.relays[index];
        let doubled = BACKOFF_FIRST.saturating_mul(1 << relay.failures.min(16));
        let spread = self.rng.random_range(0.5..1.5);
        relay.failures = relay.failures.saturating_add(1);
        relay.next_address = relay.next_address.wrapping_add(1);
        relay.state = State::Idle { not_before: Some(now + doubled.min(BACKOFF_MAX).mul_f64(spread)) };
    }

    fn forget_failures(&mut self) {
        for relay in &mut self.relays {
            relay.failures = 0;
            if let State::Idle { not_before } = &mut relay.state {
                *not_before = None;
            }
        }
    }
}
