//! What contacts see of each other.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::problem::{Fault, NodeError, ProblemKind, UsernameError};
use super::{Command, Node, Reply};

/// Presence; from [`Node::presence`].
#[derive(Clone, Copy, Debug)]
pub struct Presence<'a>(pub(super) &'a Node);

/// What a user chose to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum PresenceState {
    /// Not there, or wishes to look so.
    Offline,
    /// There.
    Online,
    /// There, and not at the device.
    Away,
    /// There, and doesn't wish to be disturbed.
    Dnd,
}

/// How a user can be reached, by the best of their devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PresenceReachability {
    /// Connections can be made to a device.
    Direct,
    /// Through a relay.
    Relayed,
    /// Asleep; a gateway can wake a device.
    Push,
    /// Not at all.
    None,
}

/// Where a contact's presence is known from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum PresenceSource {
    /// The device itself.
    Direct,
    /// A contact who passed it on.
    Contact,
    /// A carrier that passed it on.
    Carrier,
    /// Neighbours of the device, who say that it fell silent; or this node, towards which it did, and which it doesn't answer.
    Hint,
    /// The device's gateway, which vouches that it can be woken.
    Lease,
    /// Nobody has told anything yet.
    Nobody,
}

/// A contact's presence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PresenceView {
    /// `name@authority`.
    pub username: String,
    /// What they chose to be; `offline` if none of their devices can be reached in any way.
    pub state: PresenceState,
    /// Their own words.
    pub mood: String,
    /// How they can be reached.
    pub reachability: PresenceReachability,
    /// How long ago their device said so; 0 if it never did.
    pub age_ms: u64,
    /// By whom we know.
    pub source: PresenceSource,
}

/// The presence of every contact.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PresenceList {
    /// By username.
    pub contacts: Vec<PresenceView>,
}

/// What this user chose to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OwnPresence {
    /// The state.
    pub state: PresenceState,
    /// The own words.
    pub mood: String,
    /// Whether the privacy settings hide it from everybody.
    pub is_hidden: bool,
}

/// A change of the own presence; what is absent stays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PresenceChange {
    /// The state.
    pub state: Option<PresenceState>,
    /// The own words, at most 280 bytes; empty for none.
    pub mood: Option<String>,
}

/// Why presence can't be shown or set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PresenceError {
    /// The node can't do it now.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// The username isn't one.
    #[error(transparent)]
    Username(#[from] UsernameError),
    /// Presence is for contacts.
    #[error("{username} isn't a contact: only contacts see each other's presence (halloo contact add {username})")]
    NotAContact {
        /// Whose.
        username: String,
    },
    /// The mood is too long.
    #[error("a mood of {bytes} bytes, at most {max} are allowed")]
    MoodTooLong {
        /// Its length.
        bytes: usize,
        /// The limit.
        max: usize,
    },
}

impl Fault for PresenceError {
    fn kind(&self) -> ProblemKind {
        match self {
            Self::Node(error) => error.kind(),
            Self::Username(error) => error.kind(),
            Self::NotAContact { .. } => ProblemKind::NotFound,
            Self::MoodTooLong { .. } => ProblemKind::InvalidRequest,
        }
    }
}

/// What the event loop can be asked about presence.
#[allow(missing_docs, reason = "each variant is documented at the handle method that sends it")]
pub enum PresenceCommand {
    /// [`Presence::own`]
    Own(Reply<OwnPresence, PresenceError>),
    /// [`Presence::set`]
    Set { change: PresenceChange, reply: Reply<OwnPresence, PresenceError> },
    /// [`Presence::get`]
    Get { user: String, reply: Reply<PresenceView, PresenceError> },
    /// [`Presence::list`]
    List(Reply<PresenceList, PresenceError>),
    /// [`Presence::set_asleep`]
    Asleep { is_asleep: bool, reply: Reply<(), PresenceError> },
}

impl fmt::Debug for PresenceCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Own(_) => "Own",
            Self::Set { .. } => "Set",
            Self::Get { .. } => "Get",
            Self::List(_) => "List",
            Self::Asleep { .. } => "Asleep",
        })
    }
}

impl Presence<'_> {
    /// What this user chose to be.
    ///
    /// # Errors
    /// See [`PresenceError`].
    pub async fn own(&self) -> Result<OwnPresence, PresenceError> {
        self.0.ask(|reply| Command::Presence(PresenceCommand::Own(reply))).await
    }

    /// Chooses what to be. Contacts see it; it stays chosen over restarts.
    ///
    /// # Errors
    /// See [`PresenceError`].
    pub async fn set(&self, change: PresenceChange) -> Result<OwnPresence, PresenceError> {
        self.0.ask(|reply| Command::Presence(PresenceCommand::Set { change, reply })).await
    }

    /// Whether what this device speaks for sleeps, so that contacts see it as reached by a push. For as long as the node runs.
    ///
    /// # Errors
    /// See [`PresenceError`].
    pub(crate) async fn set_asleep(&self, is_asleep: bool) -> Result<(), PresenceError> {
        self.0.ask(|reply| Command::Presence(PresenceCommand::Asleep { is_asleep, reply })).await
    }

    /// A contact's presence, as it is known here; asks nobody.
    ///
    /// # Errors
    /// See [`PresenceError`].
    pub async fn get(&self, user: impl Into<String>) -> Result<PresenceView, PresenceError> {
        let user = user.into();
        self.0.ask(|reply| Command::Presence(PresenceCommand::Get { user, reply })).await
    }

    /// The presence of every contact, as it is known here.
    ///
    /// # Errors
    /// See [`PresenceError`].
    pub async fn list(&self) -> Result<PresenceList, PresenceError> {
        self.0.ask(|reply| Command::Presence(PresenceCommand::List(reply))).await
    }
}
