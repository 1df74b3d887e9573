//! Goal: whom the owner of a trunk has named calls telephones through it, from anywhere, for as much as the owner allows; nobody else does. Method: SIPp plays the
//! provider (`tests/external/sipp/provider.xml`), which checks credentials and says back what it hears; the gateway is a user of its own at a real daemon's
//! edge.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use halloo_protocol::sip::message::Message;
use halloo_tests::audio::{assert_heard, write_tone};
use halloo_tests::cli::Invocation;
use halloo_tests::phone::{PhoneAccount, wait_devices};
use halloo_tests::provider::{Provider, free_port};
use halloo_tests::rtp_tone::RtpTone;
use halloo_tests::sip_client::SipClient;
use halloo_tests::sipp::Sipp;
use halloo_tests::{Network, Plan, User, eventually};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(30);

const TONE_HZ: f64 = 440.0;
const UNHEARD_HZ: f64 = 660.0;
const ANNOUNCED_HZ: f64 = 880.0;

/// The gateway's name.
const GATEWAY: &str = "telephone@example";

/// Lines for the node with the trunks: two at one provider, of whom one can carry nothing.
fn trunks(provider: &Provider, edge_port: u16, first_port: u16) -> String {
    let (port, password) = (provider.port, provider.password_file());
    format!(
        "[sip]\ntelephone = \"{GATEWAY}\"\nlisten = [\"127.0.0.1:0\"]\n[sip.dialling]\ncountry = \"49\"\narea = \"30\"\n\
         [sip.trunk.full]\nserver = \"127.0.0.1:{first_port}\"\ndomain = \"full.example\"\nusername = \"trunk\"\npassword_file = {password:?}\nregister = false\n\
         priority = 1\ncallers = [\"alice@example\", \"carol@example\"]\npatterns = [\"+4930503*\"]\n\
         [sip.trunk.home]\nserver = \"127.0.0.1:{port}\"\nlisten = \"127.0.0.1:{edge_port}\"\nusername = \"trunk\"\npassword_file = {password:?}\n\
         callers = [\"alice@example\", \"carol@example\"]\ncaller_id = \"+4930100\"\nuser_calls_per_day = 10\n\
         inbound = {{ \"030 100\" = \"alice@example\" }}\n"
    )
}

/// One more, reached by TCP, for numbers of its own.
fn trunk_by_tcp(provider: &Provider) -> String {
    let (port, password) = (provider.port, provider.password_file());
    format!(
        "[sip.trunk.stream]\nserver = \"127.0.0.1:{port}\"\ntransport = \"tcp\"\nusername = \"trunk\"\npassword_file = {password:?}\n\
         callers = [\"alice@example\"]\npatterns = [\"+4931*\"]\npriority = 5\n"
    )
}

/// A network of these users, of whom carol has the trunks, registered at the provider.
fn network(users: &[&str], lines: &str) -> Network {
    let plan = Plan::new(users.iter().copied()).config("carol", lines);
    let mut network = plan.args("alice", ["--answer", "auto"]).start();
    let invite = network.invite();
    let carol = network.users.iter_mut().find(|user| user.username == "carol@example").expect("carol");
    carol.cli(["sip", "account", "add", GATEWAY, "--invite", &invite]).ok();
    wait_registered(carol);
    network
}

/// What is listed of a trunk.
fn named(list: &Value, name: &str) -> Value {
    let trunks = list["trunks"].as_array().cloned().unwrap_or_default();
    trunks.into_iter().find(|trunk| trunk["name"] == name).unwrap_or_default()
}

#[track_caller]
fn wait_registered(carol: &User) {
    eventually(PATIENCE, "the trunk is registered, and the gateway is there", || {
        let list = carol.cli(["sip", "trunk", "list"]).ok();
        let is_ready = named(&list, "home")["state"] == "registered" && list["has_gateway"] == true;
        if is_ready { Ok(()) } else { Err(list.to_string()) }
    });
}

/// What a native device that names the gateway is told.
#[track_caller]
fn refused(caller: &User, number: &str, outcome: &str, why: &str) {
    let output = caller.cli(["call", number, "--via", GATEWAY]);
    let told = output.json();
    assert_eq!(told["outcome"], outcome, "{number}: {told}");
    assert!(told["reason"].as_str().is_some_and(|reason| reason.contains(why)), "{number}: {told}");
}

