//! Goal: somebody whose device sleeps is rung and answers, from what the push message holds alone. Method: the daemon
//! freezes itself as an operating system would; a call goes through the gateway to its push service. Once the push
//! service and the decryption are the daemon's own, once they are software that shares no code with Halloo.

use std::time::Duration;

use halloo_tests::cli::{Invocation, Running};
use halloo_tests::network::text;
use halloo_tests::webpush::{PushService, Subscription};
use halloo_tests::{Network, Plan, User};

const RING_TIME_MAX: Duration = Duration::from_secs(20);
const PUSH_TIME_MAX: Duration = Duration::from_secs(20);

fn call(from: &User, to: &User) -> Running {
    Invocation::new(from.home()).args(["call", &to.username, "--duration", "1"]).start()
}

fn suspend(user: &User, registrations: u64) {
    let asleep = user.cli(["suspend"]).ok();
    assert_eq!(asleep["suspended"], true);
    assert_eq!(asleep["push_registrations"], registrations, "{asleep}");
    let status = user.cli(["status"]).ok();
    assert_eq!(status["suspended"], true, "the local API stays: {status}");
}

/// The daemon is its own push service; a call wakes it, it answers, and the caller learns how.
#[test]
fn a_call_wakes_a_suspended_device_by_web_push() {
    let kind = "webpush";
    let mut network = Plan::new(["alice", "bob"]).args("bob", ["--answer", "auto"]).start();
    let gateway = network.authority.peer_id();
    let [alice, bob] = network.users();
    let registered = bob.cli(["push", "register", kind]).ok();
    assert_eq!(registered["kind"], kind, "{registered}");
    assert_eq!(registered["gateway"], gateway.as_str());
    assert_eq!(bob.cli(["push", "list"]).ok()["registrations"].as_array().map(Vec::len), Some(1));
    suspend(bob, 1);
    let refused = bob.cli(["resolve", &alice.username]);
    assert_eq!(refused.code, 1, "a sleeping node asks nobody: {refused:?}");

    let output = call(alice, bob).wait(RING_TIME_MAX);
    let outcome = output.ok();
    eprintln!("{kind}: {outcome}");
    assert_eq!(outcome["outcome"], "completed", "{outcome}");
    assert_eq!(outcome["via_push"], true, "{outcome}");
    assert_eq!(outcome["answered_by"], bob.peer_id().as_str());
    let push = bob.wait_event(PUSH_TIME_MAX, "push_received", |_| true);
    assert_eq!(push["kind"], kind, "{push}");
    let woken = bob.wait_event(PUSH_TIME_MAX, "woken", |_| true);
    assert_eq!(woken["by_push"], true, "{woken}");
    let rang = bob.wait_event(PUSH_TIME_MAX, "call_incoming", |_| true);
    assert_eq!(rang["from"], alice.username.as_str());
    assert_eq!(rang["via_push"], true, "{rang}");
    // Awake again, it is called as ever.
    let outcome = call(alice, bob).wait(RING_TIME_MAX).ok();
    assert_eq!(outcome["outcome"], "completed", "{outcome}");
    assert_eq!(outcome["via_push"], false, "{outcome}");
}

#[test]
fn a_suspended_device_that_nobody_can_wake_is_unreachable() {
    let mut network = Network::of(["alice", "bob"]);
    let [alice, bob] = network.users();
    // A stream is read by the node itself, and so by nobody while it is frozen: it helps while the device is awake.
    bob.cli(["push", "register", "stream"]).ok();
    suspend(bob, 1);
    let output = call(alice, bob).wait(Duration::from_secs(45));
    assert_eq!(output.code, 1, "{output:?}");
    let outcome = output.json();
    assert_eq!(outcome["outcome"], "unreachable", "{outcome}");
    assert!(outcome["reason"].is_string(), "{outcome}");
    assert!(!bob.events().iter().any(|event| event["event"] == "call_incoming"), "it sleeps");
    let woken = bob.cli(["wake"]).ok();
    assert_eq!(woken["was_suspended"], true, "{woken}");
    let again = bob.cli(["wake"]).ok();
    assert_eq!(again["was_suspended"], false, "waking who is awake is no error: {again}");
    // What waited on the stream may still be read on waking, and rings before anybody is asked: then only until the
    // caller's side says that it is over.
    if let Some(rang) = bob.events().into_iter().find(|event| event["event"] == "call_incoming") {
        let ended = bob.wait_event(RING_TIME_MAX, "call_ended", |event| event["call_id"] == rang["call_id"]);
        assert_ne!(ended["outcome"], "completed", "{ended}");
    }
}

#[test]
fn an_independent_receiver_opens_the_payload_and_a_woken_daemon_rings_from_it() {
    let subscription = Subscription::new();
    let service = PushService::start();
    let mut network = Network::of(["alice", "bob"]);
    let [alice, bob] = network.users();
    let registered = subscription.register(bob, &service);
    assert_eq!(registered["kind"], "webpush", "{registered}");
    suspend(bob, 1);
    let running = call(alice, bob);
    let message = service.messages.recv_timeout(PUSH_TIME_MAX).expect("the gateway pushes");
    message.is_in_form();
    let payload = subscription.open(&message, &service);
    eprintln!("push message of {} bytes, payload of {} bytes", message.body.len(), payload.len());

    let file = bob.home().join("payload");
    let path = file.display().to_string();
    std::fs::write(&file, &payload).expect("written");
    let woken = bob.cli(["wake", "--payload", &path]).ok();
    assert_eq!(woken["from"], alice.username.as_str(), "{woken}");
    let id = text(&woken, "call_id");
    let rang = bob.wait_event(RING_TIME_MAX, "call_incoming", |event| event["call_id"] == id.as_str());
    assert_eq!(rang["from"], alice.username.as_str());
    assert_eq!(bob.cli(["calls", "answer", &id]).code, 0);
    let outcome = running.wait(RING_TIME_MAX).ok();
    assert_eq!(outcome["outcome"], "completed", "{outcome}");
    assert_eq!(outcome["via_push"], true, "{outcome}");
    let twice = bob.cli(["wake", "--payload", &path]);
    assert!(twice.code == 1 || twice.ok()["call_id"] == id.as_str(), "{twice:?}");
    let rings = bob.events().iter().filter(|event| event["event"] == "call_incoming").count();
    assert_eq!(rings, 1, "a payload rings once");

    let tampered: Vec<u8> = payload.iter().rev().copied().collect();
    std::fs::write(&file, tampered).expect("written");
    let refused = bob.cli(["wake", "--payload", &path]);
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(refused.last_error().contains("payload"), "{refused:?}");
}
