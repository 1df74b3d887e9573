//! Calls we place.

mod look_again;
mod pushes;
mod stream_way;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use halloo_protocol::call::{
    CallId, CallInvite, CallTimers, CallerAction, CallerCall, CallerParams, CallerState, DISPLAY_NAME_BYTES_MAX, INVITE_SECS_MAX,
    Invite, InviteAnswer, InviteStatus, LegState, Origin, Outcome, Reason, SealedInvite, may_pass,
};
use halloo_protocol::choice::held_for;
use halloo_protocol::directory::{DirectoryRecord, EntryParts, PushAddress, Reachability};
use halloo_protocol::event::EventKind;
use halloo_protocol::id::ConversationId;
use halloo_protocol::identity::UserId;
use halloo_protocol::key::{DeviceKey, IdentityKey};
use halloo_protocol::wire::{Extensions, Frame};
use tracing::{debug, info};

use self::stream_way::{Next, StreamWay};
use super::conference::Link;
use super::driver::{self, MediaDriver, StandingOffer};
use super::early::LegMedia;
use super::hand_over::RelayWay;
use super::media::{PendingMedia, Room};
use super::own_audio::AudioEnds;
use super::own_engine::{OwnEngine, VideoEnds};
use super::{InviteTarget, Progress, SUMMARY_WAIT};
use crate::address;
use crate::directory::Waiter;
use crate::event_loop::EventLoop;
use crate::handle::calls::{CallError, CallOutcome, CallStageKind, CallState, DialOptions};
use crate::handle::directory::ResolveError;
use crate::handle::{Event, Reply};
use crate::network::{Purpose, Target};
use crate::push::HeldPush;
use crate::rpc::Failure;

/// How long a device may take to answer an invite on a stream: its connection may have to be made first.
const INVITE_TIMEOUT: Duration = Duration::from_secs(8);

/// The same where a connection was open already: an answer takes a round trip, so whoever is silent for so long isn't there any more.
const INVITE_TIMEOUT_OPEN: Duration = Duration::from_secs(5);

/// How long the gateways are held back for a device that is said to take connections: longer than most rings take, so that nobody
/// is pushed who rings anyway.
const PUSH_HOLD_BACK: Duration = Duration::from_millis(600);

/// One device of the callee.
#[derive(Debug)]
pub(super) struct Leg {
    /// Tells it from those to the same device whose place it took.
    pub(super) number: u32,
    pub(super) target: Target,
    hpke_key: [u8; 32],
    /// Its media, until a device has answered.
    pub(super) media: LegMedia,
    /// The way over a stream.
    stream_way: StreamWay,
    /// The way through the device's relays.
    pub(super) relay_way: RelayWay,
    /// The device's gateways.
    gateways: Vec<PushAddress>,
    /// The invite, once sealed: the same bytes on every way.
    pub(super) sealed: Option<SealedInvite>,
    /// When the gateways are asked, unless the device rings before.
    push_at: Option<Instant>,
    /// Relays and gateways that were asked to bring the invite: they pass signals on.
    pub(super) bearers: Vec<Target>,
    /// Whether gateways were asked.
    pushed: bool,
    /// Pushes that its gateways hold for its turn.
    held_pushes: Vec<HeldPush>,
    /// Whether the device rang by the invite on the stream, or from its relay.
    pub(super) rang_on_stream: bool,
    /// Pushes handed to gateways and not refused yet.
    pushes: usize,
    /// Whether the first sign of life came by way of a gateway.
    via_push: bool,
    /// Whether its lease has run out.
    is_offline: bool,
    /// Whether the record was fetched anew because the device couldn't open its invite.
    looked_up_again: bool,
}

/// A call we placed.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) machine: CallerCall,
    pub(super) progress: Progress,
    pub(super) media: Option<MediaDriver>,
    conversation: ConversationId,
    pub(super) options: DialOptions,
    /// What is said and heard.
    pub(super) room: Room,
    /// Encoded audio, where that is the embedder's.
    pub(super) audio: Option<AudioEnds>,
    /// What is shown and seen, in a video call.
    pub(super) video: Option<VideoEnds>,
    /// Where media are the embedder's.
    pub(super) own: Option<OwnEngine>,
    /// The conference that it belongs to, if it does.
    pub(super) link: Option<Link>,
    /// The callee's identity key, once the look-up has shown it.
    pub(super) identity: Option<IdentityKey>,
    /// The call that came in and goes on instead of this one: both had dialled.
    pub(super) joined: Option<CallId>,
    reply: Option<Reply<CallOutcome, CallError>>,
    /// Listed, or not to be.
    is_archived: bool,
    /// The record is a cached one, and the directory is to be asked once an invite is on its way.
    looks_again: bool,
    pub(super) legs: HashMap<DeviceKey, Leg>,
}

