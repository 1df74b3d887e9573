//! Messages on their way out: a copy per device of the recipient, repeated until acknowledged.
//!
//! States of a copy: queued -> sent on a stream -> left in a mailbox -> delivered -> read, or failed. A message as a whole is as far as its furthest
//! copy: delivered when at least one device has it. It leaves the outbox when every copy is delivered or failed, or when its deadline has passed.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::time::{Duration, Instant};

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

use super::{DeliveryStatus, Envelope};
use crate::call::Reason;
use crate::directory::DEVICES_MAX;
use crate::id::MessageId;
use crate::identity::UserId;
use crate::key::DeviceKey;
use crate::time::UnixTime;
use crate::wire::DecodeError;

/// Most messages waiting; more are refused, so that the person learns at once.
pub const OUTBOX_MESSAGES_MAX: usize = 1_024;

/// Most copies of one message, those for devices that have come and gone included.
const COPIES_MAX: usize = 4 * DEVICES_MAX;

/// State of one copy, or of the whole message. Prints as the interface names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MessageState {
    /// It can't be delivered any more.
    Failed,
    /// Kept here alone: no device of the recipient has acknowledged it, and no mailbox keeps it.
    Queued,
    /// Out of this device's hands: a mailbox keeps it.
    Sent,
    /// At least one device has it.
    Delivered,
    /// It was read.
    Read,
}

impl MessageState {
    /// The name in JSON and on the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Queued => "queued",
            Self::Sent => "sent",
            Self::Delivered => "delivered",
            Self::Read => "read",
        }
    }
}

impl fmt::Display for MessageState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// State of the copy for one device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum CopyState {
    /// Never sent.
    Queued,
    /// Sent at least once, not acknowledged.
    Sent,
    /// Acknowledged.
    Delivered,
    /// Read.
    Read,
    /// Refused for good.
    Failed(Reason),
    /// In a mailbox of the device, not acknowledged.
    Left,
}

impl CopyState {
    const fn is_open(self) -> bool {
        matches!(self, Self::Queued | Self::Sent | Self::Left)
    }

    const fn overall(self) -> MessageState {
        match self {
            Self::Queued | Self::Sent => MessageState::Queued,
            Self::Left => MessageState::Sent,
            Self::Delivered => MessageState::Delivered,
            Self::Read => MessageState::Read,
            Self::Failed(_) => MessageState::Failed,
        }
    }
}

/// A message and its copies: what the store keeps.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct OutboxItem {
    /// Whom it is for.
    pub to: UserId,
    /// The message.
    pub envelope: Envelope,
    /// When it is given up.
    pub deadline: UnixTime,
    /// Its copies.
    pub copies: BTreeMap<DeviceKey, CopyState>,
}

impl OutboxItem {
    /// The state of the message as a whole.
    #[must_use]
    pub fn state(&self) -> MessageState {
        let of_copies = self.copies.values().map(|copy| copy.overall()).max();
        of_copies.unwrap_or(MessageState::Queued)
    }

    fn is_open(&self) -> bool {
        self.copies.is_empty() || self.copies.values().any(|copy| copy.is_open())
    }
}

/// How long things may take.
#[derive(Clone, Copy, Debug)]
pub struct OutboxTimers {
    /// Until an unacknowledged copy is sent again the first time; doubled each time.
    pub retry_min: Duration,
    /// The longest pause between two tries.
    pub retry_max: Duration,
}

impl Default for OutboxTimers {
    /// 2 s to 10 minutes: a lost frame is mended before anybody wonders, a device that is away costs 150 tries a day; its coming back is
    /// told by [`Outbox::handle_reachable`].
    fn default() -> Self {
        Self { retry_min: Duration::from_secs(2), retry_max: Duration::from_secs(600) }
    }
}

/// Why a message isn't taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OutboxError {
    /// Too many wait already.
    #[error("{OUTBOX_MESSAGES_MAX} messages are waiting to be delivered")]
    Full,
    /// The id is in use.
    #[error("message {0} is in the outbox already")]
    Duplicate(MessageId),
    /// The message is malformed.
    #[error(transparent)]
    Invalid(#[from] DecodeError),
}

/// What the owner is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OutboxAction {
    /// Send the message to this device; bring the answer to [`Outbox::handle_ack`], a failure to [`Outbox::handle_failed`].
    Send {
        /// The device.
        device: DeviceKey,
        /// The message.
        id: MessageId,
    },
    /// Find the recipient's devices; bring them to [`Outbox::set_devices`].
    Resolve {
        /// The recipient.
        to: UserId,
    },
    /// The message's state has changed: store the item, tell the person.
    Changed {
        /// The message.
        id: MessageId,
        /// Its state now.
        state: MessageState,
    },
    /// Nothing is left to do for the message: its last state, and the item with its copies. Remove it from the store.
    Finished {
        /// Its state for good.
        state: MessageState,
        /// The item as it ended.
        item: Box<OutboxItem>,
    },
}

