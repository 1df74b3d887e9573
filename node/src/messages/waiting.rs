//! What waits to be read, as the desk of an account's phones needs it: which messages there are, oldest first, their texts, and many marked as read at once.
//!
//! Of users alone: messages of groups and recordings aren't for phones. A message is named as it is shown, by its author and its id. Nothing here looks through a
//! conversation for one message, but [`EventLoop::list_waiting`], which reads back from the newest until it has found as many as there are, a page at a time.

use std::collections::BTreeMap;

use halloo_protocol::id::MessageId;
use halloo_protocol::key::DeviceKey;
use halloo_protocol::message::{Correspondent, CounterSet, Marks};

use super::{Kept, foreign_row_id, internal};
use crate::event_loop::EventLoop;
use crate::handle::Reply;
use crate::handle::messages::MessageError;
use crate::handle::waiting::{WaitingCommand, WaitingMessage, WaitingPage, WaitingRow, WaitingText};
use crate::receipts::{CONVERSATIONS_MAX, Conversation};
use crate::store::{StoreError, View};
use crate::timestamp::Timestamp;

/// Rows read for one page: a few milliseconds of the loop's time.
const PAGE_ROWS: usize = 1_000;

/// What is unread of each user's, by conversation.
type Unread = BTreeMap<Correspondent, Marks>;

impl EventLoop {
    pub(crate) fn handle_waiting(&mut self, command: WaitingCommand) {
        match command {
            WaitingCommand::List { before, reply } => answer(reply, self.list_waiting(before)),
            WaitingCommand::Texts { numbers, reply } => answer(reply, self.waiting_texts(&numbers)),
            WaitingCommand::Unread { messages, reply } => answer(reply, self.still_unread(messages)),
            WaitingCommand::Taken { messages, reply } => answer(reply, self.mark_taken(&messages)),
        }
    }

    /// Rows of unread messages, the newest first, from before the row with this number.
    fn list_waiting(&self, before: Option<u64>) -> Result<WaitingPage, StoreError> {
        self.store.read(|view| {
            let unread = unread_of_users(view)?;
            let total: u64 = unread.values().flat_map(Marks::iter).map(|(_, counters)| counters.len()).sum();
            let mut page = WaitingPage { rows: Vec::new(), seen: 0, total, before: None };
            if total == 0 {
                return Ok(page);
            }
            let rows = view.messages_before(before, PAGE_ROWS)?;
            page.before = rows.last().map(|(number, _)| *number).filter(|_| rows.len() == PAGE_ROWS);
            for (number, row) in rows {
                let Some(marks) = unread.get(&row.conversation) else { continue };
                let Some(Kept::Received { from, envelope, .. }) = Kept::decode(&row.content) else { continue };
                if marks.contains(&from, envelope.counter) {
                    page.seen += 1;
                    let row = WaitingRow { number, device: from, counter: envelope.counter };
                    page.rows.extend(envelope.body.text().is_some_and(|text| !text.is_empty()).then_some(row));
                }
            }
            Ok(page)
        })
    }

    /// Texts of these, but for those that were read meanwhile.
    fn waiting_texts(&self, numbers: &[u64]) -> Result<Vec<WaitingText>, StoreError> {
        self.store.read(|view| {
            let unread = unread_of_users(view)?;
            let mut texts = Vec::with_capacity(numbers.len());
            for number in numbers {
                let Some(row) = view.message(*number)? else { continue };
                let Some(Kept::Received { from, author, envelope }) = Kept::decode(&row.content) else { continue };
                let is_unread = unread.get(&row.conversation).is_some_and(|marks| marks.contains(&from, envelope.counter));
                if let (Some(text), true) = (envelope.body.text(), is_unread) {
                    texts.push(WaitingText {
                        message: WaitingMessage { from: self.labels.display(&author), id: envelope.id.to_string() },
                        text: text.to_owned(),
                        sent_at: Timestamp::from_unix_secs(envelope.sent_at.0),
                    });
                }
            }
            Ok(texts)
        })
    }

    /// Those of these messages that haven't been read.
    fn still_unread(&self, messages: Vec<WaitingMessage>) -> Result<Vec<WaitingMessage>, StoreError> {
        self.store.read(|view| {
            let unread = unread_of_users(view)?;
            let mut left = Vec::new();
            for message in messages {
                if self.find_unread(view, &unread, &message)?.is_some() {
                    left.push(message);
                }
            }
            Ok(left)
        })
    }

    /// Marks these as read, all in one transaction, with one receipt for each author.
    fn mark_taken(&mut self, messages: &[WaitingMessage]) -> Result<(), StoreError> {
        let read = self.store.read::<_, StoreError>(|view| {
            let unread = unread_of_users(view)?;
            let mut read = Unread::new();
            for message in messages {
                if let Some((with, device, counter)) = self.find_unread(view, &unread, message)? {
                    read.entry(with).or_default().add(device, &CounterSet::of_range(counter, counter));
                }
            }
            Ok(read)
        })?;
        self.note_read(&read)
    }

    /// Where an unread message stands; `None` if it isn't one. Its id is its author's choice: which of their devices has written it is tried.
    fn find_unread(
        &self,
        view: &View,
        unread: &Unread,
        message: &WaitingMessage,
    ) -> Result<Option<(Correspondent, DeviceKey, u64)>, StoreError> {
        let (Ok(user), Ok(id)) = (self.labels.parse(&message.from), message.id.parse::<MessageId>()) else { return Ok(None) };
        let with = Correspondent::User(user);
        let Some(marks) = unread.get(&with) else { return Ok(None) };
        for (device, counters) in marks.iter() {
            let Some((_, row)) = view.message_by_id(&foreign_row_id(device, &id))? else { continue };
            let kept = Kept::decode(&row.content).filter(|_| row.conversation == with);
            if let Some(counter) = kept.map(|kept| kept.envelope().counter).filter(|counter| counters.contains(*counter)) {
                return Ok(Some((with, *device, counter)));
            }
        }
        Ok(None)
    }
}

fn unread_of_users(view: &View) -> Result<Unread, StoreError> {
    let states = view.conversation_states(CONVERSATIONS_MAX)?;
    let states = states.iter().filter_map(|bytes| Conversation::decode(bytes));
    let unread = states.filter(|state| state.with.group().is_none()).map(|state| (state.with.clone(), state.unread()));
    Ok(unread.filter(|(_, marks)| !marks.is_empty()).collect())
}

fn answer<T>(reply: Reply<T, MessageError>, result: Result<T, StoreError>) {
    reply.send(result.map_err(|error| internal(&error)));
}
