//! Arguments, configuration file, exit codes, signals.

use std::net::UdpSocket;

use crate::harness::{Relay, run};

const LOOPBACK: &str = "127.0.0.1:0";

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("text")
}

#[test]
fn serves_every_address_it_is_told_and_says_so() {
    let relay = Relay::start(&["--listen", LOOPBACK, "--listen", LOOPBACK, "--listen", "[::1]:0"]);
    let addresses = relay.addresses();
    assert_eq!(addresses.len(), 3);
    assert_eq!(addresses.iter().filter(|address| address.is_ipv6()).count(), 1);
    assert!(addresses.iter().all(|address| address.port() != 0 && address.ip().is_loopback()));
}

#[test]
fn signals_to_stop_end_it_with_success() {
    for name in ["TERM", "INT"] {
        let status = Relay::start(&["--listen", LOOPBACK]).signal(name);
        assert_eq!(status.code(), Some(0), "SIG{name}");
    }
}

#[test]
fn a_configuration_file_is_used_and_flags_go_before_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("relay.toml");
    std::fs::write(&path, "listen = ['[::1]:0', '127.0.0.1:0']\nmetrics = '127.0.0.1:0'\n").expect("written");
    let path = path.to_str().expect("a path in UTF-8");
    let relay = Relay::start(&["--config", path]);
    assert_eq!(relay.addresses().len(), 2);
    assert!(relay.metrics_address().port() != 0);
    let relay = Relay::start(&["--config", path, "--listen", LOOPBACK]);
    assert_eq!(relay.addresses().len(), 1);
}

#[test]
fn wrong_usage_exits_2_and_names_what_is_wrong() {
    for (arguments, named) in [
        (&["--listen", "localhost"][..], "--listen"),
        (&["--listen", "127.0.0.1"], "--listen"),
        (&["--realm", ""], "realm"),
        (&["--ports", "9-8"], "9 to 8"),
        (&["--ports", "nine"], "--ports"),
        (&["--user", "nobody"], "--user"),
        (&["--allow-peer", "10.0.0.0/40"], "--allow-peer"),
        (&["--auth-secret-file", "/nonexistent/secret"], "/nonexistent/secret"),
        (&["--listen-tls", "127.0.0.1:0"], "certificate"),
        (&["--external-ip", "example.org"], "--external-ip"),
        (&["--metrics", "nowhere"], "--metrics"),
        (&["--config", "/nonexistent/relay.toml"], "/nonexistent/relay.toml"),
        (&["surplus"], "surplus"),
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
        let complaint = text(&output.stderr);
        assert!(complaint.contains(named) && !complaint.contains("panicked"), "{arguments:?}: {complaint}");
    }
}

#[test]
fn a_misspelt_key_exits_2_and_is_named() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("relay.toml");
    std::fs::write(&path, "lissten = []\n").expect("written");
    let output = run(&["--config", path.to_str().expect("a path in UTF-8")]);
    assert_eq!(output.status.code(), Some(2));
    let complaint = text(&output.stderr);
    assert!(complaint.contains("lissten") && complaint.contains("relay.toml"), "{complaint}");
}

#[test]
fn an_address_that_is_taken_exits_1_and_is_named() {
    let taken = UdpSocket::bind(LOOPBACK).and_then(|socket| Ok((socket.local_addr()?.to_string(), socket)));
    let (address, _holder) = taken.expect("a free port");
    let output = run(&["--listen", LOOPBACK, "--listen", &address]);
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty(), "never ready");
    assert!(text(&output.stderr).contains(&address));
}

#[test]
fn help_and_version_go_to_stdout() {
    for argument in ["--help", "--version"] {
        let output = run(&[argument]);
        assert_eq!(output.status.code(), Some(0));
        assert!(text(&output.stdout).contains("halloo-relay"));
    }
}

#[test]
fn a_file_that_is_no_certificate_exits_1_and_is_named() {
    let output = run(&["--listen", LOOPBACK, "--listen-tls", LOOPBACK, "--tls-cert", "/dev/null", "--tls-key", "/dev/null"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("/dev/null"), "{}", text(&output.stderr));
}

#[test]
fn passwords_are_in_no_complaint_and_no_log() {
    let output = run(&["--user", "hidden-password"]);
    assert!(!text(&output.stderr).contains("hidden-password: ") && output.status.code() == Some(2));
    let output =
        run(&["--user", "ann:hidden", "--auth-secret", "hidden", "--listen", LOOPBACK, "--relay-ip", "192.0.2.1", "-vv"]);
    let complaint = text(&output.stderr);
    assert!(complaint.contains("192.0.2.1") && !complaint.contains("hidden"), "{complaint}");
}
