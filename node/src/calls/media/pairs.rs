//! Measures all pairs of addresses that ICE keeps checking, and says which of those that work media should take.
//!
//! ICE ranks pairs by their kind: direct before punched before relayed. That is right unless it is measurably wrong, for a direct path can be the
//! longer one, or lose more. Each pair is checked about every second, so that its round trip and loss are known without a packet more. Who has made
//! the offer decides, and the other end follows where media come from; so both send over one pair. Never reads the clock.

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    time::{Duration, Instant},
};

/// Our address and theirs.
pub(super) type Pair = (SocketAddr, SocketAddr);
/// What tells a check from others (RFC 8489 section 5).
pub(super) type CheckId = [u8; 12];

/// Checks by which a pair is judged: the last quarter of a minute.
const SAMPLES_MAX: usize = 16;
/// So many have to be there: a first round trip often contains somebody's look-up.
const SAMPLES_MIN: usize = 4;
/// A check that isn't answered within this is lost.
const LOST_AFTER: Duration = Duration::from_millis(1_500);
/// A pair that hasn't answered for so long doesn't work any more: two checks in a row.
const WORKS_FOR: Duration = Duration::from_millis(2_500);
/// A pair has to be better by this, or by a quarter of what it replaces: what a person might notice.
const MARGIN: Duration = Duration::from_millis(20);
/// A relay is somebody else's: it has to be better by so much more.
const RELAY_MARGIN: Duration = Duration::from_millis(30);
/// What all lost counts as: each percent as 10 ms. One lost check counts for nothing.
const LOSS_COST: Duration = Duration::from_secs(1);
/// For so long a pair has to be the better one.
const SUSTAINED: Duration = Duration::from_secs(4);
/// Pairs measured, and checks under way: those of four addresses here and sixteen there.
const PAIRS_MAX: usize = 64;
const CHECKS_MAX: usize = 256;

#[derive(Debug, Default)]
struct Measured {
    /// When a check left, and its round trip; `None` if it was lost. In the order in which they left: a loss is known later than the next answer.
    samples: VecDeque<(Instant, Option<Duration>)>,
    answered_at: Option<Instant>,
}

impl Measured {
    fn note(&mut self, asked_at: Instant, round_trip: Option<Duration>) {
        if self.samples.len() >= SAMPLES_MAX {
            self.samples.pop_front();
        }
        let place = self.samples.partition_point(|(known, _)| *known <= asked_at);
        self.samples.insert(place, (asked_at, round_trip));
    }

    /// The median round trip, and what its losses count as.
    fn cost(&self) -> Option<Duration> {
        let mut round_trips: Vec<Duration> = self.samples.iter().filter_map(|(_, round_trip)| *round_trip).collect();
        if round_trips.len() < SAMPLES_MIN {
            return None;
        }
        round_trips.sort_unstable();
        let lost = self.losses();
        let loss = if lost < 2 { Duration::ZERO } else { LOSS_COST * lost as u32 / self.samples.len() as u32 };
        Some(round_trips[round_trips.len() / 2] + loss)
    }

    /// How often something was lost. Checks lost in a row are one time: that a pair was gone for a while is for ICE to notice, and says nothing of how
    /// it is now that it answers again.
    fn losses(&self) -> usize {
        let is_lost = || self.samples.iter().map(|(_, round_trip)| round_trip.is_none());
        let before = std::iter::once(false).chain(is_lost());
        is_lost().zip(before).filter(|(is_lost, was_lost)| *is_lost && !was_lost).count()
    }

    /// Whether an earlier check than that of this time was answered.
    fn had_answered(&self, asked_at: Instant) -> bool {
        self.samples.front().is_some_and(|(first, _)| *first < asked_at)
    }

    fn works(&self, now: Instant) -> bool {
        self.answered_at.is_some_and(|at| now.saturating_duration_since(at) < WORKS_FOR)
    }
}

/// All pairs of one call.
#[derive(Debug, Default)]
pub(super) struct Pairs {
    measured: BTreeMap<Pair, Measured>,
    waiting: VecDeque<(CheckId, Pair, Instant)>,
    /// Which pair has been better than the one in use, and since when.
    better: Option<(Pair, Instant)>,
}

