//! Small networks in every order: whatever arrives first, trees have no circles and nobody is left out.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use super::*;
use crate::directory::{DeviceKind, Reachability};
use crate::key::{PublicKey, SecretKey};
use crate::presence::document::{Document, State};
use crate::presence::topic::PresenceSecret;
use crate::test_identity::NOW;
use crate::wire::Extensions;

/// The owner is 0; 1 and 2 are its neighbours, 3 is theirs; 1 and 2 are neighbours too.
const EDGES: [(usize, usize); 5] = [(0, 1), (0, 2), (1, 2), (1, 3), (2, 3)];

const NODES: usize = 4;

/// Steps in which every order is tried; after them the oldest frame goes first.
const DEPTH: usize = 8;

fn device(number: usize) -> DeviceKey {
    DeviceKey(PublicKey([u8::try_from(number).expect("few") + 1; 32]))
}

fn document(secret: &PresenceSecret, step: u64) -> SealedDocument {
    let document = Document {
        identity: IdentityKey(PublicKey([9; 32])),
        device: device(0),
        sequence: NOW.0 + step,
        issued_at: NOW,
        expires_at: NOW.plus_secs(3_600),
        state: State::Online,
        reachability: Reachability::Direct,
        kind: DeviceKind::Phone,
        devices: 1,
        mood: String::new(),
        extensions: Extensions::none(),
    };
    SealedDocument::seal(document, &SecretKey::from_bytes([1; 32]), secret, [0; 24]).expect("fits")
}

struct Small {
    nodes: Vec<Gossip>,
    ways: BTreeMap<(usize, usize), VecDeque<PresenceGossip>>,
    frozen: Option<usize>,
    start: Instant,
    elapsed: Duration,
    topic: Topic,
    heard: Vec<u64>,
}

impl Small {
    fn new(secret: &PresenceSecret) -> Self {
        let start = Instant::now();
        let signer = secret.signer(&device(0), secret.key().day(NOW));
        let topic = signer.topic();
        let nodes = (0..NODES).map(|number| Gossip::new(Config::default(), device(number), [7; 32], start)).collect();
        let mut small =
            Self { nodes, ways: BTreeMap::new(), frozen: None, start, elapsed: Duration::ZERO, topic, heard: vec![0; NODES] };
        let now = small.now();
        small.nodes[0].add_own(now, signer);
        for number in 1..NODES {
            let watch = Watch { device: device(0), may_pass_on: true, carriers: [].into(), follows: None };
            small.nodes[number].watch(now, topic, watch);
        }
        for (one, other) in EDGES {
            for (at, with) in [(one, other), (other, one)] {
                let identity = IdentityKey(device(with).0);
                let peer = Neighbour { device: device(with), identity, is_contact: true, is_carrier: false, is_own: false };
                small.nodes[at].handle_connected(now, peer);
                small.collect(at);
            }
        }
        small
    }

    fn now(&self) -> Now {
        Now { instant: self.start + self.elapsed, unix: NOW.plus_secs(self.elapsed.as_secs()) }
    }

    fn collect(&mut self, at: usize) {
        while let Some(output) = self.nodes[at].poll_output() {
            match output {
                Output::Send { to, frame, .. } => {
                    let to = (0..NODES).find(|number| device(*number) == to).expect("one of them");
                    self.ways.entry((at, to)).or_default().push_back(frame);
                }
                Output::Newest { document, .. } => self.heard[at] = document.sequence(),
                _ => {}
            }
        }
    }

    fn deliver(&mut self, way: (usize, usize)) {
        let frame = self.ways.get_mut(&way).and_then(VecDeque::pop_front);
        self.ways.retain(|_, frames| !frames.is_empty());
        if let Some(frame) = frame
            && ![way.0, way.1].map(Some).contains(&self.frozen)
        {
            let now = self.now();
            self.nodes[way.1].handle_frame(now, &device(way.0), frame);
            self.collect(way.1);
        }
    }

