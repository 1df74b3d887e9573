//! A contact as a text to pass on, and the number two people compare.
//!
//! A link is `halloo:contact1` and base64url of `body || checksum (4)`. It names the user completely, authority's root key included, and the
//! identity key to expect: who adds somebody by it takes nobody's word for the key, not the authority's either.

use std::fmt;

use bincode::{Decode, Encode};
use data_encoding::BASE64URL_NOPAD;

use crate::authority::LABEL_BYTES_MAX;
use crate::identity::UserId;
use crate::key::{IdentityKey, hash};
use crate::wire::{DecodeError, Extensions, decode, encode};

/// What every link starts with; the number is the version of the layout.
pub const CONTACT_LINK_PREFIX: &str = "halloo:contact1";

/// Longest link: a small QR code.
pub const CONTACT_LINK_CHARS_MAX: usize = 800;

const CHECKSUM_BYTES: usize = 4;

/// Why a text isn't a contact link.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ContactLinkError {
    /// It starts with something else.
    #[error("a contact link starts with `{CONTACT_LINK_PREFIX}`")]
    Prefix,
    /// More than [`CONTACT_LINK_CHARS_MAX`] characters.
    #[error("a contact link has at most {CONTACT_LINK_CHARS_MAX} characters, this one has {0}")]
    TooLong(usize),
    /// Too short, a wrong character, or its checksum doesn't fit.
    #[error("the contact link is damaged: a character is wrong or missing; copy it again")]
    Damaged,
    /// The checksum fits, the content doesn't: made by something newer or broken.
    #[error("the contact link can't be read by this version: {0}")]
    Content(DecodeError),
}

/// A user, with the key to expect.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ContactLink {
    /// Who.
    pub user: UserId,
    /// Their identity key.
    pub identity: IdentityKey,
    /// What its maker calls the authority, for showing; at most 64 bytes, may be empty.
    pub label: String,
    /// Room to grow.
    pub extensions: Extensions,
}

impl ContactLink {
    /// Writes the link.
    ///
    /// # Errors
    /// [`ContactLinkError::Content`] or [`ContactLinkError::TooLong`] if a part is out of range.
    pub fn to_text(&self) -> Result<String, ContactLinkError> {
        self.check().map_err(ContactLinkError::Content)?;
        let mut bytes = encode(self);
        let sum = checksum(&bytes);
        bytes.extend_from_slice(&sum);
        let text = format!("{CONTACT_LINK_PREFIX}{}", BASE64URL_NOPAD.encode(&bytes));
        if text.len() > CONTACT_LINK_CHARS_MAX { Err(ContactLinkError::TooLong(text.len())) } else { Ok(text) }
    }

    /// Reads a link. White space, as mail programs add it, is ignored.
    ///
    /// # Errors
    /// [`ContactLinkError`], worded for the person who pasted it.
    pub fn parse(text: &str) -> Result<Self, ContactLinkError> {
        if text.len() > 4 * CONTACT_LINK_CHARS_MAX {
            return Err(ContactLinkError::TooLong(text.len()));
        }
        let text: String = text.chars().filter(|c| !c.is_whitespace()).collect();
        let payload = text.strip_prefix(CONTACT_LINK_PREFIX).ok_or(ContactLinkError::Prefix)?;
        if text.len() > CONTACT_LINK_CHARS_MAX {
            return Err(ContactLinkError::TooLong(text.len()));
        }
        let bytes = BASE64URL_NOPAD.decode(payload.as_bytes()).map_err(|_| ContactLinkError::Damaged)?;
        let (body, sum) = bytes.split_last_chunk::<CHECKSUM_BYTES>().ok_or(ContactLinkError::Damaged)?;
        if checksum(body) != *sum {
            return Err(ContactLinkError::Damaged);
        }
        let link: Self = decode(body, CONTACT_LINK_CHARS_MAX).map_err(ContactLinkError::Content)?;
        link.check().map_err(ContactLinkError::Content)?;
        Ok(link)
    }

    fn check(&self) -> Result<(), DecodeError> {
        if self.label.len() > LABEL_BYTES_MAX {
            return Err(DecodeError::invalid("label", format!("{} bytes, at most {LABEL_BYTES_MAX}", self.label.len())));
        }
        match &self.user {
            UserId::Key(identity) if *identity != self.identity => {
                Err(DecodeError::invalid("identity", "another than the user's"))
            }
            _ => Ok(()),
        }
    }
}

