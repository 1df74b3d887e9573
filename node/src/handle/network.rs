//! What runs, whom we know, and what is wrong.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::calls::{CallPath, CallResult};
use super::problem::{Fault, NodeError, ProblemKind, UsernameError};
use super::{Command, Node};
use crate::timestamp::Timestamp;

/// What runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Status {
    /// This device's libp2p peer id.
    pub peer_id: String,
    /// `name@authority`, once enrolled.
    pub username: Option<String>,
    /// The user's identity key, `ed25519:` and base64url; `None` if it isn't on this device.
    pub identity: Option<String>,
    /// This device's name.
    pub device_name: Option<String>,
    /// The version of the software.
    pub version: String,
    /// When the node started.
    pub started_at: Timestamp,
    /// For how long it has been running.
    pub uptime_ms: u64,
    /// Whether its record was read back through another node.
    pub ready: bool,
    /// Whether it is suspended.
    pub suspended: bool,
    /// Roles in force: `directory`, `relay`, `gateway`, `mailbox`, `authority`.
    pub roles: Vec<String>,
    /// Multiaddresses it listens on.
    pub listen: Vec<String>,
    /// Multiaddresses others reach it at, as far as is known.
    pub external: Vec<String>,
    /// Relays that hold a reservation for it, peer ids.
    pub relays: Vec<String>,
    /// Media relays whose credentials are at hand for the next call, peer ids.
    pub media_relays: Vec<String>,
    /// Mailboxes that keep letters for this device and are named in its published entry, peer ids.
    pub mailboxes: Vec<String>,
    /// How this user's vault is kept.
    pub vault: VaultStatus,
    /// Letters it keeps for others, if it is a mailbox.
    pub letters_kept: u32,
    /// Vaults it keeps for users, if it is a mailbox.
    pub vaults_kept: u32,
    /// Whether it can be reached from outside.
    pub reachability: NodeReachability,
    /// Open connections.
    pub connections: u32,
    /// Its part in the directory.
    pub directory: DirectoryStatus,
    /// The estimated error of this machine's clock: positive when it runs ahead.
    pub clock_offset_ms: i64,
    /// Authorities it knows.
    pub authorities: Vec<KnownAuthority>,
    /// Messages not yet delivered.
    pub outbox: u64,
    /// When the user removed this device, if so: nobody believes it any more, and it publishes nothing.
    pub revoked_at: Option<Timestamp>,
    /// Whether it runs with `--lab`.
    pub lab: bool,
}

/// This user's vault: contacts, profile and settings, sealed, at mailboxes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct VaultStatus {
    /// Mailboxes at which this device keeps it.
    pub mailboxes: u32,
    /// How many of these have all that this device has.
    pub current: u32,
    /// Chunks it has.
    pub chunks: u32,
    /// Epoch of the key it is written under; 0 if this device has none.
    pub key_epoch: u32,
}

/// Who has used how much of this node's media relay.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RelayUsage {
    /// Whether it relays media at all.
    pub relays: bool,
    /// UDP addresses it serves at.
    pub addresses: Vec<String>,
    /// How busy it is, 0 to 8: eighths of what its owner grants a second.
    pub load: u32,
    /// Users since the node's start, the heaviest first.
    pub users: Vec<RelayUser>,
    /// Signalling: whom others reach through this node.
    pub signalling: SignallingUsage,
}

/// What a node relays of signalling.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SignallingUsage {
    /// Whether it relays signalling at all.
    pub relays: bool,
    /// Reservations now: devices that are reached through this node.
    pub reservations: u32,
    /// Circuits now.
    pub circuits: u32,
    /// Circuits made since the node's start.
    pub circuits_made: u64,
    /// Circuits refused, for a limit of the user, the address or the node.
    pub circuits_refused: u64,
    /// Reservations refused alike.
    pub reservations_refused: u64,
    /// Invites handed over to devices, without a circuit.
    pub invites_handed_over: u64,
    /// Invites that weren't: no reservation, no leave, too many, or the device was silent.
    pub invites_refused: u64,
}

/// What one user has had relayed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RelayUser {
    /// Who; `None` if it is no longer remembered.
    pub user: Option<String>,
    /// When it gets tight: `first`, `normal` or `last`.
    pub class: String,
    /// Bytes relayed.
    pub bytes: u64,
    /// Packets relayed.
    pub packets: u64,
    /// Packets dropped because a quota was used up: the user's own, the client address's, or the relay's.
    #[serde(default)]
    pub dropped: u64,
    /// Allocations now.
    pub allocations: u32,
}

/// The media relays that this node has at hand for its own calls.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MediaRelays {
    /// The nearest first.
    pub relays: Vec<MediaRelayAccess>,
}

/// A media relay and what opens it, in the form that WebRTC takes (`RTCIceServer`): for whoever has media of their own.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MediaRelayAccess {
    /// The relay's node.
    pub peer_id: String,
    /// `turn:IP:PORT?transport=udp`, the preferred one first.
    pub urls: Vec<String>,
    /// TURN user name; names nobody.
    pub username: String,
    /// TURN password.
    pub credential: String,
    /// Until when new allocations may be made with it; those there are go on.
    pub not_after: Timestamp,
}

impl std::fmt::Debug for MediaRelayAccess {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { peer_id, urls, .. } = self;
        f.debug_struct("MediaRelayAccess").field("peer_id", peer_id).field("urls", urls).finish_non_exhaustive()
    }
}

