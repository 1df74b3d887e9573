//! Getting a username, and giving them out.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::problem::{Fault, NodeError, ProblemKind, UsernameError};
use super::{Command, Node};
use crate::timestamp::Timestamp;

/// The authority role; from [`Node::authority`].
#[derive(Clone, Copy, Debug)]
pub struct Authority<'a>(pub(super) &'a Node);

/// Which username to ask for.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EnrolOptions {
    /// `name@authority`; the label is what this home will call the authority.
    pub username: String,
    /// The invite code: root key, addresses, bootstrap nodes, secret.
    #[serde(default)]
    pub invite: Option<String>,
}

impl fmt::Debug for EnrolOptions {
    /// Leaves out the invite code, which is a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EnrolOptions").field("username", &self.username).finish_non_exhaustive()
    }
}

/// This home has a username.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Enrolled {
    /// `name@authority`, normalised.
    pub username: String,
    /// The user's identity key, `ed25519:` and base64url.
    pub identity: String,
    /// The authority's root key, `ed25519:` and base64url.
    pub authority_key: String,
    /// The certificate's serial number.
    pub serial: u64,
    /// Until when the certificate is valid; it is renewed before.
    pub not_after: Timestamp,
}

/// Why enrolling failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EnrolError {
    /// The username can't be understood.
    #[error(transparent)]
    Username(#[from] UsernameError),
    /// The node can't do it now.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// The invite code can't be understood.
    #[error("invalid invite code: {reason}")]
    InvalidInvite {
        /// What is wrong with it.
        reason: String,
    },
    /// This home already has another name.
    #[error("this home is already enrolled as {username}")]
    AlreadyEnrolled {
        /// Its name.
        username: String,
    },
    /// The name belongs, or once belonged, to another key.
    #[error("{username} belongs to another key")]
    NameTaken {
        /// The name.
        username: String,
    },
    /// The authority refused: wrong or spent code, not open, rate limit.
    #[error("the authority refused: {reason}")]
    Refused {
        /// What it said.
        reason: String,
    },
    /// The authority is at it.
    #[error("the authority isn't done yet: {reason}")]
    Busy {
        /// What it said.
        reason: String,
    },
    /// The authority can't be reached.
    #[error("the authority is not reachable: {reason}")]
    Unreachable {
        /// What was tried.
        reason: String,
    },
    /// What the authority answered doesn't verify.
    #[error("the authority's certificate does not verify: {reason}")]
    Untrusted {
        /// The check that failed.
        reason: String,
    },
}

impl Fault for EnrolError {
    fn kind(&self) -> ProblemKind {
        match self {
            Self::Username(error) => error.kind(),
            Self::Node(error) => error.kind(),
            Self::InvalidInvite { .. } => ProblemKind::InvalidRequest,
            Self::AlreadyEnrolled { .. } => ProblemKind::Conflict,
            Self::NameTaken { .. } => ProblemKind::NameTaken,
            Self::Refused { .. } | Self::Busy { .. } => ProblemKind::Refused,
            Self::Unreachable { .. } => ProblemKind::Unreachable,
            Self::Untrusted { .. } => ProblemKind::Untrusted,
        }
    }
}

/// What an authority is and has done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AuthorityStatus {
    /// The label it calls itself.
    pub name: String,
    /// The root key, `ed25519:` and base64url: what others give to `--authority NAME=KEY`.
    pub key: String,
    /// Who may enrol.
    pub enrolment: EnrolmentPolicy,
    /// Users with a valid certificate.
    pub users: u64,
    /// The number of the newest revocation list; 0 before the first.
    pub revocation_number: u64,
    /// Invites that can still be used.
    pub open_invites: u64,
}

/// Who may enrol at an authority.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum EnrolmentPolicy {
    /// Who has an invite code.
    Invite,
    /// Everybody.
    Open,
}

/// For whom an invite is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct InviteOptions {
    /// The only name it can be used for; `None`: any.
    pub name: Option<String>,
    /// For how long it can be used; `None`: a week.
    pub valid_secs: Option<u64>,
}

/// A fresh invite code.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AuthorityInvite {
    /// The code: give it to one person, over a safe way.
    pub code: String,
    /// The only name it can be used for.
    pub name: Option<String>,
    /// Until when it can be used.
    pub expires_at: Timestamp,
}

impl fmt::Debug for AuthorityInvite {
    /// Leaves out the code, which is a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthorityInvite").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A user was revoked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AuthorityRevocation {
    /// Who, `name@authority`.
    pub username: String,
    /// The certificate's serial number.
    pub serial: u64,
    /// The revocation list that says so.
    pub revocation_number: u64,
}

