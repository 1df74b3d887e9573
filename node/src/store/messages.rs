//! Messages sent and received, in the order in which this node came to know them.

use std::ops::Bound;

use bincode::{Decode, Encode};
use halloo_protocol::identity::UserId;
use halloo_protocol::key::{DeviceKey, hash};
use halloo_protocol::message::Correspondent;
use halloo_protocol::time::UnixTime;
use halloo_protocol::wire;

use super::table::{Aged, Table, check_length, decode_sequence, decode_value};
use super::{StoreError, Transaction, VALUE_BYTES_MAX, View};

/// Longest message id, in bytes.
pub const MESSAGE_ID_BYTES_MAX: usize = 64;

/// Message ids remembered to recognise copies; the oldest fall out. Senders give up long before that many others have come.
pub const SEEN_MESSAGES_MAX: u64 = 100_000;

/// Readers of one conversation that are looked at: the members of the largest group, twice.
const READERS_MAX: usize = 128;

pub(super) const SEEN: Aged = Aged { rows: Table::Seen, ages: Table::SeenAges };

/// Which way a message went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Direction {
    /// Received.
    In,
    /// Sent, or to be sent.
    Out,
}

/// A kept message.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct MessageRow {
    /// Its id, unique among all messages.
    pub id: Vec<u8>,
    /// Which way it went.
    pub direction: Direction,
    /// With whom.
    pub conversation: Correspondent,
    /// When the user's first device came to know it: its place in the conversation.
    pub at: UnixTime,
    /// Everything else about it, state included, as the messages capability encodes it.
    pub content: Vec<u8>,
}

impl View {
    /// The message with this id, and its sequence number.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn message_by_id(&self, id: &[u8]) -> Result<Option<(u64, MessageRow)>, StoreError> {
        let Some(key) = self.get(Table::MessageIds, id)? else { return Ok(None) };
        let sequence = decode_sequence(Table::MessageIds, &key)?;
        Ok(self.message(sequence)?.map(|row| (sequence, row)))
    }

    /// The message with this sequence number.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn message(&self, sequence: u64) -> Result<Option<MessageRow>, StoreError> {
        self.get_value(Table::Messages, &sequence.to_be_bytes())
    }

    /// The last `limit` messages of a conversation, oldest first; with `before`, the last ones from before that second.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn conversation(
        &self,
        with: &Correspondent,
        before: Option<UnixTime>,
        limit: usize,
    ) -> Result<Vec<(u64, MessageRow)>, StoreError> {
        let before = before.map(|at| at.0);
        let mut keys = self.with_prefix(Table::Conversations, &conversation_key(with), before, true, limit)?;
        keys.reverse();
        self.rows(Table::Conversations, keys)
    }

    /// The time of the message that is the `count`th newest of a conversation; `None` if it has fewer.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn conversation_edge(&self, with: &Correspondent, count: usize) -> Result<Option<UnixTime>, StoreError> {
        let keys = self.with_prefix(Table::Conversations, &conversation_key(with), None, true, count)?;
        let edge = keys.get(count.saturating_sub(1)).and_then(|(key, _)| key.get(32..40)?.first_chunk::<8>().copied());
        Ok(edge.map(|bytes| UnixTime(u64::from_be_bytes(bytes))))
    }

    /// Up to `limit` messages with numbers above `after`, ascending.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn messages_after(&self, after: u64, limit: usize) -> Result<Vec<(u64, MessageRow)>, StoreError> {
        let first = after.saturating_add(1).to_be_bytes();
        let rows = self.range(Table::Messages, (Bound::Included(&first), Bound::Unbounded), false, limit)?;
        rows.into_iter()
            .map(|(key, bytes)| Ok((decode_sequence(Table::Messages, &key)?, decode_value(Table::Messages, &bytes)?)))
            .collect()
    }

    /// What is kept about a conversation as a whole, as the messages capability encodes it.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn conversation_state(&self, with: &Correspondent) -> Result<Option<Vec<u8>>, StoreError> {
        self.get(Table::ConversationStates, &conversation_key(with))
    }

    /// [`View::conversation_state`] of up to `limit` conversations.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn conversation_states(&self, limit: usize) -> Result<Vec<Vec<u8>>, StoreError> {
        let rows = self.range(Table::ConversationStates, (Bound::Unbounded, Bound::Unbounded), false, limit)?;
        Ok(rows.into_iter().map(|(_, bytes)| bytes).collect())
    }

    /// What somebody else has read in a conversation, as the messages capability encodes it.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn reader(&self, with: &Correspondent, user: &UserId) -> Result<Option<Vec<u8>>, StoreError> {
        self.get(Table::Readers, &reader_key(with, user))
    }

    /// [`View::reader`] of everybody in a conversation.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn readers(&self, with: &Correspondent) -> Result<Vec<Vec<u8>>, StoreError> {
        let rows = self.with_prefix(Table::Readers, &conversation_key(with), None, false, READERS_MAX)?;
        Ok(rows.into_iter().map(|(_, bytes)| bytes).collect())
    }

    /// The last `limit` messages with anybody, oldest first.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn last_messages(&self, limit: usize) -> Result<Vec<(u64, MessageRow)>, StoreError> {
        let mut rows = self.messages_before(None, limit)?;
        rows.reverse();
        Ok(rows)
    }

    /// Up to `limit` messages with numbers below `before`, or the last ones, descending.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn messages_before(&self, before: Option<u64>, limit: usize) -> Result<Vec<(u64, MessageRow)>, StoreError> {
        let rows = self.with_prefix(Table::Messages, &[], before, true, limit)?;
        rows.into_iter()
            .map(|(key, bytes)| Ok((decode_sequence(Table::Messages, &key)?, decode_value(Table::Messages, &bytes)?)))
            .collect()
    }

    /// Up to `limit` messages of the outbox that aren't finished, oldest first.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn unfinished_messages(&self, limit: usize) -> Result<Vec<(u64, MessageRow)>, StoreError> {
        let keys = self.with_prefix(Table::Outbox, &[], None, false, limit)?;
        self.rows(Table::Outbox, keys)
    }

    fn rows(&self, index: Table, keys: Vec<super::table::Row>) -> Result<Vec<(u64, MessageRow)>, StoreError> {
        let mut rows = Vec::with_capacity(keys.len());
        for (key, _) in keys {
            let sequence = decode_sequence(index, &key)?;
            if let Some(row) = self.message(sequence)? {
                rows.push((sequence, row));
            }
        }
        Ok(rows)
    }
}

