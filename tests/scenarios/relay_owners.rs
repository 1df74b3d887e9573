//! Goal: people who relay for others are served in turn, and whoever isn't served is told why. Method: daemons in a lab, ann and ben with relays of
//! their own; the infrastructure's relay is for contacts, which nobody is.

use std::net::UdpSocket;
use std::time::Duration;

use halloo_tests::audio::{assert_heard, write_tone};
use halloo_tests::cli::Invocation;
use halloo_tests::network::AUTHORITY;
use halloo_tests::turn::TurnClient;
use halloo_tests::{Daemon, Network, Plan, User, cli, eventually};
use serde_json::Value;

const SETTLED_TIME_MAX: Duration = Duration::from_secs(60);

const CID_HZ: f64 = 440.0;

/// A relay that has carried so much carries a call: some seconds' worth of a handshake and of checks is less.
const CARRIED_MIN: u64 = 8_000;

/// A network in which these have relays, with these settings.
fn network(users: &[&str], relays: &[(&str, &str)], args: &[(&str, &str)]) -> Network {
    let mut plan = Plan::new(users.iter().copied()).config(AUTHORITY, "[relay]\nfor = \"contacts\"\n");
    for (owner, settings) in relays {
        plan = plan.config(owner, &format!("[relay]\nfor = \"everyone\"\n{settings}\n"));
    }
    for user in users {
        plan = plan.args(user, ["--answer", "auto"]);
    }
    for (user, arg) in args {
        plan = plan.args(user, arg.split(' '));
    }
    plan.start()
}

/// What opens `relay` to `user`, once it is at hand.
fn access(user: &Daemon, relay: &Daemon) -> Value {
    eventually(SETTLED_TIME_MAX, "the relay is at hand", || {
        let relays = user.api().get("/v1/media-relays")?;
        let entries = relays["relays"].as_array().cloned().unwrap_or_default();
        let found = entries.into_iter().find(|entry| entry["peer_id"] == relay.peer_id().as_str());
        found.ok_or_else(|| format!("{}: {relays}", user.name()))
    })
}

fn call(from: &User, to: &User, args: &[&str]) -> Value {
    let outcome = cli(from.home(), [&["call", &to.username, "--relayed"], args].concat()).ok();
    assert_eq!((outcome["outcome"].as_str(), outcome["path"].as_str()), (Some("completed"), Some("relayed")), "{outcome}");
    outcome
}

/// `user`'s row in what `owner` sees of its relay.
fn row(owner: &Daemon, user: &str) -> Result<Value, String> {
    let usage = owner.api().get("/v1/relay")?;
    let users = usage["users"].as_array().cloned().unwrap_or_default();
    users.into_iter().find(|entry| entry["user"] == user).ok_or_else(|| usage.to_string())
}

#[test]
fn two_owners_who_relay_for_each_other_go_before_a_stranger() {
    // 40 packets a second, where each of two will want more than a thousand.
    let settings = "media_bytes_per_sec_max = 40000";
    let mut network = network(&["ann", "ben", "cid"], &[("ann", settings), ("ben", settings)], &[]);
    let [ann, ben, cid] = network.users();
    // Each has the other's relay carry a call. That the other relays for it is what an owner goes by.
    access(ann, ben);
    access(ben, ann);
    call(ann, ben, &["--duration", "1"]);
    call(ben, ann, &["--duration", "1"]);
    for (owner, friend) in [(&*ann, &*ben), (&*ben, &*ann)] {
        let (mut friends, mut strangers) = overload(&access(friend, owner), &access(cid, owner));
        // What an allocation of a user that was quiet may take at first isn't its share.
        (friends.delivered, strangers.delivered) =
            (friends.delivered - friends.at_first, strangers.delivered - strangers.at_first);
        eprintln!(
            "at {}'s relay, of 40 packets a second: {} got {} through, cid {}, of {} sent by each",
            owner.name(),
            friend.name(),
            friends.delivered,
            strangers.delivered,
            friends.sent
        );
        assert!(friends.delivered >= 4 * strangers.delivered, "{friends:?} {strangers:?}");
        let class = |user: &User| row(owner, &user.username).expect("they have used it")["class"].clone();
        assert_eq!((class(friend), class(cid)), ("normal".into(), "last".into()));
    }
}

#[derive(Debug, Default)]
struct Sent {
    sent: u32,
    delivered: u32,
    at_first: u32,
}

/// Both send in turns until the first has got through as many packets as three seconds have room for.
fn overload(friend: &Value, stranger: &Value) -> (Sent, Sent) {
    const WARM: u32 = 40;
    const ENOUGH: u32 = 120;
    const SENT_MAX: u32 = 100_000;
    // Too much for the relay also on a machine so busy that a turn takes a tenth of a second.
    const AT_ONCE: u32 = 8;
    let sink = UdpSocket::bind("127.0.0.1:0").expect("loopback has a free port");
    sink.set_nonblocking(true).expect("a socket can be nonblocking");
    let to = sink.local_addr().expect("it is bound");
    let mut clients = [friend, stranger].map(|access| TurnClient::allocate(access).expect("an address is lent"));
    clients.iter_mut().for_each(|client| client.permit(to).expect("any address is permitted in a lab"));
    let mut results = [Sent::default(), Sent::default()];
    let mut buffer = [0; 2_048];
    while results[0].delivered < WARM + ENOUGH {
        for (client, result) in clients.iter_mut().zip(&mut results) {
            (0..AT_ONCE).for_each(|_| client.send(to, &[0x55; 1_000]));
            result.sent += AT_ONCE;
            assert!(result.sent < SENT_MAX, "nothing gets through");
        }
        std::thread::sleep(Duration::from_millis(5));
        while let Ok((_, from)) = sink.recv_from(&mut buffer) {
            let place = clients.iter().position(|client| client.relayed == from).expect("nobody else knows the sink");
            results[place].delivered += 1;
        }
        if results[0].delivered < WARM {
            results.iter_mut().for_each(|result| result.at_first = result.delivered);
        }
    }
    results.into()
}

