//! Goal: a clock that is ten minutes off is noticed, named and harmless, and so is one that is years behind when a machine starts. Method: one daemon ahead and
//! one behind, by a debug setting; both are found, reached and told. A third is started again with the clock of a machine whose battery is empty.

use std::time::Duration;

use halloo_tests::Plan;
use halloo_tests::daemon::Daemon;
use halloo_tests::linking::link;
use halloo_tests::wait::eventually;

const SKEW_SECS: i64 = 600;
/// The estimate is a median of peers' clocks in whole seconds.
const TOLERANCE_MS: i64 = 5_000;
const EVENT_TIME_MAX: Duration = Duration::from_secs(20);
/// More than any certificate is old.
const YEARS_SECS: i64 = 4 * 365 * 86_400;

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

/// By its own clock no certificate of its peers is valid yet, until three of them have told the time. One device can certify itself anew, another can't.
#[test]
fn a_machine_that_starts_years_behind_is_set_right_by_its_peers_and_believes_them() {
    let mut network = Plan::new(["alice", "bob", "carol", "dave"]).start();
    let mut second = link(&network, &network.users[0], "alice-second", &[]);
    let [alice, bob, _, dave] = network.users();
    for device in [&mut **dave, &mut second] {
        device.cli(["msg", "send", &bob.username, "before", "--wait"]).ok();
        device.terminate();
        let config = device.home().join("config.toml");
        let before = std::fs::read_to_string(&config).expect("a configuration");
        std::fs::write(&config, format!("{before}\n[debug]\nclock_skew_secs = {}\n", -YEARS_SECS)).expect("written");
        device.restart();
        is_named(device, -YEARS_SECS);
        eventually(EVENT_TIME_MAX, "all peers are believed", || all_are_believed(device));
        for to in [&*alice, &*bob] {
            let found = device.cli(["resolve", &to.username, "--fresh"]).ok();
            assert_eq!(found["identity"], to.identity.as_str());
        }
        let sent = device.cli(["msg", "send", &bob.username, "after", "--wait"]).ok();
        assert_eq!(sent["state"], "delivered", "{sent}");
    }
}

/// Whoever a device believes has a name there.
fn all_are_believed(device: &Daemon) -> Result<(), String> {
    let peers = device.cli(["peers"]).ok();
    let connected = peers["peers"].as_array().cloned().unwrap_or_default();
    let named = connected.iter().filter(|peer| peer["username"].is_string()).count();
    if named >= 3 && named == connected.len() { Ok(()) } else { Err(peers.to_string()) }
}

fn is_named(user: &Daemon, skew_secs: i64) {
    let warning = user.wait_event(EVENT_TIME_MAX, "warning", |event| event["code"] == "clock-offset");
    assert!(warning["detail"].as_str().is_some_and(|detail| detail.contains("clock")), "{warning}");
    let status = user.cli(["status"]).ok();
    let offset = status["clock_offset_ms"].as_i64().expect("a number");
    assert!((offset - skew_secs * 1_000).abs() < TOLERANCE_MS, "the clock is {offset} ms ahead? {status}");
    let check = clock_check(user);
    assert_eq!(check["result"], "warning", "{check}");
    assert!(check["advice"].is_string(), "{check}");
}

fn is_not_named(user: &Daemon) {
    assert_eq!(clock_check(user)["result"], "ok");
    assert!(!user.events().iter().any(|event| event["event"] == "warning" && event["code"] == "clock-offset"));
}

fn clock_check(user: &Daemon) -> serde_json::Value {
    let diagnosis = user.cli(["doctor"]).ok();
    let checks = diagnosis["checks"].as_array().cloned().unwrap_or_default();
    let check = checks.into_iter().find(|check| check["name"] == "clock");
    check.unwrap_or_else(|| panic!("doctor looks at the clock: {diagnosis}"))
}
