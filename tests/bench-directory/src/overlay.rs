//! What both networks can be asked, so that both are measured by the same code.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use libp2p::Multiaddr;

use crate::delay::Delay;

/// What carries the bytes.
#[derive(Clone, Debug)]
pub(crate) enum Carrier {
    /// Within the process; counts are exact.
    Memory,
    /// QUIC over loopback, as fast as it is.
    #[allow(dead_code, reason = "for trying things out")]
    Quic,
    /// QUIC over loopback, every datagram delayed on its way.
    DelayedQuic(Delay),
}

/// How one look-up went.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lookup {
    pub(crate) found: bool,
    pub(crate) requests: u32,
    pub(crate) elapsed: Duration,
}

/// How one publication went.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Publication {
    pub(crate) replicas: u32,
    pub(crate) requests: u32,
    pub(crate) record_bytes: u32,
}

/// Counters of all nodes together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Totals {
    pub(crate) written: u64,
    pub(crate) connections: u64,
    pub(crate) table: u64,
    pub(crate) failed: u64,
    /// Servers that were asked while no connection was open to them, and showed life, or didn't in time.
    pub(crate) first_contacts: u64,
    pub(crate) silent_contacts: u64,
    pub(crate) requests: Requests,
}

/// Requests by kind, as `0x0010`.
pub(crate) type Requests = BTreeMap<String, u64>;

/// Those of `after` that weren't among `before`.
pub(crate) fn requests_since(after: &Requests, before: &Requests) -> Requests {
    let since = |kind: &String, count: u64| count.saturating_sub(before.get(kind).copied().unwrap_or(0));
    after.iter().map(|(kind, count)| (kind.clone(), since(kind, *count))).filter(|(_, count)| *count > 0).collect()
}

/// How large a network is, and how it begins.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    pub(crate) nodes: usize,
    /// How many of the product's nodes join at a time; libp2p's join one by one, a moment apart.
    pub(crate) joins_at_once: usize,
    /// How long the records of a network are to be that doesn't make its own.
    pub(crate) record_bytes: usize,
}

/// A directory network in this process.
#[allow(async_fn_in_trait, reason = "used within this program only")]
pub(crate) trait Overlay: Sized {
    /// Its name in the table.
    const NAME: &'static str;
    /// Whether [`Overlay::look_up`] makes a difference between the first answer and all.
    const IS_CUT_SHORT: bool;

    /// A network over `carrier`; returns when all have joined, told to `progress` one by one.
    async fn start(size: Size, carrier: &Carrier, progress: &dyn Fn(usize)) -> Result<Self>;
    /// How many nodes there are.
    fn len(&self) -> usize;
    /// Whether `asker` has a connection to a node that holds the record of `owner`; `None` if it holds that itself.
    async fn is_holder_connected(&self, asker: usize, owner: usize) -> Result<Option<bool>>;
    /// Looks the record of `owner` up from `asker`, in the network; where that makes a difference, until the first answer only.
    async fn look_up(&self, asker: usize, owner: usize, is_cut_short: bool) -> Result<Lookup>;
    /// Publishes a node's record anew.
    async fn publish(&self, owner: usize) -> Result<Publication>;
    /// Keeps a node's unchanged record alive; returns how many replicas were told.
    async fn refresh(&self, owner: usize) -> Result<u32>;
    /// Requests that one node has sent so far; none for a network that doesn't count them.
    async fn requests_of(&self, node: usize) -> Result<Requests>;
    /// All nodes' counters.
    async fn totals(&self) -> Result<Totals>;
    /// Ends it.
    async fn stop(self);
}

/// The address a node is reached at over delayed QUIC, for one that listens at `listen`.
pub(crate) async fn delayed_address(delay: &Delay, listen: SocketAddr) -> Result<Multiaddr> {
    let port = delay.forward_to(listen).await?;
    Ok(format!("/ip4/127.0.0.1/udp/{port}/quic-v1").parse()?)
}
