//! Devices that their users have removed.

use halloo_protocol::identity::Tombstone;
use halloo_protocol::key::{DeviceKey, IdentityKey, PublicKey};
use halloo_protocol::wire::{self, Signed};

use super::table::{Table, decode_value};
use super::{StoreError, Transaction, View};

impl View {
    /// All tombstones, with the user whose word each is. For starting up; who puts them there bounds how many there are.
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Value`].
    pub fn tombstones(&self) -> Result<Vec<(IdentityKey, Signed<Tombstone>)>, StoreError> {
        let rows = self.all(Table::Tombstones)?;
        let identity = |key: &[u8]| Some(IdentityKey(PublicKey(*key.first_chunk::<32>()?)));
        let rows = rows.into_iter().filter_map(|(key, value)| Some((identity(&key)?, value)));
        rows.map(|(identity, value)| Ok((identity, decode_value(Table::Tombstones, &value)?))).collect()
    }
}

impl Transaction {
    /// Keeps a tombstone of this user.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn put_tombstone(&self, identity: &IdentityKey, tombstone: &Signed<Tombstone>) -> Result<(), StoreError> {
        self.put(Table::Tombstones, &key(identity, &tombstone.unverified().device), &wire::encode(tombstone))
    }

    /// Forgets a tombstone.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn remove_tombstone(&self, identity: &IdentityKey, device: &DeviceKey) -> Result<(), StoreError> {
        self.remove(Table::Tombstones, &key(identity, device)).map(|_| ())
    }
}

fn key(identity: &IdentityKey, device: &DeviceKey) -> Vec<u8> {
    [&identity.as_bytes()[..], device.as_bytes()].concat()
}
