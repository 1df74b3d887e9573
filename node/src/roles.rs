//! What a node can serve to others. Each role is off until its configuration turns it on.

//! What a node can serve besides itself.

pub mod authority;
pub mod gateway;
