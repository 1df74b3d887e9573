//! Everybody a user knows, and what comes of what they say: a state machine.
//!
//! Inputs are what the person does ([`Roster::ask`], [`Roster::accept`], ..), what others' devices say ([`Roster::receive`]) and what the user's own
//! other devices know ([`Roster::merge`]). Outputs are [`RosterAction`]s. The owner carries out all actions of one input in one transaction of its
//! database, before it acknowledges the input: so a crash loses neither a change nor the signal that tells of it, and what a contact hasn't been
//! told yet ([`Told`]) is told after the next start ([`Roster::reconcile_all`]).
//!
//! Repeated, reordered and stale signals do no harm: statements are compared by sequence, keys by epoch, profiles by sequence.

mod entry;
mod receive;

use std::collections::{BTreeMap, VecDeque};

use bincode::{Decode, Encode};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha20Rng;

use entry::Intro;
pub use entry::RosterEntry;

use super::privacy::Relation;
use super::statement::{Attested, ContactStatement, Stance};
use super::{
    ContactAnswer, ContactKeys, ContactRemoval, ContactRequest, ContactSignal, ContactUpdate, PassOn, PresenceSecret,
    REQUEST_NAME_BYTES_MAX, REQUEST_TEXT_BYTES_MAX, Secret32,
};
use crate::capability::{CAPABILITY_SECS_MAX, Capability, CapabilityId, Holder, Issuer, Limits, Service};
use crate::directory::TOMBSTONES_MAX;
use crate::identity::{DeviceCertificate, Tombstone, UserId, with_tombstones};
use crate::key::{DeviceKey, IdentityKey, PublicKey, SecretKey, hash};
use crate::profile::{Avatar, Profile, ProfileCard};
use crate::time::UnixTime;
use crate::wire::{Body, DecodeError, Extensions, Signed};

/// Most people a roster holds: contacts, people asked, people blocked. Several times what one person keeps up with; at a few kilobytes each they
/// fit in memory.
pub const CONTACTS_MAX: usize = 4_000;

/// Most requests of strangers that wait for the person. When they are full, further ones are told to come again later.
pub const REQUESTS_MAX: usize = 64;

/// Most people remembered who are nothing to the user any more: declined, removed. The one heard of longest ago is forgotten.
pub const TRACES_MAX: usize = 512;

/// How long somebody who was declined isn't heard again, in seconds.
pub const QUIET_SECS: u64 = 30 * 86_400;

/// When contacts get their capabilities anew: well before the old ones end.
pub const KEYS_RENEWED_AFTER_SECS: u64 = CAPABILITY_SECS_MAX / 2;

/// What a contact may do with the user's helpers, per hour.
const CONTACT_PER_HOUR: u32 = 240;

/// Largest payload a contact may have a helper carry, in bytes.
const CONTACT_PAYLOAD_BYTES_MAX: u32 = 64 * 1024;

/// How long before now capabilities begin: helpers' clocks differ.
const CAPABILITY_BACKDATED_SECS: u64 = 3_600;

/// What the user's helpers do for contacts.
const SERVICES: [Service; 4] = [Service::Push, Service::InviteHandOver, Service::Mailbox, Service::PresenceFetch];

/// Who signs here, when, and with which randomness.
#[derive(Debug)]
pub struct Signer<'a> {
    /// The user's identity key.
    pub identity: IdentityKey,
    /// This device's key.
    pub key: &'a SecretKey,
    /// The identity's word for this device.
    pub certificate: &'a Signed<DeviceCertificate>,
    /// Now, corrected.
    pub now: UnixTime,
    rng: ChaCha20Rng,
}

impl<'a> Signer<'a> {
    /// `seed` must be fresh and random for every input.
    #[must_use]
    pub fn new(
        identity: IdentityKey,
        key: &'a SecretKey,
        certificate: &'a Signed<DeviceCertificate>,
        now: UnixTime,
        seed: [u8; 32],
    ) -> Self {
        Self { identity, key, certificate, now, rng: ChaCha20Rng::from_seed(seed) }
    }

    fn secret(&mut self) -> Secret32 {
        let mut bytes = [0; 32];
        self.rng.fill_bytes(&mut bytes);
        Secret32::from_bytes(bytes)
    }

    fn device(&self) -> DeviceKey {
        DeviceKey(self.key.public())
    }
}

/// What somebody is in the roster. For showing; [`Roster::relation`] is for deciding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Standing {
    /// Both have said yes.
    Contact,
    /// A contact whose name has come with another identity key.
    Changed,
    /// The user has asked and waits.
    Asked,
    /// They have asked, and the user hasn't answered.
    Requested,
    /// They have said no.
    Declined,
    /// Nothing, or nothing any more.
    Removed,
    /// The user wants to hear nothing of them.
    Blocked,
}

