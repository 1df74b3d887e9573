//! What was read, and by whom; and what a user's devices have in common, brought from one to the others.
//!
//! Per conversation two sets grow: the counters of each sending device that have come, and those that were read. What has come and wasn't read is
//! unread; what lies between is missing. Reading is told to the authors' devices, unless the user doesn't want that, and to the user's own others.
//!
//! Everything own devices share is a [`StateItem`]: merged, so that it comes to the same however often and in whatever order it is heard. What has
//! changed is noted in the database with the change, gathered for a moment, and sent like any message: a device that is away finds it in its
//! mailbox. [`EventLoop::state_items`] gives all of it, [`EventLoop::merge_state_items`] takes it in: for the vault, and for devices that are new.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use bincode::{Decode, Encode};
use halloo_protocol::call::{CallId, Reason};
use halloo_protocol::contact::privacy::Relation;
use halloo_protocol::id::{GroupId, MessageId};
use halloo_protocol::identity::{UserId, VerifiedChain};
use halloo_protocol::key::DeviceKey;
use halloo_protocol::message::{
    CallFate, CallMark, CallMarks, ConversationMarks, Correspondent, CounterSet, Envelope, MARKS_PER_ITEM_MAX, Mark, Marks,
    MessageBody, MessageState as WireState, OutboxItem, OwnSignal, PROGRESS_MAX, Progress, ReadReceipt, StateItem, state_signals,
};
use halloo_protocol::time::{Now, UnixTime};
use halloo_protocol::wire::{self, Extensions};
use tracing::{debug, warn};

use crate::event_loop::EventLoop;
use crate::handle::messages::{MessageError, MessageState, MessageStatus, ReadOutcome};
use crate::handle::{Event, Reply};
use crate::messages::{Kept, Queued, conversation_id, foreign_row_id, internal, keep_signal, shown};
use crate::store::{Store, StoreError, Transaction, VALUE_BYTES_MAX, View};

/// How long changes for own other devices are gathered.
const SHARE_AFTER: Duration = Duration::from_millis(300);

/// Signals to own devices that may wait in the outbox: a device that is away mustn't fill it.
const SHARES_WAITING_MAX: usize = 48;

/// When it is tried again if so many wait.
const SHARE_AGAIN: Duration = Duration::from_secs(30);

/// Messages looked through for what a receipt, or reading up to a message, is about.
const LOOK_BACK_MAX: usize = 5_000;

/// Devices of this user that one reader may name.
const READER_DEVICES_MAX: usize = 64;

/// Messages whose progress waits to be told; beyond it the oldest isn't.
const PROGRESS_WAITING_MAX: usize = 4 * PROGRESS_MAX;

/// Conversations looked through at once.
pub(crate) const CONVERSATIONS_MAX: usize = 4_096;

const CALL_MARKS: &str = "call marks";
const CALL_MARKS_BYTES_MAX: usize = 32 * 1024;

/// What is kept about a conversation as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Conversation {
    pub(crate) with: Correspondent,
    /// What has come, by sending device; and what own devices have sent.
    have: Marks,
    /// What was read; of own devices, all.
    read: Marks,
    /// Own other devices haven't been told yet.
    is_unshared: bool,
}

impl Conversation {
    pub(crate) const fn new(with: Correspondent) -> Self {
        Self { with, have: Marks::new(), read: Marks::new(), is_unshared: false }
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        wire::decode(bytes, VALUE_BYTES_MAX).ok()
    }

    pub(crate) fn load(view: &View, with: &Correspondent) -> Result<Self, StoreError> {
        let stored = view.conversation_state(with)?.and_then(|bytes| Self::decode(&bytes));
        Ok(stored.unwrap_or_else(|| Self::new(with.clone())))
    }

    fn store(&mut self, tx: &Transaction) -> Result<(), StoreError> {
        let mut bytes = wire::encode(self);
        if bytes.len() > VALUE_BYTES_MAX {
            // Holes of hundreds of devices: they are given up.
            self.have.close_gaps();
            self.read.close_gaps();
            bytes = wire::encode(self);
        }
        tx.put_conversation_state(&self.with, &bytes)
    }

