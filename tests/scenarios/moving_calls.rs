//! Goal: a call survives what happens to networks. Method: the small internet of `natlab`; while alice and bob, who are contacts and were connected
//! before bob answered, hear each other's tone, the relay
//! that carries it is killed, or alice leaves one uplink for another. The recordings show for how long nothing was heard; the call that ends is the one
//! that began.

use std::path::{Path, PathBuf};
use std::time::Duration;

use halloo_tests::audio::{assert_heard, longest_silence, write_tone};
use halloo_tests::cli::{Invocation, Running};
use halloo_tests::daemon::Daemon;
use halloo_tests::natlab::{Machine, NatLab, READY_TIME_MAX};
use halloo_tests::network::{AUTHORITY, User, befriend, infrastructure_roles};
use halloo_tests::{cli, eventually};
use serde_json::Value;
use tempfile::TempDir;

const ALICE_HZ: f64 = 440.0;
const BOB_HZ: f64 = 660.0;

/// How long they talk; the network changes in between.
const TALK: Duration = Duration::from_secs(10);

/// How long they talk at most where they hang up themselves.
const LONG_TALK: Duration = Duration::from_secs(180);

/// How long it may take until a direct path is found: two tries of both ends, and a busy machine.
const PATH_TIME_MAX: Duration = Duration::from_secs(120);

/// How long nothing may be heard.
const SILENCE_MAX: Duration = Duration::from_secs(2);

const SETTLED_TIME_MAX: Duration = Duration::from_secs(60);

/// What a relay has carried by which it is known to carry the call: a second and a half of audio in two directions.
const CARRIED_BYTES: u64 = 15_000;

#[test]
fn when_the_relay_is_killed_the_call_goes_on_over_the_other() {
    let mut lab = NatLab::new();
    let (a, b) = (lab.symmetric_machine("a", 11), lab.symmetric_machine("b", 12));
    let scene = Scene::new(&mut lab, &a, &b);
    let call = scene.dial();
    let Scene { mut relays, .. } = scene;
    let carried = |relay: &User| {
        let usage = cli(relay.home(), ["relay"]).ok();
        usage["users"].as_array().into_iter().flatten().filter_map(|user| user["bytes"].as_u64()).sum::<u64>()
    };
    // That which carries more by the time one of them has carried enough; the other has seen checks.
    let mut carrier = 0;
    eventually(SETTLED_TIME_MAX, "a relay carries the call", || {
        let bytes: Vec<u64> = relays.iter().map(carried).collect();
        carrier = if bytes[0] > bytes[1] { 0 } else { 1 };
        if bytes[carrier] > CARRIED_BYTES { Ok(()) } else { Err(format!("{bytes:?}")) }
    });
    relays[carrier].kill();
    scene.talk.finish(call, "relayed");
}

#[test]
fn when_an_end_changes_its_uplink_the_call_goes_on_over_the_new_one() {
    let mut lab = NatLab::new();
    let (a, b) = (lab.home_machine("a", 11), lab.home_machine("b", 12));
    lab.add_uplink("a", &a, 13);
    let scene = Scene::new(&mut lab, &a, &b);
    let call = scene.dial();
    scene.talk.bob.wait_event(SETTLED_TIME_MAX, "call_answered", |_| true);
    scene.talk.wait_recorded(Duration::from_secs(3));
    lab.switch_uplink(&a, 13);
    scene.talk.finish(call, "");
}

#[test]
#[ignore = "long: up to a minute of a call"]
fn a_relayed_call_becomes_direct_when_a_direct_path_appears() {
    let mut lab = NatLab::new();
    let (a, b) = (lab.home_machine("a", 11), lab.home_machine("b", 12));
    let scene = Scene::new(&mut lab, &a, &b);
    let call = scene.dial_for(LONG_TALK);
    scene.talk.bob.wait_event(SETTLED_TIME_MAX, "call_answered", |_| true);
    scene.talk.wait_path("punched at first", |path| path == "punched");
    scene.talk.wait_recorded(Duration::from_secs(3));
    // Nothing goes between the two homes any more but by way of others.
    lab.block(&a, &["ip daddr 5.0.12.1", "ip saddr 5.0.12.1"]);
    scene.talk.wait_path("relayed meanwhile", |path| path == "relayed");
    lab.unblock(&a);
    scene.talk.wait_path("direct in the end", |path| path != "relayed");
    scene.talk.wait_recorded(TALK);
    scene.talk.hang_up();
    scene.talk.finish(call, "punched");
}

#[test]
#[ignore = "long: up to a minute of a call"]
fn a_call_is_direct_again_some_time_after_an_uplink_changed() {
    let mut lab = NatLab::new();
    let (a, b) = (lab.home_machine("a", 11), lab.home_machine("b", 12));
    lab.add_uplink("a", &a, 13);
    let scene = Scene::new(&mut lab, &a, &b);
    let call = scene.dial_for(LONG_TALK);
    scene.talk.bob.wait_event(SETTLED_TIME_MAX, "call_answered", |_| true);
    scene.talk.wait_path("punched at first", |path| path == "punched");
    lab.switch_uplink(&a, 13);
    scene.talk.wait_recorded(Duration::from_secs(8));
    scene.talk.wait_path("punched in the end", |path| path == "punched");
    scene.talk.wait_recorded(TALK);
    scene.talk.hang_up();
    scene.talk.finish(call, "punched");
}

/// Alice and bob, ready to talk.
struct Talk {
    folder: TempDir,
    alice: User,
    bob: User,
}

/// They, an authority, and two users who relay.
struct Scene {
    talk: Talk,
    relays: Vec<User>,
    _server: Daemon,
}

