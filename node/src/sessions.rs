//! End-to-end sessions from the node's side: what turns a message into the bytes for one device, and bytes into a message.
//!
//! The database is where sessions live; nothing of them is kept in memory. A copy is encrypted in one transaction with the session it was encrypted in,
//! before anything is sent; the same bytes are sent from then on, whatever way and however often. A received message is decrypted in one
//! transaction with its session, which also keeps the decrypted message until it is dealt with; only then is it acknowledged. So a kill at
//! any moment loses nothing, and no key is used for two messages.
//!
//! What doesn't open is told to the sender, who encrypts the copy anew: the first time in a new session with the keys at hand, then with freshly looked-up
//! ones, each time later, and after [`ATTEMPTS_MAX`] times never again.

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
    Account, FALLBACK_KEY_SECS, KEYS_PER_BATCH_MAX, KeyFetch, KeyFetched, KeysStatus, MailboxKeyFetch, MailboxKeyFetched,
    MailboxKeys, MailboxKeysKept, MessagesUnopened, OneTimeKey, OpenError, Pair, PreKeys, SealError, SealedMessage, Sessions,
    UNOPENED_MAX, Unopened, UnopenedMessage,
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

/// The pause before a copy is encrypted anew from the third time on; doubled each time, up to [`ANEW_PAUSE_MAX_SECS`].
const ANEW_PAUSE_SECS: u64 = 30;
const ANEW_PAUSE_MAX_SECS: u64 = 3_600;

/// How long somebody has to answer who is asked for a one-time key. A message waits for it.
const KEY_TIMEOUT: Duration = Duration::from_secs(3);

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

/// What is in memory: public keys, and what may be lost.
#[derive(Debug)]
pub(crate) struct SessionsState {
    keys: PreKeys,
    fetches: HashMap<DeviceKey, Fetch>,
    /// Devices whose entries are looked up anew before a session is started.
    awaiting_entry: BTreeSet<DeviceKey>,
    done: Vec<(DeviceKey, MessageId)>,
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
            awaiting_entry: BTreeSet::new(),
            done: Vec::new(),
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
    sessions.retire(&unopened.session);
    if row.attempts > 0 {
        // Nothing that both ends know seems to be left.
        sessions.retire_all();
    }
    put_sessions(tx, device, &sessions, now)?;
    let attempts = row.attempts.saturating_add(1);
    let pause = match attempts.checked_sub(3) {
        None => 0,
        Some(times) => (ANEW_PAUSE_SECS << times.min(10)).min(ANEW_PAUSE_MAX_SECS),
    };
    let above = row.above.max(Some(unopened.generation));
    let row = SealedCopyRow { message: None, attempts, not_before: now.plus_secs(pause), above };
    tx.put_sealed_copy(id, device, &row)?;
    Ok(Some(row))
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
        let look = |view: &View| Ok((view.sealed_copy(&envelope.id, device)?, stored_sessions(view, device)?.can_send()));
        let (row, can_send) = self.store.read::<_, StoreError>(look).inspect_err(|error| warn!(%error, "copy not read")).ok()?;
        let row = row.unwrap_or_default();
        if let Some(message) = row.message {
            return Some((Content::Sealed(message), row.attempts));
        }
        if row.not_before > now.unix || self.sessions.awaiting_entry.contains(device) {
            return None;
        }
        let keys = self.cached_device_entry(user, device)?.pre_keys;
        let Some(keys) = keys else {
            // An older version, which publishes no keys. Whoever once did isn't taken back to that.
            return (!can_send && row.attempts == 0).then(|| (Content::Plain(envelope.clone()), 0));
        };
        let identity = self.cached_identity(user)?;
        let start = if can_send { None } else { Some(Start { keys, one_time: self.key_for(user, device, row.attempts)? }) };
        let attempts = row.attempts;
        let pair = self.pair_to(user, &identity, device);
        let sealed =
            self.store.transaction(|tx| seal_copy(tx, device, &pair, envelope, row.clone(), start, now.unix));
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

    fn pair_to(&self, user: &UserId, identity: &IdentityKey, device: &DeviceKey) -> Pair {
        let (me, my_identity) = (self.identity.user_id(), self.identity.identity());
        Pair::of((&me, &my_identity, &self.identity.device()), (user, identity, device))
    }

