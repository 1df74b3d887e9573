//! Goal: somebody whose device sleeps is rung and answers, from what the push message holds alone. Method: the daemon
//! freezes itself as an operating system would; a call goes through the gateway to its push service. Once the push
//! service and the decryption are the daemon's own, once they are software that shares no code with Halloo.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use halloo_tests::cli::{Invocation, Running};
use halloo_tests::network::text;
use halloo_tests::{Network, Plan, User, binary};
use serde_json::{Value, json};

const RING_TIME_MAX: Duration = Duration::from_secs(20);
const PUSH_TIME_MAX: Duration = Duration::from_secs(20);

fn call(from: &User, to: &User) -> Running {
    Invocation::new(from.home()).args(["call", &to.username, "--duration", "1"]).start()
}

fn suspend(user: &User, registrations: u64) {
    let asleep = user.cli(["suspend"]).ok();
    assert_eq!(asleep["suspended"], true);
    assert_eq!(asleep["push_registrations"], registrations, "{asleep}");
    let status = user.cli(["status"]).ok();
    assert_eq!(status["suspended"], true, "the local API stays: {status}");
}

/// The daemon is its own push service; a call wakes it, it answers, and the caller learns how.
#[test]
fn a_call_wakes_a_suspended_device_by_web_push() {
    let kind = "webpush";
    let mut network = Plan::new(["alice", "bob"]).args("bob", ["--answer", "auto"]).start();
    let gateway = network.authority.peer_id();
    let [alice, bob] = network.users();
    let registered = bob.cli(["push", "register", kind]).ok();
    assert_eq!(registered["kind"], kind, "{registered}");
    assert_eq!(registered["gateway"], gateway.as_str());
    assert_eq!(bob.cli(["push", "list"]).ok()["registrations"].as_array().map(Vec::len), Some(1));
    suspend(bob, 1);
    let refused = bob.cli(["resolve", &alice.username]);
    assert_eq!(refused.code, 1, "a sleeping node asks nobody: {refused:?}");

    let output = call(alice, bob).wait(RING_TIME_MAX);
    let outcome = output.ok();
    eprintln!("{kind}: {outcome}");
    assert_eq!(outcome["outcome"], "completed", "{outcome}");
    assert_eq!(outcome["via_push"], true, "{outcome}");
    assert_eq!(outcome["answered_by"], bob.peer_id().as_str());
    let push = bob.wait_event(PUSH_TIME_MAX, "push_received", |_| true);
    assert_eq!(push["kind"], kind, "{push}");
    let woken = bob.wait_event(PUSH_TIME_MAX, "woken", |_| true);
    assert_eq!(woken["by_push"], true, "{woken}");
    let rang = bob.wait_event(PUSH_TIME_MAX, "call_incoming", |_| true);
    assert_eq!(rang["from"], alice.username.as_str());
    assert_eq!(rang["via_push"], true, "{rang}");
    // Awake again, it is called as ever.
    let outcome = call(alice, bob).wait(RING_TIME_MAX).ok();
    assert_eq!(outcome["outcome"], "completed", "{outcome}");
    assert_eq!(outcome["via_push"], false, "{outcome}");
}

#[test]
fn a_suspended_device_that_nobody_can_wake_is_unreachable() {
    let mut network = Network::of(["alice", "bob"]);
    let [alice, bob] = network.users();
    // A stream is read by the node itself, and so by nobody while it is frozen: it helps while the device is awake.
    bob.cli(["push", "register", "stream"]).ok();
    suspend(bob, 1);
    let output = call(alice, bob).wait(Duration::from_secs(45));
    assert_eq!(output.code, 1, "{output:?}");
    let outcome = output.json();
    assert_eq!(outcome["outcome"], "unreachable", "{outcome}");
    assert!(outcome["reason"].is_string(), "{outcome}");
    assert!(!bob.events().iter().any(|event| event["event"] == "call_incoming"), "it sleeps");
    let woken = bob.cli(["wake"]).ok();
    assert_eq!(woken["was_suspended"], true, "{woken}");
    let again = bob.cli(["wake"]).ok();
    assert_eq!(again["was_suspended"], false, "waking who is awake is no error: {again}");
    // What waited on the stream may still be read on waking, and rings before anybody is asked: then only until the
    // caller's side says that it is over.
    if let Some(rang) = bob.events().into_iter().find(|event| event["event"] == "call_incoming") {
        let ended = bob.wait_event(RING_TIME_MAX, "call_ended", |event| event["call_id"] == rang["call_id"]);
        assert_ne!(ended["outcome"], "completed", "{ended}");
    }
}

