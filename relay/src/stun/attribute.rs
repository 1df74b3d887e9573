//! STUN attributes (RFC 8489 section 14): what their values mean, read and written.
//!
//! An attribute whose type is below 0x8000 has to be understood by who gets it; a request with one that isn't is refused
//! with error 420, which lists them. Others are passed over. What the relay understands is
//! [`AttributeType::is_understood`].

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use thiserror::Error;

use super::{EncodeError, MAGIC_COOKIE, MessageBuilder, TransactionId};

/// Types below are comprehension-required, from here on comprehension-optional (RFC 8489 section 14).
const COMPREHENSION_OPTIONAL_FIRST: u16 = 0x8000;

/// Longest SOFTWARE or reason phrase accepted (RFC 8489 sections 14.8 and 14.14).
pub const TEXT_BYTES_MAX: usize = 763;

/// Longest SOFTWARE or reason phrase written (the same sections: a writer is held to less than a reader).
pub const TEXT_BYTES_WRITTEN_MAX: usize = 509;

const FAMILY_IPV4: u8 = 0x01;
const FAMILY_IPV6: u8 = 0x02;

/// The number that says what an attribute is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AttributeType(pub u16);

impl AttributeType {
    /// Address as RFC 3489 wrote it; never written by us.
    pub const MAPPED_ADDRESS: Self = Self(0x0001);
    /// Name of the credential used.
    pub const USERNAME: Self = Self(0x0006);
    /// HMAC-SHA1 over what stands before it.
    pub const MESSAGE_INTEGRITY: Self = Self(0x0008);
    /// Why a request was refused.
    pub const ERROR_CODE: Self = Self(0x0009);
    /// Types that weren't understood, beside error 420.
    pub const UNKNOWN_ATTRIBUTES: Self = Self(0x000A);
    /// Scope of a long-term credential.
    pub const REALM: Self = Self(0x0014);
    /// The server's challenge.
    pub const NONCE: Self = Self(0x0015);
    /// HMAC-SHA256 over what stands before it.
    pub const MESSAGE_INTEGRITY_SHA256: Self = Self(0x001C);
    /// Hash the password's key is made with.
    pub const PASSWORD_ALGORITHM: Self = Self(0x001D);
    /// Hash in the user name's place.
    pub const USERHASH: Self = Self(0x001E);
    /// Where the request came from, masked so that no middlebox rewrites it.
    pub const XOR_MAPPED_ADDRESS: Self = Self(0x0020);
    /// Number of a channel (RFC 8656 section 18.1).
    pub const CHANNEL_NUMBER: Self = Self(0x000C);
    /// Seconds an allocation is to last (RFC 8656 section 18.2).
    pub const LIFETIME: Self = Self(0x000D);
    /// A peer (RFC 8656 section 18.3).
    pub const XOR_PEER_ADDRESS: Self = Self(0x0012);
    /// What is relayed (RFC 8656 section 18.4).
    pub const DATA: Self = Self(0x0013);
    /// The relayed address (RFC 8656 section 18.5).
    pub const XOR_RELAYED_ADDRESS: Self = Self(0x0016);
    /// Family the relayed address shall have (RFC 8656 section 18.6).
    pub const REQUESTED_ADDRESS_FAMILY: Self = Self(0x0017);
    /// An even relayed port, perhaps with the next one kept (RFC 8656 section 18.7).
    pub const EVEN_PORT: Self = Self(0x0018);
    /// Protocol between relay and peers (RFC 8656 section 18.8).
    pub const REQUESTED_TRANSPORT: Self = Self(0x0019);
    /// DF shall be set towards the peer (RFC 8656 section 18.9).
    pub const DONT_FRAGMENT: Self = Self(0x001A);
    /// Names a kept port (RFC 8656 section 18.10).
    pub const RESERVATION_TOKEN: Self = Self(0x0022);
    /// A second family wanted (RFC 8656 section 18.11).
    pub const ADDITIONAL_ADDRESS_FAMILY: Self = Self(0x8000);
    /// Why a family couldn't be had (RFC 8656 section 18.12).
    pub const ADDRESS_ERROR_CODE: Self = Self(0x8001);
    /// Another server (RFC 8489 section 14.15).
    pub const ALTERNATE_SERVER: Self = Self(0x8023);
    /// Algorithms a server offers.
    pub const PASSWORD_ALGORITHMS: Self = Self(0x8002);
    /// What the sender runs.
    pub const SOFTWARE: Self = Self(0x8022);
    /// CRC-32 over the message, to tell STUN from other protocols on one port.
    pub const FINGERPRINT: Self = Self(0x8028);