impl Pairs {
    /// A check has left.
    pub(super) fn asked(&mut self, id: CheckId, pair: Pair, now: Instant) {
        self.give_up(now);
        if self.waiting.len() >= CHECKS_MAX {
            self.waiting.pop_front();
        }
        self.waiting.push_back((id, pair, now));
    }

    /// The answer to a check came, by which the engine has been convinced.
    pub(super) fn answered(&mut self, id: CheckId, pair: Pair, now: Instant) {
        let Some(place) = self.waiting.iter().position(|(asked, over, _)| (*asked, *over) == (id, pair)) else { return };
        let Some((_, _, asked_at)) = self.waiting.remove(place) else { return };
        if self.measured.len() >= PAIRS_MAX && !self.measured.contains_key(&pair) {
            self.measured.retain(|_, measured| measured.works(now));
        }
        if self.measured.len() < PAIRS_MAX || self.measured.contains_key(&pair) {
            let measured = self.measured.entry(pair).or_default();
            measured.answered_at = Some(now);
            measured.note(asked_at, Some(now.saturating_duration_since(asked_at)));
        }
    }

    fn give_up(&mut self, now: Instant) {
        while let Some((_, pair, asked_at)) = self.waiting.front().copied() {
            if now.saturating_duration_since(asked_at) < LOST_AFTER {
                break;
            }
            self.waiting.pop_front();
            // One that had never answered has nothing to lose: routers weren't open yet.
            if let Some(measured) = self.measured.get_mut(&pair).filter(|measured| measured.had_answered(asked_at)) {
                measured.note(asked_at, None);
            }
        }
    }

    /// An address at either end is given up.
    pub(super) fn forget(&mut self, address: SocketAddr) {
        self.measured.retain(|(local, remote), _| *local != address && *remote != address);
        self.better = self.better.filter(|((local, remote), _)| *local != address && *remote != address);
    }

    /// Whether a pair has answered lately.
    pub(super) fn works(&self, pair: &Pair, now: Instant) -> bool {
        self.measured.get(pair).is_some_and(|measured| measured.works(now))
    }

