//! Bare forwarders: what the kernel's UDP path costs without TURN's work. Each is a process of its own, like a relay.
//!
//! A client joins with `JOIN`, the number of its pair and its side, and hears `OK`. Then each datagram of one side goes to the other.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::ValueEnum;
use halloo_relay::io::{Message, ReceiveRing, SendBatch, SendTotals, bind_shared};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

/// Datagrams handled together.
const BATCH: usize = 1_024;
/// Pause between batches of [`Way::Trains`] that weren't full.
const NAP: Duration = Duration::from_micros(500);
const JOIN: &[u8; 4] = b"JOIN";
/// Of a request as clients of relays send it.
const REQUEST_BYTES: usize = 112;
/// Nothing is lost on a way this short: a forwarder that takes longer has ended.
const ANSWER_PATIENCE: Duration = Duration::from_secs(5);

/// What a forwarder calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Way {
    /// `recvfrom`, `sendto`.
    Plain,
    /// `recvmmsg`, `sendmmsg`.
    Batch,
    /// `epoll_wait`, `recvmmsg`, `sendmsg`, each once for a lone datagram: the least for who waits for more than one socket.
    Wait,
    /// `recvmmsg` and `sendmmsg` with UDP_GRO and UDP_SEGMENT, and a nap between batches.
    Trains,
}

/// Forwards until it is killed.
pub(crate) fn run(way: Way, listen: SocketAddr) -> anyhow::Result<()> {
    match way {
        Way::Plain => plain(&UdpSocket::bind(listen)?),
        Way::Batch => {
            let socket = UdpSocket::bind(listen)?;
            socket.set_nonblocking(true)?;
            batched(&socket, SendBatch::without_trains(BATCH), None)
        }
        Way::Wait => waiting(&bind_shared(listen)?),
        Way::Trains => batched(&bind_shared(listen)?, SendBatch::new(64 * 1_024), Some(NAP)),
    }
}

/// Joins from a client's side.
pub(crate) fn join(server: SocketAddr, pair: u32, side: u8) -> anyhow::Result<UdpSocket> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    let [a, b, c, d] = pair.to_be_bytes();
    socket.send(&[JOIN.as_slice(), &[a, b, c, d, side]].concat())?;
    socket.recv(&mut [0; 16]).context("forwarder doesn't answer")?;
    Ok(socket)
}

/// Each of these clients asks to be joined, with a number of its own from `first` on, and hears that it is. It never sleeps, as the clients of
/// relays don't when they set up.
pub(crate) fn answer(clients: &[UdpSocket], first: u32) -> anyhow::Result<()> {
    for (socket, number) in clients.iter().zip(first..) {
        let mut request = [0; REQUEST_BYTES];
        request[..JOIN.len()].copy_from_slice(JOIN);
        request[JOIN.len()..][..4].copy_from_slice(&number.to_be_bytes());
        socket.send(&request)?;
    }
    let asked = Instant::now();
    let mut waiting: Vec<&UdpSocket> = clients.iter().collect();
    while !waiting.is_empty() {
        ensure!(asked.elapsed() < ANSWER_PATIENCE, "forwarder doesn't answer");
        waiting.retain(|socket| socket.recv(&mut [0; 16]).is_err());
    }
    Ok(())
}

/// Who talks to whom.
#[derive(Debug, Default)]
struct Pairs {
    waiting: HashMap<u32, SocketAddr>,
    other: HashMap<SocketAddr, SocketAddr>,
}

impl Pairs {
    /// Whether the datagram was for the forwarder itself.
    fn join(&mut self, source: SocketAddr, datagram: &[u8]) -> bool {
        let Some(rest) = datagram.strip_prefix(JOIN) else { return false };
        let Some(pair) = rest.first_chunk::<4>().map(|pair| u32::from_be_bytes(*pair)) else { return false };
        match self.waiting.remove(&pair) {
            Some(other) if other != source => {
                self.other.insert(source, other);
                self.other.insert(other, source);
            }
            _ => drop(self.waiting.insert(pair, source)),
        }
        true
    }
}

fn plain(socket: &UdpSocket) -> anyhow::Result<()> {
    let (mut pairs, mut buffer) = (Pairs::default(), [0; 2_048]);
    loop {
        let (bytes, source) = socket.recv_from(&mut buffer)?;
        if let Some(other) = pairs.other.get(&source) {
            let _ = socket.send_to(&buffer[..bytes], other);
        } else if pairs.join(source, &buffer[..bytes]) {
            socket.send_to(b"OK", source)?;
        }
    }
}

fn batched(socket: &UdpSocket, mut batch: SendBatch, nap: Option<Duration>) -> anyhow::Result<()> {
    let mut poll = Poll::new()?;
    poll.registry().register(&mut SourceFd(&socket.as_raw_fd()), Token(0), Interest::READABLE)?;
    let mut events = Events::with_capacity(1);
    let (mut ring, mut pairs, mut totals) = (ReceiveRing::new(BATCH), Pairs::default(), SendTotals::default());
    loop {
        ring.clear();
        while ring.free() > 0 {
            let wanted = ring.free();
            match ring.receive(socket, wanted) {
                Ok(received) if received < wanted => break,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
        }
        if ring.messages().is_empty() {
            poll.poll(&mut events, None)?;
            continue;
        }
        for message in ring.messages() {
            forward(message, &ring, &mut pairs, &mut batch);
        }
        batch.flush(ring.bytes(), |_| Some(socket.as_fd()), &mut totals);
        if let Some(nap) = nap.filter(|_| ring.free() > 0) {
            std::thread::sleep(nap);
        }
    }
}

/// Messages asked for in one call by [`Way::Wait`]: to prepare for each costs time, too.
const WAIT_MESSAGES: usize = 4;

fn waiting(socket: &UdpSocket) -> anyhow::Result<()> {
    let mut poll = Poll::new()?;
    poll.registry().register(&mut SourceFd(&socket.as_raw_fd()), Token(0), Interest::READABLE)?;
    let mut events = Events::with_capacity(1);
    let (mut ring, mut pairs, mut totals) = (ReceiveRing::new(BATCH), Pairs::default(), SendTotals::default());
    let mut batch = SendBatch::new(64 * 1_024);
    let mut is_empty = true;
    loop {
        if is_empty {
            poll.poll(&mut events, None)?;
        }
        ring.clear();
        is_empty = false;
        while !is_empty && ring.free() > 0 {
            let wanted = ring.free().min(WAIT_MESSAGES);
            match ring.receive(socket, wanted) {
                Ok(received) => is_empty = received < wanted,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => is_empty = true,
                Err(error) => return Err(error.into()),
            }
        }
        for message in ring.messages() {
            forward(message, &ring, &mut pairs, &mut batch);
        }
        batch.flush(ring.bytes(), |_| Some(socket.as_fd()), &mut totals);
    }
}

fn forward(message: &Message, ring: &ReceiveRing, pairs: &mut Pairs, batch: &mut SendBatch) {
    if let Some(other) = pairs.other.get(&message.source) {
        for range in message.datagrams() {
            let _ = batch.push(0, *other, b"", range);
        }
        return;
    }
    for range in message.datagrams() {
        if pairs.join(message.source, &ring.bytes()[range]) {
            let _ = batch.push(0, message.source, b"OK", 0..0);
        }
    }
}
