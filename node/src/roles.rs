//! What a node can serve to others. Each role is off until it is asked for, or the node decides that it is fit.

pub mod authority;
pub mod gateway;
pub mod mailbox;
pub(crate) mod hand_over;
pub mod relay;
