//! What users may use: allocations, bytes and packets, for each user, each address and in total.
//!
//! **Leases.** A packet is paid for out of its allocation's [`Lease`], some packets' worth that were taken from the accounts in
//! advance: one subtraction a packet, and a look at the accounts, which all threads share, only when the lease is used up. What
//! is left of a lease goes back when a new one is taken or the allocation ends. So a limit is kept to within one lease for each allocation: some 50 to 200 ms
//! of what it uses.
//!
//! **Rates** of a user and of an address are token buckets, full after [`BURST`].
//!
//! **Fair shares.** The total is divided anew every [`TICK`]. Each user's demand of late is known, what was refused included. Classes are served in
//! their order, each leaving a little ([`LEFT_PART`]) to those after it; within a class the smallest demands are met in full and the others get an equal share of what is left (max-min
//! fairness). When there is enough for all, what is left over is shared out as well, so that demands can grow. A user that has
//! been quiet may take the equal share at once: a tick may then give out more than it has, and the next one has that much less.
//!
//! One packet is charged once, to the allocation it came through: that of the sending client, or that of the receiving one if it came from outside.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use slab::Slab;

use crate::defaults;
use crate::metrics::DropReason;
use crate::time::Moment;

/// How often the total is divided anew: short beside what a listener notices, long beside a packet's interval in a voice stream (20 ms).
const TICK: Duration = Duration::from_millis(50);

/// Unused time that a rate remembers: a second of a rate may be used at once, as by a key frame of a video.
const BURST: Duration = Duration::from_secs(1);

/// How long a refused allocation isn't looked at again: refusing must cost less than relaying.
const RETRY: Duration = Duration::from_millis(5);

/// What is paid in advance at first: one packet. Twice as much each time a lease is used up before [`LEASE_SHORT`], half as much each time it lasted
/// beyond [`LEASE_LONG`]: hundreds of quiet allocations must not hold what others need, and a busy one must not ask for each packet.
const LEASE_FIRST: [f64; 2] = [1_500.0, 1.0];

/// How often a lease may double: to 256 packets.
const LEASE_DOUBLINGS_MAX: u8 = 8;

/// A lease that lasts less is too small.
const LEASE_SHORT: Duration = Duration::from_millis(50);

/// A lease that lasts longer is too large.
const LEASE_LONG: Duration = Duration::from_millis(200);

/// Part of a second's, or of a tick's allowance, that is paid in advance: several allocations of a user have to get along.
const LEASE_PART: f64 = 1.0 / 16.0;

/// Part of what a class finds that it leaves to the classes after it, as far as they want it. A call that gets nothing for seconds is given
/// up for dead by both ends, and its users can't tell overload from a broken relay; a tenth keeps signalling and a little sound alive, and those
/// who go first hardly notice.
const LEFT_PART: f64 = 0.1;

/// What of a demand is remembered from tick to tick: half of it after 7 ticks. A mean, as a lease lasts for several ticks.
const DEMAND_MEMORY: f64 = 0.9;

/// Users without allocations whose usage and rate are remembered, about 200 bytes each. The one that left first is forgotten first.
const USERS_REMEMBERED_MAX: usize = 4_096;

/// Who goes first when there isn't enough for all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ServiceClass {
    /// Served before all others, but for a tenth that is left to them.
    First,
    /// Served after those, but for a tenth of what they left.
    #[default]
    Normal,
    /// Served with what is left: at least a hundredth of the total.
    Last,
}

const CLASSES: [ServiceClass; 3] = [ServiceClass::First, ServiceClass::Normal, ServiceClass::Last];

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
    /// Bytes a second of one client address (IPv6: one /64), both directions together.
    pub address_bytes_per_sec: u64,
    /// Packets a second of one client address, both directions together.
    pub address_packets_per_sec: u64,
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
            address_bytes_per_sec: 0,
            address_packets_per_sec: 0,
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
    /// Packets refused, by the quota: in the order of [`QUOTA_REASONS`].
    dropped: [u64; QUOTA_REASONS.len()],
}

impl Usage {
    /// Packets dropped because a quota was used up, by the quota.
    pub fn dropped(&self) -> impl Iterator<Item = (DropReason, u64)> {
        QUOTA_REASONS.into_iter().zip(self.dropped)
    }
}

