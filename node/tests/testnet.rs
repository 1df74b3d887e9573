//! Whole networks: the tour and the scenarios as the command runs them, and a hundred nodes in one process.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant, SystemTime};

use halloo::config::RelayPolicy;
use halloo::devices::join::{JoinOptions, LinkTarget, join};
use halloo::handle::calls::{CallResult, DialOptions};
use halloo::handle::devices::LinkOptions;
use halloo::handle::directory::{ResolveError, ResolveOptions};
use halloo::identity::LocalIdentity;
use halloo::store::Store;
use halloo::testnet::{Network, NetworkOptions, Person, UserOptions, wait_ready};
use halloo::{AutoAnswer, Event, Node};
use halloo_protocol::linking::DeviceLink;
use halloo_protocol::time::UnixTime;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

const SEED: u64 = 20;

fn halloo_testnet(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_halloo")).arg("testnet").args(arguments).output().unwrap()
}

/// The JSON lines of a run; the last is the summary.
fn lines(output: &Output) -> Vec<Value> {
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}"))).collect()
}

fn assert_all_worked(output: &Output) -> Vec<String> {
    let lines = lines(output);
    let summary = lines.last().unwrap_or_else(|| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    assert_eq!(summary["event"], "summary");
    assert_eq!(summary["ok"], true, "{summary:#}");
    assert!(output.status.success());
    let stages = summary["stages"].as_array().unwrap();
    // Every stage was told when it ended, too.
    assert_eq!(lines.iter().filter(|line| line["event"] == "stage").count(), stages.len());
    stages.iter().map(|stage| stage["name"].as_str().unwrap().to_owned()).collect()
}

fn scenarios() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/scenarios")
}

fn play(name: &str) -> Vec<String> {
    let file = scenarios().join(name);
    assert_all_worked(&halloo_testnet(&["--json", "--seed", "1", "--scenario", file.to_str().unwrap()]))
}

#[test]
fn the_tour_shows_every_capability() {
    let stages = assert_all_worked(&halloo_testnet(&["--json", "--seed", "1"]));
    assert_eq!(
        stages,
        [
            "network up",
            "look-up",
            "contacts",
            "presence",
            "messages",
            "voice call",
            "relayed call",
            "voicemail",
            "push wake-up",
            "push test",
            "a device dies"
        ]
    );
}

#[test]
fn two_users_can_tour_an_open_network() {
    assert_all_worked(&halloo_testnet(&["--json", "--nodes", "2", "--open"]));
}

#[test]
fn churn_is_survived() {
    assert!(play("churn.toml").iter().any(|stage| stage == "2 s: kill 20%"));
}

#[test]
fn sleepers_are_woken() {
    play("sleep.toml");
}

#[test]
fn the_revoked_are_gone() {
    play("revocation.toml");
}

#[test]
fn a_scenario_that_expects_wrongly_fails() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("wrong.toml");
    let text = "users = [\"alice\", \"bob\"]\n[[step]]\nat_s = 0\nresolve = { from = \"alice\", to = \"bob\", expect = \"not-found\" }\n";
    std::fs::write(&file, text).unwrap();
    let output = halloo_testnet(&["--json", "--scenario", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    let summary = lines(&output).pop().unwrap();
    assert_eq!(summary["ok"], false);
    assert_eq!(summary["stages"][1]["detail"], "bob@test was found");
}

#[test]
fn a_bad_scenario_is_refused_with_its_line() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("bad.toml");
    std::fs::write(&file, "users = [\"alice\", \"bob\"]\n\n[[step]]\nat_s = 0\nkill = [\"eve\"]\n").unwrap();
    let output = halloo_testnet(&["--scenario", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("bad.toml: line 3: \"eve\" is not a user of this scenario"), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
    assert_eq!(halloo_testnet(&["--scenario", "/does/not/exist.toml"]).status.code(), Some(2));
}

/// Memory this process occupies, in bytes.
fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1_024)
}

