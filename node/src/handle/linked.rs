//! Accounts in other systems that are linked: whoever is a contact there can call here.

mod book;

use std::fmt;
use std::path::PathBuf;

use halloo_protocol::call::CallId;
use halloo_protocol::identity::UserId;
use halloo_protocol::key::IdentityKey;
use halloo_protocol::linked::{LinkedId, LinkedIdError, LinkedPart, System, TokenPart};
use halloo_protocol::wire::Extensions;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::book::{BookCommand, LinkBook, LinkBookOptions, LinkBookServer};
use super::problem::{Fault, NodeError, ProblemKind};
use super::{Command, Node, Reply};
use crate::timestamp::Timestamp;

/// Linked accounts; from [`Node::links`].
#[derive(Clone, Copy, Debug)]
pub struct Links<'a>(pub(super) &'a Node);

/// An account to link. The password is kept on this device, sealed, for the node stays logged in.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LinkOptions {
    /// Which system: `xmpp`, or `sip`, whose password is needed until a code has come and isn't kept.
    pub system: String,
    /// The address there: `alice@example.org`.
    pub address: String,
    /// The password.
    pub password: String,
    /// Where its server is, `HOST:PORT`. Without: the domain of the address, port 5222, or 5061 of SIP.
    #[serde(default)]
    pub server: Option<String>,
    /// A file on the node's machine with certificates that are trusted beside the usual ones; an absolute path.
    #[serde(default)]
    pub roots: Option<PathBuf>,
    /// Without TLS; for a server on the node's own machine alone.
    #[serde(default)]
    pub plain: bool,
    /// Whether who knows the address finds this user by it, in the directory. Without: only where the system has no place that its contacts could look at.
    #[serde(default)]
    pub listed: Option<bool>,
    /// Contacts there aren't shown who this user is here. Whoever is called learns it, by a token of the server for that call alone; this user can't be called by it.
    #[serde(default)]
    pub tokens: bool,
}

impl fmt::Debug for LinkOptions {
    /// Leaves out what is secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LinkOptions").field("system", &self.system).field("address", &self.address).finish_non_exhaustive()
    }
}

impl LinkOptions {
    pub(crate) fn id(&self) -> Result<LinkedId, LinkedIdError> {
        LinkedId::new(System::parse(&self.system).ok_or(LinkedIdError::System)?, &self.address)
    }
}

/// A login to an OpenID Connect provider, to link the account there. The provider's configuration ([`LinkedConfig`](crate::config::LinkedConfig)) gives what is left out.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LinkLoginOptions {
    /// The provider: `https://id.example.org`.
    pub issuer: String,
    /// The application that the node is there.
    #[serde(default)]
    pub client_id: Option<String>,
    /// Its secret, where the provider has given one.
    #[serde(default)]
    pub client_secret: Option<String>,
    /// Log in on another machine, by a code that is typed there, instead of in a browser on the node's own.
    #[serde(default)]
    pub device: bool,
    /// A file on the node's machine with certificates that are trusted beside the usual ones; an absolute path.
    #[serde(default)]
    pub roots: Option<PathBuf>,
    /// Link the mail address that the provider has verified, not the account itself.
    #[serde(default)]
    pub mail: bool,
}

impl fmt::Debug for LinkLoginOptions {
    /// Leaves out what is secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LinkLoginOptions").field("issuer", &self.issuer).finish_non_exhaustive()
    }
}

/// A login has begun: the user opens an address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LinkLogin {
    /// Names this login; it counts for 10 minutes.
    pub login: String,
    /// What the user opens in a browser: one on the node's machine, or for a login on another machine any.
    pub url: String,
    /// What is typed there, for a login on another machine.
    pub user_code: Option<String>,
}

/// An address that a code is sent to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LinkCodeOptions {
    /// The address: `mailto:alice@example.org`.
    pub address: String,
}

/// A code is on its way, if the address is one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LinkCode {
    /// The address.
    pub account: String,
    /// Until when it counts.
    pub expires_at: Timestamp,
}

/// A code that came to an address.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LinkCodeShown {
    /// The address.
    pub address: String,
    /// The code.
    pub code: String,
    /// Whether who knows the address finds this user by it, in the directory. If it isn't said they do, but for telephone numbers.
    #[serde(default)]
    pub listed: Option<bool>,
}

impl fmt::Debug for LinkCodeShown {
    /// Leaves out what is secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LinkCodeShown").field("address", &self.address).finish_non_exhaustive()
    }
}

