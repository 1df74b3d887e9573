//! Goal: what happened in a call is one story, told by both its ends to each other and to nobody else, and `why` says what decided it. Method: a call that is
//! answered, one that isn't let through, and a stranger's; each timeline is looked at from both ends, and somebody who has the call's id asks in vain.

use std::time::Duration;

use halloo_protocol::call::{CallId, CallTraceAsk, CallTraced};
use halloo_protocol::wire::Extensions;
use halloo_tests::attacker::{Attacker, Forger};
use halloo_tests::cli::Invocation;
use halloo_tests::daemon::Daemon;
use halloo_tests::network::text;
use halloo_tests::{Plan, User, eventually};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(60);

#[track_caller]
fn dial(from: &Daemon, to: &User) -> Value {
    Invocation::new(from.home()).args(["call", &to.username, "--duration", "1", "--trace"]).limit(PATIENCE).run().json()
}

/// The timeline of a call that is over, once nobody is being asked any more.
#[track_caller]
fn shown(device: &Daemon, id: &str) -> Value {
    eventually(PATIENCE, "the call is over, and the other end has been asked", || {
        let call = device.api().get(&format!("/v1/calls/{id}"))?;
        let is_settled = call["state"] == "ended" && call["is_asking"].is_null();
        if is_settled { Ok(call) } else { Err(call.to_string()) }
    })
}

fn names(stages: &Value) -> Vec<&str> {
    stages.as_array().into_iter().flatten().filter_map(|stage| stage["stage"].as_str()).collect()
}

/// When the first stage of this kind was, in milliseconds.
#[track_caller]
fn when(stages: &Value, kind: &str) -> i64 {
    let stage = stages.as_array().into_iter().flatten().find(|stage| stage["stage"] == kind);
    stage.and_then(|stage| stage["at_ms"].as_i64()).unwrap_or_else(|| panic!("no {kind} in {stages:#}"))
}

#[test]
fn both_ends_tell_one_story_and_nobody_else_hears_it() {
    let mut network = Plan::new(["alice", "bob", "carol", "mallory"]).args("bob", ["--answer", "auto"]).start();
    let forger = Forger::of_user(&network, &network.users[3], 1);
    network.users[3].kill();
    network.befriend(&network.users[0], &network.users[1]);
    let [alice, bob, carol, _] = network.users();

    // Answered: each has the other's stages, in order, at times that fit.
    let outcome = dial(alice, bob);
    let id = text(&outcome, "call_id");
    for (here, there, first) in [(&**alice, &**bob, "presence"), (&**bob, &**alice, "invite")] {
        let call = shown(here, &id);
        let [end] = call["other_ends"].as_array().map(Vec::as_slice).unwrap_or_default() else { panic!("one end: {call:#}") };
        assert_eq!(end["peer_id"], there.peer_id().as_str(), "{call:#}");
        let own = shown(there, &id);
        assert_eq!(names(&end["stages"]), names(&own["stages"]), "what it told is what it keeps");
        assert_eq!(names(&call["stages"]).first(), Some(&first), "{call:#}");
        let off = end["off_by_ms"].as_i64().expect("an error bound");
        let (ours, theirs) = (&call["stages"], &end["stages"]);
        let (invited, came) = if first == "presence" {
            (when(ours, "invite"), when(theirs, "invite"))
        } else {
            (when(theirs, "invite"), when(ours, "invite"))
        };
        assert!(invited <= came + off + 1, "an invite comes after it went: {invited} ms, {came} ms, {off} ms: {call:#}");
    }
    assert_eq!(outcome["other_ends"].as_array().map(Vec::len), Some(1), "`call --trace` waits for it: {outcome:#}");
    let printed = Invocation::new(alice.home()).args(["calls", "show", &id]).run();
    assert_eq!(printed.json()["other_ends"], shown(alice, &id)["other_ends"]);

    // Somebody else with the call's id.
    let call: CallId = id.parse().expect("an id");
    for device in [&**alice, &**bob] {
        let address = device.addresses().into_iter().next().expect("it listens");
        let mut attacker = Attacker::connect(&address, &forger.device, &forger.hello(None));
        let answer: CallTraced = attacker.ask(&CallTraceAsk { call, extensions: Extensions::none() }).expect("an answer");
        assert_eq!(answer.trace, None, "no end of that call");
    }

    // Not let through: a contact hears what happened there, a stranger nothing.
    bob.cli(["presence", "set", "dnd"]).ok();
    let refused = dial(alice, bob);
    assert_eq!(refused["outcome"], "declined", "{refused:#}");
    let told = shown(alice, &text(&refused, "call_id"));
    assert_eq!(names(&told["other_ends"][0]["stages"]), ["end"], "{told:#}");
    let refused = dial(carol, bob);
    assert_eq!(refused["outcome"], "declined", "{refused:#}");
    assert_eq!(shown(carol, &text(&refused, "call_id"))["other_ends"], Value::Null, "she is a stranger");

    let why = alice.cli(["why", &bob.username]).ok();
    let decisive: Vec<&str> =
        why["calls"].as_array().into_iter().flatten().filter_map(|call| call["decisive"].as_str()).collect();
    assert!(matches!(decisive[..], [refused, talked] if refused.contains("disturbed") && talked == "straight"), "{why:#}");
    let steps = why["next_call"].as_array().cloned().unwrap_or_default();
    assert!(steps.iter().any(|step| step.as_str().is_some_and(|step| step.contains("doesn't want to be disturbed"))), "{why:#}");
}
