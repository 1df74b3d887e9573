//! Who is asked for what: parents, those who tell soon, grafts.

use std::collections::btree_map::Entry;
use std::time::{Duration, Instant};

use rand::RngExt;
use rand::seq::IndexedRandom;

use super::{
    COMPANY, COMPANY_LONG, DeviceKey, Dial, Gossip, Held, In, LinkId, Missing, Mode, Now, Out, Output, REDIAL, REDIAL_MAX,
    SETTLE, SealedDocument, Timer, TopicId, TopicState, Way,
};

/// How long a document may come later from the parent than its digest from another.
const PARENT_GRACE: Duration = Duration::from_millis(300);

/// How long a neighbour has for pushing what it was asked for before the next one is asked.
const GRAFT_TIMEOUT: Duration = Duration::from_millis(600);

/// A tree isn't changed for the sake of shorter ways more often than this.
const SWITCH_PAUSE: Duration = Duration::from_secs(10);

/// How long a digest waits for company after the tree was mended.
const COMPANY_AFTER_MENDING: Duration = Duration::from_millis(150);

/// Neighbours that tell soon while there is no parent.
const TELLERS_WITHOUT_PARENT: usize = 2;

impl Gossip {
    /// Whether a topic is to be named on a link, and whether as to a carrier.
    fn naming(&self, state: &TopicState, link: LinkId) -> Option<bool> {
        let peer = self.links.get(link.0 as usize)?.as_ref()?.peer;
        if state.own.is_some() {
            return None;
        }
        if state_watch_device(state) == Some(peer.device) && peer.is_contact {
            return Some(false);
        }
        // Who is a contact and a carrier of ours is asked as a carrier, which can't say no.
        let is_source = if self.config.is_carrier {
            self.needs_upstream(state) && state.carriers().contains(&peer.device)
        } else {
            state.watch.is_some() && Self::needs_carrier(state) && self.home_of(state) == Some(link)
        };
        let may_ask_contact = peer.is_contact && state.watch.as_ref().is_some_and(|watch| watch.may_pass_on);
        if is_source { Some(true) } else { may_ask_contact.then_some(false) }
    }

    /// A carrier asks others for what it is asked for, unless the owner brings it here.
    fn needs_upstream(&self, state: &TopicState) -> bool {
        let is_wanted = state.watch.is_some() || state.outs.iter().any(|out| out.slot.is_some());
        is_wanted && state.own.is_none() && !state.carriers().contains(&self.local)
    }

    /// A client needs a carrier for what no contact brings.
    fn needs_carrier(state: &TopicState) -> bool {
        let parent = state.ins.iter().find(|entry| Some(entry.link) == state.parent);
        parent.is_none_or(|parent| parent.is_carrier) || state.held.is_none()
    }

    /// Which of the open carriers serves a topic: topics are spread over them.
    fn home_of(&self, state: &TopicState) -> Option<LinkId> {
        let open: Vec<_> = self.homes.iter().filter_map(|home| self.link_ids.get(home).copied()).collect();
        let byte = usize::from(state.topic.as_bytes()[0]);
        // One that was missed as a parent is passed over while there is another.
        let misses = |link: LinkId| state.ins.iter().find(|entry| entry.link == link).map_or(0, |entry| entry.misses);
        (0..open.len()).map(|step| open[(byte + step) % open.len()]).min_by_key(|link| misses(*link))
    }

