//! Halloo node.

pub mod handle;
pub mod timestamp;
