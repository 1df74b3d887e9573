//! Taking pushes, falling asleep and waking.

use std::time::Instant;

use halloo_protocol::call::{InviteStatus, InviteWay, SealedInvite};
use halloo_protocol::key::DeviceKey;
use halloo_protocol::push::{DeliveredStatus, OuterPayload, PUSH_PAYLOAD_BYTES_MAX, PushDelivered, PushPayload};
use halloo_protocol::wire::Extensions;
use tracing::{debug, info};

use super::{LATE_SECS, Opened, sessions};
use crate::event_loop::EventLoop;
use crate::handle::power::{PowerError, SuspendOptions, Suspended, WakeOutcome};
use crate::handle::{Event, Reply};
use crate::roles::gateway::webpush::decrypt;

/// Largest payload taken from the local API: a Web Push body.
const PAYLOAD_BYTES_MAX: usize = 4_096;

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
        let opened = self.open_pushed(outer, payload.sealed(), way)?;
        self.note_push_arrival(outer, way, &opened);
        Ok(opened)
    }

    /// Rings, or takes the message, or looks into the mailboxes: what a believed payload is for.
    fn open_pushed(&mut self, outer: &OuterPayload, sealed: &[u8], way: InviteWay) -> Result<Opened, String> {
        let now = self.now().unix;
        if !outer.event.is_call() {
            return self.take_pushed(outer, sealed, way);
        }
        let sealed = SealedInvite::from_bytes(sealed.to_vec()).map_err(|error| error.to_string())?;
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
        let sender = rung.call.and_then(|call| self.calls.caller_of(&call));
        Ok(Opened { status, call: rung.call, message: None, from: rung.from, sender })
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
            self.push_receipts_woken();
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
