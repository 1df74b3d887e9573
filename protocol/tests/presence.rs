//! Presence between a few devices over a network that delivers at once: what contacts see, what others don't, and what liars achieve.

mod support;

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use halloo_protocol::directory::{DeviceKind, Reachability};
use halloo_protocol::identity::{DeviceCertificate, DeviceCertificateParams};
use halloo_protocol::kademlia::DisconnectReason;
use halloo_protocol::key::{DeviceKey, IdentityKey, PublicKey, SecretKey, hash};
use halloo_protocol::presence::*;
use halloo_protocol::time::{Now, UnixTime};
use halloo_protocol::wire::{self, Extensions, Frame, Message, Signed};
use proptest::prelude::*;
use support::NOW;

/// One person with one device.
struct Person {
    identity: SecretKey,
    device: SecretKey,
    secret: PresenceSecret,
}

impl Person {
    fn new(number: usize) -> Self {
        let bytes = |what: &str| hash("test person", &[&number.to_be_bytes(), what.as_bytes()]);
        Self {
            identity: SecretKey::from_bytes(bytes("identity")),
            device: SecretKey::from_bytes(bytes("device")),
            secret: PresenceSecret::new(1, bytes("presence")),
        }
    }

    fn identity(&self) -> IdentityKey {
        IdentityKey(self.identity.public())
    }

    fn key(&self) -> DeviceKey {
        DeviceKey(self.device.public())
    }

    fn contact(&self, carriers: Vec<DeviceKey>, may_pass_on: bool) -> Contact {
        let params = DeviceCertificateParams { device: self.key(), slot: 0, serial: 1, now: NOW };
        let certificate = Signed::sign(DeviceCertificate::new(params), &self.identity);
        Contact {
            identity: self.identity(),
            key: self.secret.key(),
            devices: vec![ContactDevice { certificate, carriers }],
            may_pass_on,
        }
    }

    fn topic(&self, now: UnixTime) -> Topic {
        let key = self.secret.key();
        key.topic(&self.key(), key.day(now)).expect("a key")
    }

    fn document(&self, sequence: u64, now: UnixTime) -> SealedDocument {
        let document = Document {
            identity: self.identity(),
            device: self.key(),
            sequence,
            issued_at: now,
            expires_at: now.plus_secs(600),
            state: State::Online,
            reachability: Reachability::Direct,
            kind: DeviceKind::Phone,
            devices: 1,
            mood: String::new(),
            extensions: Extensions::none(),
        };
        SealedDocument::seal(document, &self.device, &self.secret, [1; 24]).expect("fits")
    }
}

/// People, their machines, and frames on their way.
struct Net {
    people: Vec<Person>,
    machines: Vec<Presence>,
    by_device: BTreeMap<DeviceKey, usize>,
    start: Instant,
    elapsed: Duration,
    on_way: VecDeque<(usize, usize, PresenceGossip)>,
    links: Vec<(usize, usize)>,
    /// Nodes whose frames, and those to them, are lost.
    frozen: Vec<usize>,
    /// Nodes whose frames are lost and kept here: played by the test.
    puppets: Vec<usize>,
    to_puppets: Vec<(usize, usize, PresenceGossip)>,
    /// Nodes that say neither what they have nor that they have it.
    withholding: Vec<usize>,
    actions: Vec<(usize, Action)>,
    carriers: Vec<usize>,
    wanted: Vec<(usize, usize)>,
    /// Who looks for whom.
    probes: Vec<(usize, usize)>,
}

impl Net {
    fn new(count: usize, carriers: &[usize]) -> Self {
        let people: Vec<_> = (0..count).map(Person::new).collect();
        let start = Instant::now();
        let now = Now { instant: start, unix: NOW };
        let machines = people.iter().enumerate().map(|(number, person)| {
            let gossip = if carriers.contains(&number) { GossipConfig::carrier() } else { GossipConfig::default() };
            let local = LocalDevice { identity: person.identity(), key: person.device.clone(), kind: DeviceKind::Phone };
            let config = Config { gossip, ..Config::default() };
            Presence::new(config, local, person.secret.clone(), 0, [u8::try_from(number).expect("few"); 32], now)
        });
        Self {
            machines: machines.collect(),
            by_device: people.iter().enumerate().map(|(number, person)| (person.key(), number)).collect(),
            people,
            start,
            elapsed: Duration::ZERO,
            on_way: VecDeque::new(),
            links: Vec::new(),
            frozen: Vec::new(),
            puppets: Vec::new(),
            to_puppets: Vec::new(),
            withholding: Vec::new(),
            actions: Vec::new(),
            carriers: carriers.to_vec(),
            wanted: Vec::new(),
            probes: Vec::new(),
        }
    }

    fn now(&self) -> Now {
        Now { instant: self.start + self.elapsed, unix: NOW.plus_secs(self.elapsed.as_secs()) }
    }

