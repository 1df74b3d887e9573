//! Goal: an association reaches the other side by each of its carriers, and not by one that is switched off. Method: as in `linked`; the directory needs no other system at all.

use std::time::Duration;

use halloo_tests::cli::Invocation;
use halloo_tests::xmpp::{DOMAIN, Prosody};
use halloo_tests::{Network, Plan, User, eventually};
use serde_json::{Value, json};

use crate::linked::{incoming, link, link_with};

const PATIENCE: Duration = Duration::from_secs(60);

const ALICES: &str = "xmpp:alice@there.test";

/// Calls somebody by their name here.
#[track_caller]
fn call_by_name(from: &User, to: &User) -> (i32, Value) {
    let output = Invocation::new(from.home()).args(["call", &to.username, "--duration", "1"]).start().wait(PATIENCE);
    (output.code, output.json())
}

/// The operator knows whose the account is, and she asks for it to be said.
#[track_caller]
fn certify(network: &Network, user: &User, name: &str) {
    let id = format!("xmpp:{name}@{DOMAIN}");
    let unproved = user.cli(["link", "certify", &id]);
    assert!(unproved.code == 1 && unproved.last_error().contains("operator"), "{unproved:?}");
    let certified = network.authority.cli(["authority", "certify", name, &id]).ok();
    assert_eq!(certified, json!({ "username": user.username, "id": id, "is_certified": true }));
    assert_eq!(user.cli(["link", "certify", &id]).ok()["is_certified"], true);
}

/// She has nothing but her certificate: no account linked here, and nothing in the invite. He knows her by what it hints at, unless he doesn't care for certificates.
#[test]
fn a_certificate_alone_lets_a_contact_elsewhere_in() {
    let plan = Plan::new(["alice", "bob", "carol"]).args("bob", ["--answer", "auto"]).args("carol", ["--answer", "auto"]);
    let network = plan.config("carol", "[linked]\ncarriers = [\"request\", \"place\"]\n").contacts_only().start();
    let friends = [("alice", "bob"), ("alice", "carol")];
    let server = Prosody::start(network.folder(), &["alice", "bob", "carol"], &friends, &[]);
    let [alice, bob, carol] = &network.users[..] else { panic!("three users") };
    link(bob, "bob", &server);
    link(carol, "carol", &server);
    assert_eq!(carol.cli(["link", "list"]).ok()["carriers"], json!(["request", "place"]));
    let (code, outcome) = call_by_name(alice, bob);
    assert_eq!((code, &outcome["outcome"]), (1, &"declined".into()), "a stranger: {outcome}");

    certify(&network, alice, "alice");
    // His node hashes her address in its own time.
    let mut outcome = Value::Null;
    eventually(PATIENCE, "her certificate is enough", || {
        let (code, ended) = call_by_name(alice, bob);
        outcome = ended;
        if code == 0 { Ok(()) } else { Err(outcome.to_string()) }
    });
    assert_eq!(outcome["outcome"], "completed", "{outcome}");
    let rang = bob.wait_event(PATIENCE, "call_incoming", |_| true);
    assert_eq!((&rang["linked"]["id"], &rang["linked"]["by"]), (&ALICES.into(), &"certificate".into()), "{rang}");
    assert_eq!(rang["linked"]["name"], "alice from there", "{rang}");
    for user in [alice, bob] {
        assert_eq!(user.cli(["contact", "list"]).ok()["contacts"], json!([]), "nobody has become a contact");
    }
    let (code, outcome) = call_by_name(alice, carol);
    assert_eq!((code, &outcome["outcome"]), (1, &"declined".into()), "she takes no certificates: {outcome}");
    assert_eq!(incoming(carol).len(), 0);
}

/// The operator takes it back: her next certificate says nothing, and she is a stranger again.
#[test]
#[ignore = "long: three users, certificates and calls"]
fn hints_are_asked_for_and_taken_back() {
    let plan = Plan::new(["alice", "bob"]).args("bob", ["--answer", "auto"]).contacts_only();
    let network = plan.start();
    let server = Prosody::start(network.folder(), &["alice", "bob"], &[("alice", "bob")], &[]);
    let [alice, bob] = &network.users[..] else { panic!("two users") };
    link(bob, "bob", &server);
    certify(&network, alice, "alice");
    eventually(PATIENCE, "her certificate is enough", || match call_by_name(alice, bob) {
        (0, _) => Ok(()),
        (_, outcome) => Err(outcome.to_string()),
    });
    // She doesn't wish it any more.
    assert_eq!(alice.cli(["link", "certify", ALICES, "--remove"]).ok()["is_certified"], false);
    assert_ne!(call_by_name(alice, bob).0, 0);
    assert_eq!(alice.cli(["link", "certify", ALICES]).ok()["is_certified"], true);
    assert_eq!(call_by_name(alice, bob).0, 0);
    // Taken out of his list she is a stranger, whatever her certificate says.
    server.unfriend("bob", "alice");
    eventually(PATIENCE, "his node hears of it", || {
        let list = bob.cli(["link", "list"]).ok();
        if list["accounts"][0]["contacts"].as_array().is_some_and(Vec::is_empty) { Ok(()) } else { Err(list.to_string()) }
    });
    let rings = incoming(bob).len();
    assert_ne!(call_by_name(alice, bob).0, 0);
    assert_eq!(incoming(bob).len(), rings);
    // The operator takes it back.
    network.authority.cli(["authority", "certify", "alice", ALICES, "--remove"]).ok();
    let refused = alice.cli(["link", "certify", ALICES]);
    assert_eq!(refused.code, 1, "{refused:?}");
}

