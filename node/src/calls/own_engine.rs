//! Calls whose media are the embedder's: the node carries descriptions and candidates, and lends its relays. `handle/call_media.rs` has the whole
//! of it in one picture.

use std::time::Instant;

use halloo_protocol::call::{CANDIDATE_BYTES_MAX, CallId, Reason, SDP_BYTES_MAX};
use halloo_protocol::key::DeviceKey;
use tracing::debug;

use super::Progress;
use super::media::RelayServer;
use super::media::video::{VideoFiles, VideoLink, VideoPort};
use crate::address;
use crate::event_loop::EventLoop;
use crate::handle::Event;
use crate::handle::call_media::{CallDescription, CallMediaCommand, IceServer, IceServers, MediaReport};
use crate::handle::calls::{CallError, CallStageKind, DialOptions};

/// Candidates kept of either end: as many as a session of ours takes.
const CANDIDATES_MAX: usize = 16;

/// Characters of a reason that count.
const REASON_CHARS_MAX: usize = 200;

/// What is known of media that the embedder runs.
#[derive(Debug, Default)]
pub(super) struct OwnEngine {
    /// What the other end has said, once it has.
    remote: Option<String>,
    remote_candidates: Vec<String>,
    /// Candidates of ours, for a device that answers later.
    local_candidates: Vec<String>,
}

/// A call's video at this end.
#[derive(Debug)]
pub(super) struct VideoEnds {
    pub(super) link: VideoLink,
    /// Until somebody takes it.
    port: Option<VideoPort>,
}

impl VideoEnds {
    pub(super) fn new() -> Self {
        let (link, port) = VideoLink::new();
        Self { link, port: Some(port) }
    }

    /// Plays and records files, if there are any.
    pub(super) fn use_files(&mut self, files: VideoFiles) {
        if !files.is_empty()
            && let Some(port) = self.port.take()
        {
            files.attach(&self.link, port);
        }
    }
}

/// What is wrong with a description of the embedder's.
pub(super) fn check_description(sdp: &str, relayed_only: bool) -> Result<(), CallError> {
    let refused = |reason: String| Err(CallError::Description { reason });
    if sdp.is_empty() || sdp.len() > SDP_BYTES_MAX {
        return refused(format!("it has {} bytes, and 1 to {SDP_BYTES_MAX} are allowed", sdp.len()));
    }
    if !sdp.lines().any(|line| line.starts_with("a=fingerprint:")) {
        return refused("it names no fingerprint, so nothing would tie media to the caller".to_owned());
    }
    let shows = |line: &str| line.starts_with("a=candidate:") && !line.contains(" typ relay");
    if relayed_only && sdp.lines().any(shows) {
        return refused("it shows addresses of this device, and the call is to be relayed only".to_owned());
    }
    Ok(())
}

impl DialOptions {
    /// Whether the call is a video call.
    pub(super) fn is_video(&self) -> bool {
        self.video || self.play_video.is_some() || self.record_video.is_some()
    }

    pub(super) fn video_files(&self) -> VideoFiles {
        VideoFiles { play: self.play_video.clone(), record: self.record_video.clone() }
    }
}

impl EventLoop {
    pub(crate) fn handle_call_media(&mut self, command: CallMediaCommand) {
        match command {
            CallMediaCommand::Video { call_id, reply } => reply.send(self.take_video(&call_id)),
            CallMediaCommand::Audio { call_id, reply } => reply.send(self.take_audio(&call_id)),
            CallMediaCommand::OfferedAudio { call_id, reply } => reply.send(self.offered_audio(&call_id)),
            CallMediaCommand::SpeakEarly { call_id, codec, reply } => reply.send(self.speak_early(&call_id, codec)),
            CallMediaCommand::IceServers(reply) => {
                let ice_servers = self.call_relays().iter().map(ice_server).collect();
                reply.send(Ok(IceServers { ice_servers }));
            }
            CallMediaCommand::Description { call_id, reply } => reply.send(self.description_of(&call_id)),
            CallMediaCommand::Trickle { call_id, candidate, reply } => reply.send(self.trickle_own(&call_id, candidate)),
            CallMediaCommand::Report { call_id, report, reply } => reply.send(self.take_report(&call_id, report)),
        }
    }

    /// Whether a call of ours is a video call.
    pub(crate) fn is_video_dial(&self, call: CallId) -> bool {
        self.calls.outgoing.get(&call).is_some_and(|outgoing| outgoing.progress.is_video)
    }

    pub(super) fn named_call(&self, call_id: &str) -> Result<CallId, CallError> {
        let call = call_id.parse::<CallId>().ok();
        let known = call.filter(|call| self.calls.outgoing.contains_key(call) || self.calls.incoming.contains_key(call));
        known.ok_or_else(|| CallError::UnknownCall { call_id: call_id.chars().take(64).collect() })
    }

