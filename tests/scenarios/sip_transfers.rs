//! Goal: a phone hands its call on, to somebody who is called for it or to somebody whom it has asked before, and the two who are left hear each other, phones as well
//! as native ends. Method: the phone that transfers is a client that says exactly what a phone would; Debian's baresip at the other ends, each with a tone
//! of its own.

use std::time::Duration;

use halloo_protocol::sip::message::Message;
use halloo_tests::audio::assert_heard;
use halloo_tests::linphone::Linphone;
use halloo_tests::phone::{Phone, PhoneAccount, wait_devices};
use halloo_tests::rtp_tone::RtpTone;
use halloo_tests::sip_client::SipClient;
use halloo_tests::{Network, Plan, eventually};

const ALICE_HZ: f64 = 440.0;
const CAROL_HZ: f64 = 660.0;
const BOB_HZ: f64 = 880.0;
const UNHEARD_HZ: f64 = 550.0;

const PATIENCE: Duration = Duration::from_secs(30);

/// How long they are left to talk.
const TALK: Duration = Duration::from_secs(2);

/// Alice, bob and carol, each with an edge and an account of a phone's, all of whose devices bob knows, and carol alice's.
#[track_caller]
fn three_with_accounts() -> (Network, [PhoneAccount; 3]) {
    let edge = || ["--sip", "127.0.0.1:0"];
    let plan = Plan::new(["alice", "bob", "carol"]).args("alice", edge()).args("bob", edge()).args("carol", edge());
    let mut network = plan.start();
    let [alice, bob, carol] = network.users();
    let accounts = [&*alice, bob, carol].map(|user| PhoneAccount::add(user, "udp"));
    for user in [&alice.username, &carol.username] {
        wait_devices(bob, user, 2);
    }
    wait_devices(carol, &alice.username, 2);
    (network, accounts)
}

/// Asks for a transfer of this call, and waits for what comes of it.
#[track_caller]
fn transfer(client: &mut SipClient, call: &(Message, Message), refer_to: &str) -> String {
    let mut refer = client.within("REFER", &call.0, &call.1);
    refer.add("refer-to", refer_to);
    client.send(&refer.to_bytes());
    assert_eq!(client.final_answer(&refer).status(), 202);
    let last =
        client.take("NOTIFY", |notice| notice.get("subscription-state").is_some_and(|state| state.starts_with("terminated")));
    assert_eq!(last.get("event"), Some("refer"));
    String::from_utf8_lossy(&last.body).trim().to_owned()
}

/// An address to refer to that names another dialog of the phone's, as the edge knows it.
fn replacing(to: &str, call: &(Message, Message)) -> String {
    let (invite, answer) = call;
    let id = invite.call_id().replace('@', "%40");
    let (theirs, ours) = (answer.to_tag().expect("a tag"), invite.from_tag());
    format!("<{to}?Replaces={id}%3Bto-tag%3D{theirs}%3Bfrom-tag%3D{ours}>")
}

