//! Goal: people whom NATs keep apart talk. Method: the small internet of `natlab`; each end plays a tone, and each recording must hold the
//! other's. Behind routers that keep ports a path is punched; behind those that don't, media goes through a relay that a third user's node
//! lends, whose owner sees how much.

use std::path::Path;
use std::time::Duration;

use halloo_tests::audio::{assert_heard, write_tone};
use halloo_tests::cli::Invocation;
use halloo_tests::daemon::{Daemon, Launch};
use halloo_tests::natlab::{Machine, NatLab};
use halloo_tests::network::{ANYONE, AUTHORITY, User, enrol_user_in, infrastructure_roles, invite};
use halloo_tests::{cli, eventually};
use serde_json::Value;

const ALICE_HZ: f64 = 440.0;
const BOB_HZ: f64 = 660.0;

/// How long they talk, and how much of it a recording must hold: the path comes up after the answer.
const TALK: Duration = Duration::from_secs(4);
const HEARD_MIN: Duration = Duration::from_secs(2);

/// Finding out that nobody can dial one takes its time.
const READY_TIME_MAX: Duration = Duration::from_secs(90);
const SETTLED_TIME_MAX: Duration = Duration::from_secs(60);

struct Talk {
    outcome: Value,
    relay: Value,
}

#[test]
fn behind_routers_that_keep_ports_a_path_is_punched() {
    let mut lab = NatLab::new();
    let (a, b) = (lab.home_machine("a", 11), lab.home_machine("b", 12));
    let talk = talk(&mut lab, &a, &b, &[]);
    assert_eq!(talk.outcome["path"], "punched", "{}", talk.outcome);
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

/// Alice calls bob from one machine to the other; both hear each other.
fn talk(lab: &mut NatLab, a: &Machine, b: &Machine, flags: &[&str]) -> Talk {
    let folder = tempfile::Builder::new().prefix("halloo-").tempdir().expect("a temporary directory");
    let file = |name: &str| folder.path().join(name);
    let (alice_tone, bob_tone) = (file("alice.wav"), file("bob.wav"));
    let (alice_heard, bob_heard) = (file("alice-heard.wav"), file("bob-heard.wav"));
    write_tone(&alice_tone, ALICE_HZ, TALK * 3);
    write_tone(&bob_tone, BOB_HZ, TALK * 3);

    let public = lab.public_machine("srv", 1);
    let mut server = Daemon::init(folder.path(), "server", &format!("[authority]\nname = \"{AUTHORITY}\"\n"));
    server.start(on(&public).args(listen(&public.address)).args(infrastructure_roles()));
    let alice = join(&folder, &server, "alice", a, &[]);
    let answers = ["--answer", "auto", "--play", &text(&bob_tone), "--record", &text(&bob_heard)].map(str::to_owned);
    let bob = join(&folder, &server, "bob", b, &answers);
    for user in [&alice, &bob] {
        eventually(SETTLED_TIME_MAX, "a media relay is at hand", || {
            let status = user.api().get("/v1/status")?;
            let has_relay = status["media_relays"].as_array().is_some_and(|relays| relays.iter().any(|r| r == &server.peer_id()));
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
    let relay = cli(server.home(), ["relay"]).ok();
    Talk { outcome, relay }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn on(machine: &Machine) -> Launch {
    Launch { namespace: Some(machine.namespace.clone()), ..Launch::default() }
}

fn listen(address: &str) -> [String; 4] {
    let flag = || "--listen".to_owned();
    [flag(), format!("/ip4/{address}/udp/0/quic-v1"), flag(), format!("/ip4/{address}/tcp/0")]
}

fn join(folder: &tempfile::TempDir, server: &Daemon, name: &str, machine: &Machine, args: &[String]) -> User {
    let mut user = enrol_user_in(Some(&machine.namespace), folder.path(), name, ANYONE, &invite(server));
    user.spawn(on(machine).args(listen("0.0.0.0")).args(args.iter().cloned()));
    user.wait_ready(READY_TIME_MAX);
    user
}