    /// A message of another user's device has come. What is missing directly before it, if the device was heard before.
    pub(crate) fn note(
        tx: &Transaction,
        with: &Correspondent,
        device: DeviceKey,
        counter: u64,
    ) -> Result<CounterSet, StoreError> {
        let mut state = Self::load(tx, with)?;
        let newest = state.have.of(&device).and_then(CounterSet::newest);
        state.have.add(device, &CounterSet::of_range(counter, counter));
        state.store(tx)?;
        Ok(newest
            .map_or_else(CounterSet::new, |newest| CounterSet::of_range(newest.saturating_add(1), counter.saturating_sub(1))))
    }

    /// A message of an own device: nothing to be read.
    pub(crate) fn note_own(tx: &Transaction, with: &Correspondent, device: DeviceKey, counter: u64) -> Result<(), StoreError> {
        let mut state = Self::load(tx, with)?;
        let one = CounterSet::of_range(counter, counter);
        state.have.add(device, &one);
        state.read.add(device, &one);
        state.store(tx)
    }

    /// The other side of one conversation is that of another: what has come and was read of either.
    pub(crate) fn join(tx: &Transaction, from: &Correspondent, to: &Correspondent) -> Result<(), StoreError> {
        let (old, mut state) = (Self::load(tx, from)?, Self::load(tx, to)?);
        old.have.iter().for_each(|(device, counters)| {
            state.have.add(*device, counters);
        });
        old.read.iter().for_each(|(device, counters)| {
            state.read.add(*device, counters);
        });
        state.is_unshared = true;
        state.store(tx)?;
        let (Some(before), Some(after)) = (from.user(), to.user()) else { return Ok(()) };
        for (reader, marks) in readers(tx, from)? {
            let reader = if reader == *before { after.clone() } else { reader };
            let marks: Vec<Mark> =
                marks.iter().map(|(device, counters)| Mark { device: *device, counters: counters.clone() }).collect();
            merge_reader(tx, to, &reader, &marks)?;
        }
        Ok(())
    }

    /// What has come and wasn't read.
    pub(crate) fn unread(&self) -> Marks {
        self.have.without(&self.read)
    }

    pub(crate) fn unread_count(&self) -> u64 {
        self.unread().iter().map(|(_, counters)| counters.len()).sum()
    }

    /// How many messages haven't come that lie between others.
    pub(crate) fn missing(&self) -> u64 {
        self.have.iter().map(|(_, counters)| counters.gaps().len()).sum()
    }

    pub(crate) fn is_read(&self, device: &DeviceKey, counter: u64) -> bool {
        self.read.contains(device, counter)
    }

    /// What of these hasn't come.
    pub(crate) fn lacking(&self, device: &DeviceKey, counters: &CounterSet) -> CounterSet {
        self.have.of(device).map_or_else(|| counters.clone(), |have| counters.without(have))
    }
}

/// What one other user has read of what this user's devices sent.
#[derive(Clone, Debug, Encode, Decode)]
struct Reader {
    user: UserId,
    marks: Marks,
}

/// What everybody else has read in a conversation.
pub(crate) fn readers(view: &View, with: &Correspondent) -> Result<BTreeMap<UserId, Marks>, StoreError> {
    let stored = view.readers(with)?;
    let decoded = stored.iter().filter_map(|bytes| wire::decode::<Reader>(bytes, VALUE_BYTES_MAX).ok());
    Ok(decoded.map(|reader| (reader.user, reader.marks)).collect())
}

