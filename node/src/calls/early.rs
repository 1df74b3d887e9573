//! Media connected while it rings, so that the first word isn't cut.
//!
//! ```text
//! caller                                             a device of the callee
//!   ---- invite, with the offer -------------------->  rings
//!   <--- ringing, with an early answer --------------  if a contact calls: sockets, ICE, DTLS
//!   <========== ICE, DTLS, candidates both ways ====>  nobody hears anything
//!   <--- accept, with the same answer ---------------  a person answers
//!   <========== audio ==============================>  at once
//! ```
//!
//! A device may want to be heard while it rings, as a telephone network behind it says something (`early_audio`): the caller's end plays it, and sends nothing.
//!
//! A stranger gets no early answer, so it learns no address of the device before somebody answers. An early leg is a try: what becomes of it
//! changes nothing in the call. Where it fails, or hasn't come up in time, the device answers anew when its person does, and the caller meets
//! that answer with what it has kept of the offer. It ends with whatever ends the leg, and all of it is given back then.

use std::time::{Duration, Instant};

use halloo_protocol::call::{CallId, LegState, TelephonePart};
use halloo_protocol::key::DeviceKey;
use halloo_protocol::phone::AudioCodec;
use tracing::debug;

use super::driver::{self, MediaDriver, SessionId, StandingOffer};
use super::media::video::VideoLink;
use super::media::{EarlyAudio, MediaConfig, MediaEvent, MediaPath, MediaSession, Room};
use super::{CallsState, path_words};
use crate::event_loop::EventLoop;
use crate::handle::calls::{CallError, CallStageKind};

/// Calls that ring here and are connected early at once; others wait for the answer. A person answers one of them.
const EARLY_INCOMING_MAX: usize = 8;

/// A connection that isn't there after this isn't waited for when somebody answers, but made anew: longer than ICE and DTLS take where they work.
const SETTLE_MAX: Duration = Duration::from_secs(5);

/// Candidates kept of a device until there is a session to give them to: as many as a session takes.
pub(super) const CANDIDATES_MAX: usize = 16;

/// Media of a leg that nobody has answered.
#[derive(Debug)]
pub(super) struct EarlyMedia {
    pub(super) driver: MediaDriver,
    /// What the ringing device has answered.
    answer: String,
    relayed_only: bool,
    began: Instant,
    /// The path, once ICE and DTLS are through.
    path: Option<MediaPath>,
    /// Nothing is heard over it at present.
    is_broken: bool,
    /// It passes through in this codec, and is heard already.
    passes: Option<AudioCodec>,
}

impl EarlyMedia {
    const fn new(driver: MediaDriver, answer: String, relayed_only: bool, began: Instant) -> Self {
        Self { driver, answer, relayed_only, began, path: None, is_broken: false, passes: None }
    }

    pub(super) fn path(&self) -> Option<&MediaPath> {
        self.path.as_ref()
    }

    /// Whether it is worth going on with at an answer that wants this.
    fn is_of_use(&self, relayed_only: bool, now: Instant) -> bool {
        let is_settling = now.saturating_duration_since(self.began) < SETTLE_MAX;
        self.relayed_only == relayed_only && !self.is_broken && (self.path.is_some() || is_settling)
    }

    /// What the trace says when it becomes the call's media.
    fn words(&self) -> String {
        let left = self.driver.stats().map_or(0, |stats| stats.packets_sent + stats.packets_left_early);
        match &self.path {
            Some(path) => format!("connected while it rang, {}; {left} packets of audio before", path_words(path.kind)),
            None => format!("being connected since it rang; {left} packets of audio before"),
        }
    }
}

/// Media of one leg at the caller, until a device is the one.
#[derive(Debug, Default)]
pub(super) struct LegMedia {
    /// The offer, for the device's first answer or for another.
    pub(super) offer: Option<StandingOffer>,
    pub(super) early: Option<EarlyMedia>,
    /// What the device has trickled before there was a session.
    candidates: Vec<String>,
}

impl LegMedia {
    pub(super) fn new(offer: StandingOffer) -> Self {
        Self { offer: Some(offer), ..Self::default() }
    }

    /// Gives up everything.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// A candidate of the device's.
    pub(super) fn add_candidate(&mut self, candidate: String) {
        match &self.early {
            Some(early) => early.driver.add_candidate(candidate),
            None if self.candidates.len() < CANDIDATES_MAX => self.candidates.push(candidate),
            None => {}
        }
    }

    pub(super) fn take_candidates(&mut self) -> Vec<String> {
        std::mem::take(&mut self.candidates)
    }

    fn hand_candidates(&mut self, driver: &MediaDriver) {
        self.candidates.drain(..).for_each(|candidate| driver.add_candidate(candidate));
    }
}

