//! A user agent with one account at somebody else's server, for as long as something takes: it registers, says something by MESSAGE (RFC 3428), and takes what is said to it. Nobody can call it.
//!
//! ```text
//! agent                        server
//! REGISTER  ---------------->          and again with credentials, if it asks for them
//!           <----------------  MESSAGE
//! 200       ---------------->          whatever it says: that is for the owner to judge
//! ```
//!
//! Without TLS only a server on this machine is spoken to. Names are looked up as hosts; SRV records aren't.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use halloo_protocol::sip::client::{AuthError, ClientAuth};
use halloo_protocol::sip::message::Message;
use halloo_protocol::sip::status::reason_of;
use halloo_protocol::sip::transaction::{ClientId, Flow, Output, Transactions};
use halloo_protocol::sip::uri::{escape_user, host_port_of};
use rustls::pki_types::ServerName;
use tokio::sync::mpsc;
use tracing::debug;
use zeroize::Zeroizing;

use super::dialog::{USER_AGENT, contact, token};
use super::transport::{Incoming, Transports};

/// How long a server may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// Addresses of a server's name that are tried, and how long all of that may take.
const ADDRESSES_MAX: usize = 8;
const CONNECT_MAX: Duration = Duration::from_secs(20);

/// What was said and isn't taken yet; more is answered and thrown away.
const TEXTS_MAX: usize = 8;

/// Longest text taken of a message.
const TEXT_BYTES_MAX: usize = 2_048;

/// Requests of the server's in one second; more are dropped unanswered.
const REQUESTS_PER_SECOND: u32 = 20;

/// An account, and how its server is reached.
#[derive(Clone)]
pub(crate) struct AgentParams {
    /// `alice` of `alice@sip.example.org`
    pub(crate) user: String,
    /// `sip.example.org`, with a port if the address has one.
    pub(crate) domain: String,
    /// `HOST:PORT`, if it isn't the domain's own host.
    pub(crate) server: Option<String>,
    /// Without TLS.
    pub(crate) is_plain: bool,
    pub(crate) roots: Option<PathBuf>,
    /// The name that goes with the password, if it is another than `user`.
    pub(crate) auth_user: Option<String>,
    pub(crate) password: Zeroizing<String>,
}

impl std::fmt::Debug for AgentParams {
    /// Leaves out what is secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AgentParams").field("domain", &self.domain).field("server", &self.server).finish_non_exhaustive()
    }
}

/// Why something didn't work at a server.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AgentError {
    /// There is no way to it.
    #[error("{0}")]
    Way(String),
    /// It doesn't answer.
    #[error("it doesn't answer")]
    NoAnswer,
    /// It doesn't take the credentials.
    #[error("{0}")]
    Denied(#[from] AuthError),
    /// It has refused.
    #[error("it answers {status} {reason}")]
    Refused {
        /// The status.
        status: u16,
        /// What it says of it.
        reason: String,
    },
}

/// The agent. Dropped, it is gone without a word.
#[derive(Debug)]
pub(crate) struct Agent {
    transports: Transports,
    incoming: mpsc::Receiver<Incoming>,
    transactions: Transactions,
    flow: Flow,
    local: SocketAddr,
    auth: ClientAuth,
    user: String,
    domain: String,
    /// Of the registration.
    call_id: String,
    tag: String,
    cseq: u32,
    texts: VecDeque<String>,
    /// The second, and requests in it.
    counted: (Instant, u32),
}

enum Step {
    Response(ClientId, Box<Message>),
    TimedOut(ClientId),
    /// Something came, or a time has come.
    Other,
}

impl Agent {
    /// Connects.
    ///
    /// # Errors
    /// [`AgentError::Way`].
    pub(crate) async fn connect(params: &AgentParams) -> Result<Self, AgentError> {
        let connect = tokio::time::timeout(CONNECT_MAX, Self::open(params));
        connect.await.map_err(|_elapsed| AgentError::NoAnswer)?.map_err(AgentError::Way)
    }

