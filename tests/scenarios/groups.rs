//! Goal: members of a group hear each other, whoever knows whom, and nobody else does. Method: users of whom not all are contacts, one with two
//! devices, with members down while the group changes.

use std::time::Duration;

use halloo_tests::cli::Invocation;
use halloo_tests::network::text;
use halloo_tests::{Daemon, Network, Plan, User, eventually};
use serde_json::{Value, json};

/// How long something may take to arrive when both sides are up: a retry interval and a look-up.
const ARRIVAL_TIME_MAX: Duration = Duration::from_secs(60);

fn group(of: &Daemon, id: &str) -> Result<Value, String> {
    of.api().get(&format!("/v1/groups/{id}"))
}

fn members(group: &Value) -> Vec<String> {
    group["members"].as_array().into_iter().flatten().map(|member| text(member, "username")).collect()
}

/// Waits until a device sees exactly these members.
#[track_caller]
fn sees(of: &Daemon, id: &str, expected: &[&User]) {
    let mut expected: Vec<&str> = expected.iter().map(|user| user.username.as_str()).collect();
    expected.sort_unstable();
    eventually(ARRIVAL_TIME_MAX, &format!("{} sees {expected:?}", of.name()), || {
        let found = group(of, id)?;
        if members(&found) == expected { Ok(()) } else { Err(found.to_string()) }
    });
}

#[track_caller]
fn is(of: &Daemon, id: &str, state: &str) {
    eventually(ARRIVAL_TIME_MAX, &format!("{} is {state}", of.name()), || {
        let found = group(of, id)?;
        if found["state"] == state { Ok(()) } else { Err(found.to_string()) }
    });
}

fn texts(of: &Daemon, id: &str) -> Result<Vec<String>, String> {
    let list = of.api().get(&format!("/v1/messages?with=group:{id}"))?;
    let entries = list["messages"].as_array().ok_or_else(|| list.to_string())?;
    Ok(entries.iter().map(|entry| text(entry, "text")).collect())
}

#[track_caller]
fn has(of: &Daemon, id: &str, message: &str) {
    eventually(ARRIVAL_TIME_MAX, &format!("{} has {message:?}", of.name()), || {
        let found = texts(of, id)?;
        let copies = found.iter().filter(|found| *found == message).count();
        if copies == 1 { Ok(()) } else { Err(format!("{found:?}")) }
    });
}

/// Sends to a group, and waits until everybody who is a member has it.
#[track_caller]
fn say(from: &Daemon, id: &str, message: &str) -> Value {
    let sent = from.cli(["group", "send", id, message, "--wait", "--timeout", "60"]).ok();
    assert!(sent["state"] == "delivered" || sent["state"] == "read", "{sent}");
    sent
}

fn create(by: &User, name: &str, users: &[&User]) -> String {
    let mut args = vec!["group", "create", name];
    args.extend(users.iter().map(|user| user.username.as_str()));
    text(&Invocation::new(by.home()).args(args).run().ok(), "id")
}

#[track_caller]
fn second_device(network: &Network, user: &User, name: &str) -> Daemon {
    let (mut device, _) = Daemon::init_with(network.folder(), name, "lab = true\n", Some(&user.phrase));
    Invocation::new(device.home()).args(["enrol", &user.username, "--invite", &network.invite()]).run().ok();
    device.start(network.launch(name));
    device
}

