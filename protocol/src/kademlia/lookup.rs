//! One look-up: whom to ask next, when to hedge, what to believe. Sends nothing itself; the directory does what [`Lookup::step`] says.
//!
//! 1. Of the eight closest one to whom a connection is open is asked, alone; else the likeliest holder, with as many more as it takes that one of them lives, by how first contacts went
//!    lately. Among nodes near enough to be replicas almost surely, that is the one that answers soonest; else the closest. Who was silent lately comes last.
//!    Where hardly anybody near is known and none of the eight closest is connected, connected nodes far off (*guides*) are asked beside them. As many as are asked at once are waited for
//!    of those that stand nearest as well, whoever else is.
//! 2. No sign of life in time: five are asked at once; then the rest of the eight closest. Late answers still count.
//! 3. "Not here" leads on to closer nodes. Once it brings none, three are asked at a time.
//! 4. The first valid record ends the search; one that its node calls doubtful only if nobody else has any. *Settled*: the others of the eight closest are asked with the record's hash in hand.
//! 5. "No such record" is believed when all of the eight closest that live were asked, most of them say so with their places proved, and
//!    denials came over four disjoint paths (if the network offers as many). Otherwise the result is inconclusive.
//!
//! An answer that doesn't verify costs its sender the candidacy and a mark against it, and never ends the search.

mod candidate;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::candidate::{Candidate, Source, State, Word};
use super::messages::CLOSER_MAX;
use super::routing_table::{GROUP_REPLICAS_MAX, Known, NetworkGroup, REPLICAS, RoutingTable};
use crate::directory::{DirectoryRecord, Distance, Place, RecordKey};
use crate::key::DeviceKey;
use crate::node::{Descriptor, Roles};

/// Most candidates of one look-up: eight answers' worth beside those it begins with. Beyond that nearer ones take the place of those farthest off.
const CANDIDATES_MAX: usize = 256;

/// Most requests of one look-up: eight times what a look-up among dead nodes needs.
const REQUESTS_MAX: u32 = 64;

/// After this time a look-up ends with what it has.
const LOOKUP_MAX: Duration = Duration::from_secs(20);

/// How often what is granted to answers, where this node itself is late, is granted to a look-up as a whole: so many wait for each other.
const GRANTS: u32 = 2;

/// How long silent nodes are waited for before "no such record" or a settled answer is given without them.
const GRACE: Duration = Duration::from_secs(1);

/// Asked at once by the first hedge, the silent one not counted. With 40% of the nodes dead all of these and the first are dead in 4 of 1,000 look-ups;
/// with three it was one in 40.
const WIDTH_FIRST_HEDGE: usize = 5;

/// Asked at once while "not here" brings nobody closer.
const WIDTH_HEDGE: usize = 3;

/// Disjoint paths, each from a node of our own table, over which "no such record" has to come. Colluders who choose their places among a few are a third
/// of those around a name, and name each other alone: over two paths all who were met belonged to them in one look-up of eighty.
const DENYING_PATHS: usize = 4;

/// Nodes of one teller that are tried before one of them has answered. Bounds what invented nodes cost; of honest tellers one in forty has four
/// dead nodes first when 40% are dead, and others name the same nodes.
const TELLER_TRIES_MAX: usize = 4;

/// Nodes that one teller knows by hearsay that may fail before another of them has answered. It may have been told of invented nodes.
const HEARSAY_TRIES_MAX: usize = 2;

/// Most nodes known by hearsay among the eight closest while they haven't answered: whoever has told many of invented ones can't hide those that live.
const HEARSAY_WINDOW_MAX: usize = REPLICAS / 2;

/// Connected nodes that are asked with the first where nobody near enough is known: a round trip with them is half of one with any other, and each knows a thousand by hearsay.
const GUIDES: usize = 8;

/// With so many near ones known no guides are asked. A single one may not live, or stand just outside the eight.
const KNOWN_NEAR: usize = 2;

/// Answers after which a look-up that seems to have gone astray believes what it has.
const ANSWERS_ASTRAY_MAX: u32 = 20;

/// Requests and time after which it does so too: of those it is told of some don't live, or don't exist.
const REQUESTS_ASTRAY_MAX: u32 = 40;
const ASTRAY_MAX: Duration = Duration::from_secs(8);

