//! A SIP message: read strictly, written canonically (RFC 3261 sections 7 and 20).
//!
//! Methods are open: what a user agent doesn't know it answers with 501, and it is no error of the message. Header names are kept in lower case
//! and in full length.

use std::borrow::Cow;
use std::fmt::Write as _;

use super::uri::{self, Malformed, NameAddr, Param};

/// The longest message taken, on any transport: what fits into a datagram.
pub const MESSAGE_BYTES_MAX: usize = 65_535;

/// The longest start line and headers.
pub const HEAD_BYTES_MAX: usize = 16_384;

/// Header lines taken.
const HEADERS_MAX: usize = 128;

/// What a message is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// A request.
    Request {
        /// Case matters: `INVITE`.
        method: String,
        /// The Request-URI, of any scheme.
        uri: String,
    },
    /// A response.
    Response {
        /// 100 to 699.
        status: u16,
        /// For people.
        reason: String,
    },
}

/// A header's name: one of those that are met every day costs no memory of its own.
type Name = Cow<'static, str>;

/// A message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// What it is.
    pub start: Start,
    headers: Vec<(Name, String)>,
    /// Its body.
    pub body: Vec<u8>,
}

/// Why a message isn't taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Nobody to answer to, or an answer itself: it is dropped.
    Drop(&'static str),
    /// A request that is answered with this status, without any state.
    Answer {
        /// 400, 416, 420, 505, 513.
        status: u16,
        /// What is wrong.
        reason: &'static str,
        /// As much of the request as was read, to echo in the answer.
        request: Box<Message>,
    },
}

/// One hop of `Via`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Via {
    /// `UDP`, `TCP`, `TLS`, ..
    pub transport: String,
    /// Host of its sender, as it says.
    pub host: String,
    /// Port of its sender, as it says.
    pub port: Option<u16>,
    /// Parameters.
    pub params: Vec<Param>,
}

impl Via {
    /// Reads one.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        const VIA: Malformed = Malformed("not a Via");
        let (protocol, rest) = text.split_once('/').ok_or(VIA)?;
        let (version, rest) = rest.split_once('/').ok_or(VIA)?;
        if !protocol.trim().eq_ignore_ascii_case("SIP") || version.trim() != "2.0" {
            return Err(Malformed("another protocol in Via"));
        }
        let (transport, rest) = rest.trim_start().split_once(char::is_whitespace).ok_or(VIA)?;
        if transport.is_empty() || !transport.bytes().all(uri::is_token) {
            return Err(VIA);
        }
        let rest = rest.trim_start();
        let (sent_by, rest) = rest.split_at(rest.find(';').unwrap_or(rest.len()));
        let (host, port) = uri::host_port_of(sent_by.trim())?;
        Ok(Self { transport: transport.to_ascii_uppercase(), host, port, params: uri::params(rest)? })
    }

    /// A parameter's value; empty where it has none.
    #[must_use]
    pub fn param(&self, name: &str) -> Option<&str> {
        uri::find(&self.params, name)
    }

    /// The branch, where it is one of RFC 3261 and not empty.
    #[must_use]
    pub fn branch(&self) -> Option<&str> {
        self.param("branch")
            .filter(|branch| branch.len() > 7 && branch.get(..7).is_some_and(|magic| magic.eq_ignore_ascii_case("z9hG4bK")))
    }
}

impl Message {
    /// A request without headers.
    #[must_use]
    pub fn request(method: &str, uri: &str) -> Self {
        Self { start: Start::Request { method: method.to_owned(), uri: uri.to_owned() }, headers: Vec::new(), body: Vec::new() }
    }

    /// The answer to a request: its `Via`s, `From`, `To`, `Call-ID`, `CSeq` (RFC 3261 section 8.2.6.2), and `to_tag` unless `To` has one.
    #[must_use]
    pub fn answer(request: &Self, status: u16, reason: &str, to_tag: Option<&str>) -> Self {
        let start = Start::Response { status, reason: reason.to_owned() };
        let mut answer = Self { start, headers: Vec::with_capacity(12), body: Vec::new() };
        for name in ["via", "from", "to", "call-id", "cseq"] {
            for value in request.all(name) {
                let mut value = value.to_owned();
                if name == "to"
                    && let Some(tag) = to_tag
                    && uri::header_param(&value, "tag").is_ok_and(|known| known.is_none())
                {
                    value.extend([";tag=", tag]);
                }
                answer.headers.push((Name::Borrowed(name), value));
            }
        }
        answer
    }

