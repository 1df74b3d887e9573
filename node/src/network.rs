//! Peers: who is connected, who they proved to be, and getting frames to them.

mod hello;
mod trust;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use halloo_protocol::call::HandOverRules;
use halloo_protocol::choice::{DeviceReports, PolicyText};
use halloo_protocol::identity::{Chain, VerifiedChain};
use halloo_protocol::kademlia::DisconnectReason;
use halloo_protocol::key::{AuthorityKey, DeviceKey};
use halloo_protocol::linked::LinkedShare;
use halloo_protocol::mailbox::MailboxNews;
use halloo_protocol::message::{Composing, MessageDelivered};
use halloo_protocol::node::{Descriptor, Goodbye, Hello, RevocationNotice, RevocationNumber, Roles};
use halloo_protocol::own_device::DeviceCard;
use halloo_protocol::presence::PresenceGossip;
use halloo_protocol::push::PushReceipt;
use halloo_protocol::relay::RelayNotice;
use halloo_protocol::session::MessagesUnopened;
use halloo_protocol::time::UnixTime;
use halloo_protocol::vault::VaultNews;
use halloo_protocol::wire::{self, Extensions, Frame, FrameKind, Message};
use libp2p::swarm::ConnectionId;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::{Multiaddr, PeerId};
use tracing::{debug, trace};

use crate::address;
use crate::event_loop::EventLoop;
use crate::handle::Event;
use crate::room::give_back;
use crate::rpc::Failure;

/// Requests a peer may make at once, and per second over time. A busy directory server's neighbour makes a few
/// per second; beyond this a peer is told [`FrameKind::BUSY`].
const REQUEST_BURST: f64 = 400.0;
const REQUESTS_PER_SEC: f64 = 100.0;

/// Hellos of a connected peer at once, and per second over time. Each is verified, may be answered by revocation lists and sets waiting
/// messages going; an honest peer says one per stream, and a new one when its addresses or duties change.
const HELLO_BURST: f64 = 10.0;
const HELLOS_PER_SEC: f64 = 0.1;

/// Largest frame with a hello that is kept for later.
const HELLO_BYTES_MAX: usize = Hello::LIMIT + 64;

/// What a request was for: where its answer goes.
#[derive(Debug)]
pub(crate) enum Purpose {
    /// A question of the directory's state machine.
    Directory(halloo_protocol::kademlia::RequestId),
    /// Asking a peer that has been silent for a sign of life.
    SignOfLife(crate::doubts::Doubt),
    /// A message to a device.
    Message(crate::messages::Delivery),
    /// A file being fetched.
    File(crate::files::FileRequest),
    /// Messages that didn't come by themselves.
    History(crate::messages::HistoryAsking),
    /// A part of a recording that another own device has.
    VoicemailFetch(crate::calls::voicemail::FetchingPart),
    /// An invite to a device.
    Invite(crate::calls::InviteTarget),
    /// An invite for a device, to a relay of it.
    HandOverAsk(crate::calls::InviteTarget),
    /// Giving another own device a name.
    DeviceRename(Box<crate::devices::Renaming>),
    /// Asking another own device for a certificate.
    DeviceRenew,
    /// Asking the own device with the login of a linked account.
    LinkedAsk(Box<crate::linked::OwnAsk>),
    /// A caller's invite, from us as its relay to the device.
    HandOver(crate::roles::hand_over::HandingOver),
    /// A call signal to a device.
    Signal(crate::calls::SignalTarget),
    /// Asking the other end of a call what it has seen.
    CallTrace(crate::calls::TraceAsking),
    /// Telling a participant who is there.
    Conference(crate::calls::NoticeTarget),
    /// A call signal to a device, by way of whoever brought the invite.
    SignalAsk(crate::calls::SignalTarget),
    /// A device's call signal, from us as the one who brought the invite.
    SignalPass(crate::roles::signal_pass::Passing),
    /// Asking an authority for a name or a renewal.
    Enrol(Box<crate::enrolment::Asking>),
    /// Asking an authority for a code to an address, or for its word.
    Address(Box<crate::linked::AddressAsking>),
    /// Registering at a gateway.
    PushRegister(Box<crate::push::Registering>),
    /// Taking leave of a gateway.
    PushUnregister(Box<crate::push::Unregistering>),
    /// Having a gateway wake a phone's app.
    PhonePush(Box<crate::push::phone::Asking>),
    /// Asking a gateway to vouch for this device.
    PushKeep(DeviceKey),
    /// Telling a gateway by what to choose devices.
    PushChoice(DeviceKey),
    /// Taking back a push that a gateway holds.
    PushWithdraw,
    /// Telling a sender that its push has come.
    PushArrived([u8; 16]),
    /// Handing a push to a gateway.
    PushSend(crate::push::Handed),
    /// Opening one of our own boxes, or looking into it.
    OwnMailbox(crate::mailboxes::BoxRequest),
    /// Leaving a message in somebody's mailbox.
    MailboxPut(crate::mailboxes::Leaving),
    /// Reading or writing this user's vault.
    Vault(crate::vault::VaultRequest),
    /// Asking for a one-time key of a device.
    KeyFetch(crate::sessions::Fetching),
    /// Leaving one-time keys of ours with our first mailbox.
    MailboxKeys(DeviceKey),
    /// Asking a media relay for credentials.
    RelayAsk(PeerId),
    /// A gateway's push, to another gateway of the device.
    PushHandOn(crate::roles::gateway::Handing),
    /// A gateway's request for a session, to a client.
    SessionRequest(crate::roles::gateway::sessions::Asking),
    /// Opening a session, or refusing it.
    SessionOpen(Box<crate::push::sessions::OpeningSession>),
    /// A gateway's content for a client with a session.
    SessionContent(crate::roles::gateway::sessions::Asking),
    /// A gateway's delivery over a device's stream.
    PushDeliver(crate::roles::gateway::Delivering),
    /// Telling a device that a channel of its registration has ended.
    PushChannelGone(crate::roles::gateway::TellingGone),
}

