//! Goal: contacts see what each of them chose to be and how they can be reached, within moments; nobody else does. Method: daemons, the command
//! line, and what one shows of the other afterwards.

use std::time::Duration;

use halloo_protocol::directory::{Reachability, RecordKey};
use halloo_protocol::identity::UserId;
use halloo_tests::attacker::{Attacker, Forger};
use halloo_tests::daemon::Daemon;
use halloo_tests::network::Plan;
use halloo_tests::{User, eventually};
use serde_json::Value;

/// How long a change may take to be seen: the record of the other has to be looked up first.
const SEEN_TIME_MAX: Duration = Duration::from_secs(45);

/// Silence is noticed after 20 s, and told by two witnesses, or seen by who dials in vain for 6 s more; with room for a busy machine.
const FROZEN_TIME_MAX: Duration = Duration::from_secs(90);

fn presence(of: &User, seen_by: &Daemon) -> Result<Value, String> {
    seen_by.api().get(&format!("/v1/presence/contacts/{}", of.username))
}

#[track_caller]
fn is_seen(of: &User, by: &Daemon, state: &str, mood: &str) -> Value {
    eventually(SEEN_TIME_MAX, "the presence is seen", || {
        let seen = presence(of, by)?;
        if seen["state"] == state && seen["mood"] == mood { Ok(seen) } else { Err(seen.to_string()) }
    })
}

#[test]
fn contacts_see_each_other_and_nobody_else_does() {
    let mut network = Plan::new(["alice", "bob", "carol"]).contacts_only().start();
    network.befriend(&network.users[0], &network.users[1]);
    let [alice, bob, carol] = network.users();
    let set = bob.cli(["presence", "set", "away", "--mood", "at lunch"]).ok();
    assert_eq!((&set["state"], &set["mood"]), (&Value::from("away"), &Value::from("at lunch")));
    let seen = is_seen(bob, alice, "away", "at lunch");
    assert_eq!(seen["reachability"], "direct", "{seen}");
    assert!(seen["age_ms"].is_u64() && ["direct", "carrier"].contains(&seen["source"].as_str().unwrap_or_default()), "{seen}");
    let event = alice.wait_event(SEEN_TIME_MAX, "presence", |event| event["state"] == "away");
    assert_eq!(event["username"], bob.username.as_str());
    is_seen(alice, bob, "online", "");
    let stranger = carol.cli(["presence", "get", &bob.username]);
    assert_eq!(stranger.code, 1, "{stranger:?}");
    assert!(stranger.last_error().contains("isn't a contact"), "{stranger:?}");
    assert_eq!(bob.cli(["presence", "set", "--mood", &"x".repeat(281)]).code, 2);

    // What was chosen stays chosen.
    bob.cli(["presence", "set", "dnd", "--mood", ""]).ok();
    is_seen(bob, alice, "dnd", "");
    assert_eq!(bob.terminate().0, 0);
    is_seen(bob, alice, "offline", "");
    bob.restart();
    is_seen(bob, alice, "dnd", "");

    // Hidden from everybody, then seen again.
    bob.cli(["privacy", "set", "--presence", "nobody"]).ok();
    is_seen(bob, alice, "offline", "");
    bob.cli(["privacy", "set", "--presence", "contacts"]).ok();
    is_seen(bob, alice, "dnd", "");

    bob.cli(["contact", "remove", &alice.username]).ok();
    eventually(SEEN_TIME_MAX, "whoever is removed sees nothing", || match presence(bob, alice) {
        Err(_) => Ok(()),
        Ok(seen) => Err(seen.to_string()),
    });
}

/// Freezes a daemon as an operating system does (`-STOP`): nothing is said to anybody; or lets it go on (`-CONT`).
#[track_caller]
fn signal(daemon: &Daemon, signal: &str) {
    let pid = daemon.pid().expect("it runs").to_string();
    let status = std::process::Command::new("kill").args([signal, &pid]).status().expect("kill is there");
    assert!(status.success());
}

#[test]
fn the_gateway_vouches_in_the_directory_for_who_registered() {
    let mut network = Plan::new(["alice", "bob"]).contacts_only().start();
    let forger = Forger::of_user(&network, &network.users[0], 1);
    let authority = network.authority.api().get("/v1/authority").expect("the authority shows itself");
    let authority = authority["key"].as_str().expect("a key").parse().expect("a key");
    let key = RecordKey::of(&UserId::Named { authority, name: "bob".parse().expect("a username") });
    let gateway = network.authority.peer_id();
    let mut reader = Attacker::connect(&network.bootstrap(), &forger.device, &forger.hello(None));
    let [_, bob] = network.users();
    let registered = bob.cli(["push", "register", "webpush"]).ok();
    assert_eq!(registered["gateway"], gateway.as_str(), "{registered}");
    eventually(SEEN_TIME_MAX, "the newest entry has the gateway's lease", || {
        let record = reader.find_record(key).ok_or("no record")?;
        let parts = record.entries.first().ok_or("no entry")?;
        let kept = parts.keeper_lease.as_ref().ok_or("no lease of a keeper")?;
        let lease = kept.lease.unverified();
        let is_right = lease.entry_hash == parts.entry.body_hash() && lease.reachability == Reachability::Push;
        if is_right && kept.lease.verify(&kept.keeper.0).is_ok() { Ok(()) } else { Err(format!("{kept:?}")) }
    });
}

#[test]
fn a_frozen_device_is_reachable_by_push_and_one_that_nobody_can_wake_is_offline() {
    let mut network = Plan::new(["alice", "bob", "carol"]).contacts_only().start();
    network.befriend(&network.users[0], &network.users[1]);
    network.befriend(&network.users[0], &network.users[2]);
    let [alice, bob, carol] = network.users();
    bob.cli(["push", "register", "webpush"]).ok();
    bob.cli(["presence", "set", "away", "--mood", "on the train"]).ok();
    carol.cli(["presence", "set", "away", "--mood", "on the boat"]).ok();
    is_seen(bob, alice, "away", "on the train");
    is_seen(carol, alice, "away", "on the boat");
    eventually(SEEN_TIME_MAX, "the gateway vouches for bob's newest entry in the directory", || {
        let lines = bob.stderr_tail();
        let (published, vouched) = (lines.rfind("record published"), lines.rfind("vouches for this device"));
        if vouched.is_some() && vouched > published { Ok(()) } else { Err("not yet".to_owned()) }
    });
    // Whether their carrier has their newest documents yet, and so can be a witness, is chance: alice needs none.
    [&bob, &carol].iter().for_each(|user| signal(user, "-STOP"));
    eventually(FROZEN_TIME_MAX, "bob can be woken, and is what he chose to be", || {
        let seen = presence(bob, alice)?;
        let is_right = seen["state"] == "away" && seen["mood"] == "on the train" && seen["reachability"] == "push";
        if is_right { Ok(()) } else { Err(seen.to_string()) }
    });
    eventually(FROZEN_TIME_MAX, "carol is gone", || {
        let seen = presence(carol, alice)?;
        if seen["state"] == "offline" && seen["reachability"] == "none" { Ok(()) } else { Err(seen.to_string()) }
    });
    // It stays so for whoever comes later.
    alice.kill();
    alice.restart();
    eventually(FROZEN_TIME_MAX, "bob can still be woken", || {
        let found = alice.cli(["resolve", &bob.username, "--fresh"]).ok();
        let device = &found["devices"][0];
        if device["reachability"] == "push" || device["reachability"] == "direct" { Ok(()) } else { Err(found.to_string()) }
    });
}
