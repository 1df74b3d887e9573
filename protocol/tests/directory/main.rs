//! The directory as a whole: simulated networks, attacks, fuzzing.

#![allow(clippy::print_stdout, reason = "tests print seeds and what they measure")]

mod attacks;
mod fixture;
mod fuzz;
mod hearsay;
mod keepers;
mod listings;
mod neighbourhood;
mod network;
mod sampling;
mod simulation;
