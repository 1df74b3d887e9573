//! End-to-end sessions: their state, the copies encrypted in them, what was decrypted and isn't dealt with yet; and, in a mailbox, one-time keys.

use bincode::{Decode, Encode};
use halloo_protocol::id::MessageId;
use halloo_protocol::key::DeviceKey;
use halloo_protocol::session::{OneTimeKey, SealedMessage, SessionId};
use halloo_protocol::time::UnixTime;
use halloo_protocol::wire::{self, Signed};

use super::messages::SEEN;
use super::table::{Aged, AgedValue, Row, Table, decode_value};
use super::{StoreError, Transaction, View};

/// Sessions kept, with all devices together; those not used for longest fall out.
const SESSIONS_MAX: u64 = 20_000;

/// Names of sessions remembered that were started with a fallback key. When so many were within its life, no more are started with it.
pub const SPENT_SESSIONS_MAX: u64 = 20_000;

/// Decrypted messages that wait to be dealt with; the oldest fall out, and are encrypted anew by their sender.
const OPENED_MAX: u64 = 512;

/// Messages remembered that couldn't be decrypted yet.
const UNOPENED_MAX: u64 = 4_096;

const SESSIONS: Aged = Aged { rows: Table::Sessions, ages: Table::SessionAges };
const SPENT: Aged = Aged { rows: Table::SpentSessions, ages: Table::SpentSessionAges };
const OPENED: Aged = Aged { rows: Table::OpenedMessages, ages: Table::OpenedMessageAges };
const UNOPENED: Aged = Aged { rows: Table::UnopenedMessages, ages: Table::UnopenedMessageAges };

/// A message's copy for one device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct SealedCopyRow {
    /// The copy, encrypted; `None` while it waits to be encrypted anew.
    pub message: Option<SealedMessage>,
    /// How often it was encrypted anew.
    pub attempts: u32,
    /// It isn't encrypted anew before.
    pub not_before: UnixTime,
    /// Its next session is of a generation above this one.
    pub above: Option<u32>,
}

/// Where a mailbox's keys of one device stand.
#[derive(Clone, Copy, Debug, Default, Encode, Decode)]
struct KeyBatch {
    batch: u64,
    left: u32,
}

impl View {
    /// The sessions with a device.
    ///
    /// # Errors
    /// [`StoreError::Value`], [`StoreError::Database`].
    pub fn sessions(&self, device: &DeviceKey) -> Result<Vec<Vec<u8>>, StoreError> {
        let rows = self.with_prefix(Table::Sessions, device.as_bytes(), None, false, usize::MAX)?;
        rows.iter().map(|(_, bytes)| Ok(decode_value::<AgedValue>(Table::Sessions, bytes)?.value)).collect()
    }

    /// The devices with which there are sessions.
    ///
    /// # Errors
    /// [`StoreError::Value`], [`StoreError::Database`].
    pub fn session_devices(&self) -> Result<Vec<DeviceKey>, StoreError> {
        let mut devices: Vec<DeviceKey> = Vec::new();
        for (key, _) in self.all(Table::Sessions)? {
            let device = decode_value(Table::Sessions, key.get(..32).unwrap_or_default())?;
            if devices.last() != Some(&device) {
                devices.push(device);
            }
        }
        Ok(devices)
    }

