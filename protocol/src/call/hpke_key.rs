//! X25519 keys to which invites are sealed (RFC 9180), and their weekly change.
//!
//! Suite: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, ChaCha20-Poly1305, base mode: the sender is authenticated by the signature inside.

use std::fmt;

use bincode::{Decode, Encode};
use hpke::aead::{AeadTag, ChaCha20Poly1305};
use hpke::inout::InOutBuf;
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::{Deserializable, Kem, OpModeR, OpModeS, Serializable};
use zeroize::Zeroizing;

use crate::time::UnixTime;
use crate::wire::{self, DecodeError};

/// How often a device that is awake changes its key. What was sealed to a destroyed key stays sealed.
pub const HPKE_ROTATION_SECS: u64 = 7 * 86_400;

/// How long the former key still opens: callers hold a record for a while, and a push may be late.
const PREVIOUS_SECS: u64 = HPKE_ROTATION_SECS;

/// What HPKE adds: encapsulated key 32, tag 16.
const HPKE_OVERHEAD_BYTES: usize = 48;

const ENCAPPED_BYTES: usize = 32;
const TAG_BYTES: usize = 16;

type Suite = X25519HkdfSha256;

/// One X25519 key pair. Wiped when dropped; never printed.
#[derive(Clone)]
pub struct HpkeKeyPair {
    secret: <Suite as Kem>::PrivateKey,
    public: [u8; 32],
}

impl fmt::Debug for HpkeKeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HpkeKeyPair(..)")
    }
}

impl HpkeKeyPair {
    /// A fresh key.
    #[must_use]
    pub fn generate(rng: &mut impl rand::CryptoRng) -> Self {
        let (secret, public) = Suite::gen_keypair_with_rng(rng);
        Self { secret, public: public.to_bytes().into() }
    }

    /// The key with this secret scalar.
    ///
    /// # Errors
    /// [`DecodeError::Invalid`] if X25519 has no such key.
    pub fn from_bytes(secret: &[u8; 32]) -> Result<Self, DecodeError> {
        let secret = <Suite as Kem>::PrivateKey::from_bytes(secret)
            .map_err(|error| DecodeError::invalid("hpke secret", error.to_string()))?;
        let public = Suite::sk_to_pk(&secret).to_bytes().into();
        Ok(Self { secret, public })
    }

    /// The secret scalar, for storage.
    #[must_use]
    pub fn to_bytes(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.secret.to_bytes().into())
    }

    /// The public key, as the device entry publishes it.
    #[must_use]
    pub const fn public(&self) -> [u8; 32] {
        self.public
    }

    /// Opens `encapsulated key || ciphertext || tag`; `None` if it wasn't sealed to this key under this context.
    pub(crate) fn open(&self, sealed: &[u8], info: &[u8], aad: &[u8]) -> Option<Vec<u8>> {
        let (encapped, rest) = sealed.split_at_checked(ENCAPPED_BYTES)?;
        let (ciphertext, tag) = rest.split_at_checked(rest.len().checked_sub(TAG_BYTES)?)?;
        let encapped = <Suite as Kem>::EncappedKey::from_bytes(encapped).ok()?;
        let tag = AeadTag::<ChaCha20Poly1305>::from_bytes(tag).ok()?;
        let mut buffer = ciphertext.to_vec();
        hpke::single_shot_open_inout_detached::<ChaCha20Poly1305, HkdfSha256, Suite>(
            &OpModeR::Base,
            &self.secret,
            &encapped,
            info,
            InOutBuf::from(buffer.as_mut_slice()),
            aad,
            &tag,
        )
        .ok()?;
        Some(buffer)
    }
}

/// Seals `plain` to `public`; `None` if that isn't a usable X25519 key.
pub(crate) fn seal(
    public: &[u8; 32],
    plain: Vec<u8>,
    info: &[u8],
    aad: &[u8],
    rng: &mut impl rand::CryptoRng,
) -> Option<Vec<u8>> {
    let public = <Suite as Kem>::PublicKey::from_bytes(public).ok()?;
    let mut buffer = plain;
    let (encapped, tag) = hpke::single_shot_seal_inout_detached_with_rng::<ChaCha20Poly1305, HkdfSha256, Suite>(
        &OpModeS::Base,
        &public,
        info,
        InOutBuf::from(buffer.as_mut_slice()),
        aad,
        rng,
    )
    .ok()?;
    let mut sealed = encapped.to_bytes().to_vec();
    sealed.extend_from_slice(&buffer);
    sealed.extend_from_slice(&tag.to_bytes());
    Some(sealed)
}

/// First byte of whatever is sealed in a padded form.
const SEAL_VERSION: u8 = 1;

/// Version byte, the plain text's length field, and what HPKE adds.
const PADDED_OVERHEAD_BYTES: usize = 1 + 2 + HPKE_OVERHEAD_BYTES;

/// Why something can't be sealed in a padded form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SealPaddedError {
    /// Longer than the largest size class, by so many bytes.
    TooLong(usize),
    /// The recipient's key isn't an X25519 key.
    RecipientKey,
}

