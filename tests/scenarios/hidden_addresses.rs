//! Goal: a stranger who knows alice's name learns none of her addresses before she has answered, whatever they ask of her and whatever she says to it; and a
//! contact does.
//!
//! Method: alice sits behind a router, found through a relay, and takes calls and messages of anyone. Mallory is on a public machine, which
//! counts every packet that comes from alice's router. His daemon, with an address to be dialled at, asks to be a contact, writes, leaves a letter and
//! calls; alice declines, reads, fetches and declines. A device of his own making, in a process of its own (this test, run anew), has a call handed over by alice's relay, then
//! calls on a circuit; it keeps every byte and event, from libp2p's protocols too, and none of it holds one of alice's addresses. Then the two become
//! contacts, and on the same circuit his device is told where she is, and alice's dials it: the control, by the same search and the same counter. Every wait is
//! for something that is sure to come.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use futures::StreamExt;
use halloo::behaviour::BehaviourEvent;
use halloo::streams;
use halloo::swarm::{NodeSwarm, SwarmOptions, build_swarm, circuit_address};
use halloo_protocol::call::{
    CallId, CallInvite, CallSignal, CallSignalAck, CallTimers, HandOverAnswer, HandOverStatus, Invite, InviteAnswer,
    InviteHandOver, InviteStatus, Origin, SealedInvite, SignalBody, SignalStatus, open_word,
};
use halloo_protocol::capability::{Capability, CapabilityProof};
use halloo_protocol::directory::{DeviceEntry, PrivatePart, RecordKey, SealKey, SealedPart};
use halloo_protocol::event::EventKind;
use halloo_protocol::id::ConversationId;
use halloo_protocol::identity::UserId;
use halloo_protocol::key::DeviceKey;
use halloo_protocol::node::{Address, Hello, Transport};
use halloo_protocol::wire::{self, Extensions, Frame, Message, Signed};
use halloo_tests::attacker::{Attacker, Forger, key, now, stranger_hello};
use halloo_tests::cli::Invocation;
use halloo_tests::daemon::Daemon;
use halloo_tests::eventually;
use halloo_tests::natlab::{Machine, NatLab};
use halloo_tests::network::{ANYONE, User, enrol_user_in, invite, text};
use libp2p::swarm::SwarmEvent;
use libp2p::{Multiaddr, PeerId};
use rand::SeedableRng;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

/// What the other process is to do; it isn't there in the first.
const TASK: &str = "HALLOO_TEST_ASKER";

/// This test, as its binary knows it.
const TEST: &str = "hidden_addresses::a_stranger_learns_no_address_before_the_answer_and_a_contact_does";

/// How long anything may take that is sure to come.
const COMES_TIME_MAX: Duration = Duration::from_secs(60);

/// How often what may be lost is tried again: a circuit, a hello.
const AGAIN_EVERY: Duration = Duration::from_secs(5);

/// The extension of an entry with what it says to everybody who knows the name (docs/wire.md).
const OPEN_PART: u16 = 0x0001;

/// Alice's machine and her router.
const HERS: [[u8; 4]; 2] = [[192, 168, 11, 2], [5, 0, 11, 1]];

/// The router, in words.
const ROUTER: &str = "5.0.11.1";

