//! Goal: phones behind address translators see each other's presence, write to and call each other through two nodes, one of them at home behind one too.
//! Method: the small internet of `natlab`: alice's node and her phone share a home, bob's node is public and his phone in a home of its own. Each phone
//! speaks a tone, and what the other end records must hold it.

use std::time::Duration;

use halloo_tests::audio::{assert_heard, write_tone};
use halloo_tests::daemon::Daemon;
use halloo_tests::linphone::Linphone;
use halloo_tests::natlab::{Machine, NatLab, READY_TIME_MAX};
use halloo_tests::network::befriend;
use halloo_tests::phone::{Phone, PhoneAccount};
use halloo_tests::{User, eventually};
use tempfile::TempDir;

const ALICE_HZ: f64 = 440.0;
const BOB_HZ: f64 = 660.0;
const TALK: Duration = Duration::from_secs(4);
const HEARD_MIN: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(30);

/// Whoever is there; all ends with it, the laboratory last.
struct Town {
    alice: User,
    bob: User,
    accounts: [PhoneAccount; 2],
    phones: [Machine; 2],
    _server: Daemon,
    folder: TempDir,
    _lab: NatLab,
}

fn town() -> Town {
    let mut lab = NatLab::new();
    let (public, at_home, hosted) = (lab.public_machine("srv", 1), lab.home_machine("a", 11), lab.public_machine("b", 2));
    let phones = [lab.housemate("pa", &at_home, 21), lab.home_machine("pb", 12)];
    let folder = tempfile::tempdir().expect("a folder");
    let server = public.serve(folder.path(), "");
    let edge = |machine: &Machine| format!("{}:5060", machine.address);
    let mut alice = at_home.enrol(folder.path(), &server, "alice", &["--sip", &edge(&at_home)]);
    let mut bob = hosted.enrol(folder.path(), &server, "bob", &["--sip", &edge(&hosted)]);
    alice.wait_ready(READY_TIME_MAX);
    bob.wait_ready(READY_TIME_MAX);
    let accounts = [PhoneAccount::add(&alice, "udp"), PhoneAccount::add(&bob, "udp")];
    befriend(&alice, &bob);
    for (seen_by, user) in [(&alice, &bob), (&bob, &alice)] {
        eventually(READY_TIME_MAX, &format!("{} has two devices", user.username), || {
            let resolved = seen_by.cli(["resolve", &user.username, "--fresh"]).json();
            let found = resolved["devices"].as_array().map_or(0, Vec::len);
            if found == 2 { Ok(()) } else { Err(resolved.to_string()) }
        });
    }
    Town { alice, bob, accounts, phones, _server: server, folder, _lab: lab }
}

/// Waits until a phone has been told this since `from`, a length of its log; where it stands in it.
#[track_caller]
fn was_told(phone: &Phone, from: usize, what: &str) -> usize {
    let mut at = None;
    eventually(PATIENCE, &format!("a phone is told {what}"), || {
        let log = phone.log();
        at = log.get(from..).and_then(|new| new.find(what)).map(|found| from + found);
        if at.is_some() { Ok(()) } else { Err(log) }
    });
    at.expect("it was found")
}

