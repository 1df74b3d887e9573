//! Voicemail: recordings that this user has left for others, and those left for this user.
//!
//! `halloo-protocol`'s `voicemail` says what goes over the wire. It goes as messages, so that outbox, sessions, mailboxes, receipts and own devices
//! do with it what they do with texts; here is what is more: the parts of a recording, whether all of them have come or arrived, and how much room
//! there is ([`arrive`]); how one is left ([`leave`]); and what a device that came later gets from own others ([`fetch`]).
//!
//! What was told of a recording is kept in the transaction that keeps its message, and a part in the one that notes that it was seen, so a crash
//! between two messages loses neither. A recording is heard when its message is read: own devices and the author learn it as they learn that of texts.

mod arrive;
mod deleted;
mod fetch;
mod leave;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bincode::{Decode, Encode};
use halloo_protocol::event::EventKind;
use halloo_protocol::id::MessageId;
use halloo_protocol::identity::UserId;
use halloo_protocol::key::DeviceKey;
use halloo_protocol::message::{Correspondent, CounterSet, Envelope, Marks, MessageState as WireState};
use halloo_protocol::time::{Now, UnixTime};
use halloo_protocol::voicemail::{Voicemail, assemble};
use halloo_protocol::wire;
use tracing::{debug, warn};

pub(crate) use self::arrive::keep_announced;
use self::deleted::Deletions;
use self::fetch::Fetches;
pub(crate) use self::fetch::FetchingPart;
pub(crate) use self::leave::note_part_finished;
use crate::event_loop::EventLoop;
use crate::handle::Event;
use crate::handle::messages::MessageState;
use crate::handle::problem::NodeError;
use crate::handle::voicemail::{
    VoicemailCommand, VoicemailFault, VoicemailList, VoicemailListOptions, VoicemailState as State, VoicemailView,
};
use crate::messages::{foreign_row_id, internal};
use crate::receipts::Conversation;
use crate::store::{StoreError, Transaction, VALUE_BYTES_MAX};
use crate::timestamp::Timestamp;
use crate::wording::Sentence;

/// Recordings known at once, deleted and sent ones included; what is of least interest falls out.
const VOICEMAILS_MAX: usize = 2_000;

/// How long parts may take to come: senders try for 30 days.
const ARRIVAL_SECS: u64 = 31 * 86_400;

/// How long a deleted recording is remembered, so that parts which come late aren't taken for another's: longer than they are tried.
const DELETED_SECS: u64 = 40 * 86_400;

/// How often it is looked for what has run out.
const EXPIRY_EVERY: Duration = Duration::from_secs(600);

/// What a device has to be able to play.
const RECORDING_FORMAT: &str = "audio/ogg";

/// Shortest beginning of an id that names a recording.
const ID_CHARS_MIN: usize = 4;

/// Names a recording: senders choose ids, and with its device's key one can't take the place of another's.
type Key = (DeviceKey, MessageId);

/// What is kept of a recording.
#[derive(Clone, Debug, Encode, Decode)]
struct Row {
    device: DeviceKey,
    id: MessageId,
    /// Who left it, or for whom it is.
    with: UserId,
    incoming: bool,
    /// What its message says, once that has come.
    told: Option<Told>,
    /// A bit per part: of an incoming one, those that are here; of one that goes, those that aren't done.
    parts: u32,
    /// What the parts that are here take.
    bytes: u32,
    kept_at: UnixTime,
    state: u8,
    /// How long it is, once it is whole.
    duration_ms: Option<u32>,
    problem: Option<String>,
}

/// What the message says of a recording.
#[derive(Clone, Debug, Encode, Decode)]
struct Told {
    voicemail: Voicemail,
    counter: u64,
    sent_at: UnixTime,
}

/// How far a recording is here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Parts are missing; or it goes, and has none here.
    Arriving,
    Whole,
    Broken,
    Deleted,
}

impl Row {
    fn new(device: DeviceKey, id: MessageId, with: UserId, incoming: bool, now: UnixTime) -> Self {
        Self {
            device,
            id,
            with,
            incoming,
            told: None,
            parts: 0,
            bytes: 0,
            kept_at: now,
            state: 0,
            duration_ms: None,
            problem: None,
        }
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        wire::decode(bytes, VALUE_BYTES_MAX).ok()
    }

