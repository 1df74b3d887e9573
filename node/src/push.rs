//! The device's side of push: registering at gateways, falling asleep, waking up, and pushing to others' devices.

mod channels;
mod ended;
mod keep;
mod letters;
pub mod receiver;
mod self_test;
pub(crate) mod sessions;
mod spare;

use std::collections::HashSet;
use std::time::{Duration, Instant};

use bincode::{Decode, Encode};
use halloo_protocol::call::{CallId, InviteStatus, InviteWay, SEALED_INVITE_BYTES_MAX, SealedInvite};
use halloo_protocol::capability::{
    CAPABILITY_SECS_MAX, Capability, CapabilityId, CapabilityProof, Holder, Issuer, Limits, Service,
};
use halloo_protocol::choice::{PushWithdraw, held_for};
use halloo_protocol::directory::{Helper, PushAddress};
use halloo_protocol::event::EventKind;
use halloo_protocol::id::MessageId;
use halloo_protocol::identity::UserId;
use halloo_protocol::key::{DeviceKey, hash};
use halloo_protocol::node::Roles;
use halloo_protocol::push::{
    CHANNELS_MAX, ChannelEnd, DeliveredStatus, PUSH_PAYLOAD_BYTES_MAX, PushChannel as WireChannel, PushDelivered, PushHandle,
    PushHints, PushPayload, PushRegister, PushRegistered, PushSend, PushSent, PushStatus, RegisterStatus, Urgency,
};
use halloo_protocol::time::{Now, UnixTime};
use halloo_protocol::wire::{self, Extensions, Frame, Signed};
use libp2p::{Multiaddr, PeerId};
use tracing::{debug, info, warn};

pub(crate) use self::ended::Unregistering;
use crate::address;
use crate::event_loop::{EventLoop, Internal};
use crate::handle::power::{PowerError, SuspendOptions, Suspended, WakeOutcome};
use crate::handle::push::{ChannelState, PushChannel, PushError, PushList, PushRegistration, PushRemoved, PushTarget};
use crate::handle::{Event, Reply};
use crate::network::{Purpose, Target};
use crate::push::receiver::LocalPushService;
use crate::roles::gateway::webpush::{ReceiverKeys, Subscription, decrypt};
use crate::rpc::Failure;
use crate::store::StoreError;
use crate::timestamp::Timestamp;

/// How long a gateway may take to register a device, and to accept a push.
const GATEWAY_TIMEOUT: Duration = Duration::from_secs(10);

/// Gateways a device registers with.
const GATEWAYS_MAX: usize = 2;

/// When a registration is renewed before it ends.
const RENEW_BEFORE_SECS: u64 = 7 * 86_400;

/// How often renewal is looked at.
const RENEW_EVERY: Duration = Duration::from_secs(600);

/// When it is looked at after a registration.
const SPARE_AFTER: Duration = Duration::from_secs(2);

/// The same while a gateway has an endpoint that is no more.
const RENEW_STALE_EVERY: Duration = Duration::from_secs(10);

/// How far a gateway's clock may be off before its pushes count as late, in seconds.
const LATE_SECS: u64 = 300;

/// How long the answer to a registration waits for its publication.
const ANNOUNCE_MAX: Duration = Duration::from_secs(5);

/// Registrations that wait for their publication; further ones are answered at once.
const UNANNOUNCED_MAX: usize = 16;

/// How long a push for a call is worth delivering.
const CALL_TTL_SECS: u32 = 60;

/// Pushes an hour a certified stranger may send by the capability in the sealed part.
const STRANGER_PER_HOUR: u32 = 60;

/// Largest payload taken from the local API: a Web Push body.
const PAYLOAD_BYTES_MAX: usize = 4_096;

/// Most stored registrations are longer than this by nothing.
const REGISTRATION_BYTES_MAX: usize = 8 * 1024;

/// How endpoints of the push service on this machine begin.
const LOCAL_ENDPOINT: &str = "http://127.0.0.1:";

const RECEIVER_KEYS: &str = "push receiver keys";

/// A push handed to a gateway.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Sending {
    /// An invite.
    Call {
        /// The call.
        call: CallId,
        /// Whom it is to ring.
        device: DeviceKey,
    },
    /// What was left in the device's mailboxes.
    Letter {
        /// The message.
        message: MessageId,
    },
    /// This device's own test.
    Test {
        /// Which gateway is tested.
        gateway: DeviceKey,
    },
}

/// What a gateway was handed, and under which names it can be taken back while it is held.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Handed {
    sending: Sending,
    push: HeldPush,
}

/// A push at a gateway, which can be taken back as long as it waits for its turn there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeldPush {
    gateway: PeerId,
    handle: PushHandle,
    request_hash: [u8; 32],
}

/// What is handed to gateways.
#[derive(Clone, Copy)]
struct Push<'a> {
    /// Whose device it is for, where that is known.
    user: Option<&'a UserId>,
    hints: PushHints,
    sealed: &'a [u8],
    sending: Sending,
}