    /// Whether a receiver that doesn't know this type has to refuse the request.
    #[must_use]
    pub const fn is_comprehension_required(self) -> bool {
        self.0 < COMPREHENSION_OPTIONAL_FIRST
    }

    /// Whether this relay knows what a comprehension-required type means, even where it has no use for it.
    #[must_use]
    pub const fn is_understood(self) -> bool {
        matches!(
            self,
            Self::MAPPED_ADDRESS
                | Self::USERNAME
                | Self::MESSAGE_INTEGRITY
                | Self::ERROR_CODE
                | Self::UNKNOWN_ATTRIBUTES
                | Self::REALM
                | Self::NONCE
                | Self::MESSAGE_INTEGRITY_SHA256
                | Self::PASSWORD_ALGORITHM
                | Self::USERHASH
                | Self::XOR_MAPPED_ADDRESS
                | Self::CHANNEL_NUMBER
                | Self::LIFETIME
                | Self::XOR_PEER_ADDRESS
                | Self::DATA
                | Self::XOR_RELAYED_ADDRESS
                | Self::REQUESTED_ADDRESS_FAMILY
                | Self::EVEN_PORT
                | Self::REQUESTED_TRANSPORT
                | Self::DONT_FRAGMENT
                | Self::RESERVATION_TOKEN
        )
    }
}

/// One attribute of a message, within its bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attribute<'a> {
    /// What it is.
    pub kind: AttributeType,
    /// Its value without padding.
    pub value: &'a [u8],
    /// Where its header starts in the message: integrity covers what stands before.
    pub(super) offset: usize,
}

/// Why an attribute's value can't be read: the sender broke the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum AttributeError {
    /// The value hasn't the length its type calls for.
    #[error("value of {kind:?} has {bytes} bytes")]
    WrongLength {
        /// The attribute.
        kind: AttributeType,
        /// Bytes of its value.
        bytes: usize,
    },
    /// Neither IPv4 nor IPv6.
    #[error("address family is {family:#04x}")]
    UnknownFamily {
        /// What stood in its place.
        family: u8,
    },
    /// A text that isn't UTF-8.
    #[error("text of {kind:?} is not utf-8")]
    NotUtf8 {
        /// The attribute.
        kind: AttributeType,
    },
    /// Not within 300 to 699.
    #[error("error code {code} is not within 300 to 699")]
    ErrorCodeOutOfRange {
        /// The code.
        code: u16,
    },
}

/// Value of an ERROR-CODE (RFC 8489 section 14.8).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ErrorCode<'a> {
    /// 300 to 699.
    pub code: u16,
    /// For people; may be empty.
    pub reason: &'a str,
}

impl<'a> Attribute<'a> {
    fn wrong_length(&self) -> AttributeError {
        AttributeError::WrongLength { kind: self.kind, bytes: self.value.len() }
    }

    /// Where the value starts in the message.
    #[must_use]
    pub fn value_offset(&self) -> usize {
        self.offset + super::ATTRIBUTE_HEADER_BYTES
    }

    /// Reads the value as a masked address: zero byte, family, port, address, the latter two combined with the magic
    /// cookie and, for IPv6, the transaction id (RFC 8489 section 14.2).
    ///
    /// # Errors
    /// [`AttributeError::WrongLength`] or [`AttributeError::UnknownFamily`].
    pub fn xor_address(&self, transaction_id: TransactionId) -> Result<SocketAddr, AttributeError> {
        let [_, family, port_high, port_low, address @ ..] = self.value else { return Err(self.wrong_length()) };
        let port = u16::from_be_bytes([*port_high, *port_low]) ^ port_mask();
        let ip: IpAddr = match *family {
            FAMILY_IPV4 => {
                let masked: [u8; 4] = address.try_into().map_err(|_| self.wrong_length())?;
                Ipv4Addr::from_bits(u32::from_be_bytes(masked) ^ MAGIC_COOKIE).into()
            }
            FAMILY_IPV6 => {
                let masked: [u8; 16] = address.try_into().map_err(|_| self.wrong_length())?;
                Ipv6Addr::from_bits(u128::from_be_bytes(masked) ^ ipv6_mask(transaction_id)).into()
            }
            family => return Err(AttributeError::UnknownFamily { family }),
        };
        Ok(SocketAddr::new(ip, port))
    }

