//! Keys: one-time keys of others, fetched before a session is started; our own, handed out and left with our first mailbox.

use super::*;

// Of others.
impl EventLoop {
    /// The one-time key for a new session, `Some(None)` for the fallback key; `None` while it is being fetched.
    #[allow(clippy::option_option, reason = "not known yet, and known to be none")]
    pub(super) fn key_for(&mut self, user: &UserId, device: &DeviceKey, attempts: u32, hides: bool) -> Option<Option<[u8; 32]>> {
        match self.sessions.fetches.get(device) {
            Some(Fetch::Asking) => return None,
            Some(Fetch::Fetched(key, _)) => return Some(*key),
            None => {}
        }
        let rate = if self.settings.lab { LAB_RATE } else { START_RATE };
        if self.sessions.starts.take(device, rate, Instant::now()).is_err() {
            debug!(%device, "too many sessions started");
            return None;
        }
        // One that didn't open may have been started with a key that the device has lost; the fallback key it has. And whoever mustn't learn where we are
        // isn't asked.
        if hides || attempts > 0 || self.sessions.fetches.len() >= FETCHES_MAX || !self.ask_for_key(user, device) {
            return Some(None);
        }
        None
    }

    /// Asks the device if it is connected, else its first mailbox, else the device. False if there is nobody to ask.
    fn ask_for_key(&mut self, user: &UserId, device: &DeviceKey) -> bool {
        let peer = address::peer_id(device).filter(|peer| self.peers.get(peer).is_some_and(|known| known.chain.is_some()));
        if let Some(peer) = peer {
            self.sessions.fetches.insert(*device, Fetch::Asking);
            self.ask_device_for_key(user, device, &Target::connected(peer), self.key_patience(user, device, &peer));
            return true;
        }
        if self.ask_mailbox_for_key(user, device) {
            return true;
        }
        let Some(target) = self.cached_target(user, device) else { return false };
        self.sessions.fetches.insert(*device, Fetch::Asking);
        self.ask_device_for_key(user, device, &target, KEY_TIMEOUT);
        true
    }

    /// How long a connected device is waited for: one that was suspended a moment ago is still connected, and says nothing. Where its mailbox has keys too
    /// a few round trips are enough.
    fn key_patience(&self, user: &UserId, device: &DeviceKey, peer: &PeerId) -> Duration {
        let has_mailbox = self.cached_device_entry(user, device).is_some_and(|entry| !entry.mailboxes.is_empty());
        match self.peers.get(peer).and_then(|known| known.rtt) {
            Some(rtt) if has_mailbox => (rtt * KEY_ROUND_TRIPS).clamp(KEY_PATIENCE_MIN, KEY_TIMEOUT),
            _ => KEY_TIMEOUT,
        }
    }

    /// Whether a connected device was asked for something and has said nothing since.
    pub(crate) fn is_silent_device(&self, device: &DeviceKey) -> bool {
        let known = address::peer_id(device).and_then(|peer| self.peers.get(&peer));
        let (Some(known), Some(since)) = (known, self.sessions.silent.get(device)) else { return false };
        !known.is_heard_since(*since)
    }

    fn ask_device_for_key(&mut self, user: &UserId, device: &DeviceKey, target: &Target, patience: Duration) {
        let fetching = Fetching { user: user.clone(), device: *device, by_mailbox: false };
        self.request(target, &KeyFetch::default(), Purpose::KeyFetch(fetching), patience);
    }

    fn ask_mailbox_for_key(&mut self, user: &UserId, device: &DeviceKey) -> bool {
        let mailbox = self.cached_device_entry(user, device).and_then(|entry| entry.mailboxes.first().cloned());
        let Some(mailbox) = mailbox.filter(|mailbox| mailbox.device != self.identity.device()) else { return false };
        let Some(target) = self.strange_helper_target(&mailbox) else { return false };
        let mut request = MailboxKeyFetch { device: *device, admission: None, extensions: Extensions::none() };
        request.admission = self.mailbox_admission(user, device, request.request_hash(), mailbox.device);
        self.sessions.fetches.insert(*device, Fetch::Asking);
        let fetching = Fetching { user: user.clone(), device: *device, by_mailbox: true };
        self.request(&target, &request, Purpose::KeyFetch(fetching), KEY_TIMEOUT);
        true
    }

    pub(crate) fn key_answer(&mut self, fetching: Fetching, frame: &Frame) {
        let key = if fetching.by_mailbox {
            frame.parse::<MailboxKeyFetched>().map(|answer| answer.key)
        } else {
            frame.parse::<KeyFetched>().map(|answer| answer.key)
        };
        match key {
            Ok(key) => self.key_fetched(&fetching, key),
            Err(_) => {
                self.counters.malformed += 1;
                self.key_fetched(&fetching, None);
            }
        }
    }

