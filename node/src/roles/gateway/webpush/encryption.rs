//! Message encryption for Web Push (RFC 8291) in the content coding `aes128gcm` (RFC 8188).
//!
//! Each message has a fresh sender key pair. The shared secret of that and the device's key, mixed
//! with the device's authentication secret, gives the key of one AES-128-GCM record:
//!
//! ```text
//! salt 16 | record size 4 | key length 1 | sender's public key 65 | ciphertext | tag 16
//! ```
//!
//! The plaintext is followed by the octet 2, which marks the last (here: only) record, and then
//! by zeroes as padding. We write no padding: callers that hide a message's length pad it before.
//!
//! This module reads no clock and no network.

use std::fmt;

use aes_gcm::aead::{Aead, KeyInit};
use aes_gcm::{Aes128Gcm, Key, Nonce};
use hkdf::Hkdf;
use p256::elliptic_curve::Generate;
use p256::elliptic_curve::sec1::ToSec1Point;
use p256::{PublicKey, SecretKey};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::{AUTH_SECRET_BYTES, PUBLIC_KEY_BYTES, Subscription};

const SALT_BYTES: usize = 16;
const TAG_BYTES: usize = 16;
/// Salt, record size, key length, key.
const HEADER_BYTES: usize = SALT_BYTES + 4 + 1 + PUBLIC_KEY_BYTES;
/// Follows the plaintext of the last record (RFC 8188 section 2).
const LAST_RECORD: u8 = 2;
/// Smallest record size with room for one octet (RFC 8188 section 2.1).
const RECORD_BYTES_MIN: u32 = 18;
/// Record size that we write: that of RFC 8291's examples. The message is always one record, and
/// no reader needs more memory than for [`BODY_BYTES_MAX`].
const RECORD_BYTES: u32 = 4_096;

/// Longest body that every push service has to take (RFC 8030 section 7.2).
pub const BODY_BYTES_MAX: usize = 4_096;

/// Longest plaintext that fits into such a body: 4,096 less the header of 86, the tag of 16 and
/// the delimiter (RFC 8291 section 4).
pub const PLAINTEXT_BYTES_MAX: usize = BODY_BYTES_MAX - HEADER_BYTES - TAG_BYTES - 1;

/// Why a message was not encrypted.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum EncryptError {
    /// Over [`PLAINTEXT_BYTES_MAX`].
    #[error("payload of {bytes} bytes is over the limit of {PLAINTEXT_BYTES_MAX}")]
    TooLarge {
        /// Length asked for.
        bytes: usize,
    },
    /// The operating system gave no randomness.
    #[error("no randomness from the operating system")]
    Randomness,
}

/// Why a received message was not decrypted. The sender broke the format, or the message is not
/// for these keys.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum DecryptError {
    /// Over [`BODY_BYTES_MAX`].
    #[error("message of {bytes} bytes is over the limit of {BODY_BYTES_MAX}")]
    TooLarge {
        /// Length received.
        bytes: usize,
    },
    /// Shorter than header and tag.
    #[error("message of {bytes} bytes is cut short")]
    Truncated {
        /// Length received.
        bytes: usize,
    },
    /// A record size under 18, or more than one record (RFC 8291 section 4 allows only one).
    #[error("record size {size} does not fit the message")]
    RecordSize {
        /// Size stated.
        size: u32,
    },
    /// The key in the header is not an uncompressed point on P-256.
    #[error("sender's key is not a point on P-256")]
    SenderKey,
    /// Changed on its way, or for another key or authentication secret.
    #[error("message is not authentic for these keys")]
    NotAuthentic,
    /// Authentic, but without the mark of a last record.
    #[error("message has no valid padding")]
    Padding,
}

/// A device's side of a subscription: the private key and the authentication secret.
///
/// Made once per subscription, kept by the device, never shown to anyone.
#[derive(Clone)]
pub struct ReceiverKeys {
    private: SecretKey,
    auth: Zeroizing<[u8; AUTH_SECRET_BYTES]>,
}

impl ReceiverKeys {
    /// Makes new keys from the operating system's randomness.
    ///
    /// # Errors
    /// [`EncryptError::Randomness`].
    pub fn generate() -> Result<Self, EncryptError> {
        let mut auth = Zeroizing::new([0; AUTH_SECRET_BYTES]);
        getrandom::fill(auth.as_mut()).map_err(|_| EncryptError::Randomness)?;
        let private = SecretKey::try_generate().map_err(|_| EncryptError::Randomness)?;
        Ok(Self { private, auth })
    }