/// What became of a payload.
#[derive(Debug)]
struct Opened {
    status: DeliveredStatus,
    call: Option<CallId>,
    message: Option<MessageId>,
    /// Who sent it, `name@authority`.
    from: Option<String>,
}

/// A registration being asked for.
#[derive(Debug)]
pub(crate) struct Registering {
    channel: WireChannel,
    gateway: Helper,
    /// A webhook's secret that was made for it.
    secret: Option<String>,
    reply: Option<Reply<PushRegistration, PushError>>,
    /// A registration that is no more, for whose sake the others of its gateway are registered anew.
    removed: Option<(String, Reply<PushRemoved, PushError>)>,
}

impl Registering {
    /// One that nobody waits for.
    const fn renewal(gateway: Helper, channel: WireChannel) -> Self {
        Self { channel, gateway, secret: None, reply: None, removed: None }
    }

    /// Tells whoever waits.
    fn fail(self, error: PushError) {
        if let Some((id, reply)) = self.removed {
            reply.send(Ok(PushRemoved { id, gateway_told: false }));
        } else if let Some(reply) = self.reply {
            reply.send(Err(error));
        }
    }
}

/// A registration that a gateway keeps.
#[derive(Clone, Debug, Encode, Decode)]
struct Registered {
    gateway: Helper,
    handle: PushHandle,
    channel: WireChannel,
    capability: Signed<Capability>,
    registered_at: UnixTime,
    expires_at: UnixTime,
    /// The gateway says that the channel has ended.
    dead: Option<Dead>,
}

impl Registered {
    /// A row of the database. Those of earlier versions end before `dead`.
    fn from_row(row: &[u8]) -> Option<Self> {
        let whole = wire::decode(row, REGISTRATION_BYTES_MAX);
        whole.or_else(|_| wire::decode(&[row, &[0]].concat(), REGISTRATION_BYTES_MAX)).ok()
    }

    /// What it is known by in the database: one channel of each kind at each gateway.
    fn name(&self) -> Vec<u8> {
        registration_name(&self.gateway.device, &self.channel)
    }

    /// What the user calls it by.
    fn id(&self) -> String {
        let digest = hash("halloo push registration", &[&self.handle.0, channel_word(&self.channel).as_bytes()]);
        data_encoding::HEXLOWER.encode(&digest[..8])
    }

    const fn is_live(&self) -> bool {
        self.dead.is_none()
    }
}

/// The end of a channel.
#[derive(Clone, Copy, Debug, Encode, Decode)]
struct Dead {
    reason: ChannelEnd,
    at: UnixTime,
}

/// What this device knows of its gateways.
pub(crate) struct PushState {
    registered: Vec<Registered>,
    keys: Option<ReceiverKeys>,
    service: Option<LocalPushService>,
    renew_at: Option<Instant>,
    /// Names of registrations whose gateway has an old endpoint.
    stale: HashSet<Vec<u8>>,
    /// Registrations that callers can't find yet, and who is told when they can, or when the time is up.
    unannounced: Vec<(PushRegistration, Reply<PushRegistration, PushError>, Instant)>,
    keeping: keep::Keeping,
    sessions: sessions::Sessions,
    letters: letters::Letters,
    tests: self_test::SelfTests,
    /// In which language the gateway says that the event of the newest payload is told: it knows both people's lists.
    language: Option<String>,
    /// Gateways that were asked to be the second one.
    tried: Vec<DeviceKey>,
    /// What is still to be registered with it.
    spare_left: Vec<(Helper, WireChannel)>,
    /// Gateways whose place another one is to take.
    replaced: Vec<DeviceKey>,
}

impl PushState {
    pub(crate) fn new(service: Option<LocalPushService>) -> Self {
        Self {
            registered: Vec::new(),
            keys: None,
            service,
            renew_at: None,
            stale: HashSet::new(),
            unannounced: Vec::new(),
            keeping: keep::Keeping::default(),
            sessions: sessions::Sessions::default(),
            letters: letters::Letters::default(),
            tests: self_test::SelfTests::default(),
            language: None,
            tried: Vec::new(),
            spare_left: Vec::new(),
            replaced: Vec::new(),
        }
    }
}

impl std::fmt::Debug for PushState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PushState").field("registered", &self.registered.len()).finish_non_exhaustive()
    }
}

/// Calls have their own token with Apple: both may be registered.
fn channel_word(channel: &WireChannel) -> &'static str {
    if channel.is_for_calls_only() { "apns-voip" } else { channel.way().name() }
}

fn registration_name(gateway: &DeviceKey, channel: &WireChannel) -> Vec<u8> {
    let mut name = gateway.as_bytes().to_vec();
    name.extend_from_slice(channel_word(channel).as_bytes());
    name
}

