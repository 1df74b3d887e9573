//! A provider of short messages, as an HTTP interface: Python's own HTTP server, which shows what it is given.

use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::eventually;

/// Takes messages of whoever has the key, and prints each as a line of JSON.
const SCRIPT: &str = r#"
import http.server, json, sys
class Provider(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        is_known = self.headers.get("Authorization") == "Bearer the-key"
        self.send_response(202 if is_known else 401)
        self.send_header("Content-Length", "0")
        self.end_headers()
        if is_known:
            print(json.dumps({"path": self.path, "body": json.loads(body)}), flush=True)
    def log_message(self, *_):
        pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Provider).serve_forever()
"#;

/// The provider; killed when dropped.
#[derive(Debug)]
pub struct SmsProvider {
    child: Child,
    stdout: BufReader<ChildStdout>,
    port: u16,
}

impl Drop for SmsProvider {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl SmsProvider {
    /// Starts it on a loopback port.
    ///
    /// # Panics
    /// If it can't be started.
    #[track_caller]
    #[must_use]
    pub fn start() -> Self {
        let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port();
        let mut command = Command::new("python3");
        command.args(["-c", SCRIPT, &port.to_string()]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("python3 runs");
        let stdout = BufReader::new(child.stdout.take().expect("stdout is piped"));
        let provider = Self { child, stdout, port };
        eventually(Duration::from_secs(30), "the provider listens", || {
            TcpStream::connect(("127.0.0.1", port)).map(drop).map_err(|error| error.to_string())
        });
        provider
    }

    /// What an authority's `config.toml` says of it, in its `[authority]`: German numbers alone.
    #[must_use]
    pub fn config(&self) -> String {
        format!(
            "phone.prefixes = [\"+49\"]\nphone.refused = [\"+49900\"]\n\
             phone.sms = {{ url = \"http://127.0.0.1:{}/send\", body = '{{\"to\": \"{{number}}\", \"text\": \"{{text}}\"}}', success = [202], \
             headers = {{ Content-Type = \"application/json\", Authorization = \"Bearer the-key\" }} }}\n",
            self.port
        )
    }

    /// The next message: number and text.
    ///
    /// # Panics
    /// If the provider ends.
    #[track_caller]
    #[must_use]
    pub fn next_message(&mut self) -> (String, String) {
        let mut line = String::new();
        assert_ne!(self.stdout.read_line(&mut line).expect("stdout is read"), 0, "the provider has ended");
        let message: Value = serde_json::from_str(&line).expect("a line of JSON");
        let text = |name: &str| message["body"][name].as_str().unwrap_or_default().to_owned();
        (text("to"), text("text"))
    }
}