/// Why a look-up runs: who gets its result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// The owner asked.
    Find,
    /// Part of joining.
    Bootstrap,
    /// Keeps the table fresh.
    Refresh,
    /// Finds replicas for this publication.
    Publish(super::QueryId),
    /// Finds the replicas of a listing's place.
    Listing(super::QueryId),
    /// Sees whether others find our record.
    ReadBack(RecordKey),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Goal {
    Record {
        key: RecordKey,
        settled: bool,
    },
    /// The closest nodes; done when this many of the closest have answered.
    Nodes {
        breadth: usize,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Found,
    Absent,
    Inconclusive,
    Nodes,
}

#[derive(Clone, Debug)]
pub(super) struct Lookup {
    pub(super) goal: Goal,
    pub(super) target: Place,
    pub(super) purpose: Purpose,
    pub(super) started: Instant,
    pub(super) requests: u32,
    pub(super) answers: u32,
    pub(super) found: Option<DirectoryRecord>,
    /// Somebody vouches for what was found who has no reason to doubt it.
    is_sure: bool,
    own: DeviceKey,
    is_lab: bool,
    candidates: BTreeMap<(Distance, DeviceKey), Candidate>,
    stage: u8,
    /// Who was asked for the connection to it, not for where it stands: at most [`GUIDES`]. What they have or haven't says little.
    guides: Vec<DeviceKey>,
    /// Somebody has been silent too long since the last step.
    is_silence_news: bool,
    /// Time beyond the usual, see [`Lookup::grant`].
    granted: Duration,
    is_stalled: bool,
    stepped: Instant,
}

pub(super) struct Step {
    pub(super) ask: Vec<Arc<Descriptor>>,
    pub(super) end: Option<End>,
}

/// How a settled answer came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Agreement {
    pub(super) agreeing: usize,
    pub(super) replicas: usize,
    pub(super) is_settled: bool,
}

impl Lookup {
    pub(super) fn new(goal: Goal, target: Place, purpose: Purpose, own: DeviceKey, is_lab: bool, now: Instant) -> Self {
        Self {
            goal,
            target,
            purpose,
            started: now,
            requests: 0,
            answers: 0,
            found: None,
            is_sure: false,
            own,
            is_lab,
            candidates: BTreeMap::new(),
            stage: 0,
            guides: Vec::new(),
            is_silence_news: false,
            granted: Duration::ZERO,
            is_stalled: false,
            stepped: now,
        }
    }

    /// Adds nodes of our own table.
    pub(super) fn start_from(&mut self, known: Vec<Known>) {
        for known in known {
            let source = if known.root == known.descriptor.device { Source::Own } else { Source::Told(known.root) };
            self.add(known.descriptor, known.root, source);
        }
    }

    fn add(&mut self, descriptor: Arc<Descriptor>, root: DeviceKey, source: Source) -> bool {
        if descriptor.device == self.own || !descriptor.roles.contains(Roles::DIRECTORY) {
            return false;
        }
        let at = (self.target.distance(&descriptor.place), descriptor.device);
        if let Some((known_at, known)) = self.find(&descriptor.device) {
            let is_hearsay = matches!(source, Source::Hearsay(_));
            // Who has met a node knows better where it stands and lives.
            let is_corrected = known.is_hearsay() && !is_hearsay && !known.has_answered() && known.descriptor != descriptor;
            // The newest word counts, so that a node doesn't fall with the first to name it.
            let is_newer =
                known_at == at && known.state == State::Fresh && known.word().is_some() && (known.is_hearsay() || !is_hearsay);
            if is_corrected {
                self.candidates.remove(&known_at);
            } else if let Some(known) = self.candidates.get_mut(&at).filter(|_| is_newer) {
                (known.root, known.source) = (root, source);
            }
            if !is_corrected {
                return false;
            }
        }
        if !self.has_room_at(at.0) {
            return false;
        }
        let group = NetworkGroup::of_descriptor(&descriptor);
        self.candidates.insert(at, Candidate { descriptor, group, root, source, state: State::Fresh });
        true
    }

