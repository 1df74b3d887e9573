//! Goal: whoever depends on gateways learns whether they do their work, and a gateway that stops doing it costs no call. Method: real daemons; a gateway is
//! frozen, which leaves its connections open and everything it holds in place.

use std::time::Duration;

use halloo_tests::cli::Invocation;
use halloo_tests::network::befriend;
use halloo_tests::webpush::PushService;
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

/// Cut off from everybody and alive, as far as it can tell itself: nobody has found out yet, and the call rings all the same.
#[test]
fn a_call_rings_through_the_second_gateway_while_the_first_is_cut_off() {
    let plan = Plan::new(["alice", "bob", "carol"]).args("bob", ["--answer", "auto"]).args("carol", ["--role", "gateway"]);
    let mut network = plan.start();
    let authority = network.authority.peer_id();
    let [alice, bob, carol] = network.users();
    // Strangers know both gateways, as contacts do.
    for gateway in [&carol.peer_id(), &authority] {
        bob.cli(["push", "register", "webpush", "--gateway", gateway]).ok();
    }
    has_gateways(bob, 2);
    assert_eq!(bob.cli(["suspend"]).ok()["suspended"], true);
    freeze(carol);
    let outcome = Invocation::new(alice.home()).args(["call", &bob.username, "--duration", "1"]).limit(TEST_TIME_MAX).run().ok();
    assert_eq!((&outcome["outcome"], &outcome["via_push"]), (&Value::from("completed"), &Value::from(true)), "{outcome}");
    // The caller doesn't wait for one gateway before asking the other: it rings before the first one's silence would count as an answer.
    let ring_ms = outcome["ring_ms"].as_u64().expect("it rang");
    assert!(ring_ms < 10_000, "{outcome}");
}

/// A gateway has a channel whose service is out of order: it hands the push on, and the other one's service brings it.
#[test]
fn a_push_whose_service_fails_is_handed_to_the_devices_other_gateway() {
    let (broken, service) = (PushService::start_broken(), PushService::start());
    let mut network = Plan::new(["alice", "bob", "carol"]).args("carol", ["--role", "gateway"]).start();
    let authority = network.authority.peer_id();
    let [alice, bob, carol] = network.users();
    let register = |service: &PushService, gateway: &str| {
        let endpoint = format!("{}/push/a-phone", service.origin);
        bob.cli(["push", "register", "webpush", "--endpoint", &endpoint, "--gateway", gateway]).ok()
    };
    // Each is told of the other by the registration that comes after the other's.
    register(&service, &authority);
    register(&broken, &carol.peer_id());
    register(&service, &authority);
    has_gateways(bob, 2);
    assert_eq!(bob.cli(["suspend"]).ok()["suspended"], true);
    let handed = "the other gateway has taken the push";
    let running = Invocation::new(alice.home()).args(["call", &bob.username, "--duration", "1"]).start();
    broken.refused.recv_timeout(TEST_TIME_MAX).expect("the first one's service is asked, in vain");
    let message = service.messages.recv_timeout(TEST_TIME_MAX).expect("the second one's service is asked");
    eventually(SETTLED_TIME_MAX, "the push was handed on", || {
        if carol.logged(handed) > 0 { Ok(()) } else { Err("not yet".to_owned()) }
    });
    let file = bob.home().join("payload");
    std::fs::write(&file, &message.body).expect("written");
    let woken = bob.cli(["wake", "--payload", &file.display().to_string()]).ok();
    let id = woken["call_id"].as_str().expect("it rings").to_owned();
    assert_eq!(bob.cli(["calls", "answer", &id]).code, 0);
    let outcome = running.wait(TEST_TIME_MAX).ok();
    assert_eq!((&outcome["outcome"], &outcome["via_push"]), (&Value::from("completed"), &Value::from(true)), "{outcome}");
    // Both have brought it by now: it rang once.
    let rings = bob.events().iter().filter(|event| event["event"] == "call_incoming").count();
    assert_eq!(rings, 1);
}

