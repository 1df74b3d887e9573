//! Messages between users: queued on disk, sent to every device of the recipient, repeated until acknowledged.
//!
//! Before `send` returns the message is in the database; before a received one is acknowledged it is too. So a killed node loses nothing it
//! said it has, and the sender's repetitions are recognised as duplicates.

mod catch_up;
mod list;
mod receive;
mod waiting;

pub(crate) use catch_up::{CatchUpState, HistoryAsking, Told, history_item, keep_told};
pub(crate) use receive::Arrived;
use receive::Intake;

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use bincode::{Decode, Encode};
use halloo_protocol::call::Reason;
use halloo_protocol::contact::{ContactSignal, Standing};
use halloo_protocol::directory::{DirectoryRecord, Reachability, RecordKey};
use halloo_protocol::id::{ConversationId, MessageId};
use halloo_protocol::identity::UserId;
use halloo_protocol::key::DeviceKey;
use halloo_protocol::message::{
    Content, Correspondent, Envelope, MessageAck, MessageBody, MessageDeliver, MessageState as WireState, Outbox, OutboxAction,
    OutboxItem, OutboxTimers, Recipient, TEXT_BYTES_MAX,
};
use halloo_protocol::time::{Now, UnixTime};
use halloo_protocol::wire::{self, Extensions, Frame};
use libp2p::PeerId;
use tracing::{debug, warn};

use crate::address;
use crate::directory::Waiter;
use crate::event_loop::EventLoop;
use crate::handle::directory::ResolveError;
use crate::handle::messages::{MessageError, MessageState, MessageStatus};
use crate::handle::problem::NodeError;
use crate::handle::{Event, Reply};
use crate::network::{Purpose, Target};
use crate::receipts::Conversation;
use crate::rpc::Failure;
use crate::store::{Direction, MessageRow, StoreError, Transaction};

/// How long a message is tried before it fails.
pub(crate) const DEADLINE_SECS: u64 = 30 * 86_400;

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

/// Where a message's number in its conversation is kept: numbers shared by all conversations would tell each how busy the others are, and
/// look like gaps.
pub(crate) fn counter_setting(conversation: &ConversationId) -> String {
    format!("message counter {}", data_encoding::HEXLOWER.encode(&conversation.0))
}

/// The next number of a message of this device in a conversation.
///
/// # Errors
/// [`StoreError`].
pub(crate) fn next_counter(tx: &Transaction, conversation: &ConversationId) -> Result<u64, StoreError> {
    let setting = counter_setting(conversation);
    let counter = tx.setting_value::<u64>(&setting)?.unwrap_or(0).saturating_add(1);
    tx.put_setting_value(&setting, &counter)?;
    Ok(counter)
}

/// Largest stored message: what a message may have, and the states of its copies.
const KEPT_BYTES_MAX: usize = crate::store::VALUE_BYTES_MAX;

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
    keep_item(tx, OutboxItem::to_user(to.clone(), envelope, now.plus_secs(DEADLINE_SECS)), now)
}

/// The same for several users.
///
/// # Errors
/// [`StoreError`].
pub(crate) fn keep_signal_for(
    tx: &Transaction,
    to: Vec<Recipient>,
    with: Correspondent,
    envelope: Envelope,
    now: UnixTime,
) -> Result<Queued, StoreError> {
    let deadline = now.plus_secs(DEADLINE_SECS);
    keep_item(tx, OutboxItem { to, own: None, with, envelope, deadline, copies: BTreeMap::new() }, now)
}

/// Keeps a message that goes out, in the transaction of what it tells of. Hand it to [`EventLoop::queue_kept`] when that is done.
///
/// # Errors
/// [`StoreError`].
pub(crate) fn keep_item(tx: &Transaction, item: OutboxItem, now: UnixTime) -> Result<Queued, StoreError> {
    let row = row_of(&item, WireState::Queued, now);
    let number = if item.envelope.body.is_shown() { tx.add_message(&row)? } else { tx.add_signal(&row)? };
    Ok(Queued { number, item })
}

fn row_of(item: &OutboxItem, state: WireState, now: UnixTime) -> MessageRow {
    let kept = Kept::Sent { item: item.clone(), state: state.number() };
    MessageRow {
        id: item.envelope.id.0.to_vec(),
        direction: Direction::Out,
        conversation: item.with.clone(),
        at: now,
        content: wire::encode(&kept),
    }
}

/// A copy on its way to one device.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Delivery {
    id: MessageId,
    device: DeviceKey,
}

