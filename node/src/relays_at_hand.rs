//! The media relays that this device has at hand: found among the nodes it knows, the nearest first, with credentials at hand before a call needs them.
//!
//! Two are kept, so that one may die. Each is asked again before its credentials end. One that says it is leaving is given up, and running calls change
//! to the other. Who has carried a call of ours is remembered: that user
//! goes before strangers at our own relay.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use halloo_protocol::key::PublicKey;
use halloo_protocol::node::Roles;
use halloo_protocol::redact::Redacted;
use halloo_protocol::relay::{MediaAddress, MediaTls, RelayGrant, RelayNotice, RelayReason, RelayRequest, RelayStatus};
use halloo_protocol::time::{Now, UnixTime};
use halloo_protocol::wire::{Extensions, Frame};
use libp2p::{Multiaddr, PeerId};
use tracing::{debug, info, warn};

use crate::calls::media::{MediaPath, RELAYS_MAX, RelayServer, TlsServer};
use crate::event_loop::EventLoop;
use crate::handle::Event;
use crate::handle::network::{MediaRelayAccess, MediaRelays};
use crate::network::{Purpose, Target};
use crate::rpc::Failure;
use crate::store::StoreError;
use crate::streams::Keeper;
use crate::timestamp::Timestamp;

/// How often it is looked whether there are enough, while somebody is left to ask; and while nobody is. A relay that connects is
/// asked at once.
const CHECK_EVERY: Duration = Duration::from_secs(2);
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// How long before their end credentials are renewed: a call that starts with them gets its allocations in any case.
const RENEW_BEFORE_SECS: u64 = 600;

/// How long credentials are believed to be good, whatever the relay says.
const GRANT_SECS_MAX: u64 = 3_600;

/// How long a relay has to answer.
const ASK_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a relay that refused or was silent isn't asked again.
const REFUSED_PAUSE: Duration = Duration::from_secs(120);

/// Relays whose refusal is remembered; when full, all are forgotten.
const REFUSED_MAX: usize = 256;

/// How often a relay that carries a call is dialled, if it isn't connected.
const REDIAL_EVERY: Duration = Duration::from_secs(10);

/// How often a relay's complaints are listened to.
const COMPLAINT_EVERY: Duration = Duration::from_secs(2);

/// A complaint concerns a call that connects within this time: media has 20 s to.
const COMPLAINT_RECENT: Duration = Duration::from_secs(20);

/// Users remembered as having carried for us.
const CARRIERS_MAX: usize = 256;

const CARRIERS: &str = "users who relayed for us";

#[derive(Clone, Debug)]
struct Held {
    relay: PeerId,
    /// Where its node was when it was asked.
    node: Vec<Multiaddr>,
    /// Whose node it is.
    owner: PublicKey,
    servers: Vec<RelayServer>,
    not_after: UnixTime,
    /// What it last told of dropped packets, and when.
    complaint: Option<(Instant, String)>,
    /// When it was last dialled for a call's sake.
    dialled_at: Option<Instant>,
}

impl Held {
    fn addresses(&self) -> Vec<SocketAddr> {
        self.servers.iter().map(|server| server.address).collect()
    }
}

/// What is known of media relays.
#[derive(Debug, Default)]
pub(crate) struct RelaysAtHand {
    held: Vec<Held>,
    asking: BTreeSet<PeerId>,
    paused: HashMap<PeerId, Instant>,
    check_at: Option<Instant>,
    /// Those connected for the sake of calls that they carry.
    connected: BTreeSet<PeerId>,
    carriers: Option<Vec<[u8; 32]>>,
    /// Why there is one less than there might be: the last refusal.
    refusal: Option<String>,
}

impl RelaysAtHand {
    /// Whether a relay of this user has carried a call of ours.
    pub(crate) fn has_carried_for_us(&self, user: &PublicKey) -> bool {
        self.carriers.as_ref().is_some_and(|carriers| carriers.contains(&user.0))
    }

    /// That no relay is at hand, with the last refusal.
    pub(crate) fn why_none(&self) -> Option<String> {
        let why = self.refusal.as_ref().map_or_else(String::new, |why| format!(": {why}"));
        self.held.is_empty().then(|| format!("no media relay is at hand{why}"))
    }

    /// The relays with credentials, peer ids.
    pub(crate) fn peers(&self) -> impl Iterator<Item = &PeerId> {
        self.held.iter().map(|held| &held.relay)
    }
}

