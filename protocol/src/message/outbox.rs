//! Messages on their way out: a copy per device of every recipient, repeated until acknowledged.
//!
//! States of a copy: queued -> sent on a stream -> left in a mailbox -> delivered, or failed. A recipient's state is that of the furthest copy:
//! delivered when at least one of their devices has it. A message as a whole is as far as the recipient who is least far, those who have refused it
//! left out. It leaves the outbox when every copy is delivered or failed, or when its deadline has passed. That it was read is told by receipts,
//! which the store knows.
//!
//! What a person sends goes to their own other devices too ([`OutboxItem::own`]). Those copies count for nothing in the state, and are given up first:
//! when a mailbox has one, and when too many wait for nothing else. Own devices fetch from each other what they lack.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::time::{Duration, Instant};

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

use super::own::{Correspondent, HistoryItem, OwnSignal};
use super::{DeliveryStatus, Envelope, MessageBody};
use crate::call::Reason;
use crate::id::MessageId;
use crate::identity::UserId;
use crate::key::{DeviceKey, IdentityKey};
use crate::time::UnixTime;
use crate::wire::{self, DecodeError, Extensions};

/// Most messages waiting; more are refused, so that the person learns at once.
pub const OUTBOX_MESSAGES_MAX: usize = 1_024;

/// Most copies of one message, those for devices that have come and gone included: eight devices of each member of the largest group. Each
/// recipient has an equal part of them.
pub const COPIES_MAX: usize = 520;

/// Most recipients of one message: the members of the largest group.
pub const RECIPIENTS_MAX: usize = 64;

/// Copies for one recipient at most, however few there are.
const COPIES_PER_RECIPIENT_MAX: usize = 64;

/// Messages that wait for nothing but own devices; beyond it the oldest are given up.
pub const OWN_ONLY_MAX: usize = 128;

/// Marks a copy for an own device.
const OWN: u16 = u16::MAX;

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

impl MessageState {
    const ALL: [Self; 5] = [Self::Failed, Self::Queued, Self::Sent, Self::Delivered, Self::Read];

    /// The number by which it is kept, and told to own devices.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Failed => 0,
            Self::Queued => 1,
            Self::Sent => 2,
            Self::Delivered => 3,
            Self::Read => 4,
        }
    }

    /// The state of a number; queued for one that isn't known.
    #[must_use]
    pub fn of_number(number: u8) -> Self {
        Self::ALL.get(usize::from(number)).copied().unwrap_or(Self::Queued)
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
            Self::Failed(_) => MessageState::Failed,
        }
    }
}

/// One whom a message is for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub struct Recipient {
    /// Who.
    pub user: UserId,
    /// The only identity key under which they get it; `None`: whichever the name has.
    pub identity: Option<IdentityKey>,
}

impl From<UserId> for Recipient {
    fn from(user: UserId) -> Self {
        Self { user, identity: None }
    }
}

/// The copy for one device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Copy {
    /// Whose device: place in [`OutboxItem::to`], or the greatest number for own devices.
    recipient: u16,
    /// How far it is.
    pub state: CopyState,
}

impl Copy {
    /// A copy for a device of this recipient.
    #[cfg(test)]
    pub(crate) const fn to(recipient: u16) -> Self {
        Self { recipient, state: CopyState::Queued }
    }
}

/// A message and its copies: what the store keeps.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct OutboxItem {
    /// Whom it is for; at most [`RECIPIENTS_MAX`].
    pub to: Vec<Recipient>,
    /// The sender, if their other devices get a copy.
    pub own: Option<UserId>,
    /// The conversation it is part of.
    pub with: Correspondent,
    /// The message.
    pub envelope: Envelope,
    /// When it is given up.
    pub deadline: UnixTime,
    /// Its copies.
    pub copies: BTreeMap<DeviceKey, Copy>,
}

