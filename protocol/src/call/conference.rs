//! A conference: a call that others were added to. Up to eight people, each with an ordinary call (a *leg*) to each other one.
//!
//! The parties are devices, one of each person who takes part. In order, when alice, in a call with bob, adds carol:
//!
//! 1. Alice's device makes a [`Conference`] of the call. Its id follows from the call ([`ConferenceId::of_call`]), so if bob adds somebody at the same
//!    moment, he means the same one. She tells bob's device who is there ([`Attendance`]): so far nobody else.
//! 2. She calls carol, as anybody would, with an invite that says what it is for ([`ConferencePart`]). Carol's devices ring; one accepts.
//! 3. Both ends of the new leg tell each other who is there. To carol, alice adds her word for carol ([`Introduction`]); bob hears of carol as well.
//! 4. Carol's device calls bob's: a leg, which rings nowhere. It shows alice's word. Bob's device lets it in, for alice takes part, and answers.
//!
//! **Who dials whom.** Of two who hear of each other the one who came later dials, at once; of two who came in the same second the one with the
//! greater device key. The other one dials if it has waited in vain. Should both dial, the call with the lesser id goes on ([`super::receive`]), so that
//! there is one leg between any two.
//!
//! **Who is there.** Each device knows with whom it has a leg, and hears from each of them with whom they have. Who is named by somebody with a
//! leg, and isn't known to have left, is dialled. What is told is the whole state under a growing number, repeated until acknowledged: lost, doubled and
//! reordered ones do no harm.
//!
//! **Connecting.** Somebody with two calls who wants the others to have each other, as at the end of a transfer, makes one conference of both: the one that the first
//! call is, or becomes. The other end of the second call learns it by what it is told over that call, and takes it as it would take somebody who was added.
//!
//! **Leaving** is hanging up. Whoever has left may come back while the conference lasts, by dialling any of those who are still there. A leg that breaks
//! is dialled again as long as somebody else has one. Nine people, let in at two ends at once, become eight at all: those who came first stay.
//!
//! A word holds for ten minutes, for one conference, and only with those who are in it together with whoever gave it. Nothing of a conference is kept by
//! this machine when it is over.
//!
//! This module reads no clock, holds no keys (it hands out drafts to be signed), and opens no socket.

mod wire;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use super::Reason;
pub use crate::id::{CallId, ConferenceId};
use crate::key::DeviceKey;
use crate::time::{Now, UnixTime};
use crate::wire::Signed;
pub use wire::{
    Attendance, AttendanceDraft, AttendanceStatus, CONFERENCE_EXTENSION, ConferenceNotice, ConferenceNoticed, ConferencePart,
    INTRODUCTION_SECS_MAX, Introduction, IntroductionError, Participant, Present, VerifiedAttendance, VerifiedIntroduction,
};

/// Most people in a conference: each sends its voice to each other one, and seven times 50 packets a second is what an uplink of a home carries.
pub const PARTICIPANTS_MAX: usize = 8;

/// Most who are remembered after they left, so that they can come back; the one who left first makes room.
const FORMER_MAX: usize = 32;

/// Most people of whom others may tell within [`RENEW`]: each is looked up and dialled, and a liar may name anybody.
const HEARSAY_MAX: u32 = 32;

/// How long the one who isn't to dial waits for the other's call.
const GRACE: Duration = Duration::from_secs(4);

/// First pause after a leg that couldn't be made; doubled each time.
const RETRY_FIRST: Duration = Duration::from_secs(2);

/// How often a leg is tried in a row: over half a minute with the pauses. Then only the other end's call, or news of them, makes it worth another.
const TRIES_MAX: u32 = 5;

/// First repetition of an attendance that isn't acknowledged; doubled each time.
const TELL_FIRST: Duration = Duration::from_millis(500);

/// Longest pause between repetitions.
const TELL_PAUSE_MAX: Duration = Duration::from_secs(8);

