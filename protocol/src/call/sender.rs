//! Signals on their way out: numbered, repeated until acknowledged, given up after a while. And the numbers seen coming in.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::signal::{Signal, SignalBody};
use crate::id::CallId;
use crate::key::DeviceKey;
use crate::wire::Extensions;

/// Most signals waiting for one device. Candidates beyond it are dropped (ICE gets on with those it has); others replace what waits.
const PENDING_PER_DEVICE_MAX: usize = 48;

/// A repetition comes at most this many times later than the first.
const BACK_OFF_MAX: u32 = 8;

/// A candidate is repeated so many times longer than other signals: who has changed their network says by them where they are now, and it may take a
/// while until signals get through again, while media go on over a relay.
const CANDIDATE_PATIENCE: u32 = 8;

/// Most numbers taken from one device in one call.
const SEQUENCES_MAX: usize = 512;

#[derive(Clone, Debug)]
struct Pending {
    signal: Signal,
    next_at: Instant,
    interval: Duration,
    give_up_at: Instant,
}

/// Outgoing signals of one call.
#[derive(Clone, Debug)]
pub(super) struct SignalSender {
    call: CallId,
    me: DeviceKey,
    retry: Duration,
    give_up: Duration,
    sequences: BTreeMap<DeviceKey, u32>,
    pending: Vec<Pending>,
}

/// What [`SignalSender::take_due`] found.
#[derive(Debug, Default)]
pub(super) struct Due {
    /// To be sent now.
    pub(super) send: Vec<Signal>,
    /// Given up.
    pub(super) lost: Vec<Signal>,
}

impl SignalSender {
    pub(super) const fn new(call: CallId, me: DeviceKey, retry: Duration, give_up: Duration) -> Self {
        Self { call, me, retry, give_up, sequences: BTreeMap::new(), pending: Vec::new() }
    }

    /// Queues a signal, due at once. One that ends the call for that device takes the place of what still waited.
    pub(super) fn queue(&mut self, to: DeviceKey, body: SignalBody, now: Instant) {
        self.queue_with(to, body, Extensions::none(), now);
    }

    /// The same with extensions.
    pub(super) fn queue_with(&mut self, to: DeviceKey, body: SignalBody, extensions: Extensions, now: Instant) {
        let ends = matches!(body, SignalBody::Cancel { .. } | SignalBody::Decline { .. } | SignalBody::Replaced { .. });
        if ends {
            self.pending.retain(|pending| pending.signal.to != to);
        } else if matches!(body, SignalBody::HangUp { .. }) {
            // An accept not yet acknowledged stays: the caller should learn that somebody had answered.
            self.pending.retain(|pending| pending.signal.to != to || matches!(pending.signal.body, SignalBody::Accept { .. }));
        } else if self.pending.iter().filter(|pending| pending.signal.to == to).count() >= PENDING_PER_DEVICE_MAX {
            return;
        }
        let sequence = self.sequences.entry(to).or_insert(0);
        *sequence = sequence.saturating_add(1);
        let patience = if matches!(body, SignalBody::Candidate { .. }) { CANDIDATE_PATIENCE } else { 1 };
        let signal = Signal { call: self.call, from: self.me, to, sequence: *sequence, body, extensions };
        let give_up_at = now + self.give_up * patience;
        self.pending.push(Pending { signal, next_at: now, interval: self.retry, give_up_at });
    }

    /// Signals to be sent at `now`, and those given up.
    pub(super) fn take_due(&mut self, now: Instant) -> Due {
        let mut due = Due::default();
        self.pending.retain_mut(|pending| {
            if now >= pending.give_up_at {
                due.lost.push(pending.signal.clone());
                return false;
            }
            if now >= pending.next_at {
                due.send.push(pending.signal.clone());
                pending.next_at = now + pending.interval;
                pending.interval = (pending.interval * 2).min(self.retry * BACK_OFF_MAX);
            }
            true
        });
        due
    }

    /// An acknowledgement came: what it is for, if that still waited.
    pub(super) fn handle_ack(&mut self, from: DeviceKey, sequence: u32) -> Option<SignalBody> {
        let position =
            self.pending.iter().position(|pending| pending.signal.to == from && pending.signal.sequence == sequence)?;
        Some(self.pending.remove(position).signal.body)
    }

    /// Forgets what waits.
    pub(super) fn clear(&mut self) {
        self.pending.clear();
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.pending.iter().map(|pending| pending.next_at.min(pending.give_up_at)).min()
    }

    /// True if nothing waits that matters when the call is over.
    pub(super) fn is_settled(&self) -> bool {
        self.pending.iter().all(|pending| matches!(pending.signal.body, SignalBody::Candidate { .. }))
    }
}

/// Numbers of the signals one device has sent.
#[derive(Clone, Debug, Default)]
pub(super) struct SeenSequences(BTreeSet<u32>);

/// What a number means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    New,
    Again,
    TooMany,
}

impl SeenSequences {
    pub(super) fn note(&mut self, sequence: u32) -> Seen {
        if self.0.contains(&sequence) {
            return Seen::Again;
        }
        if self.0.len() >= SEQUENCES_MAX {
            return Seen::TooMany;
        }
        self.0.insert(sequence);
        Seen::New
    }
}
