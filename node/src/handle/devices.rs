//! The user's own devices: linking new ones, naming and removing them.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::choice::DeviceReportView;
use super::directory::DeviceReachability;
use super::problem::{Fault, NodeError, ProblemKind};
use super::{Command, Node, Reply};
use crate::daemon::Phrase;
use crate::timestamp::Timestamp;

/// The user's devices; from [`Node::devices`].
#[derive(Clone, Copy, Debug)]
pub struct Devices<'a>(pub(super) &'a Node);

/// How a new device is to be linked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LinkOptions {
    /// Gives it the identity key too, so that it can link and revoke devices itself. Whoever has that key is the user.
    pub with_identity_key: bool,
}

/// A code is open: show it to the person, and wait with [`Devices::wait_link`].
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LinkOffer {
    /// Names the code, without being it.
    pub id: String,
    /// The code, for typing: `K7QX-9M2P`.
    pub code: String,
    /// `halloo:link/...`: the code with where to use it, for pasting or a QR code.
    pub link: String,
    /// Where the new device finds this one, for use with the code.
    pub addresses: Vec<String>,
    /// When the code ends.
    pub expires_at: Timestamp,
}

impl fmt::Debug for LinkOffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LinkOffer").field("id", &self.id).finish_non_exhaustive()
    }
}

/// How far a linking is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum LinkStage {
    /// A device has begun.
    Asked,
    /// A device proved to know another code: this one is burnt.
    WrongCode,
    /// A device knew the code, and couldn't be given what it needs; the code is used up.
    Failed,
    /// A device was certified; it has yet to say that it has everything.
    Certified,
    /// A device is linked.
    Linked,
    /// A device was certified, and hasn't said that it has everything. It may be linked or not.
    Unconfirmed,
    /// Nobody came in time.
    TimedOut,
    /// The person took the code back.
    Cancelled,
}

/// A device that was linked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LinkedDevice {
    /// [`LinkStage::Linked`] or [`LinkStage::Unconfirmed`].
    pub stage: LinkStage,
    /// Its peer id.
    pub peer_id: String,
    /// What it calls itself.
    pub name: String,
    /// What machine it is.
    pub kind: String,
    /// Whether it was given the identity key.
    pub has_identity_key: bool,
}

/// Whether a device is one of the user's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DeviceState {
    /// It is.
    Active,
    /// It was, until the user removed it.
    Revoked,
}

/// One of the user's devices.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DeviceView {
    /// Its peer id.
    pub peer_id: String,
    /// Its name, if it has one and that is known.
    pub name: Option<String>,
    /// What machine it is: `phone`, `laptop`, ..
    pub kind: Option<String>,
    /// Whether it is the device that answers.
    pub is_this: bool,
    /// Whether it is still one of the user's.
    pub state: DeviceState,
    /// Whether it has the identity key, if it has said so.
    pub has_identity_key: Option<bool>,
    /// Whether this device is connected to it.
    pub is_connected: bool,
    /// When it was heard of last, by its lease or by meeting it.
    pub last_seen: Option<Timestamp>,
    /// How it can be reached, by its lease.
    pub reachability: DeviceReachability,
    /// When its certificate ends; renewed from half of its time on.
    pub certificate_until: Option<Timestamp>,
    /// When it was removed.
    pub revoked_at: Option<Timestamp>,
    /// The newest that it has said of itself.
    #[serde(default)]
    pub report: Option<DeviceReportView>,
}

/// The user's devices.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DeviceList {
    /// `name@authority`
    pub username: String,
    /// Those of the directory, those met, and those removed.
    pub devices: Vec<DeviceView>,
}

/// How a device is to be removed.
#[derive(Clone, Debug, Default)]
pub struct RevokeOptions {
    /// The 24 words, where the identity key isn't on this device. Used for one signature, then wiped.
    pub recovery_phrase: Option<Phrase>,
}

/// A device was removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DeviceRevocation {
    /// Its peer id.
    pub peer_id: String,
    /// Its name.
    pub name: Option<String>,
    /// Epoch of the new key that contacts get.
    pub key_epoch: u32,
    /// Until when the removal is remembered: its last certificate has ended by then.
    pub until: Timestamp,
}

/// Why an operation on devices failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// The node can't do it now.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// The identity key isn't here.
    #[error("the identity key isn't on this device{hint}")]
    NoIdentityKey {
        /// Where it is, or what else to do.
        hint: String,
    },
    /// One code at a time.
    #[error("a link code is open already; end that `halloo device link` first")]
    LinkOpen,
    /// No such code.
    #[error("no such link code: it is over, or was another run's")]
    UnknownLink,
    /// A device came with another code.
    #[error("a device ({peer_id}) came with a wrong code, so this one is burnt; make a new one")]
    WrongCode {
        /// Which.
        peer_id: String,
    },
    /// Nobody came.
    #[error("no device came within {minutes} minutes")]
    LinkTimedOut {
        /// How long the code was open.
        minutes: u64,
    },
    /// Taken back.
    #[error("the link code was taken back")]
    LinkCancelled,
    /// No such device.
    #[error("none of your devices is called {device:?}; halloo device list shows them")]
    Unknown {
        /// What was asked for.
        device: String,
    },
    /// Several devices of this name.
    #[error("several of your devices are called {device:?}: say which by its peer id ({peer_ids})")]
    Ambiguous {
        /// What was asked for.
        device: String,
        /// Their peer ids.
        peer_ids: String,
    },
    /// A device can't remove itself.
    #[error("this is that device: revoke it on another one")]
    ThisDevice,
    /// It was removed before.
    #[error("{device:?} was revoked before")]
    Revoked {
        /// What was asked for.
        device: String,
    },
    /// The name can't be given.
    #[error("{reason}")]
    InvalidName {
        /// Why not.
        reason: String,
    },
    /// A report that can't be.
    #[error("{reason}")]
    InvalidReport {
        /// What is wrong with it.
        reason: String,
    },
    /// The words aren't this user's recovery phrase.
    #[error("not this identity's recovery phrase: {reason}")]
    InvalidPhrase {
        /// What is wrong: never the words themselves.
        reason: String,
    },
    /// The device doesn't answer, or says no.
    #[error("{reason}")]
    Unreachable {
        /// Why.
        reason: String,
    },
    /// It couldn't be done.
    #[error("not linked: {reason}")]
    LinkFailed {
        /// Why.
        reason: String,
    },
}

