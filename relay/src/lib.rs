//! Halloo relay.
