//! The circuit relay role, counted by user: libp2p's relay, with a ledger of who holds what.
//!
//! libp2p-relay 0.22 limits reservations and circuits in total and by peer, and peers cost nothing. Here its own limits are out of the way, and
//! one limiter decides everything by a [`Ledger`]: it knows the user of each peer as soon as its hello was believed ([`Circuits::set_user`]),
//! and until then counts by address. The relay tells in its events how what it was allowed went on; they don't say on which connection, so each
//! is taken out at once after the connection's event that caused it.
//!
//! The ledger also knows on which connection a device's reservation stands, which an invite that is handed over goes on.

mod ledger;
mod limits;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;

use halloo_protocol::key::PublicKey;
use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId, relay};

use self::ledger::Ledger;
pub use self::ledger::Usage;
pub use self::limits::{CIRCUITS_CEILING, RelayLimits};
use self::limits::{Limits, RESERVATION_DURATION};

/// See the [module's documentation](self).
pub struct Circuits {
    relay: relay::Behaviour,
    /// Shared with the relay's limiters, which are called within its own methods and nowhere else.
    ledger: Arc<Mutex<Ledger>>,
    /// Taken out of the relay and not yet polled: what one event of a connection makes, or of the swarm.
    actions: VecDeque<ToSwarm<relay::Event, THandlerInEvent<relay::Behaviour>>>,
}

impl std::fmt::Debug for Circuits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Circuits").field("usage", &self.usage()).finish_non_exhaustive()
    }
}

/// What a limiter is asked for.
#[derive(Clone, Copy)]
enum Asked {
    Reservation,
    Circuit,
}

impl Circuits {
    /// The role for `local`, with these totals. In a lab, where all are at one address, unknown peers count each for itself, and nothing
    /// has a rate.
    #[must_use]
    pub fn new(local: PeerId, limits: RelayLimits, is_lab: bool) -> Self {
        let ledger = Arc::new(Mutex::new(Ledger::new(Limits::new(limits), is_lab)));
        let limiter = |asked: Asked| {
            let ledger = Arc::clone(&ledger);
            let limiter = move |peer: PeerId, address: &Multiaddr, now: Instant| {
                let mut ledger = lock(&ledger);
                match asked {
                    Asked::Reservation => ledger.admit_reservation(peer, address, now),
                    Asked::Circuit => ledger.admit_circuit(peer, address, now),
                }
            };
            vec![Box::new(limiter) as Box<dyn relay::RateLimiter>]
        };
        let config = relay::Config {
            // The ledger is asked last, and has to know of every refusal: it alone refuses.
            max_reservations: usize::MAX,
            max_reservations_per_peer: usize::MAX,
            reservation_duration: RESERVATION_DURATION,
            reservation_rate_limiters: limiter(Asked::Reservation),
            max_circuits: usize::MAX,
            max_circuits_per_peer: usize::MAX,
            max_circuit_duration: limits.circuit_duration,
            max_circuit_bytes: limits.circuit_bytes,
            circuit_src_rate_limiters: limiter(Asked::Circuit),
        };
        Self { relay: relay::Behaviour::new(local, config), ledger, actions: VecDeque::new() }
    }

    /// Whose device a connected peer is, or that it isn't known any more.
    pub fn set_user(&mut self, peer: PeerId, user: Option<PublicKey>) {
        lock(&self.ledger).set_user(peer, user);
    }

    /// The connection on which a peer's reservation stands.
    #[must_use]
    pub fn reservation_of(&self, peer: &PeerId) -> Option<ConnectionId> {
        lock(&self.ledger).reservation_of(peer)
    }

    /// What is held and what has been.
    #[must_use]
    pub fn usage(&self) -> Usage {
        lock(&self.ledger).usage()
    }

    /// Takes out what the relay wants, of which events belong to `connection`.
    fn settle(&mut self, connection: Option<(PeerId, ConnectionId)>) {
        // The swarm polls after every event it brings: nobody has to be woken.
        let mut context = Context::from_waker(std::task::Waker::noop());
        while let Poll::Ready(action) = self.relay.poll(&mut context) {
            if let (ToSwarm::GenerateEvent(event), Some((peer, connection))) = (&action, connection) {
                lock(&self.ledger).note(peer, connection, event);
            }
            self.actions.push_back(action);
        }
    }
}

/// A panic while it is held is a bug that ends the node; what it counts is whole between any two of its steps.
fn lock(ledger: &Mutex<Ledger>) -> MutexGuard<'_, Ledger> {
    ledger.lock().unwrap_or_else(PoisonError::into_inner)
}

impl NetworkBehaviour for Circuits {
    type ConnectionHandler = <relay::Behaviour as NetworkBehaviour>::ConnectionHandler;
    type ToSwarm = relay::Event;

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.relay.handle_established_inbound_connection(connection, peer, local, remote)
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        role: Endpoint,
        port_use: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.relay.handle_established_outbound_connection(connection, peer, address, role, port_use)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        if let FromSwarm::ConnectionClosed(closed) = &event {
            lock(&self.ledger).closed(closed.peer_id, closed.connection_id, closed.remaining_established == 0);
        }
        self.relay.on_swarm_event(event);
        self.settle(None);
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, connection: ConnectionId, event: THandlerOutEvent<Self>) {
        lock(&self.ledger).asking_on(connection);
        self.relay.on_connection_handler_event(peer, connection, event);
        self.settle(Some((peer, connection)));
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        match self.actions.pop_front() {
            Some(action) => Poll::Ready(action),
            None => self.relay.poll(context),
        }
    }
}

#[cfg(test)]
mod tests;
