//! Goal: whoever runs the relay over which two people are rung and talk, and records every packet, recovers neither what they say nor who they are: only
//! addresses, times and sizes; and what else the relay itself knows of them is what docs/security.md says. Method: the small internet of `natlab`, with both
//! ends behind routers that keep them apart, so that signalling and media go through a third user's node. Everything at its interface is recorded and
//! searched, and taken for audio; its log, its database and its memory are searched as well. Each search finds what is deliberately in the clear.

use std::collections::BTreeSet;
use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use halloo::calls::media::tone;
use halloo_tests::audio::{assert_heard, write_tone};
use halloo_tests::cli::Invocation;
use halloo_tests::daemon::Daemon;
use halloo_tests::eventually;
use halloo_tests::memory;
use halloo_tests::natlab::{Machine, NatLab, READY_TIME_MAX};
use halloo_tests::network::{AUTHORITY, User};
use halloo_tests::recorder::{Audio, Packet, Recorder, SAMPLE_RATE, audio, decoded};
use ropus::{Application, Channels, Encoder};
use serde_json::Value;

/// Names that don't turn up in random bytes.
const ALICE: &str = "alicethroughthelookingglass";
const BOB: &str = "bobwhitequail";
const ALICE_NAME: &str = "Alice of the Looking Glass";
const BOB_NAME: &str = "Bob who sits in the hedge";

const ALICE_HZ: f64 = 440.0;
const BOB_HZ: f64 = 660.0;
const CLEAR_HZ: f64 = 880.0;

/// What is sent past the recorder for everybody to read.
const CLEAR_WORDS: &str = "nobody has encrypted this";

const TALK: Duration = Duration::from_secs(3);
const HEARD_MIN: Duration = Duration::from_millis(1_500);
const SETTLED_TIME_MAX: Duration = Duration::from_secs(90);

/// How far a tone that was understood stands out among frequencies nobody plays. In the clear it is more than 40 dB; in what a decoder makes of random bytes
/// all frequencies are about as strong.
const STANDS_OUT_DB: f64 = 20.0;

/// Frequencies nobody plays, on both sides of those that are played.
const UNPLAYED_HZ: [f64; 10] = [310.0, 370.0, 500.0, 530.0, 570.0, 610.0, 720.0, 770.0, 820.0, 950.0];

/// Packets of audio of one stream at least: half of what is sent.
const PACKETS_MIN: usize = 75;

#[test]
fn who_records_every_packet_at_the_relay_recovers_neither_media_nor_names() {
    let mut lab = NatLab::new();
    let folder = tempfile::Builder::new().prefix("halloo-").tempdir().expect("a temporary directory");
    let (public, between) = (lab.public_machine("srv", 1), lab.public_machine("rel", 2));
    let (home_a, home_b) = (lab.symmetric_machine("a", 11), lab.symmetric_machine("b", 12));
    // The server relays nothing, so that all of it goes through ann's node, which keeps the most talkative log there is.
    let mut server = Daemon::init(folder.path(), "server", &format!("[authority]\nname = \"{AUTHORITY}\"\n"));
    let roles = ["authority", "directory", "gateway"].into_iter().flat_map(|role| ["--role", role]);
    server.start(public.launch(&public.address).args(roles));
    let mut ann = between.enrol_at(&between.address, folder.path(), &server, "ann", &["--role", "relay", "-vv"]);
    ann.wait_ready(READY_TIME_MAX);
    let recorder = Recorder::start(&between, folder.path());

    let file = |name: &str| folder.path().join(name);
    write_tone(&file("alice.wav"), ALICE_HZ, TALK * 3);
    write_tone(&file("bob.wav"), BOB_HZ, TALK * 3);
    let answers = ["--answer", "auto", "--play", &text(&file("bob.wav")), "--record", &text(&file("bob-heard.wav"))];
    let mut alice = home_a.enrol(folder.path(), &server, ALICE, &[]);
    let mut bob = home_b.enrol(folder.path(), &server, BOB, &answers);
    [&mut alice, &mut bob].into_iter().for_each(|user| drop(user.wait_ready(READY_TIME_MAX).clone()));
    alice.cli(["profile", "set", "--name", ALICE_NAME]).ok();
    bob.cli(["profile", "set", "--name", BOB_NAME]).ok();
    for user in [&alice, &bob] {
        has_relay(user, &ann);
    }

    // They aren't contacts, so there is no connection yet, and the relay hands the invite over.
    let outcome = talk(&alice, &bob, folder.path());
    assert_eq!(outcome["path"], "relayed", "{outcome}");
    assert_heard(&file("alice-heard.wav"), BOB_HZ, ALICE_HZ, HEARD_MIN);
    assert_heard(&file("bob-heard.wav"), ALICE_HZ, BOB_HZ, HEARD_MIN);
    let usage = ann.cli(["relay"]).ok();
    assert!(usage["signalling"]["invites_handed_over"].as_u64().is_some_and(|count| count > 0), "{usage}");
    send_in_the_clear(&home_a, &between, folder.path());

    let packets = eventually(SETTLED_TIME_MAX, "what is in the clear is recorded", || {
        let packets = recorder.packets();
        let clear = audio(&packets).iter().filter(|packet| packet.stream.2.port() == CLEAR_PORT).count();
        if clear >= PACKETS_MIN { Ok(packets) } else { Err(format!("{clear} of {} packets", packets.len())) }
    });
    addresses_times_and_sizes_are_there(&packets);
    no_name_is_there(&packets, &[&alice, &bob]);
    no_audio_is_understood(&packets);
    the_relay_knows_what_it_may(&ann, &[&alice, &bob]);
}

