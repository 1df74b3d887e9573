//! What users may use: allocations, bytes and packets, for each user, each address and in total.
//!
//! A packet is paid for out of its allocation's [`Lease`], some packets' worth that were taken from the user's account in
//! advance: one subtraction a packet, and a look at the account, which all threads share, only when the lease is used up.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Deserialize;
use slab::Slab;

use crate::defaults;
use crate::metrics::DropReason;
use crate::time::Moment;

/// Who goes first when there isn't enough for all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ServiceClass {
    /// Served before all others.
    First,
    /// Served after those.
    #[default]
    Normal,
    /// Served with what is left.
    Last,
}

/// What users may use. Zero means no limit for rates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Allocations of all users.
    pub allocations_max: u32,
    /// Allocations of one user.
    pub allocations_per_user_max: u32,
    /// Allocations of one client address (IPv6: one /64).
    pub allocations_per_address_max: u32,
    /// Permissions of one allocation.
    pub permissions_max: u32,
    /// Channels of one allocation.
    pub channels_max: u32,
    /// Bytes a second of one user, both directions together.
    pub user_bytes_per_sec: u64,
    /// Packets a second of one user, both directions together.
    pub user_packets_per_sec: u64,
    /// Bytes a second of all users.
    pub total_bytes_per_sec: u64,
    /// Packets a second of all users.
    pub total_packets_per_sec: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            allocations_max: defaults::ALLOCATIONS_MAX,
            allocations_per_user_max: defaults::ALLOCATIONS_PER_USER_MAX,
            allocations_per_address_max: defaults::ALLOCATIONS_PER_ADDRESS_MAX,
            permissions_max: defaults::PERMISSIONS_MAX,
            channels_max: defaults::CHANNELS_MAX,
            user_bytes_per_sec: defaults::USER_BYTES_PER_SEC,
            user_packets_per_sec: defaults::USER_PACKETS_PER_SEC,
            total_bytes_per_sec: defaults::TOTAL_BYTES_PER_SEC,
            total_packets_per_sec: defaults::TOTAL_PACKETS_PER_SEC,
        }
    }
}

/// What a user has used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Usage {
    /// Bytes relayed, without headers.
    pub bytes: u64,
    /// Packets relayed.
    pub packets: u64,
    /// Allocations now.
    pub allocations: u32,
}

/// Number of a user with allocations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct UserId(u32);

/// Why no allocation is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AdmissionRefusal {
    UserAllocations,
    AddressAllocations,
    TotalAllocations,
}

/// What an allocation may still send before it has to ask again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Lease {
    bytes: u32,
    packets: u32,
    retry_at: Moment,
}

impl Lease {
    /// Pays for one packet; false if the lease doesn't cover it.
    #[inline]
    pub(crate) fn pay(&mut self, bytes: usize) -> bool {
        if self.packets == 0 || self.bytes as usize <= bytes {
            return false;
        }
        self.bytes -= bytes as u32;
        self.packets -= 1;
        true
    }
}

const LEASE_BYTES: u32 = 64 << 10;
const LEASE_PACKETS: u32 = 256;

/// The accounts of all users.
#[derive(Debug)]
pub(crate) struct Shares {
    limits: Limits,
    accounts: Mutex<Accounts>,
}

#[derive(Debug, Default)]
struct Accounts {
    users: Slab<User>,
    by_name: HashMap<Box<str>, u32>,
    by_address: HashMap<IpAddr, u32>,
    allocations: u32,
}

#[derive(Debug)]
struct User {
    name: Box<str>,
    usage: Usage,
}

impl Shares {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { limits, accounts: Mutex::default() }
    }

    /// Counts one more allocation of this user.
    pub(crate) fn admit(&self, name: &str, _class: ServiceClass, address: IpAddr) -> Result<UserId, AdmissionRefusal> {
        let accounts = &mut *self.lock();
        if accounts.allocations >= self.limits.allocations_max {
            return Err(AdmissionRefusal::TotalAllocations);
        }
        let of_address = accounts.by_address.get(&address).copied().unwrap_or(0);
        if of_address >= self.limits.allocations_per_address_max {
            return Err(AdmissionRefusal::AddressAllocations);
        }
        let id = match accounts.by_name.get(name) {
            Some(id) => *id,
            None => {
                let id = accounts.users.insert(User { name: name.into(), usage: Usage::default() }) as u32;
                accounts.by_name.insert(name.into(), id);
                id
            }
        };
        let user = &mut accounts.users[id as usize];
        if user.usage.allocations >= self.limits.allocations_per_user_max {
            return Err(AdmissionRefusal::UserAllocations);
        }
        user.usage.allocations += 1;
        accounts.allocations += 1;
        accounts.by_address.insert(address, of_address + 1);
        Ok(UserId(id))
    }

    /// One allocation less.
    pub(crate) fn dismiss(&self, id: UserId, address: IpAddr, _lease: Lease) {
        let accounts = &mut *self.lock();
        accounts.allocations = accounts.allocations.saturating_sub(1);
        if let Some(count) = accounts.by_address.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                accounts.by_address.remove(&address);
            }
        }
        if let Some(user) = accounts.users.get_mut(id.0 as usize) {
            user.usage.allocations -= 1;
            if user.usage.allocations == 0 {
                let user = accounts.users.remove(id.0 as usize);
                accounts.by_name.remove(&user.name);
            }
        }
    }

    /// Pays for one packet, with a new lease where the old one is used up.
    #[cold]
    pub(crate) fn pay_anew(&self, _id: UserId, lease: &mut Lease, bytes: usize, now: Moment) -> Result<(), DropReason> {
        if now < lease.retry_at {
            return Err(DropReason::UserBandwidth);
        }
        *lease = Lease { bytes: LEASE_BYTES, packets: LEASE_PACKETS, retry_at: now };
        lease.pay(bytes);
        Ok(())
    }

    /// All users and what they have used.
    pub(crate) fn usage(&self) -> Vec<(Box<str>, Usage)> {
        self.lock().users.iter().map(|(_, user)| (user.name.clone(), user.usage)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Accounts> {
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
