//! Where the relay never sends: whoever uses it must not reach through it what only the relay's machine can reach.
//!
//! Refused are all addresses that aren't somebody's on the public internet (IANA's special-purpose registries, RFC 6890), the relay's own
//! addresses, and every spelling of such an IPv4 address in IPv6 that some machine on the way may turn back: mapped
//! (RFC 4291), compatible (same), 6to4 (RFC 3056), Teredo (RFC 4380), NAT64 (RFC 6052, RFC 8215).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use serde::Deserialize;
use thiserror::Error;

/// An address range: `192.0.2.0/24`, `2001:db8::/32`, or a single address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Cidr {
    network: IpAddr,
    prefix: u8,
}

/// Not an address range.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{text:?} is no address range such as 192.0.2.0/24 or 2001:db8::/32")]
pub struct CidrError {
    text: String,
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let wrong = || CidrError { text: text.to_owned() };
        let (network, prefix) = text.split_once('/').map_or((text, None), |(network, prefix)| (network, Some(prefix)));
        let network: IpAddr = network.parse().map_err(|_| wrong())?;
        let bits = if network.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.map_or(Ok(bits), |prefix| prefix.parse().map_err(|_| wrong()))?;
        if prefix > bits { Err(wrong()) } else { Ok(Self { network, prefix }) }
    }
}

impl TryFrom<String> for Cidr {
    type Error = CidrError;

    fn try_from(text: String) -> Result<Self, CidrError> {
        text.parse()
    }
}

impl Cidr {
    const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Self {
        Self { network: IpAddr::V4(Ipv4Addr::new(a, b, c, d)), prefix }
    }

    const fn v6(first: u16, second: u16, third: u16, prefix: u8) -> Self {
        Self { network: IpAddr::V6(Ipv6Addr::new(first, second, third, 0, 0, 0, 0, 0)), prefix }
    }

    /// Whether the address is in the range.
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        match (self.network, ip) {
            (IpAddr::V4(network), IpAddr::V4(ip)) => {
                let differing = u64::from(network.to_bits() ^ ip.to_bits());
                differing >> (32 - u32::from(self.prefix)) == 0
            }
            (IpAddr::V6(network), IpAddr::V6(ip)) => {
                let differing = network.to_bits() ^ ip.to_bits();
                differing.checked_shr(128 - u32::from(self.prefix)).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

/// IPv4 that is nobody's on the public internet.
const SPECIAL_V4: [Cidr; 15] = [
    Cidr::v4(0, 0, 0, 0, 8),       // this network
    Cidr::v4(10, 0, 0, 0, 8),      // private
    Cidr::v4(100, 64, 0, 0, 10),   // carrier-grade NAT
    Cidr::v4(127, 0, 0, 0, 8),     // loopback
    Cidr::v4(169, 254, 0, 0, 16),  // link-local, cloud metadata
    Cidr::v4(172, 16, 0, 0, 12),   // private
    Cidr::v4(192, 0, 0, 0, 24),    // protocol assignments
    Cidr::v4(192, 0, 2, 0, 24),    // documentation
    Cidr::v4(192, 88, 99, 0, 24),  // 6to4 relays
    Cidr::v4(192, 168, 0, 0, 16),  // private
    Cidr::v4(198, 18, 0, 0, 15),   // benchmarks
    Cidr::v4(198, 51, 100, 0, 24), // documentation
    Cidr::v4(203, 0, 113, 0, 24),  // documentation
    Cidr::v4(224, 0, 0, 0, 4),     // multicast
    Cidr::v4(240, 0, 0, 0, 4),     // reserved, broadcast
];

/// IPv6 that may be somebody's: global unicast, of which [`SPECIAL_V6`] is taken out.
const GLOBAL_V6: Cidr = Cidr::v6(0x2000, 0, 0, 3);

/// Parts of [`GLOBAL_V6`] that are nobody's or stand for IPv4.
const SPECIAL_V6: [Cidr; 4] = [
    Cidr::v6(0x2001, 0, 0, 23),     // protocol assignments, Teredo among them
    Cidr::v6(0x2001, 0xDB8, 0, 32), // documentation
    Cidr::v6(0x2002, 0, 0, 16),     // 6to4
    Cidr::v6(0x3FFF, 0, 0, 20),     // documentation
];

/// NAT64 with the well-known prefix: the last 32 bits are IPv4 (RFC 6052).
const NAT64: Cidr = Cidr::v6(0x64, 0xFF9B, 0, 96);

/// Whether the address may be somebody's on the public internet.
#[must_use]
pub fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(_) => !SPECIAL_V4.iter().any(|range| range.contains(ip)),
        IpAddr::V6(v6) if NAT64.contains(ip) => is_public(IpAddr::V4(Ipv4Addr::from_bits(v6.to_bits() as u32))),
        IpAddr::V6(_) => GLOBAL_V6.contains(ip) && !SPECIAL_V6.iter().any(|range| range.contains(ip)),
    }
}

/// Which peers a client may reach.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PeerFilter {
    /// For tests and closed networks: all that a packet can be sent to at all is allowed, except the relay's own ports.
    pub is_lab: bool,
    /// Ranges allowed although they aren't public.
    pub allowed: Vec<Cidr>,
    /// Ranges refused although they are public, or allowed above.
    pub refused: Vec<Cidr>,
    /// The machine's addresses: behind them are services that trust the machine.
    pub own: Vec<IpAddr>,
    /// The relay's own addresses with ports, refused in a lab as well: a packet relayed to the relay itself could go in circles.
    /// An unspecified address stands for all of [`own`](Self::own) and loopback.
    pub own_ports: Vec<SocketAddr>,
}

