//! Push registrations: this device's own at gateways, and, on a gateway, everybody's.

use std::ops::Bound;

use bincode::{Decode, Encode};
use halloo_protocol::key::DeviceKey;
use halloo_protocol::time::UnixTime;
use halloo_protocol::wire;

use super::table::{Table, check_length, decode_sequence, decode_value};
use super::{StoreError, Transaction, VALUE_BYTES_MAX, View};

/// Registrations one gateway keeps; further devices are refused.
pub const GATEWAY_REGISTRATIONS_MAX: u64 = 1_000_000;

/// Registrations of one device at one gateway; further ones are refused.
pub const GATEWAY_REGISTRATIONS_PER_DEVICE_MAX: usize = 8;

/// Pushes that wait at one gateway; further ones are refused.
pub const GATEWAY_PENDING_MAX: u64 = 100_000;

/// Notices that wait for one device; the oldest by key goes for a further one.
const GATEWAY_NOTICES_PER_DEVICE_MAX: usize = 8;

/// Longest handle or name of a registration, in bytes.
const HANDLE_BYTES_MAX: usize = 256;

/// A push that waits for its device.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PendingPush {
    /// Whose registration it is for.
    pub handle: Vec<u8>,
    /// When to try next.
    pub due: UnixTime,
    /// When it is worth nothing any more.
    pub expires_at: UnixTime,
    /// What to send, as the gateway encodes it.
    pub content: Vec<u8>,
}

/// A registration: the handle (on the device itself: the caller's name for it), and the content as its capability encodes it.
pub type Registration = (Vec<u8>, Vec<u8>);

#[derive(Debug, Encode, Decode)]
struct RegistrationRow {
    device: DeviceKey,
    content: Vec<u8>,
}

impl View {
    /// This device's registrations, by name.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn push_registrations(&self) -> Result<Vec<Registration>, StoreError> {
        self.all(Table::PushRegistrations)
    }

    /// The registration behind a handle: whose, and what.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn gateway_registration(&self, handle: &[u8]) -> Result<Option<(DeviceKey, Vec<u8>)>, StoreError> {
        let row = self.get_value::<RegistrationRow>(Table::GatewayRegistrations, handle)?;
        Ok(row.map(|row| (row.device, row.content)))
    }

    /// Handles and contents of a device's registrations at this gateway.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn gateway_registrations_of(&self, device: &DeviceKey) -> Result<Vec<Registration>, StoreError> {
        let keys =
            self.with_prefix(Table::GatewayDevices, device.as_bytes(), None, false, GATEWAY_REGISTRATIONS_PER_DEVICE_MAX)?;
        let mut registrations = Vec::with_capacity(keys.len());
        for (key, _) in keys {
            let handle = key.get(device.as_bytes().len()..).unwrap_or_default();
            if let Some((_, content)) = self.gateway_registration(handle)? {
                registrations.push((handle.to_vec(), content));
            }
        }
        Ok(registrations)
    }

    /// What a user's devices have told this gateway to choose by.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn gateway_choice(&self, identity: &[u8; 32]) -> Result<Option<Vec<u8>>, StoreError> {
        self.get(Table::GatewayChoices, identity)
    }

    /// How many devices are registered at this gateway.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn gateway_registration_count(&self) -> Result<u64, StoreError> {
        self.count(Table::GatewayRegistrations)
    }

    /// Up to `limit` registrations at this gateway, by handle, from the one after `after` on.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn gateway_registrations_after(&self, after: Option<&[u8]>, limit: usize) -> Result<Vec<Registration>, StoreError> {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let rows = self.range(Table::GatewayRegistrations, (start, Bound::Unbounded), false, limit)?;
        rows.into_iter()
            .map(|(handle, bytes)| Ok((handle, decode_value::<RegistrationRow>(Table::GatewayRegistrations, &bytes)?.content)))
            .collect()
    }

    /// Notices that wait for a device.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn gateway_notices_of(&self, device: &DeviceKey) -> Result<Vec<Vec<u8>>, StoreError> {
        let rows = self.with_prefix(Table::GatewayNotices, device.as_bytes(), None, false, GATEWAY_NOTICES_PER_DEVICE_MAX)?;
        Ok(rows.into_iter().map(|(_, notice)| notice).collect())
    }

    /// A waiting push.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn pending_push(&self, number: u64) -> Result<Option<PendingPush>, StoreError> {
        self.get_value(Table::GatewayPending, &number.to_be_bytes())
    }

    /// Up to `limit` waiting pushes, oldest first.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn pending_pushes(&self, limit: usize) -> Result<Vec<(u64, PendingPush)>, StoreError> {
        let rows = self.with_prefix(Table::GatewayPending, &[], None, false, limit)?;
        rows.into_iter()
            .map(|(key, bytes)| Ok((decode_sequence(Table::GatewayPending, &key)?, decode_value(Table::GatewayPending, &bytes)?)))
            .collect()
    }
}

