//! Asking our gateways to vouch for this device, after every publication of its entry.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use halloo_protocol::key::DeviceKey;
use halloo_protocol::push::{KeepStatus, PushKeep, PushKept};
use halloo_protocol::time::Now;
use halloo_protocol::wire::{Extensions, Frame};
use tracing::{debug, warn};

use super::GATEWAY_TIMEOUT;
use crate::event_loop::EventLoop;
use crate::network::Purpose;
use crate::rpc::Failure;

/// When a gateway that didn't answer, or refused, is asked again.
const RETRY: Duration = Duration::from_secs(60);

/// Which entry each gateway vouches for, or was asked to, and when it is asked again.
#[derive(Debug, Default)]
pub(super) struct Keeping {
    asked: HashMap<DeviceKey, Asked>,
    check_at: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Asked {
    entry_hash: [u8; 32],
    again_at: Option<Instant>,
}

impl EventLoop {
    /// Our entry is published, or a registration has changed.
    pub(crate) fn push_keep_soon(&mut self) {
        self.push.keeping.check_at = Some(Instant::now());
    }

    pub(crate) fn push_keep_tick(&mut self, now: Now) {
        if self.push.keeping.check_at.is_none_or(|at| at > now.instant) {
            return;
        }
        self.push.keeping.check_at = None;
        let Some(entry) = self.published_signed_entry() else { return };
        let entry_hash = entry.body_hash();
        let named: Vec<DeviceKey> = entry.unverified().keepers.iter().map(|helper| helper.device).collect();
        self.push.keeping.asked.retain(|gateway, _| named.contains(gateway));
        let due = |asked: &Asked| asked.entry_hash != entry_hash || asked.again_at.is_some_and(|at| at <= now.instant);
        let registered: Vec<_> = self
            .push
            .registered
            .iter()
            .filter(|known| known.is_live())
            .map(|known| (known.gateway.clone(), known.handle))
            .collect();
        for (gateway, handle) in registered {
            let device = gateway.device;
            if !named.contains(&device) || self.push.keeping.asked.get(&device).is_some_and(|asked| !due(asked)) {
                continue;
            }
            let Some(target) = self.helper_target(&gateway) else { continue };
            let again_at = Some(now.instant + RETRY);
            self.push.keeping.asked.insert(device, Asked { entry_hash, again_at });
            let request = PushKeep { handle, entry_hash, extensions: Extensions::none() };
            self.request(&target, &request, Purpose::PushKeep(device), GATEWAY_TIMEOUT);
        }
        self.push.keeping.check_at = self.push.keeping.asked.values().filter_map(|asked| asked.again_at).min();
    }

    pub(crate) fn push_keep_answer(&mut self, gateway: DeviceKey, frame: &Frame) {
        match frame.parse::<PushKept>().map(|answer| answer.status) {
            Ok(KeepStatus::Kept { until }) => {
                debug!(%gateway, %until, "the gateway vouches for this device");
                if let Some(asked) = self.push.keeping.asked.get_mut(&gateway) {
                    asked.again_at = None;
                }
            }
            Ok(KeepStatus::Refused(reason)) => warn!(%gateway, %reason, "the gateway doesn't vouch for this device"),
            Err(_) => self.counters.malformed += 1,
        }
    }

    pub(crate) fn push_keep_failure(&mut self, gateway: DeviceKey, failure: Failure) {
        debug!(%gateway, %failure, "the gateway wasn't asked to vouch for this device");
    }
}
