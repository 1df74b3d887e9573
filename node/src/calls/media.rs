//! The media of one call: WebRTC (ICE, DTLS-SRTP, RTP) carrying Opus or G.711, fed from and recorded
//! to WAV files, or encoded audio ([`port`]) and video ([`video`]) as it comes.
//!
//! Knows nothing of signalling: session descriptions (SDP, RFC 8829) go in and out as text.
//!
//! ```text
//! caller                                        callee
//! offer() -> PendingMedia, offer  ----------->
//!                                               answer() -> MediaSession, answer
//!                                               ICE and DTLS start: it rings
//!            PendingMedia::accept() <---------
//! <========= ICE checks, DTLS handshake: MediaEvent::Connected at both =========>
//!                                               user answers: MediaSession::start()
//! MediaSession::start()             <---------
//! <========= Opus in SRTP, one packet each 20 ms, until close() ================>
//! ```
//!
//! Either end may be connected long before somebody answers ([`MediaConfig::early`]). If that comes to nothing the same offer is met
//! again, by a [`SpareOffer`] that was kept of it.
//!
//! No audio leaves before [`MediaSession::start`]: a ringing phone is not a microphone. What a network behind the callee says while it rings is
//! another matter ([`EarlyAudio`]); nothing goes from the caller to the callee even then. The DTLS
//! certificate is fresh for each call and its fingerprint is in the description, so whoever
//! carries the descriptions unaltered (the signed signalling) binds the media to the signers; a
//! certificate that does not match ends the session with [`MediaError::FingerprintMismatch`].
//!
//! One task owns sockets and engine of a session; the handle talks to it through bounded
//! channels, and dropping the handle ends the task and closes the sockets. A [`PendingMedia`] has
//! one too, which keeps alive what relays lend. While a file is played and while one is
//! recorded, each takes a thread of the runtime's blocking pool (512 unless configured). Limits, times and what happens at each are
//! constants in the submodules.

use std::{
    io,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use halloo_protocol::phone::keys::Key;
use halloo_protocol::phone::{AudioCodec, names};
use serde::Serialize;
use str0m::Candidate;
use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot, watch},
};
use tokio_util::task::AbortOnDropHandle;

mod audio;
mod candidates;
pub(crate) mod codecs;
#[cfg(feature = "desktop-audio")]
mod desktop;
mod engine;
mod g711;
mod pairs;
mod path_watch;
mod pinned;
mod playout;
pub mod port;
pub mod recording;
#[doc(hidden)]
pub mod rehearsal;
mod room;
mod session;
mod sockets;
mod sound;
mod spare;
mod steering;
pub mod tone;
mod transport;
mod turn;
pub mod video;
mod wav;

pub use candidates::{MediaPath, PathKind};
pub use room::Room;
pub(crate) use sound::IS_BUILT_IN as HAS_SOUND;
pub use sound::Microphone;
pub use spare::SpareOffer;
pub use turn::{RELAYS_MAX, RelayServer, TlsServer};
pub use wav::WavError;

use session::{Advice, Control, Session};
use transport::{PendingOffer, Transport};
use wav::WavSource;

/// Longest session description accepted, in bytes: three times what this engine writes, room for
/// other stacks' audio descriptions.
pub const SDP_BYTES_MAX: usize = 4 * 1_024;
/// Default of [`MediaConfig::connect_timeout`]: twice what the checks of one candidate pair take to
/// fail for good.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// How long an interrupted path may take to come back before the session fails.
pub const RECOVERY_TIMEOUT: Duration = Duration::from_secs(15);
/// Events waiting for [`MediaSession::next_event`]; when full the newest is dropped. A session has
/// a handful of them unless its path flaps.
const EVENTS_MAX: usize = 16;
/// Trickled candidates and other advice waiting for the session's task; when full,
/// [`MediaSession::add_remote_candidate`] refuses.
const ADVICE_WAITING_MAX: usize = candidates::REMOTE_CANDIDATES_MAX;

