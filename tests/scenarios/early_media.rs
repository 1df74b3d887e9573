//! Goal: between contacts the path of a call is there before somebody answers, nothing is heard over it until then, and nothing of it is left when
//! nobody does. Method: real daemons; what each end notes of a call, what it says of its media while it rings, and the sockets its process holds.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use halloo_tests::audio::{assert_heard, write_tone};
use halloo_tests::cli::{Invocation, Running};
use halloo_tests::daemon::Daemon;
use halloo_tests::linking::link;
use halloo_tests::natlab::NatLab;
use halloo_tests::network::{AUTHORITY, User, befriend, infrastructure_roles, one_is, text};
use halloo_tests::{Network, Plan, eventually};
use serde_json::Value;

/// Far longer than anything here takes: nothing is measured by it.
const PATIENCE: Duration = Duration::from_secs(60);

const ALICE_HZ: f64 = 440.0;
const BOB_HZ: f64 = 660.0;
const TALK: Duration = Duration::from_secs(3);
const HEARD_MIN: Duration = Duration::from_secs(2);

/// Calls that come to nothing, one after the other.
const IN_VAIN: usize = 50;

// What the ends note.
const ICE: &str = "ICE has found a path while it rings";
const DTLS: &str = "DTLS is through while it rings";
const ANSWERED: &str = "answered";
const BEFORE: &str = "connected while it rang";
const FIRST_AUDIO: &str = "first audio of the other end";

fn dial(from: &Daemon, to: &User, more: &[&str]) -> Running {
    Invocation::new(from.home()).args(["call", &to.username]).args(more).start()
}

/// The next call that `device` places.
#[track_caller]
fn dialled(device: &Daemon, known: &BTreeSet<String>) -> String {
    let is_new = |event: &Value| event["call_id"].as_str().is_some_and(|id| !known.contains(id));
    text(&device.wait_event(PATIENCE, "call_dialing", is_new), "call_id")
}

/// What a device has noted of a call: the other device, and the words.
fn stages(device: &Daemon, id: &str) -> Result<Vec<(Value, String)>, String> {
    let call = device.api().get(&format!("/v1/calls/{id}"))?;
    let stages = call["stages"].as_array().ok_or_else(|| call.to_string())?;
    Ok(stages.iter().map(|stage| (stage["peer_id"].clone(), text(stage, "detail"))).collect())
}

/// Waits until a device has noted this so often.
#[track_caller]
fn has_noted(device: &Daemon, id: &str, words: &str, times: usize) {
    eventually(PATIENCE, &format!("{} notes {times} times: {words}", device.name()), || {
        let stages = stages(device, id)?;
        let found = stages.iter().filter(|(_, detail)| detail.starts_with(words)).count();
        if found == times { Ok(()) } else { Err(format!("{stages:?}")) }
    });
}

/// That a device has noted these, in this order, perhaps with others between.
#[track_caller]
fn assert_order(device: &Daemon, id: &str, order: &[&str]) {
    let stages = stages(device, id).expect("the call is known");
    let mut expected = order.iter().peekable();
    for (_, detail) in &stages {
        expected.next_if(|next| detail.starts_with(**next));
    }
    assert_eq!(expected.next(), None, "at {}: {stages:#?}", device.name());
}

/// A device is connected for a call that rings, has measured the path for a while, and nothing has been said over it.
#[track_caller]
fn is_connected_and_silent(device: &Daemon, id: &str) {
    eventually(PATIENCE, "media are connected while it rings", || {
        let list = device.api().get("/v1/calls")?;
        let call = list["calls"].as_array().into_iter().flatten().find(|call| call["call_id"] == id).cloned();
        let call = call.ok_or_else(|| list.to_string())?;
        let media = &call["media"];
        assert_eq!(call["state"], "ringing", "{call}");
        for count in ["packets_sent", "packets_received", "packets_early"] {
            assert!(media.is_null() || media[count] == 0, "{}: {call}", device.name());
        }
        if media["path"].is_string() && media["rtt_ms"].is_number() { Ok(()) } else { Err(call.to_string()) }
    });
}

