//! What it costs to guess an address in a linked system: the time of one slow hash on one core, and of a million.

#![allow(clippy::print_stdout, reason = "it is for its output")]

use std::time::Instant;

use halloo_protocol::linked::{LinkedId, SLOW_MEMORY_KIB, SLOW_PASSES, SlowHashError, SlowId, System};

const GUESSES: u32 = 10;

fn main() -> Result<(), SlowHashError> {
    let guess = |number: u32| LinkedId::new(System::Mail, &format!("guess{number}@there.example"));
    let addresses: Vec<LinkedId> = (0..GUESSES).filter_map(|number| guess(number).ok()).collect();
    let begun = Instant::now();
    for address in &addresses {
        SlowId::of(address)?;
    }
    let secs = begun.elapsed().as_secs_f64() / f64::from(GUESSES);
    println!("{} MiB, {SLOW_PASSES} passes: {:.0} ms for one guess on one core", SLOW_MEMORY_KIB / 1_024, secs * 1_000.0);
    println!("a million guesses: {:.1} days of one core", secs * 1e6 / 86_400.0);
    Ok(())
}
