//! Calls, out and in.

use std::path::PathBuf;

use halloo_protocol::call::{Reason, TelephonePart};
use halloo_protocol::phone::AudioCodec;
use halloo_protocol::phone::keys::KeysError;
use halloo_protocol::trunk::number::{NumberError, is_tel_uri};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio_util::task::AbortOnDropHandle;

use super::call_media::CallVideo;
use super::directory::ResolveError;
use super::linked::{LinkedCallee, LinkedPeer};
use super::problem::{Fault, NodeError, ProblemKind, UsernameError};
use super::voicemail::{VoicemailFault, VoicemailLeft};
use super::{Command, Node};
use crate::calls::media::Microphone;
use crate::calls::media::recording::Recorded;
use crate::calls::media::video::VideoFiles;
use crate::timestamp::Timestamp;

/// A recording in the making.
type Making = AbortOnDropHandle<Result<Recorded, VoicemailFault>>;

/// Calls, out and in; from [`Node::calls`].
#[derive(Clone, Copy, Debug)]
pub struct Calls<'a>(pub(super) &'a Node);

/// Whom to call and how.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DialOptions {
    /// Whom to call; all of a user's devices ring. At least one.
    pub users: Vec<String>,
    /// A WAV file on the node's machine that is sent instead of silence; an absolute path.
    pub play: Option<PathBuf>,
    /// A WAV file on the node's machine that receives what is heard; an absolute path.
    pub record: Option<PathBuf>,
    /// A WAV file on the node's machine that is left as voicemail if nobody answers: declined, busy, not answered or not reached. An absolute path; at
    /// most three minutes.
    pub voicemail: Option<PathBuf>,
    /// Hang up so long after the answer. `None`: until somebody hangs up.
    pub duration_ms: Option<u64>,
    /// Make it a video call: frames go in and come out at [`Calls::video`], or these files.
    pub video: bool,
    /// Speak and hear by the microphone and loudspeakers of the node's machine, where no file is played; needs a build with `desktop-audio`.
    pub microphone: Microphone,
    /// Pass encoded audio through, in one of these codecs (`opus`, `g722`, `pcmu`, `pcma`), the preferred first: it goes in and comes out at
    /// [`Calls::audio`], and the node neither encodes nor decodes. Empty: the node's own audio. For embedders only, not in the HTTP API.
    #[serde(skip)]
    pub passthrough: Vec<AudioCodec>,
    /// A file on the node's machine whose video is sent, VP8 in IVF or H.264 in annex B; an absolute path. Makes it a video call.
    pub play_video: Option<PathBuf>,
    /// A file on the node's machine that receives the other end's video, in the format that goes with how it is encoded; an absolute path. Makes
    /// it a video call.
    pub record_video: Option<PathBuf>,
    /// The offer (SDP) of a media engine of the embedder's own; the node's isn't used then, nor are files. It goes into the invite, whose 2,800 bytes
    /// leave about 1.5 KiB for it: candidates that don't fit can be told by [`Calls::trickle`].
    pub offer: Option<String>,
    /// Send media through a relay only: neither invite nor media show this device's addresses. The connection that carries the signalling
    /// still may, where it is a direct one. Fails where no relay serves.
    pub relayed_only: bool,
    /// For a telephone number (`tel:` in `users`): the gateway to call it by, `name@authority`. `None`: the one of the configuration, `[calls] telephone`.
    pub via: Option<String>,
    /// The one phone of the callee's that is to ring, by its instance (`+sip.instance`, such as `urn:uuid:…`), as in its own SIP address (GRUU, RFC 5627): the
    /// user's other phones and devices don't. At most 256 bytes. `None`: all ring.
    pub phone: Option<String>,
    /// A telephone number (`tel:` in `users`) is called by the gateway also if it is known whose it is here, as phones at the SIP edge do.
    #[serde(skip)]
    pub by_telephone: bool,
    /// What the invite says of the telephone network. A `tel:` in `users` sets it; set otherwise by a gateway, for calls that come from there.
    #[serde(skip)]
    pub telephone: Option<TelephonePart>,
    /// As which contact in a linked system the one user in `users`, named as here, is called (`xmpp:bob@example.org`): they are shown who this user is there. For contacts
    /// of whom it isn't known by that system who they are here.
    #[serde(rename = "as")]
    pub as_contact: Option<String>,
    /// Whom an identity in a linked system stands for, and as whom it is called. Such an identity in `users` (`xmpp:bob@example.org`) sets it.
    #[serde(skip)]
    pub linked: Option<Box<LinkedCallee>>,
}

