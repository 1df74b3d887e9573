//! One neighbour: what it named, what we named, what waits to be said, and how much it may say.
//!
//! Limits per link. A genuine neighbour stays far below them; what is beyond is dropped unread.
//!
//! | what | burst | a second |
//! | --- | --- | --- |
//! | frames | 400 | 40 |
//! | names, drops, wants | 8,192 | 64 |
//! | documents | 256 + 4 per topic named | 16 + 2 per topic named |
//! | digests | 4,096 + 4 per topic | 64 + 4 per topic |
//! | hints and appointments | 256 + 4 per topic | 8 |
//! | topics it brings unasked, at a carrier | 8 | |
//! | topics new to a carrier that is half full | an even share of the other half | |

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::{DeviceKey, Gossip, LinkId, Misdeed, Neighbour, Now, Out, Output, Timer, TopicId};
use crate::kademlia::DisconnectReason;
use crate::presence::message::{
    DOCUMENTS_PER_FRAME_MAX, Digest, HINTS_PER_FRAME_MAX, NamedTopic, Part, PassedDocument, PresenceGossip, TOPICS_PER_FRAME_MAX,
    TopicName, TopicPlace, TopicSlot, TopicWant,
};
use crate::presence::topic::LinkTag;
use crate::wire::{Extensions, FRAME_BODY_BYTES_MAX};

/// Room for documents in a frame, beside the rest at its most: 16 KB of names or digests.
const DOCUMENT_BYTES_PER_FRAME: usize = FRAME_BODY_BYTES_MAX / 2;

/// Topics that a neighbour may bring to a carrier: two days of two epochs, and the same of a device before it.
pub(super) const BROUGHT_MAX: usize = 8;

/// Other carriers to which a neighbour may send a carrier: those of a thousand contacts, as carriers are shared.
pub(super) const UPSTREAMS_MAX: usize = 256;

/// How long a neighbour that asks for documents it lacks isn't kept waiting for company.
const HURRY: Duration = Duration::from_secs(1);

/// Least time between two frames to such a neighbour: they stay below what it takes.
const PACE_HURRIED: Duration = Duration::from_millis(3);

/// How long names wait that can't go yet.
const NAMES_PAUSE: Duration = Duration::from_secs(1);

/// Names sent at once, and a second: half of what is taken, since a want goes with each.
const NAMES_SENT: (usize, usize) = (4_096, 32);

/// Forged things after which a neighbour is reported.
const STRIKES_MAX: u32 = 8;

/// A neighbour doesn't begin anew more often than this: it costs a look at all topics.
const ANEW_PAUSE: Duration = Duration::from_secs(10);

/// How often excess of one neighbour is reported.
const REPORT_EVERY: Duration = Duration::from_secs(60);

/// A token bucket whose rate the caller knows: the time at which it will be full again.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Budget {
    full_at: Option<Instant>,
}

impl Budget {
    /// Takes `count`, if there is as much.
    pub(super) fn take(&mut self, count: usize, burst: usize, per_second: usize, now: Instant) -> bool {
        let per_second = per_second.max(1) as f64;
        let full_at = self.full_at.map_or(now, |at| at.max(now)) + Duration::from_secs_f64(count as f64 / per_second);
        let is_room = full_at <= now + Duration::from_secs_f64(burst as f64 / per_second);
        if is_room {
            self.full_at = Some(full_at);
        }
        is_room
    }
}

#[derive(Debug)]
pub(super) struct Link {
    pub(super) peer: Neighbour,
    /// What we named: our numbers.
    pub(super) slots: BTreeMap<u16, TopicId>,
    next_slot: u16,
    /// What it named and we serve: its numbers.
    pub(super) theirs: BTreeMap<u16, TopicId>,
    /// How many names it has given, and the number above the highest: it counts on, so one given twice shows that it began anew.
    named: (u32, u32),
    began_anew_at: Option<Instant>,
    /// Tags it named that say nothing to us yet.
    pub(super) unresolved: BTreeMap<LinkTag, u16>,
    /// What it would call the topics that we may serve it.
    tags: BTreeMap<LinkTag, TopicId>,
    /// Topics it brought.
    pub(super) brought: BTreeSet<TopicId>,
    /// Carriers it sent us to.
    pub(super) upstreams: BTreeSet<DeviceKey>,