/// What one peer may do, refilled over time.
#[derive(Debug)]
struct Bucket {
    tokens: f64,
    filled_at: Instant,
    burst: f64,
    per_sec: f64,
}

impl Bucket {
    const fn new(burst: f64, per_sec: f64, now: Instant) -> Self {
        Self { tokens: burst, filled_at: now, burst, per_sec }
    }

    fn take(&mut self, now: Instant) -> bool {
        let refill = now.saturating_duration_since(self.filled_at).as_secs_f64() * self.per_sec;
        self.tokens = (self.tokens + refill).min(self.burst);
        self.filled_at = now;
        if self.tokens < 1.0 {
            return false;
        }
        self.tokens -= 1.0;
        true
    }
}

/// A connected peer.
#[derive(Debug)]
pub(crate) struct Peer {
    /// Its device key.
    pub(crate) device: DeviceKey,
    /// Who it proved to be; `None` before its hello, or without a chain we believe.
    pub(crate) chain: Option<VerifiedChain>,
    /// Why its chain isn't believed.
    pub(crate) chain_error: Option<String>,
    /// What it serves, by its own word.
    pub(crate) descriptor: Option<Descriptor>,
    /// Whether its hello was seen.
    pub(crate) greeted: bool,
    /// Its newest hello, to be judged anew when our trust changes.
    hello: Option<Box<Hello>>,
    /// When that came, by our uncorrected clock.
    hello_at: Option<UnixTime>,
    /// When the last frame came, or else when it was connected.
    heard_at: Instant,
    /// The connection is being dropped because nothing comes.
    is_silent: bool,
    /// It is asked for a sign of life.
    pub(crate) is_doubted: bool,
    /// Its software.
    pub(crate) agent: Option<String>,
    /// Round-trip time by ping.
    pub(crate) rtt: Option<Duration>,
    /// The address in use.
    pub(crate) address: Option<Multiaddr>,
    /// Whether it is connected through a relay only.
    pub(crate) relayed: bool,
    /// Whether it speaks the relay protocol.
    pub(crate) relays: bool,
    bucket: Bucket,
    hellos: Bucket,
    /// The newest hello that came too soon after others: it is heard when its time has come.
    late_hello: Option<Vec<u8>>,
    /// Revocation lists sent to it, by number.
    told: Vec<RevocationNumber>,
}