/// The UDP sockets of a daemon: those of its media are the only ones that come and go.
fn udp_sockets(daemon: &Daemon) -> usize {
    let pid = daemon.pid().expect("it runs");
    let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/net/{name}")).unwrap_or_default();
    let inode = |line: &str| line.split_whitespace().nth(9).map(str::to_owned);
    let udp: BTreeSet<String> = [read("udp"), read("udp6")].iter().flat_map(|table| table.lines().filter_map(inode)).collect();
    let links = fs::read_dir(format!("/proc/{pid}/fd")).expect("its files are listed");
    let names = links.flatten().filter_map(|link| fs::read_link(link.path()).ok());
    let inodes = names.filter_map(|name| Some(name.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()));
    inodes.filter(|inode| udp.contains(inode)).count()
}

/// Waits until a daemon holds as many UDP sockets as this.
#[track_caller]
fn holds(daemon: &Daemon, sockets: usize) {
    eventually(PATIENCE, &format!("{} holds {sockets} UDP sockets", daemon.name()), || {
        let held = udp_sockets(daemon);
        if held == sockets { Ok(()) } else { Err(format!("{held}")) }
    });
}

#[test]
fn all_devices_are_connected_while_they_ring_and_the_first_word_follows_the_answer() {
    let mut network = Plan::new(["alice", "bob"]).contacts_only().start();
    let [alice, bob] = network.users.as_slice() else { panic!("two users") };
    network.befriend(alice, bob);
    let (second, third) = (link(&network, bob, "bob-second", &[]), link(&network, bob, "bob-third", &[]));
    let devices: [&Daemon; 3] = [bob, &second, &third];
    devices.iter().for_each(|device| one_is(device, &alice.username, "contact"));
    eventually(PATIENCE, "alice sees three devices", || {
        let found = alice.api().get(&format!("/v1/users/{}?fresh=true&settled=true", bob.username))?;
        if found["devices"].as_array().map(Vec::len) == Some(3) { Ok(()) } else { Err(found.to_string()) }
    });
    let folder = tempfile::tempdir().expect("a temporary directory");
    let file = |name: &str| folder.path().join(name);
    write_tone(&file("alice.wav"), ALICE_HZ, TALK * 3);
    write_tone(&file("bob.wav"), BOB_HZ, TALK * 3);
    let path = |name: &str| file(name).display().to_string();
    let before: Vec<usize> = devices.iter().map(|device| udp_sockets(device)).chain([udp_sockets(alice)]).collect();

    let secs = TALK.as_secs().to_string();
    let running = dial(alice, bob, &["--duration", &secs, "--play", &path("alice.wav"), "--record", &path("alice-heard.wav")]);
    let id = dialled(alice, &BTreeSet::new());
    for device in devices {
        has_noted(device, &id, DTLS, 1);
    }
    has_noted(alice, &id, DTLS, 3);
    devices.iter().chain([&&**alice]).for_each(|device| is_connected_and_silent(device, &id));
    assert_eq!(udp_sockets(alice), before[3] + 3, "a leg for each device");

    let answer = ["calls", "answer", &id, "--play", &path("bob.wav"), "--record", &path("bob-heard.wav")];
    assert_eq!(second.cli(answer).code, 0);
    for (device, sockets) in [(&**bob, before[0]), (&third, before[2])] {
        let end = device.wait_event(PATIENCE, "call_ended", |event| event["call_id"] == id.as_str());
        assert_eq!(end["outcome"], "answered-elsewhere", "{end}");
        holds(device, sockets);
    }
    let outcome = running.wait(PATIENCE).ok();
    eprintln!("{outcome}");
    assert_eq!((&outcome["outcome"], &outcome["answered_by"]), (&"completed".into(), &second.peer_id().into()), "{outcome}");
    assert_eq!((&outcome["path"], &outcome["setup_ms"]), (&"direct".into(), &0.into()), "nothing was left to set up: {outcome}");
    second.wait_event(PATIENCE, "call_ended", |event| event["outcome"] == "completed");
    let noted = stages(alice, &id).expect("the call is known");
    let first = |words: &str| noted.iter().position(|(_, detail)| detail.contains(words));
    if first("from the cache").is_some() {
        // Nothing is asked of anybody before the invite is on its way.
        let beside = first("from the directory too").or(first("nothing newer in the directory"));
        assert!(first("sent").is_some_and(|sent| beside.is_none_or(|beside| sent < beside)), "{noted:#?}");
    }
    for device in [&**alice, &second] {
        assert_order(device, &id, &[ICE, DTLS, ANSWERED, BEFORE, FIRST_AUDIO]);
        let stages = stages(device, &id).expect("the call is known");
        let before = stages.iter().find(|(_, detail)| detail.starts_with(BEFORE)).map(|(_, detail)| detail.clone());
        assert!(before.is_some_and(|words| words.ends_with("; 0 packets of audio before")), "{stages:?}");
    }
    assert_heard(&file("alice-heard.wav"), BOB_HZ, ALICE_HZ, HEARD_MIN);
    assert_heard(&file("bob-heard.wav"), ALICE_HZ, BOB_HZ, HEARD_MIN);
    for (device, sockets) in devices.into_iter().chain([&**alice]).zip(before) {
        holds(device, sockets);
    }
    network.users.clear();
}

