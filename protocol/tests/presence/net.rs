//! People, their machines, and a network that delivers at once.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use halloo_protocol::directory::{DeviceKind, Reachability};
use halloo_protocol::identity::{DeviceCertificate, DeviceCertificateParams};
use halloo_protocol::kademlia::DisconnectReason;
use halloo_protocol::key::{DeviceKey, IdentityKey, SecretKey, hash};
use halloo_protocol::presence::*;
use halloo_protocol::time::{Now, UnixTime};
use halloo_protocol::wire::{Extensions, Frame, Signed};

use crate::support::NOW;

/// One person with one device.
pub(crate) struct Person {
    pub identity: SecretKey,
    pub device: SecretKey,
    pub secret: PresenceSecret,
}

impl Person {
    pub(crate) fn new(number: usize) -> Self {
        let bytes = |what: &str| hash("test person", &[&number.to_be_bytes(), what.as_bytes()]);
        Self {
            identity: SecretKey::from_bytes(bytes("identity")),
            device: SecretKey::from_bytes(bytes("device")),
            secret: PresenceSecret::new(1, bytes("presence")),
        }
    }

    pub(crate) fn identity(&self) -> IdentityKey {
        IdentityKey(self.identity.public())
    }

    pub(crate) fn key(&self) -> DeviceKey {
        DeviceKey(self.device.public())
    }

    pub(crate) fn contact(&self, carriers: Vec<DeviceKey>, may_pass_on: bool) -> Contact {
        let params = DeviceCertificateParams { device: self.key(), slot: 0, serial: 1, now: NOW };
        let certificate = Signed::sign(DeviceCertificate::new(params), &self.identity);
        Contact {
            identity: self.identity(),
            key: self.secret.key(),
            devices: vec![ContactDevice { certificate, carriers }],
            may_pass_on,
        }
    }

    pub(crate) fn topic(&self, now: UnixTime) -> Topic {
        let key = self.secret.key();
        key.topic(&self.key(), key.day(now)).expect("a key")
    }

    pub(crate) fn document(&self, sequence: u64, now: UnixTime) -> SealedDocument {
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
pub(crate) struct Net {
    pub people: Vec<Person>,
    pub machines: Vec<Presence>,
    pub by_device: BTreeMap<DeviceKey, usize>,
    pub start: Instant,
    pub elapsed: Duration,
    pub on_way: VecDeque<(usize, usize, PresenceGossip)>,
    pub links: Vec<(usize, usize)>,
    /// Nodes whose frames, and those to them, are lost.
    pub frozen: Vec<usize>,
    /// Nodes whose frames are lost and kept here: played by the test.
    pub puppets: Vec<usize>,
    pub to_puppets: Vec<(usize, usize, PresenceGossip)>,
    /// Nodes that say neither what they have nor that they have it.
    pub withholding: Vec<usize>,
    pub actions: Vec<(usize, Action)>,
    pub carriers: Vec<usize>,
    pub wanted: Vec<(usize, usize)>,
    /// Who looks for whom.
    pub probes: Vec<(usize, usize)>,
}

impl Net {
    pub(crate) fn new(count: usize, carriers: &[usize]) -> Self {
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

    pub(crate) fn now(&self) -> Now {
        Now { instant: self.start + self.elapsed, unix: NOW.plus_secs(self.elapsed.as_secs()) }
    }

    pub(crate) fn befriend(&mut self, one: usize, other: usize) {
        self.befriend_with(one, other, &[], true);
        self.befriend_with(other, one, &[], true);
    }

    /// `viewer` gets what contacts get of `owner`.
    pub(crate) fn befriend_with(&mut self, viewer: usize, owner: usize, carriers: &[usize], may_pass_on: bool) {
        let carriers = carriers.iter().map(|carrier| self.people[*carrier].key()).collect();
        let contact = self.people[owner].contact(carriers, may_pass_on);
        let now = self.now();
        assert_eq!(self.machines[viewer].set_contact(now, contact), 1);
        self.act(viewer);
    }

    pub(crate) fn connect(&mut self, one: usize, other: usize) {
        self.links.push((one, other));
        for (at, with) in [(one, other), (other, one)] {
            let person = &self.people[with];
            let peer = Peer { device: person.key(), identity: person.identity(), is_carrier: self.carriers.contains(&with) };
            let now = self.now();
            self.machines[at].handle_connected(now, peer);
            self.act(at);
        }
    }

    /// A process ends and starts again, with nothing in its memory, and connects to the same neighbours before they have noticed.
    pub(crate) fn restart(&mut self, who: usize, contacts: Vec<Contact>, carriers: Vec<DeviceKey>) {
        let (person, now) = (&self.people[who], self.now());
        let local = LocalDevice { identity: person.identity(), key: person.device.clone(), kind: DeviceKind::Phone };
        self.machines[who] = Presence::new(Config::default(), local, person.secret.clone(), 0, [77; 32], now);
        for contact in contacts {
            self.machines[who].set_contact(now, contact);
        }
        self.machines[who].set_carriers(now, carriers);
        for (one, other) in self.links.clone() {
            for (at, with) in [(one, other), (other, one)] {
                if one == who || other == who {
                    let person = &self.people[with];
                    let peer =
                        Peer { device: person.key(), identity: person.identity(), is_carrier: self.carriers.contains(&with) };
                    self.machines[at].handle_connected(now, peer);
                }
            }
        }
        self.act(who);
    }

    pub(crate) fn disconnect(&mut self, one: usize, other: usize, reason: DisconnectReason) {
        self.links.retain(|link| *link != (one, other) && *link != (other, one));
        for (at, with) in [(one, other), (other, one)] {
            let (now, device) = (self.now(), self.people[with].key());
            self.machines[at].handle_disconnected(now, &device, reason);
            self.act(at);
        }
    }

    pub(crate) fn are_linked(&self, one: usize, other: usize) -> bool {
        self.links.contains(&(one, other)) || self.links.contains(&(other, one))
    }

    pub(crate) fn say(&mut self, who: usize, state: State, mood: &str) {
        let now = self.now();
        let status = Status { state, mood: mood.into(), reachability: Reachability::Direct, devices: 1 };
        self.machines[who].set_status(now, status);
        self.act(who);
    }

    pub(crate) fn act(&mut self, who: usize) {
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
    pub(crate) fn inject(&mut self, from: usize, to: usize, parts: Vec<Part>) {
        let (now, device) = (self.now(), self.people[from].key());
        self.machines[to].handle_frame(now, &device, PresenceGossip { parts, extensions: Extensions::none() });
        self.act(to);
    }

    pub(crate) fn deliver(&mut self) {
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

    pub(crate) fn run(&mut self, time: Duration) {
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
    pub(crate) fn probe(&mut self) {
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

    pub(crate) fn secs(&mut self, secs: u64) {
        self.run(Duration::from_secs(secs));
    }

    pub(crate) fn sees(&self, viewer: usize, owner: usize) -> Shown {
        self.machines[viewer].shown(self.now(), &self.people[owner].identity())
    }
}

/// 0 publishes at carrier 2, 1 watches through carrier 3; nobody else is connected.
pub(crate) fn carried() -> Net {
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

/// 0 has the contacts 1 to 4, who all know each other. 1 and 2 are connected to 0; 3 and 4 to 1 and 2, and each other.
pub(crate) fn circle() -> Net {
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