/// Calls, and hangs up after a second.
#[track_caller]
fn completed(caller: &User, number: &str) {
    let told = caller.cli(["call", number, "--via", GATEWAY, "--duration", "1"]).ok();
    assert_eq!(told["outcome"], "completed", "{number}: {told}");
}

#[test]
fn who_is_named_calls_telephones_from_anywhere_and_nobody_else_does() {
    let mut announcement = RtpTone::new(ANNOUNCED_HZ);
    let (provider, by_tcp, edge_port) = (Provider::heard_from(announcement.port()), Provider::over_tcp(), free_port());
    let lines = format!("{}{}", trunks(&provider, edge_port, provider.port), trunk_by_tcp(&by_tcp));
    let mut network = network(&["alice", "bob", "carol"], &lines);
    let folder = tempfile::tempdir().expect("a folder");
    let [alice, bob, carol] = network.users();
    wait_devices(alice, GATEWAY, 1);
    assert!(provider.seen(&["SIP/2.0 200 OK", "CSeq: 2 REGISTER"]) > 0, "by credentials that the provider has checked");

    // A native device at another node, which hears itself.
    let (tone, heard) = (folder.path().join("tone.wav"), folder.path().join("heard.wav"));
    write_tone(&tone, TONE_HZ, Duration::from_secs(20));
    let (play, record) = (tone.display().to_string(), heard.display().to_string());
    let number = "tel:+49-30-123456";
    let call = alice.cli(["call", number, "--via", GATEWAY, "--duration", "3", "--play", &play, "--record", &record]).ok();
    assert_eq!((&call["outcome"], &call["codec"]), (&"completed".into(), &"pcmu".into()), "{call}");
    assert_heard(&heard, TONE_HZ, UNHEARD_HZ, Duration::from_secs(1));
    let shown = "From: <sip:+4930100@127.0.0.1>";
    assert_eq!(
        provider.seen(&["INVITE sip:+4930123456@", shown, "P-Asserted-Identity: <sip:+4930100@"]),
        2,
        "once more by credentials"
    );
    eventually(PATIENCE, "the provider was told of the end", || {
        (provider.seen(&["BYE sip:"]) == 1).then_some(()).ok_or_else(String::new)
    });
    let listed = alice.cli(["calls", "list"]).ok();
    assert_eq!(listed["calls"][0]["telephone"], "+4930123456", "{listed}");

    // The first trunk can't, the second does.
    completed(alice, "tel:+4930503000");
    assert!(provider.seen(&["SIP/2.0 503"]) > 0 && provider.seen(&["INVITE sip:+4930503000@127.0.0.1"]) > 0);
    let list = carol.cli(["sip", "trunk", "list"]).ok();
    assert_eq!(named(&list, "full")["used"][0]["calls"], 0, "what wasn't carried isn't counted: {list}");
    assert_eq!(named(&list, "home")["used"][1]["calls"], 2, "{list}");
    assert!(named(&list, "full")["reason"].as_str().is_some_and(|reason| reason.starts_with("503")), "{list}");
    carol.wait_event(PATIENCE, "warning", |event| event["code"] == "sip-trunk");

    // A phone of the edge: digits are enough.
    let account = PhoneAccount::add(carol, "udp");
    Sipp::new(&account, 1).run_for("call.xml", "030987654@example", 1, &["-d", "300"]);
    assert_eq!(provider.seen(&["INVITE sip:+4930987654@127.0.0.1"]), 2);

    // Another provider is reached by TCP, and asks for credentials as a proxy does.
    completed(alice, "tel:+4931407");
    assert!(by_tcp.seen(&["INVITE sip:+4931407@", "Proxy-Authorization: Digest"]) > 0);
    assert!(by_tcp.seen(&["SIP/2.0 200 OK", "Via: SIP/2.0/TCP", "REGISTER"]) > 0);

    // What the network says of a number is heard, and told.
    let early = Invocation::new(alice.home()).args(["call", "tel:+4930183", "--via", GATEWAY, "--record", &record]).start();
    let line = "INVITE sip:+4930183@";
    let invite =
        eventually(PATIENCE, "the provider is called", || provider.last(&[line, "Authorization:"]).ok_or_else(String::new));
    announcement.speak_to(invite.as_bytes());
    assert_eq!(early.wait(PATIENCE).json()["outcome"], "busy");
    assert_eq!(announcement.heard(), 0, "nothing of the caller leaves before the answer");
    assert_heard(&heard, ANNOUNCED_HZ, TONE_HZ, Duration::from_secs(1));
    refused(alice, "tel:+4930404", "declined", "doesn't know the number");
    refused(alice, "tel:+4930999", "busy", "in another call");

    // Nobody else, and nothing of emergency.
    let before = provider.seen(&["INVITE sip:"]);
    refused(bob, "tel:+4930123456", "declined", "hasn't named you");
    refused(bob, "tel:112", "declined", "hasn't named you");
    refused(alice, "tel:112", "declined", "emergency number");
    refused(alice, "tel:+49 112", "declined", "emergency number");
    let told = bob.cli(["call", "tel:+4930123456", "--via", "carol@example"]).json();
    assert!(told["reason"].as_str().is_some_and(|reason| reason.contains("not a gateway")), "{told}");
    let mut phone = SipClient::new(&account);
    phone.register();
    let request = phone.request("INVITE", "tel:112");
    let answer = phone.exchange(request);
    assert_eq!(answer.status(), 403, "{answer:?}");
    assert!(answer.get("warning").is_some_and(|warning| warning.contains("emergency number")), "{answer:?}");

    // A stranger at the edge and at the trunk's own socket gets a challenge, whomever it calls.
    let mut stranger = SipClient::new(&account);
    for uri in ["tel:+4930123456", "sip:+4930123456@example"] {
        let request = stranger.request("INVITE", uri);
        stranger.send(&request.to_bytes());
        assert_eq!(stranger.final_answer(&request).status(), 407, "{uri}");
    }
    let trunk = SocketAddr::from(([127, 0, 0, 1], edge_port));
    for (source, uri, status) in [
        ("127.0.0.2", "sip:+4930100@127.0.0.1", 407),
        ("127.0.0.2", "tel:+4930123456", 407),
        // The provider itself brings calls to whom a number belongs, and to nobody else.
        ("127.0.0.1", "sip:+4930123456@127.0.0.1", 404),
        ("127.0.0.1", "sip:bob@127.0.0.1", 404),
    ] {
        assert_eq!(asked(source.parse().expect("one"), trunk, uri), status, "{source} {uri}");
    }
    assert_eq!(provider.seen(&["INVITE sip:"]), before, "nothing went out");

    // A call from the telephone network rings at whom it is for, as what it is.
    Provider::call("4930100", &trunk.to_string(), 500);
    let rung = alice.wait_event(PATIENCE, "call_incoming", |_| true);
    assert_eq!((&rung["from"], &rung["telephone"]), (&GATEWAY.into(), &"+442012345678".into()), "{rung}");
    alice.wait_event(PATIENCE, "call_ended", |event| event["call_id"] == rung["call_id"] && event["outcome"] == "completed");

    // A gateway that ends takes its registrations back.
    let left = |provider: &Provider| provider.seen(&["REGISTER sip:", "Authorization:", "Expires: 0\r\n"]);
    assert_eq!([&provider, &by_tcp].map(left), [0, 0]);
    assert_eq!(carol.terminate().0, 0);
    assert_eq!([&provider, &by_tcp].map(|provider| left(provider) > 0), [true, true]);
}

