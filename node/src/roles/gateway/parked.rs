//! What waits for records. With the node's own database nothing does: all is done at once. With a shared one a request is parked while what it
//! needs is fetched, decided on, and parked again until what it changes is committed; then it is answered. If the database isn't there it is refused as what
//! may be tried again, and callers have other gateways.

use std::collections::HashMap;

use halloo_protocol::choice::{ChoiceStatus, PushChoice, PushChosen};
use halloo_protocol::identity::VerifiedChain;
use halloo_protocol::key::{DeviceKey, IdentityKey};
use halloo_protocol::push::hand_on::{PushHandOn, PushHandedOn};
use halloo_protocol::push::registration::Registration;
use halloo_protocol::push::session::{SessionOpen, SessionOpened, SessionOutcome, SessionReason};
use halloo_protocol::push::{
    ChannelEnd, DeliveredStatus, KeepStatus, PushChannel, PushHandle, PushKeep, PushKept, PushReason, PushRegister,
    PushRegistered, PushSend, PushSent, PushStatus, PushUnregister, RegisterStatus,
};
use halloo_protocol::wire::{DecodeError, Extensions, Frame, FrameKind, Message};
use libp2p::PeerId;
use libp2p::swarm::ConnectionId;
use tracing::{debug, warn};

use super::ending::Ending;
use super::records::shared::{Change, Outcome, Query, World};
use super::sessions::Asking;
use super::{Kept, keeper};
use crate::event_loop::EventLoop;
use crate::handle::Reply;
use crate::handle::push::PushError;
use crate::handle::push_sessions::{PushSessionOptions, PushSessionReport};
use crate::requests::unsupported;
use crate::rpc::Failure;
use crate::store::PendingPush;

/// What may wait for a shared database; more is refused.
const PARKED_MAX: usize = 8_192;

/// Of these, requests of one peer.
const PARKED_PER_PEER_MAX: usize = 48;

/// How often a request is decided anew because another process was faster.
const TRIES: u8 = 4;

/// A push that was decided on, and its way once it is in the database.
#[derive(Debug)]
pub(super) struct Accepted {
    pub(super) number: u64,
    pub(super) registration: Registration,
    pub(super) pending: PendingPush,
    pub(super) kept: Kept,
    pub(super) held_secs: u16,
    /// Who sent it, and what, if it came from its sender.
    pub(super) sender: Option<(PeerId, PushSend)>,
}

/// What is to be done with records at hand.
pub(super) enum Then {
    /// A request of a peer.
    Request { peer: PeerId, via: ConnectionId, frame: Frame, tries: u8 },
    /// A push's next attempt.
    Retry(u64),
    /// A push service says that a channel has ended.
    EndChannel { handle: PushHandle, channel: PushChannel, reason: ChannelEnd },
    /// A device was removed by its user.
    EndDevice { identity: IdentityKey, device: DeviceKey },
    /// A device has connected.
    Greeted { peer: PeerId, device: DeviceKey },
    /// A lease is to be renewed.
    Keep { device: DeviceKey, kept: Option<keeper::Kept> },
    /// The operator's command.
    Session { options: Box<PushSessionOptions>, reply: Reply<PushSessionReport, PushError> },
    /// A client was silent.
    Wake { asking: Asking, payload: Vec<u8>, failure: Failure },
    /// Another gateway's push is wanted on the stream of a device here.
    Bring { number: u64, device: DeviceKey },
    /// Another gateway says that it has brought a push that is ours.
    Brought { number: u64, status: DeliveredStatus },
    /// Rows are ours and not known here.
    TakeUp(Vec<u64>),
}

/// A request that is decided, and answered once that is committed.
struct Decided {
    peer: PeerId,
    via: ConnectionId,
    request: Frame,
    answer: Frame,
    accepted: Vec<Accepted>,
    tries: u8,
}

/// What waits for a shared database, by ticket.
#[derive(Default)]
pub(super) struct Parking {
    tickets: u64,
    loading: HashMap<u64, Then>,
    committing: HashMap<u64, Decided>,
    /// How many requests each peer has there.
    of_peer: HashMap<PeerId, usize>,
    /// Pushes of the decision that is being made.
    accepted: Vec<Accepted>,
    /// Devices that were removed.
    pub(super) ending: Ending,
}

impl Parking {
    /// Nothing waits but devices that were to be ended in an earlier run.
    pub(super) fn new(ending: Ending) -> Self {
        Self { ending, ..Self::default() }
    }

