//! A network of real nodes in this process: real sockets on loopback, real invites, no shared state but the process.
//!
//! One infrastructure node has all roles (authority, directory, relay, gateway); every user is a node of its own that enrolled with an
//! invite. Dropping the [`Network`] ends all of it.

use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt, stream};
use halloo_protocol::key::SecretKey;
use halloo_protocol::node::Roles;
use libp2p::Multiaddr;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::TestnetError;
use super::scratch::Scratch;
use crate::api::ApiListener;
use crate::builder::AutoAnswer;
use crate::config::ProfileConfig;
use crate::daemon::InitOptions;
use crate::event_loop::ClockSource;
use crate::handle::authority::{EnrolError, EnrolOptions, EnrolmentPolicy, InviteOptions};
use crate::handle::contacts::{Audience, ContactState, PrivacyChange};
use crate::handle::directory::Resolved;
use crate::handle::power::SuspendOptions;
use crate::handle::{Event, Node};
use crate::home::{Home, HomeLock};
use crate::identity::LocalIdentity;
use crate::key_file::generate_key;
use crate::roles::relay::MediaRelayConfig;
use crate::store::{Store, StoreError};

/// The label of the network's authority: its users are called `name@test`.
pub const AUTHORITY: &str = "test";

/// The name of the infrastructure node's directory, where nodes have one. No user can have this name.
const INFRASTRUCTURE: &str = "infrastructure";

/// How long one node may take to listen, enrol or get ready: a machine full of them is slow.
const NODE_LIMIT: Duration = Duration::from_secs(180);

/// Users that join at the same time: enough to hide latency, few enough that a network of hundreds doesn't join at one stroke.
const JOIN_AT_ONCE: usize = 12;

/// How long a node that was killed may take to let its database go.
const RELEASE_LIMIT: Duration = Duration::from_secs(5);

/// Where a node listens that takes connections by QUIC only.
const QUIC_ONLY: &str = "/ip4/127.0.0.1/udp/0/quic-v1";

/// Pause between looks at what can't be waited for.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// How a network is set up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkOptions {
    /// Everybody may enrol without an invite.
    pub open: bool,
    /// Every node gets a home directory and a local API, so that `halloo --home HOME ..` talks to it. Else all state is in memory.
    pub homes: bool,
    /// Anyone may call and write to everybody; else they have to be contacts ([`Network::befriend`]).
    pub strangers: bool,
}

/// How one user's node behaves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserOptions {
    /// [`Node::suspend`] freezes it whole, and it has a push service of its own to be woken by; costs a thread.
    pub freezable: bool,
    /// It answers calls by itself.
    pub answer: Option<AutoAnswer>,
    /// Calls are connected when they are answered, not while they ring ([`crate::NodeBuilder::early_media`]).
    pub late_media: bool,
    /// It listens by QUIC only: if it is killed, connections to it look open until the other end has heard nothing for half a minute.
    pub quic_only: bool,
}

/// A network in this process.
#[derive(Debug)]
pub struct Network {
    options: NetworkOptions,
    infrastructure: Member,
    users: Vec<Member>,
    /// Last, so that it is removed after the nodes that use it.
    scratch: Scratch,
}

/// Who a user is: what others must find under the name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Person {
    /// `name@test`.
    pub username: String,
    /// The identity key, `ed25519:` and base64url.
    pub identity: String,
    /// The device's libp2p peer id.
    pub peer_id: String,
}

impl Person {
    /// Whether this person was found, and not another.
    ///
    /// # Errors
    /// [`TestnetError::Setup`] says what differs.
    pub fn check(&self, found: &Resolved) -> Result<(), TestnetError> {
        let name = &self.username;
        if found.username != *name {
            return Err(TestnetError::setup(format!("looked for {name} and found {}", found.username)));
        }
        if found.identity != self.identity {
            return Err(TestnetError::setup(format!("found another identity than {name}'s")));
        }
        if !found.devices.iter().any(|device| device.peer_id == self.peer_id) {
            return Err(TestnetError::setup(format!("{name}'s device is not among those found")));
        }
        Ok(())
    }
}

