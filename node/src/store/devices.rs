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

#[cfg(test)]
mod tests {
    use halloo_protocol::key::SecretKey;
    use halloo_protocol::time::UnixTime;
    use halloo_protocol::wire::Extensions;

    use super::*;
    use crate::store::Store;

    #[test]
    fn tombstones_are_kept_by_user_and_device() -> Result<(), StoreError> {
        let store = Store::in_memory()?;
        let user = |number| SecretKey::from_bytes([number; 32]);
        let device = DeviceKey(PublicKey([7; 32]));
        let made = |key: &SecretKey, until| {
            let tombstone = Tombstone { device, removed_at: UnixTime(1), until: UnixTime(until), extensions: Extensions::none() };
            (IdentityKey(key.public()), Signed::sign(tombstone, key))
        };
        let (one, newer, other) = (made(&user(1), 10), made(&user(1), 20), made(&user(2), 10));
        store.transaction(|tx| [&one, &newer, &other].into_iter().try_for_each(|(who, what)| tx.put_tombstone(who, what)))?;
        let mut kept = store.read(|view| view.tombstones())?;
        kept.sort_by_key(|(who, _)| *who != newer.0);
        assert_eq!(kept, [newer.clone(), other.clone()]);
        store.transaction(|tx| tx.remove_tombstone(&newer.0, &device))?;
        assert_eq!(store.read(|view| view.tombstones())?, [other]);
        Ok(())
    }
}