/// What a media session works with.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct MediaConfig {
    /// WAV file to send: 8 to 48 kHz, mono or stereo, integers or 32-bit floats. After its end, or
    /// without one, silence is sent, so that loss and round-trip time stay measurable.
    pub play: Option<PathBuf>,
    /// WAV file to write what is received to (48 kHz, mono, 16 bit), replaced if it exists. It begins
    /// when the session is both started and connected; silence stands where nothing came. A
    /// process that is killed leaves a readable file lacking at most the last second.
    pub record: Option<PathBuf>,
    /// Whether the machine's microphone and loudspeakers take part; in a room of the session's own.
    pub microphone: Microphone,
    /// Where the session's audio comes from and goes to, if it shares that with other sessions; `play` and `record` are then the room's. `None`: a
    /// room of its own.
    pub room: Option<Room>,
    /// The codecs of audio that may be used, the preferred first: at least one. An offer names all of them, an answer the first that is offered.
    pub codecs: Vec<AudioCodec>,
    /// Encoded audio that passes through as it is; the room isn't used then. `None`: audio is encoded and decoded here.
    pub audio: Option<port::AudioLink>,
    /// Video beside the voice: offered, and taken where it is offered. `None`: voice only.
    pub video: Option<video::VideoLink>,
    /// Files of video, to be checked with the others. Played and recorded by whoever has the link's other end.
    pub video_files: video::VideoFiles,
    /// Permits loopback addresses on either side. For networks within one machine.
    pub lab: bool,
    /// Addresses to bind, four at most; empty: those of the interfaces.
    pub bind: Vec<IpAddr>,
    /// Media relays to use, [`RELAYS_MAX`] at most: for our address as others see it, and where nothing else connects.
    pub relays: Vec<RelayServer>,
    /// Media goes through a relay only, so that the other end doesn't learn our addresses.
    pub relayed_only: bool,
    /// The session connects while it rings: what the other end sends before [`MediaSession::answered`] or [`MediaSession::start`] isn't kept, and
    /// the time to connect is counted anew from the start.
    pub early: bool,
    /// How long ICE and DTLS may take, from [`answer`] or [`PendingMedia::accept`] on. The callee's
    /// runs while the caller does not even have its answer: allow for the signalling.
    pub connect_timeout: Duration,
}

impl Default for MediaConfig {
    fn default() -> Self {
        Self {
            play: None,
            record: None,
            microphone: Microphone::Off,
            room: None,
            codecs: codecs::OWN.to_vec(),
            audio: None,
            video: None,
            video_files: video::VideoFiles::default(),
            lab: false,
            bind: Vec::new(),
            relays: Vec::new(),
            relayed_only: false,
            early: false,
            connect_timeout: CONNECT_TIMEOUT,
        }
    }
}

impl MediaConfig {
    /// Sends this WAV file.
    #[must_use]
    pub fn play(mut self, path: impl Into<PathBuf>) -> Self {
        self.play = Some(path.into());
        self
    }

    /// Records what is received to this WAV file.
    #[must_use]
    pub fn record(mut self, path: impl Into<PathBuf>) -> Self {
        self.record = Some(path.into());
        self
    }

    /// Uses the machine's microphone and loudspeakers.
    #[must_use]
    pub fn microphone(mut self, microphone: Microphone) -> Self {
        self.microphone = microphone;
        self
    }

    /// Shares what is said and heard with other sessions: a conference.
    #[must_use]
    pub fn room(mut self, room: Room) -> Self {
        self.room = Some(room);
        self
    }

    /// Passes encoded audio through, in one of these codecs. With none of them everything is as it was.
    #[must_use]
    pub fn passthrough(mut self, link: Option<port::AudioLink>, codecs: &[AudioCodec]) -> Self {
        if link.is_some() && !codecs.is_empty() {
            self.codecs = codecs.to_vec();
            self.audio = link;
        }
        self
    }

    /// Exchanges video too.
    #[must_use]
    pub fn video(mut self, video: Option<video::VideoLink>) -> Self {
        self.video = video;
        self
    }