    pub(crate) fn key_failure(&mut self, fetching: Fetching, failure: Failure) {
        debug!(%failure, device = %fetching.device, by_mailbox = fetching.by_mailbox, "no one-time key");
        if !fetching.by_mailbox && self.sessions.silent.len() < FETCHES_MAX {
            self.sessions.silent.insert(fetching.device, Instant::now());
        }
        if fetching.by_mailbox || !self.ask_mailbox_for_key(&fetching.user, &fetching.device) {
            self.key_fetched(&fetching, None);
        }
    }

    /// A key has come, or none will: what waits for the device is encrypted.
    fn key_fetched(&mut self, fetching: &Fetching, key: Option<Signed<OneTimeKey>>) {
        let device = fetching.device;
        let key = key.and_then(|key| {
            let is_good = key.unverified().device == device && key.verify(&device.0).is_ok();
            if !is_good {
                self.counters.malformed += 1;
            }
            is_good.then(|| key.unverified().key)
        });
        let now = Instant::now();
        self.sessions.fetches.insert(device, Fetch::Fetched(key, now));
        self.messages.outbox.handle_reachable(&device, now);
        self.drive_outbox();
    }
}

// Ours.
impl EventLoop {
    /// Somebody wants a one-time key of this device. It is on disk when this returns.
    pub(crate) fn handle_key_fetch(&mut self, chain: Option<&VerifiedChain>) -> KeyFetched {
        let key =
            chain.filter(|chain| self.may_have_key(chain)).and_then(|_| self.issue_keys(1, None)).and_then(|mut keys| keys.pop());
        KeyFetched { key, extensions: Extensions::none() }
    }

    fn may_have_key(&mut self, chain: &VerifiedChain) -> bool {
        let is_known = matches!(self.relation(&chain.user), Relation::Own | Relation::Contact);
        let rate = if self.settings.lab { LAB_RATE } else { KEY_RATE };
        (is_known || self.decide(&chain.user, Kind::Message).is_allowed)
            && self.sessions.askers.take(&chain.user.identity.0, rate, Instant::now()).is_ok()
    }

    /// Makes one-time keys, those of a batch for the mailbox or others.
    fn issue_keys(&mut self, count: usize, batch: Option<u64>) -> Option<Vec<Signed<OneTimeKey>>> {
        let now = self.now().unix;
        let issued = self.store.transaction::<_, StoreError>(|tx| {
            let Some(mut account) = stored_account(tx)? else { return Ok(Vec::new()) };
            let keys = account.issue(count, self.identity.device_key(), now);
            put_account(tx, &account)?;
            if let Some(batch) = batch {
                tx.put_setting_value(KEY_BATCH, &batch)?;
            }
            Ok(keys)
        });
        issued.inspect_err(|error| warn!(%error, "one-time keys not made")).ok()
    }

    /// Looks whether the first mailbox has one-time keys left.
    fn check_mailbox_keys(&mut self, now: Instant) {
        let first = self.mailbox_helpers().into_iter().next();
        let Some(helper) = first else { return };
        let is_due = self.sessions.keys_check_at <= now || self.sessions.used_keys >= KEYS_LOW;
        let is_other = self.sessions.keys_at != Some(helper.device);
        if self.sessions.is_checking || !(is_due || is_other) {
            return;
        }
        (self.sessions.keys_at, self.sessions.is_checking, self.sessions.used_keys) = (Some(helper.device), true, 0);
        self.sessions.keys_check_at = now + KEYS_CHECK_EVERY;
        self.send_mailbox_keys(helper.device, 0, Vec::new());
    }

    fn send_mailbox_keys(&mut self, mailbox: DeviceKey, batch: u64, keys: Vec<Signed<OneTimeKey>>) {
        let helper = self.mailbox_helpers().into_iter().find(|helper| helper.device == mailbox);
        let Some(target) = helper.and_then(|helper| self.mailbox_target(&helper)) else {
            self.sessions.is_checking = false;
            return;
        };
        let request = MailboxKeys { batch, keys, extensions: Extensions::none() };
        self.request(&target, &request, Purpose::MailboxKeys(mailbox), KEY_TIMEOUT * 3);
    }

