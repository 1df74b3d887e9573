//! Writing responses.

use std::net::SocketAddr;

use super::{UNKNOWN_ATTRIBUTES_MAX, unknown_attributes};
use crate::auth::Key;
use crate::auth::nonce::NONCE_BYTES;
use crate::metrics::Response;
use crate::stun::attribute::AttributeType;
use crate::stun::integrity::Check;
use crate::stun::{Class, EncodeError, Message, MessageBuilder};

/// Longest realm, so that a challenge fits one packet; RFC 8489 allows 763 bytes.
pub const REALM_BYTES_MAX: usize = 128;

/// Longest response: header 20, ERROR-CODE with a phrase 8 + 64, REALM 4 + 128, NONCE 36, PASSWORD-ALGORITHMS 12, or UNKNOWN-ATTRIBUTES
/// 4 + 2 x 64; integrity 36, FINGERPRINT 8. A success of Allocate has 20 + 24 x 3 + 8 + 12 + 44.
pub const RESPONSE_BYTES_MAX: usize = 20 + 72 + 4 + REALM_BYTES_MAX + 36 + 12 + 4 + 2 * UNKNOWN_ATTRIBUTES_MAX + 36 + 8;

/// Value of PASSWORD-ALGORITHMS: SHA-256, then MD5, both without parameters (RFC 8489 section 14.11).
pub(super) const PASSWORD_ALGORITHMS: [u8; 8] = [0, 2, 0, 0, 0, 1, 0, 0];

/// Which attribute signs a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Integrity {
    Sha1,
    Sha256,
}

impl Integrity {
    pub(super) fn check(self, request: Message<'_>, key: &Key) -> bool {
        let check = match self {
            Self::Sha1 => request.check_integrity_sha1(key.as_bytes()),
            Self::Sha256 => request.check_integrity_sha256(key.as_bytes()),
        };
        check == Check::Valid
    }
}

/// What a client needs in order to sign its request.
pub(super) struct Challenge<'a> {
    pub(super) realm: &'a str,
    pub(super) nonce: [u8; NONCE_BYTES],
}

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(super) code: u16,
    /// Says which limit was met. Left out for those who may be anybody.
    pub(super) phrase: &'static str,
    pub(super) response: Response,
    pub(super) is_challenge: bool,
    /// List the unknown attributes; whether DONT-FRAGMENT is a known one.
    pub(super) unknown: Option<bool>,
    pub(super) alternate: Option<SocketAddr>,
}

impl Refusal {
    const fn new(code: u16, phrase: &'static str, response: Response) -> Self {
        Self { code, phrase, response, is_challenge: false, unknown: None, alternate: None }
    }

    pub(super) const BAD_REQUEST: Self = Self::new(400, "", Response::BadRequest);
    pub(super) const UNAUTHENTICATED: Self = Self { is_challenge: true, ..Self::new(401, "", Response::Unauthenticated) };
    pub(super) const FORBIDDEN: Self = Self::new(403, "Forbidden peer address", Response::Forbidden);
    /// STUN only: said at once, so that a client turns elsewhere.
    pub(super) const NO_TURN: Self = Self::new(403, "", Response::Forbidden);
    pub(super) const MISMATCH: Self = Self::new(437, "Allocation Mismatch", Response::AllocationMismatch);
    pub(super) const STALE_NONCE: Self = Self { is_challenge: true, ..Self::new(438, "", Response::StaleNonce) };
    pub(super) const FAMILY: Self = Self::new(440, "Address Family not Supported", Response::FamilyNotSupported);
    pub(super) const WRONG_CREDENTIALS: Self = Self::new(441, "", Response::WrongCredentials);
    pub(super) const TRANSPORT: Self = Self::new(442, "Unsupported Transport Protocol", Response::UnsupportedTransport);
    pub(super) const PEER_FAMILY: Self = Self::new(443, "Peer Address Family Mismatch", Response::PeerFamilyMismatch);
    pub(super) const USER_ALLOCATIONS: Self = Self::new(486, "Allocations of this user", Response::QuotaReached);
    pub(super) const ADDRESS_ALLOCATIONS: Self = Self::new(486, "Allocations of this client address", Response::QuotaReached);
    pub(super) const TOTAL_ALLOCATIONS: Self = Self::new(508, "Allocations of this relay", Response::InsufficientCapacity);
    pub(super) const PORTS: Self = Self::new(508, "No relayed port is free", Response::InsufficientCapacity);
    pub(super) const RESERVATION: Self = Self::new(508, "No such reservation", Response::InsufficientCapacity);
    pub(super) const DRAINING: Self = Self::new(508, "Relay is shutting down", Response::InsufficientCapacity);
    pub(super) const PERMISSIONS: Self = Self::new(508, "Permissions of this allocation", Response::InsufficientCapacity);
    pub(super) const CHANNELS: Self = Self::new(508, "Channels of this allocation", Response::InsufficientCapacity);

