//! Identify, asked of few peers at once.
//!
//! What a peer says of itself by identify is twice as long as the handshake, and on most connections nobody needs it: who a peer is and what it serves stands
//! in its hello. What is left is how peers see our address, and which protocols a relay speaks. So only the first that we dial are asked, the others once they
//! have lasted for identify's interval, or when the owner [wants](Sparing::ask) it. Whoever asks us is answered.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::task::{Context, Poll};

use libp2p::core::{Endpoint, Multiaddr, transport::PortUse};
use libp2p::swarm::behaviour::{ConnectionClosed, DialFailure, FromSwarm, ListenFailure};
use libp2p::swarm::handler::{ConnectionEvent, ConnectionHandler, ConnectionHandlerEvent, SubstreamProtocol, UpgradeInfoSend};
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, NetworkBehaviour, NotifyHandler, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
};
use libp2p::{PeerId, identify};

use crate::address;

/// Connections we have dialled that are asked as soon as they stand: enough to believe what several say of our address.
const ASKED_AT_ONCE: usize = 8;

type Inner = THandler<identify::Behaviour>;

/// How a connection came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Dialled,
    Taken,
    Relayed,
}

#[derive(Debug)]
struct Connection {
    peer: PeerId,
    way: Way,
    is_asked: bool,
}

/// See the [module's documentation](self).
pub struct Sparing {
    inner: identify::Behaviour,
    connections: HashMap<ConnectionId, Connection>,
    /// Connections to be asked.
    wanted: VecDeque<(PeerId, ConnectionId)>,
}

impl fmt::Debug for Sparing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sparing").field("connections", &self.connections.len()).finish_non_exhaustive()
    }
}

impl Sparing {
    /// Asks by `inner`.
    pub fn new(inner: identify::Behaviour) -> Self {
        Self { inner, connections: HashMap::new(), wanted: VecDeque::new() }
    }

    /// Asks this peer, if it hasn't been.
    pub fn ask(&mut self, peer: &PeerId) {
        for (id, connection) in &mut self.connections {
            if connection.peer == *peer && !std::mem::replace(&mut connection.is_asked, true) {
                self.wanted.push_back((*peer, *id));
            }
        }
    }

    fn handler(&mut self, id: ConnectionId, peer: PeerId, way: Way, inner: Inner) -> SparingHandler {
        // A relayed connection is let through for those alone whose addresses are wanted. Whom we dial is a server, more likely than who dials us.
        let is_asked = way == Way::Relayed || (way == Way::Dialled && self.asked() < ASKED_AT_ONCE);
        self.connections.insert(id, Connection { peer, way, is_asked });
        SparingHandler { inner, skips: !is_asked, skipped: None }
    }

    /// How many of those that were dialled are asked.
    fn asked(&self) -> usize {
        self.connections.values().filter(|connection| connection.way == Way::Dialled && connection.is_asked).count()
    }

    /// A connection is gone: another one that stands is asked in its place.
    fn handle_gone(&mut self, id: ConnectionId) {
        self.wanted.retain(|(_, wanted)| *wanted != id);
        let gone = self.connections.remove(&id);
        if !gone.is_some_and(|gone| gone.way == Way::Dialled && gone.is_asked) || self.asked() >= ASKED_AT_ONCE {
            return;
        }
        let waiting = |connection: &Connection| connection.way == Way::Dialled && !connection.is_asked;
        let next = self.connections.iter_mut().find(|(_, connection)| waiting(connection));
        if let Some((id, connection)) = next {
            connection.is_asked = true;
            self.wanted.push_back((connection.peer, *id));
        }
    }
}

