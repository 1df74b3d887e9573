//! This user's vault: contacts, profile, settings and the state of conversations, sealed, at the mailboxes of the user's devices.
//!
//! Each device keeps it at its own mailboxes and reads it at those of its other devices as well. So a device made anew from the recovery phrase
//! has everybody back although no other device is online. The deciding is `halloo_protocol::vault`; here are the network, the database, and
//! what items mean.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use halloo_protocol::choice::PolicyText;
use halloo_protocol::contact::privacy::PrivacySettings;
use halloo_protocol::contact::{OwnKeys, OwnNews, RosterEntry, SHARE_VAULT_KEY, Secret32};
use halloo_protocol::directory::{Helper, RecordKey};
use halloo_protocol::identity::Tombstone;
use halloo_protocol::key::DeviceKey;
use halloo_protocol::linked::SharedPiece;
use halloo_protocol::mailbox::MailboxReason;
use halloo_protocol::message::StateItem;
use halloo_protocol::node::Roles;
use halloo_protocol::time::Now;
use halloo_protocol::vault::{
    ITEM_BYTES_MAX, Known, LocalItems, ReplicaAction, VaultChunks, VaultFetch, VaultIndex, VaultItem, VaultKept, VaultKey,
    VaultKeys, VaultLook, VaultPutStatus, VaultReplica, VaultRoot,
};
use halloo_protocol::wire::{self, Extensions, Frame, Message, Signed};
use tracing::{debug, info, warn};

use crate::event_loop::EventLoop;
use crate::handle::Event;
use crate::handle::network::VaultStatus;
use crate::identity::LocalIdentity;
use crate::network::{Purpose, Target};
use crate::rpc::Failure;
use crate::store::{Store, StoreError, Transaction};

const KEYS: &str = "vault keys";
const IS_READ: &str = "vault was read";

/// Vaults followed at once: two of this device, and those of the user's other devices.
const REPLICAS_MAX: usize = 8;

/// Nodes asked for a vault when nobody says where it is.
const SEARCH_MAX: usize = 16;

/// How often it is looked whether something is to do.
const CHECK_EVERY: Duration = Duration::from_secs(1);

/// How long changes are gathered.
const GATHER: Duration = Duration::from_secs(1);

/// The same for what was read and the like.
const GATHER_STATES: Duration = Duration::from_secs(20);

/// How often a vault is looked into unasked: the mailbox tells of changes while we are connected.
const LOOK_EVERY: Duration = Duration::from_secs(600);

/// The first pause after a mailbox couldn't be asked; doubled up to [`LOOK_EVERY`].
const RETRY_MIN: Duration = Duration::from_secs(2);

/// The pause while other devices write all the time.
const BUSY_PAUSE: Duration = Duration::from_secs(5);

/// How fast a mailbox's news is followed, in bytes of its answers a second: a vault of a thousand contacts is there within seconds, and a mailbox that
/// invents news costs no more than this.
const NEWS_RATE: u64 = 128 * 1024;

/// How long a mailbox has to answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Items of other versions that are kept.
const FOREIGN_MAX: u64 = 4_096;

/// What a request to a mailbox was for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum VaultRequest {
    Look(DeviceKey),
    Fetch(DeviceKey),
    Put(DeviceKey),
}

impl VaultRequest {
    const fn mailbox(self) -> DeviceKey {
        match self {
            Self::Look(device) | Self::Fetch(device) | Self::Put(device) => device,
        }
    }
}

/// The vault at one mailbox.
#[derive(Debug)]
struct Slot {
    helper: Helper,
    replica: VaultReplica,
    look_at: Instant,
    /// What the mailbox has sent is paid for: its news isn't followed before.
    rests_until: Instant,
    failures: u32,
    /// What is written is what this device has.
    is_current: bool,
    /// Asked once, because nobody says where the vault is.
    is_search: bool,
}

/// Keys, and the vault at each mailbox.
#[derive(Debug)]
pub(crate) struct VaultState {
    keys: VaultKeys,
    slots: BTreeMap<DeviceKey, Slot>,
    /// What this device has, encoded once for all mailboxes; gone when something changes.
    local: Option<LocalItems>,
    changed_at: Option<Instant>,
    states_changed_at: Option<Instant>,
    check_at: Instant,
    /// False until this home has read its vault somewhere.
    is_read: bool,
    has_searched: bool,
}

