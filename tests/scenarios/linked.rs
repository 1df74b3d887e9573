//! Goal: two people who are contacts in XMPP and not here can call each other, and nobody else gains by it. Method: Debian's Prosody is the other system; contact
//! lists are changed there by another client.

use std::time::Duration;

use halloo_tests::cli::{Invocation, Output};
use halloo_tests::linking;
use halloo_tests::network::text;
use halloo_tests::xmpp::{DOMAIN, Prosody};
use halloo_tests::{Daemon, Launch, Network, Plan, User, eventually};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(40);

fn password(user: &User, name: &str) -> String {
    use std::os::unix::fs::PermissionsExt;
    let path = user.home().join("xmpp-password");
    std::fs::write(&path, format!("pw-{name}\n")).expect("the home is ours");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("ours");
    path.display().to_string()
}

#[track_caller]
pub(crate) fn link(user: &User, name: &str, server: &Prosody) -> Value {
    link_with(user, name, server, &[])
}

#[track_caller]
pub(crate) fn link_with(user: &User, name: &str, server: &Prosody, more: &[&str]) -> Value {
    link_args(user, name, server, more).ok()
}

pub(crate) fn try_to_link(user: &User, name: &str, server: &Prosody) -> Output {
    link_args(user, name, server, &[])
}

fn link_args(user: &User, name: &str, server: &Prosody, more: &[&str]) -> Output {
    let (file, address) = (password(user, name), server.address());
    let certificate = server.certificate().display().to_string();
    let account = format!("{name}@{DOMAIN}");
    let args = ["link", "add", "xmpp", &account, "--password-file", &file, "--server", &address, "--roots", &certificate];
    Invocation::new(user.home()).args(args.iter().chain(more)).run()
}

/// Calls somebody by their address there, and gives how it ended.
#[track_caller]
fn call(from: &Daemon, name: &str) -> (i32, Value) {
    let callee = format!("xmpp:{name}@{DOMAIN}");
    let output = Invocation::new(from.home()).args(["call", &callee, "--duration", "1"]).start().wait(PATIENCE);
    (output.code, output.json())
}

pub(crate) fn incoming(user: &Daemon) -> Vec<Value> {
    user.events().into_iter().filter(|event| event["event"] == "call_incoming").collect()
}

/// The leave that stands beside what somebody shows, as their own server has it.
fn leave_of(server: &Prosody, name: &str) -> String {
    let shown = server.shown(name, name);
    let leave = shown.split_once("<leave>").and_then(|(_, rest)| rest.split_once("</leave>"));
    leave.unwrap_or_else(|| panic!("leave is given: {shown}")).0.to_owned()
}

