//! Transactions (RFC 3261 section 17, with RFC 6026's states for accepted INVITEs): what is sent again until it is answered, and what is answered
//! again because it came again.
//!
//! ```text
//! server   INVITE      Proceeding -> Completed (3xx-6xx, until ACK) -> Confirmed
//!                                 -> Accepted  (2xx, until the user agent has the ACK)
//!          others      Trying -> Completed
//! client   INVITE      Calling -> Proceeding -> Completed (ACK sent here) | Accepted (every 2xx is told)
//!          others      Trying -> Completed
//! ```
//!
//! A 2xx to an INVITE is sent again here rather than by the user agent, which only says when its ACK has come. Tables are bounded: where a server's
//! is full, answers kept for requests that come again are given up, the oldest first; then requests are refused.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::message::{Message, Via};

/// Round-trip time assumed (RFC 3261 section 17.1.1.1).
pub const T1: Duration = Duration::from_millis(500);

/// The longest pause between two sendings of what isn't an INVITE.
pub const T2: Duration = Duration::from_secs(4);

/// How long a message may be on its way.
pub const T4: Duration = Duration::from_secs(5);

/// After this nobody answers any more: 64 T1.
pub const TIMEOUT: Duration = Duration::from_secs(32);

/// The longest that an INVITE may stay without a final answer: nobody is rung for as long.
const INVITE_MAX: Duration = Duration::from_secs(10 * 60);

/// Server transactions at once.
const SERVERS_MAX: usize = 16_384;

/// Client transactions at once.
const CLIENTS_MAX: usize = 8_192;

/// How messages travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// Datagrams: sent again until answered.
    Udp,
    /// A stream.
    Tcp,
    /// An encrypted stream.
    Tls,
}

impl Transport {
    /// As it stands in `Via`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Udp => "UDP",
            Self::Tcp => "TCP",
            Self::Tls => "TLS",
        }
    }

    /// Whether what is sent may be lost.
    #[must_use]
    pub const fn is_lossy(self) -> bool {
        matches!(self, Self::Udp)
    }
}

/// The way to a phone: where a message came from is where the next one goes (RFC 5626), as its address translator wants it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Flow {
    /// How.
    pub transport: Transport,
    /// Where the phone is seen.
    pub peer: SocketAddr,
    /// Names the connection of a stream, or the socket of datagrams.
    pub connection: u64,
}

/// Names a request that was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServerId(u64);

/// Names a request that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientId(u64);

/// What comes out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send this there.
    Send(Flow, Vec<u8>),
    /// An INVITE is taken back. It has been answered 200; the INVITE itself wants its 487.
    Cancelled(ServerId),
    /// A response to a request of ours: every provisional one, every 2xx to an INVITE, and the first final one.
    Response(ClientId, Message),
    /// Nobody answers a request of ours.
    TimedOut(ClientId),
    /// Nobody has acknowledged a final answer to an INVITE: with a 2xx the call is over.
    Unacknowledged(ServerId),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ServerState {
    Proceeding,
    Completed,
    Confirmed,
    Accepted,
}

#[derive(Debug)]
struct Server {
    key: String,
    flow: Flow,
    is_invite: bool,
    state: ServerState,
    /// The last answer, to be sent again.
    answer: Option<Vec<u8>>,
    is_acknowledged: bool,
    pause: Duration,
    resend_at: Option<Instant>,
    ends_at: Option<Instant>,
    due: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ClientState {
    Trying,
    Proceeding,
    Completed,
    Accepted,
}

#[derive(Debug)]
struct Client {
    key: String,
    flow: Flow,
    request: Message,
    state: ClientState,
    ack: Option<Vec<u8>>,
    pause: Duration,
    resend_at: Option<Instant>,
    ends_at: Option<Instant>,
    due: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    Server(u64),
    Client(u64),
}

/// All transactions of an edge.
#[derive(Debug, Default)]
pub struct Transactions {
    next_id: u64,
    servers: HashMap<u64, Server>,
    server_keys: HashMap<String, u64>,
    /// Answered requests other than INVITE, by age.
    answered: VecDeque<u64>,
    clients: HashMap<u64, Client>,
    client_keys: HashMap<String, u64>,
    timers: BTreeSet<(Instant, Timer)>,
    output: VecDeque<Output>,
}

impl Transactions {
    /// None yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What is to be done, in order.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.output.pop_front()
    }

    /// When [`Transactions::handle_timeout`] wants to be called.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// How many are open.
    #[must_use]
    pub fn len(&self) -> usize {
        self.servers.len() + self.clients.len()
    }

