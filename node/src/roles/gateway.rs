//! The push gateway role: wakes devices that hold no connection of their own.

pub mod webpush;
