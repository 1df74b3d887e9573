//! Part of the relay role: hands sealed invites over to devices that hold a reservation here, without a circuit.
//!
//! The relay learns who asks (by certificate or, with a capability of its own, by pseudonym), for which device, when, and one of three sizes. It
//! can't open what it carries. Nothing is kept: a device that doesn't answer at once is reached another way or not at all.

use std::collections::HashMap;
use std::time::Duration;

use halloo_protocol::call::{
    HandOverAnswer, HandOverRates, HandOverReason, HandOverRules, HandOverStatus, HandedOverAnswer, InviteHandOver,
    InviteHandedOver, decide_hand_over,
};
use halloo_protocol::capability::CapabilityRules;
use halloo_protocol::key::DeviceKey;
use halloo_protocol::wire::{self, Extensions, Frame, FrameKind, Message};
use libp2p::PeerId;
use libp2p::swarm::ConnectionId;
use tracing::debug;

use crate::address;
use crate::event_loop::EventLoop;
use crate::network::Purpose;
use crate::rpc::Failure;

/// How long a device may take to answer: it is connected, so a round trip and a look into the database.
const DEVICE_TIMEOUT: Duration = Duration::from_secs(5);

/// Invites on their way to one device: more callers at a time than that hear that it is busy.
const UNDER_WAY_PER_DEVICE_MAX: u32 = 8;

/// The same altogether. Each is some 3 KiB for at most [`DEVICE_TIMEOUT`].
const UNDER_WAY_MAX: u32 = 512;

/// Holders and devices whose rates are remembered.
const RATES_MAX: usize = 16_384;

/// An invite on its way to a device.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HandingOver {
    device: DeviceKey,
    /// Who waits for the answer, and for which request.
    asker: PeerId,
    via: ConnectionId,
    id: u32,
}

/// What the role has done.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct HandOverCounts {
    /// Invites that a device has answered.
    pub(crate) handed_over: u64,
    /// Requests refused, and those whose device was silent.
    pub(crate) refused: u64,
}

/// The role's state.
#[derive(Debug)]
pub(crate) struct HandOvers {
    rates: HandOverRates,
    /// What devices have said of their capabilities, as long as they are connected.
    rules: HashMap<PeerId, CapabilityRules>,
    /// How many are on their way to each device.
    under_way: HashMap<DeviceKey, u32>,
    pub(crate) counts: HandOverCounts,
}

impl Default for HandOvers {
    fn default() -> Self {
        Self {
            rates: HandOverRates::new(RATES_MAX),
            rules: HashMap::new(),
            under_way: HashMap::new(),
            counts: HandOverCounts::default(),
        }
    }
}

impl HandOvers {
    fn begin(&mut self, device: DeviceKey) -> Result<(), HandOverReason> {
        let total: u32 = self.under_way.values().sum();
        let own = self.under_way.get(&device).copied().unwrap_or(0);
        if own >= UNDER_WAY_PER_DEVICE_MAX || total >= UNDER_WAY_MAX {
            return Err(HandOverReason::FULL);
        }
        self.under_way.insert(device, own + 1);
        Ok(())
    }

    fn end(&mut self, device: &DeviceKey) {
        let Some(own) = self.under_way.get_mut(device) else { return };
        *own = own.saturating_sub(1);
        if *own == 0 {
            self.under_way.remove(device);
        }
    }
}

impl EventLoop {
    /// A caller asks. The answer waits for the device's.
    pub(crate) fn handle_hand_over(&mut self, peer: PeerId, via: ConnectionId, frame: &Frame) {
        let request = match frame.parse::<InviteHandOver>() {
            Ok(request) => request,
            Err(error) => {
                debug!(%peer, %error, "request refused");
                self.counters.malformed += 1;
                return self.answer_encoded(peer, via, frame.id, FrameKind::UNSUPPORTED, Vec::new());
            }
        };
        let handing = HandingOver { device: request.target, asker: peer, via, id: frame.id };
        if let Err(reason) = self.begin_hand_over(&request, handing) {
            self.answer_hand_over(handing, HandOverStatus::Refused(reason));
        }
    }

