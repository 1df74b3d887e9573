//! Word of what became of pushes: between device and sender, and from a gateway to the sender. What is told and why is in
//! `halloo_protocol::push::receipt`.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use halloo_protocol::call::InviteWay;
use halloo_protocol::key::DeviceKey;
use halloo_protocol::push::{ACCEPTED_MAX, DeliveryWatch, OuterPayload, PushArrived, PushArrivedNoted, PushReceipt, sealed_hash};
use halloo_protocol::time::Now;
use halloo_protocol::wire::{Extensions, Frame};
use libp2p::PeerId;
use tracing::{debug, info};

use super::{GATEWAY_TIMEOUT, Handed, LOCAL_ENDPOINT, Opened, Sending, WireChannel, gateway_name};
use crate::address;
use crate::event_loop::EventLoop;
use crate::handle::Event;
use crate::handle::calls::CallStageKind;
use crate::network::{Purpose, Target};

/// Pushes of ours whose receipts count; those of the oldest come in vain.
const HANDED_MAX: usize = 256;

/// Receipts that wait for a connection to the sender; the oldest fall out.
const WAITING_MAX: usize = 64;

/// A push of ours that a gateway was asked to bring.
#[derive(Debug)]
struct HandedPush {
    device: DeviceKey,
    gateway: DeviceKey,
    request_hash: [u8; 32],
    sealed_hash: [u8; 16],
    sending: Sending,
    /// It has said that it takes it, and not yet that it couldn't bring it.
    is_accepted: bool,
    /// Until then the gateway keeps it back, as the user's policy wants it: that it doesn't come is no fault of the gateway's.
    kept_until: Option<Instant>,
    has_arrived: bool,
}

impl HandedPush {
    /// Whether the gateway is to have brought it by now.
    fn is_due(&self, now: Instant) -> bool {
        self.is_accepted && self.kept_until.is_none_or(|until| until <= now)
    }
}

/// Receipts of both directions.
#[derive(Debug, Default)]
pub(super) struct Receipts {
    handed: VecDeque<HandedPush>,
    waiting: VecDeque<(DeviceKey, PushArrived)>,
    watch: DeliveryWatch,
}

// The sender's side.
impl EventLoop {
    /// A push is handed to a gateway. A self-test has its own account.
    pub(super) fn note_handed(&mut self, device: DeviceKey, gateway: DeviceKey, handed: &Handed, sealed: &[u8]) {
        if matches!(handed.sending, Sending::Test { .. }) {
            return;
        }
        let (request_hash, sealed_hash) = (handed.push.request_hash, sealed_hash(sealed));
        let push = HandedPush {
            device,
            gateway,
            request_hash,
            sealed_hash,
            sending: handed.sending,
            is_accepted: false,
            kept_until: None,
            has_arrived: false,
        };
        let handed = &mut self.push.receipts.handed;
        if handed.len() >= HANDED_MAX {
            handed.pop_front();
        }
        handed.push_back(push);
    }

    /// A gateway has taken a push, and keeps it back for so many seconds.
    pub(super) fn note_push_accepted(&mut self, request_hash: &[u8; 32], kept_secs: Option<u16>) {
        let kept_until = kept_secs.map(|secs| Instant::now() + Duration::from_secs(secs.into()));
        for handed in self.push.receipts.handed.iter_mut().filter(|handed| handed.request_hash == *request_hash) {
            (handed.is_accepted, handed.kept_until) = (true, kept_until);
        }
    }

    /// A push is taken back before its time: its gateway isn't to bring it any more.
    pub(super) fn note_push_withdrawn(&mut self, request_hash: &[u8; 32]) {
        let handed = self.push.receipts.handed.iter_mut().filter(|handed| handed.request_hash == *request_hash);
        handed.for_each(|handed| handed.is_accepted = false);
    }