    fn pair_from(&self, sender: &VerifiedChain) -> Pair {
        let (me, my_identity) = (self.identity.user_id(), self.identity.identity());
        Pair::of((&sender.user.id, &sender.user.identity, &sender.device), (&me, &my_identity, &self.identity.device()))
    }

    /// The one-time key for a new session, `Some(None)` for the fallback key; `None` while it is being fetched.
    #[allow(clippy::option_option, reason = "not known yet, and known to be none")]
    fn key_for(&mut self, user: &UserId, device: &DeviceKey, attempts: u32) -> Option<Option<[u8; 32]>> {
        match self.sessions.fetches.get(device) {
            Some(Fetch::Asking) => return None,
            Some(Fetch::Fetched(key, _)) => return Some(*key),
            None => {}
        }
        let rate = if self.settings.lab { LAB_RATE } else { START_RATE };
        if self.sessions.starts.take(device, rate, Instant::now()).is_err() {
            debug!(%device, "too many sessions started");
            return None;
        }
        // One that didn't open may have been started with a key that the device has lost; the fallback key it has.
        if attempts > 0 || self.sessions.fetches.len() >= FETCHES_MAX || !self.ask_for_key(user, device) {
            return Some(None);
        }
        None
    }

    /// Asks the device if it is connected, else its first mailbox, else the device. False if there is nobody to ask.
    fn ask_for_key(&mut self, user: &UserId, device: &DeviceKey) -> bool {
        let peer = address::peer_id(device).filter(|peer| self.peers.get(peer).is_some_and(|known| known.chain.is_some()));
        if let Some(peer) = peer {
            self.sessions.fetches.insert(*device, Fetch::Asking);
            self.ask_device_for_key(user, device, &Target::connected(peer));
            return true;
        }
        if self.ask_mailbox_for_key(user, device) {
            return true;
        }
        let Some(target) = self.cached_target(user, device) else { return false };
        self.sessions.fetches.insert(*device, Fetch::Asking);
        self.ask_device_for_key(user, device, &target);
        true
    }

    fn ask_device_for_key(&mut self, user: &UserId, device: &DeviceKey, target: &Target) {
        let fetching = Fetching { user: user.clone(), device: *device, by_mailbox: false };
        self.request(target, &KeyFetch::default(), Purpose::KeyFetch(fetching), KEY_TIMEOUT);
    }

    fn ask_mailbox_for_key(&mut self, user: &UserId, device: &DeviceKey) -> bool {
        let mailbox = self.cached_device_entry(user, device).and_then(|entry| entry.mailboxes.first().cloned());
        let Some(mailbox) = mailbox.filter(|mailbox| mailbox.device != self.identity.device()) else { return false };
        let Some(target) = self.strange_helper_target(&mailbox) else { return false };
        let mut request = MailboxKeyFetch { device: *device, admission: None, extensions: Extensions::none() };
        request.admission = self.mailbox_admission(user, device, request.request_hash(), mailbox.device);
        self.sessions.fetches.insert(*device, Fetch::Asking);
        let fetching = Fetching { user: user.clone(), device: *device, by_mailbox: true };
        self.request(&target, &request, Purpose::KeyFetch(fetching), KEY_TIMEOUT);
        true
    }

    pub(crate) fn key_answer(&mut self, fetching: Fetching, frame: &Frame) {
        let key = if fetching.by_mailbox {
            frame.parse::<MailboxKeyFetched>().map(|answer| answer.key)
        } else {
            frame.parse::<KeyFetched>().map(|answer| answer.key)
        };
        match key {
            Ok(key) => self.key_fetched(&fetching, key),
            Err(_) => {
                self.counters.malformed += 1;
                self.key_fetched(&fetching, None);
            }
        }
    }

    pub(crate) fn key_failure(&mut self, fetching: Fetching, failure: Failure) {
        debug!(%failure, device = %fetching.device, by_mailbox = fetching.by_mailbox, "no one-time key");
        if fetching.by_mailbox || !self.ask_mailbox_for_key(&fetching.user, &fetching.device) {
            self.key_fetched(&fetching, None);
        }
    }