impl VaultState {
    /// Takes up what is stored.
    ///
    /// # Errors
    /// [`StoreError`] if the database can't be read.
    pub(crate) fn open(store: &Store, identity: &LocalIdentity, now: Instant) -> Result<Self, StoreError> {
        let read = |view: &crate::store::View| {
            Ok((view.setting_value::<Vec<VaultKey>>(KEYS)?.unwrap_or_default(), view.setting_value(IS_READ)?.unwrap_or(false)))
        };
        let (kept, is_read) = store.read::<_, StoreError>(read)?;
        Ok(Self {
            keys: VaultKeys::new(identity.identity_key().map(VaultRoot::of), kept),
            slots: BTreeMap::new(),
            local: None,
            changed_at: None,
            states_changed_at: None,
            check_at: now,
            is_read,
            has_searched: is_read,
        })
    }
}

/// The key that a device was given when it was linked.
///
/// # Errors
/// [`StoreError`].
pub(crate) fn keep_linked(tx: &Transaction, key: &VaultKey) -> Result<(), StoreError> {
    tx.put_setting_value(KEYS, &vec![key.clone()])
}

// When, and where.
impl EventLoop {
    /// Something that the vault keeps has changed here.
    pub(crate) fn vault_changed(&mut self) {
        self.vault.local = None;
        self.vault.slots.values_mut().for_each(|slot| slot.is_current = false);
        self.vault.changed_at.get_or_insert_with(|| Instant::now() + GATHER);
    }

    /// A mailbox has other chunks than before, by its own word.
    pub(crate) fn handle_vault_news(&mut self, mailbox: &DeviceKey) {
        if let Some(slot) = self.vault.slots.get_mut(mailbox) {
            slot.look_at = slot.look_at.min(slot.rests_until.max(Instant::now()));
            self.vault.check_at = self.vault.check_at.min(slot.look_at);
        }
    }

    /// What was read and the like has changed, which it does all the time: other devices are told at once by other ways.
    pub(crate) fn vault_states_changed(&mut self) {
        self.vault.states_changed_at.get_or_insert_with(|| Instant::now() + GATHER_STATES);
    }

    pub(crate) fn vault_tick(&mut self, now: Now) {
        if self.vault.check_at > now.instant {
            return;
        }
        self.vault.check_at = now.instant + CHECK_EVERY;
        if !self.settings.publishes || self.identity.place().is_none() {
            return;
        }
        self.choose_vaults(now.instant);
        if self.vault.states_changed_at.is_some_and(|at| at <= now.instant) {
            self.vault.states_changed_at = None;
            self.vault_changed();
        }
        let has_changed = self.vault.changed_at.is_some_and(|at| at <= now.instant);
        if has_changed {
            self.vault.changed_at = None;
        }
        let devices: Vec<DeviceKey> = self.vault.slots.keys().copied().collect();
        for device in devices {
            let Some(slot) = self.vault.slots.get_mut(&device) else { continue };
            if !slot.replica.is_idle() {
                continue;
            }
            if slot.look_at <= now.instant {
                slot.look_at = now.instant + LOOK_EVERY;
                slot.replica.look();
            } else if has_changed || (!slot.is_current && slot.failures == 0) {
                slot.replica.changed();
            }
            self.drive_vault(device);
        }
    }

    /// The mailboxes of this device, which are written, and those of the user's other devices, which are read.
    fn choose_vaults(&mut self, now: Instant) {
        let own: BTreeMap<DeviceKey, Helper> = self.mailbox_helpers().into_iter().map(|helper| (helper.device, helper)).collect();
        let record = self.directory.machine.own_record(&RecordKey::of(&self.identity.user_id()));
        let me = self.identity.device();
        let others = record.into_iter().flat_map(|record| record.entries()).filter(|parts| parts.device() != me);
        let read: BTreeMap<DeviceKey, Helper> = others
            .flat_map(|parts| parts.entry().mailboxes.iter())
            .filter(|helper| helper.device != me)
            .map(|helper| (helper.device, helper.clone()))
            .collect();
        let is_named = |device: &DeviceKey| own.contains_key(device) || read.contains_key(device);
        self.vault
            .slots
            .retain(|device, slot| is_named(device) || (slot.is_search && !slot.replica.is_idle()) || slot.look_at <= now);
        for (device, helper) in own.iter().chain(&read) {
            let is_written = own.contains_key(device);
            if self.vault.slots.contains_key(device) || self.vault.slots.len() < REPLICAS_MAX {
                self.follow_vault(helper, is_written, false, now);
            }
        }
        if !own.is_empty() && !std::mem::replace(&mut self.vault.has_searched, true) {
            for helper in self.vault_candidates() {
                if !self.vault.slots.contains_key(&helper.device) {
                    self.follow_vault(&helper, false, true, now);
                }
            }
        }
    }

