//! A SIP client, over UDP, TCP or TLS, that says exactly what it is told to, well-formed or not.

use std::cell::RefCell;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use halloo_protocol::sip::digest::Challenge;
use halloo_protocol::sip::message::{Message, stream_length};

use crate::phone::PhoneAccount;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// One socket, and who it may log in as.
#[derive(Debug)]
pub struct SipClient {
    socket: Socket,
    server: SocketAddr,
    account: PhoneAccount,
    cseq: u32,
}

/// How it is connected.
#[derive(Debug)]
enum Socket {
    Udp(UdpSocket),
    /// And what came after the last message.
    Tcp(TcpStream, RefCell<Vec<u8>>),
    /// The same encrypted, through OpenSSL.
    Tls(OpenSsl),
}

/// `openssl s_client`, which passes on what it is told; ended when dropped.
#[derive(Debug)]
struct OpenSsl {
    stream: UnixStream,
    unread: RefCell<Vec<u8>>,
    process: Child,
}

impl Drop for OpenSsl {
    fn drop(&mut self) {
        let _gone = self.process.kill();
        let _reaped = self.process.wait();
    }
}

/// How long a look at the socket takes.
const LOOK: Option<Duration> = Some(Duration::from_millis(100));

impl SipClient {
    /// One that keeps a connection.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn over_tcp(account: &PhoneAccount) -> Self {
        let stream = TcpStream::connect(account.address()).expect("the edge listens");
        stream.set_read_timeout(LOOK).expect("a socket");
        Self { socket: Socket::Tcp(stream, RefCell::default()), server: account.address(), account: account.clone(), cseq: 0 }
    }

    /// One that keeps an encrypted connection; whose certificate is shown doesn't matter to it.
    ///
    /// # Panics
    /// If OpenSSL isn't there.
    #[must_use]
    pub fn over_tls(account: &PhoneAccount) -> Self {
        let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
        ours.set_read_timeout(LOOK).expect("a socket");
        let mut command = Command::new("openssl");
        command.args(["s_client", "-quiet", "-connect", &account.address().to_string()]);
        command.stdin(OwnedFd::from(theirs.try_clone().expect("a socket"))).stdout(OwnedFd::from(theirs)).stderr(Stdio::null());
        let process = command.spawn().expect("openssl runs");
        let socket = Socket::Tls(OpenSsl { stream: ours, unread: RefCell::default(), process });
        Self { socket, server: account.address(), account: account.clone(), cseq: 0 }
    }

    /// A client of this account's edge.
    ///
    /// # Panics
    /// If there is no socket.
    #[must_use]
    pub fn new(account: &PhoneAccount) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        socket.set_read_timeout(LOOK).expect("a socket");
        Self { socket: Socket::Udp(socket), server: account.address(), account: account.clone(), cseq: 0 }
    }

    /// Where it is, `127.0.0.1:PORT`.
    ///
    /// # Panics
    /// If the socket is none.
    #[must_use]
    pub fn address(&self) -> String {
        let address = match &self.socket {
            Socket::Udp(socket) => socket.local_addr(),
            Socket::Tcp(stream, _) => stream.local_addr(),
            // OpenSSL's port isn't known; nobody connects to it anyway.
            Socket::Tls(..) => Ok(([127, 0, 0, 1], 5_061).into()),
        };
        address.expect("bound").to_string()
    }

    fn via(&self) -> String {
        let transport = match self.socket {
            Socket::Udp(_) => "UDP",
            Socket::Tcp(..) => "TCP",
            Socket::Tls(..) => "TLS",
        };
        format!("SIP/2.0/{transport} {};branch=z9hG4bK{};rport", self.address(), rand::random::<u64>())
    }

    /// A request of this account's, without credentials.
    pub fn request(&mut self, method: &str, uri: &str) -> Message {
        self.cseq += 1;
        let number = self.cseq;
        let mut request = Message::request(method, uri);
        request.add("via", self.via());
        request.add("max-forwards", "70");
        request.add("from", format!("<{}>;tag=t{number}", self.account.uri));
        let to = if method == "REGISTER" { self.account.uri.clone() } else { uri.to_owned() };
        request.add("to", format!("<{to}>"));
        request.add("call-id", format!("c{}-{number}", rand::random::<u64>()));
        request.add("cseq", format!("{number} {method}"));
        request.add("contact", format!("<sip:{}@{}>", self.account.username, self.address()));
        request
    }

    /// Sends bytes.
    ///
    /// # Panics
    /// If they can't be sent.
    pub fn send(&self, bytes: &[u8]) {
        match &self.socket {
            Socket::Udp(socket) => assert_eq!(socket.send_to(bytes, self.server).expect("sent"), bytes.len()),
            Socket::Tcp(stream, _) => (&*stream).write_all(bytes).expect("sent"),
            Socket::Tls(openssl) => (&openssl.stream).write_all(bytes).expect("sent"),
        }
    }

    /// The next message, if one comes within `limit`.
    #[must_use]
    pub fn receive_within(&self, limit: Duration) -> Option<Message> {
        self.datagram_within(limit).map(|bytes| Message::parse(&bytes).expect("the edge speaks SIP"))
    }

    /// The status of the next answer; it may echo what is no SIP.
    ///
    /// # Panics
    /// If it is no answer.
    #[must_use]
    pub fn status_within(&self, limit: Duration) -> Option<u16> {
        let bytes = self.datagram_within(limit)?;
        let status = bytes.strip_prefix(b"SIP/2.0 ").and_then(|rest| std::str::from_utf8(rest.get(..3)?).ok()?.parse().ok());
        Some(status.expect("an answer"))
    }

    fn datagram_within(&self, limit: Duration) -> Option<Vec<u8>> {
        let deadline = Instant::now() + limit;
        let mut bytes = vec![0; 65_535];
        while Instant::now() < deadline {
            match &self.socket {
                Socket::Udp(socket) => {
                    if let Ok((length, _)) = socket.recv_from(&mut bytes) {
                        return Some(bytes[..length].to_vec());
                    }
                }
                Socket::Tcp(stream, unread) => {
                    if let Some(message) = first_of(&mut unread.borrow_mut(), &mut &*stream, &mut bytes) {
                        return Some(message);
                    }
                }
                Socket::Tls(openssl) => {
                    if let Some(message) = first_of(&mut openssl.unread.borrow_mut(), &mut &openssl.stream, &mut bytes) {
                        return Some(message);
                    }
                }
            }
        }
        None
    }

    /// The next final answer to this request.
    ///
    /// # Panics
    /// If none comes.
    #[track_caller]
    #[must_use]
    pub fn final_answer(&self, to: &Message) -> Message {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(answer) = self.receive_within(Duration::from_millis(200))
                && answer.call_id() == to.call_id()
                && answer.status() >= 200
                && answer.get("cseq") == to.get("cseq")
            {
                return answer;
            }
        }
        panic!("no answer to {to:?}");
    }

    /// Registers for ten minutes.
    ///
    /// # Panics
    /// If it is refused.
    #[track_caller]
    pub fn register(&mut self) {
        self.register_for(600);
    }

    /// The same for so many seconds; none: it takes its leave.
    ///
    /// # Panics
    /// If the edge doesn't take it.
    #[track_caller]
    pub fn register_for(&mut self, secs: u32) {
        let mut request = self.request("REGISTER", "sip:example");
        request.add("expires", secs.to_string());
        let answer = self.exchange(request);
        assert_eq!(answer.status(), 200, "{answer:?}");
    }

    /// An INVITE to a URI, with credentials, on its way.
    ///
    /// # Panics
    /// If the edge asks for none.
    #[track_caller]
    pub fn invite(&mut self, uri: &str, sdp: &str) -> Message {
        let request = self.request("INVITE", uri).with_body("application/sdp", sdp);
        self.send(&request.to_bytes());
        let asked = self.final_answer(&request);
        let request = self.authorize(request, &asked);
        self.send(&request.to_bytes());
        request
    }

    /// A call that is answered: the INVITE, and its 200.
    ///
    /// # Panics
    /// If it isn't.
    #[track_caller]
    pub fn call(&mut self, uri: &str, sdp: &str) -> (Message, Message) {
        let request = self.invite(uri, sdp);
        let answer = self.final_answer(&request);
        assert_eq!(answer.status(), 200, "{answer:?}");
        let ack = self.within("ACK", &request, &answer);
        self.send(&ack.to_bytes());
        (request, answer)
    }

    /// The next request of the edge that this is true of; it is answered with 200, and so are others before it.
    ///
    /// # Panics
    /// If none comes.
    #[track_caller]
    pub fn take(&self, method: &str, is_wanted: impl Fn(&Message) -> bool) -> Message {
        let deadline = Instant::now() + PATIENCE;
        let mut passed = Vec::new();
        while Instant::now() < deadline {
            let Some(request) = self.receive_within(Duration::from_millis(200)).filter(Message::is_request) else { continue };
            self.send(&Message::answer(&request, 200, "OK", Some("client")).to_bytes());
            if request.method() == method && is_wanted(&request) {
                return request;
            }
            passed.push(format!("{} {:?}", request.method(), String::from_utf8_lossy(&request.body)));
        }
        panic!("no such {method}; what came: {passed:#?}");
    }

    /// Sends a request, with credentials once they are asked for; the final answer.
    ///
    /// # Panics
    /// If none comes.
    #[track_caller]
    pub fn exchange(&mut self, request: Message) -> Message {
        self.send(&request.to_bytes());
        let answer = self.final_answer(&request);
        if !matches!(answer.status(), 401 | 407) {
            return answer;
        }
        let authorized = self.authorize(request, &answer);
        self.send(&authorized.to_bytes());
        self.final_answer(&authorized)
    }

    /// The same request with the credentials that an answer asks for.
    ///
    /// # Panics
    /// If it asks for none.
    #[track_caller]
    pub fn authorize(&mut self, mut request: Message, asked: &Message) -> Message {
        let challenge = Challenge::of(asked).expect("a challenge");
        let (user, password) = (&self.account.username, &self.account.password);
        let text = challenge.answer(user, password, request.method(), request.request_uri(), 1, "cnonce");
        let name = if asked.status() == 407 { "proxy-authorization" } else { "authorization" };
        request.set(name, text);
        self.cseq += 1;
        let (number, method) = (self.cseq, request.method().to_owned());
        request.set("cseq", format!("{number} {method}"));
        request.remove("via");
        request.add_first("via", self.via());
        request
    }

    /// The next request of this method; what else comes is passed over.
    ///
    /// # Panics
    /// If none comes.
    #[track_caller]
    #[must_use]
    pub fn next_request(&self, method: &str) -> Message {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(request) = self.receive_within(Duration::from_millis(200))
                && request.is_request()
                && request.method() == method
            {
                return request;
            }
        }
        panic!("no {method}");
    }

    /// Answers a request of the edge's.
    pub fn answer(&self, request: &Message, status: u16, sdp: Option<&str>) {
        let mut answer = Message::answer(request, status, "As told", Some("here"));
        answer.add("contact", format!("<sip:{}@{}>", self.account.username, self.address()));
        let answer = match sdp {
            Some(sdp) => answer.with_body("application/sdp", sdp),
            None => answer,
        };
        self.send(&answer.to_bytes());
    }

    /// A request within the dialog of an INVITE of its own and the 200 to it.
    pub fn within(&mut self, method: &str, invite: &Message, answer: &Message) -> Message {
        let number = if method == "ACK" {
            invite.cseq().map_or(1, |(number, _)| number)
        } else {
            self.cseq += 1;
            self.cseq
        };
        self.within_at(method, invite, answer, number)
    }

    /// The same with this number.
    ///
    /// # Panics
    /// If the 200 has no address.
    #[must_use]
    pub fn within_at(&self, method: &str, invite: &Message, answer: &Message, number: u32) -> Message {
        let target = answer.contacts().ok().and_then(|contacts| Some(contacts.first()?.uri.clone()));
        let mut request = Message::request(method, &target.expect("an address"));
        request.add("via", self.via());
        request.add("max-forwards", "70");
        for (name, from) in [("from", invite), ("to", answer), ("call-id", invite)] {
            request.add(name, from.get(name).unwrap_or_default());
        }
        request.add("cseq", format!("{number} {method}"));
        request.add("contact", format!("<sip:{}@{}>", self.account.username, self.address()));
        request
    }
}

/// The first whole message of a stream, else what a look at it brings is kept.
fn first_of(unread: &mut Vec<u8>, stream: &mut impl Read, buffer: &mut [u8]) -> Option<Vec<u8>> {
    if let Some(length) = stream_length(unread).expect("a message").filter(|length| *length <= unread.len()) {
        return Some(unread.drain(..length).collect());
    }
    let length = stream.read(buffer).unwrap_or(0);
    unread.extend_from_slice(&buffer[..length]);
    None
}
