//! Goal: people whom NATs keep apart talk, and the relay's owner sees it (what pairs of networks there are: `nat_table`). Method: the small internet
//! of `natlab`; each end plays a tone, and each recording must hold the other's. Where no path can be punched, media goes through a relay that a
//! third user's node lends, whose owner sees how much. Where no relay reaches both ends, it goes through two. Who comes back behind a router is found there.

use std::path::Path;
use std::time::Duration;

use halloo_tests::audio::{assert_heard, write_tone};
use halloo_tests::cli::Invocation;
use halloo_tests::daemon::{Daemon, Launch};
use halloo_tests::natlab::{Machine, NatLab, READY_TIME_MAX};
use halloo_tests::network::{ANYONE, enrol_user_in, invite, text as text_of};
use halloo_tests::{cli, eventually};
use serde_json::Value;
use tempfile::TempDir;

const ALICE_HZ: f64 = 440.0;
const BOB_HZ: f64 = 660.0;

/// How long they talk, and how much of it a recording must hold: the path comes up after the answer.
const TALK: Duration = Duration::from_secs(4);
const HEARD_MIN: Duration = Duration::from_secs(2);

const SETTLED_TIME_MAX: Duration = Duration::from_secs(60);

struct Talk {
    outcome: Value,
    relay: Value,
}

#[test]
fn behind_routers_that_take_random_ports_media_goes_through_a_relay() {
    let mut lab = NatLab::new();
    let (a, b) = (lab.symmetric_machine("a", 11), lab.symmetric_machine("b", 12));
    let talk = talk(&mut lab, &a, &b, &[]);
    assert_eq!(talk.outcome["path"], "relayed", "{}", talk.outcome);
    let users = talk.relay["users"].as_array().cloned().unwrap_or_default();
    let bytes: u64 = users.iter().filter_map(|user| user["bytes"].as_u64()).sum();
    // Four seconds of 50 packets in two directions, none smaller than their headers.
    assert!(bytes > 10_000, "{}", talk.relay);
    assert!(users.iter().any(|user| user["user"] == "alice@example" || user["user"] == "bob@example"), "{}", talk.relay);
    assert_eq!(talk.relay["signalling"]["invites_handed_over"], 1, "no circuit had to be made for the invite: {}", talk.relay);
}

#[test]
fn a_caller_who_wants_it_is_relayed_also_where_a_path_could_be_punched() {
    let mut lab = NatLab::new();
    let (a, b) = (lab.home_machine("a", 11), lab.home_machine("b", 12));
    let talk = talk(&mut lab, &a, &b, &["--relayed"]);
    assert_eq!(talk.outcome["path"], "relayed", "{}", talk.outcome);
}

/// Alice's network lets her reach one relay only, bob's the other; both reach a common node by TCP, which carries their signalling and, as TURN's port is
/// shut, no media. (Signalling goes through one relay at a time: a circuit ends where both ends are connected.)
#[test]
fn where_no_relay_reaches_both_ends_media_goes_through_two() {
    let mut lab = NatLab::new();
    let (a, b) = (lab.symmetric_machine("a", 11), lab.symmetric_machine("b", 12));
    let (public, first, second) = (lab.public_machine("srv", 1), lab.public_machine("r1", 2), lab.public_machine("r2", 3));
    for (home, other) in [(&a, &second), (&b, &first)] {
        lab.cut_off(home, &format!("ip daddr {}", other.address));
        lab.cut_off(home, &format!("ip daddr {} meta l4proto udp", public.address));
        lab.cut_off(home, &format!("ip daddr {} tcp dport 3478", public.address));
    }
    let folder = tempfile::Builder::new().prefix("halloo-").tempdir().expect("a temporary directory");
    let server = public.serve(folder.path(), "");
    let relay = |name: &str, machine: &Machine| {
        let mut user = machine.enrol_at(&machine.address, folder.path(), &server, name, &["--role", "relay"]);
        user.wait_ready(READY_TIME_MAX);
        user
    };
    let (ann, ben) = (relay("ann", &first), relay("ben", &second));
    let talk = talk_over(&folder, &server, (&a, &ann), (&b, &ben), &[]);
    assert_eq!(talk["path"], "relayed", "{talk}");
    for (owner, user) in [(&ann, "alice@example"), (&ben, "bob@example")] {
        let usage = cli(owner.home(), ["relay"]).ok();
        let users = usage["users"].as_array().cloned().unwrap_or_default();
        let bytes = users.iter().find(|entry| entry["user"] == user).and_then(|entry| entry["bytes"].as_u64());
        // Four seconds of 50 packets in two directions.
        assert!(bytes.is_some_and(|bytes| bytes > 10_000), "{user}: {usage}");
    }
}

