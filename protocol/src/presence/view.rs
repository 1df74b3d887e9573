//! What a person sees of a contact: all that their devices say, merged; how old it is, and who told.
//!
//! Merging is a join: per device the document with the higher sequence stays, whatever the order of arrival. What is shown follows from that,
//! the time, hints and leases, by local arithmetic; no word of anybody is needed for a document to end.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::document::{Document, State};
use super::few::FewMap;
use super::gossip::Way;
use crate::directory::{DEVICES_MAX, DeviceKind, KEEPER_LEASE_SECS_MAX, Reachability};
use crate::key::DeviceKey;
use crate::time::{Now, UnixTime};

/// Hints from this many different persons are believed.
pub const HINTS_BELIEVED: usize = 2;

/// Where what is shown comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// The device itself.
    Direct,
    /// A contact passed it on.
    Contact,
    /// A carrier passed it on.
    Carrier,
    /// Neighbours say that the device fell silent, or it fell silent towards us and doesn't answer.
    Hint,
    /// Its own word is over; its keeper vouches that it can be woken.
    Lease,
    /// Nobody has told anything.
    Nobody,
}

impl From<Way> for Source {
    fn from(way: Way) -> Self {
        match way {
            Way::Direct => Self::Direct,
            Way::Contact => Self::Contact,
            Way::Carrier => Self::Carrier,
        }
    }
}

/// A contact's presence, as it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// What the contact chose to be; offline if no device can be reached in any way.
    pub state: State,
    /// The best way to reach any of the devices.
    pub reachability: Reachability,
    /// Their own words.
    pub mood: String,
    /// The device that speaks, and what machine it is.
    pub device: Option<(DeviceKey, DeviceKind)>,
    /// How long ago the device said so.
    pub age: Duration,
    /// By which way we know.
    pub source: Source,
}

impl Shown {
    /// Nothing is known.
    #[must_use]
    pub const fn unknown() -> Self {
        Self {
            state: State::Offline,
            reachability: Reachability::None,
            mood: String::new(),
            device: None,
            age: Duration::ZERO,
            source: Source::Nobody,
        }
    }