    /// A key has come, or none will: what waits for the device is encrypted.
    fn key_fetched(&mut self, fetching: &Fetching, key: Option<Signed<OneTimeKey>>) {
        let device = fetching.device;
        let key = key.and_then(|key| {
            let is_good = key.unverified().device == device && key.verify(&device.0).is_ok();
            if !is_good {
                self.counters.malformed += 1;
            }
            is_good.then(|| key.unverified().key)
        });
        let now = Instant::now();
        self.sessions.fetches.insert(device, Fetch::Fetched(key, now));
        self.messages.outbox.handle_reachable(&device, now);
        self.drive_outbox();
    }

    /// What the outbox is told of a device's answer.
    pub(crate) fn copy_answered(&mut self, device: &DeviceKey, id: &MessageId, status: DeliveryStatus) -> DeliveryStatus {
        match status {
            DeliveryStatus::Unopened(unopened) => match self.encrypt_anew(device, id, &unopened) {
                Some(reason) => DeliveryStatus::Refused(reason),
                None => status,
            },
            DeliveryStatus::Unencrypted => {
                // Its entry says by now with which keys.
                self.await_entry(device, id);
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
            self.await_entry(device, id);
        } else {
            self.messages.outbox.handle_reachable(device, now.instant);
        }
        None
    }

    /// The device's entry as we have it is old: the copy waits for a new one.
    fn await_entry(&mut self, device: &DeviceKey, id: &MessageId) {
        let Some(user) = self.recipient_of(id, device) else { return };
        if self.sessions.awaiting_entry.len() >= FETCHES_MAX {
            self.sessions.awaiting_entry.clear();
        }
        self.sessions.awaiting_entry.insert(*device);
        self.forget_cached(&user);
        self.resolve_user(&user, Waiter::Messages);
    }

    fn recipient_of(&self, id: &MessageId, _device: &DeviceKey) -> Option<UserId> {
        self.messages.outbox.item(id).map(|item| item.to.clone())
    }

    /// A look-up for the outbox has found a device.
    pub(crate) fn session_entry_found(&mut self, device: &DeviceKey) {
        if self.sessions.awaiting_entry.remove(device) {
            self.messages.outbox.handle_reachable(device, Instant::now());
        }
    }
}

// In.
impl EventLoop {
    /// Takes what came from a device whose chain was believed, whatever way it came. Its lengths were checked.
    pub(crate) fn take_content(
        &mut self,
        sender: &VerifiedChain,
        certificate: &Signed<DeviceCertificate>,
        content: Content,
    ) -> DeliveryStatus {
        match content {
            // Whoever publishes keys has them used.
            Content::Plain(envelope) if self.settings.publishes && !envelope.may_go_plain() => {
                debug!(sender = %sender.device, "unencrypted message refused");
                DeliveryStatus::Unencrypted
            }
            Content::Plain(envelope) => self.keep_message(sender, certificate, envelope),
            Content::Sealed(message) => self.take_sealed(sender, certificate, &message),
            Content::Unopened(notice) => {
                self.take_unopened(&sender.device, &notice);
                DeliveryStatus::Accepted
            }
        }
    }

    fn take_sealed(
        &mut self,
        sender: &VerifiedChain,
        certificate: &Signed<DeviceCertificate>,
        message: &SealedMessage,
    ) -> DeliveryStatus {
        let (device, id) = (sender.device, message.id);
        let known = self
            .store
            .read::<_, StoreError>(|view| Ok((view.has_seen(&device, &id)?, view.opened_message(&device, &id)?)));
        let envelope = match known {
            Ok((true, _)) => return DeliveryStatus::Duplicate,
            // Decrypted before, and not dealt with: it opens no second time.
            Ok((false, Some(bytes))) => wire::decode::<Envelope>(&bytes, halloo_protocol::session::PLAIN_BYTES_MAX).ok(),
            Ok((false, None)) => None,
            Err(error) => {
                warn!(%error, "messages not read");
                return DeliveryStatus::Refused(Reason::TOO_MANY);
            }
        };
        let envelope = match envelope.map_or_else(|| self.open_sealed(sender, message), Ok) {
            Ok(envelope) => envelope,
            Err(status) => return status,
        };
        let status = self.keep_message(sender, certificate, envelope);
        if matches!(status, DeliveryStatus::Accepted | DeliveryStatus::Duplicate) {
            self.sessions.done.push((device, id));
            if self.sessions.done.len() >= DONE_MAX {
                self.finish_opened();
            }
        }
        status
    }

