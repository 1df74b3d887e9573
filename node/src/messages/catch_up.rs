//! Messages that didn't come by themselves: own devices give each other what they have, and who misses a number asks for it.
//!
//! Every device remembers, of each other one, up to which place in that one's database it has been given everything; so a hole closes with the next
//! look, whatever made it. A new device gets the newest [`OFFERED_MAX`] messages of each conversation from the last [`OFFERED_SECS`].
//!
//! A missing number is waited for, then asked for: of the device that sent it, and of own others. What they haven't got is told as a gap.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use halloo_protocol::identity::UserId;
use halloo_protocol::key::DeviceKey;
use halloo_protocol::message::{
    Correspondent, CounterSet, Envelope, HISTORY_BYTES_MAX, HISTORY_ITEMS_MAX, HistoryItem, HistoryPage, HistoryQuery,
    HistoryRequest, MessageBody, MessageState as WireState,
};
use halloo_protocol::time::{Now, UnixTime};
use halloo_protocol::wire::{self, Extensions, Frame};
use libp2p::PeerId;
use tracing::{debug, warn};

use super::{Kept, conversation_id, counter_setting, foreign_row_id};
use crate::address;
use crate::directory::Waiter;
use crate::event_loop::EventLoop;
use crate::handle::Event;
use crate::network::{Purpose, Target};
use crate::receipts::Conversation;
use crate::rpc::Failure;
use crate::store::{Direction, MessageRow, StoreError, Transaction, View};
use crate::timestamp::Timestamp;

/// Messages of one conversation that are offered to an own device.
const OFFERED_MAX: usize = 1_000;

/// From how long ago.
const OFFERED_SECS: u64 = 30 * 86_400;

/// Rows looked through for one page.
const ROWS_PER_PAGE: usize = 512;

/// How often an own device is asked what it has: a sender that doesn't know of all our devices yet sends to some of them only.
const ASK_EVERY: Duration = Duration::from_secs(60);

/// How often a home does that is newer than [`NEW_SECS`]: until then most senders have this user's record from before.
const ASK_WHILE_NEW: Duration = Duration::from_secs(5);

/// A little longer than records are taken from the cache.
const NEW_SECS: u64 = 6 * 60;

/// The longest pause between two tries to ask a device that doesn't answer; from [`ASK_EVERY`] on it is doubled.
const ASK_EVERY_MAX: Duration = Duration::from_secs(600);

/// The first look after the start, and after an own device has turned up: what is on its way comes first.
const ASK_SOON: Duration = Duration::from_secs(2);

/// How long a device has to answer.
const TIMEOUT: Duration = Duration::from_secs(15);

/// How long a missing message is waited for before it is asked for, and between two tries: the sender repeats it by itself.
const MISSING_WAIT: Duration = Duration::from_secs(5);

/// Tries after which a missing message is told as a gap: some minutes.
const MISSING_TRIES: u32 = 6;

/// Gaps that are asked for at a time; others are shown, and closed if the messages come by themselves.
const GAPS_MAX: usize = 128;

/// Messages with which one look-back answers.
const LOOK_BACK_MAX: usize = 5_000;

const CURSORS: &str = "catch up cursors";

/// Since when this home knows its user's messages: what was kept before was never new here.
const SINCE: &str = "catch up since";

/// Own devices of which a place is remembered.
const CURSORS_MAX: usize = 64;

/// What a request for messages was for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum HistoryAsking {
    /// Everything that a device of ours has kept since.
    OwnDevice(DeviceKey),
    /// Missing messages.
    Missing(DeviceKey),
}

/// Numbers that are missing.
#[derive(Clone, Debug)]
struct Gap {
    with: Correspondent,
    device: DeviceKey,
    missing: CounterSet,
    tries: u32,
    ask_at: Instant,
}

/// When a device is asked.
#[derive(Clone, Copy, Debug)]
struct Turn {
    at: Instant,
    pause: Duration,
}

impl Turn {
    fn soon() -> Self {
        Self { at: Instant::now() + ASK_SOON, pause: ASK_EVERY }
    }
}