    /// True if a person would see a difference; ages always differ.
    #[must_use]
    pub fn differs(&self, other: &Self) -> bool {
        (self.state, self.reachability, &self.mood, self.source, self.device)
            != (other.state, other.reachability, &other.mood, other.source, other.device)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Spoken {
    document: Arc<Document>,
    way: Way,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct DeviceView {
    spoken: Option<Spoken>,
    /// Hints about the newest document: from how many persons.
    hints: usize,
    /// It was connected to us, fell silent after the newest document, and doesn't answer.
    is_missed: bool,
    /// Until when its keeper vouches for it.
    kept_until: Option<UnixTime>,
    /// The sequence for which the keeper's word was asked for.
    asked: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Contribution {
    state: State,
    reachability: Reachability,
    source: Source,
}

impl DeviceView {
    fn is_live(&self, now: UnixTime) -> bool {
        self.spoken.as_ref().is_some_and(|spoken| spoken.document.expires_at > now) && !self.is_silent()
    }

    /// By the word of others, or by what we have seen ourselves.
    fn is_silent(&self) -> bool {
        self.hints >= HINTS_BELIEVED || self.is_missed
    }

    fn is_kept(&self, now: UnixTime) -> bool {
        self.kept_until.is_some_and(|until| until > now)
    }

    fn contribution(&self, now: UnixTime) -> Option<Contribution> {
        let Spoken { document, way } = self.spoken.as_ref()?;
        let source = Source::from(*way);
        let off = Contribution { state: State::Offline, reachability: Reachability::None, source };
        Some(if document.state == State::Offline {
            off
        } else if self.is_live(now) {
            Contribution { state: document.state, reachability: document.reachability, source }
        } else if self.is_kept(now) {
            Contribution { state: document.state, reachability: Reachability::Push, source: Source::Lease }
        } else if self.is_silent() && document.expires_at > now {
            Contribution { source: Source::Hint, ..off }
        } else {
            off
        })
    }

    /// When time alone changes what is shown.
    fn next_change(&self, now: UnixTime) -> Option<UnixTime> {
        let ends = [self.spoken.as_ref().map(|spoken| spoken.document.expires_at), self.kept_until];
        ends.into_iter().flatten().filter(|end| *end > now).min()
    }
}

/// One contact's devices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContactView {
    devices: FewMap<DeviceKey, DeviceView>,
}

impl ContactView {
    /// Nothing is known yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Forgets devices that the contact no longer has.
    pub fn retain(&mut self, mut is_kept: impl FnMut(&DeviceKey) -> bool) {
        self.devices.retain(|device, _| is_kept(device));
    }

    /// Takes in a document whose signatures hold. True if it was news.
    pub fn hear(&mut self, document: impl Into<Arc<Document>>, way: Way) -> bool {
        let document = document.into();
        let device = document.device;
        if !self.devices.contains_key(&device) && self.devices.len() >= DEVICES_MAX {
            return false;
        }
        let view = self.devices.get_or_insert_with(device, DeviceView::default);
        let is_news = view.spoken.as_ref().is_none_or(|spoken| document.sequence > spoken.document.sequence);
        if is_news {
            view.hints = 0;
            view.is_missed = false;
            view.spoken = Some(Spoken { document, way });
        }
        is_news
    }

    /// Takes in how many persons say that the device fell silent after the document with this sequence.
    pub fn doubt(&mut self, device: &DeviceKey, sequence: u64, witnesses: usize) {
        if let Some(view) = self.devices.get_mut(device)
            && view.spoken.as_ref().is_some_and(|spoken| spoken.document.sequence <= sequence)
        {
            view.hints = view.hints.max(witnesses);
        }
    }

    /// The device was connected to us, fell silent after the document with this sequence, and doesn't answer. For our own view no second
    /// witness is needed: nobody else's word is in it.
    pub fn miss(&mut self, device: &DeviceKey, sequence: u64) {
        if let Some(view) = self.devices.get_mut(device)
            && view.spoken.as_ref().is_some_and(|spoken| spoken.document.sequence <= sequence)
        {
            view.is_missed = true;
        }
    }

    /// The device is connected to us.
    pub fn meet(&mut self, device: &DeviceKey) {
        if let Some(view) = self.devices.get_mut(device).filter(|view| view.is_missed) {
            view.is_missed = false;
            view.asked = None;
        }
    }

    /// The sequence of the newest document of a device that is shown as present.
    pub(super) fn live_sequence(&self, device: &DeviceKey, now: UnixTime) -> Option<u64> {
        let view = self.devices.get(device).filter(|view| view.is_live(now))?;
        let document = &view.spoken.as_ref()?.document;
        (document.state != State::Offline).then_some(document.sequence)
    }

    /// Takes in the word of a device's keeper, verified by the caller: it can be woken until then.
    pub fn keep(&mut self, device: &DeviceKey, until: UnixTime, now: UnixTime) {
        if let Some(view) = self.devices.get_mut(device) {
            let until = until.min(now.plus_secs(KEEPER_LEASE_SECS_MAX));
            view.kept_until = Some(view.kept_until.map_or(until, |known| known.max(until)));
        }
    }

    /// Devices whose own word is over, whose keepers haven't been asked since.
    pub(super) fn unasked(&mut self, now: UnixTime) -> Vec<DeviceKey> {
        let mut wanted = Vec::new();
        for (device, view) in &mut self.devices {
            let Some(spoken) = &view.spoken else { continue };
            let is_over = spoken.document.expires_at <= now || view.is_silent();
            let sequence = spoken.document.sequence;
            let is_kept = view.kept_until.is_some_and(|until| until > now);
            if is_over && !is_kept && spoken.document.state != State::Offline && view.asked != Some(sequence) {
                view.asked = Some(sequence);
                wanted.push(*device);
            }
        }
        wanted
    }

    /// When time alone changes what is shown.
    pub(super) fn next_change(&self, now: UnixTime) -> Option<UnixTime> {
        self.devices.values().filter_map(|view| view.next_change(now)).min()
    }

    /// What a person sees.
    #[must_use]
    pub fn shown(&self, now: Now) -> Shown {
        let heard = self.devices.iter().filter_map(|(device, view)| {
            let document = &view.spoken.as_ref()?.document;
            Some((view.contribution(now.unix)?, document.issued_at, document.sequence, device, &**document))
        });
        // The state that wins, by the device that said so last; the device decides between equals, so the order of arrival doesn't.
        let best = heard.clone().max_by_key(|(one, issued_at, sequence, device, _)| (one.state, *issued_at, *sequence, **device));
        let Some((best, issued_at, _, device, spoken)) = best else { return Shown::unknown() };
        let reachability = heard.clone().map(|(one, ..)| one.reachability).max().unwrap_or(Reachability::None);
        let is_there = |one: &Contribution| best.state == State::Offline || one.state != State::Offline;
        let newest = heard.filter(|(one, ..)| is_there(one));
        let newest = newest.max_by_key(|(_, issued_at, sequence, device, _)| (*issued_at, *sequence, **device));
        Shown {
            state: best.state,
            reachability,
            mood: newest.map(|(.., document)| document.mood.clone()).unwrap_or_default(),
            device: Some((*device, spoken.kind)),
            age: Duration::from_secs(now.unix.secs_since(issued_at)),
            source: best.source,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use proptest::prelude::*;

    use super::*;
    use crate::key::{IdentityKey, PublicKey};
    use crate::test_identity::NOW;
    use crate::wire::Extensions;

    fn device(number: u8) -> DeviceKey {
        DeviceKey(PublicKey([number; 32]))
    }

    fn at(secs: u64) -> Now {
        Now { instant: Instant::now(), unix: NOW.plus_secs(secs) }
    }

    fn document(number: u8, sequence: u64, state: State, reachability: Reachability) -> Document {
        Document {
            identity: IdentityKey(PublicKey([99; 32])),
            device: device(number),
            sequence,
            issued_at: NOW.plus_secs(sequence),
            expires_at: NOW.plus_secs(sequence + 600),
            state,
            reachability,
            kind: DeviceKind::Phone,
            devices: 1,
            mood: format!("{number} {sequence}"),
            extensions: Extensions::none(),
        }
    }

    #[test]
    fn a_device_speaks_for_itself_until_its_word_is_over() {
        let mut view = ContactView::new();
        assert_eq!(view.shown(at(0)), Shown::unknown());
        assert!(view.hear(document(1, 5, State::Away, Reachability::Direct), Way::Contact));
        assert!(!view.hear(document(1, 4, State::Dnd, Reachability::Direct), Way::Direct), "older");
        let shown = view.shown(at(65));
        assert_eq!((shown.state, shown.reachability, shown.source), (State::Away, Reachability::Direct, Source::Contact));
        assert_eq!(shown.age, Duration::from_secs(60));
        assert_eq!(view.next_change(NOW), Some(NOW.plus_secs(605)));
        let shown = view.shown(at(605));
        assert_eq!((shown.state, shown.reachability), (State::Offline, Reachability::None));
        assert_eq!(shown.mood, "1 5", "the last words stay");
    }

    #[test]
    fn a_sleeping_phone_is_reachable_by_push_while_its_keeper_says_so() {
        let mut view = ContactView::new();
        view.hear(document(1, 0, State::Dnd, Reachability::Relayed), Way::Carrier);
        assert!(view.unasked(NOW).is_empty(), "it speaks for itself");
        assert_eq!(view.unasked(NOW.plus_secs(600)), vec![device(1)]);
        assert!(view.unasked(NOW.plus_secs(601)).is_empty(), "asked once");
        view.keep(&device(1), NOW.plus_secs(900), NOW);
        let shown = view.shown(at(600));
        assert_eq!((shown.state, shown.reachability, shown.source), (State::Dnd, Reachability::Push, Source::Lease));
        assert_eq!(view.shown(at(900)).state, State::Offline);
        // A device that was switched off isn't woken.
        view.hear(document(1, 700, State::Offline, Reachability::None), Way::Carrier);
        assert_eq!(view.shown(at(701)).state, State::Offline);
        view.keep(&device(1), UnixTime(u64::MAX), NOW);
        assert_eq!(
            view.devices[&device(1)].kept_until,
            Some(NOW.plus_secs(KEEPER_LEASE_SECS_MAX)),
            "no keeper speaks for a year"
        );
    }

    #[test]
    fn two_witnesses_are_believed_and_a_new_document_refutes_them() {
        let mut view = ContactView::new();
        view.hear(document(1, 10, State::Online, Reachability::Direct), Way::Direct);
        view.doubt(&device(1), 10, 1);
        assert_eq!(view.shown(at(20)).state, State::Online, "one may be wrong");
        view.doubt(&device(1), 9, 2);
        assert_eq!(view.shown(at(20)).state, State::Online, "that was about an older one");
        view.doubt(&device(1), 10, 2);
        let shown = view.shown(at(20));
        assert_eq!((shown.state, shown.source), (State::Offline, Source::Hint));
        view.keep(&device(1), NOW.plus_secs(900), NOW);
        assert_eq!(view.shown(at(20)).source, Source::Lease);
        view.hear(document(1, 21, State::Online, Reachability::Direct), Way::Contact);
        assert_eq!(view.shown(at(22)).source, Source::Contact);
    }

    #[test]
    fn what_was_seen_by_oneself_needs_no_witness_and_ends_when_they_meet() {
        let mut view = ContactView::new();
        view.hear(document(1, 10, State::Online, Reachability::Direct), Way::Direct);
        assert_eq!(view.live_sequence(&device(1), NOW), Some(10));
        view.miss(&device(1), 9);
        assert_eq!(view.shown(at(20)).state, State::Online, "it has spoken since");
        view.miss(&device(1), 10);
        assert_eq!((view.shown(at(20)).state, view.shown(at(20)).source), (State::Offline, Source::Hint));
        assert_eq!(view.live_sequence(&device(1), NOW), None);
        assert_eq!(view.unasked(NOW), vec![device(1)]);
        view.meet(&device(1));
        assert_eq!(view.shown(at(20)).state, State::Online);
        view.miss(&device(1), 10);
        view.hear(document(1, 21, State::Away, Reachability::Direct), Way::Carrier);
        assert_eq!(view.shown(at(22)).state, State::Away, "whoever brings it: the device has signed it");
    }

    #[test]
    fn of_several_devices_the_one_that_is_there_counts_and_not_disturbing_wins() {
        let mut view = ContactView::new();
        view.hear(document(1, 1, State::Online, Reachability::Relayed), Way::Direct);
        view.hear(document(2, 2, State::Offline, Reachability::None), Way::Direct);
        assert_eq!(view.shown(at(3)).state, State::Online);
        assert_eq!(view.shown(at(3)).mood, "1 1", "of a device that is there");
        view.hear(document(3, 3, State::Dnd, Reachability::Push), Way::Direct);
        let shown = view.shown(at(4));
        assert_eq!((shown.state, shown.reachability), (State::Dnd, Reachability::Relayed), "the best way of any");
    }

    fn any_document() -> impl Strategy<Value = (Document, Way)> {
        let states = prop::sample::select(vec![State::Offline, State::Away, State::Online, State::Dnd]);
        let ways = prop::sample::select(vec![Way::Direct, Way::Contact, Way::Carrier]);
        let reach =
            prop::sample::select(vec![Reachability::None, Reachability::Push, Reachability::Relayed, Reachability::Direct]);
        (0u8..4, 0u64..6, states, reach, ways).prop_map(|(number, sequence, state, reachability, way)| {
            // One device never says two things under one number.
            let state = if sequence % 2 == 0 { State::Online } else { state };
            let _ = state;
            let fixed = [State::Online, State::Away, State::Dnd, State::Offline][(usize::from(number) + sequence as usize) % 4];
            let _ = reachability;
            (document(number, sequence, fixed, Reachability::Relayed), way)
        })
    }

    fn merged(documents: &[(Document, Way)]) -> ContactView {
        let mut view = ContactView::new();
        for (document, way) in documents {
            view.hear(document.clone(), *way);
        }
        view
    }

    proptest! {
        #[test]
        fn merging_is_a_join(
            documents in proptest::collection::vec(any_document(), 0..12).prop_shuffle(),
            secs in 0u64..1_000,
        ) {
            // By which way a document came first is a fact of the order; what it says isn't.
            let direct: Vec<_> = documents.iter().map(|(document, _)| (document.clone(), Way::Direct)).collect();
            let view = merged(&direct);
            let mut reversed = direct.clone();
            reversed.reverse();
            prop_assert_eq!(&view, &merged(&reversed), "commutative");
            let twice: Vec<_> = direct.iter().chain(&direct).cloned().collect();
            prop_assert_eq!(&view, &merged(&twice), "idempotent");
            let sorted = { let mut sorted = direct.clone(); sorted.sort_by_key(|(one, _)| (one.device, one.sequence)); sorted };
            prop_assert_eq!(view.shown(at(secs)), merged(&sorted).shown(at(secs)));
            for (document, way) in documents {
                let mut more = view.clone();
                prop_assert!(!more.hear(document, way), "nothing in it is news");
            }
        }
    }
}
