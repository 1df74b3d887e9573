//! The opponent: libp2p's gossipsub as it comes, over the memory transport, with the same people, contacts and connections.
//!
//! A topic a person, which their contacts subscribe to: what an application does that knows nothing better. Counted are copies of messages that
//! arrive, duplicates among them, and all bytes that the nodes write, encryption and multiplexing included; frames that carry control messages
//! alone aren't counted as messages.

use std::collections::BTreeSet;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::{Result, anyhow};
use futures::{AsyncRead, AsyncWrite, StreamExt};
use halloo_simulator::presence::Graph;
use libp2p::core::transport::MemoryTransport;
use libp2p::core::upgrade::Version;
use libp2p::identity::Keypair;
use libp2p::swarm::{self, SwarmEvent};
use libp2p::{Multiaddr, PeerId, Swarm, Transport, noise, yamux};
use libp2p_gossipsub as gossipsub;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// A sealed document.
const DOCUMENT_BYTES: usize = 200;

/// How long meshes have to form.
const WARM_UP: Duration = Duration::from_secs(15);

/// Commands that wait at a node.
const COMMANDS: usize = 64;

/// What was counted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counted {
    pub(crate) owed: u64,
    pub(crate) delivered: u64,
    pub(crate) copies: u64,
    pub(crate) bytes: u64,
}

#[derive(Debug, Default)]
struct Counters {
    delivered: AtomicU64,
    copies: AtomicU64,
    bytes: AtomicU64,
}

/// Counts what comes, before gossipsub sorts duplicates out.
#[derive(Clone, Debug)]
struct Counting(Arc<Counters>);

impl gossipsub::DataTransform for Counting {
    fn inbound_transform(&self, raw: gossipsub::RawMessage) -> io::Result<gossipsub::Message> {
        self.0.copies.fetch_add(1, Ordering::Relaxed);
        Ok(gossipsub::Message { source: raw.source, data: raw.data, sequence_number: raw.sequence_number, topic: raw.topic })
    }

    fn outbound_transform(&self, _topic: &gossipsub::TopicHash, data: Vec<u8>) -> io::Result<Vec<u8>> {
        Ok(data)
    }
}

/// A stream that counts what is written.
struct CountedStream<S>(S, Arc<Counters>);

impl<S: AsyncRead + Unpin> AsyncRead for CountedStream<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for CountedStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.0).poll_write(context, buffer);
        if let Poll::Ready(Ok(count)) = written {
            self.1.bytes.fetch_add(count as u64, Ordering::Relaxed);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_close(context)
    }
}

type Behaviour = gossipsub::Behaviour<Counting, gossipsub::AllowAllSubscriptionFilter>;

enum Command {
    Dial(Multiaddr),
    Publish(Vec<u8>),
}

fn swarm(counters: &Arc<Counters>) -> Result<Swarm<Behaviour>> {
    let keypair = Keypair::generate_ed25519();
    let local = keypair.public().to_peer_id();
    let counted = Arc::clone(counters);
    let transport = MemoryTransport::default()
        .map(move |stream, _| CountedStream(stream, Arc::clone(&counted)))
        .upgrade(Version::V1)
        .authenticate(noise::Config::new(&keypair)?)
        .multiplex(yamux::Config::default())
        .boxed();
    let config = gossipsub::Config::default();
    let behaviour = Behaviour::new_with_subscription_filter_and_transform(
        gossipsub::MessageAuthenticity::Signed(keypair),
        config,
        gossipsub::AllowAllSubscriptionFilter {},
        Counting(Arc::clone(counters)),
    )
    .map_err(|error| anyhow!("gossipsub: {error}"))?;
    let config = swarm::Config::with_tokio_executor().with_idle_connection_timeout(Duration::from_secs(3_600));
    Ok(Swarm::new(transport, behaviour, local, config))
}

fn topic(person: usize) -> gossipsub::IdentTopic {
    gossipsub::IdentTopic::new(format!("person {person}"))
}

async fn drive(mut swarm: Swarm<Behaviour>, person: usize, mut commands: mpsc::Receiver<Command>, counters: Arc<Counters>) {
    let mut seen = BTreeSet::new();
    loop {
        tokio::select! {
            command = commands.recv() => match command {
                Some(Command::Dial(address)) => drop(swarm.dial(address)),
                Some(Command::Publish(data)) => drop(swarm.behaviour_mut().publish(topic(person), data)),
                None => return,
            },
            event = swarm.select_next_some() => {
                if let SwarmEvent::Behaviour(gossipsub::Event::Message { message_id, .. }) = event
                    && seen.insert(message_id)
                {
                    counters.delivered.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }
}

/// Runs them: each person publishes once in `every`, for `time`.
pub(crate) async fn run(graph: &Graph, connections: &[(usize, usize)], every: Duration, time: Duration) -> Result<Counted> {
    let counters = Arc::new(Counters::default());
    let mut tasks = JoinSet::new();
    let mut nodes: Vec<(mpsc::Sender<Command>, Multiaddr, PeerId)> = Vec::new();
    for person in 0..graph.len() {
        let mut swarm = swarm(&counters)?;
        swarm.listen_on("/memory/0".parse()?)?;
        let address = loop {
            if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
                break address;
            }
        };
        for contact in graph.contacts(person) {
            swarm.behaviour_mut().subscribe(&topic(contact)).map_err(|error| anyhow!("subscription: {error}"))?;
        }
        let (sender, commands) = mpsc::channel(COMMANDS);
        nodes.push((sender, address, *swarm.local_peer_id()));
        tasks.spawn(drive(swarm, person, commands, Arc::clone(&counters)));
    }
    for (one, other) in connections {
        nodes[*one].0.send(Command::Dial(nodes[*other].1.clone())).await?;
    }
    tokio::time::sleep(WARM_UP).await;
    let before = [&counters.delivered, &counters.copies, &counters.bytes].map(|counter| counter.load(Ordering::Relaxed));
    let mut owed = 0;
    let rounds = (time.as_secs_f64() / every.as_secs_f64()).ceil() as u64;
    let mut ticks = tokio::time::interval(every / u32::try_from(graph.len())?);
    for round in 0..rounds {
        for (person, (node, ..)) in nodes.iter().enumerate() {
            ticks.tick().await;
            let mut data = vec![0; DOCUMENT_BYTES];
            data[..8].copy_from_slice(&round.to_be_bytes());
            owed += graph.contacts(person).count() as u64;
            node.send(Command::Publish(data)).await?;
        }
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    let after = [&counters.delivered, &counters.copies, &counters.bytes].map(|counter| counter.load(Ordering::Relaxed));
    tasks.shutdown().await;
    Ok(Counted { owed, delivered: after[0] - before[0], copies: after[1] - before[1], bytes: after[2] - before[2] })
}
