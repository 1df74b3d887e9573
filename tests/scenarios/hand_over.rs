//! Goal: somebody whom only a relay reaches is rung by one message through it, and not by way of a circuit. Method: the small internet of
//! `natlab`; the callee sits behind a router, and the relay makes no circuits at all, so that nothing else could have rung it. The relay counts.
//! And what isn't in order is refused, by name.

use std::time::Duration;

use halloo_protocol::call::{
    HandOverAnswer, HandOverReason, HandOverStatus, HandedOverAnswer, InviteHandOver, InviteHandedOver, InviteStatus, Reason,
    SealedInvite,
};
use halloo_protocol::capability::{Capability, CapabilityId, CapabilityProof, Holder, Issuer, Limits, Service};
use halloo_protocol::key::DeviceKey;
use halloo_protocol::wire::{self, Extensions, FrameKind, Message, Signed};
use halloo_tests::attacker::{Attacker, Forger, now};
use halloo_tests::cli::Invocation;
use halloo_tests::daemon::{Daemon, Launch};
use halloo_tests::natlab::{Machine, NatLab};
use halloo_tests::network::{ANYONE, AUTHORITY, User, enrol_user_in, infrastructure_roles, invite};
use halloo_tests::{Network, cli, eventually};

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
    let alice = join(&folder, &server, "alice", &open, &format!("publish_addresses = true\n{ANYONE}"), &[]);
    let bob = join(&folder, &server, "bob", &home, ANYONE, &["--answer", "auto"]);
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

/// Nobody gets an invite on to a device by way of a node that holds no reservation for it, nor has a device believe that its relay brings it.
#[test]
fn where_there_is_no_reservation_nothing_is_handed_over() {
    let mut network = Network::of(["alice", "mallory"]);
    let forger = Forger::of_user(&network, &network.users[1], 1);
    network.users[1].kill();
    let (server, alice) = (device_key(&network.authority), device_key(&network.users[0]));
    let request = |relay: DeviceKey, length: usize| {
        let sealed = SealedInvite::from_bytes(vec![1; length]).expect("within its size");
        let capability = Capability {
            id: CapabilityId([1; 16]),
            issuer: Issuer::Device(forger.device_key()),
            service: Service::InviteHandOver,
            holder: Holder::Certified,
            limits: Limits { per_hour: 60, payload_bytes_max: 2_800 },
            epoch: 0,
            not_before: now(),
            not_after: now().plus_secs(3_600),
            extensions: Extensions::none(),
        };
        let proof = CapabilityProof::sign(capability.id, relay, InviteHandOver::hash_of(&alice, &sealed), now(), &forger.device);
        let capability = Signed::sign(capability, &forger.device);
        InviteHandOver { target: alice, capability, proof, sealed, extensions: Extensions::none() }
    };
    let mut at_server = Attacker::connect(&network.bootstrap(), &forger.device, &forger.hello(None));
    let answer: HandOverAnswer = at_server.ask(&request(server, 1_024)).expect("an answer");
    assert_eq!(answer.status, HandOverStatus::Refused(HandOverReason::NO_RESERVATION));
    let malformed = at_server.ask_raw(InviteHandOver::KIND, wire::encode(&request(server, 100)));
    assert_eq!(malformed.kind, FrameKind::UNSUPPORTED, "no invite has 100 bytes");
    let usage = cli(network.authority.home(), ["relay"]).ok();
    assert_eq!(usage["signalling"]["invites_refused"], 1, "{usage}");

    let address = network.users[0].addresses().into_iter().next().expect("alice listens");
    let mut at_alice = Attacker::connect(&address, &forger.device, &forger.hello(None));
    let answer: HandOverAnswer = at_alice.ask(&request(alice, 1_024)).expect("an answer");
    assert_eq!(answer.status, HandOverStatus::Refused(HandOverReason::NOT_SERVED));
    let sealed = SealedInvite::from_bytes(vec![1; 1_024]).expect("within its size");
    let handed_over = InviteHandedOver { sealed, extensions: Extensions::none() };
    let answer: HandedOverAnswer = at_alice.ask(&handed_over).expect("an answer");
    assert_eq!((answer.status, answer.word.len()), (InviteStatus::Refused(Reason::NOT_ALLOWED), 0), "mallory isn't her relay");
}

fn device_key(daemon: &Daemon) -> DeviceKey {
    halloo::address::device_key(&daemon.peer_id().parse().expect("a peer id")).expect("of an Ed25519 key")
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
