//! What the receiver of a file asks for next.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::layout::Layout;
use super::pace::Pace;

/// Chunks that may turn out wrong before the sender isn't believed any more. One can go wrong on its disk; more are malice or a file that
/// has changed.
const CORRUPT_MAX: u32 = 3;

/// A piece to ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Block {
    /// Where it begins.
    pub offset: u64,
    /// Its bytes.
    pub length: u32,
}

/// Why a transfer can't go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PullError {
    /// Too many chunks didn't match their hashes.
    #[error("{0} chunks that came didn't match what was offered")]
    Corrupt(u32),
}

/// What follows from a block that was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// Nothing yet.
    More,
    /// All of this chunk is written: compare it with its hash, and bring the result to [`Pull::handle_verified`].
    Verify(u32),
}

/// How far a transfer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullStep {
    /// More is to come.
    Going,
    /// Everything is verified and on disk.
    Done,
}

/// A set of chunks, one bit each.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Chunks {
    bits: Vec<u8>,
}

impl Chunks {
    fn new(count: u32) -> Self {
        Self { bits: vec![0; count.div_ceil(8) as usize] }
    }

    fn has(&self, chunk: u32) -> bool {
        self.bits.get(chunk as usize / 8).is_some_and(|byte| byte & (1 << (chunk % 8)) != 0)
    }

    fn add(&mut self, chunk: u32) {
        if let Some(byte) = self.bits.get_mut(chunk as usize / 8) {
            *byte |= 1 << (chunk % 8);
        }
    }
}

/// The receiving side of one transfer: which blocks to ask for, which are on their way, what is verified.
///
/// Contract: ask for every block that [`Pull::poll_block`] gives, until it gives none; bring each answer to [`Pull::handle_block`] or
/// [`Pull::handle_lost`]; write what came, and say so with [`Pull::handle_written`]; verify chunks as told. A chunk counts as had only after
/// [`Pull::handle_synced`]: say so when what was written is safe from a power cut. Blocks under way, those being written included, are at most
/// [`Pace::BLOCKS_MAX`], so memory is bounded whatever the size of the file.
#[derive(Clone, Debug)]
pub struct Pull {
    layout: Layout,
    pace: Pace,
    /// Verified and safe on disk.
    had: Chunks,
    had_bytes: u64,
    /// Verified, not yet safe.
    fresh: BTreeSet<u32>,
    /// Chunks of which something was asked for, with the blocks that are written.
    open: BTreeMap<u32, u32>,
    /// Chunks whose hash is being computed.
    verifying: BTreeSet<u32>,
    /// Where to look for more: everything before it is had, open, or to be asked for again.
    cursor: u64,
    /// To be asked for again.
    again: BTreeSet<u64>,
    asked: BTreeMap<u64, Instant>,
    writing: BTreeSet<u64>,
    corrupt: u32,
}

impl Pull {
    /// Goes on with a file of which `had` is on disk: as [`Pull::progress`] gave it, or empty for none. At most `blocks_max` blocks at once.
    #[must_use]
    pub fn new(layout: Layout, had: &[u8], blocks_max: usize) -> Self {
        let mut pull = Self {
            layout,
            pace: Pace::new(blocks_max),
            had: Chunks::new(layout.chunks()),
            had_bytes: 0,
            fresh: BTreeSet::new(),
            open: BTreeMap::new(),
            verifying: BTreeSet::new(),
            cursor: 0,
            again: BTreeSet::new(),
            asked: BTreeMap::new(),
            writing: BTreeSet::new(),
            corrupt: 0,
        };
        let before = Chunks { bits: had.to_vec() };
        for chunk in (0..layout.chunks()).filter(|chunk| before.has(*chunk)) {
            pull.had.add(chunk);
            pull.had_bytes += layout.chunk_len(chunk);
        }
        pull
    }

    /// What is had, one bit a chunk, for the database.
    #[must_use]
    pub fn progress(&self) -> &[u8] {
        &self.had.bits
    }

    /// Bytes that are verified, whether or not they are safe yet.
    #[must_use]
    pub fn verified_bytes(&self) -> u64 {
        self.had_bytes + self.fresh.iter().map(|chunk| self.layout.chunk_len(*chunk)).sum::<u64>()
    }

    /// Bytes that have come, verified or not.
    #[must_use]
    pub fn received_bytes(&self) -> u64 {
        let block = u64::from(Layout::BLOCK_BYTES);
        let of_open = self.open.iter().map(|(chunk, written)| (u64::from(*written) * block).min(self.layout.chunk_len(*chunk)));
        self.verified_bytes() + of_open.sum::<u64>()
    }