#[derive(Clone, Copy, Debug)]
struct Schedule {
    next_at: Instant,
    interval: Duration,
}

#[derive(Clone, Debug)]
struct Slot {
    item: OutboxItem,
    resolve: Schedule,
    copies: BTreeMap<DeviceKey, Schedule>,
    told: MessageState,
}

/// All messages that wait.
///
/// Contract: after every input take actions with [`Outbox::poll_action`] until `None`, then call [`Outbox::handle_timeout`] at
/// [`Outbox::poll_timeout`]. Acknowledge to the person only after the item is stored.
#[derive(Clone, Debug)]
pub struct Outbox {
    timers: OutboxTimers,
    slots: BTreeMap<MessageId, Slot>,
    actions: VecDeque<OutboxAction>,
}

impl Outbox {
    /// Empty.
    #[must_use]
    pub const fn new(timers: OutboxTimers) -> Self {
        Self { timers, slots: BTreeMap::new(), actions: VecDeque::new() }
    }

    /// Takes a message. With `item.copies` empty the recipient's devices are asked for first. Also brings back stored items.
    ///
    /// # Errors
    /// [`OutboxError`] if there is no room, or the message is none.
    pub fn push(&mut self, item: OutboxItem, now: Instant) -> Result<(), OutboxError> {
        item.envelope.check()?;
        let id = item.envelope.id;
        if self.slots.contains_key(&id) {
            return Err(OutboxError::Duplicate(id));
        }
        if self.slots.len() >= OUTBOX_MESSAGES_MAX {
            return Err(OutboxError::Full);
        }
        let fresh = self.fresh(now);
        let open = item.copies.iter().filter(|(_, copy)| copy.is_open());
        let copies: BTreeMap<_, _> = open.map(|(device, _)| (*device, fresh)).collect();
        let told = item.state();
        self.slots.insert(id, Slot { item, resolve: fresh, copies, told });
        self.run(now);
        Ok(())
    }

    /// The recipient's devices as now known: new ones get their copy, those no longer there are given up. Call it again whenever a newer
    /// record shows.
    pub fn set_devices(&mut self, to: &UserId, devices: &[DeviceKey], now: Instant) {
        let fresh = self.fresh(now);
        for slot in self.slots.values_mut().filter(|slot| slot.item.to == *to) {
            for device in devices.iter().take(DEVICES_MAX) {
                if !slot.item.copies.contains_key(device) && slot.item.copies.len() < COPIES_MAX {
                    slot.item.copies.insert(*device, CopyState::Queued);
                    slot.copies.insert(*device, fresh);
                }
            }
            if !devices.is_empty() {
                let is_gone = |device: &DeviceKey, copy: &CopyState| copy.is_open() && !devices.contains(device);
                slot.item.copies.retain(|device, copy| !is_gone(device, copy));
                let Slot { item, copies, .. } = slot;
                copies.retain(|device, _| item.copies.contains_key(device));
            }
        }
        self.run(now);
    }

    /// The network is back after none was there: everything is tried at once, since what failed meanwhile failed for us, not for the
    /// recipients.
    pub fn handle_network_up(&mut self, now: Instant) {
        let fresh = self.fresh(now);
        for slot in self.slots.values_mut() {
            slot.resolve = fresh;
            slot.copies.values_mut().for_each(|schedule| *schedule = fresh);
        }
        self.run(now);
    }

    /// A device has come within reach: what waits for it goes now.
    pub fn handle_reachable(&mut self, device: &DeviceKey, now: Instant) {
        let fresh = self.fresh(now);
        for schedule in self.slots.values_mut().filter_map(|slot| slot.copies.get_mut(device)) {
            *schedule = fresh;
        }
        self.run(now);
    }

    /// A device answered.
    pub fn handle_ack(&mut self, device: &DeviceKey, id: &MessageId, status: DeliveryStatus, now: Instant) {
        let state = match status {
            DeliveryStatus::Accepted | DeliveryStatus::Duplicate => CopyState::Delivered,
            // Room may come: the ordinary retry asks again.
            DeliveryStatus::Refused(Reason::TOO_MANY) => return self.run(now),
            // So may another session.
            DeliveryStatus::Unopened(_) | DeliveryStatus::Unencrypted => return self.run(now),
            DeliveryStatus::Refused(reason) => CopyState::Failed(reason),
        };
        self.set_copy(device, id, state);
        self.run(now);
    }

    /// A try failed before an answer came: the copy waits for its next turn.
    pub fn handle_failed(&mut self, device: &DeviceKey, id: &MessageId, now: Instant) {
        if let Some(copy) = self.slots.get_mut(id).and_then(|slot| slot.item.copies.get_mut(device))
            && *copy == CopyState::Sent
        {
            *copy = CopyState::Queued;
        }
        self.run(now);
    }