    names: BTreeSet<u16>,
    drops: BTreeSet<u16>,
    pub(super) wants: BTreeMap<u16, TopicId>,
    pub(super) documents: BTreeSet<TopicId>,
    pub(super) digests: BTreeSet<TopicId>,
    pub(super) appointments: BTreeSet<TopicId>,
    pub(super) hints: BTreeSet<(TopicId, u16)>,
    /// Topics of which the owner brought a document older than what is held here.
    pub(super) rebuttals: BTreeSet<TopicId>,

    pub(super) sent_at: Instant,
    /// Bare heartbeats of both ends are arithmetic: see [`Tacit`](super::tacit::Tacit).
    pub(super) is_tacit: bool,
    /// Of a tacit link: a heartbeat is planned as of others.
    pub(super) is_beating: bool,
    /// When the last heartbeat left that was counted and not sent.
    pub(super) beaten_at: Option<Instant>,
    /// Of a tacit link: it was looked at since heartbeats were planned.
    pub(super) is_touched: bool,
    /// The neighbour has just asked for what it lacks: it isn't kept waiting.
    hurried_until: Option<Instant>,
    pub(super) heard_at: Instant,
    /// While we have nothing to do with it: when its silence was last of no account.
    rested_at: Option<Instant>,
    /// It was asked for a sign of life then, and hasn't given one.
    pub(super) asked_at: Option<Instant>,
    strikes: u32,
    reported_at: Option<Instant>,
    name_budget: Budget,
    /// The budget is used up for now.
    names_wait: bool,
    pub(super) frames: Budget,
    pub(super) entries: Budget,
    pub(super) document_budget: Budget,
    pub(super) digest_budget: Budget,
    pub(super) hint_budget: Budget,
}

impl Link {
    fn new(peer: Neighbour, now: Instant) -> Self {
        Self {
            peer,
            slots: BTreeMap::new(),
            next_slot: 0,
            theirs: BTreeMap::new(),
            named: (0, 0),
            began_anew_at: None,
            unresolved: BTreeMap::new(),
            tags: BTreeMap::new(),
            brought: BTreeSet::new(),
            upstreams: BTreeSet::new(),
            names: BTreeSet::new(),
            drops: BTreeSet::new(),
            wants: BTreeMap::new(),
            documents: BTreeSet::new(),
            digests: BTreeSet::new(),
            appointments: BTreeSet::new(),
            hints: BTreeSet::new(),
            rebuttals: BTreeSet::new(),
            sent_at: now,
            is_tacit: false,
            is_beating: false,
            beaten_at: None,
            is_touched: false,
            // What a new neighbour is to know first.
            hurried_until: Some(now + HURRY),
            heard_at: now,
            rested_at: None,
            asked_at: None,
            strikes: 0,
            reported_at: None,
            name_budget: Budget::default(),
            names_wait: false,
            frames: Budget::default(),
            entries: Budget::default(),
            document_budget: Budget::default(),
            digest_budget: Budget::default(),
            hint_budget: Budget::default(),
        }
    }

    /// What is known of a neighbour that began anew: nothing of what was said, but for our own numbers, which count on, and what limits it.
    fn anew(former: Self, now: Instant) -> Self {
        Self {
            next_slot: former.next_slot,
            began_anew_at: Some(now),
            sent_at: former.sent_at,
            strikes: former.strikes,
            reported_at: former.reported_at,
            name_budget: former.name_budget,
            frames: former.frames,
            entries: former.entries,
            document_budget: former.document_budget,
            digest_budget: former.digest_budget,
            hint_budget: former.hint_budget,
            is_tacit: former.is_tacit,
            ..Self::new(former.peer, now)
        }
    }

    /// From when on its silence counts. One that rested has a heartbeat's time to say the first thing.
    fn counts_from(&self, heartbeat: Duration) -> Instant {
        self.rested_at.map_or(self.heard_at, |rested| self.heard_at.max(rested + heartbeat))
    }

