//! Where this node can be reached: listeners, addresses seen from outside, relays.
//!
//! A node that is reachable from outside (in a lab: always; with a forced role: at its public listen addresses; otherwise when peers of three
//! different networks dialled back) publishes direct addresses and may serve. All others keep reservations at two relays, and are found there.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use halloo_protocol::contact::privacy::Relation;
use halloo_protocol::contact::{RosterEntry, Standing};
use halloo_protocol::directory::Helper;
use halloo_protocol::identity::{UserId, VerifiedChain};
use halloo_protocol::key::DeviceKey;
use halloo_protocol::node::{Descriptor, Roles};
use halloo_protocol::time::Now;
use libp2p::core::transport::ListenerId;
use libp2p::{Multiaddr, PeerId, identify};
use tracing::{debug, info};

use crate::address;
use crate::event_loop::EventLoop;
use crate::handle::Event;
use crate::network::Target;
use crate::reservations::{self, Candidate, Output, Reservations};
use crate::streams::Keeper;

/// Networks from which a peer must have dialled us back before we believe to be reachable.
const DIAL_BACKS_MIN: usize = 3;

/// How long a node must have been up before it serves without being told to.
const SERVE_AFTER: Duration = Duration::from_secs(10 * 60);

/// Relays that hold a reservation for a node that others can't reach: if one dies the other still leads here.
const RELAYS_WANTED: usize = 2;

/// Relays remembered as candidates.
const CANDIDATES_MAX: usize = 8;

/// Peers remembered from the local network, and addresses of each. Anybody on it can name any number of both.
const NEARBY_MAX: usize = 64;
const NEARBY_ADDRESSES_MAX: usize = 8;

/// Addresses of ours that peers are asked to dial back, as far as their answers are counted. What peers claim to have seen of us is among
/// them.
const DIALLED_BACK_MAX: usize = 32;

/// Ports the home router has opened for us.
const MAPPED_MAX: usize = 8;

/// How long addresses must stay the same before they are published.
const SETTLE: Duration = Duration::from_millis(200);

/// Addresses, relays, and what is known of both.
#[derive(Debug)]
pub(crate) struct Reach {
    listen: BTreeSet<Multiaddr>,
    circuits: BTreeMap<PeerId, Multiaddr>,
    external: BTreeSet<Multiaddr>,
    /// Networks whose peers dialled each address back.
    dialled_back: BTreeMap<Multiaddr, BTreeSet<u64>>,
    /// Addresses the home router has opened.
    mapped: BTreeSet<Multiaddr>,
    supervisor: Reservations,
    /// Relays met, the one met last first.
    candidates: Vec<Candidate>,
    changed_at: Option<Instant>,
    was_serving: bool,
    nearby: BTreeMap<PeerId, BTreeSet<Multiaddr>>,
}

impl Reach {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            listen: BTreeSet::new(),
            circuits: BTreeMap::new(),
            external: BTreeSet::new(),
            dialled_back: BTreeMap::new(),
            mapped: BTreeSet::new(),
            supervisor: Reservations::new(RELAYS_WANTED, seed),
            candidates: Vec::new(),
            changed_at: None,
            was_serving: false,
            nearby: BTreeMap::new(),
        }
    }

    /// Addresses this node listens on, circuits apart.
    pub(crate) fn listen(&self) -> impl Iterator<Item = &Multiaddr> {
        self.listen.iter()
    }

    /// Addresses others reach this node at directly.
    pub(crate) fn external(&self) -> impl Iterator<Item = &Multiaddr> {
        self.external.iter()
    }

    /// Relays that hold a reservation for this node.
    pub(crate) fn relays(&self) -> impl Iterator<Item = &PeerId> {
        self.circuits.keys()
    }
}

impl EventLoop {
    /// True if others can connect to this node without a relay.
    pub(crate) fn is_reachable(&self) -> bool {
        !self.reach.external.is_empty()
    }

    /// The roles in force, those of a directory server included.
    pub(crate) fn roles(&self) -> Roles {
        let forced = self.settings.roles;
        let forced = if self.relays_media() { forced.union(Roles::MEDIA_RELAY) } else { forced };
        if self.is_serving() { forced.union(Roles::DIRECTORY) } else { forced }
    }

