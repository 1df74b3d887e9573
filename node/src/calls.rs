//! Calls: their media, and later their signalling.

pub mod media;
