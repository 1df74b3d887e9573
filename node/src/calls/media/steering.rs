//! Over which of the pairs that work media go, and that a relayed call becomes a direct one as soon as it can.
//!
//! The engine nominates by the kind of path, and forgets a pair that has failed. So here is what it lacks: [`Pairs`] says which pair is best, and media
//! are sent there; the engine's own nomination stays what it is, and is gone back to when that pair falls silent. While nothing but a relay works,
//! direct pairs are formed anew from time to time, at both ends.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use str0m::{Candidate, CandidateKind};

use super::{
    MediaError,
    candidates::PathKind,
    pairs::{CheckId, Pair, Pairs},
    transport::Transport,
};

/// How often it is looked which pair is best.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Packets that come over another pair until media are sent there too: 200 ms.
const FOLLOW_AFTER: u32 = 10;
/// When direct pairs are formed anew, first and at most: those before take 9 s to fail, and both ends' tries have to meet.
const DIRECT_FIRST: Duration = Duration::from_secs(10);
const DIRECT_MAX: Duration = Duration::from_secs(30);
/// The same after something has changed at either end.
const DIRECT_SOON: Duration = Duration::from_secs(2);

/// First two bytes of a check and of the answer to one (RFC 8489 section 5).
const CHECK: [u8; 2] = [0x00, 0x01];
const ANSWER: [u8; 2] = [0x01, 0x01];

/// What this end knows of pairs, and has decided.
#[derive(Debug)]
pub(super) struct Steering {
    pairs: Pairs,
    /// Whether this end decides: it has made the offer.
    pub(super) decides: bool,
    /// What the engine has nominated.
    pub(super) nominated: Option<Pair>,
    /// The pair used instead.
    instead: Option<Pair>,
    /// The pair over which media come that isn't the one they are sent over, and how many packets have in a row.
    elsewhere: Option<(Pair, u32)>,
    look_at: Instant,
    direct_at: Option<Instant>,
    direct_after: Duration,
}

impl Steering {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            pairs: Pairs::default(),
            decides: false,
            nominated: None,
            instead: None,
            elsewhere: None,
            look_at: now + LOOK_EVERY,
            direct_at: None,
            direct_after: DIRECT_FIRST,
        }
    }

    /// A datagram of the engine's is about to leave: over which pair.
    pub(super) fn route(&mut self, datagram: &[u8], pair: Pair, now: Instant) -> Pair {
        match check_id(datagram, CHECK) {
            Some(id) => self.pairs.asked(id, pair, now),
            None if !super::engine::is_stun(datagram) => {
                if self.nominated != Some(pair) {
                    // The engine has found something better, or lost what it had.
                    self.nominated = Some(pair);
                    self.instead = None;
                }
                return self.instead.unwrap_or(pair);
            }
            None => {}
        }
        pair
    }

    /// A datagram of the other end's came.
    pub(super) fn heard(&mut self, datagram: &[u8], pair: Pair, now: Instant) {
        if let Some(id) = check_id(datagram, ANSWER) {
            self.pairs.answered(id, pair, now);
        }
    }

    /// Media came over a pair; whether that is one over which they are meant to.
    pub(super) fn follow(&mut self, pair: Pair, used: Pair, now: Instant) -> bool {
        if pair == used {
            self.elsewhere = None;
            return true;
        }
        if self.decides {
            // The other end follows, or does as the engine has told it.
            return self.nominated == Some(pair);
        }
        let count = self.elsewhere.filter(|(known, _)| *known == pair).map_or(1, |(_, count)| count + 1);
        self.elsewhere = Some((pair, count));
        if count < FOLLOW_AFTER || !self.pairs.works(&pair, now) {
            return false;
        }
        self.instead = Some(pair).filter(|pair| self.nominated != Some(*pair));
        self.elsewhere = None;
        true
    }

    /// An address at either end is given up: nothing goes over it from now on but what the engine sends there.
    pub(super) fn leave(&mut self, address: SocketAddr) {
        self.pairs.forget(address);
        self.instead = self.instead.filter(|(local, remote)| *local != address && *remote != address);
    }

    /// The path is in doubt: the engine finds what works.
    pub(super) fn doubt(&mut self) {
        self.instead = None;
    }

    /// Something has changed at either end: a direct path may be there now.
    pub(super) fn expect_change(&mut self, now: Instant) {
        self.direct_after = DIRECT_FIRST;
        if let Some(at) = &mut self.direct_at {
            *at = (*at).min(now + DIRECT_SOON);
        }
    }

    pub(super) fn wake_at(&self) -> Option<Instant> {
        let look_at = self.nominated.map(|_| self.look_at);
        [look_at, self.direct_at].into_iter().flatten().min()
    }

    /// The pair that is used instead of the nominated one, after another look.
    fn look(&mut self, is_relayed: impl Fn(&Pair) -> bool, now: Instant) -> Option<Pair> {
        self.look_at = now + LOOK_EVERY;
        if self.instead.is_some_and(|pair| !self.pairs.works(&pair, now)) {
            self.instead = None;
        }
        let current = self.instead.or(self.nominated)?;
        if self.decides
            && let Some(better) = self.pairs.choose(current, is_relayed, now)
        {
            tracing::debug!(?current, ?better, "a better pair");
            self.instead = Some(better).filter(|better| self.nominated != Some(*better));
        }
        self.instead.or(self.nominated)
    }

    /// Whether direct pairs are to be formed anew, as nothing else works.
    fn is_direct_due(&mut self, is_relayed: bool, now: Instant) -> bool {
        if !is_relayed {
            (self.direct_at, self.direct_after) = (None, DIRECT_FIRST);
            return false;
        }
        let at = *self.direct_at.get_or_insert(now + self.direct_after);
        if at > now {
            return false;
        }
        self.direct_after = (self.direct_after * 2).min(DIRECT_MAX);
        self.direct_at = Some(now + self.direct_after);
        true
    }
}

