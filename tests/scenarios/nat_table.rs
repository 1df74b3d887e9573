//! Goal: whatever two people's networks are, they talk, over the best path there can be. Method: the small internet of `natlab` with machines on
//! open networks, behind routers that let everybody in, only those who were sent to, or that take another port for everybody, and behind firewalls that let
//! no UDP out. For each pair a call; each end plays a tone, and each recording must hold the other's. CI takes seven telling pairs,
//! `scripts/test --long` all.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use halloo_tests::audio::{assert_heard, write_tone};
use halloo_tests::cli::Invocation;
use halloo_tests::daemon::Daemon;
use halloo_tests::eventually;
use halloo_tests::natlab::{Machine, NatLab, READY_TIME_MAX};
use halloo_tests::network::User;
use serde_json::Value;
use tempfile::TempDir;

const CALLER_HZ: f64 = 440.0;
const CALLEE_HZ: f64 = 660.0;

/// How long they talk, and how much of it a recording must hold: the path comes up after the answer.
const TALK: Duration = Duration::from_secs(3);
const HEARD_MIN: Duration = Duration::from_millis(1_500);

const SETTLED_TIME_MAX: Duration = Duration::from_secs(60);

/// What stands between a machine and the internet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Nat {
    /// Nothing.
    Open,
    /// A router that keeps ports and lets everybody in.
    Cone,
    /// A router that keeps ports and lets in who was sent to.
    Restricted,
    /// A router that takes another port for everybody.
    Symmetric,
    /// A router that lets no UDP out.
    TcpOnly,
}

use Nat::{Cone, Open, Restricted, Symmetric, TcpOnly};

const ALL: [Nat; 5] = [Open, Cone, Restricted, Symmetric, TcpOnly];

impl Nat {
    fn name(self) -> &'static str {
        match self {
            Open => "open",
            Cone => "cone",
            Restricted => "restricted",
            Symmetric => "symmetric",
            TcpOnly => "tcponly",
        }
    }

    fn machine(self, lab: &mut NatLab, name: &str, host: u8) -> Machine {
        match self {
            Open => lab.public_machine(name, host),
            Cone => lab.cone_machine(name, host),
            Restricted => lab.home_machine(name, host),
            Symmetric => lab.symmetric_machine(name, host),
            TcpOnly => lab.tcp_machine(name, host),
        }
    }
}

/// The best that a pair allows.
fn best_path(one: Nat, other: Nat) -> &'static str {
    let pair = [one, other];
    if pair.contains(&TcpOnly) {
        return "relayed";
    }
    if pair == [Open, Open] {
        return "direct";
    }
    // A port that nobody can tell is no matter to an end that lets everybody in.
    let is_closed = |nat: Nat| matches!(nat, Restricted | Symmetric);
    if pair.contains(&Symmetric) && is_closed(one) && is_closed(other) { "relayed" } else { "punched" }
}

#[test]
fn seven_telling_pairs_talk_over_the_best_path() {
    Table::new(&[
        (Open, Open),
        (Open, Symmetric),
        (Cone, Symmetric),
        (Restricted, Restricted),
        (Restricted, Symmetric),
        (TcpOnly, Restricted),
        (TcpOnly, TcpOnly),
    ])
    .fill();
}

#[test]
#[ignore = "25 calls: scripts/test --long"]
fn all_pairs_talk_over_the_best_path() {
    let pairs: Vec<(Nat, Nat)> = ALL.into_iter().flat_map(|caller| ALL.map(|callee| (caller, callee))).collect();
    Table::new(&pairs).fill();
}

struct Table {
    // Dropped before the laboratory in which they run.
    callers: BTreeMap<Nat, User>,
    callees: BTreeMap<Nat, User>,
    _server: Daemon,
    pairs: Vec<(Nat, Nat)>,
    folder: TempDir,
    _lab: NatLab,
}

