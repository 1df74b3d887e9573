//! Knowing whether gateways deliver what they accept.
//!
//! 1. A device that took a push tells who sent it: [`PushArrived`], on the first connection between the two, and says which gateway brought it. The gateway
//!    has no part in it and sees nothing of it.
//! 2. The sender answers which gateways had accepted it ([`PushArrivedNoted`]).
//! 3. The device keeps account ([`DeliveryWatch`]): a gateway that has accepted several pushes in a row which others brought and it didn't is one that
//!    drops them, whatever it does with the device's own tests, which it can tell from calls.
//!
//! The gateway's own word to the sender is [`super::PushReceipt`]: it comes sooner, and is worth as much as the gateway.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bincode::{Decode, Encode};

use super::DeliveredStatus;
use crate::key::DeviceKey;
use crate::wire::{DecodeError, Extensions, FrameKind, Message};

/// Gateways that a sender can have asked for one device.
pub const ACCEPTED_MAX: usize = 4;

/// How long after another a gateway may bring a push: services hold messages for a moment.
const PATIENCE: Duration = Duration::from_secs(20);

/// Pushes in a row that a gateway fails to bring before it is given up.
pub const MISSED_MAX: u32 = 3;

/// Pushes whose arrival is remembered, and those that are waited for; the oldest fall out.
const ARRIVALS_MAX: usize = 256;
const AWAITED_MAX: usize = 64;

/// Gateways kept account of: those a device is registered with, and a few it was.
const GATEWAYS_MAX: usize = 8;

/// "What you sent has come", from a device to the one who pushed to it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PushArrived {
    /// First half of the hash of the sealed part, as in [`super::OuterPayload::sealed_hash`].
    pub sealed_hash: [u8; 16],
    /// Which gateway brought it.
    pub gateway: DeviceKey,
    /// Whether it came on the gateway's stream; else a push service woke the device.
    pub on_stream: bool,
    /// What the device did with it.
    pub status: DeliveredStatus,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Message for PushArrived {
    const KIND: FrameKind = FrameKind(0x004e);
    const LIMIT: usize = 256;
}

/// Answer to [`PushArrived`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PushArrivedNoted {
    /// Gateways that have accepted the same push so far, at most [`ACCEPTED_MAX`]; none if the sender knows nothing of it.
    pub accepted: Vec<DeviceKey>,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Message for PushArrivedNoted {
    const KIND: FrameKind = FrameKind(FrameKind::ANSWER | PushArrived::KIND.0);
    const LIMIT: usize = 512;

    fn check(&self) -> Result<(), DecodeError> {
        if self.accepted.len() > ACCEPTED_MAX {
            return Err(DecodeError::invalid("accepted", format!("{}, at most {ACCEPTED_MAX}", self.accepted.len())));
        }
        Ok(())
    }
}

/// A push that a gateway has accepted and not brought.
#[derive(Clone, Copy, Debug)]
struct Awaited {
    sealed_hash: [u8; 16],
    gateway: DeviceKey,
    until: Instant,
}

/// A device's account of its gateways. Timers: [`DeliveryWatch::poll`] when the next awaited push is overdue; calling it every second or so will do.
#[derive(Debug, Default)]
pub struct DeliveryWatch {
    arrived: VecDeque<([u8; 16], DeviceKey)>,
    awaited: VecDeque<Awaited>,
    /// How many in a row each has failed to bring.
    missed: VecDeque<(DeviceKey, u32)>,
}

impl DeliveryWatch {
    /// A gateway has brought a push.
    pub fn handle_arrival(&mut self, sealed_hash: [u8; 16], gateway: DeviceKey) {
        self.awaited.retain(|awaited| (awaited.sealed_hash, awaited.gateway) != (sealed_hash, gateway));
        self.missed.retain(|(known, _)| *known != gateway);
        keep(&mut self.arrived, (sealed_hash, gateway), ARRIVALS_MAX);
    }

    /// The sender of a push that has come says that `gateway` has accepted it too.
    pub fn handle_accepted(&mut self, sealed_hash: [u8; 16], gateway: DeviceKey, now: Instant) {
        let has_come = self.arrived.contains(&(sealed_hash, gateway));
        // Its word counts for a push that has come, and once.
        let is_known = self.arrived.iter().any(|(known, _)| *known == sealed_hash);
        let is_awaited = self.awaited.iter().any(|known| (known.sealed_hash, known.gateway) == (sealed_hash, gateway));
        if is_known && !has_come && !is_awaited {
            keep(&mut self.awaited, Awaited { sealed_hash, gateway, until: now + PATIENCE }, AWAITED_MAX);
        }
    }

