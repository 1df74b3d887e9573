//! Messages between users: queued on disk, sent to every device of the recipient, repeated until acknowledged.
//!
//! Before `send` returns the message is in the database; before a received one is acknowledged it is too. So a killed node loses nothing it
//! said it has, and the sender's repetitions are recognised as duplicates.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use bincode::{Decode, Encode};
use halloo_protocol::call::Reason;
use halloo_protocol::contact::privacy::{Kind, Relation};
use halloo_protocol::directory::DirectoryRecord;
use halloo_protocol::id::{ConversationId, MessageId};
use halloo_protocol::identity::{DeviceCertificate, UserId, VerifiedChain};
use halloo_protocol::key::{DeviceKey, PublicKey};
use halloo_protocol::message::{
    CopyState, DeliveryStatus, Envelope, MessageAck, MessageBody, MessageDeliver, MessageState as WireState, Outbox,
    OutboxAction, OutboxItem, OutboxTimers, TEXT_BYTES_MAX,
};
use halloo_protocol::rate::{Rate, RateLimiter};
use halloo_protocol::time::{Now, UnixTime};
use halloo_protocol::wire::{self, Extensions, Frame, Message, Signed};
use libp2p::PeerId;
use tracing::{debug, warn};

use crate::directory::Waiter;
use crate::event_loop::EventLoop;
use crate::handle::directory::ResolveError;
use crate::handle::messages::{MessageEntry, MessageError, MessageList, MessageListOptions, MessageState, MessageStatus};
use crate::handle::problem::NodeError;
use crate::handle::{Event, Reply};
use crate::network::Purpose;
use crate::rpc::Failure;
use crate::store::{Direction, MessageRow, StoreError, Transaction};
use crate::timestamp::Timestamp;

/// How long a message is tried before it fails.
const DEADLINE_SECS: u64 = 30 * 86_400;

/// How long a device may take to acknowledge: it may have to be dialled, and it writes to disk.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(8);

/// How long a copy may go unacknowledged before it is also left in the device's mailboxes: several round trips, and less than a person who
/// sends a message and closes the lid waits.
const LEAVE_AFTER: Duration = Duration::from_secs(2);

/// Callers waiting for messages to arrive.
const WAITERS_MAX: usize = 1_024;

/// Devices whose failed entries are remembered; when full, all are forgotten, and the ordinary retries go on.
const FAILED_ENTRIES_MAX: usize = 1_024;

/// Messages taken up again at the start.
const RESUME_MAX: usize = 1_024;

/// Messages an hour of one user who is no contact, and of one who is.
const STRANGER_RATE: Rate = Rate { per_hour: 600, burst: 100 };
const CONTACT_RATE: Rate = Rate { per_hour: 20_000, burst: 2_000 };

/// The same in a lab, where machines talk.
const LAB_RATE: Rate = Rate { per_hour: 3_600_000, burst: 100_000 };

/// What all strangers together may have this node write to its disk in a day.
const STRANGERS_BYTES_PER_DAY: usize = 32 * 1024 * 1024;

/// Senders whose rates are remembered.
const SENDERS_MAX: usize = 4_096;

/// Where a message's number in its conversation is kept: numbers shared by all conversations would tell each how busy the others are, and
/// look like gaps.
pub(crate) fn counter_setting(conversation: &ConversationId) -> String {
    format!("message counter {}", data_encoding::HEXLOWER.encode(&conversation.0))
}

/// Decides who may have how much kept here.
#[derive(Debug)]
struct Intake {
    rates: RateLimiter<PublicKey>,
    day: u64,
    strange_bytes: usize,
}

impl Intake {
    const fn new() -> Self {
        Self { rates: RateLimiter::new(SENDERS_MAX), day: 0, strange_bytes: 0 }
    }

