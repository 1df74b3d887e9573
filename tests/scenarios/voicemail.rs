//! Goal: who isn't answered leaves a recording, and it is heard, whole and unchanged, whoever of the two is there when. Method: real daemons; the
//! recording is a tone, and what the callee saves must hold it. The callee's daemon, and then the caller's, are down at the right moments.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use halloo_tests::audio::{assert_heard, write_tone};
use halloo_tests::cli::{Invocation, Output};
use halloo_tests::linking::link;
use halloo_tests::network::text;
use halloo_tests::{Daemon, Plan, User, eventually};
use serde_json::Value;

/// How long anything may take to show: far more than it does.
const PATIENCE: Duration = Duration::from_secs(90);

const ALICE_HZ: f64 = 440.0;
const OTHER_HZ: f64 = 660.0;

/// Three parts: longer than one message carries.
const LENGTH: Duration = Duration::from_secs(28);

/// A recording, and a place for what is heard of it.
struct Files(tempfile::TempDir);

impl Files {
    fn new(length: Duration) -> Self {
        let folder = tempfile::tempdir().expect("a temporary directory");
        write_tone(&folder.path().join("message.wav"), ALICE_HZ, length);
        Self(folder)
    }

    fn message(&self) -> String {
        self.place("message.wav").display().to_string()
    }

