//! What a node keeps on disk: one embedded database (redb) behind one module.
//!
//! [`Store`] is a cheap clone. Every write is a [`Store::transaction`]: all of it is kept or none, and when the call returns it
//! is on the disk, so whatever is acknowledged afterwards survives a kill or a power cut. Calls block for a commit (under a millisecond on
//! an SSD) and are short; reads see the last commit and never wait for a writer.
//!
//! ```
//! # fn main() -> Result<(), halloo::store::StoreError> {
//! use halloo::store::Store;
//!
//! let store = Store::in_memory()?;
//! store.transaction(|tx| {
//!     tx.put_setting("display name", b"Alice")?;
//!     tx.add_call(b"call")
//! })?;
//! assert_eq!(store.read(|view| view.setting("display name"))?.as_deref(), Some(&b"Alice"[..]));
//! # Ok(())
//! # }
//! ```
//!
//! A node without a home keeps the same tables in memory. Values are bytes: what they mean, and their limits, is the business of
//! whoever puts them there. Every table that strangers can make grow has a limit here, and says what falls out when it is full.
//!
//! This module never reads the clock: times are passed in.

mod authority;
mod calls;
mod contacts;
mod devices;
mod directory;
mod files;
mod groups;
mod linked;
mod mailbox;
mod messages;
mod pins;
mod push;
mod search;
mod sessions;
mod table;
mod vault;
mod voicemail;

pub use authority::{InviteRow, LogEntry, LogEvent, NameRow, NameState};
pub use directory::{ADDRESS_BOOK_MAX, CachedRecord, KnownNode, RECORD_CACHE_MAX, ReplicaChange};
pub use files::FILE_HASHES_ROW_BYTES;
pub use groups::GROUPS_MAX;
pub use mailbox::{LetterRow, MailboxRoom};
pub use messages::{Direction, MESSAGE_ID_BYTES_MAX, MessageRow, SEEN_MESSAGES_MAX};
pub use pins::{Pin, Pinned};
pub use push::{GATEWAY_PENDING_MAX, GATEWAY_REGISTRATIONS_MAX, GATEWAY_REGISTRATIONS_PER_DEVICE_MAX, PendingPush, Registration};
pub use sessions::{SPENT_SESSIONS_MAX, SealedCopyRow};
pub use table::{Transaction, View};

use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bincode::{Decode, Encode};
use halloo_protocol::key::AuthorityKey;
use halloo_protocol::wire;
use redb::backends::{FileBackend, InMemoryBackend};
use redb::{Database, DatabaseError, ReadableDatabase, StorageError};

use table::Table;

/// File name of the database in a home.
pub const DATABASE_FILE: &str = "halloo.redb";

/// Version of the tables this code writes. A database of a newer version isn't opened; older ones are brought up to date.
pub const SCHEMA_VERSION: u32 = 1;

/// Page cache of a database on disk, in bytes. redb's own default is 1 GiB; hundreds of nodes live in one process.
const CACHE_BYTES: usize = 4 * 1024 * 1024;

/// Page cache of a database in memory: what it would cache is in memory already.
const CACHE_BYTES_IN_MEMORY: usize = 64 * 1024;

/// Largest value decoded from the database.
pub(crate) const VALUE_BYTES_MAX: usize = 64 * 1024;

const SCHEMA_SETTING: &str = "schema version";

