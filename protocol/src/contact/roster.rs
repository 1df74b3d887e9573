//! Everybody a user knows, and what comes of what they say: a state machine.
//!
//! Inputs are what the person does ([`Roster::ask`], [`Roster::accept`], ..), what others' devices say ([`Roster::receive`]) and what the user's own
//! other devices know ([`Roster::merge`]). Outputs are [`RosterAction`]s. The owner carries out all actions of one input in one transaction of its
//! database, before it acknowledges the input: so a crash loses neither a change nor the signal that tells of it, and what a contact hasn't been
//! told yet ([`Told`]) is told after the next start ([`Roster::reconcile_all`]).
//!
//! Repeated, reordered and stale signals do no harm: statements are compared by sequence, keys by epoch, profiles by sequence.

mod acts;
mod entry;
mod follow;
mod receive;

use std::collections::{BTreeMap, VecDeque};

use bincode::{Decode, Encode};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha20Rng;

use entry::Intro;
pub use entry::RosterEntry;

use super::privacy::Relation;
use super::{ContactSignal, PassOn, PresenceSecret, Secret32};
use crate::capability::{CAPABILITY_SECS_MAX, Service};
use crate::directory::TOMBSTONES_MAX;
use crate::identity::{DeviceCertificate, Tombstone, UserId};
use crate::key::{DeviceKey, IdentityKey, SecretKey};
use crate::profile::{Avatar, ProfileCard};
use crate::time::UnixTime;
use crate::wire::{DecodeError, Signed};

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

/// What another device of the user says of the user's own part; tombstones were verified.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnNews {
    /// [`OwnKeys::presence`]; counts if it is newer.
    pub presence: Option<PresenceSecret>,
    /// [`OwnKeys::profile`]; counts if it is newer.
    pub profile: Option<ProfileCard>,
    /// [`OwnKeys::tombstones`]; added to those that are known.
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
    links: Option<Vec<u8>>,
    contacts: BTreeMap<UserId, Contact>,
    actions: VecDeque<RosterAction>,
}

impl Roster {
    /// With what is stored.
    #[must_use]
    pub fn new(own: OwnKeys, stored: impl IntoIterator<Item = Contact>) -> Self {
        let contacts = stored.into_iter().map(|contact| (contact.entry.user.clone(), contact)).collect();
        Self { own, pass_on: PassOn::default(), links: None, contacts, actions: VecDeque::new() }
    }

    /// Starts with what the user has said of passing presence on; contacts have been told, or are with the next [`Roster::reconcile_all`].
    #[must_use]
    pub fn with_pass_on(self, pass_on: PassOn) -> Self {
        Self { pass_on, ..self }
    }

    /// Starts with what contacts are told of accounts elsewhere, encoded ([`ToldLinks`](crate::linked::ToldLinks)); they have been told, or are with the next
    /// [`Roster::reconcile_all`].
    #[must_use]
    pub fn with_links(self, links: Option<Vec<u8>>) -> Self {
        Self { links, ..self }
    }

    /// What contacts are told of accounts elsewhere.
    #[must_use]
    pub fn links(&self) -> Option<&[u8]> {
        self.links.as_deref()
    }

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
