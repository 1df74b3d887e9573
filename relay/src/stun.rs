//! STUN messages (RFC 8489): borrowed reading, writing into the caller's buffer, no allocation either way.
//!
//! A message is a 20-byte header and a row of attributes, each `type, length, value`, padded to four bytes:
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! |0 0|   method and class        |   length of the attributes    |
//! |                  magic cookie 0x2112A442                      |
//! |                                                               |
//! |                  transaction id (96 bits)                     |
//! |                                                               |
//! |   attribute type              |   length of the value         |
//! |   value, padded to a multiple of four bytes ...               |
//! ```
//!
//! [`Message::parse`] checks the header and the bounds of every attribute once, so what follows can't run out of the
//! packet. What an attribute's value means is decided when it is asked for, in [`attribute`]; who wrote the message, and
//! whether it arrived whole, in [`integrity`].
//!
//! This module knows no sockets and no clock, and it doesn't speak RFC 3489: a message without the magic cookie is refused.

pub mod attribute;
pub mod channel_data;
pub mod integrity;

use std::fmt;

use attribute::{Attribute, AttributeType};
use thiserror::Error;

/// Second word of every STUN message (RFC 8489 section 5).
pub const MAGIC_COOKIE: u32 = 0x2112_A442;

/// Bytes of the header before the first attribute.
pub const HEADER_BYTES: usize = 20;

/// Bytes of type and length before an attribute's value.
pub const ATTRIBUTE_HEADER_BYTES: usize = 4;

/// Identifies a transaction: chosen at random by the client, repeated in the response (RFC 8489 section 5).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TransactionId(pub [u8; 12]);

impl fmt::Debug for TransactionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// What part a message plays in an exchange (RFC 8489 section 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// Wants a response.
    Request,
    /// Wants none and gets none.
    Indication,
    /// The request was done.
    Success,
    /// The request was refused; an ERROR-CODE attribute says why.
    Error,
}

impl Class {
    /// The two class bits as they stand in the message type: C1 is bit 8, C0 is bit 4.
    const fn bits(self) -> u16 {
        match self {
            Self::Request => 0x0000,
            Self::Indication => 0x0010,
            Self::Success => 0x0100,
            Self::Error => 0x0110,
        }
    }

    const fn from_bits(message_type: u16) -> Self {
        match message_type & 0x0110 {
            0x0000 => Self::Request,
            0x0010 => Self::Indication,
            0x0100 => Self::Success,
            _ => Self::Error,
        }
    }
}

/// What is asked for: a 12-bit number (RFC 8489 section 18.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Method(u16);

impl Method {
    /// Tells the client the address its request came from (RFC 8489 section 2).
    pub const BINDING: Self = Self(0x001);
    /// Asks a TURN server for a relayed address (RFC 8656 section 7).
    pub const ALLOCATE: Self = Self(0x003);
    /// Prolongs or ends an allocation (RFC 8656 section 8).
    pub const REFRESH: Self = Self(0x004);
    /// Data for a peer, an indication (RFC 8656 section 11).
    pub const SEND: Self = Self(0x006);
    /// Data from a peer, an indication (RFC 8656 section 11).
    pub const DATA: Self = Self(0x007);
    /// Lets a peer's address reach an allocation (RFC 8656 section 10).
    pub const CREATE_PERMISSION: Self = Self(0x008);
    /// Gives a peer a short number for cheap framing (RFC 8656 section 12).
    pub const CHANNEL_BIND: Self = Self(0x009);

    const MASK: u16 = 0x0FFF;

    /// The method with this number; bits above the twelfth are dropped.
    #[must_use]
    pub const fn from_number(number: u16) -> Self {
        Self(number & Self::MASK)
    }

    /// The method's number, at most `0xFFF`.
    #[must_use]
    pub const fn number(self) -> u16 {
        self.0
    }