#[track_caller]
fn has_relay(user: &User, relay: &Daemon) {
    eventually(SETTLED_TIME_MAX, "ann's node relays signalling and media", || {
        let status = user.api().get("/v1/status")?;
        let has = |list: &str| status[list].as_array().is_some_and(|relays| relays.iter().any(|peer| peer == &relay.peer_id()));
        if has("relays") && has("media_relays") { Ok(()) } else { Err(status.to_string()) }
    });
}

#[track_caller]
fn talk(alice: &User, bob: &User, folder: &Path) -> Value {
    let secs = TALK.as_secs().to_string();
    let call = Invocation::new(alice.home()).args(["call", &bob.username, "--duration", &secs]);
    let (tone, heard) = (folder.join("alice.wav"), folder.join("alice-heard.wav"));
    let outcome = call.args([Path::new("--play"), &tone, Path::new("--record"), &heard]).run().ok();
    assert_eq!(outcome["outcome"], "completed", "{outcome}");
    bob.wait_event(SETTLED_TIME_MAX, "call_ended", |event| event["call_id"] == outcome["call_id"]);
    outcome
}

/// Where the control goes to: nobody listens there.
const CLEAR_PORT: u16 = 9;

/// Sends from one machine to another what the searches have to find: words, and a tone as Opus in RTP.
#[track_caller]
fn send_in_the_clear(from: &Machine, to: &Machine, folder: &Path) {
    let mut encoder = Encoder::builder(SAMPLE_RATE, Channels::Mono, Application::Voip).build().expect("Opus knows 48 kHz");
    let samples: Vec<i16> = tone::tone(CLEAR_HZ, TALK, SAMPLE_RATE).collect();
    let mut lines = vec![hex(CLEAR_WORDS.as_bytes())];
    for (number, frame) in samples.chunks_exact(960).enumerate() {
        let mut packet = [0; 1_276];
        let length = encoder.encode(frame, &mut packet).expect("20 ms can be encoded");
        let sequence = u16::try_from(number).expect("a few seconds").to_be_bytes();
        let header = [0x80, 111, sequence[0], sequence[1], 0, 0, 0, 0, 1, 2, 3, 4];
        lines.push(hex(&[&header[..], &packet[..length]].concat()));
    }
    let file = folder.join("clear.hex");
    fs::write(&file, lines.join("\n")).expect("the folder is ours");
    let program = "import socket, sys, time\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\nfor line in open(sys.argv[3]):\n  \
                   s.sendto(bytes.fromhex(line.strip()), (sys.argv[1], int(sys.argv[2])))\n  time.sleep(0.002)\n";
    let mut command = Command::new("ip");
    command.args(["netns", "exec", &from.namespace, "python3", "-c", program, &to.address, &CLEAR_PORT.to_string()]);
    let sent = command.arg(&file).output().expect("`ip` runs, as was seen before");
    assert!(sent.status.success(), "{}", String::from_utf8_lossy(&sent.stderr));
}

fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(bytes)
}

/// The streams of audio between two addresses, without the control.
fn of_the_call(packets: &[Packet]) -> Vec<Audio> {
    audio(packets).into_iter().filter(|packet| packet.stream.2.port() != CLEAR_PORT).collect()
}

fn addresses_times_and_sizes_are_there(packets: &[Packet]) {
    let talked = of_the_call(packets);
    for home in [Ipv4Addr::new(5, 0, 11, 1), Ipv4Addr::new(5, 0, 12, 1)] {
        let of_home: Vec<&Audio> = talked.iter().filter(|packet| *packet.stream.1.ip() == home).collect();
        let times = of_home.iter().map(|packet| packet.at);
        let span = times.clone().max().unwrap_or_default().saturating_sub(times.min().unwrap_or_default());
        let sizes: BTreeSet<usize> = of_home.iter().map(|packet| packet.payload.len()).collect();
        eprintln!("{home}: {} packets in {span:?}, of {sizes:?} bytes", of_home.len());
        assert!(of_home.len() >= PACKETS_MIN, "{home}: {} packets", of_home.len());
        assert!(span >= HEARD_MIN && !sizes.contains(&0), "{home}: {span:?}, {sizes:?}");
    }
}

