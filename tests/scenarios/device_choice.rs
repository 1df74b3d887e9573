//! Goal: a call rings where the user is, by a policy that the user set on any device, and never nowhere. Method: bob has three devices, real daemons
//! each; what they report is said by command, as a program that watches for input would.

use std::time::{Duration, Instant};

use halloo_protocol::choice::{
    ChoiceStatus, DeviceReport, DeviceReports, OwnReport, Policy, PolicyText, PushChoice, PushChosen, PushWithdraw,
    PushWithdrawn, Usage,
};
use halloo_protocol::key::DeviceKey;
use halloo_protocol::push::{PushChannel, PushHandle, PushReason, PushRegister, PushRegistered, RegisterStatus};
use halloo_protocol::wire::Extensions;
use halloo_tests::attacker::{Attacker, Forger, device_secret};
use halloo_tests::cli::{Invocation, Running};
use halloo_tests::linking::link;
use halloo_tests::network::text;
use halloo_tests::{Daemon, Network, Plan, User, eventually};
use serde_json::Value;

/// Far longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(45);

const ESCALATE_AFTER: Duration = Duration::from_secs(4);

const IN_USE_FIRST: &str = "version = 1\n\n[[rule]]\nname = \"where I am\"\ntargets = [\"in-use\"]\nescalate_after = 4\n";

/// Bob's devices: the first, and two linked to it.
struct Bob<'a> {
    desktop: &'a Daemon,
    laptop: Daemon,
    phone: Daemon,
    username: String,
}

impl Bob<'_> {
    fn all(&self) -> [&Daemon; 3] {
        [self.desktop, &self.laptop, &self.phone]
    }

    /// Says what each is, and waits until all of them know it of all.
    fn report(&self, usages: [&str; 3]) {
        for (device, usage) in self.all().into_iter().zip(usages) {
            let said = device.cli(["device", "usage", usage]).ok();
            assert_eq!(said["report"]["usage"], usage, "{said}");
        }
        for device in self.all() {
            eventually(PATIENCE, "reports reach every device", || {
                let list = device.cli(["device", "list"]).ok();
                let known = self.all().into_iter().zip(usages).all(|(other, usage)| {
                    let devices = list["devices"].as_array().into_iter().flatten();
                    devices
                        .into_iter()
                        .any(|view| view["peer_id"] == other.peer_id().as_str() && view["report"]["usage"] == usage)
                });
                if known { Ok(()) } else { Err(list.to_string()) }
            });
        }
    }

    /// Sets the policy on the laptop, and waits until every device has it.
    fn set_policy(&self, text: &str) -> u64 {
        let file = self.laptop.home().join("policy.toml");
        std::fs::write(&file, text).expect("written");
        let set = self.laptop.cli(["push", "policy", "set", &file.display().to_string()]).ok();
        for device in self.all() {
            eventually(PATIENCE, "the policy reaches every device", || {
                let policy = device.cli(["push", "policy", "get"]).ok();
                if policy == set { Ok(()) } else { Err(policy.to_string()) }
            });
        }
        set["version"].as_u64().expect("a number")
    }
}

fn bob<'a>(network: &'a Network, alice: &User, first: &'a User) -> Bob<'a> {
    let laptop = link(network, first, "laptop", &[]);
    let phone = link(network, first, "phone", &[]);
    let bob = Bob { desktop: first, laptop, phone, username: first.username.clone() };
    eventually(PATIENCE, "the record has all devices", || {
        let found = alice.cli(["resolve", &bob.username, "--fresh"]);
        match found.json()["devices"].as_array().map(Vec::len) {
            Some(3) => Ok(()),
            _ => Err(format!("{found:?}")),
        }
    });
    bob
}

fn dial(alice: &User, bob: &Bob<'_>, duration: &str) -> Running {
    Invocation::new(alice.home()).args(["call", &bob.username, "--duration", duration]).start()
}

fn events_of(device: &Daemon, name: &str, id: &str) -> Vec<Value> {
    device.events().into_iter().filter(|event| event["event"] == name && event["call_id"] == id).collect()
}

#[track_caller]
fn rings(device: &Daemon, known: &[&str]) -> String {
    text(&device.wait_event(PATIENCE, "call_incoming", |event| !known.iter().any(|id| event["call_id"] == *id)), "call_id")
}

#[track_caller]
fn wait_for(device: &Daemon, name: &str, id: &str) -> Value {
    device.wait_event(PATIENCE, name, |event| event["call_id"] == id)
}

