//! Goal: a phone's calls hold whatever the way to it: over both families, encrypted or not, from another address in the middle of a call; and one account can't take
//! all there is; and what is pressed is heard. Method: one edge with every kind of listener, and clients that say exactly what a phone would.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use halloo_protocol::sip::message::Message;
use halloo_tests::cli::Invocation;
use halloo_tests::phone::{PhoneAccount, edge_certificate, wait_devices};
use halloo_tests::rtp_tone::RtpTone;
use halloo_tests::sip_client::SipClient;
use halloo_tests::{Plan, User, eventually};

const PATIENCE: Duration = Duration::from_secs(30);

/// Phones of an account that ring or talk at once.
const LEGS_MAX: usize = 24;

/// Media that nobody listens to; with keys if they are to be encrypted.
fn sdp(is_secure: bool) -> String {
    let (profile, keys) = match is_secure {
        false => ("AVP", String::new()),
        true => ("SAVP", format!("a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:{}\r\n", "A".repeat(40))),
    };
    format!("v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio 40000 RTP/{profile} 0\r\n{keys}")
}

/// Registers with these parameters of its address, for so many seconds.
#[track_caller]
fn register(client: &mut SipClient, params: &str, secs: u32) {
    let mut request = client.request("REGISTER", "sip:example");
    let contact = format!("{}{params}", request.get("contact").expect("one"));
    request.set("contact", contact);
    request.add("expires", secs.to_string());
    let answer = client.exchange(request);
    assert_eq!(answer.status(), 200, "{answer:?}");
}

#[track_caller]
fn hang_up(client: &mut SipClient, invite: &Message, answer: &Message) {
    let bye = client.within("BYE", invite, answer);
    client.send(&bye.to_bytes());
    assert_eq!(client.final_answer(&bye).status(), 200);
}

/// Lines for an edge that listens on everything.
fn edge(folder: &Path) -> String {
    let (certificate, key) = edge_certificate(folder);
    format!("[sip]\nlisten = [\"[::]:0\"]\nlisten_tls = [\"127.0.0.1:0\"]\ncertificate = {certificate:?}\nkey = {key:?}\n")
}

/// A phone of IPv4 at a socket of both families is known by its IPv4 address, and is told one. In a call it registers from another port, as behind an address translator
/// that was started anew: what the edge says of the call comes there.
#[track_caller]
fn a_call_follows_its_phone(alice: &User, bob: &User, account: &PhoneAccount) {
    const PHONE: &str = ";+sip.instance=\"<urn:uuid:00000000-0000-0000-0000-000000000001>\";reg-id=1";
    let mut phone = SipClient::new(account);
    register(&mut phone, PHONE, 600);
    let shown = |alice: &User| alice.cli(["sip", "account", "list"]).ok()["accounts"][0]["phones"].clone();
    assert_eq!(shown(alice)[0]["address"], phone.address().as_str());
    let (_, answer) = phone.call(&format!("sip:{}", bob.username), &sdp(false));
    let described = String::from_utf8_lossy(&answer.body).into_owned();
    assert!(described.contains("c=IN IP4 127.0.0.1"), "{described}");
    let mut moved = SipClient::new(account);
    register(&mut moved, PHONE, 600);
    let phones = shown(alice);
    assert_eq!((&phones[0]["address"], phones[1].is_null()), (&moved.address().as_str().into(), true), "{phones}");
    let calls = bob.cli(["calls", "list"]).ok();
    bob.cli(["calls", "hangup", calls["calls"][0]["call_id"].as_str().expect("a call")]).ok();
    assert_eq!(moved.take("BYE", |_| true).call_id(), answer.call_id());
    register(&mut moved, PHONE, 0);
}

