//! Media relays: who may use one, and with what credentials.
//!
//! 1. A device asks a node with the role [`Roles::MEDIA_RELAY`](crate::node::Roles::MEDIA_RELAY): [`RelayRequest`], on its stream, under the
//!    certificate that its hello has shown.
//! 2. The relay answers with [`RelayGrant`]: where it serves TURN (RFC 8656), and time-limited credentials that name no user.
//! 3. The device uses them for its calls, and asks again before they end. A call that runs goes on beyond.
//! 4. What TURN has no words for the relay tells by [`RelayNotice`]: that it loses packets because a quota is used up, and which; that it is leaving.
//!
//! A relay is chosen by its nearness, and a second one kept. The relay sees addresses, sizes and times of the packets it carries, never
//! what is in them: media is encrypted between the two ends.

use bincode::{Decode, Encode};

use crate::redact::Redacted;
use crate::time::UnixTime;
use crate::wire::{self, DecodeError, Extensions, FrameKind, Message};

/// Most addresses of one relay: two of each family.
pub const MEDIA_ADDRESSES_MAX: usize = 4;

/// Extension of a [`RelayGrant`]: TCP addresses at which the relay serves too, `Vec<MediaAddress>`, at most [`MEDIA_ADDRESSES_MAX`].
const TCP_ADDRESSES_EXTENSION: u16 = 0x0001;

/// Most bytes of that extension: a count, and addresses of at most 20 bytes.
const TCP_ADDRESSES_BYTES_MAX: usize = 96;

/// Extension of a [`RelayGrant`]: where the relay serves by TLS, [`MediaTls`].
const TLS_EXTENSION: u16 = 0x0002;

/// Most bytes of that extension: addresses, and a hash.
const TLS_BYTES_MAX: usize = TCP_ADDRESSES_BYTES_MAX + 32;

/// Longest user name and password of a grant, in bytes.
pub const CREDENTIAL_BYTES_MAX: usize = 128;

/// An address at which a relay serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub enum MediaAddress {
    /// IPv4 address and port.
    V4([u8; 4], u16),
    /// IPv6 address and port.
    V6([u8; 16], u16),
}

/// Where a relay serves by TLS, for networks that let nothing else through.
///
/// No authority vouches for a home's relay, and none needs to: the relay itself says on its authenticated stream which certificate it shows.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct MediaTls {
    /// The addresses, at least one, at most [`MEDIA_ADDRESSES_MAX`].
    pub addresses: Vec<MediaAddress>,
    /// SHA-256 of the certificate that it shows there, as it goes over the wire.
    pub certificate: [u8; 32],
}

/// "May I use your relay for my calls?"
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct RelayRequest {
    /// Room to grow.
    pub extensions: Extensions,
}

impl Message for RelayRequest {
    const KIND: FrameKind = FrameKind(0x0060);
    const LIMIT: usize = 256;
}

/// Answer to [`RelayRequest`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct RelayGrant {
    /// What the relay decided.
    pub status: RelayStatus,
    /// Room to grow.
    pub extensions: Extensions,
}

impl RelayGrant {
    /// Names TCP addresses, for those whom UDP doesn't get out. At most [`MEDIA_ADDRESSES_MAX`] are taken.
    #[must_use]
    pub fn with_tcp(mut self, addresses: &[MediaAddress]) -> Self {
        let addresses: Vec<MediaAddress> = addresses.iter().copied().take(MEDIA_ADDRESSES_MAX).collect();
        if !addresses.is_empty() {
            self.extensions = self.extensions.with(TCP_ADDRESSES_EXTENSION, wire::encode(&addresses));
        }
        self
    }

    /// Names TLS addresses. Of too many the first [`MEDIA_ADDRESSES_MAX`] are taken.
    #[must_use]
    pub fn with_tls(mut self, mut tls: MediaTls) -> Self {
        tls.addresses.truncate(MEDIA_ADDRESSES_MAX);
        if !tls.addresses.is_empty() {
            self.extensions = self.extensions.with(TLS_EXTENSION, wire::encode(&tls));
        }
        self
    }

    /// Where the relay serves by TLS, if it names that, and not too many addresses.
    #[must_use]
    pub fn tls(&self) -> Option<MediaTls> {
        let tls = wire::decode::<MediaTls>(self.extensions.find(TLS_EXTENSION)?, TLS_BYTES_MAX).ok()?;
        (1..=MEDIA_ADDRESSES_MAX).contains(&tls.addresses.len()).then_some(tls)
    }