/// How an account stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum LinkState {
    /// Being connected.
    Connecting,
    /// Connected: calls are judged by what its system says now.
    Connected,
    /// Not connected; tried again.
    Failed,
    /// Another own device has its login; what that device has seen counts here too.
    Elsewhere,
}

/// A contact in a linked system.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LinkedContactView {
    /// Who they are there: `xmpp:bob@example.org`. `halloo call` takes it.
    pub id: String,
    /// The name that the contact list there has for them.
    pub name: Option<String>,
    /// Who they are here, `name@authority`, by what they show there; absent if they show nothing that holds.
    pub username: Option<String>,
    /// When that was looked at last.
    pub seen_at: Option<Timestamp>,
}

/// A linked account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LinkedAccount {
    /// The account: `xmpp:alice@example.org`.
    pub account: String,
    /// How it stands.
    pub state: LinkState,
    /// Why it isn't connected.
    pub reason: Option<String>,
    /// Until when contacts there are shown who this user is here; it is renewed by itself.
    pub shown_until: Option<Timestamp>,
    /// They aren't shown it: each call shows a token for itself.
    pub tokens: bool,
    /// Whether who knows the address finds this user by it, in the directory.
    #[serde(default)]
    pub listed: bool,
    /// Nodes of the directory that have it, when it was brought there last.
    #[serde(default)]
    pub listed_at: u32,
    /// Until when this user's certificate hints at it; absent if it doesn't.
    #[serde(default)]
    pub certified_until: Option<Timestamp>,
    /// Its contact list.
    pub contacts: Vec<LinkedContactView>,
    /// Whether this device has its login.
    pub here: bool,
    /// The device that has its login.
    pub peer_id: String,
    /// What that device is called, if that is known.
    pub device: Option<String>,
}

/// All linked accounts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LinkList {
    /// The accounts.
    pub accounts: Vec<LinkedAccount>,
    /// What may tell that somebody is a contact there, in the order in which it is tried: `request`, `certificate`, `presence`, `place`, `directory`.
    #[serde(default)]
    pub carriers: Vec<String>,
}

/// What shows that a user is somebody in another system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum FoundProof {
    /// The account's own place shows the same.
    Place,
    /// What lies there proves it by itself: a provider's token, or an authority's word.
    Proof,
    /// Their authority has seen it proved: their certificate hints at it.
    Certificate,
}

/// A user who says that they are somebody in another system.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FoundUser {
    /// Who, `name@authority`.
    pub username: String,
    /// Their identity key, `ed25519:` and base64url.
    pub identity: String,
    /// What shows it; absent: nothing, anybody who knows the address can say so.
    pub proved_by: Option<FoundProof>,
}

/// Who somebody in another system is here, as the directory says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LinkFound {
    /// Whom it is about: `mailto:bob@example.org`.
    pub id: String,
    /// Who says that they are it; none if nobody does.
    pub users: Vec<FoundUser>,
    /// Nodes of the directory that were heard.
    pub answered: u32,
}

/// What this user's certificate says of an identity in another system.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LinkCertified {
    /// The identity.
    pub id: String,
    /// Whether the certificate hints at it.
    pub is_certified: bool,
    /// Until when the certificate is valid; it is renewed before.
    pub not_after: Timestamp,
}

/// An account isn't linked any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LinkRemoved {
    /// The account.
    pub account: String,
    /// Whether its place says so too. If it couldn't be reached, others go on seeing what it shows, at most until it ends.
    pub is_taken_back: bool,
}

/// Somebody in a linked system, with whom a call is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LinkedPeer {
    /// Who they are there: `xmpp:bob@example.org`.
    pub id: String,
    /// The name that the contact list there has for them.
    pub name: Option<String>,
    /// What has shown it: `request`, `certificate`, `presence`, `place` or `directory`; absent of those who were called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

/// Whom an identity in a linked system stands for, and what the invite says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkedCallee {
    /// The user.
    pub user: UserId,
    /// Their identity key, where it is known: nobody else is called under that name then.
    pub identity: Option<IdentityKey>,
    /// The name in the contact list.
    pub name: Option<String>,
    /// Who they are there.
    pub place: LinkedId,
    /// What the invite says.
    pub claim: LinkedClaim,
    /// The call's id, where it was chosen before.
    pub call: Option<CallId>,
}

