//! How a file is cut into chunks and blocks, and the hashes that name it.

use bincode::{Decode, Encode};
use sha2::{Digest, Sha256};

use super::FILE_BYTES_MAX;
use crate::key::hash;

/// Hash of one chunk: SHA-256 of its bytes.
pub type ChunkHash = [u8; 32];

/// Domain of [`FileRoot`].
const ROOT_DOMAIN: &str = "halloo file";

/// Names a file's content: `hash("halloo file", size (8, big endian), all chunk hashes)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct FileRoot(pub [u8; 32]);

impl FileRoot {
    /// The root of a file of this size with these chunks.
    #[must_use]
    pub fn of(size: u64, hashes: &[ChunkHash]) -> Self {
        Self(hash(ROOT_DOMAIN, &[&size.to_be_bytes(), hashes.as_flattened()]))
    }
}

/// A chunk's hash in the making.
#[derive(Clone, Debug, Default)]
pub struct ChunkHasher(Sha256);

impl ChunkHasher {
    /// Nothing hashed yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the chunk's next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The hash of what was taken; ready for the next chunk.
    pub fn finish(&mut self) -> ChunkHash {
        self.0.finalize_reset().into()
    }
}

/// A list of hashes that isn't the offer's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the list of chunk hashes isn't the one that was offered")]
pub struct LayoutError;

/// How a file of one size is cut; follows from the size alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    size: u64,
    chunk_bytes: u64,
}

impl Layout {
    /// Largest piece of a file in one frame: at 1 Mbit/s it holds up what is behind it by 0.13 s.
    pub const BLOCK_BYTES: u32 = 16 * 1024;

    /// Smallest chunk; a file of up to 4 GiB has chunks of this size.
    pub const CHUNK_BYTES_MIN: u64 = 256 * 1024;

    /// Most chunks of a file: their hashes are half a mebibyte.
    pub const CHUNKS_MAX: u64 = 16_384;

    /// The cut of a file of `size` bytes: chunks of a power of two, the smallest of which there are few enough. Sizes above
    /// [`FILE_BYTES_MAX`] count as that.
    #[must_use]
    pub const fn of_size(size: u64) -> Self {
        let size = if size > FILE_BYTES_MAX { FILE_BYTES_MAX } else { size };
        let mut chunk_bytes = Self::CHUNK_BYTES_MIN;
        while size.div_ceil(chunk_bytes) > Self::CHUNKS_MAX {
            chunk_bytes *= 2;
        }
        Self { size, chunk_bytes }
    }

    /// Bytes of the file.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Bytes of every chunk but the last.
    #[must_use]
    pub const fn chunk_bytes(&self) -> u64 {
        self.chunk_bytes
    }

    /// How many chunks there are; none in an empty file.
    #[must_use]
    pub const fn chunks(&self) -> u32 {
        // At most CHUNKS_MAX.
        self.size.div_ceil(self.chunk_bytes) as u32
    }

    /// Where a chunk begins.
    #[must_use]
    pub const fn chunk_start(&self, chunk: u32) -> u64 {
        chunk as u64 * self.chunk_bytes
    }

    /// Bytes of a chunk; 0 beyond the end.
    #[must_use]
    pub const fn chunk_len(&self, chunk: u32) -> u64 {
        let start = self.chunk_start(chunk);
        if start >= self.size {
            return 0;
        }
        let left = self.size - start;
        if left < self.chunk_bytes { left } else { self.chunk_bytes }
    }

    /// The chunk a byte belongs to.
    #[must_use]
    pub const fn chunk_at(&self, offset: u64) -> u32 {
        (offset / self.chunk_bytes) as u32
    }

    /// Blocks of a chunk.
    #[must_use]
    pub const fn blocks_of(&self, chunk: u32) -> u32 {
        self.chunk_len(chunk).div_ceil(Self::BLOCK_BYTES as u64) as u32
    }

    /// The length of the block that begins at `offset`; 0 beyond the end. Chunks are whole numbers of blocks, so none crosses a border.
    #[must_use]
    pub const fn block_len(&self, offset: u64) -> u32 {
        if offset >= self.size {
            return 0;
        }
        let left = self.size - offset;
        if left < Self::BLOCK_BYTES as u64 { left as u32 } else { Self::BLOCK_BYTES }
    }

    /// True if a request for these bytes may be answered.
    #[must_use]
    pub const fn is_within(&self, offset: u64, length: u32) -> bool {
        length > 0
            && length <= Self::BLOCK_BYTES
            && match offset.checked_add(length as u64) {
                Some(end) => end <= self.size,
                None => false,
            }
    }

    /// Checks a list of hashes against the offer's root.
    ///
    /// # Errors
    /// [`LayoutError`] if it isn't the list.
    pub fn check_hashes(&self, root: &FileRoot, hashes: &[ChunkHash]) -> Result<(), LayoutError> {
        if hashes.len() as u64 == u64::from(self.chunks()) && FileRoot::of(self.size, hashes) == *root {
            Ok(())
        } else {
            Err(LayoutError)
        }
    }
}
