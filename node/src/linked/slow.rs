//! Slow hashes of identities in linked systems: one at a time, on a thread of its own, kept in the database.
//!
//! What somebody waits for comes first. Then the contacts of linked accounts, so that a caller's certificate can hint at one of them; where there are many, with rests, so that a quarter of one core is taken at most.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use halloo_protocol::linked::{Carrier, Indicated, LinkedId, SlowId};
use tracing::{debug, warn};

use crate::event_loop::{EventLoop, Internal};
use crate::store::StoreError;

const SLOW_HASHES: &str = "linked slow hashes 1";

/// Hashes kept under one name.
const KEPT_AT_ONCE: usize = 100;

/// Hashes kept: of all contacts that accounts may have. Of more, those of nobody's contacts go.
const KNOWN_MAX: usize = 40_960;

/// Hashes that somebody may wait for; more aren't computed.
const WAITING_MAX: usize = 64;

/// Above so many contacts there are rests between their hashes, of so many times what one takes.
const CONTACTS_AT_ONCE: usize = 64;
const REST: u32 = 3;

/// New ones are written with what else has come by then.
const KEEP_AFTER: Duration = Duration::from_secs(30);

/// What the thread has computed.
#[derive(Debug)]
pub(crate) struct SlowHashed {
    id: LinkedId,
    slow: Result<SlowId, String>,
    took: Duration,
}

/// What is known, and what is computed next.
#[derive(Debug, Default)]
pub(super) struct SlowHashes {
    known: BTreeMap<LinkedId, SlowId>,
    indicated: Indicated,
    waiting: VecDeque<LinkedId>,
    is_running: bool,
    rest_until: Option<Instant>,
    keep_at: Option<Instant>,
}

impl SlowHashes {
    fn insert(&mut self, id: LinkedId, slow: SlowId) {
        self.indicated.insert(slow.indicator, id.clone());
        self.known.insert(id, slow);
    }

    /// The slow hash of an identity, if it was computed.
    pub(super) fn known(&self, id: &LinkedId) -> Option<&SlowId> {
        self.known.get(id)
    }

    /// Whom indicators stand for.
    pub(super) const fn indicated(&self) -> &Indicated {
        &self.indicated
    }
}

impl EventLoop {
    pub(super) fn slow_start(&mut self) {
        match self.store.read::<_, StoreError>(|view| view.setting_list::<(LinkedId, SlowId)>(SLOW_HASHES)) {
            Ok(kept) => kept.into_iter().for_each(|(id, slow)| self.linked.slow.insert(id, slow)),
            Err(error) => warn!(%error, "slow hashes not read"),
        }
    }

    /// The slow hash of an identity; `None`: it comes later ([`EventLoop::handle_slow_hashed`]), or there is no room to wait.
    pub(crate) fn slow_of(&mut self, id: &LinkedId) -> Option<SlowId> {
        let slow = &mut self.linked.slow;
        if let Some(known) = slow.known.get(id) {
            return Some(known.clone());
        }
        if !slow.waiting.contains(id) && slow.waiting.len() < WAITING_MAX {
            slow.waiting.push_back(id.clone());
        }
        self.hash_next(Instant::now());
        None
    }

    /// The slow hash of an identity, if it was computed.
    pub(crate) fn slow_known(&self, id: &LinkedId) -> Option<SlowId> {
        self.linked.slow.known(id).cloned()
    }

    /// Begins the next hash, unless one is under way.
    fn hash_next(&mut self, now: Instant) {
        if self.linked.slow.is_running {
            return;
        }
        let Some(id) = self.linked.slow.waiting.pop_front().or_else(|| self.next_contact_to_hash(now)) else { return };
        self.linked.slow.is_running = true;
        let news = self.internal_sender.clone();
        tokio::task::spawn_blocking(move || {
            let begun = Instant::now();
            let slow = SlowId::of(&id).map_err(|error| error.to_string());
            // Whoever has ended doesn't miss it.
            let _gone = news.blocking_send(Internal::SlowHashed(Box::new(SlowHashed { id, slow, took: begun.elapsed() })));
        });
    }

    fn next_contact_to_hash(&self, now: Instant) -> Option<LinkedId> {
        let slow = &self.linked.slow;
        let is_resting = slow.rest_until.is_some_and(|until| now < until);
        let is_used = [Carrier::Certificate, Carrier::Presence].into_iter().any(|carrier| self.carriers().has(carrier));
        if is_resting || !is_used {
            return None;
        }
        let contacts = self.linked.lists.values().flat_map(BTreeMap::keys);
        contacts.into_iter().find(|id| !slow.known.contains_key(*id)).cloned()
    }

    pub(crate) fn handle_slow_hashed(&mut self, hashed: SlowHashed) {
        let SlowHashed { id, slow, took } = hashed;
        let contacts: usize = self.linked.lists.values().map(BTreeMap::len).sum();
        let now = Instant::now();
        self.linked.slow.is_running = false;
        self.linked.slow.rest_until = (contacts > CONTACTS_AT_ONCE).then(|| now + took * REST);
        match slow {
            Ok(slow) => {
                debug!(took_ms = took.as_millis(), "slow hash computed");
                self.linked.slow.insert(id.clone(), slow);
                self.linked.slow.keep_at.get_or_insert(now + KEEP_AFTER);
            }
            Err(error) => warn!(error, "slow hash not computed"),
        }
        self.listings_slow_known(&id);
        self.certify_slow_known(&id);
        self.match_told(Some(&id));
        self.tell_contacts_soon();
        self.hash_next(now);
    }

    pub(super) fn slow_tick(&mut self, now: Instant) {
        self.hash_next(now);
        if self.linked.slow.keep_at.is_some_and(|at| at <= now) {
            self.keep_slow_hashes();
        }
    }

    /// Writes what isn't written yet.
    pub(super) fn keep_slow_hashes(&mut self) {
        if self.linked.slow.keep_at.take().is_none() {
            return;
        }
        if self.linked.slow.known.len() > KNOWN_MAX {
            let lists = &self.linked.lists;
            self.linked.slow.known.retain(|id, _| lists.values().any(|list| list.contains_key(id)));
            let known = &self.linked.slow.known;
            self.linked.slow.indicated.retain(|_, id| known.contains_key(id));
        }
        let kept: Vec<(LinkedId, SlowId)> = self.linked.slow.known.iter().map(|(id, slow)| (id.clone(), slow.clone())).collect();
        if let Err(error) = self.store.transaction::<_, StoreError>(|tx| tx.put_setting_list(SLOW_HASHES, &kept, KEPT_AT_ONCE)) {
            warn!(%error, "slow hashes not written");
        }
    }
}
