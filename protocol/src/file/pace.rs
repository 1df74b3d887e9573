//! How many blocks are under way at once.
//!
//! A file must fill a long path and yet not stand in the way: messages and call signals share its stream, and media its link. Loss shows
//! neither, since streams mend it; delay does: what waits in queues along the path makes answers late. So the number under way grows while
//! answers come about as fast as they ever did, and shrinks when they come later than that by more than a tolerable wait (the idea of RFC 6817).

use std::time::{Duration, Instant};

/// Blocks under way at the start: what a fresh connection takes without a queue.
const START: f64 = 4.0;

/// Never fewer: with one a long path stands idle most of the time.
const FEWEST: f64 = 2.0;

/// Waiting in queues that is put up with: a message behind a file is late by that much, which nobody notices.
const QUEUE_MAX: Duration = Duration::from_millis(60);

/// How long the shortest time of an answer is believed to be the path's own. Paths change, as from a relay to a direct one and back.
const MEMORY: Duration = Duration::from_secs(20);

/// What is left of the window when answers are late.
const BACK_OFF: f64 = 0.7;

/// See the [module's documentation](self).
#[derive(Clone, Debug)]
pub struct Pace {
    window: f64,
    max: f64,
    /// The shortest time of an answer in this stretch of [`MEMORY`] and the one before.
    shortest: [Option<Duration>; 2],
    turned_at: Option<Instant>,
    /// The first lateness ends the doubling of the start.
    is_starting: bool,
    /// Backing off again makes sense only after answers to what was asked since.
    backed_off_at: Option<Instant>,
}

impl Pace {
    /// Blocks under way at most: 1 MiB, which fills 80 Mbit/s at 100 ms.
    pub const BLOCKS_MAX: usize = 64;

    /// A pace that starts slowly; at most `max` blocks, themselves at most [`Pace::BLOCKS_MAX`].
    #[must_use]
    pub fn new(max: usize) -> Self {
        let max = max.clamp(FEWEST as usize, Self::BLOCKS_MAX) as f64;
        Self { window: START.min(max), max, shortest: [None; 2], turned_at: None, is_starting: true, backed_off_at: None }
    }

    /// How many blocks may be under way now.
    #[must_use]
    pub const fn window(&self) -> usize {
        self.window as usize
    }

    /// An answer has come, to a block asked for at `asked_at`.
    pub fn answered(&mut self, asked_at: Instant, now: Instant) {
        let took = now.saturating_duration_since(asked_at);
        self.note(took, now);
        let shortest = self.shortest.iter().flatten().min().copied().unwrap_or(took);
        if took > shortest + QUEUE_MAX {
            self.back_off(asked_at, now);
        } else if self.is_starting {
            self.window = (self.window + 1.0).min(self.max);
        } else {
            self.window = (self.window + 1.0 / self.window).min(self.max);
        }
    }

    /// A block didn't come.
    pub fn lost(&mut self, asked_at: Instant, now: Instant) {
        self.back_off(asked_at, now);
    }

    fn back_off(&mut self, asked_at: Instant, now: Instant) {
        self.is_starting = false;
        if self.backed_off_at.is_none_or(|at| asked_at >= at) {
            self.backed_off_at = Some(now);
            self.window = (self.window * BACK_OFF).max(FEWEST);
        }
    }

    fn note(&mut self, took: Duration, now: Instant) {
        let turned_at = *self.turned_at.get_or_insert(now);
        if now.saturating_duration_since(turned_at) > MEMORY {
            self.shortest = [None, self.shortest[0]];
            self.turned_at = Some(now);
        }
        self.shortest[0] = Some(self.shortest[0].map_or(took, |shortest| shortest.min(took)));
    }
}