// Registering.
impl EventLoop {
    /// Takes up the registrations of earlier runs.
    pub(crate) fn push_start(&mut self) {
        match self.store.read::<_, StoreError>(|view| Ok((view.push_registrations()?, view.setting(RECEIVER_KEYS)?))) {
            Ok((rows, keys)) => {
                self.push.registered = rows.iter().filter_map(|(_, row)| Registered::from_row(row)).collect();
                self.push.keys = keys.as_deref().and_then(receiver_keys);
            }
            Err(error) => warn!(%error, "push registrations not restored from the database"),
        }
        self.push_sessions_start();
        self.renew_local_endpoints();
        self.note_old_capabilities();
        if !self.push.registered.is_empty() {
            self.push.renew_at = Some(Instant::now());
        }
    }

    /// Contacts have a new key: gateways are told that older capabilities don't count any more.
    pub(crate) fn push_epoch_changed(&mut self) {
        self.note_old_capabilities();
        if !self.push.registered.is_empty() {
            self.push.renew_at = Some(Instant::now());
        }
    }

    /// Registrations whose capability is of an earlier epoch are made anew.
    fn note_old_capabilities(&mut self) {
        let epoch = self.contacts.presence_key().epoch;
        let live = self.push.registered.iter().filter(|known| known.is_live());
        let old = live.filter(|known| known.capability.unverified().epoch != epoch);
        let names: Vec<Vec<u8>> = old.map(Registered::name).collect();
        self.push.stale.extend(names);
    }

    /// The push service of this machine has another port and other paths after every start: what is registered with the old ones is
    /// registered anew.
    fn renew_local_endpoints(&mut self) {
        let (Some(service), Some(keys)) = (&self.push.service, &self.push.keys) else { return };
        let own = keys.public_key();
        for registered in &mut self.push.registered {
            let WireChannel::WebPush { endpoint, p256dh, .. } = &mut registered.channel else { continue };
            if *p256dh != own || !endpoint.starts_with(LOCAL_ENDPOINT) {
                continue;
            }
            match service.subscribe() {
                Ok(fresh) => *endpoint = fresh,
                Err(error) => {
                    debug!(%error, "no endpoint of the local push service");
                    continue;
                }
            }
            self.push.stale.insert(registration_name(&registered.gateway.device, &registered.channel));
        }
    }

    pub(crate) fn handle_push_register(&mut self, target: PushTarget, reply: Reply<PushRegistration, PushError>) {
        match self.prepare_registration(target) {
            Ok((gateway, channel, secret)) => {
                self.ask_gateway(Registering { channel, gateway, secret, reply: Some(reply), removed: None });
            }
            Err(error) => reply.send(Err(error)),
        }
    }

    fn prepare_registration(&mut self, target: PushTarget) -> Result<(Helper, WireChannel, Option<String>), PushError> {
        let gateway = self.choose_gateway(target.gateway.as_deref())?;
        let (channel, secret) = match target.channel {
            PushChannel::Webpush { endpoint, p256dh, auth } => {
                (self.webpush_channel(endpoint, p256dh.as_deref(), auth.as_deref())?, None)
            }
            other => channels::to_wire(other, &mut self.rng)?,
        };
        if self.other_channels(&gateway.device, &channel).len() >= CHANNELS_MAX {
            let reason = format!("{CHANNELS_MAX} are registered at this gateway already; halloo push unregister ID");
            return Err(PushError::InvalidChannel { field: "channel", reason });
        }
        Ok((gateway, channel, secret))
    }

    /// Live channels at a gateway beside the one that `channel` is or replaces.
    fn other_channels(&self, gateway: &DeviceKey, channel: &WireChannel) -> Vec<WireChannel> {
        let name = registration_name(gateway, channel);
        let others = self.push.registered.iter().filter(|known| known.gateway.device == *gateway && known.is_live());
        others.filter(|known| known.name() != name).map(|known| known.channel.clone()).collect()
    }

    /// The gateway the user names, or the first that is connected or known.
    fn choose_gateway(&self, named: Option<&str>) -> Result<Helper, PushError> {
        let unreachable = |text: &str| PushError::GatewayUnreachable { gateway: text.chars().take(200).collect() };
        if let Some(text) = named {
            if let Ok(peer) = text.parse::<PeerId>() {
                return self.gateway_of_peer(&peer).ok_or_else(|| unreachable(text));
            }
            let address: Multiaddr = text.parse().map_err(|_| PushError::InvalidChannel {
                field: "gateway",
                reason: "neither a peer id nor a multiaddress".into(),
            })?;
            let peer = address.iter().find_map(|part| match part {
                libp2p::multiaddr::Protocol::P2p(peer) => Some(peer),
                _ => None,
            });
            let missing =
                || PushError::InvalidChannel { field: "gateway", reason: "the multiaddress must end in /p2p/PEER".into() };
            let device = peer.and_then(|peer| address::device_key(&peer)).ok_or_else(missing)?;
            return Ok(Helper { device, addresses: address::to_wire(&address).into_iter().collect() });
        }
        let connected = self.peers.with_roles(Roles::GATEWAY).filter_map(|(_, peer)| peer.descriptor.clone());
        let known =
            self.directory.machine.table_snapshot().into_iter().filter(|descriptor| descriptor.roles.contains(Roles::GATEWAY));
        connected.chain(known).next().map(|descriptor| helper_of(&descriptor)).ok_or(PushError::NoGateway)
    }

