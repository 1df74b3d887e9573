//! Which addresses take part in a call's ICE checks (RFC 8445 section 5.1).
//!
//! Host candidates are gathered here; server-reflexive and relayed ones come from relays over the same sockets
//! (`relays`).

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, SocketAddr},
};

use serde::Serialize;
use str0m::{Candidate, CandidateKind};

use crate::address::is_public;

/// Host candidates gathered at most. Each costs a socket and about 90 bytes of SDP, and ICE pairs
/// them with every remote candidate; four cover two interfaces with IPv4 and IPv6.
pub(super) const HOST_CANDIDATES_MAX: usize = 4;

/// Remote candidates accepted at most, from the SDP and trickled together; further ones are
/// dropped. Bounds how many addresses a peer can make us send connectivity checks to.
pub(super) const REMOTE_CANDIDATES_MAX: usize = 16;

/// How the two ends of a call reach each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum PathKind {
    /// Between addresses of the two hosts' own interfaces.
    Direct,
    /// Through at least one address translator, with no relay.
    Punched,
    /// Through a relay.
    Relayed,
}

/// The addresses media travels between.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct MediaPath {
    /// Our own address, or our relayed one.
    pub local: SocketAddr,
    /// The other end's address as we see it.
    pub remote: SocketAddr,
    /// How the two reach each other.
    pub kind: PathKind,
    /// Our relay, if our address is one that it lends.
    pub relay: Option<SocketAddr>,
}

