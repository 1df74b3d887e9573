//! Tables, and the reads and writes every part of the store is made of.
//!
//! All keys and values are bytes. Numbers in keys are big endian, so that their order is the keys' order.

use std::ops::{Bound, Deref};

use bincode::{Decode, Encode};
use halloo_protocol::wire;
use redb::{ReadTransaction, ReadableTable, ReadableTableMetadata, TableDefinition, WriteTransaction};

use super::{StoreError, VALUE_BYTES_MAX};

type Definition = TableDefinition<'static, &'static [u8], &'static [u8]>;

/// Key and value of a row.
pub(super) type Row = (Vec<u8>, Vec<u8>);

macro_rules! tables {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// Every table of the database.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Table {
            $($(#[$doc])* $name,)*
        }

        impl Table {
            const ALL: &[Self] = &[$(Self::$name,)*];

            /// Its name in the file and in error messages.
            pub(super) const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

tables! {
    /// name -> bytes
    Settings = "settings",
    /// subject -> what own devices share of linked accounts
    LinkedPieces = "linked pieces",
    /// record key -> record
    Replicas = "directory replicas",
    /// device -> (time, bytes)
    AddressBook = "address book",
    /// time, device -> nothing
    AddressBookAges = "address book ages",
    /// record key -> (time, bytes)
    RecordCache = "record cache",
    /// time, record key -> nothing
    RecordCacheAges = "record cache ages",
    /// user id -> pin
    Pins = "pinned identities",
    /// sequence -> message
    Messages = "messages",
    /// message id -> sequence
    MessageIds = "message ids",
    /// conversation, time, sequence -> nothing
    Conversations = "conversations",
    /// conversation -> what has come and what was read
    ConversationStates = "conversation states",
    /// conversation, user -> what they have read
    Readers = "readers",
    /// group -> genesis and standing
    Groups = "groups",
    /// group, hash -> statement
    GroupStatements = "group statements",
    /// sequence -> nothing: messages not yet delivered
    Outbox = "outbox",
    /// sender device, message id -> (time, nothing)
    Seen = "seen messages",
    /// time, sender device, message id -> nothing
    SeenAges = "seen messages ages",
    /// word, 0, sequence -> nothing: which messages have which words
    SearchWords = "search words",
    /// device, session -> (time, session)
    Sessions = "sessions",
    /// time, device, session -> nothing
    SessionAges = "sessions ages",
    /// device -> identity key of its user
    SessionOwners = "session owners",
    /// session -> (time, nothing)
    SpentSessions = "spent sessions",
    /// time, session -> nothing
    SpentSessionAges = "spent sessions ages",
    /// message id, device -> copy
    SealedCopies = "sealed copies",
    /// sender device, message id -> (time, message)
    OpenedMessages = "opened messages",
    /// time, sender device, message id -> nothing
    OpenedMessageAges = "opened messages ages",
    /// sender device, message id -> (time, user)
    UnopenedMessages = "unopened messages",
    /// time, sender device, message id -> nothing
    UnopenedMessageAges = "unopened messages ages",
    /// sequence -> call
    Calls = "calls",
    /// user id -> contact
    Contacts = "contacts",
    /// user id -> picture
    ContactAvatars = "contact avatars",
    /// file id -> file
    Files = "files",
    /// file id, number -> hashes of chunks
    FileHashes = "file hashes",
    /// file id -> what has come
    FileProgress = "file progress",
    /// sender device, message id -> recording that was left
    Voicemails = "voicemails",
    /// sender device, message id, number -> part of a recording
    VoicemailParts = "voicemail parts",
    /// identity, device -> tombstone
    Tombstones = "removed devices",
    /// name -> push registration of this device
    PushRegistrations = "push registrations",
    /// handle -> (device, registration)
    GatewayRegistrations = "gateway registrations",
    /// device, handle -> nothing
    GatewayDevices = "gateway registrations by device",
    /// device -> entry that the gateway vouches for
    GatewayKeeps = "gateway keeps",
    /// identity -> policy and reports of the user's devices
    GatewayChoices = "gateway choices",
    /// sequence -> pending push
    GatewayPending = "gateway pending pushes",
    /// device, fingerprint of a channel -> notice that it has ended
    GatewayNotices = "gateway notices",
    /// device -> box
    MailboxAccounts = "mailbox accounts",
    /// device, number -> letter
    MailboxLetters = "mailbox letters",
    /// device, holder, letter id -> nothing
    MailboxIds = "mailbox letter ids",
    /// nothing -> sum of all; device -> sums of its box; device, holder -> sum
    MailboxSums = "mailbox sums",
    /// identity -> vault
    VaultAccounts = "vault accounts",
    /// identity, chunk id -> chunk
    VaultChunks = "vault chunks",
    /// mailbox, chunk id -> what this device knows of it
    VaultKnown = "vault chunks known",
    /// kind, item key -> value: items that this version doesn't know
    VaultForeign = "vault foreign items",
    /// device, number -> one-time key
    MailboxKeys = "mailbox keys",
    /// device -> which batch and how many
    MailboxKeyBatches = "mailbox key batches",
    /// authority -> list
    RevocationLists = "revocation lists",
    /// username -> row
    Names = "names",
    /// digest of the secret -> invite
    Invites = "invites",
    /// sequence -> entry
    AuthorityLog = "authority log",
}

impl Table {
    const fn definition(self) -> Definition {
        TableDefinition::new(self.name())
    }
}

enum Source {
    Read(ReadTransaction),
    Write(Box<WriteTransaction>),
}

/// The database at one moment, for reading; a [`Transaction`] is one too, with its own changes in it.
#[allow(missing_debug_implementations, reason = "a borrowed moment of the database has nothing to print")]
pub struct View {
    source: Source,
}

/// Changes that are kept together. Handed out by [`Store::transaction`](super::Store::transaction).
#[allow(missing_debug_implementations, reason = "a borrowed moment of the database has nothing to print")]
pub struct Transaction {
    view: View,
}

impl Deref for Transaction {
    type Target = View;

    fn deref(&self) -> &View {
        &self.view
    }
}

impl View {
    pub(super) const fn reading(transaction: ReadTransaction) -> Self {
        Self { source: Source::Read(transaction) }
    }

    pub(super) fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let value = match &self.source {
            Source::Read(transaction) => {
                transaction.open_table(table.definition())?.get(key)?.map(|guard| guard.value().to_vec())
            }
            Source::Write(transaction) => {
                transaction.open_table(table.definition())?.get(key)?.map(|guard| guard.value().to_vec())
            }
        };
        Ok(value)
    }

    pub(super) fn get_value<T: Decode<()>>(&self, table: Table, key: &[u8]) -> Result<Option<T>, StoreError> {
        self.get(table, key)?.map(|bytes| decode_value(table, &bytes)).transpose()
    }

    pub(super) fn contains(&self, table: Table, key: &[u8]) -> Result<bool, StoreError> {
        Ok(self.get(table, key)?.is_some())
    }

    /// Number of rows.
    pub(super) fn count(&self, table: Table) -> Result<u64, StoreError> {
        let count = match &self.source {
            Source::Read(transaction) => transaction.open_table(table.definition())?.len()?,
            Source::Write(transaction) => transaction.open_table(table.definition())?.len()?,
        };
        Ok(count)
    }

    /// Up to `limit` rows with keys in the range, ascending, or descending with `from_end`.
    pub(super) fn range(
        &self,
        table: Table,
        bounds: (Bound<&[u8]>, Bound<&[u8]>),
        from_end: bool,
        limit: usize,
    ) -> Result<Vec<Row>, StoreError> {
        match &self.source {
            Source::Read(transaction) => collect(&transaction.open_table(table.definition())?, bounds, from_end, limit),
            Source::Write(transaction) => collect(&transaction.open_table(table.definition())?, bounds, from_end, limit),
        }
    }

    pub(super) fn all(&self, table: Table) -> Result<Vec<Row>, StoreError> {
        self.range(table, (Bound::Unbounded, Bound::Unbounded), false, usize::MAX)
    }

    /// Up to `limit` rows whose keys start with `prefix` and, if given, are below `prefix || before`; descending with `from_end`.
    pub(super) fn with_prefix(
        &self,
        table: Table,
        prefix: &[u8],
        before: Option<u64>,
        from_end: bool,
        limit: usize,
    ) -> Result<Vec<Row>, StoreError> {
        let end = match before {
            Some(number) => Some([prefix, &number.to_be_bytes()].concat()),
            None => next_prefix(prefix),
        };
        let end = end.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        self.range(table, (Bound::Included(prefix), end), from_end, limit)
    }

    /// The number after the last row's, in a table whose keys are sequence numbers; 1 if it is empty.
    fn next_sequence(&self, table: Table) -> Result<u64, StoreError> {
        let last = self.range(table, (Bound::Unbounded, Bound::Unbounded), true, 1)?;
        last.first().map_or(Ok(1), |(key, _)| Ok(decode_sequence(table, key)?.saturating_add(1)))
    }
}

impl Transaction {
    pub(super) fn new(transaction: WriteTransaction) -> Self {
        Self { view: View { source: Source::Write(Box::new(transaction)) } }
    }

    pub(super) fn create_tables(&self) -> Result<(), StoreError> {
        for table in Table::ALL {
            self.writer().open_table(table.definition())?;
        }
        Ok(())
    }

    pub(super) fn commit(self) -> Result<(), StoreError> {
        match self.view.source {
            Source::Write(transaction) => Ok(transaction.commit()?),
            Source::Read(_) => Ok(()),
        }
    }

    fn writer(&self) -> &WriteTransaction {
        match &self.view.source {
            Source::Write(transaction) => transaction,
            Source::Read(_) => unreachable!("Transaction::new is the only constructor"),
        }
    }

    pub(super) fn put(&self, table: Table, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        self.writer().open_table(table.definition())?.insert(key, value)?;
        Ok(())
    }

    pub(super) fn put_value<T: Encode>(&self, table: Table, key: &[u8], value: &T) -> Result<(), StoreError> {
        self.put(table, key, &wire::encode(value))
    }

    pub(super) fn remove(&self, table: Table, key: &[u8]) -> Result<bool, StoreError> {
        Ok(self.writer().open_table(table.definition())?.remove(key)?.is_some())
    }

    /// Adds a row at the end of a table whose keys are sequence numbers, and returns its number.
    ///
    /// Numbers aren't used twice: the table's highest is remembered even when its row is gone.
    pub(super) fn append(&self, table: Table, value: &[u8]) -> Result<u64, StoreError> {
        let counter = format!("last of {}", table.name());
        let remembered: u64 = self.setting_value(&counter)?.unwrap_or(0);
        let sequence = self.next_sequence(table)?.max(remembered.saturating_add(1));
        self.put_setting_value(&counter, &sequence)?;
        self.put(table, &sequence.to_be_bytes(), value)?;
        Ok(sequence)
    }

    /// Puts a row stamped with `time` into a table that keeps the `max` youngest, and drops the oldest beyond that.
    pub(super) fn put_aged(&self, tables: Aged, key: &[u8], time: u64, value: &[u8], max: u64) -> Result<(), StoreError> {
        self.remove_aged(tables, key)?;
        self.put_value(tables.rows, key, &AgedValue { time, value: value.to_vec() })?;
        self.put(tables.ages, &age_key(time, key), &[])?;
        while self.count(tables.rows)? > max {
            let oldest = self.range(tables.ages, (Bound::Unbounded, Bound::Unbounded), false, 1)?;
            let Some(oldest) = oldest.first().and_then(|(age_key, _)| age_key.get(8..)) else { break };
            self.remove_aged(tables, oldest)?;
        }
        Ok(())
    }

    pub(super) fn remove_aged(&self, tables: Aged, key: &[u8]) -> Result<bool, StoreError> {
        let Some(old) = self.get_value::<AgedValue>(tables.rows, key)? else { return Ok(false) };
        self.remove(tables.ages, &age_key(old.time, key))?;
        self.remove(tables.rows, key)
    }
}

/// A table of rows with times, and its index by time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Aged {
    pub(super) rows: Table,
    pub(super) ages: Table,
}

/// A row of an [`Aged`] table.
#[derive(Debug, Encode, Decode)]
pub(super) struct AgedValue {
    pub(super) time: u64,
    pub(super) value: Vec<u8>,
}

fn age_key(time: u64, key: &[u8]) -> Vec<u8> {
    [&time.to_be_bytes()[..], key].concat()
}

fn collect(
    table: &impl ReadableTable<&'static [u8], &'static [u8]>,
    bounds: (Bound<&[u8]>, Bound<&[u8]>),
    from_end: bool,
    limit: usize,
) -> Result<Vec<Row>, StoreError> {
    let mut range = table.range::<&[u8]>(bounds)?;
    let mut rows = Vec::new();
    while rows.len() < limit {
        let next = if from_end { range.next_back() } else { range.next() };
        let Some(row) = next else { break };
        let (key, value) = row?;
        rows.push((key.value().to_vec(), value.value().to_vec()));
    }
    Ok(rows)
}

/// The first key after all that start with `prefix`; `None` if there is none.
fn next_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let mut next = prefix.to_vec();
    while let Some(last) = next.pop() {
        if last < u8::MAX {
            next.push(last + 1);
            return Some(next);
        }
    }
    None
}

pub(super) fn decode_value<T: Decode<()>>(table: Table, bytes: &[u8]) -> Result<T, StoreError> {
    wire::decode(bytes, VALUE_BYTES_MAX + 1_024).map_err(|source| StoreError::Value { table: table.name(), source })
}

pub(super) fn decode_key<T: Decode<()>>(table: Table, key: &[u8]) -> Result<T, StoreError> {
    decode_value(table, key)
}

pub(super) fn decode_sequence(table: Table, key: &[u8]) -> Result<u64, StoreError> {
    let bytes = key.last_chunk::<8>().ok_or_else(|| StoreError::Value {
        table: table.name(),
        source: wire::DecodeError::invalid("key", "shorter than a sequence number"),
    })?;
    Ok(u64::from_be_bytes(*bytes))
}

pub(super) fn check_length(what: &'static str, bytes: &[u8], limit: usize) -> Result<(), StoreError> {
    if bytes.len() > limit {
        return Err(StoreError::TooLarge { what, length: bytes.len(), limit });
    }
    Ok(())
}
