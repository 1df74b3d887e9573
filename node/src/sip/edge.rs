//! The edge's task: it owns sockets, transactions, registrations and accounts, and tells each request who it is for.
//!
//! A datagram's way: ban, parser, transaction, dialog, credentials, method. Up to the credentials nothing is kept of it, and what it gets is a
//! challenge or a refusal of its form.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use halloo_protocol::sip::digest::{Authenticator, Denied};
use halloo_protocol::sip::guard::Guard;
use halloo_protocol::sip::message::{Message, Refusal};
use halloo_protocol::sip::registrar::{EXPIRES_SECS_MIN, FLOW_TIMER_SECS, RegisterError, Registrar};
use halloo_protocol::sip::status::reason_of;
use halloo_protocol::sip::transaction::{ClientId, Flow, Output, ServerId, Transactions, Transport};
use halloo_protocol::sip::uri::SipUri;
use halloo_protocol::time::UnixTime;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, info, warn};

use super::accounts::{ACCOUNTS_MAX, Account, Accounts, Added, REALM, Record};
use super::dialog::{ALLOW, USER_AGENT, salt, token};
use super::media::PhoneMedia;
use super::transport::{Incoming, Transports};
use super::wire::{Arrived, Ask, INBOX_MAX, Input, Wire};
use super::{call, ring};
use crate::event_loop::ClockSource;
use crate::handle::sip::{SipAccount, SipAccountList, SipAccountRemoved, SipCommand, SipCredentials, SipError, SipPhone};
use crate::handle::{Event, Node, Reply};
use crate::timestamp::Timestamp;

/// Calls of phones at once.
const CALLS_MAX: usize = 256;

/// How often registrations are written, if they changed.
const SAVE_EVERY: Duration = Duration::from_secs(5);

const BINDINGS_FILE: &str = "bindings.json";

/// An account that runs.
#[derive(Debug)]
struct Running {
    account: Account,
    /// Tells the edge of calls that come in.
    _events: AbortOnDropHandle<()>,
}

/// A dialog that requests belong to.
#[derive(Debug)]
struct Followed {
    account: String,
    flow: Flow,
    inbox: mpsc::Sender<Input>,
}

/// What is done elsewhere and comes back.
enum Done {
    Added(Result<Added, SipError>, Reply<SipCredentials, SipError>),
    Call { account: String, event: Event },
}

/// The whole state.
pub(super) struct Edge {
    transports: Transports,
    transactions: Transactions,
    guard: Guard,
    authenticator: Authenticator,
    registrar: Registrar,
    is_registrar_changed: bool,
    accounts: Accounts,
    running: BTreeMap<String, Running>,
    own: Node,
    media: PhoneMedia,
    external: Option<std::net::IpAddr>,
    wire: Wire,
    done: mpsc::Sender<Done>,
    followed: HashMap<String, Followed>,
    servers: HashMap<ServerId, mpsc::Sender<Input>>,
    clients: HashMap<ClientId, (u32, mpsc::Sender<Input>)>,
    is_adding: bool,
}

/// What the task reads.
pub(super) struct Inputs {
    pub(super) incoming: mpsc::Receiver<Incoming>,
    pub(super) asked: mpsc::Receiver<Ask>,
    pub(super) commands: mpsc::Receiver<SipCommand>,
    done: mpsc::Receiver<Done>,
}

/// What an edge is made of.
pub(super) struct Parts {
    pub(super) transports: Transports,
    pub(super) accounts: Accounts,
    pub(super) own: Node,
    pub(super) media: PhoneMedia,
    pub(super) external: Option<std::net::IpAddr>,
    pub(super) wire: Wire,
}