/// Whether an address may be used as an ICE candidate, local or remote.
///
/// Link-local addresses never: IPv4 ones are refused by the ICE agent, IPv6 ones mean nothing
/// without a scope, which SDP cannot carry. Loopback only in a lab: otherwise a peer could aim
/// our checks at services on this very host.
pub(super) fn is_usable(ip: IpAddr, lab: bool) -> bool {
    let ip = ip.to_canonical();
    if ip.is_unspecified() || ip.is_multicast() {
        return false;
    }
    let link_local = match ip {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !link_local && (lab || !ip.is_loopback())
}

/// The addresses to bind for host candidates, best first, at most [`HOST_CANDIDATES_MAX`].
///
/// One address per interface and family: privacy addresses of IPv6 would otherwise fill the list.
pub(super) fn gather(lab: bool) -> io::Result<Vec<IpAddr>> {
    let mut interfaces = if_addrs::get_if_addrs()?;
    if interfaces.iter().any(|interface| interface.is_oper_up() && !interface.is_loopback()) {
        // An interface without a link keeps its address.
        interfaces.retain(|interface| interface.is_oper_up() || interface.is_loopback());
    }
    Ok(choose(interfaces.into_iter().map(|interface| (interface.name.clone(), interface.ip())), lab))
}

fn choose(addresses: impl Iterator<Item = (String, IpAddr)>, lab: bool) -> Vec<IpAddr> {
    let mut seen = BTreeSet::new();
    let mut chosen: Vec<IpAddr> = addresses
        .filter(|(_, ip)| is_usable(*ip, lab))
        .filter(|(name, ip)| seen.insert((name.clone(), ip.is_ipv4())))
        .map(|(_, ip)| ip)
        .collect();
    chosen.sort_by_key(|ip| (ip.is_loopback(), ip.is_ipv6()));
    chosen.dedup();
    chosen.truncate(HOST_CANDIDATES_MAX);
    chosen
}

/// What the other end said about its addresses: bounds their number and tells the kind of path.
#[derive(Debug, Default)]
pub(super) struct RemoteCandidates {
    known: BTreeMap<SocketAddr, Candidate>,
}

impl RemoteCandidates {
    /// Whether the candidate may be handed to the ICE agent; remembers it if so.
    pub(super) fn admit(&mut self, candidate: &Candidate, lab: bool) -> bool {
        let addr = candidate.addr();
        let admissible = addr.port() != 0
            && is_usable(addr.ip(), lab)
            && candidate.proto() == str0m::net::Protocol::Udp
            && (self.known.len() < REMOTE_CANDIDATES_MAX || self.known.contains_key(&addr));
        if admissible {
            self.known.insert(addr, candidate.clone());
        }
        admissible
    }

    /// The other end has taken a candidate back, which makes room for another.
    pub(super) fn forget(&mut self, candidate: &Candidate) {
        self.known.remove(&candidate.addr());
    }

    /// Those that no relay lends.
    pub(super) fn not_relayed(&self) -> impl Iterator<Item = &Candidate> {
        self.known.values().filter(|candidate| candidate.kind() != CandidateKind::Relayed)
    }

    /// Names the path between two nominated addresses. A remote address never announced was
    /// learnt from its packets: a translator stands in between.
    pub(super) fn path(&self, local: SocketAddr, local_kind: CandidateKind, remote: SocketAddr) -> MediaPath {
        let remote_kind = self.known.get(&remote).map_or(CandidateKind::PeerReflexive, Candidate::kind);
        let kind = match (local_kind, remote_kind) {
            (CandidateKind::Relayed, _) | (_, CandidateKind::Relayed) => PathKind::Relayed,
            // Between a private address and a public one somebody translates, though this end doesn't see it.
            (CandidateKind::Host, CandidateKind::Host) if is_public(local.ip()) == is_public(remote.ip()) => PathKind::Direct,
            _ => PathKind::Punched,
        };
        MediaPath { local, remote, kind, relay: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn addresses_admitted_outside_and_inside_a_lab() {
        let table = [
            ("192.0.2.1", true, true),
            ("10.0.0.1", true, true),
            ("2001:db8::1", true, true),
            ("fd00::1", true, true),
            ("127.0.0.1", false, true),
            ("::1", false, true),
            ("::ffff:127.0.0.1", false, true),
            ("169.254.0.1", false, false),
            ("fe80::1", false, false),
            ("224.0.0.1", false, false),
            ("255.255.255.255", false, false),
            ("0.0.0.0", false, false),
            ("::", false, false),
        ];
        for (text, outside, lab) in table {
            assert_eq!(is_usable(ip(text), false), outside, "{text} outside a lab");
            assert_eq!(is_usable(ip(text), true), lab, "{text} in a lab");
        }
    }

    #[test]
    fn interfaces_are_reduced_to_few_addresses_with_loopback_last() {
        let addresses = [
            ("lo", "127.0.0.1"),
            ("lo", "::1"),
            ("eth0", "192.0.2.1"),
            ("eth0", "192.0.2.2"),
            ("eth0", "2001:db8::1"),
            ("eth0", "2001:db8::2"),
            ("eth0", "fe80::1"),
            ("wlan0", "198.51.100.1"),
        ]
        .map(|(name, text)| (name.to_owned(), ip(text)));
        assert_eq!(choose(addresses.clone().into_iter(), false), [ip("192.0.2.1"), ip("198.51.100.1"), ip("2001:db8::1")]);
        assert_eq!(
            choose(addresses.into_iter(), true),
            [ip("192.0.2.1"), ip("198.51.100.1"), ip("2001:db8::1"), ip("127.0.0.1")]
        );
    }

    #[test]
    fn remote_candidates_are_bounded_and_name_the_path() {
        let mut remote = RemoteCandidates::default();
        for port in 1..100 {
            let addr = SocketAddr::new(ip("192.0.2.9"), port);
            let admitted = remote.admit(&Candidate::host(addr, "udp").unwrap(), false);
            assert_eq!(admitted, usize::from(port) <= REMOTE_CANDIDATES_MAX);
        }
        let local = "192.0.2.1:5000".parse().unwrap();
        let kind = |local_kind, remote_addr: &str| remote.path(local, local_kind, remote_addr.parse().unwrap()).kind;
        assert_eq!(kind(CandidateKind::Host, "192.0.2.9:1"), PathKind::Direct);
        assert_eq!(kind(CandidateKind::Host, "203.0.113.7:1"), PathKind::Punched);
        let open: SocketAddr = "5.0.1.1:1".parse().unwrap();
        let mut remote = RemoteCandidates::default();
        remote.admit(&Candidate::host(open, "udp").unwrap(), false);
        let path = |local: &str| remote.path(local.parse().unwrap(), CandidateKind::Host, open).kind;
        assert_eq!((path("192.168.1.2:1"), path("5.0.2.1:1")), (PathKind::Punched, PathKind::Direct));
        assert_eq!(kind(CandidateKind::Relayed, "192.0.2.9:1"), PathKind::Relayed);
    }
}
