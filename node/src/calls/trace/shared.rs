//! Both ends of a call in one timeline: when it is over each asks the other what it has seen ([`halloo_protocol::call::CallTraceAsk`]).
//!
//! Told is the very device that the call was with, if it was answered here or the two are contacts; nobody else, and nobody ten minutes later.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use halloo_protocol::call::{CallId, CallTraceAsk, CallTraced, LegState, Reason, Trace, TraceKind, TraceStage};
use halloo_protocol::identity::UserId;
use halloo_protocol::key::DeviceKey;
use halloo_protocol::wire::{Extensions, Frame};
use libp2p::PeerId;
use tracing::{debug, warn};

use super::super::Progress;
use crate::address;
use crate::diagnosis::millis;
use crate::event_loop::EventLoop;
use crate::handle::calls::{CallEntry, CallStage, CallStageKind, OtherEnd};
use crate::network::{Purpose, Target};
use crate::rpc::Failure;
use crate::store::StoreError;

/// How long the other end may ask about a call that is over: it asks at once, and again at most when it has woken.
const TOLD_FOR: Duration = Duration::from_mins(10);

/// Calls that are over and can be asked about; the oldest makes room.
const PAST_MAX: usize = 64;

/// Devices asked about one call: those that were heard of, most of which a call without an answer has.
const ASKED_MAX: usize = 8;

/// How long an answer may take. Whoever looks at the call meanwhile sees that it is awaited.
const ASK_TIMEOUT: Duration = Duration::from_secs(5);

/// Stages kept of all other ends of one call: with the own ones they fit into one row.
const OTHER_STAGES_MAX: usize = 64;

/// A question about a call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TraceAsking {
    call: CallId,
    device: DeviceKey,
    asked: Instant,
}

/// A call that is over.
#[derive(Debug)]
struct Past {
    call: CallId,
    user: UserId,
    /// The devices at its other end.
    others: Vec<DeviceKey>,
    begun: Instant,
    ended: Instant,
    stages: Vec<CallStage>,
    /// Questions that aren't answered yet.
    pending: usize,
    /// Where it lies in the history, and as what; until the last answer is there.
    kept: Option<(u64, Box<CallEntry>)>,
}

/// The calls that can be asked about.
#[derive(Debug, Default)]
pub(crate) struct PastCalls(VecDeque<Past>);

impl PastCalls {
    fn find(&mut self, call: CallId) -> Option<&mut Past> {
        self.0.iter_mut().rev().find(|past| past.call == call)
    }

    /// Whether an answer of the other end is awaited.
    pub(super) fn is_asking(&self, call: CallId) -> bool {
        self.0.iter().any(|past| past.call == call && past.pending > 0)
    }
}

/// Whom a call was with, and who is asked about it.
#[derive(Debug)]
pub(in crate::calls) struct Ends {
    user: UserId,
    begun: Instant,
    others: Vec<DeviceKey>,
    asked: Vec<(DeviceKey, Target)>,
    is_answered: bool,
}

impl Ends {
    /// Of a call that came in and never rang: its caller may ask, and isn't asked.
    pub(in crate::calls) const fn of_unrung(user: UserId, begun: Instant, others: Vec<DeviceKey>) -> Self {
        Self { user, begun, others, asked: Vec::new(), is_answered: false }
    }
}

impl EventLoop {
    /// The other ends of a call that we placed: the device that answered, else all that were heard of.
    pub(in crate::calls) fn ends_of_outgoing(&self, call: CallId) -> Option<Ends> {
        let outgoing = self.calls.outgoing.get(&call).filter(|outgoing| outgoing.joined.is_none())?;
        let answered_by = outgoing.progress.answered_by;
        let is_heard_of = |device: &DeviceKey| {
            !matches!(outgoing.machine.leg_state(device), None | Some(LegState::Inviting | LegState::Failed(Reason::UNREACHABLE)))
        };
        let others: Vec<DeviceKey> = outgoing
            .legs
            .keys()
            .copied()
            .filter(|device| answered_by.map_or_else(|| is_heard_of(device), |by| by == *device))
            .collect();
        let target = |device: &DeviceKey| Some((*device, outgoing.legs.get(device)?.target.clone()));
        let asked = others.iter().filter_map(target).take(ASKED_MAX).collect();
        let (user, begun) = (outgoing.progress.user.clone(), outgoing.progress.started);
        Some(Ends { user, begun, others, asked, is_answered: answered_by.is_some() })
    }

    /// The other end of a call that came in.
    pub(in crate::calls) fn ends_of_incoming(&self, call: CallId) -> Option<Ends> {
        let incoming = self.calls.incoming.get(&call)?;
        let caller = incoming.machine.caller();
        let is_answered = incoming.progress.answered_at.is_some();
        // Nothing is dialled for this before somebody has answered.
        let target = if is_answered { Some(incoming.target.clone()) } else { address::peer_id(&caller).map(Target::connected) };
        let asked = target.map(|target| (caller, target)).into_iter().collect();
        let (user, begun) = (incoming.progress.user.clone(), incoming.progress.started);
        Some(Ends { user, begun, others: vec![caller], asked, is_answered })
    }