    fn follow_vault(&mut self, helper: &Helper, is_written: bool, is_search: bool, now: Instant) {
        if let Some(slot) = self.vault.slots.get_mut(&helper.device) {
            slot.helper = helper.clone();
            slot.is_search &= is_search;
            if is_written != slot.replica.is_written() {
                slot.replica.set_written(is_written);
                slot.is_current = false;
            }
            return;
        }
        let known = self.store.read::<_, StoreError>(|view| view.vault_known(&helper.device));
        let known: Known = known.inspect_err(|error| warn!(%error, "what is known of a vault was not read")).unwrap_or_default();
        let slot = Slot {
            helper: helper.clone(),
            replica: VaultReplica::new(known, is_written),
            look_at: now,
            rests_until: now,
            failures: 0,
            is_current: false,
            is_search,
        };
        self.vault.slots.insert(helper.device, slot);
    }

    /// Where a vault may be that no record names: its devices have been away for so long that their entries are gone.
    fn vault_candidates(&self) -> Vec<Helper> {
        let me = self.identity.device();
        let table = self.directory.machine.table();
        let serving = table.filter(|descriptor| descriptor.roles.contains(Roles::MAILBOX) && descriptor.device != me);
        serving.map(|known| Helper { device: known.device, addresses: known.addresses.clone() }).take(SEARCH_MAX).collect()
    }

    fn drive_vault(&mut self, device: DeviceKey) {
        let Some(mut slot) = self.vault.slots.remove(&device) else { return };
        while let Some(action) = slot.replica.poll_action() {
            if let Err(error) = self.follow_replica(device, &mut slot, action) {
                warn!(%error, "vault");
                slot.replica.abort();
                pause(&mut slot);
            }
        }
        if !(slot.is_search && slot.replica.is_idle() && slot.replica.chunk_count() == 0 && slot.look_at > Instant::now()) {
            self.vault.slots.insert(device, slot);
        }
    }

    fn follow_replica(&mut self, device: DeviceKey, slot: &mut Slot, action: ReplicaAction) -> Result<(), StoreError> {
        match action {
            ReplicaAction::Look => self.ask_vault(slot, &VaultLook::default(), VaultRequest::Look(device)),
            ReplicaAction::Fetch(ids) => {
                let fetch = VaultFetch { ids, extensions: Extensions::none() };
                self.ask_vault(slot, &fetch, VaultRequest::Fetch(device));
            }
            ReplicaAction::Put(put) => {
                debug!(mailbox = %device, base = put.base, "vault written");
                self.ask_vault(slot, &*put, VaultRequest::Put(device));
            }
            ReplicaAction::Merge(items) => self.merge_vault_items(items, slot)?,
            ReplicaAction::WantItems => {
                let local = match self.vault.local.take() {
                    Some(local) => local,
                    None => self.local_items()?,
                };
                slot.replica.write(&local, &self.identity.identity(), &self.vault.keys, &mut self.rng);
                self.vault.local = Some(local);
            }
            ReplicaAction::Remember(ids) => self.store.transaction::<_, StoreError>(|tx| {
                ids.iter().try_for_each(|id| tx.put_vault_known(&device, *id, slot.replica.known(id)))
            })?,
            ReplicaAction::Done { is_whole } => self.vault_round_ended(slot, is_whole)?,
            ReplicaAction::Busy => slot.look_at = Instant::now() + BUSY_PAUSE,
        }
        Ok(())
    }

    fn vault_round_ended(&mut self, slot: &mut Slot, is_whole: bool) -> Result<(), StoreError> {
        slot.failures = 0;
        // What changed while it was written is written next.
        slot.is_current = self.vault.local.is_some() || !slot.replica.is_written();
        debug!(mailbox = %slot.helper.device, chunks = slot.replica.chunk_count(), is_whole, "vault");
        if !self.vault.is_read {
            self.store.transaction::<_, StoreError>(|tx| tx.put_setting_value(IS_READ, &true))?;
            self.vault.is_read = true;
        }
        Ok(())
    }

