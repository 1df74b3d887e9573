//! Bringing a push to its device: on every channel it still has to go, until each is done with it.

use std::time::{Duration, Instant};

use halloo_protocol::key::DeviceKey;
use halloo_protocol::push::registration::Registration;
use halloo_protocol::push::{PushChannel, PushDeliver, PushDelivered, PushHandle};
use halloo_protocol::wire::{self, Extensions, Frame};
use tracing::{debug, warn};

use super::channel::{Next, Outcome, PushMessage};
use super::{Kept, STORED_BYTES_MAX};
use crate::address;
use crate::event_loop::{EventLoop, Internal};
use crate::network::{Purpose, Target};
use crate::rpc::Failure;
use crate::store::StoreError;

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

impl EventLoop {
    /// Sends a push on every channel it still has to go.
    pub(super) fn deliver(&mut self, number: u64, registration: &Registration, kept: &Kept, ttl_secs: u64) {
        let Some(gateway) = &self.gateway else { return };
        // A service may take longer than the pause: it isn't asked twice at a time.
        let is_sending = gateway.waiting.is_sending(number);
        let now = Instant::now();
        let may_send = |channel: &&PushChannel| !is_sending && !gateway.waiting.is_held(number, channel, now);
        let is_stream = |channel: &&PushChannel| matches!(channel, PushChannel::Stream);
        let by_service: Vec<&PushChannel> = kept.channels.iter().filter(|channel| !is_stream(channel)).filter(may_send).collect();
        if !by_service.is_empty() {
            let message = PushMessage::new(registration.handle, &kept.payload, kept.urgency, ttl_secs);
            by_service.into_iter().for_each(|channel| self.deliver_by_service(number, channel, &message));
        }
        if kept.channels.contains(&PushChannel::Stream) {
            self.deliver_on_stream(number, registration.device(), &kept.payload);
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

    fn deliver_by_service(&mut self, number: u64, channel: &PushChannel, message: &PushMessage) {
        let Some(gateway) = &mut self.gateway else { return };
        gateway.waiting.begin_sending(number);
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
        gateway.waiting.end_sending(number);
        let way = channel.way().name();
        match outcome {
            Outcome::Sent => debug!(way, "push service took the push"),
            Outcome::Refused { .. } | Outcome::TooLarge | Outcome::BadCredentials => {
                warn!(way, ?outcome, "push refused by the push service");
            }
            _ => debug!(way, ?outcome, "push not taken by the push service"),
        }
        match outcome.next() {
            Next::StrikeOff => self.channel_done(number, &channel),
            Next::End(reason) => {
                self.end_channel(&handle, &channel, reason);
                self.channel_done(number, &channel);
            }
            Next::Again => {}
            Next::AgainAfter(pause) => gateway.waiting.hold(number, channel, Instant::now() + pause),
        }
    }

    pub(crate) fn push_deliver_answer(&mut self, delivering: Delivering, frame: &Frame) {
        match frame.parse::<PushDelivered>() {
            Ok(delivered) => {
                debug!(status = ?delivered.status, "device took the push");
                self.channel_done(delivering.number, &PushChannel::Stream);
            }
            Err(_) => self.counters.malformed += 1,
        }
    }

    pub(crate) fn push_deliver_failure(&mut self, _delivering: Delivering, failure: Failure) {
        debug!(%failure, "push not taken on the stream: tried again later");
    }

    /// Strikes a channel off a push; the last one ends it.
    fn channel_done(&mut self, number: u64, channel: &PushChannel) {
        let done = self.store.transaction::<_, StoreError>(|tx| {
            let Some(mut pending) = tx.pending_push(number)? else { return Ok(true) };
            let kept = wire::decode::<Kept>(&pending.content, STORED_BYTES_MAX).ok();
            let left = kept.map(|mut kept| {
                kept.channels.retain(|known| known != channel);
                kept
            });
            match left.filter(|kept| !kept.channels.is_empty()) {
                Some(kept) => {
                    pending.content = wire::encode(&kept);
                    tx.update_pending_push(number, &pending)?;
                    Ok(false)
                }
                None => tx.remove_pending_push(number).map(|_| true),
            }
        });
        match (done, &mut self.gateway) {
            (Ok(true), Some(gateway)) => gateway.waiting.remove(number),
            (Ok(_), _) => {}
            (Err(error), _) => warn!(%error, "push not struck off"),
        }
    }
}