impl Peer {
    /// Its user's word for the device, as the newest hello shows it; believed if [`Peer::chain`] is.
    pub(crate) fn certificate(&self) -> Option<&halloo_protocol::wire::Signed<halloo_protocol::identity::DeviceCertificate>> {
        Some(&self.hello.as_ref()?.chain.as_ref()?.device)
    }

    /// The chain of its newest hello; believed if [`Peer::chain`] is.
    pub(crate) fn shown_chain(&self) -> Option<&Chain> {
        self.hello.as_ref()?.chain.as_ref()
    }

    /// Something has come from it.
    fn note_heard(&mut self) {
        self.heard_at = Instant::now();
        self.is_silent = false;
    }

    /// Whether a frame has come since.
    pub(crate) fn is_heard_since(&self, since: Instant) -> bool {
        self.heard_at > since
    }

    /// Whether it has proved who it is, and nothing shows that it is gone.
    pub(crate) const fn is_living(&self) -> bool {
        self.chain.is_some() && !self.is_silent
    }

    /// True if a list of this number hasn't been sent to the peer on this connection.
    fn is_news(&mut self, authority: AuthorityKey, number: u64) -> bool {
        match self.told.iter_mut().find(|told| told.authority == authority) {
            Some(told) if told.number >= number => return false,
            Some(told) => told.number = number,
            None => self.told.push(RevocationNumber { authority, number }),
        }
        true
    }
}

/// All connected peers.
#[derive(Debug, Default)]
pub(crate) struct Peers {
    connected: HashMap<PeerId, Box<Peer>>,
    /// Remote addresses of connections whose stream event is still to come.
    addresses: HashMap<PeerId, (Multiaddr, bool)>,
    /// Our dials under way. Those of libp2p's own behaviours, such as a hole punch, aren't among them: what waits for a connection neither
    /// waits for them nor fails with them. Bounded by the swarm's limit of pending connections.
    dials: HashMap<ConnectionId, PeerId>,
}

impl Peers {
    pub(crate) fn get(&self, peer: &PeerId) -> Option<&Peer> {
        self.connected.get(peer).map(Box::as_ref)
    }

    pub(crate) fn get_mut(&mut self, peer: &PeerId) -> Option<&mut Peer> {
        self.connected.get_mut(peer).map(Box::as_mut)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&PeerId, &Peer)> {
        self.connected.iter().map(|(id, peer)| (id, peer.as_ref()))
    }

    pub(crate) fn len(&self) -> usize {
        self.connected.len()
    }

    /// A dial has ended. True if it was ours, and no other of ours to the same peer is under way.
    pub(crate) fn dial_ended(&mut self, connection: ConnectionId) -> bool {
        self.dials.remove(&connection).is_some_and(|peer| !self.is_dialling(&peer))
    }

    fn is_dialling(&self, peer: &PeerId) -> bool {
        self.dials.values().any(|dialled| dialled == peer)
    }

    /// The connected peers that serve all of `roles`, by their own word and with a chain we believe.
    pub(crate) fn with_roles(&self, roles: Roles) -> impl Iterator<Item = (&PeerId, &Peer)> {
        self.iter()
            .filter(move |(_, peer)| peer.chain.is_some() && peer.descriptor.as_ref().is_some_and(|d| d.roles.contains(roles)))
    }
}

/// Whom to reach and where.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// The device.
    pub(crate) peer: PeerId,
    /// Its addresses, direct and through relays; libp2p dials several at once and keeps the first that answers.
    pub(crate) addresses: Vec<Multiaddr>,
    /// No others that libp2p remembers: they might show the peer where we are.
    pub(crate) no_others: bool,
}

impl Target {
    /// A node known by its descriptor. With `private`, addresses of local networks count too.
    pub(crate) fn of_descriptor(descriptor: &Descriptor, private: bool) -> Option<Self> {
        let peer = address::peer_id(&descriptor.device)?;
        let addresses = descriptor.addresses.iter().filter_map(address::from_wire);
        Some(Self {
            peer,
            addresses: addresses.filter(|address| address::may_dial(address, private)).collect(),
            no_others: false,
        })
    }

