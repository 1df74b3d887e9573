//! Nodes of the library in this process, at one address, with what they keep in memory.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use halloo::config::GatewayConfig;
use halloo::handle::contacts::{Audience, ContactState, PrivacyChange};
use halloo::handle::network::PeerEntry;
use halloo::roles::relay::MediaRelayConfig;
use halloo::store::Store;
use halloo::{Event, Node};
use halloo_bench_directory::authority::Authority;
use halloo_protocol::node::Roles;
use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;

use crate::slow_link::ADDRESS;

/// The authority's label.
const AUTHORITY: &str = "bench";

/// How long anything but a call may take.
const LIMIT: Duration = Duration::from_secs(60);

const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// What a node is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// Keeps records, relays signalling and media.
    Server,
    /// A device that everybody can connect to.
    Open,
    /// One that nobody can connect to: it is found at its relays.
    Hidden,
    /// A server that pushes too, to services of this bench; on a thread of its own, so that its processor time can be told from the others'.
    Gateway,
    /// A device that everybody can connect to and that can be frozen; it vouches for itself for [`LEASE_SECS`] at a time.
    Sleeper,
}

/// How long after it was frozen only its gateway vouches for a sleeper. An hour outside this bench.
pub(crate) const LEASE_SECS: u64 = 20;

/// A node.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) node: Node,
    pub(crate) username: String,
    pub(crate) peer_id: String,
}

/// A network.
#[derive(Debug)]
pub(crate) struct Lab {
    authority: Authority,
    bootstrap: Option<Multiaddr>,
    next: usize,
}

impl Lab {
    pub(crate) fn new() -> Self {
        Self { authority: Authority::new(), bootstrap: None, next: 0 }
    }

    /// Starts a node and waits until it is ready, and where it needs them until it has its relays.
    pub(crate) async fn join(&mut self, part: Part) -> Result<Member> {
        self.join_with(part, Store::in_memory()?).await
    }

    /// The same, with a store that the caller has made.
    pub(crate) async fn join_with(&mut self, part: Part, store: Store) -> Result<Member> {
        self.join_as(part, store, GatewayConfig::default()).await
    }

    /// The same, with what the gateway's role is to use.
    pub(crate) async fn join_as(&mut self, part: Part, store: Store, gateway: GatewayConfig) -> Result<Member> {
        let number = self.next;
        self.next += 1;
        let identity = self.authority.user_in(number, &store)?;
        let mut builder = Node::builder(identity).store(store).authority(AUTHORITY, self.authority.key());
        builder = builder.privacy(PrivacyChange::all(Audience::Anyone));
        builder = builder.mdns(false).upnp(false).listen(format!("/ip4/{ADDRESS}/udp/0/quic-v1").parse()?);
        builder = match part {
            Part::Server => {
                let media = MediaRelayConfig { listen: vec![SocketAddr::from((ADDRESS, 0))], ..MediaRelayConfig::lab() };
                let roles = Roles::DIRECTORY.union(Roles::RELAY).union(Roles::MAILBOX).union(Roles::MEDIA_RELAY);
                builder.role(roles).media_relay(media)
            }
            Part::Open => builder.publish_addresses(true),
            Part::Hidden => builder,
            Part::Gateway => {
                let roles = Roles::DIRECTORY.union(Roles::RELAY).union(Roles::MAILBOX).union(Roles::GATEWAY);
                builder.role(roles).lab(true).freezable(true).gateway_role(gateway)
            }
            Part::Sleeper => builder.publish_addresses(true).freezable(true).dangerous_lease_secs(LEASE_SECS),
        };
        if let Some(address) = &self.bootstrap {
            builder = builder.bootstrap(address.clone());
        }
        let node = builder.spawn().await?;
        let peer_id = node.status().await?.peer_id;
        let member = Member { node, username: format!("user{number}@{AUTHORITY}"), peer_id };
        if self.bootstrap.is_none() {
            self.bootstrap = Some(member.address().await?);
        } else {
            member.wait_ready().await?;
        }
        Ok(member)
    }
}

