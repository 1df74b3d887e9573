//! Sampling: learning of nodes from those to whom connections are open, without a handshake.
//!
//! Who keeps connections to the same nodes asks the same nodes again and again. A node names those that it has met, a hundred or two, and of these few are new since it was last asked: so it is
//! asked for its news alone ([`EXTENSION_NEWS`]). A few questions go out without, for what a node has come to know again since.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::RngExt;
use rand::seq::SliceRandom;

use super::known;
use super::messages::{CLOSER_MAX, EXTENSION_NEWS, FindNode, Nodes, Request};
use super::{Directory, Errand};
use crate::key::DeviceKey;
use crate::node::Descriptor;
use crate::time::Now;
use crate::wire::Extensions;

/// Most nodes asked for their news at a time: all to whom a node of the usual connections is connected.
const ASKED_MAX: usize = 32;

/// Questions about the places around a random one, beside those for news.
const RANDOM: usize = 4;

/// Of those who haven't been asked yet so many are asked at once; the others while the answers bring news. Where everybody is soon known most would be asked for nothing.
const FIRST_ASKED: usize = 16;

/// Most questions to a node just met, and of a client, which meets few.
const MET_QUESTIONS: u32 = 3;
const CLIENT_MET_QUESTIONS: u32 = 4;

/// Most questions to one node for the same news.
const NEWS_ASKED_MAX: u8 = 4;

/// Names looked back at to tell how many of those to come are new.
const HEARD_MAX: u32 = 256;

/// Of so many strangers met one is asked though few had anything new to tell.
const MET_ASKED: u32 = 8;

/// Most nodes just met that are asked in the time between two refreshes, each once: whoever comes and goes, or is many, can't have us ask for ever.
const MET_MAX: usize = 32;

/// A question for whoever the other knows.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    asked_at: Instant,
    /// What the other needn't spell out.
    known: Vec<Arc<Descriptor>>,
    /// How old its news may be, and how often it may be asked for more of it; none if it was asked for all.
    news: Option<(Duration, u8)>,
}

/// How much was new of what others named lately when they weren't asked for news, and who was asked when met.
#[derive(Clone, Debug, Default)]
pub(super) struct Heard {
    named: u32,
    new: u32,
    /// Since the last refresh.
    met: Vec<DeviceKey>,
    /// Who is to be asked for the first time, while that brings news.
    waiting: Vec<DeviceKey>,
}

impl Heard {
    fn note(&mut self, named: usize, new: usize) {
        self.named += u32::try_from(named).unwrap_or(u32::MAX);
        self.new += u32::try_from(new).unwrap_or(u32::MAX);
        if self.named > HEARD_MAX {
            (self.named, self.new) = (self.named / 2, self.new / 2);
        }
    }

    /// Whether strangers have much to tell.
    const fn is_worth_asking(&self) -> bool {
        self.new * 4 >= self.named
    }

    /// Notes that a node just met is to be asked; false if it was since the last refresh, or many were.
    fn meet(&mut self, device: DeviceKey) -> bool {
        let is_asked = self.met.len() < MET_MAX && !self.met.contains(&device);
        if is_asked {
            self.met.push(device);
        }
        is_asked
    }

    /// How many questions to a stranger, of `most`, are worth their answers: the fewer the less of these is new.
    fn questions(&self, most: u32) -> u32 {
        ((self.new + 1) * (most + 2) / (self.named + 1)).clamp(1, most)
    }
}

/// How old news may be of which a question asks, if it does.
pub(super) fn within(asked: &Extensions) -> Option<Duration> {
    let bytes = asked.find(EXTENSION_NEWS)?.first_chunk()?;
    Some(Duration::from_secs(u16::from_le_bytes(*bytes).into()))
}

fn with_news(extensions: Extensions, within: Duration) -> Extensions {
    let secs = u16::try_from(within.as_secs() + 1).unwrap_or(u16::MAX);
    extensions.with(EXTENSION_NEWS, secs.to_le_bytes().into())
}

