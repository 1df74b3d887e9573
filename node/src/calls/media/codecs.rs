//! Which codecs a call can use, and by which numbers its packets show them.

use halloo_protocol::phone::{AudioCodec, sdp::Description};
use str0m::{
    RtcConfig,
    format::{Codec, CodecConfig, FormatParams},
    media::{Frequency, Mid, Pt},
};

use super::{MediaError, port::AudioFormat};

/// What this node encodes and decodes itself, the preferred first. G.722 passes between embedders only.
pub(super) const OWN: [AudioCodec; 3] = [AudioCodec::Opus, AudioCodec::Pcmu, AudioCodec::Pcma];
/// Types of payload for telephone events, at the clocks of Opus and of the others: what browsers use.
const OPUS_EVENTS: u8 = 110;
const OTHER_EVENTS: u8 = 126;

/// The audio that both ends have agreed on.
#[derive(Debug, Clone, Copy)]
pub(super) struct AudioLine {
    pub(super) mid: Mid,
    pub(super) codec: AudioCodec,
    pt: Pt,
    events: Option<Pt>,
}

impl AudioLine {
    /// The first of the types that the other end takes which is a codec of ours.
    pub(super) fn choose(mid: Mid, remote: &[Pt], config: &CodecConfig) -> Option<Self> {
        let params = |pt: &Pt| config.params().iter().find(|params| params.pt() == *pt);
        let codec = |pt: &Pt| Some((*pt, codec_of(params(pt)?.spec().codec)?));
        let (pt, codec) = remote.iter().find_map(codec)?;
        let clock = codec.clock_hz();
        let is_events = |pt: &&Pt| params(pt).is_some_and(|params| params.spec().codec.is_tele() && clock_of(params) == clock);
        Some(Self { mid, codec, pt, events: remote.iter().find(is_events).copied() })
    }

    /// The type of a packet, if it is one of these.
    pub(super) fn format_of(&self, pt: Pt) -> Option<AudioFormat> {
        match pt {
            _ if pt == self.pt => Some(AudioFormat::Audio),
            _ if Some(pt) == self.events => Some(AudioFormat::TelephoneEvent),
            _ => None,
        }
    }

    pub(super) fn type_of(&self, format: AudioFormat) -> Option<Pt> {
        match format {
            AudioFormat::Audio => Some(self.pt),
            AudioFormat::TelephoneEvent => self.events,
        }
    }

    pub(super) const fn has_events(&self) -> bool {
        self.events.is_some()
    }
}

fn clock_of(params: &str0m::format::PayloadParams) -> u32 {
    params.spec().clock_rate.get()
}

const fn codec_of(codec: Codec) -> Option<AudioCodec> {
    match codec {
        Codec::Opus => Some(AudioCodec::Opus),
        Codec::G722 => Some(AudioCodec::G722),
        Codec::PCMU => Some(AudioCodec::Pcmu),
        Codec::PCMA => Some(AudioCodec::Pcma),
        _ => None,
    }
}

/// Lets the engine negotiate these codecs, the preferred first, and keys that are pressed.
pub(super) fn enable(config: RtcConfig, codecs: &[AudioCodec]) -> RtcConfig {
    let mut config = config;
    for codec in codecs {
        config = match codec {
            AudioCodec::Opus => config.enable_opus(true, false),
            AudioCodec::G722 => config.enable_g722(true, false),
            AudioCodec::Pcmu => config.enable_pcmu(true, false),
            AudioCodec::Pcma => config.enable_pcma(true, false),
            _ => config,
        };
    }
    let mut events = |pt: u8, clock: Frequency| {
        config.codec_config().add_config(pt.into(), None, Codec::Tele, clock, None, FormatParams::default());
    };
    if codecs.contains(&AudioCodec::Opus) {
        events(OPUS_EVENTS, Frequency::FORTY_EIGHT_KHZ);
    }
    if codecs.iter().any(|codec| *codec != AudioCodec::Opus) {
        events(OTHER_EVENTS, Frequency::EIGHT_KHZ);
    }
    config
}

/// The codecs that an offer of audio names, the preferred first. None for what isn't a description.
pub(crate) fn offered(sdp: &str) -> Vec<AudioCodec> {
    let Ok(description) = Description::parse(sdp.as_bytes()) else { return Vec::new() };
    let Some(section) = description.sections.iter().find(|section| section.kind == "audio" && section.port != 0) else {
        return Vec::new();
    };
    halloo_protocol::phone::negotiation::codecs_of(section).into_iter().map(|(codec, _)| codec).collect()
}

/// Chooses the codec of an answer: of those that this end can use, the first that is offered. All, where the offer names none at all: the engine
/// then says what is wrong with it.
///
/// # Errors
/// [`MediaError::NoCommonCodec`].
pub(super) fn answer(able: &[AudioCodec], offer: &str) -> Result<Vec<AudioCodec>, MediaError> {
    let offered = offered(offer);
    let refused = || MediaError::NoCommonCodec { offered: offered.clone(), able: able.to_vec() };
    if offered.is_empty() {
        return Ok(able.to_vec());
    }
    able.iter().copied().find(|codec| offered.contains(codec)).map(|codec| vec![codec]).ok_or_else(refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_has_what_this_end_prefers_of_what_is_offered() {
        let offer = "v=0\r\nm=audio 9 UDP/TLS/RTP/SAVPF 0 8 111 9\r\na=rtpmap:111 opus/48000/2\r\n";
        use AudioCodec::{G722, Opus, Pcma, Pcmu};
        assert_eq!(offered(offer), [Pcmu, Pcma, Opus, G722]);
        assert_eq!(answer(&OWN, offer).unwrap(), [Opus]);
        assert_eq!(answer(&[G722], offer).unwrap(), [G722]);
        let old = "v=0\r\nm=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=rtpmap:111 opus/48000/2\r\n";
        assert_eq!(answer(&OWN, old).unwrap(), [Opus]);
        let refusal = answer(&[Pcma, G722], old).unwrap_err();
        assert_eq!(refusal.to_string(), "no audio codec in common: opus offered, pcma, g722 usable here");
        assert_eq!(answer(&OWN, "v=0\r\nm=audio 9 RTP/AVP 3\r\n").unwrap(), OWN);
    }
}
