//! The media relay role: a TURN server in this node, for certified users.
//!
//! Who asks over the overlay gets time-limited credentials ([`RelayGrant`]); the server checks them without a look at anything of the node.
//! On the TURN side a user is a pseudonym, which only this role can lead back: so the owner sees who has used how much, and when it gets tight
//! those go first to whom the owner owes it. What TURN can't say goes over the overlay ([`RelayNotice`]): which quota loses a user's packets, and
//! that the node is leaving.
//!
//! On shutdown the role drains: no credentials, no new allocations, a notice to those who hold credentials, and the allocations there are go on
//! until they are given back or [`MediaRelayConfig::drain`] is over.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use halloo_protocol::contact::privacy::Relation;
use halloo_protocol::identity::{UserId, VerifiedChain};
use halloo_protocol::key::{PublicKey, hash};
use halloo_protocol::node::LoadClass;
use halloo_protocol::rate::{Rate, RateLimiter};
use halloo_protocol::relay::{
    MEDIA_ADDRESSES_MAX, MediaAddress, MediaTls, RelayCredentials, RelayGrant, RelayNotice, RelayReason, RelayStatus,
};
use halloo_protocol::wire::Extensions;
use halloo_relay::UnixTime as RelayTime;
use halloo_relay::auth::{AuthRefusal, Authenticator, Credentials, Grant, Identity, Key, PasswordAlgorithm, Users};
use halloo_relay::config::TlsIdentity;
use halloo_relay::metrics::DropReason;
use halloo_relay::quota::{Limits, ServiceClass};
use halloo_relay::server::{BindError, Protocol, Server, UsageReader};
use libp2p::PeerId;
use sha2::{Digest, Sha256};
use tokio::sync::oneshot;
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

use crate::address;
use crate::circuits::Circuits;
use crate::event_loop::EventLoop;
use crate::handle::network::{RelayUsage, RelayUser, SignallingUsage};
use crate::network::Target;
use crate::store::StoreError;

/// How long credentials are good for new allocations. An allocation that stands goes on as long as it is refreshed.
const GRANT_SECS: u64 = 3_600;

/// Grants of one user: its devices ask once an hour each, and again after restarts.
const GRANT_RATE: Rate = Rate { per_hour: 120, burst: 60 };

/// Users whose rates and pseudonyms are remembered; when full, who asks next isn't told apart from others.
const USERS_MAX: usize = 16_384;

const SECRET: &str = "media relay secret";

const TLS_IDENTITY: &str = "media relay certificate";

/// The port of TURN over TLS.
const TLS_PORT: u16 = 5_349;

/// A name for the certificate that says nothing: nobody goes by it.
const TLS_NAME: &str = "localhost";

/// For whom a node relays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RelayFor {
    /// Nobody.
    #[default]
    Nobody,
    /// People the owner knows, and the owner's own devices.
    Contacts,
    /// Everybody with a certificate.
    Everyone,
}

impl RelayFor {
    /// True if users of this class are served at all.
    const fn includes(self, class: ServiceClass) -> bool {
        match self {
            Self::Nobody => false,
            Self::Contacts => matches!(class, ServiceClass::First),
            Self::Everyone => true,
        }
    }
}

/// What a media relay may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MediaRelayConfig {
    /// For whom.
    pub relay_for: RelayFor,
    /// Addresses to serve at, by UDP and TCP. Port 0, or one that is taken, lets the system choose. All addresses of a family (`0.0.0.0`, `::`) are left
    /// out where the machine doesn't have the family.
    pub listen: Vec<SocketAddr>,
    /// Addresses to serve at by TLS, for networks that let nothing else out; empty for none. A port that is taken, or not allowed, lets the system
    /// choose.
    pub listen_tls: Vec<SocketAddr>,
    /// This machine's addresses as others see them, if a NAT with forwarded ports is in between. Empty: those found by the node.
    pub external: Vec<IpAddr>,
    /// Bytes a second of all users together.
    pub bytes_per_sec: u64,
    /// Allocations at a time.
    pub allocations_max: u32,
    /// How long running allocations may go on when the node shuts down.
    pub drain: Duration,
}

