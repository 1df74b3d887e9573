//! Store and forward for people who aren't there: letters kept by nodes the recipient chose.
//!
//! 1. A device opens a box at two or three nodes with the role [`Roles::MAILBOX`](crate::node::Roles::MAILBOX) ([`MailboxOpen`]), names them in its
//!    directory entry, and opens each anew before its time is over.
//! 2. Who can't reach the device leaves a letter ([`MailboxPut`]): a message sealed to the device, padded to one of [`LETTER_SIZE_CLASSES`]. With a
//!    capability of the recipient the mailbox learns a pseudonym, no name. Without one there is the narrow door: at most
//!    [`DOOR_LETTER_BYTES_MAX`] bytes under the sender's certificate, at most [`DOOR_LETTERS_PER_HOLDER`] waiting.
//! 3. The device takes its letters ([`MailboxTake`]) and says which it has on disk; only those are deleted. [`MailboxNews`] tells it, where it is
//!    connected, that there is something to take.
//!
//! What a mailbox learns: which device it keeps letters for, when somebody left how large a class of letter under which pseudonym, and when they
//! were fetched. It reads none, and can't make one: a letter is signed inside.

mod account;
mod letter;
#[cfg(test)]
mod tests;

use std::fmt;

use bincode::{Decode, Encode};

pub use account::{
    ACCOUNT_BYTES_MAX, ACCOUNT_LETTERS_MAX, ACCOUNT_SECS, Account, DOOR_LETTERS_PER_ACCOUNT, DOOR_LETTERS_PER_HOLDER,
    HOLDER_SHARE, Held, MailboxPolicy, MailboxRates, OpenRefusal, PutGrant, PutRefusal, decide_key_fetch, decide_open,
    decide_put,
};
pub use letter::{LETTER_SIZE_CLASSES, Letter, LetterError, SealLetterError, SealedLetter, VerifiedLetter};
pub(crate) use letter::{open_signed, seal_signed};

use crate::capability::{Capability, CapabilityProof, REVOKED_MAX};
use crate::id::{CapabilityId, MessageId};
use crate::key::{DeviceKey, hash};
use crate::time::UnixTime;
use crate::wire::{DecodeError, Extensions, FrameKind, Message, Signed};

/// Largest sealed letter: a contact's profile with its picture, its envelope, and the sender's chain.
pub const LETTER_BYTES_MAX: usize = 43_008;

/// Largest letter through the narrow door: a contact request of 1 KiB with its sender's chain.
pub const DOOR_LETTER_BYTES_MAX: usize = 2_560;

/// Longest time a letter is kept. An entry in the directory lasts as long.
pub const LETTER_SECS_MAX: u64 = 30 * 86_400;

/// Most letters struck off by one request.
pub const DONE_MAX: usize = 256;

/// Most letters in one answer. It must fit a frame with letters of the largest class.
pub const ITEMS_MAX: usize = 64;

/// Bytes of letters in one answer: at least the largest.
pub const ITEMS_BYTES_MAX: usize = LETTER_BYTES_MAX;

/// Why a mailbox refuses. An open list: numbers unknown to a reader are refusals all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct MailboxReason(pub u16);

impl MailboxReason {
    /// This node keeps no letters.
    pub const NOT_SERVED: Self = Self(1);
    /// The asker has shown no certificate that holds.
    pub const NOT_CERTIFIED: Self = Self(2);
    /// No box of this device here.
    pub const NO_BOX: Self = Self(3);
    /// The capability or its proof doesn't hold.
    pub const CAPABILITY: Self = Self(4);
    /// The recipient takes nothing from strangers.
    pub const CONTACTS_ONLY: Self = Self(5);
    /// Larger than allowed, or of no size class.
    pub const SIZE: Self = Self(6);
    /// This sender has left too much that still waits.
    pub const SHARE: Self = Self(7);
    /// The box, or the mailbox, is full.
    pub const FULL: Self = Self(8);
    /// Too many requests: later.
    pub const RATE: Self = Self(9);
    /// A field is out of range.
    pub const INVALID: Self = Self(10);
    /// Something failed here: later.
    pub const TEMPORARY: Self = Self(11);