impl Directory {
    /// Asks nodes to whom connections are open for whom they know: so a table fills and stays fresh without a handshake, from whom one will be referred to anyway. How many there are.
    pub(super) fn sample(&mut self, now: Now) -> usize {
        let mut connected = self.table.connected_servers();
        connected.shuffle(&mut self.rng);
        self.heard.met.clear();
        self.heard.waiting.clear();
        for to in connected.iter().take(ASKED_MAX) {
            match self.table.sampled_before(now.instant, &to.device) {
                Some(within) => self.ask_for_nodes(now, to, Some((within, NEWS_ASKED_MAX))),
                None => self.heard.waiting.push(to.device),
            }
        }
        // All who are asked for the first time are asked about random places as it is.
        let is_first = self.heard.waiting.len() == connected.len();
        let random = if is_first && connected.len() >= FIRST_ASKED || connected.is_empty() { 0 } else { RANDOM };
        for to in connected.iter().cycle().take(random) {
            self.ask_for_nodes(now, to, None);
        }
        (0..FIRST_ASKED).for_each(|_| self.ask_one_who_waits(now));
        connected.len()
    }

    /// Asks the next of those who haven't been asked yet, as far as it is still connected.
    fn ask_one_who_waits(&mut self, now: Now) {
        while let Some(waiting) = self.heard.waiting.pop() {
            let to = self.table.live_descriptor(&waiting).filter(|_| self.table.is_connected(&waiting));
            if let Some(to) = to {
                return self.ask_for_nodes(now, &to, None);
            }
        }
    }

    /// Asks a node that has just been met, for some other reason: a stranger knows others than those around us do.
    pub(super) fn sample_met(&mut self, now: Now, met: &DeviceKey) {
        if self.bootstrap.is_some() || !(self.heard.is_worth_asking() || self.rng.random_ratio(1, MET_ASKED)) {
            return;
        }
        if let Some(to) = self.table.live_descriptor(met)
            && self.table.is_connected(met)
            && self.table.sampled_before(now.instant, met).is_none()
            && self.heard.meet(*met)
        {
            let most = if self.local.is_serving { MET_QUESTIONS } else { CLIENT_MET_QUESTIONS };
            let questions = self.heard.questions(most);
            (0..questions).for_each(|_| self.ask_for_nodes(now, &to, None));
        }
    }

    fn ask_for_nodes(&mut self, now: Now, to: &Arc<Descriptor>, news: Option<(Duration, u8)>) {
        let target = self.random_point();
        let known = match news {
            // What is news to a neighbour is mostly news to us both.
            Some((within, _)) => self.table.closest_news(now.instant, within, &target, CLOSER_MAX),
            None => self.table.closest_known(&target, CLOSER_MAX),
        };
        let salt = self.rng.random();
        let extensions = known::with_marks(Extensions::none(), &known, salt);
        let extensions = news.map_or(extensions.clone(), |(within, _)| with_news(extensions, within));
        let want = u8::try_from(CLOSER_MAX).unwrap_or(u8::MAX);
        let request = Request::FindNode(FindNode { target: target.0, want, extensions });
        self.send(now, Arc::clone(to), request, Errand::Sample(Box::new(Sample { asked_at: now.instant, known, news })));
    }

    pub(super) fn sample_answered(&mut self, now: Now, from: &DeviceKey, sample: &Sample, answer: Nodes) {
        let Some(named) = known::all_named(&sample.known, answer.closer, &answer.extensions) else {
            self.counters.invalid_answers += 1;
            return;
        };
        let all = named.len();
        let lost_before = self.table.fresh_hints_lost();
        let new = named.into_iter().filter(|node| self.table.hear(now.instant, Arc::clone(node), Some(from))).count();
        let Some((within, left)) = sample.news else {
            // Whom a full table takes in puts somebody else out: if that was named lately too, nothing is gained.
            let lost = usize::try_from(self.table.fresh_hints_lost() - lost_before).unwrap_or(usize::MAX);
            self.heard.note(all, new.saturating_sub(lost));
            self.table.sampled(sample.asked_at, from);
            if self.heard.is_worth_asking() {
                self.ask_one_who_waits(now);
            }
            return;
        };
        // It may have more, unless it is one of those who can't tell news from the rest.
        let goes_on = left > 1 && all >= CLOSER_MAX && 8 * new >= all && self.table.is_connected(from);
        match self.table.live_descriptor(from).filter(|_| goes_on) {
            Some(to) => {
                let within = within + now.instant.saturating_duration_since(sample.asked_at);
                self.ask_for_nodes(now, &to, Some((within, left - 1)));
            }
            None => self.table.sampled(sample.asked_at, from),
        }
    }
}
