//! Invites by way of the callee's relay: asked for by callers, taken by devices that hold a reservation.

use std::time::Duration;

use halloo_protocol::call::{
    CallId, HandOverAnswer, HandOverRules, HandOverStatus, HandedOverAnswer, InviteHandOver, InviteHandedOver, InviteStatus,
    InviteWay, LegState, Reason, SEALED_INVITE_BYTES_MAX, open_word,
};
use halloo_protocol::capability::{
    CAPABILITY_SECS_MAX, Capability, CapabilityId, CapabilityProof, Holder, Issuer, Limits, Service,
};
use halloo_protocol::directory::Helper;
use halloo_protocol::identity::UserId;
use halloo_protocol::key::{DeviceKey, SecretKey};
use halloo_protocol::time::UnixTime;
use halloo_protocol::wire::{Extensions, Frame, Signed};
use libp2p::PeerId;
use tracing::{debug, info, warn};

use super::{Arrival, InviteTarget};
use crate::address;
use crate::event_loop::EventLoop;
use crate::handle::calls::CallStageKind;
use crate::network::{Purpose, Target};
use crate::rpc::Failure;
use crate::store::StoreError;

/// How long a relay may take to answer: it may have to be dialled, and waits for the device 5 s.
const RELAY_TIMEOUT: Duration = Duration::from_secs(8);

/// Invites an hour that a certified stranger may have handed over by the capability in the sealed part. The relay's own rate is lower.
const STRANGER_PER_HOUR: u32 = 60;

/// When the capability is made anew: long before it ends, since entries with it are kept for a month.
const RENEW_AFTER_SECS: u64 = CAPABILITY_SECS_MAX / 2;

const CAPABILITY: &str = "hand-over capability";

/// Leave to have invites handed over.
#[derive(Clone, Debug)]
pub(super) struct Leave {
    capability: Signed<Capability>,
    /// Signs what is asked: the key by which a contact knows us, or this device's.
    key: SecretKey,
}

/// A leg's way through the callee's relays.
#[derive(Debug, Default)]
pub(super) struct RelayWay {
    /// Relays not asked yet.
    pub(super) relays: Vec<Helper>,
    /// Leave to ask them.
    pub(super) leave: Option<Leave>,
    /// Whether one is being asked.
    pub(super) is_asking: bool,
}

impl RelayWay {
    pub(super) const fn new(relays: Vec<Helper>, leave: Option<Leave>) -> Self {
        Self { relays, leave, is_asking: false }
    }
}

// The caller's side.
impl EventLoop {
    /// Leave to have invites handed over to a device: what its user has given us as a contact, else what it gives to whoever may call.
    pub(super) fn hand_over_leave(
        &self,
        user: &UserId,
        device: &DeviceKey,
        of_entry: Option<Signed<Capability>>,
    ) -> Option<Leave> {
        if let Some((capability, key)) = self.contact_capability(user, device, Service::InviteHandOver) {
            return Some(Leave { capability, key });
        }
        of_entry.map(|capability| Leave { capability, key: self.identity.device_key().clone() })
    }

    /// Has the invite handed over by a relay of the device, unless there is a connection to the device itself, on which it is heard, or a relay is being
    /// asked.
    pub(super) fn hand_over(&mut self, call: CallId, device: DeviceKey) {
        if self.is_leg_connected(call, &device) {
            return;
        }
        while let Some((relay, leave)) = self.next_relay(call, device) {
            let Some(target) = self.strange_helper_target(&relay) else { continue };
            if target.peer == *self.swarm.local_peer_id() {
                continue;
            }
            let now = self.now().unix;
            let Some(leg) = self.calls.outgoing.get_mut(&call).and_then(|outgoing| outgoing.legs.get_mut(&device)) else {
                return;
            };
            let Some(sealed) = leg.sealed.clone() else { return };
            let asker = InviteTarget { call, device, leg: leg.number };
            leg.relay_way.is_asking = true;
            leg.bearers.push(target.clone());
            let asked = format!("asked {} to hand the invite over", target.peer);
            let hash = InviteHandOver::hash_of(&device, &sealed);
            let id = leave.capability.unverified().id;
            let proof = CapabilityProof::sign(id, relay.device, hash, now, &leave.key);
            let message =
                InviteHandOver { target: device, capability: leave.capability, proof, sealed, extensions: Extensions::none() };
            self.note_stage(call, CallStageKind::Relay, Some(&device), asked);
            return self.request(&target, &message, Purpose::HandOverAsk(asker), RELAY_TIMEOUT);
        }
    }

    /// The relay to ask: one that is connected, or else the first.
    fn next_relay(&mut self, call: CallId, device: DeviceKey) -> Option<(Helper, Leave)> {
        let streams = &self.swarm.behaviour().streams;
        let outgoing = self.calls.outgoing.get_mut(&call)?;
        if outgoing.machine.leg_state(&device) != Some(LegState::Inviting) {
            return None;
        }
        let leg = outgoing.legs.get_mut(&device).filter(|leg| leg.sealed.is_some())?;
        let way = &mut leg.relay_way;
        if way.is_asking || way.relays.is_empty() {
            return None;
        }
        let leave = way.leave.clone()?;
        let is_connected = |relay: &Helper| address::peer_id(&relay.device).is_some_and(|peer| streams.is_connected(&peer));
        let index = way.relays.iter().position(is_connected).unwrap_or(0);
        Some((way.relays.remove(index), leave))
    }

