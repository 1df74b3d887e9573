//! From a home directory to a running node: what `halloo init`, `run` and `enrol` do.
//!
//! [`init`] makes keys and a configuration. [`run`] locks the home, binds the API, starts the
//! node, serves until told to stop. The node itself is started by [`start`], which is the only
//! place where this module meets the event loop.
//!
//! Order of a shutdown: (1) the token is cancelled, (2) the node says goodbye and closes its
//! store, (3) the API finishes open answers, (4) the address file is removed, (5) the lock is
//! released.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use halloo_protocol::identity::RecoveryPhrase;
use halloo_protocol::key::{AuthorityKey, PublicKey};
use halloo_protocol::node::Roles;
use libp2p::Multiaddr;
use thiserror::Error;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use crate::api::{ApiError, ApiListener};
use crate::circuits::RelayLimits;
use crate::config::{
    ApiAddress, Config, ConfigError, DeviceConfig, DeviceKind, NamedAuthority, ProfileConfig, RelayPolicy, Role, SampleValues,
};
use crate::event_loop::ClockSource;
use crate::handle::authority::{EnrolError, EnrolOptions, Enrolled, EnrolmentPolicy};
use crate::handle::events::{Event, EventRecord};
use crate::handle::problem::NodeError;
use crate::handle::{EventStream, Node};
use crate::home::{Home, HomeError, write_secret};
use crate::identity::{LocalIdentity, LocalIdentityError};
use crate::roles::relay::{MediaRelayConfig, RelayFor};
use crate::store::Store;

/// How long the node may take to say goodbye, beside the time that its owner lets relayed calls go on. The promise is an exit within 5 s of
/// SIGTERM, the calls have 2 s unless said otherwise, and the API needs a moment afterwards.
const GOODBYE_MAX: Duration = Duration::from_millis(1_500);

/// What `halloo init` is asked for.
#[derive(Clone, Debug, Default)]
pub struct InitOptions {
    /// Where.
    pub home: PathBuf,
    /// Who the user is to others.
    pub profile: ProfileConfig,
    /// This device's name and kind.
    pub device_name: Option<String>,
    /// This device's kind.
    pub device_kind: Option<DeviceKind>,
    /// For whom this node relays.
    pub relay: RelayPolicy,
    /// The 24 words of an identity that exists already.
    pub recovery_phrase: Option<Phrase>,
}

/// The words of a recovery phrase. Wiped from memory when dropped; never printed by mistake.
#[derive(Clone)]
pub struct Phrase(pub Zeroizing<String>);

impl fmt::Debug for Phrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Phrase(..)")
    }
}

/// What [`init`] made.
#[derive(Clone, Debug)]
pub struct InitOutcome {
    /// The home's directory.
    pub home: PathBuf,
    /// The device's libp2p peer id.
    pub peer_id: String,
    /// The identity key, `ed25519:` and base64url.
    pub identity: String,
    /// The 24 words, to be shown once; `None` if the identity was recovered from them.
    pub recovery_phrase: Option<Phrase>,
}

/// Why [`init`] failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum InitError {
    /// There are keys already.
    #[error("{} is initialised already; its keys were left alone", home.display())]
    AlreadyInitialised {
        /// The home's directory.
        home: PathBuf,
    },
    /// The words are no recovery phrase.
    #[error("not a recovery phrase: {reason}")]
    InvalidPhrase {
        /// What is wrong: never the words themselves.
        reason: String,
    },
    /// The directory can't be used.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// The keys can't be made or stored.
    #[error("can't make keys: {reason}")]
    Keys {
        /// What went wrong.
        reason: String,
    },
}

