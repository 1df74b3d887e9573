//! The new device's side of a linking: `halloo device link LINK` in a home that has nothing yet, or `halloo identity merge LINK` in one whose identity has no name
//! and is to become part of another.
//!
//! No node runs for it. A bare swarm connects to the device that shows the code, asks, and what it is given is written: database, identity key (if it
//! was given), configuration, and last the device key, which marks the home as complete. Until then whatever was made is taken away again.

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::StreamExt;
use halloo_protocol::directory::DEVICE_NAME_BYTES_MAX;
use halloo_protocol::key::{DeviceKey, IdentityKey, SecretKey};
use halloo_protocol::linked::IdentityMerge;
use halloo_protocol::linking::{
    DeviceLink, JoinError, LINK_MERGE, LinkCode, LinkConfirm, LinkConfirmed, LinkFinished, LinkGrant, LinkJoiner, LinkRequest,
    LinkStarted,
};
use halloo_protocol::node::Hello;
use halloo_protocol::wire::{self, Body, Extensions, Frame, FrameKind, Message};
use libp2p::swarm::dial_opts::DialOpts;
use libp2p::swarm::{ConnectionId, DialError, SwarmEvent};
use libp2p::{Multiaddr, PeerId};
use thiserror::Error;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::address;
use crate::behaviour::BehaviourEvent;
use crate::config::{DeviceConfig, DeviceKind, ProfileConfig, RelayPolicy, SampleValues};
use crate::event_loop::ClockSource;
use crate::handle::problem::ProblemKind;
use crate::home::{Home, HomeError, HomeLock, write_secret};
use crate::identity::LocalIdentity;
use crate::key_file::{self, KeyRole};
use crate::labels::Labels;
use crate::store::{DATABASE_FILE, Store, StoreError, Transaction};
use crate::streams::{self, Keeper};
use crate::swarm::{NodeSwarm, SwarmOptions, build_swarm, circuit_address};

/// How long connecting may take: through a relay, and with addresses that lead nowhere tried first.
const CONNECT_MAX: Duration = Duration::from_secs(30);

/// How long the other device may take to answer. It signs and reads its database.
const ANSWER_MAX: Duration = Duration::from_secs(20);

/// How long to wait for the last word of the other device, which changes nothing here.
const FAREWELL_MAX: Duration = Duration::from_secs(5);

/// Where the code is to be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkTarget {
    /// As the link says.
    Link(Box<DeviceLink>),
    /// The code was typed; one of these addresses leads to the device that shows it.
    Code {
        /// The code.
        code: LinkCode,
        /// Addresses, best with `/p2p/PEER`: then no other device is believed.
        at: Vec<Multiaddr>,
    },
}

