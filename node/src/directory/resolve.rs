//! Resolving: a name becomes a record, from the cache or the network, for whoever asked.

use halloo_protocol::contact::Seen;

use super::*;

/// How long a cached record answers without asking the network.
const CACHE_FRESH: Duration = Duration::from_secs(5 * 60);

/// Records kept in memory; the one fetched longest ago makes room.
const CACHE_MAX: usize = 1_024;

/// Look-ups under way for different names.
const LOOKUPS_MAX: usize = 512;

/// Largest open part, with epoch and nonce.
const OPEN_PART_BYTES_MAX: usize = 1_024;

/// Waiters for one look-up.
const WAITERS_MAX: usize = 256;

impl EventLoop {
    pub(crate) fn handle_resolve(&mut self, user: &str, options: ResolveOptions, reply: Reply<Resolved, ResolveError>) {
        match self.labels.parse(user) {
            Ok(user) => self.resolve_user(&user, Waiter::Command(options, reply)),
            Err(error) => reply.send(Err(error.into())),
        }
    }

    pub(crate) fn handle_why(&mut self, user: &str, reply: Reply<Explanation, WhyError>) {
        // A contact in a linked system is whoever they show there that they are.
        let linked = self.linked_user(user);
        match linked.map_or_else(|| self.labels.parse(user), Ok) {
            Ok(id) => {
                let shown = self.labels.display(&id);
                self.resolve_user(&id, Waiter::Why(shown, reply));
            }
            Err(error) => reply.send(Err(error.into())),
        }
    }

    /// Finds a user's record for `waiter`: in the cache if it is fresh enough, else in the directory. Look-ups of one user are shared.
    pub(crate) fn resolve_user(&mut self, user: &UserId, waiter: Waiter) {
        let now = self.now();
        let key = RecordKey::of(user);
        let options = match &waiter {
            Waiter::Command(options, _) => *options,
            Waiter::Why(..) | Waiter::DialAgain(_) | Waiter::Devices(_) => ResolveOptions { fresh: true, settled: false },
            // What the nearest replica says may be what we had: all are asked.
            Waiter::Redial(..) | Waiter::Moved(..) | Waiter::MessagesAgain => ResolveOptions { fresh: true, settled: true },
            Waiter::Dial(_) | Waiter::Messages | Waiter::Contact(_) | Waiter::Group(_) | Waiter::Presence => {
                ResolveOptions::default()
            }
        };
        if !options.fresh
            && !options.settled
            && let Some((record, age)) = self.cached(&key, now.unix)
            && age < CACHE_FRESH
        {
            let found = Answered { source: ResolveSource::Cache, settled: false, age, requests: 0, elapsed: Duration::ZERO };
            return self.satisfy(waiter, user, Ok((&record, found)));
        }
        let mode = if options.settled { Mode::Settled } else { Mode::First };
        if mode == Mode::First
            && let Some(job) = self.directory.jobs.values_mut().find(|job| job.user == *user && job.waiters.len() < WAITERS_MAX)
        {
            job.waiters.push(waiter);
            return;
        }
        if self.directory.jobs.len() >= LOOKUPS_MAX {
            let full = crate::handle::problem::NodeError::LimitReached { what: "look-ups", max: LOOKUPS_MAX };
            return self.satisfy(waiter, user, Err(ResolveError::Node(full)));
        }
        // A message comes here when what was known failed: our own copy, which may be from an earlier run, is known too.
        // A network's only server has nobody to ask: what it holds itself is what there is.
        let has_others = self.directory.machine.table_counts().0 > 0;
        let is_remote_only = has_others && (options.fresh || matches!(waiter, Waiter::Messages));
        let query = self.directory.machine.find_record(now, key, FindOptions { mode, is_remote_only });
        self.directory.jobs.insert(query, Job { user: user.clone(), waiters: vec![waiter] });
    }

    pub(super) fn cached(&mut self, key: &RecordKey, now: UnixTime) -> Option<(DirectoryRecord, Duration)> {
        if !self.directory.cache.contains_key(key)
            && let Ok(Some(stored)) = self.store.read::<_, StoreError>(|view| view.cached_record(key))
            && let Ok(record) = UnverifiedRecord::from_bytes(&stored.record).and_then(|record| record.verify(now, &self.trust))
        {
            self.cache(record, stored.fetched_at);
        }
        let cached = self.directory.cache.get(key)?;
        // Verified anew: since it was fetched it may have expired or been revoked.
        let record = cached.record.to_unverified().verify(now, &self.trust).ok()?;
        Some((record, Duration::from_secs(now.secs_since(cached.fetched))))
    }