impl DialOptions {
    /// A plain voice call to one user.
    #[must_use]
    pub fn to(user: &str) -> Self {
        Self { users: vec![user.to_owned()], ..Self::default() }
    }
}

/// How to answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AnswerOptions {
    /// A WAV file on the node's machine that is sent instead of silence; an absolute path.
    pub play: Option<PathBuf>,
    /// A WAV file on the node's machine that receives what is heard; an absolute path.
    pub record: Option<PathBuf>,
    /// As in [`DialOptions::microphone`].
    pub microphone: Microphone,
    /// As in [`DialOptions::passthrough`]; of them, the first that the caller offers.
    #[serde(skip)]
    pub passthrough: Vec<AudioCodec>,
    /// Video to send, as in [`DialOptions::play_video`]; only of a video call.
    pub play_video: Option<PathBuf>,
    /// Where to record video, as in [`DialOptions::record_video`]; only of a video call.
    pub record_video: Option<PathBuf>,
    /// The answer (SDP) of a media engine of the embedder's own to the offer in [`Calls::description`]; the node's isn't used then, nor are files.
    pub answer: Option<String>,
}

impl AnswerOptions {
    pub(crate) fn video_files(&self) -> VideoFiles {
        VideoFiles { play: self.play_video.clone(), record: self.record_video.clone() }
    }
}

/// Whom to add to a call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AddOptions {
    /// Whom, `name@authority`; all of their devices ring.
    pub user: String,
    /// As in [`DialOptions::phone`].
    #[serde(default)]
    pub phone: Option<String>,
}

/// Keys to press.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KeyOptions {
    /// Digits, `*`, `#`, and `A` to `D`; 32 at most.
    pub keys: String,
}

/// What came of adding somebody to a call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CallAdded {
    /// The call between us and them.
    pub call_id: String,
    /// The conference that the call has become.
    pub conference_id: String,
    /// Whom, `name@authority`.
    pub username: String,
    /// Whether they take part now.
    pub joined: bool,
    /// How the call to them ended otherwise.
    pub outcome: Option<CallResult>,
    /// Why, in words.
    pub reason: Option<String>,
}

/// What came of coming back to a conference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CallRejoined {
    /// The conference.
    pub conference_id: String,
    /// Whether somebody is there; the others follow as events.
    pub joined: bool,
}

/// How a call ended. Every field is always present; what does not apply is null.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CallOutcome {
    /// The call's id.
    pub call_id: String,
    /// How it ended.
    pub outcome: CallResult,
    /// Why, in words or as a code of the other side.
    pub reason: Option<String>,
    /// The same as the number that devices tell each other (docs/wire.md, section 6). For embedders only, and not kept over a restart.
    #[serde(skip)]
    pub reason_code: Option<u16>,
    /// The peer id of the device that answered.
    pub answered_by: Option<String>,
    /// The codec of the audio, `opus`, `g722`, `pcmu` or `pcma`.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub codec: Option<AudioCodec>,
    /// How the media went.
    pub path: Option<CallPath>,
    /// From dialling to the first ringing device.
    pub ring_ms: Option<u64>,
    /// From the answer to the first media in both directions.
    pub setup_ms: Option<u64>,
    /// Round-trip time of the media path.
    pub rtt_ms: Option<u64>,
    /// Share of lost packets, 0.0 to 1.0.
    pub loss: Option<f64>,
    /// Variation of the packets' travelling time in milliseconds.
    #[serde(default)]
    pub jitter_ms: Option<f64>,
    /// Whether the answering device was woken for this call.
    pub via_push: bool,
    /// What video measured, if both ends had agreed on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub video: Option<CallVideo>,
    /// The voicemail that was left because nobody answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub voicemail: Option<VoicemailLeft>,
    /// Why none was left, though one was to be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub voicemail_problem: Option<String>,
}

