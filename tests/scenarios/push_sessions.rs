//! Goal: a gateway's operator gets the right ones of a user's clients to open a session, a sleeping one too; clients that aren't subscribed are left alone, and
//! nobody else's requests are taken. Method: three daemons of one user, and the commands a person would type.

use std::time::Duration;

use halloo_tests::linking::link;
use halloo_tests::webpush::PushService;
use halloo_tests::{Daemon, Network};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(20);
const IMEI: &str = "imei:490154203237518";
const MAC: &str = "mac:00:1a:2b:3c:4d:5e";

fn request(gateway: &Daemon, more: &[&str]) -> Value {
    let args = ["push", "session", "request", "--identity", "bob@example", "--application", "org.example.mail=Mail"];
    let args: Vec<&str> = args.iter().chain(more).copied().collect();
    halloo_tests::cli::Invocation::new(gateway.home()).args(args).run().ok()
}

#[track_caller]
fn outcome(report: &Value, device: &Daemon) -> String {
    let clients = report["clients"].as_array().cloned().unwrap_or_default();
    let client = clients.into_iter().find(|client| client["peer_id"] == device.peer_id());
    client.and_then(|client| client["outcome"].as_str().map(str::to_owned)).unwrap_or_else(|| panic!("not planned: {report}"))
}

fn prepare(device: &Daemon, gateway: &str, identifier: &str, channel: &str) {
    device.cli(["push", "subscribe", gateway]).ok();
    let settings = device.cli(["push", "preferences", "--identifier", identifier, "--application", "org.example.mail=Mail"]).ok();
    assert_eq!(settings["identifiers"][0], identifier, "{settings}");
    device.cli(["push", "register", channel]).ok();
}

#[test]
fn the_wanted_clients_of_a_user_open_sessions_and_a_sleeping_one_is_woken_for_it() {
    let network = Network::of(["bob"]);
    let gateway = network.authority.peer_id();
    let phone: &Daemon = &network.users[0];
    let laptop = link(&network, phone, "bob-laptop", &[]);
    let tablet = link(&network, phone, "bob-tablet", &[]);
    prepare(phone, &gateway, IMEI, "stream");
    prepare(&laptop, &gateway, MAC, "webpush");
    tablet.cli(["push", "register", "stream"]).ok();

    // A: one of them, by its identifier.
    let report = request(&network.authority, &["--device", IMEI, "--ask", "capabilities,subscriptions", "--content", "mail"]);
    assert_eq!((&report["mode"], outcome(&report, phone).as_str()), (&Value::from("A"), "open"), "{report}");
    assert_eq!((outcome(&report, &laptop), outcome(&report, &tablet)), ("left".into(), "left".into()), "{report}");
    let asked = phone.wait_event(PATIENCE, "push_session_requested", |_| true);
    assert_eq!((&asked["status"], &asked["gateway"]), (&Value::from("opening"), &Value::from(gateway.as_str())), "{asked}");
    phone.wait_event(PATIENCE, "push_session_opened", |event| event["id"] == asked["id"]);
    let activated = phone.wait_event(PATIENCE, "push_application_activated", |event| event["id"] == asked["id"]);
    assert_eq!(activated["application"]["name"], "Mail", "{activated}");
    let content = phone.wait_event(PATIENCE, "push_content", |event| event["id"] == asked["id"]);
    assert_eq!(content["content"], data_encoding::BASE64URL_NOPAD.encode(b"mail"), "{content}");

    // B: all of them; one has a session, one sleeps, one isn't subscribed.
    assert_eq!(laptop.cli(["suspend"]).ok()["suspended"], true);
    let report = request(&network.authority, &["--content", "more mail"]);
    assert_eq!((&report["mode"], outcome(&report, phone).as_str()), (&Value::from("B"), "delivered"), "{report}");
    assert_eq!(outcome(&report, &tablet), "left", "{report}");
    // Its connection stands while it is frozen, as far as the gateway can see: its silence shows, and its push service wakes it.
    assert_eq!(outcome(&report, &laptop), "open", "{report}");
    laptop.wait_event(PATIENCE, "woken", |event| event["by_push"] == true);
    let expected = data_encoding::BASE64URL_NOPAD.encode(b"more mail");
    laptop.wait_event(PATIENCE, "push_content", |event| event["content"] == expected.as_str());

    // The same with a session that is open: it sleeps, and what is pushed into the session wakes it for another.
    assert_eq!(laptop.cli(["suspend"]).ok()["suspended"], true);
    let report = request(&network.authority, &["--content", "last mail"]);
    let outcomes = (outcome(&report, phone), outcome(&report, &laptop));
    assert_eq!(outcomes, ("delivered".to_owned(), "open".to_owned()), "{report}");
    let expected = data_encoding::BASE64URL_NOPAD.encode(b"last mail");
    laptop.wait_event(PATIENCE, "push_content", |event| event["content"] == expected.as_str());
    assert!(!tablet.events().iter().any(|event| event["event"] == "push_session_requested"), "not subscribed");
}