    /// True if a session of this name was started with a fallback key that may still exist; or if so many were that nothing is known.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn is_session_spent(&self, id: &SessionId) -> Result<bool, StoreError> {
        Ok(self.contains(Table::SpentSessions, &id.0)? || self.count(Table::SpentSessions)? >= SPENT_SESSIONS_MAX)
    }

    /// A message's copy for a device.
    ///
    /// # Errors
    /// [`StoreError::Value`], [`StoreError::Database`].
    pub fn sealed_copy(&self, message: &MessageId, device: &DeviceKey) -> Result<Option<SealedCopyRow>, StoreError> {
        self.get_value(Table::SealedCopies, &copy_key(message, device))
    }

    /// A decrypted message that isn't dealt with yet.
    ///
    /// # Errors
    /// [`StoreError::Value`], [`StoreError::Database`].
    pub fn opened_message(&self, device: &DeviceKey, message: &MessageId) -> Result<Option<Vec<u8>>, StoreError> {
        let row: Option<AgedValue> = self.get_value(Table::OpenedMessages, &sender_key(device, message))?;
        Ok(row.map(|row| row.value))
    }

    /// True if a message of this device and id was kept.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn has_seen(&self, device: &DeviceKey, message: &MessageId) -> Result<bool, StoreError> {
        self.contains(Table::Seen, &sender_key(device, message))
    }

    /// How many one-time keys a mailbox has of a device, and of which batch.
    ///
    /// # Errors
    /// [`StoreError::Value`], [`StoreError::Database`].
    pub fn mailbox_keys(&self, device: &DeviceKey) -> Result<(u64, u32), StoreError> {
        let batch: KeyBatch = self.get_value(Table::MailboxKeyBatches, device.as_bytes())?.unwrap_or_default();
        Ok((batch.batch, batch.left))
    }
}

impl Transaction {
    /// Keeps the sessions with a device, in place of those that were.
    ///
    /// # Errors
    /// [`StoreError::Value`], [`StoreError::Database`].
    pub fn put_sessions<'a>(
        &self,
        device: &DeviceKey,
        sessions: impl IntoIterator<Item = (SessionId, &'a [u8])>,
        now: UnixTime,
    ) -> Result<(), StoreError> {
        self.remove_sessions(device)?;
        for (id, bytes) in sessions {
            self.put_aged(SESSIONS, &[&device.as_bytes()[..], &id.0].concat(), now.0, bytes, SESSIONS_MAX)?;
        }
        Ok(())
    }

    /// Forgets all sessions with a device.
    ///
    /// # Errors
    /// [`StoreError::Value`], [`StoreError::Database`].
    pub fn remove_sessions(&self, device: &DeviceKey) -> Result<(), StoreError> {
        for (key, _) in self.with_prefix(Table::Sessions, device.as_bytes(), None, false, usize::MAX)? {
            self.remove_aged(SESSIONS, &key)?;
        }
        Ok(())
    }