    /// Decrypts; the message is on disk then. A status to answer with if it isn't.
    fn open_sealed(&mut self, sender: &VerifiedChain, message: &SealedMessage) -> Result<Envelope, DeliveryStatus> {
        if !self.admit_sealed(sender, message) {
            self.counters.rate_limited += 1;
            return Err(DeliveryStatus::Refused(Reason::TOO_MANY));
        }
        let now = self.now().unix;
        let pair = self.pair_from(sender);
        let opened = self.store.transaction(|tx| open_message(tx, &sender.device, &pair, message, now));
        match opened {
            Ok((envelope, used_one_time)) => {
                self.sessions.used_keys = self.sessions.used_keys.saturating_add(u32::from(used_one_time));
                Ok(envelope)
            }
            Err(SessionError::Open(OpenError::Unopened(why))) => Err(self.tell_unopened(sender, message, &why)),
            Err(SessionError::Open(error)) => {
                debug!(%error, sender = %sender.device, "message refused");
                self.counters.malformed += 1;
                Err(DeliveryStatus::Refused(Reason::INVALID))
            }
            Err(error) => {
                warn!(%error, "message not decrypted");
                Err(DeliveryStatus::Refused(Reason::TOO_MANY))
            }
        }
    }

    fn admit_sealed(&mut self, sender: &VerifiedChain, message: &SealedMessage) -> bool {
        let is_stranger = !matches!(self.relation(&sender.user), Relation::Own | Relation::Contact);
        let now = Instant::now();
        let lab = self.settings.lab;
        let rate = |rate| if lab { LAB_RATE } else { rate };
        let identity = sender.user.identity.0;
        if is_stranger && self.sessions.strangers.take(&identity, rate(STRANGER_RATE), now).is_err() {
            return false;
        }
        let is_known = self.store.read::<_, StoreError>(|view| Ok(stored_sessions(view, &sender.device)?.knows(&message.session)));
        is_known.unwrap_or(false) || self.sessions.accepts.take(&identity, rate(ACCEPT_RATE), now).is_ok()
    }

    fn tell_unopened(&mut self, sender: &VerifiedChain, message: &SealedMessage, why: &str) -> DeliveryStatus {
        let now = self.now();
        let user = wire::encode(&sender.user.id);
        let noted = self.store.transaction::<_, StoreError>(|tx| {
            let is_new = tx.note_unopened(&sender.device, &message.id, &user, now.unix)?;
            Ok((is_new, stored_sessions(tx, &sender.device)?.unopened(message)))
        });
        info!(sender = %sender.device, message = %message.id.short(), session = %message.session, why, "a message doesn't open");
        match noted {
            Ok((is_new, unopened)) => {
                if is_new && self.sessions.warnings.take(&sender.user.identity.0, WARN_RATE, now.instant).is_ok() {
                    let name = self.labels.display(&sender.user.id);
                    let detail = format!("a message from {name} can't be decrypted here; it is asked for again");
                    self.events.send(Event::Warning { code: "message-undecryptable".into(), detail });
                }
                DeliveryStatus::Unopened(unopened)
            }
            Err(error) => {
                warn!(%error, "messages not read");
                DeliveryStatus::Refused(Reason::TOO_MANY)
            }
        }
    }

    /// Forgets decrypted messages that were dealt with.
    fn finish_opened(&mut self) {
        let done = std::mem::take(&mut self.sessions.done);
        let now = self.now().unix;
        let finished = self.store.transaction::<_, StoreError>(|tx| {
            done.iter().try_for_each(|(device, id)| tx.finish_opened_message(device, id, now))
        });
        if let Err(error) = finished {
            warn!(%error, "decrypted messages not forgotten");
        }
    }

    /// Tells senders which of their letters don't open: those who are connected or can be reached.
    pub(crate) fn tell_letters_unopened(&mut self, unopened: Vec<(UserId, DeviceKey, UnopenedMessage)>) {
        let mut by_device: HashMap<DeviceKey, (UserId, Vec<UnopenedMessage>)> = HashMap::new();
        for (user, device, message) in unopened {
            by_device.entry(device).or_insert_with(|| (user, Vec::new())).1.push(message);
        }
        for (device, (user, messages)) in by_device {
            for messages in messages.chunks(UNOPENED_MAX) {
                let notice = MessagesUnopened { messages: messages.to_vec(), extensions: Extensions::none() };
                let connected = address::peer_id(&device).filter(|peer| self.peers.get(peer).is_some());
                match connected.map(Target::connected) {
                    Some(target) => self.notify(&target, &notice),
                    None => self.leave_unopened(&user, &device, notice),
                }
            }
        }
    }

