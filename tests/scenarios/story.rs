//! Goal: what people do with each other works from the first request to the end of it, on all of their devices, by what a person types. Method: three
//! users with seven devices, each a process; commands of `halloo` alone; and in the end a reader that has kept the key of somebody removed.

use std::time::Duration;

use halloo_protocol::key::DeviceKey;
use halloo_protocol::presence::{DocumentError, SealedDocument, State, Topic};
use halloo_tests::attacker::{Attacker, Forger};
use halloo_tests::linking::link;
use halloo_tests::network::text;
use halloo_tests::presence_reader::{Kept, fetch};
use halloo_tests::{Daemon, Network, Plan, User, eventually};
use serde_json::{Value, json};

/// How long something may take to be seen everywhere: records have to be looked up first.
const SEEN_TIME_MAX: Duration = Duration::from_secs(45);

/// Runs a command again and again until its answer has these fields.
#[track_caller]
fn shows<const N: usize>(device: &Daemon, command: [&str; N], fields: &Value) -> Value {
    eventually(SEEN_TIME_MAX, &format!("{} shows {fields} on {command:?}", device.name()), || {
        let shown = device.cli(command);
        let value = shown.json();
        let is_so = fields.as_object().is_some_and(|fields| fields.iter().all(|(name, wanted)| value[name] == *wanted));
        if shown.code == 0 && is_so { Ok(value) } else { Err(format!("{shown:?}")) }
    })
}

#[track_caller]
fn isnt_listed(device: &Daemon, user: &User) {
    eventually(SEEN_TIME_MAX, &format!("{} no longer lists {}", device.name(), user.username), || {
        let list = device.cli(["contact", "list"]).ok();
        let entries = list["contacts"].as_array().ok_or_else(|| list.to_string())?;
        let is_there = entries.iter().any(|entry| entry["username"] == user.username.as_str());
        if is_there { Err(list.to_string()) } else { Ok(()) }
    });
}

/// How a person stands in the list of contacts.
#[track_caller]
fn is_listed(device: &Daemon, user: &User, state: &str) {
    eventually(SEEN_TIME_MAX, &format!("{} lists {} as {state}", device.name(), user.username), || {
        let list = device.cli(["contact", "list"]).ok();
        let entries = list["contacts"].as_array().into_iter().flatten();
        let found: Vec<&Value> = entries.filter(|entry| entry["username"] == user.username.as_str()).collect();
        let is_so = matches!(found.as_slice(), [only] if only["state"] == state);
        if is_so { Ok(()) } else { Err(list.to_string()) }
    });
}

/// The one message of this text in the conversation, once it has these fields.
#[track_caller]
fn has_message(device: &Daemon, with: &User, message: &str, fields: &Value) {
    eventually(SEEN_TIME_MAX, &format!("{} has {message:?} as {fields}", device.name()), || {
        let list = device.cli(["msg", "list", &with.username]).ok();
        let entries = list["messages"].as_array().into_iter().flatten();
        let found: Vec<&Value> = entries.filter(|entry| entry["text"] == message).collect();
        let is_so =
            |entry: &Value| fields.as_object().is_some_and(|fields| fields.iter().all(|(name, wanted)| entry[name] == *wanted));
        if matches!(found.as_slice(), [only] if is_so(only)) { Ok(()) } else { Err(format!("{found:?}")) }
    });
}

#[track_caller]
fn sees(device: &Daemon, user: &User, state: &str, mood: &str) {
    shows(device, ["presence", "get", &user.username], &json!({"state": state, "mood": mood}));
}

/// Sets it on all of a user's devices: each speaks for itself.
fn say(devices: &[&Daemon], state: &str, mood: &str) {
    for device in devices {
        let own = device.cli(["presence", "set", state, "--mood", mood]).ok();
        assert_eq!((&own["state"], &own["mood"]), (&json!(state), &json!(mood)), "{own}");
    }
}

#[track_caller]
fn shows_nothing_of(device: &Daemon, user: &User) {
    eventually(SEEN_TIME_MAX, "presence is refused", || {
        let shown = device.cli(["presence", "get", &user.username]);
        if shown.code == 1 && shown.last_error().contains("isn't a contact") { Ok(()) } else { Err(format!("{shown:?}")) }
    });
}

