//! What the relay does with a datagram: request in, decision and response out. No socket, no clock, no allocation.
//!
//! [`Handler::handle_datagram`] answers, or says why not:
//!
//! | datagram | what happens |
//! | --- | --- |
//! | Binding request | success with XOR-MAPPED-ADDRESS (RFC 8489 section 6.3.1) |
//! | Binding request with attributes that have to be understood and aren't | error 420 with their list (section 6.3.1) |
//! | TURN request (Allocate, Refresh, CreatePermission, ChannelBind) | error 400: not served, so the client needn't wait for a timeout |
//! | other request, indication, response, wrong FINGERPRINT, no STUN | nothing (section 6.3) |
//! | anything that would be answered, beyond the source's share | nothing |
//!
//! Requests aren't authenticated, so their source may be forged and a response may go to somebody who asked for nothing.
//! Two things keep that harmless: a response has at most [`AMPLIFICATION_MAX`] times the bytes of its request (1.42 times
//! with IP and UDP headers counted: error 400 over IPv4, 68 / 48), and each source address has a share ([`SourceRates`]). For the same reason responses
//! carry neither SOFTWARE nor, with error 420, a reason phrase. FINGERPRINT is in a response if it was in the request.
//!
//! Error 420 lists at most [`UNKNOWN_ATTRIBUTES_MAX`] types; RFC 8489 knows no such limit.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use crate::quota::SourceRates;
use crate::stun::attribute::AttributeType;
use crate::stun::integrity::Check;
use crate::stun::{Class, EncodeError, Message, MessageBuilder, Method};

/// Bytes of a response for each byte of its request, at most. The worst case is the 44-byte answer over IPv6 to a
/// bare request of 20 bytes: 44 / 20 = 2.2.
pub const AMPLIFICATION_MAX: f64 = 2.2;

/// Types listed in one error 420. A client that sends more unknown attributes learns of the first ones.
pub const UNKNOWN_ATTRIBUTES_MAX: usize = 64;

/// Longest response: header 20 + ERROR-CODE 8 + UNKNOWN-ATTRIBUTES 4 + 64 x 2 + FINGERPRINT 8.
pub const RESPONSE_BYTES_MAX: usize = 20 + 8 + 4 + 2 * UNKNOWN_ATTRIBUTES_MAX + 8;

const BAD_REQUEST: u16 = 400;
const UNKNOWN_ATTRIBUTE: u16 = 420;

/// What became of a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Decision {
    /// The first `bytes` of the response buffer go back to the source, from the address the datagram came to.
    Respond {
        /// Length of the response.
        bytes: usize,
        /// What kind of response it is.
        response: Response,
    },
    /// Nothing goes back.
    Ignore(IgnoreReason),
}

/// Kinds of response, for counting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Response {
    /// Binding success.
    Binding,
    /// Error 400: a TURN request.
    BadRequest,
    /// Error 420.
    UnknownAttribute,
}

/// Why a datagram gets no response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IgnoreReason {
    /// Not one whole STUN message.
    NotStun,
    /// FINGERPRINT is wrong.
    WrongFingerprint,
    /// An indication, which wants no response.
    Indication,
    /// A response: the relay asks nobody anything.
    UnexpectedResponse,
    /// A request for something neither STUN nor TURN has.
    UnknownMethod,
    /// The source has used its share.
    RateLimited,
    /// Nobody can be answered at the source: port 0, no address, a group of machines.
    UnusableSource,
    /// The caller's buffer is too small: give [`RESPONSE_BYTES_MAX`] bytes.
    NoRoom,
}

/// Decides about datagrams. One for each socket.
#[derive(Debug)]
pub struct Handler {
    rates: SourceRates,
}

impl Handler {
    /// A handler that answers each source as often as `rates` allow.
    #[must_use]
    pub fn new(rates: SourceRates) -> Self {
        Self { rates }
    }