impl Outgoing {
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let hang_up = self.hang_up_at();
        // Once it is listed only its last words are waited for, and a deadline that has passed would keep the loop from reading the network.
        let summary = self.progress.ended.filter(|_| !self.is_archived).map(|(_, _, at)| at + SUMMARY_WAIT);
        let push = self.legs.values().filter(|leg| leg.sealed.is_some()).filter_map(|leg| leg.push_at).min();
        [self.machine.poll_timeout(), hang_up, summary, push].into_iter().flatten().min()
    }

    /// Whether it is over and stands among the ended calls, or nowhere.
    pub(super) const fn is_put_away(&self) -> bool {
        self.is_archived && self.progress.ended.is_some()
    }

    /// Takes a leg. What becomes of the invites of one to the same device whose place it takes says nothing about it.
    fn put_leg(&mut self, device: DeviceKey, leg: Leg) {
        let number = self.legs.get(&device).map_or(0, |former| former.number + 1);
        self.legs.insert(device, Leg { number, ..leg });
    }

    /// Takes whoever waits for the outcome.
    pub(super) fn take_reply(&mut self) -> Option<Reply<CallOutcome, CallError>> {
        self.is_archived = true;
        self.reply.take()
    }

    /// Whether anybody hears of it before it is answered: not of legs, which are dialled by themselves.
    pub(super) fn is_quiet(&self) -> bool {
        self.link.as_ref().is_some_and(|link| link.is_leg)
    }

    fn hang_up_at(&self) -> Option<Instant> {
        if self.progress.ended.is_some() {
            return None;
        }
        Some(self.progress.connected_at? + Duration::from_millis(self.options.duration_ms?))
    }

    pub(super) const fn state(&self) -> CallState {
        match self.machine.state() {
            CallerState::Dialling => CallState::Dialing,
            CallerState::Ringing => CallState::Ringing,
            CallerState::Answered(_) => CallState::Connecting,
            CallerState::Connected(_) => CallState::Active,
            CallerState::Ended(..) => CallState::Ended,
        }
    }

    pub(super) fn media_ended(&mut self, failure: Option<String>, now: Instant) {
        match failure {
            Some(failure) => {
                self.progress.failure = Some(failure);
                self.machine.handle_media_failed(now);
            }
            // The other end closed its session: its hang-up is on the way, or lost.
            None => self.machine.hang_up(now),
        }
    }
}

fn count_words(devices: usize) -> String {
    if devices == 1 { "1 device".to_owned() } else { format!("{devices} devices") }
}

impl EventLoop {
    pub(super) fn begin_dial(&mut self, user: UserId, options: DialOptions, reply: Reply<CallOutcome, CallError>) {
        let chosen = options.linked.as_ref().and_then(|callee| callee.call);
        let call = chosen.unwrap_or_else(|| CallId::random(&mut self.rng));
        self.place_call(call, user, options, None, Some(reply));
    }

    /// Calls somebody: all of their devices, or for a leg of a conference the one that takes part.
    pub(super) fn place_call(
        &mut self,
        call: CallId,
        user: UserId,
        options: DialOptions,
        link: Option<Link>,
        reply: Option<Reply<CallOutcome, CallError>>,
    ) {
        let now = self.now();
        let room = self.conference_room(link.as_ref());
        let room = room.unwrap_or_else(|| Room::new(options.play.clone(), options.record.clone()).microphone(options.microphone));
        let params = CallerParams {
            call,
            me: self.identity.device(),
            devices: Vec::new(),
            is_lookup_pending: true,
            timers: CallTimers::default(),
        };
        let mut outgoing = Outgoing {
            machine: CallerCall::new(params, now.instant),
            progress: Progress::new(user.clone(), now),
            media: None,
            conversation: ConversationId::of_pair(&self.identity.user_id(), &user),
            audio: AudioEnds::new(&options.passthrough),
            video: options.is_video().then(VideoEnds::new),
            own: options.offer.is_some().then(OwnEngine::default),
            options,
            room,
            link,
            identity: None,
            joined: None,
            reply,
            is_archived: false,
            looks_again: false,
            legs: HashMap::new(),
        };
        outgoing.progress.is_video = outgoing.options.is_video();
        outgoing.progress.telephone.clone_from(&outgoing.options.telephone);
        // Whoever dials has been told if it can't be.
        outgoing.progress.phone = super::phone::part_of(outgoing.options.phone.as_deref()).ok().flatten();
        let meant = outgoing.options.linked.as_ref().map(|callee| callee.peer());
        outgoing.progress.linked = meant.or_else(|| self.linked_peer_of(&outgoing.progress.user));
        if let Some(video) = &mut outgoing.video {
            video.use_files(outgoing.options.video_files());
        }
        let presence = self.presence_of(&user);
        let shown = presence.as_ref().map_or_else(|| "not a contact: unknown".to_owned(), super::trace::presence_words);
        outgoing.progress.note(CallStageKind::Presence, None, shown);
        if outgoing.options.relayed_only || self.settings.relayed_calls {
            outgoing.progress.note(CallStageKind::Media, None, super::trace::RELAYED_BY_CHOICE);
        }
        if !outgoing.is_quiet() {
            let telephone = outgoing.options.telephone.as_ref().map(super::telephone::words);
            self.events.send(Event::CallDialing {
                call_id: call.to_string(),
                to: self.labels.display(&user),
                presence,
                telephone,
                phone: outgoing.progress.phone.map(|part| part.0.to_string()),
            });
        }
        info!(call = %call.short(), "dialling");
        self.calls.outgoing.insert(call, outgoing);
        self.resolve_user(&user, Waiter::Dial(call));
    }

