//! Goal: no clock that is ten minutes off loses a call that comes by push, and a push that comes too late, twice, or of somebody blocked since, rings nothing.
//! Method: clocks are set by a debug setting; pushes are caught at a push service and handed over when the test likes.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use halloo_tests::cli::{Invocation, Running};
use halloo_tests::network::{ANYONE, text};
use halloo_tests::webpush::{PushService, Subscription};
use halloo_tests::{Daemon, Network, Plan, User, eventually};
use serde_json::Value;

const SKEW_SECS: i64 = 600;
const PATIENCE: Duration = Duration::from_secs(40);

fn skewed(secs: i64) -> String {
    format!("[debug]\nclock_skew_secs = {secs}\n")
}

fn call(from: &User, to: &User) -> Running {
    Invocation::new(from.home()).args(["call", &to.username, "--duration", "1"]).start()
}

fn suspend(user: &User) {
    assert_eq!(user.cli(["suspend"]).ok()["suspended"], true);
}

fn wake(user: &Daemon, payload: &[u8]) -> halloo_tests::cli::Output {
    let file = user.home().join("payload");
    std::fs::write(&file, payload).expect("written");
    user.cli(["wake", "--payload", &file.display().to_string()])
}

fn incoming(user: &Daemon) -> usize {
    user.events().iter().filter(|event| event["event"] == "call_incoming").count()
}

/// The push of a call of alice's to sleeping bob, which goes on no further.
fn caught(alice: &User, bob: &User, subscription: &Subscription, service: &PushService) -> (Running, Vec<u8>) {
    suspend(bob);
    let running = call(alice, bob);
    let message = service.messages.recv_timeout(PATIENCE).expect("the gateway pushes");
    (running, subscription.open(&message, service))
}

