//! The data path: ChannelData and Send indications from clients, packets from peers. Nothing here allocates for a packet that
//! is relayed.
//!
//! What a packet costs: one hash of its five-tuple (none if the last packet had the same), a search of a few channel
//! numbers, a subtraction from the lease, a header written in place. A pair adds one load, of the version of the other end's entry.

use std::net::SocketAddr;
use std::time::Instant;

use crate::allocation::binding::{Channel, Inside, Route};
use crate::allocation::{Allocation, Family, relayed_id, slot_of};
use crate::metrics::{Direction, DropReason};
use crate::packet::{ClientPath, HEADROOM_BYTES, Packet, RelayedId, Sink};
use crate::quota::share::Shares;
use crate::relay::{Relay, Shared};
use crate::stun::attribute::AttributeType;
use crate::stun::integrity::Check;
use crate::stun::{ATTRIBUTE_HEADER_BYTES, Class, Message, MessageBuilder, Method, TransactionId, channel_data};
use crate::time::Moment;

impl Relay {
    /// Takes one packet a client sent to one of the relay's own addresses; over a stream, one message.
    pub fn handle_client<'b>(&mut self, packet: Packet<'b>, from: ClientPath, now: Instant, out: &mut impl Sink<'b>) {
        self.metrics.count_received(packet.bytes().len());
        let now = self.moment(now);
        let result = match packet.bytes().first() {
            Some(first) if channel_data::is_first_byte(*first) => self.handle_channel_data(packet, &from, now, out),
            Some(first) if first & 0xC0 == 0 => self.handle_message(packet, from, now, out),
            _ => Err(DropReason::NotStun),
        };
        if let Err(reason) = result {
            self.metrics.count_dropped(reason);
        }
    }

    /// Takes one packet that a relayed socket received.
    pub fn handle_peer<'b>(
        &mut self,
        packet: Packet<'b>,
        relayed: RelayedId,
        from: SocketAddr,
        now: Instant,
        out: &mut impl Sink<'b>,
    ) {
        self.metrics.count_received(packet.bytes().len());
        let now = self.moment(now);
        if let Err(reason) = self.handle_peer_data(packet, relayed, from, now, out) {
            self.metrics.count_dropped(reason);
        }
    }

    #[inline]
    fn handle_channel_data<'b>(
        &mut self,
        mut packet: Packet<'b>,
        from: &ClientPath,
        now: Moment,
        out: &mut impl Sink<'b>,
    ) -> Result<(), DropReason> {
        let (number, length) = channel_data::parse(packet.bytes()).ok_or(DropReason::Malformed)?;
        let slot = self.by_client.get(from).ok_or(DropReason::NoAllocation)?;
        let allocation = self.allocations.get_mut(slot).filter(|held| now < held.expires).ok_or(DropReason::NoAllocation)?;
        let channel = allocation.channels.get_mut(number, now).ok_or(DropReason::UnknownChannel)?;
        let relayed = allocation.relayed[Family::of(channel.peer).index()].ok_or(DropReason::WrongFamily)?;
        find_route(&self.shared, self.worker, channel, relayed, now)?;
        if !allocation.lease.pay(length) {
            let owner = &allocation.owner;
            self.shared.shares.pay_anew(owner.user, owner.client_share, &mut allocation.lease, length, now)?;
        }
        packet.truncate(channel_data::HEADER_BYTES + length);
        let direction = match &channel.route {
            Route::Inside(inside) => {
                match inside.number {
                    // Most of what a relay between its own clients carries goes this way.
                    Some(number) => {
                        out.to_client(inside.client, packet.overwrite_first(channel_data::header(number, length as u16)))
                    }
                    None => deliver(packet.skip(channel_data::HEADER_BYTES), inside.client, None, relayed, &mut self.rng, out)?,
                }
                Direction::Pair
            }
            Route::Outside | Route::Unknown => {
                let to = self.shared.local(channel.peer);
                let data = packet.skip(channel_data::HEADER_BYTES).into_bytes();
                out.to_peer(relayed_id(slot, Family::of(channel.peer)), to, data, false);
                Direction::ToPeer
            }
        };
        self.metrics.count_relayed(direction, length);
        Ok(())
    }

    #[inline]
    fn handle_peer_data<'b>(
        &mut self,
        packet: Packet<'b>,
        relayed: RelayedId,
        from: SocketAddr,
        now: Moment,
        out: &mut impl Sink<'b>,
    ) -> Result<(), DropReason> {
        let (slot, _) = slot_of(relayed);
        let allocation = self.allocations.get_mut(slot).filter(|held| now < held.expires).ok_or(DropReason::NoAllocation)?;
        let from = self.shared.external(from);
        if !allocation.permissions.allow(from.ip(), now) {
            return Err(DropReason::PeerNotPermitted);
        }
        let length = packet.bytes().len();
        pay(&self.shared.shares, allocation, length, now)?;
        let number = allocation.channels.number_of(from, now);
        deliver(packet, allocation.client, number, from, &mut self.rng, out)?;
        self.metrics.count_relayed(Direction::ToClient, length);
        Ok(())
    }

    fn handle_message<'b>(
        &mut self,
        packet: Packet<'b>,
        from: ClientPath,
        now: Moment,
        out: &mut impl Sink<'b>,
    ) -> Result<(), DropReason> {
        let message = Message::parse(packet.bytes()).map_err(|_| DropReason::NotStun)?;
        match (message.class(), message.method()) {
            (Class::Indication, Method::SEND) => {
                let send = SendIndication::read(message)?;
                self.handle_send(packet, send, &from, now, out)
            }
            (Class::Indication, _) => Err(DropReason::Indication),
            (Class::Request, _) => self.handle_request(message, from, now, out),
            (Class::Success | Class::Error, _) => Err(DropReason::UnexpectedResponse),
        }
    }

    /// RFC 8656 section 11.2.
    fn handle_send<'b>(
        &mut self,
        mut packet: Packet<'b>,
        send: SendIndication,
        from: &ClientPath,
        now: Moment,
        out: &mut impl Sink<'b>,
    ) -> Result<(), DropReason> {
        if send.dont_fragment && !self.shared.settings.can_set_dont_fragment {
            return Err(DropReason::Malformed);
        }
        let slot = self.by_client.get(from).ok_or(DropReason::NoAllocation)?;
        let allocation = self.allocations.get_mut(slot).filter(|held| now < held.expires).ok_or(DropReason::NoAllocation)?;
        let relayed = allocation.relayed(Family::of(send.peer)).ok_or(DropReason::WrongFamily)?;
        if !allocation.permissions.allow(send.peer.ip(), now) {
            return Err(DropReason::NoPermission);
        }
        // The permission is for the address; the port has to be looked at as well.
        if !self.shared.may_reach(send.peer) {
            return Err(DropReason::ForbiddenPeer);
        }
        let route = route(&self.shared, self.worker, send.peer, relayed, now)?;
        pay(&self.shared.shares, allocation, send.length, now)?;
        packet.truncate(send.start + send.length);
        let packet = packet.skip(send.start);
        let direction = match route {
            Route::Inside(inside) => {
                deliver(packet, inside.client, inside.number, relayed, &mut self.rng, out)?;
                Direction::Pair
            }
            Route::Outside | Route::Unknown => {
                let to = self.shared.local(send.peer);
                out.to_peer(relayed_id(slot, Family::of(send.peer)), to, packet.into_bytes(), send.dont_fragment);
                Direction::ToPeer
            }
        };
        self.metrics.count_relayed(direction, send.length);
        Ok(())
    }
}

