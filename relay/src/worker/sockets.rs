//! A worker's sockets: which there are, and which may have something.
//!
//! Readiness is told once (edge-triggered), so a socket stays noted as ready until a call has found it empty.
//!
//! A relayed socket has a number of its own (*slot*) beside the relay's [`RelayedId`], which the relay may use for another socket at once: a slot
//! isn't, before all has left that was handed over for the old one.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use slab::Slab;
use socket2::{Domain, Protocol, Socket, Type};

use crate::io::{keep_trains, prepare};
use crate::packet::{HeldPort, ParkedId, RelayedId};
use crate::server::udp;

/// Listeners' tokens are from 0 on, those of relayed sockets from here on. The same numbers tell the batch which socket to use.
const RELAYED_BASE: u32 = 1 << 10;
/// The waker's.
const WAKER: Token = Token(usize::MAX);

/// Where a message came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// One of the relay's own addresses, by index.
    Listener(u16),
    /// A relayed socket, by slot.
    Relayed(u32),
}

#[derive(Debug)]
struct Listener {
    socket: UdpSocket,
    is_ready: bool,
}

#[derive(Debug)]
struct Relayed {
    socket: UdpSocket,
    id: RelayedId,
    /// It is in the queue of those that are.
    is_ready: bool,
    is_closed: bool,
    parked: Option<ParkedId>,
}

#[derive(Debug)]
pub(super) struct Sockets {
    poll: Poll,
    listeners: Vec<Listener>,
    relayed: Slab<Relayed>,
    /// By the relay's number: the slot.
    slots: Vec<Option<u32>>,
    ready: VecDeque<u32>,
    /// Slots to free when everything has left.
    closed: Vec<u32>,
    /// Slots of sockets without an allocation.
    parked: HashMap<ParkedId, u32>,
    parked_ever: u64,
}

impl Sockets {
    pub(super) fn new(listeners: Vec<UdpSocket>) -> io::Result<Self> {
        let poll = Poll::new()?;
        for (index, socket) in listeners.iter().enumerate() {
            prepare(socket)?;
            poll.registry().register(&mut SourceFd(&socket.as_raw_fd()), Token(index), Interest::READABLE)?;
        }
        // Ready from the start: a look costs one call.
        let listeners = listeners.into_iter().map(|socket| Listener { socket, is_ready: true }).collect();
        Ok(Self {
            poll,
            listeners,
            relayed: Slab::new(),
            slots: Vec::new(),
            ready: VecDeque::new(),
            closed: Vec::new(),
            parked: HashMap::new(),
            parked_ever: 0,
        })
    }

    pub(super) fn waker(&self) -> io::Result<Waker> {
        Waker::new(self.poll.registry(), WAKER)
    }

    /// What the batch knows a listener by.
    pub(super) const fn via_listener(listener: u16) -> u32 {
        listener as u32
    }

    /// What the batch knows a relayed socket by.
    pub(super) fn via_relayed(&self, id: RelayedId) -> Option<u32> {
        self.slots.get(id.index()).copied().flatten().map(|slot| RELAYED_BASE + slot)
    }

