//! Part of the roles of relay and gateway: passes signals on between two devices of which one has just had an invite brought to the other.
//!
//! Before it has answered, a device doesn't show somebody who is no contact where it is. What it has to say, that it rings or not, goes
//! back the way the invite came. Nothing is kept but who has called whom, for as long as an invite rings; what is passed on is signed by the
//! device that says it, short, and never more than a few signals for each invite.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use halloo_protocol::call::{CallSignal, CallSignalAck, HandOverReason, INVITE_SECS_MAX, PassStatus, SignalPass, SignalPassed};
use halloo_protocol::key::DeviceKey;
use halloo_protocol::wire::{self, Extensions, Frame, FrameKind, Message};
use libp2p::PeerId;
use libp2p::swarm::ConnectionId;
use tracing::debug;

use crate::address;
use crate::event_loop::EventLoop;
use crate::network::{Purpose, Target};
use crate::rpc::Failure;

/// How long the other device may take: it is connected. Less than the asker waits, which is 5 s.
const DEVICE_TIMEOUT: Duration = Duration::from_secs(4);

/// How long the two may talk: an invite rings no longer.
const PAIR_TIME: Duration = Duration::from_secs(INVITE_SECS_MAX);

/// Signals for each invite, in both directions: a ringing, what ends it, and some of their repetitions, which come for 15 s.
const SIGNALS_MAX: u32 = 32;

/// Pairs remembered; when full, the oldest goes. A relay hands over ten invites a second at most, which is a fourth of this in
/// [`PAIR_TIME`]; the rest is a gateway's.
const PAIRS_MAX: usize = 8_192;

/// Signals under way altogether. Each is a few hundred bytes for at most [`DEVICE_TIMEOUT`].
const UNDER_WAY_MAX: u32 = 512;

/// A signal on its way to a device: who waits for the answer, and for which request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Passing {
    asker: PeerId,
    via: ConnectionId,
    id: u32,
}

#[derive(Clone, Copy, Debug)]
struct Pair {
    until: Instant,
    left: u32,
}

/// Who has called whom by way of this node.
#[derive(Debug, Default)]
pub(crate) struct Introductions {
    pairs: HashMap<(DeviceKey, DeviceKey), Pair>,
    under_way: u32,
}

impl Introductions {
    /// An invite of `from` was brought to `to`.
    pub(crate) fn note(&mut self, from: DeviceKey, to: DeviceKey, now: Instant) {
        let key = key_of(from, to);
        if self.pairs.len() >= PAIRS_MAX && !self.pairs.contains_key(&key) {
            self.pairs.retain(|_, pair| pair.until > now);
            let oldest = self.pairs.iter().min_by_key(|(_, pair)| pair.until).map(|(key, _)| *key);
            if let Some(oldest) = oldest.filter(|_| self.pairs.len() >= PAIRS_MAX) {
                self.pairs.remove(&oldest);
            }
        }
        self.pairs.insert(key, Pair { until: now + PAIR_TIME, left: SIGNALS_MAX });
    }

    fn take(&mut self, from: DeviceKey, to: DeviceKey, now: Instant) -> Result<(), HandOverReason> {
        let key = key_of(from, to);
        let pair = self.pairs.get_mut(&key).filter(|pair| pair.until > now).ok_or(HandOverReason::NO_INVITE)?;
        pair.left = pair.left.checked_sub(1).ok_or(HandOverReason::RATE)?;
        Ok(())
    }
}

fn key_of(one: DeviceKey, other: DeviceKey) -> (DeviceKey, DeviceKey) {
    if one <= other { (one, other) } else { (other, one) }
}

impl EventLoop {
    /// An invite of a peer was brought to a device: the two may say what becomes of it by way of this node.
    pub(crate) fn note_introduction(&mut self, caller: &PeerId, device: DeviceKey) {
        if let Some(caller) = address::device_key(caller) {
            self.introductions.note(caller, device, Instant::now());
        }
    }

    /// A device asks to pass a signal on. The answer waits for the other's.
    pub(crate) fn handle_signal_pass(&mut self, peer: PeerId, via: ConnectionId, frame: &Frame) {
        let request = match frame.parse::<SignalPass>() {
            Ok(request) => request,
            Err(error) => {
                debug!(%peer, %error, "request refused");
                self.counters.malformed += 1;
                return self.answer_encoded(peer, via, frame.id, FrameKind::UNSUPPORTED, Vec::new());
            }
        };
        let passing = Passing { asker: peer, via, id: frame.id };
        if let Err(reason) = self.begin_pass(request, passing) {
            debug!(%peer, %reason, "signal not passed on");
            self.answer_signal_pass(passing, PassStatus::Refused(reason));
        }
    }