impl MediaRelayConfig {
    /// How long allocations go on by default. Clients change to another relay as soon as they are told; a daemon has 5 s from SIGTERM to its end.
    pub const DRAIN: Duration = Duration::from_secs(2);

    /// All addresses of the machine, IPv4 and IPv6, at TURN's port.
    #[must_use]
    pub fn default_listen() -> Vec<SocketAddr> {
        halloo_relay::defaults::LISTEN.to_vec()
    }

    /// The same at the port of TURN over TLS (RFC 5928): below 1,024 a service needs leave of the system, and on 443 others may want to be.
    #[must_use]
    pub fn default_listen_tls() -> Vec<SocketAddr> {
        Self::default_listen().into_iter().map(|address| SocketAddr::new(address.ip(), TLS_PORT)).collect()
    }

    /// For everybody, on loopback: for networks within one machine.
    #[must_use]
    pub fn lab() -> Self {
        Self {
            relay_for: RelayFor::Everyone,
            listen: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
            listen_tls: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
            external: Vec::new(),
            bytes_per_sec: 100_000_000,
            allocations_max: 4_000,
            drain: Self::DRAIN,
        }
    }
}

/// Everyone's class, shared with the server.
type Classes = Arc<Mutex<HashMap<Box<str>, ServiceClass>>>;

/// The role's state.
#[derive(Debug)]
pub(crate) struct MediaRelay {
    secret: [u8; 32],
    config: MediaRelayConfig,
    /// Where the server listens.
    served: Vec<SocketAddr>,
    /// Where it takes connections.
    served_tcp: Vec<SocketAddr>,
    /// Where it takes connections by TLS, and the hash of the certificate it shows there.
    served_tls: Vec<SocketAddr>,
    certificate: [u8; 32],
    usage: UsageReader,
    classes: Classes,
    users: HashMap<Box<str>, UserId>,
    rates: RateLimiter<PublicKey>,
    last_load: Option<(Instant, u64)>,
    load: LoadClass,
    /// Addresses of this machine: what others see of a node behind a NAT leads here only where its owner says so.
    local_ips: Vec<IpAddr>,
    /// What users have been told of their dropped packets, by account.
    told: HashMap<Box<str>, Told>,
    look_at: Option<Instant>,
    /// Has the server drain.
    stop: Option<oneshot::Sender<()>>,
    /// The server ends with the node.
    task: AbortOnDropHandle<()>,
}

/// Packets of a user dropped up to the last notice, for each quota, and when that was.
#[derive(Debug)]
struct Told {
    dropped: [u64; QUOTAS.len()],
    at: Option<Instant>,
}

/// Quotas for which packets are dropped, as they are named to the user.
const QUOTAS: [(DropReason, RelayReason); 6] = [
    (DropReason::UserBandwidth, RelayReason::USER_BANDWIDTH),
    (DropReason::UserPackets, RelayReason::USER_PACKETS),
    (DropReason::AddressBandwidth, RelayReason::ADDRESS_BANDWIDTH),
    (DropReason::AddressPackets, RelayReason::ADDRESS_PACKETS),
    (DropReason::TotalBandwidth, RelayReason::TOTAL_BANDWIDTH),
    (DropReason::TotalPackets, RelayReason::TOTAL_PACKETS),
];

/// Credentials of this role, with the class its owner gives each user.
struct Issued {
    credentials: Credentials,
    classes: Classes,
}

impl std::fmt::Debug for Issued {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Issued(..)")
    }
}

impl Authenticator for Issued {
    fn grant(
        &self,
        identity: Identity<'_>,
        realm: &str,
        algorithm: PasswordAlgorithm,
        unix_now: RelayTime,
        is_signed: &dyn Fn(&Key) -> bool,
    ) -> Result<Grant, AuthRefusal> {
        let mut grant = self.credentials.grant(identity, realm, algorithm, unix_now, is_signed)?;
        let classes = self.classes.lock().unwrap_or_else(PoisonError::into_inner);
        grant.class = classes.get(&grant.account).copied().unwrap_or(ServiceClass::Last);
        Ok(grant)
    }
}

