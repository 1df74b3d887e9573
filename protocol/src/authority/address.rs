//! Addresses: an authority sends a code to an address (mail, telephone, SIP), and whoever shows the code gets its signed word that the address is theirs.
//!
//! 1. The user's device sends a [`CodeRequest`] with its chain and the address. The answer says how long the code counts, not whether the mail arrives.
//! 2. The user reads the code and types it; the device sends a [`CodeShow`].
//! 3. The answer has the [`AddressProof`](crate::linked::AddressProof), which travels with the user's association.

use bincode::{Decode, Encode};

use super::messages::Refusal;
use crate::identity::Chain;
use crate::linked::{AddressProof, LinkedId};
use crate::wire::{Extensions, FrameKind, Message};

/// Digits of a code: with [`CODE_TRIES`] guesses one code is guessed once in twenty million.
pub const CODE_DIGITS: usize = 8;

/// Guesses at one code.
pub const CODE_TRIES: u8 = 5;

/// How long a code counts, in seconds: mail may be slow.
pub const CODE_SECS: u64 = 1_800;

/// Extension of a [`CodeRequest`]: a [`CodeTag`].
pub const TAG_EXTENSION: u16 = 0x0001;

/// Letters of a tag.
const TAG_LETTERS: usize = 12;

/// How the text with a code begins, and how the one to a SIP address ends.
const TEXT_BEGIN: &str = "Halloo: the code is ";
const SIP_ADDRESS: &str = "SIP address";

/// What a device that takes its code itself has the authority put into the text, so that it shows the authority nothing that others have said: 12 small letters.
#[derive(Clone, PartialEq, Eq)]
pub struct CodeTag(String);

impl CodeTag {
    /// Of randomness.
    #[must_use]
    pub fn new(random: [u8; TAG_LETTERS]) -> Self {
        Self(random.iter().map(|byte| char::from(b'a' + byte % 26)).collect())
    }

    /// The tag of a request. `None`: it has none, or what isn't one.
    #[must_use]
    pub fn of(request: &CodeRequest) -> Option<Self> {
        let bytes = request.extensions.find(TAG_EXTENSION)?;
        let is_tag = bytes.len() == TAG_LETTERS && bytes.iter().all(u8::is_ascii_lowercase);
        String::from_utf8(bytes.to_vec()).ok().filter(|_| is_tag).map(Self)
    }

    /// The extensions of a request with this tag.
    #[must_use]
    pub fn extensions(&self) -> Extensions {
        Extensions::none().with(TAG_EXTENSION, self.0.clone().into_bytes())
    }
}

impl std::fmt::Debug for CodeTag {
    /// Leaves out what is secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CodeTag").finish_non_exhaustive()
    }
}

/// The short text with a code, to a telephone. `user`, which its bearer has chosen, comes after the code.
#[must_use]
pub fn phone_code_text(code: &str, user: &str) -> String {
    format!("{TEXT_BEGIN}{code}. {user}{}", text_end("number"))
}

/// The text with a code to a SIP address. It has the tag of who has asked for it, if there is one.
#[must_use]
pub fn sip_code_text(code: &str, user: &str, tag: Option<&CodeTag>) -> String {
    let tag = tag.map(|tag| format!(" ({})", tag.0)).unwrap_or_default();
    format!("{TEXT_BEGIN}{code}{tag}. {user}{}", text_end(SIP_ADDRESS))
}

fn text_end(what: &str) -> String {
    format!(" wants to show that this {what} is theirs. If that isn't you, tell it to nobody.")
}

/// The code in a text to a SIP address that was asked for with this tag. `None` of any other text.
#[must_use]
pub fn code_in<'a>(text: &'a str, tag: &CodeTag) -> Option<&'a str> {
    let (code, rest) = text.trim_end().strip_prefix(TEXT_BEGIN)?.split_at_checked(CODE_DIGITS)?;
    let user = rest.strip_prefix(" (")?.strip_prefix(tag.0.as_str())?.strip_prefix("). ")?;
    let is_whole = user.ends_with(&text_end(SIP_ADDRESS));
    (is_whole && code.bytes().all(|byte| byte.is_ascii_digit())).then_some(code)
}