    fn gateway_of_peer(&self, peer: &PeerId) -> Option<Helper> {
        if let Some(known) = self.peers.get(peer) {
            return Some(
                known.descriptor.as_ref().map_or_else(|| Helper { device: known.device, addresses: Vec::new() }, helper_of),
            );
        }
        let device = address::device_key(peer)?;
        let known = self.directory.machine.table_snapshot().into_iter().find(|descriptor| descriptor.device == device)?;
        Some(helper_of(&known))
    }

    /// A Web Push channel: the endpoint given, or one of the local push service; keys given, or our own.
    fn webpush_channel(
        &mut self,
        endpoint: Option<String>,
        p256dh: Option<&str>,
        auth: Option<&str>,
    ) -> Result<WireChannel, PushError> {
        let (p256dh, auth) = match (p256dh, auth) {
            (Some(p256dh), Some(auth)) => (bytes_of(p256dh, "p256dh")?, bytes_of(auth, "auth")?),
            (None, None) => {
                let keys = self.receiver_keys()?;
                (keys.public_key(), *keys.auth())
            }
            _ => return Err(PushError::InvalidChannel { field: "p256dh", reason: "p256dh and auth come together".into() }),
        };
        let endpoint = match endpoint {
            Some(endpoint) => endpoint,
            None => self.local_endpoint()?,
        };
        Subscription::new(&endpoint, p256dh, auth)
            .map_err(|error| PushError::InvalidChannel { field: "endpoint", reason: error.to_string() })?;
        Ok(WireChannel::WebPush { endpoint, p256dh, auth })
    }

    fn receiver_keys(&mut self) -> Result<&ReceiverKeys, PushError> {
        if self.push.keys.is_none() {
            let failed = |reason: String| PushError::InvalidChannel { field: "keys", reason };
            let keys = ReceiverKeys::generate().map_err(|error| failed(error.to_string()))?;
            let mut bytes = keys.private_bytes().to_vec();
            bytes.extend_from_slice(keys.auth());
            self.store
                .transaction::<_, StoreError>(|tx| tx.put_setting(RECEIVER_KEYS, &bytes))
                .map_err(|error| failed(error.to_string()))?;
            self.push.keys = Some(keys);
        }
        self.push.keys.as_ref().ok_or(PushError::NoGateway)
    }

    /// An endpoint of the push service that this machine runs for itself.
    fn local_endpoint(&mut self) -> Result<String, PushError> {
        let failed = |reason: String| PushError::InvalidChannel { field: "endpoint", reason };
        let service =
            self.push.service.as_ref().ok_or_else(|| failed("no push service runs on this machine; give --endpoint".into()))?;
        service.subscribe().map_err(|error| failed(error.to_string()))
    }

    fn ask_gateway(&mut self, registering: Registering) {
        let Some(target) = self.helper_target(&registering.gateway) else {
            return registering.fail(PushError::NoGateway);
        };
        // All channels of this gateway at once: registering replaces.
        let mut channels = vec![registering.channel.clone()];
        channels.extend(self.other_channels(&registering.gateway.device, &registering.channel));
        let mut request = PushRegister::new(channels);
        request.languages = self.own_languages().iter().take(8).map(|language| language.chars().take(35).collect()).collect();
        request.epoch = self.contacts.presence_key().epoch;
        self.describe_device(&registering.gateway.device, &mut request);
        self.request(&target, &request, Purpose::PushRegister(Box::new(registering)), GATEWAY_TIMEOUT);
    }

    pub(crate) fn push_register_answer(&mut self, registering: Registering, frame: &Frame) {
        let gateway_name = gateway_name(&registering.gateway);
        let refused = |reason: String| PushError::Refused { gateway: gateway_name.clone(), reason };
        let outcome = match frame.parse::<PushRegistered>() {
            Ok(PushRegistered { status: RegisterStatus::Registered { handle, expires_at, time, .. }, .. }) => {
                if time.verify(&registering.gateway.device.0).is_ok_and(|time| time.gateway == registering.gateway.device) {
                    let raw = self.raw_unix();
                    let before = self.clock.offset_secs();
                    self.clock.observe(registering.gateway.device, time.unverified().at, raw, true);
                    self.clock_changed(before);
                }
                self.keep_registration(&registering, handle, expires_at).map_err(|error| refused(error.to_string()))
            }
            Ok(PushRegistered { status: RegisterStatus::Refused(reason), .. }) => Err(refused(reason.to_string())),
            Err(error) => Err(refused(error.to_string())),
        };
        if let Some((id, reply)) = registering.removed {
            let gateway_told = outcome.is_ok();
            return reply.send(Ok(PushRemoved { id, gateway_told }));
        }
        match (registering.reply, outcome) {
            // A device that falls asleep now would never tell where it can be woken: the answer follows the publication.
            (Some(reply), Ok(registration)) if self.push.unannounced.len() < UNANNOUNCED_MAX => {
                self.push.unannounced.push((registration, reply, Instant::now() + ANNOUNCE_MAX));
            }
            (Some(reply), outcome) => reply.send(outcome),
            (None, Err(error)) => warn!(%error, "push registration not renewed"),
            (None, Ok(_)) => {}
        }
    }