    /// True if this node holds records and answers look-ups: certified, reachable, and either told to, in a lab, or up for a while.
    pub(crate) fn is_serving(&self) -> bool {
        let certified = self.identity.place().is_some();
        let told = self.settings.roles != Roles::default() || self.settings.lab;
        let reachable = self.is_reachable() || told;
        self.settings.publishes && certified && reachable && (told || self.started.elapsed() >= SERVE_AFTER)
    }

    /// What we say about ourselves; clients have no descriptor.
    pub(crate) fn own_descriptor(&self) -> Option<Descriptor> {
        let roles = self.roles();
        let place = self.identity.place()?;
        if roles == Roles::default() {
            return None;
        }
        let addresses = address::best_for_descriptor(self.reach.external.iter());
        Some(Descriptor { device: self.identity.device(), place, roles, load: self.relay_load(), addresses })
    }

    /// Addresses for the open part of our entry: a lab node's, a server's, or whoever wants to be found directly.
    pub(crate) fn open_addresses(&self) -> Vec<halloo_protocol::node::Address> {
        let open = self.settings.lab || self.settings.publish_addresses || self.own_descriptor().is_some();
        if open { self.direct_addresses() } else { Vec::new() }
    }

    /// Where we take connections, for those who may know.
    pub(crate) fn direct_addresses(&self) -> Vec<halloo_protocol::node::Address> {
        address::best_for_descriptor(self.reach.external.iter())
    }

    /// Our relays, for the open part of our entry.
    pub(crate) fn relay_helpers(&self) -> Vec<Helper> {
        self.reach
            .circuits
            .iter()
            .filter_map(|(relay, circuit)| {
                let direct: Multiaddr =
                    circuit.iter().take_while(|part| !matches!(part, libp2p::multiaddr::Protocol::P2p(_))).collect();
                Some(Helper { device: address::device_key(relay)?, addresses: address::to_wire(&direct).into_iter().collect() })
            })
            .take(3)
            .collect()
    }

    pub(crate) fn reach_new_listen_address(&mut self, listener: ListenerId, new: Multiaddr) {
        let now = Instant::now();
        if address::is_circuit(&new) {
            self.reach.supervisor.handle_new_address(listener, &new, now);
            self.drive_reservations(now);
            return;
        }
        debug!(address = %new, "listening");
        self.reach.listen.insert(new.clone());
        let public = address::ip_of(&new).is_some_and(address::is_public);
        let told = self.settings.roles != Roles::default() || self.settings.publish_addresses;
        let announced = self.settings.announce.clone();
        let is_outside = self.settings.lab || (told && public);
        let own = if announced.is_empty() && is_outside { vec![new] } else { announced };
        for address in own {
            self.swarm.add_external_address(address.clone());
            // The swarm tells its behaviours, not its owner.
            self.reach_external(address, true);
        }
        self.reach_changed();
    }

    pub(crate) fn reach_expired_listen_address(&mut self, listener: ListenerId, old: &Multiaddr) {
        let now = Instant::now();
        if address::is_circuit(old) {
            self.reach.supervisor.handle_expired_address(listener, old);
            self.drive_reservations(now);
            return;
        }
        self.reach.listen.remove(old);
        if self.reach.external.contains(old) {
            self.swarm.remove_external_address(old);
            self.reach_external(old.clone(), false);
        }
        self.reach.supervisor.handle_network_changed(now);
        self.drive_reservations(now);
        self.reach_changed();
    }

    pub(crate) fn reach_listener_closed(&mut self, listener: ListenerId, error: Option<std::io::Error>) {
        let now = Instant::now();
        let reason = error.map_or_else(|| "closed".to_owned(), |error| error.to_string());
        self.reach.supervisor.handle_listener_closed(listener, reason, now);
        self.drive_reservations(now);
    }

    pub(crate) fn reach_connection_closed(&mut self, peer: PeerId) {
        let now = Instant::now();
        self.reach.supervisor.handle_disconnected(peer, now);
        self.drive_reservations(now);
    }

    /// An address of ours was confirmed or withdrawn: by AutoNAT, UPnP, or ourselves.
    pub(crate) fn reach_external(&mut self, address: Multiaddr, confirmed: bool) {
        if address::is_circuit(&address) {
            return;
        }
        let stripped: Multiaddr = address.iter().filter(|part| !matches!(part, libp2p::multiaddr::Protocol::P2p(_))).collect();
        let changed = if confirmed { self.reach.external.insert(stripped) } else { self.reach.external.remove(&stripped) };
        if changed {
            self.reach_changed();
        }
    }