    fn befriend(&mut self, one: usize, other: usize) {
        self.befriend_with(one, other, &[], true);
        self.befriend_with(other, one, &[], true);
    }

    /// `viewer` gets what contacts get of `owner`.
    fn befriend_with(&mut self, viewer: usize, owner: usize, carriers: &[usize], may_pass_on: bool) {
        let carriers = carriers.iter().map(|carrier| self.people[*carrier].key()).collect();
        let contact = self.people[owner].contact(carriers, may_pass_on);
        let now = self.now();
        assert_eq!(self.machines[viewer].set_contact(now, contact), 1);
        self.act(viewer);
    }

    fn connect(&mut self, one: usize, other: usize) {
        self.links.push((one, other));
        for (at, with) in [(one, other), (other, one)] {
            let person = &self.people[with];
            let peer = Peer { device: person.key(), identity: person.identity(), is_carrier: self.carriers.contains(&with) };
            let now = self.now();
            self.machines[at].handle_connected(now, peer);
            self.act(at);
        }
    }

    fn disconnect(&mut self, one: usize, other: usize, reason: DisconnectReason) {
        self.links.retain(|link| *link != (one, other) && *link != (other, one));
        for (at, with) in [(one, other), (other, one)] {
            let (now, device) = (self.now(), self.people[with].key());
            self.machines[at].handle_disconnected(now, &device, reason);
            self.act(at);
        }
    }

    fn are_linked(&self, one: usize, other: usize) -> bool {
        self.links.contains(&(one, other)) || self.links.contains(&(other, one))
    }

    fn say(&mut self, who: usize, state: State, mood: &str) {
        let now = self.now();
        let status = Status { state, mood: mood.into(), reachability: Reachability::Direct, devices: 1 };
        self.machines[who].set_status(now, status);
        self.act(who);
    }

    fn act(&mut self, who: usize) {
        while let Some(action) = self.machines[who].poll_action() {
            match action {
                Action::Send { to, frame, .. } => {
                    let Some(to) = self.by_device.get(&to).copied() else { continue };
                    // As on the wire: nothing is remembered of what was verified before.
                    let mut frame: PresenceGossip = Frame::new(0, &frame).parse().expect("what is sent is well formed");
                    if self.withholding.contains(&who) {
                        frame.parts.retain(|part| !matches!(part, Part::Documents(_) | Part::Digests(_)));
                    }
                    if self.are_linked(who, to) && !self.puppets.contains(&who) {
                        self.on_way.push_back((who, to, frame));
                    }
                }
                Action::Connect(device) => {
                    self.wanted.extend(self.by_device.get(&device).map(|other| (who, *other)));
                }
                Action::Probe { device, .. } => {
                    self.probes.extend(self.by_device.get(&device).map(|other| (who, *other)));
                }
                other => self.actions.push((who, other)),
            }
        }
    }

    /// A frame made by the test.
    fn inject(&mut self, from: usize, to: usize, parts: Vec<Part>) {
        let (now, device) = (self.now(), self.people[from].key());
        self.machines[to].handle_frame(now, &device, PresenceGossip { parts, extensions: Extensions::none() });
        self.act(to);
    }

    fn deliver(&mut self) {
        while let Some((from, to, frame)) = self.on_way.pop_front() {
            if self.frozen.contains(&from) || self.frozen.contains(&to) {
                continue;
            }
            if self.puppets.contains(&to) {
                self.to_puppets.push((from, to, frame));
                continue;
            }
            let (now, device) = (self.now(), self.people[from].key());
            self.machines[to].handle_frame(now, &device, frame);
            self.act(to);
        }
    }

    fn run(&mut self, time: Duration) {
        let end = self.elapsed + time;
        loop {
            self.deliver();
            for (one, other) in std::mem::take(&mut self.wanted) {
                if !self.are_linked(one, other) && !self.frozen.contains(&other) {
                    self.connect(one, other);
                }
            }
            self.probe();
            let wakes = self.machines.iter().enumerate().filter(|(number, _)| !self.frozen.contains(number));
            let next = wakes.filter_map(|(number, machine)| Some((machine.poll_timeout()?, number))).min();
            let Some((at, who)) = next.filter(|(at, _)| *at <= self.start + end) else { break };
            self.elapsed = self.elapsed.max(at.saturating_duration_since(self.start));
            let now = self.now();
            self.machines[who].handle_timeout(now);
            self.act(who);
        }
        self.elapsed = end;
    }

    /// Dials those who are looked for: whoever is frozen doesn't answer.
    fn probe(&mut self) {
        for (one, other) in std::mem::take(&mut self.probes) {
            if self.frozen.contains(&other) {
                let (now, device) = (self.now(), self.people[other].key());
                self.machines[one].handle_unanswered(now, &device);
                self.act(one);
            } else {
                self.links.retain(|link| *link != (one, other) && *link != (other, one));
                let (now, device) = (self.now(), self.people[one].key());
                self.machines[other].handle_disconnected(now, &device, DisconnectReason::Lost);
                self.act(other);
                self.connect(one, other);
            }
        }
    }