impl Transaction {
    /// Keeps a new message and returns its sequence number. One that goes out also waits in the outbox until
    /// [`Transaction::finish_message`]. A message whose id is known keeps its number and place; nothing is changed.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`], [`StoreError::Database`].
    pub fn add_message(&self, row: &MessageRow) -> Result<u64, StoreError> {
        check_length("message id", &row.id, MESSAGE_ID_BYTES_MAX)?;
        check_length("message", &row.content, VALUE_BYTES_MAX)?;
        if let Some((sequence, _)) = self.message_by_id(&row.id)? {
            return Ok(sequence);
        }
        let sequence = self.append(Table::Messages, &wire::encode(row))?;
        let number = sequence.to_be_bytes();
        self.put(Table::MessageIds, &row.id, &number)?;
        let place = [&conversation_key(&row.conversation)[..], &row.at.0.to_be_bytes(), &number].concat();
        self.put(Table::Conversations, &place, &[])?;
        if row.direction == Direction::Out {
            self.put(Table::Outbox, &number, &[])?;
        }
        crate::history::index(self, sequence, row)?;
        Ok(sequence)
    }

    /// Keeps a signal that goes out, which waits in the outbox until [`Transaction::remove_signal`] and is no part of any conversation.
    /// Returns its sequence number.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`], [`StoreError::Database`].
    pub fn add_signal(&self, row: &MessageRow) -> Result<u64, StoreError> {
        check_length("message id", &row.id, MESSAGE_ID_BYTES_MAX)?;
        check_length("message", &row.content, VALUE_BYTES_MAX)?;
        let sequence = self.append(Table::Messages, &wire::encode(row))?;
        let number = sequence.to_be_bytes();
        self.put(Table::MessageIds, &row.id, &number)?;
        self.put(Table::Outbox, &number, &[])?;
        Ok(sequence)
    }

