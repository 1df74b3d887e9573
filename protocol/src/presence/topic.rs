//! Topics: the names under which presence travels, which say nothing to those who don't hold the user's presence key.
//!
//! A topic is a public key. The owner's devices share a secret scalar `a`; contacts hold its public point `A` and 32 secret bytes. For each
//! device and day both sides derive a number `h` from those bytes, and the topic is `h * A`. So contacts compute the topic of a day; only the
//! owner can sign under it (with `h * a`); and a carrier, which knows neither, checks every document against its topic, can't be fooled by
//! anybody, contacts included, and can't tell that two topics are of one user, or of two days of one device.
//!
//! Days start at another time for each user, so that not all topics change at midnight.

use std::fmt;

use bincode::{Decode, Encode};
use curve25519_dalek::Scalar;
use curve25519_dalek::edwards::{CompressedEdwardsY, EdwardsPoint};
use sha2::{Digest, Sha512};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::directory::SealKey;
use crate::key::{DeviceKey, PublicKey, Signature, hash};
use crate::linked::LinkedKey;
use crate::time::{CLOCK_TOLERANCE_SECS, UnixTime};

/// How long a topic is used.
pub const TOPIC_SECS: u64 = 86_400;

/// SHA-512 under a domain tag, laid out as [`crate::key::hash`], as a number modulo the order of the group.
fn scalar(domain: &str, parts: &[&[u8]]) -> Scalar {
    let mut hasher = Sha512::new();
    hasher.update((domain.len() as u64).to_be_bytes());
    hasher.update(domain.as_bytes());
    for part in parts {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    let wide = Zeroizing::new(<[u8; 64]>::from(hasher.finalize()));
    Scalar::from_bytes_mod_order_wide(&wide)
}

/// The name of one device's presence for one day, and the key that its documents are signed under.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct Topic(pub PublicKey);

impl Topic {
    /// The raw bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }

    /// What `asker` calls the topic towards `asked`. Says nothing to who doesn't know the topic, and another thing on every connection.
    #[must_use]
    pub fn tag(&self, asker: &DeviceKey, asked: &DeviceKey) -> LinkTag {
        let digest = hash("halloo presence link tag", &[self.as_bytes(), asker.as_bytes(), asked.as_bytes()]);
        let mut tag = [0; 8];
        tag.copy_from_slice(&digest[..8]);
        LinkTag(tag)
    }
}

impl fmt::Debug for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Topic({})", self.0.short())
    }
}

/// A topic's name on one connection in one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct LinkTag(pub [u8; 8]);

/// One user's day, counted from 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Day(pub u64);

/// What contacts hold: finds and opens the presence of a user's devices, and can't speak for them.
///
/// Handed over pairwise, sealed, when two become contacts, and again with a higher epoch when somebody was removed.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Encode, Decode, Zeroize, ZeroizeOnDrop)]
pub struct PresenceKey {
    /// Which of the user's presence keys; grows.
    pub epoch: u32,
    secret: [u8; 32],
    verifier: [u8; 32],
}

impl fmt::Debug for PresenceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PresenceKey(epoch {}, ..)", self.epoch)
    }
}

impl PresenceKey {
    /// The key that seals the directory entries of the user's devices in this epoch.
    #[must_use]
    pub fn seal_key(&self) -> SealKey {
        SealKey::from_bytes(hash("halloo seal key of contacts", &[&self.epoch.to_be_bytes(), &self.secret]))
    }

    /// How many seconds before 1970 this user's first day started.
    fn day_shift(&self) -> u64 {
        let digest = hash("halloo presence day shift", &[&self.secret]);
        u64::from(u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]])) % TOPIC_SECS
    }

    /// The user's day at a time.
    #[must_use]
    pub fn day(&self, at: UnixTime) -> Day {
        Day(at.plus_secs(self.day_shift()).0 / TOPIC_SECS)
    }

    /// When a day starts.
    #[must_use]
    pub fn day_start(&self, day: Day) -> UnixTime {
        UnixTime(day.0.saturating_mul(TOPIC_SECS).saturating_sub(self.day_shift()))
    }

    /// The days that a watcher listens to: the present one, and its neighbour as long as clocks may disagree which it is.
    pub fn days(&self, now: UnixTime) -> impl Iterator<Item = Day> {
        let (first, last) = (self.day(now.minus_secs(CLOCK_TOLERANCE_SECS)), self.day(now.plus_secs(CLOCK_TOLERANCE_SECS)));
        (first.0..=last.0).map(Day)
    }

    fn blinding(&self, device: &DeviceKey, day: Day) -> Scalar {
        scalar("halloo presence topic", &[&self.secret, &self.epoch.to_be_bytes(), device.as_bytes(), &day.0.to_be_bytes()])
    }

    /// The topic of a device on a day; `None` if the key isn't one.
    #[must_use]
    pub fn topic(&self, device: &DeviceKey, day: Day) -> Option<Topic> {
        let point = CompressedEdwardsY(self.verifier).decompress()?;
        Some(Topic(PublicKey((self.blinding(device, day) * point).compress().0)))
    }

    /// The key that seals a device's documents of a day.
    pub(super) fn sealing_key(&self, topic: &Topic) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(hash("halloo presence seal", &[&self.secret, topic.as_bytes()]))
    }
}

/// What a user's devices share and nobody else has: speaks under the user's topics.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Encode, Decode, Zeroize, ZeroizeOnDrop)]
pub struct PresenceSecret {
    epoch: u32,
    seed: [u8; 32],
}

impl fmt::Debug for PresenceSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PresenceSecret(epoch {}, ..)", self.epoch)
    }
}

