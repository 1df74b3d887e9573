//! Contacts from the node's side: drives the roster, keeps what it says on disk, and asks [`decide`] about whoever wants something.
//!
//! What one input of the roster changes is one transaction, with the signals that tell of it in the outbox: so a kill between the two loses neither.
//! Received signals are acknowledged after that transaction, and taking one twice changes nothing.

mod commands;

pub(crate) use commands::Adding;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use halloo_protocol::call::Reason;
use halloo_protocol::contact::privacy::{Decision, Kind, PrivacySettings, Relation, decide};
use halloo_protocol::contact::{
    ContactSignal, OwnKeys, PresenceKey, PresenceSecret, Roster, RosterAction, RosterEvent, RosterShare, SHARE_VAULT_KEY,
    SHARED_ENTRIES_MAX, Secret32, Seen, Signer, Standing,
};
use halloo_protocol::directory::DEVICES_MAX;
use halloo_protocol::event::EventKind;
use halloo_protocol::id::{ConversationId, MessageId};
use halloo_protocol::identity::{Tombstone, UserId, VerifiedChain, VerifiedUser, with_tombstones};
use halloo_protocol::key::{DeviceKey, IdentityKey, PublicKey};
use halloo_protocol::message::{Envelope, MessageBody};
use halloo_protocol::profile::Profile;
use halloo_protocol::rate::{Rate, RateLimiter};
use halloo_protocol::time::Now;
use halloo_protocol::wire::{self, Extensions};
use tracing::{debug, info, warn};

use crate::event_loop::EventLoop;
use crate::handle::Event;
use crate::handle::contacts::{ContactError, PrivacyChange};
use crate::handle::problem::NodeError;
use crate::messages::Queued;
use crate::store::{Store, StoreError, Transaction};
use crate::wording::Sentence;

const OWN_KEYS: &str = "contact keys";
const PRIVACY: &str = "privacy";
const PRIVACY_VERSION: &str = "privacy version";

/// Version of what the configuration says, so that whatever a person says later is newer.
const CONFIGURED_VERSION: u64 = 1;
const OWN_DEVICES: &str = "devices the roster was shared with";

/// Requests an hour of one stranger: a person asks once.
const REQUEST_RATE: Rate = Rate { per_hour: 12, burst: 4 };

/// Requests an hour of all strangers together.
const REQUESTS_RATE: Rate = Rate { per_hour: 240, burst: 64 };

/// The same in a lab, where machines ask.
const LAB_RATE: Rate = Rate { per_hour: 3_600_000, burst: 100_000 };

/// Strangers whose rates are remembered.
const STRANGERS_MAX: usize = 4_096;

/// The account of all strangers together: no key is all zeros.
const EVERYBODY: PublicKey = PublicKey([0; 32]);

/// How often contacts are looked through for what they haven't been told.
const RECONCILE_EVERY: Duration = Duration::from_secs(86_400);

/// How long changes for own other devices are gathered.
const SHARE_AFTER: Duration = Duration::from_millis(500);

/// Signals to own devices that may wait in the outbox: a device that is away mustn't fill it.
const SHARES_WAITING_MAX: usize = 16;

/// When it is tried again if so many wait.
const SHARE_AGAIN: Duration = Duration::from_secs(60);

/// Bytes of entries in one signal to own devices, so that it stays within a message.
const SHARE_BYTES_MAX: usize = 24 * 1024;

/// Largest stored own part: profile and picture.
const OWN_KEYS_BYTES_MAX: usize = 64 * 1024;

/// Contacts, own keys and settings.
#[derive(Debug)]
pub(crate) struct ContactsState {
    roster: Roster,
    privacy: PrivacySettings,
    /// Grows with every change of the settings; 0 before the first.
    privacy_version: u64,
    requests: RateLimiter<PublicKey>,
    /// Epoch of the keys that the directory entry and the gateways know.
    published_epoch: u32,
    /// Own other devices that know of each other's roster.
    own_devices: BTreeSet<DeviceKey>,
    /// Who has changed since own other devices were told.
    unshared: BTreeSet<UserId>,
    is_own_unshared: bool,
    share_at: Option<Instant>,
    reconcile_at: Instant,
}