    /// Blocks on their way or being written.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.asked.len() + self.writing.len()
    }

    /// True if verified chunks wait for [`Pull::handle_synced`], and how many bytes they have.
    #[must_use]
    pub fn unsynced_bytes(&self) -> u64 {
        self.fresh.iter().map(|chunk| self.layout.chunk_len(*chunk)).sum()
    }

    /// The chunks that [`Pull::handle_synced`] would be about.
    pub fn unsynced(&self) -> impl Iterator<Item = u32> {
        self.fresh.iter().copied()
    }

    /// How far it is.
    #[must_use]
    pub const fn step(&self) -> PullStep {
        if self.had_bytes == self.layout.size() { PullStep::Done } else { PullStep::Going }
    }

    /// True if nothing is left to ask for, to write or to verify: a sync makes it whole.
    #[must_use]
    pub fn is_all_verified(&self) -> bool {
        self.verified_bytes() == self.layout.size()
    }

    /// A block to ask for now; call until `None`.
    pub fn poll_block(&mut self, now: Instant) -> Option<Block> {
        if self.under_way() >= self.pace.window() {
            return None;
        }
        let offset = match self.again.pop_first() {
            Some(offset) => offset,
            None => self.next_new()?,
        };
        self.asked.insert(offset, now);
        Some(Block { offset, length: self.layout.block_len(offset) })
    }

    /// Bytes came for the block at `offset`. True if they are wanted: write them.
    pub fn handle_block(&mut self, offset: u64, length: usize, now: Instant) -> bool {
        let Some(asked_at) = self.asked.remove(&offset) else { return false };
        if length != self.layout.block_len(offset) as usize {
            self.again.insert(offset);
            self.pace.lost(asked_at, now);
            return false;
        }
        self.pace.answered(asked_at, now);
        self.writing.insert(offset);
        true
    }

    /// The block at `offset` won't come.
    pub fn handle_lost(&mut self, offset: u64, now: Instant) {
        if let Some(asked_at) = self.asked.remove(&offset) {
            self.pace.lost(asked_at, now);
            self.again.insert(offset);
        }
    }

    /// Nothing that was asked for will come: the connection is gone.
    pub fn handle_disconnected(&mut self) {
        self.again.extend(std::mem::take(&mut self.asked).into_keys());
    }

    /// The block at `offset` is written.
    pub fn handle_written(&mut self, offset: u64) -> Written {
        if !self.writing.remove(&offset) {
            return Written::More;
        }
        let chunk = self.layout.chunk_at(offset);
        let Some(written) = self.open.get_mut(&chunk) else { return Written::More };
        *written += 1;
        if *written < self.layout.blocks_of(chunk) {
            return Written::More;
        }
        self.verifying.insert(chunk);
        Written::Verify(chunk)
    }

    /// A chunk was compared with its hash. One that doesn't match is asked for again.
    ///
    /// # Errors
    /// [`PullError::Corrupt`] if that has happened too often.
    pub fn handle_verified(&mut self, chunk: u32, is_good: bool) -> Result<(), PullError> {
        if !self.verifying.remove(&chunk) {
            return Ok(());
        }
        self.open.remove(&chunk);
        if is_good {
            self.fresh.insert(chunk);
            return Ok(());
        }
        self.corrupt += 1;
        if self.corrupt >= CORRUPT_MAX {
            return Err(PullError::Corrupt(self.corrupt));
        }
        let blocks = self.layout.chunk_start(chunk)..self.after(chunk);
        self.again.extend(blocks.step_by(Layout::BLOCK_BYTES as usize));
        self.open.insert(chunk, 0);
        Ok(())
    }

    /// These chunks, verified before the sync began, are safe on disk.
    pub fn handle_synced(&mut self, chunks: &[u32]) -> PullStep {
        for chunk in chunks {
            if self.fresh.remove(chunk) {
                self.had.add(*chunk);
                self.had_bytes += self.layout.chunk_len(*chunk);
            }
        }
        self.step()
    }

    /// The next block of which nothing is known.
    fn next_new(&mut self) -> Option<u64> {
        while self.cursor < self.layout.size() {
            let offset = self.cursor;
            let chunk = self.layout.chunk_at(offset);
            let is_start = offset == self.layout.chunk_start(chunk);
            // A chunk is walked through from its start to its end; those had before are stepped over as a whole.
            if is_start && self.had.has(chunk) {
                self.cursor = self.after(chunk);
                continue;
            }
            self.open.entry(chunk).or_insert(0);
            self.cursor = offset + u64::from(self.layout.block_len(offset));
            return Some(offset);
        }
        None
    }

    const fn after(&self, chunk: u32) -> u64 {
        self.layout.chunk_start(chunk) + self.layout.chunk_len(chunk)
    }
}
