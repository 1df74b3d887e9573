//! What the person does with devices: list, rename, revoke; and what own devices tell each other.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bincode::{Decode, Encode};
use halloo_protocol::directory::{DEVICE_NAME_BYTES_MAX, DEVICES_MAX, DeviceKind, DirectoryRecord, EntryParts};
use halloo_protocol::identity::{DEVICE_CERTIFICATE_SECS_MAX, RecoveryPhrase, Tombstone};
use halloo_protocol::key::{DeviceKey, IdentityKey, SecretKey};
use halloo_protocol::own_device::{DeviceCard, DeviceRename, DeviceRenamed, DeviceRenew, DeviceRenewed};
use halloo_protocol::time::{Now, UnixTime};
use halloo_protocol::wire::{Extensions, Frame, Signed};
use libp2p::PeerId;
use tracing::{debug, info, warn};

use crate::address;
use crate::directory::{Waiter, kind_word};
use crate::event_loop::EventLoop;
use crate::handle::Reply;
use crate::handle::devices::{DeviceError, DeviceList, DeviceRevocation, DeviceState, DeviceView, RevokeOptions};
use crate::handle::directory::{DeviceReachability, ResolveError};
use crate::handle::problem::NodeError;
use crate::network::{Purpose, Target};
use crate::rpc::Failure;
use crate::store::StoreError;
use crate::timestamp::Timestamp;

const CARDS: &str = "own devices";
const NAME: &str = "device name";

/// How long another device may take to answer: it may have to be dialled.
const TIMEOUT: Duration = Duration::from_secs(15);

/// How often a device without the identity key asks for a new certificate once that is due.
const RENEW_EVERY: Duration = Duration::from_secs(3_600);

/// Time that a device was met is noted this often, in seconds: each note is a commit.
const SEEN_SECS: u64 = 300;

/// How often it is looked whether it is due.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// What an own device has said of itself.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) struct Card {
    pub(super) name: String,
    pub(super) kind: DeviceKind,
    pub(super) has_identity_key: bool,
    /// When it was met last.
    pub(super) seen_at: UnixTime,
}

/// A name given by command, and what the configuration said then: a later edit of the file wins.
#[derive(Clone, Debug, Encode, Decode)]
struct GivenName {
    name: String,
    configured: String,
}

/// When certificates are asked for.
#[derive(Debug, Default)]
pub(super) struct Renewing {
    look_at: Option<Instant>,
    asked_at: Option<Instant>,
}

/// What waits for the own record.
#[derive(Debug)]
pub(crate) enum DevicesTask {
    /// Show all.
    List(Reply<DeviceList, DeviceError>),
    /// Rename one that isn't this.
    Rename { device: String, name: String, reply: Reply<DeviceView, DeviceError> },
    /// Remove one.
    Revoke { device: String, options: RevokeOptions, reply: Reply<DeviceRevocation, DeviceError> },
}

/// A rename on its way to another device.
#[derive(Debug)]
pub(crate) struct Renaming {
    device: DeviceKey,
    name: String,
    reply: Reply<DeviceView, DeviceError>,
}

fn internal(error: &StoreError) -> DeviceError {
    DeviceError::Node(NodeError::Internal { detail: error.to_string() })
}

// Cards.
impl EventLoop {
    pub(super) fn load_cards(&mut self) {
        let stored = self.store.read::<_, StoreError>(|view| {
            Ok((view.setting_value::<Vec<(DeviceKey, Card)>>(CARDS)?, view.setting_value::<GivenName>(NAME)?))
        });
        match stored {
            Ok((cards, given)) => {
                self.devices.cards = cards.unwrap_or_default().into_iter().collect();
                self.devices.configured_name.clone_from(&self.settings.device_name);
                if let Some(given) = given.filter(|given| given.configured == self.settings.device_name) {
                    self.settings.device_name = given.name;
                }
            }
            Err(error) => warn!(%error, "own devices not read from the database"),
        }
    }

