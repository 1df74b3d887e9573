//! Who gets in, and what is answered to those who do; over real sockets, byte by byte.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use halloo::api::client::Client;
use halloo::config::ApiAddress;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use crate::fake::{DEADLINE, Fake};

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }
}

pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

pub(crate) async fn connect(fake: &Fake) -> Box<dyn Stream> {
    match &fake.address {
        ApiAddress::Unix(path) => Box::new(UnixStream::connect(path).await.expect("connected")),
        ApiAddress::Tcp(address) => Box::new(TcpStream::connect(address).await.expect("connected")),
    }
}

/// Sends a request as it stands and reads until the other side closes.
async fn exchange(fake: &Fake, request: &str) -> Answer {
    let mut stream = connect(fake).await;
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut bytes = Vec::new();
    tokio::time::timeout(DEADLINE, stream.read_to_end(&mut bytes)).await.expect("in time").expect("read");
    let text = String::from_utf8(bytes).expect("text");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).and_then(|word| word.parse().ok()).expect("a status");
    Answer { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
}

async fn get(fake: &Fake, path: &str, headers: &str) -> Answer {
    exchange(fake, &format!("GET {path} HTTP/1.1\r\nConnection: close\r\n{headers}\r\n")).await
}

async fn post(fake: &Fake, path: &str, content_type: &str, body: &str) -> Answer {
    let length = body.len();
    let head = format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n");
    exchange(fake, &format!("{head}Content-Type: {content_type}\r\nContent-Length: {length}\r\n\r\n{body}")).await
}

#[tokio::test]
async fn tcp_refuses_foreign_hosts_and_origins_and_wants_the_token() {
    let dir = tempfile::tempdir().expect("a directory");
    let fake = Fake::start(dir.path(), Some("127.0.0.1:0")).await;
    let ApiAddress::Tcp(address) = fake.address else { panic!("expected TCP") };
    let token = std::fs::read_to_string(fake.home.api_token()).expect("a token");
    let mode = std::fs::metadata(fake.home.api_token()).expect("a token").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(token.len(), 43, "32 bytes as base64url");
    let host = format!("Host: {address}\r\n");
    let auth = format!("Authorization: Bearer {token}\r\n");
    let table = [
        (200, format!("{host}{auth}")),
        (200, format!("{host}{auth}Origin: http://{address}\r\n")),
        (401, host.clone()),
        (401, format!("{host}Authorization: Bearer {}\r\n", &token[1..])),
        (403, format!("{host}{auth}Origin: http://evil.example\r\n")),
        (403, format!("{host}{auth}Origin: null\r\n")),
        (403, format!("Host: evil.example:{}\r\n{auth}", address.port())),
        (403, auth.clone()),
    ];
    for path in ["/v1/status", "/v1/events?x=1", "/v1/openapi.json", "/v1/nothing"] {
        for (expected, headers) in &table {
            if *expected == 200 && path != "/v1/status" {
                continue;
            }
            let answer = get(&fake, path, headers).await;
            assert_eq!(answer.status, *expected, "{path} {headers}");
            assert!(!answer.head.contains("access-control-allow-origin"));
            if *expected != 200 {
                assert!(answer.head.contains("content-type: application/problem+json"), "{}", answer.head);
                assert_eq!(answer.json()["status"], *expected);
                assert_eq!(*expected == 401, answer.head.contains("www-authenticate: bearer"));
            }
        }
    }
    fake.stop().await;
}

#[tokio::test]
async fn the_page_needs_no_token_and_trusts_nothing_from_elsewhere() {
    let dir = tempfile::tempdir().expect("a directory");
    let fake = Fake::start(dir.path(), Some("127.0.0.1:0")).await;
    for (path, media_type) in [("/", "text/html"), ("/page.js", "text/javascript"), ("/style.css", "text/css")] {
        let answer = get(&fake, path, &format!("Host: {}\r\n", fake.address)).await;
        assert_eq!(answer.status, 200);
        assert!(answer.head.contains(&format!("content-type: {media_type}")), "{}", answer.head);
        assert!(answer.head.contains("content-security-policy: default-src 'none'"));
        assert!(!answer.body.contains("https://") && !answer.body.contains("//cdn"), "{path}");
    }
    assert_eq!(get(&fake, "/", "Host: evil.example\r\n").await.status, 403);
}

