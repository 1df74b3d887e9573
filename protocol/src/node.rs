//! What nodes say about themselves: roles, descriptors, the hello.

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

use crate::directory::Place;
use crate::identity::{Chain, SignedRevocationList};
use crate::key::{AuthorityKey, DeviceKey};
use crate::time::UnixTime;
use crate::wire::{DecodeError, Extensions, FrameKind, Message};

/// Most addresses in a descriptor: QUIC and TCP over IPv4 and IPv6.
pub const DESCRIPTOR_ADDRESSES_MAX: usize = 4;

/// Longest address in another form than IP and port, in bytes.
pub const ADDRESS_BYTES_MAX: usize = 160;

/// Most authorities whose revocation number rides in a hello.
pub const HELLO_REVOCATIONS_MAX: usize = 16;

/// What a node serves, as bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Encode, Decode, Serialize, Deserialize)]
pub struct Roles(pub u16);

impl Roles {
    /// Holds directory records and answers look-ups.
    pub const DIRECTORY: Self = Self(1);
    /// Relays signalling circuits.
    pub const RELAY: Self = Self(1 << 1);
    /// Push gateway.
    pub const GATEWAY: Self = Self(1 << 2);
    /// Enrols users.
    pub const AUTHORITY: Self = Self(1 << 3);
    /// Keeps messages for others.
    pub const MAILBOX: Self = Self(1 << 4);
    /// Passes on sealed presence.
    pub const CARRIER: Self = Self(1 << 5);
    /// Relays media (TURN).
    pub const MEDIA_RELAY: Self = Self(1 << 6);

    /// Both sets together.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// True if all of `other` is in `self`.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// Transport of an IP address in a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub enum Transport {
    /// QUIC version 1 over UDP.
    Quic,
    /// TCP with Noise and Yamux.
    Tcp,
}

/// Where a node listens, in few bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub enum Address {
    /// IPv4 address and port.
    V4 {
        /// Address.
        ip: [u8; 4],
        /// Port.
        port: u16,
        /// How to speak there.
        transport: Transport,
    },
    /// IPv6 address and port.
    V6 {
        /// Address.
        ip: [u8; 16],
        /// Port.
        port: u16,
        /// How to speak there.
        transport: Transport,
    },
    /// Any other multiaddress, in its binary form; at most [`ADDRESS_BYTES_MAX`] bytes.
    Other(Vec<u8>),
}

impl Address {
    /// Checks the length of a multiaddress.
    ///
    /// # Errors
    /// [`DecodeError::Invalid`] if it is too long.
    pub fn check(&self) -> Result<(), DecodeError> {
        match self {
            Self::Other(bytes) if bytes.len() > ADDRESS_BYTES_MAX => {
                Err(DecodeError::invalid("address", format!("{} bytes, at most {ADDRESS_BYTES_MAX}", bytes.len())))
            }
            _ => Ok(()),
        }
    }
}

/// Load of a server, coarse on purpose: it is compared, not computed with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct LoadClass(pub u8);

/// A node as routing tables know it; about 80 bytes with one address.
///
/// Nothing in it is signed. A node's own word about itself comes over a connection that its device key secures; the place is proved by the
/// chain in its hello. What a third node says is a hint until that hello.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct Descriptor {
    /// The node's device key.
    pub device: DeviceKey,
    /// Where it stands in the directory.
    pub place: Place,
    /// What it serves.
    pub roles: Roles,
    /// How busy it is.
    pub load: LoadClass,
    /// Where it listens, best first, at most [`DESCRIPTOR_ADDRESSES_MAX`].
    pub addresses: Vec<Address>,
}

impl Descriptor {
    /// Checks counts and lengths after decoding.
    ///
    /// # Errors
    /// [`DecodeError::Invalid`] for the field out of range.
    pub fn check(&self) -> Result<(), DecodeError> {
        if self.addresses.len() > DESCRIPTOR_ADDRESSES_MAX {
            return Err(DecodeError::invalid(
                "addresses",
                format!("{}, at most {DESCRIPTOR_ADDRESSES_MAX}", self.addresses.len()),
            ));
        }
        self.addresses.iter().try_for_each(Address::check)
    }
}

/// The number of the newest revocation list a node has of an authority.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct RevocationNumber {
    /// Whose list.
    pub authority: AuthorityKey,
    /// Its number; 0 if none is known.
    pub number: u64,
}

/// First frame on a stream in either direction, sent together with the first request or answer, so it costs no round trip.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Hello {
    /// Version of the overlay the sender speaks; 1.
    pub version: u16,
    /// Bits of optional features.
    pub features: u64,
    /// Who the sender is; nobody yet if `None` (before enrolment).
    pub chain: Option<Chain>,
    /// What the sender serves; `None` for clients.
    pub descriptor: Option<Descriptor>,
    /// The sender's clock, uncorrected.
    pub clock: UnixTime,
    /// Newest revocation lists known, at most [`HELLO_REVOCATIONS_MAX`].
    pub revocations: Vec<RevocationNumber>,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Message for Hello {
    const KIND: FrameKind = FrameKind(FrameKind::NOTICE | 0x0001);
    const LIMIT: usize = 8 * 1024;

    fn check(&self) -> Result<(), DecodeError> {
        Self::check(self)
    }
}

impl Hello {
    /// The overlay version this code speaks.
    pub const VERSION: u16 = 1;

    /// Checks counts and lengths after decoding.
    ///
    /// # Errors
    /// [`DecodeError::Invalid`] for the field out of range.
    pub fn check(&self) -> Result<(), DecodeError> {
        if self.revocations.len() > HELLO_REVOCATIONS_MAX {
            return Err(DecodeError::invalid(
                "revocations",
                format!("{}, at most {HELLO_REVOCATIONS_MAX}", self.revocations.len()),
            ));
        }
        self.descriptor.as_ref().map_or(Ok(()), Descriptor::check)
    }
}

/// "I am leaving": the receiver forgets the sender as a live neighbour at once instead of by time-out.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Goodbye {
    /// Room to grow.
    pub extensions: Extensions,
}

impl Message for Goodbye {
    const KIND: FrameKind = FrameKind(FrameKind::NOTICE | 0x0002);
    const LIMIT: usize = 256;
}

/// A revocation list, sent unasked to a peer whose hello shows an older number, and passed on when it was news.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct RevocationNotice {
    /// The list.
    pub list: SignedRevocationList,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Message for RevocationNotice {
    const KIND: FrameKind = FrameKind(FrameKind::NOTICE | 0x0003);
    const LIMIT: usize = crate::identity::REVOCATION_LIST_BYTES_MAX + 1_024;
}