#[test]
fn a_stranger_learns_no_address_before_the_answer_and_a_contact_does() {
    if let Ok(task) = std::env::var(TASK) {
        return ask(&serde_json::from_str(&task).expect("the first process wrote it"));
    }
    let mut lab = NatLab::new();
    let folder = tempfile::Builder::new().prefix("halloo-").tempdir().expect("a temporary directory");
    let server = lab.public_machine("srv", 1).serve(folder.path(), "");
    let (home, outside) = (lab.home_machine("a", 11), lab.public_machine("m", 13));
    lab.watch(&outside, ROUTER);
    let mut alice = home.join(folder.path(), &server, "alice", &[]);
    let config = format!("publish_addresses = true\n{ANYONE}");
    let mut mallory = enrol_user_in(Some(&outside.namespace), folder.path(), "mallory", &config, &invite(&server));
    mallory.start(outside.launch(&outside.address));
    is_found_through_a_relay(&alice);

    request_is_declined(&mallory, &alice);
    message_is_delivered(&mallory, &alice);
    letter_is_fetched(&mallory, &mut alice);
    is_found_through_a_relay(&alice);
    call_is_declined(&mallory, &alice);
    assert_eq!(lab.seen(&outside), 0, "alice's device has gone straight to a stranger's");

    let mut asker = AskerProcess::start(&server, &alice, &mallory, &outside);
    for way in ["handed over", "circuit"] {
        let call = asker.line("RINGS ");
        alice.wait_event(COMES_TIME_MAX, "call_incoming", |event| event["call_id"] == call.as_str());
        assert_eq!(alice.cli(["calls", "decline", &call]).code, 0, "{way}");
    }
    let told: Value = serde_json::from_str(&asker.line("TOLD ")).expect("the asker writes JSON");
    assert_eq!(told["knows_server"], true, "what it was told is searched: {told}");
    assert_eq!(told["hers"], json!([]), "{told}");
    assert_eq!(lab.seen(&outside), 0, "alice's device has gone straight to a stranger's");

    become_contacts(&alice, &mallory);
    asker.say("CONTACT");
    let told: Value = serde_json::from_str(&asker.line("TOLD ")).expect("the asker writes JSON");
    let learnt = told["hers"].as_array().cloned().unwrap_or_default();
    assert!(learnt.iter().any(|address| address == ROUTER), "a contact is told where she is: {told}");
    eventually(COMES_TIME_MAX, "alice's device goes straight to a contact's", || {
        if lab.seen(&outside) > 0 { Ok(()) } else { Err("no packet yet".to_owned()) }
    });
    asker.say("SEEN");
    asker.end();
}

fn request_is_declined(mallory: &User, alice: &User) {
    mallory.cli(["contact", "add", &alice.username]).ok();
    alice.wait_event(COMES_TIME_MAX, "contact_request", |event| event["from"] == mallory.username.as_str());
    alice.cli(["contact", "decline", &mallory.username]).ok();
    becomes(mallory, alice, "declined");
}

/// The message is accepted, so its sender hears that it has come; when it is read is for contacts.
fn message_is_delivered(mallory: &User, alice: &User) {
    let message = text(&mallory.cli(["msg", "send", &alice.username, "are you there?"]).ok(), "id");
    has_message(alice, mallory, "are you there?");
    alice.cli(["msg", "read", &mallory.username]).ok();
    let of_it = |event: &Value| event["message_id"] == message.as_str();
    mallory.wait_event(COMES_TIME_MAX, "message_state", |event| of_it(event) && event["state"] == "delivered");
}

/// Left in alice's mailbox while her device is off: it tells the sender that it has come, if there is a way.
fn letter_is_fetched(mallory: &User, alice: &mut User) {
    assert_eq!(alice.terminate().0, 0);
    let message = text(&mallory.cli(["msg", "send", &alice.username, "are you back?"]).ok(), "id");
    let of_it = |event: &Value| event["message_id"] == message.as_str();
    mallory.wait_event(COMES_TIME_MAX, "message_state", |event| of_it(event) && event["state"] == "sent");
    alice.spawn_again();
    alice.wait_ready(COMES_TIME_MAX);
    has_message(alice, mallory, "are you back?");
}

#[track_caller]
fn has_message(of: &User, from: &User, message: &str) {
    eventually(COMES_TIME_MAX, &format!("the message {message:?} is there"), || {
        let list = of.api().get(&format!("/v1/messages?with={}", from.username))?;
        let is_there = list["messages"].as_array().is_some_and(|messages| messages.iter().any(|entry| entry["text"] == message));
        if is_there { Ok(()) } else { Err(list.to_string()) }
    });
}

#[track_caller]
fn is_found_through_a_relay(user: &User) {
    eventually(COMES_TIME_MAX, &format!("{} is found through a relay", user.username), || {
        let status = user.api().get("/v1/status")?;
        let relays = status["relays"].as_array().map_or(0, Vec::len);
        if relays > 0 && status["reachability"] == "relayed" { Ok(()) } else { Err(status.to_string()) }
    });
}

