//! Running one command to its end.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::binary;

/// Longest time any command may take in a test.
const COMMAND_TIME_MAX: Duration = Duration::from_secs(60);

/// What a command left behind.
#[derive(Clone, Debug)]
pub struct Output {
    /// Exit code; 128 + signal if a signal ended it.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// How long it took.
    pub elapsed: Duration,
}

impl Output {
    /// Standard output as the one JSON document it has to be.
    ///
    /// # Panics
    /// If it isn't.
    #[track_caller]
    #[must_use]
    pub fn json(&self) -> Value {
        match serde_json::from_str(&self.stdout) {
            Ok(value) => value,
            Err(error) => panic!("standard output is not one JSON document: {error}: {self:?}"),
        }
    }

    /// The JSON of a command that worked.
    ///
    /// # Panics
    /// If it exited with another code than 0.
    #[track_caller]
    #[expect(clippy::must_use_candidate, reason = "it is also called for its assertion alone")]
    pub fn ok(&self) -> Value {
        assert_eq!(self.code, 0, "the command failed: {self:?}");
        self.json()
    }

    /// The last line of standard error.
    #[must_use]
    pub fn last_error(&self) -> &str {
        self.stderr.lines().last().unwrap_or_default()
    }
}

/// Runs `halloo --home HOME --json ARGS..`.
///
/// # Panics
/// If it doesn't end within a minute.
#[track_caller]
pub fn cli<A: AsRef<OsStr>>(home: &Path, args: impl IntoIterator<Item = A>) -> Output {
    Invocation::new(home).args(args).run()
}

/// A command about to be run.
#[derive(Debug)]
pub struct Invocation {
    command: Command,
    stdin: Option<String>,
    limit: Duration,
}

impl Invocation {
    /// `halloo --home HOME --json`, in a clean environment.
    #[must_use]
    pub fn new(home: &Path) -> Self {
        Self::inside(None, home)
    }

    /// [`Invocation::new`] in a network namespace.
    #[must_use]
    pub fn inside(namespace: Option<&str>, home: &Path) -> Self {
        let mut command = halloo_command(namespace);
        command.arg("--home").arg(home).arg("--json");
        Self { command, stdin: None, limit: COMMAND_TIME_MAX }
    }

    /// `halloo` alone.
    #[must_use]
    pub fn bare() -> Self {
        Self { command: halloo_command(None), stdin: None, limit: COMMAND_TIME_MAX }
    }

    /// More arguments.
    #[must_use]
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.command.args(args);
        self
    }

    /// What it reads.
    #[must_use]
    pub fn stdin(mut self, text: impl Into<String>) -> Self {
        self.stdin = Some(text.into());
        self
    }

    /// How long it may take, if not a minute.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Runs it to its end.
    ///
    /// # Panics
    /// If it doesn't start, or takes too long.
    #[track_caller]
    pub fn run(self) -> Output {
        let limit = self.limit;
        self.start().wait(limit)
    }

    /// Starts it and goes on.
    ///
    /// # Panics
    /// If it doesn't start.
    #[track_caller]
    #[must_use]
    pub fn start(mut self) -> Running {
        let line = format!("{:?}", self.command);
        self.command.stdin(if self.stdin.is_some() { Stdio::piped() } else { Stdio::null() });
        let spawned = self.command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = spawned.unwrap_or_else(|error| panic!("can't run {line}: {error}"));
        if let (Some(text), Some(mut stdin)) = (self.stdin, child.stdin.take()) {
            // A command that refuses its arguments ends without reading.
            let _unread = stdin.write_all(text.as_bytes());
        }
        let stdout = drain(child.stdout.take());
        let stderr = drain(child.stderr.take());
        Running { child, stdout: Some(stdout), stderr: Some(stderr), started: Instant::now(), line }
    }
}

/// A command that runs; killed when dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    stdout: Option<JoinHandle<String>>,
    stderr: Option<JoinHandle<String>>,
    started: Instant,
    line: String,
}

impl Running {
    /// Waits for its end.
    ///
    /// # Panics
    /// If that takes longer than `limit`.
    #[track_caller]
    pub fn wait(mut self, limit: Duration) -> Output {
        let code = wait_exit(&mut self.child, limit);
        let elapsed = self.started.elapsed();
        if code.is_none() {
            let _gone = self.child.kill();
        }
        let text = |reader: Option<JoinHandle<String>>| reader.and_then(|reader| reader.join().ok()).unwrap_or_default();
        let (stdout, stderr) = (text(self.stdout.take()), text(self.stderr.take()));
        let Some(code) = code else {
            panic!("{} still runs after {} s; stdout: {stdout:?}; stderr: {stderr:?}", self.line, limit.as_secs());
        };
        Output { code, stdout, stderr, elapsed }
    }

    /// Ends it as a crash would.
    pub fn kill(&mut self) {
        let _gone = self.child.kill();
    }

    /// Sends it a signal by name: `INT`, `TERM`, ..
    pub fn signal(&self, name: &str) {
        signal(self.child.id(), name);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// `halloo` as a command, in a network namespace if one is named, without what the environment would change.
#[must_use]
pub fn halloo_command(namespace: Option<&str>) -> Command {
    let mut command = match namespace {
        None => Command::new(binary::halloo()),
        Some(name) => {
            let mut command = Command::new("ip");
            command.args(["netns", "exec", name]).arg(binary::halloo());
            command
        }
    };
    for variable in ["HALLOO_HOME", "RUST_LOG", "RUST_BACKTRACE"] {
        command.env_remove(variable);
    }
    command
}

/// Waits for a process to exit; `None` if it doesn't in time.
pub(crate) fn wait_exit(child: &mut Child, limit: Duration) -> Option<i32> {
    use std::os::unix::process::ExitStatusExt;
    let started = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default())),
            Ok(None) if started.elapsed() < limit => std::thread::sleep(Duration::from_millis(10)),
            Ok(None) | Err(_) => return None,
        }
    }
}

/// Sends a signal to one process.
pub(crate) fn signal(pid: u32, name: &str) {
    // The shell's own `kill` is there on every system.
    let sent = Command::new("sh").args(["-c", &format!("kill -{name} {pid}")]).status();
    assert!(sent.is_ok_and(|status| status.success()), "can't send {name} to process {pid}");
}

fn drain(source: Option<impl Read + Send + 'static>) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut source) = source {
            // What came before an error is still worth showing.
            let _read = source.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}