impl MediaRelay {
    /// Takes the addresses and serves in a task of its own.
    fn start(mut config: MediaRelayConfig, is_lab: bool, secret: [u8; 32], tls: Option<TlsIdentity>) -> Result<Self, BindError> {
        let classes = Classes::default();
        let listen: Vec<SocketAddr> = config.listen.iter().copied().filter(is_of_this_machine).collect();
        let of_tls = config.listen_tls.iter().copied().filter(is_of_this_machine).map(or_any_port);
        config.listen_tls = if tls.is_some() { of_tls.collect() } else { Vec::new() };
        let certificate = tls.as_ref().map(|tls| Sha256::digest(&tls.certificate).into()).unwrap_or_default();
        let secrets = Secrets { secret, tls };
        let server = bind(&config, listen.clone(), is_lab, &secrets, &classes).or_else(|error| {
            if listen.iter().all(|address| address.port() == 0) {
                return Err(error);
            }
            warn!(addresses = ?listen, %error, "media relay: another port is taken");
            let listen = listen.iter().map(|address| SocketAddr::new(address.ip(), 0)).collect();
            bind(&config, listen, is_lab, &secrets, &classes)
        })?;
        let served: Vec<SocketAddr> = server.local_addresses().collect();
        let by = |wanted| server.endpoints().filter_map(move |(protocol, address)| (protocol == wanted).then_some(address));
        let (served_tcp, served_tls) = (by(Protocol::Tcp).collect(), by(Protocol::Tls).collect());
        let usage = server.usage();
        info!(addresses = ?served, "media relay");
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(async move {
            // The sender is dropped with the role, and this task with it.
            let stopped = async { drop(stopped.await) };
            if let Err(error) = server.run(stopped).await {
                warn!(%error, "media relay ended");
            }
        });
        Ok(Self {
            secret,
            config,
            served,
            served_tcp,
            served_tls,
            certificate,
            usage,
            classes,
            users: HashMap::new(),
            rates: RateLimiter::new(USERS_MAX),
            last_load: None,
            load: LoadClass::default(),
            local_ips: local_ips(),
            told: HashMap::new(),
            look_at: None,
            stop: Some(stop),
            task: AbortOnDropHandle::new(task),
        })
    }

    /// Takes no new allocations; the server ends with the last of those there are.
    fn drain(&mut self) {
        if let Some(stop) = self.stop.take() {
            // A server that has ended by itself needs not be told.
            let _ = stop.send(());
        }
    }

    fn is_draining(&self) -> bool {
        self.stop.is_none()
    }

    /// Users to be told that packets of theirs were dropped: account, quota, how many since they were told last.
    fn take_notices(&mut self, now: Instant) -> Vec<(Box<str>, RelayReason, u64)> {
        let usage = self.usage.read();
        self.told.retain(|account, _| usage.iter().any(|(known, _)| known == account));
        let mut notices = Vec::new();
        for (account, usage) in usage {
            let dropped: Vec<(DropReason, u64)> = usage.dropped().filter(|(_, packets)| *packets > 0).collect();
            if dropped.is_empty() {
                continue;
            }
            let told = self.told.entry(account.clone()).or_insert(Told { dropped: [0; QUOTAS.len()], at: None });
            if told.at.is_some_and(|at| now.saturating_duration_since(at) < NOTICE_EVERY) {
                continue;
            }
            let total = QUOTAS.map(|(quota, _)| dropped.iter().find(|(reason, _)| *reason == quota).map_or(0, |(_, n)| *n));
            for (place, (_, reason)) in QUOTAS.into_iter().enumerate() {
                let packets = total[place].saturating_sub(told.dropped[place]);
                if packets >= NOTICE_PACKETS_MIN {
                    told.dropped[place] = total[place];
                    told.at = Some(now);
                    notices.push((account.clone(), reason, packets));
                }
            }
        }
        notices
    }