/// Number of a user with allocations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct UserId(u32);

/// Whose number of allocations is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AdmissionRefusal {
    User,
    Address,
    Total,
}

/// What an allocation may still send before it has to ask again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Lease {
    bytes: u32,
    packets: u32,
    /// What there was of both at first.
    granted: [u32; 2],
    /// What was refused since the accounts were last asked.
    refused: [u32; 2],
    retry_at: Moment,
    reason: Option<DropReason>,
    granted_at: Moment,
    doublings: u8,
}

impl Lease {
    /// How large the next one is to be.
    fn next_doublings(&self, now: Moment) -> u8 {
        let lasted = now.since(self.granted_at);
        match self.doublings {
            doublings if lasted < LEASE_SHORT => (doublings + 1).min(LEASE_DOUBLINGS_MAX),
            doublings if lasted > LEASE_LONG => doublings.saturating_sub(1),
            doublings => doublings,
        }
    }

    /// Pays for one packet; false if the lease doesn't cover it.
    #[inline]
    pub(crate) fn pay(&mut self, bytes: usize) -> bool {
        if self.packets == 0 || (self.bytes as usize) < bytes {
            return false;
        }
        // Not more than `self.bytes`, so not more than a u32.
        self.bytes -= bytes as u32;
        self.packets -= 1;
        true
    }

    fn refuse(&mut self, bytes: usize) {
        self.refused[BYTES] = self.refused[BYTES].saturating_add(bytes as u32);
        self.refused[PACKETS] = self.refused[PACKETS].saturating_add(1);
    }
}

const BYTES: usize = 0;
const PACKETS: usize = 1;
const RESOURCES: [usize; 2] = [BYTES, PACKETS];

/// A rate and what of it hasn't been used.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    tokens: f64,
    refilled: Moment,
}

impl Bucket {
    fn full(rate: f64, now: Moment) -> Self {
        Self { tokens: rate * BURST.as_secs_f64(), refilled: now }
    }

    fn refill(&mut self, rate: f64, now: Moment) {
        let earned = now.since(self.refilled).as_secs_f64() * rate;
        self.tokens = (self.tokens + earned).min(rate * BURST.as_secs_f64());
        // Threads may read the clock in another order than they come here.
        self.refilled = self.refilled.max(now);
    }
}

/// A user's part of the total in this tick, for one resource.
#[derive(Debug, Clone, Copy, Default)]
struct Part {
    /// Used and refused in this tick.
    demand: f64,
    /// Demand of a tick, of late.
    usual: f64,
    /// What may still be used in this tick.
    allowance: f64,
    /// What was used beyond the allowance before this tick: below zero.
    overdraft: f64,
}

/// The accounts of all users.
#[derive(Debug)]
pub(crate) struct Shares {
    limits: Limits,
    /// Zero: no limit.
    user_rates: [f64; 2],
    address_rates: [f64; 2],
    total_rates: [f64; 2],
    /// No rate is limited: large leases take nothing from anybody.
    is_unlimited: bool,
    accounts: Mutex<Accounts>,
}

#[derive(Debug, Default)]
struct Accounts {
    users: Slab<User>,
    by_name: HashMap<Box<str>, u32>,
    by_address: HashMap<IpAddr, Address>,
    allocations: u32,
    tick_started: Moment,
    /// What was given out in this tick, and before that beyond what there was; below zero if it was less.
    given: [f64; 2],
    /// Users without allocations, by when they left: number, and count of departures to tell a later one.
    departed: VecDeque<(u32, u32)>,
}

#[derive(Debug)]
struct User {
    name: Box<str>,
    class: ServiceClass,
    usage: Usage,
    buckets: [Bucket; 2],
    parts: [Part; 2],
    departures: u32,
}

#[derive(Debug)]
struct Address {
    allocations: u32,
    buckets: [Bucket; 2],
}

