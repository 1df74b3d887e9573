//! An ordinary SIP phone: baresip (Debian `baresip-core`), told what to do over its control socket.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::audio::write_tone;
use crate::daemon::Daemon;
use crate::natlab::Machine;
use crate::network::text;
use crate::wait::eventually;

/// How long anything a phone does may take to show.
pub const PHONE_PATIENCE: Duration = Duration::from_secs(30);

/// A certificate and its key for an edge's listener with TLS, made by openssl: their files.
///
/// # Panics
/// If there is no openssl.
#[track_caller]
pub fn edge_certificate(folder: &Path) -> (PathBuf, PathBuf) {
    let (certificate, key) = (folder.join("certificate.pem"), folder.join("key.pem"));
    let how =
        ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", "/CN=edge"];
    let made = Command::new("openssl").args(how).arg("-keyout").arg(&key).arg("-out").arg(&certificate).output();
    let made = made.expect("openssl runs");
    assert!(made.status.success(), "{made:?}");
    (certificate, key)
}

/// A running phone; ended when dropped.
#[derive(Debug)]
pub struct Phone {
    name: String,
    child: Child,
    control: Box<dyn Control>,
    unread: Vec<u8>,
    seen: Vec<Value>,
    folder: PathBuf,
}

/// What a phone is told over, and tells over.
trait Control: Read + Write + std::fmt::Debug + Send {}

impl Control for TcpStream {}

impl Control for Way {}

/// A way into a network namespace: a process there that passes everything on.
#[derive(Debug)]
struct Way(UnixStream, Child);

impl Way {
    /// To this port; `None` if what listens there doesn't answer, as happens while it starts.
    fn into(machine: Option<&Machine>, port: u16) -> Option<Self> {
        let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
        ours.set_read_timeout(Some(Duration::from_millis(500))).expect("a socket");
        let script = format!("until exec 3<>/dev/tcp/127.0.0.1/{port}; do sleep 0.1; done 2>/dev/null; cat <&3 & exec cat >&3");
        let output = OwnedFd::from(theirs.try_clone().expect("a socket"));
        let mut command = command_on(machine, "bash");
        command.args(["-c", &script]).stdin(OwnedFd::from(theirs)).stdout(output).stderr(Stdio::null());
        let mut way = Self(ours, command.spawn().expect("bash"));
        // Anything that is answered, and changes nothing.
        way.write_all(b"23:{\"command\":\"listcalls\"},").ok()?;
        let mut bytes = [0; 4_096];
        let is_answered = (0..6).any(|_| matches!(way.read(&mut bytes), Ok(1..)));
        is_answered.then_some(way)
    }
}

impl Read for Way {
    fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(bytes)
    }
}

impl Write for Way {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        let _gone = self.1.kill();
        let _reaped = self.1.wait();
    }
}

/// What a phone is set up with.
#[derive(Clone, Debug)]
pub struct PhoneAccount {
    /// `sip:name@authority`
    pub uri: String,
    /// Who logs in.
    pub username: String,
    /// The password.
    pub password: String,
    /// `sip:127.0.0.1:5060;transport=udp`
    pub server: String,
}

/// Waits until the user has so many devices in the directory, accounts among them, so that all of them ring.
///
/// # Panics
/// If it isn't so in time.
#[track_caller]
pub fn wait_devices(seen_by: &Daemon, user: &str, count: usize) {
    eventually(PHONE_PATIENCE, &format!("{user} has {count} devices"), || {
        let resolved = seen_by.cli(["resolve", user, "--fresh"]).json();
        let found = resolved["devices"].as_array().map_or(0, Vec::len);
        if found == count { Ok(()) } else { Err(resolved.to_string()) }
    });
}

impl PhoneAccount {
    /// A new account of a daemon's own user, used over this transport.
    ///
    /// # Panics
    /// If it isn't made.
    #[track_caller]
    #[must_use]
    pub fn add(daemon: &Daemon, transport: &str) -> Self {
        let made = daemon.cli(["sip", "account", "add"]).ok();
        Self::of(&made, transport)
    }

    /// What `halloo sip account add` printed.
    ///
    /// # Panics
    /// If the edge doesn't listen for this transport.
    #[track_caller]
    #[must_use]
    pub fn of(made: &Value, transport: &str) -> Self {
        let servers = made["servers"].as_array().cloned().unwrap_or_default();
        let server = servers.iter().filter_map(Value::as_str).find(|server| server.ends_with(&format!("transport={transport}")));
        let server = server.unwrap_or_else(|| panic!("no {transport} in {made}")).to_owned();
        Self { uri: text(made, "uri"), username: text(made, "username"), password: text(made, "password"), server }
    }

    /// Where the edge listens.
    ///
    /// # Panics
    /// If the address can't be read.
    #[track_caller]
    #[must_use]
    pub fn address(&self) -> std::net::SocketAddr {
        let bare = self.server.trim_start_matches("sip:").split(';').next().unwrap_or_default();
        bare.parse().expect("an address")
    }
}

/// What a phone has beyond calls: further lines of baresip's configuration, and its contacts.
#[derive(Debug, Default)]
struct Extras {
    modules: &'static str,
    contacts: String,
}

