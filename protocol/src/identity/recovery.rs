//! The 24 words from which an identity comes back.

use std::fmt;

use bip39::{Language, Mnemonic};
use zeroize::Zeroizing;

use crate::key::{SecretKey, hash};

/// Why words aren't a recovery phrase.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecoveryError {
    /// Not 24 words.
    #[error("a recovery phrase has 24 words, this one has {0}")]
    WordCount(usize),
    /// A word isn't in the list, or the last word's checksum doesn't fit.
    #[error("not a recovery phrase: {0}")]
    Invalid(String),
}

/// 256 bits of entropy, written as 24 English words (BIP-39). The identity key is made from it. Never logged.
#[derive(Clone)]
pub struct RecoveryPhrase(Zeroizing<[u8; 32]>);

impl RecoveryPhrase {
    /// The phrase for this entropy, which must be random.
    #[must_use]
    pub fn from_entropy(entropy: [u8; 32]) -> Self {
        Self(Zeroizing::new(entropy))
    }

    /// Reads 24 words, in any case and with any white space between them.
    ///
    /// # Errors
    /// [`RecoveryError`] if the number of words, a word or the checksum is wrong.
    pub fn parse(words: &str) -> Result<Self, RecoveryError> {
        let words = Zeroizing::new(words.split_whitespace().map(str::to_lowercase).collect::<Vec<_>>().join(" "));
        let count = words.split_whitespace().count();
        if count != 24 {
            return Err(RecoveryError::WordCount(count));
        }
        let mnemonic = Mnemonic::parse_in_normalized(Language::English, &words)
            .map_err(|error| RecoveryError::Invalid(error.to_string()))?;
        let entropy = Zeroizing::new(mnemonic.to_entropy());
        let entropy =
            <[u8; 32]>::try_from(entropy.as_slice()).map_err(|_| RecoveryError::Invalid("wrong amount of entropy".into()))?;
        Ok(Self::from_entropy(entropy))
    }

    /// The words, separated by single spaces. Shown to the owner once.
    #[must_use]
    pub fn words(&self) -> Zeroizing<String> {
        let mnemonic = Mnemonic::from_entropy_in(Language::English, self.0.as_slice());
        Zeroizing::new(mnemonic.map(|mnemonic| mnemonic.to_string()).unwrap_or_default())
    }

    /// The identity key that belongs to the phrase.
    #[must_use]
    pub fn identity_key(&self) -> SecretKey {
        SecretKey::from_bytes(hash("halloo identity key", &[self.0.as_slice()]))
    }
}

impl fmt::Debug for RecoveryPhrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RecoveryPhrase(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_bring_back_the_key() {
        let phrase = RecoveryPhrase::from_entropy([0x42; 32]);
        let written = phrase.words().to_uppercase().replace(' ', "\n ");
        let read = RecoveryPhrase::parse(&written).expect("own words parse");
        assert_eq!(read.identity_key().public(), phrase.identity_key().public());
    }

    #[test]
    fn known_words_of_the_standard() {
        // BIP-39's English test vector for 256 zero bits.
        let phrase = RecoveryPhrase::from_entropy([0; 32]);
        assert_eq!(phrase.words().as_str(), format!("{}art", "abandon ".repeat(23)));
    }

    #[test]
    fn wrong_words_are_refused() {
        assert_eq!(RecoveryPhrase::parse("abandon").err(), Some(RecoveryError::WordCount(1)));
        let all_same = "abandon ".repeat(24);
        assert!(matches!(RecoveryPhrase::parse(&all_same), Err(RecoveryError::Invalid(_))), "checksum");
        let foreign = "halloo ".repeat(24);
        assert!(matches!(RecoveryPhrase::parse(&foreign), Err(RecoveryError::Invalid(_))));
    }
}
