//! Groups: what is said in them about themselves.

use halloo_protocol::id::GroupId;

use super::table::{Table, check_length};
use super::{StoreError, Transaction, VALUE_BYTES_MAX, View};

/// Groups kept. Who may add this user without asking is bounded by who is a contact, and those who wait for an answer by the groups capability.
pub const GROUPS_MAX: usize = 512;

impl View {
    /// All groups, each as the groups capability encodes it.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn groups(&self) -> Result<Vec<Vec<u8>>, StoreError> {
        let rows = self.with_prefix(Table::Groups, &[], None, false, GROUPS_MAX)?;
        Ok(rows.into_iter().map(|(_, bytes)| bytes).collect())
    }

    /// A group's statements, encoded.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn group_statements(&self, group: &GroupId) -> Result<Vec<Vec<u8>>, StoreError> {
        let limit = halloo_protocol::group::STATEMENTS_MAX;
        let rows = self.with_prefix(Table::GroupStatements, &group.0, None, false, limit)?;
        Ok(rows.into_iter().map(|(_, bytes)| bytes).collect())
    }
}

impl Transaction {
    /// Keeps a group, in place of what was there.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`], [`StoreError::Database`].
    pub fn put_group(&self, group: &GroupId, bytes: &[u8]) -> Result<(), StoreError> {
        check_length("group", bytes, VALUE_BYTES_MAX)?;
        self.put(Table::Groups, &group.0, bytes)
    }

    /// Keeps a statement of a group.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`], [`StoreError::Database`].
    pub fn put_group_statement(&self, group: &GroupId, hash: &[u8; 32], bytes: &[u8]) -> Result<(), StoreError> {
        check_length("group statement", bytes, VALUE_BYTES_MAX)?;
        self.put(Table::GroupStatements, &[&group.0[..], hash].concat(), bytes)
    }

    /// Forgets a group and its statements.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn remove_group(&self, group: &GroupId) -> Result<(), StoreError> {
        let limit = halloo_protocol::group::STATEMENTS_MAX;
        for (key, _) in self.with_prefix(Table::GroupStatements, &group.0, None, false, limit)? {
            self.remove(Table::GroupStatements, &key)?;
        }
        self.remove(Table::Groups, &group.0).map(drop)
    }
}