/// How a call ended, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum CallResult {
    /// It was answered and ended by hanging up.
    Completed,
    /// The callee declined.
    Declined,
    /// The callee is in another call.
    Busy,
    /// It rang and nobody answered.
    NoAnswer,
    /// No device of the callee could be reached.
    Unreachable,
    /// The caller gave up first.
    Cancelled,
    /// Another of the callee's devices answered; told to the devices that rang too.
    AnsweredElsewhere,
    /// Signalling or media failed.
    Failed,
}

/// How an invite came to this device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum CallWay {
    /// On a connection with the caller.
    Stream,
    /// Handed over by a relay that holds a reservation for this device.
    Relay,
    /// On the stream to a gateway.
    Gateway,
    /// By a push message.
    Push,
}

/// How media goes between the two ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum CallPath {
    /// Straight, without help of address translation.
    Direct,
    /// Straight, through holes punched in address translators.
    Punched,
    /// Through a relay.
    Relayed,
}

/// Where a call is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum CallState {
    /// Looking for and inviting the callee's devices.
    Dialing,
    /// At least one device rings.
    Ringing,
    /// Answered; media is being set up.
    Connecting,
    /// Media flows.
    Active,
    /// Over.
    Ended,
}

/// The calls in progress, and the last 200 that were, also in earlier runs; oldest first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CallList {
    /// The calls.
    pub calls: Vec<CallEntry>,
}

/// One call.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CallEntry {
    /// The call's id.
    pub call_id: String,
    /// The others, `name@authority`.
    pub users: Vec<String>,
    /// Whether they called us.
    pub incoming: bool,
    /// Where it is.
    pub state: CallState,
    /// Whether video is offered.
    pub video: bool,
    /// When it began.
    pub started_at: Timestamp,
    /// How it ended, once it has.
    pub outcome: Option<CallOutcome>,
    /// Whether nothing more is to be said of it: answered or declined on another device, or dismissed on any.
    #[serde(default)]
    pub dismissed: bool,
    /// What happened, in order; only where one call is asked for. At most 128.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stages: Vec<CallStage>,
    /// The same as the devices at the other end saw it, as far as they have told; only where one call is asked for, and it is over.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub other_ends: Vec<OtherEnd>,
    /// Whether a device at the other end is being asked what it saw.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_asking: bool,
    /// What its media measures at present, while it runs.
    #[serde(default)]
    pub media: Option<CallMedia>,
    /// The conference that it is a leg of, if it is.
    #[serde(default)]
    pub conference_id: Option<String>,
    /// Who has introduced the other, `name@authority`, if the other is no contact.
    #[serde(default)]
    pub introduced_by: Option<String>,
    /// The telephone number that was called through a gateway, or from which the gateway's call comes: then by its provider's word, verified by
    /// nobody, and `withheld` where it isn't shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub telephone: Option<String>,
    /// The contact in a linked system with whom it is, if that is as whom they called or were called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub linked: Option<LinkedPeer>,
}

/// Something that happened in a call, as this device saw it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CallStage {
    /// When, counted from the call's beginning on this device; what the caller did before an invite came here is before that, and less than 0.
    pub at_ms: i64,
    /// What.
    pub stage: CallStageKind,
    /// The peer id of the device it is about, if it is about one.
    pub peer_id: Option<String>,
    /// What came of it, and why.
    pub detail: String,
}

/// What a device at the other end of a call saw of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OtherEnd {
    /// The device's peer id.
    pub peer_id: String,
    /// How far its times may be off against those of this device: half the round trip in which they were told.
    pub off_by_ms: u64,
    /// What happened there, in order, at times counted from the call's beginning on this device. At most 48.
    pub stages: Vec<CallStage>,
}

