//! Looking around: a server meets its eight nearest again where it may have missed some.
//!
//! Those who joined at the same time don't know each other yet, and who takes the place of a dead neighbour may have joined when this node wasn't among the nearest that it met.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use rand::RngExt;

use super::lookup::{Goal, Purpose};
use super::routing_table::REPLICAS;
use super::{Directory, NEIGHBOURS};
use crate::directory::PlaceOwner;
use crate::time::Now;

/// How long after joining, beginning to serve, and the death of one of the eight nearest, in milliseconds.
const DELAY: RangeInclusive<u64> = 2_000..=6_000;

/// How long at least after the last time.
const PAUSE: Duration = Duration::from_secs(30);

/// When, and why.
#[derive(Debug, Default)]
pub(super) struct Around {
    next: Option<Instant>,
    last: Option<Instant>,
    /// After whose deaths lately: at most [`NEIGHBOURS`].
    dead: BTreeMap<PlaceOwner, Instant>,
}

impl Around {
    /// When [`Directory::look_around`] should be called.
    pub(super) const fn due(&self) -> Option<Instant> {
        self.next
    }

    fn plan(&mut self, soon: Instant) {
        let at = self.last.map_or(soon, |last| soon.max(last + PAUSE));
        self.next.get_or_insert(at);
    }

    /// Whether a death is news. A user whose devices come and go is looked around for once in the time between two refreshes, or until as many others have gone.
    fn is_news(&mut self, dead: PlaceOwner, now: Instant, refresh_every: Duration) -> bool {
        self.dead.retain(|_, at| now.saturating_duration_since(*at) < refresh_every);
        if self.dead.contains_key(&dead) {
            return false;
        }
        if self.dead.len() >= NEIGHBOURS {
            let oldest = self.dead.iter().min_by_key(|(_, at)| **at).map(|(owner, _)| *owner);
            oldest.map(|owner| self.dead.remove(&owner));
        }
        self.dead.insert(dead, now);
        true
    }
}

impl Directory {
    /// Plans to look around.
    pub(super) fn plan_to_look_around(&mut self, now: Now) {
        let soon = now.instant + Duration::from_millis(self.rng.random_range(DELAY));
        self.around.plan(soon);
    }

    /// Plans to look around after the death of a neighbour.
    pub(super) fn plan_to_look_around_for(&mut self, now: Now, dead: PlaceOwner) {
        if self.around.is_news(dead, now.instant, self.config.refresh_every) {
            self.plan_to_look_around(now);
        }
    }

    /// Meets the eight nearest nodes, most of whom it is connected to.
    pub(super) fn look_around(&mut self, now: Now) {
        self.around.next = None;
        if let Some(place) = self.local.place.filter(|_| self.local.is_serving) {
            self.around.last = Some(now.instant);
            self.start_lookup(now, Goal::Nodes { breadth: REPLICAS }, place, Purpose::Refresh, None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::Place;

    #[test]
    fn deaths_are_remembered_by_user_and_the_oldest_forgotten() {
        let (start, hour, second) = (Instant::now(), Duration::from_secs(3600), Duration::from_secs(1));
        let user = |number: u8| Place([number; 32]).owner();
        let mut around = Around::default();
        for number in 0..=16 {
            assert!(around.is_news(user(number), start + u32::from(number) * second, hour));
        }
        assert_eq!(around.dead.len(), NEIGHBOURS);
        let now = start + 60 * second;
        assert!(!around.is_news(user(16), now, hour), "it died a moment ago");
        assert!(around.is_news(user(0), now, hour), "many have died since");
        assert!(around.is_news(user(16), start + hour + 60 * second, hour));
    }
}
