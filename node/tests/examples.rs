//! Every example runs, and says what its documentation promises.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::path::PathBuf;
use std::process::Command;

/// Where cargo put an example: beside the directory of this test's binary. Building all targets, as a test run without `--test` does, builds it.
fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.parent().unwrap().parent().unwrap().join("examples").join(name)
}

fn run(name: &str, expected: &[&str]) {
    let output = Command::new(example(name))
        .output()
        .unwrap_or_else(|error| panic!("{name}, built by `cargo build -p halloo --examples`: {error}"));
    let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{name} failed: {errors}\n{said}");
    for text in expected {
        assert!(said.contains(text), "{name} should say {text:?}: {said}");
    }
}

#[test]
fn embed_node() {
    run("embed_node", &["alice@test is ready as 12D3"]);
}

#[test]
fn send_message() {
    run("send_message", &["alice: Delivered", "bob: alice@test writes \"Hello, Bob!\""]);
}

#[test]
fn place_call() {
    run("place_call", &["the call: Completed", "path Some(Direct)"]);
}

#[test]
fn answer_call() {
    run("answer_call", &["bob: alice@test calls", "bob: the call is over: Completed", "alice: Completed"]);
}

#[test]
fn run_gateway() {
    run("run_gateway", &["registered for stream at 12D3"]);
}

/// With nobody to be reached: authority, gateway and caller have ended.
#[test]
fn cold_start() {
    run("cold_start", &["nobody else runs any more", "ringing: alice@test calls", "with 0 peers", "the screen says: "]);
}

#[test]
fn own_engine() {
    let expected = ["alice's engine is connected", "the call: Completed, path Some(Relayed)", "alice's engine has heard bob"];
    run("own_engine", &expected);
}
