//! A real daemon: the first node of a network, from its first line to its last.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use crate::cli::{assert_fails, command, run, text};
use crate::fake::DEADLINE;

/// What users are promised: an exit within so long of SIGTERM.
const EXIT_MAX: Duration = Duration::from_secs(5);

struct Daemon {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    ready: Value,
}

/// Starts the first node of a network and waits until it is ready.
async fn start(home: &Path, args: &[&str]) -> Daemon {
    let args: Vec<_> = ["run", "--json", "--lab", "--role", "authority"].iter().chain(args).copied().collect();
    let mut child = command(home, &args).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("ran");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let line = tokio::time::timeout(DEADLINE, lines.next_line()).await.expect("in time").expect("read").expect("a line");
    let ready = serde_json::from_str(&line).expect("JSON");
    Daemon { child, lines, ready }
}

async fn signal(daemon: &Daemon, signal: &str) {
    let pid = daemon.child.id().expect("running").to_string();
    assert!(Command::new("kill").args([signal, &pid]).status().await.expect("ran").success());
}

async fn init(home: &Path) {
    let output = run(home, &["init", "--json"]).await;
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
}

#[tokio::test]
async fn its_first_line_says_ready_and_sigterm_ends_it_in_time() {
    let dir = tempfile::tempdir().expect("a directory");
    init(dir.path()).await;
    let mut daemon = start(dir.path(), &[]).await;
    assert_eq!(daemon.ready["event"], "ready");
    assert_eq!(daemon.ready["api"], format!("unix:{}", dir.path().join("api.sock").display()));
    assert!(daemon.ready["roles"].as_array().expect("roles").contains(&Value::from("authority")));
    assert!(!daemon.ready["listen"].as_array().expect("addresses").is_empty());

    let status: Value = serde_json::from_slice(&run(dir.path(), &["status", "--json"]).await.stdout).expect("JSON");
    assert_eq!(status["peer_id"], daemon.ready["peer_id"]);
    assert_fails(&["run"], &run(dir.path(), &["run"]).await, 1);

    let asked = Instant::now();
    signal(&daemon, "-TERM").await;
    let ended = tokio::time::timeout(DEADLINE, daemon.child.wait()).await.expect("in time").expect("ended");
    assert_eq!(ended.code(), Some(0));
    assert!(asked.elapsed() < EXIT_MAX, "{:?}", asked.elapsed());
    while let Some(line) = daemon.lines.next_line().await.expect("read") {
        serde_json::from_str::<Value>(&line).expect("JSON to the last line");
    }
    assert_fails(&["status"], &run(dir.path(), &["status"]).await, 3);
}

#[tokio::test]
async fn a_killed_daemon_starts_again_as_the_same_device() {
    let dir = tempfile::tempdir().expect("a directory");
    init(dir.path()).await;
    let mut first = start(dir.path(), &["--api", "127.0.0.1:0"]).await;
    let key = |output: std::process::Output| -> Value {
        let status: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        status["key"].clone()
    };
    let before = key(run(dir.path(), &["authority", "show", "--json"]).await);
    first.child.kill().await.expect("killed");
    assert_fails(&["status"], &run(dir.path(), &["status"]).await, 3);
    let second = start(dir.path(), &[]).await;
    assert_eq!(second.ready["peer_id"], first.ready["peer_id"]);
    assert_eq!(key(run(dir.path(), &["authority", "show", "--json"]).await), before);
}

#[tokio::test]
async fn a_home_enrols_with_a_code_and_without_a_daemon() {
    let dir = tempfile::tempdir().expect("a directory");
    let (authority, alice) = (dir.path().join("authority"), dir.path().join("alice"));
    init(&authority).await;
    init(&alice).await;
    let _daemon = start(&authority, &[]).await;
    let invite = run(&authority, &["authority", "invite", "--json"]).await;
    let invite: Value = serde_json::from_slice(&invite.stdout).expect("JSON");
    let code = invite["code"].as_str().expect("a code");
    let wanted = "alice@friends";
    let args = ["enrol", wanted, "--invite", code, "--json"];
    let output = run(&alice, &args).await;
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let enrolled: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(enrolled["username"], wanted);
    // A code is for one person.
    let bob = dir.path().join("bob");
    init(&bob).await;
    assert_fails(&["enrol"], &run(&bob, &["enrol", "bob@friends", "--invite", code]).await, 1);
}