    /// Whether there is room for one more candidate at this distance: the farthest that wasn't asked makes room for nearer ones.
    fn has_room_at(&mut self, distance: Distance) -> bool {
        if self.candidates.len() < CANDIDATES_MAX {
            return true;
        }
        let mut farthest = self.candidates.iter().rev().filter(|(_, candidate)| candidate.state == State::Fresh);
        match farthest.next().map(|(at, _)| *at).filter(|at| distance < at.0) {
            Some(at) => self.candidates.remove(&at).is_some(),
            None => false,
        }
    }

    /// Adds the nodes that `teller` named, those that it has met and those that it knows by hearsay.
    pub(super) fn told(&mut self, teller: &DeviceKey, closer: &[Arc<Descriptor>], hearsay: &[Arc<Descriptor>]) {
        let Some((at, candidate)) = self.find(teller) else { return };
        let (root, is_guide) = (candidate.root, self.is_guide(teller));
        let met = closer.iter().map(|descriptor| (descriptor, Source::Told(*teller)));
        let named: Vec<_> = met.chain(hearsay.iter().map(|descriptor| (descriptor, Source::Hearsay(*teller)))).collect();
        let mut brought_closer = false;
        for (descriptor, source) in named {
            let distance = self.target.distance(&descriptor.place);
            brought_closer |= self.add(Arc::clone(descriptor), root, source) && distance < at.0;
        }
        // Several guides are asked at once, and name the same.
        self.is_stalled |= !brought_closer && !is_guide;
    }

    fn find(&self, device: &DeviceKey) -> Option<((Distance, DeviceKey), &Candidate)> {
        self.candidates.iter().find(|((_, candidate), _)| candidate == device).map(|(at, candidate)| (*at, candidate))
    }

    fn find_mut(&mut self, device: &DeviceKey) -> Option<&mut Candidate> {
        self.candidates.iter_mut().find(|((_, candidate), _)| candidate == device).map(|(_, candidate)| candidate)
    }

    pub(super) fn asked(&mut self, device: &DeviceKey, now: Instant, patience: Duration) {
        let with_hash = self.have_hash();
        // Nobody has named anybody yet.
        let is_own = self.answers == 0;
        self.requests += 1;
        if let Some(candidate) = self.find_mut(device) {
            candidate.state = State::Asked { at: now, patient_until: now + patience, with_hash, is_hedged: false, is_own };
        }
    }

    /// This node is late: answers get so much longer, and so does what they are waited for altogether.
    pub(super) fn grant(&mut self, allowance: Duration) {
        self.granted = self.granted.max(GRANTS * allowance);
    }

    /// The handshake with a node is done: its answer is due one round trip from now. True if it was asked before anybody had named others, so because our own table has it.
    pub(super) fn extend_patience(&mut self, device: &DeviceKey, until: Instant) -> bool {
        match self.find_mut(device).map(|candidate| &mut candidate.state) {
            Some(State::Asked { patient_until, is_own, .. }) => {
                *patient_until = until.max(*patient_until);
                *is_own
            }
            _ => false,
        }
    }

    pub(super) fn failed(&mut self, device: &DeviceKey) {
        self.set(device, State::Failed);
    }

    pub(super) fn absent(&mut self, device: &DeviceKey, is_proved: bool) {
        self.answers += 1;
        self.set(device, State::Absent { is_proved });
    }

    pub(super) fn answered(&mut self, device: &DeviceKey) {
        self.answers += 1;
        self.set(device, State::Answered);
    }

    /// The node holds what we told it we have. False if we told it nothing.
    pub(super) fn same(&mut self, device: &DeviceKey, is_sure: bool) -> bool {
        let with_hash = match self.find(device).map(|(_, candidate)| candidate.state) {
            Some(State::Asked { with_hash, .. }) => with_hash,
            _ => None,
        };
        let Some(hash) = with_hash else { return false };
        self.answers += 1;
        self.is_sure |= is_sure;
        self.set(device, State::Holds(hash));
        true
    }

    /// The node sent a valid record.
    pub(super) fn found(&mut self, device: &DeviceKey, record: DirectoryRecord, is_sure: bool) {
        self.answers += 1;
        self.set(device, State::Holds(record.content_hash()));
        self.take(record, is_sure);
    }

