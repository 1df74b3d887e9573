//! The index of words in messages: which messages have which.

use halloo_protocol::wire::DecodeError;

use super::table::{Table, decode_sequence};
use super::{StoreError, Transaction, View};

/// Between a word and the number of the message that has it; in no word.
const SEPARATOR: u8 = 0;

impl View {
    /// The messages that have this very word, the newest first: at most `limit`, with `before` those before that number.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn messages_with(&self, word: &str, before: Option<u64>, limit: usize) -> Result<Vec<u64>, StoreError> {
        let rows = self.with_prefix(Table::SearchWords, &word_key(word), before, true, limit)?;
        rows.into_iter().map(|(key, _)| decode_sequence(Table::SearchWords, &key)).collect()
    }

    /// True if a message has this very word.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn message_has(&self, word: &str, message: u64) -> Result<bool, StoreError> {
        self.contains(Table::SearchWords, &[&word_key(word)[..], &message.to_be_bytes()].concat())
    }

    /// Messages that have a word beginning like this, in no order: at most `limit` finds, some of which may be of one message.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn messages_with_prefix(&self, beginning: &str, limit: usize) -> Result<Vec<u64>, StoreError> {
        let rows = self.with_prefix(Table::SearchWords, beginning.as_bytes(), None, false, limit)?;
        rows.into_iter().map(|(key, _)| decode_sequence(Table::SearchWords, &key)).collect()
    }

    /// The number of the newest message; 0 if there is none.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn newest_message(&self) -> Result<u64, StoreError> {
        let last = self.with_prefix(Table::Messages, &[], None, true, 1)?;
        last.first().map_or(Ok(0), |(key, _)| decode_sequence(Table::Messages, key))
    }
}

impl Transaction {
    /// Notes which words a message has. Doing it again changes nothing.
    ///
    /// # Errors
    /// [`StoreError::Value`] for a word that none can be, [`StoreError::Database`].
    pub fn index_message(&self, message: u64, words: impl IntoIterator<Item = String>) -> Result<(), StoreError> {
        for word in words {
            if word.is_empty() || word.as_bytes().contains(&SEPARATOR) {
                let source = DecodeError::invalid("word", "empty, or with a zero in it");
                return Err(StoreError::Value { table: Table::SearchWords.name(), source });
            }
            self.put(Table::SearchWords, &[&word_key(&word)[..], &message.to_be_bytes()].concat(), &[])?;
        }
        Ok(())
    }
}

fn word_key(word: &str) -> Vec<u8> {
    [word.as_bytes(), &[SEPARATOR]].concat()
}