    /// True if a message of so many bytes is taken.
    fn admit(&mut self, sender: &PublicKey, rate: Rate, is_stranger: bool, bytes: usize, now: Now) -> bool {
        let day = now.unix.0 / 86_400;
        if self.day != day {
            (self.day, self.strange_bytes) = (day, 0);
        }
        if is_stranger && self.strange_bytes.saturating_add(bytes) > STRANGERS_BYTES_PER_DAY {
            return false;
        }
        if self.rates.take(sender, rate, now.instant).is_err() {
            return false;
        }
        if is_stranger {
            self.strange_bytes += bytes;
        }
        true
    }
}

/// Largest stored message: what a message may have, and the states of its copies.
const KEPT_BYTES_MAX: usize = MessageDeliver::LIMIT + 4 * 1_024;

/// A message that is in the database and not in the outbox yet.
#[derive(Debug)]
pub(crate) struct Queued {
    number: u64,
    item: OutboxItem,
}

/// Keeps a signal of contacts that goes out, in the transaction of what it tells of. Hand it to [`EventLoop::queue_kept`] when that is done.
///
/// # Errors
/// [`StoreError`].
pub(crate) fn keep_signal(tx: &Transaction, to: &UserId, envelope: Envelope, now: UnixTime) -> Result<Queued, StoreError> {
    let item = OutboxItem { to: to.clone(), envelope, deadline: now.plus_secs(DEADLINE_SECS), copies: BTreeMap::new() };
    let kept = Kept::Sent { item: item.clone(), state: state_number(WireState::Queued) };
    let row = MessageRow {
        id: item.envelope.id.0.to_vec(),
        direction: Direction::Out,
        conversation: to.clone(),
        content: wire::encode(&kept),
    };
    Ok(Queued { number: tx.add_signal(&row)?, item })
}

/// A copy on its way to one device.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Delivery {
    id: MessageId,
    device: DeviceKey,
}

/// A message in the database.
#[derive(Clone, Debug, Encode, Decode)]
enum Kept {
    Sent { item: OutboxItem, state: u8 },
    Received { from: DeviceKey, envelope: Envelope },
}

/// Messages on their way, and who waits for them.
#[derive(Debug)]
pub(crate) struct MessagesState {
    pub(crate) outbox: Outbox,
    waiters: Vec<(MessageId, Reply<MessageStatus, MessageError>)>,
    /// Where outgoing messages stand in the database.
    rows: HashMap<MessageId, u64>,
    /// The entries by which devices could not be reached: a newer one is tried at once.
    failed_entries: HashMap<DeviceKey, [u8; 32]>,
    intake: Intake,
    /// Copies on their way, with the time at which they are left in a mailbox too. At most as many as requests under way.
    unacknowledged: HashMap<(MessageId, DeviceKey), Instant>,
    /// The outbox's actions are being worked off further up the stack.
    is_driving: bool,
    /// Messages wait in the database for room in the outbox.
    has_overflowed: bool,
}

impl Default for MessagesState {
    fn default() -> Self {
        let timers = OutboxTimers { retry_min: Duration::from_secs(1), retry_max: Duration::from_secs(60) };
        Self {
            outbox: Outbox::new(timers),
            waiters: Vec::new(),
            rows: HashMap::new(),
            failed_entries: HashMap::new(),
            intake: Intake::new(),
            unacknowledged: HashMap::new(),
            is_driving: false,
            has_overflowed: false,
        }
    }
}

const fn shown(state: WireState) -> MessageState {
    match state {
        WireState::Failed => MessageState::Failed,
        WireState::Queued => MessageState::Queued,
        WireState::Sent => MessageState::Sent,
        WireState::Delivered => MessageState::Delivered,
        WireState::Read => MessageState::Read,
    }
}

/// How far a message is, and if it failed, why.
fn status_of(item: &OutboxItem, state: WireState) -> MessageStatus {
    let reason = (state == WireState::Failed).then(|| {
        let refused = item.copies.values().find_map(|copy| match copy {
            CopyState::Failed(Reason::NOT_ALLOWED) => {
                Some("not a contact of the recipient, who takes no messages from others".to_owned())
            }
            CopyState::Failed(Reason::TOO_MANY) => Some("the recipient has had too many messages".to_owned()),
            CopyState::Failed(Reason::INVALID) => Some("the recipient could not read it".to_owned()),
            CopyState::Failed(other) => Some(format!("refused: {other}")),
            _ => None,
        });
        refused.unwrap_or_else(|| "not delivered in time".to_owned())
    });
    MessageStatus { id: item.envelope.id.to_string(), state: shown(state), reason }
}