    /// Forgets a signal: delivered, or given up.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn remove_signal(&self, sequence: u64) -> Result<(), StoreError> {
        let number = sequence.to_be_bytes();
        if let Some(row) = self.message(sequence)? {
            self.remove(Table::MessageIds, &row.id)?;
        }
        self.remove(Table::Messages, &number)?;
        self.remove(Table::Outbox, &number)?;
        Ok(())
    }

    /// Replaces a message's content; `false` if there is no such message.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`], [`StoreError::Database`].
    pub fn update_message(&self, sequence: u64, content: &[u8]) -> Result<bool, StoreError> {
        check_length("message", content, VALUE_BYTES_MAX)?;
        let Some(row) = self.message(sequence)? else { return Ok(false) };
        self.put_value(Table::Messages, &sequence.to_be_bytes(), &MessageRow { content: content.to_vec(), ..row })?;
        Ok(true)
    }

    /// Takes a message out of the outbox: delivered, or given up. It stays in its conversation.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn finish_message(&self, sequence: u64) -> Result<bool, StoreError> {
        self.remove(Table::Outbox, &sequence.to_be_bytes())
    }

    /// Keeps what is known about a conversation as a whole.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`], [`StoreError::Database`].
    pub fn put_conversation_state(&self, with: &Correspondent, bytes: &[u8]) -> Result<(), StoreError> {
        check_length("conversation state", bytes, VALUE_BYTES_MAX)?;
        self.put(Table::ConversationStates, &conversation_key(with), bytes)
    }

    /// Puts up to `limit` messages, the newest, of one conversation into another, each as `change` has it, and forgets the state of the first. What stays is found there still.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`], [`StoreError::Database`].
    pub fn move_conversation(
        &self,
        (from, to): (&Correspondent, &Correspondent),
        limit: usize,
        change: impl Fn(&mut MessageRow),
    ) -> Result<(), StoreError> {
        for (sequence, mut row) in self.conversation(from, None, limit)? {
            let number = sequence.to_be_bytes();
            let place = |with| [&conversation_key(with)[..], &row.at.0.to_be_bytes(), &number].concat();
            let (before, after) = (place(from), place(to));
            row.conversation = to.clone();
            change(&mut row);
            check_length("message", &row.content, VALUE_BYTES_MAX)?;
            self.remove(Table::Conversations, &before)?;
            self.put(Table::Conversations, &after, &[])?;
            self.put_value(Table::Messages, &number, &row)?;
        }
        self.remove(Table::ConversationStates, &conversation_key(from)).map(drop)
    }

    /// Keeps what somebody else has read in a conversation.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`], [`StoreError::Database`].
    pub fn put_reader(&self, with: &Correspondent, user: &UserId, bytes: &[u8]) -> Result<(), StoreError> {
        check_length("reader", bytes, VALUE_BYTES_MAX)?;
        self.put(Table::Readers, &reader_key(with, user), bytes)
    }

    /// True the first time a message of this device and id comes. Call it in the transaction that keeps the message, so that a crash
    /// between the two loses neither.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`], [`StoreError::Database`].
    pub fn is_first_copy(&self, sender: &DeviceKey, id: &[u8], now: UnixTime) -> Result<bool, StoreError> {
        check_length("message id", id, MESSAGE_ID_BYTES_MAX)?;
        let key = [&sender.as_bytes()[..], id].concat();
        if self.contains(Table::Seen, &key)? {
            return Ok(false);
        }
        self.put_aged(SEEN, &key, now.0, &[], SEEN_MESSAGES_MAX)?;
        Ok(true)
    }
}

/// Of one length for all, so that one's key is never the start of another's.
fn conversation_key(with: &Correspondent) -> [u8; 32] {
    hash("halloo store conversation", &[&wire::encode(with)])
}

fn reader_key(with: &Correspondent, user: &UserId) -> Vec<u8> {
    [conversation_key(with), hash("halloo store reader", &[&wire::encode(user)])].concat()
}
