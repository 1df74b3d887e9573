//! Goal: a video call carries encoded pictures both ways, and rings only where video is allowed. Method: two daemons on one machine; each plays a
//! file, VP8 in IVF and H.264 in annex B, and what each records holds the other's pictures byte for byte.

use std::path::{Path, PathBuf};
use std::time::Duration;

use halloo_tests::audio::{assert_heard, write_tone};
use halloo_tests::cli::Invocation;
use halloo_tests::network::befriend;
use halloo_tests::{Network, Plan, cli};

const ALICE_HZ: f64 = 440.0;
const BOB_HZ: f64 = 660.0;
const EVENT_TIME_MAX: Duration = Duration::from_secs(45);
/// Pictures in a file, at 30 a second; every 15th is a key frame.
const PICTURES: usize = 150;
const KEY_EVERY: usize = 15;

/// A picture of a length that takes from one packet to many.
fn body(index: usize) -> Vec<u8> {
    let length = 60 + (index * 911) % 7_000 + if index.is_multiple_of(KEY_EVERY) { 20_000 } else { 0 };
    // No zeros, so that no start code is met by chance.
    (0..length).map(|place| ((place * (index + 3)) % 254) as u8 + 1).collect()
}

fn vp8(index: usize) -> Vec<u8> {
    let mut data = vec![0x10, 2, 0, 0x9D, 0x01, 0x2A, 0x40, 0x01, 0xB4, 0x00];
    data[0] |= u8::from(!index.is_multiple_of(KEY_EVERY));
    data.extend(body(index));
    data
}

fn write_ivf(path: &Path) {
    let mut file = b"DKIF\0\0\x20\0VP80\x40\x01\xB4\0".to_vec();
    file.extend([30_u32, 1, PICTURES as u32, 0].iter().flat_map(|word| word.to_le_bytes()));
    for index in 0..PICTURES {
        let data = vp8(index);
        file.extend((data.len() as u32).to_le_bytes());
        file.extend((index as u64).to_le_bytes());
        file.extend(data);
    }
    std::fs::write(path, file).expect("a file");
}

fn read_ivf(path: &Path) -> Vec<Vec<u8>> {
    let file = std::fs::read(path).expect("a recording");
    assert!(file.starts_with(b"DKIF") && file[8..12] == *b"VP80", "an IVF file of VP8");
    let (mut rest, mut frames) = (&file[32..], Vec::new());
    while let Some((length, behind)) = rest.split_first_chunk::<4>() {
        let length = u32::from_le_bytes(*length) as usize;
        frames.push(behind[8..8 + length].to_vec());
        rest = &behind[8 + length..];
    }
    let counted = u32::from_le_bytes(file[24..28].try_into().expect("four bytes"));
    assert_eq!(counted as usize, frames.len(), "the head counts the frames");
    frames
}

/// A picture of H.264, as units behind start codes.
fn h264(index: usize) -> Vec<u8> {
    let is_key = index.is_multiple_of(KEY_EVERY);
    let sets: &[&[u8]] = if is_key { &[&[0x67, 0x42, 0xE0, 0x1F, 0x8D], &[0x68, 0xCE, 0x38, 0x80 | 1]] } else { &[] };
    let slice = [&[if is_key { 0x65 } else { 0x41 }, 0x9A][..], &body(index)].concat();
    sets.iter().copied().chain([&slice[..]]).flat_map(|unit| [&[0, 0, 0, 1], unit].concat()).collect()
}