    /// Names a topic on a link, if it is to be.
    pub(super) fn introduce(&mut self, now: Instant, id: TopicId, link: LinkId) {
        let Some(state) = self.topics.get(id.0 as usize).and_then(Option::as_ref) else { return };
        let Some(is_carrier) = self.naming(state, link) else { return };
        match state.ins.iter().find(|entry| entry.link == link) {
            Some(entry) if entry.is_carrier || !is_carrier => return,
            Some(_) => self.leave_link(id, link),
            None => {}
        }
        let device = self.link(link).peer.device;
        let is_owner = state_watch_device(self.state(id)) == Some(device);
        let Some(slot) = self.link(link).name(id) else {
            // All numbers are used up, after weeks: a new connection has new ones.
            self.outputs.push_back(Output::Silent(device));
            return;
        };
        let entry = In {
            link,
            slot,
            mode: Mode::Ride,
            is_known: is_owner || is_carrier,
            is_carrier,
            sequence: 0,
            hops: u8::MAX,
            misses: 0,
        };
        self.state(id).ins.push(entry);
        if is_owner || is_carrier {
            // The owner may refute them; a carrier keeps them for whoever asks it later.
            self.tell_hints(id, link);
        }
        if is_owner || (is_carrier && self.state(id).parent.is_none()) {
            self.make_parent(id, link, now);
        }
        self.flush_for(id, link, now);
    }

    /// Wants a frame to leave by `at` for the sake of this topic, unless there is no hurry: then the next one takes it along.
    fn flush_for(&mut self, id: TopicId, link: LinkId, at: Instant) {
        if !self.state(id).is_unhurried {
            self.flush_by(link, at);
        }
    }

    /// Serves a topic on a link, if it may.
    pub(super) fn offer(&mut self, now: Instant, id: TopicId, link: LinkId) {
        let peer = self.link(link).peer;
        let (local, is_home) = (self.local, self.homes.contains(&peer.device));
        let passes_on = self.config.passes_on;
        let state = self.state(id);
        let is_own = state.own.is_some();
        let may_pass = passes_on && state.watch.as_ref().is_some_and(|watch| watch.may_pass_on);
        if peer.is_contact && (is_own || may_pass) {
            let tag = state.topic.tag(&peer.device, &local);
            if let Some(slot) = self.link(link).offer_tag(tag, id) {
                self.serve(now, id, link, Some(slot));
            }
        }
        if is_own && is_home && self.state(id).find_out(link).is_none() {
            self.serve(now, id, link, None);
        }
    }

    /// Begins to serve a topic to a neighbour that has asked for it, or to a carrier that is to have it.
    pub(super) fn serve(&mut self, now: Instant, id: TopicId, link: LinkId, slot: Option<u16>) {
        let mode = if slot.is_some() { Mode::Ride } else { Mode::Push };
        let state = self.state(id);
        let is_own = state.own.is_some();
        let former = match state.find_out(link) {
            Some(out) => {
                let next = slot.or(out.slot);
                std::mem::replace(&mut out.slot, next)
            }
            None => {
                state.outs.push(Out { link, slot, mode, known: 0 });
                None
            }
        };
        if let Some(former) = former.filter(|former| Some(*former) != slot) {
            self.link(link).theirs.remove(&former);
        }
        if let Some(slot) = slot {
            self.link(link).resolve(slot, id);
            self.link(link).digests.insert(id);
            // That there is nothing yet is soon enough known.
            if self.state(id).sequence() > 0 {
                self.flush_by(link, now);
            }
        } else {
            self.link(link).documents.insert(id);
            self.flush_by(link, now);
        }
        // A carrier that didn't ask learns of the topic with its first document, and is appointed then.
        if is_own && slot.is_some() {
            self.appoint(id, link);
        }
        self.tell_hints(id, link);
    }

    /// Takes our names for a topic off all links.
    pub(super) fn leave_links(&mut self, id: TopicId) {
        let state = self.state(id);
        state.parent = None;
        state.missing = None;
        for entry in std::mem::take(&mut state.ins) {
            self.link(entry.link).drop_name(entry.slot);
        }
        self.disarm(Timer::Missing(id));
    }

    pub(super) fn leave_link(&mut self, id: TopicId, link: LinkId) {
        let state = self.state(id);
        let Some(position) = state.ins.iter().position(|entry| entry.link == link) else { return };
        let entry = state.ins.swap_remove(position);
        if state.parent == Some(link) {
            state.parent = None;
        }
        self.link(link).drop_name(entry.slot);
    }

