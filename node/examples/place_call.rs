//! A voice call to a username that plays a WAV file and records what is heard.
//!
//! `cargo run --example place_call` starts the little network it needs by itself.

#![allow(clippy::print_stdout, reason = "an example talks to its reader")]

use std::time::Duration;

use halloo::AutoAnswer;
use halloo::calls::media::tone::write_tone;
use halloo::handle::calls::DialOptions;
use halloo::testnet::{Network, NetworkOptions, UserOptions};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut network = Network::start(NetworkOptions::default()).await?;
    let alice = network.add_user("alice").await?;
    // Bob picks up by himself.
    let answers = UserOptions { answer: Some(AutoAnswer::default()), ..UserOptions::default() };
    network.add_users([("bob".to_owned(), answers)]).await?;
    // People who aren't contacts can neither call nor write to each other, unless they want it so.
    network.befriend("alice", "bob").await?;
    let greeting = network.scratch().join("greeting.wav");
    write_tone(&greeting, 440.0, Duration::from_secs(1), 48_000)?;

    // All of bob's devices ring; the first that answers gets the call. Dropping the future hangs up.
    let options = DialOptions {
        play: Some(greeting),
        record: Some(network.scratch().join("heard.wav")),
        duration_ms: Some(1_000),
        ..DialOptions::to("bob")
    };
    let call = alice.calls().dial(options).await?;

    println!("the call: {:?}, ringing after {:?} ms, path {:?}", call.outcome, call.ring_ms, call.path);
    network.shutdown().await;
    Ok(())
}
