//! The magic packet that wakes a sleeping machine whose network card is powered (AMD, "Magic Packet Technology").

use super::report::MacAddress;

/// Six bytes of ones and the address sixteen times.
pub const MAGIC_PACKET_BYTES: usize = 6 + 16 * 6;

/// The packet for a network card. It is sent as a UDP broadcast to port 9, where nobody listens: the card itself looks for it.
#[must_use]
pub fn magic_packet(mac: &MacAddress) -> [u8; MAGIC_PACKET_BYTES] {
    let mut packet = [0xff; MAGIC_PACKET_BYTES];
    for part in packet[6..].chunks_exact_mut(6) {
        part.copy_from_slice(&mac.0);
    }
    packet
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_packet_is_ones_and_sixteen_addresses() {
        let packet = magic_packet(&MacAddress([2, 0, 0x5e, 0x10, 0, 1]));
        assert_eq!(packet.len(), 102);
        assert_eq!(packet[..6], [0xff; 6]);
        assert!(packet[6..].chunks(6).all(|part| part == [2, 0, 0x5e, 0x10, 0, 1]));
    }
}