    /// The home router has opened a port.
    pub(crate) fn reach_mapped(&mut self, address: Multiaddr) {
        if self.reach.mapped.len() < MAPPED_MAX {
            self.reach.mapped.insert(address.clone());
        }
        self.reach_external(address, true);
    }

    /// libp2p takes an address of ours for confirmed, which it does after one server's word. A server by its owner's order does too;
    /// others wait for three.
    pub(crate) fn reach_confirmed(&mut self, address: Multiaddr) {
        if !self.settings.announce.is_empty() {
            return;
        }
        let told = self.settings.lab || self.settings.roles != Roles::default() || self.settings.publish_addresses;
        if told || self.reach.mapped.contains(&address) {
            self.reach_external(address, true);
        }
    }

    /// A server says whether it could dial one of our addresses. libp2p confirms after the first; we believe three networks.
    pub(crate) fn reach_dialled_back(&mut self, tested: Multiaddr, server: PeerId, reached: bool) {
        if self.settings.lab || self.settings.roles != Roles::default() {
            return;
        }
        let group = self.peers.get(&server).and_then(|peer| peer.address.as_ref()).and_then(address::network_group);
        if self.reach.dialled_back.len() >= DIALLED_BACK_MAX && !self.reach.dialled_back.contains_key(&tested) {
            // The least believed makes room.
            let least =
                self.reach.dialled_back.iter().min_by_key(|(_, networks)| networks.len()).map(|(address, _)| address.clone());
            if let Some(least) = least {
                self.reach.dialled_back.remove(&least);
            }
        }
        let networks = self.reach.dialled_back.entry(tested.clone()).or_default();
        match (reached, group) {
            (true, Some(group)) if networks.len() < DIAL_BACKS_MIN => {
                networks.insert(group);
            }
            (true, _) => {}
            (false, _) => networks.clear(),
        }
        if networks.len() < DIAL_BACKS_MIN {
            self.swarm.remove_external_address(&tested);
            self.reach_external(tested, false);
        } else {
            self.reach_external(tested, true);
        }
    }

    pub(crate) fn reach_identified(&mut self, peer: PeerId, info: &identify::Info) {
        let relays = info.protocols.contains(&libp2p::relay::HOP_PROTOCOL_NAME);
        if let Some(known) = self.peers.get_mut(&peer) {
            known.relays = relays;
        }
        self.consider_relay(peer);
    }

    pub(crate) fn reach_greeted(&mut self, peer: PeerId) {
        self.consider_relay(peer);
    }

    /// Remembers a relay. Those whose owner is certified come first: strangers fill the places that are left, and push nobody out.
    fn consider_relay(&mut self, peer: PeerId) {
        let Some(known) = self.peers.get(&peer).filter(|known| known.relays) else { return };
        let Some(address) = known.address.clone().filter(|address| !address::is_circuit(address)) else { return };
        let is_certified = known.chain.is_some();
        let candidates = &mut self.reach.candidates;
        let candidate = Candidate { relay: peer, addresses: vec![address] };
        if is_certified {
            candidates.retain(|known| known.relay != peer);
            candidates.insert(0, candidate);
            candidates.truncate(CANDIDATES_MAX);
        } else if candidates.len() < CANDIDATES_MAX && !candidates.iter().any(|known| known.relay == peer) {
            candidates.push(candidate);
        } else {
            return;
        }
        let now = Instant::now();
        self.reach.supervisor.set_candidates(self.reach.candidates.clone(), now);
        self.drive_reservations(now);
    }

    /// Whether somebody may know where this node is: a contact, or a device of this user.
    pub(crate) fn is_near(&self, chain: &VerifiedChain) -> bool {
        let user = &chain.user;
        user.identity == self.identity.identity()
            || self.contacts.roster().relation(&user.id, &user.identity) == Relation::Contact
    }