/// A node that is or was part of the network.
#[derive(Debug)]
struct Member {
    name: String,
    /// `None` for the infrastructure, and before enrolment.
    person: Option<Person>,
    options: UserOptions,
    state: State,
    running: Option<Running>,
}

/// What outlives the node: its keys and database.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "one per node, whose megabytes hide the difference")]
enum State {
    Memory { store: Store, identity_key: SecretKey, device_key: SecretKey },
    Home { home: Home, _lock: HomeLock },
}

#[derive(Debug)]
struct Running {
    node: Node,
    api: Option<Api>,
}

/// A local API being served; stops when dropped.
#[derive(Debug)]
struct Api {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Drop for Api {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Network {
    /// Starts the infrastructure node and waits until it is ready.
    ///
    /// # Errors
    /// [`TestnetError`]: sockets, directories or keys can't be had.
    pub async fn start(options: NetworkOptions) -> Result<Self, TestnetError> {
        let scratch = Scratch::new()?;
        let state = State::new(INFRASTRUCTURE, options.homes.then_some(&scratch))?;
        let infrastructure =
            Member { name: INFRASTRUCTURE.to_owned(), person: None, options: UserOptions::default(), state, running: None };
        let mut network = Self { options, infrastructure, users: Vec::new(), scratch };
        let running = network.start_infrastructure().await?;
        wait_ready(&running.node, INFRASTRUCTURE).await?;
        network.infrastructure.running = Some(running);
        Ok(network)
    }

    async fn start_infrastructure(&self) -> Result<Running, TestnetError> {
        let policy = if self.options.open { EnrolmentPolicy::Open } else { EnrolmentPolicy::Invite };
        let roles = [Roles::AUTHORITY, Roles::DIRECTORY, Roles::RELAY, Roles::GATEWAY, Roles::MAILBOX];
        self.infrastructure
            .start(|builder| {
                let builder = roles.into_iter().fold(builder, |builder, role| builder.role(role));
                builder.authority_role(Some(AUTHORITY.into()), policy).media_relay(MediaRelayConfig::lab())
            })
            .await
    }

    /// Starts a user's node, enrols it and waits until it is ready.
    ///
    /// # Errors
    /// [`TestnetError`]: the name is taken or no name, or the node can't run.
    pub async fn add_user(&mut self, name: &str) -> Result<Node, TestnetError> {
        let mut nodes = self.add_users([(name.to_owned(), UserOptions::default())]).await?;
        nodes.pop().ok_or_else(|| TestnetError::setup("no node was started"))
    }

    /// Starts several users' nodes, enrols them, and waits until all are ready.
    ///
    /// # Errors
    /// As for [`Network::add_user`].
    pub async fn add_users(&mut self, users: impl IntoIterator<Item = (String, UserOptions)>) -> Result<Vec<Node>, TestnetError> {
        let starting = users.into_iter().map(|(name, options)| self.start_user(name, options));
        let members: Vec<Member> = stream::iter(starting.collect::<Vec<_>>()).buffered(JOIN_AT_ONCE).try_collect().await?;
        let nodes = members.iter().filter_map(|member| member.running.as_ref()).map(|running| running.node.clone()).collect();
        self.users.extend(members);
        Ok(nodes)
    }

    async fn start_user(&self, name: String, options: UserOptions) -> Result<Member, TestnetError> {
        if name == INFRASTRUCTURE || self.users.iter().any(|member| member.name == name) {
            return Err(TestnetError::setup(format!("there is a node called {name} already")));
        }
        let state = State::new(&name, self.options.homes.then_some(&self.scratch))?;
        let mut member = Member { name, person: None, options, state, running: None };
        let running = self.start_member(&member).await?;
        member.person = Some(self.enrol(&running.node, &member.name).await?);
        wait_ready(&running.node, &member.name).await?;
        member.running = Some(running);
        Ok(member)
    }

