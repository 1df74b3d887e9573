//! What a phone does when a push arrives and the app doesn't run: the process starts, opens its home, hands the push message to the node, and rings.
//! Nobody is asked before: the message holds all of it.
//!
//! `cargo run --example cold_start HOME PAYLOAD` does that, with `-` for a payload on standard input. Without arguments it makes both first: a little
//! network, a home, and a call whose push message it catches. Then it ends the network and starts itself anew.

#![allow(clippy::print_stdout, reason = "an example talks to its reader")]

use std::error::Error;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use halloo::handle::calls::DialOptions;
use halloo::handle::push::{PushChannel, PushTarget};
use halloo::home::Home;
use halloo::identity::LocalIdentity;
use halloo::push::receiver::LocalPushService;
use halloo::store::Store;
use halloo::testnet::{Network, NetworkOptions};
use halloo::{Event, Node};
use halloo_protocol::time::UnixTime;

/// How long the push may take from the call to the push service.
const PUSH_TIME_MAX: Duration = Duration::from_secs(30);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let started = Instant::now();
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    match arguments.as_slice() {
        [home, payload] => cold_start(started, home, &read(payload)?).await,
        [] => demonstrate().await,
        _ => Err("usage: cold_start HOME PAYLOAD".into()),
    }
}

fn read(payload: &Path) -> std::io::Result<Vec<u8>> {
    if payload != Path::new("-") {
        return std::fs::read(payload);
    }
    let mut bytes = Vec::new();
    std::io::stdin().lock().take(4_097).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The whole way from the process's start to ringing.
async fn cold_start(started: Instant, home: &Path, payload: &[u8]) -> Result<(), Box<dyn Error>> {
    let home = Home::open(home)?;
    // Two processes must not write to one home.
    let _lock = home.lock()?;
    let store = Store::open(home.root())?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
    let identity = LocalIdentity::load(home.root(), &store, UnixTime(now))?;
    // An app of the internet leaves `lab` out.
    let node = Node::builder(identity).store(store).home(home.root().to_owned()).lab(true).spawn().await?;
    let mut events = node.subscribe();
    // As the operating system delivered it; the node decrypts Web Push by itself. This returns when it rings.
    let woken = node.wake(Some(payload.to_vec())).await?;
    while let Some(record) = events.recv().await {
        if let Event::CallIncoming { call_id, from, notice, .. } = record.event {
            let peers = node.peers().await?.peers.len();
            println!("ringing: {from} calls, {} ms after the start, with {peers} peers", started.elapsed().as_millis());
            println!("the screen says: {}", notice.map_or_else(String::new, |notice| notice.text));
            assert_eq!(woken.call_id, Some(call_id), "another call rings than the push announced");
            break;
        }
    }
    // Here the person answers: `node.calls().answer(..)` connects to the caller.
    node.shutdown().await?;
    Ok(())
}

/// A home of bob's, and the push message of a call to him.
async fn demonstrate() -> Result<(), Box<dyn Error>> {
    let mut network = Network::start(NetworkOptions { homes: true, ..NetworkOptions::default() }).await?;
    let alice = network.add_user("alice").await?;
    let bob = network.add_user("bob").await?;
    network.befriend("alice", "bob").await?;
    // The operating system's part: it gives the app an endpoint, and starts the app when something arrives there.
    let (service, mut messages) = LocalPushService::bind(([127, 0, 0, 1], 0).into()).await?;
    let channel = PushChannel::Webpush { endpoint: Some(service.subscribe()?), p256dh: None, auth: None };
    bob.push().register(PushTarget { channel, gateway: None }).await?;
    let home = network.homes().pop().ok_or("bob has a home")?;
    drop(bob);
    network.kill("bob").await?;

    let calling = tokio::spawn(async move { alice.calls().dial(DialOptions::to("bob")).await });
    let payload = tokio::time::timeout(PUSH_TIME_MAX, messages.recv()).await?.ok_or("no push message")?;
    let phone = tempfile::tempdir()?;
    copy_files(&home, phone.path())?;
    let file = phone.path().join("payload");
    std::fs::write(&file, &payload)?;
    calling.abort();
    network.shutdown().await;
    println!("a push message of {} bytes; nobody else runs any more", payload.len());

    let status = Command::new(std::env::current_exe()?).args([phone.path(), &file]).status()?;
    if status.success() { Ok(()) } else { Err("the phone did not ring".into()) }
}

fn copy_files(from: &Path, to: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            std::fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
    }
    Ok(())
}
