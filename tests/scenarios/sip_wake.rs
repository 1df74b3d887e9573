//! Goal: a phone whose app sleeps is woken through the gateway (RFC 8599) for calls and messages, and rings. Method: clients that say exactly what an app would,
//! and linphone, which is started when the push comes; the push service and the check of the gateway's token share no code with Halloo.

use std::time::{Duration, Instant};

use halloo_protocol::sip::message::Message;
use halloo_tests::cli::Invocation;
use halloo_tests::linking::Linking;
use halloo_tests::linphone::Linphone;
use halloo_tests::network::AUTHORITY;
use halloo_tests::phone::{PhoneAccount, wait_devices};
use halloo_tests::sip_client::SipClient;
use halloo_tests::webpush::PushService;
use halloo_tests::{Plan, User, eventually};

const PATIENCE: Duration = Duration::from_secs(30);

const SDP: &str =
    "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio 40000 RTP/AVP 0\r\na=sendrecv\r\n";

fn webpush(service: &PushService) -> String {
    format!("pn-provider=webpush;pn-prid={}/push/a-phone", service.origin)
}

/// Registers with these parameters; the answer.
fn register(client: &mut SipClient, params: &str) -> Message {
    let mut request = client.request("REGISTER", "sip:example");
    request.add("expires", "600");
    request.set("contact", format!("<sip:bob@{};transport=tcp;{params}>", client.address()));
    client.exchange(request)
}

/// Registers as soon as the edge knows a gateway, and hangs up its connection: it sleeps. Gives the key that it would subscribe for.
fn fall_asleep(account: &PhoneAccount, params: &str) -> String {
    let mut key = String::new();
    eventually(PATIENCE, "the edge offers web push", || {
        let mut client = SipClient::over_tcp(account);
        let answer = register(&mut client, params);
        assert_eq!(answer.status(), 200, "{answer:?}");
        let offered = answer.get("feature-caps").ok_or("nothing is offered yet")?;
        assert!(offered.starts_with("*;+sip.pns=\"webpush\""), "{offered}");
        key = offered.split("+sip.vapid=\"").nth(1).ok_or(offered)?.trim_end_matches('"').to_owned();
        Ok::<(), String>(())
    });
    key
}

fn phones(bob: &User) -> usize {
    let listed = bob.cli(["sip", "account", "list"]).ok();
    listed["accounts"][0]["phones"].as_array().map_or(0, Vec::len)
}

#[test]
fn a_phone_that_sleeps_is_woken_and_rings_also_after_the_edge_was_killed() {
    let mut network = Plan::new(["alice", "bob"]).args("bob", ["--sip", "127.0.0.1:0"]).start();
    let [alice, bob] = network.users();
    let (account, service) = (PhoneAccount::add(bob, "tcp"), PushService::start());
    let params = webpush(&service);
    let key = fall_asleep(&account, &params);
    let mut client = SipClient::over_tcp(&account);
    let query = register(&mut client, "pn-provider");
    assert_eq!((query.status(), query.list("feature-caps").len()), (200, 1), "{query:?}");
    for (params, status) in
        [("pn-provider=acme;pn-prid=1", 555), ("pn-provider=fcm;pn-param=p;pn-prid=1", 555), ("pn-prid=1", 400)]
    {
        let refused = register(&mut client, params);
        assert_eq!(refused.status(), status, "{refused:?}");
        assert_eq!(refused.get("feature-caps").is_some(), status == 555, "{refused:?}");
    }
    drop(client);
    eventually(PATIENCE, "only the one that can be woken is left", || match phones(bob) {
        1 => Ok(()),
        other => Err(format!("{other} phones")),
    });
    wait_devices(alice, &bob.username, 2);
    bob.kill();
    let address = account.address().to_string();
    bob.restart_with(&["--sip", &address]);
    assert_eq!(phones(bob), 1, "it is known still");

    let outcome = std::thread::scope(|scope| {
        let call = scope.spawn(|| alice.cli(["call", &bob.username, "--duration", "1"]));
        let push = service.messages.recv_timeout(PATIENCE).expect("the phone is woken");
        assert_eq!(push.is_empty_of(&service), key, "the gateway that the phone was told of");
        let woken = Instant::now();
        let mut phone = SipClient::over_tcp(&account);
        assert_eq!(register(&mut phone, &params).status(), 200);
        let invite = phone.next_request("INVITE");
        eprintln!("from the push to ringing: {:?}", woken.elapsed());
        assert!(invite.get("p-asserted-identity").is_some_and(|caller| caller.contains(&alice.username)), "{invite:?}");
        phone.answer(&invite, 180, None);
        phone.answer(&invite, 200, Some(SDP));
        assert_eq!(phone.next_request("ACK").call_id(), invite.call_id());
        let bye = phone.next_request("BYE");
        phone.answer(&bye, 200, None);
        call.join().expect("no panic")
    });
    assert_eq!(outcome.ok()["outcome"], "completed");
}