impl EventLoop {
    pub(crate) fn relays_at_hand_tick(&mut self, now: Now) {
        self.stay_with_carriers(now.instant);
        if self.relays_at_hand.check_at.is_some_and(|at| at > now.instant) {
            return;
        }
        self.relays_at_hand.check_at = Some(now.instant + LOOK_AGAIN);
        self.load_carriers();
        if !self.settings.publishes || self.identity.place().is_none() {
            return;
        }
        self.relays_at_hand.held.retain(|held| held.not_after > now.unix);
        self.relays_at_hand.paused.retain(|_, until| *until > now.instant);
        let renew_at = now.unix.plus_secs(RENEW_BEFORE_SECS);
        let fresh = self.relays_at_hand.held.iter().filter(|held| held.not_after > renew_at).count();
        let missing = RELAYS_MAX.saturating_sub(fresh + self.relays_at_hand.asking.len());
        if missing == 0 {
            return;
        }
        for target in self.relay_candidates(renew_at).into_iter().take(missing) {
            self.relays_at_hand.asking.insert(target.peer);
            self.relays_at_hand.check_at = Some(now.instant + CHECK_EVERY);
            let request = RelayRequest { extensions: Extensions::none() };
            let peer = target.peer;
            self.request(&target, &request, Purpose::RelayAsk(peer), ASK_TIMEOUT);
        }
    }

    /// Keeps the relays connected that carry a call, since they may have something to say.
    fn stay_with_carriers(&mut self, now: Instant) {
        let carrying: BTreeSet<SocketAddr> = self.calls.carriers().collect();
        let held = &mut self.relays_at_hand.held;
        let is_carrying = |held: &&mut Held| held.servers.iter().any(|server| carrying.contains(&server.address));
        let mut wanted = BTreeSet::new();
        let mut missing = Vec::new();
        for held in held.iter_mut().filter(is_carrying) {
            wanted.insert(held.relay);
            let may_dial = held.dialled_at.is_none_or(|at| now.saturating_duration_since(at) >= REDIAL_EVERY);
            if may_dial && self.peers.get(&held.relay).is_none() {
                held.dialled_at = Some(now);
                missing.push(Target { peer: held.relay, addresses: held.node.clone(), no_others: false });
            }
        }
        missing.iter().for_each(|target| self.dial(target));
        for gone in self.relays_at_hand.connected.difference(&wanted).copied().collect::<Vec<_>>() {
            self.swarm.behaviour_mut().streams.keep(gone, Keeper::RelaysAtHand, false);
        }
        for relay in &wanted {
            self.swarm.behaviour_mut().streams.keep(*relay, Keeper::RelaysAtHand, true);
        }
        self.relays_at_hand.connected = wanted;
    }

    /// A peer has said what it serves. One whose credentials we hold may have started anew: it is asked again, and they are used meanwhile.
    pub(crate) fn relay_greeted(&mut self, peer: PeerId, roles: Roles) {
        if !roles.contains(Roles::MEDIA_RELAY) {
            return;
        }
        let renew_at = self.now().unix.plus_secs(RENEW_BEFORE_SECS);
        let known = self.relays_at_hand.held.iter_mut().find(|held| held.relay == peer);
        if let Some(held) = known {
            held.not_after = held.not_after.min(renew_at);
            self.relays_at_hand.check_at = None;
        } else if self.relays_at_hand.held.len() < RELAYS_MAX {
            self.relays_at_hand.check_at = None;
        }
    }

    /// A relay lent nothing to a call: others are looked for.
    pub(crate) fn relay_failed(&mut self, address: SocketAddr, why: &str) {
        let is_it = |held: &&Held| held.servers.iter().any(|server| server.address == address);
        if let Some(relay) = self.relays_at_hand.held.iter().find(is_it).map(|held| held.relay) {
            self.give_up_relay(relay, why);
            self.pause_relay(relay);
        }
    }

    fn give_up_relay(&mut self, relay: PeerId, why: &str) {
        info!(peer = %relay, why, "media relay given up");
        self.relays_at_hand.refusal = Some(why.to_owned());
        self.relays_at_hand.held.retain(|held| held.relay != relay);
        self.relays_at_hand.check_at = None;
    }

    /// A relay tells what TURN has no words for. Others' word counts for nothing.
    pub(crate) fn handle_relay_notice(&mut self, peer: PeerId, notice: &RelayNotice) {
        let now = Instant::now();
        let Some(held) = self.relays_at_hand.held.iter_mut().find(|held| held.relay == peer) else { return };
        if notice.reason == RelayReason::LEAVING {
            return self.relay_leaves(peer);
        }
        if held.complaint.as_ref().is_some_and(|(at, _)| now.saturating_duration_since(*at) < COMPLAINT_EVERY) {
            return;
        }
        let complaint = format!("the relay has dropped {} packets: {} used up", notice.packets, notice.reason);
        held.complaint = Some((now, complaint.clone()));
        let addresses = held.addresses();
        warn!(%peer, complaint, "media relay");
        self.note_relay_complaint(&addresses, &complaint);
        self.events.send(Event::Warning { code: "relay-quota".into(), detail: complaint });
    }