impl Standing {
    /// The name in JSON and on the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Contact => "contact",
            Self::Changed => "changed",
            Self::Asked => "asked",
            Self::Requested => "requested",
            Self::Declined => "declined",
            Self::Removed => "removed",
            Self::Blocked => "blocked",
        }
    }

    const fn is_contact(self) -> bool {
        matches!(self, Self::Contact | Self::Changed)
    }

    /// True if the place in the roster is the person's own doing.
    const fn is_kept(self) -> bool {
        matches!(self, Self::Contact | Self::Changed | Self::Asked | Self::Blocked)
    }
}

/// What a contact was told last by this device. Not shared with other devices: each tells for itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Told {
    /// Hash of the keys.
    keys: [u8; 32],
    /// Sequence of the profile.
    profile: u64,
    /// Hash of the picture.
    avatar: Option<[u8; 32]>,
    /// When.
    at: UnixTime,
}

/// A person in the roster, as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Contact {
    /// What all of the user's devices know.
    pub entry: RosterEntry,
    /// What this device has told them.
    pub told: Told,
}

/// The user's own part.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct OwnKeys {
    /// What the presence key of contacts follows from.
    pub presence: PresenceSecret,
    /// What contacts see.
    pub profile: Option<ProfileCard>,
    /// Devices that the user has removed, signed by the identity key; at most [`TOMBSTONES_MAX`], those that last longest.
    pub tombstones: Vec<Signed<Tombstone>>,
}

impl OwnKeys {
    /// A new user's.
    #[must_use]
    pub fn new(key: Secret32) -> Self {
        Self { presence: PresenceSecret::new(1, *key.as_bytes()), profile: None, tombstones: Vec::new() }
    }

    /// Takes a tombstone. True if it was news.
    fn bury(&mut self, tombstone: Signed<Tombstone>) -> bool {
        let (device, until) = (tombstone.unverified().device, tombstone.unverified().until);
        let mut known = self.tombstones.iter().filter(|known| known.unverified().device == device);
        if known.any(|known| known.unverified().until >= until) {
            return false;
        }
        self.tombstones.retain(|known| known.unverified().device != device);
        self.tombstones.push(tombstone);
        self.tombstones.sort_by_key(|known| (std::cmp::Reverse(known.unverified().until), known.unverified().device));
        self.tombstones.truncate(TOMBSTONES_MAX);
        self.tombstones.iter().any(|known| known.unverified().device == device)
    }
}

/// What a request says besides the statement.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asking {
    /// A few words, at most [`REQUEST_TEXT_BYTES_MAX`] bytes.
    pub text: String,
    /// The user's name; cut to [`REQUEST_NAME_BYTES_MAX`] bytes.
    pub display_name: String,
}

/// A user certificate that was seen for a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The identity key in it.
    pub identity: IdentityKey,
    /// Its serial.
    pub serial: u64,
    /// True if the key pinned so far has signed this one over, and this one has accepted
    /// ([`KeySuccession`](crate::identity::KeySuccession)).
    pub is_successor: bool,
}

/// What the person is to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RosterEvent {
    /// Somebody asks.
    Request {
        /// Who.
        user: UserId,
        /// Their name, as they say.
        display_name: String,
        /// Their words.
        text: String,
    },
    /// Somebody is a contact now.
    Accepted {
        /// Who.
        user: UserId,
    },
    /// Somebody has said no.
    Declined {
        /// Who.
        user: UserId,
    },
    /// Somebody is no contact any more, or has withdrawn a request.
    Removed {
        /// Who.
        user: UserId,
    },
    /// A contact's name has come with another identity key.
    IdentityChanged {
        /// Whose.
        user: UserId,
        /// The key known.
        old: IdentityKey,
        /// The key seen.
        new: IdentityKey,
    },
    /// A contact's profile is another.
    ProfileChanged {
        /// Whose.
        user: UserId,
    },
}

/// What the owner is to do; all actions of one input belong into one transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RosterAction {
    /// Store the contact ([`Roster::contact`]); own other devices want to know too.
    Persist {
        /// Who.
        user: UserId,
    },
    /// Store the contact: this device has told them something. Of no interest to own other devices.
    PersistTold {
        /// Who.
        user: UserId,
    },
    /// Forget what is stored, picture included.
    Forget {
        /// Who.
        user: UserId,
    },
    /// Store [`Roster::own`], publish the directory entry anew, and tell helpers the new epoch.
    OwnChanged,
    /// Keep a contact's picture.
    KeepAvatar {
        /// Whose.
        user: UserId,
        /// The picture.
        avatar: Avatar,
    },
    /// Send this to all devices of the user.
    Send {
        /// To whom.
        to: UserId,
        /// What.
        signal: Box<ContactSignal>,
    },
    /// A contact has removed devices: nothing of theirs is believed any more, and what they hold of our keys is worth nothing once
    /// [`Roster::renew_keys`] was called.
    Removed {
        /// Whose.
        identity: IdentityKey,
        /// Verified.
        tombstones: Vec<Signed<Tombstone>>,
    },
    /// Tell the person.
    Tell(RosterEvent),
}

