//! The sockets of one call: a UDP socket for each host candidate, and a connection to each relay that UDP doesn't reach.
//!
//! Sockets come and go while the call runs, as the machine's uplinks do. A connection is named by a label, an address nothing else can have,
//! so that the TURN client and the transport treat it like a socket of its own.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::{TcpStream, UdpSocket},
    sync::mpsc,
};
use tokio_util::task::AbortOnDropHandle;

use super::turn::StreamWay;
use super::{MediaError, candidates, pinned};

/// Larger datagrams are cut off and fail authentication: nothing of WebRTC exceeds an Ethernet frame.
const DATAGRAM_BYTES_MAX: usize = 2_048;
/// Errors in a row after which a socket is no longer read: its interface is gone.
const SOCKET_ERRORS_MAX: u32 = 16;
/// Packets waiting for a connection; when full the newest is lost, as on any network. Two thirds of a second of audio: what is older is worth nothing.
const STREAM_WAITING_MAX: usize = 32;
/// Pieces read from connections and not yet handled; when full the connections aren't read.
const STREAM_READ_MAX: usize = 32;
/// The two kinds of messages on a relay's stream: what comes before their contents, and the first byte of the second (RFC 8656 section 12).
const STUN_HEADER_BYTES: usize = 20;
const CHANNEL_HEADER_BYTES: usize = 4;
const CHANNEL_FIRST_MIN: u8 = 0x40;
const CHANNEL_FIRST_MAX: u8 = 0x4F;
/// How long a connection to a relay may take: longer than a lost SYN costs (1 s).
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Where a received datagram came from and went to; its bytes wait in the buffer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Datagram {
    pub(super) source: SocketAddr,
    pub(super) destination: SocketAddr,
    pub(super) length: usize,
}

struct BoundSocket {
    socket: UdpSocket,
    local: SocketAddr,
    errors_in_a_row: u32,
}

/// A connection to a relay. Its task ends with the value.
struct RelayStream {
    label: SocketAddr,
    outgoing: mpsc::Sender<Vec<u8>>,
    _task: AbortOnDropHandle<()>,
}

/// A message that a connection's task has read; an empty one at its end.
struct Piece {
    label: SocketAddr,
    relay: SocketAddr,
    bytes: Vec<u8>,
}

/// All sockets of a call, closed on drop.
pub(super) struct Sockets {
    sockets: Vec<BoundSocket>,
    streams: Vec<RelayStream>,
    labels_given: u16,
    pieces: mpsc::Receiver<Piece>,
    piece_sender: mpsc::Sender<Piece>,
    pub(super) buffer: Box<[u8]>,
    /// Where reading goes on, so that a busy socket does not starve the others.
    next: usize,
}

impl Sockets {
    /// Binds a port of the system's choice on each address; one that cannot be bound is left
    /// out as long as another can.
    pub(super) async fn bind(addresses: &[IpAddr]) -> Result<Self, MediaError> {
        let (piece_sender, pieces) = mpsc::channel(STREAM_READ_MAX);
        let mut sockets = Self {
            sockets: Vec::new(),
            streams: Vec::new(),
            labels_given: 0,
            pieces,
            piece_sender,
            buffer: vec![0; DATAGRAM_BYTES_MAX].into_boxed_slice(),
            next: 0,
        };
        let mut failure = MediaError::NoLocalAddress;
        for &address in addresses.iter().take(candidates::HOST_CANDIDATES_MAX) {
            if let Err(error) = sockets.add(address).await {
                failure = error;
            }
        }
        if sockets.sockets.is_empty() { Err(failure) } else { Ok(sockets) }
    }

    /// Binds a port of the system's choice on one more address.
    pub(super) async fn add(&mut self, address: IpAddr) -> Result<SocketAddr, MediaError> {
        let bound = bind_one(address).await.map_err(|source| MediaError::Bind { address, source: Arc::new(source) })?;
        let local = bound.local;
        self.sockets.push(bound);
        Ok(local)
    }

    /// Closes a socket or a connection.
    pub(super) fn remove(&mut self, local: SocketAddr) {
        self.sockets.retain(|bound| bound.local != local);
        self.streams.retain(|stream| stream.label != local);
    }

