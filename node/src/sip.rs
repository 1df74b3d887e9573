//! The SIP edge: ordinary phones in the overlay.

pub mod media;
