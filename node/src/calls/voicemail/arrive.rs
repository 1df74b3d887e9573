//! Recordings that others leave: who may, how much room there is, and their parts.

use halloo_protocol::call::Reason;
use halloo_protocol::contact::privacy::{Kind, Relation};
use halloo_protocol::id::MessageId;
use halloo_protocol::identity::{UserId, VerifiedChain};
use halloo_protocol::key::DeviceKey;
use halloo_protocol::message::{Correspondent, DeliveryStatus, Envelope};
use halloo_protocol::time::UnixTime;
use halloo_protocol::voicemail::{VoicemailPart, VoicemailSignal};
use tracing::warn;

use super::{Entry, Key, Row, Stage, Told, is_complete};
use crate::event_loop::EventLoop;
use crate::messages::Arrived;
use crate::store::{StoreError, Transaction};

/// What one user may have kept here: recordings that weren't heard, and bytes. A dozen of the longest.
const CONTACT_ROOM: Room = Room { unheard: 100, bytes: 8 * 1024 * 1024 };

/// The same of a stranger, where strangers may write: one of the longest.
const STRANGER_ROOM: Room = Room { unheard: 3, bytes: 1024 * 1024 };

/// Bytes of all strangers together.
const STRANGERS_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Bytes of everybody.
const BYTES_MAX: u64 = 256 * 1024 * 1024;

#[derive(Clone, Copy, Debug)]
struct Room {
    unheard: usize,
    bytes: u64,
}

/// Keeps what a message tells of a recording, in the transaction that keeps the message. Of other messages nothing.
///
/// # Errors
/// [`StoreError`].
pub(crate) fn keep_announced(
    tx: &Transaction,
    with: &Correspondent,
    device: DeviceKey,
    envelope: &Envelope,
    incoming: bool,
    now: UnixTime,
) -> Result<(), StoreError> {
    let (Some(voicemail), Some(user)) = (envelope.body.voicemail(), with.user()) else { return Ok(()) };
    let known = tx.voicemail(&device, &envelope.id)?.and_then(|bytes| Row::decode(&bytes));
    let mut row = known.unwrap_or_else(|| Row::new(device, envelope.id, user.clone(), incoming, now));
    if row.told.is_some() {
        return Ok(());
    }
    row.told = Some(Told { voicemail: voicemail.clone(), counter: envelope.counter, sent_at: envelope.sent_at });
    row.put(tx)
}

impl EventLoop {
    /// What a device whose chain holds says of voicemail. It is acknowledged when this returns.
    pub(crate) fn take_voicemail(
        &mut self,
        sender: &VerifiedChain,
        envelope: &Envelope,
        signal: VoicemailSignal,
    ) -> DeliveryStatus {
        if !self.decide(&sender.user, Kind::Message).is_allowed {
            return DeliveryStatus::Refused(Reason::NOT_ALLOWED);
        }
        let is_stranger = !matches!(self.relation(&sender.user), Relation::Own | Relation::Contact);
        match signal {
            VoicemailSignal::Left(voicemail) => {
                let key = (sender.device, envelope.id);
                let known = self.voicemail.entries.get(&key).map(|entry| &entry.row);
                let is_new = known.is_none_or(|row| row.told.is_none());
                let held = known.map_or(0, Row::room);
                let more = u64::from(voicemail.bytes).saturating_sub(held);
                if is_new && !self.make_voicemail_room(&sender.user.id, &key, is_stranger, more) {
                    self.counters.rate_limited += 1;
                    return DeliveryStatus::Refused(Reason::VOICEMAIL_FULL);
                }
                let author = sender.user.id.clone();
                let (with, text) = (author.clone().into(), String::new());
                let arrived = Arrived { with, author, device: sender.device, envelope, text };
                let status = self.take_shown(sender, arrived, is_stranger);
                self.voicemail_announced(&key);
                status
            }
            VoicemailSignal::Part(part) => self.take_voicemail_part(sender, envelope.id, &part, is_stranger),
        }
    }

    /// The message of a recording was kept, whatever way it came.
    pub(crate) fn voicemail_announced(&mut self, key: &Key) {
        let is_known = self.voicemail.entries.get(key).is_some_and(|entry| entry.row.told.is_some());
        if !is_known {
            self.reload_voicemail(key);
            self.complete_voicemail(key);
        }
    }