/// Why something can't be done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RosterError {
    /// One isn't one's own contact.
    #[error("this is the user's own name")]
    Own,
    /// Nothing is known of them.
    #[error("not in the contact list")]
    Unknown,
    /// They haven't asked.
    #[error("there is no request to answer")]
    NoRequest,
    /// Unblock them first.
    #[error("blocked; unblock first")]
    Blocked,
    /// They aren't blocked.
    #[error("not blocked")]
    NotBlocked,
    /// The name has another key than the one known.
    #[error("the identity key has changed from {pinned} to {found}: compare fingerprints before accepting it")]
    KeyChanged {
        /// The key known.
        pinned: IdentityKey,
        /// The key found.
        found: IdentityKey,
    },
    /// The key hasn't changed.
    #[error("the identity key has not changed")]
    KeyUnchanged,
    /// The roster is full.
    #[error("the contact list is full ({CONTACTS_MAX})")]
    Full,
    /// Something is too long or malformed.
    #[error(transparent)]
    Invalid(#[from] DecodeError),
}

/// All people a user knows.
///
/// Contract: after every input take actions with [`Roster::poll_action`] until `None`.
#[derive(Clone, Debug)]
pub struct Roster {
    own: OwnKeys,
    pass_on: PassOn,
    contacts: BTreeMap<UserId, Contact>,
    actions: VecDeque<RosterAction>,
}

// What the person does.
impl Roster {
    /// With what is stored.
    #[must_use]
    pub fn new(own: OwnKeys, stored: impl IntoIterator<Item = Contact>) -> Self {
        let contacts = stored.into_iter().map(|contact| (contact.entry.user.clone(), contact)).collect();
        Self { own, pass_on: PassOn::default(), contacts, actions: VecDeque::new() }
    }

    /// Starts with what the user has said of passing presence on; contacts have been told, or are with the next [`Roster::reconcile_all`].
    #[must_use]
    pub fn with_pass_on(self, pass_on: PassOn) -> Self {
        Self { pass_on, ..self }
    }

    /// The user says whether contacts may pass the presence on: they are told.
    pub fn set_pass_on(&mut self, pass_on: PassOn, signer: &mut Signer<'_>) {
        if pass_on > self.pass_on {
            self.pass_on = pass_on;
            self.reconcile_all(signer);
        }
    }

    /// Asks `user`, whose identity key is `identity`, to be a contact; accepts if they have asked.
    ///
    /// # Errors
    /// [`RosterError`]; nothing is changed then.
    pub fn ask(
        &mut self,
        user: &UserId,
        identity: IdentityKey,
        asking: Asking,
        signer: &mut Signer<'_>,
    ) -> Result<Standing, RosterError> {
        if identity == signer.identity {
            return Err(RosterError::Own);
        }
        if asking.text.len() > REQUEST_TEXT_BYTES_MAX {
            let reason = format!("{} bytes, at most {REQUEST_TEXT_BYTES_MAX}", asking.text.len());
            return Err(DecodeError::invalid("text", reason).into());
        }
        let standing = self.standing(user);
        if standing == Standing::Blocked {
            return Err(RosterError::Blocked);
        }
        self.check_pin(user, identity)?;
        if standing == Standing::Contact {
            return Ok(standing);
        }
        if self.entry(user).is_some_and(RosterEntry::is_asked_for) {
            return self.accept(user, signer);
        }
        self.make_room(standing)?;
        let contact = self.contact_mut(user);
        contact.entry.pin_if_new(identity);
        let is_repeated = standing == Standing::Asked;
        if !is_repeated {
            self.state(user, Stance::Asked, signer);
        }
        self.send_request(user, asking);
        Ok(self.standing(user))
    }

    /// Says yes to a request.
    ///
    /// # Errors
    /// [`RosterError::NoRequest`], [`RosterError::Blocked`], [`RosterError::Full`].
    pub fn accept(&mut self, user: &UserId, signer: &mut Signer<'_>) -> Result<Standing, RosterError> {
        let standing = self.standing(user);
        match standing {
            Standing::Contact => return Ok(standing),
            Standing::Blocked => return Err(RosterError::Blocked),
            _ if !self.entry(user).is_some_and(RosterEntry::is_asked_for) => return Err(RosterError::NoRequest),
            _ => {}
        }
        self.make_room(standing)?;
        self.state(user, Stance::Accepted, signer);
        self.send_accept(user, signer);
        self.tell(RosterEvent::Accepted { user: user.clone() });
        Ok(self.standing(user))
    }

