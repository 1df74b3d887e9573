//! Goal: a person's devices are linked, named and taken away, by what a person types. Method: real daemons; the commands of both ends, the code and
//! the link passed from one to the other as people do.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use halloo::timestamp::Timestamp;
use halloo_protocol::call::Reason;
use halloo_protocol::mailbox::{MailboxItems, MailboxOpen, MailboxOpened, MailboxReason, MailboxTake, OpenStatus};
use halloo_protocol::message::{
    Content, ConversationId, DeliveryStatus, Envelope, MessageAck, MessageBody, MessageDeliver, MessageId,
};
use halloo_protocol::own_device::{DeviceRenew, DeviceRenewed};
use halloo_protocol::push::{PushChannel, PushReason, PushRegister, PushRegistered, RegisterStatus};
use halloo_protocol::relay::{RelayGrant, RelayReason, RelayRequest, RelayStatus};
use halloo_protocol::wire::Extensions;
use halloo_tests::attacker::{Attacker, Forger, device_secret};
use halloo_tests::cli::Invocation;
use halloo_tests::linking::{Linking, link};
use halloo_tests::network::{one_is, text};
use halloo_tests::{Daemon, Launch, Network, Plan, User, eventually};
use serde_json::Value;

const SETTLED_TIME_MAX: Duration = Duration::from_secs(45);

fn home(network: &Network, name: &str) -> PathBuf {
    network.folder().join(name)
}

#[track_caller]
fn expect_received(device: &Daemon, text: &str) {
    device.wait_event(SETTLED_TIME_MAX, "message_received", |event| event["text"] == text);
}

#[track_caller]
fn send(from: &Daemon, to: &User, text: &str) {
    let sent = from.cli(["msg", "send", &to.username, text, "--wait"]).ok();
    assert!(sent["state"] == "delivered" || sent["state"] == "read", "{sent}");
}

#[test]
fn a_new_device_is_linked_by_link_or_by_code_and_knows_the_same_people() {
    let mut network = Plan::new(["alice", "bob"]).contacts_only().start();
    let [alice, bob] = network.users.as_slice() else { panic!("two users") };
    network.befriend(alice, bob);
    let second = link(&network, alice, "alice-second", &[]);
    assert!(!second.home().join("identity.key").exists(), "the identity key stays where it is");
    one_is(&second, &bob.username, "contact");
    send(&second, bob, "from the second");
    send(bob, alice, "to both");
    expect_received(alice, "to both");
    expect_received(&second, "to both");

    // By the code that a person types, in lower case; and the identity key comes along.
    let linking = Linking::start(alice, &["--with-identity-key"]);
    let (code, address) = (linking.code().to_lowercase().replace('-', " "), linking.address());
    let args = ["device", "link", &code, "--at", &address, "--device-name", "third"];
    let joined = Invocation::new(&home(&network, "alice-third")).args(args).run().ok();
    assert_eq!((&joined["username"], &joined["has_identity_key"]), (&Value::from(alice.username.as_str()), &true.into()));
    assert_eq!(linking.finish().1, 0);
    let mut third = Daemon::of_home(network.folder(), "alice-third");
    third.start(network.launch("alice-third"));
    one_is(&third, &bob.username, "contact");
    send(bob, alice, "to all three");
    for device in [&**alice, &second, &third] {
        expect_received(device, "to all three");
    }
    // One more by the third: it has the identity key, and the second hasn't.
    let refused = second.cli(["device", "link"]);
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(refused.last_error().contains("identity key"), "{refused:?}");
    let fourth = link(&network, &third, "alice-fourth", &[]);
    send(&fourth, bob, "from the fourth");
    network.users.clear();
}