impl Table {
    fn new(pairs: &[(Nat, Nat)]) -> Self {
        let mut lab = NatLab::new();
        let folder = tempfile::Builder::new().prefix("halloo-").tempdir().expect("a temporary directory");
        let public = lab.public_machine("srv", 1);
        let server = public.serve(folder.path(), "");
        let mut table = Self {
            callers: BTreeMap::new(),
            callees: BTreeMap::new(),
            _server: server,
            pairs: pairs.to_vec(),
            folder,
            _lab: lab,
        };
        write_tone(&table.file("caller.wav"), CALLER_HZ, TALK * 3);
        write_tone(&table.file("callee.wav"), CALLEE_HZ, TALK * 3);
        for (place, nat) in ALL.into_iter().enumerate() {
            let host = u8::try_from(place).expect("five") + 11;
            if pairs.iter().any(|(caller, _)| *caller == nat) {
                let user = table.join(nat, "a", host, &[]);
                table.callers.insert(nat, user);
            }
            if pairs.iter().any(|(_, callee)| *callee == nat) {
                let (play, record) = (text(&table.file("callee.wav")), text(&table.heard_by_callee(nat)));
                let user = table.join(nat, "b", host + 10, &["--answer", "auto", "--play", &play, "--record", &record]);
                table.callees.insert(nat, user);
            }
        }
        for user in table.callers.values_mut().chain(table.callees.values_mut()) {
            user.wait_ready(READY_TIME_MAX);
        }
        for user in table.callers.values().chain(table.callees.values()) {
            eventually(SETTLED_TIME_MAX, "a media relay is at hand", || {
                let status = user.api().get("/v1/status")?;
                let has_relay = status["media_relays"].as_array().is_some_and(|relays| !relays.is_empty());
                if has_relay { Ok(()) } else { Err(format!("{}: {status}", user.username)) }
            });
        }
        table
    }

    fn join(&mut self, nat: Nat, side: &str, host: u8, args: &[&str]) -> User {
        let machine = nat.machine(&mut self._lab, &format!("{side}{host}"), host);
        let name = format!("{side}-{}", nat.name());
        let address = if nat == Open { machine.address.as_str() } else { "0.0.0.0" };
        machine.enrol_at(address, self.folder.path(), &self._server, &name, args)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn heard_by_callee(&self, nat: Nat) -> PathBuf {
        self.file(&format!("heard-{}.wav", nat.name()))
    }

    /// Has every pair talk, and prints what came of it before it complains.
    fn fill(&self) {
        let rows: Vec<(Nat, Nat, Value)> =
            self.pairs.iter().map(|(caller, callee)| (*caller, *callee, self.talk(*caller, *callee))).collect();
        for (caller, callee, outcome) in &rows {
            let (path, setup, rtt) = (&outcome["path"], &outcome["setup_ms"], &outcome["rtt_ms"]);
            eprintln!("| {} | {} | {path} | {setup} ms | {rtt} ms |", caller.name(), callee.name());
        }
        for (caller, callee, outcome) in &rows {
            assert_eq!(outcome["path"], best_path(*caller, *callee), "{caller:?} calls {callee:?}: {outcome}");
        }
    }

    fn talk(&self, caller: Nat, callee: Nat) -> Value {
        let (from, to) = (&self.callers[&caller], &self.callees[&callee]);
        let (play, record) = (self.file("caller.wav"), self.file("heard.wav"));
        let secs = TALK.as_secs().to_string();
        let call = Invocation::new(from.home()).args(["call", &to.username, "--duration", &secs]);
        let outcome = call.args([Path::new("--play"), &play, Path::new("--record"), &record]).run().ok();
        assert_eq!(outcome["outcome"], "completed", "{caller:?} calls {callee:?}: {outcome}");
        to.wait_event(SETTLED_TIME_MAX, "call_ended", |event| event["call_id"] == outcome["call_id"]);
        assert_heard(&record, CALLEE_HZ, CALLER_HZ, HEARD_MIN);
        assert_heard(&self.heard_by_callee(callee), CALLER_HZ, CALLEE_HZ, HEARD_MIN);
        outcome
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

#[test]
fn what_the_best_path_is() {
    for one in ALL {
        for other in ALL {
            assert_eq!(best_path(one, other), best_path(other, one), "{one:?}, {other:?}");
        }
    }
    let relayed = ALL.into_iter().filter(|nat| best_path(Symmetric, *nat) == "relayed").collect::<Vec<_>>();
    assert_eq!(relayed, [Restricted, Symmetric, TcpOnly]);
}
