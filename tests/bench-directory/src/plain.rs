//! The opponent: libp2p's own Kademlia as it comes, on the same transports.
//!
//! Server mode, external addresses set, and peers' addresses taken from identify, without which nothing works at all; everything else is
//! as shipped.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures::StreamExt;
use halloo::swarm::{Counted, Traffic};
use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::{Boxed, MemoryTransport};
use libp2p::core::upgrade::Version;
use libp2p::identity::Keypair;
use libp2p::swarm::{NetworkBehaviour, SwarmEvent};
use libp2p::{Multiaddr, PeerId, Swarm, Transport, identify, noise, quic, swarm, yamux};
use libp2p_kad as kad;
use libp2p_kad::store::MemoryStore;
use tokio::sync::{mpsc, oneshot};

use crate::overlay::{Carrier, Lookup, Overlay, Publication, Requests, Size, Totals, delayed_address};

/// Nodes a record is stored at: the crate's `k`.
const REPLICAS: usize = 20;

/// Pause between two nodes that join; all at once, most would know only the first.
const JOIN_PAUSE: Duration = Duration::from_millis(50);

#[derive(NetworkBehaviour)]
#[behaviour(prelude = "libp2p::swarm::derive_prelude")]
struct PlainBehaviour {
    kad: kad::Behaviour<MemoryStore>,
    identify: identify::Behaviour,
}

enum Command {
    Find { key: kad::RecordKey, is_cut_short: bool, reply: oneshot::Sender<Lookup> },
    Put { key: kad::RecordKey, value: Vec<u8>, reply: oneshot::Sender<Publication> },
    Connected(oneshot::Sender<HashSet<PeerId>>),
    Counts(oneshot::Sender<(u64, u64)>),
}

struct Member {
    peer: PeerId,
    key: kad::RecordKey,
    value: Vec<u8>,
    commands: mpsc::Sender<Command>,
    traffic: Arc<Traffic>,
}

/// A network of plain Kademlia nodes.
pub(crate) struct Plain {
    members: Vec<Member>,
}

/// A transport like the product's.
pub(crate) fn transport(keypair: &Keypair, carrier: &Carrier, traffic: &Arc<Traffic>) -> Result<Boxed<(PeerId, StreamMuxerBox)>> {
    let traffic = Arc::clone(traffic);
    Ok(match carrier {
        Carrier::Memory => MemoryTransport::default()
            .map(move |stream, _| Counted::new(stream, Arc::clone(&traffic)))
            .upgrade(Version::V1)
            .authenticate(noise::Config::new(keypair)?)
            .multiplex(yamux::Config::default())
            .boxed(),
        Carrier::Quic | Carrier::DelayedQuic(_) => quic::tokio::Transport::new(quic::Config::new(keypair))
            .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)))
            .boxed(),
    })
}

fn swarm(carrier: &Carrier, traffic: &Arc<Traffic>) -> Result<Swarm<PlainBehaviour>> {
    let keypair = Keypair::generate_ed25519();
    let local = keypair.public().to_peer_id();
    let mut kad = kad::Behaviour::new(local, MemoryStore::new(local));
    kad.set_mode(Some(kad::Mode::Server));
    let identify = identify::Config::new("/plain/1".to_owned(), keypair.public())
        .with_hide_listen_addrs(matches!(carrier, Carrier::DelayedQuic(_)));
    let behaviour = PlainBehaviour { kad, identify: identify::Behaviour::new(identify) };
    let config = swarm::Config::with_tokio_executor();
    Ok(Swarm::new(transport(&keypair, carrier, traffic)?, behaviour, local, config))
}

struct Finding {
    query: kad::QueryId,
    began: Instant,
    is_cut_short: bool,
    first: Option<Duration>,
    reply: oneshot::Sender<Lookup>,
}

/// One node: its swarm and what it was asked.
struct Driver {
    swarm: Swarm<PlainBehaviour>,
    commands: mpsc::Receiver<Command>,
    finding: Vec<Finding>,
    putting: Vec<(kad::QueryId, usize, oneshot::Sender<Publication>)>,
    requests: u64,
}