    /// The same of a device that hasn't said yet whose it is, by what we know of contacts' devices.
    pub(crate) fn is_near_device(&self, peer: &PeerId, device: &DeviceKey) -> bool {
        if !self.swarm.behaviour().dcutr.is_shut_to(peer) {
            return false;
        }
        let is_of = |entry: &RosterEntry| {
            let user = &entry.user;
            entry.standing() == Standing::Contact
                && entry.identity().is_some()
                && self.cached_identity(user) == entry.identity()
                && self.cached_device_entry(user, device).is_some()
        };
        let chain = self.peers.get(peer).and_then(|known| known.chain.as_ref());
        self.contacts.is_own_device(device)
            || chain.is_some_and(|chain| self.is_near(chain))
            || self.contacts.roster().entries().any(is_of)
    }

    /// A peer that [`EventLoop::is_near`] has said hello: holes may be punched from now on. Whoever took the connection begins; so if we
    /// dialled, and are ready only now, it hears our hello once more.
    pub(crate) fn let_punch(&mut self, peer: PeerId) {
        let dcutr = &mut self.swarm.behaviour_mut().dcutr;
        dcutr.open_taken(&peer);
        if dcutr.open_dialled(&peer) {
            self.tell_hello_to(&Target::connected(peer));
        }
    }

    /// Somebody has become a contact: connections that we have dialled to them needn't stay relayed.
    pub(crate) fn reach_contact_changed(&mut self, user: &UserId) {
        let theirs = self
            .peers
            .iter()
            .filter(|(_, known)| known.chain.as_ref().is_some_and(|chain| chain.user.id == *user && self.is_near(chain)));
        let theirs: Vec<PeerId> = theirs.map(|(peer, _)| *peer).collect();
        for peer in theirs {
            if self.swarm.behaviour_mut().dcutr.open_dialled(&peer) {
                self.tell_hello_to(&Target::connected(peer));
            }
        }
    }

    /// Somebody has heard that we are contacts. Whoever took a connection begins with the hole punch when our hello has come, and the last may have come while we
    /// were a stranger.
    pub(crate) fn reach_contact_told(&mut self, user: &UserId) {
        let is_theirs = |chain: &VerifiedChain| chain.user.id == *user && self.is_near(chain);
        let relayed = self.peers.iter().filter(|(_, known)| known.relayed && known.chain.as_ref().is_some_and(is_theirs));
        for peer in relayed.map(|(peer, _)| *peer).collect::<Vec<_>>() {
            self.tell_hello_to(&Target::connected(peer));
        }
    }

    pub(crate) fn reach_found_nearby(&mut self, found: Vec<(PeerId, Multiaddr)>) {
        for (peer, address) in found {
            if self.reach.nearby.len() >= NEARBY_MAX && !self.reach.nearby.contains_key(&peer) {
                continue;
            }
            let known = self.reach.nearby.entry(peer).or_default();
            let is_new = known.len() < NEARBY_ADDRESSES_MAX && known.insert(address.clone());
            if is_new && self.peers.len() < 8 {
                let options = libp2p::swarm::dial_opts::DialOpts::peer_id(peer).addresses(vec![address]).build();
                // Failure shows as an event; a refused dial means we are connected or connecting.
                let _ = self.swarm.dial(options);
            }
        }
    }

    /// Addresses of the local network that haven't been heard of again.
    pub(crate) fn reach_gone_nearby(&mut self, gone: &[(PeerId, Multiaddr)]) {
        for (peer, address) in gone {
            if let Some(known) = self.reach.nearby.get_mut(peer) {
                known.remove(address);
                if known.is_empty() {
                    self.reach.nearby.remove(peer);
                }
            }
        }
    }

    /// Addresses of a device on the local network.
    pub(crate) fn nearby_addresses(&self, peer: &PeerId) -> Vec<Multiaddr> {
        self.reach.nearby.get(peer).map(|set| set.iter().cloned().collect()).unwrap_or_default()
    }

    pub(crate) fn reach_changed(&mut self) {
        self.reach.changed_at = Some(Instant::now());
    }

