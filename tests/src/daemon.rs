//! `halloo run` as a process.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::api::Api;
use crate::cli::{self, Invocation, Output, halloo_command};

/// Longest time from start to ready on a busy machine.
pub const READY_TIME_MAX: Duration = Duration::from_secs(60);

/// What the interface promises: SIGTERM ends a daemon within 5 s. Half as much again for a busy machine.
const TERM_TIME_MAX: Duration = Duration::from_millis(7_500);

/// Lines of standard error shown when a test fails.
const STDERR_TAIL: usize = 40;

/// How to run a daemon.
#[derive(Clone, Debug, Default)]
pub struct Launch {
    /// The command that runs it, if it isn't `run`.
    pub command: Option<&'static str>,
    /// Arguments after `halloo --home HOME --json run`.
    pub args: Vec<String>,
    /// The network namespace to run in.
    pub namespace: Option<String>,
    /// Its log filter, if not the usual one.
    pub log: Option<String>,
}

impl Launch {
    /// A lab node on the loopback interface, on free ports.
    #[must_use]
    pub fn lab() -> Self {
        let listen = ["/ip4/127.0.0.1/udp/0/quic-v1", "/ip4/127.0.0.1/tcp/0"];
        let launch = Self::default().arg("--lab");
        listen.iter().fold(launch, |launch, address| launch.arg("--listen").arg(*address))
    }

    /// One more argument.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<String>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// What it logs, as `RUST_LOG` says it.
    #[must_use]
    pub fn log(mut self, filter: &str) -> Self {
        self.log = Some(filter.to_owned());
        self
    }

    /// More arguments.
    #[must_use]
    pub fn args<A: Into<String>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }
}

/// A home and the daemon on it; the daemon is killed when this is dropped.
#[derive(Debug)]
pub struct Daemon {
    name: String,
    home: PathBuf,
    stderr: PathBuf,
    launch: Launch,
    process: Option<Process>,
}

#[derive(Debug)]
struct Process {
    child: Child,
    events: Arc<Events>,
    ready: Value,
}

/// The lines a daemon has written to standard output.
#[derive(Debug, Default)]
struct Events {
    lines: Mutex<Lines>,
    news: Condvar,
}

#[derive(Debug, Default)]
struct Lines {
    events: Vec<Value>,
    ended: bool,
}

impl Daemon {
    /// Makes a home in `folder` with `halloo init`; the daemon doesn't run yet. `config` is written as its `config.toml`.
    ///
    /// # Panics
    /// If `halloo init` fails.
    #[track_caller]
    #[must_use]
    pub fn init(folder: &Path, name: &str, config: &str) -> Self {
        Self::init_with(folder, name, config, None).0
    }

    /// [`Daemon::init`] with the identity of a recovery phrase; also gives what `halloo init` printed.
    ///
    /// # Panics
    /// If `halloo init` fails.
    #[track_caller]
    #[must_use]
    pub fn init_with(folder: &Path, name: &str, config: &str, phrase: Option<&str>) -> (Self, Value) {
        let home = folder.join(name);
        let mut command = Invocation::new(&home).args(["init", "--device-name", name]);
        if let Some(phrase) = phrase {
            command = command.args(["--recover"]).stdin(phrase);
        }
        let printed = command.run().ok();
        std::fs::write(home.join("config.toml"), config).expect("the home is ours");
        (Self::of_home(folder, name), printed)
    }

    /// The daemon of a home in `folder` that was made otherwise; it doesn't run yet.
    #[must_use]
    pub fn of_home(folder: &Path, name: &str) -> Self {
        let home = folder.join(name);
        // Kept for who looks for a fault, with HALLOO_TEST_LOG.
        let logs = std::env::var_os("HALLOO_TEST_LOG_DIR").map_or_else(|| folder.to_owned(), PathBuf::from);
        let stderr = logs.join(format!("{name}.stderr"));
        Self { name: name.to_owned(), home, stderr, launch: Launch::default(), process: None }
    }

    /// Starts it and waits until it is ready.
    ///
    /// # Panics
    /// If it isn't in time.
    #[track_caller]
    pub fn start(&mut self, launch: Launch) {
        self.spawn(launch);
        self.wait_ready(READY_TIME_MAX);
    }

