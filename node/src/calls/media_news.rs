//! What the media of calls report, and what they are told of relays.

use std::net::SocketAddr;
use std::time::Instant;

use halloo_protocol::call::CallId;
use halloo_protocol::key::DeviceKey;
use tracing::debug;

use super::driver::{self, MediaNews, MediaNewsKind, SessionId};
use super::{media, path_words};
use crate::event_loop::EventLoop;
use crate::handle::Event;
use crate::handle::calls::CallStageKind;

impl EventLoop {
    pub(crate) fn handle_media(&mut self, news: MediaNews) {
        let MediaNews { call, what } = news;
        match what {
            MediaNewsKind::OfferMade(device, made) => self.offer_made(call, device, made),
            MediaNewsKind::AnswerMade(made) => self.answer_made(call, made),
            MediaNewsKind::EarlyMade(relayed_only, made) => self.early_made(call, relayed_only, made),
            MediaNewsKind::FilesChecked(Ok(config)) => self.answer_with_early(call, *config),
            MediaNewsKind::FilesChecked(Err(error)) => self.answer_made(call, Err(error)),
            MediaNewsKind::Event(session, event) => {
                if self.is_media_of(call, session) {
                    self.media_event(call, event);
                } else if !self.early_event(call, session, &event) {
                    debug!(call = %call.short(), ?event, "of media given up");
                }
            }
            MediaNewsKind::Ended(session, _) if !self.is_media_of(call, session) => self.early_ended(call, session),
            MediaNewsKind::Ended(_, summary) => {
                let progress = match (self.calls.outgoing.get_mut(&call), self.calls.incoming.get_mut(&call)) {
                    (Some(outgoing), _) => {
                        outgoing.media = None;
                        &mut outgoing.progress
                    }
                    (None, Some(incoming)) => {
                        incoming.media = None;
                        &mut incoming.progress
                    }
                    (None, None) => return,
                };
                progress.stats = summary.stats;
                if progress.failure.is_none() {
                    progress.failure = summary.failure;
                }
                self.drive_outgoing(call);
                self.drive_incoming(call);
            }
        }
    }

    /// Whether this session is the call's, answered by somebody.
    fn is_media_of(&self, call: CallId, session: SessionId) -> bool {
        let outgoing = self.calls.outgoing.get(&call).and_then(|call| call.media.as_ref());
        let media = outgoing.or_else(|| self.calls.incoming.get(&call)?.media.as_ref());
        media.is_some_and(|media| media.id() == session)
    }

    /// Media of a call goes this way.
    pub(super) fn take_path(&mut self, call: CallId, path: &media::MediaPath) {
        self.note_carrier(path);
        let complaint = path.relay.and_then(|relay| self.recent_complaint(relay));
        if let Some(progress) = self.progress_mut(call) {
            progress.relay = path.relay;
            progress.relay_complaint = complaint.or(progress.relay_complaint.take());
        }
    }

    /// A media relay lends nothing.
    pub(super) fn media_relay_failed(&mut self, call: CallId, relay: SocketAddr, why: &str) {
        let complaint = format!("relay {relay} lends no address: {why}");
        self.relay_failed(relay, &complaint);
        if let Some(progress) = self.progress_mut(call) {
            progress.relay_complaint = Some(complaint);
        }
    }

    fn media_event(&mut self, call: CallId, event: media::MediaEvent) {
        use media::MediaEvent;
        let now = Instant::now();
        debug!(call = %call.short(), ?event, "media");
        if let MediaEvent::Connected(path) | MediaEvent::PathChanged(path) = &event {
            self.take_path(call, path);
        }
        self.note_media(call, &event);
        let connected = matches!(event, MediaEvent::Connected(_));
        let ended = match &event {
            MediaEvent::Failed(error) => Some(Some(driver::describe(error))),
            MediaEvent::Closed => Some(None),
            _ => None,
        };
        if let MediaEvent::RelayFailed(relay, why) = event {
            return self.media_relay_failed(call, relay, &why);
        }
        if let MediaEvent::Key(key) = event {
            self.events.send(Event::CallKey { call_id: call.to_string(), key: key.to_string() });
            return;
        }
        if let MediaEvent::LocalCandidate(candidate) = event {
            let answered_by = self.calls.outgoing.get(&call).and_then(|outgoing| outgoing.progress.answered_by);
            let incoming = self.calls.incoming.get(&call).map(|incoming| incoming.machine.caller());
            if let Some(device) = answered_by.or(incoming) {
                self.trickle(call, device, candidate, now);
            }
            return;
        }
        if let Some(outgoing) = self.calls.outgoing.get_mut(&call) {
            if connected {
                outgoing.progress.connected_at.get_or_insert(now);
                outgoing.machine.handle_media_connected(now);
            }
            if let Some(failure) = ended {
                outgoing.media_ended(failure, now);
            }
            self.drive_outgoing(call);
        } else if let Some(incoming) = self.calls.incoming.get_mut(&call) {
            if connected {
                incoming.progress.connected_at.get_or_insert(now);
                incoming.machine.handle_media_connected(now);
            }
            if let Some(failure) = ended {
                incoming.media_ended(failure, now);
            }
            self.drive_incoming(call);
        }
    }

    fn note_media(&mut self, call: CallId, event: &media::MediaEvent) {
        use media::MediaEvent;
        let detail = match event {
            MediaEvent::IceConnected => "ICE has found a path".to_owned(),
            MediaEvent::Connected(path) => format!("DTLS is through: connected, {}", path_words(path.kind)),
            MediaEvent::FirstAudio => "first audio of the other end".to_owned(),
            MediaEvent::PathChanged(path) => format!("another path, {}", path_words(path.kind)),
            MediaEvent::RelayFailed(relay, why) => format!("relay {relay} lends no address: {why}"),
            MediaEvent::Failed(error) => driver::describe(error),
            MediaEvent::Closed => "closed by the other end".to_owned(),
            _ => return,
        };
        self.note_stage(call, CallStageKind::Media, None, detail);
    }

    /// A relay has something to say about what it carries.
    pub(crate) fn note_relay_complaint(&mut self, relays: &[SocketAddr], complaint: &str) {
        let outgoing = self.calls.outgoing.values_mut().map(|call| &mut call.progress);
        let progress = outgoing.chain(self.calls.incoming.values_mut().map(|call| &mut call.progress));
        for progress in progress.filter(|progress| progress.relay.is_some_and(|relay| relays.contains(&relay))) {
            progress.relay_complaint = Some(complaint.to_owned());
        }
    }

    /// A relay is about to end: calls change to another.
    pub(crate) fn calls_leave_relay(&mut self, relay: &[SocketAddr]) {
        for media in self.calls.media_drivers() {
            media.leave_relay(relay.to_vec());
        }
    }

    /// A media relay has come to hand, or has renewed its credentials: running calls may need it.
    pub(crate) fn calls_use_relays(&mut self) {
        for media in self.calls.media_drivers() {
            media.use_relays(self.call_relays());
        }
    }

    /// A candidate of ours that came after the description was made goes to the device at the other end of the leg.
    pub(super) fn trickle(&mut self, call: CallId, device: DeviceKey, candidate: String, now: Instant) {
        if let Some(outgoing) = self.calls.outgoing.get_mut(&call) {
            outgoing.machine.add_local_candidate(device, candidate, now);
            self.drive_outgoing(call);
        } else if let Some(incoming) = self.calls.incoming.get_mut(&call) {
            incoming.machine.add_local_candidate(candidate, now);
            self.drive_incoming(call);
        }
    }
}