/// Hundreds of nodes fit in one process: nothing of a node is global.
#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_nodes_find_each_other_in_one_process() {
    const USERS: usize = 100;
    const LOOK_UPS: usize = 50;
    const MEGABYTES_PER_NODE_MAX: u64 = 24;
    let mut rng = StdRng::seed_from_u64(SEED);
    let started = Instant::now();
    let before = resident();
    let mut network = Network::start(NetworkOptions::default()).await.unwrap();
    let names: Vec<String> = (1..=USERS).map(|n| format!("user-{n}")).collect();
    network.add_users(names.iter().map(|name| (name.clone(), UserOptions::default()))).await.unwrap();
    eprintln!("{USERS} users ready after {:?}, seed {SEED}", started.elapsed());
    let fresh = ResolveOptions { fresh: true, settled: false };
    let started = Instant::now();
    for _ in 0..LOOK_UPS {
        let [from, to] = names.sample_array::<_, 2>(&mut rng).unwrap();
        let found = network.node(&from).unwrap().directory().resolve(&to, fresh).await;
        network.person(&to).unwrap().check(&found.unwrap_or_else(|error| panic!("{from} looks for {to}: {error}"))).unwrap();
    }
    eprintln!("{LOOK_UPS} look-ups in {:?}", started.elapsed());
    let missing = network.node("user-7").unwrap().directory().resolve("nobody", fresh).await;
    assert!(matches!(missing, Err(ResolveError::NotFound { .. })), "{missing:?}");
    if let Some((before, after)) = before.zip(resident()) {
        let each = (after - before) / USERS as u64;
        eprintln!("{} kB a node", each / 1_000);
        assert!(each < MEGABYTES_PER_NODE_MAX * 1_000_000, "{each} bytes a node");
    }
    network.shutdown().await;
}

/// Somebody who answers calls. Their node has a runtime of its own, which ends with it when it is killed: its connections aren't closed.
fn answering() -> UserOptions {
    UserOptions { freezable: true, answer: Some(AutoAnswer::default()), ..UserOptions::default() }
}

async fn call(from: &Node, to: &str, duration: Duration) -> CallResult {
    let options = DialOptions { duration_ms: Some(duration.as_millis() as u64), ..DialOptions::to(to) };
    let outcome = from.calls().dial(options).await.unwrap();
    if outcome.outcome != CallResult::Completed {
        let stages = from.calls().show(&outcome.call_id).await.unwrap().stages;
        eprintln!("call to {to}: {:?}", outcome.reason);
        stages.iter().for_each(|stage| eprintln!("{:>6} ms  {:?}: {}", stage.at_ms, stage.stage, stage.detail));
    }
    outcome.outcome
}

async fn is_connected(node: &Node, person: &Person) -> bool {
    node.peers().await.unwrap().peers.iter().any(|peer| peer.peer_id == person.peer_id)
}

/// Whoever was killed and is back is called where they are now, by those as well who hold a connection to where they were that looks open.
#[tokio::test(flavor = "multi_thread")]
async fn who_is_back_after_being_killed_can_be_called_at_once() {
    // So many that bob, coming back, doesn't meet everybody on his way.
    const CALLERS: usize = 24;
    let mut network = Network::start(NetworkOptions { strangers: true, ..NetworkOptions::default() }).await.unwrap();
    let callers: Vec<String> = (1..=CALLERS).map(|n| format!("user-{n}")).collect();
    // Whoever dialled, the connection is by QUIC, and so looks open when its other end is gone.
    let caller = UserOptions { quic_only: true, ..UserOptions::default() };
    let bob = UserOptions { quic_only: true, ..answering() };
    let users = callers.iter().map(|name| (name.clone(), caller.clone()));
    network.add_users(users.chain([("bob".to_owned(), bob)])).await.unwrap();
    for name in &callers {
        let caller = network.node(name).unwrap();
        let sent = caller.messages().send("bob", "May I call?").await.unwrap();
        caller.messages().wait(&sent.id, Duration::from_secs(30)).await.unwrap();
    }
    network.kill("bob").await.unwrap();
    let bob = network.restart("bob").await.unwrap();
    wait_ready(&bob, "bob").await.unwrap();
    let mut events = bob.subscribe();
    let mut deceived = 0;
    for name in &callers {
        let caller = network.node(name).unwrap();
        let is_open = is_connected(caller, network.person("bob").unwrap()).await;
        let is_met = is_connected(&bob, network.person(name).unwrap()).await;
        deceived += usize::from(is_open && !is_met);
        if !is_met {
            assert_eq!(call(caller, "bob", Duration::from_millis(100)).await, CallResult::Completed, "{name} calls bob");
            // Else the next finds him busy.
            let ended = async { while !matches!(events.recv().await.unwrap().event, Event::CallEnded(_)) {} };
            tokio::time::timeout(Duration::from_secs(30), ended).await.expect("bob's end of it is over as well");
        }
    }
    eprintln!("{deceived} of {CALLERS} held a connection to where bob was");
    assert!(deceived > 0, "no caller held a connection to where bob was");
    network.shutdown().await;
}