impl NetworkBehaviour for Sparing {
    type ConnectionHandler = SparingHandler;
    type ToSwarm = identify::Event;

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
    ) -> Result<SparingHandler, ConnectionDenied> {
        let inner = self.inner.handle_established_inbound_connection(connection, peer, local, remote)?;
        let way = if address::is_circuit(local) { Way::Relayed } else { Way::Taken };
        Ok(self.handler(connection, peer, way, inner))
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
    ) -> Result<SparingHandler, ConnectionDenied> {
        let inner = self.inner.handle_established_outbound_connection(connection, peer, address, role, port_use)?;
        let way = if address::is_circuit(address) { Way::Relayed } else { Way::Dialled };
        Ok(self.handler(connection, peer, way, inner))
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        if let FromSwarm::ConnectionClosed(ConnectionClosed { connection_id, .. })
        | FromSwarm::DialFailure(DialFailure { connection_id, .. })
        | FromSwarm::ListenFailure(ListenFailure { connection_id, .. }) = event
        {
            self.handle_gone(connection_id);
        }
        self.inner.on_swarm_event(event);
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, connection: ConnectionId, event: THandlerOutEvent<Self>) {
        self.inner.on_connection_handler_event(peer, connection, event);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<identify::Event, THandlerInEvent<Self>>> {
        if let Some((peer_id, connection)) = self.wanted.pop_front() {
            let handler = NotifyHandler::One(connection);
            return Poll::Ready(ToSwarm::NotifyHandler { peer_id, handler, event: SparingEvent::Ask });
        }
        self.inner.poll(cx).map(|event| event.map_in(SparingEvent::Inner))
    }
}

/// What [`Sparing`] tells its handlers.
#[derive(Debug)]
pub enum SparingEvent {
    /// Ask now.
    Ask,
    /// The inner behaviour's word.
    Inner(THandlerInEvent<identify::Behaviour>),
}

type Event = ConnectionHandlerEvent<
    <Inner as ConnectionHandler>::OutboundProtocol,
    <Inner as ConnectionHandler>::OutboundOpenInfo,
    <Inner as ConnectionHandler>::ToBehaviour,
>;

/// Identify's handler, whose first question may be kept back.
pub struct SparingHandler {
    inner: Inner,
    /// The first question isn't asked.
    skips: bool,
    /// It wasn't.
    skipped: Option<Event>,
}

impl fmt::Debug for SparingHandler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SparingHandler").field("skips", &self.skips).finish_non_exhaustive()
    }
}

impl ConnectionHandler for SparingHandler {
    type FromBehaviour = SparingEvent;
    type ToBehaviour = <Inner as ConnectionHandler>::ToBehaviour;
    type InboundProtocol = <Inner as ConnectionHandler>::InboundProtocol;
    type OutboundProtocol = <Inner as ConnectionHandler>::OutboundProtocol;
    type InboundOpenInfo = <Inner as ConnectionHandler>::InboundOpenInfo;
    type OutboundOpenInfo = <Inner as ConnectionHandler>::OutboundOpenInfo;

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol, Self::InboundOpenInfo> {
        self.inner.listen_protocol()
    }

    fn on_behaviour_event(&mut self, event: SparingEvent) {
        match event {
            SparingEvent::Ask => self.skips = false,
            SparingEvent::Inner(event) => self.inner.on_behaviour_event(event),
        }
    }

    fn connection_keep_alive(&self) -> bool {
        self.inner.connection_keep_alive()
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        if !self.skips
            && let Some(question) = self.skipped.take()
        {
            return Poll::Ready(question);
        }
        loop {
            match self.inner.poll(cx) {
                Poll::Ready(event) if self.skips && self.skipped.is_none() && is_question(&event) => self.skipped = Some(event),
                // Asked again: the connection has lasted.
                Poll::Ready(event) if is_question(&event) => {
                    (self.skips, self.skipped) = (false, None);
                    return Poll::Ready(event);
                }
                other => return other,
            }
        }
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Option<Self::ToBehaviour>> {
        self.inner.poll_close(cx)
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<'_, Self::InboundProtocol, Self::OutboundProtocol, Self::InboundOpenInfo, Self::OutboundOpenInfo>,
    ) {
        self.inner.on_connection_event(event);
    }
}

/// True for a stream on which the peer is asked, not told.
fn is_question(event: &Event) -> bool {
    let ConnectionHandlerEvent::OutboundSubstreamRequest { protocol } = event else { return false };
    protocol.upgrade().protocol_info().any(|name| AsRef::<str>::as_ref(&name) == identify::PROTOCOL_NAME.as_ref())
}