    fn own_card(&self) -> DeviceCard {
        let mut name = self.settings.device_name.clone();
        name.truncate(name.floor_char_boundary(DEVICE_NAME_BYTES_MAX));
        DeviceCard {
            name,
            kind: self.settings.device_kind,
            has_identity_key: self.identity.identity_key().is_some(),
            extensions: Extensions::none(),
        }
    }

    /// True if the peer is another device of this user.
    pub(crate) fn is_own_peer(&self, peer: &PeerId) -> bool {
        let chain = self.peers.get(peer).and_then(|known| known.chain.as_ref());
        chain.is_some_and(|chain| chain.user.identity == self.identity.identity())
    }

    /// An own device was met.
    pub(super) fn greet_own_device(&mut self, peer: PeerId) {
        let card = self.own_card();
        self.notify(&Target::connected(peer), &card);
        self.ask_for_certificate(Instant::now());
    }

    pub(crate) fn handle_device_card(&mut self, peer: PeerId, card: DeviceCard) {
        let Some(device) = self.peers.get(&peer).map(|known| known.device).filter(|_| self.is_own_peer(&peer)) else { return };
        let DeviceCard { name, kind, has_identity_key, .. } = card;
        if has_identity_key {
            self.linked_signer_met();
        }
        let seen_at = self.now().unix;
        let card = Card { name, kind, has_identity_key, seen_at };
        let is_same = |known: &Card| Card { seen_at: known.seen_at, ..card.clone() } == *known;
        if self.devices.cards.get(&device).is_some_and(|known| is_same(known) && seen_at.secs_since(known.seen_at) < SEEN_SECS) {
            return;
        }
        self.devices.cards.insert(device, card);
        while self.devices.cards.len() > DEVICES_MAX {
            let oldest = self.devices.cards.iter().min_by_key(|(_, card)| card.seen_at).map(|(device, _)| *device);
            let Some(oldest) = oldest else { break };
            self.devices.cards.remove(&oldest);
        }
        self.keep_cards();
        self.ask_for_certificate(Instant::now());
    }

    fn keep_cards(&self) {
        let cards: Vec<(DeviceKey, Card)> = self.devices.cards.iter().map(|(device, card)| (*device, card.clone())).collect();
        if let Err(error) = self.store.transaction::<_, StoreError>(|tx| tx.put_setting_value(CARDS, &cards)) {
            warn!(%error, "own devices not remembered");
        }
    }

    fn tell_card(&mut self) {
        let card = self.own_card();
        let own: Vec<PeerId> = self.peers.iter().map(|(peer, _)| *peer).filter(|peer| self.is_own_peer(peer)).collect();
        for peer in own {
            self.notify(&Target::connected(peer), &card);
        }
    }
}

// Showing.
impl EventLoop {
    pub(super) fn devices_task(&mut self, task: DevicesTask) {
        let user = self.identity.user_id();
        self.resolve_user(&user, Waiter::Devices(Box::new(task)));
    }

    /// The own record, as far as it is known, for whoever waits.
    pub(crate) fn devices_resolved(&mut self, task: DevicesTask, found: Result<DirectoryRecord, ResolveError>) {
        // Without a network what is known is shown, and done.
        let record = found.inspect_err(|error| debug!(%error, "own record not found")).ok();
        match task {
            DevicesTask::List(reply) => reply.send(Ok(self.device_list(record.as_ref()))),
            DevicesTask::Rename { device, name, reply } => self.rename_other(&device, name, record.as_ref(), reply),
            DevicesTask::Revoke { device, options, reply } => {
                let outcome = self.revoke_device(&device, &options, record.as_ref());
                reply.send(outcome);
            }
        }
    }

    fn device_list(&self, record: Option<&DirectoryRecord>) -> DeviceList {
        let devices = self.device_views(record).into_values().collect();
        DeviceList { username: self.labels.display(&self.identity.user_id()), devices }
    }

