//! ChannelData (RFC 8656 section 12.4): data with four bytes before it instead of a STUN message around it.
//!
//! ```text
//! |  channel number from 0x4000    |   length of the data          |
//! |  data ...
//! ```
//!
//! RFC 8656 leaves a client the numbers up to 0x4FFF; RFC 5766 before it, up to 0x7FFF, and such clients are about (coturn's own). The rest of
//! the range was given up so that other protocols can share a client's port, which is no concern of a server's: it takes all of it.
//!
//! Over UDP what follows the data is padding of no meaning; over a stream messages are padded to multiples of four bytes.

/// Bytes before the data.
pub const HEADER_BYTES: usize = 4;

/// Channel numbers a client may choose from (RFC 5766 section 11).
pub const CHANNEL_NUMBERS: std::ops::RangeInclusive<u16> = 0x4000..=0x7FFF;

/// Whether a packet that starts with this byte is ChannelData.
#[must_use]
#[inline]
pub const fn is_first_byte(first: u8) -> bool {
    first & 0xC0 == 0x40
}

/// Channel number and length of the data; `None` if the packet is shorter than it says.
#[must_use]
#[inline]
pub fn parse(packet: &[u8]) -> Option<(u16, usize)> {
    let &[a, b, c, d] = packet.first_chunk::<HEADER_BYTES>()?;
    let length = usize::from(u16::from_be_bytes([c, d]));
    (packet.len() >= HEADER_BYTES + length).then_some((u16::from_be_bytes([a, b]), length))
}

/// The header.
#[must_use]
#[inline]
pub const fn header(number: u16, length: u16) -> [u8; HEADER_BYTES] {
    let ([a, b], [c, d]) = (number.to_be_bytes(), length.to_be_bytes());
    [a, b, c, d]
}
