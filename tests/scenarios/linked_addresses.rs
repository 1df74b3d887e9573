//! Goal: two people who have each other in their address books, and not here, can call each other once an authority has seen that their addresses are theirs. Method: codes go
//! through a mail server of another make.

use std::time::Duration;

use halloo_tests::cli::Invocation;
use halloo_tests::network::AUTHORITY;
use halloo_tests::smtp::MailServer;
use halloo_tests::{Network, Plan, User};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(40);

fn address(name: &str) -> String {
    format!("mailto:{name}@there.test")
}

/// Asks for a code, and reads it.
#[track_caller]
fn code(user: &User, server: &mut MailServer, name: &str) -> String {
    let sent = user.cli(["link", "add", &address(name)]).ok();
    assert_eq!(sent["account"], address(name).as_str(), "{sent}");
    let mail = server.next_mail();
    assert!(mail.contains(&format!("To: <{name}@there.test>")) && mail.contains(&user.username), "{mail}");
    let rest = mail.split("The code is ").nth(1).unwrap_or_else(|| panic!("it has a code: {mail}"));
    rest.chars().take(8).collect()
}

#[track_caller]
fn link(user: &User, server: &mut MailServer, name: &str, friend: &str) {
    let book = user.home().join("book.vcf");
    let card = format!("BEGIN:VCARD\nVERSION:4.0\nFN:{friend} of the book\nEMAIL:{friend}@there.test\nEND:VCARD\n");
    std::fs::write(&book, card).expect("the home is ours");
    assert_eq!(user.cli(["link", "book", &book.display().to_string()]).ok()["addresses"], 1);
    let code = code(user, server, name);
    let linked = user.cli(["link", "add", &address(name), "--code", &code]).ok();
    assert_eq!((&linked["account"], &linked["state"]), (&address(name).into(), &"connected".into()), "{linked}");
    assert_eq!(linked["contacts"][0]["id"], address(friend).as_str(), "{linked}");
}

#[track_caller]
fn call(from: &User, to: &User, name: &str) -> (i32, Value) {
    let args = ["call", &to.username, "--as", &address(name), "--duration", "1"];
    let output = Invocation::new(from.home()).args(args).start().wait(PATIENCE);
    (output.code, output.json())
}

fn network(server: &MailServer, names: &[&'static str]) -> Network {
    let plan = Plan::new(names.iter().copied()).config(AUTHORITY, &server.config());
    names.iter().fold(plan, |plan, name| plan.args(name, ["--answer", "auto"])).contacts_only().start()
}

/// Linked by codes, she calls and is shown as in his address book; somebody else's code is of no use.
#[test]
fn somebody_in_the_address_book_calls_by_an_authoritys_word() {
    let mut server = MailServer::start();
    let network = network(&server, &["alice", "bob", "mallory"]);
    let [alice, bob, mallory] = &network.users[..] else { panic!("three users") };
    link(bob, &mut server, "bob", "alice");
    link(alice, &mut server, "alice", "bob");
    let alices = code(alice, &mut server, "alice");
    let refused = mallory.cli(["link", "add", &address("alice"), "--code", &alices]);
    assert!(refused.code != 0 && refused.last_error().contains("no code"), "{refused:?}");
    let wrong = alice.cli(["link", "add", &address("alice"), "--code", "x"]);
    assert!(wrong.code != 0 && wrong.last_error().contains("isn't the code"), "{wrong:?}");

    let (code, outcome) = call(alice, bob, "bob");
    assert_eq!((code, &outcome["outcome"]), (0, &"completed".into()), "{outcome}");
    let rang = bob.wait_event(PATIENCE, "call_incoming", |_| true);
    assert_eq!((&rang["linked"]["id"], &rang["linked"]["name"]), (&address("alice").into(), &"alice of the book".into()));
}
