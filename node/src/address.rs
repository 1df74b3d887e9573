//! Between libp2p's names for things and the overlay's.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use halloo_protocol::key::{DeviceKey, PublicKey, SecretKey};
use halloo_protocol::node::{ADDRESS_BYTES_MAX, Address, DESCRIPTOR_ADDRESSES_MAX, Transport};
use libp2p::identity::{Keypair, ed25519};
use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};

/// The peer id of a device key; `None` if the 32 bytes aren't a point on the curve.
#[must_use]
pub fn peer_id(device: &DeviceKey) -> Option<PeerId> {
    let key = ed25519::PublicKey::try_from_bytes(device.as_bytes()).ok()?;
    Some(libp2p::identity::PublicKey::from(key).to_peer_id())
}

/// The device key inside a peer id; `None` for peers whose key isn't Ed25519.
///
/// An Ed25519 peer id is the identity multihash of the key's protobuf: 4 bytes of header and the 32 bytes of the key.
#[must_use]
pub fn device_key(peer: &PeerId) -> Option<DeviceKey> {
    const HEADER: [u8; 4] = [0x08, 0x01, 0x12, 0x20];
    let bytes = peer.as_ref().digest().strip_prefix(&HEADER)?;
    Some(DeviceKey(PublicKey(bytes.try_into().ok()?)))
}

/// libp2p's form of a device's secret key; `None` never for a seed of 32 bytes.
#[must_use]
pub fn keypair(secret: &SecretKey) -> Option<Keypair> {
    let mut seed = secret.to_bytes();
    Keypair::ed25519_from_bytes(seed.as_mut_slice()).ok()
}

/// The compact form of a multiaddress; a trailing `/p2p/...` is dropped. `None` if it is too long or a circuit.
#[must_use]
pub fn to_wire(address: &Multiaddr) -> Option<Address> {
    let parts: Vec<Protocol<'_>> = address.iter().filter(|part| !matches!(part, Protocol::P2p(_))).collect();
    if parts.iter().any(|part| matches!(part, Protocol::P2pCircuit)) {
        return None;
    }
    let compact = match parts.as_slice() {
        [Protocol::Ip4(ip), Protocol::Tcp(port)] => Some(Address::V4 { ip: ip.octets(), port: *port, transport: Transport::Tcp }),
        [Protocol::Ip6(ip), Protocol::Tcp(port)] => Some(Address::V6 { ip: ip.octets(), port: *port, transport: Transport::Tcp }),
        [Protocol::Ip4(ip), Protocol::Udp(port), Protocol::QuicV1] => {
            Some(Address::V4 { ip: ip.octets(), port: *port, transport: Transport::Quic })
        }
        [Protocol::Ip6(ip), Protocol::Udp(port), Protocol::QuicV1] => {
            Some(Address::V6 { ip: ip.octets(), port: *port, transport: Transport::Quic })
        }
        _ => None,
    };
    compact.or_else(|| {
        let other: Multiaddr = parts.into_iter().collect();
        let bytes = other.to_vec();
        (!bytes.is_empty() && bytes.len() <= ADDRESS_BYTES_MAX).then_some(Address::Other(bytes))
    })
}

/// The multiaddress of a compact address, without `/p2p/...`. `None` if a peer's bytes aren't a multiaddress.
#[must_use]
pub fn from_wire(address: &Address) -> Option<Multiaddr> {
    let with = |ip: Protocol<'static>, port: u16, transport: Transport| {
        let base = Multiaddr::empty().with(ip);
        match transport {
            Transport::Quic => base.with(Protocol::Udp(port)).with(Protocol::QuicV1),
            Transport::Tcp => base.with(Protocol::Tcp(port)),
        }
    };
    match address {
        Address::V4 { ip, port, transport } => Some(with(Protocol::Ip4(Ipv4Addr::from(*ip)), *port, *transport)),
        Address::V6 { ip, port, transport } => Some(with(Protocol::Ip6(Ipv6Addr::from(*ip)), *port, *transport)),
        Address::Other(bytes) => {
            let address = Multiaddr::try_from(bytes.clone()).ok()?;
            // Circuits are built from relay hints, never taken from a descriptor: they would make us dial through anybody.
            (!address.iter().any(|part| matches!(part, Protocol::P2pCircuit | Protocol::P2p(_)))).then_some(address)
        }
    }
}

/// The addresses worth telling others, best first: QUIC before TCP, at most what a descriptor holds.
#[must_use]
pub fn best_for_descriptor<'a>(addresses: impl IntoIterator<Item = &'a Multiaddr>) -> Vec<Address> {
    let mut wire: Vec<Address> = addresses.into_iter().filter_map(to_wire).collect();
    wire.sort_by_key(|address| match address {
        Address::V4 { transport: Transport::Quic, .. } => 0,
        Address::V6 { transport: Transport::Quic, .. } => 1,
        Address::V4 { .. } => 2,
        Address::V6 { .. } => 3,
        Address::Other(_) => 4,
    });
    wire.dedup();
    wire.truncate(DESCRIPTOR_ADDRESSES_MAX);
    wire
}

