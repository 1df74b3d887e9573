//! Answering calls: wait for one, decide, answer it, see it end.
//!
//! `cargo run --example answer_call` starts the little network it needs by itself.

#![allow(clippy::print_stdout, reason = "an example talks to its reader")]

use halloo::Event;
use halloo::handle::calls::{AnswerOptions, DialOptions};
use halloo::testnet::{Network, NetworkOptions};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut network = Network::start(NetworkOptions::default()).await?;
    let alice = network.add_user("alice").await?;
    let bob = network.add_user("bob").await?;
    // People who aren't contacts can neither call nor write to each other, unless they want it so.
    network.befriend("alice", "bob").await?;
    let mut events = bob.subscribe();
    let call = DialOptions { duration_ms: Some(500), ..DialOptions::to("bob") };
    let calling = tokio::spawn(async move { alice.calls().dial(call).await });

    while let Some(record) = events.recv().await {
        match record.event {
            // Who calls is certified, not claimed. `decline` is the other choice.
            Event::CallIncoming { call_id, from, .. } => {
                println!("bob: {from} calls");
                bob.calls().answer(&call_id, AnswerOptions::default()).await?;
            }
            Event::CallEnded(call) => {
                println!("bob: the call is over: {:?}", call.outcome);
                break;
            }
            _ => {}
        }
    }
    println!("alice: {:?}", calling.await??.outcome);
    network.shutdown().await;
    Ok(())
}
