//! Goal: what a called phone says while it rings is heard by whoever calls, a phone or a native client, and nothing of theirs reaches it before it answers; what
//! is said of it is acknowledged where the phone wants that. Method: a client that rings with a description (183) and speaks a tone; Debian's baresip and `halloo call` at the other end.

use std::time::Duration;

use halloo_protocol::sip::message::Message;
use halloo_tests::audio::assert_heard;
use halloo_tests::cli::Invocation;
use halloo_tests::phone::{Phone, PhoneAccount, wait_devices};
use halloo_tests::rtp_tone::RtpTone;
use halloo_tests::sip_client::SipClient;
use halloo_tests::{Plan, eventually};

const PATIENCE: Duration = Duration::from_secs(30);
const ALICE_HZ: f64 = 440.0;
const BOB_HZ: f64 = 660.0;
const LISTENS: Duration = Duration::from_secs(2);

fn edge() -> [&'static str; 2] {
    ["--sip", "127.0.0.1:0"]
}

/// It rings, and says something.
#[track_caller]
fn rings_early(client: &SipClient) -> (Message, RtpTone) {
    let invite = client.next_request("INVITE");
    let mut tone = RtpTone::new(BOB_HZ);
    client.answer(&invite, 183, Some(&tone.sdp()));
    tone.speak_to(&invite.body);
    (invite, tone)
}

/// What comes for a client until an answer with this status to its INVITE does; it comes again until it is acknowledged.
#[track_caller]
fn wait_status(client: &SipClient, status: u16) -> Message {
    let mut passed = Vec::new();
    for _ in 0..100 {
        let Some(message) = client.receive_within(Duration::from_millis(200)) else { continue };
        if !message.is_request() && message.method() == "INVITE" && message.status() == status {
            return message;
        }
        passed.push(message);
    }
    panic!("no {status}: {passed:#?}");
}

/// A phone that requires it acknowledges provisional answers (RFC 3262), and so does the edge those of a phone.
#[track_caller]
fn acknowledges_what_rings(accounts: &[PhoneAccount; 2], callee: &SipClient) {
    let mut caller = SipClient::new(&accounts[0]);
    let spoken = RtpTone::new(ALICE_HZ);
    let mut request = caller.request("INVITE", &accounts[1].uri);
    request.add("require", "100rel");
    // Without an offer the first of them would have to have one.
    assert_eq!(caller.exchange(request.clone()).get("unsupported"), Some("100rel"));
    let mut request = caller.request("INVITE", &accounts[1].uri).with_body("application/sdp", spoken.sdp());
    request.add("require", "100rel");
    caller.send(&request.to_bytes());
    let asked = caller.final_answer(&request);
    let request = caller.authorize(request, &asked);
    caller.send(&request.to_bytes());

    // The edge acknowledges what a phone says, and has what it says while it rings of it.
    let invite = callee.next_request("INVITE");
    assert!(invite.lists("supported", "100rel"), "{invite:?}");
    let tone = RtpTone::new(BOB_HZ);
    let mut ringing = Message::answer(&invite, 183, "Session Progress", Some("here"));
    for (name, value) in
        [("contact", format!("<sip:bob@{}>", callee.address())), ("require", "100rel".into()), ("rseq", "31".into())]
    {
        ringing.add(name, value);
    }
    callee.send(&ringing.with_body("application/sdp", tone.sdp()).to_bytes());
    assert_eq!(callee.take("PRACK", |_| true).get("rack"), Some("31 1 INVITE"));

    let acknowledge = |caller: &mut SipClient, answer: &Message| {
        let mut prack = caller.within("PRACK", &request, answer);
        let (number, invite) = (answer.get("rseq").unwrap_or_default(), request.cseq().expect("one").0);
        prack.add("rack", format!("{number} {invite} INVITE"));
        caller.send(&prack.to_bytes());
        caller.final_answer(&prack).status()
    };
    let rings = wait_status(&caller, 180);
    assert!(rings.lists("require", "100rel"));
    assert_eq!(acknowledge(&mut caller, &rings), 200);
    let described = wait_status(&caller, 183);
    let number = |answer: &Message| answer.get("rseq").and_then(|number| number.parse::<u32>().ok()).expect("a number");
    assert_eq!(number(&described), number(&rings) + 1);
    assert!(!described.body.is_empty(), "{described:?}");
    // It comes again, and the answer waits for it.
    callee.answer(&invite, 200, Some(&tone.sdp()));
    assert_eq!(callee.next_request("ACK").cseq().expect("one").0, 1);
    assert_eq!(wait_status(&caller, 183).get("rseq"), described.get("rseq"));
    assert_eq!(acknowledge(&mut caller, &described), 200);
    let answer = wait_status(&caller, 200);
    assert!(answer.body.is_empty(), "what was acknowledged isn't said again: {answer:?}");
    let ack = caller.within("ACK", &request, &answer);
    caller.send(&ack.to_bytes());
    let bye = caller.within("BYE", &request, &answer);
    caller.send(&bye.to_bytes());
    assert_eq!(caller.final_answer(&bye).status(), 200);
    callee.take("BYE", |_| true);
}

