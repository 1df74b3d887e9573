//! Devices that were removed by their users, and whose registrations are to be ended in a shared database: noted in the node's own one until that is done.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use halloo_protocol::key::{DeviceKey, IdentityKey};
use halloo_protocol::wire;
use tracing::warn;

use super::parked::Then;
use crate::event_loop::EventLoop;
use crate::store::{Store, StoreError};

/// Devices noted. Of more, the registrations of the first ones end when their time is over.
const ENDING_MAX: usize = 1_024;

/// The list's longest encoding.
const ENDING_BYTES_MAX: usize = 128 * 1_024;

/// How often it is tried, and for how many at a time.
const TRY_EVERY: Duration = Duration::from_secs(5);
const TRY_MAX: usize = 32;

/// Where the list is in the node's own database.
const SETTING: &str = "gateway devices to end";

/// Devices to end, the oldest first.
#[derive(Default)]
pub(super) struct Ending {
    list: Vec<(IdentityKey, DeviceKey)>,
    try_at: Option<Instant>,
    /// By ticket: what ends them is on its way.
    pub(super) committing: HashMap<u64, (IdentityKey, DeviceKey)>,
}

impl Ending {
    /// What is left of an earlier run.
    pub(super) fn read(store: &Store) -> Result<Self, StoreError> {
        let stored = store.read::<_, StoreError>(|view| view.setting(SETTING))?;
        let list = stored.and_then(|bytes| wire::decode(&bytes, ENDING_BYTES_MAX).ok()).unwrap_or_default();
        Ok(Self { list, ..Self::default() })
    }

    fn note(&mut self, ending: (IdentityKey, DeviceKey)) {
        if !self.list.contains(&ending) {
            self.list.push(ending);
        }
        let surplus = self.list.len().saturating_sub(ENDING_MAX);
        self.list.drain(..surplus);
    }

    fn keep(&self, store: &Store) {
        let kept = store.transaction::<_, StoreError>(|tx| tx.put_setting(SETTING, &wire::encode(&self.list)));
        if let Err(error) = kept {
            warn!(%error, "not noted which devices are to be ended in the shared database");
        }
    }

    /// Devices whose turn it is; each comes to the end of the list.
    fn take_due(&mut self, now: Instant) -> Vec<(IdentityKey, DeviceKey)> {
        if self.try_at.is_some_and(|at| at > now) {
            return Vec::new();
        }
        self.try_at = Some(now + TRY_EVERY);
        let due: Vec<_> = self.list.iter().take(TRY_MAX).copied().collect();
        self.list.rotate_left(due.len());
        due
    }
}

impl EventLoop {
    /// A device was removed by its user: it isn't woken any more.
    pub(crate) fn end_registration_of(&mut self, identity: &IdentityKey, device: &DeviceKey) {
        if let Some(gateway) = self.gateway.as_mut().filter(|gateway| gateway.records.shared().is_some()) {
            gateway.parked.ending.note((*identity, *device));
            gateway.parked.ending.keep(&self.store);
        }
        self.with_records(Then::EndDevice { identity: *identity, device: *device });
    }

    /// Its registration is in the database no more.
    pub(super) fn device_ended(&mut self, ended: &(IdentityKey, DeviceKey)) {
        let Some(gateway) = &mut self.gateway else { return };
        gateway.parked.ending.list.retain(|known| known != ended);
        gateway.parked.ending.keep(&self.store);
    }

    /// Tries again what hasn't been done.
    pub(super) fn ending_tick(&mut self, now: Instant) {
        let shared = self.gateway.as_mut().filter(|gateway| gateway.records.shared().is_some());
        let due = shared.map(|gateway| gateway.parked.ending.take_due(now)).unwrap_or_default();
        for (identity, device) in due {
            self.with_records(Then::EndDevice { identity, device });
        }
    }
}

#[cfg(test)]
mod tests {
    use halloo_protocol::key::PublicKey;

    use super::*;

    fn device(number: u16) -> (IdentityKey, DeviceKey) {
        let mut key = [0; 32];
        key[..2].copy_from_slice(&number.to_be_bytes());
        (IdentityKey(PublicKey([9; 32])), DeviceKey(PublicKey(key)))
    }

    #[test]
    fn a_removed_device_is_noted_until_it_is_ended_also_over_a_restart() {
        let store = Store::in_memory().unwrap();
        let mut ending = Ending::read(&store).unwrap();
        (0..3).for_each(|number| ending.note(device(number)));
        ending.note(device(1));
        ending.keep(&store);
        let mut again = Ending::read(&store).unwrap();
        assert_eq!(again.list, [device(0), device(1), device(2)]);
        let now = Instant::now();
        assert_eq!(again.take_due(now).len(), 3);
        assert!(again.take_due(now).is_empty(), "not all the time");
        assert_eq!(again.take_due(now + TRY_EVERY).len(), 3);
        (0..2 * ENDING_MAX as u16).for_each(|number| again.note(device(number)));
        assert_eq!(again.list.len(), ENDING_MAX);
        assert!(wire::encode(&again.list).len() < ENDING_BYTES_MAX);
    }
}