impl ContactsState {
    /// Takes up what is stored; makes keys for a new user.
    ///
    /// # Errors
    /// [`StoreError`] if the database can't be read or written.
    pub(crate) fn open(
        store: &Store,
        configured: PrivacyChange,
        rng: &mut rand::rngs::StdRng,
        now: Instant,
    ) -> Result<Self, StoreError> {
        let (own, privacy) = store.read::<_, StoreError>(|view| Ok((view.setting(OWN_KEYS)?, view.setting_value(PRIVACY)?)))?;
        let own = own.and_then(|bytes| wire::decode::<OwnKeys>(&bytes, OWN_KEYS_BYTES_MAX).ok());
        let own = match own {
            Some(own) => own,
            None => {
                let mut key = [0; 32];
                rand::Rng::fill_bytes(rng, &mut key);
                let own = OwnKeys::new(Secret32::from_bytes(key));
                store.transaction::<_, StoreError>(|tx| tx.put_setting(OWN_KEYS, &wire::encode(&own)))?;
                own
            }
        };
        let own_devices = store.read::<_, StoreError>(|view| view.setting_value(OWN_DEVICES))?.unwrap_or_default();
        let privacy_version = store.read::<_, StoreError>(|view| view.setting_value(PRIVACY_VERSION))?.unwrap_or(0);
        let published_epoch = own.presence.epoch();
        let privacy: PrivacySettings =
            privacy.unwrap_or_else(|| commands::changed(&PrivacySettings::default(), configured, CONFIGURED_VERSION));
        Ok(Self {
            roster: load(store, own)?.with_pass_on(privacy.pass_on()),
            privacy_version,
            privacy,
            requests: RateLimiter::new(STRANGERS_MAX),
            published_epoch,
            own_devices,
            unshared: BTreeSet::new(),
            is_own_unshared: false,
            share_at: None,
            reconcile_at: now,
        })
    }

    /// The key contacts hold.
    pub(crate) fn presence_key(&self) -> PresenceKey {
        self.roster.own().presence.key()
    }

    /// What it follows from; own devices alone have it.
    pub(crate) const fn presence_secret(&self) -> &PresenceSecret {
        &self.roster.own().presence
    }

    /// Own other devices, as far as they were seen.
    pub(crate) fn own_devices(&self) -> impl Iterator<Item = &DeviceKey> {
        self.own_devices.iter()
    }

    /// True if there are own other devices.
    pub(crate) fn has_own_devices(&self) -> bool {
        !self.own_devices.is_empty()
    }

    /// True for an own other device.
    pub(crate) fn is_own_device(&self, device: &DeviceKey) -> bool {
        self.own_devices.contains(device)
    }

    /// Everybody this user knows.
    pub(crate) const fn roster(&self) -> &Roster {
        &self.roster
    }

    /// Which of all settings these are.
    pub(crate) const fn privacy_version(&self) -> u64 {
        self.privacy_version
    }

    /// Who may do what.
    pub(crate) const fn privacy(&self) -> &PrivacySettings {
        &self.privacy
    }
}

/// Keeps the own part that a new device was given.
///
/// # Errors
/// [`StoreError`].
pub(crate) fn keep_linked(tx: &Transaction, own: &OwnKeys, privacy: &PrivacySettings) -> Result<(), StoreError> {
    tx.put_setting(OWN_KEYS, &wire::encode(own))?;
    tx.put_setting_value(PRIVACY, privacy)
}

fn load(store: &Store, own: OwnKeys) -> Result<Roster, StoreError> {
    Ok(Roster::new(own, store.read(|view| view.contacts())?))
}

fn internal(error: &StoreError) -> ContactError {
    ContactError::Node(NodeError::Internal { detail: error.to_string() })
}

