//! What is shown: conversations, and how far messages are.

use std::collections::BTreeMap;

use halloo_protocol::id::MessageId;
use halloo_protocol::identity::UserId;
use halloo_protocol::key::DeviceKey;
use halloo_protocol::message::{Correspondent, Marks, MessageState as WireState, OutboxItem};

use super::{Kept, WAITERS_MAX, internal, reason_of, shown};
use crate::event_loop::EventLoop;
use crate::handle::Reply;
use crate::handle::messages::{
    ConversationEntry, ConversationList, MemberStatus, MessageEntry, MessageError, MessageList, MessageListOptions, MessageState,
    MessageStatus,
};
use crate::handle::problem::NodeError;
use crate::receipts::Conversation;
use crate::store::{MessageRow, StoreError};
use crate::timestamp::Timestamp;

/// Conversations listed.
const CONVERSATIONS_MAX: usize = 2_000;

/// What others have read.
pub(crate) type Readers = BTreeMap<UserId, Marks>;

/// True if a reader has read this message.
pub(crate) fn has_read(readers: &Readers, user: &UserId, device: &DeviceKey, counter: u64) -> bool {
    readers.get(user).is_some_and(|marks| marks.contains(device, counter))
}

impl EventLoop {
    /// With whom a conversation is, as shown; and the id of a group.
    pub(crate) fn shown_correspondent(&self, with: &Correspondent) -> (String, Option<String>) {
        match with {
            Correspondent::User(user) => (self.labels.display(user), None),
            Correspondent::Group(group) => (self.group_name(group), Some(group.to_string())),
        }
    }

    pub(crate) fn message_status(&self, id: MessageId) -> MessageStatus {
        if let Some(item) = self.messages.outbox.item(&id) {
            return self.status_of(item, item.state(), false);
        }
        match self.kept_item(id) {
            Some((item, state)) => self.status_of(&item, state, is_settled(state)),
            None => MessageStatus { id: id.to_string(), state: MessageState::Queued, reason: None, members: Vec::new() },
        }
    }

    /// How far a message is, and if it failed, why.
    pub(super) fn status_of(&self, item: &OutboxItem, state: WireState, is_finished: bool) -> MessageStatus {
        self.status_with(item, state, is_finished, &self.readers(&item.with))
    }

    /// The same of a message as the database has it, where it is known who has read what.
    pub(crate) fn kept_status(&self, item: &OutboxItem, state: WireState, readers: &Readers) -> MessageStatus {
        match self.messages.outbox.item(&item.envelope.id) {
            Some(item) => self.status_with(item, item.state(), false, readers),
            None => self.status_with(item, state, is_settled(state), readers),
        }
    }

    fn status_with(&self, item: &OutboxItem, state: WireState, is_finished: bool, readers: &Readers) -> MessageStatus {
        let state = self.state_now(item, state, is_finished, readers);
        let problem = || self.voicemail_problem(&item.envelope.id).unwrap_or_else(|| reason_of(item));
        let reason = (state == WireState::Failed).then(problem);
        let members = self.member_statuses(item, readers);
        MessageStatus { id: item.envelope.id.to_string(), state: shown(state), reason, members }
    }

    fn state_now(&self, item: &OutboxItem, state: WireState, is_finished: bool, readers: &Readers) -> WireState {
        let me = self.identity.device();
        let is_read = |user: &UserId| has_read(readers, user, &me, item.envelope.counter);
        let state = match (is_finished, state) {
            (true, WireState::Failed) => WireState::Failed,
            (true, _) => item.final_state(is_read),
            (false, _) => item.state_with(is_read),
        };
        match self.voicemail_parts_state(&item.envelope) {
            // Who has read it has heard it.
            Some(parts) if state != WireState::Read => state.min(parts),
            _ => state,
        }
    }

    /// How far it is for each member of a group.
    fn member_statuses(&self, item: &OutboxItem, readers: &Readers) -> Vec<MemberStatus> {
        if item.with.group().is_none() {
            return Vec::new();
        }
        let me = self.identity.device();
        let members = item.members(|user| has_read(readers, user, &me, item.envelope.counter));
        members.map(|(user, state)| MemberStatus { username: self.labels.display(user), state: shown(state) }).collect()
    }