    /// Lets the next timer fire, if it does before `end`.
    fn tick(&mut self, end: Duration) -> bool {
        let awake = (0..NODES).filter(|number| Some(*number) != self.frozen);
        let next = awake.filter_map(|number| Some((self.nodes[number].poll_timeout()?, number))).min();
        let Some((at, number)) = next.filter(|(at, _)| *at <= self.start + end) else { return false };
        self.elapsed = self.elapsed.max(at.saturating_duration_since(self.start));
        let now = self.now();
        self.nodes[number].handle_timeout(now);
        self.collect(number);
        true
    }

    fn run(&mut self, time: Duration) {
        let end = self.elapsed + time;
        loop {
            match self.ways.keys().next().copied() {
                Some(way) => self.deliver(way),
                None if self.tick(end) => {}
                None => break,
            }
        }
        self.elapsed = end;
    }

    fn publish(&mut self, document: &SealedDocument) {
        let now = self.now();
        self.nodes[0].publish(now, &self.topic.clone(), document.clone());
        self.collect(0);
    }

    /// Follows parents from a node up; the owner, if there is no circle.
    fn root(&self, from: usize) -> usize {
        let mut at = from;
        for _ in 0..NODES {
            let gossip = &self.nodes[at];
            let state = gossip.topic_ids.get(&self.topic).and_then(|id| gossip.topics[id.0 as usize].as_ref());
            let Some(parent) = state.and_then(|state| state.parent) else { return at };
            let link = gossip.links[parent.0 as usize].as_ref().expect("a parent is a neighbour");
            at = (0..NODES).find(|number| device(*number) == link.peer.device).expect("one of them");
        }
        panic!("a circle above {from}");
    }
}

/// Plays the script: at each step the choice among what could happen then. Returns how many choices there were at each.
fn play(secret: &PresenceSecret, documents: &[SealedDocument], script: &[usize], freeze_at: Option<usize>) -> Vec<usize> {
    let mut small = Small::new(secret);
    small.run(Duration::from_secs(15));
    small.publish(&documents[0]);
    small.run(Duration::from_secs(2));
    small.publish(&documents[1]);
    let mut widths = Vec::new();
    for step in 0..DEPTH {
        if freeze_at == Some(step) {
            small.frozen = Some(1);
        }
        let ways: Vec<_> = small.ways.keys().copied().collect();
        widths.push(ways.len() + 1);
        match ways.get(script.get(step).copied().unwrap_or(0)) {
            Some(way) => small.deliver(*way),
            None => drop(small.tick(small.elapsed + Duration::from_secs(1))),
        }
    }
    small.run(Duration::from_secs(2));
    let newest = documents[1].sequence();
    for number in (1..NODES).filter(|number| Some(*number) != small.frozen) {
        assert_eq!(small.heard[number], newest, "node {number}, script {script:?}, frozen at {freeze_at:?}");
        let root = small.root(number);
        assert!(root == 0, "{number} hangs under {root}, script {script:?}, frozen at {freeze_at:?}");
    }
    widths
}

#[test]
fn whatever_comes_first_everybody_hears_and_hangs_under_the_owner() {
    let secret = PresenceSecret::new(1, [5; 32]);
    let documents = [document(&secret, 1), document(&secret, 2)];
    let mut runs = 0;
    for freeze_at in [None, Some(0), Some(1), Some(2), Some(3)] {
        let mut script = vec![0; DEPTH];
        loop {
            let widths = play(&secret, &documents, &script, freeze_at);
            runs += 1;
            // The next script, as an odometer counts.
            let Some(step) = (0..DEPTH).rev().find(|step| script[*step] + 1 < widths[*step]) else { break };
            script[step] += 1;
            script[step + 1..].fill(0);
        }
    }
    assert!(runs > 1_000, "{runs} orders were tried");
}

/// Two who know each other by nothing but a connection, the first of them perhaps with a topic for the second, which is its carrier.
struct Strangers {
    nodes: [Gossip; 2],
    start: Instant,
    elapsed: Duration,
    frames: [usize; 2],
    silent: [bool; 2],
    is_cut: bool,
}