    /// A device says that a push of ours has come, and learns who else had accepted it.
    pub(crate) fn handle_push_arrived(&mut self, peer: PeerId, arrived: &PushArrived) -> PushArrivedNoted {
        let Some(device) = self.peers.get(&peer).map(|known| known.device) else { return noted(Vec::new()) };
        let (handed, now) = (&mut self.push.receipts.handed, Instant::now());
        let is_of_it = |handed: &&mut HandedPush| handed.device == device && handed.sealed_hash == arrived.sealed_hash;
        let mut accepted = Vec::new();
        let mut news = None;
        for handed in handed.iter_mut().filter(is_of_it) {
            if handed.gateway == arrived.gateway {
                news = (!handed.has_arrived).then_some(handed.sending);
                handed.has_arrived = true;
            }
            if (handed.is_due(now) || handed.has_arrived) && accepted.len() < ACCEPTED_MAX {
                accepted.push(handed.gateway);
            }
        }
        if let Some(sending) = news {
            self.tell_arrived(device, arrived, sending);
        }
        noted(accepted)
    }

    fn tell_arrived(&mut self, device: DeviceKey, arrived: &PushArrived, sending: Sending) {
        let name = |key: &DeviceKey| address::peer_id(key).map(|peer| peer.to_string()).unwrap_or_default();
        let (mut call_id, mut message_id) = (None, None);
        match sending {
            Sending::Call { call, .. } => {
                let way = if arrived.on_stream { "on its stream" } else { "by a push service" };
                let words = format!("the push of gateway {} came to it {way}", name(&arrived.gateway));
                self.note_stage(call, CallStageKind::Push, Some(&device), words);
                call_id = Some(call.to_string());
            }
            Sending::Letter { message } => message_id = Some(message.to_string()),
            Sending::Test { .. } => return,
        }
        self.events.send(Event::PushArrived {
            peer_id: name(&device),
            gateway: name(&arrived.gateway),
            on_stream: arrived.on_stream,
            status: arrived.status.as_str().to_owned(),
            call_id,
            message_id,
        });
    }

    /// A gateway says what became of a push of ours. Only of one that it has taken.
    pub(crate) fn handle_push_receipt(&mut self, peer: PeerId, receipt: &PushReceipt) {
        let Some(gateway) = self.peers.get(&peer).map(|known| known.device) else { return };
        let is_meant = |handed: &&mut HandedPush| handed.gateway == gateway && handed.request_hash == receipt.request_hash;
        let Some(handed) = self.push.receipts.handed.iter_mut().find(is_meant).filter(|handed| handed.is_accepted) else {
            return debug!("a receipt for a push that isn't at that gateway");
        };
        let (sending, device) = (handed.sending, handed.device);
        match receipt.result {
            Ok(status) => {
                debug!(?sending, way = receipt.way.name(), ?status, "the gateway has brought the push");
                if let Sending::Call { call, .. } = sending {
                    let words = format!("its gateway has brought the push: {}", status.as_str());
                    self.note_stage(call, CallStageKind::Push, Some(&device), words);
                }
            }
            Err(reason) => {
                handed.is_accepted = false;
                self.push_not_sent(sending, format!("taken, and not brought: {reason}"));
            }
        }
    }
}

const fn noted(accepted: Vec<DeviceKey>) -> PushArrivedNoted {
    PushArrivedNoted { accepted, extensions: Extensions::none() }
}

// The device's side.
impl EventLoop {
    /// A push has come and was opened: whoever sent it is told, at once or when a connection stands.
    pub(super) fn note_push_arrival(&mut self, outer: &OuterPayload, way: InviteWay, opened: &Opened) {
        let Some(sender) = opened.sender.filter(|sender| *sender != self.identity.device()) else { return };
        for gateway in self.gateways_with(&outer.gateway) {
            self.push.receipts.watch.handle_arrival(outer.sealed_hash, gateway);
        }
        let arrived = PushArrived {
            sealed_hash: outer.sealed_hash,
            gateway: outer.gateway,
            on_stream: way == InviteWay::Gateway,
            status: opened.status,
            extensions: Extensions::none(),
        };
        let waiting = &mut self.push.receipts.waiting;
        if waiting.len() >= WAITING_MAX {
            waiting.pop_front();
        }
        waiting.push_back((sender, arrived));
        if let Some(peer) = address::peer_id(&sender) {
            self.tell_push_arrivals(peer);
        }
    }