/// The media of a call whose device has answered.
pub(super) enum Answered {
    /// Being connected from now on.
    New(MediaDriver),
    /// What was connected, or was being connected, while it rang.
    Early(EarlyMedia),
}

impl CallsState {
    /// A number for one more session.
    pub(super) fn next_session(&mut self) -> SessionId {
        self.sessions += 1;
        SessionId(self.sessions)
    }

    /// All early legs, and whose they are.
    pub(super) fn early_media(&self) -> impl Iterator<Item = (CallId, &EarlyMedia)> {
        let legs = self.outgoing.iter().flat_map(|(call, outgoing)| outgoing.legs.values().map(|leg| (*call, leg)));
        let outgoing = legs.filter_map(|(call, leg)| Some((call, leg.media.early.as_ref()?)));
        outgoing.chain(self.incoming.iter().filter_map(|(call, incoming)| Some((*call, incoming.early.as_ref()?))))
    }

    /// An early leg of a call: one that is connected, if there is any.
    pub(super) fn early_of(&self, call: CallId) -> Option<&MediaDriver> {
        let legs = self.early_media().filter(|(of, _)| *of == call).map(|(_, early)| early);
        legs.max_by_key(|early| early.path.is_some()).map(|early| &early.driver)
    }

    /// All sessions, early ones too.
    pub(super) fn media_drivers(&self) -> impl Iterator<Item = &MediaDriver> {
        let outgoing = self.outgoing.values().filter_map(|call| call.media.as_ref());
        let answered = outgoing.chain(self.incoming.values().filter_map(|call| call.media.as_ref()));
        answered.chain(self.early_media().map(|(_, early)| &early.driver))
    }

    /// The early leg with this session, and the device at its other end.
    fn early_leg(&mut self, call: CallId, session: SessionId) -> Option<(DeviceKey, &mut Option<EarlyMedia>)> {
        let is_it = |early: &Option<EarlyMedia>| early.as_ref().is_some_and(|early| early.driver.id() == session);
        if let Some(outgoing) = self.outgoing.get_mut(&call) {
            let mut legs = outgoing.legs.iter_mut().map(|(device, leg)| (*device, &mut leg.media.early));
            return legs.find(|(_, early)| is_it(early));
        }
        let incoming = self.incoming.get_mut(&call)?;
        let caller = incoming.machine.caller();
        Some((caller, &mut incoming.early)).filter(|(_, early)| is_it(early))
    }
}

// Both ends.
impl EventLoop {
    /// Something happened to media that nobody has answered yet. False if there is no such leg (any more).
    pub(super) fn early_event(&mut self, call: CallId, session: SessionId, event: &MediaEvent) -> bool {
        let Some((device, early)) = self.calls.early_leg(call, session) else { return false };
        if let (MediaEvent::Connected(path) | MediaEvent::PathChanged(path), Some(early)) = (event, early.as_mut()) {
            early.path = Some(*path);
        }
        if let (MediaEvent::Disconnected | MediaEvent::Reconnected, Some(early)) = (event, early.as_mut()) {
            early.is_broken = matches!(event, MediaEvent::Disconnected);
        }
        let detail = match event {
            MediaEvent::IceConnected => "ICE has found a path while it rings".to_owned(),
            MediaEvent::Connected(path) => format!("DTLS is through while it rings: connected, {}", path_words(path.kind)),
            MediaEvent::PathChanged(path) => format!("another path while it rings, {}", path_words(path.kind)),
            MediaEvent::Failed(error) => {
                *early = None;
                format!("not connected while it rings, again after the answer: {}", driver::describe(error))
            }
            MediaEvent::Closed => {
                *early = None;
                "closed by the other end while it rings, again after the answer".to_owned()
            }
            MediaEvent::LocalCandidate(candidate) => {
                self.trickle(call, device, candidate.clone(), Instant::now());
                return true;
            }
            MediaEvent::RelayFailed(relay, why) => {
                self.media_relay_failed(call, *relay, why);
                return true;
            }
            _ => return true,
        };
        if let MediaEvent::Connected(path) | MediaEvent::PathChanged(path) = event {
            self.note_carrier(path);
        }
        self.note_stage(call, CallStageKind::Media, Some(&device), detail);
        true
    }

    /// A session that nobody has answered is over.
    pub(super) fn early_ended(&mut self, call: CallId, session: SessionId) {
        if let Some((_, early)) = self.calls.early_leg(call, session) {
            *early = None;
        }
    }
}