/// `asker` asks, `asked` hears of it and accepts, and every device of both knows.
#[track_caller]
fn become_contacts(asker: (&User, &[&Daemon]), asked: (&User, &[&Daemon]), accepting: &Daemon) {
    let ((asker, askers), (asked, others)) = (asker, asked);
    let sent = askers[0].cli(["contact", "add", &asked.username, "--text", "do you remember me?"]).ok();
    assert_eq!(sent["state"], "asked", "{sent}");
    let request = accepting.wait_event(SEEN_TIME_MAX, "contact_request", |event| event["from"] == asker.username.as_str());
    assert_eq!(request["text"], "do you remember me?");
    is_listed(accepting, asker, "requested");
    assert_eq!(accepting.cli(["contact", "accept", &asker.username]).ok()["state"], "contact");
    others.iter().for_each(|device| is_listed(device, asker, "contact"));
    askers.iter().for_each(|device| is_listed(device, asked, "contact"));
}

/// Waits until a device knows how many there are of its user.
#[track_caller]
fn knows_own_devices(device: &Daemon, count: usize) {
    eventually(SEEN_TIME_MAX, &format!("{} knows {count} devices", device.name()), || {
        let list = device.cli(["device", "list"]).ok();
        let listed = list["devices"].as_array().map_or(0, Vec::len);
        if listed == count { Ok(()) } else { Err(list.to_string()) }
    });
}

fn device_key(device: &Daemon) -> DeviceKey {
    let peer = device.peer_id().parse().expect("a peer id");
    halloo::address::device_key(&peer).expect("an Ed25519 key")
}

/// Three people. What is declared first ends first.
struct Story {
    alice: User,
    alices_phone: Daemon,
    alices_tablet: Daemon,
    bob: User,
    bobs_phone: Daemon,
    carol: User,
    carols_phone: Daemon,
    network: Network,
}

impl Story {
    fn begin() -> Self {
        let mut network = Plan::new(["alice", "bob", "carol"]).contacts_only().start();
        let users = std::mem::take(&mut network.users);
        let [alice, bob, carol] = <[User; 3]>::try_from(users).expect("three users");
        let (bobs_phone, carols_phone, [alices_phone, alices_tablet]) = std::thread::scope(|scope| {
            let network = &network;
            let (bob, carol) = (&bob, &carol);
            let bobs = scope.spawn(move || link(network, bob, "bob-phone", &[]));
            let carols = scope.spawn(move || link(network, carol, "carol-phone", &[]));
            let alices = ["alice-phone", "alice-tablet"].map(|name| link(network, &alice, name, &[]));
            (bobs.join().expect("bob's phone"), carols.join().expect("carol's phone"), alices)
        });
        let story = Self { alice, alices_phone, alices_tablet, bob, bobs_phone, carol, carols_phone, network };
        let all = [&story.alices()[..], &story.bobs(), &story.carols()];
        for devices in all {
            devices.iter().for_each(|device| knows_own_devices(device, devices.len()));
        }
        story
    }

    fn alices(&self) -> [&Daemon; 3] {
        [&self.alice, &self.alices_phone, &self.alices_tablet]
    }

    fn bobs(&self) -> [&Daemon; 2] {
        [&self.bob, &self.bobs_phone]
    }

    fn carols(&self) -> [&Daemon; 2] {
        [&self.carol, &self.carols_phone]
    }

    fn presence_goes_both_ways(&self) {
        say(&self.alices(), "away", "on a hill");
        say(&self.bobs(), "dnd", "at the piano");
        self.bobs().iter().chain(&self.carols()).for_each(|device| sees(device, &self.alice, "away", "on a hill"));
        self.alices().iter().for_each(|device| sees(device, &self.bob, "dnd", "at the piano"));
        shows_nothing_of(&self.carol, &self.bob);
    }

    fn a_message_waits_for_carol(&mut self) {
        assert_eq!(self.carol.terminate().0, 0);
        assert_eq!(self.carols_phone.terminate().0, 0);
        let (with_alice, with_carol) = (self.alice.username.clone(), self.carol.username.clone());
        let sent = self.alices_phone.cli(["msg", "send", &with_carol, "are you home?"]).ok();
        assert!(["queued", "sent"].contains(&text(&sent, "state").as_str()), "{sent}");
        has_message(&self.alices_phone, &self.carol, "are you home?", &json!({"state": "sent"}));

        self.carol.restart();
        let come = json!({"incoming": true, "unread": true, "from": with_alice});
        has_message(&self.carol, &self.alice, "are you home?", &come);
        for device in self.alices() {
            has_message(device, &self.carol, "are you home?", &json!({"incoming": false, "state": "delivered"}));
        }
        self.carols_phone.restart();
        has_message(&self.carols_phone, &self.alice, "are you home?", &come);

        // Read on one device: read on the other, and the author's devices know.
        let outcome = self.carol.cli(["msg", "read", &with_alice]).ok();
        assert_eq!(outcome["unread"], 0, "{outcome}");
        has_message(&self.carols_phone, &self.alice, "are you home?", &json!({"unread": false}));
        for device in self.alices() {
            has_message(device, &self.carol, "are you home?", &json!({"state": "read"}));
        }
    }

