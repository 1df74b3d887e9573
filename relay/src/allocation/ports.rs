//! Which relayed ports are free, and which are kept for somebody who asked for two in a row (RFC 8656 section 7.2, EVEN-PORT).
//!
//! One bit a port and family; shared by all threads of a relay. A port that is kept for somebody is held by a bound socket, too: other
//! programs of the machine know nothing of the bits.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::{Rng, RngExt};

use super::Family;
use crate::packet::HeldPort;
use crate::time::Moment;

/// How long the second of two ports is kept for whoever shows its token: the RFC's least (section 7.2).
pub(crate) const RESERVATION_LIFETIME: Duration = Duration::from_secs(30);

/// Reservations at a time. Each is a port as well, and belongs to an allocation made within the last 30 s.
const RESERVATIONS_MAX: usize = 1_024;

/// Reservations of one user at a time, which would otherwise grow by allocating and giving back.
const RESERVATIONS_PER_USER_MAX: usize = 8;

/// Ports of sockets that wait for their user, of all threads: at most so many, and at most one of so many.
const SPARES_MAX: u32 = 256;
const SPARES_PART: u32 = 64;

/// What a port is wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    Any,
    Even,
    /// Even, and the next one kept.
    Pair,
}

/// A port kept for the bearer of a token, who must be the same user.
#[derive(Debug)]
struct Reservation {
    token: [u8; 8],
    user: Box<str>,
    family: Family,
    port: u16,
    held: HeldPort,
    expires: Moment,
}

/// The relayed ports of one relay.
#[derive(Debug)]
pub(crate) struct Ports {
    first: u16,
    last: u16,
    spares: AtomicU32,
    taken: Mutex<Taken>,
}

#[derive(Debug)]
struct Taken {
    bits: [Box<[u64]>; 2],
    reservations: Vec<Reservation>,
}

impl Taken {
    fn is_taken(&self, family: Family, port: u16) -> bool {
        self.bits[family.index()][usize::from(port >> 6)] >> (port & 63) & 1 == 1
    }

    fn set(&mut self, family: Family, port: u16, taken: bool) {
        let word = &mut self.bits[family.index()][usize::from(port >> 6)];
        *word = *word & !(1 << (port & 63)) | u64::from(taken) << (port & 63);
    }

    fn forget_expired(&mut self, now: Moment) {
        let (expired, kept) = std::mem::take(&mut self.reservations).into_iter().partition(|held| held.expires <= now);
        self.reservations = kept;
        let expired: Vec<Reservation> = expired;
        for held in expired {
            self.set(held.family, held.port, false);
        }
    }
}

impl Ports {
    /// All of `first` to `last` are free.
    pub(crate) fn new(first: u16, last: u16) -> Self {
        let bits = || vec![0; 1 << 10].into_boxed_slice();
        let taken = Mutex::new(Taken { bits: [bits(), bits()], reservations: Vec::new() });
        Self { first, last: last.max(first), spares: AtomicU32::new(0), taken }
    }

    /// Whether it is one of the relayed ports, free or not.
    pub(crate) fn contain(&self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }

    /// Takes a free port. Starts at a random one, as a port that can be guessed is half of a forged packet (RFC 6056).
    pub(crate) fn take(&self, family: Family, wanted: Wanted, now: Moment, rng: &mut impl Rng) -> Option<u16> {
        let mut taken = self.lock();
        taken.forget_expired(now);
        let count = u32::from(self.last - self.first) + 1;
        let start = rng.random_range(0..count);
        let port = (0..count).map(|step| self.first + ((start + step) % count) as u16).find(|&port| match wanted {
            Wanted::Any => !taken.is_taken(family, port),
            Wanted::Even => port % 2 == 0 && !taken.is_taken(family, port),
            Wanted::Pair => {
                port % 2 == 0 && port < self.last && !taken.is_taken(family, port) && !taken.is_taken(family, port + 1)
            }
        })?;
        taken.set(family, port, true);
        if wanted == Wanted::Pair {
            taken.set(family, port + 1, true);
        }
        Some(port)
    }

    /// Gives back ports whose reservations have run out. Says when the next one does.
    pub(crate) fn forget_expired(&self, now: Moment) -> Option<Moment> {
        let mut taken = self.lock();
        taken.forget_expired(now);
        taken.reservations.iter().map(|held| held.expires).min()
    }

