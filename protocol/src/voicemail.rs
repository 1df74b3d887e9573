//! Voicemail: what a caller says to somebody who doesn't answer, as a message.
//!
//! The recording is Opus in Ogg ([`ogg`]), at most [`VOICEMAIL_MS_MAX`] long. It is larger than a message, so it goes in pieces: one
//! [`Voicemail`] that says what is coming, which is part of the conversation and is marked as read when it was heard; and
//! [`VoicemailPart`]s, signals that aren't shown. Each is a message by itself: sealed for every device of the recipient, repeated until
//! acknowledged, left in mailboxes. They come in any order; [`assemble`] makes the recording of them, or says what is wrong with it.
//!
//! What comes is by somebody else's word until it is whole and was looked at: nothing here trusts a length, a count or a checksum.

pub mod ogg;
#[cfg(test)]
mod tests;

use bincode::{Decode, Encode};
use sha2::{Digest, Sha256};

use crate::id::{CallId, MessageId};
use crate::key::DeviceKey;
use crate::wire::{DecodeError, Extensions, FrameKind, Message};
pub use ogg::{OggError, Recording};

/// Longest recording: three minutes, as people know it of answering machines.
pub const VOICEMAIL_MS_MAX: u32 = 180_000;

/// Bytes of every part but the last: with envelope and session within a message of the largest size.
pub const VOICEMAIL_PART_BYTES: usize = 38 * 1_024;

/// Most parts of one recording.
pub const VOICEMAIL_PARTS_MAX: usize = 16;

/// Largest recording: three minutes at 24 kbit/s are 540,000 bytes, and Ogg's framing adds a fiftieth.
pub const VOICEMAIL_BYTES_MAX: usize = VOICEMAIL_PARTS_MAX * VOICEMAIL_PART_BYTES;

/// Most points of a waveform.
pub const WAVEFORM_POINTS_MAX: usize = 64;

/// A recording that was left: what is shown of it, and what its parts must come to.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Voicemail {
    /// The call that wasn't answered, if there was one.
    pub call: Option<CallId>,
    /// How long it is by the sender's word, in milliseconds; at most [`VOICEMAIL_MS_MAX`].
    pub duration_ms: u32,
    /// Its size; 1 to [`VOICEMAIL_BYTES_MAX`].
    pub bytes: u32,
    /// SHA-256 of it.
    pub hash: [u8; 32],
    /// How loud it is over time, for drawing: at most [`WAVEFORM_POINTS_MAX`] peaks, 255 the loudest there can be.
    pub waveform: Vec<u8>,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Voicemail {
    /// What says that this recording is coming.
    #[must_use]
    pub fn of(recording: &[u8], call: Option<CallId>, duration_ms: u32, waveform: Vec<u8>) -> Self {
        Self {
            call,
            duration_ms,
            bytes: u32::try_from(recording.len()).unwrap_or(u32::MAX),
            hash: Sha256::digest(recording).into(),
            waveform,
            extensions: Extensions::none(),
        }
    }

    /// In how many parts it comes.
    #[must_use]
    pub const fn part_count(&self) -> usize {
        (self.bytes as usize).div_ceil(VOICEMAIL_PART_BYTES)
    }

    /// How many bytes the part with this number has; `None` if there is none.
    #[must_use]
    pub fn part_bytes(&self, index: usize) -> Option<usize> {
        let start = index.checked_mul(VOICEMAIL_PART_BYTES)?;
        (self.bytes as usize).checked_sub(start).filter(|left| *left > 0).map(|left| left.min(VOICEMAIL_PART_BYTES))
    }

    /// Checks ranges after decoding.
    ///
    /// # Errors
    /// [`DecodeError::Invalid`] for the field out of range.
    pub fn check(&self) -> Result<(), DecodeError> {
        if self.duration_ms == 0 || self.duration_ms > VOICEMAIL_MS_MAX {
            return Err(DecodeError::invalid("duration_ms", format!("{}, 1 to {VOICEMAIL_MS_MAX}", self.duration_ms)));
        }
        if self.bytes == 0 || self.bytes as usize > VOICEMAIL_BYTES_MAX {
            return Err(DecodeError::invalid("bytes", format!("{}, 1 to {VOICEMAIL_BYTES_MAX}", self.bytes)));
        }
        if self.waveform.len() > WAVEFORM_POINTS_MAX {
            return Err(DecodeError::invalid("waveform", format!("{}, at most {WAVEFORM_POINTS_MAX}", self.waveform.len())));
        }
        Ok(())
    }
}

