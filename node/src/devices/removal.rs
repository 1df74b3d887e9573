//! Removed devices: what is heard of them, and what follows.
//!
//! A tombstone is the identity key's word, so it is believed whoever brings it: the hello of another device of that user, the directory record, a
//! contact's update, a share among own devices. The first time it is heard it is kept on disk and in the trust store, where every chain is judged; and
//! what the device had here ends: connections, calls, its box, its registration. A contact whose device was removed gets a new key of ours, for the
//! device has the old one.

use std::time::{Duration, Instant};

use halloo_protocol::contact::OwnNews;
use halloo_protocol::directory::DirectoryRecord;
use halloo_protocol::identity::{Tombstone, UserId};
use halloo_protocol::key::{DeviceKey, IdentityKey};
use halloo_protocol::time::Now;
use halloo_protocol::wire::Signed;
use tracing::{info, warn};

use crate::address;
use crate::directory::Waiter;
use crate::event_loop::EventLoop;
use crate::handle::Event;
use crate::rpc::Failure;
use crate::store::{StoreError, Transaction};

/// Set while contacts are to get new keys.
const RENEW_KEYS: &str = "contacts get new keys";

/// How long after a contact has removed a device our own keys are changed: several at once cost one change.
const RENEW_KEYS_AFTER: Duration = Duration::from_secs(2);

/// The least time between two such changes. Each tells all contacts, so a contact who links and removes devices all day mustn't cause more.
const RENEW_KEYS_EVERY: Duration = Duration::from_secs(600);

/// How often tombstones are looked through for those that are over.
const PRUNE_EVERY: Duration = Duration::from_secs(86_400);

/// Letters thrown away in one transaction.
const LETTERS_AT_ONCE: usize = 256;

/// Transactions for one box: more than the letters it may hold need.
const ROUNDS_MAX: usize = 64;

/// When what is due.
#[derive(Debug, Default)]
pub(super) struct RemovalState {
    renew_keys_at: Option<Instant>,
    renewed_keys_at: Option<Instant>,
    prune_at: Option<Instant>,
}

/// Keeps what a contact has said of removed devices, and that keys are to be changed for it.
///
/// # Errors
/// [`StoreError`].
pub(crate) fn keep_tombstones(
    tx: &Transaction,
    identity: &IdentityKey,
    tombstones: &[Signed<Tombstone>],
    renews_keys: bool,
) -> Result<(), StoreError> {
    if renews_keys {
        tx.put_setting_value(RENEW_KEYS, &true)?;
    }
    tombstones.iter().try_for_each(|tombstone| tx.put_tombstone(identity, tombstone))
}

// What is heard.
impl EventLoop {
    /// Takes up what was heard in earlier runs.
    pub(crate) fn devices_start(&mut self) {
        let now = self.now();
        let stored = self.store.read::<_, StoreError>(|view| Ok((view.tombstones()?, view.setting_value::<bool>(RENEW_KEYS)?)));
        let (tombstones, renews_keys) = match stored {
            Ok(stored) => stored,
            Err(error) => return warn!(%error, "removed devices not read from the database"),
        };
        let own = self.identity.identity();
        for (identity, tombstone) in tombstones {
            let is_kept = identity == own || self.contact_of(&identity).is_some();
            let _known = self.trust.apply_tombstone(&identity, &tombstone, is_kept, now.unix);
        }
        for tombstone in &self.contacts.roster().own().tombstones {
            let _known = self.trust.apply_tombstone(&own, tombstone, true, now.unix);
        }
        if renews_keys == Some(true) {
            self.devices.removal.renew_keys_at = Some(now.instant + RENEW_KEYS_AFTER);
        }
        self.load_cards();
        if self.is_revoked() {
            warn!("this device was removed by its user: it publishes nothing and is believed by nobody; its data stays");
            let peer_id = self.swarm.local_peer_id().to_string();
            self.events.send(Event::DeviceRevoked { peer_id, name: None, is_this: true });
        }
    }

