//! Keys of encrypted media in a description (RFC 4568, RFC 6188).
//!
//! What protects a key is the signalling that carries it: over TLS nobody but the phone and the edge reads it, over UDP anybody on the way does.

use std::fmt;

use data_encoding::{BASE64, BASE64_NOPAD};
use zeroize::Zeroizing;

/// Bytes of the salt beside every key (RFC 3711 section 5.1.1).
pub const SALT_BYTES: usize = 14;

/// How packets are protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Suite {
    /// AES-128 in counter mode, HMAC-SHA1 shortened to 10 bytes: what every phone with SRTP has.
    Aes128Sha1Of80,
    /// The same, shortened to 4 bytes in packets of media. Reports keep 10.
    Aes128Sha1Of32,
    /// AES-256, 10 bytes.
    Aes256Sha1Of80,
    /// AES-256, 4 bytes.
    Aes256Sha1Of32,
}

impl Suite {
    /// All of them, the preferred first.
    pub const ALL: [Self; 4] = [Self::Aes256Sha1Of80, Self::Aes128Sha1Of80, Self::Aes256Sha1Of32, Self::Aes128Sha1Of32];

    /// Its name in `a=crypto`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Aes128Sha1Of80 => "AES_CM_128_HMAC_SHA1_80",
            Self::Aes128Sha1Of32 => "AES_CM_128_HMAC_SHA1_32",
            Self::Aes256Sha1Of80 => "AES_256_CM_HMAC_SHA1_80",
            Self::Aes256Sha1Of32 => "AES_256_CM_HMAC_SHA1_32",
        }
    }

    /// Bytes of its master key.
    #[must_use]
    pub const fn key_bytes(self) -> usize {
        match self {
            Self::Aes128Sha1Of80 | Self::Aes128Sha1Of32 => 16,
            Self::Aes256Sha1Of80 | Self::Aes256Sha1Of32 => 32,
        }
    }

    /// Bytes of what authenticates a packet of media.
    #[must_use]
    pub const fn tag_bytes(self) -> usize {
        match self {
            Self::Aes128Sha1Of80 | Self::Aes256Sha1Of80 => 10,
            Self::Aes128Sha1Of32 | Self::Aes256Sha1Of32 => 4,
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        // Some phones write the longer key's suites as RFC 6188 has them and some the other way round.
        let swapped = |suite: &Self| suite.name().replacen("AES_256_CM", "AES_CM_256", 1) == name;
        Self::ALL.into_iter().find(|suite| suite.name() == name || swapped(suite))
    }
}

/// A master key with its salt.
#[derive(Clone, PartialEq, Eq)]
pub struct MasterKey(Zeroizing<Vec<u8>>);

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MasterKey(..)")
    }
}

impl MasterKey {
    /// Key and salt in a row; `None` if it isn't as long as the suite's.
    #[must_use]
    pub fn new(suite: Suite, bytes: &[u8]) -> Option<Self> {
        (bytes.len() == suite.key_bytes() + SALT_BYTES).then(|| Self(Zeroizing::new(bytes.to_vec())))
    }

    /// A fresh one.
    #[must_use]
    pub fn random(suite: Suite, rng: &mut impl rand::CryptoRng) -> Self {
        let mut bytes = Zeroizing::new(vec![0; suite.key_bytes() + SALT_BYTES]);
        rng.fill_bytes(&mut bytes);
        Self(bytes)
    }

    /// The key and the salt.
    #[must_use]
    pub fn parts(&self) -> (&[u8], &[u8]) {
        self.0.split_at(self.0.len().saturating_sub(SALT_BYTES))
    }
}

/// One key of those that a section offers, or the one that it has chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Crypto {
    /// Its number, which the answer repeats.
    pub tag: u32,
    /// How packets are protected.
    pub suite: Suite,
    /// By what.
    pub key: MasterKey,
}

impl Crypto {
    /// Reads `<tag> <suite> inline:<key>[|<lifetime>][|<MKI>] [<parameter>..]`. `None` for what can't be used here: other suites, several keys, keys
    /// with identifiers in each packet, and packets that are to go unprotected.
    pub(super) fn parse(value: &str) -> Option<Self> {
        let mut words = value.split_whitespace();
        let tag = words.next()?;
        let tag = (tag.len() <= 9).then(|| tag.parse().ok())??;
        let suite = Suite::from_name(words.next()?)?;
        let inline = words.next()?.strip_prefix("inline:")?;
        let mut parts = inline.split('|');
        let text = parts.next()?;
        // A lifetime is a number or a power of two; an MKI has a colon.
        if inline.contains(';') || parts.any(|part| part.contains(':')) {
            return None;
        }
        // A hint for the replay window is the one parameter that changes nothing.
        if !words.all(|word| word.starts_with("WSH=") || word.starts_with('-')) {
            return None;
        }
        let decoded = BASE64.decode(text.as_bytes()).or_else(|_| BASE64_NOPAD.decode(text.trim_end_matches('=').as_bytes()));
        let decoded = Zeroizing::new(decoded.ok()?);
        Some(Self { tag, suite, key: MasterKey::new(suite, &decoded)? })
    }

    /// The attribute's value.
    #[must_use]
    pub fn to_value(&self) -> String {
        format!("{} {} inline:{}", self.tag, self.suite.name(), BASE64.encode(&self.key.0))
    }
}
