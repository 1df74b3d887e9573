//! A telephone provider: SIPp (Debian `sip-tester`) with `tests/external/sipp/provider.xml`.

use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::binary::workspace;
use crate::cli;

/// A provider that takes registrations and calls of the account `trunk`, until it is dropped.
#[derive(Debug)]
pub struct Provider {
    child: Child,
    folder: tempfile::TempDir,
    /// Where its server is.
    pub port: u16,
}

impl Provider {
    /// One on this machine. What it hears it says back.
    ///
    /// # Panics
    /// If SIPp isn't there.
    #[track_caller]
    #[must_use]
    pub fn start() -> Self {
        Self::start_with("u1", 9)
    }

    /// One that speaks TCP.
    ///
    /// # Panics
    /// If SIPp isn't there.
    #[track_caller]
    #[must_use]
    pub fn over_tcp() -> Self {
        Self::start_with("t1", 9)
    }

    /// One whose numbers that end with 183 are heard from this port before they are busy.
    ///
    /// # Panics
    /// If SIPp isn't there.
    #[track_caller]
    #[must_use]
    pub fn heard_from(port: u16) -> Self {
        Self::start_with("u1", port)
    }

    #[track_caller]
    fn start_with(transport: &str, early_port: u16) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let port = free_port();
        let mut command = command("provider.xml", &folder, port);
        command.args(["-t", transport, "-key", "early_port", &early_port.to_string()]);
        // Media on ports that nobody else has: SIPp takes them without asking.
        command.args(["-rtp_echo", "-mp", &free_port().to_string(), "-trace_msg", "-message_file", "messages"]);
        let child = command.spawn().unwrap_or_else(|error| panic!("can't run sipp ({error}): scripts/setup installs it"));
        Self { child, folder, port }
    }

    /// A file with the account's password, as an edge reads it.
    ///
    /// # Panics
    /// If it can't be written.
    #[must_use]
    pub fn password_file(&self) -> PathBuf {
        let path = self.folder.path().join("password");
        std::fs::write(&path, "secret\n").expect("the folder is ours");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("ours");
        path
    }

    /// How often a message with all of these was seen.
    #[must_use]
    pub fn seen(&self, texts: &[&str]) -> usize {
        let log = std::fs::read(self.folder.path().join("messages")).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        // A line of dashes stands before each.
        log.split("-----------------------------------------------")
            .filter(|one| texts.iter().all(|text| one.contains(text)))
            .count()
    }

    /// The newest message with all of these.
    #[must_use]
    pub fn last(&self, texts: &[&str]) -> Option<String> {
        let log = std::fs::read(self.folder.path().join("messages")).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let mut messages = log.rsplit("-----------------------------------------------");
        messages.find(|one| texts.iter().all(|text| one.contains(text))).map(str::to_owned)
    }

    /// Brings a call from the telephone network to this number of the trunk's, at this address of the edge, for so many milliseconds.
    ///
    /// # Panics
    /// If it isn't answered.
    #[track_caller]
    pub fn call(number: &str, edge: &str, millis: u32) {
        let folder = tempfile::tempdir().expect("a folder");
        let mut command = command("inbound.xml", &folder, free_port());
        command.args(["-t", "u1"]).arg(edge).args([
            "-s",
            number,
            "-m",
            "1",
            "-d",
            &millis.to_string(),
            "-mp",
            &free_port().to_string(),
        ]);
        let mut child = command.spawn().unwrap_or_else(|error| panic!("can't run sipp ({error}): scripts/setup installs it"));
        let code = cli::wait_exit(&mut child, Duration::from_secs(50));
        let log = std::fs::read_to_string(folder.path().join("log")).unwrap_or_default();
        assert_eq!(code, Some(0), "{log}");
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = std::fs::read(self.folder.path().join("messages")).unwrap_or_default();
            eprintln!("---- provider:\n{}", String::from_utf8_lossy(&log));
        }
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

fn command(scenario: &str, folder: &tempfile::TempDir, port: u16) -> Command {
    let root = workspace();
    let scenarios: PathBuf = root.canonicalize().unwrap_or(root).join("tests/external/sipp");
    let mut command = Command::new("sipp");
    let log = std::fs::File::create(folder.path().join("log")).expect("the folder is ours");
    command.arg("-sf").arg(scenarios.join(scenario)).args(["-i", "127.0.0.1", "-p", &port.to_string()]);
    command.args(["-nostdin", "-trace_err", "-timeout", "400"]);
    command.current_dir(folder.path()).stdin(Stdio::null());
    command.stdout(log.try_clone().expect("a file")).stderr(log);
    command
}

/// A port that is free for both kinds, and an even one.
///
/// # Panics
/// If there is none.
#[must_use]
pub fn free_port() -> u16 {
    let one = |_| {
        let port = UdpSocket::bind("127.0.0.1:0").ok()?.local_addr().ok()?.port() & !1;
        let is_free = UdpSocket::bind(("127.0.0.1", port)).is_ok() && TcpListener::bind(("127.0.0.1", port)).is_ok();
        is_free.then_some(port)
    };
    (0..100).find_map(one).expect("a free port")
}