#[tokio::test]
async fn a_unix_socket_is_private_and_refuses_web_pages() {
    let dir = tempfile::tempdir().expect("a directory");
    let fake = Fake::start(dir.path(), None).await;
    let ApiAddress::Unix(socket) = fake.address.clone() else { panic!("expected a socket") };
    assert_eq!(std::fs::metadata(&socket).expect("a socket").permissions().mode() & 0o777, 0o600);
    assert_eq!(get(&fake, "/v1/status", "Host: localhost\r\n").await.status, 200);
    assert_eq!(get(&fake, "/v1/status", "Host: localhost\r\nOrigin: http://localhost\r\n").await.status, 403);
    assert_eq!(get(&fake, "/v1/status", "Host: evil.example\r\n").await.status, 403);
    let address_file = fake.home.api_address();
    assert_eq!(std::fs::read_to_string(&address_file).expect("an address"), format!("unix:{}", socket.display()));
    fake.stop().await;
    assert!(!socket.exists() && !address_file.exists(), "a stopped daemon leaves no address");
}

#[tokio::test]
async fn a_home_with_a_long_path_has_a_socket_elsewhere() {
    let dir = tempfile::tempdir().expect("a directory");
    let deep: PathBuf = dir.path().join("d".repeat(100)).join("e".repeat(100));
    let fake = Fake::start(&deep, None).await;
    let ApiAddress::Unix(socket) = fake.address.clone() else { panic!("expected a socket") };
    let parent = socket.parent().expect("a directory").to_owned();
    assert_eq!(std::fs::metadata(&parent).expect("it exists").permissions().mode() & 0o777, 0o700);
    let client = Client::of(&fake.home).expect("found");
    let status: Value = client.get("/v1/status").await.expect("answered");
    assert_eq!(status["peer_id"], "12D3me");
    fake.stop().await;
    assert!(!parent.exists());
}

#[tokio::test]
async fn what_a_killed_daemon_left_behind_is_no_obstacle() {
    let dir = tempfile::tempdir().expect("a directory");
    // A socket nobody listens on any more.
    drop(std::os::unix::net::UnixListener::bind(dir.path().join("api.sock")).expect("bound"));
    std::fs::write(dir.path().join("config.toml"), "").expect("written");
    let fake = Fake::start(dir.path(), None).await;
    assert_eq!(get(&fake, "/v1/status", "Host: localhost\r\n").await.status, 200);
    // A socket somebody listens on is not taken away.
    let other = tempfile::tempdir().expect("a directory");
    let home = halloo::home::Home::create(other.path()).expect("a home");
    let refused = halloo::api::ApiListener::bind(&home, Some(&fake.address)).await.expect_err("refused");
    assert!(refused.to_string().contains("another program"), "{refused}");
}

