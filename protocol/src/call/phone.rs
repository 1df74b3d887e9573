//! Which phone of the callee's an invite is for, where it is for one alone.
//!
//! A SIP phone has an address of its own (GRUU, RFC 5627) beside its user's. Who calls that address invites the user's devices as ever, and says in the sealed invite
//! which phone is meant: a device that is an edge for phones rings there alone, and every other one refuses
//! ([`Reason::PHONE_NOT_HERE`](super::Reason::PHONE_NOT_HERE)).
//!
//! A reader who doesn't know the extension passes it over, and rings as for its user.

use super::invite::Invite;
use crate::sip::gruu::PhoneMark;
use crate::wire::{self, DecodeError, Extensions};

/// Tag of the invite's extension that holds a [`PhonePart`]: the 8 bytes of its mark.
pub const PHONE_EXTENSION: u16 = 0x00d1;

/// The phone that alone is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PhonePart(pub PhoneMark);

impl PhonePart {
    /// The invite's extensions with this among them.
    #[must_use]
    pub fn add_to(&self, extensions: Extensions) -> Extensions {
        extensions.with(PHONE_EXTENSION, wire::encode(&self.0.to_bytes()))
    }

    /// The phone that an invite is for, if it is for one alone.
    ///
    /// # Errors
    /// [`DecodeError`] if it says something that can't be read: such an invite isn't for all.
    pub fn of(invite: &Invite) -> Result<Option<Self>, DecodeError> {
        Self::of_extensions(&invite.extensions)
    }

    /// The same of an invite's extensions.
    ///
    /// # Errors
    /// As [`PhonePart::of`].
    pub fn of_extensions(extensions: &Extensions) -> Result<Option<Self>, DecodeError> {
        let Some(bytes) = extensions.find(PHONE_EXTENSION) else { return Ok(None) };
        wire::decode(bytes, PhoneMark::BYTES).map(|mark| Some(Self(PhoneMark::from_bytes(mark))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_read_and_nothing_else() {
        let part = PhonePart(PhoneMark::of("urn:uuid:00000000-0000-0000-0000-000000000001"));
        let extensions = part.add_to(Extensions::none());
        assert_eq!(extensions.find(PHONE_EXTENSION).map(<[u8]>::len), Some(8));
        assert_eq!(PhonePart::of_extensions(&extensions), Ok(Some(part)));
        assert_eq!(PhonePart::of_extensions(&Extensions::none()), Ok(None));
        for wrong in [0, 7, 9] {
            let extensions = Extensions::none().with(PHONE_EXTENSION, vec![1; wrong]);
            assert!(PhonePart::of_extensions(&extensions).is_err(), "{wrong} bytes");
        }
    }
}
