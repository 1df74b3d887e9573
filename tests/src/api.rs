//! A client of the local HTTP API in a hundred lines: no process to start, and requests the real client would never send.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

/// Longest wait for an answer: longer than every deadline of the daemon's own.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(90);

/// Where a daemon's API listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Api {
    /// A Unix socket.
    Unix(PathBuf),
    /// `IP:PORT`
    Tcp(String),
}

/// What the API answered.
#[derive(Clone, Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// The head, one header a line.
    pub head: String,
    /// The body.
    pub body: String,
}

impl Answer {
    /// The body as JSON, null if it is none.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_default()
    }

    /// The value of a good answer; else what the problem document says, or all of the answer.
    ///
    /// # Errors
    /// The answer, in words.
    pub fn ok(&self) -> Result<Value, String> {
        if self.status == 200 {
            return Ok(self.json());
        }
        let problem = self.json();
        Err(format!("{}: {}", self.status, problem["detail"].as_str().unwrap_or(&self.body)))
    }
}

impl Api {
    /// Understands `unix:PATH` and `IP:PORT`, as the ready event writes it.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        match text.strip_prefix("unix:") {
            Some(path) => Self::Unix(Path::new(path).to_owned()),
            None => Self::Tcp(text.to_owned()),
        }
    }

    /// GET.
    ///
    /// # Errors
    /// What the API answered instead of 200, or why it didn't.
    pub fn get(&self, path: &str) -> Result<Value, String> {
        self.request("GET", path, &[], None).map_err(|error| error.to_string())?.ok()
    }

    /// POST.
    ///
    /// # Errors
    /// What the API answered instead of 200, or why it didn't.
    pub fn post(&self, path: &str, body: &Value) -> Result<Value, String> {
        self.request("POST", path, &[], Some(body)).map_err(|error| error.to_string())?.ok()
    }

    /// Any request, with any headers. `Host` is added unless given.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn request(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Option<&Value>) -> io::Result<Answer> {
        let body = body.map(Value::to_string).unwrap_or_default();
        let mut head = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
        if !body.is_empty() {
            head += "Content-Type: application/json\r\n";
        }
        if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            head += &format!("Host: {}\r\n", self.host());
        }
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        self.exchange(&format!("{head}\r\n{body}"))
    }

    fn host(&self) -> &str {
        match self {
            Self::Unix(_) => "localhost",
            Self::Tcp(address) => address,
        }
    }

    fn exchange(&self, request: &str) -> io::Result<Answer> {
        let bytes = match self {
            Self::Unix(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_read_timeout(Some(ANSWER_TIME_MAX))?;
                send_and_read(stream, request)?
            }
            Self::Tcp(address) => {
                let stream = TcpStream::connect(address)?;
                stream.set_read_timeout(Some(ANSWER_TIME_MAX))?;
                send_and_read(stream, request)?
            }
        };
        let text = String::from_utf8_lossy(&bytes).into_owned();
        parse_answer(&text).ok_or_else(|| io::Error::other(format!("not an HTTP answer: {text:?}")))
    }
}

fn send_and_read(mut stream: impl Read + Write, request: &str) -> io::Result<Vec<u8>> {
    stream.write_all(request.as_bytes())?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn parse_answer(text: &str) -> Option<Answer> {
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let is_chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    let body = if is_chunked { join_chunks(body) } else { body.to_owned() };
    Some(Answer { status, head: head.to_owned(), body })
}

/// Takes a chunked body apart (RFC 9112 section 7.1); what is cut off stays cut off.
fn join_chunks(mut rest: &str) -> String {
    let mut body = String::new();
    while let Some((size, tail)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size.split(';').next().unwrap_or_default().trim(), 16).unwrap_or(0);
        let Some(chunk) = tail.get(..size).filter(|_| size > 0) else { break };
        body += chunk;
        rest = tail.get(size + 2..).unwrap_or_default();
    }
    body
}