/// A message in the database.
#[derive(Clone, Debug, Encode, Decode)]
pub(crate) enum Kept {
    /// Sent by this device.
    Sent { item: OutboxItem, state: u8 },
    /// Received.
    Received { from: DeviceKey, author: UserId, envelope: Envelope },
    /// Sent by another device of this user, or by this one before its database was lost.
    Elsewhere { device: DeviceKey, envelope: Envelope, state: u8 },
}

impl Kept {
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        wire::decode(bytes, KEPT_BYTES_MAX).ok()
    }

    /// The message.
    pub(crate) const fn envelope(&self) -> &Envelope {
        match self {
            Self::Sent { item, .. } => &item.envelope,
            Self::Received { envelope, .. } | Self::Elsewhere { envelope, .. } => envelope,
        }
    }
}

/// Messages of one conversation that are carried over when its other side becomes part of another user.
const CARRIED_MAX: usize = 50_000;

/// Conversations carried over with the own former identity.
const CARRIED_CONVERSATIONS_MAX: usize = 10_000;

/// `old` is `new` from now on: what was said with the one was said with the other, and goes on where it was.
///
/// # Errors
/// [`StoreError`].
pub(crate) fn join_conversations(tx: &Transaction, me: &UserId, old: &UserId, new: &UserId) -> Result<(), StoreError> {
    let (from, to) = (Correspondent::User(old.clone()), Correspondent::User(new.clone()));
    if tx.conversation_state(&from)?.is_none() {
        return Ok(());
    }
    Conversation::join(tx, &from, &to)?;
    carry_counter(tx, &ConversationId::of_pair(me, old), &ConversationId::of_pair(me, new))?;
    tx.move_conversation((&from, &to), CARRIED_MAX, |row| {
        if let Some(Kept::Received { from, author, envelope }) = Kept::decode(&row.content) {
            let author = if author == *old { new.clone() } else { author };
            row.content = wire::encode(&Kept::Received { from, author, envelope });
        }
    })
}

/// This user was `old` and is `new` from now on: what this device sends goes on with the numbers that others have of it.
///
/// # Errors
/// [`StoreError`].
pub(crate) fn carry_counters(tx: &Transaction, old: &UserId, new: &UserId) -> Result<(), StoreError> {
    for bytes in tx.conversation_states(CARRIED_CONVERSATIONS_MAX)? {
        let state = Conversation::decode(&bytes);
        if let Some(other) = state.as_ref().and_then(|state| state.with.user()) {
            carry_counter(tx, &ConversationId::of_pair(old, other), &ConversationId::of_pair(new, other))?;
        }
    }
    Ok(())
}

fn carry_counter(tx: &Transaction, from: &ConversationId, to: &ConversationId) -> Result<(), StoreError> {
    let count = |conversation| tx.setting_value::<u64>(&counter_setting(conversation)).map(Option::unwrap_or_default);
    let (before, after) = (count(from)?, count(to)?);
    if before > after { tx.put_setting_value(&counter_setting(to), &before) } else { Ok(()) }
}

/// The text of a kept message; `None` for what isn't one.
pub(crate) fn text_of(row: &MessageRow) -> Option<String> {
    Kept::decode(&row.content)?.envelope().body.text().map(str::to_owned)
}

/// The conversation's id, as envelopes have it.
pub(crate) fn conversation_id(me: &UserId, with: &Correspondent) -> ConversationId {
    match with {
        Correspondent::User(user) => ConversationId::of_pair(me, user),
        Correspondent::Group(group) => ConversationId::of_group(group),
    }
}

/// Under which id a message of another device is kept: senders choose ids, and with its device's key one can't take the place of another's.
pub(crate) fn foreign_row_id(device: &DeviceKey, id: &MessageId) -> Vec<u8> {
    [&device.as_bytes()[..], &id.0].concat()
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
    pub(crate) catch_up: CatchUpState,
    pub(crate) composing: crate::composing::ComposingState,
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
            catch_up: CatchUpState::default(),
            composing: crate::composing::ComposingState::default(),
        }
    }
}

pub(crate) const fn shown(state: WireState) -> MessageState {
    match state {
        WireState::Failed => MessageState::Failed,
        WireState::Queued => MessageState::Queued,
        WireState::Sent => MessageState::Sent,
        WireState::Delivered => MessageState::Delivered,
        WireState::Read => MessageState::Read,
    }
}