    /// The look-up for a dial has ended. `found` says as well whether the record is a cached one: that rings at once, while the directory is
    /// asked whether there are new devices, addresses or gateways.
    pub(crate) fn dial_resolved(&mut self, call: CallId, found: Result<(DirectoryRecord, bool), ResolveError>) {
        if let Ok((record, is_cached)) = &found {
            let devices = record.entries().count();
            let source = if *is_cached { "the cache" } else { "the directory" };
            self.note_stage(call, CallStageKind::LookUp, None, format!("{}, from {source}", count_words(devices)));
        }
        match found {
            Ok((record, true)) => {
                if let Some(outgoing) = self.calls.outgoing.get_mut(&call) {
                    outgoing.looks_again = true;
                }
                self.invite_devices(call, &record);
                let is_waiting = self.calls.outgoing.get(&call).is_some_and(|outgoing| !outgoing.legs.is_empty());
                if !is_waiting {
                    self.look_again(call);
                }
            }
            Ok((record, false)) => {
                self.invite_devices(call, &record);
                self.finish_dial_lookup(call);
            }
            Err(error) => {
                self.release_held(call, false);
                let Some(mut outgoing) = self.calls.outgoing.remove(&call) else { return };
                let error = CallError::from(error);
                if let Some(link) = &outgoing.link {
                    self.asked_not_found(link, call, &error);
                }
                if let Some(reply) = outgoing.reply.take() {
                    reply.send(Err(error));
                }
            }
        }
    }

    fn new_leg(&self, record: &DirectoryRecord, parts: &EntryParts) -> Option<Leg> {
        let target = self.device_target(record, parts)?;
        let private = self.private_part(record, parts).unwrap_or_default();
        let leave = self.hand_over_leave(&record.user_id(), &parts.device(), private.hand_over());
        let relay_way = RelayWay::new(parts.entry().relays.clone(), leave);
        let gateways = private.push;
        let reachability = parts.reachability(self.now().unix);
        let asleep = matches!(reachability, Reachability::Push | Reachability::None);
        let hold_back = if asleep { Duration::ZERO } else { PUSH_HOLD_BACK };
        Some(Leg {
            number: 0,
            target,
            hpke_key: parts.entry().hpke_key,
            media: LegMedia::default(),
            stream_way: StreamWay::default(),
            relay_way,
            push_at: (!gateways.is_empty()).then(|| Instant::now() + hold_back),
            gateways,
            sealed: None,
            bearers: Vec::new(),
            pushed: false,
            held_pushes: Vec::new(),
            rang_on_stream: false,
            pushes: 0,
            via_push: false,
            is_offline: reachability == Reachability::None,
            looked_up_again: false,
        })
    }

    fn finish_dial_lookup(&mut self, call: CallId) {
        let Some(outgoing) = self.calls.outgoing.get_mut(&call) else { return };
        outgoing.machine.finish_lookup(Instant::now());
        self.drive_outgoing(call);
    }