    async fn open(params: &AgentParams) -> Result<Self, String> {
        let server = params.server.as_ref().unwrap_or(&params.domain);
        let (host, port) = host_port_of(server).map_err(|error| format!("{server}: {error}"))?;
        let host = host.trim_matches(['[', ']']).to_owned();
        let port = port.unwrap_or(if params.is_plain { 5_060 } else { 5_061 });
        let tls = if params.is_plain {
            None
        } else {
            let name = ServerName::try_from(host.clone()).map_err(|_| format!("{host}: no name that a certificate proves"))?;
            Some((crate::mail::connector(params.roots.as_deref())?, name))
        };
        let found = tokio::net::lookup_host((host.as_str(), port)).await.map_err(|error| format!("{host}: {error}"))?;
        let (transports, incoming) = Transports::new();
        let connector = transports.connector();
        let mut last = format!("{host}: no address");
        for peer in found.take(ADDRESSES_MAX) {
            if params.is_plain && !peer.ip().is_loopback() {
                last = format!("{host}: without TLS only a server on this machine is spoken to");
                continue;
            }
            match connector.connect(peer, tls.clone()).await {
                Ok(flow) => {
                    let local = transports.local(flow).ok_or("the connection is gone")?;
                    return Ok(Self::new(params, transports, incoming, (flow, local)));
                }
                Err(error) => last = format!("{peer}: {error}"),
            }
        }
        Err(last)
    }

    fn new(
        params: &AgentParams,
        transports: Transports,
        incoming: mpsc::Receiver<Incoming>,
        (flow, local): (Flow, SocketAddr),
    ) -> Self {
        Self {
            transports,
            incoming,
            transactions: Transactions::new(),
            flow,
            local,
            auth: ClientAuth::new(params.auth_user.as_ref().unwrap_or(&params.user), &params.password),
            user: params.user.clone(),
            domain: params.domain.clone(),
            call_id: format!("{}@halloo", token()),
            tag: token(),
            cseq: 0,
            texts: VecDeque::new(),
            counted: (Instant::now(), 0),
        }
    }

    /// Has what is said to the account come here, for so many seconds; 0: no more.
    ///
    /// # Errors
    /// [`AgentError`].
    pub(crate) async fn register(&mut self, secs: u32) -> Result<(), AgentError> {
        let own = self.own_address();
        let (call_id, tag) = (self.call_id.clone(), self.tag.clone());
        let contact = contact(&self.user, self.local, self.flow);
        self.ask_with_credentials(|cseq, domain| {
            let mut request = Message::request("REGISTER", &format!("sip:{domain}"));
            request.add("from", format!("<{own}>;tag={tag}"));
            request.add("to", format!("<{own}>"));
            request.add("call-id", call_id.as_str());
            request.add("cseq", format!("{cseq} REGISTER"));
            request.add("contact", contact.as_str());
            request.add("expires", secs.to_string());
            request
        })
        .await
    }

    /// Says something to an address of SIP.
    ///
    /// # Errors
    /// [`AgentError`].
    pub(crate) async fn send_message(&mut self, to: &str, text: &str) -> Result<(), AgentError> {
        let (own, call_id, tag) = (self.own_address(), format!("{}@halloo", token()), token());
        self.ask_with_credentials(|cseq, _| {
            let mut request = Message::request("MESSAGE", to);
            request.add("from", format!("<{own}>;tag={tag}"));
            request.add("to", format!("<{to}>"));
            request.add("call-id", call_id.as_str());
            request.add("cseq", format!("{cseq} MESSAGE"));
            request.with_body("text/plain;charset=UTF-8", text)
        })
        .await
    }

    /// What is said to the account next. May be dropped at any time.
    ///
    /// # Errors
    /// [`AgentError::Way`]: the connection is gone.
    pub(crate) async fn next_message(&mut self) -> Result<String, AgentError> {
        loop {
            if let Some(text) = self.texts.pop_front() {
                return Ok(text);
            }
            self.step(None).await?;
        }
    }

    fn own_address(&self) -> String {
        format!("sip:{}@{}", escape_user(&self.user), self.domain)
    }

    /// Asks until the server asks for no credentials any more, and gives what comes of it.
    async fn ask_with_credentials(&mut self, request: impl Fn(u32, &str) -> Message) -> Result<(), AgentError> {
        // Two tries with credentials: the second where the nonce was over.
        for _ in 0..3 {
            self.cseq += 1;
            let mut asked = request(self.cseq, &self.domain);
            asked.add("max-forwards", "70");
            asked.add("user-agent", USER_AGENT);
            let has_credentials = self.auth.authorize(&mut asked, &token());
            let answer = self.ask(asked).await?;
            match answer.status() {
                200..=299 => return Ok(()),
                401 | 407 => self.auth.challenged(&answer, has_credentials)?,
                status => {
                    let reason = answer.reason().chars().filter(|c| !c.is_control()).take(100).collect();
                    return Err(AgentError::Refused { status, reason });
                }
            }
        }
        Err(AuthError::Wrong.into())
    }

