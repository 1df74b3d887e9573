//! A message to a username, and its delivery.
//!
//! `cargo run --example send_message` starts the little network it needs by itself.

#![allow(clippy::print_stdout, reason = "an example talks to its reader")]

use std::time::Duration;

use halloo::Event;
use halloo::testnet::{Network, NetworkOptions};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut network = Network::start(NetworkOptions::default()).await?;
    let alice = network.add_user("alice").await?;
    let bob = network.add_user("bob").await?;
    // People who aren't contacts can neither call nor write to each other, unless they want it so.
    network.befriend("alice", "bob").await?;
    let mut events = bob.subscribe();

    // A name is enough. `send` returns when the message is stored, `wait` when a device of bob's has it.
    let sent = alice.messages().send("bob", "Hello, Bob!").await?;
    let status = alice.messages().wait(&sent.id, Duration::from_secs(30)).await?;
    println!("alice: {:?}", status.state);

    while let Some(record) = events.recv().await {
        if let Event::MessageReceived { from, text, .. } = record.event {
            println!("bob: {from} writes {text:?}");
            break;
        }
    }
    network.shutdown().await;
    Ok(())
}
