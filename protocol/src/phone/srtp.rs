//! Encrypted packets (RFC 3711 with the suites of RFC 4568 and RFC 6188): AES in counter mode, and HMAC-SHA1.
//!
//! One [`Protector`] and one [`Opener`] for each direction of a call, made of the key of that direction. Packets are changed in place. Keys aren't
//! derived anew within a call, and there are no identifiers of keys in packets: descriptions that ask for either aren't used ([`super::sdes`]).

use std::collections::BTreeMap;

use aes::cipher::{KeyIvInit, StreamCipher};
use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;
use zeroize::Zeroizing;

use super::rtp::Header;
use super::sdes::{MasterKey, SALT_BYTES, Suite};

/// Bytes of the key that authenticates (RFC 3711 section 8.2).
const AUTH_KEY_BYTES: usize = 20;
/// Bytes that authenticate reports, whatever the suite (RFC 4568 section 6.2).
const REPORT_TAG_BYTES: usize = 10;
/// The number that every packet of reports carries, with the mark that it is encrypted.
const INDEX_BYTES: usize = 4;
const ENCRYPTED: u32 = 1 << 31;
/// Header and stream of a packet of reports, which stay readable.
const REPORT_HEAD_BYTES: usize = 8;
/// How far back a packet may come late (RFC 3711 section 3.3.2 asks for 64 at least).
const WINDOW: u64 = 128;
/// Streams of one key that are told apart: a phone has one, and another each time it restarts it, at every hold perhaps. None is forgotten, or its packets
/// could be played again.
const STREAMS_MAX: usize = 256;

/// Why a packet isn't taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// It isn't a packet, or too short.
    #[error("no packet")]
    Form,
    /// It isn't what the holder of the key sent.
    #[error("not authentic")]
    NotAuthentic,
    /// It came before, or so late that nobody knows.
    #[error("came before")]
    Replayed,
    /// More streams than one phone has.
    #[error("too many streams")]
    Streams,
}

/// The keys of one direction, for media or for reports.
struct SessionKeys {
    key: Zeroizing<Vec<u8>>,
    salt: [u8; SALT_BYTES],
    auth: Hmac<Sha1>,
}

impl SessionKeys {
    /// Derives them (RFC 3711 section 4.3); `label` is 0 for media and 3 for reports.
    fn derive(suite: Suite, master: &MasterKey, label: u8) -> Option<Self> {
        let (key, salt) = master.parts();
        let derive = |label: u8, output: &mut [u8]| {
            let mut iv = [0; 16];
            iv[..SALT_BYTES].copy_from_slice(salt);
            iv[7] ^= label;
            apply(key, &iv, output)
        };
        let mut session = Zeroizing::new(vec![0; suite.key_bytes()]);
        let mut auth = Zeroizing::new([0; AUTH_KEY_BYTES]);
        let mut session_salt = [0; SALT_BYTES];
        derive(label, &mut session)?;
        derive(label + 1, auth.as_mut_slice())?;
        derive(label + 2, &mut session_salt)?;
        let auth = Hmac::new_from_slice(auth.as_slice()).ok()?;
        Some(Self { key: session, salt: session_salt, auth })
    }

    /// Encrypts or decrypts what belongs to this stream and number (RFC 3711 section 4.1.1).
    fn apply(&self, ssrc: u32, index: u64, bytes: &mut [u8]) -> Option<()> {
        let mut iv = [0; 16];
        iv[..SALT_BYTES].copy_from_slice(&self.salt);
        for (place, byte) in iv[4..8].iter_mut().zip(ssrc.to_be_bytes()) {
            *place ^= byte;
        }
        for (place, byte) in iv[8..14].iter_mut().zip(&index.to_be_bytes()[2..]) {
            *place ^= byte;
        }
        apply(&self.key, &iv, bytes)
    }

    fn mac(&self, bytes: &[u8], rest: &[u8]) -> Hmac<Sha1> {
        let mut mac = self.auth.clone();
        mac.update(bytes);
        mac.update(rest);
        mac
    }
}

