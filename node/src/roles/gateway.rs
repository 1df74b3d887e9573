//! The push gateway role: keeps devices' registrations and wakes devices that hold no usable connection of their own.
//!
//! Registrations and accepted pushes are in the database before they are acknowledged. A push goes out on every channel of the device at
//! once: on its stream if it has one open, and as a Web Push message. The gateway writes the outer part; what the caller sealed it can't read.

pub mod webpush;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bincode::{Decode, Encode};
use halloo_protocol::identity::VerifiedChain;
use halloo_protocol::key::DeviceKey;
use halloo_protocol::push::registration::{GatewayPolicy, PushRates, Registration, decide_push, decide_register};
use halloo_protocol::push::{
    GatewayTime, OuterPayload, PushChannel, PushDeliver, PushDelivered, PushHandle, PushPayload, PushReason, PushRegister,
    PushRegistered, PushSend, PushSent, PushStatus, PushUnregister, PushUnregistered, PushWay, RegisterStatus, Urgency,
};
use halloo_protocol::time::Now;
use halloo_protocol::wire::{self, Extensions, Frame, Signed};
use libp2p::PeerId;
use tracing::{debug, warn};

use self::webpush::{PushError, Subscription, VapidKey, VapidSubject, WebPushClient, WebPushConfig};
use crate::address;
use crate::event_loop::{EventLoop, Internal};
use crate::network::{Purpose, Target};
use crate::rpc::Failure;
use crate::store::{GATEWAY_REGISTRATIONS_MAX, PendingPush, StoreError};

/// How long a device may take to take a push on its stream.
const DELIVER_TIMEOUT: Duration = Duration::from_secs(8);

/// Pushes taken up again at the start.
const PENDING_MAX: usize = 1_024;

/// How often the database is looked through for pushes that are due.
const PENDING_EVERY: Duration = Duration::from_secs(5);

/// How long a push that failed for a moment waits.
const RETRY_SECS: u64 = 5;

/// Keys whose rates are remembered.
const RATES_MAX: usize = 65_536;

/// Largest stored registration or push.
const STORED_BYTES_MAX: usize = 16 * 1024;

const VAPID_KEY: &str = "vapid key";

/// Who is answerable for the pushes (RFC 8292 section 2.1), unless the operator names somebody.
const SUBJECT: &str = "mailto:gateway@localhost";

/// A push on its way over a device's stream.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Delivering {
    number: u64,
}

/// What a push service said.
#[derive(Debug)]
pub(crate) struct ServiceAnswer {
    number: u64,
    handle: PushHandle,
    channel: PushChannel,
    result: Result<(), PushError>,
}

/// A push in the database.
#[derive(Clone, Debug, Encode, Decode)]
struct Kept {
    payload: Vec<u8>,
    urgency: Urgency,
    channels: Vec<PushChannel>,
}