/// The final status of an INVITE from this address, without credentials.
#[track_caller]
fn asked(source: IpAddr, trunk: SocketAddr, uri: &str) -> u16 {
    let socket = UdpSocket::bind((source, 0)).expect("a socket");
    socket.set_read_timeout(Some(PATIENCE)).expect("a socket");
    let address = socket.local_addr().expect("bound");
    let mut request = Message::request("INVITE", uri);
    request.add("via", format!("SIP/2.0/UDP {address};branch=z9hG4bK{}", rand::random::<u64>()));
    for (name, value) in
        [("from", "<sip:+491@provider.example>;tag=t"), ("to", "<sip:somebody@provider.example>"), ("cseq", "1 INVITE")]
    {
        request.add(name, value);
    }
    request.add("call-id", rand::random::<u64>().to_string());
    request.add("contact", format!("<sip:x@{address}>"));
    socket.send_to(&request.to_bytes(), trunk).expect("sent");
    let mut bytes = [0; 4_096];
    loop {
        let length = socket.recv(&mut bytes).expect("an answer");
        let answer = Message::parse(&bytes[..length]).expect("SIP");
        if answer.status() >= 200 {
            return answer.status();
        }
    }
}

#[test]
fn the_eleventh_call_of_ten_is_refused_whatever_happens_to_the_process() {
    let (provider, edge_port) = (Provider::start(), free_port());
    let mut network = network(&["alice", "carol"], &trunks(&provider, edge_port, provider.port));
    let [alice, carol] = network.users();
    wait_devices(alice, GATEWAY, 1);
    // Busy, which is soon over, and counts: somebody was called.
    (0..5).for_each(|_| refused(alice, "tel:+4930999", "busy", "in another call"));
    carol.kill();
    carol.spawn_again();
    carol.wait_ready(PATIENCE);
    wait_registered(carol);
    let list = carol.cli(["sip", "trunk", "list"]).ok();
    assert_eq!(named(&list, "home")["used"][1]["calls"], 5, "{list}");
    (0..5).for_each(|_| refused(alice, "tel:+4930999", "busy", "in another call"));
    let before = provider.seen(&["INVITE sip:"]);
    refused(alice, "tel:+4930123456", "declined", "spending limit");
    assert_eq!(provider.seen(&["INVITE sip:"]), before, "the provider hears nothing of it");
    // Another's limit is another's, and one's own gateway needn't be named; it has another address since it was killed.
    eventually(PATIENCE, "the gateway's own user calls", || {
        let told = carol.cli(["call", "tel:+4930999"]).json();
        if told["outcome"] == "busy" { Ok(()) } else { Err(told.to_string()) }
    });
}