    /// Takes in a record that is no candidate's answer: our own copy.
    pub(super) fn take(&mut self, record: DirectoryRecord, is_sure: bool) {
        self.is_sure |= is_sure;
        self.found = Some(match self.found.take() {
            Some(known) => known.merge(record),
            None => record,
        });
    }

    fn set(&mut self, device: &DeviceKey, state: State) {
        if let Some(candidate) = self.find_mut(device) {
            candidate.state = state;
        }
    }

    pub(super) fn have_hash(&self) -> Option<[u8; 32]> {
        self.found.as_ref().map(DirectoryRecord::content_hash)
    }

    /// What the node that is to be asked needn't spell out: the closest that are known and haven't failed, without itself. Nothing for the first to be asked for a record, who
    /// mostly has it.
    pub(super) fn known_beside(&self, asked: &DeviceKey, now: Instant) -> Vec<Arc<Descriptor>> {
        if matches!(self.goal, Goal::Record { .. }) && self.requests == 0 {
            return Vec::new();
        }
        let others = self.candidates.values();
        let others = others.filter(|candidate| candidate.descriptor.device != *asked && !candidate.state.is_out(now));
        // Hearsay isn't known: that others say the same, or have met whom it is about, is news.
        let others = others.filter(|candidate| !candidate.is_hearsay() || candidate.has_answered());
        others.take(CLOSER_MAX).map(|candidate| Arc::clone(&candidate.descriptor)).collect()
    }

    /// Whether a node was asked though it stands far off.
    pub(super) fn is_guide(&self, device: &DeviceKey) -> bool {
        self.guides.contains(device)
    }

    /// Whether a node's word that there is no record shows that its path leads nowhere else: who tells by hearsay knows no path to whom it names.
    fn ends_a_path(&self, candidate: &Candidate) -> bool {
        !candidate.is_hearsay() && !self.is_guide(&candidate.descriptor.device)
    }

    /// The place under which the query knows a node.
    pub(super) fn place_of(&self, device: &DeviceKey) -> Option<Place> {
        self.find(device).map(|(_, candidate)| candidate.descriptor.place)
    }

    /// What became of the nodes that each teller named: answered, and failed or silent.
    fn tellers(&self, now: Instant) -> BTreeMap<Word, (usize, usize)> {
        let mut tellers: BTreeMap<Word, (usize, usize)> = BTreeMap::new();
        for candidate in self.candidates.values() {
            let Some(word) = candidate.word() else { continue };
            let counts = tellers.entry(word).or_default();
            match candidate.state {
                State::Fresh => {}
                State::Failed => counts.1 += 1,
                State::Asked { patient_until, .. } => counts.1 += usize::from(patient_until <= now),
                State::Holds(_) | State::Absent { .. } | State::Answered => counts.0 += 1,
            }
        }
        tellers
    }

    /// The `count` closest that haven't failed and aren't silent beyond patience; at most two of one network and one of a user, and of a teller
    /// whose word nothing has confirmed no more than are worth trying.
    fn window(&self, now: Instant, count: usize, is_for_asking: bool) -> Vec<&Candidate> {
        let mut tellers = self.tellers(now);
        let mut groups: BTreeMap<Option<NetworkGroup>, usize> = BTreeMap::new();
        let mut owners = BTreeSet::new();
        let mut hearsay = 0;
        let mut window = Vec::new();
        for candidate in self.candidates.values() {
            let seen = groups.entry(candidate.group).or_default();
            let owner = candidate.descriptor.place.owner();
            if candidate.state.is_out(now) || (!self.is_lab && (*seen >= GROUP_REPLICAS_MAX || owners.contains(&owner))) {
                continue;
            }
            let is_doubtful = candidate.is_hearsay() && !candidate.has_answered();
            if is_doubtful && hearsay >= HEARSAY_WINDOW_MAX {
                continue;
            }
            if let Some((confirmed, tried)) = candidate.word().and_then(|word| tellers.get_mut(&word)) {
                let tries_max = match candidate.source {
                    // One that lives vouches for one more.
                    Source::Hearsay(_) => HEARSAY_TRIES_MAX + *confirmed,
                    _ if *confirmed == 0 => TELLER_TRIES_MAX,
                    _ => usize::MAX,
                };
                if !candidate.has_answered() && *tried >= tries_max {
                    continue;
                }
                *tried += usize::from(is_for_asking && !candidate.has_answered());
            }
            hearsay += usize::from(is_doubtful);
            *seen += 1;
            owners.insert(owner);
            window.push(candidate);
            if window.len() == count {
                break;
            }
        }
        window
    }