impl Edge {
    /// Starts the accounts there are. One that can't start is told in the log, and is there again with the next start.
    pub(super) async fn open(
        parts: Parts,
        incoming: mpsc::Receiver<Incoming>,
        asked: mpsc::Receiver<Ask>,
        commands: mpsc::Receiver<SipCommand>,
    ) -> Result<(Self, Inputs), SipError> {
        let failed = |error: crate::key_file::KeyFileError| SipError::Failed { reason: error.to_string() };
        let key = crate::key_file::random_bytes().map_err(failed)?;
        let (done, done_receiver) = mpsc::channel(INBOX_MAX);
        let mut edge = Self {
            transports: parts.transports,
            transactions: Transactions::new(),
            guard: Guard::new(),
            authenticator: Authenticator::new(REALM, key),
            registrar: read_bindings(&parts.accounts),
            is_registrar_changed: false,
            accounts: parts.accounts,
            running: BTreeMap::new(),
            own: parts.own,
            media: parts.media,
            external: parts.external,
            wire: parts.wire,
            done,
            followed: HashMap::new(),
            servers: HashMap::new(),
            clients: HashMap::new(),
            is_adding: false,
        };
        for record in edge.accounts.load()? {
            let name = record.account.clone();
            match edge.accounts.start(record, &edge.own).await {
                Ok(account) => edge.run_account(account),
                Err(error) => warn!(account = %halloo_protocol::redact::Redacted(&name), %error, "a SIP account can't start"),
            }
        }
        Ok((edge, Inputs { incoming, asked, commands, done: done_receiver }))
    }

    /// Serves until told to stop.
    pub(super) async fn run(mut self, mut inputs: Inputs, stop: CancellationToken) {
        let mut save = tokio::time::interval(SAVE_EVERY);
        loop {
            self.flush();
            let due = self.transactions.poll_timeout();
            tokio::select! {
                () = stop.cancelled() => break,
                Some(incoming) = inputs.incoming.recv() => self.handle_incoming(incoming),
                Some(ask) = inputs.asked.recv() => self.handle_ask(ask),
                Some(command) = inputs.commands.recv() => self.handle_command(command).await,
                Some(done) = inputs.done.recv() => self.handle_done(done),
                () = sleep_until(due) => self.transactions.handle_timeout(Instant::now()),
                _ = save.tick() => self.tick(),
            }
        }
        self.save_bindings();
        for running in self.running.values() {
            // One that has ended by itself is where it should be.
            let _ = tokio::time::timeout(Duration::from_secs(1), running.account.node.shutdown()).await;
        }
    }

    fn tick(&mut self) {
        if !self.registrar.expire(unix()).is_empty() {
            self.is_registrar_changed = true;
        }
        if self.is_registrar_changed {
            self.save_bindings();
        }
    }

    /// Does what the transactions want done.
    fn flush(&mut self) {
        while let Some(output) = self.transactions.poll_output() {
            match output {
                Output::Send(flow, bytes) => self.transports.send(flow, bytes),
                Output::Cancelled(id) => self.tell_server(id, Input::Cancelled),
                Output::Unacknowledged(id) => {
                    self.tell_server(id, Input::Unacknowledged);
                    self.servers.remove(&id);
                }
                Output::Response(id, response) => {
                    let Some((number, inbox)) = self.clients.get(&id) else { continue };
                    let is_final = response.status() >= 200 && response.method() != "INVITE";
                    tell(inbox, Input::Response(*number, response));
                    if is_final {
                        self.clients.remove(&id);
                    }
                }
                Output::TimedOut(id) => {
                    if let Some((number, inbox)) = self.clients.remove(&id) {
                        tell(&inbox, Input::TimedOut(number));
                    }
                }
            }
        }
    }

    fn tell_server(&self, id: ServerId, input: Input) {
        if let Some(inbox) = self.servers.get(&id) {
            tell(inbox, input);
        }
    }

    fn handle_incoming(&mut self, incoming: Incoming) {
        let (flow, bytes) = match incoming {
            Incoming::Message(flow, bytes) => (flow, bytes),
            Incoming::Closed(flow) => {
                self.registrar.flow_closed(flow);
                self.is_registrar_changed = true;
                return;
            }
        };
        let now = Instant::now();
        if self.guard.is_banned(flow.peer.ip(), now) {
            return;
        }
        match Message::parse(&bytes) {
            Ok(message) => self.receive(seen_from(message, flow), flow, now),
            Err(Refusal::Drop(reason)) => debug!(reason, "dropped"),
            Err(Refusal::Answer { status, reason, request }) => {
                if self.guard.take(flow.peer.ip(), now) {
                    self.answer_statelessly(&seen_from(*request, flow), status, reason, flow, |_| {});
                }
            }
        }
    }

