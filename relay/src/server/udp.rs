//! Plain UDP: one task for each socket, one system call for each packet.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use rustix::net::sockopt::{Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery, set_ip_mtu_discover, set_ipv6_mtu_discover};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::core::{Core, SharedCore, upgrade};
use super::{ServeError, told_to_stop};
use crate::packet::{ListenerId, RelayedId, Transport};

/// Datagrams one socket handles before others have their turn.
pub const DATAGRAMS_PER_WAKE_MAX: usize = 64;

/// Failures of receiving in a row after which a listener is taken for broken: 10 s of them. Single ones happen, as when
/// memory runs short; some systems report a client's closed port here.
const RECEIVE_FAILURES_MAX: u32 = 1_000;

/// Pause after a failure of receiving: trying at once would burn the time that may be needed to get well.
const RECEIVE_RETRY: Duration = Duration::from_millis(10);

/// A nonblocking socket bound to the address. IPv6 serves IPv6 only, so that both families can have the same port.
pub(super) fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    super::prepare(&socket, address)?;
    UdpSocket::from_std(socket.into())
}

/// Whether DF is set in the packets of this socket (RFC 8656 section 14). Packets too long for the path are fragmented, or dropped.
pub(super) fn set_dont_fragment(socket: &UdpSocket, dont_fragment: bool) -> io::Result<()> {
    if socket.local_addr()?.is_ipv4() {
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
    socket: Arc<UdpSocket>,
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
pub(super) fn spawn_relayed(core: Weak<Mutex<Core>>, socket: Arc<UdpSocket>, id: RelayedId) -> AbortHandle {
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