/// Takes up what somebody has read; what of it is news.
fn merge_reader(tx: &Transaction, with: &Correspondent, user: &UserId, marks: &[Mark]) -> Result<Marks, StoreError> {
    let stored = tx.reader(with, user)?.and_then(|bytes| wire::decode::<Reader>(&bytes, VALUE_BYTES_MAX).ok());
    let mut reader = stored.unwrap_or_else(|| Reader { user: user.clone(), marks: Marks::new() });
    let before = reader.marks.clone();
    for mark in marks {
        if reader.marks.of(&mark.device).is_some() || reader.marks.iter().count() < READER_DEVICES_MAX {
            reader.marks.add(mark.device, &mark.counters);
        }
    }
    let news = reader.marks.without(&before);
    if !news.is_empty() {
        tx.put_reader(with, user, &wire::encode(&reader))?;
    }
    Ok(news)
}

fn marks_of(marks: &Marks) -> Vec<Vec<Mark>> {
    let all: Vec<Mark> = marks.iter().map(|(device, counters)| Mark { device: *device, counters: counters.clone() }).collect();
    all.chunks(MARKS_PER_ITEM_MAX).map(<[Mark]>::to_vec).collect()
}

/// What own other devices are still to be told.
#[derive(Debug, Default)]
pub(crate) struct ReceiptsState {
    unshared: BTreeSet<Correspondent>,
    pub(crate) unshared_groups: BTreeSet<GroupId>,
    are_calls_unshared: bool,
    /// How far own messages have come, in the order in which it happened.
    progress: Vec<(MessageId, WireState)>,
    share_at: Option<Instant>,
    calls: CallMarks,
}

impl ReceiptsState {
    /// Takes up what is stored.
    ///
    /// # Errors
    /// [`StoreError`] if the database can't be read.
    pub(crate) fn open(store: &Store) -> Result<Self, StoreError> {
        let (calls, states) =
            store.read::<_, StoreError>(|view| Ok((view.setting(CALL_MARKS)?, view.conversation_states(CONVERSATIONS_MAX)?)))?;
        let mut state = Self::default();
        let calls = calls.and_then(|bytes| wire::decode::<Vec<CallMark>>(&bytes, CALL_MARKS_BYTES_MAX).ok());
        for mark in calls.unwrap_or_default() {
            state.calls.add(mark);
        }
        let states = states.iter().filter_map(|bytes| Conversation::decode(bytes));
        state.unshared = states.filter(|state| state.is_unshared).map(|state| state.with).collect();
        state.share_at = (!state.unshared.is_empty()).then(Instant::now);
        Ok(state)
    }
}

// Reading.
impl EventLoop {
    pub(crate) fn handle_mark_read(&mut self, with: &str, up_to: Option<&str>, reply: Reply<ReadOutcome, MessageError>) {
        let outcome = self.parse_correspondent(with).and_then(|with| self.mark_read(&with, up_to));
        reply.send(outcome);
    }

    /// The person has read a conversation, up to its newest message or to this one.
    fn mark_read(&mut self, with: &Correspondent, up_to: Option<&str>) -> Result<ReadOutcome, MessageError> {
        let state = self.store.read::<_, StoreError>(|view| Conversation::load(view, with)).map_err(|error| internal(&error))?;
        // A recording is read when it was heard.
        let mut read = state.unread().without(&self.unheard_marks(with));
        if let Some(id) = up_to {
            read = read.without(&self.newer_than(with, id)?);
        }
        let marked = read.iter().map(|(_, counters)| counters.len()).sum();
        if marked > 0 {
            self.keep_read(with, &read).map_err(|error| internal(&error))?;
            self.share_conversation(with);
        }
        let unread = self.tell_read(with, false, marked > 0);
        let (with, group) = self.shown_correspondent(with);
        Ok(ReadOutcome { with, group, marked, unread })
    }

    /// The person has read one message.
    pub(crate) fn mark_one_read(&mut self, with: &Correspondent, device: DeviceKey, counter: u64) -> Result<(), MessageError> {
        let mut read = Marks::new();
        read.add(device, &CounterSet::of_range(counter, counter));
        self.keep_read(with, &read).map_err(|error| internal(&error))?;
        self.share_conversation(with);
        self.tell_read(with, false, true);
        Ok(())
    }

