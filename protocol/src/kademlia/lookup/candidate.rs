//! Whom a look-up may ask: how it came to them, and what became of asking.

use std::sync::Arc;
use std::time::Instant;

use crate::kademlia::routing_table::NetworkGroup;
use crate::key::DeviceKey;
use crate::node::Descriptor;

/// What became of asking it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// It wasn't asked.
    Fresh,
    /// It was, and hasn't answered; what it was told we have, and whether it was asked before anybody had named others.
    Asked {
        at: Instant,
        patient_until: Instant,
        with_hash: Option<[u8; 32]>,
        is_hedged: bool,
        is_own: bool,
    },
    /// It holds this.
    Holds([u8; 32]),
    Absent {
        is_proved: bool,
    },
    Answered,
    Failed,
}

impl State {
    /// Failed, or silent beyond patience.
    pub(super) fn is_out(self, now: Instant) -> bool {
        match self {
            Self::Failed => true,
            Self::Asked { patient_until, .. } => patient_until <= now,
            _ => false,
        }
    }
}

/// How we came to a candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// Our own table has met it.
    Own,
    /// By the word of this node, which has met it, whether for this look-up or before.
    Told(DeviceKey),
    /// By the word of this node, which was told of it.
    Hearsay(DeviceKey),
}

#[derive(Clone, Debug)]
pub(super) struct Candidate {
    pub(super) descriptor: Arc<Descriptor>,
    pub(super) group: Option<NetworkGroup>,
    /// The node of our own table over which we came to it.
    pub(super) root: DeviceKey,
    pub(super) source: Source,
    pub(super) state: State,
}

/// Whose word a candidate is, and whether that is hearsay.
pub(super) type Word = (DeviceKey, bool);

impl Candidate {
    pub(super) fn word(&self) -> Option<Word> {
        match self.source {
            Source::Own => None,
            Source::Told(teller) => Some((teller, false)),
            Source::Hearsay(teller) => Some((teller, true)),
        }
    }

    pub(super) const fn is_hearsay(&self) -> bool {
        matches!(self.source, Source::Hearsay(_))
    }

    pub(super) const fn has_answered(&self) -> bool {
        matches!(self.state, State::Holds(_) | State::Absent { .. } | State::Answered)
    }
}
