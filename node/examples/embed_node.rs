//! A node inside another program: keys, a username, ready.
//!
//! `cargo run --example embed_node` starts the little network it needs by itself.

use halloo::handle::authority::EnrolOptions;
use halloo::store::Store;
use halloo::testnet::{Network, NetworkOptions, wait_ready};
use halloo::{Node, fresh_identity};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Somebody runs an authority and gave us an invite: the code says where the network is.
    let network = Network::start(NetworkOptions::default()).await?;
    let invite = network.invite().await?;

    // `Store::open(directory)` keeps state over restarts. Without `lab` the node is one of the internet's.
    let store = Store::in_memory()?;
    let identity = fresh_identity(&store)?;
    let node = Node::builder(identity).store(store).lab(true).spawn().await?;
    let enrolled = node.enrol(EnrolOptions { username: "alice@test".into(), invite: Some(invite) }).await?;
    wait_ready(&node, "alice").await?;

    println!("{} is ready as {}", enrolled.username, node.status().await?.peer_id);
    node.shutdown().await?;
    Ok(())
}
