//! Halloo node.