/// How often words are renewed, with what holds them: in half of the time that they are good for. Legs that were given up are tried once more then.
const RENEW: Duration = Duration::from_secs(INTRODUCTION_SECS_MAX / 2);

/// Why somebody isn't there any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LegEnd {
    /// They hung up.
    Left,
    /// It broke, or couldn't be made.
    Lost,
    /// They aren't in the conference, and say so.
    NotThere,
}

/// What the owner is to do.
#[derive(Clone, Debug, PartialEq)]
pub enum ConferenceAction {
    /// Call this device, as a leg, with [`Conference::part`]; say which call it is with [`Conference::connecting`], or that it can't be made with
    /// [`Conference::leg_failed`].
    Dial(Participant),
    /// End this call.
    HangUp {
        /// Which.
        call: CallId,
        /// Why.
        reason: Reason,
    },
    /// Sign this and tell it; bring the answer to [`Conference::handle_status`]. It comes again by itself.
    Tell(AttendanceDraft),
    /// Somebody is there: there is a leg.
    Joined {
        /// Who.
        participant: Participant,
        /// On whose word; nobody's if this device's user called them, or they called this user.
        introduced_by: Option<Participant>,
        /// The leg.
        call: CallId,
    },
    /// Somebody isn't there any more.
    Left {
        /// Who.
        participant: Participant,
        /// The leg that was.
        call: CallId,
        /// How.
        end: LegEnd,
    },
    /// Nobody is left, or this device's user isn't.
    Ended,
}

/// Where the leg to somebody stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leg {
    /// To be dialled then.
    Waiting(Instant),
    /// Being dialled, by a call that isn't known yet.
    Dialling,
    /// Being made, by either.
    Connecting(CallId),
    /// It stands.
    Up(CallId),
    /// Given up until there is news of them.
    Silent,
}

#[derive(Clone, Debug)]
struct Peer {
    participant: Participant,
    /// When they came, as they say; as long as they haven't, when this device heard of them.
    since: UnixTime,
    introduced_by: Option<Participant>,
    leg: Leg,
    tries: u32,
    /// What they have told over this leg.
    heard: u32,
    names: BTreeMap<DeviceKey, UnixTime>,
    word: Option<Signed<Introduction>>,
    /// What they are told over this leg.
    told: Telling,
}

impl Peer {
    fn new(participant: Participant, since: UnixTime, introduced_by: Option<Participant>, leg: Leg) -> Self {
        let (tries, heard, word, told) = (0, 0, None, Telling::default());
        Self { participant, since, introduced_by, leg, tries, heard, names: BTreeMap::new(), word, told }
    }

    const fn is_up(&self) -> bool {
        matches!(self.leg, Leg::Up(_))
    }

    /// Whether nothing but what others say speaks for them.
    const fn is_idle(&self) -> bool {
        matches!(self.leg, Leg::Waiting(_) | Leg::Dialling | Leg::Silent)
    }

    const fn call(&self) -> Option<CallId> {
        match self.leg {
            Leg::Connecting(call) | Leg::Up(call) => Some(call),
            Leg::Waiting(_) | Leg::Dialling | Leg::Silent => None,
        }
    }

    /// What was said over a leg counts for that leg.
    fn forget_leg(&mut self) {
        self.heard = 0;
        self.names.clear();
        self.word = None;
        self.told = Telling::default();
    }
}

#[derive(Clone, Debug, Default)]
struct Telling {
    number: u32,
    /// When it is to be said again; `None` once acknowledged.
    due_at: Option<Instant>,
    pause: Duration,
}

#[derive(Clone, Debug)]
struct Former {
    participant: Participant,
    introduced_by: Option<Participant>,
    since: UnixTime,
    left_at: UnixTime,
    /// They said so, or it was said of them. Otherwise their leg broke.
    has_left: bool,
}