/// Adds the key stream of AES in counter mode.
fn apply(key: &[u8], iv: &[u8; 16], bytes: &mut [u8]) -> Option<()> {
    match key.len() {
        16 => ctr::Ctr128BE::<aes::Aes128>::new_from_slices(key, iv).ok()?.apply_keystream(bytes),
        _ => ctr::Ctr128BE::<aes::Aes256>::new_from_slices(key, iv).ok()?.apply_keystream(bytes),
    }
    Some(())
}

/// Keys of one direction.
struct Keys {
    suite: Suite,
    media: SessionKeys,
    reports: SessionKeys,
}

impl Keys {
    fn new(suite: Suite, master: &MasterKey) -> Option<Self> {
        let fits = master.parts().0.len() == suite.key_bytes();
        let (media, reports) = (SessionKeys::derive(suite, master, 0)?, SessionKeys::derive(suite, master, 3)?);
        fits.then_some(Self { suite, media, reports })
    }
}

/// Protects packets of one stream before they leave.
pub struct Protector {
    keys: Keys,
    report_index: u32,
    sent: Seen,
}

impl std::fmt::Debug for Protector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Protector").field("suite", &self.keys.suite).finish_non_exhaustive()
    }
}

impl Protector {
    /// With this key; `None` if it isn't one of the suite.
    #[must_use]
    pub fn new(suite: Suite, key: &MasterKey) -> Option<Self> {
        Some(Self { keys: Keys::new(suite, key)?, report_index: 0, sent: Seen::default() })
    }

    /// Encrypts a packet of media, whose number without end is this one. False if it isn't a packet, or one of this number may have been sent: two
    /// under the same number would be encrypted with the same key stream (RFC 3711 section 9.1).
    pub fn protect(&mut self, index: u64, packet: &mut Vec<u8>) -> bool {
        let Some(header) = Header::parse(packet) else { return false };
        let Some(payload) = packet.get_mut(header.payload_at..) else { return false };
        if self.sent.has(index) {
            return false;
        }
        if self.keys.media.apply(header.ssrc, index, payload).is_none() {
            return false;
        }
        let rollover = ((index >> 16) as u32).to_be_bytes();
        let tag = self.keys.media.mac(packet, &rollover).finalize().into_bytes();
        packet.extend_from_slice(&tag[..self.keys.suite.tag_bytes()]);
        self.sent.note(index);
        true
    }

    /// Encrypts reports. False if they aren't any.
    pub fn protect_reports(&mut self, packet: &mut Vec<u8>) -> bool {
        let Some(ssrc) = packet.get(4..8).and_then(|bytes| bytes.try_into().ok()).map(u32::from_be_bytes) else { return false };
        self.report_index = (self.report_index + 1) & !ENCRYPTED;
        let Some(contents) = packet.get_mut(REPORT_HEAD_BYTES..) else { return false };
        if self.keys.reports.apply(ssrc, self.report_index.into(), contents).is_none() {
            return false;
        }
        packet.extend_from_slice(&(self.report_index | ENCRYPTED).to_be_bytes());
        let tag = self.keys.reports.mac(packet, &[]).finalize().into_bytes();
        packet.extend_from_slice(&tag[..REPORT_TAG_BYTES]);
        true
    }
}

/// What is known of a stream that comes in.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    highest: u64,
    /// One bit for each of the numbers below, the highest first.
    window: u128,
}

impl Seen {
    /// The number without end that a packet most likely has (RFC 3711 appendix A).
    const fn index_of(&self, sequence: u16) -> u64 {
        let base = self.highest & !0xFFFF | sequence as u64;
        let candidates = [base, base.wrapping_add(0x1_0000), base.wrapping_sub(0x1_0000)];
        let mut best = candidates[0];
        let mut place = 1;
        while place < 3 {
            if candidates[place].abs_diff(self.highest) < best.abs_diff(self.highest) && candidates[place] < 1 << 48 {
                best = candidates[place];
            }
            place += 1;
        }
        best
    }

    const fn has(&self, index: u64) -> bool {
        if index > self.highest {
            return false;
        }
        let back = self.highest - index;
        back >= WINDOW || self.window >> back & 1 == 1
    }