    /// Messages shown after this one.
    fn newer_than(&self, with: &Correspondent, id: &str) -> Result<Marks, MessageError> {
        let unknown = || MessageError::UnknownMessage { id: id.chars().take(64).collect() };
        let id = id.parse::<MessageId>().map_err(|_| unknown())?;
        let mut newer = Marks::new();
        let looked = self.look_back(with, |kept| {
            if kept.envelope().id == id {
                return Some(());
            }
            if let Kept::Received { from, envelope, .. } = kept {
                newer.add(from, &CounterSet::of_range(envelope.counter, envelope.counter));
            }
            None
        });
        looked.map_err(|error| internal(&error))?.map(|()| newer).ok_or_else(unknown)
    }

    /// Notes what was read of these conversations, and tells of it.
    pub(crate) fn note_read(&mut self, read: &BTreeMap<Correspondent, Marks>) -> Result<(), StoreError> {
        if read.is_empty() {
            return Ok(());
        }
        self.keep_all_read(read)?;
        for with in read.keys() {
            self.share_conversation(with);
            self.tell_read(with, false, true);
        }
        Ok(())
    }

    fn keep_read(&mut self, with: &Correspondent, read: &Marks) -> Result<(), StoreError> {
        self.keep_all_read(&BTreeMap::from([(with.clone(), read.clone())]))
    }

    /// Notes what was read, with the receipts for the authors, all or nothing.
    fn keep_all_read(&mut self, read: &BTreeMap<Correspondent, Marks>) -> Result<(), StoreError> {
        let now = self.now();
        let has_others = self.contacts.has_own_devices();
        let mut receipts = Vec::new();
        for (with, marks) in read {
            receipts.extend(self.receipts_for(with, marks, now.unix));
        }
        let queued = self.store.transaction::<_, StoreError>(|tx| {
            for (with, marks) in read {
                let mut state = Conversation::load(tx, with)?;
                for (device, counters) in marks.iter() {
                    state.read.add(*device, counters);
                }
                state.is_unshared |= has_others;
                state.store(tx)?;
            }
            receipts.into_iter().map(|(to, envelope)| keep_signal(tx, &to, envelope, now.unix)).collect::<Result<Vec<_>, _>>()
        })?;
        self.queue_kept(queued, now);
        Ok(())
    }

    fn receipts_for(&mut self, with: &Correspondent, read: &Marks, now: UnixTime) -> Vec<(UserId, Envelope)> {
        if !self.contacts.privacy().receipts {
            return Vec::new();
        }
        let me = self.identity.user_id();
        let mut by_author: BTreeMap<UserId, Marks> = BTreeMap::new();
        match with {
            // To strangers nothing is said of when somebody reads.
            Correspondent::User(user) if !self.is_acquainted(user) => {}
            Correspondent::User(user) => drop(by_author.insert(user.clone(), read.clone())),
            Correspondent::Group(_) => {
                for (device, author) in self.authors(with, read) {
                    if let Some(counters) = read.of(&device) {
                        by_author.entry(author).or_default().add(device, counters);
                    }
                }
            }
        }
        let mut receipts = Vec::new();
        for (author, marks) in by_author {
            for marks in marks_of(&marks) {
                let group = with.group().copied();
                let receipt = ReadReceipt { group, marks, read_at: now, extensions: Extensions::none() };
                let body = MessageBody::Read(Box::new(receipt));
                let id = MessageId::random(&mut self.rng);
                let conversation = conversation_id(&me, with);
                let envelope = Envelope { id, conversation, counter: 0, sent_at: now, body, extensions: Extensions::none() };
                receipts.push((author.clone(), envelope));
            }
        }
        receipts
    }

