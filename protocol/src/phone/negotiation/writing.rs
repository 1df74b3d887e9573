//! Descriptions of ours, as they are written.

use super::super::AudioCodec;
use super::super::sdes::{Crypto, MasterKey, Suite};
use super::super::sdp::{self, Direction};
use super::{Agreed, EVENTS_NAME, EVENTS_TYPE, Negotiation, OPUS_EVENTS_TYPE, Remote, Security, our_tag, our_type};

/// Keys that are pressed on a phone: 0 to 9, *, #, A to D.
const EVENTS_RANGE: &str = "0-15";

impl Negotiation {
    /// A description of ours: an answer to the phone's, or an offer.
    pub(super) fn write(&mut self, codecs: &[AudioCodec], answers: Option<(&Remote, &Agreed)>) -> String {
        let audio = self.audio_section(codecs, answers);
        let mut said = format!("s=-\r\nc=IN {}\r\nt=0 0\r\n", sdp::family_and_address(self.local.address));
        for (index, (kind, transport, formats)) in self.sections.iter().enumerate() {
            if index == self.used {
                said.push_str(&audio);
            } else {
                said.push_str(&format!("m={kind} 0 {transport} {}\r\n", formats.join(" ")));
            }
        }
        if self.sections.is_empty() {
            said.push_str(&audio);
        }
        if said != self.said {
            self.version += 1;
            self.said.clone_from(&said);
        }
        let address = sdp::family_and_address(self.local.address);
        format!("v=0\r\no=- {} {} IN {address}\r\n{said}", self.session_id, self.version)
    }

    fn audio_section(&self, codecs: &[AudioCodec], answers: Option<(&Remote, &Agreed)>) -> String {
        let formats = match answers {
            Some((_, agreed)) => answered_formats(agreed),
            None => offered_formats(codecs),
        };
        let is_secure = match answers {
            Some((_, agreed)) => agreed.keys.is_some(),
            None => self.local.security == Security::Required || self.has_keys(),
        };
        let transport = match answers.and_then(|(remote, _)| remote.section()) {
            Some(section) => section.transport_name.as_str(),
            None if is_secure => "RTP/SAVP",
            None => "RTP/AVP",
        };
        let numbers: Vec<String> = formats.iter().map(|format| format.number.to_string()).collect();
        let mut text = format!("m=audio {} {transport} {}\r\n", self.local.port, numbers.join(" "));
        for Written { number, map, parameters } in &formats {
            text.push_str(&format!("a=rtpmap:{number} {map}\r\n"));
            if !parameters.is_empty() {
                text.push_str(&format!("a=fmtp:{number} {parameters}\r\n"));
            }
        }
        text.push_str("a=ptime:20\r\n");
        for crypto in self.keys_to_tell(is_secure, answers.and_then(|(remote, _)| remote.crypto.as_ref())) {
            text.push_str(&format!("a=crypto:{}\r\n", crypto.to_value()));
        }
        let is_muxed = answers.is_none_or(|(_, agreed)| agreed.is_rtcp_muxed);
        text.push_str(&format!(
            "a=rtcp:{}\r\n",
            if answers.is_some() && is_muxed { self.local.port } else { self.local.rtcp_port }
        ));
        if is_muxed {
            text.push_str("a=rtcp-mux\r\n");
        }
        text.push_str(&format!("a={}\r\n", self.direction(answers.map(|(_, agreed)| agreed.direction)).name()));
        text
    }

    /// The one that answers the phone's, or all that are offered.
    fn keys_to_tell(&self, is_secure: bool, answered: Option<&Crypto>) -> Vec<Crypto> {
        let tell = |(suite, key): &(Suite, MasterKey)| match answered {
            Some(theirs) => (theirs.suite == *suite).then(|| Crypto { tag: theirs.tag, suite: *suite, key: key.clone() }),
            None => Some(Crypto { tag: our_tag(*suite), suite: *suite, key: key.clone() }),
        };
        if is_secure { self.keys.iter().filter_map(tell).collect() } else { Vec::new() }
    }

    /// Who sends, as we see it: what the phone says turned round, less what we don't want to hear.
    fn direction(&self, theirs: Option<Direction>) -> Direction {
        let theirs = theirs.unwrap_or_default();
        Direction::new(theirs.receives(), theirs.sends() && !self.holds)
    }
}

struct Written {
    number: u8,
    map: String,
    parameters: &'static str,
}

impl Written {
    fn codec(number: u8, codec: AudioCodec) -> Self {
        // Opus is always told as two channels (RFC 7587 section 7).
        let channels = if codec == AudioCodec::Opus { "/2" } else { "" };
        let map = format!("{}/{}{channels}", codec.encoding_name(), codec.clock_hz());
        Self { number, map, parameters: if codec == AudioCodec::Opus { "useinbandfec=1" } else { "" } }
    }

    fn events(number: u8, clock_hz: u32) -> Self {
        Self { number, map: format!("{EVENTS_NAME}/{clock_hz}"), parameters: EVENTS_RANGE }
    }
}

fn offered_formats(codecs: &[AudioCodec]) -> Vec<Written> {
    let mut formats: Vec<Written> = codecs.iter().map(|codec| Written::codec(our_type(*codec), *codec)).collect();
    if codecs.contains(&AudioCodec::Opus) {
        formats.push(Written::events(OPUS_EVENTS_TYPE, AudioCodec::Opus.clock_hz()));
    }
    // Most phones have events at this clock only, whatever the codec.
    formats.push(Written::events(EVENTS_TYPE, AudioCodec::Pcmu.clock_hz()));
    formats
}

fn answered_formats(agreed: &Agreed) -> Vec<Written> {
    let audio = Written::codec(agreed.types.from_phone, agreed.codec);
    let events = agreed.events.map(|events| Written::events(events.types.from_phone, events.clock_hz));
    [Some(audio), events].into_iter().flatten().collect()
}