    fn secs(&mut self, secs: u64) {
        self.run(Duration::from_secs(secs));
    }

    fn sees(&self, viewer: usize, owner: usize) -> Shown {
        self.machines[viewer].shown(self.now(), &self.people[owner].identity())
    }
}

#[test]
fn contacts_see_each_other_and_nobody_else_sees_them() {
    let mut net = Net::new(3, &[]);
    net.befriend(0, 1);
    net.connect(0, 1);
    net.connect(0, 2);
    net.connect(1, 2);
    net.say(0, State::Dnd, "in a meeting");
    net.secs(2);
    let shown = net.sees(1, 0);
    assert_eq!((shown.state, shown.mood.as_str(), shown.source), (State::Dnd, "in a meeting", Source::Direct));
    assert_eq!(shown.reachability, Reachability::Direct);
    net.say(0, State::Offline, "");
    net.secs(1);
    assert_eq!(net.sees(1, 0).state, State::Offline);
    assert_eq!(net.sees(2, 0), Shown::unknown());
}

#[test]
fn a_contact_of_both_passes_on_unless_the_owner_forbids_it() {
    for may_pass_on in [true, false] {
        let mut net = Net::new(3, &[]);
        net.befriend(1, 2);
        for viewer in [1, 2] {
            net.befriend_with(viewer, 0, &[], may_pass_on);
            net.befriend_with(0, viewer, &[], true);
        }
        net.connect(0, 1);
        net.connect(1, 2);
        net.say(0, State::Online, "hello");
        net.secs(20);
        assert_eq!(net.sees(1, 0).state, State::Online);
        let shown = net.sees(2, 0);
        if may_pass_on {
            assert_eq!((shown.state, shown.source), (State::Online, Source::Contact));
        } else {
            assert_eq!(shown, Shown::unknown());
        }
    }
}

#[test]
fn a_stranger_on_the_line_is_told_nothing() {
    let mut net = Net::new(3, &[]);
    net.befriend(0, 1);
    net.connect(0, 1);
    net.connect(0, 2);
    net.puppets.push(2);
    net.say(0, State::Online, "hello");
    // It guesses tags, and even knows the topic (from a carrier).
    let topic = net.people[0].topic(NOW);
    let (asker, asked) = (net.people[2].key(), net.people[0].key());
    let names = vec![NamedTopic { slot: TopicSlot(0), name: TopicName::Tag(topic.tag(&asker, &asked)) }];
    let wants = vec![TopicWant { slot: TopicSlot(0), mode: Mode::Push, have: 0 }];
    net.inject(2, 0, vec![Part::Names(names), Part::Wants(wants)]);
    net.say(0, State::Away, "");
    net.secs(30);
    let told: Vec<_> = net.to_puppets.iter().filter(|(_, _, frame)| !frame.parts.is_empty()).collect();
    assert!(told.is_empty(), "{told:?}");
}

#[test]
fn a_removed_contact_finds_nothing_with_the_old_key() {
    let mut net = Net::new(3, &[]);
    net.befriend(0, 1);
    net.befriend(0, 2);
    net.befriend(1, 2);
    for (one, other) in [(0, 1), (0, 2), (1, 2)] {
        net.connect(one, other);
    }
    net.say(0, State::Online, "before");
    net.secs(2);
    assert_eq!(net.sees(2, 0).mood, "before");
    // 0 removes 2: a new key, which 1 gets. 2 stays connected, and asks on.
    let removed = net.people[2].identity();
    net.people[0].secret = PresenceSecret::new(2, [77; 32]);
    let (now, secret) = (net.now(), net.people[0].secret.clone());
    net.machines[0].remove_contact(now, &removed);
    net.machines[0].set_secret(now, secret);
    net.act(0);
    net.befriend_with(1, 0, &[], true);
    net.say(0, State::Away, "after");
    net.secs(60);
    assert_eq!(net.sees(1, 0).mood, "after");
    assert_eq!(net.sees(2, 0).mood, "before");
    net.secs(3_600);
    assert_eq!(net.sees(2, 0).state, State::Offline, "what it had has expired");
}

/// 0 publishes at carrier 2, 1 watches through carrier 3; nobody else is connected.
fn carried() -> Net {
    let mut net = Net::new(4, &[2, 3]);
    net.befriend_with(1, 0, &[2], true);
    net.befriend_with(0, 1, &[3], true);
    let (now, keys) = (net.now(), [net.people[2].key(), net.people[3].key()]);
    net.machines[0].set_carriers(now, vec![keys[0]]);
    net.machines[1].set_carriers(now, vec![keys[1]]);
    net.act(0);
    net.act(1);
    net
}

