//! The mailbox role: keeps letters for devices that chose this node, until they fetch them.
//!
//! Boxes and letters are in the database before they are acknowledged. Who may leave how much is decided in `halloo_protocol::mailbox`;
//! here are the database, the clock, and the word to a connected owner that something waits.

use std::time::{Duration, Instant};

use halloo_protocol::identity::VerifiedChain;
use halloo_protocol::key::{DeviceKey, PublicKey};
use halloo_protocol::mailbox::{
    Account, ITEMS_BYTES_MAX, MailboxItem, MailboxItems, MailboxKept, MailboxNews, MailboxOpen, MailboxOpened, MailboxPolicy,
    MailboxPut, MailboxRates, MailboxReason, MailboxTake, OpenStatus, PutGrant, PutRefusal, PutStatus, decide_key_fetch,
    decide_open, decide_put,
};
use halloo_protocol::rate::{Rate, RateLimiter};
use halloo_protocol::session::{KeysStatus, MailboxKeyFetch, MailboxKeyFetched, MailboxKeys, MailboxKeysKept, OneTimeKey};
use halloo_protocol::time::{Now, UnixTime};
use halloo_protocol::wire::{Extensions, Signed};
use libp2p::PeerId;
use tracing::{debug, warn};

use crate::address;
use crate::event_loop::EventLoop;
use crate::network::Target;
use crate::store::{LetterRow, StoreError};

/// Boxes, and bytes of letters in all of them: what a small machine's disk bears.
const POLICY: MailboxPolicy = MailboxPolicy { accounts_max: 100_000, bytes_max: 4 * 1024 * 1024 * 1024 };

/// Openings of one user's devices, which come daily and after restarts; each costs a commit.
const OPEN_RATE: Rate = Rate { per_hour: 120, burst: 60 };

/// Fetches of one device; each may cost a commit.
const TAKE_RATE: Rate = Rate { per_hour: 6_000, burst: 600 };

/// Keys whose rates are remembered.
const RATES_MAX: usize = 65_536;

/// How often boxes and letters whose time is over are looked for, how many boxes each time, and how many letters of each.
const PURGE_EVERY: Duration = Duration::from_secs(60);
const PURGE_BOXES: usize = 64;
const PURGE_LETTERS: usize = 64;

/// The role's state; boxes and letters are in the store.
#[derive(Debug)]
pub(crate) struct Mailbox {
    rates: MailboxRates,
    opening: RateLimiter<PublicKey>,
    taking: RateLimiter<DeviceKey>,
    purge_at: Instant,
    purged_to: Option<DeviceKey>,
}

impl EventLoop {
    /// Opens the role.
    pub(crate) fn open_mailbox_role(&mut self) {
        self.vault_keeper = Some(super::vault::VaultKeeper::new(Instant::now()));
        self.mailbox = Some(Mailbox {
            rates: MailboxRates::new(RATES_MAX),
            opening: RateLimiter::new(RATES_MAX),
            taking: RateLimiter::new(RATES_MAX),
            purge_at: Instant::now() + PURGE_EVERY,
            purged_to: None,
        });
    }

    /// A device wants a box.
    pub(crate) fn handle_mailbox_open(&mut self, chain: Option<&VerifiedChain>, request: &MailboxOpen) -> MailboxOpened {
        let status = self.open_box(chain, request).unwrap_or_else(OpenStatus::Refused);
        MailboxOpened { status, extensions: Extensions::none() }
    }

    fn open_box(&mut self, chain: Option<&VerifiedChain>, request: &MailboxOpen) -> Result<OpenStatus, MailboxReason> {
        let now = self.now();
        let mailbox = self.mailbox.as_mut().ok_or(MailboxReason::NOT_SERVED)?;
        let chain = chain.ok_or(MailboxReason::NOT_CERTIFIED)?;
        let taken = mailbox.opening.take(&chain.user.identity.0, OPEN_RATE, now.instant);
        taken.map_err(|_| MailboxReason::RATE)?;
        let known = |view: &crate::store::View| Ok((view.mailbox_account(&chain.device)?, view.mailbox_account_count()?));
        let (known, count) = self.store.read::<_, StoreError>(known).map_err(failed)?;
        let account = decide_open(request, chain, known.as_ref(), count, &POLICY, now.unix).map_err(|refusal| {
            debug!(%refusal, "box refused");
            refusal.reason()
        })?;
        let waiting = self.store.transaction::<_, StoreError>(|tx| {
            tx.put_mailbox_account(&account)?;
            tx.mailbox_waiting(&chain.device)
        });
        Ok(OpenStatus::Opened { until: account.expires_at, waiting: waiting.map_err(failed)? })
    }

    /// Somebody leaves a letter.
    pub(crate) fn handle_mailbox_put(
        &mut self,
        peer: PeerId,
        chain: Option<&VerifiedChain>,
        request: &MailboxPut,
    ) -> MailboxKept {
        let status = self.put_letter(peer, chain, request).unwrap_or_else(PutStatus::Refused);
        if matches!(status, PutStatus::Kept { .. }) {
            self.tell_of_letter(&request.recipient);
        }
        MailboxKept { status, extensions: Extensions::none() }
    }

