//! Keeps a stock protocol off relayed connections until it is known who is at the other end.
//!
//! A relayed connection shows neither side the other's addresses. Some of libp2p's protocols tell them all the same, as soon as a connection
//! stands: identify those that are listened on, DCUtR those that others have seen. Whoever may take a relay to a device, which is everybody who
//! knows its user's name, would have them from there.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::task::{Context, Poll};

use futures::future::{self, Either};
use libp2p::PeerId;
use libp2p::core::upgrade::{InboundUpgrade, UpgradeInfo};
use libp2p::core::{ConnectedPoint, Endpoint, Multiaddr, transport::PortUse};
use libp2p::swarm::behaviour::{ConnectionClosed, ConnectionEstablished, FromSwarm};
use libp2p::swarm::handler::{
    AddressChange, ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound, ListenUpgradeError,
};
use libp2p::swarm::handler::{ConnectionHandler, ConnectionHandlerEvent, InboundUpgradeSend, SubstreamProtocol, UpgradeInfoSend};
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, NetworkBehaviour, NotifyHandler, Stream, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
};

use crate::address;

/// Which connections a [`Gate`] shuts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GateRule {
    /// None.
    Open,
    /// Relayed ones, until [`Gate::open_dialled`] or [`Gate::open_taken`] opens them.
    Relayed,
}

/// A behaviour that isn't told of relayed connections, and has no handler on them, until they are opened. The other end sees a peer that
/// doesn't speak the protocol.
pub struct Gate<B: NetworkBehaviour> {
    inner: B,
    rule: GateRule,
    /// Relayed connections the inner behaviour knows nothing of.
    shut: HashMap<ConnectionId, (PeerId, ConnectedPoint)>,
    /// Handlers on their way to connections that were opened.
    opened: VecDeque<(PeerId, ConnectionId, Box<THandler<B>>)>,
}

impl<B: NetworkBehaviour> fmt::Debug for Gate<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate").field("rule", &self.rule).field("shut", &self.shut).finish_non_exhaustive()
    }
}

impl<B: NetworkBehaviour> Gate<B> {
    /// Shuts what `rule` says.
    pub fn new(inner: B, rule: GateRule) -> Self {
        Self { inner, rule, shut: HashMap::new(), opened: VecDeque::new() }
    }

    /// Lets the protocol speak on the relayed connections that we have dialled to this peer. True if there were any.
    pub fn open_dialled(&mut self, peer: &PeerId) -> bool {
        self.open(peer, true)
    }

    /// The same for those that it has dialled to us.
    pub fn open_taken(&mut self, peer: &PeerId) -> bool {
        self.open(peer, false)
    }

    /// True if there are connections to this peer, dialled by us, on which nothing is said.
    pub fn is_shut_to(&self, peer: &PeerId) -> bool {
        self.shut.values().any(|(other, endpoint)| other == peer && endpoint.is_dialer())
    }

    fn open(&mut self, peer: &PeerId, dialled: bool) -> bool {
        let matching = self.shut.iter().filter(|(_, (other, endpoint))| other == peer && endpoint.is_dialer() == dialled);
        let matching: Vec<ConnectionId> = matching.map(|(connection, _)| *connection).collect();
        for connection in &matching {
            let Some((peer, endpoint)) = self.shut.remove(connection) else { continue };
            match self.handler(*connection, peer, &endpoint) {
                Ok(handler) => {
                    self.inner.on_swarm_event(FromSwarm::ConnectionEstablished(ConnectionEstablished {
                        peer_id: peer,
                        connection_id: *connection,
                        endpoint: &endpoint,
                        failed_addresses: &[],
                        other_established: 0,
                    }));
                    self.opened.push_back((peer, *connection, Box::new(handler)));
                }
                // It refuses the connection: then it doesn't speak there.
                Err(_) => {
                    self.shut.insert(*connection, (peer, endpoint));
                }
            }
        }
        !matching.is_empty()
    }