/// What the new device is to be.
#[derive(Clone, Debug)]
pub struct JoinOptions {
    /// Its home: nothing yet, or an empty directory.
    pub home: PathBuf,
    /// What the other device shows.
    pub target: LinkTarget,
    /// Its name; at most 64 bytes.
    pub device_name: Option<String>,
    /// What machine it is.
    pub device_kind: Option<DeviceKind>,
    /// For whom it relays.
    pub relay: RelayPolicy,
}

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JoinStage {
    /// Looking for the other device.
    Connecting,
    /// Talking to it.
    Asking,
    /// Writing what it gave.
    Keeping,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Joined {
    /// The home's directory.
    pub home: PathBuf,
    /// This device's peer id.
    pub peer_id: String,
    /// The user, `name@authority` by the other device's label.
    pub username: String,
    /// The identity key, `ed25519:` and base64url.
    pub identity: String,
    /// Whether the identity key is on this device now.
    pub has_identity_key: bool,
    /// Peer id of the device that linked this one.
    pub linked_by: String,
}

/// Why the device wasn't linked. Nothing was kept.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum JoinDeviceError {
    /// There are keys already.
    #[error("{} is initialised already; its keys were left alone. A new device needs a home of its own: --home DIR", home.display())]
    AlreadyInitialised {
        /// The home's directory.
        home: PathBuf,
    },
    /// The directory can't be used.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// Something in what was asked for can't be used.
    #[error("{0}")]
    Invalid(String),
    /// The other device can't be reached.
    #[error("the other device isn't reached: {reason}; is `halloo device link` still open there, and is this machine online?")]
    Unreachable {
        /// Why.
        reason: String,
    },
    /// It doesn't go on.
    #[error(transparent)]
    Refused(#[from] JoinError),
    /// The other device doesn't speak this.
    #[error("the other device runs a version that can't link devices")]
    Unsupported,
    /// The other device doesn't answer.
    #[error("the other device doesn't answer")]
    TimedOut,
    /// The keys or the database can't be written.
    #[error("can't keep what the other device gave: {reason}")]
    Keep {
        /// Why.
        reason: String,
    },
    /// The person has ended it.
    #[error("cancelled")]
    Cancelled,
}

impl JoinDeviceError {
    /// Its kind, which decides the exit code.
    #[must_use]
    pub const fn kind(&self) -> ProblemKind {
        match self {
            Self::AlreadyInitialised { .. } => ProblemKind::Conflict,
            Self::Home(HomeError::Foreign { .. } | HomeError::NoDefault) | Self::Invalid(_) => ProblemKind::InvalidRequest,
            Self::Home(_) | Self::Keep { .. } | Self::Cancelled => ProblemKind::Internal,
            Self::Unreachable { .. } => ProblemKind::Unreachable,
            Self::Refused(_) => ProblemKind::Refused,
            Self::Unsupported => ProblemKind::Unsupported,
            Self::TimedOut => ProblemKind::TimedOut,
        }
    }
}

/// Makes `options.home` a device of the user whose device shows the code.
///
/// # Errors
/// See [`JoinDeviceError`]; nothing of a failed try stays.
pub async fn join(
    options: JoinOptions,
    stop: CancellationToken,
    on_stage: impl Fn(JoinStage),
) -> Result<Joined, JoinDeviceError> {
    if crate::identity::is_initialised(&options.home) {
        return Err(JoinDeviceError::AlreadyInitialised { home: options.home });
    }
    if options.device_name.as_ref().is_some_and(|name| name.len() > DEVICE_NAME_BYTES_MAX) {
        return Err(JoinDeviceError::Invalid(format!("a device's name has at most {DEVICE_NAME_BYTES_MAX} bytes")));
    }
    let place = Place::prepare(&options.home)?;
    let joined = stop.run_until_cancelled(join_in(&place, &options, on_stage)).await;
    let joined = joined.unwrap_or(Err(JoinDeviceError::Cancelled));
    place.leave(joined.is_ok());
    joined
}

/// Makes `options.home`, whose identity has no name, a device of the user whose device shows the code. The identity becomes part of that user: both keys say so,
/// and what is in the home stays.
///
/// # Errors
/// See [`JoinDeviceError`]; after a failed try the home is as it was.
pub async fn merge(
    options: JoinOptions,
    stop: CancellationToken,
    on_stage: impl Fn(JoinStage),
) -> Result<Joined, JoinDeviceError> {
    if !crate::identity::is_initialised(&options.home) {
        return Err(JoinDeviceError::Invalid("there is no identity here to merge: use `halloo device link`".to_owned()));
    }
    let place = Place::prepare(&options.home)?;
    let merged = stop.run_until_cancelled(merge_in(&place, &options, on_stage)).await;
    merged.unwrap_or(Err(JoinDeviceError::Cancelled))
}

async fn merge_in(place: &Place, options: &JoinOptions, on_stage: impl Fn(JoinStage)) -> Result<Joined, JoinDeviceError> {
    let failed = |reason: String| JoinDeviceError::Keep { reason };
    let key =
        |role| key_file::read_key(place.home.root(), role).map_err(|error| JoinDeviceError::Keep { reason: error.to_string() });
    let gone =
        || JoinDeviceError::Invalid("this device doesn't have the key of its identity: merge on the one that has".to_owned());
    let (device_key, old) = (key(KeyRole::Device)?.ok_or_else(gone)?, key(KeyRole::Identity)?.ok_or_else(gone)?);
    let store = Store::open(place.home.root()).map_err(|error| failed(error.to_string()))?;
    let now = ClockSource::default().raw_unix();
    let identity = LocalIdentity::load(place.home.root(), &store, now).map_err(|error| failed(error.to_string()))?;
    if identity.authority().is_some() {
        return Err(JoinDeviceError::Invalid("this identity has a name: only one without can become part of another".to_owned()));
    }
    on_stage(JoinStage::Connecting);
    let mut connection = Connection::open(&device_key, &options.target).await?;
    on_stage(JoinStage::Asking);
    let wish = Extensions::none().with(LINK_MERGE, old.public().as_bytes().to_vec());
    let (joiner, grant, holder) = ask(&mut connection, &device_key, options, wish).await?;
    let merge = accepted(&grant, IdentityKey(old.public())).ok_or(JoinDeviceError::Unsupported)?.sign(&old);
    on_stage(JoinStage::Keeping);
    let kept = store.transaction::<_, StoreError>(|tx| {
        crate::linked::merge::keep_own(tx, &merge)?;
        put_grant(tx, &grant)
    });
    kept.map_err(|error| failed(error.to_string()))?;
    drop((identity, store));
    // The former key has said its last word.
    remove(&place.home.root().join(KeyRole::Identity.file_name()));
    if let Some(key) = grant.identity_key() {
        key_file::write_key(place.home.root(), KeyRole::Identity, &key).map_err(|error| failed(error.to_string()))?;
    }
    say_done(&mut connection, &joiner).await;
    Ok(joined(place, &device_key, &grant, &holder))
}

/// What the other device's user accepts, if that is what was asked for.
fn accepted(grant: &LinkGrant, old: IdentityKey) -> Option<IdentityMerge> {
    let merge: IdentityMerge = wire::decode(grant.extensions.find(LINK_MERGE)?, IdentityMerge::LIMIT).ok()?;
    let is_it = merge.old == old
        && merge.user == grant.chain.user.claimed_id()
        && merge.identity == crate::identity::identity_in(&grant.chain.user);
    (is_it && merge.check().is_ok() && merge.verify_accepted().is_ok()).then_some(merge)
}

async fn join_in(place: &Place, options: &JoinOptions, on_stage: impl Fn(JoinStage)) -> Result<Joined, JoinDeviceError> {
    let keep = |error: key_file::KeyFileError| JoinDeviceError::Keep { reason: error.to_string() };
    let device_key = key_file::generate_key().map_err(keep)?;
    on_stage(JoinStage::Connecting);
    let mut connection = Connection::open(&device_key, &options.target).await?;
    on_stage(JoinStage::Asking);
    let (joiner, grant, holder) = ask(&mut connection, &device_key, options, Extensions::none()).await?;
    on_stage(JoinStage::Keeping);
    place.keep(options, &device_key, &grant)?;
    say_done(&mut connection, &joiner).await;
    Ok(joined(place, &device_key, &grant, &holder))
}

fn joined(place: &Place, device_key: &SecretKey, grant: &LinkGrant, holder: &DeviceKey) -> Joined {
    let user = grant.chain.user.claimed_id();
    let id = |device: &DeviceKey| address::peer_id(device).map(|peer| peer.to_string()).unwrap_or_default();
    Joined {
        home: place.home.root().to_owned(),
        peer_id: id(&DeviceKey(device_key.public())),
        username: labels_of(grant).display(&user),
        identity: identity_of(grant),
        has_identity_key: grant.identity_key.is_some(),
        linked_by: id(holder),
    }
}

fn labels_of(grant: &LinkGrant) -> Labels {
    let mut labels = Labels::new();
    for (label, key) in &grant.authorities {
        // A label that can't be used here is shown as the key.
        let _ = labels.insert(label, *key);
    }
    labels
}

fn identity_of(grant: &LinkGrant) -> String {
    crate::identity::identity_in(&grant.chain.user).to_string()
}

/// The exchange, up to what is given.
async fn ask(
    connection: &mut Connection,
    device_key: &SecretKey,
    options: &JoinOptions,
    extensions: Extensions,
) -> Result<(LinkJoiner, LinkGrant, DeviceKey), JoinDeviceError> {
    let holder = address::device_key(&connection.peer)
        .ok_or_else(|| JoinDeviceError::Invalid("the address leads to something that is no Halloo device".to_owned()))?;
    let (code, root) = match &options.target {
        LinkTarget::Link(link) => (&link.code, link.root),
        LinkTarget::Code { code, .. } => (code, None),
    };
    let seed = key_file::random_bytes().map_err(|error| JoinDeviceError::Keep { reason: error.to_string() })?;
    let (mut joiner, start) = LinkJoiner::begin(code, DeviceKey(device_key.public()), holder, root, seed);
    let started: LinkStarted = connection.request(&start).await?;
    let request = LinkRequest {
        name: options.device_name.clone().unwrap_or_default(),
        kind: crate::daemon::device_kind(options.device_kind.unwrap_or(DeviceKind::Desktop)),
        extensions,
    };
    let confirm: LinkConfirm = joiner.handle_started(&started, &request)?;
    let confirmed: LinkConfirmed = connection.request(&confirm).await?;
    let grant = joiner.handle_confirmed(&confirmed, ClockSource::default().raw_unix())?;
    Ok((joiner, grant, holder))
}

/// Tells the other device that it worked. If that is lost, the person there reads that it may have.
async fn say_done(connection: &mut Connection, joiner: &LinkJoiner) {
    let Some(done) = joiner.done() else { return };
    match tokio::time::timeout(FAREWELL_MAX, connection.request::<_, LinkFinished>(&done)).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => warn!(%error, "the other device wasn't told that the link is made"),
        Err(_elapsed) => warn!("the other device doesn't say that it heard"),
    }
}

