//! Calls: dialling, ringing, talking.
//!
//! The decisions are the state machines' of `halloo_protocol::call`; this module carries them out. A dial looks the callee up, makes one
//! offer and one sealed invite per device, sends each on every way there is (stream, the device's relay, and push gateway where the device
//! names one), and connects media when a device accepts. Media runs in tasks of its own ([`driver`]).

mod conference;
mod crossing;
mod driver;
mod early;
mod hand_over;
mod incoming;
mod list;
pub mod media;
mod media_news;
mod outgoing;
mod own_audio;
mod own_engine;
mod phone;
mod signals;
mod telephone;
mod trace;
pub(crate) mod voicemail;

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use halloo_protocol::call::{CallId, Outcome, PhonePart, Reason, RecentCalls, TelephonePart, WithdrawnCalls};
use halloo_protocol::capability::Capability;
use halloo_protocol::identity::UserId;
use halloo_protocol::key::{DeviceKey, PublicKey};
use halloo_protocol::message::CallFate;
use halloo_protocol::phone::keys::parse_keys;
use halloo_protocol::rate::{Rate, RateLimiter};
use halloo_protocol::time::{Now, UnixTime};
use halloo_protocol::wire::Signed;
use libp2p::PeerId;
use tracing::warn;

pub(crate) use self::conference::NoticeTarget;
pub(crate) use self::driver::MediaNews;
pub(crate) use self::driver::describe;
use self::incoming::Incoming;
pub(crate) use self::incoming::{Arrival, Rung};
use self::media::{MediaConfig, MediaStats};
use self::outgoing::Outgoing;
pub(crate) use self::trace::{RELAYED_BY_CHOICE, TraceAsking, presence_words};
use crate::address;
use crate::event_loop::EventLoop;
use crate::handle::Reply;
use crate::handle::calls::{CallEntry, CallError, CallOutcome, CallPath, CallResult, CallStage, DialOptions};
use crate::handle::linked::LinkedPeer;
use crate::store::StoreError;
use crate::streams::Keeper;

/// Calls at once, in and out: far above what a person has, below what memory allows a stranger.
const CALLS_MAX: usize = 256;

/// Ended calls listed, also those of earlier runs; older ones are in the store.
const ENDED_MAX: usize = 200;

/// Calls an hour of one user: more rings than anybody answers.
const RING_RATE: Rate = Rate { per_hour: 60, burst: 10 };

/// The same in a lab, where machines talk.
const LAB_RING_RATE: Rate = Rate { per_hour: 360_000, burst: 10_000 };

/// Callers whose rates are remembered.
const CALLERS_MAX: usize = 4_096;

const RECENT: &str = "recent calls";

/// How long a signal waits for its acknowledgement; the machine repeats it.
const SIGNAL_TIMEOUT: Duration = Duration::from_secs(5);

/// How long to wait for the media's last figures before the call's outcome is told without them.
const SUMMARY_WAIT: Duration = Duration::from_secs(2);

/// An invite on its way to a device.
#[derive(Clone, Copy, Debug)]
pub(crate) struct InviteTarget {
    call: CallId,
    device: DeviceKey,
    /// Which of the call's legs to the device: another may have taken its place since.
    leg: u32,
}

/// A signal on its way to a device.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SignalTarget {
    call: CallId,
    device: DeviceKey,
    sequence: u32,
}

/// What both directions of a call remember.
#[derive(Debug)]
struct Progress {
    user: UserId,
    started: Instant,
    started_at: UnixTime,
    rang_at: Option<Instant>,
    answered_at: Option<Instant>,
    answered_by: Option<DeviceKey>,
    connected_at: Option<Instant>,
    via_push: bool,
    /// Whether it is a video call.
    is_video: bool,
    /// How media go, as the embedder's engine says.
    own_path: Option<CallPath>,
    ended: Option<(Outcome, Reason, Instant)>,
    stats: MediaStats,
    failure: Option<String>,
    /// The relay over which media goes.
    relay: Option<SocketAddr>,
    /// What relays have held against this call: they lent nothing, or dropped packets.
    relay_complaint: Option<String>,
    stages: Vec<CallStage>,
    /// What the invite says of the telephone network.
    telephone: Option<TelephonePart>,
    /// The one phone that is called.
    phone: Option<PhonePart>,
    /// The contact in a linked system as whom the other is shown.
    linked: Option<LinkedPeer>,
}