    /// Reads a datagram, or one message of a stream.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub fn parse(bytes: &[u8]) -> Result<Self, Refusal> {
        let (head, body) = split(bytes)?;
        let mut lines = unfold(head)?.into_iter();
        let first = lines.next().ok_or(Refusal::Drop("empty"))?;
        let (start, mut problem) = start_line(&first)?;
        let mut message = Self { start, headers: Vec::with_capacity(lines.len()), body: Vec::new() };
        for line in lines {
            if let Err(error) = message.read_header(&line) {
                problem = problem.or(Some((400, error.0)));
            }
        }
        if let Err(error) = message.read_body(body) {
            problem = problem.or(Some((400, error.0)));
        }
        if problem.is_none()
            && let Err(error) = message.check()
        {
            problem = Some((400, error.0));
        }
        match problem {
            None => Ok(message),
            Some((status, reason)) => Err(message.refused(status, reason)),
        }
    }

    fn refused(self, status: u16, reason: &'static str) -> Refusal {
        let is_answerable = self.is_request() && self.method() != "ACK" && self.get("via").is_some();
        match is_answerable {
            true => Refusal::Answer { status, reason, request: Box::new(self) },
            false => Refusal::Drop(reason),
        }
    }

    fn read_header(&mut self, line: &str) -> Result<(), Malformed> {
        let (name, value) = line.split_once(':').ok_or(Malformed("a header without a colon"))?;
        let name = name.trim_end();
        if name.is_empty() || !name.bytes().all(uri::is_token) {
            return Err(Malformed("a header's name with such characters"));
        }
        if self.headers.len() == HEADERS_MAX {
            return Err(Malformed("too many headers"));
        }
        self.headers.push((full_name(name), value.trim().to_owned()));
        Ok(())
    }

    /// RFC 3261 section 18.3: without `Content-Length` all of a datagram; never more than there is.
    fn read_body(&mut self, body: &[u8]) -> Result<(), Malformed> {
        let mut lengths = self.all("content-length");
        let length =
            lengths.next().map(|text| text.parse::<usize>().map_err(|_| Malformed("not a Content-Length"))).transpose()?;
        if lengths.next().is_some() {
            return Err(Malformed("more than one Content-Length"));
        }
        drop(lengths);
        let length = length.unwrap_or(body.len());
        self.body = body.get(..length).ok_or(Malformed("Content-Length is more than there is"))?.to_vec();
        Ok(())
    }

    /// What every message must have, and what it may have once (RFC 3261 sections 8.1.1 and 20).
    fn check(&self) -> Result<(), Malformed> {
        for name in ["from", "to", "call-id", "cseq"] {
            if self.all(name).count() != 1 {
                return Err(Malformed("From, To, Call-ID and CSeq must be there once"));
            }
        }
        for name in ["max-forwards", "content-type", "date", "expires"] {
            if self.all(name).count() > 1 {
                return Err(Malformed("a header is there twice"));
            }
        }
        self.vias()?;
        NameAddr::parse(self.get("from").unwrap_or_default())?;
        NameAddr::parse(self.get("to").unwrap_or_default())?;
        self.contacts()?;
        if !self.get("call-id").is_some_and(|id| !id.is_empty() && !id.contains(char::is_whitespace)) {
            return Err(Malformed("not a Call-ID"));
        }
        if let Some(text) = self.get("max-forwards") {
            text.parse::<u8>().map_err(|_| Malformed("not a Max-Forwards"))?;
        }
        if self.get("date").is_some_and(|date| !date.ends_with("GMT")) {
            return Err(Malformed("not a date: they are in GMT"));
        }
        let (_, method) = self.cseq()?;
        if self.is_request() && method != self.method() {
            return Err(Malformed("CSeq names another method"));
        }
        Ok(())
    }

    /// Whether it is a request.
    #[must_use]
    pub const fn is_request(&self) -> bool {
        matches!(self.start, Start::Request { .. })
    }

    /// The method of a request, or of the request that is answered.
    #[must_use]
    pub fn method(&self) -> &str {
        match &self.start {
            Start::Request { method, .. } => method,
            Start::Response { .. } => self.get("cseq").and_then(|cseq| cseq.split_whitespace().nth(1)).unwrap_or_default(),
        }
    }

    /// The Request-URI; empty for a response.
    #[must_use]
    pub fn request_uri(&self) -> &str {
        match &self.start {
            Start::Request { uri, .. } => uri,
            Start::Response { .. } => "",
        }
    }

    /// The words beside the status; empty for a request.
    #[must_use]
    pub fn reason(&self) -> &str {
        match &self.start {
            Start::Response { reason, .. } => reason,
            Start::Request { .. } => "",
        }
    }

    /// The status; 0 for a request.
    #[must_use]
    pub const fn status(&self) -> u16 {
        match &self.start {
            Start::Request { .. } => 0,
            Start::Response { status, .. } => *status,
        }
    }

    /// A header's first value. Names are in lower case and full length.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    /// A header's values, one for each line.
    pub fn all<'a, 'n>(&'a self, name: &'n str) -> impl Iterator<Item = &'a str> + use<'a, 'n> {
        self.headers.iter().filter(move |(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// A header's values, those in one line taken apart at its commas.
    #[must_use]
    pub fn list(&self, name: &str) -> Vec<&str> {
        self.all(name).flat_map(split_list).collect()
    }

    /// Whether a list of tokens has this one, whatever its case.
    #[must_use]
    pub fn lists(&self, name: &str, token: &str) -> bool {
        self.list(name).iter().any(|listed| listed.eq_ignore_ascii_case(token))
    }

    /// Adds a header at the end. `name` in lower case.
    pub fn add(&mut self, name: &str, value: impl Into<String>) {
        self.headers.push((named(name), value.into()));
    }

    /// Adds a header before all others.
    pub fn add_first(&mut self, name: &str, value: impl Into<String>) {
        self.headers.insert(0, (named(name), value.into()));
    }

    /// Replaces all of a header's values.
    pub fn set(&mut self, name: &str, value: impl Into<String>) {
        self.remove(name);
        self.add(name, value);
    }

    /// Sends a request to somebody else; a response is left as it is.
    pub fn set_request_uri(&mut self, to: &str) {
        if let Start::Request { uri, .. } = &mut self.start {
            to.clone_into(uri);
        }
    }

    /// Removes a header.
    pub fn remove(&mut self, name: &str) {
        self.headers.retain(|(known, _)| known != name);
    }

    /// Adds a body of this type.
    #[must_use]
    pub fn with_body(mut self, content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        self.set("content-type", content_type);
        self.body = body.into();
        self
    }

    /// All hops.
    ///
    /// # Errors
    /// [`Malformed`], also if there is none.
    pub fn vias(&self) -> Result<Vec<Via>, Malformed> {
        let vias: Vec<Via> = self.list("via").into_iter().map(Via::parse).collect::<Result<_, _>>()?;
        if vias.is_empty() { Err(Malformed("no Via")) } else { Ok(vias) }
    }

    /// The topmost hop: who sent it.
    #[must_use]
    pub fn via(&self) -> Option<Via> {
        let first = self.get("via")?;
        Via::parse(split_list(first).first()?).ok()
    }

    /// Branch, host and port of the topmost hop, where it is written as plainly as nearly all are and has a branch of RFC 3261; else [`Message::via`] has them.
    #[must_use]
    pub(super) fn plain_via(&self) -> Option<(&str, &str, u16)> {
        let rest = self.get("via")?.strip_prefix("SIP/2.0/")?;
        let (_, rest) = rest.split_once(' ')?;
        if rest.contains([' ', '\t', ',', '"', '[']) {
            return None;
        }
        let mut parts = rest.split(';');
        let (host, port) = parts.next()?.split_once(':')?;
        let branch = parts.find_map(|part| part.strip_prefix("branch="))?;
        let is_plain = !host.is_empty() && !host.bytes().any(|b| b.is_ascii_uppercase());
        let has_magic = branch.len() > 7 && branch.starts_with("z9hG4bK");
        Some((branch, host, port.parse().ok()?)).filter(|_| is_plain && has_magic)
    }

    /// Who it is from, as they say.
    #[must_use]
    pub fn from(&self) -> Option<NameAddr> {
        self.get("from").and_then(|text| NameAddr::parse(text).ok())
    }

    /// Whom it is to.
    #[must_use]
    pub fn to(&self) -> Option<NameAddr> {
        self.get("to").and_then(|text| NameAddr::parse(text).ok())
    }

    /// `From`'s tag; empty without.
    #[must_use]
    pub fn from_tag(&self) -> String {
        self.tag("from").unwrap_or_default()
    }

    /// `To`'s tag.
    #[must_use]
    pub fn to_tag(&self) -> Option<String> {
        self.tag("to")
    }

    fn tag(&self, name: &str) -> Option<String> {
        uri::header_param(self.get(name)?, "tag").ok().flatten()
    }

    /// The Call-ID.
    #[must_use]
    pub fn call_id(&self) -> &str {
        self.get("call-id").unwrap_or_default()
    }

    /// The addresses of `Contact`; `*` is left out.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn contacts(&self) -> Result<Vec<NameAddr>, Malformed> {
        self.list("contact").into_iter().filter(|text| *text != "*").map(NameAddr::parse).collect()
    }

    /// Number and method of `CSeq`; the number is below 2^31 (RFC 3261 section 8.1.1.5).
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn cseq(&self) -> Result<(u32, &str), Malformed> {
        const CSEQ: Malformed = Malformed("not a CSeq");
        let (number, method) = self.get("cseq").and_then(|text| text.split_once(char::is_whitespace)).ok_or(CSEQ)?;
        let number: u32 = number.parse().map_err(|_| CSEQ)?;
        let method = method.trim();
        if number >= 1 << 31 || method.is_empty() || !method.bytes().all(uri::is_token) {
            return Err(CSEQ);
        }
        Ok((number, method))
    }

    /// The number of seconds in a header such as `Expires`; more than 32 bits count as the most.
    #[must_use]
    pub fn seconds(&self, name: &str) -> Option<u32> {
        seconds(self.get(name)?)
    }

    /// The message as it is sent, `Content-Length` included.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut head = match &self.start {
            Start::Request { method, uri } => format!("{method} {uri} SIP/2.0\r\n"),
            Start::Response { status, reason } => format!("SIP/2.0 {status} {reason}\r\n"),
        };
        head.reserve(self.headers.iter().map(|(name, value)| name.len() + value.len() + 4).sum::<usize>() + 32 + self.body.len());
        for (name, value) in self.headers.iter().filter(|(name, _)| name != "content-length") {
            show_name(&mut head, name);
            head.extend([": ", value.as_str(), "\r\n"]);
        }
        let _ = write!(head, "Content-Length: {}\r\n\r\n", self.body.len());
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(&self.body);
        bytes
    }
}

