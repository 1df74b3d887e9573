//! What each end of a call has seen of it, shared between the two ends when it is over: one asks, the other answers with its stages.
//!
//! No clock is trusted for that. An end counts from the call's beginning there; the answer says how long ago that was, so whoever has asked knows when
//! it was by their own clock, to within half of the question's round trip ([`Trace::begun`]).

use std::fmt;
use std::time::{Duration, Instant};

use bincode::{Decode, Encode};

use crate::id::CallId;
use crate::key::DeviceKey;
use crate::wire::{DecodeError, Extensions, FrameKind, Message};

/// Stages shared of one call: some ten are those of a call with one device, and each further device adds a few.
pub const TRACE_STAGES_MAX: usize = 48;

/// Longest text of a shared stage, in bytes: a sentence.
pub const TRACE_DETAIL_BYTES_MAX: usize = 200;

/// Of a trace that is too long, so many stages at its end are shared, and the rest from its beginning: how it ended is at the end.
const LAST_STAGES: usize = 16;

/// What happened: a number, so that a reader who doesn't know it still shows the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct TraceKind(pub u16);

impl TraceKind {
    /// What the caller knew of the callee's presence.
    pub const PRESENCE: Self = Self(1);
    /// The callee's devices were looked up, in the cache or in the directory.
    pub const LOOK_UP: Self = Self(2);
    /// An invite went out, or came.
    pub const INVITE: Self = Self(3);
    /// A relay was asked to hand the invite over.
    pub const RELAY: Self = Self(4);
    /// A gateway was asked to wake a device.
    pub const PUSH: Self = Self(5);
    /// It rings.
    pub const RING: Self = Self(6);
    /// Both had dialled.
    pub const CROSSED: Self = Self(7);
    /// Somebody has answered.
    pub const ANSWER: Self = Self(8);
    /// Audio's path was found, has changed or was lost.
    pub const MEDIA: Self = Self(9);
    /// It is over.
    pub const END: Self = Self(10);
}

/// One thing that happened at one end.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct TraceStage {
    /// When, in milliseconds from the call's beginning there.
    pub at_ms: u32,
    /// What.
    pub kind: TraceKind,
    /// The device it is about, if it is about one.
    pub device: Option<DeviceKey>,
    /// What came of it, and why, in words; at most [`TRACE_DETAIL_BYTES_MAX`] bytes.
    pub detail: String,
}

/// What one end has seen of a call.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Trace {
    /// How long ago the call began there, in milliseconds, when this was said.
    pub elapsed_ms: u32,
    /// What happened, in order; at most [`TRACE_STAGES_MAX`].
    pub stages: Vec<TraceStage>,
}

/// When the call began at the other end, by the own clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Begun {
    /// The likeliest time.
    pub at: Instant,
    /// How far it may be off, either way: half the round trip.
    pub off_by: Duration,
}

impl Trace {
    /// A trace that fits: of too many stages the first and the last are kept, and texts are cut.
    #[must_use]
    pub fn new(elapsed: Duration, mut stages: Vec<TraceStage>) -> Self {
        if stages.len() > TRACE_STAGES_MAX {
            stages.drain(TRACE_STAGES_MAX - LAST_STAGES..stages.len() - LAST_STAGES);
        }
        for stage in &mut stages {
            stage.detail.truncate(stage.detail.floor_char_boundary(TRACE_DETAIL_BYTES_MAX));
        }
        Self { elapsed_ms: u32::try_from(elapsed.as_millis()).unwrap_or(u32::MAX), stages }
    }

    /// When the call began there, if the question left at `asked` and its answer came at `answered`: the answer was given at some time between. `None` for
    /// times that no clock knows.
    #[must_use]
    pub fn begun(&self, asked: Instant, answered: Instant) -> Option<Begun> {
        let half = answered.saturating_duration_since(asked) / 2;
        let at = (asked + half).checked_sub(Duration::from_millis(u64::from(self.elapsed_ms)))?;
        Some(Begun { at, off_by: half })
    }