    fn begin_hand_over(&mut self, request: &InviteHandOver, handing: HandingOver) -> Result<(), HandOverReason> {
        let now = self.now();
        let relay = self.swarm.behaviour().relay_server.as_ref().ok_or(HandOverReason::NOT_SERVED)?;
        let target = address::peer_id(&request.target).ok_or(HandOverReason::NO_RESERVATION)?;
        let reservation = relay.reservation_of(&target);
        let rules = reservation.and_then(|_| self.rules_of(&target));
        let presenter = self.peers.get(&handing.asker).and_then(|known| known.chain.clone());
        let me = self.identity.device();
        decide_hand_over(request, rules.as_ref(), presenter.as_ref(), &me, &mut self.hand_overs.rates, now).map_err(
            |refusal| {
                debug!(peer = %handing.asker, %refusal, "invite not handed over");
                refusal.reason()
            },
        )?;
        let connection = reservation.ok_or(HandOverReason::NO_RESERVATION)?;
        self.hand_overs.begin(request.target)?;
        let message = InviteHandedOver { sealed: request.sealed.clone(), extensions: Extensions::none() };
        self.note_introduction(&handing.asker, request.target);
        self.request_via(target, connection, &message, Purpose::HandOver(handing), DEVICE_TIMEOUT);
        Ok(())
    }

    /// What counts of the capabilities for a device: what it has said, and what is so for every certified one.
    fn rules_of(&self, peer: &PeerId) -> Option<CapabilityRules> {
        let chain = self.peers.get(peer)?.chain.as_ref()?;
        let said = self.hand_overs.rules.get(peer).filter(|rules| rules.identity == chain.user.identity);
        Some(said.cloned().unwrap_or_else(|| CapabilityRules::new(chain.device, chain.user.identity, 0)))
    }

    /// A device that holds a reservation says which capabilities count.
    pub(crate) fn handle_hand_over_rules(&mut self, peer: PeerId, message: &HandOverRules) {
        if self.swarm.behaviour().relay_server.as_ref().is_none() {
            return;
        }
        let Some(mut rules) = self.rules_of(&peer) else { return };
        rules.raise_epoch(message.epoch);
        let is_kept = message.revoked.iter().all(|id| rules.revoke(*id));
        if !is_kept {
            debug!(%peer, "more capabilities revoked than are kept: the rest counts on");
        }
        self.hand_overs.rules.insert(peer, rules);
    }

    /// A peer is gone, and what it had said with it.
    pub(crate) fn hand_over_peer_gone(&mut self, peer: &PeerId) {
        self.hand_overs.rules.remove(peer);
    }

    /// The device has answered.
    pub(crate) fn hand_over_device_answer(&mut self, handing: HandingOver, frame: &Frame) {
        self.hand_overs.end(&handing.device);
        let status = match frame.parse::<HandedOverAnswer>() {
            Ok(answer) => {
                debug!(peer = %handing.asker, status = ?answer.status, "invite handed over");
                HandOverStatus::HandedOver { status: answer.status, word: answer.word }
            }
            Err(_) => {
                self.counters.malformed += 1;
                HandOverStatus::Refused(HandOverReason::SILENT)
            }
        };
        self.answer_hand_over(handing, status);
    }

    pub(crate) fn hand_over_device_failure(&mut self, handing: HandingOver, failure: Failure) {
        debug!(peer = %handing.asker, %failure, "invite not taken by the device");
        self.hand_overs.end(&handing.device);
        self.answer_hand_over(handing, HandOverStatus::Refused(HandOverReason::SILENT));
    }

    fn answer_hand_over(&mut self, handing: HandingOver, status: HandOverStatus) {
        let counts = &mut self.hand_overs.counts;
        match &status {
            HandOverStatus::HandedOver { .. } => counts.handed_over += 1,
            HandOverStatus::Refused(_) => counts.refused += 1,
        }
        let answer = HandOverAnswer { status, extensions: Extensions::none() };
        self.answer_encoded(handing.asker, handing.via, handing.id, HandOverAnswer::KIND, wire::encode(&answer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use halloo_protocol::key::PublicKey;

    #[test]
    fn what_is_under_way_is_bounded_for_each_device_and_altogether() {
        let mut hand_overs = HandOvers::default();
        let device = |number: u32| {
            let mut bytes = [0; 32];
            bytes[..4].copy_from_slice(&number.to_be_bytes());
            DeviceKey(PublicKey(bytes))
        };
        for _ in 0..UNDER_WAY_PER_DEVICE_MAX {
            assert_eq!(hand_overs.begin(device(0)), Ok(()));
        }
        assert_eq!(hand_overs.begin(device(0)), Err(HandOverReason::FULL));
        for number in UNDER_WAY_PER_DEVICE_MAX..UNDER_WAY_MAX {
            assert_eq!(hand_overs.begin(device(number)), Ok(()));
        }
        assert_eq!(hand_overs.begin(device(9_999)), Err(HandOverReason::FULL));
        hand_overs.end(&device(0));
        assert_eq!(hand_overs.begin(device(0)), Ok(()));
        for number in 0..UNDER_WAY_MAX {
            for _ in 0..UNDER_WAY_PER_DEVICE_MAX {
                hand_overs.end(&device(number));
            }
        }
        assert!(hand_overs.under_way.is_empty());
    }
}
