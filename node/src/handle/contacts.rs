//! Contacts, the own profile, and who may do what.

use std::fmt;

use halloo_protocol::contact::privacy;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::directory::ResolveError;
use super::linked::LinkedPeer;
use super::problem::{Fault, NodeError, ProblemKind, UsernameError};
use super::{Command, Node, Reply};
use crate::timestamp::Timestamp;

/// Contacts; from [`Node::contacts`].
#[derive(Clone, Copy, Debug)]
pub struct Contacts<'a>(pub(super) &'a Node);

/// What somebody is to this user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum ContactState {
    /// Both have said yes.
    Contact,
    /// A contact whose name has come with another identity key; nobody's contact until that is accepted.
    Changed,
    /// This user has asked and waits for the answer.
    Asked,
    /// They have asked, and this user hasn't answered.
    Requested,
    /// They have said no.
    Declined,
    /// Nothing any more.
    Removed,
    /// This user wants to hear nothing of them.
    Blocked,
    /// Nothing here, but a contact in a linked system; without presence.
    Linked,
}

/// Somebody in the contact list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ContactView {
    /// `name@authority`.
    pub username: String,
    /// What they are.
    pub state: ContactState,
    /// The identity key known, `ed25519:` and base64url.
    pub identity: Option<String>,
    /// Another identity key that the name has come with, which nobody has accepted.
    pub changed_identity: Option<String>,
    /// How they want to be called: by their profile, or by their request.
    pub display_name: Option<String>,
    /// Their mood; contacts only.
    pub mood: Option<String>,
    /// Their languages, preferred first; contacts only.
    pub languages: Vec<String>,
    /// Hash of their picture; contacts only.
    pub avatar: Option<String>,
    /// What their request said.
    pub text: Option<String>,
    /// Epoch of the newest key of theirs that is here; 0 without any.
    pub key_epoch: u32,
    /// When either side last said something about the other.
    pub changed_at: Option<Timestamp>,
    /// Who they are in linked systems, by this user's contact lists there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub linked: Vec<LinkedPeer>,
}

/// The contact list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ContactList {
    /// Epoch of the own key that contacts hold; another whenever somebody stops being a contact.
    pub key_epoch: u32,
    /// Everybody who is something to this user.
    pub contacts: Vec<ContactView>,
    /// Contacts in linked systems who are nothing here, and have shown who they are: of state `linked`, without presence.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub linked: Vec<ContactView>,
}

/// What others add this user by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ContactInvite {
    /// `halloo:` and what names the user and their key.
    pub link: String,
    /// `name@authority`.
    pub username: String,
    /// The identity key in it.
    pub identity: String,
}

/// What two people compare.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Fingerprint {
    /// Whose key is compared with the own one, `name@authority`.
    pub username: String,
    /// The own identity key.
    pub own_identity: String,
    /// Theirs, as known here.
    pub identity: String,
    /// Twelve groups of five digits, the same on both sides if nobody stands in between.
    pub safety_number: String,
    /// Another key that the name has come with.
    pub changed_identity: Option<String>,
    /// The number with that one.
    pub changed_safety_number: Option<String>,
}

/// A picture.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AvatarView {
    /// Always `image/png`.
    pub media_type: String,
    /// The file, base64url without padding.
    pub data: String,
}

/// A contact list to keep or to take elsewhere. It holds no secrets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ContactBook {
    /// Links of contacts, and of those who were asked.
    pub contacts: Vec<String>,
    /// Links of those who are blocked.
    #[serde(default)]
    pub blocked: Vec<String>,
}

/// What came of an import.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ContactImport {
    /// Who was asked.
    pub asked: Vec<String>,
    /// Who was in the list before.
    pub known: Vec<String>,
    /// Who is blocked now.
    pub blocked: Vec<String>,
    /// What could not be taken, and why.
    pub refused: Vec<String>,
}

/// The own profile.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ProfileView {
    /// How this user wants to be called.
    pub display_name: String,
    /// A few words of the moment.
    pub mood: String,
    /// Languages (BCP 47), preferred first.
    pub languages: Vec<String>,
    /// The picture.
    pub avatar: Option<AvatarView>,
}

