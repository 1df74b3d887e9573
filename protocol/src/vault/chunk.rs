//! Items, their chunks, and the keys they are sealed under.

use std::collections::BTreeSet;
use std::fmt;

use bincode::{Decode, Encode};
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};

use super::ChunkId;
use crate::contact::Secret32;
use crate::key::{IdentityKey, SecretKey, hash};
use crate::wire::{self, DecodeError, Extensions};

/// Largest sealed chunk: a profile with its picture fits.
pub const CHUNK_BYTES_MAX: usize = 43_008;

/// Lengths of sealed chunks. A small contact list fits the first, and nobody can tell how small; the third is what larger ones are made of.
pub const CHUNK_SIZE_CLASSES: [usize; 4] = [4_096, 12_288, 24_576, CHUNK_BYTES_MAX];

/// Largest item, encoded. Its chunk has room for nothing else then.
pub const ITEM_BYTES_MAX: usize = CHUNK_BYTES_MAX - OVERHEAD;

/// The epoch of chunks sealed under the root: they hold keys.
pub const KEY_EPOCH: u32 = 0;

/// Most keys remembered: each is one removed device.
const KEYS_MAX: usize = 256;

/// Most items read from one chunk: none is shorter than this many bytes.
const ITEM_BYTES_MIN: usize = 16;

const EPOCH_BYTES: usize = 4;
const NONCE_BYTES: usize = 24;
const TAG_BYTES: usize = 16;
const LENGTH_BYTES: usize = 4;
/// The count of items takes as much at most.
const COUNT_BYTES: usize = 5;
pub(super) const OVERHEAD: usize = EPOCH_BYTES + NONCE_BYTES + LENGTH_BYTES + COUNT_BYTES + TAG_BYTES;

/// Names what an item is about: a hash, of one length for everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct ItemKey(pub [u8; 16]);

impl ItemKey {
    /// The key of the item of this kind about `subject`.
    #[must_use]
    pub fn of(kind: u16, subject: &[u8]) -> Self {
        let digest = hash("halloo vault item 1", &[&kind.to_be_bytes(), subject]);
        let mut key = [0; 16];
        key.copy_from_slice(&digest[..16]);
        Self(key)
    }
}

/// One state that the user's devices have in common. What it means, and how two of them merge, is the business of whoever owns the kind; kinds not
/// known are kept as they are.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
pub struct VaultItem {
    /// What kind of state.
    pub kind: u16,
    /// What it is about.
    pub key: ItemKey,
    /// The state.
    pub value: Vec<u8>,
}

impl VaultItem {
    /// A contact: [`RosterEntry`](crate::contact::RosterEntry).
    pub const CONTACT: u16 = 1;
    /// The user's own keys for contacts, and the profile: [`OwnKeys`](crate::contact::OwnKeys).
    pub const OWN: u16 = 2;
    /// Who may do what, with its version.
    pub const PRIVACY: u16 = 3;
    /// A [`VaultKey`], in chunks of [`KEY_EPOCH`] alone.
    pub const KEY: u16 = 4;
    /// What was read, groups, and what became of calls: [`StateItem`](crate::message::StateItem).
    pub const STATE: u16 = 5;
    /// Which device an event goes to, with its version: [`PolicyText`](crate::choice::PolicyText).
    pub const CHOICE: u16 = 6;
    /// What own devices share of linked accounts: [`SharedPiece`](crate::linked::SharedPiece).
    pub const LINKED: u16 = 7;

    /// An item of `kind` about `subject`.
    #[must_use]
    pub fn new(kind: u16, subject: &[u8], value: Vec<u8>) -> Self {
        Self { kind, key: ItemKey::of(kind, subject), value }
    }

    /// Length in a chunk.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        wire::encoded_len(self)
    }

    pub(super) fn digest(&self) -> [u8; 16] {
        let digest = hash("halloo vault digest 1", &[&wire::encode(self)]);
        let mut short = [0; 16];
        short.copy_from_slice(&digest[..16]);
        short
    }
}

impl fmt::Debug for VaultItem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VaultItem(kind {}, {:?}, {} bytes)", self.kind, self.key, self.value.len())
    }
}

/// What follows from the identity key, and opens everything.
#[derive(Clone, PartialEq, Eq)]
pub struct VaultRoot(Secret32);

impl fmt::Debug for VaultRoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("VaultRoot(..)")
    }
}

impl VaultRoot {
    /// Of a user's identity key.
    #[must_use]
    pub fn of(identity: &SecretKey) -> Self {
        Self(Secret32::from_bytes(hash("halloo vault root 1", &[&*identity.to_bytes()])))
    }