#[test]
fn a_caller_whose_packets_a_quota_drops_is_told_which() {
    let folder = tempfile::Builder::new().prefix("halloo-").tempdir().expect("a temporary directory");
    let tone = folder.path().join("cid.wav");
    write_tone(&tone, CID_HZ, Duration::from_secs(10));
    // What a voice call takes in one direction, for its two.
    let mut network = network(&["ann", "cid", "dan"], &[("ann", "media_bytes_per_sec_max = 6000")], &[]);
    let [ann, cid, dan] = network.users();
    access(cid, ann);
    let outcome = call(cid, dan, &["--duration", "6", "--play", &tone.display().to_string()]);
    let reason = outcome["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("packets: bandwidth of this relay used up"), "{outcome}");
    let warning = cid.wait_event(SETTLED_TIME_MAX, "warning", |event| event["code"] == "relay-quota");
    let seen = row(ann, &cid.username).expect("cid has used it");
    eprintln!("{outcome}\n{warning}\n{seen}");
    assert!(seen["dropped"].as_u64().is_some_and(|dropped| dropped > 0), "{seen}");
}

#[test]
fn a_caller_whom_a_relay_lends_nothing_is_told_why() {
    let mut network = network(&["ben", "cid", "dan"], &[("ben", "media_allocations_max = 0")], &[]);
    let [ben, cid, dan] = network.users();
    access(dan, ben);
    let failed = cli(dan.home(), ["call", &cid.username, "--relayed", "--duration", "1"]);
    let outcome = failed.json();
    eprintln!("{outcome}");
    // Mostly the refusal comes before the invite goes out; a relay that takes its time is waited for while it rings.
    let is_told = matches!(outcome["outcome"].as_str(), Some("unreachable" | "failed"));
    assert!(failed.code == 1 && is_told, "{outcome}");
    let reason = outcome["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("508 Allocations of this relay"), "{outcome}");
    // The infrastructure's relay, which is for contacts only, was the last to refuse: a device that has none left says so.
    let why = cli(ben.home(), ["doctor"]).json();
    let checks = why["checks"].as_array().cloned().unwrap_or_default();
    let relays = checks.iter().find(|check| check["name"] == "media relays").map(|check| check["detail"].clone());
    assert_eq!(relays, Some("no media relay is at hand: the relay refuses: its owner relays for others only".into()), "{why}");
}

#[test]
fn a_call_stays_when_the_relay_that_carries_it_shuts_down() {
    let folder = tempfile::Builder::new().prefix("halloo-").tempdir().expect("a temporary directory");
    let (tone, heard) = (folder.path().join("cid.wav"), folder.path().join("dan-heard.wav"));
    write_tone(&tone, CID_HZ, Duration::from_secs(30));
    let relays = [("ann", "media_listen = [\"127.0.0.1:0\", \"[::1]:0\"]"), ("ben", "media_listen = \"127.0.0.1:0\"")];
    let record = format!("--record {}", heard.display());
    let mut network = network(&["ann", "ben", "cid", "dan"], &relays, &[("dan", &record)]);
    let [ann, ben, cid, dan] = network.users();
    // A relay with two addresses names both, each by UDP and for networks that block it by TCP.
    let urls = access(cid, ann)["urls"].as_array().cloned().unwrap_or_default();
    let names = |ip: &str, transport: &str| {
        let is_it = |url: &str| url.starts_with(&format!("turn:{ip}:")) && url.ends_with(&format!("?transport={transport}"));
        urls.iter().filter_map(|url| url.as_str()).filter(|url| is_it(url)).count() == 1
    };
    let all = [("127.0.0.1", "udp"), ("127.0.0.1", "tcp"), ("[::1]", "udp"), ("[::1]", "tcp")];
    assert!(urls.len() == all.len() && all.iter().all(|(ip, transport)| names(ip, transport)), "{urls:?}");
    access(cid, ben);
    let call = Invocation::new(cid.home()).args(["call", &dan.username, "--relayed", "--duration", "8"]);
    let call = call.args(["--play".as_ref(), tone.as_os_str()]).start();
    let bytes = |owner: &Daemon| row(owner, &cid.username).map_or(0, |row| row["bytes"].as_u64().unwrap_or_default());
    // Which of the two it is depends on their round trips; it shows after a second's worth of packets.
    let is_ann = eventually(SETTLED_TIME_MAX, "one of the relays carries the call", || match [bytes(ann), bytes(ben)] {
        [carried, _] if carried > CARRIED_MIN => Ok(true),
        [_, carried] if carried > CARRIED_MIN => Ok(false),
        neither => Err(format!("{neither:?} bytes")),
    });
    let (leaving, staying) = if is_ann { (ann, ben) } else { (ben, ann) };
    let (code, elapsed) = leaving.terminate();
    assert_eq!(code, 0);
    let outcome = call.wait(SETTLED_TIME_MAX).ok();
    eprintln!("{} ended after {elapsed:?}; {outcome}", leaving.name());
    assert_eq!((outcome["outcome"].as_str(), outcome["path"].as_str()), (Some("completed"), Some("relayed")), "{outcome}");
    assert!(bytes(staying) > CARRIED_MIN, "the other relay has taken over: {:?}", row(staying, &cid.username));
    dan.wait_event(SETTLED_TIME_MAX, "call_ended", |event| event["outcome"] == "completed");
    assert_heard(&heard, CID_HZ, CID_HZ * 1.5, Duration::from_secs(6));
}
