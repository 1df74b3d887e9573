//! What has arrived: known again by (sender device, id), ordered by counter, with its gaps.

use std::collections::{BTreeMap, VecDeque};

use super::Envelope;
use crate::id::{ConversationId, MessageId};
use crate::key::DeviceKey;

/// Ids remembered per sending device; repetitions come within the sender's retries, long before so many others.
pub const INBOX_IDS_PER_DEVICE_MAX: usize = 256;

/// Sending devices remembered; the one heard longest ago makes room.
pub const INBOX_DEVICES_MAX: usize = 1_024;

/// Conversations per sending device whose counters are followed.
const CONVERSATIONS_PER_DEVICE_MAX: usize = 64;

/// What an arrived envelope is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// New: keep and show it. `missing` counters of this device before it haven't come (yet).
    New {
        /// How many are missing directly before it.
        missing: u64,
    },
    /// Known: acknowledge it again, show nothing.
    Duplicate,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Sender {
    ids: VecDeque<MessageId>,
    newest: BTreeMap<ConversationId, u64>,
    heard: u64,
}

/// Memory of arrivals, about 4 MB when every place is taken. It isn't stored: messages are, keyed by (sender device, id), which is the second
/// line against repetitions. At start, the newest stored messages are fed through [`Inbox::receive`] again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inbox {
    senders: BTreeMap<DeviceKey, Sender>,
    heard: u64,
}

impl Inbox {
    /// Nothing has arrived.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// True if the message has arrived before.
    #[must_use]
    pub fn contains(&self, from: &DeviceKey, id: &MessageId) -> bool {
        self.senders.get(from).is_some_and(|sender| sender.ids.contains(id))
    }

    /// Takes note of an arrival.
    pub fn receive(&mut self, from: DeviceKey, envelope: &Envelope) -> Received {
        if self.contains(&from, &envelope.id) {
            return Received::Duplicate;
        }
        self.make_room(&from);
        self.heard += 1;
        let heard = self.heard;
        let sender = self.senders.entry(from).or_default();
        sender.heard = heard;
        if sender.ids.len() >= INBOX_IDS_PER_DEVICE_MAX {
            sender.ids.pop_front();
        }
        sender.ids.push_back(envelope.id);
        let newest = sender.newest.get(&envelope.conversation).copied();
        let is_room = newest.is_some() || sender.newest.len() < CONVERSATIONS_PER_DEVICE_MAX;
        if is_room && newest.is_none_or(|newest| envelope.counter > newest) {
            sender.newest.insert(envelope.conversation, envelope.counter);
        }
        // Of a device never heard in this conversation, nothing is known to be missing: it may be older than we are.
        let expected = newest.map_or(envelope.counter, |newest| newest.saturating_add(1));
        Received::New { missing: envelope.counter.saturating_sub(expected) }
    }

    /// How many sending devices are remembered.
    #[must_use]
    pub fn device_count(&self) -> usize {
        self.senders.len()
    }

    fn make_room(&mut self, from: &DeviceKey) {
        if self.senders.len() < INBOX_DEVICES_MAX || self.senders.contains_key(from) {
            return;
        }
        if let Some(oldest) = self.senders.iter().min_by_key(|(_, sender)| sender.heard).map(|(device, _)| *device) {
            self.senders.remove(&oldest);
        }
    }
}
