//! What neighbours say, read with suspicion.

use std::time::Instant;

use super::tree::state_watch_device;
use super::{COMPANY, DeviceKey, Gossip, LinkId, Mode, Now, Output, Topic, TopicId};
use crate::presence::message::{
    Digest, NamedTopic, Part, PassedDocument, PresenceGossip, TopicName, TopicPlace, TopicSlot, TopicWant,
};

/// Who was missed so often as a parent promises in vain; what it brings counts again.
const MISSES_BELIEVED: u8 = 3;

impl Gossip {
    /// A frame has come.
    pub(in crate::presence) fn handle_frame(&mut self, now: Now, from: &DeviceKey, frame: PresenceGossip) {
        let Some(link) = self.link_ids.get(from).copied() else { return };
        self.notice_sleep(now);
        self.link(link).heard_at = now.instant;
        self.link(link).asked_at = None;
        if self.is_outcast(link) {
            return;
        }
        if !self.link(link).frames.take(1, 400, 40, now.instant) {
            return self.excess(link, now.instant);
        }
        for part in frame.parts {
            if !self.is_within_limits(link, &part, now.instant) {
                self.excess(link, now.instant);
                continue;
            }
            match part {
                Part::Names(list) => list.into_iter().for_each(|named| self.handle_name(now, link, named)),
                Part::Drops(list) => list.into_iter().for_each(|slot| self.handle_drop(now, link, slot)),
                Part::Wants(list) => list.into_iter().for_each(|want| self.handle_want(now.instant, link, want)),
                Part::Documents(list) => list.into_iter().for_each(|passed| self.handle_document(now, link, passed)),
                Part::Digests(list) => list.into_iter().for_each(|digest| self.handle_digest(now.instant, link, digest)),
                Part::Appointments(list) => list.into_iter().for_each(|given| self.handle_appointment(link, given)),
                Part::Hints(list) => list.into_iter().for_each(|hint| self.handle_hint(now, link, hint)),
            }
        }
        self.echo(link, now);
    }

    /// Whether a neighbour may say as much. The limits are those of the table in `link`.
    fn is_within_limits(&mut self, link: LinkId, part: &Part, now: Instant) -> bool {
        let link = self.link(link);
        let topics = link.topic_count();
        match part {
            Part::Names(list) => link.entries.take(list.len(), 8_192, 64, now),
            Part::Drops(list) => link.entries.take(list.len(), 8_192, 64, now),
            Part::Wants(list) => link.entries.take(list.len(), 8_192, 64, now),
            Part::Documents(list) => link.document_budget.take(list.len(), 256 + 4 * topics, 16 + 2 * topics, now),
            Part::Digests(list) => link.digest_budget.take(list.len(), 4_096 + 4 * topics, 64 + 4 * topics, now),
            Part::Appointments(list) => link.hint_budget.take(list.len(), 256 + 4 * topics, 8, now),
            Part::Hints(list) => link.hint_budget.take(list.len(), 256 + 4 * topics, 8, now),
        }
    }

    fn handle_name(&mut self, now: Now, link: LinkId, named: NamedTopic) {
        let TopicSlot(slot) = named.slot;
        let names_max = self.config.names_max;
        // Numbers aren't used twice: one that was given before is of another process.
        let is_new = self.link(link).count_name(slot) || (self.begin_anew(link, now) && self.link(link).count_name(slot));
        let state = self.link(link);
        if !is_new || state.theirs.len() + state.unresolved.len() >= names_max {
            return self.excess(link, now.instant);
        }
        match named.name {
            TopicName::Tag(tag) => {
                let is_contact = state.peer.is_contact;
                // Whoever isn't a contact yet has no tags here, and is remembered for when it becomes one.
                let known = state.tag_named(tag, slot);
                if is_contact && let Some(id) = known {
                    self.serve(now.instant, id, link, Some(slot));
                }
            }
            TopicName::Topic { topic, carriers } => self.handle_topic_named(now, link, slot, topic, carriers),
        }
    }

