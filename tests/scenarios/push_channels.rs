//! Goal: a sleeping device is woken through FCM, APNs, a webhook and a short message, and a channel whose service has ended it is told to the device.
//! Method: the services are a program in Node that shares no code with Halloo (`external/push_services`); the gateway is configured for it as an
//! operator would. What the service gets is handed to the sleeping daemon, as the operating system would, and it rings from that alone.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use data_encoding::BASE64;
use halloo_tests::cli::{Invocation, Running};
use halloo_tests::network::{AUTHORITY, text};
use halloo_tests::{Plan, User};
use serde_json::{Value, json};

const RING_TIME_MAX: Duration = Duration::from_secs(20);
const PUSH_TIME_MAX: Duration = Duration::from_secs(30);

/// The services, which end with the test.
struct Services {
    url: String,
    folder: tempfile::TempDir,
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<Value>,
}

impl Services {
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("external/push_services/services.js");
        let mut command = Command::new("node");
        command.arg(script).arg(folder.path()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("Node is installed");
        let output = BufReader::new(child.stdout.take().expect("piped"));
        let (sender, lines) = sync_channel(64);
        // Ends with the script's output, which waits when nobody reads.
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let _ = sender.send(serde_json::from_str(&line).expect("JSON"));
            }
        });
        let mut services = Self { url: String::new(), folder, stdin: child.stdin.take(), child, lines };
        services.url = text(&services.next("ready"), "url");
        services
    }

    /// The next line about `event`; others are passed over.
    fn next(&self, event: &str) -> Value {
        let until = Instant::now() + PUSH_TIME_MAX;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left).unwrap_or_else(|_| panic!("no {event}"));
            eprintln!("services: {line}");
            if line["event"] == event {
                return line;
            }
        }
    }

    fn tell(&mut self, command: &Value) {
        writeln!(self.stdin.as_mut().expect("piped"), "{command}").expect("Node reads");
        self.next("done");
    }

    /// What an operator writes into `config.toml`.
    fn config(&self, sms: bool) -> String {
        let (url, folder) = (&self.url, self.folder.path().display());
        let sms = if sms {
            format!(
                "[gateway.sms]\nurl = \"{url}/sms\"\nheaders = {{ Content-Type = \"application/json\" }}\n\
                 body = '{{\"to\": \"{{number}}\", \"text\": \"{{text}}\"}}'\n"
            )
        } else {
            String::new()
        };
        format!(
            "[gateway]\nroots = \"{folder}/roots.pem\"\n\
             [gateway.fcm]\nservice_account = \"{folder}/service-account.json\"\nendpoint = \"{url}\"\n\
             [gateway.apns]\nkey_file = \"{folder}/apns.p8\"\nkey_id = \"ABC123DEFG\"\nteam_id = \"DEF123GHIJ\"\nendpoint = \"{url}\"\n\
             {sms}"
        )
    }
}

impl Drop for Services {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let _ = self.child.wait();
    }
}

fn call(from: &User, to: &User) -> Running {
    Invocation::new(from.home()).args(["call", &to.username, "--duration", "1"]).start()
}

/// Hands the sleeping daemon what its push service brought; it rings, is answered, and the caller learns how.
fn wake_and_answer(bob: &User, alice: &User, payload: &str, running: Running) {
    let payload = BASE64.decode(payload.as_bytes()).expect("base64");
    let file = bob.home().join("payload");
    std::fs::write(&file, payload).expect("written");
    let woken = bob.cli(["wake", "--payload", &file.display().to_string()]).ok();
    assert_eq!(woken["from"], alice.username.as_str(), "{woken}");
    let id = text(&woken, "call_id");
    bob.wait_event(RING_TIME_MAX, "call_incoming", |event| event["call_id"] == id.as_str());
    assert_eq!(bob.cli(["calls", "answer", &id]).code, 0);
    let outcome = running.wait(RING_TIME_MAX).ok();
    assert_eq!(outcome["outcome"], "completed", "{outcome}");
    assert_eq!(outcome["via_push"], true, "{outcome}");
    let rings = bob.events().iter().filter(|event| event["event"] == "call_incoming" && event["call_id"] == id.as_str()).count();
    assert_eq!(rings, 1, "it rings once, whatever else brings the call");
}

