//! The product's network: nodes of the library, certified by an authority of our own.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use futures::{StreamExt, stream};
use halloo::handle::directory::ResolveOptions;
use halloo::{Event, Node};
use halloo_bench_directory::authority::Authority;
use halloo_protocol::directory::{Place, RecordKey};
use halloo_protocol::kademlia::REPLICAS;
use halloo_protocol::node::Roles;
use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;

use crate::overlay::{Carrier, Lookup, Overlay, Publication, Requests, Size, Totals, delayed_address};

/// The authority's label.
const AUTHORITY: &str = "bench";

/// How long a node may take to be ready.
const READY_LIMIT: Duration = Duration::from_secs(120);

/// A node of the network.
pub(crate) struct Member {
    pub(crate) node: Node,
    pub(crate) username: String,
    pub(crate) peer_id: String,
    key: RecordKey,
    pub(crate) place: Place,
}

/// The network.
pub(crate) struct Product {
    pub(crate) members: Vec<Member>,
}

/// Starts one node; not yet ready when this returns.
pub(crate) async fn start_node(
    authority: &Authority,
    number: usize,
    carrier: &Carrier,
    bootstrap: Option<Multiaddr>,
) -> Result<Member> {
    let (store, identity) = authority.user(number)?;
    let key = RecordKey::of(&identity.user_id());
    let place = identity.place().context("a named user has a place")?;
    let mut builder = Node::builder(identity).store(store).authority(AUTHORITY, authority.key()).lab(true);
    builder = match carrier {
        Carrier::Memory => builder.memory_transport(true).listen("/memory/0".parse()?),
        Carrier::Quic => builder.listen("/ip4/127.0.0.1/udp/0/quic-v1".parse()?),
        Carrier::DelayedQuic(delay) => {
            let listen = free_port().await?;
            let announced = delayed_address(delay, listen).await?;
            builder.listen(format!("/ip4/127.0.0.1/udp/{}/quic-v1", listen.port()).parse()?).announce(announced)
        }
    };
    builder = match bootstrap {
        Some(address) => builder.bootstrap(address),
        // Somebody has to be the first.
        None => builder.role(Roles::DIRECTORY),
    };
    let node = builder.spawn().await?;
    let peer_id = node.status().await?.peer_id;
    Ok(Member { node, username: format!("user{number}@{AUTHORITY}"), peer_id, key, place })
}

async fn free_port() -> Result<SocketAddr> {
    Ok(tokio::net::UdpSocket::bind("127.0.0.1:0").await?.local_addr()?)
}

/// Waits until a node's record was read back through others.
pub(crate) async fn wait_ready(member: &Member) -> Result<()> {
    let ready = async {
        let mut events = member.node.subscribe_after(0);
        while let Some(record) = events.recv().await {
            if matches!(record.event, Event::Ready(_)) {
                return Ok(());
            }
        }
        bail!("the node of {} stopped", member.username)
    };
    match tokio::time::timeout(READY_LIMIT, ready).await {
        Ok(ready) => ready,
        Err(_) => bail!("{} isn't ready: {:?}, {:?}", member.username, member.node.status().await, member.node.totals().await),
    }
}