impl PeerFilter {
    /// Whether a client may have a permission for this address.
    #[must_use]
    pub fn allows_ip(&self, ip: IpAddr) -> bool {
        if is_nobody(ip) || self.refused.iter().any(|range| range.contains(ip)) {
            return false;
        }
        self.is_lab || self.allowed.iter().any(|range| range.contains(ip)) || is_public(ip) && !self.own.contains(&ip)
    }

    /// Whether data may be sent there.
    #[must_use]
    pub fn allows(&self, peer: SocketAddr) -> bool {
        peer.port() != 0 && self.allows_ip(peer.ip()) && !self.is_own_port(peer)
    }

    fn is_own_port(&self, peer: SocketAddr) -> bool {
        self.own_ports.iter().any(|own| {
            let is_same_ip =
                own.ip() == peer.ip() || own.ip().is_unspecified() && (peer.ip().is_loopback() || self.own.contains(&peer.ip()));
            own.port() == peer.port() && is_same_ip
        })
    }
}

/// No single machine, or IPv4 in the clothes of IPv6, which a client has no reason to write: its family would be the wrong one.
fn is_nobody(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_unspecified() || ip.is_multicast() || ip.is_broadcast(),
        // ::/96, the compatible form, has the unspecified address in it; loopback is ::1.
        IpAddr::V6(ip) => {
            let is_compatible = ip.to_bits() >> 32 == 0 && !ip.is_loopback();
            ip.is_multicast() || ip.to_ipv4_mapped().is_some() || is_compatible
        }
    }
}

