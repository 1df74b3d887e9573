//! A mail server that shows what it is given (Debian's `python3-aiosmtpd`): software that Halloo has no part in.

use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use crate::eventually;

/// The server; killed when dropped.
#[derive(Debug)]
pub struct MailServer {
    child: Child,
    stdout: BufReader<ChildStdout>,
    port: u16,
}

impl Drop for MailServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl MailServer {
    /// Starts it on a loopback port.
    ///
    /// # Panics
    /// If it can't be started; `scripts/setup` installs it.
    #[track_caller]
    #[must_use]
    pub fn start() -> Self {
        let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port();
        // Debian's own Python has the package, whichever comes first.
        let mut command = Command::new("/usr/bin/python3");
        command.args(["-u", "-m", "aiosmtpd", "-n", "-l", &format!("127.0.0.1:{port}")]);
        command.args(["-c", "aiosmtpd.handlers.Debugging", "stdout"]);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("python3 runs");
        let stdout = BufReader::new(child.stdout.take().expect("stdout is piped"));
        let server = Self { child, stdout, port };
        eventually(Duration::from_secs(30), "the mail server listens: scripts/setup installs it", || {
            TcpStream::connect(("127.0.0.1", port)).map(drop).map_err(|error| error.to_string())
        });
        server
    }

    /// What an authority's `config.toml` says of it, in its `[authority]`.
    #[must_use]
    pub fn config(&self) -> String {
        format!("mail = {{ server = \"127.0.0.1:{}\", from = \"halloo@there.test\" }}\n", self.port)
    }

    /// The next mail, its head and its text.
    ///
    /// # Panics
    /// If the server ends.
    #[track_caller]
    #[must_use]
    pub fn next_mail(&mut self) -> String {
        let mut mail = String::new();
        while !mail.contains("END MESSAGE") {
            assert_ne!(self.stdout.read_line(&mut mail).expect("stdout is read"), 0, "the mail server has ended: {mail}");
        }
        mail
    }
}
