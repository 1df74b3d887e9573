//! What has to be done now and then in a node that runs for months: keys are changed, certificates renewed, the clock watched.

use std::time::{Duration, Instant};

use halloo_protocol::call::HpkeKeyPair;
use halloo_protocol::clock::ClockEstimator;
use halloo_protocol::time::{Now, UnixTime};
use tracing::{info, warn};

use crate::event_loop::EventLoop;

/// How often keys and certificates are looked at. What is due is due after days.
const LOOK_EVERY: Duration = Duration::from_secs(600);

/// How often peers' certificates are looked at: for so long at most one that has ended counts for a connected peer.
const EXPIRE_EVERY: Duration = Duration::from_secs(60);

/// How often hellos that came too soon are heard.
const LATE_HELLOS_EVERY: Duration = Duration::from_secs(10);

/// How often the authority's own affairs are seen to.
const MAINTAIN_EVERY: Duration = Duration::from_secs(86_400);

/// The wall clock and the steady clock part by more than this only if somebody set the clock, or the machine slept.
const CLOCK_STEP_SECS: u64 = 30;

/// A loop that comes round every quarter of a second and misses this long was stopped as a whole.
const PAUSE: Duration = Duration::from_secs(30);

/// Least time between two looks at what was made and judged by a clock since corrected: those whose words decide could have us look with each of them.
const CORRECTION_EVERY: Duration = Duration::from_secs(10);

/// When what is due.
#[derive(Debug)]
pub(crate) struct Housekeeping {
    look_at: Instant,
    expire_at: Instant,
    late_hellos_at: Instant,
    maintain_at: Instant,
    /// When what our clock said before it was corrected is dealt with, and when that was done last.
    correct_at: Option<Instant>,
    corrected_at: Option<Instant>,
    /// Both clocks at the last tick.
    clocks: (Instant, UnixTime),
}

impl Housekeeping {
    pub(crate) fn new(now: Instant, raw: UnixTime) -> Self {
        Self {
            look_at: now,
            expire_at: now + EXPIRE_EVERY,
            late_hellos_at: now,
            maintain_at: now,
            correct_at: None,
            corrected_at: None,
            clocks: (now, raw),
        }
    }
}

impl EventLoop {
    pub(crate) fn housekeeping_tick(&mut self, now: Now) {
        self.watch_the_clock(now.instant);
        if self.housekeeping.expire_at <= now.instant {
            self.housekeeping.expire_at = now.instant + EXPIRE_EVERY;
            self.expire_chains(now.unix);
        }
        if self.housekeeping.late_hellos_at <= now.instant {
            self.housekeeping.late_hellos_at = now.instant + LATE_HELLOS_EVERY;
            self.hear_late_hellos();
        }
        if self.housekeeping.correct_at.is_some_and(|at| at <= now.instant) {
            (self.housekeeping.correct_at, self.housekeeping.corrected_at) = (None, Some(now.instant));
            // What was signed by the wrong clock is signed again by the corrected one, and whom it made us disbelieve is believed.
            self.housekeeping.look_at = now.instant;
            self.publish_soon();
            self.judge_hellos_anew();
        }
        if self.housekeeping.look_at <= now.instant {
            self.housekeeping.look_at = now.instant + LOOK_EVERY;
            self.change_hpke_key(now.unix);
            self.change_session_keys(now.unix);
            self.renew_device_certificate(now.unix);
        }
        if self.housekeeping.maintain_at <= now.instant {
            self.housekeeping.maintain_at = now.instant + MAINTAIN_EVERY;
            if let Some(authority) = &mut self.authority
                && let Err(error) = authority.maintain(now.unix)
            {
                warn!(%error, "the authority's signing key isn't renewed");
            }
            self.drop_untrusted_hints(now.unix);
        }
    }

    /// The weekly change of the key that invites are sealed to. Stored before it is published: an invite sealed to a key that a crash has
    /// taken would never open.
    fn change_hpke_key(&mut self, now: UnixTime) {
        let mut ring = self.hpke.clone();
        let is_due = ring.is_due(now);
        if is_due {
            ring.rotate(HpkeKeyPair::generate(&mut self.rng), now);
        }
        if !ring.prune(now) && !is_due {
            return;
        }
        if let Err(error) = self.identity.put_hpke_keys(&ring.to_bytes()) {
            return warn!(%error, "new key for invites not stored: the old one stays");
        }
        self.hpke = ring;
        if is_due {
            info!("key for invites changed");
            self.publish_soon();
        }
    }

    fn renew_device_certificate(&mut self, now: UnixTime) {
        match self.identity.renew_device_certificate(now) {
            Ok(true) => {
                info!("device certificate renewed");
                self.refresh_hello();
                self.publish_soon();
            }
            Ok(false) => {}
            Err(error) => warn!(%error, "device certificate not renewed"),
        }
    }

    /// Notices that the machine slept or its clock was set. What peers said about the old clock doesn't hold for the new one, and no
    /// connection is sure to have lived on.
    fn watch_the_clock(&mut self, now: Instant) {
        let raw = self.raw_unix();
        let (instant, unix) = std::mem::replace(&mut self.housekeeping.clocks, (now, raw));
        let passed = now.saturating_duration_since(instant);
        let is_step = raw.0.abs_diff(unix.plus_secs(passed.as_secs()).0) > CLOCK_STEP_SECS;
        if is_step {
            self.clock = ClockEstimator::new();
            self.forget_when_hellos_came();
        }
        if is_step || passed > PAUSE {
            info!("the machine slept, or its clock was set");
            self.reach_woken();
            self.join_network();
            self.publish_soon();
        }
    }

    /// Our clock was corrected by much: keys and certificates, our record and what we believe of others are looked at with the next tick.
    pub(crate) fn clock_corrected(&mut self) {
        let earliest = self.housekeeping.corrected_at.map_or_else(Instant::now, |last| last + CORRECTION_EVERY);
        self.housekeeping.correct_at.get_or_insert(earliest);
    }

    /// After a suspension both clocks are read anew: its length is known and dealt with.
    pub(crate) fn restart_clock_watch(&mut self) {
        self.housekeeping.clocks = (Instant::now(), self.raw_unix());
    }
}