impl Transport {
    /// Looks whether media should go another way. Due at [`Steering::wake_at`].
    pub(super) fn steer(&mut self, now: Instant) -> Result<(), MediaError> {
        if self.steering.wake_at().is_none_or(|at| at > now) {
            return Ok(());
        }
        let mut steering = std::mem::replace(&mut self.steering, Steering::new(now));
        let is_relayed = |pair: &Pair| self.kind_of(*pair) == PathKind::Relayed;
        let used = steering.look(is_relayed, now);
        let is_direct_due = steering.nominated.is_some_and(|pair| steering.is_direct_due(is_relayed(&pair), now));
        self.steering = steering;
        if let Some((local, remote)) = used {
            self.note_path(local, remote);
        }
        if is_direct_due && !self.relayed_only { self.try_direct() } else { Ok(()) }
    }

    /// Forms direct pairs anew, all that don't belong to the path in use.
    fn try_direct(&mut self) -> Result<(), MediaError> {
        let Some((local, remote)) = self.steering.nominated else { return Ok(()) };
        tracing::debug!("looks for a direct path");
        let is_other = |candidate: &&Candidate| candidate.kind() != CandidateKind::Relayed && candidate.addr() != local;
        if self.is_relayed_address(local) {
            for candidate in self.local_candidates.iter().filter(is_other).cloned().collect::<Vec<_>>() {
                self.rtc.direct_api().invalidate_candidate(&candidate);
                self.drain()?;
                self.rtc.add_local_candidate(candidate);
                self.drain()?;
            }
        } else {
            for candidate in
                self.remote_candidates.not_relayed().filter(|candidate| candidate.addr() != remote).cloned().collect::<Vec<_>>()
            {
                self.rtc.direct_api().invalidate_candidate(&candidate);
                self.drain()?;
                self.rtc.add_remote_candidate(candidate);
                self.drain()?;
            }
        }
        Ok(())
    }
}

fn check_id(datagram: &[u8], kind: [u8; 2]) -> Option<CheckId> {
    if !datagram.starts_with(&kind) {
        return None;
    }
    datagram.get(8..20)?.try_into().ok()
}

