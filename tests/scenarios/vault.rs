//! Goal: who has nothing but the recovery phrase has everybody back, also when no other device of theirs is online, and nobody else gets at it.
//! Method: daemons that are killed and whose homes are thrown away, a mailbox between them that may be killed too.

use std::time::Duration;

use halloo_tests::cli::Invocation;
use halloo_tests::daemon::Daemon;
use halloo_tests::linking::link;
use halloo_tests::network::{Plan, one_is};
use halloo_tests::{Network, User, eventually};

/// Longer than a mailbox needs to be found, asked and written.
const SETTLED_TIME_MAX: Duration = Duration::from_secs(60);

#[track_caller]
fn become_contacts(asker: &User, asked: &User) {
    asker.cli(["contact", "add", &asked.username, "--text", "it's me"]).ok();
    one_is(asked, &asker.username, "requested");
    asked.cli(["contact", "accept", &asker.username]).ok();
    one_is(asker, &asked.username, "contact");
}

/// Waits until every mailbox of the device has all of its vault.
#[track_caller]
fn vault_is_current(device: &Daemon) {
    eventually(SETTLED_TIME_MAX, "the vault is at the mailboxes", || {
        let vault = device.cli(["status"]).ok()["vault"].clone();
        let is_current = vault["mailboxes"].as_u64() > Some(0) && vault["mailboxes"] == vault["current"];
        if is_current && vault["chunks"].as_u64() > Some(0) { Ok(()) } else { Err(vault.to_string()) }
    });
}

/// A new home of a user, made of the phrase alone, under the same name.
#[track_caller]
fn recovered(network: &Network, user: &User, folder: &str) -> Daemon {
    let (mut again, _) = Daemon::init_with(network.folder(), folder, "lab = true\n", Some(&user.phrase));
    let invite = network.invite();
    Invocation::new(again.home()).args(["enrol", &user.username, "--invite", &invite]).run().ok();
    again.start(network.launch(folder));
    again
}

#[test]
fn the_phrase_alone_brings_everybody_back() {
    let mut network = Plan::new(["alice", "bob", "carol"]).contacts_only().start();
    {
        let [alice, bob, carol] = network.users();
        become_contacts(alice, bob);
        alice.cli(["contact", "block", &carol.username]).ok();
        alice.cli(["profile", "set", "--name", "Alice A.", "--mood", "writing"]).ok();
        alice.cli(["privacy", "set", "--call", "nobody"]).ok();
        vault_is_current(alice);
    }
    // Nobody is there who could tell: the home is gone, and so are the contacts.
    network.users.iter_mut().for_each(|user| user.kill());
    std::fs::remove_dir_all(network.users[0].home()).expect("the home is gone");
    let again = recovered(&network, &network.users[0], "alice-again");
    one_is(&again, &network.users[1].username, "contact");
    one_is(&again, &network.users[2].username, "blocked");
    eventually(SETTLED_TIME_MAX, "profile and settings", || {
        let (profile, privacy) = (again.cli(["profile", "get"]).ok(), again.cli(["privacy", "get"]).ok());
        let is_back = profile["display_name"] == "Alice A." && profile["mood"] == "writing" && privacy["call"] == "nobody";
        if is_back { Ok(()) } else { Err(format!("{profile} {privacy}")) }
    });
    // And it goes on from there, both ways.
    let launch = network.launch("bob");
    network.users[1].start(launch);
    let bob = &network.users[1];
    let sent = again.cli(["msg", "send", &bob.username, "I'm back", "--wait"]).ok();
    assert_eq!(sent["state"], "delivered", "{sent}");
    let sent = bob.cli(["msg", "send", &network.users[0].username, "welcome", "--wait"]).ok();
    assert_eq!(sent["state"], "delivered", "{sent}");
}