#[test]
fn messages_wake_a_phone_once_and_one_that_cannot_be_woken_is_forgotten() {
    let mut network = Plan::new(["alice", "bob"]).args("bob", ["--sip", "127.0.0.1:0"]).start();
    let [alice, bob] = network.users();
    let (account, service, gone) = (PhoneAccount::add(bob, "tcp"), PushService::start(), PushService::start_gone());
    wait_devices(alice, &bob.username, 2);
    fall_asleep(&account, &webpush(&service));
    fall_asleep(&account, &webpush(&gone));
    eventually(PATIENCE, "both sleep", || match phones(bob) {
        2 => Ok(()),
        other => Err(format!("{other} phones")),
    });
    let texts = ["one", "two", "three"];
    for text in texts {
        alice.cli(["msg", "send", &bob.username, text]).ok();
    }
    drop(service.messages.recv_timeout(PATIENCE).expect("the phone is woken"));
    drop(gone.refused.recv_timeout(PATIENCE).expect("so is the other"));
    eventually(PATIENCE, "what can't be woken is forgotten", || match phones(bob) {
        1 => Ok(()),
        other => Err(format!("{other} phones")),
    });
    let mut phone = SipClient::over_tcp(&account);
    assert_eq!(register(&mut phone, &webpush(&service)).status(), 200);
    for text in texts {
        phone.take("MESSAGE", |message| message.body == text.as_bytes());
    }
    assert!(service.messages.try_recv().is_err(), "one push for all of them");
}

#[test]
#[ignore = "long: linphone"]
fn linphone_starts_when_the_push_comes_and_rings() {
    let mut network = Plan::new(["alice", "bob"]).args("bob", ["--sip", "127.0.0.1:0"]).start();
    let folder = tempfile::tempdir().expect("a folder");
    let [alice, bob] = network.users();
    let (account, service) = (PhoneAccount::add(bob, "tcp"), PushService::start());
    let params = webpush(&service);
    fall_asleep(&account, &params);
    let start = || Linphone::registered_with(None, folder.path(), "bob-phone", &account, 440.0, &params);
    drop(start());
    wait_devices(alice, &bob.username, 2);
    eventually(PATIENCE, "the app of before and linphone are one", || match phones(bob) {
        1 => Ok(()),
        other => Err(format!("{other} phones")),
    });
    let outcome = std::thread::scope(|scope| {
        let call = scope.spawn(|| alice.cli(["call", &bob.username, "--duration", "2"]));
        let push = service.messages.recv_timeout(PATIENCE).expect("the phone is woken");
        drop(push.is_empty_of(&service));
        let mut phone = start();
        phone.wait("alice");
        phone.tell("answer");
        phone.wait("ended");
        call.join().expect("no panic")
    });
    assert_eq!(outcome.ok()["outcome"], "completed");
}

#[test]
#[ignore = "long: the parts have tests of their own"]
fn a_gateway_pushes_to_a_phone_of_the_devices_user_by_sip() {
    let mut network = Plan::new(["alice", "bob"]).args(AUTHORITY, ["--sip", "127.0.0.1:0"]).start();
    let gateway = network.authority.peer_id();
    let edge = network.authority.home().to_path_buf();
    let on_edge = |args: &[&str]| Invocation::new(&edge).args(args.iter().copied());
    let [alice, bob] = network.users();
    let linking = Linking::start(bob, &[]);
    let made = on_edge(&["sip", "account", "add", "--link", &linking.link()]).run().ok();
    assert_eq!(linking.finish().1, 0);
    let mut phone = SipClient::over_tcp(&PhoneAccount::of(&made, "tcp"));
    let mut request = phone.request("REGISTER", "sip:example");
    request.set("contact", format!("<sip:bob@{};transport=tcp>;+sip.instance=\"<urn:uuid:1>\"", phone.address()));
    assert_eq!(phone.exchange(request).status(), 200);

    let refused = bob.cli(["push", "register", "sip", "--address", "sip:alice@example"]);
    assert_eq!(refused.code, 1, "another's phone: {refused:?}");
    bob.cli(["push", "subscribe", &gateway]).ok();
    bob.cli(["push", "preferences", "--application", "org.example.mail=Mail"]).ok();
    bob.cli(["push", "register", "sip", "--address", "sip:bob@example;gr=urn:uuid:1"]).ok();
    bob.kill();

    // A request for a session: the phone says what it returns, and hands the request to its node.
    let (report, sir) = std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let args = [
                "push",
                "session",
                "request",
                "--identity",
                "bob@example",
                "--application",
                "org.example.mail=Mail",
                "--content",
                "mail",
            ];
            on_edge(&args).run().ok()
        });
        let sir = phone.next_request("MESSAGE");
        let answer = Message::answer(&sir, 200, "OK", Some("phone")).with_body("application/json", "{\"screen\":\"80x25\"}");
        phone.send(&answer.to_bytes());
        let file = bob.home().join("sir");
        std::fs::write(&file, sir.to_bytes()).expect("written");
        bob.restart();
        let taken = bob.cli(["push", "session", "take", "--encapsulation", "sip", &file.display().to_string()]).ok();
        assert_eq!(taken["status"], "opening", "{taken}");
        (asking.join().expect("no panic"), sir)
    });
    assert_eq!(sir.get("x-wap-application-id"), Some("x-wap-application:push.sia"), "{sir:?}");
    assert_eq!(report["clients"][0]["outcome"], "open", "{report}");
    bob.wait_event(PATIENCE, "push_content", |_| true);

    // A call: the phone gets the payload, from which its node rings.
    assert_eq!(bob.cli(["suspend"]).ok()["push_registrations"], 1);
    let outcome = std::thread::scope(|scope| {
        let call = scope.spawn(|| alice.cli(["call", "bob@example", "--duration", "1"]));
        let push = phone.take("MESSAGE", |message| message.get("content-type") == Some("application/vnd.halloo.push"));
        let file = bob.home().join("payload");
        std::fs::write(&file, &push.body).expect("written");
        let woken = bob.cli(["wake", "--payload", &file.display().to_string()]).ok();
        bob.cli(["calls", "answer", woken["call_id"].as_str().expect("a call")]).ok();
        call.join().expect("no panic")
    });
    assert_eq!(outcome.ok()["outcome"], "completed");
}
