//! Handing pushes to another gateway of the device, and taking those that are handed on. What came from another gateway goes on to none.

use std::time::Duration;

use halloo_protocol::capability::Holder;
use halloo_protocol::directory::Helper;
use halloo_protocol::identity::{Chain, VerifiedChain};
use halloo_protocol::key::DeviceKey;
use halloo_protocol::push::hand_on::{HandOn, PushHandOn, PushHandedOn, decide_hand_on, other_gateways};
use halloo_protocol::push::registration::Registration;
use halloo_protocol::push::{PushChannel, PushReason, PushSend, PushWay};
use halloo_protocol::wire::{Extensions, Frame, Signed};
use libp2p::PeerId;
use tracing::debug;

use crate::address;
use crate::event_loop::EventLoop;
use crate::network::Purpose;
use crate::rpc::Failure;

/// How long another gateway may take to accept a push.
const HAND_ON_TIMEOUT: Duration = Duration::from_secs(8);

/// Pushes that may still have to be handed on; further ones are handed on at once or not at all.
const HELD_MAX: usize = 1_024;

/// A caller's push, as long as it may have to be handed on.
#[derive(Clone, Debug)]
pub(super) struct Held {
    push: PushSend,
    caller: Option<Chain>,
    device: DeviceKey,
    others: Vec<Helper>,
}

/// A push on its way to another gateway.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Handing {
    number: u64,
}

impl EventLoop {
    /// Hands a push to the device's other gateways if no channel of it works here: at once if there is none, and when one has failed. It stays here too: the
    /// device may come, and rings once.
    ///
    /// One that is held back isn't handed on before its turn.
    pub(super) fn hand_on(&mut self, number: u64, registration: &Registration, peer: PeerId, push: &PushSend, is_held: bool) {
        let me = self.identity.device();
        // Gateways of the same database have it already.
        let group = self.gateway.as_ref().and_then(|gateway| gateway.records.shared()).map(|shared| shared.others());
        let is_here = |other: &Helper| group.is_some_and(|group| group.iter().any(|known| known.device == other.device));
        let others = other_gateways(&registration.request).into_iter();
        let others: Vec<Helper> = others.filter(|other| other.device != me && !is_here(other)).collect();
        if others.is_empty() {
            return;
        }
        let device = registration.device();
        let is_for_anybody = push.capability.unverified().holder == Holder::Certified;
        let caller = self.peers.get(&peer).and_then(crate::network::Peer::shown_chain).cloned().filter(|_| is_for_anybody);
        let held = Held { push: push.clone(), caller, device, others };
        if !is_held && !self.has_channel_for(registration) {
            return self.hand_on_now(number, held);
        }
        if let Some(gateway) = self.gateway.as_mut().filter(|gateway| gateway.held.len() < HELD_MAX) {
            gateway.held.insert(number, held);
        }
    }

    /// Whether there is a channel by which a push may come to the device now.
    pub(super) fn has_channel_for(&self, registration: &Registration) -> bool {
        let has_service = registration.request.channels.iter().any(|channel| *channel != PushChannel::Stream);
        has_service || address::peer_id(&registration.device()).is_some_and(|peer| self.peers.get(&peer).is_some())
    }

    /// A channel has failed: the other gateways may do better.
    pub(super) fn hand_on_failed(&mut self, number: u64) {
        if let Some(held) = self.gateway.as_mut().and_then(|gateway| gateway.held.remove(&number)) {
            self.hand_on_now(number, held);
        }
    }

    fn hand_on_now(&mut self, number: u64, held: Held) {
        let (from, at) = (self.identity.device(), self.now().unix);
        let request_hash = held.push.request_hash();
        for other in held.others {
            let Some(target) = self.strange_helper_target(&other) else { continue };
            let word = HandOn { from, to: other.device, device: held.device, request_hash, at, extensions: Extensions::none() };
            let message = PushHandOn {
                word: Signed::sign(word, self.identity.device_key()),
                push: held.push.clone(),
                caller: held.caller.clone(),
                extensions: Extensions::none(),
            };
            debug!("no channel works: the push is handed to another gateway");
            if let Some(gateway) = &mut self.gateway {
                gateway.senders.note_asked(number);
            }
            self.request(&target, &message, Purpose::PushHandOn(Handing { number }), HAND_ON_TIMEOUT);
        }
    }

    pub(crate) fn push_hand_on_answer(&mut self, handing: Handing, frame: &Frame) {
        let answer = frame.parse::<PushHandedOn>().map(|answer| answer.result);
        self.note_hand_on_answer(handing.number, matches!(answer, Ok(Ok(_))));
        match answer {
            Ok(Ok(ways)) => debug!(number = handing.number, ?ways, "the other gateway has taken the push"),
            Ok(Err(reason)) => debug!(number = handing.number, %reason, "the other gateway refused the push"),
            Err(_) => self.counters.malformed += 1,
        }
    }

    pub(crate) fn push_hand_on_failure(&mut self, handing: Handing, failure: Failure) {
        debug!(number = handing.number, %failure, "the other gateway isn't reached");
        self.note_hand_on_answer(handing.number, false);
    }

    /// Another gateway of a device hands a push on.
    pub(crate) fn handle_push_hand_on(&mut self, peer: PeerId, request: &PushHandOn) -> PushHandedOn {
        let result = self.accept_handed_on(peer, request);
        PushHandedOn { result, extensions: Extensions::none() }
    }

    fn accept_handed_on(&mut self, peer: PeerId, request: &PushHandOn) -> Result<Vec<PushWay>, PushReason> {
        let now = self.now();
        let me = self.identity.device();
        let sender = self.peers.get(&peer).map(|known| known.device).ok_or(PushReason::NOT_CERTIFIED)?;
        let registration = self.registration_of(&request.word.unverified().device);
        let caller: Option<VerifiedChain> = request.caller.as_ref().and_then(|chain| chain.verify(now.unix, &self.trust).ok());
        let gateway = self.gateway.as_mut().ok_or(PushReason::NOT_SERVED)?;
        let decided = decide_hand_on(request, registration.as_ref(), &sender, caller.as_ref(), &me, &mut gateway.rates, now);
        let grant = decided.map_err(|refusal| {
            debug!(%refusal, "push of another gateway refused");
            refusal.reason()
        })?;
        let registration = registration.ok_or(PushReason::UNKNOWN_HANDLE)?;
        let held_secs = self.hold_back(&registration, request.push.hints.event, grant.holder);
        self.keep_and_deliver(registration, &request.push, held_secs, None)
    }
}
