//! Web Push as an app meets it: a push service that keeps what gateways post, and a subscription whose keys and decryption share no code with Halloo.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};

use data_encoding::BASE64URL_NOPAD;
use serde_json::{Value, json};

use crate::network::text;
use crate::{Daemon, binary};

/// Messages that a test may leave unread. Further ones wait for it.
const MESSAGES_MAX: usize = 256;

/// What a gateway posted.
#[derive(Debug)]
pub struct PushMessage {
    /// Request line and headers.
    pub head: String,
    /// Its encrypted content.
    pub body: Vec<u8>,
}

impl PushMessage {
    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(':'));
        lines.into_iter().find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }

    /// Checks that it wakes and says nothing, and whose it is: by `py_vapid`. Gives the gateway's key.
    ///
    /// # Panics
    /// If it has content, or its token doesn't hold.
    #[must_use]
    pub fn is_empty_of(&self, service: &PushService) -> String {
        assert!(self.head.starts_with("POST /push/a-phone "), "{}", self.head);
        assert!(self.body.is_empty() && self.header("content-encoding").is_none(), "{}", self.head);
        assert_eq!(self.header("urgency"), Some("high"), "{}", self.head);
        let input = json!({"body": "", "authorization": self.header("authorization"), "audience": service.origin});
        drop(examined(&input));
        let key = self.header("authorization").and_then(|text| text.split("k=").nth(1)).unwrap_or_default();
        key.trim().to_owned()
    }

    /// Checks its form: RFC 8030 section 5, RFC 8291 section 4, RFC 8292 section 3.
    ///
    /// # Panics
    /// If it isn't in that form, or says who writes to whom.
    pub fn is_in_form(&self) {
        assert!(self.head.starts_with("POST /push/a-phone "), "{}", self.head);
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
#[derive(Debug)]
pub struct PushService {
    /// Its scheme, address and port.
    pub origin: String,
    /// What gateways have posted.
    pub messages: Receiver<PushMessage>,
    /// What they have posted while the service was out of order.
    pub refused: Receiver<PushMessage>,
    works: Arc<AtomicBool>,
}

impl PushService {
    /// Starts one on a free port of the loopback interface.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn start() -> Self {
        Self::start_with(true, "")
    }

    /// One that is out of order and answers 503, until [`PushService::mend`].
    ///
    /// # Panics
    /// If there is no free port.
    #[must_use]
    pub fn start_broken() -> Self {
        Self::start_with(false, "503 Service Unavailable")
    }

    /// One that knows no subscription any more.
    ///
    /// # Panics
    /// If there is no free port.
    #[must_use]
    pub fn start_gone() -> Self {
        Self::start_with(false, "410 Gone")
    }

    /// From now on it takes what it gets.
    pub fn mend(&self) {
        self.works.store(true, Ordering::SeqCst);
    }

    fn start_with(works: bool, refusal: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let origin = format!("http://{}", listener.local_addr().expect("bound"));
        let ((taken, messages), (not_taken, refused)) = (sync_channel(MESSAGES_MAX), sync_channel(MESSAGES_MAX));
        let works = Arc::new(AtomicBool::new(works));
        let is_working = Arc::clone(&works);
        // Ends with the test process; it holds nothing but its port.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let mut reader = BufReader::new(&stream);
                let Some(message) = read_message(&mut reader) else { continue };
                let works = is_working.load(Ordering::SeqCst);
                let status = if works { "201 Created\r\nLocation: /message/1" } else { refusal };
                let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
                // A gateway that was killed meanwhile hears no answer; the next one comes on a connection of its own.
                let answered = (&stream).write_all(answer.as_bytes());
                let kept = if works { &taken } else { &not_taken };
                if kept.send(message).is_err() {
                    break;
                }
                drop(answered);
            }
        });
        Self { origin, messages, refused, works }
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

/// What independent software makes of a message.
fn examined(input: &Value) -> Value {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("external/webpush/decrypt.py");
    let mut child =
        python().arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("python runs");
    child.stdin.take().expect("piped").write_all(input.to_string().as_bytes()).expect("python reads");
    let output = child.wait_with_output().expect("python ends");
    assert!(output.status.success(), "the message does not open: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// A subscription whose keys are outside Halloo, as those of an app are.
#[derive(Debug)]
pub struct Subscription {
    keys: Value,
}

impl Subscription {
    /// Keys made by Python's `cryptography`.
    ///
    /// # Panics
    /// If the software isn't installed.
    #[must_use]
    pub fn new() -> Self {
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
        Self { keys: serde_json::from_slice(&output.stdout).expect("JSON") }
    }

    /// What a push service's user tells: the key, and what authenticates (RFC 8291 section 2).
    #[must_use]
    pub fn public_keys(&self) -> [String; 2] {
        ["public", "auth"].map(|name| text(&self.keys, name))
    }

    /// Registers it for a device. Gives what `halloo push register` said.
    ///
    /// # Panics
    /// If that fails.
    pub fn register(&self, device: &Daemon, service: &PushService) -> Value {
        let endpoint = format!("{}/push/a-phone", service.origin);
        let [p256dh, auth] = self.public_keys();
        device.cli(["push", "register", "webpush", "--endpoint", &endpoint, "--p256dh", &p256dh, "--auth", &auth]).ok()
    }

    /// What a message holds. The script is the one that node's own tests use: `http_ece` decrypts, `py_vapid` checks the token.
    ///
    /// # Panics
    /// If it doesn't open.
    #[must_use]
    pub fn open(&self, message: &PushMessage, service: &PushService) -> Vec<u8> {
        let input = json!({
            "private": self.keys["private"],
            "auth": self.keys["auth"],
            "body": BASE64URL_NOPAD.encode(&message.body),
            "authorization": message.header("authorization"),
            "audience": service.origin,
        });
        let opened = examined(&input);
        BASE64URL_NOPAD.decode(text(&opened, "plaintext").as_bytes()).expect("base64url")
    }
}

impl Default for Subscription {
    fn default() -> Self {
        Self::new()
    }
}
