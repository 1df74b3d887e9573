//! Files: offered in a message, fetched piece by piece by the one device that accepts.
//!
//! The sender's device hashes the file, keeps the list of its chunks' hashes, and offers it: a [`FileOffer`] goes as a message's body to all
//! devices of the recipient. Whoever accepts on one of them binds the offer to that device ([`FileAccept`]; the first one has it), which then
//! pulls: the list of hashes once ([`FileHashes`]), and the content in blocks ([`FileRead`]), many under way at a time, from the device that
//! made the offer, over whatever connection there is. What the receiver has is its own knowledge, so either side may stop, crash or move at any
//! time; the next request goes on where the last one ended.
//!
//! - A *chunk* is what has a hash and is verified; its size grows with the file, so that the list stays small ([`Layout`]).
//! - A *block* is what is asked for at once, small, so that messages on the same stream don't wait behind it ([`Layout::BLOCK_BYTES`]).
//!
//! [`Pull`] decides what to ask for next, and how much at once; it holds no socket, no file and no clock. How offers end is said in
//! [`FileSignal`]s, which are messages too, so that they arrive whoever is away.

mod layout;
mod name;
mod pace;
mod pull;
#[cfg(test)]
mod tests;

use std::fmt;

use bincode::{Decode, Encode};

pub use crate::id::FileId;
use crate::key::DeviceKey;
use crate::time::UnixTime;
use crate::wire::{DecodeError, Extensions, FrameKind, Message};
pub use layout::{ChunkHash, ChunkHasher, FileRoot, Layout, LayoutError};
pub use name::{FILE_NAME_BYTES_MAX, clean_name, is_clean_name};
pub use pace::Pace;
pub use pull::{Block, Pull, PullError, PullStep, Written};

/// Largest file that can be offered: 1 TiB.
pub const FILE_BYTES_MAX: u64 = 1 << 40;

/// Longest media type, in bytes (RFC 6838 section 4.2 allows 127 for each of its halves; none in use comes near).
pub const MEDIA_TYPE_BYTES_MAX: usize = 127;

/// Most hashes in one [`FileHashList`].
pub const HASHES_PER_ANSWER_MAX: usize = 512;

/// How long an offer stands: a week, as a person may be on holiday.
pub const OFFER_SECS: u64 = 7 * 86_400;

/// A file somebody may fetch.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct FileOffer {
    /// The offer.
    pub id: FileId,
    /// The file's name alone, as [`clean_name`] leaves it.
    pub name: String,
    /// Its size in bytes, at most [`FILE_BYTES_MAX`].
    pub size: u64,
    /// Its media type by the sender's word, lower case (RFC 6838).
    pub media_type: String,
    /// Names its content: hash of size and list of chunk hashes.
    pub root: FileRoot,
    /// Until when it can be accepted.
    pub expires_at: UnixTime,
    /// Room to grow.
    pub extensions: Extensions,
}

impl FileOffer {
    /// Checks ranges after decoding.
    ///
    /// # Errors
    /// [`DecodeError::Invalid`] for the field out of range.
    pub fn check(&self) -> Result<(), DecodeError> {
        if !is_clean_name(&self.name) {
            return Err(DecodeError::invalid("name", "not the plain name of a file"));
        }
        if self.size > FILE_BYTES_MAX {
            return Err(DecodeError::invalid("size", format!("{} bytes, at most {FILE_BYTES_MAX}", self.size)));
        }
        if !is_media_type(&self.media_type) {
            return Err(DecodeError::invalid("media_type", "not a media type"));
        }
        Ok(())
    }

    /// How the file is cut.
    #[must_use]
    pub const fn layout(&self) -> Layout {
        Layout::of_size(self.size)
    }
}

/// Two tokens with a slash between them, without parameters.
fn is_media_type(text: &str) -> bool {
    let is_token = |part: &str| {
        !part.is_empty()
            && part.bytes().all(
                |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'+' | b'_' | b'!' | b'#' | b'$' | b'&' | b'^'),
            )
    };
    text.len() <= MEDIA_TYPE_BYTES_MAX && text.split_once('/').is_some_and(|(kind, subtype)| is_token(kind) && is_token(subtype))
}

/// How an offer came to its end. Numbers, so that readers of today know that something of tomorrow is an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct FileEnd(pub u16);

impl FileEnd {
    /// The recipient has all of it.
    pub const RECEIVED: Self = Self(1);
    /// The recipient doesn't want it.
    pub const DECLINED: Self = Self(2);
    /// Whoever says so doesn't go on.
    pub const CANCELLED: Self = Self(3);
    /// What came didn't match the offer.
    pub const CORRUPT: Self = Self(4);
    /// The sender's file has changed or is gone.
    pub const GONE: Self = Self(5);
}

impl fmt::Display for FileEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match *self {
            Self::RECEIVED => "received",
            Self::DECLINED => "declined",
            Self::CANCELLED => "cancelled",
            Self::CORRUPT => "what came didn't match the offer",
            Self::GONE => "the sender's file has changed or is gone",
            Self(other) => return write!(f, "ended ({other})"),
        })
    }
}

