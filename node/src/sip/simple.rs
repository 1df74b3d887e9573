//! Presence and messages of phones: for each account a desk that its phones' PUBLISH, SUBSCRIBE, MESSAGE and INFO come to.
//!
//! ```text
//! phone                     desk                          the account's node
//! PUBLISH    ------------>  publications  ------------->  presence
//! SUBSCRIBE  ------------>  subscriptions
//! <------------- NOTIFY     what is due   <-------------  events
//! MESSAGE    ------------------------------------------>  messages
//! <------------ MESSAGE     what no phone has taken  <--  unread messages
//! ```
//!
//! A desk is one task; it asks nothing but the node's public handle and the edge. What it keeps of messages is what the node has as unread, so that nothing is lost
//! when it ends. What is decided by time and numbers alone is in [`halloo_protocol::simple`].
//!
//! | module | what it does |
//! | --- | --- |
//! | `presence` | PUBLISH, and what the account's phones come to |
//! | `notify` | SUBSCRIBE and NOTIFY |
//! | `text` | MESSAGE, both ways |
//! | `profile`, `client` | the profile over INFO: its requests, and its clients |
//! | `names` | what the user calls buddies |

mod client;
mod names;
mod notify;
mod presence;
mod profile;
mod text;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use halloo_protocol::presence::State;
use halloo_protocol::rate::{Rate, RateLimiter};
use halloo_protocol::simple::delivery::{Delivery, Fate};
use halloo_protocol::simple::publication::Publications;
use halloo_protocol::simple::subscription::Subscriptions;
use halloo_protocol::simple::taken::Taken;
use halloo_protocol::sip::message::Message;
use halloo_protocol::sip::registrar::Binding;
use halloo_protocol::sip::status::reason_of;
use halloo_protocol::sip::transaction::Flow;
use halloo_protocol::sip::uri::{NameAddr, SipUri, address_of_user};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;
use tracing::debug;

use self::client::Client;
use self::names::Names;
use self::text::{Asked, Text};
use super::dialog::{Dialog, USER_AGENT, token};
use super::session::user_of;
use super::wire::{Arrived, Cause, INBOX_MAX, Input, Wire};
use crate::handle::waiting::WaitingMessage;
use crate::handle::{Event, Node};

/// How long a phone may take to answer; over datagrams the transaction gives up before.
const ANSWER_MAX: Duration = Duration::from_secs(40);

/// Messages and requests of one account: more than people type, less than would fill a disk.
const RATE: Rate = Rate { per_hour: 360_000, burst: 2_000 };

/// The edge's end of a desk.
#[derive(Clone, Debug)]
pub(super) struct Desk {
    requests: mpsc::Sender<Arrived>,
    changed: Arc<Notify>,
    refreshed: Arc<AtomicBool>,
    _task: Arc<AbortOnDropHandle<()>>,
}

impl Desk {
    /// Opens an account's desk; `names` is the file of what the user calls buddies. Closed when the last clone is dropped.
    pub(super) fn open(account: String, node: Node, wire: Wire, names: PathBuf) -> Self {
        let (requests, inbox) = mpsc::channel(INBOX_MAX);
        let changed = Arc::new(Notify::new());
        let (answers, answered) = mpsc::channel(INBOX_MAX);
        let clerk = Clerk::new(account, node, wire, names, answers);
        let refreshed = Arc::clone(&clerk.refreshed);
        let task = tokio::spawn(clerk.run(inbox, answered, Arc::clone(&changed)));
        Self { requests, changed, refreshed, _task: Arc::new(AbortOnDropHandle::new(task)) }
    }

    /// Hands over a request that was authenticated.
    ///
    /// # Errors
    /// It is given back if too many wait.
    #[allow(clippy::result_large_err, reason = "it is answered at once")]
    pub(super) fn take(&self, arrived: Arrived) -> Result<(), Arrived> {
        self.requests.try_send(arrived).map_err(|error| match error {
            mpsc::error::TrySendError::Full(arrived) | mpsc::error::TrySendError::Closed(arrived) => arrived,
        })
    }