    fn leave_unopened(&mut self, user: &UserId, device: &DeviceKey, notice: MessagesUnopened) {
        if let Some(target) = self.cached_target(user, device) {
            self.notify(&target, &notice);
        }
        let until = self.now().unix.plus_secs(halloo_protocol::mailbox::LETTER_SECS_MAX);
        let id = MessageId::random(&mut self.rng);
        self.leave_content(user, device, id, 0, &Content::Unopened(notice), until);
    }
}

// Keys.
impl EventLoop {
    /// Somebody wants a one-time key of this device. It is on disk when this returns.
    pub(crate) fn handle_key_fetch(&mut self, chain: Option<&VerifiedChain>) -> KeyFetched {
        let key = chain.filter(|chain| self.may_have_key(chain)).and_then(|_| self.issue_keys(1, None)).and_then(|mut keys| keys.pop());
        KeyFetched { key, extensions: Extensions::none() }
    }

    fn may_have_key(&mut self, chain: &VerifiedChain) -> bool {
        let is_known = matches!(self.relation(&chain.user), Relation::Own | Relation::Contact);
        let rate = if self.settings.lab { LAB_RATE } else { KEY_RATE };
        (is_known || self.decide(&chain.user, Kind::Message).is_allowed)
            && self.sessions.askers.take(&chain.user.identity.0, rate, Instant::now()).is_ok()
    }

    /// Makes one-time keys, those of a batch for the mailbox or others.
    fn issue_keys(&mut self, count: usize, batch: Option<u64>) -> Option<Vec<Signed<OneTimeKey>>> {
        let now = self.now().unix;
        let issued = self.store.transaction::<_, StoreError>(|tx| {
            let Some(mut account) = stored_account(tx)? else { return Ok(Vec::new()) };
            let keys = account.issue(count, self.identity.device_key(), now);
            put_account(tx, &account)?;
            if let Some(batch) = batch {
                tx.put_setting_value(KEY_BATCH, &batch)?;
            }
            Ok(keys)
        });
        issued.inspect_err(|error| warn!(%error, "one-time keys not made")).ok()
    }

    /// Looks whether the first mailbox has one-time keys left.
    fn check_mailbox_keys(&mut self, now: Instant) {
        let first = self.mailbox_helpers().into_iter().next();
        let Some(helper) = first else { return };
        let is_due = self.sessions.keys_check_at <= now || self.sessions.used_keys >= KEYS_LOW;
        let is_other = self.sessions.keys_at != Some(helper.device);
        if self.sessions.is_checking || !(is_due || is_other) {
            return;
        }
        (self.sessions.keys_at, self.sessions.is_checking, self.sessions.used_keys) = (Some(helper.device), true, 0);
        self.sessions.keys_check_at = now + KEYS_CHECK_EVERY;
        self.send_mailbox_keys(helper.device, 0, Vec::new());
    }

    fn send_mailbox_keys(&mut self, mailbox: DeviceKey, batch: u64, keys: Vec<Signed<OneTimeKey>>) {
        let helper = self.mailbox_helpers().into_iter().find(|helper| helper.device == mailbox);
        let Some(target) = helper.and_then(|helper| self.mailbox_target(&helper)) else {
            self.sessions.is_checking = false;
            return;
        };
        let request = MailboxKeys { batch, keys, extensions: Extensions::none() };
        self.request(&target, &request, Purpose::MailboxKeys(mailbox), KEY_TIMEOUT * 3);
    }

    pub(crate) fn mailbox_keys_answer(&mut self, mailbox: DeviceKey, frame: &Frame) {
        let status = frame.parse::<MailboxKeysKept>().map(|answer| answer.status);
        let known: u64 = self.store.read::<_, StoreError>(|view| view.setting_value(KEY_BATCH)).ok().flatten().unwrap_or(0);
        match status {
            Ok(KeysStatus::Kept { batch, left }) if batch != 0 && batch == known && left >= KEYS_LOW => {
                self.sessions.is_checking = false;
            }
            Ok(KeysStatus::Kept { .. }) => {
                // Used up, or of another time: of a device set back to a backup, say.
                let batch = u64::from_be_bytes(self.random()).max(1);
                match self.issue_keys(KEYS_PER_BATCH_MAX, Some(batch)) {
                    Some(keys) if !keys.is_empty() => self.send_mailbox_keys(mailbox, batch, keys),
                    _ => self.mailbox_keys_failure(mailbox, Failure::Overloaded),
                }
            }
            Ok(KeysStatus::Refused(reason)) => {
                debug!(%mailbox, %reason, "one-time keys refused");
                self.mailbox_keys_failure(mailbox, Failure::Busy);
            }
            Err(_) => {
                self.counters.malformed += 1;
                self.mailbox_keys_failure(mailbox, Failure::Unsupported);
            }
        }
    }