/// Asks for a code to be sent to an address. Answered by [`CodeAnswer`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct CodeRequest {
    /// Who asks: the connection shows that it is the chain's device.
    pub chain: Chain,
    /// The address.
    pub linked: LinkedId,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Message for CodeRequest {
    const KIND: FrameKind = FrameKind(0x0054);
    const LIMIT: usize = 5 * 1024;
}

/// What became of a [`CodeRequest`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum CodeResult {
    /// A code is on its way; it counts for so many seconds.
    Sent(u32),
    /// None is.
    Refused(Refusal),
}

/// Answer to [`CodeRequest`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct CodeAnswer {
    /// What became of it.
    pub result: CodeResult,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Message for CodeAnswer {
    const KIND: FrameKind = FrameKind(FrameKind::ANSWER | 0x0054);
    const LIMIT: usize = 1_024;
}

/// Shows the code that was sent. Answered by [`CodeShown`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct CodeShow {
    /// As in the [`CodeRequest`].
    pub chain: Chain,
    /// As in the [`CodeRequest`].
    pub linked: LinkedId,
    /// The code: [`CODE_DIGITS`] digits.
    pub code: String,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Message for CodeShow {
    const KIND: FrameKind = FrameKind(0x0055);
    const LIMIT: usize = 5 * 1024;
}

/// What became of a [`CodeShow`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum WordResult {
    /// The authority's word.
    Granted(Box<AddressProof>),
    /// It doesn't say it.
    Refused(Refusal),
}

/// Answer to [`CodeShow`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct CodeShown {
    /// What became of it.
    pub result: WordResult,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Message for CodeShown {
    const KIND: FrameKind = FrameKind(FrameKind::ANSWER | 0x0055);
    const LIMIT: usize = 2_048;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_isnt_a_tag_is_passed_over() {
        let tag = CodeTag::new(*b"0123456789ab");
        let request = |extensions| CodeRequest {
            chain: crate::test_identity::Authority::new(1).person("alice", 1).chain,
            linked: "sip:alice@there.example".parse().expect("an address"),
            extensions,
        };
        assert_eq!(CodeTag::of(&request(tag.extensions())), Some(tag));
        assert_eq!(CodeTag::of(&request(Extensions::none())), None);
        for wrong in ["", "abcdefghijk", "abcdefghijklm", "abcdefghijkL", "abcdefghijk)", "abcdefghij\u{e4}"] {
            let extensions = Extensions::none().with(TAG_EXTENSION, wrong.as_bytes().to_vec());
            assert_eq!(CodeTag::of(&request(extensions)), None, "{wrong}");
        }
    }

    #[test]
    fn a_code_is_found_in_the_text_that_was_asked_for_and_in_no_other() {
        let (tag, other) = (CodeTag::new([0; 12]), CodeTag::new([1; 12]));
        let text = sip_code_text("01234567", "alice12345678@example", Some(&tag));
        assert!(text.starts_with("Halloo: the code is 01234567 (aaaaaaaaaaaa). alice12345678@example wants"), "{text}");
        assert_eq!(code_in(&text, &tag), Some("01234567"));
        assert_eq!(code_in(&format!("{text}\r\n"), &tag), Some("01234567"));
        for text in [
            sip_code_text("01234567", "alice@example", None),
            sip_code_text("01234567", "alice@example", Some(&other)),
            sip_code_text("0123456", "alice@example", Some(&tag)),
            sip_code_text("012345678", "alice@example", Some(&tag)),
            sip_code_text("0123456x", "alice@example", Some(&tag)),
            phone_code_text("01234567", "alice@example"),
            format!("> {text}"),
            text[..text.len() - 1].to_owned(),
            "Your bank: the code is 01234567.".to_owned(),
            "Halloo: the code is \u{661}\u{661}\u{661}\u{661}567".to_owned(),
            String::new(),
        ] {
            assert_eq!(code_in(&text, &tag), None, "{text}");
        }
    }
}