/// A node's part in the directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DirectoryStatus {
    /// Whether it serves records to others.
    pub server: bool,
    /// Descriptors in the routing table.
    pub table: u32,
    /// Records stored for others.
    pub records: u64,
    /// Replicas that acknowledged this user's own record last time.
    pub replicas: u32,
}

/// An authority this node knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KnownAuthority {
    /// This node's label for it.
    pub name: String,
    /// Its root key, `ed25519:` and base64url.
    pub key: String,
    /// The newest revocation list held; 0 if none.
    pub revocation_number: u64,
}

/// Whether a node can be reached from outside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum NodeReachability {
    /// Not known yet.
    #[default]
    Unknown,
    /// Peers dialled back and got through.
    Public,
    /// Only through relays.
    Relayed,
    /// Not at all: no relay holds a reservation.
    Private,
}

/// Whom we know.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PeerList {
    /// The peers, connected ones first.
    pub peers: Vec<PeerEntry>,
}

/// One peer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PeerEntry {
    /// Its libp2p peer id.
    pub peer_id: String,
    /// Its user, if it showed a certificate.
    pub username: Option<String>,
    /// Multiaddresses known for it; the one in use first.
    pub addresses: Vec<String>,
    /// Whether a connection is open.
    pub connected: bool,
    /// Whether that connection goes through a relay.
    pub relayed: bool,
    /// Round-trip time, if measured.
    pub rtt_ms: Option<u64>,
    /// Roles it announces.
    pub roles: Vec<String>,
    /// Its software, as it says.
    pub agent: Option<String>,
}

/// What is wrong with my connectivity.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Diagnosis {
    /// Whether nothing failed; warnings don't count.
    pub ok: bool,
    /// One check after another, in the order of their dependence.
    pub checks: Vec<Check>,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Check {
    /// What was looked at, as a stable word: `clock`, `listen`, `peers`, `record`, ..
    pub name: String,
    /// What was found.
    pub result: CheckResult,
    /// What was found, in words.
    pub detail: String,
    /// What to do about it, if something is to be done.
    pub advice: Option<String>,
}

/// What a check found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum CheckResult {
    /// All is well.
    Ok,
    /// It works, less well than it could.
    Warning,
    /// It doesn't work.
    Failed,
    /// It could not be looked at, because something before it failed.
    Skipped,
}

/// Why a user can or can't be reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Explanation {
    /// Whom it is about, `name@authority`.
    pub username: String,
    /// Whether at least one device can be reached now, by waking it if need be.
    pub reachable: bool,
    /// The answer in one sentence.
    pub summary: String,
    /// What was tried, stage by stage.
    pub checks: Vec<Check>,
    /// What a call would do now, in order, in words.
    #[serde(default)]
    pub next_call: Vec<String>,
    /// The last calls with them, newest first; at most five.
    #[serde(default)]
    pub calls: Vec<PastCall>,
}

/// A call that is over, and what decided how it went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PastCall {
    /// The call's id.
    pub call_id: String,
    /// When it began.
    pub started_at: Timestamp,
    /// Whether they called us.
    pub incoming: bool,
    /// How it ended.
    pub outcome: Option<CallResult>,
    /// How its media went.
    pub path: Option<CallPath>,
    /// What decided it: why it was relayed, why it failed, why nothing rang. In words.
    pub decisive: String,
}

/// Why the node's state can't be told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NetworkError {
    /// The node can't do it now.
    #[error(transparent)]
    Node(#[from] NodeError),
}

impl Fault for NetworkError {
    fn kind(&self) -> ProblemKind {
        match self {
            Self::Node(error) => error.kind(),
        }
    }
}

/// Why [`Node::why`] has no explanation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WhyError {
    /// The username can't be understood.
    #[error(transparent)]
    Username(#[from] UsernameError),
    /// The node can't do it now.
    #[error(transparent)]
    Node(#[from] NodeError),
}

impl Fault for WhyError {
    fn kind(&self) -> ProblemKind {
        match self {
            Self::Username(error) => error.kind(),
            Self::Node(error) => error.kind(),
        }
    }
}

impl Node {
    /// What runs.
    ///
    /// # Errors
    /// See [`NetworkError`].
    pub async fn status(&self) -> Result<Status, NetworkError> {
        self.ask(Command::Status).await
    }

    /// Whom we know.
    ///
    /// # Errors
    /// See [`NetworkError`].
    pub async fn peers(&self) -> Result<PeerList, NetworkError> {
        self.ask(Command::Peers).await
    }

    /// Who has used how much of this node's media relay.
    ///
    /// # Errors
    /// [`NetworkError`] if the node doesn't run.
    pub async fn relay_usage(&self) -> Result<RelayUsage, NetworkError> {
        self.ask(Command::RelayUsage).await
    }

    /// The media relays this node has at hand, with credentials.
    ///
    /// # Errors
    /// [`NetworkError::Node`] if the node has stopped or is suspended.
    pub async fn media_relays(&self) -> Result<MediaRelays, NetworkError> {
        self.ask(Command::MediaRelays).await
    }

    /// What is wrong with this node's connectivity.
    ///
    /// # Errors
    /// See [`NetworkError`].
    pub async fn doctor(&self) -> Result<Diagnosis, NetworkError> {
        self.ask(Command::Doctor).await
    }

    /// Why a user can't be reached.
    ///
    /// # Errors
    /// See [`WhyError`].
    pub async fn why(&self, user: &str) -> Result<Explanation, WhyError> {
        let user = user.to_owned();
        self.ask(|reply| Command::Why { user, reply }).await
    }
}
