//! Our TURN client and our TURN server, both without sockets, in virtual time.

use std::collections::HashMap;
use std::io;

use halloo_relay::UnixTime;
use halloo_relay::auth::{Credentials, Users};
use halloo_relay::packet::{ClientPath, HEADROOM_BYTES, HeldPort, ListenerId, Packet, Payload, RelayedId, Sink, Transport};
use halloo_relay::quota::Limits;
use halloo_relay::relay::{Relay, RelayedIp, Settings, Shared};

use turn_client_proto::types::message::REFRESH;

use super::*;

const SECRET: &[u8] = b"a relay's secret";
const START: UnixTime = UnixTime(1_800_000_000);
const RELAYED_IP: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(198, 41, 0, 4));

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

fn server_address() -> SocketAddr {
    SocketAddr::new(RELAYED_IP, 3_478)
}

/// What the server sends, and the sockets it has open.
#[derive(Default)]
struct Wire {
    to_clients: Vec<(SocketAddr, Vec<u8>)>,
    to_peers: Vec<(SocketAddr, Vec<u8>)>,
    open: HashMap<RelayedId, SocketAddr>,
    /// Refreshes that were granted, nonces that were too old.
    refreshed: u32,
    stale: u32,
}

impl<'b> Sink<'b> for Wire {
    fn to_client(&mut self, to: ClientPath, payload: Payload<'_, 'b>) {
        let mut bytes = Vec::new();
        payload.append_to(&mut bytes);
        self.to_clients.push((to.address, bytes));
    }

    fn to_peer(&mut self, _from: RelayedId, to: SocketAddr, data: &'b [u8], _dont_fragment: bool) {
        self.to_peers.push((to, data.to_vec()));
    }

    fn respond(&mut self, to: ClientPath, message: &[u8]) {
        let response = Message::from_bytes(message).expect("a STUN message");
        self.refreshed += u32::from(response.has_method(REFRESH) && response.has_class(MessageClass::Success));
        self.stale += u32::from(response.attribute::<ErrorCode>().is_ok_and(|error| error.code() == ErrorCode::STALE_NONCE));
        self.to_clients.push((to.address, message.to_vec()));
    }

    fn open_relayed(&mut self, id: RelayedId, address: SocketAddr) -> io::Result<()> {
        self.open.insert(id, address);
        Ok(())
    }

    fn hold_port(&mut self, _: SocketAddr) -> io::Result<HeldPort> {
        Ok(HeldPort::new(()))
    }

    fn open_held(&mut self, id: RelayedId, address: SocketAddr, _: HeldPort) -> io::Result<()> {
        self.open_relayed(id, address)
    }

    fn close_relayed(&mut self, id: RelayedId) {
        self.open.remove(&id);
    }
}

/// A relay, a client of it, and their time.
struct Lab {
    relay: Relay,
    wire: Wire,
    client: TurnClients,
    local: SocketAddr,
    now: Instant,
    started: Instant,
}

impl Lab {
    fn new(limits: Limits, credentials_secs: u64) -> Self {
        let now = Instant::now();
        let mut settings = Settings::new("halloo", vec![RelayedIp { local: RELAYED_IP, external: RELAYED_IP }]);
        settings.limits = limits;
        let credentials = Credentials::new(Users::default(), [SECRET.to_vec()]);
        let shared = Shared::new(settings, Box::new(credentials), [3; 32], now, START);
        let (username, password) = Credentials::issue(SECRET, "ann", UnixTime(START.0 + credentials_secs));
        let server = RelayServer { address: server_address(), stream: None, tls: None, username, password: Redacted(password) };
        let local = address("203.0.114.7:5000");
        let client = TurnClients::new(&[server], &[local], false, now);
        Self { relay: Relay::new(shared, 0, [5; 32]), wire: Wire::default(), client, local, now, started: now }
    }

    /// Carries datagrams until neither has anything to say at this moment; gives what peers' words reached the client.
    fn settle(&mut self) -> Vec<Vec<u8>> {
        let mut arrived = Vec::new();
        loop {
            let mut is_quiet = true;
            while let Some(sent) = self.client.next_outgoing() {
                is_quiet = false;
                self.hand_to_relay(sent.local, &sent.payload);
            }
            for (_, bytes) in std::mem::take(&mut self.wire.to_clients) {
                is_quiet = false;
                self.client.handle(self.local, server_address(), &bytes, self.now);
                while let Some(Handed { payload, .. }) = self.client.next_handed() {
                    arrived.push(payload);
                }
            }
            if is_quiet {
                return arrived;
            }
        }
    }

