//! Goal: a person's devices are linked, named and taken away, by what a person types. Method: real daemons; the commands of both ends, the code and
//! the link passed from one to the other as people do.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Stdio};
use std::time::Duration;

use halloo_tests::cli::{Invocation, halloo_command};
use halloo_tests::network::{one_is, text};
use halloo_tests::{Daemon, Network, Plan, User, eventually};
use serde_json::Value;

const SETTLED_TIME_MAX: Duration = Duration::from_secs(45);

/// `halloo device link` on a device with the identity key; ended when dropped, which takes the code back.
struct Linking {
    child: Child,
    stdout: BufReader<ChildStdout>,
    offer: Value,
}

impl Linking {
    #[track_caller]
    fn start(holder: &Daemon, more: &[&str]) -> Self {
        let mut command = halloo_command(None);
        command.arg("--home").arg(holder.home()).args(["--json", "device", "link"]).args(more);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("halloo runs");
        let stdout = BufReader::new(child.stdout.take().expect("stdout is piped"));
        let mut linking = Self { child, stdout, offer: Value::Null };
        linking.offer = linking.next();
        assert_eq!(linking.offer["event"], "offer", "{}", linking.offer);
        linking
    }

    #[track_caller]
    fn next(&mut self) -> Value {
        let mut line = String::new();
        self.stdout.read_line(&mut line).expect("stdout is read");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }

    /// The last line, and the exit code.
    #[track_caller]
    fn finish(mut self) -> (Value, i32) {
        let mut last = Value::Null;
        let mut line = String::new();
        while self.stdout.read_line(&mut line).expect("stdout is read") > 0 {
            last = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
            line.clear();
        }
        let code = self.child.wait().expect("it ends").code().unwrap_or(-1);
        (last, code)
    }

    fn link(&self) -> String {
        text(&self.offer, "link")
    }

    fn code(&self) -> String {
        text(&self.offer, "code")
    }

    fn address(&self) -> String {
        self.offer["addresses"][0].as_str().expect("it listens somewhere").to_owned()
    }
}

impl Drop for Linking {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

fn home(network: &Network, name: &str) -> PathBuf {
    network.folder().join(name)
}

/// Links a new device by link text, and starts its daemon.
#[track_caller]
fn link(network: &Network, holder: &Daemon, name: &str, more: &[&str]) -> Daemon {
    let linking = Linking::start(holder, more);
    let args = ["device", "link", &linking.link(), "--device-name", name, "--device-kind", "laptop"];
    let joined = Invocation::new(&home(network, name)).args(args).run().ok();
    let (last, code) = linking.finish();
    assert_eq!((&last["event"], code), (&Value::from("linked"), 0), "{last}");
    assert_eq!((&last["peer_id"], &last["name"]), (&joined["peer_id"], &Value::from(name)), "{last} {joined}");
    let mut device = Daemon::of_home(network.folder(), name);
    device.start(network.launch(name));
    assert_eq!(joined["peer_id"], device.peer_id());
    device
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
