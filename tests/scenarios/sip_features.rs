//! Goal: what people do with telephones works through the edge: several of one account, holding, transferring, encrypted signalling, accounts for
//! others, a restart in between. Method: clients that say exactly what a phone would, and baresip where it can do it.

use std::time::Duration;

use halloo_tests::linking::Linking;
use halloo_tests::phone::{Phone, PhoneAccount, edge_certificate, wait_devices};
use halloo_tests::sip_client::SipClient;
use halloo_tests::{Plan, eventually};

const PATIENCE: Duration = Duration::from_secs(30);

/// Media that nobody listens to.
fn sdp(direction: &str) -> String {
    format!(
        "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio 40000 RTP/AVP 0\r\na={direction}\r\n"
    )
}

#[track_caller]
fn registered(account: &PhoneAccount) -> SipClient {
    let mut client = SipClient::new(account);
    client.register();
    client
}

#[test]
fn the_first_of_two_phones_answers_also_after_the_node_was_killed() {
    let mut network = Plan::new(["alice", "bob"]).args("bob", ["--sip", "127.0.0.1:0"]).start();
    let [alice, bob] = network.users();
    let account = PhoneAccount::add(bob, "udp");
    let mut phones = [registered(&account), registered(&account)];
    wait_devices(alice, &bob.username, 2);
    let kept = bob.home().join("sip/bindings.json");
    eventually(PATIENCE, "both registrations are kept", || {
        let text = std::fs::read_to_string(&kept).map_err(|error| error.to_string())?;
        let is_there = phones.iter().all(|phone| text.contains(&phone.address()));
        if is_there { Ok(()) } else { Err(text) }
    });
    // It comes back at the port that its phones know.
    bob.kill();
    let address = account.address().to_string();
    bob.restart_with(&["--sip", &address]);
    let listed = bob.cli(["sip", "account", "list"]).ok();
    assert_eq!(listed["accounts"][0]["phones"].as_array().map(Vec::len), Some(2), "{listed}");

    let outcome = std::thread::scope(|scope| {
        let call = scope.spawn(|| alice.cli(["call", &bob.username, "--duration", "1"]));
        let invites = phones.each_ref().map(|phone| phone.next_request("INVITE"));
        for (phone, invite) in phones.iter().zip(&invites) {
            phone.answer(invite, 180, None);
        }
        phones[0].answer(&invites[0], 200, Some(&sdp("sendrecv")));
        assert_eq!(phones[0].next_request("ACK").call_id(), invites[0].call_id());
        let cancel = phones[1].next_request("CANCEL");
        assert_eq!(cancel.get("reason"), Some("SIP;cause=200;text=\"Call completed elsewhere\""));
        phones[1].answer(&cancel, 200, None);
        phones[1].answer(&invites[1], 487, None);
        let bye = phones[0].next_request("BYE");
        phones[0].answer(&bye, 200, None);
        call.join().expect("no panic")
    });
    assert_eq!(outcome.ok()["outcome"], "completed");

    // What the phones have is worth something still: one of them calls.
    let [_, phone] = &mut phones;
    let request = phone.request("OPTIONS", "sip:example");
    assert_eq!(phone.exchange(request).status(), 200);
}

#[test]
fn a_phone_holds_goes_on_and_transfers() {
    let mut network =
        Plan::new(["alice", "bob", "carol"]).args("alice", ["--sip", "127.0.0.1:0"]).args("bob", ["--answer", "auto"]).start();
    let [alice, bob, carol] = network.users();
    let account = PhoneAccount::add(alice, "udp");
    let mut phone = registered(&account);
    let (invite, answer) = phone.call(&format!("sip:{}", bob.username), &sdp("sendrecv"));
    for (direction, expected) in [("sendonly", "a=recvonly"), ("inactive", "a=inactive"), ("sendrecv", "a=sendrecv")] {
        let request = phone.within("INVITE", &invite, &answer).with_body("application/sdp", sdp(direction));
        phone.send(&request.to_bytes());
        let held = phone.final_answer(&request);
        let text = String::from_utf8_lossy(&held.body).into_owned();
        assert!(held.status() == 200 && text.contains(expected), "{direction}: {held:?} {text}");
        let ack = phone.within_at("ACK", &invite, &answer, request.cseq().expect("a number").0);
        phone.send(&ack.to_bytes());
    }

    let mut refer = phone.within("REFER", &invite, &answer);
    refer.add("refer-to", format!("<sip:{}>", carol.username));
    phone.send(&refer.to_bytes());
    assert_eq!(phone.final_answer(&refer).status(), 202);
    let notice = phone.next_request("NOTIFY");
    assert!(notice.body.starts_with(b"SIP/2.0 100"), "{notice:?}");
    phone.answer(&notice, 200, None);
    let ringing = carol.wait_event(PATIENCE, "call_incoming", |_| true);
    carol.cli(["calls", "answer", ringing["call_id"].as_str().expect("an id")]).ok();
    let notice = phone.next_request("NOTIFY");
    assert!(notice.body.starts_with(b"SIP/2.0 200"), "{notice:?}");
    phone.answer(&notice, 200, None);
    let bye = phone.next_request("BYE");
    phone.answer(&bye, 200, None);
}

#[test]
#[ignore = "long: the parts have tests of their own"]
fn accounts_of_others_and_encrypted_signalling() {
    let folder = tempfile::tempdir().expect("a folder");
    let (certificate, key) = edge_certificate(folder.path());
    let sip = format!(
        "[sip]\nlisten = [\"127.0.0.1:0\"]\nlisten_tls = [\"127.0.0.1:0\"]\ncertificate = {certificate:?}\nkey = {key:?}\n"
    );
    let mut network = Plan::new(["alice", "bob"]).config("alice", &sip).args("bob", ["--answer", "auto"]).start();
    let invite = network.invite();
    let [alice, bob] = network.users();

    // A new user, whose words are shown once.
    let made = alice.cli(["sip", "account", "add", "carol@example", "--invite", &invite]).ok();
    assert_eq!(made["recovery_phrase"].as_str().map(|words| words.split(' ').count()), Some(24), "{made}");
    let carol = PhoneAccount::of(&made, "tls");
    let mut phone = Phone::registered(folder.path(), "carol-phone", &carol, 440.0, "");
    let listed = alice.cli(["sip", "account", "list"]).ok();
    assert_eq!(listed["accounts"][0]["phones"][0]["transport"], "tls", "{listed}");
    phone.tell("dial", &format!("sip:{}", bob.username));
    phone.wait("CALL_ESTABLISHED");
    let seen = bob.wait_event(PATIENCE, "call_incoming", |_| true);
    assert_eq!(seen["from"], "carol@example", "{seen}");
    phone.tell("hangup", "");
    phone.wait("CALL_CLOSED");

    // A device of somebody else's, who shows a link.
    let linking = Linking::start(bob, &[]);
    let made = alice.cli(["sip", "account", "add", "--link", &linking.link()]).ok();
    assert_eq!(linking.finish().1, 0);
    assert_eq!(made["account"], bob.username.as_str());
    registered(&PhoneAccount::of(&made, "udp"));
    // A second one of the same user isn't told apart from the first.
    let again = alice.cli(["sip", "account", "add", "carol@example", "--invite", "nonsense"]);
    assert_ne!(again.code, 0, "{again:?}");
}