    /// A number was given. False if it was given before.
    pub(super) fn count_name(&mut self, slot: u16) -> bool {
        let (count, next) = self.named;
        let has_gaps = count < next;
        if self.theirs.contains_key(&slot) || (u32::from(slot) < next && !has_gaps) {
            return false;
        }
        self.named = (count.saturating_add(1), next.max(u32::from(slot) + 1));
        true
    }

    /// The neighbour asks for what it lacks.
    pub(super) fn hurry(&mut self, now: Instant) {
        self.hurried_until = Some(now + HURRY);
    }

    /// Topics that this link is about, in either direction: what rates grow with.
    pub(super) fn topic_count(&self) -> usize {
        self.slots.len() + self.theirs.len() + self.brought.len()
    }

    /// Gives a topic a number of ours. Numbers aren't used twice, so what is still on its way for an old one does no harm.
    pub(super) fn name(&mut self, id: TopicId) -> Option<u16> {
        let slot = self.next_slot;
        self.next_slot = slot.checked_add(1)?;
        self.slots.insert(slot, id);
        self.names.insert(slot);
        Some(slot)
    }

    pub(super) fn drop_name(&mut self, slot: u16) {
        self.slots.remove(&slot);
        self.wants.remove(&slot);
        if !self.names.remove(&slot) {
            self.drops.insert(slot);
        }
    }

    /// Makes a topic known by its tag; its number if the neighbour has named it before.
    pub(super) fn offer_tag(&mut self, tag: LinkTag, id: TopicId) -> Option<u16> {
        self.tags.insert(tag, id);
        self.unresolved.remove(&tag)
    }

    /// A tag was named; the topic, if it says something to us. What doesn't yet is remembered.
    pub(super) fn tag_named(&mut self, tag: LinkTag, slot: u16) -> Option<TopicId> {
        let id = self.tags.get(&tag).copied();
        if id.is_none() {
            self.unresolved.insert(tag, slot);
        }
        id
    }

    pub(super) fn resolve(&mut self, slot: u16, id: TopicId) {
        self.theirs.insert(slot, id);
    }

    /// No longer serves by tags: the neighbour is no contact any more.
    fn withdraw_tags(&mut self) {
        self.tags.clear();
    }

    /// Tags of the topic say nothing any more.
    pub(super) fn forget_tags(&mut self, id: TopicId) {
        self.tags.retain(|_, topic| *topic != id);
    }

    /// Drops what waits for a topic that is gone.
    pub(super) fn forget_topic(&mut self, id: TopicId) {
        self.documents.remove(&id);
        self.rebuttals.remove(&id);
        self.digests.remove(&id);
        self.appointments.remove(&id);
        if !self.hints.is_empty() {
            self.hints.retain(|(topic, _)| *topic != id);
        }
        self.brought.remove(&id);
    }

    /// Whether the next heartbeat wouldn't be empty, or would change what waits.
    pub(super) fn has_riders(&self) -> bool {
        !(self.names.is_empty()
            && self.drops.is_empty()
            && self.wants.is_empty()
            && self.documents.is_empty()
            && self.rebuttals.is_empty()
            && self.appointments.is_empty()
            && self.digests.is_empty()
            && self.hints.is_empty())
    }

    fn is_waiting(&self) -> bool {
        !((self.names.is_empty() || self.names_wait)
            && self.drops.is_empty()
            && self.wants.keys().all(|slot| self.names.contains(slot))
            && self.documents.is_empty()
            && self.rebuttals.is_empty()
            && self.appointments.is_empty()
            && self.hints.is_empty())
    }
}

fn take_some<T: Ord + Copy>(set: &mut BTreeSet<T>, most: usize) -> Vec<T> {
    (0..most).map_while(|_| set.pop_first()).collect()
}

