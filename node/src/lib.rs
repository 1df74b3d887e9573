//! Halloo node.

pub mod config;
pub mod handle;
pub mod home;
pub mod testnet;
pub mod timestamp;