#[test]
fn members_hear_each_other_and_who_is_removed_hears_nothing_more() {
    let mut network = Plan::new(["alice", "bob", "carol"]).contacts_only().start();
    // Bob and carol know alice, not each other.
    network.befriend(&network.users[0], &network.users[1]);
    network.befriend(&network.users[0], &network.users[2]);
    let second = second_device(&network, &network.users[1], "bob-second");
    let [alice, bob, carol] = network.users();
    let id = create(alice, "Hikers", &[bob]);
    for device in [&**bob, &second] {
        is(device, &id, "member");
    }
    say(alice, &id, "to bob alone");
    has(bob, &id, "to bob alone");
    has(&second, &id, "to bob alone");
    assert_eq!(bob.cli(["group", "add", &id, &carol.username]).code, 1, "only admins add");
    alice.cli(["group", "add", "Hikers", &carol.username]).ok();
    for device in [&**bob, &second, &**carol] {
        sees(device, &id, &[alice, bob, carol]);
    }
    // Carol is a stranger to bob: in the group they hear each other, and nowhere else.
    let sent = say(carol, &id, "hello from carol");
    assert_eq!(sent["members"].as_array().map(Vec::len), Some(2), "{sent}");
    for device in [&**alice, &**bob, &second] {
        has(device, &id, "hello from carol");
    }
    let refused = carol.cli(["msg", "send", &bob.username, "and you alone", "--wait"]);
    assert_eq!(refused.json()["state"], "failed", "{refused:?}");
    assert_eq!(texts(carol, &id).expect("carol runs"), ["hello from carol"], "who joins sees what is said from then on");
    // What is read shows at the author, per member; and on the reader's other device.
    second.cli(["group", "read", &id]).ok();
    eventually(ARRIVAL_TIME_MAX, "carol sees who has read", || {
        let list = carol.api().get(&format!("/v1/messages?with=group:{id}"))?;
        let of_members = &list["messages"][0]["members"];
        let state = |user: &User| {
            let found = of_members.as_array().into_iter().flatten().find(|member| member["username"] == user.username.as_str());
            found.map(|member| member["state"].clone())
        };
        let is_so = state(bob) == Some(json!("read")) && state(alice) == Some(json!("delivered"));
        if is_so && list["messages"][0]["state"] == "delivered" { Ok(()) } else { Err(list.to_string()) }
    });
    eventually(ARRIVAL_TIME_MAX, "nothing is unread on bob's first device", || {
        let found = group(bob, &id)?;
        if found["unread"] == 0 { Ok(()) } else { Err(found.to_string()) }
    });
    // What bob sends on one device is on the other.
    say(&second, &id, "from bob's second");
    has(bob, &id, "from bob's second");
    // Removed: told, and nothing comes any more, nor is anything taken.
    alice.cli(["group", "remove", &id, &carol.username]).ok();
    is(carol, &id, "left");
    carol.wait_event(ARRIVAL_TIME_MAX, "group_left", |event| event["group"] == id.as_str());
    for device in [&**bob, &second] {
        sees(device, &id, &[alice, bob]);
    }
    say(bob, &id, "without carol");
    has(alice, &id, "without carol");
    assert_eq!(carol.cli(["group", "send", &id, "still there?"]).code, 1);
    let heard = texts(carol, &id).expect("carol runs");
    assert!(!heard.contains(&"without carol".to_owned()), "{heard:?}");
    // Anyone may leave.
    bob.cli(["group", "leave", &id]).ok();
    sees(alice, &id, &[alice]);
    is(&second, &id, "left");
}

#[test]
fn a_member_who_was_away_finds_the_group_as_it_is_and_what_was_said() {
    let mut network = Plan::new(["alice", "bob", "carol"]).contacts_only().start();
    network.befriend(&network.users[0], &network.users[1]);
    network.befriend(&network.users[0], &network.users[2]);
    let [alice, bob, carol] = network.users();
    let id = create(alice, "Climbers", &[bob]);
    is(bob, &id, "member");
    bob.kill();
    alice.cli(["group", "add", &id, &carol.username, "--admin"]).ok();
    is(carol, &id, "member");
    // An admin who isn't the founder, whom bob doesn't know and who he doesn't yet know is one, renames it, and the founder is down when bob is back.
    carol.cli(["group", "rename", &id, "Boulderers"]).ok();
    alice.cli(["group", "send", &id, "while bob was away"]).ok();
    carol.cli(["group", "send", &id, "from carol, whom bob has never met"]).ok();
    has(carol, &id, "while bob was away");
    bob.restart();
    sees(bob, &id, &[alice, bob, carol]);
    has(bob, &id, "while bob was away");
    has(bob, &id, "from carol, whom bob has never met");
    eventually(ARRIVAL_TIME_MAX, "the new name", || {
        let found = group(bob, &id)?;
        if found["name"] == "Boulderers" { Ok(()) } else { Err(found.to_string()) }
    });
    // Ranks: the founder is above carol.
    assert_eq!(carol.cli(["group", "remove", &id, &alice.username]).code, 1);
    carol.cli(["group", "remove", &id, &bob.username]).ok();
    is(bob, &id, "left");
    sees(alice, &id, &[alice, carol]);
    alice.cli(["group", "remove", &id, &carol.username]).ok();
    is(carol, &id, "left");
}

#[test]
fn a_stranger_adds_nobody_and_has_to_ask() {
    let mut network = Plan::new(["alice", "bob", "mallory"]).contacts_only().start();
    network.befriend(&network.users[0], &network.users[1]);
    let [alice, bob, mallory] = network.users();
    let id = create(mallory, "Bargains", &[bob]);
    let asked = bob.wait_event(ARRIVAL_TIME_MAX, "group_invited", |event| event["group"] == id.as_str());
    assert_eq!((&asked["joined"], &asked["from"]), (&json!(false), &json!(mallory.username)), "{asked}");
    is(bob, &id, "waiting");
    mallory.cli(["group", "send", &id, "buy now"]).ok();
    assert_eq!(bob.cli(["group", "send", &id, "who are you?"]).code, 1);
    bob.cli(["group", "decline", &id]).ok();
    sees(mallory, &id, &[mallory]);
    assert_eq!(texts(bob, &id).expect("bob runs"), Vec::<String>::new());
    // Asked again, and taken: what waited comes.
    mallory.cli(["group", "add", &id, &bob.username]).ok();
    is(bob, &id, "waiting");
    mallory.cli(["group", "send", &id, "a second try"]).ok();
    bob.cli(["group", "accept", &id]).ok();
    has(bob, &id, "a second try");
    // Where the person wants it, contacts have to ask too.
    assert_eq!(bob.cli(["privacy", "set", "--group", "nobody"]).ok()["group"], "nobody");
    let other = create(alice, "Hikers", &[bob]);
    is(bob, &other, "waiting");
}
