//! Who wrote a message and whether it arrived whole: MESSAGE-INTEGRITY, MESSAGE-INTEGRITY-SHA256 and FINGERPRINT
//! (RFC 8489 sections 14.5 to 14.7).
//!
//! All three are computed over the message up to their own attribute, with the header's length as if that attribute were
//! the last. The changed length is fed to the hash on its own, so the packet is neither copied nor altered. Keys come
//! from outside: this module doesn't know how they are made from passwords.

use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;
use sha2::Sha256;

use super::attribute::{Attribute, AttributeType};
use super::{ATTRIBUTE_HEADER_BYTES, EncodeError, HEADER_BYTES, Message, MessageBuilder};

const SHA1_BYTES: usize = 20;
const SHA256_BYTES: usize = 32;

/// A sender may cut HMAC-SHA256 to this many bytes (RFC 8489 section 14.6).
const SHA256_BYTES_MIN: usize = 16;

/// Combined with the CRC so that it isn't the one a protocol beside STUN computes (RFC 8489 section 14.7).
const FINGERPRINT_MASK: u32 = 0x5354_554E;

const FINGERPRINT_BYTES: usize = 4;

/// What became of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Check {
    /// The message doesn't have the attribute.
    Absent,
    /// It has it, and it is right.
    Valid,
    /// It has it, and it is wrong, too short, too long or in the wrong place.
    Invalid,
}

impl Check {
    fn from_valid(valid: bool) -> Self {
        if valid { Self::Valid } else { Self::Invalid }
    }
}

impl Message<'_> {
    /// Checks MESSAGE-INTEGRITY with this key, in constant time.
    pub fn check_integrity_sha1(self, key: &[u8]) -> Check {
        let Some(attribute) = self.attribute(AttributeType::MESSAGE_INTEGRITY) else { return Check::Absent };
        let hmac: Option<Hmac<Sha1>> = keyed(key, &self.covered_by(attribute));
        Check::from_valid(hmac.is_some_and(|hmac| hmac.verify_slice(attribute.value).is_ok()))
    }

    /// Checks MESSAGE-INTEGRITY-SHA256 with this key, in constant time; cut ones of 16 bytes and more are accepted.
    pub fn check_integrity_sha256(self, key: &[u8]) -> Check {
        let Some(attribute) = self.attribute(AttributeType::MESSAGE_INTEGRITY_SHA256) else { return Check::Absent };
        let length = attribute.value.len();
        if !(SHA256_BYTES_MIN..=SHA256_BYTES).contains(&length) || length % 4 != 0 {
            return Check::Invalid;
        }
        let hmac: Option<Hmac<Sha256>> = keyed(key, &self.covered_by(attribute));
        Check::from_valid(hmac.is_some_and(|hmac| hmac.verify_truncated_left(attribute.value).is_ok()))
    }

    /// Checks FINGERPRINT, which has to be the last attribute.
    pub fn check_fingerprint(self) -> Check {
        let Some(attribute) = self.attribute(AttributeType::FINGERPRINT) else { return Check::Absent };
        let is_last = attribute.offset + ATTRIBUTE_HEADER_BYTES + FINGERPRINT_BYTES == self.as_bytes().len();
        let expected = fingerprint(&self.covered_by(attribute)).to_be_bytes();
        Check::from_valid(is_last && attribute.value == expected)
    }

    fn covered_by(&self, attribute: Attribute<'_>) -> Covered<'_> {
        Covered::new(&self.as_bytes()[..attribute.offset], attribute.value.len())
    }
}

impl MessageBuilder<'_> {
    /// Adds MESSAGE-INTEGRITY over all that was written so far.
    ///
    /// # Errors
    /// [`EncodeError::BufferFull`].
    pub fn message_integrity_sha1(self, key: &[u8]) -> Result<Self, EncodeError> {
        let hmac: Option<Hmac<Sha1>> = keyed(key, &Covered::new(self.written(), SHA1_BYTES));
        let tag = hmac.expect("an hmac takes keys of any length").finalize().into_bytes();
        self.attribute(AttributeType::MESSAGE_INTEGRITY, &tag)
    }

    /// Adds MESSAGE-INTEGRITY-SHA256, uncut, over all that was written so far.
    ///
    /// # Errors
    /// [`EncodeError::BufferFull`].
    pub fn message_integrity_sha256(self, key: &[u8]) -> Result<Self, EncodeError> {
        let hmac: Option<Hmac<Sha256>> = keyed(key, &Covered::new(self.written(), SHA256_BYTES));
        let tag = hmac.expect("an hmac takes keys of any length").finalize().into_bytes();
        self.attribute(AttributeType::MESSAGE_INTEGRITY_SHA256, &tag)
    }

    /// Adds FINGERPRINT over all that was written so far: the last attribute of a message.
    ///
    /// # Errors
    /// [`EncodeError::BufferFull`].
    pub fn fingerprint(self) -> Result<Self, EncodeError> {
        let value = fingerprint(&Covered::new(self.written(), FINGERPRINT_BYTES)).to_be_bytes();
        self.attribute(AttributeType::FINGERPRINT, &value)
    }
}

/// What a check covers, in three pieces: message type, length as if the checking attribute were the last, the rest.
struct Covered<'a> {
    message_type: &'a [u8],
    length: [u8; 2],
    rest: &'a [u8],
}

impl<'a> Covered<'a> {
    /// `before` is the message up to the attribute whose value has `value_bytes`.
    fn new(before: &'a [u8], value_bytes: usize) -> Self {
        let length = before.len() - HEADER_BYTES + ATTRIBUTE_HEADER_BYTES + value_bytes.next_multiple_of(4);
        // Lengths that wrap are of messages that can't be parsed and can't be built.
        Self { message_type: &before[..2], length: (length as u16).to_be_bytes(), rest: &before[4..] }
    }

    fn pieces(&self) -> [&[u8]; 3] {
        [self.message_type, &self.length, self.rest]
    }
}

/// `None` only if the key's length were refused, which an HMAC never does.
fn keyed<M: Mac + KeyInit>(key: &[u8], covered: &Covered<'_>) -> Option<M> {
    let mut mac = <M as KeyInit>::new_from_slice(key).ok()?;
    for piece in covered.pieces() {
        mac.update(piece);
    }
    Some(mac)
}

fn fingerprint(covered: &Covered<'_>) -> u32 {
    let crc = covered.pieces().into_iter().flatten().fold(u32::MAX, |crc, byte| {
        let index = (crc ^ u32::from(*byte)) & 0xFF;
        (crc >> 8) ^ CRC_TABLE[index as usize]
    });
    !crc ^ FINGERPRINT_MASK
}

/// CRC-32 of ITU V.42 (reflected polynomial 0xEDB88320), one entry for each value of a byte.
const CRC_TABLE: [u32; 256] = crc_table();

const fn crc_table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        let mut remainder = index as u32;
        let mut bit = 0;
        while bit < 8 {
            remainder = if remainder & 1 == 1 { (remainder >> 1) ^ 0xEDB8_8320 } else { remainder >> 1 };
            bit += 1;
        }
        table[index] = remainder;
        index += 1;
    }
    table
}