    /// Checks these files of video with the others.
    #[must_use]
    pub fn video_files(mut self, files: video::VideoFiles) -> Self {
        self.video_files = files;
        self
    }

    /// Permits loopback addresses.
    #[must_use]
    pub fn lab(mut self, lab: bool) -> Self {
        self.lab = lab;
        self
    }

    /// Uses these media relays.
    #[must_use]
    pub fn relays(mut self, relays: impl IntoIterator<Item = RelayServer>) -> Self {
        self.relays = relays.into_iter().collect();
        self
    }

    /// Sends nothing but through a relay.
    #[must_use]
    pub fn relayed_only(mut self, relayed_only: bool) -> Self {
        self.relayed_only = relayed_only;
        self
    }

    /// Connects while it rings.
    #[must_use]
    pub fn early(mut self, early: bool) -> Self {
        self.early = early;
        self
    }

    /// Binds these addresses instead of the interfaces'.
    #[must_use]
    pub fn bind(mut self, addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        self.bind = addresses.into_iter().collect();
        self
    }

    /// Changes how long ICE and DTLS may take.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Finds what is wrong with the files before the call instead of in it.
    ///
    /// # Errors
    /// [`MediaError::Play`] and [`MediaError::Record`].
    pub async fn check_files(&self) -> Result<(), MediaError> {
        let needs_sound = self.microphone == Microphone::On;
        if self.play.is_none() && self.record.is_none() && !needs_sound && self.video_files.is_empty() {
            return Ok(());
        }
        let config = self.clone();
        let checked = tokio::task::spawn_blocking(move || config.check_files_blocking()).await;
        checked.unwrap_or_else(|error| Err(MediaError::Internal { detail: error.to_string() }))
    }

    fn check_files_blocking(&self) -> Result<(), MediaError> {
        if self.microphone == Microphone::On {
            sound::open().map_err(|detail| MediaError::Sound { detail })?;
        }
        let checked = self.video_files.check_blocking();
        checked.map_err(|(path, source)| MediaError::VideoFile { path, source: Arc::new(source) })?;
        if let Some(path) = &self.play {
            WavSource::open(path).map_err(|source| MediaError::Play { path: path.clone(), source })?;
        }
        if let Some(path) = &self.record {
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
            let is_folder = folder.unwrap_or(Path::new(".")).is_dir();
            if !is_folder || path.is_dir() {
                let source = io::Error::from(io::ErrorKind::NotFound).into();
                return Err(MediaError::Record { path: path.clone(), source });
            }
        }
        Ok(())
    }
}

/// What of the audio passes before the call is answered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum EarlyAudio {
    /// Nothing, in either direction.
    #[default]
    Silent,
    /// The caller's end: what comes is heard, and nothing is sent.
    Hears,
    /// The callee's end, of encoded audio that passes through: it is sent, and what comes isn't taken.
    Speaks,
}