    /// Somebody asks for a topic by its full name: us as its owner, or as a carrier.
    fn handle_topic_named(&mut self, now: Now, link: LinkId, slot: u16, topic: Topic, carriers: Vec<DeviceKey>) {
        let known = self.topic_ids.get(&topic).copied();
        let is_own = known.is_some_and(|id| self.own.contains(&id));
        if !is_own && !self.config.is_carrier {
            return;
        }
        if known.is_none() && !self.has_share_left(link) {
            return self.excess(link, now.instant);
        }
        let Some(id) = self.topic_or_new(topic) else { return };
        let before = self.upstreams_needed(id);
        self.serve(now.instant, id, link, Some(slot));
        let local = self.local;
        let sent_to = &mut self.link(link).upstreams;
        let carriers: Vec<_> = carriers
            .into_iter()
            .filter(|carrier| {
                let is_room = sent_to.len() < super::link::UPSTREAMS_MAX;
                sent_to.contains(carrier) || (is_room && sent_to.insert(*carrier))
            })
            .collect();
        let state = self.state(id);
        if state.upstreams.is_empty() || !state.outs.iter().any(|out| out.link != link) {
            // The first who asks says where; whoever comes later can't send the others elsewhere.
            state.upstreams = carriers;
        } else if state.upstreams != carriers {
            let known: Vec<_> = state.upstreams.clone();
            let more = carriers.into_iter().filter(|carrier| !known.contains(carrier) && *carrier != local);
            state.upstreams.extend(more);
            state.upstreams.truncate(2 * crate::presence::message::CARRIERS_MAX);
        }
        self.upstreams_moved(id, &before, Some(now.instant));
    }

    fn handle_drop(&mut self, now: Now, link: LinkId, slot: TopicSlot) {
        let state = self.link(link);
        state.unresolved.retain(|_, named| *named != slot.0);
        let Some(id) = state.theirs.remove(&slot.0) else { return };
        state.digests.remove(&id);
        state.documents.remove(&id);
        let before = self.upstreams_needed(id);
        self.state(id).outs.retain(|out| out.link != link || out.slot != Some(slot.0));
        self.upstreams_moved(id, &before, Some(now.instant));
        if self.own.contains(&id) {
            self.offer(now.instant, id, link);
        }
    }

    fn handle_want(&mut self, now: Instant, link: LinkId, want: TopicWant) {
        let Some(id) = self.link(link).theirs.get(&want.slot.0).copied() else { return };
        let state = self.state(id);
        let sequence = state.sequence();
        let Some(out) = state.find_out(link) else { return };
        out.mode = want.mode;
        let lacks_all = want.have == 0 && want.mode == Mode::Push;
        // What it says it has counts: a document may have been lost with an earlier connection.
        out.known = want.have.min(sequence);
        if lacks_all {
            self.link(link).hurry(now);
        }
        if want.have >= sequence {
            return;
        }
        match want.mode {
            Mode::Push => {
                self.link(link).documents.insert(id);
                self.flush_by(link, now);
            }
            Mode::Soon => {
                self.link(link).digests.insert(id);
                self.flush_by(link, now + COMPANY);
            }
            Mode::Ride => {
                self.link(link).digests.insert(id);
            }
        }
    }

    fn handle_digest(&mut self, now: Instant, link: LinkId, digest: Digest) {
        let Some(id) = self.link(link).slots.get(&digest.slot.0).copied() else { return };
        let device = self.link(link).peer.device;
        let state = self.state(id);
        let is_owner = state_watch_device(state) == Some(device);
        let sequence = state.sequence();
        if let Some(out) = state.find_out(link) {
            out.known = out.known.max(digest.sequence.min(sequence));
        }
        let has_parent = state.parent.is_some();
        let Some(entry) = state.find_in(link) else { return };
        let was_known = std::mem::replace(&mut entry.is_known, true);
        let is_believed = entry.misses < MISSES_BELIEVED;
        entry.sequence = digest.sequence;
        // Only the owner stands at the root, whatever others say.
        entry.hops = if is_owner || entry.is_carrier { digest.hops } else { digest.hops.max(1) };
        if is_owner && digest.sequence < sequence && digest.sequence > 0 {
            self.link(link).rebuttals.insert(id);
            self.flush_by(link, now + COMPANY);
        }
        if digest.sequence > sequence && is_believed {
            self.note_missing(id, digest.sequence, link, now);
        } else if digest.sequence == sequence && sequence > 0 {
            self.shorten(id, link, now);
        }
        if !was_known || !has_parent {
            self.settle_soon(id, now);
        }
    }

    fn place(&mut self, link: LinkId, place: TopicPlace) -> Option<TopicId> {
        match place {
            TopicPlace::Slot(slot) => self.link(link).slots.get(&slot.0).copied(),
            TopicPlace::Topic(topic) => self.topic_ids.get(&topic).copied(),
        }
    }

    /// Where a document, hint or appointment belongs, if it may come from this link.
    pub(super) fn accept_place(&mut self, link: LinkId, place: TopicPlace) -> Option<TopicId> {
        let id = self.place(link, place)?;
        let is_shared = self.link(link).brought.contains(&id) || self.own.contains(&id) || {
            let state = self.state(id);
            state.find_in(link).is_some() || state.find_out(link).is_some()
        };
        is_shared.then_some(id)
    }

