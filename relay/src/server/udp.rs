//! Plain UDP: one task for each socket, one system call for each packet.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use rustix::net::sockopt::{Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery, set_ip_mtu_discover, set_ipv6_mtu_discover};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::UdpSocket as TokioSocket;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::core::{Core, SharedCore, upgrade};
use super::{ServeError, told_to_stop};
use crate::packet::{HeldPort, ListenerId, RelayedId, Transport};

/// Datagrams one socket handles before others have their turn.
pub const DATAGRAMS_PER_WAKE_MAX: usize = 64;

/// Failures of receiving in a row after which a listener is taken for broken: 10 s of them. Single ones happen, as when
/// memory runs short; some systems report a client's closed port here.
const RECEIVE_FAILURES_MAX: u32 = 1_000;

/// Pause after a failure of receiving: trying at once would burn the time that may be needed to get well.
const RECEIVE_RETRY: Duration = Duration::from_millis(10);

/// Bytes asked for the buffers of a listener in the kernel, each way: at 160 bytes some 5,000 datagrams, a tenth of a second at 50,000
/// a second. The system lowers it to what it allows (`net.core.rmem_max`), silently.
const LISTENER_BUFFER_BYTES: usize = 4 << 20;

/// A nonblocking socket bound to the address. IPv6 serves IPv6 only, so that both families can have the same port.
pub(crate) fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    super::prepare(&socket, address)?;
    Ok(socket.into())
}

/// A socket that holds a port for an allocation to come.
struct Holder {
    socket: UdpSocket,
    /// Of its receive buffer, before that was made small.
    buffer_bytes: usize,
}

/// Datagrams that fit a holder's receive buffer, at the most: one that is smaller than what the system counts for its place isn't possible.
const HELD_DATAGRAMS_MAX: usize = 64;

/// Binds a socket that isn't read for the time being. What comes meanwhile is lost; the system keeps next to nothing of it.
pub(crate) fn hold(address: SocketAddr) -> io::Result<HeldPort> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    let buffer_bytes = socket.recv_buffer_size()?;
    // The system makes it its least.
    socket.set_recv_buffer_size(1)?;
    super::prepare(&socket, address)?;
    Ok(HeldPort::new(Holder { socket: socket.into(), buffer_bytes }))
}

/// The socket that holds a port, empty and with a buffer like others.
pub(crate) fn take_over(held: HeldPort) -> io::Result<UdpSocket> {
    let Holder { socket, buffer_bytes } = held.into_inner().ok_or(io::ErrorKind::InvalidInput)?;
    for _ in 0..HELD_DATAGRAMS_MAX {
        match socket.recv_from(&mut [0; 1]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            // Too long for this buffer on some systems, or news of an error: either has left the queue.
            _ => {}
        }
    }
    // Linux doubles what it is told, and tells the double.
    let told = if cfg!(target_os = "linux") { buffer_bytes / 2 } else { buffer_bytes };
    SockRef::from(&socket).set_recv_buffer_size(told)?;
    Ok(socket)
}

/// The same, where several sockets, one for each thread, can have the address: a client's packets then come to always the same one.
pub(super) fn bind_shared(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    #[cfg(unix)]
    socket.set_reuse_port(true)?;
    super::prepare(&socket, address)?;
    Ok(socket.into())
}

/// Gives a listener room in the kernel for what comes while its thread is busy. Less than asked for makes for loss under load, not for failure.
pub(super) fn enlarge_buffers(socket: &UdpSocket) {
    let socket = SockRef::from(socket);
    let _ = socket.set_recv_buffer_size(LISTENER_BUFFER_BYTES);
    let _ = socket.set_send_buffer_size(LISTENER_BUFFER_BYTES);
}

/// Whether DF is set in the packets of this socket (RFC 8656 section 14). Packets too long for the path are fragmented, or dropped.
pub(crate) fn set_dont_fragment(socket: &impl AsFd, is_ipv4: bool, dont_fragment: bool) -> io::Result<()> {
    if is_ipv4 {
        let mode = if dont_fragment { Ipv4PathMtuDiscovery::DO } else { Ipv4PathMtuDiscovery::DONT };
        set_ip_mtu_discover(socket, mode)?;
    } else {
        let mode = if dont_fragment { Ipv6PathMtuDiscovery::DO } else { Ipv6PathMtuDiscovery::DONT };
        set_ipv6_mtu_discover(socket, mode)?;
    }
    Ok(())
}

/// Receives from clients until told to stop.
pub(super) async fn serve_listener(
    core: SharedCore,
    socket: Arc<TokioSocket>,
    address: SocketAddr,
    id: ListenerId,
    mut stopped: watch::Receiver<bool>,
) -> Result<(), ServeError> {
    let mut failures = 0;
    loop {
        let readable = tokio::select! {
            biased;
            () = told_to_stop(&mut stopped) => return Ok(()),
            readable = socket.readable() => readable,
        };
        let handled =
            readable.and_then(|()| core.lock().receive_from_clients(&socket, Transport::Datagram(id), DATAGRAMS_PER_WAKE_MAX));
        match handled {
            Ok(()) => failures = 0,
            Err(source) => {
                core.lock().relay.metrics().count_receive_failure();
                failures += 1;
                if failures >= RECEIVE_FAILURES_MAX {
                    return Err(ServeError::Receive { address, source });
                }
                tokio::time::sleep(RECEIVE_RETRY).await;
            }
        }
        // Also after less than a full round: a socket that is readable all the time must not keep the thread.
        tokio::task::yield_now().await;
    }
}

/// Receives from peers until the socket is closed, which aborts the task.
pub(super) fn spawn_relayed(core: Weak<Mutex<Core>>, socket: Arc<TokioSocket>, id: RelayedId) -> AbortHandle {
    let task = tokio::spawn(async move {
        loop {
            let readable = socket.readable().await;
            let Some(core) = upgrade(&core) else { return };
            let handled = readable.and_then(|()| core.lock().receive_from_peers(&socket, id, DATAGRAMS_PER_WAKE_MAX));
            match handled {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotConnected => return,
                // A peer's closed port, reported to the sender's socket: its packets are lost, as they would be anyway.
                Err(_) => core.lock().relay.metrics().count_receive_failure(),
            }
            drop(core);
            tokio::task::yield_now().await;
        }
    });
    task.abort_handle()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_held_port_is_bound_and_comes_without_what_was_sent_to_it() {
        let held = hold("127.0.0.1:0".parse().unwrap()).unwrap();
        let holder: Holder = held.into_inner().unwrap();
        let address = holder.socket.local_addr().unwrap();
        assert_eq!(UdpSocket::bind(address).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
        for _ in 0..100 {
            peer.send_to(b"early", address).unwrap();
        }
        let usual = SockRef::from(&peer).recv_buffer_size().unwrap();
        assert!(SockRef::from(&holder.socket).recv_buffer_size().unwrap() < usual, "the system keeps little of it");
        let socket = take_over(HeldPort::new(holder)).unwrap();
        assert_eq!(SockRef::from(&socket).recv_buffer_size().unwrap(), usual);
        assert_eq!(socket.local_addr().unwrap(), address);
        peer.send_to(b"late", address).unwrap();
        socket.set_nonblocking(false).unwrap();
        let mut buffer = [0; 16];
        let (bytes, from) = socket.recv_from(&mut buffer).unwrap();
        assert_eq!((&buffer[..bytes], from), (&b"late"[..], peer.local_addr().unwrap()));
    }
}