// Driving the roster.
impl EventLoop {
    /// Makes the profile that the configuration names, and tells contacts what an earlier run hadn't told yet.
    pub(crate) fn contacts_start(&mut self) {
        if self.contacts.roster.own().profile.is_none() {
            let languages = self.settings.languages.iter().filter(|tag| halloo_protocol::profile::is_language_tag(tag));
            let mut display_name = self.settings.display_name.clone().unwrap_or_default();
            display_name.truncate(display_name.floor_char_boundary(halloo_protocol::profile::DISPLAY_NAME_BYTES_MAX));
            let profile = Profile {
                sequence: 0,
                display_name,
                mood: String::new(),
                languages: languages.take(halloo_protocol::profile::LANGUAGES_MAX).cloned().collect(),
                avatar: None,
                extensions: Extensions::none(),
            };
            if !profile.display_name.is_empty() || !profile.languages.is_empty() {
                match self.run_roster(|roster, signer| roster.set_profile(profile, None, signer)) {
                    Ok(Err(error)) => warn!(%error, "the configured profile can't be used"),
                    Ok(Ok(_)) => {}
                    Err(error) => warn!(%error, "profile not written"),
                }
            }
        }
    }

    pub(crate) fn contacts_tick(&mut self, now: Now) {
        if self.contacts.reconcile_at <= now.instant {
            self.contacts.reconcile_at = now.instant + RECONCILE_EVERY;
            if let Err(error) = self.run_roster(|roster, signer| roster.reconcile_all(signer)) {
                warn!(%error, "contacts not told what has changed");
            }
        }
        if self.contacts.share_at.is_some_and(|at| at <= now.instant) {
            self.contacts.share_at = None;
            self.share_roster();
        }
    }

