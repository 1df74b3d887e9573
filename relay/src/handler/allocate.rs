//! Allocate (RFC 8656 section 7.2), the checks in the RFC's order.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use super::reply::{Refusal, Reply};
use super::{Caller, Outcome};
use crate::allocation::directory::Entry;
use crate::allocation::ports::Wanted;
use crate::allocation::{Allocation, Family, Owner, relayed_id};
use crate::auth::Grant;
use crate::metrics::Response;
use crate::packet::{ClientPath, Sink};
use crate::quota::share::{AdmissionRefusal, Lease, UserId};
use crate::relay::Relay;
use crate::stun::Message;
use crate::stun::attribute::AttributeType;
use crate::time::Moment;

/// Lifetime when the client asks for none, or for less (RFC 8656 section 7.2).
pub(crate) const LIFETIME_DEFAULT: Duration = Duration::from_secs(600);

/// UDP, as a protocol number.
const PROTOCOL_UDP: u8 = 17;

/// Ports tried when the system says that somebody else has one.
const PORT_TRIES: usize = 16;

/// An IPv6 subscriber has at least a /64 (RFC 6177).
const SUBSCRIBER_MASK: u128 = !(u64::MAX as u128);

/// What an Allocate request asks for, well-formed.
struct Wish {
    lifetime: Duration,
    families: Families,
    even_port: Option<Wanted>,
    token: Option<[u8; 8]>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Families {
    One(Family),
    /// IPv4, and IPv6 if it can be had.
    Both,
}

/// A relayed socket that is open but not yet part of an allocation.
struct Opened {
    family: Family,
    external: SocketAddr,
}

/// What was opened for an allocation.
struct Sockets {
    opened: Vec<Opened>,
    /// Token of the port after it, if that was asked for.
    reservation: Option<[u8; 8]>,
    /// Why the second of two families is missing.
    missing: Option<Refusal>,
}

impl Sockets {
    fn one(opened: Opened) -> Self {
        Self { opened: vec![opened], reservation: None, missing: None }
    }
}

impl Relay {
    pub(super) fn handle_allocate<'b>(
        &mut self,
        request: Message<'_>,
        from: ClientPath,
        caller: Caller,
        now: Moment,
        reply: &mut Reply<'_>,
        out: &mut impl Sink<'b>,
    ) -> Outcome<()> {
        if let Some(slot) = caller.slot {
            // Step 2: the five-tuple is in use, unless this is the request that made it so, sent again.
            let is_repeated = self.allocations[slot].owner.transaction_id == request.transaction_id() && caller.grant.is_none();
            return if is_repeated { self.describe(slot, None, now, reply) } else { Err(Refusal::MISMATCH) };
        }
        let wish = Wish::read(request, self.shared.settings.lifetime_max)?;
        let grant = caller.grant.ok_or(Refusal::MISMATCH)?;
        if self.shared.is_draining() {
            return Err(self.shared.settings.alternate.map_or(Refusal::DRAINING, Refusal::alternate));
        }
        // What ran out a moment ago and whose timer is still to come.
        if let Some(slot) = self.by_client.get(&from) {
            self.end_allocation(slot, now, out);
        }
        let client_share = subscriber(from.address.ip());
        let user = self.shared.shares.admit(&grant.account, grant.class, client_share, now).map_err(|refusal| match refusal {
            AdmissionRefusal::User => Refusal::USER_ALLOCATIONS,
            AdmissionRefusal::Address => Refusal::ADDRESS_ALLOCATIONS,
            AdmissionRefusal::Total => Refusal::TOTAL_ALLOCATIONS,
        })?;
        let made = self.open_and_insert(request, from, grant, user, client_share, &wish, now, out);
        if made.is_err() {
            self.shared.shares.dismiss(user, client_share, Lease::default());
        }
        let (slot, missing) = made?;
        self.metrics.count_allocation();
        self.describe(slot, missing, now, reply)
    }

