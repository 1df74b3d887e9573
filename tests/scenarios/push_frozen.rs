//! Goal: a phone whose process is stopped by its system for ten minutes is found, shown as reachable by push in the state its user chose, and rings. Method: a
//! daemon under SIGSTOP, ten real minutes, and a push service outside of it.

use std::time::Duration;

use halloo_tests::cli::Invocation;
use halloo_tests::network::{befriend, text};
use halloo_tests::webpush::{PushService, Subscription};
use halloo_tests::{Network, eventually};
use serde_json::Value;

const FROZEN: Duration = Duration::from_secs(600);
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
#[ignore = "ten minutes, by design: scripts/test --long"]
fn a_phone_stopped_for_ten_minutes_is_found_shows_push_and_rings() {
    let (subscription, service) = (Subscription::new(), PushService::start());
    let mut network = Network::of(["alice", "bob"]);
    let [alice, bob] = network.users();
    befriend(alice, bob);
    bob.cli(["presence", "set", "away"]).ok();
    subscription.register(bob, &service);
    eventually(PATIENCE, "alice sees what bob chose", || {
        let seen = alice.cli(["presence", "get", &bob.username]).ok();
        if seen["state"] == "away" { Ok(()) } else { Err(seen.to_string()) }
    });

    // What the record says of the way to him is his own word for up to an hour; contacts notice his silence.
    bob.signal("STOP");
    std::thread::sleep(FROZEN);
    let found = alice.cli(["resolve", &bob.username, "--fresh"]).ok();
    assert_eq!(found["identity"], bob.identity.as_str(), "{found}");
    let seen = alice.cli(["presence", "get", &bob.username]).ok();
    assert_eq!((&seen["state"], &seen["reachability"]), (&Value::from("away"), &Value::from("push")), "{seen}");

    let running = Invocation::new(alice.home()).args(["call", &bob.username, "--duration", "1"]).start();
    let message = service.messages.recv_timeout(PATIENCE).expect("the gateway pushes");
    let file = bob.home().join("payload");
    std::fs::write(&file, subscription.open(&message, &service)).expect("written");
    bob.signal("CONT");
    let woken = bob.cli(["wake", "--payload", &file.display().to_string()]).ok();
    let id = text(&woken, "call_id");
    let rang = bob.wait_event(PATIENCE, "call_incoming", |event| event["call_id"] == id.as_str());
    assert_eq!(rang["from"], alice.username.as_str(), "{rang}");
    assert_eq!(bob.cli(["calls", "answer", &id]).code, 0);
    let outcome = running.wait(PATIENCE).ok();
    assert_eq!((&outcome["outcome"], &outcome["via_push"]), (&Value::from("completed"), &Value::from(true)), "{outcome}");
}
