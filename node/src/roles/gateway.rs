//! The push gateway role: keeps devices' registrations and wakes devices that hold no usable connection of their own.
//!
//! Registrations and accepted pushes are in the database before they are acknowledged. A push goes out on every channel of the device at
//! once: on its stream if it has one open, and by the services it has registered ([`channel`]). The gateway writes the outer part; what the caller
//! sealed it can't read. A channel that its service says has ended is dropped, and the device is told when it is there ([`ended`]).

mod apns;
mod channel;
mod choice;
mod delivery;
mod ended;
#[cfg(test)]
mod external_tests;
mod fcm;
mod hand_on;
mod http;
mod jwt;
mod keeper;
pub(crate) mod phones;
mod receipts;
pub(crate) mod sessions;
mod setup;
pub(crate) mod sip;
mod sms;
mod waiting;
mod webhook;
pub mod webpush;

use std::time::{Duration, Instant};

use bincode::{Decode, Encode};
use halloo_protocol::choice::with_held;
use halloo_protocol::identity::VerifiedChain;
use halloo_protocol::key::{DeviceKey, IdentityKey, PublicKey};
use halloo_protocol::push::registration::{GatewayPolicy, PushRates, PushWays, Registration, decide_push, decide_register};
use halloo_protocol::push::{
    GatewayTime, OuterPayload, PushChannel, PushHandle, PushPayload, PushReason, PushRegister, PushRegistered, PushSend,
    PushSent, PushStatus, PushUnregister, PushUnregistered, PushWay, RegisterStatus, Urgency,
};
use halloo_protocol::rate::{Rate, RateLimiter};
use halloo_protocol::time::{Now, UnixTime};
use halloo_protocol::wire::{self, Extensions, Signed};
use libp2p::PeerId;
use tracing::{debug, warn};

pub(crate) use self::channel::Outcome as ServiceOutcome;
use self::channel::Services;
pub(crate) use self::delivery::{Delivering, ServiceAnswer};
pub(crate) use self::ended::TellingGone;
pub(crate) use self::hand_on::Handing;
use self::waiting::{PENDING_FOR_CALLS, PENDING_PER_DEVICE_MAX, Waiting};
use self::webpush::VapidKey;
use crate::event_loop::EventLoop;
use crate::store::{GATEWAY_PENDING_MAX, GATEWAY_REGISTRATIONS_MAX, PendingPush, StoreError};

/// Registrations, and tries to register, of one user's devices. A person has a few devices that register monthly; the rest is room for
/// restarts.
const REGISTER_RATE: Rate = Rate { per_hour: 120, burst: 60 };

/// How often expired registrations are looked for, and how many rows are looked at each time.
const PURGE_EVERY: Duration = Duration::from_secs(60);
const PURGE_ROWS: usize = 512;

/// Keys whose rates are remembered.
const RATES_MAX: usize = 65_536;

/// Largest stored registration or push.
const STORED_BYTES_MAX: usize = 16 * 1024;

/// How long the push for a call is kept at most, and for anything else: whoever asks for more gets that. A device that is away for longer looks into its mailboxes.
const CALL_TTL_SECS_MAX: u32 = 300;
const TTL_SECS_MAX: u32 = 7 * 86_400;

const VAPID_KEY: &str = "vapid key";

/// A push in the database.
#[derive(Clone, Debug, Encode, Decode)]
struct Kept {
    payload: Vec<u8>,
    urgency: Urgency,
    /// What it still has to go by.
    channels: Vec<PushChannel>,
    /// When its turn is: not before, whatever connects.
    turn_at: UnixTime,
}

impl Kept {
    /// A short message wakes and carries nothing: what it wakes for waits on the stream.
    fn new(payload: &PushPayload, urgency: Urgency, channels: &[PushChannel], turn_at: UnixTime) -> Self {
        let mut channels = channels.to_vec();
        let has = |way| channels.iter().any(|channel: &PushChannel| channel.way() == way);
        if has(PushWay::Sms) && !has(PushWay::Stream) {
            channels.push(PushChannel::Stream);
        }
        channels.retain(|channel| channel.takes(payload.event()));
        Self { payload: payload.to_bytes(), urgency, channels, turn_at }
    }
}