    pub(crate) fn push_register_failure(&mut self, registering: Registering, failure: Failure) {
        debug!(%failure, "gateway not reached");
        let gateway = gateway_name(&registering.gateway);
        registering.fail(PushError::GatewayUnreachable { gateway });
    }

    /// Our record with everything we know of our gateways is where callers look.
    pub(crate) fn push_announced(&mut self) {
        for (registration, reply, _) in self.push.unannounced.drain(..) {
            reply.send(Ok(registration));
        }
    }

    fn keep_registration(
        &mut self,
        registering: &Registering,
        handle: PushHandle,
        expires_at: UnixTime,
    ) -> Result<PushRegistration, StoreError> {
        let now = self.now().unix;
        let device = self.identity.device();
        let capability = Capability {
            id: CapabilityId::random(&mut self.rng),
            issuer: Issuer::Device(device),
            service: Service::Push,
            holder: Holder::Certified,
            limits: Limits {
                per_hour: STRANGER_PER_HOUR,
                payload_bytes_max: u32::try_from(SEALED_INVITE_BYTES_MAX).unwrap_or(u32::MAX),
            },
            epoch: self.contacts.presence_key().epoch,
            not_before: now.minus_secs(3_600),
            not_after: now.minus_secs(3_600).plus_secs(CAPABILITY_SECS_MAX),
            extensions: Extensions::none(),
        };
        let registered = Registered {
            gateway: registering.gateway.clone(),
            handle,
            channel: registering.channel.clone(),
            capability: Signed::sign(capability, self.identity.device_key()),
            registered_at: now,
            expires_at,
            dead: None,
        };
        let name = registered.name();
        let bytes = wire::encode(&registered);
        self.store.transaction::<_, StoreError>(|tx| tx.put_push_registration(&name, &bytes))?;
        self.push.registered.retain(|known| known.name() != name);
        self.push.registered.push(registered.clone());
        self.push.stale.remove(&name);
        self.choice_registered(&registered.gateway.device);
        // Soon, for a second gateway may be at hand.
        self.push.renew_at = Some(Instant::now() + SPARE_AFTER);
        if let Some(peer) = address::peer_id(&registered.gateway.device) {
            self.swarm.behaviour_mut().streams.keep(peer, true);
        }
        self.spare_registered(&registered.gateway.device);
        self.publish_soon();
        let secret = registering.secret.clone();
        Ok(PushRegistration { secret, ..self.shown_registration(&registered) })
    }

    fn shown_registration(&self, registered: &Registered) -> PushRegistration {
        let policy_version = self.told_version(&registered.gateway.device);
        PushRegistration { policy_version, ..shown_registration(registered) }
    }

    pub(crate) fn push_list(&self) -> PushList {
        PushList { registrations: self.push.registered.iter().map(|known| self.shown_registration(known)).collect() }
    }

    /// Our gateways, for the sealed part of our entry.
    pub(crate) fn push_addresses(&self) -> Vec<PushAddress> {
        let mut addresses: Vec<PushAddress> = Vec::new();
        for registered in self.push.registered.iter().filter(|known| known.is_live()) {
            if addresses.len() < GATEWAYS_MAX && !addresses.iter().any(|known| known.gateway.device == registered.gateway.device)
            {
                addresses.push(PushAddress {
                    gateway: registered.gateway.clone(),
                    handle: registered.handle.0.to_vec(),
                    capability: wire::encode(&registered.capability),
                });
            }
        }
        addresses
    }

    /// Our gateways, as nodes that may vouch for us.
    pub(crate) fn keepers(&self) -> Vec<Helper> {
        self.push_addresses()
            .into_iter()
            .map(|address| Helper { device: address.gateway.device, addresses: Vec::new() })
            .collect()
    }