/// Whom to ask for what.
#[derive(Debug, Default)]
pub(crate) struct CatchUpState {
    cursors: Option<BTreeMap<DeviceKey, u64>>,
    /// [`SINCE`].
    since: UnixTime,
    /// When each own device is asked next, and how long after that. At most as many as there are own devices.
    turns: BTreeMap<DeviceKey, Turn>,
    asking: BTreeSet<DeviceKey>,
    gaps: Vec<Gap>,
}

// Asking.
impl EventLoop {
    pub(super) fn catch_up_start(&mut self) {
        let now = self.now().unix;
        let since = self.store.transaction::<_, StoreError>(|tx| {
            if let Some(since) = tx.setting_value(SINCE)? {
                return Ok(since);
            }
            tx.put_setting_value(SINCE, &now)?;
            Ok(now)
        });
        self.messages.catch_up.since =
            since.inspect_err(|error| warn!(%error, "when this home began isn't remembered")).unwrap_or(now);
    }

    /// Own devices are asked in a moment.
    pub(crate) fn catch_up_soon(&mut self) {
        self.messages.catch_up.turns.clear();
    }

    /// A device has connected: if it is ours, it may have something.
    pub(super) fn catch_up_peer_greeted(&mut self, device: &DeviceKey) {
        if self.contacts.is_own_device(device) {
            self.messages.catch_up.turns.remove(device);
        }
    }

    pub(super) fn catch_up_tick(&mut self, now: Now) {
        let own: Vec<DeviceKey> = self.contacts.own_devices().copied().collect();
        let turns = &mut self.messages.catch_up.turns;
        turns.retain(|device, _| own.contains(device));
        let mut due = Vec::new();
        for device in own {
            let turn = turns.entry(device).or_insert_with(Turn::soon);
            if turn.at <= now.instant {
                turn.at = now.instant + turn.pause;
                // Until it answers.
                turn.pause = (turn.pause * 2).min(ASK_EVERY_MAX);
                due.push(device);
            }
        }
        for device in due {
            self.ask_own_device(device);
        }
        self.ask_for_gaps(now.instant);
    }

    fn ask_own_device(&mut self, device: DeviceKey) {
        if self.messages.catch_up.asking.contains(&device) {
            return;
        }
        let me = self.identity.user_id();
        let Some(target) = self.history_target(&me, &device) else {
            return self.resolve_user(&me, Waiter::Messages);
        };
        let number = self.cursors().get(&device).copied().unwrap_or(0);
        self.messages.catch_up.asking.insert(device);
        self.ask_history(&target, HistoryQuery::After { number }, HistoryAsking::OwnDevice(device));
    }

    fn ask_history(&mut self, target: &Target, query: HistoryQuery, asking: HistoryAsking) {
        let request = HistoryRequest { query, extensions: Extensions::none() };
        self.request(target, &request, Purpose::History(asking), TIMEOUT);
    }

    /// How to ask a device: connected, or by the record at hand.
    pub(crate) fn history_target(&self, user: &UserId, device: &DeviceKey) -> Option<Target> {
        let connected = address::peer_id(device).filter(|peer| self.peers.get(peer).is_some()).map(Target::connected);
        connected.or_else(|| self.unasked_target(user, device))
    }

    fn cursors(&mut self) -> &mut BTreeMap<DeviceKey, u64> {
        let store = &self.store;
        self.messages.catch_up.cursors.get_or_insert_with(|| {
            let stored = store.read::<_, StoreError>(|view| view.setting_value(CURSORS));
            stored.ok().flatten().unwrap_or_default()
        })
    }

    fn note_cursor(&mut self, device: DeviceKey, next: u64) {
        let cursors = self.cursors();
        cursors.insert(device, next);
        while cursors.len() > CURSORS_MAX {
            cursors.pop_first();
        }
        let cursors = cursors.clone();
        if let Err(error) = self.store.transaction::<_, StoreError>(|tx| tx.put_setting_value(CURSORS, &cursors)) {
            warn!(%error, "what own devices have given isn't remembered");
        }
    }