/// What is called over TLS is offered SRTP; if the phone has none, plain RTP. What began with SRTP stays so.
#[track_caller]
fn media_are_as_safe_as_signalling(alice: &User, bob: &User, carol: &User, account: &PhoneAccount) {
    let mut phone = SipClient::over_tls(account);
    register(&mut phone, "", 600);
    let dialled = Invocation::new(carol.home()).args(["call", &alice.username]).start();
    let first = phone.next_request("INVITE");
    let offer = String::from_utf8_lossy(&first.body).into_owned();
    assert!(offer.contains("RTP/SAVP ") && offer.contains("a=crypto:"), "{offer}");
    phone.answer(&first, 488, None);
    let second = phone.next_request("INVITE");
    let offer = String::from_utf8_lossy(&second.body).into_owned();
    assert!(offer.contains("RTP/AVP "), "{offer}");
    phone.answer(&second, 200, Some(&sdp(false)));
    assert_eq!(phone.next_request("ACK").call_id(), second.call_id());
    dialled.signal("INT");
    phone.take("BYE", |_| true);
    dialled.wait(PATIENCE);

    let (request, answer) = phone.call(&format!("sip:{}", bob.username), &sdp(true));
    assert!(String::from_utf8_lossy(&answer.body).contains("RTP/SAVP "), "{answer:?}");
    let downgrade = phone.within("INVITE", &request, &answer).with_body("application/sdp", sdp(false));
    phone.send(&downgrade.to_bytes());
    let refused = phone.final_answer(&downgrade);
    assert_eq!(refused.status(), 488, "{refused:?}");
    assert!(refused.get("warning").is_some_and(|warning| warning.starts_with("302")), "{refused:?}");
    // The call goes on as it was.
    let same = phone.within("INVITE", &request, &answer).with_body("application/sdp", sdp(true));
    phone.send(&same.to_bytes());
    let kept = phone.final_answer(&same);
    assert_eq!(kept.status(), 200, "{kept:?}");
    let ack = phone.within_at("ACK", &request, &answer, same.cseq().expect("a number").0);
    phone.send(&ack.to_bytes());
    hang_up(&mut phone, &request, &answer);
    register(&mut phone, "", 0);
}

/// Three calls at ten phones are more than an account may have: the last rings at four, and a phone's own call is refused.
#[track_caller]
fn an_account_has_its_share(alice: &User, callers: [&User; 3], account: &PhoneAccount) {
    let mut phone = SipClient::new(account);
    let mut request = phone.request("REGISTER", "sip:example");
    let own = format!("sip:{}@{}", account.username, phone.address());
    request.set("contact", (0..10).map(|n| format!("<{own};n={n}>")).collect::<Vec<_>>().join(", "));
    request.add("expires", "600");
    assert_eq!(phone.exchange(request).status(), 200);
    let dialled = callers.map(|caller| Invocation::new(caller.home()).args(["call", &alice.username]).start());
    let mut ringing = BTreeSet::new();
    let deadline = Instant::now() + PATIENCE;
    while ringing.len() < LEGS_MAX && Instant::now() < deadline {
        let Some(invite) = phone.receive_within(Duration::from_millis(200)).filter(|seen| seen.is_request()) else { continue };
        assert_eq!(invite.method(), "INVITE");
        phone.answer(&invite, 180, None);
        ringing.insert(invite.call_id().to_owned());
    }
    assert_eq!(ringing.len(), LEGS_MAX);
    let refused = phone.invite("sip:bob@example", &sdp(false));
    let refused = phone.final_answer(&refused);
    assert_eq!((refused.status(), refused.reason()), (503, "This account has too many calls"), "{refused:?}");
    for call in dialled {
        call.signal("INT");
        call.wait(PATIENCE);
    }
}