    fn take_voicemail_part(
        &mut self,
        sender: &VerifiedChain,
        message: MessageId,
        part: &VoicemailPart,
        is_stranger: bool,
    ) -> DeliveryStatus {
        let key = (sender.device, part.voicemail);
        let user = &sender.user.id;
        let bit = 1_u32.checked_shl(part.index.into()).unwrap_or(0);
        let known = self.voicemail.entries.get(&key).map(|entry| &entry.row);
        let mut is_expected = false;
        if let Some(row) = known {
            if !row.incoming || row.with != *user {
                return DeliveryStatus::Refused(Reason::INVALID);
            }
            if row.stage() != Stage::Arriving || row.parts & bit != 0 {
                // Deleted, given up, or here already.
                return DeliveryStatus::Accepted;
            }
            if let Some(told) = &row.told {
                if told.voicemail.part_bytes(part.index.into()) != Some(part.bytes.len()) {
                    return DeliveryStatus::Refused(Reason::INVALID);
                }
                is_expected = true;
            }
        }
        let now = self.now().unix;
        let known = known.cloned();
        // What its message has told has its room already.
        if !is_expected && !self.make_voicemail_room(user, &key, is_stranger, part.bytes.len() as u64) {
            self.counters.rate_limited += 1;
            return DeliveryStatus::Refused(Reason::VOICEMAIL_FULL);
        }
        if !self.admit_message(&sender.user.identity.0, is_stranger, part.bytes.len()) {
            self.counters.rate_limited += 1;
            return DeliveryStatus::Refused(Reason::TOO_MANY);
        }
        let mut row = known.unwrap_or_else(|| Row::new(key.0, key.1, user.clone(), true, now));
        row.parts |= bit;
        row.bytes = row.bytes.saturating_add(u32::try_from(part.bytes.len()).unwrap_or(u32::MAX));
        let kept = self.store.transaction::<_, StoreError>(|tx| {
            if !tx.is_first_copy(&key.0, &message.0, now)? {
                return Ok(false);
            }
            tx.put_voicemail_part(&key.0, &key.1, part.index, &part.bytes)?;
            row.put(tx)?;
            Ok(true)
        });
        match kept {
            Ok(true) => {
                let is_whole = is_complete(&row);
                let heard = self.is_heard(&row);
                self.voicemail.entries.insert(key, Entry { row, heard, shown: None });
                self.shed_voicemail();
                if is_whole {
                    self.complete_voicemail(&key);
                }
                DeliveryStatus::Accepted
            }
            Ok(false) => DeliveryStatus::Duplicate,
            Err(error) => {
                warn!(%error, "part of a voicemail not kept");
                // The sender tries again later.
                DeliveryStatus::Refused(Reason::TOO_MANY)
            }
        }
    }

    /// True if there is room for `more` bytes of this sender; for that, what was heard goes, the oldest first.
    fn make_voicemail_room(&mut self, user: &UserId, key: &Key, is_stranger: bool, more: u64) -> bool {
        let room = if is_stranger { STRANGER_ROOM } else { CONTACT_ROOM };
        loop {
            let others = || self.voicemail.rows().filter(|row| row.key() != *key);
            let of_user =
                || self.voicemail.entries.values().filter(|entry| entry.row.with == *user && entry.row.is_for_hearing());
            let sum = |rows: &mut dyn Iterator<Item = &Row>| rows.map(Row::room).sum::<u64>();
            let unheard = of_user().filter(|entry| !entry.heard && entry.row.key() != *key).count();
            let own = sum(&mut of_user().map(|entry| &entry.row)) + more;
            let of_strangers = sum(&mut others().filter(|row| !self.is_acquainted(&row.with))) + more;
            let is_full_of_own = own > room.bytes;
            let is_full =
                is_full_of_own || is_stranger && of_strangers > STRANGERS_BYTES_MAX || sum(&mut others()) + more > BYTES_MAX;
            if unheard >= room.unheard {
                return false;
            }
            if !is_full {
                return true;
            }
            let may_go =
                |entry: &&Entry| entry.heard && entry.row.stage() == Stage::Whole && (!is_full_of_own || entry.row.with == *user);
            let oldest = self.voicemail.entries.values().filter(may_go).min_by_key(|entry| entry.row.kept_at);
            let Some(oldest) = oldest.map(|entry| entry.row.key()) else { return false };
            self.drop_audio(&oldest, Stage::Deleted, None);
        }
    }
}
