//! The media of a phone's call, bridged to the overlay's: RTP or SRTP on one side, the packets of a call's [`AudioPort`] on the other. The payload goes
//! through as it is, in a codec that both ends have; where they share none, the call is refused with [`MediaRefusal`].
//!
//! A phone calls somebody:
//!
//! ```text
//! phone                 edge (SIP)                                            the call
//! INVITE, offer ------> leg = media.open(); offer = leg.take_offer(sdp)
//!                       DialOptions { passthrough: offer.codecs, .. } ------> dial
//!                       leg.bridge(calls().audio(call_id))        <---------- call_dialing
//!                       leg.next_event(): Agreed(codec)           <---------- answered
//! <--- 200, answer      leg.answer(codec)
//! ```
//!
//! Somebody calls a phone:
//!
//! ```text
//! the call                                      edge (SIP)                                            phone
//! call_incoming ------------------------------> codecs = calls().offered_audio(call_id)
//!                                               leg = media.open(); leg.offer(&codecs) -------------> INVITE
//!                                               codec = leg.take_answer(sdp)              <---------- 200, answer
//! answer  <------------------------------------ AnswerOptions { passthrough: vec![codec], .. }
//!                                               leg.bridge(calls().audio(call_id))
//! ```
//!
//! A phone that holds sends a new offer: [`PhoneLeg::reanswer`]. An INVITE without an offer is answered with [`PhoneLeg::offer`], and its ACK has the
//! answer. Of several phones that ring, each has a leg of its own; those that lose are dropped, which closes their sockets.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;

pub use halloo_protocol::phone::AudioCodec;
pub use halloo_protocol::phone::negotiation::{Hold, MediaRefusal, PhoneOffer, Reanswer, Security};
use serde::Serialize;

pub use crate::calls::media::port::{AudioAgreed, AudioEvent, AudioPort};

/// Ports for phones' media: 100 calls at once, and beside what systems hand out by themselves.
pub const PORTS: RangeInclusive<u16> = 16_384..=16_583;

/// How phones' media are carried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PhoneMediaConfig {
    /// UDP ports to use, two for each call: an even one and the next.
    pub ports: RangeInclusive<u16>,
    /// The address that descriptions name, where it isn't that of the socket: behind a port forwarding.
    pub advertised: Option<IpAddr>,
}

impl Default for PhoneMediaConfig {
    fn default() -> Self {
        Self { ports: PORTS, advertised: None }
    }
}

/// Makes legs. Clones share the ports.
#[derive(Clone, Debug)]
pub struct PhoneMedia {
    config: Arc<PhoneMediaConfig>,
}

/// Why a leg can't be opened.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// All ports are in use, by us or by others.
    #[error("no free pair of UDP ports from {} to {}", ports.start(), ports.end())]
    NoPort {
        /// The range.
        ports: RangeInclusive<u16>,
    },
    /// The address can't be bound.
    #[error("cannot bind {address}")]
    Bind {
        /// The address.
        address: IpAddr,
        /// What the system said.
        source: Arc<std::io::Error>,
    },
}

impl PhoneMedia {
    /// With these settings.
    #[must_use]
    pub fn new(config: PhoneMediaConfig) -> Self {
        Self { config: Arc::new(config) }
    }

    /// Binds a pair of ports on this address, which is the one that the phone reaches the edge at, and takes them for a leg until it is dropped.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn open(&self, address: IpAddr, security: Security) -> Result<PhoneLeg, OpenError> {
        let _ = (address, security);
        Err(OpenError::NoPort { ports: self.config.ports.clone() })
    }
}

/// What happens to a leg.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LegEvent {
    /// The call is answered at the overlay's end, in this codec: answer the phone in it.
    Agreed(AudioAgreed),
    /// The overlay's end is connected: packets pass.
    Connected,
    /// The phone's first packet that counts has come.
    PhoneHeard,
    /// Nothing has come from the phone for this many seconds, though it doesn't hold. Told once per silence.
    PhoneSilent(u64),
    /// The overlay's end is over. Nothing follows.
    Ended,
}