#[inline]
fn pay(shares: &Shares, allocation: &mut Allocation, length: usize, now: Moment) -> Result<(), DropReason> {
    if allocation.lease.pay(length) {
        return Ok(());
    }
    shares.pay_anew(allocation.owner.user, allocation.owner.client_share, &mut allocation.lease, length, now)
}

/// Makes sure that the channel's route is one that holds now.
#[inline]
fn find_route(shared: &Shared, worker: u16, channel: &mut Channel, relayed: SocketAddr, now: Moment) -> Result<(), DropReason> {
    match &channel.route {
        Route::Outside => return Ok(()),
        Route::Inside(inside) if inside.target.version() == inside.version && now < inside.good_until => return Ok(()),
        Route::Inside(_) | Route::Unknown => {}
    }
    channel.route = Route::Unknown;
    channel.route = route(shared, worker, channel.peer, relayed, now)?;
    Ok(())
}

/// The way from a relayed address to a peer, which may be another relayed address of ours.
#[cold]
fn route(shared: &Shared, worker: u16, peer: SocketAddr, relayed: SocketAddr, now: Moment) -> Result<Route, DropReason> {
    if !shared.is_relayed(peer) {
        return Ok(Route::Outside);
    }
    let Some(target) = shared.directory.get(peer) else {
        // In a lab another program of this machine may have the port. Not to be remembered: it may become a relayed one.
        let is_other = shared.settings.peer_filter.allows(peer);
        return if is_other { Ok(Route::Unknown) } else { Err(DropReason::NoSuchRelayedAddress) };
    };
    let way_in = target.way_in(relayed, now).ok_or(DropReason::PairNotPermitted)?;
    if way_in.client.transport.is_stream() && way_in.worker != worker {
        // The other thread has the stream: the kernel takes the packet there, through both relayed sockets. Not to be
        // remembered, as the other end may go and its port to somebody else.
        return Ok(Route::Unknown);
    }
    Ok(Route::Inside(Inside {
        target,
        version: way_in.version,
        client: way_in.client,
        number: way_in.number,
        good_until: way_in.good_until,
    }))
}

