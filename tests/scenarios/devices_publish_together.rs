//! Goal: a user's devices share one record without locking each other out. Method: three homes made from one
//! recovery phrase, which take the same name and start at the same moment; then all at once again after `kill -9`.

use std::time::Duration;

use halloo_tests::daemon::{Daemon, READY_TIME_MAX};
use halloo_tests::network::enrol_user;
use halloo_tests::{Network, cli, eventually};
use serde_json::Value;

/// In a lab, where anyone may write to them.
const CONFIG: &str = "lab = true\n[privacy]\nmessage = \"anyone\"\n";
const SETTLED_TIME_MAX: Duration = Duration::from_secs(20);

#[test]
fn three_devices_that_publish_at_once_are_all_in_the_one_record() {
    let mut network = Network::of(["watcher"]);
    let first = enrol_user(network.folder(), "carol", CONFIG, &network.invite());
    let mut devices = vec![];
    for number in 2..=3 {
        let name = format!("carol{number}");
        let (device, printed) = Daemon::init_with(network.folder(), &name, CONFIG, Some(&first.phrase));
        assert_eq!(printed["identity"], first.identity.as_str(), "the phrase gives the identity back");
        assert_eq!(printed["recovery_phrase"], Value::Null, "a phrase is shown once");
        // The name is this identity's already, so the authority only renews; any valid invite shows the way to it.
        let enrolled = cli(device.home(), ["enrol", &first.username, "--invite", &network.invite()]).ok();
        assert_eq!(enrolled["identity"], first.identity.as_str());
        devices.push(device);
    }
    a_stranger_does_not_get_the_name(&network, &first.username);

    let username = first.username.clone();
    let mut first = first;
    let launch = network.launch("carol");
    first.spawn(launch.clone());
    devices.iter_mut().for_each(|device| device.spawn(launch.clone()));
    first.wait_ready(READY_TIME_MAX);
    devices.iter_mut().for_each(|device| drop(device.wait_ready(READY_TIME_MAX).clone()));
    let mut expected: Vec<String> = devices.iter().map(Daemon::peer_id).chain([first.peer_id()]).collect();
    expected.sort();
    expect_devices(&network, &username, &first.identity, &expected);

    // Again: all die, and come back at the same moment, in another order.
    first.kill();
    devices.iter_mut().for_each(Daemon::kill);
    devices.iter_mut().rev().for_each(Daemon::spawn_again);
    first.spawn_again();
    first.wait_ready(READY_TIME_MAX);
    devices.iter_mut().for_each(|device| drop(device.wait_ready(READY_TIME_MAX).clone()));
    expect_devices(&network, &username, &first.identity, &expected);

    let [watcher] = network.users();
    let sent = watcher.cli(["msg", "send", &username, "to all of you", "--wait"]).ok();
    assert!(sent["state"] == "delivered" || sent["state"] == "read", "{sent}");
    for device in devices.iter().chain([&*first]) {
        device.wait_event(SETTLED_TIME_MAX, "message_received", |event| event["text"] == "to all of you");
    }
}

fn expect_devices(network: &Network, username: &str, identity: &str, expected: &[String]) {
    let api = network.users[0].api();
    eventually(SETTLED_TIME_MAX, "one record with three devices", || {
        let found = api.get(&format!("/v1/users/{username}?fresh=true&settled=true"))?;
        let devices = found["devices"].as_array().into_iter().flatten();
        let mut peers: Vec<&str> = devices.filter_map(|device| device["peer_id"].as_str()).collect();
        peers.sort_unstable();
        if found["identity"] == identity && peers == expected { Ok(()) } else { Err(found.to_string()) }
    });
}

/// One name never goes to two keys.
fn a_stranger_does_not_get_the_name(network: &Network, username: &str) {
    let stranger = Daemon::init(network.folder(), "stranger", CONFIG);
    let refused = cli(stranger.home(), ["enrol", username, "--invite", &network.invite()]);
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(refused.last_error().contains("another key"), "{refused:?}");
}
