//! Voicemail: what is known of each recording, and the parts of those that are here.

use halloo_protocol::id::MessageId;
use halloo_protocol::key::DeviceKey;

use super::table::{Table, check_length};
use super::{StoreError, Transaction, VALUE_BYTES_MAX, View};

fn key_of(device: &DeviceKey, id: &MessageId) -> Vec<u8> {
    [&device.as_bytes()[..], &id.0].concat()
}

impl View {
    /// All recordings, as their owner encoded them. For starting up.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn voicemails(&self) -> Result<Vec<Vec<u8>>, StoreError> {
        Ok(self.all(Table::Voicemails)?.into_iter().map(|(_, bytes)| bytes).collect())
    }

    /// What is known of the recording that a device has left under this id.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn voicemail(&self, device: &DeviceKey, id: &MessageId) -> Result<Option<Vec<u8>>, StoreError> {
        self.get(Table::Voicemails, &key_of(device, id))
    }

    /// One part of a recording.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn voicemail_part(&self, device: &DeviceKey, id: &MessageId, index: u16) -> Result<Option<Vec<u8>>, StoreError> {
        self.get(Table::VoicemailParts, &[&key_of(device, id)[..], &index.to_be_bytes()].concat())
    }

    /// The parts of a recording that are here, in order.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn voicemail_parts(&self, device: &DeviceKey, id: &MessageId) -> Result<Vec<Vec<u8>>, StoreError> {
        let rows = self.with_prefix(Table::VoicemailParts, &key_of(device, id), None, false, usize::MAX)?;
        Ok(rows.into_iter().map(|(_, bytes)| bytes).collect())
    }
}

impl Transaction {
    /// Keeps what is known of a recording, in place of what was kept. The owner bounds how many there are.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`], [`StoreError::Database`].
    pub fn put_voicemail(&self, device: &DeviceKey, id: &MessageId, bytes: &[u8]) -> Result<(), StoreError> {
        check_length("voicemail", bytes, VALUE_BYTES_MAX)?;
        self.put(Table::Voicemails, &key_of(device, id), bytes)
    }

    /// Keeps a part of a recording. The owner bounds how many bytes there are.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`], [`StoreError::Database`].
    pub fn put_voicemail_part(&self, device: &DeviceKey, id: &MessageId, index: u16, bytes: &[u8]) -> Result<(), StoreError> {
        check_length("part of a voicemail", bytes, VALUE_BYTES_MAX)?;
        self.put(Table::VoicemailParts, &[&key_of(device, id)[..], &index.to_be_bytes()].concat(), bytes)
    }

    /// Forgets the parts of a recording.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn remove_voicemail_parts(&self, device: &DeviceKey, id: &MessageId) -> Result<(), StoreError> {
        for (key, _) in self.with_prefix(Table::VoicemailParts, &key_of(device, id), None, false, usize::MAX)? {
            self.remove(Table::VoicemailParts, &key)?;
        }
        Ok(())
    }

    /// Forgets a recording.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn remove_voicemail(&self, device: &DeviceKey, id: &MessageId) -> Result<(), StoreError> {
        self.remove_voicemail_parts(device, id)?;
        self.remove(Table::Voicemails, &key_of(device, id))?;
        Ok(())
    }
}