/// The role's state; registrations and pushes are in the store.
pub(crate) struct Gateway {
    services: Services,
    vapid_key: [u8; 65],
    rates: PushRates,
    registering: RateLimiter<PublicKey>,
    waiting: Waiting,
    chooser: choice::Chooser,
    purge_at: Instant,
    purged_to: Option<Vec<u8>>,
    keeper: keeper::Keeper,
    pub(crate) sessions: sessions::Hosted,
    /// Pushes that may have to be handed on, by number.
    held: std::collections::HashMap<u64, hand_on::Held>,
    /// Who is told what becomes of a push.
    senders: receipts::Senders,
    phones: phones::Phones,
}

impl std::fmt::Debug for Gateway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Gateway")
    }
}

impl EventLoop {
    /// Opens the role.
    pub(crate) fn open_gateway(&mut self) -> Result<(), crate::builder::StartError> {
        let failed = |reason: String| crate::builder::StartError::Gateway(reason);
        let stored = self.store.read::<_, StoreError>(|view| view.setting(VAPID_KEY))?;
        let key = match stored.and_then(|bytes| <[u8; 32]>::try_from(bytes).ok()) {
            Some(bytes) => VapidKey::from_bytes(&bytes).map_err(|error| failed(error.to_string()))?,
            None => {
                let key = VapidKey::generate().map_err(|error| failed(error.to_string()))?;
                self.store.transaction::<_, StoreError>(|tx| tx.put_setting(VAPID_KEY, key.to_bytes().as_slice()))?;
                key
            }
        };
        let vapid_key = key.public_key();
        let services = setup::services(&self.settings.gateway, key, self.settings.lab).map_err(failed)?;
        let now = Instant::now();
        let mut waiting = Waiting::default();
        let limit = usize::try_from(GATEWAY_PENDING_MAX).unwrap_or(usize::MAX);
        for (number, push) in self.store.read::<_, StoreError>(|view| view.pending_pushes(limit))? {
            delivery::take_up(&mut waiting, number, &push, self.now());
        }
        self.gateway = Some(Gateway {
            services,
            vapid_key,
            rates: PushRates::new(RATES_MAX),
            registering: RateLimiter::new(RATES_MAX),
            waiting,
            chooser: choice::Chooser::default(),
            purge_at: now + PURGE_EVERY,
            purged_to: None,
            keeper: keeper::Keeper::new(now),
            sessions: sessions::Hosted::default(),
            held: std::collections::HashMap::new(),
            senders: receipts::Senders::default(),
            phones: phones::Phones::new(RATES_MAX),
        });
        Ok(())
    }

    fn registration(&self, handle: &PushHandle) -> Option<Registration> {
        let stored = self.store.read::<_, StoreError>(|view| view.gateway_registration(&handle.0));
        let (_, bytes) = stored.inspect_err(|error| warn!(%error, "registration not read")).ok()??;
        wire::decode(&bytes, STORED_BYTES_MAX).ok()
    }

    fn registration_of(&self, device: &DeviceKey) -> Option<Registration> {
        let stored = self.store.read::<_, StoreError>(|view| view.gateway_registrations_of(device)).ok()?;
        stored.into_iter().find_map(|(_, bytes)| wire::decode(&bytes, STORED_BYTES_MAX).ok())
    }

    /// A device registers.
    pub(crate) fn handle_push_register_request(
        &mut self,
        chain: Option<&VerifiedChain>,
        request: PushRegister,
    ) -> PushRegistered {
        let status = match (chain, &mut self.gateway) {
            (Some(chain), Some(gateway)) => {
                let (vapid_key, ways) = (gateway.vapid_key, gateway.services.ways());
                // Each costs a commit, and any number of device keys costs its user nothing: so users are counted.
                match gateway.registering.take(&chain.user.identity.0, REGISTER_RATE, Instant::now()) {
                    Ok(()) => self.register(chain, request, vapid_key, ways),
                    Err(_) => RegisterStatus::Refused(PushReason::RATE),
                }
            }
            (None, Some(_)) => RegisterStatus::Refused(PushReason::NOT_CERTIFIED),
            (_, None) => RegisterStatus::Refused(PushReason::NOT_SERVED),
        };
        PushRegistered { status, extensions: Extensions::none() }
    }

