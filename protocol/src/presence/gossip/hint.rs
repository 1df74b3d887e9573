//! Silent loss: who may tell of it, and who is believed.
//!
//! An owner appoints its neighbours as witnesses: each gets a key that the topic has signed, with a number per person. When a neighbour's
//! connection falls silent, its witnesses say so under these keys. Two numbers are two persons' words, and nobody learns which persons. A newer
//! document refutes every hint; an owner that hears one about itself publishes.
//!
//! Whoever had the owner as a neighbour has more than a word for it: it may look for itself, and believe what it finds ([`Output::OwnerLost`]). To
//! others it is one witness as any.

use std::time::Instant;

use rand::RngExt;

use super::tree::state_watch_device;
use super::{Gossip, LOST_TOGETHER, LinkId, Now, Output, TopicId};
use crate::key::SecretKey;
use crate::presence::message::{Appointment, PassedHint, PresenceHint, PresenceWitness, TopicPlace, TopicSlot};
use crate::wire::{Body, Extensions, Signed};

/// Hints of one topic that are kept and passed on: as many as are needed for being believed.
pub(in crate::presence) const WITNESSES_NEEDED: usize = 2;

/// Most persons that are given numbers.
const NUMBERS_MAX: usize = 1_024;

/// What lets us tell that a neighbour fell silent.
#[derive(Clone, Debug)]
pub(super) struct Testimony {
    link: LinkId,
    key: SecretKey,
    witness: Signed<PresenceWitness>,
}

impl Testimony {
    /// True if it came over this link.
    pub(super) fn is_of(&self, link: LinkId) -> bool {
        self.link == link
    }
}

/// A hint that is believed to come from a witness.
#[derive(Clone, Debug)]
pub(super) struct HeldHint {
    pub(super) sequence: u64,
    number: u16,
    witness: Signed<PresenceWitness>,
    hint: Signed<PresenceHint>,
}

impl Gossip {
    /// Makes a neighbour a witness of an own topic.
    pub(super) fn appoint(&mut self, id: TopicId, link: LinkId) {
        self.link(link).appointments.insert(id);
    }

    pub(super) fn appointment(&mut self, id: TopicId, link: LinkId) -> Option<Appointment> {
        let person = self.link(link).peer.identity;
        let next = u16::try_from(self.witness_numbers.len()).ok()?;
        if self.witness_numbers.len() >= NUMBERS_MAX && !self.witness_numbers.contains_key(&person) {
            return None;
        }
        let number = *self.witness_numbers.entry(person).or_insert(next);
        let seed: [u8; 32] = self.rng.random();
        let state = self.topics.get_mut(id.0 as usize)?.as_mut()?;
        let signer = state.own.as_ref()?;
        let out = state.outs.iter().find(|out| out.link == link)?;
        let place = out.slot.map_or(TopicPlace::Topic(state.topic), |slot| TopicPlace::Slot(TopicSlot(slot)));
        let body = PresenceWitness { witness: SecretKey::from_bytes(seed).public(), number, extensions: Extensions::none() };
        Some(Appointment { place, seed, witness: Signed::sign_with(body, |bytes| signer.sign(bytes)) })
    }

    pub(super) fn handle_appointment(&mut self, link: LinkId, given: Appointment) {
        let Some(id) = self.accept_place(link, given.place) else { return };
        let key = SecretKey::from_bytes(given.seed);
        let topic = self.state(id).topic;
        match self.verified(&given.witness, &topic.0) {
            Ok(body) if body.witness == key.public() => {
                self.state(id).testimony = Some(Testimony { link, key, witness: given.witness });
            }
            _ => self.forged(link),
        }
    }

    /// A neighbour fell silent: tells those who want to know.
    pub(super) fn testify(&mut self, link: LinkId, now: Now) {
        let state = self.link(link);
        let topics: Vec<_> = state.slots.values().chain(&state.brought).copied().collect();
        for id in topics {
            let Some(state) = self.topics.get_mut(id.0 as usize).and_then(Option::as_mut) else { continue };
            let sequence = state.sequence();
            let Some(testimony) = state.testimony.take_if(|testimony| testimony.link == link) else { continue };
            if sequence == 0 {
                continue;
            }
            let body = PresenceHint { sequence, at: now.unix, extensions: Extensions::none() };
            let hint = Signed::sign(body, &testimony.key);
            let number = testimony.witness.unverified().number;
            self.keep_hint(id, HeldHint { sequence, number, witness: testimony.witness, hint }, Some(link), now);
        }
    }