/// Whether an identity in another system is a user's, by the operator's word.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AuthorityCertified {
    /// Who, `name@authority`.
    pub username: String,
    /// The identity: `xmpp:alice@example.org`.
    pub id: String,
    /// Whether it is theirs. Their certificate hints at it once they ask for that.
    pub is_certified: bool,
}

/// What an authority has done, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AuthorityLog {
    /// The entries.
    pub entries: Vec<AuthorityLogEntry>,
}

/// One act of an authority.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AuthorityLogEntry {
    /// Its number, from 1, without gaps.
    pub number: u64,
    /// When.
    pub at: Timestamp,
    /// What.
    pub action: AuthorityAction,
    /// Whom it concerns, `name@authority`.
    pub username: Option<String>,
    /// The identity key concerned, `ed25519:` and base64url.
    pub identity: Option<String>,
    /// The certificate's serial number.
    pub serial: Option<u64>,
}

/// What an authority did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum AuthorityAction {
    /// Was founded.
    Created,
    /// Its root key certified a signing key.
    SigningCertified,
    /// Made an invite.
    Invited,
    /// Gave a name to a key for the first time.
    Enrolled,
    /// Gave a newer certificate to the same key.
    Renewed,
    /// Gave a name to the key that its former key named as successor.
    Succeeded,
    /// Took a name back at its owner's wish; nobody else gets it.
    Freed,
    /// Revoked a user.
    Revoked,
    /// Was told that an identity in another system is a user's.
    Certified,
    /// Was told that it isn't any more.
    Uncertified,
}

/// Why an operation of the authority failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AuthorityError {
    /// The username can't be understood.
    #[error(transparent)]
    Username(#[from] UsernameError),
    /// The node can't do it now.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// This node isn't an authority.
    #[error("this node is not an authority; run it with --role authority")]
    NotAnAuthority,
    /// It never gave out this name.
    #[error("this authority has no user {username}")]
    UnknownUser {
        /// The name.
        username: String,
    },
    /// An option can't be used.
    #[error("invalid {field}: {reason}")]
    InvalidOption {
        /// Which.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
}

impl Fault for AuthorityError {
    fn kind(&self) -> ProblemKind {
        match self {
            Self::Username(error) => error.kind(),
            Self::Node(error) => error.kind(),
            Self::NotAnAuthority => ProblemKind::RoleMissing,
            Self::UnknownUser { .. } => ProblemKind::UserNotFound,
            Self::InvalidOption { .. } => ProblemKind::InvalidRequest,
        }
    }
}

impl Node {
    /// Gets a username for this home's identity and publishes it.
    ///
    /// # Errors
    /// See [`EnrolError`].
    pub async fn enrol(&self, options: EnrolOptions) -> Result<Enrolled, EnrolError> {
        self.ask(|reply| Command::Enrol { options, reply }).await
    }
}

impl Authority<'_> {
    /// What this authority is and how much it has done.
    ///
    /// # Errors
    /// See [`AuthorityError`].
    pub async fn show(&self) -> Result<AuthorityStatus, AuthorityError> {
        self.0.ask(Command::AuthorityShow).await
    }

    /// Makes an invite code for one person.
    ///
    /// # Errors
    /// See [`AuthorityError`].
    pub async fn invite(&self, options: InviteOptions) -> Result<AuthorityInvite, AuthorityError> {
        self.0.ask(|reply| Command::AuthorityInvite { options, reply }).await
    }

    /// Revokes a user's certificate and spreads the new revocation list.
    ///
    /// # Errors
    /// See [`AuthorityError`].
    pub async fn revoke(&self, user: &str) -> Result<AuthorityRevocation, AuthorityError> {
        let user = user.to_owned();
        self.0.ask(|reply| Command::AuthorityRevoke { user, reply }).await
    }

    /// Says that an identity in another system (`xmpp:alice@example.org`) is a user's, or isn't any more. Their certificate hints at it once they have asked for that.
    ///
    /// # Errors
    /// See [`AuthorityError`].
    pub async fn certify(&self, user: &str, id: &str, is_certified: bool) -> Result<AuthorityCertified, AuthorityError> {
        let (user, id) = (user.to_owned(), id.to_owned());
        self.0.ask(|reply| Command::AuthorityCertify { user, id, is_certified, reply }).await
    }

    /// What this authority has done.
    ///
    /// # Errors
    /// See [`AuthorityError`].
    pub async fn log(&self) -> Result<AuthorityLog, AuthorityError> {
        self.0.ask(Command::AuthorityLog).await
    }
}
