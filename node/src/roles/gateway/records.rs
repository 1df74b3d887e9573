//! What the role keeps, behind one trait: in the node's own database, or in a PostgreSQL database that several gateways share.
//!
//! The calls are synchronous either way: the event loop never waits for a database. The embedded one commits within the call. With a shared one
//! ([`shared`]) what a decision needs is fetched before it, what it changes is sent off after it, and whoever asked is answered when that is committed.

mod embedded;
pub(super) mod shared;
#[cfg(test)]
mod tests;

use halloo_protocol::identity::UserId;
use halloo_protocol::key::{DeviceKey, PublicKey};
use halloo_protocol::push::registration::Registration;
use halloo_protocol::push::{DeliveredStatus, PushHandle};
use halloo_protocol::time::UnixTime;

pub(super) use self::embedded::Embedded;
pub(super) use self::shared::Shared;
use crate::store::{PendingPush, StoreError};

/// Registrations, what users' devices have told to choose by, pushes that wait, and notices for devices that are away.
pub(super) trait GatewayRecords {
    /// The registration behind a handle.
    fn registration(&self, handle: &PushHandle) -> Result<Option<Registration>, StoreError>;
    /// Registrations of a device.
    fn registrations_of(&self, device: &DeviceKey) -> Result<Vec<Registration>, StoreError>;
    /// Registrations of all devices of a user; of very many, some.
    fn registrations_of_user(&self, user: &UserId) -> Result<Vec<Registration>, StoreError>;
    /// How many there are.
    fn registration_count(&self) -> Result<u64, StoreError>;
    /// Keeps a registration, in place of the one with its handle.
    fn put_registration(&mut self, registration: &Registration) -> Result<(), StoreError>;
    /// Forgets a registration; false if there was none.
    fn remove_registration(&mut self, handle: &PushHandle) -> Result<bool, StoreError>;
    /// Keeps what is left of a registration that has lost a channel, if anything is, and the notice of that: both or neither.
    fn end_channel(&mut self, left: &Registration, name: &[u8; 32], notice: &[u8]) -> Result<(), StoreError>;
    /// Forgets some of the registrations whose time is over. Gives their users.
    fn purge(&mut self, now: UnixTime) -> Result<Vec<PublicKey>, StoreError>;
    /// What a user's devices have told.
    fn choice(&self, identity: &PublicKey) -> Result<Option<Vec<u8>>, StoreError>;
    /// Keeps it.
    fn put_choice(&mut self, identity: &PublicKey, content: &[u8]) -> Result<(), StoreError>;
    /// Forgets it.
    fn remove_choice(&mut self, identity: &PublicKey) -> Result<(), StoreError>;
    /// A push that waits here.
    fn pending(&self, number: u64) -> Result<Option<PendingPush>, StoreError>;
    /// Lets a push wait; `hash` names the caller's request. Gives its number.
    fn add_pending(&mut self, push: &PendingPush, hash: &[u8; 32]) -> Result<u64, StoreError>;
    /// Changes one.
    fn update_pending(&mut self, number: u64, push: &PendingPush) -> Result<(), StoreError>;
    /// Strikes pushes: sent, or expired. `brought` if the device has taken it on its stream.
    fn remove_pending(&mut self, numbers: &[u64], brought: Option<DeliveredStatus>) -> Result<(), StoreError>;
    /// Notices that wait for a device.
    fn notices_of(&self, device: &DeviceKey) -> Result<Vec<Vec<u8>>, StoreError>;
    /// A device has noted one.
    fn remove_notice(&mut self, device: &DeviceKey, name: &[u8; 32]) -> Result<(), StoreError>;
}

/// Where a gateway keeps its records.
pub(super) enum Records {
    /// In its own database.
    Embedded(Embedded),
    /// In one that it shares.
    Shared(Box<Shared>),
}

impl Records {
    pub(super) const fn shared(&self) -> Option<&Shared> {
        match self {
            Self::Shared(shared) => Some(shared),
            Self::Embedded(_) => None,
        }
    }

    pub(super) const fn shared_mut(&mut self) -> Option<&mut Shared> {
        match self {
            Self::Shared(shared) => Some(shared),
            Self::Embedded(_) => None,
        }
    }
}

impl std::ops::Deref for Records {
    type Target = dyn GatewayRecords;

    fn deref(&self) -> &Self::Target {
        match self {
            Self::Embedded(embedded) => embedded,
            Self::Shared(shared) => &**shared,
        }
    }
}

impl std::ops::DerefMut for Records {
    fn deref_mut(&mut self) -> &mut Self::Target {
        match self {
            Self::Embedded(embedded) => embedded,
            Self::Shared(shared) => &mut **shared,
        }
    }
}