    fn place(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

/// Calls, with a recording for the case that nobody answers.
fn call(from: &Daemon, to: &User, files: &Files) -> Invocation {
    Invocation::new(from.home()).args(["call", &to.username, "--voicemail", &files.message()])
}

/// The id of the voicemail that a call which wasn't answered has left.
#[track_caller]
fn left(output: &Output, outcome: &str) -> String {
    let told = output.json();
    assert_eq!((output.code, &told["outcome"]), (1, &outcome.into()), "{output:?}");
    assert_eq!(told["voicemail_problem"], Value::Null, "{told}");
    text(&told["voicemail"], "id")
}

fn entry(of: &Daemon, id: &str) -> Result<Value, String> {
    of.api().get(&format!("/v1/voicemails/{id}"))
}

/// Waits until a recording shows like this.
#[track_caller]
fn shows(of: &Daemon, id: &str, field: &str, value: impl Into<Value>) -> Value {
    let value = value.into();
    eventually(PATIENCE, &format!("{} shows {field} = {value} of the voicemail", of.name()), || {
        let entry = entry(of, id)?;
        if entry[field] == value { Ok(entry) } else { Err(entry.to_string()) }
    })
}

/// Waits until it is here, saves it and listens.
#[track_caller]
fn hears(device: &Daemon, id: &str, files: &Files, name: &str, length: Duration) {
    let told = device.wait_event(PATIENCE, "voicemail_received", |event| event["voicemail_id"] == id);
    assert_eq!(told["duration_ms"], length.as_millis() as u64, "{told}");
    shows(device, id, "state", "ready");
    let place = files.place(name);
    device.cli(["voicemail", "save", id, &place.display().to_string()]).ok();
    assert_heard(&place, ALICE_HZ, OTHER_HZ, length);
}

fn unread(of: &Daemon, with: &str) -> Result<u64, String> {
    let list = of.api().get("/v1/conversations")?;
    let found = list["conversations"].as_array().into_iter().flatten().find(|entry| entry["with"] == with).cloned();
    found.and_then(|entry| entry["unread"].as_u64()).ok_or_else(|| list.to_string())
}

#[track_caller]
fn has_unread(of: &Daemon, with: &str, count: u64) {
    eventually(PATIENCE, &format!("{} has {count} unread of {with}", of.name()), || {
        let seen = unread(of, with)?;
        if seen == count { Ok(()) } else { Err(seen.to_string()) }
    });
}

#[test]
fn who_is_declined_leaves_a_recording_that_all_devices_have_and_one_hears() {
    let files = Files::new(LENGTH);
    let mut network = Plan::new(["alice", "bob"]).contacts_only().start();
    let [alice, bob] = network.users.as_slice() else { panic!("two users") };
    network.befriend(alice, bob);
    let second = link(&network, bob, "bob-second", &[]);
    eventually(PATIENCE, "alice sees two devices", || {
        let found = alice.api().get(&format!("/v1/users/{}?fresh=true&settled=true", bob.username))?;
        if found["devices"].as_array().map(Vec::len) == Some(2) { Ok(()) } else { Err(found.to_string()) }
    });

    let running = call(alice, bob, &files).start();
    let incoming = bob.wait_event(PATIENCE, "call_incoming", |_| true);
    let call_id = text(&incoming, "call_id");
    assert_eq!(bob.cli(["calls", "decline", &call_id]).code, 0);
    let id = left(&running.wait(PATIENCE), "declined");

    hears(bob, &id, &files, "bob.wav", LENGTH);
    hears(&second, &id, &files, "second.wav", LENGTH);
    let shown = entry(bob, &id).expect("it is listed");
    assert_eq!(
        (&shown["call_id"], &shown["heard"], &shown["incoming"]),
        (&call_id.into(), &false.into(), &true.into()),
        "{shown}"
    );
    assert_eq!(shown["waveform"].as_array().map(Vec::len), Some(64), "{shown}");
    assert_eq!(shown["with"], alice.username.as_str());
    shows(alice, &id, "state", "delivered");

    // Looking at the conversation doesn't count as hearing; a text in it is read by that.
    alice.cli(["msg", "send", &bob.username, "call me back", "--wait"]).ok();
    has_unread(bob, &alice.username, 2);
    bob.cli(["msg", "read", &alice.username]).ok();
    has_unread(bob, &alice.username, 1);
    let list = bob.cli(["msg", "list", &alice.username]).ok();
    let in_it = list["messages"].as_array().into_iter().flatten().find(|message| message["id"] == id.as_str());
    assert_eq!(in_it.map(|message| &message["voicemail_ms"]), Some(&(LENGTH.as_millis() as u64).into()), "{list}");

    // Played on one device: the program gets a WAV file with the tone in it. Heard on the other, and at the caller.
    let copy = files.place("copy.sh");
    let played = files.place("played.wav");
    std::fs::write(&copy, format!("#!/bin/sh\ncp \"$1\" '{}'\n", played.display())).expect("the folder is ours");
    make_executable(&copy);
    let answer = second.cli(["voicemail", "play", &id[..8], "--with", &copy.display().to_string()]).ok();
    assert_eq!(answer["heard"], true, "{answer}");
    assert_heard(&played, ALICE_HZ, OTHER_HZ, LENGTH);
    bob.wait_event(PATIENCE, "voicemail_heard", |event| event["voicemail_id"] == id.as_str() && event["elsewhere"] == true);
    shows(bob, &id, "heard", true);
    shows(alice, &id, "state", "heard");
    has_unread(bob, &alice.username, 0);

    // By caller, by what was heard, and gone when it was deleted.
    let by_caller = |device: &Daemon, user: &str, more: &[&str]| {
        let listed = Invocation::new(device.home()).args(["voicemail", "list", "--from", user]).args(more).run().ok();
        listed["voicemails"].as_array().map_or(0, Vec::len)
    };
    assert_eq!((by_caller(bob, &alice.username, &[]), by_caller(bob, &bob.username, &[])), (1, 0));
    assert_eq!(by_caller(bob, &alice.username, &["--unheard"]), 0);
    assert_eq!(by_caller(alice, &bob.username, &["--sent"]), 1);
    // A device that comes later has it from another, and knows that it was heard.
    let third = link(&network, bob, "bob-third", &[]);
    hears(&third, &id, &files, "third.wav", LENGTH);
    shows(&third, &id, "heard", true);

    bob.cli(["voicemail", "delete", &id]).ok();
    assert_eq!(by_caller(bob, &alice.username, &[]), 0);
    assert_eq!(bob.cli(["voicemail", "heard", &id]).code, 1, "it is gone");
    for device in [&second, &third] {
        eventually(PATIENCE, "it is gone from own other devices", || match by_caller(device, &alice.username, &[]) {
            0 => Ok(()),
            count => Err(format!("{}: {count}", device.name())),
        });
    }
    network.users.clear();
}

fn make_executable(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700)).expect("the file is ours");
}

