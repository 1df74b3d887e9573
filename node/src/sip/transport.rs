//! Sockets: UDP, TCP and TLS, with everything bounded: connections in all and of one source, their silence, the queues in and out.
//!
//! Where a socket takes both families, an IPv4 peer is known by its IPv4 address, as everywhere else: it is what phones, descriptions and packets of media say.
//!
//! Keep-alives end here: on streams two line ends are answered with one, among datagrams STUN binding requests are answered (RFC 5626 sections 3.5
//! and 4.4), which tells a phone whether its address translator still knows it.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use halloo_protocol::sip::guard::network;
use halloo_protocol::sip::message::{MESSAGE_BYTES_MAX, stream_length};
use halloo_protocol::sip::transaction::{Flow, Transport};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::mpsc;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_util::task::AbortOnDropHandle;
use tracing::debug;

/// Messages that wait for the edge; more datagrams are dropped, and streams wait.
const INCOMING_MAX: usize = 1_024;

/// How often a port is chosen anew that is free for datagrams and not for connections.
const PORT_TRIES: u32 = 16;

/// Messages that wait for one connection; a phone that doesn't read is cut off.
const OUTGOING_MAX: usize = 64;

/// Connections in all.
const CONNECTIONS_MAX: usize = 1_024;

/// Connections of one source.
const CONNECTIONS_OF_SOURCE_MAX: usize = 32;

/// How long a connection may be silent once somebody with a password has spoken over it: longer than a registration lasts without anything in between.
const SILENCE_MAX: Duration = Duration::from_secs(2 * 3_600);

/// How long before: time to answer a challenge, and to ask a person for a password.
const UNKNOWN_SILENCE_MAX: Duration = Duration::from_secs(60);

/// How long until a connection's first message, and how long it may refuse to take what is sent to it.
const FIRST_MESSAGE_MAX: Duration = Duration::from_secs(30);

/// What comes in.
#[derive(Debug)]
pub(super) enum Incoming {
    /// One message.
    Message(Flow, Vec<u8>),
    /// A connection is gone.
    Closed(Flow),
}

/// One address that is listened on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Listener {
    pub(super) transport: Transport,
    pub(super) address: SocketAddr,
}

#[derive(Debug)]
struct Connection {
    /// `None` once it was given up: it counts until its task has ended.
    sender: Option<mpsc::Sender<Vec<u8>>>,
    local: SocketAddr,
    /// As the guard counts: a whole network where it is one machine's.
    source: IpAddr,
    /// Somebody with a password has spoken over it.
    is_trusted: Arc<AtomicBool>,
}

#[derive(Debug, Default)]
struct Connections {
    /// Nothing is taken any more.
    is_closed: bool,
    next: u64,
    open: HashMap<u64, Connection>,
}

type Shared = Arc<Mutex<Connections>>;

/// All sockets. Dropping it closes them.
#[derive(Debug)]
pub(super) struct Transports {
    udp: Vec<(SocketAddr, Arc<UdpSocket>)>,
    listeners: Vec<Listener>,
    connections: Shared,
    sender: mpsc::Sender<Incoming>,
    tasks: Vec<AbortOnDropHandle<()>>,
}

/// Sockets for datagrams and for connections on one port. One that the system chooses for the first may be taken for the second: then it chooses again.
async fn bind_pair(address: SocketAddr) -> io::Result<(UdpSocket, TcpListener)> {
    let mut tries_left = if address.port() == 0 { PORT_TRIES } else { 1 };
    loop {
        let udp = UdpSocket::bind(address).await?;
        tries_left -= 1;
        match TcpListener::bind(udp.local_addr()?).await {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && tries_left > 0 => {}
            tcp => return Ok((udp, tcp?)),
        }
    }
}

impl Transports {
    /// Without a socket yet.
    pub(super) fn new() -> (Self, mpsc::Receiver<Incoming>) {
        let (sender, receiver) = mpsc::channel(INCOMING_MAX);
        let transports =
            Self { udp: Vec::new(), listeners: Vec::new(), connections: Shared::default(), sender, tasks: Vec::new() };
        (transports, receiver)
    }

