//! Every default of the relay, with its reason. Limits a setting can't change are in the module they belong to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::time::Duration;

/// Port of STUN and TURN over UDP (RFC 8489 section 18.6).
pub const PORT: u16 = 3478;

/// Served when nothing is said: every address of the machine, each family on its own socket.
pub const LISTEN: [SocketAddr; 2] =
    [SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), PORT), SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), PORT)];

/// Responses a second to one source address.
///
/// A client asks a few times per call; a whole office or mobile cell behind one address asks together, hence room for
/// some dozens of calls that start in the same second. A victim named as a forged source is sent at most
/// 50 x 168 bytes (the longest response) = 8.4 kB a second by each socket: of no use for flooding it.
pub const RESPONSES_PER_SOURCE_PER_SEC: u32 = 50;

/// Responses one source address may have at once after a pause: 4 s of the rate, for an office that comes back
/// together after an outage.
pub const RESPONSE_BURST_PER_SOURCE: u32 = 200;

/// Source addresses remembered by each socket, 32 bytes each: 16,384 x 32 bytes = 512 KiB.
pub const SOURCES_MAX: u32 = 16_384;

/// Scope of credentials. Short, as it is part of every answer to those who may be anybody.
pub const REALM: &str = "halloo";

/// Relayed ports: those that belong to no service (RFC 6335 section 6), as RFC 8656 section 7.2 advises.
pub const RELAYED_PORTS: (u16, u16) = (49_152, 65_535);

/// Longest time without a refresh: what RFC 8656 section 7.2 advises.
pub const LIFETIME_MAX: Duration = Duration::from_secs(3_600);

/// How long a nonce is good: a client has to ask for a new one once an hour (RFC 8656 section 5 advises at least that often).
pub const NONCE_LIFETIME: Duration = Duration::from_secs(3_600);

/// How long allocations may go on after the relay was told to stop: long enough for a goodbye and for clients to find another relay, short
/// enough for systemd, which waits 90 s.
pub const DRAIN: Duration = Duration::from_secs(60);

/// Allocations of all users: a quarter of the relayed ports, some 10 MiB of memory and file descriptors that a system grants.
pub const ALLOCATIONS_MAX: u32 = 4_000;

/// Allocations of one user: a call has one or two for each end and transport, and some for those tried in vain.
pub const ALLOCATIONS_PER_USER_MAX: u32 = 32;

/// Allocations of one client address, behind which an office may be.
pub const ALLOCATIONS_PER_ADDRESS_MAX: u32 = 256;

/// Permissions of one allocation: one for each address of each other party.
pub const PERMISSIONS_MAX: u32 = 64;

/// Channels of one allocation: one for each address and port of each other party.
pub const CHANNELS_MAX: u32 = 64;

/// Bytes a second of one user: 20 Mbit/s, two video calls in high definition.
pub const USER_BYTES_PER_SEC: u64 = 2_500_000;

/// Packets a second of one user: 100 voice streams of 50.
pub const USER_PACKETS_PER_SEC: u64 = 5_000;

/// Bytes a second of all users: 100 Mbit/s, the uplink of a good home connection.
pub const TOTAL_BYTES_PER_SEC: u64 = 12_500_000;

/// Packets a second of all users: 1,000 voice streams of 50, what one core does with room to spare.
pub const TOTAL_PACKETS_PER_SEC: u64 = 50_000;

/// TCP and TLS connections at a time.
pub const STREAMS_MAX: u32 = 1_024;

/// TCP and TLS connections of one address at a time.
pub const STREAMS_PER_ADDRESS_MAX: u32 = 64;

/// Threads that serve UDP are one for each core, but not more than this by default: one core relays tens of thousands of packets a second.
pub const THREADS_MAX: usize = 8;

/// Threads that serve UDP on this machine.
#[must_use]
pub fn threads() -> NonZeroUsize {
    let cores = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    cores.min(NonZeroUsize::new(THREADS_MAX).unwrap_or(cores))
}