    /// Gateways that have missed [`MISSED_MAX`] in a row by now; each is told once, and is then as one never heard of.
    pub fn poll(&mut self, now: Instant) -> Vec<DeviceKey> {
        let mut silent = Vec::new();
        while let Some(place) = self.awaited.iter().position(|awaited| awaited.until <= now) {
            let Some(Awaited { gateway, .. }) = self.awaited.remove(place) else { break };
            let before = self.missed.iter().position(|(known, _)| *known == gateway).and_then(|place| self.missed.remove(place));
            let count = before.map_or(1, |(_, count)| count.saturating_add(1));
            if count >= MISSED_MAX {
                silent.push(gateway);
            } else {
                keep(&mut self.missed, (gateway, count), GATEWAYS_MAX);
            }
        }
        silent.dedup();
        silent
    }

    /// The device has slept: what was waited for gets its time anew.
    pub fn handle_woken(&mut self, now: Instant) {
        self.awaited.iter_mut().for_each(|awaited| awaited.until = now + PATIENCE);
    }
}

fn keep<T>(queue: &mut VecDeque<T>, item: T, max: usize) {
    if queue.len() >= max {
        queue.pop_front();
    }
    queue.push_back(item);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::PublicKey;

    const fn gateway(number: u8) -> DeviceKey {
        DeviceKey(PublicKey([number; 32]))
    }

    /// The good one brings push `number`, and its sender says that both have accepted it.
    fn push(watch: &mut DeliveryWatch, number: u8, at: Instant) {
        watch.handle_arrival([number; 16], gateway(1));
        for each in [gateway(1), gateway(2)] {
            watch.handle_accepted([number; 16], each, at);
        }
    }

    #[test]
    fn a_gateway_that_accepts_and_drops_is_found_out_after_three() {
        let start = Instant::now();
        let mut watch = DeliveryWatch::default();
        for number in 0..3 {
            assert_eq!(watch.poll(start + PATIENCE * u32::from(number)), [], "{number}");
            push(&mut watch, number, start + PATIENCE * u32::from(number));
        }
        assert_eq!(watch.poll(start + PATIENCE * 3 - Duration::from_millis(1)), []);
        assert_eq!(watch.poll(start + PATIENCE * 3), [gateway(2)]);
        assert_eq!(watch.poll(start + PATIENCE * 9), [], "told once");
    }

    #[test]
    fn one_that_is_late_or_misses_now_and_then_is_none() {
        let start = Instant::now();
        let mut watch = DeliveryWatch::default();
        for number in 0..40 {
            let at = start + PATIENCE * u32::from(number) * 2;
            push(&mut watch, number, at);
            if number % 2 == 1 {
                watch.handle_arrival([number; 16], gateway(2));
            }
            assert_eq!(watch.poll(at + PATIENCE), [], "{number}");
        }
        // Before its sender has said anything.
        watch.handle_arrival([90; 16], gateway(2));
        push(&mut watch, 90, start);
        assert!(watch.awaited.is_empty());
    }

    #[test]
    fn a_word_counts_once_and_of_pushes_that_have_come() {
        let now = Instant::now();
        let mut watch = DeliveryWatch::default();
        for number in 0..=u8::MAX {
            watch.handle_accepted([number; 16], gateway(2), now);
        }
        for _ in 0..100 {
            push(&mut watch, 1, now);
        }
        assert_eq!(watch.poll(now + PATIENCE), [], "one push, however often it is told");
        for number in 0..=u8::MAX {
            for other in 0..4_u8 {
                let mut hash = [number; 16];
                hash[0] = other;
                watch.handle_arrival(hash, gateway(1));
                watch.handle_accepted(hash, gateway(2 + number % 100), now);
            }
        }
        assert!(watch.arrived.len() <= ARRIVALS_MAX && watch.awaited.len() <= AWAITED_MAX);
        watch.poll(now + PATIENCE);
        assert!(watch.missed.len() <= GATEWAYS_MAX && watch.awaited.is_empty());
    }

    #[test]
    fn sleep_is_nobodys_fault_and_hides_nothing() {
        let now = Instant::now();
        let mut watch = DeliveryWatch::default();
        for number in 0..9 {
            push(&mut watch, number, now);
        }
        let woken = now + PATIENCE * 100;
        watch.handle_woken(woken);
        assert_eq!(watch.poll(woken), []);
        assert_eq!(watch.poll(woken + PATIENCE), [gateway(2)]);
    }
}
