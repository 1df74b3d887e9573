//! The media relay: a server of STUN (RFC 8489) and TURN (RFC 8656), on its own as `halloo-relay`, or inside a node as a library.
//!
//! Two people behind NATs need a machine that tells each the address it is seen at (STUN), and, where no direct path can be
//! made, one that carries their packets (TURN). This crate is such a machine. It knows nothing about the overlay's usernames, calls or
//! keys, and can read nothing of what it carries.
//!
//! ```text
//! halloo-relay                                                   STUN at all addresses of the machine, port 3478
//! halloo-relay --auth-secret-file FILE --external-ip 203.0.113.5 STUN and TURN behind a NAT that keeps ports
//! ```
//!
//! UDP, TCP and TLS from the client, UDP to the peer, IPv4 and IPv6. Not served: TCP to the peer (RFC 6062), mobility (RFC 8016), ICMP
//! errors passed on to the client (RFC 8656 section 11.5), ECN and DSCP carried over.
//!
//! On a machine with several addresses of one family name each with `--listen`: a response leaves from the address its
//! socket is bound to, and a socket bound to all addresses leaves the choice to the system.
//!
//! From the bottom up:
//!
//! - [`stun`]: the message codec, borrowed and without allocation.
//! - [`quota`]: how much a source may cause before it is known, and a user once it is known.
//! - [`auth`]: credentials, nonces; [`peer_filter`]: where the relay never sends.
//! - [`packet`]: what goes in and out; [`relay`]: the state machine, without sockets and clock. Its data path is in `forward`, its
//!   requests in [`handler`], its tables in `allocation`.
//! - `io`: many datagrams for one system call; `worker`: a thread that relays with it (both for Linux).
//! - [`server`]: sockets, threads, tasks, orderly end. [`metrics`]: what was done and left undone, with reasons.
//! - [`config`]: the file and the struct; [`defaults`]: every default and why.

mod allocation;
pub mod auth;
pub mod config;
pub mod defaults;
mod forward;
pub mod handler;
#[cfg(target_os = "linux")]
pub mod io;
pub mod metrics;
pub mod packet;
pub mod peer_filter;
pub mod quota;
pub mod relay;
pub mod server;
pub mod stun;
mod time;
#[cfg(target_os = "linux")]
mod worker;

pub use time::UnixTime;

#[cfg(test)]
mod tests;