    /// Starts it without waiting.
    ///
    /// # Panics
    /// If it runs already, or can't be started.
    #[track_caller]
    pub fn spawn(&mut self, launch: Launch) {
        assert!(self.process.is_none(), "{} runs already", self.name);
        let stderr = File::options().create(true).append(true).open(&self.stderr).expect("the folder is ours");
        let mut command = halloo_command(launch.namespace.as_deref());
        command.arg("--home").arg(&self.home).args(["--json", "-v", launch.command.unwrap_or("run")]).args(&launch.args);
        if let Some(filter) = launch.log.clone().or_else(|| std::env::var("HALLOO_TEST_LOG").ok()) {
            command.env("RUST_LOG", filter);
        }
        let spawned = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(stderr).spawn();
        let mut child = spawned.unwrap_or_else(|error| panic!("can't run {command:?}: {error}"));
        let events = Arc::new(Events::default());
        let stdout = child.stdout.take().expect("stdout is piped");
        let reader = Arc::clone(&events);
        std::thread::spawn(move || reader.read(BufReader::new(stdout)));
        self.process = Some(Process { child, events, ready: Value::Null });
        self.launch = launch;
    }

    /// Waits for the ready line and returns it.
    ///
    /// # Panics
    /// If it doesn't come within `limit`.
    #[track_caller]
    pub fn wait_ready(&mut self, limit: Duration) -> &Value {
        let ready = self.wait_event(limit, "ready", |_| true);
        let process = self.process.as_mut().expect("it runs, or there had been no event");
        process.ready = ready;
        &process.ready
    }

    /// Starts it again as it was started last.
    ///
    /// # Panics
    /// If it runs, or doesn't become ready.
    #[track_caller]
    pub fn restart(&mut self) {
        let launch = self.launch.clone();
        self.start(launch);
    }

    /// [`Daemon::restart`] with other arguments of the same options: those of the last time are left out.
    ///
    /// # Panics
    /// If it runs, or doesn't become ready.
    #[track_caller]
    pub fn restart_with(&mut self, option: &[&str; 2]) {
        let mut launch = self.launch.clone();
        while let Some(at) = launch.args.iter().position(|known| known == option[0]) {
            launch.args.drain(at..at + 2);
        }
        self.start(launch.args(*option));
    }