#[test]
#[ignore = "long: a trunk's silence is waited for"]
fn a_trunk_that_says_nothing_is_passed_over_and_a_wrong_password_is_told() {
    let (provider, edge_port) = (Provider::start(), free_port());
    let lines = trunks(&provider, edge_port, free_port());
    // The last: the helper waits for the second.
    let wrong = format!(
        "[sip.trunk.wrong]\nserver = \"127.0.0.1:{}\"\nusername = \"nobody\"\npassword_file = {:?}\npriority = 20\ncallers = [\"alice@example\"]\n",
        provider.port,
        provider.password_file()
    );
    let mut network = network(&["alice", "carol"], &format!("{lines}{wrong}"));
    let [alice, carol] = network.users();
    wait_devices(alice, GATEWAY, 1);
    let told = carol.wait_event(PATIENCE, "warning", |event| event["code"] == "sip-trunk");
    assert!(told["detail"].as_str().is_some_and(|detail| detail.contains("wrong") && detail.contains("403")), "{told}");
    let list = carol.cli(["sip", "trunk", "list"]).ok();
    assert_eq!(named(&list, "wrong")["state"], "failed", "{list}");
    completed(alice, "tel:+4930503000");
    let list = carol.cli(["sip", "trunk", "list"]).ok();
    assert_eq!(named(&list, "full")["reason"], "the server doesn't answer", "{list}");
    assert_eq!(named(&list, "home")["used"][1]["calls"], 1, "{list}");
}

#[test]
#[ignore = "long: a minute of a call is counted"]
fn a_call_ends_when_no_further_minute_is_allowed() {
    let (provider, edge_port) = (Provider::start(), free_port());
    let lines = trunks(&provider, edge_port, provider.port).replace("user_calls_per_day = 10", "user_minutes_per_day = 1");
    let mut network = network(&["alice", "carol"], &lines);
    let [alice, carol] = network.users();
    wait_devices(alice, GATEWAY, 1);
    let call = Invocation::new(alice.home()).args(["call", "tel:+4930123456", "--via", GATEWAY]).limit(3 * PATIENCE).run();
    assert_eq!(call.ok()["outcome"], "completed");
    eventually(PATIENCE, "the provider was told of the end", || {
        (provider.seen(&["BYE sip:"]) == 1).then_some(()).ok_or_else(String::new)
    });
    let list = carol.cli(["sip", "trunk", "list"]).ok();
    assert_eq!(named(&list, "home")["used"][1]["minutes"], 1, "{list}");
    refused(alice, "tel:+4930123456", "declined", "spending limit");
}
