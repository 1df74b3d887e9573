//! What a node can serve to others. Each role is off until its configuration turns it on.

pub mod gateway;