    /// A peer that is connected already.
    pub(crate) const fn connected(peer: PeerId) -> Self {
        Self { peer, addresses: Vec::new(), no_others: false }
    }
}

impl EventLoop {
    /// Asks `target` and remembers what for. Without a connection the frame waits while the peer is dialled.
    pub(crate) fn request<M: Message>(&mut self, target: &Target, message: &M, purpose: Purpose, timeout: Duration) {
        self.request_encoded(target, M::KIND, wire::encode(message), purpose, timeout);
    }

    /// [`EventLoop::request`] for a body encoded already.
    pub(crate) fn request_encoded(
        &mut self,
        target: &Target,
        kind: FrameKind,
        body: Vec<u8>,
        purpose: Purpose,
        timeout: Duration,
    ) {
        let now = Instant::now();
        let id = match self.rpc.register(target.peer, purpose, timeout, now) {
            Ok(id) => id,
            Err(purpose) => return self.failures.push_back((purpose, Failure::Overloaded)),
        };
        let frame = Frame { kind, id, body };
        self.send_or_dial(target, frame, now);
    }

    /// Asks a connected peer on this very connection, as long as it stands.
    pub(crate) fn request_via<M: Message>(
        &mut self,
        peer: PeerId,
        via: ConnectionId,
        message: &M,
        purpose: Purpose,
        timeout: Duration,
    ) {
        let now = Instant::now();
        let id = match self.rpc.register(peer, purpose, timeout, now) {
            Ok(id) => id,
            Err(purpose) => return self.failures.push_back((purpose, Failure::Overloaded)),
        };
        self.send_frame(peer, Some(via), &Frame::new(id, message), now);
    }

    /// Asks over a new connection, whether one is open or not: nothing is heard on that, and the peer may have gone and come back since. What is open stays,
    /// but draws nothing off the new one before something comes on it. Should no dial succeed the request ends by its deadline.
    pub(crate) fn request_anew<M: Message>(&mut self, target: &Target, message: &M, purpose: Purpose, timeout: Duration) {
        let now = Instant::now();
        let id = match self.rpc.register(target.peer, purpose, timeout, now) {
            Ok(id) => id,
            Err(purpose) => return self.failures.push_back((purpose, Failure::Overloaded)),
        };
        if self.rpc.wait_for_connection(target.peer, Frame::new(id, message)).is_err() {
            return self.fail_request(target.peer, id, Failure::Overloaded, now);
        }
        self.swarm.behaviour_mut().streams.doubt(target.peer);
        self.dial_moved(target);
    }

    /// Whether a connection to the peer was open at `since` and looks open still, and nothing has come since.
    pub(crate) fn is_silent_since(&self, peer: &PeerId, since: Instant) -> bool {
        self.peers.get(peer).is_some_and(|known| !known.is_heard_since(since))
    }

    /// Tells `target` something that gets no answer. Lost if it can't be reached.
    pub(crate) fn notify<M: Message>(&mut self, target: &Target, message: &M) {
        self.send_or_dial(target, Frame::new(0, message), Instant::now());
    }

    fn send_or_dial(&mut self, target: &Target, frame: Frame, now: Instant) {
        let peer = target.peer;
        if peer == *self.swarm.local_peer_id() {
            self.fail_request(peer, frame.id, Failure::Unreachable, now);
            return;
        }
        if self.swarm.behaviour().streams.is_connected(&peer) {
            self.send_frame(peer, None, &frame, now);
            return;
        }
        let id = frame.id;
        if self.rpc.wait_for_connection(peer, frame).is_err() {
            return self.fail_request(peer, id, Failure::Overloaded, now);
        }
        self.dial(target);
    }

    /// Closes the connections to a device that has said nothing for `silence`: a path can be dead long before a transport notices, and while it
    /// stands nothing else is tried.
    pub(crate) fn drop_if_silent(&mut self, device: &DeviceKey, silence: Duration) {
        let Some(peer) = address::peer_id(device) else { return };
        if self.peers.get(&peer).is_some_and(|known| known.heard_at.elapsed() >= silence) {
            self.drop_silent(peer);
        }
    }