#[test]
fn carriers_bring_what_no_contact_brings() {
    let mut net = carried();
    net.say(0, State::Online, "hello");
    net.secs(2);
    let shown = net.sees(1, 0);
    assert_eq!((shown.state, shown.source), (State::Online, Source::Carrier));
    net.say(0, State::Away, "");
    net.secs(1);
    assert_eq!(net.sees(1, 0).state, State::Away);
    // Who comes online gets the newest at once.
    net.disconnect(1, 3, DisconnectReason::Left);
    net.say(0, State::Dnd, "");
    net.secs(10);
    assert_eq!(net.sees(1, 0).state, State::Dnd);
}

#[test]
fn a_carrier_that_keeps_back_is_exchanged_when_the_last_word_is_over() {
    let mut net = Net::new(5, &[2, 3, 4]);
    net.befriend_with(1, 0, &[2], true);
    net.befriend_with(0, 1, &[3, 4], true);
    let now = net.now();
    let keys: Vec<_> = net.people.iter().map(Person::key).collect();
    net.machines[0].set_carriers(now, vec![keys[2]]);
    net.machines[1].set_carriers(now, vec![keys[3], keys[4]]);
    net.act(0);
    net.act(1);
    net.say(0, State::Online, "first");
    net.secs(5);
    assert_eq!(net.sees(1, 0).mood, "first");
    // One of the two brings it; which one is chance.
    let brings = |net: &Net, carrier: usize| net.machines[carrier].counters().documents > 0;
    net.withholding = vec![if brings(&net, 3) { 3 } else { 4 }];
    net.say(0, State::Away, "second");
    net.secs(10);
    assert_eq!(net.sees(1, 0).mood, "first", "it is kept back");
    net.secs(3_700);
    let shown = net.sees(1, 0);
    assert_eq!((shown.state, shown.mood.as_str()), (State::Away, "second"));
}

#[test]
fn silence_is_told_by_the_carriers_of_who_fell_silent() {
    let mut net = Net::new(5, &[2, 3, 4]);
    net.befriend_with(1, 0, &[2, 4], true);
    net.befriend_with(0, 1, &[3], true);
    let now = net.now();
    let keys: Vec<_> = net.people.iter().map(Person::key).collect();
    net.machines[0].set_carriers(now, vec![keys[2], keys[4]]);
    net.machines[1].set_carriers(now, vec![keys[3]]);
    net.act(0);
    net.act(1);
    net.say(0, State::Online, "");
    net.secs(30);
    assert_eq!(net.sees(1, 0).state, State::Online);
    net.frozen.push(0);
    net.secs(25);
    assert_eq!((net.sees(1, 0).state, net.sees(1, 0).source), (State::Offline, Source::Hint));
    // Who comes online later is told so too.
    net.disconnect(1, 3, DisconnectReason::Left);
    net.secs(10);
    assert_eq!(net.sees(1, 0).state, State::Offline);
}

#[test]
fn silence_of_a_neighbour_is_believed_with_one_other_witness() {
    let mut net = Net::new(3, &[2]);
    net.befriend_with(1, 0, &[2], true);
    net.befriend_with(0, 1, &[2], true);
    let (now, carrier) = (net.now(), net.people[2].key());
    net.machines[0].set_carriers(now, vec![carrier]);
    net.machines[1].set_carriers(now, vec![carrier]);
    net.act(0);
    net.act(1);
    net.connect(0, 1);
    net.say(0, State::Away, "on the train");
    net.secs(30);
    assert_eq!((net.sees(1, 0).state, net.sees(1, 0).source), (State::Away, Source::Direct));
    net.frozen.push(0);
    net.secs(25);
    assert_eq!((net.sees(1, 0).state, net.sees(1, 0).source), (State::Offline, Source::Hint));
}

#[test]
fn whoever_fell_silent_towards_us_and_does_not_answer_is_gone_without_another_witness() {
    // Nobody else at all; and somebody who knows nothing of it.
    for others in [0, 1] {
        let mut net = Net::new(3, &[]);
        net.befriend(0, 1);
        net.connect(0, 1);
        (0..others).for_each(|_| net.connect(1, 2));
        net.say(0, State::Away, "on the train");
        net.secs(5);
        assert_eq!(net.sees(1, 0).state, State::Away);
        net.frozen.push(0);
        net.secs(30);
        assert_eq!((net.sees(1, 0).state, net.sees(1, 0).source), (State::Offline, Source::Hint), "{others} others");
        // It goes on, and meets us: nothing new need be said for that.
        net.frozen.clear();
        net.links.clear();
        net.connect(0, 1);
        assert_eq!((net.sees(1, 0).state, net.sees(1, 0).source), (State::Away, Source::Direct));
    }
}

