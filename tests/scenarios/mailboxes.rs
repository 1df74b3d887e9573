//! Goal: a message reaches somebody who was away, though its sender is gone by then. Method: processes that are never up at the same time, and a
//! mailbox between them that may be killed too.

use std::time::Duration;

use halloo_tests::network::{one_is, text};
use halloo_tests::{Daemon, Plan, User, eventually};
use serde_json::Value;

const SETTLED_TIME_MAX: Duration = Duration::from_secs(45);

/// Waits until whoever looks `user` up is told of so many mailboxes.
#[track_caller]
pub(crate) fn has_mailboxes(user: &Daemon, count: usize) -> Vec<String> {
    eventually(SETTLED_TIME_MAX, "the entry names the mailboxes", || {
        let status = user.api().get("/v1/status")?;
        let named: Vec<String> = serde_json::from_value(status["mailboxes"].clone()).map_err(|error| error.to_string())?;
        if named.len() == count { Ok(named) } else { Err(status["mailboxes"].to_string()) }
    })
}

#[track_caller]
fn send(from: &User, to: &User, message: &str) -> String {
    text(&from.cli(["msg", "send", &to.username, message]).ok(), "id")
}

fn conversation(of: &User, with: &User) -> Result<Vec<Value>, String> {
    let list = of.api().get(&format!("/v1/messages?with={}", with.username))?;
    list["messages"].as_array().cloned().ok_or_else(|| list.to_string())
}

/// Waits until the sender says that the message is in this state.
#[track_caller]
fn is_in_state(from: &User, to: &User, id: &str, wanted: &str) {
    eventually(SETTLED_TIME_MAX, "the message's state at the sender", || {
        let sent = conversation(from, to)?;
        let state = sent.iter().find(|entry| entry["id"] == id).map(|entry| entry["state"].clone());
        if state.as_ref().is_some_and(|state| state == wanted) { Ok(()) } else { Err(format!("{state:?}")) }
    });
}

#[track_caller]
fn has_once(to: &User, from: &User, message: &str) {
    eventually(SETTLED_TIME_MAX, "the message is there", || {
        let received = conversation(to, from)?;
        let copies = received.iter().filter(|entry| entry["text"] == message && entry["incoming"] == true).count();
        if copies == 1 { Ok(()) } else { Err(format!("{copies} copies")) }
    });
}

#[test]
fn a_message_arrives_though_sender_and_recipient_are_never_up_together() {
    let mut network = Plan::new(["alice", "bob"]).start();
    let [alice, bob] = network.users();
    has_mailboxes(bob, 1);
    bob.kill();
    let id = send(alice, bob, "from while you were away");
    is_in_state(alice, bob, &id, "sent");
    alice.kill();
    bob.restart();
    has_once(bob, alice, "from while you were away");
    // It has come by the mailbox; the sender's own try is recognised, and tells the sender.
    alice.restart();
    is_in_state(alice, bob, &id, "delivered");
    has_once(bob, alice, "from while you were away");
}

#[test]
fn one_of_two_mailboxes_may_be_lost_for_good() {
    let keepers = ["carol", "dave"];
    let plan = keepers
        .into_iter()
        .fold(Plan::new(["alice", "bob", "carol", "dave"]), |plan, keeper| plan.args(keeper, ["--role", "mailbox"]));
    let mut network = plan.start();
    let named = has_mailboxes(&network.users[1], 2);
    let authority = network.authority.api();
    let [alice, bob, carol, dave] = network.users();
    bob.kill();
    let id = send(alice, bob, "in two places");
    is_in_state(alice, bob, &id, "sent");
    eventually(SETTLED_TIME_MAX, "both mailboxes have it", || {
        let kept =
            [&authority, &carol.api(), &dave.api()].map(|api| api.get("/v1/status").map(|status| status["letters_kept"].clone()));
        let count: u64 = kept.iter().flatten().filter_map(Value::as_u64).sum();
        if count == 2 { Ok(()) } else { Err(format!("{kept:?}")) }
    });
    let lost = [carol, dave].into_iter().find(|keeper| named.contains(&keeper.peer_id())).expect("at least one is a user's");
    lost.kill();
    alice.kill();
    bob.restart();
    has_once(bob, alice, "in two places");
}

#[test]
fn somebody_is_asked_to_be_a_contact_though_the_two_are_never_up_together() {
    let mut network = Plan::new(["alice", "bob"]).contacts_only().start();
    has_mailboxes(&network.users[1], 1);
    let authority = network.authority.api();
    let [alice, bob] = network.users();
    bob.kill();
    assert_eq!(alice.cli(["contact", "add", &bob.username, "--text", "from the train"]).ok()["state"], "asked");
    // A stranger's request fits through the narrow door.
    eventually(SETTLED_TIME_MAX, "the mailbox has it", || {
        let status = authority.get("/v1/status")?;
        if status["letters_kept"] == 1 { Ok(()) } else { Err(status["letters_kept"].to_string()) }
    });
    alice.kill();
    bob.restart();
    let asked = bob.wait_event(SETTLED_TIME_MAX, "contact_request", |event| event["from"] == alice.username.as_str());
    assert_eq!(asked["text"], "from the train");
    bob.cli(["contact", "accept", &alice.username]).ok();
    alice.restart();
    one_is(alice, &bob.username, "contact");
    // Contacts leave what they like, and no stranger's three letters are the limit.
    bob.kill();
    let texts: Vec<String> = (0..8).map(|number| format!("letter {number} {}", "x".repeat(3_000))).collect();
    let ids: Vec<String> = texts.iter().map(|message| send(alice, bob, message)).collect();
    for id in &ids {
        is_in_state(alice, bob, id, "sent");
    }
    alice.kill();
    bob.restart();
    for message in &texts {
        has_once(bob, alice, message);
    }
}