    /// Messages of a device are missing: asked for, unless they come meanwhile.
    pub(crate) fn ask_for_missing(&mut self, with: Correspondent, device: DeviceKey, missing: CounterSet) {
        let gaps = &mut self.messages.catch_up.gaps;
        let ask_at = Instant::now() + MISSING_WAIT;
        if let Some(gap) = gaps.iter_mut().find(|gap| gap.device == device && gap.with == with) {
            gap.missing.merge(&missing);
        } else if gaps.len() < GAPS_MAX {
            gaps.push(Gap { with, device, missing, tries: 0, ask_at });
        } else {
            debug!("too many gaps to ask for this one");
        }
    }

    fn ask_for_gaps(&mut self, now: Instant) {
        let (due, later): (Vec<Gap>, Vec<Gap>) =
            std::mem::take(&mut self.messages.catch_up.gaps).into_iter().partition(|gap| gap.ask_at <= now);
        self.messages.catch_up.gaps = later;
        for mut gap in due {
            let state = self.store.read::<_, StoreError>(|view| Conversation::load(view, &gap.with));
            let Ok(state) = state else { continue };
            gap.missing = state.lacking(&gap.device, &gap.missing);
            if gap.missing.is_empty() {
                continue;
            }
            if gap.tries >= MISSING_TRIES {
                self.tell_gap(&gap);
                continue;
            }
            self.ask_for_gap(&gap);
            gap.tries += 1;
            gap.ask_at = now + MISSING_WAIT * 2_u32.saturating_pow(gap.tries);
            self.messages.catch_up.gaps.push(gap);
        }
    }

    fn ask_for_gap(&mut self, gap: &Gap) {
        let query = |with| HistoryQuery::Missing { with, device: gap.device, counters: gap.missing.clone() };
        let me = self.identity.user_id();
        let author = self.author_of(gap);
        if let Some(target) = author.and_then(|author| self.history_target(&author, &gap.device)) {
            // As the one who is asked sees it, the conversation is with us.
            let with = if gap.with.group().is_some() { gap.with.clone() } else { Correspondent::User(me.clone()) };
            self.ask_history(&target, query(with), HistoryAsking::Missing(gap.device));
        }
        let own: Vec<DeviceKey> = self.contacts.own_devices().copied().collect();
        for device in own {
            if let Some(target) = self.history_target(&me, &device) {
                self.ask_history(&target, query(gap.with.clone()), HistoryAsking::Missing(device));
            }
        }
    }

    fn author_of(&self, gap: &Gap) -> Option<UserId> {
        if let Correspondent::User(user) = &gap.with {
            return Some(user.clone());
        }
        let rows = self.store.read::<_, StoreError>(|view| view.conversation(&gap.with, None, LOOK_BACK_MAX)).ok()?;
        rows.iter().rev().find_map(|(_, row)| match Kept::decode(&row.content)? {
            Kept::Received { from, author, .. } if from == gap.device => Some(author),
            _ => None,
        })
    }

    fn tell_gap(&self, gap: &Gap) {
        let (with, group) = self.shown_correspondent(&gap.with);
        let missing = gap.missing.len();
        self.events.send(Event::MessageGap { with, group, missing });
    }

    pub(crate) fn history_answer(&mut self, asking: HistoryAsking, frame: &Frame) {
        let Ok(page) = frame.parse::<HistoryPage>() else {
            self.counters.malformed += 1;
            return self.history_failure(asking, Failure::Unsupported);
        };
        match asking {
            HistoryAsking::OwnDevice(device) => self.take_page(device, page),
            HistoryAsking::Missing(device) => self.take_missing(device, page),
        }
    }

    pub(crate) fn history_failure(&mut self, asking: HistoryAsking, failure: Failure) {
        debug!(?asking, %failure, "no messages given");
        if let HistoryAsking::OwnDevice(device) = asking {
            self.messages.catch_up.asking.remove(&device);
        }
    }

