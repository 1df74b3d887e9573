//! What a node can serve to others. Each role is off until it is asked for, or the node decides that it is fit.

pub mod authority;
pub mod gateway;
pub(crate) mod hand_over;
pub mod mailbox;
pub mod relay;
pub(crate) mod signal_pass;
pub(crate) mod vault;