    pub(super) fn enter_home(&mut self, now: Instant, link: LinkId) {
        for id in self.own.iter().copied().collect::<Vec<_>>() {
            self.offer(now, id, link);
        }
        for id in self.topic_ids.values().copied().collect::<Vec<_>>() {
            self.introduce(now, id, link);
        }
    }

    pub(super) fn leave_home(&mut self, home: DeviceKey, now: Instant) {
        self.dials.remove(&home);
        self.disarm(Timer::Dial(home));
        if let Some(link) = self.link_ids.get(&home).copied() {
            for id in self.topic_ids.values().copied().collect::<Vec<_>>() {
                if self.state(id).find_in(link).is_some_and(|entry| entry.is_carrier) {
                    self.leave_link(id, link);
                }
                self.state(id).outs.retain(|out| out.link != link || out.slot.is_some());
            }
            self.flush_by(link, now + COMPANY_LONG);
        }
        self.outputs.push_back(Output::Release(home));
    }

    /// Applies a change that may alter which carriers a topic needs.
    pub(super) fn upstreams_changed(&mut self, id: TopicId, change: impl FnOnce(&mut TopicState), now: Option<Instant>) {
        let before = self.upstreams_needed(id);
        change(self.state(id));
        self.upstreams_moved(id, &before, now);
    }

    pub(super) fn upstreams_needed(&self, id: TopicId) -> Vec<DeviceKey> {
        let state = self.topics.get(id.0 as usize).and_then(Option::as_ref);
        state
            .filter(|state| self.config.is_carrier && self.needs_upstream(state))
            .map(|state| state.carriers().to_vec())
            .unwrap_or_default()
    }

    pub(super) fn upstreams_moved(&mut self, id: TopicId, before: &[DeviceKey], now: Option<Instant>) {
        let after = self.upstreams_needed(id);
        for carrier in after.iter().filter(|carrier| !before.contains(carrier)) {
            *self.upstream_users.entry(*carrier).or_default() += 1;
            let Some(now) = now else { continue };
            match self.link_ids.get(carrier).copied() {
                Some(link) => self.introduce(now, id, link),
                None => self.want_connection(*carrier, now),
            }
        }
        for carrier in before.iter().filter(|carrier| !after.contains(carrier)) {
            if let Some(link) = self.link_ids.get(carrier).copied()
                && self.state(id).find_in(link).is_some_and(|entry| entry.is_carrier)
            {
                self.leave_link(id, link);
            }
            let users = self.upstream_users.entry(*carrier).or_default();
            *users = users.saturating_sub(1);
            if *users == 0 {
                self.upstream_users.remove(carrier);
                self.dials.remove(carrier);
                self.disarm(Timer::Dial(*carrier));
                self.outputs.push_back(Output::Release(*carrier));
            }
        }
    }

    /// Whether a carrier is wanted as neighbour.
    pub(super) fn is_wanted(&self, device: &DeviceKey) -> bool {
        self.homes.contains(device) || self.upstream_users.contains_key(device)
    }

    pub(super) fn want_connection(&mut self, device: DeviceKey, now: Instant) {
        if let Entry::Vacant(entry) = self.dials.entry(device) {
            entry.insert(Dial { pause: REDIAL });
            self.dial(device, now);
        }
    }

    pub(super) fn dial(&mut self, device: DeviceKey, now: Instant) {
        if !self.is_wanted(&device) || self.link_ids.contains_key(&device) {
            self.dials.remove(&device);
            return;
        }
        let Some(dial) = self.dials.get_mut(&device) else { return };
        let pause = dial.pause;
        dial.pause = (pause * 2).min(REDIAL_MAX);
        self.outputs.push_back(Output::Connect(device));
        let pause = pause.mul_f64(self.rng.random_range(1.0..1.5));
        self.arm(Timer::Dial(device), now + pause);
    }

