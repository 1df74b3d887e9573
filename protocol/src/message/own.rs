//! What a user's devices tell each other: copies of what one has sent, what was read and dismissed, groups; and how one that was away, or is new,
//! catches up.
//!
//! Everything shared is mergeable: sets that grow ([`CounterSet`]), statements that are added ([`GroupPart`]), words of which the greater counts. So
//! devices that were apart come to the same, whoever tells whom first. It travels as [`OwnSignal`]s, kept and repeated like any message, and lies in
//! the vault in the same form ([`StateItem`]).
//!
//! [`HistoryRequest`] is how messages themselves are fetched: of another own device, page by page, after what was seen of it; or, of the device that
//! wrote them, those whose numbers are missing.

use std::collections::BTreeMap;

use bincode::{Decode, Encode};

use super::counters::CounterSet;
use crate::group::{GroupPart, StandingMark};
use crate::id::{CallId, GroupId, MessageId};
use crate::identity::UserId;
use crate::key::DeviceKey;
use crate::mail::MailNotice;
use crate::time::UnixTime;
use crate::wire::{self, DecodeError, Extensions, FrameKind, Message};

/// Devices whose messages are followed in one conversation: those of a large group's members.
pub const MARKS_MAX: usize = 512;

/// Marks in one signal or state item, so that it stays within a message.
pub const MARKS_PER_ITEM_MAX: usize = 128;

/// State items in one signal.
pub const STATE_ITEMS_MAX: usize = 64;

/// Bytes of state items in one signal.
const STATE_BYTES_MAX: usize = 24 * 1024;

/// Words about sent messages in one signal.
pub const PROGRESS_MAX: usize = 256;

/// Calls whose fate is remembered; the oldest fall out.
pub const CALL_MARKS_MAX: usize = 512;

/// Messages in one page.
pub const HISTORY_ITEMS_MAX: usize = 256;

/// Bytes of messages in one page: at least one of the longest.
pub const HISTORY_BYTES_MAX: usize = 32 * 1024;

/// Bytes of one message's encoded body in a page or copy.
pub const HISTORY_BODY_BYTES_MAX: usize = super::TEXT_BYTES_MAX + 1_024;

/// With whom a conversation is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub enum Correspondent {
    /// One other user.
    User(UserId),
    /// A group.
    Group(GroupId),
}

impl From<UserId> for Correspondent {
    fn from(user: UserId) -> Self {
        Self::User(user)
    }
}

impl Correspondent {
    /// The user, if it is one.
    #[must_use]
    pub const fn user(&self) -> Option<&UserId> {
        match self {
            Self::User(user) => Some(user),
            Self::Group(_) => None,
        }
    }

    /// The group, if it is one.
    #[must_use]
    pub const fn group(&self) -> Option<&GroupId> {
        match self {
            Self::Group(group) => Some(group),
            Self::User(_) => None,
        }
    }
}

/// A message of a conversation, as one device of a user gives it to another.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct HistoryItem {
    /// The conversation, as the receiver sees it.
    pub with: Correspondent,
    /// Who wrote it.
    pub author: UserId,
    /// The device that sent it; `None`: the one that says this.
    pub device: Option<DeviceKey>,
    /// Its id.
    pub id: MessageId,
    /// Its number among the device's messages in the conversation.
    pub counter: u64,
    /// When it was sent, by its author's clock.
    pub sent_at: UnixTime,
    /// When the user's first device came to know it; its place in the list.
    pub kept_at: UnixTime,
    /// How far it had come, of messages the user has sent: a [`MessageState`](super::MessageState) by number.
    pub state: u8,
    /// What it says: a [`MessageBody`](super::MessageBody), encoded. A reader that doesn't know it leaves it out.
    pub body: Vec<u8>,
    /// Room to grow.
    pub extensions: Extensions,
}

