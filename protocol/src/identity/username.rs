//! Usernames: one spelling per name.

use std::fmt;
use std::str::FromStr;

use bincode::{Decode, Encode};
use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;
use unicode_security::MixedScript;
use unicode_security::general_security_profile::IdentifierType;

use crate::key::{AuthorityKey, IdentityKey};

/// Most characters in a username, after normalisation.
pub const USERNAME_CHARS_MAX: usize = 64;

/// Most combining marks in a row: four is what scripts need (UTS 39 section 5.4); more is for hiding letters.
const MARKS_IN_A_ROW_MAX: usize = 4;

/// The dot above. Invisible on letters that have a dot already.
const DOT_ABOVE: char = '\u{307}';

/// Most bytes of input looked at: 64 characters of 4 bytes, with room for what normalisation shrinks.
const INPUT_BYTES_MAX: usize = 1_024;

/// Why a text can't be a username.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UsernameError {
    /// Nothing there.
    #[error("a username has at least one character")]
    Empty,
    /// More than [`USERNAME_CHARS_MAX`] characters.
    #[error("a username has at most {USERNAME_CHARS_MAX} characters, this one has {0}")]
    TooLong(usize),
    /// A character that can't be told from others, isn't printed, or has a meaning in addresses.
    #[error("{0:?} can't be part of a username: use letters, digits, `.`, `_` and `-`")]
    Character(char),
    /// Marks on nothing, too many, one twice, or a dot where none shows.
    #[error("accents are piled up, or stand on nothing")]
    Marks,
    /// Letters of several scripts, which can look like another name.
    #[error("letters of different scripts are mixed")]
    MixedScripts,
    /// Starts or ends with punctuation.
    #[error("a username starts and ends with a letter or digit")]
    Edge,
    /// `@` in the wrong place.
    #[error("expected `name@authority`")]
    Form,
}

/// A username without its authority: normalised (NFKC and full case folding), of one script, 1 to 64 characters.
///
/// Equal names have equal bytes, so they can be hashed, signed and compared without further thought.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Encode)]
pub struct Username(String);

impl Username {
    /// Normalises and checks `text`.
    ///
    /// # Errors
    /// What is wrong with the name.
    pub fn new(text: &str) -> Result<Self, UsernameError> {
        if text.len() > INPUT_BYTES_MAX {
            return Err(UsernameError::TooLong(text.chars().count()));
        }
        // Records are full of names, each read many times, and most are in ASCII.
        Self::checked(text, text.is_ascii())
    }

    /// `is_plain`: ASCII, where all that is left of the rules for letters and their marks is that case doesn't count.
    fn checked(text: &str, is_plain: bool) -> Result<Self, UsernameError> {
        let name = if is_plain { text.to_ascii_lowercase() } else { normalise(text) };
        let length = name.chars().count();
        if length == 0 {
            return Err(UsernameError::Empty);
        }
        if length > USERNAME_CHARS_MAX {
            return Err(UsernameError::TooLong(length));
        }
        if let Some(bad) = name.chars().find(|&c| !is_allowed(c)) {
            return Err(UsernameError::Character(bad));
        }
        if name.starts_with(is_punctuation) || name.ends_with(is_punctuation) {
            return Err(UsernameError::Edge);
        }
        if !is_plain && has_misleading_marks(&name) {
            return Err(UsernameError::Marks);
        }
        if !is_plain && !name.as_str().is_single_script() {
            return Err(UsernameError::MixedScripts);
        }
        Ok(Self(name))
    }