    /// Renews registrations; the local push service's endpoints are new after every start.
    pub(crate) fn push_tick(&mut self, now: Now) {
        if self.push.unannounced.iter().any(|(_, _, until)| *until <= now.instant) {
            self.push_announced();
        }
        self.push_tests_tick(now);
        if self.push.renew_at.is_none_or(|at| at > now.instant) || self.is_revoked() {
            return;
        }
        self.register_with_spare();
        let pause = if self.push.stale.is_empty() { RENEW_EVERY } else { RENEW_STALE_EVERY };
        self.push.renew_at = Some(now.instant + pause);
        let is_stale = |known: &Registered| self.push.stale.contains(&known.name());
        let due: Vec<Registered> = self
            .push
            .registered
            .iter()
            .filter(|known| (known.is_live() && known.expires_at.minus_secs(RENEW_BEFORE_SECS) <= now.unix) || is_stale(known))
            .cloned()
            .collect();
        for registered in due {
            self.ask_gateway(Registering::renewal(registered.gateway, registered.channel));
        }
        let live = self.push.registered.iter().filter(|known| known.is_live());
        let gateways: Vec<Helper> = live.map(|known| known.gateway.clone()).collect();
        for gateway in gateways {
            if let Some(target) = self.helper_target(&gateway) {
                self.swarm.behaviour_mut().streams.keep(target.peer, true);
                if !self.swarm.behaviour().streams.is_connected(&target.peer) {
                    self.dial(&target);
                }
            }
        }
    }
}

// Pushing to others.
impl EventLoop {
    /// Hands a sealed invite to the gateways of a device. Says which were asked.
    pub(crate) fn push_invite(
        &mut self,
        call: CallId,
        device: DeviceKey,
        addresses: &[PushAddress],
        sealed: &SealedInvite,
    ) -> Vec<Target> {
        let user = self.dialled_user(call);
        let event = if self.is_video_dial(call) { EventKind::VIDEO_CALL } else { EventKind::VOICE_CALL };
        let hints = PushHints { event, ttl_secs: CALL_TTL_SECS, urgency: Urgency::High };
        let push = Push { user: user.as_ref(), hints, sealed: sealed.as_bytes(), sending: Sending::Call { call, device } };
        addresses.iter().take(GATEWAYS_MAX).filter_map(|address| self.push_through(address, &device, &push)).collect()
    }

    /// Hands something to one gateway of a device. `None` if what the device says of it can't be used.
    fn push_through(&mut self, address: &PushAddress, device: &DeviceKey, push: &Push<'_>) -> Option<Target> {
        let Push { user, hints, sealed, sending } = *push;
        let handle = PushHandle::from_slice(&address.handle)?;
        let capability = wire::decode::<Signed<Capability>>(&address.capability, 768).ok()?;
        let target = self.strange_helper_target(&address.gateway)?;
        let request_hash = PushSend::hash_of(&handle, &hints, sealed);
        // A contact's own leave shows the gateway a pseudonym; the one in the entry may be newer.
        let own = user.and_then(|user| self.contact_capability(user, device, Service::Push));
        let own = own.filter(|(own, _)| own.unverified().epoch >= capability.unverified().epoch);
        let (capability, key) = own.unwrap_or_else(|| (capability, self.identity.device_key().clone()));
        let id = capability.unverified().id;
        let proof = CapabilityProof::sign(id, address.gateway.device, request_hash, self.now().unix, &key);
        let extensions = PushSend::with_languages(Extensions::none(), &self.own_languages());
        let message = PushSend { handle, capability, proof, hints, sealed: sealed.to_vec(), extensions };
        let handed = Handed { sending, push: HeldPush { gateway: target.peer, handle, request_hash } };
        self.request(&target, &message, Purpose::PushSend(handed), GATEWAY_TIMEOUT);
        Some(target)
    }

    pub(crate) fn push_send_answer(&mut self, handed: Handed, frame: &Frame) {
        let Handed { sending, push } = handed;
        let answer = frame.parse::<PushSent>();
        let held = answer.as_ref().ok().and_then(|answer| held_for(&answer.extensions));
        match answer.map(|answer| answer.status) {
            Ok(PushStatus::Accepted { ways }) => {
                debug!(?sending, ?ways, ?held, "gateway took the push");
                match (sending, held) {
                    (Sending::Test { gateway }, _) => self.push_test_answered(gateway, Ok(ways)),
                    (Sending::Call { call, device }, Some(secs)) => self.push_held(call, device, push, secs),
                    _ => {}
                }
            }
            Ok(PushStatus::Refused(reason)) => self.push_not_sent(sending, self_test::refusal(reason)),
            Err(error) => self.push_not_sent(sending, error.to_string()),
        }
    }

    /// Takes back a push whose call is over or answered.
    pub(crate) fn withdraw_push(&mut self, held: HeldPush) {
        let request = PushWithdraw { handle: held.handle, request_hash: held.request_hash, extensions: Extensions::none() };
        self.request(&Target::connected(held.gateway), &request, Purpose::PushWithdraw, GATEWAY_TIMEOUT);
    }

    pub(crate) fn push_send_failure(&mut self, handed: Handed, failure: Failure) {
        self.push_not_sent(handed.sending, failure.to_string());
    }