/// A piece of a recording.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct VoicemailPart {
    /// The message that says it is coming, from the same device.
    pub voicemail: MessageId,
    /// Which piece, from 0 on; less than [`VOICEMAIL_PARTS_MAX`].
    pub index: u16,
    /// Its bytes: [`VOICEMAIL_PART_BYTES`], of the last one the rest.
    pub bytes: Vec<u8>,
    /// Room to grow.
    pub extensions: Extensions,
}

impl VoicemailPart {
    /// The parts of a recording.
    pub fn of(voicemail: MessageId, recording: &[u8]) -> impl Iterator<Item = Self> {
        (0_u16..).zip(recording.chunks(VOICEMAIL_PART_BYTES)).map(move |(index, bytes)| Self {
            voicemail,
            index,
            bytes: bytes.to_vec(),
            extensions: Extensions::none(),
        })
    }

    /// Checks ranges after decoding.
    ///
    /// # Errors
    /// [`DecodeError::Invalid`] for the field out of range.
    pub fn check(&self) -> Result<(), DecodeError> {
        if usize::from(self.index) >= VOICEMAIL_PARTS_MAX {
            return Err(DecodeError::invalid("index", format!("{}, less than {VOICEMAIL_PARTS_MAX}", self.index)));
        }
        if self.bytes.is_empty() || self.bytes.len() > VOICEMAIL_PART_BYTES {
            return Err(DecodeError::invalid("bytes", format!("{}, 1 to {VOICEMAIL_PART_BYTES}", self.bytes.len())));
        }
        Ok(())
    }
}

/// What is said of voicemail.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum VoicemailSignal {
    /// A recording was left; part of the conversation.
    Left(Voicemail),
    /// A piece of it; not shown.
    Part(VoicemailPart),
}

impl VoicemailSignal {
    /// The word for logs.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Left(_) => "voicemail",
            Self::Part(_) => "voicemail part",
        }
    }

    /// Checks ranges after decoding.
    ///
    /// # Errors
    /// [`DecodeError::Invalid`] for the field out of range.
    pub fn check(&self) -> Result<(), DecodeError> {
        match self {
            Self::Left(voicemail) => voicemail.check(),
            Self::Part(part) => part.check(),
        }
    }
}

/// "Give me this part": to another own device that has the recording, from one that has heard of it too late to get it from its sender.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct VoicemailFetch {
    /// The device that left it.
    pub device: DeviceKey,
    /// The message that tells of it.
    pub voicemail: MessageId,
    /// Which part.
    pub index: u16,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Message for VoicemailFetch {
    const KIND: FrameKind = FrameKind(0x00b1);
    const LIMIT: usize = 256;
}

/// Answer to [`VoicemailFetch`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct VoicemailPiece {
    /// The part; empty if it isn't here, or the asker is no own device.
    pub bytes: Vec<u8>,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Message for VoicemailPiece {
    const KIND: FrameKind = FrameKind(FrameKind::ANSWER | VoicemailFetch::KIND.0);
    const LIMIT: usize = 40_960;

    fn check(&self) -> Result<(), DecodeError> {
        if self.bytes.len() > VOICEMAIL_PART_BYTES {
            return Err(DecodeError::invalid("bytes", format!("{}, at most {VOICEMAIL_PART_BYTES}", self.bytes.len())));
        }
        Ok(())
    }
}

/// Why parts make no recording. The sender's fault, all of them: what is lost on the way comes again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VoicemailError {
    /// There aren't as many bytes as were told.
    #[error("{found} bytes where {told} were told")]
    Length {
        /// By the sender's word.
        told: u32,
        /// What has come.
        found: usize,
    },
    /// They are others than those told.
    #[error("its hash is another than was told")]
    Hash,
    /// It isn't a recording.
    #[error(transparent)]
    Ogg(#[from] OggError),
}

/// The recording of its parts, in order; checked through and through, but not decoded.
///
/// # Errors
/// [`VoicemailError`]. Never panics, whatever the parts are.
pub fn assemble<'a>(
    voicemail: &Voicemail,
    parts: impl IntoIterator<Item = &'a [u8]>,
) -> Result<(Vec<u8>, Recording), VoicemailError> {
    let mut bytes = Vec::with_capacity((voicemail.bytes as usize).min(VOICEMAIL_BYTES_MAX));
    for part in parts {
        if bytes.len() + part.len() > voicemail.bytes as usize {
            return Err(VoicemailError::Length { told: voicemail.bytes, found: bytes.len() + part.len() });
        }
        bytes.extend_from_slice(part);
    }
    if bytes.len() != voicemail.bytes as usize {
        return Err(VoicemailError::Length { told: voicemail.bytes, found: bytes.len() });
    }
    if <[u8; 32]>::from(Sha256::digest(&bytes)) != voicemail.hash {
        return Err(VoicemailError::Hash);
    }
    let recording = ogg::read(&bytes)?;
    Ok((bytes, recording))
}