/// Looks again and again until there is something.
pub(crate) async fn eventually<T>(what: &str, look: impl AsyncFn() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + LIMIT;
    while Instant::now() < deadline {
        if let Some(found) = look().await? {
            return Ok(found);
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    bail!("{what}: not within {LIMIT:?}")
}

impl Member {
    async fn address(&self) -> Result<Multiaddr> {
        eventually("the first node listens", async || {
            let Some(address) = self.node.status().await?.listen.into_iter().next() else { return Ok(None) };
            let address: Multiaddr = address.parse()?;
            Ok(Some(address.iter().filter(|part| !matches!(part, Protocol::P2p(_))).collect()))
        })
        .await
    }

    /// The ports it listens on.
    pub(crate) async fn ports(&self) -> Result<Vec<u16>> {
        let mut ports = Vec::new();
        for address in self.node.status().await?.listen {
            let address: Multiaddr = address.parse()?;
            ports.extend(address.iter().filter_map(|part| match part {
                Protocol::Udp(port) | Protocol::Tcp(port) => Some(port),
                _ => None,
            }));
        }
        Ok(ports)
    }

    async fn wait_ready(&self) -> Result<()> {
        let ready = async {
            let mut events = self.node.subscribe_after(0);
            while let Some(record) = events.recv().await {
                if matches!(record.event, Event::Ready(_)) {
                    return Ok(());
                }
            }
            bail!("the node of {} stopped", self.username)
        };
        tokio::time::timeout(LIMIT, ready).await.with_context(|| format!("{} isn't ready", self.username))?
    }

    /// Waits until so many relays hold reservations for this node and its record, as others see it, names them.
    pub(crate) async fn wait_relayed(&self, other: &Self) -> Result<Vec<String>> {
        let relays = eventually("reservations", async || {
            let relays = self.node.status().await?.relays;
            Ok((!relays.is_empty()).then_some(relays))
        })
        .await?;
        let options = halloo::handle::directory::ResolveOptions { fresh: true, settled: false };
        eventually("the record names the relays", async || {
            let found = other.node.directory().resolve(&self.username, options).await?;
            let mut addresses = found.devices.iter().flat_map(|device| &device.addresses);
            Ok(addresses.any(|address| address.contains("p2p-circuit")).then_some(()))
        })
        .await?;
        Ok(relays)
    }

    /// Whether there is a connection to a node, and if so whether a direct one.
    pub(crate) async fn connection(&self, peer_id: &str) -> Result<Option<PeerEntry>> {
        Ok(self.node.peers().await?.peers.into_iter().find(|peer| peer.peer_id == peer_id))
    }

    /// Makes contacts of the two users.
    pub(crate) async fn befriend(&self, other: &Self) -> Result<()> {
        self.node.contacts().add(&other.username, "").await?;
        let is_one_of = async |who: &Self, whom: &Self, states: &[ContactState]| {
            let known = who.node.contacts().get(&whom.username).await;
            Ok(known.is_ok_and(|contact| states.contains(&contact.state)).then_some(()))
        };
        eventually("a contact request", async || is_one_of(other, self, &[ContactState::Requested, ContactState::Contact]).await)
            .await?;
        other.node.contacts().add(&self.username, "").await?;
        eventually("contacts", async || is_one_of(self, other, &[ContactState::Contact]).await).await?;
        eventually("contacts", async || is_one_of(other, self, &[ContactState::Contact]).await).await
    }

    /// Ends the connections to all of these. What they are told of it arrives before anything that is said afterwards.
    pub(crate) async fn leave(&self, others: &[&Self]) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let peers = self.node.peers().await?.peers;
            let connected = |other: &&&Self| peers.iter().any(|peer| peer.peer_id == other.peer_id);
            let left: Vec<&&Self> = others.iter().filter(connected).collect();
            if left.is_empty() {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("{} is connected again and again", self.username);
            }
            for other in left {
                self.node.disconnect(&other.peer_id).await?;
            }
            tokio::task::yield_now().await;
        }
    }
}