impl HistoryItem {
    fn check(&self) -> Result<(), DecodeError> {
        if self.body.len() > HISTORY_BODY_BYTES_MAX {
            return Err(DecodeError::invalid("body", format!("{} bytes, at most {HISTORY_BODY_BYTES_MAX}", self.body.len())));
        }
        if self.counter == 0 {
            return Err(DecodeError::invalid("counter", "counters start at 1"));
        }
        Ok(())
    }
}

/// What of one device's messages in a conversation was read, or has come.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Mark {
    /// The device that sent them.
    pub device: DeviceKey,
    /// Their numbers.
    pub counters: CounterSet,
}

/// Marks of many devices; a join like the sets in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Marks(BTreeMap<DeviceKey, CounterSet>);

impl Marks {
    /// None.
    #[must_use]
    pub const fn new() -> Self {
        Self(BTreeMap::new())
    }

    /// Adds one mark; true if that was news. Beyond [`MARKS_MAX`] devices, further ones aren't followed.
    pub fn add(&mut self, device: DeviceKey, counters: &CounterSet) -> bool {
        if self.0.len() >= MARKS_MAX && !self.0.contains_key(&device) {
            return false;
        }
        self.0.entry(device).or_default().merge(counters)
    }

    /// The marks of a device.
    #[must_use]
    pub fn of(&self, device: &DeviceKey) -> Option<&CounterSet> {
        self.0.get(device)
    }

    /// True if this number of this device is marked.
    #[must_use]
    pub fn contains(&self, device: &DeviceKey, counter: u64) -> bool {
        self.of(device).is_some_and(|counters| counters.contains(counter))
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&DeviceKey, &CounterSet)> {
        self.0.iter()
    }

    /// What is marked here and not there, of each device.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        let nothing = CounterSet::new();
        let left = self.0.iter().map(|(device, counters)| (*device, counters.without(other.of(device).unwrap_or(&nothing))));
        Self(left.filter(|(_, counters)| !counters.is_empty()).collect())
    }

    /// Gives up what is missing between the first and the last of each device.
    pub fn close_gaps(&mut self) {
        self.0.values_mut().for_each(CounterSet::close_gaps);
    }

    /// True if nothing is marked.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.values().all(CounterSet::is_empty)
    }
}

/// "I have read these", from a user to the author. Kept and repeated like any message.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ReadReceipt {
    /// The group; `None`: the conversation of the two.
    pub group: Option<GroupId>,
    /// By sending device of the receiver's; at most [`MARKS_PER_ITEM_MAX`].
    pub marks: Vec<Mark>,
    /// When the newest was read.
    pub read_at: UnixTime,
    /// Room to grow.
    pub extensions: Extensions,
}

impl ReadReceipt {
    /// Checks counts after decoding.
    ///
    /// # Errors
    /// [`DecodeError::Invalid`] if it has too many marks.
    pub fn check(&self) -> Result<(), DecodeError> {
        check_count("marks", self.marks.len(), MARKS_PER_ITEM_MAX)
    }
}

/// What was read of a conversation: by this user, and by others of what this user wrote.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ConversationMarks {
    /// The conversation.
    pub with: Correspondent,
    /// Who has read: `None`, the user whose devices these are; else one who has said so.
    pub reader: Option<UserId>,
    /// At most [`MARKS_PER_ITEM_MAX`].
    pub marks: Vec<Mark>,
    /// Room to grow.
    pub extensions: Extensions,
}

/// What the user did with a call. The greater counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub enum CallFate {
    /// Seen in the list; nothing more is to be said of it.
    Dismissed,
    /// Declined on one of the devices.
    Declined,
    /// Answered on one of the devices.
    Answered,
}

/// What became of one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct CallMark {
    /// The call.
    pub call: CallId,
    /// What became of it.
    pub fate: CallFate,
    /// When; the oldest are forgotten first.
    pub at: UnixTime,
}

/// What became of calls; a join.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CallMarks(BTreeMap<CallId, CallMark>);

impl CallMarks {
    /// None.
    #[must_use]
    pub const fn new() -> Self {
        Self(BTreeMap::new())
    }