    fn hand_to_relay(&mut self, from: SocketAddr, bytes: &[u8]) {
        let mut buffer = [&[0; HEADROOM_BYTES], bytes].concat();
        let path = ClientPath { address: from, transport: Transport::Datagram(ListenerId(0)) };
        self.relay.handle_client(Packet::new(&mut buffer, HEADROOM_BYTES), path, self.now, &mut self.wire);
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        let elapsed = self.now.duration_since(self.started).as_secs();
        self.relay.shared().set_unix_time(self.now, UnixTime(START.0 + elapsed));
        self.relay.handle_timeout(self.now, &mut self.wire);
        self.client.poll(self.now);
    }

    /// Two seconds: the client paces its requests.
    fn negotiate(&mut self) {
        for _ in 0..20 {
            self.pass(Duration::from_millis(100));
            assert!(self.settle().is_empty());
        }
    }

    fn relayed(&mut self) -> SocketAddr {
        let mut found = std::iter::from_fn(|| self.client.next_candidate());
        let relayed = found.find(|candidate| candidate.kind() == str0m::CandidateKind::Relayed);
        relayed.expect("the relay lends an address").addr()
    }

    /// What a peer says to the relayed address.
    fn peer_sends(&mut self, peer: SocketAddr, words: &[u8]) -> Vec<Vec<u8>> {
        let (&id, _) = self.wire.open.iter().next().expect("the relayed socket is open");
        let mut buffer = [&[0; HEADROOM_BYTES], words].concat();
        self.relay.handle_peer(Packet::new(&mut buffer, HEADROOM_BYTES), id, peer, self.now, &mut self.wire);
        self.settle()
    }
}

#[test]
fn a_call_outlives_its_credentials_and_the_servers_nonces() {
    // Good for a minute; a nonce is good for an hour, an allocation without a refresh as well, a permission for five minutes.
    let mut lab = Lab::new(Limits::default(), 60);
    lab.negotiate();
    let relayed = lab.relayed();
    let peer = address("8.8.8.8:6000");
    lab.client.permit(peer.ip(), lab.now);
    lab.negotiate();
    lab.client.prefer(relayed, peer, lab.now);
    lab.negotiate();
    let hours = 3;
    for second in 0..hours * 3_600 {
        lab.pass(Duration::from_secs(1));
        lab.settle();
        if second % 10 == 0 {
            assert!(lab.client.send(relayed, peer, b"to the peer", lab.now));
            lab.settle();
            let sent = std::mem::take(&mut lab.wire.to_peers);
            assert_eq!(sent, [(peer, b"to the peer".to_vec())], "after {second} s");
            assert_eq!(lab.peer_sends(peer, b"from the peer"), [b"from the peer"], "after {second} s");
        }
    }
    assert!(lab.client.next_failure().is_none() && lab.client.has(relayed));
    eprintln!("in {hours} hours {} refreshes, {} stale nonces", lab.wire.refreshed, lab.wire.stale);
    assert!(lab.wire.refreshed >= 5 && lab.wire.stale >= 2);
    assert_eq!(lab.relay.allocation_count(), 1, "the first allocation, {hours} hours later");
}

#[test]
fn credentials_that_have_run_out_open_nothing_new() {
    let mut lab = Lab::new(Limits::default(), 0);
    lab.negotiate();
    let (relay, why) = lab.client.next_failure().expect("it is refused");
    assert_eq!((relay, &why[..3]), (server_address(), "401"), "{why}");
    assert_eq!(lab.relay.allocation_count(), 0);
}

#[test]
fn a_quota_that_is_used_up_is_named() {
    let one = |change: fn(&mut Limits)| {
        let mut limits = Limits::default();
        change(&mut limits);
        limits
    };
    for (limits, expected) in [
        (one(|limits| limits.allocations_per_user_max = 0), "486 Allocations of this user"),
        (one(|limits| limits.allocations_per_address_max = 0), "486 Allocations of this client address"),
        (one(|limits| limits.allocations_max = 0), "508 Allocations of this relay"),
    ] {
        let mut lab = Lab::new(limits, 60);
        lab.negotiate();
        assert_eq!(lab.client.next_failure(), Some((server_address(), expected.to_owned())));
    }
}

#[test]
fn a_relay_that_drains_says_so() {
    let mut lab = Lab::new(Limits::default(), 60);
    lab.relay.shared().drain();
    lab.negotiate();
    assert_eq!(lab.client.next_failure(), Some((server_address(), "508 Relay is shutting down".to_owned())));
}