    /// [`Daemon::restart`] without waiting until it is ready.
    ///
    /// # Panics
    /// If it runs.
    #[track_caller]
    pub fn spawn_again(&mut self) {
        let launch = self.launch.clone();
        self.spawn(launch);
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _gone = process.child.kill();
            let _reaped = process.child.wait();
        }
    }

    /// Sends it a signal, such as `STOP`.
    ///
    /// # Panics
    /// If it doesn't run.
    pub fn signal(&self, name: &str) {
        let pid = self.pid().unwrap_or_else(|| panic!("{} doesn't run", self.name));
        cli::signal(pid, name);
    }

    /// SIGTERM; its exit code and how long it took.
    ///
    /// # Panics
    /// If it doesn't run, or doesn't end in time.
    #[track_caller]
    pub fn terminate(&mut self) -> (i32, Duration) {
        let mut process = self.process.take().unwrap_or_else(|| panic!("{} doesn't run", self.name));
        let started = Instant::now();
        cli::signal(process.child.id(), "TERM");
        let code = cli::wait_exit(&mut process.child, TERM_TIME_MAX);
        let elapsed = started.elapsed();
        let Some(code) = code else {
            self.process = Some(process);
            panic!("{} still runs {} s after SIGTERM", self.name, elapsed.as_secs_f32());
        };
        (code, elapsed)
    }

    /// Waits until it ends by itself; its exit code.
    ///
    /// # Panics
    /// If it doesn't within `limit`.
    #[track_caller]
    pub fn wait_end(&mut self, limit: Duration) -> i32 {
        let mut process = self.process.take().unwrap_or_else(|| panic!("{} doesn't run", self.name));
        let code = cli::wait_exit(&mut process.child, limit);
        code.unwrap_or_else(|| {
            self.process = Some(process);
            panic!("{} still runs", self.name)
        })
    }

    /// The first event of this run with this name that `wanted` accepts.
    ///
    /// # Panics
    /// If there is none within `limit`, or the daemon ends.
    #[track_caller]
    pub fn wait_event(&self, limit: Duration, event: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let process = self.process.as_ref().unwrap_or_else(|| panic!("{} doesn't run", self.name));
        let found = process.events.wait(limit, |value| value["event"] == event && wanted(value));
        found.unwrap_or_else(|seen| panic!("{}: no event {event:?} as wanted; seen: {seen}", self.name))
    }

    /// All events of this run so far.
    #[must_use]
    pub fn events(&self) -> Vec<Value> {
        let process = self.process.as_ref();
        process.map(|process| process.events.lock().events.clone()).unwrap_or_default()
    }

    /// Runs a command against this home.
    #[track_caller]
    pub fn cli<const N: usize>(&self, args: [&str; N]) -> Output {
        cli::cli(&self.home, args)
    }

    /// Its local API.
    ///
    /// # Panics
    /// If it isn't ready.
    #[track_caller]
    #[must_use]
    pub fn api(&self) -> Api {
        // Where the API listens is in the ready line; a daemon that isn't ready yet has it in its home.
        let written = || std::fs::read_to_string(self.home.join("api.addr")).ok();
        match self.ready()["api"].as_str().map(str::to_owned).or_else(written) {
            Some(address) => Api::parse(address.trim()),
            None => panic!("{} has no API", self.name),
        }
    }

    /// The ready line of this run; null before.
    #[must_use]
    pub fn ready(&self) -> &Value {
        self.process.as_ref().map_or(&Value::Null, |process| &process.ready)
    }

    /// Its peer id.
    ///
    /// # Panics
    /// If it isn't ready.
    #[track_caller]
    #[must_use]
    pub fn peer_id(&self) -> String {
        self.ready()["peer_id"].as_str().unwrap_or_else(|| panic!("{} isn't ready", self.name)).to_owned()
    }

    /// The addresses it listens on, with its peer id.
    ///
    /// # Panics
    /// If it isn't ready.
    #[track_caller]
    #[must_use]
    pub fn addresses(&self) -> Vec<String> {
        let peer = self.peer_id();
        let listen = self.ready()["listen"].as_array().cloned().unwrap_or_default();
        let with_peer =
            |address: &str| if address.contains("/p2p/") { address.to_owned() } else { format!("{address}/p2p/{peer}") };
        listen.iter().filter_map(Value::as_str).map(with_peer).collect()
    }

    /// Its home.
    #[must_use]
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// Its name in this test.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it runs, as far as is known.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.process.is_some()
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(|process| process.child.id())
    }

    /// The last lines of its standard error, over all runs.
    #[must_use]
    pub fn stderr_tail(&self) -> String {
        let text = std::fs::read(&self.stderr).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(STDERR_TAIL)..].join("\n")
    }

    /// Lines of its standard error with this in them, over all runs.
    #[must_use]
    pub fn logged(&self, text: &str) -> usize {
        let log = std::fs::read(&self.stderr).unwrap_or_default();
        String::from_utf8_lossy(&log).lines().filter(|line| line.contains(text)).count()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let state = if self.is_running() { "running" } else { "ended" };
            eprintln!("---- {} ({state}), end of standard error:\n{}", self.name, self.stderr_tail());
        }
        self.kill();
    }
}

impl Events {
    fn lock(&self) -> std::sync::MutexGuard<'_, Lines> {
        // A reader that panicked has left whole lines behind.
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self, stdout: impl BufRead) {
        for line in stdout.lines() {
            let Ok(line) = line else { break };
            let event = serde_json::from_str(&line).unwrap_or_else(|_| Value::String(format!("not JSON: {line}")));
            self.lock().events.push(event);
            self.news.notify_all();
        }
        self.lock().ended = true;
        self.news.notify_all();
    }

    fn wait(&self, limit: Duration, wanted: impl Fn(&Value) -> bool) -> Result<Value, String> {
        let deadline = Instant::now() + limit;
        let mut lines = self.lock();
        loop {
            if let Some(event) = lines.events.iter().find(|event| wanted(event)) {
                return Ok(event.clone());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if lines.ended || left.is_zero() {
                let why = if lines.ended { "the daemon ended" } else { "time is over" };
                return Err(format!("{why}; events: {}", Value::Array(lines.events.clone())));
            }
            lines = self.news.wait_timeout(lines, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}
