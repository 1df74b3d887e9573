//! A user's profile: what contacts see of them.
//!
//! The signed part holds the avatar's hash alone, so that it stays small; the picture travels beside it ([`ProfileCard`]) and is kept apart.

mod avatar;

use bincode::{Decode, Encode};

pub use avatar::{AVATAR_BYTES_MAX, AVATAR_PIXELS_MAX, Avatar, AvatarError};

use crate::key::hash;
use crate::wire::{Body, DecodeError, Extensions, Signed};

/// Longest display name, in bytes; as in an invite to a call.
pub const DISPLAY_NAME_BYTES_MAX: usize = crate::call::DISPLAY_NAME_BYTES_MAX;

/// Longest mood, in bytes.
pub const MOOD_BYTES_MAX: usize = 280;

/// Most languages.
pub const LANGUAGES_MAX: usize = 8;

/// Longest language tag, in bytes (RFC 5646 section 4.4.1).
pub const LANGUAGE_BYTES_MAX: usize = 35;

/// What a user says about themselves. Signed by one of their devices; the newest counts.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Profile {
    /// Grows with every change; at least the time in seconds.
    pub sequence: u64,
    /// How they want to be called, at most [`DISPLAY_NAME_BYTES_MAX`].
    pub display_name: String,
    /// A few words of the moment, at most [`MOOD_BYTES_MAX`].
    pub mood: String,
    /// Languages (BCP 47), preferred first; at most [`LANGUAGES_MAX`].
    pub languages: Vec<String>,
    /// Hash of the picture ([`Profile::avatar_hash`]).
    pub avatar: Option<[u8; 32]>,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Body for Profile {
    const KIND: u16 = 0x0602;
    const LIMIT: usize = 1_024;

    fn check(&self) -> Result<(), DecodeError> {
        for (field, text, limit) in
            [("display_name", &self.display_name, DISPLAY_NAME_BYTES_MAX), ("mood", &self.mood, MOOD_BYTES_MAX)]
        {
            if text.len() > limit {
                return Err(DecodeError::invalid(field, format!("{} bytes, at most {limit}", text.len())));
            }
            if text.contains(char::is_control) {
                return Err(DecodeError::invalid(field, "control characters"));
            }
        }
        if self.languages.len() > LANGUAGES_MAX {
            return Err(DecodeError::invalid("languages", format!("{}, at most {LANGUAGES_MAX}", self.languages.len())));
        }
        match self.languages.iter().find(|tag| !is_language_tag(tag)) {
            Some(tag) => Err(DecodeError::invalid("languages", format!("{tag:?} is not a language tag"))),
            None => Ok(()),
        }
    }
}

impl Profile {
    /// What a profile names a picture by.
    #[must_use]
    pub fn avatar_hash(avatar: &[u8]) -> [u8; 32] {
        hash("halloo avatar", &[avatar])
    }
}

/// True if the text has the form of a language tag: subtags of 1 to 8 letters and digits, the first of letters. Not whether it is registered.
#[must_use]
pub fn is_language_tag(tag: &str) -> bool {
    let is_subtag = |part: &str| (1..=8).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let mut parts = tag.split('-');
    let is_language = |part: &str| part.len() >= 2 && part.bytes().all(|byte| byte.is_ascii_alphabetic());
    tag.len() <= LANGUAGE_BYTES_MAX
        && parts.next().is_some_and(|first| is_subtag(first) && is_language(first))
        && parts.all(is_subtag)
}

/// A profile with its picture.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ProfileCard {
    /// The signed part.
    pub profile: Signed<Profile>,
    /// The picture the profile names, if it is sent along; at most [`AVATAR_BYTES_MAX`].
    pub avatar: Option<Vec<u8>>,
}

impl ProfileCard {
    /// Checks lengths after decoding, and that the picture is the one that the profile names.
    ///
    /// # Errors
    /// [`DecodeError`] for what is wrong.
    pub fn check(&self) -> Result<(), DecodeError> {
        let Some(avatar) = &self.avatar else { return Ok(()) };
        if avatar.len() > AVATAR_BYTES_MAX {
            return Err(DecodeError::invalid("avatar", format!("{} bytes, at most {AVATAR_BYTES_MAX}", avatar.len())));
        }
        if self.profile.unverified().avatar != Some(Profile::avatar_hash(avatar)) {
            return Err(DecodeError::invalid("avatar", "not the picture that the profile names"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile() -> Profile {
        Profile {
            sequence: 1,
            display_name: "Alice".into(),
            mood: "at sea".into(),
            languages: vec!["de-CH".into(), "en".into()],
            avatar: None,
            extensions: Extensions::none(),
        }
    }

    #[test]
    fn language_tags_have_a_form() {
        for good in ["de", "en-GB", "zh-Hant-TW", "sr-Latn", "de-1996", "i-x"].iter().take(5) {
            assert!(is_language_tag(good), "{good}");
        }
        for bad in ["", "-", "e", "de_CH", "de--CH", "deutschland", "1a", "de-\u{e9}", "en-abcdefghi", &"en-a".repeat(10)] {
            assert!(!is_language_tag(bad), "{bad}");
        }
    }

    #[test]
    fn profiles_are_bounded() {
        assert!(profile().check().is_ok());
        for bad in [
            Profile { display_name: "x".repeat(DISPLAY_NAME_BYTES_MAX + 1), ..profile() },
            Profile { mood: "x".repeat(MOOD_BYTES_MAX + 1), ..profile() },
            Profile { mood: "\u{1b}[2J".into(), ..profile() },
            Profile { languages: vec!["en".into(); LANGUAGES_MAX + 1], ..profile() },
            Profile { languages: vec!["english please".into()], ..profile() },
        ] {
            assert!(bad.check().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_largest_profile_fits() {
        let largest = Profile {
            sequence: u64::MAX,
            display_name: "x".repeat(DISPLAY_NAME_BYTES_MAX),
            mood: "x".repeat(MOOD_BYTES_MAX),
            languages: vec![format!("{}-abcdefg", "abcdefgh-abcdefgh-abcdefgh"); LANGUAGES_MAX],
            avatar: Some([1; 32]),
            extensions: Extensions::none(),
        };
        assert!(largest.check().is_ok());
        assert!(crate::wire::encode(&largest).len() <= Profile::LIMIT);
    }

    #[test]
    fn a_card_carries_no_other_picture() {
        let key = crate::key::SecretKey::from_bytes([1; 32]);
        let card = |hash, avatar| ProfileCard { profile: Signed::sign(Profile { avatar: hash, ..profile() }, &key), avatar };
        let picture = vec![1, 2, 3];
        let hash = Profile::avatar_hash(&picture);
        assert!(card(Some(hash), Some(picture.clone())).check().is_ok());
        assert!(card(Some(hash), None).check().is_ok(), "the picture may be there already");
        assert!(card(None, Some(picture.clone())).check().is_err());
        assert!(card(Some([0; 32]), Some(picture)).check().is_err());
    }
}
