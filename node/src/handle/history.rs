//! What was said: found by its words, taken out and brought back.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::messages::{MessageEntry, MessageError};
use super::problem::{Fault, NodeError, ProblemKind};
use super::{Command, Node, Reply};
pub use crate::history::archive::{ArchiveError, Passphrase};

/// What was said; from [`Node::history`].
#[derive(Clone, Copy, Debug)]
pub struct History<'a>(pub(super) &'a Node);

/// Where to look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SearchOptions {
    /// In the conversation with this user or group alone.
    pub with: Option<String>,
    /// At most so many, the newest; `None` means [`SearchOptions::LIMIT_DEFAULT`].
    pub limit: Option<u32>,
}

impl SearchOptions {
    /// How many messages are given when nothing is said.
    pub const LIMIT_DEFAULT: u32 = 20;
    /// How many are given at most.
    pub const LIMIT_MAX: u32 = 200;
}

/// A message that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Found {
    /// In the conversation with whom: `name@authority`, or the name of a group.
    pub with: String,
    /// The group's id, if it is one.
    pub group: Option<String>,
    /// The message.
    pub message: MessageEntry,
}

/// What was found, the newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FoundMessages {
    /// The messages.
    pub messages: Vec<Found>,
    /// Whether everything was looked at: not while messages of before are being indexed, or where a word is in too many.
    pub is_complete: bool,
}

/// What was taken out or brought back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Moved {
    /// The file.
    pub path: String,
    /// Messages in it.
    pub messages: u64,
    /// Of these, new here.
    pub new: u64,
}

/// Why an operation on the history failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HistoryError {
    /// There is no such conversation.
    #[error(transparent)]
    Conversation(#[from] MessageError),
    /// The node can't do it now.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// That can't be searched for.
    #[error("can't search for that: {reason}")]
    Query {
        /// Why not.
        reason: String,
    },
    /// The file can't be written or read.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
}

impl Fault for HistoryError {
    fn kind(&self) -> ProblemKind {
        match self {
            Self::Conversation(error) => error.kind(),
            Self::Node(error) => error.kind(),
            Self::Query { .. } => ProblemKind::InvalidRequest,
            Self::Archive(error) => match error {
                ArchiveError::Passphrase | ArchiveError::Altered { .. } | ArchiveError::Cut => ProblemKind::Untrusted,
                ArchiveError::Exists { .. } => ProblemKind::Conflict,
                ArchiveError::NotAnArchive { .. }
                | ArchiveError::Weak { .. }
                | ArchiveError::Foreign { .. }
                | ArchiveError::File { .. } => ProblemKind::InvalidRequest,
                ArchiveError::Store(_) => ProblemKind::Internal,
            },
        }
    }
}

/// What the event loop is asked to do with the history.
#[derive(Debug)]
#[allow(missing_docs, reason = "each variant is documented at the handle method that sends it")]
pub enum HistoryCommand {
    /// [`History::search`]
    Search { text: String, options: SearchOptions, reply: Reply<FoundMessages, HistoryError> },
    /// [`History::export`]
    Export { path: PathBuf, passphrase: Passphrase, reply: Reply<Moved, HistoryError> },
    /// [`History::import`]
    Import { path: PathBuf, passphrase: Passphrase, reply: Reply<Moved, HistoryError> },
}

impl HistoryCommand {
    /// Answers that it can't be done now.
    pub(crate) fn refuse(self, error: NodeError) {
        match self {
            Self::Search { reply, .. } => reply.send(Err(error.into())),
            Self::Export { reply, .. } | Self::Import { reply, .. } => reply.send(Err(error.into())),
        }
    }
}

impl History<'_> {
    /// Messages that have all words of a text, the last of which may be begun only; the newest first.
    ///
    /// # Errors
    /// See [`HistoryError`].
    pub async fn search(&self, text: &str, options: SearchOptions) -> Result<FoundMessages, HistoryError> {
        let text = text.to_owned();
        self.0.ask(|reply| Command::History(HistoryCommand::Search { text, options, reply })).await
    }

    /// Writes all conversations into a new file, encrypted under a passphrase. `docs/history.md` describes it.
    ///
    /// # Errors
    /// See [`ArchiveError`]; nothing is written over a file that is there.
    pub async fn export(&self, path: &Path, passphrase: Passphrase) -> Result<Moved, HistoryError> {
        let path = path.to_owned();
        self.0.ask(|reply| Command::History(HistoryCommand::Export { path, passphrase, reply })).await
    }

    /// Adds the messages of such a file that aren't here. The whole file is verified before anything is added.
    ///
    /// # Errors
    /// See [`ArchiveError`].
    pub async fn import(&self, path: &Path, passphrase: Passphrase) -> Result<Moved, HistoryError> {
        let path = path.to_owned();
        self.0.ask(|reply| Command::History(HistoryCommand::Import { path, passphrase, reply })).await
    }
}
