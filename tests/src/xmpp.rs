//! A real XMPP server (Debian's Prosody) as another system, and a client of a few lines that changes contact lists: software and code that Halloo has no part in.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::eventually;

/// The domain that it serves.
pub const DOMAIN: &str = "there.test";

const PATIENCE: Duration = Duration::from_secs(30);

/// The server; killed when dropped.
#[derive(Debug)]
pub struct Prosody {
    child: Child,
    port: u16,
    folder: PathBuf,
}

impl Drop for Prosody {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Prosody {
    /// Starts it in `folder` on a loopback port, with these users, who is in each other's contact list, and who sees another's presence without being seen: `(watcher, watched)`. Passwords are `pw-NAME`. It has a certificate that
    /// it signed itself, [`Prosody::certificate`].
    ///
    /// # Panics
    /// If it can't be started; `scripts/setup` installs it.
    #[track_caller]
    #[must_use]
    pub fn start(folder: &Path, users: &[&str], friends: &[(&str, &str)], watching: &[(&str, &str)]) -> Self {
        Self::start_with(folder, users, friends, watching, "\"pep\", ")
    }

    /// The same without personal eventing: nobody can show anything but presence.
    ///
    /// # Panics
    /// As [`Prosody::start`].
    #[track_caller]
    #[must_use]
    pub fn start_bare(folder: &Path, users: &[&str], friends: &[(&str, &str)]) -> Self {
        Self::start_with(folder, users, friends, &[], "")
    }

    #[track_caller]
    fn start_with(folder: &Path, users: &[&str], friends: &[(&str, &str)], watching: &[(&str, &str)], modules: &str) -> Self {
        let folder = folder.join("prosody");
        let data = folder.join("data").join(DOMAIN.replace('.', "%2e"));
        for kind in ["accounts", "roster"] {
            std::fs::create_dir_all(data.join(kind)).expect("the folder is ours");
        }
        for user in users {
            let account = format!("return {{ [\"password\"] = \"pw-{user}\" }};\n");
            std::fs::write(data.join(format!("accounts/{user}.dat")), account).expect("written");
            let pairs = friends.iter().flat_map(|(one, two)| [(*one, *two, "both"), (*two, *one, "both")]);
            let watched =
                watching.iter().flat_map(|(watcher, watched)| [(*watcher, *watched, "to"), (*watched, *watcher, "from")]);
            let entries = pairs.chain(watched).filter(|(owner, ..)| owner == user);
            let items = entries.map(|(_, other, subscription)| {
                format!(
                    "[\"{other}@{DOMAIN}\"] = {{ subscription = \"{subscription}\"; groups = {{}}; name = \"{other} from there\" }};"
                )
            });
            let roster = format!("return {{ [false] = {{ version = 1 }}; {} }};\n", items.collect::<String>());
            std::fs::write(data.join(format!("roster/{user}.dat")), roster).expect("written");
        }
        let certified = rcgen::generate_simple_self_signed(vec![DOMAIN.to_owned()]).expect("a certificate");
        std::fs::write(folder.join("cert.pem"), certified.cert.pem()).expect("written");
        std::fs::write(folder.join("key.pem"), certified.signing_key.serialize_pem()).expect("written");
        let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port();
        let config = folder.join("prosody.cfg.lua");
        std::fs::write(&config, Self::config(&folder, port, modules)).expect("written");
        let log = std::fs::File::create(folder.join("log")).expect("the folder is ours");
        let command = Command::new("prosody")
            .arg("-F")
            .arg("--config")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(Stdio::null())
            .spawn();
        let child = command.expect("prosody runs: scripts/setup installs it");
        let server = Self { child, port, folder };
        eventually(PATIENCE, "the XMPP server listens", || {
            TcpStream::connect(("127.0.0.1", port)).map(drop).map_err(|error| error.to_string())
        });
        server
    }

    fn config(folder: &Path, port: u16, modules: &str) -> String {
        let folder = folder.display();
        format!(
            "run_as_root = true\npidfile = \"{folder}/pid\"\ndata_path = \"{folder}/data\"\ninterfaces = {{ \"127.0.0.1\" }}\nc2s_ports = {{ {port} }}\n\
             modules_enabled = {{ \"roster\", \"saslauth\", \"tls\", {modules}\"disco\" }}\nmodules_disabled = {{ \"s2s\" }}\n\
             c2s_require_encryption = false\nallow_unencrypted_plain_auth = true\nauthentication = \"internal_plain\"\nstorage = \"internal\"\n\
             log = {{ info = \"*console\" }}\nssl = {{ key = \"{folder}/key.pem\", certificate = \"{folder}/cert.pem\" }}\nVirtualHost \"{DOMAIN}\"\n"
        )
    }