#[tokio::test]
async fn bad_requests_are_told_what_is_wrong() {
    let dir = tempfile::tempdir().expect("a directory");
    let fake = Fake::start(dir.path(), None).await;
    let json = "application/json";
    for (path, content_type, body, status, word) in [
        ("/v1/messages", json, "{", 400, "line 1"),
        ("/v1/messages", json, "", 400, "missing field"),
        ("/v1/messages", json, r#"{"to":"bob","text":"x","urgent":1}"#, 400, "unknown field `urgent`"),
        ("/v1/messages", json, r#"{"to":7,"text":"x"}"#, 400, "invalid type"),
        ("/v1/messages", "text/plain", r#"{"to":"bob","text":"x"}"#, 415, "application/json"),
        ("/v1/push", json, r#"{"channel":{"kind":"pigeon"}}"#, 400, "pigeon"),
        ("/v1/devices/usage", json, r#"{"usage":"off"}"#, 400, "off"),
        ("/v1/push/policy", json, r#"{"text":"fridge"}"#, 400, "no such thing"),
        ("/v1/push/policy/explain", json, r#"{"event_id":"gone"}"#, 404, "gone"),
        ("/v1/push", json, r#"{"channel":{"kind":"stream","x":1}}"#, 400, "unknown field"),
        ("/v1/push", json, r#"{"channel":{"kind":"fcm"}}"#, 400, "token"),
        ("/v1/push", json, r#"{"channel":{"kind":"apns","token":"00"}}"#, 400, "topic"),
        ("/v1/push/gone/unregister", json, "{}", 404, "gone"),
        ("/v1/wake", json, r#"{"payload":"?"}"#, 400, "base64url"),
        ("/v1/calls/gone/answer", json, "{}", 404, "gone"),
        ("/v1/links", json, r#"{"system":"xmpp","address":"a@b.example","password":"wrong"}"#, 403, "not-authorized"),
        ("/v1/links/login/2/wait", json, "{}", 404, "isn't linked"),
        ("/v1/links/login", json, r#"{"provider":"https://id.example"}"#, 400, "unknown field"),
        ("/v1/links/code/show", json, r#"{"address":"mailto:a@b.example","code":"1"}"#, 403, "isn't the code"),
        ("/v1/links/book", json, r#"{"file":"/nowhere/book.vcf"}"#, 400, "/nowhere"),
        ("/v1/links/book/server", json, r#"{"url":"https://dav.example/","user":"alice"}"#, 400, "password"),
        ("/v1/links/book/server", json, r#"{"url":"https://dav.example/","user":"alice","password":"x"}"#, 403, "password"),
        ("/v1/status", json, "{}", 405, "does not take POST"),
        ("/v1/nothing", json, "{}", 404, "openapi"),
    ] {
        let answer = post(&fake, path, content_type, body).await;
        assert_eq!(answer.status, status, "{path} {body}");
        let detail = answer.json()["detail"].as_str().expect("a detail").to_owned();
        assert!(detail.contains(word), "{path} {body}: {detail}");
    }
    let large = format!(r#"{{"to":"bob","text":"{}"}}"#, "x".repeat(600 * 1024));
    assert_eq!(post(&fake, "/v1/messages", json, &large).await.status, 413);
    let host = "Host: localhost\r\n";
    assert_eq!(get(&fake, "/v1/users/bob?fresh=perhaps", host).await.status, 400);
    assert_eq!(get(&fake, "/v1/users/bob?frsh=true", host).await.status, 400);
    assert_eq!(get(&fake, "/v1/users/%FF", host).await.status, 400);
}

#[tokio::test]
async fn problems_carry_their_type_and_the_type_is_explained() {
    let dir = tempfile::tempdir().expect("a directory");
    let fake = Fake::start(dir.path(), None).await;
    let host = "Host: localhost\r\n";
    for (path, status, slug, exit_code) in
        [("/v1/users/nobody", 404, "user-not-found", 1), ("/v1/users/bad%20name", 400, "invalid-username", 2)]
    {
        let answer = get(&fake, path, host).await;
        assert_eq!(answer.status, status);
        let problem = answer.json();
        assert_eq!(problem["type"], format!("/v1/problems/{slug}"));
        assert_eq!(problem["exit_code"], exit_code);
        let explained = get(&fake, problem["type"].as_str().expect("a type"), host).await.json();
        assert_eq!(explained["title"], problem["title"]);
    }
}

#[tokio::test]
async fn every_operation_of_the_document_answers() {
    let dir = tempfile::tempdir().expect("a directory");
    let fake = Fake::start(dir.path(), None).await;
    let wav = dir.path().join("message.wav");
    halloo::calls::media::tone::write_tone(&wav, 440.0, std::time::Duration::from_millis(100), 8_000)
        .expect("the folder is ours");
    let leave = serde_json::json!({ "to": "bob", "path": wav }).to_string();
    let document = get(&fake, "/v1/openapi.json", "Host: localhost\r\n").await.json();
    assert_eq!(document["openapi"], "3.1.0");
    let paths = document["paths"].as_object().expect("paths");
    let mut operations = 0;
    for (path, methods) in paths {
        for method in methods.as_object().expect("methods").keys() {
            let path = path
                .replace("{user}", "bob")
                .replace("{change}", "accept")
                .replace("{id}", "c1")
                .replace("{login}", "1")
                .replace("{slug}", "refused")
                .replace("{group}", "g1")
                .replace("{device}", "phone")
                .replace("{account}", "bob@example");
            if path == "/v1/events" {
                continue;
            }
            let answer = match method.as_str() {
                "get" => get(&fake, &format!("{path}{}", query(&path)), "Host: localhost\r\n").await,
                _ if path == "/v1/voicemails" => post(&fake, &path, "application/json", &leave).await,
                _ => post(&fake, &path, "application/json", body(&path)).await,
            };
            assert_eq!(answer.status, 200, "{method} {path}: {}", answer.body);
            operations += 1;
        }
    }
    assert!(operations > 20, "{operations}");
}

fn query(path: &str) -> &'static str {
    match path {
        "/v1/messages" => "?with=bob",
        "/v1/search" => "?text=hello",
        _ => "",
    }
}

fn body(path: &str) -> &'static str {
    match path {
        "/v1/conversations/read" => r#"{"with":"bob"}"#,
        "/v1/conversations/composing" => r#"{"with":"bob","active":true}"#,
        "/v1/groups" => r#"{"name":"hikers"}"#,
        "/v1/groups/g1" => r#"{"do":"leave"}"#,
        "/v1/messages" => r#"{"to":"bob","text":"hi","wait_ms":1000}"#,
        "/v1/files" => concat!(r#"{"to":"bob","path":""#, env!("CARGO_MANIFEST_DIR"), r#"/Cargo.toml"}"#),
        "/v1/history/export" | "/v1/history/import" => r#"{"path":"/nowhere","passphrase":"x"}"#,
        "/v1/contacts" => r#"{"user":"bob"}"#,
        "/v1/contact-book" => r#"{"contacts":[]}"#,
        "/v1/calls" => r#"{"users":["bob"]}"#,
        "/v1/calls/c1/add" => r#"{"user":"bob"}"#,
        "/v1/calls/c1/candidates" => r#"{"candidate":"candidate:1 1 udp 1 192.0.2.1 9 typ host"}"#,
        "/v1/calls/c1/keys" => r#"{"keys":"12#"}"#,
        "/v1/calls/c1/media" => r#"{"state":"connected","path":"direct"}"#,
        "/v1/push" => r#"{"channel":{"kind":"stream"}}"#,
        "/v1/links" => r#"{"system":"xmpp","address":"alice@there.example","password":"secret"}"#,
        "/v1/links/login" => r#"{"issuer":"https://id.example","client_id":"halloo"}"#,
        "/v1/links/code" => r#"{"address":"mailto:alice@there.example"}"#,
        "/v1/links/code/show" => r#"{"address":"mailto:alice@there.example","code":"01234567"}"#,
        "/v1/links/book/server" => r#"{"url":"https://dav.example/","user":"alice","password":"secret"}"#,
        "/v1/links/book" => concat!(r#"{"file":""#, env!("CARGO_MANIFEST_DIR"), r#"/Cargo.toml"}"#),
        "/v1/push/sessions" => r#"{"identity":"bob@example"}"#,
        "/v1/push/session-requests" => r#"{"encapsulation":"wsp","messages":["AAAA"]}"#,
        "/v1/push/session-requests/r1" | "/v1/push/session-requests/c1" => r#"{"accept":true}"#,
        "/v1/enrol" => r#"{"username":"bob@example"}"#,
        "/v1/devices/usage" => r#"{"usage":"in-use","near":true}"#,
        "/v1/push/policy" => r#"{"text":"version = 1"}"#,
        "/v1/devices/phone/rename" => r#"{"name":"old phone"}"#,
        "/v1/authority/revocations" => r#"{"username":"bob"}"#,
        "/v1/authority/certified" => r#"{"username":"bob","id":"xmpp:bob@there.example"}"#,
        "/v1/links/find" | "/v1/links/certify" => r#"{"id":"mailto:bob@there.example"}"#,
        listing if listing.ends_with("/listing") => r#"{"listed":true}"#,
        _ => "{}",
    }
}

#[tokio::test]
async fn a_caller_who_goes_away_hangs_up() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut fake = Fake::start(dir.path(), None).await;
    let mut stream = connect(&fake).await;
    let body = r#"{"users":["rings"]}"#;
    let head = "POST /v1/calls HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";
    let request = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
    stream.write_all(request.as_bytes()).await.expect("sent");
    drop(stream);
    tokio::time::timeout(DEADLINE, fake.hung_up.recv()).await.expect("in time").expect("hung up");
}

#[tokio::test]
async fn connections_beyond_the_limit_are_refused_and_free_ones_serve_again() {
    const CONNECTIONS_MAX: usize = 128;
    let dir = tempfile::tempdir().expect("a directory");
    let fake = Fake::start(dir.path(), None).await;
    let mut idle = Vec::new();
    for _ in 0..CONNECTIONS_MAX {
        idle.push(connect(&fake).await);
    }
    assert_eq!(get(&fake, "/v1/status", "Host: localhost\r\n").await.status, 503);
    idle.clear();
    let served = async { while get(&fake, "/v1/status", "Host: localhost\r\n").await.status != 200 {} };
    tokio::time::timeout(DEADLINE, served).await.expect("in time");
}
