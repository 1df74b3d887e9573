//! Goal: however many devices somebody has, and whoever dials first, a call is one call: all devices ring, the first answer counts, the others
//! stop at once, and whoever doesn't ring says why. Method: real daemons with linked devices; what people type, and what each end then shows.

use std::process::Command;
use std::time::{Duration, Instant};

use halloo_protocol::call::{CallId, CallInvite, CallTimers, Invite, InviteAnswer, InviteStatus, Origin, Reason, SealedInvite};
use halloo_protocol::directory::RecordKey;
use halloo_protocol::event::EventKind;
use halloo_protocol::id::ConversationId;
use halloo_protocol::identity::Chain;
use halloo_protocol::key::{DeviceKey, SecretKey};
use halloo_protocol::wire::Extensions;
use halloo_tests::attacker::{Attacker, Forger, key, now, record_key, stranger_hello, unknown_authority_chain};
use halloo_tests::cli::{Invocation, Running};
use halloo_tests::network::{one_is, text};
use halloo_tests::{Daemon, Network, Plan, User, eventually};
use rand::SeedableRng;
use serde_json::Value;

use halloo_tests::linking::link;

/// Far longer than anything here takes: nothing is measured by it.
const PATIENCE: Duration = Duration::from_secs(45);

/// Signals take a round trip on the loopback interface; the rest is for two cores that do other things as well. The requirement is one second on a
/// machine of one's own.
const STOP_TIME_MAX: Duration = Duration::from_secs(10);

fn dial(from: &Daemon, to: &User, more: &[&str]) -> Running {
    Invocation::new(from.home()).args(["call", &to.username]).args(more).start()
}

fn call_events<'a>(events: &'a [Value], id: &str, name: &str) -> Vec<&'a Value> {
    events.iter().filter(|event| event["event"] == name && event["call_id"] == id).collect()
}

#[track_caller]
fn rings(device: &Daemon, id: &str) {
    device.wait_event(PATIENCE, "call_incoming", |event| event["call_id"] == id);
}

#[track_caller]
fn ended(device: &Daemon, id: &str) -> Value {
    device.wait_event(PATIENCE, "call_ended", |event| event["call_id"] == id)
}

/// The next call that `device` places.
#[track_caller]
fn dialled(device: &Daemon, known: &[&str]) -> String {
    text(&device.wait_event(PATIENCE, "call_dialing", |event| !known.iter().any(|id| event["call_id"] == *id)), "call_id")
}

fn listed(device: &Daemon, id: &str) -> Result<Value, String> {
    let list = device.api().get("/v1/calls")?;
    let found = list["calls"].as_array().into_iter().flatten().find(|call| call["call_id"] == id).cloned();
    found.ok_or_else(|| list.to_string())
}

#[track_caller]
fn signal(device: &Daemon, name: &str) {
    let pid = device.pid().expect("it runs").to_string();
    let status = Command::new("kill").args([&format!("-{name}"), &pid]).status().expect("kill runs");
    assert!(status.success());
}

