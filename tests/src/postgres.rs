//! Debian's PostgreSQL on a free port, in a directory of its own, until it is dropped. Also for the unit tests of the node.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long it may take to begin.
const START_TIME_MAX: Duration = Duration::from_secs(60);

/// The password of its only user, `halloo`.
pub const PASSWORD: &str = "opensesame";

/// A database server. It refuses to be run by root: there it runs as the user `postgres`.
#[derive(Debug)]
pub struct Postgres {
    folder: tempfile::TempDir,
    port: u16,
    process: Option<Child>,
}

impl Postgres {
    /// Makes a cluster with the database `push`, and starts it.
    ///
    /// # Panics
    /// If it isn't installed.
    #[must_use]
    pub fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("halloo-postgres-").tempdir().expect("a directory");
        let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port();
        let mut postgres = Self { folder, port, process: None };
        let secret = postgres.folder.path().join("secret");
        std::fs::write(&secret, format!("{PASSWORD}\n")).expect("written");
        if is_root() {
            let owned = Command::new("chown").args(["-R", "postgres:postgres"]).arg(postgres.folder.path()).status();
            assert!(owned.expect("chown runs").success(), "there is a user postgres");
        }
        let mut make = postgres.command("initdb");
        make.args(["--no-sync", "--no-locale", "--encoding=UTF8", "--username=halloo", "--auth=scram-sha-256"]);
        make.arg(format!("--pwfile={}", secret.display())).arg("-D").arg(postgres.data());
        let made = make.output().expect("initdb runs");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        postgres.run();
        postgres.sql("postgres", "CREATE DATABASE push");
        postgres
    }

    /// Where it is, for those who know the password.
    #[must_use]
    pub fn url(&self) -> String {
        format!("postgresql://halloo:{PASSWORD}@127.0.0.1:{}/push", self.port)
    }

    /// Its port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Starts it, and waits until it answers.
    ///
    /// # Panics
    /// If it doesn't.
    pub fn run(&mut self) {
        let mut command = self.command("postgres");
        command.arg("-D").arg(self.data()).arg("-k").arg(self.folder.path()).args(["-p", &self.port.to_string()]);
        command.args(["-c", "listen_addresses=127.0.0.1", "-c", "shared_buffers=16MB", "-c", "log_min_messages=fatal"]);
        self.process = Some(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("postgres runs"));
        let begun = Instant::now();
        while !self.client("postgres", "SELECT 1").stdout(Stdio::null()).status().is_ok_and(|status| status.success()) {
            assert!(begun.elapsed() < START_TIME_MAX, "it answers");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// From now on it speaks TLS too, with this certificate and key (PEM).
    ///
    /// # Panics
    /// If it doesn't start with them.
    pub fn serve_tls(&mut self, certificate: &str, key: &str) {
        self.sql("postgres", "ALTER SYSTEM SET ssl = on");
        self.stop();
        for (name, text) in [("server.crt", certificate), ("server.key", key)] {
            let path = self.data().join(name);
            std::fs::write(&path, text).expect("written");
            std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("set");
            if is_root() {
                let owned = Command::new("chown").arg("postgres:postgres").arg(&path).status();
                assert!(owned.expect("chown runs").success());
            }
        }
        self.run();
    }

    /// Stops it; connections are cut.
    pub fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            // Immediately: what was committed is on the disk.
            let _asked = Command::new("kill").args(["-QUIT", &process.id().to_string()]).status();
            let _ended = process.wait();
        }
    }

    /// Runs a statement, and gives what it prints.
    ///
    /// # Panics
    /// If it fails.
    pub fn sql(&self, database: &str, statement: &str) -> String {
        let output = self.client(database, statement).output().expect("psql runs");
        assert!(output.status.success(), "{statement}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Seconds of processor time that its processes have taken by now, the kernel's part included; of those that have ended, once they were reaped.
    ///
    /// # Panics
    /// If it doesn't run.
    #[must_use]
    pub fn processor_secs(&self) -> f64 {
        /// Of the clock that the kernel counts them in (`USER_HZ`).
        const TICKS_A_SECOND: f64 = 100.0;
        let main = self.process.as_ref().expect("it runs").id().to_string();
        let mut ticks = 0_u64;
        for entry in std::fs::read_dir("/proc").expect("there").flatten() {
            let Ok(text) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
            // After the name, which may have spaces: state, parent, ..., of its own in user and kernel, of its children that have ended.
            let Some((_, fields)) = text.rsplit_once(')') else { continue };
            let fields: Vec<&str> = fields.split_whitespace().collect();
            let is_main = entry.file_name().to_string_lossy() == main;
            if is_main || fields.get(1) == Some(&main.as_str()) {
                let counted = if is_main { 11..15 } else { 11..13 };
                ticks += fields[counted].iter().filter_map(|field| field.parse::<u64>().ok()).sum::<u64>();
            }
        }
        ticks as f64 / TICKS_A_SECOND
    }

    fn client(&self, database: &str, statement: &str) -> Command {
        let mut command = Command::new(programs().join("psql"));
        command.env("PGPASSWORD", PASSWORD).env("PGCONNECT_TIMEOUT", "5").stderr(Stdio::null());
        command.args(["-X", "-A", "-t", "-q", "-h", "127.0.0.1", "-U", "halloo", "-p", &self.port.to_string()]);
        command.args(["-d", database, "-c", statement]);
        command
    }

    fn command(&self, program: &str) -> Command {
        let program = programs().join(program);
        let mut command = if is_root() {
            let mut command = Command::new("setpriv");
            command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]).arg(program);
            command
        } else {
            Command::new(program)
        };
        command.current_dir(self.folder.path());
        command
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.stop();
    }
}

fn is_root() -> bool {
    Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout.starts_with(b"0\n"))
}

/// Debian keeps the server's programs apart, by version.
fn programs() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL is installed: scripts/setup --long");
    let mut found: Vec<PathBuf> = versions.flatten().map(|version| version.path().join("bin")).collect();
    found.retain(|path| path.join("initdb").exists());
    found.sort();
    found.pop().unwrap_or_else(|| Path::new("/usr/bin").to_owned())
}
