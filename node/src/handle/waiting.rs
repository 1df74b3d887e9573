//! What waits to be read, for the desk of an account's phones: one by one it would be a question, and a commit, for each message.

use super::messages::{MessageError, Messages};
use super::problem::NodeError;
use super::{Command, Reply};
use crate::timestamp::Timestamp;

/// What a desk asks.
#[derive(Debug)]
#[allow(missing_docs, reason = "each variant is documented at the method that sends it")]
pub enum WaitingCommand {
    /// `Messages::waiting`: a page, the newest first, from before this row.
    List { before: Option<u64>, reply: Reply<WaitingPage, MessageError> },
    /// `Messages::waiting_texts`
    Texts { numbers: Vec<u64>, reply: Reply<Vec<WaitingText>, MessageError> },
    /// `Messages::still_unread`
    Unread { messages: Vec<WaitingMessage>, reply: Reply<Vec<WaitingMessage>, MessageError> },
    /// `Messages::mark_taken`
    Taken { messages: Vec<WaitingMessage>, reply: Reply<(), MessageError> },
}

/// Names a message of a user.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WaitingMessage {
    /// Its author, verified.
    pub from: String,
    /// Its id, its author's choice.
    pub id: String,
}

/// A part of what waits.
#[derive(Debug)]
pub struct WaitingPage {
    /// Rows of texts, the newest first.
    pub numbers: Vec<u64>,
    /// Unread messages in it, recordings among them.
    pub seen: u64,
    /// Unread messages in all.
    pub total: u64,
    /// Where the next page begins, if there may be one.
    pub before: Option<u64>,
}

/// A text that waits.
#[derive(Debug)]
pub struct WaitingText {
    /// Which.
    pub message: WaitingMessage,
    /// It.
    pub text: String,
    /// When it was written, as its author says.
    pub sent_at: Timestamp,
}

impl WaitingCommand {
    /// Answers that it can't be done now.
    pub(crate) fn refuse(self, error: NodeError) {
        match self {
            Self::List { reply, .. } => reply.send(Err(error.into())),
            Self::Texts { reply, .. } => reply.send(Err(error.into())),
            Self::Unread { reply, .. } => reply.send(Err(error.into())),
            Self::Taken { reply, .. } => reply.send(Err(error.into())),
        }
    }
}

impl Messages<'_> {
    /// The rows of unread texts of users, oldest first.
    pub(crate) async fn waiting(&self) -> Result<Vec<u64>, MessageError> {
        let (mut numbers, mut seen, mut before) = (Vec::new(), 0, None);
        loop {
            let page = self.0.ask(|reply| Command::Waiting(WaitingCommand::List { before, reply })).await?;
            numbers.extend(page.numbers);
            (seen, before) = (seen + page.seen, page.before);
            if before.is_none() || seen >= page.total {
                numbers.reverse();
                return Ok(numbers);
            }
        }
    }

    /// Their texts; what was read meanwhile is left out.
    pub(crate) async fn waiting_texts(&self, numbers: Vec<u64>) -> Result<Vec<WaitingText>, MessageError> {
        self.0.ask(|reply| Command::Waiting(WaitingCommand::Texts { numbers, reply })).await
    }

    /// Those that haven't been read.
    pub(crate) async fn still_unread(&self, messages: Vec<WaitingMessage>) -> Result<Vec<WaitingMessage>, MessageError> {
        self.0.ask(|reply| Command::Waiting(WaitingCommand::Unread { messages, reply })).await
    }

    /// The person has read these, and those alone: as [`Messages::mark_read`], for all of them in one.
    pub(crate) async fn mark_taken(&self, messages: Vec<WaitingMessage>) -> Result<(), MessageError> {
        self.0.ask(|reply| Command::Waiting(WaitingCommand::Taken { messages, reply })).await
    }
}