    #[expect(clippy::too_many_arguments, reason = "all of an allocation's parts come together here, once")]
    fn open_and_insert<'b>(
        &mut self,
        request: Message<'_>,
        from: ClientPath,
        grant: Grant,
        user: UserId,
        client_share: IpAddr,
        wish: &Wish,
        now: Moment,
        out: &mut impl Sink<'b>,
    ) -> Outcome<(usize, Option<Refusal>)> {
        let slot = self.allocations.vacant_key();
        let Sockets { opened, reservation, missing } = self.open(slot, (&grant.username, user), wish, now, out)?;
        let mut relayed = [None; 2];
        for socket in opened {
            relayed[socket.family.index()] = Some(socket.external);
        }
        self.generation = self.generation.wrapping_add(1);
        let owner = Owner {
            user,
            username: grant.username,
            key: grant.key,
            transaction_id: request.transaction_id(),
            reservation,
            client_share,
        };
        let entry = Arc::new(Entry::new());
        relayed.iter().flatten().for_each(|address| self.shared.directory.insert(*address, &entry));
        let expires = now.after(wish.lifetime);
        let allocation = Allocation {
            client: from,
            expires,
            lease: Lease::default(),
            channels: Default::default(),
            permissions: Default::default(),
            relayed,
            owner,
            entry,
            generation: self.generation,
        };
        allocation.entry.show(&allocation, self.worker);
        self.allocations.insert(allocation);
        self.by_client.insert(&from, slot);
        self.timers.push(std::cmp::Reverse((expires, slot as u32, self.generation)));
        Ok((slot, missing))
    }

    /// The success response, also for a repeated request.
    fn describe(&self, slot: usize, missing: Option<Refusal>, now: Moment, reply: &mut Reply<'_>) -> Outcome<()> {
        let allocation = &self.allocations[slot];
        let lifetime = allocation.expires.since(now).as_secs() as u32;
        reply.succeed(Response::Allocate, |mut message| {
            for relayed in allocation.relayed.iter().flatten() {
                message = message.xor_address(AttributeType::XOR_RELAYED_ADDRESS, *relayed)?;
            }
            message = message
                .attribute(AttributeType::LIFETIME, &lifetime.to_be_bytes())?
                .xor_mapped_address(allocation.client.address)?;
            if let Some(token) = allocation.owner.reservation {
                message = message.attribute(AttributeType::RESERVATION_TOKEN, &token)?;
            }
            if let Some(missing) = missing {
                message = message.address_error_code(false, missing.code)?;
            }
            Ok(message)
        });
        Ok(())
    }

    /// Opens what is wished for.
    fn open<'b>(
        &mut self,
        slot: usize,
        (username, user): (&str, UserId),
        wish: &Wish,
        now: Moment,
        out: &mut impl Sink<'b>,
    ) -> Outcome<Sockets> {
        if let Some(token) = wish.token {
            return self.open_reserved(slot, username, token, now, out);
        }
        let wanted = wish.even_port.unwrap_or(Wanted::Any);
        match wish.families {
            Families::One(family) if wanted == Wanted::Pair => self.open_pair(slot, family, username, now, out),
            Families::One(family) => Ok(Sockets::one(self.open_any((slot, family), wanted, user, now, out)?)),
            Families::Both => {
                let first = self.open_any((slot, Family::V4), wanted, user, now, out);
                let second = self.open_any((slot, Family::V6), wanted, user, now, out);
                match (first, second) {
                    (Ok(first), Ok(second)) => Ok(Sockets { opened: vec![first, second], reservation: None, missing: None }),
                    (Ok(first), Err(refusal)) => Ok(Sockets { missing: Some(refusal), ..Sockets::one(first) }),
                    // IPv4 was what the request is about; IPv6 comes on top (section 7.2, step 9 and what follows).
                    (Err(refusal), Ok(second)) => {
                        out.close_relayed(relayed_id(slot, Family::V6));
                        self.shared.ports.give_back(Family::V6, second.external.port());
                        Err(refusal)
                    }
                    (Err(refusal), Err(_)) => Err(refusal),
                }
            }
        }
    }

    /// Opens the port that was kept under this token.
    fn open_reserved<'b>(
        &mut self,
        slot: usize,
        username: &str,
        token: [u8; 8],
        now: Moment,
        out: &mut impl Sink<'b>,
    ) -> Outcome<Sockets> {
        let (family, port, held) = self.shared.ports.redeem(token, username, now).ok_or(Refusal::RESERVATION)?;
        let opened = self.addresses(family, port).and_then(|(local, external)| {
            out.open_held(relayed_id(slot, family), local, held)?;
            Ok(Opened { family, external })
        });
        opened.map(Sockets::one).map_err(|_| {
            self.shared.ports.give_back(family, port);
            Refusal::PORTS
        })
    }

    /// Opens an even port and holds the next, so that no other program of the machine can take it before the bearer of the token comes.
    fn open_pair<'b>(
        &mut self,
        slot: usize,
        family: Family,
        username: &str,
        now: Moment,
        out: &mut impl Sink<'b>,
    ) -> Outcome<Sockets> {
        if self.shared.relayed_ip(family).is_none() {
            return Err(Refusal::FAMILY);
        }
        for _ in 0..PORT_TRIES {
            let port = self.take_port(family, Wanted::Pair, now, out).ok_or(Refusal::PORTS)?;
            let held = self.open_port(slot, family, port, out).and_then(|opened| {
                let held = self.addresses(family, port + 1).and_then(|(local, _)| out.hold_port(local));
                held.inspect_err(|_| out.close_relayed(relayed_id(slot, family))).map(|held| (opened, held))
            });
            let is_in_use = held.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse);
            if let Ok((opened, held)) = held {
                let token = self.shared.ports.reserve((family, port + 1), held, username, now, &mut self.rng);
                if token.is_some() {
                    self.reservations_due = self.shared.ports.forget_expired(now);
                    return Ok(Sockets { reservation: token, ..Sockets::one(opened) });
                }
                out.close_relayed(relayed_id(slot, family));
            }
            self.shared.ports.give_back(family, port);
            self.shared.ports.give_back(family, port + 1);
            if !is_in_use {
                break;
            }
        }
        Err(Refusal::PORTS)
    }

    fn open_any<'b>(
        &mut self,
        (slot, family): (usize, Family),
        wanted: Wanted,
        user: UserId,
        now: Moment,
        out: &mut impl Sink<'b>,
    ) -> Outcome<Opened> {
        if self.shared.relayed_ip(family).is_none() {
            return Err(Refusal::FAMILY);
        }
        if wanted == Wanted::Any
            && let Some(opened) = self.reuse(slot, family, user, out)
        {
            return Ok(opened);
        }
        for _ in 0..PORT_TRIES {
            let port = self.take_port(family, wanted, now, out).ok_or(Refusal::PORTS)?;
            match self.open_port(slot, family, port, out) {
                Ok(opened) => return Ok(opened),
                Err(error) => {
                    self.shared.ports.give_back(family, port);
                    if error.kind() != io::ErrorKind::AddrInUse {
                        break;
                    }
                }
            }
        }
        Err(Refusal::PORTS)
    }

    /// A socket that the user has had before.
    fn reuse<'b>(&mut self, slot: usize, family: Family, user: UserId, out: &mut impl Sink<'b>) -> Option<Opened> {
        while let Some(spare) = self.spares.take(user, family) {
            if let Ok((_, external)) = self.addresses(family, spare.port)
                && out.unpark_relayed(spare.parked, relayed_id(slot, family))
            {
                self.shared.ports.end_spare();
                return Some(Opened { family, external });
            }
            self.close_spare(spare, out);
        }
        None
    }

    /// A free port, and if there is none, one of those that wait for somebody.
    fn take_port<'b>(&mut self, family: Family, wanted: Wanted, now: Moment, out: &mut impl Sink<'b>) -> Option<u16> {
        loop {
            if let Some(port) = self.shared.ports.take(family, wanted, now, &mut self.rng) {
                return Some(port);
            }
            let spare = self.spares.take_oldest()?;
            self.close_spare(spare, out);
        }
    }

    fn open_port<'b>(&self, slot: usize, family: Family, port: u16, out: &mut impl Sink<'b>) -> io::Result<Opened> {
        let (local, external) = self.addresses(family, port)?;
        out.open_relayed(relayed_id(slot, family), local)?;
        Ok(Opened { family, external })
    }

    /// A relayed port's address on this machine, and as peers see it.
    fn addresses(&self, family: Family, port: u16) -> io::Result<(SocketAddr, SocketAddr)> {
        let ip = self.shared.relayed_ip(family).ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok((SocketAddr::new(ip.local, port), SocketAddr::new(ip.external, port)))
    }
}

