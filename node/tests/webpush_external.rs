//! Web Push against software that shares no code with Halloo.
//!
//! - a device in Python: `http_ece` decrypts what we encrypt, `py_vapid` and `cryptography` check
//!   our VAPID token;
//! - a push service in JavaScript: the npm package `web-push-testing` takes what our client sends,
//!   checks the token (`jsonwebtoken`) and decrypts the message (`http_ece` for Node);
//! - an application server in JavaScript: the npm package `web-push` sends to our local push
//!   service, and we decrypt.
//!
//! All of it is installed by `tests/external/webpush/setup`. Without it these tests fail: a check
//! that is skipped unnoticed vouches for nothing.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::env;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use data_encoding::{BASE64, BASE64URL_NOPAD};
use halloo::push::receiver::LocalPushService;
use halloo::roles::gateway::webpush::{
    PLAINTEXT_BYTES_MAX, PushError, ReceiverKeys, Subscription, Urgency, VapidKey, VapidSigner, WebPushClient, WebPushConfig,
    decrypt, encrypt,
};
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use tokio::time::timeout;

const SUBJECT: &str = "mailto:push@example.net";

/// Longest wait for anything: starting Node takes a second or two on a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);

fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/external/webpush")
}

/// Where the setup script has installed everything.
fn installed() -> PathBuf {
    let target =
        env::var_os("CARGO_TARGET_DIR").map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"), PathBuf::from);
    let installed = target.join("external/webpush");
    assert!(
        installed.join("installed").is_file(),
        "the Web Push software to test against is not installed: run tests/external/webpush/setup"
    );
    installed
}

fn python(script: &str) -> Command {
    let mut command = Command::new(installed().join("venv/bin/python"));
    command.arg(scripts().join(script));
    command
}

fn node(script: &str) -> Command {
    let mut command = Command::new("node");
    command.arg(scripts().join(script)).env("NODE_PATH", installed().join("node_modules"));
    command
}

/// Runs a program that reads one JSON value and writes one; its standard error if it fails.
fn run(mut command: Command, input: &Value) -> Result<Value, String> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // A program that ends without reading its input tells why on standard error.
    let _ = child.stdin.take().unwrap().write_all(input.to_string().as_bytes());
    let output = child.wait_with_output().unwrap();
    if output.status.success() {
        Ok(serde_json::from_slice(&output.stdout).unwrap())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// The push service of the npm package web-push-testing. It ends with its standard input.
struct ForeignPushService {
    url: String,
    child: Child,
    stdin: Option<ChildStdin>,
    http: Client<HttpConnector, Full<Bytes>>,
}

impl ForeignPushService {
    fn start() -> Self {
        let mut child = node("push-service.js")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // It logs each refused token there.
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let ready: Value = serde_json::from_str(&line).unwrap();
        Self {
            url: ready["url"].as_str().unwrap().to_owned(),
            stdin: child.stdin.take(),
            child,
            http: Client::builder(TokioExecutor::new()).build_http(),
        }
    }

    async fn post(&self, path: &str, body: &Value) -> Value {
        let request = Request::post(format!("{}{path}", self.url))
            .header("Content-Type", "application/json")
            .body(Full::new(Bytes::from(body.to_string())))
            .unwrap();
        let exchange = async {
            let answer = self.http.request(request).await.unwrap();
            answer.into_body().collect().await.unwrap().to_bytes()
        };
        let body = timeout(DEADLINE, exchange).await.unwrap();
        serde_json::from_slice(&body).unwrap_or_default()
    }

    /// Subscribes as a browser with this `applicationServerKey`: the subscription and its name.
    async fn subscribe(&self, key: &VapidKey) -> (Subscription, String) {
        let options = json!({
            "userVisibleOnly": "true",
            "applicationServerKey": BASE64URL_NOPAD.encode(&key.public_key()),
        });
        let answer = self.post("/subscribe", &options).await;
        let data = &answer["data"];
        let subscription = Subscription::from_json(data.to_string().as_bytes()).unwrap();
        (subscription, data["clientHash"].as_str().unwrap().to_owned())
    }

    /// What the service has decrypted for a subscription.
    async fn messages(&self, client: &str) -> Vec<String> {
        let answer = self.post("/get-notifications", &json!({"clientHash": client})).await;
        serde_json::from_value(answer["data"]["messages"].clone()).unwrap()
    }
}

impl Drop for ForeignPushService {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let _ = self.child.wait();
    }
}

fn gateway(key: &VapidKey) -> WebPushClient {
    let mut config = WebPushConfig::new(key.clone(), SUBJECT.parse().unwrap());
    config.lab = true;
    WebPushClient::new(config).unwrap()
}

/// What `decrypt.py` needs to read a message for these keys.
fn python_message(keys: &ReceiverKeys, body: &[u8]) -> Value {
    json!({
        "private": BASE64URL_NOPAD.encode(keys.private_bytes().as_ref()),
        "auth": BASE64URL_NOPAD.encode(keys.auth()),
        "body": BASE64URL_NOPAD.encode(body),
    })
}