    fn take_video(&mut self, call_id: &str) -> Result<VideoPort, CallError> {
        let call = self.named_call(call_id)?;
        let outgoing = self.calls.outgoing.get_mut(&call).and_then(|call| call.video.as_mut());
        let video = outgoing.or_else(|| self.calls.incoming.get_mut(&call)?.video.as_mut());
        let port = video.and_then(|video| video.port.take());
        port.ok_or_else(|| CallError::NoVideo { call_id: call.to_string() })
    }

    fn description_of(&self, call_id: &str) -> Result<CallDescription, CallError> {
        let call = self.named_call(call_id)?;
        let call_id = call.to_string();
        if let Some(incoming) = self.calls.incoming.get(&call) {
            let candidates = incoming.candidates.clone();
            return Ok(CallDescription { call_id, sdp: incoming.offer.clone(), candidates });
        }
        let own = self.calls.outgoing.get(&call).and_then(|outgoing| outgoing.own.as_ref());
        let own = own.ok_or_else(|| CallError::NotOwnEngine { call_id: call_id.clone() })?;
        let not_yet = CallError::WrongState { call_id: call_id.clone(), state: "not answered", action: "described" };
        let sdp = own.remote.clone().ok_or(not_yet)?;
        Ok(CallDescription { call_id, sdp, candidates: own.remote_candidates.clone() })
    }

    fn own_engine(&mut self, call: CallId) -> Result<&mut OwnEngine, CallError> {
        let outgoing = self.calls.outgoing.get_mut(&call).and_then(|call| call.own.as_mut());
        let own = outgoing.or_else(|| self.calls.incoming.get_mut(&call)?.own.as_mut());
        own.ok_or_else(|| CallError::NotOwnEngine { call_id: call.to_string() })
    }

    fn trickle_own(&mut self, call_id: &str, candidate: String) -> Result<(), CallError> {
        let call = self.named_call(call_id)?;
        let relayed_only =
            self.settings.relayed_calls || self.calls.outgoing.get(&call).is_some_and(|outgoing| outgoing.options.relayed_only);
        let own = self.own_engine(call)?;
        if relayed_only && !candidate.contains(" typ relay") {
            let reason = "it shows an address of this device, and the call is to be relayed only".to_owned();
            return Err(CallError::Description { reason });
        }
        if candidate.is_empty() || candidate.len() > CANDIDATE_BYTES_MAX {
            let reason = format!("a candidate has {} bytes, and 1 to {CANDIDATE_BYTES_MAX} are allowed", candidate.len());
            return Err(CallError::Description { reason });
        }
        if own.local_candidates.len() >= CANDIDATES_MAX {
            let full = crate::handle::problem::NodeError::LimitReached { what: "candidates of a call", max: CANDIDATES_MAX };
            return Err(CallError::Node(full));
        }
        own.local_candidates.push(candidate.clone());
        let now = Instant::now();
        if let Some(outgoing) = self.calls.outgoing.get_mut(&call) {
            let answered_by = outgoing.progress.answered_by;
            let devices: Vec<DeviceKey> =
                answered_by.map_or_else(|| outgoing.legs.keys().copied().collect(), |device| vec![device]);
            for device in devices {
                outgoing.machine.add_local_candidate(device, candidate.clone(), now);
            }
            self.drive_outgoing(call);
        } else if let Some(incoming) = self.calls.incoming.get_mut(&call) {
            incoming.machine.add_local_candidate(candidate, now);
            self.drive_incoming(call);
        }
        Ok(())
    }

    fn take_report(&mut self, call_id: &str, report: MediaReport) -> Result<(), CallError> {
        let now = Instant::now();
        let call = self.named_call(call_id)?;
        self.own_engine(call)?;
        let is_answered =
            self.progress_mut(call).is_some_and(|progress| progress.answered_at.is_some() && progress.ended.is_none());
        if !is_answered {
            return Err(CallError::WrongState {
                call_id: call.to_string(),
                state: "not answered, or over",
                action: "reported on",
            });
        }
        let failure = match report {
            MediaReport::Connected { path } => {
                if let Some(progress) = self.progress_mut(call) {
                    note_connected(progress, path, now);
                }
                None
            }
            MediaReport::Failed { reason } => {
                let reason: String = reason.chars().take(REASON_CHARS_MAX).collect();
                self.note_stage(call, CallStageKind::Media, None, format!("the own engine gives up: {reason}"));
                Some(reason)
            }
        };
        if let Some(outgoing) = self.calls.outgoing.get_mut(&call) {
            match failure {
                Some(failure) => outgoing.media_ended(Some(failure), now),
                None => outgoing.machine.handle_media_connected(now),
            }
            self.drive_outgoing(call);
        } else if let Some(incoming) = self.calls.incoming.get_mut(&call) {
            match failure {
                Some(failure) => incoming.media_ended(Some(failure), now),
                None => incoming.machine.handle_media_connected(now),
            }
            self.drive_incoming(call);
        }
        Ok(())
    }

