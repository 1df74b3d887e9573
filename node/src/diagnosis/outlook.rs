//! `why USER`: how the last calls with somebody went, by what, and what a call now would do.

use halloo_protocol::directory::DirectoryRecord;
use halloo_protocol::identity::UserId;

use crate::calls::RELAYED_BY_CHOICE;
use crate::event_loop::EventLoop;
use crate::handle::calls::{CallEntry, CallPath, CallResult, CallStage, CallStageKind};
use crate::handle::directory::DeviceReachability;
use crate::handle::network::PastCall;
use crate::handle::presence::PresenceState;
use crate::store::StoreError;

/// Calls shown of one user.
const CALLS_SHOWN_MAX: usize = 5;

/// Calls looked through for them.
const LOOKED_THROUGH_MAX: usize = 1_000;

impl EventLoop {
    /// The last calls with a user, newest first.
    pub(super) fn calls_with(&self, user: &UserId) -> Vec<PastCall> {
        let shown = self.labels.display(user);
        let rows = self.store.read::<_, StoreError>(|view| view.last_calls(LOOKED_THROUGH_MAX)).unwrap_or_default();
        // Most rows are told apart without being read.
        let names = |row: &[u8]| row.windows(shown.len()).any(|part| part == shown.as_bytes());
        let entries =
            rows.iter().filter(|(_, row)| names(row)).filter_map(|(_, row)| serde_json::from_slice::<CallEntry>(row).ok());
        entries.filter(|entry| entry.users.contains(&shown)).take(CALLS_SHOWN_MAX).map(|entry| past_call(&entry)).collect()
    }

    /// What a call would do now, step by step.
    pub(super) fn next_call(&self, record: &DirectoryRecord) -> Vec<String> {
        let user = record.user_id();
        let mut steps = Vec::new();
        if let Some(view) = self.presence_of(&user) {
            steps.push(match view.state {
                PresenceState::Dnd => {
                    "doesn't want to be disturbed: unless you are excepted it is refused, and listed there".to_owned()
                }
                _ => format!("presence: {}", crate::calls::presence_words(&view)),
            });
        } else if !self.is_acquainted(&user) {
            steps.push(
                "you aren't contacts: it rings only if they take calls of anyone, and media connects after the answer".to_owned(),
            );
        }
        steps.extend(self.devices_of_next_call(record));
        steps.push(self.media_of_next_call(&user));
        steps
    }

    fn devices_of_next_call(&self, record: &DirectoryRecord) -> Vec<String> {
        let now = self.now().unix;
        let of_device = |parts| {
            let (peer, view) = self.device_view(record, parts, now);
            let name = view.name.unwrap_or_else(|| short_peer(&view.peer_id));
            let gateways = self.private_part(record, parts).map_or(0, |part| part.push.len());
            let relays = parts.entry().relays.len();
            let way = match (self.peers.get(&peer).map(|peer| peer.relayed), view.reachability) {
                (Some(false), _) => "the invite goes over the open connection".to_owned(),
                (Some(true), _) => "the invite goes over the open connection, which is relayed".to_owned(),
                (None, DeviceReachability::Direct) => format!("{} addresses are dialled", view.addresses.len()),
                (None, DeviceReachability::Relayed) => format!("{relays} relays are asked to hand the invite over"),
                (None, DeviceReachability::Push) => format!("asleep: {gateways} gateways are asked to wake it"),
                (None, DeviceReachability::None) if gateways > 0 => format!("silent: {gateways} gateways are asked to wake it"),
                (None, DeviceReachability::None) => "silent, and no gateway can wake it: given up after 12 s at most".to_owned(),
            };
            format!("{name}: {way}")
        };
        record.entries().map(of_device).collect()
    }

    fn media_of_next_call(&self, user: &UserId) -> String {
        let relays = self.relays_at_hand.peers().count();
        let relayed = match (self.settings.relayed_calls, relays) {
            (true, 0) => return "audio would fail: only relays are allowed, and none is at hand".to_owned(),
            (true, _) => return format!("audio goes over one of {relays} relays, as set here"),
            (false, 0) => "and there is no relay at hand where that doesn't work".to_owned(),
            (false, _) => format!("and over one of {relays} relays where that doesn't work"),
        };
        let when = if self.is_acquainted(user) { "while it rings" } else { "after the answer" };
        format!("audio connects {when}: straight if it can, {relayed}")
    }
}

fn short_peer(peer: &str) -> String {
    format!("…{}", peer.get(peer.len().saturating_sub(6)..).unwrap_or(peer))
}

fn past_call(entry: &CallEntry) -> PastCall {
    let outcome = entry.outcome.as_ref();
    PastCall {
        call_id: entry.call_id.clone(),
        started_at: entry.started_at,
        incoming: entry.incoming,
        outcome: outcome.map(|outcome| outcome.outcome),
        path: outcome.and_then(|outcome| outcome.path),
        decisive: decisive(entry),
    }
}

