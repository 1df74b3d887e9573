//! Offer and answer with a phone (RFC 3264): one stream of audio, plain or encrypted.
//!
//! ```text
//! the phone offers:   take_offer() -> what it has; answer(codec) -> the answer
//! we offer:           offer(codecs) -> the offer; take_answer() -> the codec
//! later, either way:  reanswer() for the phone's, hold() and take_answer() for ours
//! ```
//!
//! What was agreed on last is [`Negotiation::agreed`]; a refused offer changes nothing. Codecs of a running call stay: the other end isn't asked again.
//! Payloads aren't repacketised, so what the descriptions say of the length of packets is a wish that is passed on by the packets themselves.
//!
//! Never reads the clock; randomness is passed in.

use std::net::{IpAddr, SocketAddr};

use super::sdes::{Crypto, MasterKey, Suite};
use super::sdp::{self, Description, Direction, SdpError, Section, Transport};
use super::{AudioCodec, names};

mod writing;

/// Types of payload in our own offers, for what has no fixed one. Any of 96 to 127 would do; these are what phones use.
const OPUS_TYPE: u8 = 96;
const EVENTS_TYPE: u8 = 101;
const OPUS_EVENTS_TYPE: u8 = 102;
/// The name of telephone events (RFC 4733 section 7.1.1).
const EVENTS_NAME: &str = "telephone-event";

/// Whether a phone's media are encrypted (SRTP with keys in the description, RFC 4568).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Security {
    /// Never: what the phone offers encrypted only is refused.
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
    /// The phone's media are encrypted in no way that can be used here.
    #[error("the phone's encryption of media can't be used: {0}")]
    SecurityUnusable(&'static str),
    /// The description can't be read.
    #[error("the session description can't be read: {0}")]
    Malformed(#[from] SdpError),
    /// There is no offer to answer, or no answer is awaited: a mistake of whoever asks.
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
    /// It doesn't: it hears what the other end says.
    Active,
    /// It does, and may send music meanwhile.
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

/// A codec that was chosen, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The codec.
    pub codec: AudioCodec,
    /// Why it and no other.
    pub reason: ChoiceReason,
}

/// Why a codec was chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ChoiceReason {
    /// It is the only one that both have.
    OnlyCommon,
    /// The one who offers prefers it to these, which both have as well.
    Preferred {
        /// The others, in the same order.
        over: Vec<AudioCodec>,
    },
}

/// Chooses among what one end offers, the preferred first, the first that the other has.
///
/// # Errors
/// [`MediaRefusal::NoCommonCodec`].
pub fn choose(offered: &[AudioCodec], able: &[AudioCodec]) -> Result<Choice, MediaRefusal> {
    let mut common = offered.iter().copied().filter(|codec| able.contains(codec));
    let Some(codec) = common.next() else {
        return Err(MediaRefusal::NoCommonCodec { phone: offered.to_vec(), other: able.to_vec() });
    };
    let over: Vec<AudioCodec> = common.collect();
    let reason = if over.is_empty() { ChoiceReason::OnlyCommon } else { ChoiceReason::Preferred { over } };
    Ok(Choice { codec, reason })
}

/// How packets in one codec are numbered in both directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PayloadTypes {
    /// In packets to the phone.
    pub to_phone: u8,
    /// In packets from it.
    pub from_phone: u8,
}

/// The phone's telephone events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Events {
    /// Their types of payload.
    pub types: PayloadTypes,
    /// Their clock, which isn't always the audio's.
    pub clock_hz: u32,
}

/// Keys for both directions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    /// How packets are protected.
    pub suite: Suite,
    /// For packets to the phone.
    pub to_phone: MasterKey,
    /// For packets from it.
    pub from_phone: MasterKey,
}

/// What was agreed on with a phone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agreed {
    /// The codec.
    pub codec: AudioCodec,
    /// Its types of payload.
    pub types: PayloadTypes,
    /// Telephone events, if the phone has them.
    pub events: Option<Events>,
    /// Where the phone says that media go; `None` if it names no address that can be used.
    pub media_to: Option<SocketAddr>,
    /// Where reports go.
    pub reports_to: Option<SocketAddr>,
    /// Reports share the port of media.
    pub is_rtcp_muxed: bool,
    /// Who sends, as the phone sees it.
    pub direction: Direction,
    /// The keys, if media are encrypted.
    pub keys: Option<Keys>,
}

impl Agreed {
    /// Whether the phone holds.
    #[must_use]
    pub const fn hold(&self) -> Hold {
        match self.direction {
            Direction::SendRecv | Direction::RecvOnly => Hold::Active,
            Direction::SendOnly => Hold::Held,
            Direction::Inactive => Hold::Inactive,
        }
    }
}