    /// Keys as [`Self::private_bytes`] and [`Self::auth`] gave them; `None` if the private key is
    /// zero or not below the curve's order.
    pub fn from_bytes(private: &[u8; 32], auth: [u8; AUTH_SECRET_BYTES]) -> Option<Self> {
        Some(Self { private: SecretKey::from_slice(private).ok()?, auth: Zeroizing::new(auth) })
    }

    /// The private key, for the device's own storage.
    pub fn private_bytes(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.private.to_bytes().into())
    }

    /// The public key, an uncompressed point: `p256dh` of the subscription.
    pub fn public_key(&self) -> [u8; PUBLIC_KEY_BYTES] {
        uncompressed(&self.private.public_key())
    }

    /// The authentication secret: `auth` of the subscription.
    pub fn auth(&self) -> &[u8; AUTH_SECRET_BYTES] {
        &self.auth
    }
}

impl fmt::Debug for ReceiverKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ReceiverKeys(..)")
    }
}

/// What must be random and new for each message: the sender's key pair and the salt.
pub struct MessageKeys {
    private: SecretKey,
    salt: [u8; SALT_BYTES],
}

impl MessageKeys {
    /// Makes new ones from the operating system's randomness.
    ///
    /// # Errors
    /// [`EncryptError::Randomness`].
    pub fn generate() -> Result<Self, EncryptError> {
        let mut salt = [0; SALT_BYTES];
        getrandom::fill(&mut salt).map_err(|_| EncryptError::Randomness)?;
        let private = SecretKey::try_generate().map_err(|_| EncryptError::Randomness)?;
        Ok(Self { private, salt })
    }

    /// Given ones, to reproduce a known message; `None` if the private key is not valid. Two
    /// messages under the same keys reveal each other.
    pub fn dangerous_from_bytes(private: &[u8; 32], salt: [u8; SALT_BYTES]) -> Option<Self> {
        let private = SecretKey::from_slice(private).ok()?;
        Some(Self { private, salt })
    }
}

impl fmt::Debug for MessageKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MessageKeys(..)")
    }
}

/// Encrypts a message for the subscription's device: the body to post, with
/// `Content-Encoding: aes128gcm`.
///
/// # Errors
/// Any [`EncryptError`].
pub fn encrypt(subscription: &Subscription, plaintext: &[u8]) -> Result<Vec<u8>, EncryptError> {
    encrypt_with(subscription, plaintext, &MessageKeys::generate()?)
}

/// [`encrypt`] with given random values.
///
/// # Errors
/// [`EncryptError::TooLarge`].
pub fn encrypt_with(subscription: &Subscription, plaintext: &[u8], keys: &MessageKeys) -> Result<Vec<u8>, EncryptError> {
    if plaintext.len() > PLAINTEXT_BYTES_MAX {
        return Err(EncryptError::TooLarge { bytes: plaintext.len() });
    }
    let receiver = parse_public_key(subscription.p256dh()).expect("checked when the subscription was made");
    let sender_public = uncompressed(&keys.private.public_key());
    let record_key = RecordKey::derive(
        keys.private.diffie_hellman(&receiver).raw_secret_bytes(),
        subscription.auth(),
        subscription.p256dh(),
        &sender_public,
        &keys.salt,
    );

    let mut record = Vec::with_capacity(plaintext.len() + 1);
    record.extend_from_slice(plaintext);
    record.push(LAST_RECORD);
    let ciphertext = record_key.seal(&record);

    let mut body = Vec::with_capacity(HEADER_BYTES + ciphertext.len());
    body.extend_from_slice(&keys.salt);
    body.extend_from_slice(&RECORD_BYTES.to_be_bytes());
    body.push(PUBLIC_KEY_BYTES as u8);
    body.extend_from_slice(&sender_public);
    body.extend_from_slice(&ciphertext);
    Ok(body)
}

/// Decrypts a body that a push service delivered. Untrusted input.
///
/// # Errors
/// Any [`DecryptError`].
pub fn decrypt(keys: &ReceiverKeys, body: &[u8]) -> Result<Vec<u8>, DecryptError> {
    let message = Message::parse(body)?;
    let sender = parse_public_key(message.sender_public).ok_or(DecryptError::SenderKey)?;
    let record_key = RecordKey::derive(
        keys.private.diffie_hellman(&sender).raw_secret_bytes(),
        &keys.auth,
        &keys.public_key(),
        message.sender_public,
        message.salt,
    );
    let mut record = record_key.open(message.ciphertext).ok_or(DecryptError::NotAuthentic)?;
    // Padding is zeroes after the delimiter; a record of zeroes only is an error (RFC 8188
    // section 2).
    let delimiter = record.iter().rposition(|octet| *octet != 0).ok_or(DecryptError::Padding)?;
    if record[delimiter] != LAST_RECORD {
        return Err(DecryptError::Padding);
    }
    record.truncate(delimiter);
    Ok(record)
}