    fn put(&self, tx: &Transaction) -> Result<(), StoreError> {
        tx.put_voicemail(&self.device, &self.id, &wire::encode(self))
    }

    const fn key(&self) -> Key {
        (self.device, self.id)
    }

    const fn stage(&self) -> Stage {
        match self.state {
            0 => Stage::Arriving,
            1 => Stage::Whole,
            3 => Stage::Deleted,
            _ => Stage::Broken,
        }
    }

    const fn set_stage(&mut self, stage: Stage) {
        self.state = match stage {
            Stage::Arriving => 0,
            Stage::Whole => 1,
            Stage::Broken => 2,
            Stage::Deleted => 3,
        };
    }

    /// What it takes of the disk when it is whole.
    fn room(&self) -> u64 {
        match self.stage() {
            Stage::Arriving | Stage::Whole if self.incoming => {
                u64::from(self.told.as_ref().map_or(0, |told| told.voicemail.bytes).max(self.bytes))
            }
            _ => 0,
        }
    }

    fn has_all_parts(&self) -> bool {
        self.told.as_ref().is_some_and(|told| {
            let all = all_parts(told.voicemail.part_count());
            self.parts & all == all
        })
    }

    /// True if it is to be heard.
    fn is_for_hearing(&self) -> bool {
        self.incoming && matches!(self.stage(), Stage::Arriving | Stage::Whole)
    }
}

/// A bit for each of so many parts.
fn all_parts(count: usize) -> u32 {
    u32::try_from(count).ok().and_then(|count| 1_u32.checked_shl(count)).map_or(u32::MAX, |bit| bit - 1)
}

#[derive(Clone, Debug)]
struct Entry {
    row: Row,
    heard: bool,
    /// The state that was told last, of one that goes.
    shown: Option<MessageState>,
}

/// All recordings.
#[derive(Debug)]
pub(crate) struct VoicemailState {
    entries: BTreeMap<Key, Entry>,
    expiry_at: Instant,
    fetches: Fetches,
    deletions: Deletions,
}

impl VoicemailState {
    pub(crate) fn new(now: Instant) -> Self {
        Self { entries: BTreeMap::new(), expiry_at: now, fetches: Fetches::default(), deletions: Deletions::default() }
    }

    fn rows(&self) -> impl Iterator<Item = &Row> {
        self.entries.values().map(|entry| &entry.row)
    }
}

impl EventLoop {
    /// Takes up what an earlier run left.
    pub(crate) fn voicemail_start(&mut self) {
        self.load_deletions();
        let rows = match self.store.read::<_, StoreError>(|view| view.voicemails()) {
            Ok(rows) => rows,
            Err(error) => return warn!(%error, "voicemail not restored from the database"),
        };
        for row in rows.iter().filter_map(|bytes| Row::decode(bytes)) {
            let heard = self.is_heard(&row);
            self.voicemail.entries.insert(row.key(), Entry { row, heard, shown: None });
        }
        let whole: Vec<Key> = self.voicemail.rows().filter(|row| is_complete(row)).map(Row::key).collect();
        for key in whole {
            self.complete_voicemail(&key);
        }
    }

    pub(crate) fn voicemail_tick(&mut self, now: Now) {
        if self.voicemail.entries.is_empty() {
            return;
        }
        self.fetch_voicemail(now);
        if self.voicemail.expiry_at > now.instant {
            return;
        }
        self.voicemail.expiry_at = now.instant + EXPIRY_EVERY;
        let is_over = |row: &Row, secs| now.unix > row.kept_at.plus_secs(secs);
        let late = |row: &&Row| row.incoming && row.stage() == Stage::Arriving && is_over(row, ARRIVAL_SECS);
        let late: Vec<Key> = self.voicemail.rows().filter(late).map(Row::key).collect();
        for key in late {
            self.drop_audio(&key, Stage::Broken, Some("not all of it has come in time".to_owned()));
        }
        let gone = |row: &&Row| row.stage() == Stage::Deleted && is_over(row, DELETED_SECS);
        let gone: Vec<Key> = self.voicemail.rows().filter(gone).map(Row::key).collect();
        for key in gone {
            self.forget_voicemail(&key);
        }
    }