    pub(crate) fn mailbox_keys_answer(&mut self, mailbox: DeviceKey, frame: &Frame) {
        let status = frame.parse::<MailboxKeysKept>().map(|answer| answer.status);
        let known: u64 = self.store.read::<_, StoreError>(|view| view.setting_value(KEY_BATCH)).ok().flatten().unwrap_or(0);
        match status {
            Ok(KeysStatus::Kept { batch, left }) if batch != 0 && batch == known && left >= KEYS_LOW => {
                self.sessions.is_checking = false;
            }
            Ok(KeysStatus::Kept { .. }) => {
                // Used up, or of another time: of a device set back to a backup, say.
                let batch = u64::from_be_bytes(self.random()).max(1);
                match self.issue_keys(KEYS_PER_BATCH_MAX, Some(batch)) {
                    Some(keys) if !keys.is_empty() => self.send_mailbox_keys(mailbox, batch, keys),
                    _ => self.mailbox_keys_failure(mailbox, Failure::Overloaded),
                }
            }
            Ok(KeysStatus::Refused(reason)) => {
                debug!(%mailbox, %reason, "one-time keys refused");
                self.mailbox_keys_failure(mailbox, Failure::Busy);
            }
            Err(_) => {
                self.counters.malformed += 1;
                self.mailbox_keys_failure(mailbox, Failure::Unsupported);
            }
        }
    }

    pub(crate) fn mailbox_keys_failure(&mut self, mailbox: DeviceKey, failure: Failure) {
        debug!(%mailbox, %failure, "one-time keys not left");
        self.sessions.is_checking = false;
        self.sessions.keys_check_at = Instant::now() + KEYS_RETRY;
    }

    /// The weekly change of the fallback key.
    pub(crate) fn change_session_keys(&mut self, now: UnixTime) {
        let maintained = self.store.transaction::<_, StoreError>(|tx| {
            tx.forget_spent_before(now.minus_secs(SPENT_SECS), TIDY_MAX)?;
            let Some(mut account) = stored_account(tx)? else { return Ok(None) };
            if account.maintain(now) {
                put_account(tx, &account)?;
            }
            Ok(Some(account.keys()))
        });
        match maintained {
            Ok(Some(keys)) if keys != self.sessions.keys => {
                info!("fallback key for messages changed");
                self.sessions.keys = keys;
                self.publish_soon();
            }
            Ok(_) => {}
            Err(error) => warn!(%error, "keys for sessions not seen to"),
        }
    }

    /// This device was set back to a backup: what it sent in its sessions since isn't known here. It sends in new ones, and hands out new keys.
    pub(crate) fn sessions_restored(&mut self) {
        let now = self.now();
        let retired = self.store.transaction::<_, StoreError>(|tx| {
            for device in tx.session_devices()? {
                let mut sessions = stored_sessions(tx, &device)?;
                sessions.retire_all();
                put_sessions(tx, &device, &sessions, now.unix)?;
            }
            tx.remove_setting(KEY_BATCH)
        });
        if let Err(error) = retired {
            warn!(%error, "sessions not retired");
        }
        self.sessions.keys_check_at = now.instant;
    }

    /// A device was removed by its user: nothing is encrypted for it, or read of it, any more. Nobody removes the device of somebody else.
    pub(crate) fn sessions_forget_device(&mut self, user: &IdentityKey, device: &DeviceKey) {
        self.sessions.fetches.remove(device);
        let owner = self.store.read::<_, StoreError>(|view| view.session_owner(device));
        if owner.is_ok_and(|owner| owner != Some(*user)) {
            return;
        }
        if let Err(error) = self.store.transaction::<_, StoreError>(|tx| tx.remove_sessions(device)) {
            warn!(%error, "sessions with a removed device not forgotten");
        }
    }

    pub(crate) fn sessions_tick(&mut self, now: Now) {
        if !self.sessions.done.is_empty() {
            self.finish_opened();
        }
        if self.settings.publishes {
            self.check_mailbox_keys(now.instant);
        }
        if self.sessions.tidy_at <= now.instant {
            self.sessions.tidy_at = now.instant + TIDY_EVERY;
            self.sessions.silent.clear();
            self.tidy_sessions(now);
        }
    }

    fn tidy_sessions(&mut self, now: Now) {
        let is_fresh = |fetch: &Fetch| match fetch {
            Fetch::Asking => true,
            Fetch::Fetched(_, at) => now.instant.saturating_duration_since(*at).as_secs() < FETCHED_SECS,
        };
        self.sessions.fetches.retain(|_, fetch| is_fresh(fetch));
        let before = now.unix.minus_secs(LOST_AFTER_SECS);
        let lost = self.store.transaction::<_, StoreError>(|tx| tx.take_unopened_before(before, TIDY_MAX));
        let lost = lost.inspect_err(|error| warn!(%error, "lost messages not told")).unwrap_or_default();
        let users: BTreeSet<Vec<u8>> = lost.into_iter().collect();
        for user in users.iter().filter_map(|bytes| wire::decode::<UserId>(bytes, 1_024).ok()) {
            let name = self.labels.display(&user);
            let detail = format!("messages from {name} couldn't be decrypted and didn't come again: ask them");
            self.events.send(Event::Warning { code: "message-lost".into(), detail });
        }
    }
}