/// Who `id` is, as the directory tells `user`: usernames and what proves them.
#[track_caller]
fn found(user: &User, id: &str) -> Vec<(Value, Value)> {
    let found = user.cli(["link", "find", id]).ok();
    let users = found["users"].as_array().expect("a list").iter();
    users.map(|user| (user["username"].clone(), user["proved_by"].clone())).collect()
}

/// He is gone, and is found by his address; one who claims it too hides nobody, and isn't called; unlinked he is found no more.
#[test]
#[ignore = "long: listings in the directory, of users who come and go"]
fn a_listing_is_found_while_its_owner_is_away() {
    let mut network = Plan::new(["alice", "bob", "mallory"]).args("bob", ["--answer", "auto"]).contacts_only().start();
    // Mallory's server says of her that she is bob at there.test as well: what its users claim is its own.
    let server = Prosody::start(network.folder(), &["alice", "bob"], &[], &[]);
    let folder = network.folder().join("other");
    std::fs::create_dir_all(&folder).expect("the folder is ours");
    let other = Prosody::start(&folder, &["bob"], &[], &[]);
    let bobs = "xmpp:bob@there.test";
    let [alice, bob, mallory] = network.users.as_mut_slice() else { panic!("three users") };
    // By default nobody finds him by it.
    link(bob, "bob", &server);
    assert_eq!(found(alice, bobs), []);
    let listed = bob.cli(["link", "listing", bobs, "on"]).ok();
    assert_eq!(listed["listed"], true, "{listed}");
    eventually(PATIENCE, "he is listed", || {
        let found = found(alice, bobs);
        if found == [(bob.username.as_str().into(), Value::Null)] { Ok(()) } else { Err(format!("{found:?}")) }
    });
    assert_eq!(found(alice, "xmpp:bobby@there.test"), [], "a wrong guess");
    let uncalled = alice.cli(["call", bobs]);
    assert!(uncalled.code != 0 && uncalled.last_error().contains("halloo link find"), "claims aren't called: {uncalled:?}");

    link_with(mallory, "bob", &other, &["--listed"]);
    let (his, hers) = (Value::from(bob.username.as_str()), Value::from(mallory.username.as_str()));
    eventually(PATIENCE, "both are listed", || {
        let found = found(alice, bobs);
        let has = |name: &Value| found.iter().any(|(username, _)| username == name);
        if has(&his) && has(&hers) { Ok(()) } else { Err(format!("{found:?}")) }
    });
    // His authority has seen that it is his: that is what counts.
    network.authority.cli(["authority", "certify", "bob", bobs]).ok();
    assert_eq!(bob.cli(["link", "certify", bobs]).ok()["is_certified"], true);
    bob.cli(["link", "listing", bobs, "off"]).ok();
    bob.cli(["link", "listing", bobs, "on"]).ok();
    eventually(PATIENCE, "his is proved", || {
        let found = found(alice, bobs);
        if found.contains(&(his.clone(), "certificate".into())) && found.contains(&(hers.clone(), Value::Null)) {
            Ok(())
        } else {
            Err(format!("{found:?}"))
        }
    });
    bob.terminate();
    assert!(found(alice, bobs).contains(&(his.clone(), "certificate".into())), "he is away");
    bob.restart();
    bob.cli(["link", "remove", bobs]).ok();
    eventually(PATIENCE, "he is found no more", || {
        let found = found(alice, bobs);
        if found == [(hers.clone(), Value::Null)] { Ok(()) } else { Err(format!("{found:?}")) }
    });
}