const STATES: [WireState; 5] = [WireState::Failed, WireState::Queued, WireState::Sent, WireState::Delivered, WireState::Read];

fn state_number(state: WireState) -> u8 {
    STATES.iter().position(|known| *known == state).and_then(|position| u8::try_from(position).ok()).unwrap_or(0)
}

fn state_of(number: u8) -> WireState {
    STATES.get(usize::from(number)).copied().unwrap_or(WireState::Queued)
}

/// The text of a kept message; `None` for what isn't one.
pub(crate) fn text_of(row: &MessageRow) -> Option<String> {
    let envelope = match decode_kept(&row.content)? {
        Kept::Sent { item, .. } => item.envelope,
        Kept::Received { envelope, .. } => envelope,
    };
    match envelope.body {
        MessageBody::Text(text) => Some(text),
        _ => None,
    }
}

/// A message of a conversation, as it is taken out of one home and brought into another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Portable {
    /// The other side.
    pub(crate) with: UserId,
    /// The device that sent it, if it was received.
    pub(crate) device: Option<DeviceKey>,
    pub(crate) id: MessageId,
    pub(crate) conversation: ConversationId,
    pub(crate) counter: u64,
    pub(crate) sent_at: UnixTime,
    /// How far it came, if it was sent.
    pub(crate) state: u8,
    pub(crate) text: String,
}

/// A kept message, to be taken out.
pub(crate) fn portable(row: &MessageRow) -> Option<Portable> {
    let (device, envelope, state) = match decode_kept(&row.content)? {
        Kept::Sent { item, state } => (None, item.envelope, state),
        Kept::Received { from, envelope } => (Some(from), envelope, state_number(WireState::Delivered)),
    };
    let MessageBody::Text(text) = envelope.body else { return None };
    let Envelope { id, conversation, counter, sent_at, .. } = envelope;
    Some(Portable { with: row.conversation.clone(), device, id, conversation, counter, sent_at, state, text })
}

/// Keeps a message that was brought in, unless it is here. True if it is new.
pub(crate) fn keep_portable(tx: &Transaction, message: Portable) -> Result<bool, StoreError> {
    let Portable { with, device, id, conversation, counter, sent_at, state, text } = message;
    let body = MessageBody::Text(text);
    let envelope = Envelope { id, conversation, counter, sent_at, body, extensions: Extensions::none() };
    let (row_id, direction, kept) = match device {
        Some(from) => ([&from.as_bytes()[..], &id.0].concat(), Direction::In, Kept::Received { from, envelope }),
        None => {
            let item = OutboxItem { to: with.clone(), envelope, deadline: sent_at, copies: BTreeMap::new() };
            (id.0.to_vec(), Direction::Out, Kept::Sent { item, state: state_number(state_of(state)) })
        }
    };
    if tx.message_by_id(&row_id)?.is_some() {
        return Ok(false);
    }
    let number = tx.add_message(&MessageRow { id: row_id, direction, conversation: with, content: wire::encode(&kept) })?;
    match device {
        // A late copy of it is known.
        Some(from) => drop(tx.is_first_copy(&from, &id.0, sent_at)?),
        // Whoever sent it has seen to its delivery.
        None => drop(tx.finish_message(number)?),
    }
    Ok(true)
}

fn decode_kept(bytes: &[u8]) -> Option<Kept> {
    wire::decode(bytes, KEPT_BYTES_MAX).ok()
}

fn internal(error: &StoreError) -> MessageError {
    MessageError::Node(NodeError::Internal { detail: error.to_string() })
}