    /// True if the user has removed this very device.
    pub(crate) fn is_revoked(&self) -> bool {
        self.trust.is_device_removed(&self.identity.identity(), &self.identity.device(), self.now().unix)
    }

    /// When the user has removed this very device.
    pub(crate) fn revoked_at(&self) -> Option<halloo_protocol::time::UnixTime> {
        let (own, identity) = (self.identity.device(), self.identity.identity());
        let mut tombstones = self.trust.tombstones_of(&identity);
        tombstones.find(|tombstone| tombstone.unverified().device == own).map(|tombstone| tombstone.unverified().removed_at)
    }

    fn contact_of(&self, identity: &IdentityKey) -> Option<UserId> {
        let mut contacts = self.contacts.roster().entries();
        contacts.find(|entry| entry.identity() == Some(*identity)).map(|entry| entry.user.clone())
    }

    /// The record of a user shows removed devices.
    pub(crate) fn take_record_tombstones(&mut self, record: &DirectoryRecord) {
        let tombstones: Vec<Signed<Tombstone>> = record.signed_tombstones().cloned().collect();
        if !tombstones.is_empty() {
            self.take_tombstones(record.identity(), tombstones);
        }
    }

    /// Takes a user's word for removed devices, whoever brought it.
    pub(crate) fn take_tombstones(&mut self, identity: IdentityKey, tombstones: Vec<Signed<Tombstone>>) {
        let now = self.now();
        let is_own = identity == self.identity.identity();
        let contact = self.contact_of(&identity);
        let is_kept = is_own || contact.is_some();
        let trust = &mut self.trust;
        let is_news = |tombstone: &Signed<Tombstone>| trust.apply_tombstone(&identity, tombstone, is_kept, now.unix) == Ok(true);
        let news: Vec<Signed<Tombstone>> = tombstones.into_iter().filter(is_news).collect();
        if news.is_empty() {
            return;
        }
        let renews_keys = contact.as_ref().is_some_and(|user| self.is_watched(user));
        let kept = self.store.transaction::<_, StoreError>(|tx| keep_tombstones(tx, &identity, &news, renews_keys));
        if let Err(error) = kept {
            warn!(%error, "a removed device isn't remembered beyond this run");
        }
        let devices: Vec<DeviceKey> = news.iter().map(|tombstone| tombstone.unverified().device).collect();
        info!(?devices, is_own, "devices were removed by their user");
        if is_own {
            self.own_devices_removed(&devices, news);
        }
        if renews_keys {
            self.renew_keys_soon(now.instant);
        }
        for device in &devices {
            self.device_removed(&identity, device);
        }
        self.removed_devices_are_out(now);
        let user = if is_own { Some(self.identity.user_id()) } else { contact };
        if let Some(user) = user {
            self.forget_cached(&user);
            self.presence_contact_changed(&user);
            if self.signals_waiting(&user) > 0 {
                // Copies for the device are given up when the others are known.
                self.resolve_user(&user, Waiter::Messages);
            }
        }
    }

    fn renew_keys_soon(&mut self, now: Instant) {
        let earliest = self.devices.removal.renewed_keys_at.map(|at| at + RENEW_KEYS_EVERY);
        let at = (now + RENEW_KEYS_AFTER).max(earliest.unwrap_or(now));
        self.devices.removal.renew_keys_at.get_or_insert(at);
    }

    pub(super) fn removal_tick(&mut self, now: Now) {
        if self.devices.removal.renew_keys_at.is_some_and(|at| at <= now.instant) {
            self.devices.removal.renew_keys_at = None;
            self.renew_contact_keys(now.instant);
        }
        let prune_at = *self.devices.removal.prune_at.get_or_insert(now.instant + PRUNE_EVERY);
        if prune_at <= now.instant {
            self.devices.removal.prune_at = Some(now.instant + PRUNE_EVERY);
            let over = self.trust.prune_tombstones(now.unix);
            let forgotten = self.store.transaction::<_, StoreError>(|tx| {
                over.iter().try_for_each(|(identity, device)| tx.remove_tombstone(identity, device))
            });
            if let Err(error) = forgotten {
                warn!(%error, "old tombstones stay in the database");
            }
        }
    }

