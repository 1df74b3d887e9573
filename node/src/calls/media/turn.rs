//! What relays do for a call's media: tell the address others see us at (STUN, RFC 8489), and lend one of their own (TURN, RFC 8656).
//!
//! Sans-IO. Datagrams of a relay go in, datagrams for it and candidates come out; the transport owns the sockets. One [`Link`] for each relay,
//! over the socket whose address family and scope fit; what a relay says is bounded and never ends a call.

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
    types::{AddressFamily, TransportType, TurnCredentials, message::ALLOCATE},
    udp::TurnClientUdp,
};

use super::candidates;

/// Relays used for one call at most: a second one stands by if the first fails.
pub const RELAYS_MAX: usize = 2;

/// Addresses of the other end for which a relay is asked to open: those it may announce at most.
const PERMISSIONS_MAX: usize = candidates::REMOTE_CANDIDATES_MAX;

/// A question to a relay is repeated after this time, doubled up to the maximum: relays are chosen by their nearness, so that the 500 ms of
/// RFC 8489 would only make a lost packet cost more.
const RETRY_MIN: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(2);
const RETRIES: u32 = 6;

/// Failed permissions of one relay that are asked for again: a relay may have its moment, and a call hangs on it.
const PERMISSION_RETRIES: u32 = 8;

/// How far ahead the client is told to be when addresses are given back: it paces its requests, and nobody will ask it again.
const CLOSING_STEP: Duration = Duration::from_millis(60);
const CLOSING_STEPS: u32 = 4;

/// What is kept of a relay's words why it refuses.
const REFUSAL_CHARS_MAX: usize = 80;

/// A media relay and what lets us use it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelayServer {
    /// Its UDP address.
    pub address: SocketAddr,
    /// TURN user name.
    pub username: String,
    /// TURN password.
    pub password: Redacted<String>,
}

/// What became of a datagram.
#[derive(Debug)]
pub(super) enum Relayed {
    /// It is no relay's.
    NotOurs,
    /// It was a relay's word.
    Consumed,
    /// A relay hands over what `peer` sent to our relayed address `at`.
    FromPeer { peer: SocketAddr, at: SocketAddr, payload: Vec<u8> },
}

/// A datagram for a relay.
#[derive(Debug)]
pub(super) struct ToRelay {
    pub(super) local: SocketAddr,
    pub(super) relay: SocketAddr,
    pub(super) payload: Vec<u8>,
}

/// One relay over one socket.
#[derive(Debug)]
struct Link {
    client: TurnClientUdp,
    local: SocketAddr,
    relay: SocketAddr,
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

/// All relays of a call.
#[derive(Debug)]
pub(super) struct TurnClients {
    base: Instant,
    links: Vec<Link>,
    /// The other end's addresses, for relays that come up later.
    peers: BTreeSet<IpAddr>,
    outgoing: VecDeque<ToRelay>,
    found: VecDeque<Candidate>,
    failed: VecDeque<(SocketAddr, String)>,
    wake_at: Option<Instant>,
    is_lab: bool,
}

impl TurnClients {
    /// Starts asking `servers`; those that no socket fits are left out. With `is_lab` addresses of this machine are taken too.
    pub(super) fn new(servers: &[RelayServer], sockets: &[SocketAddr], is_lab: bool, now: Instant) -> Self {
        let mut clients = Self {
            base: now,
            links: Vec::new(),
            peers: BTreeSet::new(),
            outgoing: VecDeque::new(),
            found: VecDeque::new(),
            failed: VecDeque::new(),
            wake_at: None,
            is_lab,
        };
        for server in servers {
            let relay = server.address;
            let is_known = clients.links.iter().any(|link| link.relay == relay);
            let usable = relay.port() != 0 && candidates::is_usable(relay.ip(), is_lab);
            let usable = usable && !is_known && clients.links.len() < RELAYS_MAX;
            if let Some(local) = fitting(sockets, relay).filter(|_| usable) {
                clients.links.push(Link::new(server, local, now));
            }
        }
        clients.poll(now);
        clients
    }

