//! Contacts: two people who have both said that they want to know each other.
//!
//! Each side signs a [`ContactStatement`] about the other: asked, accepted, removed. They are contacts while each holds the other's newest
//! statement, both say yes, and neither ends the other ([`is_mutual`]); so both sides, and anybody they show the two statements, come to the
//! same answer, in whatever order they arrive.
//!
//! Statements travel as [`ContactSignal`]s, a kind of [`MessageBody`](crate::message::MessageBody): kept, repeated, acknowledged, and brought to
//! every device like any message. In order:
//!
//! 1. [`ContactRequest`]: "I ask", a short text, a name. It fits [`REQUEST_BYTES_MAX`], for it is all that strangers may send.
//! 2. [`ContactAnswer`]: "I accept", with the keys that contacts have ([`ContactKeys`]) and the profile; or "no", which is a statement too.
//! 3. [`ContactUpdate`]: keys and profile when they change, and the asker's own after the accept.
//! 4. [`ContactRemoval`]: "no longer". Whoever stays gets a key of a new epoch; the one who left can open nothing from then on.
//!
//! [`Roster`] decides all of this; [`privacy`] decides what anybody may do. Neither reads a clock or draws randomness of its own.

mod link;
pub mod privacy;
mod roster;
mod statement;
#[cfg(test)]
mod tests;

use std::fmt;

use bincode::{Decode, Encode};
use zeroize::Zeroize;

pub use link::{CONTACT_LINK_CHARS_MAX, CONTACT_LINK_PREFIX, ContactLink, ContactLinkError, SafetyNumber};
pub use roster::{
    Asking, CONTACTS_MAX, Contact, KEYS_RENEWED_AFTER_SECS, OwnKeys, OwnNews, QUIET_SECS, REQUESTS_MAX, Roster, RosterAction,
    RosterEntry, RosterError, RosterEvent, Seen, Signer, Standing, TRACES_MAX, Told,
};
pub use statement::{Attested, ContactStatement, SEQUENCE_MAX, Stance, StatementError, is_mutual};

use crate::capability::Capability;
use crate::key::PublicKey;
pub use crate::presence::{PresenceKey, PresenceSecret};
use crate::profile::ProfileCard;
use crate::wire::{self, DecodeError, Extensions, Signed};

/// Longest text of a request, in bytes.
pub const REQUEST_TEXT_BYTES_MAX: usize = 280;

/// Longest name in a request, in bytes; as in an invite to a call.
pub const REQUEST_NAME_BYTES_MAX: usize = crate::call::DISPLAY_NAME_BYTES_MAX;

/// Largest request: the one thing strangers may send, kept small wherever it waits.
pub const REQUEST_BYTES_MAX: usize = 1_024;

/// Most capabilities in one signal: one device's, for every service, with room for more services.
pub const CAPABILITIES_MAX: usize = 8;

/// Most roster entries in one signal between a user's own devices.
pub const SHARED_ENTRIES_MAX: usize = 8;

/// Extension of a [`RosterShare`]: the key that the user's vault is written under ([`VaultKey`](crate::vault::VaultKey)).
pub const SHARE_VAULT_KEY: u16 = 0x0002;

/// Extension of [`ContactKeys`], of a [`RosterEntry`] and of [`PrivacySettings`](privacy::PrivacySettings): a [`PassOn`].
pub const PASS_ON: u16 = 0x0001;

/// Whether somebody's contacts may pass their presence on to each other. Those who do learn of each other that they share this contact.
///
/// The greater one counts, which is the newer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PassOn {
    /// Grows with every change; 0 while nothing was said.
    pub version: u64,
    /// What was said.
    pub is_allowed: bool,
}

impl Default for PassOn {
    /// Allowed.
    fn default() -> Self {
        Self { version: 0, is_allowed: true }
    }
}

impl PassOn {
    /// Reads it; the default if it isn't there, or not in order.
    #[must_use]
    pub fn of(extensions: &Extensions) -> Self {
        let said = extensions.find(PASS_ON).and_then(|bytes| {
            let (version, rest) = bytes.split_first_chunk::<8>()?;
            let is_allowed = match rest {
                [0] => false,
                [1] => true,
                _ => return None,
            };
            Some(Self { version: u64::from_be_bytes(*version), is_allowed })
        });
        said.unwrap_or_default()
    }

    /// The extensions with this in place of what they said; unchanged while nothing was said.
    #[must_use]
    pub fn within(self, extensions: &Extensions) -> Extensions {
        if self.version == 0 {
            return extensions.clone();
        }
        // In front: entries are merged by comparing bytes, and the newer word shall win.
        let bytes = [&self.version.to_be_bytes()[..], &[u8::from(self.is_allowed)]].concat();
        let others = extensions.iter().filter(|extension| extension.tag != PASS_ON);
        others.fold(Extensions::none().with(PASS_ON, bytes), |list, other| list.with(other.tag, other.bytes.clone()))
    }
}

/// 32 secret bytes: wiped when dropped, never printed.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Encode, Decode, Zeroize)]
#[zeroize(drop)]
pub struct Secret32([u8; 32]);

impl Secret32 {
    /// From random bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for Secret32 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret32(..)")
    }
}

/// What contacts give each other.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ContactKeys {
    /// Opens what is for contacts.
    pub presence: PresenceKey,
    /// Leave to use the sender's helpers, made out to the receiver's pairwise key; at most [`CAPABILITIES_MAX`].
    pub capabilities: Vec<Signed<Capability>>,
    /// Room to grow.
    pub extensions: Extensions,
}