impl Progress {
    fn new(user: UserId, now: Now) -> Self {
        Self {
            user,
            started: now.instant,
            started_at: now.unix,
            rang_at: None,
            answered_at: None,
            answered_by: None,
            connected_at: None,
            via_push: false,
            is_video: false,
            own_path: None,
            ended: None,
            stats: MediaStats::default(),
            failure: None,
            relay: None,
            relay_complaint: None,
            stages: Vec::new(),
            telephone: None,
            phone: None,
            linked: None,
        }
    }

    fn outcome(&self, call: CallId) -> Option<CallOutcome> {
        let (outcome, reason, _) = self.ended?;
        let since = |from: Instant, to: Instant| crate::diagnosis::millis(to.saturating_duration_since(from));
        let ring_ms = self.rang_at.map(|at| since(self.started, at));
        let setup_ms = self.answered_at.zip(self.connected_at).map(|(answered, connected)| since(answered, connected));
        let connected = self.connected_at.is_some();
        let mut words = reason.to_string();
        if let Some(failure) = &self.failure {
            words = format!("{words}: {failure}");
        }
        // That a relay refused is of interest where none was found, and of those used, what they did. The failure may have said it.
        let is_of_interest = self.relay.is_some() || !connected && self.failure.is_some();
        let is_news = |complaint: &&String| complaint.rsplit(": ").next().is_none_or(|why| !words.contains(why));
        if let Some(complaint) = self.relay_complaint.as_ref().filter(|_| is_of_interest).filter(is_news) {
            words = format!("{words}; {complaint}");
        }
        Some(CallOutcome {
            call_id: call.to_string(),
            outcome: result_of(outcome),
            reason: Some(words),
            reason_code: Some(reason.0),
            answered_by: self.answered_by.and_then(|device| address::peer_id(&device)).map(|peer| peer.to_string()),
            codec: self.stats.codec.filter(|_| connected),
            path: self.stats.path.as_ref().map(|path| path_of(path.kind)).or(self.own_path),
            ring_ms,
            setup_ms,
            rtt_ms: self.stats.rtt_ms.map(|ms| ms.round().max(0.0) as u64),
            loss: connected.then_some(self.stats.loss),
            jitter_ms: connected.then_some((self.stats.jitter_ms * 10.0).round() / 10.0),
            via_push: self.via_push,
            video: self.stats.video.map(Into::into),
            voicemail: None,
            voicemail_problem: None,
        })
    }
}

/// All calls of this run.
#[derive(Debug)]
pub(crate) struct CallsState {
    outgoing: HashMap<CallId, Outgoing>,
    incoming: HashMap<CallId, Incoming>,
    /// Calls that have rung or were listed; in the database too, since a device may be started anew for every push.
    recent: RecentCalls,
    /// Calls taken back before their invite came.
    withdrawn: WithdrawnCalls,
    rates: RateLimiter<PublicKey>,
    ended: VecDeque<CallEntry>,
    /// Calls whose other end may ask what was seen of them here, or is asked.
    past: trace::PastCalls,
    conferences: conference::ConferencesState,
    /// What certified callers show our relays, once it was made or read.
    capability: Option<Signed<Capability>>,
    /// Media sessions so far.
    sessions: u64,
    /// Peers whose connections stay for calls: what ends one is to get across at once, however long nothing was said.
    kept: HashSet<PeerId>,
}

impl CallsState {
    /// Whether a call of ours is there, answered or not.
    pub(crate) fn has_outgoing(&self, call: &CallId) -> bool {
        self.outgoing.contains_key(call)
    }
}

impl Default for CallsState {
    fn default() -> Self {
        Self {
            outgoing: HashMap::new(),
            incoming: HashMap::new(),
            recent: RecentCalls::new(),
            withdrawn: WithdrawnCalls::new(),
            rates: RateLimiter::new(CALLERS_MAX),
            ended: VecDeque::new(),
            past: trace::PastCalls::default(),
            conferences: conference::ConferencesState::default(),
            capability: None,
            sessions: 0,
            kept: HashSet::new(),
        }
    }
}