/// One conference, on one device.
///
/// Contract: after any input drain [`Conference::poll_action`], then sleep until [`Conference::poll_timeout`] and call [`Conference::handle_timeout`].
#[derive(Clone, Debug)]
pub struct Conference {
    id: ConferenceId,
    me: Participant,
    since: UnixTime,
    peers: BTreeMap<DeviceKey, Peer>,
    /// Calls by which this user asks somebody in.
    adds: BTreeSet<CallId>,
    former: BTreeMap<DeviceKey, Former>,
    renew_at: Instant,
    /// How many were dialled because others named them, since the last renewal.
    hearsay: u32,
    is_over: bool,
    actions: VecDeque<ConferenceAction>,
}

impl Conference {
    /// Nobody is there yet. `since` is when this device comes: now, and later than at any time before in the same conference.
    #[must_use]
    pub fn new(id: ConferenceId, me: Participant, since: UnixTime, now: Instant) -> Self {
        let (adds, former) = (BTreeSet::new(), BTreeMap::new());
        let (peers, actions) = (BTreeMap::new(), VecDeque::new());
        Self { id, me, since, peers, adds, former, renew_at: now + RENEW, hearsay: 0, is_over: false, actions }
    }

    /// Comes back: dials those who were there, each with whoever had introduced them. They let it in as long as they are there themselves.
    #[must_use]
    pub fn rejoin(
        id: ConferenceId,
        me: Participant,
        since: UnixTime,
        others: &[(Participant, Option<Participant>)],
        now: Instant,
    ) -> Self {
        let mut conference = Self::new(id, me, since, now);
        for (other, by) in others.iter().take(PARTICIPANTS_MAX - 1).filter(|(other, _)| other.device != conference.me.device) {
            let peer = Peer::new(other.clone(), UnixTime(0), by.clone(), Leg::Waiting(now));
            conference.peers.insert(other.device, peer);
        }
        conference.pump(now);
        conference
    }

    /// This user asks somebody in, by this call. False if it is full.
    pub fn add(&mut self, call: CallId) -> bool {
        let engaged = self.peers.values().filter(|peer| !peer.is_idle()).count();
        let has_room = !self.is_over && 1 + engaged + self.adds.len() < PARTICIPANTS_MAX;
        if has_room {
            self.adds.insert(call);
        }
        has_room
    }

    /// Whom this user asked in hasn't come.
    pub fn add_failed(&mut self, call: CallId, now: Now) {
        self.adds.remove(&call);
        self.settle(now);
    }

    /// A leg is being made, by us or by them.
    pub fn connecting(
        &mut self,
        participant: &Participant,
        since: Option<UnixTime>,
        call: CallId,
        introduced_by: Option<Participant>,
        now: Now,
    ) {
        if let Some(peer) = self.peers.get_mut(&participant.device) {
            peer.since = since.unwrap_or(peer.since);
            match peer.leg {
                // They have lost what stands here, or its end is on the way: the new one takes its place when it stands.
                Leg::Up(_) => {}
                _ => peer.leg = Leg::Connecting(call),
            }
        } else {
            let since = since.unwrap_or(now.unix);
            let peer = Peer::new(participant.clone(), since, introduced_by, Leg::Connecting(call));
            self.peers.insert(participant.device, peer);
        }
        self.settle(now);
    }

    /// A leg stands: the call is answered, at this end or at theirs.
    pub fn leg_up(&mut self, participant: &Participant, call: CallId, now: Now) {
        self.adds.remove(&call);
        if self.is_over {
            return self.hang_up(call, Reason::NOT_IN_CONFERENCE);
        }
        let unknown = Peer::new(participant.clone(), now.unix, None, Leg::Silent);
        let peer = self.peers.entry(participant.device).or_insert(unknown);
        let before = peer.leg;
        (peer.leg, peer.tries) = (Leg::Up(call), 0);
        match before {
            Leg::Up(known) if known == call => return,
            Leg::Up(other) => {
                peer.forget_leg();
                self.hang_up(other, Reason::REPLACED);
            }
            _ => {
                let introduced_by = peer.introduced_by.clone();
                let joined = ConferenceAction::Joined { participant: participant.clone(), introduced_by, call };
                self.actions.push_back(joined);
            }
        }
        self.news(now.instant);
        self.settle(now);
    }

