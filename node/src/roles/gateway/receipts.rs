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
    /// A service has it, or another gateway.
    is_under_way: bool,
    /// Why the last channel didn't bring it.
    failure: PushReason,
    /// Other gateways that are being asked to bring it.
    asked: usize,
    /// The last channel, once none is left here.
    last: Option<PushWay>,
}

/// What a sender is told of a push that nothing brings.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NotBrought {
    peer: PeerId,
    request_hash: [u8; 32],
    way: PushWay,
    reason: PushReason,
}

/// Who has sent the pushes that wait, by number.
#[derive(Debug, Default)]
pub(super) struct Senders(HashMap<u64, Sender>);

impl Senders {
    pub(super) fn note(&mut self, number: u64, peer: PeerId, request_hash: [u8; 32]) {
        if self.0.len() < SENDERS_MAX {
            self.0.insert(
                number,
                Sender { peer, request_hash, is_under_way: false, failure: PushReason::TEMPORARY, asked: 0, last: None },
            );
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

    /// Another gateway is asked to bring it.
    pub(super) fn note_asked(&mut self, number: u64) {
        if let Some(sender) = self.0.get_mut(&number) {
            sender.asked += 1;
        }
    }

    /// It has answered, or hasn't.
    fn note_answered(&mut self, number: u64, is_taken: bool) -> Option<NotBrought> {
        let sender = self.0.get_mut(&number)?;
        sender.asked = sender.asked.saturating_sub(1);
        sender.is_under_way |= is_taken;
        self.settle(number)
    }

    /// No channel is left here.
    fn note_over(&mut self, number: u64, way: PushWay) -> Option<NotBrought> {
        self.0.get_mut(&number)?.last = Some(way);
        self.settle(number)
    }

    /// What is to be told once all is known.
    fn settle(&mut self, number: u64) -> Option<NotBrought> {
        let way = self.0.get(&number).filter(|sender| sender.asked == 0)?.last?;
        let Sender { peer, request_hash, is_under_way, failure, .. } = self.0.remove(&number)?;
        (!is_under_way).then_some(NotBrought { peer, request_hash, way, reason: failure })
    }

    /// Forgets those whose push is no more.
    pub(super) fn tidy(&mut self, waiting: &Waiting) {
        self.0.retain(|number, sender| waiting.contains(*number) || sender.asked > 0);
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
        let told = self.gateway.as_mut().and_then(|gateway| gateway.senders.note_over(number, way));
        self.send_not_brought(told);
    }

    /// Another gateway, asked to bring a push, has taken it or hasn't.
    pub(super) fn note_hand_on_answer(&mut self, number: u64, is_taken: bool) {
        let told = self.gateway.as_mut().and_then(|gateway| gateway.senders.note_answered(number, is_taken));
        self.send_not_brought(told);
    }

    fn send_not_brought(&mut self, told: Option<NotBrought>) {
        if let Some(NotBrought { peer, request_hash, way, reason }) = told {
            self.send_receipt(peer, request_hash, way, Err(reason));
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

#[cfg(test)]
mod tests {
    use halloo_protocol::push::ChannelEnd;

    use super::*;

    fn senders() -> Senders {
        let mut senders = Senders::default();
        senders.note(1, PeerId::random(), [7; 32]);
        senders
    }

    fn reason(told: Option<NotBrought>) -> Option<PushReason> {
        told.map(|told| told.reason)
    }

    #[test]
    fn a_sender_hears_of_the_end_and_not_of_what_a_service_has() {
        let mut gone = senders();
        gone.note_outcome(1, &Outcome::Dead(ChannelEnd::UNREGISTERED));
        assert_eq!(reason(gone.note_over(1, PushWay::Fcm)), Some(PushReason::GONE));
        assert_eq!(reason(gone.note_over(1, PushWay::Fcm)), None, "told once");
        let mut sent = senders();
        sent.note_outcome(1, &Outcome::Sent);
        sent.note_outcome(1, &Outcome::Dead(ChannelEnd::UNREGISTERED));
        assert_eq!(reason(sent.note_over(1, PushWay::Fcm)), None, "one of two services has it");
        assert!(sent.0.is_empty());
    }

    #[test]
    fn another_gateway_that_is_asked_is_waited_for() {
        for (answers, told) in [([true, false], None), ([false, false], Some(PushReason::GONE)), ([false, true], None)] {
            let mut senders = senders();
            senders.note_asked(1);
            senders.note_asked(1);
            senders.note_outcome(1, &Outcome::Dead(ChannelEnd::UNREGISTERED));
            assert_eq!(reason(senders.note_over(1, PushWay::WebPush)), None, "not before they have answered");
            senders.tidy(&Waiting::default());
            assert_eq!(reason(senders.note_answered(1, answers[0])), None);
            assert_eq!(reason(senders.note_answered(1, answers[1])), told, "{answers:?}");
            assert!(senders.0.is_empty());
        }
        // Answered while a channel is left here: nothing is told before that has ended too.
        let mut early = senders();
        early.note_asked(1);
        assert_eq!(reason(early.note_answered(1, false)), None);
        assert_eq!(reason(early.note_over(1, PushWay::WebPush)), Some(PushReason::TEMPORARY));
    }
}