    /// Invites the devices of a record; those invited already gain what is new: addresses after a failure, gateways in any case.
    fn invite_devices(&mut self, call: CallId, record: &DirectoryRecord) {
        let now = Instant::now();
        let me = self.identity.device();
        let mut legs = Vec::new();
        let only = self.link(call).filter(|link| link.is_leg).and_then(|link| link.other.clone());
        // A leg is for one device, and for nobody else who might have its name by now.
        // What somebody shows in a linked system names a key: whoever else has the name isn't meant.
        let linked = self.calls.outgoing.get(&call).and_then(|outgoing| outgoing.options.linked.as_ref());
        let is_key_meant = linked.and_then(|callee| callee.identity).is_none_or(|identity| identity == record.identity());
        let is_meant = |device: &DeviceKey| {
            is_key_meant
                && *device != me
                && only.as_ref().is_none_or(|only| only.device == *device && only.identity == record.identity())
        };
        let meant: Vec<&EntryParts> = record.entries().filter(|parts| is_meant(&parts.device())).collect();
        for parts in meant {
            self.renew_linked_leave(&record.user_id(), parts.entry(), Some(call));
            if let Some(leg) = self.new_leg(record, parts) {
                legs.push((parts.device(), leg));
            }
        }
        let Some(outgoing) = self.calls.outgoing.get_mut(&call) else { return };
        outgoing.identity = Some(record.identity());
        let mut moved = Vec::new();
        for (device, leg) in legs {
            if outgoing.machine.add_device(device, now) {
                outgoing.put_leg(device, leg);
                continue;
            }
            let Some(known) = outgoing.legs.get_mut(&device) else { continue };
            if known.target.addresses != leg.target.addresses {
                known.target = leg.target;
                if outgoing.machine.leg_state(&device).is_some_and(LegState::may_ring) {
                    moved.push((device, known.target.clone()));
                }
                known.relay_way = RelayWay { is_asking: known.relay_way.is_asking, ..leg.relay_way };
            }
            if known.gateways.is_empty() {
                known.gateways = leg.gateways;
                known.push_at = if known.stream_way.has_failed() { leg.push_at.map(|_| now) } else { leg.push_at };
            }
        }
        // The invite waits for whichever dial connects first.
        for (device, target) in moved {
            self.dial_moved(&target);
            self.hand_over(call, device);
        }
        self.drive_outgoing(call);
    }

    /// Carries out what the machine of a call wants.
    pub(super) fn drive_outgoing(&mut self, call: CallId) {
        while let Some(action) = self.calls.outgoing.get_mut(&call).and_then(|outgoing| outgoing.machine.poll_action()) {
            match action {
                CallerAction::Invite { device } => self.offer_to(call, device),
                CallerAction::Send(signal) => {
                    let leg = self.calls.outgoing.get(&call).and_then(|outgoing| outgoing.legs.get(&signal.to));
                    let Some((target, bearers)) = leg.map(|leg| (leg.target.clone(), leg.bearers.clone())) else { continue };
                    // A device that was woken may be reached by nobody, and hides from strangers until it has answered.
                    if may_pass(&signal.body) && !self.is_leg_connected(call, &signal.to) {
                        bearers.iter().for_each(|bearer| self.pass_signal(signal.clone(), bearer));
                    }
                    self.send_signal(signal, &target);
                }
                CallerAction::Ringing { device } => self.device_rings(call, device),
                CallerAction::StartMedia { device, answer } => {
                    self.withdraw_pushes(call);
                    self.start_media(call, device, &answer);
                }
                CallerAction::ConnectEarly { device, answer, is_heard } => self.connect_early(call, device, answer, is_heard),
                CallerAction::AddCandidate { device, candidate } => {
                    let Some(outgoing) = self.calls.outgoing.get_mut(&call) else { continue };
                    if outgoing.progress.answered_by == Some(device) && self.own_candidate(call, &candidate) {
                        continue;
                    }
                    let Some(outgoing) = self.calls.outgoing.get_mut(&call) else { continue };
                    match (&outgoing.media, outgoing.legs.get_mut(&device)) {
                        (Some(media), _) => media.add_candidate(candidate),
                        (None, Some(leg)) => leg.media.add_candidate(candidate),
                        (None, None) => {}
                    }
                }
                CallerAction::Finished { outcome, reason } => {
                    self.withdraw_pushes(call);
                    self.outgoing_finished(call, outcome, reason);
                }
            }
        }
        self.end_early_legs(call);
        self.settle_outgoing(call);
    }

    /// Whom a call of ours is to.
    pub(crate) fn dialled_user(&self, call: CallId) -> Option<UserId> {
        self.calls.outgoing.get(&call).map(|outgoing| outgoing.progress.user.clone())
    }

