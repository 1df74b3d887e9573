//! The real binary: what it prints, what it exits with.

use std::path::Path;
use std::process::{Output, Stdio};

use halloo::handle::Event;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::Command;

use crate::fake::{DEADLINE, Fake};

pub(crate) fn command(home: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_halloo"));
    command.env_remove("HALLOO_HOME").env_remove("RUST_LOG").env("HALLOO_HOME", home);
    command.args(args).stdin(Stdio::null()).kill_on_drop(true);
    command
}

pub(crate) async fn run(home: &Path, args: &[&str]) -> Output {
    tokio::time::timeout(DEADLINE, command(home, args).output()).await.expect("in time").expect("ran")
}

pub(crate) fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("text")
}

/// One line on stderr, no panic, nothing on stdout.
pub(crate) fn assert_fails(args: &[&str], output: &Output, code: i32) {
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {stderr}");
    assert_eq!(stderr.lines().count(), 1, "{args:?}: {stderr}");
    assert!(stderr.starts_with("halloo: ") && !stderr.contains("panicked"), "{args:?}: {stderr}");
    assert_eq!(text(&output.stdout), "", "{args:?}");
}

#[tokio::test]
async fn bad_input_exits_2_with_one_line_that_names_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let key = "ed25519:AAAA";
    for (args, word) in [
        (&[][..], "command"),
        (&["dance"], "dance"),
        (&["resolv", "bob"], "resolve"),
        (&["--log-format", "xml", "status"], "xml"),
        (&["init", "--lang", "x"], "language"),
        (&["init", "--device-kind", "toaster"], "toaster"),
        (&["init", "--relay", "nobody"], "nobody"),
        (&["init", "--display-name", " "], "empty"),
        (&["init", "--recover"], "stdin"),
        (&["run", "--listen", "nowhere"], "nowhere"),
        (&["run", "--bootstrap", "127.0.0.1:1"], "127.0.0.1:1"),
        (&["run", "--role", "king"], "king"),
        (&["run", "--authority", key], "NAME=KEY"),
        (&["run", "--authority", "x=y"], "ed25519:"),
        (&["run", "--api", "localhost"], "unix:PATH"),
        (&["run", "--metrics", "9100"], "9100"),
        (&["run", "--answer", "maybe"], "maybe"),
        (&["run", "--play", "x.wav"], "--answer"),
        (&["run", "--answer", "auto", "--play", "/no/such.wav"], "/no/such.wav"),
        (&["enrol"], "NAME@AUTHORITY"),
        (&["enrol", "alice"], "NAME@AUTHORITY"),
        (&["enrol", "al ice@example"], "al ice"),
        (&["enrol", "alice@example", "--invite", ""], "--invite"),
        (&["authority"], "authority"),
        (&["authority", "invite", "--valid-hours", "0"], "0"),
        (&["authority", "revoke"], "NAME"),
        (&["authority", "revoke", "a/b"], "a/b"),
        (&["status", "now"], "now"),
        (&["peers", "all"], "all"),
        (&["doctor", "who"], "who"),
        (&["why"], "USER"),
        (&["why", "a b"], "a b"),
        (&["resolve"], "USER"),
        (&["resolve", "@example"], "@example"),
        (&["resolve", "bob", "--stale"], "--stale"),
        (&["msg"], "msg"),
        (&["msg", "send", "bob"], "TEXT"),
        (&["msg", "send", "bob", ""], "empty"),
        (&["msg", "send", "bob", "hi", "--timeout", "3"], "--wait"),
        (&["msg", "send", "bob", "hi", "--wait", "--timeout", "soon"], "soon"),
        (&["msg", "list", "bob", "--limit", "0"], "0"),
        (&["msg", "watch", "bob"], "bob"),
        (&["call"], "USER"),
        (&["call", "bob", "--duration", "0"], "seconds"),
        (&["call", "bob", "--duration=-3"], "seconds"),
        (&["call", "bob", "--play", "/no/such.wav"], "/no/such.wav"),
        (&["call", "bob", "--record", "/no/such/dir.wav"], "/no/such/dir.wav"),
        (&["calls"], "calls"),
        (&["calls", "answer"], "ID"),
        (&["calls", "answer", "../x"], "../x"),
        (&["calls", "decline", ""], "id"),
        (&["calls", "hangup"], "ID"),
        (&["calls", "add", "c1"], "USER"),
        (&["calls", "rejoin", "c1", "--record", "/no/such/dir.wav"], "/no/such/dir.wav"),
        (&["push"], "push"),
        (&["push", "register", "pigeon"], "pigeon"),
        (&["push", "policy", "explain", "c1", "--event", "call"], "--event"),
        (&["device", "usage", "busy"], "busy"),
        (&["device", "usage", "idle", "--near", "--far"], "--far"),
        (&["device", "attributes"], "--screen"),
        (&["push", "register", "webpush", "--endpoint", "x", "--p256dh", "x", "--auth", "x"], "https"),
        (&["push", "register", "webpush", "--auth", "AAAAAAAAAAAAAAAAAAAAAA"], "--p256dh"),
        (&["push", "register", "fcm"], "--token"),
        (&["push", "register", "apns", "--token", "xyz", "--topic", "org.example"], "hexadecimal"),
        (&["push", "register", "apns", "--token", "00ff"], "--topic"),
        (&["push", "register", "webhook", "--url", "hook.example"], "https"),
        (&["push", "register", "sms", "--number", "5550100"], "digits"),
        (&["push", "unregister"], "ID"),
        (&["push", "subscribe"], "GATEWAY"),
        (&["push", "preferences", "--sessions", "sometimes"], "sometimes"),
        (&["push", "session", "request"], "--identity"),
        (&["push", "session", "take", "--encapsulation", "sms", "/no/such"], "/no/such"),
        (&["call", "tel:+49-30;ext=1"], "extension"),
        (&["call", "tel:+4930123456", "--via", "phone"], "NAME@AUTHORITY"),
        (&["sip", "account", "add", "bob"], "bob"),
        (&["link", "add", "aim", "bob"], "aim"),
        (&["link", "add", "xmpp"], "ADDRESS"),
        (&["link", "add", "mailto:bob"], "mailto"),
        (&["link", "add", "tel:030123456"], "tel"),
        (&["link", "add", "sip:bob"], "sip"),
        (&["link", "add", "sip"], "ADDRESS"),
        (&["link", "add", "oidc", "https://id.example", "--client-secret-file", "x"], "--client-id"),
        (&["call", "bob", "--as", "bob@example"], "SYSTEM:ADDRESS"),
        (&["link", "remove", "bob"], "SYSTEM:ADDRESS"),
        (&["link", "find", "bob@there.example"], "SYSTEM:ADDRESS"),
        (&["link", "listing", "xmpp:bob@there.example", "perhaps"], "perhaps"),
        (&["link", "certify"], "ID"),
        (&["link", "book", "https://dav.example/"], "--user"),
        (&["link", "book", "x.vcf", "--none"], "--none"),
        (&["link", "book", "x.vcf", "--roots", "r.pem"], "--user"),
        (&["authority", "certify", "bob", "bob"], "SYSTEM:ADDRESS"),
        (&["call", "xmpp:bob"], "xmpp"),
        (&["sip", "account", "add", "--invite", "x"], "NAME@AUTHORITY"),
        (&["suspend", "--hard"], "--hard"),
        (&["wake", "--payload", "/no/such"], "/no/such"),
        (&["testnet", "--nodes", "1"], "1"),
        (&["testnet", "--seed", "x"], "x"),
        (&["completions"], "SHELL"),
        (&["completions", "dos"], "dos"),
    ] {
        let output = run(dir.path(), args).await;
        assert_fails(args, &output, 2);
        assert!(text(&output.stderr).contains(word), "{args:?}: {}", text(&output.stderr));
    }
}

