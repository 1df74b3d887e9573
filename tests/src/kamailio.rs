//! A real SIP registrar and proxy (Debian's Kamailio), over TLS: software that Halloo has no part in.

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::eventually;

/// The domain that it serves.
pub const DOMAIN: &str = "sip.test";

/// Users register with passwords `pw-NAME`, and say something to each other. Whatever the authority's account says to somebody, somebody else says something of the kind first.
const CONFIG: &str = r#"#!KAMAILIO
debug=2
log_stderror=yes
children=1
tcp_children=2
enable_tls=yes
auto_aliases=no
listen=tls:127.0.0.1:PORT
loadmodule "tm.so"
loadmodule "sl.so"
loadmodule "pv.so"
loadmodule "maxfwd.so"
loadmodule "siputils.so"
loadmodule "textops.so"
loadmodule "usrloc.so"
loadmodule "registrar.so"
loadmodule "auth.so"
loadmodule "rr.so"
loadmodule "uac.so"
loadmodule "tls.so"
modparam("tls", "certificate", "FOLDER/cert.pem")
modparam("tls", "private_key", "FOLDER/key.pem")
modparam("tls", "tls_method", "TLSv1.2+")
modparam("uac", "restore_mode", "none")
modparam("usrloc", "db_mode", 0)
request_route {
  if (!mf_process_maxfwd_header("10")) { sl_send_reply("483", "Too Many Hops"); exit; }
  if (is_method("REGISTER")) {
    if (!pv_www_authenticate("sip.test", "pw-$fU", "0")) { www_challenge("sip.test", "1"); exit; }
    if ($au != $tU) { sl_send_reply("403", "Forbidden"); exit; }
    save("location");
    exit;
  }
  if (is_method("MESSAGE")) {
    if (!pv_proxy_authenticate("sip.test", "pw-$fU", "0")) { proxy_challenge("sip.test", "1"); exit; }
    consume_credentials();
    if (!lookup("location")) { sl_send_reply("404", "Not Found"); exit; }
    if ($fU == "codes") {
      $uac_req(method) = "MESSAGE";
      $uac_req(ruri) = $ru;
      $uac_req(furi) = "sip:mallory@sip.test";
      $uac_req(turi) = $tu;
      $uac_req(hdrs) = "Content-Type: text/plain\r\n";
      $uac_req(body) = "Halloo: the code is 00000000.";
      uac_req_send();
    }
    t_relay();
    exit;
  }
  sl_send_reply("405", "Method Not Allowed");
}
"#;

/// The server; ended when dropped.
#[derive(Debug)]
pub struct Kamailio {
    child: Child,
    port: u16,
    folder: PathBuf,
}

impl Drop for Kamailio {
    fn drop(&mut self) {
        // Its processes end with it if it is asked to.
        let _ = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
        let _ = self.child.wait();
    }
}

impl Kamailio {
    /// Starts it in `folder` on a loopback port. It has a certificate that it signed itself, [`Kamailio::certificate`].
    ///
    /// # Panics
    /// If it can't be started; `scripts/setup --long` installs it.
    #[track_caller]
    #[must_use]
    pub fn start(folder: &Path) -> Self {
        let folder = folder.join("kamailio");
        std::fs::create_dir_all(&folder).expect("the folder is ours");
        let certified = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
        std::fs::write(folder.join("cert.pem"), certified.cert.pem()).expect("written");
        std::fs::write(folder.join("key.pem"), certified.signing_key.serialize_pem()).expect("written");
        let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port();
        let config = CONFIG.replace("PORT", &port.to_string()).replace("FOLDER", &folder.display().to_string());
        std::fs::write(folder.join("kamailio.cfg"), config).expect("written");
        std::fs::write(folder.join("codes"), "pw-codes").expect("written");
        #[cfg(unix)]
        std::fs::set_permissions(folder.join("codes"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("ours");
        let log = std::fs::File::create(folder.join("log")).expect("the folder is ours");
        let mut command = Command::new("kamailio");
        command.args(["-DD", "-E", "-m", "32", "-M", "4", "-f"]).arg(folder.join("kamailio.cfg"));
        command.arg("-P").arg(folder.join("pid")).arg("-Y").arg(&folder).arg("-w").arg(&folder);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
        let child = child.expect("kamailio runs: scripts/setup --long installs it");
        let server = Self { child, port, folder };
        eventually(Duration::from_secs(30), "the SIP server listens", || {
            TcpStream::connect(("127.0.0.1", port)).map(drop).map_err(|error| error.to_string())
        });
        server
    }

    /// Where it is.
    #[must_use]
    pub fn server(&self) -> String {
        format!("localhost:{}", self.port)
    }

    /// Its certificate, for whoever is to trust it.
    #[must_use]
    pub fn certificate(&self) -> PathBuf {
        self.folder.join("cert.pem")
    }

    /// What an authority's `config.toml` says of it, in its `[authority]`.
    #[must_use]
    pub fn config(&self) -> String {
        let (server, folder) = (self.server(), self.folder.display());
        format!(
            "sip = {{ server = \"{server}\", domains = [\"{DOMAIN}\"], from = \"codes@{DOMAIN}\", password_file = \"{folder}/codes\", roots = \"{folder}/cert.pem\" }}\n"
        )
    }
}