    /// The copy is another by now, for what was sent didn't open: it goes at once, and no mailbox has it.
    pub fn handle_renewed(&mut self, device: &DeviceKey, id: &MessageId, now: Instant) {
        let fresh = self.fresh(now);
        if let Some(slot) = self.slots.get_mut(id)
            && let (Some(copy), Some(schedule)) = (slot.item.copies.get_mut(device), slot.copies.get_mut(device))
        {
            (*copy, *schedule) = (CopyState::Queued, fresh);
        }
        self.run(now);
    }

    /// A mailbox keeps the copy: it goes on being tried, and counts as sent until the device acknowledges it.
    pub fn handle_left(&mut self, device: &DeviceKey, id: &MessageId, now: Instant) {
        if let Some(copy) = self.slots.get_mut(id).and_then(|slot| slot.item.copies.get_mut(device))
            && copy.is_open()
        {
            *copy = CopyState::Left;
        }
        self.run(now);
    }

    /// A device says that a message was read. Tells nothing about messages no longer here: the store knows those.
    pub fn handle_read(&mut self, device: &DeviceKey, id: &MessageId, now: Instant) {
        self.set_copy(device, id, CopyState::Read);
        self.run(now);
    }

    /// Time has passed. `unix` is the corrected time, for the deadlines.
    pub fn handle_timeout(&mut self, now: Instant, unix: UnixTime) {
        for slot in self.slots.values_mut().filter(|slot| unix > slot.item.deadline) {
            for copy in slot.item.copies.values_mut().filter(|copy| copy.is_open()) {
                *copy = CopyState::Failed(Reason::EXPIRED);
            }
        }
        let nowhere: Vec<MessageId> = self
            .slots
            .values()
            .filter(|slot| unix > slot.item.deadline && slot.item.copies.is_empty())
            .map(|slot| slot.item.envelope.id)
            .collect();
        for id in nowhere {
            self.finish(&id, MessageState::Failed);
        }
        self.run(now);
    }

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<OutboxAction> {
        self.actions.pop_front()
    }

    /// When [`Outbox::handle_timeout`] wants to be called next. Deadlines are noticed at the latest with the next try.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let of_slot = |slot: &Slot| {
            let copies = slot.copies.values().map(|schedule| schedule.next_at).min();
            if slot.item.copies.is_empty() { Some(slot.resolve.next_at) } else { copies }
        };
        self.slots.values().filter_map(of_slot).min()
    }

    /// A waiting message, for the store and for sending.
    #[must_use]
    pub fn item(&self, id: &MessageId) -> Option<&OutboxItem> {
        self.slots.get(id).map(|slot| &slot.item)
    }

    /// All waiting messages.
    pub fn items(&self) -> impl Iterator<Item = &OutboxItem> {
        self.slots.values().map(|slot| &slot.item)
    }

    /// How many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// True if none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    const fn fresh(&self, now: Instant) -> Schedule {
        Schedule { next_at: now, interval: self.timers.retry_min }
    }

    fn set_copy(&mut self, device: &DeviceKey, id: &MessageId, state: CopyState) {
        let Some(slot) = self.slots.get_mut(id) else { return };
        let Some(copy) = slot.item.copies.get_mut(device) else { return };
        // Never backwards: an acknowledgement that comes after the receipt changes nothing.
        if state.overall() > copy.overall() || copy.is_open() {
            *copy = state;
        }
        slot.copies.remove(device);
    }

    fn run(&mut self, now: Instant) {
        let mut resolving: Vec<UserId> = Vec::new();
        let mut ended = Vec::new();
        for (id, slot) in &mut self.slots {
            if slot.item.copies.is_empty() {
                if slot.resolve.is_due(now, self.timers.retry_max) && !resolving.contains(&slot.item.to) {
                    resolving.push(slot.item.to.clone());
                }
                continue;
            }
            for (device, schedule) in &mut slot.copies {
                if schedule.is_due(now, self.timers.retry_max) {
                    if let Some(copy) = slot.item.copies.get_mut(device)
                        && *copy == CopyState::Queued
                    {
                        *copy = CopyState::Sent;
                    }
                    self.actions.push_back(OutboxAction::Send { device: *device, id: *id });
                }
            }
            let state = slot.item.state();
            if !slot.item.is_open() {
                ended.push((*id, state));
            } else if state != slot.told {
                slot.told = state;
                self.actions.push_back(OutboxAction::Changed { id: *id, state });
            }
        }
        self.actions.extend(resolving.into_iter().map(|to| OutboxAction::Resolve { to }));
        for (id, state) in ended {
            self.finish(&id, state);
        }
    }

    fn finish(&mut self, id: &MessageId, state: MessageState) {
        if let Some(slot) = self.slots.remove(id) {
            self.actions.push_back(OutboxAction::Finished { state, item: Box::new(slot.item) });
        }
    }
}

impl Schedule {
    /// True once per turn; the next one is set, twice as far away.
    fn is_due(&mut self, now: Instant, interval_max: Duration) -> bool {
        if now < self.next_at {
            return false;
        }
        self.next_at = now + self.interval;
        self.interval = (self.interval * 2).min(interval_max);
        true
    }
}
