//! What the two devices say.

use std::fmt;

use bincode::{Decode, Encode};

use super::grant::{GRANT_BYTES_MAX, REQUEST_BYTES_MAX};
use super::keys::{ELEMENT_BYTES, SEAL_OVERHEAD_BYTES};
use crate::wire::{DecodeError, Extensions, FrameKind, Message};

/// Why a device isn't linked. An open list: numbers unknown to a reader are refusals all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct LinkReason(pub u16);

impl LinkReason {
    /// No code is open here: never was, is used, burnt, or over.
    pub const CLOSED: Self = Self(1);
    /// The proof doesn't fit: a wrong code, or somebody in between. The code is burnt.
    pub const WRONG_CODE: Self = Self(2);
    /// Too many have begun: later.
    pub const BUSY: Self = Self(3);
    /// The message isn't one.
    pub const INVALID: Self = Self(4);
    /// Something failed at the holder.
    pub const FAILED: Self = Self(5);

    const fn text(self) -> &'static str {
        match self {
            Self::CLOSED => "no link code is open on the other device: it is used, burnt or over; make a new one there",
            Self::WRONG_CODE => "wrong link code; it can't be used any more, make a new one on the other device",
            Self::BUSY => "too many devices ask at once; try again",
            Self::INVALID => "the other device could not read the request",
            Self::FAILED => "something failed on the other device; its log says what",
            _ => "refused",
        }
    }
}

impl fmt::Display for LinkReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.text() {
            "refused" => write!(f, "refused ({})", self.0),
            text => f.write_str(text),
        }
    }
}

/// The joiner begins.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct LinkStart {
    /// Its SPAKE2 message: the letter `A` and a point.
    pub element: [u8; ELEMENT_BYTES],
    /// Room to grow.
    pub extensions: Extensions,
}

impl Message for LinkStart {
    const KIND: FrameKind = FrameKind(0x0090);
    const LIMIT: usize = 256;
}

/// What became of a [`LinkStart`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum StartStatus {
    /// Go on.
    Started {
        /// The holder's SPAKE2 message: the letter `B` and a point.
        element: [u8; ELEMENT_BYTES],
    },
    /// No.
    Refused(LinkReason),
}

/// Answer to [`LinkStart`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct LinkStarted {
    /// What happened.
    pub status: StartStatus,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Message for LinkStarted {
    const KIND: FrameKind = FrameKind(FrameKind::ANSWER | LinkStart::KIND.0);
    const LIMIT: usize = 256;
}

/// The joiner proves that it knows the code.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct LinkConfirm {
    /// HMAC under the joiner's key, over the transcript and `sealed`.
    pub proof: [u8; 32],
    /// A sealed [`LinkRequest`](super::LinkRequest).
    pub sealed: Vec<u8>,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Message for LinkConfirm {
    const KIND: FrameKind = FrameKind(0x0091);
    const LIMIT: usize = REQUEST_BYTES_MAX + SEAL_OVERHEAD_BYTES + 256;

    fn check(&self) -> Result<(), DecodeError> {
        check_sealed(&self.sealed, REQUEST_BYTES_MAX)
    }
}

/// What became of a [`LinkConfirm`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum ConfirmStatus {
    /// You are one of the user's devices.
    Granted {
        /// HMAC under the holder's key, over the transcript and `sealed`.
        proof: [u8; 32],
        /// A sealed [`LinkGrant`](super::LinkGrant).
        sealed: Vec<u8>,
    },
    /// No.
    Refused(LinkReason),
}

/// Answer to [`LinkConfirm`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct LinkConfirmed {
    /// What happened.
    pub status: ConfirmStatus,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Message for LinkConfirmed {
    const KIND: FrameKind = FrameKind(FrameKind::ANSWER | LinkConfirm::KIND.0);
    const LIMIT: usize = GRANT_BYTES_MAX + SEAL_OVERHEAD_BYTES + 256;

    fn check(&self) -> Result<(), DecodeError> {
        match &self.status {
            ConfirmStatus::Granted { sealed, .. } => check_sealed(sealed, GRANT_BYTES_MAX),
            ConfirmStatus::Refused(_) => Ok(()),
        }
    }
}

/// The joiner has everything on its disk.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct LinkDone {
    /// HMAC under a key for this alone, over the transcript.
    pub proof: [u8; 32],
    /// Room to grow.
    pub extensions: Extensions,
}

impl Message for LinkDone {
    const KIND: FrameKind = FrameKind(0x0092);
    const LIMIT: usize = 256;
}

/// Answer to [`LinkDone`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct LinkFinished {
    /// `false`: the holder knows nothing of it.
    pub is_known: bool,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Message for LinkFinished {
    const KIND: FrameKind = FrameKind(FrameKind::ANSWER | LinkDone::KIND.0);
    const LIMIT: usize = 256;
}

fn check_sealed(sealed: &[u8], content_max: usize) -> Result<(), DecodeError> {
    let limit = content_max + SEAL_OVERHEAD_BYTES;
    if sealed.len() > limit { Err(DecodeError::TooLarge { length: sealed.len(), limit }) } else { Ok(()) }
}