/// State and reason of bob's registrations of a kind.
fn listed(bob: &User, kind: &str) -> Vec<(String, Value, String)> {
    let list = bob.cli(["push", "list"]).ok();
    let of_kind = list["registrations"].as_array().into_iter().flatten().filter(|found| found["kind"] == kind);
    of_kind.map(|found| (text(found, "state"), found["reason"].clone(), text(found, "id"))).collect()
}

#[test]
fn a_call_wakes_by_fcm_until_the_token_is_gone_and_the_device_hears_of_that() {
    let mut services = Services::start();
    let mut network = Plan::new(["alice", "bob"]).config(AUTHORITY, &services.config(false)).start();
    let gateway = network.authority.peer_id();
    let [alice, bob] = network.users();
    let refused = bob.cli(["push", "register", "sms", "--number", "+15550100"]);
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(refused.last_error().contains("can't use this channel"), "the gateway has no provider: {refused:?}");

    let registered = bob.cli(["push", "register", "fcm", "--token", "bobs-phone:APA91b"]).ok();
    assert_eq!((&registered["kind"], &registered["state"]), (&json!("fcm"), &json!("live")), "{registered}");
    bob.cli(["push", "register", "stream"]).ok();
    assert_eq!(bob.cli(["suspend"]).ok()["push_registrations"], 2);
    let running = call(alice, bob);
    let message = services.next("fcm")["message"].clone();
    assert_eq!(message["token"], "bobs-phone:APA91b");
    assert_eq!(message["android"]["priority"], "HIGH");
    let shown = message.to_string();
    assert!(!shown.contains("alice") && !shown.contains("notification"), "Google reads nothing: {shown}");
    wake_and_answer(bob, alice, &text(&message["data"], "halloo"), running);

    // The application is removed from the phone: FCM says so at the next push.
    let unregistered = json!({"error": {"code": 404, "status": "NOT_FOUND", "details": [
        {"@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError", "errorCode": "UNREGISTERED"}]}});
    services.tell(&json!({"answer": "fcm", "status": 404, "body": unregistered}));
    bob.cli(["suspend"]).ok();
    let running = call(alice, bob);
    assert_eq!(services.next("fcm")["told"], 404);
    let outcome = running.wait(Duration::from_secs(45)).json();
    assert_eq!(outcome["outcome"], "unreachable", "{outcome}");
    bob.cli(["wake"]).ok();
    let gone = bob.wait_event(PUSH_TIME_MAX, "push_channel_gone", |event| event["kind"] == "fcm");
    assert_eq!(gone["gateway"], gateway.as_str());
    let dead = listed(bob, "fcm");
    assert_eq!(dead.len(), 1, "{dead:?}");
    assert_eq!(
        (dead[0].0.as_str(), &dead[0].1, dead[0].2.as_str()),
        ("dead", &gone["reason"], gone["id"].as_str().expect("an id"))
    );
    assert_eq!(listed(bob, "stream")[0].0, "live", "another channel of the same registration goes on");

    // A new token, and the same call again.
    bob.cli(["push", "register", "fcm", "--token", "bobs-new-phone"]).ok();
    assert_eq!(listed(bob, "fcm")[0].0, "live");
    bob.cli(["suspend"]).ok();
    let running = call(alice, bob);
    let message = services.next("fcm")["message"].clone();
    assert_eq!(message["token"], "bobs-new-phone");
    wake_and_answer(bob, alice, &text(&message["data"], "halloo"), running);

    let id = listed(bob, "fcm")[0].2.clone();
    let removed = bob.cli(["push", "unregister", &id]).ok();
    assert_eq!(removed, json!({"id": id, "gateway_told": true}));
    assert!(listed(bob, "fcm").is_empty());
    assert_eq!(bob.cli(["push", "unregister", &id]).code, 1, "once");
    assert_eq!(listed(bob, "stream")[0].0, "live");
    assert_eq!(network.authority.logged("bobs-"), 0, "tokens are secrets");
}