    /// What we have seen ourselves: a device that we watch was a neighbour, and is none any more. It is for our own view alone.
    pub(super) fn tell_of_loss(&mut self, link: LinkId, now: Instant) {
        let lost_at = self.lost_at.replace(now);
        let is_only_one = self.link_ids.len() == 1 && lost_at.is_none_or(|at| now > at + LOST_TOGETHER);
        let lost = self.link(link);
        let (device, heard_at) = (lost.peer.device, lost.heard_at);
        let topics: Vec<_> = lost.slots.values().copied().collect();
        for id in topics {
            let state = self.state(id);
            let (topic, sequence) = (state.topic, state.sequence());
            if state_watch_device(state) == Some(device) && sequence > 0 {
                self.outputs.push_back(Output::OwnerLost { topic, sequence, heard_at, is_only_one });
            }
        }
    }

    pub(super) fn handle_hint(&mut self, now: Now, link: LinkId, passed: PassedHint) {
        let Some(id) = self.accept_place(link, passed.place) else { return };
        let state = self.state(id);
        let topic = state.topic;
        let (number, sequence) = (passed.witness.unverified().number, passed.hint.unverified().sequence);
        // Of documents that aren't here there are no hints either: one about a document that will never be would stay for ever.
        let is_news = sequence > 0 && sequence == state.sequence() && !state.hints.iter().any(|held| held.number == number);
        if !is_news || state.hints.len() >= WITNESSES_NEEDED {
            return;
        }
        let witness = self.verified(&passed.witness, &topic.0).map(|body| body.witness);
        if !witness.is_ok_and(|witness| self.verified(&passed.hint, &witness).is_ok()) {
            return self.forged(link);
        }
        if self.own.contains(&id) {
            self.outputs.push_back(Output::OwnDoubted);
            return;
        }
        self.keep_hint(id, HeldHint { sequence, number, witness: passed.witness, hint: passed.hint }, Some(link), now);
    }

    fn keep_hint(&mut self, id: TopicId, hint: HeldHint, from: Option<LinkId>, now: Now) {
        let state = self.state(id);
        if state.hints.iter().any(|held| held.number == hint.number) || state.hints.len() >= WITNESSES_NEEDED {
            return;
        }
        let (number, sequence, topic) = (hint.number, hint.sequence, state.topic);
        state.hints.push(hint);
        let witnesses =
            state.hints.iter().filter(|held| held.sequence >= state.held.as_ref().map_or(0, |held| held.sequence)).count();
        let is_watched = state.watch.is_some();
        let around: Vec<_> = state
            .outs
            .iter()
            .map(|out| out.link)
            .chain(state.ins.iter().filter(|entry| entry.is_known).map(|entry| entry.link))
            .filter(|link| Some(*link) != from)
            .collect();
        for link in around {
            self.link(link).hints.insert((id, number));
            self.flush_by(link, now.instant + super::COMPANY);
        }
        if is_watched {
            self.outputs.push_back(Output::Hinted { topic, sequence, witnesses });
        }
    }

    /// Tells a new neighbour what is known.
    pub(super) fn tell_hints(&mut self, id: TopicId, link: LinkId) {
        let numbers: Vec<_> = self.state(id).hints.iter().map(|hint| (id, hint.number)).collect();
        self.link(link).hints.extend(numbers);
    }

    pub(super) fn passed_hint(&mut self, id: TopicId, number: u16, link: LinkId) -> Option<PassedHint> {
        let state = self.topics.get(id.0 as usize)?.as_ref()?;
        let hint = state.hints.iter().find(|hint| hint.number == number)?;
        let slot = state.outs.iter().find(|out| out.link == link).and_then(|out| out.slot);
        let place = slot.map_or(TopicPlace::Topic(state.topic), |slot| TopicPlace::Slot(TopicSlot(slot)));
        Some(PassedHint { place, witness: hint.witness.clone(), hint: hint.hint.clone() })
    }
}

const _: () = assert!(PresenceHint::LIMIT <= 128 && PresenceWitness::LIMIT <= 128, "hints go through whole trees");