/// An address of a node that has begun to listen.
pub(crate) async fn address_of(node: &Node, carrier: &Carrier) -> Result<Multiaddr> {
    let deadline = Instant::now() + READY_LIMIT;
    while Instant::now() < deadline {
        let status = node.status().await?;
        let addresses = if matches!(carrier, Carrier::DelayedQuic(_)) { status.external } else { status.listen };
        if let Some(address) = addresses.first() {
            let address: Multiaddr = address.parse()?;
            return Ok(address.iter().filter(|part| !matches!(part, Protocol::P2p(_))).collect());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Err(anyhow!("the first node doesn't listen"))
}

fn kind_name(kind: u16) -> String {
    format!("{kind:#06x}")
}

impl Product {
    /// Members that hold a record: all nodes serve, so it is those closest to it.
    fn holders(&self, key: &RecordKey) -> Vec<&Member> {
        let mut members: Vec<&Member> = self.members.iter().collect();
        members.sort_by_key(|member| key.distance(&member.place));
        members.truncate(REPLICAS);
        members
    }
}

impl Overlay for Product {
    const IS_CUT_SHORT: bool = false;
    const NAME: &'static str = "Halloo";

    async fn start(size: Size, carrier: &Carrier, progress: &dyn Fn(usize)) -> Result<Self> {
        let authority = Authority::new();
        let first = start_node(&authority, 0, carrier, None).await?;
        let bootstrap = address_of(&first.node, carrier).await?;
        let (authority, bootstrap) = (&authority, &bootstrap);
        let mut joining = stream::iter(1..size.nodes)
            .map(|number| async move {
                let member = start_node(authority, number, carrier, Some(bootstrap.clone())).await?;
                wait_ready(&member).await?;
                Ok::<_, anyhow::Error>(member)
            })
            .buffered(size.joins_at_once);
        let mut members = vec![first];
        while let Some(member) = joining.next().await {
            members.push(member?);
            progress(members.len());
        }
        drop(joining);
        Ok(Self { members })
    }

    fn len(&self) -> usize {
        self.members.len()
    }

    async fn is_holder_connected(&self, asker: usize, owner: usize) -> Result<Option<bool>> {
        let (asker, owner) = (&self.members[asker], &self.members[owner]);
        let holders = self.holders(&owner.key);
        if holders.iter().any(|holder| holder.peer_id == asker.peer_id) {
            return Ok(None);
        }
        let connected: HashSet<String> = asker.node.peers().await?.peers.into_iter().map(|peer| peer.peer_id).collect();
        Ok(Some(holders.iter().any(|holder| connected.contains(&holder.peer_id))))
    }

    async fn look_up(&self, asker: usize, owner: usize, _is_cut_short: bool) -> Result<Lookup> {
        let (asker, owner) = (&self.members[asker], &self.members[owner]);
        let began = Instant::now();
        let options = ResolveOptions { fresh: true, settled: false };
        let found = asker.node.directory().resolve(&owner.username, options).await;
        let elapsed = began.elapsed();
        Ok(match found {
            Ok(found) => {
                let is_right = found.devices.iter().any(|device| device.peer_id == owner.peer_id);
                Lookup { found: is_right, requests: found.requests, elapsed }
            }
            Err(_) => Lookup { found: false, requests: 0, elapsed },
        })
    }

    async fn publish(&self, owner: usize) -> Result<Publication> {
        let report = self.members[owner].node.directory().publish().await?;
        Ok(Publication { replicas: report.accepted, requests: report.requests, record_bytes: report.record_bytes })
    }

    async fn refresh(&self, owner: usize) -> Result<u32> {
        let renewal = self.members[owner].node.directory().renew_lease().await?;
        Ok(renewal.asked)
    }

    async fn requests_of(&self, node: usize) -> Result<Requests> {
        let requests = self.members[node].node.totals().await?.requests;
        Ok(requests.into_iter().map(|(kind, count)| (kind_name(kind), count)).collect())
    }

    async fn totals(&self) -> Result<Totals> {
        let mut totals = Totals::default();
        for member in &self.members {
            let node = member.node.totals().await?;
            totals.written += node.written;
            totals.connections += u64::from(node.connections);
            totals.table += u64::from(node.table);
            totals.failed += node.failed;
            totals.first_contacts += node.first_contacts;
            totals.silent_contacts += node.silent_contacts;
            for (kind, count) in node.requests {
                *totals.requests.entry(kind_name(kind)).or_default() += count;
            }
        }
        Ok(totals)
    }

    async fn stop(self) {
        let ends = self.members.iter().map(|member| member.node.shutdown());
        let _already_gone = futures::future::join_all(ends).await;
    }
}