    /// The final answer to a request.
    async fn ask(&mut self, mut request: Message) -> Result<Message, AgentError> {
        let via = format!("SIP/2.0/{} {};branch=z9hG4bK{};rport", self.flow.transport.name(), self.local, token());
        request.add_first("via", via);
        let until = Instant::now() + ANSWER_MAX;
        let id = self.transactions.request(request, self.flow, Instant::now()).ok_or(AgentError::NoAnswer)?;
        loop {
            match self.step(Some(until)).await? {
                Step::Response(of, answer) if of == id && answer.status() >= 200 => return Ok(*answer),
                Step::TimedOut(of) if of == id => return Err(AgentError::NoAnswer),
                _ if Instant::now() >= until => {
                    self.transactions.abandon(id);
                    return Err(AgentError::NoAnswer);
                }
                _ => {}
            }
        }
    }

    /// Does what is due, or waits for something to do. May be dropped while it waits.
    async fn step(&mut self, until: Option<Instant>) -> Result<Step, AgentError> {
        while let Some(output) = self.transactions.poll_output() {
            match output {
                Output::Send(flow, bytes) => self.transports.send(flow, bytes),
                Output::Response(id, answer) => return Ok(Step::Response(id, Box::new(answer))),
                Output::TimedOut(id) => return Ok(Step::TimedOut(id)),
                Output::Cancelled(_) | Output::Unacknowledged(_) => {}
            }
        }
        let wake = [until, self.transactions.poll_timeout()].into_iter().flatten().min();
        let sleep = async {
            match wake {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            incoming = self.incoming.recv() => match incoming {
                Some(Incoming::Message(flow, bytes)) if flow == self.flow => self.take(&bytes),
                Some(Incoming::Closed(flow)) if flow == self.flow => {
                    return Err(AgentError::Way("the connection is gone".to_owned()));
                }
                Some(_) => {}
                None => return Err(AgentError::Way("the connection is gone".to_owned())),
            },
            () = sleep => self.transactions.handle_timeout(Instant::now()),
        }
        Ok(Step::Other)
    }

    fn take(&mut self, bytes: &[u8]) {
        let message = match Message::parse(bytes) {
            Ok(message) => message,
            Err(error) => return debug!(?error, "what a SIP server sends can't be read"),
        };
        let now = Instant::now();
        let Some(request) = self.transactions.receive(message, self.flow, now) else { return };
        if now.duration_since(self.counted.0) >= Duration::from_secs(1) {
            self.counted = (now, 0);
        }
        self.counted.1 += 1;
        if request.method() == "ACK" || self.counted.1 > REQUESTS_PER_SECOND {
            return;
        }
        let status = self.judge(&request);
        let Some(id) = self.transactions.accept(&request, self.flow, now) else { return };
        let mut answer = Message::answer(&request, status, reason_of(status), Some(&token()));
        if matches!(status, 200 | 405) {
            answer.add("allow", "MESSAGE, OPTIONS");
        }
        answer.add("server", USER_AGENT);
        self.transactions.respond(id, &answer, now);
    }

    /// What a request is answered, and what it says if it says something.
    fn judge(&mut self, request: &Message) -> u16 {
        match request.method() {
            _ if request.to_tag().is_some() => 481,
            "MESSAGE" => {
                let kind = request.get("content-type").unwrap_or_default().split(';').next().unwrap_or_default().trim();
                let Some(text) = std::str::from_utf8(&request.body).ok().filter(|_| kind.eq_ignore_ascii_case("text/plain"))
                else {
                    return 415;
                };
                if self.texts.len() < TEXTS_MAX && text.len() <= TEXT_BYTES_MAX {
                    self.texts.push_back(text.to_owned());
                }
                200
            }
            "OPTIONS" => 200,
            "INVITE" => 486,
            "BYE" | "CANCEL" | "UPDATE" | "PRACK" | "INFO" | "NOTIFY" | "REFER" => 481,
            _ => 405,
        }
    }
}

#[cfg(test)]
impl AgentParams {
    /// Alice's account at a server of a test, by TCP without TLS.
    pub(crate) fn for_test(server: std::net::SocketAddr) -> Self {
        Self {
            user: "alice".into(),
            domain: "sip.example".into(),
            server: Some(server.to_string()),
            is_plain: true,
            roots: None,
            auth_user: None,
            password: Zeroizing::new("pencil".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    async fn agent() -> (Agent, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let params = AgentParams::for_test(listener.local_addr().unwrap());
        assert!(!format!("{params:?}").contains("pencil"));
        let (agent, accepted) = tokio::join!(Agent::connect(&params), listener.accept());
        (agent.unwrap(), accepted.unwrap().0)
    }

    async fn read(stream: &mut TcpStream) -> Message {
        let mut bytes = Vec::new();
        loop {
            match halloo_protocol::sip::message::stream_length(&bytes).unwrap() {
                Some(length) if length <= bytes.len() => return Message::parse(&bytes[..length]).unwrap(),
                _ => assert_ne!(stream.read_buf(&mut bytes).await.unwrap(), 0, "it has gone on"),
            }
        }
    }

    async fn answer(stream: &mut TcpStream, status: u16, more: &[(&str, &str)]) -> Message {
        let request = read(stream).await;
        let mut answer = Message::answer(&request, status, "Words", Some("there"));
        more.iter().for_each(|(name, value)| answer.add(name, *value));
        stream.write_all(&answer.to_bytes()).await.unwrap();
        request
    }

    fn from_server(method: &str, number: u32, kind: &str, text: &str) -> Message {
        let mut request = Message::request(method, "sip:alice@127.0.0.1");
        request.add("via", format!("SIP/2.0/TCP 127.0.0.1;branch=z9hG4bK{number}"));
        request.add("from", "<sip:codes@sip.example>;tag=x");
        request.add("to", "<sip:alice@sip.example>");
        request.add("call-id", format!("c{number}"));
        request.add("cseq", format!("1 {method}"));
        request.with_body(kind, text)
    }

    #[tokio::test]
    async fn it_registers_with_credentials_and_takes_messages_alone() {
        let (mut agent, mut server) = agent().await;
        let challenge = [("www-authenticate", "Digest realm=\"sip.example\", nonce=\"n\", qop=\"auth\", algorithm=SHA-256")];
        let serve = async move {
            let first = answer(&mut server, 401, &challenge).await;
            let second = answer(&mut server, 200, &[]).await;
            for (number, method, kind, text, status) in [
                (1, "INVITE", "application/sdp", "v=0", 486),
                (2, "SUBSCRIBE", "text/plain", "", 405),
                (3, "MESSAGE", "text/html", "<b>01234567</b>", 415),
                (4, "BYE", "text/plain", "", 481),
                (5, "OPTIONS", "text/plain", "", 200),
                (6, "MESSAGE", "text/plain; charset=utf-8", "the code is 01234567", 200),
            ] {
                server.write_all(&from_server(method, number, kind, text).to_bytes()).await.unwrap();
                assert_eq!(read(&mut server).await.status(), status, "{method}");
            }
            (first, second)
        };
        let took = async move {
            agent.register(300).await.unwrap();
            let text = agent.next_message().await.unwrap();
            // Its last answer is sent when it goes on.
            let _waits = tokio::time::timeout(Duration::from_secs(60), agent.next_message()).await;
            text
        };
        let ((first, second), text) = tokio::join!(serve, took);
        assert!(first.get("authorization").is_none() && first.request_uri() == "sip:sip.example");
        let credentials = second.get("authorization").expect("credentials");
        assert!(credentials.contains("SHA-256") && !credentials.contains("pencil"), "{credentials}");
        assert_eq!((second.get("expires"), text.as_str()), (Some("300"), "the code is 01234567"));
    }

    #[tokio::test]
    async fn refusals_and_wrong_passwords_are_told() {
        let (mut agent, mut server) = agent().await;
        let (sent, asked) = tokio::join!(agent.send_message("sip:bob@sip.example", "hi"), answer(&mut server, 404, &[]));
        assert!(matches!(sent, Err(AgentError::Refused { status: 404, .. })), "{sent:?}");
        assert_eq!((asked.method(), asked.request_uri(), &asked.body[..]), ("MESSAGE", "sip:bob@sip.example", &b"hi"[..]));
        let challenge = [("www-authenticate", "Digest realm=\"r\", nonce=\"n\", qop=\"auth\"")];
        let challenged = async {
            answer(&mut server, 401, &challenge).await;
            answer(&mut server, 401, &challenge).await;
        };
        let (registered, ()) = tokio::join!(agent.register(60), challenged);
        assert!(matches!(registered, Err(AgentError::Denied(AuthError::Wrong))), "{registered:?}");
        drop(server);
        assert!(matches!(agent.next_message().await, Err(AgentError::Way(_))));
    }

    #[tokio::test]
    async fn without_tls_nobody_else_is_spoken_to() {
        let params = AgentParams {
            user: "alice".into(),
            domain: "192.0.2.1".into(),
            server: None,
            is_plain: true,
            roots: None,
            auth_user: None,
            password: Zeroizing::default(),
        };
        let error = Agent::connect(&params).await.unwrap_err().to_string();
        assert!(error.contains("without TLS"), "{error}");
    }
}