/// What decided how a call went, in words.
fn decisive(entry: &CallEntry) -> String {
    let Some(outcome) = &entry.outcome else { return "it isn't over".to_owned() };
    let reason = outcome.reason.clone().unwrap_or_default();
    match outcome.outcome {
        CallResult::Completed | CallResult::AnsweredElsewhere => why_this_path(entry),
        // What the caller's ways to the devices came to; at the callee's, that is what the caller has told.
        CallResult::Unreachable => with_last(entry, reason, &[CallStageKind::Invite, CallStageKind::Relay, CallStageKind::Push]),
        CallResult::Failed => with_last(entry, reason, &[CallStageKind::Media]),
        CallResult::Declined | CallResult::Busy | CallResult::NoAnswer | CallResult::Cancelled => match rang(entry) {
            true => format!("{reason}; it rang"),
            false => with_last(entry, format!("{reason}; it didn't ring"), &[CallStageKind::Invite, CallStageKind::Push]),
        },
    }
}

fn all_stages(entry: &CallEntry) -> impl DoubleEndedIterator<Item = &CallStage> {
    entry.stages.iter().chain(entry.other_ends.iter().flat_map(|end| &end.stages))
}

fn rang(entry: &CallEntry) -> bool {
    all_stages(entry).any(|stage| stage.stage == CallStageKind::Ring)
}

/// A reason, and the last of these stages that this end has seen, unless the reason says it.
fn with_last(entry: &CallEntry, reason: String, kinds: &[CallStageKind]) -> String {
    let last = entry.stages.iter().rev().find(|stage| kinds.contains(&stage.stage) && !reason.contains(&stage.detail));
    match last {
        Some(stage) => format!("{reason} (last: {})", stage.detail),
        None => reason,
    }
}

fn why_this_path(entry: &CallEntry) -> String {
    let Some(outcome) = &entry.outcome else { return String::new() };
    let wanted = |stages: &[CallStage]| stages.iter().any(|stage| stage.detail.starts_with(RELAYED_BY_CHOICE));
    let way = match outcome.path {
        None => return outcome.reason.clone().unwrap_or_default(),
        Some(CallPath::Direct) => "straight",
        Some(CallPath::Punched) => "straight, through routers that were opened for it",
        Some(CallPath::Relayed) if wanted(&entry.stages) => "relayed, as it was wanted here",
        Some(CallPath::Relayed) if entry.other_ends.iter().any(|end| wanted(&end.stages)) => {
            "relayed, as the other end wanted it"
        }
        Some(CallPath::Relayed) => "relayed: no straight path could be opened between the two networks",
    };
    let woken = if outcome.via_push { ", after a gateway woke the device" } else { "" };
    format!("{way}{woken}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handle::calls::{CallOutcome, CallState, OtherEnd};
    use crate::timestamp::Timestamp;

    fn stage(stage: CallStageKind, detail: &str) -> CallStage {
        CallStage { at_ms: 0, stage, peer_id: None, detail: detail.to_owned() }
    }

    fn entry(outcome: CallResult, reason: &str, path: Option<CallPath>, stages: Vec<CallStage>) -> CallEntry {
        let outcome = CallOutcome {
            call_id: "a".to_owned(),
            outcome,
            reason: Some(reason.to_owned()),
            reason_code: None,
            answered_by: None,
            codec: None,
            path,
            ring_ms: None,
            setup_ms: None,
            rtt_ms: None,
            loss: None,
            jitter_ms: None,
            via_push: false,
            voicemail: None,
            voicemail_problem: None,
            video: None,
        };
        CallEntry {
            call_id: "a".to_owned(),
            users: vec!["bob@example".to_owned()],
            incoming: false,
            state: CallState::Ended,
            video: false,
            started_at: Timestamp::from_unix_secs(0),
            outcome: Some(outcome),
            dismissed: false,
            stages,
            other_ends: Vec::new(),
            is_asking: false,
            media: None,
            conference_id: None,
            introduced_by: None,
            telephone: None,
            linked: None,
        }
    }

    #[test]
    fn a_relayed_call_says_whose_wish_it_was() {
        let relayed = |stages| entry(CallResult::Completed, "hung up", Some(CallPath::Relayed), stages);
        assert!(decisive(&relayed(Vec::new())).contains("no straight path"));
        let wish = stage(CallStageKind::Media, RELAYED_BY_CHOICE);
        assert!(decisive(&relayed(vec![wish.clone()])).contains("wanted here"));
        let mut theirs = relayed(Vec::new());
        theirs.other_ends.push(OtherEnd { peer_id: "p".to_owned(), off_by_ms: 1, stages: vec![wish] });
        assert!(decisive(&theirs).contains("the other end wanted"));
    }

    #[test]
    fn what_never_rang_says_what_came_last() {
        let push = stage(CallStageKind::Push, "a gateway took no push");
        let invite = stage(CallStageKind::Invite, "not answered: unreachable");
        let unreachable = entry(CallResult::Unreachable, "no device could be reached", None, vec![invite, push]);
        assert_eq!(decisive(&unreachable), "no device could be reached (last: a gateway took no push)");
        let refused = stage(CallStageKind::Invite, "refused (doesn't want to be disturbed) over a direct connection");
        let declined = decisive(&entry(CallResult::Declined, "doesn't want to be disturbed", None, vec![refused]));
        assert!(declined.contains("it didn't ring") && declined.contains("over a direct connection"), "{declined}");
        let ring = stage(CallStageKind::Ring, "rings");
        assert_eq!(decisive(&entry(CallResult::NoAnswer, "nobody answered", None, vec![ring])), "nobody answered; it rang");
    }
}
