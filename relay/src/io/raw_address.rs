//! Socket addresses as the kernel has them, written and read without `unsafe`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

/// `sizeof(struct sockaddr_in6)`, the longer of the two.
pub(super) const RAW_ADDRESS_BYTES: usize = 28;
/// `sizeof(struct sockaddr_in)`.
const RAW_ADDRESS_V4_BYTES: usize = 16;

/// `struct sockaddr_in` or `sockaddr_in6`. The kernel copies it, so that alignment doesn't matter; it is that of the C types all the same.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(4))]
pub(super) struct RawAddress {
    pub(super) bytes: [u8; RAW_ADDRESS_BYTES],
}

impl RawAddress {
    pub(super) const EMPTY: Self = Self { bytes: [0; RAW_ADDRESS_BYTES] };

    /// The address and its length.
    pub(super) fn new(address: SocketAddr) -> (Self, u32) {
        let mut raw = Self::EMPTY;
        raw.bytes[2..4].copy_from_slice(&address.port().to_be_bytes());
        match address {
            SocketAddr::V4(address) => {
                raw.set_family(libc::AF_INET);
                raw.bytes[4..8].copy_from_slice(&address.ip().octets());
                (raw, RAW_ADDRESS_V4_BYTES as u32)
            }
            SocketAddr::V6(address) => {
                raw.set_family(libc::AF_INET6);
                raw.bytes[4..8].copy_from_slice(&address.flowinfo().to_ne_bytes());
                raw.bytes[8..24].copy_from_slice(&address.ip().octets());
                raw.bytes[24..28].copy_from_slice(&address.scope_id().to_ne_bytes());
                (raw, RAW_ADDRESS_BYTES as u32)
            }
        }
    }

    fn set_family(&mut self, family: i32) {
        // The constants are below 256; `sa_family_t` is 16 bits in the machine's order.
        self.bytes[..2].copy_from_slice(&(family as u16).to_ne_bytes());
    }

    /// Of another family: the unspecified address with port 0, which nobody can be answered at.
    pub(super) fn to_socket_addr(self) -> SocketAddr {
        let half = |at: usize| [self.bytes[at], self.bytes[at + 1]];
        let word = |at: usize| [self.bytes[at], self.bytes[at + 1], self.bytes[at + 2], self.bytes[at + 3]];
        let port = u16::from_be_bytes(half(2));
        match i32::from(u16::from_ne_bytes(half(0))) {
            libc::AF_INET => SocketAddrV4::new(Ipv4Addr::from(word(4)), port).into(),
            libc::AF_INET6 => {
                let mut octets = [0; 16];
                octets.copy_from_slice(&self.bytes[8..24]);
                SocketAddrV6::new(Ipv6Addr::from(octets), port, u32::from_ne_bytes(word(4)), u32::from_ne_bytes(word(24))).into()
            }
            _ => SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_way_there_and_back() {
        for text in ["192.0.2.1:3478", "[2001:db8::1]:65535", "0.0.0.0:0", "[fe80::1%3]:7"] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(RawAddress::new(address).0.to_socket_addr(), address);
        }
    }

    #[test]
    fn another_family_is_nobody() {
        assert_eq!(RawAddress { bytes: [7; 28] }.to_socket_addr().port(), 0);
    }
}