    /// True if the same request may succeed later.
    #[must_use]
    pub const fn is_temporary(self) -> bool {
        matches!(self, Self::SHARE | Self::FULL | Self::RATE | Self::TEMPORARY)
    }

    const fn text(self) -> &'static str {
        match self {
            Self::NOT_SERVED => "keeps no letters",
            Self::NOT_CERTIFIED => "certificate not believed",
            Self::NO_BOX => "no box of this device",
            Self::CAPABILITY => "capability not honoured",
            Self::CONTACTS_ONLY => "takes letters of contacts only",
            Self::SIZE => "size not allowed",
            Self::SHARE => "too many letters of this sender wait",
            Self::FULL => "full",
            Self::RATE => "too many requests",
            Self::INVALID => "malformed",
            Self::TEMPORARY => "failed for now",
            _ => "refused",
        }
    }
}

impl fmt::Display for MailboxReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.text() {
            "refused" => write!(f, "refused ({})", self.0),
            text => f.write_str(text),
        }
    }
}

/// Names a letter at one mailbox, so that a repetition isn't kept twice. Chosen by the sender; counts only together with the holder it came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct LetterId(pub [u8; 16]);

impl LetterId {
    /// The id of a message's copy for one device at one mailbox: the same for every repetition, another at every mailbox and for every device,
    /// so that mailboxes can't tell by it what belongs together. `attempt` counts how often the copy was encrypted anew: that is another letter.
    #[must_use]
    pub fn of(message: &MessageId, recipient: &DeviceKey, mailbox: &DeviceKey, attempt: u32) -> Self {
        let parts: [&[u8]; 4] = [&message.0, recipient.as_bytes(), mailbox.as_bytes(), &attempt.to_be_bytes()];
        let digest = hash("halloo letter id 1", &parts);
        let mut id = [0; 16];
        id.copy_from_slice(&digest[..16]);
        Self(id)
    }
}

/// "Keep letters for me": a device at a node it chose. The device is whom the stream's hello has shown.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct MailboxOpen {
    /// Oldest epoch of capabilities that counts.
    pub epoch: u32,
    /// Capabilities taken back, at most [`REVOKED_MAX`].
    pub revoked: Vec<CapabilityId>,
    /// False: nobody without a capability may leave a letter.
    pub has_door: bool,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Message for MailboxOpen {
    const KIND: FrameKind = FrameKind(0x0080);
    const LIMIT: usize = 2_048;

    fn check(&self) -> Result<(), DecodeError> {
        if self.revoked.len() > REVOKED_MAX {
            return Err(DecodeError::invalid("revoked", format!("{}, at most {REVOKED_MAX}", self.revoked.len())));
        }
        Ok(())
    }
}

/// What became of [`MailboxOpen`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum OpenStatus {
    /// Letters are kept until then, unless the box is opened anew.
    Opened {
        /// When the box ends.
        until: UnixTime,
        /// Letters that wait now.
        waiting: u32,
    },
    /// Not here.
    Refused(MailboxReason),
}

/// Answer to [`MailboxOpen`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct MailboxOpened {
    /// What happened.
    pub status: OpenStatus,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Message for MailboxOpened {
    const KIND: FrameKind = FrameKind(FrameKind::ANSWER | MailboxOpen::KIND.0);
    const LIMIT: usize = 256;
}

/// A capability with the proof that goes with one request.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Admission {
    /// The token.
    pub capability: Signed<Capability>,
    /// The holder's word for this request, over [`MailboxPut::request_hash`].
    pub proof: Signed<CapabilityProof>,
}

