//! Halloo node.

pub mod api;
pub mod config;
pub mod daemon;
pub mod handle;
pub mod home;
pub mod testnet;
pub mod timestamp;