    /// Nobody takes all of the room.
    fn has_room_for(&self, peer: Option<PeerId>) -> bool {
        let of_peer = peer.and_then(|peer| self.of_peer.get(&peer)).copied().unwrap_or_default();
        of_peer < PARKED_PER_PEER_MAX && self.loading.len() + self.committing.len() < PARKED_MAX
    }

    fn load(&mut self, ticket: u64, then: Then) {
        self.count(then.peer());
        self.loading.insert(ticket, then);
    }

    fn loaded(&mut self, ticket: u64) -> Option<Then> {
        let then = self.loading.remove(&ticket)?;
        self.uncount(then.peer());
        Some(then)
    }

    fn commit(&mut self, ticket: u64, decided: Decided) {
        self.count(Some(decided.peer));
        self.committing.insert(ticket, decided);
    }

    fn committed(&mut self, ticket: u64) -> Option<Decided> {
        let decided = self.committing.remove(&ticket)?;
        self.uncount(Some(decided.peer));
        Some(decided)
    }

    fn count(&mut self, peer: Option<PeerId>) {
        peer.into_iter().for_each(|peer| *self.of_peer.entry(peer).or_default() += 1);
    }

    fn uncount(&mut self, peer: Option<PeerId>) {
        let Some(peer) = peer else { return };
        let left = self.of_peer.get(&peer).copied().unwrap_or_default().saturating_sub(1);
        match left {
            0 => drop(self.of_peer.remove(&peer)),
            left => drop(self.of_peer.insert(peer, left)),
        }
    }

    fn ticket(&mut self) -> u64 {
        self.tickets += 1;
        self.tickets
    }
}

impl Then {
    /// Who has asked for it.
    const fn peer(&self) -> Option<PeerId> {
        match self {
            Self::Request { peer, .. } => Some(*peer),
            _ => None,
        }
    }
}

/// True for requests that are decided by the gateway's records.
pub(crate) fn is_for_gateway(kind: FrameKind) -> bool {
    const KINDS: [FrameKind; 7] = [
        PushRegister::KIND,
        PushKeep::KIND,
        PushChoice::KIND,
        PushUnregister::KIND,
        PushSend::KIND,
        PushHandOn::KIND,
        SessionOpen::KIND,
    ];
    KINDS.contains(&kind)
}

/// The answer while the database isn't there.
fn unavailable(frame: &Frame) -> Frame {
    let (reason, none) = (PushReason::TEMPORARY, Extensions::none());
    let id = frame.id;
    match frame.kind {
        PushRegister::KIND => Frame::new(id, &PushRegistered { status: RegisterStatus::Refused(reason), extensions: none }),
        PushKeep::KIND => Frame::new(id, &PushKept { status: KeepStatus::Refused(reason), extensions: none }),
        PushChoice::KIND => Frame::new(id, &PushChosen { status: ChoiceStatus::Refused(reason), extensions: none }),
        // It has no word for "later": a device that gets another answer says that the gateway wasn't told.
        PushUnregister::KIND => unsupported(id),
        PushSend::KIND => Frame::new(id, &PushSent { status: PushStatus::Refused(reason), extensions: none }),
        PushHandOn::KIND => Frame::new(id, &PushHandedOn { result: Err(reason), extensions: none }),
        SessionOpen::KIND => {
            let status = SessionOutcome::Refused(SessionReason::BUSY);
            Frame::new(id, &SessionOpened { status, extensions: none })
        }
        _ => unsupported(id),
    }
}

// Requests.
impl EventLoop {
    /// Answers a request that is decided by the gateway's records, now or when they are there.
    pub(crate) fn handle_gateway_request(&mut self, peer: PeerId, via: ConnectionId, frame: &Frame) {
        if self.gateway.as_ref().is_some_and(|gateway| gateway.records.shared().is_some()) {
            return self.with_records(Then::Request { peer, via, frame: frame.clone(), tries: 0 });
        }
        let answer = self.gateway_answer(peer, frame);
        self.send_answer(peer, via, answer);
    }

    fn gateway_answer(&mut self, peer: PeerId, frame: &Frame) -> Frame {
        self.try_gateway_answer(peer, frame).unwrap_or_else(|error| {
            debug!(%peer, %error, "request refused");
            self.counters.malformed += 1;
            unsupported(frame.id)
        })
    }