    /// True if there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes what belongs to a transaction that is there: answers, requests that come again, `ACK` to a refusal, `CANCEL`. Gives back what is new.
    pub fn receive(&mut self, message: Message, flow: Flow, now: Instant) -> Option<Message> {
        if !message.is_request() {
            self.receive_response(message, now);
            return None;
        }
        let method = message.method().to_owned();
        let as_method = if method == "ACK" { "INVITE" } else { &method };
        let known = self.server_keys.get(&server_key(&message, as_method)).copied();
        match (method.as_str(), known) {
            ("ACK", Some(id)) => self.receive_ack(id, message, now),
            ("CANCEL", None) => match self.server_keys.get(&server_key(&message, "INVITE")).copied() {
                Some(invite) => {
                    self.cancel_server(invite, &message, flow, now);
                    None
                }
                None => Some(message),
            },
            (_, Some(id)) => {
                self.send_again(id);
                None
            }
            (_, None) => Some(message),
        }
    }

    /// `ACK` on the branch of its INVITE: to a refusal it ends here; to a 2xx, from phones that reuse the branch, it is the user agent's.
    fn receive_ack(&mut self, id: u64, message: Message, now: Instant) -> Option<Message> {
        let server = self.servers.get_mut(&id)?;
        match server.state {
            ServerState::Completed => {
                server.state = ServerState::Confirmed;
                server.resend_at = None;
                server.ends_at = Some(if server.flow.transport.is_lossy() { now + T4 } else { now });
                self.schedule_server(id);
                None
            }
            ServerState::Accepted => Some(message),
            ServerState::Proceeding | ServerState::Confirmed => None,
        }
    }

    fn cancel_server(&mut self, invite: u64, cancel: &Message, flow: Flow, now: Instant) {
        let is_open = self.servers.get(&invite).is_some_and(|server| server.state == ServerState::Proceeding);
        if let Some(id) = self.accept(cancel, flow, now) {
            self.respond(id, &Message::answer(cancel, 200, "OK", Some("cancel")), now);
        }
        if is_open {
            self.output.push_back(Output::Cancelled(ServerId(invite)));
        }
    }

    fn send_again(&mut self, id: u64) {
        let Some(server) = self.servers.get(&id) else { return };
        if let (Some(answer), true) =
            (&server.answer, matches!(server.state, ServerState::Proceeding | ServerState::Completed | ServerState::Accepted))
        {
            self.output.push_back(Output::Send(server.flow, answer.clone()));
        }
    }

    /// Opens a transaction for a new request. `None` if there is no room: answer 503, without state.
    pub fn accept(&mut self, request: &Message, flow: Flow, now: Instant) -> Option<ServerId> {
        if self.servers.len() >= SERVERS_MAX {
            let oldest = self.answered.pop_front()?;
            self.remove_server(oldest);
        }
        let id = self.fresh_id();
        let key = server_key(request, request.method());
        self.server_keys.insert(key.clone(), id);
        let is_invite = request.method() == "INVITE";
        // What nobody answers mustn't fill the table.
        let ends_at = Some(now + if is_invite { INVITE_MAX } else { TIMEOUT * 2 });
        let server = Server {
            key,
            flow,
            is_invite,
            state: ServerState::Proceeding,
            answer: None,
            is_acknowledged: false,
            pause: T1,
            resend_at: None,
            ends_at,
            due: None,
        };
        self.servers.insert(id, server);
        self.schedule_server(id);
        Some(ServerId(id))
    }

    /// Answers. After the final answer nothing more is sent.
    pub fn respond(&mut self, id: ServerId, response: &Message, now: Instant) {
        let Some(server) = self.servers.get_mut(&id.0) else { return };
        if server.state != ServerState::Proceeding {
            return;
        }
        let (status, is_lossy) = (response.status(), server.flow.transport.is_lossy());
        let bytes = response.to_bytes();
        server.answer = Some(bytes.clone());
        self.output.push_back(Output::Send(server.flow, bytes));
        if status < 200 {
            return;
        }
        let is_success = status < 300;
        server.state = if server.is_invite && is_success { ServerState::Accepted } else { ServerState::Completed };
        server.pause = T1;
        server.resend_at = (server.is_invite && (is_lossy || is_success)).then_some(now + T1);
        server.ends_at = Some(if server.is_invite || is_lossy { now + TIMEOUT } else { now });
        if !server.is_invite {
            self.answered.push_back(id.0);
        }
        self.schedule_server(id.0);
    }

    /// The `ACK` to a 2xx has come.
    pub fn acknowledged(&mut self, id: ServerId) {
        if let Some(server) = self.servers.get_mut(&id.0) {
            server.is_acknowledged = true;
            server.resend_at = None;
            self.schedule_server(id.0);
        }
    }