impl Gossip {
    /// A neighbour is there; the transport and the hello have shown who.
    pub(in crate::presence) fn handle_connected(&mut self, now: Now, peer: Neighbour) {
        self.notice_sleep(now);
        if peer.device == self.local {
            return;
        }
        if let Some(known) = self.link_ids.get(&peer.device).copied() {
            if self.link(known).peer == peer {
                return;
            }
            self.unlink(known, now, false);
        }
        if self.link_ids.len() >= self.config.links_max {
            self.counters.excess += 1;
            return;
        }
        let id = self.free_links.pop().unwrap_or_else(|| {
            self.links.push(None);
            LinkId(u32::try_from(self.links.len() - 1).unwrap_or(u32::MAX))
        });
        self.links[id.0 as usize] = Some(Box::new(Link::new(peer, now.instant)));
        self.link_ids.insert(peer.device, id);
        self.dials.remove(&peer.device);
        self.disarm(Timer::Dial(peer.device));
        self.meet(id, now);
    }

    /// Names and offers what a new neighbour may have or bring.
    fn meet(&mut self, id: LinkId, now: Now) {
        let peer = self.link(id).peer;
        // A carrier's clients come and go, and it has many topics: only who may have or want one is worth the look.
        let is_wanted = self.homes.contains(&peer.device) || self.upstream_users.contains_key(&peer.device);
        if peer.is_contact || is_wanted {
            for topic in self.topic_ids.values().copied().collect::<Vec<_>>() {
                self.introduce(now.instant, topic, id);
                self.offer(now.instant, topic, id);
            }
        }
        self.arm(Timer::Beat(id), now.instant + self.config.heartbeat);
    }

    /// A neighbour counts from the start: its process ended, and another has connected, before the end of the first was noticed. What was agreed with
    /// the first means nothing to the second. False if this was so a moment ago.
    pub(super) fn begin_anew(&mut self, id: LinkId, now: Now) -> bool {
        if self.link(id).began_anew_at.is_some_and(|at| now.instant < at + ANEW_PAUSE) {
            return false;
        }
        self.detach(id, now);
        if let Some(place) = self.links.get_mut(id.0 as usize) {
            *place = place.take().map(|former| Box::new(Link::anew(*former, now.instant)));
        }
        self.disarm(Timer::Flush(id));
        self.disarm(Timer::Beat(id));
        self.meet(id, now);
        true
    }

    /// A neighbour has become a contact, or is none any more.
    pub(in crate::presence) fn set_contact(&mut self, now: Now, device: &DeviceKey, is_contact: bool) {
        let Some(id) = self.link_ids.get(device).copied() else { return };
        if self.link(id).peer.is_contact == is_contact {
            return;
        }
        self.link(id).peer.is_contact = is_contact;
        let topics: Vec<_> = self.topic_ids.values().copied().collect();
        if !is_contact {
            self.link(id).withdraw_tags();
        }
        for topic in topics {
            if is_contact {
                self.introduce(now.instant, topic, id);
                self.offer(now.instant, topic, id);
            } else {
                self.estrange(now.instant, topic, id);
            }
        }
    }

    /// Ends what two did for each other as contacts.
    fn estrange(&mut self, now: Instant, topic: TopicId, id: LinkId) {
        let state = self.state(topic);
        if state.find_in(id).is_some_and(|entry| !entry.is_carrier) {
            self.leave_link(topic, id);
            self.settle_soon(topic, now);
        }
        let state = self.state(topic);
        let served = state.own.is_some() || state.watch.is_some();
        if served && let Some(slot) = state.find_out(id).and_then(|out| out.slot) {
            state.outs.retain(|out| out.link != id);
            self.link(id).theirs.remove(&slot);
        }
    }

    /// A connection has ended.
    pub(in crate::presence) fn handle_disconnected(&mut self, now: Now, device: &DeviceKey, reason: DisconnectReason) {
        self.notice_sleep(now);
        if let Some(id) = self.link_ids.get(device).copied() {
            self.unlink(id, now, reason == DisconnectReason::Lost);
        }
    }