#[test]
fn a_wrong_code_is_refused_and_burnt_and_nothing_of_it_stays() {
    let network = Network::of(["alice"]);
    let alice = &network.users[0];
    let linking = Linking::start(alice, &[]);
    let second = alice.cli(["device", "link"]);
    assert_eq!(second.code, 1, "one code at a time: {second:?}");
    let address = linking.address();
    let new = home(&network, "new");
    let join = |code: &str| Invocation::new(&new).args(["device", "link", code, "--at", &address]).run();
    let right = linking.code();
    let wrong = if right == "0000-0000" { "1111-1111" } else { "0000-0000" };
    let refused = join(wrong);
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(refused.last_error().contains("wrong link code"), "{refused:?}");
    assert!(!new.exists(), "nothing of it stays");
    let (last, code) = linking.finish();
    assert_eq!(code, 1, "{last}");
    assert!(text(&last, "detail").contains("wrong code"), "{last}");
    let burnt = join(&right);
    assert_eq!(burnt.code, 1, "{burnt:?}");
    assert!(burnt.last_error().contains("no link code is open"), "{burnt:?}");
    assert!(!new.exists());

    // What can't be used at all.
    for (args, expected) in [
        (vec!["device", "link", "halloo:link/1/AAAA"], 2),
        (vec!["device", "link", "no code"], 2),
        (vec!["device", "link", "1111-1111"], 2),
        (vec!["device", "link", "1111-1111", "--at", "nowhere"], 2),
        (vec!["device", "link", "1111-1111", "--at", "/ip4/127.0.0.1/tcp/1"], 1),
        (vec!["device", "link"], 3),
    ] {
        let refused = Invocation::new(&new).args(&args).run();
        assert_eq!(refused.code, expected, "{args:?} {refused:?}");
        assert!(!new.exists(), "{args:?} left something");
    }
    let link_in_use = Linking::start(alice, &[]);
    let own_home = Invocation::new(alice.home()).args(["device", "link", &link_in_use.link()]).run();
    assert_eq!(own_home.code, 1, "{own_home:?}");
    std::fs::create_dir(&new).expect("the folder is ours");
    std::fs::write(new.join("thesis.txt"), "").expect("written");
    assert_eq!(Invocation::new(&new).args(["device", "link", &link_in_use.link()]).run().code, 2, "a directory of others");

    // Who goes takes the code along.
    let right = link_in_use.link();
    drop(link_in_use);
    alice.wait_event(SETTLED_TIME_MAX, "device_linking", |event| event["stage"] == "cancelled");
    let late = Invocation::new(&home(&network, "late")).args(["device", "link", &right]).run();
    assert_eq!(late.code, 1, "{late:?}");
    eventually(SETTLED_TIME_MAX, "the daemon goes on", || alice.api().get("/v1/status").map(|_| ()));
}

/// One of the user's devices as a device shows it.
fn device(of: &Daemon, peer_id: &str) -> Result<Value, String> {
    let list = of.api().get("/v1/devices")?;
    let found = list["devices"].as_array().into_iter().flatten().find(|device| device["peer_id"] == peer_id).cloned();
    found.ok_or_else(|| list.to_string())
}

#[track_caller]
fn device_is(of: &Daemon, peer_id: &str, what: &str, check: impl Fn(&Value) -> bool) {
    eventually(SETTLED_TIME_MAX, what, || {
        let seen = device(of, peer_id)?;
        if check(&seen) { Ok(()) } else { Err(seen.to_string()) }
    });
}

/// Peer ids of the devices that whoever looks the user up is told of.
fn devices_found(by: &Daemon, username: &str) -> Result<Vec<String>, String> {
    let found = by.api().get(&format!("/v1/users/{username}?fresh=true&settled=true"))?;
    let devices = found["devices"].as_array().into_iter().flatten();
    let mut peers: Vec<String> = devices.filter_map(|device| device["peer_id"].as_str().map(str::to_owned)).collect();
    peers.sort_unstable();
    Ok(peers)
}

#[track_caller]
fn expect_devices(by: &Daemon, username: &str, expected: &[&Daemon]) {
    let mut expected: Vec<String> = expected.iter().map(|daemon| daemon.peer_id()).collect();
    expected.sort_unstable();
    eventually(SETTLED_TIME_MAX, "the devices in the record", || {
        let found = devices_found(by, username)?;
        if found == expected { Ok(()) } else { Err(format!("{found:?}")) }
    });
}

#[test]
fn a_device_without_the_identity_key_gets_new_certificates_from_one_that_has_it() {
    // Certified for two hours from an hour ago on: half of that is over at once.
    let network = Plan::new(["alice"]).config("alice", "[debug]\nlinked_certificate_secs = 7200\n").start();
    let alice = &network.users[0];
    let second = link(&network, alice, "alice-second", &[]);
    let today = Timestamp::now().to_string();
    let is_long = |seen: &Value| seen["certificate_until"].as_str().is_some_and(|until| until[..4] > today[..4]);
    device_is(&second, &second.peer_id(), "a certificate for a year", is_long);
    device_is(alice, &second.peer_id(), "and it is published", is_long);
}

