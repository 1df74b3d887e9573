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

/// The code in a text that an authority has sent: the first run of [`CODE_DIGITS`] digits, no more and no less.
#[must_use]
pub fn code_in(text: &str) -> Option<&str> {
    text.split(|c: char| !c.is_ascii_digit()).find(|run| run.len() == CODE_DIGITS)
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
    fn a_code_is_found_in_its_text() {
        for (text, code) in [
            ("Halloo: the code is 01234567. alice12345678@example wants", Some("01234567")),
            ("123456789 1234567 12345678x", Some("12345678")),
            ("0123 4567", None),
            ("\u{661}2345678", None),
            ("", None),
        ] {
            assert_eq!(code_in(text), code, "{text}");
        }
    }
}
