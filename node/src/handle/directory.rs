//! Looking users up.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::problem::{Fault, NodeError, ProblemKind, UsernameError};
use super::{Command, Node};

/// Look-ups of users; from [`Node::directory`].
#[derive(Clone, Copy, Debug)]
pub struct Directory<'a>(pub(super) &'a Node);

/// How far a look-up goes. The default takes the first valid answer, from the cache if it is fresh.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ResolveOptions {
    /// Ask the network even if the cache has an answer.
    pub fresh: bool,
    /// Ask all replicas and take the newest of what they hold.
    pub settled: bool,
}

/// A user, found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Resolved {
    /// `name@authority`, normalised, with this node's label of the authority.
    pub username: String,
    /// The user's identity key, `ed25519:` and base64url.
    pub identity: String,
    /// The user's devices, as far as this caller may see them.
    pub devices: Vec<ResolvedDevice>,
    /// Where the answer comes from.
    pub source: ResolveSource,
    /// Whether all replicas that answer were asked.
    pub settled: bool,
    /// How old the record is here: 0 when it came from the network just now.
    pub age_ms: u64,
    /// Requests this look-up sent.
    pub requests: u32,
    /// How long it took.
    pub elapsed_ms: u64,
}

/// One device of a user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ResolvedDevice {
    /// The device's libp2p peer id.
    pub peer_id: String,
    /// Its name, if the caller may see it.
    pub name: Option<String>,
    /// Its kind (`phone`, `laptop`, ..), if the caller may see it.
    pub kind: Option<String>,
    /// Its multiaddresses, as far as the caller may see them; circuit addresses of its relays else.
    pub addresses: Vec<String>,
    /// How it can be reached.
    pub reachability: DeviceReachability,
}

/// How a device can be reached, according to its lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum DeviceReachability {
    /// It is running and takes connections.
    Direct,
    /// It is running and is reached through its relays.
    Relayed,
    /// It sleeps; a gateway can wake it.
    Push,
    /// Its lease has run out and nobody can wake it.
    None,
}

/// Where an answer comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum ResolveSource {
    /// This node's own cache.
    Cache,
    /// The directory, asked just now.
    Directory,
}

/// Why a user was not found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ResolveError {
    /// The username can't be understood.
    #[error(transparent)]
    Username(#[from] UsernameError),
    /// The node can't do it now.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// Enough replicas over disjoint paths say there is no such record.
    #[error("no user {username} in the directory (nodes responsible for the name: {replicas})")]
    NotFound {
        /// Who was looked for.
        username: String,
        /// How many living nodes would hold the record; most of them said so.
        replicas: u32,
    },
    /// The user's certificate was revoked.
    #[error("{username} was revoked by their authority")]
    Revoked {
        /// Who was looked for.
        username: String,
    },
    /// A record was found and doesn't verify.
    #[error("the record found for {username} does not verify: {reason}")]
    Untrusted {
        /// Who was looked for.
        username: String,
        /// The check that failed.
        reason: String,
    },
    /// No directory server is known or reachable.
    #[error("no directory server is reachable")]
    NoServers,
    /// Too few replicas answered in time to say anything.
    #[error("the look-up of {username} got no answer within {} ms", limit.as_millis())]
    TimedOut {
        /// Who was looked for.
        username: String,
        /// How long it was tried.
        limit: Duration,
    },
}

impl Fault for ResolveError {
    fn kind(&self) -> ProblemKind {
        match self {
            Self::Username(error) => error.kind(),
            Self::Node(error) => error.kind(),
            Self::NotFound { .. } => ProblemKind::UserNotFound,
            Self::Revoked { .. } | Self::Untrusted { .. } => ProblemKind::Untrusted,
            Self::NoServers => ProblemKind::Unreachable,
            Self::TimedOut { .. } => ProblemKind::TimedOut,
        }
    }
}

impl Directory<'_> {
    /// Finds a user's identity and devices.
    ///
    /// # Errors
    /// See [`ResolveError`].
    pub async fn resolve(&self, user: &str, options: ResolveOptions) -> Result<Resolved, ResolveError> {
        let user = user.to_owned();
        self.0.ask(|reply| Command::Resolve { user, options, reply }).await
    }
}