    fn renew_contact_keys(&mut self, now: Instant) {
        self.devices.removal.renewed_keys_at = Some(now);
        info!("a contact has removed a device: contacts get new keys");
        let renewed = self.run_roster(|roster, signer| roster.renew_keys(signer));
        let cleared =
            renewed.and_then(|()| self.store.transaction::<_, StoreError>(|tx| tx.put_setting_value(RENEW_KEYS, &false)));
        if let Err(error) = cleared {
            warn!(%error, "contacts didn't get new keys");
            self.devices.removal.renew_keys_at = Some(now + RENEW_KEYS_EVERY);
        }
    }
}

// What follows.
impl EventLoop {
    /// Own devices were removed: the others of this user, and all peers, hear it from us too.
    fn own_devices_removed(&mut self, devices: &[DeviceKey], tombstones: Vec<Signed<Tombstone>>) {
        let me = self.identity.device();
        for device in devices {
            let is_this = *device == me;
            let name = self.devices.cards.get(device).map(|card| card.name.clone());
            let peer_id = address::peer_id(device).map(|peer| peer.to_string()).unwrap_or_default();
            self.events.send(Event::DeviceRevoked { peer_id, name, is_this });
            self.contacts_forget_device(device);
            if is_this {
                warn!("this device was removed by its user: it publishes nothing any more; its data stays");
            }
        }
        if self.is_revoked() {
            return;
        }
        let news = OwnNews { tombstones, ..OwnNews::default() };
        if let Err(error) = self.run_roster(|roster, signer| roster.merge(Vec::new(), Some(news), signer)) {
            warn!(%error, "contacts aren't told of a removed device");
        }
        self.refresh_hello();
        self.publish_soon();
    }

    /// Ends what a device has here.
    fn device_removed(&mut self, identity: &IdentityKey, device: &DeviceKey) {
        self.end_calls_with(device);
        self.close_box_of(identity, device);
        self.end_registration_of(identity, device);
        self.sessions_forget_device(identity, device);
        let Some(peer) = address::peer_id(device) else { return };
        self.fail_peer(&peer, Failure::Unreachable);
    }

    /// Nobody believes a removed device any more, and its connections close.
    fn removed_devices_are_out(&mut self, now: Now) {
        let is_removed = |chain: &halloo_protocol::identity::VerifiedChain, trust: &halloo_protocol::identity::TrustStore| {
            trust.is_device_removed(&chain.user.identity, &chain.device, now.unix)
        };
        let out = self.disbelieve("removed by its user", is_removed);
        for peer in out {
            // What was said before gets across: an own device that was removed has just heard of it.
            self.swarm.behaviour_mut().streams.keep_no_longer(peer);
            self.swarm.behaviour_mut().streams.close(peer);
        }
        self.directory.machine.handle_trust_changed(now, &self.trust);
    }

    fn close_box_of(&mut self, identity: &IdentityKey, device: &DeviceKey) {
        if self.mailbox.is_none() {
            return;
        }
        let account = self.store.read::<_, StoreError>(|view| view.mailbox_account(device)).ok().flatten();
        if account.is_none_or(|account| account.rules.identity != *identity) {
            return;
        }
        for _ in 0..ROUNDS_MAX {
            match self.store.transaction::<_, StoreError>(|tx| tx.remove_mailbox_account(device, LETTERS_AT_ONCE)) {
                Ok(true) => return info!("the box of a removed device is closed"),
                Ok(false) => {}
                Err(error) => return warn!(%error, "the box of a removed device isn't closed"),
            }
        }
    }
}
