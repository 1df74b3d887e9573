//! Goal: a message that was accepted arrives, once, whoever crashes when. Method: two processes, `kill -9` of
//! either at the worst moments, and the conversation as each side lists it afterwards.

use std::time::{Duration, Instant};

use halloo_tests::network::text;
use halloo_tests::{Network, User, eventually};
use serde_json::{Value, json};

/// How long a queued message may take once both sides are up: a retry interval and a look-up.
const DELIVERY_TIME_MAX: Duration = Duration::from_secs(45);

fn send(from: &User, to: &User, message: &str) -> String {
    let sent = from.cli(["msg", "send", &to.username, message]).ok();
    let state = text(&sent, "state");
    assert!(["queued", "sent", "delivered"].contains(&state.as_str()), "{sent}");
    text(&sent, "id")
}

fn conversation(of: &User, with: &User) -> Result<Vec<Value>, String> {
    let list = of.api().get(&format!("/v1/messages?with={}", with.username))?;
    list["messages"].as_array().cloned().ok_or_else(|| list.to_string())
}

/// Waits until `to` holds the message, exactly once, and `from` knows.
#[track_caller]
fn expect_once(from: &User, to: &User, id: &str, message: &str) {
    let started = Instant::now();
    eventually(DELIVERY_TIME_MAX, "the message is delivered and acknowledged", || {
        let sent = conversation(from, to)?;
        let state = sent.iter().find(|entry| entry["id"] == id).map(|entry| entry["state"].clone());
        let is_done = state.as_ref().is_some_and(|state| state == "delivered" || state == "read");
        if is_done { Ok(()) } else { Err(format!("state {state:?} at the sender")) }
    });
    eprintln!("{message:?} delivered {:.2} s later", started.elapsed().as_secs_f32());
    let received = conversation(to, from).expect("the recipient runs");
    let copies: Vec<&Value> = received.iter().filter(|entry| entry["text"] == message).collect();
    assert_eq!(copies.len(), 1, "{message:?} is there {} times: {received:?}", copies.len());
    assert_eq!(copies[0]["from"], from.username.as_str());
    assert_eq!(copies[0]["incoming"], true);
}

#[test]
fn messages_arrive_in_both_directions_and_are_acknowledged() {
    let mut network = Network::of(["alice", "bob"]);
    let [alice, bob] = network.users();
    let sent = alice.cli(["msg", "send", &bob.username, "Grüße, 你好 👋", "--wait"]).ok();
    assert_eq!(sent["state"], "delivered", "{sent}");
    let event = bob.wait_event(DELIVERY_TIME_MAX, "message_received", |event| event["from"] == alice.username.as_str());
    assert_eq!(event["text"], "Grüße, 你好 👋");
    expect_once(alice, bob, &text(&sent, "id"), "Grüße, 你好 👋");
    let id = send(bob, alice, "back to you");
    expect_once(bob, alice, &id, "back to you");
    nobody_and_nothing_are_refused(alice);
}

fn nobody_and_nothing_are_refused(alice: &User) {
    // Whoever is looked for in vain may come yet, so the message waits; who waits for it is told.
    let unknown = json!({"to": "nobody@example", "text": "hello", "wait_ms": 2_000});
    let told = alice.api().post("/v1/messages", &unknown).expect_err("nobody took it");
    assert!(told.contains("not delivered"), "{told}");
    assert_eq!(alice.cli(["msg", "send", "bob@example", ""]).code, 2);
    assert_eq!(alice.cli(["msg", "send", "b ob@example", "hello"]).code, 2);
    assert_eq!(alice.cli(["msg", "send", "bob@elsewhere", "hello"]).code, 2);
}

#[test]
fn a_message_to_somebody_who_is_down_waits_and_arrives_once() {
    let mut network = Network::of(["alice", "bob"]);
    let [alice, bob] = network.users();
    bob.kill();
    let id = send(alice, bob, "for later");
    let waited = alice.cli(["msg", "list", &bob.username]).ok();
    assert_eq!(waited["messages"][0]["id"], id.as_str());
    assert_ne!(waited["messages"][0]["state"], "delivered", "bob is down: {waited}");
    bob.restart();
    expect_once(alice, bob, &id, "for later");
}

#[test]
fn a_queued_message_survives_the_senders_crash() {
    let mut network = Network::of(["alice", "bob"]);
    let [alice, bob] = network.users();
    bob.kill();
    let id = send(alice, bob, "from before the crash");
    // Whatever was said to be queued is on disk when `msg send` returns.
    alice.kill();
    bob.restart();
    alice.restart();
    expect_once(alice, bob, &id, "from before the crash");
}

#[test]
fn a_message_is_neither_lost_nor_doubled_when_the_recipient_crashes() {
    let mut network = Network::of(["alice", "bob"]);
    let [alice, bob] = network.users();
    let mut ids = Vec::new();
    for round in 0..3 {
        let message = format!("round {round}");
        ids.push((send(alice, bob, &message), message));
        // Killed while the message may be anywhere: on the way, stored, acknowledged.
        bob.kill();
        bob.restart();
    }
    for (id, message) in &ids {
        expect_once(alice, bob, id, message);
    }
    let received = conversation(bob, alice).expect("bob runs");
    assert_eq!(received.len(), ids.len(), "{received:?}");
}