    /// Sends a request, which has its `Via` with a branch of its own. `None` if there is no room.
    pub fn request(&mut self, request: Message, flow: Flow, now: Instant) -> Option<ClientId> {
        if self.clients.len() >= CLIENTS_MAX {
            return None;
        }
        let id = self.fresh_id();
        let key = client_key(&request);
        let is_lossy = flow.transport.is_lossy();
        self.output.push_back(Output::Send(flow, request.to_bytes()));
        self.client_keys.insert(key.clone(), id);
        let client = Client {
            key,
            flow,
            request,
            state: ClientState::Trying,
            ack: None,
            pause: T1,
            resend_at: is_lossy.then_some(now + T1),
            ends_at: Some(now + TIMEOUT),
            due: None,
        };
        self.clients.insert(id, client);
        self.schedule_client(id);
        Some(ClientId(id))
    }

    /// Takes back an INVITE of ours. Nothing is sent once it has its final answer; before the first provisional one the `CANCEL` may overtake the
    /// INVITE, so the caller waits for that (RFC 3261 section 9.1).
    pub fn cancel(&mut self, id: ClientId, reason: Option<&str>, now: Instant) {
        let Some(client) = self.clients.get(&id.0) else { return };
        if !matches!(client.state, ClientState::Trying | ClientState::Proceeding) || client.request.method() != "INVITE" {
            return;
        }
        let mut cancel = within(&client.request, "CANCEL");
        if let Some(reason) = reason {
            cancel.add("reason", reason);
        }
        let flow = client.flow;
        // Its own transaction's answer tells nobody anything.
        let _ = self.request(cancel, flow, now);
        if let Some(client) = self.clients.get_mut(&id.0) {
            // RFC 3261 section 9.1: without an answer within 64 T1 it is over.
            client.ends_at = Some(now + TIMEOUT);
            self.schedule_client(id.0);
        }
    }

    /// Forgets a request of ours: it isn't sent any more, and its answer tells nobody anything.
    pub fn abandon(&mut self, id: ClientId) {
        self.remove_client(id.0);
    }

    fn receive_response(&mut self, response: Message, now: Instant) {
        let key = client_key(&response);
        let Some(id) = self.client_keys.get(&key).copied() else { return };
        let Some(client) = self.clients.get_mut(&id) else { return };
        let status = response.status();
        let is_invite = client.request.method() == "INVITE";
        match client.state {
            ClientState::Trying | ClientState::Proceeding if status < 200 => {
                client.state = ClientState::Proceeding;
                client.pause = T2;
                if is_invite {
                    client.resend_at = None;
                    client.ends_at = None;
                }
                self.tell_response(id, response);
            }
            ClientState::Trying | ClientState::Proceeding => {
                client.resend_at = None;
                let is_lossy = client.flow.transport.is_lossy();
                if is_invite && status < 300 {
                    client.state = ClientState::Accepted;
                    client.ends_at = Some(now + TIMEOUT);
                } else {
                    client.state = ClientState::Completed;
                    let linger = if is_invite { TIMEOUT } else { T4 };
                    client.ends_at = Some(if is_lossy { now + linger } else { now });
                }
                if is_invite && status >= 300 {
                    self.acknowledge_refusal(id, &response);
                }
                self.tell_response(id, response);
            }
            ClientState::Accepted if (200..300).contains(&status) => self.tell_response(id, response),
            ClientState::Completed if status >= 300 => {
                if let Some(ack) = client.ack.clone() {
                    self.output.push_back(Output::Send(client.flow, ack));
                }
            }
            ClientState::Accepted | ClientState::Completed => {}
        }
        self.schedule_client(id);
    }

    fn tell_response(&mut self, id: u64, response: Message) {
        self.output.push_back(Output::Response(ClientId(id), response));
    }