    /// Gives the roster one input and carries out what comes of it: all on disk first, then the rest.
    pub(crate) fn run_roster<T>(&mut self, input: impl FnOnce(&mut Roster, &mut Signer<'_>) -> T) -> Result<T, StoreError> {
        let seed = self.random();
        let now = self.now();
        let chain = self.identity.chain();
        let mut signer = Signer::new(self.identity.identity(), self.identity.device_key(), &chain.device, now.unix, seed);
        let result = input(&mut self.contacts.roster, &mut signer);
        let mut actions = Vec::new();
        while let Some(action) = self.contacts.roster.poll_action() {
            actions.push(action);
        }
        if actions.is_empty() {
            return Ok(result);
        }
        let queued = match self.keep_actions(&actions, now) {
            Ok(queued) => queued,
            Err(error) => {
                // What isn't on disk hasn't been: what was before counts.
                let own = self.stored_own().unwrap_or_else(|| self.contacts.roster.own().clone());
                if let Ok(roster) = load(&self.store, own) {
                    let links = self.contacts.roster.links().map(<[u8]>::to_vec);
                    self.contacts.roster = roster.with_pass_on(self.contacts.privacy.pass_on()).with_links(links);
                }
                return Err(error);
            }
        };
        self.queue_kept(queued, now);
        self.follow(actions);
        Ok(result)
    }

    /// What contacts are told of linked accounts, as it was kept.
    pub(crate) fn keep_links(&mut self, links: Option<Vec<u8>>) {
        self.contacts.roster = self.contacts.roster.clone().with_links(links);
    }

    /// What contacts are told of linked accounts.
    pub(crate) fn links_kept(&self) -> Option<&[u8]> {
        self.contacts.roster.links()
    }

    fn stored_own(&self) -> Option<OwnKeys> {
        let bytes = self.store.read::<_, StoreError>(|view| view.setting(OWN_KEYS)).ok()??;
        wire::decode(&bytes, OWN_KEYS_BYTES_MAX).ok()
    }

    fn keep_actions(&mut self, actions: &[RosterAction], now: Now) -> Result<Vec<Queued>, StoreError> {
        let me = self.identity.user_id();
        let ids: Vec<MessageId> = actions.iter().map(|_| MessageId::random(&mut self.rng)).collect();
        let roster = &self.contacts.roster;
        self.store.transaction::<_, StoreError>(|tx| {
            let mut queued = Vec::new();
            for (action, id) in actions.iter().zip(ids) {
                keep_action(tx, roster, action)?;
                if let RosterAction::Send { to, signal } = action {
                    let envelope = signal_envelope(id, &me, to, signal, now);
                    queued.push(crate::messages::keep_signal(tx, to, envelope, now.unix)?);
                }
            }
            Ok(queued)
        })
    }

    /// What follows from a change that is on disk.
    fn follow(&mut self, actions: Vec<RosterAction>) {
        for action in actions {
            if matches!(action, RosterAction::Persist { .. } | RosterAction::OwnChanged | RosterAction::Forget { .. }) {
                self.vault_changed();
            }
            match action {
                RosterAction::Persist { user } => {
                    self.presence_contact_changed(&user);
                    self.reach_contact_changed(&user);
                    self.linked_block_changed(&user);
                    self.contacts.unshared.insert(user);
                    self.share_soon();
                }
                RosterAction::OwnChanged => {
                    self.contacts.is_own_unshared = true;
                    self.share_soon();
                    self.take_tombstones(self.identity.identity(), self.contacts.roster.own().tombstones.clone());
                    self.own_keys_changed();
                }
                RosterAction::Removed { identity, tombstones } => self.take_tombstones(identity, tombstones),
                RosterAction::Tell(event) => self.tell_contact_event(event),
                RosterAction::Forget { user } => {
                    self.contacts.unshared.remove(&user);
                }
                RosterAction::PersistTold { .. } | RosterAction::KeepAvatar { .. } | RosterAction::Send { .. } => {}
            }
        }
    }

    /// A new epoch: the entry is sealed anew, and the gateways are told which capabilities still count.
    fn own_keys_changed(&mut self) {
        let epoch = self.contacts.presence_key().epoch;
        if std::mem::replace(&mut self.contacts.published_epoch, epoch) != epoch {
            info!(epoch, "contacts have a new key");
            // At once: what is said in the next moment would still be read by whoever was removed.
            self.follow_secret(self.now());
            self.push_epoch_changed();
            self.mailbox_epoch_changed();
            self.hand_over_epoch_changed();
            self.linked_key_changed();
        }
        self.publish_soon();
    }

    fn tell_contact_event(&mut self, event: RosterEvent) {
        let name = |user: &UserId| self.labels.display(user);
        let event = match &event {
            RosterEvent::Request { user, display_name, text } => {
                let notice = self.notice(Sentence::Event(EventKind::CONTACT_REQUEST), user);
                let (display_name, text) = (display_name.clone(), text.clone());
                Event::ContactRequest { from: name(user), display_name, text, notice }
            }
            RosterEvent::Accepted { user } => Event::ContactAccepted { username: name(user) },
            RosterEvent::Declined { user } => Event::ContactDeclined { username: name(user) },
            RosterEvent::Removed { user } => Event::ContactRemoved { username: name(user) },
            RosterEvent::ProfileChanged { user } => Event::ProfileChanged { username: name(user) },
            RosterEvent::IdentityChanged { user, old, new } => {
                warn!("a contact's name came with another identity key");
                Event::IdentityChanged { username: name(user), old_identity: old.to_string(), new_identity: new.to_string() }
            }
        };
        self.events.send(event);
    }
}

fn keep_action(tx: &Transaction, roster: &Roster, action: &RosterAction) -> Result<(), StoreError> {
    match action {
        RosterAction::Persist { user } | RosterAction::PersistTold { user } => {
            roster.contact(user).map_or(Ok(()), |contact| tx.put_contact(contact))
        }
        RosterAction::Forget { user } => tx.remove_contact(user),
        RosterAction::OwnChanged => tx.put_setting(OWN_KEYS, &wire::encode(roster.own())),
        RosterAction::KeepAvatar { user, avatar } => tx.put_contact_avatar(user, avatar.as_bytes()),
        RosterAction::Removed { identity, tombstones } => crate::devices::keep_tombstones(tx, identity, tombstones, true),
        RosterAction::Send { .. } | RosterAction::Tell(_) => Ok(()),
    }
}

/// Signals have no number in the conversation: they aren't part of it.
fn signal_envelope(id: MessageId, me: &UserId, to: &UserId, signal: &ContactSignal, now: Now) -> Envelope {
    Envelope {
        id,
        conversation: ConversationId::of_pair(me, to),
        counter: 0,
        sent_at: now.unix,
        body: MessageBody::Contact(signal.clone()),
        extensions: Extensions::none(),
    }
}

// Others.
impl EventLoop {
    /// A signal of a device whose chain holds. It is acknowledged when this returns.
    pub(crate) fn take_contact_signal(
        &mut self,
        sender: &VerifiedChain,
        certificate: &halloo_protocol::wire::Signed<halloo_protocol::identity::DeviceCertificate>,
        signal: ContactSignal,
    ) -> Result<(), Reason> {
        if !self.admit_signal(sender) {
            self.counters.rate_limited += 1;
            return Err(Reason::TOO_MANY);
        }
        if sender.user.identity == self.identity.identity() && sender.device != self.identity.device() {
            self.contacts_own_devices(&BTreeSet::from([sender.device]));
        }
        debug!(signal = signal.name(), "contact signal");
        if let (ContactSignal::Share(share), true) = (&signal, sender.user.identity == self.identity.identity()) {
            self.take_shared_vault_key(&share.extensions);
        }
        let told = signal.told_links().map(<[u8]>::to_vec);
        match self.run_roster(|roster, signer| roster.receive(sender, certificate, signal, signer)) {
            Ok(taken) => {
                if let (Ok(()), Some(told)) = (&taken, told) {
                    self.take_told_links(&sender.user, &told);
                }
                taken
            }
            Err(error) => {
                warn!(%error, "contact signal not kept");
                // The sender tries again later.
                Err(Reason::TOO_MANY)
            }
        }
    }