    /// The offer of the embedder's for a device, instead of one of ours.
    pub(super) fn offer_own(&mut self, call: CallId, device: DeviceKey, offer: String) {
        let sealed = self.seal_invite(call, device, offer);
        let Some(outgoing) = self.calls.outgoing.get_mut(&call) else { return };
        let Some(target) = outgoing.legs.get(&device).map(|leg| leg.target.clone()) else { return };
        match sealed {
            Ok(sealed) => self.send_invite(call, device, &target, &sealed),
            Err(error) => {
                debug!(call = %call.short(), error, "no offer");
                outgoing.progress.failure = Some(error);
                outgoing.machine.handle_unreachable(device, Reason::MEDIA_FAILED, Instant::now());
                self.drive_outgoing(call);
            }
        }
    }

    /// A device has answered the embedder's offer.
    pub(super) fn start_own(&mut self, call: CallId, device: DeviceKey, answer: &str) {
        let now = Instant::now();
        let Some(outgoing) = self.calls.outgoing.get_mut(&call) else { return };
        let Some(own) = outgoing.own.as_mut() else { return };
        let leg = outgoing.legs.get_mut(&device);
        own.remote = Some(answer.to_owned());
        own.remote_candidates = leg.map(|leg| leg.media.take_candidates()).unwrap_or_default();
        // It may not have rung yet when they were told.
        for candidate in own.local_candidates.clone() {
            outgoing.machine.add_local_candidate(device, candidate, now);
        }
        outgoing.progress.answered_at.get_or_insert(now);
        outgoing.progress.answered_by = Some(device);
        outgoing.progress.note(CallStageKind::Answer, Some(&device), "answered; media are the embedder's");
        outgoing.legs.values_mut().for_each(|leg| leg.media.clear());
        let description =
            CallDescription { call_id: call.to_string(), sdp: answer.to_owned(), candidates: own.remote_candidates.clone() };
        self.events.send(Event::CallDescription(description));
        let answered_by = address::peer_id(&device).map(|peer| peer.to_string()).unwrap_or_default();
        self.events.send(Event::CallAnswered { call_id: call.to_string(), answered_by });
        self.drop_held(call);
        self.drive_outgoing(call);
    }

    /// A candidate of the other end's, for the embedder's engine. False if the call's media aren't the embedder's.
    pub(super) fn own_candidate(&mut self, call: CallId, candidate: &str) -> bool {
        let Ok(own) = self.own_engine(call) else { return false };
        if own.remote_candidates.len() < CANDIDATES_MAX {
            own.remote_candidates.push(candidate.to_owned());
            self.events.send(Event::CallCandidate { call_id: call.to_string(), candidate: candidate.to_owned() });
        }
        true
    }

    /// Answers a call that rings with a description of the embedder's.
    pub(super) fn answer_own(&mut self, call: CallId, answer: String) {
        let now = Instant::now();
        let me = self.identity.device();
        let Some(incoming) = self.calls.incoming.get_mut(&call) else { return };
        // What was being connected for the case that ours is wanted isn't.
        incoming.early = None;
        if incoming.machine.answer(answer, now) {
            let remote_candidates = incoming.candidates.clone();
            incoming.own = Some(OwnEngine { remote: Some(incoming.offer.clone()), remote_candidates, ..OwnEngine::default() });
            incoming.progress.answered_at = Some(now);
            incoming.progress.answered_by = Some(me);
            incoming.progress.note(CallStageKind::Answer, None, "answered here; media are the embedder's");
        } else {
            debug!(call = %call.short(), "it can't be answered any more");
        }
        self.drive_incoming(call);
    }
}

fn note_connected(progress: &mut Progress, path: Option<crate::handle::calls::CallPath>, now: Instant) {
    progress.connected_at.get_or_insert(now);
    progress.own_path = path.or(progress.own_path);
    progress.note(CallStageKind::Media, None, "connected, the own engine says");
}

/// Without the relay's way by TLS: its certificate is vouched for by its hash, which WebRTC stacks have no way to be told.
fn ice_server(relay: &RelayServer) -> IceServer {
    let mut urls = vec![format!("stun:{}", relay.address), format!("turn:{}?transport=udp", relay.address)];
    urls.extend(relay.stream.map(|stream| format!("turn:{stream}?transport=tcp")));
    IceServer { urls, username: relay.username.clone(), credential: relay.password.0.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptions_are_judged_before_anybody_is_called() {
        let good = "v=0\r\na=fingerprint:sha-256 AB\r\na=candidate:1 1 udp 1 192.0.2.1 9 typ host\r\n";
        assert_eq!(check_description(good, false), Ok(()));
        assert!(check_description(good, true).is_err(), "it shows an address");
        assert!(check_description(&good.replace("typ host", "typ relay"), true).is_ok());
        assert!(check_description("", false).is_err());
        assert!(check_description("v=0\r\n", false).is_err(), "no fingerprint");
        assert!(check_description(&format!("{good}{}", "a".repeat(SDP_BYTES_MAX)), false).is_err());
    }
}