#[test]
fn a_strangers_call_is_connected_when_somebody_answers() {
    let mut network = Network::of(["alice", "bob"]);
    let [alice, bob] = network.users();
    let before = udp_sockets(bob);
    let running = dial(alice, bob, &["--duration", "1", "--trace"]);
    let id = text(&bob.wait_event(PATIENCE, "call_incoming", |_| true), "call_id");
    alice.wait_event(PATIENCE, "call_ringing", |event| event["call_id"] == id.as_str());
    assert_eq!(udp_sockets(bob), before, "no socket is opened for a stranger");
    assert_eq!(bob.cli(["calls", "answer", &id]).code, 0);
    let outcome = running.wait(PATIENCE).ok();
    assert_eq!(outcome["outcome"], "completed", "{outcome}");
    assert_order(alice, &id, &["rings", ANSWERED, "ICE has found a path", "DTLS is through: connected", FIRST_AUDIO]);
    for device in [&**alice, bob] {
        let stages = stages(device, &id).expect("the call is known");
        assert!(stages.iter().all(|(_, detail)| !detail.contains("while it ring")), "{stages:?}");
    }
}

#[test]
fn who_wants_to_be_relayed_is_relayed_while_it_rings_and_after() {
    let mut network = Plan::new(["alice", "bob", "carol"]).config("bob", "[calls]\nrelayed_only = true\n").start();
    let [alice, bob, carol] = network.users.as_slice() else { panic!("three users") };
    for user in [alice, bob, carol] {
        eventually(PATIENCE, "a media relay is at hand", || {
            let status = user.api().get("/v1/status")?;
            let has_relay = status["media_relays"].as_array().is_some_and(|relays| !relays.is_empty());
            if has_relay { Ok(()) } else { Err(status.to_string()) }
        });
    }
    network.befriend(alice, bob);
    network.befriend(alice, carol);

    // The callee's setting holds before the answer as well.
    let running = dial(alice, bob, &["--duration", "1"]);
    let first = text(&bob.wait_event(PATIENCE, "call_incoming", |_| true), "call_id");
    for user in [alice, bob] {
        has_noted(user, &first, &format!("{DTLS}: connected, relayed"), 1);
    }
    assert_eq!(bob.cli(["calls", "answer", &first]).code, 0);
    assert_eq!(running.wait(PATIENCE).ok()["path"], "relayed");

    // Carol, who is connected directly by then, wants to be relayed when she answers: the offer is met anew.
    let running = dial(alice, carol, &[]);
    let second = text(&carol.wait_event(PATIENCE, "call_incoming", |_| true), "call_id");
    for user in [alice, carol] {
        has_noted(user, &second, &format!("{DTLS}: connected, direct"), 1);
    }
    let answer = dial(carol, alice, &["--relayed", "--duration", "1"]).wait(PATIENCE).ok();
    let outcome = running.wait(PATIENCE).ok();
    eprintln!("{outcome}");
    for outcome in [answer, outcome] {
        assert_eq!((&outcome["call_id"], &outcome["path"]), (&second.as_str().into(), &"relayed".into()), "{outcome}");
        assert_eq!(outcome["outcome"], "completed", "{outcome}");
    }
    assert_order(alice, &second, &[DTLS, ANSWERED, "DTLS is through: connected, relayed", FIRST_AUDIO]);
    network.users.clear();
}