    /// True while a relay may still come up with candidates.
    pub(super) fn is_gathering(&self) -> bool {
        self.links.iter().any(|link| !link.has_ended && (link.relayed.is_none() || link.binding.is_some()))
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
        let at = self.turn_time(now);
        let Some(link) = self.links.iter_mut().find(|link| link.local == local && link.relay == source) else {
            return Relayed::NotOurs;
        };
        if let Some(candidate) = link.take_binding(payload) {
            self.found.extend(candidate.filter(|candidate| candidates::is_usable(candidate.addr().ip(), self.is_lab)));
            return Relayed::Consumed;
        }
        link.note_refusal(payload);
        let handed = match link.client.recv(Transmit::new(payload, TransportType::Udp, source, local), at) {
            TurnRecvRet::PeerData(data) => Some((data.peer, data.data().to_vec())),
            _ => None,
        };
        let relayed = link.relayed;
        self.poll(now);
        match (handed, relayed) {
            (Some((peer, payload)), Some(at)) => Relayed::FromPeer { peer, at, payload },
            _ => Relayed::Consumed,
        }
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
        self.links.iter().find(|link| link.relayed == Some(address)).map(|link| link.relay)
    }

    /// A relay that lends nothing, and why.
    pub(super) fn next_failure(&mut self) -> Option<(SocketAddr, String)> {
        self.failed.pop_front()
    }

    /// The relay at these addresses is about to end: the candidates it lends, if another relay is there to go on with.
    pub(super) fn leave(&mut self, relay: &[SocketAddr]) -> Vec<Candidate> {
        for link in self.links.iter_mut().filter(|link| relay.contains(&link.relay)) {
            link.is_leaving = true;
        }
        if !self.links.iter().any(|link| link.relayed.is_some() && !link.has_ended && !link.is_leaving) {
            return Vec::new();
        }
        let left = self.links.iter().filter(|link| relay.contains(&link.relay));
        left.filter_map(|link| Candidate::relayed(link.relayed?, link.local, Protocol::Udp).ok()).collect()
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
        for link in &mut self.links {
            link.ask_binding(now, &mut self.outgoing);
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
            if link.has_ended && !link.is_told && link.relayed.is_none() {
                link.is_told = true;
                let why = link.refusal.take().unwrap_or_else(|| "no answer".to_owned());
                self.failed.push_back((link.relay, why));
            }
            link.ask_permissions(&self.peers, at);
            while let Some(transmit) = link.client.poll_transmit(at) {
                let payload = transmit.data.as_ref().to_vec();
                self.outgoing.push_back(ToRelay { local: link.local, relay: link.relay, payload });
            }
        }
        self.wake_at = wake_at;
    }

    fn turn_time(&self, now: Instant) -> turn_client_proto::types::Instant {
        let elapsed = now.saturating_duration_since(self.base).as_nanos();
        turn_client_proto::types::Instant::from_nanos(i64::try_from(elapsed).unwrap_or(i64::MAX))
    }
}

impl Link {
    fn new(server: &RelayServer, local: SocketAddr, now: Instant) -> Self {
        let mut config = TurnConfig::new(TurnCredentials::new(&server.username, &server.password.0));
        config.set_address_family(if server.address.is_ipv4() { AddressFamily::IPV4 } else { AddressFamily::IPV6 });
        config.set_request_retransmits(RETRY_MIN, RETRY_MAX, RETRIES, RETRY_MAX);
        let request = Message::builder_request(BINDING, MessageWriteVec::new()).finish();
        Self {
            client: TurnClientUdp::allocate(local, server.address, config),
            local,
            relay: server.address,
            relayed: None,
            has_ended: false,
            is_leaving: false,
            is_told: false,
            challenged: None,
            refusal: None,
            binding: Some(Binding { request, next_at: now, interval: RETRY_MIN, left: RETRIES }),
            permitted: BTreeSet::new(),
            second_chances: PERMISSION_RETRIES,
        }
    }

    fn ask_binding(&mut self, now: Instant, outgoing: &mut VecDeque<ToRelay>) {
        let Some(binding) = self.binding.as_mut().filter(|binding| binding.next_at <= now) else { return };
        if binding.left == 0 {
            self.binding = None;
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
        let mapped = mapped.filter(|mapped| *mapped != self.local && mapped.port() != 0);
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
                Candidate::relayed(*relayed, self.local, Protocol::Udp).ok()
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

/// The socket from which a relay is reached: of its family, and of this machine only if it is.
fn fitting(sockets: &[SocketAddr], relay: SocketAddr) -> Option<SocketAddr> {
    let mut of_family = sockets.iter().filter(|socket| socket.is_ipv4() == relay.is_ipv4());
    let fits = |socket: &&&SocketAddr| socket.ip().is_loopback() == relay.ip().is_loopback();
    of_family.clone().find(|socket| fits(&socket)).or_else(|| of_family.next()).copied()
}

#[cfg(test)]
mod tests;
