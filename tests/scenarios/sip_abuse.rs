//! Goal: what a phone says of itself counts for nothing, who has no password gets a challenge and no more, and who guesses is banned. Method: a client
//! that says what it likes.

use std::time::Duration;

use halloo_protocol::sip::message::Message;
use halloo_tests::phone::PhoneAccount;
use halloo_tests::sip_client::SipClient;
use halloo_tests::{Plan, User};

const SDP: &str = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio 40000 RTP/AVP 0\r\n";

fn invite(client: &mut SipClient, to: &User) -> Message {
    client.request("INVITE", &format!("sip:{}", to.username)).with_body("application/sdp", SDP)
}

#[test]
fn a_phone_speaks_for_its_account_alone() {
    let mut network = Plan::new(["alice", "bob"]).args("alice", ["--sip", "127.0.0.1:0"]).start();
    let [alice, bob] = network.users();
    let account = PhoneAccount::add(alice, "udp");
    let mut client = SipClient::new(&account);

    // Another's name in From, with an own password: no call, no registration.
    let mut liar = invite(&mut client, bob);
    liar.set("from", "<sip:bob@example>;tag=x");
    assert!(matches!(client.exchange(liar).status(), 403 | 407), "bob has no account here: alice's password opens nothing");
    let mut liar = client.request("REGISTER", "sip:example");
    liar.set("to", "<sip:bob@example>");
    liar.set("from", "<sip:bob@example>;tag=x");
    assert!(matches!(client.exchange(liar).status(), 401 | 403));
    let mut liar = client.request("REGISTER", "sip:example");
    liar.set("from", "<sip:bob@example>;tag=x");
    assert_eq!(client.exchange(liar).status(), 403);

    // Another's name where it is worth nothing: the call is alice's.
    let mut call = invite(&mut client, bob);
    call.add("p-asserted-identity", "\"Bob\" <sip:bob@example>");
    call.add("p-preferred-identity", "<sip:bob@example>");
    call.add("remote-party-id", "<sip:bob@example>");
    call.set("contact", format!("<sip:bob@{}>", client.address()));
    call.set("from", "\"Bob\" <sip:alice@example>;tag=x");
    client.send(&call.to_bytes());
    let asked = client.final_answer(&call);
    let call = client.authorize(call, &asked);
    client.send(&call.to_bytes());
    let ringing = bob.wait_event(Duration::from_secs(20), "call_incoming", |_| true);
    assert_eq!(ringing["from"], "alice@example", "{ringing}");

    // Taken back while it rings.
    let mut cancel = Message::request("CANCEL", call.request_uri());
    for name in ["via", "from", "to", "call-id", "max-forwards"] {
        cancel.add(name, call.get(name).expect("it has one"));
    }
    let number = call.cseq().expect("a number").0;
    cancel.add("cseq", format!("{number} CANCEL"));
    client.send(&cancel.to_bytes());
    assert_eq!(client.final_answer(&cancel).status(), 200);
    bob.wait_event(Duration::from_secs(20), "call_ended", |event| event["call_id"] == ringing["call_id"]);
}

#[test]
fn who_has_no_password_gets_a_challenge_and_who_guesses_is_banned() {
    let mut network = Plan::new(["alice"]).args("alice", ["--sip", "127.0.0.1:0"]).start();
    let [alice] = network.users();
    let account = PhoneAccount::add(alice, "udp");
    let mut client = SipClient::new(&account);
    for method in ["REGISTER", "INVITE", "OPTIONS", "MESSAGE", "SUBSCRIBE", "PUBLISH", "INFO", "BYE", "NONSENSE"] {
        let request = client.request(method, "sip:alice@example");
        client.send(&request.to_bytes());
        let answer = client.final_answer(&request);
        assert!(matches!(answer.status(), 401 | 407), "{method}: {}", answer.status());
    }
    // Who isn't there is not told from who is.
    let mut nobody = client.request("REGISTER", "sip:example");
    nobody.set("to", "<sip:nobody@example>");
    assert_eq!(client.exchange(nobody).status(), 401);

    let good = client.request("REGISTER", "sip:example");
    assert_eq!(client.exchange(good).status(), 200);
    let brief = client.request("REGISTER", "sip:example");
    let mut brief = brief;
    brief.add("expires", "10");
    let refused = client.exchange(brief);
    assert_eq!((refused.status(), refused.get("min-expires")), (423, Some("60")));

    let wrong = PhoneAccount { password: "guess".to_owned(), ..account.clone() };
    let mut scanner = SipClient::new(&wrong);
    for _ in 0..10 {
        let request = scanner.request("REGISTER", "sip:example");
        scanner.send(&request.to_bytes());
        let Some(asked) = scanner.receive_within(Duration::from_secs(2)) else { break };
        let guess = scanner.authorize(request, &asked);
        scanner.send(&guess.to_bytes());
        while scanner.receive_within(Duration::from_millis(100)).is_some() {}
    }
    let request = scanner.request("REGISTER", "sip:example");
    scanner.send(&request.to_bytes());
    assert_eq!(scanner.receive_within(Duration::from_secs(2)), None, "it is banned");
    assert_eq!(alice.cli(["sip", "account", "list"]).ok()["banned"], 1);
}
