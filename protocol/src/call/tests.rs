//! Tests of invites and of both machines together.

mod exploration;
mod invite;
mod machines;
mod network;