    /// What a relay has told of dropped packets a moment ago, when the call that now runs over it was being connected.
    pub(crate) fn recent_complaint(&self, relay: SocketAddr) -> Option<String> {
        let held = self.relays_at_hand.held.iter().find(|held| held.addresses().contains(&relay))?;
        let (at, complaint) = held.complaint.as_ref()?;
        (at.elapsed() < COMPLAINT_RECENT).then(|| complaint.clone())
    }

    /// A relay is leaving, or has left: the next call looks elsewhere, and those that run change to what else they have. It may be back in a
    /// moment, and isn't avoided then.
    pub(crate) fn relay_leaves(&mut self, peer: PeerId) {
        let Some(held) = self.relays_at_hand.held.iter().find(|held| held.relay == peer) else { return };
        let addresses = held.addresses();
        self.give_up_relay(peer, "the relay has left");
        self.calls_leave_relay(&addresses);
    }

    /// The addresses a relay may name: its own, so that it can't have our packets sent to others.
    fn is_of_relay(&self, peer: &PeerId, ip: std::net::IpAddr) -> bool {
        let Some(known) = self.peers.get(peer) else { return false };
        let connected = known.address.as_ref().filter(|address| !crate::address::is_circuit(address));
        let named = known.descriptor.iter().flat_map(|descriptor| &descriptor.addresses).filter_map(crate::address::from_wire);
        self.settings.lab
            || connected.into_iter().cloned().chain(named).any(|address| crate::address::ip_of(&address) == Some(ip))
    }

    /// Media relays that may be asked, the nearest first; those of unknown distance and the busy ones last.
    fn relay_candidates(&self, renew_at: UnixTime) -> Vec<Target> {
        let may_ask = |peer: &PeerId| {
            let is_fresh = self.relays_at_hand.held.iter().any(|held| held.relay == *peer && held.not_after > renew_at);
            !is_fresh && !self.relays_at_hand.asking.contains(peer) && !self.relays_at_hand.paused.contains_key(peer)
        };
        let connected = self.peers.with_roles(Roles::MEDIA_RELAY).map(|(peer, known)| {
            let load = known.descriptor.as_ref().map_or(0, |descriptor| descriptor.load.0);
            (load >= BUSY, known.rtt.unwrap_or(UNKNOWN_RTT), Target::connected(*peer))
        });
        let private = self.dials_private();
        let known = self.directory.machine.table().filter(|descriptor| descriptor.roles.contains(Roles::MEDIA_RELAY));
        let known = known.filter_map(|descriptor| {
            let target = Target::of_descriptor(descriptor, private)?;
            let is_connected = self.peers.get(&target.peer).is_some();
            (!is_connected && !target.addresses.is_empty()).then_some((descriptor.load.0 >= BUSY, UNKNOWN_RTT, target))
        });
        let mut candidates: Vec<_> = connected.chain(known).filter(|(.., target)| may_ask(&target.peer)).collect();
        candidates.sort_by_key(|(is_busy, rtt, _)| (*is_busy, *rtt));
        candidates.into_iter().map(|(.., target)| target).collect()
    }

    pub(crate) fn relay_answer(&mut self, peer: PeerId, frame: &Frame) {
        self.relays_at_hand.asking.remove(&peer);
        let grant = match frame.parse::<RelayGrant>() {
            Ok(grant) => grant,
            Err(error) => {
                debug!(%peer, %error, "relay's answer refused");
                self.counters.malformed += 1;
                return self.pause_relay(peer);
            }
        };
        let credentials = match &grant.status {
            RelayStatus::Granted(credentials) => credentials,
            RelayStatus::Refused(reason) => {
                let reason = *reason;
                info!(%peer, %reason, "media relay refuses");
                self.relays_at_hand.refusal = Some(format!("the relay refuses: {reason}"));
                if reason != RelayReason::LEAVING {
                    self.pause_relay(peer);
                }
                return;
            }
        };
        let Some(known) = self.peers.get(&peer) else { return self.pause_relay(peer) };
        let Some(owner) = known.chain.as_ref().map(|chain| chain.user.identity.0) else { return self.pause_relay(peer) };
        let named = known.descriptor.iter().flat_map(|descriptor| &descriptor.addresses).filter_map(crate::address::from_wire);
        let node: Vec<Multiaddr> = known.address.iter().cloned().chain(named).collect();
        let addresses = credentials.addresses.iter().map(|address| socket_address(*address));
        let tcp = grant.tcp_addresses();
        let tls = grant.tls();
        let own = addresses.filter(|address| self.is_of_relay(&peer, address.ip()));
        let servers: Vec<RelayServer> = own
            .map(|address| RelayServer {
                address,
                stream: tcp.iter().map(|address| socket_address(*address)).find(|stream| stream.ip() == address.ip()),
                tls: tls.as_ref().and_then(|tls| tls_of(tls, address)),
                username: credentials.username.clone(),
                password: Redacted(credentials.password.clone()),
            })
            .collect();
        if servers.is_empty() {
            debug!(%peer, "media relay names addresses that aren't its own");
            return self.pause_relay(peer);
        }
        // Its word for how long is taken up to what we would give.
        let not_after = credentials.not_after.min(self.now().unix.plus_secs(GRANT_SECS_MAX));
        let held = Held { relay: peer, node, owner, servers, not_after, complaint: None, dialled_at: None };
        self.relays_at_hand.held.retain(|known| known.relay != peer);
        self.relays_at_hand.held.push(held);
        self.calls_use_relays();
    }