/// The parts of a body, lengths checked and nothing else.
struct Message<'a> {
    salt: &'a [u8; SALT_BYTES],
    sender_public: &'a [u8; PUBLIC_KEY_BYTES],
    ciphertext: &'a [u8],
}

impl<'a> Message<'a> {
    fn parse(body: &'a [u8]) -> Result<Self, DecryptError> {
        if body.len() > BODY_BYTES_MAX {
            return Err(DecryptError::TooLarge { bytes: body.len() });
        }
        let truncated = || DecryptError::Truncated { bytes: body.len() };
        let (salt, rest) = body.split_first_chunk::<SALT_BYTES>().ok_or_else(truncated)?;
        let (record_size, rest) = rest.split_first_chunk::<4>().ok_or_else(truncated)?;
        let (key_length, rest) = rest.split_first().ok_or_else(truncated)?;
        if usize::from(*key_length) != PUBLIC_KEY_BYTES {
            return Err(DecryptError::SenderKey);
        }
        let (sender_public, ciphertext) = rest.split_first_chunk::<PUBLIC_KEY_BYTES>().ok_or_else(truncated)?;
        if ciphertext.len() <= TAG_BYTES {
            return Err(truncated());
        }
        let size = u32::from_be_bytes(*record_size);
        let is_one_record = u64::from(size) >= ciphertext.len() as u64;
        if size < RECORD_BYTES_MIN || !is_one_record {
            return Err(DecryptError::RecordSize { size });
        }
        Ok(Self { salt, sender_public, ciphertext })
    }
}

/// Content encryption key and nonce of the only record.
struct RecordKey {
    key: Zeroizing<[u8; 16]>,
    nonce: [u8; 12],
}

impl RecordKey {
    /// RFC 8291 section 3.4. The nonce is that of record 0, so nothing is mixed into it.
    fn derive(
        shared_secret: &[u8],
        auth: &[u8; AUTH_SECRET_BYTES],
        receiver_public: &[u8; PUBLIC_KEY_BYTES],
        sender_public: &[u8; PUBLIC_KEY_BYTES],
        salt: &[u8; SALT_BYTES],
    ) -> Self {
        let mut input = Zeroizing::new([0; 32]);
        let info = [b"WebPush: info\0", &receiver_public[..], sender_public];
        expand(auth, shared_secret, &info, input.as_mut());

        let mut key = Zeroizing::new([0; 16]);
        let mut nonce = [0; 12];
        expand(salt, input.as_ref(), &[b"Content-Encoding: aes128gcm\0"], key.as_mut());
        expand(salt, input.as_ref(), &[b"Content-Encoding: nonce\0"], &mut nonce);
        Self { key, nonce }
    }

    fn cipher(&self) -> Aes128Gcm {
        Aes128Gcm::new(Key::<Aes128Gcm>::from(*self.key).as_ref())
    }

    fn seal(&self, record: &[u8]) -> Vec<u8> {
        self.cipher().encrypt(&Nonce::from(self.nonce), record).expect("AES-GCM takes records up to 64 GiB")
    }

    fn open(&self, ciphertext: &[u8]) -> Option<Vec<u8>> {
        self.cipher().decrypt(&Nonce::from(self.nonce), ciphertext).ok()
    }
}

/// HKDF-SHA-256 (RFC 5869), both steps.
fn expand(salt: &[u8], input: &[u8], info: &[&[u8]], output: &mut [u8]) {
    Hkdf::<Sha256>::new(Some(salt), input)
        .expand_multi_info(info, output)
        .expect("at most 32 bytes are asked for; HKDF gives 8,160");
}

/// An uncompressed point that is on the curve and not its identity.
pub(super) fn parse_public_key(bytes: &[u8; PUBLIC_KEY_BYTES]) -> Option<PublicKey> {
    PublicKey::from_sec1_bytes(bytes).ok()
}

/// The 65-byte form of a key.
pub(super) fn uncompressed(key: &PublicKey) -> [u8; PUBLIC_KEY_BYTES] {
    key.to_sec1_point(false).as_bytes().try_into().expect("an uncompressed P-256 point has 65 bytes")
}

#[cfg(test)]
mod tests {
    use data_encoding::BASE64URL_NOPAD;
    use proptest::prelude::*;

    use super::*;

