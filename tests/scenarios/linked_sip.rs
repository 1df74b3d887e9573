//! Goal: two people with SIP accounts at a provider, who have each other in their address books and not here, can call each other once an authority has seen that the accounts are theirs. Method: a SIP
//! server of another make, at which somebody else sends codes too.

use std::time::Duration;

use halloo_tests::cli::{Invocation, Output};
use halloo_tests::kamailio::{DOMAIN, Kamailio};
use halloo_tests::network::AUTHORITY;
use halloo_tests::{Plan, User};

const PATIENCE: Duration = Duration::from_secs(40);

fn book(user: &User, friend: &str) {
    let path = user.home().join("book.vcf");
    let card =
        format!("BEGIN:VCARD\nVERSION:4.0\nFN:{friend} of the book\nIMPP:sip:{friend}@{DOMAIN};transport=tls\nEND:VCARD\n");
    std::fs::write(&path, card).expect("the home is ours");
    assert_eq!(user.cli(["link", "book", &path.display().to_string()]).ok()["addresses"], 1);
}

fn link(user: &User, server: &Kamailio, name: &str, password: &str) -> Output {
    let (address, roots) = (format!("{name}@{DOMAIN}"), server.certificate().display().to_string());
    let args = ["link", "add", "sip", &address, "--server", &server.server(), "--roots", &roots];
    Invocation::new(user.home()).args(args).stdin(password).limit(PATIENCE).run()
}

/// A login is enough: the node takes the code itself, and not the one that somebody else sends. Nobody links an account whose password they don't have.
#[test]
#[ignore = "long: Kamailio"]
fn somebody_in_the_address_book_calls_by_a_sip_account() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Kamailio::start(folder.path());
    let plan = Plan::new(["alice", "bob", "mallory"]).config(AUTHORITY, &server.config());
    let plan = ["alice", "bob", "mallory"].into_iter().fold(plan, |plan, name| plan.args(name, ["--answer", "auto"]));
    let network = plan.contacts_only().start();
    let [alice, bob, mallory] = &network.users[..] else { panic!("three users") };
    book(alice, "bob");
    book(bob, "alice");
    let linked = link(bob, &server, "bob", "pw-bob").ok();
    let account = format!("sip:bob@{DOMAIN}");
    assert_eq!((&linked["account"], &linked["state"]), (&account.as_str().into(), &"connected".into()), "{linked}");
    link(alice, &server, "alice", "pw-alice").ok();

    let wrong = link(mallory, &server, "alice", "pw-mallory");
    assert!(wrong.code != 0 && wrong.last_error().contains("password"), "{wrong:?}");
    let guessed = mallory.cli(["link", "add", &format!("sip:alice@{DOMAIN}"), "--code", "00000000"]);
    assert!(guessed.code != 0 && guessed.last_error().contains("no code"), "{guessed:?}");

    let args = ["call", &bob.username, "--as", &account, "--duration", "1"];
    let output = Invocation::new(alice.home()).args(args).start().wait(PATIENCE);
    let outcome = output.json();
    assert_eq!((output.code, &outcome["outcome"]), (0, &"completed".into()), "{outcome}");
    let rang = bob.wait_event(PATIENCE, "call_incoming", |_| true);
    assert_eq!(rang["linked"]["id"], format!("sip:alice@{DOMAIN}"), "{rang}");
    assert_eq!(rang["linked"]["name"], "alice of the book", "{rang}");
    // And by the address alone he calls her back; mallory, who has her in no contact list, by what the directory says.
    let hers = format!("sip:alice@{DOMAIN}");
    let output = Invocation::new(bob.home()).args(["call", &hers, "--duration", "1"]).start().wait(PATIENCE);
    let outcome = output.json();
    assert_eq!((output.code, &outcome["outcome"]), (0, &"completed".into()), "{outcome}");
    assert_eq!(alice.wait_event(PATIENCE, "call_incoming", |_| true)["linked"]["id"], account.as_str());
    let output = Invocation::new(mallory.home()).args(["call", &hers, "--duration", "1"]).start().wait(PATIENCE);
    assert_eq!((output.code, &output.json()["outcome"]), (1, &"declined".into()), "found, and a stranger: {output:?}");
    let nobody = mallory.cli(["call", &format!("sip:nobody@{DOMAIN}")]);
    assert!(nobody.code != 0 && nobody.last_error().contains("nothing says who that is here"), "{nobody:?}");
    for user in [alice, bob] {
        let kept = std::fs::read(user.home().join("halloo.redb")).expect("the database");
        let password = format!("pw-{}", &user.username[..user.username.find('@').unwrap_or(0)]);
        assert!(!kept.windows(password.len()).any(|bytes| bytes == password.as_bytes()), "the password isn't kept");
    }
}
