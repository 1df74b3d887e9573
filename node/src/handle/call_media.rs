//! The media of a call in the embedder's hands: video frames, encoded audio, and a media engine of the embedder's own.
//!
//! **Encoded audio.** With [`DialOptions::passthrough`](super::calls::DialOptions::passthrough) or its like in an answer, the node carries packets
//! of audio as they are, both ways ([`Calls::audio`]); it is the embedder who has them in one of the codecs named.
//!
//! **Own engine.** The embedder's engine makes the session description (SDP, RFC 8866), which the node carries as it is: in the sealed invite, or in
//! the signed accept. So the fingerprint in it is bound to the other user's identity, as with the node's own engine, and the other end needn't know
//! which of the two it talks to.
//!
//! ```text
//! caller's embedder                                   callee's embedder
//! calls().ice_servers(): relays and credentials       calls().ice_servers()
//! calls().dial(DialOptions { offer, .. }) ----------> call_incoming; calls().description(): the offer
//! call_description: the answer         <------------- calls().answer(id, AnswerOptions { answer, .. })
//! calls().trickle()     ---- call_candidate -------->
//!                       <--- call_candidate --------- calls().trickle()
//! calls().report_media(Connected)                     calls().report_media(Connected)
//! ```
//!
//! What is found after the description was made is trickled. A call whose media nobody reports as connected within 20 s of the answer has failed.

use std::fmt;

use halloo_protocol::phone::AudioCodec;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::calls::{CallError, CallPath, Calls};
use super::problem::NodeError;
use super::{Command, Reply};
use crate::calls::media::port::AudioPort;
use crate::calls::media::video::{VideoCodec, VideoPort, VideoStats};

/// A server for ICE, in the form that WebRTC stacks take (`RTCIceServer`).
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct IceServer {
    /// Where it is: `turn:` and `stun:` URIs (RFC 7064, RFC 7065).
    pub urls: Vec<String>,
    /// User name for TURN.
    pub username: String,
    /// Password for TURN; valid for some hours.
    pub credential: String,
}

impl fmt::Debug for IceServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IceServer").field("urls", &self.urls).finish_non_exhaustive()
    }
}

/// The servers that a call may use now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct IceServers {
    /// The nearest first; empty where no relay is at hand.
    pub ice_servers: Vec<IceServer>,
}

/// What the other end says of its media.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CallDescription {
    /// The call.
    pub call_id: String,
    /// Its session description: the offer of a call that came in, the answer to one of ours.
    pub sdp: String,
    /// Candidates that it has told since; later ones come as events.
    pub candidates: Vec<String>,
}

/// A candidate of the embedder's engine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CallCandidate {
    /// The attribute as SDP has it, `candidate:..`; 512 bytes at most.
    pub candidate: String,
}

/// What the embedder's engine says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "state", rename_all = "kebab-case", deny_unknown_fields)]
#[non_exhaustive]
pub enum MediaReport {
    /// Media flow.
    Connected {
        /// Which way, if the engine knows.
        #[serde(default)]
        path: Option<CallPath>,
    },
    /// Media are beyond repair: the call is over.
    Failed {
        /// Why, in words; 200 characters count.
        reason: String,
    },
}

/// What a call's video measures, or has measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CallVideo {
    /// How the other end's frames are encoded, once one has come.
    pub codec: Option<VideoCodec>,
    /// Frames sent.
    pub frames_sent: u64,
    /// Key frames among them.
    pub key_frames_sent: u64,
    /// The other end's frames that came whole and were handed on.
    pub frames_received: u64,
    /// Frames that nobody took, or that couldn't be sent.
    pub frames_dropped: u64,
    /// Packets sent.
    pub packets_sent: u64,
    /// Packets received.
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

impl From<VideoStats> for CallVideo {
    fn from(stats: VideoStats) -> Self {
        Self {
            codec: stats.codec,
            frames_sent: stats.frames_sent,
            key_frames_sent: stats.key_frames_sent,
            frames_received: stats.frames_received,
            frames_dropped: stats.frames_dropped,
            packets_sent: stats.packets_sent,
            packets_received: stats.packets_received,
            packets_lost: stats.packets_lost,
            bytes_sent: stats.bytes_sent,
            bytes_received: stats.bytes_received,
            key_frames_asked: stats.key_frames_asked,
            key_frames_wanted: stats.key_frames_wanted,
        }
    }
}

