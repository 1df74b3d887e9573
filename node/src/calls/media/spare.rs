//! Meeting an offer a second time.
//!
//! The answer to an offer that is out can be another one than first: a device that rang has connected media early, or tried to, and its person
//! answers when nothing of that is left. The offer says by which credentials, certificate and stream we are known, so an engine that has those
//! stands for it as well as the first; its sockets are others, whose candidates are trickled. The engine takes an answer only to an offer it
//! has made itself, so this one is told what the answer says piece by piece.

use str0m::{IceCreds, config::Fingerprint, format::Codec, media::MediaKind, media::Pt};
use tokio::runtime::Handle;

use super::{
    MediaConfig, MediaError, MediaSession,
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
        engine.set_remote_ice_credentials(answer.credentials);
        engine.set_remote_fingerprint(answer.fingerprint);
        engine.declare_media(mid, MediaKind::Audio);
        engine.declare_stream_tx(identity.ssrc.into(), None, mid, None);
        if let Some(ssrc) = answer.ssrc {
            engine.expect_stream_rx(ssrc.into(), None, mid, None);
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
        let is_opus = |pt: &Pt| {
            self.rtc.codec_config().params().iter().any(|params| params.pt() == *pt && params.spec().codec == Codec::Opus)
        };
        let pt = answer.payload_types.into_iter().find(is_opus).ok_or(MediaError::NoCommonAudio)?;
        self.audio = Some((mid, pt));
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
}

impl Answer {
    fn parse(sdp: &str) -> Result<Self, MediaError> {
        // Its form is judged as that of any other.
        str0m::change::SdpAnswer::from_sdp_string(sdp).map_err(transport::sdp_error)?;
        let value = |name: &str| sdp.lines().find_map(|line| line.strip_prefix("a=")?.strip_prefix(name)?.strip_prefix(':'));
        let needed = |name: &str| value(name).ok_or_else(|| transport::sdp_error(format!("no {name}")));
        let credentials = IceCreds { ufrag: needed("ice-ufrag")?.to_owned(), pass: needed("ice-pwd")?.to_owned() };
        let fingerprint = needed("fingerprint")?.parse().map_err(transport::sdp_error)?;
        // `a=inactive` and the like would be an answer without audio.
        let is_both_ways = !["a=inactive", "a=recvonly", "a=sendonly"].iter().any(|only| sdp.lines().any(|line| line == *only));
        let audio = sdp.lines().find_map(|line| line.strip_prefix("m=audio ")).filter(|_| is_both_ways);
        let mut words = audio.ok_or(MediaError::NoCommonAudio)?.split_whitespace();
        if words.next() == Some("0") {
            return Err(MediaError::NoCommonAudio);
        }
        let payload_types = words.skip(1).filter_map(|word| word.parse::<u8>().ok()).map(Pt::from).collect();
        Ok(Self { credentials, fingerprint, is_passive: value("setup") == Some("passive"), ssrc: first_ssrc(sdp), payload_types })
    }
}

/// The first stream that a description names.
pub(super) fn first_ssrc(sdp: &str) -> Option<u32> {
    let of_stream = sdp.lines().find_map(|line| line.strip_prefix("a=ssrc:"))?;
    of_stream.split_whitespace().next()?.parse().ok()
}