    /// Says no to a request, and hears nothing of them for [`QUIET_SECS`].
    ///
    /// # Errors
    /// [`RosterError::NoRequest`].
    pub fn decline(&mut self, user: &UserId, signer: &mut Signer<'_>) -> Result<Standing, RosterError> {
        if self.standing(user) != Standing::Requested {
            return Err(RosterError::NoRequest);
        }
        self.state(user, Stance::Removed, signer);
        let quiet = signer.now.plus_secs(QUIET_SECS);
        let entry = &mut self.contact_mut(user).entry;
        entry.quiet = entry.quiet.max(quiet);
        if let Some(mine) = &entry.mine {
            let answer = ContactAnswer {
                statement: mine.statement.clone(),
                pairwise: None,
                keys: None,
                profile: None,
                extensions: Extensions::none(),
            };
            self.send(user, ContactSignal::Decline(Box::new(answer)));
        }
        self.forget_traces();
        Ok(self.standing(user))
    }

    /// Ends it with a contact, or takes a request back; a request of theirs is declined.
    ///
    /// # Errors
    /// [`RosterError::Unknown`] if they are nothing to the user.
    pub fn remove(&mut self, user: &UserId, signer: &mut Signer<'_>) -> Result<Standing, RosterError> {
        match self.standing(user) {
            Standing::Requested => return self.decline(user, signer),
            Standing::Contact | Standing::Changed | Standing::Asked => self.end(user, signer),
            Standing::Declined => self.state(user, Stance::Removed, signer),
            Standing::Removed | Standing::Blocked => return Err(RosterError::Unknown),
        }
        self.forget_traces();
        Ok(self.standing(user))
    }

    /// Wants to hear nothing of them any more. They learn no more than from a removal, and from a declined request nothing at all.
    ///
    /// # Errors
    /// [`RosterError::Full`], [`RosterError::Own`].
    pub fn block(
        &mut self,
        user: &UserId,
        identity: Option<IdentityKey>,
        signer: &mut Signer<'_>,
    ) -> Result<Standing, RosterError> {
        if identity == Some(signer.identity) {
            return Err(RosterError::Own);
        }
        let standing = self.standing(user);
        if standing == Standing::Blocked {
            return Ok(standing);
        }
        self.make_room(standing)?;
        if matches!(standing, Standing::Contact | Standing::Changed | Standing::Asked) {
            self.end(user, signer);
        }
        if standing == Standing::Requested {
            // For this side alone: an unblocked person has to ask anew.
            self.state(user, Stance::Removed, signer);
        }
        let entry = &mut self.contact_mut(user).entry;
        if let Some(identity) = identity {
            entry.pin_if_new(identity);
        }
        entry.blocked = (entry.blocked.0.saturating_add(1), true);
        self.persist(user);
        Ok(Standing::Blocked)
    }

    /// Ends a block. They are strangers again, whatever they were.
    ///
    /// # Errors
    /// [`RosterError::NotBlocked`].
    pub fn unblock(&mut self, user: &UserId) -> Result<Standing, RosterError> {
        if self.standing(user) != Standing::Blocked {
            return Err(RosterError::NotBlocked);
        }
        let entry = &mut self.contact_mut(user).entry;
        entry.blocked = (entry.blocked.0.saturating_add(1), false);
        self.persist(user);
        self.forget_traces();
        Ok(self.standing(user))
    }

    /// Takes the key that a contact's name has come with for theirs, after the person has compared fingerprints; asks them anew.
    ///
    /// # Errors
    /// [`RosterError::KeyUnchanged`], [`RosterError::Unknown`].
    pub fn accept_identity(&mut self, user: &UserId, asking: Asking, signer: &mut Signer<'_>) -> Result<Standing, RosterError> {
        let entry = self.entry(user).ok_or(RosterError::Unknown)?;
        let new = entry.changed().ok_or(RosterError::KeyUnchanged)?;
        if entry.standing().is_contact() {
            // Whoever had the old key opens nothing from now on.
            self.raise_epoch(signer);
        }
        let contact = self.contact_mut(user);
        contact.told = Told::default();
        contact.entry.repin(new, false);
        contact.entry.presence.clear();
        contact.entry.capabilities.clear();
        self.persist(user);
        self.reconcile_all(signer);
        self.ask(user, new, asking, signer)
    }

