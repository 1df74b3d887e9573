//! The vault: what a user's devices have in common, kept sealed at mailboxes, so that a new device, or one made anew from the recovery phrase, has
//! everything although no other one is online.
//!
//! A vault is a heap of [`SealedChunk`]s at a node with the role [`Roles::MAILBOX`](crate::node::Roles::MAILBOX): each of a size class, under a random
//! id, with a version that the mailbox counts up. Inside are [`VaultItem`]s, as many as fit, in no order that says anything. Every item is a state
//! that merges as a join: so whoever reads a chunk merges what is in it with what it has, and writes the result back on top of the version it has
//! read. A write on top of an older version is refused, the writer reads again, merges, and writes again: two devices that change the same thing at
//! the same time lose nothing, and neither waits for the other.
//!
//! 1. [`VaultLook`]: what is there ([`VaultIndex`], ids and versions).
//! 2. [`VaultFetch`]: the chunks that are newer than what is known ([`VaultChunks`]).
//! 3. [`VaultPut`]: a chunk in place of a known version, a new one, or none ([`VaultKept`]).
//! 4. [`VaultNews`]: "another device has written", to those that are connected.
//!
//! [`VaultReplica`] is what a device knows of its vault at one mailbox, and decides what is fetched and written.
//!
//! **Keys.** [`VaultRoot`] follows from the identity key. Chunks are sealed under a [`VaultKey`]: the first follows from the root, later ones are
//! random and stand in the vault themselves, sealed under the root ([`KEY_EPOCH`]). A new one begins when a device is removed. Devices without the
//! identity key are given keys by those that have it.
//!
//! A mailbox learns whose vault it is, how large (in size classes), and when it is read and written. It can keep chunks back and give out old ones:
//! what merges isn't undone by an old state. It can neither read nor make one.

mod account;
mod chunk;
mod replica;
#[cfg(test)]
mod tests;

use bincode::{Decode, Encode};

pub use account::{VAULT_BYTES_MAX, VAULT_SECS, VaultAccount, VaultPolicy, VaultRefusal, decide_put};
pub use chunk::{
    CHUNK_BYTES_MAX, CHUNK_SIZE_CLASSES, ChunkError, ITEM_BYTES_MAX, ItemKey, KEY_EPOCH, SealedChunk, VaultItem, VaultKey,
    VaultKeys, VaultRoot,
};
pub use replica::{Known, KnownChunk, LocalItems, ReplicaAction, VaultReplica};

use crate::mailbox::MailboxReason;
use crate::wire::{DecodeError, Extensions, FrameKind, Message};

/// Most chunks of one vault: what the largest contact list takes, twice.
pub const CHUNKS_MAX: usize = 1_024;

/// Most chunks asked for at once.
pub const FETCH_MAX: usize = 64;

/// Bytes of chunks in one answer: at least the largest.
pub const FETCH_BYTES_MAX: usize = CHUNK_BYTES_MAX;

/// Names a chunk: random, so that it says nothing of what is inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct ChunkId(pub [u8; 16]);

/// A chunk as a mailbox lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ChunkMark {
    /// Which.
    pub id: ChunkId,
    /// Its version. Versions of one vault at one mailbox grow over all chunks and aren't used twice.
    pub version: u64,
}

/// "What is in my vault?" The user is whom the stream's hello has shown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct VaultLook {
    /// Room to grow.
    pub extensions: Extensions,
}

impl Message for VaultLook {
    const KIND: FrameKind = FrameKind(0x0086);
    const LIMIT: usize = 256;
}

/// Answer to [`VaultLook`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct VaultIndex {
    /// At most [`CHUNKS_MAX`]. Empty with a refusal.
    pub chunks: Vec<ChunkMark>,
    /// Why nothing is told.
    pub refused: Option<MailboxReason>,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Message for VaultIndex {
    const KIND: FrameKind = FrameKind(FrameKind::ANSWER | VaultLook::KIND.0);
    const LIMIT: usize = 40_960;

    fn check(&self) -> Result<(), DecodeError> {
        at_most("chunks", self.chunks.len(), CHUNKS_MAX)
    }
}

/// "Give me these."
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct VaultFetch {
    /// At most [`FETCH_MAX`].
    pub ids: Vec<ChunkId>,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Message for VaultFetch {
    const KIND: FrameKind = FrameKind(0x0087);
    const LIMIT: usize = 2_048;

    fn check(&self) -> Result<(), DecodeError> {
        at_most("ids", self.ids.len(), FETCH_MAX)
    }
}

/// A chunk as its mailbox hands it out.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct HeldChunk {
    /// Which, and its version.
    pub mark: ChunkMark,
    /// What is inside.
    pub chunk: SealedChunk,
}

/// Answer to [`VaultFetch`]: as many of the chunks asked for, in their order, as fit [`FETCH_BYTES_MAX`], and at least one if there is any.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct VaultChunks {
    /// Those that are there. Empty with a refusal.
    pub chunks: Vec<HeldChunk>,
    /// Why nothing is given.
    pub refused: Option<MailboxReason>,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Message for VaultChunks {
    const KIND: FrameKind = FrameKind(FrameKind::ANSWER | VaultFetch::KIND.0);
    const LIMIT: usize = FETCH_BYTES_MAX + 4_096;

    fn check(&self) -> Result<(), DecodeError> {
        at_most("chunks", self.chunks.len(), FETCH_MAX)
    }
}

/// "Keep this in place of what I know."
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct VaultPut {
    /// Which chunk.
    pub id: ChunkId,
    /// The version that it takes the place of; 0 for a new one.
    pub base: u64,
    /// The chunk; `None` takes it out.
    pub chunk: Option<SealedChunk>,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Message for VaultPut {
    const KIND: FrameKind = FrameKind(0x0088);
    const LIMIT: usize = CHUNK_BYTES_MAX + 1_024;
}

/// What became of [`VaultPut`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum VaultPutStatus {
    /// On disk, or out of it.
    Kept {
        /// Its version now.
        version: u64,
    },
    /// The version there isn't `base`: read again.
    Conflict {
        /// The version there; 0 if there is no such chunk.
        version: u64,
    },
    /// Not kept.
    Refused(MailboxReason),
}

/// Answer to [`VaultPut`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct VaultKept {
    /// What happened.
    pub status: VaultPutStatus,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Message for VaultKept {
    const KIND: FrameKind = FrameKind(FrameKind::ANSWER | VaultPut::KIND.0);
    const LIMIT: usize = 256;
}

/// "Another device of yours has written": to a device that is connected. A notice: devices look by themselves now and then.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct VaultNews {
    /// Room to grow.
    pub extensions: Extensions,
}

impl Message for VaultNews {
    const KIND: FrameKind = FrameKind(FrameKind::NOTICE | 0x0089);
    const LIMIT: usize = 256;
}

fn at_most(field: &'static str, count: usize, limit: usize) -> Result<(), DecodeError> {
    if count > limit {
        return Err(DecodeError::invalid(field, format!("{count}, at most {limit}")));
    }
    Ok(())
}
