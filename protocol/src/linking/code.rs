//! The short code that a person carries from one device to the other.

use std::fmt;
use std::str::FromStr;

use bincode::{Decode, Encode};
use zeroize::Zeroize;

/// Letters and digits that aren't mistaken for each other: `I`, `L` and `O` are read as the digits they look like, `U` isn't used.
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// Characters of a code, the hyphen in the middle not counted. Five bits each: one try hits with a chance of one in 10^12.
pub const LINK_CODE_CHARS: usize = 8;

/// Longest text looked at: a code with spaces around and between.
const TEXT_BYTES_MAX: usize = 64;

/// Why a text isn't a code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LinkCodeError {
    /// A character no code has.
    #[error("{0:?} can't be part of a link code")]
    Character(char),
    /// Too few characters, or too many.
    #[error("a link code has {LINK_CODE_CHARS} letters and digits, like K7QX-9M2P")]
    Length,
}

/// 40 random bits, as eight letters and digits: shown `K7QX-9M2P`. Wiped when dropped, never printed by mistake.
#[derive(Clone, PartialEq, Eq, Encode, Decode, Zeroize)]
#[zeroize(drop)]
pub struct LinkCode([u8; 5]);

impl LinkCode {
    /// From random bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 5]) -> Self {
        Self(bytes)
    }

    /// The code as people read and type it.
    #[must_use]
    pub fn to_text(&self) -> String {
        let bits = self.0.iter().fold(0_u64, |bits, byte| bits << 8 | u64::from(*byte));
        let mut text = String::with_capacity(LINK_CODE_CHARS + 1);
        for position in 0..LINK_CODE_CHARS {
            if position == LINK_CODE_CHARS / 2 {
                text.push('-');
            }
            let index = bits >> (5 * (LINK_CODE_CHARS - 1 - position)) & 31;
            text.push(char::from(ALPHABET[usize::try_from(index).unwrap_or(0)]));
        }
        text
    }

    pub(super) const fn as_bytes(&self) -> &[u8; 5] {
        &self.0
    }
}

impl FromStr for LinkCode {
    type Err = LinkCodeError;

    /// In any case, with spaces and hyphens anywhere.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(LinkCodeError::Length);
        }
        let (mut bits, mut count) = (0_u64, 0);
        for c in text.chars().filter(|c| !c.is_whitespace() && *c != '-') {
            let plain = match c.to_ascii_uppercase() {
                'O' => '0',
                'I' | 'L' => '1',
                other => other,
            };
            let index = ALPHABET.iter().position(|known| char::from(*known) == plain).ok_or(LinkCodeError::Character(c))?;
            bits = bits << 5 | index as u64;
            count += 1;
            if count > LINK_CODE_CHARS {
                return Err(LinkCodeError::Length);
            }
        }
        if count != LINK_CODE_CHARS {
            return Err(LinkCodeError::Length);
        }
        let [_, _, _, bytes @ ..] = bits.to_be_bytes();
        Ok(Self(bytes))
    }
}

impl fmt::Debug for LinkCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LinkCode(..)")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn codes_are_read_as_people_type_them() {
        let code = LinkCode::from_bytes([0x08, 0x42, 0x10, 0x84, 0x21]);
        assert_eq!(code.to_text(), "1111-1111");
        for typed in ["11111111", " 1111 1111 ", "lIiL-1111", "1-1-1-1-1-1-1-1"] {
            assert_eq!(typed.parse(), Ok(code.clone()), "{typed}");
        }
        assert_eq!("0000oooo".parse(), Ok(LinkCode::from_bytes([0; 5])));
        assert_eq!("1111-111".parse::<LinkCode>(), Err(LinkCodeError::Length));
        assert_eq!("1111-11111".parse::<LinkCode>(), Err(LinkCodeError::Length));
        assert_eq!("1111-111U".parse::<LinkCode>(), Err(LinkCodeError::Character('U')));
        assert_eq!("x".repeat(1_000).parse::<LinkCode>(), Err(LinkCodeError::Length));
        assert_eq!(format!("{code:?}"), "LinkCode(..)");
    }

    proptest! {
        #[test]
        fn every_code_is_read_back(bytes: [u8; 5], junk in ".{0,80}") {
            let code = LinkCode::from_bytes(bytes);
            prop_assert_eq!(code.to_text().to_lowercase().parse(), Ok(code));
            let _ = junk.parse::<LinkCode>();
        }
    }
}