    fn forget_voicemail(&mut self, (device, id): &Key) {
        self.voicemail.entries.remove(&(*device, *id));
        if let Err(error) = self.store.transaction::<_, StoreError>(|tx| tx.remove_voicemail(device, id)) {
            warn!(%error, "voicemail not removed");
        }
    }

    /// Takes the audio off the disk; the row stays.
    fn drop_audio(&mut self, key: &Key, stage: Stage, problem: Option<String>) {
        let Some(entry) = self.voicemail.entries.get_mut(key) else { return };
        entry.row.set_stage(stage);
        entry.row.problem = problem;
        (entry.row.parts, entry.row.bytes) = (0, 0);
        let row = entry.row.clone();
        let dropped = self.store.transaction::<_, StoreError>(|tx| {
            tx.remove_voicemail_parts(&row.device, &row.id)?;
            row.put(tx)
        });
        if let Err(error) = dropped {
            warn!(%error, "voicemail not taken off the disk");
        }
    }

    /// Reads a row anew that a transaction of messages has changed.
    fn reload_voicemail(&mut self, (device, id): &Key) {
        let stored = self.store.read::<_, StoreError>(|view| view.voicemail(device, id));
        let Ok(Some(row)) = stored.map(|bytes| bytes.and_then(|bytes| Row::decode(&bytes))) else { return };
        let heard = self.is_heard(&row);
        let shown = self.voicemail.entries.get(&row.key()).and_then(|entry| entry.shown);
        self.voicemail.entries.insert(row.key(), Entry { row, heard, shown });
        self.drop_deleted(&(*device, *id));
        self.shed_voicemail();
    }

    /// Keeps the number of rows within bounds.
    fn shed_voicemail(&mut self) {
        while self.voicemail.entries.len() > VOICEMAILS_MAX {
            let interest = |entry: &Entry| {
                let is_of_use = entry.row.is_for_hearing() && !entry.heard || !entry.row.incoming && entry.row.parts != 0;
                (is_of_use, entry.row.stage() == Stage::Whole, entry.row.kept_at)
            };
            let least = self.voicemail.entries.iter().min_by_key(|(_, entry)| interest(entry)).map(|(key, _)| *key);
            let Some(key) = least else { return };
            self.forget_voicemail(&key);
        }
    }

    /// All parts are here: whatever they are, it shows now.
    fn complete_voicemail(&mut self, key: &Key) {
        let Some(Entry { row, heard, .. }) = self.voicemail.entries.get(key).cloned() else { return };
        let Some(told) = row.told.as_ref().filter(|_| is_complete(&row)) else { return };
        let parts = match self.store.read::<_, StoreError>(|view| view.voicemail_parts(&row.device, &row.id)) {
            Ok(parts) => parts,
            Err(error) => return warn!(%error, "voicemail not read"),
        };
        let from = self.labels.display(&row.with);
        let (sent_at, call) = (told.sent_at, told.voicemail.call);
        match assemble(&told.voicemail, parts.iter().map(Vec::as_slice)) {
            Ok((_, recording)) => {
                let duration_ms = recording.duration_ms();
                let shown_on = self.shown_elsewhere(row.id.0, EventKind::VOICEMAIL, &row.with, RECORDING_FORMAT);
                let notice = self.notice_shown(Sentence::Voicemail, &row.with, shown_on);
                let mut row = row;
                row.set_stage(Stage::Whole);
                row.duration_ms = Some(duration_ms);
                if let Err(error) = self.store.transaction::<_, StoreError>(|tx| row.put(tx)) {
                    return warn!(%error, "voicemail not written down");
                }
                self.voicemail.entries.insert(*key, Entry { row, heard, shown: None });
                self.events.send(Event::VoicemailReceived {
                    voicemail_id: key.1.to_string(),
                    from,
                    call_id: call.map(|call| call.to_string()),
                    duration_ms: duration_ms.into(),
                    sent_at: Timestamp::from_unix_secs(sent_at.0),
                    notice,
                });
            }
            Err(error) => {
                debug!(%error, sender = %row.device, "voicemail can't be heard");
                self.counters.malformed += 1;
                self.drop_audio(key, Stage::Broken, Some(error.to_string()));
                let detail = format!("a voicemail of {from} can't be heard: {error}");
                self.events.send(Event::Warning { code: "voicemail-broken".into(), detail });
            }
        }
    }
}