#[tokio::test]
async fn without_a_daemon_clients_exit_3() {
    let dir = tempfile::tempdir().expect("a directory");
    let missing = dir.path().join("missing");
    for args in [
        &["status"][..],
        &["peers"],
        &["doctor"],
        &["why", "bob"],
        &["resolve", "bob"],
        &["msg", "send", "bob", "hi"],
        &["msg", "list", "bob"],
        &["msg", "typing", "bob"],
        &["msg", "watch"],
        &["call", "bob"],
        &["calls", "list"],
        &["calls", "watch"],
        &["calls", "answer", "c1"],
        &["push", "register", "stream"],
        &["push", "list"],
        &["push", "test"],
        &["push", "unregister", "r1"],
        &["sip", "account", "list"],
        &["sip", "trunk", "list"],
        &["link", "list"],
        &["link", "listing", "xmpp:alice@there.example", "on"],
        &["link", "certify", "xmpp:alice@there.example"],
        &["suspend"],
        &["wake"],
        &["authority", "show"],
    ] {
        let output = run(&missing, args).await;
        assert_fails(args, &output, 3);
        assert!(text(&output.stderr).contains("halloo run"), "{}", text(&output.stderr));
    }
    assert!(!missing.exists(), "a client makes no home");

    // A daemon that was killed leaves its address behind.
    let fake = Fake::start(dir.path(), None).await;
    let address = std::fs::read(fake.home.api_address()).expect("an address");
    let path = fake.home.api_address();
    fake.stop().await;
    std::fs::write(path, address).expect("written");
    assert_fails(&["status"], &run(dir.path(), &["status"]).await, 3);
    let output = run(dir.path(), &["--json", "status"]).await;
    let problem: Value = serde_json::from_slice(&output.stdout).expect("one document");
    assert_eq!(problem["exit_code"], 3);
}

