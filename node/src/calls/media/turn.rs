//! What relays do for a call's media: tell the address others see us at (STUN, RFC 8489), and lend one of their own (TURN, RFC 8656).
//!
//! Sans-IO. Datagrams of a relay go in, datagrams for it and candidates come out; the transport owns the sockets. One [`Link`] for each relay,
//! over the socket whose address family and scope fit; what a relay says is bounded and never ends a call. A relay that doesn't answer by UDP
//! is asked over TCP too, and one that doesn't there over TLS, if it has said where. A relay whose path is doubted is asked whether it is there; one that isn't has its candidate
//! taken back, and makes room for another.

use std::{
    collections::{BTreeSet, VecDeque},
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use halloo_protocol::redact::Redacted;
use str0m::{Candidate, net::Protocol};
use turn_client_proto::{
    api::{Transmit, TurnConfig, TurnEvent, TurnPollRet, TurnRecvRet},
    prelude::*,
    stun::types::{
        attribute::{ErrorCode, XorMappedAddress},
        message::{BINDING, Message, MessageClass, MessageWrite, MessageWriteVec, TransactionId},
    },
    tcp::TurnClientTcp,
    types::{AddressFamily, TransportType, TurnCredentials, message::ALLOCATE},
    udp::TurnClientUdp,
};

use super::candidates;

/// Relays used for one call at most: a second one stands by if the first fails.
pub const RELAYS_MAX: usize = 2;

/// Relays known to one call at most: two in use, and as many for each of their addresses.
const SERVERS_MAX: usize = 8;

/// Addresses of the other end for which a relay is asked to open: those it may announce at most.
const PERMISSIONS_MAX: usize = candidates::REMOTE_CANDIDATES_MAX;

/// A question to a relay is repeated after this time, doubled up to the maximum: relays are chosen by their nearness, so that the 500 ms of
/// RFC 8489 would only make a lost packet cost more.
const RETRY_MIN: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(2);
const RETRIES: u32 = 6;

/// A relay that has said nothing by UDP for this long is connected to as well: a round trip to a near one and a repetition.
const STREAM_AFTER: Duration = Duration::from_millis(250);

/// One that has said nothing over TCP for this long either is connected to by TLS: a handshake of TCP and a question take three round trips.
const TLS_AFTER: Duration = Duration::from_millis(500);

/// Failed permissions of one relay that are asked for again: a relay may have its moment, and a call hangs on it.
const PERMISSION_RETRIES: u32 = 8;

/// How far ahead the client is told to be when addresses are given back: it paces its requests, and nobody will ask it again.
const CLOSING_STEP: Duration = Duration::from_millis(60);
const CLOSING_STEPS: u32 = 4;

/// What is kept of a relay's words why it refuses.
const REFUSAL_CHARS_MAX: usize = 80;

turn_client_proto::impl_client!(Client, (Udp, TurnClientUdp), (Tcp, TurnClientTcp));

/// A media relay and what lets us use it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelayServer {
    /// Its UDP address.
    pub address: SocketAddr,
    /// Its TCP address, for where UDP doesn't get through.
    pub stream: Option<SocketAddr>,
    /// Where it serves by TLS, for where nothing else gets through.
    pub tls: Option<TlsServer>,
    /// TURN user name.
    pub username: String,
    /// TURN password.
    pub password: Redacted<String>,
}

/// A relay's TLS address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TlsServer {
    /// The address.
    pub address: SocketAddr,
    /// SHA-256 of the certificate that it shows: nobody else vouches for it.
    pub certificate: [u8; 32],
}

/// A connection that a relay may be reached by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StreamWay {
    /// As it is.
    Tcp(SocketAddr),
    /// In TLS.
    Tls(TlsServer),
}

impl StreamWay {
    pub(super) const fn address(self) -> SocketAddr {
        match self {
            Self::Tcp(address) => address,
            Self::Tls(tls) => tls.address,
        }
    }
}

impl RelayServer {
    /// The connection to try if UDP doesn't get through, or this one doesn't.
    fn way_after(&self, tried: Option<StreamWay>) -> Option<StreamWay> {
        match (tried, self.stream) {
            (None, Some(stream)) => Some(StreamWay::Tcp(stream)),
            (None | Some(StreamWay::Tcp(_)), _) => self.tls.map(StreamWay::Tls),
            (Some(StreamWay::Tls(_)), _) => None,
        }
    }
}