    fn register(&mut self, chain: &VerifiedChain, request: PushRegister, vapid_key: [u8; 65], ways: PushWays) -> RegisterStatus {
        let now = self.now().unix;
        let known = self.registration_of(&chain.device);
        let policy = GatewayPolicy { registrations_max: usize::try_from(GATEWAY_REGISTRATIONS_MAX).unwrap_or(usize::MAX), ways };
        let handle = PushHandle::random(&mut self.rng);
        let Ok(registered) = self.store.read::<_, StoreError>(|view| view.gateway_registration_count()) else {
            return RegisterStatus::Refused(PushReason::TEMPORARY);
        };
        let registered = usize::try_from(registered).unwrap_or(usize::MAX);
        if let Some(refused) = self.foreign_phone(chain, &request) {
            return RegisterStatus::Refused(refused);
        }
        let decided = decide_register(request, chain, known.as_ref(), registered, handle, &policy, now);
        let registration = match decided {
            Ok(registration) => registration,
            Err(refusal) => {
                debug!(%refusal, "registration refused");
                return RegisterStatus::Refused(refusal.reason());
            }
        };
        let registration = sessions::with_user(registration, &chain.user.id);
        let bytes = wire::encode(&registration);
        let written = self
            .store
            .transaction::<_, StoreError>(|tx| tx.put_gateway_registration(&registration.handle.0, &chain.device, &bytes));
        if let Err(error) = written {
            warn!(%error, "registration not kept");
            return RegisterStatus::Refused(PushReason::FULL);
        }
        let gateway = self.identity.device();
        let time = GatewayTime { gateway, at: self.raw_unix(), extensions: Extensions::none() };
        RegisterStatus::Registered {
            handle: registration.handle,
            expires_at: registration.expires_at,
            time: Box::new(Signed::sign(time, self.identity.device_key())),
            vapid_key: Some(vapid_key),
        }
    }

    /// The SIP edge beside this node brings what is pushed to phones.
    pub(crate) fn handle_attach_sip(&mut self, edge: tokio::sync::mpsc::Sender<sip::SipPush>) {
        if let Some(gateway) = &mut self.gateway {
            gateway.services.sip = Some(sip::SipClient(edge));
        }
    }

    /// Phones of others aren't anybody's channel.
    fn foreign_phone(&self, chain: &VerifiedChain, request: &PushRegister) -> Option<PushReason> {
        let is_foreign = |channel: &PushChannel| match channel {
            PushChannel::Sip { address } => {
                let account = halloo_protocol::push::sip_account(address).map(|(account, _)| account);
                account.and_then(|account| self.labels.parse(&account).ok()).as_ref() != Some(&chain.user.id)
            }
            _ => false,
        };
        request.channels.iter().any(is_foreign).then_some(PushReason::INVALID)
    }

    /// A device was removed by its user: it isn't woken any more.
    pub(crate) fn end_registration_of(&mut self, identity: &IdentityKey, device: &DeviceKey) {
        if self.gateway.is_none() {
            return;
        }
        let Some(known) = self.registration_of(device).filter(|known| known.rules.identity == *identity) else { return };
        match self.store.transaction::<_, StoreError>(|tx| tx.remove_gateway_registration(&known.handle.0)) {
            Ok(_) => {
                debug!("the registration of a removed device is ended");
                self.purge_choice(&identity.0);
            }
            Err(error) => warn!(%error, "the registration of a removed device isn't ended"),
        }
    }

    /// A device takes its leave.
    pub(crate) fn handle_push_unregister(&mut self, chain: Option<&VerifiedChain>, request: &PushUnregister) -> PushUnregistered {
        let own = self.registration(&request.handle).filter(|known| chain.is_some_and(|chain| chain.device == known.device()));
        let identity = own.map(|known| known.rules.identity);
        let was_known = identity.is_some()
            && self.store.transaction::<_, StoreError>(|tx| tx.remove_gateway_registration(&request.handle.0)).unwrap_or(false);
        if let Some(identity) = identity.filter(|_| was_known) {
            self.purge_choice(&identity.0);
        }
        PushUnregistered { was_known, extensions: Extensions::none() }
    }

    /// A caller hands over a push.
    pub(crate) fn handle_push_send(&mut self, peer: PeerId, chain: Option<&VerifiedChain>, request: &PushSend) -> PushSent {
        match self.accept_push(peer, chain, request) {
            Ok((ways, held_secs)) => {
                let none = Extensions::none();
                let extensions = if held_secs > 0 { with_held(none, held_secs) } else { none };
                PushSent { status: PushStatus::Accepted { ways }, extensions }
            }
            Err(reason) => PushSent { status: PushStatus::Refused(reason), extensions: Extensions::none() },
        }
    }