    pub(super) const fn unknown(knows_dont_fragment: bool) -> Self {
        Self { unknown: Some(knows_dont_fragment), ..Self::new(420, "", Response::UnknownAttribute) }
    }

    pub(super) const fn alternate(server: SocketAddr) -> Self {
        Self { alternate: Some(server), ..Self::new(300, "Try Alternate", Response::TryAlternate) }
    }
}

/// A response in the making: exactly one of [`refuse`](Self::refuse) and [`succeed`](Self::succeed) is called.
pub(super) struct Reply<'r> {
    request: Message<'r>,
    has_fingerprint: bool,
    signature: Option<(Integrity, Key)>,
    buffer: [u8; RESPONSE_BYTES_MAX],
    length: usize,
    response: Response,
}

impl<'r> Reply<'r> {
    pub(super) fn new(request: Message<'r>, has_fingerprint: bool) -> Self {
        let buffer = [0; RESPONSE_BYTES_MAX];
        Self { request, has_fingerprint, signature: None, buffer, length: 0, response: Response::ServerError }
    }

    /// The response will be signed as the request was.
    pub(super) fn sign(&mut self, integrity: Integrity, key: &Key) {
        self.signature = Some((integrity, key.clone()));
    }

    pub(super) fn refuse(&mut self, refusal: &Refusal, challenge: Option<Challenge<'_>>) {
        let request = self.request;
        self.write(refusal.response, Class::Error, |mut message| {
            message = message.error_code(refusal.code, refusal.phrase)?;
            if let Some(challenge) = challenge {
                message = message
                    .attribute(AttributeType::REALM, challenge.realm.as_bytes())?
                    .attribute(AttributeType::NONCE, &challenge.nonce)?
                    .attribute(AttributeType::PASSWORD_ALGORITHMS, &PASSWORD_ALGORITHMS)?;
            }
            if let Some(knows_dont_fragment) = refusal.unknown {
                message = message.unknown_attributes(unknown_attributes(request, knows_dont_fragment))?;
            }
            if let Some(server) = refusal.alternate {
                message = message.alternate_server(server)?;
            }
            Ok(message)
        });
    }

    pub(super) fn succeed<F>(&mut self, response: Response, fill: F)
    where
        F: for<'m> FnOnce(MessageBuilder<'m>) -> Result<MessageBuilder<'m>, EncodeError>,
    {
        self.write(response, Class::Success, fill);
    }

    fn write<F>(&mut self, response: Response, class: Class, fill: F)
    where
        F: for<'m> FnOnce(MessageBuilder<'m>) -> Result<MessageBuilder<'m>, EncodeError>,
    {
        let request = self.request;
        let begun = MessageBuilder::begin(&mut self.buffer, class, request.method(), request.transaction_id());
        let signed = begun.and_then(fill).and_then(|message| match &self.signature {
            None => Ok(message),
            Some((Integrity::Sha1, key)) => message.message_integrity_sha1(key.as_bytes()),
            Some((Integrity::Sha256, key)) => message.message_integrity_sha256(key.as_bytes()),
        });
        let whole = signed.and_then(|message| if self.has_fingerprint { message.fingerprint() } else { Ok(message) });
        // Every response fits: lengths are those of `RESPONSE_BYTES_MAX`, and texts are ours.
        self.length = whole.expect("RESPONSE_BYTES_MAX holds every response").finish();
        self.response = response;
    }

    pub(super) fn finish(&self) -> (Response, &[u8]) {
        (self.response, &self.buffer[..self.length])
    }
}