    /// Ends it, once it has noted what phones have taken; what isn't noted by then goes to a phone once more.
    pub(super) async fn close(self) {
        const NOTED_MAX: Duration = Duration::from_secs(2);
        let Self { requests, _task: task, .. } = self;
        drop(requests);
        if let Ok(task) = Arc::try_unwrap(task) {
            let _ = tokio::time::timeout(NOTED_MAX, task).await;
        }
    }

    /// The account's phones have changed.
    pub(super) fn poke(&self) {
        self.changed.notify_one();
    }

    /// A phone has registered once more, from where it was. It is heard of before its next request, or with [`Desk::poke_refreshed`].
    pub(super) fn poke_soon(&self) {
        self.refreshed.store(true, Ordering::Relaxed);
    }

    /// The desk asks for its phones if one of them has registered once more.
    pub(super) fn poke_refreshed(&self) {
        if self.refreshed.load(Ordering::Relaxed) {
            self.poke();
        }
    }
}

/// What was asked elsewhere and has its answer.
#[derive(Debug)]
enum Finished {
    /// A NOTIFY.
    Notified { id: u64, is_success: bool },
    /// A word that somebody writes: whatever comes of it.
    Said,
    /// An INFO; `client` tells a client from one before it at the same phone.
    Informed { phone: String, client: u64, id: u32, status: Option<u16> },
    /// A buddy was asked.
    Added { phone: String, client: u64, re: u32, refused: Option<(u16, String)>, user: String, name: Option<String> },
}

/// The task of a desk.
struct Clerk {
    account: String,
    node: Node,
    wire: Wire,
    phones: BTreeMap<String, Binding>,
    /// A phone has registered once more since they were asked for.
    refreshed: Arc<AtomicBool>,
    /// Where phones were that sleep, and can be woken.
    sleepers: Vec<Flow>,
    /// A message has come that they should have.
    is_to_wake: bool,
    /// What was said last of whether they all sleep.
    is_asleep: bool,
    publications: Publications,
    /// What was said last of the user.
    said: Option<(State, Option<String>)>,
    subscriptions: Subscriptions<Dialog>,
    delivery: Delivery,
    texts: BTreeMap<String, Text>,
    /// Phones that have said that their user writes: they understand it of others.
    composers: BTreeSet<String>,
    /// Rows of unread messages that are still to be held, the oldest first.
    backlog: VecDeque<u64>,
    /// There may be more unread messages than those.
    has_more_texts: bool,
    /// Messages that phones have taken, and that aren't marked as read yet.
    taken: Taken<WaitingMessage>,
    clients: BTreeMap<String, Client>,
    next_client: u64,
    names: Names,
    rates: RateLimiter<()>,
    /// MESSAGEs that wait for their answers, which come to `answers`.
    asked: Asked,
    answers: mpsc::Sender<Input>,
    tasks: JoinSet<Finished>,
    /// Buddies being asked, which takes look-ups.
    asking: JoinSet<Finished>,
}

impl Clerk {
    fn new(account: String, node: Node, wire: Wire, names: PathBuf, answers: mpsc::Sender<Input>) -> Self {
        Self {
            account,
            node,
            wire,
            phones: BTreeMap::new(),
            refreshed: Arc::default(),
            sleepers: Vec::new(),
            is_to_wake: false,
            is_asleep: false,
            publications: Publications::default(),
            said: None,
            subscriptions: Subscriptions::default(),
            delivery: Delivery::default(),
            texts: BTreeMap::new(),
            composers: BTreeSet::new(),
            backlog: VecDeque::new(),
            has_more_texts: true,
            taken: Taken::default(),
            clients: BTreeMap::new(),
            next_client: 0,
            names: Names::read(names),
            rates: RateLimiter::new(1),
            asked: Asked::default(),
            answers,
            tasks: JoinSet::new(),
            asking: JoinSet::new(),
        }
    }

