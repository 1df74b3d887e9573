//! SIPp (Debian `sip-tester`), driven by the pieces of scenarios in `tests/external/sipp/profile/`.

use std::fmt::Write as _;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::phone::PhoneAccount;

/// A run of SIPp; ended when dropped.
#[derive(Debug)]
pub struct Sipp {
    child: Child,
    folder: PathBuf,
}

impl Sipp {
    /// Starts one call that plays these pieces in their order, as the phone of an account; `buddy` is what they call the other, a SIP URI.
    ///
    /// # Panics
    /// If SIPp isn't there.
    #[track_caller]
    #[must_use]
    pub fn start(folder: &Path, account: &PhoneAccount, buddy: &str, more: &[&str], pieces: &[&str]) -> Self {
        let mut scenario = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\" ?>\n<scenario name=\"phone\">\n");
        for piece in pieces {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("external/sipp/profile/{piece}.xml"));
            let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            let _ = writeln!(scenario, "{text}");
        }
        scenario += "</scenario>\n";
        std::fs::write(folder.join("scenario.xml"), scenario).expect("the folder is ours");
        let authority = account.uri.split('@').nth(1).expect("an authority");
        let port = UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port").port().to_string();
        let log = std::fs::File::create(folder.join("log")).expect("the folder is ours");
        let mut command = Command::new("sipp");
        command.current_dir(folder).arg(account.address().to_string()).args(["-sf", "scenario.xml", "-m", "1", "-nostdin"]);
        command.args([
            "-s",
            &account.username,
            "-au",
            &account.username,
            "-ap",
            &account.password,
            "-i",
            "127.0.0.1",
            "-p",
            &port,
        ]);
        // Its digests name one URI, whatever the request's: all pieces write to the account.
        command.args(["-auth_uri", account.uri.trim_start_matches("sip:")]);
        command.args(["-key", "authority", authority, "-key", "buddy", buddy]);
        command.args([
            "-trace_err",
            "-error_file",
            "errors",
            "-trace_msg",
            "-message_file",
            "messages",
            "-timeout",
            "120s",
            "-deadcall_wait",
            "0",
        ]);
        command.args(more).stdin(Stdio::null()).stdout(log.try_clone().expect("a file")).stderr(log);
        let child = command.spawn().unwrap_or_else(|error| panic!("cannot run sipp ({error}): scripts/setup installs it"));
        Self { child, folder: folder.to_owned() }
    }

    /// Waits for its end, which must be a success.
    ///
    /// # Panics
    /// With what it wrote, if it isn't.
    #[track_caller]
    pub fn succeeds(mut self) {
        let status = self.child.wait().expect("it is ours");
        let read = |file: &str| std::fs::read_to_string(self.folder.join(file)).unwrap_or_default();
        assert!(status.success(), "sipp: {status}\n{}\n{}\n{}", read("errors"), read("messages"), read("log"));
    }
}

impl Drop for Sipp {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(None)) {
            return;
        }
        // It writes its files when it ends by itself, as it does when asked to.
        let _asked = Command::new("kill").arg(self.child.id().to_string()).status();
        let deadline = Instant::now() + Duration::from_secs(3);
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
        if std::thread::panicking() {
            let read = |file: &str| std::fs::read_to_string(self.folder.join(file)).unwrap_or_default();
            eprintln!("---- sipp:\n{}\n{}", read("errors"), read("messages"));
        }
    }
}
