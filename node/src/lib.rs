//! Halloo node.

pub mod calls;
