//! Handing pushes to the gateways of others' devices.

use halloo_protocol::call::{CallId, SealedInvite};
use halloo_protocol::capability::{Capability, CapabilityProof, Service};
use halloo_protocol::choice::{PushWithdraw, held_for};
use halloo_protocol::directory::PushAddress;
use halloo_protocol::event::EventKind;
use halloo_protocol::key::DeviceKey;
use halloo_protocol::push::{PushHandle, PushHints, PushSend, PushSent, PushStatus, Urgency};
use halloo_protocol::wire::{self, Extensions, Frame, Signed};
use tracing::debug;

use super::{GATEWAY_TIMEOUT, GATEWAYS_MAX, Handed, HeldPush, Push, Sending, self_test};
use crate::event_loop::EventLoop;
use crate::network::{Purpose, Target};
use crate::rpc::Failure;

/// How long a push for a call is worth delivering.
const CALL_TTL_SECS: u32 = 60;

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
    pub(super) fn push_through(&mut self, address: &PushAddress, device: &DeviceKey, push: &Push<'_>) -> Option<Target> {
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
        self.note_handed(*device, address.gateway.device, &handed, sealed);
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
                self.note_push_accepted(&push.request_hash, held);
                match (sending, held) {
                    (Sending::Test { gateway }, _) => self.push_test_answered(gateway, Ok(ways)),
                    (Sending::Call { call, device }, Some(secs)) => self.push_held(call, device, push, secs),
                    (Sending::Letter { message }, Some(secs)) => self.message_push_held(message, push, secs),
                    _ => {}
                }
            }
            Ok(PushStatus::Refused(reason)) => self.push_not_sent(sending, self_test::refusal(reason)),
            Err(error) => self.push_not_sent(sending, error.to_string()),
        }
    }

    /// Takes back a push whose call is over or answered.
    pub(crate) fn withdraw_push(&mut self, held: HeldPush) {
        self.note_push_withdrawn(&held.request_hash);
        let request = PushWithdraw { handle: held.handle, request_hash: held.request_hash, extensions: Extensions::none() };
        self.request(&Target::connected(held.gateway), &request, Purpose::PushWithdraw, GATEWAY_TIMEOUT);
    }

    pub(crate) fn push_send_failure(&mut self, handed: Handed, failure: Failure) {
        self.push_not_sent(handed.sending, failure.to_string());
    }

    /// A message waits in the mailboxes all the same.
    pub(super) fn push_not_sent(&mut self, sending: Sending, reason: String) {
        debug!(?sending, reason, "gateway took no push");
        match sending {
            Sending::Test { gateway } => self.push_test_answered(gateway, Err(reason)),
            Sending::Call { call, device } => self.push_failed(call, device),
            Sending::Letter { message } => self.push.letters.forget(&message),
        }
    }
}
