//! Groups: founding, members, answers. Their texts are messages: [`Messages`](super::messages::Messages) takes `group:` and an id for a recipient.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::directory::ResolveError;
use super::messages::MessageError;
use super::problem::{Fault, NodeError, ProblemKind, UsernameError};
use super::{Command, Node, Reply};

/// Groups; from [`Node::groups`].
#[derive(Clone, Copy, Debug)]
pub struct Groups<'a>(pub(super) &'a Node);

/// What a group is to this user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum GroupState {
    /// Takes part.
    Member,
    /// Was added by somebody who has to ask; waits for accept or decline.
    Waiting,
    /// Doesn't want to.
    Declined,
    /// Is no member any more.
    Left,
}

/// All groups that this user has heard of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GroupList {
    /// The groups, by name.
    pub groups: Vec<GroupEntry>,
}

/// One group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GroupEntry {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// What it is to this user.
    pub state: GroupState,
    /// Whether this user is an admin of it.
    pub admin: bool,
    /// Who has added this user, `name@authority`.
    pub invited_by: Option<String>,
    /// Its members, this user included.
    pub members: Vec<GroupMember>,
    /// How many of its messages haven't been read.
    pub unread: u64,
}

/// A member of a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GroupMember {
    /// `name@authority`.
    pub username: String,
    /// The identity key, `ed25519:` and base64url.
    pub identity: String,
    /// Whether they are an admin.
    pub admin: bool,
    /// An admin's rank: 0 for the founder. Nobody removes an admin of the same rank or above.
    pub rank: Option<u8>,
}

/// What is done with a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "do", rename_all = "lowercase", deny_unknown_fields)]
pub enum GroupChange {
    /// Adds a member, or makes an admin of one.
    Add {
        /// Whom, `name@authority`.
        user: String,
        /// Whether as an admin.
        #[serde(default)]
        admin: bool,
    },
    /// Removes a member: they are told, and get nothing that is sent afterwards.
    Remove {
        /// Whom, `name@authority`.
        user: String,
    },
    /// Leaves.
    Leave {},
    /// Gives it another name.
    Rename {
        /// At most 128 bytes.
        name: String,
    },
    /// Takes part, after having been added by somebody who has to ask.
    Accept {},
    /// Doesn't.
    Decline {},
}

/// Why an operation on a group failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GroupError {
    /// The username can't be understood.
    #[error(transparent)]
    Username(#[from] UsernameError),
    /// The node can't do it now.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// The user was not found.
    #[error(transparent)]
    Resolve(ResolveError),
    /// There is no such group, or it is unclear which is meant.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// This user may not.
    #[error("{reason}")]
    NotAllowed {
        /// Why.
        reason: String,
    },
    /// Whoever it is about is no member.
    #[error("{reason}")]
    NotMember {
        /// Why.
        reason: String,
    },
    /// It doesn't go with what the group is.
    #[error("{reason}")]
    State {
        /// Why.
        reason: String,
    },
    /// A field is out of range.
    #[error("{reason}")]
    Invalid {
        /// Which, and why.
        reason: String,
    },
}

impl From<ResolveError> for GroupError {
    fn from(error: ResolveError) -> Self {
        match error {
            ResolveError::Username(error) => Self::Username(error),
            ResolveError::Node(error) => Self::Node(error),
            other => Self::Resolve(other),
        }
    }
}

impl Fault for GroupError {
    fn kind(&self) -> ProblemKind {
        match self {
            Self::Username(error) => error.kind(),
            Self::Node(error) => error.kind(),
            Self::Resolve(error) => error.kind(),
            Self::Message(error) => error.kind(),
            Self::NotAllowed { .. } | Self::State { .. } => ProblemKind::Conflict,
            Self::NotMember { .. } => ProblemKind::NotFound,
            Self::Invalid { .. } => ProblemKind::InvalidRequest,
        }
    }
}

/// What the event loop can be asked about groups.
#[derive(Debug)]
#[allow(missing_docs, reason = "each variant is documented at the handle method that sends it")]
pub enum GroupCommand {
    /// [`Groups::create`]
    Create { name: String, reply: Reply<GroupEntry, GroupError> },
    /// [`Groups::change`]
    Change { group: String, change: GroupChange, reply: Reply<GroupEntry, GroupError> },
    /// [`Groups::list`]
    List(Reply<GroupList, GroupError>),
    /// [`Groups::get`]
    Get { group: String, reply: Reply<GroupEntry, GroupError> },
}

impl GroupCommand {
    /// Refuses it, whatever it is.
    pub(crate) fn refuse(self, error: NodeError) {
        let error = GroupError::Node(error);
        match self {
            Self::Create { reply, .. } | Self::Change { reply, .. } | Self::Get { reply, .. } => reply.send(Err(error)),
            Self::List(reply) => reply.send(Err(error)),
        }
    }
}

impl Groups<'_> {
    /// Founds a group, with this user as its only member and admin.
    ///
    /// # Errors
    /// See [`GroupError`].
    pub async fn create(&self, name: &str) -> Result<GroupEntry, GroupError> {
        let name = name.to_owned();
        self.0.ask(|reply| Command::Groups(GroupCommand::Create { name, reply })).await
    }

    /// Does something with a group, named by its id, the start of it, or its name.
    ///
    /// # Errors
    /// See [`GroupError`].
    pub async fn change(&self, group: &str, change: GroupChange) -> Result<GroupEntry, GroupError> {
        let group = group.to_owned();
        self.0.ask(|reply| Command::Groups(GroupCommand::Change { group, change, reply })).await
    }

    /// All groups, with their members.
    ///
    /// # Errors
    /// See [`GroupError`].
    pub async fn list(&self) -> Result<GroupList, GroupError> {
        self.0.ask(|reply| Command::Groups(GroupCommand::List(reply))).await
    }

    /// One group.
    ///
    /// # Errors
    /// See [`GroupError`].
    pub async fn get(&self, group: &str) -> Result<GroupEntry, GroupError> {
        let group = group.to_owned();
        self.0.ask(|reply| Command::Groups(GroupCommand::Get { group, reply })).await
    }
}
