//! Batched UDP for Linux: many datagrams for one system call, in and out.
//!
//! A relay in user space is bound by the kernel's UDP path, not by its own work. So what counts is how often that path is
//! walked. Three things make it fewer:
//!
//! - [`ReceiveRing::receive`] takes up to [`CALL_MESSAGES_MAX`] messages at once (`recvmmsg`), and each of them may be a whole train
//!   of datagrams of one sender that the kernel kept together (UDP_GRO).
//! - [`SendBatch`] collects what goes out, grouped by socket and destination. Datagrams of one length for one destination leave as
//!   one message that is cut up as late as possible (UDP_SEGMENT), and all messages of a socket in one call (`sendmmsg`).
//! - Payloads aren't copied in between: a datagram to send is a range of the ring it came in, with at most a new header before it.
//!
//! ```text
//! ring.clear(); ring.receive(&socket)?;
//! for message in 0..ring.len() { for each datagram of it { batch.push(via, destination, header, range of the ring) } }
//! batch.flush(ring.bytes(), |via| sockets[via], &mut totals);
//! ```
//!
//! All memory is claimed at the start and used for ever; nothing is allocated per packet. Pages of the ring that no datagram has touched
//! cost no memory. Order is kept among the datagrams of one socket for one destination.
//!
//! This module and its `sys` are the only places of the crate with `unsafe`: no safe interface to `recvmmsg` and `sendmmsg` has control data of
//! its own for each message, which UDP_SEGMENT needs.

mod raw_address;
mod receive;
mod send;
mod sys;

pub use receive::{Message, RING_HEADROOM_BYTES, ReceiveRing};
pub use send::{SendBatch, SendTotals};

use std::io;
use std::net::SocketAddr;
use std::net::UdpSocket;
use std::os::fd::AsFd;

use socket2::{Domain, Protocol, Socket, Type};

/// Messages taken or given in one system call. More saves nothing measurable: the call's own cost is spread thin by then.
pub const CALL_MESSAGES_MAX: usize = 64;

/// Bytes asked for the buffers of a client socket in the kernel, each way: at 160 bytes some 5,000 datagrams, a tenth of a second at 50,000
/// a second. The system lowers it to what it allows (`net.core.rmem_max`), silently.
const SOCKET_BUFFER_BYTES: usize = 4 << 20;

/// A socket that several threads can have one each of, at the same address: the kernel gives a client's datagrams to always the
/// same of them. IPv6 sockets serve IPv6 only.
///
/// # Errors
/// What the system says, above all that the address can't be had.
pub fn bind_shared(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_port(true)?;
    prepare(&socket)?;
    // As much as the system gives: less makes for loss under load, not for failure.
    let _ = socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES);
    let _ = socket.set_send_buffer_size(SOCKET_BUFFER_BYTES);
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// Makes a socket fit for [`ReceiveRing`]: non-blocking, and trains of datagrams stay together where the kernel can do that.
///
/// # Errors
/// The socket can't be made non-blocking.
pub fn prepare(socket: &impl AsFd) -> io::Result<()> {
    socket2::SockRef::from(socket).set_nonblocking(true)?;
    keep_trains(socket);
    Ok(())
}

/// Has the kernel keep trains of datagrams together.
pub fn keep_trains(socket: &impl AsFd) {
    // Kernels before 5.0 can't; each datagram comes as a message of its own then.
    let _ = sys::set_udp_gro(socket.as_fd());
}

#[cfg(test)]
mod tests;