#[test]
fn a_call_rings_where_the_user_is_and_everywhere_if_nobody_answers_there() {
    let network = Network::of(["alice", "bob"]);
    let [alice, first] = network.users.as_slice() else { panic!("two users") };
    let bob = bob(&network, alice, first);

    // No policy: all ring, each once.
    let running = dial(alice, &bob, "1");
    let everywhere = rings(bob.desktop, &[]);
    for device in bob.all() {
        wait_for(device, "call_incoming", &everywhere);
    }
    assert_eq!(bob.desktop.cli(["calls", "answer", &everywhere]).code, 0);
    let outcome = running.wait(PATIENCE).ok();
    assert_eq!((&outcome["outcome"], &outcome["answered_by"]), (&"completed".into(), &bob.desktop.peer_id().into()), "{outcome}");
    for device in [&bob.laptop, &bob.phone] {
        assert_eq!(wait_for(device, "call_ended", &everywhere)["outcome"], "answered-elsewhere");
    }
    for device in bob.all() {
        assert_eq!(events_of(device, "call_incoming", &everywhere).len(), 1, "once");
    }

    // The device in use: only it rings, and the others end without a sound.
    bob.report(["in-use", "idle", "locked"]);
    bob.set_policy(IN_USE_FIRST);
    let running = dial(alice, &bob, "1");
    let quiet = rings(bob.desktop, &[&everywhere]);
    for device in [&bob.laptop, &bob.phone] {
        let held = wait_for(device, "call_held", &quiet);
        assert_eq!(held["after_secs"], ESCALATE_AFTER.as_secs(), "{held}");
        assert!(text(&held, "detail").contains("nobody before has answered"), "{held}");
    }
    assert_eq!(bob.desktop.cli(["calls", "answer", &quiet]).code, 0);
    let outcome = running.wait(PATIENCE).ok();
    assert_eq!((&outcome["outcome"], &outcome["answered_by"]), (&"completed".into(), &bob.desktop.peer_id().into()), "{outcome}");
    for device in [&bob.laptop, &bob.phone] {
        assert_eq!(wait_for(device, "call_ended", &quiet)["outcome"], "answered-elsewhere");
        assert!(events_of(device, "call_incoming", &quiet).is_empty(), "it was silent");
    }
    assert!(
        events_of(alice, "call_ringing", &quiet).len() == 1,
        "one device rang: {:?}",
        events_of(alice, "call_ringing", &quiet)
    );

    messages_are_told_in_turn(alice, &bob);

    // The desktop stays silent: the others ring too, and one answers.
    let running = dial(alice, &bob, "1");
    let escalated = rings(bob.desktop, &[&everywhere, &quiet]);
    wait_for(&bob.phone, "call_held", &escalated);
    let held_at = Instant::now();
    wait_for(&bob.phone, "call_incoming", &escalated);
    wait_for(&bob.laptop, "call_incoming", &escalated);
    assert!(held_at.elapsed() + Duration::from_millis(1_500) > ESCALATE_AFTER, "not before its turn: {:?}", held_at.elapsed());
    assert_eq!(bob.phone.cli(["calls", "answer", &escalated]).code, 0);
    let outcome = running.wait(PATIENCE).ok();
    assert_eq!((&outcome["outcome"], &outcome["answered_by"]), (&"completed".into(), &bob.phone.peer_id().into()), "{outcome}");
    assert_eq!(wait_for(bob.desktop, "call_ended", &escalated)["outcome"], "answered-elsewhere");

    // Who has the phone in hand needn't wait for its turn.
    let running = dial(alice, &bob, "1");
    let early = text(
        &bob.phone.wait_event(PATIENCE, "call_held", |event| {
            event["call_id"] != quiet.as_str() && event["call_id"] != escalated.as_str()
        }),
        "call_id",
    );
    assert_eq!(bob.phone.cli(["calls", "answer", &early]).code, 0);
    let outcome = running.wait(PATIENCE).ok();
    assert_eq!(outcome["answered_by"], bob.phone.peer_id().as_str(), "{outcome}");

    explains(&bob, &escalated);
    assert!(!told_to_caller(alice, &escalated).contains("in use"), "where bob is is not for the caller");
}