/// What was recorded is a run of what was played, from a key frame on, and most of it: a call has a beginning and an end.
fn assert_run(recorded: &[Vec<u8>], picture: impl Fn(usize) -> Vec<u8>) {
    let first = (0..PICTURES).find(|index| recorded.first() == Some(&picture(*index))).expect("its first is one that was played");
    assert!(first.is_multiple_of(KEY_EVERY), "it begins with a key frame: {first}");
    for (index, data) in recorded.iter().enumerate() {
        assert_eq!(*data, picture(first + index), "picture {}", first + index);
    }
    assert!(recorded.len() >= PICTURES / 3, "{} pictures", recorded.len());
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

#[test]
fn pictures_arrive_byte_for_byte_both_ways() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let file = |name: &str| -> PathBuf { folder.path().join(name) };
    write_ivf(&file("alice.ivf"));
    std::fs::write(file("bob.h264"), (0..PICTURES).flat_map(h264).collect::<Vec<_>>()).expect("a file");
    write_tone(&file("alice.wav"), ALICE_HZ, Duration::from_secs(12));
    write_tone(&file("bob.wav"), BOB_HZ, Duration::from_secs(12));
    let mut network = Network::of(["alice", "bob"]);
    let [alice, bob] = network.users();
    befriend(alice, bob);
    let call = Invocation::new(alice.home()).args(["call", &bob.username, "--duration", "6"]);
    let files = [
        ("--play", "alice.wav"),
        ("--record", "alice-heard.wav"),
        ("--play-video", "alice.ivf"),
        ("--record-video", "alice-saw"),
    ];
    let running = files.into_iter().fold(call, |call, (flag, name)| call.args([Path::new(flag), &file(name)])).start();
    let incoming = bob.wait_event(EVENT_TIME_MAX, "call_incoming", |_| true);
    assert_eq!(incoming["video"], true, "{incoming}");
    let id = incoming["call_id"].as_str().expect("an id").to_owned();
    let mut answer = vec!["calls".to_owned(), "answer".to_owned(), id];
    let files =
        [("--play", "bob.wav"), ("--record", "bob-heard.wav"), ("--play-video", "bob.h264"), ("--record-video", "bob-saw.ivf")];
    answer.extend(files.into_iter().flat_map(|(flag, name)| [flag.to_owned(), text(&file(name))]));
    let answered = cli(bob.home(), &answer);
    assert_eq!(answered.code, 0, "{answered:?}");
    let outcome = running.wait(EVENT_TIME_MAX).ok();
    eprintln!("{outcome}");
    assert_eq!(outcome["outcome"], "completed", "{outcome}");
    assert_eq!(outcome["video"]["codec"], "h264", "what alice received: {outcome}");
    assert!(outcome["video"]["frames_sent"].as_u64() >= Some(PICTURES as u64 / 3), "{outcome}");
    let ended = bob.wait_event(EVENT_TIME_MAX, "call_ended", |event| event["outcome"] == "completed");
    assert_eq!(ended["video"]["codec"], "vp8", "{ended}");
    assert_run(&read_ivf(&file("bob-saw.ivf")), vp8);
    // Pictures of H.264 have no lengths in their file: it is what was played, from some key frame to some end.
    let seen = std::fs::read(file("alice-saw")).expect("a recording");
    let mut pictures = Vec::new();
    let mut rest = &seen[..];
    let begin = (0..PICTURES).find(|index| seen.starts_with(&h264(*index))).expect("its first is one that was played");
    for index in begin.. {
        if rest.is_empty() {
            break;
        }
        let expected = h264(index);
        assert!(rest.starts_with(&expected), "picture {index}");
        rest = &rest[expected.len()..];
        pictures.push(expected);
    }
    assert_run(&pictures, h264);
    assert_heard(&file("alice-heard.wav"), BOB_HZ, ALICE_HZ, Duration::from_secs(3));
    assert_heard(&file("bob-heard.wav"), ALICE_HZ, BOB_HZ, Duration::from_secs(3));
}

#[test]
fn a_video_call_rings_only_where_video_is_allowed() {
    let mut network = Plan::new(["alice", "bob"]).args("bob", ["--answer", "auto"]).start();
    let [alice, bob] = network.users();
    befriend(alice, bob);
    let set = bob.cli(["privacy", "set", "--call", "contacts", "--video", "nobody"]);
    assert_eq!(set.code, 0, "{set:?}");
    let video = Invocation::new(alice.home()).args(["call", &bob.username, "--video", "--duration", "1"]).run();
    assert_eq!(video.code, 1, "{video:?}");
    let outcome = video.json();
    assert_ne!(outcome["outcome"], "completed", "{outcome}");
    let voice = Invocation::new(alice.home()).args(["call", &bob.username, "--duration", "1"]).run().ok();
    assert_eq!(voice["outcome"], "completed", "{voice}");
    assert!(voice["video"].is_null(), "{voice}");
    let rang = bob.events().into_iter().filter(|event| event["event"] == "call_incoming").count();
    assert_eq!(rang, 1, "only the voice call");
}