    fn offer_to(&mut self, call: CallId, device: DeviceKey) {
        let why_none = self.relays_at_hand.why_none();
        let Some(outgoing) = self.calls.outgoing.get_mut(&call) else { return };
        outgoing.progress.relay_complaint = why_none;
        if let Some(offer) = outgoing.options.offer.clone() {
            return self.offer_own(call, device, offer);
        }
        let Some(outgoing) = self.calls.outgoing.get(&call) else { return };
        let config = self.media_config(outgoing.options.play.as_deref(), outgoing.options.record.as_deref());
        let config =
            config.relayed_only(outgoing.options.relayed_only || self.settings.relayed_calls).room(outgoing.room.clone());
        let target = outgoing.legs.get(&device).map(|leg| leg.target.clone());
        let video = outgoing.video.as_ref().map(|video| video.link.clone());
        let config = match &outgoing.audio {
            Some(audio) => config.passthrough(Some(audio.link.clone()), &audio.codecs),
            None => config,
        };
        let config = config.video(video).video_files(outgoing.options.video_files()).microphone(outgoing.options.microphone);
        driver::make_offer(call, device, config, self.internal_sender.clone());
        // The handshake doesn't wait for the offer.
        if let Some(target) = target.filter(|target| !self.swarm.behaviour().streams.is_connected(&target.peer)) {
            self.dial(&target);
        }
    }

    pub(super) fn offer_made(&mut self, call: CallId, device: DeviceKey, made: Result<(Box<PendingMedia>, String), String>) {
        self.invite_with(call, device, made);
        self.look_again(call);
    }

    fn invite_with(&mut self, call: CallId, device: DeviceKey, made: Result<(Box<PendingMedia>, String), String>) {
        let now = Instant::now();
        let sealed = match made {
            Ok((pending, offer)) => self.seal_invite(call, device, offer).map(|sealed| (pending, sealed)),
            Err(error) => Err(error),
        };
        let Some(outgoing) = self.calls.outgoing.get_mut(&call) else { return };
        let Some(leg) = outgoing.legs.get_mut(&device) else { return };
        match sealed {
            Ok((pending, sealed)) => {
                leg.media = LegMedia::new(StandingOffer::Fresh(pending));
                let target = leg.target.clone();
                self.send_invite(call, device, &target, &sealed);
            }
            Err(error) => {
                debug!(call = %call.short(), error, "no offer");
                outgoing.progress.failure = Some(error);
                outgoing.machine.handle_unreachable(device, Reason::MEDIA_FAILED, now);
                self.drive_outgoing(call);
            }
        }
    }

    pub(super) fn seal_invite(&mut self, call: CallId, device: DeviceKey, offer: String) -> Result<SealedInvite, String> {
        let now = self.now().unix;
        let is_hidden =
            self.calls.outgoing.get(&call).is_some_and(|outgoing| outgoing.options.relayed_only) || self.settings.relayed_calls;
        let addresses = if is_hidden { Vec::new() } else { address::best_for_descriptor(self.reach.external()) };
        let origin =
            Origin { kind: self.settings.device_kind, addresses, relays: self.relay_helpers().into_iter().take(2).collect() };
        let Some(outgoing) = self.calls.outgoing.get(&call) else { return Err("the call is over".into()) };
        let part = self.conference_part(outgoing.link.as_ref());
        let Some(leg) = outgoing.legs.get(&device) else { return Err("no such device".into()) };
        let extensions = part.map_or_else(Extensions::none, |part| part.add_to(Extensions::none()));
        let extensions = outgoing.options.telephone.iter().fold(extensions, |extensions, part| part.add_to(extensions));
        let extensions = outgoing.progress.phone.iter().fold(extensions, |extensions, part| part.add_to(extensions));
        let extensions = outgoing.options.linked.iter().fold(extensions, |extensions, callee| callee.claim.add_to(extensions));
        let mut display_name = self.own_display_name();
        display_name.truncate(display_name.floor_char_boundary(DISPLAY_NAME_BYTES_MAX));
        let invite = Invite {
            chain: self.identity.chain().clone(),
            recipient: device,
            call,
            conversation: outgoing.conversation,
            kind: if outgoing.options.is_video() { EventKind::VIDEO_CALL } else { EventKind::VOICE_CALL },
            display_name,
            avatar: None,
            origin,
            issued_at: now,
            expires_at: now.plus_secs(CallTimers::default().ring.as_secs().min(INVITE_SECS_MAX)),
            offer,
            extensions,
        };
        SealedInvite::seal(invite, self.identity.device_key(), &leg.hpke_key, &mut self.rng).map_err(|error| error.to_string())
    }

    /// Sends the invite on the stream and, where none is open, by the device's relay; the gateways get the same bytes after a moment, if it
    /// doesn't ring before.
    pub(super) fn send_invite(&mut self, call: CallId, device: DeviceKey, target: &Target, sealed: &SealedInvite) {
        let is_connected = self.swarm.behaviour().streams.is_connected(&target.peer);
        let Some(leg) = self.calls.outgoing.get_mut(&call).and_then(|outgoing| outgoing.legs.get_mut(&device)) else { return };
        leg.sealed = Some(sealed.clone());
        leg.stream_way.sent(is_connected, Instant::now());
        let purpose = Purpose::Invite(InviteTarget { call, device, leg: leg.number });
        // A device that sleeps is woken first: its way is the longest.
        self.push_due(call);
        let dialling = || format!("sent; {} addresses are dialled", target.addresses.len());
        let detail = if is_connected { "sent on the open connection".to_owned() } else { dialling() };
        self.note_stage(call, CallStageKind::Invite, Some(&device), detail);
        let message = CallInvite { sealed: sealed.clone(), extensions: Extensions::none() };
        let timeout = if is_connected { INVITE_TIMEOUT_OPEN } else { INVITE_TIMEOUT };
        self.request(target, &message, purpose, timeout);
        self.hand_over(call, device);
    }