/// What became of a datagram.
#[derive(Debug)]
pub(super) enum Relayed {
    /// It is no relay's.
    NotOurs,
    /// It was a relay's word. What it hands over waits in [`TurnClients::next_handed`].
    Consumed,
}

/// What `peer` sent to our relayed address `at`.
#[derive(Debug)]
pub(super) struct Handed {
    pub(super) peer: SocketAddr,
    pub(super) at: SocketAddr,
    pub(super) payload: Vec<u8>,
}

/// A datagram for a relay.
#[derive(Debug)]
pub(super) struct ToRelay {
    pub(super) local: SocketAddr,
    pub(super) relay: SocketAddr,
    pub(super) payload: Vec<u8>,
}

/// One relay over one socket, or one connection.
#[derive(Debug)]
struct Link {
    client: Client,
    /// The socket, or the connection's label.
    local: SocketAddr,
    relay: SocketAddr,
    /// The address by which the relay is known: its UDP address.
    server: SocketAddr,
    is_stream: bool,
    /// It has said something.
    is_heard: bool,
    /// When to try another way, and which, unless it has been heard.
    next_way: Option<(Instant, StreamWay)>,
    /// Our address as it sees it.
    reflexive: Option<SocketAddr>,
    relayed: Option<SocketAddr>,
    has_ended: bool,
    /// Its relay has said that it will end.
    is_leaving: bool,
    /// That it lends nothing was told.
    is_told: bool,
    /// The request that it answered with the question who we are.
    challenged: Option<TransactionId>,
    /// What it said last instead of lending an address.
    refusal: Option<String>,
    binding: Option<Binding>,
    permitted: BTreeSet<IpAddr>,
    /// Permissions that failed and may be asked for again.
    second_chances: u32,
}

/// "What is my address?", repeated until answered.
#[derive(Debug)]
struct Binding {
    request: Vec<u8>,
    next_at: Instant,
    interval: Duration,
    left: u32,
}

impl Binding {
    fn new(now: Instant) -> Self {
        let request = Message::builder_request(BINDING, MessageWriteVec::new()).finish();
        Self { request, next_at: now, interval: RETRY_MIN, left: RETRIES }
    }
}

/// All relays of a call.
#[derive(Debug)]
pub(super) struct TurnClients {
    base: Instant,
    servers: Vec<RelayServer>,
    links: Vec<Link>,
    /// The other end's addresses, for relays that come up later.
    peers: BTreeSet<IpAddr>,
    outgoing: VecDeque<ToRelay>,
    handed: VecDeque<Handed>,
    found: VecDeque<Candidate>,
    /// Relayed candidates whose relay is gone.
    gone: VecDeque<Candidate>,
    /// Relays to connect to, by their UDP addresses.
    unreached: VecDeque<(SocketAddr, StreamWay)>,
    failed: VecDeque<(SocketAddr, String)>,
    wake_at: Option<Instant>,
    is_lab: bool,
}

impl TurnClients {
    /// Starts asking `servers`; those that no socket fits are left out. With `is_lab` addresses of this machine are taken too.
    pub(super) fn new(servers: &[RelayServer], sockets: &[SocketAddr], is_lab: bool, now: Instant) -> Self {
        let mut clients = Self {
            base: now,
            servers: Vec::new(),
            links: Vec::new(),
            peers: BTreeSet::new(),
            outgoing: VecDeque::new(),
            handed: VecDeque::new(),
            found: VecDeque::new(),
            gone: VecDeque::new(),
            unreached: VecDeque::new(),
            failed: VecDeque::new(),
            wake_at: None,
            is_lab,
        };
        clients.use_servers(servers, sockets, now);
        clients
    }

    /// These are the relays to use, with what opens them now; those asked already go on.
    pub(super) fn use_servers(&mut self, servers: &[RelayServer], sockets: &[SocketAddr], now: Instant) {
        let usable =
            |server: &&RelayServer| server.address.port() != 0 && candidates::is_usable(server.address.ip(), self.is_lab);
        self.servers = servers.iter().filter(usable).take(SERVERS_MAX).cloned().collect();
        self.fill(sockets, now);
    }

