//! How late this node itself is: what an overloaded machine takes for the silence of others.
//!
//! Where the node gets to run only seconds after it should, so do answers: each passes several tasks on its way. Taken for silence they would make it ask others, dial them
//! and repair after deaths that nobody died, and so have still less time. The more nodes share a machine, the more surely they would never recover.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Timers looked at. Their median counts: of one that comes late nothing follows, since then the machine slept and is well rested.
const SAMPLES: usize = 5;

/// How long a timer's lateness says something.
const FRESH: Duration = Duration::from_secs(10);

/// What any scheduler takes.
const USUAL: Duration = Duration::from_millis(20);

/// Tasks that a question and its answer wake up one after the other, here and there.
const WAKE_UPS: u32 = 8;

/// Longest allowance. With it a request takes no longer than questions to a peer may at all.
const ALLOWANCE_MAX: Duration = Duration::from_secs(5);

/// How late the last timers were.
#[derive(Debug, Default)]
pub(super) struct Lateness {
    samples: VecDeque<(Instant, Duration)>,
}

impl Lateness {
    /// A timer that was due at `due` is looked at now. What was due already when the last one was looked at was left for later, and says nothing.
    pub(super) fn note(&mut self, now: Instant, due: Instant) {
        if self.samples.back().is_some_and(|(last, _)| due <= *last) {
            return;
        }
        if self.samples.len() >= SAMPLES {
            self.samples.pop_front();
        }
        self.samples.push_back((now, now.saturating_duration_since(due)));
    }

    /// How much longer than usual an answer may take.
    pub(super) fn allowance(&self, now: Instant) -> Duration {
        let is_fresh = |at: &Instant| now.saturating_duration_since(*at) < FRESH;
        let mut late: Vec<_> = self.samples.iter().filter(|(at, _)| is_fresh(at)).map(|(_, late)| *late).collect();
        late.resize(SAMPLES, Duration::ZERO);
        late.sort_unstable();
        (late[SAMPLES / 2].saturating_sub(USUAL) * WAKE_UPS).min(ALLOWANCE_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_late_again_and_again_grants_it_to_others_and_who_overslept_once_does_not() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let mut lateness = Lateness::default();
        for timer in 0..3 {
            assert_eq!(lateness.allowance(start + timer * second), Duration::ZERO);
            lateness.note(start + timer * second + USUAL + second / 4, start + timer * second);
        }
        assert_eq!(lateness.allowance(start + 3 * second), 2 * second);
        assert_eq!(lateness.allowance(start + 3 * second + FRESH), Duration::ZERO, "that was long ago");
        let hour = start + 3600 * second;
        (0..5).for_each(|_| lateness.note(hour, start + 4 * second));
        assert_eq!(lateness.allowance(hour), Duration::ZERO, "one timer after a sleep, and what was left for later then");
        (1..=2).for_each(|timer| lateness.note(hour + 2 * timer * second, hour + (2 * timer - 1) * second));
        assert_eq!(lateness.allowance(hour + 4 * second), ALLOWANCE_MAX);
        (5..=7).for_each(|timer| lateness.note(hour + timer * second + USUAL, hour + timer * second));
        assert_eq!(lateness.allowance(hour + 8 * second), Duration::ZERO, "it is in time again");
    }
}