    /// The socket the batch knows by that number.
    pub(super) fn by_via(&self, via: u32) -> Option<BorrowedFd<'_>> {
        let place = match via.checked_sub(RELAYED_BASE) {
            Some(slot) => Place::Relayed(slot),
            None => Place::Listener(via as u16),
        };
        self.get(place).map(AsFd::as_fd)
    }

    /// Waits for at most that long, and notes who is ready.
    pub(super) fn wait(&mut self, events: &mut Events, timeout: Duration) -> Result<(), (SocketAddr, io::Error)> {
        match self.poll.poll(events, Some(timeout)) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err((self.listener_address(0), error)),
            _ => {}
        }
        for event in events.iter() {
            let token = event.token();
            if let Some(listener) = self.listeners.get_mut(token.0) {
                listener.is_ready = true;
            } else if let Some(slot) = token.0.checked_sub(RELAYED_BASE as usize)
                && let Some(relayed) = self.relayed.get_mut(slot)
            {
                if let Some(parked) = relayed.parked {
                    self.close_parked(parked);
                } else if !relayed.is_ready {
                    relayed.is_ready = true;
                    self.ready.push_back(slot as u32);
                }
            }
        }
        Ok(())
    }

    pub(super) fn open_relayed(&mut self, id: RelayedId, address: SocketAddr) -> io::Result<()> {
        self.insert_relayed(id, bind_relayed(address)?)
    }

    /// Takes the socket that has held a port.
    pub(super) fn open_held(&mut self, id: RelayedId, address: SocketAddr, held: HeldPort) -> io::Result<()> {
        let socket = udp::take_over(held)?;
        keep_trains(&socket);
        udp::set_dont_fragment(&socket, address.is_ipv4(), false)?;
        self.insert_relayed(id, socket)
    }

    fn insert_relayed(&mut self, id: RelayedId, socket: UdpSocket) -> io::Result<()> {
        let entry = self.relayed.vacant_entry();
        let slot = entry.key() as u32;
        let token = Token((RELAYED_BASE + slot) as usize);
        self.poll.registry().register(&mut SourceFd(&socket.as_raw_fd()), token, Interest::READABLE)?;
        entry.insert(Relayed { socket, id, is_ready: false, is_closed: false, parked: None });
        self.set_slot(id, slot);
        Ok(())
    }

    fn set_slot(&mut self, id: RelayedId, slot: u32) {
        if self.slots.len() <= id.index() {
            self.slots.resize(id.index() + 1, None);
        }
        self.slots[id.index()] = Some(slot);
    }

    /// Leaves a socket open without an allocation, unless something has come that nobody has read.
    pub(super) fn park(&mut self, id: RelayedId) -> Option<ParkedId> {
        let slot = self.slots.get(id.index()).copied().flatten()?;
        let relayed = self.relayed.get_mut(slot as usize)?;
        if relayed.is_ready {
            self.close_relayed(id);
            return None;
        }
        self.parked_ever += 1;
        let parked = ParkedId(self.parked_ever);
        relayed.parked = Some(parked);
        self.slots[id.index()] = None;
        self.parked.insert(parked, slot);
        Some(parked)
    }

    pub(super) fn unpark(&mut self, parked: ParkedId, id: RelayedId) -> bool {
        let slot = self.parked.remove(&parked);
        let Some((slot, relayed)) = slot.and_then(|slot| Some((slot, self.relayed.get_mut(slot as usize)?))) else {
            return false;
        };
        relayed.parked = None;
        relayed.id = id;
        self.set_slot(id, slot);
        true
    }

    pub(super) fn close_parked(&mut self, parked: ParkedId) {
        let slot = self.parked.remove(&parked);
        if let Some((slot, relayed)) = slot.and_then(|slot| Some((slot, self.relayed.get_mut(slot as usize)?))) {
            relayed.is_closed = true;
            self.closed.push(slot);
        }
    }

    pub(super) fn close_relayed(&mut self, id: RelayedId) {
        let slot = self.slots.get_mut(id.index()).and_then(Option::take);
        if let Some((slot, relayed)) = slot.and_then(|slot| Some((slot, self.relayed.get_mut(slot as usize)?))) {
            relayed.is_closed = true;
            self.closed.push(slot);
        }
    }

    /// Sends a packet with DF set.
    pub(super) fn send_whole(&self, id: RelayedId, to: SocketAddr, data: &[u8]) -> io::Result<()> {
        let slot = self.slots.get(id.index()).copied().flatten().ok_or(io::ErrorKind::NotConnected)?;
        let socket = self.get(Place::Relayed(slot)).ok_or(io::ErrorKind::NotConnected)?;
        let is_ipv4 = to.is_ipv4();
        udp::set_dont_fragment(socket, is_ipv4, true)?;
        let sent = socket.send_to(data, to);
        udp::set_dont_fragment(socket, is_ipv4, false)?;
        sent.map(drop)
    }

    /// Everything handed over has left.
    pub(super) fn drop_closed(&mut self) {
        for slot in self.closed.drain(..) {
            self.relayed.try_remove(slot as usize);
        }
    }

    /// The relay's number of a slot, unless it has closed it.
    pub(super) fn relayed_id(&self, slot: u32) -> Option<RelayedId> {
        self.relayed.get(slot as usize).filter(|relayed| !relayed.is_closed && relayed.parked.is_none()).map(|relayed| relayed.id)
    }

    pub(super) fn listener_count(&self) -> usize {
        self.listeners.len()
    }

    pub(super) fn listener_address(&self, listener: u16) -> SocketAddr {
        let address = self.listeners.get(usize::from(listener)).and_then(|listener| listener.socket.local_addr().ok());
        address.unwrap_or_else(|| SocketAddr::from(([0; 4], 0)))
    }

    pub(super) fn has_ready(&self) -> bool {
        self.has_ready_relayed() || self.listeners.iter().any(|listener| listener.is_ready)
    }

    pub(super) fn has_ready_relayed(&self) -> bool {
        !self.ready.is_empty()
    }

    pub(super) fn ready_relayed_count(&self) -> usize {
        self.ready.len()
    }

    /// The one that has waited longest. It is no longer in the queue, until [`keep_ready`](Self::keep_ready) puts it back.
    pub(super) fn next_ready_relayed(&mut self) -> Option<u32> {
        self.ready.pop_front()
    }

    pub(super) fn is_ready(&self, place: Place) -> bool {
        match place {
            Place::Listener(listener) => self.listeners.get(usize::from(listener)).is_some_and(|listener| listener.is_ready),
            Place::Relayed(slot) => self.relayed.get(slot as usize).is_some_and(|relayed| relayed.is_ready),
        }
    }

    pub(super) fn set_empty(&mut self, place: Place) {
        match place {
            Place::Listener(listener) => {
                if let Some(listener) = self.listeners.get_mut(usize::from(listener)) {
                    listener.is_ready = false;
                }
            }
            Place::Relayed(slot) => {
                if let Some(relayed) = self.relayed.get_mut(slot as usize) {
                    relayed.is_ready = false;
                }
            }
        }
    }

    /// It has more, for the next round.
    pub(super) fn keep_ready(&mut self, place: Place) {
        if let Place::Relayed(slot) = place {
            self.ready.push_back(slot);
        }
    }

    pub(super) fn get(&self, place: Place) -> Option<&UdpSocket> {
        match place {
            Place::Listener(listener) => self.listeners.get(usize::from(listener)).map(|listener| &listener.socket),
            Place::Relayed(slot) => self.relayed.get(slot as usize).map(|relayed| &relayed.socket),
        }
    }
}

/// A socket for an allocation, made with as few calls as can be: they are most of what an allocation costs.
fn bind_relayed(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    keep_trains(&socket);
    // A client that wants DF set says so packet by packet.
    udp::set_dont_fragment(&socket, address.is_ipv4(), false)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}