    /// What goes for a user on the TURN side.
    fn account(&self, user: &PublicKey) -> Box<str> {
        let digest = hash("halloo relay account", &[&self.secret, &user.0]);
        data_encoding::HEXLOWER.encode(&digest[..8]).into()
    }

    /// Bytes relayed since the last call, in eighths of what may be relayed.
    fn update_load(&mut self, now: Instant) {
        self.local_ips = local_ips();
        let bytes: u64 = self.usage.read().iter().map(|(_, usage)| usage.bytes).sum();
        if let Some((at, before)) = self.last_load.replace((now, bytes)) {
            let secs = now.saturating_duration_since(at).as_secs_f64().max(0.1);
            let share = bytes.saturating_sub(before) as f64 / secs / self.config.bytes_per_sec.max(1) as f64;
            self.load = LoadClass((share * 8.0).clamp(0.0, 8.0) as u8);
        }
    }
}

/// False for all addresses of a family that the machine doesn't have.
fn is_of_this_machine(address: &SocketAddr) -> bool {
    !address.ip().is_unspecified() || std::net::UdpSocket::bind(SocketAddr::new(address.ip(), 0)).is_ok()
}

/// The address, with a port of the system's choice if its own can't be had.
fn or_any_port(address: SocketAddr) -> SocketAddr {
    match std::net::TcpListener::bind(address) {
        Ok(_) => address,
        Err(error) => {
            warn!(%address, %error, "media relay: another port is taken for tls");
            SocketAddr::new(address.ip(), 0)
        }
    }
}

/// What the role must keep.
struct Secrets {
    /// For credentials.
    secret: [u8; 32],
    tls: Option<TlsIdentity>,
}

fn local_ips() -> Vec<IpAddr> {
    // A machine that can't list its interfaces relays where its owner has named its address.
    let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
    interfaces.into_iter().map(|interface| interface.ip()).collect()
}

/// The address to lend ports of: a public one if this machine has any. `None` leaves it to the system's routes.
fn relay_ip(is_ipv4: bool) -> Option<IpAddr> {
    let of_family = local_ips().into_iter().filter(|ip| ip.is_ipv4() == is_ipv4 && !ip.is_loopback());
    let mut usable: Vec<IpAddr> = of_family.filter(|ip| address::is_public(*ip) || is_private(*ip)).collect();
    usable.sort_by_key(|ip| !address::is_public(*ip));
    usable.first().copied()
}

fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_private(),
        IpAddr::V6(ip) => ip.is_unique_local(),
    }
}

fn bind(
    config: &MediaRelayConfig,
    listen: Vec<SocketAddr>,
    is_lab: bool,
    secrets: &Secrets,
    classes: &Classes,
) -> Result<Server, BindError> {
    let mut relay = halloo_relay::config::Config::default();
    // Those that are listened on come first for their family; where all are, one that others can reach is lent.
    let everywhere = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
    let everywhere = everywhere.into_iter().filter(|ip| listen.iter().any(|address| address.ip() == *ip));
    relay.relay_ips = everywhere.filter_map(|ip| relay_ip(ip.is_ipv4())).collect();
    relay.listen_tcp.clone_from(&listen);
    relay.listen_tls.clone_from(&config.listen_tls);
    relay.tls_identity.clone_from(&secrets.tls);
    relay.listen = listen;
    relay.external_ips.clone_from(&config.external);
    relay.drain = config.drain;
    relay.is_lab = is_lab;
    let mut limits = Limits::default();
    limits.total_bytes_per_sec = config.bytes_per_sec;
    limits.allocations_max = config.allocations_max;
    if is_lab {
        // All users are at one address.
        limits.allocations_per_address_max = config.allocations_max;
    }
    relay.limits = limits;
    let credentials = Credentials::new(Users::default(), [secrets.secret.to_vec()]);
    let issued = Issued { credentials, classes: Arc::clone(classes) };
    Server::bind_with(relay, Box::new(issued), true)
}