#[test]
fn a_recording_waits_for_a_callee_who_is_offline_though_the_caller_was_killed_and_is_gone() {
    let files = Files::new(LENGTH);
    let mut network = Plan::new(["alice", "bob"]).contacts_only().start();
    network.befriend(&network.users[0], &network.users[1]);
    let [alice, bob] = network.users();
    has_mailbox(alice, bob);
    bob.terminate();

    let id = left(&call(alice, bob, &files).run(), "unreachable");
    // It was acknowledged: nothing that happens to the caller's process may lose it.
    alice.kill();
    alice.restart();
    shows(alice, &id, "state", "sent");
    alice.terminate();

    bob.restart();
    hears(bob, &id, &files, "bob.wav", LENGTH);
    bob.terminate();
    bob.restart();
    let kept = shows(bob, &id, "state", "ready");
    assert_eq!((&kept["heard"], &kept["problem"]), (&false.into(), &Value::Null), "{kept}");
    let played = bob.cli(["voicemail", "heard", &id[..6]]).ok();
    assert_eq!(played["heard"], true, "{played}");

    alice.restart();
    shows(alice, &id, "state", "heard");
}

/// Three minutes, with a text beside them that mustn't wait for them for long.
#[test]
#[ignore = "long: an unoptimised build encodes and decodes three minutes"]
fn the_longest_recording_arrives_by_stream_and_by_mailbox() {
    let length = Duration::from_secs(180);
    let files = Files::new(length);
    let mut network = Plan::new(["alice", "bob"]).contacts_only().start();
    network.befriend(&network.users[0], &network.users[1]);
    let [alice, bob] = network.users();
    has_mailbox(alice, bob);
    let leave = |alice: &Daemon, bob: &User| {
        let left = alice.cli(["voicemail", "leave", &bob.username, &files.message()]).ok();
        text(&left, "id")
    };
    let started = Instant::now();
    let id = leave(alice, bob);
    let recorded = started.elapsed();
    alice.cli(["msg", "send", &bob.username, "beside it", "--wait"]).ok();
    let text_after = started.elapsed() - recorded;
    hears(bob, &id, &files, "stream.wav", length);
    let shown = shows(alice, &id, "state", "delivered");
    eprintln!(
        "{} bytes; recorded in {:.1} s; a text beside it took {:.1} s; heard after {:.1} s",
        shown["bytes"],
        recorded.as_secs_f32(),
        text_after.as_secs_f32(),
        (started.elapsed() - recorded).as_secs_f32()
    );

    bob.terminate();
    let id = leave(alice, bob);
    shows(alice, &id, "state", "sent");
    alice.terminate();
    bob.restart();
    hears(bob, &id, &files, "mailbox.wav", length);
}

/// Waits until the caller knows where to leave something for the callee.
#[track_caller]
fn has_mailbox(from: &Daemon, to: &User) {
    eventually(PATIENCE, "the callee has a mailbox", || {
        let status = to.api().get("/v1/status")?;
        let mailboxes = status["mailboxes"].as_array().map_or(0, Vec::len);
        if mailboxes > 0 { Ok(()) } else { Err(status.to_string()) }
    });
    eventually(PATIENCE, "the caller has the entry that names it", || {
        from.api().get(&format!("/v1/users/{}?fresh=true&settled=true", to.username)).map(drop)
    });
}

#[test]
fn who_may_not_write_may_not_leave_a_recording_and_one_that_is_broken_is_not_taken() {
    let files = Files::new(Duration::from_secs(2));
    let mut network = Plan::new(["alice", "bob", "carol"]).contacts_only().start();
    network.befriend(&network.users[0], &network.users[1]);
    let [alice, bob, carol] = network.users();

    // A stranger is refused, and told so.
    let id = left(&call(carol, bob, &files).run(), "declined");
    let failed = shows(carol, &id, "state", "failed");
    assert!(text(&failed, "problem").contains("contact"), "{failed}");
    let nothing = bob.cli(["voicemail", "list"]).ok();
    assert_eq!((&nothing["voicemails"], &nothing["unheard"]), (&Value::Array(Vec::new()), &0.into()), "{nothing}");

    // Who doesn't want to be disturbed takes what contacts leave.
    bob.cli(["presence", "set", "dnd"]).ok();
    let id = left(&call(alice, bob, &files).run(), "declined");
    hears(bob, &id, &files, "bob.wav", Duration::from_secs(2));

    // What can't be a recording is said before anybody is called.
    let noise = files.place("noise.wav");
    std::fs::write(&noise, "no audio").expect("the folder is ours");
    let refused = alice.cli(["call", &bob.username, "--voicemail", &noise.display().to_string()]);
    assert_eq!(refused.code, 2, "{refused:?}");
    let long = files.place("long.wav");
    write_tone(&long, ALICE_HZ, Duration::from_secs(181));
    let refused = alice.cli(["call", &bob.username, "--voicemail", &long.display().to_string()]);
    assert!(refused.code == 2 && refused.last_error().contains("180 s"), "{refused:?}");
    assert!(alice.cli(["voicemail", "save", "0123", "/nonexistent/x.wav"]).code == 1);
}

