//! Vaults that a mailbox keeps for others, and what this device knows of its own.

use bincode::{Decode, Encode};
use halloo_protocol::key::{DeviceKey, IdentityKey};
use halloo_protocol::vault::{ChunkId, ChunkMark, HeldChunk, ItemKey, Known, KnownChunk, SealedChunk, VaultAccount, VaultItem};

use super::table::{Table, decode_key, decode_value};
use super::{StoreError, Transaction, View};

/// Bytes of all vaults.
const BYTES_OF_ALL: &str = "bytes of all vaults";

/// A chunk in its vault.
#[derive(Debug, Encode, Decode)]
struct ChunkRow {
    version: u64,
    chunk: SealedChunk,
}

// For others.
impl View {
    /// A user's vault.
    ///
    /// # Errors
    /// [`StoreError::Value`], [`StoreError::Database`].
    pub fn vault_account(&self, user: &IdentityKey) -> Result<Option<VaultAccount>, StoreError> {
        self.get_value(Table::VaultAccounts, user.as_bytes())
    }

    /// How many vaults there are, and their bytes.
    ///
    /// # Errors
    /// [`StoreError::Value`], [`StoreError::Database`].
    pub fn vault_sums(&self) -> Result<(u64, u64), StoreError> {
        Ok((self.count(Table::VaultAccounts)?, self.setting_value(BYTES_OF_ALL)?.unwrap_or(0)))
    }

    /// What is in a vault.
    ///
    /// # Errors
    /// [`StoreError::Value`], [`StoreError::Database`].
    pub fn vault_index(&self, user: &IdentityKey, limit: usize) -> Result<Vec<ChunkMark>, StoreError> {
        let rows = self.with_prefix(Table::VaultChunks, user.as_bytes(), None, false, limit)?;
        rows.iter()
            .map(|(key, value)| {
                let row: ChunkRow = decode_value(Table::VaultChunks, value)?;
                Ok(ChunkMark { id: chunk_id(key)?, version: row.version })
            })
            .collect()
    }

    /// A chunk of a vault.
    ///
    /// # Errors
    /// [`StoreError::Value`], [`StoreError::Database`].
    pub fn vault_chunk(&self, user: &IdentityKey, id: ChunkId) -> Result<Option<HeldChunk>, StoreError> {
        let row: Option<ChunkRow> = self.get_value(Table::VaultChunks, &chunk_key(user.as_bytes(), id))?;
        Ok(row.map(|row| HeldChunk { mark: ChunkMark { id, version: row.version }, chunk: row.chunk }))
    }

    /// Some vaults, by user, from the one after `after` on.
    ///
    /// # Errors
    /// [`StoreError::Value`], [`StoreError::Database`].
    pub fn vault_accounts_after(
        &self,
        after: Option<&IdentityKey>,
        limit: usize,
    ) -> Result<Vec<(IdentityKey, VaultAccount)>, StoreError> {
        use std::ops::Bound;
        let start = after.map_or(Bound::Unbounded, |user| Bound::Excluded(&user.as_bytes()[..]));
        let rows = self.range(Table::VaultAccounts, (start, Bound::Unbounded), false, limit)?;
        rows.iter()
            .map(|(key, value)| Ok((decode_key(Table::VaultAccounts, key)?, decode_value(Table::VaultAccounts, value)?)))
            .collect()
    }
}

impl Transaction {
    /// Keeps a chunk, or takes it out, together with the account as it is then.
    ///
    /// # Errors
    /// [`StoreError::Value`], [`StoreError::Database`].
    pub fn put_vault_chunk(
        &self,
        user: &IdentityKey,
        id: ChunkId,
        chunk: Option<SealedChunk>,
        account: &VaultAccount,
    ) -> Result<(), StoreError> {
        let before = self.vault_account(user)?.map_or(0, |account| account.bytes);
        let (_, sum) = self.vault_sums()?;
        self.put_setting_value(BYTES_OF_ALL, &sum.saturating_sub(before).saturating_add(account.bytes))?;
        self.put_value(Table::VaultAccounts, user.as_bytes(), account)?;
        let key = chunk_key(user.as_bytes(), id);
        match chunk {
            Some(chunk) => self.put_value(Table::VaultChunks, &key, &ChunkRow { version: account.version, chunk }),
            None => self.remove(Table::VaultChunks, &key).map(|_| ()),
        }
    }

