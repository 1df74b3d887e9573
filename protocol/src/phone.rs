//! The media of ordinary phones: session descriptions, RTP, its reports and its encryption.
//!
//! A phone that knows nothing of the overlay describes its media in SDP and sends RTP; the overlay's end of the same call is WebRTC. What lies
//! between decides here, and I/O is the node's:
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`sdp`] | descriptions of one audio stream, read with bounds and written (RFC 8866) |
//! | [`negotiation`] | offer and answer, hold, the choice of codec with its reason (RFC 3264) |
//! | [`sdes`], [`srtp`] | keys in descriptions (RFC 4568), and the packets that they protect (RFC 3711) |
//! | [`rtp`] | packets of media and the reports on them (RFC 3550) |
//! | [`continuity`] | one stream without breaks, made of what may be several |
//! | [`keys`] | keys that are pressed (RFC 4733) |
//! | [`leg`] | one phone's stream: whence it may come, what is counted, what leaves |
//!
//! Never encodes or decodes audio: what comes from one end leaves at the other as it is, in a codec that both have, or not at all.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

pub mod continuity;
pub mod keys;
pub mod leg;
pub mod negotiation;
pub mod rtp;
pub mod sdes;
pub mod sdp;
pub mod srtp;

/// How audio is encoded, in the order in which an end that has all of them prefers them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum AudioCodec {
    /// Opus (RFC 6716), in RTP by RFC 7587.
    Opus,
    /// G.722: 7 kHz of bandwidth at 64 kbit/s (RFC 3551 section 4.5.2).
    G722,
    /// G.711, µ-law (RFC 3551 section 4.5.14).
    Pcmu,
    /// G.711, A-law.
    Pcma,
}

impl AudioCodec {
    /// All of them, the preferred first.
    pub const ALL: [Self; 4] = [Self::Opus, Self::G722, Self::Pcmu, Self::Pcma];

    /// Ticks of its RTP clock in a second. G.722's is half its sampling rate, by an old mistake (RFC 3551 section 4.5.2).
    #[must_use]
    pub const fn clock_hz(self) -> u32 {
        match self {
            Self::Opus => 48_000,
            Self::G722 | Self::Pcmu | Self::Pcma => 8_000,
        }
    }

    /// Its name in `a=rtpmap` (RFC 3551 section 6, RFC 7587 section 7).
    #[must_use]
    pub const fn encoding_name(self) -> &'static str {
        match self {
            Self::Opus => "opus",
            Self::G722 => "G722",
            Self::Pcmu => "PCMU",
            Self::Pcma => "PCMA",
        }
    }

    /// Its type of payload, if that is fixed (RFC 3551 section 6).
    #[must_use]
    pub const fn static_payload_type(self) -> Option<u8> {
        match self {
            Self::Opus => None,
            Self::G722 => Some(9),
            Self::Pcmu => Some(0),
            Self::Pcma => Some(8),
        }
    }
}

impl fmt::Display for AudioCodec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Opus => "opus",
            Self::G722 => "g722",
            Self::Pcmu => "pcmu",
            Self::Pcma => "pcma",
        })
    }
}

/// No codec has this name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no audio codec has this name")]
pub struct UnknownCodec;

impl FromStr for AudioCodec {
    type Err = UnknownCodec;

    fn from_str(name: &str) -> Result<Self, UnknownCodec> {
        Self::ALL.into_iter().find(|codec| codec.encoding_name().eq_ignore_ascii_case(name)).ok_or(UnknownCodec)
    }
}

/// Names for a message: `opus, pcmu`, or `none`.
#[must_use]
pub fn names(codecs: &[AudioCodec]) -> String {
    if codecs.is_empty() {
        return "none".to_owned();
    }
    codecs.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