impl CallsState {
    /// When the next of the machines' timers runs out.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let outgoing = self.outgoing.values().filter_map(Outgoing::next_deadline);
        let incoming = self.incoming.values().filter_map(Incoming::next_deadline);
        outgoing.chain(incoming).chain(self.conferences.next_deadline()).min()
    }

    /// The media relays over which calls run.
    pub(crate) fn carriers(&self) -> impl Iterator<Item = SocketAddr> {
        let outgoing = self.outgoing.values().map(|call| &call.progress);
        let progress = outgoing.chain(self.incoming.values().map(|call| &call.progress));
        let answered = progress.filter(|progress| progress.ended.is_none()).filter_map(|progress| progress.relay);
        answered.chain(self.early_media().filter_map(|(_, early)| early.path()?.relay))
    }

    fn is_engaged(&self) -> bool {
        self.outgoing.values().any(|call| call.progress.ended.is_none())
            || self.incoming.values().any(|call| call.progress.ended.is_none() && !call.is_held())
    }
}

/// A call as the list shows it: what happened in it lies in the store.
fn without_stages(call: CallEntry) -> CallEntry {
    CallEntry { stages: Vec::new(), other_ends: Vec::new(), ..call }
}

fn result_of(outcome: Outcome) -> CallResult {
    match outcome {
        Outcome::Completed => CallResult::Completed,
        Outcome::AnsweredElsewhere => CallResult::AnsweredElsewhere,
        Outcome::Declined => CallResult::Declined,
        Outcome::Busy => CallResult::Busy,
        Outcome::NoAnswer => CallResult::NoAnswer,
        Outcome::Unreachable => CallResult::Unreachable,
        Outcome::Cancelled => CallResult::Cancelled,
        Outcome::Failed => CallResult::Failed,
    }
}

/// True for calls that this device has rung for in vain.
const fn is_missed(result: CallResult) -> bool {
    matches!(result, CallResult::NoAnswer | CallResult::Cancelled | CallResult::Unreachable | CallResult::Failed)
}

/// Why a call doesn't ring any more, by what another device of the user says of it.
const fn reason_of_fate(fate: CallFate) -> Option<Reason> {
    match fate {
        CallFate::Answered => Some(Reason::ANSWERED_ELSEWHERE),
        CallFate::Declined => Some(Reason::DECLINED_ELSEWHERE),
        CallFate::Dismissed => None,
    }
}

const fn path_words(kind: media::PathKind) -> &'static str {
    match kind {
        media::PathKind::Direct => "direct",
        media::PathKind::Punched => "punched",
        media::PathKind::Relayed => "relayed",
    }
}

const fn path_of(kind: media::PathKind) -> CallPath {
    match kind {
        media::PathKind::Direct => CallPath::Direct,
        media::PathKind::Punched => CallPath::Punched,
        media::PathKind::Relayed => CallPath::Relayed,
    }
}

impl EventLoop {
    pub(crate) fn calls_start(&mut self) {
        match self.store.read::<_, StoreError>(|view| view.setting_value(RECENT)) {
            Ok(recent) => self.calls.recent = recent.unwrap_or_default(),
            Err(error) => warn!(%error, "recent calls not restored from the database"),
        }
        match self.store.read::<_, StoreError>(|view| view.last_calls(ENDED_MAX)) {
            Ok(rows) => {
                let entries = rows.iter().rev().filter_map(|(_, row)| serde_json::from_slice::<CallEntry>(row).ok());
                self.calls.ended = entries.map(without_stages).collect();
            }
            Err(error) => warn!(%error, "calls of earlier runs not read"),
        }
    }

    /// Notes a call, on disk before anybody is told that it rings. True if it is new.
    fn note_call(&mut self, caller: DeviceKey, call: CallId, now: UnixTime) -> bool {
        if !self.calls.recent.insert(caller, call, now) {
            return false;
        }
        let recent = &self.calls.recent;
        if let Err(error) = self.store.transaction::<_, StoreError>(|tx| tx.put_setting_value(RECENT, recent)) {
            warn!(%error, "recent calls not written");
        }
        true
    }

    /// True if this caller may ring, or have a missed call listed, once more.
    pub(crate) fn admit_caller(&mut self, caller: &PublicKey) -> bool {
        let rate = if self.settings.lab { LAB_RING_RATE } else { RING_RATE };
        self.calls.rates.take(caller, rate, Instant::now()).is_ok()
    }

