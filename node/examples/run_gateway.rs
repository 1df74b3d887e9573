//! A push gateway: it wakes sleeping devices, and learns nothing but that it did.
//!
//! `cargo run --example run_gateway` starts the little network it needs by itself.

#![allow(clippy::print_stdout, reason = "an example talks to its reader")]

use halloo::handle::authority::EnrolOptions;
use halloo::handle::push::{PushChannel, PushTarget};
use halloo::store::Store;
use halloo::testnet::{Network, NetworkOptions, UserOptions, wait_ready};
use halloo::{Node, fresh_identity};
use halloo_protocol::node::Roles;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut network = Network::start(NetworkOptions::default()).await?;
    // A device that can be frozen, as phones are, has a push service of its own here.
    let sleepy = UserOptions { freezable: true, ..UserOptions::default() };
    let phone = network.add_users([("alice".to_owned(), sleepy)]).await?.remove(0);

    // A gateway is a node with the role. Devices use it that were told of it or met it.
    let store = Store::in_memory()?;
    let builder = Node::builder(fresh_identity(&store)?).store(store).lab(true).role(Roles::GATEWAY);
    let gateway = builder.spawn().await?;
    let invite = Some(network.invite().await?);
    gateway.enrol(EnrolOptions { username: "gateway@test".into(), invite }).await?;
    wait_ready(&gateway, "the gateway").await?;
    let status = gateway.status().await?;

    // The phone registers: from now on calls wake it through this gateway.
    let channel = PushChannel::Stream {};
    let address = status.listen.first().map(|address| format!("{address}/p2p/{}", status.peer_id));
    let registration = phone.push().register(PushTarget { channel, gateway: address }).await?;
    println!("registered for {} at {}", registration.kind, registration.gateway);
    assert_eq!(registration.gateway, status.peer_id, "another gateway answered");

    gateway.shutdown().await?;
    network.shutdown().await;
    Ok(())
}