impl Driver {
    async fn run(mut self) {
        loop {
            tokio::select! {
                command = self.commands.recv() => match command {
                    Some(command) => self.obey(command),
                    None => return,
                },
                event = self.swarm.select_next_some() => self.handle(event),
            }
        }
    }

    fn obey(&mut self, command: Command) {
        let kad = &mut self.swarm.behaviour_mut().kad;
        match command {
            Command::Find { key, is_cut_short, reply } => {
                let query = kad.get_record(key);
                self.finding.push(Finding { query, began: Instant::now(), is_cut_short, first: None, reply });
            }
            Command::Put { key, value, reply } => {
                let length = value.len();
                match kad.put_record(kad::Record::new(key, value), kad::Quorum::All) {
                    Ok(query) => self.putting.push((query, length, reply)),
                    Err(_) => drop(reply.send(Publication::default())),
                }
            }
            Command::Connected(reply) => drop(reply.send(self.swarm.connected_peers().copied().collect())),
            Command::Counts(reply) => {
                let table = kad.kbuckets().map(|bucket| bucket.num_entries() as u64).sum();
                let connections = self.swarm.network_info().connection_counters().num_established();
                let _gone = reply.send((table, u64::from(connections)));
            }
        }
    }

    fn handle(&mut self, event: SwarmEvent<PlainBehaviourEvent>) {
        match event {
            SwarmEvent::NewListenAddr { address, .. } if self.swarm.external_addresses().next().is_none() => {
                self.swarm.add_external_address(address);
            }
            SwarmEvent::Behaviour(PlainBehaviourEvent::Identify(identify::Event::Received { peer_id, info, .. })) => {
                for address in info.listen_addrs {
                    self.swarm.behaviour_mut().kad.add_address(&peer_id, address);
                }
            }
            SwarmEvent::Behaviour(PlainBehaviourEvent::Kad(kad::Event::OutboundQueryProgressed { id, result, stats, step })) => {
                self.progressed(id, &result, &stats, step.last);
            }
            _ => {}
        }
    }

    fn progressed(&mut self, id: kad::QueryId, result: &kad::QueryResult, stats: &kad::QueryStats, is_last: bool) {
        if let Some(at) = self.finding.iter().position(|finding| finding.query == id) {
            let finding = &mut self.finding[at];
            if matches!(result, kad::QueryResult::GetRecord(Ok(kad::GetRecordOk::FoundRecord(_)))) {
                finding.first.get_or_insert_with(|| finding.began.elapsed());
            }
            let is_over = is_last || (finding.is_cut_short && finding.first.is_some());
            if is_over {
                let finding = self.finding.swap_remove(at);
                let elapsed = finding.first.unwrap_or_else(|| finding.began.elapsed());
                let found = finding.first.is_some();
                let _gone = finding.reply.send(Lookup { found, requests: stats.num_requests(), elapsed });
                if let Some(mut query) = self.swarm.behaviour_mut().kad.query_mut(&id) {
                    query.finish();
                }
            }
        }
        if is_last && let Some(at) = self.putting.iter().position(|(query, ..)| *query == id) {
            let (_, length, reply) = self.putting.swap_remove(at);
            let publication =
                Publication { replicas: REPLICAS as u32, requests: stats.num_requests(), record_bytes: length as u32 };
            let _gone = reply.send(publication);
        }
        if is_last {
            self.requests += u64::from(stats.num_requests());
        }
    }
}

impl Member {
    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T> {
        let (sender, receiver) = oneshot::channel();
        self.commands.send(command(sender)).await.map_err(|_| anyhow::anyhow!("a node stopped"))?;
        receiver.await.context("a node stopped")
    }
}

impl Plain {
    fn holders(&self, key: &kad::RecordKey) -> HashSet<PeerId> {
        let target = kad::KBucketKey::new(key.clone());
        let mut peers: Vec<PeerId> = self.members.iter().map(|member| member.peer).collect();
        peers.sort_by_key(|peer| target.distance(&kad::KBucketKey::from(*peer)));
        peers.truncate(REPLICAS);
        peers.into_iter().collect()
    }

