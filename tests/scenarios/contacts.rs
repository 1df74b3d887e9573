//! Goal: people become contacts by the word of both, only contacts reach each other, and nothing of it is lost, whoever crashes when.
//! Method: daemons with the default privacy, the command line, `kill -9` at the worst moments.

use std::time::Duration;

use halloo_tests::cli::Invocation;
use halloo_tests::daemon::Daemon;
use halloo_tests::network::{Plan, one_is, text};
use halloo_tests::{Network, User, eventually};
use serde_json::{Value, json};

/// How long something may take to arrive when both sides are up: a retry interval and a look-up.
const ARRIVAL_TIME_MAX: Duration = Duration::from_secs(45);

fn network<const N: usize>(users: [&str; N]) -> Network {
    Plan::new(users).contacts_only().start()
}

fn add(asker: &Daemon, asked: &User, words: &str) -> Value {
    asker.cli(["contact", "add", &asked.username, "--text", words]).ok()
}

#[track_caller]
fn become_contacts(asker: &User, asked: &User) {
    assert_eq!(add(asker, asked, "it's me")["state"], "asked");
    one_is(asked, &asker.username, "requested");
    assert_eq!(asked.cli(["contact", "accept", &asker.username]).ok()["state"], "contact");
    one_is(asker, &asked.username, "contact");
}

fn contact(of: &Daemon, user: &str) -> Result<Value, String> {
    of.api().get(&format!("/v1/contacts/{user}"))
}

fn own_epoch(of: &Daemon) -> u64 {
    let list = of.cli(["contact", "list"]).ok();
    list["key_epoch"].as_u64().unwrap_or_else(|| panic!("no epoch: {list}"))
}

/// Waits until `of` holds the key of `user`'s newest epoch.
#[track_caller]
fn expect_newest_key(of: &Daemon, user: &User) {
    let epoch = own_epoch(user);
    eventually(ARRIVAL_TIME_MAX, "the newest key", || {
        let seen = contact(of, &user.username)?;
        if seen["key_epoch"] == epoch { Ok(()) } else { Err(format!("wants {epoch}: {seen}")) }
    });
}

#[track_caller]
fn expect_refused(from: &User, to: &User) {
    let sent = from.cli(["msg", "send", &to.username, "hello", "--wait"]);
    assert_eq!(sent.code, 1, "{:?}", sent.json());
    let told = sent.json();
    assert_eq!(told["state"], "failed", "{told}");
    assert!(text(&told, "reason").contains("not a contact"), "{told}");
}

#[track_caller]
fn expect_delivered(from: &User, to: &User) {
    let sent = from.cli(["msg", "send", &to.username, "hello", "--wait"]).ok();
    assert_eq!(sent["state"], "delivered", "{sent}");
}

/// The first device of a user, as somebody else sees it.
fn device(seen_by: &User, user: &User) -> Value {
    let found = seen_by.cli(["resolve", &user.username, "--fresh"]).ok();
    found["devices"][0].clone()
}

