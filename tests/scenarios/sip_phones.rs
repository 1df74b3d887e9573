//! Goal: ordinary phones call through the overlay, and people don't see that they aren't native. Method: Debian's baresip, registered to the edges of real
//! daemons; each speaks a tone of its own, and what the other end records must hold it.

use std::path::Path;
use std::time::Duration;

use halloo_tests::audio::{assert_heard, write_tone};
use halloo_tests::phone::{Phone, PhoneAccount, wait_devices};
use halloo_tests::{Network, Plan};

const ALICE_HZ: f64 = 440.0;
const BOB_HZ: f64 = 660.0;

/// Far more than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);

fn edge() -> [&'static str; 2] {
    ["--sip", "127.0.0.1:0"]
}

/// Two people; bob has a phone beside his native device.
fn bob_with_a_phone(folder: &Path) -> (Network, Phone) {
    let mut network = Plan::new(["alice", "bob"]).args("bob", edge()).start();
    let [alice, bob] = network.users();
    let account = PhoneAccount::add(bob, "udp");
    wait_devices(alice, &bob.username, 2);
    let phone = Phone::registered(folder, "bob-phone", &account, BOB_HZ, "");
    (network, phone)
}

#[test]
fn two_phones_behind_two_nodes_call_and_hear_each_other() {
    let mut network = Plan::new(["alice", "bob"]).args("alice", edge()).args("bob", edge()).start();
    let folder = tempfile::tempdir().expect("a folder");
    let [alice, bob] = network.users();
    let accounts = [PhoneAccount::add(alice, "udp"), PhoneAccount::add(bob, "tcp")];
    wait_devices(alice, &bob.username, 2);
    let mut caller = Phone::registered(folder.path(), "alice-phone", &accounts[0], ALICE_HZ, "");
    let mut callee = Phone::registered(folder.path(), "bob-phone", &accounts[1], BOB_HZ, "");
    let listed = bob.cli(["sip", "account", "list"]).ok();
    assert_eq!(listed["accounts"][0]["phones"][0]["transport"], "tcp", "{listed}");

    caller.tell("dial", &accounts[1].uri);
    let incoming = callee.wait("CALL_INCOMING");
    assert_eq!(incoming["peeruri"], accounts[0].uri.as_str(), "{incoming}");
    caller.wait("CALL_RINGING");
    callee.tell("accept", "");
    caller.wait("CALL_ESTABLISHED");
    callee.wait("CALL_ESTABLISHED");
    callee.wait("CALL_RTPESTAB");
    std::thread::sleep(Duration::from_secs(3));
    caller.tell("hangup", "");
    callee.wait("CALL_CLOSED");
    assert_heard(&caller.heard(), BOB_HZ, ALICE_HZ, Duration::from_secs(1));
    assert_heard(&callee.heard(), ALICE_HZ, BOB_HZ, Duration::from_secs(1));
}

#[test]
fn who_dials_whoever_rings_them_has_them() {
    let folder = tempfile::tempdir().expect("a folder");
    let (mut network, mut phone) = bob_with_a_phone(folder.path());
    let [alice, bob] = network.users();
    let back = format!("sip:{}", alice.username);
    let alice = &**alice;
    let call = std::thread::scope(|scope| {
        let call = scope.spawn(|| alice.cli(["call", &bob.username, "--duration", "1"]));
        phone.wait("CALL_INCOMING");
        phone.tell("dial", &back);
        phone.wait("CALL_ESTABLISHED");
        // What rang rings no more, and the call that was dialled ends as any.
        phone.wait("CALL_CLOSED");
        phone.wait("CALL_CLOSED");
        call.join().expect("no panic")
    });
    assert_eq!(call.ok()["outcome"], "completed");
}

#[test]
fn a_phone_and_a_native_device_ring_together_and_one_answers() {
    let folder = tempfile::tempdir().expect("a folder");
    let (mut network, mut phone) = bob_with_a_phone(folder.path());
    let [alice, bob] = network.users();
    let (tone, heard) = (folder.path().join("alice.wav"), folder.path().join("alice-heard.wav"));
    write_tone(&tone, ALICE_HZ, Duration::from_secs(30));

    let alice = &**alice;
    // The native device answers: the phone stops.
    let call = std::thread::scope(|scope| {
        let call = scope.spawn(|| alice.cli(["call", &bob.username, "--duration", "1"]));
        phone.wait("CALL_INCOMING");
        let ringing = bob.wait_event(PATIENCE, "call_incoming", |_| true);
        bob.cli(["calls", "answer", ringing["call_id"].as_str().expect("an id")]).ok();
        phone.wait("CALL_CLOSED");
        call.join().expect("no panic")
    });
    assert_eq!(call.ok()["outcome"], "completed");

    // The phone answers: the native device stops.
    let call = std::thread::scope(|scope| {
        let (tone, heard) = (tone.display().to_string(), heard.display().to_string());
        let user = &bob.username;
        let call = scope.spawn(move || alice.cli(["call", user, "--duration", "4", "--play", &tone, "--record", &heard]));
        phone.wait("CALL_INCOMING");
        phone.tell("accept", "");
        phone.wait("CALL_ESTABLISHED");
        bob.wait_event(PATIENCE, "call_ended", |event| event["outcome"] == "answered-elsewhere");
        phone.wait("CALL_CLOSED");
        call.join().expect("no panic")
    });
    assert_eq!(call.ok()["outcome"], "completed");
    assert_heard(&heard, BOB_HZ, ALICE_HZ, Duration::from_secs(1));
    assert_heard(&phone.heard(), ALICE_HZ, BOB_HZ, Duration::from_secs(1));

    // The phone declines: so does its person.
    let call = std::thread::scope(|scope| {
        let call = scope.spawn(|| alice.cli(["call", &bob.username]));
        phone.wait("CALL_INCOMING");
        phone.tell("hangup", "");
        call.join().expect("no panic")
    });
    assert_eq!(call.json()["outcome"], "declined", "{call:?}");
}
