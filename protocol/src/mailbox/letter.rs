//! A message sealed to one device, for ways on which somebody else keeps it for a while.
//!
//! Plain: `length u16 big endian || chain and Signed<Letter> || zeros`, padded so that the sealed whole has one of [`LETTER_SIZE_CLASSES`].
//! Sealed: `version (1) || encapsulated key (32) || ciphertext || tag (16)`, HPKE with info `halloo letter 1` and the recipient's device key as
//! associated data. The sender's name is inside.

use std::fmt;

use bincode::{Decode, Encode};

use super::LETTER_BYTES_MAX;
use crate::call::HpkeKeyRing;
use crate::call::hpke_key::{self, SealPaddedError};
use crate::identity::{Chain, ChainError, DeviceCertificate, TrustStore, VerifiedChain};
use crate::key::{DeviceKey, SecretKey, SignatureError};
use crate::message::Content;
use crate::time::UnixTime;
use crate::wire::{self, Body, DecodeError, Extensions, Signed};

/// Sizes a sealed letter can have, so that its size says little: a mark or a contact request, a few sentences, a page, the longest text, a
/// profile with its picture.
pub const LETTER_SIZE_CLASSES: [usize; 5] = [super::DOOR_LETTER_BYTES_MAX, 5_120, 10_240, 20_480, LETTER_BYTES_MAX];

const SEAL_INFO: &[u8] = b"halloo letter 1";

/// What is in a letter. Signed by the sender's device.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Letter {
    /// Who writes.
    pub chain: Chain,
    /// Which device is meant: a letter can't be sealed on to another.
    pub recipient: DeviceKey,
    /// The message.
    pub content: Content,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Body for Letter {
    const KIND: u16 = 0x0801;
    const LIMIT: usize = LETTER_BYTES_MAX;

    fn check(&self) -> Result<(), DecodeError> {
        self.content.check()
    }
}

/// Why a letter can't be sealed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SealLetterError {
    /// It doesn't fit.
    #[error("the letter is {0} bytes too long to be sealed")]
    TooLong(usize),
    /// The recipient's entry holds something that isn't an X25519 key.
    #[error("the recipient's key isn't usable")]
    RecipientKey,
    /// A field is out of range.
    #[error(transparent)]
    Field(#[from] DecodeError),
}

impl From<SealPaddedError> for SealLetterError {
    fn from(error: SealPaddedError) -> Self {
        match error {
            SealPaddedError::TooLong(bytes) => Self::TooLong(bytes),
            SealPaddedError::RecipientKey => Self::RecipientKey,
        }
    }
}