    /// A message waits in the mailboxes all the same.
    fn push_not_sent(&mut self, sending: Sending, reason: String) {
        debug!(?sending, reason, "gateway took no push");
        match sending {
            Sending::Test { gateway } => self.push_test_answered(gateway, Err(reason)),
            Sending::Call { call, device } => self.push_failed(call, device),
            Sending::Letter { message } => self.push.letters.forget(&message),
        }
    }
}

// Being pushed, sleeping and waking.
impl EventLoop {
    /// A payload on the gateway's stream.
    pub(crate) fn handle_push_deliver(&mut self, payload: &[u8]) -> PushDelivered {
        let status = match self.take_payload(payload, InviteWay::Gateway) {
            Ok(opened) => {
                self.tell_push_received("stream", &opened);
                opened.status
            }
            Err(error) => {
                debug!(error, "push refused");
                DeliveredStatus::Invalid
            }
        };
        PushDelivered { status, extensions: Extensions::none() }
    }

    /// Opens a payload: rings, or takes the message, or looks into the mailboxes.
    ///
    /// # Errors
    /// Why it isn't believed, or not taken.
    fn take_payload(&mut self, payload: &[u8], way: InviteWay) -> Result<Opened, String> {
        let taken = self.take_payload_of(payload, way);
        self.push.language = None;
        taken
    }

    /// In which language the gateway says that what is being taken is told.
    pub(crate) const fn push_language(&self) -> Option<&String> {
        self.push.language.as_ref()
    }

    fn take_payload_of(&mut self, payload: &[u8], way: InviteWay) -> Result<Opened, String> {
        let payload = PushPayload::from_bytes(payload).map_err(|error| error.to_string())?;
        let gateways: Vec<DeviceKey> = self.push.registered.iter().map(|known| known.gateway.device).collect();
        let outer = payload.verify(&gateways).map_err(|error| error.to_string())?;
        let now = self.now().unix;
        if outer.created_at.is_from_the_future(now) {
            return Err("the push is dated in the future".into());
        }
        self.push.language = outer.language();
        if !outer.event.is_call() {
            return self.take_pushed(outer, payload.sealed(), way);
        }
        let sealed = SealedInvite::from_bytes(payload.sealed().to_vec()).map_err(|error| error.to_string())?;
        let rung = if now > outer.expires_at.plus_secs(LATE_SECS) {
            // Held back, or sent a second time: it has nothing to ring for.
            self.ring_too_late(&sealed);
            let refusal = Some("the push is past its time".to_owned());
            let status = InviteStatus::Refused(halloo_protocol::call::Reason::EXPIRED);
            crate::calls::Rung { status, call: None, from: None, refusal, held_secs: None }
        } else {
            let carried_secs = now.secs_since(outer.created_at);
            self.ring(&sealed, crate::calls::Arrival { way, bearer: Some(outer.gateway), carried_secs })
        };
        if let (Some(refusal), InviteWay::Push) = (&rung.refusal, way) {
            return Err(refusal.clone());
        }
        let status = match rung.status {
            InviteStatus::Ringing => DeliveredStatus::Ringing,
            InviteStatus::Duplicate => DeliveredStatus::Duplicate,
            InviteStatus::Busy => DeliveredStatus::Taken,
            InviteStatus::Refused(halloo_protocol::call::Reason::EXPIRED) => DeliveredStatus::Expired,
            InviteStatus::Refused(_) | InviteStatus::NotForMe => return Err(rung.refusal.unwrap_or_else(|| "refused".into())),
        };
        Ok(Opened { status, call: rung.call, message: None, from: rung.from })
    }

    fn tell_push_received(&self, kind: &str, opened: &Opened) {
        let call_id = opened.call.map(|call| call.to_string());
        let message_id = opened.message.map(|message| message.to_string());
        self.events.send(Event::PushReceived { kind: kind.to_owned(), call_id, message_id });
    }

    /// The local push service took a message for this device: wakes the node, as the operating system would.
    pub(crate) fn handle_push_received(&mut self, body: &[u8]) {
        let opened = self.push.keys.as_ref().map(|keys| decrypt(keys, body));
        let payload = match opened {
            Some(Ok(payload)) => payload,
            Some(Err(error)) => return debug!(%error, "push message refused"),
            None => return,
        };
        let outcome = self.wake(Some(&payload));
        let (call_id, message_id) =
            outcome.as_ref().map_or((None, None), |outcome| (outcome.call_id.clone(), outcome.message_id.clone()));
        self.events.send(Event::PushReceived { kind: "webpush".into(), call_id, message_id });
        if let Err(error) = outcome {
            debug!(%error, "push message refused");
        }
    }

