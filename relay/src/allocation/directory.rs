//! The relay's own relayed addresses: whose they are, and what the owner's allocation lets in.
//!
//! When both ends of a call are clients of this relay, a packet needs no detour through two relayed sockets: the sender's
//! thread hands it to the other client at once. For that it has to know the other allocation's client, permission and
//! channel. Each allocation shows a copy of these here ([`Entry`]), made anew whenever a request changes them. A sender keeps what
//! it found in its channel ([`super::binding::Inside`]) with the entry's version, and looks again when the version has changed: on the way
//! of a packet that is one load, no lock.
//!
//! All threads of a relay have the same directory.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use super::Allocation;
use crate::packet::ClientPath;
use crate::time::Moment;

/// One allocation as the others see it.
#[derive(Debug)]
pub(crate) struct Entry {
    version: AtomicU32,
    shown: Mutex<Option<Shown>>,
}

#[derive(Debug)]
struct Shown {
    client: ClientPath,
    worker: u16,
    expires: Moment,
    permissions: Box<[(std::net::IpAddr, Moment)]>,
    channels: Box<[(SocketAddr, u16, Moment)]>,
}

/// The way in that an entry shows to one sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WayIn {
    pub(crate) version: u32,
    pub(crate) client: ClientPath,
    pub(crate) worker: u16,
    pub(crate) number: Option<u16>,
    pub(crate) good_until: Moment,
}

impl Entry {
    /// An entry that shows nothing yet.
    pub(crate) fn new() -> Self {
        Self { version: AtomicU32::new(0), shown: Mutex::new(None) }
    }

    /// Changes with everything a sender may remember.
    #[inline]
    pub(crate) fn version(&self) -> u32 {
        self.version.load(Ordering::Acquire)
    }

    /// Shows the allocation as it is now.
    pub(crate) fn show(&self, allocation: &Allocation, worker: u16) {
        let shown = Shown {
            client: allocation.client,
            worker,
            expires: allocation.expires,
            permissions: allocation.permissions.iter().collect(),
            channels: allocation.channels.iter().map(|(number, channel)| (channel.peer, number, channel.expires)).collect(),
        };
        self.replace(Some(shown));
    }

    /// The allocation is gone.
    pub(crate) fn hide(&self) {
        self.replace(None);
    }

    fn replace(&self, shown: Option<Shown>) {
        let mut place = self.lock();
        *place = shown;
        self.version.fetch_add(1, Ordering::Release);
    }

    /// How packets from this relayed address get in: `None` without a permission.
    pub(crate) fn way_in(&self, from: SocketAddr, now: Moment) -> Option<WayIn> {
        let place = self.lock();
        let shown = place.as_ref()?;
        let permitted = shown.permissions.iter().find(|(ip, expires)| *ip == from.ip() && now < *expires)?.1;
        let channel = shown.channels.iter().find(|(peer, _, expires)| *peer == from && now < *expires);
        let good_until = permitted.min(shown.expires).min(channel.map_or(Moment::NEVER, |channel| channel.2));
        (now < good_until).then(|| WayIn {
            version: self.version.load(Ordering::Relaxed),
            client: shown.client,
            worker: shown.worker,
            number: channel.map(|channel| channel.1),
            good_until,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Option<Shown>> {
        // Nothing in here can panic half way through a change.
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All relayed addresses of a relay, as peers see them.
#[derive(Debug, Default)]
pub(crate) struct Directory {
    entries: RwLock<HashMap<SocketAddr, Arc<Entry>>>,
}

impl Directory {
    pub(crate) fn insert(&self, relayed: SocketAddr, entry: &Arc<Entry>) {
        self.entries.write().unwrap_or_else(PoisonError::into_inner).insert(relayed, Arc::clone(entry));
    }

    pub(crate) fn remove(&self, relayed: SocketAddr) {
        self.entries.write().unwrap_or_else(PoisonError::into_inner).remove(&relayed);
    }

    pub(crate) fn get(&self, relayed: SocketAddr) -> Option<Arc<Entry>> {
        self.entries.read().unwrap_or_else(PoisonError::into_inner).get(&relayed).cloned()
    }
}
