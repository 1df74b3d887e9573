//! Halloo node.

pub mod push;
pub mod roles;