    /// Asks relays until [`RELAYS_MAX`] are asked or lend an address; those that no socket fits are left out.
    pub(super) fn fill(&mut self, sockets: &[SocketAddr], now: Instant) {
        for server in &self.servers {
            let in_use: BTreeSet<SocketAddr> = self.links.iter().filter(|link| link.is_alive()).map(|link| link.server).collect();
            // One that has failed over this very socket isn't asked again and again.
            let local = fitting(sockets, server.address);
            let is_known =
                self.links.iter().any(|link| link.server == server.address && (link.is_alive() || Some(link.local) == local));
            if let Some(local) = local.filter(|_| !is_known && in_use.len() < RELAYS_MAX) {
                self.links.push(Link::new(server, local, now));
            }
        }
        self.poll(now);
    }

    /// A socket, or a connection, is no more, and what was lent over it.
    pub(super) fn drop_socket(&mut self, local: SocketAddr, now: Instant) {
        let gone = self.links.iter().filter(|link| link.local == local).filter_map(Link::candidate);
        self.gone.extend(gone);
        self.links.retain(|link| link.local != local);
        self.poll(now);
    }

    /// Asks all relays whether they are there.
    pub(super) fn probe(&mut self, now: Instant) {
        for link in self.links.iter_mut().filter(|link| link.is_alive() && !link.is_stream && link.binding.is_none()) {
            link.binding = Some(Binding::new(now));
        }
        self.poll(now);
    }

    /// A relay that doesn't answer, and the connection to make to it.
    pub(super) fn next_unreached(&mut self) -> Option<(RelayServer, StreamWay)> {
        let (address, way) = self.unreached.pop_front()?;
        self.servers.iter().find(|server| server.address == address).map(|server| (server.clone(), way))
    }

    /// There is such a connection, or will be.
    pub(super) fn use_stream(&mut self, server: &RelayServer, way: StreamWay, label: SocketAddr, now: Instant) {
        self.links.push(Link::over_stream(server, way, label, now));
        self.poll(now);
    }

    /// A relayed candidate that is no more.
    pub(super) fn next_gone(&mut self) -> Option<Candidate> {
        self.gone.pop_front()
    }

    /// What came through a relay.
    pub(super) fn next_handed(&mut self) -> Option<Handed> {
        self.handed.pop_front()
    }

    /// True while a relay may still come up with candidates.
    pub(super) fn is_gathering(&self) -> bool {
        self.links
            .iter()
            .any(|link| !link.has_ended && (link.relayed.is_none() || link.binding.is_some() && link.reflexive.is_none()))
    }

    /// Whether this is an address a relay lends us.
    pub(super) fn has(&self, address: SocketAddr) -> bool {
        self.links.iter().any(|link| link.relayed == Some(address))
    }

    /// The other end may send from this address: relays let only those through who were named.
    pub(super) fn permit(&mut self, peer: IpAddr, now: Instant) {
        if self.peers.len() < PERMISSIONS_MAX && self.peers.insert(peer) {
            self.poll(now);
        }
    }

    /// Takes in what came to the socket `local` from `source`.
    pub(super) fn handle(&mut self, local: SocketAddr, source: SocketAddr, payload: &[u8], now: Instant) -> Relayed {
        let at_time = self.turn_time(now);
        let Some(link) = self.links.iter_mut().find(|link| link.local == local && link.relay == source) else {
            return Relayed::NotOurs;
        };
        if payload.is_empty() && link.is_stream {
            link.has_ended = true;
            // Refused, or broken before anything was said: no need to wait longer.
            link.next_way = link.next_way.map(|(_, way)| (now, way));
            self.poll(now);
            return Relayed::Consumed;
        }
        link.is_heard = true;
        if let Some(candidate) = link.take_binding(payload) {
            self.found.extend(candidate.filter(|candidate| candidates::is_usable(candidate.addr().ip(), self.is_lab)));
            return Relayed::Consumed;
        }
        link.note_refusal(payload);
        let transport = if link.is_stream { TransportType::Tcp } else { TransportType::Udp };
        let first = match link.client.recv(Transmit::new(payload, transport, source, local), at_time) {
            TurnRecvRet::PeerData(data) => Some((data.peer, data.data().to_vec())),
            _ => None,
        };
        let relayed = link.relayed;
        let mut next = first;
        while let (Some((peer, payload)), Some(at)) = (next.take(), relayed) {
            self.handed.push_back(Handed { peer, at, payload });
            // A connection's piece may hold several.
            next = link.client.poll_recv(at_time).map(|data| (data.peer, data.data().to_vec()));
        }
        self.poll(now);
        Relayed::Consumed
    }