#[test]
fn an_independent_receiver_opens_the_payload_and_a_woken_daemon_rings_from_it() {
    let keys = subscription_keys();
    let service = PushService::start();
    let mut network = Network::of(["alice", "bob"]);
    let [alice, bob] = network.users();
    let endpoint = format!("{}/push/bobs-phone", service.origin);
    let [p256dh, auth] = ["public", "auth"].map(|name| text(&keys, name));
    let args = ["push", "register", "webpush", "--endpoint", &endpoint, "--p256dh", &p256dh, "--auth", &auth];
    let registered = bob.cli(args).ok();
    assert_eq!(registered["kind"], "webpush", "{registered}");
    suspend(bob, 1);
    let running = call(alice, bob);
    let message = service.messages.recv_timeout(PUSH_TIME_MAX).expect("the gateway pushes");
    message.is_in_form();
    let opened = decrypt(&keys, &message, &service.origin);
    let payload = BASE64URL_NOPAD.decode(text(&opened, "plaintext").as_bytes()).expect("base64url");
    eprintln!("push message of {} bytes, payload of {} bytes", message.body.len(), payload.len());

    let file = bob.home().join("payload");
    let path = file.display().to_string();
    std::fs::write(&file, &payload).expect("written");
    let woken = bob.cli(["wake", "--payload", &path]).ok();
    assert_eq!(woken["from"], alice.username.as_str(), "{woken}");
    let id = text(&woken, "call_id");
    let rang = bob.wait_event(RING_TIME_MAX, "call_incoming", |event| event["call_id"] == id.as_str());
    assert_eq!(rang["from"], alice.username.as_str());
    assert_eq!(bob.cli(["calls", "answer", &id]).code, 0);
    let outcome = running.wait(RING_TIME_MAX).ok();
    assert_eq!(outcome["outcome"], "completed", "{outcome}");
    assert_eq!(outcome["via_push"], true, "{outcome}");
    let twice = bob.cli(["wake", "--payload", &path]);
    assert!(twice.code == 1 || twice.ok()["call_id"] == id.as_str(), "{twice:?}");
    let rings = bob.events().iter().filter(|event| event["event"] == "call_incoming").count();
    assert_eq!(rings, 1, "a payload rings once");

    let tampered: Vec<u8> = payload.iter().rev().copied().collect();
    std::fs::write(&file, tampered).expect("written");
    let refused = bob.cli(["wake", "--payload", &path]);
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(refused.last_error().contains("payload"), "{refused:?}");
}

/// What the gateway posted.
pub(crate) struct PushMessage {
    head: String,
    pub(crate) body: Vec<u8>,
}

impl PushMessage {
    fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(':'));
        lines.into_iter().find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }

    /// RFC 8030 section 5, RFC 8291 section 4, RFC 8292 section 3.
    fn is_in_form(&self) {
        assert!(self.head.starts_with("POST /push/bobs-phone "), "{}", self.head);
        assert_eq!(self.header("content-encoding"), Some("aes128gcm"), "{}", self.head);
        assert_eq!(self.header("urgency"), Some("high"), "{}", self.head);
        assert!(self.header("ttl").is_some_and(|ttl| ttl.parse::<u32>().is_ok()), "{}", self.head);
        assert!(self.header("authorization").is_some_and(|value| value.starts_with("vapid ")), "{}", self.head);
        assert!(self.body.len() <= 4_096, "{} bytes", self.body.len());
        let text = String::from_utf8_lossy(&self.body);
        assert!(!text.contains("alice") && !text.contains("example"), "names travel encrypted");
    }
}

/// A push service that keeps what it gets, written from RFC 8030 and nothing else.
pub(crate) struct PushService {
    pub(crate) origin: String,
    pub(crate) messages: Receiver<PushMessage>,
}

impl PushService {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let origin = format!("http://{}", listener.local_addr().expect("bound"));
        let (sender, messages) = sync_channel(8);
        // Ends with the test process; it holds nothing but its port.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let mut reader = BufReader::new(&stream);
                let Some(message) = read_message(&mut reader) else { continue };
                let answer = "HTTP/1.1 201 Created\r\nLocation: /message/1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
                let answered = (&stream).write_all(answer.as_bytes());
                if answered.is_err() || sender.send(message).is_err() {
                    break;
                }
            }
        });
        Self { origin, messages }
    }
}

fn read_message(reader: &mut impl BufRead) -> Option<PushMessage> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    let mut message = PushMessage { head, body: Vec::new() };
    let length: u64 = message.header("content-length")?.parse().ok()?;
    reader.take(length).read_to_end(&mut message.body).ok()?;
    Some(message)
}

fn python() -> Command {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| binary::workspace().join("target"), PathBuf::from);
    let python = target.join("external/webpush/venv/bin/python");
    assert!(python.is_file(), "the independent Web Push software is missing: run tests/external/webpush/setup");
    Command::new(python)
}

/// Keys of a subscription, made by Python's `cryptography`.
fn subscription_keys() -> Value {
    const SCRIPT: &str = "
import base64, json, os
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
key = ec.generate_private_key(ec.SECP256R1())
text = lambda data: base64.urlsafe_b64encode(data).rstrip(b'=').decode()
point = key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
scalar = key.private_numbers().private_value.to_bytes(32, 'big')
print(json.dumps({'private': text(scalar), 'public': text(point), 'auth': text(os.urandom(16))}))
";
    let output = python().args(["-c", SCRIPT]).output().expect("python runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// The script that node's own tests use too: `http_ece` decrypts, `py_vapid` checks the token.
fn decrypt(keys: &Value, message: &PushMessage, origin: &str) -> Value {
    let input = json!({
        "private": keys["private"],
        "auth": keys["auth"],
        "body": BASE64URL_NOPAD.encode(&message.body),
        "authorization": message.header("authorization"),
        "audience": origin,
    });
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("external/webpush/decrypt.py");
    let mut child =
        python().arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("python runs");
    child.stdin.take().expect("piped").write_all(input.to_string().as_bytes()).expect("python reads");
    let output = child.wait_with_output().expect("python ends");
    assert!(output.status.success(), "the message does not open: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}
