//! One stream without breaks, made of what may be several: numbers and times go on where a phone restarts its stream, is held or is moved.
//!
//! Within a stream nothing but the beginning changes, so that a gap, a late packet and a pause are at the far end what they were at the near one.

use std::time::Instant;

/// A jump of numbers from which on it is another stream (RFC 3550 appendix A.1: 3,000 lost packets).
const JUMP_MAX: i64 = 3_000;
/// How far times may stray from the clock, in seconds, till it is another stream.
const STRAY_MAX_SECS: i64 = 10;
/// What the first packet is numbered, so that those that come late after it have room.
const FIRST: u64 = 256;
/// Seconds before which the first packet is, for the same reason.
const FIRST_SECS: u64 = 10;
/// Milliseconds between the last packet before a break and the first after it, at least.
const FRAME_MS: u64 = 20;

/// Where a packet stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its number without end.
    pub sequence: u64,
    /// Its time in ticks without end.
    pub timestamp: u64,
    /// It is the first of another stream than the one before: nothing follows from its distance to that.
    pub is_new: bool,
}

/// The newest packet of the present stream.
#[derive(Clone, Copy, Debug)]
struct Newest {
    ssrc: u32,
    /// As it came, extended.
    sequence: i64,
    timestamp: i64,
    at: Instant,
}

/// Puts packets in their places.
#[derive(Debug)]
pub struct Continuity {
    clock_hz: u32,
    newest: Option<Newest>,
    /// The place of the newest packet.
    reached: Place,
    /// What is added to numbers and times as they come.
    shift: (i64, i64),
    /// The next packet's number follows the last one's, whatever lies between.
    closes_gap: bool,
}

impl Continuity {
    /// For times in ticks of this clock.
    #[must_use]
    pub const fn new(clock_hz: u32) -> Self {
        let reached = Place { sequence: FIRST - 1, timestamp: FIRST_SECS * clock_hz as u64, is_new: true };
        Self { clock_hz, newest: None, reached, shift: (0, 0), closes_gap: false }
    }

    /// What came last wasn't passed on: the next packet's number follows that of the last one that was.
    pub const fn close_gap(&mut self) {
        self.closes_gap = true;
    }

    /// The place of a packet with a number of 16 bits and a time of 32.
    pub fn place(&mut self, ssrc: u32, sequence: u16, timestamp: u32, at: Instant) -> Place {
        let (sequence, timestamp) = match self.newest.filter(|newest| newest.ssrc == ssrc) {
            Some(newest) => (
                newest.sequence + i64::from(sequence.wrapping_sub(newest.sequence as u16).cast_signed()),
                newest.timestamp + i64::from(timestamp.wrapping_sub(newest.timestamp as u32).cast_signed()),
            ),
            None => (sequence.into(), timestamp.into()),
        };
        self.place_extended(ssrc, sequence, timestamp, at)
    }

    /// The place of a packet with a number and a time that are extended already.
    pub fn place_extended(&mut self, ssrc: u32, sequence: i64, timestamp: i64, at: Instant) -> Place {
        let newest = self.newest.filter(|newest| self.continues(newest, ssrc, sequence, timestamp, at));
        match newest {
            None => self.begin(ssrc, sequence, timestamp, at),
            Some(newest) => {
                if std::mem::take(&mut self.closes_gap) && sequence > newest.sequence {
                    self.shift.0 = self.reached.sequence as i64 + 1 - sequence;
                }
                let place = Place {
                    sequence: sequence.saturating_add(self.shift.0).max(0).cast_unsigned(),
                    timestamp: timestamp.saturating_add(self.shift.1).max(0).cast_unsigned(),
                    is_new: false,
                };
                if sequence > newest.sequence {
                    self.newest = Some(Newest { sequence, timestamp, at, ..newest });
                    self.reached = place;
                }
                place
            }
        }
    }