    /// Whether the two ends tell each other what they have seen.
    fn is_told(&self, user: &UserId, is_answered: bool) -> bool {
        is_answered || self.is_acquainted(user)
    }

    /// A call is over and kept: its other end may ask about it, and is asked.
    pub(in crate::calls) fn share_trace(&mut self, call: CallId, ends: Ends, entry: CallEntry, row: Option<u64>) {
        if !self.is_told(&ends.user, ends.is_answered) {
            return;
        }
        let now = Instant::now();
        self.calls.past.0.retain(|past| now.saturating_duration_since(past.ended) < TOLD_FOR);
        if self.calls.past.0.len() >= PAST_MAX {
            self.calls.past.0.pop_front();
        }
        let asked = if row.is_some() { ends.asked } else { Vec::new() };
        let (stages, pending) = (entry.stages.clone(), asked.len());
        let kept = row.filter(|_| pending > 0).map(|row| (row, Box::new(entry)));
        let Ends { user, others, begun, .. } = ends;
        self.calls.past.0.push_back(Past { call, user, others, begun, ended: now, stages, pending, kept });
        for (device, target) in asked {
            let asking = TraceAsking { call, device, asked: now };
            let ask = CallTraceAsk { call, extensions: Extensions::none() };
            self.request(&target, &ask, Purpose::CallTrace(asking), ASK_TIMEOUT);
        }
    }

    /// The other end of a call asks what was seen of it here.
    pub(crate) fn handle_call_trace_ask(&mut self, peer: PeerId, ask: &CallTraceAsk) -> CallTraced {
        let trace = address::device_key(&peer).and_then(|device| self.trace_for(ask.call, device));
        CallTraced { trace, extensions: Extensions::none() }
    }

    fn trace_for(&mut self, call: CallId, device: DeviceKey) -> Option<Trace> {
        let now = Instant::now();
        let running =
            |progress: &Progress| Trace::new(now.saturating_duration_since(progress.started), on_the_wire(&progress.stages));
        if let Some(ends) = self.ends_of_outgoing(call)
            && self.calls.outgoing.get(&call).is_some_and(|outgoing| !outgoing.is_quiet() || ends.is_answered)
        {
            let is_told = ends.others.contains(&device) && self.is_told(&ends.user, ends.is_answered);
            return self.calls.outgoing.get(&call).filter(|_| is_told).map(|outgoing| running(&outgoing.progress));
        }
        if let Some(ends) = self.ends_of_incoming(call) {
            let is_told = ends.others.contains(&device) && self.is_told(&ends.user, ends.is_answered);
            return self.calls.incoming.get(&call).filter(|_| is_told).map(|incoming| running(&incoming.progress));
        }
        let user = self.calls.past.find(call).map(|past| past.user.clone())?;
        // Somebody who was blocked after the call isn't told of it any more.
        let is_blocked = self.is_blocked(&user);
        let past = self.calls.past.find(call).filter(|past| past.others.contains(&device) && !is_blocked)?;
        let is_fresh = now.saturating_duration_since(past.ended) < TOLD_FOR;
        is_fresh.then(|| Trace::new(now.saturating_duration_since(past.begun), on_the_wire(&past.stages)))
    }

    pub(crate) fn call_trace_answer(&mut self, asking: TraceAsking, frame: &Frame) {
        let trace = match frame.parse::<CallTraced>() {
            Ok(answer) => answer.trace,
            Err(error) => {
                // Older versions don't know the question.
                debug!(call = %asking.call.short(), %error, "no trace of the other end");
                None
            }
        };
        self.trace_told(asking, trace);
    }

    pub(crate) fn call_trace_failure(&mut self, asking: TraceAsking, failure: Failure) {
        debug!(call = %asking.call.short(), %failure, "the other end doesn't say what it has seen");
        self.trace_told(asking, None);
    }

    /// Puts what the other end has seen beside what was seen here.
    fn trace_told(&mut self, asking: TraceAsking, trace: Option<Trace>) {
        let answered = Instant::now();
        let Some(past) = self.calls.past.find(asking.call) else { return };
        past.pending = past.pending.saturating_sub(1);
        let is_last = past.pending == 0;
        let begun = past.begun;
        let Some((row, entry)) = past.kept.as_mut() else { return };
        let told = trace.and_then(|trace| other_end(&asking, &trace, begun, answered));
        let changed = told.is_some();
        if let Some(other) = told {
            let known: usize = entry.other_ends.iter().map(|end| end.stages.len()).sum();
            let mut other = other;
            other.stages.truncate(OTHER_STAGES_MAX.saturating_sub(known));
            entry.other_ends.push(other);
        }
        let (row, bytes) = (*row, serde_json::to_vec(entry));
        if is_last {
            past.kept = None;
        }
        if let (true, Ok(bytes)) = (changed, bytes)
            && let Err(error) = self.store.transaction::<_, StoreError>(|tx| tx.update_call(row, &bytes))
        {
            warn!(%error, "what the other end of a call has seen isn't kept");
        }
    }
}

