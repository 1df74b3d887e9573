//! SIPp (Debian `sip-tester`) with the scenarios of `tests/external/sipp`: many phones at once, well-behaved or not.

use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::binary::workspace;
use crate::cli;
use crate::phone::PhoneAccount;

/// A run that hangs is ended by SIPp itself, in seconds.
const PATIENCE_SECS: &str = "100";

/// The phones of one account, for any number of runs.
#[derive(Debug)]
pub struct Sipp {
    folder: tempfile::TempDir,
    server: String,
    authority: String,
    name: String,
    port: u16,
    is_spread: bool,
}

impl Sipp {
    /// So many phones of an account: each with an address of its own on the loopback network, as phones have, unless it is one.
    ///
    /// # Panics
    /// If there is no room for its files.
    #[must_use]
    pub fn new(account: &PhoneAccount, phones: u8) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let port = UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port").port();
        let PhoneAccount { uri, username, password, .. } = account;
        let authority = uri.split('@').nth(1).expect("name@authority").to_owned();
        let is_spread = phones > 1;
        let mut lines = "SEQUENTIAL\n".to_owned();
        for phone in 0..phones {
            let address = if is_spread { format!("127.0.9.{}", u16::from(phone) + 1) } else { "127.0.0.1".to_owned() };
            lines +=
                &format!("{username};{authority};[authentication username={username} password={password}];{address};{port}\n");
        }
        std::fs::write(folder.path().join("phones.csv"), lines).expect("written");
        Self { folder, server: account.address().to_string(), authority, name: username.clone(), port, is_spread }
    }

    /// Runs a scenario so many times, whole; `more` are further arguments of SIPp.
    ///
    /// # Panics
    /// If one of them fails.
    #[track_caller]
    pub fn run(&self, scenario: &str, count: u32, more: &[&str]) {
        let authority = self.authority.clone();
        self.run_for(scenario, &authority, count, more);
    }

    /// The same with calls to this user.
    ///
    /// # Panics
    /// If one of them fails.
    #[track_caller]
    pub fn run_for(&self, scenario: &str, to: &str, count: u32, more: &[&str]) {
        let mut command = self.command(scenario);
        command.args(["-inf", "phones.csv", "-s", to, "-auth_uri", to, "-m", &count.to_string()]);
        command.args(if self.is_spread { ["-t", "ui", "-ip_field", "3"].as_slice() } else { &["-t", "u1"] });
        command.args(more);
        let mut child = command.spawn().unwrap_or_else(|error| panic!("can't run sipp ({error}): scripts/setup installs it"));
        let code = cli::wait_exit(&mut child, Duration::from_secs(110));
        assert_eq!(code, Some(0), "{scenario}:\n{}", self.log());
    }

    /// A phone that answers whoever calls, until it is dropped. It registers first.
    ///
    /// # Panics
    /// If it can't.
    #[track_caller]
    #[must_use]
    pub fn answering(&self) -> Answering {
        self.run("register.xml", 1, &[]);
        let mut command = self.command("answer.xml");
        let port = self.port.to_string();
        command.args(["-t", "u1", "-key", "name", &self.name, "-key", "address", "127.0.0.1", "-key", "port", &port]);
        Answering(command.spawn().expect("sipp ran before"))
    }

    fn command(&self, scenario: &str) -> Command {
        let mut command = Command::new("sipp");
        let log = std::fs::File::create(self.folder.path().join("log")).expect("the folder is ours");
        command.arg(&self.server).arg("-sf").arg(folder().join(scenario)).args(["-i", "127.0.0.1", "-p", &self.port.to_string()]);
        command.args(["-nostdin", "-trace_err", "-timeout", PATIENCE_SECS, "-max_socket", "500"]);
        command.current_dir(self.folder.path()).stdin(Stdio::null());
        command.stdout(log.try_clone().expect("a file")).stderr(log);
        command
    }

    /// What went wrong, and what it printed.
    fn log(&self) -> String {
        let files = std::fs::read_dir(self.folder.path()).expect("the folder is ours");
        let paths = files.filter_map(|file| Some(file.ok()?.path()));
        let logs = paths.filter(|path| path.ends_with("log") || path.to_string_lossy().ends_with("errors.log"));
        logs.map(|path| String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()).collect()
    }
}

/// A phone that answers.
#[derive(Debug)]
pub struct Answering(Child);

impl Drop for Answering {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

fn folder() -> PathBuf {
    let root = workspace();
    root.canonicalize().unwrap_or(root).join(Path::new("tests/external/sipp"))
}