    /// True if a signal of this sender is looked at. Contacts are limited by what messages are.
    fn admit_signal(&mut self, sender: &VerifiedChain) -> bool {
        if matches!(self.relation(&sender.user), Relation::Own | Relation::Contact) {
            return true;
        }
        let now = Instant::now();
        let (one, all) = if self.settings.lab { (LAB_RATE, LAB_RATE) } else { (REQUEST_RATE, REQUESTS_RATE) };
        self.contacts.requests.take(&sender.user.identity.0, one, now).is_ok()
            && self.contacts.requests.take(&EVERYBODY, all, now).is_ok()
    }

    /// What a user whose chain holds is to this one. A contact's changed key is noted.
    pub(crate) fn relation(&mut self, user: &VerifiedUser) -> Relation {
        if user.identity == self.identity.identity() {
            return Relation::Own;
        }
        let relation = self.contacts.roster.relation(&user.id, &user.identity);
        if relation == Relation::Changed {
            self.note_identity(&user.id, Seen { identity: user.identity, serial: user.serial, is_successor: false });
        }
        relation
    }

    /// Who may do what.
    pub(crate) const fn privacy_settings(&self) -> &PrivacySettings {
        &self.contacts.privacy
    }

    /// Whether a user may do something, and why.
    pub(crate) fn decide(&mut self, user: &VerifiedUser, kind: Kind) -> Decision {
        let relation = match self.relation(user) {
            Relation::Stranger if self.is_linked_contact(user) => Relation::Linked,
            relation => relation,
        };
        let decision = decide(&self.contacts.privacy, relation, kind);
        if !decision.is_allowed {
            debug!(?kind, because = %decision.because, "refused by the privacy settings");
        }
        decision
    }