impl Fault for DeviceError {
    fn kind(&self) -> ProblemKind {
        match self {
            Self::Node(error) => error.kind(),
            Self::NoIdentityKey { .. }
            | Self::LinkOpen
            | Self::LinkCancelled
            | Self::Ambiguous { .. }
            | Self::ThisDevice
            | Self::Revoked { .. } => ProblemKind::Conflict,
            Self::UnknownLink | Self::Unknown { .. } => ProblemKind::NotFound,
            Self::InvalidName { .. } | Self::InvalidReport { .. } | Self::InvalidPhrase { .. } => ProblemKind::InvalidRequest,
            Self::Unreachable { .. } => ProblemKind::Unreachable,
            Self::WrongCode { .. } => ProblemKind::Refused,
            Self::LinkTimedOut { .. } => ProblemKind::TimedOut,
            Self::LinkFailed { .. } => ProblemKind::Internal,
        }
    }
}

/// What the event loop can be asked about devices.
#[derive(Debug)]
#[allow(missing_docs, reason = "each variant is documented at the handle method that sends it")]
pub enum DeviceCommand {
    /// [`Devices::offer_link`]
    OfferLink { options: LinkOptions, reply: Reply<LinkOffer, DeviceError> },
    /// [`Devices::wait_link`]
    WaitLink { id: String, reply: Reply<LinkedDevice, DeviceError> },
    /// [`Devices::list`]
    List(Reply<DeviceList, DeviceError>),
    /// [`Devices::rename`]
    Rename { device: String, name: String, reply: Reply<DeviceView, DeviceError> },
    /// [`Devices::revoke`]
    Revoke { device: String, options: RevokeOptions, reply: Reply<DeviceRevocation, DeviceError> },
}

impl DeviceCommand {
    /// Refuses it, whatever it is.
    pub(crate) fn refuse(self, error: NodeError) {
        let error = DeviceError::Node(error);
        match self {
            Self::OfferLink { reply, .. } => reply.send(Err(error)),
            Self::WaitLink { reply, .. } => reply.send(Err(error)),
            Self::List(reply) => reply.send(Err(error)),
            Self::Rename { reply, .. } => reply.send(Err(error)),
            Self::Revoke { reply, .. } => reply.send(Err(error)),
        }
    }
}

impl Devices<'_> {
    async fn send<T>(&self, command: impl FnOnce(Reply<T, DeviceError>) -> DeviceCommand) -> Result<T, DeviceError> {
        self.0.ask(|reply| Command::Devices(command(reply))).await
    }

    /// Opens a code by which one new device can be linked, within five minutes. Needs the identity key on this device.
    ///
    /// # Errors
    /// [`DeviceError::NoIdentityKey`], [`DeviceError::LinkOpen`].
    pub async fn offer_link(&self, options: LinkOptions) -> Result<LinkOffer, DeviceError> {
        self.send(|reply| DeviceCommand::OfferLink { options, reply }).await
    }

    /// The user's devices: of the directory record, those met, and those removed. Without a network what is known here.
    ///
    /// # Errors
    /// See [`DeviceError`].
    pub async fn list(&self) -> Result<DeviceList, DeviceError> {
        self.send(DeviceCommand::List).await
    }

    /// Gives a device another name: this one, or another one that is reachable. `device` is its name or peer id.
    ///
    /// # Errors
    /// [`DeviceError::Unknown`], [`DeviceError::Ambiguous`], [`DeviceError::InvalidName`], [`DeviceError::Unreachable`].
    pub async fn rename(&self, device: &str, name: &str) -> Result<DeviceView, DeviceError> {
        let (device, name) = (device.to_owned(), name.to_owned());
        self.send(|reply| DeviceCommand::Rename { device, name, reply }).await
    }

    /// Removes a device, for good: nobody who hears of it believes it any more, and contacts get new keys. Needs the identity key on this device,
    /// or the recovery phrase. `device` is its name or peer id.
    ///
    /// # Errors
    /// [`DeviceError::NoIdentityKey`], [`DeviceError::Unknown`], [`DeviceError::Ambiguous`], [`DeviceError::ThisDevice`],
    /// [`DeviceError::Revoked`], [`DeviceError::InvalidPhrase`].
    pub async fn revoke(&self, device: &str, options: RevokeOptions) -> Result<DeviceRevocation, DeviceError> {
        let device = device.to_owned();
        self.send(|reply| DeviceCommand::Revoke { device, options, reply }).await
    }

    /// Waits until a device is linked by this code, or none can be any more. Dropping the future takes the code back.
    ///
    /// # Errors
    /// See [`DeviceError`].
    pub async fn wait_link(&self, id: &str) -> Result<LinkedDevice, DeviceError> {
        let id = id.to_owned();
        self.send(|reply| DeviceCommand::WaitLink { id, reply }).await
    }
}