fn is_complete(row: &Row) -> bool {
    row.incoming && row.stage() == Stage::Arriving && row.has_all_parts()
}

// What the user does.
impl EventLoop {
    pub(crate) fn handle_voicemail(&mut self, command: VoicemailCommand) {
        match command {
            VoicemailCommand::Leave { to, recorded, call_id, reply } => {
                reply.send(self.leave_voicemail(&to, &recorded, call_id.as_deref()));
            }
            VoicemailCommand::List { options, reply } => reply.send(self.list_voicemail(&options)),
            VoicemailCommand::Get { id, reply } => reply.send(self.find_voicemail(&id).and_then(|key| self.voicemail_view(&key))),
            VoicemailCommand::Audio { id, reply } => reply.send(self.voicemail_audio(&id)),
            VoicemailCommand::Heard { id, reply } => reply.send(self.voicemail_heard(&id)),
            VoicemailCommand::Delete { id, reply } => reply.send(self.delete_voicemail(&id)),
        }
    }

    /// What can be asked of a node that sleeps.
    pub(crate) fn handle_voicemail_asleep(&mut self, command: VoicemailCommand) {
        match command {
            VoicemailCommand::List { .. } | VoicemailCommand::Get { .. } | VoicemailCommand::Audio { .. } => {
                self.handle_voicemail(command);
            }
            other => other.refuse(NodeError::Suspended),
        }
    }

    fn list_voicemail(&self, options: &VoicemailListOptions) -> Result<VoicemailList, VoicemailFault> {
        let with = options.with.as_deref().map(|name| self.parse_user_or_linked(name)).transpose()?;
        let unheard =
            self.voicemail.entries.values().filter(|entry| is_shown(entry) && entry.row.is_for_hearing() && !entry.heard);
        let unheard = unheard.count() as u64;
        let is_wanted = |entry: &&Entry| {
            is_shown(entry)
                && (options.sent || entry.row.incoming)
                && !(options.unheard && entry.heard)
                && with.as_ref().is_none_or(|with| entry.row.with == *with)
        };
        let wanted = self.voicemail.entries.values().filter(is_wanted);
        let mut voicemails: Vec<VoicemailView> = wanted.filter_map(|entry| self.shown_voicemail(entry)).collect();
        voicemails.sort_by(|one, other| (other.sent_at, &other.id).cmp(&(one.sent_at, &one.id)));
        Ok(VoicemailList { voicemails, unheard })
    }

    fn find_voicemail(&self, id: &str) -> Result<Key, VoicemailFault> {
        let shown = || id.chars().take(64).collect::<String>();
        let wanted = id.to_ascii_lowercase();
        let is_meant = |entry: &&Entry| is_shown(entry) && entry.row.id.to_string().starts_with(&wanted);
        let mut found = self.voicemail.entries.values().filter(is_meant).map(|entry| entry.row.key());
        if wanted.len() < ID_CHARS_MIN {
            return Err(VoicemailFault::Unknown { id: shown() });
        }
        match (found.next(), found.next()) {
            (Some(key), None) => Ok(key),
            (Some(_), Some(_)) => Err(VoicemailFault::Ambiguous { id: shown() }),
            (None, _) => Err(VoicemailFault::Unknown { id: shown() }),
        }
    }

    fn voicemail_view(&self, key: &Key) -> Result<VoicemailView, VoicemailFault> {
        let entry = self.voicemail.entries.get(key);
        entry.and_then(|entry| self.shown_voicemail(entry)).ok_or_else(|| VoicemailFault::Unknown { id: key.1.to_string() })
    }