fn network(users: &[&'static str]) -> Network {
    let plan = Plan::new(users.iter().copied());
    users.iter().fold(plan, |plan, name| plan.args(name, ["--answer", "auto"])).contacts_only().start()
}

/// The one of the short suite: linked, she calls and is shown as his contact; taken out of his list, she is refused.
#[test]
fn a_contact_in_xmpp_calls_until_the_list_says_otherwise() {
    let network = network(&["alice", "bob"]);
    let server = Prosody::start(network.folder(), &["alice", "bob"], &[("alice", "bob")], &[]);
    let [alice, bob] = &network.users[..] else { panic!("two users") };
    let linked = link(bob, "bob", &server);
    assert_eq!((&linked["account"], &linked["state"]), (&"xmpp:bob@there.test".into(), &"connected".into()), "{linked}");
    // Nothing that he is allowed to know says that she is here too.
    assert_eq!(linked["contacts"][0]["username"], Value::Null, "{linked}");
    link(alice, "alice", &server);
    assert!(!server.present("bob").contains("from='alice@there.test/"), "she isn't shown as there");

    let (code, outcome) = call(alice, "bob");
    assert_eq!((code, &outcome["outcome"]), (0, &"completed".into()), "{outcome}");
    let rang = bob.wait_event(PATIENCE, "call_incoming", |_| true);
    assert_eq!(rang["linked"]["id"], "xmpp:alice@there.test", "{rang}");
    assert_eq!(rang["linked"]["name"], "alice from there", "{rang}");
    assert_eq!(rang["from"], alice.username.as_str());
    assert!(text(&rang["notice"], "text").contains("alice from there"), "{rang}");
    let calls = alice.cli(["calls", "list"]).ok();
    assert_eq!(calls["calls"][0]["linked"]["id"], "xmpp:bob@there.test", "{calls}");
    // Nobody has become a contact, and nobody sees the other's presence.
    for user in [alice, bob] {
        assert_eq!(user.cli(["contact", "list"]).ok()["contacts"], serde_json::json!([]));
    }
    assert_eq!(rang["linked"]["by"], "request");
    // She says nothing: he knows her by what her place shows.
    let plain = Invocation::new(alice.home()).args(["call", &bob.username, "--duration", "1"]).start().wait(PATIENCE);
    assert_eq!((plain.code, &plain.json()["outcome"]), (0, &"completed".into()), "{plain:?}");
    let seen = bob.wait_event(PATIENCE, "call_incoming", |rang| rang["linked"]["by"] == "place");
    assert_eq!(seen["linked"]["id"], "xmpp:alice@there.test", "{seen}");

    server.unfriend("bob", "alice");
    eventually(PATIENCE, "his node hears of it", || {
        let list = bob.cli(["link", "list"]).ok();
        if list["accounts"][0]["contacts"].as_array().is_some_and(Vec::is_empty) { Ok(()) } else { Err(list.to_string()) }
    });
    let rings = incoming(bob).len();
    let (code, outcome) = call(alice, "bob");
    assert_ne!(code, 0, "{outcome}");
    assert_eq!(incoming(bob).len(), rings, "it hasn't rung");
}

/// His login is on his phone, which is off: his laptop rings for his contact there, calls and writes her. What the phone learns later counts on the laptop too.
#[test]
fn every_device_is_called_and_calls_by_the_login_of_one() {
    let plan = Plan::new(["alice", "bob"]).args("alice", ["--answer", "auto"]).args("laptop", ["--answer", "auto"]);
    let mut network = plan.contacts_only().start();
    let server = Prosody::start(network.folder(), &["alice", "bob"], &[("alice", "bob")], &[]);
    let laptop = linking::link(&network, &network.users[1], "laptop", &[]);
    let (alice, bob) = network.users.split_at_mut(1);
    let (alice, bob) = (&alice[0], &mut bob[0]);
    link(alice, "alice", &server);
    link(bob, "bob", &server);
    eventually(PATIENCE, "the laptop knows who she is", || {
        let account = laptop.cli(["link", "list"]).ok()["accounts"][0].clone();
        let is_known = account["contacts"][0]["username"] == alice.username.as_str();
        if account["state"] == "elsewhere" && is_known { Ok(()) } else { Err(account.to_string()) }
    });
    let account = laptop.cli(["link", "list"]).ok()["accounts"][0].clone();
    assert_eq!((&account["here"], &account["peer_id"]), (&false.into(), &bob.peer_id().into()), "{account}");
    bob.terminate();

    let (code, outcome) = call(alice, "bob");
    assert_eq!((code, &outcome["outcome"]), (0, &"completed".into()), "{outcome}");
    let rang = laptop.wait_event(PATIENCE, "call_incoming", |_| true);
    assert_eq!((&rang["linked"]["id"], &rang["linked"]["name"]), (&"xmpp:alice@there.test".into(), &"alice from there".into()));
    // One person, one conversation, by whatever name.
    alice.cli(["msg", "send", "xmpp:bob@there.test", "hello", "--wait"]).ok();
    let received = laptop.wait_event(PATIENCE, "message_received", |message| message["text"] == "hello");
    assert_eq!(received["linked"]["id"], "xmpp:alice@there.test", "{received}");
    assert!(text(&received["notice"], "text").contains("alice from there"), "{received}");
    laptop.cli(["msg", "send", "xmpp:alice@there.test", "hello yourself", "--wait"]).ok();
    let said = laptop.cli(["msg", "list", &alice.username]).ok();
    assert_eq!(said, laptop.cli(["msg", "list", "xmpp:alice@there.test"]).ok());
    assert_eq!(said["messages"].as_array().map(Vec::len), Some(2), "{said}");
    let people = laptop.cli(["contact", "list"]).ok();
    assert_eq!((&people["contacts"], people["linked"].as_array().map(Vec::len)), (&serde_json::json!([]), Some(1)), "{people}");
    assert_eq!(
        (&people["linked"][0]["username"], &people["linked"][0]["state"]),
        (&alice.username.as_str().into(), &"linked".into())
    );
    let (code, outcome) = call(&laptop, "alice");
    assert_eq!((code, &outcome["outcome"]), (0, &"completed".into()), "{outcome}");
    let rang = alice.wait_event(PATIENCE, "call_incoming", |_| true);
    assert_eq!(rang["linked"]["id"], "xmpp:bob@there.test", "{rang}");

    bob.restart();
    server.unfriend("bob", "alice");
    eventually(PATIENCE, "the laptop hears of it", || {
        let list = laptop.cli(["link", "list"]).ok();
        if list["accounts"][0]["contacts"].as_array().is_some_and(Vec::is_empty) { Ok(()) } else { Err(list.to_string()) }
    });
    // The device that was off may have heard late of the call that the other one has answered.
    let rings = |bob: &User| (incoming(&laptop).len(), incoming(bob).len());
    let before = rings(bob);
    assert_ne!(call(alice, "bob").0, 0);
    assert_eq!(rings(bob), before, "neither has rung");
    // Unlinked on the device without the login, which has the one with it say so there.
    let removed = laptop.cli(["link", "remove", "xmpp:bob@there.test"]).ok();
    assert_eq!(removed["is_taken_back"], true, "{removed}");
    for device in [&**bob, &laptop] {
        assert_eq!(device.cli(["link", "list"]).ok()["accounts"], serde_json::json!([]));
    }
}

fn root(network: &Network) -> String {
    text(&network.authority.cli(["authority", "show"]).ok(), "key")
}

/// `halloo start` in a home that isn't there yet.
#[track_caller]
fn start_as_alice(network: &Network, server: &Prosody) -> Daemon {
    let (file, certificate) = (network.folder().join("password"), server.certificate().display().to_string());
    std::fs::write(&file, "pw-alice\n").expect("the folder is ours");
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("ours");
    let login = ["--as", "xmpp:alice@there.test", "--server", &server.address(), "--roots", &certificate, "--answer", "auto"];
    let launch = network.launch("tech").args(login).args(["--password-file".to_owned(), file.display().to_string()]);
    let mut tech = Daemon::of_home(network.folder(), "tech");
    tech.spawn(Launch {
        command: Some("start"),
        ..launch.args(["--authority".to_owned(), format!("example={}", root(network))])
    });
    tech.wait_ready(PATIENCE);
    let made = tech.wait_event(PATIENCE, "identity", |_| true);
    assert!(made["recovery_phrase"].is_string(), "{made}");
    tech.wait_event(PATIENCE, "link_added", |_| true);
    tech
}

/// Known by her XMPP address alone she starts, and is called as his contact there. Later all of it is part of the user that she is elsewhere: one entry, one conversation.
#[test]
fn a_technical_identity_is_made_called_and_merged() {
    let network = network(&["bob", "alice"]);
    let server = Prosody::start(network.folder(), &["alice", "bob"], &[("alice", "bob")], &[]);
    let (bob, alice) = (&network.users[0], &network.users[1]);
    link(bob, "bob", &server);
    let mut tech = start_as_alice(&network, &server);

    let (code, outcome) = call(&tech, "bob");
    assert_eq!((code, &outcome["outcome"]), (0, &"completed".into()), "{outcome}");
    let rang = bob.wait_event(PATIENCE, "call_incoming", |_| true);
    let old = text(&rang, "from");
    assert!(old.starts_with("key:") && rang["linked"]["id"] == "xmpp:alice@there.test", "{rang}");
    tech.cli(["msg", "send", "xmpp:bob@there.test", "before", "--wait"]).ok();
    bob.wait_event(PATIENCE, "message_received", |message| message["text"] == "before");
    let (code, outcome) = call(bob, "alice");
    assert_eq!((code, &outcome["outcome"]), (0, &"completed".into()), "{outcome}");

    tech.terminate();
    let kept = network.folder().join("copy");
    let copied = std::process::Command::new("cp").arg("-a").arg(tech.home()).arg(&kept).status().expect("cp runs");
    assert!(copied.success());
    let offer = linking::Linking::start(alice, &[]);
    let merged = Invocation::new(tech.home()).args(["identity", "merge", &offer.link()]).run().ok();
    assert_eq!((&merged["username"], offer.finish().1), (&alice.username.as_str().into(), 0), "{merged}");
    tech.start(network.launch("tech").args(["--answer", "auto"]));

    eventually(PATIENCE, "her other device has signed for her", || {
        let account = tech.cli(["link", "list"]).ok()["accounts"][0].clone();
        let is_signed = account["shown_until"].is_string() && account["state"] == "connected";
        if is_signed { Ok(()) } else { Err(account.to_string()) }
    });
    let people = |wanted: &str| {
        eventually(PATIENCE, "he knows who she is now", || {
            let people = bob.cli(["contact", "list"]).ok();
            let is_one = people["linked"].as_array().map(Vec::len) == Some(1);
            if is_one && people["linked"][0]["username"] == wanted { Ok(()) } else { Err(people.to_string()) }
        });
    };
    // He looks when she calls.
    let (code, outcome) = call(&tech, "bob");
    assert_eq!((code, &outcome["outcome"]), (0, &"completed".into()), "{outcome}");
    let rang = bob.wait_event(PATIENCE, "call_incoming", |rang| rang["from"] == alice.username.as_str());
    assert_eq!(rang["linked"]["id"], "xmpp:alice@there.test", "{rang}");
    people(&alice.username);
    tech.cli(["msg", "send", "xmpp:bob@there.test", "after", "--wait"]).ok();
    bob.wait_event(PATIENCE, "message_received", |message| message["text"] == "after");
    let said = bob.cli(["msg", "list", "xmpp:alice@there.test"]).ok();
    let texts: Vec<&Value> = said["messages"].as_array().into_iter().flatten().map(|message| &message["text"]).collect();
    assert_eq!(texts, ["before", "after"], "{said}");
    assert_eq!(said["with"], alice.username.as_str(), "{said}");
    assert_eq!(bob.cli(["msg", "conversations"]).ok()["conversations"].as_array().map(Vec::len), Some(1));
    // Who kept the old identity has nothing.
    tech.terminate();
    let mut thief = Daemon::of_home(network.folder(), "copy");
    let rings = incoming(bob).len();
    // Its record is kept by nobody who knows better, so it isn't ready.
    thief.spawn(network.launch("copy").args(["--authority".to_owned(), format!("example={}", root(&network))]));
    eventually(PATIENCE, "the copy runs", || {
        let status = thief.cli(["status"]);
        if status.code == 0 { Ok(()) } else { Err(format!("{status:?}")) }
    });
    assert_ne!(call(&thief, "bob").0, 0);
    assert_ne!(thief.cli(["msg", "send", &bob.username, "it is me", "--wait", "--timeout", "3"]).code, 0);
    assert_eq!(incoming(bob).len(), rings, "it hasn't rung");
}

/// Who has no name is woken for contacts elsewhere all the same.
#[test]
#[ignore = "long: the short one is of its calls; this one of its sleep"]
fn a_technical_identity_is_woken() {
    let network = network(&["bob"]);
    let server = Prosody::start(network.folder(), &["alice", "bob"], &[("alice", "bob")], &[]);
    let bob = &network.users[0];
    link(bob, "bob", &server);
    let tech = start_as_alice(&network, &server);
    tech.cli(["push", "register", "webpush"]).ok();
    eventually(PATIENCE, "leave is given", || {
        let shown = server.shown("alice", "alice");
        if shown.contains("<leave>") { Ok(()) } else { Err(shown) }
    });
    assert_eq!(tech.cli(["suspend"]).ok()["push_registrations"], 1);
    let (code, outcome) = call(bob, "alice");
    assert_eq!((code, &outcome["outcome"]), (0, &"completed".into()), "{outcome}");
    tech.wait_event(PATIENCE, "woken", |woken| woken["by_push"] == true);
}

/// Contacts elsewhere are asked into calls and groups; whom he blocks is let in no more, and isn't shown how to wake him.
#[test]
#[ignore = "long: a conference, a group and a block of three users"]
fn contacts_elsewhere_are_asked_in_and_can_be_blocked() {
    let network = network(&["alice", "bob", "carol"]);
    let all = [("alice", "bob"), ("carol", "bob"), ("carol", "alice")];
    let server = Prosody::start(network.folder(), &["alice", "bob", "carol"], &all, &[]);
    let [alice, bob, carol] = &network.users[..] else { panic!("three users") };
    // Places are looked at when an account connects: she links last, and knows both.
    for (user, name) in [(carol, "carol"), (bob, "bob"), (alice, "alice")] {
        link(user, name, &server);
    }
    let knows = |user: &User, count: usize| {
        eventually(PATIENCE, "contacts there are known", || {
            let people = user.cli(["contact", "list"]).ok();
            if people["linked"].as_array().map(Vec::len) == Some(count) { Ok(()) } else { Err(people.to_string()) }
        });
    };
    knows(alice, 2);
    knows(bob, 1);
    let group = text(&alice.cli(["group", "create", "both systems"]).ok(), "id");
    alice.cli(["group", "add", &group, "xmpp:bob@there.test"]).ok();
    let invited = bob.wait_event(PATIENCE, "group_invited", |_| true);
    assert_eq!((&invited["from"], &invited["joined"]), (&alice.username.as_str().into(), &false.into()), "{invited}");

    let before = leave_of(&server, "bob");
    let blocked = bob.cli(["contact", "block", "xmpp:carol@there.test"]).ok();
    assert_eq!((&blocked["username"], &blocked["state"]), (&carol.username.as_str().into(), &"blocked".into()), "{blocked}");
    turned(&server, &before, "what she had been given ends");
    assert!(!server.shown("carol", "bob").contains("<association"), "she isn't shown the next");
    assert!(server.shown("alice", "bob").contains("<leave>"), "others are");
    let rings = incoming(bob).len();
    assert_ne!(call(carol, "bob").0, 0);
    assert_eq!(incoming(bob).len(), rings, "it hasn't rung");
    assert_eq!(call(alice, "bob").0, 0);
    bob.cli(["contact", "unblock", "xmpp:carol@there.test"]).ok();
    eventually(PATIENCE, "she is shown it again", || {
        let shown = server.shown("carol", "bob");
        if shown.contains("<leave>") { Ok(()) } else { Err(shown) }
    });

    let before = incoming(bob).pop().unwrap_or_default();
    let talk = Invocation::new(alice.home()).args(["call", "xmpp:bob@there.test", "--duration", "60"]).start();
    let id = text(&bob.wait_event(PATIENCE, "call_incoming", |rang| rang["call_id"] != before["call_id"]), "call_id");
    eventually(PATIENCE, "she is asked in", || {
        let added = alice.cli(["calls", "add", &id, "xmpp:carol@there.test"]);
        if added.code == 0 && added.json()["joined"] == true { Ok(()) } else { Err(format!("{added:?}")) }
    });
    alice.cli(["calls", "hangup", &id]).ok();
    drop(talk);
    for user in [bob, carol] {
        let rang = user.wait_event(PATIENCE, "call_incoming", |rang| rang["linked"]["id"] == "xmpp:alice@there.test");
        assert_eq!(rang["from"], alice.username.as_str(), "{rang}");
    }
}

/// She links while his phone sleeps, and his only connection to XMPP with it: it is woken, and rings as for a contact there.
#[test]
fn a_suspended_phone_is_woken_for_a_contact_in_xmpp() {
    let network = network(&["alice", "bob"]);
    let server = Prosody::start(network.folder(), &["alice", "bob"], &[("alice", "bob")], &[]);
    let [alice, bob] = &network.users[..] else { panic!("two users") };
    link(bob, "bob", &server);
    bob.cli(["push", "register", "webpush"]).ok();
    assert!(!leave_of(&server, "bob").is_empty());
    assert_eq!(bob.cli(["suspend"]).ok()["push_registrations"], 1);
    link(alice, "alice", &server);

    let (code, outcome) = call(alice, "bob");
    assert_eq!((code, &outcome["outcome"]), (0, &"completed".into()), "{outcome}");
    bob.wait_event(PATIENCE, "woken", |woken| woken["by_push"] == true);
    let rang = bob.wait_event(PATIENCE, "call_incoming", |_| true);
    assert_eq!((&rang["linked"]["id"], &rang["via_push"]), (&"xmpp:alice@there.test".into(), &true.into()), "{rang}");
    alice.cli(["msg", "send", "xmpp:bob@there.test", "so much for sleep", "--wait"]).ok();
    bob.wait_event(PATIENCE, "message_received", |message| message["from"] == alice.username.as_str());
    for (user, other) in [(alice, bob), (bob, alice)] {
        assert_eq!(user.cli(["contact", "list"]).ok()["contacts"], serde_json::json!([]));
        let presence = user.cli(["presence", "get", &other.username]);
        assert_ne!(presence.code, 0, "presence is for contacts: {presence:?}");
        let device = &user.cli(["resolve", &other.username]).ok()["devices"][0];
        assert_eq!(device["name"], Value::Null, "{device}");
    }
}

/// Waits until `bob` gives another leave, and gives it.
#[track_caller]
fn turned(server: &Prosody, before: &str, why: &str) -> String {
    eventually(PATIENCE, why, || {
        let now = leave_of(server, "bob");
        if now == before { Err("it is still there".to_owned()) } else { Ok(now) }
    })
}

fn by_name(from: &User, to: &User) -> (i32, Value) {
    let output = Invocation::new(from.home()).args(["call", &to.username, "--duration", "1"]).start().wait(2 * PATIENCE);
    (output.code, output.json())
}

fn times_woken(user: &User) -> usize {
    user.events().iter().filter(|event| event["event"] == "woken").count()
}

/// What was given can be kept: she calls by what she has on disk, without XMPP, and by his name here, which lets nobody in but wakes whom she has leave to wake.
#[test]
#[ignore = "long: a device that nobody can wake is given up on after a while"]
fn leave_to_wake_ends_with_the_contact_list() {
    let plan = Plan::new(["alice", "bob"]).args("bob", ["--answer", "auto"]).args("alice", ["--answer", "auto"]);
    let mut network = plan.config("bob", "[linked]\ncarriers = [\"request\"]\n").contacts_only().start();
    let server = Prosody::start(network.folder(), &["alice", "bob"], &[("alice", "bob")], &[]);
    let (alice, bob) = network.users.split_at_mut(1);
    let (alice, bob) = (&mut alice[0], &bob[0]);
    link(bob, "bob", &server);
    bob.cli(["push", "register", "webpush"]).ok();
    link(alice, "alice", &server);
    // Who says nothing is let in by nothing here.
    let knows_him = |alice: &User| {
        eventually(PATIENCE, "she knows who he is", || {
            let list = alice.cli(["link", "list"]).ok();
            if list["accounts"][0]["contacts"][0]["username"].is_string() { Ok(()) } else { Err(list.to_string()) }
        });
    };
    knows_him(alice);
    let given = leave_of(&server, "bob");
    bob.cli(["suspend"]).ok();
    assert_ne!(by_name(alice, bob).0, 0);
    bob.wait_event(PATIENCE, "woken", |_| true);
    assert_eq!((times_woken(bob), incoming(bob).len()), (1, 0), "woken, and refused");

    alice.terminate();
    let registered = bob.cli(["push", "list"]).ok()["registrations"][0]["expires_at"].clone();
    server.unfriend("bob", "alice");
    turned(&server, &given, "what she had been given ends");
    eventually(PATIENCE, "his gateway has been told", || {
        let now = bob.cli(["push", "list"]).ok()["registrations"][0]["expires_at"].clone();
        if now == registered { Err(now.to_string()) } else { Ok(()) }
    });
    bob.cli(["suspend"]).ok();
    drop(server);
    alice.restart();
    knows_him(alice);
    assert_ne!(by_name(alice, bob).0, 0);
    assert_eq!(times_woken(bob), 1, "it sleeps on");
}

/// She shows nobody there who she is: her server gives a token for each call, which his asks about, and which is gone with the call.
#[test]
fn a_token_of_the_server_lets_one_call_in() {
    let network = network(&["alice", "bob"]);
    let server = Prosody::start(network.folder(), &["alice", "bob"], &[("alice", "bob")], &[]);
    let [alice, bob] = &network.users[..] else { panic!("two users") };
    link(bob, "bob", &server);
    let linked = link_with(alice, "alice", &server, &["--tokens"]);
    assert_eq!((&linked["tokens"], &linked["shown_until"]), (&true.into(), &Value::Null), "{linked}");
    assert!(!server.shown("bob", "alice").contains("<association"), "she shows nothing");

    for calls in 1..=2 {
        let (code, outcome) = call(alice, "bob");
        assert_eq!((code, &outcome["outcome"]), (0, &"completed".into()), "{outcome}");
        let rang = incoming(bob);
        assert_eq!(rang.len(), calls);
        assert!(rang.iter().all(|rang| rang["linked"]["id"] == "xmpp:alice@there.test"), "{rang:?}");
        eventually(PATIENCE, "the token is forgotten", || {
            let known = server.tokens("bob", "alice");
            if known.contains("<event") { Err(known) } else { Ok(()) }
        });
    }
    assert!(!server.shown("bob", "alice").contains("<association"), "she still shows nothing");
    assert_ne!(call(bob, "alice").0, 0, "nothing says where to call her");
    alice.cli(["link", "remove", "xmpp:alice@there.test"]).ok();
    assert_ne!(call(alice, "bob").0, 0);
    let unsent = alice.cli(["msg", "send", "xmpp:bob@there.test", "hello"]);
    assert!(unsent.code != 0 && unsent.last_error().contains("contact list of a linked account"), "{unsent:?}");
}

#[test]
#[ignore = "long: links, calls and refusals of four users"]
fn nobody_else_gains_by_a_link() {
    let network = network(&["alice", "bob", "carol", "mallory"]);
    let names = ["alice", "bob", "carol", "mallory"];
    let server = Prosody::start(
        network.folder(),
        &names,
        &[("alice", "bob"), ("carol", "bob"), ("carol", "alice")],
        &[("mallory", "bob")],
    );
    let [alice, bob, carol, mallory] = &network.users[..] else { panic!("four users") };
    let refused = Invocation::new(carol.home())
        .args(["link", "add", "xmpp", "carol@there.test", "--server", &server.address(), "--plain"])
        .stdin("wrong")
        .run();
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(refused.last_error().contains("not-authorized"), "{refused:?}");
    for (user, name) in [(bob, "bob"), (alice, "alice"), (carol, "carol"), (mallory, "mallory")] {
        link(user, name, &server);
    }
    let refused = mallory.cli(["msg", "send", &bob.username, "hello", "--wait", "--timeout", "60"]);
    assert_eq!(refused.code, 1, "{refused:?}");
    // Mallory sees what he shows, and isn't in his list: a stranger.
    let (code, outcome) = call(mallory, "bob");
    assert_eq!((code, &outcome["outcome"]), (1, &"declined".into()), "{outcome}");
    // Carol shows a copy of what Alice shows, which she may read: neither is she Alice, nor is she herself any more.
    let shown = server.shown("carol", "alice");
    let start = shown.find("<association").expect("Alice shows it to her contacts");
    let end = shown.find("</association>").expect("whole") + "</association>".len();
    server.show("carol", &shown[start..end]);
    let (code, outcome) = call(carol, "bob");
    assert_eq!((code, &outcome["outcome"]), (1, &"declined".into()), "{outcome}");
    assert_eq!(incoming(bob).len(), 0, "nobody has rung");
    assert!(!server.shown("mallory", "alice").contains("<association"), "only contacts there are shown anything");

    let (code, outcome) = call(alice, "bob");
    assert_eq!(code, 0, "{outcome}");
    assert_eq!(alice.cli(["why", "xmpp:bob@there.test"]).ok()["username"], bob.username.as_str());

    // Carol says it anew and is one of his contacts there; then she takes it back, and is a stranger again, whom he can't call either.
    let removed = carol.cli(["link", "remove", "xmpp:carol@there.test"]).ok();
    assert_eq!(removed["is_taken_back"], true, "{removed}");
    link(carol, "carol", &server);
    eventually(PATIENCE, "she knows who he is", || {
        let people = carol.cli(["contact", "list"]).ok();
        let is_known =
            people["linked"].as_array().is_some_and(|all| all.iter().any(|one| one["username"] == bob.username.as_str()));
        if is_known { Ok(()) } else { Err(people.to_string()) }
    });
    // What he saw last doesn't hold: her message waits until he has looked again.
    carol.cli(["msg", "send", "xmpp:bob@there.test", "hello", "--wait", "--timeout", "60"]).ok();
    bob.wait_event(PATIENCE, "message_received", |message| message["from"] == carol.username.as_str());
    let (code, outcome) = call(carol, "bob");
    assert_eq!(code, 0, "{outcome}");
    carol.cli(["link", "remove", "xmpp:carol@there.test"]).ok();
    let rings = incoming(bob).len();
    assert_ne!(call(carol, "bob").0, 0);
    let plain = Invocation::new(carol.home()).args(["call", &bob.username]).start().wait(PATIENCE);
    assert_eq!(plain.code, 1, "{plain:?}");
    assert_eq!(incoming(bob).len(), rings);

    // Who wants to hear of contacts here alone hears of them alone.
    let all = leave_of(&server, "bob");
    bob.cli(["privacy", "set", "--call", "contacts"]).ok();
    let rings = incoming(bob).len();
    assert_ne!(call(alice, "bob").0, 0);
    assert_eq!(incoming(bob).len(), rings);
    // What she was given before is void, and less is given now; then nothing; then all, under another key.
    let messages = turned(&server, &all, "leave for calls ends");
    assert!(messages.len() < all.len(), "less is given");
    let shows_leave = |is_shown: bool, why: &str| {
        eventually(PATIENCE, why, || {
            let shown = server.shown("bob", "bob");
            if shown.contains("<leave>") == is_shown { Ok(()) } else { Err(shown) }
        });
    };
    bob.cli(["privacy", "set", "--message", "contacts"]).ok();
    shows_leave(false, "nothing is given");
    bob.cli(["privacy", "set", "--call", "linked", "--message", "linked"]).ok();
    shows_leave(true, "leave is given again");
    assert_ne!(leave_of(&server, "bob"), all);
}