impl EventLoop {
    /// Takes up what an earlier run left undelivered.
    pub(crate) fn messages_start(&mut self) {
        self.messages.has_overflowed = false;
        let rows = match self.store.read::<_, StoreError>(|view| view.unfinished_messages(RESUME_MAX)) {
            Ok(rows) => rows,
            Err(error) => return warn!(%error, "outbox not restored from the database"),
        };
        self.messages.has_overflowed = rows.len() >= RESUME_MAX;
        for (number, row) in rows {
            if let Some(Kept::Sent { item, .. }) = decode_kept(&row.content) {
                self.messages.rows.insert(item.envelope.id, number);
                if let Err(error) = self.messages.outbox.push(item, Instant::now()) {
                    debug!(%error, "message not taken up again");
                }
            }
        }
        self.drive_outbox();
    }

    pub(crate) fn outbox_len(&self) -> u64 {
        self.messages.outbox.len() as u64
    }

    pub(crate) fn handle_message_send(&mut self, to: &str, text: String, reply: Reply<MessageStatus, MessageError>) {
        let queued = self.queue_message(to, text);
        reply.send(queued.map(|id| self.message_status(id)));
    }

    fn queue_message(&mut self, to: &str, text: String) -> Result<MessageId, MessageError> {
        if text.is_empty() {
            return Err(MessageError::Empty);
        }
        if text.len() > TEXT_BYTES_MAX {
            return Err(MessageError::TooLarge { bytes: text.len(), max: TEXT_BYTES_MAX });
        }
        let user = self.labels.parse(to)?;
        self.refuse_changed(&user)?;
        let now = self.now();
        let id = MessageId::random(&mut self.rng);
        let conversation = ConversationId::of_pair(&self.identity.user_id(), &user);
        let item = self
            .store
            .transaction::<_, StoreError>(|tx| {
                let setting = counter_setting(&conversation);
                let counter = tx.setting_value::<u64>(&setting)?.unwrap_or(0).saturating_add(1);
                tx.put_setting_value(&setting, &counter)?;
                let envelope = Envelope {
                    id,
                    conversation,
                    counter,
                    sent_at: now.unix,
                    body: MessageBody::Text(text),
                    extensions: Extensions::none(),
                };
                let deadline = now.unix.plus_secs(DEADLINE_SECS);
                let item = OutboxItem { to: user.clone(), envelope, deadline, copies: BTreeMap::new() };
                let kept = Kept::Sent { item: item.clone(), state: state_number(WireState::Queued) };
                let row = MessageRow {
                    id: id.0.to_vec(),
                    direction: Direction::Out,
                    conversation: user.clone(),
                    content: wire::encode(&kept),
                };
                Ok((tx.add_message(&row)?, item))
            })
            .map_err(|error| internal(&error))?;
        let (number, item) = item;
        self.messages.rows.insert(id, number);
        if let Err(error) = self.messages.outbox.push(item, now.instant) {
            debug!(%error, "outbox is full: the message waits in the database");
            self.messages.has_overflowed = true;
        }
        self.drive_outbox();
        Ok(id)
    }

    /// How many messages to a user wait in the outbox.
    pub(crate) fn signals_waiting(&self, to: &UserId) -> usize {
        self.messages.outbox.items().filter(|item| item.to == *to).count()
    }

    /// Sends what [`keep_signal`] has kept.
    pub(crate) fn queue_kept(&mut self, queued: Vec<Queued>, now: Now) {
        for Queued { number, item } in queued {
            self.messages.rows.insert(item.envelope.id, number);
            if let Err(error) = self.messages.outbox.push(item, now.instant) {
                debug!(%error, "outbox is full: the signal waits in the database");
                self.messages.has_overflowed = true;
            }
        }
        self.drive_outbox();
    }

    fn message_status(&self, id: MessageId) -> MessageStatus {
        if let Some(item) = self.messages.outbox.item(&id) {
            return status_of(item, item.state());
        }
        match self.kept_item(id) {
            Some((item, state)) => status_of(&item, state),
            None => MessageStatus { id: id.to_string(), state: MessageState::Queued, reason: None },
        }
    }