    /// Connects to a relay, in a task; what is sent meanwhile waits.
    pub(super) fn connect(&mut self, way: StreamWay) -> SocketAddr {
        let relay = way.address();
        self.labels_given = self.labels_given.wrapping_add(1).max(1);
        let unspecified = if relay.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { IpAddr::from(Ipv6Addr::UNSPECIFIED) };
        let label = SocketAddr::new(unspecified, self.labels_given);
        let (outgoing, waiting) = mpsc::channel(STREAM_WAITING_MAX);
        let pieces = self.piece_sender.clone();
        let task = tokio::spawn(async move {
            if let Err(error) = carry(label, way, waiting, &pieces).await {
                tracing::debug!(%relay, %error, "connection to a media relay");
            }
            // The call is over if nobody listens.
            let _ = pieces.send(Piece { label, relay, bytes: Vec::new() }).await;
        });
        self.streams.push(RelayStream { label, outgoing, _task: AbortOnDropHandle::new(task) });
        label
    }

    pub(super) fn local_addrs(&self) -> impl Iterator<Item = SocketAddr> + use<> {
        self.sockets.iter().map(|bound| bound.local).collect::<Vec<_>>().into_iter()
    }

    pub(super) fn labels(&self) -> impl Iterator<Item = SocketAddr> + use<> {
        self.streams.iter().map(|stream| stream.label).collect::<Vec<_>>().into_iter()
    }

    pub(super) fn has(&self, local: SocketAddr) -> bool {
        self.sockets.iter().any(|bound| bound.local == local)
    }

    /// Sends without waiting: a full buffer loses the packet, as any network may.
    pub(super) fn send(&self, local: SocketAddr, remote: SocketAddr, contents: &[u8]) -> bool {
        if let Some(bound) = self.sockets.iter().find(|bound| bound.local == local) {
            return bound.socket.try_send_to(contents, remote).is_ok();
        }
        let Some(stream) = self.streams.iter().find(|stream| stream.label == local) else { return false };
        let mut message = contents.to_vec();
        // ChannelData is padded on streams; what else there is has such a length anyway.
        message.resize(contents.len().next_multiple_of(4), 0);
        stream.outgoing.try_send(message).is_ok()
    }

    pub(super) fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<Datagram> {
        let count = self.sockets.len();
        for offset in 0..count {
            let index = (self.next + offset) % count;
            let bound = &mut self.sockets[index];
            while bound.errors_in_a_row < SOCKET_ERRORS_MAX {
                let mut buffer = ReadBuf::new(&mut self.buffer);
                match bound.socket.poll_recv_from(cx, &mut buffer) {
                    Poll::Pending => break,
                    Poll::Ready(Err(_)) => bound.errors_in_a_row += 1,
                    Poll::Ready(Ok(source)) => {
                        bound.errors_in_a_row = 0;
                        self.next = index + 1;
                        let length = buffer.filled().len();
                        return Poll::Ready(Datagram { source, destination: bound.local, length });
                    }
                }
            }
        }
        // Never `None`: this value holds a sender.
        let Poll::Ready(Some(piece)) = self.pieces.poll_recv(cx) else { return Poll::Pending };
        let length = piece.bytes.len().min(self.buffer.len());
        self.buffer[..length].copy_from_slice(&piece.bytes[..length]);
        Poll::Ready(Datagram { source: piece.relay, destination: piece.label, length })
    }
}

async fn bind_one(address: IpAddr) -> io::Result<BoundSocket> {
    let socket = UdpSocket::bind((address, 0)).await?;
    let local = socket.local_addr()?;
    // A fresh socket refuses to send until the runtime has seen it writable once.
    socket.writable().await?;
    Ok(BoundSocket { socket, local, errors_in_a_row: 0 })
}

