//! Randomness that can be repeated.

use rand::SeedableRng;
use rand::rngs::StdRng;

/// The variable that repeats a run.
const VARIABLE: &str = "HALLOO_SEED";

/// A generator whose seed is printed; set `HALLOO_SEED` to repeat a run.
///
/// # Panics
/// If `HALLOO_SEED` is no number.
#[must_use]
pub fn rng() -> StdRng {
    let seed = match std::env::var(VARIABLE) {
        Ok(text) => text.parse().expect("HALLOO_SEED is a number"),
        Err(_) => rand::random::<u64>(),
    };
    eprintln!("seed: {VARIABLE}={seed}");
    StdRng::seed_from_u64(seed)
}
