//! A real address book server (Debian's Radicale), over TLS: software that Halloo has no part in.

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::eventually;

/// The server; killed when dropped.
#[derive(Debug)]
pub struct Radicale {
    child: Child,
    port: u16,
    folder: PathBuf,
}

impl Drop for Radicale {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Radicale {
    /// Starts it in `folder` on a loopback port, with these users; passwords are `pw-NAME`. It has a certificate that it signed itself, [`Radicale::certificate`].
    ///
    /// # Panics
    /// If it can't be started; `scripts/setup` installs it.
    #[track_caller]
    #[must_use]
    pub fn start(folder: &Path, users: &[&str]) -> Self {
        let folder = folder.join("radicale");
        std::fs::create_dir_all(&folder).expect("the folder is ours");
        let write = |name: &str, text: String| std::fs::write(folder.join(name), text).expect("written");
        write("users", users.iter().map(|user| format!("{user}:pw-{user}\n")).collect());
        let certified = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
        write("cert.pem", certified.cert.pem());
        write("key.pem", certified.signing_key.serialize_pem());
        let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port();
        let here = folder.display();
        write(
            "config",
            format!(
                "[server]\nhosts = 127.0.0.1:{port}\nssl = True\ncertificate = {here}/cert.pem\nkey = {here}/key.pem\n\
                 [auth]\ntype = htpasswd\nhtpasswd_filename = {here}/users\nhtpasswd_encryption = plain\ndelay = 0\n\
                 [rights]\ntype = owner_only\n[storage]\nfilesystem_folder = {here}/storage\n"
            ),
        );
        let log = std::fs::File::create(folder.join("log")).expect("the folder is ours");
        // Debian's own Python has the package, whichever comes first.
        let mut command = Command::new("/usr/bin/python3");
        command.args(["-m", "radicale", "--config"]).arg(folder.join("config"));
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().expect("python3 runs");
        let server = Self { child, port, folder };
        eventually(Duration::from_secs(30), "the address book server listens: scripts/setup installs it", || {
            TcpStream::connect(("127.0.0.1", port)).map(drop).map_err(|error| error.to_string())
        });
        server
    }

    /// Where it is.
    #[must_use]
    pub fn url(&self) -> String {
        format!("https://localhost:{}/", self.port)
    }

    /// Its certificate, for whoever is to trust it.
    #[must_use]
    pub fn certificate(&self) -> PathBuf {
        self.folder.join("cert.pem")
    }

    fn book(&self, user: &str, book: &str) -> PathBuf {
        self.folder.join("storage/collection-root").join(user).join(book)
    }

    /// Puts a card into a book of a user, which is made if there is none.
    ///
    /// # Panics
    /// If it can't be written.
    #[track_caller]
    pub fn put(&self, user: &str, book: &str, name: &str, card: &str) {
        let folder = self.book(user, book);
        std::fs::create_dir_all(&folder).expect("the folder is ours");
        std::fs::write(folder.join(".Radicale.props"), "{\"tag\": \"VADDRESSBOOK\"}").expect("written");
        std::fs::write(folder.join(format!("{name}.vcf")), card).expect("written");
    }

    /// Takes a card out.
    ///
    /// # Panics
    /// If there is none.
    #[track_caller]
    pub fn take_out(&self, user: &str, book: &str, name: &str) {
        std::fs::remove_file(self.book(user, book).join(format!("{name}.vcf"))).expect("it was there");
    }
}