/// The role's state; registrations and pushes are in the store.
pub(crate) struct Gateway {
    client: Arc<WebPushClient>,
    vapid_key: [u8; 65],
    rates: PushRates,
    look_at: Instant,
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
        let subject: VapidSubject = SUBJECT.parse().map_err(|_| failed("the contact address isn't one".into()))?;
        let mut config = WebPushConfig::new(key, subject);
        config.lab = self.settings.lab;
        let client = WebPushClient::new(config).map_err(|error| failed(error.to_string()))?;
        self.gateway =
            Some(Gateway { client: Arc::new(client), vapid_key, rates: PushRates::new(RATES_MAX), look_at: Instant::now() });
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
        let status = match (chain, &self.gateway) {
            (Some(chain), Some(gateway)) => {
                let vapid_key = gateway.vapid_key;
                self.register(chain, request, vapid_key)
            }
            (None, Some(_)) => RegisterStatus::Refused(PushReason::NOT_CERTIFIED),
            (_, None) => RegisterStatus::Refused(PushReason::NOT_SERVED),
        };
        PushRegistered { status, extensions: Extensions::none() }
    }

    fn register(&mut self, chain: &VerifiedChain, request: PushRegister, vapid_key: [u8; 65]) -> RegisterStatus {
        let now = self.now().unix;
        let known = self.registration_of(&chain.device);
        let policy = GatewayPolicy {
            registrations_max: usize::try_from(GATEWAY_REGISTRATIONS_MAX).unwrap_or(usize::MAX),
            has_web_push: true,
        };
        let handle = PushHandle::random(&mut self.rng);
        // The store refuses when it is full; counting a million rows for each request would be the greater cost.
        let decided = decide_register(request, chain, known.as_ref(), 0, handle, &policy, now);
        let registration = match decided {
            Ok(registration) => registration,
            Err(refusal) => {
                debug!(%refusal, "registration refused");
                return RegisterStatus::Refused(refusal.reason());
            }
        };
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

    /// A device takes its leave.
    pub(crate) fn handle_push_unregister(&mut self, chain: Option<&VerifiedChain>, request: &PushUnregister) -> PushUnregistered {
        let own = self.registration(&request.handle).filter(|known| chain.is_some_and(|chain| chain.device == known.device()));
        let was_known = own.is_some()
            && self.store.transaction::<_, StoreError>(|tx| tx.remove_gateway_registration(&request.handle.0)).unwrap_or(false);
        PushUnregistered { was_known, extensions: Extensions::none() }
    }

    /// A caller hands over a push.
    pub(crate) fn handle_push_send(&mut self, chain: Option<&VerifiedChain>, request: &PushSend) -> PushSent {
        let status = match self.accept_push(chain, request) {
            Ok(ways) => PushStatus::Accepted { ways },
            Err(reason) => PushStatus::Refused(reason),
        };
        PushSent { status, extensions: Extensions::none() }
    }

    fn accept_push(&mut self, chain: Option<&VerifiedChain>, request: &PushSend) -> Result<Vec<PushWay>, PushReason> {
        let now = self.now();
        let me = self.identity.device();
        let registration = self.registration(&request.handle);
        let gateway = self.gateway.as_mut().ok_or(PushReason::NOT_SERVED)?;
        decide_push(request, registration.as_ref(), chain, &me, &mut gateway.rates, now).map_err(|refusal| {
            debug!(%refusal, "push refused");
            refusal.reason()
        })?;
        let registration = registration.ok_or(PushReason::UNKNOWN_HANDLE)?;
        let outer = OuterPayload::new(me, request.hints.event, now.unix, request.hints.ttl_secs, &request.sealed);
        let payload =
            PushPayload::new(outer, request.sealed.clone(), self.identity.device_key()).map_err(|_| PushReason::TOO_LARGE)?;
        let kept =
            Kept { payload: payload.to_bytes(), urgency: request.hints.urgency, channels: registration.request.channels.clone() };
        let pending = PendingPush {
            handle: request.handle.0.to_vec(),
            due: now.unix.plus_secs(RETRY_SECS),
            expires_at: now.unix.plus_secs(u64::from(request.hints.ttl_secs)),
            content: wire::encode(&kept),
        };
        let number = self.store.transaction::<_, StoreError>(|tx| tx.add_pending_push(&pending)).map_err(|error| {
            warn!(%error, "push not kept");
            PushReason::TEMPORARY
        })?;
        let ways = registration.request.channels.iter().map(PushChannel::way).collect();
        self.deliver(number, &registration, &kept, pending.expires_at.secs_since(now.unix));
        Ok(ways)
    }

    /// Sends a push on every channel it still has to go.
    fn deliver(&mut self, number: u64, registration: &Registration, kept: &Kept, ttl_secs: u64) {
        for channel in &kept.channels {
            match channel {
                PushChannel::Stream => self.deliver_on_stream(number, registration.device(), &kept.payload),
                PushChannel::WebPush { .. } => self.deliver_by_service(number, registration.handle, channel, kept, ttl_secs),
            }
        }
    }

    fn deliver_on_stream(&mut self, number: u64, device: DeviceKey, payload: &[u8]) {
        let Some(peer) = address::peer_id(&device) else { return };
        // Only a connection the device holds: the gateway doesn't dial devices.
        if self.peers.get(&peer).is_none() {
            return;
        }
        let message = PushDeliver { payload: payload.to_vec(), extensions: Extensions::none() };
        self.request(&Target::connected(peer), &message, Purpose::PushDeliver(Delivering { number }), DELIVER_TIMEOUT);
    }

    fn deliver_by_service(&mut self, number: u64, handle: PushHandle, channel: &PushChannel, kept: &Kept, ttl_secs: u64) {
        let PushChannel::WebPush { endpoint, p256dh, auth } = channel else { return };
        let Some(gateway) = &self.gateway else { return };
        let answer = |result| ServiceAnswer { number, handle, channel: channel.clone(), result };
        let Ok(subscription) = Subscription::new(endpoint, *p256dh, *auth) else {
            return self.handle_service_answer(answer(Err(PushError::Gone)));
        };
        let client = Arc::clone(&gateway.client);
        let news = self.internal_sender.clone();
        let payload = kept.payload.clone();
        let urgency = match kept.urgency {
            Urgency::VeryLow => webpush::Urgency::VeryLow,
            Urgency::Low => webpush::Urgency::Low,
            Urgency::Normal => webpush::Urgency::Normal,
            Urgency::High => webpush::Urgency::High,
        };
        let mut answer = answer(Ok(()));
        tokio::spawn(async move {
            let ttl = u32::try_from(ttl_secs).unwrap_or(u32::MAX);
            answer.result = client.send(&subscription, &payload, ttl, urgency, None).await.map(|_| ());
            // The event loop is gone only when the node is; the push is in the database.
            let _ = news.send(Internal::PushService(answer)).await;
        });
    }

    pub(crate) fn handle_service_answer(&mut self, answer: ServiceAnswer) {
        match answer.result {
            Ok(()) => self.channel_done(answer.number, PushWay::WebPush),
            Err(error) if error.is_subscription_dead() => {
                debug!(%error, "push subscription is dead");
                self.drop_channel(&answer.handle, &answer.channel);
                self.channel_done(answer.number, PushWay::WebPush);
            }
            Err(error) if error.is_worth_retrying() => debug!(%error, "push service not reached: tried again later"),
            Err(error) => {
                warn!(%error, "push refused by the push service");
                self.channel_done(answer.number, PushWay::WebPush);
            }
        }
    }

    pub(crate) fn push_deliver_answer(&mut self, delivering: Delivering, frame: &Frame) {
        match frame.parse::<PushDelivered>() {
            Ok(delivered) => {
                debug!(status = ?delivered.status, "device took the push");
                self.channel_done(delivering.number, PushWay::Stream);
            }
            Err(_) => self.counters.malformed += 1,
        }
    }

    pub(crate) fn push_deliver_failure(&mut self, _delivering: Delivering, failure: Failure) {
        debug!(%failure, "push not taken on the stream: tried again later");
    }

    /// Strikes a way off a push; the last one ends it.
    fn channel_done(&mut self, number: u64, way: PushWay) {
        let done = self.store.transaction::<_, StoreError>(|tx| {
            let pending = tx.pending_pushes(PENDING_MAX)?.into_iter().find(|(known, _)| *known == number);
            let Some((_, mut pending)) = pending else { return Ok(()) };
            let Ok(mut kept) = wire::decode::<Kept>(&pending.content, STORED_BYTES_MAX) else {
                return tx.remove_pending_push(number).map(|_| ());
            };
            kept.channels.retain(|channel| channel.way() != way);
            if kept.channels.is_empty() {
                return tx.remove_pending_push(number).map(|_| ());
            }
            pending.content = wire::encode(&kept);
            tx.update_pending_push(number, &pending)
        });
        if let Err(error) = done {
            warn!(%error, "push not struck off");
        }
    }

    /// A subscription has ended: the device loses this channel.
    fn drop_channel(&mut self, handle: &PushHandle, channel: &PushChannel) {
        let Some(mut registration) = self.registration(handle) else { return };
        let device = registration.device();
        let is_last = registration.remove_channel(channel);
        let bytes = wire::encode(&registration);
        let written = self.store.transaction::<_, StoreError>(|tx| {
            if is_last {
                tx.remove_gateway_registration(&handle.0).map(|_| ())
            } else {
                tx.put_gateway_registration(&handle.0, &device, &bytes)
            }
        });
        if let Err(error) = written {
            warn!(%error, "dead subscription not removed");
        }
    }

    /// Tries again what hasn't gone out, and forgets what is too late.
    pub(crate) fn gateway_tick(&mut self, now: Now) {
        let Some(gateway) = self.gateway.as_mut().filter(|gateway| gateway.look_at <= now.instant) else { return };
        gateway.look_at = now.instant + PENDING_EVERY;
        let pending = match self.store.read::<_, StoreError>(|view| view.pending_pushes(PENDING_MAX)) {
            Ok(pending) => pending,
            Err(error) => return warn!(%error, "pending pushes not read"),
        };
        for (number, push) in pending {
            self.retry_push(number, push, now);
        }
    }

    fn retry_push(&mut self, number: u64, mut push: PendingPush, now: Now) {
        let registration = PushHandle::from_slice(&push.handle).and_then(|handle| self.registration(&handle));
        let kept = wire::decode::<Kept>(&push.content, STORED_BYTES_MAX).ok();
        let (Some(registration), Some(kept), true) = (registration, kept, now.unix < push.expires_at) else {
            if let Err(error) = self.store.transaction::<_, StoreError>(|tx| tx.remove_pending_push(number)) {
                warn!(%error, "expired push not removed");
            }
            return;
        };
        if push.due > now.unix {
            return;
        }
        push.due = now.unix.plus_secs(RETRY_SECS);
        if let Err(error) = self.store.transaction::<_, StoreError>(|tx| tx.update_pending_push(number, &push)) {
            return warn!(%error, "push not put off");
        }
        self.deliver(number, &registration, &kept, push.expires_at.secs_since(now.unix));
    }

    /// A device has connected: what waits for it on its stream goes at the next look.
    pub(crate) fn gateway_peer_greeted(&mut self, peer: PeerId) {
        let device = self.peers.get(&peer).map(|known| known.device);
        if device.is_some_and(|device| self.registration_of(&device).is_some())
            && let Some(gateway) = &mut self.gateway
        {
            gateway.look_at = Instant::now();
        }
    }
}
