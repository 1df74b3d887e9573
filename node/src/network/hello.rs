//! Hellos: what this node says of itself to each peer, and what it takes in of what they say.

use std::sync::Arc;
use std::time::Instant;

use halloo_protocol::identity::{Chain, VerifiedChain, tombstones_in, with_tombstones};
use halloo_protocol::key::DeviceKey;
use halloo_protocol::node::{Hello, RevocationNumber};
use halloo_protocol::time::UnixTime;
use halloo_protocol::wire::{self, Extensions, Frame};
use libp2p::PeerId;
use tracing::debug;

use super::{HELLO_BYTES_MAX, Target};
use crate::event_loop::EventLoop;
use crate::handle::Event;

impl EventLoop {
    /// The first frame of a stream.
    pub(crate) fn handle_greeting(&mut self, peer: PeerId, bytes: &[u8]) {
        if let Some(known) = self.peers.connected.get_mut(&peer) {
            known.note_heard();
        }
        self.handle_hello(peer, bytes);
    }

    /// The first frame of a stream, or a newer hello later on; or one that had to wait.
    pub(super) fn handle_hello(&mut self, peer: PeerId, bytes: &[u8]) {
        let now = Instant::now();
        let Some(known) = self.peers.connected.get_mut(&peer) else { return };
        if !known.hellos.take(now) {
            self.counters.rate_limited += 1;
            known.late_hello = (bytes.len() <= HELLO_BYTES_MAX).then(|| bytes.to_vec());
            return;
        }
        known.late_hello = None;
        let hello = wire::decode::<Frame>(bytes, wire::FRAME_BYTES_MAX).and_then(|frame| frame.parse::<Hello>());
        let hello = hello.and_then(|hello| hello.check().map(|()| hello));
        match hello {
            Ok(hello) => self.take_hello(peer, hello, Some(self.raw_unix())),
            Err(error) => {
                self.counters.malformed += 1;
                debug!(%peer, %error, "hello refused");
            }
        }
    }

    /// Hears hellos that had to wait.
    pub(crate) fn hear_late_hellos(&mut self) {
        let late: Vec<(PeerId, Vec<u8>)> =
            self.peers.connected.iter_mut().filter_map(|(peer, known)| Some((*peer, known.late_hello.take()?))).collect();
        for (peer, bytes) in late {
            self.handle_hello(peer, &bytes);
        }
    }

    /// `heard_at`: when it came, by our uncorrected clock, if that wasn't set since.
    fn take_hello(&mut self, peer: PeerId, hello: Hello, heard_at: Option<UnixTime>) {
        let Some(device) = self.peers.get(&peer).map(|known| known.device) else { return };
        // First: it may be what shows that our clock is wrong, and then the rest is judged by the right one.
        if let (Some(heard_at), Some(voter)) = (heard_at, self.vote_on_the_time(&device, hello.chain.as_ref(), hello.clock)) {
            let offset_before = self.clock.offset_secs();
            self.clock.observe(voter, hello.clock, heard_at, false);
            self.clock_changed(offset_before);
        }
        self.judge_hello(peer, hello, heard_at);
    }

    fn judge_hello(&mut self, peer: PeerId, hello: Hello, heard_at: Option<UnixTime>) {
        let now = self.now();
        let Some(known) = self.peers.connected.get_mut(&peer) else { return };
        let device = known.device;
        let first = !known.greeted;
        known.greeted = true;
        known.hello = Some(Box::new(hello.clone()));
        known.hello_at = heard_at;
        let verified = hello.chain.as_ref().map(|chain| chain.verify(now.unix, &self.trust));
        let (chain, chain_error) = match verified {
            Some(Ok(chain)) if chain.device == device => (Some(chain), None),
            Some(Ok(_)) => (None, Some("the chain is another device's".to_owned())),
            Some(Err(error)) => (None, Some(error.to_string())),
            None => (None, None),
        };
        if let Some(error) = &chain_error {
            debug!(%peer, error, "peer's chain isn't believed");
        }
        known.chain = chain.clone();
        known.chain_error = chain_error;
        known.descriptor = hello.descriptor.filter(|descriptor| descriptor.device == device);
        let descriptor = known.descriptor.clone();
        self.swarm.behaviour_mut().streams.heed(peer, chain.is_some());
        self.account_circuits(peer);
        if first {
            let username = chain.as_ref().map(|chain| self.labels.display(&chain.user.id));
            self.events.send(Event::PeerUp { peer_id: peer.to_string(), username });
        }
        if let Some(chain) = &chain {
            self.take_hello_tombstones(chain, &hello.extensions);
        }
        if chain.as_ref().is_some_and(|chain| self.is_near(chain)) {
            self.let_punch(peer);
        }
        self.exchange_revocations(peer, &hello.revocations);
        self.directory_greeted(peer, chain.as_ref(), descriptor);
        self.reach_greeted(peer);
        self.devices_peer_greeted(peer);
        self.messages_peer_greeted(peer);
        self.files_peer_greeted(peer);
        self.gateway_peer_greeted(peer);
        self.tell_push_arrivals(peer);
        self.mailboxes_peer_greeted(peer);
        self.presence_peer_greeted(peer);
    }