    /// A message of ours as the database has it.
    fn kept_item(&self, id: MessageId) -> Option<(OutboxItem, WireState)> {
        let (_, row) = self.store.read::<_, StoreError>(|view| view.message_by_id(&id.0)).ok()??;
        match decode_kept(&row.content)? {
            Kept::Sent { item, state } => Some((item, state_of(state))),
            Kept::Received { .. } => None,
        }
    }

    pub(crate) fn handle_message_wait(&mut self, id: &str, reply: Reply<MessageStatus, MessageError>) {
        let unknown = || MessageError::UnknownMessage { id: id.chars().take(64).collect() };
        let Ok(id) = id.parse::<MessageId>() else { return reply.send(Err(unknown())) };
        if self.messages.outbox.item(&id).is_none() && self.kept_item(id).is_none() {
            return reply.send(Err(unknown()));
        }
        let status = self.message_status(id);
        if status.state >= MessageState::Delivered {
            return reply.send(Ok(status));
        }
        self.messages.waiters.retain(|(_, waiting)| !waiting.is_closed());
        if self.messages.waiters.len() >= WAITERS_MAX {
            let full = NodeError::LimitReached { what: "callers waiting for messages", max: WAITERS_MAX };
            return reply.send(Err(MessageError::Node(full)));
        }
        self.messages.waiters.push((id, reply));
    }

    pub(crate) fn handle_message_list(&self, user: &str, options: MessageListOptions, reply: Reply<MessageList, MessageError>) {
        reply.send(self.list_messages(user, options));
    }

    fn list_messages(&self, user: &str, options: MessageListOptions) -> Result<MessageList, MessageError> {
        let user = self.labels.parse(user)?;
        let limit = options.limit.unwrap_or(MessageListOptions::LIMIT_DEFAULT).min(MessageListOptions::LIMIT_MAX);
        let rows = self
            .store
            .read::<_, StoreError>(|view| view.conversation(&user, None, limit as usize))
            .map_err(|error| internal(&error))?;
        let mut rows: Vec<_> = rows.into_iter().collect();
        rows.sort_by_key(|(number, _)| *number);
        let messages = rows.into_iter().filter_map(|(_, row)| self.message_entry(&user, &row)).collect();
        Ok(MessageList { with: self.labels.display(&user), messages })
    }

    pub(crate) fn message_entry(&self, user: &UserId, row: &MessageRow) -> Option<MessageEntry> {
        let me = self.labels.display(&self.identity.user_id());
        let them = self.labels.display(user);
        let (envelope, incoming, state) = match decode_kept(&row.content)? {
            Kept::Sent { item, state } => {
                let live = self.messages.outbox.item(&item.envelope.id).map(OutboxItem::state);
                (item.envelope, false, live.unwrap_or_else(|| state_of(state)))
            }
            Kept::Received { envelope, .. } => (envelope, true, WireState::Delivered),
        };
        let MessageBody::Text(text) = envelope.body else { return None };
        let (from, to) = if incoming { (them, me) } else { (me, them) };
        let sent_at = Timestamp::from_unix_secs(envelope.sent_at.0);
        Some(MessageEntry { id: envelope.id.to_string(), from, to, incoming, text, sent_at, state: shown(state) })
    }

    /// A message from a peer: kept, then acknowledged.
    pub(crate) fn handle_message_deliver(&mut self, peer: PeerId, message: MessageDeliver) -> MessageAck {
        let status = self.take_message(peer, message.envelope);
        MessageAck { status, extensions: Extensions::none() }
    }

    fn take_message(&mut self, peer: PeerId, envelope: Envelope) -> DeliveryStatus {
        if envelope.check().is_err() {
            self.counters.malformed += 1;
            return DeliveryStatus::Refused(Reason::INVALID);
        }
        let known = self.peers.get(&peer).and_then(|known| Some((known.chain.clone()?, known.certificate()?.clone())));
        match known {
            Some((sender, certificate)) => self.keep_message(&sender, &certificate, envelope),
            None => DeliveryStatus::Refused(Reason::NOT_ALLOWED),
        }
    }