impl EventLoop {
    /// Opens the role.
    pub(crate) fn open_media_relay(&mut self, config: MediaRelayConfig) {
        let secret = match self.relay_secret() {
            Ok(secret) => secret,
            Err(error) => return warn!(%error, "this node relays no media"),
        };
        let tls = if config.listen_tls.is_empty() { None } else { self.relay_certificate() };
        match MediaRelay::start(config, self.settings.lab, secret, tls) {
            Ok(relay) => self.media_relay = Some(relay),
            // The node's other duties don't depend on it; `halloo relay` says that it doesn't serve.
            Err(error) => warn!(error = crate::calls::describe(&error), "this node relays no media"),
        }
    }

    /// What credentials are made with. Kept, so that those given before a restart are good after it.
    fn relay_secret(&mut self) -> Result<[u8; 32], StoreError> {
        let stored = self.store.read::<_, StoreError>(|view| view.setting(SECRET))?;
        if let Some(secret) = stored.and_then(|bytes| <[u8; 32]>::try_from(bytes).ok()) {
            return Ok(secret);
        }
        let secret: [u8; 32] = self.random();
        self.store.transaction::<_, StoreError>(|tx| tx.put_setting(SECRET, &secret))?;
        Ok(secret)
    }

    /// The certificate that the role shows: self-signed, for whoever gets credentials is told its hash. Kept, so that it is the same after a restart.
    fn relay_certificate(&mut self) -> Option<TlsIdentity> {
        let stored = self.store.read::<_, StoreError>(|view| view.setting_value::<(Vec<u8>, Vec<u8>)>(TLS_IDENTITY)).ok()?;
        if let Some((certificate, key)) = stored {
            return Some(TlsIdentity { certificate, key });
        }
        let made = rcgen::generate_simple_self_signed([TLS_NAME.to_owned()]);
        let made = made.inspect_err(|error| warn!(%error, "this node relays no media by tls")).ok()?;
        let identity = (made.cert.der().to_vec(), made.signing_key.serialize_der());
        if let Err(error) = self.store.transaction::<_, StoreError>(|tx| tx.put_setting_value(TLS_IDENTITY, &identity)) {
            warn!(%error, "the media relay's certificate isn't kept");
        }
        let (certificate, key) = identity;
        Some(TlsIdentity { certificate, key })
    }

    /// A device asks for credentials.
    pub(crate) fn handle_relay_request(&mut self, peer: PeerId) -> RelayGrant {
        let chain = self.peers.get(&peer).and_then(|known| known.chain.clone());
        let status = match chain {
            None => RelayStatus::Refused(RelayReason::NOT_CERTIFIED),
            Some(chain) => self.grant_relay(&chain).map_or_else(RelayStatus::Refused, RelayStatus::Granted),
        };
        let tcp = self.media_relay.as_ref().map(|relay| self.addresses_of(&relay.served_tcp)).unwrap_or_default();
        let is_granted = matches!(status, RelayStatus::Granted(_));
        let grant = RelayGrant { status, extensions: Extensions::none() };
        let tls = self
            .media_relay
            .as_ref()
            .map(|relay| MediaTls { addresses: self.addresses_of(&relay.served_tls), certificate: relay.certificate });
        match tls.filter(|_| is_granted) {
            Some(tls) => grant.with_tcp(&tcp).with_tls(tls),
            None => grant,
        }
    }