    pub(crate) fn relay_failure(&mut self, peer: PeerId, failure: Failure) {
        debug!(%peer, %failure, "media relay not asked");
        self.relays_at_hand.asking.remove(&peer);
        self.pause_relay(peer);
    }

    fn pause_relay(&mut self, peer: PeerId) {
        if self.relays_at_hand.paused.len() >= REFUSED_MAX {
            self.relays_at_hand.paused.clear();
        }
        self.relays_at_hand.paused.insert(peer, Instant::now() + REFUSED_PAUSE);
    }

    /// Relays for the next call, the nearest first: the preferred address of each, then the others.
    pub(crate) fn call_relays(&self) -> Vec<RelayServer> {
        let held = self.held_by_distance();
        let preferred = held.iter().filter_map(|held| held.servers.first());
        let others = held.iter().flat_map(|held| held.servers.iter().skip(1));
        preferred.chain(others).cloned().collect()
    }

    fn held_by_distance(&self) -> Vec<&Held> {
        let rtt = |held: &Held| self.peers.get(&held.relay).and_then(|known| known.rtt).unwrap_or(UNKNOWN_RTT);
        let mut held: Vec<&Held> = self.relays_at_hand.held.iter().collect();
        held.sort_by_key(|held| rtt(held));
        held
    }

    /// The relays at hand, the nearest first.
    pub(crate) fn media_relays(&self) -> MediaRelays {
        let access = |held: &Held| {
            let first = held.servers.first()?;
            Some(MediaRelayAccess {
                peer_id: held.relay.to_string(),
                urls: held.servers.iter().flat_map(urls_of).collect(),
                username: first.username.clone(),
                credential: first.password.0.clone(),
                not_after: Timestamp::from_unix_secs(held.not_after.0),
            })
        };
        MediaRelays { relays: self.held_by_distance().into_iter().filter_map(access).collect() }
    }

    /// A call runs over this path: if a relay lends it, its owner has done us a favour.
    pub(crate) fn note_carrier(&mut self, path: &MediaPath) {
        let Some(relay) = path.relay else { return };
        let is_of = |held: &&Held| held.servers.iter().any(|server| server.address == relay);
        let Some(owner) = self.relays_at_hand.held.iter().find(is_of).map(|held| held.owner.0) else { return };
        let carriers = self.relays_at_hand.carriers.get_or_insert_default();
        if carriers.contains(&owner) {
            return;
        }
        carriers.insert(0, owner);
        carriers.truncate(CARRIERS_MAX);
        let carriers = carriers.clone();
        self.owe_to(&PublicKey(owner));
        if let Err(error) = self.store.transaction::<_, StoreError>(|tx| tx.put_setting_value(CARRIERS, &carriers)) {
            warn!(%error, "not remembered who relayed for us");
        }
    }

    fn load_carriers(&mut self) {
        if self.relays_at_hand.carriers.is_none() {
            let stored = self.store.read::<_, StoreError>(|view| view.setting_value::<Vec<[u8; 32]>>(CARRIERS));
            self.relays_at_hand.carriers = Some(stored.ok().flatten().unwrap_or_default());
        }
    }
}

/// A load class from which a relay is asked last.
const BUSY: u8 = 6;

/// What a relay that was never measured counts for: farther than a continent.
const UNKNOWN_RTT: Duration = Duration::from_millis(400);

/// Where a relay with this address serves by TLS.
fn tls_of(tls: &MediaTls, relay: SocketAddr) -> Option<TlsServer> {
    let address = tls.addresses.iter().map(|address| socket_address(*address)).find(|served| served.ip() == relay.ip())?;
    Some(TlsServer { address, certificate: tls.certificate })
}

fn urls_of(server: &RelayServer) -> impl Iterator<Item = String> {
    let tcp = server.stream.map(|stream| format!("turn:{stream}?transport=tcp"));
    std::iter::once(format!("turn:{}?transport=udp", server.address)).chain(tcp)
}

fn socket_address(address: MediaAddress) -> SocketAddr {
    match address {
        MediaAddress::V4(ip, port) => SocketAddr::from((ip, port)),
        MediaAddress::V6(ip, port) => SocketAddr::from((ip, port)),
    }
}