#[test]
fn devices_are_listed_and_renamed_on_each_other() {
    let network = Network::of(["alice"]);
    let alice = &network.users[0];
    let second = link(&network, alice, "alice-second", &[]);
    device_is(alice, &second.peer_id(), "what the second says of itself", |seen| {
        seen["name"] == "alice-second"
            && seen["kind"] == "laptop"
            && seen["has_identity_key"] == false
            && seen["is_this"] == false
    });
    device_is(&second, &alice.peer_id(), "what the first says of itself", |seen| seen["has_identity_key"] == true);
    device_is(&second, &second.peer_id(), "itself", |seen| seen["is_this"] == true && seen["certificate_until"].is_string());

    // The other one, by its name; and this one.
    let renamed = alice.cli(["device", "rename", "alice-second", "old phone"]).ok();
    assert_eq!(renamed["name"], "old phone", "{renamed}");
    assert_eq!(second.api().get("/v1/status").expect("status")["device_name"], "old phone");
    device_is(alice, &second.peer_id(), "the new name at once", |seen| seen["name"] == "old phone");
    second.cli(["device", "rename", &second.peer_id(), "new phone"]).ok();
    device_is(alice, &second.peer_id(), "the new name on the other", |seen| seen["name"] == "new phone");
    // A name that was given stays, whatever config.toml says since before.
    let mut second = second;
    second.kill();
    let offline = alice.cli(["device", "rename", "new phone", "whatever"]);
    assert_eq!(offline.code, 1, "{offline:?}");
    second.restart();
    assert_eq!(second.api().get("/v1/status").expect("status")["device_name"], "new phone");

    assert_eq!(alice.cli(["device", "rename", "nobody", "x"]).code, 1);
    assert_eq!(alice.cli(["device", "rename", "new phone", &"x".repeat(65)]).code, 2);
    assert_eq!(alice.cli(["device", "revoke", "nobody"]).code, 1);
    let own = alice.cli(["device", "revoke", &alice.peer_id()]);
    assert!(own.code == 1 && own.last_error().contains("on another one"), "{own:?}");
    let without_key = second.cli(["device", "revoke", &alice.peer_id()]);
    assert!(without_key.code == 1 && without_key.last_error().contains("identity key"), "{without_key:?}");
    let revoke = |words: &str| {
        let args = ["device", "revoke", &alice.peer_id(), "--recovery-phrase"];
        Invocation::new(second.home()).args(args).stdin(words).run()
    };
    assert_eq!(revoke("not twenty-four words").code, 2);
    assert_eq!(revoke("").code, 2);
    assert_eq!(revoke(&format!("{}art", "abandon ".repeat(23))).code, 2, "somebody else's phrase");
    // The lost one had the identity key: the phrase takes it out all the same.
    assert_eq!(revoke(&alice.phrase).ok()["peer_id"], alice.peer_id());
    alice.wait_event(SETTLED_TIME_MAX, "device_revoked", |event| event["is_this"] == true);
    device_is(&second, &alice.peer_id(), "gone", |seen| seen["state"] == "revoked" && seen["revoked_at"].is_string());
    let again = revoke(&alice.phrase);
    assert!(again.code == 1 && again.last_error().contains("before"), "{again:?}");
}

fn messages(of: &Daemon, with: &str) -> Result<Vec<String>, String> {
    let list = of.api().get(&format!("/v1/messages?with={with}"))?;
    let texts = list["messages"].as_array().into_iter().flatten();
    Ok(texts.filter_map(|message| message["text"].as_str().map(str::to_owned)).collect())
}

fn mood_of(of: &Daemon, user: &str) -> Result<String, String> {
    let seen = of.api().get(&format!("/v1/presence/contacts/{user}"))?;
    Ok(seen["mood"].as_str().unwrap_or_default().to_owned())
}

#[track_caller]
fn sees_mood(of: &Daemon, user: &str, mood: &str) {
    eventually(SETTLED_TIME_MAX, "the mood", || {
        let seen = mood_of(of, user)?;
        if seen == mood { Ok(()) } else { Err(seen) }
    });
}

fn key_epoch(of: &Daemon, with: &str) -> Result<Value, String> {
    Ok(of.api().get(&format!("/v1/contacts/{with}"))?["key_epoch"].clone())
}

fn own_epoch(of: &Daemon) -> u64 {
    of.api().get("/v1/contacts").expect("the list")["key_epoch"].as_u64().expect("a number")
}