    /// Whether a port may stay taken for a socket that waits for its user. If so, [`end_spare`](Self::end_spare) has to follow.
    pub(crate) fn try_begin_spare(&self) -> bool {
        let max = SPARES_MAX.min((u32::from(self.last - self.first) + 1) / SPARES_PART);
        self.spares.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |spares| (spares < max).then_some(spares + 1)).is_ok()
    }

    /// A socket no longer waits.
    pub(crate) fn end_spare(&self) {
        self.spares.fetch_sub(1, Ordering::Relaxed);
    }

    /// Gives a port back.
    pub(crate) fn give_back(&self, family: Family, port: u16) {
        self.lock().set(family, port, false);
    }

    /// Keeps a port, the second of two that were taken as [`Wanted::Pair`], for whoever of this user shows the token.
    pub(crate) fn reserve(
        &self,
        (family, port): (Family, u16),
        held: HeldPort,
        user: &str,
        now: Moment,
        rng: &mut impl Rng,
    ) -> Option<[u8; 8]> {
        let mut taken = self.lock();
        let of_user = taken.reservations.iter().filter(|held| *held.user == *user).count();
        if taken.reservations.len() >= RESERVATIONS_MAX || of_user >= RESERVATIONS_PER_USER_MAX {
            return None;
        }
        let token = rng.random();
        let expires = now.after(RESERVATION_LIFETIME);
        taken.reservations.push(Reservation { token, user: user.into(), family, port, held, expires });
        Some(token)
    }

    /// Takes the port that was kept under this token for this user. A token is good once.
    pub(crate) fn redeem(&self, token: [u8; 8], user: &str, now: Moment) -> Option<(Family, u16, HeldPort)> {
        let mut taken = self.lock();
        taken.forget_expired(now);
        let index = taken.reservations.iter().position(|held| held.token == token && *held.user == *user)?;
        let held = taken.reservations.swap_remove(index);
        Some((held.family, held.port, held.held))
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        // Every change is one assignment.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    const NOW: Moment = Moment::NEVER;

    fn rng() -> StdRng {
        StdRng::from_seed([7; 32])
    }

    #[test]
    fn every_port_is_given_once_and_again_after_it_came_back() {
        let (ports, mut rng) = (Ports::new(50_000, 50_063), rng());
        let mut given: HashSet<_> = (0..64).map(|_| ports.take(Family::V4, Wanted::Any, NOW, &mut rng).unwrap()).collect();
        assert_eq!((given.len(), ports.take(Family::V4, Wanted::Any, NOW, &mut rng)), (64, None));
        assert!(ports.take(Family::V6, Wanted::Any, NOW, &mut rng).is_some(), "families don't share");
        let back = given.drain().next().unwrap();
        ports.give_back(Family::V4, back);
        assert_eq!(ports.take(Family::V4, Wanted::Any, NOW, &mut rng), Some(back));
    }

    fn redeem(ports: &Ports, token: [u8; 8], user: &str, now: Moment) -> Option<(Family, u16)> {
        ports.redeem(token, user, now).map(|(family, port, _)| (family, port))
    }

    #[test]
    fn even_ports_are_even_and_the_next_is_kept_for_its_user() {
        let (ports, mut rng, now) = (Ports::new(50_001, 50_005), rng(), Moment::default());
        let even = ports.take(Family::V4, Wanted::Pair, now, &mut rng).unwrap();
        assert_eq!(even % 2, 0);
        let token = ports.reserve((Family::V4, even + 1), HeldPort::new(()), "bob", now, &mut rng).unwrap();
        assert_eq!(redeem(&ports, token, "eve", now), None);
        assert_eq!(redeem(&ports, [0; 8], "bob", now), None);
        assert_eq!(redeem(&ports, token, "bob", now), Some((Family::V4, even + 1)));
        assert_eq!(redeem(&ports, token, "bob", now), None, "good once");
        assert!(ports.take(Family::V4, Wanted::Even, now, &mut rng).is_some());
        assert_eq!(ports.take(Family::V4, Wanted::Even, now, &mut rng), None, "only two are even");
    }

    #[test]
    fn a_user_keeps_few_ports() {
        let (ports, mut rng, now) = (Ports::new(50_000, 50_999), rng(), Moment::default());
        let mut reserve = |user: &str| {
            let even = ports.take(Family::V4, Wanted::Pair, now, &mut rng).unwrap();
            ports.reserve((Family::V4, even + 1), HeldPort::new(()), user, now, &mut rng).is_some()
        };
        assert_eq!((0..20).filter(|_| reserve("bob")).count(), RESERVATIONS_PER_USER_MAX);
        assert!(reserve("ann"));
    }

    #[test]
    fn a_kept_port_is_free_again_after_its_time() {
        let (ports, mut rng, now) = (Ports::new(50_000, 50_001), rng(), Moment::default());
        let even = ports.take(Family::V4, Wanted::Pair, now, &mut rng).unwrap();
        let holder = std::sync::Arc::new(());
        let held = HeldPort::new(std::sync::Arc::clone(&holder));
        let token = ports.reserve((Family::V4, even + 1), held, "bob", now, &mut rng).unwrap();
        assert_eq!(ports.take(Family::V4, Wanted::Any, now, &mut rng), None);
        let later = now.after(RESERVATION_LIFETIME);
        assert_eq!(ports.forget_expired(now), Some(later));
        assert_eq!(std::sync::Arc::strong_count(&holder), 2, "held until then");
        assert_eq!(ports.forget_expired(later), None);
        assert_eq!(std::sync::Arc::strong_count(&holder), 1, "and not longer");
        assert_eq!(ports.take(Family::V4, Wanted::Any, later, &mut rng), Some(50_001));
        assert_eq!(redeem(&ports, token, "bob", later), None);
    }
}
