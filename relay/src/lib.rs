//! The media relay: a server of STUN (RFC 8489), and the place where TURN (RFC 8656) goes; on its own as `halloo-relay`,
//! or inside a node as a library.
//!
//! Two people behind NATs need a machine that tells each the address it is seen at (STUN), and, where no direct path can be
//! made, one that carries their packets (TURN). This crate is such a machine. It knows nothing about usernames, calls or
//! the overlay, and can read nothing of what it carries.
//!
//! **What it serves today:** Binding requests over UDP, IPv4 and IPv6. TURN requests are answered with error 400, so
//! that a client turns elsewhere at once.
//!
//! ```text
//! halloo-relay                                     all addresses of the machine, port 3478
//! halloo-relay --listen 192.0.2.7:3478 --listen '[2001:db8::7]:3478' --metrics 127.0.0.1:9478
//! ```
//!
//! On a machine with several addresses of one family name each with `--listen`: a response leaves from the address its
//! socket is bound to, and a socket bound to all addresses leaves the choice to the system.
//!
//! From the bottom up:
//!
//! - [`stun`]: the message codec, borrowed and without allocation.
//! - [`quota`]: how much a source may cause, in a table of fixed size.
//! - [`handler`]: datagram in, decision out; no socket, no clock. The rules against misuse are told there.
//! - [`server`]: sockets, tasks, orderly end. [`metrics`]: what was done and left undone, with reasons.
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