    /// Whose these devices are, by what they wrote.
    fn authors(&self, with: &Correspondent, devices: &Marks) -> BTreeMap<DeviceKey, UserId> {
        let rows = self.store.read::<_, StoreError>(|view| view.conversation(with, None, LOOK_BACK_MAX)).unwrap_or_default();
        let mut authors = BTreeMap::new();
        for (_, row) in rows.iter().rev() {
            if let Some(Kept::Received { from, author, .. }) = Kept::decode(&row.content)
                && devices.of(&from).is_some()
            {
                authors.entry(from).or_insert(author);
            }
        }
        authors
    }

    fn tell_read(&self, with: &Correspondent, elsewhere: bool, is_news: bool) -> u64 {
        let state = self.store.read::<_, StoreError>(|view| Conversation::load(view, with));
        let unread = state.map_or(0, |state| state.unread_count());
        if is_news {
            let (with, group) = self.shown_correspondent(with);
            self.events.send(Event::ConversationRead { with, group, unread, elsewhere });
        }
        unread
    }

    /// Somebody says what they have read of ours.
    pub(crate) fn take_receipt(&mut self, sender: &VerifiedChain, receipt: &ReadReceipt) -> Result<(), Reason> {
        let with = match receipt.group {
            Some(group) => {
                if !self.is_fellow(&group, &sender.user) {
                    return Err(Reason::NOT_ALLOWED);
                }
                Correspondent::Group(group)
            }
            None if self.relation(&sender.user) == Relation::Blocked => return Err(Reason::NOT_ALLOWED),
            None => Correspondent::User(sender.user.id.clone()),
        };
        let taken = self.store.transaction::<_, StoreError>(|tx| {
            // Of conversations that aren't, nothing can have been read.
            if tx.conversation_state(&with)?.is_none() {
                return Ok(Marks::new());
            }
            merge_reader(tx, &with, &sender.user.id, &receipt.marks)
        });
        match taken {
            Ok(news) => {
                self.tell_newly_read(&with, &news);
                Ok(())
            }
            Err(error) => {
                warn!(%error, "receipt not kept");
                Err(Reason::TOO_MANY)
            }
        }
    }

    /// Tells of each message that somebody has now read.
    fn tell_newly_read(&mut self, with: &Correspondent, news: &Marks) {
        if news.is_empty() {
            return;
        }
        let me = self.identity.device();
        let mut left = news.iter().fold(0_u64, |left, (_, counters)| left.saturating_add(counters.len()));
        let mut found = Vec::new();
        let looked = self.look_back(with, |kept| {
            let (device, counter) = match &kept {
                Kept::Sent { item, .. } => (me, item.envelope.counter),
                Kept::Elsewhere { device, envelope, .. } => (*device, envelope.counter),
                Kept::Received { .. } => return None,
            };
            if news.contains(&device, counter) {
                found.push(kept);
                left = left.saturating_sub(1);
            }
            (left == 0).then_some(())
        });
        if let Err(error) = looked {
            warn!(%error, "who has read messages isn't told");
        }
        let readers = self.readers(with);
        for kept in found.iter().rev() {
            match kept {
                Kept::Sent { item, state } => {
                    self.message_read_elsewhere(&item.envelope.id);
                    self.tell_state(with, &self.kept_status(item, WireState::of_number(*state), &readers));
                }
                Kept::Elsewhere { envelope, .. } => self.tell_state(with, &status(envelope.id, MessageState::Read)),
                Kept::Received { .. } => {}
            }
        }
    }

    /// Shows a conversation's messages, the newest first, until there is an answer; a few at first, as what is looked for is mostly there.
    fn look_back<T>(&self, with: &Correspondent, mut look: impl FnMut(Kept) -> Option<T>) -> Result<Option<T>, StoreError> {
        const FIRST: usize = 64;
        self.store.read(|view| {
            let mut seen = 0;
            for limit in [FIRST, FIRST * 16, LOOK_BACK_MAX] {
                let rows = view.conversation(with, None, limit)?;
                for (_, row) in rows.iter().rev().skip(seen) {
                    if let Some(answer) = Kept::decode(&row.content).and_then(&mut look) {
                        return Ok(Some(answer));
                    }
                }
                seen = rows.len();
                if seen < limit {
                    break;
                }
            }
            Ok(None)
        })
    }
}