/// The IP address a multiaddress starts with.
#[must_use]
pub fn ip_of(address: &Multiaddr) -> Option<IpAddr> {
    match address.iter().next()? {
        Protocol::Ip4(ip) => Some(IpAddr::V4(ip)),
        Protocol::Ip6(ip) => Some(IpAddr::V6(ip)),
        _ => None,
    }
}

/// True for a circuit through a relay.
#[must_use]
pub fn is_circuit(address: &Multiaddr) -> bool {
    address.iter().any(|part| matches!(part, Protocol::P2pCircuit))
}

/// True if an address can be reached from anywhere: neither private, shared, local, reserved nor multicast.
#[must_use]
pub fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => is_public_v4(ip),
        IpAddr::V6(ip) => match ip.to_ipv4_mapped() {
            Some(mapped) => is_public_v4(mapped),
            None => {
                let first = ip.segments()[0];
                // 2000::/3 is all that has been given out; documentation and unique local space lie outside or are excluded.
                (first & 0xe000) == 0x2000 && !(first == 0x2001 && ip.segments()[1] == 0x0db8)
            }
        },
    }
}

fn is_public_v4(ip: Ipv4Addr) -> bool {
    let [a, b, ..] = ip.octets();
    !(ip.is_private()
        || ip.is_loopback()
        || ip.is_link_local()
        || ip.is_broadcast()
        || ip.is_documentation()
        || ip.is_unspecified()
        || ip.is_multicast()
        || a == 0
        || a >= 240
        || (a == 100 && (64..128).contains(&b))
        || (a == 192 && b == 0)
        || (a == 198 && (b == 18 || b == 19)))
}

/// True if an address that a stranger names may be dialled: on the internet, only addresses of the internet. Else whoever is believed an
/// address could have us knock on the doors of our own network. Names aren't looked up for strangers either. With `private`, all are.
#[must_use]
pub fn may_dial(address: &Multiaddr, private: bool) -> bool {
    private || ip_of(address).is_some_and(is_public)
}

/// A number for the network an address lies in (IPv4 /24, IPv6 /48), for caps per origin. `None` for addresses without IP.
#[must_use]
pub fn network_group(address: &Multiaddr) -> Option<u64> {
    match ip_of(address)? {
        IpAddr::V4(ip) => {
            let [a, b, c, _] = ip.octets();
            Some(u64::from_be_bytes([4, 0, 0, 0, 0, a, b, c]))
        }
        IpAddr::V6(ip) => {
            let [a, b, c, d, e, f, ..] = ip.octets();
            Some(u64::from_be_bytes([6, 0, a, b, c, d, e, f]))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peer_ids_and_device_keys_are_two_names_for_one_thing() {
        let secret = SecretKey::from_bytes([9; 32]);
        let device = DeviceKey(secret.public());
        let peer = peer_id(&device).expect("a real key");
        assert_eq!(device_key(&peer), Some(device));
        assert_eq!(keypair(&secret).expect("a seed").public().to_peer_id(), peer);
        assert_eq!(device_key(&PeerId::random()), None, "a peer id of another kind of key has none");
    }

    #[test]
    fn addresses_survive_the_compact_form() {
        for text in ["/ip4/192.0.2.7/udp/4001/quic-v1", "/ip6/2001:db8::7/tcp/4001", "/dns4/example.org/tcp/443", "/memory/17"] {
            let address: Multiaddr = text.parse().expect("valid");
            let wire = to_wire(&address).expect("fits");
            assert_eq!(from_wire(&wire), Some(address), "{text}");
        }
        let circuit: Multiaddr =
            "/ip4/192.0.2.7/tcp/1/p2p/12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA/p2p-circuit".parse().expect("valid");
        assert_eq!(to_wire(&circuit), None);
        assert_eq!(from_wire(&Address::Other(circuit.to_vec())), None);
        assert_eq!(from_wire(&Address::Other(vec![0xff; 9])), None);
    }

    #[test]
    fn strangers_do_not_send_us_into_our_own_network() {
        for (text, allowed) in [
            ("/ip4/8.8.8.8/udp/1/quic-v1", true),
            ("/ip4/127.0.0.1/tcp/22", false),
            ("/ip4/192.168.1.1/tcp/80", false),
            ("/ip6/::1/tcp/80", false),
            ("/dns4/router.local/tcp/80", false),
        ] {
            let address: Multiaddr = text.parse().expect("valid");
            assert_eq!(may_dial(&address, false), allowed, "{text}");
            assert!(may_dial(&address, true), "a lab is made of such addresses");
        }
    }

    #[test]
    fn only_addresses_of_the_open_internet_are_public() {
        for (text, public) in [
            ("8.8.8.8", true),
            ("5.0.0.1", true),
            ("127.0.0.1", false),
            ("10.1.2.3", false),
            ("100.64.0.1", false),
            ("169.254.1.1", false),
            ("192.168.1.1", false),
            ("172.16.0.1", false),
            ("224.0.0.1", false),
            ("255.255.255.255", false),
            ("0.0.0.0", false),
            ("2a00::1", true),
            ("::1", false),
            ("fe80::1", false),
            ("fd00::1", false),
            ("ff02::1", false),
            ("::ffff:10.0.0.1", false),
        ] {
            assert_eq!(is_public(text.parse().expect("an address")), public, "{text}");
        }
    }
}