    /// Keeps a message of somebody whose chain was believed, whatever way it came. Its lengths were checked.
    pub(crate) fn keep_message(
        &mut self,
        sender: &VerifiedChain,
        certificate: &Signed<DeviceCertificate>,
        envelope: Envelope,
    ) -> DeliveryStatus {
        match envelope.body.clone() {
            MessageBody::Text(text) => self.take_text(sender, envelope, text),
            MessageBody::Contact(signal) => match self.take_contact_signal(sender, certificate, signal) {
                Ok(()) => DeliveryStatus::Accepted,
                Err(reason) => DeliveryStatus::Refused(reason),
            },
            MessageBody::File(signal) => self.take_file_signal(sender, envelope.id, signal),
        }
    }

    fn take_text(&mut self, sender: &VerifiedChain, envelope: Envelope, text: String) -> DeliveryStatus {
        if !self.decide(&sender.user, Kind::Message).is_allowed {
            return DeliveryStatus::Refused(Reason::NOT_ALLOWED);
        }
        let user = sender.user.id.clone();
        let now = self.now().unix;
        let id = envelope.id;
        let kept = Kept::Received { from: sender.device, envelope: envelope.clone() };
        // Senders choose ids: with its device's key one can't take the place of another's message.
        let row_id = [&sender.device.as_bytes()[..], &id.0].concat();
        let row = MessageRow { id: row_id, direction: Direction::In, conversation: user.clone(), content: wire::encode(&kept) };
        if !self.admit_message(sender, row.content.len()) {
            self.counters.rate_limited += 1;
            return DeliveryStatus::Refused(Reason::TOO_MANY);
        }
        let stored = self.store.transaction::<_, StoreError>(|tx| {
            let is_first = tx.is_first_copy(&sender.device, &id.0, now)?;
            if is_first {
                tx.add_message(&row)?;
            }
            Ok(is_first)
        });
        match stored {
            Ok(true) => {
                let sent_at = Timestamp::from_unix_secs(envelope.sent_at.0);
                self.events.send(Event::MessageReceived {
                    message_id: id.to_string(),
                    from: self.labels.display(&user),
                    text,
                    sent_at,
                });
                DeliveryStatus::Accepted
            }
            Ok(false) => DeliveryStatus::Duplicate,
            Err(error) => {
                warn!(%error, "message not kept");
                // The sender tries again later.
                DeliveryStatus::Refused(Reason::TOO_MANY)
            }
        }
    }

    /// True if a message of this sender is kept: certificates are cheap, the disk isn't.
    pub(crate) fn admit_message(&mut self, sender: &VerifiedChain, bytes: usize) -> bool {
        let is_stranger = !matches!(self.relation(&sender.user), Relation::Own | Relation::Contact);
        let rate = match (self.settings.lab, is_stranger) {
            (true, _) => LAB_RATE,
            (false, true) => STRANGER_RATE,
            (false, false) => CONTACT_RATE,
        };
        let now = self.now();
        self.messages.intake.admit(&sender.user.identity.0, rate, is_stranger, bytes, now)
    }

    /// Does what the outbox wants. Answers that are at hand come back here while it does: what they add is worked off by the loop that
    /// runs already, not by one within it for each message that waits.
    pub(crate) fn drive_outbox(&mut self) {
        if std::mem::replace(&mut self.messages.is_driving, true) {
            return;
        }
        while let Some(action) = self.messages.outbox.poll_action() {
            match action {
                OutboxAction::Send { device, id } => self.send_copy(device, id),
                OutboxAction::Resolve { to } => self.resolve_user(&to, Waiter::Messages),
                OutboxAction::Changed { id, state } => self.message_changed(id, state, None),
                OutboxAction::Finished { state, item } => self.message_changed(item.envelope.id, state, Some(*item)),
            }
        }
        self.messages.is_driving = false;
    }

