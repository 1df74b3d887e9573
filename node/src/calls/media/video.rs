//! Video: encoded frames in, encoded frames out. Nothing here encodes or decodes.
//!
//! ```text
//! file or embedder -> VideoPort --(8 frames)--> session: packets (RFC 7741, RFC 6184), SRTP ---->
//! file or embedder <- VideoPort <--(32 events)-- session: frames in order, each whole <----------
//! ```
//!
//! A frame that finds a queue full is dropped and counted, and so is all that depends on it: what follows is wanted again from a key frame on.
//! Packets that are lost are asked for again (RFC 4585, RFC 4588); what doesn't come within [`assembly::GAP_MAX`] is given up, and the other
//! end is asked for a key frame. Its request arrives as [`VideoEvent::KeyFrameWanted`].

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

mod assembly;
pub(super) mod file;
mod offer;
mod packets;
mod rtp;
mod track;

pub use file::{ANNEX_B_RATE, VideoFileError, VideoFiles};
pub(super) use offer::shorten;
pub(super) use rtp::{VideoLine, VideoOffer, enable_codecs};
pub(super) use track::{ToSend, VideoTrack};

/// Longest encoded frame, in bytes: a key frame of 1080p at a good quality has a third of it. Longer ones are dropped, in both directions.
pub const FRAME_BYTES_MAX: usize = 512 * 1_024;
/// Frames waiting to be sent: a quarter of a second. An encoder that is further ahead than that is ahead of the network.
const TO_SEND_MAX: usize = 8;
/// Events waiting to be taken: a second of frames.
const EVENTS_MAX: usize = 32;
/// How long the end of a call waits for the port to take it.
const FINISH_MAX: Duration = Duration::from_secs(1);
/// Ticks of RTP's clock for video in a second (RFC 7741, RFC 6184).
const CLOCK_HZ: u64 = 90_000;

/// How frames are encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum VideoCodec {
    /// VP8 (RFC 6386): a frame as its encoder gives it.
    Vp8,
    /// H.264, constrained baseline profile: the units of one picture, each behind a start code (ITU-T H.264 annex B).
    H264,
}

/// One encoded picture.
#[derive(Clone, PartialEq, Eq)]
pub struct VideoFrame {
    /// How it is encoded.
    pub codec: VideoCodec,
    /// When it is to be shown, counted from any beginning that all frames of one direction share.
    pub at: Duration,
    /// Whether it can be decoded without those before it.
    pub is_key: bool,
    /// The encoded picture, [`FRAME_BYTES_MAX`] bytes at most.
    pub data: Arc<[u8]>,
}

impl std::fmt::Debug for VideoFrame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { codec, at, is_key, data } = self;
        write!(f, "VideoFrame({codec:?}, {at:?}, key: {is_key}, {} bytes)", data.len())
    }
}

impl VideoFrame {
    /// A frame; whether it is a key frame is read from it.
    #[must_use]
    pub fn new(codec: VideoCodec, at: Duration, data: impl Into<Arc<[u8]>>) -> Self {
        let data = data.into();
        let is_key = packets::is_key_frame(codec, &data);
        Self { codec, at, is_key, data }
    }
}

/// What happens to a call's video.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum VideoEvent {
    /// The call is answered and connected: frames count from now on, the first has to be a key frame. In one of these formats; with none of them
    /// the other end takes no video, and nothing follows.
    Started(Vec<VideoCodec>),
    /// The other end's next frame, the first of all being a key frame, and the first after any that were lost as well. The other end may have
    /// started before this one.
    Frame(VideoFrame),
    /// The other end can't go on without a key frame: make one.
    KeyFrameWanted,
    /// The call is over; nothing follows.
    Ended,
}

/// Why a frame isn't sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VideoRefused {
    /// Those before it are still waiting: the encoder is faster than the network. A key frame is needed to go on.
    #[error("frames are waiting to be sent; this one is dropped")]
    Full,
    /// One before it was dropped: this one couldn't be decoded. A key frame is needed to go on.
    #[error("a frame before this one was dropped; a key frame has to come first")]
    NeedsKeyFrame,
    /// It is longer than [`FRAME_BYTES_MAX`], or empty.
    #[error("a frame has 1 to {FRAME_BYTES_MAX} bytes")]
    Length,
    /// The call is over.
    #[error("the call is over")]
    Ended,
}

enum Outgoing {
    Frame(VideoFrame),
    KeyFrameWanted,
}

/// The embedder's end of a call's video.
#[derive(Debug)]
pub struct VideoPort {
    to_send: mpsc::Sender<Outgoing>,
    events: mpsc::Receiver<VideoEvent>,
    needs_key: bool,
}