    fn ask_vault<M: Message>(&mut self, slot: &Slot, message: &M, request: VaultRequest) {
        // A search asks nodes that this user has not chosen.
        let target: Option<Target> = match slot.is_search {
            true => self.strange_helper_target(&slot.helper),
            false => self.helper_target(&slot.helper),
        };
        match target {
            Some(target) => self.request(&target, message, Purpose::Vault(request), TIMEOUT),
            None => self.failures.push_back((Purpose::Vault(request), Failure::Unreachable)),
        }
    }

    pub(crate) fn vault_answer(&mut self, request: VaultRequest, frame: &Frame) {
        let device = request.mailbox();
        let identity = self.identity.identity();
        let Some(slot) = self.vault.slots.get_mut(&device) else { return };
        slot.rests_until = rested(slot.rests_until, Instant::now(), frame.body.len());
        let replica = &mut slot.replica;
        let refused = match request {
            VaultRequest::Look(_) => frame.parse::<VaultIndex>().map(|answer| {
                answer.refused.or_else(|| {
                    replica.handle_index(answer.chunks);
                    None
                })
            }),
            VaultRequest::Fetch(_) => frame.parse::<VaultChunks>().map(|answer| {
                answer.refused.or_else(|| {
                    replica.handle_chunks(answer.chunks, &identity, &self.vault.keys);
                    None
                })
            }),
            VaultRequest::Put(_) => frame.parse::<VaultKept>().map(|answer| match answer.status {
                VaultPutStatus::Refused(reason) => Some(reason),
                status => {
                    replica.handle_kept(status);
                    None
                }
            }),
        };
        match refused {
            Ok(None) => {}
            Ok(Some(reason)) => self.vault_refused(device, reason),
            Err(_) => {
                self.counters.malformed += 1;
                self.vault_refused(device, MailboxReason::INVALID);
            }
        }
        self.drive_vault(device);
    }

    fn vault_refused(&mut self, device: DeviceKey, reason: MailboxReason) {
        let Some(slot) = self.vault.slots.get_mut(&device) else { return };
        debug!(mailbox = %device, %reason, "vault refused");
        if matches!(reason, MailboxReason::SHARE | MailboxReason::FULL) {
            let detail = format!("a mailbox keeps no more of this user's vault: {reason}");
            self.events.send(Event::Warning { code: "vault-full".into(), detail });
        }
        slot.replica.abort();
        pause(slot);
    }

    pub(crate) fn vault_failure(&mut self, request: VaultRequest, failure: Failure) {
        debug!(mailbox = %request.mailbox(), %failure, "vault not reached");
        if let Some(slot) = self.vault.slots.get_mut(&request.mailbox()) {
            slot.replica.abort();
            pause(slot);
        }
    }

    /// How this user's vault is kept.
    pub(crate) fn vault_status(&self) -> VaultStatus {
        let written = || self.vault.slots.values().filter(|slot| slot.replica.is_written());
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        VaultStatus {
            mailboxes: count(written().count()),
            current: count(written().filter(|slot| slot.is_current && slot.replica.is_idle()).count()),
            chunks: count(written().map(|slot| slot.replica.chunk_count()).max().unwrap_or(0)),
            key_epoch: self.vault.keys.current().map_or(0, |key| key.epoch),
        }
    }
}

/// Until when a mailbox rests that rested until `before`, after an answer of so many bytes.
fn rested(before: Instant, now: Instant, bytes: usize) -> Instant {
    let micros = u64::try_from(bytes).unwrap_or(u64::MAX).saturating_mul(1_000_000) / NEWS_RATE;
    before.max(now) + Duration::from_micros(micros)
}

/// A mailbox that failed is asked again later.
fn pause(slot: &mut Slot) {
    slot.failures = slot.failures.saturating_add(1);
    slot.look_at = Instant::now() + (RETRY_MIN * 2_u32.saturating_pow(slot.failures.min(16))).min(LOOK_EVERY);
}

/// What a state is about, as the wire protocol says.
fn subject_of(state: &StateItem) -> Vec<u8> {
    match state {
        StateItem::Marks(marks) => wire::encode(&(0_u8, &marks.with, &marks.reader)),
        StateItem::Group(part) => wire::encode(&(1_u8, part.id())),
        StateItem::Standing(mark) => wire::encode(&(2_u8, mark.group)),
        StateItem::Calls(_) => wire::encode(&3_u8),
    }
}