    /// The normalised text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// NFKC and case folding to a fixed point: folding can undo normalisation and the other way round; two rounds settle every
/// character, the third is spare.
fn normalise(text: &str) -> String {
    let mut name: String = text.nfkc().collect();
    for _ in 0..3 {
        // Turkish capital İ folds to `i` with a second dot, which looks like `i`: one name, so one spelling.
        let next: String = caseless::default_case_fold_str(&name).nfkc().collect::<String>().replace("i\u{307}", "i");
        if next == name {
            break;
        }
        name = next;
    }
    name
}

fn has_misleading_marks(name: &str) -> bool {
    let (mut previous, mut in_a_row) = (None, 0);
    // Decomposed, so that a mark twice is seen also where the first one is part of the letter.
    for c in name.nfd() {
        in_a_row = if is_combining_mark(c) { in_a_row + 1 } else { 0 };
        let stands_on_nothing = in_a_row == 1 && previous.is_none_or(is_punctuation);
        if in_a_row > MARKS_IN_A_ROW_MAX || stands_on_nothing || (in_a_row > 1 && previous == Some(c)) {
            return true;
        }
        previous = Some(c);
    }
    // Where a dot shows, normalisation has made one character of letter and dot.
    name.contains(DOT_ABOVE)
}

fn is_punctuation(c: char) -> bool {
    matches!(c, '.' | '_' | '-')
}

fn is_allowed(c: char) -> bool {
    use unicode_security::GeneralSecurityProfile;
    if c.is_ascii() {
        return c.is_ascii_lowercase() || c.is_ascii_digit() || is_punctuation(c);
    }
    // UTS 39's "allowed" identifier characters are letters, marks and digits of scripts in everyday use.
    c.identifier_allowed() && c.identifier_type() != Some(IdentifierType::Inclusion)
}

impl fmt::Display for Username {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Username {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Username {
    type Err = UsernameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::new(text)
    }
}

impl<Context> Decode<Context> for Username {
    fn decode<D: bincode::de::Decoder<Context = Context>>(decoder: &mut D) -> Result<Self, bincode::error::DecodeError> {
        let text = String::decode(decoder)?;
        let name = Self::new(&text).map_err(|error| bincode::error::DecodeError::OtherString(format!("username: {error}")))?;
        // A name that isn't in its normal form has another record key than the same name written properly.
        if name.0 == text {
            Ok(name)
        } else {
            Err(bincode::error::DecodeError::OtherString("username isn't in its normal form".into()))
        }
    }
}
bincode::impl_borrow_decode!(Username);

/// A user, named completely: which authority's `name`. A name without an authority is its own key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub enum UserId {
    /// `name` under the authority with this root key.
    Named {
        /// Whose name it is.
        authority: AuthorityKey,
        /// The name.
        name: Username,
    },
    /// An identity without a name: `key:...`.
    Key(IdentityKey),
}

impl UserId {
    /// Whether a key is this user's, given the one that a chain, a record or a contact list vouches for. An id that is a key vouches for itself; of a name, what only its bearer says is nothing.
    #[must_use]
    pub fn is_held_by(&self, identity: &IdentityKey, vouched: Option<IdentityKey>) -> bool {
        match self {
            Self::Key(key) => key == identity,
            Self::Named { .. } => vouched == Some(*identity),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_held_by_the_key_that_others_vouch_for_alone() {
        let key = |seed: u8| IdentityKey(crate::key::PublicKey([seed; 32]));
        let name = Username::new("alice").expect("a name");
        let alice = UserId::Named { authority: AuthorityKey(crate::key::PublicKey([9; 32])), name };
        assert!(!alice.is_held_by(&key(1), None), "anybody could say it");
        assert!(!alice.is_held_by(&key(1), Some(key(2))) && alice.is_held_by(&key(1), Some(key(1))));
        let unnamed = UserId::Key(key(1));
        assert!(unnamed.is_held_by(&key(1), None) && !unnamed.is_held_by(&key(2), Some(key(2))));
    }

    #[test]
    fn different_spellings_of_a_name_are_one_name() {
        for (written, normal) in [
            ("Alice", "alice"),
            ("ＡＬＩＣＥ", "alice"),
            ("Straße", "strasse"),
            ("ΣΊΣΥΦΟΣ", "σίσυφοσ"),
            ("café", "café"),
            ("cafe\u{301}", "café"),
            ("ﬁona", "fiona"),
            ("a.b-c_d9", "a.b-c_d9"),
            ("Иван", "иван"),
            ("さくら花", "さくら花"),
        ] {
            assert_eq!(Username::new(written).map(|name| name.to_string()), Ok(normal.to_string()), "{written}");
        }
    }

    #[test]
    fn names_that_mislead_or_cannot_be_written_are_refused() {
        assert_eq!(Username::new(""), Err(UsernameError::Empty));
        assert_eq!(Username::new(&"a".repeat(65)), Err(UsernameError::TooLong(65)));
        assert!(Username::new(&"a".repeat(64)).is_ok());
        assert_eq!(Username::new("pаypal"), Err(UsernameError::MixedScripts)); // Cyrillic а
        for bad in ["al ice", "al@ice", "al/ice", "al\u{200b}ice", "al\u{202e}ice", "alice\0", "😀", "a:b", "al\nice"] {
            assert!(matches!(Username::new(bad), Err(UsernameError::Character(_))), "{bad:?}");
        }
        for bad in [".alice", "alice-", "_"] {
            assert_eq!(Username::new(bad), Err(UsernameError::Edge), "{bad}");
        }
        assert!(matches!(Username::new(&"x".repeat(100_000)), Err(UsernameError::TooLong(_))));
    }

    #[test]
    fn marks_cannot_make_a_second_name_that_looks_the_same() {
        assert_eq!(Username::new("al\u{69}\u{307}ce"), Username::new("alice"));
        assert_eq!(Username::new("\u{130}stanbul"), Username::new("istanbul"));
        for bad in [
            "\u{301}alice",
            "a.\u{301}b",
            "e\u{323}\u{323}",
            "l\u{307}",
            "x\u{317}\u{318}\u{319}\u{31c}\u{31d}",
            "\u{456}\u{307}",
        ] {
            assert!(Username::new(bad).is_err(), "{bad:?}");
        }
        assert!(Username::new("क्षेत्र").is_ok(), "marks that a script needs");
        assert!(Username::new("ngữ").is_ok());
    }

    #[test]
    fn characters_that_do_not_show_are_refused() {
        for bad in [
            '\u{ad}',
            '\u{34f}',
            '\u{115f}',
            '\u{1160}',
            '\u{3164}',
            '\u{ffa0}',
            '\u{180b}',
            '\u{fe0f}',
            '\u{2060}',
            '\u{feff}',
            '\u{e0061}',
        ] {
            assert_ne!(Username::new(&format!("al{bad}ice")).map(|name| name.to_string()).as_deref(), Ok("alice"), "{bad:?}");
            assert!(Username::new(&format!("al{bad}ice")).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn normal_forms_are_fixed_points() {
        for c in '\u{80}'..='\u{2ffff}' {
            if let Ok(name) = Username::new(&format!("a{c}")).or_else(|_| Username::new(&c.to_string())) {
                assert_eq!(Username::new(name.as_str()), Ok(name.clone()), "{c:?}");
            }
        }
    }

    #[test]
    fn the_short_way_for_ascii_leads_to_the_same_name() {
        let ascii = || (0..128_u8).map(char::from);
        for name in ascii().flat_map(|a| ascii().flat_map(move |b| ["i", "Z.", ""].map(|c| format!("{a}{b}{c}")))) {
            assert_eq!(Username::new(&name), Username::checked(&name, false), "{name:?}");
        }
    }

    #[test]
    fn only_the_normal_form_decodes() {
        let limit = 100;
        assert!(crate::wire::decode::<Username>(&crate::wire::encode(&"alice".to_string()), limit).is_ok());
        assert!(crate::wire::decode::<Username>(&crate::wire::encode(&"Alice".to_string()), limit).is_err());
    }
}