#[test]
fn devices_that_never_meet_have_the_same_contacts() {
    let mut network = Plan::new(["alice", "bob", "carol"]).contacts_only().start();
    {
        let [alice, bob, _] = network.users();
        become_contacts(alice, bob);
        vault_is_current(alice);
        alice.kill();
    }
    let mut second = recovered(&network, &network.users[0], "alice-second");
    one_is(&second, &network.users[1].username, "contact");
    // Changed on the second while the first is away, and on the first while the second is.
    let carol = network.users[2].username.clone();
    second.cli(["contact", "add", &carol]).ok();
    one_is(&network.users[2], &network.users[0].username, "requested");
    network.users[2].cli(["contact", "accept", &network.users[0].username]).ok();
    one_is(&second, &carol, "contact");
    vault_is_current(&second);
    second.kill();
    let launch = network.launch("alice");
    network.users[0].start(launch);
    let alice = &network.users[0];
    one_is(alice, &carol, "contact");
    alice.cli(["contact", "remove", &network.users[1].username]).ok();
    vault_is_current(alice);
    network.users[0].kill();
    second.start(network.launch("alice-second"));
    one_is(&second, &network.users[1].username, "removed");
    one_is(&second, &carol, "contact");
}

#[test]
fn a_mailbox_that_lost_everything_is_filled_again() {
    let mut network = Plan::new(["alice", "bob", "keeper"]).args("keeper", ["--role", "mailbox"]).contacts_only().start();
    let [alice, bob, keeper] = network.users();
    become_contacts(alice, bob);
    eventually(SETTLED_TIME_MAX, "two mailboxes", || {
        let vault = alice.cli(["status"]).ok()["vault"].clone();
        if vault["mailboxes"] == 2 && vault["current"] == 2 { Ok(()) } else { Err(vault.to_string()) }
    });
    keeper.kill();
    std::fs::remove_file(keeper.home().join("halloo.redb")).expect("the keeper's database is gone");
    let invite = network.invite();
    let keeper = &network.users[2];
    Invocation::new(keeper.home()).args(["enrol", &keeper.username, "--invite", &invite]).run().ok();
    let launch = network.launch("keeper");
    network.users[2].start(launch);
    let [alice, bob, keeper] = network.users();
    // The two users', and that of the authority's owner.
    eventually(SETTLED_TIME_MAX, "the keeper has the vaults again", || {
        let kept = keeper.cli(["status"]).ok()["vaults_kept"].clone();
        if kept == 3 { Ok(()) } else { Err(kept.to_string()) }
    });
    vault_is_current(alice);
    vault_is_current(bob);
}

#[test]
fn what_one_device_has_read_is_written_once_and_not_taken_away_by_the_others() {
    /// Each of three devices writes what it has a few times while it joins, and once for each state.
    const WRITES_MAX: usize = 12;
    let network = Plan::new(["alice", "bob"]).contacts_only().start();
    let [alice, bob] = network.users.as_slice() else { panic!("two users") };
    become_contacts(alice, bob);
    let (second, third) = (link(&network, alice, "alice-second", &[]), link(&network, alice, "alice-third", &[]));
    let devices: [&Daemon; 3] = [alice, &second, &third];
    let writes = || devices.iter().map(|device| device.logged("vault written")).sum::<usize>();
    for (device, text) in [(&second, "one"), (&third, "another")] {
        bob.cli(["msg", "send", &alice.username, text, "--wait"]).ok();
        device.wait_event(SETTLED_TIME_MAX, "message_received", |event| event["text"] == text);
        // Before it is read: a slow machine may have written it by the time the command has ended.
        let before = writes();
        device.cli(["msg", "read", &bob.username]).ok();
        // What was read is gathered for a while; meanwhile every device may look at what others wrote.
        eventually(SETTLED_TIME_MAX, "what was read is in the vault", || match writes() {
            now if now > before => Ok(()),
            now => Err(format!("{now} writes")),
        });
    }
    devices.iter().for_each(|device| vault_is_current(device));
    assert!(writes() <= WRITES_MAX, "{} writes of three devices", writes());
}