/// Every device has a message at once; the one in use tells of it first, the others later, and only of what nobody has read.
#[track_caller]
fn messages_are_told_in_turn(alice: &User, bob: &Bob<'_>) {
    let write = |what: &str| text(&alice.cli(["msg", "send", &bob.username, what]).ok(), "id");
    let about = |device: &Daemon, name: &str, id: &str| device.wait_event(PATIENCE, name, |event| event["message_id"] == id);
    let read = write("read at the desktop");
    assert!(about(bob.desktop, "message_received", &read)["held_secs"].is_null());
    for device in [&bob.laptop, &bob.phone] {
        let held = about(device, "message_received", &read);
        assert_eq!((&held["held_secs"], held["notice"].is_null()), (&ESCALATE_AFTER.as_secs().into(), true), "{held}");
    }
    bob.desktop.cli(["msg", "read", &alice.username]).ok();
    for device in [&bob.laptop, &bob.phone] {
        device.wait_event(PATIENCE, "conversation_read", |event| event["with"] == alice.username.as_str());
    }
    let unread = write("read nowhere");
    assert!(about(bob.desktop, "message_received", &unread)["notice"]["text"].is_string());
    for device in [&bob.laptop, &bob.phone] {
        let due = about(device, "message_due", &unread);
        assert_eq!((&due["text"], due["notice"]["text"].is_string()), (&"read nowhere".into(), true), "{due}");
        let told = device.events().into_iter().filter(|event| event["event"] == "message_due").count();
        assert_eq!(told, 1, "what was read is told of nowhere else: {:?}", device.events());
    }
}

/// What was decided can be looked at, and decided anew.
#[track_caller]
fn explains(bob: &Bob<'_>, id: &str) {
    let explained = bob.phone.cli(["push", "policy", "explain", id]).ok();
    assert_eq!((&explained["rule"], &explained["rule_name"]), (&1.into(), &"where I am".into()), "{explained}");
    let stages = explained["stages"].as_array().expect("stages");
    assert_eq!(stages.len(), 2, "{explained}");
    assert_eq!(stages[0]["devices"][0]["peer_id"], bob.desktop.peer_id().as_str(), "{explained}");
    assert_eq!(stages[0]["devices"][0]["because"], "in-use", "{explained}");
    assert_eq!(
        (&stages[1]["after_secs"], &stages[1]["devices"][0]["because"]),
        (&4.into(), &"not-answered".into()),
        "{explained}"
    );
    // Under another policy the same call goes elsewhere; nothing is set by that.
    let file = bob.phone.home().join("other.toml");
    std::fs::write(&file, "version = 1\n[[rule]]\ntargets = [\"device:phone\"]\n").expect("written");
    let path = file.display().to_string();
    let other = bob.phone.cli(["push", "policy", "explain", id, "--policy", &path]).ok();
    assert_eq!(other["stages"][0]["devices"][0]["peer_id"], bob.phone.peer_id().as_str(), "{other}");
    assert_eq!(other["stages"][0]["devices"][0]["because"], "named", "{other}");
    let imagined = bob.phone.cli(["push", "policy", "explain", "--event", "call", "--from", &bob.username]).ok();
    assert_eq!(imagined["stages"][0]["devices"][0]["because"], "in-use", "{imagined}");
    std::fs::write(&file, "version = 1\n[[rule]]\ntargets = [\"fridge\"]\n").expect("written");
    let refused = bob.phone.cli(["push", "policy", "set", &path]);
    assert_eq!(refused.code, 2, "{refused:?}");
    assert!(refused.last_error().contains("\"fridge\" isn't"), "{refused:?}");
    assert_eq!(bob.phone.cli(["push", "policy", "explain", "ffffffff"]).code, 1, "no such call");
    let shown = bob.phone.cli(["calls", "show", id]).ok();
    let stages = shown["stages"].as_array().expect("stages");
    assert!(stages.iter().any(|stage| stage["stage"] == "choice"), "{shown}");
}

/// All that the caller has of a call, with what devices of the callee have told.
fn told_to_caller(alice: &User, id: &str) -> String {
    alice.cli(["calls", "show", id]).ok().to_string()
}