    /// The closest nodes that live, as far as the query found out: those to store at.
    pub(super) fn closest(&self, now: Instant, count: usize) -> Vec<Arc<Descriptor>> {
        self.window(now, count, false).into_iter().map(|candidate| Arc::clone(&candidate.descriptor)).collect()
    }

    /// What to do now.
    pub(super) fn step(&mut self, now: Instant, table: &RoutingTable) -> Step {
        self.stepped = now;
        let is_over = self.requests >= REQUESTS_MAX || now >= self.over_at();
        let mut step = match (self.goal, &self.found) {
            (Goal::Record { settled: false, .. }, Some(_)) if self.is_sure => Step { ask: Vec::new(), end: Some(End::Found) },
            (Goal::Record { settled: false, .. }, Some(_)) => self.confirm(now, table),
            (Goal::Record { settled: true, .. }, Some(_)) => self.settle(now),
            (Goal::Record { .. }, None) => self.search(now, table),
            (Goal::Nodes { breadth }, _) => self.walk(now, table, breadth),
        };
        if is_over && step.end.is_none() {
            let end = match (self.goal, &self.found) {
                (Goal::Nodes { .. }, _) => End::Nodes,
                (_, Some(_)) => End::Found,
                (_, None) => End::Inconclusive,
            };
            step = Step { ask: Vec::new(), end: Some(end) };
        }
        step.ask.truncate(REQUESTS_MAX.saturating_sub(self.requests) as usize);
        step
    }

    fn search(&mut self, now: Instant, table: &RoutingTable) -> Step {
        if std::mem::take(&mut self.is_silence_news) && !self.is_waiting(now) {
            self.stage = self.stage.saturating_add(1);
        }
        let mut ask = self.next_near(now, table);
        let is_warm = ask.iter().any(|node| table.is_connected(&node.device));
        if self.requests == 0 && !is_warm && self.is_far_off(now, table) {
            ask.extend(self.guides(table));
        }
        if !ask.is_empty() || self.is_waiting(now) || self.is_in_grace(now) {
            return Step { ask, end: None };
        }
        let (has_majority, paths) = self.denials(&self.window(now, REPLICAS, true));
        let mut ask = if has_majority && paths.len() < DENYING_PATHS { self.other_path(&paths) } else { Vec::new() };
        if ask.is_empty() && self.may_stray(now) && self.is_astray(now, table) {
            ask = self.beyond(now);
        }
        let is_proved = has_majority && ask.is_empty();
        let end = ask.is_empty().then_some(if is_proved { End::Absent } else { End::Inconclusive });
        Step { ask, end }
    }

    /// Who of the eight closest is asked now.
    fn next_near(&self, now: Instant, table: &RoutingTable) -> Vec<Arc<Descriptor>> {
        let window = self.window(now, REPLICAS, true);
        if let Some(warm) = self.warm(&window, table) {
            return vec![warm];
        }
        let width = match self.stage {
            0 => self.first_width(&window, table),
            1 => WIDTH_FIRST_HEDGE,
            _ => REPLICAS,
        };
        let width = if self.is_stalled { width.max(WIDTH_HEDGE) } else { width };
        self.likeliest(now, &window, self.missing(&window, width, table), table)
    }

    /// Whether a node at this distance is near enough to be a replica almost surely.
    fn is_core(distance: Distance, table: &RoutingTable) -> bool {
        distance.leading_zeros() >= table.core_bits().unwrap_or(0)
    }

    /// How near a node at this distance is: 2 if it is a replica almost surely, 1 if no more than twice as far off, where most replicas are, 0 beyond.
    fn nearness(distance: Distance, table: &RoutingTable) -> u32 {
        let core = table.core_bits().unwrap_or(0);
        (distance.leading_zeros() + 2).saturating_sub(core).min(2)
    }