    /// Sends from a relayed address; false if it can't be.
    pub(super) fn send(&mut self, from: SocketAddr, to: SocketAddr, payload: &[u8], now: Instant) -> bool {
        let at = self.turn_time(now);
        let Some(link) = self.links.iter_mut().find(|link| link.relayed == Some(from)) else { return false };
        match link.client.send_to(TransportType::Udp, to, payload, at) {
            Ok(Some(transmit)) => {
                let payload = transmit.data.build();
                self.outgoing.push_back(ToRelay { local: link.local, relay: link.relay, payload });
                true
            }
            Ok(None) => true,
            Err(_) => false,
        }
    }

    /// Media goes this way from now on: a channel makes its header 4 bytes instead of 36.
    pub(super) fn prefer(&mut self, from: SocketAddr, to: SocketAddr, now: Instant) {
        let at = self.turn_time(now);
        if let Some(link) = self.links.iter_mut().find(|link| link.relayed == Some(from)) {
            // It is there already, or the relay will refuse and indications do.
            let _ = link.client.bind_channel(TransportType::Udp, to, at);
            self.poll(now);
        }
    }

    /// Gives the addresses back.
    pub(super) fn close(&mut self, now: Instant) {
        let at = self.turn_time(now);
        for link in &mut self.links {
            // Nothing to give back is fine.
            let _ = link.client.delete(at);
            link.binding = None;
        }
        (0..CLOSING_STEPS).for_each(|step| self.poll(now + CLOSING_STEP * step));
    }

    /// The relay that lends this address.
    pub(super) fn lender_of(&self, address: SocketAddr) -> Option<SocketAddr> {
        self.links.iter().find(|link| link.relayed == Some(address)).map(|link| link.server)
    }

    /// A relay that lends nothing, and why.
    pub(super) fn next_failure(&mut self) -> Option<(SocketAddr, String)> {
        self.failed.pop_front()
    }

    /// The relay at these addresses is about to end: the candidates it lends, if another relay is there to go on with.
    pub(super) fn leave(&mut self, relay: &[SocketAddr]) -> Vec<Candidate> {
        for link in self.links.iter_mut().filter(|link| relay.contains(&link.server)) {
            link.is_leaving = true;
        }
        if !self.links.iter().any(|link| link.relayed.is_some() && !link.has_ended && !link.is_leaving) {
            return Vec::new();
        }
        let left = self.links.iter().filter(|link| relay.contains(&link.server));
        left.filter_map(Link::candidate).collect()
    }

    pub(super) fn next_outgoing(&mut self) -> Option<ToRelay> {
        self.outgoing.pop_front()
    }

    /// A candidate of ours that a relay has come up with.
    pub(super) fn next_candidate(&mut self) -> Option<Candidate> {
        self.found.pop_front()
    }