#[test]
fn a_suspended_phone_is_left_asleep_while_another_device_is_in_use_and_woken_if_nobody_answers() {
    let network = Plan::new(["alice", "bob"]).start();
    let [alice, first] = network.users.as_slice() else { panic!("two users") };
    // Contacts are told of what was read.
    network.befriend(alice, first);
    let bob = bob(&network, alice, first);
    bob.phone.cli(["push", "register", "webpush"]).ok();
    bob.report(["in-use", "idle", "locked"]);
    let version = bob.set_policy(IN_USE_FIRST);
    eventually(PATIENCE, "the gateway has the policy", || {
        let list = bob.phone.cli(["push", "list"]).ok();
        if list["registrations"][0]["policy_version"] == version { Ok(()) } else { Err(list.to_string()) }
    });

    // The desktop answers, and what was written is read there: the gateway never wakes the phone, not even when its turn would have been.
    assert_eq!(bob.phone.cli(["suspend"]).ok()["suspended"], true);
    let written = text(&alice.cli(["msg", "send", &bob.username, "look at this"]).ok(), "id");
    bob.desktop.wait_event(PATIENCE, "message_received", |event| event["message_id"] == written.as_str());
    bob.desktop.cli(["msg", "read", &alice.username]).ok();
    alice.wait_event(PATIENCE, "message_state", |event| event["message_id"] == written.as_str() && event["state"] == "read");
    let running = dial(alice, &bob, "6");
    let id = rings(bob.desktop, &[]);
    assert_eq!(bob.desktop.cli(["calls", "answer", &id]).code, 0);
    let outcome = running.wait(PATIENCE).ok();
    assert_eq!((&outcome["outcome"], &outcome["answered_by"]), (&"completed".into(), &bob.desktop.peer_id().into()), "{outcome}");
    assert!(bob.phone.events().iter().all(|event| event["event"] != "woken"), "it sleeps: {:?}", bob.phone.events());

    // All are suspended, and the newest report says that the desktop is in use: the phone is woken in its turn.
    for device in [bob.desktop, &bob.laptop] {
        assert_eq!(device.cli(["suspend"]).ok()["suspended"], true);
    }
    let dialled_at = Instant::now();
    let running = dial(alice, &bob, "1");
    let woken = bob.phone.wait_event(PATIENCE, "woken", |_| true);
    assert_eq!(woken["by_push"], true, "{woken}");
    assert!(dialled_at.elapsed() > ESCALATE_AFTER, "not before its turn: {:?}", dialled_at.elapsed());
    let id = rings(&bob.phone, &[&id]);
    assert!(events_of(&bob.phone, "call_held", &id).is_empty(), "the gateway has waited already");
    assert_eq!(bob.phone.cli(["calls", "answer", &id]).code, 0);
    let outcome = running.wait(PATIENCE).ok();
    assert_eq!((&outcome["outcome"], &outcome["answered_by"]), (&"completed".into(), &bob.phone.peer_id().into()), "{outcome}");
    assert_eq!(outcome["via_push"], true, "{outcome}");
}

#[test]
fn strangers_change_neither_the_policy_nor_the_reports() {
    let network = Network::of(["alice", "bob"]);
    let [alice, bob] = network.users.as_slice() else { panic!("two users") };
    bob.cli(["push", "register", "stream"]).ok();
    let bobs = DeviceKey(device_secret(bob.home()).public());
    let mallory = Forger::of_user(&network, alice, 1);
    let choice = |devices: Vec<DeviceKey>| PushChoice {
        version: u64::MAX,
        policy: Some(Policy::default()),
        reports: Vec::new(),
        devices,
        presence: None,
        extensions: Extensions::none(),
    };
    let mut at_gateway = Attacker::connect(&network.bootstrap(), &mallory.device, &mallory.hello(None));
    let refused = |attacker: &mut Attacker, choice: &PushChoice| {
        let chosen: PushChosen = attacker.ask(choice).expect("an answer");
        match chosen.status {
            ChoiceStatus::Refused(reason) => reason,
            ChoiceStatus::Kept { .. } => panic!("kept"),
        }
    };
    assert_eq!(refused(&mut at_gateway, &choice(vec![])), PushReason::UNKNOWN_HANDLE, "who isn't registered isn't heard");
    let registered: PushRegistered = at_gateway.ask(&PushRegister::new(vec![PushChannel::Stream])).expect("an answer");
    assert!(matches!(registered.status, RegisterStatus::Registered { .. }), "{registered:?}");
    assert_eq!(refused(&mut at_gateway, &choice(vec![bobs])), PushReason::INVALID, "another user's device");
    let unknown = PushWithdraw { handle: PushHandle([1; 32]), request_hash: [2; 32], extensions: Extensions::none() };
    let withdrawn: PushWithdrawn = at_gateway.ask(&unknown).expect("an answer");
    assert!(!withdrawn.was_held);

    // To bob's device it is somebody else's policy.
    let mut at_bob = Attacker::connect(&bob.addresses()[0], &mallory.device, &mallory.hello(None));
    at_bob.notify(&PolicyText { version: u64::MAX, text: "version = 1\n".into(), extensions: Extensions::none() });
    let report = OwnReport {
        device: bobs,
        report: DeviceReport { sequence: u64::MAX, usage: Some(Usage::Asleep), ..DeviceReport::default() },
    };
    at_bob.notify(&DeviceReports { reports: vec![report], wants_answer: true, extensions: Extensions::none() });
    // What is asked after that is answered after that.
    let withdrawn: PushWithdrawn = at_bob.ask(&unknown).expect("an answer");
    assert!(!withdrawn.was_held);
    assert_eq!(bob.cli(["push", "policy", "get"]).ok()["version"], 0);
    assert_eq!(bob.cli(["device", "list"]).ok()["devices"][0]["report"], Value::Null);
}

