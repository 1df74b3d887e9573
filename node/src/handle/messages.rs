//! Messages to and from users.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::directory::ResolveError;
use super::linked::LinkedPeer;
use super::problem::{Fault, NodeError, ProblemKind, UsernameError};
use super::{Command, Node};
use crate::timestamp::Timestamp;

/// Messages to and from users; from [`Node::messages`].
#[derive(Clone, Copy, Debug)]
pub struct Messages<'a>(pub(super) &'a Node);

/// How far a message has come. States only move forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum MessageState {
    /// Stored in the outbox; survives a crash.
    Queued,
    /// Handed to a connection of at least one device.
    Sent,
    /// Stored by at least one of the recipient's devices.
    Delivered,
    /// Seen by the recipient.
    Read,
    /// Given up; [`MessageStatus::reason`] says why.
    Failed,
}

/// A message and how far it has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MessageStatus {
    /// The message's id, unique per sender.
    pub id: String,
    /// How far it has come.
    pub state: MessageState,
    /// Why it is no further, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Of a message to a group: how far it is for each member. The message as a whole is as far as the one who is least far.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub members: Vec<MemberStatus>,
}

/// How far a message to a group is for one member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MemberStatus {
    /// Who, `name@authority`.
    pub username: String,
    /// How far.
    pub state: MessageState,
}

/// Which part of a conversation to list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MessageListOptions {
    /// At most so many, the newest; `None` means [`MessageListOptions::LIMIT_DEFAULT`].
    pub limit: Option<u32>,
}

impl MessageListOptions {
    /// How many messages are listed when nothing is said.
    pub const LIMIT_DEFAULT: u32 = 100;
    /// How many are listed at most: keeps one answer below a few megabytes.
    pub const LIMIT_MAX: u32 = 1_000;
}

/// Part of a conversation, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MessageList {
    /// The other side, `name@authority`; or the group's name.
    pub with: String,
    /// The group's id, if it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Who that is in a linked system, by this user's contact list there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub linked: Option<LinkedPeer>,
    /// The messages.
    pub messages: Vec<MessageEntry>,
    /// How many of the conversation haven't been read.
    #[serde(default)]
    pub unread: u64,
    /// How many haven't come, though later ones have: they are asked for.
    #[serde(default)]
    pub missing: u64,
}

/// Everybody with whom there is a conversation, the newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ConversationList {
    /// The conversations.
    pub conversations: Vec<ConversationEntry>,
}

/// One conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ConversationEntry {
    /// The other side, `name@authority`; or the group's name.
    pub with: String,
    /// The group's id, if it is one.
    pub group: Option<String>,
    /// Who that is in a linked system, by this user's contact list there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub linked: Option<LinkedPeer>,
    /// How many messages haven't been read.
    pub unread: u64,
    /// How many haven't come, though later ones have.
    pub missing: u64,
    /// When the newest message came to be known.
    pub last_at: Timestamp,
    /// The newest message.
    pub last_text: String,
}

/// What came of marking messages as read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReadOutcome {
    /// The other side, `name@authority`; or the group's name.
    pub with: String,
    /// The group's id, if it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// How many messages were marked.
    pub marked: u64,
    /// How many are still unread.
    pub unread: u64,
}

/// What came of saying that the person is writing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ComposingTold {
    /// The other side, `name@authority`; or the group's name.
    pub with: String,
    /// Whether they are told: contacts are, one by one, where the privacy settings let authors know what was read.
    pub told: bool,
}

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MessageEntry {
    /// The message's id.
    pub id: String,
    /// Who wrote it, `name@authority`.
    pub from: String,
    /// Whom it is for, `name@authority`.
    pub to: String,
    /// Whether this user received it (`true`) or wrote it (`false`).
    pub incoming: bool,
    /// The text; empty where it is a recording.
    pub text: String,
    /// How long it is, if it is a recording: `/v1/voicemails` has it, under the same id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub voicemail_ms: Option<u64>,
    /// When its writer sent it, by their clock.
    pub sent_at: Timestamp,
    /// How far it has come; of an incoming one, whether it was read here or on another own device.
    pub state: MessageState,
    /// Whether it came in and wasn't read.
    #[serde(default)]
    pub unread: bool,
    /// Of a message to a group: how far it is for each member.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub members: Vec<MemberStatus>,
}