    fn receive(&mut self, message: Message, flow: Flow, now: Instant) {
        let Some(message) = self.transactions.receive(message, flow, now) else { return };
        if self.receive_in_dialog(&message, flow, now) || message.method() == "ACK" {
            return;
        }
        if let Some((status, reason)) = unsupported(&message) {
            if self.guard.take(flow.peer.ip(), now) {
                self.answer_statelessly(&message, status, reason, flow, |answer| {
                    if status == 420 {
                        answer.add("unsupported", required(&message).join(", "));
                    }
                });
            }
            return;
        }
        if let Some(account) = self.authenticate(&message, flow, now) {
            self.dispatch(message, flow, account, now);
        }
    }

    /// What belongs to a call that is there, and comes from where its phone is.
    fn receive_in_dialog(&mut self, message: &Message, flow: Flow, now: Instant) -> bool {
        let Some(followed) = self.followed.get(message.call_id()) else { return false };
        if message.to_tag().is_none() || followed.flow.peer.ip() != flow.peer.ip() {
            return false;
        }
        let inbox = followed.inbox.clone();
        if message.method() == "ACK" {
            tell(&inbox, Input::Ack(message.clone()));
            return true;
        }
        let Some(id) = self.transactions.accept(message, flow, now) else { return true };
        self.servers.insert(id, inbox.clone());
        tell(&inbox, Input::Request(id, message.clone()));
        true
    }

    /// Whose request it is; else it is answered, or not.
    fn authenticate(&mut self, message: &Message, flow: Flow, now: Instant) -> Option<String> {
        let record = self.claimed(message).cloned();
        let find = |user: &str| record.as_ref().and_then(|record| record.ha1(user));
        let checked = self.authenticator.check(message, find, unix());
        let source = flow.peer.ip();
        match checked {
            Ok(_) => {
                self.guard.succeeded(source);
                record.map(|record| record.account)
            }
            Err(denied) => {
                let is_banned = denied == Denied::Wrong && self.guard.failed(source, now);
                if is_banned {
                    info!("a source is banned for guessing passwords");
                } else if self.guard.take(source, now) {
                    self.challenge(message, flow, denied == Denied::Stale);
                }
                None
            }
        }
    }

    /// The account that a request says it is from: a registration's address of record, or who it is from.
    fn claimed(&self, message: &Message) -> Option<&Record> {
        let address = if message.method() == "REGISTER" { message.to() } else { message.from() };
        let uri = address?.sip()?;
        let user = uri.user.as_deref()?.to_ascii_lowercase();
        let full = format!("{user}@{}", uri.host);
        if let Some(running) = self.running.get(&full) {
            return Some(&running.account.record);
        }
        // A phone that was set up with the edge's address instead of the authority's name.
        if !is_address(&uri.host) {
            return None;
        }
        let mut named = self.running.values().map(|running| &running.account.record).filter(|record| record.name() == user);
        let found = named.next();
        if named.next().is_none() { found } else { None }
    }

    fn challenge(&mut self, message: &Message, flow: Flow, is_stale: bool) {
        let (status, name) = match message.method() {
            "REGISTER" => (401, "www-authenticate"),
            _ => (407, "proxy-authenticate"),
        };
        let challenges = self.authenticator.challenges(message, unix(), salt(), is_stale);
        self.answer_statelessly(message, status, reason_of(status), flow, |answer| {
            for challenge in challenges {
                answer.add(name, challenge);
            }
        });
    }

    /// Answers and keeps nothing of it: what comes again is answered anew.
    fn answer_statelessly(&self, request: &Message, status: u16, reason: &str, flow: Flow, more: impl FnOnce(&mut Message)) {
        if request.method() == "ACK" {
            return;
        }
        let mut answer = Message::answer(request, status, reason, Some(&token()));
        more(&mut answer);
        answer.add("server", USER_AGENT);
        self.transports.send(flow, answer.to_bytes());
    }

    /// Answers within a transaction, and that is all there is to it.
    fn answer(&mut self, request: &Message, status: u16, reason: &str, flow: Flow, more: impl FnOnce(&mut Message)) {
        let now = Instant::now();
        let Some(id) = self.transactions.accept(request, flow, now) else {
            self.answer_statelessly(request, 503, reason_of(503), flow, |answer| answer.add("retry-after", "10"));
            return;
        };
        let mut answer = Message::answer(request, status, reason, Some(&token()));
        more(&mut answer);
        answer.add("server", USER_AGENT);
        self.transactions.respond(id, &answer, now);
    }