    /// Closes the connections to a peer that gives no sign of life.
    pub(crate) fn drop_silent(&mut self, peer: PeerId) {
        let Some(known) = self.peers.connected.get_mut(&peer) else { return };
        known.is_silent = true;
        debug!(%peer, "silent: connection dropped");
        let _closed = self.swarm.disconnect_peer_id(peer);
    }

    /// Closes a connection over which nothing comes back, so that another way is tried while the peer is wanted.
    pub(crate) fn drop_dead(&mut self, peer: PeerId, connection: ConnectionId) {
        let is_only_one = self.swarm.behaviour().streams.connections(&peer) == 1;
        if let Some(known) = self.peers.connected.get_mut(&peer).filter(|_| is_only_one) {
            known.is_silent = true;
        }
        debug!(%peer, "pings are not answered: connection dropped");
        let _closed = self.swarm.close_connection(connection);
    }

    /// Connects to a peer unless it is connected or we dial it already. What waits for it fails if it can't be reached.
    pub(crate) fn dial(&mut self, target: &Target) {
        if !self.peers.is_dialling(&target.peer) {
            self.dial_moved(target);
        }
    }

    /// Connects to a peer that has moved, beside a dial to where it was, which may take seconds to fail; and beside a connection, if frames wait for
    /// another.
    pub(crate) fn dial_moved(&mut self, target: &Target) {
        let peer = target.peer;
        if peer == *self.swarm.local_peer_id() {
            return;
        }
        let condition = if self.rpc.is_waiting(&peer) { PeerCondition::Always } else { PeerCondition::Disconnected };
        let options = DialOpts::peer_id(peer).addresses(target.addresses.clone()).condition(condition);
        let options = if target.no_others { options.build() } else { options.extend_addresses_through_behaviour().build() };
        let connection = options.connection_id();
        match self.swarm.dial(options) {
            Ok(()) => {
                self.peers.dials.insert(connection, peer);
            }
            Err(libp2p::swarm::DialError::DialPeerConditionFalse(_)) => {}
            Err(error) => {
                debug!(%peer, %error, "can't dial");
                if !self.peers.is_dialling(&peer) && !self.swarm.is_connected(&peer) {
                    self.fail_peer(&peer, Failure::Unreachable);
                }
            }
        }
    }

    /// Closes the connections to a peer, as if they had been idle for long.
    pub(crate) fn disconnect(&mut self, peer: &str) {
        if let Ok(peer) = peer.parse::<PeerId>() {
            let _closed = self.swarm.disconnect_peer_id(peer);
        }
    }

    fn send_frame(&mut self, peer: PeerId, via: Option<ConnectionId>, frame: &Frame, now: Instant) {
        let bytes = wire::encode(frame);
        trace!(me = %self.swarm.local_peer_id(), %peer, kind = frame.kind.0, id = frame.id, bytes = frame.body.len(), "frame sent");
        if let Err(error) = self.swarm.behaviour_mut().streams.send(peer, via, bytes) {
            debug!(%peer, %error, "frame not sent");
            if frame.kind.is_request() {
                self.fail_request(peer, frame.id, Failure::Disconnected, now);
            }
        }
    }

    /// Answers with a body encoded already.
    pub(crate) fn answer_encoded(&mut self, peer: PeerId, via: ConnectionId, id: u32, kind: FrameKind, body: Vec<u8>) {
        self.send_frame(peer, Some(via), &Frame { kind, id, body }, Instant::now());
    }

    fn fail_request(&mut self, peer: PeerId, id: u32, failure: Failure, now: Instant) {
        if let Some((purpose, _)) = self.rpc.take(peer, id, now) {
            self.failures.push_back((purpose, failure));
        }
    }

    /// Ends everything asked of a peer that can't be reached.
    pub(crate) fn fail_peer(&mut self, peer: &PeerId, failure: Failure) {
        for purpose in self.rpc.disconnected(peer) {
            self.failures.push_back((purpose, failure));
        }
    }

    pub(crate) fn note_address(&mut self, peer: PeerId, address: Multiaddr, dialled: bool) {
        match self.peers.get_mut(&peer) {
            Some(known) if !address::is_circuit(&address) || known.address.is_none() => known.address = Some(address),
            Some(_) => {}
            None => {
                self.peers.addresses.insert(peer, (address, dialled));
            }
        }
    }

