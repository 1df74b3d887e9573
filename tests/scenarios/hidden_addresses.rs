//! Goal: a stranger who knows a user's name, takes the relay that the record names, and calls, learns no address of the user's before the answer; a
//! contact does, so that the two can try to get from the relay to a direct connection. Method: the small internet of `natlab`, without `--lab`. Who asks is code with a real
//! user's device key and certificate, which speaks identify and DCUtR on every connection; it runs in a network namespace of its own, as another
//! process of this very test, and tells whether anything it was told, and anybody who connected to it, holds alice's addresses. The contact is
//! the control: the same code finds them.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use halloo::behaviour::{Behaviour, BehaviourEvent};
use halloo::identity::LocalIdentity;
use halloo::store::Store;
use halloo::streams;
use halloo::swarm::{SwarmOptions, build_swarm};
use halloo_protocol::call::{CallId, CallInvite, CallTimers, Invite, InviteAnswer, InviteStatus, Origin, SealedInvite};
use halloo_protocol::directory::RecordKey;
use halloo_protocol::event::EventKind;
use halloo_protocol::id::ConversationId;
use halloo_protocol::identity::{Chain, UserId};
use halloo_protocol::node::{Address, Hello, Transport};
use halloo_protocol::wire::{self, Extensions, Frame, Message};
use halloo_tests::attacker::{Attacker, device_secret, key, now, stranger_hello};
use halloo_tests::daemon::{Daemon, Launch};
use halloo_tests::eventually;
use halloo_tests::natlab::{Machine, NatLab};
use halloo_tests::network::{ANYONE, AUTHORITY, User, enrol_user_in, infrastructure_roles, invite, one_is, text};
use libp2p::swarm::SwarmEvent;
use libp2p::{Multiaddr, PeerId, Swarm};
use rand::SeedableRng;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

/// What the other process is to do; it isn't there in the first.
const TASK: &str = "HALLOO_TEST_ASKER";

/// This test, as its binary knows it.
const TEST: &str = "hidden_addresses::a_stranger_learns_no_address_before_the_answer_and_a_contact_does";

const READY_TIME_MAX: Duration = Duration::from_secs(90);
const SETTLED_TIME_MAX: Duration = Duration::from_secs(60);

/// How long the asker waits for what must come.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(20);

/// How long it listens for what mustn't come: identify, the hole punch and a signal's repetition all take less.
const LISTEN_TIME: Duration = Duration::from_secs(4);

/// How often the circuit is dialled, a second apart.
const DIALS_MAX: usize = 15;

/// Alice's machine and her router.
const HERS: [[u8; 4]; 2] = [[192, 168, 11, 2], [5, 0, 11, 1]];

#[test]
fn a_stranger_learns_no_address_before_the_answer_and_a_contact_does() {
    if let Ok(task) = std::env::var(TASK) {
        return ask(&serde_json::from_str(&task).expect("the first process wrote it"));
    }
    let mut lab = NatLab::new();
    let folder = tempfile::Builder::new().prefix("halloo-").tempdir().expect("a temporary directory");
    let public = lab.public_machine("srv", 1);
    let mut server = Daemon::init(folder.path(), "server", &format!("[authority]\nname = \"{AUTHORITY}\"\n"));
    server.start(on(&public).args(listen(&public.address)).args(infrastructure_roles()));
    let (home_a, home_b, outside) = (lab.home_machine("a", 11), lab.home_machine("b", 12), lab.public_machine("m", 13));
    let alice = join(folder.path(), &server, "alice", &home_a);
    let mut bob = join(folder.path(), &server, "bob", &home_b);
    let mallory = enrol_user_in(Some(&outside.namespace), folder.path(), "mallory", "", &invite(&server));
    for user in [&alice, &bob] {
        eventually(SETTLED_TIME_MAX, "a relay holds a reservation", || {
            let status = user.api().get("/v1/status")?;
            let relays = status["relays"].as_array().map_or(0, Vec::len);
            if relays > 0 && status["reachability"] == "relayed" { Ok(()) } else { Err(status.to_string()) }
        });
    }
    bob.api().post("/v1/contacts", &json!({"user": alice.username})).expect("bob asks");
    eventually(SETTLED_TIME_MAX, "the request came", || {
        let contact = alice.api().get(&format!("/v1/contacts/{}", bob.username))?;
        if contact["state"] == "requested" { Ok(()) } else { Err(contact.to_string()) }
    });
    alice.api().post(&format!("/v1/contacts/{}/accept", bob.username), &json!({})).expect("alice accepts");
    one_is(&bob, &alice.username, "contact");

    let stranger = run_asker(&server, &alice, &outside, mallory.home(), |call| {
        alice.wait_event(SETTLED_TIME_MAX, "call_incoming", |event| event["call_id"] == call);
        assert_eq!(alice.cli(["calls", "decline", call]).code, 0);
    });
    assert_eq!(stranger["rang"], true, "{stranger}");
    assert_eq!(stranger["knows_server"], true, "what it was told is searched: {stranger}");
    assert_eq!(stranger["hers"], json!([]), "{stranger}");

    assert_eq!(bob.terminate().0, 0);
    let contact = run_asker(&server, &alice, &home_b, bob.home(), |_| {});
    let learnt = contact["hers"].as_array().cloned().unwrap_or_default();
    assert!(learnt.iter().any(|address| address == "5.0.11.1"), "a contact learns where she is: {contact}");
}

