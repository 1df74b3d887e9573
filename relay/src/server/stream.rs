//! Clients over TCP and TLS (RFC 8656 section 2.1), for networks that block UDP.
//!
//! One task reads and one writes. A message for a client is copied into its connection's queue, of at most [`QUEUE_BYTES_MAX`]: a
//! client that reads too slowly loses packets, as it would over UDP, and delays nobody else.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use slab::Slab;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio_rustls::TlsAcceptor;
use tracing::debug;

use super::core::SharedCore;
use super::{ServeError, accept};
use crate::packet::{ClientPath, HEADROOM_BYTES, Payload, StreamId, Transport};
use crate::stun::{HEADER_BYTES, channel_data};

/// Bytes waiting for one client: half a second of 4 Mbit/s. More would only be late.
const QUEUE_BYTES_MAX: usize = 256 << 10;

/// Longest message: header and the most that its length field can say.
const MESSAGE_BYTES_MAX: usize = HEADER_BYTES + 65_536;

/// Bytes read at first; grows to [`MESSAGE_BYTES_MAX`] for a client that sends messages that long.
const READ_BYTES: usize = 4_096;

/// A connection that has no allocation is closed after this time without a message: 401, Allocate and its answer take a few round trips.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// Time for a TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// What waits for one client.
#[derive(Debug, Default)]
struct Queue {
    bytes: Mutex<Vec<u8>>,
    filled: Notify,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Vec<u8>> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, payload: Payload<'_, '_>) -> bool {
        let mut bytes = self.lock();
        if bytes.len() + payload.len() > QUEUE_BYTES_MAX {
            return false;
        }
        payload.append_to(&mut bytes);
        // ChannelData is padded on streams (RFC 8656 section 12.5); what else there is has such a length anyway.
        let padded = bytes.len().next_multiple_of(4);
        bytes.resize(padded, 0);
        drop(bytes);
        self.filled.notify_one();
        true
    }
}

/// All connections, by number.
#[derive(Debug)]
pub(super) struct Streams {
    queues: Slab<Arc<Queue>>,
    by_address: HashMap<IpAddr, u32>,
    max: usize,
    per_address_max: u32,
}

impl Streams {
    pub(super) fn new(max: u32, per_address_max: u32) -> Self {
        Self { queues: Slab::new(), by_address: HashMap::new(), max: max as usize, per_address_max }
    }

    /// Queues a message; false if there is no room, or nobody.
    pub(super) fn send(&self, stream: StreamId, payload: Payload<'_, '_>) -> bool {
        self.queues.get(stream.0 as usize).is_some_and(|queue| queue.push(payload))
    }

    fn open(&mut self, ip: IpAddr) -> Option<(StreamId, Arc<Queue>)> {
        let of_address = self.by_address.get(&ip).copied().unwrap_or(0);
        if self.queues.len() >= self.max || of_address >= self.per_address_max {
            return None;
        }
        self.by_address.insert(ip, of_address + 1);
        let queue = Arc::<Queue>::default();
        let number = self.queues.insert(Arc::clone(&queue));
        Some((StreamId(number as u32), queue))
    }

    fn close(&mut self, stream: StreamId, ip: IpAddr) {
        self.queues.try_remove(stream.0 as usize);
        if let Some(count) = self.by_address.get_mut(&ip) {
            *count -= 1;
            if *count == 0 {
                self.by_address.remove(&ip);
            }
        }
    }
}

/// A connection's number; gives it back, and with it the allocation, when dropped.
struct Registered {
    core: SharedCore,
    path: ClientPath,
    stream: StreamId,
}

impl Drop for Registered {
    fn drop(&mut self) {
        let mut core = self.core.lock();
        let core = &mut *core;
        core.relay.handle_stream_closed(self.stream, self.path.address, &mut core.net);
        core.net.streams.close(self.stream, self.path.address.ip());
    }
}

/// Accepts connections until told to stop.
pub(super) async fn serve(
    core: SharedCore,
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    stopped: watch::Receiver<bool>,
) -> Result<(), ServeError> {
    // How many there may be is counted with where they come from: see `Streams`.
    let connect = |stream, address| connect(core.clone(), stream, address, tls.clone());
    accept::serve(listener, usize::MAX, stopped, connect).await
}

async fn connect(core: SharedCore, stream: TcpStream, address: SocketAddr, tls: Option<TlsAcceptor>) {
    // Refused by closing: there is nothing to say before a request has come.
    let Some((number, queue)) = core.lock().net.streams.open(address.ip()) else { return };
    let path = ClientPath { address, transport: Transport::Stream(number) };
    let registered = Registered { core, path, stream: number };
    // Voice packets must not wait for each other's acknowledgement.
    let _ = stream.set_nodelay(true);
    let result = match tls {
        None => exchange(&registered, stream, &queue, Writing::Whole).await,
        Some(acceptor) => match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => exchange(&registered, stream, &queue, Writing::ByMessage).await,
            Ok(Err(error)) => Err(error),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        },
    };
    debug!(?result, "connection ended");
}

