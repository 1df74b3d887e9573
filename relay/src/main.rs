//! Relay binary.
fn main() {}
