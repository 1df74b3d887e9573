//! Ten minutes of many calls: nothing leaks, nothing is lost but what the kernel itself drops.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::harness::Relay;

/// coturn's TURN client (Debian package `coturn`).
const TURN_CLIENT: &str = "turnutils_uclient";

/// Clients, each with one allocation, in pairs.
const ALLOCATIONS: &str = "500";
/// Of each client: one every 40 ms, after a minute of setting up.
const MESSAGES: &str = "13500";

/// What a thread may take more when there is load: its ring (2 MiB) and a part for the rest.
const GROWTH_KIB_MAX: u64 = 2_048 + 512;
/// How often memory is looked at.
const LOOK: Duration = Duration::from_secs(5);

const CONFIGURATION: &str = r#"
threads = 1
[turn]
users = [{ name = "user", password = "password" }]
[peers]
lab = true
[limits]
user_bytes_per_sec = 0
user_packets_per_sec = 0
total_bytes_per_sec = 0
total_packets_per_sec = 0
allocations_per_user_max = 4000
allocations_per_address_max = 4000
responses_per_source_per_sec = 100000
response_burst_per_source = 100000
"#;

/// Datagrams the kernel has dropped since the machine began because their socket's buffer was full.
fn dropped_by_the_kernel() -> u64 {
    let text = std::fs::read_to_string("/proc/net/snmp").expect("Linux");
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Udp: "));
    let (names, values) = (lines.next().expect("names"), lines.next().expect("values"));
    let place = names.split(' ').position(|name| name == "RcvbufErrors").expect("a counter of it");
    values.split(' ').nth(place).and_then(|value| value.parse().ok()).expect("a number")
}

fn lost(printed: &str) -> u64 {
    let line = printed.lines().rev().find_map(|line| line.split_once("Total lost packets ")).expect("a summary").1;
    line.split(' ').next().and_then(|number| number.parse().ok()).expect("a number")
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(path).expect("what the client printed")).into_owned()
}

#[cfg(target_os = "linux")]
#[test]
#[ignore = "long: ten minutes"]
fn ten_minutes_of_500_allocations_leak_nothing_and_lose_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let (configuration, output) = (directory.path().join("relay.toml"), directory.path().join("client"));
    std::fs::write(&configuration, CONFIGURATION).expect("written");
    let listen = ["--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0", "--drain", "0"];
    let relay = Relay::start(&[&["--config", configuration.to_str().expect("a path in UTF-8")], &listen[..]].concat());
    let port = relay.addresses()[0].port().to_string();
    let dropped_before = dropped_by_the_kernel();
    let printed = std::fs::File::create(&output).expect("a file");
    let user = ["-u", "user", "-w", "password", "-y", "-c", "-l", "160", "-z", "40"];
    let mut client = Command::new(TURN_CLIENT)
        .args([&user[..], &["-m", ALLOCATIONS, "-n", MESSAGES, "-p", &port, "127.0.0.1"]].concat())
        .stdin(Stdio::null())
        .stdout(printed.try_clone().expect("a file"))
        .stderr(printed)
        .spawn()
        .expect("scripts/setup installs coturn");
    let mut under_load = None;
    let status = loop {
        if let Some(status) = client.try_wait().expect("it can be waited for") {
            break status;
        }
        if under_load.is_none() && relay.counters("halloo_relay_relayed_packets_total") > 0 {
            under_load = Some(relay.resident_kib());
        }
        std::thread::sleep(LOOK);
    };
    let printed = read(&output);
    assert!(status.success(), "{printed}");
    let (lost, dropped) = (lost(&printed), dropped_by_the_kernel() - dropped_before);
    let relayed = relay.counters("halloo_relay_relayed_packets_total");
    let grown = relay.resident_kib().saturating_sub(under_load.expect("something was relayed"));
    eprintln!("{relayed} packets relayed, {lost} lost, {dropped} dropped by the kernel for full buffers, {grown} KiB more");
    assert!(relayed > 6_000_000, "{relayed}");
    assert!(lost <= dropped, "{lost} lost, {dropped} dropped by the kernel");
    assert!(grown <= GROWTH_KIB_MAX, "{grown} KiB more");
    for reason in ["socket_full", "send_failed", "no_allocation", "unknown_channel", "pair_not_permitted"] {
        assert_eq!(relay.counters(&format!("halloo_relay_dropped_total{{reason=\"{reason}\"}}")), 0, "{reason}");
    }
}