/// Why the store doesn't open or an operation failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Another process has the database open.
    #[error("{} is in use by another process: is a daemon already running for this home?", path.display())]
    InUse {
        /// The database file.
        path: PathBuf,
    },
    /// The database was written by a newer version of this program.
    #[error(
        "{} was written by a newer version (schema {found}, this version knows {SCHEMA_VERSION}): use the newer version, or another home",
        path.display()
    )]
    TooNew {
        /// The database file.
        path: PathBuf,
        /// Its schema version.
        found: u32,
    },
    /// The file isn't a database, or is damaged beyond repair.
    #[error(
        "{} is damaged ({reason}): move it away and start again; keys are kept in files beside it, and contacts and names come back from the network or a backup",
        path.display()
    )]
    Corrupt {
        /// The database file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The file can't be opened.
    #[error("can't open {}", path.display())]
    Open {
        /// The database file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A table is full; nothing was changed.
    #[error("the table of {table} is full ({limit})")]
    Full {
        /// Which.
        table: &'static str,
        /// Its limit.
        limit: u64,
    },
    /// A value or key is longer than its limit; nothing was changed.
    #[error("{what} of {length} bytes, at most {limit}")]
    TooLarge {
        /// What is too long.
        what: &'static str,
        /// Its length.
        length: usize,
        /// Its limit.
        limit: usize,
    },
    /// A stored value can't be read.
    #[error("a value in the table of {table} can't be read")]
    Value {
        /// Which table.
        table: &'static str,
        /// What is wrong with the value.
        source: wire::DecodeError,
    },
    /// Reading or writing failed: the disk is full or broken, or the file was damaged.
    #[error("database: {0}")]
    Database(#[source] Box<redb::Error>),
}

impl<E: Into<redb::Error>> From<E> for StoreError {
    fn from(error: E) -> Self {
        Self::Database(Box::new(error.into()))
    }
}

/// A node's database. Cheap to clone; closed when the last clone is dropped.
#[derive(Clone)]
pub struct Store {
    database: Arc<Database>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Store")
    }
}

impl Store {
    /// Opens the database of the home `home`, or makes it. The directory must exist. On Unix the file is readable by its owner only.
    ///
    /// # Errors
    /// [`StoreError::InUse`], [`StoreError::TooNew`], [`StoreError::Corrupt`] or [`StoreError::Open`], each naming the file.
    pub fn open(home: &Path) -> Result<Self, StoreError> {
        let path = home.join(DATABASE_FILE);
        let file = open_file(&path).map_err(|source| StoreError::Open { path: path.clone(), source })?;
        // redb takes some damage for a bug of its own and panics. Nothing that it was building when it did is used afterwards.
        std::panic::catch_unwind(AssertUnwindSafe(|| {
            let database = FileBackend::new(file)
                .and_then(|backend| Database::builder().set_cache_size(CACHE_BYTES).create_with_backend(backend))
                .map_err(|error| explain_open(error, &path))?;
            Self::prepare(database, &path)
        }))
        .unwrap_or_else(|_| Err(StoreError::Corrupt { path: path.clone(), reason: "its structure makes no sense".into() }))
    }

    /// A database that lasts as long as the value: for nodes without a home.
    ///
    /// # Errors
    /// [`StoreError::Database`] if memory runs out.
    pub fn in_memory() -> Result<Self, StoreError> {
        let database = Database::builder().set_cache_size(CACHE_BYTES_IN_MEMORY).create_with_backend(InMemoryBackend::new())?;
        Self::prepare(database, Path::new("memory"))
    }

    fn prepare(database: Database, path: &Path) -> Result<Self, StoreError> {
        let store = Self { database: Arc::new(database) };
        // Tables first: reading needs them to exist.
        store
            .transaction(|tx| {
                tx.create_tables()?;
                match tx.setting_value::<u32>(SCHEMA_SETTING)? {
                    None => tx.put_setting_value(SCHEMA_SETTING, &SCHEMA_VERSION),
                    Some(found) if found > SCHEMA_VERSION => Err(StoreError::TooNew { path: path.to_owned(), found }),
                    // Version 1 is the first: nothing older to bring up to date.
                    Some(_) => Ok(()),
                }
            })
            .map_err(|error| match error {
                StoreError::Database(source) => explain_first_use(*source, path),
                other => other,
            })?;
        Ok(store)
    }

    /// Runs `change` and commits what it wrote, all at once and durably, if it returns `Ok`; else nothing is changed. One writer at a
    /// time, a second one waits: so never call this from within `change`, which would wait for itself.
    ///
    /// # Errors
    /// What `change` returns, or [`StoreError::Database`] if the commit fails.
    pub fn transaction<T, E: From<StoreError>>(&self, change: impl FnOnce(&Transaction) -> Result<T, E>) -> Result<T, E> {
        let transaction = self.database.begin_write().map_err(StoreError::from)?;
        let transaction = Transaction::new(transaction);
        let value = change(&transaction)?;
        transaction.commit()?;
        Ok(value)
    }

    /// Runs `look` on the state as of the last commit.
    ///
    /// # Errors
    /// What `look` returns, or [`StoreError::Database`] if the database can't be read.
    pub fn read<T, E: From<StoreError>>(&self, look: impl FnOnce(&View) -> Result<T, E>) -> Result<T, E> {
        let transaction = self.database.begin_read().map_err(StoreError::from)?;
        look(&View::reading(transaction))
    }
}

// Settings and revocation lists: small enough to live here.
impl View {
    /// The bytes of a setting.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn setting(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.get(Table::Settings, name.as_bytes())
    }

    /// The names of the settings that begin so, in order.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub(crate) fn setting_names(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        let rows = self.with_prefix(Table::Settings, prefix.as_bytes(), None, false, usize::MAX)?;
        Ok(rows.into_iter().filter_map(|(key, _)| String::from_utf8(key).ok()).collect())
    }

    /// A setting as a value.
    ///
    /// # Errors
    /// [`StoreError::Value`] if it is of another type, [`StoreError::Database`].
    pub fn setting_value<T: Decode<()>>(&self, name: &str) -> Result<Option<T>, StoreError> {
        self.get_value(Table::Settings, name.as_bytes())
    }

    /// A list kept by [`Transaction::put_setting_list`]; empty if there is none.
    ///
    /// # Errors
    /// As [`View::setting_value`].
    pub fn setting_list<T: Decode<()>>(&self, name: &str) -> Result<Vec<T>, StoreError> {
        let mut all = Vec::new();
        for number in 0_u32.. {
            match self.setting_value::<Vec<T>>(&format!("{name} {number}"))? {
                Some(chunk) if !chunk.is_empty() => all.extend(chunk),
                _ => break,
            }
        }
        Ok(all)
    }

    /// The newest revocation lists, encoded, by authority.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn revocation_lists(&self) -> Result<Vec<(AuthorityKey, Vec<u8>)>, StoreError> {
        let rows = self.all(Table::RevocationLists)?;
        rows.into_iter().map(|(key, bytes)| Ok((table::decode_key(Table::RevocationLists, &key)?, bytes))).collect()
    }
}