/// Alice's network lets nothing out but what looks like the web: TLS, at the port where the relay serves TURN by it. (Signalling needs a way as well, so one more
/// port is open, where nobody speaks TURN.)
#[test]
fn where_only_tls_gets_out_media_goes_over_it() {
    let mut lab = NatLab::new();
    let (a, b) = (lab.home_machine("a", 11), lab.home_machine("b", 12));
    let folder = tempfile::Builder::new().prefix("halloo-").tempdir().expect("a temporary directory");
    let public = lab.public_machine("srv", 1);
    let server = public.serve(folder.path(), "[relay]\nmedia_listen_tls = [\"0.0.0.0:443\"]\n");
    let of_tcp = |address: &String| address.split("/tcp/").nth(1).and_then(|rest| rest.split('/').next()?.parse::<u16>().ok());
    let signalling = server.addresses().iter().find_map(of_tcp).expect("it listens on TCP");
    lab.cut_off(&a, "meta l4proto udp");
    lab.cut_off(&a, &format!("tcp dport != {{ 443, {signalling} }}"));
    let talk = talk_over(&folder, &server, (&a, &server), (&b, &server), &[]);
    assert_eq!(talk["path"], "relayed", "{talk}");
    let usage = cli(server.home(), ["relay"]).ok();
    let users = usage["users"].as_array().cloned().unwrap_or_default();
    let bytes = users.iter().find(|entry| entry["user"] == "alice@example").and_then(|entry| entry["bytes"].as_u64());
    // Four seconds of 50 packets in two directions.
    assert!(bytes.is_some_and(|bytes| bytes > 10_000), "{usage}");
}

/// Bob is killed at a place where everybody can connect to him, and is back at one where only his relay reaches him, before alice's connection to the first
/// is known to be dead.
#[test]
fn who_was_killed_and_is_back_behind_a_relay_is_reached() {
    let mut lab = NatLab::new();
    let folder = tempfile::Builder::new().prefix("halloo-").tempdir().expect("a temporary directory");
    let server = lab.public_machine("srv", 1).serve(folder.path(), "");
    let (a, before, home) = (lab.public_machine("a", 11), lab.public_machine("b", 12), lab.home_machine("h", 13));
    // Else he might meet her on his way back.
    lab.cut_off(&home, &format!("ip daddr {}", a.address));
    let join = |name: &str, machine: &Machine, args: &[&str]| {
        let config = format!("publish_addresses = true\n{ANYONE}");
        let mut user = enrol_user_in(Some(&machine.namespace), folder.path(), name, &config, &invite(&server));
        user.spawn(by_quic(machine).args(args.iter().copied()));
        user.wait_ready(READY_TIME_MAX);
        user
    };
    let answers = ["--answer", "auto"];
    let (alice, mut bob) = (join("alice", &a, &[]), join("bob", &before, &answers));
    let username = bob.username.clone();
    let call = || Invocation::new(alice.home()).args(["call", &username, "--duration", "1"]).run().ok();
    let first = call();
    assert_eq!((&first["outcome"], &first["path"]), (&"completed".into(), &"direct".into()), "{first}");
    bob.kill();
    bob.spawn(by_quic(&home).args(answers));
    // Alice doesn't ask before she calls.
    eventually(SETTLED_TIME_MAX, "bob's record names his relay", || {
        let found = server.api().get(&format!("/v1/users/{username}?fresh=true"))?;
        let shown = found["devices"][0]["addresses"].as_array().cloned().unwrap_or_default();
        let is_there = shown.iter().filter_map(|address| address.as_str()).any(|address| address.contains("/p2p-circuit"));
        if is_there { Ok(()) } else { Err(found.to_string()) }
    });
    let second = call();
    eprintln!("{second}");
    let shown = alice.api().get(&format!("/v1/calls/{}", text_of(&second, "call_id"))).expect("the call");
    assert_eq!((&second["outcome"], &second["path"]), (&"completed".into(), &"relayed".into()), "{second}");
    assert!(shown["stages"].to_string().contains("dialled anew"), "alice's connection to where he was looked open: {shown}");
}