impl Shares {
    pub(crate) fn new(limits: Limits) -> Self {
        // Rates beyond 2^52 bytes a second would lose precision; there are none.
        let rates = |bytes: u64, packets: u64| [bytes as f64, packets as f64];
        let user_rates = rates(limits.user_bytes_per_sec, limits.user_packets_per_sec);
        let address_rates = rates(limits.address_bytes_per_sec, limits.address_packets_per_sec);
        let total_rates = rates(limits.total_bytes_per_sec, limits.total_packets_per_sec);
        Self {
            is_unlimited: [user_rates, address_rates, total_rates].as_flattened().iter().all(|rate| *rate == 0.0),
            user_rates,
            address_rates,
            total_rates,
            limits,
            accounts: Mutex::default(),
        }
    }

    /// Counts one more allocation of this user.
    pub(crate) fn admit(
        &self,
        name: &str,
        class: ServiceClass,
        address: IpAddr,
        now: Moment,
    ) -> Result<UserId, AdmissionRefusal> {
        let accounts = &mut *self.lock();
        if accounts.allocations >= self.limits.allocations_max {
            return Err(AdmissionRefusal::Total);
        }
        let of_address = accounts.by_address.get(&address).map_or(0, |address| address.allocations);
        if of_address >= self.limits.allocations_per_address_max {
            return Err(AdmissionRefusal::Address);
        }
        let known = accounts.by_name.get(name).copied();
        let of_user = known.and_then(|id| accounts.users.get(id as usize)).map_or(0, |user| user.usage.allocations);
        if of_user >= self.limits.allocations_per_user_max {
            return Err(AdmissionRefusal::User);
        }
        let id = known.unwrap_or_else(|| self.enter(accounts, name, now));
        let user = &mut accounts.users[id as usize];
        user.class = class;
        user.usage.allocations += 1;
        accounts.allocations += 1;
        let address = accounts.by_address.entry(address).or_insert_with(|| Address {
            allocations: 0,
            buckets: RESOURCES.map(|resource| Bucket::full(self.address_rates[resource], now)),
        });
        address.allocations += 1;
        Ok(UserId(id))
    }

    fn enter(&self, accounts: &mut Accounts, name: &str, now: Moment) -> u32 {
        let count = accounts.users.len() as f64 + 1.0;
        let parts = RESOURCES.map(|resource| Part {
            // The equal share, until the next tick knows better.
            allowance: self.total_rates[resource] * TICK.as_secs_f64() / count,
            ..Part::default()
        });
        let id = accounts.users.insert(User {
            name: name.into(),
            class: ServiceClass::default(),
            usage: Usage::default(),
            buckets: RESOURCES.map(|resource| Bucket::full(self.user_rates[resource], now)),
            parts,
            departures: 0,
        }) as u32;
        accounts.by_name.insert(name.into(), id);
        id
    }

    /// One allocation less.
    pub(crate) fn dismiss(&self, id: UserId, address: IpAddr, mut lease: Lease) {
        let accounts = &mut *self.lock();
        accounts.settle(id, address, &mut lease);
        accounts.allocations = accounts.allocations.saturating_sub(1);
        if let Some(found) = accounts.by_address.get_mut(&address) {
            found.allocations -= 1;
            if found.allocations == 0 {
                accounts.by_address.remove(&address);
            }
        }
        let Some(user) = accounts.users.get_mut(id.0 as usize) else { return };
        user.usage.allocations -= 1;
        if user.usage.allocations == 0 {
            user.departures = user.departures.wrapping_add(1);
            accounts.departed.push_back((id.0, user.departures));
            accounts.forget_departed();
        }
    }

    /// Pays for one packet, with a new lease where the old one is used up.
    #[cold]
    pub(crate) fn pay_anew(
        &self,
        id: UserId,
        address: IpAddr,
        lease: &mut Lease,
        bytes: usize,
        now: Moment,
    ) -> Result<(), DropReason> {
        if let Some(reason) = lease.reason.filter(|_| now < lease.retry_at) {
            lease.refuse(bytes);
            return Err(reason);
        }
        let accounts = &mut *self.lock();
        let doublings = if self.is_unlimited { LEASE_DOUBLINGS_MAX } else { lease.next_doublings(now) };
        let granted_at = lease.granted_at;
        accounts.settle(id, address, lease);
        self.divide_if_due(accounts, now);
        let most = LEASE_FIRST.map(|first| first * f64::from(1_u32 << doublings));
        match self.grant(accounts, id, address, bytes, most, now) {
            Ok(granted) => {
                let [granted_bytes, packets] = granted;
                *lease = Lease { bytes: granted_bytes, packets, granted, granted_at: now, doublings, ..Lease::default() };
                lease.pay(bytes);
                Ok(())
            }
            Err(reason) => {
                *lease = Lease { retry_at: now.after(RETRY), reason: Some(reason), granted_at, doublings, ..Lease::default() };
                lease.refuse(bytes);
                Err(reason)
            }
        }
    }