    fn try_gateway_answer(&mut self, peer: PeerId, frame: &Frame) -> Result<Frame, DecodeError> {
        let chain = self.chain_of(&peer);
        let chain = chain.as_ref();
        match frame.kind {
            PushRegister::KIND => self.with(frame, |node, request| node.handle_push_register_request(chain, request)),
            PushKeep::KIND => self.with(frame, |node, request: PushKeep| node.handle_push_keep(chain, &request)),
            PushChoice::KIND => self.with(frame, |node, choice| node.handle_push_choice(chain, choice)),
            PushUnregister::KIND => {
                self.with(frame, |node, request: PushUnregister| node.handle_push_unregister(chain, &request))
            }
            PushSend::KIND => self.with(frame, |node, request: PushSend| node.handle_push_send(peer, chain, &request)),
            PushHandOn::KIND => self.with(frame, |node, request: PushHandOn| node.handle_push_hand_on(peer, &request)),
            SessionOpen::KIND => self.with(frame, |node, request| node.handle_session_open(chain, request)),
            _ => Ok(unsupported(frame.id)),
        }
    }

    fn send_answer(&mut self, peer: PeerId, via: ConnectionId, answer: Frame) {
        self.answer_encoded(peer, via, answer.id, answer.kind, answer.body);
    }

    /// A push is decided on: it is the caller's answer at once, or when it is committed.
    pub(super) fn accepted(&mut self, accepted: Accepted) {
        match &mut self.gateway {
            Some(gateway) if gateway.records.shared().is_some() => gateway.parked.accepted.push(accepted),
            _ => self.push_accepted(&accepted),
        }
    }
}

// Parking.
impl EventLoop {
    /// Does something with the records it needs at hand: at once, or when they are there.
    pub(super) fn with_records(&mut self, then: Then) {
        let Some(gateway) = &self.gateway else { return self.without_gateway(then) };
        if gateway.records.shared().is_none() {
            return self.carry_on(then);
        }
        let query = self.query_for(&then);
        let Some(gateway) = &mut self.gateway else { return };
        let ticket = gateway.parked.ticket();
        let is_sent =
            gateway.parked.has_room_for(then.peer()) && gateway.records.shared().is_some_and(|shared| shared.load(ticket, query));
        if !is_sent {
            return self.without_records(then);
        }
        gateway.parked.load(ticket, then);
    }

    fn without_gateway(&mut self, then: Then) {
        match then {
            Then::Session { reply, .. } => reply.send(Err(PushError::NotAGateway)),
            Then::Wake { asking, failure, .. } => self.wake_silent_client(asking, &[], failure),
            _ => {}
        }
    }

    fn carry_on(&mut self, then: Then) {
        match then {
            Then::Request { peer, via, frame, .. } => {
                let answer = self.gateway_answer(peer, &frame);
                self.send_answer(peer, via, answer);
            }
            Then::Retry(number) => self.retry_push(number),
            Then::EndChannel { handle, channel, reason } => self.end_channel(&handle, &channel, reason),
            Then::EndDevice { identity, device } => self.end_registration_now(&identity, &device),
            Then::Greeted { peer, device } => self.serve_greeted(peer, &device),
            Then::Keep { device, kept } => self.renew_keep(device, kept),
            Then::Session { options, reply } => self.run_session_command(&options, reply),
            Then::Wake { asking, payload, failure } => self.wake_silent_client(asking, &payload, failure),
            Then::Bring { device, .. } => self.bring_others_pushes(&device),
            Then::Brought { number, status } => self.check_brought(number, status),
            Then::TakeUp(_) => self.take_up_found(),
        }
    }

    /// The database isn't there. What isn't a request comes up again by itself: at the next attempt, the next look, the next connection.
    fn without_records(&mut self, then: Then) {
        match then {
            Then::Request { peer, via, frame, .. } => self.send_answer(peer, via, unavailable(&frame)),
            Then::Session { reply, .. } => reply.send(Err(PushError::NoPlan("the gateway's database isn't there".into()))),
            Then::Wake { asking, failure, .. } => self.wake_silent_client(asking, &[], failure),
            _ => {}
        }
    }

