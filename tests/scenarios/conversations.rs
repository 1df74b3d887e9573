//! Goal: conversations stay readable for the two devices they are between, whatever keys were used up or lost. Method: first messages of two people to
//! a device that is away, and homes that are set back to an old copy while the other side has gone on.

use std::fs;
use std::path::Path;
use std::time::Duration;

use halloo_tests::network::{AUTHORITY, text};
use halloo_tests::{Daemon, Network, Plan, User, eventually};
use serde_json::Value;

/// Long enough for a look-up, a key, and a try that has to be made again.
const ARRIVAL_TIME_MAX: Duration = Duration::from_secs(60);

const CONFIG: &str = "config.toml";

fn conversation(of: &User, with: &User) -> Result<Vec<Value>, String> {
    let list = of.api().get(&format!("/v1/messages?with={}", with.username))?;
    list["messages"].as_array().cloned().ok_or_else(|| list.to_string())
}

#[track_caller]
fn send(from: &User, to: &User, message: &str) -> String {
    text(&from.cli(["msg", "send", &to.username, message]).ok(), "id")
}

#[track_caller]
fn is_in_state(from: &User, to: &User, id: &str, wanted: &[&str]) {
    eventually(ARRIVAL_TIME_MAX, &format!("the message is {wanted:?} at the sender"), || {
        let sent = conversation(from, to)?;
        let state = sent.iter().find(|entry| entry["id"] == id).and_then(|entry| entry["state"].as_str()).unwrap_or_default();
        if wanted.contains(&state) { Ok(()) } else { Err(state.to_owned()) }
    });
}

#[track_caller]
fn has_once(to: &User, from: &User, message: &str) {
    eventually(ARRIVAL_TIME_MAX, &format!("{message:?} is there"), || {
        let received = conversation(to, from)?;
        let copies = received.iter().filter(|entry| entry["text"] == message && entry["incoming"] == true).count();
        if copies == 1 { Ok(()) } else { Err(format!("{copies} copies")) }
    });
}

/// Sends, and waits until it is there and the sender knows.
#[track_caller]
fn tell(from: &User, to: &User, message: &str) {
    let id = send(from, to, message);
    has_once(to, from, message);
    is_in_state(from, to, &id, &["delivered", "read"]);
}

#[track_caller]
fn mailboxes_of(user: &Daemon, count: usize) -> Vec<String> {
    eventually(ARRIVAL_TIME_MAX, "the entry names the mailboxes", || {
        let status = user.api().get("/v1/status")?;
        let named: Vec<String> = serde_json::from_value(status["mailboxes"].clone()).map_err(|error| error.to_string())?;
        if named.len() == count { Ok(named) } else { Err(status["mailboxes"].to_string()) }
    })
}

#[test]
fn two_people_write_first_to_the_same_device_that_is_away() {
    let keepers = ["dave", "erin"];
    let names = ["alice", "bob", "carol", "dave", "erin"];
    let plan = keepers.into_iter().fold(Plan::new(names), |plan, keeper| plan.args(keeper, ["--role", "mailbox"]));
    let mut network = plan.start();
    let named = mailboxes_of(&network.users[1], 2);
    let [alice, bob, carol, dave, erin] = network.users();
    bob.kill();
    // Carol's letter is in both mailboxes, alice's in the one that is left: neither knows of the other, nor do the mailboxes.
    let from_carol = send(carol, bob, "carol was first");
    let lost = [dave, erin].into_iter().find(|keeper| named.contains(&keeper.peer_id()));
    lost.expect("at most one of the two is the infrastructure's").kill();
    let from_alice = send(alice, bob, "alice was first");
    for (writer, id) in [(&*alice, &from_alice), (&*carol, &from_carol)] {
        is_in_state(writer, bob, id, &["sent"]);
    }
    alice.kill();
    carol.kill();
    bob.restart();
    has_once(bob, alice, "alice was first");
    has_once(bob, carol, "carol was first");
    alice.restart();
    carol.restart();
    is_in_state(alice, bob, &from_alice, &["delivered"]);
    is_in_state(carol, bob, &from_carol, &["delivered"]);
    for (friend, answer) in [(alice, "to alice"), (carol, "to carol")] {
        tell(bob, friend, answer);
        tell(friend, bob, "and on");
    }
}

#[test]
fn two_who_write_at_once_understand_each_other() {
    let mut network = Network::of(["alice", "bob"]);
    let [alice, bob] = network.users();
    let (one, other) = (send(alice, bob, "from alice"), send(bob, alice, "from bob"));
    has_once(bob, alice, "from alice");
    has_once(alice, bob, "from bob");
    is_in_state(alice, bob, &one, &["delivered"]);
    is_in_state(bob, alice, &other, &["delivered"]);
    for round in 0..3 {
        tell(alice, bob, &format!("alice {round}"));
        tell(bob, alice, &format!("bob {round}"));
    }
}

/// Copies a home's files; it has no folders that matter.
fn copy_home(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("the folder is ours");
    for entry in fs::read_dir(from).expect("a home") {
        let entry = entry.expect("a file");
        if entry.file_type().expect("known").is_file() {
            fs::copy(entry.path(), to.join(entry.file_name())).expect("copied");
        }
    }
}