    /// A gateway, and those that share its database: whoever of them brings a push, all of them have.
    fn gateways_with(&self, gateway: &DeviceKey) -> Vec<DeviceKey> {
        let registered = &self.push.registered;
        let handle = registered.iter().find(|known| known.gateway.device == *gateway).map(|known| known.handle);
        let mut group: Vec<DeviceKey> =
            registered.iter().filter(|known| Some(known.handle) == handle).map(|known| known.gateway.device).collect();
        group.retain(|other| self.push.groups.share(gateway, other));
        group.push(*gateway);
        group.sort_unstable();
        group.dedup();
        group
    }

    /// Sends what waits for a sender, if it is there. Nobody is dialled for it, and only contacts hear when a device of ours was awake.
    pub(crate) fn tell_push_arrivals(&mut self, peer: PeerId) {
        let Some(known) = self.peers.get(&peer) else { return };
        let device = known.device;
        let Some(chain) = known.chain.clone().filter(|_| self.push.receipts.waiting.iter().any(|(sender, _)| *sender == device))
        else {
            return;
        };
        let is_near = self.is_near(&chain);
        let (due, left): (VecDeque<_>, VecDeque<_>) =
            self.push.receipts.waiting.drain(..).partition(|(sender, _)| *sender == device);
        self.push.receipts.waiting = left;
        for (_, arrived) in due.into_iter().filter(|_| is_near) {
            let purpose = Purpose::PushArrived(arrived.sealed_hash);
            self.request(&Target::connected(peer), &arrived, purpose, GATEWAY_TIMEOUT);
        }
    }

    /// The sender says which gateways had accepted what has come.
    pub(crate) fn push_arrived_answer(&mut self, sealed_hash: [u8; 16], frame: &Frame) {
        let Ok(noted) = frame.parse::<PushArrivedNoted>() else {
            self.counters.malformed += 1;
            return;
        };
        let now = Instant::now();
        for gateway in noted.accepted {
            if self.is_gateway_seen(&gateway) {
                self.push.receipts.watch.handle_accepted(sealed_hash, gateway, now);
            }
        }
    }

    /// Whether what a gateway brings comes to this node without an application that hands it over.
    fn is_gateway_seen(&self, gateway: &DeviceKey) -> bool {
        let is_connected = address::peer_id(gateway).is_some_and(|peer| self.peers.get(&peer).is_some());
        self.push.registered.iter().filter(|known| known.gateway.device == *gateway && known.is_live()).any(|known| match &known
            .channel
        {
            WireChannel::Stream => is_connected,
            WireChannel::WebPush { endpoint, .. } => endpoint.starts_with(LOCAL_ENDPOINT),
            _ => false,
        })
    }

    /// What was waited for while the device slept gets its time anew.
    pub(super) fn push_receipts_woken(&mut self) {
        self.push.receipts.watch.handle_woken(Instant::now());
    }

    /// A gateway that drops what it accepts is replaced, where there is another.
    pub(super) fn push_receipts_tick(&mut self, now: Now) {
        if self.suspended_since.is_some() {
            return;
        }
        for gateway in self.push.receipts.watch.poll(now.instant) {
            let name = gateway_name(&halloo_protocol::directory::Helper { device: gateway, addresses: Vec::new() });
            let is_replaced = self.replace_gateway(&gateway);
            info!(gateway = %name, is_replaced, "the gateway accepts pushes and doesn't bring them");
            let what = if is_replaced {
                "another one is to take its place"
            } else {
                "no other is known: halloo push register .. --gateway PEER"
            };
            let detail = format!("gateway {name} accepted pushes that others brought and it didn't; {what}");
            self.events.send(Event::Warning { code: "push-gateway-silent".into(), detail });
        }
    }
}