    pub(crate) fn handle_dial(&mut self, options: DialOptions, reply: Reply<CallOutcome, CallError>) {
        if let Some((options, reply)) = self.take_linked_dial(options, reply) {
            self.dial_as_said(options, reply);
        }
    }

    /// The same by what is said, whoever else it may be that is meant.
    pub(crate) fn dial_as_said(&mut self, mut options: DialOptions, reply: Reply<CallOutcome, CallError>) {
        let checked = self.resolve_telephone(&mut options).and_then(|()| self.check_dial(&options));
        match checked {
            // A telephone call is one of its own, whatever else the gateway does; so is one to a certain phone.
            Ok(user) => match self.ringing_call_of(&user).filter(|_| options.telephone.is_none() && options.phone.is_none()) {
                Some(call) => self.answer_by_dial(call, &options, reply),
                None => self.begin_dial(user, options, reply),
            },
            Err(error) => reply.send(Err(error)),
        }
    }

    fn check_dial(&self, options: &DialOptions) -> Result<UserId, CallError> {
        if self.is_revoked() {
            return Err(crate::handle::problem::NodeError::Revoked.into());
        }
        let [name] = options.users.as_slice() else {
            return Err(match options.users.len() {
                0 => CallError::NoCallee,
                _ => CallError::Node(crate::handle::problem::NodeError::Unsupported { what: "calling several users at once" }),
            });
        };
        if let Some(offer) = &options.offer {
            own_engine::check_description(offer, options.relayed_only || self.settings.relayed_calls)?;
        }
        let user = match &options.linked {
            Some(callee) => callee.user.clone(),
            None => self.labels.parse(name)?,
        };
        if user == self.identity.user_id() {
            return Err(CallError::CallsSelf);
        }
        self.refuse_changed(&user)?;
        let phone = phone::part_of(options.phone.as_deref())?;
        if let Some((call, _)) = self.waiting_dial(&user, options.telephone.as_ref(), phone) {
            return Err(CallError::AlreadyCalling { username: self.labels.display(&user), call_id: call.to_string() });
        }
        if self.calls.outgoing.len() >= CALLS_MAX {
            let full = crate::handle::problem::NodeError::LimitReached { what: "calls", max: CALLS_MAX };
            return Err(CallError::Node(full));
        }
        Ok(user)
    }

    fn media_config(&self, play: Option<&std::path::Path>, record: Option<&std::path::Path>) -> MediaConfig {
        let mut config = MediaConfig::default().lab(self.settings.lab);
        if let Some(path) = play {
            config = config.play(path);
        }
        if let Some(path) = record {
            config = config.record(path);
        }
        if self.settings.lab {
            config = config.bind([std::net::IpAddr::from([127, 0, 0, 1])]);
        }
        config.relays(self.call_relays()).relayed_only(self.settings.relayed_calls)
    }

    fn progress_mut(&mut self, call: CallId) -> Option<&mut Progress> {
        let outgoing = self.calls.outgoing.get_mut(&call).map(|call| &mut call.progress);
        outgoing.or_else(|| self.calls.incoming.get_mut(&call).map(|call| &mut call.progress))
    }

    pub(crate) fn calls_tick(&mut self, now: Now) {
        let outgoing: Vec<CallId> = self.calls.outgoing.keys().copied().collect();
        for call in outgoing {
            self.outgoing_tick(call, now.instant);
        }
        let incoming: Vec<CallId> = self.calls.incoming.keys().copied().collect();
        for call in incoming {
            self.incoming_tick(call, now.instant);
        }
        self.conferences_tick(now);
        self.keep_call_peers();
    }

    /// Connections to the other ends of calls stay as long as these do.
    fn keep_call_peers(&mut self) {
        let called = self.calls.outgoing.values().filter_map(|call| call.progress.answered_by);
        let callers = self.calls.incoming.values().map(|call| call.machine.caller());
        let wanted: HashSet<PeerId> = called.chain(callers).filter_map(|device| address::peer_id(&device)).collect();
        if wanted == self.calls.kept {
            return;
        }
        for gone in self.calls.kept.difference(&wanted) {
            self.swarm.behaviour_mut().streams.keep(*gone, Keeper::Calls, false);
        }
        for peer in wanted.difference(&self.calls.kept) {
            self.swarm.behaviour_mut().streams.keep(*peer, Keeper::Calls, true);
        }
        self.calls.kept = wanted;
    }