#[test]
fn all_devices_ring_and_the_first_to_answer_or_decline_speaks_for_all() {
    let mut network = Plan::new(["alice", "bob"]).contacts_only().start();
    let [alice, bob] = network.users.as_slice() else { panic!("two users") };
    network.befriend(alice, bob);
    let second = link(&network, bob, "bob-second", &[]);
    let third = link(&network, bob, "bob-third", &[]);
    let devices: [&Daemon; 3] = [bob, &second, &third];
    devices.iter().for_each(|device| one_is(device, &alice.username, "contact"));
    eventually(PATIENCE, "alice sees three devices", || {
        let found = alice.api().get(&format!("/v1/users/{}?fresh=true&settled=true", bob.username))?;
        if found["devices"].as_array().map(Vec::len) == Some(3) { Ok(()) } else { Err(found.to_string()) }
    });

    // One answers.
    let running = dial(alice, bob, &["--duration", "1", "--trace"]);
    let first = dialled(alice, &[]);
    devices.iter().for_each(|device| rings(device, &first));
    let answered_at = Instant::now();
    assert_eq!(second.cli(["calls", "answer", &first]).code, 0);
    for device in [&**bob, &third] {
        let end = ended(device, &first);
        assert_eq!(end["outcome"], "answered-elsewhere", "{end}");
    }
    let stopped_after = answered_at.elapsed();
    eprintln!("the others have stopped {:.2} s after `calls answer` was typed", stopped_after.as_secs_f32());
    assert!(stopped_after < STOP_TIME_MAX, "{stopped_after:?}");
    let outcome = running.wait(PATIENCE).ok();
    assert_eq!((&outcome["outcome"], &outcome["answered_by"]), (&"completed".into(), &second.peer_id().into()), "{outcome}");
    let events = alice.events();
    assert_eq!(call_events(&events, &first, "call_answered").len(), 1, "one answer is heard");
    for device in devices {
        assert_eq!(call_events(&device.events(), &first, "call_incoming").len(), 1, "each rings once");
    }
    let presence = &call_events(&events, &first, "call_dialing")[0]["presence"];
    assert_eq!(presence["state"], "online", "the newest presence is shown before: {presence}");
    assert_timeline(&outcome, &first, &second);

    // One declines.
    let running = dial(alice, bob, &[]);
    let declined = dialled(alice, &[&first]);
    devices.iter().for_each(|device| rings(device, &declined));
    assert_eq!(third.cli(["calls", "decline", &declined]).code, 0);
    for device in [&**bob, &second] {
        let end = ended(device, &declined);
        assert_eq!((&end["outcome"], &end["reason"]), (&"declined".into(), &"declined on another device".into()), "{end}");
    }
    let output = running.wait(PATIENCE);
    assert_eq!((output.code, &output.json()["outcome"]), (1, &"declined".into()), "{output:?}");

    // One was frozen while another answered: it comes too late to ring on.
    signal(&third, "STOP");
    let running = dial(alice, bob, &["--duration", "1"]);
    let late = dialled(alice, &[&first, &declined]);
    rings(bob, &late);
    assert_eq!(bob.cli(["calls", "answer", &late]).code, 0);
    running.wait(PATIENCE).ok();
    signal(&third, "CONT");
    eventually(PATIENCE, "the late device shows that the call was answered elsewhere", || {
        let call = listed(&third, &late)?;
        if call["outcome"]["outcome"] == "answered-elsewhere" { Ok(()) } else { Err(call.to_string()) }
    });

    // None wants to be disturbed; and then one says that alice may.
    for device in devices {
        device.cli(["presence", "set", "dnd"]).ok();
    }
    let output = dial(alice, bob, &[]).wait(PATIENCE);
    let outcome = output.json();
    assert_eq!((output.code, &outcome["outcome"]), (1, &"declined".into()), "{outcome}");
    assert!(text(&outcome, "reason").contains("disturbed"), "{outcome}");
    let id = text(&outcome, "call_id");
    for device in devices {
        assert!(call_events(&device.events(), &id, "call_incoming").is_empty(), "none rings");
        let call = listed(device, &id).expect("it is listed where it didn't ring");
        assert_eq!(call["outcome"]["outcome"], "declined", "{call}");
    }
    network.users.clear();
}

/// What the two ends remember of an answered call.
#[track_caller]
fn assert_timeline(outcome: &Value, id: &str, answerer: &Daemon) {
    let stages = outcome["stages"].as_array().expect("a timeline was asked for");
    let mut expected = ["presence", "look-up", "invite", "ring", "answer", "media", "end"].into_iter().peekable();
    for stage in stages {
        expected.next_if(|next| stage["stage"] == *next);
    }
    assert_eq!(expected.next(), None, "in this order: {outcome:#}");
    let before = stages.iter().take_while(|stage| stage["stage"] != "ring");
    let asked = |stage: &&Value| {
        ["sent", "asked"].iter().any(|word| stage["detail"].as_str().is_some_and(|detail| detail.contains(word)))
    };
    eprintln!("requests before the first of three devices rings: {}", before.filter(asked).count());
    assert!(stages.is_sorted_by_key(|stage| stage["at_ms"].as_u64()), "{outcome:#}");
    let there = answerer.cli(["calls", "show", &id[..8]]).ok();
    let names: Vec<&Value> = there["stages"].as_array().into_iter().flatten().map(|stage| &stage["stage"]).collect();
    for stage in ["invite", "ring", "answer", "media", "end"] {
        assert!(names.iter().any(|name| **name == stage), "{stage} at the answering device: {there:#}");
    }
    assert_eq!(answerer.cli(["calls", "show", "no-such-call"]).code, 1);
}