impl Phone {
    /// Starts a phone that speaks a tone and writes down what it hears. `more` are further parameters of its account.
    ///
    /// # Panics
    /// If baresip isn't there.
    #[track_caller]
    #[must_use]
    pub fn start(folder: &Path, name: &str, account: &PhoneAccount, tone_hz: f64, more: &str) -> Self {
        Self::start_with(None, folder, name, account, tone_hz, more, &Extras::default())
    }

    /// The same on a machine of a laboratory.
    ///
    /// # Panics
    /// If baresip isn't there.
    #[track_caller]
    #[must_use]
    pub fn start_on(
        machine: Option<&Machine>,
        folder: &Path,
        name: &str,
        account: &PhoneAccount,
        tone_hz: f64,
        more: &str,
    ) -> Self {
        Self::start_with(machine, folder, name, account, tone_hz, more, &Extras::default())
    }

    /// Starts a phone that shows the presence of one contact, to whom its `message` command writes, and waits until it is registered.
    ///
    /// # Panics
    /// If it isn't in time.
    #[track_caller]
    #[must_use]
    pub fn messaging(folder: &Path, name: &str, account: &PhoneAccount, contact: &str) -> Self {
        Self::messaging_on(None, folder, name, account, 440.0, contact)
    }

    /// The same on a machine of a laboratory; it publishes its presence too: `presence_online`, `presence_offline`.
    ///
    /// # Panics
    /// If it isn't in time.
    #[track_caller]
    #[must_use]
    pub fn messaging_on(
        machine: Option<&Machine>,
        folder: &Path,
        name: &str,
        account: &PhoneAccount,
        tone_hz: f64,
        contact: &str,
    ) -> Self {
        let extras = Extras {
            modules: "module_app contact.so\nmodule_app presence.so\n",
            contacts: format!("\"Contact\" <{contact}>;presence=p2p\n"),
        };
        let publishes = if machine.is_some() { ";pubint=600" } else { "" };
        let mut phone = Self::start_with(machine, folder, name, account, tone_hz, publishes, &extras);
        phone.wait_registered();
        phone.tell("contact_next", "");
        phone
    }

    fn start_with(
        machine: Option<&Machine>,
        folder: &Path,
        name: &str,
        account: &PhoneAccount,
        tone_hz: f64,
        more: &str,
        extras: &Extras,
    ) -> Self {
        let Extras { modules, contacts } = extras;
        let address = machine.map_or("127.0.0.1", |machine| machine.address.as_str());
        let folder = folder.join(name);
        std::fs::create_dir_all(folder.join("heard")).expect("the folder is ours");
        let tone = folder.join("tone.wav");
        write_tone(&tone, tone_hz, Duration::from_secs(60));
        let control = free_port();
        let config = format!(
            "sip_listen {address}:{sip}\nnet_interface {address}\naudio_source aufile,{tone}\naudio_player aubridge,nowhere\nsnd_path {heard}\n\
             audio_alert aubridge,nowhere\nausrc_srate 48000\nauplay_srate 48000\nausrc_channels 1\nauplay_channels 1\n\
             module_path /usr/lib/baresip/modules\nmodule g711.so\nmodule opus.so\n\
             module aufile.so\nmodule aubridge.so\nmodule sndfile.so\nmodule uuid.so\nmodule_app account.so\nmodule_app menu.so\nmodule_app ctrl_tcp.so\n\
             {modules}ctrl_tcp_listen 127.0.0.1:{control}\n",
            sip = free_port(),
            tone = tone.display(),
            heard = folder.join("heard").display(),
        );
        let PhoneAccount { uri, username, password, server } = account;
        let line = format!("<{uri}>;auth_user={username};auth_pass={password};outbound=\"{server}\";regint=600{more}\n");
        for (file, text) in [("config", config), ("accounts", line), ("contacts", contacts.to_owned())] {
            std::fs::write(folder.join(file), text).expect("written");
        }
        let log = std::fs::File::create(folder.join("log")).expect("the folder is ours");
        let mut command = command_on(machine, "baresip");
        command.arg("-f").arg(&folder).arg("-s").stdin(Stdio::null());
        let spawned = command.stdout(log.try_clone().expect("a file")).stderr(log).spawn();
        let child = spawned.unwrap_or_else(|error| panic!("cannot run baresip ({error}): scripts/setup installs it"));
        let control = connect(machine, control);
        Self { name: name.to_owned(), child, control, unread: Vec::new(), seen: Vec::new(), folder }
    }

    /// Starts it and waits until it is registered.
    ///
    /// # Panics
    /// If it isn't in time.
    #[track_caller]
    #[must_use]
    pub fn registered(folder: &Path, name: &str, account: &PhoneAccount, tone_hz: f64, more: &str) -> Self {
        let phone = Self::start(folder, name, account, tone_hz, more);
        phone.wait_registered();
        phone
    }