/// Why media cannot be set up or has ended.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum MediaError {
    /// The other end's description is longer than [`SDP_BYTES_MAX`].
    #[error("session description of {bytes} bytes exceeds {SDP_BYTES_MAX}")]
    SdpTooLarge {
        /// Its length.
        bytes: usize,
    },
    /// The other end's description cannot be used.
    #[error("session description refused: {detail}")]
    SdpInvalid {
        /// What the parser or the engine said.
        detail: String,
    },
    /// The descriptions share no audio that both ends send and receive.
    #[error("no audio in common")]
    NoCommonAudio,
    /// The other end offers audio in other codecs only than can be used here.
    #[error("no audio codec in common: {} offered, {} usable here", names(offered), names(able))]
    NoCommonCodec {
        /// What it offers, of those that are known here.
        offered: Vec<AudioCodec>,
        /// What can be used here.
        able: Vec<AudioCodec>,
    },
    /// A trickled candidate cannot be parsed.
    #[error("candidate refused: {detail}")]
    CandidateInvalid {
        /// What the parser said.
        detail: String,
    },
    /// Candidates arrive faster than the session takes them.
    #[error("too many candidates are waiting")]
    CandidatesWaiting,
    /// The network interfaces cannot be listed.
    #[error("cannot list network interfaces")]
    Interfaces {
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// No interface has an address that may be used.
    #[error("no usable local address")]
    NoLocalAddress,
    /// None of the addresses can be bound; this is the last one.
    #[error("cannot bind a media socket on {address}")]
    Bind {
        /// The address.
        address: IpAddr,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// The file to send cannot be played.
    #[error("cannot play {}", path.display())]
    Play {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: WavError,
    },
    /// The recording cannot be written.
    #[error("cannot record to {}", path.display())]
    Record {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        source: WavError,
    },
    /// The microphone or the loudspeakers can't be used.
    #[error("no sound: {detail}")]
    Sound {
        /// What the system said.
        detail: String,
    },
    /// A file of video can't be played, or not be recorded to.
    #[error("cannot use {}", path.display())]
    VideoFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Arc<video::VideoFileError>,
    },
    /// No certificate could be made for the call.
    #[error("cannot make a DTLS certificate")]
    Certificate,
    /// The other end's certificate is not the one its description announced: someone is in between.
    #[error("the other end's certificate does not match its session description")]
    FingerprintMismatch,
    /// Media was to go through a relay only, and none lends an address.
    #[error("no media relay lends an address: {why}")]
    NoRelay {
        /// What the last of them said.
        why: String,
    },
    /// ICE and DTLS did not finish in time.
    #[error("not connected after {after:?}")]
    ConnectTimeout {
        /// The time allowed.
        after: Duration,
    },
    /// The path was interrupted and did not come back.
    #[error("path lost for {after:?}")]
    PathLost {
        /// The time allowed.
        after: Duration,
    },
    /// The WebRTC engine gave up.
    #[error("media transport failed: {detail}")]
    Transport {
        /// What the engine said.
        detail: String,
    },
    /// The Opus codec refused our own settings or audio.
    #[error("audio codec failed: {detail}")]
    Codec {
        /// What the codec said.
        detail: String,
    },
    /// The session is over.
    #[error("media session has ended")]
    Ended,
    /// A task of ours failed: a bug.
    #[error("internal failure: {detail}")]
    Internal {
        /// What is known.
        detail: String,
    },
}

/// What happens in a session.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum MediaEvent {
    /// ICE has found a path, once per session: DTLS goes over it.
    IceConnected,
    /// ICE and DTLS are through, once per session.
    Connected(MediaPath),
    /// The first packet of the other end's audio that counts has come.
    FirstAudio,
    /// Media goes another way from now on.
    PathChanged(MediaPath),
    /// This media relay lends no address; in its words, why: of a quota that is used up it says which.
    RelayFailed(std::net::SocketAddr, String),
    /// One more candidate of ours (RFC 8838), as an SDP attribute, or one that is taken back: tell the other end.
    LocalCandidate(String),
    /// The other end has pressed this key.
    Key(Key),
    /// The file to send has been sent to its end.
    PlaybackFinished,
    /// Nothing has come from the other end for 5 seconds, or it no longer answers checks. The session
    /// waits for it for [`RECOVERY_TIMEOUT`].
    Disconnected,
    /// The other end is back.
    Reconnected,
    /// The other end ended its session. No event follows.
    Closed,
    /// The session has failed. No event follows.
    Failed(MediaError),
}