impl OutboxItem {
    /// A message to one user, without copies yet.
    #[must_use]
    pub fn to_user(user: UserId, envelope: Envelope, deadline: UnixTime) -> Self {
        Self::to_recipient(user.into(), envelope, deadline)
    }

    /// The same under one identity key alone, if one is named.
    #[must_use]
    pub fn to_recipient(to: Recipient, envelope: Envelope, deadline: UnixTime) -> Self {
        let with = Correspondent::User(to.user.clone());
        Self { to: vec![to], own: None, with, envelope, deadline, copies: BTreeMap::new() }
    }

    /// Whether this is for a user alone, and for another identity key than this one.
    fn is_for_other_key(&self, user: &UserId, identity: &IdentityKey) -> bool {
        let is_other = |to: &Recipient| to.user == *user && to.identity.is_some_and(|meant| meant != *identity);
        self.with.user() == Some(user) && self.to.first().is_some_and(is_other) && self.is_open()
    }

    /// The state of the message as a whole.
    #[must_use]
    pub fn state(&self) -> MessageState {
        self.state_with(|_| false)
    }

    /// The state of the message as a whole, with what is known of who has read it.
    pub fn state_with(&self, is_read: impl Fn(&UserId) -> bool) -> MessageState {
        let states = || self.members(&is_read).map(|(_, state)| state);
        let least = states().filter(|state| *state != MessageState::Failed).min();
        let nobody = if self.to.is_empty() { MessageState::Delivered } else { MessageState::Failed };
        least.unwrap_or(nobody)
    }

    /// The state when nothing more is tried: whom nothing has reached doesn't count, as long as it has reached others.
    pub fn final_state(&self, is_read: impl Fn(&UserId) -> bool) -> MessageState {
        let reached = self.members(is_read).map(|(_, state)| state).filter(|state| *state > MessageState::Queued).min();
        reached.unwrap_or(if self.to.is_empty() { MessageState::Delivered } else { MessageState::Failed })
    }

    /// How far it is for each recipient.
    pub fn members(&self, is_read: impl Fn(&UserId) -> bool) -> impl Iterator<Item = (&UserId, MessageState)> {
        self.to.iter().zip(self.furthest()).map(move |(recipient, state)| {
            let state = if is_read(&recipient.user) { MessageState::Read } else { state.unwrap_or(MessageState::Queued) };
            (&recipient.user, state)
        })
    }

    /// The state of each recipient's furthest copy; `None` without any. One pass: large groups have hundreds of copies.
    fn furthest(&self) -> Vec<Option<MessageState>> {
        let mut states = vec![None; self.to.len()];
        for copy in self.copies.values() {
            if let Some(state) = states.get_mut(usize::from(copy.recipient)) {
                *state = (*state).max(Some(copy.state.overall()));
            }
        }
        states
    }

    /// Whose device this is, of those who get a copy.
    #[must_use]
    pub fn user_of(&self, device: &DeviceKey) -> Option<&UserId> {
        let copy = self.copies.get(device)?;
        if copy.recipient == OWN {
            return self.own.as_ref();
        }
        self.to.get(usize::from(copy.recipient)).map(|recipient| &recipient.user)
    }

    /// What goes to this device: the message, or, to an own device, the word that it was sent.
    #[must_use]
    pub fn envelope_for(&self, device: &DeviceKey) -> Envelope {
        match (self.copies.get(device), &self.own) {
            (Some(Copy { recipient: OWN, .. }), Some(author)) => self.own_copy(author),
            _ => self.envelope.clone(),
        }
    }

    fn own_copy(&self, author: &UserId) -> Envelope {
        let item = HistoryItem {
            with: self.with.clone(),
            author: author.clone(),
            device: None,
            id: self.envelope.id,
            counter: self.envelope.counter,
            sent_at: self.envelope.sent_at,
            kept_at: self.envelope.sent_at,
            state: 0,
            body: wire::encode(&self.envelope.body),
            extensions: Extensions::none(),
        };
        Envelope { counter: 0, body: MessageBody::Own(Box::new(OwnSignal::Sent(Box::new(item)))), ..self.envelope.clone() }
    }

