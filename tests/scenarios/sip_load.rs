//! Goal: an edge keeps its promises to phones that are many, hasty, far away or broken. Method: SIPp's scenarios of `tests/external/sipp` against real
//! daemons.

use std::time::{Duration, Instant};

use halloo_tests::phone::{PhoneAccount, wait_devices};
use halloo_tests::sip_client::SipClient;
use halloo_tests::sipp::Sipp;
use halloo_tests::{Plan, User, eventually};

const PATIENCE: Duration = Duration::from_secs(30);

#[track_caller]
fn phones_of(edge: &User) -> usize {
    let listed = edge.cli(["sip", "account", "list"]).ok();
    listed["accounts"][0]["phones"].as_array().map_or(0, Vec::len)
}

#[test]
fn storms_loss_nonsense_and_changes_of_mind_harm_nobody() {
    let mut network = Plan::new(["alice", "bob"]).args("alice", ["--sip", "127.0.0.1:0"]).start();
    let [alice, bob] = network.users();
    let account = PhoneAccount::add(alice, "udp");
    let one = Sipp::new(&account, 1);

    // All phones of an account at once, again and again.
    let ten = Sipp::new(&account, 10);
    ten.run("register.xml", 500, &["-r", "5000", "-l", "50"]);
    assert_eq!(phones_of(alice), 10, "each counts once");

    // A tenth of all packets is lost, in either direction: they are sent again until they are answered.
    ten.run("register.xml", 40, &["-r", "1000", "-l", "40", "-lost", "10"]);
    assert_eq!(phones_of(alice), 10);

    one.run("malformed.xml", 5, &[]);
    assert_eq!(phones_of(alice), 10, "what nobody can read changes nothing");

    // A source that only ever asks is not answered for ever; another one is.
    let mut flood = SipClient::new(&account);
    let request = flood.request("REGISTER", "sip:example");
    (0..400).for_each(|_| flood.send(&request.to_bytes()));
    let answers = std::iter::from_fn(|| flood.status_within(Duration::from_millis(500))).count();
    assert!((50..320).contains(&answers), "{answers} of 400 answered");
    ten.run("register.xml", 10, &[]);

    // Taken back while it rings, and before; then it rings for a moment, or not at all.
    one.run_for("cancel.xml", &bob.username, 1, &[]);
    wait_ended(bob, 1);
    one.run_for("cancel_early.xml", &bob.username, 1, &[]);
    wait_ended(bob, 1);
}

/// Waits until calls have come, and all of them have gone.
#[track_caller]
fn wait_ended(callee: &User, rung_min: usize) {
    eventually(PATIENCE, "what rang has stopped", || {
        let named = |name: &str| callee.events().iter().filter(|event| event["event"] == name).count();
        let (rung, ended) = (named("call_incoming"), named("call_ended"));
        if rung >= rung_min && rung == ended { Ok(()) } else { Err(format!("{rung} rang, {ended} ended")) }
    });
}

#[test]
#[ignore = "long: half a minute of calls"]
fn a_hundred_calls_between_two_edges() {
    let edge = ["--sip", "127.0.0.1:0"];
    let mut network = Plan::new(["alice", "bob"]).args("alice", edge).args("bob", edge).start();
    let [alice, bob] = network.users();
    let caller = Sipp::new(&PhoneAccount::add(alice, "udp"), 1);
    let callee = Sipp::new(&PhoneAccount::add(bob, "udp"), 1);
    wait_devices(alice, &bob.username, 2);
    let _answering = callee.answering();
    let started = Instant::now();
    caller.run_for("call.xml", &bob.username, 100, &["-l", "1", "-d", "20"]);
    assert!(started.elapsed() < PATIENCE * 3, "100 calls took {:?}", started.elapsed());
}