/// How what waits for a client is handed to its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Writing {
    /// In one go.
    Whole,
    /// Each message by itself, for TLS, so that it has a record of its own. There are clients, coturn's among them, that overlook
    /// the second message of a record.
    ByMessage,
}

async fn exchange<S: AsyncRead + AsyncWrite>(
    registered: &Registered,
    stream: S,
    queue: &Queue,
    writing: Writing,
) -> io::Result<()> {
    let (reader, writer) = tokio::io::split(stream);
    tokio::select! {
        read = read(registered, reader) => read,
        written = write(writer, queue, writing) => written,
    }
}

async fn write(mut writer: impl AsyncWrite + Unpin, queue: &Queue, writing: Writing) -> io::Result<()> {
    let mut bytes = Vec::new();
    loop {
        queue.filled.notified().await;
        bytes.clear();
        std::mem::swap(&mut bytes, &mut *queue.lock());
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let length = match writing {
                Writing::Whole => rest.len(),
                Writing::ByMessage => frame(rest)?.map_or(rest.len(), |(_, padded)| padded.min(rest.len())),
            };
            let (message, others) = rest.split_at(length);
            writer.write_all(message).await?;
            rest = others;
        }
        writer.flush().await?;
    }
}

async fn read(registered: &Registered, mut reader: impl AsyncRead + Unpin) -> io::Result<()> {
    // Headroom first, so that the first message in the buffer has it as well.
    let mut buffer = vec![0; HEADROOM_BYTES + READ_BYTES];
    let mut filled = HEADROOM_BYTES;
    loop {
        let read = tokio::time::timeout(IDLE_TIMEOUT, reader.read(&mut buffer[filled..])).await;
        match read {
            Ok(read) => match read? {
                0 => return Ok(()),
                bytes => filled += bytes,
            },
            Err(_) if registered.core.lock().relay.has_allocation(&registered.path) => continue,
            Err(_) => return Err(io::ErrorKind::TimedOut.into()),
        }
        let start = handle_messages(registered, &mut buffer[..filled])?;
        buffer.copy_within(start..filled, HEADROOM_BYTES);
        filled = HEADROOM_BYTES + filled - start;
        if filled == buffer.len() {
            // A message longer than the buffer is under way.
            buffer.resize(HEADROOM_BYTES + MESSAGE_BYTES_MAX, 0);
        }
    }
}

/// Handles the whole messages in the buffer; gives where the first that isn't whole starts.
fn handle_messages(registered: &Registered, buffer: &mut [u8]) -> io::Result<usize> {
    let mut core = registered.core.lock();
    let now = Instant::now();
    let mut start = HEADROOM_BYTES;
    while let Some((bytes, padded)) = frame(&buffer[start..])? {
        if buffer.len() - start < padded {
            break;
        }
        core.receive_message(&mut buffer[..start + bytes], start, registered.path, now);
        start += padded;
    }
    Ok(start)
}

/// Length of the message that starts here, without and with padding; `None` if too little has come to tell.
fn frame(bytes: &[u8]) -> io::Result<Option<(usize, usize)>> {
    let Some(&[first, _, high, low]) = bytes.first_chunk::<4>() else { return Ok(None) };
    let length = usize::from(u16::from_be_bytes([high, low]));
    if channel_data::is_first_byte(first) {
        let bytes = channel_data::HEADER_BYTES + length;
        Ok(Some((bytes, bytes.next_multiple_of(4))))
    } else if first & 0xC0 == 0 {
        Ok(Some((HEADER_BYTES + length, HEADER_BYTES + length)))
    } else {
        // Another protocol; where its messages end can't be known.
        Err(io::ErrorKind::InvalidData.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_told_apart_by_their_lengths() {
        assert_eq!(frame(&[0x40, 0, 0]).unwrap(), None);
        assert_eq!(frame(&[0x40, 0, 0, 5, 1]).unwrap(), Some((9, 12)));
        assert_eq!(frame(&[0x40, 0, 0, 0]).unwrap(), Some((4, 4)));
        assert_eq!(frame(&[0, 1, 0, 8]).unwrap(), Some((28, 28)));
        assert_eq!(frame(&[0, 1, 0xFF, 0xFF]).unwrap(), Some((20 + 65_535, 20 + 65_535)));
        assert!(frame(&[0x80, 0, 0, 0]).is_err() && frame(&[0x16 | 0xC0, 3, 1, 0]).is_err());
    }

    #[test]
    fn a_slow_client_loses_packets_and_no_more() {
        let mut streams = Streams::new(2, 1);
        let ip: IpAddr = "192.0.2.1".parse().unwrap();
        let (stream, queue) = streams.open(ip).unwrap();
        assert!(streams.open(ip).is_none(), "one for each address");
        let payload = Payload { head: &[1], body: &[2; 996], padding: 0 };
        let sent = (0..1_000).filter(|_| streams.send(stream, payload)).count();
        assert_eq!(sent, QUEUE_BYTES_MAX / 1_000);
        assert_eq!(queue.lock().len(), sent * 1_000, "padded to a multiple of four");
        streams.close(stream, ip);
        assert!(!streams.send(stream, payload));
        assert!(streams.open(ip).is_some());
    }
}
