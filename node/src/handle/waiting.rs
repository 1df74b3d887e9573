//! What waits to be read, for the desk of an account's phones: one by one it would be a question, and a commit, for each message.

use std::collections::BTreeMap;

use halloo_protocol::key::DeviceKey;

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

/// Where a message stands: in the database, and among those of the device that has written it.
#[derive(Clone, Copy, Debug)]
pub struct WaitingRow {
    /// Its row.
    pub number: u64,
    /// Which device.
    pub device: DeviceKey,
    /// Its number there.
    pub counter: u64,
}

/// A part of what waits.
#[derive(Debug)]
pub struct WaitingPage {
    /// Rows of texts, the newest first.
    pub rows: Vec<WaitingRow>,
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
    /// The rows of unread texts of users, the oldest first; what one device has written in the order in which it was written.
    pub(crate) async fn waiting(&self) -> Result<Vec<u64>, MessageError> {
        let (mut rows, mut seen, mut total, mut before) = (Vec::new(), 0, 0, None);
        loop {
            let page = self.0.ask(|reply| Command::Waiting(WaitingCommand::List { before, reply })).await?;
            rows.extend(page.rows);
            // What is read meanwhile is missing in later pages, and must not end the list early.
            total = page.total.max(total);
            (seen, before) = (seen + page.seen, page.before);
            if before.is_none() || seen >= total {
                rows.reverse();
                return Ok(in_order(&rows));
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

/// Row numbers, each device's in the order of its counters, in the places that its messages have.
fn in_order(rows: &[WaitingRow]) -> Vec<u64> {
    let mut places: BTreeMap<DeviceKey, Vec<usize>> = BTreeMap::new();
    for (place, row) in rows.iter().enumerate() {
        places.entry(row.device).or_default().push(place);
    }
    let mut numbers: Vec<u64> = rows.iter().map(|row| row.number).collect();
    for of_device in places.into_values() {
        let mut sorted: Vec<&WaitingRow> = of_device.iter().filter_map(|place| rows.get(*place)).collect();
        sorted.sort_by_key(|row| row.counter);
        for (place, row) in of_device.into_iter().zip(sorted) {
            numbers[place] = row.number;
        }
    }
    numbers
}

#[cfg(test)]
mod tests {
    use halloo_protocol::key::PublicKey;

    use super::*;

    #[test]
    fn what_came_late_has_its_place() {
        let row = |number, device: u8, counter| WaitingRow { number, device: DeviceKey(PublicKey([device; 32])), counter };
        let rows = [row(1, 1, 2), row(2, 2, 1), row(5, 1, 1), row(7, 1, 3)];
        assert_eq!(in_order(&rows), [5, 2, 1, 7]);
        assert!(in_order(&[]).is_empty());
    }
}