/// What is said about files in messages.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum FileSignal {
    /// To the recipient: this file may be fetched from the sending device.
    Offer(FileOffer),
    /// To the other side, and to own other devices: the offer has ended.
    Ended {
        /// The offer.
        id: FileId,
        /// How.
        end: FileEnd,
        /// Room to grow.
        extensions: Extensions,
    },
    /// To own other devices: this one has accepted it.
    Taken {
        /// The offer.
        id: FileId,
        /// The device that fetches it.
        device: DeviceKey,
        /// Room to grow.
        extensions: Extensions,
    },
}

impl FileSignal {
    /// Its name in logs.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Offer(_) => "offer",
            Self::Ended { .. } => "ended",
            Self::Taken { .. } => "taken",
        }
    }

    /// The offer it is about.
    #[must_use]
    pub const fn id(&self) -> FileId {
        match self {
            Self::Offer(offer) => offer.id,
            Self::Ended { id, .. } | Self::Taken { id, .. } => *id,
        }
    }

    /// Checks ranges after decoding.
    ///
    /// # Errors
    /// [`DecodeError::Invalid`] for the field out of range.
    pub fn check(&self) -> Result<(), DecodeError> {
        match self {
            Self::Offer(offer) => offer.check(),
            Self::Ended { .. } | Self::Taken { .. } => Ok(()),
        }
    }
}

/// Why a request about a file is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct FileRefusal(pub u16);

impl FileRefusal {
    /// No such offer to the asker: there never was, it was withdrawn, or it has ended.
    pub const UNKNOWN: Self = Self(1);
    /// Another device of the recipient has accepted it.
    pub const TAKEN: Self = Self(2);
    /// The file has changed or is gone.
    pub const GONE: Self = Self(3);
    /// Not within the file, or larger than a block.
    pub const RANGE: Self = Self(4);
    /// Too much is under way; later.
    pub const BUSY: Self = Self(5);
    /// The sender can't read its file now.
    pub const UNREADABLE: Self = Self(6);
}

impl fmt::Display for FileRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match *self {
            Self::UNKNOWN => "the sender offers it no longer",
            Self::TAKEN => "another device has accepted it",
            Self::GONE => "the sender's file has changed or is gone",
            Self::RANGE => "outside the file",
            Self::BUSY => "the sender is busy",
            Self::UNREADABLE => "the sender can't read its file",
            Self(other) => return write!(f, "refused ({other})"),
        })
    }
}

/// "This device takes the file." Said again whenever it goes on.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct FileAccept {
    /// The offer.
    pub id: FileId,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Message for FileAccept {
    const KIND: FrameKind = FrameKind(0x00a0);
    const LIMIT: usize = 256;
}

/// Answer to [`FileAccept`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct FileAccepted {
    /// Why not, if not.
    pub refused: Option<FileRefusal>,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Message for FileAccepted {
    const KIND: FrameKind = FrameKind(FrameKind::ANSWER | FileAccept::KIND.0);
    const LIMIT: usize = 256;
}

/// Asks for a part of the list of chunk hashes.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct FileHashes {
    /// The offer.
    pub id: FileId,
    /// The first chunk wanted.
    pub from: u32,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Message for FileHashes {
    const KIND: FrameKind = FrameKind(0x00a1);
    const LIMIT: usize = 256;
}

/// Answer to [`FileHashes`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct FileHashList {
    /// Why not, if not.
    pub refused: Option<FileRefusal>,
    /// The hashes from the one asked for on: as many as are left, at most [`HASHES_PER_ANSWER_MAX`].
    pub hashes: Vec<ChunkHash>,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Message for FileHashList {
    const KIND: FrameKind = FrameKind(FrameKind::ANSWER | FileHashes::KIND.0);
    const LIMIT: usize = 17_408;

    fn check(&self) -> Result<(), DecodeError> {
        if self.hashes.len() > HASHES_PER_ANSWER_MAX {
            return Err(DecodeError::invalid("hashes", format!("{}, at most {HASHES_PER_ANSWER_MAX}", self.hashes.len())));
        }
        Ok(())
    }
}

/// Asks for a piece of the content.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct FileRead {
    /// The offer.
    pub id: FileId,
    /// Where it begins.
    pub offset: u64,
    /// How many bytes, at most [`Layout::BLOCK_BYTES`].
    pub length: u32,
    /// How much of the file the receiver has, verified; for the sender's eyes.
    pub have: u64,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Message for FileRead {
    const KIND: FrameKind = FrameKind(0x00a2);
    const LIMIT: usize = 256;
}

/// Answer to [`FileRead`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct FileData {
    /// Why not, if not.
    pub refused: Option<FileRefusal>,
    /// The bytes asked for, neither more nor fewer; empty if refused.
    pub bytes: Vec<u8>,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Message for FileData {
    const KIND: FrameKind = FrameKind(FrameKind::ANSWER | FileRead::KIND.0);
    const LIMIT: usize = 17_408;

    fn check(&self) -> Result<(), DecodeError> {
        if self.bytes.len() > Layout::BLOCK_BYTES as usize {
            return Err(DecodeError::invalid("bytes", format!("{}, at most {}", self.bytes.len(), Layout::BLOCK_BYTES)));
        }
        Ok(())
    }
}