    /// Listens on this address for datagrams and connections: with port 0, on the same port for both.
    pub(super) async fn listen(&mut self, address: SocketAddr) -> io::Result<()> {
        let (udp, tcp) = bind_pair(address).await?;
        let (udp, bound) = (Arc::new(udp), tcp.local_addr()?);
        let index = self.udp.len() as u64;
        self.udp.push((bound, udp.clone()));
        self.listeners.push(Listener { transport: Transport::Udp, address: bound });
        self.listeners.push(Listener { transport: Transport::Tcp, address: bound });
        let sender = self.sender.clone();
        self.tasks.push(AbortOnDropHandle::new(tokio::spawn(read_datagrams(udp, index, sender))));
        self.spawn_acceptor(tcp, Transport::Tcp, None);
        Ok(())
    }

    /// Listens on this address for encrypted connections.
    pub(super) async fn listen_tls(&mut self, address: SocketAddr, acceptor: TlsAcceptor) -> io::Result<()> {
        let tcp = TcpListener::bind(address).await?;
        self.listeners.push(Listener { transport: Transport::Tls, address: tcp.local_addr()? });
        self.spawn_acceptor(tcp, Transport::Tls, Some(acceptor));
        Ok(())
    }

    /// Opens a socket for datagrams that isn't one of those where phones connect: to a provider. Its number in flows, and where it is.
    pub(super) async fn bind(&mut self, address: SocketAddr) -> io::Result<u64> {
        let udp = Arc::new(UdpSocket::bind(address).await?);
        let index = self.udp.len() as u64;
        self.udp.push((udp.local_addr()?, udp.clone()));
        self.tasks.push(AbortOnDropHandle::new(tokio::spawn(read_datagrams(udp, index, self.sender.clone()))));
        Ok(index)
    }

    /// Makes connections to others.
    pub(super) fn connector(&self) -> Connector {
        Connector { connections: self.connections.clone(), sender: self.sender.clone() }
    }

    fn spawn_acceptor(&mut self, listener: TcpListener, transport: Transport, tls: Option<TlsAcceptor>) {
        let accept = accept(listener, transport, tls, self.connections.clone(), self.sender.clone());
        self.tasks.push(AbortOnDropHandle::new(tokio::spawn(accept)));
    }

    /// Where it listens.
    pub(super) fn listeners(&self) -> &[Listener] {
        &self.listeners
    }

    /// The address at this end of a flow; `None` where its connection is gone.
    pub(super) fn local(&self, flow: Flow) -> Option<SocketAddr> {
        if flow.transport == Transport::Udp {
            return usize::try_from(flow.connection).ok().and_then(|index| self.udp.get(index)).map(|(address, _)| *address);
        }
        lock(&self.connections).open.get(&flow.connection).map(|connection| connection.local)
    }

    /// Somebody with a password has spoken over this flow: it may be silent for as long as a registration lasts.
    pub(super) fn trust(&self, flow: Flow) {
        if let Some(connection) = lock(&self.connections).open.get(&flow.connection).filter(|_| flow.transport != Transport::Udp)
        {
            connection.is_trusted.store(true, Ordering::Relaxed);
        }
    }

    /// Sends; what can't be sent at once is dropped, as a network would.
    pub(super) fn send(&self, flow: Flow, bytes: Vec<u8>) {
        if flow.transport == Transport::Udp {
            let Some((_, socket)) = usize::try_from(flow.connection).ok().and_then(|index| self.udp.get(index)) else { return };
            if let Err(error) = socket.try_send_to(&bytes, as_seen_by(socket, flow.peer)) {
                debug!(%error, "a datagram wasn't sent");
            }
            return;
        }
        let mut connections = lock(&self.connections);
        let Some(connection) = connections.open.get_mut(&flow.connection) else { return };
        if connection.sender.as_ref().is_some_and(|sender| sender.try_send(bytes).is_err()) {
            // It doesn't read: what it misses would leave the stream useless anyway.
            connection.sender = None;
        }
    }
}

impl Drop for Transports {
    /// The connections' tasks hold what is shared, so they have to be told: each ends once what was given to it is written.
    fn drop(&mut self) {
        let mut connections = lock(&self.connections);
        connections.is_closed = true;
        connections.open.values_mut().for_each(|connection| connection.sender = None);
    }
}