fn checksum(body: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let [a, b, c, d, ..] = hash("halloo contact link", &[body]);
    [a, b, c, d]
}

/// Groups of a safety number.
const GROUPS: usize = 12;

/// Bytes behind a group: 40 bits for 5 digits, so that all of them are about equally likely.
const GROUP_BYTES: usize = 5;

/// The number two people read to each other to be sure that each has the other's true identity key: 60 digits in groups of five, the same on
/// both sides. It follows from the two keys alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SafetyNumber([u32; GROUPS]);

impl SafetyNumber {
    /// The number of two users.
    #[must_use]
    pub fn of(one: &IdentityKey, other: &IdentityKey) -> Self {
        let (first, second) = if one <= other { (one, other) } else { (other, one) };
        let half = |number: u8| hash("halloo safety number", &[&[number], first.as_bytes(), second.as_bytes()]);
        let bytes = [half(0), half(1)].concat();
        let mut groups = [0; GROUPS];
        for (group, bytes) in groups.iter_mut().zip(bytes.chunks_exact(GROUP_BYTES)) {
            let number = bytes.iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
            *group = u32::try_from(number % 100_000).unwrap_or(0);
        }
        Self(groups)
    }
}

/// Twelve groups of five digits.
impl fmt::Display for SafetyNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, group) in self.0.iter().enumerate() {
            let gap = if position == 0 { "" } else { " " };
            write!(f, "{gap}{group:05}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::identity::Username;
    use crate::key::{AuthorityKey, PublicKey};

    fn link() -> ContactLink {
        let user =
            UserId::Named { authority: AuthorityKey(PublicKey([1; 32])), name: Username::new("alice").expect("a good name") };
        let identity = IdentityKey(PublicKey([2; 32]));
        ContactLink { user, identity, label: "example".into(), extensions: Extensions::none() }
    }

    #[test]
    fn links_round_trip_and_typos_are_caught() {
        let text = link().to_text().expect("in range");
        assert_eq!(ContactLink::parse(&text), Ok(link()));
        assert_eq!(ContactLink::parse(&format!(" {}\n {}\n", &text[..30], &text[30..])), Ok(link()));
        for position in 0..text.len() {
            for replacement in ['A', 'b', '7', '_', '!', 'é'] {
                let typo: String = text.char_indices().map(|(at, c)| if at == position { replacement } else { c }).collect();
                assert!(typo == text || ContactLink::parse(&typo).is_err(), "{position} {replacement}");
            }
        }
    }

    #[test]
    fn refusals_say_what_is_wrong() {
        assert_eq!(ContactLink::parse("alice@example"), Err(ContactLinkError::Prefix));
        assert_eq!(ContactLink::parse(CONTACT_LINK_PREFIX), Err(ContactLinkError::Damaged));
        assert!(matches!(ContactLink::parse(&"a".repeat(10_000)), Err(ContactLinkError::TooLong(10_000))));
        let other = ContactLink { user: UserId::Key(IdentityKey(PublicKey([9; 32]))), ..link() };
        assert!(matches!(other.to_text(), Err(ContactLinkError::Content(_))));
        assert!(ContactLink { label: "x".repeat(65), ..link() }.to_text().is_err());
    }

    #[test]
    fn safety_numbers_are_the_same_on_both_sides_and_differ_for_others() {
        let key = |byte| IdentityKey(PublicKey([byte; 32]));
        let number = SafetyNumber::of(&key(1), &key(2));
        assert_eq!(number, SafetyNumber::of(&key(2), &key(1)));
        assert_ne!(number, SafetyNumber::of(&key(1), &key(3)));
        let text = number.to_string();
        assert_eq!(text.len(), 71);
        assert!(text.split(' ').all(|group| group.len() == 5 && group.bytes().all(|byte| byte.is_ascii_digit())));
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in ".{0,200}", bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = ContactLink::parse(&text);
            let mut with_sum = bytes.clone();
            with_sum.extend_from_slice(&checksum(&bytes));
            let _ = ContactLink::parse(&format!("{CONTACT_LINK_PREFIX}{}", BASE64URL_NOPAD.encode(&with_sum)));
        }
    }
}
