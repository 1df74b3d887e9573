//! The engine that does ICE, DTLS-SRTP and RTP: how it is made, and what it is given.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use str0m::{
    Input, Rtc, RtcConfig,
    config::DtlsCert,
    net::{Protocol, Receive},
    rtp::Extension,
    stats::PeerStats,
};

use halloo_protocol::phone::AudioCodec;

use super::{MediaError, candidates, codecs, transport::Identity, video};

/// Longest wait between two tries of one connectivity check. Also paces the keep-alive checks that
/// measure the round-trip time and notice a dead path.
const STUN_RETRY_MAX: Duration = Duration::from_secs(1);
/// Unanswered tries until a path counts as dead: 0.25 + 0.5 + 8 x 1 s, about 9 s.
const STUN_RETRIES_MAX: usize = 10;
/// How often the engine reports its round-trip time.
const STATS_INTERVAL: Duration = Duration::from_millis(500);
/// Reports to the other end about what arrived (RFC 3550 section 6.2); 5 s would be too rare
/// for a short call.
const RTCP_INTERVAL: Duration = Duration::from_secs(1);
/// First bytes up to here mark STUN, everything above is DTLS or media (RFC 7983).
const STUN_FIRST_BYTE_MAX: u8 = 3;
/// Types of packets that are reports and no media, without their highest bit (RFC 5761 section 4).
const REPORT_TYPES: std::ops::RangeInclusive<u8> = 64..=95;
/// Number of the header extension that carries the media's identifier; any of 1 to 14 would do.
const MID_EXTENSION: u8 = 4;
/// Sources remembered as verified. Those beyond wait until the engine knows them.
const VERIFIED_SOURCES_MAX: usize = candidates::REMOTE_CANDIDATES_MAX;
/// First bytes of media and its reports (RFC 7983).
const MEDIA_FIRST_BYTES: std::ops::RangeInclusive<u8> = 128..=191;

pub(super) fn build(
    now: Instant,
    identity: Option<&Identity>,
    audio: &[AudioCodec],
    video: bool,
) -> Result<(Rtc, DtlsCert), MediaError> {
    // The provider is named here because a process may hold several, and an embedder may have
    // chosen another as the process's default.
    let provider = Arc::new(str0m::crypto::from_feature_flags());
    let certificate = match identity {
        Some(identity) => identity.certificate.clone(),
        None => provider.dtls_provider.generate_certificate().ok_or(MediaError::Certificate)?,
    };
    let mut config = RtcConfig::new()
        .set_crypto_provider(provider)
        .set_dtls_cert(certificate.clone())
        .set_rtp_mode(true)
        .clear_codecs()
        .clear_extension_map()
        // The one header extension BUNDLE needs (RFC 8843 section 9), for stacks that do not announce
        // their stream's SSRC.
        .set_extension(MID_EXTENSION, Extension::RtpMid)
        .set_stats_interval(Some(STATS_INTERVAL))
        .set_rtcp_report_interval_audio(RTCP_INTERVAL);
    config = codecs::enable(config, audio);
    config.set_max_stun_rto(STUN_RETRY_MAX);
    config.set_max_stun_retransmits(STUN_RETRIES_MAX);
    if video {
        config = video::enable_codecs(config);
    }
    if let Some(identity) = identity {
        config = config.set_local_ice_credentials(identity.credentials.clone());
    }
    Ok((config.build(now), certificate))
}

/// Hands a datagram to the engine; whether it is the other end's.
pub(super) fn feed(
    rtc: &mut Rtc,
    verified_sources: &mut BTreeSet<SocketAddr>,
    (source, destination): (SocketAddr, SocketAddr),
    contents: &[u8],
    now: Instant,
) -> bool {
    let is_stun = is_stun(contents);
    // What is neither STUN, DTLS nor media, or does not belong to this call, is anyone's noise.
    let Ok(receive) = Receive::new(Protocol::Udp, source, destination, contents) else { return false };
    let input = Input::Receive(now, receive);
    // The engine would know a source only once its own check there has succeeded. The other end's
    // first handshake message may overtake that, and losing it would cost a second.
    let is_verified = !is_stun && verified_sources.contains(&source);
    if !is_verified && !rtc.accepts(&input) {
        return false;
    }
    if is_stun && verified_sources.len() < VERIFIED_SOURCES_MAX {
        verified_sources.insert(source);
    }
    if let Err(error) = rtc.handle_input(input) {
        // One bad packet from outside must not end a call; the handshake's deadline catches
        // a handshake that cannot succeed.
        tracing::debug!(%error, "datagram refused");
    }
    true
}

pub(super) fn is_stun(datagram: &[u8]) -> bool {
    datagram.first().is_some_and(|&byte| byte <= STUN_FIRST_BYTE_MAX)
}

/// Whether a datagram is a packet of audio: RTP, and no report on it (RFC 5761 section 4), which are 64 to 95 without their highest bit.
pub(super) fn is_audio(datagram: &[u8]) -> bool {
    let Some(&[first, second]) = datagram.first_chunk::<2>() else { return false };
    MEDIA_FIRST_BYTES.contains(&first) && !REPORT_TYPES.contains(&(second & 0x7F))
}

/// STUN's measurement is the fresher one; RTCP's is there if only reports have come.
pub(super) fn round_trip(stats: &PeerStats) -> Option<Duration> {
    let pair = stats.selected_candidate_pair.as_ref();
    pair.and_then(|pair| pair.current_round_trip_time).or(stats.rtt)
}

/// Whether a datagram is media or a report on it.
pub(super) fn is_media(datagram: &[u8]) -> bool {
    datagram.first().is_some_and(|byte| MEDIA_FIRST_BYTES.contains(byte))
}
