//! Halloo protocol.