/// What an invite says of a linked system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkedClaim {
    /// An association.
    Association(Box<LinkedPart>),
    /// A token for this call.
    Token(TokenPart),
    /// What is still to be got.
    Nothing,
}

impl LinkedClaim {
    pub(crate) fn add_to(&self, extensions: Extensions) -> Extensions {
        match self {
            Self::Association(part) => part.add_to(extensions),
            Self::Token(part) => part.add_to(extensions),
            Self::Nothing => extensions,
        }
    }
}

impl LinkedCallee {
    pub(crate) fn peer(&self) -> LinkedPeer {
        LinkedPeer { id: self.place.to_string(), name: self.name.clone(), by: None }
    }
}

/// Why an account isn't linked, or unlinked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
    /// The node can't do it now.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// It is no address of a system that can be linked.
    #[error(transparent)]
    Id(#[from] LinkedIdError),
    /// Something else that was given can't be used.
    #[error("{reason}")]
    Options {
        /// What, and why.
        reason: String,
    },
    /// It is linked already.
    #[error("{account} is linked already")]
    Known {
        /// The account.
        account: String,
    },
    /// It isn't linked.
    #[error("{account} isn't linked: halloo link list")]
    Unknown {
        /// The account.
        account: String,
    },
    /// The directory doesn't say who somebody is.
    #[error("{id} isn't found: {reason}")]
    NotFound {
        /// Who was sought.
        id: String,
        /// Why.
        reason: String,
    },
    /// It is being linked or unlinked.
    #[error("{account} is being linked or unlinked")]
    Busy {
        /// The account.
        account: String,
    },
    /// Its system didn't let it be linked.
    #[error("{account} isn't linked: {reason}")]
    Failed {
        /// The account.
        account: String,
        /// Why.
        reason: String,
    },
    /// An address book can't be read.
    #[error("the address book {book} isn't read: {reason}")]
    Book {
        /// Where it is.
        book: String,
        /// Why.
        reason: String,
    },
    /// An association is signed by the identity key, which is elsewhere.
    #[error("this device doesn't have the identity key, and no own device that has can be asked: link the account there")]
    NoIdentityKey,
}

impl Fault for LinkError {
    fn kind(&self) -> ProblemKind {
        match self {
            Self::Node(error) => error.kind(),
            Self::Id(_) | Self::Options { .. } => ProblemKind::InvalidRequest,
            Self::Known { .. } | Self::Busy { .. } | Self::NoIdentityKey => ProblemKind::Conflict,
            Self::Unknown { .. } | Self::NotFound { .. } => ProblemKind::NotFound,
            Self::Failed { .. } | Self::Book { .. } => ProblemKind::Refused,
        }
    }
}

/// What the event loop can be asked about linked accounts.
#[derive(Debug)]
#[allow(missing_docs, reason = "each variant is documented at the handle method that sends it")]
pub enum LinkedCommand {
    /// [`Links::add`]
    Add { options: Box<LinkOptions>, reply: Reply<LinkedAccount, LinkError> },
    /// [`Links::login`]
    Login { options: Box<LinkLoginOptions>, reply: Reply<LinkLogin, LinkError> },
    /// [`Links::wait_login`]
    WaitLogin { login: String, reply: Reply<LinkedAccount, LinkError> },
    /// [`Links::ask_code`]
    AskCode { options: Box<LinkCodeOptions>, reply: Reply<LinkCode, LinkError> },
    /// [`Links::show_code`]
    ShowCode { options: Box<LinkCodeShown>, reply: Reply<LinkedAccount, LinkError> },
    /// The address book.
    Book(BookCommand),
    /// [`Links::list`]
    List(Reply<LinkList, LinkError>),
    /// [`Links::remove`]
    Remove { account: String, reply: Reply<LinkRemoved, LinkError> },
    /// [`Links::find`]
    Find { id: String, reply: Reply<LinkFound, LinkError> },
    /// [`Links::set_listed`]
    Listing { account: String, is_listed: bool, reply: Reply<LinkedAccount, LinkError> },
    /// [`Links::certify`]
    Certify { id: String, is_wanted: bool, reply: Reply<LinkCertified, LinkError> },
}

