//! Files, offered and fetched.

use std::path::{Path, PathBuf};
use std::time::Duration;

use halloo_protocol::file::FILE_BYTES_MAX;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::problem::{Fault, NodeError, ProblemKind, UsernameError};
use super::{Command, Node, Reply};
use crate::timestamp::Timestamp;

/// Files, offered and fetched; from [`Node::files`].
#[derive(Clone, Copy, Debug)]
pub struct Files<'a>(pub(super) &'a Node);

/// How far a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum FileState {
    /// Read once, to know its hashes; offered then.
    Preparing,
    /// Waits to be accepted: by them, or by this user.
    Offered,
    /// On its way, or waiting to go on: [`FileView::problem`] says for what.
    Accepted,
    /// All of it is there, verified.
    Done,
    /// The recipient didn't want it.
    Declined,
    /// One side gave up; [`FileView::problem`] says which.
    Cancelled,
    /// It can't be had; [`FileView::problem`] says why.
    Failed,
    /// Nobody accepted it in time.
    Expired,
    /// Another device of this user has accepted it.
    Elsewhere,
}

impl FileState {
    /// True if nothing more happens.
    #[must_use]
    pub const fn is_end(self) -> bool {
        !matches!(self, Self::Preparing | Self::Offered | Self::Accepted)
    }

    /// The word in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Preparing => "preparing",
            Self::Offered => "offered",
            Self::Accepted => "accepted",
            Self::Done => "done",
            Self::Declined => "declined",
            Self::Cancelled => "cancelled",
            Self::Failed => "failed",
            Self::Expired => "expired",
            Self::Elsewhere => "elsewhere",
        }
    }
}

/// One file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FileView {
    /// Its id; unambiguous beginnings of 4 or more characters will do.
    pub id: String,
    /// The other side, `name@authority`.
    pub with: String,
    /// Whether it comes (`true`) or goes (`false`).
    pub incoming: bool,
    /// Its name, harmless: no path, no control characters.
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
    /// What its sender says it is.
    pub media_type: String,
    /// How far it is.
    pub state: FileState,
    /// Bytes that the recipient has; while preparing, that were read.
    pub bytes: u64,
    /// Bytes a second just now; `None` while nothing moves.
    pub rate: Option<u64>,
    /// Where it is on this machine: what is sent, or where it was put.
    pub path: Option<String>,
    /// Why it doesn't go on, or didn't.
    pub problem: Option<String>,
    /// When it was offered.
    pub offered_at: Timestamp,
    /// Until when it can be accepted.
    pub expires_at: Timestamp,
}

/// All files, the newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FileList {
    /// The files.
    pub files: Vec<FileView>,
}

/// What to do with a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileChange {
    /// Fetch it; to this file or directory if one is named.
    Accept(Option<PathBuf>),
    /// Say no.
    Decline,
    /// Give up what was accepted, or take back what was offered.
    Cancel,
}

/// Why an operation on files failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// The username can't be understood.
    #[error(transparent)]
    Username(#[from] UsernameError),
    /// The node can't do it now.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// No file has this id.
    #[error("no file has the id {id:?}")]
    Unknown {
        /// The id.
        id: String,
    },
    /// Several files have ids that begin like this.
    #[error("several files have ids that begin with {id:?}")]
    Ambiguous {
        /// The beginning.
        id: String,
    },
    /// Its state doesn't allow this.
    #[error("the file is {state}: it can't be {what}")]
    State {
        /// Its state, as a word.
        state: &'static str,
        /// What was wanted.
        what: &'static str,
    },
    /// The file to be sent can't be read.
    #[error("can't read {path}: {reason}")]
    Source {
        /// The path.
        path: String,
        /// Why not.
        reason: String,
    },
    /// The file to be sent is larger than files may be.
    #[error("the file has {bytes} bytes, at most {max} are allowed")]
    TooLarge {
        /// Its size.
        bytes: u64,
        /// The limit.
        max: u64,
    },
    /// The file can't be put there.
    #[error("can't put it at {path}: {reason}")]
    Target {
        /// The path.
        path: String,
        /// Why not.
        reason: String,
    },
    /// It was waited for in vain; it goes on.
    #[error("file {id} is not done after {} ms; it goes on", limit.as_millis())]
    TimedOut {
        /// The file.
        id: String,
        /// How long was waited.
        limit: Duration,
    },
}

impl Fault for FileError {
    fn kind(&self) -> ProblemKind {
        match self {
            Self::Username(error) => error.kind(),
            Self::Node(error) => error.kind(),
            Self::Unknown { .. } => ProblemKind::NotFound,
            Self::Ambiguous { .. } | Self::Source { .. } => ProblemKind::InvalidRequest,
            Self::State { .. } | Self::Target { .. } => ProblemKind::Conflict,
            Self::TooLarge { .. } => ProblemKind::TooLarge,
            Self::TimedOut { .. } => ProblemKind::TimedOut,
        }
    }
}