fn no_name_is_there(packets: &[Packet], users: &[&User]) {
    let keys: Vec<[u8; 32]> = users.iter().map(|user| identity(user)).collect();
    let peers: Vec<String> = users.iter().map(|user| user.peer_id()).collect();
    let mut wanted: Vec<&[u8]> = [CLEAR_WORDS, ALICE, BOB, ALICE_NAME, BOB_NAME].map(str::as_bytes).to_vec();
    wanted.extend(keys.iter().map(<[u8; 32]>::as_slice));
    wanted.extend(peers.iter().map(String::as_bytes));
    let mut found = vec![false; wanted.len()];
    packets.iter().for_each(|packet| memory::mark(&packet.bytes, &wanted, &mut found));
    let bytes: usize = packets.iter().map(|packet| packet.bytes.len()).sum();
    eprintln!("{} packets of {bytes} bytes searched", packets.len());
    assert!(found[0], "not even what is in the clear is found");
    let readable: Vec<_> = wanted.iter().zip(&found).skip(1).filter(|(_, found)| **found).collect();
    assert!(readable.is_empty(), "in the clear: {readable:?}");
}

fn no_audio_is_understood(packets: &[Packet]) {
    let clearest = |audio: &[Audio], hertz: f64| {
        // A second at least: of a few frames nothing can be said.
        let long = decoded(audio).into_iter().filter(|samples| samples.len() >= SAMPLE_RATE as usize);
        let levels = long.map(|samples| stands_out_db(&samples, hertz));
        levels.reduce(f64::max).expect("a second of what looks like audio")
    };
    let (clear, call): (Vec<Audio>, Vec<Audio>) =
        audio(packets).into_iter().partition(|packet| packet.stream.2.port() == CLEAR_PORT);
    let control = clearest(&clear, CLEAR_HZ);
    assert!(control > STANDS_OUT_DB, "audio in the clear isn't understood: {control:.0} dB");
    for hertz in [ALICE_HZ, BOB_HZ] {
        let level = clearest(&call, hertz);
        eprintln!("{hertz} Hz stands out by {level:.0} dB in what was recorded, {CLEAR_HZ} Hz by {control:.0} dB in the clear");
        assert!(level < STANDS_OUT_DB, "{hertz} Hz is heard in what the relay carried: it stands out by {level:.0} dB");
    }
}

/// How much stronger a frequency is than the strongest of those nobody plays.
fn stands_out_db(samples: &[i16], hertz: f64) -> f64 {
    let level = |hertz| tone::level_db(samples, SAMPLE_RATE, hertz);
    level(hertz) - UNPLAYED_HZ.map(level).into_iter().fold(f64::NEG_INFINITY, f64::max)
}

/// The relay's node has seen certificates, so it knows usernames; what the two say to each other it doesn't know.
fn the_relay_knows_what_it_may(ann: &User, users: &[&User]) {
    let secrets = [ALICE_NAME, BOB_NAME, "a=fingerprint:sha-256", "a=ice-pwd"];
    for secret in secrets {
        assert_eq!(ann.logged(secret), 0, "{secret:?} is in the relay's log");
    }
    let mut wanted: Vec<&[u8]> = secrets.map(str::as_bytes).to_vec();
    wanted.extend(users.iter().map(|user| user.username.split('@').next().unwrap_or_default().as_bytes()));
    let mut kept = vec![false; wanted.len()];
    for file in files(ann.home()) {
        memory::mark(&fs::read(file).unwrap_or_default(), &wanted, &mut kept);
    }
    assert!(!kept[..secrets.len()].contains(&true), "in the relay's home: {:?} of {secrets:?}", &kept[..secrets.len()]);
    let held =
        memory::holds(ann.pid().expect("it runs"), &wanted).expect("a process that this test has started can be looked into");
    assert!(held[secrets.len()..].contains(&true), "not even a name is found in its memory, which it has from hellos");
    assert!(!held[..secrets.len()].contains(&true), "in the relay's memory: {:?} of {secrets:?}", &held[..secrets.len()]);
}

fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok).map(|entry| entry.path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

fn identity(user: &User) -> [u8; 32] {
    let encoded = user.identity.rsplit(':').next().expect("a key");
    data_encoding::BASE64URL_NOPAD.decode(encoded.as_bytes()).ok().and_then(|bytes| bytes.try_into().ok()).expect("32 bytes")
}

fn text(path: &Path) -> String {
    path.display().to_string()
}
