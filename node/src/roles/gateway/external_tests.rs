//! FCM, APNs, webhooks and short messages against services that share no code with Halloo: `tests/external/push_services/services.js`, in Node
//! with nothing but Node's own `http2` and `crypto`, and OpenSSL's certificates. Without Node these tests fail: a check that is skipped unnoticed
//! vouches for nothing.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use data_encoding::BASE64;
use halloo_protocol::event::EventKind;
use halloo_protocol::push::{ChannelEnd, PUSH_PAYLOAD_BYTES_MAX, PushChannel, PushHandle, Urgency};
use serde_json::{Value, json};

use super::channel::{Outcome, PushMessage, Services};
use super::setup;
use super::webpush::VapidKey;
use crate::config::{ApnsConfig, FcmConfig, GatewayConfig, SmsConfig};

/// Longest wait for anything: starting Node takes a second or two on a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);

struct Foreign {
    url: String,
    folder: tempfile::TempDir,
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<Value>,
}

impl Foreign {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/external/push_services/services.js");
        let mut child =
            Command::new("node").arg(script).arg(folder.path()).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = sync_channel(64);
        // Ends with the script's output, which waits when nobody reads.
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let _ = sender.send(serde_json::from_str(&line).unwrap());
            }
        });
        let mut foreign = Self { url: String::new(), folder, stdin: child.stdin.take(), child, lines };
        foreign.url = foreign.next("ready")["url"].as_str().unwrap().to_owned();
        foreign
    }

    fn next(&self, event: &str) -> Value {
        let line = self.lines.recv_timeout(DEADLINE).unwrap();
        assert_eq!(line["event"], event, "{line}");
        line
    }

    fn tell(&mut self, command: &Value) {
        writeln!(self.stdin.as_mut().unwrap(), "{command}").unwrap();
        self.next("done");
    }

    fn services(&self) -> Services {
        let file = |name: &str| self.folder.path().join(name);
        let config = GatewayConfig {
            roots: Some(file("roots.pem")),
            fcm: Some(FcmConfig { service_account: file("service-account.json"), endpoint: Some(self.url.clone()) }),
            apns: Some(ApnsConfig {
                key_file: file("apns.p8"),
                key_id: "ABC123DEFG".into(),
                team_id: "DEF123GHIJ".into(),
                endpoint: Some(self.url.clone()),
                sandbox_endpoint: Some(format!("{}/", self.url)),
            }),
            sms: Some(SmsConfig {
                url: format!("{}/sms", self.url),
                method: None,
                headers: [("Content-Type", "application/json"), ("Authorization", "Bearer sms-key")]
                    .map(|(name, value)| (name.to_owned(), value.to_owned()))
                    .into(),
                body: r#"{"to": "{number}", "text": "{text}"}"#.into(),
                per_hour_max: 100,
                ..SmsConfig::default()
            }),
            ..GatewayConfig::default()
        };
        setup::services(&config, VapidKey::generate().unwrap(), true).unwrap()
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let _ = self.child.wait();
    }
}

fn message(payload: usize) -> PushMessage {
    PushMessage {
        handle: PushHandle([0xab; 32]),
        payload: Bytes::from((0..payload).map(|byte| byte as u8).collect::<Vec<_>>()),
        event: EventKind::VOICE_CALL,
        urgency: Urgency::High,
        ttl_secs: 60,
    }
}

fn fcm(token: &str) -> PushChannel {
    PushChannel::Fcm { token: token.into() }
}

fn apns(topic: &str) -> PushChannel {
    PushChannel::Apns { token: vec![0xde; 32], topic: topic.into(), is_sandbox: false }
}

#[tokio::test]
async fn fcm_takes_our_assertion_and_our_largest_message() {
    let foreign = Foreign::start();
    let services = foreign.services();
    let message = message(PUSH_PAYLOAD_BYTES_MAX);
    assert_eq!(services.send(&fcm("bobs-phone"), &message).await, Outcome::Sent);
    foreign.next("token");
    let taken = foreign.next("fcm");
    assert_eq!(taken["message"]["token"], "bobs-phone");
    assert_eq!(taken["message"]["data"], json!({"halloo": BASE64.encode(&message.payload)}));
    assert_eq!(taken["message"]["android"], json!({"priority": "HIGH", "ttl": "60s"}));
    assert_eq!(services.send(&fcm("bobs-phone"), &message).await, Outcome::Sent);
    let again = foreign.next("fcm");
    assert_eq!(again["connection"], taken["connection"], "one token and one connection serve both");
}

#[tokio::test]
async fn fcm_gets_a_new_bearer_token_once_when_the_old_one_is_refused() {
    let mut foreign = Foreign::start();
    let services = foreign.services();
    assert_eq!(services.send(&fcm("a"), &message(10)).await, Outcome::Sent);
    foreign.next("token");
    foreign.next("fcm");
    foreign.tell(&json!({"revoke_tokens": true}));
    assert_eq!(services.send(&fcm("a"), &message(10)).await, Outcome::Sent);
    assert_eq!(foreign.next("fcm")["refused"], "unauthenticated");
    foreign.next("token");
    assert!(foreign.next("fcm")["refused"].is_null());
    // However often it is refused: two requests, and the operator's to mend.
    foreign.tell(&json!({"answer": "fcm", "status": 401, "times": 2}));
    assert_eq!(services.send(&fcm("a"), &message(10)).await, Outcome::BadCredentials);
    foreign.next("fcm");
    foreign.next("token");
    foreign.next("fcm");
    assert!(foreign.lines.try_recv().is_err(), "no third attempt");
}