    /// Notes that a user's device was heard.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn touch_vault(&self, user: &IdentityKey, account: &VaultAccount) -> Result<(), StoreError> {
        self.put_value(Table::VaultAccounts, user.as_bytes(), account)
    }

    /// Throws a vault away, up to `limit` chunks of it; `true` when nothing is left.
    ///
    /// # Errors
    /// [`StoreError::Value`], [`StoreError::Database`].
    pub fn remove_vault(&self, user: &IdentityKey, limit: usize) -> Result<bool, StoreError> {
        let rows = self.with_prefix(Table::VaultChunks, user.as_bytes(), None, false, limit)?;
        let mut freed = 0;
        for (key, value) in &rows {
            let row: ChunkRow = decode_value(Table::VaultChunks, value)?;
            freed += row.chunk.as_bytes().len() as u64;
            self.remove(Table::VaultChunks, key)?;
        }
        let (_, sum) = self.vault_sums()?;
        self.put_setting_value(BYTES_OF_ALL, &sum.saturating_sub(freed))?;
        let is_all = rows.len() < limit;
        match (is_all, self.vault_account(user)?) {
            (true, _) => drop(self.remove(Table::VaultAccounts, user.as_bytes())?),
            (false, Some(account)) => {
                let bytes = account.bytes.saturating_sub(freed);
                self.put_value(Table::VaultAccounts, user.as_bytes(), &VaultAccount { bytes, ..account })?;
            }
            (false, None) => {}
        }
        Ok(is_all)
    }
}

// This device's own.
impl View {
    /// What this device knows of its vault at a mailbox.
    ///
    /// # Errors
    /// [`StoreError::Value`], [`StoreError::Database`].
    pub fn vault_known(&self, mailbox: &DeviceKey) -> Result<Known, StoreError> {
        let rows = self.with_prefix(Table::VaultKnown, mailbox.as_bytes(), None, false, usize::MAX)?;
        rows.iter().map(|(key, value)| Ok((chunk_id(key)?, decode_value(Table::VaultKnown, value)?))).collect()
    }

    /// Items that this version doesn't know, and keeps.
    ///
    /// # Errors
    /// [`StoreError::Value`], [`StoreError::Database`].
    pub fn vault_foreign(&self) -> Result<Vec<VaultItem>, StoreError> {
        let rows = self.all(Table::VaultForeign)?;
        rows.iter().map(|(_, value)| decode_value(Table::VaultForeign, value)).collect()
    }
}

impl Transaction {
    /// Remembers what is known of a chunk, or forgets it.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn put_vault_known(&self, mailbox: &DeviceKey, id: ChunkId, known: Option<&KnownChunk>) -> Result<(), StoreError> {
        let key = chunk_key(mailbox.as_bytes(), id);
        match known {
            Some(known) => self.put_value(Table::VaultKnown, &key, known),
            None => self.remove(Table::VaultKnown, &key).map(|_| ()),
        }
    }

    /// Forgets all that is known of a vault.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn forget_vault_known(&self, mailbox: &DeviceKey) -> Result<(), StoreError> {
        for (key, _) in self.with_prefix(Table::VaultKnown, mailbox.as_bytes(), None, false, usize::MAX)? {
            self.remove(Table::VaultKnown, &key)?;
        }
        Ok(())
    }

    /// Keeps an item that this version doesn't know, up to `max` of them. The greater of two values stays: all devices keep the same.
    ///
    /// # Errors
    /// [`StoreError::Value`], [`StoreError::Database`].
    pub fn keep_vault_foreign(&self, item: &VaultItem, max: u64) -> Result<(), StoreError> {
        let key = foreign_key(item.kind, &item.key);
        let old: Option<VaultItem> = self.get_value(Table::VaultForeign, &key)?;
        let is_room = old.is_some() || self.count(Table::VaultForeign)? < max;
        if is_room && old.is_none_or(|old| item.value > old.value) {
            self.put_value(Table::VaultForeign, &key, item)?;
        }
        Ok(())
    }
}

