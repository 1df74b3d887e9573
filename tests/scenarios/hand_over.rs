//! Goal: somebody whom only a relay reaches is rung by one message through it, and not by way of a circuit. Method: the small internet of
//! `natlab`; the callee sits behind a router, and the relay makes no circuits at all, so that nothing else could have rung it. The relay counts.

use std::time::Duration;

use halloo_tests::cli::Invocation;
use halloo_tests::daemon::{Daemon, Launch};
use halloo_tests::natlab::{Machine, NatLab};
use halloo_tests::network::{AUTHORITY, User, enrol_user_in, infrastructure_roles, invite};
use halloo_tests::{cli, eventually};

/// A node finds out that nobody can dial it, and gets a reservation, before its record is of use.
const READY_TIME_MAX: Duration = Duration::from_secs(90);
const SETTLED_TIME_MAX: Duration = Duration::from_secs(60);

#[test]
fn a_device_that_only_its_relay_reaches_rings_without_a_circuit() {
    let mut lab = NatLab::new();
    let folder = tempfile::Builder::new().prefix("halloo-").tempdir().expect("a temporary directory");
    let public = lab.public_machine("srv", 1);
    let config = format!("[authority]\nname = \"{AUTHORITY}\"\n[relay]\ncircuits_max = 0\n");
    let mut server = Daemon::init(folder.path(), "server", &config);
    server.start(on(&public).args(listen(&public.address)).args(infrastructure_roles()));
    // Alice has an address of her own, which her invite names: what bob says comes straight to her.
    let (open, home) = (lab.public_machine("a", 11), lab.home_machine("b", 12));
    let alice = join(&folder, &server, "alice", &open, "publish_addresses = true\n", &[]);
    let bob = join(&folder, &server, "bob", &home, "", &["--answer", "auto"]);
    eventually(SETTLED_TIME_MAX, "the relay holds a reservation for bob", || {
        let status = bob.api().get("/v1/status")?;
        let has_relay = status["relays"].as_array().is_some_and(|relays| relays.iter().any(|relay| relay == &server.peer_id()));
        if has_relay { Ok(()) } else { Err(status.to_string()) }
    });
    eventually(SETTLED_TIME_MAX, "bob's record names the relay", || {
        let found = alice.api().get(&format!("/v1/users/{}?fresh=true", bob.username))?;
        let shown = found["devices"][0]["addresses"].as_array().cloned().unwrap_or_default();
        let is_there = shown.iter().filter_map(|address| address.as_str()).any(|address| address.contains("/p2p-circuit"));
        if is_there { Ok(()) } else { Err(found.to_string()) }
    });

    let outcome = Invocation::new(alice.home()).args(["call", &bob.username, "--duration", "1"]).run().ok();
    eprintln!("{outcome}");
    assert_eq!(outcome["outcome"], "completed", "{outcome}");
    let rang = bob.wait_event(SETTLED_TIME_MAX, "call_incoming", |_| true);
    assert_eq!(rang["via"], "relay", "{rang}");
    assert_eq!(rang["via_push"], false, "{rang}");
    assert_eq!(outcome["via_push"], false, "{outcome}");
    assert_eq!(bob.events().iter().filter(|event| event["event"] == "call_incoming").count(), 1, "it rang once");
    let usage = cli(server.home(), ["relay"]).ok();
    let signalling = &usage["signalling"];
    eprintln!("{signalling}");
    assert_eq!(signalling["invites_handed_over"], 1, "{usage}");
    assert_eq!(signalling["circuits_made"], 0, "{usage}");
}

fn on(machine: &Machine) -> Launch {
    Launch { namespace: Some(machine.namespace.clone()), ..Launch::default() }
}

fn listen(address: &str) -> [String; 4] {
    let flag = || "--listen".to_owned();
    [flag(), format!("/ip4/{address}/udp/0/quic-v1"), flag(), format!("/ip4/{address}/tcp/0")]
}

fn join(folder: &tempfile::TempDir, server: &Daemon, name: &str, machine: &Machine, config: &str, args: &[&str]) -> User {
    let mut user = enrol_user_in(Some(&machine.namespace), folder.path(), name, config, &invite(server));
    user.spawn(on(machine).args(listen(&machine.address)).args(args.iter().copied()));
    user.wait_ready(READY_TIME_MAX);
    user
}
