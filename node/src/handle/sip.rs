//! The SIP edge: accounts for ordinary phones.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use super::problem::{Fault, NodeError, ProblemKind};
use super::{Node, Reply};
use crate::timestamp::Timestamp;

/// The SIP edge; from [`Node::sip`].
#[derive(Clone, Copy, Debug)]
pub struct Sip<'a>(pub(super) &'a Node);

/// Whose account it is to be. With nothing said, this home's own user's.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SipAccountOptions {
    /// What `halloo device link` shows on a device of another user: the account becomes a device of theirs.
    pub link: Option<String>,
    /// A name to be enrolled, `name@authority`; needs `invite`, unless the authority is open. The account is the new user's first device.
    pub username: Option<String>,
    /// The authority's invite for it.
    pub invite: Option<String>,
}

impl fmt::Debug for SipAccountOptions {
    /// Leaves out what is secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SipAccountOptions").field("username", &self.username).finish_non_exhaustive()
    }
}

/// What a phone is set up with. The password is told this once.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SipCredentials {
    /// The account, `name@authority`.
    pub account: String,
    /// The phone's own address: `sip:name@authority`.
    pub uri: String,
    /// The user to log in as.
    pub username: String,
    /// The password.
    pub password: String,
    /// The outbound proxy: one of these.
    pub servers: Vec<String>,
    /// Of a user who was enrolled here: the 24 words by which the identity can be had back. Told this once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery_phrase: Option<String>,
}

impl fmt::Debug for SipCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SipCredentials").field("account", &self.account).finish_non_exhaustive()
    }
}

/// A phone that is registered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SipPhone {
    /// Its own address, as it says.
    pub contact: String,
    /// `udp`, `tcp` or `tls`.
    pub transport: String,
    /// Where it is seen.
    pub address: String,
    /// What it calls itself.
    pub user_agent: String,
    /// The phone, whatever its address: `urn:uuid:..`.
    pub instance: Option<String>,
    /// When its registration ends.
    pub expires_at: Timestamp,
    /// By which push service it can be woken, if by any.
    pub push: Option<String>,
}

/// An account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SipAccount {
    /// `name@authority`
    pub account: String,
    /// Peer id of the device that it is.
    pub peer_id: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// The phones that are registered.
    pub phones: Vec<SipPhone>,
}

/// All accounts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SipAccountList {
    /// Where phones connect: `udp:127.0.0.1:5060`.
    pub servers: Vec<String>,
    /// The accounts.
    pub accounts: Vec<SipAccount>,
    /// Sources that are banned at present, for guessing passwords.
    pub banned: usize,
}

/// An account is gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SipAccountRemoved {
    /// `name@authority`
    pub account: String,
    /// Peer id of the device that it was. Whoever has the identity key should revoke it.
    pub peer_id: String,
}

/// How a trunk stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum SipTrunkState {
    /// Registered at the provider: calls come.
    Registered,
    /// The provider is told nothing; it knows this machine's address.
    Ready,
    /// Not answered yet.
    Trying,
    /// Out of order; it is tried again.
    Failed,
}

/// What was used of a limit today, by UTC, and the limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SipTrunkUse {
    /// Whose: a user's (`name@authority`), a prefix's (`+49900`), or `all` users' together.
    pub of: String,
    /// Calls placed.
    pub calls: u32,
    /// How many may be; `null`: as many as they like.
    pub calls_max: Option<u32>,
    /// Minutes begun.
    pub minutes: u32,
    /// How many may be; `null`: as many as they like.
    pub minutes_max: Option<u32>,
}

/// A trunk to the telephone network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SipTrunk {
    /// Its name in the configuration.
    pub name: String,
    /// The provider's server.
    pub server: String,
    /// `udp`, `tcp` or `tls`.
    pub transport: String,
    /// How it stands.
    pub state: SipTrunkState,
    /// Why it is out of order, or why the last call couldn't be carried.
    pub reason: Option<String>,
    /// Which numbers it carries.
    pub patterns: Vec<String>,
    /// Whether emergency numbers go there.
    pub emergency: bool,
    /// What was used today: of all users, of each who may call, of each prefix with a limit.
    pub used: Vec<SipTrunkUse>,
    /// Numbers whose calls ring at a user.
    pub inbound: std::collections::BTreeMap<String, String>,
}

/// All trunks, in the order in which they are tried.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SipTrunkList {
    /// The account that is the gateway, `name@authority`.
    pub gateway: Option<String>,
    /// Whether that account is here: without it nothing goes out or comes in.
    pub has_gateway: bool,
    /// The trunks.
    pub trunks: Vec<SipTrunk>,
}