    /// Each method to whoever handles it. Presence, messages and the INFO profile have their places here.
    fn dispatch(&mut self, message: Message, flow: Flow, account: String, now: Instant) {
        if !self.is_from_itself(&message, &account) {
            self.answer(&message, 403, "From names somebody else", flow, |_| {});
            return;
        }
        match message.method() {
            "REGISTER" => self.register(&message, flow, &account),
            "INVITE" if message.to_tag().is_none() => self.begin_call(message, flow, account, now),
            "OPTIONS" => self.answer(&message, 200, "OK", flow, |answer| {
                answer.add("allow", ALLOW);
                answer.add("accept", "application/sdp");
                answer.add("supported", "timer, replaces, gruu, outbound");
            }),
            "INVITE" | "BYE" | "CANCEL" | "UPDATE" | "REFER" | "NOTIFY" | "INFO" | "PRACK" => {
                self.answer(&message, 481, reason_of(481), flow, |_| {});
            }
            "SUBSCRIBE" | "PUBLISH" => {
                self.answer(&message, 489, reason_of(489), flow, |answer| answer.add("allow-events", "refer"))
            }
            "MESSAGE" => self.answer(&message, 405, reason_of(405), flow, |answer| answer.add("allow", ALLOW)),
            _ => self.answer(&message, 501, reason_of(501), flow, |answer| answer.add("allow", ALLOW)),
        }
    }

    /// Whether what a request says of its sender is its sender. Others' names in `P-Asserted-Identity` and the like are worth nothing and are ignored;
    /// another's in `From` is a mistake or a lie.
    fn is_from_itself(&self, message: &Message, account: &str) -> bool {
        let Some(uri) = message.from().and_then(|from| from.sip()) else { return false };
        let Some((name, authority)) = account.split_once('@') else { return false };
        let user = uri.user.unwrap_or_default();
        user.eq_ignore_ascii_case(name) && (uri.host.eq_ignore_ascii_case(authority) || is_address(&uri.host))
    }

    fn register(&mut self, message: &Message, flow: Flow, account: &str) {
        let now = unix();
        match self.registrar.register(account, message, flow, now) {
            Ok(changed) => {
                self.is_registrar_changed = true;
                debug!(added = changed.added, removed = changed.removed, "registered");
                let aor = SipUri::parse(&format!("sip:{account}"));
                let is_outbound =
                    self.registrar.bindings(account, now).iter().any(|binding| binding.flow == flow && binding.is_outbound);
                let with_gruu = message.lists("supported", "gruu");
                let contacts = aor.map(|aor| self.registrar.contacts(account, &aor, with_gruu, now)).unwrap_or_default();
                self.answer(message, 200, "OK", flow, |answer| {
                    for contact in contacts {
                        answer.add("contact", contact);
                    }
                    answer.add("date", httpdate::fmt_http_date(std::time::SystemTime::now()));
                    if is_outbound {
                        answer.add("require", "outbound");
                        answer.add("flow-timer", FLOW_TIMER_SECS.to_string());
                    }
                });
            }
            Err(error) => self.answer(message, error.status(), &error.to_string(), flow, |answer| {
                if error == RegisterError::TooBrief {
                    answer.add("min-expires", EXPIRES_SECS_MIN.to_string());
                }
            }),
        }
    }

    fn begin_call(&mut self, message: Message, flow: Flow, account: String, now: Instant) {
        let (Some(running), Some(local)) = (self.running.get(&account), self.local(flow)) else { return };
        if self.followed.len() >= CALLS_MAX {
            self.answer(&message, 503, reason_of(503), flow, |answer| answer.add("retry-after", "30"));
            return;
        }
        if self.followed.contains_key(message.call_id()) {
            self.answer(&message, 482, reason_of(482), flow, |_| {});
            return;
        }
        let node = running.account.node.clone();
        let Some(id) = self.transactions.accept(&message, flow, now) else { return };
        let (sender, inbox) = mpsc::channel(INBOX_MAX);
        self.servers.insert(id, sender.clone());
        self.followed.insert(message.call_id().to_owned(), Followed { account: account.clone(), flow, inbox: sender.clone() });
        self.transactions.respond(id, &Message::answer(&message, 100, "Trying", None), now);
        let arrived = Arrived { id, request: message, flow, local, account, node };
        tokio::spawn(call::take(arrived, self.wire.clone(), self.media.clone(), sender, inbox));
    }