#[test]
fn baresip_behind_two_nodes_and_nats_sees_writes_calls_and_is_heard() {
    let town = town();
    // Of all of a user's devices the most reachable is seen: while bob's node says away, his phone makes the difference.
    town.bob.cli(["presence", "set", "away"]).ok();
    let [mut caller, mut callee] = [("alice-phone", ALICE_HZ, 0), ("bob-phone", BOB_HZ, 1)].map(|(name, hertz, index)| {
        let (machine, account, other) = (&town.phones[index], &town.accounts[index], &town.accounts[1 - index].uri);
        Phone::messaging_on(Some(machine), town.folder.path(), name, account, hertz, other)
    });
    callee.tell("presence_offline", "");
    let away = was_told(&caller, 0, "<rpid:away/>");
    callee.tell("presence_online", "");
    was_told(&caller, away, "<basic>open</basic>");
    was_told(&callee, 0, "<basic>open</basic>");
    // Each writes to the other.
    caller.tell("message", "hallo from behind a translator");
    was_told(&callee, 0, "hallo from behind a translator");
    callee.tell("message", "and hallo back");
    was_told(&caller, 0, "and hallo back");
    caller.tell("dial", &town.accounts[1].uri);
    let incoming = callee.wait("CALL_INCOMING");
    assert_eq!(incoming["peeruri"], town.accounts[0].uri.as_str(), "{incoming}");
    callee.tell("accept", "");
    caller.wait("CALL_ESTABLISHED");
    callee.wait("CALL_RTPESTAB");
    // Keys are told as events in the media (RFC 4733), through both edges.
    caller.tell("sndcode", "5");
    assert_eq!(callee.wait("CALL_DTMF_START")["param"], "5");
    std::thread::sleep(TALK);
    caller.tell("hangup", "");
    callee.wait("CALL_CLOSED");
    assert_heard(&caller.heard(), BOB_HZ, ALICE_HZ, HEARD_MIN);
    assert_heard(&callee.heard(), ALICE_HZ, BOB_HZ, HEARD_MIN);
}

#[test]
#[ignore = "long: a small internet and linphone"]
fn linphone_behind_two_nodes_and_nats_sees_writes_calls_and_is_heard() {
    let town = town();
    let [mut caller, mut callee] = [("alice-phone", ALICE_HZ, 0), ("bob-phone", BOB_HZ, 1)].map(|(name, hertz, index)| {
        let (machine, account, other) = (&town.phones[index], &town.accounts[index], &town.accounts[1 - index].uri);
        Linphone::with_friend(Some(machine), town.folder.path(), name, account, hertz, other)
    });
    for (phone, friend) in [(&caller, &town.accounts[1]), (&callee, &town.accounts[0])] {
        let name = friend.uri.trim_start_matches("sip:").split('@').next().unwrap_or_default();
        phone.wait(&format!("Friend \"{name}\" <{}> is Online", friend.uri));
    }
    caller.tell(&format!("chat {} \"hallo from behind a translator\"", town.accounts[1].uri));
    callee.wait("hallo from behind a translator");
    callee.tell(&format!("chat {} \"and hallo back\"", town.accounts[0].uri));
    caller.wait("and hallo back");
    caller.tell(&format!("call {}", town.accounts[1].uri));
    // Its friend's name has been printed before.
    callee.wait("incoming call from \"alice\"");
    callee.tell("answer");
    caller.wait("connected");
    std::thread::sleep(TALK);
    caller.tell("terminate");
    callee.wait("ended");
    assert_heard(&caller.finish(), BOB_HZ, ALICE_HZ, HEARD_MIN);
    assert_heard(&callee.finish(), ALICE_HZ, BOB_HZ, HEARD_MIN);
}

#[test]
#[ignore = "long: a small internet and linphone"]
fn a_native_client_calls_linphone_behind_a_nat() {
    let town = town();
    let mut phone = Linphone::registered(Some(&town.phones[1]), town.folder.path(), "bob-phone", &town.accounts[1], BOB_HZ);
    let (tone, heard) = (town.folder.path().join("alice.wav"), town.folder.path().join("alice-heard.wav"));
    write_tone(&tone, ALICE_HZ, PATIENCE);
    let alice = &*town.alice;
    let call = std::thread::scope(|scope| {
        let (tone, heard) = (tone.display().to_string(), heard.display().to_string());
        let bob = &town.bob.username;
        let call = scope.spawn(move || alice.cli(["call", bob, "--duration", "4", "--play", &tone, "--record", &heard]));
        phone.wait("alice");
        phone.tell("answer");
        phone.wait("ended");
        call.join().expect("no panic")
    });
    assert_eq!(call.ok()["outcome"], "completed");
    assert_heard(&heard, BOB_HZ, ALICE_HZ, HEARD_MIN);
    assert_heard(&phone.finish(), ALICE_HZ, BOB_HZ, HEARD_MIN);
}