    pub(super) fn cache(&mut self, record: DirectoryRecord, fetched: UnixTime) {
        let cache = &mut self.directory.cache;
        if cache.len() >= CACHE_MAX
            && !cache.contains_key(&record.key())
            && let Some(oldest) = cache.iter().min_by_key(|(_, cached)| cached.fetched).map(|(key, _)| *key)
        {
            cache.remove(&oldest);
        }
        cache.insert(record.key(), Cached { record, fetched });
    }

    /// Forgets what we have of a user: it turned out to be old.
    pub(crate) fn forget_cached(&mut self, user: &UserId) {
        let key = RecordKey::of(user);
        self.directory.cache.remove(&key);
        if let Err(error) = self.store.transaction::<_, StoreError>(|tx| tx.remove_cached_record(&key)) {
            debug!(%error, "cache not written");
        }
    }

    pub(super) fn lookup_finished(&mut self, query: QueryId, result: &FindResult) {
        let Some(job) = self.directory.jobs.remove(&query) else { return };
        let is_told_nothing = matches!(result.outcome, FindOutcome::Inconclusive);
        if is_told_nothing && self.directory.early.len() < LOOKUPS_MAX && self.is_joining_first() {
            self.directory.early.push(job);
            return;
        }
        let user = job.user;
        let answered = Answered {
            source: ResolveSource::Directory,
            settled: result.is_settled,
            age: Duration::ZERO,
            requests: result.requests,
            elapsed: result.elapsed,
        };
        let found = match &result.outcome {
            FindOutcome::Found(record) => self.accept_found(&user, record),
            FindOutcome::Absent if self.is_known_revoked(&user) => {
                Err(ResolveError::Revoked { username: self.labels.display(&user) })
            }
            FindOutcome::Absent => {
                let replicas = u32::try_from(result.replicas).unwrap_or(u32::MAX);
                Err(ResolveError::NotFound { username: self.labels.display(&user), replicas })
            }
            FindOutcome::Inconclusive if self.directory.machine.table_counts().0 == 0 => Err(ResolveError::NoServers),
            FindOutcome::Inconclusive => {
                Err(ResolveError::TimedOut { username: self.labels.display(&user), limit: result.elapsed })
            }
        };
        for waiter in job.waiters {
            let outcome = found.as_ref().map(|record| (record, answered.clone())).map_err(Clone::clone);
            self.satisfy(waiter, &user, outcome);
        }
    }

    /// Whoever asked before there was anybody to ask is answered now, or waits on.
    pub(super) fn repeat_early_lookups(&mut self) {
        for job in std::mem::take(&mut self.directory.early) {
            job.waiters.into_iter().for_each(|waiter| self.resolve_user(&job.user, waiter));
        }
    }

    /// True if we once had a record of this user, and its certificate was revoked since.
    fn is_known_revoked(&self, user: &UserId) -> bool {
        let key = RecordKey::of(user);
        let Ok(Some(stored)) = self.store.read::<_, StoreError>(|view| view.cached_record(&key)) else { return false };
        let verified =
            UnverifiedRecord::from_bytes(&stored.record).and_then(|record| record.verify(self.now().unix, &self.trust));
        matches!(verified, Err(RecordError::Chain(ChainError::UserRevoked(_) | ChainError::SigningRevoked(_))))
    }

    /// Compares the record's key with the one we know, keeps the record, and tells if the key is another.
    fn accept_found(&mut self, user: &UserId, record: &DirectoryRecord) -> Result<DirectoryRecord, ResolveError> {
        let now = self.now().unix;
        // A replica may know of some of the devices only: what was found before and still holds isn't lost over that.
        let known = self.cached(&record.key(), now).map(|(known, _)| known);
        let known = known.filter(|known| known.identity() == record.identity());
        let record = &known.into_iter().fold(record.clone(), DirectoryRecord::merge).prune(now);
        self.take_record_tombstones(record);
        // A replica may not have heard yet of a device that was removed, or keep it to itself.
        let removed = |parts: &&EntryParts| self.trust.is_device_removed(&record.identity(), &parts.device(), now);
        let removed: Vec<_> = record.entries().filter(removed).map(EntryParts::device).collect();
        let living = removed.iter().try_fold(record.clone(), |record, device| record.without(device));
        let Some(record) = &living else {
            return Err(ResolveError::NotFound { username: self.labels.display(user), replicas: 0 });
        };
        let (identity, serial) = (record.identity(), record.user_serial());
        let pinned = self.store.transaction::<_, StoreError>(|tx| {
            let pinned = tx.pin(user, identity, serial, now)?;
            if let Pinned::Changed { .. } = &pinned {
                tx.repin(user, identity, serial, now)?;
            }
            tx.put_cached_record(&record.key(), &record.to_bytes(), now)?;
            Ok(pinned)
        });
        match pinned {
            // Of a contact the roster tells, which keeps to the key it knows.
            Ok(Pinned::Changed { old }) if !record.is_successor_of(&old.identity) && !self.is_watched(user) => {
                let username = self.labels.display(user);
                warn!("a known name came with another identity key");
                self.events.send(Event::IdentityChanged {
                    username,
                    old_identity: old.identity.to_string(),
                    new_identity: identity.to_string(),
                });
            }
            Ok(_) => {}
            Err(error) => debug!(%error, "record not cached"),
        }
        let is_successor = self.contact_identity(user).is_some_and(|known| record.is_successor_of(&known));
        self.note_identity(user, Seen { identity, serial, is_successor });
        self.cache(record.clone(), now);
        Ok(record.clone())
    }