    fn send_copy(&mut self, device: DeviceKey, id: MessageId) {
        let Some(item) = self.messages.outbox.item(&id) else { return };
        let user = item.to.clone();
        let message = MessageDeliver { envelope: item.envelope.clone(), extensions: Extensions::none() };
        match self.cached_target(&user, &device) {
            Some(target) => {
                self.messages.unacknowledged.insert((id, device), Instant::now() + LEAVE_AFTER);
                self.request(&target, &message, Purpose::Message(Delivery { id, device }), DELIVERY_TIMEOUT);
            }
            None => {
                self.leave_in_mailboxes(id, device);
                self.messages.outbox.handle_failed(&device, &id, Instant::now());
                self.resolve_user(&user, Waiter::Messages);
            }
        }
    }

    /// A look-up for the outbox has ended.
    pub(crate) fn messages_resolved(&mut self, user: &UserId, found: Result<DirectoryRecord, ResolveError>) {
        let me = self.identity.device();
        match found {
            Ok(record) => {
                let devices: Vec<DeviceKey> =
                    record.entries().map(|parts| parts.device()).filter(|device| *device != me).collect();
                self.messages.outbox.set_devices(user, &devices, Instant::now());
                for device in devices {
                    let found = self.cached_entry_hash(user, &device);
                    if self.messages.failed_entries.get(&device).is_some_and(|failed| Some(*failed) != found) {
                        self.messages.failed_entries.remove(&device);
                        self.messages.outbox.handle_reachable(&device, Instant::now());
                    }
                }
                self.drive_outbox();
            }
            // The outbox asks again by its own schedule.
            Err(error) => debug!(%error, "recipient not found yet"),
        }
    }

    pub(crate) fn message_answer(&mut self, delivery: Delivery, frame: &Frame) {
        let now = Instant::now();
        self.messages.unacknowledged.remove(&(delivery.id, delivery.device));
        match frame.parse::<MessageAck>() {
            Ok(ack) => self.messages.outbox.handle_ack(&delivery.device, &delivery.id, ack.status, now),
            Err(_) => {
                self.counters.malformed += 1;
                self.messages.outbox.handle_failed(&delivery.device, &delivery.id, now);
            }
        }
        self.drive_outbox();
    }

    pub(crate) fn message_failure(&mut self, delivery: Delivery, failure: Failure) {
        debug!(%failure, "message not delivered yet");
        let is_left = self.messages.unacknowledged.remove(&(delivery.id, delivery.device)).is_none();
        if failure != Failure::Overloaded && !is_left {
            self.leave_in_mailboxes(delivery.id, delivery.device);
        }
        if failure == Failure::Timeout {
            self.drop_if_silent(&delivery.device, DELIVERY_TIMEOUT);
        }
        if let Some(user) = self.messages.outbox.item(&delivery.id).map(|item| item.to.clone()) {
            // The device may have moved: look it up, and try again at once if it has, else by and by.
            if let Some(failed) = self.cached_entry_hash(&user, &delivery.device) {
                if self.messages.failed_entries.len() >= FAILED_ENTRIES_MAX {
                    self.messages.failed_entries.clear();
                }
                self.messages.failed_entries.insert(delivery.device, failed);
                self.forget_cached(&user);
                self.resolve_user(&user, Waiter::Messages);
            }
        }
        self.messages.outbox.handle_failed(&delivery.device, &delivery.id, Instant::now());
        self.drive_outbox();
    }

    /// This node has joined the network: what waits is tried at once.
    pub(crate) fn messages_network_up(&mut self) {
        self.messages.outbox.handle_network_up(Instant::now());
        self.drive_outbox();
    }

    /// A peer has said who it is: what waits for it goes now.
    pub(crate) fn messages_peer_greeted(&mut self, peer: PeerId) {
        if let Some(device) = self.peers.get(&peer).map(|known| known.device) {
            self.messages.outbox.handle_reachable(&device, Instant::now());
            self.drive_outbox();
        }
    }

