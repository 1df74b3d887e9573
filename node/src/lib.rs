//! Halloo node.

pub mod identity;
pub mod key_file;
pub mod roles;
pub mod store;