    fn take_page(&mut self, device: DeviceKey, page: HistoryPage) {
        self.messages.catch_up.asking.remove(&device);
        if !self.contacts.is_own_device(&device) {
            return;
        }
        let is_new = self.now().unix.secs_since(self.messages.catch_up.since) < NEW_SECS;
        let pause = if is_new { ASK_WHILE_NEW } else { ASK_EVERY };
        if let Some(turn) = self.messages.catch_up.turns.get_mut(&device) {
            *turn = Turn { at: Instant::now() + pause, pause };
        }
        let mut news = 0_u64;
        let since = self.messages.catch_up.since;
        for item in page.items {
            // It may be here before the sender's own copy, or instead of it: then it is as new as if that had come.
            let is_live = item.kept_at >= since;
            match self.take_history(item, &device, is_live) {
                Ok(is_new) => news += u64::from(is_new),
                // Asked for again the next time.
                Err(error) => return warn!(%error, "what an own device gave isn't kept"),
            }
        }
        if news > 0 {
            let from = address::peer_id(&device).map(|peer| peer.to_string()).unwrap_or_default();
            self.events.send(Event::HistoryReceived { from_device: from, messages: news });
        }
        self.note_cursor(device, page.next);
        if page.has_more {
            self.ask_own_device(device);
        }
    }

    fn take_missing(&mut self, device: DeviceKey, page: HistoryPage) {
        let is_own = self.contacts.is_own_device(&device);
        for mut item in page.items {
            if is_own {
                if let Err(error) = self.take_history(item, &device, true) {
                    warn!(%error, "a missing message isn't kept");
                }
                continue;
            }
            // Only what we miss of the one who is asked, in the conversation in which we miss it.
            let asked = self.messages.catch_up.gaps.iter().find(|gap| gap.device == device && gap.missing.contains(item.counter));
            let Some(gap) = asked.cloned() else { continue };
            let Some(author) = self.author_of(&gap) else { continue };
            (item.with, item.author, item.device) = (gap.with, author, Some(device));
            item.kept_at = self.now().unix;
            if let Err(error) = self.take_history(item, &device, true) {
                warn!(%error, "a missing message isn't kept");
            }
        }
    }

    /// Keeps a message that an own device tells of, or that was asked for; the person is told of one that is `is_live` and that nobody has
    /// read. True if it was news.
    pub(crate) fn take_history(&mut self, item: HistoryItem, teller: &DeviceKey, is_live: bool) -> Result<bool, StoreError> {
        let me = self.identity.user_id();
        let now = self.now().unix;
        let Some(told) = Told::of(item, teller, &me) else { return Ok(false) };
        let own_device = self.identity.device();
        let is_news = self.store.transaction::<_, StoreError>(|tx| keep_told(tx, &told, own_device, now))?;
        if is_news && told.envelope.body.voicemail().is_some() {
            self.voicemail_announced(&(told.device, told.envelope.id));
        }
        if is_news && is_live {
            let Some(text) = told.envelope.body.text().map(str::to_owned) else { return Ok(true) };
            if told.is_mine {
                let (to, group) = self.shown_correspondent(&told.with);
                let sent_at = Timestamp::from_unix_secs(told.envelope.sent_at.0);
                let message_id = told.envelope.id.to_string();
                self.events.send(Event::MessageSent { message_id, to, group, text, sent_at });
            } else if !self.was_read(&told) {
                self.tell_received(&told.with, (told.device, &told.author), &told.envelope, text);
            }
        }
        Ok(is_news)
    }
}

// Telling.
impl EventLoop {
    /// True if the person has read it on another device.
    fn was_read(&self, told: &Told) -> bool {
        let state = self.store.read::<_, StoreError>(|view| Conversation::load(view, &told.with));
        state.is_ok_and(|state| state.is_read(&told.device, told.envelope.counter))
    }
}

/// A message of a conversation that was told of, and makes sense.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) with: Correspondent,
    pub(crate) author: UserId,
    pub(crate) device: DeviceKey,
    pub(crate) envelope: Envelope,
    pub(crate) state: u8,
    pub(crate) kept_at: UnixTime,
    /// This user wrote it.
    pub(crate) is_mine: bool,
}