    /// A name was seen with this key.
    pub(crate) fn note_identity(&mut self, user: &UserId, seen: Seen) {
        if self.contacts.roster.entry(user).is_none_or(|entry| entry.identity() == Some(seen.identity)) {
            return;
        }
        if let Err(error) = self.run_roster(|roster, signer| roster.see(user, seen, signer)) {
            warn!(%error, "a changed key was not noted");
        }
    }

    /// The key that is taken for a user's, if they are in the list.
    pub(crate) fn contact_identity(&self, user: &UserId) -> Option<IdentityKey> {
        self.contacts.roster.entry(user)?.identity()
    }

    /// True if the list tells by itself when this user's key changes.
    pub(crate) fn is_watched(&self, user: &UserId) -> bool {
        matches!(self.contacts.roster.standing(user), Standing::Contact | Standing::Changed | Standing::Asked)
    }

    /// True for contacts and for the user.
    pub(crate) fn is_acquainted(&self, user: &UserId) -> bool {
        *user == self.identity.user_id() || self.contacts.roster.standing(user) == Standing::Contact
    }

    /// True for users whom this one has blocked.
    pub(crate) fn is_blocked(&self, user: &UserId) -> bool {
        self.contacts.roster.standing(user) == Standing::Blocked
    }

    /// Nothing is said to a contact's name under another key before the person has looked at it.
    pub(crate) fn refuse_changed(&self, user: &UserId) -> Result<(), NodeError> {
        if self.contacts.roster.standing(user) == Standing::Changed {
            return Err(NodeError::IdentityChanged { username: self.labels.display(user) });
        }
        Ok(())
    }

    /// Somebody named by an address in a linked system is who has the key that it leads to: `is_theirs` says whether the user's is that one, or follows it.
    pub(crate) fn refuse_other_key(
        &self,
        user: &UserId,
        meant: Option<IdentityKey>,
        is_theirs: impl FnOnce(&IdentityKey) -> bool,
    ) -> Result<(), NodeError> {
        if meant.as_ref().is_none_or(is_theirs) {
            return Ok(());
        }
        Err(NodeError::IdentityChanged { username: self.labels.display(user) })
    }

    /// Leave to use a service of a device of a contact, or of one in a linked system, and the key to use it with.
    pub(crate) fn contact_capability(
        &self,
        user: &UserId,
        device: &DeviceKey,
        service: halloo_protocol::capability::Service,
    ) -> Option<(wire::Signed<halloo_protocol::capability::Capability>, halloo_protocol::key::SecretKey)> {
        let entry = self.contacts.roster.entry(user).filter(|entry| entry.standing() == Standing::Contact);
        let given = entry.and_then(|entry| Some((entry.capability(device, service)?.clone(), entry.own_pairwise()?)));
        given.or_else(|| self.linked_capability(user, service))
    }

    /// The name this user is shown by.
    pub(crate) fn own_display_name(&self) -> String {
        let profile = self.contacts.roster.own().profile.as_ref().map(|card| card.profile.unverified().display_name.clone());
        profile.or_else(|| self.settings.display_name.clone()).unwrap_or_default()
    }
}

// Own other devices.
impl EventLoop {
    fn share_soon(&mut self) {
        self.contacts.share_at.get_or_insert_with(|| Instant::now() + SHARE_AFTER);
    }

    /// The own record, or a signal, shows other devices of this user. A new one is told everything.
    pub(crate) fn contacts_own_devices(&mut self, others: &BTreeSet<DeviceKey>) {
        if others.is_subset(&self.contacts.own_devices) {
            return;
        }
        self.contacts.own_devices.extend(others);
        while self.contacts.own_devices.len() > DEVICES_MAX {
            self.contacts.own_devices.pop_first();
        }
        let devices = &self.contacts.own_devices;
        if let Err(error) = self.store.transaction::<_, StoreError>(|tx| tx.put_setting_value(OWN_DEVICES, devices)) {
            return warn!(%error, "own devices not noted");
        }
        self.contacts.unshared.extend(self.contacts.roster.entries().map(|entry| entry.user.clone()));
        self.contacts.is_own_unshared = true;
        self.share_soon();
        self.share_all_states();
    }

