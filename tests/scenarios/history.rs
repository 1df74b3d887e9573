//! Goal: what was said is found by its words, and comes back from a file, once, for whoever has the passphrase. Method: two daemons that talk, searches
//! in several scripts, a file taken from one home and brought into another device's, altered files.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use halloo_tests::cli::Invocation;
use halloo_tests::{Network, User, eventually};
use serde_json::Value;

const ARRIVAL_TIME_MAX: Duration = Duration::from_secs(45);

fn texts(found: &Value) -> Vec<String> {
    let messages = found["messages"].as_array().expect("a list");
    messages.iter().map(|found| found["message"]["text"].as_str().expect("a text").to_owned()).collect()
}

fn search(of: &User, args: &[&str]) -> Vec<String> {
    texts(&Invocation::new(of.home()).args(["msg", "search"]).args(args).run().ok())
}

fn count(of: &User, with: &User) -> usize {
    let list = of.api().get(&format!("/v1/messages?with={}", with.username)).expect("it runs");
    list["messages"].as_array().map_or(0, Vec::len)
}

#[track_caller]
fn archive(of: &User, what: &str, file: &Path, passphrase: &str) -> halloo_tests::cli::Output {
    let args = ["history", what, file.to_str().expect("Unicode")];
    Invocation::new(of.home()).args(args).stdin(format!("{passphrase}\n")).run()
}

#[test]
fn conversations_are_found_taken_out_and_brought_back() {
    let mut network = Network::of(["alice", "bob"]);
    let folder = network.folder().to_owned();
    let [alice, bob] = network.users();
    for text in ["Grüße aus Straßburg", "明日東京駅で", "see you at the station", "the last train"] {
        alice.cli(["msg", "send", &bob.username, text, "--wait"]).ok();
    }
    bob.cli(["msg", "send", &alice.username, "which station?", "--wait"]).ok();
    assert_eq!(search(bob, &["STRASSB"]), ["Grüße aus Straßburg"]);
    assert_eq!(search(bob, &["東京"]), ["明日東京駅で"]);
    assert_eq!(search(bob, &["station"]), ["which station?", "see you at the station"], "the newest first, own ones too");
    assert_eq!(search(bob, &["station", "--limit", "1"]), ["which station?"]);
    assert_eq!(search(bob, &["at the stat", "--with", &alice.username]), ["see you at the station"]);
    assert!(search(bob, &["station", "--with", &bob.username]).is_empty());
    assert!(search(bob, &["大阪"]).is_empty());
    assert_eq!(bob.cli(["msg", "search", "?!"]).code, 2);
    // A restart, and another home with the same messages.
    bob.kill();
    bob.restart();
    assert_eq!(search(bob, &["last tra"]), ["the last train"]);
    let file = folder.join("bob.history");
    let exported = archive(bob, "export", &file, "correct horse").ok();
    assert_eq!(exported["messages"], 5, "{exported}");
    assert_eq!(archive(bob, "export", &file, "correct horse").code, 1, "nothing is written over");
    read_by_another_program(&file);
    bring_back(bob, alice, &file);
}

/// The Python that scripts/setup makes, with the package in it; else the machine's own.
fn python() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    let target = target.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"));
    let made = target.join("external/webpush/venv/bin/python");
    if made.exists() { made } else { "python3".into() }
}

/// The format is documented well enough to be read by others. Machines without the Python package skip it; scripts/setup installs it.
fn read_by_another_program(file: &Path) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("external/history/read.py");
    let python = python();
    let has_package = Command::new(&python).args(["-c", "import cryptography.hazmat.primitives.kdf.argon2"]).output();
    if !has_package.is_ok_and(|output| output.status.success()) {
        return eprintln!("skipped: python3 has no cryptography with Argon2id");
    }
    let output = Command::new(&python).arg(script).arg(file).arg("correct horse").output().expect("python3 runs");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    eprintln!("read by {}", python.display());
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines.len(), 7, "{text}");
    assert_eq!((&lines[0]["line"], &lines[6]["messages"]), (&"head".into(), &5.into()));
    assert_eq!(lines[1]["text"], "Grüße aus Straßburg");
}

fn bring_back(bob: &User, alice: &User, file: &Path) {
    // All of it is here: nothing is doubled.
    let again = archive(bob, "import", file, "correct horse").ok();
    assert_eq!((&again["messages"], &again["new"]), (&5.into(), &0.into()));
    assert_eq!(count(bob, alice), 5);
    for (passphrase, word) in [("wrong", "passphrase"), ("", "empty")] {
        let refused = archive(bob, "import", file, passphrase);
        assert_ne!(refused.code, 0);
        assert!(refused.last_error().contains(word), "{refused:?}");
    }
    assert!(archive(alice, "import", file, "correct horse").last_error().contains("another user"));
    let whole = std::fs::read(file).expect("there");
    let altered = file.with_extension("altered");
    std::fs::write(&altered, &whole[..whole.len() - 20]).expect("room");
    assert_eq!(archive(bob, "import", &altered, "correct horse").code, 1);
    eventually(ARRIVAL_TIME_MAX, "nothing was changed", || {
        let now = count(bob, alice);
        if now == 5 { Ok(()) } else { Err(now.to_string()) }
    });
}