/// Makes connections to others, as to a provider; what comes on them comes to the edge. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Connector {
    connections: Shared,
    sender: mpsc::Sender<Incoming>,
}

impl Connector {
    /// Connects, with TLS if there is a name to be proved.
    pub(super) async fn connect(&self, peer: SocketAddr, tls: Option<(TlsConnector, ServerName<'static>)>) -> io::Result<Flow> {
        let connected = tokio::time::timeout(FIRST_MESSAGE_MAX, TcpStream::connect(peer)).await;
        let stream = connected.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        let full = || io::Error::other("too many connections");
        let (id, outgoing, is_trusted) = open(&self.connections, peer.ip(), stream.local_addr()?).ok_or_else(full)?;
        // It was named by the owner, and is as silent as it likes.
        is_trusted.store(true, Ordering::Relaxed);
        let transport = if tls.is_some() { Transport::Tls } else { Transport::Tcp };
        let flow = Flow { transport, peer, connection: id };
        let (connections, sender) = (self.connections.clone(), self.sender.clone());
        let stream: Box<dyn Stream> = match tls {
            None => Box::new(stream),
            Some((tls, name)) => match tokio::time::timeout(FIRST_MESSAGE_MAX, tls.connect(name, stream)).await {
                Ok(Ok(stream)) => Box::new(stream),
                failed => {
                    lock(&connections).open.remove(&id);
                    return Err(failed
                        .map_or_else(|_| io::Error::from(io::ErrorKind::TimedOut), |failed| failed.err().unwrap_or_else(full)));
                }
            },
        };
        tokio::spawn(async move {
            serve(stream, flow, outgoing, &sender, &is_trusted).await;
            lock(&connections).open.remove(&id);
            // The edge has ended: nobody wants to know.
            let _ = sender.send(Incoming::Closed(flow)).await;
        });
        Ok(flow)
    }

    /// Whether a connection is still there.
    pub(super) fn is_open(&self, flow: Flow) -> bool {
        lock(&self.connections).open.get(&flow.connection).is_some_and(|connection| connection.sender.is_some())
    }
}

/// A connection, encrypted or not.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// An address that a socket can send to: on one of IPv6 an IPv4 address has another form.
fn as_seen_by(socket: &UdpSocket, peer: SocketAddr) -> SocketAddr {
    match (peer, socket.local_addr()) {
        (SocketAddr::V4(peer), Ok(SocketAddr::V6(_))) => SocketAddr::new(peer.ip().to_ipv6_mapped().into(), peer.port()),
        _ => peer,
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn lock(connections: &Shared) -> std::sync::MutexGuard<'_, Connections> {
    connections.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn read_datagrams(socket: Arc<UdpSocket>, index: u64, sender: mpsc::Sender<Incoming>) {
    let mut buffer = vec![0; MESSAGE_BYTES_MAX];
    loop {
        let (length, peer) = match socket.recv_from(&mut buffer).await {
            Ok((length, peer)) => (length, canonical(peer)),
            Err(error) => {
                // An ICMP error about an earlier datagram; the socket goes on.
                debug!(%error, "reading datagrams");
                tokio::task::yield_now().await;
                continue;
            }
        };
        let bytes = &buffer[..length];
        if let Some(answer) = stun_answer(bytes, peer) {
            // As any datagram it may get lost.
            let _ = socket.try_send_to(&answer, as_seen_by(&socket, peer));
            continue;
        }
        if bytes.iter().all(|b| matches!(b, b'\r' | b'\n' | 0)) {
            continue;
        }
        let flow = Flow { transport: Transport::Udp, peer, connection: index };
        if sender.try_send(Incoming::Message(flow, bytes.to_vec())).is_err() {
            debug!("the edge has too much to do: a datagram was dropped");
        }
    }
}

/// The answer to a STUN binding request: where it was seen to come from (RFC 8489 sections 5 and 14.2).
fn stun_answer(bytes: &[u8], peer: SocketAddr) -> Option<Vec<u8>> {
    const COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
    if bytes.len() < 20 || bytes[..2] != [0, 1] || bytes[4..8] != COOKIE {
        return None;
    }
    let mask = &bytes[4..20];
    let port = peer.port() ^ 0x2112;
    let (family, address) = match peer.ip() {
        IpAddr::V4(address) => (1, address.octets().to_vec()),
        IpAddr::V6(address) => (2, address.octets().to_vec()),
    };
    let mut answer = vec![1, 1, 0, u8::try_from(8 + address.len()).ok()?];
    answer.extend_from_slice(mask);
    answer.extend_from_slice(&[0, 0x20, 0, u8::try_from(4 + address.len()).ok()?, 0, family]);
    answer.extend_from_slice(&port.to_be_bytes());
    answer.extend(address.iter().zip(mask).map(|(byte, mask)| byte ^ mask));
    Some(answer)
}

async fn accept(
    listener: TcpListener,
    transport: Transport,
    tls: Option<TlsAcceptor>,
    connections: Shared,
    sender: mpsc::Sender<Incoming>,
) {
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok((stream, peer)) => (stream, canonical(peer)),
            Err(error) => {
                // Out of file descriptors, most likely: it gets better or it doesn't, and it mustn't take a whole core.
                debug!(%error, "accepting connections");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(local) = stream.local_addr().map(canonical) else { continue };
        let Some((id, outgoing, is_trusted)) = open(&connections, peer.ip(), local) else { continue };
        let (connections, sender, tls) = (connections.clone(), sender.clone(), tls.clone());
        let flow = Flow { transport, peer, connection: id };
        tokio::spawn(async move {
            match tls {
                None => serve(stream, flow, outgoing, &sender, &is_trusted).await,
                Some(tls) => match tokio::time::timeout(FIRST_MESSAGE_MAX, tls.accept(stream)).await {
                    Ok(Ok(stream)) => serve(stream, flow, outgoing, &sender, &is_trusted).await,
                    _ => debug!("no TLS was agreed on"),
                },
            }
            lock(&connections).open.remove(&id);
            // The edge has ended: nobody wants to know.
            let _ = sender.send(Incoming::Closed(flow)).await;
        });
    }
}

fn open(connections: &Shared, source: IpAddr, local: SocketAddr) -> Option<(u64, mpsc::Receiver<Vec<u8>>, Arc<AtomicBool>)> {
    let (mut connections, source) = (lock(connections), network(source));
    let of_source = connections.open.values().filter(|connection| connection.source == source).count();
    if connections.is_closed {
        return None;
    }
    if connections.open.len() >= CONNECTIONS_MAX || of_source >= CONNECTIONS_OF_SOURCE_MAX {
        debug!("too many connections");
        return None;
    }
    let (sender, receiver) = mpsc::channel(OUTGOING_MAX);
    connections.next += 1;
    let id = connections.next;
    let is_trusted = Arc::new(AtomicBool::new(false));
    connections.open.insert(id, Connection { sender: Some(sender), local, source, is_trusted: is_trusted.clone() });
    Some((id, receiver, is_trusted))
}

/// Reads and writes until either end is done, or the connection was given up.
async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    flow: Flow,
    mut outgoing: mpsc::Receiver<Vec<u8>>,
    sender: &mpsc::Sender<Incoming>,
    is_trusted: &AtomicBool,
) {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let mut buffer = Vec::new();
    // Bytes and pings alone don't keep a place: there has to be a message first, and one with a password to keep it for long.
    let (mut due, mut has_spoken) = (Instant::now() + FIRST_MESSAGE_MAX, false);
    let unknown_until = Instant::now() + UNKNOWN_SILENCE_MAX;
    loop {
        tokio::select! {
            bytes = outgoing.recv() => {
                let Some(bytes) = bytes else { return };
                if !write(&mut writer, &bytes).await {
                    return;
                }
                if is_trusted.load(Ordering::Relaxed) {
                    due = Instant::now() + SILENCE_MAX;
                }
            }
            read = tokio::time::timeout_at(due.into(), reader.read_buf(&mut buffer)) => {
                if !matches!(read, Ok(Ok(1..))) {
                    return;
                }
                loop {
                    match take_first(&mut buffer) {
                        Ok(First::Ping) => {
                            if !write(&mut writer, b"\r\n").await {
                                return;
                            }
                        }
                        Ok(First::Message(bytes)) => {
                            has_spoken = true;
                            if sender.send(Incoming::Message(flow, bytes)).await.is_err() {
                                return;
                            }
                        }
                        Ok(First::Incomplete) => break,
                        Err(()) => return,
                    }
                }
                if is_trusted.load(Ordering::Relaxed) {
                    due = Instant::now() + SILENCE_MAX;
                } else if has_spoken {
                    due = unknown_until;
                }
            }
        }
    }
}

/// False if it isn't taken in time.
async fn write<W: AsyncWrite + Unpin>(writer: &mut W, bytes: &[u8]) -> bool {
    let written = async {
        writer.write_all(bytes).await?;
        writer.flush().await
    };
    matches!(tokio::time::timeout(FIRST_MESSAGE_MAX, written).await, Ok(Ok(())))
}

enum First {
    Ping,
    Message(Vec<u8>),
    Incomplete,
}

/// Takes the first message out of what was read; an error where the stream can't go on.
fn take_first(buffer: &mut Vec<u8>) -> Result<First, ()> {
    if buffer.starts_with(b"\r\n\r\n") {
        buffer.drain(..4);
        return Ok(First::Ping);
    }
    let padding = buffer.iter().take_while(|b| matches!(b, b'\r' | b'\n')).count();
    if padding > 0 && padding < buffer.len() {
        buffer.drain(..padding);
    } else if padding == buffer.len() {
        return if padding > 4 { Err(()) } else { Ok(First::Incomplete) };
    }
    match stream_length(buffer) {
        Ok(Some(length)) if length <= buffer.len() => Ok(First::Message(buffer.drain(..length).collect())),
        Ok(Some(length)) if length > MESSAGE_BYTES_MAX => Err(()),
        Ok(_) => Ok(First::Incomplete),
        Err(_) => Err(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn dropped_it_closes_connections_and_makes_no_more() {
        let server = TcpListener::bind("127.0.0.1:0").await.expect("a socket");
        let address = server.local_addr().expect("bound");
        let (mut transports, _incoming) = Transports::new();
        transports.listen("127.0.0.1:0".parse().expect("one")).await.expect("listens");
        let connector = transports.connector();
        let flow = connector.connect(address, None).await.expect("connects");
        let (mut called, _) = server.accept().await.expect("a connection");
        let mut caller = TcpStream::connect(transports.listeners()[0].address).await.expect("connects");
        // It is taken once it is answered.
        caller.write_all(b"\r\n\r\n").await.expect("written");
        caller.read_exact(&mut [0; 2]).await.expect("a pong");

        transports.send(flow, b"the last".to_vec());
        drop(transports);
        let mut read = Vec::new();
        called.read_to_end(&mut read).await.expect("closed");
        assert_eq!(read, b"the last", "what was given to it is written");
        assert_eq!(caller.read(&mut [0; 1]).await.expect("closed"), 0);
        assert!(connector.connect(address, None).await.is_err());
    }

    #[test]
    fn a_stream_is_taken_apart() {
        let one = b"OPTIONS sip:a SIP/2.0\r\nContent-Length: 3\r\n\r\nabc";
        let mut buffer = [&b"\r\n\r\n\r\n"[..], one, one, &one[..20]].concat();
        assert!(matches!(take_first(&mut buffer), Ok(First::Ping)));
        for _ in 0..2 {
            let Ok(First::Message(bytes)) = take_first(&mut buffer) else { panic!("a message") };
            assert_eq!(bytes, one);
        }
        assert!(matches!(take_first(&mut buffer), Ok(First::Incomplete)));
        assert!(take_first(&mut b"OPTIONS sip:a SIP/2.0\r\n\r\n".to_vec()).is_err(), "no length");
    }

    #[test]
    fn stun_is_answered_with_the_address_seen() {
        let mut request = vec![0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42];
        request.extend([7; 12]);
        let answer = stun_answer(&request, "192.0.2.1:32853".parse().expect("one")).expect("an answer");
        assert_eq!(answer[..4], [1, 1, 0, 12]);
        assert_eq!(answer[26..], [0xa1, 0x47, 0xe1, 0x12, 0xa6, 0x43]);
        assert_eq!(stun_answer(b"OPTIONS sip:a SIP/2.0", "192.0.2.1:1".parse().expect("one")), None);
    }
}