    /// The method's bits as they stand in the message type, around the two class bits.
    const fn bits(self) -> u16 {
        (self.0 & 0x000F) | (self.0 & 0x0070) << 1 | (self.0 & 0x0F80) << 2
    }

    const fn from_bits(message_type: u16) -> Self {
        Self(message_type & 0x000F | (message_type & 0x00E0) >> 1 | (message_type & 0x3E00) >> 2)
    }
}

/// Why bytes are no STUN message. All of these say that the sender broke the protocol or speaks another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ParseError {
    /// Fewer bytes than a header has.
    #[error("{bytes} bytes are too few for a stun header")]
    TooShort {
        /// Bytes that came.
        bytes: usize,
    },
    /// The first two bits aren't zero: another protocol on the same port (RFC 8489 section 5).
    #[error("first byte {first:#04x} is not that of a stun message")]
    NotStun {
        /// First byte of the packet.
        first: u8,
    },
    /// Not the magic cookie: RFC 3489, or no STUN at all.
    #[error("magic cookie is {cookie:#010x}")]
    WrongCookie {
        /// What stood in its place.
        cookie: u32,
    },
    /// The header's length is no multiple of four, or isn't that of the packet.
    #[error("header announces {announced} bytes of attributes, {present} are there")]
    WrongLength {
        /// Length in the header.
        announced: usize,
        /// Bytes after the header.
        present: usize,
    },
    /// An attribute runs beyond the message.
    #[error("attribute {kind:?} at byte {offset} runs beyond the message")]
    AttributeOutOfBounds {
        /// Type of the attribute.
        kind: AttributeType,
        /// Where its header starts.
        offset: usize,
    },
}

/// A STUN message whose header and attribute bounds are right. Borrows the packet.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Message<'a> {
    bytes: &'a [u8],
}

impl fmt::Debug for Message<'_> {
    /// Values aren't printed: they hold addresses and user names.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("class", &self.class())
            .field("method", &self.method())
            .field("transaction_id", &self.transaction_id())
            .field("bytes", &self.bytes.len())
            .finish()
    }
}

impl<'a> Message<'a> {
    /// Reads one datagram, which must hold one whole message and nothing else (RFC 8489 section 6.3).
    ///
    /// # Errors
    /// [`ParseError`] names the first thing that is wrong.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ParseError> {
        let header = bytes.first_chunk::<HEADER_BYTES>().ok_or(ParseError::TooShort { bytes: bytes.len() })?;
        if header[0] & 0xC0 != 0 {
            return Err(ParseError::NotStun { first: header[0] });
        }
        let cookie = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
        if cookie != MAGIC_COOKIE {
            return Err(ParseError::WrongCookie { cookie });
        }
        let announced = usize::from(u16::from_be_bytes([header[2], header[3]]));
        let present = bytes.len() - HEADER_BYTES;
        if announced != present || announced % 4 != 0 {
            return Err(ParseError::WrongLength { announced, present });
        }
        let message = Self { bytes };
        message.check_attribute_bounds()?;
        Ok(message)
    }

    fn check_attribute_bounds(self) -> Result<(), ParseError> {
        let mut walk = RawAttributes { bytes: self.bytes, offset: HEADER_BYTES };
        while walk.next().is_some() {}
        if walk.offset == self.bytes.len() {
            return Ok(());
        }
        // The length is a multiple of four, so at least one attribute header is left.
        let kind = read_u16(self.bytes, walk.offset).unwrap_or_default();
        Err(ParseError::AttributeOutOfBounds { kind: AttributeType(kind), offset: walk.offset })
    }

    /// The whole packet.
    #[must_use]
    pub fn as_bytes(self) -> &'a [u8] {
        self.bytes
    }

    /// Request, indication or response.
    #[must_use]
    pub fn class(self) -> Class {
        Class::from_bits(self.message_type())
    }

    /// What is asked for.
    #[must_use]
    pub fn method(self) -> Method {
        Method::from_bits(self.message_type())
    }

    /// The exchange this message belongs to.
    #[must_use]
    pub fn transaction_id(self) -> TransactionId {
        let mut id = [0; 12];
        id.copy_from_slice(&self.bytes[8..HEADER_BYTES]);
        TransactionId(id)
    }

    /// The attributes in their order, without those a receiver has to overlook: after MESSAGE-INTEGRITY only
    /// MESSAGE-INTEGRITY-SHA256 and FINGERPRINT count, after MESSAGE-INTEGRITY-SHA256 only FINGERPRINT
    /// (RFC 8489 sections 14.5 and 14.6), and after FINGERPRINT nothing (section 14.7).
    #[must_use]
    pub fn attributes(self) -> Attributes<'a> {
        Attributes { raw: RawAttributes { bytes: self.bytes, offset: HEADER_BYTES }, sealed: Sealed::Nothing }
    }

    /// The first attribute of that type; later ones of the same type don't count (RFC 8489 section 14).
    #[must_use]
    pub fn attribute(self, kind: AttributeType) -> Option<Attribute<'a>> {
        self.attributes().find(|attribute| attribute.kind == kind)
    }

    /// The first attribute of each of these types, found in one walk.
    pub(crate) fn find<const N: usize>(self, kinds: [AttributeType; N]) -> [Option<Attribute<'a>>; N] {
        let mut found = [None; N];
        for attribute in self.attributes() {
            if let Some(index) = kinds.iter().position(|kind| *kind == attribute.kind) {
                found[index].get_or_insert(attribute);
            }
        }
        found
    }

    fn message_type(self) -> u16 {
        u16::from_be_bytes([self.bytes[0], self.bytes[1]])
    }
}

