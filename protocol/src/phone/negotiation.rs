//! Offer and answer with a phone (RFC 3264).

use super::{AudioCodec, names};

/// Whether a phone's media are encrypted (SRTP with keys in the description, RFC 4568).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Security {
    /// Never: what the phone offers encrypted is refused.
    Off,
    /// Where the phone offers it. Our own offers are plain.
    #[default]
    Accepted,
    /// Always: our own offers are encrypted, and what isn't is refused.
    Required,
}

/// Why a phone's media can't be used. What to tell it: [`MediaRefusal::status`] and [`MediaRefusal::warning`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MediaRefusal {
    /// The two ends share no codec; nothing is transcoded.
    #[error("no codec in common: the phone has {}, the other end {}", names(phone), names(other))]
    NoCommonCodec {
        /// What the phone has, of those that are known here.
        phone: Vec<AudioCodec>,
        /// What the other end has.
        other: Vec<AudioCodec>,
    },
    /// The description has no audio, or refuses it.
    #[error("the description has no audio")]
    NoAudio,
    /// Media are to be encrypted and the phone's aren't.
    #[error("media are to be encrypted, and the phone offers none that are")]
    NotSecure,
    /// The phone's media are encrypted in no way that is known here, or not to be.
    #[error("the phone's encryption of media can't be used: {0}")]
    SecurityUnusable(&'static str),
    /// The description can't be read.
    #[error("the session description can't be read: {0}")]
    Malformed(String),
    /// There is no offer to answer, or no answer is awaited: a mistake of the caller's.
    #[error("there is no offer to answer")]
    NothingToAnswer,
}

impl MediaRefusal {
    /// The SIP status that refuses an INVITE for this (RFC 3261 section 21.4).
    #[must_use]
    pub const fn status(&self) -> u16 {
        match self {
            Self::Malformed(_) => 400,
            Self::NothingToAnswer => 500,
            _ => 488,
        }
    }

    /// The code for a Warning field (RFC 3261 section 20.43): 305 incompatible media format, 304 media type not available, 302 incompatible transport.
    #[must_use]
    pub const fn warning(&self) -> u16 {
        match self {
            Self::NoCommonCodec { .. } => 305,
            Self::NoAudio => 304,
            Self::NotSecure | Self::SecurityUnusable(_) => 302,
            Self::Malformed(_) | Self::NothingToAnswer => 399,
        }
    }
}

/// What a phone offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PhoneOffer {
    /// Its codecs that are known here, the preferred first; at least one.
    pub codecs: Vec<AudioCodec>,
    /// Whether its media are encrypted.
    pub is_secure: bool,
}

/// Whether the phone holds the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// It doesn't: both speak and hear.
    Active,
    /// It does: it doesn't hear what the other end says. It may send music.
    Held,
    /// Neither hears the other.
    Inactive,
}

/// The answer to a later offer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reanswer {
    /// The answer.
    pub sdp: String,
    /// Whether the phone holds.
    pub hold: Hold,
}
