//! A gateway's records in the node's own database.

use halloo_protocol::identity::UserId;
use halloo_protocol::key::{DeviceKey, PublicKey};
use halloo_protocol::push::registration::Registration;
use halloo_protocol::push::{DeliveredStatus, PushHandle};
use halloo_protocol::time::UnixTime;
use halloo_protocol::wire;

use super::GatewayRecords;
use crate::roles::gateway::{STORED_BYTES_MAX, sessions};
use crate::store::{PendingPush, Store, StoreError};

/// Rows looked at each time for registrations whose time is over.
const PURGE_ROWS: usize = 512;

/// Registrations that are looked at for a user's clients, and rows read at a time.
const LOOKED_AT_MAX: usize = 50_000;
const ROWS: usize = 512;

/// The node's database, and how far it was looked through for what is over.
pub(in crate::roles::gateway) struct Embedded {
    store: Store,
    purged_to: Option<Vec<u8>>,
}

impl Embedded {
    pub(in crate::roles::gateway) const fn new(store: Store) -> Self {
        Self { store, purged_to: None }
    }

    /// All pushes that wait.
    pub(in crate::roles::gateway) fn all_pending(&self, limit: usize) -> Result<Vec<(u64, PendingPush)>, StoreError> {
        self.store.read(|view| view.pending_pushes(limit))
    }
}

fn decoded(content: &[u8]) -> Option<Registration> {
    wire::decode(content, STORED_BYTES_MAX).ok()
}

impl GatewayRecords for Embedded {
    fn registration(&self, handle: &PushHandle) -> Result<Option<Registration>, StoreError> {
        let stored = self.store.read::<_, StoreError>(|view| view.gateway_registration(&handle.0))?;
        Ok(stored.and_then(|(_, content)| decoded(&content)))
    }

    fn registrations_of(&self, device: &DeviceKey) -> Result<Vec<Registration>, StoreError> {
        let stored = self.store.read::<_, StoreError>(|view| view.gateway_registrations_of(device))?;
        Ok(stored.iter().filter_map(|(_, content)| decoded(content)).collect())
    }

    fn registrations_of_user(&self, user: &UserId) -> Result<Vec<Registration>, StoreError> {
        let (mut found, mut after, mut looked_at) = (Vec::new(), None::<Vec<u8>>, 0);
        while looked_at < LOOKED_AT_MAX {
            let rows = self.store.read::<_, StoreError>(|view| view.gateway_registrations_after(after.as_deref(), ROWS))?;
            looked_at += rows.len();
            let known = rows.iter().filter_map(|(_, content)| decoded(content));
            found.extend(known.filter(|known| sessions::user_of(known).as_ref() == Some(user)));
            match rows.last() {
                Some((handle, _)) if rows.len() == ROWS => after = Some(handle.clone()),
                _ => break,
            }
        }
        Ok(found)
    }

    fn registration_count(&self) -> Result<u64, StoreError> {
        self.store.read(crate::store::View::gateway_registration_count)
    }

    fn put_registration(&mut self, registration: &Registration) -> Result<(), StoreError> {
        let content = wire::encode(registration);
        self.store.transaction(|tx| tx.put_gateway_registration(&registration.handle.0, &registration.device(), &content))
    }

    fn remove_registration(&mut self, handle: &PushHandle) -> Result<bool, StoreError> {
        self.store.transaction(|tx| tx.remove_gateway_registration(&handle.0))
    }

    fn end_channel(&mut self, left: &Registration, name: &[u8; 32], notice: &[u8]) -> Result<(), StoreError> {
        let (handle, device) = (left.handle, left.device());
        self.store.transaction(|tx| {
            if left.request.channels.is_empty() {
                tx.remove_gateway_registration(&handle.0)?;
            } else {
                tx.put_gateway_registration(&handle.0, &device, &wire::encode(left))?;
            }
            tx.put_gateway_notice(&device, name, notice)
        })
    }

    fn purge(&mut self, now: UnixTime) -> Result<Vec<PublicKey>, StoreError> {
        let from = self.purged_to.take();
        let rows = self.store.read::<_, StoreError>(|view| view.gateway_registrations_after(from.as_deref(), PURGE_ROWS))?;
        if rows.len() >= PURGE_ROWS {
            self.purged_to = rows.last().map(|(handle, _)| handle.clone());
        }
        let (mut over, mut users) = (Vec::new(), Vec::new());
        for (handle, content) in rows {
            let known = decoded(&content);
            if known.as_ref().is_none_or(|known| now > known.expires_at) {
                over.push(handle);
                users.extend(known.map(|known| known.rules.identity.0));
            }
        }
        if !over.is_empty() {
            self.store.transaction::<_, StoreError>(|tx| {
                over.iter().try_for_each(|handle| tx.remove_gateway_registration(handle).map(|_| ()))
            })?;
        }
        Ok(users)
    }

    fn choice(&self, identity: &PublicKey) -> Result<Option<Vec<u8>>, StoreError> {
        self.store.read(|view| view.gateway_choice(&identity.0))
    }

    fn put_choice(&mut self, identity: &PublicKey, content: &[u8]) -> Result<(), StoreError> {
        self.store.transaction(|tx| tx.put_gateway_choice(&identity.0, content))
    }

    fn remove_choice(&mut self, identity: &PublicKey) -> Result<(), StoreError> {
        self.store.transaction(|tx| tx.remove_gateway_choice(&identity.0).map(|_| ()))
    }

    fn pending(&self, number: u64) -> Result<Option<PendingPush>, StoreError> {
        self.store.read(|view| view.pending_push(number))
    }

    fn add_pending(&mut self, push: &PendingPush, _hash: &[u8; 32]) -> Result<u64, StoreError> {
        self.store.transaction(|tx| tx.add_pending_push(push))
    }

    fn update_pending(&mut self, number: u64, push: &PendingPush) -> Result<(), StoreError> {
        self.store.transaction(|tx| tx.update_pending_push(number, push))
    }

    /// All in one commit: after a night with many devices asleep that is thousands.
    fn remove_pending(&mut self, numbers: &[u64], _brought: Option<DeliveredStatus>) -> Result<(), StoreError> {
        self.store.transaction(|tx| numbers.iter().try_for_each(|number| tx.remove_pending_push(*number).map(|_| ())))
    }

    fn notices_of(&self, device: &DeviceKey) -> Result<Vec<Vec<u8>>, StoreError> {
        self.store.read(|view| view.gateway_notices_of(device))
    }

    fn remove_notice(&mut self, device: &DeviceKey, name: &[u8; 32]) -> Result<(), StoreError> {
        self.store.transaction(|tx| tx.remove_gateway_notice(device, name).map(|_| ()))
    }
}