    fn copies_of(&self, place: u16) -> impl Iterator<Item = &Copy> {
        self.copies.values().filter(move |copy| copy.recipient == place)
    }

    /// Places of the recipients of whom no device is known.
    fn unresolved(&self) -> impl Iterator<Item = usize> {
        self.furthest().into_iter().enumerate().filter(|(_, state)| state.is_none()).map(|(place, _)| place)
    }

    /// True if something is still to be done for a recipient.
    fn is_open(&self) -> bool {
        self.unresolved().next().is_some() || self.copies.values().any(|copy| copy.recipient != OWN && copy.state.is_open())
    }

    /// True if an own device hasn't got it, and no mailbox of it has.
    fn is_own_open(&self) -> bool {
        self.copies_of(OWN).any(|copy| matches!(copy.state, CopyState::Queued | CopyState::Sent))
    }

    fn copies_per_recipient(&self) -> usize {
        (COPIES_MAX / (self.to.len() + 1)).clamp(1, COPIES_PER_RECIPIENT_MAX)
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
    /// Which own devices there are has been found out.
    is_own_known: bool,
    copies: BTreeMap<DeviceKey, Schedule>,
    told: MessageState,
}

impl Slot {
    fn is_open(&self) -> bool {
        self.item.is_open() || self.is_own_open()
    }

    fn is_own_open(&self) -> bool {
        self.item.own.is_some() && (!self.is_own_known || self.item.is_own_open())
    }

    fn wants_devices(&self) -> bool {
        self.item.unresolved().next().is_some() || (self.item.own.is_some() && !self.is_own_known)
    }
}

/// All messages that wait.
///
/// Contract: after every input take actions with [`Outbox::poll_action`] until `None`, then call [`Outbox::handle_timeout`] at
/// [`Outbox::poll_timeout`]. Acknowledge to the person only after the item is stored.
#[derive(Clone, Debug)]
pub struct Outbox {
    timers: OutboxTimers,
    /// In the order in which they were pushed, which is the order in which they are tried.
    slots: BTreeMap<u64, Slot>,
    places: BTreeMap<MessageId, u64>,
    pushed: u64,
    actions: VecDeque<OutboxAction>,
}

impl Outbox {
    /// Empty.
    #[must_use]
    pub const fn new(timers: OutboxTimers) -> Self {
        Self { timers, slots: BTreeMap::new(), places: BTreeMap::new(), pushed: 0, actions: VecDeque::new() }
    }

    /// Takes a message. Recipients without copies are asked for first. Also brings back stored items.
    ///
    /// # Errors
    /// [`OutboxError`] if there is no room, or the message is none.
    pub fn push(&mut self, item: OutboxItem, now: Instant) -> Result<(), OutboxError> {
        item.envelope.check()?;
        if item.to.len() > RECIPIENTS_MAX {
            return Err(DecodeError::invalid("to", format!("{} recipients, at most {RECIPIENTS_MAX}", item.to.len())).into());
        }
        let id = item.envelope.id;
        if self.places.contains_key(&id) {
            return Err(OutboxError::Duplicate(id));
        }
        if self.slots.len() >= OUTBOX_MESSAGES_MAX {
            return Err(OutboxError::Full);
        }
        let fresh = self.fresh(now);
        let open = item.copies.iter().filter(|(_, copy)| copy.state.is_open());
        let copies: BTreeMap<_, _> = open.map(|(device, _)| (*device, fresh)).collect();
        let told = item.state();
        self.pushed += 1;
        self.places.insert(id, self.pushed);
        self.slots.insert(self.pushed, Slot { item, resolve: fresh, is_own_known: false, copies, told });
        self.run(now);
        Ok(())
    }