/// Their server has no places, and they say nothing to each other but in presence there: each is known by that, and is a stranger again once it is taken back.
#[test]
fn presence_alone_lets_contacts_elsewhere_in() {
    let plan = ["alice", "bob", "carol"].into_iter().fold(Plan::new(["alice", "bob", "carol"]), |plan, name| {
        plan.args(name, ["--answer", "auto"]).config(name, "[linked]\ncarriers = [\"presence\"]\n")
    });
    let network = plan.contacts_only().start();
    let server = Prosody::start_bare(network.folder(), &["alice", "bob", "carol"], &[("alice", "bob")]);
    let [alice, bob, carol] = &network.users[..] else { panic!("three users") };
    let linked = link(bob, "bob", &server);
    assert_eq!(linked["state"], "connected", "{linked}");
    link(carol, "carol", &server);
    let (code, outcome) = call_by_name(alice, bob);
    assert_eq!((code, &outcome["outcome"]), (1, &"declined".into()), "a stranger: {outcome}");
    link(alice, "alice", &server);
    eventually(PATIENCE, "each knows the other", || {
        let known = [(alice, bob), (bob, alice)].map(|(user, other)| {
            let list = user.cli(["link", "list"]).ok();
            list["accounts"][0]["contacts"][0]["username"] == other.username.as_str()
        });
        if known == [true, true] { Ok(()) } else { Err(format!("{known:?}")) }
    });

    let call =
        |from: &User, callee: &str| Invocation::new(from.home()).args(["call", callee, "--duration", "1"]).start().wait(PATIENCE);
    let called = call(alice, "xmpp:bob@there.test");
    assert_eq!((called.code, &called.json()["outcome"]), (0, &"completed".into()), "{called:?}");
    let rang = bob.wait_event(PATIENCE, "call_incoming", |_| true);
    assert_eq!((&rang["linked"]["id"], &rang["linked"]["by"]), (&ALICES.into(), &"presence".into()), "{rang}");
    assert_eq!(rang["linked"]["name"], "alice from there", "{rang}");
    // She has an account there too, and is in nobody's list.
    let (code, outcome) = call_by_name(carol, bob);
    assert_eq!((code, &outcome["outcome"]), (1, &"declined".into()), "{outcome}");
    assert_ne!(call(carol, "xmpp:bob@there.test").code, 0);
    assert_eq!(incoming(bob).len(), 1);
    // His presence has brought the key to wake him, too, when he isn't there any more.
    bob.cli(["push", "register", "webpush"]).ok();
    assert_eq!(bob.cli(["suspend"]).ok()["push_registrations"], 1);
    let woken = call(alice, "xmpp:bob@there.test");
    assert_eq!((woken.code, &woken.json()["outcome"]), (0, &"completed".into()), "{woken:?}");
    bob.wait_event(PATIENCE, "woken", |woken| woken["by_push"] == true);
    assert_eq!(incoming(bob).last().map(|rang| &rang["linked"]["id"]), Some(&ALICES.into()));

    alice.cli(["link", "remove", ALICES]).ok();
    eventually(PATIENCE, "his node hears that it isn't hers any more", || {
        let list = bob.cli(["link", "list"]).ok();
        if list["accounts"][0]["contacts"][0]["username"].is_null() { Ok(()) } else { Err(list.to_string()) }
    });
    assert_ne!(call_by_name(alice, bob).0, 0);
    assert_eq!(incoming(bob).len(), 2);
}

/// Who is blocked is told that she is there, as her account's contact, and not who she is here; once unblocked he is told again.
#[test]
#[ignore = "long: presence that is denied and given again"]
fn blocked_people_are_not_told_in_presence() {
    let plan = Plan::new(["alice", "bob"]).config("alice", "[linked]\ncarriers = [\"presence\", \"request\"]\n");
    let network = plan.contacts_only().start();
    let server = Prosody::start(network.folder(), &["alice", "bob"], &[("alice", "bob")], &[]);
    let [alice, bob] = &network.users[..] else { panic!("two users") };
    link(bob, "bob", &server);
    link(alice, "alice", &server);
    let told = |is_told: bool| {
        eventually(PATIENCE, &format!("he is told: {is_told}"), || {
            let heard = server.present("bob");
            let shown = (heard.contains("from='alice@there.test/"), heard.contains("<association"));
            if shown == (true, is_told) { Ok(()) } else { Err(heard) }
        });
    };
    told(true);
    eventually(PATIENCE, "she knows who he is", || {
        let list = alice.cli(["contact", "list"]).ok();
        if list["linked"].as_array().is_some_and(|linked| linked.len() == 1) { Ok(()) } else { Err(list.to_string()) }
    });
    alice.cli(["contact", "block", "xmpp:bob@there.test"]).ok();
    told(false);
    alice.cli(["contact", "unblock", "xmpp:bob@there.test"]).ok();
    told(true);
}

/// Without presence a server without places is of no use, and says so.
#[test]
#[ignore = "long: another network for one refusal"]
fn a_server_without_places_needs_presence() {
    let network = Plan::new(["alice"]).start();
    let server = Prosody::start_bare(network.folder(), &["alice"], &[]);
    let refused = crate::linked::try_to_link(&network.users[0], "alice", &server);
    assert!(refused.code == 1 && refused.last_error().contains("linked.carriers"), "{refused:?}");
    assert_eq!(network.users[0].cli(["link", "list"]).ok()["accounts"], json!([]));
}