impl ContactKeys {
    fn check(&self) -> Result<(), DecodeError> {
        if self.presence.epoch == 0 {
            return Err(DecodeError::invalid("epoch", "epochs of contacts start at 1"));
        }
        if self.capabilities.len() > CAPABILITIES_MAX {
            return Err(DecodeError::invalid("capabilities", format!("{}, at most {CAPABILITIES_MAX}", self.capabilities.len())));
        }
        Ok(())
    }
}

/// "I would like to be your contact."
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ContactRequest {
    /// The sender's statement, [`Stance::Asked`].
    pub statement: Signed<ContactStatement>,
    /// By which the sender will be known to the receiver's helpers.
    pub pairwise: PublicKey,
    /// A few words, at most [`REQUEST_TEXT_BYTES_MAX`].
    pub text: String,
    /// The sender's name, as they want to be called; at most [`REQUEST_NAME_BYTES_MAX`]. Mood and avatar are for contacts.
    pub display_name: String,
    /// Room to grow.
    pub extensions: Extensions,
}

/// "Yes", with what contacts have of each other; or "no", without.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ContactAnswer {
    /// The sender's statement: yes, or [`Stance::Removed`].
    pub statement: Signed<ContactStatement>,
    /// By which the sender will be known to the receiver's helpers.
    pub pairwise: Option<PublicKey>,
    /// The sender's keys.
    pub keys: Option<ContactKeys>,
    /// The sender's profile.
    pub profile: Option<ProfileCard>,
    /// Room to grow.
    pub extensions: Extensions,
}

/// "We are no longer contacts."
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ContactRemoval {
    /// The sender's statement, [`Stance::Removed`].
    pub statement: Signed<ContactStatement>,
    /// Room to grow.
    pub extensions: Extensions,
}

/// What has changed at a contact.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ContactUpdate {
    /// New keys.
    pub keys: Option<ContactKeys>,
    /// The new profile.
    pub profile: Option<ProfileCard>,
    /// Room to grow.
    pub extensions: Extensions,
}

/// What one device of a user tells the others: the roster, piece by piece. Refused from anybody else.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct RosterShare {
    /// At most [`SHARED_ENTRIES_MAX`].
    pub entries: Vec<RosterEntry>,
    /// The user's own key for contacts.
    pub presence: Option<PresenceSecret>,
    /// The user's own profile.
    pub profile: Option<ProfileCard>,
    /// Room to grow.
    pub extensions: Extensions,
}

/// What contacts, and those who want to become contacts, say to each other.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum ContactSignal {
    /// Asks.
    Request(Box<ContactRequest>),
    /// Says yes.
    Accept(Box<ContactAnswer>),
    /// Says no.
    Decline(Box<ContactAnswer>),
    /// Ends it.
    Remove(Box<ContactRemoval>),
    /// Gives new keys or a new profile.
    Update(Box<ContactUpdate>),
    /// To the user's own other devices.
    Share(Box<RosterShare>),
}

impl ContactSignal {
    /// Checks lengths and counts after decoding.
    ///
    /// # Errors
    /// [`DecodeError`] for the field out of range.
    pub fn check(&self) -> Result<(), DecodeError> {
        match self {
            Self::Request(request) => request.check(),
            Self::Accept(answer) | Self::Decline(answer) => check_parts(answer.keys.as_ref(), answer.profile.as_ref()),
            Self::Remove(_) => Ok(()),
            Self::Update(update) => check_parts(update.keys.as_ref(), update.profile.as_ref()),
            Self::Share(share) => share.check(),
        }
    }

    /// What its sender tells of accounts elsewhere, encoded ([`ToldLinks`](crate::linked::ToldLinks)); `None`: nothing is said.
    #[must_use]
    pub fn told_links(&self) -> Option<&[u8]> {
        let keys = match self {
            Self::Accept(answer) => answer.keys.as_ref(),
            Self::Update(update) => update.keys.as_ref(),
            _ => None,
        };
        keys?.extensions.find(crate::linked::TOLD_EXTENSION)
    }

    /// The word for logs.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Request(_) => "request",
            Self::Accept(_) => "accept",
            Self::Decline(_) => "decline",
            Self::Remove(_) => "remove",
            Self::Update(_) => "update",
            Self::Share(_) => "share",
        }
    }
}

impl ContactRequest {
    fn check(&self) -> Result<(), DecodeError> {
        if self.text.len() > REQUEST_TEXT_BYTES_MAX {
            return Err(DecodeError::invalid("text", format!("{} bytes, at most {REQUEST_TEXT_BYTES_MAX}", self.text.len())));
        }
        if self.display_name.len() > REQUEST_NAME_BYTES_MAX {
            let length = self.display_name.len();
            return Err(DecodeError::invalid("display_name", format!("{length} bytes, at most {REQUEST_NAME_BYTES_MAX}")));
        }
        let length = wire::encoded_len(self);
        if length > REQUEST_BYTES_MAX {
            return Err(DecodeError::TooLarge { length, limit: REQUEST_BYTES_MAX });
        }
        Ok(())
    }
}

impl RosterShare {
    fn check(&self) -> Result<(), DecodeError> {
        if self.entries.len() > SHARED_ENTRIES_MAX {
            return Err(DecodeError::invalid("entries", format!("{}, at most {SHARED_ENTRIES_MAX}", self.entries.len())));
        }
        self.entries.iter().try_for_each(RosterEntry::check)?;
        self.profile.as_ref().map_or(Ok(()), ProfileCard::check)
    }
}

fn check_parts(keys: Option<&ContactKeys>, profile: Option<&ProfileCard>) -> Result<(), DecodeError> {
    keys.map_or(Ok(()), ContactKeys::check)?;
    profile.map_or(Ok(()), ProfileCard::check)
}