/// What another device has seen, at times counted from the call's beginning here.
fn other_end(asking: &TraceAsking, trace: &Trace, begun_here: Instant, answered: Instant) -> Option<OtherEnd> {
    let begun = trace.begun(asking.asked, answered)?;
    let at = |at_ms: u32| {
        let then = begun.at + Duration::from_millis(u64::from(at_ms));
        let (after, before) = (then.saturating_duration_since(begun_here), begun_here.saturating_duration_since(then));
        millis(after).cast_signed() - millis(before).cast_signed()
    };
    let stages = trace.stages.iter().map(|stage| CallStage {
        at_ms: at(stage.at_ms),
        stage: kind_shown(stage.kind),
        peer_id: stage.device.as_ref().and_then(address::peer_id).map(|peer| peer.to_string()),
        detail: stage.detail.chars().map(|c| if c.is_control() { ' ' } else { c }).collect(),
    });
    Some(OtherEnd {
        peer_id: address::peer_id(&asking.device)?.to_string(),
        off_by_ms: millis(begun.off_by),
        stages: stages.collect(),
    })
}

fn on_the_wire(stages: &[CallStage]) -> Vec<TraceStage> {
    let device = |peer: &String| address::device_key(&peer.parse().ok()?);
    let stage = |stage: &CallStage| TraceStage {
        at_ms: u32::try_from(stage.at_ms.max(0)).unwrap_or(u32::MAX),
        kind: kind_told(stage.stage),
        device: stage.peer_id.as_ref().and_then(device),
        detail: told(stage),
    };
    // Where the user is, and what policy they have, is nobody else's business.
    stages.iter().filter(|known| known.stage != CallStageKind::Choice).map(stage).collect()
}

/// How what is told of media begins.
const MEDIA_TOLD: [&str; 8] = [
    "ICE has found a path",
    "DTLS is through",
    "first audio",
    "another path",
    "closed by the other end",
    "connected",
    "being connected",
    super::RELAYED_BY_CHOICE,
];

/// The other end isn't told which relays, addresses and files media failed with here, nor what an embedder's engine said.
fn told(stage: &CallStage) -> String {
    let is_told = stage.stage != CallStageKind::Media || MEDIA_TOLD.iter().any(|begin| stage.detail.starts_with(begin));
    if is_told { stage.detail.clone() } else { "something about media failed; this end shows what".to_owned() }
}

const KINDS: [(CallStageKind, TraceKind); 10] = [
    (CallStageKind::Presence, TraceKind::PRESENCE),
    (CallStageKind::LookUp, TraceKind::LOOK_UP),
    (CallStageKind::Invite, TraceKind::INVITE),
    (CallStageKind::Relay, TraceKind::RELAY),
    (CallStageKind::Push, TraceKind::PUSH),
    (CallStageKind::Ring, TraceKind::RING),
    (CallStageKind::Crossed, TraceKind::CROSSED),
    (CallStageKind::Answer, TraceKind::ANSWER),
    (CallStageKind::Media, TraceKind::MEDIA),
    (CallStageKind::End, TraceKind::END),
];

fn kind_told(stage: CallStageKind) -> TraceKind {
    KINDS.iter().find(|(shown, _)| *shown == stage).map_or(TraceKind(0), |(_, told)| *told)
}

/// One that this version doesn't know says what it is in its text.
fn kind_shown(kind: TraceKind) -> CallStageKind {
    KINDS.iter().find(|(_, told)| *told == kind).map_or(CallStageKind::Other, |(shown, _)| *shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_failed_with_media_stays_here() {
        let stage = |stage, detail: &str| CallStage { at_ms: 1, stage, peer_id: None, detail: detail.to_owned() };
        let told = on_the_wire(&[
            stage(CallStageKind::Media, "DTLS is through: connected, direct"),
            stage(CallStageKind::Media, "relay 192.0.2.7:3478 lends no address: refused"),
            stage(CallStageKind::Media, "cannot play /home/alice/hello.wav"),
            stage(CallStageKind::Choice, "at once: it is in use"),
            stage(CallStageKind::Ring, "it rings here"),
        ]);
        let details: Vec<&str> = told.iter().map(|stage| stage.detail.as_str()).collect();
        let failed = "something about media failed; this end shows what";
        assert_eq!(details, ["DTLS is through: connected, direct", failed, failed, "it rings here"]);
    }
}