#[test]
fn both_dial_each_other_at_once_and_talk_in_one_call() {
    let mut network = Network::of(["alice", "bob"]);
    let [alice, bob] = network.users.as_slice() else { panic!("two users") };
    let second = link(&network, bob, "bob-second", &[]);
    let mut joined = 0;
    for round in 0..4 {
        // In the last rounds the second device dials, while alice's call goes to both.
        let dialler: &Daemon = if round < 2 { bob } else { &second };
        let one = dial(alice, bob, &["--duration", "1"]);
        let other = dial(dialler, alice, &["--duration", "1"]);
        let (one, other) = (one.wait(PATIENCE).ok(), other.wait(PATIENCE).ok());
        assert_eq!((&one["outcome"], &other["outcome"]), (&"completed".into(), &"completed".into()), "{one} {other}");
        assert_eq!(one["call_id"], other["call_id"], "it is one call: {one} {other}");
        let id = text(&one, "call_id");
        for device in [&**alice, bob, &second] {
            eventually(PATIENCE, "nothing rings any more", || {
                let list = device.api().get("/v1/calls")?;
                let is_over = |call: &Value| call["state"] == "ended";
                if list["calls"].as_array().into_iter().flatten().all(is_over) { Ok(()) } else { Err(list.to_string()) }
            });
            joined += call_events(&device.events(), &id, "call_joined").len();
        }
    }
    eprintln!("of 4 calls {joined} had crossed on the way; the others were dialled while the other's rang");
    network.users.clear();
}

#[test]
fn who_does_not_ring_says_why() {
    let bobs = "[calls]\nmay_disturb = [\"carol\"]\nring_when_busy = true\n";
    let mut network = Plan::new(["alice", "bob", "carol", "dora"]).config("bob", bobs).start();
    let [alice, bob, carol, dora] = network.users();

    bob.cli(["presence", "set", "dnd"]).ok();
    let refused = dial(alice, bob, &[]).wait(PATIENCE);
    assert!(refused.code == 1 && text(&refused.json(), "reason").contains("disturbed"), "{refused:?}");
    let running = dial(carol, bob, &["--duration", "20"]);
    let id = dialled(carol, &[]);
    rings(bob, &id);
    assert_eq!(bob.cli(["calls", "answer", &id]).code, 0, "carol may disturb");
    carol.wait_event(PATIENCE, "call_answered", |_| true);

    // Bob rings during a call as well; carol, as by default, doesn't.
    bob.cli(["presence", "set", "online"]).ok();
    let busy = dial(dora, carol, &[]).wait(PATIENCE);
    assert_eq!((busy.code, &busy.json()["outcome"]), (1, &"busy".into()), "{busy:?}");
    eventually(PATIENCE, "carol sees who called meanwhile", || listed(carol, &text(&busy.json(), "call_id")).map(|_| ()));
    let waiting = dial(dora, bob, &[]);
    let second = dialled(dora, &[&text(&busy.json(), "call_id")]);
    rings(bob, &second);
    assert_eq!(Invocation::new(dora.home()).args(["call", &bob.username]).run().code, 1, "once is enough");
    assert_eq!(bob.cli(["calls", "decline", &second]).code, 0);
    assert_eq!(waiting.wait(PATIENCE).json()["outcome"], "declined");
    assert_eq!(bob.cli(["calls", "hangup", &id]).code, 0);
    running.wait(PATIENCE).ok();

    // Who takes calls of contacts alone, who isn't there, and who doesn't exist.
    dora.cli(["privacy", "set", "--call", "contacts"]).ok();
    let outcome = dial(alice, dora, &[]).wait(PATIENCE).json();
    assert!(outcome["outcome"] == "declined" && text(&outcome, "reason").contains("not a contact"), "{outcome}");
    dora.kill();
    let started = Instant::now();
    let outcome = dial(alice, dora, &["--trace"]).wait(PATIENCE).json();
    eprintln!("told after {:.1} s: {outcome}", started.elapsed().as_secs_f32());
    assert!(outcome["outcome"] == "unreachable" && text(&outcome, "reason").contains("no device"), "{outcome}");
    let nobody = Invocation::new(alice.home()).args(["call", "nobody@example"]).run();
    assert!(nobody.code == 1 && nobody.last_error().contains("nobody@example"), "{nobody:?}");

    // The history outlives the daemon.
    bob.terminate();
    bob.restart();
    assert_eq!(listed(bob, &id).expect("an earlier run's calls are listed")["stages"], Value::Null);
    let kept = bob.cli(["calls", "show", &id]).ok();
    assert!(kept["outcome"]["outcome"] == "completed" && kept["stages"].as_array().is_some_and(|all| all.len() > 3), "{kept}");
}