#[test]
fn a_request_accepted_makes_contacts_who_see_each_others_profile() {
    let mut network = network(["alice", "bob"]);
    let [alice, bob] = network.users();
    assert!(device(alice, bob)["kind"].is_null(), "a stranger doesn't see what the device is");
    alice.cli(["profile", "set", "--name", "Alice A.", "--mood", "curious", "--lang", "de-CH,en"]).ok();
    bob.cli(["profile", "set", "--name", "Bob B."]).ok();
    expect_refused(alice, bob);
    become_contacts(alice, bob);
    let request = bob.wait_event(ARRIVAL_TIME_MAX, "contact_request", |event| event["from"] == alice.username.as_str());
    assert_eq!((&request["text"], &request["display_name"]), (&json!("it's me"), &json!("Alice A.")));
    alice.wait_event(ARRIVAL_TIME_MAX, "contact_accepted", |event| event["username"] == bob.username.as_str());
    for (one, other, name) in [(&*alice, &*bob, "Bob B."), (&*bob, &*alice, "Alice A.")] {
        eventually(ARRIVAL_TIME_MAX, "the profile", || {
            let seen = contact(one, &other.username)?;
            if seen["display_name"] == name { Ok(()) } else { Err(seen.to_string()) }
        });
        expect_newest_key(one, other);
    }
    assert_eq!(contact(bob, &alice.username).expect("known")["languages"], json!(["de-CH", "en"]));
    alice.cli(["profile", "set", "--mood", "content"]).ok();
    bob.wait_event(ARRIVAL_TIME_MAX, "profile_changed", |event| event["username"] == alice.username.as_str());
    eventually(ARRIVAL_TIME_MAX, "the mood", || {
        let seen = contact(bob, &alice.username)?;
        if seen["mood"] == "content" { Ok(()) } else { Err(seen.to_string()) }
    });
    let fingerprint = |of: &User, with: &User| text(&of.cli(["contact", "verify", &with.username]).ok(), "safety_number");
    assert_eq!(fingerprint(alice, bob), fingerprint(bob, alice));
    expect_delivered(alice, bob);
    expect_delivered(bob, alice);
    let seen = device(alice, bob);
    assert!(seen["kind"].is_string(), "a contact sees what the device is: {seen}");
}

#[test]
fn a_declined_request_is_told_and_not_repeated() {
    let mut network = network(["alice", "bob"]);
    let [alice, bob] = network.users();
    add(alice, bob, "hello?");
    one_is(bob, &alice.username, "requested");
    bob.cli(["contact", "decline", &alice.username]).ok();
    one_is(alice, &bob.username, "declined");
    add(alice, bob, "please?");
    // Something later that goes the same way has arrived: so has the request, and nobody was asked.
    bob.cli(["contact", "add", &alice.username]).ok();
    one_is(alice, &bob.username, "contact");
    let requests = bob.events().iter().filter(|event| event["event"] == "contact_request").count();
    assert_eq!(requests, 1, "once declined is declined");
}

#[test]
fn requests_that_cross_make_contacts() {
    let mut network = network(["alice", "bob"]);
    let [alice, bob] = network.users();
    std::thread::scope(|scope| {
        scope.spawn(|| add(alice, bob, ""));
        scope.spawn(|| add(bob, alice, ""));
    });
    one_is(alice, &bob.username, "contact");
    one_is(bob, &alice.username, "contact");
    expect_newest_key(alice, bob);
    expect_newest_key(bob, alice);
    expect_delivered(alice, bob);
}

#[test]
fn who_is_removed_or_blocked_reaches_nobody_and_holds_no_key_that_opens() {
    let mut network = network(["alice", "bob", "carol"]);
    let [alice, bob, carol] = network.users();
    become_contacts(alice, bob);
    become_contacts(carol, alice);
    expect_newest_key(bob, alice);
    expect_newest_key(carol, alice);
    let old = own_epoch(alice);
    alice.cli(["contact", "remove", &bob.username]).ok();
    assert!(own_epoch(alice) > old);
    bob.wait_event(ARRIVAL_TIME_MAX, "contact_removed", |event| event["username"] == alice.username.as_str());
    one_is(bob, &alice.username, "removed");
    expect_refused(bob, alice);
    expect_newest_key(carol, alice);
    expect_delivered(carol, alice);
    eventually(ARRIVAL_TIME_MAX, "only who stayed sees the device", || {
        let (stayed, gone) = (device(carol, alice), device(bob, alice));
        if stayed["kind"].is_string() && gone["kind"].is_null() { Ok(()) } else { Err(format!("{stayed} {gone}")) }
    });
    // Blocked: asks, and learns no more than somebody who hasn't been answered yet.
    alice.cli(["contact", "block", &bob.username]).ok();
    assert_eq!(add(bob, alice, "again?")["state"], "asked");
    expect_refused(bob, alice);
    let asked = |event: &Value| event["event"] == "contact_request" && event["from"] == bob.username.as_str();
    assert!(!alice.events().iter().any(asked), "alice heard of it");
    assert_eq!(alice.cli(["contact", "accept", &bob.username]).code, 1);
    alice.cli(["contact", "unblock", &bob.username]).ok();
    bob.cli(["contact", "remove", &alice.username]).ok();
    become_contacts(bob, alice);
}

