//! Presence in the simulator: the production machine with real keys, one device per person.

mod graph;
pub mod rows;
mod views;
mod world;

pub use graph::Graph;
pub use world::{HEARTBEAT, MESSAGE, PresenceNode, Progress, Seen, Town, TownPlan, World};
