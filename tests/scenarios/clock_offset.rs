//! Goal: a clock that is ten minutes off is noticed, named and harmless. Method: one daemon ahead and one behind,
//! by a debug setting; both are found, reached and told.

use std::time::Duration;

use halloo_tests::{Plan, User};

const SKEW_SECS: i64 = 600;
/// The estimate is a median of peers' clocks in whole seconds.
const TOLERANCE_MS: i64 = 5_000;
const EVENT_TIME_MAX: Duration = Duration::from_secs(20);

#[test]
fn clocks_ten_minutes_off_are_named_and_harmless() {
    let skewed = |secs: i64| format!("[debug]\nclock_skew_secs = {secs}\n");
    let mut network =
        Plan::new(["alice", "bob", "carol"]).config("alice", &skewed(SKEW_SECS)).config("bob", &skewed(-SKEW_SECS)).start();
    let [alice, bob, carol] = network.users();
    is_named(alice, SKEW_SECS);
    is_named(bob, -SKEW_SECS);
    is_not_named(carol);
    for (from, to) in [(&*carol, &*alice), (carol, bob), (alice, bob), (bob, alice), (alice, carol)] {
        let found = from.cli(["resolve", &to.username, "--fresh"]).ok();
        assert_eq!(found["identity"], to.identity.as_str());
        assert_eq!(found["devices"][0]["reachability"], "direct", "{found}");
        let text = format!("{} to {}", from.username, to.username);
        let sent = from.cli(["msg", "send", &to.username, &text, "--wait"]).ok();
        assert_eq!(sent["state"], "delivered", "{sent}");
    }
}

fn is_named(user: &User, skew_secs: i64) {
    let warning = user.wait_event(EVENT_TIME_MAX, "warning", |event| event["code"] == "clock-offset");
    assert!(warning["detail"].as_str().is_some_and(|detail| detail.contains("clock")), "{warning}");
    let status = user.cli(["status"]).ok();
    let offset = status["clock_offset_ms"].as_i64().expect("a number");
    assert!((offset - skew_secs * 1_000).abs() < TOLERANCE_MS, "{}'s clock is {offset} ms ahead?", user.username);
    let check = clock_check(user);
    assert_eq!(check["result"], "warning", "{check}");
    assert!(check["advice"].is_string(), "{check}");
}

fn is_not_named(user: &User) {
    assert_eq!(clock_check(user)["result"], "ok");
    assert!(!user.events().iter().any(|event| event["event"] == "warning" && event["code"] == "clock-offset"));
}

fn clock_check(user: &User) -> serde_json::Value {
    let diagnosis = user.cli(["doctor"]).ok();
    let checks = diagnosis["checks"].as_array().cloned().unwrap_or_default();
    let check = checks.into_iter().find(|check| check["name"] == "clock");
    check.unwrap_or_else(|| panic!("doctor looks at the clock: {diagnosis}"))
}