    /// An own device was removed: it is told nothing more.
    pub(crate) fn contacts_forget_device(&mut self, device: &DeviceKey) {
        self.contacts.own_devices.remove(device);
        let devices = &self.contacts.own_devices;
        if let Err(error) = self.store.transaction::<_, StoreError>(|tx| tx.put_setting_value(OWN_DEVICES, devices)) {
            warn!(%error, "own devices not noted");
        }
    }

    /// Devices that this user has removed, as long as that has to be said.
    pub(crate) fn own_tombstones(&self) -> Vec<wire::Signed<Tombstone>> {
        let now = self.now().unix;
        let own = self.contacts.roster.own().tombstones.iter();
        own.filter(|tombstone| now <= tombstone.unverified().until).cloned().collect()
    }

    /// Tells own other devices what has changed.
    fn share_roster(&mut self) {
        if self.signals_waiting(&self.identity.user_id()) >= SHARES_WAITING_MAX {
            // Newer states take the place of older ones meanwhile.
            self.contacts.share_at = Some(Instant::now() + SHARE_AGAIN);
            return;
        }
        let users = std::mem::take(&mut self.contacts.unshared);
        let is_own = std::mem::take(&mut self.contacts.is_own_unshared);
        if self.contacts.own_devices.is_empty() {
            return;
        }
        let mut shares = Vec::new();
        let mut batch = Vec::new();
        let mut bytes = 0;
        for entry in users.iter().filter_map(|user| self.contacts.roster.entry(user)) {
            let length = wire::encoded_len(entry);
            if batch.len() >= SHARED_ENTRIES_MAX || bytes + length > SHARE_BYTES_MAX {
                shares.push(std::mem::take(&mut batch));
                bytes = 0;
            }
            bytes += length;
            batch.push(entry.clone());
        }
        if !batch.is_empty() {
            shares.push(batch);
        }
        let own = self.contacts.roster.own().clone();
        // Whoever was removed and the key that they aren't to have go in one signal, in this order. A device that knew one without the other would
        // go on saying things under the old key, or give the new one away.
        let mut presence = is_own.then(|| own.presence.clone());
        let last = shares.len().checked_sub(1);
        let with_entries = |(number, entries)| {
            let presence = if Some(number) == last { presence.take() } else { None };
            RosterShare { entries, presence, profile: None, extensions: Extensions::none() }
        };
        let mut shares: Vec<RosterShare> = shares.into_iter().enumerate().map(with_entries).collect();
        if is_own {
            let extensions = with_tombstones(Extensions::none(), &own.tombstones);
            let extensions = match self.vault_key() {
                Some(key) => extensions.with(SHARE_VAULT_KEY, wire::encode(&key)),
                None => extensions,
            };
            shares.push(RosterShare { entries: Vec::new(), presence, profile: own.profile, extensions });
        }
        let signals: Vec<ContactSignal> = shares.into_iter().map(|share| ContactSignal::Share(Box::new(share))).collect();
        let me = self.identity.user_id();
        let now = self.now();
        let ids: Vec<MessageId> = signals.iter().map(|_| MessageId::random(&mut self.rng)).collect();
        let queued = self.store.transaction::<_, StoreError>(|tx| {
            let envelopes = ids.into_iter().zip(&signals).map(|(id, signal)| signal_envelope(id, &me, &me, signal, now));
            envelopes.map(|envelope| crate::messages::keep_signal(tx, &me, envelope, now.unix)).collect::<Result<Vec<_>, _>>()
        });
        match queued {
            Ok(queued) => self.queue_kept(queued, now),
            Err(error) => warn!(%error, "own devices not told of contacts"),
        }
    }
}