/// Why something at the SIP edge failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SipError {
    /// The node can't do it now.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// There is no edge.
    #[error("no SIP edge runs here; start it with `halloo run --sip IP:PORT`")]
    NotRunning,
    /// The options contradict each other, or can't be read.
    #[error("{reason}")]
    Invalid {
        /// What is wrong.
        reason: String,
    },
    /// One account for a user.
    #[error("{account} has an account here already")]
    Exists {
        /// Whose.
        account: String,
    },
    /// No such account.
    #[error("no SIP account {account:?}; halloo sip account list shows them")]
    Unknown {
        /// What was asked for.
        account: String,
    },
    /// More than an edge has.
    #[error("an edge has {max} accounts at most")]
    TooMany {
        /// How many.
        max: usize,
    },
    /// The account can't be made a device of its user.
    #[error("the account was not made a device of its user: {reason}")]
    Link {
        /// Why.
        reason: String,
    },
    /// Something can't be written or started.
    #[error("{reason}")]
    Failed {
        /// What.
        reason: String,
    },
}

impl Fault for SipError {
    fn kind(&self) -> ProblemKind {
        match self {
            Self::Node(error) => error.kind(),
            Self::NotRunning => ProblemKind::RoleMissing,
            Self::Invalid { .. } => ProblemKind::InvalidRequest,
            Self::Exists { .. } | Self::TooMany { .. } => ProblemKind::Conflict,
            Self::Unknown { .. } => ProblemKind::NotFound,
            Self::Link { .. } => ProblemKind::Refused,
            Self::Failed { .. } => ProblemKind::Internal,
        }
    }
}

/// What an edge can be asked.
#[derive(Debug)]
#[allow(missing_docs, reason = "each variant is documented at the handle method that sends it")]
pub enum SipCommand {
    /// [`Sip::add`]
    Add { options: SipAccountOptions, reply: Reply<SipCredentials, SipError> },
    /// [`Sip::list`]
    List(Reply<SipAccountList, SipError>),
    /// [`Sip::trunks`]
    Trunks(Reply<SipTrunkList, SipError>),
    /// [`Sip::remove`]
    Remove { account: String, reply: Reply<SipAccountRemoved, SipError> },
    /// [`Sip::new_password`]
    Password { account: String, reply: Reply<SipCredentials, SipError> },
}

impl Sip<'_> {
    async fn ask<T>(&self, command: impl FnOnce(Reply<T, SipError>) -> SipCommand) -> Result<T, SipError> {
        let edge: &mpsc::Sender<SipCommand> = self.0.sip.get().ok_or(SipError::NotRunning)?;
        let (sender, receiver) = oneshot::channel();
        edge.send(command(Reply(sender))).await.map_err(|_| SipError::NotRunning)?;
        receiver.await.map_err(|_| SipError::NotRunning)?
    }

    /// Makes an account, a device of its user, and the password for its phones.
    ///
    /// # Errors
    /// See [`SipError`].
    pub async fn add(&self, options: SipAccountOptions) -> Result<SipCredentials, SipError> {
        self.ask(|reply| SipCommand::Add { options, reply }).await
    }

    /// The accounts and their phones.
    ///
    /// # Errors
    /// [`SipError::NotRunning`]
    pub async fn list(&self) -> Result<SipAccountList, SipError> {
        self.ask(SipCommand::List).await
    }

    /// The trunks to the telephone network, and what was used of them today.
    ///
    /// # Errors
    /// [`SipError::NotRunning`]
    pub async fn trunks(&self) -> Result<SipTrunkList, SipError> {
        self.ask(SipCommand::Trunks).await
    }

    /// One account. `account` is `name@authority`, or `name` where that is clear.
    ///
    /// # Errors
    /// [`SipError::Unknown`]
    pub async fn show(&self, account: &str) -> Result<SipAccount, SipError> {
        let known = self.list().await?.accounts;
        let found = known.into_iter().find(|known| known.account == account || known.account.split('@').next() == Some(account));
        found.ok_or_else(|| SipError::Unknown { account: account.to_owned() })
    }

    /// Removes an account with its keys; its phones are deaf.
    ///
    /// # Errors
    /// [`SipError::Unknown`]
    pub async fn remove(&self, account: &str) -> Result<SipAccountRemoved, SipError> {
        let account = account.to_owned();
        self.ask(|reply| SipCommand::Remove { account, reply }).await
    }

    /// Gives an account another password; the old one is over at once, and its phones have to register with the new one.
    ///
    /// # Errors
    /// [`SipError::Unknown`]
    pub async fn new_password(&self, account: &str) -> Result<SipCredentials, SipError> {
        let account = account.to_owned();
        self.ask(|reply| SipCommand::Password { account, reply }).await
    }
}