    async fn start_member(&self, member: &Member) -> Result<Running, TestnetError> {
        let bootstrap = self.bootstrap().await?;
        let root = self.infrastructure().authority().show().await.map_err(TestnetError::setup)?.key;
        let root = root.parse().map_err(|_| TestnetError::setup("the authority's key isn't one"))?;
        let options = member.options.clone();
        let listen = options.quic_only.then(|| QUIC_ONLY.parse::<Multiaddr>()).transpose().map_err(TestnetError::setup)?;
        let privacy = if self.options.strangers { PrivacyChange::all(Audience::Anyone) } else { PrivacyChange::default() };
        member
            .start(|builder| {
                let builder =
                    builder.authority(AUTHORITY, root).privacy(privacy).freezable(options.freezable).auto_answer(options.answer);
                let builder = builder.early_media(!options.late_media);
                let builder = listen.into_iter().fold(builder, |builder, address| builder.listen(address));
                bootstrap.into_iter().fold(builder, |builder, address| builder.bootstrap(address))
            })
            .await
    }

    /// Addresses of the infrastructure node.
    ///
    /// # Errors
    /// [`TestnetError`] if it no longer runs.
    pub async fn bootstrap(&self) -> Result<Vec<Multiaddr>, TestnetError> {
        let status = self.infrastructure().status().await.map_err(TestnetError::setup)?;
        Ok(status.listen.iter().filter_map(|address| address.parse().ok()).collect())
    }

    /// An invite for one user, whatever the name.
    ///
    /// # Errors
    /// [`TestnetError`] if the authority makes none.
    pub async fn invite(&self) -> Result<String, TestnetError> {
        let invite = self.infrastructure().authority().invite(InviteOptions::default()).await.map_err(TestnetError::setup)?;
        Ok(invite.code)
    }

    async fn enrol(&self, node: &Node, name: &str) -> Result<Person, TestnetError> {
        let peer_id = node.status().await.map_err(TestnetError::setup)?.peer_id;
        let invite = if self.options.open { None } else { Some(self.invite().await?) };
        let options = EnrolOptions { username: full_name(name), invite };
        let deadline = Instant::now() + NODE_LIMIT;
        loop {
            match node.enrol(options.clone()).await {
                Ok(enrolled) => return Ok(Person { username: enrolled.username, identity: enrolled.identity, peer_id }),
                // Without an invite, which names an address, the authority is found once its node has greeted us; and where many nodes share few
                // cores its answer may come late. Who asks again gets the same certificate.
                Err(EnrolError::Unreachable { .. }) if Instant::now() < deadline => {
                    tokio::time::sleep(LOOK_AGAIN).await;
                }
                Err(error) => return Err(TestnetError::setup(format!("{name} can't enrol: {error}"))),
            }
        }
    }

    /// The node with all roles.
    ///
    /// # Panics
    /// Never: it runs as long as the network.
    #[must_use]
    pub fn infrastructure(&self) -> &Node {
        &self.infrastructure.running.as_ref().expect("set before `start` returns, never taken out").node
    }

    /// A user's node; `None` for unknown names and while it is killed.
    #[must_use]
    pub fn node(&self, name: &str) -> Option<&Node> {
        let member = self.users.iter().find(|member| member.name == name)?;
        Some(&member.running.as_ref()?.node)
    }

    /// Who a user is, whether their node runs or not; `None` for unknown names.
    #[must_use]
    pub fn person(&self, name: &str) -> Option<&Person> {
        self.users.iter().find(|member| member.name == name)?.person.as_ref()
    }