    /// This end of a flow as the phone should know it.
    fn local(&self, flow: Flow) -> Option<SocketAddr> {
        let mut local = self.transports.local(flow)?;
        if local.ip().is_unspecified() {
            local.set_ip(super::route_to(flow.peer.ip()).unwrap_or(local.ip()));
        }
        if let Some(external) = self.external.filter(|_| !super::is_near(flow.peer.ip())) {
            local.set_ip(external);
        }
        Some(local)
    }

    fn handle_ask(&mut self, ask: Ask) {
        let now = Instant::now();
        match ask {
            Ask::Respond { id, response } => {
                if response.status() >= 200 && response.method() != "INVITE" {
                    self.servers.remove(&id);
                }
                self.transactions.respond(id, &response, now);
            }
            Ask::Acknowledged(id) => {
                self.servers.remove(&id);
                self.transactions.acknowledged(id);
            }
            Ask::Request { request, flow, number, inbox, sent } => {
                let id = self.with_via(*request, flow).and_then(|request| self.transactions.request(request, flow, now));
                if let Some(id) = id {
                    self.forget_closed();
                    self.clients.insert(id, (number, inbox));
                }
                // Who asked has gone: the answer goes nowhere.
                let _ = sent.send(id);
            }
            Ask::Send { request, flow } => {
                if let Some(request) = self.with_via(*request, flow) {
                    self.transports.send(flow, request.to_bytes());
                }
            }
            Ask::Cancel { id, reason } => self.transactions.cancel(id, reason, now),
            Ask::Follow { call_id, account, flow, inbox } => {
                self.followed.insert(call_id, Followed { account, flow, inbox });
            }
            Ask::Unfollow { call_id } => {
                self.followed.remove(&call_id);
            }
            Ask::Bindings { account, reply } => {
                let bindings = self.registrar.bindings(&account, unix()).into_iter();
                let found = bindings.filter_map(|binding| Some((binding.clone(), self.local(binding.flow)?))).collect();
                let _ = reply.send(found);
            }
        }
    }

    fn with_via(&self, mut request: Message, flow: Flow) -> Option<Message> {
        let local = self.local(flow)?;
        let rport = if flow.transport == Transport::Udp { ";rport" } else { "" };
        request.add_first("via", format!("SIP/2.0/{} {local};branch=z9hG4bK{}{rport}", flow.transport.name(), token()));
        Some(request)
    }

    /// Lets go of inboxes whose call is over.
    fn forget_closed(&mut self) {
        if self.clients.len() % 64 == 63 {
            self.clients.retain(|_, (_, inbox)| !inbox.is_closed());
            self.servers.retain(|_, inbox| !inbox.is_closed());
        }
    }

    async fn handle_command(&mut self, command: SipCommand) {
        match command {
            SipCommand::Add { options, reply } => self.add(options, reply),
            SipCommand::List(reply) => reply.send(Ok(self.list())),
            SipCommand::Remove { account, reply } => {
                let removed = self.remove(&account).await;
                reply.send(removed);
            }
            SipCommand::Password { account, reply } => {
                let credentials = self.new_password(&account);
                reply.send(credentials);
            }
        }
    }

    fn add(&mut self, options: crate::handle::sip::SipAccountOptions, reply: Reply<SipCredentials, SipError>) {
        if self.running.len() >= ACCOUNTS_MAX {
            return reply.send(Err(SipError::TooMany { max: ACCOUNTS_MAX }));
        }
        if self.is_adding {
            return reply.send(Err(SipError::Invalid { reason: "another account is being added".to_owned() }));
        }
        self.is_adding = true;
        let (accounts, own, done) = (self.accounts.clone(), self.own.clone(), self.done.clone());
        tokio::spawn(async move {
            let added = accounts.add(options, &own).await;
            let _ = done.send(Done::Added(added, reply)).await;
        });
    }

