//! What a mailbox keeps about a device, and its decisions: pure functions, each with its reason.

use std::time::Instant;

use bincode::{Decode, Encode};

use super::{Admission, DOOR_LETTER_BYTES_MAX, LETTER_SECS_MAX, MailboxOpen, MailboxPut, MailboxReason};
use crate::capability::{self, CapabilityError, CapabilityRequest, CapabilityRules, Service};
use crate::identity::VerifiedChain;
use crate::key::{DeviceKey, PublicKey};
use crate::rate::{Rate, RateError, RateLimiter};
use crate::session::MailboxKeyFetch;
use crate::time::{Now, UnixTime};
use crate::wire::DecodeError;

/// How long a box lasts unless opened anew: as long as the directory entry that names it.
pub const ACCOUNT_SECS: u64 = 30 * 86_400;

/// Most letters that wait in one box: a month away from busy groups.
pub const ACCOUNT_LETTERS_MAX: u32 = 4_000;

/// Bytes that wait in one box.
pub const ACCOUNT_BYTES_MAX: u64 = 32 * 1024 * 1024;

/// The part of a box that one holder of a capability may fill: one in so many. Nobody alone can lock the others out.
pub const HOLDER_SHARE: u32 = 4;

/// Letters through the narrow door that wait in one box, of all strangers together.
pub const DOOR_LETTERS_PER_ACCOUNT: u32 = 64;

/// Letters of one stranger that wait in one box.
pub const DOOR_LETTERS_PER_HOLDER: u32 = 3;

/// Letters of one stranger for one device whatever becomes of them: a few a day.
const DOOR_RATE: Rate = Rate { per_hour: 1, burst: 4 };

/// Letters of one holder for one device at most, where the capability allows more.
const HOLDER_RATE: Rate = Rate { per_hour: 2_000, burst: 200 };

/// One-time keys of one device that one holder gets: sessions are started rarely.
const KEY_RATE: Rate = Rate { per_hour: 6, burst: 8 };

/// One-time keys of one device in all: what is taken faster leaves the fallback key to everybody.
const KEYS_RATE: Rate = Rate { per_hour: 60, burst: 50 };

/// Letters of one connected device for whomever: each costs a commit.
const SENDER_RATE: Rate = Rate { per_hour: 6_000, burst: 400 };

/// A device with a box.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Account {
    /// The device, its user, and whose capabilities count.
    pub rules: CapabilityRules,
    /// True if strangers may leave something small.
    pub has_door: bool,
    /// When the box ends unless opened anew. What waits in it goes with it.
    pub expires_at: UnixTime,
}

/// What waits in a box: of everybody, of this sender, and of those who came through the door.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Held {
    /// Letters.
    pub letters: u32,
    /// Their bytes.
    pub bytes: u64,
}

impl Held {
    /// With one letter more.
    #[must_use]
    pub const fn plus(self, bytes: u64) -> Self {
        Self { letters: self.letters.saturating_add(1), bytes: self.bytes.saturating_add(bytes) }
    }

    /// With one letter less.
    #[must_use]
    pub const fn minus(self, bytes: u64) -> Self {
        Self { letters: self.letters.saturating_sub(1), bytes: self.bytes.saturating_sub(bytes) }
    }
}

/// For whom, and how much, a mailbox keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MailboxPolicy {
    /// Most boxes.
    pub accounts_max: u64,
    /// Bytes of letters in all boxes together.
    pub bytes_max: u64,
}

/// Why no box is opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenRefusal {
    /// The device's user has no name.
    #[error("only certified devices have boxes")]
    NotCertified,
    /// A field is out of range.
    #[error(transparent)]
    Invalid(#[from] DecodeError),
    /// No room for another box.
    #[error("no room for another box")]
    Full,
}

impl OpenRefusal {
    /// The number to answer with.
    #[must_use]
    pub const fn reason(&self) -> MailboxReason {
        match self {
            Self::NotCertified => MailboxReason::NOT_CERTIFIED,
            Self::Invalid(_) => MailboxReason::INVALID,
            Self::Full => MailboxReason::FULL,
        }
    }
}

/// Devices whose users have no name are taken while no more than one in so many places is.
const UNNAMED_PART: u64 = 16;

