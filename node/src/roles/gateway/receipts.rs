//! Telling those who push what became of it: that the device has taken it on its stream, or that no channel brings it any more. A service that
//! has taken a push says nothing about the device, so nothing is told of that; the device itself tells its contacts.

use std::collections::HashMap;

use halloo_protocol::push::{DeliveredStatus, PushReason, PushReceipt, PushWay};
use halloo_protocol::wire::Extensions;
use libp2p::PeerId;

use super::channel::Outcome;
use super::waiting::Waiting;
use crate::event_loop::EventLoop;
use crate::network::Target;

/// Senders remembered: beyond that nobody is told, and learns it from the device.
const SENDERS_MAX: usize = 16_384;

#[derive(Debug)]
struct Sender {
    peer: PeerId,
    request_hash: [u8; 32],
    /// A service has it.
    is_under_way: bool,
    /// Why the last channel didn't bring it.
    failure: PushReason,
}

/// Who has sent the pushes that wait, by number.
#[derive(Debug, Default)]
pub(super) struct Senders(HashMap<u64, Sender>);

impl Senders {
    pub(super) fn note(&mut self, number: u64, peer: PeerId, request_hash: [u8; 32]) {
        if self.0.len() < SENDERS_MAX {
            self.0.insert(number, Sender { peer, request_hash, is_under_way: false, failure: PushReason::TEMPORARY });
        }
    }

    /// What a service has said.
    pub(super) fn note_outcome(&mut self, number: u64, outcome: &Outcome) {
        let Some(sender) = self.0.get_mut(&number) else { return };
        match outcome {
            Outcome::Sent => sender.is_under_way = true,
            Outcome::Dead(_) => sender.failure = PushReason::GONE,
            Outcome::TooLarge => sender.failure = PushReason::TOO_LARGE,
            Outcome::RetryAfter(_) | Outcome::BadCredentials | Outcome::Refused { .. } | Outcome::Temporary => {
                sender.failure = PushReason::CHANNEL;
            }
        }
    }

    /// Forgets those whose push is no more.
    pub(super) fn tidy(&mut self, waiting: &Waiting) {
        self.0.retain(|number, _| waiting.contains(*number));
    }
}

impl EventLoop {
    /// The device has taken a push on its stream.
    pub(super) fn tell_brought(&mut self, number: u64, status: DeliveredStatus) {
        let sender = self.gateway.as_mut().and_then(|gateway| gateway.senders.0.remove(&number));
        if let Some(sender) = sender {
            self.send_receipt(sender.peer, sender.request_hash, PushWay::Stream, Ok(status));
        }
    }

    /// A push has no channel left. Its sender may know of another way.
    pub(super) fn tell_not_brought(&mut self, number: u64, way: PushWay) {
        let sender = self.gateway.as_mut().and_then(|gateway| gateway.senders.0.remove(&number));
        if let Some(sender) = sender.filter(|sender| !sender.is_under_way) {
            self.send_receipt(sender.peer, sender.request_hash, way, Err(sender.failure));
        }
    }

    fn send_receipt(&mut self, peer: PeerId, request_hash: [u8; 32], way: PushWay, result: Result<DeliveredStatus, PushReason>) {
        // Whoever has left in the meantime isn't sought.
        if self.peers.get(&peer).is_some() {
            let receipt = PushReceipt { request_hash, way, result, extensions: Extensions::none() };
            self.notify(&Target::connected(peer), &receipt);
        }
    }
}