/// An event from the API's memory: a daemon that isn't ready writes none to its standard output.
#[track_caller]
fn replayed(device: &User, name: &str) -> Value {
    let mut stream = UnixStream::connect(device.home().join("api.sock")).expect("the API listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("set");
    stream.write_all(b"GET /v1/events HTTP/1.1\r\nHost: halloo\r\nLast-Event-ID: 1\r\n\r\n").expect("asked");
    let wanted = format!("\"event\":\"{name}\"");
    let lines = BufReader::new(stream).lines().map_while(Result::ok);
    let line = lines.into_iter().find(|line| line.starts_with("data:") && line.contains(&wanted));
    let line = line.unwrap_or_else(|| panic!("no event {name}"));
    serde_json::from_str(line.trim_start_matches("data:")).expect("JSON")
}

#[test]
fn clocks_ten_minutes_off_on_either_side_lose_no_call_that_comes_by_push() {
    let plan = ["alice", "bob", "carol"]
        .into_iter()
        .fold(Plan::new(["alice", "bob", "carol"]), |plan, name| plan.args(name, ["--answer", "auto"]));
    let mut network = plan.config("alice", &skewed(SKEW_SECS)).config("bob", &skewed(-SKEW_SECS)).start();
    let users: [&mut User; 3] = network.users();
    for user in &users {
        user.cli(["push", "register", "webpush"]).ok();
    }
    let [alice, bob, carol] = users;
    // The callee's clock is wrong, the caller's, both.
    for (from, to) in [(&*carol, &*alice), (carol, bob), (alice, carol), (bob, carol), (alice, bob), (bob, alice)] {
        suspend(to);
        let outcome = call(from, to).wait(PATIENCE).ok();
        let names = format!("{} to {}", from.username, to.username);
        assert_eq!(outcome["outcome"], "completed", "{names}: {outcome}");
        assert_eq!(outcome["via_push"], true, "{names}: {outcome}");
    }
}

#[test]
fn a_push_past_its_time_is_a_missed_call_and_never_rings() {
    let (subscription, service) = (Subscription::new(), PushService::start());
    let mut network = Network::of(["alice", "bob"]);
    let [alice, bob] = network.users();
    subscription.register(bob, &service);
    let (running, payload) = caught(alice, bob, &subscription, &service);
    running.signal("INT");
    let given_up = running.wait(PATIENCE);
    assert_ne!(given_up.code, 0, "{given_up:?}");
    alice.signal("STOP");
    network.authority.signal("STOP");

    // The phone was off meanwhile: an hour later, with nobody to ask for the time, it is handed the push.
    let bob = &mut network.users[1];
    bob.kill();
    std::fs::write(bob.home().join("config.toml"), format!("lab = true\n{}\n{ANYONE}", skewed(3_600))).expect("written");
    bob.spawn_again();
    eventually(PATIENCE, "its API answers", || {
        let output = bob.cli(["status"]);
        if output.code == 0 { Ok(()) } else { Err(output.stderr) }
    });
    for _ in 0..2 {
        let late = wake(bob, &payload);
        assert_eq!(late.code, 1, "{late:?}");
        assert!(late.last_error().contains("past its time"), "{late:?}");
    }
    let list = bob.cli(["calls", "list"]).ok();
    let calls = list["calls"].as_array().cloned().unwrap_or_default();
    let missed: Vec<&Value> = calls.iter().filter(|call| call["incoming"] == true).collect();
    assert_eq!(missed.len(), 1, "listed once, however often it is brought: {list}");
    assert_eq!(
        (&missed[0]["outcome"]["outcome"], &missed[0]["users"][0]),
        (&"no-answer".into(), &"alice@example".into()),
        "{list}"
    );
    let told = replayed(bob, "call_missed");
    assert_eq!((&told["call_id"], &told["from"]), (&missed[0]["call_id"], &"alice@example".into()));
    assert!(text(&told["notice"], "spoken").starts_with("Missed call from"), "{told}");
    let shown = bob.cli(["calls", "show", &text(missed[0], "call_id")]).ok();
    assert!(shown["stages"].to_string().contains("it didn't ring here"), "a dead call doesn't ring: {shown}");
}

#[test]
fn a_push_rings_once_and_not_at_all_of_somebody_blocked_since() {
    let (subscription, service) = (Subscription::new(), PushService::start());
    let mut network = Network::of(["alice", "bob"]);
    let [alice, bob] = network.users();
    subscription.register(bob, &service);
    let (running, payload) = caught(alice, bob, &subscription, &service);
    let woken = wake(bob, &payload).ok();
    bob.wait_event(PATIENCE, "call_incoming", |event| event["call_id"] == text(&woken, "call_id").as_str());
    wake(bob, &payload);
    assert_eq!(incoming(bob), 1, "handed over twice, it rings once");
    bob.cli(["calls", "decline", &text(&woken, "call_id")]).ok();
    let declined = running.wait(PATIENCE).json();
    assert_eq!(declined["outcome"], "declined", "{declined}");
    wake(bob, &payload);
    assert_eq!(incoming(bob), 1, "nor later");

    // The phone is off, so that nothing but the push brings the next call; its user has enough of alice before it arrives.
    bob.kill();
    let running = call(alice, bob);
    let message = service.messages.recv_timeout(PATIENCE).expect("the gateway pushes");
    let payload = subscription.open(&message, &service);
    alice.kill();
    drop(running);
    bob.restart();
    bob.cli(["contact", "block", &alice.username]).ok();
    let refused = wake(bob, &payload);
    assert_eq!(refused.code, 1, "{refused:?}");
    assert_eq!(incoming(bob), 0, "who is blocked doesn't ring");
    let list = bob.cli(["calls", "list"]).ok();
    let calls = list["calls"].as_array().cloned().unwrap_or_default();
    assert_eq!(calls.len(), 1, "nor is it a missed call: {list}");
}

/// Caught before, brought after the authority has revoked its caller: the device judges by what it knows when the push comes.
#[test]
fn a_push_of_a_revoked_caller_rings_nothing_and_the_gateway_takes_no_more() {
    let (subscription, service) = (Subscription::new(), PushService::start());
    let mut network = Network::of(["alice", "bob"]);
    let [alice, bob] = network.users();
    subscription.register(bob, &service);
    let (running, payload) = caught(alice, bob, &subscription, &service);
    drop(running);
    network.authority.cli(["authority", "revoke", &network.users[0].username]).ok();
    let [alice, bob] = network.users();
    bob.cli(["wake"]).ok();
    bob.wait_event(PATIENCE, "revocation_list", |_| true);
    let rang = incoming(bob);
    let refused = wake(bob, &payload);
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(refused.last_error().contains("revoked"), "{refused:?}");
    assert_eq!(incoming(bob), rang, "nothing rings");
    suspend(bob);
    let outcome = call(alice, bob).wait(PATIENCE);
    assert_ne!(outcome.code, 0, "{outcome:?}");
    assert!(service.messages.try_recv().is_err(), "the gateway takes no push of a revoked user");
}