/// What `halloo run` is asked for on the command line; the configuration file fills the rest.
#[derive(Clone, Debug, Default)]
pub struct RunOptions {
    /// Where.
    pub home: PathBuf,
    /// Addresses to listen on; empty: the configuration's.
    pub listen: Vec<Multiaddr>,
    /// Nodes to join through, beside the configuration's.
    pub bootstrap: Vec<Multiaddr>,
    /// Roles to force, beside the configuration's.
    pub roles: Vec<Role>,
    /// Authorities to know, beside the configuration's; these win where a label clashes.
    pub authorities: Vec<NamedAuthority>,
    /// Where the API listens; `None`: the configuration's, else a socket in the home.
    pub api: Option<ApiAddress>,
    /// Where metrics are served.
    pub metrics: Option<SocketAddr>,
    /// Where SIP phones connect; `None`: the configuration's, else nowhere.
    pub sip: Option<SocketAddr>,
    /// A local network or a test.
    pub lab: bool,
    /// Answer calls by itself.
    pub answer: Option<AutoAnswer>,
}

/// The daemon answers calls by itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AutoAnswer {
    /// A WAV file that is sent instead of silence; absolute.
    pub play: Option<PathBuf>,
    /// A WAV file that receives what is heard; absolute. Later calls overwrite it.
    pub record: Option<PathBuf>,
    /// A file whose video is sent in video calls; absolute.
    pub play_video: Option<PathBuf>,
    /// A file that receives the other end's video; absolute. Later calls overwrite it.
    pub record_video: Option<PathBuf>,
}

/// Everything [`start`] needs: the file and the flags, merged.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct NodeSettings {
    /// The home, created and private.
    pub home: Home,
    /// The configuration with the flags merged in: use this for all it holds.
    pub config: Config,
    /// Answer calls by itself.
    pub answer: Option<AutoAnswer>,
    /// Where the API listens, for the `ready` event; `None` without one.
    pub api: Option<String>,
    /// Whether the node publishes its record and may serve; not when it runs only to enrol.
    pub publishes: bool,
}

/// Why [`run`] or [`enrol`] failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RunError {
    /// The home can't be used, or another daemon uses it.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// The configuration can't be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The API can't listen.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The node can't start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The SIP edge can't start.
    #[error(transparent)]
    Sip(#[from] crate::sip::SipStartError),
    /// The username was not given.
    #[error(transparent)]
    Enrol(#[from] EnrolError),
    /// The event loop ended by itself: our bug or a broken store. The log says more.
    #[error("the node stopped by itself; the log says why")]
    Died,
}

impl RunError {
    /// The exit code of the command line: 2 for what the user wrote, 1 else.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        use crate::handle::problem::Fault;
        match self {
            Self::Config(ConfigError::Syntax { .. }) => 2,
            Self::Start(StartError::InvalidOption { .. }) => 2,
            Self::Home(HomeError::Foreign { .. } | HomeError::NoDefault) => 2,
            Self::Enrol(error) => error.exit_code(),
            _ => 1,
        }
    }
}

