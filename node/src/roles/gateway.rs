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
mod ending;
#[cfg(test)]
mod external_tests;
mod fcm;
mod group;
mod hand_on;
mod http;
mod jwt;
mod keeper;
mod parked;
pub(crate) mod phones;
mod receipts;
mod records;
pub(crate) mod sessions;
mod setup;
pub(crate) mod sip;
pub(in crate::roles) mod sms;
mod waiting;
mod webhook;
pub mod webpush;

use std::time::{Duration, Instant};

use bincode::{Decode, Encode};
use halloo_protocol::choice::with_held;
use halloo_protocol::identity::{UserId, VerifiedChain};
use halloo_protocol::key::{DeviceKey, IdentityKey, PublicKey};
use halloo_protocol::push::group::put_group;
use halloo_protocol::push::registration::{GatewayPolicy, PushRates, PushWays, Registration, decide_push, decide_register};
use halloo_protocol::push::{
    DeliveredStatus, GatewayTime, OuterPayload, PushChannel, PushHandle, PushPayload, PushReason, PushRegister, PushRegistered,
    PushSend, PushSent, PushStatus, PushUnregister, PushUnregistered, PushWay, RegisterStatus, Urgency,
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
pub(crate) use self::parked::is_for_gateway;
pub(crate) use self::records::shared::News as RecordsNews;
use self::records::{Embedded, Records};
use self::waiting::{PENDING_FOR_CALLS, PENDING_PER_DEVICE_MAX, Waiting};
use self::webpush::VapidKey;
use crate::event_loop::EventLoop;
use crate::store::{GATEWAY_PENDING_MAX, GATEWAY_REGISTRATIONS_MAX, PendingPush, Store, StoreError};

/// Registrations, and tries to register, of one user's devices. A person has a few devices that register monthly; the rest is room for
/// restarts.
const REGISTER_RATE: Rate = Rate { per_hour: 120, burst: 60 };

/// The same of all who have no name: new identities cost them nothing, so they are counted as one.
const REGISTER_UNNAMED_RATE: Rate = Rate { per_hour: 600, burst: 60 };
const UNNAMED: PublicKey = PublicKey([0; 32]);

/// How often expired registrations are looked for.
const PURGE_EVERY: Duration = Duration::from_secs(60);

/// Keys whose rates are remembered.
const RATES_MAX: usize = 65_536;

/// Largest stored registration or push.
const STORED_BYTES_MAX: usize = 16 * 1024;

/// How long the push for a call is kept at most, and for anything else: whoever asks for more gets that. A device that is away for longer looks into its mailboxes.
const CALL_TTL_SECS_MAX: u32 = 300;
const TTL_SECS_MAX: u32 = 7 * 86_400;

const VAPID_KEY: &str = "vapid key";

/// In the home: the key of the gateways that share a database.
const GROUP_KEY_FILE: &str = "gateway-group.key";

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
    records: Records,
    services: Services,
    vapid_key: [u8; 65],
    rates: PushRates,
    registering: RateLimiter<PublicKey>,
    waiting: Waiting,
    chooser: choice::Chooser,
    purge_at: Instant,
    /// What waits for a shared database.
    parked: parked::Parking,
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
    /// Opens the role, with a shared database if one was opened for it.
    pub(crate) fn open_gateway(&mut self, shared: Option<OpenedRecords>) -> Result<(), crate::builder::StartError> {
        let failed = |reason: String| crate::builder::StartError::Gateway(reason);
        let (records, key, waiting) = match shared {
            Some(OpenedRecords(opened)) => {
                let mut shared = opened.shared;
                shared.joined(&opened.joined);
                let waiting = shared.take_up(&opened.joined.pushes);
                (Records::Shared(Box::new(shared)), opened.vapid, waiting)
            }
            None => {
                let embedded = Embedded::new(self.store.clone());
                let waiting = embedded.all_pending(usize::try_from(GATEWAY_PENDING_MAX).unwrap_or(usize::MAX))?;
                (Records::Embedded(embedded), own_vapid_key(&self.store)?, waiting)
            }
        };
        let key = <[u8; 32]>::try_from(key.as_slice()).map_err(|_| failed("the key for push services is damaged".to_owned()))?;
        let key = VapidKey::from_bytes(&key).map_err(|error| failed(error.to_string()))?;
        let vapid_key = key.public_key();
        let services = setup::services(&self.settings.gateway, key, self.settings.lab).map_err(failed)?;
        let ending = ending::Ending::read(&self.store)?;
        let now = Instant::now();
        self.gateway = Some(Gateway {
            records,
            services,
            vapid_key,
            rates: PushRates::new(RATES_MAX),
            registering: RateLimiter::new(RATES_MAX),
            waiting: Waiting::default(),
            chooser: choice::Chooser::default(),
            purge_at: now + PURGE_EVERY,
            parked: parked::Parking::new(ending),
            keeper: keeper::Keeper::new(now),
            sessions: sessions::Hosted::default(),
            held: std::collections::HashMap::new(),
            senders: receipts::Senders::default(),
            phones: phones::Phones::new(RATES_MAX),
        });
        self.take_up_pushes(&waiting);
        Ok(())
    }

    fn registration(&self, handle: &PushHandle) -> Option<Registration> {
        let found = self.gateway.as_ref()?.records.registration(handle);
        found.inspect_err(|error| warn!(%error, "registration not read")).ok()?
    }

    fn registration_of(&self, device: &DeviceKey) -> Option<Registration> {
        self.gateway.as_ref()?.records.registrations_of(device).ok()?.into_iter().next()
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
                let now = Instant::now();
                let own = gateway.registering.take(&chain.user.identity.0, REGISTER_RATE, now);
                let is_unnamed = matches!(chain.user.id, UserId::Key(_));
                let taken = own.and_then(|()| {
                    if is_unnamed { gateway.registering.take(&UNNAMED, REGISTER_UNNAMED_RATE, now) } else { Ok(()) }
                });
                match taken {
                    Ok(()) => self.register(chain, request, vapid_key, ways),
                    Err(_) => RegisterStatus::Refused(PushReason::RATE),
                }
            }
            (None, Some(_)) => RegisterStatus::Refused(PushReason::NOT_CERTIFIED),
            (_, None) => RegisterStatus::Refused(PushReason::NOT_SERVED),
        };
        let group = self.gateway.as_ref().and_then(|gateway| gateway.records.shared()).map(|shared| shared.others());
        PushRegistered { status, extensions: put_group(Extensions::none(), group.unwrap_or_default()) }
    }

    fn register(&mut self, chain: &VerifiedChain, request: PushRegister, vapid_key: [u8; 65], ways: PushWays) -> RegisterStatus {
        let now = self.now().unix;
        let known = self.registration_of(&chain.device);
        let policy = GatewayPolicy { registrations_max: usize::try_from(GATEWAY_REGISTRATIONS_MAX).unwrap_or(usize::MAX), ways };
        let handle = PushHandle::random(&mut self.rng);
        let counted = self.gateway.as_ref().and_then(|gateway| gateway.records.registration_count().ok());
        let Some(registered) = counted else { return RegisterStatus::Refused(PushReason::TEMPORARY) };
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
        let Some(gateway) = &mut self.gateway else { return RegisterStatus::Refused(PushReason::NOT_SERVED) };
        if let Err(error) = gateway.records.put_registration(&registration) {
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

    fn end_registration_now(&mut self, identity: &IdentityKey, device: &DeviceKey) {
        let Some(known) = self.registration_of(device).filter(|known| known.rules.identity == *identity) else { return };
        let Some(gateway) = &mut self.gateway else { return };
        match gateway.records.remove_registration(&known.handle) {
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
        let gateway = self.gateway.as_mut().filter(|_| identity.is_some());
        let was_known = gateway.is_some_and(|gateway| gateway.records.remove_registration(&request.handle).unwrap_or(false));
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
        self.keep_and_deliver(registration, request, held_secs, Some(peer)).map(|ways| (ways, held_secs))
    }

    /// Takes a push that was decided on: into the database first, then on every channel, unless its turn comes later. `sender` is told what becomes of it.
    fn keep_and_deliver(
        &mut self,
        registration: Registration,
        request: &PushSend,
        held_secs: u16,
        sender: Option<PeerId>,
    ) -> Result<Vec<PushWay>, PushReason> {
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
        let gateway = self.gateway.as_mut().ok_or(PushReason::NOT_SERVED)?;
        let number = gateway.records.add_pending(&pending, &request.request_hash()).map_err(|error| {
            warn!(%error, "push not kept");
            PushReason::TEMPORARY
        })?;
        let ways = kept.channels.iter().map(PushChannel::way).collect();
        let sender = sender.map(|peer| (peer, request.clone()));
        self.accepted(parked::Accepted { number, registration, pending, kept, held_secs, sender });
        Ok(ways)
    }

    /// A push is in the database: it goes out, or waits for its turn.
    fn push_accepted(&mut self, accepted: &parked::Accepted) {
        let parked::Accepted { number, registration, pending, kept, held_secs, sender } = accepted;
        let (now, number, is_held) = (self.now(), *number, *held_secs > 0);
        let Some(gateway) = &mut self.gateway else { return };
        gateway.waiting.insert(number, registration.handle, pending.expires_at, now.instant);
        if is_held {
            gateway.waiting.hold_back(number, now.instant + Duration::from_secs(u64::from(*held_secs)));
        } else {
            gateway.waiting.put_off(number, now.instant);
        }
        if let Some((peer, request)) = sender {
            gateway.senders.note(number, *peer, request.request_hash());
            self.note_introduction(peer, registration.device());
            if is_held {
                self.note_held(request.request_hash(), *peer, number, *held_secs);
            }
        }
        if !is_held {
            self.deliver(number, registration, kept, pending.expires_at.secs_since(now.unix));
        }
        if let Some((peer, request)) = sender {
            self.hand_on(number, registration, *peer, request, is_held);
        }
    }

    /// Takes pushes of an earlier run, or of another process, up.
    fn take_up_pushes(&mut self, pushes: &[(u64, PendingPush)]) {
        let now = self.now();
        let Some(gateway) = &mut self.gateway else { return };
        for (number, push) in pushes {
            if !gateway.waiting.contains(*number) {
                delivery::take_up(&mut gateway.waiting, *number, push, now);
            }
        }
    }

    /// Tries again what hasn't gone out, and forgets what is too late.
    pub(crate) fn gateway_tick(&mut self, now: Now) {
        self.gateway_sessions_tick(now);
        self.ending_tick(now.instant);
        let Some(gateway) = &mut self.gateway else { return };
        let due = gateway.waiting.take_due(now.instant, now.unix);
        gateway.chooser.tidy(now.instant);
        let purges = gateway.purge_at <= now.instant;
        if purges {
            gateway.purge_at = now.instant + PURGE_EVERY;
            gateway.senders.tidy(&gateway.waiting);
        }
        if !due.expired.is_empty() {
            self.forget_pushes(&due.expired, None);
        }
        for number in due.again {
            self.with_records(parked::Then::Retry(number));
        }
        if purges {
            self.purge_registrations(now.unix);
        }
    }

    /// Tries a push again, if there is anything left to try.
    fn retry_push(&mut self, number: u64) {
        let now = self.now();
        let Some(gateway) = &self.gateway else { return };
        let push = match gateway.records.pending(number) {
            Ok(push) => push,
            Err(error) => return warn!(%error, "pending push not read"),
        };
        // A process that was stopped for a while is taken for dead by the others: what was its own may be another's by now.
        if gateway.records.shared().is_some_and(|shared| !shared.has_found(number)) {
            return self.give_up_push(number);
        }
        let registration =
            push.as_ref().and_then(|push| PushHandle::from_slice(&push.handle)).and_then(|handle| self.registration(&handle));
        let kept = push.as_ref().and_then(|push| wire::decode::<Kept>(&push.content, STORED_BYTES_MAX).ok());
        let (Some(push), Some(registration), Some(kept)) = (push, registration, kept) else {
            return self.forget_pushes(&[number], None);
        };
        self.deliver(number, &registration, &kept, push.expires_at.secs_since(now.unix));
        if !self.has_channel_for(&registration) {
            self.hand_on_failed(number);
        }
    }

    /// All at once: after a night with many devices asleep that is thousands. `brought` if the device has taken it.
    fn forget_pushes(&mut self, numbers: &[u64], brought: Option<DeliveredStatus>) {
        let Some(gateway) = &mut self.gateway else { return };
        if let Err(error) = gateway.records.remove_pending(numbers, brought) {
            warn!(%error, "pushes not removed");
        }
        for number in numbers {
            gateway.held.remove(number);
            gateway.waiting.remove(*number);
        }
    }

    /// Removes registrations that weren't renewed, a part of them at a time.
    fn purge_registrations(&mut self, now: UnixTime) {
        let Some(gateway) = &mut self.gateway else { return };
        match gateway.records.purge(now) {
            Ok(users) => users.iter().for_each(|user| self.purge_choice(user)),
            Err(error) => warn!(%error, "expired registrations not removed"),
        }
    }

    /// A device has connected: what waits for it goes at the next look.
    pub(crate) fn gateway_peer_greeted(&mut self, peer: PeerId) {
        if self.gateway.is_none() {
            return;
        }
        let Some(device) = self.peers.get(&peer).map(|known| known.device) else { return };
        if let Some(shared) = self.gateway.as_mut().and_then(|gateway| gateway.records.shared_mut()) {
            let peers = &self.peers;
            shared
                .note_connected(device, |device| crate::address::peer_id(device).is_some_and(|peer| peers.get(&peer).is_some()));
        }
        self.with_records(parked::Then::Greeted { peer, device });
    }

    fn serve_greeted(&mut self, peer: PeerId, device: &DeviceKey) {
        self.tell_ended_channels(peer, device);
        self.bring_others_pushes(device);
        if self.gateway.as_ref().is_none_or(|gateway| gateway.waiting.is_empty()) {
            return;
        }
        let handle = self.registration_of(device).map(|registration| registration.handle);
        if let (Some(handle), Some(gateway)) = (handle, &mut self.gateway) {
            gateway.waiting.hurry(&handle, Instant::now());
        }
    }
}

/// The key for push services in the node's own database, made when there is none.
fn own_vapid_key(store: &Store) -> Result<Vec<u8>, crate::builder::StartError> {
    if let Some(bytes) = store.read::<_, StoreError>(|view| view.setting(VAPID_KEY))? {
        return Ok(bytes);
    }
    let key = VapidKey::generate().map_err(|error| crate::builder::StartError::Gateway(error.to_string()))?;
    store.transaction::<_, StoreError>(|tx| tx.put_setting(VAPID_KEY, key.to_bytes().as_slice()))?;
    Ok(key.to_bytes().to_vec())
}

/// A shared database that was opened for the role.
pub(crate) struct OpenedRecords(records::shared::Opened);

/// Opens the shared database that the settings name, if they name one.
pub(crate) async fn open_records(
    config: &crate::config::GatewayConfig,
    home: Option<&std::path::Path>,
    device: DeviceKey,
    store: &Store,
    news: tokio::sync::mpsc::Sender<crate::event_loop::Internal>,
) -> Result<Option<OpenedRecords>, crate::builder::StartError> {
    let Some(url) = &config.database else { return Ok(None) };
    let failed = crate::builder::StartError::Gateway;
    let tls = setup::database_tls(config).map_err(failed)?;
    let password = setup::database_password(config).map_err(failed)?;
    let key_file = match (&config.database_key, home) {
        (Some(path), _) => path.clone(),
        (None, Some(home)) => home.join(GROUP_KEY_FILE),
        (None, None) => return Err(failed("gateway.database_key: a node without a home needs it".to_owned())),
    };
    let opening = records::shared::Opening {
        url: url.as_str(),
        password: password.as_ref().map(|password| password.as_str()),
        key_file: &key_file,
        tls,
        device,
        vapid: &own_vapid_key(store)?,
        store,
    };
    let opened = records::shared::open(opening, news).await.map_err(|error| failed(error.to_string()))?;
    Ok(Some(OpenedRecords(opened)))
}
