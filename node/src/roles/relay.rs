//! The media relay role: a TURN server in this node, for certified users.
//!
//! Who asks over the overlay gets time-limited credentials ([`RelayGrant`]); the server checks them without a look at anything of the node.
//! On the TURN side a user is a pseudonym, which only this role can lead back: so the owner sees who has used how much, and when it gets tight
//! those go first to whom the owner owes it.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use halloo_protocol::id::ConversationId;
use halloo_protocol::identity::{UserId, VerifiedChain};
use halloo_protocol::key::{PublicKey, hash};
use halloo_protocol::node::LoadClass;
use halloo_protocol::rate::{Rate, RateLimiter};
use halloo_protocol::relay::{MEDIA_ADDRESSES_MAX, MediaAddress, RelayCredentials, RelayGrant, RelayReason, RelayStatus};
use halloo_protocol::wire::Extensions;
use halloo_relay::UnixTime as RelayTime;
use halloo_relay::auth::{AuthRefusal, Authenticator, Credentials, Grant, Identity, Key, PasswordAlgorithm, Users};
use halloo_relay::quota::{Limits, ServiceClass};
use halloo_relay::server::{BindError, Server, UsageReader};
use libp2p::PeerId;
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

use crate::address;
use crate::event_loop::EventLoop;
use crate::handle::network::{RelayUsage, RelayUser};
use crate::store::StoreError;

/// How long credentials are good for new allocations. An allocation that stands goes on as long as it is refreshed.
const GRANT_SECS: u64 = 3_600;

/// Grants of one user: its devices ask once an hour each, and again after restarts.
const GRANT_RATE: Rate = Rate { per_hour: 120, burst: 60 };

/// Users whose rates and pseudonyms are remembered; when full, who asks next isn't told apart from others.
const USERS_MAX: usize = 16_384;

const SECRET: &str = "media relay secret";

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
    /// UDP address to serve at. Port 0, or one that is taken, lets the system choose.
    pub listen: SocketAddr,
    /// This machine's addresses as others see them, if a NAT with forwarded ports is in between. Empty: those found by the node.
    pub external: Vec<IpAddr>,
    /// Bytes a second of all users together.
    pub bytes_per_sec: u64,
    /// Allocations at a time.
    pub allocations_max: u32,
}