    /// The relay's TCP addresses; none if it names none, or too many.
    #[must_use]
    pub fn tcp_addresses(&self) -> Vec<MediaAddress> {
        let addresses = self.extensions.find(TCP_ADDRESSES_EXTENSION);
        let addresses = addresses.and_then(|bytes| wire::decode::<Vec<MediaAddress>>(bytes, TCP_ADDRESSES_BYTES_MAX).ok());
        addresses.filter(|addresses| addresses.len() <= MEDIA_ADDRESSES_MAX).unwrap_or_default()
    }
}

impl Message for RelayGrant {
    const KIND: FrameKind = FrameKind(FrameKind::ANSWER | RelayRequest::KIND.0);
    const LIMIT: usize = 1_024;

    fn check(&self) -> Result<(), DecodeError> {
        match &self.status {
            RelayStatus::Granted(credentials) => credentials.check(),
            RelayStatus::Refused(_) => Ok(()),
        }
    }
}

/// What a relay decided.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum RelayStatus {
    /// With these credentials.
    Granted(RelayCredentials),
    /// No.
    Refused(RelayReason),
}

/// What opens a relay.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
pub struct RelayCredentials {
    /// Where it serves, the preferred one first; at least one, at most [`MEDIA_ADDRESSES_MAX`].
    pub addresses: Vec<MediaAddress>,
    /// TURN user name.
    pub username: String,
    /// TURN password.
    pub password: String,
    /// Until when new allocations may be made with them.
    pub not_after: UnixTime,
}

impl std::fmt::Debug for RelayCredentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RelayCredentials")
            .field("addresses", &self.addresses)
            .field("username", &self.username)
            .field("password", &Redacted(()))
            .field("not_after", &self.not_after)
            .finish()
    }
}

impl RelayCredentials {
    fn check(&self) -> Result<(), DecodeError> {
        if self.addresses.is_empty() || self.addresses.len() > MEDIA_ADDRESSES_MAX {
            let count = self.addresses.len();
            return Err(DecodeError::invalid("addresses", format!("{count}, at least 1 and at most {MEDIA_ADDRESSES_MAX}")));
        }
        for (field, text) in [("username", &self.username), ("password", &self.password)] {
            // RFC 8265's full preparation isn't needed of what a machine made: printable ASCII it is.
            let is_plain = text.bytes().all(|byte| byte.is_ascii_graphic());
            if text.is_empty() || text.len() > CREDENTIAL_BYTES_MAX || !is_plain {
                return Err(DecodeError::invalid(field, format!("1 to {CREDENTIAL_BYTES_MAX} printable characters")));
            }
        }
        Ok(())
    }
}

/// "Something has changed for what I carry for you": a notice, nobody answers.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct RelayNotice {
    /// What: [`RelayReason::LEAVING`], or the quota for which packets are dropped.
    pub reason: RelayReason,
    /// The user's packets dropped for it since the last notice.
    pub packets: u64,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Message for RelayNotice {
    const KIND: FrameKind = FrameKind(FrameKind::NOTICE | 0x0061);
    const LIMIT: usize = 256;
}

/// Why a relay doesn't serve, or loses packets. Unknown numbers are read as such.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct RelayReason(pub u16);

impl RelayReason {
    /// It relays no media.
    pub const NOT_SERVED: Self = Self(1);
    /// The asker has shown no certificate that the relay believes.
    pub const NOT_CERTIFIED: Self = Self(2);
    /// Its owner relays for others only.
    pub const NOT_ALLOWED: Self = Self(3);
    /// Too many requests of this user.
    pub const RATE: Self = Self(4);
    /// It is shutting down.
    pub const LEAVING: Self = Self(5);
    /// The user's bytes a second are used up.
    pub const USER_BANDWIDTH: Self = Self(6);
    /// The user's packets a second are used up.
    pub const USER_PACKETS: Self = Self(7);
    /// The bytes a second of the client's address are used up.
    pub const ADDRESS_BANDWIDTH: Self = Self(8);
    /// The packets a second of the client's address are used up.
    pub const ADDRESS_PACKETS: Self = Self(9);
    /// The user's share of the relay's bytes a second is used up.
    pub const TOTAL_BANDWIDTH: Self = Self(10);
    /// The user's share of the relay's packets a second is used up.
    pub const TOTAL_PACKETS: Self = Self(11);
}

