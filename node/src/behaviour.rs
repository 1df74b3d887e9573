//! Everything the node speaks on its libp2p connections, one field per protocol.
#![expect(missing_docs, reason = "the derived event enum has no place for them")]

use libp2p::{
    allow_block_list, autonat, connection_limits, dcutr, identify, mdns, ping, relay,
    swarm::{NetworkBehaviour, behaviour::toggle::Toggle},
    upnp,
};

use crate::{circuits::Circuits, streams::Streams, swarm::Gate};

/// The node's behaviour. The derive also makes `BehaviourEvent`, one variant per field.
///
/// `limits` and `blocked` come first: a connection they refuse never reaches the others.
#[derive(NetworkBehaviour)]
pub struct Behaviour {
    /// How many connections there may be: [`swarm`](crate::swarm)'s constants.
    pub limits: connection_limits::Behaviour,
    /// Peers we refuse altogether.
    pub blocked: allow_block_list::Behaviour<allow_block_list::BlockedPeers>,
    /// Our own long-lived streams.
    pub streams: Streams,
    /// Tells peers our addresses and protocols, and how they see us; never on relayed connections, but in a lab. So nobody there is taken
    /// for a server of AutoNAT either, which would be told the addresses to try.
    pub identify: Gate<identify::Behaviour>,
    /// Notices dead connections, measures round-trip times.
    pub ping: ping::Behaviour,
    /// Reserves at relays and dials through them.
    pub relay_client: relay::client::Behaviour,
    /// Relays for others, if this node has that role, and counts by user.
    pub relay_server: Toggle<Circuits>,
    /// Asks servers to dial us back, to learn which of our addresses work; off in a lab.
    pub autonat_client: Toggle<autonat::v2::client::Behaviour>,
    /// Dials others back on request, if this node has that role.
    pub autonat_server: Toggle<autonat::v2::server::Behaviour>,
    /// Turns relayed connections into direct ones, which shows each side the other's addresses: with contacts and own devices alone, but in
    /// a lab.
    pub dcutr: Gate<dcutr::Behaviour>,
    /// Asks the home router for a port.
    pub upnp: Toggle<upnp::tokio::Behaviour>,
    /// Finds peers on the local network.
    pub mdns: Toggle<mdns::tokio::Behaviour>,
}

impl std::fmt::Debug for Behaviour {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Behaviour").field("streams", &self.streams).finish_non_exhaustive()
    }
}