    /// RFC 8291 section 5 and appendix A: "Push Message Encryption Example" and its
    /// intermediate values.
    mod rfc8291 {
        pub(super) const PLAINTEXT: &[u8] = b"When I grow up, I want to be a watermelon";
        pub(super) const SENDER_PRIVATE: &str = "yfWPiYE-n46HLnH0KqZOF1fJJU3MYrct3AELtAQ-oRw";
        pub(super) const RECEIVER_PRIVATE: &str = "q1dXpw3UpT5VOmu_cf_v6ih07Aems3njxI-JWgLcM94";
        pub(super) const RECEIVER_PUBLIC: &str =
            "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4";
        pub(super) const SALT: &str = "DGv6ra1nlYgDCS1FRnbzlw";
        pub(super) const AUTH: &str = "BTBZMqHH6r4Tts7J_aSIgg";
        pub(super) const BODY: &str = "DGv6ra1nlYgDCS1FRnbzlwAAEABBBP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27mlmlMoZIIgDll6e3vCYLocInmYWAmS6TlzAC8wEqKK6PBru3jl7A_yl95bQpu6cVPTpK4Mqgkf1CXztLVBSt2Ks3oZwbuwXPXLWyouBWLVWGNWQexSgSxsj_Qulcy4a-fN";
    }

    fn bytes<const N: usize>(text: &str) -> [u8; N] {
        let decoded = BASE64URL_NOPAD.decode(text.as_bytes()).unwrap();
        decoded.try_into().unwrap()
    }

    fn rfc_keys() -> ReceiverKeys {
        ReceiverKeys::from_bytes(&bytes(rfc8291::RECEIVER_PRIVATE), bytes(rfc8291::AUTH)).unwrap()
    }

    fn subscription(keys: &ReceiverKeys) -> Subscription {
        Subscription::new("https://example.net/a", keys.public_key(), *keys.auth()).unwrap()
    }

    /// A body as we would write it, except for what is inside the record.
    fn body_with_record(keys: &ReceiverKeys, record: &[u8]) -> Vec<u8> {
        let sender = MessageKeys::generate().unwrap();
        let mut body = encrypt_with(&subscription(keys), b"", &sender).unwrap();
        let receiver = parse_public_key(&keys.public_key()).unwrap();
        let record_key = RecordKey::derive(
            sender.private.diffie_hellman(&receiver).raw_secret_bytes(),
            keys.auth(),
            &keys.public_key(),
            &uncompressed(&sender.private.public_key()),
            &sender.salt,
        );
        body.truncate(HEADER_BYTES);
        body.extend_from_slice(&record_key.seal(record));
        body
    }

    #[test]
    fn the_rfc_example_is_reproduced_byte_for_byte() {
        let keys = rfc_keys();
        assert_eq!(keys.public_key(), bytes(rfc8291::RECEIVER_PUBLIC));
        let sender = MessageKeys::dangerous_from_bytes(&bytes(rfc8291::SENDER_PRIVATE), bytes(rfc8291::SALT)).unwrap();
        let body = encrypt_with(&subscription(&keys), rfc8291::PLAINTEXT, &sender).unwrap();
        assert_eq!(BASE64URL_NOPAD.encode(&body), rfc8291::BODY);
        assert_eq!(decrypt(&keys, &body).unwrap(), rfc8291::PLAINTEXT);
    }

    #[test]
    fn the_largest_payload_fills_the_body_exactly() {
        assert_eq!(PLAINTEXT_BYTES_MAX, 3_993);
        let keys = ReceiverKeys::generate().unwrap();
        let largest = vec![1; PLAINTEXT_BYTES_MAX];
        let body = encrypt(&subscription(&keys), &largest).unwrap();
        assert_eq!(body.len(), BODY_BYTES_MAX);
        assert_eq!(decrypt(&keys, &body).unwrap(), largest);

        let too_large = vec![1; PLAINTEXT_BYTES_MAX + 1];
        assert_eq!(encrypt(&subscription(&keys), &too_large), Err(EncryptError::TooLarge { bytes: 3_994 }));
        assert_eq!(decrypt(&keys, &[0; BODY_BYTES_MAX + 1]), Err(DecryptError::TooLarge { bytes: 4_097 }));
    }

    #[test]
    fn two_messages_share_neither_salt_nor_key() {
        let keys = ReceiverKeys::generate().unwrap();
        let first = encrypt(&subscription(&keys), b"same").unwrap();
        let second = encrypt(&subscription(&keys), b"same").unwrap();
        assert_ne!(first[..SALT_BYTES], second[..SALT_BYTES]);
        assert_ne!(first[21..HEADER_BYTES], second[21..HEADER_BYTES]);
    }