    /// RFC 3261 section 17.1.1.3.
    fn acknowledge_refusal(&mut self, id: u64, response: &Message) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        let mut ack = within(&client.request, "ACK");
        if let Some(to) = response.get("to") {
            ack.set("to", to);
        }
        let bytes = ack.to_bytes();
        client.ack = Some(bytes.clone());
        self.output.push_back(Output::Send(client.flow, bytes));
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some((at, timer)) = self.timers.first().copied() {
            if at > now {
                return;
            }
            self.timers.remove(&(at, timer));
            match timer {
                Timer::Server(id) => self.server_due(id, now),
                Timer::Client(id) => self.client_due(id, now),
            }
        }
    }

    fn server_due(&mut self, id: u64, now: Instant) {
        let Some(server) = self.servers.get_mut(&id) else { return };
        server.due = None;
        if server.ends_at.is_some_and(|at| at <= now) {
            let is_missed = server.is_invite
                && !server.is_acknowledged
                && matches!(server.state, ServerState::Completed | ServerState::Accepted);
            if is_missed {
                self.output.push_back(Output::Unacknowledged(ServerId(id)));
            }
            self.remove_server(id);
            return;
        }
        if server.resend_at.is_some_and(|at| at <= now) {
            server.pause = (server.pause * 2).min(T2);
            server.resend_at = Some(now + server.pause);
            if let Some(answer) = server.answer.clone() {
                self.output.push_back(Output::Send(server.flow, answer));
            }
        }
        self.schedule_server(id);
    }

    fn client_due(&mut self, id: u64, now: Instant) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        client.due = None;
        if client.ends_at.is_some_and(|at| at <= now) {
            let is_unanswered = matches!(client.state, ClientState::Trying | ClientState::Proceeding);
            let is_own_cancel = client.request.method() == "CANCEL";
            if is_unanswered && !is_own_cancel {
                self.output.push_back(Output::TimedOut(ClientId(id)));
            }
            self.remove_client(id);
            return;
        }
        if client.resend_at.is_some_and(|at| at <= now) {
            let doubled = client.pause * 2;
            // An INVITE's pauses go on doubling (timer A); others have a ceiling (timer E).
            client.pause = if client.request.method() == "INVITE" { doubled } else { doubled.min(T2) };
            client.resend_at = Some(now + client.pause);
            self.output.push_back(Output::Send(client.flow, client.request.to_bytes()));
        }
        self.schedule_client(id);
    }

    fn schedule_server(&mut self, id: u64) {
        let Some(server) = self.servers.get_mut(&id) else { return };
        let due = server.resend_at.into_iter().chain(server.ends_at).min();
        let before = std::mem::replace(&mut server.due, due);
        self.set_timer(Timer::Server(id), before, due);
    }

    fn schedule_client(&mut self, id: u64) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        let due = client.resend_at.into_iter().chain(client.ends_at).min();
        let before = std::mem::replace(&mut client.due, due);
        self.set_timer(Timer::Client(id), before, due);
    }

    fn set_timer(&mut self, timer: Timer, before: Option<Instant>, due: Option<Instant>) {
        if let Some(before) = before {
            self.timers.remove(&(before, timer));
        }
        if let Some(due) = due {
            self.timers.insert((due, timer));
        }
    }

    fn remove_server(&mut self, id: u64) {
        let Some(server) = self.servers.remove(&id) else { return };
        if self.server_keys.get(&server.key) == Some(&id) {
            self.server_keys.remove(&server.key);
        }
        self.set_timer(Timer::Server(id), server.due, None);
        while self.answered.front().is_some_and(|oldest| !self.servers.contains_key(oldest)) {
            self.answered.pop_front();
        }
    }

    fn remove_client(&mut self, id: u64) {
        let Some(client) = self.clients.remove(&id) else { return };
        if self.client_keys.get(&client.key) == Some(&id) {
            self.client_keys.remove(&client.key);
        }
        self.set_timer(Timer::Client(id), client.due, None);
    }

    fn fresh_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }
}

/// `ACK` or `CANCEL` for a request: the same hop, target, dialog and number.
fn within(request: &Message, method: &str) -> Message {
    let mut message = Message::request(method, request.request_uri());
    for name in ["via", "max-forwards", "route", "from", "to", "call-id"] {
        for value in request.all(name) {
            message.add(name, value);
        }
    }
    let number = request.cseq().map_or(0, |(number, _)| number);
    message.add("cseq", format!("{number} {method}"));
    message
}

/// RFC 3261 section 17.2.3; for phones of RFC 2543, and branches that are none, what else tells requests apart.
fn server_key(request: &Message, method: &str) -> String {
    if let Some((branch, host, port)) = request.plain_via() {
        return format!("{branch} {host}:{port} {method}");
    }
    let Some(via) = request.via() else { return String::new() };
    let port = via.port.unwrap_or_default();
    match via.branch() {
        Some(branch) => format!("{branch} {}:{port} {method}", via.host),
        None => {
            let number = request.cseq().map_or(0, |(number, _)| number);
            format!("{} {number} {} {}:{port} {method}", request.call_id(), request.from_tag(), via.host)
        }
    }
}

fn client_key(message: &Message) -> String {
    let method = message.method();
    match message.plain_via() {
        Some((branch, ..)) => format!("{branch} {method}"),
        None => format!("{} {method}", message.via().as_ref().and_then(Via::branch).unwrap_or_default()),
    }
}

#[cfg(test)]
#[path = "transaction_tests.rs"]
mod tests;