    /// How many more of the closest to ask, so that `width` are waited for. If some that aren't asked yet are of a nearer kind ([`Lookup::nearness`]), `width` of that kind or a nearer one
    /// are waited for, whoever else is.
    fn missing(&self, window: &[&Candidate], width: usize, table: &RoutingTable) -> usize {
        let nearness = |candidate: &&Candidate| Self::nearness(self.target.distance(&candidate.descriptor.place), table);
        // Who was silent is asked after all others: nobody else in that one's stead.
        let is_fresh =
            |candidate: &&&Candidate| candidate.state == State::Fresh && !table.is_suspect(&candidate.descriptor.device);
        let fresh: Vec<_> = window.iter().filter(is_fresh).map(nearness).collect();
        let waiting: Vec<_> =
            window.iter().filter(|candidate| matches!(candidate.state, State::Asked { .. })).map(nearness).collect();
        let nearest = fresh.iter().copied().max().unwrap_or(0);
        let are_near = |of: &[u32]| of.iter().filter(|nearness| **nearness >= nearest).count();
        let nearer = width.saturating_sub(are_near(&waiting)).min(are_near(&fresh));
        nearer.max(width.saturating_sub(waiting.len()))
    }

    /// Whether fewer than [`KNOWN_NEAR`] would be asked who are no more than twice as far off as who holds the record almost surely, and weren't silent: where a neighbourhood is known that
    /// hardly happens.
    fn is_far_off(&self, now: Instant, table: &RoutingTable) -> bool {
        let window = self.window(now, REPLICAS, true);
        let known = window.iter().filter(|candidate| !table.is_suspect(&candidate.descriptor.device)).take(KNOWN_NEAR);
        let distance = |candidate: &&&Candidate| self.target.distance(&candidate.descriptor.place);
        let near = known.filter(|candidate| Self::nearness(distance(candidate), table) > 0).count();
        near < KNOWN_NEAR && !self.candidates.is_empty()
    }

    /// Connected nodes to ask beside the first.
    fn guides(&mut self, table: &RoutingTable) -> Vec<Arc<Descriptor>> {
        let guides = table.closest_connected(&self.target, GUIDES);
        for guide in &guides {
            self.add(Arc::clone(guide), guide.device, Source::Own);
            self.guides.push(guide.device);
        }
        guides
    }

    fn is_waiting(&self, now: Instant) -> bool {
        let waits = |state: &State| matches!(state, State::Asked { patient_until, .. } if *patient_until > now);
        self.candidates.values().any(|candidate| waits(&candidate.state))
    }

    /// Whether most of the replicas deny with their places proved, and over which paths denials came.
    fn denials(&self, window: &[&Candidate]) -> (bool, BTreeSet<DeviceKey>) {
        let is_denial = |candidate: &Candidate| candidate.state == State::Absent { is_proved: true };
        let denials = window.iter().filter(|candidate| is_denial(candidate)).count();
        let over_paths = self.candidates.values().filter(|candidate| is_denial(candidate) && self.ends_a_path(candidate));
        let paths = over_paths.map(|candidate| candidate.root).collect();
        (denials > window.len() / 2, paths)
    }

    /// The closest nodes that we know over another path: would they lead elsewhere? Empty if the network offers none.
    fn other_path(&self, paths: &BTreeSet<DeviceKey>) -> Vec<Arc<Descriptor>> {
        let others = self.candidates.values().filter(|candidate| candidate.state == State::Fresh && self.ends_a_path(candidate));
        let others = others.filter(|candidate| !paths.contains(&candidate.root));
        others.take(WIDTH_HEDGE).map(|candidate| Arc::clone(&candidate.descriptor)).collect()
    }

    /// For a look-up gone astray: neighbours know the same neighbourhoods, and miss the same. So the closest of those that stand farther off than all who
    /// have answered are asked; if there are none, the closest that weren't.
    fn beyond(&self, now: Instant) -> Vec<Arc<Descriptor>> {
        let bits = |candidate: &Candidate| self.target.distance(&candidate.descriptor.place).leading_zeros();
        let answered = self.candidates.values().filter(|candidate| candidate.has_answered());
        let answered = answered.filter(|candidate| !self.is_guide(&candidate.descriptor.device));
        let least = answered.map(bits).min();
        // As everywhere, few of one network, one of a user, and of a teller whose word nothing has confirmed no more than are worth trying.
        let window = self.window(now, CANDIDATES_MAX, true);
        let fresh = window.into_iter().filter(|candidate| candidate.state == State::Fresh);
        let (mut farther, near): (Vec<_>, Vec<_>) =
            fresh.partition(|candidate| least.is_some_and(|least| bits(candidate) < least));
        farther.extend(near);
        farther.into_iter().take(WIDTH_HEDGE).map(|candidate| Arc::clone(&candidate.descriptor)).collect()
    }