impl View {
    /// What this gateway needs to vouch for a device, if it does.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn gateway_keep(&self, device: &DeviceKey) -> Result<Option<Vec<u8>>, StoreError> {
        self.get(Table::GatewayKeeps, device.as_bytes())
    }

    /// Up to `limit` devices that this gateway vouches for, from the one after `after` on, with what it needs for it.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn gateway_keeps_after(&self, after: Option<&DeviceKey>, limit: usize) -> Result<Vec<Registration>, StoreError> {
        let start = after.map_or(Bound::Unbounded, |device| Bound::Excluded(&device.as_bytes()[..]));
        self.range(Table::GatewayKeeps, (start, Bound::Unbounded), false, limit)
    }
}

impl Transaction {
    /// Vouches for a device, in place of what was; or no longer.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`], [`StoreError::Database`].
    pub fn put_gateway_keep(&self, device: &DeviceKey, content: Option<&[u8]>) -> Result<(), StoreError> {
        match content {
            Some(content) => {
                check_length("keep", content, VALUE_BYTES_MAX)?;
                self.put(Table::GatewayKeeps, device.as_bytes(), content)
            }
            None => self.remove(Table::GatewayKeeps, device.as_bytes()).map(|_| ()),
        }
    }
}

impl Transaction {
    /// Lets a notice wait for a device, in place of one of the same name.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`], [`StoreError::Database`].
    pub fn put_gateway_notice(&self, device: &DeviceKey, name: &[u8; 32], notice: &[u8]) -> Result<(), StoreError> {
        check_length("notice", notice, VALUE_BYTES_MAX)?;
        let waiting = self.with_prefix(Table::GatewayNotices, device.as_bytes(), None, false, GATEWAY_NOTICES_PER_DEVICE_MAX)?;
        if let Some((key, _)) = waiting.first().filter(|_| waiting.len() >= GATEWAY_NOTICES_PER_DEVICE_MAX) {
            self.remove(Table::GatewayNotices, key)?;
        }
        self.put(Table::GatewayNotices, &device_handle(device, name), notice)
    }