/// A change of the own profile; what isn't named stays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ProfileChange {
    /// At most 128 bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// At most 280 bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mood: Option<String>,
    /// At most 8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub languages: Option<Vec<String>>,
    /// A PNG of at most 32 KiB and 512 by 512 pixels, base64url; empty for none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub avatar: Option<String>,
}

/// For whom something is allowed; each includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Audience {
    /// No one.
    Nobody,
    /// Contacts.
    Contacts,
    /// Contacts, and contacts in a linked system.
    Linked,
    /// Everybody with a certificate.
    Anyone,
}

impl From<privacy::Audience> for Audience {
    fn from(audience: privacy::Audience) -> Self {
        match audience {
            privacy::Audience::Nobody => Self::Nobody,
            privacy::Audience::Contacts => Self::Contacts,
            privacy::Audience::Linked => Self::Linked,
            privacy::Audience::Anyone => Self::Anyone,
        }
    }
}

impl From<Audience> for privacy::Audience {
    fn from(audience: Audience) -> Self {
        match audience {
            Audience::Nobody => Self::Nobody,
            Audience::Contacts => Self::Contacts,
            Audience::Linked => Self::Linked,
            Audience::Anyone => Self::Anyone,
        }
    }
}

impl fmt::Display for Audience {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        privacy::Audience::from(*self).fmt(f)
    }
}

/// Who may do what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Privacy {
    /// Who may ring.
    pub call: Audience,
    /// Who may ring with video.
    pub video: Audience,
    /// Who may write.
    pub message: Audience,
    /// Who may send files.
    pub file: Audience,
    /// Who may see the presence: `nobody` or `contacts`.
    pub presence: Audience,
    /// Who may add this user to groups without asking: `nobody` or `contacts`.
    pub group: Audience,
    /// Whether authors are told that their messages were read.
    pub receipts: bool,
    /// Whether contacts may pass this user's presence on to each other, by which they learn that they share this contact.
    pub pass_on: bool,
}

/// A change of the privacy settings; what isn't named stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PrivacyChange {
    /// Who may ring.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub call: Option<Audience>,
    /// Who may ring with video.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub video: Option<Audience>,
    /// Who may write.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<Audience>,
    /// Who may send files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<Audience>,
    /// Who may see the presence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub presence: Option<Audience>,
    /// Who may add this user to groups without asking.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<Audience>,
    /// Whether authors are told that their messages were read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub receipts: Option<bool>,
    /// Whether contacts may pass the presence on to each other.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pass_on: Option<bool>,
}

impl PrivacyChange {
    /// Calls, video, messages and files for this audience.
    #[must_use]
    pub const fn all(audience: Audience) -> Self {
        let audience = Some(audience);
        Self {
            call: audience,
            video: audience,
            message: audience,
            file: audience,
            presence: None,
            group: None,
            receipts: None,
            pass_on: None,
        }
    }
}

/// What is done with somebody in the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContactChange {
    /// Says yes to their request.
    Accept,
    /// Says no to their request.
    Decline,
    /// Ends it.
    Remove,
    /// Ends it, and hears nothing of them.
    Block,
    /// Ends the block.
    Unblock,
    /// Takes their changed identity key for theirs, and asks anew.
    AcceptIdentity,
}

/// Why an operation on contacts failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ContactError {
    /// The username can't be understood.
    #[error(transparent)]
    Username(#[from] UsernameError),
    /// The node can't do it now.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// The user was not found.
    #[error(transparent)]
    Resolve(ResolveError),
    /// The link can't be used.
    #[error("{reason}")]
    Link {
        /// What is wrong with it.
        reason: String,
    },
    /// They aren't in the list.
    #[error("{username} is not in the contact list")]
    Unknown {
        /// Who.
        username: String,
    },
    /// It doesn't go with what they are.
    #[error("{username}: {reason}")]
    State {
        /// Who.
        username: String,
        /// Why not.
        reason: String,
    },
    /// The name has another key than expected.
    #[error("{username}: {reason}")]
    KeyChanged {
        /// Who.
        username: String,
        /// Which keys.
        reason: String,
    },
    /// The list is full.
    #[error("the contact list is full")]
    Full,
    /// Something is too long or malformed.
    #[error("{reason}")]
    Invalid {
        /// What.
        reason: String,
    },
}