impl Scene {
    fn new(lab: &mut NatLab, a: &Machine, b: &Machine) -> Self {
        let folder = tempfile::Builder::new().prefix("halloo-").tempdir().expect("a temporary directory");
        let public = lab.public_machine("srv", 1);
        let mut server = Daemon::init(folder.path(), "server", &format!("[authority]\nname = \"{AUTHORITY}\"\n"));
        let roles = infrastructure_roles().collect::<Vec<_>>();
        let roles = roles.chunks_exact(2).filter(|role| role[1] != "relay").flatten().copied();
        server.start(public.launch(&public.address).args(roles));
        let relays: Vec<User> = [("ann", 2), ("ben", 3)]
            .map(|(name, host)| {
                let machine = lab.public_machine(name, host);
                let mut user = machine.enrol_at(&machine.address, folder.path(), &server, name, &["--role", "relay"]);
                user.wait_ready(READY_TIME_MAX);
                user
            })
            .into();
        let file = |name: &str| text(&folder.path().join(name));
        write_tone(Path::new(&file("alice.wav")), ALICE_HZ, LONG_TALK);
        write_tone(Path::new(&file("bob.wav")), BOB_HZ, LONG_TALK);
        let alice = a.join(folder.path(), &server, "alice", &[]);
        let bob = b.join(folder.path(), &server, "bob", &[]);
        for user in [&alice, &bob] {
            eventually(SETTLED_TIME_MAX, "two media relays are at hand", || {
                let status = user.api().get("/v1/status")?;
                let count = status["media_relays"].as_array().map_or(0, Vec::len);
                if count == 2 { Ok(()) } else { Err(status.to_string()) }
            });
        }
        befriend(&alice, &bob);
        Self { talk: Talk { folder, alice, bob }, relays, _server: server }
    }

    /// Alice calls; bob answers once both ends show that they are connected.
    fn dial(&self) -> Running {
        self.dial_for(TALK)
    }

    fn dial_for(&self, length: Duration) -> Running {
        let Talk { alice, bob, .. } = &self.talk;
        let secs = length.as_secs().to_string();
        let call = Invocation::new(alice.home()).args(["call", &bob.username, "--duration", &secs]);
        let (play, record) = (self.talk.file("alice.wav"), self.talk.file("alice-heard.wav"));
        let running = call.args([Path::new("--play"), &play, Path::new("--record"), &record]).start();
        let incoming = bob.wait_event(SETTLED_TIME_MAX, "call_incoming", |_| true);
        let id = incoming["call_id"].as_str().expect("a call has an id").to_owned();
        for user in [alice, bob] {
            eventually(SETTLED_TIME_MAX, "media are connected while it rings", || {
                let call = user.api().get(&format!("/v1/calls/{id}"))?;
                if call.to_string().contains("DTLS is through while it rings") { Ok(()) } else { Err(call.to_string()) }
            });
        }
        let (play, record) = (text(&self.talk.file("bob.wav")), text(&self.talk.file("bob-heard.wav")));
        assert_eq!(bob.cli(["calls", "answer", &id, "--play", &play, "--record", &record]).code, 0);
        running
    }
}

impl Talk {
    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Waits until alice has heard something for this long.
    fn wait_recorded(&self, length: Duration) {
        // A header, then 16-bit samples at 48 kHz, written every second at the latest.
        let bytes = length.as_secs() * 96_000;
        eventually(SETTLED_TIME_MAX, "audio is recorded", || {
            let size = std::fs::metadata(self.file("alice-heard.wav")).map_or(0, |file| file.len());
            if size > bytes { Ok(()) } else { Err(format!("{size} bytes")) }
        });
    }

    /// Waits until both ends say that media go such a way.
    fn wait_path(&self, what: &str, is_right: impl Fn(&str) -> bool) {
        for user in [&self.alice, &self.bob] {
            eventually(PATH_TIME_MAX, what, || {
                let calls = user.api().get("/v1/calls")?;
                let paths = calls["calls"].as_array().into_iter().flatten().filter_map(|call| call["media"]["path"].as_str());
                if paths.into_iter().any(&is_right) { Ok(()) } else { Err(calls.to_string()) }
            });
        }
    }

    fn hang_up(&self) {
        let calls = self.bob.api().get("/v1/calls").expect("the calls");
        let running = calls["calls"].as_array().into_iter().flatten().find(|call| call["state"] == "active");
        let id = running.and_then(|call| call["call_id"].as_str()).expect("a call that runs");
        assert_eq!(self.bob.cli(["calls", "hangup", id]).code, 0);
    }

    /// The call ends by itself, is the one that was begun, and both have heard each other but for a moment.
    fn finish(&self, call: Running, path: &str) {
        let outcome = call.wait(LONG_TALK).ok();
        eprintln!("{outcome}");
        assert_eq!(outcome["outcome"], "completed", "{outcome}");
        assert!(path.is_empty() || outcome["path"] == path, "{outcome}");
        self.bob
            .wait_event(SETTLED_TIME_MAX, "call_ended", |event| same_call(event, &outcome) && event["outcome"] == "completed");
        let calls = self.bob.events().into_iter().filter(|event| event["event"] == "call_incoming").count();
        assert_eq!(calls, 1, "it is the same call");
        for (file, heard, unheard) in [("alice-heard.wav", BOB_HZ, ALICE_HZ), ("bob-heard.wav", ALICE_HZ, BOB_HZ)] {
            assert_heard(&self.file(file), heard, unheard, TALK / 2);
            let silence = longest_silence(&self.file(file));
            eprintln!("{file}: nothing heard for {silence:?}");
            assert!(silence <= SILENCE_MAX, "{file}: nothing heard for {silence:?}");
        }
    }
}

fn same_call(event: &Value, outcome: &Value) -> bool {
    event["call_id"] == outcome["call_id"]
}

fn text(path: &Path) -> String {
    path.display().to_string()
}