#[test]
fn a_revoked_device_is_out_at_once_and_everybody_else_goes_on() {
    let mut network = Plan::new(["alice", "bob", "carol"]).contacts_only().start();
    network.befriend(&network.users[0], &network.users[1]);
    network.befriend(&network.users[0], &network.users[2]);
    let mut lost = link(&network, &network.users[0], "lost", &[]);
    let stays = link(&network, &network.users[0], "stays", &[]);
    let folder = network.folder().to_owned();
    let [alice, bob, carol] = network.users.as_mut_slice() else { panic!("three users") };
    one_is(&lost, &bob.username, "contact");
    one_is(&stays, &bob.username, "contact");
    expect_devices(bob, &alice.username, &[&**alice, &lost, &stays]);
    send(bob, alice, "to all three");
    for device in [&**alice, &lost, &stays] {
        expect_received(device, "to all three");
    }
    bob.cli(["presence", "set", "online", "--mood", "before"]).ok();
    sees_mood(&lost, &bob.username, "before");
    let (bobs, alices) = (own_epoch(bob), own_epoch(alice));
    // Whoever steals the device now has all that it knows.
    let stolen = folder.join("stolen");
    carol.kill();

    lost.kill();
    copy_home(lost.home(), &stolen);
    lost.restart();
    let revoked = alice.cli(["device", "revoke", "lost"]).ok();
    assert_eq!(revoked["peer_id"], lost.peer_id());
    assert!(own_epoch(alice) > alices, "contacts get a new key");
    lost.wait_event(SETTLED_TIME_MAX, "device_revoked", |event| event["is_this"] == true);
    assert!(lost.api().get("/v1/status").expect("status")["revoked_at"].is_string());
    let doctor = lost.cli(["doctor"]);
    assert!(doctor.code == 1 && doctor.stdout.contains("removed by its user"), "{doctor:?}");
    let refused = lost.cli(["msg", "send", &bob.username, "still me"]);
    assert!(refused.code == 1 && refused.last_error().contains("removed by its user"), "{refused:?}");
    assert_eq!(lost.cli(["device", "link"]).code, 1);
    // It keeps what it had.
    assert!(messages(&lost, &bob.username).expect("its database").contains(&"to all three".to_owned()));

    // The others go on, with other keys on both sides: the lost one knew bob's too.
    stays.wait_event(SETTLED_TIME_MAX, "device_revoked", |event| event["is_this"] == false);
    expect_devices(bob, &alice.username, &[&**alice, &stays]);
    eventually(SETTLED_TIME_MAX, "new keys on all sides", || {
        let newest = (own_epoch(alice), own_epoch(bob));
        let held = (key_epoch(bob, &alice.username)?, key_epoch(alice, &bob.username)?, key_epoch(&stays, &bob.username)?);
        let is_new = newest.1 > bobs && own_epoch(&stays) == newest.0;
        let is_told = held == (newest.0.into(), newest.1.into(), newest.1.into());
        if is_new && is_told { Ok(()) } else { Err(format!("{newest:?} {held:?}")) }
    });
    send(bob, alice, "to those who are left");
    expect_received(alice, "to those who are left");
    expect_received(&stays, "to those who are left");
    send(&stays, bob, "we go on");
    bob.cli(["presence", "set", "online", "--mood", "after"]).ok();
    sees_mood(alice, &bob.username, "after");
    sees_mood(&stays, &bob.username, "after");

    // Somebody who was away learns it on return.
    carol.restart();
    expect_devices(carol, &alice.username, &[&**alice, &stays]);
    send(carol, alice, "back again");
    expect_received(&stays, "back again");
    lost.kill();

    // What was stolen starts up and knows nothing of it: it hears of it, and stays out.
    let mut thief = Daemon::of_home(&folder, "stolen");
    thief.spawn(network_launch(network.authority.addresses().first().expect("it listens")));
    // It is never ready, for nobody keeps its entry.
    eventually(SETTLED_TIME_MAX, "the thief's node hears of it", || {
        if !thief.home().join("api.addr").exists() {
            return Err("starting".to_owned());
        }
        let status = thief.api().get("/v1/status")?;
        if status["revoked_at"].is_string() { Ok(()) } else { Err(status.to_string()) }
    });
    send(bob, alice, "not for thieves");
    expect_received(&stays, "not for thieves");
    bob.cli(["presence", "set", "online", "--mood", "not for thieves"]).ok();
    sees_mood(&stays, &bob.username, "not for thieves");
    expect_devices(bob, &alice.username, &[&**alice, &stays]);
    let seen = messages(&thief, &bob.username).expect("its database");
    assert!(!seen.iter().any(|text| text == "not for thieves" || text == "to those who are left"), "{seen:?}");
    assert_ne!(mood_of(&thief, &bob.username).unwrap_or_default(), "not for thieves");
}

