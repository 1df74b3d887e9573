//! Handing pushes to another gateway of the device, and taking those that are handed on. What came from another gateway goes on to none.

use std::time::Duration;

use halloo_protocol::identity::VerifiedChain;
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

/// A push on its way to another gateway.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Handing {
    number: u64,
}

impl EventLoop {
    /// Hands a push to the device's other gateways if no channel of it works here now. It stays here too: the device may come, and rings once.
    pub(super) fn hand_on(&mut self, number: u64, registration: &Registration, peer: PeerId, push: &PushSend) {
        let has_service = registration.request.channels.iter().any(|channel| matches!(channel, PushChannel::WebPush { .. }));
        let device = registration.device();
        let is_connected = address::peer_id(&device).is_some_and(|peer| self.peers.get(&peer).is_some());
        if has_service || is_connected {
            return;
        }
        let from = self.identity.device();
        let caller = self.peers.get(&peer).and_then(crate::network::Peer::shown_chain).cloned();
        let is_for_anybody = push.capability.unverified().holder == halloo_protocol::capability::Holder::Certified;
        let request_hash = push.request_hash();
        for other in other_gateways(&registration.request).into_iter().filter(|other| other.device != from) {
            let Some(target) = self.strange_helper_target(&other) else { continue };
            let at = self.now().unix;
            let word = HandOn { from, to: other.device, device, request_hash, at, extensions: Extensions::none() };
            let message = PushHandOn {
                word: Signed::sign(word, self.identity.device_key()),
                push: push.clone(),
                caller: caller.clone().filter(|_| is_for_anybody),
                extensions: Extensions::none(),
            };
            debug!("no channel works: the push is handed to another gateway");
            self.request(&target, &message, Purpose::PushHandOn(Handing { number }), HAND_ON_TIMEOUT);
        }
    }

    pub(crate) fn push_hand_on_answer(&mut self, handing: Handing, frame: &Frame) {
        match frame.parse::<PushHandedOn>().map(|answer| answer.result) {
            Ok(Ok(ways)) => debug!(number = handing.number, ?ways, "the other gateway has taken the push"),
            Ok(Err(reason)) => debug!(number = handing.number, %reason, "the other gateway refused the push"),
            Err(_) => self.counters.malformed += 1,
        }
    }

    pub(crate) fn push_hand_on_failure(&mut self, handing: Handing, failure: Failure) {
        debug!(number = handing.number, %failure, "the other gateway isn't reached");
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
        decided.map_err(|refusal| {
            debug!(%refusal, "push of another gateway refused");
            refusal.reason()
        })?;
        let registration = registration.ok_or(PushReason::UNKNOWN_HANDLE)?;
        self.keep_and_deliver(&registration, &request.push).map(|(_, ways)| ways)
    }
}