    fn shown_voicemail(&self, entry: &Entry) -> Option<VoicemailView> {
        let row = &entry.row;
        let told = row.told.as_ref()?;
        let sent = (!row.incoming).then(|| self.sent_state(row)).flatten();
        let state = match (row.incoming, row.stage(), sent) {
            (true, Stage::Arriving, _) => State::Arriving,
            (true, Stage::Whole, _) => State::Ready,
            (true, Stage::Broken | Stage::Deleted, _) => State::Broken,
            (false, _, Some(MessageState::Failed)) => State::Failed,
            (false, _, Some(MessageState::Read)) => State::Heard,
            (false, _, Some(MessageState::Delivered)) => State::Delivered,
            (false, _, Some(MessageState::Sent)) => State::Sent,
            (false, _, _) => State::Queued,
        };
        Some(VoicemailView {
            id: row.id.to_string(),
            with: self.labels.display(&row.with),
            incoming: row.incoming,
            call_id: told.voicemail.call.map(|call| call.to_string()),
            state,
            sent_at: Timestamp::from_unix_secs(told.sent_at.0),
            duration_ms: row.duration_ms.unwrap_or(told.voicemail.duration_ms).into(),
            bytes: told.voicemail.bytes.into(),
            heard: if row.incoming { entry.heard } else { state == State::Heard },
            waveform: told.voicemail.waveform.clone(),
            problem: row.problem.clone().or_else(|| self.sent_problem(row)),
        })
    }

    /// How far the message of one that was sent is, here or on another own device.
    fn sent_state(&self, row: &Row) -> Option<MessageState> {
        if row.device == self.identity.device() {
            return Some(self.message_status(row.id).state);
        }
        let id = foreign_row_id(&row.device, &row.id);
        let (_, row) = self.store.read::<_, StoreError>(|view| view.message_by_id(&id)).ok()??;
        self.found_message(&row).map(|(_, _, entry)| entry.state)
    }

    fn sent_problem(&self, row: &Row) -> Option<String> {
        let is_ours = !row.incoming && row.device == self.identity.device();
        is_ours.then(|| self.message_status(row.id).reason).flatten()
    }

    fn voicemail_audio(&self, id: &str) -> Result<Vec<u8>, VoicemailFault> {
        let key = self.find_voicemail(id)?;
        let not_here = |reason: &str| VoicemailFault::NotHere { reason: reason.to_owned() };
        let Some(row) = self.voicemail.entries.get(&key).map(|entry| &entry.row) else { return Err(not_here("it is gone")) };
        match (row.incoming, row.stage(), &row.problem) {
            (false, ..) => return Err(not_here("this user has left it; the recipient has it")),
            (true, Stage::Arriving, _) => return Err(not_here("not all of it has come")),
            (true, Stage::Broken | Stage::Deleted, problem) => return Err(not_here(problem.as_deref().unwrap_or("it is gone"))),
            (true, Stage::Whole, _) => {}
        }
        let parts = self.store.read::<_, StoreError>(|view| view.voicemail_parts(&key.0, &key.1));
        Ok(parts.map_err(|error| VoicemailFault::from(internal(&error)))?.concat())
    }

    fn voicemail_heard(&mut self, id: &str) -> Result<VoicemailView, VoicemailFault> {
        let key = self.find_voicemail(id)?;
        self.note_heard(&key)?;
        self.voicemail_view(&key)
    }

    fn note_heard(&mut self, key: &Key) -> Result<(), VoicemailFault> {
        let Some(entry) = self.voicemail.entries.get(key) else { return Ok(()) };
        let Some(told) = entry.row.told.as_ref().filter(|_| entry.row.incoming && !entry.heard) else { return Ok(()) };
        let (with, counter) = (Correspondent::User(entry.row.with.clone()), told.counter);
        self.mark_one_read(&with, key.0, counter)?;
        self.refresh_heard(&with, false);
        Ok(())
    }