fn call_is_declined(mallory: &User, alice: &User) {
    let calling = Invocation::new(mallory.home()).args(["call", &alice.username, "--duration", "1"]).start();
    let rings = alice.wait_event(COMES_TIME_MAX, "call_incoming", |event| event["from"] == mallory.username.as_str());
    alice.cli(["calls", "decline", &text(&rings, "call_id")]).ok();
    let outcome = calling.wait(COMES_TIME_MAX).json();
    assert_eq!(outcome["outcome"], "declined", "{outcome}");
}

/// Alice asks, and mallory accepts.
fn become_contacts(alice: &User, mallory: &User) {
    alice.cli(["contact", "add", &mallory.username]).ok();
    becomes(mallory, alice, "requested");
    mallory.cli(["contact", "accept", &alice.username]).ok();
    becomes(alice, mallory, "contact");
    becomes(mallory, alice, "contact");
}

#[track_caller]
fn becomes(of: &Daemon, who: &User, state: &str) {
    eventually(COMES_TIME_MAX, &format!("{} is {state} to {}", who.username, of.name()), || {
        let contact = of.api().get(&format!("/v1/contacts/{}", who.username))?;
        if contact["state"] == state { Ok(()) } else { Err(contact.to_string()) }
    });
}

/// The other process, and what it says line by line.
struct AskerProcess {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl AskerProcess {
    fn start(server: &Daemon, alice: &User, mallory: &User, machine: &Machine) -> Self {
        let authority = text(&server.api().get("/v1/authority").expect("the authority shows itself"), "key");
        let tcp = server.addresses().into_iter().find(|address| address.contains("/tcp/")).expect("the server listens on TCP");
        let task = json!({
            "server": tcp, "relay": server.peer_id(), "authority": authority, "alice": alice.peer_id(), "phrase": mallory.phrase,
            "ip": machine.address,
        });
        let mut child = Command::new("ip")
            .args(["netns", "exec", &machine.namespace])
            .arg(std::env::current_exe().expect("this test is a file"))
            .args(["--exact", TEST, "--nocapture"])
            .env(TASK, task.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("`ip` runs, as was seen before");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        Self { child, lines }
    }

    /// What follows `word` in the next line that has it.
    #[track_caller]
    fn line(&mut self, word: &str) -> String {
        for line in self.lines.by_ref() {
            if let Some((_, said)) = line.expect("text").split_once(word) {
                return said.trim().to_owned();
            }
        }
        panic!("the asker has ended without {word:?}");
    }

    fn say(&mut self, line: &str) {
        let input = self.child.stdin.as_mut().expect("piped");
        writeln!(input, "{line}").expect("the asker reads");
    }

    #[track_caller]
    fn end(mut self) {
        assert!(self.child.wait().expect("it was started").success(), "the asker failed");
    }
}

impl Drop for AskerProcess {
    fn drop(&mut self) {
        // Over already, unless the test failed.
        let _ended = self.child.kill();
        let _status = self.child.wait();
    }
}

/// A peer with a device key of mallory's, and all it was told.
struct Asker {
    runtime: Runtime,
    swarm: NodeSwarm,
    frames: Vec<(PeerId, Frame)>,
    /// Every event of the swarm, in words: who connects, whom a behaviour dials, what identify received.
    events: Vec<String>,
    /// Every frame, in bytes.
    bytes: Vec<u8>,
    port: u16,
}

impl Asker {
    fn new(forger: &Forger, ip: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let keypair = halloo::address::keypair(&forger.device).expect("32 bytes are a key");
        let swarm = runtime.block_on(async { build_swarm(keypair, SwarmOptions::lab()).expect("a swarm") });
        let mut asker = Self { runtime, swarm, frames: Vec::new(), events: Vec::new(), bytes: Vec::new(), port: 0 };
        let hello = wire::encode(&Frame::new(0, &forger.hello(None)));
        asker.swarm.behaviour_mut().streams.set_hello(Arc::new(move || hello.clone()));
        let listen: Multiaddr = format!("/ip4/{ip}/tcp/0").parse().expect("an address");
        asker.enter(|swarm| swarm.listen_on(listen).map(|_| ()).expect("the machine has the address"));
        asker.until("a listener", |asker| asker.swarm.listeners().next().is_some());
        let port = asker.swarm.listeners().flat_map(|address| address.iter()).find_map(|part| match part {
            libp2p::multiaddr::Protocol::Tcp(port) => Some(port),
            _ => None,
        });
        asker.port = port.expect("it listens on TCP");
        asker
    }