    fn accept_push(
        &mut self,
        peer: PeerId,
        chain: Option<&VerifiedChain>,
        request: &PushSend,
    ) -> Result<(Vec<PushWay>, u16), PushReason> {
        let now = self.now();
        let me = self.identity.device();
        let registration = self.registration(&request.handle);
        let gateway = self.gateway.as_mut().ok_or(PushReason::NOT_SERVED)?;
        let grant = decide_push(request, registration.as_ref(), chain, &me, &mut gateway.rates, now).map_err(|refusal| {
            debug!(%refusal, "push refused");
            refusal.reason()
        })?;
        let registration = registration.ok_or(PushReason::UNKNOWN_HANDLE)?;
        let held_secs = self.hold_back(&registration, request.hints.event, grant.holder);
        let (number, ways) = self.keep_and_deliver(&registration, request, held_secs)?;
        self.note_introduction(&peer, registration.device());
        if let Some(gateway) = &mut self.gateway {
            gateway.senders.note(number, peer, request.request_hash());
        }
        if held_secs > 0 {
            self.note_held(request.request_hash(), peer, number, held_secs);
        }
        self.hand_on(number, &registration, peer, request, held_secs > 0);
        Ok((ways, held_secs))
    }
    /// Takes a push that was decided on: into the database first, then on every channel, unless its turn comes later.
    fn keep_and_deliver(
        &mut self,
        registration: &Registration,
        request: &PushSend,
        held_secs: u16,
    ) -> Result<(u64, Vec<PushWay>), PushReason> {
        let now = self.now();
        let me = self.identity.device();
        let handle = registration.handle;
        let gateway = self.gateway.as_ref().ok_or(PushReason::NOT_SERVED)?;
        let is_call = request.hints.event.is_call();
        // Calls are over soon; what isn't leaves room for them.
        let max = if is_call { PENDING_PER_DEVICE_MAX } else { PENDING_PER_DEVICE_MAX - PENDING_FOR_CALLS };
        let ttl_secs = request.hints.ttl_secs.min(if is_call { CALL_TTL_SECS_MAX } else { TTL_SECS_MAX });
        if gateway.waiting.count(&handle) >= max {
            debug!("push refused: too many wait for this device");
            return Err(PushReason::RATE);
        }
        let outer = OuterPayload::new(me, request.hints.event, now.unix, ttl_secs, &request.sealed);
        let outer = outer.in_language(crate::wording::language(&registration.request.languages, &request.languages()).language);
        let payload =
            PushPayload::new(outer, request.sealed.clone(), self.identity.device_key()).map_err(|_| PushReason::TOO_LARGE)?;
        let turn_at = now.unix.plus_secs(u64::from(held_secs));
        let kept = Kept::new(&payload, request.hints.urgency, &registration.request.channels, turn_at);
        if kept.channels.is_empty() {
            return Err(PushReason::CHANNEL);
        }
        let pending = PendingPush {
            handle: handle.0.to_vec(),
            due: kept.turn_at,
            expires_at: now.unix.plus_secs(u64::from(ttl_secs)),
            content: wire::encode(&kept),
        };
        let number = self.store.transaction::<_, StoreError>(|tx| tx.add_pending_push(&pending)).map_err(|error| {
            warn!(%error, "push not kept");
            PushReason::TEMPORARY
        })?;
        if let Some(gateway) = &mut self.gateway {
            gateway.waiting.insert(number, handle, pending.expires_at, now.instant);
            if held_secs > 0 {
                gateway.waiting.hold_back(number, now.instant + Duration::from_secs(u64::from(held_secs)));
            } else {
                gateway.waiting.put_off(number, now.instant);
            }
        }
        let ways = kept.channels.iter().map(PushChannel::way).collect();
        if held_secs == 0 {
            self.deliver(number, registration, &kept, pending.expires_at.secs_since(now.unix));
        }
        Ok((number, ways))
    }