    fn put_letter(
        &mut self,
        peer: PeerId,
        chain: Option<&VerifiedChain>,
        request: &MailboxPut,
    ) -> Result<PutStatus, MailboxReason> {
        let now = self.now();
        let me = self.identity.device();
        let sender = self.peers.get(&peer).map(|known| known.device);
        let mailbox = self.mailbox.as_mut().ok_or(MailboxReason::NOT_SERVED)?;
        let sender = sender.ok_or(MailboxReason::NOT_CERTIFIED)?;
        mailbox.rates.take_sender(&sender, now.instant).map_err(|_| MailboxReason::RATE)?;
        let account = self.store.read::<_, StoreError>(|view| view.mailbox_account(&request.recipient)).map_err(failed)?;
        let refused = |refusal: PutRefusal| {
            debug!(%refusal, "letter refused");
            refusal.reason()
        };
        let grant = decide_put(request, account.as_ref(), chain, &me, &mut mailbox.rates, now).map_err(refused)?;
        let kept = self.store.transaction(|tx| keep_letter(tx, request, &grant, now.unix));
        kept.map_err(|error| match error {
            KeepError::Refused(refusal) => refused(refusal),
            KeepError::Store(error) => failed(error),
        })
    }

    /// Tells the owner of a box, if connected, that something waits.
    fn tell_of_letter(&mut self, device: &DeviceKey) {
        let Some(peer) = address::peer_id(device).filter(|peer| self.peers.get(peer).is_some()) else { return };
        self.notify(&Target::connected(peer), &MailboxNews::default());
    }

    /// A device fetches, and says what it has.
    pub(crate) fn handle_mailbox_take(&mut self, chain: Option<&VerifiedChain>, request: &MailboxTake) -> MailboxItems {
        let none =
            |reason| MailboxItems { items: Vec::new(), has_more: false, refused: Some(reason), extensions: Extensions::none() };
        self.take_letters(chain, request).unwrap_or_else(none)
    }

    fn take_letters(&mut self, chain: Option<&VerifiedChain>, request: &MailboxTake) -> Result<MailboxItems, MailboxReason> {
        let now = self.now();
        let mailbox = self.mailbox.as_mut().ok_or(MailboxReason::NOT_SERVED)?;
        let device = chain.ok_or(MailboxReason::NOT_CERTIFIED)?.device;
        mailbox.taking.take(&device, TAKE_RATE, now.instant).map_err(|_| MailboxReason::RATE)?;
        let has_box = self.store.read::<_, StoreError>(|view| Ok(view.mailbox_account(&device)?.is_some())).map_err(failed)?;
        if !has_box {
            return Err(MailboxReason::NO_BOX);
        }
        if !request.done.is_empty() {
            let struck = self.store.transaction::<_, StoreError>(|tx| {
                request.done.iter().try_for_each(|number| tx.remove_letter(&device, *number).map(|_| ()))
            });
            struck.map_err(failed)?;
        }
        let letters = self.store.read::<_, StoreError>(|view| view.letters(&device, request.after, ITEMS_BYTES_MAX));
        let (letters, has_more) = letters.map_err(failed)?;
        let current = letters.into_iter().filter(|(_, row)| row.until > now.unix);
        let items = current.map(|(number, row)| MailboxItem { number, kept_at: row.kept_at, letter: row.letter }).collect();
        Ok(MailboxItems { items, has_more, refused: None, extensions: Extensions::none() })
    }

    /// A device leaves one-time keys to hand out, or asks how many are left.
    pub(crate) fn handle_mailbox_keys(&mut self, chain: Option<&VerifiedChain>, request: &MailboxKeys) -> MailboxKeysKept {
        let status = self.keep_keys(chain, request).unwrap_or_else(KeysStatus::Refused);
        MailboxKeysKept { status, extensions: Extensions::none() }
    }

    fn keep_keys(&mut self, chain: Option<&VerifiedChain>, request: &MailboxKeys) -> Result<KeysStatus, MailboxReason> {
        let now = self.now();
        let mailbox = self.mailbox.as_mut().ok_or(MailboxReason::NOT_SERVED)?;
        let chain = chain.ok_or(MailboxReason::NOT_CERTIFIED)?;
        let device = chain.device;
        let taken = mailbox.opening.take(&chain.user.identity.0, OPEN_RATE, now.instant);
        taken.map_err(|_| MailboxReason::RATE)?;
        let has_box = self.store.read::<_, StoreError>(|view| Ok(view.mailbox_account(&device)?.is_some())).map_err(failed)?;
        if !has_box {
            return Err(MailboxReason::NO_BOX);
        }
        let is_own = |key: &Signed<OneTimeKey>| key.unverified().device == device && key.verify(&device.0).is_ok();
        if !request.keys.iter().all(is_own) {
            return Err(MailboxReason::INVALID);
        }
        let kept = self.store.transaction::<_, StoreError>(|tx| {
            if !request.keys.is_empty() {
                tx.put_mailbox_keys(&device, request.batch, &request.keys)?;
            }
            tx.mailbox_keys(&device)
        });
        let (batch, left) = kept.map_err(failed)?;
        Ok(KeysStatus::Kept { batch, left })
    }