impl Transaction {
    /// Keeps a setting, in place of what was there.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn put_setting(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        self.put(Table::Settings, name.as_bytes(), bytes)
    }

    /// Keeps a list of any length, `at_once` items under one name.
    ///
    /// # Errors
    /// As [`Transaction::put_setting_value`].
    pub fn put_setting_list<T: Encode>(&self, name: &str, items: &[T], at_once: usize) -> Result<(), StoreError> {
        let chunks = items.chunks(at_once.max(1)).chain(std::iter::once(&[][..]));
        for (number, chunk) in chunks.enumerate() {
            self.put_setting_value(&format!("{name} {number}"), &chunk.iter().collect::<Vec<&T>>())?;
        }
        Ok(())
    }

    /// Keeps a setting given as a value.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`] for what couldn't be read back, [`StoreError::Database`].
    pub fn put_setting_value<T: Encode>(&self, name: &str, value: &T) -> Result<(), StoreError> {
        let length = wire::encoded_len(value);
        if length > VALUE_BYTES_MAX {
            return Err(StoreError::TooLarge { what: "setting", length, limit: VALUE_BYTES_MAX });
        }
        self.put_value(Table::Settings, name.as_bytes(), value)
    }

    /// Forgets a setting; `false` if there was none.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn remove_setting(&self, name: &str) -> Result<bool, StoreError> {
        self.remove(Table::Settings, name.as_bytes())
    }

    /// Keeps the newest revocation list of an authority. The caller has verified it, and bounds the number of authorities.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn put_revocation_list(&self, authority: &AuthorityKey, bytes: &[u8]) -> Result<(), StoreError> {
        self.put(Table::RevocationLists, authority.as_bytes(), bytes)
    }
}

fn open_file(path: &Path) -> std::io::Result<std::fs::File> {
    let mut options = std::fs::OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.mode(0o600);
    }
    options.open(path)
}

fn explain_open(error: DatabaseError, path: &Path) -> StoreError {
    match error {
        DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => StoreError::InUse { path: path.to_owned() },
        DatabaseError::Storage(StorageError::Io(source)) if !is_about_content(&source) => {
            StoreError::Open { path: path.to_owned(), source }
        }
        other => StoreError::Corrupt { path: path.to_owned(), reason: other.to_string() },
    }
}

/// The tables are made when a database is first used: damage that opening didn't see shows here.
fn explain_first_use(error: redb::Error, path: &Path) -> StoreError {
    match error {
        redb::Error::Io(source) if !is_about_content(&source) => StoreError::Open { path: path.to_owned(), source },
        other => StoreError::Corrupt { path: path.to_owned(), reason: other.to_string() },
    }
}

/// redb reports a file that isn't a database, or is cut short, as an I/O error of these kinds.
fn is_about_content(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof | std::io::ErrorKind::InvalidInput)
}

#[cfg(test)]
mod tests;
