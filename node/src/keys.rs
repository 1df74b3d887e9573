//! The two secret keys of a home.
//!
//! The identity key is made from the recovery phrase and may be missing on a device; the device
//! key never leaves it. Each is a file of its own, readable by its owner only: the key's 32-byte
//! seed as base64url.

use std::io;
use std::path::{Path, PathBuf};

use data_encoding::BASE64URL_NOPAD;
use halloo_protocol::identity::{RecoveryError, RecoveryPhrase};
use halloo_protocol::key::SecretKey;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::home::{Home, HomeError, write_secret};

/// Bytes of an Ed25519 seed (RFC 8032 section 5.1.5).
const SEED_BYTES: usize = 32;

/// A home's secret keys.
#[derive(Clone, Debug)]
pub struct Keys {
    /// This device's key: libp2p's keypair.
    pub device: SecretKey,
    /// The user's key; `None` on a device it was not brought to.
    pub identity: Option<SecretKey>,
}

/// Why keys can't be made or read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum KeysError {
    /// A file isn't a key.
    #[error("{} holds no key", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// A file can't be read.
    #[error("can't read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file can't be written.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// The system gives no random numbers.
    #[error("no random numbers: {0}")]
    Random(getrandom::Error),
    /// The words are no recovery phrase.
    #[error(transparent)]
    Phrase(#[from] RecoveryError),
}

impl Keys {
    /// Makes keys and stores them; an identity that exists is made again from its `words`.
    /// Returns the phrase too, to be shown once if it is new.
    ///
    /// The device key is written last: a home that has one is complete.
    ///
    /// # Errors
    /// See [`KeysError`].
    pub fn create(home: &Home, words: Option<&str>) -> Result<(Self, RecoveryPhrase), KeysError> {
        let phrase = match words {
            Some(words) => RecoveryPhrase::parse(words)?,
            None => RecoveryPhrase::from_entropy(*random_seed()?),
        };
        let identity = phrase.identity_key();
        let device = SecretKey::from_bytes(*random_seed()?);
        write_key(&home.identity_key(), &identity)?;
        write_key(&home.device_key(), &device)?;
        Ok((Self { device, identity: Some(identity) }, phrase))
    }

    /// Reads a home's keys.
    ///
    /// # Errors
    /// See [`KeysError`].
    pub fn load(home: &Home) -> Result<Self, KeysError> {
        let path = home.device_key();
        let device = read_key(&path)?.ok_or_else(|| KeysError::Read { path, source: io::ErrorKind::NotFound.into() })?;
        Ok(Self { device, identity: read_key(&home.identity_key())? })
    }
}

fn random_seed() -> Result<Zeroizing<[u8; SEED_BYTES]>, KeysError> {
    let mut seed = Zeroizing::new([0; SEED_BYTES]);
    getrandom::fill(seed.as_mut_slice()).map_err(KeysError::Random)?;
    Ok(seed)
}

fn write_key(path: &Path, key: &SecretKey) -> Result<(), KeysError> {
    let text = Zeroizing::new(BASE64URL_NOPAD.encode(key.to_bytes().as_slice()) + "\n");
    Ok(write_secret(path, text.as_bytes())?)
}

/// `None` if there is no such file.
fn read_key(path: &Path) -> Result<Option<SecretKey>, KeysError> {
    let text = match std::fs::read(path) {
        Ok(text) => Zeroizing::new(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(KeysError::Read { path: path.to_owned(), source }),
    };
    let seed = BASE64URL_NOPAD.decode(text.trim_ascii()).ok().map(Zeroizing::new);
    let seed = seed.and_then(|seed| <[u8; SEED_BYTES]>::try_from(seed.as_slice()).ok());
    let seed = seed.ok_or_else(|| KeysError::Damaged { path: path.to_owned() })?;
    Ok(Some(SecretKey::from_bytes(seed)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn home() -> (tempfile::TempDir, Home) {
        let dir = tempfile::tempdir().expect("a directory");
        let home = Home::create(dir.path()).expect("a home");
        (dir, home)
    }

    #[test]
    fn the_phrase_brings_the_identity_to_another_home_with_another_device() {
        let (_dir, first) = home();
        let (made, phrase) = Keys::create(&first, None).expect("made");
        let (_dir, second) = home();
        let (recovered, _) = Keys::create(&second, Some(&phrase.words())).expect("recovered");
        let public = |key: &Option<SecretKey>| key.as_ref().map(SecretKey::public);
        assert_eq!(public(&made.identity), public(&recovered.identity));
        assert_ne!(made.device.public(), recovered.device.public());
        let loaded = Keys::load(&second).expect("loaded");
        assert_eq!(loaded.device.public(), recovered.device.public());
        assert_eq!(public(&loaded.identity), public(&made.identity));
    }

    #[test]
    fn damaged_keys_and_wrong_words_are_refused_and_nothing_is_written() {
        let (_dir, home) = home();
        assert!(matches!(Keys::create(&home, Some("abandon art")), Err(KeysError::Phrase(_))));
        assert!(!home.device_key().exists() && !home.identity_key().exists());
        assert!(matches!(Keys::load(&home), Err(KeysError::Read { .. })));
        std::fs::write(home.device_key(), "AAAA").expect("written");
        assert!(matches!(Keys::load(&home), Err(KeysError::Damaged { .. })));
    }
}