    /// Where it is.
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Its certificate, for whoever is to trust it.
    #[must_use]
    pub fn certificate(&self) -> PathBuf {
        self.folder.join("cert.pem")
    }

    /// `user` takes `other` out of the contact list, with a client of their own.
    ///
    /// # Panics
    /// If the server doesn't take it.
    #[track_caller]
    pub fn unfriend(&self, user: &str, other: &str) {
        let mut client = Client::login(self.port, user);
        let item = format!("<item jid='{other}@{DOMAIN}' subscription='remove'/>");
        client.ask("u1", &format!("<iq type='set' id='u1'><query xmlns='jabber:iq:roster'>{item}</query></iq>"));
    }

    /// What stands in `owner`'s node, as `user` is answered: the XML.
    ///
    /// # Panics
    /// If the server doesn't answer.
    #[track_caller]
    #[must_use]
    pub fn shown(&self, user: &str, owner: &str) -> String {
        self.stands(user, owner, "urn:halloo:association:0")
    }

    /// The tokens that `owner`'s server knows, as `user` is answered: the XML.
    ///
    /// # Panics
    /// If the server doesn't answer.
    #[track_caller]
    #[must_use]
    pub fn tokens(&self, user: &str, owner: &str) -> String {
        self.stands(user, owner, "urn:halloo:event:0")
    }

    /// Whose presence `user` is told who comes there, as stanzas: what contacts say of themselves now.
    ///
    /// # Panics
    /// If the server doesn't answer.
    #[track_caller]
    #[must_use]
    pub fn present(&self, user: &str) -> String {
        let mut client = Client::login(self.port, user);
        client.say("<presence/>");
        // Presence of the server's own users is told before anything that is asked later is answered.
        client.ask("v1", "<iq type='get' id='v1'><query xmlns='jabber:iq:roster'/></iq>")
    }

    fn stands(&self, user: &str, owner: &str, node: &str) -> String {
        let mut client = Client::login(self.port, user);
        let items = format!("<pubsub xmlns='http://jabber.org/protocol/pubsub'><items node='{node}'/></pubsub>");
        client.ask("s1", &format!("<iq type='get' id='s1' to='{owner}@{DOMAIN}'>{items}</iq>"))
    }

    /// `user` puts into their own node what they like.
    ///
    /// # Panics
    /// If the server doesn't take it.
    #[track_caller]
    pub fn show(&self, user: &str, element: &str) {
        let mut client = Client::login(self.port, user);
        let item = format!("<publish node='urn:halloo:association:0'><item id='current'>{element}</item></publish>");
        client
            .ask("p1", &format!("<iq type='set' id='p1'><pubsub xmlns='http://jabber.org/protocol/pubsub'>{item}</pubsub></iq>"));
    }
}

/// A client in the open, on this machine.
struct Client {
    stream: TcpStream,
    heard: String,
}

impl Client {
    #[track_caller]
    fn login(port: u16, user: &str) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).expect("the server listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        let mut client = Self { stream, heard: String::new() };
        client.open();
        let plain = data_encoding::BASE64.encode(format!("\0{user}\0pw-{user}").as_bytes());
        client.say(&format!("<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>{plain}</auth>"));
        client.hear("<success");
        client.open();
        client.ask("b1", "<iq type='set' id='b1'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>");
        client
    }

    fn open(&mut self) {
        self.heard.clear();
        self.say(&format!(
            "<?xml version='1.0'?><stream:stream to='{DOMAIN}' version='1.0' xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'>"
        ));
        self.hear("</stream:features>");
    }

    fn say(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).expect("the server listens");
    }

    /// Asks, and gives what was said up to the answer.
    fn ask(&mut self, id: &str, text: &str) -> String {
        self.heard.clear();
        self.say(text);
        self.hear(&format!("id='{id}'"));
        // The rest of the answer, which is short, comes with its start or right after.
        while !(self.heard.ends_with("</iq>") || self.heard.ends_with("/>")) {
            self.more();
        }
        self.heard.clone()
    }

    #[track_caller]
    fn hear(&mut self, what: &str) {
        while !self.heard.contains(what) {
            self.more();
        }
    }

    fn more(&mut self) {
        let mut bytes = [0; 4_096];
        let length = self.stream.read(&mut bytes).expect("the server answers");
        assert!(length > 0, "the server has closed: {}", self.heard);
        self.heard.push_str(&String::from_utf8_lossy(&bytes[..length]));
    }
}