/// Hands data to a client as if it had come from the peer `from`: as ChannelData, or as a Data indication (RFC 8656 section 11.3).
#[inline]
fn deliver<'b>(
    packet: Packet<'b>,
    to: ClientPath,
    number: Option<u16>,
    from: SocketAddr,
    rng: &mut impl rand::RngExt,
    out: &mut impl Sink<'b>,
) -> Result<(), DropReason> {
    let length = u16::try_from(packet.bytes().len()).map_err(|_| DropReason::Malformed)?;
    match number {
        Some(number) => out.to_client(to, packet.with_head(&channel_data::header(number, length), 0)),
        None => {
            let mut head = [0; HEADROOM_BYTES];
            let (bytes, padding) = data_indication_head(&mut head, from, length, rng).ok_or(DropReason::Malformed)?;
            out.to_client(to, packet.with_head(&head[..bytes], padding));
        }
    }
    Ok(())
}

/// Everything of a Data indication before the data, and how much padding follows the data.
fn data_indication_head(
    head: &mut [u8; HEADROOM_BYTES],
    peer: SocketAddr,
    length: u16,
    rng: &mut impl rand::RngExt,
) -> Option<(usize, usize)> {
    // An indication's transaction id has no meaning here, but has to differ from that of a request in flight.
    let transaction_id = TransactionId(rng.random());
    let message = MessageBuilder::begin(head, Class::Indication, Method::DATA, transaction_id).ok()?;
    let start = message.xor_address(AttributeType::XOR_PEER_ADDRESS, peer).ok()?.finish();
    let padded = length.checked_next_multiple_of(4)?;
    let end = start + ATTRIBUTE_HEADER_BYTES;
    head[start..start + 2].copy_from_slice(&AttributeType::DATA.0.to_be_bytes());
    head[start + 2..end].copy_from_slice(&length.to_be_bytes());
    let whole = u16::try_from(end - crate::stun::HEADER_BYTES).ok()?.checked_add(padded)?;
    head[2..4].copy_from_slice(&whole.to_be_bytes());
    Some((end, usize::from(padded - length)))
}

/// What a Send indication says, and where its data is in the packet.
#[derive(Debug, Clone, Copy)]
struct SendIndication {
    peer: SocketAddr,
    start: usize,
    length: usize,
    dont_fragment: bool,
}

impl SendIndication {
    fn read(message: Message<'_>) -> Result<Self, DropReason> {
        let (mut peer, mut data, mut dont_fragment) = (None, None, false);
        for attribute in message.attributes() {
            match attribute.kind {
                AttributeType::XOR_PEER_ADDRESS if peer.is_none() => {
                    peer = Some(attribute.xor_address(message.transaction_id()).map_err(|_| DropReason::Malformed)?);
                }
                AttributeType::DATA if data.is_none() => data = Some((attribute.value_offset(), attribute.value.len())),
                AttributeType::DONT_FRAGMENT => dont_fragment = true,
                AttributeType::FINGERPRINT if message.check_fingerprint() == Check::Invalid => {
                    return Err(DropReason::WrongFingerprint);
                }
                kind if kind.is_comprehension_required() && !kind.is_understood() => return Err(DropReason::Malformed),
                _ => {}
            }
        }
        let (Some(peer), Some((start, length))) = (peer, data) else { return Err(DropReason::Malformed) };
        Ok(Self { peer, start, length, dont_fragment })
    }
}
