//! Registering at gateways, renewing it, and what others are told of it.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use halloo_protocol::call::SEALED_INVITE_BYTES_MAX;
use halloo_protocol::capability::{CAPABILITY_SECS_MAX, Capability, CapabilityId, Holder, Issuer, Limits, Service};
use halloo_protocol::directory::{Helper, PushAddress};
use halloo_protocol::key::DeviceKey;
use halloo_protocol::node::Roles;
use halloo_protocol::push::group::group_of;
use halloo_protocol::push::{CHANNELS_MAX, PushChannel as WireChannel, PushHandle, PushRegister, PushRegistered, RegisterStatus};
use halloo_protocol::time::{Now, UnixTime};
use halloo_protocol::wire::{self, Extensions, Frame, Signed};
use libp2p::{Multiaddr, PeerId};
use tracing::{debug, warn};

use super::{
    GATEWAY_TIMEOUT, GATEWAYS_MAX, LOCAL_ENDPOINT, RENEW_STALE_EVERY, Registered, Registering, channels, gateway_name, helper_of,
    registration_name,
};
use crate::address;
use crate::event_loop::EventLoop;
use crate::handle::Reply;
use crate::handle::push::{ChannelState, PushChannel, PushError, PushList, PushRegistration, PushRemoved, PushTarget};
use crate::network::Purpose;
use crate::roles::gateway::webpush::{ReceiverKeys, Subscription};
use crate::rpc::Failure;
use crate::store::StoreError;
use crate::streams::Keeper;
use crate::timestamp::Timestamp;

/// When a registration is renewed before it ends.
const RENEW_BEFORE_SECS: u64 = 7 * 86_400;

/// How often renewal is looked at.
const RENEW_EVERY: Duration = Duration::from_secs(600);

/// When it is looked at after a registration.
const SPARE_AFTER: Duration = Duration::from_secs(2);

/// How long the answer to a registration waits for its publication.
const ANNOUNCE_MAX: Duration = Duration::from_secs(5);

/// Registrations that wait for their publication; further ones are answered at once.
const UNANNOUNCED_MAX: usize = 16;

/// Pushes an hour a certified stranger may send by the capability in the sealed part.
const STRANGER_PER_HOUR: u32 = 60;

const RECEIVER_KEYS: &str = "push receiver keys";

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
    pub(super) fn renew_local_endpoints(&mut self) {
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
    pub(super) fn choose_gateway(&self, named: Option<&str>) -> Result<Helper, PushError> {
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
        let known = self.directory.machine.table().filter(|descriptor| descriptor.roles.contains(Roles::GATEWAY));
        connected.chain(known.cloned()).next().map(|descriptor| helper_of(&descriptor)).ok_or(PushError::NoGateway)
    }

    fn gateway_of_peer(&self, peer: &PeerId) -> Option<Helper> {
        if let Some(known) = self.peers.get(peer) {
            return Some(
                known.descriptor.as_ref().map_or_else(|| Helper { device: known.device, addresses: Vec::new() }, helper_of),
            );
        }
        let device = address::device_key(peer)?;
        let known = self.directory.machine.table().find(|descriptor| descriptor.device == device)?;
        Some(helper_of(known))
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

    pub(super) fn ask_gateway(&mut self, registering: Registering) {
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
            Ok(answer @ PushRegistered { status: RegisterStatus::Registered { .. }, .. }) => {
                let group = group_of(&answer);
                let RegisterStatus::Registered { handle, expires_at, time, .. } = answer.status else { return };
                if time.verify(&registering.gateway.device.0).is_ok_and(|time| time.gateway == registering.gateway.device) {
                    let raw = self.raw_unix();
                    let before = self.clock.offset_secs();
                    self.clock.observe(registering.gateway.device, time.unverified().at, raw, true);
                    self.clock_changed(before);
                }
                let gateway = registering.gateway.device;
                self.note_group(gateway, &group);
                if self.is_anothers_handle(&gateway, &handle) {
                    Err(refused("it answers with another gateway's handle, and they don't name each other".to_owned()))
                } else {
                    let kept = self.keep_registration(&registering, handle, expires_at);
                    self.register_with_group(&gateway, &handle, &group);
                    kept.map_err(|error| refused(error.to_string()))
                }
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
            self.push.kept.insert(peer);
            self.swarm.behaviour_mut().streams.keep(peer, Keeper::Push, true);
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
        self.push_receipts_tick(now);
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
        let wanted: HashSet<PeerId> = gateways.iter().filter_map(|gateway| address::peer_id(&gateway.device)).collect();
        for gone in self.push.kept.difference(&wanted) {
            self.swarm.behaviour_mut().streams.keep(*gone, Keeper::Push, false);
        }
        self.push.kept = wanted;
        for gateway in gateways {
            if let Some(target) = self.helper_target(&gateway) {
                self.swarm.behaviour_mut().streams.keep(target.peer, Keeper::Push, true);
                if !self.swarm.behaviour().streams.is_connected(&target.peer) {
                    self.dial(&target);
                }
            }
        }
    }
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