#[test]
fn a_phone_transfers_its_call_and_the_others_hear_each_other() {
    let (_network, accounts) = three_with_accounts();
    let folder = tempfile::tempdir().expect("a folder");
    let [to_alice, _, to_carol] = accounts.each_ref().map(|account| account.uri.clone());
    let phone = |name, account, hertz| Phone::registered(folder.path(), name, account, hertz, ";answermode=auto");
    let mut at_alice = phone("alice-phone", &accounts[0], ALICE_HZ);
    let mut at_carol = phone("carol-phone", &accounts[2], CAROL_HZ);
    let mut bob = SipClient::new(&accounts[1]);
    bob.register();

    // After a consultation. What names no call of the phone's changes nothing.
    let tone = RtpTone::new(BOB_HZ);
    let first = bob.call(&to_alice, &tone.sdp());
    at_alice.wait("CALL_ESTABLISHED");
    let second = bob.call(&to_carol, &tone.sdp());
    at_carol.wait("CALL_ESTABLISHED");
    let nobodys = format!("<{to_carol}?Replaces=nobodys%3Bto-tag%3D1%3Bfrom-tag%3D2>");
    assert_eq!(transfer(&mut bob, &first, &nobodys), "SIP/2.0 481 Call/Transaction Does Not Exist");
    assert_eq!(transfer(&mut bob, &first, &replacing(&to_carol, &second)), "SIP/2.0 200 OK");
    let ended = [bob.take("BYE", |_| true), bob.take("BYE", |_| true)].map(|bye| bye.call_id().to_owned());
    assert!(ended.contains(&first.0.call_id().to_owned()) && ended.contains(&second.0.call_id().to_owned()), "{ended:?}");
    std::thread::sleep(TALK);
    assert!(!at_alice.has_seen("CALL_CLOSED") && !at_carol.has_seen("CALL_CLOSED"), "they talk on");
    at_alice.tell("hangup", "");
    at_carol.wait("CALL_CLOSED");
    at_alice.wait("CALL_CLOSED");
    assert_heard(&at_alice.heard(), CAROL_HZ, UNHEARD_HZ, Duration::from_secs(1));
    assert_heard(&at_carol.heard(), ALICE_HZ, UNHEARD_HZ, Duration::from_secs(1));

    // Another phone of the account takes the call.
    let first = bob.call(&to_alice, &tone.sdp());
    at_alice.wait("CALL_ESTABLISHED");
    let mut other = SipClient::new(&accounts[1]);
    let mut spoken = RtpTone::new(BOB_HZ);
    let mut take = |replaces: &str| {
        let mut request = other.request("INVITE", &to_alice).with_body("application/sdp", spoken.sdp());
        request.add("require", "replaces");
        request.add("replaces", replaces);
        other.send(&request.to_bytes());
        let asked = other.final_answer(&request);
        let request = other.authorize(request, &asked);
        other.send(&request.to_bytes());
        let answer = other.final_answer(&request);
        (request, answer)
    };
    assert_eq!(take("nobodys;to-tag=1;from-tag=2").1.status(), 481);
    let (id, theirs, ours) = (first.0.call_id(), first.1.to_tag().expect("a tag"), first.0.from_tag());
    assert_eq!(take(&format!("{id};to-tag={theirs};from-tag=another")).1.status(), 481);
    let taken = take(&format!("{id};to-tag={theirs};from-tag={ours}"));
    assert_eq!(taken.1.status(), 200, "{:?}", taken.1);
    let ack = other.within("ACK", &taken.0, &taken.1);
    other.send(&ack.to_bytes());
    assert_eq!(bob.take("BYE", |_| true).call_id(), id);
    spoken.speak_to(&taken.1.body);
    eventually(PATIENCE, "it hears alice", || if spoken.heard() > 50 { Ok(()) } else { Err(spoken.heard().to_string()) });
    std::thread::sleep(TALK);
    let bye = other.within("BYE", &taken.0, &taken.1);
    other.send(&bye.to_bytes());
    assert_eq!(other.final_answer(&bye).status(), 200);
    at_alice.wait("CALL_CLOSED");
    assert_heard(&at_alice.heard(), BOB_HZ, UNHEARD_HZ, Duration::from_secs(1));

    // To somebody who is called for it; the phone hangs up before they answer.
    let first = bob.call(&to_alice, &tone.sdp());
    at_alice.wait("CALL_ESTABLISHED");
    let mut refer = bob.within("REFER", &first.0, &first.1);
    refer.add("refer-to", format!("<{to_carol}>"));
    bob.send(&refer.to_bytes());
    assert_eq!(bob.final_answer(&refer).status(), 202);
    let bye = bob.within("BYE", &first.0, &first.1);
    bob.send(&bye.to_bytes());
    at_carol.wait("CALL_ESTABLISHED");
    std::thread::sleep(TALK);
    assert!(!at_alice.has_seen("CALL_CLOSED"), "they talk on");
    at_carol.tell("hangup", "");
    at_alice.wait("CALL_CLOSED");
    assert_heard(&at_alice.heard(), CAROL_HZ, UNHEARD_HZ, Duration::from_secs(1));
}

#[test]
#[ignore = "long: with a phone that isn't ours, in packages of its own"]
fn linphone_connects_two_of_its_calls() {
    let (_network, accounts) = three_with_accounts();
    let folder = tempfile::tempdir().expect("a folder");
    let phone = |name, account, hertz| Phone::registered(folder.path(), name, account, hertz, ";answermode=auto");
    let mut at_alice = phone("alice-phone", &accounts[0], ALICE_HZ);
    let mut at_carol = phone("carol-phone", &accounts[2], CAROL_HZ);
    let mut bob = Linphone::registered(None, folder.path(), "bob-phone", &accounts[1], BOB_HZ);
    bob.tell(&format!("call {}", accounts[0].uri));
    at_alice.wait("CALL_ESTABLISHED");
    bob.wait("Media streams established with");
    bob.tell("pause 1");
    bob.wait("is now paused");
    bob.tell(&format!("call {}", accounts[2].uri));
    at_carol.wait("CALL_ESTABLISHED");
    // The answer comes to it a moment later than to her.
    bob.wait("for call 2");
    bob.tell("transfer 1 --to-call 2");
    std::thread::sleep(2 * TALK);
    assert!(!at_alice.has_seen("CALL_CLOSED") && !at_carol.has_seen("CALL_CLOSED"), "they talk on: {}", bob.log());
    at_alice.tell("hangup", "");
    at_carol.wait("CALL_CLOSED");
    at_alice.wait("CALL_CLOSED");
    assert_heard(&at_alice.heard(), CAROL_HZ, UNHEARD_HZ, TALK);
    assert_heard(&at_carol.heard(), ALICE_HZ, UNHEARD_HZ, TALK);
}