impl Strangers {
    fn new() -> Self {
        let start = Instant::now();
        let node = |number| Gossip::new(Config::default(), device(number), [7; 32], start);
        let nodes = [node(0), node(1)];
        let mut strangers = Self { nodes, start, elapsed: Duration::ZERO, frames: [0; 2], silent: [false; 2], is_cut: false };
        let now = strangers.now();
        for at in [0, 1] {
            let with = 1 - at;
            let identity = IdentityKey(device(with).0);
            let peer = Neighbour { device: device(with), identity, is_contact: false, is_carrier: true, is_own: false };
            strangers.nodes[at].handle_connected(now, peer);
        }
        strangers
    }

    fn now(&self) -> Now {
        Now { instant: self.start + self.elapsed, unix: NOW.plus_secs(self.elapsed.as_secs()) }
    }

    /// Whatever is said arrives at once.
    fn run(&mut self, time: Duration) {
        let end = self.elapsed + time;
        loop {
            let now = self.now();
            let said = (0..2).find_map(|at| Some((at, self.nodes[at].poll_output()?)));
            match said {
                Some((at, Output::Send { frame, .. })) => {
                    self.frames[at] += 1;
                    if !self.is_cut {
                        self.nodes[1 - at].handle_frame(now, &device(at), frame);
                    }
                }
                Some((at, Output::Silent(_))) => self.silent[at] = true,
                Some(_) => {}
                None => {
                    let next = (0..2).filter_map(|at| Some((self.nodes[at].poll_timeout()?, at))).min();
                    let Some((due, at)) = next.filter(|(due, _)| *due <= self.start + end) else { break };
                    self.elapsed = self.elapsed.max(due.saturating_duration_since(self.start));
                    let now = self.now();
                    self.nodes[at].handle_timeout(now);
                }
            }
        }
        self.elapsed = end;
    }
}

#[test]
fn strangers_hear_nothing_and_miss_nothing() {
    let mut strangers = Strangers::new();
    strangers.run(Duration::from_secs(600));
    assert_eq!(strangers.frames, [0, 0]);
    strangers.is_cut = true;
    strangers.run(Duration::from_secs(600));
    assert_eq!((strangers.frames, strangers.silent), ([0, 0], [false, false]));
}

#[test]
fn whoever_has_to_do_with_a_stranger_has_its_signs_of_life_and_misses_them() {
    let mut strangers = Strangers::new();
    strangers.run(Duration::from_secs(60));
    // The first takes the second for its carrier and brings nothing, so the second knows of nothing.
    let now = strangers.now();
    strangers.nodes[0].set_homes(now, vec![device(1)]);
    strangers.run(Duration::from_secs(600));
    assert_eq!(strangers.silent, [false, false]);
    assert!((49..=51).contains(&strangers.frames[0]), "{:?}: a heartbeat each 12 s", strangers.frames);
    assert_eq!(strangers.frames[0], strangers.frames[1], "and its echo");
    let asked = strangers.frames;
    let now = strangers.now();
    strangers.nodes[0].set_homes(now, vec![]);
    strangers.run(Duration::from_secs(600));
    assert_eq!(strangers.frames, asked, "then both rest again");
    let now = strangers.now();
    strangers.nodes[0].set_homes(now, vec![device(1)]);
    strangers.is_cut = true;
    strangers.run(Duration::from_secs(33));
    assert_eq!(strangers.silent, [true, false]);
}

#[test]
fn a_stranger_that_is_asked_shows_whether_we_are_cut_off() {
    let mut strangers = Strangers::new();
    strangers.run(Duration::from_secs(60));
    let (now, lost_at) = (strangers.now(), strangers.now().instant - Duration::from_secs(20));
    assert!(!strangers.nodes[0].is_heard_after(lost_at));
    strangers.nodes[0].ask_around(now);
    strangers.run(Duration::from_secs(1));
    assert!(strangers.nodes[0].is_heard_after(lost_at));
    assert_eq!(strangers.frames, [1, 1], "and the echo has no echo");
    strangers.run(Duration::from_secs(60));
    strangers.is_cut = true;
    let now = strangers.now();
    strangers.nodes[0].ask_around(now);
    strangers.run(Duration::from_secs(19));
    assert_eq!(strangers.silent, [false, false]);
    strangers.run(Duration::from_secs(2));
    assert_eq!(strangers.silent, [true, false], "one that doesn't answer is gone");
}