#[test]
fn python_decrypts_our_messages() {
    let keys = ReceiverKeys::generate().unwrap();
    let endpoint = "https://push.example.net/a";
    let subscription = Subscription::new(endpoint, keys.public_key(), *keys.auth()).unwrap();
    // Empty, one octet, ends like padding, binary, as long as possible.
    let payloads: [&[u8]; 5] = [b"", b"a", b"text\x02\0\0", &[0xff, 0, 0xfe], &[7; PLAINTEXT_BYTES_MAX]];
    for payload in payloads {
        let body = encrypt(&subscription, payload).unwrap();
        let read = run(python("decrypt.py"), &python_message(&keys, &body)).unwrap();
        assert_eq!(read["plaintext"], BASE64URL_NOPAD.encode(payload));

        let mut tampered = body.clone();
        *tampered.last_mut().unwrap() ^= 1;
        let refused = run(python("decrypt.py"), &python_message(&keys, &tampered)).unwrap_err();
        assert!(refused.contains("ECEException"), "{refused}");
    }
}

#[test]
fn python_verifies_our_vapid_token() {
    let keys = ReceiverKeys::generate().unwrap();
    let endpoint = "https://push.example.net:8443/a";
    let subscription = Subscription::new(endpoint, keys.public_key(), *keys.auth()).unwrap();
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let authorization =
        VapidSigner::new(&VapidKey::generate().unwrap(), SUBJECT.parse().unwrap()).authorization(&subscription.origin(), now);

    let mut message = python_message(&keys, &encrypt(&subscription, b"wake up").unwrap());
    message["authorization"] = json!(authorization);
    message["audience"] = json!("https://push.example.net:8443");
    let read = run(python("decrypt.py"), &message).unwrap();
    assert_eq!(read["claims"]["sub"], SUBJECT);

    // The check does refuse: another audience, another key.
    message["audience"] = json!("https://push.example.net");
    let refused = run(python("decrypt.py"), &message).unwrap_err();
    assert!(refused.contains("another origin"), "{refused}");
    let other_key = BASE64URL_NOPAD.encode(&VapidKey::generate().unwrap().public_key());
    let (token, _) = authorization.split_once(", k=").unwrap();
    message["authorization"] = json!(format!("{token}, k={other_key}"));
    let refused = run(python("decrypt.py"), &message).unwrap_err();
    assert!(refused.contains("InvalidSignature"), "{refused}");
}

#[tokio::test]
async fn a_foreign_push_service_takes_and_decrypts_our_messages() {
    let service = ForeignPushService::start();
    let key = VapidKey::generate().unwrap();
    let gateway = gateway(&key);
    let (subscription, client) = service.subscribe(&key).await;
    let (other, other_client) = service.subscribe(&key).await;
    let longest = "x".repeat(PLAINTEXT_BYTES_MAX);
    let payloads = ["ring", "Gr\u{fc}\u{df}e \u{1f44b}", &longest];
    for payload in payloads {
        gateway.send(&subscription, payload.as_bytes(), 60, Urgency::High, None).await.unwrap();
    }
    gateway.send(&other, b"for the other", 0, Urgency::Normal, None).await.unwrap();
    assert_eq!(service.messages(&client).await, payloads);
    assert_eq!(service.messages(&other_client).await, ["for the other"]);
}

#[tokio::test]
async fn a_foreign_push_service_refuses_another_gateways_key() {
    let service = ForeignPushService::start();
    let (subscription, client) = service.subscribe(&VapidKey::generate().unwrap()).await;
    let stranger = gateway(&VapidKey::generate().unwrap());
    let refused = stranger.send(&subscription, b"ring", 60, Urgency::High, None).await;
    assert_eq!(refused, Err(PushError::Refused { status: 400 }));
    assert!(service.messages(&client).await.is_empty());
}

#[tokio::test]
async fn an_expired_foreign_subscription_is_gone() {
    let service = ForeignPushService::start();
    let key = VapidKey::generate().unwrap();
    let (subscription, client) = service.subscribe(&key).await;
    let path = format!("/expire-subscription/{client}");
    service.post(&path, &json!({})).await;
    let refused = gateway(&key).send(&subscription, b"ring", 60, Urgency::High, None).await;
    assert_eq!(refused, Err(PushError::Gone));
}

#[tokio::test]
async fn our_push_service_takes_a_foreign_application_servers_messages() {
    let addr = "127.0.0.1:0".parse().unwrap();
    let (service, mut messages) = LocalPushService::bind(addr).await.unwrap();
    let keys = ReceiverKeys::generate().unwrap();
    let endpoint = service.subscribe().unwrap();
    let subscription = Subscription::new(&endpoint, keys.public_key(), *keys.auth()).unwrap();
    let subscription: Value = serde_json::from_str(&subscription.to_json()).unwrap();
    for payload in [vec![0, 0xff, 2, 0], vec![7; PLAINTEXT_BYTES_MAX]] {
        let input = json!({
            "subscription": subscription,
            "payload": BASE64.encode(&payload),
            "ttl": 60,
            "subject": SUBJECT,
        });
        let sent = tokio::task::spawn_blocking(move || run(node("send.js"), &input));
        let sent = timeout(DEADLINE, sent).await.unwrap().unwrap().unwrap();
        assert_eq!(sent["status"], 201, "{sent}");
        let body = timeout(DEADLINE, messages.recv()).await.unwrap().unwrap();
        assert_eq!(decrypt(&keys, &body).unwrap(), payload);
    }
}