/// Why the node can't start.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StartError {
    /// An address can't be listened on.
    #[error("can't listen on {address}: {reason}")]
    Listen {
        /// The multiaddress.
        address: String,
        /// What the system said.
        reason: String,
    },
    /// A setting can't be used.
    #[error("invalid {option}: {reason}")]
    InvalidOption {
        /// Which.
        option: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The keys can't be read.
    #[error("can't use the keys of this home: {reason}")]
    Keys {
        /// What is wrong with them; never the keys themselves.
        reason: String,
    },
    /// The database can't be opened.
    #[error("can't open the database: {reason}")]
    Store {
        /// What is wrong with it.
        reason: String,
    },
    /// This build has no event loop.
    #[error(transparent)]
    Node(#[from] NodeError),
}

/// Makes a home: directory, keys, commented configuration.
///
/// # Errors
/// See [`InitError`]; keys that exist are never touched.
pub fn init(options: &InitOptions) -> Result<InitOutcome, InitError> {
    let home = Home::create(&options.home)?;
    let _lock = home.lock()?;
    if crate::identity::is_initialised(home.root()) {
        return Err(InitError::AlreadyInitialised { home: home.root().to_owned() });
    }
    let outcome = create_keys(&home, options)?;
    if !home.config().exists() {
        let device = DeviceConfig { name: options.device_name.clone(), kind: options.device_kind };
        let values = SampleValues { profile: options.profile.clone(), device, relay_for: options.relay };
        write_secret(&home.config(), crate::config::sample(&values).as_bytes())?;
    }
    Ok(outcome)
}

/// Makes the identity and device keys and stores them in the home's key files.
fn create_keys(home: &Home, options: &InitOptions) -> Result<InitOutcome, InitError> {
    let failed = |reason: String| InitError::Keys { reason };
    let (phrase, is_new) = match &options.recovery_phrase {
        Some(words) => {
            let phrase =
                RecoveryPhrase::parse(&words.0).map_err(|error| InitError::InvalidPhrase { reason: error.to_string() })?;
            (phrase, false)
        }
        None => {
            let entropy = crate::key_file::random_bytes().map_err(|error| failed(error.to_string()))?;
            (RecoveryPhrase::from_entropy(entropy), true)
        }
    };
    let store = Store::open(home.root()).map_err(|error| failed(error.to_string()))?;
    let now = ClockSource::default().raw_unix();
    let identity = LocalIdentity::create(home.root(), &store, &phrase, now).map_err(|error| match error {
        LocalIdentityError::AlreadyInitialised => InitError::AlreadyInitialised { home: home.root().to_owned() },
        other => failed(other.to_string()),
    })?;
    let peer = crate::address::peer_id(&identity.device()).ok_or_else(|| failed("the device key isn't usable".into()))?;
    Ok(InitOutcome {
        home: home.root().to_owned(),
        peer_id: peer.to_string(),
        identity: identity.identity().to_string(),
        recovery_phrase: is_new.then(|| Phrase(phrase.words())),
    })
}

/// Starts the event loop in a task of its own and returns the handle to it.
///
/// The loop announces [`Event::Ready`] once, with `settings.api` in it, and ends after
/// [`Node::shutdown`] or when the last handle is dropped.
async fn start(settings: NodeSettings) -> Result<Node, StartError> {
    let NodeSettings { home, config, answer, api, publishes } = settings;
    let store = Store::open(home.root()).map_err(|error| StartError::Store { reason: error.to_string() })?;
    let clock = ClockSource { skew_secs: config.debug.clock_skew_secs };
    let identity = LocalIdentity::load(home.root(), &store, clock.raw_unix())
        .map_err(|error| StartError::Keys { reason: error.to_string() })?;
    let roles = config.roles.iter().fold(Roles::default(), |roles, role| roles.union(role_bits(*role)));
    let relays = config.relay.relay_for == RelayPolicy::Everyone;
    let device_name = config.device.name.clone().unwrap_or_default();
    let device_kind = config.device.kind.map(device_kind).unwrap_or_default();
    let mut builder = Node::builder(identity)
        .store(store)
        .role(roles)
        .lab(config.lab)
        .publish(publishes)
        .publish_addresses(config.publish_addresses)
        .relay_for_others(relays)
        .relayed_calls(config.calls.relayed_only)
        .relay_limits(RelayLimits {
            reservations: config.relay.reservations_max as usize,
            circuits: config.relay.circuits_max as usize,
            circuit_duration: std::time::Duration::from_secs(config.relay.circuit_secs_max.into()),
            circuit_bytes: config.relay.circuit_bytes_max,
        })
        .display_name(config.profile.display_name)
        .languages(config.profile.languages)
        .privacy(config.privacy)
        .calls(config.calls)
        .files(crate::config::FilesConfig {
            directory: config.files.directory.map(|directory| home.root().join(directory)),
            ..config.files
        })
        .device(&device_name, device_kind)
        .web_roots(config.roots.map(|path| home.root().join(path)))
        .gateway_role(config.gateway.seen_from(home.root()))
        .mail(config.mail.seen_from(home.root()))
        .linked(config.linked.seen_from(home.root()))
        .authority_mail(config.authority.mail.map(|mail| mail.seen_from(home.root())))
        .authority_phone(config.authority.phone.map(|phone| phone.seen_from(home.root())))
        .authority_sip(config.authority.sip.map(|sip| sip.seen_from(home.root())))
        .sensor(config.sensor.seen_from(home.root()))
        .authority_role(config.authority.name, config.authority.enrolment.unwrap_or(EnrolmentPolicy::Invite))
        .auto_answer(answer.map(|answer| crate::builder::AutoAnswer {
            play: answer.play,
            record: answer.record,
            play_video: answer.play_video,
            record_video: answer.record_video,
        }))
        .api_address(api)
        .home(home.root().to_owned())
        // Servers use all cores; a person's device can be frozen whole.
        .freezable(roles == Roles::default() && config.relay.relay_for == RelayPolicy::Off)
        .dangerous_linked_certificate_secs(config.debug.linked_certificate_secs)
        .dangerous_gateway_drops(config.debug.gateway_drops)
        .dangerous_clock_skew_secs(config.debug.clock_skew_secs);
    if let Some(media_relay) = media_relay(&config.relay, roles, config.lab) {
        builder = builder.media_relay(media_relay);
    }
    if let Some(on) = config.mdns {
        builder = builder.mdns(on);
    }
    if let Some(on) = config.upnp {
        builder = builder.upnp(on);
    }
    for address in config.listen {
        builder = builder.listen(address);
    }
    for address in config.bootstrap {
        builder = builder.bootstrap(address);
    }
    for (label, key) in config.authorities {
        builder = builder.authority(&label, AuthorityKey(PublicKey(key.0)));
    }
    builder.spawn().await.map_err(start_error)
}

fn start_error(error: crate::builder::StartError) -> StartError {
    match error {
        crate::builder::StartError::Listen { address, reason } => StartError::Listen { address: address.to_string(), reason },
        crate::builder::StartError::Label(error) => {
            StartError::InvalidOption { option: "--authority", reason: error.to_string() }
        }
        crate::builder::StartError::Store(error) => StartError::Store { reason: error.to_string() },
        crate::builder::StartError::Identity(error) => StartError::Keys { reason: error.to_string() },
        other => StartError::Node(NodeError::Internal { detail: crate::calls::describe(&other) }),
    }
}

/// Whom this node relays media for, and how: everybody if it was given the role and nothing else was said.
fn media_relay(config: &crate::config::RelayConfig, roles: Roles, is_lab: bool) -> Option<MediaRelayConfig> {
    let relay_for = match config.relay_for {
        RelayPolicy::Off if roles.contains(Roles::RELAY) => RelayFor::Everyone,
        RelayPolicy::Off => return None,
        RelayPolicy::Contacts => RelayFor::Contacts,
        RelayPolicy::Everyone => RelayFor::Everyone,
    };
    let listen = match config.media_listen.as_slice() {
        [] if is_lab => MediaRelayConfig::lab().listen,
        [] => MediaRelayConfig::default_listen(),
        named => named.to_vec(),
    };
    let listen_tls = match config.media_listen_tls.as_slice() {
        [] if is_lab => MediaRelayConfig::lab().listen_tls,
        [] => MediaRelayConfig::default_listen_tls(),
        named => named.to_vec(),
    };
    Some(MediaRelayConfig {
        relay_for,
        listen,
        listen_tls,
        external: config.media_external.clone(),
        bytes_per_sec: config.media_bytes_per_sec_max,
        allocations_max: config.media_allocations_max,
        drain: drain(config),
    })
}

/// How long relayed calls may go on at the end.
fn drain(config: &crate::config::RelayConfig) -> Duration {
    Duration::from_secs(config.media_drain_secs.into())
}

const fn role_bits(role: Role) -> Roles {
    match role {
        Role::Directory => Roles::DIRECTORY,
        Role::Relay => Roles::RELAY,
        Role::Gateway => Roles::GATEWAY.union(Roles::MAILBOX),
        Role::Mailbox => Roles::MAILBOX,
        Role::Authority => Roles::AUTHORITY,
    }
}

pub(crate) const fn device_kind(kind: DeviceKind) -> halloo_protocol::directory::DeviceKind {
    use halloo_protocol::directory::DeviceKind as Wire;
    match kind {
        DeviceKind::Phone => Wire::Phone,
        DeviceKind::Tablet => Wire::Tablet,
        DeviceKind::Laptop => Wire::Laptop,
        DeviceKind::Desktop => Wire::Desktop,
        DeviceKind::Server => Wire::Server,
    }
}

/// Runs a node until `stop` is cancelled. `on_event` sees the ready event first, then
/// everything that happens.
///
/// # Errors
/// See [`RunError`].
pub async fn run(options: RunOptions, stop: CancellationToken, mut on_event: impl FnMut(&EventRecord)) -> Result<(), RunError> {
    let home = Home::open(&options.home)?;
    let _lock = home.lock()?;
    let config = merge(Config::load(&home.config())?, &options);
    let listener = ApiListener::bind(&home, config.api.listen.as_ref()).await?;
    let api = Some(listener.address().to_string());
    if config.metrics.is_some() {
        tracing::warn!("metrics are not served yet");
    }
    let goodbye_max = GOODBYE_MAX + drain(&config.relay);
    let sip = sip_settings(&home, &config);
    let settings = NodeSettings { home, config, answer: options.answer, api, publishes: true };
    let Some(node) = stop.run_until_cancelled(start(settings)).await.transpose()? else { return Ok(()) };
    let events = node.subscribe_after(0);
    let edge = match start_sip(&node, sip, &stop).await {
        Ok(edge) => edge,
        Err(error) => {
            goodbye(&node, goodbye_max).await;
            return Err(error.into());
        }
    };
    let serving = tokio::spawn(listener.serve(node.clone(), stop.clone()));
    let outcome = watch(&node, events, &stop, &mut on_event).await;
    stop.cancel();
    if let Some(edge) = edge {
        // Its nodes say goodbye as ours does, and have as long.
        let _slow = tokio::time::timeout(GOODBYE_MAX, edge.ended()).await;
    }
    goodbye(&node, goodbye_max).await;
    // The API removes its address file itself; a panic in it must not hide the outcome.
    let _served = serving.await;
    outcome
}

/// What an edge needs, if there is to be one: its settings, where its accounts are, and how they join the network.
type SipSettings = (crate::config::SipConfig, PathBuf, crate::sip::AccountNetwork);

fn sip_settings(home: &Home, config: &Config) -> Option<SipSettings> {
    let sip = config.sip.clone().seen_from(home.root());
    let network = crate::sip::AccountNetwork {
        lab: config.lab,
        bootstrap: config.bootstrap.clone(),
        authorities: config.authorities.iter().map(|(label, key)| (label.clone(), AuthorityKey(PublicKey(key.0)))).collect(),
        calls: config.calls.clone(),
        ..crate::sip::AccountNetwork::default()
    };
    sip.is_on().then(|| (sip, home.root().join("sip"), network))
}

async fn start_sip(
    node: &Node,
    settings: Option<SipSettings>,
    stop: &CancellationToken,
) -> Result<Option<crate::sip::SipEdge>, crate::sip::SipStartError> {
    let Some((config, root, network)) = settings else { return Ok(None) };
    let edge = crate::sip::SipEdge::start(node, config, root, network, stop.child_token()).await?;
    tracing::info!(servers = ?edge.servers, "phones can connect");
    Ok(Some(edge))
}

/// Tells events until the node or the user ends it.
async fn watch(
    node: &Node,
    mut events: EventStream,
    stop: &CancellationToken,
    on_event: &mut impl FnMut(&EventRecord),
) -> Result<(), RunError> {
    /// How often the event loop is looked at; it ends unasked only by a bug.
    const ALIVE_EVERY: Duration = Duration::from_millis(500);
    /// Events kept until the ready event, which comes first by contract; more than a start brings, the newest are dropped.
    const EARLY_EVENTS_MAX: usize = 256;
    let mut early = Some(Vec::new());
    let mut alive = tokio::time::interval(ALIVE_EVERY);
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            record = events.recv() => {
                let Some(record) = record else { return Err(RunError::Died) };
                match &mut early {
                    None => on_event(&record),
                    Some(_) if matches!(record.event, Event::Ready(_)) => {
                        on_event(&record);
                        early.take().iter().flatten().for_each(&mut *on_event);
                    }
                    Some(kept) if kept.len() < EARLY_EVENTS_MAX => kept.push(record),
                    Some(_) => {}
                }
            }
            _ = alive.tick() => {
                if node.is_stopped() {
                    return Err(RunError::Died);
                }
            }
        }
    }
}

