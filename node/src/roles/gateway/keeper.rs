//! The gateway as keeper: it vouches in the directory that the devices registered here can be woken, so that they are found however long they
//! sleep and however they fell asleep.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use bincode::{Decode, Encode};
use halloo_protocol::directory::{KEEPER_LEASE_SECS_MAX, KEEPER_RENEW_AFTER_SECS, Lease, Reachability, RecordKey};
use halloo_protocol::identity::VerifiedChain;
use halloo_protocol::kademlia::{LeaseReport, QueryId};
use halloo_protocol::key::DeviceKey;
use halloo_protocol::push::{KeepStatus, PushHandle, PushKeep, PushKept, PushReason};
use halloo_protocol::time::{Now, UnixTime};
use halloo_protocol::wire::{self, Extensions, Signed};
use tracing::{debug, warn};

use super::STORED_BYTES_MAX;
use super::parked::Then;
use crate::event_loop::EventLoop;
use crate::store::StoreError;

/// When a renewal is tried again that reached fewer than half of the replicas it was sent to.
const RETRY_AFTER_SECS: u64 = 3_600;

/// Renewals whose outcome is waited for. Of more it isn't learnt that they failed.
const UNDER_WAY_MAX: usize = 8_192;

/// How often it is looked for leases to renew, and how many devices are looked at each time: a million in eight hours.
const LOOK_EVERY: Duration = Duration::from_secs(30);
const LOOK_ROWS: usize = 1_024;

/// A device that this gateway vouches for, as it is stored.
#[derive(Clone, Debug, Encode, Decode)]
pub(super) struct Kept {
    pub(super) handle: PushHandle,
    record: RecordKey,
    entry_hash: [u8; 32],
    signed_at: UnixTime,
}

/// Where the walk over all devices stands.
#[derive(Debug)]
pub(super) struct Keeper {
    look_at: Instant,
    looked_to: Option<DeviceKey>,
    under_way: HashMap<QueryId, DeviceKey>,
}

impl Keeper {
    /// Begins at the first device.
    pub(super) fn new(now: Instant) -> Self {
        Self { look_at: now, looked_to: None, under_way: HashMap::new() }
    }
}

impl EventLoop {
    /// A device has published an entry.
    pub(crate) fn handle_push_keep(&mut self, chain: Option<&VerifiedChain>, request: &PushKeep) -> PushKept {
        let status = self.keep(chain, request).unwrap_or_else(KeepStatus::Refused);
        PushKept { status, extensions: Extensions::none() }
    }

    fn keep(&mut self, chain: Option<&VerifiedChain>, request: &PushKeep) -> Result<KeepStatus, PushReason> {
        let now = self.now();
        let gateway = self.gateway.as_mut().ok_or(PushReason::NOT_SERVED)?;
        let chain = chain.ok_or(PushReason::NOT_CERTIFIED)?;
        let taken = gateway.registering.take(&chain.user.identity.0, super::REGISTER_RATE, now.instant);
        taken.map_err(|_| PushReason::RATE)?;
        let registration = self.registration(&request.handle).filter(|known| known.device() == chain.device);
        registration.ok_or(PushReason::UNKNOWN_HANDLE)?;
        let kept = Kept {
            handle: request.handle,
            record: RecordKey::of(&chain.user.id),
            entry_hash: request.entry_hash,
            signed_at: now.unix,
        };
        self.store_keep(&chain.device, &kept).map_err(|error| {
            warn!(%error, "device not kept");
            PushReason::TEMPORARY
        })?;
        Ok(KeepStatus::Kept { until: self.vouch(now, chain.device, &kept) })
    }

    fn store_keep(&self, device: &DeviceKey, kept: &Kept) -> Result<(), StoreError> {
        self.store.transaction(|tx| tx.put_gateway_keep(device, Some(&wire::encode(kept))))
    }