#[tokio::test]
async fn json_is_one_document_of_the_promised_shape() {
    let dir = tempfile::tempdir().expect("a directory");
    let _fake = Fake::start(dir.path(), None).await;
    let outcome = json!({
        "call_id": "c1", "outcome": "completed", "reason": null, "answered_by": "12D3bob",
        "codec": null, "path": "direct", "ring_ms": 5, "setup_ms": null, "rtt_ms": null, "loss": null, "jitter_ms": null, "via_push": false,
    });
    let mut declined = outcome.clone();
    declined["outcome"] = json!("declined");
    declined["answered_by"] = Value::Null;
    declined["path"] = Value::Null;
    let resolved = json!({
        "username": "bob", "identity": "ed25519:x",
        "devices": [{
            "peer_id": "12D3bob", "name": "\u{1b}[2Jbob", "kind": null,
            "addresses": ["/ip4/127.0.0.1/tcp/1"], "reachability": "direct",
        }],
        "source": "directory", "settled": false, "age_ms": 0, "requests": 1, "elapsed_ms": 3,
    });
    let check = json!({ "name": "clock", "result": "warning", "detail": "runs 9 s ahead", "advice": null });
    for (args, code, expected) in [
        (&["resolve", "bob", "--fresh"][..], 0, resolved),
        (&["msg", "send", "bob", "hi"], 0, json!({ "id": "m1", "state": "queued" })),
        (&["msg", "send", "bob", "hi", "--wait"], 0, json!({ "id": "m1", "state": "delivered" })),
        (&["msg", "typing", "bob", "--stop"], 0, json!({ "with": "bob", "told": true })),
        (&["msg", "list", "bob"], 0, json!({ "with": "bob", "messages": [], "unread": 0, "missing": 0 })),
        (&["call", "bob"], 0, outcome),
        (&["call", "decliner"], 1, declined),
        (&["sip", "account", "remove", "bob"], 0, json!({ "account": "bob", "peer_id": "12D3sip" })),
        (
            &["link", "list"],
            0,
            json!({ "accounts": [{
                "account": "xmpp:alice@there.example", "state": "connected", "reason": null, "shown_until": null, "tokens": false, "listed": false,
                "listed_at": 0, "certified_until": null, "contacts": [], "here": true, "peer_id": "12D3this", "device": "desk",
            }], "carriers": ["place"] }),
        ),
        (
            &["link", "find", "mailto:Bob@There.example"],
            0,
            json!({ "id": "mailto:bob@there.example", "users": [{ "username": "bob@example", "identity": "ed25519:AAAA", "proved_by": null }], "answered": 8 }),
        ),
        (
            &["authority", "certify", "bob", "xmpp:Bob@There.example", "--remove"],
            0,
            json!({ "username": "bob", "id": "xmpp:bob@there.example", "is_certified": false }),
        ),
        (
            &["link", "add", "mailto:Alice@There.example"],
            0,
            json!({ "account": "mailto:alice@there.example", "expires_at": "2026-07-24T09:00:00.000Z" }),
        ),
        (
            &["link", "add", "mailto:alice@there.example", "--code", "0123 4567"],
            0,
            json!({
                "account": "mailto:alice@there.example", "state": "connected", "reason": null, "shown_until": null, "tokens": false, "listed": false,
                "listed_at": 0, "certified_until": null, "contacts": [], "here": true, "peer_id": "12D3this", "device": "desk",
            }),
        ),
        (
            &["link", "book"],
            0,
            json!({
                "addresses": 3, "source": "https://dav.example/", "user": "alice", "books": 1, "read_at": "2026-07-24T09:00:00.000Z", "reason": null,
            }),
        ),
        (
            &["link", "book", "--none"],
            0,
            json!({ "addresses": 0, "source": null, "user": null, "books": 0, "read_at": null, "reason": null }),
        ),
        (
            &["link", "remove", "xmpp:Alice@There.example"],
            0,
            json!({ "account": "xmpp:alice@there.example", "is_taken_back": true }),
        ),
        (&["calls", "list"], 0, json!({ "calls": [] })),
        (&["calls", "hangup", "c1"], 0, json!({ "call_id": "c1", "done": "ended" })),
        (
            &["calls", "add", "c1", "carol"],
            0,
            json!({
                "call_id": "c1", "conference_id": "f1", "username": "carol", "joined": true, "outcome": null, "reason": null,
            }),
        ),
        (
            &["calls", "add", "c1", "decliner"],
            1,
            json!({
                "call_id": "c1", "conference_id": "f1", "username": "decliner", "joined": false, "outcome": "declined",
                "reason": null,
            }),
        ),
        (&["calls", "press", "c1", "12#"], 0, json!({ "call_id": "c1", "done": "pressed" })),
        (&["calls", "rejoin", "c1"], 0, json!({ "conference_id": "f1", "joined": true })),
        (&["calls", "rejoin", "gone"], 1, json!({ "conference_id": "f1", "joined": false })),
        (&["peers"], 0, json!({ "peers": [] })),
        (&["doctor"], 0, json!({ "ok": true, "checks": [check] })),
        (&["push", "list"], 0, json!({ "registrations": [] })),
        (
            &["push", "session", "request", "--identity", "bob@example", "--ask", "capabilities"],
            0,
            json!({ "mode": "B", "reason": "all clients are wanted", "clients": [] }),
        ),
        (&["push", "session", "answer", "r1"], 0, json!({ "status": "opening", "reason": null })),
        (&["push", "policy", "get"], 0, json!({ "version": 3, "text": "version = 1\n" })),
        (&["push", "test"], 0, json!({ "ok": true, "gateways": [] })),
        (&["push", "unregister", "r1"], 0, json!({ "id": "r1", "gateway_told": true })),
        (
            &["push", "register", "webhook", "--url", "https://hook.example/a"],
            0,
            json!({
                "id": "r1", "kind": "webhook", "gateway": "12D3gateway", "registered_at": "1970-01-01T00:00:00.000Z",
                "expires_at": null, "policy_version": null, "state": "live", "reason": null, "secret": "whsec_AAAA",
            }),
        ),
        (&["suspend"], 0, json!({ "suspended": true, "clean": false, "push_registrations": 1 })),
        (&["authority", "log"], 0, json!({ "entries": [] })),
        (
            &["enrol", "bob@example", "--invite", "CODE"],
            0,
            json!({
                "username": "bob@example", "identity": "ed25519:x", "authority_key": "ed25519:y",
                "serial": 1, "not_after": "1970-01-01T00:00:00.000Z",
            }),
        ),
    ] {
        let args: Vec<_> = args.iter().copied().chain(["--json"]).collect();
        let output = run(dir.path(), &args).await;
        assert_eq!(output.status.code(), Some(code), "{args:?}: {}", text(&output.stderr));
        assert_eq!(text(&output.stderr), "", "{args:?}");
        let document: Value = serde_json::from_slice(&output.stdout).expect("one document");
        assert_eq!(document, expected, "{args:?}");
    }
}