    fn handle_done(&mut self, done: Done) {
        match done {
            Done::Added(added, reply) => {
                self.is_adding = false;
                let credentials = added.and_then(|added| self.keep(added));
                reply.send(credentials);
            }
            Done::Call { account, event } => self.ring(&account, event),
        }
    }

    fn keep(&mut self, added: Added) -> Result<SipCredentials, SipError> {
        let name = added.account.record.account.clone();
        if self.running.contains_key(&name) {
            self.accounts.remove(&added.account.record);
            return Err(SipError::Exists { account: name });
        }
        let records = self.running.values().map(|running| &running.account.record);
        self.accounts.save(records.chain(std::iter::once(&added.account.record)))?;
        let mut credentials = self.credentials(&added.account.record, added.password);
        credentials.recovery_phrase = added.recovery_phrase;
        self.run_account(added.account);
        Ok(credentials)
    }

    fn credentials(&self, record: &Record, password: String) -> SipCredentials {
        SipCredentials {
            account: record.account.clone(),
            uri: format!("sip:{}", record.account),
            username: record.name().to_owned(),
            password,
            servers: self.servers(),
            recovery_phrase: None,
        }
    }

    fn servers(&self) -> Vec<String> {
        let shown = |listener: &super::transport::Listener| {
            format!("sip:{};transport={}", listener.address, listener.transport.name().to_ascii_lowercase())
        };
        self.transports.listeners().iter().map(shown).collect()
    }

    fn run_account(&mut self, account: Account) {
        let (name, done) = (account.record.account.clone(), self.done.clone());
        let mut events = account.node.subscribe();
        let told = name.clone();
        let task = tokio::spawn(async move {
            while let Some(record) = events.recv().await {
                if matches!(record.event, Event::CallIncoming { .. }) {
                    let call = Done::Call { account: told.clone(), event: record.event };
                    if done.send(call).await.is_err() {
                        return;
                    }
                }
            }
        });
        self.running.insert(name, Running { account, _events: AbortOnDropHandle::new(task) });
    }

    /// Somebody calls the account's user: all of its phones ring.
    fn ring(&mut self, account: &str, event: Event) {
        let Event::CallIncoming { call_id, from, .. } = event else { return };
        let Some(running) = self.running.get(account) else { return };
        if self.followed.len() >= CALLS_MAX {
            warn!("too many calls: one doesn't ring at phones");
            return;
        }
        let incoming = ring::Incoming { call_id, from, account: account.to_owned(), node: running.account.node.clone() };
        tokio::spawn(ring::ring(incoming, self.wire.clone(), self.media.clone()));
    }

    fn known(&self, account: &str) -> Result<String, SipError> {
        let unknown = || SipError::Unknown { account: account.to_owned() };
        if self.running.contains_key(account) {
            return Ok(account.to_owned());
        }
        let mut named = self.running.keys().filter(|known| known.split('@').next() == Some(account));
        let found = named.next().cloned().ok_or_else(unknown)?;
        if named.next().is_some() { Err(unknown()) } else { Ok(found) }
    }

    async fn remove(&mut self, account: &str) -> Result<SipAccountRemoved, SipError> {
        let name = self.known(account)?;
        let Some(running) = self.running.remove(&name) else { return Err(SipError::Unknown { account: name }) };
        self.accounts.save(self.running.values().map(|running| &running.account.record))?;
        self.registrar.remove(&name);
        self.is_registrar_changed = true;
        self.followed.retain(|_, followed| followed.account != name);
        let _ = tokio::time::timeout(Duration::from_secs(3), running.account.node.shutdown()).await;
        self.accounts.remove(&running.account.record);
        Ok(SipAccountRemoved { account: name, peer_id: running.account.peer_id })
    }

    fn new_password(&mut self, account: &str) -> Result<SipCredentials, SipError> {
        let name = self.known(account)?;
        let password = super::accounts::password()?;
        let Some(running) = self.running.get_mut(&name) else { return Err(SipError::Unknown { account: name }) };
        running.account.record.set_password(&password);
        self.registrar.remove(&name);
        self.is_registrar_changed = true;
        self.accounts.save(self.running.values().map(|running| &running.account.record))?;
        let record = self.running.get(&name).map(|running| &running.account.record);
        record.map(|record| self.credentials(record, password)).ok_or(SipError::Unknown { account: name })
    }

