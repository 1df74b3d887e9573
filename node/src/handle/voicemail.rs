//! Voicemail: recordings left for people who don't answer, and those left for this user.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::messages::MessageError;
use super::problem::{Fault, NodeError, ProblemKind, UsernameError};
use super::{Command, Node, Reply};
use crate::calls::media::recording::{self, Recorded, RecordingError};
use crate::timestamp::Timestamp;

/// Voicemail, left and to be heard; from [`Node::voicemail`].
#[derive(Clone, Copy, Debug)]
pub struct Voicemails<'a>(pub(super) &'a Node);

/// How far a recording is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum VoicemailState {
    /// Left for this user; not all of it has come.
    Arriving,
    /// Left for this user, whole: it can be heard.
    Ready,
    /// Left for this user, and can't be heard: [`VoicemailView::problem`] says why.
    Broken,
    /// Left by this user; on this device's disk.
    Queued,
    /// Left by this user; all of it is in the recipient's mailboxes, or with a device.
    Sent,
    /// Left by this user; a device of the recipient has all of it.
    Delivered,
    /// Left by this user, and heard.
    Heard,
    /// Left by this user in vain: [`VoicemailView::problem`] says why.
    Failed,
}

impl VoicemailState {
    /// The word in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Arriving => "arriving",
            Self::Ready => "ready",
            Self::Broken => "broken",
            Self::Queued => "queued",
            Self::Sent => "sent",
            Self::Delivered => "delivered",
            Self::Heard => "heard",
            Self::Failed => "failed",
        }
    }
}

/// One recording.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct VoicemailView {
    /// Its id, the same as its message's in the conversation; unambiguous beginnings of 4 or more characters will do.
    pub id: String,
    /// The other side, `name@authority`.
    pub with: String,
    /// Whether it was left for this user (`true`) or by this user.
    pub incoming: bool,
    /// The call that wasn't answered, if there was one.
    pub call_id: Option<String>,
    /// How far it is.
    pub state: VoicemailState,
    /// When it was left, by the clock of who left it.
    pub sent_at: Timestamp,
    /// How long it is; by the sender's word until it is whole.
    pub duration_ms: u64,
    /// Its size.
    pub bytes: u64,
    /// Whether the user has heard it, on any of their devices; of one that was left by this user, whether its recipient has, as far as they tell.
    pub heard: bool,
    /// How loud it is over time, 0 to 255; at most 64 points.
    pub waveform: Vec<u8>,
    /// Why it is no further.
    pub problem: Option<String>,
}

/// Recordings, the newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct VoicemailList {
    /// The recordings.
    pub voicemails: Vec<VoicemailView>,
    /// How many that were left for this user haven't been heard, the ones not listed included.
    pub unheard: u64,
}

/// Which recordings to list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct VoicemailListOptions {
    /// Those of, or for, one user only.
    pub with: Option<String>,
    /// Those not heard yet only.
    pub unheard: bool,
    /// Those that this user has left too.
    pub sent: bool,
}

/// A recording that was left. It is on this device's disk when this is answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct VoicemailLeft {
    /// Its id.
    pub id: String,
    /// How long it is.
    pub duration_ms: u64,
}

/// Why an operation on voicemail failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VoicemailFault {
    /// The username can't be understood.
    #[error(transparent)]
    Username(#[from] UsernameError),
    /// The node can't do it now.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// It can't be sent.
    #[error(transparent)]
    Message(MessageError),
    /// The WAV file can't be used.
    #[error("can't use {}: {reason}", path.display())]
    Audio {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// No recording has this id.
    #[error("no voicemail has the id {id:?}")]
    Unknown {
        /// The id.
        id: String,
    },
    /// Several recordings have ids that begin like this.
    #[error("several voicemails have ids that begin with {id:?}")]
    Ambiguous {
        /// The beginning.
        id: String,
    },
    /// There is nothing to hear here.
    #[error("it can't be heard here: {reason}")]
    NotHere {
        /// Why.
        reason: String,
    },
    /// What is given isn't a call's id.
    #[error("no call has the id {call_id:?}")]
    UnknownCall {
        /// What was given.
        call_id: String,
    },
    /// It is for nobody else.
    #[error("can't leave oneself a voicemail")]
    ForSelf,
}

impl From<MessageError> for VoicemailFault {
    fn from(error: MessageError) -> Self {
        match error {
            MessageError::Username(error) => Self::Username(error),
            MessageError::Node(error) => Self::Node(error),
            other => Self::Message(other),
        }
    }
}

impl Fault for VoicemailFault {
    fn kind(&self) -> ProblemKind {
        match self {
            Self::Username(error) => error.kind(),
            Self::Node(error) => error.kind(),
            Self::Message(error) => error.kind(),
            Self::Audio { .. } | Self::Ambiguous { .. } | Self::ForSelf => ProblemKind::InvalidRequest,
            Self::Unknown { .. } | Self::UnknownCall { .. } => ProblemKind::NotFound,
            Self::NotHere { .. } => ProblemKind::Conflict,
        }
    }
}

/// What the event loop is asked to do with voicemail.
#[derive(Debug)]
#[allow(missing_docs, reason = "each variant is documented at the handle method that sends it")]
pub enum VoicemailCommand {
    /// [`Voicemails::leave`]
    Leave { to: String, recorded: Box<Recorded>, call_id: Option<String>, reply: Reply<VoicemailLeft, VoicemailFault> },
    /// [`Voicemails::list`]
    List { options: VoicemailListOptions, reply: Reply<VoicemailList, VoicemailFault> },
    /// [`Voicemails::get`]
    Get { id: String, reply: Reply<VoicemailView, VoicemailFault> },
    /// [`Voicemails::audio`]
    Audio { id: String, reply: Reply<Vec<u8>, VoicemailFault> },
    /// [`Voicemails::mark_heard`]
    Heard { id: String, reply: Reply<VoicemailView, VoicemailFault> },
    /// [`Voicemails::delete`]
    Delete { id: String, reply: Reply<VoicemailView, VoicemailFault> },
}

impl VoicemailCommand {
    /// Answers that it can't be done now.
    pub(crate) fn refuse(self, error: NodeError) {
        match self {
            Self::Leave { reply, .. } => reply.send(Err(error.into())),
            Self::List { reply, .. } => reply.send(Err(error.into())),
            Self::Audio { reply, .. } => reply.send(Err(error.into())),
            Self::Get { reply, .. } | Self::Heard { reply, .. } | Self::Delete { reply, .. } => reply.send(Err(error.into())),
        }
    }
}

/// Makes a recording of a WAV file, on a thread that may block.
pub(super) async fn record(path: &Path) -> Result<Recorded, VoicemailFault> {
    let audio = |reason: String| VoicemailFault::Audio { path: path.to_owned(), reason };
    let source = path.to_owned();
    let made = tokio::task::spawn_blocking(move || recording::record(&source)).await;
    made.map_err(|error| audio(error.to_string()))?.map_err(|error| audio(with_cause(&error)))
}

/// Looks whether a WAV file can be made a recording of.
pub(super) async fn check(path: &Path) -> Result<(), String> {
    let source = path.to_owned();
    let checked = tokio::task::spawn_blocking(move || recording::check(&source)).await;
    checked.map_err(|error| error.to_string())?.map_err(|error| with_cause(&error))
}

fn with_cause(error: &RecordingError) -> String {
    let mut words = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        words = format!("{words}: {error}");
        cause = error.source();
    }
    words
}