    /// Sets what contacts see. Returns whether it is another than before.
    ///
    /// # Errors
    /// [`RosterError::Invalid`] for what is too long or malformed.
    pub fn set_profile(
        &mut self,
        mut profile: Profile,
        avatar: Option<Avatar>,
        signer: &mut Signer<'_>,
    ) -> Result<bool, RosterError> {
        let newest = self.own.profile.as_ref().map(|card| card.profile.unverified().clone());
        let last = newest.as_ref().map_or(0, |profile| profile.sequence);
        profile.avatar = avatar.as_ref().map(|avatar| Profile::avatar_hash(avatar.as_bytes()));
        profile.sequence = last;
        if newest.as_ref() == Some(&profile) {
            return Ok(false);
        }
        profile.sequence = last.saturating_add(1).max(signer.now.0);
        profile.check()?;
        let length = crate::wire::encoded_len(&profile);
        if length > Profile::LIMIT {
            return Err(DecodeError::TooLarge { length, limit: Profile::LIMIT }.into());
        }
        let profile = Signed::sign(profile, signer.key);
        self.own.profile = Some(ProfileCard { profile, avatar: avatar.map(Avatar::into_bytes) });
        self.actions.push_back(RosterAction::OwnChanged);
        self.reconcile_all(signer);
        Ok(true)
    }

    fn check_pin(&self, user: &UserId, identity: IdentityKey) -> Result<(), RosterError> {
        let Some(entry) = self.entry(user) else { return Ok(()) };
        let pinned = entry.identity().filter(|pinned| *pinned != identity);
        if let Some(pinned) = pinned {
            return Err(RosterError::KeyChanged { pinned, found: identity });
        }
        match entry.changed() {
            Some(found) if entry.standing().is_contact() => Err(RosterError::KeyChanged { pinned: identity, found }),
            _ => Ok(()),
        }
    }

    /// Room for one more that the person wants.
    fn make_room(&self, standing: Standing) -> Result<(), RosterError> {
        let kept = || self.contacts.values().filter(|contact| contact.entry.standing().is_kept()).count();
        if !standing.is_kept() && kept() >= CONTACTS_MAX { Err(RosterError::Full) } else { Ok(()) }
    }

    /// Ends what there was, and tells them.
    fn end(&mut self, user: &UserId, signer: &mut Signer<'_>) {
        let was_contact = self.standing(user).is_contact();
        self.state(user, Stance::Removed, signer);
        self.contact_mut(user).told = Told::default();
        if let Some(mine) = self.entry(user).and_then(|entry| entry.mine.as_ref()) {
            let removal = ContactRemoval { statement: mine.statement.clone(), extensions: Extensions::none() };
            self.send(user, ContactSignal::Remove(Box::new(removal)));
        }
        if was_contact {
            self.raise_epoch(signer);
            self.reconcile_all(signer);
        }
    }
}

// What follows by itself.
impl Roster {
    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<RosterAction> {
        self.actions.pop_front()
    }

    /// Tells every contact what they haven't been told: after a start, and once a day.
    pub fn reconcile_all(&mut self, signer: &mut Signer<'_>) {
        let users: Vec<UserId> = self.contacts.keys().cloned().collect();
        for user in users {
            self.reconcile(&user, signer);
        }
    }

    /// A name was seen with this certificate: in the directory, or in a hello.
    pub fn see(&mut self, user: &UserId, seen: Seen, signer: &mut Signer<'_>) {
        let Some(entry) = self.entry(user) else { return };
        let Some(pin) = entry.pin else { return };
        if pin.identity == seen.identity || entry.has_former(&seen.identity) || entry.changed() == Some(seen.identity) {
            return;
        }
        let standing = entry.standing();
        let old = pin.identity;
        if seen.is_successor {
            self.contact_mut(user).entry.repin(seen.identity, true);
            self.persist(user);
            if standing.is_contact() {
                // Under the new key the contact holds no statement of ours.
                self.state(user, Stance::Accepted, signer);
                self.send_accept(user, signer);
            }
            return;
        }
        self.contact_mut(user).entry.note_seen(seen.serial, seen.identity);
        self.persist(user);
        let matters = standing.is_contact() || standing == Standing::Asked;
        if matters && self.entry(user).is_some_and(|entry| entry.changed().is_some()) {
            self.tell(RosterEvent::IdentityChanged { user: user.clone(), old, new: seen.identity });
        }
    }