fn foreign_key(kind: u16, key: &ItemKey) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &key.0].concat()
}

fn chunk_key(owner: &[u8; 32], id: ChunkId) -> Vec<u8> {
    [&owner[..], &id.0].concat()
}

fn chunk_id(key: &[u8]) -> Result<ChunkId, StoreError> {
    let id = key.last_chunk::<16>().copied();
    let malformed = || halloo_protocol::wire::DecodeError::invalid("key", "shorter than a chunk's id");
    id.map(ChunkId).ok_or_else(|| StoreError::Value { table: Table::VaultChunks.name(), source: malformed() })
}

#[cfg(test)]
mod tests {
    use halloo_protocol::key::PublicKey;
    use halloo_protocol::time::UnixTime;

    use super::*;
    use crate::store::Store;

    const ALICE: IdentityKey = IdentityKey(PublicKey([1; 32]));
    const BOB: IdentityKey = IdentityKey(PublicKey([2; 32]));

    fn chunk() -> SealedChunk {
        SealedChunk::from_bytes(vec![7; 4_096]).expect("a size class")
    }

    #[test]
    fn vaults_are_apart_and_sums_follow() -> Result<(), StoreError> {
        let store = Store::in_memory()?;
        let account =
            |chunks: u32, version| VaultAccount { chunks, bytes: u64::from(chunks) * 4_096, version, seen_at: UnixTime(9) };
        store.transaction(|tx| {
            tx.put_vault_chunk(&ALICE, ChunkId([1; 16]), Some(chunk()), &account(1, 5))?;
            tx.put_vault_chunk(&ALICE, ChunkId([2; 16]), Some(chunk()), &account(2, 6))?;
            tx.put_vault_chunk(&BOB, ChunkId([1; 16]), Some(chunk()), &account(1, 3))
        })?;
        store.read(|view| {
            assert_eq!(view.vault_sums()?, (2, 3 * 4_096));
            let marks = view.vault_index(&ALICE, 10)?;
            assert_eq!(marks.iter().map(|mark| (mark.id.0[0], mark.version)).collect::<Vec<_>>(), [(1, 5), (2, 6)]);
            assert_eq!(view.vault_chunk(&BOB, ChunkId([1; 16]))?.map(|held| held.mark.version), Some(3));
            assert_eq!(view.vault_chunk(&BOB, ChunkId([2; 16]))?, None);
            Ok::<_, StoreError>(())
        })?;
        store.transaction(|tx| {
            tx.put_vault_chunk(&ALICE, ChunkId([1; 16]), None, &account(1, 7))?;
            assert_eq!(tx.vault_sums()?, (2, 2 * 4_096));
            tx.put_vault_chunk(&ALICE, ChunkId([1; 16]), Some(chunk()), &account(2, 8))?;
            assert!(!tx.remove_vault(&ALICE, 1)?, "a large one goes by and by");
            assert!(!tx.remove_vault(&ALICE, 1)? && tx.remove_vault(&ALICE, 1)?);
            assert_eq!(tx.vault_sums()?, (1, 4_096));
            assert_eq!(tx.vault_account(&ALICE)?, None);
            Ok::<_, StoreError>(())
        })
    }

    #[test]
    fn what_isnt_known_is_kept() -> Result<(), StoreError> {
        let store = Store::in_memory()?;
        let item = |value: u8| VaultItem::new(900, b"x", vec![value]);
        store.transaction(|tx| {
            tx.keep_vault_foreign(&item(2), 1)?;
            tx.keep_vault_foreign(&item(1), 1)?;
            tx.keep_vault_foreign(&VaultItem::new(901, b"x", vec![]), 1)
        })?;
        assert_eq!(store.read(View::vault_foreign)?, [item(2)]);
        Ok(())
    }
}