/// Carries bytes to a relay and back until either end closes.
async fn carry(
    label: SocketAddr,
    way: StreamWay,
    waiting: mpsc::Receiver<Vec<u8>>,
    pieces: &mpsc::Sender<Piece>,
) -> io::Result<()> {
    let relay = way.address();
    let connecting = tokio::time::timeout(CONNECT_TIMEOUT, async {
        let stream = TcpStream::connect(relay).await?;
        // Audio is small packets, and none of them should wait for the next.
        stream.set_nodelay(true)?;
        Ok::<_, io::Error>(match way {
            StreamWay::Tcp(_) => (stream, None),
            StreamWay::Tls(server) => (stream, Some(pinned::connector(server.certificate)?)),
        })
    });
    let (stream, tls) = connecting.await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    let ends = Ends { label, relay };
    let Some(connector) = tls else { return exchange(ends, stream, waiting, pieces).await };
    let handshake = connector.connect(relay.ip().into(), stream);
    let stream =
        tokio::time::timeout(CONNECT_TIMEOUT, handshake).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    exchange(ends, stream, waiting, pieces).await
}

/// How a connection and its relay are named.
#[derive(Clone, Copy)]
struct Ends {
    label: SocketAddr,
    relay: SocketAddr,
}

async fn exchange(
    Ends { label, relay }: Ends,
    stream: impl AsyncRead + AsyncWrite,
    mut waiting: mpsc::Receiver<Vec<u8>>,
    pieces: &mpsc::Sender<Piece>,
) -> io::Result<()> {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let reading = async {
        let mut bytes = Vec::with_capacity(DATAGRAM_BYTES_MAX);
        loop {
            while let Some(message) = take_message(&mut bytes)? {
                if pieces.send(Piece { label, relay, bytes: message }).await.is_err() {
                    return Ok(());
                }
            }
            if reader.read_buf(&mut bytes).await? == 0 {
                return Ok(());
            }
        }
    };
    let writing = async {
        while let Some(bytes) = waiting.recv().await {
            writer.write_all(&bytes).await?;
            // What TLS has encrypted and the connection hasn't taken yet would wait for the next packet.
            writer.flush().await?;
        }
        Ok(())
    };
    tokio::select! {
        ended = reading => ended,
        ended = writing => ended,
    }
}

/// Takes the first message off what was read of a stream, if it is whole: STUN (RFC 8489 section 5) or ChannelData without its padding (RFC 8656
/// section 12.5).
fn take_message(bytes: &mut Vec<u8>) -> io::Result<Option<Vec<u8>>> {
    let Some(&[first, _, high, low]) = bytes.first_chunk::<4>() else { return Ok(None) };
    let said = usize::from(u16::from_be_bytes([high, low]));
    let length = match first {
        0..=3 => STUN_HEADER_BYTES + said,
        CHANNEL_FIRST_MIN..=CHANNEL_FIRST_MAX => CHANNEL_HEADER_BYTES + said,
        _ => return Err(io::Error::from(io::ErrorKind::InvalidData)),
    };
    let padded = length.next_multiple_of(4);
    if padded > DATAGRAM_BYTES_MAX {
        return Err(io::Error::from(io::ErrorKind::InvalidData));
    }
    if bytes.len() < padded {
        return Ok(None);
    }
    let mut message: Vec<u8> = bytes.drain(..padded).collect();
    message.truncate(length);
    Ok(Some(message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_taken_off_a_stream_whole_and_without_padding() {
        let stun = [&[1, 1, 0, 4][..], &[7; 20]].concat();
        let channel = [&[0x40, 0, 0, 5][..], &[8; 5]].concat();
        let stream = [stun.as_slice(), &channel, &[0; 3], &stun].concat();
        // However it is cut to pieces.
        for size in [1, 3, 7, 24, 100] {
            let mut bytes = Vec::new();
            let mut found = Vec::new();
            for piece in stream.chunks(size) {
                bytes.extend_from_slice(piece);
                while let Some(message) = take_message(&mut bytes).unwrap() {
                    found.push(message);
                }
            }
            assert_eq!(found, [stun.clone(), channel.clone(), stun.clone()]);
            assert!(bytes.is_empty());
        }
    }

    #[test]
    fn what_is_no_message_ends_the_connection() {
        for first in [4, 0x3F, 0x50, 0x80, 0xFF] {
            assert!(take_message(&mut vec![first, 0, 0, 0]).is_err(), "{first:#x}");
        }
        assert!(take_message(&mut vec![0, 1, 0xFF, 0xFF]).is_err(), "longer than anything of ours");
    }
}