    /// The call to this device is over, or couldn't be made. Calls that aren't the leg any more are nobody's loss.
    pub fn leg_failed(&mut self, device: &DeviceKey, call: Option<CallId>, end: LegEnd, now: Now) {
        if let Some(call) = call {
            self.adds.remove(&call);
        }
        let Some(peer) = self.peers.get_mut(device).filter(|peer| peer.call() == call) else { return self.settle(now) };
        if let Leg::Up(call) = peer.leg {
            let left = ConferenceAction::Left { participant: peer.participant.clone(), call, end };
            self.actions.push_back(left);
            self.remember(device, end == LegEnd::Left, now.unix);
        } else if end == LegEnd::NotThere {
            self.remember(device, true, now.unix);
        }
        let has_left = end != LegEnd::Lost;
        let is_named = self.is_named(device);
        let Some(peer) = self.peers.get_mut(device) else { return };
        let was_up = peer.is_up();
        peer.forget_leg();
        if has_left || was_up && !is_named {
            self.peers.remove(device);
        } else {
            peer.tries += 1;
            let pause = RETRY_FIRST * 2u32.saturating_pow(peer.tries.min(TRIES_MAX) - 1);
            peer.leg = if peer.tries >= TRIES_MAX { Leg::Silent } else { Leg::Waiting(now.instant + pause) };
        }
        if was_up {
            self.news(now.instant);
        }
        self.settle(now);
    }

    /// Whether whoever calls for a leg is let in: they take part or did, or a participant's word says that they do. The result is on whose word.
    ///
    /// # Errors
    /// The reason to refuse with.
    pub fn admit(
        &self,
        caller: &Participant,
        since: UnixTime,
        word: Option<&VerifiedIntroduction>,
    ) -> Result<Option<Participant>, Reason> {
        if self.is_over || caller.device == self.me.device {
            return Err(Reason::NOT_IN_CONFERENCE);
        }
        let former = self.former.get(&caller.device);
        if former.is_some_and(|former| former.has_left && since <= former.since) {
            // What is left of a time before they left.
            return Err(Reason::NOT_IN_CONFERENCE);
        }
        let known = self.peers.get(&caller.device).map(|peer| (&peer.participant, peer.introduced_by.clone()));
        let known = known.or_else(|| former.map(|former| (&former.participant, former.introduced_by.clone())));
        let introduced_by = match known {
            Some((participant, introduced_by)) if participant == caller => introduced_by,
            Some(_) => return Err(Reason::INVALID),
            None => Some(self.introducer(caller, word).ok_or(Reason::NOT_ALLOWED)?),
        };
        if !self.peers.contains_key(&caller.device) && self.is_full_for(since, caller.device) {
            return Err(Reason::CONFERENCE_FULL);
        }
        Ok(introduced_by)
    }

    /// Who vouches for somebody, if the word counts here: it was said by somebody with whom there is a leg, or was when they said it.
    fn introducer(&self, caller: &Participant, word: Option<&VerifiedIntroduction>) -> Option<Participant> {
        let word = word?.introduction();
        if word.conference != self.id || word.participant != *caller {
            return None;
        }
        if let Some(peer) = self.peers.get(&word.by).filter(|peer| peer.is_up()) {
            return Some(peer.participant.clone());
        }
        let former = self.former.get(&word.by).filter(|former| word.issued_at <= former.left_at)?;
        Some(former.participant.clone())
    }

