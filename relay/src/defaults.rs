//! Every default of the relay, with its reason. Limits a setting can't change are in the module they belong to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

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
