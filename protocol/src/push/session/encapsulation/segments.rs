//! Short messages that belong together: bounded in number, size and time.

use std::collections::BTreeMap;

use super::EncapsulationError;
use crate::time::UnixTime;

/// Most segments of one request: 255 can be numbered, none of ours takes that many.
pub const SEGMENTS_MAX: usize = 64;

/// Most requests whose segments aren't all there; the oldest makes room.
pub const PARTIAL_MAX: usize = 8;

/// How long segments wait for the others, in seconds.
pub const PARTIAL_SECS_MAX: u64 = 600;

/// Longest name of a sender.
const SENDER_BYTES_MAX: usize = 64;

/// One of the messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Segment<'a> {
    pub(super) reference: u8,
    pub(super) total: u8,
    /// From 1.
    pub(super) number: u8,
    pub(super) bytes: std::borrow::Cow<'a, [u8]>,
}

/// Cuts `bytes` into segments of at most `size`.
pub(super) fn cut(bytes: &[u8], size: usize, reference: u8) -> Result<Vec<Segment<'_>>, EncapsulationError> {
    let limit = size.saturating_mul(SEGMENTS_MAX);
    let too_large = EncapsulationError::TooLarge { bytes: bytes.len(), limit };
    if bytes.len() > limit || size == 0 {
        return Err(too_large);
    }
    let pieces: Vec<&[u8]> = bytes.chunks(size).collect();
    let total = u8::try_from(pieces.len()).map_err(|_| too_large)?;
    let numbered = pieces.into_iter().zip(1..).map(|(piece, number)| Segment { reference, total, number, bytes: piece.into() });
    Ok(numbered.collect())
}

#[derive(Clone, Debug)]
struct Partial {
    total: u8,
    since: UnixTime,
    pieces: BTreeMap<u8, Vec<u8>>,
}

/// Puts segments together, by sender and reference.
#[derive(Clone, Debug, Default)]
pub struct Reassembly {
    partial: BTreeMap<(String, u8), Partial>,
}

impl Reassembly {
    /// How many requests wait for segments.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.partial.len()
    }

    /// Takes a segment; the whole, once it is there. The same segment again changes nothing.
    pub(super) fn take(
        &mut self,
        from: &str,
        segment: Segment<'_>,
        now: UnixTime,
    ) -> Result<Option<Vec<u8>>, EncapsulationError> {
        let Segment { reference, total, number, bytes } = segment;
        if total == 0 || usize::from(total) > SEGMENTS_MAX || number == 0 || number > total {
            return Err(EncapsulationError::Segments("their numbers"));
        }
        if from.len() > SENDER_BYTES_MAX {
            return Err(EncapsulationError::Segments("the sender's name is too long"));
        }
        if total == 1 {
            return Ok(Some(bytes.into_owned()));
        }
        self.partial.retain(|_, partial| now.secs_since(partial.since) <= PARTIAL_SECS_MAX);
        let key = (from.to_owned(), reference);
        if !self.partial.contains_key(&key) && self.partial.len() >= PARTIAL_MAX {
            let oldest = self.partial.iter().min_by_key(|(_, partial)| partial.since).map(|(key, _)| key.clone());
            oldest.map(|oldest| self.partial.remove(&oldest));
        }
        let partial = self.partial.entry(key.clone()).or_insert_with(|| Partial { total, since: now, pieces: BTreeMap::new() });
        if partial.total != total || partial.pieces.get(&number).is_some_and(|known| *known != *bytes) {
            // A reference is used again: what was begun won't be ended.
            *partial = Partial { total, since: now, pieces: BTreeMap::new() };
        }
        partial.pieces.insert(number, bytes.into_owned());
        if partial.pieces.len() < usize::from(total) {
            return Ok(None);
        }
        Ok(self.partial.remove(&key).map(|whole| whole.pieces.into_values().flatten().collect()))
    }
}