// The callee's device.
impl EventLoop {
    /// Begins to connect a call that rings here, if a contact calls.
    pub(super) fn begin_early(&mut self, call: CallId) {
        let ringing = self.calls.incoming.values().filter(|incoming| incoming.early.is_some()).count();
        let config = self.media_config(None, None).early(true).video(self.video_link(call));
        let Some(incoming) = self.calls.incoming.get(&call).filter(|incoming| incoming.is_from_contact && incoming.rings())
        else {
            return;
        };
        if ringing < EARLY_INCOMING_MAX && self.settings.early_media {
            driver::make_early_answer(call, config, incoming.offer.clone(), self.internal_sender.clone());
        }
    }

    /// A telephone behind this device says something while it rings: its encoded audio, in this codec, goes to the caller over the embedder's port. `None`
    /// takes that back, so that the call can be answered with another port.
    pub(super) fn speak_early(&mut self, call_id: &str, codec: Option<AudioCodec>) -> Result<(), CallError> {
        let call = self.named_call(call_id)?;
        let config = self.media_config(None, None).early(true);
        let refused = |state| CallError::WrongState { call_id: call.to_string(), state, action: "heard while it rings" };
        let legs = self.calls.incoming.values().filter(|incoming| incoming.early.is_some()).count();
        let incoming =
            self.calls.incoming.get_mut(&call).filter(|incoming| incoming.rings()).ok_or_else(|| refused("not ringing here"))?;
        let Some(codec) = codec else {
            (incoming.early, incoming.audio) = (None, None);
            return Ok(());
        };
        // Who calls a number through this device is named by its owner.
        let is_dialled = matches!(incoming.progress.telephone, Some(TelephonePart::Dial(_)));
        if !incoming.is_from_contact && !is_dialled {
            return Err(refused("a stranger's"));
        }
        if incoming.early.is_some() || incoming.audio.is_some() || legs >= EARLY_INCOMING_MAX {
            return Err(refused("connected already, or others are"));
        }
        let offer = incoming.offer.clone();
        let config = self.with_passthrough(call, config, &[codec]);
        driver::make_early_answer(call, config, offer, self.internal_sender.clone());
        Ok(())
    }

    /// What is shown and seen, if a video call came in.
    fn video_link(&self, call: CallId) -> Option<VideoLink> {
        self.calls.incoming.get(&call)?.video.as_ref().map(|video| video.link.clone())
    }

    /// The early answer is made, or can't be.
    pub(super) fn early_made(&mut self, call: CallId, relayed_only: bool, made: Result<(Box<MediaSession>, String), String>) {
        let now = Instant::now();
        let (session, news) = (self.calls.next_session(), self.internal_sender.clone());
        let Some(incoming) = self.calls.incoming.get_mut(&call).filter(|incoming| incoming.rings() && incoming.early.is_none())
        else {
            return;
        };
        let passes = incoming.audio.as_ref().and_then(|audio| audio.codecs.first().copied());
        match made {
            Ok((media, sdp)) if incoming.machine.answer_early(sdp.clone(), passes.is_some(), now) => {
                let driver = MediaDriver::spawn(call, session, *media, news);
                if passes.is_some() {
                    driver.early_audio(EarlyAudio::Speaks);
                    incoming.progress.note(CallStageKind::Media, None, "heard while it rings");
                }
                incoming.early = Some(EarlyMedia { passes, ..EarlyMedia::new(driver, sdp, relayed_only, now) });
            }
            Ok(_) => {}
            Err(error) => {
                debug!(call = %call.short(), error, "not connected early");
                incoming.progress.note(CallStageKind::Media, None, format!("not connected while it rings: {error}"));
            }
        }
        self.drive_incoming(call);
    }

    /// A person answers: with what is connected already, or else anew.
    pub(super) fn begin_answer(&mut self, call: CallId, config: MediaConfig) {
        let Some(incoming) = self.calls.incoming.get(&call) else { return };
        let room = self.conference_room(incoming.link.as_ref());
        let Some(incoming) = self.calls.incoming.get_mut(&call) else { return };
        incoming.answering = true;
        incoming.twin_of = None;
        let room = room.unwrap_or_else(|| Room::new(config.play.clone(), config.record.clone()).microphone(config.microphone));
        let video = incoming.video.as_ref().map(|video| video.link.clone());
        let config = config.room(room.clone()).video(video);
        incoming.room = Some(room);
        if let Some(video) = &mut incoming.video {
            video.use_files(config.video_files.clone());
        }
        self.answer_with(call, config);
        self.incoming_connecting(call);
    }

    fn answer_with(&mut self, call: CallId, config: MediaConfig) {
        let Some(incoming) = self.calls.incoming.get_mut(&call) else { return };
        let now = Instant::now();
        let news = self.internal_sender.clone();
        // What was connected while it rang may be in another codec than the embedder's.
        let wanted = config.audio.as_ref().and_then(|_| config.codecs.first().copied());
        let is_alike = |early: &&EarlyMedia| early.passes == wanted;
        if incoming.early.as_ref().filter(is_alike).is_some_and(|early| early.is_of_use(config.relayed_only, now)) {
            return driver::check_files(call, config, news);
        }
        // What hasn't come up till now would hold up the answer.
        incoming.early = None;
        driver::make_answer(call, config, incoming.offer.clone(), news);
    }