/// The home, and what has to go if nothing comes of it.
struct Place {
    home: Home,
    lock: HomeLock,
    was_there: bool,
    had_lock: bool,
    had_config: bool,
}

impl Place {
    fn prepare(path: &Path) -> Result<Self, JoinDeviceError> {
        let was_there = path.exists();
        let home = Home::create(path)?;
        let (had_lock, had_config) = (home.lock_file().exists(), home.config().exists());
        let lock = home.lock()?;
        Ok(Self { home, lock, was_there, had_lock, had_config })
    }

    /// Writes everything; the device key last.
    fn keep(&self, options: &JoinOptions, device_key: &SecretKey, grant: &LinkGrant) -> Result<(), JoinDeviceError> {
        let failed = |reason: String| JoinDeviceError::Keep { reason };
        let root = self.home.root();
        // What an earlier try that was cut short has left isn't this user's, perhaps.
        self.take_away();
        let store = Store::open(root).map_err(|error| failed(error.to_string()))?;
        keep_grant(&store, grant).map_err(|error| failed(error.to_string()))?;
        drop(store);
        if let Some(key) = grant.identity_key() {
            key_file::write_key(root, KeyRole::Identity, &key).map_err(|error| failed(error.to_string()))?;
        }
        if !self.home.config().exists() {
            let device = DeviceConfig { name: options.device_name.clone(), kind: options.device_kind };
            let values = SampleValues { profile: ProfileConfig::default(), device, relay_for: options.relay };
            write_secret(&self.home.config(), crate::config::sample(&values).as_bytes())?;
        }
        key_file::write_key(root, KeyRole::Device, device_key).map_err(|error| failed(error.to_string()))
    }

