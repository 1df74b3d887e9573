//! A network in a box: the product's state machines under virtual time.
//!
//! [`Network`] is an event queue with latency, loss, connections, silent death and message counts; it drives anything that implements
//! [`Machine`]. [`directory`] puts the production directory in, with real certificates and signatures, and attackers beside it. [`rows`] are
//! the measurements of `scripts/bench directory`.
//!
//! Runs are seeded: the same seed gives the same run, bit for bit, on every machine. Nothing here opens a socket or reads a clock.

pub mod directory;
mod latency;
mod machine;
mod network;
pub mod picture;
pub mod rows;
pub mod svg;
pub mod swarm;
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
