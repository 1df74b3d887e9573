//! Goal: what is read and sent on one of a user's devices shows on the others and at the author, and a device that was away, or is new, catches up.
//! Method: two users, one with two devices made from one recovery phrase; devices that are down at the right moments.

use std::time::Duration;

use halloo_tests::cli::Invocation;
use halloo_tests::network::text;
use halloo_tests::{Daemon, Network, Plan, User, eventually};
use serde_json::{Value, json};

/// How long something may take to arrive when both sides are up: a retry interval and a look-up.
const ARRIVAL_TIME_MAX: Duration = Duration::from_secs(60);

/// Another device of a user, enrolled and ready.
#[track_caller]
fn second_device(network: &Network, user: &User, name: &str) -> Daemon {
    let (mut device, _) = Daemon::init_with(network.folder(), name, "lab = true\n", Some(&user.phrase));
    Invocation::new(device.home()).args(["enrol", &user.username, "--invite", &network.invite()]).run().ok();
    device.start(network.launch(name));
    device
}

fn messages(of: &Daemon, with: &str) -> Result<Vec<Value>, String> {
    let list = of.api().get(&format!("/v1/messages?with={with}"))?;
    list["messages"].as_array().cloned().ok_or_else(|| list.to_string())
}

/// Waits until a device shows exactly one message with this text, and this in its fields.
#[track_caller]
fn shows(of: &Daemon, with: &str, message: &str, fields: &Value) {
    eventually(ARRIVAL_TIME_MAX, &format!("{} shows {message:?} as {fields}", of.name()), || {
        let list = messages(of, with)?;
        let found: Vec<&Value> = list.iter().filter(|entry| entry["text"] == message).collect();
        let is_as_wanted =
            |entry: &Value| fields.as_object().is_some_and(|fields| fields.iter().all(|(name, value)| entry[name] == *value));
        match found.as_slice() {
            [only] if is_as_wanted(only) => Ok(()),
            _ => Err(format!("{found:?}")),
        }
    });
}

fn unread(of: &Daemon, with: &str) -> Result<u64, String> {
    let list = of.api().get("/v1/conversations")?;
    let found = list["conversations"].as_array().into_iter().flatten().find(|entry| entry["with"] == with);
    Ok(found.and_then(|entry| entry["unread"].as_u64()).unwrap_or(0))
}

#[track_caller]
fn has_unread(of: &Daemon, with: &str, count: u64) {
    eventually(ARRIVAL_TIME_MAX, &format!("{} has {count} unread of {with}", of.name()), || {
        let seen = unread(of, with)?;
        if seen == count { Ok(()) } else { Err(format!("{seen}")) }
    });
}

#[track_caller]
fn send(from: &Daemon, to: &User, message: &str) -> String {
    text(&from.cli(["msg", "send", &to.username, message]).ok(), "id")
}

#[track_caller]
fn knows_its_other_device(of: &Daemon, username: &str) {
    eventually(ARRIVAL_TIME_MAX, "two devices in the record", || {
        let found = of.api().get(&format!("/v1/users/{username}?fresh=true&settled=true"))?;
        if found["devices"].as_array().map(Vec::len) == Some(2) { Ok(()) } else { Err(found.to_string()) }
    });
}

