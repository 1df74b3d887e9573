//! The `halloo` binary.
fn main() {}
