//! Conversations that only two devices can read, with forward secrecy: Olm sessions (X3DH and the double ratchet), by vodozemac.
//!
//! 1. A device has an [`Account`]: an identity key for sessions, a fallback key that changes weekly, and one-time keys. The first two stand in its
//!    directory entry ([`PreKeys`]), signed by the device; one-time keys are handed out one by one, by the device itself ([`KeyFetch`]) or by its first
//!    mailbox ([`MailboxKeyFetch`]), each once and signed ([`OneTimeKey`]).
//! 2. Whoever has something for the device starts a [`Session`] with a one-time key, or with the fallback key where none is to be had. Two devices
//!    that start at once have two sessions; both send with the same one from then on ([`Sessions::encrypt`]).
//! 3. An envelope is padded to one of [`PLAIN_SIZE_CLASSES`] and encrypted once ([`SealedMessage`]); the same bytes go every way and in every repetition.
//!    Inside stands which two devices of which two users it is between ([`Pair`]), so it can't be passed on as somebody else's.
//! 4. What doesn't open is told to its sender ([`Unopened`], [`MessagesUnopened`]), which retires the session and starts one of a higher generation.
//!
//! A message key is used once and forgotten, a session's state goes forward only: what was read can't be opened with what either device holds
//! afterwards.
//!
//! The contract with whoever keeps the state: what [`Sessions::encrypt`], [`Sessions::open`] and [`Sessions::accept`] change must be on disk before the result leaves, in one
//! transaction with it.
//!
//! This module reads no clock and does no I/O. It is the one place of this crate where randomness isn't passed in: vodozemac draws its own, from the
//! operating system.

mod account;
mod keys;
mod pair;
mod ratchet;
#[cfg(test)]
mod tests;

use std::fmt;

use bincode::{Decode, Encode};

pub use account::{Account, FALLBACK_KEY_SECS, ONE_TIME_KEY_SECS, ONE_TIME_KEYS_KEPT_MAX, PreKeys};
pub use keys::{
    KEYS_PER_BATCH_MAX, KeyFetch, KeyFetched, KeysStatus, MailboxKeyFetch, MailboxKeyFetched, MailboxKeys, MailboxKeysKept,
    MessagesUnopened, OneTimeKey, UNOPENED_MAX, UnopenedMessage,
};
pub use pair::{OpenError, Opened, SESSIONS_PER_DEVICE_MAX, SealError, Sessions};
pub use ratchet::{PLAIN_BYTES_MAX, PLAIN_SIZE_CLASSES, Pair, Session};

use crate::id::MessageId;
use crate::wire::{DecodeError, Extensions};

/// Largest ciphertext of one message: the largest padded plain text, a block of padding, and the keys of a first message.
pub const CIPHERTEXT_BYTES_MAX: usize = PLAIN_BYTES_MAX + 256;

/// Names a session between two devices, the same at both ends: the first 16 bytes of a hash of the three keys it was started with.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct SessionId(pub [u8; 16]);

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionId({self})")
    }
}

/// First eight hexadecimal digits.
impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0[..4]))
    }
}

/// An Olm message, encoded as Olm does.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
pub enum Ciphertext {
    /// With the keys that start the session: until an answer has come.
    First(Vec<u8>),
    /// In a session that both ends have.
    Later(Vec<u8>),
}

impl Ciphertext {
    /// The bytes, whichever kind.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::First(bytes) | Self::Later(bytes) => bytes,
        }
    }
}

impl fmt::Debug for Ciphertext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if matches!(self, Self::First(_)) { "First" } else { "Later" };
        write!(f, "{kind}({} bytes)", self.as_bytes().len())
    }
}

/// A message encrypted for one device.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct SealedMessage {
    /// The message: a repetition is known before it is decrypted. The same as inside.
    pub id: MessageId,
    /// The session.
    pub session: SessionId,
    /// Number among those the sender encrypted in this session: what comes together is decrypted in this order.
    pub number: u64,
    /// The encrypted envelope.
    pub ciphertext: Ciphertext,
    /// Room to grow.
    pub extensions: Extensions,
}

impl SealedMessage {
    /// Checks lengths after decoding.
    ///
    /// # Errors
    /// [`DecodeError::TooLarge`].
    pub fn check(&self) -> Result<(), DecodeError> {
        let length = self.ciphertext.as_bytes().len();
        if length > CIPHERTEXT_BYTES_MAX {
            return Err(DecodeError::TooLarge { length, limit: CIPHERTEXT_BYTES_MAX });
        }
        Ok(())
    }
}

/// What a sender is told about a message that didn't open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Unopened {
    /// The session it came in: word about a session no longer in use changes nothing.
    pub session: SessionId,
    /// The highest generation of sessions known there: the next one is to be above it.
    pub generation: u32,
}