    /// Forgets a neighbour. `is_silent`: without a word, of which those it appointed may tell.
    pub(super) fn unlink(&mut self, id: LinkId, now: Now, is_silent: bool) {
        if is_silent {
            self.testify(id, now);
            self.tell_of_loss(id, now.instant);
        }
        let device = self.link(id).peer.device;
        self.detach(id, now);
        self.links[id.0 as usize] = None;
        self.link_ids.remove(&device);
        self.free_links.push(id);
        self.disarm(Timer::Flush(id));
        self.disarm(Timer::Beat(id));
        if self.homes.contains(&device) {
            // What it served goes to the others at once.
            for home in self.homes.clone() {
                if let Some(link) = self.link_ids.get(&home).copied() {
                    self.enter_home(now.instant, link);
                }
            }
            self.want_connection(device, now.instant);
        } else if self.upstream_users.contains_key(&device) {
            self.want_connection(device, now.instant);
        }
    }

    /// Takes a neighbour out of all topics.
    fn detach(&mut self, id: LinkId, now: Now) {
        let topics: BTreeSet<_> = {
            let link = self.link(id);
            let unnamed = link.documents.iter().chain(&link.brought).copied();
            link.slots.values().chain(link.theirs.values()).copied().chain(unnamed).collect()
        };
        for topic in topics.into_iter().chain(self.own.iter().copied().collect::<Vec<_>>()) {
            if !self.has_topic(topic) {
                continue;
            }
            let before = self.upstreams_needed(topic);
            let state = self.state(topic);
            state.ins.retain(|entry| entry.link != id);
            state.outs.retain(|out| out.link != id);
            state.testimony.take_if(|testimony| testimony.is_of(id));
            if state.parent == Some(id) {
                state.parent = None;
            }
            if let Some(missing) = &mut state.missing {
                missing.tried.retain(|tried| *tried != id);
            }
            self.upstreams_moved(topic, &before, Some(now.instant));
            self.settle_soon(topic, now.instant);
        }
    }

    /// Wants a frame to leave by `at`, and not before the pace allows.
    pub(super) fn flush_by(&mut self, id: LinkId, at: Instant) {
        let pace = self.config.pace;
        let link = self.link(id);
        let is_hurried = link.hurried_until.is_some_and(|until| at < until);
        let earliest = link.sent_at + if is_hurried { PACE_HURRIED.min(pace) } else { pace };
        self.arm(Timer::Flush(id), at.max(earliest));
    }

    /// Time to say something, or to miss the other.
    pub(super) fn beat(&mut self, id: LinkId, now: Now) {
        if !self.has_link(id) {
            return;
        }
        let (heartbeat, silence) = (self.config.heartbeat, self.config.silence);
        let rests = self.rests(id);
        let link = self.link(id);
        if rests && link.asked_at.is_none() {
            link.rested_at = Some(now.instant);
            return self.arm(Timer::Beat(id), now.instant + heartbeat);
        }
        let silent_since = link.asked_at.filter(|_| rests).unwrap_or_else(|| link.counts_from(heartbeat));
        if !link.is_tacit && now.instant >= silent_since + silence {
            let device = link.peer.device;
            self.unlink(id, now, true);
            self.outputs.push_back(Output::Silent(device));
            return;
        }
        if rests {
            return self.arm(Timer::Beat(id), silent_since + silence);
        }
        if now.instant >= link.sent_at + heartbeat {
            self.flush(id, now, true);
        }
        let link = self.link(id);
        if link.is_tacit {
            link.is_beating = false;
            return;
        }
        let next = (link.sent_at + heartbeat).min(link.counts_from(heartbeat) + silence);
        self.arm(Timer::Beat(id), next);
    }

