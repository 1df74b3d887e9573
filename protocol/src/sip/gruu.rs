//! Temporary addresses of phones (RFC 5627 section 3.1.2): each registration gives out another, which says neither whose it is nor belongs to one given out before, for
//! anybody without the account's key. Nothing is kept of them.
//!
//! | bytes | |
//! | --- | --- |
//! | 8 | random |
//! | 8 | the phone: the beginning of the hash of its instance, masked |
//! | 16 | HMAC-SHA256 of both, its beginning |
//!
//! in base32 behind [`PREFIX`] are the user part. The mask is the beginning of another HMAC of the random bytes.

use data_encoding::BASE32_NOPAD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use zeroize::Zeroize;

/// How the user part begins.
pub const PREFIX: &str = "tgruu.";

const RANDOM_BYTES: usize = 8;
const PHONE_BYTES: usize = 8;
const TAG_BYTES: usize = 16;

/// Which phone an address is of: as much of its instance's hash as an address holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PhoneMark([u8; PHONE_BYTES]);

impl PhoneMark {
    /// How many bytes it has.
    pub const BYTES: usize = PHONE_BYTES;

    /// Of `+sip.instance`, in whichever case: those are UUIDs, written in both.
    #[must_use]
    pub fn of(instance: &str) -> Self {
        Self(first(&Sha256::digest(instance.to_ascii_lowercase().as_bytes())))
    }

    /// As it goes over the wire.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; PHONE_BYTES] {
        self.0
    }

    /// As it came.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; PHONE_BYTES]) -> Self {
        Self(bytes)
    }
}

/// In hexadecimal digits.
impl std::fmt::Display for PhoneMark {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

/// What an account's temporary addresses are sealed with.
#[derive(Zeroize)]
#[zeroize(drop)]
pub struct GruuKey([u8; 32]);

impl std::fmt::Debug for GruuKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("GruuKey(..)")
    }
}

impl GruuKey {
    /// From a secret that lasts as long as the addresses are to: all of them end when it changes.
    #[must_use]
    pub fn of_secret(secret: &[u8]) -> Self {
        Self(mac(secret, b"halloo temporary gruu", &[]))
    }

    /// The user part of an address of this phone, another one for other random bytes.
    #[must_use]
    pub fn seal(&self, phone: PhoneMark, random: [u8; RANDOM_BYTES]) -> String {
        let masked = self.masked(phone.0, &random);
        let tag: [u8; TAG_BYTES] = first(&mac(&self.0, b"proof", &[&random, &masked]));
        let text = BASE32_NOPAD.encode(&[&random[..], &masked, &tag].concat()).to_ascii_lowercase();
        format!("{PREFIX}{text}")
    }

    /// The phone that an address is of; `None` for what this key hasn't sealed.
    #[must_use]
    pub fn open(&self, user: &str) -> Option<PhoneMark> {
        let text = user.get(..PREFIX.len()).filter(|start| start.eq_ignore_ascii_case(PREFIX)).and(user.get(PREFIX.len()..))?;
        let bytes: [u8; RANDOM_BYTES + PHONE_BYTES + TAG_BYTES] =
            BASE32_NOPAD.decode(text.to_ascii_uppercase().as_bytes()).ok()?.try_into().ok()?;
        let (random, rest) = bytes.split_first_chunk::<RANDOM_BYTES>()?;
        let (masked, tag) = rest.split_first_chunk::<PHONE_BYTES>()?;
        let mut proof = Hmac::<Sha256>::new_from_slice(&self.0).ok()?;
        for part in [&b"proof"[..], random, masked] {
            proof.update(part);
        }
        proof.verify_truncated_left(tag).ok()?;
        Some(PhoneMark(self.masked(*masked, random)))
    }

    fn masked(&self, phone: [u8; PHONE_BYTES], random: &[u8]) -> [u8; PHONE_BYTES] {
        let mask = mac(&self.0, b"mask", &[random]);
        let mut masked = phone;
        masked.iter_mut().zip(mask).for_each(|(byte, mask)| *byte ^= mask);
        masked
    }
}

fn mac(key: &[u8], label: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    // HMAC takes keys of any length.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else { return [0; 32] };
    mac.update(label);
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().into()
}

fn first<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes.first_chunk().copied().unwrap_or([0; N])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sip::uri::SipUri;

    #[test]
    fn an_address_is_another_each_time_and_opens_with_its_own_key_alone() {
        let (key, other) = (GruuKey::of_secret(b"one"), GruuKey::of_secret(b"other"));
        let phone = PhoneMark::of("urn:uuid:00000000-0000-0000-0000-000000000001");
        let (first, second) = (key.seal(phone, [1; 8]), key.seal(phone, [2; 8]));
        assert_ne!(first, second);
        let shared = first.bytes().zip(second.bytes()).skip(PREFIX.len()).filter(|(one, two)| one == two).count();
        assert!(shared < 12, "nothing that stays the same: {first} {second}");
        for address in [&first, &second, &first.to_ascii_uppercase()] {
            assert_eq!(key.open(address), Some(phone));
            assert_eq!(other.open(address), None);
        }
        assert_ne!(PhoneMark::of("another"), phone);
        assert_eq!(PhoneMark::of("URN:UUID:00000000-0000-0000-0000-000000000001"), phone);
        assert_eq!(PhoneMark::from_bytes(phone.to_bytes()), phone);
        assert_eq!(PhoneMark::from_bytes([0, 1, 2, 3, 4, 5, 6, 0xff]).to_string(), "00010203040506ff");
        let uri = SipUri::parse(&format!("sip:{first}@example;gr")).expect("an address");
        assert_eq!((uri.user.as_deref(), uri.param("gr")), (Some(first.as_str()), Some("")));
    }

    #[test]
    fn what_was_changed_or_is_none_opens_nothing() {
        let key = GruuKey::of_secret(b"one");
        let sealed = key.seal(PhoneMark::of("x"), [9; 8]);
        for at in PREFIX.len()..sealed.len() {
            let mut changed = sealed.clone().into_bytes();
            changed[at] = if changed[at] == b'a' { b'b' } else { b'a' };
            // The last character has bits of no byte: base32 that isn't the shortest is refused.
            let changed = String::from_utf8(changed).expect("ASCII");
            assert_eq!(key.open(&changed), None, "{changed}");
        }
        for text in ["", "tgruu", PREFIX, "bob", "tgruu.aaaa", "tgruu.ä", &sealed[..sealed.len() - 1], &format!("{sealed}a")] {
            assert_eq!(key.open(text), None, "{text}");
        }
    }
}