    fn take_away(&self) {
        for name in [DATABASE_FILE, KeyRole::Identity.file_name()] {
            remove(&self.home.root().join(name));
        }
    }

    /// Leaves the home as it is, or as it was.
    fn leave(self, is_linked: bool) {
        if is_linked || crate::identity::is_initialised(self.home.root()) {
            return;
        }
        self.take_away();
        let (root, lock_file) = (self.home.root().to_owned(), self.home.lock_file());
        if !self.had_config {
            remove(&self.home.config());
        }
        drop(self.lock);
        if !self.had_lock {
            remove(&lock_file);
        }
        if !self.was_there
            && let Err(error) = std::fs::remove_dir(&root)
        {
            debug!(%error, "the directory stays");
        }
    }
}

fn remove(path: &Path) {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            warn!(path = %path.display(), %error, "left over");
        }
        _ => {}
    }
}

fn keep_grant(store: &Store, grant: &LinkGrant) -> Result<(), StoreError> {
    store.transaction(|tx| put_grant(tx, grant))
}

fn put_grant(tx: &Transaction, grant: &LinkGrant) -> Result<(), StoreError> {
    crate::identity::keep_chain(tx, &grant.chain)?;
    crate::enrolment::keep_linked(tx, &grant.authorities, &grant.bootstrap, &grant.revocations)?;
    if let Some(key) = &grant.vault_key {
        crate::vault::keep_linked(tx, key)?;
    }
    crate::contacts::keep_linked(tx, &grant.own, &grant.privacy)
}