impl MediaRelayConfig {
    /// For everybody, on loopback: for networks within one machine.
    #[must_use]
    pub fn lab() -> Self {
        Self {
            relay_for: RelayFor::Everyone,
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            external: Vec::new(),
            bytes_per_sec: 100_000_000,
            allocations_max: 4_000,
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
    usage: UsageReader,
    classes: Classes,
    users: HashMap<Box<str>, UserId>,
    rates: RateLimiter<PublicKey>,
    last_load: Option<(Instant, u64)>,
    load: LoadClass,
    /// Addresses of this machine: what others see of a node behind a NAT leads here only where its owner says so.
    local_ips: Vec<IpAddr>,
    /// The server ends with the node.
    _task: AbortOnDropHandle<()>,
}

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
    fn start(config: MediaRelayConfig, is_lab: bool, secret: [u8; 32]) -> Result<Self, BindError> {
        let classes = Classes::default();
        let server = bind(&config, config.listen, is_lab, &secret, &classes).or_else(|error| {
            if config.listen.port() == 0 {
                return Err(error);
            }
            warn!(address = %config.listen, %error, "media relay: another port is taken");
            bind(&config, SocketAddr::new(config.listen.ip(), 0), is_lab, &secret, &classes)
        })?;
        let served: Vec<SocketAddr> = server.local_addresses().collect();
        let usage = server.usage();
        info!(addresses = ?served, "media relay");
        let task = tokio::spawn(async move {
            if let Err(error) = server.run(std::future::pending()).await {
                warn!(%error, "media relay ended");
            }
        });
        Ok(Self {
            secret,
            config,
            served,
            usage,
            classes,
            users: HashMap::new(),
            rates: RateLimiter::new(USERS_MAX),
            last_load: None,
            load: LoadClass::default(),
            local_ips: local_ips(),
            _task: AbortOnDropHandle::new(task),
        })
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
    listen: SocketAddr,
    is_lab: bool,
    secret: &[u8; 32],
    classes: &Classes,
) -> Result<Server, BindError> {
    let mut relay = halloo_relay::config::Config::default();
    relay.listen = vec![listen];
    relay.external_ips.clone_from(&config.external);
    if listen.ip().is_unspecified() {
        relay.relay_ips = relay_ip(listen.is_ipv4()).into_iter().collect();
    }
    relay.is_lab = is_lab;
    let mut limits = Limits::default();
    limits.total_bytes_per_sec = config.bytes_per_sec;
    limits.allocations_max = config.allocations_max;
    if is_lab {
        // All users are at one address.
        limits.allocations_per_address_max = config.allocations_max;
    }
    relay.limits = limits;
    let credentials = Credentials::new(Users::default(), [secret.to_vec()]);
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
        match MediaRelay::start(config, self.settings.lab, secret) {
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

    /// A device asks for credentials.
    pub(crate) fn handle_relay_request(&mut self, peer: PeerId) -> RelayGrant {
        let chain = self.peers.get(&peer).and_then(|known| known.chain.clone());
        let status = match chain {
            None => RelayStatus::Refused(RelayReason::NOT_CERTIFIED),
            Some(chain) => self.grant_relay(&chain).map_or_else(RelayStatus::Refused, RelayStatus::Granted),
        };
        RelayGrant { status, extensions: Extensions::none() }
    }

    fn grant_relay(&mut self, chain: &VerifiedChain) -> Result<RelayCredentials, RelayReason> {
        let now = self.now();
        let key = chain.user.identity.0;
        let relay = self.media_relay.as_mut().ok_or(RelayReason::NOT_SERVED)?;
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

    /// The owner's own devices and people the owner has written to go first, then those who have relayed for the owner, then the rest.
    fn relay_class(&self, chain: &VerifiedChain) -> ServiceClass {
        let me = self.identity.user_id();
        if chain.user.id == me || self.has_written_to(&ConversationId::of_pair(&me, &chain.user.id)) {
            return ServiceClass::First;
        }
        if self.relays_at_hand.has_carried_for_us(&chain.user.identity.0) { ServiceClass::Normal } else { ServiceClass::Last }
    }

    /// Where others reach the server: its own addresses, or the node's where it listens on all.
    fn media_addresses(&self) -> Vec<MediaAddress> {
        let Some(relay) = &self.media_relay else { return Vec::new() };
        let mut found: Vec<SocketAddr> = Vec::new();
        for served in &relay.served {
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
    }

    /// Who has used how much of this node's relay, the heaviest first.
    pub(crate) fn relay_usage(&self) -> RelayUsage {
        let Some(relay) = &self.media_relay else { return RelayUsage::default() };
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
                allocations: usage.allocations,
            })
            .collect();
        users.sort_by_key(|user| std::cmp::Reverse(user.bytes));
        let addresses = relay.served.iter().map(ToString::to_string).collect();
        RelayUsage { relays: true, addresses, load: u32::from(relay.load.0), users }
    }

    /// Whether the owner has written to the other end of a conversation.
    fn has_written_to(&self, conversation: &ConversationId) -> bool {
        let setting = crate::messages::counter_setting(conversation);
        matches!(self.store.read::<_, StoreError>(|view| view.setting_value::<u64>(&setting)), Ok(Some(_)))
    }
}

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
        MediaRelay::start(MediaRelayConfig::lab(), true, [7; 32]).expect("loopback ports are free")
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
        let relay =
            MediaRelay::start(MediaRelayConfig { listen, ..MediaRelayConfig::lab() }, true, [7; 32]).expect("another port");
        assert!(relay.served.iter().all(|served| served.port() != listen.port()) && !relay.served.is_empty());
    }
}
