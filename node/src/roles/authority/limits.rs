//! Whom an authority enrols, and how many.
//!
//! Open enrolment would let one machine take every name worth having in an afternoon, so names given without an invite are limited per
//! network and in total. Requests as such are limited too, for each costs a signature check and may cost a commit.

use std::collections::HashMap;
use std::net::IpAddr;

use halloo_protocol::time::UnixTime;

/// Networks counted at once in one window; beyond, unknown ones are refused until the window ends.
const NETWORKS_MAX: usize = 10_000;

const MINUTE_SECS: u64 = 60;
const HOUR_SECS: u64 = 3_600;

/// Addresses that likely belong to one party: an IPv4 /24 or an IPv6 /48.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NetworkGroup([u8; 6]);

impl NetworkGroup {
    /// The group of an address; `None` for loopback, where everything is one party anyway and belongs to the operator.
    #[must_use]
    pub fn of(address: IpAddr) -> Option<Self> {
        let address = address.to_canonical();
        if address.is_loopback() {
            return None;
        }
        Some(Self(match address {
            IpAddr::V4(ip) => {
                let [a, b, c, _] = ip.octets();
                // Under ::ffff:0:0/96 no IPv6 /48 is in use, so the two can't be confused.
                [0xff, 0xff, 0xff, a, b, c]
            }
            IpAddr::V6(ip) => {
                let [a, b, c, d, e, f, ..] = ip.octets();
                [a, b, c, d, e, f]
            }
        }))
    }
}

/// Whom an authority enrols.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AuthorityPolicy {
    /// Enrol without an invite. Default: no.
    pub is_open: bool,
    /// Names given without an invite to one network in an hour. Default: 5, a household.
    pub open_per_network_hour: u32,
    /// Names given without an invite in an hour. Default: 200.
    pub open_per_hour: u32,
    /// Requests of one network in a minute. Default: 120.
    pub requests_per_network_minute: u32,
    /// Requests in a minute. Default: 6,000, about a tenth of what one core can check.
    pub requests_per_minute: u32,
}

impl Default for AuthorityPolicy {
    fn default() -> Self {
        Self {
            is_open: false,
            open_per_network_hour: 5,
            open_per_hour: 200,
            requests_per_network_minute: 120,
            requests_per_minute: 6_000,
        }
    }
}

impl AuthorityPolicy {
    /// Enrols everyone without limit: for local networks and tests.
    #[must_use]
    pub const fn lab() -> Self {
        Self {
            is_open: true,
            open_per_network_hour: u32::MAX,
            open_per_hour: u32::MAX,
            requests_per_network_minute: u32::MAX,
            requests_per_minute: u32::MAX,
        }
    }

    /// The same with or without open enrolment.
    #[must_use]
    pub const fn open(mut self, is_open: bool) -> Self {
        self.is_open = is_open;
        self
    }
}

/// Counts per network and in total in windows of fixed length.
#[derive(Debug, Default)]
struct Window {
    started: UnixTime,
    total: u32,
    networks: HashMap<NetworkGroup, u32>,
}

impl Window {
    /// Counts one more, unless a limit is reached. Without a known network only the total counts.
    fn admit(&mut self, network: Option<NetworkGroup>, limits: (u32, u32), length_secs: u64, now: UnixTime) -> bool {
        // A clock set back starts a new window as well: it must not stop enrolment for as long as it was ahead.
        if now < self.started || now.secs_since(self.started) >= length_secs {
            *self = Self { started: now, ..Self::default() };
        }
        let (per_network, total) = limits;
        if self.total >= total {
            return false;
        }
        if let Some(network) = network {
            if self.networks.len() >= NETWORKS_MAX && !self.networks.contains_key(&network) {
                return false;
            }
            let count = self.networks.entry(network).or_default();
            if *count >= per_network {
                return false;
            }
            *count += 1;
        }
        self.total += 1;
        true
    }
}

/// The authority's counters. Not kept over a restart: a restart is rarer than a window is long.
#[derive(Debug, Default)]
pub(super) struct Limiter {
    requests: Window,
    open: Window,
}

impl Limiter {
    /// Counts a request; `false` if there were too many.
    pub(super) fn admit_request(&mut self, network: Option<NetworkGroup>, policy: &AuthorityPolicy, now: UnixTime) -> bool {
        let limits = (policy.requests_per_network_minute, policy.requests_per_minute);
        self.requests.admit(network, limits, MINUTE_SECS, now)
    }

    /// Counts a name given without an invite; `false` if there were too many.
    pub(super) fn admit_open(&mut self, network: Option<NetworkGroup>, policy: &AuthorityPolicy, now: UnixTime) -> bool {
        self.open.admit(network, (policy.open_per_network_hour, policy.open_per_hour), HOUR_SECS, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(text: &str) -> Option<NetworkGroup> {
        NetworkGroup::of(text.parse().expect("an address"))
    }

    #[test]
    fn neighbours_are_one_group() {
        assert_eq!(group("192.0.2.1"), group("192.0.2.200"));
        assert_eq!(group("192.0.2.1"), group("::ffff:192.0.2.7"));
        assert_ne!(group("192.0.2.1"), group("192.0.3.1"));
        assert_eq!(group("2001:db8:1::1"), group("2001:db8:1:ffff::1"));
        assert_ne!(group("2001:db8:1::1"), group("2001:db8:2::1"));
        assert_eq!((group("127.0.0.1"), group("::1")), (None, None));
    }

    #[test]
    fn limits_hold_per_network_and_in_total_until_the_window_ends() {
        let mut window = Window::default();
        let now = UnixTime(1_000_000);
        let mut admit = |network, now| window.admit(network, (2, 3), HOUR_SECS, now);
        let (one, two) = (group("192.0.2.1"), group("198.51.100.1"));
        assert!(admit(one, now) && admit(one, now));
        assert!(!admit(one, now), "per network");
        assert!(admit(two, now));
        assert!(!admit(two, now) && !admit(None, now), "in total");
        assert!(!admit(one, now.plus_secs(HOUR_SECS - 1)));
        assert!(admit(one, now.plus_secs(HOUR_SECS)));
        assert!(admit(one, now), "a clock set back doesn't lock anybody out");
    }

    #[test]
    fn memory_is_bounded() {
        let mut window = Window::default();
        for number in 0..2 * NETWORKS_MAX as u32 {
            let network = NetworkGroup::of(IpAddr::V4((number << 8 | 0x0100_0001).into()));
            window.admit(network, (1, u32::MAX), HOUR_SECS, UnixTime(5));
        }
        assert_eq!(window.networks.len(), NETWORKS_MAX);
    }
}