    /// Somebody says who is there; the result is the answer.
    pub fn handle_attendance(&mut self, attendance: &VerifiedAttendance, now: Now) -> AttendanceStatus {
        let said = attendance.attendance();
        if self.is_over || said.conference != self.id {
            return AttendanceStatus::NoSuchLeg;
        }
        let Some(peer) = self.peers.get_mut(&said.from).filter(|peer| peer.leg == Leg::Up(said.call)) else {
            return AttendanceStatus::NoSuchLeg;
        };
        if said.number <= peer.heard {
            return AttendanceStatus::Taken;
        }
        peer.names = said.present.iter().map(|present| (present.participant.device, present.since)).collect();
        // Without the signature of whoever gives it, it would only be refused.
        let word = said.word.unverified();
        let is_word = word.by == said.from && word.conference == self.id && word.participant == self.me;
        peer.word = (is_word && said.word.verify(&said.from.0).is_ok()).then(|| said.word.clone());
        let (is_news, teller) = (peer.heard == 0, peer.participant.clone());
        peer.heard = said.number;
        if is_news {
            peer.since = said.since;
        }
        if is_news {
            self.news(now.instant);
        }
        for present in &said.present {
            self.hear_of(present, &teller, now.instant);
        }
        self.settle(now);
        AttendanceStatus::Taken
    }

    fn hear_of(&mut self, present: &Present, teller: &Participant, now: Instant) {
        let Present { participant, since } = present;
        let is_gone = self.former.get(&participant.device).is_some_and(|former| former.has_left && *since <= former.since);
        if is_gone || participant.device == self.me.device || participant.user == self.me.user {
            return;
        }
        let dial_at = self.dial_at(*since, &participant.device, now);
        // Whoever isn't seen here takes nobody's place.
        let has_room = self.peers.len() + 1 < PARTICIPANTS_MAX && self.hearsay < HEARSAY_MAX;
        match self.peers.get_mut(&participant.device) {
            // Who has a leg speaks for itself.
            Some(peer) if peer.is_up() || peer.participant != *participant => {}
            Some(peer) if peer.since < *since => {
                (peer.since, peer.tries) = (*since, 0);
                if peer.leg == Leg::Silent {
                    peer.leg = Leg::Waiting(dial_at);
                }
            }
            Some(_) => {}
            None if has_room => {
                let peer = Peer::new(participant.clone(), *since, Some(teller.clone()), Leg::Waiting(dial_at));
                self.peers.insert(participant.device, peer);
                self.hearsay += 1;
            }
            None => {}
        }
    }

    /// When to dial somebody: at once if we came later, else if they haven't dialled meanwhile.
    fn dial_at(&self, since: UnixTime, device: &DeviceKey, now: Instant) -> Instant {
        if (self.since, self.me.device) > (since, *device) { now } else { now + GRACE }
    }

    /// The answer to an attendance came.
    pub fn handle_status(&mut self, device: &DeviceKey, call: CallId, number: u32, status: AttendanceStatus, now: Now) {
        if let Some(peer) = self.peers.get_mut(device)
            && peer.leg == Leg::Up(call)
            && peer.told.number == number
            && status != AttendanceStatus::NoSuchLeg
        {
            peer.told.due_at = None;
        }
        self.settle(now);
    }

    /// This user leaves: all legs end.
    pub fn leave(&mut self, reason: Reason) {
        if self.is_over {
            return;
        }
        let calls: Vec<CallId> = self.peers.values().filter_map(Peer::call).chain(self.adds.iter().copied()).collect();
        for call in calls {
            self.hang_up(call, reason);
        }
        self.peers.clear();
        self.adds.clear();
        self.is_over = true;
        self.actions.push_back(ConferenceAction::Ended);
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Now) {
        if now.instant >= self.renew_at {
            (self.renew_at, self.hearsay) = (now.instant + RENEW, 0);
            self.news(now.instant);
            for peer in self.peers.values_mut().filter(|peer| peer.leg == Leg::Silent) {
                (peer.leg, peer.tries) = (Leg::Waiting(now.instant + GRACE), TRIES_MAX - 1);
            }
        }
        self.settle(now);
    }

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<ConferenceAction> {
        self.actions.pop_front()
    }