    fn handler(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        endpoint: &ConnectedPoint,
    ) -> Result<THandler<B>, ConnectionDenied> {
        match endpoint {
            ConnectedPoint::Dialer { address, role_override, port_use } => {
                self.inner.handle_established_outbound_connection(connection, peer, address, *role_override, *port_use)
            }
            ConnectedPoint::Listener { local_addr, send_back_addr } => {
                self.inner.handle_established_inbound_connection(connection, peer, local_addr, send_back_addr)
            }
        }
    }

    fn shuts(&self, address: &Multiaddr) -> bool {
        self.rule == GateRule::Relayed && address::is_circuit(address)
    }
}

impl<B: NetworkBehaviour> NetworkBehaviour for Gate<B> {
    type ConnectionHandler = GateHandler<THandler<B>>;
    type ToSwarm = B::ToSwarm;

    fn handle_pending_inbound_connection(
        &mut self,
        connection: ConnectionId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        self.inner.handle_pending_inbound_connection(connection, local, remote)
    }

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<Self::ConnectionHandler, ConnectionDenied> {
        if self.shuts(local) {
            return Ok(GateHandler { inner: None });
        }
        self.inner.handle_established_inbound_connection(connection, peer, local, remote).map(GateHandler::open)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: Option<PeerId>,
        addresses: &[Multiaddr],
        role: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        self.inner.handle_pending_outbound_connection(connection, peer, addresses, role)
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        role: Endpoint,
        port_use: PortUse,
    ) -> Result<Self::ConnectionHandler, ConnectionDenied> {
        if self.shuts(address) {
            return Ok(GateHandler { inner: None });
        }
        self.inner.handle_established_outbound_connection(connection, peer, address, role, port_use).map(GateHandler::open)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(ConnectionEstablished { peer_id, connection_id, endpoint, .. })
                if self.rule == GateRule::Relayed && endpoint.is_relayed() =>
            {
                self.shut.insert(connection_id, (peer_id, endpoint.clone()));
            }
            FromSwarm::ConnectionClosed(ConnectionClosed { connection_id, .. }) => {
                self.opened.retain(|(_, opened, _)| *opened != connection_id);
                if self.shut.remove(&connection_id).is_none() {
                    self.inner.on_swarm_event(event);
                }
            }
            FromSwarm::AddressChange(change) => match self.shut.get_mut(&change.connection_id) {
                Some((_, endpoint)) => *endpoint = change.new.clone(),
                None => self.inner.on_swarm_event(event),
            },
            _ => self.inner.on_swarm_event(event),
        }
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, connection: ConnectionId, event: THandlerOutEvent<Self>) {
        if !self.shut.contains_key(&connection) {
            self.inner.on_connection_handler_event(peer, connection, event);
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        if let Some((peer_id, connection, handler)) = self.opened.pop_front() {
            let event = GateEvent::Open(handler);
            return Poll::Ready(ToSwarm::NotifyHandler { peer_id, handler: NotifyHandler::One(connection), event });
        }
        self.inner.poll(cx).map(|event| event.map_in(GateEvent::Inner))
    }
}

/// What a [`Gate`] tells its handlers.
pub enum GateEvent<H: ConnectionHandler> {
    /// The protocol may speak from now on, by this handler.
    Open(Box<H>),
    /// The inner behaviour's word.
    Inner(H::FromBehaviour),
}

impl<H: ConnectionHandler> fmt::Debug for GateEvent<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open(_) => f.write_str("Open"),
            Self::Inner(event) => f.debug_tuple("Inner").field(event).finish(),
        }
    }
}

/// The inner handler once the gate is open; speaks no protocol before.
pub struct GateHandler<H> {
    inner: Option<H>,
}

impl<H> fmt::Debug for GateHandler<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GateHandler").field("is_open", &self.inner.is_some()).finish()
    }
}

impl<H> GateHandler<H> {
    const fn open(inner: H) -> Self {
        Self { inner: Some(inner) }
    }
}