    fn enter<T>(&mut self, act: impl FnOnce(&mut NodeSwarm) -> T) -> T {
        let _entered = self.runtime.enter();
        act(&mut self.swarm)
    }

    fn is_connected(&self, peer: &PeerId) -> bool {
        self.swarm.behaviour().streams.is_connected(peer)
    }

    fn send(&mut self, to: PeerId, frame: &Frame) {
        self.swarm.behaviour_mut().streams.send(to, None, wire::encode(frame)).expect("there is a connection");
    }

    /// Dials until there is a connection. One dial may be refused, and then another is needed.
    #[track_caller]
    fn connect(&mut self, peer: PeerId, address: &Multiaddr) {
        let until = Instant::now() + COMES_TIME_MAX;
        let mut dial_at = Instant::now();
        while !self.is_connected(&peer) {
            assert!(Instant::now() < until, "no connection: {:#?}", self.events);
            if dial_at <= Instant::now() {
                dial_at = Instant::now() + AGAIN_EVERY;
                self.enter(|swarm| {
                    let _dialled = swarm.dial(address.clone());
                });
            }
            self.step();
        }
    }

    /// Waits for something that follows from what was done, or for word of the first process, which waits for one thing itself.
    #[track_caller]
    fn until(&mut self, what: &str, mut is_done: impl FnMut(&Self) -> bool) {
        let until = Instant::now() + COMES_TIME_MAX;
        while !is_done(self) {
            assert!(Instant::now() < until, "no {what}: {:#?}", self.events);
            self.step();
        }
    }

    fn step(&mut self) {
        let Self { runtime, swarm, .. } = self;
        let next = async { tokio::time::timeout(Duration::from_millis(100), swarm.select_next_some()).await };
        let Ok(event) = runtime.block_on(next) else { return };
        match event {
            SwarmEvent::Behaviour(BehaviourEvent::Streams(
                streams::Event::Frame { peer, bytes, .. } | streams::Event::Hello { peer, bytes, .. },
            )) => {
                if let Ok(frame) = wire::decode::<Frame>(&bytes, wire::FRAME_BYTES_MAX) {
                    self.acknowledge(peer, &frame);
                    self.frames.push((peer, frame));
                }
                self.bytes.extend(bytes);
            }
            event => self.events.push(format!("{event:?}")),
        }
    }

    /// So that it isn't repeated.
    fn acknowledge(&mut self, peer: PeerId, frame: &Frame) {
        if frame.kind == CallSignal::KIND {
            let ack = CallSignalAck { status: SignalStatus::Taken, extensions: Extensions::none() };
            self.send(peer, &Frame::new(frame.id, &ack));
        }
    }

    /// Whether a decline of this call has come from `peer`.
    fn is_declined(&self, peer: PeerId, call: CallId) -> bool {
        let declines = |frame: &Frame| {
            let signal = frame.parse::<CallSignal>().map(|message| message.signal.unverified().clone());
            signal.is_ok_and(|signal| signal.call == call && matches!(signal.body, SignalBody::Decline { .. }))
        };
        self.frames.iter().any(|(from, frame)| *from == peer && declines(frame))
    }

    fn answer<A: Message>(&self, id: u32) -> Option<A> {
        let answers = |frame: &Frame| frame.id == id && frame.kind == A::KIND;
        self.frames.iter().find(|(_, frame)| answers(frame)).map(|(_, frame)| frame.parse().expect("an answer of this kind"))
    }