/// A letter for somebody who has a box here.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct MailboxPut {
    /// Whose box.
    pub recipient: DeviceKey,
    /// Names the letter.
    pub id: LetterId,
    /// The letter.
    pub letter: SealedLetter,
    /// When it is worth nothing any more; kept at most [`LETTER_SECS_MAX`] anyway.
    pub until: UnixTime,
    /// By what right; without it, through the narrow door.
    pub admission: Option<Admission>,
    /// Room to grow.
    pub extensions: Extensions,
}

impl MailboxPut {
    /// What a proof is over.
    #[must_use]
    pub fn hash_of(recipient: &DeviceKey, id: &LetterId, letter: &SealedLetter, until: UnixTime) -> [u8; 32] {
        hash("halloo mailbox put 1", &[recipient.as_bytes(), &id.0, &until.0.to_be_bytes(), letter.as_bytes()])
    }

    /// [`MailboxPut::hash_of`] this request.
    #[must_use]
    pub fn request_hash(&self) -> [u8; 32] {
        Self::hash_of(&self.recipient, &self.id, &self.letter, self.until)
    }
}

impl Message for MailboxPut {
    const KIND: FrameKind = FrameKind(0x0081);
    const LIMIT: usize = LETTER_BYTES_MAX + 2_048;
}

/// What became of [`MailboxPut`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum PutStatus {
    /// On disk, until then at the latest.
    Kept {
        /// When it is thrown away.
        until: UnixTime,
    },
    /// On disk since an earlier request.
    Duplicate,
    /// Not kept.
    Refused(MailboxReason),
}

/// Answer to [`MailboxPut`], sent after the letter is on disk.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct MailboxKept {
    /// What happened.
    pub status: PutStatus,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Message for MailboxKept {
    const KIND: FrameKind = FrameKind(FrameKind::ANSWER | MailboxPut::KIND.0);
    const LIMIT: usize = 256;
}

/// "Give me what waits": from the device whose box it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct MailboxTake {
    /// Numbers of letters that are on the device's disk, at most [`DONE_MAX`]: they are deleted.
    pub done: Vec<u64>,
    /// Only letters with a higher number are wanted.
    pub after: u64,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Message for MailboxTake {
    const KIND: FrameKind = FrameKind(0x0082);
    const LIMIT: usize = 4_096;

    fn check(&self) -> Result<(), DecodeError> {
        if self.done.len() > DONE_MAX {
            return Err(DecodeError::invalid("done", format!("{}, at most {DONE_MAX}", self.done.len())));
        }
        Ok(())
    }
}

/// A letter as its mailbox hands it out.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct MailboxItem {
    /// Its number in this box; grows.
    pub number: u64,
    /// When it was left, by the mailbox's clock.
    pub kept_at: UnixTime,
    /// The letter.
    pub letter: SealedLetter,
}

/// Answer to [`MailboxTake`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct MailboxItems {
    /// Oldest first, at most [`ITEMS_MAX`] and [`ITEMS_BYTES_MAX`] bytes of letters. Empty with a refusal.
    pub items: Vec<MailboxItem>,
    /// True if more wait.
    pub has_more: bool,
    /// Why nothing is given.
    pub refused: Option<MailboxReason>,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Message for MailboxItems {
    const KIND: FrameKind = FrameKind(FrameKind::ANSWER | MailboxTake::KIND.0);
    const LIMIT: usize = ITEMS_BYTES_MAX + 4_096;

    fn check(&self) -> Result<(), DecodeError> {
        if self.items.len() > ITEMS_MAX {
            return Err(DecodeError::invalid("items", format!("{}, at most {ITEMS_MAX}", self.items.len())));
        }
        Ok(())
    }
}

/// "Something waits for you": to a device that is connected. A notice: the device looks by itself now and then.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct MailboxNews {
    /// Room to grow.
    pub extensions: Extensions,
}

impl Message for MailboxNews {
    const KIND: FrameKind = FrameKind(FrameKind::NOTICE | 0x0083);
    const LIMIT: usize = 256;
}
