//! Identity keys we have seen under names: a changed key is never silent.

use bincode::{Decode, Encode};
use halloo_protocol::identity::UserId;
use halloo_protocol::key::IdentityKey;
use halloo_protocol::time::UnixTime;
use halloo_protocol::wire;

use super::table::{Table, decode_key, decode_value};
use super::{StoreError, Transaction, View};

/// Names with a pinned key. Nothing falls out when it is full, for forgetting a pin is what an attacker would want: new names are refused.
const PINS_MAX: u64 = 100_000;

/// What we know of a name's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Pin {
    /// The key.
    pub identity: IdentityKey,
    /// When the name was first seen with it.
    pub first_seen: UnixTime,
    /// Highest serial of a user certificate seen with it.
    pub serial: u64,
}

/// What pinning found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Pinned {
    /// The name wasn't known; it is now.
    New,
    /// The key is the one we know.
    Same,
    /// The name is known with another key, and still is: show it, then [`Transaction::repin`] if the person, or a
    /// [`KeySuccession`](halloo_protocol::identity::KeySuccession) by the old key, says so.
    Changed {
        /// What is pinned.
        old: Pin,
    },
}

impl View {
    /// The key pinned for `user`.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn pinned(&self, user: &UserId) -> Result<Option<Pin>, StoreError> {
        self.get_value(Table::Pins, &wire::encode(user))
    }

    /// All pins. For starting up.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn pins(&self) -> Result<Vec<(UserId, Pin)>, StoreError> {
        let rows = self.all(Table::Pins)?;
        rows.into_iter().map(|(key, pin)| Ok((decode_key(Table::Pins, &key)?, decode_value(Table::Pins, &pin)?))).collect()
    }
}

impl Transaction {
    /// Compares `identity` with the key known for `user`; keeps it if none is known. A different key is reported and not kept.
    ///
    /// # Errors
    /// [`StoreError::Full`] beyond 100,000 names, [`StoreError::Database`].
    pub fn pin(&self, user: &UserId, identity: IdentityKey, serial: u64, now: UnixTime) -> Result<Pinned, StoreError> {
        match self.pinned(user)? {
            None => {
                if self.count(Table::Pins)? >= PINS_MAX {
                    return Err(StoreError::Full { table: Table::Pins.name(), limit: PINS_MAX });
                }
                self.repin(user, identity, serial, now)?;
                Ok(Pinned::New)
            }
            Some(old) if old.identity == identity => {
                if serial > old.serial {
                    self.put_value(Table::Pins, &wire::encode(user), &Pin { serial, ..old })?;
                }
                Ok(Pinned::Same)
            }
            Some(old) => Ok(Pinned::Changed { old }),
        }
    }

    /// Pins `identity` in place of whatever was pinned: for a change of key that was signed over or that a person accepted.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn repin(&self, user: &UserId, identity: IdentityKey, serial: u64, now: UnixTime) -> Result<(), StoreError> {
        self.put_value(Table::Pins, &wire::encode(user), &Pin { identity, first_seen: now, serial })
    }
}
