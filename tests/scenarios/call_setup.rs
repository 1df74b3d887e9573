//! Goal: two people hear each other, and whoever can't or won't talk is told to the caller at once. Method: two
//! processes; each plays a tone of its own, and each recording must hold the other's.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use halloo_tests::audio::{assert_heard, write_tone};
use halloo_tests::cli::Invocation;
use halloo_tests::network::text;
use halloo_tests::{Network, Plan, User};
use serde_json::Value;

const ALICE_HZ: f64 = 440.0;
const BOB_HZ: f64 = 660.0;

/// What `--duration` says.
const TALK: Duration = Duration::from_secs(3);
/// A recording may lose its ends while the path comes up and goes down.
const HEARD_MIN: Duration = Duration::from_secs(2);
const RING_TIME_MAX: Duration = Duration::from_secs(20);
/// A callee that can't be reached is told long before ordinary ringing would end.
const UNREACHABLE_TIME_MAX: Duration = Duration::from_secs(25);

struct Files {
    _folder: tempfile::TempDir,
    alice_tone: PathBuf,
    alice_heard: PathBuf,
    bob_tone: PathBuf,
    bob_heard: PathBuf,
}

impl Files {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let file = |name: &str| folder.path().join(name);
        let files = Self {
            alice_tone: file("alice-tone.wav"),
            alice_heard: file("alice-heard.wav"),
            bob_tone: file("bob-tone.wav"),
            bob_heard: file("bob-heard.wav"),
            _folder: folder,
        };
        let longer_than_the_call = TALK + Duration::from_secs(5);
        write_tone(&files.alice_tone, ALICE_HZ, longer_than_the_call);
        write_tone(&files.bob_tone, BOB_HZ, longer_than_the_call);
        files
    }

    fn bob_answers(&self) -> [String; 6] {
        let path = |path: &Path| path.display().to_string();
        ["--answer", "auto", "--play", &path(&self.bob_tone), "--record", &path(&self.bob_heard)].map(str::to_owned)
    }
}

fn call(from: &User, to: &User) -> Invocation {
    Invocation::new(from.home()).args(["call", &to.username])
}

fn incoming(user: &User) -> String {
    text(&user.wait_event(RING_TIME_MAX, "call_incoming", |_| true), "call_id")
}

#[test]
fn each_hears_the_others_tone() {
    let files = Files::new();
    let mut network = Plan::new(["alice", "bob"]).args("bob", files.bob_answers()).start();
    let [alice, bob] = network.users();
    let mut call = call(alice, bob).args(["--duration", "3"]);
    call = call.args([Path::new("--play"), &files.alice_tone, Path::new("--record"), &files.alice_heard]);
    let outcome = call.run().ok();
    eprintln!("{outcome}");
    assert_eq!(outcome["outcome"], "completed", "{outcome}");
    assert_eq!(outcome["answered_by"], bob.peer_id().as_str());
    assert_eq!(outcome["path"], "direct");
    assert_eq!(outcome["via_push"], false);
    assert!(outcome["ring_ms"].is_u64() && outcome["setup_ms"].is_u64(), "{outcome}");
    // Bob's file is whole once his call has ended.
    bob.wait_event(RING_TIME_MAX, "call_ended", |event| event["outcome"] == "completed");
    assert_heard(&files.alice_heard, BOB_HZ, ALICE_HZ, HEARD_MIN);
    assert_heard(&files.bob_heard, ALICE_HZ, BOB_HZ, HEARD_MIN);
}

#[test]
fn a_declined_call_says_so() {
    let mut network = Network::of(["alice", "bob"]);
    let [alice, bob] = network.users();
    let running = call(alice, bob).start();
    let id = incoming(bob);
    let declined = bob.cli(["calls", "decline", &id]);
    assert_eq!(declined.code, 0, "{declined:?}");
    let output = running.wait(RING_TIME_MAX);
    assert_eq!(output.code, 1, "{output:?}");
    assert_eq!(output.json()["outcome"], "declined");
    assert_eq!(bob.cli(["calls", "answer", &id]).code, 1, "a declined call can't be answered");
    assert_eq!(bob.cli(["calls", "answer", "no-such-call"]).code, 1);
}

#[test]
fn a_caller_who_gives_up_stops_the_ringing() {
    let mut network = Network::of(["alice", "bob"]);
    let [alice, bob] = network.users();
    let running = call(alice, bob).start();
    let id = incoming(bob);
    running.signal("INT");
    let output = running.wait(RING_TIME_MAX);
    assert_eq!(output.code, 1, "{output:?}");
    let ended = bob.wait_event(RING_TIME_MAX, "call_ended", |event| event["call_id"] == id.as_str());
    assert_eq!(ended["outcome"], "cancelled", "{ended}");
}

#[test]
fn a_callee_in_another_call_is_busy() {
    let mut network = Plan::new(["alice", "bob", "carol"]).args("bob", ["--answer", "auto"]).start();
    let [alice, bob, carol] = network.users();
    let first = call(alice, bob).args(["--duration", "20"]).start();
    bob.wait_event(RING_TIME_MAX, "call_answered", |_| true);
    let output = call(carol, bob).run();
    assert_eq!(output.code, 1, "{output:?}");
    assert_eq!(output.json()["outcome"], "busy", "{output:?}");
    let id = incoming(bob);
    assert_eq!(bob.cli(["calls", "hangup", &id]).code, 0);
    let output = first.wait(RING_TIME_MAX);
    assert_eq!(output.ok()["outcome"], "completed", "the first call went on undisturbed");
}

#[test]
fn a_callee_whose_daemon_was_killed_is_unreachable() {
    let mut network = Network::of(["alice", "bob"]);
    let [alice, bob] = network.users();
    bob.kill();
    let started = Instant::now();
    let output = call(alice, bob).run();
    let elapsed = started.elapsed();
    eprintln!("told after {:.1} s", elapsed.as_secs_f32());
    assert_eq!(output.code, 1, "{output:?}");
    let outcome = output.json();
    assert_eq!(outcome["outcome"], "unreachable", "{outcome}");
    assert!(outcome["reason"].is_string(), "the caller is told why: {outcome}");
    assert!(elapsed < UNREACHABLE_TIME_MAX, "{elapsed:?}");
}

#[test]
fn calls_that_make_no_sense_are_refused() {
    let mut network = Network::of(["alice", "bob"]);
    let [alice, bob] = network.users();
    let refused = |args: &[&str], code: i32| {
        let output = Invocation::new(alice.home()).args(["call"]).args(args).run();
        assert_eq!(output.code, code, "{args:?}: {output:?}");
        assert!(!output.stderr.trim().is_empty(), "{args:?}: {output:?}");
    };
    refused(&[&alice.username], 2);
    refused(&["nobody@example"], 1);
    refused(&[&bob.username, "--play", "/nonexistent/tone.wav"], 2);
    let list: Value = bob.cli(["calls", "list"]).ok();
    assert_eq!(list["calls"].as_array().map(Vec::len), Some(0), "nothing rang at bob's: {list}");
}
