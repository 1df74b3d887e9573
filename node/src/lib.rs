//! Halloo node.

pub mod address;
pub mod api;
pub mod behaviour;
pub mod calls;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod handle;
pub mod home;
pub mod identity;
pub mod key_file;
pub mod push;
pub mod reservations;
pub mod roles;
pub mod store;
pub mod streams;
pub mod swarm;
#[cfg(test)]
mod test_swarm;
pub mod testnet;
pub mod timestamp;
