//! The rows of the table.

use crate::load::{BURST_PACKETS, Pattern};

/// Who is at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ends {
    /// Another client of the relay.
    Pair,
    /// A plain UDP host.
    Peer,
}

/// What a row compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RowKind {
    /// Relays under load.
    Load,
    /// Relays at setting up allocations, for so many clients at once.
    SetUp(usize),
    /// Two threads of ours with one.
    Threads,
}

/// One kind of load.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row {
    /// What `--rows` calls it.
    pub(crate) name: &'static str,
    pub(crate) what: &'static str,
    pub(crate) ends: Ends,
    pub(crate) allocations: usize,
    pub(crate) payload_bytes: usize,
    pub(crate) pattern: Pattern,
    /// Aims: processor time per packet as a share of turn-server's and coturn's.
    pub(crate) aims: (Option<f64>, Option<f64>),
    pub(crate) kind: RowKind,
}

const ROW: Row = Row {
    name: "",
    what: "",
    ends: Ends::Pair,
    allocations: 50,
    payload_bytes: 160,
    pattern: Pattern::Saturated(1),
    aims: (None, None),
    kind: RowKind::Load,
};

/// All rows, in the order of the table.
pub(crate) const ROWS: [Row; 11] = [
    Row { name: "pair-50", what: "pair, saturated, 50 allocations", aims: (Some(0.80), Some(0.40)), ..ROW },
    Row { name: "pair-500", what: "pair, saturated, 500 allocations", allocations: 500, aims: (Some(0.65), Some(0.40)), ..ROW },
    Row {
        name: "pair-paced",
        what: "pair, voice, 20,000 packets/s over 50 allocations",
        pattern: Pattern::Paced(20_000),
        aims: (Some(0.35), Some(0.35)),
        ..ROW
    },
    Row {
        name: "pair-bursts",
        what: "pair, bursts of 10 x 1200 bytes, saturated, 50 allocations",
        payload_bytes: 1_200,
        pattern: Pattern::Saturated(BURST_PACKETS as u64),
        aims: (Some(0.40), Some(0.30)),
        ..ROW
    },
    Row {
        name: "pair-video",
        what: "pair, bursts of 10 x 1200 bytes, 1,500/s over 50 allocations",
        payload_bytes: 1_200,
        pattern: Pattern::Bursts(1_500),
        ..ROW
    },
    Row { name: "peer-50", what: "peer, saturated, 50 allocations", ends: Ends::Peer, aims: (None, Some(0.85)), ..ROW },
    Row {
        name: "peer-bursts",
        what: "peer, bursts of 10 x 1200 bytes, saturated, 50 allocations",
        ends: Ends::Peer,
        payload_bytes: 1_200,
        pattern: Pattern::Saturated(BURST_PACKETS as u64),
        aims: (None, Some(0.50)),
        ..ROW
    },
    Row {
        name: "peer-paced",
        what: "peer, voice, 20,000 packets/s over 50 allocations",
        ends: Ends::Peer,
        pattern: Pattern::Paced(20_000),
        ..ROW
    },
    Row {
        name: "setup",
        what: "Allocate twice, CreatePermission, ChannelBind; one client after the other, ns for each",
        allocations: 100,
        aims: (Some(0.75), Some(0.35)),
        kind: RowKind::SetUp(1),
        ..ROW
    },
    Row {
        name: "setup-many",
        what: "the same, 20 clients at once",
        allocations: 100,
        aims: (Some(0.75), Some(0.35)),
        kind: RowKind::SetUp(20),
        ..ROW
    },
    Row {
        name: "threads",
        what: "two threads and one, 80,000 packets/s over 500 allocations",
        allocations: 500,
        pattern: Pattern::Paced(80_000),
        kind: RowKind::Threads,
        ..ROW
    },
];
