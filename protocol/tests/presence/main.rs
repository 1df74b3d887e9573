//! Presence between a few devices over a network that delivers at once: what contacts see, what others don't, and what liars achieve.

mod contacts;
mod liars;
mod net;
mod silence;
#[path = "../support/mod.rs"]
mod support;
mod trees;