    /// Somebody wants to start a session with a device that has a box here. The key is gone from the disk when this returns.
    pub(crate) fn handle_mailbox_key_fetch(
        &mut self,
        peer: PeerId,
        chain: Option<&VerifiedChain>,
        request: &MailboxKeyFetch,
    ) -> MailboxKeyFetched {
        let (key, refused) = match self.hand_out_key(peer, chain, request) {
            Ok(key) => (key, None),
            Err(reason) => (None, Some(reason)),
        };
        MailboxKeyFetched { key, refused, extensions: Extensions::none() }
    }

    fn hand_out_key(
        &mut self,
        peer: PeerId,
        chain: Option<&VerifiedChain>,
        request: &MailboxKeyFetch,
    ) -> Result<Option<Signed<OneTimeKey>>, MailboxReason> {
        let now = self.now();
        let me = self.identity.device();
        let sender = self.peers.get(&peer).map(|known| known.device);
        let mailbox = self.mailbox.as_mut().ok_or(MailboxReason::NOT_SERVED)?;
        let sender = sender.ok_or(MailboxReason::NOT_CERTIFIED)?;
        mailbox.rates.take_sender(&sender, now.instant).map_err(|_| MailboxReason::RATE)?;
        let account = self.store.read::<_, StoreError>(|view| view.mailbox_account(&request.device)).map_err(failed)?;
        decide_key_fetch(request, account.as_ref(), chain, &me, &mut mailbox.rates, now).map_err(|refusal| {
            debug!(%refusal, "no one-time key given");
            refusal.reason()
        })?;
        self.store.transaction::<_, StoreError>(|tx| tx.take_mailbox_key(&request.device)).map_err(failed)
    }

    /// How many letters wait here for others.
    pub(crate) fn letters_kept(&self) -> u32 {
        let count = self.store.read::<_, StoreError>(|view| view.letters_kept());
        count.inspect_err(|error| warn!(%error, "letters not counted")).unwrap_or_default()
    }

    /// Throws away what is over, some boxes at a time.
    pub(crate) fn mailbox_tick(&mut self, now: Now) {
        let Some(mailbox) = self.mailbox.as_mut().filter(|mailbox| mailbox.purge_at <= now.instant) else { return };
        mailbox.purge_at = now.instant + PURGE_EVERY;
        let from = mailbox.purged_to.take();
        let boxes = self.store.read::<_, StoreError>(|view| view.mailbox_accounts_after(from.as_ref(), PURGE_BOXES));
        let boxes = match boxes {
            Ok(boxes) => boxes,
            Err(error) => return warn!(%error, "boxes not read"),
        };
        if boxes.len() >= PURGE_BOXES {
            mailbox.purged_to = boxes.last().map(|account| account.rules.device);
        }
        if let Err(error) = self.purge_boxes(&boxes, now.unix) {
            warn!(%error, "what is over was not thrown away");
        }
    }

    fn purge_boxes(&self, boxes: &[Account], now: UnixTime) -> Result<(), StoreError> {
        for account in boxes {
            let device = &account.rules.device;
            if account.expires_at < now {
                self.store.transaction::<_, StoreError>(|tx| tx.remove_mailbox_account(device, PURGE_LETTERS))?;
                continue;
            }
            let over = self.store.read::<_, StoreError>(|view| view.expired_letters(device, now, PURGE_LETTERS))?;
            if !over.is_empty() {
                self.store.transaction::<_, StoreError>(|tx| {
                    over.iter().try_for_each(|number| tx.remove_letter(device, *number).map(|_| ()))
                })?;
            }
        }
        Ok(())
    }
}

/// Why a letter isn't kept once the database is asked.
enum KeepError {
    Refused(PutRefusal),
    Store(StoreError),
}

impl From<StoreError> for KeepError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// Room is looked at where the letter is written: two at once can't both have the last place.
fn keep_letter(
    tx: &crate::store::Transaction,
    request: &MailboxPut,
    grant: &PutGrant,
    now: UnixTime,
) -> Result<PutStatus, KeepError> {
    if tx.has_letter(&request.recipient, &grant.holder, &request.id)? {
        return Ok(PutStatus::Duplicate);
    }
    let room = tx.mailbox_room(&request.recipient, &grant.holder)?;
    let bytes = request.letter.as_bytes().len() as u64;
    let fits = grant.check_room(bytes, room.of_box, room.of_door, room.of_holder, room.of_all, &POLICY);
    fits.map_err(KeepError::Refused)?;
    let row = LetterRow {
        holder: grant.holder,
        is_stranger: grant.is_stranger,
        id: request.id,
        kept_at: now,
        until: grant.until,
        letter: request.letter.clone(),
    };
    tx.add_letter(&request.recipient, &row)?;
    Ok(PutStatus::Kept { until: grant.until })
}

fn failed(error: StoreError) -> MailboxReason {
    warn!(%error, "mailbox");
    MailboxReason::TEMPORARY
}