#[test]
fn whoever_answers_is_there_though_a_connection_died() {
    let mut net = Net::new(3, &[]);
    net.befriend(0, 1);
    net.connect(0, 1);
    net.connect(1, 2);
    net.say(0, State::Online, "");
    net.secs(5);
    net.links.remove(0);
    net.secs(40);
    assert_eq!(net.sees(1, 0).state, State::Online);
    assert!(
        !net.actions
            .iter()
            .any(|(who, action)| *who == 1 && matches!(action, Action::Changed { shown, .. } if shown.state == State::Offline))
    );
}

#[test]
fn who_is_cut_off_judges_nobody_until_somebody_is_heard() {
    let mut net = Net::new(4, &[]);
    net.befriend(0, 1);
    net.befriend(2, 1);
    for neighbour in [0, 2, 3] {
        net.connect(neighbour, 1);
    }
    net.say(0, State::Online, "");
    net.say(2, State::Online, "");
    net.secs(5);
    net.frozen.extend([0, 2, 3]);
    net.secs(300);
    assert_eq!((net.sees(1, 0).state, net.sees(1, 2).state), (State::Online, State::Online), "it may be we who are gone");
    // The way is free again: 2 is found, 0 isn't.
    net.frozen.retain(|frozen| *frozen == 0);
    net.links.clear();
    net.connect(3, 1);
    net.secs(60);
    assert_eq!((net.sees(1, 0).state, net.sees(1, 2).state), (State::Offline, State::Online));
}

#[test]
fn one_witness_alone_makes_nobody_offline_nor_dialled() {
    let mut net = carried();
    net.say(0, State::Online, "");
    net.secs(30);
    // The carrier is the only one who misses it, or says so.
    net.disconnect(0, 2, DisconnectReason::Lost);
    let owner = net.people[0].key();
    net.wanted.clear();
    net.frozen.push(0);
    net.secs(60);
    assert_eq!((net.sees(1, 0).state, net.sees(1, 0).source), (State::Online, Source::Carrier));
    assert!(
        !net.actions.iter().any(|(who, action)| *who == 1 && matches!(action, Action::Probe { device, .. } if *device == owner))
    );
    assert!(net.probes.is_empty());
}

#[test]
fn a_neighbours_witness_reaches_those_who_come_later() {
    // 1 is a neighbour of 0; 3 asks the carrier, when all is over.
    let mut net = Net::new(4, &[2]);
    for viewer in [1, 3] {
        net.befriend_with(viewer, 0, &[2], true);
        net.befriend_with(0, viewer, &[2], true);
    }
    let (now, carrier) = (net.now(), net.people[2].key());
    for who in [0, 1] {
        net.machines[who].set_carriers(now, vec![carrier]);
        net.act(who);
    }
    net.connect(0, 1);
    net.say(0, State::Online, "");
    net.secs(30);
    net.frozen.push(0);
    net.secs(60);
    assert_eq!(net.sees(1, 0).state, State::Offline);
    let now = net.now();
    net.machines[3].set_carriers(now, vec![carrier]);
    net.act(3);
    net.secs(5);
    assert_eq!((net.sees(3, 0).state, net.sees(3, 0).source), (State::Offline, Source::Hint));
}

#[test]
fn a_carrier_can_neither_forge_nor_be_fooled() {
    let mut net = carried();
    net.say(0, State::Online, "");
    net.secs(2);
    let topic = net.people[0].topic(NOW);
    // Whoever knows the topic, a contact even, brings a higher one that it can't sign.
    let forged = net.people[1].document(NOW.0 + 100, NOW);
    let place = TopicPlace::Topic(topic);
    for _ in 0..20 {
        net.inject(3, 2, vec![Part::Documents(vec![PassedDocument { place, hops: 0, document: forged.clone() }])]);
    }
    assert!(net.machines[2].counters().forged >= 8);
    assert!(net.actions.iter().any(|(who, action)| *who == 2 && matches!(action, Action::Misbehaved { .. })));
    // The carrier itself makes one up, and replays an old one.
    let old = net.people[0].document(NOW.0, NOW);
    for document in [forged, old] {
        let passed = PassedDocument { place: TopicPlace::Slot(TopicSlot(0)), hops: 1, document };
        net.inject(3, 1, vec![Part::Documents(vec![passed])]);
    }
    assert_eq!(net.sees(1, 0).state, State::Online);
    net.say(0, State::Away, "");
    net.secs(1);
    assert_eq!(net.sees(1, 0).state, State::Away, "what is genuine goes on");
}