#[test]
fn a_stranger_calls_where_anyone_may_and_nowhere_else() {
    let mut network = Plan::new(["alice", "bob"]).contacts_only().args("bob", ["--answer", "auto"]).start();
    let [alice, bob] = network.users();
    let refused = alice.cli(["call", &bob.username, "--duration", "1"]);
    assert_eq!(refused.code, 1);
    let outcome = refused.json();
    assert_eq!(outcome["outcome"], "declined", "{outcome}");
    assert!(text(&outcome, "reason").contains("not a contact"), "{outcome}");
    assert!(!bob.events().iter().any(|event| event["event"] == "call_incoming"), "it rang");
    let calls = bob.cli(["calls", "list"]).ok();
    assert_eq!(calls["calls"].as_array().map(Vec::len), Some(0), "nothing is listed either: {calls}");
    assert_eq!(bob.cli(["privacy", "set", "--call", "anyone"]).ok()["call"], "anyone");
    let talked = alice.cli(["call", &bob.username, "--duration", "1"]).ok();
    assert_eq!(talked["outcome"], "completed", "{talked}");
    expect_refused(alice, bob);
    assert_eq!(bob.cli(["privacy", "set", "--presence", "anyone"]).code, 2, "presence is for contacts");
    bob.cli(["privacy", "set", "--all", "nobody"]).ok();
    become_contacts(alice, bob);
    assert_eq!(alice.cli(["call", &bob.username, "--duration", "1"]).json()["outcome"], "declined", "nobody is nobody");
}

#[test]
fn an_offline_person_is_asked_on_return_and_crashes_lose_nothing() {
    let mut network = network(["alice", "bob"]);
    let [alice, bob] = network.users();
    bob.kill();
    assert_eq!(add(alice, bob, "when you are back")["state"], "asked");
    // What was said to be asked is on disk when the command returns.
    alice.kill();
    alice.restart();
    bob.restart();
    one_is(bob, &alice.username, "requested");
    bob.kill();
    alice.kill();
    bob.restart();
    assert_eq!(bob.cli(["contact", "accept", &alice.username]).ok()["state"], "contact");
    bob.kill();
    alice.restart();
    bob.restart();
    one_is(alice, &bob.username, "contact");
    expect_newest_key(alice, bob);
    expect_newest_key(bob, alice);
    expect_delivered(alice, bob);
    expect_delivered(bob, alice);
}

#[test]
fn links_carry_contacts_to_other_people_and_to_a_new_home() {
    let mut network = network(["alice", "bob", "carol"]);
    {
        let [alice, bob, _] = network.users();
        become_contacts(alice, bob);
    }
    let [alice, bob, carol] = network.users.as_slice() else { panic!("three users") };
    let invite = alice.cli(["contact", "invite"]).ok();
    let link = text(&invite, "link");
    assert!(link.starts_with("halloo:") && invite["identity"] == alice.identity.as_str(), "{invite}");
    assert_eq!(carol.cli(["contact", "add", &link]).ok()["state"], "asked");
    one_is(alice, &carol.username, "requested");
    // Another last letter than it has.
    let damaged = format!("{}{}", &link[..link.len() - 1], if link.ends_with('x') { 'y' } else { 'x' });
    assert_eq!(carol.cli(["contact", "add", &damaged]).code, 2);

    let book = alice.cli(["contact", "export"]).ok().to_string();
    let imported = Invocation::new(carol.home()).args(["contact", "import"]).stdin(book.clone()).run().ok();
    assert_eq!(imported["asked"], json!([bob.username]), "{imported}");
    one_is(bob, &carol.username, "requested");

    // A home made anew with the recovery phrase: who was a contact is one again, without anybody's doing.
    network.users[0].kill();
    let alice = &network.users[0];
    let (mut again, _) = Daemon::init_with(network.folder(), "alice-again", "lab = true\n", Some(&alice.phrase));
    let invite = network.invite();
    Invocation::new(again.home()).args(["enrol", &alice.username, "--invite", &invite]).run().ok();
    again.start(network.launch("alice-again"));
    let imported = Invocation::new(again.home()).args(["contact", "import"]).stdin(book).run().ok();
    assert_eq!(imported["asked"], json!([network.users[1].username]), "{imported}");
    one_is(&again, &network.users[1].username, "contact");
    expect_newest_key(&again, &network.users[1]);
}

