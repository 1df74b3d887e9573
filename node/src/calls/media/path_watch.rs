//! Notices that media has stopped coming the way it should, long before ICE's own checks give a path up.
//!
//! Both ends of a call send a packet each 20 ms, silence included, over one and the same pair of addresses. So a pause on that pair says more,
//! and sooner, than an unanswered check. It proves nothing: what follows a doubt is another check, not an end. Never reads the clock.

use std::time::{Duration, Instant};

/// A pause after which a path is doubted: 20 packets in a row. Shorter ones are everyday on mobile networks.
const PAUSE: Duration = Duration::from_millis(400);

/// Doubts come at growing intervals, up to this many times the pause: 6.4 s. A peer that is paused sends nothing either.
const BACK_OFF_MAX: u32 = 16;

/// What to doubt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Doubt {
    /// The pair media goes over.
    Path,
    /// All pairs: what was tried instead is silent too.
    Everything,
}

/// Watches the path of one call.
#[derive(Debug)]
pub(super) struct PathWatch {
    /// Whether media is expected: some has come.
    expects: bool,
    /// When some came over the path last, or the path changed.
    heard_at: Instant,
    doubted_at: Option<Instant>,
    /// Doubts since it was heard.
    doubts: u32,
}

impl PathWatch {
    pub(super) fn new(now: Instant) -> Self {
        Self { expects: false, heard_at: now, doubted_at: None, doubts: 0 }
    }

    /// Media came; `is_on_path` says whether over the pair we send on.
    pub(super) fn heard(&mut self, is_on_path: bool, now: Instant) {
        if !self.expects {
            self.expects = true;
            self.heard_at = now;
        }
        if is_on_path {
            self.heard_at = now;
            self.doubts = 0;
            self.doubted_at = None;
        }
    }

    /// We send over another pair from now on: the other end gets a pause's time to do the same.
    pub(super) fn path_changed(&mut self, now: Instant) {
        self.heard_at = now;
    }

    /// Something to doubt, if it is time.
    pub(super) fn poll(&mut self, now: Instant) -> Option<Doubt> {
        if self.wake_at().is_none_or(|at| at > now) {
            return None;
        }
        self.doubted_at = Some(now);
        self.doubts = self.doubts.saturating_add(1);
        Some(if self.doubts == 1 { Doubt::Path } else { Doubt::Everything })
    }

    /// When [`PathWatch::poll`] is due.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        if !self.expects {
            return None;
        }
        let pause = PAUSE * 2_u32.saturating_pow(self.doubts.saturating_sub(1)).min(BACK_OFF_MAX);
        Some(self.doubted_at.map_or(self.heard_at, |at| at.max(self.heard_at)) + pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// When doubts come within a minute, and which, if nothing is heard.
    fn doubts(watch: &mut PathWatch, from: Instant) -> Vec<(Duration, Doubt)> {
        let mut found = Vec::new();
        while let Some(at) = watch.wake_at().filter(|at| *at < from + ms(15_000)) {
            assert_eq!(watch.poll(at - ms(1)), None);
            found.extend(watch.poll(at).map(|doubt| (at - from, doubt)));
        }
        found
    }

    #[test]
    fn doubts_come_soon_and_then_seldom() {
        let start = Instant::now();
        let mut watch = PathWatch::new(start);
        assert_eq!(watch.wake_at(), None, "nothing is expected before the first packet");
        watch.heard(true, start);
        let found = doubts(&mut watch, start);
        assert_eq!(found[0], (ms(400), Doubt::Path));
        assert!(found[1..].iter().all(|(_, doubt)| *doubt == Doubt::Everything));
        let times: Vec<Duration> = found.iter().map(|(at, _)| *at).collect();
        assert_eq!(times, [400, 800, 1_600, 3_200, 6_400, 12_800].map(ms));
    }

    #[test]
    fn what_is_heard_on_the_path_ends_doubts_and_elsewhere_doesnt() {
        let start = Instant::now();
        let mut watch = PathWatch::new(start);
        watch.heard(true, start);
        for packet in 0..100 {
            watch.heard(true, start + ms(20 * packet));
            assert_eq!(watch.poll(start + ms(20 * packet)), None);
        }
        let silent = start + ms(1_980);
        for packet in 1..20 {
            watch.heard(false, silent + ms(20 * packet));
        }
        assert_eq!(watch.poll(silent + ms(399)), None);
        assert_eq!(watch.poll(silent + ms(400)), Some(Doubt::Path));
        watch.path_changed(silent + ms(410));
        assert_eq!(watch.poll(silent + ms(809)), None);
        watch.heard(true, silent + ms(500));
        assert_eq!(watch.poll(silent + ms(899)), None);
        assert_eq!(watch.poll(silent + ms(900)), Some(Doubt::Path));
    }
}