#[test]
fn who_names_topics_that_do_not_exist_crowds_nobody_out_of_a_carrier() {
    const TOPICS_MAX: usize = 64;
    let mut net = Net::new(5, &[2]);
    let local = LocalDevice { identity: net.people[2].identity(), key: net.people[2].device.clone(), kind: DeviceKind::Desktop };
    let gossip = GossipConfig { topics_max: TOPICS_MAX, ..GossipConfig::carrier() };
    let config = Config { gossip, ..Config::default() };
    net.machines[2] = Presence::new(config, local, net.people[2].secret.clone(), 0, [9; 32], net.now());
    let (now, carrier) = (net.now(), net.people[2].key());
    for flooder in [3, 4] {
        net.puppets.push(flooder);
        net.connect(flooder, 2);
        let name = |slot: u16| {
            let topic = Topic(PublicKey(hash("test topic", &[&slot.to_be_bytes(), &flooder.to_be_bytes()])));
            NamedTopic { slot: TopicSlot(slot), name: TopicName::Topic { topic, carriers: Vec::new() } }
        };
        net.inject(flooder, 2, vec![Part::Names((0..1_000).map(name).collect())]);
    }
    assert!(net.machines[2].size().0 < TOPICS_MAX - 8, "{:?}", net.machines[2].size());
    assert!(net.machines[2].counters().excess > 0);
    // Two who came later use it all the same.
    net.befriend_with(1, 0, &[2], true);
    net.befriend_with(0, 1, &[2], true);
    for who in [0, 1] {
        net.machines[who].set_carriers(now, vec![carrier]);
        net.act(who);
    }
    net.say(0, State::Online, "hello");
    net.secs(5);
    assert_eq!((net.sees(1, 0).state, net.sees(1, 0).source), (State::Online, Source::Carrier));
}

#[test]
fn what_a_neighbour_floods_with_is_bounded() {
    let mut net = Net::new(3, &[2]);
    net.befriend(0, 1);
    net.connect(0, 1);
    net.connect(2, 1);
    net.puppets.push(1);
    let name = |slot: u16, byte: u8| NamedTopic {
        slot: TopicSlot(slot),
        name: TopicName::Topic { topic: Topic(PublicKey([byte; 32])), carriers: vec![DeviceKey(PublicKey([byte; 32]))] },
    };
    for round in 0..64_u16 {
        let names = (0..1_024).map(|index| name(round.wrapping_mul(1_024).wrapping_add(index), (index % 251) as u8)).collect();
        net.inject(1, 2, vec![Part::Names(names)]);
        let tags = (0..1_024_u16).map(|index| {
            let tag = LinkTag(u64::from(round * 1_024 + index).to_be_bytes());
            NamedTopic { slot: TopicSlot(round.wrapping_mul(1_024).wrapping_add(index)), name: TopicName::Tag(tag) }
        });
        net.inject(1, 0, vec![Part::Names(tags.collect())]);
        let digests = (0..1_024).map(|slot| Digest { slot: TopicSlot(slot), sequence: u64::MAX, hops: 0 }).collect();
        net.inject(1, 0, vec![Part::Digests(digests)]);
    }
    assert!(net.machines[2].size().0 <= 4_200, "{:?}", net.machines[2].size());
    assert!(net.machines[2].counters().excess > 0);
    assert!(net.machines[0].counters().excess > 0);
    // Documents for topics nobody knows.
    let stranger = Person::new(9);
    for day in 0..30 {
        let at = NOW.plus_secs(day * 2_000);
        let topic = stranger.secret.key().topic(&stranger.key(), Day(day)).expect("a key");
        let passed = PassedDocument { place: TopicPlace::Topic(topic), hops: 0, document: stranger.document(at.0, at) };
        net.inject(1, 2, vec![Part::Documents(vec![passed])]);
    }
    net.say(0, State::Online, "");
    net.secs(120);
    assert!(net.machines[0].size().0 < 10);
}

/// 0 has the contacts 1 to 4, who all know each other. 1 and 2 are connected to 0; 3 and 4 to 1 and 2, and each other.
fn circle() -> Net {
    let mut net = Net::new(5, &[]);
    for one in 0..5 {
        for other in one + 1..5 {
            net.befriend(one, other);
        }
    }
    for (one, other) in [(0, 1), (0, 2), (1, 2), (1, 3), (2, 3), (1, 4), (2, 4), (3, 4)] {
        net.connect(one, other);
    }
    for who in 0..5 {
        net.say(who, State::Online, "start");
    }
    net.secs(30);
    for viewer in 0..5 {
        for owner in (0..5).filter(|owner| *owner != viewer) {
            assert_eq!(net.sees(viewer, owner).mood, "start", "{viewer} of {owner}");
        }
    }
    net
}

#[test]
fn each_document_goes_over_the_tree_once() {
    let mut net = circle();
    let before: u64 = net.machines.iter().map(|machine| machine.counters().documents).sum();
    for number in 0..10 {
        net.say(0, State::Online, &format!("{number}"));
        net.secs(5);
    }
    let sent = net.machines.iter().map(|machine| machine.counters().documents).sum::<u64>() - before;
    assert_eq!(sent, 40, "four contacts, ten times");
}

