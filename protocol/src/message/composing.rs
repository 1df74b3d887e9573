//! That somebody is writing a message: said to contacts while it is so, and kept by nobody.

use bincode::{Decode, Encode};

use crate::wire::{DecodeError, Extensions, FrameKind, Message};

/// For how long such a word holds at most, in seconds, before it has to be said again.
pub const COMPOSING_SECS_MAX: u16 = 600;

/// How long it holds where nobody says otherwise (as in RFC 3994 section 3.3).
pub const COMPOSING_SECS: u16 = 120;

/// "I am writing to you", or no longer, from a user's device to all devices of a contact. A notice: losing one does no harm. Whose device says it the hello has
/// shown, and the stream is read by nobody else.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Composing {
    /// For how many seconds this holds, [`COMPOSING_SECS_MAX`] at most; 0: has stopped. A message that comes ends it too.
    pub for_secs: u16,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Message for Composing {
    const KIND: FrameKind = FrameKind(FrameKind::NOTICE | 0x00f0);
    const LIMIT: usize = 256;

    fn check(&self) -> Result<(), DecodeError> {
        if self.for_secs > COMPOSING_SECS_MAX {
            return Err(DecodeError::invalid("for_secs", format!("{}, at most {COMPOSING_SECS_MAX}", self.for_secs)));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_writes_for_ever() {
        let says = |for_secs| Composing { for_secs, extensions: Extensions::none() }.check();
        assert!(says(0).is_ok() && says(COMPOSING_SECS_MAX).is_ok());
        assert!(says(COMPOSING_SECS_MAX + 1).is_err());
    }
}