/// One address or more of everything that is refused, at the edges of the ranges.
#[cfg(test)]
pub(crate) const FORBIDDEN: &[&str] = &[
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "10.255.255.255",
    "100.64.0.1",
    "100.127.255.255",
    "127.0.0.1",
    "127.255.0.1",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.1",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.0.1",
    "198.18.0.1",
    "198.19.255.255",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::8.8.8.8",
    "::127.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:8.8.8.8",
    "64:ff9b::127.0.0.1",
    "64:ff9b::10.0.0.1",
    "64:ff9b::169.254.169.254",
    "64:ff9b:1::1",
    "64:ff9b:1::8.8.8.8",
    "100::1",
    "2001::1",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "2001:2::1",
    "2001:10::1",
    "2001:20::1",
    "2001:db8::1",
    "2002:7f00:1::1",
    "2002:a00:1::1",
    "2002:808:808::1",
    "3fff::1",
    "5f00::1",
    "fc00::1",
    "fd12:3456::1",
    "fe80::1",
    "febf::1",
    "fec0::1",
    "ff02::1",
    "ff0e::1",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    const PUBLIC: &[&str] = &[
        "1.1.1.1",
        "8.8.8.8",
        "9.255.255.255",
        "11.0.0.0",
        "100.63.255.255",
        "100.128.0.0",
        "172.15.0.1",
        "172.32.0.1",
        "192.0.1.1",
        "223.255.255.255",
        "2606:4700:4700::1111",
        "2001:4860:4860::8888",
        "2a00:1450::1",
        "64:ff9b::8.8.8.8",
    ];

    #[test]
    fn what_is_not_public_is_refused() {
        let filter = PeerFilter::default();
        for text in FORBIDDEN {
            assert!(!filter.allows_ip(ip(text)), "{text}");
            assert!(!filter.allows(SocketAddr::new(ip(text), 9)), "{text}");
        }
        for text in PUBLIC {
            assert!(filter.allows(SocketAddr::new(ip(text), 9)), "{text}");
            assert!(!filter.allows(SocketAddr::new(ip(text), 0)), "{text} port 0");
        }
    }

    #[test]
    fn own_addresses_are_refused() {
        let filter = PeerFilter { own: vec![ip("8.8.8.8"), ip("2606:4700::1")], ..PeerFilter::default() };
        assert!(!filter.allows_ip(ip("8.8.8.8")) && !filter.allows_ip(ip("2606:4700::1")));
        assert!(filter.allows_ip(ip("8.8.4.4")));
    }

    #[test]
    fn ranges_are_allowed_and_refused_by_name() {
        let filter = PeerFilter {
            allowed: vec!["10.1.0.0/16".parse().unwrap(), "127.0.0.1".parse().unwrap()],
            refused: vec!["10.1.2.0/24".parse().unwrap(), "8.8.8.0/24".parse().unwrap()],
            ..PeerFilter::default()
        };
        assert!(filter.allows_ip(ip("10.1.1.1")) && filter.allows_ip(ip("127.0.0.1")) && filter.allows_ip(ip("8.8.4.4")));
        assert!(!filter.allows_ip(ip("10.2.0.1")) && !filter.allows_ip(ip("10.1.2.3")) && !filter.allows_ip(ip("8.8.8.8")));
    }

    #[test]
    fn a_lab_allows_single_machines_but_not_the_relays_own_ports() {
        let own_ports = vec!["0.0.0.0:3478".parse().unwrap(), "[::1]:3478".parse().unwrap()];
        let filter = PeerFilter { is_lab: true, own: vec![ip("10.0.0.1")], own_ports, ..PeerFilter::default() };
        for peer in ["127.0.0.1:9", "10.0.0.1:9", "192.168.0.1:3478", "[::1]:9", "[fe80::1]:9"] {
            assert!(filter.allows(peer.parse().unwrap()), "{peer}");
        }
        for peer in [
            "127.0.0.1:3478",
            "127.0.0.2:3478",
            "10.0.0.1:3478",
            "[::1]:3478",
            "224.0.0.1:9",
            "0.0.0.0:9",
            "255.255.255.255:9",
            "[ff02::1]:9",
            "[::]:9",
            "[::ffff:127.0.0.1]:9",
            "[::127.0.0.1]:9",
        ] {
            assert!(!filter.allows(peer.parse().unwrap()), "{peer}");
        }
    }

    #[test]
    fn ranges_are_read_and_nonsense_is_not() {
        for text in ["0.0.0.0/0", "::/0", "192.0.2.0/24", "2001:db8::/32", "192.0.2.1", "::1/128"] {
            assert!(text.parse::<Cidr>().is_ok(), "{text}");
        }
        let all: Cidr = "::/0".parse().unwrap();
        assert!(all.contains(ip("ffff::1")) && !all.contains(ip("1.2.3.4")));
        let all: Cidr = "0.0.0.0/0".parse().unwrap();
        assert!(all.contains(ip("255.1.2.3")));
        for text in ["", "192.0.2.0/33", "::/129", "example.org/8", "192.0.2.0/", "192.0.2/24", "10.0.0.0/-1"] {
            assert!(text.parse::<Cidr>().is_err(), "{text}");
        }
    }
}