/// Why a message failed.
fn reason_of(item: &OutboxItem) -> String {
    let refused = item.copies.values().find_map(|copy| match copy.state {
        halloo_protocol::message::CopyState::Failed(reason) => Some(match reason {
            Reason::NOT_ALLOWED if item.with.group().is_some() => "the members don't take this user for one".to_owned(),
            Reason::NOT_ALLOWED => "not a contact of the recipient, who takes no messages from others".to_owned(),
            Reason::TOO_MANY => "the recipient has had too many messages".to_owned(),
            Reason::INVALID => "the recipient could not read it".to_owned(),
            Reason::VOICEMAIL_FULL => "the recipient has no room for another voicemail".to_owned(),
            Reason::UNDECRYPTABLE => "the recipient's device could not decrypt it".to_owned(),
            Reason::EXPIRED => "not delivered in time".to_owned(),
            Reason::OTHER_IDENTITY => {
                "the name that the address leads to has another identity key by now; it is looked at again for the next try"
                    .to_owned()
            }
            other => format!("refused: {other}"),
        }),
        _ => None,
    });
    refused.unwrap_or_else(|| "not delivered in time".to_owned())
}

pub(crate) fn internal(error: &StoreError) -> MessageError {
    MessageError::Node(NodeError::Internal { detail: error.to_string() })
}