    /// Takes from all accounts as much as each of them has and at most `most`, but at least one packet of that many bytes.
    fn grant(
        &self,
        accounts: &mut Accounts,
        id: UserId,
        address: IpAddr,
        bytes: usize,
        most: [f64; 2],
        now: Moment,
    ) -> Result<[u32; 2], DropReason> {
        let Accounts { users, by_address, given, .. } = accounts;
        let Some(user) = users.get_mut(id.0 as usize) else { return Err(DropReason::NoAllocation) };
        let mut address = by_address.get_mut(&address);
        let needed = [bytes as f64, 1.0];
        let mut granted = [0.0; 2];
        for resource in RESOURCES {
            let mut grant = most[resource];
            let rated = [
                (self.user_rates[resource], Some(&mut user.buckets[resource]), USER_REASONS),
                (self.address_rates[resource], address.as_mut().map(|address| &mut address.buckets[resource]), ADDRESS_REASONS),
            ];
            for (rate, bucket, reasons) in rated {
                if let Some(bucket) = bucket.filter(|_| rate > 0.0) {
                    bucket.refill(rate, now);
                    // A packet larger than a second of the rate waits until there is a second's worth.
                    if bucket.tokens < needed[resource].min(rate * BURST.as_secs_f64()) {
                        return Err(reasons[resource]);
                    }
                    grant = grant.min((rate * LEASE_PART).max(LEASE_FIRST[resource])).min(bucket.tokens);
                }
            }
            if self.total_rates[resource] > 0.0 {
                let part = &user.parts[resource];
                if part.allowance <= 0.0 {
                    return Err(TOTAL_REASONS[resource]);
                }
                grant = grant.min((part.allowance * LEASE_PART).max(LEASE_FIRST[resource]));
            }
            granted[resource] = grant.max(needed[resource]).ceil();
        }
        for resource in RESOURCES {
            take(user, address.as_deref_mut(), given, resource, granted[resource]);
        }
        // At most the largest lease or packet.
        Ok(granted.map(|amount| amount as u32))
    }

    fn divide_if_due(&self, accounts: &mut Accounts, now: Moment) {
        let elapsed = now.since(accounts.tick_started);
        if elapsed < TICK {
            return;
        }
        for resource in RESOURCES.into_iter().filter(|resource| self.total_rates[*resource] > 0.0) {
            accounts.divide(resource, self.total_rates[resource], elapsed.as_secs_f64());
        }
        accounts.tick_started = now;
    }

