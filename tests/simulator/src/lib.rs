//! A network in a box: the product's state machines under virtual time.
//!
//! [`Network`] is an event queue with latency, loss, connections, silent death and message counts; it drives anything that implements
//! [`Machine`]. [`presence`] puts the production presence in, with real keys, certificates and signatures; [`directory`] the production directory,
//! and attackers beside it.
//!
//! Runs are seeded: the same seed gives the same run, bit for bit, on every machine. Nothing here opens a socket or reads a clock.

pub mod directory;
mod latency;
mod machine;
mod network;
pub mod presence;
pub mod svg;
mod traffic;

pub use latency::{Latency, Position};
pub use machine::{Closed, Input, Kind, Machine, NodeId, Outbox};
pub use network::{Network, START, Settings, State};
pub use traffic::{
    Count, DIAL_FAILED_BYTES, HANDSHAKE_DIALLER_BYTES, HANDSHAKE_LISTENER_BYTES, HEARTBEAT_EVERY, Traffic, heartbeat_bytes,
    message_bytes,
};

/// Prepares the calling thread for many nodes: signatures are verified once each, equal records are held once. Changes no result.
pub fn prepare() {
    halloo_protocol::key::remember_verified(SIGNATURES_MAX);
    halloo_protocol::kademlia::share_records();
}

/// Signatures remembered: some of every node of the largest simulation, 500 bytes each.
const SIGNATURES_MAX: usize = 1_000_000;
