//! What an invite says of the telephone network: which number is meant, or from which number a call comes.
//!
//! Who calls a telephone number invites the device of a gateway, and the number stands in the sealed invite, so only the gateway reads it. A device
//! that is no gateway refuses such an invite ([`Reason::TELEPHONE_NO_GATEWAY`](super::Reason::TELEPHONE_NO_GATEWAY)). A call from the telephone
//! network is a call of the gateway's, who says with it what the provider says of the caller: nobody has verified that number.
//!
//! A reader who doesn't know the extension passes it over: it rings for the gateway's call, or, as callee of a dialled number, for the caller's.

use bincode::{Decode, Encode};

use super::invite::Invite;
use crate::trunk::number::Dialled;
use crate::wire::{self, DecodeError, Extensions};

/// Tag of the invite's extension that holds a [`TelephonePart`].
pub const TELEPHONE_EXTENSION: u16 = 0x00d0;

/// Largest [`TelephonePart`].
const PART_BYTES_MAX: usize = 64;

/// As it goes over the wire.
#[derive(Encode, Decode)]
enum Written {
    Dial(String),
    From(Option<String>),
}

/// What an invite says of the telephone network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TelephonePart {
    /// Caller to gateway: place a call to this number.
    Dial(Dialled),
    /// Gateway to callee: the call comes from the telephone network, and from this number by the provider's word; `None`: it is withheld.
    From(Option<Dialled>),
}

impl TelephonePart {
    /// The invite's extensions with this among them.
    #[must_use]
    pub fn add_to(&self, extensions: Extensions) -> Extensions {
        let written = match self {
            Self::Dial(number) => Written::Dial(number.to_string()),
            Self::From(number) => Written::From(number.as_ref().map(ToString::to_string)),
        };
        extensions.with(TELEPHONE_EXTENSION, wire::encode(&written))
    }

    /// What an invite says.
    ///
    /// # Errors
    /// [`DecodeError`] if it says something that can't be read: such an invite isn't an ordinary one.
    pub fn of(invite: &Invite) -> Result<Option<Self>, DecodeError> {
        Self::of_extensions(&invite.extensions)
    }

    /// The same of an invite's extensions.
    ///
    /// # Errors
    /// As [`TelephonePart::of`].
    pub fn of_extensions(extensions: &Extensions) -> Result<Option<Self>, DecodeError> {
        let Some(bytes) = extensions.find(TELEPHONE_EXTENSION) else { return Ok(None) };
        // Only numbers without separators are written: two writings of one number aren't two numbers.
        let number = |text: String| match Dialled::parse(&text) {
            Ok(number) if number.as_str() == text => Ok(number),
            _ => Err(DecodeError::invalid("telephone number", "none")),
        };
        Ok(Some(match wire::decode(bytes, PART_BYTES_MAX)? {
            Written::Dial(text) => Self::Dial(number(text)?),
            Written::From(text) => Self::From(text.map(number).transpose()?),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(text: &str) -> TelephonePart {
        TelephonePart::Dial(Dialled::parse(text).expect("a number"))
    }

    #[test]
    fn what_is_said_is_read_and_nothing_else() {
        for part in
            [part("+4930123456"), part("*31#112"), TelephonePart::From(None), TelephonePart::From(Dialled::parse("1").ok())]
        {
            assert_eq!(TelephonePart::of_extensions(&part.add_to(Extensions::none())), Ok(Some(part)));
        }
        assert_eq!(TelephonePart::of_extensions(&Extensions::none()), Ok(None));
        let wrong = [
            Written::Dial(String::new()),
            Written::Dial("+49-30".into()),
            Written::From(Some("tel:+1".into())),
            Written::Dial("1".repeat(33)),
        ];
        for wrong in wrong {
            let extensions = Extensions::none().with(TELEPHONE_EXTENSION, wire::encode(&wrong));
            assert!(TelephonePart::of_extensions(&extensions).is_err());
        }
        assert!(TelephonePart::of_extensions(&Extensions::none().with(TELEPHONE_EXTENSION, vec![9])).is_err());
    }
}
