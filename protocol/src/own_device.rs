//! What devices of one user say to each other about themselves. From anybody else these are refused.

use bincode::{Decode, Encode};

use crate::directory::{DEVICE_NAME_BYTES_MAX, DeviceKind};
use crate::identity::DeviceCertificate;
use crate::wire::{DecodeError, Extensions, FrameKind, Message, Signed};

/// "This is me", to every own device that is met. A notice: it is said anew at the next meeting.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct DeviceCard {
    /// What the device is called; at most [`DEVICE_NAME_BYTES_MAX`] bytes.
    pub name: String,
    /// What machine it is.
    pub kind: DeviceKind,
    /// Whether it has the identity key: it can link, revoke and renew.
    pub has_identity_key: bool,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Message for DeviceCard {
    const KIND: FrameKind = FrameKind(FrameKind::NOTICE | 0x0094);
    const LIMIT: usize = 512;

    fn check(&self) -> Result<(), DecodeError> {
        check_name(&self.name)
    }
}

/// Asks an own device that has the identity key for a new certificate, from half of the old one's time on.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct DeviceRenew {
    /// Room to grow.
    pub extensions: Extensions,
}

impl Message for DeviceRenew {
    const KIND: FrameKind = FrameKind(0x0093);
    const LIMIT: usize = 256;
}

/// Answer to [`DeviceRenew`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct DeviceRenewed {
    /// The new certificate; `None`: not here, or not for you.
    pub certificate: Option<Signed<DeviceCertificate>>,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Message for DeviceRenewed {
    const KIND: FrameKind = FrameKind(FrameKind::ANSWER | DeviceRenew::KIND.0);
    const LIMIT: usize = 1_024;
}

/// Gives an own device another name.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct DeviceRename {
    /// The name; 1 to [`DEVICE_NAME_BYTES_MAX`] bytes.
    pub name: String,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Message for DeviceRename {
    const KIND: FrameKind = FrameKind(0x0095);
    const LIMIT: usize = 512;

    fn check(&self) -> Result<(), DecodeError> {
        if self.name.is_empty() {
            return Err(DecodeError::invalid("name", "empty"));
        }
        check_name(&self.name)
    }
}

/// Answer to [`DeviceRename`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct DeviceRenamed {
    /// Whether it is called so now.
    pub is_done: bool,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Message for DeviceRenamed {
    const KIND: FrameKind = FrameKind(FrameKind::ANSWER | DeviceRename::KIND.0);
    const LIMIT: usize = 256;
}

fn check_name(name: &str) -> Result<(), DecodeError> {
    if name.len() > DEVICE_NAME_BYTES_MAX {
        return Err(DecodeError::invalid("name", format!("{} bytes, at most {DEVICE_NAME_BYTES_MAX}", name.len())));
    }
    Ok(())
}