/// What can happen in a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum CallStageKind {
    /// What the caller knew of the callee's presence before dialling.
    Presence,
    /// The callee's devices were found, in the cache or in the directory.
    LookUp,
    /// An invite went out on a connection, or was answered there.
    Invite,
    /// A relay was asked to hand the invite over.
    Relay,
    /// A gateway was asked to wake a device.
    Push,
    /// A device rings.
    Ring,
    /// Both had dialled, and the two calls became one.
    Crossed,
    /// A device answered, or was taken as the one.
    Answer,
    /// Audio's path: found, changed, lost.
    Media,
    /// The call is over.
    End,
    /// When a device's turn is, and why: by its user's policy. Not told to the other end.
    Choice,
    /// Something that a later version knows; the text says what.
    Other,
}

/// What the media of a running call measures.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CallMedia {
    /// The codec of the audio, `opus`, `g722`, `pcmu` or `pcma`.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub codec: Option<AudioCodec>,
    /// The way it goes, once connected.
    pub path: Option<CallPath>,
    /// Round-trip time in milliseconds, once measured.
    pub rtt_ms: Option<f64>,
    /// Share of the other end's packets that never came, 0.0 to 1.0.
    pub loss: f64,
    /// Variation of the packets' travelling time in milliseconds.
    pub jitter_ms: f64,
    /// How long a received packet waits to be played, in milliseconds.
    pub buffer_ms: f64,
    /// Played frames of 20 ms that were rebuilt or invented for missing packets.
    pub concealed_frames: u64,
    /// Audio packets received.
    pub packets_received: u64,
    /// Audio packets sent.
    pub packets_sent: u64,
    /// Audio packets that left before the answer, which none does, or came before it and were dropped.
    #[serde(default)]
    pub packets_early: u64,
    /// What video measures, if both ends have agreed on it.
    #[serde(default)]
    pub video: Option<CallVideo>,
}