impl std::fmt::Display for RelayReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match *self {
            Self::NOT_SERVED => f.write_str("it relays no media"),
            Self::NOT_CERTIFIED => f.write_str("our certificate isn't believed there"),
            Self::NOT_ALLOWED => f.write_str("its owner relays for others only"),
            Self::RATE => f.write_str("too many requests"),
            Self::LEAVING => f.write_str("it is shutting down"),
            Self::USER_BANDWIDTH => f.write_str("bandwidth of this user"),
            Self::USER_PACKETS => f.write_str("packet rate of this user"),
            Self::ADDRESS_BANDWIDTH => f.write_str("bandwidth of this client address"),
            Self::ADDRESS_PACKETS => f.write_str("packet rate of this client address"),
            Self::TOTAL_BANDWIDTH => f.write_str("bandwidth of this relay"),
            Self::TOTAL_PACKETS => f.write_str("packet rate of this relay"),
            Self(number) => write!(f, "reason {number}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(change: impl FnOnce(&mut RelayCredentials)) -> RelayGrant {
        let mut credentials = RelayCredentials {
            addresses: vec![MediaAddress::V4([192, 0, 2, 1], 3_478)],
            username: "1800000000:0011223344556677".into(),
            password: "cGFzc3dvcmQ=".into(),
            not_after: UnixTime(1_800_000_000),
        };
        change(&mut credentials);
        RelayGrant { status: RelayStatus::Granted(credentials), extensions: Extensions::none() }
    }

    #[test]
    fn tcp_addresses_are_named_beside_and_bounded() {
        assert_eq!(grant(|_| {}).tcp_addresses(), []);
        let addresses = [MediaAddress::V4([192, 0, 2, 1], 3_478), MediaAddress::V6([1; 16], 3_478)];
        let named = grant(|_| {}).with_tcp(&addresses);
        let read = wire::decode::<RelayGrant>(&wire::encode(&named), RelayGrant::LIMIT).unwrap();
        assert_eq!(read.tcp_addresses(), addresses);
        let many = vec![MediaAddress::V4([1; 4], 1); MEDIA_ADDRESSES_MAX + 1];
        assert_eq!(grant(|_| {}).with_tcp(&many).tcp_addresses().len(), MEDIA_ADDRESSES_MAX);
        let mut lying = grant(|_| {});
        lying.extensions = lying.extensions.with(TCP_ADDRESSES_EXTENSION, wire::encode(&many));
        assert_eq!(lying.tcp_addresses(), []);
    }

    #[test]
    fn where_tls_is_served_is_named_beside_and_bounded() {
        assert_eq!(grant(|_| {}).tls(), None);
        let tls = MediaTls { addresses: vec![MediaAddress::V6([1; 16], 443); MEDIA_ADDRESSES_MAX], certificate: [9; 32] };
        let named = grant(|_| {}).with_tcp(&tls.addresses).with_tls(tls.clone());
        let read = wire::decode::<RelayGrant>(&wire::encode(&named), RelayGrant::LIMIT).unwrap();
        assert_eq!((read.tls(), read.tcp_addresses()), (Some(tls.clone()), tls.addresses.clone()));
        let many = MediaTls { addresses: vec![MediaAddress::V4([1; 4], 1); MEDIA_ADDRESSES_MAX + 1], ..tls.clone() };
        assert_eq!(grant(|_| {}).with_tls(many.clone()).tls().map(|tls| tls.addresses.len()), Some(MEDIA_ADDRESSES_MAX));
        for lie in [many, MediaTls { addresses: Vec::new(), ..tls }] {
            let mut lying = grant(|_| {});
            lying.extensions = lying.extensions.with(TLS_EXTENSION, wire::encode(&lie));
            assert_eq!(lying.tls(), None);
        }
    }

    #[test]
    fn grants_are_bounded() {
        assert!(grant(|_| {}).check().is_ok());
        assert!(grant(|grant| grant.addresses.clear()).check().is_err());
        assert!(grant(|grant| grant.addresses = vec![MediaAddress::V4([1; 4], 1); MEDIA_ADDRESSES_MAX + 1]).check().is_err());
        assert!(grant(|grant| grant.username.clear()).check().is_err());
        assert!(grant(|grant| grant.password = "x".repeat(CREDENTIAL_BYTES_MAX + 1)).check().is_err());
        assert!(grant(|grant| grant.password = "line\nbreak".into()).check().is_err());
    }

    #[test]
    fn passwords_are_not_printed() {
        let text = format!("{:?}", grant(|_| {}));
        assert!(!text.contains("cGFzc3dvcmQ"), "{text}");
        assert!(wire::encode(&grant(|_| {})).len() < RelayGrant::LIMIT);
    }
}
