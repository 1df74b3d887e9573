//! Files on offer and on their way: what is known of each, the hashes of its chunks, and what has come of it.

use halloo_protocol::file::FileId;

use super::table::{Table, check_length};
use super::{StoreError, Transaction, VALUE_BYTES_MAX, View};

/// Hashes are kept in rows of so many bytes: 1,024 of them.
pub const FILE_HASHES_ROW_BYTES: usize = 32 * 1_024;

impl View {
    /// All files, as their owner encoded them. For starting up.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn files(&self) -> Result<Vec<Vec<u8>>, StoreError> {
        Ok(self.all(Table::Files)?.into_iter().map(|(_, bytes)| bytes).collect())
    }

    /// The hashes of a file's chunks, one after the other; empty if there are none.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn file_hashes(&self, id: &FileId) -> Result<Vec<u8>, StoreError> {
        let rows = self.with_prefix(Table::FileHashes, &id.0, None, false, usize::MAX)?;
        Ok(rows.into_iter().flat_map(|(_, bytes)| bytes).collect())
    }

    /// The hashes from chunk `from` on that are kept in one row with it.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn file_hashes_from(&self, id: &FileId, from: u32) -> Result<Vec<u8>, StoreError> {
        const HASH_BYTES: usize = 32;
        let at = from as usize * HASH_BYTES;
        let number = u32::try_from(at / FILE_HASHES_ROW_BYTES).unwrap_or(u32::MAX);
        let row = self.get(Table::FileHashes, &[&id.0[..], &number.to_be_bytes()].concat())?;
        Ok(row.and_then(|row| row.get(at % FILE_HASHES_ROW_BYTES..).map(<[u8]>::to_vec)).unwrap_or_default())
    }

    /// What has come of a file, as [`Transaction::put_file_progress`] kept it.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn file_progress(&self, id: &FileId) -> Result<Option<Vec<u8>>, StoreError> {
        self.get(Table::FileProgress, &id.0)
    }
}

impl Transaction {
    /// Keeps what is known of a file, in place of what was kept. The owner bounds how many there are.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`], [`StoreError::Database`].
    pub fn put_file(&self, id: &FileId, bytes: &[u8]) -> Result<(), StoreError> {
        check_length("file", bytes, VALUE_BYTES_MAX)?;
        self.put(Table::Files, &id.0, bytes)
    }

    /// Keeps the hashes of a file's chunks.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn put_file_hashes(&self, id: &FileId, hashes: &[u8]) -> Result<(), StoreError> {
        for (number, part) in (0_u32..).zip(hashes.chunks(FILE_HASHES_ROW_BYTES)) {
            self.put(Table::FileHashes, &[&id.0[..], &number.to_be_bytes()].concat(), part)?;
        }
        Ok(())
    }

    /// Keeps what has come of a file.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`], [`StoreError::Database`].
    pub fn put_file_progress(&self, id: &FileId, bytes: &[u8]) -> Result<(), StoreError> {
        check_length("progress of a file", bytes, VALUE_BYTES_MAX)?;
        self.put(Table::FileProgress, &id.0, bytes)
    }

    /// Forgets the hashes and the progress of a file that has ended.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn end_file(&self, id: &FileId) -> Result<(), StoreError> {
        for (key, _) in self.with_prefix(Table::FileHashes, &id.0, None, false, usize::MAX)? {
            self.remove(Table::FileHashes, &key)?;
        }
        self.remove(Table::FileProgress, &id.0)?;
        Ok(())
    }

    /// Forgets a file.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn remove_file(&self, id: &FileId) -> Result<(), StoreError> {
        self.end_file(id)?;
        self.remove(Table::Files, &id.0)?;
        Ok(())
    }
}
