//! How long packets take.

use std::time::Duration;

use rand::{Rng, RngExt};

/// How far apart nodes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Latency {
    /// The same round trip between any two, without jitter: makes counts of round trips exact.
    Fixed(Duration),
    /// Nodes on a map of five regions; see [`Position`]. Round trips of 10 to 350 ms, and a tenth of jitter.
    Map,
}

/// Where a node is: milliseconds one way on a plane, and what its access line adds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Position {
    x: f32,
    y: f32,
    access: f32,
}

/// Regions: centre in milliseconds one way, radius, and share of all nodes in percent. Round trips between the centres are like those between
/// North America's coasts, Europe, East and South Asia: 65 to 240 ms.
const REGIONS: [(f32, f32, f32, u32); 5] =
    [(0.0, 0.0, 12.0, 25), (33.0, 8.0, 12.0, 15), (72.0, 0.0, 14.0, 30), (-50.0, 40.0, 20.0, 20), (95.0, 55.0, 20.0, 10)];

/// Access lines add 1 to 16 ms one way, most of them little.
const ACCESS_MAX: f32 = 15.0;

impl Position {
    /// A place on the map, at random.
    pub fn random(rng: &mut impl Rng) -> Self {
        let mut draw = rng.random_range(0..100_u32);
        let mut region = REGIONS[0];
        for candidate in REGIONS {
            region = candidate;
            if draw < candidate.3 {
                break;
            }
            draw -= candidate.3;
        }
        let (x, y, radius, _) = region;
        let spread = |rng: &mut dyn FnMut() -> f32| (rng() + rng() - 1.0) * radius;
        let mut uniform = || rng.random_range(0.0..1.0_f32);
        let (x, y) = (x + spread(&mut uniform), y + spread(&mut uniform));
        let line = uniform();
        Self { x, y, access: 1.0 + ACCESS_MAX * line * line * line }
    }

    fn millis_to(&self, other: &Self) -> f32 {
        self.access + other.access + (self.x - other.x).hypot(self.y - other.y)
    }
}

impl Latency {
    /// One way between two nodes, without jitter.
    #[must_use]
    pub fn one_way(&self, a: &Position, b: &Position) -> Duration {
        match self {
            Self::Fixed(rtt) => *rtt / 2,
            Self::Map => Duration::from_secs_f32(a.millis_to(b) / 1_000.0),
        }
    }

    /// One packet's way: up to a tenth longer on the map.
    pub(crate) fn with_jitter(&self, one_way: Duration, rng: &mut impl Rng) -> Duration {
        match self {
            Self::Fixed(_) => one_way,
            Self::Map => one_way.mul_f32(1.0 + rng.random_range(0.0..0.1_f32)),
        }
    }

    /// The same, with the share of the most that it is longer, 0 to 1.
    pub(crate) fn with_share_of_jitter(&self, one_way: Duration, share: f32) -> Duration {
        match self {
            Self::Fixed(_) => one_way,
            Self::Map => one_way.mul_f32(1.0 + 0.1 * share),
        }
    }
}