impl Told {
    /// `None` if it isn't part of a conversation, or has lengths that nothing may have.
    pub(crate) fn of(item: HistoryItem, teller: &DeviceKey, me: &UserId) -> Option<Self> {
        let body = wire::decode::<MessageBody>(&item.body, halloo_protocol::message::HISTORY_BODY_BYTES_MAX).ok()?;
        let conversation = conversation_id(me, &item.with);
        let (id, counter, sent_at) = (item.id, item.counter, item.sent_at);
        let envelope = Envelope { id, conversation, counter, sent_at, body, extensions: Extensions::none() };
        if !envelope.body.is_shown() || envelope.body.voicemail().is_some() && item.with.user().is_none() {
            return None;
        }
        envelope.check().ok()?;
        let is_mine = item.author == *me;
        let device = item.device.unwrap_or(*teller);
        Some(Self { with: item.with, author: item.author, device, envelope, state: item.state, kept_at: item.kept_at, is_mine })
    }
}

/// Keeps a message that was told of, once. True if it is new.
pub(crate) fn keep_told(tx: &Transaction, told: &Told, own_device: DeviceKey, now: UnixTime) -> Result<bool, StoreError> {
    let Told { with, author, device, envelope, state, kept_at, is_mine } = told;
    let (id, counter) = (envelope.id, envelope.counter);
    let kept = if *is_mine {
        Kept::Elsewhere { device: *device, envelope: envelope.clone(), state: (*state).max(WireState::Queued.number()) }
    } else {
        Kept::Received { from: *device, author: author.clone(), envelope: envelope.clone() }
    };
    let row = MessageRow {
        id: foreign_row_id(device, &id),
        direction: Direction::In,
        conversation: with.clone(),
        at: (*kept_at).min(now),
        content: wire::encode(&kept),
    };
    if *device == own_device {
        if tx.message_by_id(&id.0)?.is_some() {
            return Ok(false);
        }
        // From before this database was lost: numbers go on above it.
        let setting = counter_setting(&envelope.conversation);
        let known = tx.setting_value::<u64>(&setting)?.unwrap_or(0);
        tx.put_setting_value(&setting, &known.max(counter))?;
    }
    // Ids of messages that came long ago aren't among those remembered any more, the messages are.
    if tx.message_by_id(&row.id)?.is_some() || !tx.is_first_copy(device, &id.0, now)? {
        return Ok(false);
    }
    tx.add_message(&row)?;
    crate::calls::voicemail::keep_announced(tx, with, *device, envelope, !*is_mine, now)?;
    if *is_mine {
        Conversation::note_own(tx, with, *device, counter)?;
    } else {
        Conversation::note(tx, with, *device, counter)?;
    }
    Ok(true)
}

// Answering.
impl EventLoop {
    pub(crate) fn handle_history_request(&mut self, peer: PeerId, request: &HistoryRequest) -> HistoryPage {
        let chain = self.peers.get(&peer).and_then(|known| known.chain.clone());
        let Some(asker) = chain else { return HistoryPage::empty() };
        let is_own = asker.user.identity == self.identity.identity() && asker.user.id == self.identity.user_id();
        let now = self.now().unix;
        let given = match &request.query {
            HistoryQuery::After { number } if is_own => {
                let me = self.identity.device();
                self.store.read(|view| page_after(view, *number, me, &self.identity.user_id(), now))
            }
            HistoryQuery::After { .. } => Ok(HistoryPage::empty()),
            HistoryQuery::Missing { with, device, counters } if is_own => self.give_missing(with, *device, counters, None),
            HistoryQuery::Missing { with, device, counters } if *device == self.identity.device() => match with {
                Correspondent::User(_) => {
                    let theirs = Correspondent::User(asker.user.id.clone());
                    self.give_missing(&theirs, *device, counters, Some(&asker.user.id))
                }
                Correspondent::Group(group) if self.is_fellow(group, &asker.user) => {
                    self.give_missing(with, *device, counters, Some(&asker.user.id))
                }
                Correspondent::Group(_) => Ok(HistoryPage::empty()),
            },
            HistoryQuery::Missing { .. } => Ok(HistoryPage::empty()),
        };
        given.unwrap_or_else(|error: StoreError| {
            warn!(%error, "messages not given");
            HistoryPage::empty()
        })
    }

