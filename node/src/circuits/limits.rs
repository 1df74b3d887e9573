//! How much signalling a node relays, altogether and for each: every number, with its reason.
//!
//! They suit calls: a dial opens a circuit for each of the callee's devices and relays, within a second, and none is cut in the middle of a
//! conversation. libp2p's defaults (16 circuits of 128 KiB for 2 minutes, 4 of one peer) suit a hole punch.

use std::time::Duration;

use halloo_protocol::rate::Rate;

/// Reservations: devices that are reached through this node. Each holds a connection open.
const RESERVATIONS: usize = 512;

/// Circuits at once. Signalling only, so they are many and thin.
const CIRCUITS: usize = 256;

/// More than that can't be configured: a device that is called by many has one stream for each on the connection to its relay.
pub const CIRCUITS_CEILING: usize = 1_024;

/// How long a reservation lasts; the client renews in time.
pub(super) const RESERVATION_DURATION: Duration = Duration::from_secs(60 * 60);

/// How long a circuit lasts. A pair that can't connect directly has to come back now and then, long after any call's set-up has passed: what comes
/// later in a call is few signals, which make a new one. Media goes elsewhere.
const CIRCUIT_DURATION: Duration = Duration::from_secs(60 * 60);

/// Bytes of a circuit, both directions together: an hour's messages and look-ups, and signalling, which has a few kilobytes a call.
const CIRCUIT_BYTES: u64 = 64 * 1024 * 1024;

/// Reservations of one user: as many devices as a record holds, each over two transports or with an old connection not seen dead yet.
pub(super) const RESERVATIONS_PER_USER: usize = 32;

/// Circuits that one user has opened: signalling with 64 people at a time who are behind NATs. Each lasts until a direct path is found or nobody
/// uses it; there is one for each of the callee's devices and relays that are tried.
pub(super) const CIRCUITS_PER_USER: usize = 64;

/// Of the total no user has more than a fourth, however small it is.
pub(super) const USER_SHARE: usize = 4;

/// Of the total the peers at one address of whom nothing is known yet have no more than an eighth: an office whose phones come back at once.
pub(super) const ADDRESS_SHARE: usize = 8;

/// And all such peers together no more than half: there is always room for users.
pub(super) const UNKNOWN_SHARE: usize = 2;

/// Reservations and circuits a user may ask for: a supervisor that has lost its relay tries a few times a minute, on each device; somebody who
/// writes to many opens circuits to all of them.
pub(super) const USER_RATE: Rate = Rate { per_hour: 3_600, burst: 60 };

/// The same of all at one address, known or not: an office or a small carrier behind it.
pub(super) const ADDRESS_RATE: Rate = Rate { per_hour: 7_200, burst: 240 };

/// How much signalling a relay carries for others altogether.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RelayLimits {
    /// Reservations at a time.
    pub reservations: usize,
    /// Circuits at a time; at most [`CIRCUITS_CEILING`].
    pub circuits: usize,
    /// How long a circuit lasts.
    pub circuit_duration: Duration,
    /// Bytes a circuit carries, both directions together.
    pub circuit_bytes: u64,
}

impl Default for RelayLimits {
    fn default() -> Self {
        Self { reservations: RESERVATIONS, circuits: CIRCUITS, circuit_duration: CIRCUIT_DURATION, circuit_bytes: CIRCUIT_BYTES }
    }
}

/// How much each may have.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) reservations: Shares,
    pub(super) circuits: Shares,
}

/// How much of one thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shares {
    pub(super) total: usize,
    pub(super) user: usize,
    pub(super) address: usize,
    pub(super) unknown: usize,
}

impl Shares {
    fn new(total: usize, user: usize) -> Self {
        let share = |part: usize| total.div_ceil(part);
        Self { total, user: user.min(share(USER_SHARE)), address: share(ADDRESS_SHARE), unknown: share(UNKNOWN_SHARE) }
    }
}

impl Limits {
    pub(super) fn new(limits: RelayLimits) -> Self {
        let circuits = limits.circuits.min(CIRCUITS_CEILING);
        Self {
            reservations: Shares::new(limits.reservations, RESERVATIONS_PER_USER),
            circuits: Shares::new(circuits, CIRCUITS_PER_USER),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_relays_are_shared_too() {
        assert_eq!(Shares::new(0, 64), Shares { total: 0, user: 0, address: 0, unknown: 0 });
        assert_eq!(Shares::new(1, 64), Shares { total: 1, user: 1, address: 1, unknown: 1 });
        assert_eq!(Shares::new(16, 64), Shares { total: 16, user: 4, address: 2, unknown: 8 });
    }
}
