//! Counters of what the relay did and what it left undone, each with its reason.
//!
//! Each thread counts into a [`Metrics`] of its own, without locked instructions; [`Metrics::snapshot`] reads one and
//! [`Snapshot::add`] puts several together. Names follow Prometheus: unit and `_total` at the end, the reason as a label. No label ever holds
//! an address or a user name.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub(crate) mod exporter;

macro_rules! labelled {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $label:literal,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum $name {
            $($(#[$doc])* $variant,)*
        }

        impl $name {
            /// All of them, in the order of the counters.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The label it is counted under.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self { $(Self::$variant => $label,)* }
            }
        }
    };
}

labelled! {
    /// Why a packet went nowhere.
    DropReason {
        /// Neither one whole STUN message nor ChannelData.
        NotStun = "not_stun",
        /// FINGERPRINT is wrong.
        WrongFingerprint = "wrong_fingerprint",
        /// An indication that is none of TURN's.
        Indication = "indication",
        /// A response: the relay asks nobody anything.
        UnexpectedResponse = "unexpected_response",
        /// A request for something neither STUN nor TURN has.
        UnknownMethod = "unknown_method",
        /// The source has had its share of responses.
        RateLimited = "rate_limited",
        /// Nobody can be answered at the source: port 0, no address, a group of machines.
        UnusableSource = "unusable_source",
        /// Data from a client that has no allocation.
        NoAllocation = "no_allocation",
        /// ChannelData or a Send indication that isn't well-formed.
        Malformed = "malformed",
        /// ChannelData with a number that isn't bound.
        UnknownChannel = "unknown_channel",
        /// A Send indication to a peer without permission.
        NoPermission = "no_permission",
        /// A Send indication to an address this relay never sends to.
        ForbiddenPeer = "forbidden_peer",
        /// A Send indication to an address of a family the allocation doesn't have.
        WrongFamily = "wrong_family",
        /// From a peer the client hasn't permitted.
        PeerNotPermitted = "peer_not_permitted",
        /// To another client of this relay, which hasn't permitted the sender.
        PairNotPermitted = "pair_not_permitted",
        /// To a relayed address of this relay that nobody has.
        NoSuchRelayedAddress = "no_such_relayed_address",
        /// Beyond the bytes a second of the user.
        UserBandwidth = "user_bandwidth",
        /// Beyond the packets a second of the user.
        UserPackets = "user_packets",
        /// Beyond the bytes a second of the client address.
        AddressBandwidth = "address_bandwidth",
        /// Beyond the packets a second of the client address.
        AddressPackets = "address_packets",
        /// Beyond the user's share of the relay's bytes a second.
        TotalBandwidth = "total_bandwidth",
        /// Beyond the user's share of the relay's packets a second.
        TotalPackets = "total_packets",
        /// The socket, or the queue of a connection, had no room.
        SocketFull = "socket_full",
        /// The system refused to send.
        SendFailed = "send_failed",
    }
}

labelled! {
    /// What became of requests.
    Response {
        /// The client's address told.
        Binding = "binding",
        /// Allocated.
        Allocate = "allocate",
        /// Refreshed or ended.
        Refresh = "refresh",
        /// Permissions installed.
        CreatePermission = "create_permission",
        /// Channel bound.
        ChannelBind = "channel_bind",
        /// 300: sent elsewhere.
        TryAlternate = "error_300",
        /// 400.
        BadRequest = "error_400",
        /// 401.
        Unauthenticated = "error_401",
        /// 403.
        Forbidden = "error_403",
        /// 420.
        UnknownAttribute = "error_420",
        /// 437.
        AllocationMismatch = "error_437",
        /// 438.
        StaleNonce = "error_438",
        /// 440.
        FamilyNotSupported = "error_440",
        /// 441.
        WrongCredentials = "error_441",
        /// 442.
        UnsupportedTransport = "error_442",
        /// 443.
        PeerFamilyMismatch = "error_443",
        /// 486.
        QuotaReached = "error_486",
        /// 508.
        InsufficientCapacity = "error_508",
        /// 500.
        ServerError = "error_500",
    }
}

labelled! {
    /// The ways data goes.
    Direction {
        /// From a client to a peer.
        ToPeer = "to_peer",
        /// From a peer to a client.
        ToClient = "to_client",
        /// From a client to another one, without the way over the relayed sockets.
        Pair = "pair",
    }
}

/// A number that one thread writes and any may read.
#[derive(Debug, Default)]
struct Counter(AtomicU64);

