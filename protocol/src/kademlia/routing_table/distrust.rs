//! Who lied: refused for a while, or no longer listened to.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::key::DeviceKey;

/// How long a node that lied about its place is refused.
const BAN: Duration = Duration::from_secs(3_600);

/// Most bans remembered; the one that ends first makes room.
const BANS_MAX: usize = 1_024;

/// False places told by one node after which its hints are ignored. A few happen honestly: devices move.
const STRIKES_MAX: u8 = 3;

/// Most tellers with strikes remembered.
const TELLERS_MAX: usize = 4_096;

/// Bans, and false places by who told them.
#[derive(Clone, Debug, Default)]
pub(super) struct Distrust {
    bans: BTreeMap<DeviceKey, Instant>,
    strikes: BTreeMap<DeviceKey, u8>,
}

impl Distrust {
    /// Refuses a node for [`BAN`].
    pub(super) fn ban(&mut self, now: Instant, device: DeviceKey) {
        if self.bans.len() >= BANS_MAX
            && let Some(first) = self.bans.iter().min_by_key(|(_, until)| **until).map(|(device, _)| *device)
        {
            self.bans.remove(&first);
        }
        self.bans.insert(device, now + BAN);
    }

    pub(super) fn is_banned(&self, device: &DeviceKey, now: Instant) -> bool {
        self.bans.get(device).is_some_and(|until| now < *until)
    }

    pub(super) fn expire(&mut self, now: Instant) {
        self.bans.retain(|_, until| now < *until);
    }

    /// A node told a false place.
    pub(super) fn strike(&mut self, teller: DeviceKey) {
        if self.strikes.len() < TELLERS_MAX || self.strikes.contains_key(&teller) {
            let strikes = self.strikes.entry(teller).or_default();
            *strikes = strikes.saturating_add(1);
        }
    }

    /// Whether a node has told too many.
    pub(super) fn is_ignored(&self, teller: &DeviceKey) -> bool {
        self.strikes.get(teller).is_some_and(|strikes| *strikes >= STRIKES_MAX)
    }
}