#[test]
fn a_users_devices_know_the_same_people() {
    let mut network = network(["alice", "bob"]);
    let bob = &network.users[1];
    let (mut second, _) = Daemon::init_with(network.folder(), "bob-second", "lab = true\n", Some(&bob.phrase));
    let invite = network.invite();
    Invocation::new(second.home()).args(["enrol", &bob.username, "--invite", &invite]).run().ok();
    second.start(network.launch("bob-second"));
    let [alice, bob] = network.users();
    become_contacts(alice, bob);
    one_is(&second, &alice.username, "contact");
    eventually(ARRIVAL_TIME_MAX, "one key for both devices", || {
        let (first, other) = (own_epoch(bob), own_epoch(&second));
        if first == other { Ok(()) } else { Err(format!("{first} and {other}")) }
    });
    // A message reaches both devices: neither takes it for a stranger's.
    expect_delivered(alice, bob);
    eventually(ARRIVAL_TIME_MAX, "the message on the second device", || {
        let list = second.api().get(&format!("/v1/messages?with={}", alice.username))?;
        if list["messages"][0]["text"] == "hello" { Ok(()) } else { Err(list.to_string()) }
    });
    second.cli(["contact", "remove", &alice.username]).ok();
    one_is(bob, &alice.username, "removed");
    one_is(alice, &bob.username, "removed");
}

#[test]
fn what_happens_is_told_in_a_language_that_both_read() {
    let mut network = network(["alice", "bob"]);
    let [alice, bob] = network.users();
    bob.cli(["profile", "set", "--lang", "fr,de-CH"]).ok();
    alice.cli(["profile", "set", "--name", "Alice A.", "--lang", "en,de"]).ok();
    add(alice, bob, "it's me");
    let asked = bob.wait_event(ARRIVAL_TIME_MAX, "contact_request", |_| true);
    let notice = &asked["notice"];
    assert_eq!(notice["language"], "fr", "what a stranger reads isn't known: {asked}");
    assert!(text(notice, "spoken").starts_with("alice@example "), "a stranger's name for themselves isn't shown: {asked}");
    assert_eq!((&notice["accept"], &notice["decline"]), (&json!("Accepter"), &json!("Refuser")));
    bob.cli(["contact", "accept", &alice.username]).ok();
    eventually(ARRIVAL_TIME_MAX, "alice's profile", || {
        let seen = contact(bob, &alice.username)?;
        if seen["display_name"] == "Alice A." { Ok(()) } else { Err(seen.to_string()) }
    });
    one_is(alice, &bob.username, "contact");
    alice.cli(["msg", "send", &bob.username, "hello"]).ok();
    let received = bob.wait_event(ARRIVAL_TIME_MAX, "message_received", |_| true);
    let wanted = json!({
        "language": "de", "direction": "ltr", "text": "Nachricht von \u{2068}Alice A.\u{2069}", "spoken": "Nachricht von Alice A.",
        "accept": "Annehmen", "decline": "Ablehnen",
    });
    assert_eq!(received["notice"], wanted, "{received}");
}
