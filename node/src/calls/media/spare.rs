//! Meeting an offer a second time.
//!
//! The answer to an offer that is out can be another one than first: a device that rang has connected media early, or tried to, and its person
//! answers when nothing of that is left. The offer says by which credentials, certificate and stream we are known, so an engine that has those
//! stands for it as well as the first; its sockets are others, whose candidates are trickled. The engine takes an answer only to an offer it
//! has made itself, so this one is told what the answer says piece by piece.

use str0m::{IceCreds, config::Fingerprint, media::MediaKind, media::Pt};
use tokio::runtime::Handle;

use super::{
    MediaConfig, MediaError, MediaSession,
    codecs::AudioLine,
    transport::{self, Identity, Transport},
};

/// What is kept of an offer whose first answer is being tried. Holds no sockets.
#[derive(Clone)]
#[must_use = "dropping it gives the offer up"]
pub struct SpareOffer {
    config: MediaConfig,
    identity: Identity,
    runtime: Handle,
}

impl std::fmt::Debug for SpareOffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SpareOffer").field("config", &self.config).finish_non_exhaustive()
    }
}

impl SpareOffer {
    pub(super) const fn new(config: MediaConfig, identity: Identity, runtime: Handle) -> Self {
        Self { config, identity, runtime }
    }

    /// Takes another answer to the offer; ICE and DTLS start. Candidates of ours follow as events.
    ///
    /// # Errors
    /// As [`super::offer`] and [`super::PendingMedia::accept`].
    pub async fn accept(self, answer: &str) -> Result<MediaSession, MediaError> {
        let config = self.config.early(false);
        let mut transport = Transport::again(&config, &self.identity).await?;
        transport.meet(&self.identity, answer)?;
        MediaSession::spawn(config, transport, &self.runtime)
    }
}

impl Transport {
    /// Takes the answer to an offer that another engine has made.
    fn meet(&mut self, identity: &Identity, answer: &str) -> Result<(), MediaError> {
        let admitted = self.admit_description(answer)?;
        let answer = Answer::parse(&admitted)?;
        let mid = identity.mid;
        let mut engine = self.rtc.direct_api();
        engine.set_ice_controlling(true);
        self.steering.decides = true;
        engine.set_remote_ice_credentials(answer.credentials);
        engine.set_remote_fingerprint(answer.fingerprint);
        engine.declare_media(mid, MediaKind::Audio);
        engine.declare_stream_tx(identity.ssrc.into(), None, mid, None);
        if let Some(ssrc) = answer.ssrc {
            engine.expect_stream_rx(ssrc.into(), None, mid, None);
        }
        if let Some(video) = identity.video {
            engine.declare_media(video.mid, MediaKind::Video);
            engine.declare_stream_tx(video.ssrc.into(), video.again.map(Into::into), video.mid, None);
            if let (Some(ssrc), again) = answer.video_ssrcs {
                engine.expect_stream_rx(ssrc.into(), again.map(Into::into), video.mid, None);
            }
        }
        // Whoever answers chooses: by default it begins.
        engine.start_dtls(answer.is_passive).map_err(transport::engine_error)?;
        self.drain()?;
        for line in admitted.lines().filter_map(|line| line.strip_prefix("a=")).filter(|line| line.starts_with("candidate:")) {
            if let Ok(candidate) = str0m::Candidate::from_sdp_string(line) {
                self.rtc.add_remote_candidate(candidate);
                self.drain()?;
            }
        }
        let line = AudioLine::choose(mid, &answer.payload_types, self.rtc.codec_config());
        self.audio = Some(line.ok_or(MediaError::NoCommonAudio)?);
        if let Some(video) = identity.video {
            self.set_video(video.mid, &answer.video_types);
        }
        Ok(())
    }
}

/// What counts of an answer.
struct Answer {
    credentials: IceCreds,
    fingerprint: Fingerprint,
    is_passive: bool,
    ssrc: Option<u32>,
    payload_types: Vec<Pt>,
    video_ssrcs: (Option<u32>, Option<u32>),
    /// None where the other end takes no video.
    video_types: Vec<Pt>,
}

impl Answer {
    fn parse(sdp: &str) -> Result<Self, MediaError> {
        // Its form is judged as that of any other.
        str0m::change::SdpAnswer::from_sdp_string(sdp).map_err(transport::sdp_error)?;
        let value = |name: &str| sdp.lines().find_map(|line| line.strip_prefix("a=")?.strip_prefix(name)?.strip_prefix(':'));
        let needed = |name: &str| value(name).ok_or_else(|| transport::sdp_error(format!("no {name}")));
        let credentials = IceCreds { ufrag: needed("ice-ufrag")?.to_owned(), pass: needed("ice-pwd")?.to_owned() };
        let fingerprint = needed("fingerprint")?.parse().map_err(transport::sdp_error)?;
        let audio_types = payload_types(sdp, "audio");
        if audio_types.is_empty() {
            return Err(MediaError::NoCommonAudio);
        }
        Ok(Self {
            credentials,
            fingerprint,
            is_passive: value("setup") == Some("passive"),
            ssrc: ssrcs(sdp, "audio").0,
            payload_types: audio_types,
            video_ssrcs: ssrcs(sdp, "video"),
            video_types: payload_types(sdp, "video"),
        })
    }
}

/// The lines of the first section of a kind, its head among them.
pub(super) fn section<'a>(sdp: &'a str, kind: &str) -> impl Iterator<Item = &'a str> {
    let head = format!("m={kind} ");
    let mut is_within = false;
    let mut is_over = false;
    sdp.lines().filter(move |line| {
        if line.starts_with("m=") {
            is_over |= is_within;
            is_within = !is_over && line.starts_with(&head);
        }
        is_within
    })
}

/// The payload types of the first section of a kind; none if it isn't meant for both directions, or refused.
fn payload_types(sdp: &str, kind: &str) -> Vec<Pt> {
    // `a=inactive` and the like would be an answer without.
    let is_one_way = section(sdp, kind).any(|line| ["a=inactive", "a=recvonly", "a=sendonly"].contains(&line));
    let head = section(sdp, kind).next().filter(|_| !is_one_way).unwrap_or_default();
    // Kind, port, transport, and then the types.
    let mut words = head.split_whitespace().skip(1);
    if words.next().is_none_or(|port| port == "0") {
        return Vec::new();
    }
    words.skip(1).filter_map(|word| word.parse::<u8>().ok()).map(Pt::from).collect()
}

/// The first stream that the first section of a kind names, and the stream of what is sent again of it.
pub(super) fn ssrcs(sdp: &str, kind: &str) -> (Option<u32>, Option<u32>) {
    let number = |text: &str| text.split_whitespace().next()?.parse::<u32>().ok();
    let group = section(sdp, kind).find_map(|line| line.strip_prefix("a=ssrc-group:FID "));
    let again = group.and_then(|group| group.split_whitespace().nth(1)?.parse().ok());
    let first = group.and_then(number).or_else(|| section(sdp, kind).find_map(|line| number(line.strip_prefix("a=ssrc:")?)));
    (first, again)
}