#[tokio::test]
async fn failures_of_the_daemon_become_exit_codes() {
    let dir = tempfile::tempdir().expect("a directory");
    let _fake = Fake::start(dir.path(), None).await;
    for (args, code, word) in [
        (&["resolve", "nobody"][..], 1, "nobody"),
        (&["calls", "answer", "gone"], 1, "gone"),
        (&["push", "unregister", "gone"], 1, "gone"),
        (&["msg", "send", "nowhere", "hi", "--wait", "--timeout", "0.2"], 1, "not delivered"),
    ] {
        let output = run(dir.path(), args).await;
        assert_fails(args, &output, code);
        assert!(text(&output.stderr).contains(word), "{}", text(&output.stderr));
    }
    let args = ["msg", "send", "nowhere", "hi", "--wait", "--timeout", "0.2", "--json"];
    let output = run(dir.path(), &args).await;
    assert_eq!(output.status.code(), Some(1));
    let status: Value = serde_json::from_slice(&output.stdout).expect("one document");
    assert_eq!(status, json!({ "id": "stuck", "state": "queued" }));
    let output = run(dir.path(), &["resolve", "nobody", "--json"]).await;
    let problem: Value = serde_json::from_slice(&output.stdout).expect("one document");
    assert_eq!(problem["type"], "/v1/problems/user-not-found");
}

