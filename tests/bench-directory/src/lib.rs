//! What benchmarks with real nodes have in common.

pub mod authority;
pub mod usage;