    /// A peer names the devices that its user has removed. Of users without a name, who cost nothing, only those we know count.
    fn take_hello_tombstones(&mut self, chain: &VerifiedChain, extensions: &Extensions) {
        let user = &chain.user;
        let counts = user.name().is_some() || self.is_acquainted(&user.id);
        let tombstones = if counts { tombstones_in(extensions, &user.identity) } else { Vec::new() };
        if !tombstones.is_empty() {
            self.take_tombstones(user.identity, tombstones);
        }
    }

    /// What a peer has relayed counts for its user, as long as its chain is believed.
    pub(super) fn account_circuits(&mut self, peer: PeerId) {
        // A user certified by name: anybody can make any number of identities without one.
        let user = self.peers.get(&peer).and_then(|known| known.chain.as_ref()).filter(|chain| chain.user.name().is_some());
        let user = user.map(|chain| chain.user.identity.0).filter(|_| self.swarm.is_connected(&peer));
        if let Some(relay) = self.swarm.behaviour_mut().relay_server.as_mut() {
            relay.set_user(peer, user);
        }
    }

    /// Under which key a peer's word on the time counts: its user's, if a trusted authority has named them. Keys, and identities without a
    /// name, cost nothing, and enough of them would set our clock; nor does a user's word count more by more devices. The chain is judged by the peer's own clock, since ours may be the one that is wrong. A gateway counts
    /// for more only when it is ours and has signed the time; that a peer calls itself one says nothing.
    fn vote_on_the_time(&self, device: &DeviceKey, chain: Option<&Chain>, clock: UnixTime) -> Option<DeviceKey> {
        let chain = chain?.verify(clock, &self.trust).ok()?;
        (chain.device == *device && chain.user.name().is_some()).then_some(DeviceKey(chain.user.identity.0))
    }

    /// Hears every connected peer's hello again, its word on the time too: we believe other authorities now.
    pub(crate) fn hear_hellos_anew(&mut self) {
        for (peer, hello, heard_at) in self.hellos() {
            self.take_hello(peer, hello, heard_at);
        }
    }

    /// Judges every connected peer's hello by our corrected clock. What they say of the time was heard.
    pub(crate) fn judge_hellos_anew(&mut self) {
        for (peer, hello, heard_at) in self.hellos() {
            self.judge_hello(peer, hello, heard_at);
        }
    }

    fn hellos(&self) -> Vec<(PeerId, Hello, Option<UnixTime>)> {
        let hellos = self.peers.connected.iter();
        hellos.filter_map(|(peer, known)| Some((*peer, known.hello.as_deref()?.clone(), known.hello_at))).collect()
    }

    /// Our clock was set: when hellos came, by what it said before, says nothing any more.
    pub(crate) fn forget_when_hellos_came(&mut self) {
        self.peers.connected.values_mut().for_each(|known| known.hello_at = None);
    }

    /// Says our hello to somebody, connected or not: it names the devices that our user has removed.
    pub(crate) fn tell_hello_to(&mut self, target: &Target) {
        let hello = self.own_hello();
        self.notify(target, &hello);
    }

    /// Makes what we say first on every stream anew: after enrolment, a change of addresses, roles or revocations. Connected peers are
    /// told too.
    pub(crate) fn refresh_hello(&mut self) {
        self.set_hello_bytes();
        let hello = self.own_hello();
        let greeted: Vec<PeerId> = self.peers.connected.iter().filter(|(_, p)| p.greeted).map(|(peer, _)| *peer).collect();
        for peer in greeted {
            self.notify(&Target::connected(peer), &hello);
        }
    }

    /// Gives streams that open from now on our present hello, with the time of their opening.
    fn set_hello_bytes(&mut self) {
        let (hello, clock) = (self.own_hello(), self.clock_source);
        let greeting = move || wire::encode(&Frame::new(0, &Hello { clock: clock.raw_unix(), ..hello.clone() }));
        self.swarm.behaviour_mut().streams.set_hello(Arc::new(greeting));
    }

    pub(super) fn own_hello(&self) -> Hello {
        let revocations = self
            .trust
            .authorities()
            .take(halloo_protocol::node::HELLO_REVOCATIONS_MAX)
            .map(|authority| RevocationNumber { authority: *authority, number: self.trust.revocation_number(authority) })
            .collect();
        Hello {
            version: Hello::VERSION,
            features: 0,
            chain: Some(self.identity.chain().clone()),
            descriptor: self.own_descriptor(),
            clock: self.raw_unix(),
            revocations,
            extensions: with_tombstones(Extensions::none(), &self.own_tombstones()),
        }
    }
}