/// What has passed in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct PassedStats {
    /// Packets of audio and of telephone events that were passed on.
    pub packets: u64,
    /// Bytes of their payloads.
    pub bytes: u64,
    /// Packets that never came, by their sequence numbers.
    pub lost: u64,
    /// Variation of the packets' travelling time in milliseconds (RFC 3550 section 6.4.1).
    pub jitter_ms: f64,
    /// Packets that came and weren't passed on: of another source or format, not authentic, while held, or because a queue was full.
    pub dropped: u64,
    /// Mean and longest time from a packet's arrival on this machine to its leaving the bridge, in microseconds.
    pub delay_mean_us: f64,
    /// See [`PassedStats::delay_mean_us`].
    pub delay_max_us: u64,
}

/// What a leg has measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct LegStats {
    /// The codec, once agreed on.
    pub codec: Option<AudioCodec>,
    /// Whether the phone's side is encrypted.
    pub is_secure: bool,
    /// From the phone to the overlay.
    pub from_phone: PassedStats,
    /// From the overlay to the phone.
    pub to_phone: PassedStats,
    /// Share of what was sent that the phone says it lost, 0.0 to 1.0, by its last report.
    pub phone_loss: Option<f64>,
    /// Round-trip time to the phone in milliseconds, by its reports.
    pub phone_rtt_ms: Option<f64>,
}

/// The media of one phone in one call. Dropping it ends them and closes the sockets.
#[derive(Debug)]
#[must_use = "dropping it ends the phone's media"]
pub struct PhoneLeg {
    _private: (),
}

impl PhoneLeg {
    /// Takes a phone's offer. What it says counts once it is answered.
    ///
    /// # Errors
    /// See [`MediaRefusal`], which knows the SIP status to refuse with. The leg is as it was.
    pub fn take_offer(&mut self, sdp: &[u8]) -> Result<PhoneOffer, MediaRefusal> {
        let _ = sdp;
        Err(MediaRefusal::NothingToAnswer)
    }

    /// The answer to [`PhoneLeg::take_offer`], in this codec.
    ///
    /// # Errors
    /// [`MediaRefusal::NoCommonCodec`] if the phone doesn't have it.
    pub fn answer(&mut self, codec: AudioCodec) -> Result<String, MediaRefusal> {
        let _ = codec;
        Err(MediaRefusal::NothingToAnswer)
    }

    /// An offer for the phone, of these codecs, the preferred first.
    ///
    /// # Errors
    /// [`MediaRefusal::NoCommonCodec`] if there are none.
    pub fn offer(&mut self, codecs: &[AudioCodec]) -> Result<String, MediaRefusal> {
        let _ = codecs;
        Err(MediaRefusal::NothingToAnswer)
    }

    /// Takes the phone's answer to [`PhoneLeg::offer`] or [`PhoneLeg::hold`]: the codec of the call.
    ///
    /// # Errors
    /// See [`MediaRefusal`].
    pub fn take_answer(&mut self, sdp: &[u8]) -> Result<AudioCodec, MediaRefusal> {
        let _ = sdp;
        Err(MediaRefusal::NothingToAnswer)
    }

    /// Answers a later offer of the phone's: it holds, goes on, has moved, or only refreshes its session.
    ///
    /// # Errors
    /// See [`MediaRefusal`]: refuse the re-INVITE; what was agreed on goes on (RFC 3261 section 14.2).
    pub fn reanswer(&mut self, sdp: &[u8]) -> Result<Reanswer, MediaRefusal> {
        let _ = sdp;
        Err(MediaRefusal::NothingToAnswer)
    }

    /// An offer that holds the phone, or takes it back.
    ///
    /// # Errors
    /// [`MediaRefusal::NothingToAnswer`] before anything was agreed on.
    pub fn hold(&mut self, held: bool) -> Result<String, MediaRefusal> {
        let _ = held;
        Err(MediaRefusal::NothingToAnswer)
    }

    /// Joins the leg with the call's audio; packets pass once both sides have agreed on a codec. Once per leg.
    pub fn bridge(&mut self, port: AudioPort) {
        let _ = port;
    }

    /// What happens next; `None` once the leg is over. Safe to drop.
    pub async fn next_event(&mut self) -> Option<LegEvent> {
        None
    }

    /// What has been measured so far, at most 0.2 s old.
    #[must_use]
    pub fn stats(&self) -> LegStats {
        LegStats::default()
    }
}