    fn knows(&self, ip: [u8; 4]) -> bool {
        let words = std::net::Ipv4Addr::from(ip).to_string();
        let is_in = |bytes: &[u8]| self.bytes.windows(bytes.len()).any(|window| window == bytes);
        self.events.iter().any(|event| event.contains(&words)) || is_in(&ip) || is_in(words.as_bytes())
    }

    /// Tells the first process.
    fn tell_what_it_knows(&self) {
        let hers = HERS.iter().filter(|ip| self.knows(**ip)).map(|ip| std::net::Ipv4Addr::from(*ip).to_string());
        let hers: Vec<String> = hers.collect();
        tell(&format!("TOLD {}", json!({"hers": hers, "knows_server": self.knows([5, 0, 1, 1])})));
    }
}

/// Whom the asker calls, as everybody who knows the name finds her.
struct Callee {
    peer: PeerId,
    entry: DeviceEntry,
    capability: Signed<Capability>,
}

impl Callee {
    fn find(reader: &mut Attacker, user: &UserId) -> Self {
        let record = reader.find_record(RecordKey::of(user)).expect("everybody may look up a name");
        let entry = record.entries[0].entry.unverified().clone();
        let sealed: SealedPart =
            wire::decode(entry.extensions.find(OPEN_PART).expect("she takes calls of anyone"), 4_096).expect("a sealed part");
        let part: PrivatePart = SealKey::of_name(user).open(&entry.device, &sealed).expect("it is for those who know the name");
        let capability = part.hand_over().expect("her relay hands invites over");
        Self { peer: halloo::address::peer_id(&entry.device).expect("a point on the curve"), entry, capability }
    }