/// A gateway that accepts and brings nothing passes for a good one as long as nobody compares: callers say who has accepted what the other one brought.
#[test]
fn a_gateway_that_accepts_pushes_and_drops_them_is_found_out_by_receipts() {
    let hole = PushService::start();
    let plan = Plan::new(["alice", "bob", "carol"]).args("bob", ["--answer", "auto"]).args("carol", ["--role", "gateway"]);
    let mut network = plan.start();
    let authority = network.authority.peer_id();
    let [alice, bob, carol] = network.users();
    befriend(alice, bob);
    // What carol brings goes to a service that takes everything and delivers nothing.
    let endpoint = format!("{}/push/a-phone", hole.origin);
    bob.cli(["push", "register", "webpush", "--endpoint", &endpoint, "--gateway", &carol.peer_id()]).ok();
    bob.cli(["push", "register", "webpush", "--gateway", &authority]).ok();
    has_gateways(bob, 2);
    for _ in 0..3 {
        assert_eq!(bob.cli(["suspend"]).ok()["suspended"], true);
        let call = Invocation::new(alice.home()).args(["call", &bob.username, "--duration", "1"]).limit(TEST_TIME_MAX).run().ok();
        assert_eq!((&call["outcome"], &call["via_push"]), (&Value::from("completed"), &Value::from(true)), "{call}");
        hole.messages.recv_timeout(TEST_TIME_MAX).expect("carol was asked, and has accepted");
        // The caller knows from the device itself which gateway has woken it.
        let arrived = alice.wait_event(SETTLED_TIME_MAX, "push_arrived", |event| event["call_id"] == call["call_id"]);
        assert_eq!((&arrived["gateway"], &arrived["peer_id"]), (&Value::from(authority.clone()), &Value::from(bob.peer_id())));
        assert_eq!((&arrived["status"], &arrived["on_stream"]), (&Value::from("ringing"), &Value::from(false)), "{arrived}");
    }
    let warning = bob.wait_event(SETTLED_TIME_MAX, "warning", |event| event["code"] == "push-gateway-silent");
    assert!(warning["detail"].as_str().is_some_and(|detail| detail.contains(&carol.peer_id())), "{warning}");
    let blamed = bob.events().iter().filter(|event| event["code"] == "push-gateway-silent").count();
    assert_eq!(blamed, 1, "and nobody else");
}

/// The same with channels that any gateway can use: the gateway that drops loses its place to another, by receipts alone.
#[test]
#[ignore = "long: three calls to a device that sleeps"]
fn a_gateway_that_accepts_pushes_and_drops_them_is_replaced() {
    let plan = Plan::new(["alice", "bob", "carol", "dora"]).args("bob", ["--answer", "auto"]);
    let plan = plan.args("carol", ["--role", "gateway"]).config("carol", "[debug]\ngateway_drops = true\n");
    let mut network = plan.args("dora", ["--role", "gateway"]).start();
    let authority = network.authority.peer_id();
    let [alice, bob, carol, dora] = network.users();
    befriend(alice, bob);
    bob.cli(["push", "register", "webpush", "--gateway", &carol.peer_id()]).ok();
    // The second one is found by itself; the third is at hand.
    let before = has_gateways(bob, 2);
    let third = [authority, dora.peer_id()].into_iter().find(|gateway| !before.contains(gateway)).expect("three");
    assert!(before.contains(&carol.peer_id()), "{before:?}");
    // Renewing is answered when all of it is where callers look.
    let second = before.iter().find(|gateway| **gateway != carol.peer_id()).expect("two");
    bob.cli(["push", "register", "webpush", "--gateway", second]).ok();
    for number in 1..=3 {
        assert_eq!(bob.cli(["suspend"]).ok()["suspended"], true);
        let call = Invocation::new(alice.home()).args(["call", &bob.username, "--duration", "1"]).limit(TEST_TIME_MAX).run().ok();
        assert_eq!((&call["outcome"], &call["via_push"]), (&Value::from("completed"), &Value::from(true)), "{call}");
        eventually(SETTLED_TIME_MAX, "carol has accepted it, and dropped it", || {
            let dropped = carol.logged("a push is dropped");
            if dropped >= number { Ok(()) } else { Err(dropped.to_string()) }
        });
    }
    let warning = bob.wait_event(SETTLED_TIME_MAX, "warning", |event| event["code"] == "push-gateway-silent");
    let detail = warning["detail"].as_str().unwrap_or_default();
    assert!(detail.contains(&carol.peer_id()) && detail.contains("another one is to take its place"), "{warning}");
    eventually(SETTLED_TIME_MAX, "the third one takes its place", || {
        let now = gateways(bob)?;
        let is_replaced = now.len() == 2 && now.contains(&third) && !now.contains(&carol.peer_id());
        if is_replaced { Ok(()) } else { Err(format!("{now:?}")) }
    });
    // No self-test had a part in it.
    assert!(
        !bob.events().iter().any(|event| event["code"] == "push-gateway-silent" && event["detail"].to_string().contains("test"))
    );
}

/// The gateway has accepted the push before it knew that nothing brings it: it says so, and nobody waits for a phone that won't ring.
#[test]
fn a_caller_hears_at_once_that_no_channel_brings_the_push() {
    let gone = PushService::start_gone();
    let mut network = Plan::new(["alice", "bob"]).start();
    let [alice, bob] = network.users();
    let endpoint = format!("{}/push/a-phone", gone.origin);
    bob.cli(["push", "register", "webpush", "--endpoint", &endpoint]).ok();
    assert_eq!(bob.cli(["suspend"]).ok()["suspended"], true);
    let begun = std::time::Instant::now();
    let outcome = Invocation::new(alice.home()).args(["call", &bob.username, "--duration", "1"]).limit(TEST_TIME_MAX).run();
    let outcome = outcome.json();
    assert_eq!(outcome["outcome"], "unreachable", "{outcome}");
    let reason = outcome["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("no gateway took the push"), "{outcome}");
    eprintln!("unreachable after {:?}", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    gone.refused.try_recv().expect("it was asked");
}

fn freeze(daemon: &Daemon) {
    daemon.signal("STOP");
}