/// Decides on a box. `known` is the device's present one, whose epoch and revocations stay; `accounts` counts all boxes.
///
/// # Errors
/// [`OpenRefusal`].
pub fn decide_open(
    request: &MailboxOpen,
    device: &VerifiedChain,
    known: Option<&Account>,
    accounts: u64,
    policy: &MailboxPolicy,
    now: UnixTime,
) -> Result<Account, OpenRefusal> {
    let kept = known.filter(|known| known.rules.device == device.device && known.rules.identity == device.user.identity);
    // As at gateways: identities without a name cost nothing, and take no room from others.
    if device.user.name().is_none() && kept.is_none() && accounts >= policy.accounts_max / UNNAMED_PART {
        return Err(OpenRefusal::NotCertified);
    }
    if kept.is_none() && accounts >= policy.accounts_max {
        return Err(OpenRefusal::Full);
    }
    let fresh = || CapabilityRules::new(device.device, device.user.identity, request.epoch);
    let mut rules = kept.map_or_else(fresh, |known| known.rules.clone());
    rules.raise_epoch(request.epoch);
    for id in &request.revoked {
        if !rules.revoke(*id) {
            return Err(DecodeError::invalid("revoked", "more than the mailbox keeps: raise the epoch").into());
        }
    }
    Ok(Account { rules, has_door: request.has_door, expires_at: now.plus_secs(ACCOUNT_SECS) })
}

/// Why a letter isn't kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PutRefusal {
    /// No box of this device, or its time is over.
    #[error("no box of this device")]
    NoBox,
    /// The sender has shown no chain that holds.
    #[error("letters without a capability are taken from certified users only")]
    NotCertified,
    /// Strangers aren't wanted.
    #[error("the recipient takes letters of contacts only")]
    ContactsOnly,
    /// Of no size class, or too large for the door.
    #[error("a letter of {0} bytes isn't taken")]
    Size(usize),
    /// It is over before it begins.
    #[error("the letter was worth something until {0}")]
    Expired(UnixTime),
    /// No leave.
    #[error(transparent)]
    Capability(#[from] CapabilityError),
    /// Too much of this sender waits.
    #[error("{0} letters of this sender wait already")]
    Share(u32),
    /// The box or the mailbox is full.
    #[error("no room")]
    Full,
    /// Too many.
    #[error(transparent)]
    Rate(#[from] RateError),
}

impl PutRefusal {
    /// The number to answer with.
    #[must_use]
    pub const fn reason(&self) -> MailboxReason {
        match self {
            Self::NoBox => MailboxReason::NO_BOX,
            Self::NotCertified => MailboxReason::NOT_CERTIFIED,
            Self::ContactsOnly => MailboxReason::CONTACTS_ONLY,
            Self::Size(_) => MailboxReason::SIZE,
            Self::Expired(_) => MailboxReason::INVALID,
            Self::Capability(_) => MailboxReason::CAPABILITY,
            Self::Share(_) => MailboxReason::SHARE,
            Self::Full => MailboxReason::FULL,
            Self::Rate(_) => MailboxReason::RATE,
        }
    }
}

/// Counts letters: by holder and device, and by connected sender.
#[derive(Clone, Debug)]
pub struct MailboxRates {
    holders: RateLimiter<(DeviceKey, PublicKey)>,
    senders: RateLimiter<DeviceKey>,
    keys: RateLimiter<(DeviceKey, PublicKey)>,
}

impl MailboxRates {
    /// Tables for at most `keys_max` holders and senders each.
    #[must_use]
    pub const fn new(keys_max: usize) -> Self {
        Self { holders: RateLimiter::new(keys_max), senders: RateLimiter::new(keys_max), keys: RateLimiter::new(keys_max) }
    }

    /// Counts one request of a connected device, before anything is looked up for it.
    ///
    /// # Errors
    /// [`RateError`] if it is one too many.
    pub fn take_sender(&mut self, sender: &DeviceKey, now: Instant) -> Result<(), RateError> {
        self.senders.take(sender, SENDER_RATE, now)
    }
}

/// Leave to keep a letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PutGrant {
    /// Under whom it is counted and known again: the pairwise key, or the stranger's identity key.
    pub holder: PublicKey,
    /// True if it came through the door.
    pub is_stranger: bool,
    /// When it is thrown away.
    pub until: UnixTime,
}

/// Who leaves the letter, and by what right. Checks everything but room: what is kept already decides on that ([`PutGrant::check_room`]).
///
/// # Errors
/// [`PutRefusal`]; only what has passed every other check is counted.
pub fn decide_put(
    request: &MailboxPut,
    account: Option<&Account>,
    presenter: Option<&VerifiedChain>,
    mailbox: &DeviceKey,
    rates: &mut MailboxRates,
    now: Now,
) -> Result<PutGrant, PutRefusal> {
    let is_served = |account: &&Account| account.rules.device == request.recipient && now.unix <= account.expires_at;
    let account = account.filter(is_served).ok_or(PutRefusal::NoBox)?;
    let bytes = request.letter.as_bytes().len();
    if !request.letter.has_class_size() {
        return Err(PutRefusal::Size(bytes));
    }
    if now.unix >= request.until {
        return Err(PutRefusal::Expired(request.until));
    }
    let until = request.until.min(now.unix.plus_secs(LETTER_SECS_MAX));
    let (holder, is_stranger, rate) = match &request.admission {
        Some(admission) => by_capability(request, admission, account, presenter, mailbox, now.unix)?,
        None => through_door(account, bytes, presenter)?,
    };
    rates.holders.take(&(request.recipient, holder), rate, now.instant)?;
    Ok(PutGrant { holder, is_stranger, until })
}

