//! The text that brings a new home into a network: `halloo1` and base64url.
//!
//! Layout of the decoded bytes: `body || checksum (4)`. The checksum is the start of a domain-separated SHA-256 over the body and
//! catches typing and copying mistakes; it isn't a signature: whoever can change the code can as well write another.

use std::fmt;

use bincode::{Decode, Encode};
use data_encoding::BASE64URL_NOPAD;

use crate::directory::Helper;
use crate::key::{AuthorityKey, hash};
use crate::time::UnixTime;
use crate::wire::{DecodeError, Extensions, decode, encode};

/// What every code starts with; the number is the version of the layout.
pub const INVITE_CODE_PREFIX: &str = "halloo1";

/// Longest code: fits one QR code, and one message of any messenger.
pub const INVITE_CODE_CHARS_MAX: usize = 1_500;

/// Most bootstrap nodes in a code.
pub const INVITE_BOOTSTRAP_MAX: usize = 8;

/// Longest suggested label of an authority, in bytes.
pub const LABEL_BYTES_MAX: usize = 64;

const CHECKSUM_BYTES: usize = 4;

/// Sixteen random bytes that let their holder enrol. Not printed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Encode, Decode)]
pub struct InviteSecret(pub [u8; 16]);

impl InviteSecret {
    /// What the authority keeps instead of the secret: a stolen database invites nobody.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        hash("halloo invite secret", &[&self.0])
    }
}

impl fmt::Debug for InviteSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InviteSecret(..)")
    }
}

/// Why a text isn't an invite code.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InviteCodeError {
    /// It starts with something else.
    #[error("an invite code starts with `{INVITE_CODE_PREFIX}`")]
    Prefix,
    /// More than [`INVITE_CODE_CHARS_MAX`] characters.
    #[error("an invite code has at most {INVITE_CODE_CHARS_MAX} characters, this one has {0}")]
    TooLong(usize),
    /// A character that can't be in a code.
    #[error("{0:?} can't be part of an invite code")]
    Character(char),
    /// Too short, or its checksum doesn't fit.
    #[error("the invite code is damaged: a character is wrong or missing; copy it again")]
    Damaged,
    /// The checksum fits, the content doesn't: made by something newer or broken.
    #[error("the invite code can't be read by this version: {0}")]
    Content(DecodeError),
    /// A code can't be made from these parts.
    #[error("can't make an invite code: {0}")]
    Parts(DecodeError),
}

/// Everything a new home needs to join a network and get a name.
///
/// Treat one with a secret like the secret itself.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct InviteCode {
    /// The authority.
    pub root: AuthorityKey,
    /// What to call the authority here, unless the label is taken; at most [`LABEL_BYTES_MAX`] bytes of lower-case letters, digits, `.`
    /// and `-`.
    pub label: String,
    /// The node that enrols.
    pub node: Helper,
    /// Ways into the network besides, at most [`INVITE_BOOTSTRAP_MAX`].
    pub bootstrap: Vec<Helper>,
    /// Lets its holder enrol; `None` where the authority enrols openly.
    pub secret: Option<InviteSecret>,
    /// When the authority stops accepting the secret; `None` for never, and without a secret.
    pub expires_at: Option<UnixTime>,
    /// Room to grow.
    pub extensions: Extensions,
}

impl InviteCode {
    /// Writes the code. Bootstrap nodes are left out from the end if the text would be longer than [`INVITE_CODE_CHARS_MAX`].
    ///
    /// # Errors
    /// [`InviteCodeError::Parts`] if a field is out of range, or it is too long without any bootstrap node.
    pub fn to_text(&self) -> Result<String, InviteCodeError> {
        self.check().map_err(InviteCodeError::Parts)?;
        let mut code = self.clone();
        loop {
            let text = code.write();
            if text.len() <= INVITE_CODE_CHARS_MAX {
                return Ok(text);
            }
            if code.bootstrap.pop().is_none() {
                return Err(InviteCodeError::TooLong(text.len()));
            }
        }
    }

    /// Reads a code. White space, as mail programs add it, is ignored.
    ///
    /// # Errors
    /// [`InviteCodeError`], worded for the person who pasted it.
    pub fn parse(text: &str) -> Result<Self, InviteCodeError> {
        // White space is dropped before counting, so that indentation can't make a code too long; the bound on the raw text keeps the
        // copy small.
        if text.len() > 4 * INVITE_CODE_CHARS_MAX {
            return Err(InviteCodeError::TooLong(text.len()));
        }
        let text: String = text.chars().filter(|c| !c.is_whitespace()).collect();
        let payload = text.strip_prefix(INVITE_CODE_PREFIX).ok_or(InviteCodeError::Prefix)?;
        if text.len() > INVITE_CODE_CHARS_MAX {
            return Err(InviteCodeError::TooLong(text.chars().count()));
        }
        if let Some(character) = payload.chars().find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))) {
            return Err(InviteCodeError::Character(character));
        }
        let bytes = BASE64URL_NOPAD.decode(payload.as_bytes()).map_err(|_| InviteCodeError::Damaged)?;
        let (body, sum) = bytes.split_last_chunk::<CHECKSUM_BYTES>().ok_or(InviteCodeError::Damaged)?;
        if checksum(body) != *sum {
            return Err(InviteCodeError::Damaged);
        }
        let code: Self = decode(body, INVITE_CODE_CHARS_MAX).map_err(InviteCodeError::Content)?;
        code.check().map_err(InviteCodeError::Content)?;
        Ok(code)
    }

    fn write(&self) -> String {
        let mut bytes = encode(self);
        let sum = checksum(&bytes);
        bytes.extend_from_slice(&sum);
        format!("{INVITE_CODE_PREFIX}{}", BASE64URL_NOPAD.encode(&bytes))
    }

    fn check(&self) -> Result<(), DecodeError> {
        if self.label.is_empty() || self.label.len() > LABEL_BYTES_MAX {
            return Err(DecodeError::invalid("label", format!("{} bytes, 1 to {LABEL_BYTES_MAX} allowed", self.label.len())));
        }
        if !self.label.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '-')) {
            return Err(DecodeError::invalid("label", "only lower-case letters, digits, `.` and `-`"));
        }
        if self.bootstrap.len() > INVITE_BOOTSTRAP_MAX {
            return Err(DecodeError::invalid("bootstrap", format!("{}, at most {INVITE_BOOTSTRAP_MAX}", self.bootstrap.len())));
        }
        self.node.check()?;
        self.bootstrap.iter().try_for_each(Helper::check)
    }
}

