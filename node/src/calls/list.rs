//! The list of calls: those that go on, and those that have ended, with what own devices say of them.

use std::time::Instant;

use halloo_protocol::call::{CallId, Reason};
use halloo_protocol::message::CallFate;
use tracing::warn;

use super::{ENDED_MAX, Progress, is_missed, path_of, reason_of_fate, telephone, trace, without_stages};
use crate::event_loop::EventLoop;
use crate::handle::calls::{CallEntry, CallError, CallList, CallMedia, CallOutcome, CallResult, CallState};
use crate::handle::{Event, Reply};
use crate::store::StoreError;
use crate::timestamp::Timestamp;

impl EventLoop {
    pub(crate) fn call_list(&self) -> CallList {
        let mut calls: Vec<CallEntry> = self.calls.ended.iter().cloned().map(|call| self.with_fate(call)).collect();
        // Those put away are among the ended, though their last words aren't acknowledged yet.
        let shown = self.calls.outgoing.iter().filter(|(_, call)| !call.is_put_away());
        let shown = shown.filter(|(_, call)| !call.is_quiet() || call.progress.answered_by.is_some());
        calls.extend(shown.map(|(id, call)| self.call_entry(*id, &call.progress, false, call.state())));
        let shown = self.calls.incoming.iter().filter(|(_, call)| !call.is_put_away() && !call.is_silent());
        calls.extend(shown.map(|(id, call)| self.call_entry(*id, &call.progress, true, call.state())));
        for entry in calls.iter_mut().filter(|entry| entry.state != CallState::Ended) {
            entry.media = entry.call_id.parse().ok().and_then(|call| self.call_media(call));
        }
        calls.sort_by_key(|call| call.started_at);
        CallList { calls }
    }

    /// What the media of a running call measures.
    pub(super) fn call_media(&self, call: CallId) -> Option<CallMedia> {
        let outgoing = self.calls.outgoing.get(&call).and_then(|call| call.media.as_ref());
        let media = outgoing.or_else(|| self.calls.incoming.get(&call)?.media.as_ref()).or_else(|| self.calls.early_of(call));
        let stats = media?.stats()?;
        Some(CallMedia {
            codec: stats.codec,
            path: stats.path.map(|path| path_of(path.kind)),
            rtt_ms: stats.rtt_ms,
            loss: stats.loss,
            jitter_ms: stats.jitter_ms,
            buffer_ms: stats.buffer_ms,
            concealed_frames: stats.concealed_frames,
            packets_received: stats.packets_received,
            packets_sent: stats.packets_sent,
            packets_early: stats.packets_early,
            video: stats.video.map(Into::into),
        })
    }

    fn call_entry(&self, call: CallId, progress: &Progress, incoming: bool, state: CallState) -> CallEntry {
        let entry = CallEntry {
            call_id: call.to_string(),
            users: vec![self.labels.display(self.present_user(&progress.user))],
            incoming,
            state: if progress.ended.is_some() { CallState::Ended } else { state },
            video: progress.is_video,
            started_at: Timestamp::from_unix_secs(progress.started_at.0),
            outcome: progress.outcome(call),
            dismissed: false,
            stages: Vec::new(),
            other_ends: Vec::new(),
            is_asking: false,
            media: None,
            conference_id: None,
            introduced_by: None,
            telephone: progress.telephone.as_ref().map(telephone::words),
            linked: progress.linked.clone(),
        };
        self.with_conference(call, entry)
    }

    pub(super) fn traced_entry(&self, call: CallId, progress: &Progress, incoming: bool, state: CallState) -> CallEntry {
        CallEntry { stages: progress.stages.clone(), ..self.call_entry(call, progress, incoming, state) }
    }

    /// What own devices say of an ended call.
    pub(super) fn with_fate(&self, mut call: CallEntry) -> CallEntry {
        let fate = call.call_id.parse::<CallId>().ok().and_then(|id| self.call_fate(&id));
        call.dismissed = fate.is_some();
        let elsewhere = match fate {
            Some(CallFate::Answered) => (CallResult::AnsweredElsewhere, Reason::ANSWERED_ELSEWHERE),
            Some(CallFate::Declined) => (CallResult::Declined, Reason::DECLINED_ELSEWHERE),
            Some(CallFate::Dismissed) | None => return call,
        };
        if let Some(outcome) = call.outcome.as_mut().filter(|outcome| call.incoming && is_missed(outcome.outcome)) {
            outcome.outcome = elsewhere.0;
            outcome.reason = Some(elsewhere.1.to_string());
        }
        call
    }

    /// Another of the user's devices says what became of a call: it rings no more here, even if the caller can't say so.
    pub(crate) fn call_settled_elsewhere(&mut self, call: CallId, fate: CallFate) {
        if let (Some(reason), Some(incoming)) = (reason_of_fate(fate), self.calls.incoming.get_mut(&call)) {
            incoming.machine.handle_own_device(reason, Instant::now());
            self.drive_incoming(call);
        }
    }

    pub(crate) fn handle_call_dismiss(&mut self, call_id: &str, reply: Reply<(), CallError>) {
        let known =
            call_id.parse::<CallId>().ok().filter(|id| self.calls.ended.iter().any(|call| call.call_id == id.to_string()));
        let Some(call) = known else {
            return reply.send(Err(CallError::UnknownCall { call_id: call_id.chars().take(64).collect() }));
        };
        self.note_call_fate(call, CallFate::Dismissed);
        self.events.send(Event::CallDismissed { call_id: call.to_string(), elsewhere: false });
        reply.send(Ok(()));
    }

    /// Keeps an ended call for the list and for good.
    pub(super) fn archive_call(&mut self, call: CallId, entry: CallEntry, ends: Option<trace::Ends>) -> Option<CallOutcome> {
        let outcome = entry.outcome.clone();
        let row = serde_json::to_vec(&entry).ok().and_then(|bytes| {
            let kept = self.store.transaction::<_, StoreError>(|tx| tx.add_call(&bytes));
            kept.inspect_err(|error| warn!(%error, "call not kept in the history")).ok()
        });
        if self.calls.ended.len() >= ENDED_MAX {
            self.calls.ended.pop_front();
        }
        self.calls.ended.push_back(without_stages(entry.clone()));
        if let Some(ends) = ends {
            self.share_trace(call, ends, entry, row);
        }
        if let Some(outcome) = &outcome {
            self.events.send(Event::CallEnded(outcome.clone()));
        }
        outcome
    }
}
