//! Video in a call's transport: beside audio, in the same session.

use std::time::Instant;

use str0m::{
    RtcConfig,
    format::Codec,
    media::{Direction, KeyframeRequestKind, MediaKind, Mid, Pt},
    rtp::RtpWrite,
};

use super::super::{MediaError, transport::Transport};
use super::{VideoCodec, VideoFrame, packets, ticks_of};

/// Types of payload for VP8 and H.264, and for packets of them that are sent again: any of the dynamic ones would do.
const VP8: (u8, u8) = (96, 97);
const H264: (u8, u8) = (108, 109);
/// Constrained baseline, level 3.1: what every stack has (RFC 7742 section 6.2).
const H264_PROFILE: u32 = 0x42_e0_1f;
/// Packets that can be asked for again, and for how long.
const RESENT_MAX: usize = 1_024;
const RESENT_FOR: std::time::Duration = std::time::Duration::from_secs(1);
/// What may be sent again, as a share of what was sent: the other end asks for it, as often as it likes.
const RESENT_SHARE_MAX: f32 = 0.15;
const TRACK_ID: &str = "video";

/// The video that both ends have agreed on.
#[derive(Debug, Clone)]
pub(in super::super) struct VideoLine {
    mid: Mid,
    formats: Vec<(Pt, VideoCodec)>,
    next_sequence: u64,
}

/// What an offer has told of its video.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct VideoOffer {
    pub(in super::super) mid: Mid,
    pub(in super::super) ssrc: u32,
    /// The stream of what is sent again.
    pub(in super::super) again: Option<u32>,
}

impl VideoLine {
    pub(in super::super) fn codec_of(&self, pt: Pt) -> Option<VideoCodec> {
        self.formats.iter().find(|(known, _)| *known == pt).map(|(_, codec)| *codec)
    }
}

/// Lets the engine negotiate video.
pub(in super::super) fn enable_codecs(config: RtcConfig) -> RtcConfig {
    let mut config = config;
    let codecs = config.codec_config();
    let (pt, again) = VP8;
    codecs.add_config(
        pt.into(),
        Some(again.into()),
        Codec::Vp8,
        str0m::media::Frequency::NINETY_KHZ,
        None,
        str0m::format::FormatParams::default(),
    );
    let (pt, again) = H264;
    codecs.add_h264(pt.into(), Some(again.into()), true, H264_PROFILE);
    config
}

impl Transport {
    /// Adds video to the offer that is being made.
    pub(in super::super) fn offer_video(changes: &mut str0m::change::SdpApi<'_>, stream_id: &str) -> Mid {
        let (stream, track) = (Some(stream_id.to_owned()), Some(TRACK_ID.to_owned()));
        changes.add_media(MediaKind::Video, Direction::SendRecv, stream, track, None)
    }

    /// Sends and receives this video, if both ends agreed on it. A call goes on without.
    pub(in super::super) fn use_video(&mut self, mid: Mid) {
        let Some(media) = self.rtc.media(mid) else { return };
        if media.disabled() || !media.direction().is_sending() || !media.direction().is_receiving() {
            return;
        }
        let remote = media.remote_pts().to_vec();
        self.set_video(mid, &remote);
    }

    /// The same with the types of payload that the other end takes.
    pub(in super::super) fn set_video(&mut self, mid: Mid, remote: &[Pt]) {
        let params = self.rtc.codec_config().params();
        let format = |pt: &Pt| {
            let codec = params.iter().find(|params| params.pt() == *pt)?.spec().codec;
            let codec = match codec {
                Codec::Vp8 => VideoCodec::Vp8,
                Codec::H264 => VideoCodec::H264,
                _ => return None,
            };
            Some((*pt, codec))
        };
        let formats: Vec<(Pt, VideoCodec)> = remote.iter().filter_map(format).collect();
        if formats.is_empty() {
            return;
        }
        if let Some(stream) = self.rtc.direct_api().stream_tx_by_mid(mid, None) {
            stream.set_rtx_cache(RESENT_MAX, RESENT_FOR, Some(RESENT_SHARE_MAX));
        }
        self.video = Some(VideoLine { mid, formats, next_sequence: 0 });
    }

    /// In what formats video is exchanged, if it is.
    pub(in super::super) fn video_codecs(&self) -> Vec<VideoCodec> {
        self.video.iter().flat_map(|line| line.formats.iter().map(|(_, codec)| *codec)).collect()
    }

    /// Sends a frame; the number of its packets. `None` if the other end doesn't take its format.
    pub(super) fn send_video(&mut self, frame: &VideoFrame, now: Instant) -> Result<Option<u64>, MediaError> {
        let Some(line) = &mut self.video else { return Ok(None) };
        let Some((pt, _)) = line.formats.iter().find(|(_, codec)| *codec == frame.codec).copied() else { return Ok(None) };
        let payloads = packets::cut(frame.codec, &frame.data);
        let sent = payloads.len();
        let first = line.next_sequence;
        line.next_sequence += sent as u64;
        // RTP's clock runs over, and is meant to.
        let ticks = ticks_of(frame.at) as u32;
        let mid = line.mid;
        if let Some(stream) = self.rtc.direct_api().stream_tx_by_mid(mid, None) {
            for (index, payload) in payloads.into_iter().enumerate() {
                let number = first + index as u64;
                let packet = RtpWrite::new(pt, number.into(), ticks, now, payload).marker(index + 1 == sent).nackable(true);
                stream.write_rtp(packet);
            }
        }
        self.drain()?;
        // Queued packets leave when the engine's clock moves.
        self.handle_timeout(now)?;
        Ok(Some(sent as u64))
    }

    /// Asks the other end for a key frame (RFC 4585 section 6.3.1).
    pub(super) fn want_key_frame(&mut self, now: Instant) -> Result<(), MediaError> {
        let Some(mid) = self.video.as_ref().map(|line| line.mid) else { return Ok(()) };
        if let Some(stream) = self.rtc.direct_api().stream_rx_by_mid(mid, None) {
            stream.request_keyframe(KeyframeRequestKind::Pli);
        }
        self.drain()?;
        self.handle_timeout(now)
    }
}