impl Voicemails<'_> {
    /// Leaves a recording of a WAV file for a user, whether or not a device of theirs can be reached now. When it returns the recording is on this
    /// device's disk, and is tried for 30 days.
    ///
    /// # Errors
    /// See [`VoicemailFault`]. A recipient who is offline is no error.
    pub async fn leave(&self, to: &str, path: &Path, call_id: Option<&str>) -> Result<VoicemailLeft, VoicemailFault> {
        let recorded = record(path).await?;
        self.leave_recorded(to, recorded, call_id).await
    }

    pub(super) async fn leave_recorded(
        &self,
        to: &str,
        recorded: Recorded,
        call_id: Option<&str>,
    ) -> Result<VoicemailLeft, VoicemailFault> {
        let (to, recorded, call_id) = (to.to_owned(), Box::new(recorded), call_id.map(str::to_owned));
        self.0.ask(|reply| Command::Voicemail(VoicemailCommand::Leave { to, recorded, call_id, reply })).await
    }

    /// Recordings, the newest first.
    ///
    /// # Errors
    /// See [`VoicemailFault`].
    pub async fn list(&self, options: VoicemailListOptions) -> Result<VoicemailList, VoicemailFault> {
        self.0.ask(|reply| Command::Voicemail(VoicemailCommand::List { options, reply })).await
    }

    /// One recording.
    ///
    /// # Errors
    /// [`VoicemailFault::Unknown`], [`VoicemailFault::Ambiguous`].
    pub async fn get(&self, id: &str) -> Result<VoicemailView, VoicemailFault> {
        let id = id.to_owned();
        self.0.ask(|reply| Command::Voicemail(VoicemailCommand::Get { id, reply })).await
    }

    /// The recording itself: an Ogg file of Opus.
    ///
    /// # Errors
    /// [`VoicemailFault::NotHere`] if it hasn't all come, is broken, or was left by this user.
    pub async fn audio(&self, id: &str) -> Result<Vec<u8>, VoicemailFault> {
        let id = id.to_owned();
        self.0.ask(|reply| Command::Voicemail(VoicemailCommand::Audio { id, reply })).await
    }

    /// The recording as a WAV file: 48 kHz, mono, 16 bit.
    ///
    /// # Errors
    /// As [`Voicemails::audio`].
    pub async fn wav(&self, id: &str) -> Result<Vec<u8>, VoicemailFault> {
        let ogg = self.audio(id).await?;
        let made = tokio::task::spawn_blocking(move || recording::to_wav(&ogg)).await;
        let not_here = |reason: String| VoicemailFault::NotHere { reason };
        made.map_err(|error| not_here(error.to_string()))?.map_err(|error| not_here(with_cause(&error)))
    }

    /// The person has heard it. Own other devices show it; who left it is told, unless the privacy settings say no.
    ///
    /// # Errors
    /// [`VoicemailFault::Unknown`], [`VoicemailFault::Ambiguous`].
    pub async fn mark_heard(&self, id: &str) -> Result<VoicemailView, VoicemailFault> {
        let id = id.to_owned();
        self.0.ask(|reply| Command::Voicemail(VoicemailCommand::Heard { id, reply })).await
    }

    /// Takes the recording off this device. It counts as heard; its message stays in the conversation.
    ///
    /// # Errors
    /// [`VoicemailFault::Unknown`], [`VoicemailFault::Ambiguous`].
    pub async fn delete(&self, id: &str) -> Result<VoicemailView, VoicemailFault> {
        let id = id.to_owned();
        self.0.ask(|reply| Command::Voicemail(VoicemailCommand::Delete { id, reply })).await
    }
}