    pub(super) fn settle_soon(&mut self, id: TopicId, now: Instant) {
        self.arm(Timer::Settle(id), now + SETTLE);
    }

    pub(super) fn settle_all(&mut self, now: Instant) {
        for id in self.topic_ids.values().copied().collect::<Vec<_>>() {
            self.settle_soon(id, now);
        }
    }

    /// Looks at a topic's tree: is there a parent, is there one who tells soon, is a carrier needed?
    pub(super) fn settle(&mut self, id: TopicId, now: Instant) {
        if !self.has_topic(id) || self.state(id).own.is_some() {
            return;
        }
        if self.state(id).parent.is_none()
            && let Some(parent) = self.safe_parent(id)
        {
            self.make_parent(id, parent, now);
        }
        self.settle_carrier(id, now);
        self.settle_tellers(id, now);
    }

    /// A neighbour that can be the parent without closing a circle.
    fn safe_parent(&mut self, id: TopicId) -> Option<LinkId> {
        if let Some(parent) = self.inherited_parent(id) {
            return Some(parent);
        }
        let (sequence, hops) = (self.state(id).sequence(), self.state(id).hops());
        let is_safe = |entry: &&In| {
            let is_no_farther = sequence > 0 && entry.sequence >= sequence && entry.hops <= hops;
            entry.is_known && (entry.is_carrier || entry.hops == 0 || is_no_farther || entry.sequence > sequence)
        };
        let best = self.state(id).ins.iter().filter(is_safe).min_by_key(|entry| (entry.misses, entry.hops, entry.is_carrier));
        best.map(|entry| entry.link)
    }

    /// Yesterday's parent: yesterday's tree had no circles either.
    fn inherited_parent(&mut self, id: TopicId) -> Option<LinkId> {
        let state = self.state(id);
        let follows = state.watch.as_ref()?.follows.filter(|_| state.held.is_none())?;
        let former = *self.topic_ids.get(&follows)?;
        let parent = self.state(former).parent?;
        self.state(id).find_in(parent).filter(|entry| entry.is_known).map(|entry| entry.link)
    }

    fn settle_carrier(&mut self, id: TopicId, now: Instant) {
        if self.config.is_carrier || self.state(id).watch.is_none() {
            return;
        }
        let state = self.topics.get(id.0 as usize).and_then(Option::as_ref);
        let Some(state) = state else { return };
        let wanted = if Self::needs_carrier(state) { self.home_of(state) } else { None };
        let named: Vec<_> = state.ins.iter().filter(|entry| entry.is_carrier).map(|entry| entry.link).collect();
        for link in named.iter().filter(|link| Some(**link) != wanted && wanted.is_none()) {
            self.leave_link(id, *link);
            self.flush_by(*link, now + COMPANY_LONG);
        }
        if let Some(link) = wanted {
            self.introduce(now, id, link);
        }
    }

    /// A document has ended and none has followed: if a carrier was to bring it, another one is asked from now on.
    pub(super) fn doubt_carrier(&mut self, id: TopicId, now: Instant) {
        let state = self.state(id);
        let Some(parent) = state.parent else { return };
        let Some(entry) = state.find_in(parent).filter(|entry| entry.is_carrier) else { return };
        entry.misses = entry.misses.saturating_add(1);
        let next = self.topics.get(id.0 as usize).and_then(Option::as_ref).and_then(|state| self.home_of(state));
        let Some(next) = next.filter(|next| *next != parent && !self.config.is_carrier) else { return };
        self.state(id).parent = None;
        self.set_mode(id, parent, Mode::Ride, now + COMPANY_LONG);
        self.introduce(now, id, next);
        if self.state(id).parent.is_none() && self.state(id).find_in(next).is_some() {
            self.make_parent(id, next, now);
        }
    }