/// What is on the wire about a recording, by a contact who holds to no rule.
mod hostile {
    use halloo_protocol::call::Reason;
    use halloo_protocol::directory::RecordKey;
    use halloo_protocol::id::{ConversationId, MessageId};
    use halloo_protocol::identity::UserId;
    use halloo_protocol::message::{Content, DeliveryStatus, Envelope, MessageAck, MessageBody, MessageDeliver};
    use halloo_protocol::voicemail::{
        Recording, VOICEMAIL_BYTES_MAX, Voicemail, VoicemailFetch, VoicemailPart, VoicemailPiece, VoicemailSignal, ogg,
    };
    use halloo_protocol::wire::{self, Extensions, FrameKind, Message};
    use halloo_tests::attacker::{Attacker, Forger, Sealer, now};

    use super::*;

    /// What no codec has made, in the form of a recording.
    fn nonsense() -> Vec<u8> {
        let packets: Vec<Vec<u8>> = (0..1_000_u32).map(nonsense_packet).collect();
        let recording = Recording::new(packets.iter().map(Vec::as_slice), 0, 960_000).expect("in form");
        ogg::write(&recording, "nobody").expect("it fits")
    }

    /// 20 ms by its first byte, which says one frame of full band.
    fn nonsense_packet(number: u32) -> Vec<u8> {
        let noise = (0..60_u32).map(|at| (number.wrapping_mul(2_654_435_761).wrapping_add(at * 40_503) >> 13) as u8);
        std::iter::once(31 << 3).chain(noise).collect()
    }

    struct Liar {
        stream: Attacker,
        sealer: Sealer,
        device: halloo_protocol::key::DeviceKey,
        said: u8,
        counter: u64,
    }

    impl Liar {
        fn says(&mut self, id: MessageId, counter: u64, signal: VoicemailSignal) -> DeliveryStatus {
            let envelope = Envelope {
                id,
                conversation: ConversationId([0; 16]),
                counter,
                sent_at: now(),
                body: MessageBody::Voicemail(Box::new(signal)),
                extensions: Extensions::none(),
            };
            let message = MessageDeliver { content: self.sealer.seal(&envelope), extensions: Extensions::none() };
            self.stream.ask::<_, MessageAck>(&message).expect("an answer").status
        }

        fn leaves(&mut self, id: MessageId, voicemail: Voicemail) -> DeliveryStatus {
            self.counter += 1;
            self.says(id, self.counter, VoicemailSignal::Left(voicemail))
        }

        fn sends(&mut self, part: VoicemailPart) -> DeliveryStatus {
            self.said += 1;
            self.says(MessageId([self.said; 16]), 0, VoicemailSignal::Part(part))
        }
    }

