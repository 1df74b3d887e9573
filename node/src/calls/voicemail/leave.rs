//! Leaving a recording: its message and its parts in the outbox, all in one transaction, before anybody is told that it was left.

use std::collections::BTreeMap;

use halloo_protocol::id::{CallId, MessageId};
use halloo_protocol::message::{Correspondent, Envelope, MessageBody, MessageState as WireState, OutboxItem, Recipient};
use halloo_protocol::voicemail::{Voicemail, VoicemailPart, VoicemailSignal};
use tracing::debug;

use super::{Row, Told, all_parts};
use crate::calls::media::recording::Recorded;
use crate::event_loop::EventLoop;
use crate::handle::messages::MessageState;
use crate::handle::problem::NodeError;
use crate::handle::voicemail::{VoicemailFault, VoicemailLeft};
use crate::messages::{DEADLINE_SECS, conversation_id, internal, keep_item, next_counter};
use crate::receipts::Conversation;
use crate::store::{StoreError, Transaction};

/// Recordings of which parts wait to be sent: they mustn't fill the outbox.
const WAITING_MAX: usize = 24;

/// Notes that a part needs nothing more, in the transaction that takes it out of the outbox.
///
/// # Errors
/// [`StoreError`].
pub(crate) fn note_part_finished(
    tx: &Transaction,
    me: &halloo_protocol::key::DeviceKey,
    body: &MessageBody,
    problem: Option<String>,
) -> Result<(), StoreError> {
    let Some(part) = part_of(body) else { return Ok(()) };
    let Some(mut row) = tx.voicemail(me, &part.voicemail)?.and_then(|bytes| Row::decode(&bytes)) else { return Ok(()) };
    row.parts &= !1_u32.checked_shl(part.index.into()).unwrap_or(0);
    row.problem = row.problem.or(problem);
    row.put(tx)
}

fn part_of(body: &MessageBody) -> Option<&VoicemailPart> {
    match body {
        MessageBody::Voicemail(signal) => match &**signal {
            VoicemailSignal::Part(part) => Some(part),
            VoicemailSignal::Left(_) => None,
        },
        _ => None,
    }
}

impl EventLoop {
    pub(super) fn leave_voicemail(
        &mut self,
        to: &str,
        recorded: &Recorded,
        call_id: Option<&str>,
    ) -> Result<VoicemailLeft, VoicemailFault> {
        let user = self.parse_user_or_linked(to)?;
        if user == self.identity.user_id() {
            return Err(VoicemailFault::ForSelf);
        }
        if self.is_revoked() {
            return Err(NodeError::Revoked.into());
        }
        self.refuse_changed(&user)?;
        let is_waiting = |row: &&Row| !row.incoming && row.parts != 0;
        if self.voicemail.rows().filter(is_waiting).count() >= WAITING_MAX {
            return Err(NodeError::LimitReached { what: "voicemails waiting to be sent", max: WAITING_MAX }.into());
        }
        let unknown = |id: &str| VoicemailFault::UnknownCall { call_id: id.chars().take(64).collect() };
        let call = call_id.map(|id| id.parse::<CallId>().map_err(|_| unknown(id))).transpose()?;
        let voicemail = Voicemail::of(&recorded.ogg, call, recorded.duration_ms, recorded.waveform.clone());
        let to = Recipient { user, identity: self.linked_key(to) };
        let id = self.keep_left(&to, voicemail, &recorded.ogg)?;
        Ok(VoicemailLeft { id: id.to_string(), duration_ms: recorded.duration_ms.into() })
    }

    fn keep_left(&mut self, to: &Recipient, voicemail: Voicemail, ogg: &[u8]) -> Result<MessageId, VoicemailFault> {
        let user = to.user.clone();
        let with = Correspondent::User(user.clone());
        let now = self.now();
        let id = MessageId::random(&mut self.rng);
        let me = self.identity.user_id();
        let device = self.identity.device();
        let conversation = conversation_id(&me, &with);
        let own = self.contacts.has_own_devices().then(|| me.clone());
        let deadline = now.unix.plus_secs(DEADLINE_SECS);
        let extensions = self.linked_extensions(&user);
        let envelope = |id, counter, signal| Envelope {
            id,
            conversation,
            counter,
            sent_at: now.unix,
            body: MessageBody::Voicemail(Box::new(signal)),
            extensions: extensions.clone(),
        };
        let rng = &mut self.rng;
        let parts: Vec<OutboxItem> = VoicemailPart::of(id, ogg)
            .map(|part| envelope(MessageId::random(rng), 0, VoicemailSignal::Part(part)))
            .map(|envelope| OutboxItem::to_recipient(to.clone(), envelope, deadline))
            .collect();
        let queued = self.store.transaction::<_, StoreError>(|tx| {
            let counter = next_counter(tx, &conversation)?;
            Conversation::note_own(tx, &with, device, counter)?;
            let mut row = Row::new(device, id, user.clone(), false, now.unix);
            row.told = Some(Told { voicemail: voicemail.clone(), counter, sent_at: now.unix });
            row.parts = all_parts(parts.len());
            row.put(tx)?;
            let left = envelope(id, counter, VoicemailSignal::Left(voicemail));
            let to = vec![to.clone()];
            let item = OutboxItem { to, own, with: with.clone(), envelope: left, deadline, copies: BTreeMap::new() };
            std::iter::once(item).chain(parts).map(|item| keep_item(tx, item, now.unix)).collect::<Result<Vec<_>, _>>()
        });
        let queued = queued.map_err(|error| VoicemailFault::from(internal(&error)))?;
        self.reload_voicemail(&(device, id));
        self.queue_kept(queued, now);
        Ok(id)
    }

    /// A part of what this device has left got further: so may the whole.
    pub(crate) fn voicemail_part_changed(&mut self, body: &MessageBody) {
        let Some(part) = part_of(body) else { return };
        let key = (self.identity.device(), part.voicemail);
        self.reload_voicemail(&key);
        let status = self.message_status(part.voicemail);
        debug!(voicemail = %part.voicemail.short(), part = part.index, state = ?status.state, "part of a voicemail");
        let Some(entry) = self.voicemail.entries.get_mut(&key) else { return };
        if entry.shown.replace(status.state) == Some(status.state) {
            return;
        }
        let with = Correspondent::User(entry.row.with.clone());
        self.tell_state(&with, &status);
        if status.state >= MessageState::Delivered {
            self.answer_message_waiters(part.voicemail, &status);
        }
    }

    /// How far the parts are that aren't done; `None` if all are.
    pub(super) fn open_parts_state(&self, row: &Row) -> Option<WireState> {
        if row.parts == 0 {
            return None;
        }
        let mut least = WireState::Delivered;
        let mut found = 0;
        for item in self.messages.outbox.items() {
            let is_meant = |part: &&VoicemailPart| part.voicemail == row.id;
            if let Some(part) = part_of(&item.envelope.body).filter(is_meant) {
                found |= 1_u32.checked_shl(part.index.into()).unwrap_or(0);
                least = least.min(item.state());
            }
        }
        // Those that don't even fit the outbox wait in the database.
        Some(if row.parts & !found == 0 { least } else { WireState::Queued })
    }
}
