//! Goal: two people who both can't be reached from outside reach each other. Method: a small internet of network
//! namespaces, both behind masquerading routers that let nothing in; no `--lab`, so that what nodes know about their
//! reachability is what they found out. A third node, public, is directory and relay.

use std::time::Duration;

use halloo_tests::daemon::{Daemon, Launch};
use halloo_tests::natlab::{Machine, NatLab};
use halloo_tests::network::User;
use halloo_tests::{cli, eventually};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const SETTLED_TIME_MAX: Duration = Duration::from_secs(60);

#[test]
fn two_behind_nat_message_each_other_through_a_third() {
    let mut lab = NatLab::new();
    let folder = tempfile::Builder::new().prefix("halloo-").tempdir().expect("a temporary directory");
    let public = lab.public_machine("srv", 1);
    let server = public.serve(folder.path(), "");
    let (home_a, home_b) = (lab.home_machine("a", 11), lab.home_machine("b", 12));

    let mut alice = home_a.join(folder.path(), &server, "alice", &[]);
    let mut bob = home_b.join(folder.path(), &server, "bob", &[]);
    for user in [&alice, &bob] {
        eventually(SETTLED_TIME_MAX, "a relay holds a reservation", || {
            let status = user.api().get("/v1/status")?;
            let has_relay = status["relays"].as_array().is_some_and(|relays| relays.iter().any(|r| r == &server.peer_id()));
            let is_hidden = status["reachability"] == "relayed" && status["lab"] == false;
            if has_relay && is_hidden { Ok(()) } else { Err(status.to_string()) }
        });
    }
    for (from, to) in [(&alice, &bob), (&bob, &alice)] {
        found_without_addresses(from, to);
        let sent = cli(from.home(), ["msg", "send", &to.username, "through the third", "--wait"]).ok();
        assert_eq!(sent["state"], "delivered", "{sent}");
        to.wait_event(SETTLED_TIME_MAX, "message_received", |event| event["from"] == from.username.as_str());
    }
    // The relay is what holds them together: without it, and without a hole, there's no way.
    bob.kill();
    let queued = cli(alice.home(), ["msg", "send", &bob.username, "later"]).ok();
    assert_ne!(queued["state"], "delivered", "{queued}");
    bob.start(bob_again(&home_b, &server));
    bob.wait_event(SETTLED_TIME_MAX, "message_received", |event| event["text"] == "later");
    let (code, _elapsed) = alice.terminate();
    assert_eq!(code, 0);
}

/// Routers that take random ports: no path can be punched, so the file goes through the relay, whose circuits are too small for all of it.
#[test]
fn a_file_goes_through_a_relay_also_if_it_is_larger_than_a_circuit_carries() {
    const BYTES: usize = 5_000_000;
    let mut lab = NatLab::new();
    let folder = tempfile::Builder::new().prefix("halloo-").tempdir().expect("a temporary directory");
    let public = lab.public_machine("srv", 1);
    let server = public.serve(folder.path(), "[relay]\ncircuit_bytes_max = 2_000_000\n");
    let (home_a, home_b) = (lab.symmetric_machine("a", 11), lab.symmetric_machine("b", 12));
    let mut alice = home_a.join(folder.path(), &server, "alice", &[]);
    let bob = home_b.join(folder.path(), &server, "bob", &[]);
    let source = folder.path().join("large.bin");
    let mut content = vec![0; BYTES];
    StdRng::seed_from_u64(1).fill_bytes(&mut content);
    std::fs::write(&source, &content).expect("the folder is ours");
    cli(alice.home(), ["contact", "add", &bob.username]).ok();
    bob.wait_event(SETTLED_TIME_MAX, "contact_request", |event| event["from"] == alice.username.as_str());
    cli(bob.home(), ["contact", "accept", &alice.username]).ok();
    let sent = cli(alice.home(), ["file", "send", &bob.username, source.to_str().expect("Unicode")]).ok();
    let id = sent["id"].as_str().expect("an id").to_owned();
    bob.wait_event(SETTLED_TIME_MAX, "file_offered", |event| event["file_id"] == id.as_str());
    let accepted = cli(bob.home(), ["file", "accept", &id, "--wait"]).ok();
    assert_eq!(accepted["state"], "done", "{accepted}");
    let landed = std::fs::read(accepted["path"].as_str().expect("a path")).expect("it is there");
    assert!(landed == content, "what came differs");
    let (code, _elapsed) = alice.terminate();
    assert_eq!(code, 0);
}

fn bob_again(machine: &Machine, server: &Daemon) -> Launch {
    let bootstrap = server.addresses().into_iter().next().expect("the server listens");
    machine.launch("0.0.0.0").args(["--bootstrap", &bootstrap])
}

/// A stranger who knows the name learns the relay, and not where its owner is.
fn found_without_addresses(from: &User, to: &User) {
    let found = cli(from.home(), ["resolve", &to.username, "--fresh"]).ok();
    assert_eq!(found["identity"], to.identity.as_str());
    let addresses = found["devices"][0]["addresses"].as_array().cloned().unwrap_or_default();
    assert!(!addresses.is_empty(), "{found}");
    let shown = addresses.iter().filter_map(|address| address.as_str());
    for address in shown {
        assert!(address.contains("/p2p-circuit"), "{address} shows where {} is", to.username);
    }
}

#[test]
fn the_laboratory_is_what_it_claims() {
    let mut lab = NatLab::new();
    let public = lab.public_machine("srv", 1);
    let (one, other) = (lab.home_machine("a", 11), lab.home_machine("b", 12));
    assert!(lab.reaches(&one, &public.address) && lab.reaches(&other, &public.address), "homes reach the public network");
    assert!(!lab.reaches(&one, "5.0.12.1") && !lab.reaches(&public, "5.0.11.1"), "routers don't answer strangers");
    assert!(!lab.reaches(&one, &other.address) && !lab.reaches(&public, &one.address), "private addresses are private");
}