    /// When [`TurnClients::poll`] is due.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        self.wake_at
    }

    /// Time has passed, or something has changed.
    pub(super) fn poll(&mut self, now: Instant) {
        let at = self.turn_time(now);
        let mut wake_at: Option<Instant> = None;
        let mut ended = Vec::new();
        for link in &mut self.links {
            link.ask_binding(now, &mut self.outgoing);
            if let Some((at, way)) = link.next_way {
                if link.is_heard {
                    link.next_way = None;
                } else if at <= now {
                    link.next_way = None;
                    self.unreached.push_back((link.server, way));
                } else {
                    wake_at = Some(wake_at.map_or(at, |known| known.min(at)));
                }
            }
            if let Some(binding) = &link.binding {
                wake_at = Some(wake_at.map_or(binding.next_at, |known| known.min(binding.next_at)));
            }
            // The client wants to be asked until it waits. Its answers are few; the bound is for its faults, not for ours.
            for _ in 0..32 {
                match link.client.poll(at) {
                    TurnPollRet::WaitUntil(until) => {
                        let wait = until.saturating_duration_since(at).max(Duration::from_millis(1));
                        let until = now + wait.min(RETRY_MAX);
                        wake_at = Some(wake_at.map_or(until, |known| known.min(until)));
                        break;
                    }
                    TurnPollRet::Closed => {
                        link.has_ended = true;
                        break;
                    }
                    TurnPollRet::AllocateTcpSocket { .. } | TurnPollRet::TcpClose { .. } => {}
                }
            }
            while let Some(event) = link.client.poll_event() {
                if let Some(candidate) = link.heard(&event, self.is_lab) {
                    self.found.push_back(candidate);
                }
            }
            if link.has_ended && !link.is_told {
                link.is_told = true;
                self.gone.extend(link.candidate());
                let default = if link.relayed.is_some() { "it is gone" } else { "no answer" };
                let why = link.refusal.take().unwrap_or_else(|| default.to_owned());
                ended.push((link.server, why));
            }
            link.ask_permissions(&self.peers, at);
            while let Some(transmit) = link.client.poll_transmit(at) {
                let payload = transmit.data.as_ref().to_vec();
                self.outgoing.push_back(ToRelay { local: link.local, relay: link.relay, payload });
            }
        }
        // One of its ways is enough.
        let is_lost = |server: &SocketAddr| !self.links.iter().any(|link| link.server == *server && link.is_alive());
        self.failed.extend(ended.into_iter().filter(|(server, _)| is_lost(server)));
        self.wake_at = wake_at;
    }

    fn turn_time(&self, now: Instant) -> turn_client_proto::types::Instant {
        let elapsed = now.saturating_duration_since(self.base).as_nanos();
        turn_client_proto::types::Instant::from_nanos(i64::try_from(elapsed).unwrap_or(i64::MAX))
    }
}

impl Link {
    fn new(server: &RelayServer, local: SocketAddr, now: Instant) -> Self {
        let client = Client::Udp(TurnClientUdp::allocate(local, server.address, turn_config(server)));
        Self {
            binding: Some(Binding::new(now)),
            next_way: server.way_after(None).map(|way| (now + STREAM_AFTER, way)),
            ..Self::with(client, server, local, server.address)
        }
    }

    fn over_stream(server: &RelayServer, way: StreamWay, label: SocketAddr, now: Instant) -> Self {
        let client = Client::Tcp(TurnClientTcp::allocate(label, way.address(), turn_config(server)));
        let next_way = server.way_after(Some(way)).map(|next| (now + TLS_AFTER, next));
        Self { is_stream: true, next_way, ..Self::with(client, server, label, way.address()) }
    }

    fn with(client: Client, server: &RelayServer, local: SocketAddr, relay: SocketAddr) -> Self {
        Self {
            client,
            local,
            relay,
            server: server.address,
            is_stream: false,
            is_heard: false,
            next_way: None,
            reflexive: None,
            relayed: None,
            has_ended: false,
            is_leaving: false,
            is_told: false,
            challenged: None,
            refusal: None,
            binding: None,
            permitted: BTreeSet::new(),
            second_chances: PERMISSION_RETRIES,
        }
    }

    /// Whether it lends an address or still may.
    fn is_alive(&self) -> bool {
        !self.has_ended && !self.is_leaving
    }

    /// The candidate that it lends.
    fn candidate(&self) -> Option<Candidate> {
        Candidate::relayed(self.relayed?, self.local, Protocol::Udp).ok()
    }

    fn ask_binding(&mut self, now: Instant, outgoing: &mut VecDeque<ToRelay>) {
        let Some(binding) = self.binding.as_mut().filter(|binding| binding.next_at <= now) else { return };
        if binding.left == 0 {
            self.binding = None;
            // One that has lent an address and doesn't answer any more is gone.
            self.has_ended |= self.relayed.is_some();
            return;
        }
        binding.left -= 1;
        binding.next_at = now + binding.interval;
        binding.interval = (binding.interval * 2).min(RETRY_MAX);
        outgoing.push_back(ToRelay { local: self.local, relay: self.relay, payload: binding.request.clone() });
    }