    async fn add(
        &mut self,
        carrier: &Carrier,
        record_bytes: usize,
        bootstrap: Option<&(PeerId, Multiaddr)>,
    ) -> Result<(PeerId, Multiaddr)> {
        let traffic = Arc::new(Traffic::default());
        let mut swarm = swarm(carrier, &traffic)?;
        let peer = *swarm.local_peer_id();
        if let Carrier::DelayedQuic(delay) = carrier {
            let listen: SocketAddr = tokio::net::UdpSocket::bind("127.0.0.1:0").await?.local_addr()?;
            swarm.add_external_address(delayed_address(delay, listen).await?);
            swarm.listen_on(format!("/ip4/127.0.0.1/udp/{}/quic-v1", listen.port()).parse()?)?;
        } else if matches!(carrier, Carrier::Quic) {
            swarm.listen_on("/ip4/127.0.0.1/udp/0/quic-v1".parse()?)?;
        } else {
            swarm.listen_on("/memory/0".parse()?)?;
        }
        let address = loop {
            if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
                let outside = swarm.external_addresses().next().cloned();
                if outside.is_none() {
                    swarm.add_external_address(address.clone());
                }
                break outside.unwrap_or(address);
            }
        };
        if let Some((peer, address)) = bootstrap {
            swarm.behaviour_mut().kad.add_address(peer, address.clone());
            swarm.behaviour_mut().kad.bootstrap()?;
        }
        let (commands, receiver) = mpsc::channel(64);
        let driver = Driver { swarm, commands: receiver, finding: Vec::new(), putting: Vec::new(), requests: 0 };
        tokio::spawn(driver.run());
        let key = kad::RecordKey::new(&rand::random::<[u8; 32]>());
        let value = (0..record_bytes).map(|_| rand::random()).collect();
        self.members.push(Member { peer, key, value, commands, traffic });
        Ok((peer, address))
    }
}

impl Overlay for Plain {
    const IS_CUT_SHORT: bool = true;
    const NAME: &'static str = "libp2p-kad";

    async fn start(size: Size, carrier: &Carrier, progress: &dyn Fn(usize)) -> Result<Self> {
        let mut network = Self { members: Vec::new() };
        let first = network.add(carrier, size.record_bytes, None).await?;
        for number in 1..size.nodes {
            network.add(carrier, size.record_bytes, Some(&first)).await?;
            tokio::time::sleep(JOIN_PAUSE).await;
            progress(number + 1);
        }
        Ok(network)
    }

    fn len(&self) -> usize {
        self.members.len()
    }

    async fn is_holder_connected(&self, asker: usize, owner: usize) -> Result<Option<bool>> {
        let (asker, owner) = (&self.members[asker], &self.members[owner]);
        let holders = self.holders(&owner.key);
        if holders.contains(&asker.peer) || asker.peer == owner.peer {
            return Ok(None);
        }
        let connected = asker.ask(Command::Connected).await?;
        Ok(Some(holders.intersection(&connected).next().is_some()))
    }

    async fn look_up(&self, asker: usize, owner: usize, is_cut_short: bool) -> Result<Lookup> {
        let key = self.members[owner].key.clone();
        self.members[asker].ask(|reply| Command::Find { key, is_cut_short, reply }).await
    }

    async fn publish(&self, owner: usize) -> Result<Publication> {
        let member = &self.members[owner];
        let (key, value) = (member.key.clone(), member.value.clone());
        member.ask(|reply| Command::Put { key, value, reply }).await
    }

    async fn refresh(&self, owner: usize) -> Result<u32> {
        Ok(self.publish(owner).await?.replicas)
    }

    async fn requests_of(&self, _node: usize) -> Result<Requests> {
        Ok(Requests::new())
    }

    async fn totals(&self) -> Result<Totals> {
        let mut totals = Totals::default();
        for member in &self.members {
            let (table, connections) = member.ask(Command::Counts).await?;
            totals.table += table;
            totals.connections += connections;
            totals.written += member.traffic.written();
        }
        Ok(totals)
    }

    async fn stop(self) {}
}