    /// Writes what waits, in one frame.
    pub(super) fn flush(&mut self, id: LinkId, now: Now, is_heartbeat: bool) {
        if !self.has_link(id) {
            return;
        }
        let mut parts = Vec::new();
        self.flush_names(id, &mut parts, now.instant);
        self.flush_wants(id, &mut parts);
        self.flush_documents(id, &mut parts);
        self.flush_appointments(id, &mut parts);
        self.flush_digests(id, &mut parts);
        self.flush_hints(id, &mut parts);
        if parts.is_empty() && !is_heartbeat {
            if !self.link(id).names.is_empty() {
                self.flush_by(id, now.instant + NAMES_PAUSE);
            }
            return;
        }
        if is_heartbeat {
            self.counters.heartbeats += 1;
        } else {
            self.counters.frames += 1;
        }
        let link = self.link(id);
        link.sent_at = now.instant;
        let (to, is_more, has_names) = (link.peer.device, link.is_waiting(), !link.names.is_empty());
        if is_more {
            // What fills frames needs no pause for company.
            self.arm(Timer::Flush(id), now.instant);
        } else if has_names {
            self.flush_by(id, now.instant + NAMES_PAUSE);
        }
        self.outputs.push_back(Output::Send {
            to,
            frame: PresenceGossip { parts, extensions: Extensions::none() },
            is_heartbeat,
        });
    }

    fn flush_names(&mut self, id: LinkId, parts: &mut Vec<Part>, now: Instant) {
        let local = self.local;
        let link = self.link(id);
        let device = link.peer.device;
        let drops: Vec<_> = take_some(&mut link.drops, TOPICS_PER_FRAME_MAX).into_iter().map(TopicSlot).collect();
        // A carrier's names are long. What the other's limits don't allow yet waits here, or it would be dropped there.
        let most = link.names.len().min(TOPICS_PER_FRAME_MAX / 4);
        link.names_wait = !link.name_budget.take(most, NAMES_SENT.0, NAMES_SENT.1, now);
        let slots = if link.names_wait { Vec::new() } else { take_some(&mut link.names, most) };
        let named: Vec<_> = slots.iter().filter_map(|slot| Some((*slot, link.slots.get(slot).copied()?))).collect();
        let mut names = Vec::new();
        for (slot, topic) in named {
            let state = self.state(topic);
            let is_carrier = state.find_in(id).is_some_and(|entry| entry.is_carrier);
            let name = if is_carrier {
                let carriers = state.watch.iter().flat_map(|watch| watch.carriers.iter().copied());
                let carriers = carriers.filter(|carrier| *carrier != device && *carrier != local).collect();
                TopicName::Topic { topic: state.topic, carriers }
            } else {
                TopicName::Tag(state.topic.tag(&local, &device))
            };
            names.push(NamedTopic { slot: TopicSlot(slot), name });
        }
        if !drops.is_empty() {
            parts.push(Part::Drops(drops));
        }
        if !names.is_empty() {
            parts.push(Part::Names(names));
        }
    }