    fn list(&self) -> SipAccountList {
        let now = unix();
        let phone = |binding: &halloo_protocol::sip::registrar::Binding| SipPhone {
            contact: binding.contact.clone(),
            transport: binding.flow.transport.name().to_ascii_lowercase(),
            address: binding.flow.peer.to_string(),
            user_agent: binding.user_agent.clone(),
            instance: binding.instance.clone(),
            expires_at: Timestamp::from_unix_secs(binding.expires_at.0),
            push: binding.push.as_ref().map(|push| push.provider.clone()),
        };
        let accounts = self.running.values().map(|running| SipAccount {
            account: running.account.record.account.clone(),
            peer_id: running.account.peer_id.clone(),
            created_at: Timestamp::from_unix_secs(running.account.record.created_at),
            phones: self.registrar.bindings(&running.account.record.account, now).into_iter().map(phone).collect(),
        });
        SipAccountList { servers: self.servers(), accounts: accounts.collect(), banned: self.guard.banned(Instant::now()) }
    }

    fn save_bindings(&mut self) {
        self.is_registrar_changed = false;
        let path = self.accounts.root().join(BINDINGS_FILE);
        let written = serde_json::to_vec(&self.registrar).map_err(|error| error.to_string());
        let written = written.and_then(|bytes| crate::home::write_secret(&path, &bytes).map_err(|error| error.to_string()));
        if let Err(error) = written {
            warn!(%error, "registrations of phones aren't kept");
        }
    }
}

/// Registrations of the last run. Those over connections are gone with it.
fn read_bindings(accounts: &Accounts) -> Registrar {
    let read = std::fs::read(accounts.root().join(BINDINGS_FILE)).ok();
    let mut registrar: Registrar = read.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
    registrar.keep_datagrams();
    registrar.expire(unix());
    registrar
}

fn tell(inbox: &mpsc::Sender<Input>, input: Input) {
    if inbox.try_send(input).is_err() {
        debug!("a call is over, or has too much to do");
    }
}

/// What can be refused before asking who it is: what nobody could ask (RFC 3261 section 8.2).
fn unsupported(message: &Message) -> Option<(u16, &'static str)> {
    if !required(message).is_empty() {
        return Some((420, "Bad Extension"));
    }
    let is_other_scheme = |name: &str| {
        let uri = message.get(name).and_then(|text| halloo_protocol::sip::uri::NameAddr::parse(text).ok());
        uri.is_some_and(|uri| uri.sip().is_none() && !uri.uri.to_ascii_lowercase().starts_with("tel:"))
    };
    (message.method() == "REGISTER" && is_other_scheme("to")).then_some((416, "Unsupported URI Scheme"))
}

/// Extensions that a request requires and the edge doesn't have.
fn required(message: &Message) -> Vec<String> {
    const KNOWN: [&str; 6] = ["timer", "outbound", "gruu", "path", "replaces", "pref"];
    let listed = message.list("require").into_iter().chain(message.list("proxy-require"));
    listed.filter(|option| !KNOWN.iter().any(|known| known.eq_ignore_ascii_case(option))).map(str::to_owned).collect()
}

/// Whether a host is an address of some machine rather than a name.
pub(super) fn is_address(host: &str) -> bool {
    host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok() || host.eq_ignore_ascii_case("localhost")
}

/// Notes in a request's topmost `Via` where it was seen to come from; its answers tell the phone so (RFC 3261 section 18.2.1, RFC 3581 section 4).
fn seen_from(mut message: Message, flow: Flow) -> Message {
    let vias: Vec<String> = message.list("via").into_iter().map(str::to_owned).collect();
    let (Some((first, rest)), Some(via), true) = (vias.split_first(), message.via(), message.is_request()) else {
        return message;
    };
    let mut first = first.clone();
    if via.params.iter().any(|(name, value)| name == "rport" && value.is_none()) {
        first = first.replacen(";rport", &format!(";rport={}", flow.peer.port()), 1);
    } else if via.host == flow.peer.ip().to_string() {
        return message;
    }
    message.remove("via");
    for via in rest.iter().rev() {
        message.add_first("via", via.as_str());
    }
    message.add_first("via", format!("{first};received={}", flow.peer.ip()));
    message
}

fn unix() -> UnixTime {
    ClockSource::default().raw_unix()
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}
