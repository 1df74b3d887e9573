//! Limits: how much one source address may cause the relay to do.
//!
//! [`SourceRates`] remembers, for as many addresses as its table has places, until when each has used up its share. The
//! table is made once and never grows, so a flood of forged addresses costs no memory. When places run out, the address
//! that has used least gives way, so one that is being flooded stays as long as others are flooded less.
//!
//! Nothing here reads the clock: `now` comes with every question. The key of the hash comes from outside as well; it has
//! to be secret, or a sender could choose addresses that share a place.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;

use crate::time::Moment;

/// Places an address may be found in. Four reads of 32 bytes are two cache lines.
const WAYS: usize = 4;

/// An IPv6 subscriber has at least a /64, all of which it can send from (RFC 6177): the lower half says nothing.
const IPV6_SUBSCRIBER_MASK: u128 = !(u64::MAX as u128);

/// How often one source address may be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimit {
    /// Responses a second, in the long run. Zero counts as one.
    pub per_sec: u32,
    /// Responses at once after a pause. Zero counts as one.
    pub burst: u32,
}

impl RateLimit {
    fn interval_nanos(self) -> u64 {
        1_000_000_000 / u64::from(self.per_sec.max(1))
    }

    /// How far ahead of now an address may have used its share and still be answered.
    fn tolerance_nanos(self) -> u64 {
        self.interval_nanos() * u64::from(self.burst.max(1) - 1)
    }
}

/// One remembered address.
#[derive(Debug, Clone, Copy, Default)]
struct Place {
    source: u128,
    /// When the address has earned again all it used, in nanoseconds since the relay began. Past: forgotten.
    used_until: u64,
}

/// Bounded table of source addresses and the share each has used (a generic cell rate algorithm for each).
///
/// IPv4 addresses count one by one, IPv6 addresses by their /64.
#[derive(Debug)]
pub struct SourceRates {
    limit: RateLimit,
    sets: Box<[[Place; WAYS]]>,
    hasher: RandomState,
}

impl SourceRates {
    /// A table for about `sources_max` addresses, rounded up to a multiple of four. Allocates here and never again.
    #[must_use]
    pub fn new(limit: RateLimit, sources_max: u32, hasher: RandomState) -> Self {
        let sets = (sources_max as usize).div_ceil(WAYS).max(1);
        Self { limit, sets: vec![[Place::default(); WAYS]; sets].into_boxed_slice(), hasher }
    }

    /// Whether this address may have one more response now; if so, it is counted.
    pub(crate) fn try_take_at(&mut self, source: IpAddr, now: Moment) -> bool {
        let source = subscriber(source);
        let now = now.nanos();
        let limit = self.limit;
        let place = self.place(source);
        if place.source != source {
            *place = Place { source, used_until: now };
        }
        let used_until = place.used_until.max(now);
        if used_until - now > limit.tolerance_nanos() {
            return false;
        }
        place.used_until = used_until.saturating_add(limit.interval_nanos());
        true
    }

    /// Addresses the table has room for.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.sets.len() * WAYS
    }

    /// The address's own place, else the one whose holder has used least.
    fn place(&mut self, source: u128) -> &mut Place {
        let index = self.hasher.hash_one(source) as usize % self.sets.len();
        let set = &mut self.sets[index];
        let way = set.iter().position(|place| place.source == source).unwrap_or_else(|| {
            let least_used = (0..WAYS).min_by_key(|way| set[*way].used_until);
            least_used.unwrap_or_default()
        });
        &mut set[way]
    }
}

fn subscriber(source: IpAddr) -> u128 {
    match source.to_canonical() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().to_bits(),
        IpAddr::V6(ip) => ip.to_bits() & IPV6_SUBSCRIBER_MASK,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const LIMIT: RateLimit = RateLimit { per_sec: 10, burst: 5 };

    fn rates(sources_max: u32) -> (SourceRates, Moment) {
        (SourceRates::new(LIMIT, sources_max, RandomState::new()), Moment::default())
    }

    fn taken(rates: &mut SourceRates, source: &str, tries: usize, now: Moment) -> usize {
        let source = source.parse().expect("a literal address");
        (0..tries).filter(|_| rates.try_take_at(source, now)).count()
    }

    #[test]
    fn grants_the_burst_then_the_rate() {
        let (mut rates, now) = rates(64);
        assert_eq!(taken(&mut rates, "192.0.2.1", 100, now), 5);
        assert_eq!(taken(&mut rates, "192.0.2.1", 100, now.after(Duration::from_millis(100))), 1);
        assert_eq!(taken(&mut rates, "192.0.2.1", 100, now.after(Duration::from_millis(400))), 3);
        assert_eq!(
            taken(&mut rates, "192.0.2.1", 100, now.after(Duration::from_secs(3600))),
            5,
            "a pause earns the burst, no more"
        );
    }

    #[test]
    fn addresses_have_shares_of_their_own() {
        let (mut rates, now) = rates(64);
        assert_eq!(taken(&mut rates, "192.0.2.1", 9, now), 5);
        assert_eq!(taken(&mut rates, "192.0.2.2", 9, now), 5);
        assert_eq!(taken(&mut rates, "2001:db8::1", 9, now), 5);
    }

    #[test]
    fn one_ipv6_network_has_one_share_and_mapped_ipv4_is_ipv4() {
        let (mut rates, now) = rates(64);
        assert_eq!(taken(&mut rates, "2001:db8::1", 3, now), 3);
        assert_eq!(taken(&mut rates, "2001:db8::ffff:1", 9, now), 2);
        assert_eq!(taken(&mut rates, "192.0.2.1", 3, now), 3);
        assert_eq!(taken(&mut rates, "::ffff:192.0.2.1", 9, now), 2);
    }

    #[test]
    fn a_flood_of_forged_sources_takes_no_memory_and_frees_no_victim() {
        let (mut rates, now) = rates(16);
        assert_eq!(taken(&mut rates, "192.0.2.1", 100, now), 5);
        for forged in 0..10_000_u32 {
            rates.try_take_at(IpAddr::V4((0x0A00_0000 + forged).into()), now);
        }
        assert_eq!(rates.capacity(), 16);
        assert_eq!(taken(&mut rates, "192.0.2.1", 100, now), 0, "the victim's share stays used");
    }

    #[test]
    fn zero_limits_still_work() {
        let now = Moment::default();
        let mut rates = SourceRates::new(RateLimit { per_sec: 0, burst: 0 }, 0, RandomState::new());
        assert_eq!(taken(&mut rates, "192.0.2.1", 9, now), 1);
        assert_eq!(taken(&mut rates, "192.0.2.1", 9, now.after(Duration::from_secs(1))), 1);
    }
}