    fn satisfy(&mut self, waiter: Waiter, user: &UserId, outcome: Result<(&DirectoryRecord, Answered), ResolveError>) {
        match waiter {
            Waiter::Command(_, reply) => reply.send(outcome.map(|(record, answered)| self.resolved(record, &answered))),
            Waiter::Why(shown, reply) => {
                let found = outcome.map(|(record, _)| record);
                let explanation = self.explain(&shown, user, found.as_ref().copied());
                reply.send(Ok(explanation));
            }
            Waiter::Dial(call) => {
                let found = outcome.map(|(record, answered)| (record.clone(), answered.source == ResolveSource::Cache));
                self.dial_resolved(call, found);
            }
            Waiter::DialAgain(call) => self.dial_resolved_again(call, outcome.ok().map(|(record, _)| record)),
            Waiter::Moved(target) => self.moved_resolved(target, outcome.ok().map(|(record, _)| record)),
            Waiter::Redial(target) => self.redial_resolved(target, outcome.map(|(record, _)| record.clone())),
            Waiter::Presence => self.presence_resolved(user, outcome.map(|(record, _)| record.clone())),
            Waiter::Messages | Waiter::MessagesAgain => self.messages_resolved(user, outcome.map(|(record, _)| record.clone())),
            Waiter::Devices(task) => self.devices_resolved(*task, outcome.map(|(record, _)| record.clone())),
            Waiter::Contact(adding) => self.contact_resolved(*adding, outcome.map(|(record, _)| record)),
            Waiter::Group(adding) => self.group_resolved(*adding, outcome.map(|(record, _)| record)),
        }
    }

    fn resolved(&self, record: &DirectoryRecord, answered: &Answered) -> Resolved {
        let now = self.now().unix;
        Resolved {
            username: self.labels.display(&record.user_id()),
            identity: record.identity().to_string(),
            devices: record.entries().map(|parts| self.device_view(record, parts, now).1).collect(),
            source: answered.source,
            settled: answered.settled,
            age_ms: crate::diagnosis::millis(answered.age),
            requests: answered.requests,
            elapsed_ms: crate::diagnosis::millis(answered.elapsed),
        }
    }

    /// A device as this caller may see it.
    pub(crate) fn device_view(&self, record: &DirectoryRecord, parts: &EntryParts, now: UnixTime) -> (PeerId, ResolvedDevice) {
        let device = parts.device();
        // Verified entries are signed by their key, so it is a point on the curve.
        let peer = address::peer_id(&device).unwrap_or_else(PeerId::random);
        let private = self.private_part(record, parts);
        let reachability = match parts.reachability(now) {
            Reachability::Direct => DeviceReachability::Direct,
            Reachability::Relayed => DeviceReachability::Relayed,
            Reachability::Push => DeviceReachability::Push,
            Reachability::None if private.as_ref().is_some_and(|part| !part.push.is_empty()) => DeviceReachability::Push,
            Reachability::None => DeviceReachability::None,
        };
        let addresses = self.device_addresses(parts, private.as_ref(), peer);
        let view = ResolvedDevice {
            peer_id: peer.to_string(),
            name: private.as_ref().map(|part| part.name.clone()).filter(|name| !name.is_empty()),
            kind: private.as_ref().map(|part| kind_word(part.kind).to_owned()),
            addresses: addresses.iter().map(ToString::to_string).collect(),
            reachability,
        };
        (peer, view)
    }

    /// The sealed part of an entry, if we hold its key.
    pub(crate) fn private_part(&self, record: &DirectoryRecord, parts: &EntryParts) -> Option<PrivatePart> {
        self.open_private(&record.user_id(), parts.entry())
    }

    /// What an entry says to contacts, if we are one; else to contacts in a linked system; else what it says to everybody who knows the name.
    pub(crate) fn open_private(&self, user: &UserId, entry: &DeviceEntry) -> Option<PrivatePart> {
        let for_contacts = || {
            let sealed = entry.sealed.as_ref()?;
            let epoch = sealed.epoch;
            let open = |key: SealKey| key.open(&entry.device, sealed).ok();
            if epoch == 0 {
                return open(SealKey::of_name(user));
            }
            if *user == self.identity.user_id() {
                return open(self.contacts.presence_key().seal_key());
            }
            let known = self.contacts.roster().entry(user)?;
            known.presence_keys(Some(epoch)).find_map(|key| open(key.seal_key()))
        };
        for_contacts().or_else(|| self.open_linked_part(user, entry)).or_else(|| self.open_part(user, entry))
    }