/// What the event loop is asked to do with files.
#[derive(Debug)]
#[allow(missing_docs, reason = "each variant is documented at the handle method that sends it")]
pub enum FileCommand {
    /// [`Files::send`]
    Send { to: String, source: FileSource, reply: Reply<FileView, FileError> },
    /// [`Files::list`]
    List(Reply<FileList, FileError>),
    /// [`Files::get`]
    Get { id: String, reply: Reply<FileView, FileError> },
    /// [`Files::accept`], [`Files::decline`], [`Files::cancel`]
    Change { id: String, change: FileChange, reply: Reply<FileView, FileError> },
    /// [`Files::wait`]; the caller bounds the time, the loop drops closed replies.
    Wait { id: String, reply: Reply<FileView, FileError> },
}

impl FileCommand {
    /// Answers that it can't be done now.
    pub(crate) fn refuse(self, error: NodeError) {
        match self {
            Self::List(reply) => reply.send(Err(error.into())),
            Self::Send { reply, .. } | Self::Get { reply, .. } | Self::Change { reply, .. } | Self::Wait { reply, .. } => {
                reply.send(Err(error.into()));
            }
        }
    }
}

/// A file to be sent, looked at already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileSource {
    pub(crate) path: String,
    pub(crate) name: String,
    pub(crate) size: u64,
}

impl Files<'_> {
    /// Offers a file to all devices of a user. Returns as soon as that is noted; reading it for its hashes comes first, and the offer goes
    /// out after that. The file must stay as it is, where it is, until it is done.
    ///
    /// # Errors
    /// See [`FileError`]. A recipient who is offline is no error.
    pub async fn send(&self, to: &str, path: &Path) -> Result<FileView, FileError> {
        let source = look_at(path).await?;
        let to = to.to_owned();
        self.0.ask(|reply| Command::Files(FileCommand::Send { to, source, reply })).await
    }

    /// All files, the newest first.
    ///
    /// # Errors
    /// See [`FileError`].
    pub async fn list(&self) -> Result<FileList, FileError> {
        self.0.ask(|reply| Command::Files(FileCommand::List(reply))).await
    }

    /// One file.
    ///
    /// # Errors
    /// [`FileError::Unknown`], [`FileError::Ambiguous`].
    pub async fn get(&self, id: &str) -> Result<FileView, FileError> {
        self.0.ask(|reply| Command::Files(FileCommand::Get { id: id.to_owned(), reply })).await
    }

    /// Fetches a file that was offered. Without `to` it lands in the directory of the configuration; never over another file.
    ///
    /// # Errors
    /// [`FileError::State`] if it isn't on offer any more, [`FileError::Target`] if it can't be put there.
    pub async fn accept(&self, id: &str, to: Option<&Path>) -> Result<FileView, FileError> {
        self.change(id, FileChange::Accept(to.map(Path::to_owned))).await
    }

    /// Doesn't want a file that was offered.
    ///
    /// # Errors
    /// [`FileError::State`] if it isn't on offer any more.
    pub async fn decline(&self, id: &str) -> Result<FileView, FileError> {
        self.change(id, FileChange::Decline).await
    }

    /// Gives up a file, coming or going.
    ///
    /// # Errors
    /// [`FileError::State`] if it has ended.
    pub async fn cancel(&self, id: &str) -> Result<FileView, FileError> {
        self.change(id, FileChange::Cancel).await
    }

    /// Waits until a file has come to an end, at most `limit`.
    ///
    /// # Errors
    /// [`FileError::TimedOut`] after `limit`; it goes on.
    pub async fn wait(&self, id: &str, limit: Duration) -> Result<FileView, FileError> {
        let wait = self.0.ask(|reply| Command::Files(FileCommand::Wait { id: id.to_owned(), reply }));
        match tokio::time::timeout(limit, wait).await {
            Ok(answer) => answer,
            Err(_elapsed) => Err(FileError::TimedOut { id: id.to_owned(), limit }),
        }
    }

    async fn change(&self, id: &str, change: FileChange) -> Result<FileView, FileError> {
        let id = id.to_owned();
        self.0.ask(|reply| Command::Files(FileCommand::Change { id, change, reply })).await
    }
}

/// Only ordinary files are sent: reading a pipe or a device may never end.
async fn look_at(path: &Path) -> Result<FileSource, FileError> {
    let shown = path.display().to_string();
    let refuse = |reason: String| FileError::Source { path: shown.clone(), reason };
    let absolute = std::path::absolute(path).map_err(|error| refuse(error.to_string()))?;
    let text = absolute.to_str().ok_or_else(|| refuse("its path isn't Unicode".to_owned()))?.to_owned();
    let metadata = tokio::fs::metadata(&absolute).await.map_err(|error| refuse(error.to_string()))?;
    if !metadata.is_file() {
        return Err(refuse("not a file".to_owned()));
    }
    if metadata.len() > FILE_BYTES_MAX {
        return Err(FileError::TooLarge { bytes: metadata.len(), max: FILE_BYTES_MAX });
    }
    let name = absolute.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    Ok(FileSource { path: text, name: halloo_protocol::file::clean_name(&name), size: metadata.len() })
}