    /// Every device that is known: this one, those in the record, those met, and those removed.
    fn device_views(&self, record: Option<&DirectoryRecord>) -> BTreeMap<DeviceKey, DeviceView> {
        let me = self.identity.device();
        let identity = self.identity.identity();
        let mut views = BTreeMap::from([(me, self.own_view())]);
        for parts in record.into_iter().flat_map(DirectoryRecord::entries).filter(|parts| parts.device() != me) {
            views.insert(parts.device(), self.entry_view(record, parts));
        }
        for (device, card) in &self.devices.cards {
            views.entry(*device).or_insert_with(|| self.bare_view(device));
            // What was said last counts: here, or in the record.
            let issued_at = record.and_then(|record| record.entry(device)).map(|parts| parts.entry().issued_at);
            let is_newer = issued_at.is_none_or(|issued_at| card.seen_at >= issued_at);
            if let Some(view) = views.get_mut(device) {
                if !card.name.is_empty() && (is_newer || view.name.is_none()) {
                    view.name = Some(card.name.clone());
                }
                view.kind.get_or_insert_with(|| kind_word(card.kind).to_owned());
                view.has_identity_key = Some(card.has_identity_key);
                let seen = Timestamp::from_unix_secs(card.seen_at.0);
                view.last_seen = view.last_seen.max(Some(seen));
            }
        }
        for tombstone in self.trust.tombstones_of(&identity).map(Signed::unverified) {
            let view = views.entry(tombstone.device).or_insert_with(|| self.bare_view(&tombstone.device));
            view.state = DeviceState::Revoked;
            view.revoked_at = Some(Timestamp::from_unix_secs(tombstone.removed_at.0));
            view.reachability = DeviceReachability::None;
        }
        views
    }

    pub(crate) fn own_view(&self) -> DeviceView {
        let name = self.settings.device_name.clone();
        DeviceView {
            name: (!name.is_empty()).then_some(name),
            kind: Some(kind_word(self.settings.device_kind).to_owned()),
            is_this: true,
            has_identity_key: Some(self.identity.identity_key().is_some()),
            is_connected: true,
            last_seen: Some(Timestamp::from_unix_secs(self.now().unix.0)),
            reachability: DeviceReachability::Direct,
            certificate_until: Some(Timestamp::from_unix_secs(self.identity.chain().device.unverified().not_after.0)),
            ..self.bare_view(&self.identity.device())
        }
    }

    fn entry_view(&self, record: Option<&DirectoryRecord>, parts: &EntryParts) -> DeviceView {
        let now = self.now().unix;
        let shown = record.map(|record| self.device_view(record, parts, now).1);
        let lease = parts.lease.as_ref().map(|lease| lease.unverified().issued_at);
        let issued = parts.entry().issued_at;
        DeviceView {
            name: shown.as_ref().and_then(|shown| shown.name.clone()),
            kind: shown.as_ref().and_then(|shown| shown.kind.clone()),
            last_seen: Some(Timestamp::from_unix_secs(lease.unwrap_or(issued).0)),
            reachability: shown.map_or(DeviceReachability::None, |shown| shown.reachability),
            certificate_until: Some(Timestamp::from_unix_secs(parts.certificate.unverified().not_after.0)),
            ..self.bare_view(&parts.device())
        }
    }

    fn bare_view(&self, device: &DeviceKey) -> DeviceView {
        let peer = address::peer_id(device);
        DeviceView {
            peer_id: peer.map(|peer| peer.to_string()).unwrap_or_default(),
            name: None,
            kind: None,
            is_this: *device == self.identity.device(),
            state: DeviceState::Active,
            has_identity_key: None,
            is_connected: peer.is_some_and(|peer| self.is_own_peer(&peer)),
            last_seen: None,
            reachability: DeviceReachability::None,
            certificate_until: None,
            revoked_at: None,
            report: self.report_view(device),
        }
    }