/// The bytes that the first message of a stream has, once its head is whole: `None` while it isn't (RFC 3261 section 18.3).
///
/// # Errors
/// [`Refusal::Drop`]: a head too long, or no `Content-Length`, without which a stream can't go on.
pub fn stream_length(bytes: &[u8]) -> Result<Option<usize>, Refusal> {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
        return if bytes.len() > HEAD_BYTES_MAX { Err(Refusal::Drop("a head too long")) } else { Ok(None) };
    };
    let mut length = None;
    for line in unfold(&bytes[..end.min(HEAD_BYTES_MAX)])? {
        if let Some((name, value)) = line.split_once(':')
            && full_name(name.trim_end()) == "content-length"
        {
            length = value.trim().parse::<usize>().ok().filter(|length| *length <= MESSAGE_BYTES_MAX);
        }
    }
    match length {
        Some(length) if end <= HEAD_BYTES_MAX => Ok(Some(end + 4 + length)),
        _ => Err(Refusal::Drop("a stream without Content-Length")),
    }
}

/// A number of seconds; more than 32 bits count as the most.
#[must_use]
pub fn seconds(text: &str) -> Option<u32> {
    let digits = text.trim();
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some(digits.parse().unwrap_or(u32::MAX))
}

/// Head and body.
fn split(bytes: &[u8]) -> Result<(&[u8], &[u8]), Refusal> {
    let start = bytes.iter().position(|b| *b != b'\r' && *b != b'\n').ok_or(Refusal::Drop("empty"))?;
    let bytes = &bytes[start..];
    let (head, body) = match bytes.windows(4).position(|four| four == b"\r\n\r\n") {
        Some(end) => (&bytes[..end], &bytes[end + 4..]),
        None => (bytes, &[][..]),
    };
    if head.len() > HEAD_BYTES_MAX || bytes.len() > MESSAGE_BYTES_MAX {
        return Err(Refusal::Drop("too long"));
    }
    Ok((head, body))
}