#[test]
fn what_is_read_or_sent_on_one_device_shows_on_the_other_and_at_the_author() {
    let mut network = Plan::new(["alice", "bob"]).contacts_only().start();
    network.befriend(&network.users[0], &network.users[1]);
    let second = second_device(&network, &network.users[1], "bob-second");
    let [alice, bob] = network.users();
    knows_its_other_device(alice, &bob.username);
    for message in ["one", "two", "three"] {
        send(alice, bob, message);
    }
    for device in [&**bob, &second] {
        shows(device, &alice.username, "three", &json!({"incoming": true, "unread": true, "from": alice.username}));
        has_unread(device, &alice.username, 3);
    }
    // Read on the first device, up to the second message.
    let list = messages(bob, &alice.username).expect("bob runs");
    let two = text(list.iter().find(|entry| entry["text"] == "two").expect("it is there"), "id");
    let outcome = bob.cli(["msg", "read", &alice.username, &two]).ok();
    assert_eq!((&outcome["marked"], &outcome["unread"]), (&json!(2), &json!(1)), "{outcome}");
    shows(alice, &bob.username, "two", &json!({"state": "read"}));
    shows(alice, &bob.username, "three", &json!({"state": "delivered"}));
    has_unread(&second, &alice.username, 1);
    shows(&second, &alice.username, "one", &json!({"unread": false, "state": "read"}));
    // The rest on the second.
    second.cli(["msg", "list", &alice.username, "--mark-read"]).ok();
    shows(alice, &bob.username, "three", &json!({"state": "read"}));
    has_unread(bob, &alice.username, 0);
    alice.wait_event(ARRIVAL_TIME_MAX, "message_state", |event| event["state"] == "read");
    bob.wait_event(ARRIVAL_TIME_MAX, "conversation_read", |event| event["elsewhere"] == true && event["unread"] == 0);
    // What bob says on one device, the other shows as said by him, with its state.
    send(bob, alice, "from my first device");
    shows(
        &second,
        &alice.username,
        "from my first device",
        &json!({"incoming": false, "from": bob.username, "to": alice.username}),
    );
    shows(alice, &bob.username, "from my first device", &json!({"incoming": true}));
    shows(&second, &alice.username, "from my first device", &json!({"state": "delivered"}));
    alice.cli(["msg", "read", &bob.username]).ok();
    for device in [&**bob, &second] {
        shows(device, &alice.username, "from my first device", &json!({"state": "read"}));
    }
    // Without receipts alice learns nothing more, and bob's devices do.
    assert_eq!(bob.cli(["privacy", "set", "--receipts", "off"]).ok()["receipts"], false);
    send(alice, bob, "four");
    has_unread(&second, &alice.username, 1);
    has_unread(bob, &alice.username, 1);
    bob.cli(["msg", "read", &alice.username]).ok();
    has_unread(&second, &alice.username, 0);
    // Something later that goes the same way has arrived: the receipt would have too.
    send(bob, alice, "later");
    shows(alice, &bob.username, "later", &json!({"incoming": true}));
    shows(alice, &bob.username, "four", &json!({"state": "delivered"}));
}

#[test]
fn a_device_that_was_away_or_is_new_catches_up() {
    let mut network = Plan::new(["alice", "bob"]).contacts_only().start();
    network.befriend(&network.users[0], &network.users[1]);
    {
        let [alice, bob] = network.users();
        for message in ["before, one", "before, two"] {
            send(alice, bob, message);
            shows(bob, &alice.username, message, &json!({"incoming": true}));
        }
        send(bob, alice, "before, an answer");
        shows(alice, &bob.username, "before, an answer", &json!({"incoming": true}));
        bob.cli(["msg", "read", &alice.username]).ok();
    }
    let mut second = second_device(&network, &network.users[1], "bob-second");
    let [alice, bob] = network.users();
    // New: what was said before it was there, in its order, and what was read.
    shows(&second, &alice.username, "before, an answer", &json!({"incoming": false}));
    shows(&second, &alice.username, "before, two", &json!({"incoming": true, "unread": false}));
    let told: Vec<String> =
        messages(&second, &alice.username).expect("it runs").iter().map(|entry| text(entry, "text")).collect();
    assert_eq!(told, ["before, one", "before, two", "before, an answer"]);
    // Away: while alice and the first device talk, and then everybody but the first device is gone.
    second.kill();
    send(alice, bob, "meanwhile");
    shows(bob, &alice.username, "meanwhile", &json!({"incoming": true}));
    send(bob, alice, "meanwhile, an answer");
    shows(alice, &bob.username, "meanwhile, an answer", &json!({"incoming": true}));
    bob.cli(["msg", "read", &alice.username]).ok();
    alice.kill();
    second.restart();
    for (message, incoming) in [("meanwhile", true), ("meanwhile, an answer", false)] {
        shows(&second, &alice.username, message, &json!({"incoming": incoming, "unread": false}));
    }
}