    /// The device of this name or peer id.
    fn find_device(&self, text: &str, views: &BTreeMap<DeviceKey, DeviceView>) -> Result<DeviceKey, DeviceError> {
        if let Some((device, _)) = views.iter().find(|(_, view)| view.peer_id == text) {
            return Ok(*device);
        }
        let is_called = |view: &DeviceView| view.name.as_deref() == Some(text);
        let named = |is_active: bool| {
            let state = if is_active { DeviceState::Active } else { DeviceState::Revoked };
            views
                .iter()
                .filter(move |(_, view)| is_called(view) && view.state == state)
                .map(|(device, _)| *device)
                .collect::<Vec<_>>()
        };
        match (named(true).as_slice(), named(false).as_slice()) {
            ([device], _) | ([], [device]) => Ok(*device),
            ([], _) => Err(DeviceError::Unknown { device: text.chars().take(128).collect() }),
            (several, _) => {
                let ids = several.iter().filter_map(|device| Some(views.get(device)?.peer_id.clone())).collect::<Vec<_>>();
                Err(DeviceError::Ambiguous { device: text.to_owned(), peer_ids: ids.join(", ") })
            }
        }
    }
}

// Naming.
impl EventLoop {
    pub(super) fn rename_device(&mut self, device: String, name: String, reply: Reply<DeviceView, DeviceError>) {
        if name.is_empty() || name.len() > DEVICE_NAME_BYTES_MAX || name.chars().any(char::is_control) {
            let reason = format!("a name has 1 to {DEVICE_NAME_BYTES_MAX} bytes, and no control characters");
            return reply.send(Err(DeviceError::InvalidName { reason }));
        }
        let is_this = device == self.swarm.local_peer_id().to_string() || device == self.settings.device_name;
        if is_this {
            let renamed = self.rename_this(name);
            return reply.send(renamed.map(|()| self.own_view()));
        }
        self.devices_task(DevicesTask::Rename { device, name, reply });
    }

    fn rename_this(&mut self, name: String) -> Result<(), DeviceError> {
        let given = GivenName { name: name.clone(), configured: self.devices.configured_name.clone() };
        let kept = self.store.transaction::<_, StoreError>(|tx| tx.put_setting_value(NAME, &given));
        kept.map_err(|error| internal(&error))?;
        self.settings.device_name = name;
        info!("this device has a new name");
        self.tell_card();
        self.publish_soon();
        Ok(())
    }

    fn rename_other(
        &mut self,
        text: &str,
        name: String,
        record: Option<&DirectoryRecord>,
        reply: Reply<DeviceView, DeviceError>,
    ) {
        let views = self.device_views(record);
        let device = match self.find_device(text, &views) {
            Ok(device) if device == self.identity.device() => {
                let renamed = self.rename_this(name);
                return reply.send(renamed.map(|()| self.own_view()));
            }
            Ok(device) => device,
            Err(error) => return reply.send(Err(error)),
        };
        if views.get(&device).is_some_and(|view| view.state == DeviceState::Revoked) {
            return reply.send(Err(DeviceError::Revoked { device: text.to_owned() }));
        }
        let target = record.and_then(|record| self.device_target(record, record.entry(&device)?));
        let Some(target) = target.or_else(|| address::peer_id(&device).map(Target::connected)) else {
            return reply.send(Err(DeviceError::Unknown { device: text.to_owned() }));
        };
        let request = DeviceRename { name: name.clone(), extensions: Extensions::none() };
        let renaming = Renaming { device, name, reply };
        self.request(&target, &request, Purpose::DeviceRename(Box::new(renaming)), TIMEOUT);
    }

    /// Another own device gives this one a name.
    pub(crate) fn handle_device_rename(&mut self, peer: PeerId, request: DeviceRename) -> DeviceRenamed {
        let is_clean = !request.name.chars().any(char::is_control);
        let is_done = is_clean && self.is_own_peer(&peer) && self.rename_this(request.name).is_ok();
        DeviceRenamed { is_done, extensions: Extensions::none() }
    }

