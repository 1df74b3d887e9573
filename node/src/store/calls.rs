//! Calls that were.

use super::table::{Table, check_length, decode_sequence};
use super::{StoreError, Transaction, VALUE_BYTES_MAX, View};

/// Calls kept; the oldest fall out.
const CALLS_MAX: u64 = 10_000;

impl View {
    /// The last `limit` calls, newest first, with their numbers.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn last_calls(&self, limit: usize) -> Result<Vec<(u64, Vec<u8>)>, StoreError> {
        let rows = self.with_prefix(Table::Calls, &[], None, true, limit)?;
        rows.into_iter().map(|(key, bytes)| Ok((decode_sequence(Table::Calls, &key)?, bytes))).collect()
    }
}

impl Transaction {
    /// Adds a call to the history and returns its number. The oldest makes room beyond 10,000.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`], [`StoreError::Database`].
    pub fn add_call(&self, call: &[u8]) -> Result<u64, StoreError> {
        check_length("call", call, VALUE_BYTES_MAX)?;
        let number = self.append(Table::Calls, call)?;
        if self.count(Table::Calls)? > CALLS_MAX
            && let Some((oldest, _)) = self.with_prefix(Table::Calls, &[], None, false, 1)?.first()
        {
            self.remove(Table::Calls, oldest)?;
        }
        Ok(number)
    }

    /// Replaces what is kept of a call, as when it ends.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`], [`StoreError::Database`].
    pub fn update_call(&self, number: u64, call: &[u8]) -> Result<(), StoreError> {
        check_length("call", call, VALUE_BYTES_MAX)?;
        self.put(Table::Calls, &number.to_be_bytes(), call)
    }
}