    fn begin_pass(&mut self, request: SignalPass, passing: Passing) -> Result<(), HandOverReason> {
        let signal = request.signal.unverified();
        let (from, to) = (signal.from, signal.to);
        // The connection proves the device; the signature is the receiver's to check.
        if address::device_key(&passing.asker) != Some(from) {
            return Err(HandOverReason::NO_INVITE);
        }
        self.introductions.take(from, to, Instant::now())?;
        let target = address::peer_id(&to).ok_or(HandOverReason::NO_INVITE)?;
        if self.peers.get(&target).is_none() {
            return Err(HandOverReason::SILENT);
        }
        if self.introductions.under_way >= UNDER_WAY_MAX {
            return Err(HandOverReason::FULL);
        }
        self.introductions.under_way += 1;
        let message = CallSignal { signal: request.signal, extensions: Extensions::none() };
        self.request(&Target::connected(target), &message, Purpose::SignalPass(passing), DEVICE_TIMEOUT);
        Ok(())
    }

    /// The device has answered.
    pub(crate) fn signal_pass_device_answer(&mut self, passing: Passing, frame: &Frame) {
        self.introductions.under_way = self.introductions.under_way.saturating_sub(1);
        let status = match frame.parse::<CallSignalAck>() {
            Ok(ack) => PassStatus::Passed(ack.status),
            Err(_) => {
                self.counters.malformed += 1;
                PassStatus::Refused(HandOverReason::SILENT)
            }
        };
        self.answer_signal_pass(passing, status);
    }

    pub(crate) fn signal_pass_device_failure(&mut self, passing: Passing, failure: Failure) {
        debug!(peer = %passing.asker, %failure, "signal not taken by the device");
        self.introductions.under_way = self.introductions.under_way.saturating_sub(1);
        self.answer_signal_pass(passing, PassStatus::Refused(HandOverReason::SILENT));
    }

    fn answer_signal_pass(&mut self, passing: Passing, status: PassStatus) {
        let answer = SignalPassed { status, extensions: Extensions::none() };
        self.answer_encoded(passing.asker, passing.via, passing.id, SignalPassed::KIND, wire::encode(&answer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use halloo_protocol::key::PublicKey;

    fn device(number: u32) -> DeviceKey {
        let mut bytes = [0; 32];
        bytes[..4].copy_from_slice(&number.to_be_bytes());
        DeviceKey(PublicKey(bytes))
    }

    #[test]
    fn signals_pass_both_ways_after_an_invite_so_many_and_so_long() {
        let mut introductions = Introductions::default();
        let now = Instant::now();
        assert_eq!(introductions.take(device(1), device(2), now), Err(HandOverReason::NO_INVITE));
        introductions.note(device(1), device(2), now);
        assert_eq!(introductions.take(device(1), device(3), now), Err(HandOverReason::NO_INVITE));
        for signal in 0..SIGNALS_MAX {
            let (from, to) = if signal % 2 == 0 { (1, 2) } else { (2, 1) };
            assert_eq!(introductions.take(device(from), device(to), now), Ok(()));
        }
        assert_eq!(introductions.take(device(2), device(1), now), Err(HandOverReason::RATE));
        introductions.note(device(1), device(2), now);
        assert_eq!(introductions.take(device(2), device(1), now), Ok(()));
        assert_eq!(introductions.take(device(2), device(1), now + PAIR_TIME), Err(HandOverReason::NO_INVITE));
    }

    #[test]
    fn pairs_are_bounded_and_the_oldest_goes_first() {
        let mut introductions = Introductions::default();
        let start = Instant::now();
        let of = |number: u32| start + Duration::from_millis(u64::from(number));
        let pairs = u32::try_from(PAIRS_MAX).expect("a small number");
        for number in 0..=pairs {
            introductions.note(device(number), device(u32::MAX), of(number));
        }
        assert_eq!(introductions.pairs.len(), PAIRS_MAX);
        assert_eq!(introductions.take(device(0), device(u32::MAX), of(pairs)), Err(HandOverReason::NO_INVITE));
        assert_eq!(introductions.take(device(pairs), device(u32::MAX), of(pairs)), Ok(()));
    }
}
