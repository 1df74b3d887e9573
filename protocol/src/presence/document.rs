//! What a device says about its user, sealed for contacts.
//!
//! Inside, a [`Document`] signed by the device; outside, a [`SealedBody`] signed under the topic, which carriers can check, order and let
//! expire without reading a word. Sizes are padded to [`SEALED_SIZES`].

use std::fmt;
use std::sync::{Arc, OnceLock};

use bincode::{Decode, Encode};
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use serde::{Deserialize, Serialize};

use super::topic::{Day, PresenceKey, PresenceSecret, Topic};
use crate::directory::{DeviceKind, Reachability};
use crate::key::{DeviceKey, IdentityKey, SecretKey, SignatureError};
use crate::time::UnixTime;
use crate::wire::{self, Body, DecodeError, Extensions, Signed};

/// Longest mood, in bytes.
pub const MOOD_BYTES_MAX: usize = 280;

/// Longest validity of a document: what a device that vanished unseen is shown for at worst.
pub const DOCUMENT_SECS_MAX: u64 = 3_600;

/// Sizes of sealed parts, nonce and tag included: without and with a short mood, and with the longest.
pub const SEALED_SIZES: [usize; 3] = [200, 300, 512];

const NONCE_BYTES: usize = 24;
const TAG_BYTES: usize = 16;
/// The length of the content, in front of it.
const LENGTH_BYTES: usize = 2;

/// What the user chose to be, or does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Not there, or wishes to look so.
    #[default]
    Offline,
    /// There, and hasn't touched the device for a while.
    Away,
    /// There.
    Online,
    /// There, and doesn't wish to be disturbed.
    Dnd,
}

/// A device's word about its user. Signed by the device.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Document {
    /// Whose presence.
    pub identity: IdentityKey,
    /// The device, which signs; its certificate is the one contacts know from the directory.
    pub device: DeviceKey,
    /// Grows with every document of the device; the higher one wins.
    pub sequence: u64,
    /// When it was made, by the device's corrected clock.
    pub issued_at: UnixTime,
    /// Valid until; at most [`DOCUMENT_SECS_MAX`] after `issued_at`.
    pub expires_at: UnixTime,
    /// What the user chose to be.
    pub state: State,
    /// How the device can be reached.
    pub reachability: Reachability,
    /// What machine it is.
    pub kind: DeviceKind,
    /// How many devices the user has: who knows fewer looks the record up again.
    pub devices: u8,
    /// The user's own words; at most [`MOOD_BYTES_MAX`] bytes.
    pub mood: String,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Body for Document {
    const KIND: u16 = 0x0701;
    const LIMIT: usize = 512;

    fn check(&self) -> Result<(), DecodeError> {
        check_validity(self.issued_at, self.expires_at)?;
        if self.mood.len() > MOOD_BYTES_MAX {
            return Err(DecodeError::invalid("mood", format!("{} bytes, at most {MOOD_BYTES_MAX}", self.mood.len())));
        }
        Ok(())
    }
}

fn check_validity(issued_at: UnixTime, expires_at: UnixTime) -> Result<(), DecodeError> {
    if expires_at < issued_at || expires_at.secs_since(issued_at) > DOCUMENT_SECS_MAX {
        return Err(DecodeError::invalid("expires_at", format!("more than {DOCUMENT_SECS_MAX} s after issue, or before it")));
    }
    Ok(())
}

/// What everybody on the way sees. Signed under the topic, which isn't repeated in it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct SealedBody {
    /// The document's sequence, less the second in which the topic's day started: newest wins, and it tells nothing of other days.
    pub sequence: u64,
    /// When it may be forgotten: the document's own end.
    pub expires_at: UnixTime,
    /// The sealed document: one of [`SEALED_SIZES`] long.
    pub sealed: Vec<u8>,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Body for SealedBody {
    const KIND: u16 = 0x0702;
    const LIMIT: usize = 640;

    fn check(&self) -> Result<(), DecodeError> {
        if !SEALED_SIZES.contains(&self.sealed.len()) {
            return Err(DecodeError::invalid("sealed", format!("{} bytes is no size class", self.sealed.len())));
        }
        if self.sequence == 0 {
            return Err(DecodeError::invalid("sequence", "0 means none"));
        }
        Ok(())
    }
}