impl Wish {
    fn read(request: Message<'_>, lifetime_max: Duration) -> Outcome<Self> {
        let find = |kind| request.attribute(kind);
        // Step 3.
        let transport = find(AttributeType::REQUESTED_TRANSPORT).ok_or(Refusal::BAD_REQUEST)?;
        match *transport.value {
            [PROTOCOL_UDP, _, _, _] => {}
            [_, _, _, _] => return Err(Refusal::TRANSPORT),
            _ => return Err(Refusal::BAD_REQUEST),
        }
        let token = find(AttributeType::RESERVATION_TOKEN).map(|token| token.value.try_into().map_err(|_| Refusal::BAD_REQUEST));
        let token = token.transpose()?;
        let even_port = match find(AttributeType::EVEN_PORT).map(|even| even.value) {
            None => None,
            Some(&[flags]) => Some(if flags & 0x80 == 0 { Wanted::Even } else { Wanted::Pair }),
            Some(_) => return Err(Refusal::BAD_REQUEST),
        };
        let requested = family(request, AttributeType::REQUESTED_ADDRESS_FAMILY)?;
        let additional = family(request, AttributeType::ADDITIONAL_ADDRESS_FAMILY)?;
        // Steps 5, 6 and 9: what can't be asked for together.
        if token.is_some() && (even_port.is_some() || requested.is_some() || additional.is_some())
            || requested.is_some() && additional.is_some()
            || additional == Some(Family::V4)
            || additional.is_some() && even_port == Some(Wanted::Pair)
        {
            return Err(Refusal::BAD_REQUEST);
        }
        let families = match additional {
            Some(_) => Families::Both,
            None => Families::One(requested.unwrap_or(Family::V4)),
        };
        let lifetime = lifetime(request, lifetime_max)?.max(LIFETIME_DEFAULT).min(lifetime_max);
        Ok(Self { lifetime, families, even_port, token })
    }
}