/// This end, as descriptions show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Local {
    /// The address.
    pub address: IpAddr,
    /// The port for media.
    pub port: u16,
    /// The port for reports.
    pub rtcp_port: u16,
    /// Whether media are to be encrypted.
    pub security: Security,
}

/// What a phone's description says of its audio.
#[derive(Clone, Debug)]
struct Remote {
    description: Description,
    /// The section that is used.
    index: usize,
    codecs: Vec<(AudioCodec, u8)>,
    /// The key that is used, if one is.
    crypto: Option<Crypto>,
}

impl Remote {
    fn section(&self) -> Option<&Section> {
        self.description.sections.get(self.index)
    }

    fn codecs(&self) -> Vec<AudioCodec> {
        self.codecs.iter().map(|(codec, _)| *codec).collect()
    }

    /// Who sends, as the phone sees it. Old phones hold with an address of zeros (RFC 3264 section 8.4).
    fn direction(&self) -> Direction {
        let Some(section) = self.section() else { return Direction::Inactive };
        let said = section.direction.or(self.description.direction).unwrap_or_default();
        let address = section.address.or(self.description.address);
        let is_reached = address.is_none_or(|address| !address.is_unspecified());
        Direction::new(said.sends(), said.receives() && is_reached)
    }

    fn events_for(&self, codec: AudioCodec) -> Option<(u8, u32)> {
        let section = self.section()?;
        let of_type = |number: u8| section.format(number).filter(|format| format.name.eq_ignore_ascii_case(EVENTS_NAME));
        let mut all = section.payload_types().filter_map(of_type).map(|format| (format.payload_type, format.clock_hz));
        let first = all.next()?;
        Some(all.chain([first]).find(|(_, clock)| *clock == codec.clock_hz()).unwrap_or(first))
    }
}

#[derive(Clone, Debug, Default)]
enum Pending {
    #[default]
    Nothing,
    /// The phone's offer waits for our answer.
    Theirs(Box<Remote>),
    /// Our offer of these waits for the phone's answer.
    Ours(Vec<AudioCodec>),
}

/// Offer and answer with one phone.
#[derive(Debug)]
pub struct Negotiation {
    local: Local,
    session_id: u64,
    version: u64,
    /// What the last description said after its `o=`.
    said: String,
    /// One key of ours for each suite, for as long as the call goes on.
    keys: Vec<(Suite, MasterKey)>,
    pending: Pending,
    agreed: Option<Agreed>,
    /// The section of the phone's that is used, and what the others are: they keep their places (RFC 3264 section 8).
    sections: Vec<(String, String, Vec<String>)>,
    used: usize,
    /// We hold the phone.
    holds: bool,
}

impl Negotiation {
    /// Nothing is agreed on.
    #[must_use]
    pub fn new(local: Local, rng: &mut impl rand::CryptoRng) -> Self {
        let keys = Suite::ALL.into_iter().map(|suite| (suite, MasterKey::random(suite, rng))).collect();
        Self {
            local,
            // Phones read it as a signed number.
            session_id: rng.next_u64() >> 2,
            version: 0,
            said: String::new(),
            keys,
            pending: Pending::Nothing,
            agreed: None,
            sections: Vec::new(),
            used: 0,
            holds: false,
        }
    }

    /// What was agreed on last.
    #[must_use]
    pub const fn agreed(&self) -> Option<&Agreed> {
        self.agreed.as_ref()
    }

    /// Takes a phone's offer. What it says counts once it is answered.
    ///
    /// # Errors
    /// See [`MediaRefusal`]; what was agreed on stays.
    pub fn take_offer(&mut self, sdp: &[u8]) -> Result<PhoneOffer, MediaRefusal> {
        let remote = self.read(sdp, None)?;
        let codecs = remote.codecs();
        if codecs.is_empty() {
            return Err(MediaRefusal::NoCommonCodec { phone: Vec::new(), other: AudioCodec::ALL.to_vec() });
        }
        let is_secure = remote.crypto.is_some();
        self.pending = Pending::Theirs(Box::new(remote));
        Ok(PhoneOffer { codecs, is_secure })
    }