    /// Messages of a device by their numbers; to another user only what was sent to them.
    fn give_missing(
        &self,
        with: &Correspondent,
        device: DeviceKey,
        counters: &CounterSet,
        asker: Option<&UserId>,
    ) -> Result<HistoryPage, StoreError> {
        let me = self.identity.device();
        let rows = self.store.read::<_, StoreError>(|view| view.conversation(with, None, LOOK_BACK_MAX))?;
        let mut page = HistoryPage::empty();
        let mut bytes = 0;
        for (_, row) in rows {
            let Some(kept) = Kept::decode(&row.content) else { continue };
            let is_meant = match (&kept, asker) {
                (Kept::Sent { item, .. }, Some(asker)) => item.to.iter().any(|recipient| recipient.user == *asker),
                (_, Some(_)) => false,
                (_, None) => true,
            };
            let item = history_item(kept, &row, me, &self.identity.user_id());
            if !is_meant || item.device != Some(device) || !counters.contains(item.counter) {
                continue;
            }
            bytes += wire::encoded_len(&item);
            if page.items.len() >= HISTORY_ITEMS_MAX || (bytes > HISTORY_BYTES_MAX && !page.items.is_empty()) {
                page.has_more = true;
                break;
            }
            page.items.push(item);
        }
        Ok(page)
    }
}

/// What comes after this place in the database, for another own device.
fn page_after(view: &View, after: u64, me: DeviceKey, own_user: &UserId, now: UnixTime) -> Result<HistoryPage, StoreError> {
    let rows = view.messages_after(after, ROWS_PER_PAGE)?;
    let mut page = HistoryPage { next: after, has_more: rows.len() >= ROWS_PER_PAGE, ..HistoryPage::empty() };
    if rows.is_empty() {
        // A database restored from a backup counts from where that was.
        let last = view.last_messages(1)?.last().map_or(0, |(number, _)| *number);
        page.next = after.min(last);
    }
    let oldest = now.minus_secs(OFFERED_SECS);
    let mut edges: BTreeMap<Correspondent, UnixTime> = BTreeMap::new();
    let mut bytes = 0;
    for (number, row) in rows {
        let edge = match edges.get(&row.conversation) {
            Some(edge) => *edge,
            None => {
                let edge = view.conversation_edge(&row.conversation, OFFERED_MAX)?.unwrap_or(UnixTime(0)).max(oldest);
                edges.insert(row.conversation.clone(), edge);
                edge
            }
        };
        let kept = Kept::decode(&row.content).filter(|kept| kept.envelope().body.is_shown());
        let item = kept.map(|kept| history_item(kept, &row, me, own_user));
        if let Some(item) = item.filter(|_| row.at >= edge) {
            bytes += wire::encoded_len(&item);
            if page.items.len() >= HISTORY_ITEMS_MAX || (bytes > HISTORY_BYTES_MAX && !page.items.is_empty()) {
                page.has_more = true;
                break;
            }
            page.items.push(item);
        }
        page.next = number;
    }
    Ok(page)
}

/// A kept message, as others are told of it.
pub(crate) fn history_item(kept: Kept, row: &MessageRow, me: DeviceKey, own_user: &UserId) -> HistoryItem {
    let (device, author, envelope, state) = match kept {
        Kept::Sent { item, state } => (me, own_user.clone(), item.envelope, state),
        Kept::Received { from, author, envelope } => (from, author, envelope, 0),
        Kept::Elsewhere { device, envelope, state } => (device, own_user.clone(), envelope, state),
    };
    HistoryItem {
        with: row.conversation.clone(),
        author,
        device: Some(device),
        id: envelope.id,
        counter: envelope.counter,
        sent_at: envelope.sent_at,
        kept_at: row.at,
        state,
        body: wire::encode(&envelope.body),
        extensions: Extensions::none(),
    }
}
