//! Sends the packet that wakes a sleeping machine of the user's on the same network.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

use halloo_protocol::choice::{MacAddress, magic_packet};
use tracing::{debug, info};

/// Where nobody listens ("discard"): the network card itself looks for the packet.
const PORT: u16 = 9;

/// Networks the packet is sent to.
const INTERFACES_MAX: usize = 8;

/// One packet to each network this machine is on. Whether it arrives nobody says.
pub(super) fn send(mac: &MacAddress) {
    info!("waking a sleeping device on this network");
    for destination in destinations() {
        if let Err(error) = send_to(mac, destination) {
            debug!(%error, %destination, "magic packet not sent");
        }
    }
}

fn send_to(mac: &MacAddress, destination: SocketAddr) -> std::io::Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.set_broadcast(true)?;
    socket.set_nonblocking(true)?;
    socket.send_to(&magic_packet(mac), destination).map(|_| ())
}

/// The broadcast addresses of this machine's networks; the one for all if none is known.
fn destinations() -> Vec<SocketAddr> {
    let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
    let mut addresses: Vec<SocketAddr> = interfaces
        .iter()
        .filter_map(|interface| match &interface.addr {
            if_addrs::IfAddr::V4(v4) if !v4.is_loopback() => v4.broadcast,
            _ => None,
        })
        .take(INTERFACES_MAX)
        .map(|address| SocketAddr::new(IpAddr::V4(address), PORT))
        .collect();
    if addresses.is_empty() {
        addresses.push(SocketAddr::new(IpAddr::V4(Ipv4Addr::BROADCAST), PORT));
    }
    addresses.dedup();
    addresses
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn one_packet_goes_to_the_network() {
        let listener = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a socket");
        listener.set_read_timeout(Some(Duration::from_secs(5))).expect("set");
        let port = listener.local_addr().expect("bound").port();
        // The loopback network's broadcast address.
        send_to(&MacAddress([2, 0, 0x5e, 0x10, 0, 1]), ([127, 255, 255, 255], port).into()).expect("sent");
        let mut bytes = [0; 256];
        let length = listener.recv(&mut bytes).expect("it came");
        assert_eq!(bytes[..length], magic_packet(&MacAddress([2, 0, 0x5e, 0x10, 0, 1])));
        listener.set_nonblocking(true).expect("set");
        assert!(listener.recv(&mut bytes).is_err(), "one");
    }

    #[test]
    fn destinations_are_few_and_of_port_9() {
        let destinations = destinations();
        assert!((1..=INTERFACES_MAX).contains(&destinations.len()), "{destinations:?}");
        assert!(destinations.iter().all(|destination| destination.port() == PORT));
    }
}