    fn continues(&self, newest: &Newest, ssrc: u32, sequence: i64, timestamp: i64, at: Instant) -> bool {
        let clock = i64::from(self.clock_hz);
        let elapsed = i64::try_from(at.saturating_duration_since(newest.at).as_millis()).unwrap_or(i64::MAX);
        let expected = elapsed.saturating_mul(clock) / 1_000;
        // In a pause the clock goes on and numbers don't, or neither does.
        let strays = timestamp.saturating_sub(newest.timestamp);
        let is_in_time = (strays - expected).abs() <= STRAY_MAX_SECS * clock || strays.abs() <= STRAY_MAX_SECS * clock;
        newest.ssrc == ssrc && is_in_time && (sequence - newest.sequence).abs() <= JUMP_MAX
    }

    fn begin(&mut self, ssrc: u32, sequence: i64, timestamp: i64, at: Instant) -> Place {
        let elapsed_ms = self.newest.map_or(0, |newest| {
            let elapsed = u64::try_from(at.saturating_duration_since(newest.at).as_millis()).unwrap_or(u64::MAX);
            elapsed.max(FRAME_MS)
        });
        let ticks = elapsed_ms.saturating_mul(u64::from(self.clock_hz)) / 1_000;
        let place =
            Place { sequence: self.reached.sequence + 1, timestamp: self.reached.timestamp.saturating_add(ticks), is_new: true };
        self.shift = (place.sequence as i64 - sequence, place.timestamp as i64 - timestamp);
        self.closes_gap = false;
        self.newest = Some(Newest { ssrc, sequence, timestamp, at });
        self.reached = place;
        place
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const CLOCK: u32 = 8_000;

    struct Stream {
        continuity: Continuity,
        begun: Instant,
        first: Option<Place>,
    }

    impl Stream {
        fn new() -> Self {
            Self { continuity: Continuity::new(CLOCK), begun: Instant::now(), first: None }
        }

        /// Number and time, counted from the first packet.
        fn put(&mut self, ssrc: u32, sequence: u16, timestamp: u32, at_ms: u64) -> (i64, i64, bool) {
            let place = self.continuity.place(ssrc, sequence, timestamp, self.begun + Duration::from_millis(at_ms));
            let first = *self.first.get_or_insert(place);
            (place.sequence as i64 - first.sequence as i64, place.timestamp as i64 - first.timestamp as i64, place.is_new)
        }
    }

    #[test]
    fn gaps_and_late_packets_stay_what_they_are() {
        let mut stream = Stream::new();
        assert_eq!(stream.put(1, 65_535, u32::MAX, 0), (0, 0, true));
        assert_eq!(stream.put(1, 0, 159, 20), (1, 160, false), "both run over");
        assert_eq!(stream.put(1, 3, 159 + 3 * 160, 80), (4, 640, false), "two are lost");
        assert_eq!(stream.put(1, 2, 159 + 2 * 160, 81), (3, 480, false), "one was late");
        assert_eq!(stream.put(1, 65_534, u32::MAX - 160, 82), (-1, -160, false), "one from before the first");
        assert_eq!(stream.put(1, 4, 159 + 50 * 160, 1_000), (5, 51 * 160, false), "a pause");
    }

    #[test]
    fn another_stream_goes_on_where_the_first_ended() {
        let mut stream = Stream::new();
        stream.put(1, 100, 5_000, 0);
        assert_eq!(stream.put(2, 7, 99_999_999, 500), (1, 4_000, true), "half a second later");
        assert_eq!(stream.put(2, 8, 99_999_999 + 160, 520), (2, 4_160, false));
        assert_eq!(stream.put(2, 40_000, 5, 540), (3, 4_320, true), "restarted with the same name");
        assert_eq!(stream.put(3, 1, 1, 540), (4, 4_480, true), "never at the same time");
    }

    #[test]
    fn what_was_not_passed_on_leaves_no_gap_and_takes_its_time() {
        let mut stream = Stream::new();
        stream.put(1, 1, 160, 0);
        stream.continuity.close_gap();
        assert_eq!(stream.put(1, 51, 51 * 160, 1_000), (1, 50 * 160, false));
        assert_eq!(stream.put(1, 53, 53 * 160, 1_040), (3, 52 * 160, false));
    }
}
