//! `halloo device link`, both ends of it, as a person plays them.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Stdio};

use serde_json::Value;

use crate::cli::{Invocation, halloo_command};
use crate::daemon::Daemon;
use crate::network::{Network, text};

/// `halloo device link` on a device with the identity key; ended when dropped, which takes the code back.
#[derive(Debug)]
pub struct Linking {
    child: Child,
    stdout: BufReader<ChildStdout>,
    offer: Value,
}

impl Linking {
    /// Starts it, with more arguments, and waits for the code.
    ///
    /// # Panics
    /// If there is none.
    #[track_caller]
    #[must_use]
    pub fn start(holder: &Daemon, more: &[&str]) -> Self {
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
    ///
    /// # Panics
    /// If it writes something else than JSON.
    #[track_caller]
    #[must_use]
    pub fn finish(mut self) -> (Value, i32) {
        let mut last = Value::Null;
        let mut line = String::new();
        while self.stdout.read_line(&mut line).expect("stdout is read") > 0 {
            last = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
            line.clear();
        }
        let code = self.child.wait().expect("it ends").code().unwrap_or(-1);
        (last, code)
    }

    /// The link that it shows.
    #[must_use]
    pub fn link(&self) -> String {
        text(&self.offer, "link")
    }

    /// The code that it shows.
    #[must_use]
    pub fn code(&self) -> String {
        text(&self.offer, "code")
    }

    /// Where the new device finds this one.
    ///
    /// # Panics
    /// If it listens nowhere.
    #[must_use]
    pub fn address(&self) -> String {
        self.offer["addresses"][0].as_str().expect("it listens somewhere").to_owned()
    }
}

impl Drop for Linking {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// Links a new device by link text, and starts its daemon.
///
/// # Panics
/// If either end fails.
#[track_caller]
#[must_use]
pub fn link(network: &Network, holder: &Daemon, name: &str, more: &[&str]) -> Daemon {
    let linking = Linking::start(holder, more);
    let args = ["device", "link", &linking.link(), "--device-name", name, "--device-kind", "laptop"];
    let joined = Invocation::new(&network.folder().join(name)).args(args).run().ok();
    let (last, code) = linking.finish();
    assert_eq!((&last["event"], code), (&Value::from("linked"), 0), "{last}");
    assert_eq!((&last["peer_id"], &last["name"]), (&joined["peer_id"], &Value::from(name)), "{last} {joined}");
    let mut device = Daemon::of_home(network.folder(), name);
    device.start(network.launch(name));
    assert_eq!(joined["peer_id"], device.peer_id());
    device
}