fn status(id: MessageId, state: MessageState) -> MessageStatus {
    MessageStatus { id: id.to_string(), state, reason: None, members: Vec::new() }
}

// Own devices.
impl EventLoop {
    /// What another device of this user says.
    pub(crate) fn take_own_signal(&mut self, sender: &VerifiedChain, signal: OwnSignal) -> Result<(), Reason> {
        if self.relation(&sender.user) != Relation::Own || sender.user.id != self.identity.user_id() {
            return Err(Reason::NOT_ALLOWED);
        }
        debug!(signal = signal.name(), "from an own device");
        let taken = match signal {
            OwnSignal::Sent(item) => self.take_history(*item, &sender.device, true).map(drop),
            OwnSignal::Progress(progress) => self.take_progress(&sender.device, &progress),
            OwnSignal::States(items) => self.merge_state_items(items),
            OwnSignal::Mail(notice) => {
                self.mail_told(*notice);
                Ok(())
            }
        };
        taken.map_err(|error| {
            warn!(%error, "what an own device says isn't kept");
            Reason::TOO_MANY
        })
    }

    fn take_progress(&mut self, device: &DeviceKey, progress: &[Progress]) -> Result<(), StoreError> {
        let changed = self.store.transaction::<_, StoreError>(|tx| {
            let mut changed = Vec::new();
            for Progress { id, state } in progress {
                let Some((number, row)) = tx.message_by_id(&foreign_row_id(device, id))? else { continue };
                let Some(Kept::Elsewhere { device, envelope, state: known }) = Kept::decode(&row.content) else { continue };
                // Forward, and from anything but delivered to failed.
                let (known, new) = (WireState::of_number(known), WireState::of_number(*state));
                if new <= known && (new != WireState::Failed || known >= WireState::Delivered) {
                    continue;
                }
                tx.update_message(number, &wire::encode(&Kept::Elsewhere { device, envelope, state: new.number() }))?;
                changed.push((row.conversation, *id, new));
            }
            Ok(changed)
        })?;
        for (with, id, state) in changed {
            self.tell_state(&with, &status(id, shown(state)));
        }
        Ok(())
    }

    /// A message of this device has come further: own other devices show it too.
    pub(crate) fn note_progress(&mut self, item: &OutboxItem, state: WireState) {
        if state == WireState::Queued || item.own.is_none() {
            return;
        }
        let waiting = &mut self.receipts.progress;
        waiting.retain(|(id, _)| *id != item.envelope.id);
        if waiting.len() >= PROGRESS_WAITING_MAX {
            waiting.remove(0);
        }
        waiting.push((item.envelope.id, state));
        self.share_states_soon();
    }

    fn share_states_soon(&mut self) {
        self.vault_states_changed();
        self.receipts.share_at.get_or_insert_with(|| Instant::now() + SHARE_AFTER);
    }

    pub(crate) fn share_conversation(&mut self, with: &Correspondent) {
        self.receipts.unshared.insert(with.clone());
        self.share_states_soon();
    }

    pub(crate) fn share_group(&mut self, group: GroupId) {
        self.receipts.unshared_groups.insert(group);
        self.share_states_soon();
    }

    /// Another own device has turned up: it is told everything.
    pub(crate) fn share_all_states(&mut self) {
        let states = self.store.read::<_, StoreError>(|view| view.conversation_states(CONVERSATIONS_MAX)).unwrap_or_default();
        let with = states.iter().filter_map(|bytes| Conversation::decode(bytes)).map(|state| state.with);
        self.receipts.unshared.extend(with);
        let groups: Vec<GroupId> = self.groups.ids().collect();
        self.receipts.unshared_groups.extend(groups);
        self.receipts.are_calls_unshared = true;
        self.share_states_soon();
        self.catch_up_soon();
    }