    /// Waits until it is registered.
    ///
    /// # Panics
    /// If it isn't in time.
    #[track_caller]
    pub fn wait_registered(&self) {
        eventually(PHONE_PATIENCE, &format!("{} is registered", self.name), || {
            let log = self.log();
            if log.contains("SIP/2.0 200 OK") { Ok(()) } else { Err(log) }
        });
    }

    /// Tells it to do something, such as `dial`.
    ///
    /// # Panics
    /// If it has ended.
    #[track_caller]
    pub fn tell(&mut self, command: &str, parameter: &str) {
        let text = json!({"command": command, "params": parameter}).to_string();
        let framed = format!("{}:{text},", text.len());
        self.control.write_all(framed.as_bytes()).unwrap_or_else(|error| panic!("{} has ended: {error}", self.name));
    }

    /// Waits for the next event of this type that wasn't waited for before.
    ///
    /// # Panics
    /// If it doesn't come in time.
    #[track_caller]
    pub fn wait(&mut self, event: &str) -> Value {
        let deadline = Instant::now() + PHONE_PATIENCE;
        loop {
            if let Some(at) = self.seen.iter().position(|seen| seen["type"] == event) {
                return self.seen.remove(at);
            }
            assert!(Instant::now() < deadline, "{}: no {event}; seen: {:?}\n{}", self.name, self.seen, self.log());
            self.read();
        }
    }

    /// Whether it has told of such an event, as far as is known now.
    pub fn has_seen(&mut self, event: &str) -> bool {
        self.read();
        self.seen.iter().any(|seen| seen["type"] == event)
    }

    fn read(&mut self) {
        let mut bytes = [0; 4_096];
        if let Ok(length) = self.control.read(&mut bytes) {
            self.unread.extend_from_slice(&bytes[..length]);
        }
        while let Some((text, length)) = first_netstring(&self.unread) {
            let value: Value = serde_json::from_str(&text).unwrap_or_default();
            if value["event"] == true {
                self.seen.push(value);
            }
            self.unread.drain(..length);
        }
    }

    /// What it heard in its last call, which is over for the other side at least: the phone closes the file, and writes its length into it, a moment after
    /// it said goodbye, so this waits for that.
    ///
    /// # Panics
    /// If there is no finished recording in time.
    #[track_caller]
    #[must_use]
    pub fn heard(&self) -> PathBuf {
        eventually(PHONE_PATIENCE, &format!("{} has closed its recording", self.name), || {
            let files = std::fs::read_dir(self.folder.join("heard")).expect("the folder is ours");
            let files = files.filter_map(|file| Some(file.ok()?.path()));
            let heard = files.filter(|path| path.to_string_lossy().ends_with("-dec.wav"));
            let newest = heard.max_by_key(|path| path.metadata().and_then(|data| data.modified()).ok());
            let newest = newest.ok_or("nothing recorded")?;
            let samples = hound::WavReader::open(&newest).map_or(0, |reader| reader.len());
            if samples > 0 { Ok(newest) } else { Err(format!("{} has no length yet", newest.display())) }
        })
    }

    /// What it printed.
    #[must_use]
    pub fn log(&self) -> String {
        let text = std::fs::read(self.folder.join("log")).unwrap_or_default();
        String::from_utf8_lossy(&text).into_owned()
    }
}

impl Drop for Phone {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("---- {}:\n{}", self.name, self.log());
        }
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

fn first_netstring(bytes: &[u8]) -> Option<(String, usize)> {
    let colon = bytes.iter().position(|b| *b == b':')?;
    let length: usize = std::str::from_utf8(&bytes[..colon]).ok()?.parse().ok()?;
    let text = bytes.get(colon + 1..colon + 1 + length)?;
    bytes.get(colon + 1 + length)?;
    Some((String::from_utf8_lossy(text).into_owned(), colon + length + 2))
}

/// A program, on a machine of a laboratory if one is named.
pub(crate) fn command_on(machine: Option<&Machine>, program: &str) -> Command {
    match machine {
        None => Command::new(program),
        Some(machine) => {
            let mut command = Command::new("ip");
            command.args(["netns", "exec", &machine.namespace, program]);
            command
        }
    }
}

fn connect(machine: Option<&Machine>, port: u16) -> Box<dyn Control> {
    let deadline = Instant::now() + PHONE_PATIENCE;
    let patience = Some(Duration::from_millis(100));
    if machine.is_some() {
        loop {
            if let Some(way) = Way::into(machine, port) {
                return Box::new(way);
            }
            assert!(Instant::now() < deadline, "baresip doesn't answer");
        }
    }
    loop {
        match TcpStream::connect(("127.0.0.1", port)) {
            Ok(stream) => {
                stream.set_read_timeout(patience).expect("a socket");
                return Box::new(stream);
            }
            Err(error) => assert!(Instant::now() < deadline, "baresip doesn't listen: {error}"),
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A port that is free, and the next one too, where baresip serves TLS.
pub(crate) fn free_port() -> u16 {
    let pair = |_| {
        let port = TcpListener::bind("127.0.0.1:0").ok()?.local_addr().ok()?.port();
        TcpListener::bind(("127.0.0.1", port.checked_add(1)?)).ok().map(|_| port)
    };
    (0..100).find_map(pair).expect("two free ports in a row")
}