/// How a node of the lab is run that joins through this address.
fn network_launch(bootstrap: &str) -> Launch {
    Launch::lab().arg("--bootstrap").arg(bootstrap)
}

fn copy_home(from: &Path, to: &Path) {
    std::fs::create_dir(to).expect("the folder is ours");
    std::fs::set_permissions(to, std::fs::Permissions::from_mode(0o700)).expect("ours");
    for name in ["device.key", "halloo.redb", "config.toml"] {
        std::fs::copy(from.join(name), to.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

#[test]
fn helpers_and_contacts_refuse_whoever_has_the_key_of_a_revoked_device() {
    let mut network = Plan::new(["alice", "bob"]).contacts_only().start();
    network.befriend(&network.users[0], &network.users[1]);
    let mut lost = link(&network, &network.users[0], "lost", &[]);
    let forger = Forger { device: device_secret(lost.home()), ..Forger::of_user(&network, &network.users[0], 1) };
    eventually(SETTLED_TIME_MAX, "its mailbox", || {
        let status = lost.api().get("/v1/status")?;
        if status["mailboxes"][0].is_string() { Ok(()) } else { Err(status.to_string()) }
    });
    lost.kill();
    let [alice, bob] = network.users.as_mut_slice() else { panic!("two users") };
    let take = MailboxTake { done: Vec::new(), after: 0, extensions: Extensions::none() };
    let server = network.authority.addresses().first().expect("it listens").clone();
    {
        let mut thief = Attacker::connect(&server, &forger.device, &forger.hello(None));
        let before: MailboxItems = thief.ask(&take).expect("an answer");
        assert_eq!(before.refused, None, "until then the box is the device's");
    }
    alice.cli(["device", "revoke", "lost"]).ok();
    eventually(SETTLED_TIME_MAX, "the mailbox refuses", || {
        let mut thief = Attacker::connect(&server, &forger.device, &forger.hello(None));
        let after: MailboxItems = thief.ask(&take).map_err(|frame| format!("{frame:?}"))?;
        if after.refused == Some(MailboxReason::NOT_CERTIFIED) { Ok(()) } else { Err(format!("{after:?}")) }
    });
    let mut thief = Attacker::connect(&server, &forger.device, &forger.hello(None));
    let open = MailboxOpen { epoch: 0, revoked: Vec::new(), has_door: true, extensions: Extensions::none() };
    let opened: MailboxOpened = thief.ask(&open).expect("an answer");
    assert_eq!(opened.status, OpenStatus::Refused(MailboxReason::NOT_CERTIFIED));
    let registered: PushRegistered = thief.ask(&PushRegister::new(vec![PushChannel::Stream])).expect("an answer");
    assert_eq!(registered.status, RegisterStatus::Refused(PushReason::NOT_CERTIFIED));
    let grant: RelayGrant = thief.ask(&RelayRequest { extensions: Extensions::none() }).expect("an answer");
    assert_eq!(grant.status, RelayStatus::Refused(RelayReason::NOT_CERTIFIED));
    let stored = thief.store(&forger.record(forger.parts(forger.entry(1_000_000))));
    assert!(stored.is_err(), "a replica keeps its entry: {stored:?}");

    // The contact heard of it, and takes nothing; no more does an own device.
    eventually(SETTLED_TIME_MAX, "the contact knows", || {
        let found = devices_found(bob, &alice.username)?;
        if found.len() == 1 { Ok(()) } else { Err(format!("{found:?}")) }
    });
    for victim in [&**bob, &**alice] {
        let mut thief = Attacker::connect(&victim.addresses()[0], &forger.device, &forger.hello(None));
        let envelope = Envelope {
            id: MessageId([7; 16]),
            conversation: ConversationId([7; 16]),
            counter: 1,
            sent_at: halloo_tests::attacker::now(),
            body: MessageBody::Text("it's me".into()),
            extensions: Extensions::none(),
        };
        let ack: MessageAck =
            thief.ask(&MessageDeliver { content: Content::Plain(envelope), extensions: Extensions::none() }).expect("an answer");
        assert_eq!(ack.status, DeliveryStatus::Refused(Reason::NOT_ALLOWED));
        let renewed: DeviceRenewed = thief.ask(&DeviceRenew { extensions: Extensions::none() }).expect("an answer");
        assert_eq!(renewed.certificate, None);
    }
}
