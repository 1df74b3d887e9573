//! A SIP program by others: two of them call each other, each with this relay as its TURN server, so that the sound goes from one relayed
//! address to the other.
//!
//! Wants baresip (Debian `baresip-core`), which `scripts/setup --long` installs; a long test for that.

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use crate::harness::{Relay, finish};

/// Seconds the caller runs, and the callee.
const CALLER_SECS: &str = "6";
const CALLEE_SECS: &str = "15";

/// Sound at 8,000 samples a second for longer than the call.
const SAMPLES: u32 = 8_000 * 10;

/// A WAV file with a triangle wave.
fn write_tone(path: &Path) {
    let data: Vec<u8> = (0..SAMPLES).flat_map(|sample| (((sample % 20) as i16 - 10) * 800).to_le_bytes()).collect();
    let length = 2 * SAMPLES;
    let mut file = b"RIFF".to_vec();
    file.extend((36 + length).to_le_bytes());
    file.extend(b"WAVEfmt ");
    // 16 bytes of format: PCM, one channel, samples and bytes a second, bytes and bits a sample.
    file.extend(16_u32.to_le_bytes());
    file.extend([1_u16, 1].map(u16::to_le_bytes).concat());
    file.extend([8_000_u32, 16_000].map(u32::to_le_bytes).concat());
    file.extend([2_u16, 16].map(u16::to_le_bytes).concat());
    file.extend(b"data");
    file.extend(length.to_le_bytes());
    file.extend(data);
    std::fs::write(path, file).expect("written");
}

/// A port that is free, and the next one too, where baresip serves TLS.
fn free_port() -> u16 {
    (0..100)
        .find_map(|_| {
            let port = TcpListener::bind("127.0.0.1:0").ok()?.local_addr().ok()?.port();
            TcpListener::bind(("127.0.0.1", port.checked_add(1)?)).ok().map(|_| port)
        })
        .expect("two free ports in a row")
}

/// Writes what a user needs; gives its SIP address.
fn set_up(directory: &Path, user: &str, turn: SocketAddr, tone: &Path) -> String {
    std::fs::create_dir(directory).expect("a directory");
    let address = format!("sip:{user}@127.0.0.1:{}", free_port());
    let config = format!(
        "sip_listen {listen}\nnet_interface 127.0.0.1\nrtp_stats yes\naudio_source aufile,{tone}\naudio_player aubridge,nowhere\n\
         audio_alert aubridge,nowhere\nmodule_path /usr/lib/baresip/modules\nmodule g711.so\nmodule aufile.so\n\
         module aubridge.so\nmodule turn.so\nmodule_app account.so\nmodule_app menu.so\n",
        listen = address.split('@').nth(1).expect("an address has a host"),
        tone = tone.display(),
    );
    let account = format!(
        "<{address}>;regint=0;medianat=turn;stunserver=\"turn:{turn}\";stunuser=user;stunpass=password;\
         audio_codecs=PCMU;answermode=auto\n"
    );
    for (name, text) in [("config", config), ("accounts", account), ("contacts", String::new())] {
        std::fs::write(directory.join(name), text).expect("written");
    }
    address
}

fn baresip(directory: &Path, arguments: &[&str]) -> Child {
    let mut command = Command::new("baresip");
    command.arg("-f").arg(directory).args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap_or_else(|error| panic!("cannot run baresip ({error}): run scripts/setup --long, which installs it"))
}

fn wait_until_ready(baresip: &mut Child) -> BufReader<ChildStdout> {
    let mut stdout = BufReader::new(baresip.stdout.take().expect("stdout is a pipe"));
    let mut line = String::new();
    while !line.contains("baresip is ready") {
        line.clear();
        assert_ne!(stdout.read_line(&mut line).expect("text"), 0, "baresip ended");
    }
    stdout
}

/// The two numbers of a line of baresip's summary: sent and received.
fn summary(printed: &str, name: &str) -> (u64, u64) {
    let line = printed.lines().rev().find_map(|line| line.trim_start().strip_prefix(name));
    let mut numbers =
        line.unwrap_or_else(|| panic!("no {name} in {printed}")).split_whitespace().filter_map(|word| word.parse().ok());
    (numbers.next().expect("a number"), numbers.next().expect("another number"))
}

#[test]
#[ignore = "long: wants a telephone"]
fn baresip_completes_a_relayed_call() {
    let loopback = "127.0.0.1:0";
    let relay = Relay::start(&["--listen", loopback, "--user", "user:password", "--lab", "--metrics", loopback, "--drain", "0"]);
    let directory = tempfile::tempdir().expect("a directory");
    let tone = directory.path().join("tone.wav");
    write_tone(&tone);
    let [caller, callee] = ["ann", "bob"].map(|user| directory.path().join(user));
    set_up(&caller, "ann", relay.addresses()[0], &tone);
    let address = set_up(&callee, "bob", relay.addresses()[0], &tone);
    let mut callee = baresip(&callee, &["-t", CALLEE_SECS]);
    let mut printing = wait_until_ready(&mut callee);
    let output = finish(baresip(&caller, &["-t", CALLER_SECS, "-e", &format!("/dial {address}")]));
    let printed = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    let _ = callee.kill();
    let _ = callee.wait();
    // Read to the end: a full pipe would have stopped it.
    let _ = std::io::copy(&mut printing, &mut std::io::sink());
    let ((sent, received), lost) = (summary(&printed, "packets:"), summary(&printed, "lost:"));
    let pairs = relay.counters("halloo_relay_relayed_packets_total{direction=\"pair\"}");
    eprintln!(
        "a call: {sent} packets of sound sent, {received} received, lost {lost:?}; {pairs} packets relayed between the two"
    );
    assert!(printed.contains("Call established"), "{printed}");
    assert!(sent >= 100 && received >= 100 && lost == (0, 0), "{printed}");
    assert!(pairs >= sent + received, "the sound went through the relay");
}
