//! Linphone's command-line client (Debian `linphone-cli`), which speaks and hears files.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use crate::audio::write_tone;
use crate::natlab::Machine;
use crate::phone::{PHONE_PATIENCE, PhoneAccount, command_on, free_port};
use crate::wait::eventually;

/// A running phone; ended when dropped.
#[derive(Debug)]
pub struct Linphone {
    name: String,
    child: Child,
    folder: PathBuf,
}

impl Linphone {
    /// Starts a phone that speaks a tone and writes down what it hears, on a machine of a laboratory if one is named, and waits until it is registered.
    ///
    /// # Panics
    /// If it isn't in time, or linphone isn't there.
    #[track_caller]
    #[must_use]
    pub fn registered(machine: Option<&Machine>, folder: &Path, name: &str, account: &PhoneAccount, tone_hz: f64) -> Self {
        Self::start(machine, folder, name, account, tone_hz, None, "")
    }

    /// The same, with parameters of its address, `pn-provider=..` among them.
    ///
    /// # Panics
    /// As [`Self::registered`].
    #[track_caller]
    #[must_use]
    pub fn registered_with(
        machine: Option<&Machine>,
        folder: &Path,
        name: &str,
        account: &PhoneAccount,
        tone_hz: f64,
        uri_params: &str,
    ) -> Self {
        Self::start(machine, folder, name, account, tone_hz, None, uri_params)
    }

    /// The same with a friend, whose presence it shows, and who is shown its own.
    ///
    /// # Panics
    /// As [`Self::registered`].
    #[track_caller]
    #[must_use]
    pub fn with_friend(
        machine: Option<&Machine>,
        folder: &Path,
        name: &str,
        account: &PhoneAccount,
        tone_hz: f64,
        friend: &str,
    ) -> Self {
        Self::start(machine, folder, name, account, tone_hz, Some(friend), "")
    }

    #[track_caller]
    fn start(
        machine: Option<&Machine>,
        folder: &Path,
        name: &str,
        account: &PhoneAccount,
        tone_hz: f64,
        friend: Option<&str>,
        uri_params: &str,
    ) -> Self {
        let publishes = u8::from(friend.is_some());
        let friend = friend.map(|uri| format!("[friend_0]\nurl=<{uri}>\npol=accept\nsubscribe=1\n")).unwrap_or_default();
        let folder = folder.join(name);
        // It ends where it has no place for its database.
        std::fs::create_dir_all(folder.join(".local/share/linphone")).expect("the folder is ours");
        write_tone(&folder.join("tone.wav"), tone_hz, Duration::from_secs(60));
        let PhoneAccount { uri, username, password, server } = account;
        let config = format!(
            "[sip]\nsip_port={port}\nsip_tcp_port=-1\nsip_tls_port=-1\ndefault_proxy=0\n[rtp]\naudio_rtp_port={media}\n\
             [proxy_0]\nreg_proxy=<{server}>\nreg_route=<{server};lr>\nreg_identity={uri}\nreg_expires=600\nreg_sendregister=1\npublish={publishes}\ncontact_uri_parameters={uri_params}\n\
             [auth_info_0]\nusername={username}\npasswd={password}\n{friend}",
            port = free_port(),
            media = free_port() & !1,
        );
        std::fs::write(folder.join("rc"), config).expect("written");
        let log = std::fs::File::create(folder.join("log")).expect("the folder is ours");
        let mut command = command_on(machine, "linphonec");
        command
            .arg("-c")
            .arg(folder.join("rc"))
            .args(["-d", "6", "-l"])
            .arg(folder.join("debug"))
            .env("HOME", &folder)
            .stdin(Stdio::piped());
        let spawned = command.stdout(log.try_clone().expect("a file")).stderr(log).spawn();
        let child = spawned.unwrap_or_else(|error| panic!("cannot run linphonec ({error}): scripts/setup --long installs it"));
        let mut phone = Self { name: name.to_owned(), child, folder };
        phone.tell("soundcard use files");
        phone.tell(&format!("play {}", phone.folder.join("tone.wav").display()));
        phone.tell(&format!("record {}", phone.heard().display()));
        eventually(PHONE_PATIENCE, &format!("{name} is registered"), || {
            phone.tell("proxy list");
            if phone.log().contains("registered: yes") { Ok(()) } else { Err(phone.log()) }
        });
        phone
    }

    /// Tells it to do something, such as `call sip:bob@example`.
    ///
    /// # Panics
    /// If it has ended.
    #[track_caller]
    pub fn tell(&mut self, command: &str) {
        let input = self.child.stdin.as_mut().expect("it is piped");
        writeln!(input, "{command}").unwrap_or_else(|error| panic!("{} has ended: {error}", self.name));
    }

    /// Waits until it has printed this.
    ///
    /// # Panics
    /// If it doesn't in time.
    #[track_caller]
    pub fn wait(&self, text: &str) {
        eventually(PHONE_PATIENCE, &format!("{} prints {text:?}", self.name), || {
            if self.log().contains(text) { Ok(()) } else { Err(self.log()) }
        });
    }

    /// Ends it: what it heard in its call, which it writes down whole only then.
    ///
    /// # Panics
    /// If it doesn't end.
    #[track_caller]
    #[must_use]
    pub fn finish(&mut self) -> PathBuf {
        self.tell("quit");
        assert!(crate::cli::wait_exit(&mut self.child, PHONE_PATIENCE).is_some(), "{} doesn't end", self.name);
        let heard = self.heard();
        repair(&heard);
        heard
    }

    fn heard(&self) -> PathBuf {
        self.folder.join("heard.wav")
    }

    /// What it printed.
    #[must_use]
    pub fn log(&self) -> String {
        let text = std::fs::read(self.folder.join("log")).unwrap_or_default();
        String::from_utf8_lossy(&text).into_owned()
    }
}

impl Drop for Linphone {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("---- {}:\n{}", self.name, self.log());
        }
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// Linphone doesn't always say the right length in the 44 bytes before what it writes down.
fn repair(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let whole = bytes.len() & !1;
    assert!(whole > 44, "{}: nothing was heard", path.display());
    bytes.truncate(whole);
    for (at, length) in [(4, whole - 8), (40, whole - 44)] {
        let length = u32::try_from(length).expect("a short recording");
        bytes[at..at + 4].copy_from_slice(&length.to_le_bytes());
    }
    std::fs::write(path, bytes).expect("written");
}
