//! Directory replicas, the address book, and records of people we resolved.

use bincode::{Decode, Encode};
use halloo_protocol::directory::RecordKey;
use halloo_protocol::key::DeviceKey;
use halloo_protocol::time::UnixTime;

use super::table::{Aged, AgedValue, Table, check_length, decode_key, decode_value};
use super::{StoreError, Transaction, VALUE_BYTES_MAX, View};

/// Nodes in the address book: ten times what a start needs, so that the network is found again after a year in a drawer. The one
/// seen longest ago makes room.
pub const ADDRESS_BOOK_MAX: u64 = 2_048;

/// Records kept of people we looked up; the one fetched longest ago makes room.
pub const RECORD_CACHE_MAX: u64 = 4_096;

const ADDRESS_BOOK: Aged = Aged { rows: Table::AddressBook, ages: Table::AddressBookAges };
const RECORD_CACHE: Aged = Aged { rows: Table::RecordCache, ages: Table::RecordCacheAges };

/// One change of the directory's replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplicaChange {
    /// Keep this record, in place of what was there.
    Put(RecordKey, Vec<u8>),
    /// Drop the record.
    Remove(RecordKey),
}

/// A node we have met.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct KnownNode {
    /// The node.
    pub device: DeviceKey,
    /// Its encoded descriptor.
    pub descriptor: Vec<u8>,
    /// When it last spoke to us.
    pub seen_at: UnixTime,
}

/// A record of somebody we looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CachedRecord {
    /// The encoded record.
    pub record: Vec<u8>,
    /// When it came.
    pub fetched_at: UnixTime,
}

impl View {
    /// All directory records this node keeps for the network, in the order of their keys. For starting up: the directory itself holds
    /// and bounds them.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn replicas(&self) -> Result<Vec<(RecordKey, Vec<u8>)>, StoreError> {
        let rows = self.all(Table::Replicas)?;
        rows.into_iter().map(|(key, bytes)| Ok((decode_key(Table::Replicas, &key)?, bytes))).collect()
    }

    /// One directory record this node keeps for the network.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn replica(&self, key: &RecordKey) -> Result<Option<Vec<u8>>, StoreError> {
        self.get(Table::Replicas, &key.0)
    }

    /// Up to `limit` nodes of the address book, last seen first.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn known_nodes(&self, limit: usize) -> Result<Vec<KnownNode>, StoreError> {
        let ages = self.with_prefix(Table::AddressBookAges, &[], None, true, limit)?;
        let mut nodes = Vec::with_capacity(ages.len());
        for (age_key, _) in ages {
            let device = age_key.get(8..).unwrap_or_default();
            if let Some(row) = self.get_value::<AgedValue>(Table::AddressBook, device)? {
                nodes.push(KnownNode {
                    device: decode_key(Table::AddressBook, device)?,
                    descriptor: row.value,
                    seen_at: UnixTime(row.time),
                });
            }
        }
        Ok(nodes)
    }

    /// The record of somebody we looked up before.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn cached_record(&self, key: &RecordKey) -> Result<Option<CachedRecord>, StoreError> {
        let row = self.get_value::<AgedValue>(Table::RecordCache, &key.0)?;
        Ok(row.map(|row| CachedRecord { record: row.value, fetched_at: UnixTime(row.time) }))
    }

    /// All cached records by key. For starting up; at most [`RECORD_CACHE_MAX`].
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn cached_records(&self) -> Result<Vec<(RecordKey, CachedRecord)>, StoreError> {
        let mut records = Vec::new();
        for (key, bytes) in self.all(Table::RecordCache)? {
            let row: AgedValue = decode_value(Table::RecordCache, &bytes)?;
            let record = CachedRecord { record: row.value, fetched_at: UnixTime(row.time) };
            records.push((decode_key(Table::RecordCache, &key)?, record));
        }
        Ok(records)
    }
}

impl Transaction {
    /// Applies changes of the directory's replicas in order. Collect them and flush now and then: one commit carries a thousand as
    /// easily as one.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`] for a record that could not be read again, [`StoreError::Database`].
    pub fn change_replicas(&self, changes: &[ReplicaChange]) -> Result<(), StoreError> {
        for change in changes {
            match change {
                ReplicaChange::Put(key, bytes) => {
                    check_length("directory record", bytes, VALUE_BYTES_MAX)?;
                    self.put(Table::Replicas, &key.0, bytes)?;
                }
                ReplicaChange::Remove(key) => {
                    self.remove(Table::Replicas, &key.0)?;
                }
            }
        }
        Ok(())
    }

    /// Notes a node in the address book; the one seen longest ago makes room beyond [`ADDRESS_BOOK_MAX`].
    ///
    /// # Errors
    /// [`StoreError::TooLarge`], [`StoreError::Database`].
    pub fn put_known_node(&self, node: &KnownNode) -> Result<(), StoreError> {
        check_length("descriptor", &node.descriptor, VALUE_BYTES_MAX)?;
        self.put_aged(ADDRESS_BOOK, node.device.as_bytes(), node.seen_at.0, &node.descriptor, ADDRESS_BOOK_MAX)
    }

    /// Strikes a node off the address book.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn remove_known_node(&self, device: &DeviceKey) -> Result<bool, StoreError> {
        self.remove_aged(ADDRESS_BOOK, device.as_bytes())
    }

    /// Keeps the record of somebody we looked up; the one fetched longest ago makes room beyond [`RECORD_CACHE_MAX`].
    ///
    /// # Errors
    /// [`StoreError::TooLarge`], [`StoreError::Database`].
    pub fn put_cached_record(&self, key: &RecordKey, record: &[u8], fetched_at: UnixTime) -> Result<(), StoreError> {
        check_length("directory record", record, VALUE_BYTES_MAX)?;
        self.put_aged(RECORD_CACHE, &key.0, fetched_at.0, record, RECORD_CACHE_MAX)
    }

    /// Forgets a cached record.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn remove_cached_record(&self, key: &RecordKey) -> Result<bool, StoreError> {
        self.remove_aged(RECORD_CACHE, &key.0)
    }
}