    pub(crate) fn device_rename_answer(&mut self, renaming: Renaming, frame: &Frame) {
        let Renaming { device, name, reply } = renaming;
        let is_done = frame.parse::<DeviceRenamed>().is_ok_and(|answer| answer.is_done);
        if !is_done {
            return reply.send(Err(DeviceError::Unreachable { reason: "the device refused the name".to_owned() }));
        }
        let now = self.now().unix;
        if let Some(card) = self.devices.cards.get_mut(&device) {
            card.name.clone_from(&name);
            card.seen_at = now;
            self.keep_cards();
        }
        let mut view = self.bare_view(&device);
        view.name = Some(name);
        reply.send(Ok(view));
    }

    pub(crate) fn device_rename_failure(&mut self, renaming: Renaming, failure: Failure) {
        renaming.reply.send(Err(DeviceError::Unreachable { reason: format!("the device isn't reached now: {failure}") }));
    }
}

// Removing.
impl EventLoop {
    fn revoke_device(
        &mut self,
        text: &str,
        options: &RevokeOptions,
        record: Option<&DirectoryRecord>,
    ) -> Result<DeviceRevocation, DeviceError> {
        if self.is_revoked() {
            return Err(NodeError::Revoked.into());
        }
        let views = self.device_views(record);
        let device = self.find_device(text, &views)?;
        if device == self.identity.device() {
            return Err(DeviceError::ThisDevice);
        }
        let view = views.get(&device).cloned();
        if view.as_ref().is_some_and(|view| view.state == DeviceState::Revoked) {
            return Err(DeviceError::Revoked { device: text.to_owned() });
        }
        let key = self.identity_key_or(options)?;
        let now = self.now().unix;
        // Every certificate the device may hold has ended by then.
        let until = now.plus_secs(DEVICE_CERTIFICATE_SECS_MAX);
        let tombstone = Tombstone { device, removed_at: now, until, extensions: Extensions::none() };
        let tombstone = Signed::sign(tombstone, &key);
        let helpers: Vec<Target> =
            record.and_then(|record| record.entry(&device)).map(|parts| self.helpers_of(parts)).unwrap_or_default();
        let kept = self.run_roster(|roster, signer| roster.remove_device(tombstone.clone(), signer));
        kept.map_err(|error| internal(&error))?;
        self.raise_vault_key().map_err(|error| internal(&error))?;
        // What follows from a change of our own part includes this; said again, it is no news.
        self.take_tombstones(self.identity.identity(), vec![tombstone]);
        for target in helpers {
            // The hello says it.
            self.tell_hello_to(&target);
        }
        Ok(DeviceRevocation {
            peer_id: address::peer_id(&device).map(|peer| peer.to_string()).unwrap_or_default(),
            name: view.and_then(|view| view.name),
            key_epoch: self.contacts.presence_key().epoch,
            until: Timestamp::from_unix_secs(until.0),
        })
    }

    /// Who keeps something for a device: mailboxes, gateways, relays.
    fn helpers_of(&self, parts: &EntryParts) -> Vec<Target> {
        let entry = parts.entry();
        let helpers = entry.mailboxes.iter().chain(&entry.keepers).chain(&entry.relays);
        let mut targets: Vec<Target> = Vec::new();
        for helper in helpers {
            let Some(mut target) = self.helper_target(helper) else { continue };
            let seen = self.directory.machine.table().find(|descriptor| descriptor.device == helper.device);
            target.addresses.extend(
                seen.and_then(|seen| Target::of_descriptor(seen, self.dials_private()))
                    .into_iter()
                    .flat_map(|seen| seen.addresses),
            );
            if !targets.iter().any(|known| known.peer == target.peer) {
                targets.push(target);
            }
        }
        targets
    }

