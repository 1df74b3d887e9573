//! The runtime's relay and its sockets, under one lock: what its tasks share. It serves connections, and UDP where no threads do.
//!
//! [`Net`] is the part that sends and opens, [`udp`] the part that receives datagrams, [`stream`](super::stream) the part that holds connections.
//! The threads' counterpart of all this is `crate::worker`. What goes from a client there to one here comes through the relayed sockets; the
//! other way it leaves at once, from a listener's socket that both have.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use tokio::net::UdpSocket;
use tokio::task::AbortHandle;

use super::stream::Streams;
use super::udp;
use crate::metrics::{DropReason, Metrics};
use crate::packet::{ClientPath, HEADROOM_BYTES, HeldPort, Packet, Payload, RelayedId, Sink, Transport};
use crate::relay::Relay;

/// Longest packet that is received: no UDP datagram is longer.
const PACKET_BYTES_MAX: usize = 65_536;

/// A relay, its sockets, and a buffer to receive into.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) relay: Relay,
    pub(super) net: Net,
    buffer: Box<[u8]>,
}

/// [`Core`] as its tasks hold it. The lock is never held over an await.
#[derive(Debug, Clone)]
pub(super) struct SharedCore(Arc<Mutex<Core>>);

impl SharedCore {
    pub(super) fn new(relay: Relay, listeners: Vec<std::net::UdpSocket>, streams: Streams) -> Self {
        let metrics = Arc::clone(relay.metrics());
        Self(Arc::new_cyclic(|core| {
            let net = Net { core: core.clone(), listeners, relayed: Vec::new(), streams, metrics, scratch: Vec::new() };
            Mutex::new(Core { relay, net, buffer: vec![0; HEADROOM_BYTES + PACKET_BYTES_MAX].into_boxed_slice() })
        }))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Core> {
        // A panic under the lock is a mistake of ours that ended one task; the others go on with what is there.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Core {
    /// Handles datagrams of a listener that are waiting, at most `max`.
    pub(super) fn receive_from_clients(&mut self, socket: &UdpSocket, transport: Transport, max: usize) -> io::Result<()> {
        let now = Instant::now();
        let Self { relay, net, buffer } = self;
        for _ in 0..max {
            match socket.try_recv_from(&mut buffer[HEADROOM_BYTES..]) {
                Ok((bytes, address)) => {
                    let packet = Packet::new(&mut buffer[..HEADROOM_BYTES + bytes], HEADROOM_BYTES);
                    relay.handle_client(packet, ClientPath { address, transport }, now, net);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Handles datagrams of a relayed socket that are waiting, at most `max`.
    pub(super) fn receive_from_peers(&mut self, socket: &UdpSocket, id: RelayedId, max: usize) -> io::Result<()> {
        let now = Instant::now();
        let Self { relay, net, buffer } = self;
        if !net.is_open(id, socket) {
            return Err(io::ErrorKind::NotConnected.into());
        }
        for _ in 0..max {
            match socket.try_recv_from(&mut buffer[HEADROOM_BYTES..]) {
                Ok((bytes, from)) => {
                    let packet = Packet::new(&mut buffer[..HEADROOM_BYTES + bytes], HEADROOM_BYTES);
                    relay.handle_peer(packet, id, from, now, net);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Handles one message of a stream, which ends where `buffer` does and starts after `headroom` bytes.
    pub(super) fn receive_message(&mut self, buffer: &mut [u8], headroom: usize, from: ClientPath, now: Instant) {
        self.relay.handle_client(Packet::new(buffer, headroom), from, now, &mut self.net);
    }
}

/// A relayed socket and the task that receives on it.
#[derive(Debug)]
struct Relayed {
    socket: Arc<UdpSocket>,
    task: AbortHandle,
    dont_fragment: bool,
}

/// Sends and opens. Everything is sent at once.
#[derive(Debug)]
pub(super) struct Net {
    core: Weak<Mutex<Core>>,
    /// The relay's own addresses, to send from.
    listeners: Vec<std::net::UdpSocket>,
    relayed: Vec<Option<Relayed>>,
    pub(super) streams: Streams,
    metrics: Arc<Metrics>,
    scratch: Vec<u8>,
}

impl Net {
    fn is_open(&self, id: RelayedId, socket: &UdpSocket) -> bool {
        let place = self.relayed.get(id.index()).and_then(Option::as_ref);
        place.is_some_and(|relayed| std::ptr::eq(&*relayed.socket, socket))
    }

    fn open(&mut self, id: RelayedId, address: SocketAddr, socket: std::net::UdpSocket) -> io::Result<()> {
        let socket = Arc::new(UdpSocket::from_std(socket)?);
        // A new socket doesn't set DF, as a client that wants it says so packet by packet.
        let dont_fragment = udp::set_dont_fragment(&*socket, address.is_ipv4(), false).is_err();
        let task = udp::spawn_relayed(self.core.clone(), Arc::clone(&socket), id);
        if self.relayed.len() <= id.index() {
            self.relayed.resize_with(id.index() + 1, || None);
        }
        self.relayed[id.index()] = Some(Relayed { socket, task, dont_fragment });
        Ok(())
    }

    fn send_datagram(&self, transport: Transport, to: SocketAddr, bytes: &[u8]) {
        let Transport::Datagram(listener) = transport else { return };
        let sent = self.listeners.get(usize::from(listener.0)).map(|socket| socket.send_to(bytes, to));
        if let Some(Err(error)) = sent {
            self.metrics.count_unsent(&error);
        }
    }
}

impl<'b> Sink<'b> for Net {
    fn to_client(&mut self, to: ClientPath, payload: Payload<'_, 'b>) {
        if let Transport::Stream(stream) = to.transport {
            if !self.streams.send(stream, payload) {
                self.metrics.count_dropped(DropReason::SocketFull);
            }
        } else if payload.head.is_empty() && payload.padding == 0 {
            self.send_datagram(to.transport, to.address, payload.body);
        } else {
            let mut scratch = std::mem::take(&mut self.scratch);
            scratch.clear();
            payload.append_to(&mut scratch);
            self.send_datagram(to.transport, to.address, &scratch);
            self.scratch = scratch;
        }
    }

    fn to_peer(&mut self, from: RelayedId, to: SocketAddr, data: &'b [u8], dont_fragment: bool) {
        let Some(relayed) = self.relayed.get_mut(from.index()).and_then(Option::as_mut) else { return };
        if relayed.dont_fragment != dont_fragment && udp::set_dont_fragment(&*relayed.socket, to.is_ipv4(), dont_fragment).is_ok()
        {
            relayed.dont_fragment = dont_fragment;
        }
        if let Err(error) = relayed.socket.try_send_to(data, to) {
            self.metrics.count_unsent(&error);
        }
    }

    fn respond(&mut self, to: ClientPath, message: &[u8]) {
        self.to_client(to, Payload { head: message, body: &[], padding: 0 });
    }

    fn open_relayed(&mut self, id: RelayedId, address: SocketAddr) -> io::Result<()> {
        self.open(id, address, udp::bind(address)?)
    }

    fn hold_port(&mut self, address: SocketAddr) -> io::Result<HeldPort> {
        udp::hold(address)
    }

    fn open_held(&mut self, id: RelayedId, address: SocketAddr, held: HeldPort) -> io::Result<()> {
        self.open(id, address, udp::take_over(held)?)
    }

    fn close_relayed(&mut self, id: RelayedId) {
        if let Some(relayed) = self.relayed.get_mut(id.index()).and_then(Option::take) {
            relayed.task.abort();
        }
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        self.relayed.iter().flatten().for_each(|relayed| relayed.task.abort());
    }
}

/// A core that may be gone, as tasks of relayed sockets hold it.
pub(super) fn upgrade(core: &Weak<Mutex<Core>>) -> Option<SharedCore> {
    core.upgrade().map(SharedCore)
}