/// A pair as a datagram that came shows it.
pub(super) const fn arrived((source, destination): (SocketAddr, SocketAddr)) -> Pair {
    (destination, source)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(number: u16) -> Pair {
        (SocketAddr::from(([192, 0, 2, 1], number)), SocketAddr::from(([198, 51, 100, 1], number)))
    }

    fn check(kind: [u8; 2], id: u8) -> Vec<u8> {
        [&kind[..], &[0, 0, 0x21, 0x12, 0xA4, 0x42], &[id; 12]].concat()
    }

    /// A check over a pair, answered.
    fn answered(steering: &mut Steering, number: u16, id: u8, now: Instant, after: u64) {
        assert_eq!(steering.route(&check(CHECK, id), pair(number), now), pair(number), "checks go where they are sent");
        steering.heard(&check(ANSWER, id), pair(number), now + Duration::from_millis(after));
    }

    const MEDIA: &[u8] = &[0x80, 111];

    #[test]
    fn who_decides_moves_and_the_other_follows() {
        let start = Instant::now();
        let (mut decides, mut follows) = (Steering::new(start), Steering::new(start));
        decides.decides = true;
        let mut now = start;
        let mut sent_over = pair(1);
        for second in 0..12 {
            for steering in [&mut decides, &mut follows] {
                answered(steering, 1, second * 2, now, 150);
                answered(steering, 2, second * 2 + 1, now, 30);
            }
            now += Duration::from_secs(1);
            sent_over = decides.route(MEDIA, pair(1), now);
            decides.look(|_| false, now);
        }
        assert_eq!(sent_over, pair(2));
        assert_eq!(follows.route(MEDIA, pair(1), now), pair(1));
        for packet in 1..=FOLLOW_AFTER {
            assert_eq!(follows.follow(pair(2), pair(1), now), packet == FOLLOW_AFTER);
        }
        assert_eq!(follows.route(MEDIA, pair(1), now), pair(2));
        // Who decides isn't moved by what the other does, nor in doubt where it follows the engine.
        assert!(decides.follow(pair(1), pair(2), now));
        assert_eq!(decides.route(MEDIA, pair(1), now), pair(2));
        // The pair falls silent: back to what the engine has.
        now += Duration::from_secs(5);
        for steering in [&mut decides, &mut follows] {
            steering.look(|_| false, now);
            assert_eq!(steering.route(MEDIA, pair(1), now), pair(1));
        }
    }

    #[test]
    fn nobody_is_followed_to_where_nothing_answers() {
        let now = Instant::now();
        let mut steering = Steering::new(now);
        steering.route(MEDIA, pair(1), now);
        for _ in 0..100 {
            assert!(!steering.follow(pair(2), pair(1), now));
        }
        assert_eq!(steering.route(MEDIA, pair(1), now), pair(1));
    }

    #[test]
    fn a_new_nomination_counts() {
        let now = Instant::now();
        let mut steering = Steering::new(now);
        answered(&mut steering, 2, 1, now, 10);
        steering.route(MEDIA, pair(1), now);
        (0..FOLLOW_AFTER).for_each(|_| _ = steering.follow(pair(2), pair(1), now));
        assert_eq!(steering.route(MEDIA, pair(1), now), pair(2));
        assert_eq!(steering.route(MEDIA, pair(3), now), pair(3));
    }

    #[test]
    fn an_address_that_is_given_up_is_left_at_once() {
        let now = Instant::now();
        let mut steering = Steering::new(now);
        answered(&mut steering, 2, 1, now, 10);
        steering.route(MEDIA, pair(1), now);
        (0..FOLLOW_AFTER).for_each(|_| _ = steering.follow(pair(2), pair(1), now));
        steering.leave(pair(3).0);
        assert_eq!(steering.route(MEDIA, pair(1), now), pair(2));
        steering.leave(pair(2).1);
        assert_eq!(steering.route(MEDIA, pair(1), now), pair(1));
        assert!(!steering.pairs.works(&pair(2), now));
    }

    #[test]
    fn a_direct_path_is_looked_for_as_long_as_there_is_none() {
        let start = Instant::now();
        let mut steering = Steering::new(start);
        let mut tries = Vec::new();
        for second in 0..120 {
            if steering.is_direct_due(true, start + Duration::from_secs(second)) {
                tries.push(second);
            }
        }
        assert_eq!(tries, [10, 30, 60, 90]);
        steering.expect_change(start + Duration::from_secs(119));
        assert!(!steering.is_direct_due(true, start + Duration::from_secs(119)));
        assert!(steering.is_direct_due(true, start + Duration::from_secs(121)));
        assert!(!steering.is_direct_due(false, start + Duration::from_secs(200)));
        assert_eq!(steering.direct_at, None);
    }
}