    /// The files of an answer can be used, so that what is connected can be answered with.
    pub(super) fn answer_with_early(&mut self, call: CallId, config: MediaConfig) {
        let now = Instant::now();
        let me = self.identity.device();
        let Some(incoming) = self.calls.incoming.get_mut(&call) else { return };
        let Some(early) = incoming.early.take() else {
            // It has failed meanwhile.
            return self.begin_answer(call, config);
        };
        incoming.answering = false;
        // A call that was cancelled meanwhile refuses the answer; the session is dropped with it.
        if incoming.machine.answer(early.answer.clone(), now) {
            incoming.progress.answered_at = Some(now);
            incoming.progress.answered_by = Some(me);
            incoming.progress.note(CallStageKind::Answer, None, "answered here");
            incoming.progress.note(CallStageKind::Media, None, early.words());
            // The caller will have our word when it hears us: it is on the same way, or a shorter one, and left before. Of another device's
            // that was faster it hears nothing, since it has dropped this one.
            early.driver.answered(config.room);
            early.driver.start();
            incoming.media = Some(early.driver);
            if let Some(path) = &early.path {
                incoming.progress.connected_at = Some(now);
                incoming.machine.handle_media_connected(now);
                self.take_path(call, path);
            }
        }
        self.drive_incoming(call);
    }
}

// The caller.
impl EventLoop {
    /// A device that rings lets media be connected.
    pub(super) fn connect_early(&mut self, call: CallId, device: DeviceKey, answer: String, is_heard: bool) {
        let (session, news) = (self.calls.next_session(), self.internal_sender.clone());
        let Some(leg) = self.calls.outgoing.get_mut(&call).and_then(|outgoing| outgoing.legs.get_mut(&device)) else { return };
        let Some(StandingOffer::Fresh(pending)) = leg.media.offer.take() else { return };
        let relayed_only = pending.is_relayed_only();
        leg.media.offer = Some(StandingOffer::Spare(Box::new(pending.spare())));
        let offer = StandingOffer::Fresh(Box::new(pending.early()));
        let driver = MediaDriver::accept(call, session, offer, answer.clone(), news, false);
        leg.media.hand_candidates(&driver);
        if is_heard {
            driver.early_audio(EarlyAudio::Hears);
        }
        leg.media.early = Some(EarlyMedia::new(driver, answer, relayed_only, Instant::now()));
        if is_heard {
            self.note_stage(call, CallStageKind::Media, Some(&device), "heard while it rings");
        }
    }

    /// The media of a device that has answered: what is connected, if it means that, or else its answer begins anew.
    pub(super) fn answered_media(&mut self, call: CallId, device: DeviceKey, answer: &str) -> Option<Answered> {
        let (session, news) = (self.calls.next_session(), self.internal_sender.clone());
        let leg = self.calls.outgoing.get_mut(&call)?.legs.get_mut(&device)?;
        if let Some(early) = leg.media.early.take().filter(|early| early.answer == answer) {
            early.driver.start();
            return Some(Answered::Early(early));
        }
        let offer = leg.media.offer.take()?;
        let driver = MediaDriver::accept(call, session, offer, answer.to_owned(), news, true);
        leg.media.hand_candidates(&driver);
        Some(Answered::New(driver))
    }

    /// Makes it the call's media.
    pub(super) fn use_answered_media(&mut self, call: CallId, media: Answered) {
        let now = Instant::now();
        let Some(outgoing) = self.calls.outgoing.get_mut(&call) else { return };
        match media {
            Answered::New(driver) => outgoing.media = Some(driver),
            Answered::Early(early) => {
                outgoing.progress.note(CallStageKind::Media, None, early.words());
                outgoing.media = Some(early.driver);
                if let Some(path) = &early.path {
                    outgoing.progress.connected_at.get_or_insert(now);
                    outgoing.machine.handle_media_connected(now);
                    self.take_path(call, path);
                }
            }
        }
    }

    /// Gives back what was connected with devices whose legs are over.
    pub(super) fn end_early_legs(&mut self, call: CallId) {
        let Some(outgoing) = self.calls.outgoing.get_mut(&call) else { return };
        let machine = &outgoing.machine;
        let is_over = |device: &DeviceKey| {
            !matches!(machine.leg_state(device), Some(LegState::Inviting | LegState::Ringing | LegState::Answered))
        };
        for (device, leg) in &mut outgoing.legs {
            if leg.media.early.is_some() && is_over(device) {
                leg.media.clear();
            }
        }
    }
}