    /// Asks one neighbour to tell soon, if the parent is a mere contact; two, if there is no parent.
    fn settle_tellers(&mut self, id: TopicId, now: Instant) {
        let state = self.state(id);
        let parent = state.ins.iter().find(|entry| Some(entry.link) == state.parent).copied();
        let needed = match parent {
            None => TELLERS_WITHOUT_PARENT,
            Some(parent) if parent.is_carrier || parent.hops == 0 => 0,
            Some(_) => 1,
        };
        let hops = state.hops();
        let mut tellers: Vec<_> = state.ins.iter().filter(|entry| entry.mode == Mode::Soon).map(|entry| entry.link).collect();
        let fits = |entry: &&In| entry.is_known && !entry.is_carrier && entry.mode == Mode::Ride && entry.hops <= hops;
        let mut others: Vec<_> = state.ins.iter().filter(fits).map(|entry| (entry.misses, entry.link)).collect();
        while tellers.len() > needed {
            if let Some(link) = tellers.pop() {
                self.set_mode(id, link, Mode::Ride, now + COMPANY_LONG);
            }
        }
        while tellers.len() < needed {
            let fewest = others.iter().map(|(misses, _)| *misses).min();
            let best: Vec<_> = others.iter().filter(|(misses, _)| Some(*misses) == fewest).copied().collect();
            let Some(chosen) = best.choose(&mut self.rng).copied() else { return };
            others.retain(|other| *other != chosen);
            tellers.push(chosen.1);
            self.set_mode(id, chosen.1, Mode::Soon, now + COMPANY_LONG);
        }
    }

    pub(super) fn make_parent(&mut self, id: TopicId, link: LinkId, now: Instant) {
        let former = self.state(id).parent.replace(link);
        if former == Some(link) {
            return;
        }
        if let Some(former) = former {
            self.set_mode(id, former, Mode::Ride, now + COMPANY_LONG);
        }
        self.set_mode(id, link, Mode::Push, now);
        self.settle_soon(id, now);
    }

    pub(super) fn set_mode(&mut self, id: TopicId, link: LinkId, mode: Mode, by: Instant) {
        let Some(entry) = self.state(id).find_in(link) else { return };
        if entry.mode == mode && mode != Mode::Push {
            return;
        }
        entry.mode = mode;
        let slot = entry.slot;
        self.link(link).wants.insert(slot, id);
        self.flush_for(id, link, by);
    }

    /// A neighbour has told of a document that we lack.
    pub(super) fn note_missing(&mut self, id: TopicId, sequence: u64, teller: LinkId, now: Instant) {
        let state = self.state(id);
        let has_parent = state.parent.is_some_and(|parent| parent != teller);
        match &mut state.missing {
            Some(missing) => missing.sequence = missing.sequence.max(sequence),
            None => {
                state.missing = Some(Missing { sequence, tried: Vec::new() });
                let grace = if has_parent { PARENT_GRACE } else { Duration::ZERO };
                self.arm(Timer::Missing(id), now + grace);
            }
        }
    }

    /// Asks the next neighbour that has the missing document to push.
    pub(super) fn graft(&mut self, id: TopicId, now: Now) {
        if !self.has_topic(id) {
            return;
        }
        let state = self.state(id);
        let sequence = state.sequence();
        let Some(missing) = &state.missing else { return };
        if sequence >= missing.sequence {
            state.missing = None;
            return;
        }
        let tried = missing.tried.clone();
        let parent = state.parent;
        if let Some(parent) = parent
            && let Some(entry) = state.find_in(parent)
        {
            entry.misses = entry.misses.saturating_add(1);
        }
        let candidates = state.ins.iter().filter(|entry| entry.sequence > sequence && !tried.contains(&entry.link));
        let Some(next) = candidates.min_by_key(|entry| (entry.misses, entry.hops)).map(|entry| entry.link) else {
            // Nobody left: the next digest starts anew, and who was to bring it and didn't isn't the parent any more.
            state.missing = None;
            return self.replace_parent(id, now.instant);
        };
        if let Some(missing) = &mut state.missing {
            missing.tried.push(next);
        }
        self.counters.grafts += 1;
        if parent == Some(next) {
            self.set_mode(id, next, Mode::Push, now.instant);
        } else {
            self.make_parent(id, next, now.instant);
        }
        self.arm(Timer::Missing(id), now.instant + GRAFT_TIMEOUT);
    }