    /// Whether a look-up that seems to have gone astray may go on: somebody could make it seem so, and it has to end by itself before it is cut off.
    fn may_stray(&self, now: Instant) -> bool {
        let guides = u32::try_from(self.guides.len()).unwrap_or(u32::MAX);
        self.answers < ANSWERS_ASTRAY_MAX + guides
            && self.requests < REQUESTS_ASTRAY_MAX + guides
            && now.saturating_duration_since(self.started) < ASTRAY_MAX + self.granted
    }

    fn settle(&self, now: Instant) -> Step {
        let window = self.window(now, REPLICAS, true);
        let fresh = window.iter().filter(|candidate| candidate.state == State::Fresh);
        let ask: Vec<_> = fresh.map(|candidate| Arc::clone(&candidate.descriptor)).collect();
        let is_waiting = window.iter().any(|candidate| matches!(candidate.state, State::Asked { .. }));
        let end = (ask.is_empty() && !is_waiting && !self.is_in_grace(now)).then_some(End::Found);
        Step { ask, end }
    }

    /// What was found may be out of date: a few others are asked at a time, until one is sure.
    fn confirm(&self, now: Instant, table: &RoutingTable) -> Step {
        let window = self.window(now, REPLICAS, true);
        let waiting = window.iter().filter(|candidate| matches!(candidate.state, State::Asked { .. })).count();
        let ask = self.likeliest(now, &window, WIDTH_HEDGE.saturating_sub(waiting), table);
        let end = (ask.is_empty() && waiting == 0).then_some(End::Found);
        Step { ask, end }
    }

    /// Whether fewer nodes are known around the target than live there, by how dense the proved are around us: of eight to sixteen none, or of twice as many
    /// fewer than four. It is so by chance in one look-up of a hundred, and mostly where those who were asked knew a neighbourhood by its dead.
    pub(super) fn is_astray(&self, now: Instant, table: &RoutingTable) -> bool {
        let Some(bits) = table.proved_core_bits() else { return false };
        let near = self.candidates.iter().filter(|(_, candidate)| !candidate.state.is_out(now));
        let shared: Vec<u32> = near.take(REPLICAS / 2).map(|((distance, _), _)| distance.leading_zeros()).collect();
        let is_dense = |rank: usize, bits: u32| bits == 0 || shared.get(rank - 1).is_some_and(|shared| *shared >= bits);
        !is_dense(1, bits.saturating_sub(1)) || !is_dense(REPLICAS / 2, bits.saturating_sub(2))
    }

    fn walk(&self, now: Instant, table: &RoutingTable, breadth: usize) -> Step {
        // What is stored where nobody looks is as good as lost.
        let is_to_store = matches!(self.purpose, Purpose::Publish(_) | Purpose::Listing(_));
        let is_astray = is_to_store && self.is_astray(now, table);
        let window = self.window(now, if is_astray { breadth.max(REPLICAS) } else { breadth }, true);
        let waiting = window.iter().filter(|candidate| matches!(candidate.state, State::Asked { .. })).count();
        let mut ask = self.likeliest(now, &window, WIDTH_HEDGE.saturating_sub(waiting), table);
        let mut is_over = ask.is_empty() && waiting == 0;
        if is_over && is_astray && self.is_waiting(now) {
            is_over = false;
        } else if is_over && is_astray && self.may_stray(now) {
            ask = self.beyond(now);
            is_over = ask.is_empty();
        }
        Step { ask, end: is_over.then_some(End::Nodes) }
    }