    /// The answer to the phone's offer, in this codec.
    ///
    /// # Errors
    /// [`MediaRefusal::NoCommonCodec`] if the phone hasn't offered it, [`MediaRefusal::NothingToAnswer`].
    pub fn answer(&mut self, codec: AudioCodec) -> Result<String, MediaRefusal> {
        let Pending::Theirs(remote) = &self.pending else { return Err(MediaRefusal::NothingToAnswer) };
        choose(&remote.codecs(), &[codec])?;
        let Pending::Theirs(remote) = std::mem::take(&mut self.pending) else { return Err(MediaRefusal::NothingToAnswer) };
        let agreed = self.agree(&remote, codec, None).ok_or(MediaRefusal::NoAudio)?;
        self.keep_places(&remote);
        let sdp = self.write(&[codec], Some((&remote, &agreed)));
        self.agreed = Some(agreed);
        Ok(sdp)
    }

    /// Answers a later offer of the phone's in the codec of the call.
    ///
    /// # Errors
    /// See [`MediaRefusal`]; what was agreed on stays.
    pub fn reanswer(&mut self, sdp: &[u8]) -> Result<Reanswer, MediaRefusal> {
        let codec = self.agreed.as_ref().ok_or(MediaRefusal::NothingToAnswer)?.codec;
        self.take_offer(sdp)?;
        let sdp = self.answer(codec);
        if sdp.is_err() {
            self.pending = Pending::Nothing;
        }
        let sdp = sdp?;
        let hold = self.agreed.as_ref().map_or(Hold::Inactive, Agreed::hold);
        Ok(Reanswer { sdp, hold })
    }

    /// An offer of these codecs, the preferred first; of one that the call has already, if something was agreed on.
    ///
    /// # Errors
    /// [`MediaRefusal::NoCommonCodec`] if there are none.
    pub fn offer(&mut self, codecs: &[AudioCodec]) -> Result<String, MediaRefusal> {
        let codecs: Vec<AudioCodec> = match &self.agreed {
            Some(agreed) => vec![agreed.codec],
            None => codecs.to_vec(),
        };
        if codecs.is_empty() {
            return Err(MediaRefusal::NoCommonCodec { phone: Vec::new(), other: codecs });
        }
        let sdp = self.write(&codecs, None);
        self.pending = Pending::Ours(codecs);
        Ok(sdp)
    }

    /// An offer that holds the phone, or takes it back.
    ///
    /// # Errors
    /// [`MediaRefusal::NothingToAnswer`] before anything was agreed on.
    pub fn hold(&mut self, held: bool) -> Result<String, MediaRefusal> {
        let codec = self.agreed.as_ref().ok_or(MediaRefusal::NothingToAnswer)?.codec;
        self.holds = held;
        self.offer(&[codec])
    }

    /// Takes the phone's answer to our offer: the codec of the call. Of several that it takes, the first.
    ///
    /// # Errors
    /// See [`MediaRefusal`]; the offer is spent then, and what was agreed on before it stays.
    pub fn take_answer(&mut self, sdp: &[u8]) -> Result<AudioCodec, MediaRefusal> {
        let Pending::Ours(offered) = std::mem::take(&mut self.pending) else { return Err(MediaRefusal::NothingToAnswer) };
        let remote = self.read(sdp, Some(self.used))?;
        let codec = choose(&remote.codecs(), &offered)?.codec;
        let agreed = self.agree(&remote, codec, Some(our_type(codec))).ok_or(MediaRefusal::NoAudio)?;
        self.agreed = Some(agreed);
        Ok(codec)
    }

    /// The answer to the phone's offer before the call is answered, in this codec: [`Negotiation::answer`] says it again, or another.
    ///
    /// # Errors
    /// As [`Negotiation::answer`].
    pub fn answer_early(&mut self, codec: AudioCodec) -> Result<String, MediaRefusal> {
        let pending = self.pending.clone();
        let answer = self.answer(codec)?;
        self.pending = pending;
        Ok(answer)
    }

    /// Takes the phone's answer that it gives while it rings (RFC 3261 section 13.2.1): [`Negotiation::take_answer`] takes the one that it gives in the end.
    ///
    /// # Errors
    /// As [`Negotiation::take_answer`].
    pub fn take_early_answer(&mut self, sdp: &[u8]) -> Result<AudioCodec, MediaRefusal> {
        let pending = self.pending.clone();
        let codec = self.take_answer(sdp);
        self.pending = pending;
        codec
    }

    /// Reads a description; in an answer the section has its place, in an offer the first that can be used is.
    fn read(&self, sdp: &[u8], place: Option<usize>) -> Result<Remote, MediaRefusal> {
        let description = Description::parse(sdp)?;
        let is_answer = place.is_some();
        let is_audio = |section: &Section| section.kind == "audio" && section.port != 0;
        let mut trouble = MediaRefusal::NoAudio;
        for (index, section) in description.sections.iter().enumerate().filter(|(_, section)| is_audio(section)) {
            if place.is_some_and(|place| place != index) {
                continue;
            }
            match self.protection(section, is_answer) {
                Ok(crypto) => {
                    let codecs = codecs_of(section);
                    return Ok(Remote { index, codecs, crypto, description });
                }
                Err(refusal) => trouble = refusal,
            }
        }
        Err(trouble)
    }

