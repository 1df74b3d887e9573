//! Goal: two people who have each other in their address books, and not here, can call each other once an authority has seen that their addresses are theirs; as long as they have. Method: codes go
//! through a mail server of another make, and books are files, or at a server of another make.

use std::time::Duration;

use halloo_tests::carddav::Radicale;
use halloo_tests::cli::{Invocation, Output};
use halloo_tests::network::AUTHORITY;
use halloo_tests::sms::SmsProvider;
use halloo_tests::smtp::MailServer;
use halloo_tests::{Network, Plan, User, eventually};
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

fn card(friend: &str) -> String {
    format!("BEGIN:VCARD\nVERSION:4.0\nUID:{friend}\nFN:{friend} of the book\nEMAIL:{friend}@there.test\nEND:VCARD\n")
}

#[track_caller]
fn link(user: &User, server: &mut MailServer, name: &str, friend: &str) {
    let book = user.home().join("book.vcf");
    std::fs::write(&book, card(friend)).expect("the home is ours");
    assert_eq!(user.cli(["link", "book", &book.display().to_string()]).ok()["addresses"], 1);
    link_address(user, server, name, friend);
}

#[track_caller]
fn link_address(user: &User, server: &mut MailServer, name: &str, friend: &str) {
    let code = code(user, server, name);
    let linked = user.cli(["link", "add", &address(name), "--code", &code]).ok();
    assert_eq!((&linked["account"], &linked["state"]), (&address(name).into(), &"connected".into()), "{linked}");
    let contacts = linked["contacts"].as_array().map(Vec::as_slice).unwrap_or_default();
    assert!(contacts.iter().any(|contact| contact["name"] == format!("{friend} of the book")), "{linked}");
}

#[track_caller]
fn call(from: &User, to: &User, name: &str) -> (i32, Value) {
    let args = ["call", &to.username, "--as", &address(name), "--duration", "1"];
    let output = Invocation::new(from.home()).args(args).start().wait(PATIENCE);
    (output.code, output.json())
}

/// Calls an address.
#[track_caller]
fn dial(from: &User, address: &str) -> (i32, Value) {
    let output = Invocation::new(from.home()).args(["call", address, "--duration", "1"]).start().wait(PATIENCE);
    (output.code, output.json())
}