impl Counter {
    /// Not an atomic addition: there is one writer, and that one needs no lock prefix on the way of every packet.
    #[inline]
    fn add(&self, amount: u64) {
        self.0.store(self.0.load(Ordering::Relaxed) + amount, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

const DROPS: usize = DropReason::ALL.len();
const RESPONSES: usize = Response::ALL.len();
const DIRECTIONS: usize = Direction::ALL.len();

/// Counters of one thread. Reading them takes no lock; only their thread may count.
#[derive(Debug, Default)]
pub struct Metrics {
    received: Counter,
    received_bytes: Counter,
    responses: [Counter; RESPONSES],
    response_bytes: Counter,
    relayed: [Counter; DIRECTIONS],
    relayed_bytes: [Counter; DIRECTIONS],
    dropped: [Counter; DROPS],
    receive_failures: Counter,
    send_calls: Counter,
    rounds: Counter,
    naps: Counter,
    napped_packets: Counter,
    allocations_made: Counter,
    allocations_ended: Counter,
}

/// Values of all counters since the server began. Each is exact; they are not read in one instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Snapshot {
    /// Packets received from clients and peers. Over streams: messages.
    pub received: u64,
    /// Bytes of them.
    pub received_bytes: u64,
    /// Bytes of all responses.
    pub response_bytes: u64,
    /// Failures of receiving.
    pub receive_failures: u64,
    /// System calls that sent packets.
    pub send_calls: u64,
    /// Rounds of threads that had packets to handle.
    pub rounds: u64,
    /// Naps of threads under load.
    pub naps: u64,
    /// Packets that waited for the end of a nap.
    pub napped_packets: u64,
    /// Allocations made.
    pub allocations_made: u64,
    /// Allocations ended, by their clients, by time or with their connection.
    pub allocations_ended: u64,
    responses: [u64; RESPONSES],
    relayed: [u64; DIRECTIONS],
    relayed_bytes: [u64; DIRECTIONS],
    dropped: [u64; DROPS],
}

impl Metrics {
    /// Reads all counters.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            received: self.received.get(),
            received_bytes: self.received_bytes.get(),
            response_bytes: self.response_bytes.get(),
            receive_failures: self.receive_failures.get(),
            send_calls: self.send_calls.get(),
            rounds: self.rounds.get(),
            naps: self.naps.get(),
            napped_packets: self.napped_packets.get(),
            allocations_made: self.allocations_made.get(),
            allocations_ended: self.allocations_ended.get(),
            responses: std::array::from_fn(|index| self.responses[index].get()),
            relayed: std::array::from_fn(|index| self.relayed[index].get()),
            relayed_bytes: std::array::from_fn(|index| self.relayed_bytes[index].get()),
            dropped: std::array::from_fn(|index| self.dropped[index].get()),
        }
    }

    #[inline]
    pub(crate) fn count_received(&self, bytes: usize) {
        self.received.add(1);
        self.received_bytes.add(bytes as u64);
    }

    #[inline]
    pub(crate) fn count_relayed(&self, direction: Direction, bytes: usize) {
        self.relayed[direction as usize].add(1);
        self.relayed_bytes[direction as usize].add(bytes as u64);
    }

    pub(crate) fn count_response(&self, response: Response, bytes: usize) {
        self.responses[response as usize].add(1);
        self.response_bytes.add(bytes as u64);
    }

    /// Counts packets the relay, or its driver, dropped. Only the relay's thread may.
    pub fn count_dropped(&self, reason: DropReason) {
        self.dropped[reason as usize].add(1);
    }

    /// Counts a packet that a socket didn't take.
    pub fn count_unsent(&self, error: &std::io::Error) {
        let is_full = error.kind() == std::io::ErrorKind::WouldBlock;
        self.count_dropped(if is_full { DropReason::SocketFull } else { DropReason::SendFailed });
    }

    /// Packets relayed so far.
    #[cfg(target_os = "linux")]
    pub(crate) fn relayed_packets(&self) -> u64 {
        self.relayed.iter().map(Counter::get).sum()
    }

    /// Counts what became of a batch.
    #[cfg(target_os = "linux")]
    pub(crate) fn count_flush(&self, totals: &crate::io::SendTotals) {
        self.dropped[DropReason::SocketFull as usize].add(totals.full);
        self.dropped[DropReason::SendFailed as usize].add(totals.refused);
        self.send_calls.add(totals.calls);
    }

    /// Counts a round of a thread: how many packets it had, and whether they had waited for the end of a nap.
    #[cfg(target_os = "linux")]
    pub(crate) fn count_round(&self, packets: usize, has_napped: bool) {
        self.rounds.add(u64::from(packets > 0));
        if has_napped {
            self.naps.add(1);
            self.napped_packets.add(packets as u64);
        }
    }

    /// Counts a failure of receiving.
    pub fn count_receive_failure(&self) {
        self.receive_failures.add(1);
    }

    pub(crate) fn count_allocation(&self) {
        self.allocations_made.add(1);
    }

    pub(crate) fn count_allocation_ended(&self) {
        self.allocations_ended.add(1);
    }
}

/// The counters of all threads of a server, to read at any time.
#[derive(Debug, Clone)]
pub struct AllMetrics(Arc<[Arc<Metrics>]>);

impl AllMetrics {
    pub(crate) fn new(threads: Vec<Arc<Metrics>>) -> Self {
        Self(threads.into())
    }

    /// Their sums.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let mut sums = Snapshot::default();
        self.0.iter().for_each(|thread| sums.add(&thread.snapshot()));
        sums
    }
}

