//! The edge's task: it owns sockets, transactions, registrations and accounts, and tells each request who it is for.
//!
//! A datagram's way: ban, parser, transaction, dialog, credentials, method. Up to the credentials nothing is kept of it, and what it gets is a
//! challenge or a refusal of its form.

mod asks;
mod calls;
mod commands;
mod dispatch;
mod push;
mod registration;
mod telephone;
pub(super) mod wake;

use std::collections::{BTreeMap, HashMap};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use halloo_protocol::push::phone::PhonePushed;
use halloo_protocol::sip::digest::Authenticator;
use halloo_protocol::sip::guard::Guard;
use halloo_protocol::sip::message::{Message, Refusal};
use halloo_protocol::sip::registrar::Registrar;
use halloo_protocol::sip::status::reason_of;
use halloo_protocol::sip::transaction::{ClientId, Flow, Output, ServerId, Transactions};
use halloo_protocol::time::UnixTime;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, error, warn};

pub(super) use self::dispatch::is_address;
use self::dispatch::{required, seen_from, unsupported};
use self::registration::{Saving, read_bindings};
use super::accounts::{Account, Accounts, Added, REALM};
use super::media::PhoneMedia;
use super::simple::Desk;
use super::transport::{Incoming, Transports};
use super::trunk::Trunks;
use super::wire::{Ask, INBOX_MAX, Input, Wire};
use crate::event_loop::ClockSource;
use crate::handle::push::PushError;
use crate::handle::sip::{SipCommand, SipCredentials, SipError};
use crate::handle::{Event, Node, Reply};
use crate::roles::gateway::sip::SipPush;

/// How often registrations are written, if they changed without anybody waiting for it, and what is closed is forgotten.
const SAVE_EVERY: Duration = Duration::from_secs(5);

/// After something of the edge's own has gone wrong as nothing may: so that it doesn't take a whole core if it does so again and again.
const AFTER_PANIC: Duration = Duration::from_millis(100);

/// How long accounts may take to end.
const ENDING_MAX: Duration = Duration::from_secs(5);

/// What has come already is done in one turn, up to so much.
const TURN_MAX: usize = 32;

/// Legs of one account's calls at once, each with two ports: of a call it makes one, of a call to it one for each phone that rings.
const LEGS_OF_ACCOUNT_MAX: usize = 24;

/// An account that runs.
#[derive(Debug)]
struct Running {
    account: Account,
    /// Presence, messages and the INFO profile.
    desk: Desk,
    /// Its share of calls and ports.
    legs: Arc<Semaphore>,
    /// Tells the edge of calls that come in.
    _events: AbortOnDropHandle<()>,
}

/// A dialog that requests belong to.
#[derive(Debug)]
struct Followed {
    account: String,
    /// Which phone, where one is registered on that flow.
    phone: Option<String>,
    flow: Flow,
    inbox: mpsc::Sender<Input>,
}

/// What is done elsewhere and comes back.
enum Done {
    Added(Result<Added, SipError>, Reply<SipCredentials, SipError>),
    Call {
        account: String,
        event: Event,
    },
    /// What a gateway can do for an account's phones.
    Offered {
        account: String,
        offer: Result<PhonePushed, PushError>,
    },
    Woken(wake::Woken),
    /// Registrations are on disk, or aren't.
    Saved {
        answers: Vec<(ServerId, Message)>,
        result: Result<(), String>,
    },
}

/// The whole state.
pub(super) struct Edge {
    transports: Transports,
    transactions: Transactions,
    guard: Guard,
    authenticator: Authenticator,
    registrar: Registrar,
    is_registrar_changed: bool,
    saving: Saving,
    /// When desks are to hear of phones that have registered once more.
    poke_at: Option<Instant>,
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
    trunks: Trunks,
    /// Whether digits that a phone dials are a telephone number.
    dials_numbers: bool,
    wakes: wake::Wakes,
}

/// What the task reads.
pub(super) struct Inputs {
    pub(super) incoming: mpsc::Receiver<Incoming>,
    pub(super) asked: mpsc::Receiver<Ask>,
    pub(super) commands: mpsc::Receiver<SipCommand>,
    pub(super) pushed: mpsc::Receiver<SipPush>,
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
    pub(super) trunks: Trunks,
    pub(super) dials_numbers: bool,
    pub(super) push_gateway: Option<String>,
}