#[tokio::test]
async fn a_service_account_google_does_not_know_is_the_operators_to_mend() {
    let foreign = Foreign::start();
    // Another key under the same name.
    let path = foreign.folder.path().join("service-account.json");
    let mut account: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    account["private_key"] = json!(include_str!("jwt/rfc7515-a2.pem"));
    std::fs::write(&path, account.to_string()).unwrap();
    assert_eq!(foreign.services().send(&fcm("a"), &message(10)).await, Outcome::BadCredentials);
    assert_eq!(foreign.next("token")["refused"], "signature");
}

/// What each service can say over the wire; the tables of all documented errors are unit tests.
#[tokio::test]
async fn errors_over_the_wire_have_their_outcome() {
    let mut foreign = Foreign::start();
    let services = foreign.services();
    let secs = |secs| Outcome::RetryAfter(Duration::from_secs(secs));
    let fcm_error = |code: &str| {
        json!({"error": {"status": "X", "details": [
            {"@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError", "errorCode": code}]}})
    };
    let (unregistered, foreign_sender, quota) =
        (fcm_error("UNREGISTERED"), fcm_error("SENDER_ID_MISMATCH"), fcm_error("QUOTA_EXCEEDED"));
    let reason = |reason: &str| json!({"reason": reason});
    let hook = PushChannel::Webhook { url: format!("{}/webhook", foreign.url), secret: [7; 32] };
    let sms = PushChannel::Sms { number: "+15550100".into() };
    for (name, channel, status, body, after, outcome) in [
        ("fcm", fcm("a"), 404, unregistered, None, Outcome::Dead(ChannelEnd::UNREGISTERED)),
        ("fcm", fcm("a"), 403, foreign_sender, None, Outcome::Dead(ChannelEnd::FOREIGN)),
        ("fcm", fcm("a"), 429, quota, Some("7"), secs(7)),
        ("fcm", fcm("a"), 503, fcm_error("UNAVAILABLE"), Some("30"), secs(30)),
        ("fcm", fcm("a"), 500, fcm_error("INTERNAL"), None, secs(10)),
        ("fcm", fcm("a"), 401, fcm_error("THIRD_PARTY_AUTH_ERROR"), None, Outcome::BadCredentials),
        ("apns", apns("a.voip"), 410, reason("Unregistered"), None, Outcome::Dead(ChannelEnd::UNREGISTERED)),
        ("apns", apns("a.voip"), 400, reason("BadDeviceToken"), None, Outcome::Dead(ChannelEnd::INVALID)),
        ("apns", apns("a.voip"), 400, reason("DeviceTokenNotForTopic"), None, Outcome::Dead(ChannelEnd::FOREIGN)),
        ("apns", apns("a.voip"), 403, reason("InvalidProviderToken"), None, Outcome::BadCredentials),
        ("apns", apns("a.voip"), 413, reason("PayloadTooLarge"), None, Outcome::TooLarge),
        ("apns", apns("a.voip"), 429, reason("TooManyRequests"), Some("20"), secs(20)),
        ("apns", apns("a.voip"), 500, reason("InternalServerError"), None, secs(10)),
        ("apns", apns("a.voip"), 503, reason("Shutdown"), Some("40"), secs(40)),
        ("webhook", hook.clone(), 410, Value::Null, None, Outcome::Dead(ChannelEnd::UNREGISTERED)),
        ("webhook", hook, 404, Value::Null, None, Outcome::Refused { status: 404 }),
        ("sms", sms, 429, Value::Null, Some("9"), secs(9)),
    ] {
        let mut command = json!({"answer": name, "status": status, "body": body});
        if let Some(after) = after {
            command["retry_after"] = json!(after);
        }
        foreign.tell(&command);
        assert_eq!(services.send(&channel, &message(10)).await, outcome, "{command}");
        let mut line = foreign.lines.recv_timeout(DEADLINE).unwrap();
        if line["event"] == "token" {
            line = foreign.lines.recv_timeout(DEADLINE).unwrap();
        }
        assert_eq!(line["told"], status, "{line}");
    }
}