    /// The pair to use instead of the `current` one, if one has been better for long enough.
    pub(super) fn choose(&mut self, current: Pair, is_relayed: impl Fn(&Pair) -> bool, now: Instant) -> Option<Pair> {
        self.give_up(now);
        let current_cost = self.measured.get(&current).filter(|measured| measured.works(now)).and_then(Measured::cost);
        let Some(current_cost) = current_cost else {
            // What doesn't work at all is ICE's to notice.
            self.better = None;
            return None;
        };
        let is_direct = !is_relayed(&current);
        let better_by = |pair: &Pair| {
            let for_relay = if is_direct && is_relayed(pair) { RELAY_MARGIN } else { Duration::ZERO };
            MARGIN.max(current_cost / 4) + for_relay
        };
        let working = self.measured.iter().filter(|(pair, measured)| **pair != current && measured.works(now));
        let costs = working.filter_map(|(pair, measured)| Some((measured.cost()?, *pair)));
        let best = costs.filter(|(cost, pair)| *cost + better_by(pair) < current_cost).min().map(|(_, pair)| pair);
        let Some(best) = best else {
            self.better = None;
            return None;
        };
        match self.better {
            Some((pair, since)) if pair == best => {
                if now.saturating_duration_since(since) < SUSTAINED {
                    return None;
                }
                self.better = None;
                Some(best)
            }
            _ => {
                self.better = Some((best, now));
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(number: u16) -> Pair {
        (SocketAddr::from(([192, 0, 2, 1], number)), SocketAddr::from(([198, 51, 100, 1], number)))
    }

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// Checks each pair once a second; each has a round trip, or isn't answered. What is chosen in the end, and after how many seconds.
    struct Run {
        pairs: Pairs,
        now: Instant,
        checks: u64,
        current: Pair,
    }

    impl Run {
        fn new() -> Self {
            Self { pairs: Pairs::default(), now: Instant::now(), checks: 0, current: pair(1) }
        }

        fn seconds(&mut self, seconds: u64, trips: &[(u16, Option<u64>)]) -> Option<u64> {
            let mut changed_after = None;
            for second in 0..seconds {
                for (number, trip) in trips {
                    self.checks += 1;
                    let mut id = [0; 12];
                    id[..8].copy_from_slice(&self.checks.to_le_bytes());
                    self.pairs.asked(id, pair(*number), self.now);
                    if let Some(trip) = trip {
                        self.pairs.answered(id, pair(*number), self.now + ms(*trip));
                    }
                }
                self.now += ms(1_000);
                // Ports from 100 on are relayed pairs.
                if let Some(chosen) = self.pairs.choose(self.current, |(local, _)| local.port() >= 100, self.now) {
                    self.current = chosen;
                    changed_after.get_or_insert(second + 1);
                }
            }
            changed_after
        }
    }

    #[test]
    fn the_better_pair_is_taken_once_it_has_been_so_for_a_while() {
        let mut run = Run::new();
        assert_eq!(run.seconds(20, &[(1, Some(150)), (2, Some(40))]), Some(8));
        assert_eq!(run.current, pair(2));
        // And left again when it gets worse.
        assert!(run.seconds(30, &[(1, Some(60)), (2, Some(200))]).is_some());
        assert_eq!(run.current, pair(1));
    }

    #[test]
    fn little_differences_and_moments_change_nothing() {
        let mut run = Run::new();
        assert_eq!(run.seconds(30, &[(1, Some(50)), (2, Some(35))]), None);
        assert_eq!(run.seconds(2, &[(1, Some(900)), (2, Some(35))]), None);
        assert_eq!(run.seconds(30, &[(1, Some(50)), (2, Some(35))]), None);
        assert_eq!(run.seconds(1, &[(1, None), (2, Some(35))]), None);
        assert_eq!(run.seconds(30, &[(1, Some(50)), (2, Some(35))]), None);
    }

    #[test]
    fn a_relay_has_to_be_better_by_more() {
        let mut run = Run::new();
        assert_eq!(run.seconds(30, &[(1, Some(80)), (100, Some(40))]), None);
        assert!(run.seconds(60, &[(1, Some(200)), (100, Some(40))]).is_some());
        assert_eq!(run.current, pair(100));
        assert!(run.seconds(60, &[(1, Some(10)), (100, Some(40))]).is_some());
        assert_eq!(run.current, pair(1));
    }

    #[test]
    fn a_pair_that_was_gone_for_a_moment_is_not_left_for_it_afterwards() {
        let mut run = Run::new();
        // The first check came before the other end's router was open.
        run.seconds(1, &[(1, None), (100, Some(6))]);
        run.seconds(10, &[(1, Some(5)), (100, Some(6))]);
        run.seconds(3, &[(1, None), (100, Some(6))]);
        assert_eq!(run.seconds(30, &[(1, Some(5)), (100, Some(6))]), None);
        assert_eq!(run.current, pair(1));
    }

    #[test]
    fn what_loses_is_left_and_what_is_silent_is_not_chosen() {
        let mut run = Run::new();
        for _ in 0..10 {
            run.seconds(1, &[(1, Some(40)), (2, Some(45)), (3, None)]);
            run.seconds(1, &[(1, None), (2, Some(45)), (3, None)]);
        }
        assert_eq!(run.current, pair(2));
        // Another that was good and doesn't answer any more.
        run.seconds(10, &[(2, Some(200)), (4, Some(10))]);
        let current = run.current;
        run.pairs.better = None;
        run.seconds(10, &[(2, Some(200)), (4, None)]);
        assert!(run.current == current || run.current == pair(4));
        assert!(!run.pairs.works(&pair(4), run.now) && run.pairs.works(&pair(2), run.now));
    }

    #[test]
    fn no_more_is_kept_than_said() {
        let (mut pairs, now) = (Pairs::default(), Instant::now());
        for number in 0..2_000_u16 {
            let mut id = [0; 12];
            id[..2].copy_from_slice(&number.to_le_bytes());
            pairs.asked(id, pair(number), now);
            if number.is_multiple_of(2) {
                pairs.answered(id, pair(number), now);
            }
        }
        assert!(pairs.measured.len() <= PAIRS_MAX && pairs.waiting.len() <= CHECKS_MAX);
    }
}