    /// Takes in what another device of this user knows of somebody.
    pub fn merge(&mut self, other: RosterEntry, signer: &mut Signer<'_>) {
        let user = other.user.clone();
        let is_known = self.contacts.contains_key(&user);
        if !is_known && self.contacts.len() >= CONTACTS_MAX + REQUESTS_MAX + TRACES_MAX {
            return;
        }
        let Some(other) = other.believed(&signer.identity) else { return };
        let before = self.standing(&user);
        let contact = self.contact_mut(&user);
        let old = contact.entry.clone();
        contact.entry.join(other);
        if contact.entry == old && is_known {
            return;
        }
        self.persist(&user);
        self.tell_change(&user, before);
        if before.is_contact() && !self.standing(&user).is_contact() {
            self.contact_mut(&user).told = Told::default();
        }
        self.reconcile(&user, signer);
    }

    /// Takes in the own part that another device of this user has. Tombstones were verified.
    pub fn merge_own(
        &mut self,
        presence: Option<PresenceSecret>,
        profile: Option<ProfileCard>,
        tombstones: Vec<Signed<Tombstone>>,
        signer: &mut Signer<'_>,
    ) {
        let before = self.own.clone();
        for tombstone in tombstones {
            self.own.bury(tombstone);
        }
        if let Some(presence) = presence
            && presence > self.own.presence
            && presence.epoch() > 0
        {
            self.own.presence = presence;
        }
        if let Some(card) = profile {
            let rank = |card: &ProfileCard| (card.profile.unverified().sequence, card.profile.body_bytes().to_vec());
            let is_whole = card.avatar.is_some() || card.profile.unverified().avatar.is_none();
            if is_whole && self.own.profile.as_ref().is_none_or(|own| rank(&card) > rank(own)) {
                self.own.profile = Some(card);
            }
        }
        if self.own != before {
            self.actions.push_back(RosterAction::OwnChanged);
            self.reconcile_all(signer);
        }
    }

    /// The user has removed a device: contacts and own devices are told, and all get new keys. Returns whether it was news. The caller has signed the
    /// tombstone with the identity key, or verified it.
    pub fn remove_device(&mut self, tombstone: Signed<Tombstone>, signer: &mut Signer<'_>) -> bool {
        if !self.own.bury(tombstone) {
            return false;
        }
        self.raise_epoch(signer);
        self.reconcile_all(signer);
        true
    }

    /// Gives every contact new keys: a device of one of them that was removed has the old ones.
    pub fn renew_keys(&mut self, signer: &mut Signer<'_>) {
        self.raise_epoch(signer);
        self.reconcile_all(signer);
    }

    /// Begins a new epoch: who isn't told has nothing from now on.
    fn raise_epoch(&mut self, signer: &mut Signer<'_>) {
        let epoch = self.own.presence.epoch().saturating_add(1);
        self.own.presence = PresenceSecret::new(epoch, *signer.secret().as_bytes());
        self.actions.push_back(RosterAction::OwnChanged);
    }

    fn reconcile(&mut self, user: &UserId, signer: &mut Signer<'_>) {
        let Some(contact) = self.contacts.get(user) else { return };
        if contact.entry.standing() != Standing::Contact {
            return;
        }
        let is_old = signer.now.secs_since(contact.told.at) > KEYS_RENEWED_AFTER_SECS;
        let wants_keys = is_old || contact.told.keys != self.keys_hash(contact);
        let profile = self.untold_profile(&contact.told);
        if !wants_keys && profile.is_none() {
            return;
        }
        let keys = if wants_keys { self.keys_for(user, signer) } else { None };
        if keys.is_none() && profile.is_none() {
            return;
        }
        self.note_told(user, signer.now);
        let extensions = with_tombstones(Extensions::none(), &self.own.tombstones);
        let update = ContactUpdate { keys, profile, extensions };
        self.send(user, ContactSignal::Update(Box::new(update)));
    }

    /// What the contact hasn't seen of the profile; the picture only if that has changed.
    fn untold_profile(&self, told: &Told) -> Option<ProfileCard> {
        let card = self.own.profile.as_ref()?;
        let profile = card.profile.unverified();
        if told.profile == profile.sequence {
            return None;
        }
        let avatar = card.avatar.clone().filter(|_| told.avatar != profile.avatar);
        Some(ProfileCard { profile: card.profile.clone(), avatar })
    }

    fn note_told(&mut self, user: &UserId, now: UnixTime) {
        let Some(contact) = self.contacts.get(user) else { return };
        let keys = self.keys_hash(contact);
        let profile = self.own.profile.as_ref().map(|card| card.profile.unverified());
        let told = Told {
            keys,
            profile: profile.map_or(0, |profile| profile.sequence),
            avatar: profile.and_then(|profile| profile.avatar),
            at: now,
        };
        self.contact_mut(user).told = told;
        self.actions.push_back(RosterAction::PersistTold { user: user.clone() });
    }