    fn grant_relay(&mut self, chain: &VerifiedChain) -> Result<RelayCredentials, RelayReason> {
        let now = self.now();
        let key = chain.user.identity.0;
        let relay = self.media_relay.as_mut().ok_or(RelayReason::NOT_SERVED)?;
        if relay.is_draining() {
            return Err(RelayReason::LEAVING);
        }
        relay.rates.take(&key, GRANT_RATE, now.instant).map_err(|_| RelayReason::RATE)?;
        let relay_for = relay.config.relay_for;
        let class = self.relay_class(chain);
        if !relay_for.includes(class) {
            return Err(RelayReason::NOT_ALLOWED);
        }
        let addresses = self.media_addresses();
        let relay = self.media_relay.as_mut().filter(|_| !addresses.is_empty()).ok_or(RelayReason::NOT_SERVED)?;
        let account = relay.account(&key);
        if relay.users.len() < USERS_MAX || relay.users.contains_key(&account) {
            relay.users.insert(account.clone(), chain.user.id.clone());
            relay.classes.lock().unwrap_or_else(PoisonError::into_inner).insert(account.clone(), class);
        }
        // The server goes by this machine's clock, the asker by the network's.
        let raw = self.raw_unix().plus_secs(GRANT_SECS);
        let relay = self.media_relay.as_ref().ok_or(RelayReason::NOT_SERVED)?;
        let (username, password) = Credentials::issue(&relay.secret, &account, RelayTime(raw.0));
        Ok(RelayCredentials { addresses, username, password, not_after: now.unix.plus_secs(GRANT_SECS) })
    }

    /// The owner's own devices and contacts go first, then those who have relayed for the owner, then the rest.
    fn relay_class(&self, chain: &VerifiedChain) -> ServiceClass {
        let me = self.identity.user_id();
        let is_contact = self.contacts.roster().relation(&chain.user.id, &chain.user.identity) == Relation::Contact;
        if chain.user.id == me || is_contact {
            return ServiceClass::First;
        }
        if self.relays_at_hand.has_carried_for_us(&chain.user.identity.0) { ServiceClass::Normal } else { ServiceClass::Last }
    }

    /// A user has relayed for the owner: from its next allocation on it goes before strangers, without asking for credentials anew.
    pub(crate) fn owe_to(&self, user: &PublicKey) {
        let Some(relay) = &self.media_relay else { return };
        let mut classes = relay.classes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(class) = classes.get_mut(&relay.account(user)) {
            *class = (*class).min(ServiceClass::Normal);
        }
    }

    /// Where others reach the server: its own addresses, or the node's where it listens on all.
    fn media_addresses(&self) -> Vec<MediaAddress> {
        let relay = self.media_relay.as_ref().filter(|relay| !relay.is_draining());
        relay.map(|relay| self.addresses_of(&relay.served)).unwrap_or_default()
    }

    fn addresses_of(&self, served: &[SocketAddr]) -> Vec<MediaAddress> {
        let Some(relay) = &self.media_relay else { return Vec::new() };
        let mut found: Vec<SocketAddr> = Vec::new();
        for served in served {
            let port = served.port();
            if !relay.config.external.is_empty() {
                found.extend(relay.config.external.iter().map(|ip| SocketAddr::new(*ip, port)));
            } else if served.ip().is_unspecified() {
                let ips = self.reach.external().filter_map(address::ip_of);
                let ips = ips.filter(|ip| ip.is_ipv4() == served.is_ipv4() && relay.local_ips.contains(ip));
                found.extend(ips.map(|ip| SocketAddr::new(ip, port)));
            } else {
                found.push(*served);
            }
        }
        found.sort_by_key(SocketAddr::is_ipv6);
        found.dedup();
        found.truncate(MEDIA_ADDRESSES_MAX);
        found.into_iter().map(media_address).collect()
    }

    /// Whether media is relayed here, at an address that others can reach.
    pub(crate) fn relays_media(&self) -> bool {
        !self.media_addresses().is_empty()
    }

    /// How busy this node's relay is.
    pub(crate) fn relay_load(&self) -> LoadClass {
        self.media_relay.as_ref().map_or_else(LoadClass::default, |relay| relay.load)
    }

    pub(crate) fn media_relay_tick(&mut self, now: Instant) {
        let Some(relay) = &mut self.media_relay else { return };
        if relay.last_load.is_none_or(|(at, _)| now.saturating_duration_since(at) >= LOAD_EVERY) {
            relay.update_load(now);
        }
        if relay.look_at.is_none_or(|at| at <= now) {
            relay.look_at = Some(now + LOOK_EVERY);
            let notices = relay.take_notices(now);
            for (account, reason, packets) in notices {
                self.tell_relay_users(Some(&account), &RelayNotice { reason, packets, extensions: Extensions::none() });
            }
        }
    }