impl PresenceSecret {
    /// From 32 random bytes. The epoch must be higher than that of any earlier secret of the user.
    #[must_use]
    pub const fn new(epoch: u32, seed: [u8; 32]) -> Self {
        Self { epoch, seed }
    }

    /// Which of the user's secrets.
    #[must_use]
    pub const fn epoch(&self) -> u32 {
        self.epoch
    }

    /// The bytes it was made from, for storage and for the user's other devices.
    #[must_use]
    pub fn to_bytes(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.seed)
    }

    fn scalar(&self) -> Scalar {
        scalar("halloo presence signing", &[&self.seed])
    }

    /// What contacts in linked systems get.
    #[must_use]
    pub fn linked_key(&self) -> LinkedKey {
        LinkedKey::of_secret(self.epoch, &self.seed)
    }

    /// What contacts get.
    #[must_use]
    pub fn key(&self) -> PresenceKey {
        PresenceKey {
            epoch: self.epoch,
            secret: hash("halloo presence key", &[&self.seed]),
            verifier: EdwardsPoint::mul_base(&self.scalar()).compress().0,
        }
    }

    /// What signs under the topic of a device on a day.
    #[must_use]
    pub fn signer(&self, device: &DeviceKey, day: Day) -> TopicSigner {
        let secret = self.key().blinding(device, day) * self.scalar();
        let topic = Topic(PublicKey(EdwardsPoint::mul_base(&secret).compress().0));
        let prefix = hash("halloo presence nonce", &[&self.seed, topic.as_bytes()]);
        TopicSigner { topic, secret, prefix }
    }
}

/// Signs under one topic.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct TopicSigner {
    #[zeroize(skip)]
    topic: Topic,
    secret: Scalar,
    prefix: [u8; 32],
}

impl fmt::Debug for TopicSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TopicSigner({:?})", self.topic)
    }
}

impl TopicSigner {
    /// The topic.
    #[must_use]
    pub const fn topic(&self) -> Topic {
        self.topic
    }

    /// An Ed25519 signature (RFC 8032 section 5.1.6) that verifies under the topic as public key; the secret scalar comes from the
    /// blinding instead of a seed.
    #[must_use]
    pub(super) fn sign(&self, message: &[u8]) -> Signature {
        let mut nonce = scalar("halloo presence signature nonce", &[&self.prefix, message]);
        let point = EdwardsPoint::mul_base(&nonce).compress().0;
        let mut hasher = Sha512::new();
        hasher.update(point);
        hasher.update(self.topic.as_bytes());
        hasher.update(message);
        let challenge = Scalar::from_bytes_mod_order_wide(&<[u8; 64]>::from(hasher.finalize()));
        let response = nonce + challenge * self.secret;
        nonce.zeroize();
        let mut signature = [0; 64];
        signature[..32].copy_from_slice(&point);
        signature[32..].copy_from_slice(response.as_bytes());
        Signature(signature)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(number: u8) -> DeviceKey {
        DeviceKey(PublicKey([number; 32]))
    }

    #[test]
    fn contacts_find_the_topics_that_the_owner_signs_under() {
        let secret = PresenceSecret::new(3, [7; 32]);
        let key = secret.key();
        for day in [Day(0), Day(20_833), Day(u64::MAX)] {
            let signer = secret.signer(&device(1), day);
            assert_eq!(key.topic(&device(1), day), Some(signer.topic()));
            let signature = signer.sign(b"message");
            assert!(signer.topic().0.verify(b"message", &signature).is_ok());
            assert!(signer.topic().0.verify(b"another", &signature).is_err());
        }
    }

    #[test]
    fn topics_differ_by_user_device_day_and_epoch() {
        let topic = |epoch, seed, number, day| PresenceSecret::new(epoch, [seed; 32]).key().topic(&device(number), Day(day));
        let one = topic(1, 1, 1, 1);
        for other in [topic(2, 1, 1, 1), topic(1, 2, 1, 1), topic(1, 1, 2, 1), topic(1, 1, 1, 2)] {
            assert_ne!(one, other);
        }
    }

    #[test]
    fn days_are_a_day_long_and_overlap_while_clocks_may_differ() {
        let key = PresenceSecret::new(1, [9; 32]).key();
        let now = UnixTime(1_800_000_000);
        let day = key.day(now);
        let start = key.day_start(day);
        assert!(start <= now && now.secs_since(start) < TOPIC_SECS);
        assert_eq!(key.day(start), day);
        assert_eq!(key.day(start.minus_secs(1)), Day(day.0 - 1));
        assert_eq!(key.days(start.plus_secs(CLOCK_TOLERANCE_SECS - 1)).count(), 2);
        assert_eq!(key.days(start.plus_secs(TOPIC_SECS / 2)).collect::<Vec<_>>(), vec![day]);
    }

    #[test]
    fn a_key_that_is_no_point_has_no_topics() {
        let mut key = PresenceSecret::new(1, [1; 32]).key();
        key.verifier = [2; 32];
        key.verifier[31] = 0x7f;
        let _ = key.topic(&device(1), Day(1));
        let bad = (0..=u8::MAX).find(|byte| {
            key.verifier[0] = *byte;
            key.topic(&device(1), Day(1)).is_none()
        });
        assert!(bad.is_some(), "half of all byte strings are no points");
    }

    #[test]
    fn secrets_do_not_print() {
        let secret = PresenceSecret::new(1, [0xab; 32]);
        let text = format!("{secret:?} {:?} {:?}", secret.key(), secret.signer(&device(1), Day(1)));
        assert!(!text.contains("171") && !text.contains("ab, ab"), "{text}");
    }
}