    pub(crate) fn invite_answer(&mut self, target: InviteTarget, frame: &Frame) {
        let InviteTarget { call, device, .. } = target;
        let (status, held) = match frame.parse::<InviteAnswer>() {
            Ok(answer) => (answer.status, held_for(&answer.extensions)),
            Err(_) => (InviteStatus::Refused(Reason::INVALID), None),
        };
        match self.invited_leg(target) {
            Some(leg) => leg.stream_way.answered(),
            // It was sealed anew since.
            None if status == InviteStatus::NotForMe => return,
            None => {}
        }
        if let (InviteStatus::Ringing | InviteStatus::Duplicate, Some(secs)) = (status, held) {
            return self.device_holds(call, device, secs);
        }
        let detail = format!("{} over a {} connection", status_words(status), self.connection_words(&device));
        self.note_stage(call, CallStageKind::Invite, Some(&device), detail);
        if status == InviteStatus::NotForMe && self.look_up_again(target) {
            return;
        }
        if let Some(outgoing) = self.calls.outgoing.get_mut(&call) {
            if let Some(leg) = outgoing.legs.get_mut(&device) {
                leg.rang_on_stream |= status == InviteStatus::Ringing;
            }
            outgoing.machine.handle_invite_status(device, status, Instant::now());
            self.drive_outgoing(call);
        }
    }

    /// The leg that an invite was for, unless another has taken its place.
    pub(super) fn invited_leg(&mut self, target: InviteTarget) -> Option<&mut Leg> {
        let leg = self.calls.outgoing.get_mut(&target.call)?.legs.get_mut(&target.device)?;
        (leg.number == target.leg).then_some(leg)
    }

    /// Whether a leg's device is connected; and has been heard since, if it was dialled anew because it wasn't.
    pub(super) fn is_leg_connected(&self, call: CallId, device: &DeviceKey) -> bool {
        let Some(peer) = address::peer_id(device).filter(|peer| self.swarm.behaviour().streams.is_connected(peer)) else {
            return false;
        };
        let leg = self.calls.outgoing.get(&call).and_then(|outgoing| outgoing.legs.get(device));
        !leg.and_then(|leg| leg.stream_way.dialled_anew_at()).is_some_and(|at| self.is_silent_since(&peer, at))
    }

    /// Sends invites again that nobody has answered, over a new connection where nothing is heard on the one that was open. Copies are known by
    /// their bytes.
    fn repeat_invites(&mut self, call: CallId, now: Instant) {
        let Some(outgoing) = self.calls.outgoing.get(&call) else { return };
        let waits = |device: &DeviceKey| outgoing.machine.leg_state(device) == Some(LegState::Inviting);
        let legs: Vec<_> = outgoing.legs.iter().map(|(device, leg)| (*device, waits(device), self.is_leg_silent(leg))).collect();
        for (device, waits, is_silent) in legs {
            let outgoing = self.calls.outgoing.get_mut(&call);
            let Some(leg) = outgoing.and_then(|outgoing| outgoing.legs.get_mut(&device)) else { continue };
            if leg.stream_way.is_due(is_silent, now) && waits {
                self.repeat_invite(call, device, is_silent);
            }
        }
    }

    /// Whether nothing has come on the connection to a leg's device since the invite went out on it.
    fn is_leg_silent(&self, leg: &Leg) -> bool {
        leg.stream_way.sent_at().is_some_and(|at| self.is_silent_since(&leg.target.peer, at))
    }

    fn repeat_invite(&mut self, call: CallId, device: DeviceKey, is_silent: bool) {
        let Some(leg) = self.calls.outgoing.get_mut(&call).and_then(|outgoing| outgoing.legs.get_mut(&device)) else { return };
        let Some(sealed) = leg.sealed.clone() else { return };
        let anew = is_silent && leg.stream_way.may_dial_anew();
        leg.stream_way.repeated(anew, Instant::now());
        let is_searched = anew && leg.stream_way.begin_search();
        let target = leg.target.clone();
        let invited = InviteTarget { call, device, leg: leg.number };
        let message = CallInvite { sealed, extensions: Extensions::none() };
        if !anew {
            self.note_stage(call, CallStageKind::Invite, Some(&device), "not answered yet: sent again");
            return self.request(&target, &message, Purpose::Invite(invited), INVITE_TIMEOUT);
        }
        let detail = "nothing is heard on the open connection: dialled anew";
        self.note_stage(call, CallStageKind::Invite, Some(&device), detail);
        self.request_anew(&target, &message, Purpose::Invite(invited), INVITE_TIMEOUT_OPEN);
        if is_searched {
            self.look_for_move(invited);
        }
        self.hand_over(call, device);
    }

