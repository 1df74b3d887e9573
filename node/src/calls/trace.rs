//! What happened in a call, stage by stage: kept with it in the history, and shown as a timeline. Each end keeps its own, and asks the other for what it
//! has seen ([`shared`]); the call's id joins them.

mod shared;

use std::time::Instant;

use halloo_protocol::call::CallId;
use halloo_protocol::key::DeviceKey;

pub(crate) use self::shared::TraceAsking;
pub(super) use self::shared::{Ends, PastCalls};
use super::Progress;
use crate::address;
use crate::event_loop::EventLoop;
use crate::handle::Reply;
use crate::handle::calls::{CallEntry, CallError, CallStage, CallStageKind};
use crate::handle::presence::{PresenceReachability, PresenceSource, PresenceState, PresenceView};
use crate::store::StoreError;
use tracing::warn;

/// Stages kept of one call: some six for each of sixteen devices, and the call's own. With their texts they fit into one row.
const STAGES_MAX: usize = 128;

/// Longest text of a stage, in bytes.
const DETAIL_BYTES_MAX: usize = 240;

/// Characters of an id that are enough to mean a call, if only one begins so.
const ID_CHARS_MIN: usize = 4;

/// Calls of earlier runs that are looked through for one.
const LOOKED_THROUGH_MAX: usize = 10_000;

/// How a stage begins that says that nothing but a relay is wanted for media.
pub(crate) const RELAYED_BY_CHOICE: &str = "by way of a relay only, as this end wants it";

/// A contact's presence in words.
pub(crate) fn presence_words(view: &PresenceView) -> String {
    if view.source == PresenceSource::Nobody {
        return "unknown: nothing was told yet".to_owned();
    }
    let state = match view.state {
        PresenceState::Offline => "offline",
        PresenceState::Online => "online",
        PresenceState::Away => "away",
        PresenceState::Dnd => "doesn't want to be disturbed",
    };
    let way = match view.reachability {
        PresenceReachability::Direct => "takes connections",
        PresenceReachability::Relayed => "through a relay",
        PresenceReachability::Push => "can be woken",
        PresenceReachability::None => "can't be reached",
    };
    format!("{state}, {way}")
}

impl Progress {
    /// Notes a stage. Beyond the limit only the end is noted.
    pub(super) fn note(&mut self, stage: CallStageKind, device: Option<&DeviceKey>, detail: impl Into<String>) {
        if self.stages.len() >= STAGES_MAX && stage != CallStageKind::End {
            return;
        }
        let mut detail = detail.into();
        detail.truncate(detail.floor_char_boundary(DETAIL_BYTES_MAX));
        let peer_id = device.and_then(address::peer_id).map(|peer| peer.to_string());
        let at_ms = crate::diagnosis::millis(Instant::now().saturating_duration_since(self.started)).cast_signed();
        self.stages.push(CallStage { at_ms, stage, peer_id, detail });
    }
}

impl EventLoop {
    /// Notes a stage of a call, if it is known.
    pub(crate) fn note_stage(
        &mut self,
        call: CallId,
        stage: CallStageKind,
        device: Option<&DeviceKey>,
        detail: impl Into<String>,
    ) {
        if let Some(progress) = self.progress_mut(call) {
            progress.note(stage, device, detail);
        }
    }

    pub(crate) fn handle_call_show(&self, call_id: &str, reply: Reply<CallEntry, CallError>) {
        let named = call_id.parse::<CallId>().ok().or_else(|| self.call_beginning_with(call_id));
        let found = named.and_then(|call| self.find_call(call));
        reply.send(found.ok_or_else(|| CallError::UnknownCall { call_id: call_id.chars().take(64).collect() }));
    }

    /// The only call of the list whose id begins so.
    fn call_beginning_with(&self, text: &str) -> Option<CallId> {
        if text.len() < ID_CHARS_MIN {
            return None;
        }
        let calls = self.call_list().calls;
        let mut found = calls.iter().filter(|entry| entry.call_id.starts_with(text));
        let first = found.next()?;
        found.next().is_none().then(|| first.call_id.parse().ok()).flatten()
    }

    /// A call that runs, or has just ended and waits for the figures of its media; else one that is kept.
    fn find_call(&self, call: CallId) -> Option<CallEntry> {
        if let Some(outgoing) = self.calls.outgoing.get(&call).filter(|outgoing| !outgoing.is_put_away()) {
            return Some(self.traced_entry(call, &outgoing.progress, false, outgoing.state()));
        }
        if let Some(incoming) = self.calls.incoming.get(&call).filter(|incoming| !incoming.is_put_away()) {
            return Some(self.traced_entry(call, &incoming.progress, true, incoming.state()));
        }
        let id = call.to_string();
        let kept = self.find_kept_call(&id);
        kept.or_else(|| self.calls.ended.iter().rev().find(|entry| entry.call_id == id).cloned())
            .map(|entry| CallEntry { is_asking: self.calls.past.is_asking(call), ..self.with_fate(entry) })
    }

    fn find_kept_call(&self, id: &str) -> Option<CallEntry> {
        let rows = match self.store.read::<_, StoreError>(|view| view.last_calls(LOOKED_THROUGH_MAX)) {
            Ok(rows) => rows,
            Err(error) => {
                warn!(%error, "calls not read");
                return None;
            }
        };
        // Most rows are told apart without being read.
        let holds_id = |row: &[u8]| row.windows(id.len()).any(|part| part == id.as_bytes());
        let entries =
            rows.iter().filter(|(_, row)| holds_id(row)).filter_map(|(_, row)| serde_json::from_slice::<CallEntry>(row).ok());
        entries.into_iter().find(|entry| entry.call_id == id)
    }
}
