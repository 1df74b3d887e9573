//! From a client's path to its allocation: one hash of 24 bytes, and none for packets that follow each other from one client.
//!
//! The hash is keyed with a secret, so that nobody can choose source ports which collide. Only authenticated clients
//! have entries.

use std::collections::HashMap;
use std::net::IpAddr;

use foldhash::SharedSeed;
use foldhash::fast::SeedableRandomState;

use crate::packet::{ClientPath, Transport};

/// A path as two numbers, cheap to hash and compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct PathKey {
    ip: u128,
    /// Port, kind of transport and its number.
    rest: u64,
}

impl PathKey {
    /// Matches nothing: a kind of transport that isn't there.
    const NONE: Self = Self { ip: 0, rest: u64::MAX };

    #[inline]
    pub(crate) fn new(path: &ClientPath) -> Self {
        let ip = match path.address.ip() {
            // Not the mapped form's bits, which would cost a byte swap more: the family is told apart by `rest`.
            IpAddr::V4(ip) => u128::from(u32::from_ne_bytes(ip.octets())),
            IpAddr::V6(ip) => u128::from_ne_bytes(ip.octets()),
        };
        let (kind, number) = match path.transport {
            Transport::Datagram(listener) => (0, u64::from(listener.0)),
            Transport::Stream(stream) => (1, u64::from(stream.0)),
        };
        let family = u64::from(path.address.is_ipv6());
        Self { ip, rest: number << 32 | kind << 17 | family << 16 | u64::from(path.address.port()) }
    }
}

/// Allocations by the path of their client.
#[derive(Debug)]
pub(crate) struct FiveTuples {
    slots: HashMap<PathKey, u32, SeedableRandomState>,
    last: (PathKey, u32),
}

impl FiveTuples {
    /// An empty table whose hash is keyed with this secret.
    pub(crate) fn new(secret: u64) -> Self {
        let state = SeedableRandomState::with_seed(secret, SharedSeed::global_random());
        Self { slots: HashMap::with_hasher(state), last: (PathKey::NONE, 0) }
    }

    #[inline]
    pub(crate) fn get(&mut self, path: &ClientPath) -> Option<usize> {
        let key = PathKey::new(path);
        if self.last.0 == key {
            return Some(self.last.1 as usize);
        }
        let slot = *self.slots.get(&key)?;
        self.last = (key, slot);
        Some(slot as usize)
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(crate) fn insert(&mut self, path: &ClientPath, slot: usize) {
        self.last.0 = PathKey::NONE;
        self.slots.insert(PathKey::new(path), slot as u32);
    }

    pub(crate) fn remove(&mut self, path: &ClientPath) {
        self.last.0 = PathKey::NONE;
        self.slots.remove(&PathKey::new(path));
    }
}