    /// When [`Conference::handle_timeout`] wants to be called next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.is_over {
            return None;
        }
        let of_peers = self.peers.values().filter_map(|peer| match peer.leg {
            Leg::Waiting(at) => Some(at),
            Leg::Up(_) => peer.told.due_at,
            Leg::Dialling | Leg::Connecting(_) | Leg::Silent => None,
        });
        of_peers.chain([self.renew_at]).min()
    }

    /// What the invite for a leg to somebody, or one that asks somebody in, says of the conference. The word is the freshest that anybody has
    /// given, of somebody who the other end has a leg with, if there is one.
    #[must_use]
    pub fn part(&self, to: Option<&DeviceKey>) -> ConferencePart {
        let given = self.peers.values().filter_map(|peer| Some((peer, peer.word.as_ref()?)));
        let word = given.max_by_key(|(peer, word)| {
            let is_known_there = to.is_some_and(|to| peer.names.contains_key(to));
            (is_known_there, word.unverified().issued_at)
        });
        let word = word.map(|(_, word)| word.clone());
        ConferencePart {
            conference: self.id,
            is_leg: to.is_some(),
            since: self.since,
            word,
            extensions: crate::wire::Extensions::none(),
        }
    }

    /// Which it is.
    #[must_use]
    pub const fn id(&self) -> ConferenceId {
        self.id
    }

    /// When this device came.
    #[must_use]
    pub const fn since(&self) -> UnixTime {
        self.since
    }

    /// True once nobody is left, or this user isn't.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        self.is_over
    }

    /// Those with whom there is a leg, and which.
    pub fn present(&self) -> impl Iterator<Item = (&Participant, CallId)> {
        self.peers.values().filter_map(|peer| match peer.leg {
            Leg::Up(call) => Some((&peer.participant, call)),
            _ => None,
        })
    }

    /// Whether two others have a leg with each other, as both of them say.
    #[must_use]
    pub fn have_each_other(&self, one: &DeviceKey, other: &DeviceKey) -> bool {
        let names = |from: &DeviceKey, of: &DeviceKey| {
            self.peers.get(from).is_some_and(|peer| peer.is_up() && peer.names.contains_key(of))
        };
        names(one, other) && names(other, one)
    }

    /// Somebody with whom there is a leg or is to be one, and on whose word.
    #[must_use]
    pub fn peer(&self, device: &DeviceKey) -> Option<(&Participant, Option<&Participant>)> {
        self.peers.get(device).map(|peer| (&peer.participant, peer.introduced_by.as_ref()))
    }

    /// Whether there would be too many with one more who came at `since`: those who came first go before.
    fn is_full_for(&self, since: UnixTime, device: DeviceKey) -> bool {
        let before = |peer: &&Peer| !peer.is_idle() && (peer.since, peer.participant.device) < (since, device);
        self.peers.values().filter(before).count() + 1 >= PARTICIPANTS_MAX
    }

    fn is_named(&self, device: &DeviceKey) -> bool {
        self.peers.values().any(|peer| peer.is_up() && peer.names.contains_key(device))
    }

    fn remember(&mut self, device: &DeviceKey, has_left: bool, now: UnixTime) {
        let Some(peer) = self.peers.get(device) else { return };
        let (participant, introduced_by) = (peer.participant.clone(), peer.introduced_by.clone());
        let former = Former { participant, introduced_by, since: peer.since, left_at: now, has_left };
        if self.former.len() >= FORMER_MAX
            && !self.former.contains_key(device)
            && let Some(first) = self.former.iter().min_by_key(|(_, former)| former.left_at).map(|(device, _)| *device)
        {
            self.former.remove(&first);
        }
        self.former.insert(*device, former);
    }

    fn hang_up(&mut self, call: CallId, reason: Reason) {
        self.actions.push_back(ConferenceAction::HangUp { call, reason });
    }

    /// Everybody is to be told anew.
    fn news(&mut self, now: Instant) {
        for peer in self.peers.values_mut().filter(|peer| peer.is_up()) {
            peer.told.number = peer.told.number.saturating_add(1);
            (peer.told.due_at, peer.told.pause) = (Some(now), TELL_FIRST);
        }
    }

    /// What follows from any change.
    fn settle(&mut self, now: Now) {
        if self.is_over {
            return;
        }
        self.drop_excess(now);
        self.drop_unnamed();
        let is_alone = self.peers.values().all(|peer| peer.leg == Leg::Silent) && self.adds.is_empty();
        if is_alone && !self.is_over {
            self.peers.clear();
            self.is_over = true;
            self.actions.push_back(ConferenceAction::Ended);
        }
        self.tell_due(now);
        self.pump(now.instant);
    }

    /// More than eight, let in at two ends at once: those go who were only named, then whoever came last.
    fn drop_excess(&mut self, now: Now) {
        while !self.is_over && self.peers.len() >= PARTICIPANTS_MAX {
            let last = self.peers.values().map(|peer| (peer.is_idle(), peer.since, peer.participant.device)).max();
            let Some((is_idle, since, device)) = last else { return };
            if !is_idle && (since, device) < (self.since, self.me.device) {
                return self.leave(Reason::CONFERENCE_FULL);
            }
            if !is_idle {
                self.remember(&device, true, now.unix);
            }
            let Some(peer) = self.peers.remove(&device) else { return };
            if let Some(call) = peer.call() {
                self.hang_up(call, Reason::CONFERENCE_FULL);
            }
            if let Leg::Up(call) = peer.leg {
                let left = ConferenceAction::Left { participant: peer.participant, call, end: LegEnd::Left };
                self.actions.push_back(left);
                self.news(now.instant);
            }
        }
    }

    /// Who isn't dialled yet, and nobody names any more, has left meanwhile. Whoever comes back has heard nobody yet.
    fn drop_unnamed(&mut self) {
        if !self.peers.values().any(|peer| peer.is_up() && peer.heard > 0) {
            return;
        }
        let idle = |peer: &Peer| matches!(peer.leg, Leg::Waiting(_) | Leg::Silent);
        let idle: Vec<DeviceKey> = self.peers.iter().filter(|(_, peer)| idle(peer)).map(|(device, _)| *device).collect();
        for device in idle.into_iter().filter(|device| !self.is_named(device)).collect::<Vec<_>>() {
            self.peers.remove(&device);
        }
    }

    fn tell_due(&mut self, now: Now) {
        let present: Vec<Present> = self
            .peers
            .values()
            .filter(|peer| peer.is_up() && peer.heard > 0)
            .map(|peer| Present { participant: peer.participant.clone(), since: peer.since })
            .collect();
        for peer in self.peers.values_mut() {
            let (Leg::Up(call), Some(due_at)) = (peer.leg, peer.told.due_at) else { continue };
            if due_at > now.instant {
                continue;
            }
            peer.told.due_at = Some(now.instant + peer.told.pause);
            peer.told.pause = (peer.told.pause * 2).min(TELL_PAUSE_MAX);
            let to = peer.participant.clone();
            let present = present.iter().filter(|present| present.participant != to).cloned().collect();
            let draft = AttendanceDraft {
                conference: self.id,
                call,
                from: self.me.device,
                to,
                number: peer.told.number,
                since: self.since,
                present,
                issued_at: now.unix,
            };
            self.actions.push_back(ConferenceAction::Tell(draft));
        }
    }

    fn pump(&mut self, now: Instant) {
        for peer in self.peers.values_mut() {
            if matches!(peer.leg, Leg::Waiting(at) if at <= now) {
                peer.leg = Leg::Dialling;
                self.actions.push_back(ConferenceAction::Dial(peer.participant.clone()));
            }
        }
    }
}

#[cfg(test)]
mod tests;