/// Exchanges messages, then sets the home of `restored` back to what it was before, and goes on in both directions.
#[track_caller]
fn set_back(network: &mut Network, restored: usize) {
    let folder = network.folder().join("backup");
    let [alice, bob] = network.users();
    let (old, other): (&mut User, &mut User) = if restored == 0 { (alice, bob) } else { (bob, alice) };
    back_up(old, other, &folder);
    restore(old, other, &folder);
}

/// Exchanges messages before a backup is made of `old`'s home, and after it.
#[track_caller]
fn back_up(old: &mut User, other: &User, folder: &Path) {
    tell(other, old, "before");
    tell(old, other, "before too");
    old.kill();
    copy_home(old.home(), folder);
    old.restart();
    for round in 0..3 {
        tell(old, other, &format!("lost {round}"));
        tell(other, old, &format!("lost too {round}"));
    }
}

/// Sets `old`'s home back, and goes on in both directions.
#[track_caller]
fn restore(old: &mut User, other: &User, folder: &Path) {
    // While it is away something is written to it, in the session as it was.
    old.kill();
    let waiting = send(other, old, "while you were away");
    is_in_state(other, old, &waiting, &["sent"]);
    let config = fs::read(old.home().join(CONFIG)).expect("the home is ours");
    copy_home(folder, old.home());
    fs::write(old.home().join(CONFIG), config).expect("the home is ours");
    old.restart();
    has_once(old, other, "while you were away");
    is_in_state(other, old, &waiting, &["delivered"]);
    for round in 0..3 {
        tell(old, other, &format!("after {round}"));
        tell(other, old, &format!("after too {round}"));
    }
    let failed: Vec<Value> = [conversation(old, other), conversation(other, old)]
        .into_iter()
        .flat_map(|list| list.expect("both run"))
        .filter(|entry| entry["state"] == "failed")
        .collect();
    assert!(failed.is_empty(), "nothing fails for good: {failed:?}");
    // What the other said after the backup was made is asked for again, since its numbers are missing.
    for round in 0..3 {
        has_once(old, other, &format!("lost too {round}"));
    }
    // What it publishes is accepted, though its numbers were used before: whoever looks it up is told of this very run.
    let listens = old.addresses();
    eventually(ARRIVAL_TIME_MAX, "the addresses of this run", || {
        let found = other.api().get(&format!("/v1/users/{}?fresh=true&settled=true", old.username))?;
        let addresses = found["devices"][0]["addresses"].as_array().cloned().unwrap_or_default();
        let is_own = |address: &Value| listens.iter().any(|own| address.as_str().is_some_and(|address| own.starts_with(address)));
        if !addresses.is_empty() && addresses.iter().all(is_own) { Ok(()) } else { Err(format!("{listens:?}: {found}")) }
    });
}

#[test]
fn a_home_that_was_set_back_goes_on_both_ways() {
    let mut network = Network::of(["alice", "bob"]);
    mailboxes_of(&network.users[0], 1);
    mailboxes_of(&network.users[1], 1);
    set_back(&mut network, 1);
}

#[test]
fn who_wrote_first_may_be_the_one_that_was_set_back() {
    let mut network = Network::of(["alice", "bob"]);
    mailboxes_of(&network.users[0], 1);
    mailboxes_of(&network.users[1], 1);
    set_back(&mut network, 0);
}

const PAST_CLOCK: &str = "[debug]\nclock_skew_secs = -604800\n";

fn correct_clock(daemon: &Daemon) {
    let path = daemon.home().join(CONFIG);
    let config = fs::read_to_string(&path).expect("the home is ours");
    assert!(config.contains(PAST_CLOCK), "{config}");
    fs::write(path, config.replace(PAST_CLOCK, "")).expect("the home is ours");
}

#[test]
fn a_home_set_back_by_a_week_goes_on() {
    let names = ["alice", "bob"];
    let plan = [AUTHORITY, "alice", "bob"].into_iter().fold(Plan::new(names), |plan, name| plan.config(name, PAST_CLOCK));
    let mut network = plan.start();
    network.users.iter().for_each(|user| drop(mailboxes_of(user, 1)));
    let folder = network.folder().join("backup");
    let [alice, bob] = network.users();
    back_up(bob, alice, &folder);
    // A week goes by in which nobody is there: everything that lasts for days only has ended for everybody.
    network.users.iter_mut().for_each(|user| user.kill());
    network.authority.kill();
    [&network.authority].into_iter().chain(network.users.iter().map(|user| &**user)).for_each(correct_clock);
    network.authority.restart();
    for (index, name) in names.into_iter().enumerate() {
        let launch = network.launch(name);
        network.users[index].start(launch);
    }
    network.users.iter().for_each(|user| drop(mailboxes_of(user, 1)));
    let [alice, bob] = network.users();
    for round in 3..6 {
        tell(bob, alice, &format!("lost {round}"));
        tell(alice, bob, &format!("lost too {round}"));
    }
    restore(bob, alice, &folder);
    for round in 3..6 {
        has_once(bob, alice, &format!("lost too {round}"));
    }
    let status = bob.cli(["status"]).ok();
    assert_eq!(status["clock_offset_ms"].as_i64().map(|offset| offset.abs() < 60_000), Some(true), "{status}");
}
