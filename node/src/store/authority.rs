//! An authority's tables: names, invites, and the log of what it did.

use std::fmt;

use bincode::{Decode, Encode};
use halloo_protocol::identity::{RevokedSerial, UserCertificate, Username};
use halloo_protocol::key::IdentityKey;
use halloo_protocol::time::UnixTime;
use halloo_protocol::wire::{self, Signed};

use super::table::{Table, decode_key, decode_sequence, decode_value};
use super::{StoreError, Transaction, View};

/// Whether a name may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum NameState {
    /// In use by its key.
    Active,
    /// Given up: not renewed; only the same key may take it up again.
    Freed,
    /// Taken back for good.
    Revoked,
}

/// A name the authority has ever given.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct NameRow {
    /// The key it belongs to.
    pub identity: IdentityKey,
    /// Where the user's nodes stand in the directory; drawn once, kept with every renewal.
    pub placement: [u8; 32],
    /// Whether it may be used.
    pub state: NameState,
    /// Keys it belonged to before, oldest first: it never goes back to one.
    pub former: Vec<IdentityKey>,
    /// The newest certificate, handed out again to an asker who didn't get the answer.
    pub certificate: Signed<UserCertificate>,
    /// All certificates that haven't ended yet: what a revocation has to name.
    pub serials: Vec<RevokedSerial>,
}

/// An invite, found by the digest of its secret.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct InviteRow {
    /// How many more names it gives.
    pub uses_left: u32,
    /// Until when.
    pub expires_at: UnixTime,
}

/// What an authority did.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum LogEvent {
    /// The authority came to be.
    Created,
    /// The root key signed a certificate for the signing key.
    SigningCertified {
        /// Its serial.
        serial: u64,
        /// Its end.
        not_after: UnixTime,
    },
    /// An invite was made.
    Invited {
        /// How many names it gives.
        uses: u32,
        /// Until when.
        expires_at: UnixTime,
    },
    /// A name was given.
    Enrolled {
        /// The name.
        name: Username,
        /// To whom.
        identity: IdentityKey,
        /// Serial of the certificate.
        serial: u64,
    },
    /// A certificate was renewed.
    Renewed {
        /// The name.
        name: Username,
        /// Serial of the new certificate.
        serial: u64,
    },
    /// A name went over to its owner's new key.
    Succeeded {
        /// The name.
        name: Username,
        /// The key so far.
        old: IdentityKey,
        /// The key from now on.
        new: IdentityKey,
        /// Serial of the new certificate.
        serial: u64,
    },
    /// A name was given up.
    Freed {
        /// The name.
        name: Username,
    },
    /// A name was taken back.
    Revoked {
        /// The name.
        name: Username,
        /// Number of the list that says so.
        number: u64,
    },
    /// An identity in another system is a user's, or isn't any more.
    Certified {
        /// The user.
        name: Username,
        /// The identity.
        id: String,
        /// Whether it is.
        is_certified: bool,
    },
}

/// As the operator reads it.
impl fmt::Display for LogEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Created => f.write_str("authority created"),
            Self::SigningCertified { serial, not_after } => {
                write!(f, "signing key certified until {not_after} (serial {serial})")
            }
            Self::Invited { uses, expires_at } => write!(f, "invite made: {uses} names, until {expires_at}"),
            Self::Enrolled { name, identity, serial } => write!(f, "{name} given to {identity} (serial {serial})"),
            Self::Renewed { name, serial } => write!(f, "{name} renewed (serial {serial})"),
            Self::Succeeded { name, old, new, serial } => write!(f, "{name} handed on from {old} to {new} (serial {serial})"),
            Self::Freed { name } => write!(f, "{name} freed"),
            Self::Revoked { name, number } => write!(f, "{name} revoked (list {number})"),
            Self::Certified { name, id, is_certified: true } => write!(f, "{id} is {name}'s"),
            Self::Certified { name, id, is_certified: false } => write!(f, "{id} isn't {name}'s any more"),
        }
    }
}

/// One line of the authority's log. Lines are added and never changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// Its number, from 1.
    pub sequence: u64,
    /// When.
    pub at: UnixTime,
    /// What.
    pub event: LogEvent,
}

impl View {
    /// What the authority knows of a name.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn name(&self, name: &Username) -> Result<Option<NameRow>, StoreError> {
        self.get_value(Table::Names, name.as_str().as_bytes())
    }

    /// How many names were ever given.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn name_count(&self) -> Result<u64, StoreError> {
        self.count(Table::Names)
    }

    /// The invite with this digest of its secret.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn invite(&self, digest: &[u8; 32]) -> Result<Option<InviteRow>, StoreError> {
        self.get_value(Table::Invites, digest)
    }

    /// All invites by digest.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn invites(&self) -> Result<Vec<([u8; 32], InviteRow)>, StoreError> {
        let rows = self.all(Table::Invites)?;
        rows.into_iter().map(|(key, row)| Ok((decode_key(Table::Invites, &key)?, decode_value(Table::Invites, &row)?))).collect()
    }

    /// The last `limit` lines of the authority's log, oldest first; with `before`, the last ones before that number.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn authority_log(&self, before: Option<u64>, limit: usize) -> Result<Vec<LogEntry>, StoreError> {
        let mut rows = self.with_prefix(Table::AuthorityLog, &[], before, true, limit)?;
        rows.reverse();
        rows.into_iter()
            .map(|(key, bytes)| {
                let (at, event) = decode_value(Table::AuthorityLog, &bytes)?;
                Ok(LogEntry { sequence: decode_sequence(Table::AuthorityLog, &key)?, at, event })
            })
            .collect()
    }
}

impl Transaction {
    /// Keeps what the authority knows of a name. Rows are never removed: a name once given isn't given to another.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn put_name(&self, name: &Username, row: &NameRow) -> Result<(), StoreError> {
        self.put_value(Table::Names, name.as_str().as_bytes(), row)
    }

    /// Keeps an invite. The authority bounds their number.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn put_invite(&self, digest: &[u8; 32], row: &InviteRow) -> Result<(), StoreError> {
        self.put_value(Table::Invites, digest, row)
    }

    /// Forgets an invite.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn remove_invite(&self, digest: &[u8; 32]) -> Result<bool, StoreError> {
        self.remove(Table::Invites, digest)
    }

    /// Adds a line to the authority's log.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn log_authority(&self, at: UnixTime, event: &LogEvent) -> Result<u64, StoreError> {
        self.append(Table::AuthorityLog, &wire::encode(&(at, event.clone())))
    }
}