/// Why an operation on messages failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MessageError {
    /// The username can't be understood.
    #[error(transparent)]
    Username(#[from] UsernameError),
    /// The node can't do it now.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// The recipient was not found.
    #[error(transparent)]
    Resolve(ResolveError),
    /// The text is empty.
    #[error("the message is empty")]
    Empty,
    /// The text is larger than a message may be.
    #[error("the message has {bytes} bytes, at most {max} are allowed")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// There is no such group.
    #[error("no group {group:?}; `halloo group list` shows them")]
    UnknownGroup {
        /// What was given.
        group: String,
    },
    /// Several groups are meant by it.
    #[error("{group:?} is the name, or the start of the id, of several groups; give the id")]
    AmbiguousGroup {
        /// What was given.
        group: String,
    },
    /// This user doesn't take part in the group.
    #[error("not a member of the group {group}")]
    NotInGroup {
        /// Its name.
        group: String,
    },
    /// No message has this id.
    #[error("no message has the id {id:?}")]
    UnknownMessage {
        /// The id.
        id: String,
    },
    /// The message was not delivered in time; it stays queued.
    #[error("message {id} is not delivered after {} ms; it stays in the outbox", limit.as_millis())]
    TimedOut {
        /// The message.
        id: String,
        /// How long was waited.
        limit: Duration,
    },
}

impl From<ResolveError> for MessageError {
    fn from(error: ResolveError) -> Self {
        match error {
            ResolveError::Username(error) => Self::Username(error),
            ResolveError::Node(error) => Self::Node(error),
            other => Self::Resolve(other),
        }
    }
}

impl Fault for MessageError {
    fn kind(&self) -> ProblemKind {
        match self {
            Self::Username(error) => error.kind(),
            Self::Node(error) => error.kind(),
            Self::Resolve(error) => error.kind(),
            Self::Empty => ProblemKind::InvalidRequest,
            Self::TooLarge { .. } => ProblemKind::TooLarge,
            Self::UnknownMessage { .. } | Self::UnknownGroup { .. } => ProblemKind::NotFound,
            Self::AmbiguousGroup { .. } | Self::NotInGroup { .. } => ProblemKind::Conflict,
            Self::TimedOut { .. } => ProblemKind::TimedOut,
        }
    }
}

impl Messages<'_> {
    /// Queues a message; returns as soon as it is stored, with what is known by then.
    ///
    /// # Errors
    /// See [`MessageError`]. A recipient who is offline is no error.
    pub async fn send(&self, to: &str, text: &str) -> Result<MessageStatus, MessageError> {
        let (to, text) = (to.to_owned(), text.to_owned());
        self.0.ask(|reply| Command::MessageSend { to, text, reply }).await
    }

    /// Waits until the message is delivered, read or failed, at most `limit`.
    ///
    /// # Errors
    /// [`MessageError::TimedOut`] after `limit`; the message stays queued.
    pub async fn wait(&self, id: &str, limit: Duration) -> Result<MessageStatus, MessageError> {
        let wait = self.0.ask(|reply| Command::MessageWait { id: id.to_owned(), reply });
        match tokio::time::timeout(limit, wait).await {
            Ok(answer) => answer,
            Err(_elapsed) => Err(MessageError::TimedOut { id: id.to_owned(), limit }),
        }
    }

    /// Everybody with whom there is a conversation, with what is unread.
    ///
    /// # Errors
    /// See [`MessageError`].
    pub async fn conversations(&self) -> Result<ConversationList, MessageError> {
        self.0.ask(Command::Conversations).await
    }

    /// The person has read a conversation, up to a message or to the newest. The authors are told, unless the privacy settings say no; own other
    /// devices are told in any case.
    ///
    /// # Errors
    /// See [`MessageError`].
    pub async fn mark_read(&self, with: &str, up_to: Option<&str>) -> Result<ReadOutcome, MessageError> {
        let (with, up_to) = (with.to_owned(), up_to.map(str::to_owned));
        self.0.ask(|reply| Command::MarkRead { with, up_to, reply }).await
    }

    /// The person is writing to somebody, for so many seconds if nothing else is said (600 at most), or has stopped (0). Nothing of it is kept.
    ///
    /// # Errors
    /// See [`MessageError`].
    pub async fn composing(&self, with: &str, for_secs: u16) -> Result<ComposingTold, MessageError> {
        let (with, for_secs) = (with.to_owned(), for_secs.min(halloo_protocol::message::COMPOSING_SECS_MAX));
        self.0.ask(|reply| Command::Composing { with, for_secs, reply }).await
    }

    /// The conversation with a user, or with `group:` and a group's id, start of the id or name; oldest first.
    ///
    /// # Errors
    /// See [`MessageError`]. A user without messages gives an empty list.
    pub async fn list(&self, user: &str, options: MessageListOptions) -> Result<MessageList, MessageError> {
        let user = user.to_owned();
        self.0.ask(|reply| Command::MessageList { user, options, reply }).await
    }
}