/// What a session has measured so far.
#[derive(Debug, Clone, Default, Serialize)]
#[non_exhaustive]
pub struct MediaStats {
    /// The codec of the audio, both ways.
    pub codec: Option<AudioCodec>,
    /// Whether the other end takes keys that are pressed.
    pub takes_keys: bool,
    /// The way media takes, once connected.
    pub path: Option<MediaPath>,
    /// Milliseconds from making the session to [`MediaEvent::Connected`].
    pub connect_ms: Option<f64>,
    /// Most recent round-trip time in milliseconds, once measured.
    pub rtt_ms: Option<f64>,
    /// Audio packets sent.
    pub packets_sent: u64,
    /// Packets of audio (RTP) that left before the answer, which none does but where an end is meant to be heard ([`EarlyAudio`]), and those that came
    /// and were dropped: some may come at the caller's end that were faster than the accept.
    pub packets_early: u64,
    /// Of these, those that left.
    pub packets_left_early: u64,
    /// Datagrams the system refused to send: full buffers, unreachable networks.
    pub send_failures: u64,
    /// Audio packets received, late ones included.
    pub packets_received: u64,
    /// Audio packets that never came, by their sequence numbers.
    pub packets_lost: u64,
    /// Share of the packets that never came, 0 to 1.
    pub loss: f64,
    /// Packets that came after their turn to be played.
    pub packets_late: u64,
    /// Milliseconds for which a received packet waits to be played, so that few come too late: what the path's jitter asks for.
    pub buffer_ms: f64,
    /// Played frames of 20 ms that were rebuilt or invented for missing packets.
    pub concealed_frames: u64,
    /// Variation of the packets' travelling time in milliseconds (RFC 3550 section 6.4.1).
    pub jitter_ms: f64,
    /// The same of video, if both ends have agreed on it.
    pub video: Option<video::VideoStats>,
}

/// What a session came to.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct MediaSummary {
    /// The final measurements.
    pub stats: MediaStats,
    /// Milliseconds of audio recorded, silence included.
    pub recorded_ms: u64,
    /// Why the session failed, with its causes; `None` if it was ended by either side.
    pub failure: Option<String>,
}

/// Makes an offer to one callee device.
///
/// Binds sockets and starts nothing. Dropping the future or the [`PendingMedia`] releases them.
///
/// # Errors
/// [`MediaError::Play`] and [`MediaError::Record`] for unusable files, [`MediaError::NoLocalAddress`] and
/// [`MediaError::Bind`] without a socket, [`MediaError::NoRelay`] where nothing but a relay will do and none does.
pub async fn offer(config: MediaConfig) -> Result<(PendingMedia, String), MediaError> {
    config.check_files().await?;
    let mut transport = Transport::new(&config).await?;
    if config.relayed_only {
        // There is nothing else to describe. Otherwise what relays lend is trickled: the invite waits for nobody.
        transport.gather().await?;
    }
    let (pending, sdp) = transport.create_offer()?;
    let local_candidates = transport.local_candidates();
    let runtime = Handle::current();
    let (stop, stopped) = oneshot::channel();
    let task = AbortOnDropHandle::new(runtime.spawn(keep(transport, stopped)));
    Ok((PendingMedia { config, stop, task, pending, local_candidates, runtime }, sdp))
}

/// Answers a caller's offer. ICE and DTLS start at once; audio waits for [`MediaSession::start`].
///
/// Dropping the future releases everything.
///
/// # Errors
/// As [`offer`], and [`MediaError::SdpTooLarge`], [`MediaError::SdpInvalid`] or [`MediaError::NoCommonAudio`] for
/// an offer that cannot be answered.
pub async fn answer(config: MediaConfig, offer: &str) -> Result<(MediaSession, String), MediaError> {
    transport::check_length(offer)?;
    config.check_files().await?;
    let config = MediaConfig { codecs: codecs::answer(&config.codecs, offer)?, ..config };
    let mut transport = Transport::new(&config).await?;
    if config.relayed_only {
        // There is nothing else to describe.
        transport.gather().await?;
    }
    let sdp = transport.accept_offer(offer)?;
    Ok((MediaSession::spawn(config, transport, &Handle::current())?, sdp))
}

/// Serves the transport of a waiting offer until it is answered.
async fn keep(mut transport: Transport, stopped: oneshot::Receiver<()>) -> Result<Transport, MediaError> {
    tokio::select! {
        biased;
        _ = stopped => Ok(transport),
        error = transport.linger() => Err(error),
    }
}