impl LinkedCommand {
    /// Refuses it, whatever it is.
    pub(crate) fn refuse(self, error: NodeError) {
        match self {
            Self::Add { reply, .. } | Self::WaitLogin { reply, .. } | Self::ShowCode { reply, .. } => {
                reply.send(Err(error.into()))
            }
            Self::AskCode { reply, .. } => reply.send(Err(error.into())),
            Self::Book(command) => command.refuse(error),
            Self::Login { reply, .. } => reply.send(Err(error.into())),
            Self::List(reply) => reply.send(Err(error.into())),
            Self::Remove { reply, .. } => reply.send(Err(error.into())),
            Self::Find { reply, .. } => reply.send(Err(error.into())),
            Self::Listing { reply, .. } => reply.send(Err(error.into())),
            Self::Certify { reply, .. } => reply.send(Err(error.into())),
        }
    }
}

impl Links<'_> {
    /// Links an account: logs in, and shows its contacts there who this user is here. Answered once that is done.
    ///
    /// # Errors
    /// See [`LinkError`].
    pub async fn add(&self, options: LinkOptions) -> Result<LinkedAccount, LinkError> {
        let options = Box::new(options);
        self.0.ask(|reply| Command::Linked(LinkedCommand::Add { options, reply })).await
    }

    /// Begins a login to an OpenID Connect provider. Answered once the user can go there; what comes of it: [`Links::wait_login`].
    ///
    /// # Errors
    /// See [`LinkError`].
    pub async fn login(&self, options: LinkLoginOptions) -> Result<LinkLogin, LinkError> {
        let options = Box::new(options);
        self.0.ask(|reply| Command::Linked(LinkedCommand::Login { options, reply })).await
    }

    /// Waits until the user has logged in, and the account is linked.
    ///
    /// # Errors
    /// See [`LinkError`].
    pub async fn wait_login(&self, login: &str) -> Result<LinkedAccount, LinkError> {
        let login = login.to_owned();
        self.0.ask(|reply| Command::Linked(LinkedCommand::WaitLogin { login, reply })).await
    }

    /// Has the own authority send a code to an address, to link it.
    ///
    /// # Errors
    /// See [`LinkError`].
    pub async fn ask_code(&self, options: LinkCodeOptions) -> Result<LinkCode, LinkError> {
        let options = Box::new(options);
        self.0.ask(|reply| Command::Linked(LinkedCommand::AskCode { options, reply })).await
    }

    /// Links an address, by the code that came there: the own authority says from then on that it is this user's.
    ///
    /// # Errors
    /// See [`LinkError`].
    pub async fn show_code(&self, options: LinkCodeShown) -> Result<LinkedAccount, LinkError> {
        let options = Box::new(options);
        self.0.ask(|reply| Command::Linked(LinkedCommand::ShowCode { options, reply })).await
    }

    /// The linked accounts, and who is in their contact lists.
    ///
    /// # Errors
    /// See [`LinkError`].
    pub async fn list(&self) -> Result<LinkList, LinkError> {
        self.0.ask(|reply| Command::Linked(LinkedCommand::List(reply))).await
    }

    /// Who somebody in another system (`mailto:bob@example.org`) is here, as the directory says. Takes about a second: its place there is hashed slowly.
    ///
    /// # Errors
    /// See [`LinkError`].
    pub async fn find(&self, id: &str) -> Result<LinkFound, LinkError> {
        let id = id.to_owned();
        self.0.ask(|reply| Command::Linked(LinkedCommand::Find { id, reply })).await
    }

    /// Whether who knows the address of a linked account finds this user by it.
    ///
    /// # Errors
    /// See [`LinkError`].
    pub async fn set_listed(&self, account: &str, is_listed: bool) -> Result<LinkedAccount, LinkError> {
        let account = account.to_owned();
        self.0.ask(|reply| Command::Linked(LinkedCommand::Listing { account, is_listed, reply })).await
    }

    /// Has this user's certificate hint at an identity in another system that the authority knows to be theirs, or hint at it no more. Everybody who sees the certificate, and guesses the
    /// identity, can tell.
    ///
    /// # Errors
    /// See [`LinkError`].
    pub async fn certify(&self, id: &str, is_wanted: bool) -> Result<LinkCertified, LinkError> {
        let id = id.to_owned();
        self.0.ask(|reply| Command::Linked(LinkedCommand::Certify { id, is_wanted, reply })).await
    }

    /// Unlinks an account (`xmpp:alice@example.org`): takes back what is shown there, and forgets the password.
    ///
    /// # Errors
    /// See [`LinkError`].
    pub async fn remove(&self, account: &str) -> Result<LinkRemoved, LinkError> {
        let account = account.to_owned();
        self.0.ask(|reply| Command::Linked(LinkedCommand::Remove { account, reply })).await
    }
}