/// Last words to somebody who is gone are repeated for a while. All others are heard meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_with_somebody_who_is_gone_makes_nobody_deaf() {
    const CALLS: usize = 5;
    let mut network = Network::start(NetworkOptions { strangers: true, ..NetworkOptions::default() }).await.unwrap();
    let users = ["alice", "bob", "carol"].map(|name| (name.to_owned(), answering()));
    network.add_users(users).await.unwrap();
    let alice = network.node("alice").unwrap().clone();
    let mut events = alice.subscribe();
    let bob = network.node("bob").unwrap().clone();
    let calling = tokio::spawn(async move { bob.calls().dial(DialOptions::to("alice")).await });
    let call_id = loop {
        if let Event::CallAnswered { call_id, .. } = events.recv().await.unwrap().event {
            break call_id;
        }
    };
    network.kill("bob").await.unwrap();
    calling.abort();
    alice.calls().hangup(&call_id).await.unwrap();
    for _ in 0..CALLS {
        assert_eq!(call(&alice, "carol", Duration::from_secs(1)).await, CallResult::Completed, "after a call from bob");
    }
    assert_eq!(call(&alice, "bob", Duration::from_secs(1)).await, CallResult::Unreachable);
    for _ in 0..CALLS {
        assert_eq!(call(&alice, "carol", Duration::from_secs(1)).await, CallResult::Completed, "after a call to bob");
    }
    network.shutdown().await;
}

/// A device of `holder`'s user that has never been in the network: it knows where to find it, and no node of it.
async fn link(holder: &Node, home: &Path) {
    let offer = holder.devices().offer_link(LinkOptions::default()).await.unwrap();
    let target = LinkTarget::Link(Box::new(DeviceLink::parse(&offer.link).unwrap()));
    let home = home.to_owned();
    let options = JoinOptions { home, target, device_name: None, device_kind: None, relay: RelayPolicy::Off };
    join(options, CancellationToken::new(), |_| ()).await.unwrap();
}

async fn switch_on(home: &Path) -> Node {
    let store = Store::open(home).unwrap();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let identity = LocalIdentity::load(home, &store, UnixTime(now)).unwrap();
    Node::builder(identity).store(store).lab(true).spawn().await.unwrap()
}

/// As a phone does whose node has just been started.
#[tokio::test(flavor = "multi_thread")]
async fn who_asks_before_the_network_is_joined_is_answered_when_it_is() {
    let mut network = Network::start(NetworkOptions { strangers: true, ..NetworkOptions::default() }).await.unwrap();
    let users = ["alice", "bob"].map(|name| (name.to_owned(), answering()));
    let alice = network.add_users(users).await.unwrap().remove(0);
    let homes = tempfile::tempdir().unwrap();
    let [asking, calling] = ["asking", "calling"].map(|name| homes.path().join(name));
    link(&alice, &asking).await;
    link(&alice, &calling).await;

    let node = switch_on(&asking).await;
    let bob = network.person("bob").unwrap();
    bob.check(&node.directory().resolve(&bob.username, ResolveOptions::default()).await.unwrap()).unwrap();
    node.shutdown().await.unwrap();
    let caller = switch_on(&calling).await;
    assert_eq!(call(&caller, "bob", Duration::from_millis(100)).await, CallResult::Completed);

    // Whoever looks for a network that isn't there any more is told so, after having looked.
    let carol = "carol@test";
    caller.shutdown().await.unwrap();
    network.shutdown().await;
    let alone = switch_on(&calling).await;
    let refused = alone.directory().resolve(carol, ResolveOptions::default()).await;
    assert!(matches!(refused, Err(ResolveError::NoServers)), "{refused:?}");
    alone.shutdown().await.unwrap();
}
