//! A real OpenID Connect provider (npm's oidc-provider) as another system, and a browser of a few lines: software that Halloo has no part in.

use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::binary::workspace;
use crate::cli::halloo_command;
use crate::eventually;

const PATIENCE: Duration = Duration::from_secs(30);

/// The provider; killed when dropped.
#[derive(Debug)]
pub struct OidcProvider {
    child: Child,
    port: u16,
    folder: PathBuf,
}

impl Drop for OidcProvider {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where `tests/external/oidc/setup` puts it.
fn installed() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from);
    target.join("external/oidc")
}

fn node() -> Command {
    let mut command = Command::new("node");
    command.current_dir(workspace().join("tests/external/oidc"));
    command
}

impl OidcProvider {
    /// Starts it in `folder` on a loopback port, with who is in whose contact list.
    ///
    /// # Panics
    /// If it can't be started; `scripts/setup` installs it.
    #[track_caller]
    #[must_use]
    pub fn start(folder: &Path, people: &Value) -> Self {
        let folder = folder.join("provider");
        std::fs::create_dir_all(&folder).expect("the folder is ours");
        std::fs::write(folder.join("people.json"), people.to_string()).expect("written");
        let certified = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
        std::fs::write(folder.join("cert.pem"), certified.cert.pem()).expect("written");
        std::fs::write(folder.join("key.pem"), certified.signing_key.serialize_pem()).expect("written");
        let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port();
        let mut command = node();
        command.arg("provider.mjs").arg(installed()).arg(&folder).arg(port.to_string());
        let log = std::fs::File::create(folder.join("log")).expect("the folder is ours");
        let child = command.stdin(Stdio::null()).stdout(log).stderr(Stdio::null()).spawn().expect("node runs");
        let provider = Self { child, port, folder };
        eventually(PATIENCE, "the provider listens: scripts/setup installs it", || {
            TcpStream::connect(("127.0.0.1", port)).map(drop).map_err(|error| error.to_string())
        });
        provider
    }

    /// Its issuer.
    #[must_use]
    pub fn issuer(&self) -> String {
        format!("https://localhost:{}", self.port)
    }

    /// Who somebody is there, for Halloo.
    #[must_use]
    pub fn id(&self, name: &str) -> String {
        format!("oidc:{}#{name}", self.issuer())
    }

    /// What a `config.toml` says of it.
    #[must_use]
    pub fn config(&self) -> String {
        let (issuer, roots) = (self.issuer(), self.folder.join("cert.pem"));
        format!(
            "[[linked.provider]]\nissuer = \"{issuer}\"\nclient_id = \"halloo\"\nroots = \"{}\"\n\
             contacts = {{ url = \"{issuer}/people\", list = \"/contacts\", id = \"/source/subject\", name = \"/displayName\", next = \"/next\", poll_secs = 5 }}\n",
            roots.display()
        )
    }

    /// Contact lists are others from now on.
    ///
    /// # Panics
    /// If they can't be written.
    #[track_caller]
    pub fn set_people(&self, people: &Value) {
        std::fs::write(self.folder.join("people.json"), people.to_string()).expect("written");
    }

    /// What is otherwise with it from now on: `skew_secs`, by which its clock is ahead; `device_nonce`, that tokens for a login on another machine have the nonce of the request.
    ///
    /// # Panics
    /// If it can't be written.
    #[track_caller]
    pub fn set(&self, settings: &Value) {
        let file = self.folder.join("settings.json");
        let before = std::fs::read(&file).map_or_else(|_| json!({}), |bytes| serde_json::from_slice(&bytes).expect("ours"));
        let mut all = before;
        for (name, value) in settings.as_object().into_iter().flatten() {
            all[name] = value.clone();
        }
        // Never half of it: it is read at any time.
        let next = self.folder.join("settings.next");
        std::fs::write(&next, all.to_string()).and_then(|()| std::fs::rename(&next, &file)).expect("written");
    }

    /// Links somebody's account as a person does: the command says where to go, and they log in there. Gives what it says at last, and its exit code.
    ///
    /// # Panics
    /// If it doesn't say where to go.
    #[track_caller]
    #[must_use]
    pub fn link(&self, home: &Path, name: &str, more: &[&str]) -> (Value, i32) {
        let mut command = halloo_command(None);
        command.arg("--home").arg(home).args(["--json", "link", "add", "oidc", &self.issuer()]).args(more);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("halloo runs");
        let mut stdout = BufReader::new(child.stdout.take().expect("stdout is piped"));
        if let Some(begun) = next(&mut stdout) {
            assert_eq!(begun["event"], "login", "{begun}");
            self.browse(name, begun["url"].as_str().unwrap_or_default());
        }
        let last = next(&mut stdout).unwrap_or_default();
        (last, child.wait().expect("it ends").code().unwrap_or(-1))
    }

    #[track_caller]
    fn browse(&self, name: &str, url: &str) {
        let output = node()
            .env("NODE_EXTRA_CA_CERTS", self.folder.join("cert.pem"))
            .args(["browser.mjs", name, url])
            .output()
            .expect("node runs");
        assert!(output.status.success(), "{url}: {output:?}");
    }
}

fn next(stdout: &mut BufReader<ChildStdout>) -> Option<Value> {
    let mut line = String::new();
    let length = stdout.read_line(&mut line).expect("stdout is read");
    (length > 0).then(|| serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}")))
}

/// Everybody is everybody's contact.
#[must_use]
pub fn friends(names: &[&str]) -> Value {
    let others = |name: &str| names.iter().filter(|other| **other != name).copied().collect::<Vec<_>>();
    names.iter().map(|name| ((*name).to_owned(), json!(others(name)))).collect::<serde_json::Map<_, _>>().into()
}