    pub(crate) fn forget_address(&mut self, peer: &PeerId) {
        self.peers.addresses.remove(peer);
    }

    pub(crate) fn handle_connected(&mut self, peer: PeerId, connection: ConnectionId, relayed: bool, first: bool) {
        let Some(device) = address::device_key(&peer) else {
            // Peers with other keys than Ed25519 can have no certificate; they may use the relay, nothing else.
            return;
        };
        let (address, dialled) =
            self.peers.addresses.remove(&peer).map_or((None, false), |(address, dialled)| (Some(address), dialled));
        if first {
            let entry = Peer {
                device,
                chain: None,
                chain_error: None,
                descriptor: None,
                greeted: false,
                hello: None,
                hello_at: None,
                heard_at: Instant::now(),
                is_silent: false,
                is_doubted: false,
                agent: None,
                rtt: None,
                address,
                relayed,
                relays: false,
                bucket: Bucket::new(REQUEST_BURST, REQUESTS_PER_SEC, Instant::now()),
                hellos: Bucket::new(HELLO_BURST, HELLOS_PER_SEC, Instant::now()),
                late_hello: None,
                told: Vec::new(),
            };
            self.peers.connected.insert(peer, Box::new(entry));
        } else if let Some(known) = self.peers.connected.get_mut(&peer) {
            known.relayed &= relayed;
        }
        // Before anything is said: whoever takes the connection begins with the hole punch when our hello has come.
        let may_punch = relayed && self.is_near_device(&peer, &device) && self.swarm.behaviour_mut().dcutr.open_dialled(&peer);
        let waiting = self.rpc.connected(&peer);
        if (may_punch || first && dialled) && waiting.is_empty() {
            // Nothing to say opens no stream, and without one neither side learns who the other is.
            let hello = self.own_hello();
            self.notify(&Target::connected(peer), &hello);
        }
        for frame in waiting {
            self.send_frame(peer, Some(connection), &frame, Instant::now());
        }
        self.directory_connected(peer);
    }

    pub(crate) fn handle_closed(&mut self, peer: PeerId, last: bool, reason: DisconnectReason) {
        if !last {
            let relayed = !self.swarm.behaviour().streams.is_direct(&peer);
            if let Some(known) = self.peers.connected.get_mut(&peer) {
                known.relayed = relayed;
            }
            return;
        }
        self.fail_peer(&peer, Failure::Disconnected);
        let gone = self.peers.connected.remove(&peer);
        give_back(&mut self.peers.connected);
        if let Some(gone) = gone {
            // It fell silent before we closed: those who are to be told of that are.
            let reason = if gone.is_silent { DisconnectReason::Lost } else { reason };
            self.directory_disconnected(&gone, reason);
            self.presence_disconnected(&gone.device, reason);
            self.hand_over_peer_gone(&peer);
            self.push_sessions_peer_gone(&gone.device);
            let username = gone.chain.as_ref().map(|chain| self.labels.display(&chain.user.id));
            self.events.send(Event::PeerDown { peer_id: peer.to_string(), username });
        }
    }

    /// One frame from a peer.
    pub(crate) fn handle_frame(&mut self, peer: PeerId, via: ConnectionId, bytes: &[u8]) {
        let frame = match wire::decode::<Frame>(bytes, wire::FRAME_BYTES_MAX) {
            Ok(frame) => frame,
            Err(error) => {
                self.counters.malformed += 1;
                debug!(%peer, %error, "frame refused");
                return;
            }
        };
        trace!(me = %self.swarm.local_peer_id(), %peer, kind = frame.kind.0, id = frame.id, bytes = frame.body.len(), "frame");
        let now = Instant::now();
        if let Some(known) = self.peers.connected.get_mut(&peer) {
            known.note_heard();
        }
        if frame.kind.is_answer() {
            match self.rpc.take(peer, frame.id, now) {
                Some((purpose, _)) if frame.kind == FrameKind::UNSUPPORTED => {
                    self.failures.push_back((purpose, Failure::Unsupported));
                }
                Some((purpose, _)) if frame.kind == FrameKind::BUSY => self.failures.push_back((purpose, Failure::Busy)),
                Some((purpose, _)) => self.handle_answer(purpose, &frame),
                None => self.counters.unexpected_answers += 1,
            }
            return;
        }
        let allowed = self.is_expected_read(&peer, frame.kind)
            || self.peers.connected.get_mut(&peer).is_some_and(|known| known.bucket.take(now));
        if !allowed {
            self.counters.rate_limited += 1;
            if frame.kind.is_request() {
                self.answer_encoded(peer, via, frame.id, FrameKind::BUSY, Vec::new());
            }
            return;
        }
        if frame.kind.is_notice() {
            self.handle_notice(peer, &frame, bytes);
        } else {
            self.handle_request(peer, via, &frame);
        }
    }