#[test]
fn a_parent_that_falls_silent_is_replaced_within_two_seconds() {
    let mut net = circle();
    net.frozen.push(1);
    net.say(0, State::Away, "news");
    net.secs(2);
    for viewer in [2, 3, 4] {
        assert_eq!(net.sees(viewer, 0).mood, "news", "{viewer}");
    }
}

#[test]
fn a_neighbour_that_promises_and_keeps_back_is_passed_over() {
    let mut net = circle();
    // 1 is played by the test: it announces everything, gives nothing.
    net.puppets.push(1);
    for round in 0..5 {
        let mood = format!("news {round}");
        for to in [3, 4] {
            let digests = (0..16).map(|slot| Digest { slot: TopicSlot(slot), sequence: u64::MAX - 1, hops: 0 }).collect();
            net.inject(1, to, vec![Part::Digests(digests)]);
        }
        net.say(0, State::Away, &mood);
        net.secs(15);
        for viewer in [3, 4] {
            assert_eq!(net.sees(viewer, 0).mood, mood, "{viewer} in round {round}");
        }
    }
}

#[test]
fn silence_is_told_by_two_and_shown_as_a_hint() {
    let mut net = circle();
    net.frozen.push(0);
    net.secs(25);
    for viewer in 1..5 {
        let shown = net.sees(viewer, 0);
        assert_eq!((shown.state, shown.source), (State::Offline, Source::Hint), "{viewer}");
    }
    // It was only asleep.
    net.frozen.clear();
    for other in [1, 2] {
        net.disconnect(0, other, DisconnectReason::Idle);
        net.connect(0, other);
    }
    net.secs(3);
    for viewer in 1..5 {
        assert_eq!(net.sees(viewer, 0).state, State::Online, "{viewer}");
    }
}

#[test]
fn one_witness_alone_is_not_believed() {
    let mut net = Net::new(3, &[]);
    for (one, other) in [(0, 1), (0, 2), (1, 2)] {
        net.befriend(one, other);
    }
    net.connect(0, 1);
    net.connect(1, 2);
    for who in 0..3 {
        net.say(who, State::Online, "");
    }
    net.secs(30);
    net.frozen.push(0);
    net.secs(60);
    assert_eq!((net.sees(1, 0).state, net.sees(1, 0).source), (State::Offline, Source::Hint), "it has seen for itself");
    assert_eq!(net.sees(2, 0).state, State::Online, "it has one word for it");
    net.secs(3_600);
    assert_eq!(net.sees(2, 0).state, State::Offline, "its own word is over");
    let wanted = |(who, action): &(usize, Action)| *who == 2 && matches!(action, Action::KeeperLeaseWanted { .. });
    assert!(net.actions.iter().any(wanted));
    let (now, owner) = (net.now(), (net.people[0].identity(), net.people[0].key()));
    net.machines[2].handle_keeper_lease(now, &owner.0, &owner.1, now.unix.plus_secs(600));
    let shown = net.sees(2, 0);
    assert_eq!((shown.state, shown.reachability, shown.source), (State::Online, Reachability::Push, Source::Lease));
}

#[test]
fn topics_change_daily_without_a_gap() {
    let mut net = circle();
    for _ in 0..30 {
        net.secs(3_600);
        for viewer in 0..5 {
            for owner in (0..5).filter(|owner| *owner != viewer) {
                assert_eq!(net.sees(viewer, owner).state, State::Online, "{viewer} of {owner}");
            }
        }
        assert!(net.machines.iter().all(|machine| machine.size().0 <= 10), "yesterday's topics are forgotten");
    }
}

#[test]
fn halves_of_a_network_agree_when_they_meet_again() {
    let mut net = circle();
    for (one, other) in [(0, 2), (1, 2), (1, 3), (1, 4)] {
        net.disconnect(one, other, DisconnectReason::Idle);
    }
    net.say(0, State::Away, "here");
    net.say(4, State::Dnd, "there");
    net.secs(60);
    assert_eq!((net.sees(1, 0).mood.as_str(), net.sees(3, 0).mood.as_str()), ("here", "start"));
    net.connect(1, 3);
    net.secs(20);
    for viewer in 0..5 {
        for (owner, mood) in [(0, "here"), (4, "there")] {
            if viewer != owner {
                assert_eq!(net.sees(viewer, owner).mood, mood, "{viewer} of {owner}");
            }
        }
    }
}

#[test]
fn a_device_restored_from_a_backup_goes_on_above_what_it_published() {
    let mut net = circle();
    // Another run of the same device has published far ahead, under a clock that was wrong.
    let topic = net.people[0].topic(net.now().unix);
    let ahead = net.people[0].document(NOW.0 + 50_000, net.now().unix);
    let passed = PassedDocument { place: TopicPlace::Topic(topic), hops: 1, document: ahead };
    net.inject(1, 0, vec![Part::Documents(vec![passed])]);
    net.secs(2);
    assert!(net.machines[0].sequence() > NOW.0 + 50_000);
    net.say(0, State::Away, "restored");
    net.secs(2);
    assert_eq!(net.sees(4, 0).mood, "restored");
}