    pub(crate) fn receipts_tick(&mut self, now: Now) {
        if self.receipts.share_at.is_some_and(|at| at <= now.instant) {
            self.receipts.share_at = None;
            self.share_states(now);
        }
    }

    fn share_states(&mut self, now: Now) {
        let me = self.identity.user_id();
        if self.contacts.has_own_devices() && self.signals_waiting(&me) >= SHARES_WAITING_MAX {
            // What changes meanwhile is told with the rest.
            self.receipts.share_at = Some(now.instant + SHARE_AGAIN);
            return;
        }
        let told = std::mem::take(&mut self.receipts.unshared);
        let groups = std::mem::take(&mut self.receipts.unshared_groups);
        let progress = std::mem::take(&mut self.receipts.progress);
        let are_calls_unshared = std::mem::take(&mut self.receipts.are_calls_unshared);
        if !self.contacts.has_own_devices() {
            return;
        }
        let mut items = Vec::new();
        for with in &told {
            items.extend(self.conversation_items(with));
        }
        items.extend(groups.iter().flat_map(|group| self.group_items(group)));
        if are_calls_unshared {
            items.extend(self.call_items());
        }
        let mut signals = state_signals(items);
        let progress: Vec<Progress> = progress.into_iter().map(|(id, state)| Progress { id, state: state.number() }).collect();
        signals.extend(progress.chunks(PROGRESS_MAX).map(|progress| OwnSignal::Progress(progress.to_vec())));
        match self.keep_own_signals(signals, &told, now) {
            Ok(queued) => self.queue_kept(queued, now),
            Err(error) => {
                warn!(%error, "own devices not told");
                self.receipts.unshared.extend(told);
                self.receipts.unshared_groups.extend(groups);
                self.receipts.share_at = Some(now.instant + SHARE_AGAIN);
            }
        }
    }

    fn keep_own_signals(
        &mut self,
        signals: Vec<OwnSignal>,
        told: &BTreeSet<Correspondent>,
        now: Now,
    ) -> Result<Vec<Queued>, StoreError> {
        let me = self.identity.user_id();
        let conversation = conversation_id(&me, &Correspondent::User(me.clone()));
        let rng = &mut self.rng;
        let envelopes: Vec<Envelope> = signals
            .into_iter()
            .map(|signal| Envelope {
                id: MessageId::random(rng),
                conversation,
                counter: 0,
                sent_at: now.unix,
                body: MessageBody::Own(Box::new(signal)),
                extensions: Extensions::none(),
            })
            .collect();
        self.store.transaction::<_, StoreError>(|tx| {
            for with in told {
                let mut state = Conversation::load(tx, with)?;
                if std::mem::replace(&mut state.is_unshared, false) {
                    state.store(tx)?;
                }
            }
            envelopes.into_iter().map(|envelope| keep_signal(tx, &me, envelope, now.unix)).collect()
        })
    }

    fn conversation_items(&self, with: &Correspondent) -> Vec<StateItem> {
        let stored = self.store.read::<_, StoreError>(|view| Ok((Conversation::load(view, with)?, readers(view, with)?)));
        let Ok((state, readers)) = stored else { return Vec::new() };
        let own = marks_of(&state.read).into_iter().map(|marks| (None, marks));
        let others = readers
            .into_iter()
            .flat_map(|(user, marks)| marks_of(&marks).into_iter().map(move |part| (Some(user.clone()), part)));
        let mut items: Vec<ConversationMarks> = own
            .chain(others)
            .map(|(reader, marks)| ConversationMarks { with: with.clone(), reader, marks, extensions: Extensions::none() })
            .collect();
        // What was deleted was heard before: there is such an item.
        if let Some(item) = items.iter_mut().find(|item| item.reader.is_none()) {
            item.extensions = self.deleted_voicemail(with);
        }
        items.into_iter().map(|marks| StateItem::Marks(Box::new(marks))).collect()
    }

