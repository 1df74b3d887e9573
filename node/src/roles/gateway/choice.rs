//! Which of a user's devices are woken first. A registered device tells the user's policy and what all devices have reported, without names; the
//! gateway decides by the same function as the devices do, and holds back pushes for devices whose turn comes later.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use bincode::{Decode, Encode};
use halloo_protocol::choice::{
    CallerRef, Candidate, ChoiceStatus, Event, Inputs, OwnReport, Policy, Presence, PushChoice, PushChosen, PushWithdraw,
    PushWithdrawn, Reach, Reports, decide,
};
use halloo_protocol::event::EventKind;
use halloo_protocol::identity::VerifiedChain;
use halloo_protocol::key::{DeviceKey, PublicKey};
use halloo_protocol::push::PushReason;
use halloo_protocol::push::registration::Registration;
use halloo_protocol::rate::{Rate, RateLimiter};
use halloo_protocol::time::UnixTime;
use halloo_protocol::wire::{self, Extensions};
use libp2p::PeerId;
use tracing::{debug, warn};

use crate::address;
use crate::event_loop::EventLoop;

/// How often one user's devices may tell: each costs a commit. Sixteen devices that repeat what they say every five minutes stay below it.
const CHOICE_RATE: Rate = Rate { per_hour: 600, burst: 60 };

/// Users whose rates are remembered.
const RATES_MAX: usize = 65_536;

/// Pushes held back that their senders may take back; of further ones it is forgotten who sent them.
const HELD_MAX: usize = 65_536;

/// Largest stored choice.
const STORED_BYTES_MAX: usize = 64 * 1024;

/// What a user's devices have told.
#[derive(Clone, Debug, Default, Encode, Decode)]
struct Known {
    version: u64,
    policy: Option<Policy>,
    reports: Reports,
    devices: Vec<DeviceKey>,
    presence: Option<Presence>,
    told_at: UnixTime,
}

/// A push that waits for its turn.
#[derive(Clone, Copy, Debug)]
struct Held {
    peer: PeerId,
    number: u64,
    until: Instant,
}

/// The role's part on choosing.
#[derive(Debug)]
pub(super) struct Chooser {
    rates: RateLimiter<PublicKey>,
    held: HashMap<[u8; 32], Held>,
}

impl Default for Chooser {
    fn default() -> Self {
        Self { rates: RateLimiter::new(RATES_MAX), held: HashMap::new() }
    }
}

impl Chooser {
    /// Forgets who sent what has gone out.
    pub(super) fn tidy(&mut self, now: Instant) {
        self.held.retain(|_, held| held.until > now);
    }
}

impl EventLoop {
    /// A device tells by what to decide.
    pub(crate) fn handle_push_choice(&mut self, chain: Option<&VerifiedChain>, choice: PushChoice) -> PushChosen {
        let status = match self.keep_choice(chain, choice) {
            Ok(version) => ChoiceStatus::Kept { version },
            Err(reason) => ChoiceStatus::Refused(reason),
        };
        PushChosen { status, extensions: Extensions::none() }
    }

    fn keep_choice(&mut self, chain: Option<&VerifiedChain>, choice: PushChoice) -> Result<u64, PushReason> {
        let now = self.now();
        let gateway = self.gateway.as_mut().ok_or(PushReason::NOT_SERVED)?;
        let chain = chain.ok_or(PushReason::NOT_CERTIFIED)?;
        let identity = chain.user.identity;
        gateway.chooser.rates.take(&identity.0, CHOICE_RATE, now.instant).map_err(|_| PushReason::RATE)?;
        // Any device of a user may tell who has one registered here: what is registered is counted and ends, so this table has no more rows than that one.
        let is_own = |known: &Registration| known.rules.identity == identity;
        let mut own = choice.devices.iter().chain(std::iter::once(&chain.device));
        if !own.any(|device| self.registration_of(device).is_some_and(|known| is_own(&known))) {
            return Err(PushReason::UNKNOWN_HANDLE);
        }
        let named = choice.devices.iter().chain(choice.reports.iter().map(|report| &report.device));
        let is_foreign = |device: &DeviceKey| self.registration_of(device).is_some_and(|known| !is_own(&known));
        if named.into_iter().any(is_foreign) {
            return Err(PushReason::INVALID);
        }
        let mut known = self.known_choice(&identity.0).unwrap_or_default();
        if choice.version >= known.version {
            (known.version, known.policy) = (choice.version, choice.policy);
            known.devices = choice.devices;
            known.presence = choice.presence;
            let devices = known.devices.clone();
            known.reports.retain(|device| devices.contains(device));
        }
        for OwnReport { device, report } in choice.reports {
            if known.devices.contains(&device) {
                known.reports.merge(device, report);
            }
        }
        known.told_at = now.unix;
        let bytes = wire::encode(&known);
        let gateway = self.gateway.as_mut().ok_or(PushReason::NOT_SERVED)?;
        gateway.records.put_choice(&identity.0, &bytes).map_err(|error| {
            warn!(%error, "policy not kept");
            PushReason::TEMPORARY
        })?;
        Ok(known.version)
    }