    #[test]
    fn a_recording_that_is_none_is_not_heard_and_nobody_fills_the_disk() {
        let mut network = Plan::new(["alice", "bob", "mallory"]).contacts_only().start();
        network.befriend(&network.users[0], &network.users[1]);
        let [forger, stranger] = [(0, 1), (2, 2)].map(|(user, device)| Forger::of_user(&network, &network.users[user], device));
        let bob = &network.users[1];
        let address = bob.addresses()[0].clone();
        let stream = Attacker::connect(&address, &forger.device, &forger.hello(None));
        let mut reader = Attacker::connect(&network.bootstrap(), &forger.device, &forger.hello(None));
        let authority = network.authority.api().get("/v1/authority").expect("the authority shows itself");
        let authority = text(&authority, "key").parse().expect("a key");
        let name = UserId::Named { authority, name: "bob".parse().expect("a username") };
        let record = reader.find_record(RecordKey::of(&name)).expect("bob is in the directory");
        let sealer = Sealer::new(&forger, &record);
        let mut liar = Liar { stream, sealer, device: forger.device_key(), said: 0, counter: 0 };

        let whole = nonsense();
        let cut = whole[..whole.len() - 10].to_vec();
        for (number, file, told, problem) in [
            (101, &cut, &cut, "cut short"),
            (102, &whole, &cut, "bytes where"),
            (103, &whole, &whole.iter().rev().copied().collect(), "hash"),
            (104, &whole.iter().rev().copied().collect(), &whole.iter().rev().copied().collect(), "no Ogg page"),
        ] {
            let id = MessageId([number; 16]);
            // The parts come first, the last one before the others.
            let mut parts: Vec<VoicemailPart> = VoicemailPart::of(id, file).collect();
            parts.reverse();
            assert!(parts.len() > 1);
            for part in parts {
                assert_eq!(liar.sends(part), DeliveryStatus::Accepted);
            }
            assert_eq!(liar.leaves(id, Voicemail::of(told, None, 20_000, Vec::new())), DeliveryStatus::Accepted);
            let shown = shows(bob, &id.to_string(), "state", "broken");
            assert!(text(&shown, "problem").contains(problem), "{problem}: {shown}");
            bob.wait_event(PATIENCE, "warning", |event| {
                event["code"] == "voicemail-broken" && event["detail"].as_str().is_some_and(|detail| detail.contains(problem))
            });
            let place = network.folder().join("broken.wav").display().to_string();
            assert_eq!(bob.cli(["voicemail", "save", &id.to_string(), &place]).code, 1);
        }

        // In the right form, of bytes that no codec has made: it is heard as whatever it is, or not at all.
        let id = MessageId([105; 16]);
        let voicemail = Voicemail::of(&whole, None, 20_000, Vec::new());
        assert_eq!(liar.leaves(id, voicemail.clone()), DeliveryStatus::Accepted);
        let short = VoicemailPart { bytes: vec![0; 5], ..VoicemailPart::of(id, &whole).next().expect("a part") };
        assert_eq!(liar.sends(short), DeliveryStatus::Refused(Reason::INVALID));
        for part in VoicemailPart::of(id, &whole) {
            assert_eq!(liar.sends(part), DeliveryStatus::Accepted);
        }
        shows(bob, &id.to_string(), "state", "ready");
        let place = network.folder().join("nonsense.wav").display().to_string();
        let saved = bob.cli(["voicemail", "save", &id.to_string(), &place]).code;
        assert!((0..=1).contains(&saved), "{saved}");
        // Nobody but an own device is given parts.
        let fetch = VoicemailFetch { device: liar.device, voicemail: id, index: 0, extensions: Extensions::none() };
        let mut stranger = Attacker::connect(&address, &stranger.device, &stranger.hello(None));
        for asker in [&mut liar.stream, &mut stranger] {
            let piece: VoicemailPiece = asker.ask(&fetch).expect("an answer");
            assert!(piece.bytes.is_empty());
        }

        // Out of range: not even understood.
        let too_large = Voicemail { bytes: VOICEMAIL_BYTES_MAX as u32 + 1, ..voicemail.clone() };
        let body = MessageBody::Voicemail(Box::new(VoicemailSignal::Left(too_large)));
        let envelope = Envelope {
            id: MessageId([106; 16]),
            conversation: ConversationId([0; 16]),
            counter: 1,
            sent_at: now(),
            body,
            extensions: Extensions::none(),
        };
        let plain = MessageDeliver { content: Content::Plain(envelope), extensions: Extensions::none() };
        assert_eq!(liar.stream.ask_raw(MessageDeliver::KIND, wire::encode(&plain)).kind, FrameKind::UNSUPPORTED);

        // What would be more than 8 MiB of one user isn't taken, told or untold.
        let largest = Voicemail { bytes: VOICEMAIL_BYTES_MAX as u32, ..voicemail };
        let statuses: Vec<DeliveryStatus> =
            (150..166).map(|number| liar.leaves(MessageId([number; 16]), largest.clone())).collect();
        let kept = statuses.iter().filter(|status| **status == DeliveryStatus::Accepted).count();
        let refused = statuses.iter().filter(|status| **status == DeliveryStatus::Refused(Reason::VOICEMAIL_FULL)).count();
        assert_eq!((kept, refused), (13, 3), "{statuses:?}");
        let zeros = vec![0; VOICEMAIL_BYTES_MAX];
        let untold = VoicemailPart::of(MessageId([170; 16]), &zeros);
        let statuses: Vec<DeliveryStatus> = untold.map(|part| liar.sends(part)).collect();
        assert_eq!(statuses.last(), Some(&DeliveryStatus::Refused(Reason::VOICEMAIL_FULL)), "{statuses:?}");
        assert_eq!(bob.cli(["status"]).code, 0);
        network.users.clear();
    }
}