    /// The key of the first epoch: known without having read anything.
    #[must_use]
    pub fn first_key(&self) -> VaultKey {
        VaultKey { epoch: 1, secret: Secret32::from_bytes(hash("halloo vault first key 1", &[self.0.as_bytes()])) }
    }

    fn sealing_key(&self) -> [u8; 32] {
        hash("halloo vault keys 1", &[self.0.as_bytes()])
    }
}

/// The key of an epoch. Devices without the identity key have these alone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub struct VaultKey {
    /// From 1 on.
    pub epoch: u32,
    /// 32 bytes.
    pub secret: Secret32,
}

impl fmt::Debug for VaultKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VaultKey(epoch {})", self.epoch)
    }
}

impl VaultKey {
    fn sealing_key(&self) -> [u8; 32] {
        hash("halloo vault chunks 1", &[&self.epoch.to_be_bytes(), self.secret.as_bytes()])
    }

    /// As an item of a chunk of [`KEY_EPOCH`].
    #[must_use]
    pub fn to_item(&self) -> VaultItem {
        let value = wire::encode(&(self.clone(), Extensions::none()));
        VaultItem::new(VaultItem::KEY, &value, value.clone())
    }
}

/// All keys a device has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VaultKeys {
    root: Option<VaultRoot>,
    keys: BTreeSet<VaultKey>,
}

impl VaultKeys {
    /// With the root, where the identity key is at hand, and the keys kept.
    #[must_use]
    pub fn new(root: Option<VaultRoot>, kept: impl IntoIterator<Item = VaultKey>) -> Self {
        let mut keys: BTreeSet<VaultKey> = kept.into_iter().collect();
        keys.extend(root.as_ref().map(VaultRoot::first_key));
        Self { root, keys }
    }

    /// Takes in another key; `true` if it wasn't known. When there are too many the oldest are forgotten.
    pub fn insert(&mut self, key: VaultKey) -> bool {
        if key.epoch == KEY_EPOCH || !self.keys.insert(key) {
            return false;
        }
        while self.keys.len() > KEYS_MAX {
            self.keys.pop_first();
        }
        true
    }

    /// A key of a new epoch: whoever has only the older ones opens nothing that is written from now on.
    pub fn raise(&mut self, secret: Secret32) -> VaultKey {
        let epoch = self.current().map_or(0, |key| key.epoch).saturating_add(1);
        let key = VaultKey { epoch, secret };
        self.insert(key.clone());
        key
    }

    /// What is written under. Of two of one epoch, which two devices began at once, the greater.
    #[must_use]
    pub fn current(&self) -> Option<&VaultKey> {
        self.keys.last()
    }

    /// All, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &VaultKey> {
        self.keys.iter()
    }

    /// True if what is under the root can be read and written.
    #[must_use]
    pub const fn has_root(&self) -> bool {
        self.root.is_some()
    }

    /// The key that chunks of an epoch are sealed under now.
    fn for_writing(&self, epoch: u32) -> Option<[u8; 32]> {
        if epoch == KEY_EPOCH {
            return self.root.as_ref().map(VaultRoot::sealing_key);
        }
        self.keys.iter().rev().find(|key| key.epoch == epoch).map(VaultKey::sealing_key)
    }

    fn for_reading(&self, epoch: u32) -> Vec<[u8; 32]> {
        if epoch == KEY_EPOCH {
            return self.root.as_ref().map(VaultRoot::sealing_key).into_iter().collect();
        }
        self.keys.iter().rev().filter(|key| key.epoch == epoch).map(VaultKey::sealing_key).collect()
    }
}

/// Why a chunk doesn't open, or can't be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChunkError {
    /// No key of its epoch is here.
    #[error("sealed under a key of epoch {0}, which this device doesn't have")]
    NoKey(u32),
    /// It isn't this user's chunk of this id under that key, or was altered.
    #[error("doesn't open")]
    Sealed,
    /// What is inside is malformed.
    #[error("malformed: {0}")]
    Content(#[from] DecodeError),
    /// The items take more than a chunk has.
    #[error("{0} bytes, more than a chunk holds")]
    TooLarge(usize),
}

/// Items sealed for the user's own devices.
///
/// `epoch (4, big endian) || nonce (24) || ciphertext || tag (16)`, of a length in [`CHUNK_SIZE_CLASSES`]. XChaCha20-Poly1305; associated data is the hash of
/// domain `halloo vault chunk 1` with the parts identity key, id, epoch. The plain text is `length (4, big endian) || list of VaultItem || zeros`.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
pub struct SealedChunk(Vec<u8>);

