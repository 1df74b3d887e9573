//! Goal: two people who are contacts at an OpenID Connect provider and not here can call each other, by proofs that hold when the provider is gone, and nobody else gains
//! by it. Method: npm's oidc-provider is the other system; they log in there as with a browser.

use std::time::Duration;

use halloo_tests::cli::Invocation;
use halloo_tests::network::text;
use halloo_tests::oidc::{OidcProvider, friends};
use halloo_tests::{Network, Plan, User, eventually};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(40);

/// Calls somebody by their name here, as a contact there, and gives how it ended.
#[track_caller]
fn call(from: &User, to: &User, contact: &str) -> (i32, Value) {
    let args = ["call", &to.username, "--as", contact, "--duration", "1"];
    let output = Invocation::new(from.home()).args(args).start().wait(PATIENCE);
    (output.code, output.json())
}

/// Calls a contact there.
#[track_caller]
fn call_there(from: &User, contact: &str) -> (i32, Value) {
    let output = Invocation::new(from.home()).args(["call", contact, "--duration", "1"]).start().wait(PATIENCE);
    (output.code, output.json())
}

fn incoming(user: &User) -> Vec<Value> {
    user.events().into_iter().filter(|event| event["event"] == "call_incoming").collect()
}

/// A network of people who know nothing of each other, and a provider that does. The provider is first: the daemons' configuration names it.
fn start(names: &[&'static str], people: &Value) -> (Network, OidcProvider, tempfile::TempDir) {
    let folder = tempfile::tempdir().expect("a folder");
    let provider = OidcProvider::start(folder.path(), people);
    let plan = names.iter().fold(Plan::new(names.iter().copied()), |plan, name| {
        plan.args(name, ["--answer", "auto"]).config(name, &provider.config())
    });
    (plan.contacts_only().start(), provider, folder)
}

#[track_caller]
fn link(user: &User, provider: &OidcProvider, name: &str) -> Value {
    let (linked, code) = provider.link(user.home(), name, &[]);
    assert_eq!((code, &linked["event"]), (0, &"linked".into()), "{linked}");
    assert_eq!((&linked["account"], &linked["state"]), (&provider.id(name).into(), &"connected".into()), "{linked}");
    linked
}

/// The one of the short suite: both have linked, the provider ends, and she calls whom the directory names for his account: she is shown as his contact there, and he can call her back by it.
#[test]
fn a_contact_at_a_provider_calls_after_the_provider_is_gone() {
    let (network, provider, _folder) = start(&["alice", "bob"], &friends(&["alice", "bob"]));
    let [alice, bob] = &network.users[..] else { panic!("two users") };
    let linked = link(bob, &provider, "bob");
    assert_eq!(linked["contacts"][0]["id"], provider.id("alice").as_str(), "{linked}");
    assert_eq!(linked["contacts"][0]["name"], "alice of the provider", "{linked}");
    link(alice, &provider, "alice");
    let (alice_there, bob_there) = (provider.id("alice"), provider.id("bob"));
    drop(provider);

    eventually(PATIENCE, "whoever knows his account there finds him", || {
        let list = bob.cli(["link", "list"]).ok();
        if list["accounts"][0]["listed_at"].as_u64() > Some(0) { Ok(()) } else { Err(list.to_string()) }
    });
    let (code, outcome) = call_there(alice, &bob_there);
    assert_eq!((code, &outcome["outcome"]), (0, &"completed".into()), "{outcome}");
    let rang = bob.wait_event(PATIENCE, "call_incoming", |_| true);
    assert_eq!(rang["linked"]["id"], alice_there.as_str(), "{rang}");
    assert_eq!(rang["linked"]["name"], "alice of the provider", "{rang}");
    // Her proof is known to him from then on.
    let (code, outcome) = call_there(bob, &alice_there);
    assert_eq!((code, &outcome["outcome"]), (0, &"completed".into()), "{outcome}");
    assert_eq!(alice.wait_event(PATIENCE, "call_incoming", |_| true)["linked"]["id"], bob_there.as_str());
    for user in [alice, bob] {
        assert_eq!(user.cli(["contact", "list"]).ok()["contacts"], json!([]));
    }
    let plain = Invocation::new(alice.home()).args(["call", &bob.username, "--duration", "1"]).start().wait(PATIENCE);
    assert_eq!((plain.code, &plain.json()["outcome"]), (1, &"declined".into()), "by her name alone she is a stranger");
    assert_eq!(incoming(bob).len(), 1, "nobody else has rung");
}

#[test]
#[ignore = "long: seven logins, and contact lists that are polled"]
fn what_a_provider_says_is_followed_and_bounded() {
    let people = json!({"alice": ["bob"], "bob": ["alice", "carol"], "mallory": ["bob"]});
    let (mut network, provider, _folder) = start(&["alice", "bob", "mallory"], &people);
    let [alice, bob, mallory] = &mut network.users[..] else { panic!("three users") };
    // This provider leaves out of tokens for another machine whom they are for.
    let (refused, code) = provider.link(alice.home(), "alice", &["--device"]);
    let detail = text(&refused, "detail");
    assert!(code == 1 && detail.contains("nonce"), "{refused}");
    let (refused, code) = provider.link(alice.home(), "carol", &["--mail"]);
    let detail = text(&refused, "detail");
    assert!(code == 1 && detail.contains("verified"), "her address isn't verified: {refused}");
    let linked = link(bob, &provider, "bob");
    assert_eq!(linked["contacts"].as_array().map(Vec::len), Some(2), "all pages are read: {linked}");
    link(alice, &provider, "alice");
    // What is kept outlasts both nodes.
    for user in [&mut *alice, &mut *bob] {
        user.terminate();
        user.restart();
    }
    let bob_there = provider.id("bob");
    // That he is in her list is her word alone.
    link(mallory, &provider, "mallory");
    let (code, outcome) = call(mallory, bob, &bob_there);
    assert_eq!((code, &outcome["outcome"]), (1, &"declined".into()), "{outcome}");
    let (code, outcome) = call(alice, bob, &bob_there);
    assert_eq!((code, &outcome["outcome"]), (0, &"completed".into()), "{outcome}");
    // Taken out of his list she is a stranger.
    provider.set_people(&json!({"alice": ["bob"], "bob": ["carol"]}));
    eventually(PATIENCE, "his node hears of it", || {
        let list = bob.cli(["link", "list"]).ok();
        let contacts = list["accounts"][0]["contacts"].as_array().map(Vec::len);
        if contacts == Some(1) { Ok(()) } else { Err(list.to_string()) }
    });
    let rings = incoming(bob).len();
    assert_ne!(call(alice, bob, &bob_there).0, 0);
    assert_eq!(incoming(bob).len(), rings);
    // Linked again, and unlinked, she has nothing to show.
    link(alice, &provider, "alice");
    alice.cli(["link", "remove", &provider.id("alice")]).ok();
    assert_ne!(call(alice, bob, &bob_there).0, 0);
}