fn network(config: &str, names: &[&'static str]) -> Network {
    let plan = Plan::new(names.iter().copied()).config(AUTHORITY, config);
    names.iter().fold(plan, |plan, name| plan.args(name, ["--answer", "auto"])).contacts_only().start()
}

/// Linked by codes, she calls and is shown as in his address book; somebody else's code is of no use.
#[test]
fn somebody_in_the_address_book_calls_by_an_authoritys_word() {
    let mut server = MailServer::start();
    let network = network(&server.config(), &["alice", "bob", "mallory"]);
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

    // Her authority has given its word for the address, so it needs no operator to certify it.
    let certified = alice.cli(["link", "certify", &address("alice")]).ok();
    assert_eq!((&certified["id"], &certified["is_certified"]), (&address("alice").into(), &true.into()), "{certified}");
    // Whoever isn't known here is looked for in the directory.
    mallory.cli(["msg", "send", &address("alice"), "who is that?"]).ok();
    let written = mallory.cli(["msg", "list", &alice.username]).ok();
    assert_eq!(written["messages"][0]["text"], "who is that?", "{written}");
    let file = mallory.home().join("file.txt");
    std::fs::write(&file, "a file").expect("the home is ours");
    let offered = mallory.cli(["file", "send", &address("bob"), &file.display().to_string()]).ok();
    assert_eq!(offered["with"], bob.username.as_str(), "{offered}");
    let nobody = mallory.cli(["msg", "send", &address("nobody"), "hello"]);
    assert!(nobody.code != 0 && nobody.last_error().contains("nothing says who that is here"), "{nobody:?}");
}

/// Contacts here who are in his address book are one person each: known by what they tell contacts, called by their address, and no more once that is unlinked.
#[test]
#[ignore = "long: contacts who tell each other who they are"]
fn contacts_here_say_who_they_are_there() {
    let mut server = MailServer::start();
    let plan = Plan::new(["alice", "bob", "carol"]).config(AUTHORITY, &server.config()).args("alice", ["--answer", "auto"]);
    // Neither the directory nor what calls say is of any use to him, and carol doesn't listen.
    let plan = plan.config("bob", "[linked]\ncarriers = [\"presence\"]\n");
    let network = plan.config("carol", "[linked]\ncarriers = [\"directory\"]\n").contacts_only().start();
    let [alice, bob, carol] = &network.users[..] else { panic!("three users") };
    link(bob, &mut server, "bob", "alice");
    link(carol, &mut server, "carol", "alice");
    link(alice, &mut server, "alice", "bob");
    let uncalled = bob.cli(["call", &address("alice")]);
    assert!(uncalled.code != 0, "nothing says who she is: {uncalled:?}");
    network.befriend(alice, bob);
    network.befriend(alice, carol);
    let seen = |user: &User| user.cli(["contact", "list"]).ok()["contacts"][0]["linked"].clone();
    eventually(PATIENCE, "he knows who she is there", || {
        let seen = seen(bob);
        if seen[0]["id"] == address("alice").as_str() { Ok(()) } else { Err(seen.to_string()) }
    });
    assert_eq!(seen(bob)[0]["name"], "alice of the book");
    let called = Invocation::new(bob.home()).args(["call", &address("alice"), "--duration", "1"]).start().wait(PATIENCE);
    assert_eq!((called.code, &called.json()["outcome"]), (0, &"completed".into()), "{called:?}");
    assert!(seen(carol).as_array().is_none_or(Vec::is_empty), "{}", seen(carol));

    alice.cli(["link", "remove", &address("alice")]).ok();
    eventually(PATIENCE, "she doesn't say so any more", || {
        let seen = seen(bob);
        if seen.as_array().is_none_or(Vec::is_empty) { Ok(()) } else { Err(seen.to_string()) }
    });
    assert_ne!(bob.cli(["call", &address("alice")]).code, 0);
}

fn follow(user: &User, books: &Radicale, password: &str) -> Output {
    let roots = books.certificate().display().to_string();
    let args =
        ["link", "book", &books.url(), "--user", &user.username[..user.username.find('@').unwrap_or(0)], "--roots", &roots];
    Invocation::new(user.home()).args(args).stdin(password).run()
}

/// His address book is at a server: who is in it calls, who is taken out of it doesn't any more, and what was read counts while the server is away. The password is nowhere in his home.
#[test]
fn an_address_book_at_a_server_is_followed() {
    let mut server = MailServer::start();
    let network = network(&server.config(), &["alice", "bob"]);
    let [alice, bob] = &network.users[..] else { panic!("two users") };
    let folder = tempfile::tempdir().expect("a folder");
    let books = Radicale::start(folder.path(), &["alice", "bob"]);
    books.put("bob", "friends", "1", &card("alice"));
    books.put("bob", "work", "2", &card("carol"));
    link(alice, &mut server, "alice", "bob");

    let wrong = follow(bob, &books, "pw-alice");
    assert!(wrong.code != 0 && wrong.last_error().contains("the user or the password"), "{wrong:?}");
    let read = follow(bob, &books, "pw-bob").ok();
    assert_eq!((&read["addresses"], &read["books"], &read["user"]), (&2.into(), &2.into(), &"bob".into()), "{read}");
    link_address(bob, &mut server, "bob", "alice");
    let (code, outcome) = call(alice, bob, "bob");
    assert_eq!((code, &outcome["outcome"]), (0, &"completed".into()), "{outcome}");
    let rang = bob.wait_event(PATIENCE, "call_incoming", |_| true);
    assert_eq!(rang["linked"]["name"], "alice of the book", "{rang}");

    books.take_out("bob", "friends", "1");
    assert_eq!(bob.cli(["link", "book", "--again"]).ok()["addresses"], 1);
    let (code, outcome) = call(alice, bob, "bob");
    assert_eq!((code, &outcome["outcome"]), (1, &"declined".into()), "{outcome}");

    drop(books);
    let away = bob.cli(["link", "book", "--again"]);
    assert!(away.code != 0, "{away:?}");
    let shown = bob.cli(["link", "book"]).ok();
    assert!(shown["reason"].is_string() && shown["addresses"] == 1, "{shown}");
    let kept = std::fs::read(bob.home().join("halloo.redb")).expect("the database");
    assert!(!kept.windows(6).any(|bytes| bytes == b"pw-bob"), "the password is sealed");
    let forgotten = bob.cli(["link", "book", "--none"]).ok();
    assert!(forgotten["source"].is_null() && forgotten["addresses"] == 0, "{forgotten}");
}

/// A code comes to her telephone by short message; none goes to a number that the operator hasn't named.
#[test]
fn a_telephone_number_in_the_address_book_calls_by_an_authoritys_word() {
    let (mut server, mut provider) = (MailServer::start(), SmsProvider::start());
    let network = network(&(server.config() + &provider.config()), &["alice", "bob"]);
    let [alice, bob] = &network.users[..] else { panic!("two users") };
    let number = "tel:+4930123456";
    let book = bob.home().join("book.vcf");
    std::fs::write(&book, "BEGIN:VCARD\nFN:alice of the book\nTEL:+49 (30) 123 456\nEND:VCARD\n").expect("the home is ours");
    assert_eq!(bob.cli(["link", "book", &book.display().to_string()]).ok()["addresses"], 1);
    link_address(bob, &mut server, "bob", "alice");

    for elsewhere in ["tel:+15550100", "tel:+499001234567"] {
        let refused = alice.cli(["link", "add", elsewhere]);
        assert!(refused.code != 0 && refused.last_error().contains("numbers that begin so"), "{refused:?}");
    }
    let sent = alice.cli(["link", "add", "tel:+49 30 123456"]).ok();
    assert_eq!(sent["account"], number, "{sent}");
    let (to, text) = provider.next_message();
    assert!(to == "+4930123456" && text.contains(&alice.username), "{to}: {text}");
    let code: String = text.split("the code is ").nth(1).unwrap_or_default().chars().take(8).collect();
    let book = alice.home().join("book.vcf");
    std::fs::write(&book, card("bob")).expect("the home is ours");
    assert_eq!(alice.cli(["link", "book", &book.display().to_string()]).ok()["addresses"], 1);
    let linked = alice.cli(["link", "add", number, "--code", &code]).ok();
    assert_eq!((&linked["account"], &linked["state"]), (&number.into(), &"connected".into()), "{linked}");
    assert_eq!(linked["listed"], false, "numbers aren't in the directory unless one asks for it: {linked}");

    let (code, outcome) = call(alice, bob, "bob");
    assert_eq!((code, &outcome["outcome"]), (0, &"completed".into()), "{outcome}");
    let rang = bob.wait_event(PATIENCE, "call_incoming", |_| true);
    assert_eq!((&rang["linked"]["id"], &rang["linked"]["name"]), (&number.into(), &"alice of the book".into()), "{rang}");

    // By the number alone he calls who has shown that it is hers, and nobody by another.
    let (code, outcome) = dial(bob, number);
    assert_eq!((code, &outcome["outcome"]), (0, &"completed".into()), "{outcome}");
    let rang = alice.wait_event(PATIENCE, "call_incoming", |_| true);
    assert_eq!((&rang["from"], &rang["linked"]["id"]), (&bob.username.as_str().into(), &address("bob").into()), "{rang}");
    let nobody = bob.cli(["call", "tel:+4930999999"]);
    assert!(nobody.code != 0 && nobody.last_error().contains("no telephone gateway"), "{nobody:?}");
    let named = bob.cli(["call", number, "--via", &alice.username]);
    assert!(named.code != 0, "a gateway that is named is called as one: {named:?}");
}
