//! Signals: what devices tell each other about a call that an invite began.

use bincode::{Decode, Encode};

use super::Reason;
use crate::id::CallId;
use crate::key::{DeviceKey, SignatureError};
use crate::wire::{Body, DecodeError, Extensions, FrameKind, Message, Signed};

/// Largest session description, in bytes.
pub const SDP_BYTES_MAX: usize = 4 * 1024;

/// Largest candidate, in bytes.
pub const CANDIDATE_BYTES_MAX: usize = 512;

/// The extension of a [`SignalBody::Ringing`] that carries the answer before anybody has answered.
const EARLY_ANSWER: u16 = 0x0001;

/// The extension beside [`EARLY_ANSWER`], empty, of a device that is to be heard while it rings.
const EARLY_AUDIO: u16 = 0x0002;

/// What one device tells another about a call.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum SignalBody {
    /// Callee: it rings here. For invites that came with no stream to answer on, and to connect media while it rings
    /// ([`Signal::early_answer`]).
    Ringing,
    /// Callee: answered here. Acknowledged with whether this device is the one.
    Accept {
        /// The answer to the offer (SDP).
        answer: String,
    },
    /// Callee: not here, for this reason; [`Reason::BUSY`] leaves other devices ringing.
    Decline {
        /// Why.
        reason: Reason,
    },
    /// Caller: stop ringing.
    Cancel {
        /// Why.
        reason: Reason,
    },
    /// Either: one more candidate (the line without `a=`).
    Candidate {
        /// The candidate.
        candidate: String,
    },
    /// Either, after the answer: it is over.
    HangUp {
        /// Why.
        reason: Reason,
    },
    /// Caller: another device is the one.
    Replaced {
        /// Which.
        by: DeviceKey,
    },
}

/// One signal. Signed by `from`.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Signal {
    /// The call.
    pub call: CallId,
    /// The device that says it, and signs.
    pub from: DeviceKey,
    /// The device it is for.
    pub to: DeviceKey,
    /// Number among `from`'s signals to `to` in this call, from 1 on; a repetition has the same.
    pub sequence: u32,
    /// What it says.
    pub body: SignalBody,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Signal {
    /// The extensions of a [`SignalBody::Ringing`] with which media can be connected while it rings, and the device heard if it `is_heard`.
    pub(super) fn with_early_answer(answer: String, is_heard: bool) -> Extensions {
        let extensions = Extensions::none().with(EARLY_ANSWER, answer.into_bytes());
        if is_heard { extensions.with(EARLY_AUDIO, Vec::new()) } else { extensions }
    }

    /// The answer (SDP) of a device that rings, for media to be connected before a person answers: audio flows after the accept only, but for
    /// [`Signal::has_early_audio`].
    #[must_use]
    pub fn early_answer(&self) -> Option<&str> {
        let bytes = self.extensions.find(EARLY_ANSWER).filter(|_| self.body == SignalBody::Ringing)?;
        std::str::from_utf8(bytes).ok()
    }

    /// Whether the caller is to hear the device that gives this early answer while it rings: an announcement, or the ringing of a network behind it.
    /// Nothing of the caller goes the other way before the accept.
    #[must_use]
    pub fn has_early_audio(&self) -> bool {
        self.early_answer().is_some() && self.extensions.find(EARLY_AUDIO).is_some()
    }
}

impl Body for Signal {
    const KIND: u16 = 0x0302;
    const LIMIT: usize = SDP_BYTES_MAX + 1_024;

    fn check(&self) -> Result<(), DecodeError> {
        match &self.body {
            SignalBody::Accept { answer } if answer.len() > SDP_BYTES_MAX => {
                Err(DecodeError::invalid("answer", format!("{} bytes, at most {SDP_BYTES_MAX}", answer.len())))
            }
            SignalBody::Candidate { candidate } if candidate.len() > CANDIDATE_BYTES_MAX => {
                Err(DecodeError::invalid("candidate", format!("{} bytes, at most {CANDIDATE_BYTES_MAX}", candidate.len())))
            }
            SignalBody::Ringing if self.extensions.find(EARLY_ANSWER).is_some_and(|early| early.len() > SDP_BYTES_MAX) => {
                Err(DecodeError::invalid("early answer", format!("more than {SDP_BYTES_MAX} bytes")))
            }
            _ => Ok(()),
        }
    }
}

/// Why a signal isn't believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SignalError {
    /// For another device: somebody repeats what he heard.
    #[error("the signal is for {0}")]
    WrongRecipient(DeviceKey),
    /// Not signed by the device it names.
    #[error("signal: {0}")]
    Signature(#[from] SignatureError),
}

/// A signal that the device it names has signed for us. Whether that device has a say in the call is the machine's to judge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedSignal(Signal);

impl VerifiedSignal {
    /// Checks recipient and signature.
    ///
    /// # Errors
    /// [`SignalError`].
    pub fn verify(signed: &Signed<Signal>, me: &DeviceKey) -> Result<Self, SignalError> {
        let claimed = signed.unverified();
        if claimed.to != *me {
            return Err(SignalError::WrongRecipient(claimed.to));
        }
        Ok(Self(signed.verify(&claimed.from.0)?.clone()))
    }

    /// What it says.
    #[must_use]
    pub const fn signal(&self) -> &Signal {
        &self.0
    }

    #[cfg(test)]
    pub(crate) const fn unchecked(signal: Signal) -> Self {
        Self(signal)
    }
}

/// A signal on its way. Repeated until [`CallSignalAck`] comes.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct CallSignal {
    /// The signal.
    pub signal: Signed<Signal>,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Message for CallSignal {
    const KIND: FrameKind = FrameKind(0x0032);
    const LIMIT: usize = Signal::LIMIT + 1_024;
}

/// What the receiver did with a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum SignalStatus {
    /// Taken, now or before. For an accept: the call is yours.
    Taken,
    /// The call isn't known here, or no longer.
    UnknownCall,
    /// Not taken. For an accept: the call is another's, or over.
    Refused(Reason),
}

/// Answer to [`CallSignal`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct CallSignalAck {
    /// What happened.
    pub status: SignalStatus,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Message for CallSignalAck {
    const KIND: FrameKind = FrameKind(FrameKind::ANSWER | CallSignal::KIND.0);
    const LIMIT: usize = 256;
}