    fn check(&self) -> Result<(), DecodeError> {
        if self.stages.len() > TRACE_STAGES_MAX {
            return Err(DecodeError::invalid("trace", format!("{} stages, at most {TRACE_STAGES_MAX}", self.stages.len())));
        }
        match self.stages.iter().find(|stage| stage.detail.len() > TRACE_DETAIL_BYTES_MAX) {
            Some(stage) => Err(DecodeError::invalid(
                "trace",
                format!("a text of {} bytes, at most {TRACE_DETAIL_BYTES_MAX}", stage.detail.len()),
            )),
            None => Ok(()),
        }
    }
}

impl fmt::Display for TraceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "stage {}", self.0)
    }
}

/// Asks the other end of a call what it has seen.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct CallTraceAsk {
    /// The call.
    pub call: CallId,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Message for CallTraceAsk {
    const KIND: FrameKind = FrameKind(0x0037);
    const LIMIT: usize = 256;
}

/// Answer to [`CallTraceAsk`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct CallTraced {
    /// What it has seen; nothing if there is no such call with whoever asks, or they aren't to know.
    pub trace: Option<Trace>,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Message for CallTraced {
    const KIND: FrameKind = FrameKind(FrameKind::ANSWER | CallTraceAsk::KIND.0);
    const LIMIT: usize = TRACE_STAGES_MAX * (TRACE_DETAIL_BYTES_MAX + 48) + 512;

    fn check(&self) -> Result<(), DecodeError> {
        self.trace.as_ref().map_or(Ok(()), Trace::check)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{self, Frame};

    fn stage(at_ms: u32, detail: &str) -> TraceStage {
        TraceStage {
            at_ms,
            kind: TraceKind::RING,
            device: Some(DeviceKey(crate::key::SecretKey::from_bytes([7; 32]).public())),
            detail: detail.to_owned(),
        }
    }

    #[test]
    fn of_a_long_trace_the_beginning_and_the_end_are_shared_and_it_fits() {
        let stages = (0..200).map(|at| stage(at, &"ä".repeat(200))).collect();
        let trace = Trace::new(Duration::from_secs(60), stages);
        let times: Vec<u32> = trace.stages.iter().map(|stage| stage.at_ms).collect();
        assert_eq!(times, (0..32).chain(184..200).collect::<Vec<_>>());
        assert!(trace.stages.iter().all(|stage| stage.detail.len() == TRACE_DETAIL_BYTES_MAX));
        let answer = CallTraced { trace: Some(trace), extensions: Extensions::none() };
        let frame = Frame::new(1, &answer);
        assert_eq!(frame.parse::<CallTraced>().as_ref(), Ok(&answer));
        assert!(wire::encode(&answer).len() <= CallTraced::LIMIT);
    }

    #[test]
    fn what_is_too_long_is_refused() {
        let too_many = Trace { elapsed_ms: 0, stages: vec![stage(0, ""); TRACE_STAGES_MAX + 1] };
        let too_long = Trace { elapsed_ms: 0, stages: vec![stage(0, &"x".repeat(TRACE_DETAIL_BYTES_MAX + 1))] };
        for trace in [too_many, too_long] {
            let frame = Frame::new(1, &CallTraced { trace: Some(trace), extensions: Extensions::none() });
            assert!(frame.parse::<CallTraced>().is_err());
        }
    }

    #[test]
    fn the_other_ends_beginning_is_known_to_half_a_round_trip() {
        let zero = Instant::now();
        let at = |ms| zero + Duration::from_millis(ms);
        // It began there at 40; the question left at 1,000, was answered at 1,030 or any time until 1,100.
        for answered_there in [1_000, 1_030, 1_100] {
            let trace = Trace { elapsed_ms: answered_there - 40, stages: Vec::new() };
            let begun = trace.begun(at(1_000), at(1_100)).expect("not before all time");
            assert_eq!(begun.off_by, Duration::from_millis(50));
            let error = begun.at.max(at(40)) - begun.at.min(at(40));
            assert!(error <= begun.off_by, "{error:?}");
        }
    }
}