/// Why a sealed document isn't believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DocumentError {
    /// It wasn't signed under this topic.
    #[error("outside: {0}")]
    Outside(SignatureError),
    /// It is over.
    #[error("the document expired at {0}")]
    Expired(UnixTime),
    /// It is valid for longer than any document may be.
    #[error("the document expires at {0}, which is too far ahead")]
    TooLong(UnixTime),
    /// Wrong key, or changed bytes.
    #[error("the document doesn't open with this key")]
    Seal,
    /// It opened, and what is inside isn't well formed.
    #[error("content: {0}")]
    Content(#[from] DecodeError),
    /// The device named inside didn't sign it.
    #[error("inside: {0}")]
    Inside(SignatureError),
    /// Inside stands another user, device, sequence or end than outside.
    #[error("the document's {0} isn't that of its outside")]
    Mismatch(&'static str),
    /// Its mood and extensions don't fit.
    #[error("{0} bytes of content, more than the largest size")]
    TooLarge(usize),
}

#[derive(Debug)]
struct Shared {
    signed: Signed<SealedBody>,
    /// The topic it was found to be signed under: passing it on inside a process doesn't verify it again.
    verified: OnceLock<Topic>,
    /// What was found inside: opening it again inside a process neither decrypts nor verifies again.
    opened: OnceLock<Opened>,
}

/// What was inside, and with what it was opened.
#[derive(Debug)]
struct Opened {
    key: PresenceKey,
    day: Day,
    topic: Topic,
    document: Arc<Document>,
}

/// A sealed document as it travels. Cheap to clone; equality compares bytes.
#[derive(Clone)]
pub struct SealedDocument(Arc<Shared>);

impl fmt::Debug for SealedDocument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealedDocument({}, until {})", self.sequence(), self.expires_at())
    }
}

impl PartialEq for SealedDocument {
    fn eq(&self, other: &Self) -> bool {
        self.0.signed == other.0.signed
    }
}

impl Eq for SealedDocument {}

impl Encode for SealedDocument {
    fn encode<E: bincode::enc::Encoder>(&self, encoder: &mut E) -> Result<(), bincode::error::EncodeError> {
        self.0.signed.encode(encoder)
    }
}

impl<Context> Decode<Context> for SealedDocument {
    fn decode<D: bincode::de::Decoder<Context = Context>>(decoder: &mut D) -> Result<Self, bincode::error::DecodeError> {
        let signed = Signed::decode(decoder)?;
        Ok(Self::new(signed, OnceLock::new()))
    }
}
bincode::impl_borrow_decode!(SealedDocument);

impl SealedDocument {
    fn new(signed: Signed<SealedBody>, verified: OnceLock<Topic>) -> Self {
        Self(Arc::new(Shared { signed, verified, opened: OnceLock::new() }))
    }

    /// Signs and seals `document` for the day in which it was issued. `nonce` must be random.
    ///
    /// # Errors
    /// [`DocumentError::TooLarge`] or [`DocumentError::Content`] if it holds more than a document may.
    pub fn seal(
        document: Document,
        device: &SecretKey,
        secret: &PresenceSecret,
        nonce: [u8; NONCE_BYTES],
    ) -> Result<Self, DocumentError> {
        document.check()?;
        let key = secret.key();
        let day = key.day(document.issued_at);
        let signer = secret.signer(&document.device, day);
        let (sequence, expires_at) = (outer_sequence(&key, day, document.sequence), document.expires_at);
        let inside = wire::encode(&Signed::sign(document, device));
        let needed = NONCE_BYTES + LENGTH_BYTES + inside.len() + TAG_BYTES;
        let size = SEALED_SIZES.into_iter().find(|size| *size >= needed).ok_or(DocumentError::TooLarge(inside.len()))?;
        let length = u16::try_from(inside.len()).map_err(|_| DocumentError::TooLarge(inside.len()))?;
        let mut plain = length.to_be_bytes().to_vec();
        plain.extend_from_slice(&inside);
        plain.resize(size - NONCE_BYTES - TAG_BYTES, 0);
        let topic = signer.topic();
        let cipher = XChaCha20Poly1305::new((&*key.sealing_key(&topic)).into());
        let aad = associated(&topic, sequence);
        let sealed = cipher.encrypt(&XNonce::from(nonce), Payload { msg: &plain, aad: &aad }).map_err(|_| DocumentError::Seal)?;
        let body = SealedBody { sequence, expires_at, sealed: [&nonce[..], &sealed].concat(), extensions: Extensions::none() };
        let signed = Signed::sign_with(body, |bytes| signer.sign(bytes));
        Ok(Self::new(signed, OnceLock::from(topic)))
    }

