//! Goal: what a gateway has accepted is not lost in silence when its process is killed before the push service took it. Method: a push service that is out
//! of order keeps the push waiting; the gateway is killed then, the service is mended, and the gateway started again.

use std::time::Duration;

use halloo_tests::cli::Invocation;
use halloo_tests::network::text;
use halloo_tests::webpush::{PushService, Subscription};
use halloo_tests::{Network, User};
use serde_json::Value;

use crate::mailboxes::has_mailboxes;

const PUSH_TIME_MAX: Duration = Duration::from_secs(40);
const CALL_TIME_MAX: Duration = Duration::from_secs(60);

/// Sleeping bob, with one gateway, whose push service takes nothing.
fn asleep(network: &Network, subscription: &Subscription, service: &PushService) {
    let bob = &network.users[1];
    has_mailboxes(bob, 1);
    subscription.register(bob, service);
    assert_eq!(bob.cli(["suspend"]).ok()["suspended"], true);
}

/// Kills the gateway once it has accepted a push and the service didn't take it, and starts it again when the service works. Gives the push.
fn kill_between(network: &mut Network, subscription: &Subscription, service: &PushService) -> Vec<u8> {
    service.refused.recv_timeout(PUSH_TIME_MAX).expect("the gateway has accepted the push, and tries");
    network.authority.kill();
    assert!(service.messages.try_recv().is_err(), "nothing went out yet");
    service.mend();
    network.authority.restart();
    let message = service.messages.recv_timeout(PUSH_TIME_MAX).expect("the push goes out after the restart");
    message.is_in_form();
    subscription.open(&message, service)
}

fn wake(user: &User, payload: &[u8]) -> Value {
    let file = user.home().join("payload");
    std::fs::write(&file, payload).expect("written");
    user.cli(["wake", "--payload", &file.display().to_string()]).ok()
}

#[test]
fn a_call_that_a_killed_gateway_had_accepted_rings_after_its_restart() {
    let (subscription, service) = (Subscription::new(), PushService::start_broken());
    let mut network = Network::of(["alice", "bob"]);
    asleep(&network, &subscription, &service);
    let running = Invocation::new(network.users[0].home()).args(["call", "bob@example", "--duration", "1"]).start();
    let payload = kill_between(&mut network, &subscription, &service);

    let [_, bob] = network.users();
    let woken = wake(bob, &payload);
    let id = text(&woken, "call_id");
    let rang = bob.wait_event(CALL_TIME_MAX, "call_incoming", |event| event["call_id"] == id.as_str());
    assert_eq!(rang["via_push"], true, "{rang}");
    assert_eq!(bob.cli(["calls", "answer", &id]).code, 0);
    let outcome = running.wait(CALL_TIME_MAX).ok();
    assert_eq!((&outcome["outcome"], &outcome["via_push"]), (&Value::from("completed"), &Value::from(true)), "{outcome}");
}

#[test]
fn a_caller_whose_gateway_never_comes_back_is_told() {
    let (subscription, service) = (Subscription::new(), PushService::start_broken());
    let mut network = Network::of(["alice", "bob"]);
    asleep(&network, &subscription, &service);
    let running = Invocation::new(network.users[0].home()).args(["call", "bob@example", "--duration", "1"]).start();
    service.refused.recv_timeout(PUSH_TIME_MAX).expect("the gateway has accepted the push, and tries");
    network.authority.kill();
    let output = running.wait(CALL_TIME_MAX);
    assert_eq!(output.code, 1, "{output:?}");
    let outcome = output.json();
    assert!(outcome["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{outcome}");
    assert_ne!(outcome["outcome"], "completed", "{outcome}");
}

#[test]
fn a_message_that_a_killed_gateway_had_accepted_is_read_after_its_restart() {
    let (subscription, service) = (Subscription::new(), PushService::start_broken());
    let mut network = Network::of(["alice", "bob"]);
    asleep(&network, &subscription, &service);
    let sent = network.users[0].cli(["msg", "send", "bob@example", "the train is late"]).ok();
    let payload = kill_between(&mut network, &subscription, &service);

    let [_, bob] = network.users();
    let woken = wake(bob, &payload);
    assert_eq!((&woken["from"], &woken["message_id"]), (&Value::from("alice@example"), &sent["id"]), "{woken}");
    let shown = bob.wait_event(PUSH_TIME_MAX, "message_received", |event| event["message_id"] == sent["id"]);
    assert_eq!(shown["text"], "the train is late", "{shown}");
}
