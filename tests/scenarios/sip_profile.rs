//! Goal: the profile over INFO does what docs/sip.md says. Method: SIPp plays a client, from pieces in tests/external/sipp/profile/, one for each request; the other end is a
//! native device of another user.

use std::time::Duration;

use halloo_tests::phone::PhoneAccount;
use halloo_tests::sipp_profile::Sipp;
use halloo_tests::{Daemon, Plan, eventually};
use serde_json::json;

const PATIENCE: Duration = Duration::from_secs(40);

#[track_caller]
fn shows(seen_by: &Daemon, user: &str, state: &str, mood: &str) {
    eventually(PATIENCE, &format!("{user} is {state}"), || {
        let view = seen_by.api().get(&format!("/v1/presence/contacts/{user}"))?;
        if view["state"] == state && view["mood"] == mood { Ok(()) } else { Err(view.to_string()) }
    });
}

#[test]
fn every_request_of_the_profile_is_answered_and_does_what_it_says() {
    let mut network = Plan::new(["alice", "bob"]).args("alice", ["--sip", "127.0.0.1:0"]).start();
    let folder = tempfile::tempdir().expect("a folder");
    let invite = network.invite();
    let [alice, bob] = network.users();
    // A user who has nothing but this account.
    let made = alice.cli(["sip", "account", "add", "dora@example", "--invite", &invite]).ok();
    let account = PhoneAccount::of(&made, "udp");
    let pieces = [
        "register",
        "login",
        "get-configuration",
        "add-buddy",
        "get-buddies",
        "get-status",
        "change-buddy",
        "set-status",
        "send-message",
        "message",
        "buddy-status",
        "go-offline",
        "deregister",
    ];
    let sipp = Sipp::start(folder.path(), &account, &format!("sip:{}", bob.username), &[], &pieces);
    bob.wait_event(PATIENCE, "contact_request", |event| event["from"] == "dora@example");
    bob.cli(["contact", "accept", "dora@example"]).ok();
    let received = bob.wait_event(PATIENCE, "message_received", |event| event["from"] == "dora@example");
    assert_eq!(received["text"], "from the profile");
    shows(bob, "dora@example", "dnd", "at work");
    let sent = bob.cli(["msg", "send", "dora@example", "to the profile"]).ok();
    bob.wait_event(PATIENCE, "message_state", |event| event["message_id"] == sent["id"] && event["state"] == "read");
    bob.api().post("/v1/presence", &json!({"state": "away"})).expect("set");
    sipp.succeeds();
    shows(bob, "dora@example", "offline", "at work");
    let said = bob.api().get("/v1/messages?with=dora@example").expect("listed");
    let count = said["messages"].as_array().into_iter().flatten().filter(|entry| entry["text"] == "from the profile").count();
    assert_eq!(count, 1, "a body that comes again changes nothing: {said}");

    // What isn't answered is sent again; what was, isn't.
    let folder = tempfile::tempdir().expect("a folder");
    let sipp =
        Sipp::start(folder.path(), &account, "sip:bob@example", &["-nr"], &["register", "login", "repeated", "remove-buddy"]);
    bob.cli(["msg", "send", "dora@example", "once"]).ok();
    sipp.succeeds();
    bob.wait_event(PATIENCE, "contact_removed", |event| event["username"] == "dora@example");
}

#[test]
#[ignore = "long: what isn't answered is given up after 32 s"]
fn what_isnt_answered_is_given_up_and_kept() {
    // Strangers who may write: nothing of presence comes between.
    let mut network = Plan::new(["alice", "bob"]).args("alice", ["--sip", "127.0.0.1:0"]).open().start();
    let folder = tempfile::tempdir().expect("a folder");
    let [alice, bob] = network.users();
    let account = PhoneAccount::add(alice, "udp");
    let sipp = Sipp::start(folder.path(), &account, "sip:bob@example", &["-nr"], &["register", "login", "give-up"]);
    bob.cli(["msg", "send", &alice.username, "once"]).ok();
    sipp.succeeds();
    // Nobody has taken it: the next client to log in gets it.
    let folder = tempfile::tempdir().expect("a folder");
    Sipp::start(folder.path(), &account, "sip:bob@example", &["-nr"], &["register", "login", "repeated"]).succeeds();
}