#[tokio::test]
async fn apns_takes_our_provider_token_and_each_kind_of_push() {
    let foreign = Foreign::start();
    let services = foreign.services();
    let call = message(PUSH_PAYLOAD_BYTES_MAX);
    let mut taken = Vec::new();
    for (topic, event, urgency, kind, priority) in [
        ("org.example.app.voip", EventKind::VOICE_CALL, Urgency::High, "voip", "10"),
        ("org.example.app", EventKind::MESSAGE, Urgency::Normal, "alert", "10"),
        ("org.example.app", EventKind::NOTICE, Urgency::Low, "background", "5"),
    ] {
        let message = PushMessage { event, urgency, ..call.clone() };
        assert_eq!(services.send(&apns(topic), &message).await, Outcome::Sent, "{topic} {event}");
        let push = foreign.next("apns");
        assert!(push["refused"].is_null(), "{push}");
        assert_eq!(push["token"], "de".repeat(32));
        assert_eq!((&push["type"], &push["priority"], &push["topic"]), (&json!(kind), &json!(priority), &json!(topic)));
        assert_eq!(push["payload"]["halloo"], BASE64.encode(&message.payload));
        taken.push(push);
    }
    assert!(taken.iter().all(|push| push["provider_token"] == taken[0]["provider_token"]), "signed once");
    assert!(taken.iter().all(|push| push["connection"] == taken[0]["connection"]), "one connection");
    assert_eq!(taken[1]["payload"]["aps"]["mutable-content"], 1);
    // A message doesn't wake an application that must ring when it is woken.
    let outcome = services.send(&apns("org.example.app.voip"), &PushMessage { event: EventKind::MESSAGE, ..call }).await;
    assert_eq!(outcome, Outcome::Refused { status: 0 });
    assert!(foreign.lines.try_recv().is_err(), "nothing was sent");
}

#[tokio::test]
async fn apns_gets_a_new_provider_token_once_and_outlives_a_goaway() {
    let mut foreign = Foreign::start();
    let services = foreign.services();
    foreign.tell(&json!({"answer": "apns", "status": 403, "body": {"reason": "ExpiredProviderToken"}}));
    assert_eq!(services.send(&apns("a.voip"), &message(10)).await, Outcome::Sent);
    assert_eq!(foreign.next("apns")["told"], 403);
    let first = foreign.next("apns");
    // Again within 20 minutes: Apple would refuse a third token.
    foreign.tell(&json!({"answer": "apns", "status": 403, "body": {"reason": "ExpiredProviderToken"}, "times": 1}));
    assert_eq!(services.send(&apns("a.voip"), &message(10)).await, Outcome::BadCredentials);
    assert_eq!(foreign.next("apns")["told"], 403);

    foreign.tell(&json!({"goaway": true}));
    assert_eq!(services.send(&apns("a.voip"), &message(10)).await, Outcome::Sent);
    let after = foreign.next("apns");
    assert_ne!(after["connection"], first["connection"], "a new connection");
    assert_eq!(after["id"], first["id"], "the same message has the same id");
}

#[tokio::test]
async fn a_webhook_and_a_provider_of_short_messages_take_what_is_theirs() {
    let mut foreign = Foreign::start();
    let services = foreign.services();
    let message = message(1_000);
    let hook = PushChannel::Webhook { url: format!("{}/webhook", foreign.url), secret: [7; 32] };
    foreign.tell(&json!({"webhook_secret": format!("whsec_{}", BASE64.encode(&[7; 32]))}));
    assert_eq!(services.send(&hook, &message).await, Outcome::Sent);
    let posted = foreign.next("webhook");
    assert_eq!((&posted["signed"], &posted["type"]), (&json!(true), &json!("application/octet-stream")));
    assert_eq!(posted["payload"], BASE64.encode(&message.payload));
    let forged = PushChannel::Webhook { url: format!("{}/webhook", foreign.url), secret: [8; 32] };
    assert_eq!(services.send(&forged, &message).await, Outcome::Refused { status: 401 });
    assert_eq!(foreign.next("webhook")["signed"], false);

    let outcome = services.send(&PushChannel::Sms { number: "+15550100".into() }, &message).await;
    assert_eq!(outcome, Outcome::Sent);
    let sent = foreign.next("sms");
    assert_eq!((&sent["to"], &sent["key"]), (&json!("+15550100"), &json!("Bearer sms-key")));
    assert_eq!(sent["text"], "Halloo: voice-call halloo:abababab");
}

/// Everything that is logged, at every level, by every crate.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn logs_show_neither_tokens_nor_payloads() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(move || writer.clone()).finish();
    // The test's runtime has one thread: this one.
    let _guard = tracing::subscriber::set_default(subscriber);

    let foreign = Foreign::start();
    let services = foreign.services();
    let message = message(300);
    assert_eq!(services.send(&fcm("bobs-secret-phone"), &message).await, Outcome::Sent);
    assert_eq!(services.send(&apns("org.example.app.voip"), &message).await, Outcome::Sent);
    assert_eq!(services.send(&PushChannel::Sms { number: "+15550100".into() }, &message).await, Outcome::Sent);
    let log = String::from_utf8_lossy(&log.0.lock().unwrap()).into_owned();
    assert!(log.contains("FCM answered") && log.contains("APNs answered"), "{log}");
    let device_token = "de".repeat(32);
    let payload = BASE64.encode(&message.payload);
    for secret in ["bobs-secret-phone", &device_token, &payload[..40], "ya29.", "eyJ", "15550100", "sms-key"] {
        assert!(!log.contains(secret), "{secret}");
    }
}