    fn handle_document(&mut self, now: Now, link: LinkId, passed: PassedDocument) {
        let id = match (self.place(link, passed.place), passed.place) {
            (Some(id), TopicPlace::Slot(_)) => id,
            (_, TopicPlace::Topic(topic)) => return self.handle_brought(now, link, topic, passed),
            (None, TopicPlace::Slot(_)) => return,
        };
        self.handle_passed(now, link, id, passed);
    }

    /// An owner brings a document; for carriers.
    fn handle_brought(&mut self, now: Now, link: LinkId, topic: Topic, passed: PassedDocument) {
        let known = self.topic_ids.get(&topic).copied();
        if let Some(id) = known.filter(|id| self.own.contains(id)) {
            return self.handle_passed(now, link, id, passed);
        }
        if !self.config.is_carrier {
            return;
        }
        let is_brought = known.is_some_and(|id| self.link(link).brought.contains(&id));
        let is_room = known.is_some() || self.has_share_left(link);
        if !is_brought && (self.link(link).brought.len() >= super::link::BROUGHT_MAX || !is_room) {
            return self.excess(link, now.instant);
        }
        // Nothing is kept for a topic before a document has shown that it is one.
        if passed.document.verify(&topic, now.unix).is_err() {
            return self.forged(link);
        }
        let Some(id) = self.topic_or_new(topic) else { return };
        self.link(link).brought.insert(id);
        self.handle_passed(now, link, id, passed);
    }

    fn handle_passed(&mut self, now: Now, link: LinkId, id: TopicId, passed: PassedDocument) {
        let sequence = passed.document.sequence();
        let device = self.link(link).peer.device;
        let state = self.state(id);
        let topic = state.topic;
        let is_owner = state_watch_device(state) == Some(device);
        let held = state.sequence();
        if let Some(entry) = state.find_in(link) {
            entry.is_known = true;
            entry.sequence = entry.sequence.max(sequence);
            entry.hops = if is_owner || entry.is_carrier { passed.hops } else { passed.hops.max(1) };
        }
        // Two under one number: two runs of one device. The owner settles it with a third.
        let is_other = |held: &super::Held| held.sequence == sequence && held.document != passed.document;
        let is_rival = state.held.as_ref().is_some_and(is_other);
        if sequence < held || (sequence == held && !(is_rival && self.own.contains(&id))) {
            self.counters.duplicates += 1;
            return self.handle_duplicate(id, link, sequence, is_rival, now.instant);
        }
        if passed.document.verify(&topic, now.unix).is_err() {
            // One that expired on the way is no forgery.
            if passed.document.expires_at() > now.unix {
                self.forged(link);
            }
            return;
        }
        if self.own.contains(&id) {
            self.outputs.push_back(Output::OwnNewer { topic, sequence });
            return;
        }
        self.counters.received += 1;
        self.counters.hops[usize::from(passed.hops).min(self.counters.hops.len() - 1)] += 1;
        let state = self.state(id);
        if let Some(entry) = state.find_in(link) {
            entry.misses = entry.misses.saturating_sub(1);
        }
        if let Some(out) = state.find_out(link) {
            out.known = out.known.max(sequence);
        }
        let hops = if is_owner { 0 } else { passed.hops };
        if state.find_in(link).is_some() && state.parent != Some(link) {
            self.make_parent(id, link, now.instant);
        }
        self.keep(now, id, passed.document, hops.saturating_add(1), Some(link));
    }

    /// A document came twice: who pushes it unasked is asked to stop.
    fn handle_duplicate(&mut self, id: TopicId, link: LinkId, sequence: u64, is_rival: bool, now: Instant) {
        let state = self.state(id);
        if let Some(out) = state.find_out(link) {
            out.known = out.known.max(sequence);
        }
        let is_stale = sequence < state.sequence() || is_rival;
        let is_parent = state.parent == Some(link);
        let pushes = state.find_in(link).is_some_and(|entry| entry.mode == Mode::Push);
        if !is_parent && pushes {
            self.set_mode(id, link, Mode::Ride, now);
        }
        let device = self.link(link).peer.device;
        let is_owners = state_watch_device(self.state(id)) == Some(device) || self.link(link).brought.contains(&id);
        if is_stale && is_owners {
            // It was restored from a backup, or two of it run: it has to go on above.
            self.link(link).rebuttals.insert(id);
            self.flush_by(link, now);
        }
    }
}