    /// Names the keys a contact is to have: another when the presence key changes, or the key they are known by.
    fn keys_hash(&self, contact: &Contact) -> [u8; 32] {
        let holder = contact.entry.pairwise.map_or([0; 32], |(_, key)| key.0);
        let presence = &self.own.presence;
        let removed: Vec<[u8; 32]> = self.own.tombstones.iter().map(Signed::body_hash).collect();
        let removed = removed.concat();
        let (epoch, presence) = (presence.epoch().to_be_bytes(), presence.to_bytes());
        let told = hash("halloo keys told", &[&epoch, presence.as_slice(), &holder, &removed]);
        if self.pass_on.version == 0 {
            return told;
        }
        let said = [u8::from(self.pass_on.is_allowed)];
        hash("halloo keys told with pass on", &[&told, &self.pass_on.version.to_be_bytes(), &said])
    }

    /// The keys for a contact; without a key to make them out to, no capabilities.
    fn keys_for(&self, user: &UserId, signer: &mut Signer<'_>) -> Option<ContactKeys> {
        let holder = self.contacts.get(user)?.entry.pairwise.map(|(_, key)| key);
        let epoch = self.own.presence.epoch();
        let mut capabilities = Vec::new();
        if let Some(holder) = holder {
            capabilities.extend(SERVICES.map(|service| capability(service, holder, epoch, signer)));
        }
        let extensions = self.pass_on.within(&Extensions::none());
        Some(ContactKeys { presence: self.own.presence.key(), capabilities, extensions })
    }

    /// Makes a new statement about `user`, above all that this user has said and that the other has ended.
    fn state(&mut self, user: &UserId, stance: Stance, signer: &mut Signer<'_>) {
        let secret = signer.secret();
        let contact = self.contact_mut(user);
        let entry = &mut contact.entry;
        let Some(other) = entry.identity() else { return };
        let mine = entry.mine.as_ref().map(Attested::said);
        let theirs = entry.their_statement().map(Attested::said);
        let last = mine.map_or(0, |said| said.sequence).max(theirs.map_or(0, |said| said.ends));
        let ended = mine.map_or(0, |said| said.ends);
        let ends = if stance == Stance::Removed { ended.max(theirs.map_or(0, |said| said.sequence)) } else { ended };
        let statement = ContactStatement {
            owner: signer.identity,
            other,
            sequence: last.saturating_add(1).max(signer.now.0),
            stance,
            ends,
            issued_at: signer.now,
            extensions: Extensions::none(),
        };
        let statement = Signed::sign(statement, signer.key);
        entry.mine = Some(Attested { statement, certificate: signer.certificate.clone() });
        entry.seed.get_or_insert(secret);
        self.persist(user);
    }

    fn send_request(&mut self, user: &UserId, asking: Asking) {
        let Some(entry) = self.entry(user) else { return };
        let (Some(mine), Some(pairwise)) = (&entry.mine, entry.own_pairwise()) else { return };
        let Asking { text, mut display_name } = asking;
        display_name.truncate(display_name.floor_char_boundary(REQUEST_NAME_BYTES_MAX));
        let request = ContactRequest {
            statement: mine.statement.clone(),
            pairwise: pairwise.public(),
            text,
            display_name,
            extensions: Extensions::none(),
        };
        self.send(user, ContactSignal::Request(Box::new(request)));
    }

    fn send_accept(&mut self, user: &UserId, signer: &mut Signer<'_>) {
        let keys = self.keys_for(user, signer);
        let profile = self.own.profile.clone();
        let Some(entry) = self.entry(user) else { return };
        let (Some(mine), Some(pairwise)) = (&entry.mine, entry.own_pairwise()) else { return };
        let answer = ContactAnswer {
            statement: mine.statement.clone(),
            pairwise: Some(pairwise.public()),
            keys,
            profile,
            extensions: Extensions::none(),
        };
        self.note_told(user, signer.now);
        self.send(user, ContactSignal::Accept(Box::new(answer)));
    }

    /// Tells what has become of somebody, if it is another than before.
    fn tell_change(&mut self, user: &UserId, before: Standing) {
        let after = self.standing(user);
        let user = user.clone();
        match (before, after) {
            (before, after) if before == after => {}
            (before, Standing::Contact) if !before.is_contact() => self.tell(RosterEvent::Accepted { user }),
            (Standing::Asked, Standing::Declined | Standing::Removed) if self.says_yes(&user) => {
                self.tell(RosterEvent::Declined { user });
            }
            (_, Standing::Requested) => {
                let intro = self.entry(&user).and_then(|entry| entry.intro.clone()).unwrap_or_default();
                self.tell(RosterEvent::Request { user, display_name: intro.display_name, text: intro.text });
            }
            (Standing::Contact | Standing::Changed | Standing::Requested, Standing::Removed | Standing::Declined) => {
                self.tell(RosterEvent::Removed { user });
            }
            _ => {}
        }
    }