/// Commands on the media of calls.
#[derive(Debug)]
#[allow(missing_docs, reason = "each variant is documented at the handle method that sends it")]
pub enum CallMediaCommand {
    /// [`Calls::video`]
    Video { call_id: String, reply: Reply<VideoPort, CallError> },
    /// [`Calls::audio`]
    Audio { call_id: String, reply: Reply<AudioPort, CallError> },
    /// [`Calls::offered_audio`]
    OfferedAudio { call_id: String, reply: Reply<Vec<AudioCodec>, CallError> },
    /// [`Calls::speak_early`]
    SpeakEarly { call_id: String, codec: Option<AudioCodec>, reply: Reply<(), CallError> },
    /// [`Calls::ice_servers`]
    IceServers(Reply<IceServers, CallError>),
    /// [`Calls::description`]
    Description { call_id: String, reply: Reply<CallDescription, CallError> },
    /// [`Calls::trickle`]
    Trickle { call_id: String, candidate: String, reply: Reply<(), CallError> },
    /// [`Calls::report_media`]
    Report { call_id: String, report: MediaReport, reply: Reply<(), CallError> },
}

impl CallMediaCommand {
    /// Answers that it can't be done now.
    pub(crate) fn refuse(self, error: NodeError) {
        match self {
            Self::Video { reply, .. } => reply.send(Err(error.into())),
            Self::Audio { reply, .. } => reply.send(Err(error.into())),
            Self::OfferedAudio { reply, .. } => reply.send(Err(error.into())),
            Self::IceServers(reply) => reply.send(Err(error.into())),
            Self::Description { reply, .. } => reply.send(Err(error.into())),
            Self::SpeakEarly { reply, .. } | Self::Trickle { reply, .. } | Self::Report { reply, .. } => {
                reply.send(Err(error.into()))
            }
        }
    }
}

impl Calls<'_> {
    /// The encoded frames of a video call, both ways: once per call, and not where files were named. From `call_dialing` or `call_incoming` on.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn video(&self, call_id: &str) -> Result<VideoPort, CallError> {
        let call_id = call_id.to_owned();
        self.0.ask(|reply| Command::CallMedia(CallMediaCommand::Video { call_id, reply })).await
    }

    /// The encoded audio of a call that passes through, both ways: once per call. For a call of ours from `call_dialing` on; for one that came in,
    /// once it is answered.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn audio(&self, call_id: &str) -> Result<AudioPort, CallError> {
        let call_id = call_id.to_owned();
        self.0.ask(|reply| Command::CallMedia(CallMediaCommand::Audio { call_id, reply })).await
    }

    /// The codecs that the caller of a call that came in offers, of those that are known here, the preferred first.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn offered_audio(&self, call_id: &str) -> Result<Vec<AudioCodec>, CallError> {
        let call_id = call_id.to_owned();
        self.0.ask(|reply| Command::CallMedia(CallMediaCommand::OfferedAudio { call_id, reply })).await
    }

    /// Lets the caller of a call that rings here hear what [`Calls::audio`] sends, in this codec, before anybody has answered: an announcement, say, of a
    /// telephone network behind this device. Only contacts are let, and nothing of theirs comes the other way. An answer that passes through the same
    /// codec goes on with the same port. `None` takes it back: an answer has a port of its own then.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn speak_early(&self, call_id: &str, codec: Option<AudioCodec>) -> Result<(), CallError> {
        let call_id = call_id.to_owned();
        self.0.ask(|reply| Command::CallMedia(CallMediaCommand::SpeakEarly { call_id, codec, reply })).await
    }

    /// The media relays at hand, for a media engine of one's own. What they take and lend is counted on this user's account.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn ice_servers(&self) -> Result<IceServers, CallError> {
        self.0.ask(|reply| Command::CallMedia(CallMediaCommand::IceServers(reply))).await
    }

    /// What the other end of a call says of its media. For a call of ours, once it is answered.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn description(&self, call_id: &str) -> Result<CallDescription, CallError> {
        let call_id = call_id.to_owned();
        self.0.ask(|reply| Command::CallMedia(CallMediaCommand::Description { call_id, reply })).await
    }

    /// Tells the other end a candidate of one's own engine. For a call of ours: all devices that ring, and whichever answers.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn trickle(&self, call_id: &str, candidate: &str) -> Result<(), CallError> {
        let (call_id, candidate) = (call_id.to_owned(), candidate.to_owned());
        self.0.ask(|reply| Command::CallMedia(CallMediaCommand::Trickle { call_id, candidate, reply })).await
    }

    /// Says how one's own engine gets on with a call.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn report_media(&self, call_id: &str, report: MediaReport) -> Result<(), CallError> {
        let call_id = call_id.to_owned();
        self.0.ask(|reply| Command::CallMedia(CallMediaCommand::Report { call_id, report, reply })).await
    }
}