    /// Begins to leave; false if nothing is relayed, so that nothing has to end.
    pub(crate) fn drain_media_relay(&mut self) -> bool {
        let Some(relay) = self.media_relay.as_mut().filter(|relay| !relay.task.is_finished()) else { return false };
        relay.drain();
        self.tell_relay_users(None, &RelayNotice { reason: RelayReason::LEAVING, packets: 0, extensions: Extensions::none() });
        // The role is gone from the descriptor.
        self.refresh_hello();
        true
    }

    /// Whether nothing is relayed any more.
    pub(crate) fn media_relay_has_ended(&self) -> bool {
        self.media_relay.as_ref().is_none_or(|relay| relay.task.is_finished())
    }

    /// How long draining may take.
    pub(crate) fn media_relay_drain(&self) -> Duration {
        self.media_relay.as_ref().map_or(Duration::ZERO, |relay| relay.config.drain)
    }

    /// Tells the connected devices of one user, or of all who have had credentials.
    fn tell_relay_users(&mut self, account: Option<&str>, notice: &RelayNotice) {
        let Some(relay) = &self.media_relay else { return };
        let is_meant = |user: &PublicKey| {
            let known = relay.account(user);
            account.map_or_else(|| relay.users.contains_key(&known), |account| *known == *account)
        };
        let chains = self.peers.iter().filter_map(|(peer, known)| Some((*peer, known.chain.as_ref()?)));
        let meant: Vec<PeerId> = chains.filter(|(_, chain)| is_meant(&chain.user.identity.0)).map(|(peer, _)| peer).collect();
        for peer in meant {
            self.notify(&Target::connected(peer), notice);
        }
    }

    /// Who has used how much of this node's relay, the heaviest first.
    pub(crate) fn relay_usage(&self) -> RelayUsage {
        let signalling = self.signalling_usage();
        let Some(relay) = &self.media_relay else { return RelayUsage { signalling, ..RelayUsage::default() } };
        let classes = relay.classes.lock().unwrap_or_else(PoisonError::into_inner);
        let mut users: Vec<RelayUser> = relay
            .usage
            .read()
            .into_iter()
            .map(|(account, usage)| RelayUser {
                user: relay.users.get(&account).map(|user| self.labels.display(user)),
                class: match classes.get(&account) {
                    Some(ServiceClass::First) => "first",
                    Some(ServiceClass::Normal) => "normal",
                    _ => "last",
                }
                .to_owned(),
                bytes: usage.bytes,
                packets: usage.packets,
                dropped: usage.dropped().map(|(_, packets)| packets).sum(),
                allocations: usage.allocations,
            })
            .collect();
        users.sort_by_key(|user| std::cmp::Reverse(user.bytes));
        let addresses = relay.served.iter().map(ToString::to_string).collect();
        RelayUsage { relays: true, addresses, load: u32::from(relay.load.0), users, signalling }
    }

    fn signalling_usage(&self) -> SignallingUsage {
        let Some(usage) = self.swarm.behaviour().relay_server.as_ref().map(Circuits::usage) else {
            return SignallingUsage::default();
        };
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        SignallingUsage {
            relays: true,
            reservations: count(usage.reservations),
            circuits: count(usage.circuits),
            circuits_made: usage.circuits_made,
            circuits_refused: usage.circuits_refused,
            reservations_refused: usage.reservations_refused,
            invites_handed_over: self.hand_overs.counts.handed_over,
            invites_refused: self.hand_overs.counts.refused,
        }
    }
}

/// How often it is looked whether packets were dropped.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How often a user is told of it, and of how many at least: a packet now and then is lost everywhere.
const NOTICE_EVERY: Duration = Duration::from_secs(5);
const NOTICE_PACKETS_MIN: u64 = 10;

/// How often the load is measured.
const LOAD_EVERY: Duration = Duration::from_secs(10);

