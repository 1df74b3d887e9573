//! Messages and the policy. A message reaches every device as it comes; which one tells its person of it first is decided as for a call. Where others tell
//! first, this device does when its turn comes and nobody has read the message by then, here or there.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use halloo_protocol::choice::{CallerRef, Event as ChoiceEvent, decide};
use halloo_protocol::event::EventKind;
use halloo_protocol::id::MessageId;
use halloo_protocol::identity::UserId;
use halloo_protocol::key::DeviceKey;
use halloo_protocol::message::Correspondent;
use tracing::debug;

use super::{EventId, shown_on};
use crate::event_loop::EventLoop;
use crate::handle::Event;
use crate::handle::messages::MessageState;
use crate::push::HeldPush;
use crate::receipts::Conversation;
use crate::wording::ShownOn;

/// Messages that wait for their turn here; of further ones a person is told at once.
const LATER_MAX: usize = 64;

/// Messages of ours whose pushes wait at gateways for their turn; of further ones none is taken back, and a device is woken for what was read.
const HELD_MAX: usize = 256;

/// A message that another device tells of first.
#[derive(Debug)]
struct Later {
    at: Instant,
    with: Correspondent,
    device: DeviceKey,
    counter: u64,
    told: Event,
}

/// What waits for its turn, here and at the gateways of others.
#[derive(Debug, Default)]
pub(crate) struct MessageTurns {
    later: Vec<Later>,
    held: HashMap<MessageId, Vec<(HeldPush, Instant)>>,
}

/// A message in its conversation: its number among those of the device that sent it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    pub(crate) with: &'a Correspondent,
    pub(crate) device: DeviceKey,
    pub(crate) counter: u64,
}

// Of others.
impl EventLoop {
    /// When it is this device's turn to tell of a message, in seconds, and where it is shown if not here. What it is decided from is kept if there was
    /// something to decide.
    pub(crate) fn turn_for_message(&mut self, id: EventId, author: &UserId) -> (u16, Option<ShownOn>) {
        if self.choice.policy.is_none() {
            return (0, self.shown_elsewhere(id, EventKind::MESSAGE, author, "text/plain"));
        }
        let callers = vec![CallerRef::Name(self.labels.display(author))];
        let event = ChoiceEvent { kind: EventKind::MESSAGE, callers, format: Some("text/plain".to_owned()) };
        let inputs = self.choice_inputs(event);
        let decision = decide(&inputs, self.choice.policy.as_ref());
        self.wake_sleepers(&inputs, &decision);
        let turn = decision.turn_of(&self.identity.device());
        let (after_secs, shown_on) = turn.map_or((0, None), |(after_secs, choice)| (after_secs, shown_on(choice, &inputs)));
        debug!(after_secs, ?shown_on, "device choice for a message");
        self.record_decision(id, inputs);
        (after_secs, shown_on)
    }

    /// Tells a person of a message when its turn comes, unless it is read by then. False if too many wait: then it is told at once.
    pub(crate) fn tell_later(&mut self, after_secs: u16, place: Place<'_>, told: Event) -> bool {
        let later = &mut self.choice.turns.later;
        if later.len() >= LATER_MAX {
            return false;
        }
        let Place { with, device, counter } = place;
        let at = Instant::now() + Duration::from_secs(u64::from(after_secs));
        later.push(Later { at, with: with.clone(), device, counter, told });
        true
    }

    pub(super) fn message_turns_tick(&mut self, now: Instant) {
        let due: Vec<Later> = self.choice.turns.later.extract_if(.., |later| later.at <= now).collect();
        for Later { with, device, counter, told, .. } in due {
            let state = self.store.read(|view| Conversation::load(view, &with));
            if !state.is_ok_and(|state| state.is_read(&device, counter)) {
                self.events.send(told);
            }
        }
        self.choice.turns.held.retain(|_, held| held.iter().any(|(_, until)| *until > now));
    }
}

// Ours.
impl EventLoop {
    /// A gateway holds the push for a message of ours back until it is the device's turn.
    pub(crate) fn message_push_held(&mut self, message: MessageId, push: HeldPush, secs: u16) {
        if self.is_message_read(&message) {
            return self.withdraw_push(push);
        }
        let held = &mut self.choice.turns.held;
        if held.len() < HELD_MAX || held.contains_key(&message) {
            held.entry(message).or_default().push((push, Instant::now() + Duration::from_secs(u64::from(secs))));
        }
    }

    /// Whether those have read a message of ours whom it is for.
    pub(crate) fn is_message_read(&self, message: &MessageId) -> bool {
        self.message_status(*message).state == MessageState::Read
    }

    /// A message of ours was read: devices that sleep needn't be woken for it any more.
    pub(crate) fn message_read_elsewhere(&mut self, message: &MessageId) {
        for (push, _) in self.choice.turns.held.remove(message).unwrap_or_default() {
            self.withdraw_push(push);
        }
    }
}