fn checksum(body: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let [a, b, c, d, ..] = hash("halloo invite code", &[body]);
    [a, b, c, d]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::key::{DeviceKey, PublicKey};
    use crate::node::{Address, Transport};

    fn helper(number: u8, addresses: usize) -> Helper {
        let address = Address::V6 { ip: [number; 16], port: 40_000, transport: Transport::Tcp };
        Helper { device: DeviceKey(PublicKey([number; 32])), addresses: vec![address; addresses] }
    }

    fn code() -> InviteCode {
        InviteCode {
            root: AuthorityKey(PublicKey([1; 32])),
            label: "example".into(),
            node: helper(2, 2),
            bootstrap: (3..6).map(|number| helper(number, 2)).collect(),
            secret: Some(InviteSecret([9; 16])),
            expires_at: Some(UnixTime(1_800_000_000)),
            extensions: Extensions::none(),
        }
    }

    #[test]
    fn codes_round_trip_with_and_without_a_secret() {
        let open = InviteCode { secret: None, expires_at: None, ..code() };
        for code in [code(), open] {
            let text = code.to_text().expect("parts are in range");
            assert_eq!(InviteCode::parse(&text), Ok(code.clone()));
            let (start, end) = text.split_at(40);
            assert_eq!(InviteCode::parse(&format!("  {start}\r\n\t{end}\n")), Ok(code));
        }
    }

    #[test]
    fn every_single_typo_is_caught() {
        let text = code().to_text().expect("parts are in range");
        for position in 0..text.len() {
            for replacement in ['A', 'b', '7', '_', '!', 'é'] {
                let typo: String = text.char_indices().map(|(at, c)| if at == position { replacement } else { c }).collect();
                if typo != text {
                    assert!(InviteCode::parse(&typo).is_err(), "{position} {replacement}");
                }
            }
            let missing: String = text.char_indices().filter(|(at, _)| *at != position).map(|(_, c)| c).collect();
            assert!(InviteCode::parse(&missing).is_err(), "without character {position}");
        }
    }

    #[test]
    fn refusals_say_what_is_wrong() {
        assert_eq!(InviteCode::parse(""), Err(InviteCodeError::Prefix));
        assert_eq!(InviteCode::parse("hello"), Err(InviteCodeError::Prefix));
        assert_eq!(InviteCode::parse("halloo1"), Err(InviteCodeError::Damaged));
        assert_eq!(InviteCode::parse("halloo1ab+c"), Err(InviteCodeError::Character('+')));
        assert!(matches!(InviteCode::parse(&"a".repeat(1_000_000)), Err(InviteCodeError::TooLong(1_000_000))));
        assert!(matches!(InviteCode::parse(&format!("halloo1{}", "a".repeat(1_500))), Err(InviteCodeError::TooLong(1_507))));
        assert!(InviteCodeError::Damaged.to_string().contains("copy it again"));
    }

    #[test]
    fn bootstrap_nodes_make_room_and_bad_parts_are_refused() {
        let mut crowded = code();
        crowded.bootstrap = vec![helper(7, 2); INVITE_BOOTSTRAP_MAX];
        for node in &mut crowded.bootstrap {
            node.addresses = vec![Address::Other(vec![0; 100]); 2];
        }
        let text = crowded.to_text().expect("fits after dropping nodes");
        assert!(text.len() <= INVITE_CODE_CHARS_MAX);
        let read = InviteCode::parse(&text).expect("own code");
        assert!(!read.bootstrap.is_empty() && read.bootstrap.len() < INVITE_BOOTSTRAP_MAX);

        for label in ["", "Example", "a b", &"x".repeat(65)] {
            let bad = InviteCode { label: label.into(), ..code() };
            assert!(matches!(bad.to_text(), Err(InviteCodeError::Parts(_))), "{label:?}");
        }
        let bad = InviteCode { bootstrap: vec![helper(1, 0); INVITE_BOOTSTRAP_MAX + 1], ..code() };
        assert!(matches!(bad.to_text(), Err(InviteCodeError::Parts(_))));
    }

    #[test]
    fn the_secret_does_not_print() {
        assert!(format!("{:?}", code()).contains("InviteSecret(..)"));
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in ".{0,200}", tail in "[A-Za-z0-9_-]{0,200}") {
            let _ = InviteCode::parse(&text);
            let _ = InviteCode::parse(&format!("halloo1{tail}"));
        }

        #[test]
        fn arbitrary_bytes_with_a_right_checksum_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let mut with_sum = bytes.clone();
            with_sum.extend_from_slice(&checksum(&bytes));
            let _ = InviteCode::parse(&format!("halloo1{}", BASE64URL_NOPAD.encode(&with_sum)));
        }
    }
}