    /// Adds one; true if that was news.
    pub fn add(&mut self, mark: CallMark) -> bool {
        let rank = |mark: &CallMark| (mark.fate, mark.at);
        if self.0.get(&mark.call).is_some_and(|known| rank(known) >= rank(&mark)) {
            return false;
        }
        self.0.insert(mark.call, mark);
        if self.0.len() > CALL_MARKS_MAX
            && let Some(oldest) = self.0.values().min_by_key(|mark| (mark.at, mark.call)).map(|mark| mark.call)
        {
            self.0.remove(&oldest);
            return oldest != mark.call;
        }
        true
    }

    /// What became of a call.
    #[must_use]
    pub fn fate(&self, call: &CallId) -> Option<CallFate> {
        self.0.get(call).map(|mark| mark.fate)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &CallMark> {
        self.0.values()
    }
}

/// A piece of what own devices have in common. Merging one twice, or in another order, comes to the same.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum StateItem {
    /// What was read.
    Marks(Box<ConversationMarks>),
    /// What is said in a group about its members.
    Group(Box<GroupPart>),
    /// Whether the user takes part in a group.
    Standing(StandingMark),
    /// What became of calls; at most [`MARKS_PER_ITEM_MAX`].
    Calls(Vec<CallMark>),
}

impl StateItem {
    /// Checks counts after decoding.
    ///
    /// # Errors
    /// [`DecodeError`] for the field out of range.
    pub fn check(&self) -> Result<(), DecodeError> {
        match self {
            Self::Marks(marks) => check_count("marks", marks.marks.len(), MARKS_PER_ITEM_MAX),
            Self::Group(part) => part.check(),
            Self::Standing(_) => Ok(()),
            Self::Calls(calls) => check_count("calls", calls.len(), MARKS_PER_ITEM_MAX),
        }
    }
}

/// How far a message has come that another device sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Progress {
    /// The message, of the device that says this.
    pub id: MessageId,
    /// A [`MessageState`](super::MessageState) by number.
    pub state: u8,
}

/// What one device of a user tells the others. Refused from anybody else.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum OwnSignal {
    /// "I have sent this."
    Sent(Box<HistoryItem>),
    /// "It has come so far"; at most [`PROGRESS_MAX`].
    Progress(Vec<Progress>),
    /// "Merge these"; at most [`STATE_ITEMS_MAX`].
    States(Vec<StateItem>),
    /// "This user has mail."
    Mail(Box<MailNotice>),
}

impl OwnSignal {
    /// Checks counts after decoding.
    ///
    /// # Errors
    /// [`DecodeError`] for the field out of range.
    pub fn check(&self) -> Result<(), DecodeError> {
        match self {
            Self::Sent(item) => item.check(),
            Self::Progress(progress) => check_count("progress", progress.len(), PROGRESS_MAX),
            Self::States(items) => {
                check_count("states", items.len(), STATE_ITEMS_MAX)?;
                items.iter().try_for_each(StateItem::check)
            }
            Self::Mail(notice) => notice.check(),
        }
    }

    /// The word for logs.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Sent(_) => "sent",
            Self::Progress(_) => "progress",
            Self::States(_) => "states",
            Self::Mail(_) => "mail",
        }
    }
}

/// Signals for these items, each within the limits.
#[must_use]
pub fn state_signals(items: Vec<StateItem>) -> Vec<OwnSignal> {
    let mut signals = Vec::new();
    let (mut batch, mut bytes) = (Vec::new(), 0);
    for item in items {
        let length = wire::encoded_len(&item);
        if !batch.is_empty() && (batch.len() >= STATE_ITEMS_MAX || bytes + length > STATE_BYTES_MAX) {
            signals.push(OwnSignal::States(std::mem::take(&mut batch)));
            bytes = 0;
        }
        bytes += length;
        batch.push(item);
    }
    if !batch.is_empty() {
        signals.push(OwnSignal::States(batch));
    }
    signals
}