// What items mean.
impl EventLoop {
    /// What this device has, as items.
    fn local_items(&mut self) -> Result<LocalItems, StoreError> {
        let mut local = LocalItems::default();
        let mut left_out = 0_usize;
        let mut insert = |item| left_out += usize::from(!local.insert(item));
        for entry in self.contacts.roster().entries() {
            insert(VaultItem::new(VaultItem::CONTACT, &wire::encode(&entry.user), wire::encode(entry)));
        }
        insert(VaultItem::new(VaultItem::OWN, &[], wire::encode(self.contacts.roster().own())));
        if self.contacts.privacy_version() > 0 {
            let value = wire::encode(&(self.contacts.privacy_version(), self.contacts.privacy().clone()));
            insert(VaultItem::new(VaultItem::PRIVACY, &[], value));
        }
        if let Some(policy) = self.vault_policy() {
            insert(VaultItem::new(VaultItem::CHOICE, &[], wire::encode(&policy)));
        }
        for piece in self.vault_links() {
            insert(VaultItem::new(VaultItem::LINKED, &piece.subject(), wire::encode(&piece)));
        }
        // The first follows from the root.
        for key in self.vault.keys.iter().filter(|key| key.epoch > 1) {
            insert(key.to_item());
        }
        let mut numbers: BTreeMap<Vec<u8>, u64> = BTreeMap::new();
        for state in self.state_items() {
            let subject = subject_of(&state);
            let number = numbers.entry(subject.clone()).or_default();
            let subject = [subject, number.to_be_bytes().to_vec()].concat();
            *number += 1;
            insert(VaultItem::new(VaultItem::STATE, &subject, wire::encode(&state)));
        }
        for item in self.store.read(crate::store::View::vault_foreign)? {
            insert(item);
        }
        if left_out > 0 {
            warn!(left_out, "too large for the vault");
        }
        Ok(local)
    }

    /// Joins what another device has written with what is here.
    fn merge_vault_items(&mut self, items: Vec<VaultItem>, slot: &mut Slot) -> Result<(), StoreError> {
        // What was encoded before lacks what comes now: written as it is, it would take that away again, and other devices would put it back.
        self.vault.local = self.vault.local.take().filter(|local| items.iter().all(|item| local.holds(item)));
        let was_empty = self.contacts.roster().entries().next().is_none();
        let mut entries = Vec::new();
        let mut own = None;
        let mut foreign = Vec::new();
        let mut pieces = Vec::new();
        for item in items {
            match item.kind {
                VaultItem::CONTACT => {
                    let entry =
                        wire::decode::<RosterEntry>(&item.value, ITEM_BYTES_MAX).and_then(|entry| entry.check().map(|()| entry));
                    entries.extend(entry.inspect_err(|error| self.malformed_item("contact", error)).ok());
                }
                VaultItem::OWN => match wire::decode::<OwnKeys>(&item.value, ITEM_BYTES_MAX) {
                    Ok(read) => own = Some(read),
                    Err(error) => self.malformed_item("own keys", &error),
                },
                VaultItem::PRIVACY => match wire::decode::<(u64, PrivacySettings)>(&item.value, ITEM_BYTES_MAX) {
                    Ok((version, settings)) => self.merge_privacy(version, settings)?,
                    Err(error) => self.malformed_item("privacy settings", &error),
                },
                VaultItem::CHOICE => match wire::decode::<PolicyText>(&item.value, ITEM_BYTES_MAX) {
                    Ok(policy) => self.merge_policy(policy)?,
                    Err(error) => self.malformed_item("push policy", &error),
                },
                VaultItem::KEY => match wire::decode::<(VaultKey, Extensions)>(&item.value, ITEM_BYTES_MAX) {
                    Ok((key, _)) => {
                        if self.take_vault_key(key)? {
                            slot.replica.keys_changed();
                            slot.look_at = Instant::now();
                        }
                    }
                    Err(error) => self.malformed_item("key", &error),
                },
                VaultItem::STATE => match wire::decode::<StateItem>(&item.value, ITEM_BYTES_MAX).and_then(|state| {
                    state.check()?;
                    Ok(state)
                }) {
                    Ok(state) => self.merge_state_items(vec![state])?,
                    Err(error) => self.malformed_item("state", &error),
                },
                VaultItem::LINKED => {
                    let piece = wire::decode::<SharedPiece>(&item.value, ITEM_BYTES_MAX);
                    let piece = piece.and_then(|piece| piece.check().map(|()| piece));
                    pieces.extend(piece.inspect_err(|error| self.malformed_item("linked account", error)).ok());
                }
                _ => foreign.push(item),
            }
        }
        if !foreign.is_empty() {
            self.store.transaction::<_, StoreError>(|tx| {
                foreign.iter().try_for_each(|item| tx.keep_vault_foreign(item, FOREIGN_MAX))
            })?;
            self.vault_changed();
        }
        self.merge_linked(pieces, None);
        self.merge_people(entries, own, was_empty)
    }