/// An offer waiting for its answer. A task keeps what relays lend; dropping it ends the task and closes the sockets.
#[must_use = "dropping it withdraws the offer"]
pub struct PendingMedia {
    config: MediaConfig,
    stop: oneshot::Sender<()>,
    task: AbortOnDropHandle<Result<Transport, MediaError>>,
    pending: PendingOffer,
    local_candidates: Vec<String>,
    runtime: Handle,
}

impl PendingMedia {
    /// Connects while it rings: [`PendingMedia::accept`] takes an answer that nobody has given yet.
    pub fn early(mut self) -> Self {
        self.config.early = true;
        self
    }

    /// Whether it goes through a relay only.
    pub fn is_relayed_only(&self) -> bool {
        self.config.relayed_only
    }

    /// What it takes to meet another answer to this offer, should the first come to nothing. Holds no sockets.
    pub fn spare(&self) -> SpareOffer {
        SpareOffer::new(self.config.clone(), self.pending.identity.clone(), self.runtime.clone())
    }

    /// Takes the callee's answer; ICE and DTLS start.
    ///
    /// # Errors
    /// [`MediaError::SdpTooLarge`], [`MediaError::SdpInvalid`] or [`MediaError::NoCommonAudio`]. The offer is spent
    /// either way.
    pub async fn accept(self, answer: &str) -> Result<MediaSession, MediaError> {
        let Self { config, stop, task, pending, runtime, .. } = self;
        // A task that has ended by itself says why.
        let _ = stop.send(());
        let kept = task.await.unwrap_or_else(|error| Err(MediaError::Internal { detail: error.to_string() }));
        let mut transport = kept?;
        transport.accept_answer(pending, answer)?;
        MediaSession::spawn(config, transport, &runtime)
    }

    /// Our candidates as SDP attributes (`candidate:...`); they are in the offer too.
    pub fn local_candidates(&self) -> &[String] {
        &self.local_candidates
    }
}

impl std::fmt::Debug for PendingMedia {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PendingMedia").field("config", &self.config).finish_non_exhaustive()
    }
}

/// Handle of a running session. Dropping it ends the session at once, without a goodbye; the
/// recording is completed all the same.
#[derive(Debug)]
#[must_use = "dropping it ends the session"]
pub struct MediaSession {
    control: watch::Sender<Control>,
    advice: mpsc::Sender<Advice>,
    events: mpsc::Receiver<MediaEvent>,
    stats: watch::Receiver<MediaStats>,
    local_candidates: Vec<String>,
    task: AbortOnDropHandle<MediaSummary>,
}

impl MediaSession {
    fn spawn(config: MediaConfig, transport: Transport, runtime: &Handle) -> Result<Self, MediaError> {
        let (control, control_receiver) = watch::channel(Control::default());
        let (advice, advice_receiver) = mpsc::channel(ADVICE_WAITING_MAX);
        let (event_sender, events) = mpsc::channel(EVENTS_MAX);
        let (stats_sender, stats) = watch::channel(MediaStats::default());
        let local_candidates = transport.local_candidates();
        let session = Session::new(config, transport, control_receiver, advice_receiver, event_sender, stats_sender)?;
        let task = AbortOnDropHandle::new(runtime.spawn(session.run()));
        Ok(Self { control, advice, events, stats, local_candidates, task })
    }

    /// The call is answered here, and the other end is being told: what comes from it counts from now on. These are the files to play and to
    /// record to from [`MediaSession::start`] on; [`MediaConfig::check_files`] tells whether they can be used.
    pub fn answered(&self, play: Option<PathBuf>, record: Option<PathBuf>) {
        self.answered_in(Some(Room::new(play, record)));
    }

    /// The same with what is said and heard being shared with other sessions; `None`: as the session was made.
    pub fn answered_in(&self, room: Option<Room>) {
        self.control.send_modify(|control| {
            control.answered = true;
            control.room = room.or(control.room.take());
        });
    }

    /// Lets this much of the audio pass while it rings, for good.
    pub fn early_audio(&self, early: EarlyAudio) {
        self.control.send_modify(|control| control.early = early);
    }