    /// What an entry says to everybody who knows the name: how to wake a device whose user takes calls of anyone.
    pub(super) fn open_part(&self, user: &UserId, entry: &DeviceEntry) -> Option<PrivatePart> {
        let sealed = wire::decode(entry.extensions.find(OPEN_PART)?, OPEN_PART_BYTES_MAX).ok()?;
        SealKey::of_name(user).open(&entry.device, &sealed).ok()
    }

    fn device_addresses(&self, parts: &EntryParts, private: Option<&PrivatePart>, peer: PeerId) -> Vec<Multiaddr> {
        let entry = parts.entry();
        let private = private.map(|part| part.addresses.as_slice()).unwrap_or_default();
        let mut addresses = self.dialable(entry.addresses.iter().chain(private));
        addresses.extend(self.circuit_addresses(&entry.relays, peer));
        addresses.extend(self.nearby_addresses(&peer));
        addresses
    }

    /// Addresses that somebody else names, as far as they may be dialled.
    pub(crate) fn dialable<'a>(&self, addresses: impl IntoIterator<Item = &'a halloo_protocol::node::Address>) -> Vec<Multiaddr> {
        let private = self.dials_private();
        addresses.into_iter().filter_map(address::from_wire).filter(|address| address::may_dial(address, private)).collect()
    }

    /// True in a lab, and in a network that lives on private addresses alone: nobody connected is reached over the internet.
    pub(crate) fn dials_private(&self) -> bool {
        let is_outside = |peer: &Peer| peer.address.as_ref().and_then(address::ip_of).is_some_and(address::is_public);
        self.settings.lab || !self.peers.iter().any(|(_, peer)| is_outside(peer))
    }

    /// Where to send something to a device.
    pub(crate) fn device_target(&self, record: &DirectoryRecord, parts: &EntryParts) -> Option<Target> {
        let peer = address::peer_id(&parts.device())?;
        let private = self.private_part(record, parts);
        Some(Target { peer, addresses: self.device_addresses(parts, private.as_ref(), peer), no_others: false })
    }

    /// The same for what its user mustn't learn our address by.
    pub(crate) fn hidden_device_target(&self, user: &UserId, device: &DeviceKey) -> Option<Target> {
        let entry = self.cached_device_entry(user, device)?;
        Some(self.hidden_target(address::peer_id(device)?, &entry.relays))
    }

    /// Names the entry of a device as the cache has it: another hash means that the device has published since.
    pub(crate) fn cached_entry_hash(&self, user: &UserId, device: &DeviceKey) -> Option<[u8; 32]> {
        let record = &self.directory.cache.get(&RecordKey::of(user))?.record;
        Some(record.entry(device)?.entry.body_hash())
    }

    /// The record that we have in memory.
    pub(crate) fn cached_record(&self, key: &RecordKey) -> Option<&DirectoryRecord> {
        self.directory.cache.get(key).map(|cached| &cached.record)
    }

    /// A device's entry in the record that we have of its user.
    pub(crate) fn cached_device_entry(&self, user: &UserId, device: &DeviceKey) -> Option<&DeviceEntry> {
        let record = &self.directory.cache.get(&RecordKey::of(user))?.record;
        Some(record.entry(device)?.entry())
    }

    /// The identity key in the record that we have of a user.
    pub(crate) fn cached_identity(&self, user: &UserId) -> Option<halloo_protocol::key::IdentityKey> {
        Some(self.directory.cache.get(&RecordKey::of(user))?.record.identity())
    }

    /// A device of a user we have the record of.
    pub(crate) fn cached_target(&self, user: &UserId, device: &DeviceKey) -> Option<Target> {
        let record = &self.directory.cache.get(&RecordKey::of(user))?.record;
        self.device_target(record, record.entry(device)?)
    }
}

/// How a look-up was answered.
#[derive(Clone, Debug)]
struct Answered {
    source: ResolveSource,
    settled: bool,
    age: Duration,
    requests: u32,
    elapsed: Duration,
}

/// The word the interface uses for a kind of machine.
pub(crate) const fn kind_word(kind: halloo_protocol::directory::DeviceKind) -> &'static str {
    use halloo_protocol::directory::DeviceKind;
    match kind {
        DeviceKind::Phone => "phone",
        DeviceKind::Tablet => "tablet",
        DeviceKind::Laptop => "laptop",
        DeviceKind::Desktop => "desktop",
        DeviceKind::Server => "server",
    }
}