fn media_address(address: SocketAddr) -> MediaAddress {
    match address.ip() {
        IpAddr::V4(ip) => MediaAddress::V4(ip.octets(), address.port()),
        IpAddr::V6(ip) => MediaAddress::V6(ip.octets(), address.port()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn relay() -> MediaRelay {
        MediaRelay::start(MediaRelayConfig::lab(), true, [7; 32], None).expect("loopback ports are free")
    }

    #[test]
    fn owners_say_for_whom() {
        use ServiceClass::{First, Last, Normal};
        let served = |relay_for: RelayFor| [First, Normal, Last].map(|class| relay_for.includes(class));
        assert_eq!(served(RelayFor::Nobody), [false; 3]);
        assert_eq!(served(RelayFor::Contacts), [true, false, false]);
        assert_eq!(served(RelayFor::Everyone), [true; 3]);
    }

    #[tokio::test]
    async fn users_are_pseudonyms_there_and_keep_their_class() {
        let relay = relay();
        let (alice, bob) = (PublicKey([1; 32]), PublicKey([2; 32]));
        let account = relay.account(&alice);
        assert_ne!(account, relay.account(&bob));
        assert_eq!(account, relay.account(&alice), "the same user, the same account");
        relay.classes.lock().expect("nobody panicked").insert(account.clone(), ServiceClass::First);
        let issued = Issued {
            credentials: Credentials::new(Users::default(), [relay.secret.to_vec()]),
            classes: Arc::clone(&relay.classes),
        };
        let granted = |account: &str, password: Option<&str>, at: u64| {
            let (username, right) = Credentials::issue(&relay.secret, account, RelayTime(1_000));
            let right = Key::new(PasswordAlgorithm::Md5, &username, "realm", password.unwrap_or(&right));
            issued.grant(Identity::Name(&username), "realm", PasswordAlgorithm::Md5, RelayTime(at), &|key| *key == right)
        };
        let known = granted(&account, None, 999).expect("issued by this role");
        assert_eq!((&known.account, known.class), (&account, ServiceClass::First));
        assert_eq!(granted(&relay.account(&bob), None, 999).expect("issued too").class, ServiceClass::Last);
        assert_eq!(granted(&account, None, 1_000).expect_err("over"), AuthRefusal::Expired);
        assert_eq!(granted(&account, Some("guessed"), 999).expect_err("wrong"), AuthRefusal::WrongPassword);
    }

    #[tokio::test]
    async fn a_taken_port_is_replaced() {
        let taken = std::net::UdpSocket::bind("127.0.0.1:0").expect("a free port");
        let listen = taken.local_addr().expect("it is bound");
        let config = MediaRelayConfig { listen: vec![listen], ..MediaRelayConfig::lab() };
        let relay = MediaRelay::start(config, true, [7; 32], None).expect("another port");
        assert!(relay.served.iter().all(|served| served.port() != listen.port()) && !relay.served.is_empty());
    }

    #[tokio::test]
    async fn both_families_are_served_where_the_machine_has_them() {
        let mut listen = MediaRelayConfig::default_listen();
        assert_eq!(listen.iter().map(SocketAddr::is_ipv4).collect::<Vec<_>>(), [true, false]);
        listen.iter_mut().for_each(|address| address.set_port(0));
        let has_family = |address: &SocketAddr| std::net::UdpSocket::bind(address).is_ok();
        let expected: Vec<IpAddr> = listen.iter().filter(|address| has_family(address)).map(SocketAddr::ip).collect();
        let relay =
            MediaRelay::start(MediaRelayConfig { listen, ..MediaRelayConfig::lab() }, true, [7; 32], None).expect("free ports");
        assert_eq!(relay.served.iter().map(SocketAddr::ip).collect::<Vec<_>>(), expected);
    }

    #[tokio::test]
    async fn a_relay_that_leaves_ends_when_nothing_is_relayed() {
        let mut relay = relay();
        assert!(!relay.is_draining() && !relay.task.is_finished());
        relay.drain();
        assert!(relay.is_draining());
        (&mut relay.task).await.expect("the server doesn't panic");
    }
}