    /// Tries again what hasn't gone out, and forgets what is too late.
    pub(crate) fn gateway_tick(&mut self, now: Now) {
        self.gateway_sessions_tick(now);
        let Some(gateway) = &mut self.gateway else { return };
        let due = gateway.waiting.take_due(now.instant, now.unix);
        gateway.chooser.tidy(now.instant);
        let purges = gateway.purge_at <= now.instant;
        if purges {
            gateway.purge_at = now.instant + PURGE_EVERY;
            gateway.senders.tidy(&gateway.waiting);
        }
        let mut over = due.expired;
        for number in due.again {
            if !self.retry_push(number, now) {
                over.push(number);
            }
        }
        if !over.is_empty() {
            self.forget_pushes(&over);
        }
        if purges {
            self.purge_registrations(now.unix);
        }
    }

    /// False if there is nothing left to try.
    fn retry_push(&mut self, number: u64, now: Now) -> bool {
        let push = match self.store.read::<_, StoreError>(|view| view.pending_push(number)) {
            Ok(push) => push,
            Err(error) => {
                warn!(%error, "pending push not read");
                return true;
            }
        };
        let Some(push) = push else { return false };
        let registration = PushHandle::from_slice(&push.handle).and_then(|handle| self.registration(&handle));
        let kept = wire::decode::<Kept>(&push.content, STORED_BYTES_MAX).ok();
        let (Some(registration), Some(kept)) = (registration, kept) else { return false };
        self.deliver(number, &registration, &kept, push.expires_at.secs_since(now.unix));
        if !self.has_channel_for(&registration) {
            self.hand_on_failed(number);
        }
        true
    }

    /// All in one commit: after a night with many devices asleep that is thousands.
    fn forget_pushes(&mut self, numbers: &[u64]) {
        let forgotten = self
            .store
            .transaction::<_, StoreError>(|tx| numbers.iter().try_for_each(|number| tx.remove_pending_push(*number).map(|_| ())));
        if let Err(error) = forgotten {
            warn!(%error, "expired pushes not removed");
        }
        if let Some(gateway) = &mut self.gateway {
            for number in numbers {
                gateway.held.remove(number);
                gateway.waiting.remove(*number);
            }
        }
    }

    /// Removes registrations that weren't renewed, a part of the table at a time.
    fn purge_registrations(&mut self, now: UnixTime) {
        let Some(gateway) = &mut self.gateway else { return };
        let from = gateway.purged_to.take();
        let rows = self.store.read::<_, StoreError>(|view| view.gateway_registrations_after(from.as_deref(), PURGE_ROWS));
        let rows = match rows {
            Ok(rows) => rows,
            Err(error) => return warn!(%error, "registrations not read"),
        };
        if rows.len() >= PURGE_ROWS {
            gateway.purged_to = rows.last().map(|(handle, _)| handle.clone());
        }
        let is_over = |content: &[u8]| {
            let registration = wire::decode::<Registration>(content, STORED_BYTES_MAX);
            registration.map_or(true, |registration| now > registration.expires_at)
        };
        let rows: Vec<_> = rows.into_iter().filter(|(_, content)| is_over(content)).collect();
        if rows.is_empty() {
            return;
        }
        let users: Vec<PublicKey> = rows
            .iter()
            .filter_map(|(_, content)| wire::decode::<Registration>(content, STORED_BYTES_MAX).ok())
            .map(|registration| registration.rules.identity.0)
            .collect();
        let over: Vec<_> = rows.into_iter().map(|(handle, _)| handle).collect();
        let removed = self.store.transaction::<_, StoreError>(|tx| {
            over.iter().try_for_each(|handle| tx.remove_gateway_registration(handle).map(|_| ()))
        });
        if let Err(error) = removed {
            warn!(%error, "expired registrations not removed");
        }
        users.iter().for_each(|user| self.purge_choice(user));
    }

    /// A device has connected: what waits for it goes at the next look.
    pub(crate) fn gateway_peer_greeted(&mut self, peer: PeerId) {
        if self.gateway.is_none() {
            return;
        }
        let Some(device) = self.peers.get(&peer).map(|known| known.device) else { return };
        self.tell_ended_channels(peer, &device);
        if self.gateway.as_ref().is_none_or(|gateway| gateway.waiting.is_empty()) {
            return;
        }
        let handle = self.registration_of(&device).map(|registration| registration.handle);
        if let (Some(handle), Some(gateway)) = (handle, &mut self.gateway) {
            gateway.waiting.hurry(&handle, Instant::now());
        }
    }
}