    /// A device has noted it.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn remove_gateway_notice(&self, device: &DeviceKey, name: &[u8; 32]) -> Result<bool, StoreError> {
        self.remove(Table::GatewayNotices, &device_handle(device, name))
    }

    /// Keeps a registration of this device under a name of the caller's choice.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`], [`StoreError::Database`].
    pub fn put_push_registration(&self, name: &[u8], content: &[u8]) -> Result<(), StoreError> {
        check_length("name", name, HANDLE_BYTES_MAX)?;
        check_length("registration", content, VALUE_BYTES_MAX)?;
        self.put(Table::PushRegistrations, name, content)
    }

    /// Forgets a registration of this device.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn remove_push_registration(&self, name: &[u8]) -> Result<bool, StoreError> {
        self.remove(Table::PushRegistrations, name)
    }

    /// Keeps a device's registration at this gateway. The handle may be new, or the device's own already.
    ///
    /// # Errors
    /// [`StoreError::Full`] beyond [`GATEWAY_REGISTRATIONS_MAX`] or [`GATEWAY_REGISTRATIONS_PER_DEVICE_MAX`];
    /// [`StoreError::TooLarge`]; [`StoreError::Database`].
    pub fn put_gateway_registration(&self, handle: &[u8], device: &DeviceKey, content: &[u8]) -> Result<(), StoreError> {
        check_length("handle", handle, HANDLE_BYTES_MAX)?;
        check_length("registration", content, VALUE_BYTES_MAX)?;
        if let Some((owner, _)) = self.gateway_registration(handle)? {
            self.remove(Table::GatewayDevices, &device_handle(&owner, handle))?;
        } else if self.count(Table::GatewayRegistrations)? >= GATEWAY_REGISTRATIONS_MAX {
            return Err(StoreError::Full { table: Table::GatewayRegistrations.name(), limit: GATEWAY_REGISTRATIONS_MAX });
        }
        if self.gateway_registrations_of(device)?.len() >= GATEWAY_REGISTRATIONS_PER_DEVICE_MAX {
            let limit = GATEWAY_REGISTRATIONS_PER_DEVICE_MAX as u64;
            return Err(StoreError::Full { table: Table::GatewayDevices.name(), limit });
        }
        self.put(Table::GatewayDevices, &device_handle(device, handle), &[])?;
        let row = RegistrationRow { device: *device, content: content.to_vec() };
        self.put_value(Table::GatewayRegistrations, handle, &row)
    }

    /// Forgets a registration at this gateway.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn remove_gateway_registration(&self, handle: &[u8]) -> Result<bool, StoreError> {
        let Some((device, _)) = self.gateway_registration(handle)? else { return Ok(false) };
        self.remove(Table::GatewayDevices, &device_handle(&device, handle))?;
        self.remove(Table::GatewayRegistrations, handle)
    }

    /// Keeps what a user's devices have told this gateway to choose by.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`], [`StoreError::Full`] beyond [`GATEWAY_REGISTRATIONS_MAX`], [`StoreError::Database`].
    pub fn put_gateway_choice(&self, identity: &[u8; 32], content: &[u8]) -> Result<(), StoreError> {
        check_length("choice", content, VALUE_BYTES_MAX)?;
        if self.get(Table::GatewayChoices, identity)?.is_none() && self.count(Table::GatewayChoices)? >= GATEWAY_REGISTRATIONS_MAX
        {
            return Err(StoreError::Full { table: Table::GatewayChoices.name(), limit: GATEWAY_REGISTRATIONS_MAX });
        }
        self.put(Table::GatewayChoices, identity, content)
    }

    /// Forgets what a user's devices have told.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn remove_gateway_choice(&self, identity: &[u8; 32]) -> Result<bool, StoreError> {
        self.remove(Table::GatewayChoices, identity)
    }

    /// Lets a push wait, and returns its number.
    ///
    /// # Errors
    /// [`StoreError::Full`] beyond [`GATEWAY_PENDING_MAX`], [`StoreError::TooLarge`], [`StoreError::Database`].
    pub fn add_pending_push(&self, push: &PendingPush) -> Result<u64, StoreError> {
        check_length("handle", &push.handle, HANDLE_BYTES_MAX)?;
        check_length("push", &push.content, VALUE_BYTES_MAX)?;
        if self.count(Table::GatewayPending)? >= GATEWAY_PENDING_MAX {
            return Err(StoreError::Full { table: Table::GatewayPending.name(), limit: GATEWAY_PENDING_MAX });
        }
        self.append(Table::GatewayPending, &wire::encode(push))
    }

    /// Changes a waiting push, as when its next attempt is set.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`], [`StoreError::Database`].
    pub fn update_pending_push(&self, number: u64, push: &PendingPush) -> Result<(), StoreError> {
        check_length("push", &push.content, VALUE_BYTES_MAX)?;
        self.put_value(Table::GatewayPending, &number.to_be_bytes(), push)
    }

    /// Strikes a waiting push: sent, or expired.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn remove_pending_push(&self, number: u64) -> Result<bool, StoreError> {
        self.remove(Table::GatewayPending, &number.to_be_bytes())
    }
}

fn device_handle(device: &DeviceKey, handle: &[u8]) -> Vec<u8> {
    [&device.as_bytes()[..], handle].concat()
}