    fn identity_key_or(&self, options: &RevokeOptions) -> Result<SecretKey, DeviceError> {
        if let Some(words) = &options.recovery_phrase {
            let phrase =
                RecoveryPhrase::parse(&words.0).map_err(|error| DeviceError::InvalidPhrase { reason: error.to_string() })?;
            let key = phrase.identity_key();
            return match IdentityKey(key.public()) == self.identity.identity() {
                true => Ok(key),
                false => Err(DeviceError::InvalidPhrase { reason: "it is another identity's".to_owned() }),
            };
        }
        self.identity.identity_key().cloned().ok_or_else(|| DeviceError::NoIdentityKey { hint: self.identity_key_hint() })
    }

    /// Where the identity key is, as far as is known.
    pub(super) fn identity_key_hint(&self) -> String {
        let (identity, now) = (self.identity.identity(), self.now().unix);
        let is_left = |device: &DeviceKey| !self.trust.is_device_removed(&identity, device, now);
        let with_key = self.devices.cards.iter().filter(|(device, card)| card.has_identity_key && is_left(device));
        let names: Vec<&str> = with_key.map(|(_, card)| card.name.as_str()).filter(|name| !name.is_empty()).collect();
        match names.as_slice() {
            [] => "; do it where it is, or give the recovery phrase".to_owned(),
            names => format!("; {} has it", names.join(", ")),
        }
    }
}

// Certificates of devices without the identity key.
impl EventLoop {
    pub(super) fn renewing_tick(&mut self, now: Now) {
        if self.devices.renewing.look_at.is_some_and(|at| at > now.instant) {
            return;
        }
        self.devices.renewing.look_at = Some(now.instant + LOOK_EVERY);
        self.ask_for_certificate(now.instant);
    }

    /// Asks a connected own device that has the identity key for a new certificate, if one is due.
    fn ask_for_certificate(&mut self, now: Instant) {
        if self.is_revoked() || !self.identity.needs_device_certificate(self.now().unix) {
            return;
        }
        if self.devices.renewing.asked_at.is_some_and(|at| now.saturating_duration_since(at) < RENEW_EVERY) {
            return;
        }
        let has_key = |device: &DeviceKey| self.devices.cards.get(device).is_some_and(|card| card.has_identity_key);
        let connected = self.peers.iter().find(|(peer, known)| self.is_own_peer(peer) && has_key(&known.device));
        let target = connected.map(|(peer, _)| Target::connected(*peer)).or_else(|| {
            let user = self.identity.user_id();
            self.devices.cards.keys().filter(|device| has_key(device)).find_map(|device| self.cached_target(&user, device))
        });
        let Some(target) = target else { return };
        self.devices.renewing.asked_at = Some(now);
        self.request(&target, &DeviceRenew { extensions: Extensions::none() }, Purpose::DeviceRenew, TIMEOUT);
    }

    /// An own device asks for a new certificate.
    pub(crate) fn handle_device_renew(&mut self, peer: PeerId) -> DeviceRenewed {
        let now = self.now().unix;
        let device = self.peers.get(&peer).map(|known| known.device).filter(|_| self.is_own_peer(&peer));
        let current = self.peers.get(&peer).and_then(|known| known.certificate().cloned());
        let certificate =
            device.zip(current).and_then(|(device, current)| self.identity.recertify(device, current.unverified(), now).ok());
        DeviceRenewed { certificate, extensions: Extensions::none() }
    }

    pub(crate) fn device_renew_answer(&mut self, frame: &Frame) {
        let Ok(DeviceRenewed { certificate: Some(certificate), .. }) = frame.parse::<DeviceRenewed>() else {
            return debug!("no new certificate");
        };
        match self.identity.set_device_certificate(certificate, self.now().unix) {
            Ok(()) => {
                info!("device certificate renewed by another device");
                self.refresh_hello();
                self.publish_soon();
            }
            Err(error) => warn!(%error, "a new device certificate can't be used"),
        }
    }

    pub(crate) fn device_renew_failure(&mut self, failure: Failure) {
        debug!(%failure, "no own device reached for a new certificate");
    }
}