impl fmt::Debug for SealedChunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealedChunk(epoch {:?}, {} bytes)", self.epoch(), self.0.len())
    }
}

impl SealedChunk {
    /// From bytes that came.
    ///
    /// # Errors
    /// [`DecodeError::Invalid`] if their length is of no size class.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, DecodeError> {
        let chunk = Self(bytes);
        chunk.check()?;
        Ok(chunk)
    }

    /// Checks the length.
    ///
    /// # Errors
    /// [`DecodeError::Invalid`] if it is of no size class.
    pub fn check(&self) -> Result<(), DecodeError> {
        match CHUNK_SIZE_CLASSES.contains(&self.0.len()) {
            true => Ok(()),
            false => Err(DecodeError::invalid("chunk", format!("{} bytes, not a size class", self.0.len()))),
        }
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Of which epoch the key is, by its own word.
    #[must_use]
    pub fn epoch(&self) -> Option<u32> {
        Some(u32::from_be_bytes(*self.0.first_chunk::<EPOCH_BYTES>()?))
    }

    /// Seals items under the key of `epoch`. `nonce` must be random.
    ///
    /// # Errors
    /// [`ChunkError::NoKey`], [`ChunkError::TooLarge`].
    pub fn seal(
        items: &[VaultItem],
        identity: &IdentityKey,
        id: ChunkId,
        (keys, epoch): (&VaultKeys, u32),
        nonce: [u8; NONCE_BYTES],
    ) -> Result<Self, ChunkError> {
        let key = keys.for_writing(epoch).ok_or(ChunkError::NoKey(epoch))?;
        let inside = wire::encode(&items.to_vec());
        let needed = EPOCH_BYTES + NONCE_BYTES + LENGTH_BYTES + inside.len() + TAG_BYTES;
        let size = CHUNK_SIZE_CLASSES.into_iter().find(|size| *size >= needed).ok_or(ChunkError::TooLarge(inside.len()))?;
        let length = u32::try_from(inside.len()).map_err(|_| ChunkError::TooLarge(inside.len()))?;
        let mut plain = length.to_be_bytes().to_vec();
        plain.extend_from_slice(&inside);
        plain.resize(size - EPOCH_BYTES - NONCE_BYTES - TAG_BYTES, 0);
        let aad = associated(identity, id, epoch);
        let sealed = XChaCha20Poly1305::new((&key).into())
            .encrypt(&XNonce::from(nonce), Payload { msg: &plain, aad: &aad })
            .map_err(|_| ChunkError::Sealed)?;
        Ok(Self([&epoch.to_be_bytes()[..], &nonce, &sealed].concat()))
    }

    /// Opens the user's own chunk.
    ///
    /// # Errors
    /// [`ChunkError`].
    pub fn open(&self, identity: &IdentityKey, id: ChunkId, keys: &VaultKeys) -> Result<Vec<VaultItem>, ChunkError> {
        let epoch = self.epoch().ok_or(ChunkError::Sealed)?;
        let nonce = self.0.get(EPOCH_BYTES..).and_then(<[u8]>::first_chunk::<NONCE_BYTES>).ok_or(ChunkError::Sealed)?;
        let sealed = self.0.get(EPOCH_BYTES + NONCE_BYTES..).ok_or(ChunkError::Sealed)?;
        let candidates = keys.for_reading(epoch);
        if candidates.is_empty() {
            return Err(ChunkError::NoKey(epoch));
        }
        let aad = associated(identity, id, epoch);
        let open = |key: &[u8; 32]| {
            XChaCha20Poly1305::new(key.into()).decrypt(&XNonce::from(*nonce), Payload { msg: sealed, aad: &aad }).ok()
        };
        let plain = candidates.iter().find_map(open).ok_or(ChunkError::Sealed)?;
        let (length, rest) = plain.split_first_chunk::<LENGTH_BYTES>().ok_or(ChunkError::Sealed)?;
        let length = u32::from_be_bytes(*length) as usize;
        let inside = rest.get(..length).ok_or_else(|| DecodeError::invalid("length", "longer than the chunk"))?;
        let items: Vec<VaultItem> = wire::decode(inside, CHUNK_BYTES_MAX)?;
        if items.len() > CHUNK_BYTES_MAX / ITEM_BYTES_MIN {
            return Err(DecodeError::invalid("items", "too many").into());
        }
        Ok(items)
    }
}

fn associated(identity: &IdentityKey, id: ChunkId, epoch: u32) -> [u8; 32] {
    hash("halloo vault chunk 1", &[identity.as_bytes(), &id.0, &epoch.to_be_bytes()])
}
