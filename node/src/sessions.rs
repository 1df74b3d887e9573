//! End-to-end sessions from the node's side: what turns a message into the bytes for one device, and bytes into a message.
//!
//! The database is where sessions live; nothing of them is kept in memory. A copy is encrypted in one transaction with the session it was encrypted in,
//! before anything is sent; the same bytes are sent from then on, whatever way and however often. A received message is decrypted in one
//! transaction with its session, which also keeps the decrypted message until it is dealt with; only then is it acknowledged. So a kill at
//! any moment loses nothing, and no key is used for two messages.
//!
//! What doesn't open is told to the sender, who encrypts the copy anew: the first time in a new session with the keys at hand, then with freshly looked-up
//! ones, each time later, and after [`ATTEMPTS_MAX`] times never again.

mod incoming;
mod keys;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use halloo_protocol::call::Reason;
use halloo_protocol::contact::privacy::{Kind, Relation};
use halloo_protocol::id::MessageId;
use halloo_protocol::identity::{DeviceCertificate, UserId, VerifiedChain};
use halloo_protocol::key::{DeviceKey, IdentityKey, PublicKey};
use halloo_protocol::message::{Content, DeliveryStatus, Envelope};
use halloo_protocol::rate::{Rate, RateLimiter};
use halloo_protocol::session::{
    Account, Ciphertext, FALLBACK_KEY_SECS, KEYS_PER_BATCH_MAX, KeyFetch, KeyFetched, KeysStatus, MailboxKeyFetch,
    MailboxKeyFetched, MailboxKeys, MailboxKeysKept, MessagesUnopened, OneTimeKey, OpenError, Pair, PreKeys, SealError,
    SealedMessage, Sessions, UNOPENED_MAX, Unopened, UnopenedMessage,
};
use halloo_protocol::time::{Now, UnixTime};
use halloo_protocol::wire::{self, Extensions, Frame, Signed};
use libp2p::PeerId;
use tracing::{debug, info, warn};

use crate::address;
use crate::directory::Waiter;
use crate::event_loop::EventLoop;
use crate::handle::Event;
use crate::network::{Purpose, Target};
use crate::rpc::Failure;
use crate::store::{SealedCopyRow, Store, StoreError, Transaction, View};

/// Where the account is kept, and which batch of one-time keys the first mailbox was given.
const ACCOUNT: &str = "session account";
const KEY_BATCH: &str = "session key batch";

/// How often a copy is encrypted anew before it fails. Two times are enough where both sides work.
const ATTEMPTS_MAX: u32 = 8;

/// The pause before a copy is encrypted anew from the third time on; four times as long each time, up to [`ANEW_PAUSE_MAX_SECS`]. It ends early when the
/// device publishes other keys.
const ANEW_PAUSE_SECS: u64 = 2;
const ANEW_PAUSE_MAX_SECS: u64 = 3_600;

/// How long somebody has to answer who is asked for a one-time key. A message waits for it.
const KEY_TIMEOUT: Duration = Duration::from_secs(3);

/// The same of a device that is connected, where its mailbox can be asked instead: so many round trips, and at least so long.
const KEY_ROUND_TRIPS: u32 = 4;
const KEY_PATIENCE_MIN: Duration = Duration::from_millis(750);

/// Devices for which a key is being fetched; beyond it fallback keys are taken.
const FETCHES_MAX: usize = 1_024;

/// How long a fetched key waits for a message to be used for.
const FETCHED_SECS: u64 = 120;

/// Sessions started with one device: the first, and those that heal.
const START_RATE: Rate = Rate { per_hour: 30, burst: 12 };

/// Sessions that one user's devices may start here, and messages to decrypt of one who is no contact: both cost arithmetic and a commit.
const ACCEPT_RATE: Rate = Rate { per_hour: 120, burst: 60 };
const STRANGER_RATE: Rate = Rate { per_hour: 600, burst: 100 };

/// One-time keys that one user's devices get of this device.
const KEY_RATE: Rate = Rate { per_hour: 20, burst: 16 };

/// The same in a lab, where machines talk.
const LAB_RATE: Rate = Rate { per_hour: 3_600_000, burst: 100_000 };

/// Users and devices whose rates are remembered.
const RATES_MAX: usize = 4_096;

/// Messages dealt with whose traces are removed together.
const DONE_MAX: usize = 64;

/// Senders looked up to be told that letters of theirs don't open.
const UNTOLD_MAX: usize = 64;

