//! A node of the Halloo overlay, to embed or to run.
//!
//! One event loop owns the network and all state; [`handle::Node`] talks to it and is cheap to clone. The shortest use:
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use halloo::identity::LocalIdentity;
//! use halloo::store::Store;
//! use halloo::{Node, fresh_identity};
//!
//! let store = Store::in_memory()?;
//! let identity: LocalIdentity = fresh_identity(&store)?;
//! let node: Node = Node::builder(identity).store(store).spawn().await?;
//! println!("{}", node.status().await?.peer_id);
//! # Ok(())
//! # }
//! ```
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`builder`] | settings and the start of a node |
//! | [`handle`] | what a running node can be asked, and what it tells |
//! | [`daemon`], [`cli`], [`api`] | the binary: home directory, command line, local HTTP API |
//! | [`testnet`] | a whole network in one process |
//! | [`roles`] | what a node serves to others |
//! | [`sip`] | the edge for ordinary phones |

pub mod address;
pub mod api;
pub mod behaviour;
pub mod builder;
pub mod calls;
mod choice;
pub mod circuits;
pub mod cli;
mod composing;
pub mod config;
mod contacts;
pub mod daemon;
pub mod devices;
mod diagnosis;
mod directory;
mod doubts;
mod enrolment;
mod event_loop;
mod files;
mod groups;
pub mod handle;
mod history;
pub mod home;
mod housekeeping;
pub mod identity;
pub mod key_file;
pub mod labels;
mod linked;
mod mail;
mod mailboxes;
mod messages;
mod network;
mod presence;
pub mod push;
mod reach;
mod receipts;
mod relays_at_hand;
mod requests;
pub mod reservations;
pub mod roles;
mod room;
mod rpc;
mod sessions;
pub mod sip;
pub mod store;
pub mod streams;
pub mod swarm;
#[cfg(test)]
mod test_swarm;
pub mod testnet;
pub mod timestamp;
mod vault;
pub mod wording;

pub use builder::{AutoAnswer, NodeBuilder, StartError};
pub use handle::{Event, EventRecord, EventStream, Node};
pub use identity::fresh as fresh_identity;
