//! Goal: a user whom the authority revokes is refused by everybody within a minute. Method: the authority revokes one
//! of several running users; every other daemon is asked for the name until it refuses.

use std::time::{Duration, Instant};

use halloo_tests::figures::Figures;
use halloo_tests::network::AUTHORITY;
use halloo_tests::{Network, cli, eventually};

/// What the issue promises.
const SPREAD_TIME_MAX: Duration = Duration::from_secs(60);

#[test]
fn a_revoked_user_is_refused_by_everybody_within_a_minute() {
    revoke_one_of(6);
}

#[test]
#[ignore = "long: scripts/test --long"]
fn a_revoked_user_is_refused_by_all_twenty_within_a_minute() {
    revoke_one_of(21);
}

fn revoke_one_of(users: usize) {
    let network = Network::start(users);
    let (mallory, others) = network.users.split_last().expect("there are users");
    for other in others {
        other.api().get(&format!("/v1/users/{}", mallory.username)).expect("found before the revocation, and cached");
    }
    let wrong = network.authority.cli(["authority", "revoke", "nobody"]);
    assert_eq!(wrong.code, 1, "{wrong:?}");
    let revoked = network.authority.cli(["authority", "revoke", &mallory.username]).ok();
    assert_eq!(revoked["username"], mallory.username.as_str());
    let issued = Instant::now();
    let mut figures = Figures::default();
    for other in others {
        eventually(SPREAD_TIME_MAX.saturating_sub(issued.elapsed()), "the revoked user is refused", || {
            let found = other.cli(["resolve", &mallory.username]);
            let is_refused = found.code == 1 && found.stderr.contains("revoked");
            if is_refused { Ok(()) } else { Err(format!("{found:?}")) }
        });
        figures.add(issued.elapsed());
        let list = other.wait_event(SPREAD_TIME_MAX, "revocation_list", |_| true);
        assert_eq!(list["number"], revoked["revocation_number"], "{list}");
        assert_eq!(list["authority"], AUTHORITY);
    }
    eprintln!("refused by all {}: {figures}", others.len());

    let first = &others[0];
    let call = first.cli(["call", &mallory.username]);
    assert_eq!(call.code, 1, "{call:?}");
    let sent = mallory.cli(["msg", "send", &first.username, "let me in", "--wait"]);
    assert_ne!(sent.code, 0, "a revoked user's message is acknowledged by nobody: {sent:?}");
    let received = first.api().get(&format!("/v1/messages?with={}", mallory.username));
    let is_empty = received.as_ref().map_or(true, |list| list["messages"].as_array().is_some_and(Vec::is_empty));
    assert!(is_empty, "{received:?}");
    // The name is gone for good: no other key gets it.
    let heir = halloo_tests::Daemon::init(network.folder(), "heir", "lab = true\n");
    let refused = cli(heir.home(), ["enrol", &mallory.username, "--invite", &network.invite()]);
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(others[0].cli(["resolve", &others[1].username, "--fresh"]).code == 0, "the others are found as before");
}