#[test]
fn calls_that_come_to_nothing_leave_nothing() {
    let mut network = Network::of(["alice", "bob"]);
    let [alice, bob] = network.users.as_slice() else { panic!("two users") };
    network.befriend(alice, bob);
    let before = (udp_sockets(alice), udp_sockets(bob));
    let mut known = BTreeSet::new();
    let mut connected = 0;
    for round in 0..IN_VAIN {
        let running = dial(alice, bob, &[]);
        let id = dialled(alice, &known);
        bob.wait_event(PATIENCE, "call_incoming", |event| event["call_id"] == id.as_str());
        // Some end before they are connected, some while they are being, some after.
        if round % 5 == 0 {
            has_noted(alice, &id, DTLS, 1);
            connected += 1;
        }
        match round % 3 {
            0 => running.signal("INT"),
            1 => assert_eq!(alice.cli(["calls", "hangup", &id]).code, 0),
            _ => assert_eq!(bob.cli(["calls", "decline", &id]).code, 0),
        }
        assert_eq!(running.wait(PATIENCE).code, 1);
        let expected = if round % 3 == 2 { "declined" } else { "cancelled" };
        for user in [alice, bob] {
            let end = user.wait_event(PATIENCE, "call_ended", |event| event["call_id"] == id.as_str());
            assert_eq!(end["outcome"], expected, "{end}");
        }
        known.insert(id);
    }
    holds(alice, before.0);
    holds(bob, before.1);
    eprintln!("{IN_VAIN} calls in vain, {connected} of them connected: as many sockets as before, {before:?}");
    for user in [alice, bob] {
        let list = user.api().get("/v1/calls").expect("the calls are listed");
        let is_over = |call: &Value| call["state"] == "ended" && call["media"].is_null();
        assert!(list["calls"].as_array().into_iter().flatten().all(is_over), "{list}");
    }
    network.users.clear();
}

/// While it rings alice's router lets no media through; when bob, who has a public address, answers, it does.
#[test]
#[ignore = "waits till a connection is given up: scripts/test --long"]
fn what_fails_while_it_rings_is_connected_after_the_answer() {
    let mut lab = NatLab::new();
    let (a, b, public) = (lab.home_machine("a", 11), lab.public_machine("b", 12), lab.public_machine("srv", 1));
    let folder = tempfile::Builder::new().prefix("halloo-").tempdir().expect("a temporary directory");
    let mut server = Daemon::init(folder.path(), "server", &format!("[authority]\nname = \"{AUTHORITY}\"\n"));
    let roles = infrastructure_roles().collect::<Vec<_>>();
    server.start(public.launch(&public.address).args(roles));
    let file = |name: &str| folder.path().join(name);
    write_tone(&file("alice.wav"), ALICE_HZ, TALK * 3);
    write_tone(&file("bob.wav"), BOB_HZ, TALK * 3);
    let path = |name: &str| file(name).display().to_string();
    let (alice, bob) = (a.join(folder.path(), &server, "alice", &[]), b.join(folder.path(), &server, "bob", &[]));
    // What media could take: UDP between the two, and the relay's ports, TLS among them.
    let between = format!("ip daddr != {0} ip saddr != {0} meta l4proto udp", public.address);
    lab.block(&a, &[&between, "udp dport 3478", "tcp dport { 3478, 5349 }"]);
    befriend(&alice, &bob);
    let secs = TALK.as_secs().to_string();
    let running = dial(&alice, &bob, &["--duration", &secs, "--play", &path("alice.wav"), "--record", &path("alice-heard.wav")]);
    let id = text(&bob.wait_event(PATIENCE, "call_incoming", |_| true), "call_id");
    has_noted(&bob, &id, "not connected while it rings", 1);
    has_noted(&alice, &id, "not connected while it rings", 1);
    lab.unblock(&a);
    let answer = ["calls", "answer", &id, "--play", &path("bob.wav"), "--record", &path("bob-heard.wav")];
    assert_eq!(bob.cli(answer).code, 0);
    let outcome = running.wait(PATIENCE).ok();
    eprintln!("{outcome}");
    assert_eq!(outcome["outcome"], "completed", "{outcome}");
    bob.wait_event(PATIENCE, "call_ended", |event| event["outcome"] == "completed");
    assert_heard(Path::new(&path("alice-heard.wav")), BOB_HZ, ALICE_HZ, HEARD_MIN);
    assert_heard(Path::new(&path("bob-heard.wav")), ALICE_HZ, BOB_HZ, HEARD_MIN);
    assert_order(&alice, &id, &["not connected while it rings", ANSWERED, "DTLS is through: connected", FIRST_AUDIO]);
}