    /// Reads the value as text of at most [`TEXT_BYTES_MAX`] bytes.
    ///
    /// # Errors
    /// [`AttributeError::WrongLength`] or [`AttributeError::NotUtf8`].
    pub fn text(&self) -> Result<&'a str, AttributeError> {
        self.text_from(self.value)
    }

    fn text_from(&self, bytes: &'a [u8]) -> Result<&'a str, AttributeError> {
        if bytes.len() > TEXT_BYTES_MAX {
            return Err(self.wrong_length());
        }
        std::str::from_utf8(bytes).map_err(|_| AttributeError::NotUtf8 { kind: self.kind })
    }

    /// Reads the value as an ERROR-CODE.
    ///
    /// # Errors
    /// [`AttributeError`] for a length, a code or a text that can't be.
    pub fn error_code(&self) -> Result<ErrorCode<'a>, AttributeError> {
        let [_, _, class, number, reason @ ..] = self.value else { return Err(self.wrong_length()) };
        let code = u16::from(class & 0x07) * 100 + u16::from(*number);
        if !(300..=699).contains(&code) || *number > 99 {
            return Err(AttributeError::ErrorCodeOutOfRange { code });
        }
        Ok(ErrorCode { code, reason: self.text_from(reason)? })
    }

    /// Reads the value as a list of types, as UNKNOWN-ATTRIBUTES has (RFC 8489 section 14.9).
    ///
    /// # Errors
    /// [`AttributeError::WrongLength`] for half a type.
    pub fn types(&self) -> Result<impl Iterator<Item = AttributeType> + 'a, AttributeError> {
        let (pairs, rest) = self.value.as_chunks::<2>();
        if !rest.is_empty() {
            return Err(self.wrong_length());
        }
        Ok(pairs.iter().map(|pair| AttributeType(u16::from_be_bytes(*pair))))
    }
}

