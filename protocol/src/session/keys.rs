//! What is said about keys and about messages that don't open.

use bincode::{Decode, Encode};

use super::Unopened;
use crate::id::MessageId;
use crate::key::{DeviceKey, hash};
use crate::mailbox::{Admission, MailboxReason};
use crate::time::UnixTime;
use crate::wire::{Body, DecodeError, Extensions, FrameKind, Message, Signed};

/// Most one-time keys a mailbox keeps for one device, and most in one upload.
pub const KEYS_PER_BATCH_MAX: usize = 50;

/// Most messages one notice is about.
pub const UNOPENED_MAX: usize = 32;

/// A key that starts one session with a device. Signed by the device, so whoever keeps it can't put another in its place.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct OneTimeKey {
    /// The device, which signs.
    pub device: DeviceKey,
    /// X25519.
    pub key: [u8; 32],
    /// When it was made.
    pub issued_at: UnixTime,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Body for OneTimeKey {
    const KIND: u16 = 0x0802;
    const LIMIT: usize = 128;
}

/// "A key to start a session with you": to the device itself. The asker is whom the stream's hello has shown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct KeyFetch {
    /// Room to grow.
    pub extensions: Extensions,
}

impl Message for KeyFetch {
    const KIND: FrameKind = FrameKind(0x0024);
    const LIMIT: usize = 256;
}

/// Answer to [`KeyFetch`], sent after the key is on disk.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct KeyFetched {
    /// A key that nobody else gets; `None`: take the fallback key.
    pub key: Option<Signed<OneTimeKey>>,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Message for KeyFetched {
    const KIND: FrameKind = FrameKind(FrameKind::ANSWER | KeyFetch::KIND.0);
    const LIMIT: usize = 512;
}

/// "Hand these out for me, each once": from the device whose box it is. They take the place of those that are left. Without keys it asks how many are left.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct MailboxKeys {
    /// Names the batch. Random.
    pub batch: u64,
    /// At most [`KEYS_PER_BATCH_MAX`].
    pub keys: Vec<Signed<OneTimeKey>>,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Message for MailboxKeys {
    const KIND: FrameKind = FrameKind(0x0084);
    const LIMIT: usize = 16_384;

    fn check(&self) -> Result<(), DecodeError> {
        if self.keys.len() > KEYS_PER_BATCH_MAX {
            return Err(DecodeError::invalid("keys", format!("{}, at most {KEYS_PER_BATCH_MAX}", self.keys.len())));
        }
        Ok(())
    }
}

/// What became of [`MailboxKeys`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum KeysStatus {
    /// On disk.
    Kept {
        /// The batch that is handed out from now; 0: none.
        batch: u64,
        /// How many of it are left.
        left: u32,
    },
    /// Not here.
    Refused(MailboxReason),
}

/// Answer to [`MailboxKeys`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct MailboxKeysKept {
    /// What happened.
    pub status: KeysStatus,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Message for MailboxKeysKept {
    const KIND: FrameKind = FrameKind(FrameKind::ANSWER | MailboxKeys::KIND.0);
    const LIMIT: usize = 256;
}

/// "A key to start a session with somebody who has a box here."
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct MailboxKeyFetch {
    /// Whose.
    pub device: DeviceKey,
    /// By what right; without it, as a certified stranger.
    pub admission: Option<Admission>,
    /// Room to grow.
    pub extensions: Extensions,
}

impl MailboxKeyFetch {
    /// What a proof is over.
    #[must_use]
    pub fn request_hash(&self) -> [u8; 32] {
        hash("halloo mailbox key fetch 1", &[self.device.as_bytes()])
    }
}

impl Message for MailboxKeyFetch {
    const KIND: FrameKind = FrameKind(0x0085);
    const LIMIT: usize = 2_048;
}

/// Answer to [`MailboxKeyFetch`], sent after the key is gone from disk.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct MailboxKeyFetched {
    /// A key that nobody else gets; `None`: take the fallback key.
    pub key: Option<Signed<OneTimeKey>>,
    /// Why nothing is given, if not because all are gone.
    pub refused: Option<MailboxReason>,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Message for MailboxKeyFetched {
    const KIND: FrameKind = FrameKind(FrameKind::ANSWER | MailboxKeyFetch::KIND.0);
    const LIMIT: usize = 512;
}

/// One message that didn't open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct UnopenedMessage {
    /// The message.
    pub id: MessageId,
    /// In which session it came.
    pub unopened: Unopened,
}

/// "These letters of yours don't open": from the device they were for to the one that wrote them. A notice: the sender's next try on a stream is answered
/// the same.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct MessagesUnopened {
    /// At most [`UNOPENED_MAX`].
    pub messages: Vec<UnopenedMessage>,
    /// Room to grow.
    pub extensions: Extensions,
}

impl MessagesUnopened {
    /// Checks counts after decoding.
    ///
    /// # Errors
    /// [`DecodeError::Invalid`] if it names too many messages.
    pub fn check(&self) -> Result<(), DecodeError> {
        if self.messages.len() > UNOPENED_MAX {
            return Err(DecodeError::invalid("messages", format!("{}, at most {UNOPENED_MAX}", self.messages.len())));
        }
        Ok(())
    }
}

impl Message for MessagesUnopened {
    const KIND: FrameKind = FrameKind(FrameKind::NOTICE | 0x0023);
    const LIMIT: usize = 2_048;

    fn check(&self) -> Result<(), DecodeError> {
        Self::check(self)
    }
}
