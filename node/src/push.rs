//! The device's side of push: how a sleeping device is reached.

pub mod receiver;