/// How often it is looked whether the mailbox has one-time keys left, and when it gets new ones.
const KEYS_CHECK_EVERY: Duration = Duration::from_secs(3_600);
const KEYS_RETRY: Duration = Duration::from_secs(60);
const KEYS_LOW: u32 = 15;

/// How long a message that couldn't be read may take to be sent anew before the person is told that it is lost.
const LOST_AFTER_SECS: u64 = 3 * 86_400;

/// How long names of sessions started with a fallback key are remembered: as long as the key lives, and a day.
const SPENT_SECS: u64 = 2 * FALLBACK_KEY_SECS + 86_400;

/// Rows tidied up at once.
const TIDY_MAX: usize = 256;
const TIDY_EVERY: Duration = Duration::from_secs(600);

/// How often a person is told that a user's messages can't be read.
const WARN_RATE: Rate = Rate { per_hour: 1, burst: 1 };

/// A key for a device's next session.
#[derive(Clone, Copy, Debug)]
enum Fetch {
    Asking,
    /// `None`: the fallback key.
    Fetched(Option<[u8; 32]>, Instant),
}

/// Whom a one-time key was asked of.
#[derive(Clone, Debug)]
pub(crate) struct Fetching {
    user: UserId,
    device: DeviceKey,
    by_mailbox: bool,
}

/// Published keys that a device couldn't open a message with: it was set back to a backup, say, and has not published its keys of now yet.
#[derive(Clone, Copy, Debug)]
struct FailedKeys {
    keys: PreKeys,
    looked_up: Instant,
}

/// What is in memory: public keys, and what may be lost.
#[derive(Debug)]
pub(crate) struct SessionsState {
    keys: PreKeys,
    fetches: HashMap<DeviceKey, Fetch>,
    /// Connected devices that didn't answer, and since when.
    silent: HashMap<DeviceKey, Instant>,
    /// Devices whose entries are looked up anew before a session is started.
    awaiting_entry: BTreeSet<DeviceKey>,
    /// Devices of which a session didn't open though it was started with their published keys.
    failed_keys: HashMap<DeviceKey, FailedKeys>,
    done: Vec<(DeviceKey, MessageId)>,
    /// Senders who are looked up to be told that letters of theirs don't open; their own next try tells them too.
    untold: Vec<(UserId, DeviceKey, MessagesUnopened)>,
    starts: RateLimiter<DeviceKey>,
    accepts: RateLimiter<PublicKey>,
    strangers: RateLimiter<PublicKey>,
    askers: RateLimiter<PublicKey>,
    warnings: RateLimiter<PublicKey>,
    /// Which mailbox was asked about one-time keys, and when it is asked next.
    keys_at: Option<DeviceKey>,
    keys_check_at: Instant,
    is_checking: bool,
    used_keys: u32,
    tidy_at: Instant,
}

impl SessionsState {
    /// Takes up the device's keys, or makes them.
    ///
    /// # Errors
    /// [`StoreError`] if the database can't be read or written.
    pub(crate) fn open(store: &Store, now: Now) -> Result<Self, StoreError> {
        let keys = store.transaction::<_, StoreError>(|tx| {
            let mut account = match stored_account(tx)? {
                Some(account) => account,
                None => {
                    // Sessions of other keys are of no use.
                    for device in tx.session_devices()? {
                        tx.remove_sessions(&device)?;
                    }
                    Account::new(now.unix)
                }
            };
            account.maintain(now.unix);
            put_account(tx, &account)?;
            Ok(account.keys())
        })?;
        Ok(Self {
            keys,
            fetches: HashMap::new(),
            silent: HashMap::new(),
            awaiting_entry: BTreeSet::new(),
            failed_keys: HashMap::new(),
            done: Vec::new(),
            untold: Vec::new(),
            starts: RateLimiter::new(RATES_MAX),
            accepts: RateLimiter::new(RATES_MAX),
            strangers: RateLimiter::new(RATES_MAX),
            askers: RateLimiter::new(RATES_MAX),
            warnings: RateLimiter::new(RATES_MAX),
            keys_at: None,
            keys_check_at: now.instant,
            is_checking: false,
            used_keys: 0,
            tidy_at: now.instant,
        })
    }

    /// The keys to publish.
    pub(crate) const fn keys(&self) -> PreKeys {
        self.keys
    }
}

fn stored_account(view: &View) -> Result<Option<Account>, StoreError> {
    let bytes = view.setting(ACCOUNT)?;
    Ok(bytes.and_then(|bytes| {
        let account = Account::from_bytes(&zeroize::Zeroizing::new(bytes));
        account.inspect_err(|error| warn!(%error, "the keys for sessions can't be read: new ones are made")).ok()
    }))
}