/// What the attributes walked past so far have closed the message to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Sealed {
    Nothing,
    BySha1,
    BySha256,
    ByFingerprint,
}

/// Iterator over the attributes that count: [`Message::attributes`].
#[derive(Debug, Clone)]
pub struct Attributes<'a> {
    raw: RawAttributes<'a>,
    sealed: Sealed,
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Attribute<'a>;

    fn next(&mut self) -> Option<Attribute<'a>> {
        loop {
            let attribute = self.raw.next()?;
            let seals = match attribute.kind {
                AttributeType::FINGERPRINT => Sealed::ByFingerprint,
                AttributeType::MESSAGE_INTEGRITY_SHA256 => Sealed::BySha256,
                AttributeType::MESSAGE_INTEGRITY => Sealed::BySha1,
                _ => Sealed::Nothing,
            };
            // Each seal lets only a later kind of seal follow; ordinary attributes want no seal before them.
            if self.sealed == Sealed::Nothing || seals > self.sealed {
                self.sealed = self.sealed.max(seals);
                return Some(attribute);
            }
        }
    }
}

/// Walks all attributes; stops at the first that doesn't fit.
#[derive(Debug, Clone)]
struct RawAttributes<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> Iterator for RawAttributes<'a> {
    type Item = Attribute<'a>;

    fn next(&mut self) -> Option<Attribute<'a>> {
        let kind = read_u16(self.bytes, self.offset)?;
        let length = usize::from(read_u16(self.bytes, self.offset + 2)?);
        let start = self.offset + ATTRIBUTE_HEADER_BYTES;
        let next = start + length.next_multiple_of(4);
        if next > self.bytes.len() {
            return None;
        }
        let attribute = Attribute { kind: AttributeType(kind), value: &self.bytes[start..start + length], offset: self.offset };
        self.offset = next;
        Some(attribute)
    }
}

fn read_u16(bytes: &[u8], offset: usize) -> Option<u16> {
    bytes.get(offset..)?.first_chunk().copied().map(u16::from_be_bytes)
}

