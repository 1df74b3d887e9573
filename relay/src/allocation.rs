//! Allocations (RFC 8656 section 5): what a client has been given, in tables that a packet finds its way through without
//! hashing more than its five-tuple and without touching memory of other allocations.
//!
//! - [`five_tuple`]: from a client's path to its allocation.
//! - [`binding`]: the channels and permissions of one allocation, in small flat arrays.
//! - [`directory`]: what other allocations of this relay need to know of one in order to deliver to it directly, also from other threads.
//! - [`ports`]: which relayed ports are free.
//! - [`spares`]: sockets that wait for the next allocation of their user.

pub(crate) mod binding;
pub(crate) mod directory;
pub(crate) mod five_tuple;
pub(crate) mod ports;
pub(crate) mod spares;

use std::net::SocketAddr;
use std::sync::Arc;

use crate::auth::Key;
use crate::packet::{ClientPath, RelayedId};
use crate::quota::share::{Lease, UserId};
use crate::stun::TransactionId;
use crate::time::Moment;
use binding::{Channels, Permissions};
use directory::Entry;

/// Address families, as indices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Family {
    V4 = 0,
    V6 = 1,
}

impl Family {
    pub(crate) const ALL: [Self; 2] = [Self::V4, Self::V6];

    pub(crate) fn of(address: SocketAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    pub(crate) const fn index(self) -> usize {
        self as usize
    }
}

/// One client's allocation.
#[derive(Debug)]
pub(crate) struct Allocation {
    // What every packet reads, first.
    pub(crate) client: ClientPath,
    pub(crate) expires: Moment,
    /// Bytes and packets paid for in advance.
    pub(crate) lease: Lease,
    pub(crate) channels: Channels,
    pub(crate) permissions: Permissions,
    /// Relayed addresses as peers see them, by [`Family`].
    pub(crate) relayed: [Option<SocketAddr>; 2],
    // What requests read.
    pub(crate) owner: Owner,
    /// Shown to the other allocations of this relay.
    pub(crate) entry: Arc<Entry>,
    /// Tells an allocation from an earlier one at the same place.
    pub(crate) generation: u32,
}

/// Whose an allocation is, and what is needed to answer its requests.
#[derive(Debug)]
pub(crate) struct Owner {
    pub(crate) user: UserId,
    /// As in the Allocate request: later ones must have the same (error 441).
    pub(crate) username: Box<str>,
    /// Of the Allocate request. It stays good for this allocation when the credential has run out.
    pub(crate) key: Key,
    /// Of the Allocate request, which may be repeated.
    pub(crate) transaction_id: TransactionId,
    /// The response to it carried this token.
    pub(crate) reservation: Option<[u8; 8]>,
    /// The client's address, for the quota by address.
    pub(crate) client_share: std::net::IpAddr,
}

impl Allocation {
    /// Relayed address of a family.
    pub(crate) fn relayed(&self, family: Family) -> Option<SocketAddr> {
        self.relayed[family.index()]
    }
}

/// Number of the relayed socket of the allocation at `slot`.
pub(crate) fn relayed_id(slot: usize, family: Family) -> RelayedId {
    // Allocations are bounded by a u32 divided by two: see `Limits::allocations_max`.
    RelayedId((slot as u32) << 1 | family as u32)
}

/// The reverse of [`relayed_id`].
pub(crate) fn slot_of(id: RelayedId) -> (usize, Family) {
    ((id.0 >> 1) as usize, if id.0 & 1 == 0 { Family::V4 } else { Family::V6 })
}
