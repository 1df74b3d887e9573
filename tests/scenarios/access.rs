//! Goal: a home has one daemon, which serves its owner and nobody else, and goes when told. Method: a real daemon, its
//! API over TCP and the Unix socket, a second daemon on the same home, signals. (That every command refuses bad input is
//! shown in node/tests/control, without a network.)

use std::time::Duration;

use halloo_tests::cli::Invocation;
use halloo_tests::daemon::{Daemon, Launch};
use halloo_tests::network::infrastructure_roles;
use halloo_tests::{Api, Network, cli};

const AUTHORITY_CONFIG: &str = "lab = true\n[authority]\nname = \"example\"\n";

/// What the interface promises.
const TERM_TIME_MAX: Duration = Duration::from_secs(5);

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

/// The first node of a network.
fn lone(folder: &tempfile::TempDir, launch: Launch) -> Daemon {
    let mut daemon = Daemon::init(folder.path(), "lone", AUTHORITY_CONFIG);
    daemon.start(launch.args(infrastructure_roles()));
    daemon
}

#[test]
fn tcp_wants_the_token_and_refuses_web_pages() {
    let folder = folder();
    let daemon = lone(&folder, Launch::lab().args(["--api", "127.0.0.1:0"]));
    let api = daemon.api();
    let Api::Tcp(address) = &api else { panic!("the API listens on TCP: {api:?}") };
    let token = std::fs::read_to_string(daemon.home().join("api-token")).expect("the token is in the home");
    let bearer = format!("Bearer {}", token.trim());
    let own = format!("http://{address}");
    for (status, headers) in [
        (200, vec![("Authorization", bearer.as_str())]),
        (200, vec![("Authorization", &bearer), ("Origin", &own)]),
        (401, vec![]),
        (401, vec![("Authorization", "Bearer wrong")]),
        (403, vec![("Authorization", &bearer), ("Origin", "https://evil.example")]),
        (403, vec![("Authorization", &bearer), ("Origin", "null")]),
        (403, vec![("Authorization", &bearer), ("Host", "evil.example")]),
    ] {
        for path in ["/v1/status", "/v1/events"] {
            // A stream of events that is allowed doesn't end.
            if status == 200 && path == "/v1/events" {
                continue;
            }
            let answer = api.request("GET", path, &headers, None).expect("an answer");
            assert_eq!(answer.status, status, "{path} with {headers:?}: {answer:?}");
            let is_problem = answer.head.to_ascii_lowercase().contains("application/problem+json");
            assert_eq!(is_problem, status != 200, "{answer:?}");
        }
    }
    assert_eq!(daemon.cli(["status"]).ok()["peer_id"], daemon.peer_id().as_str(), "the command line finds address and token");
}

#[test]
fn a_unix_socket_is_private_and_refuses_web_pages() {
    use std::os::unix::fs::PermissionsExt;
    let folder = folder();
    let daemon = lone(&folder, Launch::lab());
    let api = daemon.api();
    let Api::Unix(path) = &api else { panic!("the API listens on a socket: {api:?}") };
    let mode = std::fs::metadata(path).expect("the socket is there").permissions().mode();
    assert_eq!(mode & 0o077, 0, "{mode:o}");
    let refused = api.request("GET", "/v1/status", &[("Origin", "https://evil.example")], None).expect("an answer");
    assert_eq!(refused.status, 403, "{refused:?}");
    assert!(api.get("/v1/status").is_ok());
    for secret in ["device.key", "identity.key"] {
        let mode = std::fs::metadata(daemon.home().join(secret)).expect("a secret").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{secret}");
    }
}

#[test]
fn one_home_has_one_daemon_which_goes_when_told() {
    let folder = folder();
    let mut daemon = lone(&folder, Launch::lab());
    let pid = daemon.pid().expect("it runs").to_string();
    let second = Invocation::new(daemon.home()).args(["run", "--lab"]).limit(Duration::from_secs(10)).run();
    assert_eq!(second.code, 1, "{second:?}");
    let lines: Vec<&str> = second.stderr.lines().collect();
    assert!(second.last_error().contains("another daemon") && second.last_error().contains(&pid), "{lines:?}");
    assert!(daemon.cli(["status"]).code == 0, "the first runs on");

    let (code, elapsed) = daemon.terminate();
    assert_eq!(code, 0);
    assert!(elapsed < TERM_TIME_MAX, "{elapsed:?}");
    let absent = daemon.cli(["status"]);
    assert_eq!(absent.code, 3, "{absent:?}");
    assert_eq!(absent.json()["exit_code"], 3, "{absent:?}");
    assert!(absent.last_error().contains("no daemon"), "{absent:?}");
    daemon.restart();
    let nowhere = cli(&folder.path().join("nowhere"), ["status"]);
    assert_eq!(nowhere.code, 3, "{nowhere:?}");
}

#[test]
fn a_polite_end_is_told_to_the_others() {
    let mut network = Network::of(["alice", "bob"]);
    let [alice, bob] = network.users();
    alice.cli(["msg", "send", &bob.username, "hello", "--wait"]).ok();
    let bob_id = bob.peer_id();
    let (code, elapsed) = bob.terminate();
    eprintln!("ended {:.2} s after SIGTERM", elapsed.as_secs_f32());
    assert_eq!(code, 0);
    assert!(elapsed < TERM_TIME_MAX, "{elapsed:?}");
    alice.wait_event(TERM_TIME_MAX, "peer_down", |event| event["peer_id"] == bob_id.as_str());
}

#[test]
fn invites_are_used_once_and_names_given_once() {
    let mut network = Network::of(["alice"]);
    let code = network.invite();
    let user = halloo_tests::network::enrol_user(network.folder(), "bob", "lab = true\n", &code);
    let other = Daemon::init(network.folder(), "other", "lab = true\n");
    for (username, invite, expected) in [
        ("carol@example", code.as_str(), "refused"),
        ("carol@example", "no-invite", "invite"),
        (user.username.as_str(), &network.invite(), "another key"),
        // Another spelling of the same name, which a person wouldn't tell apart.
        ("ＢＯＢ@example", &network.invite(), "another key"),
    ] {
        let refused = cli(other.home(), ["enrol", username, "--invite", invite]);
        assert!(refused.code == 1 || refused.code == 2, "{refused:?}");
        assert!(refused.last_error().contains(expected), "{username} with {invite}: {refused:?}");
    }
    let [alice] = network.users();
    let again = alice.cli(["enrol", "alice2@example", "--invite", &code]);
    assert_eq!(again.code, 1, "{again:?}");
    assert!(again.last_error().contains("already enrolled"), "{again:?}");
    let not = alice.cli(["authority", "invite"]);
    assert_eq!(not.code, 1, "{not:?}");
    assert!(not.last_error().contains("not an authority"), "{not:?}");
}
