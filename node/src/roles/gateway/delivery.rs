//! Bringing a push to its device: on every channel it still has to go, until each is done with it.

use std::time::{Duration, Instant};

use halloo_protocol::key::DeviceKey;
use halloo_protocol::push::registration::Registration;
use halloo_protocol::push::{PushChannel, PushDeliver, PushDelivered, PushHandle};
use halloo_protocol::time::Now;
use halloo_protocol::wire::{self, Extensions, Frame};
use tracing::{debug, warn};

use super::channel::{Next, Outcome, PushMessage};
use super::parked::Then;
use super::records::GatewayRecords;
use super::waiting::Waiting;
use super::{Kept, STORED_BYTES_MAX};
use crate::address;
use crate::event_loop::{EventLoop, Internal};
use crate::network::{Purpose, Target};
use crate::rpc::Failure;
use crate::store::{PendingPush, StoreError};

/// How long a device may take to take a push on its stream.
const DELIVER_TIMEOUT: Duration = Duration::from_secs(8);

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
    outcome: Outcome,
}

/// Takes a push of an earlier run up. Which of its services asked for a pause isn't known any more: all of them get it.
pub(super) fn take_up(waiting: &mut Waiting, number: u64, push: &PendingPush, now: Now) {
    let Some(handle) = PushHandle::from_slice(&push.handle) else { return };
    waiting.insert(number, handle, push.expires_at, now.instant);
    let kept = wire::decode::<Kept>(&push.content, STORED_BYTES_MAX).ok();
    let turn = kept.as_ref().map_or(0, |kept| kept.turn_at.secs_since(now.unix));
    if turn > 0 {
        // One that is held back goes on waiting for its turn.
        return waiting.hold_back(number, now.instant + Duration::from_secs(turn));
    }
    let pause = Duration::from_secs(push.due.secs_since(now.unix));
    if pause.is_zero() {
        return;
    }
    let channels = kept.map(|kept| kept.channels).unwrap_or_default();
    for channel in channels.into_iter().filter(|channel| *channel != PushChannel::Stream) {
        waiting.hold(number, channel, now.instant + pause);
    }
}

impl EventLoop {
    /// Sends a push on every channel it still has to go.
    pub(super) fn deliver(&mut self, number: u64, registration: &Registration, kept: &Kept, ttl_secs: u64) {
        if self.settings.gateway_drops {
            return warn!("debug.gateway_drops: a push is dropped");
        }
        let Some(gateway) = &self.gateway else { return };
        let now = Instant::now();
        let is_stream = |channel: &&PushChannel| matches!(channel, PushChannel::Stream);
        // A service may take longer than the pause: it isn't asked twice at a time.
        let may_send = |channel: &&PushChannel| gateway.waiting.may_send(number, channel, now);
        let by_service: Vec<&PushChannel> = kept.channels.iter().filter(|channel| !is_stream(channel)).filter(may_send).collect();
        if !by_service.is_empty() {
            let message = PushMessage::new(registration.handle, &kept.payload, kept.urgency, ttl_secs);
            by_service.into_iter().for_each(|channel| self.deliver_by_service(number, channel, &message));
        }
        if kept.channels.contains(&PushChannel::Stream) {
            self.deliver_on_stream(number, registration.device(), &kept.payload);
        }
    }

    pub(super) fn deliver_on_stream(&mut self, number: u64, device: DeviceKey, payload: &[u8]) {
        let Some(peer) = address::peer_id(&device) else { return };
        // Only a connection the device holds: the gateway doesn't dial devices. Another gateway of a shared database may have one.
        if self.peers.get(&peer).is_none() {
            if let Some(shared) = self.gateway.as_mut().and_then(|gateway| gateway.records.shared_mut()) {
                shared.ask(number, device);
            }
            return;
        }
        let message = PushDeliver { payload: payload.to_vec(), extensions: Extensions::none() };
        self.request(&Target::connected(peer), &message, Purpose::PushDeliver(Delivering { number }), DELIVER_TIMEOUT);
    }

    fn deliver_by_service(&mut self, number: u64, channel: &PushChannel, message: &PushMessage) {
        let Some(gateway) = &mut self.gateway else { return };
        gateway.waiting.begin_sending(number, channel);
        let services = gateway.services.clone();
        let news = self.internal_sender.clone();
        let (channel, message) = (channel.clone(), message.clone());
        tokio::spawn(async move {
            let outcome = services.send(&channel, &message).await;
            // The event loop is gone only when the node is; the push is in the database.
            let _ = news.send(Internal::PushService(ServiceAnswer { number, handle: message.handle, channel, outcome })).await;
        });
    }

