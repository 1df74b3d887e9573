//! Length-prefixed frames: an unsigned varint (multiformats, minimal encoding) and that many bytes.
//!
//! Nothing here touches a socket; [`handler`](super::handler) owns the streams.

use bytes::{Buf, BytesMut};

use super::MAX_FRAME_LEN;

/// A buffer that has grown beyond this is given back once empty, so that an idle stream costs
/// next to nothing however large its last frame was.
const KEPT_CAPACITY: usize = 4 * 1024;

/// Why incoming bytes are not a frame. Nothing after it on the stream can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum FrameError {
    /// The length prefix is not a minimal varint.
    #[error("malformed length prefix")]
    Malformed,
    /// The announced length is above [`MAX_FRAME_LEN`]; nothing was allocated for it.
    #[error("frame of {0} bytes announced, at most {MAX_FRAME_LEN} allowed")]
    Oversized(u64),
}

/// Collects bytes and hands out whole frames.
#[derive(Debug, Default)]
pub(super) struct FrameReader {
    buffer: BytesMut,
}

impl FrameReader {
    /// Adds what was read. At most one frame and one read's worth is ever held, since the
    /// caller takes all frames out before it reads on.
    pub(super) fn extend(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Whether part of a frame is waiting for its rest.
    pub(super) fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    /// The next whole frame, or `None` until more bytes come.
    pub(super) fn next_frame(&mut self) -> Result<Option<Vec<u8>>, FrameError> {
        let (length, rest) = match unsigned_varint::decode::u64(&self.buffer) {
            Ok(decoded) => decoded,
            Err(unsigned_varint::decode::Error::Insufficient) => return Ok(None),
            Err(_) => return Err(FrameError::Malformed),
        };
        let Some(length) = usize::try_from(length).ok().filter(|length| *length <= MAX_FRAME_LEN) else {
            return Err(FrameError::Oversized(length));
        };
        let Some(frame) = rest.get(..length) else {
            return Ok(None);
        };
        let frame = frame.to_vec();
        let consumed = self.buffer.len() - rest.len() + length;
        self.buffer.advance(consumed);
        if self.buffer.is_empty() && self.buffer.capacity() > KEPT_CAPACITY {
            self.buffer = BytesMut::new();
        }
        Ok(Some(frame))
    }
}

/// Encoded frames on their way into the stream.
#[derive(Debug, Default)]
pub(super) struct FrameWriter {
    buffer: BytesMut,
}

impl FrameWriter {
    /// Appends one frame. The caller has checked its length against [`MAX_FRAME_LEN`].
    pub(super) fn push(&mut self, frame: &[u8]) {
        debug_assert!(frame.len() <= MAX_FRAME_LEN);
        let mut prefix = unsigned_varint::encode::usize_buffer();
        let prefix = unsigned_varint::encode::usize(frame.len(), &mut prefix);
        self.buffer.reserve(prefix.len() + frame.len());
        self.buffer.extend_from_slice(prefix);
        self.buffer.extend_from_slice(frame);
    }

    /// The bytes still to be written.
    pub(super) fn pending(&self) -> &[u8] {
        &self.buffer
    }

    /// Forgets the first `written` bytes.
    pub(super) fn advance(&mut self, written: usize) {
        self.buffer.advance(written);
        if self.buffer.is_empty() && self.buffer.capacity() > KEPT_CAPACITY {
            self.buffer = BytesMut::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encoded(frames: &[Vec<u8>]) -> Vec<u8> {
        let mut writer = FrameWriter::default();
        for frame in frames {
            writer.push(frame);
        }
        writer.pending().to_vec()
    }

    #[test]
    fn a_length_above_the_limit_is_refused_before_its_bytes_come() {
        let mut prefix = unsigned_varint::encode::usize_buffer();
        let mut reader = FrameReader::default();
        reader.extend(unsigned_varint::encode::usize(MAX_FRAME_LEN + 1, &mut prefix));
        assert_eq!(reader.next_frame(), Err(FrameError::Oversized(MAX_FRAME_LEN as u64 + 1)));
    }

    #[test]
    fn endless_and_padded_lengths_are_malformed() {
        for bytes in [&[0xff_u8; 11][..], &[0x81, 0x00][..]] {
            let mut reader = FrameReader::default();
            reader.extend(bytes);
            assert_eq!(reader.next_frame(), Err(FrameError::Malformed));
        }
    }

    #[test]
    fn the_largest_frame_passes_and_its_buffer_is_given_back() {
        let frame = vec![7; MAX_FRAME_LEN];
        let mut reader = FrameReader::default();
        reader.extend(&encoded(std::slice::from_ref(&frame)));
        assert_eq!(reader.next_frame(), Ok(Some(frame)));
        assert!(reader.buffer.capacity() <= KEPT_CAPACITY);
    }

    proptest! {
        #[test]
        fn frames_survive_any_chopping(
            frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..20),
            chunk in 1_usize..64,
        ) {
            let mut reader = FrameReader::default();
            let mut seen = Vec::new();
            for bytes in encoded(&frames).chunks(chunk) {
                reader.extend(bytes);
                while let Some(frame) = reader.next_frame().expect("our own encoding") {
                    seen.push(frame);
                }
            }
            prop_assert_eq!(seen, frames);
            prop_assert!(reader.is_empty());
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..2_000)) {
            let mut reader = FrameReader::default();
            reader.extend(&bytes);
            while let Ok(Some(_)) = reader.next_frame() {}
        }
    }
}
