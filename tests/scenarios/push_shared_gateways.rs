//! Goal: gateways that share a PostgreSQL database are one gateway to devices: what one of them has registered or accepted, the others deliver, whatever happens to
//! the one. Method: Debian's PostgreSQL; two gateways, one of which is killed, or stopped for a while, between accepting a push and delivering it; the database is stopped and started.

use std::time::Duration;

use halloo_tests::cli::Invocation;
use halloo_tests::network::{AUTHORITY, text};
use halloo_tests::postgres::{PASSWORD, Postgres};
use halloo_tests::webpush::{PushService, Subscription};
use halloo_tests::{Daemon, Network, Plan, User, eventually};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(60);

/// Alice, bob, and carol's gateway, which shares a database with the network's own.
fn network(postgres: &Postgres, keys: &tempfile::TempDir) -> Network {
    let config = |password: &str| {
        let url = postgres.url().replace(PASSWORD, password);
        format!("[gateway]\ndatabase = \"{url}\"\ndatabase_key = \"{}\"\n", keys.path().join("group.key").display())
    };
    let plan = Plan::new(["alice", "bob", "carol"]).args("carol", ["--role", "gateway"]);
    let network = plan.config(AUTHORITY, &config(PASSWORD)).config("carol", &config(PASSWORD)).start();
    eventually(PATIENCE, "both say where they are found", || {
        let known = postgres.sql("push", "SELECT count(*) FROM halloo_gateway.process WHERE length(helper) > 0");
        if known == "2" { Ok(()) } else { Err(known) }
    });
    // A device believes two gateways that they share a database if each names the other: both have looked since.
    let said = postgres.sql("push", "SELECT max(beat) FROM halloo_gateway.process");
    eventually(PATIENCE, "each knows the other", || {
        let later =
            format!("SELECT count(*) FROM halloo_gateway.process WHERE beat > '{said}'::timestamptz + interval '5 seconds'");
        let known = postgres.sql("push", &later);
        if known == "2" { Ok(()) } else { Err(known) }
    });
    network
}

/// Registers bob's phone with carol's gateway alone; the other one follows from their being a group.
fn registered(bob: &User, carol: &str, endpoint: &[&str]) {
    eventually(PATIENCE, "the device is registered with both", || {
        let args = [&["push", "register", "webpush", "--gateway", carol][..], endpoint].concat();
        let done = Invocation::new(bob.home()).args(args).run();
        let list = bob.cli(["push", "list"]).json();
        let known = list["registrations"].as_array().cloned().unwrap_or_default();
        let ids: Vec<&Value> = known.iter().map(|known| &known["id"]).collect();
        // One registration, under one handle, at two gateways.
        if ids.len() == 2 && ids[0] == ids[1] { Ok(()) } else { Err(format!("{done:?} {list}")) }
    });
}

fn wake(user: &User, payload: &[u8]) -> Value {
    let file = user.home().join("payload");
    std::fs::write(&file, payload).expect("written");
    user.cli(["wake", "--payload", &file.display().to_string()]).ok()
}

/// Whether a gateway has joined under this number.
fn is_process(daemon: &Daemon, number: &str) -> bool {
    daemon.logged(&format!("as process {number}")) > 0
}

/// Whose the only push is. Both were asked, and it is there once.
fn owner_is_carol(postgres: &Postgres, network: &Network) -> bool {
    let owner = postgres.sql("push", "SELECT owner FROM halloo_gateway.push");
    let is_carols = is_process(&network.users[2], &owner);
    assert!(is_carols || is_process(&network.authority, &owner), "owner {owner:?}");
    is_carols
}

/// Bob is woken with what came, answers, and alice's call is one by push.
fn rings(bob: &User, call: halloo_tests::cli::Running, payload: &[u8]) {
    let woken = wake(bob, payload);
    let id = text(&woken, "call_id");
    bob.wait_event(PATIENCE, "call_incoming", |event| event["call_id"] == id.as_str());
    assert_eq!(bob.cli(["calls", "answer", &id]).code, 0);
    let outcome = call.wait(PATIENCE).ok();
    assert_eq!((&outcome["outcome"], &outcome["via_push"]), (&Value::from("completed"), &Value::from(true)), "{outcome}");
}