#[test]
fn a_called_phone_is_heard_while_it_rings_and_hears_nothing_before_it_answers() {
    let mut network = Plan::new(["alice", "bob"]).args("alice", edge()).args("bob", edge()).start();
    let folder = tempfile::tempdir().expect("a folder");
    network.befriend(&network.users[0], &network.users[1]);
    let [alice, bob] = network.users();
    let accounts = [PhoneAccount::add(alice, "udp"), PhoneAccount::add(bob, "udp")];
    wait_devices(alice, &bob.username, 2);
    let mut callee = SipClient::new(&accounts[1]);
    callee.register();
    // Contacts alone are heard while it rings, and a new account learns who those are from its user's other devices.
    let mut subscribe = callee.request("SUBSCRIBE", &accounts[0].uri);
    subscribe.add("event", "presence");
    subscribe.add("expires", "600");
    assert_eq!(callee.exchange(subscribe).status(), 200);
    callee.take("NOTIFY", |notice| notice.get("subscription-state").is_some_and(|state| state.starts_with("active")));

    // A phone calls.
    let mut caller = Phone::registered(folder.path(), "alice-phone", &accounts[0], ALICE_HZ, "");
    caller.tell("dial", &accounts[1].uri);
    let (invite, tone) = rings_early(&callee);
    caller.wait("CALL_PROGRESS");
    std::thread::sleep(LISTENS);
    assert!(!caller.has_seen("CALL_ESTABLISHED"));
    assert_eq!(tone.heard(), 0, "nobody has answered");
    callee.answer(&invite, 200, Some(&tone.sdp()));
    caller.wait("CALL_ESTABLISHED");
    eventually(PATIENCE, "the phone that has answered hears the caller", || {
        if tone.heard() > 50 { Ok(()) } else { Err(tone.heard().to_string()) }
    });
    caller.tell("hangup", "");
    callee.take("BYE", |_| true);
    drop(tone);
    assert_heard(&caller.heard(), BOB_HZ, ALICE_HZ, LISTENS);

    acknowledges_what_rings(&accounts, &callee);

    // A native client calls, and gives up: it has heard the tone all the same.
    let heard = folder.path().join("heard.wav");
    let record = heard.display().to_string();
    let call = Invocation::new(alice.home()).args(["call", &bob.username, "--record", &record]).start();
    let (invite, tone) = rings_early(&callee);
    std::thread::sleep(LISTENS);
    assert_eq!(tone.heard(), 0);
    call.signal("INT");
    let cancel = callee.next_request("CANCEL");
    callee.answer(&cancel, 200, None);
    callee.answer(&invite, 487, None);
    call.wait(PATIENCE);
    assert_heard(&heard, BOB_HZ, ALICE_HZ, LISTENS / 2);
}