    pub(crate) fn mailbox_keys_failure(&mut self, mailbox: DeviceKey, failure: Failure) {
        debug!(%mailbox, %failure, "one-time keys not left");
        self.sessions.is_checking = false;
        self.sessions.keys_check_at = Instant::now() + KEYS_RETRY;
    }

    /// The weekly change of the fallback key.
    pub(crate) fn change_session_keys(&mut self, now: UnixTime) {
        let maintained = self.store.transaction::<_, StoreError>(|tx| {
            tx.forget_spent_before(now.minus_secs(SPENT_SECS), TIDY_MAX)?;
            let Some(mut account) = stored_account(tx)? else { return Ok(None) };
            if account.maintain(now) {
                put_account(tx, &account)?;
            }
            Ok(Some(account.keys()))
        });
        match maintained {
            Ok(Some(keys)) if keys != self.sessions.keys => {
                info!("fallback key for messages changed");
                self.sessions.keys = keys;
                self.publish_soon();
            }
            Ok(_) => {}
            Err(error) => warn!(%error, "keys for sessions not seen to"),
        }
    }

    /// This device was set back to a backup: what it sent in its sessions since isn't known here. It sends in new ones, and hands out new keys.
    pub(crate) fn sessions_restored(&mut self) {
        let now = self.now();
        let retired = self.store.transaction::<_, StoreError>(|tx| {
            for device in tx.session_devices()? {
                let mut sessions = stored_sessions(tx, &device)?;
                sessions.retire_all();
                put_sessions(tx, &device, &sessions, now.unix)?;
            }
            tx.remove_setting(KEY_BATCH)
        });
        if let Err(error) = retired {
            warn!(%error, "sessions not retired");
        }
        self.sessions.keys_check_at = now.instant;
    }

    /// A device was removed by its user: nothing is encrypted for it, or read of it, any more.
    pub(crate) fn sessions_forget_device(&mut self, device: &DeviceKey) {
        self.sessions.fetches.remove(device);
        if let Err(error) = self.store.transaction::<_, StoreError>(|tx| tx.remove_sessions(device)) {
            warn!(%error, "sessions with a removed device not forgotten");
        }
    }

    pub(crate) fn sessions_tick(&mut self, now: Now) {
        if !self.sessions.done.is_empty() {
            self.finish_opened();
        }
        if self.settings.publishes {
            self.check_mailbox_keys(now.instant);
        }
        if self.sessions.tidy_at <= now.instant {
            self.sessions.tidy_at = now.instant + TIDY_EVERY;
            self.tidy_sessions(now);
        }
    }

    fn tidy_sessions(&mut self, now: Now) {
        let is_fresh = |fetch: &Fetch| match fetch {
            Fetch::Asking => true,
            Fetch::Fetched(_, at) => now.instant.saturating_duration_since(*at).as_secs() < FETCHED_SECS,
        };
        self.sessions.fetches.retain(|_, fetch| is_fresh(fetch));
        let before = now.unix.minus_secs(LOST_AFTER_SECS);
        let lost = self.store.transaction::<_, StoreError>(|tx| tx.take_unopened_before(before, TIDY_MAX));
        let lost = lost.inspect_err(|error| warn!(%error, "lost messages not told")).unwrap_or_default();
        let users: BTreeSet<Vec<u8>> = lost.into_iter().collect();
        for user in users.iter().filter_map(|bytes| wire::decode::<UserId>(bytes, 1_024).ok()) {
            let name = self.labels.display(&user);
            let detail = format!("messages from {name} couldn't be decrypted and didn't come again: ask them");
            self.events.send(Event::Warning { code: "message-lost".into(), detail });
        }
    }
}