#[test]
#[ignore = "long: PostgreSQL"]
fn a_gateway_that_was_stopped_for_a_while_sends_nothing_that_others_have_sent_meanwhile() {
    let (postgres, keys) = (Postgres::start(), tempfile::tempdir().expect("a directory"));
    let (subscription, service) = (Subscription::new(), PushService::start_broken());
    let network = network(&postgres, &keys);
    let carol = network.users[2].peer_id();
    let [p256dh, auth] = subscription.public_keys();
    let endpoint = format!("{}/push/a-phone", service.origin);
    registered(&network.users[1], &carol, &["--endpoint", &endpoint, "--p256dh", &p256dh, "--auth", &auth]);
    let call = || Invocation::new(network.users[0].home()).args(["call", "bob@example", "--duration", "1"]).start();
    assert_eq!(network.users[1].cli(["suspend"]).ok()["suspended"], true);

    let running = call();
    service.refused.recv_timeout(PATIENCE).expect("a gateway has accepted the push, and tries");
    let stopped: &Daemon = if owner_is_carol(&postgres, &network) { &network.users[2] } else { &network.authority };
    stopped.signal("STOP");
    service.mend();
    let message = service.messages.recv_timeout(PATIENCE).expect("the other one delivers");
    rings(&network.users[1], running, &subscription.open(&message, &service));

    // Its next attempt is long due.
    stopped.signal("CONT");
    eventually(PATIENCE, "it notices that it was taken for dead", || {
        if stopped.logged("it joins anew") > 0 { Ok(()) } else { Err("not yet".to_owned()) }
    });
    assert_eq!(network.users[1].cli(["suspend"]).ok()["suspended"], true);
    let running = call();
    let message = service.messages.recv_timeout(PATIENCE).expect("the next push");
    rings(&network.users[1], running, &subscription.open(&message, &service));
    assert!(service.messages.try_recv().is_err(), "each came once");
}

#[test]
#[ignore = "long: PostgreSQL"]
fn a_push_that_a_killed_gateway_had_accepted_is_delivered_by_the_other_of_its_database() {
    let (postgres, keys) = (Postgres::start(), tempfile::tempdir().expect("a directory"));
    let (subscription, service) = (Subscription::new(), PushService::start_broken());
    let mut network = network(&postgres, &keys);
    let carol = network.users[2].peer_id();
    let [p256dh, auth] = subscription.public_keys();
    let endpoint = format!("{}/push/a-phone", service.origin);
    registered(&network.users[1], &carol, &["--endpoint", &endpoint, "--p256dh", &p256dh, "--auth", &auth]);
    assert_eq!(network.users[1].cli(["suspend"]).ok()["suspended"], true);

    let running = Invocation::new(network.users[0].home()).args(["call", "bob@example", "--duration", "1"]).start();
    service.refused.recv_timeout(PATIENCE).expect("a gateway has accepted the push, and tries");
    if owner_is_carol(&postgres, &network) {
        network.users[2].kill()
    } else {
        network.authority.kill()
    }
    service.mend();
    let message = service.messages.recv_timeout(PATIENCE).expect("the other one delivers");
    message.is_in_form();
    rings(&network.users[1], running, &subscription.open(&message, &service));
    // Delivered once, and nothing is left.
    assert!(service.messages.try_recv().is_err());
    eventually(PATIENCE, "nothing is left", || {
        let left = postgres.sql("push", "SELECT count(*) FROM halloo_gateway.push");
        if left == "0" { Ok(()) } else { Err(left) }
    });
}

#[test]
#[ignore = "long: PostgreSQL"]
fn pushes_are_refused_while_the_database_is_away_and_go_out_when_it_is_back() {
    let (mut postgres, keys) = (Postgres::start(), tempfile::tempdir().expect("a directory"));
    let mut network = network(&postgres, &keys);
    let carol_id = network.users[2].peer_id();
    let bob = &network.users[1];
    registered(bob, &carol_id, &[]);
    let test = |bob: &User| Invocation::new(bob.home()).args(["push", "test"]).limit(PATIENCE).run();
    eventually(PATIENCE, "both gateways bring it", || {
        let output = test(bob);
        if output.code == 0 { Ok(()) } else { Err(format!("{output:?}")) }
    });

    postgres.stop();
    let refused = test(bob);
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(refused.stdout.contains("doesn't answer"), "{refused:?}");
    // All else goes on.
    assert_eq!(network.users[2].cli(["status"]).code, 0);
    let sent = network.users[0].cli(["msg", "send", "carol@example", "still there?"]).ok();
    network.users[2].wait_event(PATIENCE, "message_received", |event| event["message_id"] == sent["id"]);

    postgres.run();
    eventually(PATIENCE, "both gateways bring it again", || {
        let output = test(bob);
        if output.code == 0 { Ok(()) } else { Err(format!("{output:?}")) }
    });

    // A gateway whose database can't be used doesn't start, and says why.
    let carol = &mut network.users[2];
    let config = carol.home().join("config.toml");
    carol.kill();
    let before = std::fs::read_to_string(&config).expect("there");
    for (after, word) in [
        (before.replace(PASSWORD, "wrong"), "user and password"),
        (before.replace(&format!(":{}/", postgres.port()), ":1/"), "does PostgreSQL run there"),
        (before.replace("group.key", "none.key"), "another key"),
    ] {
        std::fs::write(&config, after).expect("written");
        let output = Invocation::new(carol.home()).args(["run", "--lab", "--role", "gateway"]).limit(PATIENCE).run();
        assert_ne!(output.code, 0, "{output:?}");
        assert!(output.stderr.contains(word) && !output.stderr.contains(PASSWORD), "{output:?}");
    }
}