    fn invite(&self, forger: &Forger, call: CallId, address: Address) -> SealedInvite {
        let invite = Invite {
            chain: forger.chain(),
            recipient: self.entry.device,
            call,
            conversation: ConversationId(rand::random()),
            kind: EventKind::VOICE_CALL,
            display_name: "Mallory".into(),
            avatar: None,
            origin: Origin { addresses: vec![address], ..Origin::default() },
            issued_at: now(),
            expires_at: now().plus_secs(CallTimers::default().ring.as_secs()),
            offer: "v=0".into(),
            extensions: Extensions::none(),
        };
        let mut rng = rand::rngs::StdRng::from_seed(rand::random());
        SealedInvite::seal(invite, &forger.device, &self.entry.hpke_key, &mut rng).expect("it fits")
    }
}

/// The other process: knows a name, looks up the record, takes its relay, calls, and tells what it has learnt; as a stranger, then as a contact.
fn ask(task: &Value) {
    let (said, ip, server) = (listen(), text(task, "ip"), text(task, "server"));
    let authority = text(task, "authority").parse().expect("a key");
    let named = |name: &str| UserId::Named { authority, name: name.parse().expect("a name") };
    let mut reader = Attacker::connect(&server, &key(0x0f_0000), &stranger_hello());
    let callee = Callee::find(&mut reader, &named("alice"));
    let own = reader.find_record(RecordKey::of(&named("mallory"))).expect("his daemon has published it");
    let forger = Forger::new(&text(task, "phrase"), own.user, 0x0f_0001);
    assert_eq!(callee.peer.to_string(), text(task, "alice"));

    let mut asker = Asker::new(&forger, &ip);
    let relay: PeerId = text(task, "relay").parse().expect("a peer id");
    let address: Multiaddr = server.parse().expect("an address");
    asker.connect(relay, &address);
    // So that DCUtR has something to say.
    asker.until("word of how the server sees us", |asker| asker.events.iter().any(|event| event.contains("observed_addr")));

    let octets: std::net::Ipv4Addr = ip.parse().expect("an address");
    let origin = Address::V4 { ip: octets.octets(), port: asker.port, transport: Transport::Tcp };
    is_handed_over_and_declined(&mut asker, &forger, &callee, relay, origin.clone());
    let address: Multiaddr = address.iter().take_while(|part| !matches!(part, libp2p::multiaddr::Protocol::P2p(_))).collect();
    let circuit = circuit_address(relay, &address, Some(callee.peer));
    rings_on_a_circuit_and_is_declined(&mut asker, &forger, &callee, &circuit, origin);
    asker.tell_what_it_knows();

    asker.until("word that they are contacts", |_| said.try_recv().is_ok_and(|line| line == "CONTACT"));
    let until = Instant::now() + COMES_TIME_MAX;
    while !asker.knows(HERS[1]) {
        assert!(Instant::now() < until, "a contact isn't told where she is: {:#?}", asker.events);
        asker.connect(callee.peer, &circuit);
        // By which alice's device knows that it is a contact's.
        asker.send(callee.peer, &Frame::new(0, &forger.hello(None)));
        let again_at = Instant::now() + AGAIN_EVERY;
        while Instant::now() < again_at && !asker.knows(HERS[1]) {
            asker.step();
        }
    }
    asker.tell_what_it_knows();
    // The hole punch goes on.
    asker.until("word that it was seen", |_| said.try_recv().is_ok_and(|line| line == "SEEN"));
}

/// The relay brings the invite, and what alice's device says: there is no connection to it.
fn is_handed_over_and_declined(asker: &mut Asker, forger: &Forger, callee: &Callee, relay: PeerId, origin: Address) {
    let call = CallId(rand::random());
    let sealed = callee.invite(forger, call, origin);
    let relay_device: DeviceKey = halloo::address::device_key(&relay).expect("an Ed25519 key");
    let hash = InviteHandOver::hash_of(&callee.entry.device, &sealed);
    let id = callee.capability.unverified().id;
    let proof = CapabilityProof::sign(id, relay_device, hash, now(), &forger.device);
    let (target, capability) = (callee.entry.device, callee.capability.clone());
    let request = InviteHandOver { target, capability, proof, sealed, extensions: Extensions::none() };
    asker.send(relay, &Frame::new(1, &request));
    asker.until("answer of the relay", |asker| asker.answer::<HandOverAnswer>(1).is_some());
    let status = asker.answer::<HandOverAnswer>(1).map(|answer| answer.status);
    let Some(HandOverStatus::HandedOver { word, .. }) = status else { panic!("not handed over: {status:?}") };
    let word = open_word(&word, &callee.entry.device, &forger.device_key()).expect("alice's device has signed it for this one");
    assert_eq!(word.signal().body, SignalBody::Ringing);
    tell(&format!("RINGS {call}"));
    asker.until("decline by way of the relay", |asker| asker.is_declined(relay, call));
    assert!(!asker.is_connected(&callee.peer), "alice's device has connected to a stranger's: {:#?}", asker.events);
}

fn rings_on_a_circuit_and_is_declined(asker: &mut Asker, forger: &Forger, callee: &Callee, circuit: &Multiaddr, origin: Address) {
    asker.connect(callee.peer, circuit);
    asker.send(callee.peer, &Frame::new(0, &forger.hello(None)));
    asker.until("hello", |asker| asker.frames.iter().any(|(from, frame)| *from == callee.peer && frame.kind == Hello::KIND));
    let call = CallId(rand::random());
    let message = CallInvite { sealed: callee.invite(forger, call, origin), extensions: Extensions::none() };
    asker.send(callee.peer, &Frame::new(2, &message));
    asker.until("answer of alice's device", |asker| asker.answer::<InviteAnswer>(2).is_some());
    assert_eq!(asker.answer::<InviteAnswer>(2).map(|answer| answer.status), Some(InviteStatus::Ringing));
    tell(&format!("RINGS {call}"));
    asker.until("decline on the circuit", |asker| asker.is_declined(callee.peer, call));
}

/// What the first process says.
fn listen() -> Receiver<String> {
    // A few lines are said in all.
    let (sender, receiver) = sync_channel(64);
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

/// Says a line to the first process.
fn tell(line: &str) {
    writeln!(std::io::stdout(), "{line}").expect("the first process reads");
}
