//! A network in a box: the product's state machines under virtual time.
//!
//! [`Network`] is an event queue with latency, loss, connections, silent death and message counts; it drives anything that implements
//! [`Machine`]. [`presence`] puts the production presence in, with real keys, certificates and signatures.
//!
//! Runs are seeded: the same seed gives the same run, bit for bit, on every machine. Nothing here opens a socket or reads a clock.

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