#[tokio::test]
async fn text_for_people_is_readable_and_harmless() {
    let dir = tempfile::tempdir().expect("a directory");
    let _fake = Fake::start(dir.path(), None).await;
    for args in [
        &["status"][..],
        &["peers"],
        &["doctor"],
        &["why", "bob"],
        &["resolve", "bob"],
        &["msg", "list", "bob"],
        &["call", "bob"],
        &["calls", "list"],
        &["push", "register", "stream"],
        &["push", "register", "fcm", "--token", "abc"],
        &["push", "register", "apns", "--token", "00ff", "--topic", "org.example.voip", "--sandbox"],
        &["push", "register", "webhook", "--url", "https://hook.example/a"],
        &["push", "register", "sms", "--number", "+15550100"],
        &["push", "register", "sip", "--address", "sip:alice@example;gr=urn:uuid:1"],
        &["push", "unregister", "r1"],
        &["push", "preferences"],
        &["push", "session", "request", "--identity", "bob@example"],
        &["push", "policy", "get"],
        &["push", "policy", "explain", "--event", "call", "--from", "bob"],
        &["device", "usage", "in-use", "--metres", "2"],
        &["device", "attributes", "--screen", "80x25", "--camera", "--formats", "image/*,text/plain"],
        &["wake"],
        &["authority", "show"],
        &["authority", "invite", "--name", "bob"],
        &["authority", "revoke", "bob"],
        &["authority", "log"],
    ] {
        let output = run(dir.path(), args).await;
        assert_eq!(output.status.code(), Some(0), "{args:?}: {}", text(&output.stderr));
        let stdout = text(&output.stdout);
        assert!(stdout.ends_with('\n') && !stdout.contains('\u{1b}') && !stdout.contains('{'), "{args:?}: {stdout}");
    }
}

#[tokio::test]
async fn a_daemon_on_tcp_is_found_with_its_token() {
    let dir = tempfile::tempdir().expect("a directory");
    let _fake = Fake::start(dir.path(), Some("127.0.0.1:0")).await;
    let output = run(dir.path(), &["status", "--json"]).await;
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
}

#[tokio::test]
async fn watching_streams_one_object_per_line_and_ends_with_the_daemon() {
    let dir = tempfile::tempdir().expect("a directory");
    let fake = Fake::start(dir.path(), None).await;
    let mut child = command(dir.path(), &["msg", "watch", "--json"]).stdout(Stdio::piped()).spawn().expect("ran");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    // The watcher says nothing when it is connected, so the event is repeated until it is seen.
    let event = Event::MessageReceived {
        message_id: "m7".to_owned(),
        from: "bob@example".to_owned(),
        linked: None,
        group: None,
        text: "hi".to_owned(),
        sent_at: halloo::timestamp::Timestamp::default(),
        held_secs: None,
        notice: None,
    };
    let mut again = tokio::time::interval(std::time::Duration::from_millis(50));
    let line = loop {
        tokio::select! {
            line = lines.next_line() => break line.expect("read").expect("a line"),
            _ = again.tick() => { fake.events.send(event.clone()); }
        }
    };
    let record: Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!((&record["event"], &record["text"]), (&json!("message_received"), &json!("hi")));
    fake.stop().await;
    let status = tokio::time::timeout(DEADLINE, child.wait()).await.expect("in time").expect("ended");
    assert_eq!(status.code(), Some(1));
}

#[tokio::test]
async fn an_interrupted_call_hangs_up() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut fake = Fake::start(dir.path(), None).await;
    let mut child = command(dir.path(), &["call", "rings"]).spawn().expect("ran");
    // Dropping the process before it dials would prove nothing; the fake reports a hang-up only
    // after a dial, so the interrupt is repeated until it does.
    let pid = child.id().expect("running").to_string();
    let mut again = tokio::time::interval(std::time::Duration::from_millis(300));
    again.tick().await;
    loop {
        tokio::select! {
            hung_up = fake.hung_up.recv() => break hung_up.expect("hung up"),
            _ = again.tick() => {
                let sent = Command::new("kill").args(["-INT", &pid]).status().await.expect("ran");
                assert!(sent.success());
            }
        }
    }
    let status = tokio::time::timeout(DEADLINE, child.wait()).await.expect("in time").expect("ended");
    assert_eq!(status.code(), Some(1));
}