impl MessageBuilder<'_> {
    /// Adds XOR-MAPPED-ADDRESS (RFC 8489 section 14.2).
    ///
    /// # Errors
    /// [`EncodeError::BufferFull`].
    pub fn xor_mapped_address(self, address: SocketAddr) -> Result<Self, EncodeError> {
        self.xor_address(AttributeType::XOR_MAPPED_ADDRESS, address)
    }

    /// Adds a masked address under any type that is written like XOR-MAPPED-ADDRESS.
    ///
    /// # Errors
    /// [`EncodeError::BufferFull`].
    pub fn xor_address(self, kind: AttributeType, address: SocketAddr) -> Result<Self, EncodeError> {
        let port = (address.port() ^ port_mask()).to_be_bytes();
        match address.ip() {
            IpAddr::V4(ip) => {
                let mut value = [0, FAMILY_IPV4, port[0], port[1], 0, 0, 0, 0];
                value[4..].copy_from_slice(&(ip.to_bits() ^ MAGIC_COOKIE).to_be_bytes());
                self.attribute(kind, &value)
            }
            IpAddr::V6(ip) => {
                let mut value = [0; 20];
                value[..4].copy_from_slice(&[0, FAMILY_IPV6, port[0], port[1]]);
                value[4..].copy_from_slice(&(ip.to_bits() ^ ipv6_mask(self.transaction_id)).to_be_bytes());
                self.attribute(kind, &value)
            }
        }
    }

    /// Adds ALTERNATE-SERVER, whose address isn't masked (RFC 8489 section 14.15).
    ///
    /// # Errors
    /// [`EncodeError::BufferFull`].
    pub fn alternate_server(self, address: SocketAddr) -> Result<Self, EncodeError> {
        let port = address.port().to_be_bytes();
        match address.ip() {
            IpAddr::V4(ip) => {
                let [a, b, c, d] = ip.octets();
                self.attribute(AttributeType::ALTERNATE_SERVER, &[0, FAMILY_IPV4, port[0], port[1], a, b, c, d])
            }
            IpAddr::V6(ip) => {
                let mut value = [0; 20];
                value[..4].copy_from_slice(&[0, FAMILY_IPV6, port[0], port[1]]);
                value[4..].copy_from_slice(&ip.octets());
                self.attribute(AttributeType::ALTERNATE_SERVER, &value)
            }
        }
    }

    /// Adds ADDRESS-ERROR-CODE without a phrase (RFC 8656 section 18.12).
    ///
    /// # Errors
    /// [`EncodeError::BufferFull`].
    pub fn address_error_code(self, is_ipv4: bool, code: u16) -> Result<Self, EncodeError> {
        let family = if is_ipv4 { FAMILY_IPV4 } else { FAMILY_IPV6 };
        let value = [family, 0, (code / 100) as u8, (code % 100) as u8];
        self.attribute(AttributeType::ADDRESS_ERROR_CODE, &value)
    }

    /// Adds SOFTWARE (RFC 8489 section 14.14).
    ///
    /// # Errors
    /// [`EncodeError::ValueTooLong`] beyond [`TEXT_BYTES_WRITTEN_MAX`], [`EncodeError::BufferFull`].
    pub fn software(self, text: &str) -> Result<Self, EncodeError> {
        check_text(AttributeType::SOFTWARE, text)?;
        self.attribute(AttributeType::SOFTWARE, text.as_bytes())
    }

    /// Adds ERROR-CODE (RFC 8489 section 14.8); the reason may be empty.
    ///
    /// # Errors
    /// [`EncodeError::ErrorCodeOutOfRange`], [`EncodeError::ValueTooLong`], [`EncodeError::BufferFull`].
    pub fn error_code(mut self, code: u16, reason: &str) -> Result<Self, EncodeError> {
        check_text(AttributeType::ERROR_CODE, reason)?;
        let out_of_range = EncodeError::ErrorCodeOutOfRange { code };
        let class = u8::try_from(code / 100).ok().filter(|class| (3..=6).contains(class)).ok_or(out_of_range)?;
        let number = u8::try_from(code % 100).map_err(|_| out_of_range)?;
        let value = self.reserve(AttributeType::ERROR_CODE, 4 + reason.len())?;
        value[2..4].copy_from_slice(&[class, number]);
        value[4..].copy_from_slice(reason.as_bytes());
        Ok(self)
    }

    /// Adds UNKNOWN-ATTRIBUTES (RFC 8489 section 14.9).
    ///
    /// # Errors
    /// [`EncodeError::BufferFull`] if the list doesn't fit.
    pub fn unknown_attributes<I>(mut self, types: I) -> Result<Self, EncodeError>
    where
        I: Iterator<Item = AttributeType> + Clone,
    {
        let count = types.clone().count();
        let value = self.reserve(AttributeType::UNKNOWN_ATTRIBUTES, 2 * count)?;
        for (place, kind) in value.as_chunks_mut::<2>().0.iter_mut().zip(types) {
            *place = kind.0.to_be_bytes();
        }
        Ok(self)
    }
}

fn check_text(kind: AttributeType, text: &str) -> Result<(), EncodeError> {
    if text.len() > TEXT_BYTES_WRITTEN_MAX {
        return Err(EncodeError::ValueTooLong { kind, bytes: text.len(), bytes_max: TEXT_BYTES_WRITTEN_MAX });
    }
    Ok(())
}

/// Ports are masked with the upper half of the magic cookie.
const fn port_mask() -> u16 {
    (MAGIC_COOKIE >> 16) as u16
}

/// IPv6 addresses are masked with the magic cookie followed by the transaction id.
fn ipv6_mask(transaction_id: TransactionId) -> u128 {
    let mut mask = [0; 16];
    mask[..4].copy_from_slice(&MAGIC_COOKIE.to_be_bytes());
    mask[4..].copy_from_slice(&transaction_id.0);
    u128::from_be_bytes(mask)
}