    fn message_changed(&mut self, id: MessageId, state: WireState, finished: Option<OutboxItem>) {
        let Some(item) = finished.clone().or_else(|| self.messages.outbox.item(&id).cloned()) else { return };
        let is_signal = matches!(item.envelope.body, MessageBody::Contact(_) | MessageBody::File(_));
        let kept = wire::encode(&Kept::Sent { item: item.clone(), state: state_number(state) });
        if let Some(number) = self.messages.rows.get(&id).copied() {
            let written = self.store.transaction::<_, StoreError>(|tx| {
                if is_signal && finished.is_some() {
                    return tx.remove_signal(number);
                }
                tx.update_message(number, &kept)?;
                if finished.is_some() {
                    tx.finish_message(number)?;
                }
                Ok(())
            });
            if let Err(error) = written {
                warn!(%error, "message state not written");
            }
        }
        if finished.is_some() {
            self.messages.rows.remove(&id);
        }
        let status = status_of(&item, state);
        if let MessageBody::Contact(signal) = &item.envelope.body {
            return debug!(signal = signal.name(), %state, reason = ?status.reason, "contact signal");
        }
        if let MessageBody::File(signal) = &item.envelope.body {
            return self.file_signal_changed(signal, state, status.reason);
        }
        let to = self.labels.display(&item.to);
        let reason = status.reason.clone();
        self.events.send(Event::MessageState { message_id: id.to_string(), to, state: shown(state), reason });
        if status.state < MessageState::Delivered {
            return;
        }
        let (done, waiting): (Vec<_>, Vec<_>) = self.messages.waiters.drain(..).partition(|(waited, _)| *waited == id);
        self.messages.waiters = waiting;
        for (_, reply) in done {
            reply.send(Ok(status.clone()));
        }
    }

    /// Leaves in mailboxes what hasn't been acknowledged for a while.
    fn leave_unacknowledged(&mut self, now: Instant) {
        let due: Vec<(MessageId, DeviceKey)> =
            self.messages.unacknowledged.iter().filter(|(_, at)| **at <= now).map(|(copy, _)| *copy).collect();
        for (id, device) in due {
            self.messages.unacknowledged.remove(&(id, device));
            self.leave_in_mailboxes(id, device);
        }
    }

    pub(crate) fn messages_tick(&mut self, now: Now) {
        if self.messages.has_overflowed && self.messages.outbox.len() < RESUME_MAX / 2 {
            self.messages_start();
        }
        self.leave_unacknowledged(now.instant);
        if self.messages.outbox.poll_timeout().is_some_and(|at| at <= now.instant) {
            self.messages.outbox.handle_timeout(now.instant, now.unix);
            self.drive_outbox();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_fill_no_disk() {
        let start = Instant::now();
        let at = |secs: u64| Now { instant: start + Duration::from_secs(secs), unix: UnixTime(86_400 * 20_000 + secs) };
        let mut intake = Intake::new();
        let sender = PublicKey([1; 32]);
        let taken = (0..1_000).filter(|_| intake.admit(&sender, STRANGER_RATE, true, 100, at(0))).count();
        assert_eq!(taken, STRANGER_RATE.burst as usize);
        assert!(intake.admit(&PublicKey([2; 32]), STRANGER_RATE, true, 100, at(0)), "others aren't held to account");
        assert!(intake.admit(&sender, STRANGER_RATE, true, 100, at(3_600)), "time heals");
        let many = |intake: &mut Intake, now| {
            let crowd = (0..=u8::MAX).flat_map(|number| [number; 100]);
            crowd.filter(|number| intake.admit(&PublicKey([*number; 32]), LAB_RATE, true, 20_000, now)).count()
        };
        assert!(many(&mut intake, at(7_200)) <= STRANGERS_BYTES_PER_DAY / 20_000);
        assert!(!intake.admit(&PublicKey([9; 32]), LAB_RATE, true, 20_000, at(7_300)), "a crowd of strangers has a bound too");
        assert!(intake.admit(&PublicKey([9; 32]), LAB_RATE, false, 20_000, at(7_300)), "which doesn't touch contacts");
        assert!(intake.admit(&PublicKey([9; 32]), LAB_RATE, true, 20_000, at(90_000)), "and ends with the day");
    }

    #[test]
    fn each_conversation_counts_for_itself() {
        let (one, other) = (ConversationId([1; 16]), ConversationId([2; 16]));
        assert_ne!(counter_setting(&one), counter_setting(&other));
    }
}
