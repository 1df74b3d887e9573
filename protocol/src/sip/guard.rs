//! Who may ask how often: a bucket for each source, and a ban for those who guess.
//!
//! Scanners of the internet try usernames and passwords by the thousand. A source whose credentials are wrong ten times within ten minutes is not
//! answered for ten minutes, then for twice as long each time, up to a day. Answers without credentials at all don't count: every phone begins so.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Wrong credentials within [`WINDOW`] that lead to a ban.
pub const FAILURES_MAX: u32 = 10;

/// How long failures count.
pub const WINDOW: Duration = Duration::from_secs(10 * 60);

/// The first ban; doubled with each further one.
pub const BAN: Duration = Duration::from_secs(10 * 60);

/// The longest ban.
pub const BAN_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Requests without credentials, or that can't be read, that a source may send in a burst, and each second after it.
pub const UNKNOWN_BURST: u32 = 200;

/// See [`UNKNOWN_BURST`]. A household of phones that all come back after a power cut needs tens.
pub const UNKNOWN_PER_SEC: u32 = 20;

/// Sources remembered; beyond, the one that was quiet for longest is forgotten, those that are banned last.
const SOURCES_MAX: usize = 4_096;

#[derive(Debug)]
struct Source {
    tokens: f64,
    filled: Instant,
    failures: u32,
    failing_since: Instant,
    bans: u32,
    banned_until: Option<Instant>,
}

/// What is known of sources.
#[derive(Debug, Default)]
pub struct Guard {
    sources: HashMap<IpAddr, Source>,
}

impl Guard {
    /// With nothing known.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether a source is banned: nothing is said to it, nothing of it is read.
    #[must_use]
    pub fn is_banned(&self, source: IpAddr, now: Instant) -> bool {
        self.sources.get(&network(source)).and_then(|known| known.banned_until).is_some_and(|until| now < until)
    }

    /// Counts something that came without credentials; false if it is too much, and to be dropped.
    pub fn take(&mut self, source: IpAddr, now: Instant) -> bool {
        let known = self.source(source, now);
        let gained = now.saturating_duration_since(known.filled).as_secs_f64() * f64::from(UNKNOWN_PER_SEC);
        known.tokens = (known.tokens + gained).min(f64::from(UNKNOWN_BURST));
        known.filled = now;
        if known.tokens < 1.0 {
            return false;
        }
        known.tokens -= 1.0;
        true
    }

    /// Counts wrong credentials; true if that is a ban.
    pub fn failed(&mut self, source: IpAddr, now: Instant) -> bool {
        let known = self.source(source, now);
        if now.saturating_duration_since(known.failing_since) > WINDOW {
            known.failures = 0;
        }
        if known.failures == 0 {
            known.failing_since = now;
        }
        known.failures += 1;
        if known.failures < FAILURES_MAX {
            return false;
        }
        let length = BAN.saturating_mul(1 << known.bans.min(10)).min(BAN_MAX);
        known.failures = 0;
        known.bans += 1;
        known.banned_until = Some(now + length);
        true
    }

    /// A source has shown that it knows a password: it may fail again.
    pub fn succeeded(&mut self, source: IpAddr) {
        if let Some(known) = self.sources.get_mut(&network(source)) {
            known.failures = 0;
        }
    }

    /// Sources that are banned.
    #[must_use]
    pub fn banned(&self, now: Instant) -> usize {
        self.sources.values().filter(|known| known.banned_until.is_some_and(|until| now < until)).count()
    }

    /// Where all are banned, the ban that ends first makes room: one forgotten too early is better than nobody new being served.
    fn source(&mut self, source: IpAddr, now: Instant) -> &mut Source {
        let key = network(source);
        if !self.sources.contains_key(&key) && self.sources.len() >= SOURCES_MAX {
            let ban = |known: &Source| known.banned_until.filter(|until| *until > now);
            let quiet = self.sources.iter().min_by_key(|(_, known)| (ban(known), known.filled));
            if let Some((quiet, _)) = quiet.map(|(quiet, known)| (*quiet, known.filled)) {
                self.sources.remove(&quiet);
            }
        }
        self.sources.entry(key).or_insert(Source {
            tokens: f64::from(UNKNOWN_BURST),
            filled: now,
            failures: 0,
            failing_since: now,
            bans: 0,
            banned_until: None,
        })
    }
}

/// Who is counted as one: an IPv4 address, or an IPv6 network of 64 bits, of which one machine has all.
#[must_use]
pub fn network(source: IpAddr) -> IpAddr {
    match source.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6((u128::from(address) >> 64 << 64).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn guessing_is_banned_for_ever_longer_and_others_are_not() {
        let (mut guard, mut now) = (Guard::new(), Instant::now());
        for length in [BAN, BAN * 2, BAN * 4] {
            for n in 1..=FAILURES_MAX {
                assert!(!guard.is_banned(ip("192.0.2.1"), now));
                assert_eq!(guard.failed(ip("192.0.2.1"), now), n == FAILURES_MAX);
            }
            assert!(guard.is_banned(ip("192.0.2.1"), now + length - Duration::from_secs(1)));
            assert!(!guard.is_banned(ip("192.0.2.2"), now));
            now += length;
        }
        for _ in 1..FAILURES_MAX {
            guard.failed(ip("192.0.2.1"), now);
        }
        guard.succeeded(ip("192.0.2.1"));
        assert!(!guard.failed(ip("192.0.2.1"), now), "a right password forgives");
    }

    #[test]
    fn a_source_has_its_rate_and_an_ipv6_network_is_one() {
        let (mut guard, now) = (Guard::new(), Instant::now());
        let taken = (0..1_000).filter(|n| guard.take(ip(&format!("2001:db8::{n:x}")), now)).count();
        assert_eq!(taken, UNKNOWN_BURST as usize);
        assert!(guard.take(ip("2001:db8:1::1"), now));
        assert!(guard.take(ip("2001:db8::1"), now + Duration::from_secs(1)));
    }

    #[test]
    fn the_table_is_bounded() {
        let (mut guard, now) = (Guard::new(), Instant::now());
        for n in 0..20_000_u32 {
            guard.take(IpAddr::V4(n.into()), now);
        }
        assert!(guard.sources.len() <= SOURCES_MAX);
    }

    #[test]
    fn a_table_full_of_bans_shuts_nobody_new_out() {
        let (mut guard, now) = (Guard::new(), Instant::now());
        for n in 0..SOURCES_MAX as u32 {
            for _ in 0..FAILURES_MAX {
                guard.failed(IpAddr::V4(n.into()), now);
            }
        }
        assert_eq!(guard.banned(now), SOURCES_MAX);
        assert!(guard.take(ip("192.0.2.1"), now), "somebody new");
        assert!(guard.take(ip("192.0.2.2"), now) && guard.take(ip("192.0.2.1"), now));
        assert!(guard.banned(now) >= SOURCES_MAX - 2, "bans stay as far as there is room");
    }
}