    /// Lets audio flow: the call is answered. Playing and recording begin as soon as the session is
    /// connected too. Calling it again does nothing.
    pub fn start(&self) {
        self.control.send_modify(|control| {
            control.answered = true;
            control.started = true;
        });
    }

    /// The next event; `None` once the session is over. Safe to drop.
    pub async fn next_event(&mut self) -> Option<MediaEvent> {
        self.events.recv().await
    }

    /// What has been measured, at most 0.2 s old.
    pub fn stats(&self) -> MediaStats {
        self.stats.borrow().clone()
    }

    /// The same for others to look at, for as long as the session runs and beyond.
    pub fn watch_stats(&self) -> watch::Receiver<MediaStats> {
        self.stats.clone()
    }

    /// Our candidates as SDP attributes (`candidate:...`); they are in the description too.
    pub fn local_candidates(&self) -> &[String] {
        &self.local_candidates
    }

    /// Hands on what the other end trickled (RFC 8838): a candidate it found later, as an SDP attribute, or one that it takes back. Those
    /// beyond 16 in all, and addresses that may not be used, are dropped.
    ///
    /// # Errors
    /// [`MediaError::CandidateInvalid`] if it cannot be parsed, [`MediaError::CandidatesWaiting`] if they come
    /// too fast, [`MediaError::Ended`] if the session is over.
    pub fn add_remote_candidate(&self, candidate: &str) -> Result<(), MediaError> {
        transport::check_length(candidate)?;
        let attribute = candidate.trim().trim_start_matches("a=");
        let removed = attribute.strip_prefix(transport::REMOVAL);
        let candidate = Candidate::from_sdp_string(removed.unwrap_or(attribute)).map_err(transport::candidate_error)?;
        self.advise(if removed.is_some() { Advice::Removal(candidate) } else { Advice::Candidate(candidate) })
    }

    /// The media relay at these addresses is about to end: media that goes through it changes to another one, if the session has one.
    ///
    /// # Errors
    /// [`MediaError::CandidatesWaiting`] if the session has too much to do, [`MediaError::Ended`] if it is over.
    pub fn leave_relay(&self, relay: Vec<std::net::SocketAddr>) -> Result<(), MediaError> {
        self.advise(Advice::LeaveRelay(relay))
    }

    /// These are the media relays at hand now, with fresh credentials: they take the place of those that fail.
    ///
    /// # Errors
    /// As [`Self::leave_relay`].
    pub fn use_relays(&self, relays: Vec<RelayServer>) -> Result<(), MediaError> {
        self.advise(Advice::Relays(relays))
    }

    /// Presses keys, one after the other, once audio flows.
    ///
    /// # Errors
    /// As [`Self::leave_relay`].
    pub fn press(&self, keys: Vec<Key>) -> Result<(), MediaError> {
        self.advise(Advice::Keys(keys))
    }

    /// The machine's addresses have changed to these. Needed only where [`MediaConfig::bind`] named them, or where the system doesn't show them:
    /// otherwise a session looks for itself, every 2 seconds, and at once where something is wrong.
    ///
    /// # Errors
    /// As [`Self::leave_relay`].
    pub fn change_addresses(&self, addresses: Vec<IpAddr>) -> Result<(), MediaError> {
        self.advise(Advice::Addresses(addresses))
    }

    fn advise(&self, advice: Advice) -> Result<(), MediaError> {
        self.advice.try_send(advice).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => MediaError::CandidatesWaiting,
            mpsc::error::TrySendError::Closed(_) => MediaError::Ended,
        })
    }

    /// Takes leave of the other end, completes the recording and closes the sockets. They are closed
    /// when this returns. Dropping the future is dropping the session.
    pub async fn close(self) -> MediaSummary {
        self.control.send_modify(|control| control.closing = true);
        let stats = self.stats.clone();
        self.task.await.unwrap_or_else(|error| MediaSummary {
            stats: stats.borrow().clone(),
            recorded_ms: 0,
            failure: Some(format!("media task failed: {error}")),
        })
    }
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod relayed_tests;

#[cfg(test)]
mod video_tests;

#[cfg(test)]
mod port_tests;