    fn call_items(&self) -> Vec<StateItem> {
        let marks: Vec<CallMark> = self.receipts.calls.iter().copied().collect();
        marks.chunks(MARKS_PER_ITEM_MAX).map(|marks| StateItem::Calls(marks.to_vec())).collect()
    }

    /// All that own devices have in common about conversations, groups and calls: for the vault.
    pub(crate) fn state_items(&self) -> Vec<StateItem> {
        let states = self.store.read::<_, StoreError>(|view| view.conversation_states(CONVERSATIONS_MAX)).unwrap_or_default();
        let with = states.iter().filter_map(|bytes| Conversation::decode(bytes)).map(|state| state.with);
        let mut items: Vec<StateItem> = with.flat_map(|with| self.conversation_items(&with)).collect();
        items.extend(self.groups.ids().collect::<Vec<_>>().iter().flat_map(|group| self.group_items(group)));
        items.extend(self.call_items());
        items
    }

    /// Takes in what another own device, or the vault, says. Doing so twice changes nothing.
    ///
    /// # Errors
    /// [`StoreError`]: what came before the failure is kept.
    pub(crate) fn merge_state_items(&mut self, items: Vec<StateItem>) -> Result<(), StoreError> {
        for item in items {
            match item {
                StateItem::Marks(marks) => self.merge_marks(&marks)?,
                StateItem::Group(part) => self.merge_own_part(*part)?,
                StateItem::Standing(mark) => self.merge_standing(mark)?,
                StateItem::Calls(calls) => self.merge_calls(&calls)?,
            }
        }
        Ok(())
    }

    fn merge_marks(&mut self, marks: &ConversationMarks) -> Result<(), StoreError> {
        let with = &marks.with;
        if let Some(reader) = &marks.reader {
            let news = self.store.transaction::<_, StoreError>(|tx| merge_reader(tx, with, reader, &marks.marks))?;
            self.tell_newly_read(with, &news);
            return Ok(());
        }
        let is_news = self.store.transaction::<_, StoreError>(|tx| {
            let mut state = Conversation::load(tx, with)?;
            let before = state.read.clone();
            for mark in &marks.marks {
                state.read.add(mark.device, &mark.counters);
            }
            if state.read != before {
                state.store(tx)?;
            }
            Ok(state.read != before)
        })?;
        self.tell_read(with, true, is_news);
        if is_news {
            self.refresh_heard(with, true);
        }
        self.merge_deleted_voicemail(with, &marks.extensions);
        Ok(())
    }

    fn merge_calls(&mut self, calls: &[CallMark]) -> Result<(), StoreError> {
        let mut is_news = false;
        for mark in calls {
            if self.receipts.calls.add(*mark) {
                is_news = true;
                self.call_settled_elsewhere(mark.call, mark.fate);
                self.events.send(Event::CallDismissed { call_id: mark.call.to_string(), elsewhere: true });
            }
        }
        if is_news { self.keep_call_marks() } else { Ok(()) }
    }

    fn keep_call_marks(&self) -> Result<(), StoreError> {
        let marks: Vec<CallMark> = self.receipts.calls.iter().copied().collect();
        self.store.transaction::<_, StoreError>(|tx| tx.put_setting(CALL_MARKS, &wire::encode(&marks)))
    }

    /// The user has answered, declined or dismissed a call: own other devices show it.
    pub(crate) fn note_call_fate(&mut self, call: CallId, fate: CallFate) {
        let at = self.now().unix;
        if !self.receipts.calls.add(CallMark { call, fate, at }) {
            return;
        }
        if let Err(error) = self.keep_call_marks() {
            warn!(%error, "what became of a call isn't kept");
        }
        self.receipts.are_calls_unshared = true;
        self.share_states_soon();
    }

    /// What the user did with a call, on whichever device.
    pub(crate) fn call_fate(&self, call: &CallId) -> Option<CallFate> {
        self.receipts.calls.fate(call)
    }
}