    pub(crate) fn handle_service_answer(&mut self, answer: ServiceAnswer) {
        let ServiceAnswer { number, handle, channel, outcome } = answer;
        let Some(gateway) = &mut self.gateway else { return };
        gateway.waiting.end_sending(number, &channel);
        gateway.senders.note_outcome(number, &outcome);
        let way = channel.way().name();
        match outcome {
            Outcome::Sent => {
                gateway.held.remove(&number);
                debug!(way, "push service took the push");
            }
            Outcome::Refused { .. } | Outcome::TooLarge | Outcome::BadCredentials => {
                warn!(way, ?outcome, "push refused by the push service");
            }
            _ => debug!(way, ?outcome, "push not taken by the push service"),
        }
        // After a success there is nothing to hand on.
        self.hand_on_failed(number);
        match outcome.next() {
            Next::StrikeOff => self.channel_done(number, &channel),
            Next::End(reason) => {
                self.with_records(Then::EndChannel { handle, channel: channel.clone(), reason });
                self.channel_done(number, &channel);
            }
            Next::Again => {}
            Next::AgainAfter(pause) => {
                if let Some(gateway) = &mut self.gateway {
                    gateway.waiting.hold(number, channel, Instant::now() + pause);
                }
                self.keep_pause(number, pause);
            }
        }
    }

    /// A service's wish for a pause outlasts the gateway's process.
    fn keep_pause(&mut self, number: u64, pause: Duration) {
        let until = self.now().unix.plus_secs(pause.as_secs());
        let Some(gateway) = &mut self.gateway else { return };
        let kept = gateway.records.pending(number).and_then(|pending| match pending {
            Some(mut pending) => {
                pending.due = pending.due.max(until);
                gateway.records.update_pending(number, &pending)
            }
            None => Ok(()),
        });
        if let Err(error) = kept {
            warn!(%error, "a push service's pause not kept");
        }
    }

    pub(crate) fn push_deliver_answer(&mut self, delivering: Delivering, frame: &Frame) {
        match frame.parse::<PushDelivered>() {
            Ok(delivered) => {
                debug!(status = ?delivered.status, "device took the push");
                self.tell_brought(delivering.number, delivered.status);
                // It is the same on every way: a service that is still to be asked, or to be asked again, isn't.
                self.forget_pushes(&[delivering.number], Some(delivered.status));
            }
            Err(_) => self.counters.malformed += 1,
        }
    }

    pub(crate) fn push_deliver_failure(&mut self, delivering: Delivering, failure: Failure) {
        debug!(%failure, "push not taken on the stream: tried again later");
        // A push service that is being asked may yet take it.
        if !self.gateway.as_ref().is_some_and(|gateway| gateway.waiting.is_sending(delivering.number)) {
            self.hand_on_failed(delivering.number);
        }
    }

    /// Strikes a channel off a push; the last one ends it.
    fn channel_done(&mut self, number: u64, channel: &PushChannel) {
        let Some(gateway) = &mut self.gateway else { return };
        let done = strike_off(&mut *gateway.records, number, channel);
        match (done, &mut self.gateway) {
            (Ok(true), Some(gateway)) => {
                gateway.held.remove(&number);
                gateway.waiting.remove(number);
                self.tell_not_brought(number, channel.way());
            }
            (Ok(_), _) => {}
            (Err(error), _) => warn!(%error, "push not struck off"),
        }
    }
}

/// Takes a channel off a push that waits; true if none is left, and the push is gone.
fn strike_off(records: &mut dyn GatewayRecords, number: u64, channel: &PushChannel) -> Result<bool, StoreError> {
    let Some(mut pending) = records.pending(number)? else { return Ok(true) };
    let left = wire::decode::<Kept>(&pending.content, STORED_BYTES_MAX).ok().and_then(|mut kept| {
        kept.channels.retain(|known| known != channel);
        (!kept.channels.is_empty()).then_some(kept)
    });
    match left {
        Some(kept) => {
            pending.content = wire::encode(&kept);
            records.update_pending(number, &pending)?;
            Ok(false)
        }
        None => records.remove_pending(&[number], None).map(|()| true),
    }
}

#[cfg(test)]
mod tests {
    use halloo_protocol::push::Urgency;
    use halloo_protocol::time::UnixTime;

    use super::*;

    #[test]
    fn a_pause_outlasts_a_restart_and_keeps_the_stream_from_nothing() {
        let fcm = PushChannel::Fcm { token: "a".into() };
        let channels = vec![PushChannel::Stream, fcm.clone()];
        let push_of = |due, turn_at| PendingPush {
            handle: vec![1; 32],
            due: UnixTime(due),
            expires_at: UnixTime(2_000),
            content: wire::encode(&Kept { payload: vec![1], urgency: Urgency::High, channels: channels.clone(), turn_at }),
        };
        let push = |due| push_of(due, UnixTime(0));
        let now = Now { unix: UnixTime(1_000), instant: Instant::now() };
        let mut waiting = Waiting::default();
        take_up(&mut waiting, 1, &push(1_040), now);
        take_up(&mut waiting, 2, &push(900), now);
        let after = |secs| now.instant + Duration::from_secs(secs);
        assert!(!waiting.may_send(1, &fcm, after(39)) && waiting.may_send(1, &fcm, after(40)));
        assert!(waiting.may_send(1, &PushChannel::Stream, now.instant));
        assert!(waiting.may_send(2, &fcm, now.instant), "nobody asked for a pause");
        take_up(&mut waiting, 3, &push_of(1_040, UnixTime(1_040)), now);
        assert_eq!(
            waiting.take_due(now.instant, now.unix).again,
            [1, 2],
            "the stream of both is tried at once, and the third one's turn comes later"
        );
    }
}