    pub(crate) fn handle_suspend(&mut self, options: SuspendOptions, reply: Reply<Suspended, PowerError>) {
        if self.suspended_since.is_none() {
            self.push_announced();
            self.suspended_since = Some(Instant::now());
            info!(clean = options.clean, "suspended");
            self.events.send(Event::Suspended { clean: options.clean });
        }
        let push_registrations =
            u32::try_from(self.push.registered.iter().filter(|known| known.is_live()).count()).unwrap_or(u32::MAX);
        reply.send(Ok(Suspended { suspended: true, clean: options.clean, push_registrations }));
    }

    pub(crate) fn handle_wake(&mut self, payload: Option<Vec<u8>>, reply: Reply<WakeOutcome, PowerError>) {
        reply.send(self.wake(payload.as_deref()));
    }

    /// Wakes the node; `payload` is what the push service delivered, still encrypted or already opened by whoever holds the keys.
    fn wake(&mut self, payload: Option<&[u8]>) -> Result<WakeOutcome, PowerError> {
        let slept = self.suspended_since.take();
        let suspended_ms = slept.map_or(0, |since| crate::diagnosis::millis(since.elapsed()));
        if slept.is_some() {
            info!(suspended_ms, "awake");
            self.events.send(Event::Woken { suspended_ms, by_push: payload.is_some() });
            self.restart_clock_watch();
            self.push_sessions_woken();
            self.reach_woken();
            self.join_network();
            self.publish_soon();
            self.files_woken();
        }
        let mut outcome =
            WakeOutcome { was_suspended: slept.is_some(), suspended_ms, call_id: None, message_id: None, from: None };
        let Some(payload) = payload else { return Ok(outcome) };
        if payload.len() > PAYLOAD_BYTES_MAX {
            return Err(PowerError::PayloadTooLarge { bytes: payload.len(), max: PAYLOAD_BYTES_MAX });
        }
        let opened = self.push.keys.as_ref().and_then(|keys| decrypt(keys, payload).ok());
        let plain = opened.as_deref().unwrap_or(payload);
        if plain.len() > PUSH_PAYLOAD_BYTES_MAX {
            return Err(PowerError::PayloadTooLarge { bytes: plain.len(), max: PUSH_PAYLOAD_BYTES_MAX });
        }
        if let Some(request) = sessions::initiation_in(plain) {
            self.take_initiation(&request, None);
            return Ok(outcome);
        }
        let opened = self.take_payload(plain, InviteWay::Push).map_err(|reason| PowerError::PayloadRefused { reason })?;
        outcome.call_id = opened.call.map(|call| call.to_string());
        outcome.message_id = opened.message.map(|message| message.to_string());
        outcome.from = opened.from;
        Ok(outcome)
    }
}

/// Runs a push service on this machine for the node, outside the runtime that sleeps with it.
pub(crate) async fn local_service(news: tokio::sync::mpsc::Sender<Internal>) -> Option<LocalPushService> {
    let bound = LocalPushService::bind(([127, 0, 0, 1], 0).into()).await;
    let (service, mut bodies) = match bound {
        Ok(bound) => bound,
        Err(error) => {
            debug!(%error, "no local push service");
            return None;
        }
    };
    tokio::spawn(async move {
        while let Some(body) = bodies.recv().await {
            if news.send(Internal::PushReceived(body)).await.is_err() {
                break;
            }
        }
    });
    Some(service)
}

fn shown_registration(registered: &Registered) -> PushRegistration {
    PushRegistration {
        id: registered.id(),
        kind: registered.channel.way().name().to_owned(),
        gateway: gateway_name(&registered.gateway),
        registered_at: Timestamp::from_unix_secs(registered.registered_at.0),
        expires_at: Some(Timestamp::from_unix_secs(registered.expires_at.0)),
        state: if registered.is_live() { ChannelState::Live } else { ChannelState::Dead },
        reason: registered.dead.map(|dead| dead.reason.to_string()),
        secret: None,
        policy_version: None,
    }
}

fn receiver_keys(bytes: &[u8]) -> Option<ReceiverKeys> {
    let (private, auth) = bytes.split_first_chunk::<32>()?;
    ReceiverKeys::from_bytes(private, auth.try_into().ok()?)
}

fn bytes_of<const N: usize>(text: &str, field: &'static str) -> Result<[u8; N], PushError> {
    let decoded = data_encoding::BASE64URL_NOPAD.decode(text.trim_end_matches('=').as_bytes());
    decoded
        .ok()
        .and_then(|bytes| <[u8; N]>::try_from(bytes).ok())
        .ok_or_else(|| PushError::InvalidChannel { field, reason: format!("expected {N} bytes in base64url") })
}

fn helper_of(descriptor: &halloo_protocol::node::Descriptor) -> Helper {
    Helper { device: descriptor.device, addresses: descriptor.addresses.iter().take(2).cloned().collect() }
}

fn gateway_name(gateway: &Helper) -> String {
    address::peer_id(&gateway.device).map_or_else(|| gateway.device.to_string(), |peer| peer.to_string())
}