/// Why an operation on calls failed.
///
/// A call that is declined, not answered or can't reach anybody is a [`CallOutcome`] and no error.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// The username can't be understood.
    #[error(transparent)]
    Username(#[from] UsernameError),
    /// The node can't do it now.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// The callee was not found.
    #[error(transparent)]
    Resolve(ResolveError),
    /// Nobody to call was named.
    #[error("nobody to call was named")]
    NoCallee,
    /// It isn't a telephone number.
    #[error("can't dial it: {0}")]
    Number(#[from] NumberError),
    /// No gateway to the telephone network is known.
    #[error("no telephone gateway: name one with --via NAME@AUTHORITY, or as telephone under [calls] in config.toml")]
    NoGateway,
    /// Nobody can be called by an identity in a linked system.
    #[error("{id} {reason}")]
    NotLinked {
        /// The identity.
        id: String,
        /// Why not.
        reason: String,
    },
    /// The caller would call themselves.
    #[error("can't call yourself")]
    CallsSelf,
    /// A call to the same user has been placed and nobody has answered it yet.
    #[error("{username} is being called already: call {call_id}")]
    AlreadyCalling {
        /// Whom.
        username: String,
        /// The call.
        call_id: String,
    },
    /// A WAV file can't be used.
    #[error("can't use {}: {reason}", path.display())]
    Audio {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The call has no video, or somebody has it already.
    #[error("call {call_id} has no video, or it is taken")]
    NoVideo {
        /// The call.
        call_id: String,
    },
    /// The call's audio doesn't pass through, or somebody has it already.
    #[error("call {call_id} has no audio that passes through, or it is taken")]
    NoPassthrough {
        /// The call.
        call_id: String,
    },
    /// The call's media are the node's.
    #[error("call {call_id} doesn't use a media engine of one's own")]
    NotOwnEngine {
        /// The call.
        call_id: String,
    },
    /// A description or candidate of the embedder's engine can't be used.
    #[error("the session description can't be used: {reason}")]
    Description {
        /// What is wrong with it.
        reason: String,
    },
    /// No call has this id.
    #[error("no call has the id {call_id:?}")]
    UnknownCall {
        /// The id.
        call_id: String,
    },
    /// Somebody takes part already.
    #[error("{username} takes part already")]
    TakesPart {
        /// Who.
        username: String,
    },
    /// What is to be pressed are no keys, or too many.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// The other end takes no keys.
    #[error("the other end of call {call_id} takes no keys")]
    TakesNoKeys {
        /// The call.
        call_id: String,
    },
    /// No conference that this device has left lately has such a call.
    #[error("call {call_id} isn't one of a conference that was left here within the last hour")]
    NotLeft {
        /// The call.
        call_id: String,
    },
    /// The call's state doesn't allow this.
    #[error("call {call_id} is {state}; it can't be {action}")]
    WrongState {
        /// The call.
        call_id: String,
        /// Where it is, in words.
        state: &'static str,
        /// What was asked for: `answered`, `declined`.
        action: &'static str,
    },
}

impl From<ResolveError> for CallError {
    fn from(error: ResolveError) -> Self {
        match error {
            ResolveError::Username(error) => Self::Username(error),
            ResolveError::Node(error) => Self::Node(error),
            other => Self::Resolve(other),
        }
    }
}

impl Fault for CallError {
    fn kind(&self) -> ProblemKind {
        match self {
            Self::Username(error) => error.kind(),
            Self::Node(error) => error.kind(),
            Self::Resolve(error) => error.kind(),
            Self::NoCallee
            | Self::CallsSelf
            | Self::Number(_)
            | Self::Keys(_)
            | Self::NoGateway
            | Self::Audio { .. }
            | Self::Description { .. } => ProblemKind::InvalidRequest,
            Self::NotLinked { .. } => ProblemKind::UserNotFound,
            Self::UnknownCall { .. } | Self::NotLeft { .. } => ProblemKind::NotFound,
            Self::NoVideo { .. } | Self::NoPassthrough { .. } | Self::NotOwnEngine { .. } | Self::TakesNoKeys { .. } => {
                ProblemKind::Conflict
            }
            Self::WrongState { .. } | Self::AlreadyCalling { .. } | Self::TakesPart { .. } => ProblemKind::Conflict,
        }
    }
}

impl CallResult {
    /// True if the caller had nobody to talk to, without wanting it so: time for voicemail.
    #[must_use]
    pub const fn is_unanswered(self) -> bool {
        matches!(self, Self::Declined | Self::Busy | Self::NoAnswer | Self::Unreachable)
    }
}

impl Calls<'_> {
    /// Calls, and returns when the call is over. Dropping the future hangs up.
    ///
    /// Progress arrives as events: `call_dialing`, `call_ringing`, `call_answered`, `call_ended`. If the user's own call rings here, it is
    /// answered; if it is on the way, the two become one (`call_joined`), and the outcome is that of the one that went on. If nobody answers, the
    /// voicemail of the options is left, and is on this device's disk when this returns.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn dial(&self, options: DialOptions) -> Result<CallOutcome, CallError> {
        let Some(path) = options.voicemail.clone() else { return self.place(options).await };
        if options.users.iter().any(|user| is_tel_uri(user)) {
            return Err(CallError::Node(NodeError::Unsupported { what: "voicemail for a telephone" }));
        }
        // What is wrong with the file is said before anybody is disturbed; it is made ready while it rings.
        super::voicemail::check(&path).await.map_err(|reason| CallError::Audio { path: path.clone(), reason })?;
        let to = options.users.first().cloned().unwrap_or_default();
        let recording = AbortOnDropHandle::new(tokio::spawn(async move { super::voicemail::record(&path).await }));
        let mut outcome = self.place(options).await?;
        if outcome.outcome.is_unanswered() {
            match self.leave(&to, &outcome.call_id, recording).await {
                Ok(left) => outcome.voicemail = Some(left),
                Err(problem) => outcome.voicemail_problem = Some(problem),
            }
        }
        Ok(outcome)
    }

    async fn place(&self, options: DialOptions) -> Result<CallOutcome, CallError> {
        self.0.ask(|reply| Command::CallDial { options, reply }).await
    }

    async fn leave(&self, to: &str, call_id: &str, recording: Making) -> Result<VoicemailLeft, String> {
        let recorded = recording.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
        let left = self.0.voicemail().leave_recorded(to, recorded, Some(call_id)).await;
        left.map_err(|error| error.to_string())
    }

    /// The calls in progress, and the last that were.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn list(&self) -> Result<CallList, CallError> {
        self.0.ask(Command::CallList).await
    }

    /// One call, also of an earlier run, with what happened in it.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn show(&self, call_id: &str) -> Result<CallEntry, CallError> {
        let call_id = call_id.to_owned();
        self.0.ask(|reply| Command::CallShow { call_id, reply }).await
    }

    /// Answers a ringing call.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn answer(&self, call_id: &str, options: AnswerOptions) -> Result<(), CallError> {
        let call_id = call_id.to_owned();
        self.0.ask(|reply| Command::CallAnswer { call_id, options, reply }).await
    }

    /// Declines a ringing call; the caller's other targets stop ringing too.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn decline(&self, call_id: &str) -> Result<(), CallError> {
        let call_id = call_id.to_owned();
        self.0.ask(|reply| Command::CallDecline { call_id, reason: Reason::DECLINED, reply }).await
    }

    /// The same for a reason of a machine's own, such as a gateway's.
    ///
    /// # Errors
    /// See [`CallError`].
    pub(crate) async fn refuse(&self, call_id: &str, reason: Reason) -> Result<(), CallError> {
        let call_id = call_id.to_owned();
        self.0.ask(|reply| Command::CallDecline { call_id, reason, reply }).await
    }

    /// Notes that the person has seen an ended call in the list; all of the user's devices show it.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn dismiss(&self, call_id: &str) -> Result<(), CallError> {
        let call_id = call_id.to_owned();
        self.0.ask(|reply| Command::CallDismiss { call_id, reply }).await
    }

    /// Adds somebody to an answered call, which becomes a conference, or to a conference, by any of its calls. Returns when they take part, or won't.
    /// Dropping the future while it rings gives up.
    ///
    /// Progress arrives as events: `conference_joined` and `conference_left` for everybody who comes and goes.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn add(&self, call_id: &str, options: AddOptions) -> Result<CallAdded, CallError> {
        let call_id = call_id.to_owned();
        self.0.ask(|reply| Command::CallAdd { call_id, options, reply }).await
    }

    /// Connects the other ends of two answered calls: both calls become one conference, of which any of them may be one already. Returns when the two have
    /// each other: true, and this device may leave ([`Calls::hangup`]), which ends both calls and leaves the others with each other. False if they don't
    /// within twenty seconds, as when one of them runs a version that can't: the calls go on, then.
    ///
    /// This is the end of a transfer after a consultation. What is said and heard here stays two calls'.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn connect(&self, call_id: &str, with: &str) -> Result<bool, CallError> {
        let (call_id, with) = (call_id.to_owned(), with.to_owned());
        self.0.ask(|reply| Command::CallConnect { call_id, with, reply }).await
    }

    /// Presses keys (`0` to `9`, `*`, `#`, `A` to `D`; 32 at most), one after the other, 0.2 s each. A telephone's menu hears them, and a phone; a native end
    /// tells them as `call_key`. Returns when they are on their way.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn press(&self, call_id: &str, keys: &str) -> Result<(), CallError> {
        let (call_id, keys) = (call_id.to_owned(), keys.to_owned());
        self.0.ask(|reply| Command::CallPress { call_id, keys, reply }).await
    }

    /// Comes back to a conference that this device has left within the last hour, named by any of its calls. Returns when somebody has let it in, or
    /// nobody does.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn rejoin(&self, call_id: &str, options: AnswerOptions) -> Result<CallRejoined, CallError> {
        let call_id = call_id.to_owned();
        self.0.ask(|reply| Command::CallRejoin { call_id, options, reply }).await
    }

    /// Ends a call in any state: cancels one that rings, hangs up one that is answered. A call of a conference stands for the conference: all of its
    /// calls end here.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn hangup(&self, call_id: &str) -> Result<(), CallError> {
        let call_id = call_id.to_owned();
        self.0.ask(|reply| Command::CallHangup { call_id, reply }).await
    }
}
