//! Session initiation requests on bearers: one codec each, without sockets.
//!
//! What is signed is the same everywhere. Bearers of the WAP world (WSP, SMS, HTTP) carry it as a header beside the content that their own receivers know
//! ([`sia`]); the others carry nothing else. A reader believes only what is signed, and refuses a request whose open part says something else. Decoders are
//! bounded and never panic.

mod datagram;
mod gsm7;
mod http;
mod segments;
pub mod sia;
mod sip;
mod sms;
mod ussd;
mod wsp;

pub use self::http::post as http_post;
pub use self::sip::message as sip_message;
use super::{SessionInitiation, SessionRequest};
use crate::wire::{self, DecodeError, Extensions, Message, Signed};
pub use gsm7::{pack as gsm7_pack, unpack as gsm7_unpack};
pub use segments::{PARTIAL_MAX, PARTIAL_SECS_MAX, Reassembly, SEGMENTS_MAX};

/// Name of the header with the signed request, in base64url.
const SIGNED_HEADER: &str = "X-Halloo-Sir";

/// Longest signed request, with its signature.
const SIGNED_BYTES_MAX: usize = SessionRequest::LIMIT;

/// Why a request can't be put on a bearer, or isn't one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EncapsulationError {
    /// Too large for the bearer.
    #[error("{bytes} bytes, the bearer takes {limit}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// What fits.
        limit: usize,
    },
    /// Not of the bearer's form.
    #[error("not a session request on this bearer: {0}")]
    Form(&'static str),
    /// What is signed isn't a request.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The open part isn't what was signed.
    #[error("the open part says something else than the signed one")]
    Mismatch,
    /// Segments are missing, or don't belong together.
    #[error("segments: {0}")]
    Segments(&'static str),
}

/// How a session initiation request travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Encapsulation {
    /// An overlay stream: the body of a [`SessionRequest`].
    Stream,
    /// HTTP as in WAP's push over the air: a POST request.
    Http,
    /// Short messages: user data with headers for port 2948, concatenated.
    Sms,
    /// USSD strings in GSM's alphabet.
    Ussd,
    /// A connectionless WSP push.
    Wsp,
    /// A datagram with length and checksum.
    Datagram,
    /// SIP: a MESSAGE request.
    Sip,
}

impl Encapsulation {
    /// All there are.
    pub const ALL: [Self; 7] = [Self::Stream, Self::Http, Self::Sms, Self::Ussd, Self::Wsp, Self::Datagram, Self::Sip];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stream => "stream",
            Self::Http => "http",
            Self::Sms => "sms",
            Self::Ussd => "ussd",
            Self::Wsp => "wsp",
            Self::Datagram => "datagram",
            Self::Sip => "sip",
        }
    }

    /// The one with this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.name() == name)
    }

    /// What the bearer is to carry: one message, or several where its messages are short.
    ///
    /// # Errors
    /// [`EncapsulationError::TooLarge`].
    pub fn encode(self, request: &Signed<SessionInitiation>) -> Result<Vec<Vec<u8>>, EncapsulationError> {
        // Numbers the messages that belong together: from the nonce, which is random.
        let reference = request.unverified().nonce.0[0];
        match self {
            Self::Stream => {
                let message = SessionRequest { initiation: request.clone(), extensions: Extensions::none() };
                Ok(vec![wire::encode(&message)])
            }
            Self::Http => Ok(vec![http::encode(request)]),
            Self::Wsp => Ok(vec![wsp::encode(request)]),
            Self::Sip => Ok(vec![sip::encode(request)]),
            Self::Sms => sms::encode(&wsp::encode(request), reference),
            Self::Ussd => ussd::encode(&wire::encode(request), reference),
            Self::Datagram => datagram::encode(&wire::encode(request)).map(|message| vec![message]),
        }
    }

    /// Reads what a bearer has carried, in any order; the signature is still to be verified.
    ///
    /// # Errors
    /// [`EncapsulationError`].
    pub fn decode<B: AsRef<[u8]>>(self, messages: &[B]) -> Result<Signed<SessionInitiation>, EncapsulationError> {
        if matches!(self, Self::Sms | Self::Ussd) {
            let mut reassembly = Reassembly::default();
            for message in messages {
                if let Some(request) = self.take_segment(&mut reassembly, "", message.as_ref(), crate::time::UnixTime(0))? {
                    return Ok(request);
                }
            }
            return Err(EncapsulationError::Segments("some are missing"));
        }
        let [message] = messages else { return Err(EncapsulationError::Segments("one message, not several")) };
        let message = message.as_ref();
        match self {
            Self::Http => http::decode(message),
            Self::Wsp => wsp::decode(message),
            Self::Sip => sip::decode(message),
            Self::Datagram => signed(datagram::decode(message)?),
            _ => {
                let request: SessionRequest = wire::decode(message, SessionRequest::LIMIT)?;
                Ok(request.initiation)
            }
        }
    }

    /// Takes one of several short messages; `from` is who sent it, as the bearer says. The request, once all of it is there.
    ///
    /// # Errors
    /// [`EncapsulationError`]; what was there already stays.
    pub fn take_segment(
        self,
        reassembly: &mut Reassembly,
        from: &str,
        message: &[u8],
        now: crate::time::UnixTime,
    ) -> Result<Option<Signed<SessionInitiation>>, EncapsulationError> {
        match self {
            Self::Sms => reassembly.take(from, sms::decode(message)?, now)?.map(|bytes| wsp::decode(&bytes)).transpose(),
            Self::Ussd => reassembly.take(from, ussd::decode(message)?, now)?.map(|bytes| signed(&bytes)).transpose(),
            _ => self.decode(&[message]).map(Some),
        }
    }
}

fn signed(bytes: &[u8]) -> Result<Signed<SessionInitiation>, EncapsulationError> {
    Ok(wire::decode(bytes, SIGNED_BYTES_MAX)?)
}

/// The signed request as a header's value.
fn header_value(request: &Signed<SessionInitiation>) -> String {
    data_encoding::BASE64URL_NOPAD.encode(&wire::encode(request))
}

fn of_header(value: &[u8]) -> Result<Signed<SessionInitiation>, EncapsulationError> {
    let limit = SIGNED_BYTES_MAX * 4 / 3 + 4;
    if value.len() > limit {
        return Err(EncapsulationError::TooLarge { bytes: value.len(), limit });
    }
    let bytes =
        data_encoding::BASE64URL_NOPAD.decode(value).map_err(|_| EncapsulationError::Form("the signed part isn't base64url"))?;
    signed(&bytes)
}

/// Refuses an open part that isn't what the signed one makes.
fn check_open(request: Signed<SessionInitiation>, content: &[u8]) -> Result<Signed<SessionInitiation>, EncapsulationError> {
    if sia::encode(request.unverified()) == content { Ok(request) } else { Err(EncapsulationError::Mismatch) }
}