/// The lines, those that go on in the next joined with it (RFC 3261 section 7.3.1).
fn unfold(head: &[u8]) -> Result<Vec<Cow<'_, str>>, Refusal> {
    const HALF: Refusal = Refusal::Drop("a line that ends in half");
    let text = std::str::from_utf8(head).map_err(|_| Refusal::Drop("not text"))?;
    let mut lines: Vec<Cow<'_, str>> = Vec::with_capacity(24);
    let mut rest = Some(text.trim_end_matches(['\r', '\n']));
    while let Some(text) = rest {
        let (line, after) = match text.split_once('\n') {
            Some((line, after)) => (line.strip_suffix('\r').ok_or(HALF)?, Some(after)),
            None => (text, None),
        };
        if line.contains('\r') {
            return Err(HALF);
        }
        match lines.last_mut() {
            Some(last) if line.starts_with([' ', '\t']) => last.to_mut().extend([" ", line.trim()]),
            _ => lines.push(Cow::Borrowed(line)),
        }
        rest = after;
    }
    Ok(lines)
}

/// What a refused message is answered with, and why.
type Problem = (u16, &'static str);

/// The start line. What is wrong with a request's is told later, once there are headers to answer with.
fn start_line(line: &str) -> Result<(Start, Option<Problem>), Refusal> {
    if let Some(rest) = line.strip_prefix("SIP/2.0 ") {
        let (code, reason) = rest.split_once(' ').ok_or(Refusal::Drop("a response without a reason"))?;
        let status = code.parse().ok().filter(|status| code.len() == 3 && (100..700).contains(status));
        let status = status.ok_or(Refusal::Drop("not a status"))?;
        return Ok((Start::Response { status, reason: reason.to_owned() }, None));
    }
    let (method, rest) = line.split_once(' ').ok_or(Refusal::Drop("not SIP"))?;
    let trimmed = rest.trim_end();
    let (uri, version) = trimmed.rsplit_once(' ').ok_or(Refusal::Drop("not SIP"))?;
    if method.is_empty() || !method.bytes().all(uri::is_token) || !version.starts_with("SIP/") {
        return Err(Refusal::Drop("not SIP"));
    }
    let problem =
        request_problem(uri, version).or((trimmed.len() != rest.len()).then_some((400, "white space after the start line")));
    Ok((Start::Request { method: method.to_owned(), uri: uri.trim().to_owned() }, problem))
}

fn request_problem(uri: &str, version: &str) -> Option<Problem> {
    if version != "SIP/2.0" {
        return Some((505, "only SIP/2.0 is spoken here"));
    }
    if uri.is_empty() || uri.contains(|c: char| c.is_whitespace() || "<>\"".contains(c)) {
        return Some((400, "not a Request-URI"));
    }
    let scheme = uri.split(':').next().unwrap_or_default().to_ascii_lowercase();
    match scheme.as_str() {
        "sip" | "sips" => match uri::SipUri::parse(uri) {
            Ok(parsed) if parsed.headers.is_some() => Some((400, "a Request-URI has no headers")),
            Ok(_) => None,
            Err(error) => Some((400, error.0)),
        },
        "tel" => None,
        _ => Some((416, "another scheme than sip, sips and tel")),
    }
}

/// Takes a list apart at its commas, those in quotes and angle brackets left alone.
fn split_list(text: &str) -> Vec<&str> {
    if !text.contains(',') {
        return vec![text.trim()];
    }
    let (mut parts, mut start, mut in_quotes, mut in_angle, mut escaped) = (Vec::new(), 0, false, false, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_quotes => escaped = true,
            b'"' => in_quotes = !in_quotes,
            b'<' if !in_quotes => in_angle = true,
            b'>' if !in_quotes => in_angle = false,
            b',' if !in_quotes && !in_angle => {
                parts.push(text[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(text[start..].trim());
    parts
}

/// A name in lower case, the compact forms in full (RFC 3261 section 7.3.3 and the registry of later ones).
fn full_name(name: &str) -> Name {
    let mut lower = [0; NAME_BYTES_MAX];
    let Some(lower) = lower.get_mut(..name.len()) else { return Name::Owned(name.to_ascii_lowercase()) };
    lower.copy_from_slice(name.as_bytes());
    lower.make_ascii_lowercase();
    let known = std::str::from_utf8(lower).ok().and_then(|name| compact(name).or_else(|| common(name)));
    known.map_or_else(|| Name::Owned(name.to_ascii_lowercase()), Name::Borrowed)
}

/// The longest name in [`common`].
const NAME_BYTES_MAX: usize = 20;

fn named(name: &str) -> Name {
    common(name).map_or_else(|| Name::Owned(name.to_owned()), Name::Borrowed)
}

fn compact(name: &str) -> Option<&'static str> {
    Some(match name {
        "a" => "accept-contact",
        "b" => "referred-by",
        "c" => "content-type",
        "d" => "request-disposition",
        "e" => "content-encoding",
        "f" => "from",
        "i" => "call-id",
        "j" => "reject-contact",
        "k" => "supported",
        "l" => "content-length",
        "m" => "contact",
        "o" => "event",
        "r" => "refer-to",
        "s" => "subject",
        "t" => "to",
        "u" => "allow-events",
        "v" => "via",
        "x" => "session-expires",
        "y" => "identity",
        _ => return None,
    })
}

/// Names that most messages have.
fn common(name: &str) -> Option<&'static str> {
    const NAMES: [&str; 28] = [
        "via",
        "from",
        "to",
        "call-id",
        "cseq",
        "contact",
        "max-forwards",
        "content-length",
        "content-type",
        "user-agent",
        "server",
        "expires",
        "authorization",
        "proxy-authorization",
        "www-authenticate",
        "proxy-authenticate",
        "date",
        "allow",
        "accept",
        "supported",
        "require",
        "event",
        "route",
        "record-route",
        "p-asserted-identity",
        "subscription-state",
        "allow-events",
        "session-expires",
    ];
    NAMES.into_iter().find(|known| *known == name)
}

/// Writes a name as people write it: some old phones compare with case.
fn show_name(head: &mut String, name: &str) {
    let special = match name {
        "call-id" => "Call-ID",
        "cseq" => "CSeq",
        "www-authenticate" => "WWW-Authenticate",
        "mime-version" => "MIME-Version",
        "min-se" => "Min-SE",
        "sip-etag" => "SIP-ETag",
        "sip-if-match" => "SIP-If-Match",
        _ => "",
    };
    if !special.is_empty() {
        return head.push_str(special);
    }
    for (at, part) in name.split('-').enumerate() {
        if at > 0 {
            head.push('-');
        }
        let mut letters = part.chars();
        head.extend(letters.next().map(|first| first.to_ascii_uppercase()));
        head.push_str(letters.as_str());
    }
}
