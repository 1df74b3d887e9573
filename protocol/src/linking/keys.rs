//! From the code to keys: SPAKE2 over edwards25519, then HKDF-SHA256 bound to everything both sides have said.

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{ChaCha20Poly1305, Nonce};
use hkdf::Hkdf;
use hmac::{Hmac, Mac};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha20Rng;
use rand_core_06::{CryptoRng as OldCryptoRng, Error as OldError, RngCore as OldRngCore};
use sha2::Sha256;
use spake2::{Ed25519Group, Identity, Password, Spake2};
use zeroize::{Zeroize, Zeroizing};

use super::code::LinkCode;
use crate::key::{DeviceKey, hash};

/// Bytes of a SPAKE2 message: a letter for the side, and a compressed point.
pub(super) const ELEMENT_BYTES: usize = 33;

/// What sealing adds: the tag of ChaCha20-Poly1305.
pub(super) const SEAL_OVERHEAD_BYTES: usize = 16;

/// One side of the exchange, before the other's message is known.
pub(super) struct Exchange {
    spake: Spake2<Ed25519Group>,
    element: [u8; ELEMENT_BYTES],
    joiner: DeviceKey,
    holder: DeviceKey,
    is_joiner: bool,
}

impl Exchange {
    /// `seed` must be random and used once.
    pub(super) fn begin(code: &LinkCode, joiner: DeviceKey, holder: DeviceKey, is_joiner: bool, seed: [u8; 32]) -> Self {
        let seed = Zeroizing::new(seed);
        let rng = OldRng(ChaCha20Rng::from_seed(*seed));
        let secret = Zeroizing::new(hash("halloo link code 1", &[code.as_bytes()]));
        let password = Password::new(secret.as_slice());
        let (a, b) = (Identity::new(joiner.as_bytes()), Identity::new(holder.as_bytes()));
        let (spake, message) = if is_joiner {
            Spake2::start_a_with_rng(&password, &a, &b, rng)
        } else {
            Spake2::start_b_with_rng(&password, &a, &b, rng)
        };
        let mut element = [0; ELEMENT_BYTES];
        // One letter and one point: the length is the group's.
        element.copy_from_slice(&message);
        Self { spake, element, joiner, holder, is_joiner }
    }

    pub(super) const fn element(&self) -> [u8; ELEMENT_BYTES] {
        self.element
    }

    /// The keys, which are the other side's too if it knows the code; `None` if the other's message is no point of this exchange.
    pub(super) fn finish(self, other: &[u8; ELEMENT_BYTES]) -> Option<LinkKeys> {
        let shared = Zeroizing::new(self.spake.finish(other).ok()?);
        let (x, y) = if self.is_joiner { (&self.element, other) } else { (other, &self.element) };
        let parts = [self.joiner.as_bytes().as_slice(), self.holder.as_bytes(), x, y];
        Some(LinkKeys::derive(&shared, hash("halloo link transcript 1", &parts)))
    }
}

/// What each key is for.
#[derive(Clone, Copy)]
pub(super) enum Use {
    JoinerProof,
    HolderProof,
    DoneProof,
    ToHolder,
    ToJoiner,
}

impl Use {
    const fn info(self) -> &'static [u8] {
        match self {
            Self::JoinerProof => b"halloo link joiner proof",
            Self::HolderProof => b"halloo link holder proof",
            Self::DoneProof => b"halloo link done proof",
            Self::ToHolder => b"halloo link to holder",
            Self::ToJoiner => b"halloo link to joiner",
        }
    }
}

/// The keys of one exchange; each seals or proves one thing once.
#[derive(Zeroize)]
#[zeroize(drop)]
pub(super) struct LinkKeys {
    root: [u8; 32],
    transcript: [u8; 32],
}

impl LinkKeys {
    fn derive(shared: &[u8], transcript: [u8; 32]) -> Self {
        let mut root = [0; 32];
        let expanded = Hkdf::<Sha256>::new(Some(&transcript), shared).expand(b"halloo link root", &mut root);
        debug_assert!(expanded.is_ok(), "32 bytes are one block");
        Self { root, transcript }
    }

    fn key(&self, usage: Use) -> Zeroizing<[u8; 32]> {
        let mut key = Zeroizing::new([0; 32]);
        let expanded = Hkdf::<Sha256>::new(Some(&self.transcript), &self.root).expand(usage.info(), key.as_mut_slice());
        debug_assert!(expanded.is_ok(), "32 bytes are one block");
        key
    }

    fn mac(&self, usage: Use, content: &[u8]) -> Hmac<Sha256> {
        let mut mac =
            <Hmac<Sha256> as hmac::KeyInit>::new_from_slice(self.key(usage).as_slice()).expect("HMAC takes keys of any length");
        mac.update(&self.transcript);
        mac.update(content);
        mac
    }

    pub(super) fn prove(&self, usage: Use, content: &[u8]) -> [u8; 32] {
        self.mac(usage, content).finalize().into_bytes().into()
    }

    /// In constant time.
    pub(super) fn is_proved(&self, usage: Use, content: &[u8], proof: &[u8; 32]) -> bool {
        self.mac(usage, content).verify_slice(proof).is_ok()
    }

    /// Seals one content per use: the nonce is zero.
    pub(super) fn seal(&self, usage: Use, content: &[u8]) -> Option<Vec<u8>> {
        let payload = Payload { msg: content, aad: &self.transcript };
        self.cipher(usage).encrypt(&Nonce::default(), payload).ok()
    }

    pub(super) fn open(&self, usage: Use, sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let payload = Payload { msg: sealed, aad: &self.transcript };
        self.cipher(usage).decrypt(&Nonce::default(), payload).ok().map(Zeroizing::new)
    }

    fn cipher(&self, usage: Use) -> ChaCha20Poly1305 {
        ChaCha20Poly1305::new((&*self.key(usage)).into())
    }
}

/// Our generator for a crate that knows an older trait of generators.
struct OldRng(ChaCha20Rng);

impl OldRngCore for OldRng {
    fn next_u32(&mut self) -> u32 {
        self.0.next_u32()
    }

    fn next_u64(&mut self) -> u64 {
        self.0.next_u64()
    }

    fn fill_bytes(&mut self, bytes: &mut [u8]) {
        self.0.fill_bytes(bytes);
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), OldError> {
        self.0.fill_bytes(bytes);
        Ok(())
    }
}

impl OldCryptoRng for OldRng {}