fn any_place() -> impl Strategy<Value = TopicPlace> {
    prop_oneof![
        any::<u8>().prop_map(|slot| TopicPlace::Slot(TopicSlot(u16::from(slot % 8)))),
        any::<u8>().prop_map(|byte| TopicPlace::Topic(Topic(PublicKey([byte; 32])))),
        (0usize..5).prop_map(|person| TopicPlace::Topic(Person::new(person).topic(NOW))),
    ]
}

fn any_part() -> impl Strategy<Value = Part> {
    let slot = || (0u16..12).prop_map(TopicSlot);
    let mode = prop::sample::select(vec![Mode::Ride, Mode::Soon, Mode::Push]);
    let tag = (0usize..5, 0usize..5, 0usize..5)
        .prop_map(|(owner, one, other)| Person::new(owner).topic(NOW).tag(&Person::new(one).key(), &Person::new(other).key()));
    let name = prop_oneof![
        tag.prop_map(TopicName::Tag),
        (0usize..6)
            .prop_map(|person| TopicName::Topic { topic: Person::new(person).topic(NOW), carriers: vec![Person::new(2).key()] }),
    ];
    // Old ones, and those of another run of the same device that is ahead. (That two runs take one number in one second isn't noticed by
    // neighbours; the next document settles it.)
    let sequence = prop_oneof![Just(NOW.0 - 50), NOW.0 + 100..NOW.0 + 200];
    let document = (0usize..6, sequence, any::<u8>(), any_place()).prop_map(|(person, sequence, hops, place)| PassedDocument {
        place,
        hops,
        document: Person::new(person).document(sequence, NOW),
    });
    let hint = (any_place(), 0u64..90_000, any::<u16>()).prop_map(|(place, sequence, number)| {
        let key = SecretKey::from_bytes([3; 32]);
        let witness = PresenceWitness { witness: key.public(), number, extensions: Extensions::none() };
        let hint = PresenceHint { sequence, at: NOW, extensions: Extensions::none() };
        PassedHint { place, witness: Signed::sign(witness, &key), hint: Signed::sign(hint, &key) }
    });
    let few = 0..4usize;
    prop_oneof![
        prop::collection::vec((slot(), name).prop_map(|(slot, name)| NamedTopic { slot, name }), few.clone())
            .prop_map(Part::Names),
        prop::collection::vec(slot(), few.clone()).prop_map(Part::Drops),
        prop::collection::vec(
            (slot(), mode, any::<u64>()).prop_map(|(slot, mode, have)| TopicWant { slot, mode, have }),
            few.clone()
        )
        .prop_map(Part::Wants),
        prop::collection::vec(document, few.clone()).prop_map(Part::Documents),
        prop::collection::vec(
            (slot(), 0u64..100_000, any::<u8>()).prop_map(|(slot, sequence, hops)| Digest { slot, sequence, hops }),
            few.clone()
        )
        .prop_map(Part::Digests),
        prop::collection::vec(hint, few).prop_map(Part::Hints),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Whatever a neighbour says, in whatever role: nothing panics, nothing grows, and the others' presence arrives.
    #[test]
    fn whatever_a_neighbour_says_the_others_are_heard(
        frames in prop::collection::vec((prop::collection::vec(any_part(), 0..4), 0usize..5), 1..24),
        is_carrier in any::<bool>(),
    ) {
        let carriers: &[usize] = if is_carrier { &[2, 5] } else { &[] };
        let mut net = Net::new(6, carriers);
        for one in 0..5 {
            for other in one + 1..5 {
                net.befriend(one, other);
            }
        }
        for (one, other) in [(0, 1), (0, 2), (1, 2), (1, 3), (2, 3), (3, 4), (0, 3), (5, 0), (5, 1), (4, 1)] {
            net.connect(one, other);
        }
        net.puppets.push(4);
        net.puppets.push(5);
        for (round, (parts, to)) in frames.into_iter().enumerate() {
            let from = if round % 2 == 0 { 4 } else { 5 };
            if net.are_linked(from, to) {
                net.inject(from, to, parts);
            }
            net.run(Duration::from_millis(300));
        }
        net.say(0, State::Away, "through");
        net.secs(40);
        for viewer in 1..4 {
            prop_assert_eq!(net.sees(viewer, 0).mood, "through", "{}", viewer);
        }
        prop_assert!(net.machines.iter().all(|machine| machine.size().0 <= 40 && machine.size().1 <= 5));
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = wire::decode::<PresenceGossip>(&bytes, PresenceGossip::LIMIT);
        let _ = wire::decode::<SealedDocument>(&bytes, 1_000);
        let _ = wire::decode::<PresenceKey>(&bytes, 1_000).map(|key| key.topic(&DeviceKey(PublicKey([1; 32])), Day(1)));
    }
}