    /// All users that are remembered and what they have used.
    pub(crate) fn usage(&self) -> Vec<(Box<str>, Usage)> {
        self.lock().users.iter().map(|(_, user)| (user.name.clone(), user.usage)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Accounts> {
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a quota has a packet dropped.
const QUOTA_REASONS: [DropReason; 6] = [
    DropReason::UserBandwidth,
    DropReason::UserPackets,
    DropReason::AddressBandwidth,
    DropReason::AddressPackets,
    DropReason::TotalBandwidth,
    DropReason::TotalPackets,
];
const USER_REASONS: [DropReason; 2] = [DropReason::UserBandwidth, DropReason::UserPackets];
const ADDRESS_REASONS: [DropReason; 2] = [DropReason::AddressBandwidth, DropReason::AddressPackets];
const TOTAL_REASONS: [DropReason; 2] = [DropReason::TotalBandwidth, DropReason::TotalPackets];

/// Takes from all accounts; a negative amount goes back.
fn take(user: &mut User, address: Option<&mut Address>, given: &mut [f64; 2], resource: usize, amount: f64) {
    user.buckets[resource].tokens -= amount;
    user.parts[resource].allowance -= amount;
    given[resource] += amount;
    if let Some(address) = address {
        address.buckets[resource].tokens -= amount;
    }
}

impl Accounts {
    /// Counts what of a lease was used, and puts the rest back.
    fn settle(&mut self, id: UserId, address: IpAddr, lease: &mut Lease) {
        let Self { users, by_address, given, .. } = self;
        let Some(user) = users.get_mut(id.0 as usize) else { return };
        let mut address = by_address.get_mut(&address);
        let left = [lease.bytes, lease.packets];
        for resource in RESOURCES {
            let used = lease.granted[resource] - left[resource];
            user.parts[resource].demand += f64::from(used) + f64::from(lease.refused[resource]);
            take(user, address.as_deref_mut(), given, resource, -f64::from(left[resource]));
            let total = if resource == BYTES { &mut user.usage.bytes } else { &mut user.usage.packets };
            *total += u64::from(used);
        }
        if let Some(place) = QUOTA_REASONS.iter().position(|reason| Some(*reason) == lease.reason) {
            user.usage.dropped[place] += u64::from(lease.refused[PACKETS]);
        }
        *lease = Lease::default();
    }

    /// Divides a tick's worth of the total among the users.
    fn divide(&mut self, resource: usize, rate: f64, elapsed: f64) {
        let tick = TICK.as_secs_f64();
        // What was given out too much is missing now; of what wasn't used, one tick's worth is still there.
        let debt = (self.given[resource] - rate * elapsed).max(-rate * tick);
        self.given[resource] = debt;
        // Ticks begin when somebody asks, mostly a little late: the next one will be as long as the last.
        let budget = rate * elapsed.min(2.0 * tick);
        let mut left = (budget - debt).max(0.0);
        for (_, user) in &mut self.users {
            let part = &mut user.parts[resource];
            part.usual = part.usual * DEMAND_MEMORY + part.demand * tick / elapsed * (1.0 - DEMAND_MEMORY);
            part.demand = 0.0;
        }
        let present = self.users.iter().filter(|(_, user)| user.usage.allocations > 0);
        let count = present.count().max(1) as f64;
        for class in CLASSES {
            let demands = |is_meant: &dyn Fn(ServiceClass) -> bool| -> Vec<f64> {
                let members = self.users.iter().filter(|(_, user)| is_meant(user.class) && user.usage.allocations > 0);
                members.map(|(_, user)| user.parts[resource].usual).collect()
            };
            let wanted_later: f64 = demands(&|other| other > class).iter().sum();
            let (level, used) = water_level(demands(&|other| other == class), left - wanted_later.min(left * LEFT_PART));
            left -= used;
            for (_, user) in self.users.iter_mut().filter(|(_, user)| user.class == class) {
                let part = &mut user.parts[resource];
                // A lease may be more than there was for a small share. Who had one waits for as long as it lasts.
                part.overdraft = part.allowance.min(0.0);
                part.allowance = level;
            }
        }
        // What nobody has wanted so far is there for who wants more from now on.
        for (_, user) in &mut self.users {
            let part = &mut user.parts[resource];
            part.allowance = part.allowance.min(part.usual.max(budget / count)) + left / count + part.overdraft;
        }
    }

    fn forget_departed(&mut self) {
        while self.departed.len() > USERS_REMEMBERED_MAX {
            let Some((id, departures)) = self.departed.pop_front() else { return };
            let is_gone = |user: &User| user.usage.allocations == 0 && user.departures == departures;
            if self.users.get(id as usize).is_some_and(is_gone) {
                let user = self.users.remove(id as usize);
                self.by_name.remove(&user.name);
            }
        }
    }
}

/// The level up to which demands can be met with `budget`, and what meeting them takes: demands below it are met in full,
/// the others get the level.
fn water_level(mut demands: Vec<f64>, budget: f64) -> (f64, f64) {
    demands.sort_by(f64::total_cmp);
    let (mut left, mut count) = (budget, demands.len() as f64);
    for demand in &demands {
        let equal = left / count;
        if *demand > equal {
            return (equal, budget);
        }
        left -= demand;
        count -= 1.0;
    }
    // Enough for all: the level is what everybody might take instead of the others.
    (budget, budget - left)
}

#[cfg(test)]
mod tests;