impl From<ResolveError> for ContactError {
    fn from(error: ResolveError) -> Self {
        match error {
            ResolveError::Username(error) => Self::Username(error),
            ResolveError::Node(error) => Self::Node(error),
            other => Self::Resolve(other),
        }
    }
}

impl Fault for ContactError {
    fn kind(&self) -> ProblemKind {
        match self {
            Self::Username(error) => error.kind(),
            Self::Node(error) => error.kind(),
            Self::Resolve(error) => error.kind(),
            Self::Link { .. } | Self::Invalid { .. } => ProblemKind::InvalidRequest,
            Self::Unknown { .. } => ProblemKind::NotFound,
            Self::State { .. } => ProblemKind::Conflict,
            Self::KeyChanged { .. } => ProblemKind::Untrusted,
            Self::Full => ProblemKind::LimitReached,
        }
    }
}

/// What the event loop can be asked about contacts.
#[derive(Debug)]
#[allow(missing_docs, reason = "each variant is documented at the handle method that sends it")]
pub enum ContactCommand {
    /// [`Contacts::add`]
    Add { user: String, text: String, reply: Reply<ContactView, ContactError> },
    /// [`Contacts::change`]
    Change { user: String, change: ContactChange, reply: Reply<ContactView, ContactError> },
    /// [`Contacts::list`]
    List(Reply<ContactList, ContactError>),
    /// [`Contacts::get`]
    Get { user: String, reply: Reply<ContactView, ContactError> },
    /// [`Contacts::avatar`]
    Avatar { user: String, reply: Reply<AvatarView, ContactError> },
    /// [`Contacts::invite`]
    Invite(Reply<ContactInvite, ContactError>),
    /// [`Contacts::fingerprint`]
    Fingerprint { user: String, reply: Reply<Fingerprint, ContactError> },
    /// [`Contacts::export`]
    Export(Reply<ContactBook, ContactError>),
    /// [`Contacts::import`]
    Import { book: ContactBook, reply: Reply<ContactImport, ContactError> },
    /// [`Contacts::profile`]
    Profile(Reply<ProfileView, ContactError>),
    /// [`Contacts::set_profile`]
    SetProfile { change: ProfileChange, reply: Reply<ProfileView, ContactError> },
    /// [`Contacts::privacy`]
    Privacy(Reply<Privacy, ContactError>),
    /// [`Contacts::set_privacy`]
    SetPrivacy { change: PrivacyChange, reply: Reply<Privacy, ContactError> },
}

impl ContactCommand {
    /// Refuses it, whatever it is.
    pub(crate) fn refuse(self, error: NodeError) {
        let error = ContactError::Node(error);
        match self {
            Self::Add { reply, .. } | Self::Change { reply, .. } | Self::Get { reply, .. } => reply.send(Err(error)),
            Self::List(reply) => reply.send(Err(error)),
            Self::Avatar { reply, .. } => reply.send(Err(error)),
            Self::Invite(reply) => reply.send(Err(error)),
            Self::Fingerprint { reply, .. } => reply.send(Err(error)),
            Self::Export(reply) => reply.send(Err(error)),
            Self::Import { reply, .. } => reply.send(Err(error)),
            Self::Profile(reply) | Self::SetProfile { reply, .. } => reply.send(Err(error)),
            Self::Privacy(reply) | Self::SetPrivacy { reply, .. } => reply.send(Err(error)),
        }
    }
}

