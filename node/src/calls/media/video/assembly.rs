//! Puts the packets of a video stream in order, and hands out whole frames. Never reads the clock.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{VideoCodec, VideoFrame, duration_of, packets};

/// How long a missing packet is waited for while others come: twice as long as asking for it again takes on a path around the world.
pub(super) const GAP_MAX: Duration = Duration::from_millis(400);
/// A key frame is asked for again after this, as long as none comes.
const ASK_AGAIN: Duration = Duration::from_millis(500);
/// Packets and bytes kept: a second of 16 Mbit/s.
const PACKETS_MAX: usize = 2_048;
const BYTES_MAX: usize = 2 * 1_024 * 1_024;
/// Packets kept while a key frame is waited for: one of them may have overtaken its beginning.
const BEFORE_KEY_MAX: usize = 128;

/// A packet of video.
#[derive(Debug, Clone)]
pub(super) struct Part {
    pub(super) codec: VideoCodec,
    /// In ticks of the stream's clock, extended so that it never runs over.
    pub(super) ticks: u64,
    /// The frame's last.
    pub(super) is_last: bool,
    pub(super) payload: Arc<[u8]>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Assembled {
    Frame(VideoFrame),
    /// Frames can't be decoded without a key frame: ask for one.
    KeyFrameNeeded,
}

/// The packets of one stream that wait for others.
#[derive(Debug, Default)]
pub(super) struct Assembly {
    parts: BTreeMap<u64, Part>,
    bytes: usize,
    /// The number of the packet that begins the next frame. `None`: a key frame has to come first.
    next: Option<u64>,
    /// Packets before this one come too late.
    floor: u64,
    /// Since when the packet that is missing has been.
    gap_since: Option<Instant>,
    asked_at: Option<Instant>,
    /// The stream's first tick.
    epoch: Option<u64>,
    lost: u64,
}

impl Assembly {
    pub(super) fn lost(&self) -> u64 {
        self.lost
    }

    pub(super) fn insert(&mut self, number: u64, part: Part) {
        if number < self.floor || self.parts.contains_key(&number) {
            return;
        }
        self.bytes += part.payload.len();
        self.parts.insert(number, part);
        if self.parts.len() > PACKETS_MAX || self.bytes > BYTES_MAX {
            self.start_over();
        }
    }

    /// Frames that nobody has taken are missing to whoever decodes: a key frame has to come next.
    pub(super) fn need_key_frame(&mut self) {
        self.floor = self.next.take().unwrap_or(self.floor);
        self.gap_since = None;
    }

    /// When [`Assembly::poll`] is due, whatever comes.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        let given_up = self.gap_since.map(|since| since + GAP_MAX);
        let asked = self.asked_at.filter(|_| self.next.is_none() && !self.parts.is_empty()).map(|at| at + ASK_AGAIN);
        [given_up, asked].into_iter().flatten().min()
    }

    /// The next thing to hand on.
    pub(super) fn poll(&mut self, now: Instant) -> Option<Assembled> {
        loop {
            let Some(next) = self.next.or_else(|| self.find_key_frame()) else { return self.ask(now) };
            self.next = Some(next);
            match self.end_of_frame(next) {
                Some(end) => {
                    if let Some(frame) = self.take_frame(next, end) {
                        self.asked_at = None;
                        return Some(Assembled::Frame(frame));
                    }
                    // Its packets make no frame.
                    self.need_key_frame();
                }
                None if self.is_gap(next) => {
                    let since = *self.gap_since.get_or_insert(now);
                    if now < since + GAP_MAX {
                        return None;
                    }
                    self.give_up(next);
                }
                None => {
                    self.gap_since = None;
                    return None;
                }
            }
        }
    }

    /// The first packet of the first key frame there is, and what is before it is of no use then.
    fn find_key_frame(&mut self) -> Option<u64> {
        let mut keys = self.parts.iter().filter(|(_, part)| packets::begins_key_frame(part.codec, &part.payload));
        let found = keys.next().map(|(number, _)| *number);
        let trimmed = self.parts.keys().rev().nth(BEFORE_KEY_MAX).copied();
        self.forget_before(found.or(trimmed)?);
        found
    }

    fn ask(&mut self, now: Instant) -> Option<Assembled> {
        if self.parts.is_empty() || self.asked_at.is_some_and(|at| now < at + ASK_AGAIN) {
            return None;
        }
        self.asked_at = Some(now);
        Some(Assembled::KeyFrameNeeded)
    }

    /// The number of the last packet of the frame that begins here, if all of it is there.
    fn end_of_frame(&self, first: u64) -> Option<u64> {
        let ticks = self.parts.get(&first)?.ticks;
        for (number, part) in (first..).zip(self.parts.range(first..)) {
            if *part.0 != number {
                return None;
            }
            if part.1.ticks != ticks {
                return Some(number - 1);
            }
            if part.1.is_last {
                return Some(number);
            }
        }
        None
    }

    /// Whether a packet is missing before one that is there.
    fn is_gap(&self, first: u64) -> bool {
        let Some((last, _)) = self.parts.last_key_value() else { return false };
        let there = self.parts.range(first..).count() as u64;
        *last >= first && last - first + 1 > there
    }

    fn take_frame(&mut self, first: u64, end: u64) -> Option<VideoFrame> {
        self.floor = end + 1;
        let later = self.parts.split_off(&(end + 1));
        let parts = std::mem::replace(&mut self.parts, later);
        self.bytes = self.parts.values().map(|part| part.payload.len()).sum();
        self.next = Some(end + 1);
        self.gap_since = None;
        let head = parts.get(&first)?;
        let codec = head.codec;
        let epoch = *self.epoch.get_or_insert(head.ticks);
        let at = duration_of(head.ticks.saturating_sub(epoch));
        if parts.values().any(|part| part.codec != codec) {
            return None;
        }
        let data = packets::join(codec, parts.values().map(|part| &part.payload[..]))?;
        Some(VideoFrame::new(codec, at, data))
    }

    /// What is missing won't come any more: on from the next key frame.
    fn give_up(&mut self, first: u64) {
        if let Some((last, _)) = self.parts.last_key_value() {
            let there = self.parts.range(first..).count() as u64;
            self.lost += (last - first + 1).saturating_sub(there);
        }
        // The frame that begins here isn't whole; a later one may be a key frame.
        let behind = self.parts.range(first + 1..);
        let key =
            behind.into_iter().find(|(_, part)| packets::begins_key_frame(part.codec, &part.payload)).map(|(number, _)| *number);
        self.need_key_frame();
        match key {
            Some(number) => self.forget_before(number),
            None => self.clear(),
        }
        self.asked_at = None;
    }

    fn start_over(&mut self) {
        self.lost += 1;
        self.need_key_frame();
        // The newest is kept, so that a key frame is asked for.
        let newest = self.parts.pop_last();
        self.clear();
        if let Some((number, part)) = newest {
            self.bytes = part.payload.len();
            self.parts.insert(number, part);
        }
    }

    fn clear(&mut self) {
        self.floor = self.parts.last_key_value().map_or(self.floor, |(last, _)| last + 1);
        self.parts.clear();
        self.bytes = 0;
    }

    fn forget_before(&mut self, number: u64) {
        self.floor = number;
        self.parts = self.parts.split_off(&number);
        self.bytes = self.parts.values().map(|part| part.payload.len()).sum();
    }
}

#[cfg(test)]
#[path = "assembly_tests.rs"]
mod tests;