    /// By what the phone protects its packets; `None` if by nothing, and that is right.
    fn protection(&self, section: &Section, is_answer: bool) -> Result<Option<Crypto>, MediaRefusal> {
        let has_offered = self.local.security == Security::Required || self.has_keys();
        // What an answer says counts only where it was offered.
        let usable = section.keys.iter().find(|key| !is_answer || has_offered && our_tag(key.suite) == key.tag);
        let wanted = self.local.security != Security::Off && (!is_answer || has_offered);
        match (section.transport(), usable.filter(|_| wanted)) {
            (Transport::Other, _) => Err(MediaRefusal::SecurityUnusable("it is neither RTP/AVP nor RTP/SAVP")),
            (Transport::Secure, None) if self.local.security == Security::Off => {
                Err(MediaRefusal::SecurityUnusable("encryption is switched off here"))
            }
            (Transport::Secure, None) => Err(MediaRefusal::SecurityUnusable("it has no key of a suite that is known here")),
            // What was encrypted from the beginning of a call stays so.
            (Transport::Plain, None) if self.local.security == Security::Required || self.has_keys() => {
                Err(MediaRefusal::NotSecure)
            }
            (Transport::Plain, None) => Ok(None),
            (Transport::Plain | Transport::Secure, Some(crypto)) => Ok(Some(crypto.clone())),
        }
    }

    fn has_keys(&self) -> bool {
        self.agreed.as_ref().is_some_and(|agreed| agreed.keys.is_some())
    }

    /// What follows from the phone's description. `own_type`: the type of payload in our offer, if it was ours.
    fn agree(&self, remote: &Remote, codec: AudioCodec, own_type: Option<u8>) -> Option<Agreed> {
        let section = remote.section()?;
        let to_phone = remote.codecs.iter().find(|(known, _)| *known == codec)?.1;
        let types = PayloadTypes { to_phone, from_phone: own_type.unwrap_or(to_phone) };
        let events = remote.events_for(codec).map(|(to_phone, clock_hz)| {
            let ours = if clock_hz == AudioCodec::Opus.clock_hz() { OPUS_EVENTS_TYPE } else { EVENTS_TYPE };
            let from_phone = if own_type.is_some() { ours } else { to_phone };
            Events { types: PayloadTypes { to_phone, from_phone }, clock_hz }
        });
        let (media_to, reports_to) = sdp::destinations(section, remote.description.address);
        let keys = remote.crypto.as_ref().and_then(|crypto| {
            let (suite, ours) = self.keys.iter().find(|(suite, _)| *suite == crypto.suite)?;
            Some(Keys { suite: *suite, to_phone: ours.clone(), from_phone: crypto.key.clone() })
        });
        Some(Agreed {
            codec,
            types,
            events,
            media_to,
            reports_to,
            is_rtcp_muxed: section.has_rtcp_mux,
            direction: remote.direction(),
            keys,
        })
    }

    fn keep_places(&mut self, remote: &Remote) {
        let place = |section: &Section| (section.kind.clone(), section.transport_name.clone(), section.format_list.clone());
        self.sections = remote.description.sections.iter().map(place).collect();
        self.used = remote.index;
    }
}

fn our_type(codec: AudioCodec) -> u8 {
    codec.static_payload_type().unwrap_or(OPUS_TYPE)
}

fn our_tag(suite: Suite) -> u32 {
    let place = Suite::ALL.iter().position(|known| *known == suite).unwrap_or_default();
    u32::try_from(place + 1).unwrap_or(1)
}

/// The codecs of a section that are known here, the preferred first, with their types of payload.
#[must_use]
pub fn codecs_of(section: &Section) -> Vec<(AudioCodec, u8)> {
    let mut codecs: Vec<(AudioCodec, u8)> = Vec::new();
    for number in section.payload_types() {
        let codec = match section.format(number) {
            Some(format) => format.name.parse().ok().filter(|codec: &AudioCodec| codec.clock_hz() == format.clock_hz),
            None => AudioCodec::ALL.into_iter().find(|codec| codec.static_payload_type() == Some(number)),
        };
        if let Some(codec) = codec.filter(|codec| !codecs.iter().any(|(known, _)| known == codec)) {
            codecs.push((codec, number));
        }
    }
    codecs
}

#[cfg(test)]
#[path = "negotiation_tests.rs"]
mod tests;