    fn note(&mut self, index: u64) {
        if index > self.highest {
            let by = index - self.highest;
            self.window = if by >= WINDOW { 0 } else { self.window << by };
            self.highest = index;
        }
        let back = self.highest - index;
        if back < WINDOW {
            self.window |= 1 << back;
        }
    }
}

/// Opens packets that came.
pub struct Opener {
    keys: Keys,
    media: BTreeMap<u32, Seen>,
    reports: BTreeMap<u32, Seen>,
}

impl std::fmt::Debug for Opener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Opener").field("suite", &self.keys.suite).finish_non_exhaustive()
    }
}

impl Opener {
    /// With this key; `None` if it isn't one of the suite.
    #[must_use]
    pub fn new(suite: Suite, key: &MasterKey) -> Option<Self> {
        Some(Self { keys: Keys::new(suite, key)?, media: BTreeMap::new(), reports: BTreeMap::new() })
    }

    /// Decrypts a packet of media in place: how many of its bytes it has then.
    ///
    /// # Errors
    /// See [`OpenError`]; the packet is as it was.
    pub fn open(&mut self, packet: &mut [u8]) -> Result<usize, OpenError> {
        let length = packet.len().checked_sub(self.keys.suite.tag_bytes()).ok_or(OpenError::Form)?;
        let (packet, tag) = packet.split_at_mut(length);
        let header = Header::parse(packet).ok_or(OpenError::Form)?;
        let known = self.media.get(&header.ssrc).copied();
        // The first packet of a stream is in its first round (RFC 3711 section 3.3.1).
        let index = known.map_or(u64::from(header.sequence), |seen| seen.index_of(header.sequence));
        if known.is_some_and(|seen| seen.has(index)) {
            return Err(OpenError::Replayed);
        }
        let rollover = ((index >> 16) as u32).to_be_bytes();
        self.keys.media.mac(packet, &rollover).verify_truncated_left(tag).map_err(|_| OpenError::NotAuthentic)?;
        note(&mut self.media, header.ssrc, index)?;
        let payload = packet.get_mut(header.payload_at..).ok_or(OpenError::Form)?;
        self.keys.media.apply(header.ssrc, index, payload).ok_or(OpenError::Form)?;
        Ok(length)
    }

    /// Decrypts reports in place: how many of their bytes they have then.
    ///
    /// # Errors
    /// See [`OpenError`]; the packet is as it was.
    pub fn open_reports(&mut self, packet: &mut [u8]) -> Result<usize, OpenError> {
        let tag_at = packet.len().checked_sub(REPORT_TAG_BYTES).ok_or(OpenError::Form)?;
        let length = tag_at.checked_sub(INDEX_BYTES).filter(|length| *length >= REPORT_HEAD_BYTES).ok_or(OpenError::Form)?;
        let (packet, tag) = packet.split_at_mut(tag_at);
        let number =
            |at: usize, bytes: &[u8]| bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map(u32::from_be_bytes);
        let (ssrc, mark) = number(4, packet).zip(number(length, packet)).ok_or(OpenError::Form)?;
        let index = u64::from(mark & !ENCRYPTED);
        if self.reports.get(&ssrc).is_some_and(|seen| seen.has(index)) {
            return Err(OpenError::Replayed);
        }
        self.keys.reports.mac(packet, &[]).verify_truncated_left(tag).map_err(|_| OpenError::NotAuthentic)?;
        note(&mut self.reports, ssrc, index)?;
        if mark & ENCRYPTED != 0 {
            let contents = packet.get_mut(REPORT_HEAD_BYTES..length).ok_or(OpenError::Form)?;
            self.keys.reports.apply(ssrc, index, contents).ok_or(OpenError::Form)?;
        }
        Ok(length)
    }
}

/// Notes a packet that is authentic.
fn note(streams: &mut BTreeMap<u32, Seen>, ssrc: u32, index: u64) -> Result<(), OpenError> {
    if !streams.contains_key(&ssrc) && streams.len() >= STREAMS_MAX {
        return Err(OpenError::Streams);
    }
    let seen = streams.entry(ssrc).or_insert(Seen { highest: index, window: 0 });
    seen.note(index);
    Ok(())
}

#[cfg(test)]
#[path = "srtp_tests.rs"]
mod tests;