#[test]
fn a_picture_is_shown_on_the_screen_and_the_text_only_device_says_where() {
    let network = Network::of(["alice", "bob"]);
    let [alice, bob] = network.users.as_slice() else { panic!("two users") };
    network.befriend(alice, bob);
    let tablet = link(&network, bob, "tablet", &[]);
    tablet.wait_event(PATIENCE, "contact_accepted", |event| event["username"] == alice.username.as_str());
    for (device, formats) in [(&**bob, "text/plain"), (&tablet, "text/plain,image/*")] {
        device.cli(["device", "attributes", "--formats", formats]).ok();
    }
    let knows = |device: &Daemon| {
        let list = device.cli(["device", "list"]).ok();
        let known = list["devices"].as_array().into_iter().flatten().filter(|view| view["report"]["formats"].is_array()).count();
        if known == 2 { Ok(()) } else { Err(list.to_string()) }
    };
    eventually(PATIENCE, "both know what each can show", || knows(bob).and_then(|()| knows(&tablet)));
    eventually(PATIENCE, "the record has both devices", || {
        let found = alice.cli(["resolve", &bob.username, "--fresh"]);
        match found.json()["devices"].as_array().map(Vec::len) {
            Some(2) => Ok(()),
            _ => Err(format!("{found:?}")),
        }
    });

    let picture = network.folder().join("cat.png");
    std::fs::write(&picture, b"not looked at").expect("written");
    let send = |path: &std::path::Path| text(&alice.cli(["file", "send", &bob.username, &path.display().to_string()]).ok(), "id");
    let offered = |device: &Daemon, id: &str| device.wait_event(PATIENCE, "file_offered", |event| event["file_id"] == id);
    let id = send(&picture);
    let (prompt, content) = (offered(bob, &id), offered(&tablet, &id));
    assert_eq!(prompt["notice"]["shown_on"]["peer_id"], tablet.peer_id(), "{prompt}");
    assert_eq!(prompt["notice"]["shown_on"]["name"], "tablet", "{prompt}");
    assert!(text(&prompt["notice"], "spoken").ends_with("is sending you a file (shown on tablet)"), "{prompt}");
    assert!(
        content["notice"]["shown_on"].is_null() && text(&content["notice"], "spoken").ends_with("is sending you a file"),
        "{content}"
    );
    let explained = bob.cli(["push", "policy", "explain", &id]).ok();
    let devices = explained["stages"][0]["devices"].as_array().cloned().unwrap_or_default();
    let points = devices.iter().find(|device| device["peer_id"] == bob.peer_id()).expect("among them");
    assert_eq!(points["shown_on"], tablet.peer_id(), "{explained}");

    // What both can show stays where it comes, and so does what neither can: better there than nowhere.
    for name in ["words.txt", "song.mp3"] {
        let path = network.folder().join(name);
        std::fs::write(&path, b"la la").expect("written");
        let id = send(&path);
        for device in [&**bob, &tablet] {
            let event = offered(device, &id);
            assert!(event["notice"]["shown_on"].is_null(), "{event}");
        }
    }
}

#[test]
fn a_sensor_that_is_a_file_or_a_command_reports_for_its_device() {
    let command = "[sensor]\nfile = \"presence\"\ncommand = [\"/bin/sh\", \"-c\", \"echo locked far; exec sleep 600\"]\n";
    let network = Plan::new(["bob"]).config("bob", command).start();
    let [bob] = network.users.as_slice() else { panic!("one user") };
    let reports = |usage: &str, near: bool| {
        eventually(PATIENCE, "it reports", || {
            let list = bob.cli(["device", "list"]).ok();
            let report = &list["devices"][0]["report"];
            if report["usage"] == usage && report["near"] == near { Ok(()) } else { Err(list.to_string()) }
        });
    };
    reports("locked", false);
    std::fs::write(bob.home().join("presence"), "what?\nin-use near\n").expect("written");
    reports("in-use", true);
    // What can't be read changes nothing; what isn't named stays.
    std::fs::write(bob.home().join("presence"), "\u{0}\u{1}").expect("written");
    std::fs::write(bob.home().join("presence"), "far\n").expect("written");
    reports("in-use", false);
}