/// Which messages are wanted.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum HistoryQuery {
    /// What the asked device has kept after this number of its own. Between own devices alone.
    After {
        /// The number; 0 for all that is offered.
        number: u64,
    },
    /// Messages of one device by their numbers. The device itself gives what it has sent to the asker; own devices give what they have.
    Missing {
        /// The conversation as the asker sees it.
        with: Correspondent,
        /// The device that sent them.
        device: DeviceKey,
        /// Their numbers.
        counters: CounterSet,
    },
}

/// Asks a device for messages.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct HistoryRequest {
    /// Which.
    pub query: HistoryQuery,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Message for HistoryRequest {
    const KIND: FrameKind = FrameKind(0x00b0);
    const LIMIT: usize = 2_048;
}

/// Answer to [`HistoryRequest`]; empty for who has no business asking.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct HistoryPage {
    /// The messages, at most [`HISTORY_ITEMS_MAX`], in the order in which the device came to know them.
    pub items: Vec<HistoryItem>,
    /// Where to go on.
    pub next: u64,
    /// Whether there is more.
    pub has_more: bool,
    /// Room to grow.
    pub extensions: Extensions,
}

impl HistoryPage {
    /// Nothing.
    #[must_use]
    pub const fn empty() -> Self {
        Self { items: Vec::new(), next: 0, has_more: false, extensions: Extensions::none() }
    }
}

impl Message for HistoryPage {
    const KIND: FrameKind = FrameKind(FrameKind::ANSWER | HistoryRequest::KIND.0);
    const LIMIT: usize = 40_960;

    fn check(&self) -> Result<(), DecodeError> {
        check_count("items", self.items.len(), HISTORY_ITEMS_MAX)?;
        self.items.iter().try_for_each(HistoryItem::check)
    }
}

fn check_count(field: &'static str, count: usize, max: usize) -> Result<(), DecodeError> {
    if count > max {
        return Err(DecodeError::invalid(field, format!("{count}, at most {max}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::PublicKey;

    fn device(number: u8) -> DeviceKey {
        DeviceKey(PublicKey([number; 32]))
    }

    #[test]
    fn marks_grow_and_know_what_is_new() {
        let mut have = Marks::new();
        assert!(have.add(device(1), &CounterSet::of_range(1, 5)));
        assert!(!have.add(device(1), &CounterSet::of_range(2, 3)));
        have.add(device(2), &CounterSet::of_range(7, 7));
        let mut read = Marks::new();
        read.add(device(1), &CounterSet::of_range(1, 3));
        let unread = have.without(&read);
        assert_eq!(unread.of(&device(1)), Some(&CounterSet::of_range(4, 5)));
        assert!(unread.contains(&device(2), 7) && !unread.contains(&device(2), 6));
        assert!(have.without(&have).is_empty());
    }

    #[test]
    fn the_greater_fate_of_a_call_counts_and_the_oldest_are_forgotten() {
        let mark = |number: u32, fate, at| {
            let mut id = [0; 16];
            id[..4].copy_from_slice(&number.to_be_bytes());
            CallMark { call: CallId(id), fate, at: UnixTime(at) }
        };
        let mut marks = CallMarks::new();
        assert!(marks.add(mark(1, CallFate::Answered, 5)));
        assert!(!marks.add(mark(1, CallFate::Dismissed, 9)));
        for number in 2..=600 {
            marks.add(mark(number, CallFate::Dismissed, 10));
        }
        assert_eq!(marks.iter().count(), CALL_MARKS_MAX);
        assert_eq!(marks.fate(&mark(1, CallFate::Answered, 5).call), None);
    }

    #[test]
    fn states_are_sent_in_pieces() {
        let item = || StateItem::Calls(vec![CallMark { call: CallId([1; 16]), fate: CallFate::Declined, at: UnixTime(9) }; 100]);
        let signals = state_signals((0..200).map(|_| item()).collect());
        let mut count = 0;
        for signal in &signals {
            assert_eq!(signal.check(), Ok(()));
            assert!(wire::encoded_len(signal) <= STATE_BYTES_MAX + 64);
            let OwnSignal::States(items) = signal else { panic!("states") };
            count += items.len();
        }
        assert_eq!(count, 200);
    }
}