/// The device sleeps through the end of its channel, and gateway and device are killed before it could be told.
#[test]
fn the_end_of_a_channel_outlives_a_gateway_that_is_killed() {
    let mut services = Services::start();
    let mut network = Plan::new(["alice", "bob"]).config(AUTHORITY, &services.config(false)).start();
    {
        let [alice, bob] = network.users();
        bob.cli(["push", "register", "apns", "--token", "00ff", "--topic", "org.example.app.voip"]).ok();
        services.tell(&json!({"answer": "apns", "status": 410, "body": {"reason": "Unregistered", "timestamp": 1}}));
        bob.cli(["suspend"]).ok();
        let running = call(alice, bob);
        assert_eq!(services.next("apns")["told"], 410);
        assert_eq!(running.wait(Duration::from_secs(45)).json()["outcome"], "unreachable");
    }
    // Both end: what is left is what their databases hold. The gateway has another port afterwards, and bob comes by the new one.
    network.authority.kill();
    network.users.iter_mut().for_each(|user| user.kill());
    network.authority.restart();
    let launch = network.launch("bob");
    let [_, bob] = network.users();
    bob.start(launch);
    let gone = bob.wait_event(Duration::from_secs(60), "push_channel_gone", |event| event["kind"] == "apns");
    assert!(text(&gone, "reason").contains("doesn't know it"), "{gone}");
    assert_eq!(listed(bob, "apns")[0].0, "dead");
    assert_eq!(bob.cli(["suspend"]).ok()["push_registrations"], 0, "nobody can wake it");
}

#[test]
fn apns_webhook_and_short_message_wake_side_by_side_and_ring_once() {
    let mut services = Services::start();
    let mut network = Plan::new(["alice", "bob"]).config(AUTHORITY, &services.config(true)).start();
    let [alice, bob] = network.users();
    bob.cli(["push", "register", "apns", "--token", &"ab".repeat(32), "--topic", "org.example.app.voip"]).ok();
    bob.cli(["push", "register", "sms", "--number", "+15550100"]).ok();
    let hook = bob.cli(["push", "register", "webhook", "--url", &format!("{}/webhook", services.url)]).ok();
    services.tell(&json!({"webhook_secret": hook["secret"]}));
    assert!(
        bob.cli(["push", "list"]).ok()["registrations"]
            .as_array()
            .is_some_and(|all| all.iter().all(|one| one["secret"].is_null()))
    );
    bob.cli(["suspend"]).ok();
    let running = call(alice, bob);
    let mut taken: Vec<Value> = Vec::new();
    while ["apns", "webhook", "sms"].iter().any(|name| !taken.iter().any(|line| line["event"] == *name)) {
        taken.push(services.lines.recv_timeout(PUSH_TIME_MAX).expect("all three"));
        eprintln!("services: {}", taken.last().expect("just pushed"));
    }
    let of = |name: &str| taken.iter().find(|line| line["event"] == name).expect("taken");
    assert_eq!(of("webhook")["signed"], true);
    assert_eq!(of("sms")["to"], "+15550100");
    assert!(text(of("sms"), "text").starts_with("Halloo: voice-call halloo:"), "{}", of("sms"));
    assert_eq!(of("apns")["type"], "voip");
    let payload = text(&of("apns")["payload"], "halloo");
    assert_eq!(payload, text(of("webhook"), "payload"), "the same bytes on every way");
    wake_and_answer(bob, alice, &payload, running);
    // What the short message woke for came over the stream too, and rang nothing more.
    bob.wait_event(RING_TIME_MAX, "push_received", |push| push["kind"] == "stream");
}