    /// The outside's sequence.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.0.signed.unverified().sequence
    }

    /// When it ends.
    #[must_use]
    pub fn expires_at(&self) -> UnixTime {
        self.0.signed.unverified().expires_at
    }

    /// Bytes it takes in a frame.
    #[must_use]
    pub fn wire_len(&self) -> usize {
        wire::encoded_len(self)
    }

    /// Checks, without any secret, that it was signed under `topic` and is valid now.
    ///
    /// # Errors
    /// [`DocumentError`]: cheap checks come before the signature.
    pub fn verify(&self, topic: &Topic, now: UnixTime) -> Result<(), DocumentError> {
        let body = self.0.signed.unverified();
        if body.expires_at <= now {
            return Err(DocumentError::Expired(body.expires_at));
        }
        if body.expires_at.minus_secs(DOCUMENT_SECS_MAX).is_from_the_future(now) {
            return Err(DocumentError::TooLong(body.expires_at));
        }
        if self.0.verified.get() != Some(topic) {
            self.0.signed.verify(&topic.0).map_err(DocumentError::Outside)?;
            // A document is signed under one topic; the first that was asked for and held is remembered.
            let _ = self.0.verified.set(*topic);
        }
        Ok(())
    }

    /// Opens a document of `device`, a device of `identity` whose certificate the caller has verified, found under its `topic` of `day`.
    ///
    /// # Errors
    /// [`DocumentError`]: the first check that fails.
    pub fn open(
        &self,
        key: &PresenceKey,
        identity: &IdentityKey,
        device: &DeviceKey,
        (day, topic): (Day, &Topic),
    ) -> Result<Arc<Document>, DocumentError> {
        if let Some(opened) = self.0.opened.get()
            && opened.key == *key
            && (opened.day, opened.topic) == (day, *topic)
            && opened.document.identity == *identity
            && opened.document.device == *device
        {
            return Ok(opened.document.clone());
        }
        let document = Arc::new(self.decrypt(key, identity, device, (day, topic))?);
        // The first who opened it is remembered; a process with one device has no other.
        let _ = self.0.opened.set(Opened { key: key.clone(), day, topic: *topic, document: document.clone() });
        Ok(document)
    }

    fn decrypt(
        &self,
        key: &PresenceKey,
        identity: &IdentityKey,
        device: &DeviceKey,
        (day, topic): (Day, &Topic),
    ) -> Result<Document, DocumentError> {
        let body = self.0.signed.unverified();
        let cipher = XChaCha20Poly1305::new((&*key.sealing_key(topic)).into());
        let aad = associated(topic, body.sequence);
        let (nonce, sealed) = body.sealed.split_at_checked(NONCE_BYTES).ok_or(DocumentError::Seal)?;
        let nonce = <[u8; NONCE_BYTES]>::try_from(nonce).map_err(|_| DocumentError::Seal)?;
        let plain = cipher.decrypt(&XNonce::from(nonce), Payload { msg: sealed, aad: &aad }).map_err(|_| DocumentError::Seal)?;
        let signed: Signed<Document> = wire::decode(content(&plain)?, Document::LIMIT + 80)?;
        let document = signed.verify(&device.0).map_err(DocumentError::Inside)?;
        if document.identity != *identity {
            return Err(DocumentError::Mismatch("user"));
        }
        if document.device != *device {
            return Err(DocumentError::Mismatch("device"));
        }
        if key.day(document.issued_at) != day {
            return Err(DocumentError::Mismatch("day"));
        }
        if outer_sequence(key, day, document.sequence) != body.sequence {
            return Err(DocumentError::Mismatch("sequence"));
        }
        if document.expires_at != body.expires_at {
            return Err(DocumentError::Mismatch("end"));
        }
        Ok(document.clone())
    }
}