    /// Makes contacts of two users: one asks, the other accepts, and both know.
    ///
    /// # Errors
    /// [`TestnetError`]: one of them doesn't run, or the request doesn't arrive.
    pub async fn befriend(&self, one: &str, other: &str) -> Result<(), TestnetError> {
        let node = |name: &str| self.node(name).ok_or_else(|| TestnetError::setup(format!("{name}'s node does not run")));
        let (asker, asked) = (node(one)?, node(other)?);
        asker.contacts().add(&full_name(other), "").await.map_err(TestnetError::setup)?;
        wait_contact(asked, &full_name(one), &[ContactState::Requested, ContactState::Contact]).await?;
        asked.contacts().add(&full_name(one), "").await.map_err(TestnetError::setup)?;
        wait_contact(asker, &full_name(other), &[ContactState::Contact]).await
    }

    /// Names of all users, in the order they joined.
    pub fn users(&self) -> impl Iterator<Item = &str> {
        self.users.iter().map(|member| member.name.as_str())
    }

    /// Names of the users whose nodes run, in the order they joined.
    pub fn running(&self) -> impl Iterator<Item = &str> {
        self.users.iter().filter(|member| member.running.is_some()).map(|member| member.name.as_str())
    }

    /// Kills a node as `kill -9` would: it says no goodbye. Its keys and database stay for [`Network::restart`]. Returns false if it
    /// didn't run.
    ///
    /// # Errors
    /// [`TestnetError`]: no user has this name.
    pub async fn kill(&mut self, name: &str) -> Result<bool, TestnetError> {
        let member = self.member(name)?;
        let Some(Running { node, api }) = member.running.take() else { return Ok(false) };
        // A suspended node does nothing but take commands: told to end now, it ends without a word to its peers.
        let frozen = node.suspend(SuspendOptions::default()).await.is_ok();
        tracing::debug!(name, frozen, "killing a node");
        drop(api);
        let _gone = node.shutdown().await;
        Ok(true)
    }

    /// Starts a killed node again, with the keys and the database it had. Returns at once: see [`wait_ready`].
    ///
    /// # Errors
    /// [`TestnetError`]: no user has this name, or the node can't run.
    pub async fn restart(&mut self, name: &str) -> Result<Node, TestnetError> {
        let index = self.index(name)?;
        if let Some(running) = &self.users[index].running {
            return Ok(running.node.clone());
        }
        let running = self.start_member(&self.users[index]).await?;
        let node = running.node.clone();
        self.users[index].running = Some(running);
        Ok(node)
    }

    fn index(&self, name: &str) -> Result<usize, TestnetError> {
        let found = self.users.iter().position(|member| member.name == name);
        found.ok_or_else(|| TestnetError::setup(format!("the network has no user {name}")))
    }

    fn member(&mut self, name: &str) -> Result<&mut Member, TestnetError> {
        let index = self.index(name)?;
        Ok(&mut self.users[index])
    }

    /// Homes of the nodes, the infrastructure's first; empty without [`NetworkOptions::homes`].
    #[must_use]
    pub fn homes(&self) -> Vec<std::path::PathBuf> {
        let members = std::iter::once(&self.infrastructure).chain(&self.users);
        let homes = members.filter_map(|member| match &member.state {
            State::Home { home, .. } => Some(home.root().to_owned()),
            State::Memory { .. } => None,
        });
        homes.collect()
    }

    /// A private directory that lasts as long as the network.
    #[must_use]
    pub fn scratch(&self) -> &std::path::Path {
        self.scratch.path()
    }