/// Addresses of one phone: its user's with the phone, good from everywhere, and another each time that doesn't say whose it is, good from this edge; as long as the
/// phone is registered. It rings alone.
#[track_caller]
fn a_phone_has_addresses_of_its_own([alice, bob, carol]: [&User; 3], account: &PhoneAccount, erins: &PhoneAccount) {
    const PHONE: &str = ";+sip.instance=\"<urn:uuid:00000000-0000-0000-0000-00000000000a>\"";
    const OWN: &str = "sip:alice@example;gr=urn:uuid:00000000-0000-0000-0000-00000000000a";
    let (mut phone, mut erin) = (SipClient::new(account), SipClient::new(erins));
    // Her other phone, which nobody is to hear of all this, nor is her computer.
    let mut other = SipClient::new(account);
    register(&mut other, ";+sip.instance=\"<urn:uuid:00000000-0000-0000-0000-00000000000b>\"", 600);
    let rung_before = alice.events().into_iter().filter(|event| event["event"] == "call_incoming").count();
    let [first, second] = [600, 600].map(|secs| {
        let mut request = phone.request("REGISTER", "sip:example");
        let contact = format!("{}{PHONE}", request.get("contact").expect("one"));
        request.set("contact", contact);
        request.add("supported", "gruu");
        request.add("expires", secs.to_string());
        let answer = phone.exchange(request);
        let contacts = answer.contacts().expect("addresses");
        let contact = contacts.into_iter().find(|contact| contact.param("pub-gruu") == Some(OWN)).expect("its own");
        contact.param("temp-gruu").expect("one").trim_start_matches("sip:").to_owned()
    });
    assert_ne!(first, second);
    for address in [&first, &second] {
        assert!(address.starts_with("tgruu.") && address.ends_with("@example;gr") && !address.contains("alice"), "{address}");
    }
    for address in [first, second.clone(), OWN.trim_start_matches("sip:").to_owned()] {
        let sent = erin.invite(&format!("sip:{address}"), &sdp(false));
        let rung = phone.next_request("INVITE");
        assert!(rung.get("p-asserted-identity").is_some_and(|caller| caller.contains("sip:erin@example")), "{rung:?}");
        phone.answer(&rung, 603, None);
        assert_eq!(erin.final_answer(&sent).status(), 603);
    }
    // From a native device far away as well; and a call that is handed to it.
    let instance = OWN.split_once("gr=").expect("one").1;
    let call_it = |whom: &str| Invocation::new(carol.home()).args(["call", whom, "--phone", instance]).start();
    let dialled = call_it(&alice.username);
    let rung = phone.next_request("INVITE");
    assert!(rung.get("p-asserted-identity").is_some_and(|caller| caller.contains("sip:carol@example")), "{rung:?}");
    phone.answer(&rung, 486, None);
    assert_eq!(dialled.wait(PATIENCE).json()["reason"], "declined");
    let call = erin.call(&format!("sip:{}", bob.username), &sdp(false));
    let mut refer = erin.within("REFER", &call.0, &call.1);
    refer.add("refer-to", format!("<{OWN}>"));
    erin.send(&refer.to_bytes());
    assert_eq!(erin.final_answer(&refer).status(), 202);
    let rung = phone.next_request("INVITE");
    phone.answer(&rung, 486, None);
    erin.take("NOTIFY", |notice| notice.get("subscription-state").is_some_and(|state| state.starts_with("terminated")));
    hang_up(&mut erin, &call.0, &call.1);

    register(&mut phone, PHONE, 0);
    let mut changed = second.clone();
    changed.insert(20, 'a');
    for (gone, status) in [(second.as_str(), 404), (&changed, 404), (OWN.trim_start_matches("sip:"), 480)] {
        let sent = erin.invite(&format!("sip:{gone}"), &sdp(false));
        assert_eq!(erin.final_answer(&sent).status(), status, "{gone}");
    }
    for nowhere in [&alice.username, &bob.username] {
        let ended = call_it(nowhere).wait(PATIENCE).json();
        assert_eq!(
            (&ended["outcome"], &ended["reason"]),
            (&"unreachable".into(), &"the phone isn't registered".into()),
            "{ended}"
        );
    }
    let asked = other.request("OPTIONS", "sip:example");
    other.send(&asked.to_bytes());
    let heard = other.receive_within(PATIENCE).expect("an answer");
    assert!(!heard.is_request(), "the other phone has rung: {heard:?}");
    let rung = alice.events().into_iter().filter(|event| event["event"] == "call_incoming").count();
    assert_eq!(rung, rung_before, "nor has the computer");
    register(&mut other, ";+sip.instance=\"<urn:uuid:00000000-0000-0000-0000-00000000000b>\"", 0);
}