/// The lifetime asked for, within what is given; zero if that is asked for.
pub(super) fn lifetime(request: Message<'_>, lifetime_max: Duration) -> Outcome<Duration> {
    let Some(attribute) = request.attribute(AttributeType::LIFETIME) else { return Ok(LIFETIME_DEFAULT.min(lifetime_max)) };
    let seconds = <[u8; 4]>::try_from(attribute.value).map_err(|_| Refusal::BAD_REQUEST)?;
    let asked = Duration::from_secs(u64::from(u32::from_be_bytes(seconds)));
    Ok(if asked.is_zero() { asked } else { asked.max(LIFETIME_DEFAULT).min(lifetime_max) })
}

/// A family asked for (RFC 8656 section 18.6): error 440 for one nobody knows.
pub(super) fn family(request: Message<'_>, kind: AttributeType) -> Outcome<Option<Family>> {
    match request.attribute(kind).map(|attribute| attribute.value) {
        None => Ok(None),
        Some(&[1, ..]) => Ok(Some(Family::V4)),
        Some(&[2, ..]) => Ok(Some(Family::V6)),
        Some(&[_, _, _, _]) => Err(Refusal::FAMILY),
        Some(_) => Err(Refusal::BAD_REQUEST),
    }
}

/// What counts as one client address: IPv4 one by one, IPv6 by /64.
fn subscriber(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & SUBSCRIBER_MASK)),
        ip => ip,
    }
}