    /// Ends all nodes with a goodbye, users first.
    pub async fn shutdown(mut self) {
        let users = self.users.iter_mut().filter_map(|member| member.running.take());
        futures::future::join_all(users.map(Running::end)).await;
        if let Some(running) = self.infrastructure.running.take() {
            running.end().await;
        }
    }
}

impl Running {
    async fn end(self) {
        if let Some(mut api) = self.api {
            api.stop.cancel();
            let _ended = (&mut api.task).await;
        }
        let _gone = self.node.shutdown().await;
    }
}

impl Member {
    async fn start(&self, settings: impl FnOnce(crate::NodeBuilder) -> crate::NodeBuilder) -> Result<Running, TestnetError> {
        let (identity, store) = self.state.open().await?;
        let listener = match &self.state {
            State::Home { home, .. } => Some(ApiListener::bind(home, None).await.map_err(TestnetError::setup)?),
            State::Memory { .. } => None,
        };
        let builder = Node::builder(identity)
            .store(store)
            .lab(true)
            .display_name(Some(self.name.clone()))
            .device(&format!("{}'s node", self.name), halloo_protocol::directory::DeviceKind::Desktop)
            .api_address(listener.as_ref().map(|listener| listener.address().to_string()));
        let node = settings(builder).spawn().await.map_err(TestnetError::setup)?;
        let api = listener.map(|listener| {
            let stop = CancellationToken::new();
            Api { task: tokio::spawn(listener.serve(node.clone(), stop.clone())), stop }
        });
        Ok(Running { node, api })
    }
}

impl State {
    fn new(name: &str, homes: Option<&Scratch>) -> Result<Self, TestnetError> {
        let Some(scratch) = homes else {
            let key = || generate_key().map_err(TestnetError::setup);
            let store = Store::in_memory().map_err(TestnetError::setup)?;
            return Ok(Self::Memory { store, identity_key: key()?, device_key: key()? });
        };
        let profile = ProfileConfig { display_name: Some(name.to_owned()), ..ProfileConfig::default() };
        let options = InitOptions { home: scratch.path().join(name), profile, ..InitOptions::default() };
        crate::daemon::init(&options).map_err(TestnetError::setup)?;
        let home = Home::open(&options.home).map_err(TestnetError::setup)?;
        let lock = home.lock().map_err(TestnetError::setup)?;
        Ok(Self::Home { home, _lock: lock })
    }

    async fn open(&self) -> Result<(LocalIdentity, Store), TestnetError> {
        let now = ClockSource::default().raw_unix();
        match self {
            Self::Memory { store, identity_key, device_key } => {
                let identity = LocalIdentity::in_memory(store, identity_key.clone(), device_key.clone(), now);
                Ok((identity.map_err(TestnetError::setup)?, store.clone()))
            }
            Self::Home { home, .. } => {
                let store = open_released(home).await?;
                let identity = LocalIdentity::load(home.root(), &store, now).map_err(TestnetError::setup)?;
                Ok((identity, store))
            }
        }
    }
}

/// Opens a database that a node killed just now may still be letting go.
async fn open_released(home: &Home) -> Result<Store, TestnetError> {
    let deadline = Instant::now() + RELEASE_LIMIT;
    loop {
        match Store::open(home.root()) {
            Err(StoreError::InUse { .. }) if Instant::now() < deadline => tokio::time::sleep(LOOK_AGAIN).await,
            opened => return opened.map_err(TestnetError::setup),
        }
    }
}

/// `name@test`.
#[must_use]
pub fn full_name(name: &str) -> String {
    format!("{name}@{AUTHORITY}")
}

/// Waits until somebody is one of these to a node's user.
async fn wait_contact(node: &Node, user: &str, states: &[ContactState]) -> Result<(), TestnetError> {
    let deadline = Instant::now() + NODE_LIMIT;
    loop {
        if node.contacts().get(user).await.is_ok_and(|contact| states.contains(&contact.state)) {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(TestnetError::setup(format!("{user} does not become {states:?}")));
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Waits until a node is ready: its record was read back through another.
///
/// # Errors
/// [`TestnetError::Setup`] if that takes too long or the node ends; it names `who`.
pub async fn wait_ready(node: &Node, who: &str) -> Result<(), TestnetError> {
    let ready = async {
        let mut events = node.subscribe();
        while !node.status().await.map_err(TestnetError::setup)?.ready {
            while !matches!(events.recv().await.map(|record| record.event), Some(Event::Ready(_)) | None) {}
        }
        Ok(())
    };
    let late = |_| Err(TestnetError::setup(format!("{who} is not ready after {} s", NODE_LIMIT.as_secs())));
    tokio::time::timeout(NODE_LIMIT, ready).await.unwrap_or_else(late)
}