impl VideoPort {
    /// Sends a frame, or drops it: never waits. Frames before [`VideoEvent::Started`] reach nobody.
    ///
    /// # Errors
    /// See [`VideoRefused`].
    pub fn send(&mut self, frame: VideoFrame) -> Result<(), VideoRefused> {
        if frame.data.is_empty() || frame.data.len() > FRAME_BYTES_MAX {
            self.needs_key = true;
            return Err(VideoRefused::Length);
        }
        if self.needs_key && !frame.is_key {
            return Err(VideoRefused::NeedsKeyFrame);
        }
        let sent = self.to_send.try_send(Outgoing::Frame(frame)).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => VideoRefused::Full,
            mpsc::error::TrySendError::Closed(_) => VideoRefused::Ended,
        });
        self.needs_key = sent.is_err();
        sent
    }

    /// What happens next; `None` once the call is over. Safe to drop.
    pub async fn next(&mut self) -> Option<VideoEvent> {
        self.events.recv().await
    }

    /// Asks the other end for a key frame: the decoder has lost its way. It is asked by itself where frames were lost.
    pub fn want_key_frame(&self) {
        // A full queue means that much is going on; the decoder will ask again.
        let _ = self.to_send.try_send(Outgoing::KeyFrameWanted);
    }
}

/// The session's end of a call's video. Clones are the same: of several sessions that might become the call's, the one that starts takes it.
#[derive(Clone)]
pub struct VideoLink(Arc<Shared>);

struct Shared {
    to_send: Mutex<Option<mpsc::Receiver<Outgoing>>>,
    events: mpsc::Sender<VideoEvent>,
    /// The port writes a file: the end of the call waits for it to be complete.
    is_file: AtomicBool,
}

impl std::fmt::Debug for VideoLink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VideoLink").finish_non_exhaustive()
    }
}

impl VideoLink {
    /// Both ends.
    #[must_use]
    pub fn new() -> (Self, VideoPort) {
        let (to_send, outgoing) = mpsc::channel(TO_SEND_MAX);
        let (sender, events) = mpsc::channel(EVENTS_MAX);
        let link =
            Self(Arc::new(Shared { to_send: Mutex::new(Some(outgoing)), events: sender, is_file: AtomicBool::new(false) }));
        (link, VideoPort { to_send, events, needs_key: false })
    }

    fn take(&self) -> Option<mpsc::Receiver<Outgoing>> {
        self.0.to_send.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// The call is over. A file that is being written is complete when this returns, if the disk isn't stuck.
    async fn finish(&self) {
        let shared = &self.0;
        let ended = async {
            // A port that is gone needs no last word.
            let _ = shared.events.send(VideoEvent::Ended).await;
            if shared.is_file.load(Ordering::Relaxed) {
                shared.events.closed().await;
            }
        };
        if tokio::time::timeout(FINISH_MAX, ended).await.is_err() {
            tracing::debug!("whoever has the video doesn't take its end");
        }
    }

    /// Whether it was taken.
    fn tell(&self, event: VideoEvent) -> bool {
        self.0.events.try_send(event).is_ok()
    }
}

/// What a session's video has measured so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct VideoStats {
    /// How the other end's frames are encoded, once one has come.
    pub codec: Option<VideoCodec>,
    /// Frames sent.
    pub frames_sent: u64,
    /// Key frames among them.
    pub key_frames_sent: u64,
    /// The other end's frames that came whole and were handed on.
    pub frames_received: u64,
    /// Frames that weren't handed on because nobody took them, or couldn't be decoded because of that; and frames to send in a format that the
    /// other end doesn't take.
    pub frames_dropped: u64,
    /// Packets of frames sent.
    pub packets_sent: u64,
    /// Packets of the other end's that came, those sent again included.
    pub packets_received: u64,
    /// Packets that were waited for in vain.
    pub packets_lost: u64,
    /// Bytes of encoded frames sent.
    pub bytes_sent: u64,
    /// Bytes of encoded frames received.
    pub bytes_received: u64,
    /// How often the other end was asked for a key frame.
    pub key_frames_asked: u64,
    /// How often the other end has asked for one.
    pub key_frames_wanted: u64,
}

fn ticks_of(at: Duration) -> u64 {
    let ticks = at.as_nanos() * u128::from(CLOCK_HZ) / 1_000_000_000;
    u64::try_from(ticks).unwrap_or(u64::MAX)
}

fn duration_of(ticks: u64) -> Duration {
    // Rounded up, so that a time that came from ticks gives the same ticks.
    Duration::from_secs(ticks / CLOCK_HZ) + Duration::from_nanos((ticks % CLOCK_HZ * 1_000_000_000).div_ceil(CLOCK_HZ))
}
