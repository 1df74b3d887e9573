//! Halloo node.

pub mod behaviour;
pub mod reservations;
pub mod streams;
pub mod swarm;
#[cfg(test)]
mod test_swarm;