    fn merge_people(&mut self, entries: Vec<RosterEntry>, own: Option<OwnKeys>, was_empty: bool) -> Result<(), StoreError> {
        let users: BTreeSet<_> = entries.iter().map(|entry| entry.user.clone()).collect();
        let identity = self.identity.identity();
        let news = own.map(|own| {
            let verifies = |tombstone: &Signed<Tombstone>| tombstone.verify(&identity.0).is_ok();
            let tombstones = own.tombstones.into_iter().filter(verifies).collect();
            OwnNews { presence: Some(own.presence), profile: own.profile, tombstones }
        });
        let tombstones = news.as_ref().map(|news| news.tombstones.clone()).unwrap_or_default();
        self.run_roster(|roster, signer| roster.merge(entries, news, signer))?;
        self.take_tombstones(identity, tombstones);
        if was_empty && !users.is_empty() {
            info!(people = users.len(), "contacts are back from the vault");
            self.events.send(Event::VaultRead { people: u32::try_from(users.len()).unwrap_or(u32::MAX) });
        }
        Ok(())
    }

    /// Only a device of this user could have written it.
    fn malformed_item(&self, what: &'static str, error: &wire::DecodeError) {
        warn!(what, %error, "an item of the vault can't be read: written by another version?");
    }

    /// A key that another device of this user has told, or that stood in the vault.
    ///
    /// # Errors
    /// [`StoreError`] if it can't be kept; it isn't used then.
    pub(crate) fn take_vault_key(&mut self, key: VaultKey) -> Result<bool, StoreError> {
        let mut keys = self.vault.keys.clone();
        if !keys.insert(key) {
            return Ok(false);
        }
        self.keep_vault_keys(keys)?;
        Ok(true)
    }

    /// What this user's vault is written under, for own other devices.
    pub(crate) fn vault_key(&self) -> Option<VaultKey> {
        self.vault.keys.current().cloned()
    }

    /// A device was removed: what is written from now on is sealed under a key it doesn't have.
    ///
    /// # Errors
    /// [`StoreError`] if the key can't be kept; the former one stays then.
    pub(crate) fn raise_vault_key(&mut self) -> Result<(), StoreError> {
        let mut keys = self.vault.keys.clone();
        keys.raise(Secret32::from_bytes(self.random()));
        self.keep_vault_keys(keys)
    }

    /// What another device of this user says besides about contacts.
    pub(crate) fn take_shared_vault_key(&mut self, extensions: &Extensions) {
        let Some(bytes) = extensions.find(SHARE_VAULT_KEY) else { return };
        match wire::decode::<VaultKey>(bytes, bytes.len()) {
            Ok(key) => {
                if let Err(error) = self.take_vault_key(key) {
                    warn!(%error, "a key of the vault was not kept");
                }
            }
            Err(error) => self.malformed_item("key", &error),
        }
    }

    fn keep_vault_keys(&mut self, keys: VaultKeys) -> Result<(), StoreError> {
        let kept: Vec<VaultKey> = keys.iter().cloned().collect();
        self.store.transaction::<_, StoreError>(|tx| tx.put_setting_value(KEYS, &kept))?;
        self.vault.keys = keys;
        for slot in self.vault.slots.values_mut() {
            slot.replica.keys_changed();
            slot.look_at = Instant::now();
        }
        self.vault_changed();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn news_of_a_mailbox_that_sends_a_lot_waits() {
        let now = Instant::now();
        let once = rested(now, now, 1_024 * 1_024);
        assert_eq!(once - now, Duration::from_secs(8), "a mebibyte is followed by eight seconds of rest");
        assert_eq!(rested(once, now + Duration::from_secs(2), 1_024 * 1_024) - now, Duration::from_secs(16), "rests add up");
        let later = now + Duration::from_secs(600);
        assert_eq!(rested(once, later, 0), later, "and aren't saved up");
    }
}