    fn flush_wants(&mut self, id: LinkId, parts: &mut Vec<Part>) {
        let link = self.link(id);
        let waiting: Vec<_> = (0..TOPICS_PER_FRAME_MAX).map_while(|_| link.wants.pop_first()).collect();
        // What isn't named yet can't be asked for: it goes with its name.
        let (unnamed, ready): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|(slot, _)| link.names.contains(slot));
        link.wants.extend(unnamed);
        let mut wants = Vec::new();
        for (slot, topic) in ready {
            let state = self.state(topic);
            let have = state.sequence();
            if let Some(entry) = state.find_in(id) {
                wants.push(TopicWant { slot: TopicSlot(slot), mode: entry.mode, have });
            }
        }
        if !wants.is_empty() {
            parts.push(Part::Wants(wants));
        }
    }

    fn flush_documents(&mut self, id: LinkId, parts: &mut Vec<Part>) {
        let mut documents = Vec::new();
        let mut bytes = 0;
        for topic in take_some(&mut self.link(id).rebuttals, 1) {
            let state = self.state(topic);
            let (place, held) = (TopicPlace::Topic(state.topic), state.held.clone());
            documents.extend(held.map(|held| PassedDocument { place, hops: held.hops, document: held.document }));
        }
        while documents.len() < DOCUMENTS_PER_FRAME_MAX && bytes < DOCUMENT_BYTES_PER_FRAME {
            let Some(topic) = self.link(id).documents.pop_first() else { break };
            let state = self.state(topic);
            let name = state.topic;
            let Some(held) = state.held.clone() else { continue };
            let Some(out) = state.find_out(id) else { continue };
            if out.known >= held.sequence {
                continue;
            }
            let is_first = out.slot.is_none() && out.known == 0;
            out.known = held.sequence;
            let place = out.slot.map_or(TopicPlace::Topic(name), |slot| TopicPlace::Slot(TopicSlot(slot)));
            if is_first {
                self.appoint(topic, id);
            }
            self.link(id).digests.remove(&topic);
            bytes += held.document.wire_len();
            documents.push(PassedDocument { place, hops: held.hops, document: held.document });
        }
        self.counters.documents += documents.len() as u64;
        if !documents.is_empty() {
            parts.push(Part::Documents(documents));
        }
    }

    fn flush_digests(&mut self, id: LinkId, parts: &mut Vec<Part>) {
        let waiting = take_some(&mut self.link(id).digests, TOPICS_PER_FRAME_MAX);
        let mut digests = Vec::new();
        for topic in waiting {
            let state = self.state(topic);
            let (sequence, hops) = (state.sequence(), state.hops());
            let Some(Out { slot: Some(slot), known, .. }) = state.find_out(id).copied() else { continue };
            if sequence == 0 || known < sequence {
                digests.push(Digest { slot: TopicSlot(slot), sequence, hops });
            }
        }
        self.counters.digests += digests.len() as u64;
        if !digests.is_empty() {
            parts.push(Part::Digests(digests));
        }
    }

    fn flush_appointments(&mut self, id: LinkId, parts: &mut Vec<Part>) {
        let waiting = take_some(&mut self.link(id).appointments, HINTS_PER_FRAME_MAX);
        let list: Vec<_> = waiting.into_iter().filter_map(|topic| self.appointment(topic, id)).collect();
        if !list.is_empty() {
            parts.push(Part::Appointments(list));
        }
    }

    fn flush_hints(&mut self, id: LinkId, parts: &mut Vec<Part>) {
        let link = self.link(id);
        // A hint about a document that isn't there yet is dropped by its reader: it waits for the document, and comes behind it.
        let ready = link.hints.iter().filter(|(topic, _)| !link.documents.contains(topic));
        let waiting: Vec<_> = ready.take(HINTS_PER_FRAME_MAX).copied().collect();
        link.hints.retain(|hint| !waiting.contains(hint));
        let list: Vec<_> = waiting.into_iter().filter_map(|(topic, number)| self.passed_hint(topic, number, id)).collect();
        if !list.is_empty() {
            parts.push(Part::Hints(list));
        }
    }

    /// Whether a neighbour may make this carrier know one more topic. Once half of what it can hold is taken, each has an even share of the other half:
    /// some who name topics that don't exist keep nobody else out.
    pub(super) fn has_share_left(&mut self, id: LinkId) -> bool {
        let half = self.config.topics_max / 2;
        if self.topic_ids.len() < half {
            return true;
        }
        let share = half / self.link_ids.len().max(1);
        let link = self.link(id);
        link.theirs.len() + link.brought.len() < share
    }

    /// Counts what a neighbour said too much.
    pub(super) fn excess(&mut self, id: LinkId, now: Instant) {
        self.counters.excess += 1;
        let link = self.link(id);
        if link.reported_at.is_none_or(|at| now >= at + REPORT_EVERY) {
            link.reported_at = Some(now);
            let device = link.peer.device;
            self.outputs.push_back(Output::Misbehaved { device, misdeed: Misdeed::TooMuch });
        }
    }

    /// Counts something forged. Honest neighbours verify what they pass on, so it was forged by the neighbour.
    pub(super) fn forged(&mut self, id: LinkId) {
        self.counters.forged += 1;
        let link = self.link(id);
        link.strikes += 1;
        if link.strikes == STRIKES_MAX {
            let device = link.peer.device;
            self.outputs.push_back(Output::Misbehaved { device, misdeed: Misdeed::Forged });
        }
    }

    /// Whether a neighbour has forged so much that nothing is read any more.
    pub(super) fn is_outcast(&mut self, id: LinkId) -> bool {
        self.link(id).strikes >= STRIKES_MAX
    }
}