    pub(crate) fn hand_over_answer(&mut self, target: InviteTarget, frame: &Frame) {
        let InviteTarget { call, device, .. } = target;
        let status = match frame.parse::<HandOverAnswer>() {
            Ok(answer) => answer.status,
            Err(error) => {
                debug!(%error, "relay's answer refused");
                self.counters.malformed += 1;
                return self.hand_over_failed(target);
            }
        };
        let word = match status {
            HandOverStatus::HandedOver { status, word } => {
                debug!(call = %call.short(), ?status, "invite handed over by the relay");
                self.note_stage(call, CallStageKind::Relay, Some(&device), "handed over");
                word
            }
            HandOverStatus::Refused(reason) => {
                debug!(call = %call.short(), %reason, "invite not handed over by the relay");
                self.note_stage(call, CallStageKind::Relay, Some(&device), format!("not handed over: {reason}"));
                return self.hand_over_failed(target);
            }
        };
        // What the relay says proves nothing: what the device has signed does.
        let me = self.identity.device();
        let Some(signal) = open_word(&word, &device, &me).filter(|signal| signal.signal().call == call) else {
            return self.hand_over_failed(target);
        };
        if let Some(leg) = self.invited_leg(target) {
            leg.relay_way.is_asking = false;
            leg.rang_on_stream = true;
        }
        let Some(outgoing) = self.calls.outgoing.get_mut(&call) else { return };
        info!(call = %call.short(), "taken from its relay");
        outgoing.machine.handle_signal(&signal, std::time::Instant::now());
        self.drive_outgoing(call);
    }

    pub(crate) fn hand_over_failure(&mut self, target: InviteTarget, failure: Failure) {
        debug!(call = %target.call.short(), %failure, "relay not asked to hand the invite over");
        self.note_stage(target.call, CallStageKind::Relay, Some(&target.device), format!("not answered: {failure}"));
        self.hand_over_failed(target);
    }

    /// The next relay, or this way is at its end.
    fn hand_over_failed(&mut self, target: InviteTarget) {
        let InviteTarget { call, device, .. } = target;
        let Some(leg) = self.invited_leg(target) else { return };
        leg.relay_way.is_asking = false;
        self.hand_over(call, device);
        self.check_unreachable(call, device);
    }
}

// The device's side.
impl EventLoop {
    /// Our relay hands over an invite. From others it is no hand-over: they can send what they have as their own.
    pub(crate) fn handle_handed_over(&mut self, peer: PeerId, message: &InviteHandedOver) -> HandedOverAnswer {
        if !self.reach.relays().any(|relay| *relay == peer) {
            let status = InviteStatus::Refused(Reason::NOT_ALLOWED);
            return HandedOverAnswer { status, word: Vec::new(), extensions: Extensions::none() };
        }
        let bearer = address::device_key(&peer);
        let rung = self.ring(&message.sealed, Arrival { way: InviteWay::Relay, bearer, carried_secs: 0 });
        let incoming = rung.call.and_then(|call| self.calls.incoming.get_mut(&call));
        let word = incoming.and_then(|incoming| incoming.word.clone()).unwrap_or_default();
        HandedOverAnswer { status: rung.status, word, extensions: Extensions::none() }
    }

    /// Capabilities of former contacts are void: our relays are told.
    pub(crate) fn hand_over_epoch_changed(&mut self) {
        let relays: Vec<PeerId> = self.reach.relays().copied().collect();
        for relay in relays {
            self.tell_hand_over_rules(relay);
        }
    }

    /// Says to a relay that has given us a reservation which capabilities count: those of the present epoch.
    pub(crate) fn tell_hand_over_rules(&mut self, relay: PeerId) {
        let epoch = self.contacts.presence_secret().epoch();
        let rules = HandOverRules { epoch, revoked: Vec::new(), extensions: Extensions::none() };
        self.notify(&Target::connected(relay), &rules);
    }

    /// The capability by which certified callers may have invites handed over by our relays, for the sealed part of our entry. The same for as long
    /// as it can be, or else every publication would be news. `None` without a relay.
    pub(crate) fn hand_over_capability(&mut self, now: UnixTime) -> Option<Signed<Capability>> {
        self.reach.relays().next()?;
        let me = self.identity.device();
        let epoch = self.contacts.presence_secret().epoch();
        let is_good = |capability: &Signed<Capability>| {
            let capability = capability.unverified();
            let age = now.secs_since(capability.not_before);
            let is_ours = capability.issuer == Issuer::Device(me) && capability.epoch == epoch;
            is_ours && !capability.not_before.is_from_the_future(now) && age < RENEW_AFTER_SECS
        };
        if self.calls.capability.is_none() {
            let stored = self.store.read::<_, StoreError>(|view| view.setting_value(CAPABILITY));
            self.calls.capability = stored.unwrap_or_else(|error| {
                warn!(%error, "capability not read");
                None
            });
        }
        if let Some(known) = self.calls.capability.as_ref().filter(|known| is_good(known)) {
            return Some(known.clone());
        }
        let not_before = now.minus_secs(3_600);
        let capability = Capability {
            id: CapabilityId::random(&mut self.rng),
            issuer: Issuer::Device(me),
            service: Service::InviteHandOver,
            holder: Holder::Certified,
            limits: Limits {
                per_hour: STRANGER_PER_HOUR,
                payload_bytes_max: u32::try_from(SEALED_INVITE_BYTES_MAX).unwrap_or(u32::MAX),
            },
            epoch,
            not_before,
            not_after: not_before.plus_secs(CAPABILITY_SECS_MAX),
            extensions: Extensions::none(),
        };
        let signed = Signed::sign(capability, self.identity.device_key());
        if let Err(error) = self.store.transaction::<_, StoreError>(|tx| tx.put_setting_value(CAPABILITY, &signed)) {
            warn!(%error, "capability not kept: the next start makes another");
        }
        self.calls.capability = Some(signed.clone());
        Some(signed)
    }
}
