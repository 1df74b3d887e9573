//! What phones have taken, gathered to be noted together: a note waits for the disk, and tells authors, whether it is of one message or of hundreds.
//!
//! What is gathered and not yet noted is lost with the process; a message then goes to a phone once more. Never reads the clock.

use std::time::{Duration, Instant};

/// How long nothing more is to come before what was gathered is noted.
pub const PAUSE: Duration = Duration::from_millis(50);
/// The longest that the first waits, while more and more come.
pub const WAIT_MAX: Duration = Duration::from_secs(1);
/// How many are noted at once at most.
pub const TOGETHER_MAX: usize = 1_000;

/// What was taken, named by whoever uses it.
#[derive(Debug)]
pub struct Taken<T> {
    gathered: Vec<T>,
    first: Option<Instant>,
    last: Option<Instant>,
}

impl<T> Default for Taken<T> {
    fn default() -> Self {
        Self { gathered: Vec::new(), first: None, last: None }
    }
}

impl<T> Taken<T> {
    /// Another one.
    pub fn add(&mut self, one: T, now: Instant) {
        self.gathered.push(one);
        self.first.get_or_insert(now);
        self.last = Some(now);
    }

    /// When they are to be noted.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let (first, last) = (self.first?, self.last?);
        if self.gathered.len() >= TOGETHER_MAX { Some(first) } else { Some((last + PAUSE).min(first + WAIT_MAX)) }
    }

    /// Whether that is now.
    #[must_use]
    pub fn is_due(&self, now: Instant) -> bool {
        self.poll_timeout().is_some_and(|at| at <= now)
    }

    /// All of them, to be noted.
    pub fn take(&mut self) -> Vec<T> {
        (self.first, self.last) = (None, None);
        std::mem::take(&mut self.gathered)
    }

    /// True if there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.gathered.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_together_is_noted_together_and_nothing_waits_for_long() {
        let (mut taken, start) = (Taken::default(), Instant::now());
        assert!(!taken.is_due(start) && taken.is_empty());
        taken.add(0, start);
        assert!(!taken.is_due(start));
        assert!(taken.is_due(start + PAUSE), "a single one waits for a moment");
        let mut now = start;
        for number in 1..40 {
            now += PAUSE / 2;
            assert_eq!(taken.is_due(now), now >= start + WAIT_MAX, "{number}");
            taken.add(number, now);
        }
        assert_eq!(taken.poll_timeout(), Some(start + WAIT_MAX));
        assert_eq!(taken.take(), (0..40).collect::<Vec<_>>());
        assert_eq!((taken.poll_timeout(), taken.is_empty()), (None, true));
        (0..TOGETHER_MAX).for_each(|number| taken.add(number, now));
        assert!(taken.is_due(now), "there are many");
    }
}