    async fn run(mut self, mut inbox: mpsc::Receiver<Arrived>, mut answered: mpsc::Receiver<Input>, changed: Arc<Notify>) {
        let mut events = self.node.subscribe();
        self.follow_phones().await;
        loop {
            self.drive().await;
            let due = self.poll_timeout();
            tokio::select! {
                // Events first: one of a message that was listed as well mustn't come after a phone has taken it.
                biased;
                record = events.recv() => match record {
                    Some(record) => self.handle_event(record.event).await,
                    None => return,
                },
                Some(answer) = answered.recv() => self.handle_answer(answer).await,
                arrived = inbox.recv() => match arrived {
                    Some(arrived) => self.handle(arrived).await,
                    None => return self.mark_taken().await,
                },
                Some(finished) = self.tasks.join_next(), if !self.tasks.is_empty() => match finished {
                    Ok(finished) => self.handle_finished(finished).await,
                    Err(error) => debug!(%error, "a request to a phone"),
                },
                Some(Ok(asked)) = self.asking.join_next(), if !self.asking.is_empty() => self.handle_finished(asked).await,
                () = changed.notified() => self.follow_phones().await,
                () = super::edge::sleep_until(due) => {}
            }
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let clients = self.clients.values().filter_map(Client::poll_timeout);
        let own = [
            self.publications.poll_timeout(),
            self.subscriptions.poll_timeout(),
            self.delivery.poll_timeout(),
            self.taken.poll_timeout(),
            self.asked.poll_timeout(),
        ];
        own.into_iter().flatten().chain(clients).min()
    }

    /// Does what is due.
    async fn drive(&mut self) {
        let now = Instant::now();
        if self.publications.expire(now) {
            self.say_own().await;
        }
        if self.taken.is_due(now) {
            self.mark_taken().await;
        }
        while let Some(asked) = self.asked.poll_overdue(now) {
            self.text_answered(asked, Fate::Failed).await;
        }
        self.hold_more().await;
        self.send_texts(now).await;
        if std::mem::take(&mut self.is_to_wake) {
            self.wire.wake(&self.account, None, Cause::Message).await;
        }
        self.drive_clients(now).await;
        while let Some(notice) = self.subscriptions.poll_notice(now) {
            self.notify(notice).await;
        }
    }

    async fn handle(&mut self, arrived: Arrived) {
        if self.refreshed.load(Ordering::Relaxed) {
            self.follow_phones().await;
        }
        if self.rates.take(&(), RATE, Instant::now()).is_err() {
            return self.refuse_with(&arrived, 503, reason_of(503), |answer| answer.add("retry-after", "10")).await;
        }
        match arrived.request.method() {
            "PUBLISH" => self.publish(arrived).await,
            "SUBSCRIBE" => self.subscribe(arrived).await,
            "MESSAGE" => self.take_text(arrived).await,
            _ => self.take_info(arrived).await,
        }
    }

    async fn handle_event(&mut self, event: Event) {
        match event {
            Event::Presence(view) => self.buddy_changed(&view.username),
            Event::ContactAccepted { username }
            | Event::ContactRemoved { username }
            | Event::ContactDeclined { username }
            | Event::ProfileChanged { username } => self.buddy_changed(&username),
            Event::MessageReceived { message_id, from, group: None, text, sent_at, .. } => {
                self.hold_text(&message_id, Text { from, text, sent_at });
            }
            Event::ConversationRead { with, group: None, elsewhere: true, .. } => self.forget_read(&with).await,
            Event::Composing { from, for_secs } => self.send_composing(&from, for_secs),
            Event::HistoryReceived { .. } => self.has_more_texts = true,
            Event::Missed { .. } => {
                self.subscriptions.all_changed();
                self.clients.values_mut().for_each(Client::all_changed);
                self.has_more_texts = true;
            }
            _ => {}
        }
    }

    fn buddy_changed(&mut self, user: &str) {
        self.subscriptions.changed(user);
        self.clients.values_mut().for_each(|client| client.buddy_changed(user));
    }

    async fn handle_finished(&mut self, finished: Finished) {
        let now = Instant::now();
        match finished {
            Finished::Notified { id, is_success } => self.subscriptions.answered(id, is_success, now),
            Finished::Said => {}
            Finished::Informed { phone, client, id, status } => self.info_answered(&phone, client, id, status),
            Finished::Added { phone, client, re, refused, user, name } => {
                if refused.is_none() && name.is_some() {
                    self.names.set(&user, name);
                }
                self.buddy_added(&phone, client, re, refused);
            }
        }
    }

    /// Asks the edge which phones there are.
    async fn follow_phones(&mut self) {
        self.refreshed.store(false, Ordering::Relaxed);
        let bindings = self.wire.bindings(&self.account).await;
        let mut fresh = BTreeSet::new();
        let mut phones = BTreeMap::new();
        for (binding, _) in bindings {
            let name = binding.instance.clone().unwrap_or_else(|| binding.contact.clone());
            let known = self.phones.get(&name);
            if known.is_none_or(|known| known.expires_at != binding.expires_at || known.flow != binding.flow) {
                fresh.insert(name.clone());
            }
            if known.is_some_and(|known| known.call_id() != binding.call_id()) {
                // It was switched on again: numbers begin anew.
                self.clients.remove(&name);
            }
            phones.insert(name, binding);
        }
        self.phones = phones;
        self.sleepers = self.wire.sleepers(&self.account).await;
        self.say_asleep().await;
        self.clients.retain(|name, _| self.phones.contains_key(name));
        self.composers.retain(|name| self.phones.contains_key(name));
        self.follow_receivers(&fresh);
        self.say_own().await;
    }

    /// Contacts see an account whose phones all sleep as reached by a push.
    async fn say_asleep(&mut self) {
        let is_asleep = self.phones.is_empty() && !self.sleepers.is_empty();
        if is_asleep != self.is_asleep && self.node.presence().set_asleep(is_asleep).await.is_ok() {
            self.is_asleep = is_asleep;
        }
    }

    /// A phone whose way looked open has said nothing.
    async fn wake_silent(&self, phone: &str) {
        if let Some(app) = self.phones.get(phone).and_then(|phone| phone.push.clone()) {
            self.wire.wake(&self.account, Some(vec![app]), Cause::Message).await;
        }
    }

    /// Who gets messages: phones, and clients of the profile while they are logged in.
    fn follow_receivers(&mut self, fresh: &BTreeSet<String>) {
        let gets = |name: &&String| self.clients.get(*name).is_none_or(Client::gets_messages);
        let receivers = self.phones.keys().filter(gets).cloned().collect();
        self.delivery.set_phones(&receivers, fresh);
        self.has_more_texts |= self.delivery.take_new_phone();
        self.tidy_texts();
    }

    /// Whom a request is to: `name@authority`.
    fn target(&self, request: &Message) -> Option<String> {
        let home = self.account.split_once('@').map(|(_, authority)| authority);
        SipUri::parse(request.request_uri()).ok().and_then(|uri| user_of(&uri, home))
    }

    /// The same of a URI in a body, or `name@authority` alone.
    fn user_named(&self, text: &str) -> Option<String> {
        let home = self.account.split_once('@').map(|(_, authority)| authority);
        let uri = if text.contains(':') { text.to_owned() } else { format!("sip:{text}") };
        user_of(&SipUri::parse(&uri).ok()?, home)
    }

    async fn refuse(&self, arrived: &Arrived, status: u16, reason: &str) {
        self.refuse_with(arrived, status, reason, |_| {}).await;
    }

    async fn refuse_with(&self, arrived: &Arrived, status: u16, reason: &str, more: impl FnOnce(&mut Message)) {
        let mut answer = Message::answer(&arrived.request, status, reason, Some(&token()));
        more(&mut answer);
        answer.add("server", USER_AGENT);
        self.wire.respond(arrived.id, answer).await;
    }
}

/// A request to a phone outside of any call, from somebody to the account.
pub(super) fn request_to(phone: &Binding, method: &str, from: &NameAddr, account: &str) -> Message {
    let mut request = Message::request(method, &phone.contact);
    request.add("max-forwards", "70");
    request.add("from", format!("{from};tag={}", token()));
    request.add("to", format!("<{}>", address_of_user(account)));
    request.add("call-id", format!("{}@halloo", token()));
    request.add("cseq", format!("1 {method}"));
    request.add("user-agent", USER_AGENT);
    request
}

/// A user as an address.
fn address(user: &str) -> NameAddr {
    let display = user.split('@').next().unwrap_or_default().to_owned();
    NameAddr { display, uri: address_of_user(user), params: Vec::new() }
}

/// A header's value without parameters, in lower case.
fn bare(value: &str) -> String {
    value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}