fn put_account(tx: &Transaction, account: &Account) -> Result<(), StoreError> {
    tx.put_setting(ACCOUNT, &account.to_bytes())
}

fn stored_sessions(view: &View, device: &DeviceKey) -> Result<Sessions, StoreError> {
    let rows = view.sessions(device)?;
    Ok(Sessions::from_rows(rows.iter().map(Vec::as_slice)))
}

fn put_sessions(tx: &Transaction, device: &DeviceKey, sessions: &Sessions, now: UnixTime) -> Result<(), StoreError> {
    let rows: Vec<_> = sessions.iter().collect();
    tx.put_sessions(device, rows.iter().map(|(id, bytes)| (*id, bytes.as_slice())), now)
}

/// What became of a copy that is to be encrypted.
enum Sealing {
    Sealed(Box<SealedMessage>),
    NeedsKey,
}

/// Why a copy isn't encrypted, or a message isn't opened.
#[derive(Debug, thiserror::Error)]
enum SessionError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Seal(#[from] SealError),
    #[error(transparent)]
    Open(#[from] OpenError),
}

/// With what a session is started, where there is none.
struct Start {
    keys: PreKeys,
    one_time: Option<[u8; 32]>,
}

/// Encrypts a copy and keeps it with its session.
fn seal_copy(
    tx: &Transaction,
    device: &DeviceKey,
    pair: &Pair,
    envelope: &Envelope,
    row: SealedCopyRow,
    start: Option<Start>,
    now: UnixTime,
) -> Result<Sealing, SessionError> {
    let mut sessions = stored_sessions(tx, device)?;
    if !sessions.can_send() {
        let Some(Start { keys, one_time }) = start else { return Ok(Sealing::NeedsKey) };
        let Some(account) = stored_account(tx)? else { return Ok(Sealing::NeedsKey) };
        sessions.start(&account, &keys, one_time, row.above)?;
    }
    let message = sessions.encrypt(pair, envelope)?;
    put_sessions(tx, device, &sessions, now)?;
    tx.put_sealed_copy(&envelope.id, device, &SealedCopyRow { message: Some(message.clone()), ..row })?;
    Ok(Sealing::Sealed(Box::new(message)))
}

/// Decrypts a message and keeps it with its session. Gives the fallback key's or the one-time key's use away in the second part.
fn open_message(
    tx: &Transaction,
    device: &DeviceKey,
    pair: &Pair,
    message: &SealedMessage,
    now: UnixTime,
) -> Result<(Envelope, bool), SessionError> {
    let mut sessions = stored_sessions(tx, device)?;
    let mut used_one_time = false;
    let envelope = if sessions.knows(&message.session) {
        sessions.open(pair, message)?
    } else {
        let account = stored_account(tx)?;
        let mut account = account.ok_or_else(|| OpenError::Unopened("this device's keys are gone".into()))?;
        let is_spent = tx.is_session_spent(&message.session)?;
        let opened = sessions.accept(&mut account, pair, message, |_| is_spent)?;
        if opened.by_fallback {
            tx.spend_session(&message.session, now)?;
        } else {
            used_one_time = true;
            put_account(tx, &account)?;
        }
        opened.envelope
    };
    put_sessions(tx, device, &sessions, now)?;
    tx.put_opened_message(device, &message.id, &wire::encode(&envelope), now)?;
    tx.forget_unopened(device, &message.id)?;
    Ok((envelope, used_one_time))
}

/// Takes back a copy whose message didn't open. `None`: that word is about nothing that is still sent. Else the copy as it waits now, and
/// whether it may be tried again at all.
fn take_back(
    tx: &Transaction,
    device: &DeviceKey,
    id: &MessageId,
    unopened: &Unopened,
    now: UnixTime,
) -> Result<Option<SealedCopyRow>, StoreError> {
    let Some(row) = tx.sealed_copy(id, device)? else { return Ok(None) };
    if row.message.as_ref().is_none_or(|message| message.session != unopened.session) {
        return Ok(None);
    }
    let mut sessions = stored_sessions(tx, device)?;
    sessions.give_up(&unopened.session);
    put_sessions(tx, device, &sessions, now)?;
    let attempts = row.attempts.saturating_add(1);
    let pause = match attempts.checked_sub(3) {
        None => 0,
        Some(times) => (ANEW_PAUSE_SECS << (times * 2).min(20)).min(ANEW_PAUSE_MAX_SECS),
    };
    let above = row.above.max(Some(unopened.generation));
    let row = SealedCopyRow { message: None, attempts, not_before: now.plus_secs(pause), above };
    tx.put_sealed_copy(id, device, &row)?;
    Ok(Some(row))
}

/// When a copy is encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    Now,
    Later,
    /// When the device's keys were looked up: those that are known didn't open a message.
    LookUp,
}