/// A connection to the device that shows the code.
struct Connection {
    swarm: NodeSwarm,
    peer: PeerId,
    next_id: u32,
}

impl Connection {
    async fn open(device_key: &SecretKey, target: &LinkTarget) -> Result<Self, JoinDeviceError> {
        let unreachable = |reason: String| JoinDeviceError::Unreachable { reason };
        let keypair = address::keypair(device_key).ok_or_else(|| unreachable("the new key can't be used".to_owned()))?;
        // A client for a minute: it looks for nobody, and lets nobody look for it.
        let mut swarm = build_swarm(keypair, SwarmOptions::lab()).map_err(|error| unreachable(error.to_string()))?;
        swarm.behaviour_mut().streams.set_hello(std::sync::Arc::new(hello));
        let dials = dials(target)?;
        // On the way to the device may be a relay, to which a connection is there first.
        let wanted = match target {
            LinkTarget::Link(link) => address::peer_id(&link.holder),
            LinkTarget::Code { .. } => None,
        };
        let mut pending: Vec<ConnectionId> = Vec::new();
        let mut last_error = "no address to try".to_owned();
        for options in dials {
            let connection = options.connection_id();
            match swarm.dial(options) {
                Ok(()) => pending.push(connection),
                Err(error) => last_error = error.to_string(),
            }
        }
        let deadline = tokio::time::Instant::now() + CONNECT_MAX;
        while !pending.is_empty() {
            let event = tokio::time::timeout_at(deadline, swarm.select_next_some()).await;
            match event.map_err(|_| unreachable(format!("no connection within {} s", CONNECT_MAX.as_secs())))? {
                SwarmEvent::Behaviour(BehaviourEvent::Streams(streams::Event::Connected { peer, .. }))
                    if wanted.is_none_or(|wanted| wanted == peer) =>
                {
                    swarm.behaviour_mut().streams.keep(peer, Keeper::Joining, true);
                    return Ok(Self { swarm, peer, next_id: 1 });
                }
                SwarmEvent::OutgoingConnectionError { connection_id, error, .. } => {
                    debug!(%error, "not this way");
                    last_error = short(&error);
                    pending.retain(|known| *known != connection_id);
                }
                _ => {}
            }
        }
        Err(unreachable(last_error))
    }