impl Contacts<'_> {
    async fn send<T>(&self, command: impl FnOnce(Reply<T, ContactError>) -> ContactCommand) -> Result<T, ContactError> {
        self.0.ask(|reply| Command::Contacts(command(reply))).await
    }

    /// Asks somebody to be a contact, by username or by link; says yes if they have asked. `text` goes with the request, at most 280 bytes.
    /// Returns when the request is stored; it is sent until it arrives.
    ///
    /// # Errors
    /// See [`ContactError`]. A user who is offline is no error, one who can't be found is.
    pub async fn add(&self, user: &str, text: &str) -> Result<ContactView, ContactError> {
        let (user, text) = (user.to_owned(), text.to_owned());
        self.send(|reply| ContactCommand::Add { user, text, reply }).await
    }

    /// Accepts, declines, removes, blocks, unblocks.
    ///
    /// # Errors
    /// See [`ContactError`].
    pub async fn change(&self, user: &str, change: ContactChange) -> Result<ContactView, ContactError> {
        let user = user.to_owned();
        self.send(|reply| ContactCommand::Change { user, change, reply }).await
    }

    /// Says yes to a request.
    ///
    /// # Errors
    /// See [`ContactError`].
    pub async fn accept(&self, user: &str) -> Result<ContactView, ContactError> {
        self.change(user, ContactChange::Accept).await
    }

    /// Everybody who is something to this user.
    ///
    /// # Errors
    /// See [`ContactError`].
    pub async fn list(&self) -> Result<ContactList, ContactError> {
        self.send(ContactCommand::List).await
    }

    /// Somebody in the list.
    ///
    /// # Errors
    /// [`ContactError::Unknown`].
    pub async fn get(&self, user: &str) -> Result<ContactView, ContactError> {
        let user = user.to_owned();
        self.send(|reply| ContactCommand::Get { user, reply }).await
    }

    /// A contact's picture.
    ///
    /// # Errors
    /// [`ContactError::Unknown`] also for those without one.
    pub async fn avatar(&self, user: &str) -> Result<AvatarView, ContactError> {
        let user = user.to_owned();
        self.send(|reply| ContactCommand::Avatar { user, reply }).await
    }

    /// The link by which others add this user.
    ///
    /// # Errors
    /// See [`ContactError`].
    pub async fn invite(&self) -> Result<ContactInvite, ContactError> {
        self.send(ContactCommand::Invite).await
    }

    /// The number to compare with somebody.
    ///
    /// # Errors
    /// [`ContactError::Unknown`] for somebody whose key isn't known here.
    pub async fn fingerprint(&self, user: &str) -> Result<Fingerprint, ContactError> {
        let user = user.to_owned();
        self.send(|reply| ContactCommand::Fingerprint { user, reply }).await
    }

    /// The list as links.
    ///
    /// # Errors
    /// See [`ContactError`].
    pub async fn export(&self) -> Result<ContactBook, ContactError> {
        self.send(ContactCommand::Export).await
    }

    /// Adds everybody in a list. Those of whom this user is a contact already answer by themselves.
    ///
    /// # Errors
    /// See [`ContactError`]. A link that can't be used is told in the outcome.
    pub async fn import(&self, book: ContactBook) -> Result<ContactImport, ContactError> {
        self.send(|reply| ContactCommand::Import { book, reply }).await
    }

    /// The own profile.
    ///
    /// # Errors
    /// See [`ContactError`].
    pub async fn profile(&self) -> Result<ProfileView, ContactError> {
        self.send(ContactCommand::Profile).await
    }

    /// Changes the own profile, and tells contacts.
    ///
    /// # Errors
    /// [`ContactError::Invalid`] for what is too long or malformed.
    pub async fn set_profile(&self, change: ProfileChange) -> Result<ProfileView, ContactError> {
        self.send(|reply| ContactCommand::SetProfile { change, reply }).await
    }

    /// Who may do what.
    ///
    /// # Errors
    /// See [`ContactError`].
    pub async fn privacy(&self) -> Result<Privacy, ContactError> {
        self.send(ContactCommand::Privacy).await
    }

    /// Changes who may do what, from now on.
    ///
    /// # Errors
    /// [`ContactError::Invalid`] for presence to others than contacts.
    pub async fn set_privacy(&self, change: PrivacyChange) -> Result<Privacy, ContactError> {
        self.send(|reply| ContactCommand::SetPrivacy { change, reply }).await
    }
}