/// Other keys than those that failed are tried at once. The same ones are tried again after the pause, and a look-up that found no others: a device that was
/// set back publishes its keys of now some moments after it is heard of.
fn due(row: &SealedCopyRow, failed: Option<&FailedKeys>, keys: Option<&PreKeys>, can_send: bool, now: Now) -> Due {
    let is_new = failed.zip(keys).is_some_and(|(failed, keys)| *keys != failed.keys);
    if is_new {
        return Due::Now;
    }
    if row.not_before > now.unix {
        return Due::Later;
    }
    let is_old = |failed: &FailedKeys| now.instant.saturating_duration_since(failed.looked_up).as_secs() >= ANEW_PAUSE_SECS;
    match failed.filter(|failed| row.attempts > 1 && !can_send && is_old(failed)) {
        Some(_) => Due::LookUp,
        None => Due::Now,
    }
}

// Out.
impl EventLoop {
    /// What travels of a message to one device, and how often it was encrypted anew. `None` while it can't be encrypted: what it waits for sets the copy
    /// going again.
    pub(crate) fn copy_content(&mut self, user: &UserId, device: &DeviceKey, envelope: &Envelope) -> Option<(Content, u32)> {
        if envelope.may_go_plain() {
            return Some((Content::Plain(envelope.clone()), 0));
        }
        let now = self.now();
        let row = self.store.read::<_, StoreError>(|view| view.sealed_copy(&envelope.id, device));
        let row = row.inspect_err(|error| warn!(%error, "copy not read")).ok()?.unwrap_or_default();
        if let Some(message) = row.message {
            return Some((Content::Sealed(message), row.attempts));
        }
        if self.sessions.awaiting_entry.contains(device) {
            return None;
        }
        let sessions = self.store.read::<_, StoreError>(|view| stored_sessions(view, device));
        let can_send = sessions.inspect_err(|error| warn!(%error, "sessions not read")).ok()?.can_send();
        let keys = self.cached_device_entry(user, device)?.pre_keys;
        if !self.is_due(device, &envelope.id, &row, keys.as_ref(), can_send) {
            return None;
        }
        let Some(keys) = keys else {
            // An older version, which publishes no keys. Whoever once did isn't taken back to that.
            return (!can_send && row.attempts == 0).then(|| (Content::Plain(envelope.clone()), 0));
        };
        let identity = self.cached_identity(user)?;
        let hides = self.hides_from(user, envelope);
        let start =
            if can_send { None } else { Some(Start { keys, one_time: self.key_for(user, device, row.attempts, hides)? }) };
        let attempts = row.attempts;
        let pair = self.pair_to(user, &identity, device);
        let sealed = self.store.transaction(|tx| {
            tx.note_session_owner(device, &identity)?;
            seal_copy(tx, device, &pair, envelope, row.clone(), start, now.unix)
        });
        match sealed {
            Ok(Sealing::Sealed(message)) => {
                if !can_send {
                    self.sessions.fetches.remove(device);
                    debug!(%device, session = %message.session, attempts, "session started");
                }
                Some((Content::Sealed(*message), attempts))
            }
            Ok(Sealing::NeedsKey) => None,
            Err(error) => {
                warn!(%error, %device, "message not encrypted");
                None
            }
        }
    }

    /// Whether a copy may be encrypted now, with these keys of its device. If they have to be looked up first, that is begun.
    fn is_due(
        &mut self,
        device: &DeviceKey,
        id: &MessageId,
        row: &SealedCopyRow,
        keys: Option<&PreKeys>,
        can_send: bool,
    ) -> bool {
        let now = self.now();
        let failed = self.sessions.failed_keys.get_mut(device);
        let due = due(row, failed.as_deref(), keys, can_send, now);
        if let (Due::LookUp, Some(failed)) = (due, failed) {
            failed.looked_up = now.instant;
            self.await_entry(device, id);
        }
        due == Due::Now
    }

    fn pair_to(&self, user: &UserId, identity: &IdentityKey, device: &DeviceKey) -> Pair {
        let (me, my_identity) = (self.identity.user_id(), self.identity.identity());
        Pair::of((&me, &my_identity, &self.identity.device()), (user, identity, device))
    }