    fn bob_is_removed(&mut self) {
        // What bob keeps is what is on a phone that is off from now on. With that he asks a carrier himself.
        assert_eq!(self.bobs_phone.terminate().0, 0);
        let bobs = Kept::of(self.bobs_phone.home(), "alice");
        let device = device_key(&self.alice);
        let asker = Forger::of_user(&self.network, &self.bob, 1);
        let mut carrier = Attacker::connect(&self.network.bootstrap(), &asker.device, &asker.hello(None));
        let (old_day, old_topic) = bobs.topic(&device);
        let before = newest(&mut carrier, &[old_topic]);
        let read = bobs.open(&before, &device, (old_day, &old_topic)).expect("a contact's key opens it");
        assert_eq!((read.state, read.mood.as_str()), (State::Away, "on a hill"), "until then the key is good");

        let (with_alice, with_bob) = (self.alice.username.clone(), self.bob.username.clone());
        assert_eq!(self.alices_tablet.cli(["contact", "remove", &with_bob]).ok()["state"], "removed");
        self.bob.wait_event(SEEN_TIME_MAX, "contact_removed", |event| event["username"] == with_alice.as_str());
        isnt_listed(&self.bob, &self.alice);
        shows_nothing_of(&self.bob, &self.alice);
        for device in self.alices() {
            isnt_listed(device, &self.bob);
            shows_nothing_of(device, &self.bob);
        }
        say(&self.alices(), "dnd", "without you");
        self.carols().iter().for_each(|device| sees(device, &self.alice, "dnd", "without you"));

        // Carol's key says where alice's presence is now; bob's opens nothing of it, and where bob's points there is nothing new.
        assert_eq!(self.carols_phone.terminate().0, 0);
        let carols = Kept::of(self.carols_phone.home(), "alice");
        assert!(carols.key.epoch > bobs.key.epoch);
        let (day, topic) = carols.topic(&device);
        let after = eventually(SEEN_TIME_MAX, "the new presence at the carrier", || {
            let after = newest(&mut carrier, &[topic]);
            let read = carols.open(&after, &device, (day, &topic)).map_err(|error| error.to_string())?;
            if read.mood == "without you" { Ok(after) } else { Err(format!("{read:?}")) }
        });
        assert_eq!(bobs.open(&after, &device, (day, &topic)), Err(DocumentError::Seal), "the old key is useless");
        let found = fetch(&mut carrier, &[old_topic, topic]);
        let told = found[0].as_ref().map(|left| bobs.open(left, &device, (old_day, &old_topic)));
        assert!(
            told.as_ref().is_none_or(|told| told.as_ref().is_ok_and(|told| told.mood == "on a hill")),
            "where bob looks there is nothing new: {told:?}"
        );

        // The phone learns of it on return; and bob's devices are strangers to alice.
        self.bobs_phone.restart();
        for device in self.bobs() {
            isnt_listed(device, &self.alice);
            shows_nothing_of(device, &self.alice);
        }
        let refused = self.bobs_phone.cli(["msg", "send", &with_alice, "please", "--wait"]);
        assert!(refused.code == 1 && refused.stdout.contains("not a contact"), "{refused:?}");
    }
}

fn newest(carrier: &mut Attacker, topic: &[Topic; 1]) -> SealedDocument {
    fetch(carrier, topic).pop().flatten().expect("the last one has come")
}

#[test]
fn three_people_with_seven_devices_from_the_first_request_to_the_end() {
    let mut story = Story::begin();
    // Each on another device than the one that was written to first.
    become_contacts((&story.alice, &story.alices()), (&story.bob, &story.bobs()), &story.bobs_phone);
    become_contacts((&story.carol, &story.carols()), (&story.alice, &story.alices()), &story.alices_tablet);
    story.presence_goes_both_ways();
    story.a_message_waits_for_carol();
    story.bob_is_removed();
}