    /// Remembers that a session was started with a fallback key.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn spend_session(&self, id: &SessionId, now: UnixTime) -> Result<(), StoreError> {
        self.put_aged(SPENT, &id.0, now.0, &[], SPENT_SESSIONS_MAX)
    }

    /// Forgets the names of sessions that were started before `time`, up to `limit`: their key is destroyed.
    ///
    /// # Errors
    /// [`StoreError::Value`], [`StoreError::Database`].
    pub fn forget_spent_before(&self, time: UnixTime, limit: usize) -> Result<(), StoreError> {
        self.forget_before(SPENT, time, limit).map(|_| ())
    }

    /// Takes out rows older than `time`, up to `limit`, and returns them.
    fn forget_before(&self, tables: Aged, time: UnixTime, limit: usize) -> Result<Vec<Row>, StoreError> {
        let end = time.0.to_be_bytes();
        let bounds = (std::ops::Bound::Unbounded, std::ops::Bound::Excluded(&end[..]));
        let mut taken = Vec::new();
        for (age, _) in self.range(tables.ages, bounds, false, limit)? {
            let Some(key) = age.get(8..) else { continue };
            if let Some(row) = self.get_value::<AgedValue>(tables.rows, key)? {
                taken.push((key.to_vec(), row.value));
            }
            self.remove_aged(tables, key)?;
        }
        Ok(taken)
    }

    /// Keeps a message's copy for a device.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn put_sealed_copy(&self, message: &MessageId, device: &DeviceKey, row: &SealedCopyRow) -> Result<(), StoreError> {
        self.put_value(Table::SealedCopies, &copy_key(message, device), row)
    }

    /// Forgets all copies of a message: nothing of it is sent any more.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn remove_sealed_copies(&self, message: &MessageId) -> Result<(), StoreError> {
        for (key, _) in self.with_prefix(Table::SealedCopies, &message.0, None, false, usize::MAX)? {
            self.remove(Table::SealedCopies, &key)?;
        }
        Ok(())
    }

    /// Keeps a decrypted message until it is dealt with.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn put_opened_message(
        &self,
        device: &DeviceKey,
        message: &MessageId,
        envelope: &[u8],
        now: UnixTime,
    ) -> Result<(), StoreError> {
        self.put_aged(OPENED, &sender_key(device, message), now.0, envelope, OPENED_MAX)
    }

    /// A decrypted message is dealt with: only that it has been is remembered.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn finish_opened_message(&self, device: &DeviceKey, message: &MessageId, now: UnixTime) -> Result<(), StoreError> {
        let key = sender_key(device, message);
        self.remove_aged(OPENED, &key)?;
        if !self.contains(Table::Seen, &key)? {
            self.put_aged(SEEN, &key, now.0, &[], super::SEEN_MESSAGES_MAX)?;
        }
        Ok(())
    }

    /// Remembers that a message couldn't be decrypted, with whom it is of; true the first time.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn note_unopened(
        &self,
        device: &DeviceKey,
        message: &MessageId,
        sender: &[u8],
        now: UnixTime,
    ) -> Result<bool, StoreError> {
        let key = sender_key(device, message);
        if self.contains(Table::UnopenedMessages, &key)? {
            return Ok(false);
        }
        self.put_aged(UNOPENED, &key, now.0, sender, UNOPENED_MAX)?;
        Ok(true)
    }

    /// A message could be decrypted after all.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn forget_unopened(&self, device: &DeviceKey, message: &MessageId) -> Result<bool, StoreError> {
        self.remove_aged(UNOPENED, &sender_key(device, message))
    }

    /// Forgets messages that couldn't be decrypted since before `time`, up to `limit`, and returns whom they were of.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn take_unopened_before(&self, time: UnixTime, limit: usize) -> Result<Vec<Vec<u8>>, StoreError> {
        Ok(self.forget_before(UNOPENED, time, limit)?.into_iter().map(|(_, sender)| sender).collect())
    }

    /// Keeps a device's one-time keys to hand out, in place of those that are left.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn put_mailbox_keys(&self, device: &DeviceKey, batch: u64, keys: &[Signed<OneTimeKey>]) -> Result<(), StoreError> {
        self.remove_mailbox_keys(device)?;
        for (number, key) in (0_u32..).zip(keys) {
            self.put(Table::MailboxKeys, &[&device.as_bytes()[..], &number.to_be_bytes()].concat(), &wire::encode(key))?;
        }
        let left = u32::try_from(keys.len()).unwrap_or(u32::MAX);
        self.put_value(Table::MailboxKeyBatches, device.as_bytes(), &KeyBatch { batch, left })
    }

    /// Takes one of a device's one-time keys out; `None` if none is left.
    ///
    /// # Errors
    /// [`StoreError::Value`], [`StoreError::Database`].
    pub fn take_mailbox_key(&self, device: &DeviceKey) -> Result<Option<Signed<OneTimeKey>>, StoreError> {
        let first = self.with_prefix(Table::MailboxKeys, device.as_bytes(), None, false, 1)?;
        let Some((key, bytes)) = first.into_iter().next() else { return Ok(None) };
        self.remove(Table::MailboxKeys, &key)?;
        let (batch, left) = self.mailbox_keys(device)?;
        self.put_value(Table::MailboxKeyBatches, device.as_bytes(), &KeyBatch { batch, left: left.saturating_sub(1) })?;
        decode_value(Table::MailboxKeys, &bytes).map(Some)
    }

    /// Throws a device's one-time keys away.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn remove_mailbox_keys(&self, device: &DeviceKey) -> Result<(), StoreError> {
        for (key, _) in self.with_prefix(Table::MailboxKeys, device.as_bytes(), None, false, usize::MAX)? {
            self.remove(Table::MailboxKeys, &key)?;
        }
        self.remove(Table::MailboxKeyBatches, device.as_bytes()).map(|_| ())
    }
}

fn copy_key(message: &MessageId, device: &DeviceKey) -> Vec<u8> {
    [&message.0[..], device.as_bytes()].concat()
}

fn sender_key(device: &DeviceKey, message: &MessageId) -> Vec<u8> {
    [&device.as_bytes()[..], &message.0].concat()
}