    /// The answer to our question for our address: `None` if it isn't that, the inner one if the address is no news.
    fn take_binding(&mut self, payload: &[u8]) -> Option<Option<Candidate>> {
        let asked = Message::from_bytes(&self.binding.as_ref()?.request).ok()?.transaction_id();
        let answer = Message::from_bytes(payload).ok()?;
        if answer.transaction_id() != asked || !answer.is_response() {
            return None;
        }
        self.binding = None;
        let mapped = answer.attribute::<XorMappedAddress>().ok().map(|mapped| mapped.addr(asked));
        let mapped = mapped.filter(|mapped| *mapped != self.local && mapped.port() != 0 && self.reflexive != Some(*mapped));
        self.reflexive = mapped.or(self.reflexive);
        Some(mapped.and_then(|mapped| Candidate::server_reflexive(mapped, self.local, Protocol::Udp).ok()))
    }

    /// Keeps the error that says why no address is lent; the client tells only that there is none. Being asked who we are is a step on the way;
    /// being asked again with our answer in hand means that it isn't taken, which the client would find out by waiting.
    fn note_refusal(&mut self, payload: &[u8]) {
        if self.relayed.is_some() {
            return;
        }
        let Ok(answer) = Message::from_bytes(payload) else { return };
        if !answer.has_method(ALLOCATE) || !answer.has_class(MessageClass::Error) {
            return;
        }
        let Ok(error) = answer.attribute::<ErrorCode>() else { return };
        match error.code() {
            ErrorCode::STALE_NONCE => return,
            ErrorCode::UNAUTHORIZED => match self.challenged {
                Some(request) if request != answer.transaction_id() => self.has_ended = true,
                _ => {
                    self.challenged = Some(answer.transaction_id());
                    return;
                }
            },
            _ => {}
        }
        let words: String = error.reason().chars().filter(|c| !c.is_control()).take(REFUSAL_CHARS_MAX).collect();
        self.refusal = Some(format!("{} {words}", error.code()).trim_end().to_owned());
    }

    fn heard(&mut self, event: &TurnEvent, is_lab: bool) -> Option<Candidate> {
        match event {
            TurnEvent::AllocationCreated(TransportType::Udp, relayed) if self.relayed.is_none() => {
                if relayed.port() == 0 || !candidates::is_usable(relayed.ip(), is_lab) {
                    self.refusal = Some(format!("it lends {relayed}, an address nobody can use"));
                    self.has_ended = true;
                    return None;
                }
                self.relayed = Some(*relayed);
                self.candidate()
            }
            TurnEvent::AllocationCreateFailed(_) => {
                tracing::debug!(relay = %self.relay, refusal = self.refusal, "the relay lends no address");
                self.has_ended = true;
                None
            }
            TurnEvent::PermissionCreateFailed(_, peer) => {
                if let Some(left) = self.second_chances.checked_sub(1) {
                    self.second_chances = left;
                    self.permitted.remove(peer);
                }
                None
            }
            _ => None,
        }
    }

    fn ask_permissions(&mut self, peers: &BTreeSet<IpAddr>, at: turn_client_proto::types::Instant) {
        let Some(relayed) = self.relayed else { return };
        for peer in peers.iter().filter(|peer| peer.is_ipv4() == relayed.is_ipv4()) {
            if self.permitted.insert(*peer) {
                // There already, or no allocation: then there is nothing to open.
                let _ = self.client.create_permission(TransportType::Udp, *peer, at);
            }
        }
    }
}

fn turn_config(server: &RelayServer) -> TurnConfig {
    let mut config = TurnConfig::new(TurnCredentials::new(&server.username, &server.password.0));
    config.set_address_family(if server.address.is_ipv4() { AddressFamily::IPV4 } else { AddressFamily::IPV6 });
    config.set_request_retransmits(RETRY_MIN, RETRY_MAX, RETRIES, RETRY_MAX);
    config
}

/// The socket from which a relay is reached: of its family, and of this machine only if it is.
fn fitting(sockets: &[SocketAddr], relay: SocketAddr) -> Option<SocketAddr> {
    let mut of_family = sockets.iter().filter(|socket| socket.is_ipv4() == relay.is_ipv4());
    let fits = |socket: &&&SocketAddr| socket.ip().is_loopback() == relay.ip().is_loopback();
    of_family.clone().find(|socket| fits(&socket)).or_else(|| of_family.next()).copied()
}

#[cfg(test)]
mod tests;
