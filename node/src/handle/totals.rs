//! What a node has done since its start, and its own record published on demand: for measurements and people who look closely.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::network::NetworkError;
use super::{Command, Directory, Node};

/// What a node has done since its start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Totals {
    /// Bytes written to byte streams, encryption and multiplexing included; QUIC's packets aren't counted.
    pub written: u64,
    /// Bytes read from them.
    pub read: u64,
    /// Connections open now, both directions.
    pub connections: u32,
    /// Frames of the overlay sent, hellos included.
    pub frames_out: u64,
    /// Bytes in them.
    pub frame_bytes_out: u64,
    /// The directory's questions sent, by frame kind. Answers aren't counted.
    pub requests: BTreeMap<u16, u64>,
    /// The directory's questions that failed, for any reason.
    pub failed: u64,
    /// Directory servers of the own table to whom no connection was open and who showed life when they were asked, in time or late.
    pub first_contacts: u64,
    /// The same, who didn't in time (whoever is late is mostly among both): look-ups ask several at once the more of these there were lately.
    pub silent_contacts: u64,
    /// Directory servers in the table.
    pub table: u32,
    /// Records held for others.
    pub records: u64,
}

/// How a publication of the own record went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Publication {
    /// Replicas that acknowledged it.
    pub accepted: u32,
    /// Requests sent, finding the replicas included.
    pub requests: u32,
    /// How long it took.
    pub elapsed_ms: u64,
    /// Bytes of the record as published.
    pub record_bytes: u32,
}

/// How a renewal of the own lease went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Renewal {
    /// Replicas asked.
    pub asked: u32,
    /// Of these, took the lease.
    pub renewed: u32,
    /// Of these, had to be given the whole record.
    pub stored: u32,
}

impl Node {
    /// What this node has done since its start.
    ///
    /// # Errors
    /// See [`NetworkError`].
    pub async fn totals(&self) -> Result<Totals, NetworkError> {
        self.ask(Command::Totals).await
    }

    /// Closes the connections to a peer, as if they had been idle for long: for measurements that begin without one. It is connected again as soon as
    /// anything wants it. A peer that isn't connected makes no difference.
    ///
    /// # Errors
    /// See [`NetworkError`].
    #[doc(hidden)]
    pub async fn disconnect(&self, peer_id: &str) -> Result<(), NetworkError> {
        self.ask(|reply| Command::Disconnect { peer_id: peer_id.to_owned(), reply }).await
    }
}

impl Directory<'_> {
    /// Publishes this device's entry anew, under the next sequence number, and waits for the replicas. The node does so by itself whenever
    /// something has changed.
    ///
    /// # Errors
    /// See [`NetworkError`].
    pub async fn publish(&self) -> Result<Publication, NetworkError> {
        self.0.ask(Command::Publish).await
    }

    /// Renews this device's lease at the replicas and waits for them. The node does so by itself in time.
    ///
    /// # Errors
    /// See [`NetworkError`].
    pub async fn renew_lease(&self) -> Result<Renewal, NetworkError> {
        self.0.ask(Command::RenewLease).await
    }
}
