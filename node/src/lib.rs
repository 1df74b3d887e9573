//! Halloo node.

pub mod store;