/// A caller of the test's own making.
struct Caller {
    chain: Chain,
    device: SecretKey,
}

impl Caller {
    fn invite(&self, recipient: DeviceKey, hpke_key: &[u8; 32], number: u8) -> CallInvite {
        let invite = Invite {
            chain: self.chain.clone(),
            recipient,
            call: CallId([number; 16]),
            conversation: ConversationId([number; 16]),
            kind: EventKind::VOICE_CALL,
            display_name: "Mallory".into(),
            avatar: None,
            origin: Origin::default(),
            issued_at: now(),
            expires_at: now().plus_secs(CallTimers::default().ring.as_secs()),
            offer: "v=0".into(),
            extensions: Extensions::none(),
        };
        let mut rng = rand::rngs::StdRng::seed_from_u64(number.into());
        let sealed = SealedInvite::seal(invite, &self.device, hpke_key, &mut rng).expect("it fits");
        CallInvite { sealed, extensions: Extensions::none() }
    }
}

#[test]
fn a_replayed_invite_does_not_ring_again_and_a_certificate_that_does_not_hold_never_does() {
    let mut network = Network::of(["bob", "mallory"]);
    let forger = Forger::of_user(&network, &network.users[1], 1);
    network.users[1].kill();
    let key_of: RecordKey = record_key(&network, &network.users[0]);
    let record =
        Attacker::connect(&network.bootstrap(), &key(0x0f_0000), &stranger_hello()).find_record(key_of).expect("bob's record");
    let entry = record.entries[0].entry.unverified().clone();
    let (recipient, hpke_key) = (entry.device, entry.hpke_key);
    let bob = &mut network.users[0];
    let address = bob.addresses().into_iter().next().expect("bob listens");
    let status = |from: &mut Attacker, invite: &CallInvite| from.ask::<_, InviteAnswer>(invite).expect("an answer").status;

    let mallory = Caller { chain: forger.chain(), device: forger.device.clone() };
    let invite = mallory.invite(recipient, &hpke_key, 1);
    let mut first = Attacker::connect(&address, &forger.device, &forger.hello(None));
    assert_eq!(status(&mut first, &invite), InviteStatus::Ringing);
    assert_eq!(status(&mut first, &invite), InviteStatus::Duplicate, "again on the same connection");
    let mut stranger = Attacker::connect(&address, &key(77), &stranger_hello());
    assert_eq!(status(&mut stranger, &invite), InviteStatus::Duplicate, "by somebody who has copied it");
    let id = CallId([1; 16]).to_string();
    assert_eq!(bob.cli(["calls", "decline", &id]).code, 0);
    bob.terminate();
    bob.restart();
    let address = bob.addresses().into_iter().next().expect("bob listens");
    let mut first = Attacker::connect(&address, &forger.device, &forger.hello(None));
    assert_eq!(status(&mut first, &invite), InviteStatus::Duplicate, "after the call and a restart");

    // A chain of an authority that bob doesn't know, a certificate for another device, and a signature by another device.
    let identity = key(5);
    let unknown = Chain { user: unknown_authority_chain("alice", &identity), device: forger.certificate() };
    let foreign = Caller { chain: unknown, device: forger.device.clone() };
    let not_certified = Caller { chain: forger.chain(), device: key(6) };
    for (number, caller) in [(2, foreign), (3, not_certified)] {
        let invite = caller.invite(recipient, &hpke_key, number);
        assert_eq!(status(&mut first, &invite), InviteStatus::Refused(Reason::INVALID), "{number}");
    }
    // Sealed to another key, as with an old record.
    assert_eq!(status(&mut first, &mallory.invite(recipient, &[9; 32], 4)), InviteStatus::NotForMe);
    let rang = bob.events().iter().filter(|event| event["event"] == "call_incoming").count();
    assert_eq!(rang, 0, "nothing has rung since the restart");
}