    /// Takes another parent, if there is one that was missed less often.
    fn replace_parent(&mut self, id: TopicId, now: Instant) {
        let state = self.state(id);
        let misses =
            |state: &TopicState, link: LinkId| state.ins.iter().find(|entry| entry.link == link).map_or(0, |entry| entry.misses);
        let Some(parent) = state.parent.filter(|parent| misses(state, *parent) > 0) else { return };
        if let Some(better) = self.safe_parent(id)
            && misses(self.state(id), better) < misses(self.state(id), parent)
        {
            self.make_parent(id, better, now);
        }
    }

    /// A shorter way to the owner has shown itself.
    pub(super) fn shorten(&mut self, id: TopicId, link: LinkId, now: Instant) {
        let state = self.state(id);
        let Some(entry) = state.find_in(link).copied() else { return };
        let is_shorter = entry.hops.saturating_add(1) < state.hops() && entry.sequence == state.sequence();
        let may_switch = state.switch_after.is_none_or(|after| now >= after);
        if !is_shorter || !may_switch || entry.is_carrier || entry.misses > 0 || state.parent == Some(link) {
            return;
        }
        state.switch_after = Some(now + SWITCH_PAUSE);
        if let Some(held) = &mut state.held {
            held.hops = entry.hops.saturating_add(1);
        }
        self.make_parent(id, link, now);
    }

    /// Takes a document that is newer and genuine, and passes it on.
    pub(super) fn keep(&mut self, now: Now, id: TopicId, document: SealedDocument, hops: u8, from: Option<LinkId>) {
        let sequence = document.sequence();
        let way = from.map(|link| self.way(id, link));
        let state = self.state(id);
        let topic = state.topic;
        let is_watched = state.watch.is_some();
        let end = document.expires_at();
        state.held = Some(Held { document: document.clone(), sequence, hops });
        state.is_unhurried = false;
        state.hints.retain(|hint| hint.sequence >= sequence);
        self.next_end = self.next_end.min(end);
        let state = self.state(id);
        // Where the tree broke here it may have broken around: all are told.
        let was_mended = state.missing.as_ref().is_some_and(|missing| !missing.tried.is_empty());
        if state.missing.as_ref().is_some_and(|missing| missing.sequence <= sequence) {
            state.missing = None;
            self.disarm(Timer::Missing(id));
        }
        for out in self.state(id).outs.clone() {
            if out.known >= sequence {
                continue;
            }
            match out.mode {
                Mode::Push => {
                    self.link(out.link).documents.insert(id);
                    self.flush_by(out.link, now.instant);
                }
                Mode::Soon => {
                    self.link(out.link).digests.insert(id);
                    self.flush_by(out.link, now.instant + COMPANY);
                }
                Mode::Ride => {
                    self.link(out.link).digests.insert(id);
                    if was_mended {
                        self.flush_by(out.link, now.instant + COMPANY_AFTER_MENDING);
                    }
                }
            }
        }
        if let (true, Some(way)) = (is_watched, way) {
            self.outputs.push_back(Output::Newest { topic, document, way, hops });
        }
    }

    fn way(&mut self, id: TopicId, link: LinkId) -> Way {
        let device = self.link(link).peer.device;
        let state = self.state(id);
        let is_carrier = state.find_in(link).is_none_or(|entry| entry.is_carrier);
        match state_watch_device(state) {
            Some(owner) if owner == device => Way::Direct,
            _ if is_carrier => Way::Carrier,
            _ => Way::Contact,
        }
    }
}

pub(super) fn state_watch_device(state: &TopicState) -> Option<DeviceKey> {
    state.watch.as_ref().map(|watch| watch.device)
}