    pub(crate) fn reach_tick(&mut self, now: Now) {
        // A node that runs only to enrol is found by nobody; its reservation would outlive it at the relay, and swallow the circuits to the
        // node that follows it.
        let needed =
            self.settings.publishes && !self.settings.lab && !self.is_reachable() && self.settings.roles == Roles::default();
        self.reach.supervisor.set_needed(needed, now.instant);
        if self.reach.supervisor.poll_timeout().is_some_and(|at| at <= now.instant) {
            self.reach.supervisor.handle_timeout(now.instant);
        }
        self.drive_reservations(now.instant);
        let serving = self.is_serving();
        if serving != self.reach.was_serving {
            self.reach.was_serving = serving;
            self.reach.changed_at.get_or_insert(now.instant);
        }
        if self.reach.changed_at.is_some_and(|at| now.instant.saturating_duration_since(at) >= SETTLE) {
            self.reach.changed_at = None;
            self.directory_role_changed();
            self.refresh_hello();
            self.publish_soon();
        }
    }

    fn drive_reservations(&mut self, now: Instant) {
        while let Some(output) = self.reach.supervisor.poll_output() {
            match output {
                Output::Listen { relay, address } => match self.swarm.listen_on(address) {
                    Ok(listener) => {
                        self.swarm.behaviour_mut().streams.keep(relay, Keeper::Reservations, true);
                        self.reach.supervisor.handle_listening(relay, listener);
                    }
                    Err(error) => self.reach.supervisor.handle_listen_failed(relay, error.to_string(), now),
                },
                Output::Disconnect { relay } => {
                    self.swarm.behaviour_mut().streams.keep(relay, Keeper::Reservations, false);
                    self.swarm.behaviour_mut().streams.close(relay);
                }
                Output::Event(event) => self.handle_reservation(event),
            }
        }
    }

    fn handle_reservation(&mut self, event: reservations::Event) {
        match event {
            reservations::Event::Reserved { relay, address } => {
                info!(%relay, "reachable through relay");
                self.reach.circuits.insert(relay, address);
                self.tell_hand_over_rules(relay);
                self.reach_changed();
            }
            reservations::Event::Lost { relay, reason } => {
                info!(%relay, %reason, "relay lost");
                self.swarm.behaviour_mut().streams.keep(relay, Keeper::Reservations, false);
                if self.reach.circuits.remove(&relay).is_some() {
                    self.events.send(Event::Warning { code: "relay-lost".into(), detail: format!("relay {relay}: {reason}") });
                    self.reach_changed();
                }
            }
            reservations::Event::Refused { relay, reason } => {
                debug!(%relay, reason, "relay refused a reservation");
                self.swarm.behaviour_mut().streams.keep(relay, Keeper::Reservations, false);
            }
        }
    }

    /// After a pause of the whole process (sleep, suspension) nothing on the wire can be trusted.
    pub(crate) fn reach_woken(&mut self) {
        let now = Instant::now();
        self.reach.supervisor.handle_wake(now);
        self.drive_reservations(now);
    }

    /// A device's addresses in our words: open, private if we can read them, through its relays, and on the local network.
    pub(crate) fn circuit_addresses(&self, relays: &[Helper], device: PeerId) -> Vec<Multiaddr> {
        relays
            .iter()
            .filter_map(|helper| {
                let relay = address::peer_id(&helper.device)?;
                let direct = self.dialable(&helper.addresses).into_iter().next()?;
                Some(crate::swarm::circuit_address(relay, &direct, Some(device)))
            })
            .collect()
    }

    /// A device as its user doesn't learn where we are: by the connection we have, or through relays that we are connected to anyway. To others
    /// that a stranger names we would show ourselves.
    pub(crate) fn hidden_target(&self, peer: PeerId, relays: &[Helper]) -> Target {
        let streams = &self.swarm.behaviour().streams;
        let is_at_hand = |helper: &&Helper| address::peer_id(&helper.device).is_some_and(|relay| streams.is_direct(&relay));
        let relays: Vec<Helper> = relays.iter().filter(is_at_hand).cloned().collect();
        Target { peer, addresses: self.circuit_addresses(&relays, peer), no_others: true }
    }

    /// A helper that a stranger's record or invite names.
    pub(crate) fn strange_helper_target(&self, helper: &Helper) -> Option<Target> {
        Some(Target { peer: address::peer_id(&helper.device)?, addresses: self.dialable(&helper.addresses), no_others: false })
    }

    /// A relay, gateway or mailbox that this node's user has chosen, as something to send to.
    pub(crate) fn helper_target(&self, helper: &Helper) -> Option<Target> {
        let peer = address::peer_id(&helper.device)?;
        Some(Target { peer, addresses: helper.addresses.iter().filter_map(address::from_wire).collect(), no_others: false })
    }
}