/// Why a message could not be written: always the caller's doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum EncodeError {
    /// The buffer is too small for what is to be written.
    #[error("message needs {needed} bytes, the buffer has {available}")]
    BufferFull {
        /// Bytes needed so far.
        needed: usize,
        /// Bytes there are.
        available: usize,
    },
    /// A value is longer than its attribute allows.
    #[error("value of {kind:?} has {bytes} bytes, at most {bytes_max} are allowed")]
    ValueTooLong {
        /// The attribute.
        kind: AttributeType,
        /// Bytes given.
        bytes: usize,
        /// Bytes allowed.
        bytes_max: usize,
    },
    /// An error code outside 300 to 699 (RFC 8489 section 14.8).
    #[error("error code {code} is not within 300 to 699")]
    ErrorCodeOutOfRange {
        /// The code.
        code: u16,
    },
}

/// Writes one message into a buffer of the caller's.
///
/// Call [`begin`](Self::begin), then the attributes in the order they shall have, integrity after those it shall cover,
/// fingerprint last, then [`finish`](Self::finish). The header's length is right after every step.
#[derive(Debug)]
#[must_use]
pub struct MessageBuilder<'b> {
    buffer: &'b mut [u8],
    length: usize,
    transaction_id: TransactionId,
}

impl<'b> MessageBuilder<'b> {
    /// Writes the header.
    ///
    /// # Errors
    /// [`EncodeError::BufferFull`] if the buffer holds fewer than [`HEADER_BYTES`].
    pub fn begin(buffer: &'b mut [u8], class: Class, method: Method, transaction_id: TransactionId) -> Result<Self, EncodeError> {
        if buffer.len() < HEADER_BYTES {
            return Err(EncodeError::BufferFull { needed: HEADER_BYTES, available: buffer.len() });
        }
        buffer[0..2].copy_from_slice(&(class.bits() | method.bits()).to_be_bytes());
        buffer[2..4].copy_from_slice(&[0, 0]);
        buffer[4..8].copy_from_slice(&MAGIC_COOKIE.to_be_bytes());
        buffer[8..HEADER_BYTES].copy_from_slice(&transaction_id.0);
        Ok(Self { buffer, length: HEADER_BYTES, transaction_id })
    }

    /// Adds an attribute with this value and zero padding.
    ///
    /// # Errors
    /// [`EncodeError::BufferFull`] or, beyond 65,535 bytes, [`EncodeError::ValueTooLong`].
    pub fn attribute(mut self, kind: AttributeType, value: &[u8]) -> Result<Self, EncodeError> {
        self.reserve(kind, value.len())?.copy_from_slice(value);
        Ok(self)
    }

    /// Adds an attribute with a zeroed value of that many bytes and gives the value for filling in.
    fn reserve(&mut self, kind: AttributeType, value_bytes: usize) -> Result<&mut [u8], EncodeError> {
        let too_long = EncodeError::ValueTooLong { kind, bytes: value_bytes, bytes_max: usize::from(u16::MAX) };
        let value_length = u16::try_from(value_bytes).map_err(|_| too_long)?;
        let value_start = self.length + ATTRIBUTE_HEADER_BYTES;
        let end = value_start + value_bytes.next_multiple_of(4);
        // The header's length field is the other bound on the whole message.
        let message_length = u16::try_from(end - HEADER_BYTES).map_err(|_| too_long)?;
        let available = self.buffer.len();
        let whole = self.buffer.get_mut(self.length..end).ok_or(EncodeError::BufferFull { needed: end, available })?;
        whole.fill(0);
        whole[0..2].copy_from_slice(&kind.0.to_be_bytes());
        whole[2..4].copy_from_slice(&value_length.to_be_bytes());
        self.buffer[2..4].copy_from_slice(&message_length.to_be_bytes());
        self.length = end;
        Ok(&mut self.buffer[value_start..value_start + value_bytes])
    }

    /// The message so far.
    fn written(&self) -> &[u8] {
        &self.buffer[..self.length]
    }

    /// Ends writing; gives the message's length in bytes.
    #[must_use]
    pub fn finish(self) -> usize {
        self.length
    }
}

#[cfg(test)]
mod tests;