#[tokio::test]
async fn a_second_daemon_on_one_home_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let _fake = Fake::start(dir.path(), None).await;
    let output = run(dir.path(), &["run"]).await;
    assert_fails(&["run"], &output, 1);
    let stderr = text(&output.stderr);
    assert!(stderr.contains("another daemon") && stderr.contains(&std::process::id().to_string()), "{stderr}");
}

#[tokio::test]
async fn a_mistake_in_the_configuration_is_told_with_its_line() {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(dir.path().join("config.toml"), "lab = true\nlistn = []\n").expect("written");
    let output = run(dir.path(), &["run"]).await;
    assert_fails(&["run"], &output, 2);
    assert!(text(&output.stderr).contains("config.toml:2: "), "{}", text(&output.stderr));
}

#[tokio::test]
async fn help_version_and_completions_need_no_home() {
    let none = Path::new("/nonexistent/home");
    for args in [&["--version"][..], &["--help"], &["msg", "send", "--help"], &["completions", "fish"]] {
        let output = run(none, args).await;
        assert_eq!(output.status.code(), Some(0), "{args:?}");
        assert!(!output.stdout.is_empty() && output.stderr.is_empty(), "{args:?}");
    }
}

#[tokio::test]
async fn a_closed_pipe_ends_quietly() {
    let mut child = command(Path::new("/nonexistent"), &["completions", "bash"]);
    let mut child = child.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("ran");
    drop(child.stdout.take());
    let output = tokio::time::timeout(DEADLINE, child.wait_with_output()).await.expect("in time").expect("ended");
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), ""));
}

/// Runs `init --recover` with a phrase on stdin.
async fn recover(home: &Path, phrase: &str) -> Output {
    let mut command = command(home, &["init", "--recover", "--json"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("ran");
    child.stdin.take().expect("piped").write_all(phrase.as_bytes()).await.expect("written");
    tokio::time::timeout(DEADLINE, child.wait_with_output()).await.expect("in time").expect("ended")
}

#[tokio::test]
async fn init_makes_an_identity_that_its_phrase_brings_back() {
    let dir = tempfile::tempdir().expect("a directory");
    let (first, second) = (dir.path().join("first"), dir.path().join("second"));
    let args = ["init", "--json", "--display-name", "Al", "--lang", "en,de", "--device-kind", "phone", "--relay", "contacts"];
    let output = run(&first, &args).await;
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let made: Value = serde_json::from_slice(&output.stdout).expect("one document");
    let phrase = made["recovery_phrase"].as_str().expect("a phrase");
    assert_eq!(phrase.split(' ').count(), 24);
    let config = std::fs::read_to_string(first.join("config.toml")).expect("a configuration");
    for line in ["display_name = \"Al\"", "languages = [\"en\", \"de\"]", "kind = \"phone\"", "for = \"contacts\""] {
        assert!(config.lines().any(|found| found == line), "{line} is not in {config}");
    }

    let output = recover(&second, phrase).await;
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let recovered: Value = serde_json::from_slice(&output.stdout).expect("one document");
    assert_eq!(recovered["identity"], made["identity"]);
    assert_ne!(recovered["peer_id"], made["peer_id"]);
    assert_eq!(recovered["recovery_phrase"], Value::Null);

    let keys = std::fs::read(first.join("device.key")).expect("a key");
    let again = run(&first, &["init"]).await;
    assert_fails(&["init"], &again, 1);
    assert_eq!(std::fs::read(first.join("device.key")).expect("a key"), keys);
}

#[tokio::test]
async fn a_phrase_that_is_none_is_refused_without_being_repeated() {
    let dir = tempfile::tempdir().expect("a directory");
    let output = recover(&dir.path().join("home"), "hunter2 hunter2").await;
    assert_eq!(output.status.code(), Some(2));
    assert!(!text(&output.stderr).contains("hunter2") && !text(&output.stdout).contains("hunter2"));
    let unknown_word = recover(&dir.path().join("home"), &"hunter2 ".repeat(24)).await;
    assert_eq!(unknown_word.status.code(), Some(2));
    assert!(!text(&unknown_word.stderr).contains("hunter2"));
}

#[tokio::test]
async fn init_leaves_foreign_directories_alone() {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(dir.path().join("thesis.txt"), "").expect("written");
    assert_fails(&["init"], &run(dir.path(), &["init"]).await, 2);
}