#[test]
fn clients_compare_identifiers_that_the_gateway_does_not_know_and_refuse_what_their_user_does_not_want() {
    let network = Network::of(["bob"]);
    let gateway = network.authority.peer_id();
    let phone: &Daemon = &network.users[0];
    let laptop = link(&network, phone, "bob-laptop", &[]);
    prepare(phone, &gateway, IMEI, "stream");
    prepare(&laptop, &gateway, MAC, "stream");
    let report = request(&network.authority, &["--device", IMEI, "--device", "badge:7"]);
    assert_eq!((&report["mode"], outcome(&report, phone).as_str()), (&Value::from("C"), "open"), "{report}");
    assert_eq!(outcome(&report, &laptop), "ignored", "{report}");

    laptop.cli(["push", "preferences", "--sessions", "ask"]).ok();
    let report = request(&network.authority, &["--device", MAC]);
    assert_eq!(outcome(&report, &laptop), "asking", "{report}");
    let asked = laptop.wait_event(PATIENCE, "push_session_requested", |event| event["status"] == "asking");
    let id = asked["id"].as_str().expect("an id");
    let answered = laptop.cli(["push", "session", "answer", id, "--refuse"]).ok();
    assert_eq!((&answered["status"], &answered["reason"]), (&Value::from("refused"), &Value::from("user")), "{answered}");

    let broken = laptop.home().join("message");
    std::fs::write(&broken, b"no session request").expect("written");
    let path = broken.display().to_string();
    let refused = laptop.cli(["push", "session", "take", "--encapsulation", "wsp", &path]);
    assert_ne!(refused.code, 0, "{refused:?}");
    let no_gateway = phone.cli(["push", "session", "request", "--identity", "bob@example"]);
    assert_eq!(no_gateway.code, 1, "{no_gateway:?}");
}

/// The client's own server gets the request as a phone network's gateway would post it, and whoever runs it hands it over.
#[test]
fn a_session_is_asked_for_by_a_post_to_a_registered_url() {
    let service = PushService::start();
    let network = Network::of(["bob"]);
    let gateway = network.authority.peer_id();
    let phone: &Daemon = &network.users[0];
    phone.cli(["push", "subscribe", &gateway]).ok();
    phone.cli(["push", "preferences", "--identifier", IMEI]).ok();
    phone.cli(["push", "register", "webhook", "--url", &format!("{}/sessions", service.origin)]).ok();
    assert_eq!(phone.cli(["suspend"]).ok()["suspended"], true);
    let args = ["push", "session", "request", "--identity", "bob@example", "--device", IMEI];
    let running = halloo_tests::cli::Invocation::new(network.authority.home()).args(args).start();
    let message = service.messages.recv_timeout(PATIENCE).expect("the gateway posts");
    assert_eq!(message.header("content-type"), Some("application/vnd.wap.sia"), "{message:?}");
    assert!(message.header("webhook-signature").is_some_and(|signature| signature.starts_with("v1,")), "{message:?}");
    assert!(message.header("x-wap-client-address").is_some_and(|client| client.starts_with("bob")), "{message:?}");
    phone.cli(["wake"]).ok();
    let file = phone.home().join("post");
    std::fs::write(&file, [message.head.as_bytes(), &message.body].concat()).expect("written");
    let path = file.display().to_string();
    phone.cli(["push", "session", "take", "--encapsulation", "http", &path]).ok();
    phone.wait_event(PATIENCE, "push_session_opened", |event| event["peer_id"] == gateway.as_str());
    running.wait(PATIENCE).ok();
    // Whoever changes what is open on the way changes nothing but that it isn't taken.
    let changed = [message.head.replace("bob", "eve").as_bytes(), &message.body].concat();
    std::fs::write(&file, changed).expect("written");
    assert_ne!(phone.cli(["push", "session", "take", "--encapsulation", "http", &path]).code, 0);
}