    /// The devices of a user as now known, and under which identity key: new ones get their copy, those no longer there are given up. Call it again
    /// whenever a newer record shows. Without this device itself.
    pub fn set_devices(&mut self, user: &UserId, identity: &IdentityKey, devices: &[DeviceKey], now: Instant) {
        let fresh = self.fresh(now);
        for slot in self.slots.values_mut() {
            if slot.item.own.as_ref() == Some(user) {
                slot.is_own_known = true;
                set_copies(slot, OWN, devices, fresh);
            }
            let is_meant = |recipient: &Recipient| {
                recipient.user == *user && recipient.identity.is_none_or(|expected| expected == *identity)
            };
            let place = slot.item.to.iter().position(is_meant).and_then(|place| u16::try_from(place).ok());
            if let Some(place) = place {
                set_copies(slot, place, devices, fresh);
            }
        }
        self.run(now);
    }

    /// Messages to a user alone that are meant for another identity key than this one, which the name has: they get no copies ([`Outbox::set_devices`]) until the
    /// name has theirs again, or they are given up ([`Outbox::refuse`]).
    pub fn for_other_key<'a>(&'a self, user: &'a UserId, identity: &'a IdentityKey) -> impl Iterator<Item = MessageId> + 'a {
        self.items().filter(|item| item.is_for_other_key(user, identity)).map(|item| item.envelope.id)
    }

    /// Gives up a message to one user: these devices, which have the name now, are those that don't get it.
    pub fn refuse(&mut self, id: &MessageId, devices: &[DeviceKey], reason: Reason, now: Instant) {
        let Some(slot) = self.slot_mut(id) else { return };
        let state = CopyState::Failed(reason);
        slot.item.copies.values_mut().filter(|copy| copy.state.is_open()).for_each(|copy| copy.state = state);
        for device in devices.iter().take(crate::directory::DEVICES_MAX) {
            slot.item.copies.entry(*device).or_insert(Copy { recipient: 0, state });
        }
        slot.copies.clear();
        let state = slot.item.final_state(|_| false);
        self.finish(id, state);
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
        if let Some(copy) = self.copy_mut(device, id)
            && copy.state == CopyState::Sent
        {
            copy.state = CopyState::Queued;
        }
        self.run(now);
    }

    /// The copy is another by now, for what was sent didn't open: it goes at once, and no mailbox has it.
    pub fn handle_renewed(&mut self, device: &DeviceKey, id: &MessageId, now: Instant) {
        let fresh = self.fresh(now);
        if let Some(slot) = self.slot_mut(id)
            && let (Some(copy), Some(schedule)) = (slot.item.copies.get_mut(device), slot.copies.get_mut(device))
        {
            (copy.state, *schedule) = (CopyState::Queued, fresh);
        }
        self.run(now);
    }

    /// A mailbox keeps the copy: it goes on being tried, and counts as sent until the device acknowledges it.
    pub fn handle_left(&mut self, device: &DeviceKey, id: &MessageId, now: Instant) {
        if let Some(copy) = self.copy_mut(device, id)
            && copy.state.is_open()
        {
            copy.state = CopyState::Left;
        }
        self.run(now);
    }

    /// Time has passed. `unix` is the corrected time, for the deadlines.
    pub fn handle_timeout(&mut self, now: Instant, unix: UnixTime) {
        let mut over = Vec::new();
        for slot in self.slots.values_mut().filter(|slot| unix > slot.item.deadline) {
            for copy in slot.item.copies.values_mut().filter(|copy| copy.state.is_open()) {
                copy.state = CopyState::Failed(Reason::EXPIRED);
            }
            over.push((slot.item.envelope.id, slot.item.final_state(|_| false)));
        }
        for (id, state) in over {
            self.finish(&id, state);
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
            let resolve = slot.wants_devices().then_some(slot.resolve.next_at);
            copies.into_iter().chain(resolve).min()
        };
        self.slots.values().filter_map(of_slot).min()
    }

    /// A waiting message, for the store and for sending.
    #[must_use]
    pub fn item(&self, id: &MessageId) -> Option<&OutboxItem> {
        self.slots.get(self.places.get(id)?).map(|slot| &slot.item)
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

    fn slot_mut(&mut self, id: &MessageId) -> Option<&mut Slot> {
        self.slots.get_mut(self.places.get(id)?)
    }

    fn copy_mut(&mut self, device: &DeviceKey, id: &MessageId) -> Option<&mut Copy> {
        self.slot_mut(id)?.item.copies.get_mut(device)
    }

    fn set_copy(&mut self, device: &DeviceKey, id: &MessageId, state: CopyState) {
        let Some(slot) = self.slot_mut(id) else { return };
        let Some(copy) = slot.item.copies.get_mut(device) else { return };
        // Never backwards: an acknowledgement that comes after the receipt changes nothing.
        if state.overall() > copy.state.overall() || copy.state.is_open() {
            copy.state = state;
        }
        slot.copies.remove(device);
    }

    fn run(&mut self, now: Instant) {
        let mut resolving: Vec<UserId> = Vec::new();
        let mut ended = Vec::new();
        let mut own_only = Vec::new();
        for slot in self.slots.values_mut() {
            let id = slot.item.envelope.id;
            if slot.wants_devices() && slot.resolve.is_due(now, self.timers.retry_max) {
                let own = slot.item.own.as_ref().filter(|_| !slot.is_own_known);
                let others = slot.item.unresolved().filter_map(|place| Some(&slot.item.to.get(place)?.user));
                for user in others.chain(own) {
                    if !resolving.contains(user) {
                        resolving.push(user.clone());
                    }
                }
            }
            for (device, schedule) in &mut slot.copies {
                if schedule.is_due(now, self.timers.retry_max) {
                    if let Some(copy) = slot.item.copies.get_mut(device)
                        && copy.state == CopyState::Queued
                    {
                        copy.state = CopyState::Sent;
                    }
                    self.actions.push_back(OutboxAction::Send { device: *device, id });
                }
            }
            let state = slot.item.state();
            if !slot.is_open() {
                ended.push((id, state));
                continue;
            }
            if !slot.item.is_open() {
                own_only.push((id, state));
            }
            if state != slot.told {
                slot.told = state;
                self.actions.push_back(OutboxAction::Changed { id, state });
            }
        }
        self.actions.extend(resolving.into_iter().map(|to| OutboxAction::Resolve { to }));
        let given_up = own_only.len().saturating_sub(OWN_ONLY_MAX);
        for (id, state) in ended.into_iter().chain(own_only.into_iter().take(given_up)) {
            self.finish(&id, state);
        }
    }

    fn finish(&mut self, id: &MessageId, state: MessageState) {
        if let Some(slot) = self.places.remove(id).and_then(|place| self.slots.remove(&place)) {
            self.actions.push_back(OutboxAction::Finished { state, item: Box::new(slot.item) });
        }
    }
}

/// Gives the devices of one recipient their copies.
fn set_copies(slot: &mut Slot, place: u16, devices: &[DeviceKey], fresh: Schedule) {
    let mut room = slot.item.copies_per_recipient().saturating_sub(slot.item.copies_of(place).count());
    for device in devices.iter().take(crate::directory::DEVICES_MAX) {
        if !slot.item.copies.contains_key(device) && room > 0 {
            room -= 1;
            slot.item.copies.insert(*device, Copy { recipient: place, state: CopyState::Queued });
            slot.copies.insert(*device, fresh);
        }
    }
    if !devices.is_empty() || place == OWN {
        let is_gone =
            |device: &DeviceKey, copy: &Copy| copy.recipient == place && copy.state.is_open() && !devices.contains(device);
        slot.item.copies.retain(|device, copy| !is_gone(device, copy));
        let Slot { item, copies, .. } = slot;
        copies.retain(|device, _| item.copies.contains_key(device));
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