/// Why a sealed letter isn't believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LetterError {
    /// Sealed in a way this version doesn't know, or cut short.
    #[error("not a letter this version can read")]
    Version,
    /// Sealed to another device or to a key already destroyed, or changed on the way.
    #[error("the letter doesn't open with this device's keys")]
    NotForMe,
    /// It opened, and what is inside isn't well formed.
    #[error("letter: {0}")]
    Decode(#[from] DecodeError),
    /// Signed for another device, and sealed again to this one.
    #[error("the letter is for {0}")]
    WrongRecipient(DeviceKey),
    /// The sender's chain doesn't hold.
    #[error("sender: {0}")]
    Chain(#[from] ChainError),
    /// The sender's device didn't sign it.
    #[error("letter: {0}")]
    Signature(#[from] SignatureError),
}

/// A letter whose seal, signature, chain and recipient were checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedLetter {
    content: Content,
    sender: VerifiedChain,
    certificate: Signed<DeviceCertificate>,
}

impl VerifiedLetter {
    /// Who wrote it, on which device.
    #[must_use]
    pub const fn sender(&self) -> &VerifiedChain {
        &self.sender
    }

    /// The message, who wrote it, and the certificate of the device that did.
    #[must_use]
    pub fn into_parts(self) -> (Content, VerifiedChain, Signed<DeviceCertificate>) {
        (self.content, self.sender, self.certificate)
    }
}

/// Signs something with its writer's device key and seals it to `recipient`, whose entry has `hpke_key`, padded to one of the sizes.
pub(crate) fn seal_signed<B: Body>(
    body: B,
    recipient: &DeviceKey,
    device: &SecretKey,
    hpke_key: &[u8; 32],
    (sizes, info): (&[usize], &[u8]),
    rng: &mut impl rand::CryptoRng,
) -> Result<Vec<u8>, SealLetterError> {
    let signed = wire::encode(&Signed::sign(body, device));
    Ok(hpke_key::seal_padded(hpke_key, &signed, sizes, info, recipient.as_bytes(), rng)?)
}

/// Opens what [`seal_signed`] made. Nothing of it is believed yet.
pub(crate) fn open_signed<B: Body>(
    sealed: &[u8],
    bytes_max: usize,
    info: &[u8],
    keys: &HpkeKeyRing,
    me: &DeviceKey,
) -> Result<Signed<B>, LetterError> {
    let sealed = hpke_key::sealed_part(sealed, bytes_max).ok_or(LetterError::Version)?;
    let plain = keys.open(sealed, info, me.as_bytes()).ok_or(LetterError::NotForMe)?;
    Ok(wire::decode(hpke_key::unpad(&plain)?, bytes_max)?)
}

/// A [`Letter`], sealed to one device.
#[derive(Clone, PartialEq, Eq, Hash, Encode, Decode)]
pub struct SealedLetter(Vec<u8>);

impl fmt::Debug for SealedLetter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealedLetter({} bytes)", self.0.len())
    }
}

impl SealedLetter {
    /// Signs `letter` with the sender's device key and seals it to `hpke_key`, the key in the recipient's entry.
    ///
    /// # Errors
    /// [`SealLetterError`] if it doesn't fit or the key is none.
    pub fn seal(
        letter: Letter,
        device: &SecretKey,
        hpke_key: &[u8; 32],
        rng: &mut impl rand::CryptoRng,
    ) -> Result<Self, SealLetterError> {
        letter.check()?;
        let recipient = letter.recipient;
        Ok(Self(seal_signed(letter, &recipient, device, hpke_key, (&LETTER_SIZE_CLASSES, SEAL_INFO), rng)?))
    }

    /// Takes bytes that arrived; what they are shows on opening.
    ///
    /// # Errors
    /// [`DecodeError::TooLarge`] beyond [`LETTER_BYTES_MAX`].
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, DecodeError> {
        if bytes.len() > LETTER_BYTES_MAX {
            return Err(DecodeError::TooLarge { length: bytes.len(), limit: LETTER_BYTES_MAX });
        }
        Ok(Self(bytes))
    }

    /// The bytes as they travel.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// True if its size is one that letters have.
    #[must_use]
    pub fn has_class_size(&self) -> bool {
        LETTER_SIZE_CLASSES.contains(&self.0.len())
    }

    /// Opens and checks: seal, form, recipient, chain, signature. `now` is the corrected time.
    ///
    /// # Errors
    /// [`LetterError`].
    pub fn open(
        &self,
        keys: &HpkeKeyRing,
        me: &DeviceKey,
        now: UnixTime,
        trust: &TrustStore,
    ) -> Result<VerifiedLetter, LetterError> {
        let signed: Signed<Letter> = open_signed(&self.0, LETTER_BYTES_MAX, SEAL_INFO, keys, me)?;
        let claimed = signed.unverified();
        if claimed.recipient != *me {
            return Err(LetterError::WrongRecipient(claimed.recipient));
        }
        let sender = claimed.chain.verify(now, trust)?;
        let letter = signed.verify(&sender.device.0)?;
        Ok(VerifiedLetter { content: letter.content.clone(), sender, certificate: letter.chain.device.clone() })
    }
}