/// Seals `plain` so that the whole has one of the sizes `classes` (ascending, below 64 KiB):
/// `version (1) || encapsulated key (32) || ciphertext || tag (16)` of `length u16 big endian || plain || zeros`.
pub(crate) fn seal_padded(
    public: &[u8; 32],
    plain: &[u8],
    classes: &[usize],
    info: &[u8],
    aad: &[u8],
    rng: &mut impl rand::CryptoRng,
) -> Result<Vec<u8>, SealPaddedError> {
    let size = plain.len() + PADDED_OVERHEAD_BYTES;
    let largest = classes.last().copied().unwrap_or_default();
    let too_long = SealPaddedError::TooLong(size.saturating_sub(largest));
    let class = classes.iter().copied().find(|class| size <= *class).ok_or(too_long)?;
    let length = u16::try_from(plain.len()).map_err(|_| too_long)?;
    let mut padded = Vec::with_capacity(class);
    padded.extend_from_slice(&length.to_be_bytes());
    padded.extend_from_slice(plain);
    padded.resize(class - 1 - HPKE_OVERHEAD_BYTES, 0);
    let sealed = seal(public, padded, info, aad, rng).ok_or(SealPaddedError::RecipientKey)?;
    let mut bytes = vec![SEAL_VERSION];
    bytes.extend_from_slice(&sealed);
    Ok(bytes)
}

/// The sealed part of bytes in the padded form; `None` if they are of another version or longer than `limit`.
pub(crate) fn sealed_part(bytes: &[u8], limit: usize) -> Option<&[u8]> {
    match bytes.split_first() {
        Some((&SEAL_VERSION, sealed)) if bytes.len() <= limit => Some(sealed),
        _ => None,
    }
}

/// What was padded.
pub(crate) fn unpad(plain: &[u8]) -> Result<&[u8], DecodeError> {
    let malformed = || DecodeError::invalid("padding", "the length field points outside");
    let (length, rest) = plain.split_first_chunk::<2>().ok_or_else(malformed)?;
    rest.get(..usize::from(u16::from_be_bytes(*length))).ok_or_else(malformed)
}

/// The key in use and the one before it.
#[derive(Clone, Debug)]
pub struct HpkeKeyRing {
    current: HpkeKeyPair,
    since: UnixTime,
    previous: Option<(HpkeKeyPair, UnixTime)>,
}

/// How the ring is stored.
#[derive(Encode, Decode)]
struct StoredRing {
    current: [u8; 32],
    since: UnixTime,
    previous: Option<([u8; 32], UnixTime)>,
}

impl HpkeKeyRing {
    /// Starts with one key.
    #[must_use]
    pub const fn new(current: HpkeKeyPair, now: UnixTime) -> Self {
        Self { current, since: now, previous: None }
    }

    /// The key to publish.
    #[must_use]
    pub const fn public(&self) -> [u8; 32] {
        self.current.public
    }

    /// True if the key is due for a change.
    #[must_use]
    pub const fn is_due(&self, now: UnixTime) -> bool {
        now.secs_since(self.since) >= HPKE_ROTATION_SECS
    }

    /// Puts `next` in use. The former key opens for another week, the one before it is destroyed. Publish the new one afterwards.
    pub fn rotate(&mut self, next: HpkeKeyPair, now: UnixTime) {
        let former = std::mem::replace(&mut self.current, next);
        self.previous = Some((former, now.plus_secs(PREVIOUS_SECS)));
        self.since = now;
    }

    /// Destroys the former key once its time is over. True if the ring changed and wants storing.
    pub fn prune(&mut self, now: UnixTime) -> bool {
        let is_over = self.previous.as_ref().is_some_and(|(_, until)| now > *until);
        if is_over {
            self.previous = None;
        }
        is_over
    }

    /// The secret keys, for storage.
    #[must_use]
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        let stored = StoredRing {
            current: *self.current.to_bytes(),
            since: self.since,
            previous: self.previous.as_ref().map(|(key, until)| (*key.to_bytes(), *until)),
        };
        Zeroizing::new(wire::encode(&stored))
    }

    /// A ring from [`HpkeKeyRing::to_bytes`].
    ///
    /// # Errors
    /// [`DecodeError`] if the bytes are something else.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let stored: StoredRing = wire::decode(bytes, 128)?;
        let previous = match stored.previous {
            Some((key, until)) => Some((HpkeKeyPair::from_bytes(&key)?, until)),
            None => None,
        };
        Ok(Self { current: HpkeKeyPair::from_bytes(&stored.current)?, since: stored.since, previous })
    }

    /// Opens with the current key, then with the former.
    pub(crate) fn open(&self, sealed: &[u8], info: &[u8], aad: &[u8]) -> Option<Vec<u8>> {
        self.current.open(sealed, info, aad).or_else(|| self.previous.as_ref().and_then(|(key, _)| key.open(sealed, info, aad)))
    }
}