impl Snapshot {
    /// Adds those of another thread.
    pub fn add(&mut self, other: &Self) {
        self.received += other.received;
        self.received_bytes += other.received_bytes;
        self.response_bytes += other.response_bytes;
        self.receive_failures += other.receive_failures;
        self.send_calls += other.send_calls;
        self.rounds += other.rounds;
        self.naps += other.naps;
        self.napped_packets += other.napped_packets;
        self.allocations_made += other.allocations_made;
        self.allocations_ended += other.allocations_ended;
        for (sums, values) in [
            (&mut self.responses[..], &other.responses[..]),
            (&mut self.relayed[..], &other.relayed[..]),
            (&mut self.relayed_bytes[..], &other.relayed_bytes[..]),
            (&mut self.dropped[..], &other.dropped[..]),
        ] {
            sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
        }
    }

    /// Packets dropped for this reason.
    #[must_use]
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.dropped[reason as usize]
    }

    /// Responses of this kind.
    #[must_use]
    pub fn responses(&self, response: Response) -> u64 {
        self.responses[response as usize]
    }

    /// Packets relayed that way.
    #[must_use]
    pub fn relayed(&self, direction: Direction) -> u64 {
        self.relayed[direction as usize]
    }

    /// Bytes relayed that way, without headers.
    #[must_use]
    pub fn relayed_bytes(&self, direction: Direction) -> u64 {
        self.relayed_bytes[direction as usize]
    }

    /// Allocations there are.
    #[must_use]
    pub fn allocations(&self) -> u64 {
        self.allocations_made.saturating_sub(self.allocations_ended)
    }
}

fn write_one(f: &mut fmt::Formatter<'_>, name: &str, kind: &str, help: &str, value: u64) -> fmt::Result {
    writeln!(f, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}")
}

fn write_labelled<'a>(
    f: &mut fmt::Formatter<'_>,
    name: &str,
    label: &str,
    help: &str,
    samples: impl Iterator<Item = (&'a str, u64)>,
) -> fmt::Result {
    writeln!(f, "# HELP {name} {help}\n# TYPE {name} counter")?;
    for (value_of_label, value) in samples {
        writeln!(f, "{name}{{{label}=\"{value_of_label}\"}} {value}")?;
    }
    Ok(())
}

impl fmt::Display for Snapshot {
    /// Prometheus text format, version 0.0.4.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counter = "counter";
        write_one(f, "halloo_relay_packets_received_total", counter, "Packets received.", self.received)?;
        write_one(f, "halloo_relay_received_bytes_total", counter, "Bytes of packets received.", self.received_bytes)?;
        let responses = Response::ALL.iter().map(|kind| (kind.label(), self.responses(*kind)));
        write_labelled(f, "halloo_relay_responses_total", "kind", "Responses sent.", responses)?;
        write_one(f, "halloo_relay_response_bytes_total", counter, "Bytes of responses sent.", self.response_bytes)?;
        let relayed = Direction::ALL.iter().map(|way| (way.label(), self.relayed(*way)));
        write_labelled(f, "halloo_relay_relayed_packets_total", "direction", "Packets relayed.", relayed)?;
        let relayed = Direction::ALL.iter().map(|way| (way.label(), self.relayed_bytes(*way)));
        write_labelled(f, "halloo_relay_relayed_bytes_total", "direction", "Bytes relayed, without headers.", relayed)?;
        let dropped = DropReason::ALL.iter().map(|reason| (reason.label(), self.dropped(*reason)));
        write_labelled(f, "halloo_relay_dropped_total", "reason", "Packets that went nowhere.", dropped)?;
        write_one(f, "halloo_relay_receive_failures_total", counter, "Errors while receiving.", self.receive_failures)?;
        write_one(f, "halloo_relay_send_calls_total", counter, "System calls that sent packets.", self.send_calls)?;
        write_one(f, "halloo_relay_rounds_total", counter, "Rounds of threads that had packets.", self.rounds)?;
        write_one(f, "halloo_relay_naps_total", counter, "Naps of threads under load.", self.naps)?;
        write_one(f, "halloo_relay_napped_packets_total", counter, "Packets that waited for a nap.", self.napped_packets)?;
        write_one(f, "halloo_relay_allocations_made_total", counter, "Allocations made.", self.allocations_made)?;
        write_one(f, "halloo_relay_allocations", "gauge", "Allocations there are.", self.allocations())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_describes_each_name_once_and_shows_values() {
        let metrics = Metrics::default();
        metrics.count_received(20);
        metrics.count_response(Response::Binding, 32);
        metrics.count_dropped(DropReason::RateLimited);
        let mut sum = metrics.snapshot();
        sum.add(&metrics.snapshot());
        let text = sum.to_string();
        assert_eq!(text.matches("# TYPE halloo_relay_dropped_total counter").count(), 1);
        assert!(text.contains("halloo_relay_responses_total{kind=\"binding\"} 2\n"), "{text}");
        assert!(text.contains("halloo_relay_response_bytes_total 64\n"), "{text}");
        assert!(text.contains("halloo_relay_dropped_total{reason=\"rate_limited\"} 2\n"), "{text}");
    }
}