fn on(machine: &Machine) -> Launch {
    Launch { namespace: Some(machine.namespace.clone()), ..Launch::default() }
}

fn listen(address: &str) -> [String; 4] {
    let flag = || "--listen".to_owned();
    [flag(), format!("/ip4/{address}/udp/0/quic-v1"), flag(), format!("/ip4/{address}/tcp/0")]
}

fn join(folder: &Path, server: &Daemon, name: &str, machine: &Machine) -> User {
    let mut user = enrol_user_in(Some(&machine.namespace), folder, name, ANYONE, &invite(server));
    user.spawn(on(machine).args(listen("0.0.0.0")));
    user.wait_ready(READY_TIME_MAX);
    user
}

/// Runs the asker with the device in `home`, on `machine`; `hung_up` is told the call once the asker has closed the connection that it called on.
fn run_asker(server: &Daemon, alice: &User, machine: &Machine, home: &Path, hung_up: impl FnOnce(&str)) -> Value {
    let authority = text(&server.api().get("/v1/authority").expect("the authority shows itself"), "key");
    let tcp = server.addresses().into_iter().find(|address| address.contains("/tcp/")).expect("the server listens on TCP");
    let task = json!({
        "server": tcp, "authority": authority, "alice": alice.peer_id(), "home": home, "ip": machine.address,
    });
    let mut child = Command::new("ip")
        .args(["netns", "exec", &machine.namespace])
        .arg(std::env::current_exe().expect("this test is a file"))
        .args(["--exact", TEST, "--nocapture"])
        .env(TASK, task.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .expect("`ip` runs, as was seen before");
    let output = child.stdout.take().expect("piped");
    let (mut told, mut hung_up) = (Value::Null, Some(hung_up));
    for line in BufReader::new(output).lines() {
        let line = line.expect("text");
        if let Some(call) = line.split_once("HUNG UP ").map(|(_, call)| call.trim()) {
            if let Some(hung_up) = hung_up.take() {
                hung_up(call);
            }
        } else if let Some((_, json)) = line.split_once("TOLD ") {
            told = serde_json::from_str(json).expect("the asker writes JSON");
        }
    }
    assert!(child.wait().expect("it was started").success(), "the asker failed");
    told
}

/// A peer with a user's device key, and all it was told.
struct Asker {
    runtime: Runtime,
    swarm: Swarm<Behaviour>,
    frames: Vec<Frame>,
    /// Every event of the swarm, in words: who connects, whom a behaviour dials, what identify received.
    events: Vec<String>,
    /// Every frame, in bytes.
    bytes: Vec<u8>,
}

impl Asker {
    fn new(home: &Path, ip: &str) -> (Self, Chain, u16) {
        let store = Store::open(home).expect("no daemon has it open");
        let chain = LocalIdentity::load(home, &store, now()).expect("it was enrolled").chain().clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let keypair = halloo::address::keypair(&device_secret(home)).expect("32 bytes are a key");
        let swarm = runtime.block_on(async { build_swarm(keypair, SwarmOptions::lab()).expect("a swarm") });
        let mut asker = Self { runtime, swarm, frames: Vec::new(), events: Vec::new(), bytes: Vec::new() };
        let hello = wire::encode(&Frame::new(0, &Hello { chain: Some(chain.clone()), ..stranger_hello() }));
        asker.swarm.behaviour_mut().streams.set_hello(Arc::new(move || hello.clone()));
        let listen: Multiaddr = format!("/ip4/{ip}/tcp/0").parse().expect("an address");
        asker.enter(|swarm| swarm.listen_on(listen).map(|_| ()).expect("the machine has the address"));
        asker.until("a listener", |asker| asker.swarm.listeners().next().is_some());
        let port = asker.swarm.listeners().flat_map(|address| address.iter()).find_map(|part| match part {
            libp2p::multiaddr::Protocol::Tcp(port) => Some(port),
            _ => None,
        });
        (asker, chain, port.expect("it listens on TCP"))
    }

    fn enter<T>(&mut self, act: impl FnOnce(&mut Swarm<Behaviour>) -> T) -> T {
        let _entered = self.runtime.enter();
        act(&mut self.swarm)
    }

    fn send(&mut self, to: PeerId, frame: &Frame) {
        self.swarm.behaviour_mut().streams.send(to, None, wire::encode(frame)).expect("there is a connection");
    }

    #[track_caller]
    fn until(&mut self, what: &str, mut is_done: impl FnMut(&Self) -> bool) {
        let until = Instant::now() + ANSWER_TIME_MAX;
        while !is_done(self) {
            assert!(Instant::now() < until, "no {what}: {:#?}", self.events);
            self.step(Duration::from_millis(100));
        }
    }

    fn listen_for(&mut self, time: Duration) {
        let until = Instant::now() + time;
        while Instant::now() < until {
            self.step(Duration::from_millis(100));
        }
    }

    fn step(&mut self, patience: Duration) {
        let Self { runtime, swarm, .. } = self;
        let event = runtime.block_on(async { tokio::time::timeout(patience, swarm.select_next_some()).await });
        let Ok(event) = event else { return };
        match event {
            SwarmEvent::Behaviour(BehaviourEvent::Streams(
                streams::Event::Frame { bytes, .. } | streams::Event::Hello { bytes, .. },
            )) => {
                self.frames.extend(wire::decode::<Frame>(&bytes, wire::FRAME_BYTES_MAX));
                self.bytes.extend(bytes);
            }
            event => self.events.push(format!("{event:?}")),
        }
    }

    fn knows(&self, ip: [u8; 4]) -> bool {
        let words = std::net::Ipv4Addr::from(ip).to_string();
        let is_in = |bytes: &[u8]| self.bytes.windows(bytes.len()).any(|window| window == bytes);
        self.events.iter().any(|event| event.contains(&words)) || is_in(&ip) || is_in(words.as_bytes())
    }
}

/// The other process: knows a name, looks up the record, takes its relay, calls, hangs up on the connection, and tells what it has learnt.
fn ask(task: &Value) {
    let home = PathBuf::from(text(task, "home"));
    let ip = text(task, "ip");
    let user =
        UserId::Named { authority: text(task, "authority").parse().expect("a key"), name: "alice".parse().expect("a name") };
    let server = text(task, "server");
    let record = Attacker::connect(&server, &key(0x0f_0000), &stranger_hello()).find_record(RecordKey::of(&user));
    let record = record.expect("everybody may look up a name");
    let entry = record.entries[0].entry.unverified().clone();
    let alice: PeerId = text(task, "alice").parse().expect("a peer id");

    let (mut asker, chain, port) = Asker::new(&home, &ip);
    let relay: Multiaddr = server.parse().expect("an address");
    asker.enter(|swarm| swarm.dial(relay.clone()).expect("it can be dialled"));
    // So that DCUtR has something to say.
    asker.until("word of how the server sees us", |asker| asker.events.iter().any(|event| event.contains("observed_addr")));
    let circuit: Multiaddr = format!("{relay}/p2p-circuit/p2p/{alice}").parse().expect("an address");
    // Right after a daemon with this device has ended, the relay may refuse the first.
    for _ in 0..DIALS_MAX {
        if asker.swarm.behaviour().streams.is_connected(&alice) {
            break;
        }
        asker.enter(|swarm| {
            let _dialled = swarm.dial(relay.clone());
            let _dialled = swarm.dial(circuit.clone());
        });
        asker.listen_for(Duration::from_secs(1));
    }
    asker.until("circuit", |asker| asker.swarm.behaviour().streams.is_connected(&alice));
    let hello = Hello { chain: Some(chain.clone()), ..stranger_hello() };
    asker.send(alice, &Frame::new(0, &hello));
    asker.until("hello", |asker| asker.frames.iter().any(|frame| frame.kind == Hello::KIND));
    asker.listen_for(LISTEN_TIME);

    let octets: std::net::Ipv4Addr = ip.parse().expect("an address");
    let address = Address::V4 { ip: octets.octets(), port, transport: Transport::Tcp };
    let call = CallId(rand::random());
    let invite = Invite {
        chain,
        recipient: entry.device,
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
    let mut rng = rand::rngs::StdRng::seed_from_u64(u64::from(port));
    let sealed = SealedInvite::seal(invite, &device_secret(&home), &entry.hpke_key, &mut rng).expect("it fits");
    asker.send(alice, &Frame::new(1, &CallInvite { sealed, extensions: Extensions::none() }));
    let rings = |frame: &Frame| frame.parse::<InviteAnswer>().is_ok_and(|answer| answer.status == InviteStatus::Ringing);
    asker.until("word that it rings", |asker| asker.frames.iter().any(rings));
    // What is said from now on needs another way.
    asker.enter(|swarm| swarm.disconnect_peer_id(alice).expect("there is a connection"));
    tell(&format!("HUNG UP {call}"));
    asker.listen_for(2 * LISTEN_TIME);
    let hers: Vec<String> =
        HERS.iter().filter(|ip| asker.knows(**ip)).map(|ip| std::net::Ipv4Addr::from(*ip).to_string()).collect();
    tell(&format!("TOLD {}", json!({"rang": true, "hers": hers, "knows_server": asker.knows([5, 0, 1, 1])})));
}

/// Says a line to the first process.
fn tell(line: &str) {
    writeln!(std::io::stdout(), "{line}").expect("the first process reads");
}