/// Sequences start at the clock ([`next_sequence`]), so those of a day are the seconds since it started, or somewhat more.
fn outer_sequence(key: &PresenceKey, day: Day, sequence: u64) -> u64 {
    sequence.saturating_sub(key.day_start(day).0).max(1)
}

/// The sequence of the next document: above the last one, and never below the clock, so that a device restored from a backup goes on above
/// what it published since.
#[must_use]
pub fn next_sequence(last: u64, now: UnixTime) -> u64 {
    last.saturating_add(1).max(now.0)
}

/// The sequence inside of a document whose outside says `outer`.
pub(super) fn inner_sequence(key: &PresenceKey, day: Day, outer: u64) -> u64 {
    key.day_start(day).0.saturating_add(outer)
}

fn content(plain: &[u8]) -> Result<&[u8], DecodeError> {
    let (length, rest) = plain.split_first_chunk::<LENGTH_BYTES>().ok_or_else(|| DecodeError::invalid("content", "empty"))?;
    let length = usize::from(u16::from_be_bytes(*length));
    let content = rest.get(..length).ok_or_else(|| DecodeError::invalid("content", "shorter than its length"))?;
    if rest[length..].iter().any(|byte| *byte != 0) {
        return Err(DecodeError::invalid("padding", "not zero"));
    }
    Ok(content)
}

