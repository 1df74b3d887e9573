//! A stream of the overlay protocol with nobody's framing on it: for lies about lengths.

use std::convert::Infallible;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::{AsyncReadExt, AsyncWriteExt, StreamExt};
use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::core::upgrade::{DeniedUpgrade, ReadyUpgrade};
use libp2p::swarm::handler::{ConnectionEvent, FullyNegotiatedOutbound};
use libp2p::swarm::{
    ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm, NetworkBehaviour, Stream,
    SubstreamProtocol, SwarmEvent, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId, StreamProtocol, Swarm, SwarmBuilder, noise, tcp, yamux};
use tokio::runtime::Runtime;

/// Longest wait for anything.
const TIME_MAX: Duration = Duration::from_secs(10);

/// Sends bytes on a fresh overlay stream, and tells how the other side ended it.
///
/// Returns what it said before the end, `None` if it kept the stream open for `patience`.
///
/// # Panics
/// If there is no connection or no stream in time.
#[track_caller]
#[must_use]
pub fn send_raw(address: &str, bytes: &[u8], patience: Duration) -> Option<Vec<u8>> {
    let runtime = Runtime::new().expect("a runtime");
    let sent = runtime.block_on(async {
        let mut swarm = swarm();
        let address: Multiaddr = address.parse().expect("the daemon listens on a multiaddress");
        swarm.dial(address).expect("the address can be dialled");
        let mut stream = tokio::time::timeout(TIME_MAX, opened(&mut swarm)).await.expect("a stream in time");
        let driver = tokio::spawn(async move { while swarm.next().await.is_some() {} });
        // The other side may have had enough before all is written.
        let _written = stream.write_all(bytes).await;
        let _flushed = stream.flush().await;
        let mut said = Vec::new();
        let ended = tokio::time::timeout(patience, stream.read_to_end(&mut said)).await;
        driver.abort();
        ended.is_ok().then_some(said)
    });
    runtime.shutdown_background();
    sent
}

fn swarm() -> Swarm<Open> {
    SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)
        .expect("Noise takes the key")
        .with_quic()
        .with_behaviour(|_| Open::default())
        .expect("a behaviour can't fail")
        .with_swarm_config(|config| config.with_idle_connection_timeout(TIME_MAX))
        .build()
}

async fn opened(swarm: &mut Swarm<Open>) -> Stream {
    loop {
        match swarm.next().await {
            Some(SwarmEvent::Behaviour(stream)) => return stream,
            Some(SwarmEvent::OutgoingConnectionError { error, .. }) => panic!("no connection: {error}"),
            Some(_) => {}
            None => unreachable!("a swarm never ends"),
        }
    }
}

/// Opens one stream on each connection and hands it out.
#[derive(Default)]
struct Open {
    opened: Vec<Stream>,
}

struct OpenHandler {
    is_requested: bool,
    stream: Option<Stream>,
}

impl NetworkBehaviour for Open {
    type ConnectionHandler = OpenHandler;
    type ToSwarm = Stream;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(OpenHandler { is_requested: true, stream: None })
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(OpenHandler { is_requested: false, stream: None })
    }

    fn on_swarm_event(&mut self, _: FromSwarm<'_>) {}

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, stream: THandlerOutEvent<Self>) {
        self.opened.push(stream);
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        self.opened.pop().map_or(Poll::Pending, |stream| Poll::Ready(ToSwarm::GenerateEvent(stream)))
    }
}

impl ConnectionHandler for OpenHandler {
    type FromBehaviour = Infallible;
    type ToBehaviour = Stream;
    type InboundProtocol = DeniedUpgrade;
    type OutboundProtocol = ReadyUpgrade<StreamProtocol>;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = ();

    fn listen_protocol(&self) -> SubstreamProtocol<DeniedUpgrade> {
        SubstreamProtocol::new(DeniedUpgrade, ())
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ConnectionHandlerEvent<ReadyUpgrade<StreamProtocol>, (), Stream>> {
        if !std::mem::replace(&mut self.is_requested, true) {
            let protocol = StreamProtocol::new(halloo_protocol::wire::OVERLAY_PROTOCOL);
            let protocol = SubstreamProtocol::new(ReadyUpgrade::new(protocol), ());
            return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol });
        }
        self.stream.take().map_or(Poll::Pending, |stream| Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(stream)))
    }

    fn on_behaviour_event(&mut self, event: Infallible) {
        match event {}
    }

    fn connection_keep_alive(&self) -> bool {
        true
    }

    fn on_connection_event(&mut self, event: ConnectionEvent<'_, DeniedUpgrade, ReadyUpgrade<StreamProtocol>>) {
        if let ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol, .. }) = event {
            self.stream = Some(protocol);
        }
    }
}
