//! Goal: two people who are contacts in XMPP and not here can call each other, and nobody else gains by it. Method: Debian's Prosody is the other system; contact
//! lists are changed there by another client.

use std::time::Duration;

use halloo_tests::cli::Invocation;
use halloo_tests::network::text;
use halloo_tests::xmpp::{DOMAIN, Prosody};
use halloo_tests::{Network, Plan, User, eventually};
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
fn link(user: &User, name: &str, server: &Prosody) -> Value {
    link_with(user, name, server, &[])
}

#[track_caller]
fn link_with(user: &User, name: &str, server: &Prosody, more: &[&str]) -> Value {
    let (file, address) = (password(user, name), server.address());
    let certificate = server.certificate().display().to_string();
    let account = format!("{name}@{DOMAIN}");
    let args = ["link", "add", "xmpp", &account, "--password-file", &file, "--server", &address, "--roots", &certificate];
    Invocation::new(user.home()).args(args.iter().chain(more)).run().ok()
}

/// Calls somebody by their address there, and gives how it ended.
#[track_caller]
fn call(from: &User, name: &str) -> (i32, Value) {
    let callee = format!("xmpp:{name}@{DOMAIN}");
    let output = Invocation::new(from.home()).args(["call", &callee, "--duration", "1"]).start().wait(PATIENCE);
    (output.code, output.json())
}

fn incoming(user: &User) -> Vec<Value> {
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
    // By her name alone she is a stranger.
    let plain = Invocation::new(alice.home()).args(["call", &bob.username, "--duration", "1"]).start().wait(PATIENCE);
    assert_eq!((plain.code, &plain.json()["outcome"]), (1, &"declined".into()), "{plain:?}");

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

/// She links while his phone sleeps, and his only connection to XMPP with it: it is woken, and rings as for a contact there. Whoever leaves the list has no leave any more.
#[test]
fn a_suspended_phone_is_woken_for_a_contact_in_xmpp() {
    let network = network(&["alice", "bob"]);
    let server = Prosody::start(network.folder(), &["alice", "bob"], &[("alice", "bob")], &[]);
    let [alice, bob] = &network.users[..] else { panic!("two users") };
    link(bob, "bob", &server);
    bob.cli(["push", "register", "webpush"]).ok();
    let given = leave_of(&server, "bob");
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

    server.unfriend("bob", "alice");
    eventually(PATIENCE, "what she had been given ends", || {
        let now = leave_of(&server, "bob");
        if now == given { Err("it is still there".to_owned()) } else { Ok(()) }
    });
    bob.cli(["suspend"]).ok();
    assert_ne!(call(alice, "bob").0, 0);
    assert_eq!(bob.events().iter().filter(|event| event["event"] == "woken").count(), 1, "it sleeps on");
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
    bob.cli(["privacy", "set", "--call", "contacts"]).ok();
    let rings = incoming(bob).len();
    assert_ne!(call(alice, "bob").0, 0);
    assert_eq!(incoming(bob).len(), rings);
}