    /// Decides about one datagram that came from `source`. A response is written to the start of `response`, which should have
    /// [`RESPONSE_BYTES_MAX`] bytes.
    pub fn handle_datagram(&mut self, packet: &[u8], source: SocketAddr, now: Instant, response: &mut [u8]) -> Decision {
        let request = match acceptable_request(packet, source) {
            Ok(request) => request,
            Err(reason) => return Decision::Ignore(reason),
        };
        // Counted last, so that what isn't answered uses up nobody's share.
        if !self.rates.try_take(source.ip(), now) {
            return Decision::Ignore(IgnoreReason::RateLimited);
        }
        match respond(request, source, response) {
            Ok((bytes, response)) => Decision::Respond { bytes, response },
            Err(_) => Decision::Ignore(IgnoreReason::NoRoom),
        }
    }
}

/// The checks of RFC 8489 section 6.3, cheapest first.
fn acceptable_request(packet: &[u8], source: SocketAddr) -> Result<Message<'_>, IgnoreReason> {
    let message = Message::parse(packet).map_err(|_| IgnoreReason::NotStun)?;
    match message.class() {
        Class::Request => {}
        Class::Indication => return Err(IgnoreReason::Indication),
        Class::Success | Class::Error => return Err(IgnoreReason::UnexpectedResponse),
    }
    if message.method() != Method::BINDING && !is_turn(message.method()) {
        return Err(IgnoreReason::UnknownMethod);
    }
    if !is_answerable(source) {
        return Err(IgnoreReason::UnusableSource);
    }
    if message.check_fingerprint() == Check::Invalid {
        return Err(IgnoreReason::WrongFingerprint);
    }
    Ok(message)
}

fn is_turn(method: Method) -> bool {
    matches!(method, Method::ALLOCATE | Method::REFRESH | Method::CREATE_PERMISSION | Method::CHANNEL_BIND)
}

fn is_answerable(source: SocketAddr) -> bool {
    let ip = source.ip().to_canonical();
    let is_broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
    source.port() != 0 && !ip.is_unspecified() && !ip.is_multicast() && !is_broadcast
}

fn respond(request: Message<'_>, source: SocketAddr, buffer: &mut [u8]) -> Result<(usize, Response), EncodeError> {
    if is_turn(request.method()) {
        let message = begin(request, Class::Error, buffer)?.error_code(BAD_REQUEST, "Bad Request")?;
        return Ok((finish(request, message)?, Response::BadRequest));
    }
    let unknown = unknown_attributes(request);
    if unknown.clone().next().is_some() {
        let message = begin(request, Class::Error, buffer)?.error_code(UNKNOWN_ATTRIBUTE, "")?.unknown_attributes(unknown)?;
        return Ok((finish(request, message)?, Response::UnknownAttribute));
    }
    // A socket of both families gives IPv4 sources as mapped IPv6 addresses; the client wants to know the IPv4 one.
    let mapped = SocketAddr::new(source.ip().to_canonical(), source.port());
    let message = begin(request, Class::Success, buffer)?.xor_mapped_address(mapped)?;
    Ok((finish(request, message)?, Response::Binding))
}

fn begin<'b>(request: Message<'_>, class: Class, buffer: &'b mut [u8]) -> Result<MessageBuilder<'b>, EncodeError> {
    MessageBuilder::begin(buffer, class, request.method(), request.transaction_id())
}

fn finish(request: Message<'_>, message: MessageBuilder<'_>) -> Result<usize, EncodeError> {
    match request.check_fingerprint() {
        Check::Absent => Ok(message.finish()),
        Check::Valid | Check::Invalid => Ok(message.fingerprint()?.finish()),
    }
}

fn unknown_attributes(request: Message<'_>) -> impl Iterator<Item = AttributeType> + Clone {
    request
        .attributes()
        .map(|attribute| attribute.kind)
        .filter(|kind| kind.is_comprehension_required() && !kind.is_understood())
        .take(UNKNOWN_ATTRIBUTES_MAX)
}

#[cfg(test)]
mod tests;
