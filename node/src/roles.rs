//! What a node can serve besides itself.

pub mod authority;