    fn known_choice(&self, identity: &PublicKey) -> Option<Known> {
        let stored = self.gateway.as_ref()?.records.choice(identity);
        let bytes = stored.inspect_err(|error| warn!(%error, "policy not read")).ok()??;
        wire::decode(&bytes, STORED_BYTES_MAX).ok()
    }

    /// How long a push waits for its turn, in seconds: 0 unless the policy of the device's user says otherwise.
    pub(super) fn hold_back(&self, registration: &Registration, event: EventKind, holder: PublicKey) -> u16 {
        let identity = registration.rules.identity;
        // Of a mail the device that watches the account decides, and word of other things is for every device.
        let has_turns = event.is_call() || matches!(event, EventKind::MESSAGE | EventKind::FILE | EventKind::VOICEMAIL);
        if !has_turns {
            return 0;
        }
        let Some(known) = self.known_choice(&identity.0) else { return 0 };
        let Some(policy) = &known.policy else { return 0 };
        let device = registration.device();
        let candidates = known.devices.iter().map(|device| self.candidate(*device, &known.reports)).collect();
        let event = Event { kind: event, callers: vec![CallerRef::Holder(holder)], format: None };
        let inputs = Inputs { event, at: self.now().unix, presence: known.presence, candidates };
        let decision = decide(&inputs, Some(policy));
        // A device that nobody has told of is woken at once.
        let (after_secs, words) = decision.turn_of(&device).map_or((0, ""), |(after, choice)| (after, choice.words.as_str()));
        debug!(after_secs, words, "device choice");
        after_secs
    }

    fn candidate(&self, device: DeviceKey, reports: &Reports) -> Candidate {
        let is_connected = address::peer_id(&device).is_some_and(|peer| self.peers.get(&peer).is_some());
        let reach = match is_connected {
            true => Reach::Connected,
            false if self.registration_of(&device).is_some() => Reach::Wakeable,
            false => Reach::Unknown,
        };
        Candidate { device, name: None, kind: None, report: reports.get(&device).cloned(), reach }
    }

    /// Notes who may take a push back while it is held.
    pub(super) fn note_held(&mut self, request_hash: [u8; 32], peer: PeerId, number: u64, secs: u16) {
        let Some(gateway) = &mut self.gateway else { return };
        if gateway.chooser.held.len() < HELD_MAX {
            let until = Instant::now() + Duration::from_secs(u64::from(secs));
            gateway.chooser.held.insert(request_hash, Held { peer, number, until });
        }
    }

    /// The caller takes a push back: somebody has answered, or nobody waits any more.
    pub(crate) fn handle_push_withdraw(&mut self, peer: PeerId, request: &PushWithdraw) -> PushWithdrawn {
        let now = Instant::now();
        let held = self.gateway.as_mut().and_then(|gateway| {
            let held = gateway.chooser.held.get(&request.request_hash).copied()?;
            if held.peer != peer || held.until <= now {
                return None;
            }
            gateway.chooser.held.remove(&request.request_hash)
        });
        if let Some(held) = held {
            self.forget_pushes(&[held.number], None);
        }
        PushWithdrawn { was_held: held.is_some(), extensions: Extensions::none() }
    }

    /// A registration of a user has ended. If it was the last one, what their devices told ends with it.
    pub(super) fn purge_choice(&mut self, identity: &PublicKey) {
        let Some(known) = self.known_choice(identity) else { return };
        let is_theirs = |registration: Registration| registration.rules.identity.0 == *identity;
        let is_last = !known.devices.iter().any(|device| self.registration_of(device).is_some_and(is_theirs));
        let Some(gateway) = self.gateway.as_mut().filter(|_| is_last) else { return };
        if let Err(error) = gateway.records.remove_choice(identity) {
            warn!(%error, "a policy was not removed");
        }
    }
}