    fn pair_from(&self, sender: &VerifiedChain) -> Pair {
        let (me, my_identity) = (self.identity.user_id(), self.identity.identity());
        Pair::of((&sender.user.id, &sender.user.identity, &sender.device), (&me, &my_identity, &self.identity.device()))
    }

    /// What the outbox is told of a device's answer.
    pub(crate) fn copy_answered(&mut self, device: &DeviceKey, id: &MessageId, status: DeliveryStatus) -> DeliveryStatus {
        match status {
            DeliveryStatus::Unopened(unopened) => match self.encrypt_anew(device, id, &unopened) {
                Some(reason) => DeliveryStatus::Refused(reason),
                None => status,
            },
            DeliveryStatus::Unencrypted => {
                // Its entry says by now with which keys. If not, it is asked again by and by.
                if self.sessions.starts.take(device, START_RATE, Instant::now()).is_ok() {
                    self.await_entry(device, id);
                }
                status
            }
            DeliveryStatus::Accepted | DeliveryStatus::Duplicate | DeliveryStatus::Refused(_) => status,
        }
    }

    /// A device says that messages we left for it don't open.
    pub(crate) fn handle_messages_unopened(&mut self, peer: PeerId, notice: &MessagesUnopened) {
        let device = self.peers.get(&peer).filter(|known| known.chain.is_some()).map(|known| known.device);
        if let Some(device) = device {
            self.take_unopened(&device, notice);
        }
    }

    fn take_unopened(&mut self, device: &DeviceKey, notice: &MessagesUnopened) {
        for UnopenedMessage { id, unopened } in &notice.messages {
            if self.messages.outbox.item(id).is_none() {
                continue;
            }
            let status = self.copy_answered(device, id, DeliveryStatus::Unopened(*unopened));
            self.messages.outbox.handle_ack(device, id, status, Instant::now());
        }
        self.drive_outbox();
    }

    /// Retires the session of a copy that didn't open, so that the copy is encrypted in another one. A reason if that is over.
    fn encrypt_anew(&mut self, device: &DeviceKey, id: &MessageId, unopened: &Unopened) -> Option<Reason> {
        let now = self.now();
        let taken = self.store.transaction::<_, StoreError>(|tx| take_back(tx, device, id, unopened, now.unix));
        let row = match taken {
            Ok(Some(row)) => row,
            Ok(None) => {
                debug!(%device, message = %id.short(), "word about a session no longer used");
                return None;
            }
            Err(error) => {
                warn!(%error, "session not retired");
                return None;
            }
        };
        info!(%device, message = %id.short(), session = %unopened.session, attempts = row.attempts, "message didn't open: encrypted anew");
        if row.attempts > ATTEMPTS_MAX {
            return Some(Reason::UNDECRYPTABLE);
        }
        self.mailboxes_forget_left(id, device);
        if row.attempts > 1 {
            self.note_failed_keys(device, id, now.instant);
            self.await_entry(device, id);
        }
        self.messages.outbox.handle_renewed(device, id, now.instant);
        None
    }

    fn note_failed_keys(&mut self, device: &DeviceKey, id: &MessageId, now: Instant) {
        let user = self.messages.outbox.item(id).and_then(|item| item.user_of(device).cloned());
        let Some(keys) = user.and_then(|user| self.cached_device_entry(&user, device)?.pre_keys) else { return };
        if self.sessions.failed_keys.len() >= FETCHES_MAX {
            self.sessions.failed_keys.clear();
        }
        self.sessions.failed_keys.insert(*device, FailedKeys { keys, looked_up: now });
    }

    /// The device's entry as we have it is old: the copy waits for a new one.
    fn await_entry(&mut self, device: &DeviceKey, id: &MessageId) {
        let Some(user) = self.messages.outbox.item(id).and_then(|item| item.user_of(device).cloned()) else { return };
        if self.sessions.awaiting_entry.len() >= FETCHES_MAX {
            self.sessions.awaiting_entry.clear();
        }
        self.sessions.awaiting_entry.insert(*device);
        self.forget_cached(&user);
        self.resolve_user(&user, Waiter::Messages);
    }

    /// A look-up for the outbox has found a device.
    pub(crate) fn session_entry_found(&mut self, device: &DeviceKey) {
        if self.sessions.awaiting_entry.remove(device) {
            self.messages.outbox.handle_reachable(device, Instant::now());
        }
        self.tell_untold(device);
    }
}