    /// True if the user's own newest word is yes: then it was the other who has ended it.
    fn says_yes(&self, user: &UserId) -> bool {
        self.entry(user).and_then(|entry| entry.mine.as_ref()).is_some_and(|mine| mine.said().is_yes())
    }

    /// Forgets those who are nothing to the user, beyond [`TRACES_MAX`].
    fn forget_traces(&mut self) {
        let is_trace = |contact: &&Contact| matches!(contact.entry.standing(), Standing::Removed | Standing::Declined);
        while self.contacts.values().filter(is_trace).count() > TRACES_MAX {
            let oldest = self.contacts.values().filter(is_trace).min_by_key(|contact| contact.entry.heard_at());
            let Some(user) = oldest.map(|contact| contact.entry.user.clone()) else { return };
            self.contacts.remove(&user);
            self.actions.push_back(RosterAction::Forget { user });
        }
    }

    fn contact_mut(&mut self, user: &UserId) -> &mut Contact {
        self.contacts
            .entry(user.clone())
            .or_insert_with(|| Contact { entry: RosterEntry::new(user.clone()), told: Told::default() })
    }

    fn persist(&mut self, user: &UserId) {
        let persist = RosterAction::Persist { user: user.clone() };
        if !self.actions.contains(&persist) {
            self.actions.push_back(persist);
        }
    }

    fn send(&mut self, to: &UserId, signal: ContactSignal) {
        self.actions.push_back(RosterAction::Send { to: to.clone(), signal: Box::new(signal) });
    }

    fn tell(&mut self, event: RosterEvent) {
        self.actions.push_back(RosterAction::Tell(event));
    }
}

// Looking.
impl Roster {
    /// The user's own part.
    #[must_use]
    pub const fn own(&self) -> &OwnKeys {
        &self.own
    }

    /// Somebody, as stored.
    #[must_use]
    pub fn contact(&self, user: &UserId) -> Option<&Contact> {
        self.contacts.get(user)
    }

    /// Somebody.
    #[must_use]
    pub fn entry(&self, user: &UserId) -> Option<&RosterEntry> {
        self.contacts.get(user).map(|contact| &contact.entry)
    }

    /// Everybody.
    pub fn entries(&self) -> impl Iterator<Item = &RosterEntry> {
        self.contacts.values().map(|contact| &contact.entry)
    }

    /// What somebody is.
    #[must_use]
    pub fn standing(&self, user: &UserId) -> Standing {
        self.entry(user).map_or(Standing::Removed, RosterEntry::standing)
    }

    /// What somebody who has shown this identity key is, for [`decide`](super::privacy::decide).
    #[must_use]
    pub fn relation(&self, user: &UserId, identity: &IdentityKey) -> Relation {
        let Some(entry) = self.entry(user) else {
            // Somebody blocked may come under another name.
            let is_blocked = |entry: &RosterEntry| entry.is_blocked() && entry.identity() == Some(*identity);
            return if self.entries().any(is_blocked) { Relation::Blocked } else { Relation::Stranger };
        };
        match entry.standing() {
            Standing::Blocked => Relation::Blocked,
            standing if standing.is_contact() && entry.identity() == Some(*identity) => Relation::Contact,
            standing if standing.is_contact() => Relation::Changed,
            _ => Relation::Stranger,
        }
    }

    /// Requests that wait for the person.
    #[must_use]
    pub fn request_count(&self) -> usize {
        self.entries().filter(|entry| entry.standing() == Standing::Requested).count()
    }

    /// Contacts.
    #[must_use]
    pub fn contact_count(&self) -> usize {
        self.entries().filter(|entry| entry.standing().is_contact()).count()
    }
}

fn capability(service: Service, holder: PublicKey, epoch: u32, signer: &mut Signer<'_>) -> Signed<Capability> {
    let not_before = signer.now.minus_secs(CAPABILITY_BACKDATED_SECS);
    let capability = Capability {
        id: CapabilityId::random(&mut signer.rng),
        issuer: Issuer::Device(signer.device()),
        service,
        holder: Holder::Key(holder),
        limits: Limits { per_hour: CONTACT_PER_HOUR, payload_bytes_max: CONTACT_PAYLOAD_BYTES_MAX },
        epoch,
        not_before,
        not_after: not_before.plus_secs(CAPABILITY_SECS_MAX),
        extensions: Extensions::none(),
    };
    Signed::sign(capability, signer.key)
}