impl<H: ConnectionHandler> ConnectionHandler for GateHandler<H> {
    type FromBehaviour = GateEvent<H>;
    type ToBehaviour = H::ToBehaviour;
    type InboundProtocol = GateUpgrade<H::InboundProtocol>;
    type OutboundProtocol = H::OutboundProtocol;
    type InboundOpenInfo = Option<H::InboundOpenInfo>;
    type OutboundOpenInfo = H::OutboundOpenInfo;

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol, Self::InboundOpenInfo> {
        match &self.inner {
            Some(inner) => inner.listen_protocol().map_upgrade(|upgrade| GateUpgrade(Some(upgrade))).map_info(Some),
            None => SubstreamProtocol::new(GateUpgrade(None), None),
        }
    }

    fn on_behaviour_event(&mut self, event: Self::FromBehaviour) {
        match (event, &mut self.inner) {
            (GateEvent::Open(handler), inner) => *inner = Some(*handler),
            (GateEvent::Inner(event), Some(inner)) => inner.on_behaviour_event(event),
            // For any connection of the peer: it goes to none that is shut.
            (GateEvent::Inner(_), None) => {}
        }
    }

    fn connection_keep_alive(&self) -> bool {
        self.inner.as_ref().is_some_and(ConnectionHandler::connection_keep_alive)
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Self::OutboundProtocol, Self::OutboundOpenInfo, Self::ToBehaviour>> {
        self.inner.as_mut().map_or(Poll::Pending, |inner| inner.poll(cx))
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Option<Self::ToBehaviour>> {
        self.inner.as_mut().map_or(Poll::Ready(None), |inner| inner.poll_close(cx))
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<'_, Self::InboundProtocol, Self::OutboundProtocol, Self::InboundOpenInfo, Self::OutboundOpenInfo>,
    ) {
        let Some(inner) = &mut self.inner else { return };
        let event = match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound { protocol, info: Some(info) }) => {
                ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound { protocol, info })
            }
            ConnectionEvent::ListenUpgradeError(ListenUpgradeError { info: Some(info), error }) => {
                ConnectionEvent::ListenUpgradeError(ListenUpgradeError { info, error })
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol, info }) => {
                ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol, info })
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError { info, error }) => {
                ConnectionEvent::DialUpgradeError(DialUpgradeError { info, error })
            }
            ConnectionEvent::AddressChange(AddressChange { new_address }) => {
                ConnectionEvent::AddressChange(AddressChange { new_address })
            }
            ConnectionEvent::LocalProtocolsChange(change) => ConnectionEvent::LocalProtocolsChange(change),
            ConnectionEvent::RemoteProtocolsChange(change) => ConnectionEvent::RemoteProtocolsChange(change),
            // A stream whose negotiation began while the gate was shut; it was refused.
            _ => return,
        };
        inner.on_connection_event(event);
    }
}

/// The inner protocol, or none.
pub struct GateUpgrade<U>(Option<U>);

impl<U> fmt::Debug for GateUpgrade<U> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GateUpgrade").field("is_open", &self.0.is_some()).finish()
    }
}

impl<U: UpgradeInfoSend> UpgradeInfo for GateUpgrade<U> {
    type Info = U::Info;
    type InfoIter = std::iter::Flatten<std::option::IntoIter<U::InfoIter>>;

    fn protocol_info(&self) -> Self::InfoIter {
        self.0.as_ref().map(U::protocol_info).into_iter().flatten()
    }
}

impl<U: InboundUpgradeSend> InboundUpgrade<Stream> for GateUpgrade<U> {
    type Output = U::Output;
    type Error = U::Error;
    type Future = Either<U::Future, future::Pending<Result<U::Output, U::Error>>>;

    fn upgrade_inbound(self, stream: Stream, info: Self::Info) -> Self::Future {
        match self.0 {
            Some(upgrade) => Either::Left(upgrade.upgrade_inbound(stream, info)),
            // Nothing was offered, so nothing is agreed on. If it were, the stream's time for negotiation would end it.
            None => Either::Right(future::pending()),
        }
    }
}
