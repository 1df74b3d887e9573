//! Tests of invites and of both machines together.

mod crossing;
mod exploration;
mod hand_over;
mod invite;
mod machines;
mod network;
