//! Halloo node.

pub mod address;
pub mod behaviour;
pub mod calls;
pub mod handle;
pub mod push;
pub mod reservations;
pub mod roles;
pub mod store;
pub mod streams;
pub mod swarm;
#[cfg(test)]
mod test_swarm;
pub mod timestamp;