impl Edge {
    /// Starts the accounts there are. One that can't start is told in the log, and is there again with the next start.
    pub(super) async fn open(
        parts: Parts,
        incoming: mpsc::Receiver<Incoming>,
        asked: mpsc::Receiver<Ask>,
        commands: mpsc::Receiver<SipCommand>,
        pushed: mpsc::Receiver<SipPush>,
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
            saving: Saving::default(),
            poke_at: None,
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
            trunks: parts.trunks,
            dials_numbers: parts.dials_numbers,
            wakes: wake::Wakes::by(parts.push_gateway),
        };
        for record in edge.accounts.load()? {
            let name = record.account.clone();
            match edge.accounts.start(record, &edge.own).await {
                Ok(account) => edge.run_account(account),
                Err(error) => warn!(account = %halloo_protocol::redact::Redacted(&name), %error, "a SIP account can't start"),
            }
        }
        Ok((edge, Inputs { incoming, asked, commands, pushed, done: done_receiver }))
    }

    /// Serves until told to stop. Whatever goes wrong with one request, the others are served.
    pub(super) async fn run(mut self, mut inputs: Inputs, stop: CancellationToken) {
        let trunks = self.trunks.keep(&self.wire, &self.transports.connector(), &self.own);
        let mut tick = tokio::time::interval(SAVE_EVERY);
        while shielded(self.turn(&mut inputs, &mut tick, &stop)).await {}
        // Providers are told by this very task, and what they answer comes to it.
        let left = CancellationToken::new();
        let guard = left.clone().drop_guard();
        let leaving = AbortOnDropHandle::new(tokio::spawn(async move {
            trunks.leave().await;
            drop(guard);
        }));
        while shielded(self.turn(&mut inputs, &mut tick, &left)).await {}
        drop(leaving);
        self.saving.finish().await;
        self.save_bindings();
        // Nobody is answered any more, which desks may be waiting for.
        drop(inputs);
        let ending = self.running.into_values().map(|running| async move {
            running.desk.close().await;
            running.account.node.shutdown().await
        });
        // Those that have ended by themselves are where they should be.
        let _ = tokio::time::timeout(ENDING_MAX, futures::future::join_all(ending)).await;
    }

    /// The next thing there is to do. False once told to stop.
    async fn turn(&mut self, inputs: &mut Inputs, tick: &mut tokio::time::Interval, stop: &CancellationToken) -> bool {
        self.flush();
        let due = [self.transactions.poll_timeout(), self.saving.due(), self.poke_at].into_iter().flatten().min();
        tokio::select! {
            () = stop.cancelled() => return false,
            Some(incoming) = inputs.incoming.recv() => {
                self.handle_incoming(incoming);
                for incoming in std::iter::from_fn(|| inputs.incoming.try_recv().ok()).take(TURN_MAX) {
                    self.handle_incoming(incoming);
                }
            }
            Some(ask) = inputs.asked.recv() => {
                self.handle_ask(ask);
                for ask in std::iter::from_fn(|| inputs.asked.try_recv().ok()).take(TURN_MAX) {
                    self.handle_ask(ask);
                }
            }
            Some(command) = inputs.commands.recv() => self.handle_command(command),
            Some(push) = inputs.pushed.recv() => self.handle_push(push),
            Some(done) = inputs.done.recv() => self.handle_done(done),
            () = sleep_until(due) => self.handle_timeout(Instant::now()),
            _ = tick.tick() => self.tick(),
        }
        true
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.transactions.handle_timeout(now);
        if self.saving.due().is_some_and(|at| at <= now) {
            self.begin_save();
        }
        if self.poke_at.is_some_and(|at| at <= now) {
            self.poke_refreshed();
        }
    }

    fn tick(&mut self) {
        for account in self.registrar.expire(unix()) {
            self.is_registrar_changed = true;
            self.poke_desk(&account);
        }
        if self.is_registrar_changed {
            self.begin_save();
        }
        self.wake_tick();
        self.forget_closed();
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
                self.trunks.closed(flow);
                for account in self.registrar.flow_closed(flow) {
                    self.is_registrar_changed = true;
                    self.poke_desk(&account);
                }
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
        if self.receive_from_provider(&message, flow, now) {
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
        if inbox.try_send(Input::Request(id, message.clone())).is_ok() {
            self.servers.insert(id, inbox);
        } else {
            // Nobody will answer it: a transaction without an end mustn't stay.
            self.transactions.respond(id, &Message::answer(message, 503, reason_of(503), None), now);
        }
        true
    }
}

/// Does what there is to do; false once that was told to be the last. A bug in it, told by the panic's own message, ends nothing but itself.
async fn shielded(turn: impl Future<Output = bool>) -> bool {
    match AssertUnwindSafe(turn).catch_unwind().await {
        Ok(goes_on) => goes_on,
        Err(_panic) => {
            error!("a bug, told above: the SIP edge goes on without what it was doing");
            tokio::time::sleep(AFTER_PANIC).await;
            true
        }
    }
}

fn tell(inbox: &mpsc::Sender<Input>, input: Input) {
    if inbox.try_send(input).is_err() {
        debug!("a call is over, or has too much to do");
    }
}

fn unix() -> UnixTime {
    ClockSource::default().raw_unix()
}

pub(super) async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_ends_one_request_and_nothing_else() {
        let mut served = Vec::new();
        for request in 0..4 {
            let turn = async {
                assert_ne!(request, 1, "a bug");
                served.push(request);
                request < 3
            };
            if !shielded(turn).await {
                break;
            }
        }
        assert_eq!(served, [0, 2, 3]);
    }
}