fn associated(topic: &Topic, sequence: u64) -> [u8; 40] {
    let mut bytes = [0; 40];
    bytes[..32].copy_from_slice(topic.as_bytes());
    bytes[32..].copy_from_slice(&sequence.to_be_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_identity::NOW;

    fn secret() -> PresenceSecret {
        PresenceSecret::new(4, [5; 32])
    }

    fn device() -> SecretKey {
        SecretKey::from_bytes([8; 32])
    }

    fn document(mood: &str) -> Document {
        Document {
            identity: IdentityKey(SecretKey::from_bytes([9; 32]).public()),
            device: DeviceKey(device().public()),
            sequence: NOW.0,
            issued_at: NOW,
            expires_at: NOW.plus_secs(DOCUMENT_SECS_MAX),
            state: State::Online,
            reachability: Reachability::Relayed,
            kind: DeviceKind::Phone,
            devices: 2,
            mood: mood.into(),
            extensions: Extensions::none(),
        }
    }

    fn sealed(document: Document) -> SealedDocument {
        SealedDocument::seal(document, &device(), &secret(), [3; 24]).expect("fits")
    }

    /// As it arrives: nothing remembered.
    fn arrived(sealed: &SealedDocument) -> SealedDocument {
        wire::decode(&wire::encode(sealed), 1_000).expect("decodes")
    }

    fn open(sealed: &SealedDocument) -> Result<Document, DocumentError> {
        let (key, sent) = (secret().key(), document(""));
        sealed.open(&key, &sent.identity, &sent.device, today(&key)).map(|document| (*document).clone())
    }

    fn today(key: &PresenceKey) -> (Day, &'static Topic) {
        let day = key.day(NOW);
        let topic = key.topic(&DeviceKey(device().public()), day).expect("a key");
        (day, Box::leak(Box::new(topic)))
    }

    #[test]
    fn contacts_read_what_a_device_said() {
        let sent = document("");
        let arrived = arrived(&sealed(sent.clone()));
        let topic = secret().key().topic(&sent.device, secret().key().day(NOW)).expect("a key");
        assert_eq!(arrived.verify(&topic, NOW), Ok(()));
        assert_eq!(open(&arrived), Ok(sent));
    }

    #[test]
    fn sizes_tell_classes_and_no_more() {
        // A short status fits the smallest.
        let size = |mood: usize| sealed(document(&"m".repeat(mood))).0.signed.unverified().sealed.len();
        assert_eq!([size(0), size(4), size(16)], [200, 200, 300]);
        assert_eq!([size(100), size(MOOD_BYTES_MAX)], [300, 512]);
        assert!(wire::encode(&sealed(document(""))).len() <= 290, "a document has to stay small");
        let longer = document(&"m".repeat(MOOD_BYTES_MAX + 1));
        assert!(matches!(SealedDocument::seal(longer, &device(), &secret(), [3; 24]), Err(DocumentError::Content(_))));
    }

    #[test]
    fn who_is_no_contact_reads_nothing_and_forges_nothing() {
        let sent = document("");
        let arrived = arrived(&sealed(sent.clone()));
        let other = PresenceSecret::new(5, [5; 32]).key();
        assert!(matches!(arrived.open(&other, &sent.identity, &sent.device, today(&other)), Err(DocumentError::Seal)));
        let topic = other.topic(&sent.device, other.day(NOW)).expect("a key");
        assert!(matches!(arrived.verify(&topic, NOW), Err(DocumentError::Outside(_))));
        // A contact knows the presence key, and has to sign with something.
        let forged = SealedDocument::seal(document(""), &SecretKey::from_bytes([1; 32]), &secret(), [3; 24]).expect("fits");
        assert!(matches!(open(&forged), Err(DocumentError::Inside(_))));
    }

    #[test]
    fn every_changed_byte_is_noticed() {
        let sent = document("");
        let topic = secret().key().topic(&sent.device, secret().key().day(NOW)).expect("a key");
        let bytes = wire::encode(&sealed(sent));
        for position in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[position] ^= 1;
            let Ok(arrived) = wire::decode::<SealedDocument>(&changed, 1_000) else { continue };
            assert!(arrived.verify(&topic, NOW).is_err(), "byte {position}");
        }
    }

    #[test]
    fn outside_and_inside_say_the_same() {
        let sent = document("");
        let key = secret().key();
        let good = sealed(sent.clone());
        let signer = secret().signer(&sent.device, key.day(NOW));
        let body = |change: fn(&mut SealedBody)| {
            let mut body = good.0.signed.unverified().clone();
            change(&mut body);
            let signed = Signed::sign_with(body, |bytes| signer.sign(bytes));
            SealedDocument::new(signed, OnceLock::new())
        };
        assert!(open(&body(|_| ())).is_ok());
        assert_eq!(open(&body(|body| body.sequence += 1)), Err(DocumentError::Seal));
        assert_eq!(open(&body(|body| body.expires_at = body.expires_at.plus_secs(1))), Err(DocumentError::Mismatch("end")));
        assert_eq!(good.open(&key, &IdentityKey(sent.device.0), &sent.device, today(&key)), Err(DocumentError::Mismatch("user")));
    }

    #[test]
    fn time_bounds_hold() {
        let sent = document("");
        let good = sealed(sent.clone());
        let topic = secret().key().topic(&sent.device, secret().key().day(NOW)).expect("a key");
        assert!(good.verify(&topic, sent.expires_at.minus_secs(1)).is_ok());
        assert!(matches!(good.verify(&topic, sent.expires_at), Err(DocumentError::Expired(_))));
        assert!(matches!(good.verify(&topic, NOW.minus_secs(301)), Err(DocumentError::TooLong(_))));
    }

    #[test]
    fn sequences_go_on_after_a_restored_backup() {
        assert_eq!(next_sequence(0, NOW), NOW.0);
        assert_eq!(next_sequence(NOW.0, NOW), NOW.0 + 1, "two in one second");
        assert_eq!(next_sequence(NOW.0 + 500, NOW), NOW.0 + 501, "a clock that went back");
        assert_eq!(next_sequence(NOW.minus_secs(86_400).0, NOW), NOW.0, "a backup");
    }
}
