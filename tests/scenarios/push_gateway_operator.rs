//! Goal: whoever runs a gateway, logs everything it does and looks into its process, learns neither who calls by what name, nor what is written, nor a key.
//! Method: calls and a message are pushed through it; then its log, its home and its memory are searched. The same searches find the gateway's own peer id.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use halloo_tests::cli::Invocation;
use halloo_tests::{Daemon, Plan, User, eventually, memory};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(40);

/// What doesn't turn up by chance.
const ALICE_NAME: &str = "Alice of the Looking Glass";
const BOB_NAME: &str = "Bob who sits in the hedge";
const WORDS: &str = "the jabberwock waits behind the tulgey wood";

#[test]
fn a_gateways_memory_and_log_hold_no_name_no_text_and_no_key() {
    let plan = Plan::new(["alice", "bob", "carol"]).args("bob", ["--answer", "auto"]).args("carol", ["--role", "gateway"]);
    let mut network = plan.start();
    let talkative = network.launch("carol").log("trace,halloo=trace");
    let [alice, bob, carol] = network.users();
    carol.kill();
    carol.start(talkative);
    alice.cli(["profile", "set", "--name", ALICE_NAME]).ok();
    bob.cli(["profile", "set", "--name", BOB_NAME]).ok();
    bob.cli(["push", "register", "webpush", "--gateway", &carol.addresses()[0]]).ok();
    let took = "push service took the push";

    suspend(bob);
    let sent = alice.cli(["msg", "send", &bob.username, WORDS]).ok();
    bob.wait_event(PATIENCE, "push_received", |event| event["message_id"] == sent["id"]);
    eventually(PATIENCE, "the message went through this gateway", || {
        if carol.logged(took) >= 1 { Ok(()) } else { Err("not yet".to_owned()) }
    });
    for call in 1..=2 {
        suspend(bob);
        let running = Invocation::new(alice.home()).args(["call", &bob.username, "--duration", "1"]).start();
        let outcome = running.wait(PATIENCE).ok();
        assert_eq!((&outcome["outcome"], &outcome["via_push"]), (&Value::from("completed"), &Value::from(true)), "{outcome}");
        eventually(PATIENCE, "the call went through this gateway", || {
            if carol.logged(took) > call { Ok(()) } else { Err("not yet".to_owned()) }
        });
    }
    knows_nothing(carol, &[alice, bob]);
}

fn suspend(user: &User) {
    assert_eq!(user.cli(["suspend"]).ok()["suspended"], true);
}

#[track_caller]
fn knows_nothing(gateway: &Daemon, users: &[&User]) {
    let keys: Vec<Vec<u8>> = users.iter().flat_map(|user| secret_keys(user.home())).collect();
    assert!(keys.len() >= 2 * users.len(), "each has an identity key and a device key, as text and as bytes");
    let texts = [ALICE_NAME, BOB_NAME, WORDS, "jabberwock", "a=fingerprint:sha-256", "a=ice-pwd"];
    let mut secrets: Vec<&[u8]> = texts.map(str::as_bytes).to_vec();
    secrets.extend(keys.iter().map(Vec::as_slice));
    let own = gateway.peer_id();
    let mut wanted = vec![own.as_bytes()];
    wanted.extend(&secrets);

    let pid = gateway.pid().expect("it runs");
    let held = memory::holds(pid, &wanted).expect("a process that this test has started can be looked into");
    check("memory", &held);
    let mut logged = vec![false; wanted.len()];
    let log = gateway.home().parent().expect("a folder").join(format!("{}.stderr", gateway.name()));
    let log = fs::read(log).expect("its log");
    assert!(log.len() > 100_000, "{} bytes are no log of everything", log.len());
    memory::mark(&log, &wanted, &mut logged);
    check("log", &logged);
    let mut kept = vec![false; wanted.len()];
    files(gateway.home()).iter().for_each(|file| memory::mark(&fs::read(file).unwrap_or_default(), &secrets, &mut kept[1..]));
    assert!(!kept.contains(&true), "the home holds what it must not: {kept:?}");
}

/// The first is the gateway's own name, which has to be found; the others must not.
#[track_caller]
fn check(place: &str, found: &[bool]) {
    assert!(found[0], "not even its own peer id is found in its {place}");
    assert!(!found[1..].contains(&true), "the {place} holds what it must not: {found:?}");
}

/// The secret keys of a home, as written and as bytes.
fn secret_keys(home: &Path) -> Vec<Vec<u8>> {
    let read = ["identity.key", "device.key"].map(|name| fs::read_to_string(home.join(name)).expect("a key file"));
    let words = read.iter().map(|line| line.trim().rsplit(' ').next().expect("a key"));
    words
        .flat_map(|word| {
            let bytes = data_encoding::BASE64URL_NOPAD.decode(word.as_bytes()).expect("base64url");
            [word.as_bytes().to_vec(), bytes]
        })
        .collect()
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok).map(|entry| entry.path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}
