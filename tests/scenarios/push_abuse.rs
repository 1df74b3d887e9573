//! Goal: a push that is late to the party does no harm: for a call that was answered elsewhere, or brought twice. Method: the test is the push service, and
//! brings what the gateway posted when it likes.

use std::time::Duration;

use halloo_tests::cli::Invocation;
use halloo_tests::linking::link;
use halloo_tests::network::text;
use halloo_tests::webpush::PushService;
use halloo_tests::{Daemon, Network, eventually};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(30);

fn incoming(device: &Daemon) -> usize {
    device.events().iter().filter(|event| event["event"] == "call_incoming").count()
}

#[test]
fn a_push_for_a_call_that_was_answered_elsewhere_or_comes_twice_leaves_nothing_ringing() {
    let service = PushService::start();
    let network = Network::of(["alice", "bob"]);
    let [alice, bob] = network.users.as_slice() else { panic!("two users") };
    let phone = link(&network, bob, "bob-phone", &[]);
    let endpoint = format!("{}/push/bobs-phone", service.origin);
    phone.cli(["push", "register", "webpush", "--endpoint", &endpoint]).ok();
    phone.cli(["suspend"]).ok();
    let running = Invocation::new(alice.home()).args(["call", &bob.username, "--duration", "1"]).start();
    let rang = bob.wait_event(PATIENCE, "call_incoming", |_| true);
    let id = text(&rang, "call_id");
    let message = service.messages.recv_timeout(PATIENCE).expect("the gateway pushes");
    bob.cli(["calls", "answer", &id]);
    let outcome = running.wait(PATIENCE).ok();
    assert_eq!(outcome["answered_by"], bob.peer_id().as_str(), "{outcome}");

    // Now the push service gets to it, twice.
    let file = phone.home().join("message");
    std::fs::write(&file, &message.body).expect("written");
    let path = file.display().to_string();
    let first = phone.cli(["wake", "--payload", &path]);
    let second = phone.cli(["wake", "--payload", &path]);
    eprintln!("woken: {first:?}, again: {second:?}");
    assert!(incoming(&phone) <= 1, "a call rings once, however often it is brought");
    eventually(PATIENCE, "nothing rings on the phone", || {
        let list = phone.api().get("/v1/calls")?;
        let calls = list["calls"].as_array().cloned().unwrap_or_default();
        let ringing: Vec<&Value> = calls.iter().filter(|call| call["outcome"].is_null()).collect();
        if ringing.is_empty() { Ok(()) } else { Err(list.to_string()) }
    });
    for end in phone.events().iter().filter(|event| event["event"] == "call_ended") {
        assert_ne!(end["outcome"], "completed", "{end}");
    }
}