/// What is pressed at a phone, among its audio or told by INFO, is told at a native end, and the other way round; where audio goes on.
#[track_caller]
fn keys_go_both_ways(bob: &User, account: &PhoneAccount) {
    let (mut phone, mut tone) = (SipClient::new(account), RtpTone::new(440.0));
    let (request, answer) = phone.call(&format!("sip:{}", bob.username), &tone.sdp_with_keys());
    let described = String::from_utf8_lossy(&answer.body).into_owned();
    assert!(described.contains("telephone-event/8000"), "{described}");
    tone.speak_to(&answer.body);
    eventually(PATIENCE, "audio comes", || if tone.heard() > 10 { Ok(()) } else { Err(tone.heard().to_string()) });
    tone.press("19#");
    let told = ["1", "9", "#"].map(|key| bob.wait_event(PATIENCE, "call_key", |event| event["key"] == key));
    let call_id = told[0]["call_id"].as_str().expect("a call");
    let mut info = |kind: &str, body: &str| {
        let info = phone.within("INFO", &request, &answer).with_body(kind, body);
        phone.send(&info.to_bytes());
        phone.final_answer(&info).status()
    };
    assert_eq!(info("application/dtmf-relay", "Signal=7\r\nDuration=160\r\n"), 200);
    assert_eq!(info("application/dtmf-relay", "Signal=77\r\n"), 400);
    bob.wait_event(PATIENCE, "call_key", |event| event["key"] == "7");

    bob.cli(["calls", "press", call_id, "42*"]).ok();
    assert_eq!(bob.cli(["calls", "press", call_id, "4x"]).code, 2);
    eventually(PATIENCE, "the phone has the keys", || if tone.pressed() == "42*" { Ok(()) } else { Err(tone.pressed()) });
    let before = tone.heard();
    eventually(PATIENCE, "audio goes on", || if tone.heard() > before + 10 { Ok(()) } else { Err(tone.heard().to_string()) });
    hang_up(&mut phone, &request, &answer);
    let pressed: Vec<_> = bob.events().into_iter().filter(|event| event["event"] == "call_key").collect();
    assert_eq!(pressed.len(), 4, "each once: {pressed:?}");
}

#[test]
fn a_phones_calls_hold_whatever_the_way_to_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let plan = Plan::new(["alice", "bob", "carol", "dave"]).config("alice", &edge(folder.path()));
    let mut network = plan.args("bob", ["--answer", "auto"]).start();
    let code = network.invite();
    let [alice, bob, carol, dave] = network.users();
    let erin = alice.cli(["sip", "account", "add", "erin@example", "--invite", &code]).ok();
    let made = alice.cli(["sip", "account", "add"]).ok();
    let mut account = PhoneAccount::of(&made, "udp");
    account.server = format!("sip:127.0.0.1:{};transport=udp", account.address().port());
    wait_devices(carol, &alice.username, 2);
    a_call_follows_its_phone(alice, bob, &account);
    keys_go_both_ways(bob, &account);
    let mut erin = PhoneAccount::of(&erin, "udp");
    erin.server.clone_from(&account.server);
    wait_devices(alice, "erin@example", 1);
    a_phone_has_addresses_of_its_own([alice, bob, carol], &account, &erin);
    media_are_as_safe_as_signalling(alice, bob, carol, &PhoneAccount::of(&made, "tls"));
    an_account_has_its_share(alice, [bob, carol, dave], &account);
}
