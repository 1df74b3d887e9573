//! Goal: whoever depends on gateways learns whether they do their work, and a gateway that stops doing it costs no call. Method: real daemons; a gateway is
//! frozen, which leaves its connections open and everything it holds in place.

use std::time::Duration;

use halloo_tests::cli::Invocation;
use halloo_tests::{Daemon, Plan, User, eventually};
use serde_json::Value;

const SETTLED_TIME_MAX: Duration = Duration::from_secs(30);
const TEST_TIME_MAX: Duration = Duration::from_secs(40);

fn test_push(user: &User) -> (i32, Value) {
    let output = Invocation::new(user.home()).args(["push", "test"]).limit(TEST_TIME_MAX).run();
    (output.code, output.json())
}

/// Stages of a test at one gateway: what, and whether it went well.
fn stages(test: &Value, gateway: &str) -> Vec<(String, bool)> {
    let gateways = test["gateways"].as_array().cloned().unwrap_or_default();
    let found = gateways.into_iter().find(|known| known["gateway"] == gateway).unwrap_or_else(|| panic!("{gateway} in {test}"));
    let stages = found["stages"].as_array().cloned().unwrap_or_default();
    stages.iter().map(|stage| (stage["step"].as_str().unwrap_or_default().to_owned(), stage["ok"] == true)).collect()
}

fn gateways(user: &User) -> Result<Vec<String>, String> {
    let list = user.api().get("/v1/push")?;
    let registrations = list["registrations"].as_array().cloned().unwrap_or_default();
    let mut gateways: Vec<String> =
        registrations.iter().filter_map(|known| Some(known["gateway"].as_str()?.to_owned())).collect();
    gateways.sort();
    gateways.dedup();
    Ok(gateways)
}

fn has_gateways(user: &User, count: usize) -> Vec<String> {
    eventually(SETTLED_TIME_MAX, "it is registered with so many gateways", || {
        let gateways = gateways(user)?;
        if gateways.len() == count { Ok(gateways) } else { Err(format!("{gateways:?}")) }
    })
}

#[test]
fn a_device_rings_itself_through_the_whole_chain() {
    let mut network = Plan::new(["bob"]).start();
    let gateway = network.authority.peer_id();
    let [bob] = network.users();
    let nothing = bob.cli(["push", "test"]);
    assert_eq!(nothing.code, 1, "{nothing:?}");
    assert!(nothing.last_error().contains("push register"), "it says what to do: {nothing:?}");

    bob.cli(["push", "register", "stream"]).ok();
    bob.cli(["push", "register", "webpush"]).ok();
    let (code, test) = test_push(bob);
    assert_eq!((code, &test["ok"]), (0, &Value::from(true)), "{test}");
    let mut stages = stages(&test, &gateway);
    assert_eq!(stages.remove(0), ("gateway".to_owned(), true), "{test}");
    // Which of the two is the first to come is a matter of microseconds.
    stages.sort();
    assert_eq!(stages, [("service".to_owned(), true), ("stream".to_owned(), true)], "{test}");
    let rang = bob.wait_event(SETTLED_TIME_MAX, "message_waiting", |event| event["kind"] == "self-test");
    assert!(rang["notice"]["text"].as_str().is_some_and(|text| !text.is_empty()), "{rang}");
    // Ringing oneself isn't counted as a stranger's ringing, of whom a gateway takes three in a row.
    for _ in 0..4 {
        assert_eq!(test_push(bob).0, 0);
    }
}

#[test]
fn a_gateway_that_does_nothing_costs_no_call_and_is_replaced() {
    let plan = Plan::new(["alice", "bob", "carol", "dora"]).args("bob", ["--answer", "auto"]);
    let plan = plan.args("carol", ["--role", "gateway"]).args("dora", ["--role", "gateway"]);
    let mut network = plan.start();
    let [alice, bob, carol, dora] = network.users();
    bob.cli(["push", "register", "webpush", "--gateway", &carol.peer_id()]).ok();
    // A second one is found without being asked for.
    let before = has_gateways(bob, 2);
    assert!(before.contains(&carol.peer_id()), "{before:?}");
    assert_eq!(test_push(bob).0, 0, "both bring it");

    freeze(carol);
    let (code, test) = test_push(bob);
    assert_eq!((code, &test["ok"]), (1, &Value::from(false)), "{test}");
    assert_eq!(stages(&test, &carol.peer_id()), [("gateway".to_owned(), false)], "{test}");
    let other = before.iter().find(|gateway| **gateway != carol.peer_id()).expect("two");
    assert!(stages(&test, other).iter().all(|(_, ok)| *ok), "{test}");
    // Twice in a row: another one takes its place.
    test_push(bob);
    let warning = bob.wait_event(SETTLED_TIME_MAX, "warning", |event| event["code"] == "push-gateway-silent");
    assert!(warning["detail"].as_str().is_some_and(|detail| detail.contains(&carol.peer_id())), "{warning}");
    eventually(SETTLED_TIME_MAX, "another gateway takes its place", || {
        let now = gateways(bob)?;
        let is_replaced = now.len() == 2 && !now.contains(&carol.peer_id()) && now.contains(other);
        if is_replaced { Ok(()) } else { Err(format!("{now:?}")) }
    });

    // Renewing is answered when all of it is where callers look.
    bob.cli(["push", "register", "webpush", "--gateway", other]).ok();
    // One of the two that are left falls silent too: the other one wakes.
    if *other == dora.peer_id() {
        freeze(dora);
    }
    assert_eq!(bob.cli(["suspend"]).ok()["suspended"], true);
    let outcome = Invocation::new(alice.home()).args(["call", &bob.username, "--duration", "1"]).limit(TEST_TIME_MAX).run().ok();
    assert_eq!((&outcome["outcome"], &outcome["via_push"]), (&Value::from("completed"), &Value::from(true)), "{outcome}");
}

fn freeze(daemon: &Daemon) {
    daemon.signal("STOP");
}