    pub(crate) fn invite_failure(&mut self, target: InviteTarget, failure: Failure) {
        let InviteTarget { call, device, .. } = target;
        debug!(call = %call.short(), %failure, "invite not answered on the stream");
        let Some(leg) = self.invited_leg(target) else { return };
        let next = leg.stream_way.failed(failure, Instant::now());
        if let Some(at) = leg.push_at.as_mut().filter(|_| next != Next::Another) {
            *at = Instant::now();
        }
        self.note_stage(call, CallStageKind::Invite, Some(&device), format!("not answered: {failure}"));
        self.push_due(call);
        match next {
            Next::Search => self.look_for_move(target),
            Next::GiveUp => self.check_unreachable(call, device),
            Next::Another | Next::Wait => {}
        }
    }

    /// Gives a device up once neither its stream, nor a relay, nor a gateway can bring the invite.
    pub(super) fn check_unreachable(&mut self, call: CallId, device: DeviceKey) {
        let Some(outgoing) = self.calls.outgoing.get_mut(&call) else { return };
        let given_up = outgoing.legs.get(&device).is_some_and(|leg| {
            leg.stream_way.has_failed() && !leg.relay_way.is_asking && leg.pushes == 0 && leg.push_at.is_none()
        });
        if given_up {
            outgoing.machine.handle_unreachable(device, Reason::UNREACHABLE, Instant::now());
            self.drive_outgoing(call);
        }
    }

    fn device_rings(&mut self, call: CallId, device: DeviceKey) {
        let Some(outgoing) = self.calls.outgoing.get_mut(&call) else { return };
        outgoing.progress.rang_at.get_or_insert_with(Instant::now);
        if let Some(leg) = outgoing.legs.get_mut(&device) {
            // A device that rings without having taken the invite from the stream was woken by a gateway.
            leg.via_push = leg.pushed && !leg.rang_on_stream;
        }
        outgoing.progress.note(CallStageKind::Ring, Some(&device), "rings");
        if outgoing.is_quiet() {
            return;
        }
        let peer_id = address::peer_id(&device).map(|peer| peer.to_string()).unwrap_or_default();
        self.events.send(Event::CallRinging { call_id: call.to_string(), peer_id });
    }

    fn start_media(&mut self, call: CallId, device: DeviceKey, answer: &str) {
        let now = Instant::now();
        if self.calls.outgoing.get(&call).is_some_and(|outgoing| outgoing.own.is_some()) {
            return self.start_own(call, device, answer);
        }
        let media = self.answered_media(call, device, answer);
        let Some(outgoing) = self.calls.outgoing.get_mut(&call) else { return };
        outgoing.progress.answered_at.get_or_insert(now);
        outgoing.progress.answered_by = Some(device);
        outgoing.progress.note(CallStageKind::Answer, Some(&device), "answered; the others are told to stop");
        // The others' offers are withdrawn: their sockets close here.
        outgoing.legs.values_mut().for_each(|leg| leg.media.clear());
        match media {
            Some(media) => self.use_answered_media(call, media),
            None => {
                outgoing.progress.failure = Some("no offer was made to this device".into());
                outgoing.machine.handle_media_failed(now);
            }
        }
        let answered_by = address::peer_id(&device).map(|peer| peer.to_string()).unwrap_or_default();
        self.events.send(Event::CallAnswered { call_id: call.to_string(), answered_by });
        self.drop_held(call);
        self.outgoing_leg_up(call);
    }

    /// What is known of why no device could be reached.
    fn why_unreachable(&self, call: CallId) -> Option<String> {
        let outgoing = self.calls.outgoing.get(&call)?;
        let legs = || outgoing.legs.values();
        let is_contact = self.is_acquainted(&outgoing.progress.user);
        let state = if legs().all(|leg| leg.is_offline) { "no device is online" } else { "no device answers" };
        Some(if outgoing.legs.is_empty() {
            "they have no device".to_owned()
        } else if legs().any(|leg| leg.pushed && leg.pushes > 0) {
            "a gateway was asked to wake them, and nothing was heard".to_owned()
        } else if legs().any(|leg| !leg.gateways.is_empty()) {
            format!("{state}, and no gateway took the push that would wake one")
        } else if is_contact {
            format!("{state}, and there is no gateway that could wake one")
        } else {
            format!("{state}, and how to wake them they tell contacts only: ask with `halloo contact add`")
        })
    }

