//! What own devices share of linked accounts.

use halloo_protocol::key::hash;
use halloo_protocol::linked::SharedPiece;
use halloo_protocol::wire;

use super::table::{Table, check_length, decode_value};
use super::{StoreError, Transaction, VALUE_BYTES_MAX, View};

/// Keys of one length, whatever the piece is about.
fn key(piece: &SharedPiece) -> [u8; 32] {
    hash("halloo linked piece", &[&piece.subject()])
}

impl View {
    /// Everything that is kept. For starting up. What can't be read is passed over: other devices have it.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn linked_pieces(&self) -> Result<Vec<SharedPiece>, StoreError> {
        let rows = self.all(Table::LinkedPieces)?;
        Ok(rows.iter().filter_map(|(_, value)| decode_value(Table::LinkedPieces, value).ok()).collect())
    }
}

impl Transaction {
    /// Keeps a piece, in place of the one with the same subject.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`], [`StoreError::Database`].
    pub fn put_linked_piece(&self, piece: &SharedPiece) -> Result<(), StoreError> {
        let bytes = wire::encode(piece);
        check_length("linked piece", &bytes, VALUE_BYTES_MAX)?;
        self.put(Table::LinkedPieces, &key(piece), &bytes)
    }

    /// Forgets a piece.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn remove_linked_piece(&self, piece: &SharedPiece) -> Result<(), StoreError> {
        self.remove(Table::LinkedPieces, &key(piece)).map(drop)
    }
}
