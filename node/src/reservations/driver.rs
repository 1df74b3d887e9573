//! Joins [`Reservations`] to a swarm: what it should hear, and what it wants done.

use std::time::Instant;

use libp2p::{
    Swarm,
    swarm::{NetworkBehaviour, SwarmEvent},
};

use super::{Event, Output, Reservations};

/// Tells the supervisor what concerns it of a swarm's event. Then [`perform`].
pub fn observe<E>(reservations: &mut Reservations, event: &SwarmEvent<E>, now: Instant) {
    match event {
        SwarmEvent::NewListenAddr { listener_id, address } => reservations.handle_new_address(*listener_id, address, now),
        SwarmEvent::ExpiredListenAddr { listener_id, address } => reservations.handle_expired_address(*listener_id, address),
        SwarmEvent::ListenerClosed { listener_id, reason, .. } => {
            let reason = match reason {
                Ok(()) => "closed".to_owned(),
                Err(error) => error.to_string(),
            };
            reservations.handle_listener_closed(*listener_id, reason, now);
        }
        SwarmEvent::ConnectionClosed { peer_id, num_established: 0, .. } => reservations.handle_disconnected(*peer_id, now),
        _ => {}
    }
}

/// Does what the supervisor wants, until it wants no more; returns its events.
pub fn perform<B: NetworkBehaviour>(reservations: &mut Reservations, swarm: &mut Swarm<B>, now: Instant) -> Vec<Event> {
    let mut events = Vec::new();
    while let Some(output) = reservations.poll_output() {
        match output {
            Output::Listen { relay, address } => match swarm.listen_on(address) {
                Ok(listener) => reservations.handle_listening(relay, listener),
                Err(error) => reservations.handle_listen_failed(relay, error.to_string(), now),
            },
            Output::Disconnect { relay } => {
                // An error says there is no connection, which is what was wanted.
                let _ = swarm.disconnect_peer_id(relay);
                if !swarm.is_connected(&relay) {
                    reservations.handle_disconnected(relay, now);
                }
            }
            Output::Event(event) => events.push(event),
        }
    }
    events
}