async fn goodbye(node: &Node, limit: Duration) {
    match tokio::time::timeout(limit, node.shutdown()).await {
        Ok(Ok(()) | Err(NodeError::Stopped)) => {}
        Ok(Err(error)) => tracing::warn!(%error, "shutdown was not clean"),
        Err(_elapsed) => tracing::warn!("shutdown took too long"),
    }
}

/// Gets a username without a running daemon: starts the node, asks, stops it.
///
/// # Errors
/// See [`RunError`].
pub async fn enrol(options: RunOptions, enrol: EnrolOptions) -> Result<Enrolled, RunError> {
    let home = Home::open(&options.home)?;
    let _lock = home.lock()?;
    let config = merge(Config::load(&home.config())?, &options);
    let node = start(NodeSettings { home, config, answer: None, api: None, publishes: false }).await?;
    let outcome = node.enrol(enrol).await;
    goodbye(&node, GOODBYE_MAX).await;
    Ok(outcome?)
}

/// Lays the flags over the file.
fn merge(mut config: Config, options: &RunOptions) -> Config {
    if !options.listen.is_empty() {
        config.listen.clone_from(&options.listen);
    }
    config.bootstrap.extend(options.bootstrap.iter().cloned());
    for role in &options.roles {
        if !config.roles.contains(role) {
            config.roles.push(*role);
        }
    }
    let named = options.authorities.iter().map(|named| (named.name.clone(), named.key));
    config.authorities.extend(named);
    config.lab |= options.lab;
    config.metrics = options.metrics.or(config.metrics);
    // Whoever has a gateway uses it, unless another is named.
    config.calls.telephone = config.calls.telephone.take().or_else(|| config.sip.telephone.clone());
    if let Some(address) = options.sip {
        config.sip.listen = vec![address];
    }
    config.api.listen = options.api.clone().or(config.api.listen);
    config
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::RootKey;

    #[test]
    fn flags_win_over_the_file() {
        let address = |text: &str| text.parse::<Multiaddr>().expect("an address");
        let mut config = Config { roles: vec![Role::Relay], ..Config::default() };
        config.listen = vec![address("/ip4/0.0.0.0/tcp/1")];
        config.bootstrap = vec![address("/ip4/127.0.0.1/tcp/2")];
        config.authorities.insert("a".to_owned(), RootKey([1; 32]));
        let options = RunOptions {
            listen: vec![address("/ip4/127.0.0.1/tcp/3")],
            bootstrap: vec![address("/ip4/127.0.0.1/tcp/4")],
            roles: vec![Role::Relay, Role::Gateway],
            authorities: vec![NamedAuthority { name: "a".to_owned(), key: RootKey([2; 32]) }],
            api: Some(ApiAddress::Unix(PathBuf::from("/x"))),
            lab: true,
            ..RunOptions::default()
        };
        let merged = merge(config, &options);
        assert_eq!(merged.listen, options.listen);
        assert_eq!(merged.bootstrap.len(), 2);
        assert_eq!(merged.roles, [Role::Relay, Role::Gateway]);
        assert_eq!(merged.authorities["a"], RootKey([2; 32]));
        assert_eq!(merged.api.listen, options.api);
        assert!(merged.lab);
    }
}