    fn query_for(&self, then: &Then) -> Query {
        match then {
            Then::Request { peer, frame, .. } => query_of(frame, self.chain_of(peer).as_ref()),
            Then::Retry(number) => {
                let records = self.gateway.as_ref().map(|gateway| &gateway.records);
                let push = records.and_then(|records| records.pending(*number).ok()?);
                let handle = push.and_then(|push| PushHandle::from_slice(&push.handle));
                Query { handle, own: vec![*number], ..Query::default() }
            }
            Then::EndChannel { handle, .. } => Query { handle: Some(*handle), ..Query::default() },
            Then::EndDevice { device, .. } => Query { devices: vec![*device], ..Query::default() },
            Then::Greeted { device, .. } => Query { devices: vec![*device], waiting_for: Some(*device), ..Query::default() },
            Then::Keep { kept, .. } => Query { handle: kept.as_ref().map(|kept| kept.handle), ..Query::default() },
            Then::Session { options, .. } => Query { user: self.labels.parse(&options.identity).ok(), ..Query::default() },
            Then::Wake { asking, .. } => Query { devices: vec![asking.device], ..Query::default() },
            Then::TakeUp(numbers) => Query { own: numbers.clone(), ..Query::default() },
            Then::Bring { number, .. } | Then::Brought { number, .. } => Query { push: Some(*number), ..Query::default() },
        }
    }
}

/// What a request is decided by.
fn query_of(frame: &Frame, chain: Option<&VerifiedChain>) -> Query {
    let device = chain.map(|chain| chain.device);
    let identity = chain.map(|chain| chain.user.identity.0);
    let own = Query { devices: device.into_iter().collect(), identity, ..Query::default() };
    match frame.kind {
        PushKeep::KIND => {
            let handle = frame.parse::<PushKeep>().ok().map(|request| request.handle);
            Query { handle, ..Query::default() }
        }
        PushUnregister::KIND => Query { handle: frame.parse::<PushUnregister>().ok().map(|request| request.handle), ..own },
        PushChoice::KIND => {
            let choice = frame.parse::<PushChoice>().ok();
            let named = choice
                .iter()
                .flat_map(|choice| choice.devices.iter().copied().chain(choice.reports.iter().map(|report| report.device)));
            Query { devices: device.into_iter().chain(named).collect(), ..own }
        }
        PushSend::KIND => {
            let handle = frame.parse::<PushSend>().ok().map(|request| request.handle);
            Query { handle, ..Query::default() }
        }
        PushHandOn::KIND => {
            let device = frame.parse::<PushHandOn>().ok().map(|request| request.word.unverified().device);
            Query { devices: device.into_iter().collect(), ..Query::default() }
        }
        _ => own,
    }
}

// Decisions.
impl EventLoop {
    pub(super) fn records_loaded(&mut self, ticket: u64, world: Option<World>) {
        let Some(gateway) = &mut self.gateway else { return };
        let Some(then) = gateway.parked.loaded(ticket) else { return };
        let (Some(world), Some(shared)) = (world, gateway.records.shared_mut()) else { return self.without_records(then) };
        shared.begin(world);
        match then {
            Then::Request { peer, via, frame, tries } => {
                let answer = self.gateway_answer(peer, &frame);
                let (changes, accepted) = self.end_decision();
                let decided = Decided { peer, via, request: frame, answer, accepted, tries };
                self.commit_decided(decided, changes);
            }
            then => {
                let ending = if let Then::EndDevice { identity, device } = &then { Some((*identity, *device)) } else { None };
                self.carry_on(then);
                let (changes, _) = self.end_decision();
                let Some(gateway) = self.gateway.as_mut().filter(|_| !changes.is_empty()) else {
                    return ending.into_iter().for_each(|ending| self.device_ended(&ending));
                };
                let ticket = gateway.parked.ticket();
                // Nobody waits: what comes to nothing because another process was faster comes up again.
                if !gateway.records.shared().is_some_and(|shared| shared.commit(ticket, changes)) {
                    warn!("too much waits for the gateway's database");
                } else if let Some(ending) = ending {
                    gateway.parked.ending.committing.insert(ticket, ending);
                }
            }
        }
    }

    fn end_decision(&mut self) -> (Vec<Change>, Vec<Accepted>) {
        let Some(gateway) = &mut self.gateway else { return (Vec::new(), Vec::new()) };
        let changes = gateway.records.shared_mut().map(|shared| shared.end()).unwrap_or_default();
        (changes, std::mem::take(&mut gateway.parked.accepted))
    }