    /// Asks, and waits for the answer.
    async fn request<Q: Message, A: Message>(&mut self, message: &Q) -> Result<A, JoinDeviceError> {
        let id = self.next_id;
        self.next_id += 1;
        let frame = wire::encode(&Frame::new(id, message));
        let broken = || JoinDeviceError::Unreachable { reason: "the connection broke".to_owned() };
        self.swarm.behaviour_mut().streams.send(self.peer, None, frame).map_err(|_| broken())?;
        let deadline = tokio::time::Instant::now() + ANSWER_MAX;
        loop {
            let event = tokio::time::timeout_at(deadline, self.swarm.select_next_some()).await;
            match event.map_err(|_| JoinDeviceError::TimedOut)? {
                SwarmEvent::Behaviour(BehaviourEvent::Streams(streams::Event::Frame { peer, bytes, .. }))
                    if peer == self.peer =>
                {
                    let frame = wire::decode::<Frame>(&bytes, wire::FRAME_BYTES_MAX).ok();
                    let Some(frame) = frame.filter(|frame| frame.kind.is_answer() && frame.id == id) else { continue };
                    return match frame.kind {
                        FrameKind::UNSUPPORTED => Err(JoinDeviceError::Unsupported),
                        FrameKind::BUSY => Err(JoinError::Refused(halloo_protocol::linking::LinkReason::BUSY).into()),
                        _ => frame.parse().map_err(|_| JoinError::Malformed.into()),
                    };
                }
                SwarmEvent::Behaviour(BehaviourEvent::Streams(streams::Event::Failed { error, .. })) => {
                    return Err(match error {
                        streams::StreamError::Unsupported => JoinDeviceError::Unsupported,
                        error => JoinDeviceError::Unreachable { reason: error.to_string() },
                    });
                }
                SwarmEvent::Behaviour(BehaviourEvent::Streams(streams::Event::Closed { last: true, .. })) => return Err(broken()),
                _ => {}
            }
        }
    }
}

/// What a device says first that has no certificate yet.
fn hello() -> Vec<u8> {
    let hello = Hello {
        version: Hello::VERSION,
        features: 0,
        chain: None,
        descriptor: None,
        clock: ClockSource::default().raw_unix(),
        revocations: Vec::new(),
        extensions: Extensions::none(),
    };
    wire::encode(&Frame::new(0, &hello))
}

fn dials(target: &LinkTarget) -> Result<Vec<DialOpts>, JoinDeviceError> {
    let invalid = |reason: &str| JoinDeviceError::Invalid(reason.to_owned());
    match target {
        LinkTarget::Link(link) => {
            let peer = address::peer_id(&link.holder).ok_or_else(|| invalid("the link names no device"))?;
            let mut addresses: Vec<Multiaddr> = link.addresses.iter().filter_map(address::from_wire).collect();
            for relay in &link.relays {
                let Some(relay_peer) = address::peer_id(&relay.device) else { continue };
                let direct = relay.addresses.iter().filter_map(address::from_wire);
                addresses.extend(direct.map(|address| circuit_address(relay_peer, &address, Some(peer))));
            }
            if addresses.is_empty() {
                return Err(invalid("the link has no address: the other device isn't connected to anything"));
            }
            Ok(vec![DialOpts::peer_id(peer).addresses(addresses).build()])
        }
        LinkTarget::Code { at, .. } if at.is_empty() => {
            Err(invalid("a code needs an address of the other device: --at MULTIADDR"))
        }
        LinkTarget::Code { at, .. } => {
            Ok(at.iter().map(|address| DialOpts::unknown_peer_id().address(address.clone()).build()).collect())
        }
    }
}

/// Why a dial failed, for people.
fn short(error: &DialError) -> String {
    let text = match error {
        DialError::Transport(tried) => {
            let addresses: Vec<String> = tried.iter().map(|(address, _)| address.to_string()).collect();
            format!("nobody answers at {}", addresses.join(", "))
        }
        DialError::WrongPeerId { .. } => "another device answers at that address".to_owned(),
        other => other.to_string(),
    };
    text.lines().next().unwrap_or_default().trim_end_matches(':').to_owned()
}