    pub(crate) fn readers(&self, with: &Correspondent) -> Readers {
        self.store.read::<_, StoreError>(|view| crate::receipts::readers(view, with)).unwrap_or_default()
    }

    /// A message of ours as the database has it.
    fn kept_item(&self, id: MessageId) -> Option<(OutboxItem, WireState)> {
        let (_, row) = self.store.read::<_, StoreError>(|view| view.message_by_id(&id.0)).ok()??;
        match Kept::decode(&row.content)? {
            Kept::Sent { item, state } => Some((item, WireState::of_number(state))),
            Kept::Received { .. } | Kept::Elsewhere { .. } => None,
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

    pub(crate) fn handle_message_list(&self, with: &str, options: MessageListOptions, reply: Reply<MessageList, MessageError>) {
        let listed = self.parse_correspondent(with).and_then(|with| self.list_messages(&with, options));
        reply.send(listed);
    }

    /// `name@authority`, `xmpp:` and the address of a contact in a linked system, or `group:` and a group's id, the start of it, or its name.
    pub(crate) fn parse_correspondent(&self, text: &str) -> Result<Correspondent, MessageError> {
        match text.strip_prefix("group:") {
            Some(group) => Ok(Correspondent::Group(self.find_group(group)?)),
            None => Ok(Correspondent::User(self.parse_user_or_linked(text)?)),
        }
    }

    fn list_messages(&self, with: &Correspondent, options: MessageListOptions) -> Result<MessageList, MessageError> {
        let limit = options.limit.unwrap_or(MessageListOptions::LIMIT_DEFAULT).min(MessageListOptions::LIMIT_MAX);
        let (rows, readers, state) = self
            .store
            .read::<_, StoreError>(|view| {
                let rows = view.conversation(with, None, limit as usize)?;
                Ok((rows, crate::receipts::readers(view, with)?, Conversation::load(view, with)?))
            })
            .map_err(|error| internal(&error))?;
        let mut kept: Vec<Kept> = rows.iter().filter_map(|(_, row): &(u64, MessageRow)| Kept::decode(&row.content)).collect();
        order_by_sender(&mut kept, self.identity.device());
        let (name, group) = self.shown_correspondent(with);
        let entry = |kept| self.message_entry(&name, group.as_ref(), kept, &readers, &state);
        let messages: Vec<MessageEntry> = kept.into_iter().filter_map(entry).collect();
        let (unread, missing) = (state.unread().iter().map(|(_, set)| set.len()).sum(), state.missing());
        let linked = with.user().and_then(|user| self.linked_peer_of(user));
        Ok(MessageList { with: name, group, linked, messages, unread, missing })
    }

    /// A message of any conversation, as shown: with whom, the id of a group, and the message.
    pub(crate) fn found_message(&self, row: &MessageRow) -> Option<(String, Option<String>, MessageEntry)> {
        let with = &row.conversation;
        let state = self.store.read::<_, StoreError>(|view| Conversation::load(view, with)).ok()?;
        let (name, group) = self.shown_correspondent(with);
        let entry = self.message_entry(&name, group.as_ref(), Kept::decode(&row.content)?, &self.readers(with), &state)?;
        Some((name, group, entry))
    }

    fn message_entry(
        &self,
        name: &str,
        group: Option<&String>,
        kept: Kept,
        readers: &Readers,
        conversation: &Conversation,
    ) -> Option<MessageEntry> {
        let me = self.labels.display(&self.identity.user_id());
        let incoming = matches!(kept, Kept::Received { .. });
        let is_read_by_anybody = |device: &DeviceKey, counter| readers.values().any(|marks| marks.contains(device, counter));
        let (from, to, state, is_unread, members) = match &kept {
            Kept::Sent { item, state } => {
                let live = self.messages.outbox.item(&item.envelope.id);
                let state = WireState::of_number(*state);
                let is_finished = live.is_none() && is_settled(state);
                let item = live.unwrap_or(item);
                let state = self.state_now(item, state, is_finished, readers);
                (me, name.to_owned(), state, false, self.member_statuses(item, readers))
            }
            Kept::Received { from, author, envelope } => {
                let is_unread = !conversation.is_read(from, envelope.counter);
                let to = if group.is_some() { name.to_owned() } else { me };
                let state = if is_unread { WireState::Delivered } else { WireState::Read };
                (self.labels.display(self.present_user(author)), to, state, is_unread, Vec::new())
            }
            Kept::Elsewhere { device, envelope, state } => {
                let is_read = group.is_none() && is_read_by_anybody(device, envelope.counter);
                let state = if is_read { WireState::Read } else { WireState::of_number(*state) };
                (me, name.to_owned(), state, false, Vec::new())
            }
        };
        let envelope = kept.envelope();
        Some(MessageEntry {
            id: envelope.id.to_string(),
            from,
            to,
            incoming,
            text: match (envelope.body.text(), envelope.body.voicemail()) {
                (Some(text), _) => text.to_owned(),
                (None, Some(_)) => String::new(),
                (None, None) => return None,
            },
            voicemail_ms: envelope.body.voicemail().map(|voicemail| voicemail.duration_ms.into()),
            sent_at: Timestamp::from_unix_secs(envelope.sent_at.0),
            state: shown(state),
            unread: is_unread,
            members,
        })
    }

    pub(crate) fn handle_conversations(&self, reply: Reply<ConversationList, MessageError>) {
        reply.send(self.list_conversations());
    }

    fn list_conversations(&self) -> Result<ConversationList, MessageError> {
        let states = self.store.read::<_, StoreError>(|view| {
            let states = view.conversation_states(CONVERSATIONS_MAX)?;
            let states = states.iter().filter_map(|bytes| Conversation::decode(bytes));
            states
                .map(|state| Ok((view.conversation(&state.with, None, 1)?.pop(), state)))
                .collect::<Result<Vec<_>, StoreError>>()
        });
        let mut conversations: Vec<ConversationEntry> = Vec::new();
        for (last, state) in states.map_err(|error| internal(&error))? {
            let Some((_, row)) = last else { continue };
            let (with, group) = self.shown_correspondent(&state.with);
            let text = Kept::decode(&row.content).and_then(|kept| kept.envelope().body.text().map(str::to_owned));
            conversations.push(ConversationEntry {
                with,
                group,
                linked: state.with.user().and_then(|user| self.linked_peer_of(user)),
                unread: state.unread().iter().map(|(_, set)| set.len()).sum(),
                missing: state.missing(),
                last_at: Timestamp::from_unix_secs(row.at.0),
                last_text: text.unwrap_or_default(),
            });
        }
        conversations.sort_by_key(|entry| std::cmp::Reverse(entry.last_at));
        Ok(ConversationList { conversations })
    }
}

/// True if the outbox has nothing more to do with a message in this state, unless it is in there.
const fn is_settled(state: WireState) -> bool {
    !matches!(state, WireState::Queued | WireState::Sent)
}

/// Puts what each device sent into the order of its counters, in the places that its messages have: those that came late are shown where they
/// belong.
fn order_by_sender(messages: &mut [Kept], me: DeviceKey) {
    let mut places: BTreeMap<DeviceKey, Vec<usize>> = BTreeMap::new();
    for (place, kept) in messages.iter().enumerate() {
        let device = match kept {
            Kept::Sent { .. } => me,
            Kept::Received { from: device, .. } | Kept::Elsewhere { device, .. } => *device,
        };
        places.entry(device).or_default().push(place);
    }
    for of_device in places.into_values() {
        let mut sorted: Vec<Kept> = of_device.iter().map(|place| messages[*place].clone()).collect();
        sorted.sort_by_key(|kept| kept.envelope().counter);
        for (place, kept) in of_device.into_iter().zip(sorted) {
            messages[place] = kept;
        }
    }
}