/// Who gets a one-time key of a device with a box here.
///
/// # Errors
/// [`PutRefusal`]; only what has passed every other check is counted.
pub fn decide_key_fetch(
    request: &MailboxKeyFetch,
    account: Option<&Account>,
    presenter: Option<&VerifiedChain>,
    mailbox: &DeviceKey,
    rates: &mut MailboxRates,
    now: Now,
) -> Result<(), PutRefusal> {
    let is_served = |account: &&Account| account.rules.device == request.device && now.unix <= account.expires_at;
    let account = account.filter(is_served).ok_or(PutRefusal::NoBox)?;
    let holder = match &request.admission {
        Some(admission) => {
            let asked = CapabilityRequest {
                capability: &admission.capability,
                proof: &admission.proof,
                service: Service::Mailbox,
                request_hash: request.request_hash(),
                payload_bytes: 0,
                presenter,
            };
            capability::verify(&asked, &account.rules, mailbox, now.unix)?.holder
        }
        None => through_door(account, 0, presenter)?.0,
    };
    rates.keys.take(&(request.device, holder), KEY_RATE, now.instant)?;
    // No holder's key is all zeros.
    rates.keys.take(&(request.device, PublicKey([0; 32])), KEYS_RATE, now.instant)?;
    Ok(())
}

fn by_capability(
    request: &MailboxPut,
    admission: &Admission,
    account: &Account,
    presenter: Option<&VerifiedChain>,
    mailbox: &DeviceKey,
    now: UnixTime,
) -> Result<(PublicKey, bool, Rate), PutRefusal> {
    let bytes = request.letter.as_bytes().len();
    let asked = CapabilityRequest {
        capability: &admission.capability,
        proof: &admission.proof,
        service: Service::Mailbox,
        request_hash: request.request_hash(),
        payload_bytes: bytes,
        presenter,
    };
    let grant = capability::verify(&asked, &account.rules, mailbox, now)?;
    if grant.is_stranger {
        // What anybody may use is the door by another name.
        return through_door(account, bytes, presenter);
    }
    let per_hour = grant.per_hour.min(HOLDER_RATE.per_hour);
    Ok((grant.holder, false, Rate { per_hour, burst: HOLDER_RATE.burst.min(per_hour) }))
}

/// Who comes without a capability of their own is counted by user, whatever device.
fn through_door(
    account: &Account,
    bytes: usize,
    presenter: Option<&VerifiedChain>,
) -> Result<(PublicKey, bool, Rate), PutRefusal> {
    let sender = presenter.filter(|chain| chain.user.name().is_some()).ok_or(PutRefusal::NotCertified)?;
    let holder = sender.user.identity.0;
    // A user's own devices leave each other letters of any size: they are no strangers.
    if sender.user.identity == account.rules.identity {
        return Ok((holder, false, HOLDER_RATE));
    }
    if !account.has_door {
        return Err(PutRefusal::ContactsOnly);
    }
    if bytes > DOOR_LETTER_BYTES_MAX {
        return Err(PutRefusal::Size(bytes));
    }
    Ok((holder, true, DOOR_RATE))
}

impl PutGrant {
    /// Whether there is room: `of_box` waits in the box, `of_door` of it from strangers, `of_holder` of it from this holder, `of_all` in all boxes.
    ///
    /// # Errors
    /// [`PutRefusal::Share`] or [`PutRefusal::Full`].
    pub fn check_room(
        &self,
        bytes: u64,
        of_box: Held,
        of_door: Held,
        of_holder: Held,
        of_all: Held,
        policy: &MailboxPolicy,
    ) -> Result<(), PutRefusal> {
        let (letters_max, bytes_max) = if self.is_stranger {
            (DOOR_LETTERS_PER_HOLDER, u64::MAX)
        } else {
            (ACCOUNT_LETTERS_MAX / HOLDER_SHARE, ACCOUNT_BYTES_MAX / u64::from(HOLDER_SHARE))
        };
        if of_holder.letters >= letters_max || of_holder.bytes.saturating_add(bytes) > bytes_max {
            return Err(PutRefusal::Share(of_holder.letters));
        }
        let is_door_full = self.is_stranger && of_door.letters >= DOOR_LETTERS_PER_ACCOUNT;
        let is_box_full = of_box.letters >= ACCOUNT_LETTERS_MAX || of_box.bytes.saturating_add(bytes) > ACCOUNT_BYTES_MAX;
        if is_door_full || is_box_full || of_all.bytes.saturating_add(bytes) > policy.bytes_max {
            return Err(PutRefusal::Full);
        }
        Ok(())
    }
}