    #[test]
    fn every_tampered_byte_is_refused() {
        let keys = rfc_keys();
        let body = BASE64URL_NOPAD.decode(rfc8291::BODY.as_bytes()).unwrap();
        for position in 0..body.len() {
            let mut tampered = body.clone();
            tampered[position] ^= 1;
            let result = decrypt(&keys, &tampered);
            let expected = match position {
                // The record size is not authenticated; another one that fits is no error.
                16..20 if result.as_deref() == Ok(rfc8291::PLAINTEXT) => continue,
                16..20 => matches!(result, Err(DecryptError::RecordSize { .. })),
                20..HEADER_BYTES => matches!(result, Err(DecryptError::SenderKey | DecryptError::NotAuthentic)),
                _ => result == Err(DecryptError::NotAuthentic),
            };
            assert!(expected, "byte {position}: {result:?}");
        }
    }

    #[test]
    fn another_devices_key_or_secret_is_refused() {
        let keys = ReceiverKeys::generate().unwrap();
        let body = encrypt(&subscription(&keys), b"for one device").unwrap();
        let wrong_auth = ReceiverKeys::from_bytes(&keys.private_bytes(), [9; 16]).unwrap();
        assert_eq!(decrypt(&wrong_auth, &body), Err(DecryptError::NotAuthentic));
        let other = ReceiverKeys::generate().unwrap();
        let wrong_key = ReceiverKeys::from_bytes(&other.private_bytes(), *keys.auth()).unwrap();
        assert_eq!(decrypt(&wrong_key, &body), Err(DecryptError::NotAuthentic));
    }

    #[test]
    fn padding_is_removed_and_its_absence_refused() {
        let keys = ReceiverKeys::generate().unwrap();
        let open = |record: &[u8]| decrypt(&keys, &body_with_record(&keys, record));
        assert_eq!(open(b"text\x02\0\0\0"), Ok(b"text".to_vec()));
        assert_eq!(open(b"zero\0\x02"), Ok(b"zero\0".to_vec()));
        assert_eq!(open(b"\x02"), Ok(Vec::new()));
        // 1 announces another record, which a push message cannot have.
        assert_eq!(open(b"text\x01"), Err(DecryptError::Padding));
        assert_eq!(open(b"text"), Err(DecryptError::Padding));
        assert_eq!(open(b"\0\0\0"), Err(DecryptError::Padding));
    }

    #[test]
    fn messages_of_several_records_or_tiny_ones_are_refused() {
        let keys = rfc_keys();
        let mut body = BASE64URL_NOPAD.decode(rfc8291::BODY.as_bytes()).unwrap();
        for size in [0, 17, 57] {
            body[16..20].copy_from_slice(&u32::to_be_bytes(size));
            assert_eq!(decrypt(&keys, &body), Err(DecryptError::RecordSize { size }));
        }
        // The ciphertext of the example has 58 bytes: the record is exactly full.
        for size in [58, u32::MAX] {
            body[16..20].copy_from_slice(&u32::to_be_bytes(size));
            assert!(decrypt(&keys, &body).is_ok());
        }
    }

    #[test]
    fn messages_cut_short_are_refused() {
        let keys = rfc_keys();
        let body = BASE64URL_NOPAD.decode(rfc8291::BODY.as_bytes()).unwrap();
        for length in 0..body.len() {
            assert!(decrypt(&keys, &body[..length]).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn invalid_private_keys_are_refused() {
        assert!(ReceiverKeys::from_bytes(&[0; 32], [1; 16]).is_none());
        assert!(ReceiverKeys::from_bytes(&[0xff; 32], [1; 16]).is_none());
        assert!(MessageKeys::dangerous_from_bytes(&[0; 32], [1; 16]).is_none());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn any_payload_survives_the_round_trip(plaintext in prop::collection::vec(any::<u8>(), 0..=PLAINTEXT_BYTES_MAX)) {
            let keys = ReceiverKeys::generate().unwrap();
            let body = encrypt(&subscription(&keys), &plaintext).unwrap();
            prop_assert!(body.len() <= BODY_BYTES_MAX);
            prop_assert_eq!(decrypt(&keys, &body).unwrap(), plaintext);
        }

        #[test]
        fn arbitrary_bytes_never_panic(body in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(decrypt(&rfc_keys(), &body).is_err());
        }

        /// Past the cheap checks: a valid header before arbitrary bytes.
        #[test]
        fn arbitrary_ciphertext_never_panics(tail in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut body = BASE64URL_NOPAD.decode(rfc8291::BODY.as_bytes()).unwrap();
            body.truncate(HEADER_BYTES);
            body.extend_from_slice(&tail);
            prop_assert!(decrypt(&rfc_keys(), &body).is_err());
        }
    }
}