    /// One while a node to whom a connection is open is asked: it answers soon, or its silence is noticed. Else as many as it takes that one lives.
    fn first_width(&self, window: &[&Candidate], table: &RoutingTable) -> usize {
        let is_asked = |candidate: &&&Candidate| matches!(candidate.state, State::Asked { .. });
        let is_warm = window.iter().filter(is_asked).any(|candidate| table.is_connected(&candidate.descriptor.device));
        if is_warm { 1 } else { table.first_width() }
    }

    /// The first to be asked, if one of the closest is connected: should it not have the record, that costs one round trip, half of what any other does. None after it, so that nobody who
    /// keeps connections to us makes us ask one after the other.
    fn warm(&self, window: &[&Candidate], table: &RoutingTable) -> Option<Arc<Descriptor>> {
        let is_warm = |candidate: &&&Candidate| {
            let device = &candidate.descriptor.device;
            candidate.state == State::Fresh && table.is_connected(device) && !table.is_suspect(device)
        };
        let mut warm = window.iter().filter(|_| self.requests == 0).filter(is_warm);
        warm.next().map(|candidate| Arc::clone(&candidate.descriptor))
    }

    /// Those that have been silent beyond patience and weren't when last asked about, and whether they were asked because our own table has them, as nobody had named others yet.
    pub(super) fn newly_silent(&mut self, now: Instant) -> Vec<(DeviceKey, bool)> {
        let mut silent = Vec::new();
        for candidate in self.candidates.values_mut() {
            if let State::Asked { patient_until, is_hedged, is_own, .. } = &mut candidate.state
                && *patient_until <= now
                && !*is_hedged
            {
                *is_hedged = true;
                silent.push((candidate.descriptor.device, *is_own));
            }
        }
        self.is_silence_news |= !silent.is_empty();
        silent
    }

    fn is_in_grace(&self, now: Instant) -> bool {
        let is_awaited = |state: &State| matches!(state, State::Asked { at, .. } if now.duration_since(*at) < GRACE);
        self.candidates.values().any(|candidate| is_awaited(&candidate.state))
    }

    fn likeliest(&self, now: Instant, window: &[&Candidate], count: usize, table: &RoutingTable) -> Vec<Arc<Descriptor>> {
        if count == 0 {
            return Vec::new();
        }
        let mut fresh: Vec<_> = window
            .iter()
            .filter(|candidate| candidate.state == State::Fresh)
            .map(|candidate| {
                let device = candidate.descriptor.device;
                let distance = self.target.distance(&candidate.descriptor.place);
                let is_core = Self::is_core(distance, table);
                let preference = is_core.then(|| table.preference(now, &device));
                // `None` sorts first, so nodes outside the core are told apart before it is looked at.
                (table.is_suspect(&device), !is_core, preference, distance, *candidate)
            })
            .collect();
        fresh.sort_by(|a, b| (a.0, a.1, &a.2, a.3).cmp(&(b.0, b.1, &b.2, b.3)));
        fresh.into_iter().take(count).map(|(.., candidate)| Arc::clone(&candidate.descriptor)).collect()
    }

    /// How many replicas hold exactly what was found.
    pub(super) fn agreement(&self, now: Instant) -> Agreement {
        let hash = self.have_hash();
        let window = self.window(now, REPLICAS, true);
        let holders = window.iter().filter(|candidate| matches!(candidate.state, State::Holds(_))).count();
        let denials = window.iter().filter(|candidate| matches!(candidate.state, State::Absent { .. })).count();
        let agreeing = window.iter().filter(|candidate| hash.is_some_and(|hash| candidate.state == State::Holds(hash))).count();
        let is_settled = matches!(self.goal, Goal::Record { settled: true, .. }) && (holders + denials) * 2 > window.len();
        Agreement { agreeing, replicas: window.len(), is_settled }
    }

    fn over_at(&self) -> Instant {
        self.started + LOOKUP_MAX + self.granted
    }

    /// When [`Lookup::step`] should be called next though nothing was heard.
    pub(super) fn wake_at(&self) -> Instant {
        let over = self.over_at();
        let waits = self.candidates.values().filter_map(|candidate| match candidate.state {
            State::Asked { at, patient_until, .. } => Some([patient_until, at + GRACE]),
            _ => None,
        });
        waits.flatten().filter(|at| *at > self.stepped).min().map_or(over, |at| at.min(over))
    }
}