    fn delete_voicemail(&mut self, id: &str) -> Result<VoicemailView, VoicemailFault> {
        let key = self.find_voicemail(id)?;
        self.note_heard(&key)?;
        let view = self.voicemail_view(&key)?;
        self.note_deleted(&key);
        self.drop_audio(&key, Stage::Deleted, None);
        Ok(view)
    }
}

/// True if it is listed: its message has come, and nobody has deleted it.
fn is_shown(entry: &Entry) -> bool {
    entry.row.told.is_some() && entry.row.stage() != Stage::Deleted
}

// What messages and receipts ask.
impl EventLoop {
    fn is_heard(&self, row: &Row) -> bool {
        let Some(told) = row.told.as_ref().filter(|_| row.incoming) else { return false };
        let with = Correspondent::User(row.with.clone());
        let state = self.store.read::<_, StoreError>(|view| Conversation::load(view, &with));
        state.is_ok_and(|state| state.is_read(&row.device, told.counter))
    }

    /// The numbers of messages that aren't read by looking at the conversation: recordings are heard one by one.
    pub(crate) fn unheard_marks(&self, with: &Correspondent) -> Marks {
        let mut marks = Marks::new();
        let Some(user) = with.user() else { return marks };
        for row in self.voicemail.rows().filter(|row| row.with == *user && row.is_for_hearing()) {
            if let Some(told) = &row.told {
                marks.add(row.device, &CounterSet::of_range(told.counter, told.counter));
            }
        }
        marks
    }

    /// What was read of a conversation has changed: tells of recordings that were heard with it.
    pub(crate) fn refresh_heard(&mut self, with: &Correspondent, elsewhere: bool) {
        let Some(user) = with.user() else { return };
        let unheard = self.voicemail.entries.values().filter(|entry| entry.row.with == *user && is_shown(entry) && !entry.heard);
        let heard: Vec<Key> = unheard.map(|entry| &entry.row).filter(|row| self.is_heard(row)).map(Row::key).collect();
        for key in heard {
            if let Some(entry) = self.voicemail.entries.get_mut(&key) {
                entry.heard = true;
                let from = self.labels.display(&entry.row.with);
                self.events.send(Event::VoicemailHeard { voicemail_id: key.1.to_string(), from, elsewhere });
            }
        }
    }

    /// How far the parts are of what this device has left; a message is never further than its recording. `None`: they hold nothing back.
    pub(crate) fn voicemail_parts_state(&self, envelope: &Envelope) -> Option<WireState> {
        envelope.body.voicemail()?;
        let row = &self.voicemail.entries.get(&(self.identity.device(), envelope.id))?.row;
        if row.problem.is_some() {
            return Some(WireState::Failed);
        }
        self.open_parts_state(row)
    }

    /// Why a recording that this device has left failed.
    pub(crate) fn voicemail_problem(&self, id: &MessageId) -> Option<String> {
        self.voicemail.entries.get(&(self.identity.device(), *id))?.row.problem.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bit_for_each_part() {
        assert_eq!((all_parts(0), all_parts(1), all_parts(16), all_parts(32)), (0, 1, 0xffff, u32::MAX));
    }

    #[test]
    fn a_stage_is_what_was_set() {
        let user = UserId::Key(halloo_protocol::key::IdentityKey(halloo_protocol::key::PublicKey([1; 32])));
        let device = DeviceKey(halloo_protocol::key::PublicKey([2; 32]));
        let mut row = Row::new(device, MessageId([3; 16]), user, true, UnixTime(1));
        for stage in [Stage::Whole, Stage::Broken, Stage::Deleted, Stage::Arriving] {
            row.set_stage(stage);
            assert_eq!(row.stage(), stage);
            assert_eq!(Row::decode(&wire::encode(&row)).expect("its own bytes").stage(), stage);
        }
        assert!(!is_complete(&row), "nothing was told of it");
        let voicemail = Voicemail::of(&[0; 100_000], None, 1, Vec::new());
        row.told = Some(Told { voicemail, counter: 1, sent_at: UnixTime(1) });
        row.parts = 0b101;
        assert!(!is_complete(&row));
        row.parts = 0b111;
        assert!(is_complete(&row));
        assert_eq!(row.room(), 100_000);
    }
}