    fn commit_decided(&mut self, decided: Decided, changes: Vec<Change>) {
        if changes.is_empty() {
            return self.send_answer(decided.peer, decided.via, decided.answer);
        }
        let Some(gateway) = &mut self.gateway else { return };
        let ticket = gateway.parked.ticket();
        let is_sent = gateway.parked.has_room_for(Some(decided.peer))
            && gateway.records.shared().is_some_and(|shared| shared.commit(ticket, changes));
        if is_sent {
            gateway.parked.commit(ticket, decided);
        } else {
            self.undo(&decided);
            self.send_answer(decided.peer, decided.via, unavailable(&decided.request));
        }
    }

    pub(super) fn records_committed(&mut self, ticket: u64, outcome: Option<Outcome>) {
        if let Some(ending) = self.gateway.as_mut().and_then(|gateway| gateway.parked.ending.committing.remove(&ticket)) {
            if outcome == Some(Outcome::Done) {
                self.device_ended(&ending);
            }
            return;
        }
        let decided = self.gateway.as_mut().and_then(|gateway| gateway.parked.committed(ticket));
        let Some(decided) = decided else { return };
        match outcome {
            Some(Outcome::Done) => {
                for accepted in &decided.accepted {
                    let shared = self.gateway.as_mut().and_then(|gateway| gateway.records.shared_mut());
                    // Another process may have brought it by now.
                    if shared.is_some_and(|shared| !shared.take_up(&[(accepted.number, accepted.pending.clone())]).is_empty()) {
                        self.push_accepted(accepted);
                    }
                }
                self.send_answer(decided.peer, decided.via, decided.answer);
            }
            Some(Outcome::Known(number)) => {
                // Another process of the group was handed the same push: it is its own. Or it is here since before, and its commit's answer was lost.
                self.undo(&decided);
                self.take_up_missing(number.into_iter().collect());
                self.send_answer(decided.peer, decided.via, decided.answer);
            }
            Some(Outcome::Conflict) if decided.tries < TRIES => {
                self.undo(&decided);
                let Decided { peer, via, request, tries, .. } = decided;
                self.with_records(Then::Request { peer, via, frame: request, tries: tries + 1 });
            }
            Some(Outcome::Conflict | Outcome::Unsealed) | None => {
                self.undo(&decided);
                self.send_answer(decided.peer, decided.via, unavailable(&decided.request));
            }
        }
    }

    /// What a decision took up here that isn't in the database; if it is after all, it is missed when the rows are compared.
    fn undo(&mut self, decided: &Decided) {
        if let Some(shared) = self.gateway.as_mut().and_then(|gateway| gateway.records.shared_mut()) {
            decided.accepted.iter().for_each(|accepted| shared.let_go(accepted.number));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(peer: PeerId) -> Then {
        Then::Request { peer, via: ConnectionId::new_unchecked(1), frame: unsupported(1), tries: 0 }
    }

    #[test]
    fn a_peer_takes_a_part_of_the_room_until_it_is_answered() {
        let (greedy, other) = (PeerId::random(), PeerId::random());
        let mut parking = Parking::default();
        let tickets: Vec<u64> = (0..PARKED_PER_PEER_MAX).map(|_| parking.ticket()).collect();
        for ticket in &tickets {
            assert!(parking.has_room_for(Some(greedy)));
            parking.load(*ticket, request(greedy));
        }
        assert!(!parking.has_room_for(Some(greedy)) && parking.has_room_for(Some(other)) && parking.has_room_for(None));
        assert!(tickets.iter().all(|ticket| parking.loaded(*ticket).is_some()));
        assert!(parking.has_room_for(Some(greedy)) && parking.of_peer.is_empty());
        assert!(parking.loaded(tickets[0]).is_none(), "answered once");
    }

    #[test]
    fn a_device_that_takes_its_leave_while_the_database_is_away_is_not_told_that_it_is_gone() {
        let request = PushUnregister { handle: PushHandle([1; 32]), extensions: Extensions::none() };
        let answer = unavailable(&Frame::new(7, &request));
        assert!(answer.parse::<halloo_protocol::push::PushUnregistered>().is_err());
        let request = PushKeep { handle: PushHandle([1; 32]), entry_hash: [0; 32], extensions: Extensions::none() };
        let told = unavailable(&Frame::new(7, &request)).parse::<PushKept>().map(|kept| kept.status);
        assert_eq!(told.ok(), Some(KeepStatus::Refused(PushReason::TEMPORARY)));
    }
}