impl EventLoop {
    /// Takes up what an earlier run left undelivered.
    pub(crate) fn messages_start(&mut self) {
        self.catch_up_start();
        self.messages.has_overflowed = false;
        let rows = match self.store.read::<_, StoreError>(|view| view.unfinished_messages(RESUME_MAX)) {
            Ok(rows) => rows,
            Err(error) => return warn!(%error, "outbox not restored from the database"),
        };
        self.messages.has_overflowed = rows.len() >= RESUME_MAX;
        for (number, row) in rows {
            if let Some(Kept::Sent { item, .. }) = Kept::decode(&row.content) {
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
        match self.sought_in_directory(to) {
            Some(id) if check_text(&text).is_ok() => self.write_by_directory(id, text, reply),
            _ => self.send_message_to(to, text, reply),
        }
    }

    /// The same to somebody who is known.
    pub(crate) fn send_message_to(&mut self, to: &str, text: String, reply: Reply<MessageStatus, MessageError>) {
        let queued = self.queue_message(to, text);
        reply.send(queued.map(|id| self.message_status(id)));
    }

    fn queue_message(&mut self, to: &str, text: String) -> Result<MessageId, MessageError> {
        check_text(&text)?;
        match self.parse_correspondent(to)? {
            Correspondent::Group(group) => self.queue_group_text(group, text),
            Correspondent::User(user) => {
                self.refuse_changed(&user)?;
                let recipient = Recipient { user: user.clone(), identity: self.linked_key(to) };
                self.queue_shown(Correspondent::User(user), vec![recipient], MessageBody::Text(text))
            }
        }
    }

    /// Sends something that is part of a conversation; own other devices get it too.
    pub(crate) fn queue_shown(
        &mut self,
        with: Correspondent,
        to: Vec<Recipient>,
        body: MessageBody,
    ) -> Result<MessageId, MessageError> {
        if self.is_revoked() {
            return Err(NodeError::Revoked.into());
        }
        let now = self.now();
        let id = MessageId::random(&mut self.rng);
        let me = self.identity.user_id();
        let device = self.identity.device();
        let conversation = conversation_id(&me, &with);
        let own = self.contacts.has_own_devices().then(|| me.clone());
        let extensions = with.user().map_or_else(Extensions::none, |user| self.linked_extensions(user));
        let queued = self.store.transaction::<_, StoreError>(|tx| {
            let counter = next_counter(tx, &conversation)?;
            let envelope = Envelope { id, conversation, counter, sent_at: now.unix, body, extensions };
            Conversation::note_own(tx, &with, device, counter)?;
            let deadline = now.unix.plus_secs(DEADLINE_SECS);
            keep_item(tx, OutboxItem { to, own, with, envelope, deadline, copies: BTreeMap::new() }, now.unix)
        });
        self.queue_kept(vec![queued.map_err(|error| internal(&error))?], now);
        Ok(id)
    }

    /// How many messages to a user wait in the outbox.
    pub(crate) fn signals_waiting(&self, to: &UserId) -> usize {
        self.messages.outbox.items().filter(|item| matches!(item.to.as_slice(), [only] if only.user == *to)).count()
    }

    /// Sends what [`keep_signal`] has kept.
    pub(crate) fn queue_kept(&mut self, queued: Vec<Queued>, now: Now) {
        for Queued { number, item } in queued {
            self.messages.rows.insert(item.envelope.id, number);
            if let Err(error) = self.messages.outbox.push(item, now.instant) {
                debug!(%error, "outbox is full: it waits in the database");
                self.messages.has_overflowed = true;
            }
        }
        self.drive_outbox();
    }

    /// A message from a peer: kept, then acknowledged.
    pub(crate) fn handle_message_deliver(&mut self, peer: PeerId, message: MessageDeliver) -> MessageAck {
        let status = self.take_message(peer, message.content);
        MessageAck { status, extensions: Extensions::none() }
    }

    fn take_message(&mut self, peer: PeerId, content: Content) -> halloo_protocol::message::DeliveryStatus {
        use halloo_protocol::message::DeliveryStatus;
        if content.check().is_err() {
            self.counters.malformed += 1;
            return DeliveryStatus::Refused(Reason::INVALID);
        }
        let known = self.peers.get(&peer).and_then(|known| Some((known.chain.clone()?, known.certificate()?.clone())));
        match known {
            Some((sender, certificate)) => self.take_content(&sender, &certificate, content),
            None => DeliveryStatus::Refused(Reason::NOT_ALLOWED),
        }
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
        let Some(user) = item.user_of(&device).cloned() else { return };
        let envelope = item.envelope_for(&device);
        let target = match self.hides_from(&user, &envelope) {
            true => self.hidden_device_target(&user, &device),
            false => self.cached_target(&user, &device),
        };
        match target {
            Some(target) => {
                let Some((content, _)) = self.copy_content(&user, &device, &envelope) else {
                    return self.messages.outbox.handle_failed(&device, &id, Instant::now());
                };
                let message = MessageDeliver { content, extensions: Extensions::none() };
                let wait = if self.seems_asleep(&user, &device) { Duration::ZERO } else { LEAVE_AFTER };
                self.messages.unacknowledged.insert((id, device), Instant::now() + wait);
                self.request(&target, &message, Purpose::Message(Delivery { id, device }), DELIVERY_TIMEOUT);
            }
            None => {
                self.leave_in_mailboxes(id, device);
                self.messages.outbox.handle_failed(&device, &id, Instant::now());
                self.resolve_user(&user, Waiter::Messages);
            }
        }
    }

    /// Whether there is a sign that nobody will answer: a device that was connected is silent, or another's lease says that a push reaches it. Then its
    /// mailboxes get the message, and a push wakes it, at once.
    fn seems_asleep(&self, user: &UserId, device: &DeviceKey) -> bool {
        let is_connected = address::peer_id(device).is_some_and(|peer| self.peers.get(&peer).is_some());
        if is_connected {
            return self.is_silent_device(device);
        }
        let record = self.cached_record(&RecordKey::of(user)).and_then(|record| record.entry(device));
        record.is_some_and(|parts| parts.reachability(self.now().unix) == Reachability::Push)
    }

    /// Whether a message mustn't show its recipient where we are: it goes by itself, or says no, and they are no contact.
    pub(crate) fn hides_from(&self, user: &UserId, envelope: &Envelope) -> bool {
        let by_itself = match &envelope.body {
            MessageBody::Contact(signal) => matches!(signal, ContactSignal::Decline(_)),
            MessageBody::Read(_) => true,
            _ => false,
        };
        by_itself && self.is_stranger(user)
    }

    /// Whether somebody isn't to learn where we are by what this device does of its own accord: no contact, and not this user.
    pub(crate) fn is_stranger(&self, user: &UserId) -> bool {
        let is_near = *user == self.identity.user_id() || self.contacts.roster().standing(user) == Standing::Contact;
        !is_near && !self.settings.lab
    }

    /// Where to send what this device says of its own accord to a device: without being asked for by its user, it shows strangers no address.
    pub(crate) fn unasked_target(&self, user: &UserId, device: &DeviceKey) -> Option<Target> {
        match self.is_stranger(user) {
            true => self.hidden_device_target(user, device),
            false => self.cached_target(user, device),
        }
    }

    /// A look-up for the outbox has ended.
    pub(crate) fn messages_resolved(&mut self, user: &UserId, found: Result<DirectoryRecord, ResolveError>) {
        let me = self.identity.device();
        match found {
            Ok(record) => {
                let devices: Vec<DeviceKey> =
                    record.entries().map(|parts| parts.device()).filter(|device| *device != me).collect();
                debug!(user = %self.labels.display(user), devices = devices.len(), "recipient found");
                self.messages.outbox.set_devices(user, &record.identity(), &devices, Instant::now());
                for device in &devices {
                    self.session_entry_found(device);
                    let found = self.cached_entry_hash(user, device);
                    if self.messages.failed_entries.get(device).is_some_and(|failed| Some(*failed) != found) {
                        self.messages.failed_entries.remove(device);
                        self.messages.outbox.handle_reachable(device, Instant::now());
                    }
                }
                // First what may go, by the record that is known now.
                self.drive_outbox();
                self.hold_to_linked_key(user, &record.identity(), &devices);
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
            Ok(ack) => {
                let status = self.copy_answered(&delivery.device, &delivery.id, ack.status);
                debug!(id = %delivery.id, device = %delivery.device, ?status, "message answered");
                self.messages.outbox.handle_ack(&delivery.device, &delivery.id, status, now);
            }
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
        let item = self.messages.outbox.item(&delivery.id);
        if let Some(user) = item.and_then(|item| item.user_of(&delivery.device)).cloned() {
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
            self.catch_up_peer_greeted(&device);
        }
    }

    fn message_changed(&mut self, id: MessageId, state: WireState, finished: Option<OutboxItem>) {
        let Some(item) = finished.clone().or_else(|| self.messages.outbox.item(&id).cloned()) else { return };
        let is_signal = !item.envelope.body.is_shown();
        let me = self.identity.device();
        let kept = wire::encode(&Kept::Sent { item: item.clone(), state: state.number() });
        if let Some(number) = self.messages.rows.get(&id).copied() {
            let written = self.store.transaction::<_, StoreError>(|tx| {
                if finished.is_some() {
                    tx.remove_sealed_copies(&id)?;
                }
                if is_signal && finished.is_some() {
                    let problem = (state == WireState::Failed).then(|| reason_of(&item));
                    crate::calls::voicemail::note_part_finished(tx, &me, &item.envelope.body, problem)?;
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
        if let MessageBody::File(signal) = &item.envelope.body {
            let reason = (state == WireState::Failed).then(|| reason_of(&item));
            return self.file_signal_changed(signal, state, reason);
        }
        if let (MessageBody::Contact(ContactSignal::Accept(_)), WireState::Delivered) = (&item.envelope.body, state) {
            item.to.iter().for_each(|to| self.reach_contact_told(&to.user));
        }
        self.voicemail_part_changed(&item.envelope.body);
        if is_signal {
            return debug!(signal = item.envelope.body.name(), %state, "signal");
        }
        self.note_progress(&item, state);
        let status = self.status_of(&item, state, finished.is_some());
        self.tell_state(&item.with, &status);
        if status.state < MessageState::Delivered {
            return;
        }
        self.answer_message_waiters(id, &status);
    }

    /// Tells those who wait for a message how far it is.
    pub(crate) fn answer_message_waiters(&mut self, id: MessageId, status: &MessageStatus) {
        let (done, waiting): (Vec<_>, Vec<_>) = self.messages.waiters.drain(..).partition(|(waited, _)| *waited == id);
        self.messages.waiters = waiting;
        for (_, reply) in done {
            reply.send(Ok(status.clone()));
        }
    }

    pub(crate) fn tell_state(&self, with: &Correspondent, status: &MessageStatus) {
        let (to, group) = self.shown_correspondent(with);
        let (message_id, state, reason) = (status.id.clone(), status.state, status.reason.clone());
        self.events.send(Event::MessageState { message_id, to, group, state, reason });
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
        self.catch_up_tick(now);
        if self.messages.outbox.poll_timeout().is_some_and(|at| at <= now.instant) {
            self.messages.outbox.handle_timeout(now.instant, now.unix);
            self.drive_outbox();
        }
    }
}

/// Checks a text that a person wants to send.
pub(crate) fn check_text(text: &str) -> Result<(), MessageError> {
    if text.is_empty() {
        return Err(MessageError::Empty);
    }
    if text.len() > TEXT_BYTES_MAX {
        return Err(MessageError::TooLarge { bytes: text.len(), max: TEXT_BYTES_MAX });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_conversation_counts_for_itself() {
        let (one, other) = (ConversationId([1; 16]), ConversationId([2; 16]));
        assert_ne!(counter_setting(&one), counter_setting(&other));
    }
}