/// How a daemon is started on a machine whose connections are all by QUIC: they look open when the other end is gone.
fn by_quic(machine: &Machine) -> Launch {
    let launch = Launch { namespace: Some(machine.namespace.clone()), ..Launch::default() };
    launch.args(["--listen", &format!("/ip4/{}/udp/0/quic-v1", machine.address)])
}

/// Alice calls bob from one machine to the other; both hear each other.
fn talk(lab: &mut NatLab, a: &Machine, b: &Machine, flags: &[&str]) -> Talk {
    let folder = tempfile::Builder::new().prefix("halloo-").tempdir().expect("a temporary directory");
    let public = lab.public_machine("srv", 1);
    let server = public.serve(folder.path(), "");
    let outcome = talk_over(&folder, &server, (a, &server), (b, &server), flags);
    let relay = cli(server.home(), ["relay"]).ok();
    Talk { outcome, relay }
}

/// Alice and bob, each with a machine and a relay that has to be at hand, talk and hear each other.
fn talk_over(
    folder: &TempDir,
    server: &Daemon,
    (a, a_relay): (&Machine, &Daemon),
    (b, b_relay): (&Machine, &Daemon),
    flags: &[&str],
) -> Value {
    let file = |name: &str| folder.path().join(name);
    let (alice_tone, bob_tone) = (file("alice.wav"), file("bob.wav"));
    let (alice_heard, bob_heard) = (file("alice-heard.wav"), file("bob-heard.wav"));
    write_tone(&alice_tone, ALICE_HZ, TALK * 3);
    write_tone(&bob_tone, BOB_HZ, TALK * 3);
    let alice = a.join(folder.path(), server, "alice", &[]);
    let answers = ["--answer", "auto", "--play", &text(&bob_tone), "--record", &text(&bob_heard)];
    let bob = b.join(folder.path(), server, "bob", &answers);
    for (user, relay) in [(&alice, a_relay), (&bob, b_relay)] {
        eventually(SETTLED_TIME_MAX, "a media relay is at hand", || {
            let status = user.api().get("/v1/status")?;
            let has_relay = status["media_relays"].as_array().is_some_and(|relays| relays.iter().any(|r| r == &relay.peer_id()));
            if has_relay { Ok(()) } else { Err(status.to_string()) }
        });
    }
    let secs = TALK.as_secs().to_string();
    let mut call = Invocation::new(alice.home()).args(["call", &bob.username, "--duration", &secs]).args(flags.iter().copied());
    call = call.args([Path::new("--play"), &alice_tone, Path::new("--record"), &alice_heard]);
    let outcome = call.run().ok();
    eprintln!("{outcome}");
    assert_eq!(outcome["outcome"], "completed", "{outcome}");
    bob.wait_event(SETTLED_TIME_MAX, "call_ended", |event| event["outcome"] == "completed");
    assert_heard(&alice_heard, BOB_HZ, ALICE_HZ, HEARD_MIN);
    assert_heard(&bob_heard, ALICE_HZ, BOB_HZ, HEARD_MIN);
    outcome
}

fn text(path: &Path) -> String {
    path.display().to_string()
}
