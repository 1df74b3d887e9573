//! Goal: a message wakes a sleeping device, and the person sees who wrote what before the device has asked anybody. Method: the push is caught at a push
//! service, opened by software that shares no code with Halloo, and handed to the daemon when gateway, mailbox and sender are gone.

use std::time::{Duration, Instant};

use halloo_tests::webpush::{PushService, Subscription};
use halloo_tests::{Network, User};
use serde_json::Value;

use crate::mailboxes::has_mailboxes;

const PUSH_TIME_MAX: Duration = Duration::from_secs(25);
const SETTLED_TIME_MAX: Duration = Duration::from_secs(30);

fn suspend(user: &User) {
    assert_eq!(user.cli(["suspend"]).ok()["suspended"], true);
}

fn send(from: &User, to: &User, text: &str) -> String {
    from.cli(["msg", "send", &to.username, text]).ok()["id"].as_str().expect("an id").to_owned()
}

/// Wakes it with what the push service delivered.
fn wake(user: &User, payload: &[u8]) -> Value {
    let file = user.home().join("payload");
    std::fs::write(&file, payload).expect("written");
    user.cli(["wake", "--payload", &file.display().to_string()]).ok()
}

fn received(user: &User, id: &str) -> usize {
    user.events().iter().filter(|event| event["event"] == "message_received" && event["message_id"] == id).count()
}

#[test]
fn a_short_message_is_read_from_the_push_alone() {
    let (subscription, service) = (Subscription::new(), PushService::start());
    let mut network = Network::of(["alice", "bob"]);
    has_mailboxes(&network.users[1], 1);
    let authority = &mut network.authority;
    let [alice, bob] = &mut network.users[..] else { unreachable!("two users") };
    subscription.register(bob, &service);
    suspend(bob);
    let begun = Instant::now();
    let id = send(alice, bob, "the train is late");
    let message = service.messages.recv_timeout(PUSH_TIME_MAX).expect("the gateway pushes");
    // Bob's connections stand as before, and nobody answers on them: neither the question for a key nor the message is waited out.
    eprintln!("pushed after {:?}", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    message.is_in_form();
    let payload = subscription.open(&message, &service);
    // Another one in a row wakes nobody a second time.
    let second = send(alice, bob, "very late");
    alice.wait_event(SETTLED_TIME_MAX, "message_state", |event| {
        event["message_id"] == second.as_str() && event["state"] == "sent"
    });
    assert!(service.messages.try_recv().is_err(), "one push for both");

    alice.kill();
    authority.kill();
    let woken = wake(bob, &payload);
    assert_eq!(
        (&woken["from"], &woken["message_id"]),
        (&Value::from(alice.username.clone()), &Value::from(id.clone())),
        "{woken}"
    );
    let shown = bob.wait_event(SETTLED_TIME_MAX, "message_received", |event| event["message_id"] == id.as_str());
    assert_eq!(shown["text"], "the train is late", "{shown}");
    let notice = shown["notice"]["spoken"].as_str().unwrap_or_default();
    assert!(notice.contains("alice"), "{shown}");
    // The same push again is no second message.
    wake(bob, &payload);
    assert_eq!(received(bob, &id), 1);

    // Once the mailbox is back, bob has the other message too, and the first one no second time.
    authority.restart();
    bob.wait_event(SETTLED_TIME_MAX, "message_received", |event| event["message_id"] == second.as_str());
    assert_eq!((received(bob, &id), received(bob, &second)), (1, 1));
}

#[test]
fn a_long_message_is_announced_and_fetched() {
    let (subscription, service) = (Subscription::new(), PushService::start());
    let mut network = Network::of(["alice", "bob"]);
    has_mailboxes(&network.users[1], 1);
    let [alice, bob] = network.users();
    subscription.register(bob, &service);
    suspend(bob);
    let text = "word ".repeat(800);
    let id = send(alice, bob, &text);
    let message = service.messages.recv_timeout(PUSH_TIME_MAX).expect("the gateway pushes");
    let woken = wake(bob, &subscription.open(&message, &service));
    assert_eq!(woken["from"], alice.username.as_str(), "{woken}");
    let waiting = bob.wait_event(SETTLED_TIME_MAX, "message_waiting", |event| event["message_id"] == id.as_str());
    assert_eq!(
        (&waiting["kind"], &waiting["from"]),
        (&Value::from("message"), &Value::from(alice.username.clone())),
        "{waiting}"
    );
    assert!(waiting["notice"]["spoken"].as_str().is_some_and(|notice| notice.contains("alice")), "{waiting}");
    let shown = bob.wait_event(SETTLED_TIME_MAX, "message_received", |event| event["message_id"] == id.as_str());
    assert_eq!(shown["text"], text.as_str());
    alice.wait_event(SETTLED_TIME_MAX, "message_state", |event| {
        event["message_id"] == id.as_str() && event["state"] == "delivered"
    });
}