    fn handle_notice(&mut self, peer: PeerId, frame: &Frame, bytes: &[u8]) {
        match frame.kind {
            Hello::KIND => self.handle_hello(peer, bytes),
            RevocationNotice::KIND => match frame.parse::<RevocationNotice>() {
                Ok(notice) => self.handle_revocation_list(&notice.list, Some(peer)),
                Err(_) => self.counters.malformed += 1,
            },
            HandOverRules::KIND => match frame.parse::<HandOverRules>() {
                Ok(rules) => self.handle_hand_over_rules(peer, &rules),
                Err(_) => self.counters.malformed += 1,
            },
            Goodbye::KIND => self.handle_goodbye(peer),
            RelayNotice::KIND => match frame.parse::<RelayNotice>() {
                Ok(notice) => self.handle_relay_notice(peer, &notice),
                Err(_) => self.counters.malformed += 1,
            },
            PresenceGossip::KIND => self.handle_presence_frame(peer, frame),
            MailboxNews::KIND => self.handle_mailbox_news(peer),
            VaultNews::KIND => {
                if let Some(device) = self.peers.get(&peer).map(|known| known.device) {
                    self.handle_vault_news(&device);
                }
            }
            DeviceCard::KIND => match frame.parse::<DeviceCard>() {
                Ok(card) => self.handle_device_card(peer, card),
                Err(_) => self.counters.malformed += 1,
            },
            PushReceipt::KIND => match frame.parse::<PushReceipt>() {
                Ok(receipt) => self.handle_push_receipt(peer, &receipt),
                Err(_) => self.counters.malformed += 1,
            },
            DeviceReports::KIND => match frame.parse::<DeviceReports>() {
                Ok(reports) => self.handle_device_reports(peer, reports),
                Err(_) => self.counters.malformed += 1,
            },
            PolicyText::KIND => match frame.parse::<PolicyText>() {
                Ok(policy) => self.handle_policy_text(peer, policy),
                Err(_) => self.counters.malformed += 1,
            },
            LinkedShare::KIND => match frame.parse::<LinkedShare>() {
                Ok(share) => self.handle_linked_share(peer, share),
                Err(_) => self.counters.malformed += 1,
            },
            MessageDelivered::KIND => match frame.parse::<MessageDelivered>() {
                Ok(notice) => self.handle_message_delivered(peer, &notice),
                Err(_) => self.counters.malformed += 1,
            },
            Composing::KIND => match frame.parse::<Composing>() {
                Ok(notice) => self.handle_composing_notice(peer, &notice),
                Err(_) => self.counters.malformed += 1,
            },
            MessagesUnopened::KIND => match frame.parse::<MessagesUnopened>() {
                Ok(notice) => self.handle_messages_unopened(peer, &notice),
                Err(_) => self.counters.malformed += 1,
            },
            _ => self.counters.unknown_kinds += 1,
        }
    }

    fn handle_goodbye(&mut self, peer: PeerId) {
        self.relay_leaves(peer);
        if let Some(known) = self.peers.connected.get(&peer) {
            let device = known.device;
            let now = self.now();
            self.directory.machine.handle_disconnected(now, &device, DisconnectReason::Left);
        }
    }

    /// Says goodbye to everybody connected.
    pub(crate) fn say_goodbye(&mut self) {
        let peers: Vec<PeerId> = self.peers.connected.keys().copied().collect();
        for peer in peers {
            self.notify(&Target::connected(peer), &Goodbye { extensions: Extensions::none() });
        }
    }
}