    /// How we are connected to a device.
    fn connection_words(&self, device: &DeviceKey) -> &'static str {
        match address::peer_id(device).and_then(|peer| self.swarm.behaviour().streams.is_relayed(&peer)) {
            Some(true) => "relayed",
            Some(false) => "direct",
            None => "lost",
        }
    }

    fn outgoing_finished(&mut self, call: CallId, outcome: Outcome, reason: Reason) {
        self.linked_call_over(call);
        let is_silent = outcome == Outcome::Unreachable && reason != Reason::PHONE_NOT_HERE;
        let why = if is_silent { self.why_unreachable(call) } else { None };
        let Some(outgoing) = self.calls.outgoing.get_mut(&call) else { return };
        info!(call = %call.short(), %outcome, %reason, "call over");
        if outgoing.progress.failure.is_none() {
            outgoing.progress.failure = why;
        }
        outgoing.progress.note(CallStageKind::End, None, format!("{outcome}: {reason}"));
        outgoing.progress.ended = Some((outcome, reason, Instant::now()));
        outgoing.progress.via_push =
            // Who answers at once may be heard before their ringing.
            outgoing.progress.answered_by.and_then(|device| outgoing.legs.get(&device)).is_some_and(|leg| {
                leg.via_push || (outgoing.progress.rang_at.is_none() && leg.pushed && !leg.rang_on_stream)
            });
        outgoing.legs.values_mut().for_each(|leg| leg.media.clear());
        outgoing.video = None;
        outgoing.audio = None;
        if let Some(media) = &outgoing.media {
            media.close();
        }
        let joined = outgoing.joined.is_some();
        outgoing.is_archived |= outgoing.is_quiet() && outgoing.progress.answered_by.is_none();
        if outgoing.progress.answered_by.is_some() || outcome == Outcome::AnsweredElsewhere {
            self.drop_held(call);
        } else {
            self.release_held(call, reason == Reason::CANCELLED);
        }
        self.conference_call_over(call, outcome, reason, joined);
        self.release_twins(call, false);
    }

    /// Tells the outcome once the media's figures are in, and forgets the call once its last signals are acknowledged.
    fn settle_outgoing(&mut self, call: CallId) {
        let Some(outgoing) = self.calls.outgoing.get_mut(&call) else { return };
        let Some((_, _, ended_at)) = outgoing.progress.ended else { return };
        let has_figures = outgoing.media.is_none() || ended_at.elapsed() >= SUMMARY_WAIT;
        if has_figures && !outgoing.is_archived {
            outgoing.is_archived = true;
            outgoing.media = None;
            let reply = outgoing.reply.take();
            let entry = self
                .calls
                .outgoing
                .get(&call)
                .map(|outgoing| self.traced_entry(call, &outgoing.progress, false, CallState::Ended));
            let ends = self.ends_of_outgoing(call);
            if let (Some(outcome), Some(reply)) = (entry.and_then(|entry| self.archive_call(call, entry, ends)), reply) {
                reply.send(Ok(outcome));
            }
        }
        if self.calls.outgoing.get(&call).is_some_and(|outgoing| outgoing.is_archived && outgoing.machine.is_done()) {
            self.calls.outgoing.remove(&call);
        }
    }

    pub(super) fn outgoing_tick(&mut self, call: CallId, now: Instant) {
        let Some(outgoing) = self.calls.outgoing.get_mut(&call) else { return };
        if outgoing.machine.poll_timeout().is_some_and(|at| at <= now) {
            outgoing.machine.handle_timeout(now);
        }
        let caller_left = outgoing.reply.as_ref().is_some_and(Reply::is_closed);
        let is_over = caller_left || outgoing.hang_up_at().is_some_and(|at| at <= now);
        if is_over
            && !self.leave_conference_of(call)
            && let Some(outgoing) = self.calls.outgoing.get_mut(&call)
        {
            outgoing.machine.hang_up(now);
        }
        self.repeat_invites(call, now);
        self.push_due(call);
        self.drive_outgoing(call);
    }
}

fn status_words(status: InviteStatus) -> String {
    match status {
        InviteStatus::Ringing => "rings".to_owned(),
        InviteStatus::Duplicate => "known there already".to_owned(),
        InviteStatus::Busy => "in another call".to_owned(),
        InviteStatus::Refused(reason) => format!("refused ({reason})"),
        InviteStatus::NotForMe => "sealed to a key the device no longer has".to_owned(),
    }
}