    pub(crate) fn handle_call_hangup(&mut self, call_id: &str, reply: Reply<(), CallError>) {
        let unknown = || CallError::UnknownCall { call_id: call_id.chars().take(64).collect() };
        let Ok(call) = call_id.parse::<CallId>() else { return reply.send(Err(unknown())) };
        let now = Instant::now();
        // One that was withdrawn for another stands for that.
        let call = self.calls.outgoing.get(&call).and_then(|outgoing| outgoing.joined).unwrap_or(call);
        if self.leave_conference_of(call) || self.leave_conference_named(call) {
            return reply.send(Ok(()));
        }
        if let Some(outgoing) = self.calls.outgoing.get_mut(&call) {
            outgoing.machine.hang_up(now);
            self.drive_outgoing(call);
        } else if let Some(incoming) = self.calls.incoming.get_mut(&call) {
            incoming.machine.hang_up(now);
            self.drive_incoming(call);
        } else {
            return reply.send(Err(unknown()));
        }
        reply.send(Ok(()));
    }

    pub(crate) fn handle_call_press(&mut self, call_id: &str, keys: &str, reply: Reply<(), CallError>) {
        let pressed = self.press_keys(call_id, keys);
        reply.send(pressed);
    }

    fn press_keys(&mut self, call_id: &str, keys: &str) -> Result<(), CallError> {
        let keys = parse_keys(keys)?;
        let call = self.named_call(call_id)?;
        let outgoing = self.calls.outgoing.get(&call).map(|call| (call.media.as_ref(), call.progress.connected_at));
        let media =
            outgoing.or_else(|| self.calls.incoming.get(&call).map(|call| (call.media.as_ref(), call.progress.connected_at)));
        let Some((Some(media), Some(_))) = media else {
            return Err(CallError::WrongState { call_id: call.to_string(), state: "not connected", action: "told keys" });
        };
        if !media.stats().is_some_and(|stats| stats.takes_keys) {
            return Err(CallError::TakesNoKeys { call_id: call.to_string() });
        }
        media.press(keys);
        Ok(())
    }

    /// Ends calls with a device that was removed by its user.
    pub(crate) fn end_calls_with(&mut self, device: &DeviceKey) {
        let now = Instant::now();
        let outgoing = self.calls.outgoing.iter().filter(|(_, call)| call.machine.answered_by() == Some(*device));
        for call in outgoing.map(|(call, _)| *call).collect::<Vec<_>>() {
            if let Some(outgoing) = self.calls.outgoing.get_mut(&call) {
                outgoing.machine.hang_up(now);
            }
            self.drive_outgoing(call);
        }
        // One that rings merely stops being rung.
        let calls: Vec<CallId> = self.calls.outgoing.keys().copied().collect();
        for call in calls {
            if let Some(outgoing) = self.calls.outgoing.get_mut(&call)
                && outgoing.machine.leg_state(device).is_some()
            {
                outgoing.machine.handle_unreachable(*device, Reason::NOT_ALLOWED, now);
                self.drive_outgoing(call);
            }
        }
        let incoming = self.calls.incoming.iter().filter(|(_, call)| call.machine.caller() == *device);
        for call in incoming.map(|(call, _)| *call).collect::<Vec<_>>() {
            if let Some(incoming) = self.calls.incoming.get_mut(&call) {
                incoming.machine.hang_up(now);
            }
            self.drive_incoming(call);
        }
    }

    /// Hangs up everything: the node goes down.
    pub(crate) fn end_all_calls(&mut self) {
        let now = Instant::now();
        let outgoing: Vec<CallId> = self.calls.outgoing.keys().copied().collect();
        for call in outgoing {
            if let Some(outgoing) = self.calls.outgoing.get_mut(&call) {
                outgoing.machine.hang_up(now);
            }
            self.drive_outgoing(call);
        }
        let incoming: Vec<CallId> = self.calls.incoming.keys().copied().collect();
        for call in incoming {
            if let Some(incoming) = self.calls.incoming.get_mut(&call) {
                incoming.machine.hang_up(now);
            }
            self.drive_incoming(call);
        }
    }
}