    /// Signs a lease and brings it to the directory.
    fn vouch(&mut self, now: Now, device: DeviceKey, kept: &Kept) -> UnixTime {
        let until = now.unix.plus_secs(KEEPER_LEASE_SECS_MAX);
        let lease = Lease {
            device,
            entry_hash: kept.entry_hash,
            number: now.unix.0,
            reachability: Reachability::Push,
            issued_at: now.unix,
            until,
            extensions: Extensions::none(),
        };
        let lease = Signed::sign(lease, self.identity.device_key());
        let me = self.identity.device();
        let query = self.directory.machine.renew_lease(now, kept.record, Some(me), lease);
        if let Some(gateway) = self.gateway.as_mut().filter(|gateway| gateway.keeper.under_way.len() < UNDER_WAY_MAX) {
            gateway.keeper.under_way.insert(query, device);
        }
        debug!(%device, %until, "vouched for");
        until
    }

    /// A renewal has ended; if it was a keeper's and reached too few, its turn comes sooner.
    pub(crate) fn keeper_lease_renewed(&mut self, query: QueryId, report: &LeaseReport) {
        let Some(device) = self.gateway.as_mut().and_then(|gateway| gateway.keeper.under_way.remove(&query)) else { return };
        if report.asked > 0 && report.renewed * 2 >= report.asked {
            return;
        }
        debug!(%device, ?report, "too few have taken the lease");
        let retry_at = self.now().unix.minus_secs(KEEPER_RENEW_AFTER_SECS - RETRY_AFTER_SECS);
        let noted = self.store.transaction::<_, StoreError>(|tx| {
            let Some(content) = tx.gateway_keep(&device)? else { return Ok(()) };
            let Ok(kept) = wire::decode::<Kept>(&content, STORED_BYTES_MAX) else { return Ok(()) };
            tx.put_gateway_keep(&device, Some(&wire::encode(&Kept { signed_at: retry_at, ..kept })))
        });
        if let Err(error) = noted {
            warn!(%error, "not noted that a lease is to be renewed again");
        }
    }

    /// Renews leases, some devices at a time.
    pub(crate) fn keeper_tick(&mut self, now: Now) {
        let Some(gateway) = self.gateway.as_mut().filter(|gateway| gateway.keeper.look_at <= now.instant) else { return };
        gateway.keeper.look_at = now.instant + LOOK_EVERY;
        let from = gateway.keeper.looked_to.take();
        let rows = match self.store.read::<_, StoreError>(|view| view.gateway_keeps_after(from.as_ref(), LOOK_ROWS)) {
            Ok(rows) => rows,
            Err(error) => return warn!(%error, "devices to vouch for not read"),
        };
        let is_full = rows.len() >= LOOK_ROWS;
        let device_of = |key: &[u8]| <[u8; 32]>::try_from(key).ok().map(|key| DeviceKey(halloo_protocol::key::PublicKey(key)));
        if let (true, Some(gateway)) = (is_full, &mut self.gateway) {
            gateway.keeper.looked_to = rows.last().and_then(|(key, _)| device_of(key));
        }
        for (key, content) in rows {
            let Some(device) = device_of(&key) else { continue };
            let kept = wire::decode::<Kept>(&content, STORED_BYTES_MAX).ok();
            let is_due = |kept: &Kept| now.unix.secs_since(kept.signed_at) >= KEEPER_RENEW_AFTER_SECS;
            if kept.as_ref().is_none_or(is_due) {
                self.with_records(Then::Keep { device, kept });
            }
        }
    }

    pub(super) fn renew_keep(&mut self, device: DeviceKey, kept: Option<Kept>) {
        if let Err(error) = self.try_renew_keep(self.now(), device, kept) {
            warn!(%error, "lease not renewed");
        }
    }

    fn try_renew_keep(&mut self, now: Now, device: DeviceKey, kept: Option<Kept>) -> Result<(), StoreError> {
        let registered = kept.filter(|kept| {
            self.registration(&kept.handle).is_some_and(|known| known.device() == device && known.expires_at >= now.unix)
        });
        let Some(kept) = registered else {
            return self.store.transaction(|tx| tx.put_gateway_keep(&device, None));
        };
        let kept = Kept { signed_at: now.unix, ..kept };
        self.store_keep(&device, &kept)?;
        self.vouch(now, device, &kept);
        Ok(())
    }
}
