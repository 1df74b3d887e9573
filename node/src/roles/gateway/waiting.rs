//! Which pushes wait and when each is tried next. The pushes themselves are in the database; this is the order of the day, made anew at
//! every start, so that putting off a push costs no commit.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use halloo_protocol::push::PushHandle;
use halloo_protocol::time::UnixTime;

/// Pushes that may wait for one device. Whoever has many calls missed has no use for more, and a device that never comes mustn't fill
/// the gateway.
pub(super) const PENDING_PER_DEVICE_MAX: usize = 32;

/// Pause before a push is tried again, doubled each time, and the longest. A device that connects is served at once.
const RETRY_MIN: Duration = Duration::from_secs(5);
const RETRY_MAX: Duration = Duration::from_secs(300);

/// Pushes tried between two looks at the rest of the world.
const BATCH: usize = 64;

#[derive(Debug)]
struct Entry {
    handle: PushHandle,
    expires_at: UnixTime,
    due: Instant,
    pause: Duration,
    /// Not before then: it is held back for its turn.
    held_until: Option<Instant>,
    /// Push services that are being asked.
    sending: usize,
}

/// What is to be done now.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Due {
    /// Numbers of pushes to try again.
    pub(super) again: Vec<u64>,
    /// Numbers of pushes past their time.
    pub(super) expired: Vec<u64>,
}

/// All pushes that wait, bounded by the store's table.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    entries: HashMap<u64, Entry>,
    order: BTreeSet<(Instant, u64)>,
    of_device: HashMap<PushHandle, BTreeSet<u64>>,
}

impl Waiting {
    /// Adds a push, due at once.
    pub(super) fn insert(&mut self, number: u64, handle: PushHandle, expires_at: UnixTime, now: Instant) {
        self.remove(number);
        self.entries.insert(number, Entry { handle, expires_at, due: now, pause: RETRY_MIN, held_until: None, sending: 0 });
        self.order.insert((now, number));
        self.of_device.entry(handle).or_default().insert(number);
    }

    /// Forgets a push.
    pub(super) fn remove(&mut self, number: u64) {
        let Some(entry) = self.entries.remove(&number) else { return };
        self.order.remove(&(entry.due, number));
        if let Some(numbers) = self.of_device.get_mut(&entry.handle) {
            numbers.remove(&number);
            if numbers.is_empty() {
                self.of_device.remove(&entry.handle);
            }
        }
    }

    /// Puts a push off until its next turn.
    pub(super) fn put_off(&mut self, number: u64, now: Instant) {
        let Some(entry) = self.entries.get_mut(&number) else { return };
        self.order.remove(&(entry.due, number));
        entry.due = now + entry.pause;
        entry.pause = (entry.pause * 2).min(RETRY_MAX);
        self.order.insert((entry.due, number));
    }

    /// Holds a push back, whatever else would make it due.
    pub(super) fn hold(&mut self, number: u64, until: Instant) {
        let Some(entry) = self.entries.get_mut(&number) else { return };
        self.order.remove(&(entry.due, number));
        (entry.due, entry.held_until) = (until, Some(until));
        self.order.insert((until, number));
    }

    /// Makes everything for a device due, and quick to be tried again.
    pub(super) fn hurry(&mut self, handle: &PushHandle, now: Instant) {
        for number in self.of_device.get(handle).into_iter().flatten() {
            if let Some(entry) = self.entries.get_mut(number) {
                self.order.remove(&(entry.due, *number));
                let due = entry.held_until.map_or(now, |until| until.max(now));
                (entry.due, entry.pause) = (due, RETRY_MIN);
                self.order.insert((due, *number));
            }
        }
    }

    /// Pushes whose time has come, a batch at a time; each is put off until its next turn.
    pub(super) fn take_due(&mut self, now: Instant, unix: UnixTime) -> Due {
        let mut due = Due::default();
        let numbers: Vec<u64> =
            self.order.iter().take_while(|(at, _)| *at <= now).take(BATCH).map(|(_, number)| *number).collect();
        for number in numbers {
            self.put_off(number, now);
            match self.entries.get(&number) {
                Some(entry) if unix >= entry.expires_at => due.expired.push(number),
                _ => due.again.push(number),
            }
        }
        due
    }

    /// How many wait for a device.
    pub(super) fn count(&self, handle: &PushHandle) -> usize {
        self.of_device.get(handle).map_or(0, BTreeSet::len)
    }

    /// True if none waits.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// True while a push service is being asked to take this push.
    pub(super) fn is_sending(&self, number: u64) -> bool {
        self.entries.get(&number).is_some_and(|entry| entry.sending > 0)
    }

    /// A push service is asked.
    pub(super) fn begin_sending(&mut self, number: u64) {
        if let Some(entry) = self.entries.get_mut(&number) {
            entry.sending += 1;
        }
    }

    /// The push service has answered.
    pub(super) fn end_sending(&mut self, number: u64) {
        if let Some(entry) = self.entries.get_mut(&number) {
            entry.sending = entry.sending.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNIX: UnixTime = UnixTime(1_000);

    #[test]
    fn devices_that_sleep_keep_nobody_waiting() {
        let now = Instant::now();
        let mut waiting = Waiting::default();
        let (asleep, awake) = (PushHandle([1; 32]), PushHandle([2; 32]));
        for number in 0..1_000 {
            waiting.insert(number, asleep, UnixTime(9_000), now);
        }
        while !waiting.take_due(now, UNIX).again.is_empty() {}
        waiting.insert(1_000, awake, UnixTime(9_000), now);
        assert_eq!(waiting.take_due(now, UNIX).again, [1_000]);
        assert_eq!(waiting.take_due(now + RETRY_MIN / 2, UNIX), Due::default());
        waiting.hurry(&awake, now + RETRY_MIN / 2);
        assert_eq!(waiting.take_due(now + RETRY_MIN / 2, UNIX).again, [1_000]);
        assert_eq!(waiting.count(&asleep), 1_000);
    }

    #[test]
    fn pushes_are_tried_ever_more_rarely_and_end() {
        let start = Instant::now();
        let mut waiting = Waiting::default();
        let handle = PushHandle([1; 32]);
        waiting.insert(7, handle, UnixTime(2_000), start);
        let tries =
            (0..=3_600).filter(|secs| !waiting.take_due(start + Duration::from_secs(*secs), UNIX).again.is_empty()).count();
        assert!((10..=25).contains(&tries), "{tries}");
        let late = waiting.take_due(start + Duration::from_secs(9_000), UnixTime(2_000));
        assert_eq!(late, Due { again: vec![], expired: vec![7] });
        waiting.remove(7);
        assert!(waiting.is_empty() && waiting.count(&handle) == 0);
    }

    #[test]
    fn a_push_that_is_held_waits_for_its_turn_also_when_its_device_connects() {
        let now = Instant::now();
        let turn = now + Duration::from_secs(20);
        let mut waiting = Waiting::default();
        let handle = PushHandle([1; 32]);
        waiting.insert(1, handle, UnixTime(2_000), now);
        waiting.hold(1, turn);
        waiting.hurry(&handle, now);
        assert_eq!(waiting.take_due(turn - Duration::from_millis(1), UNIX), Due::default());
        assert_eq!(waiting.take_due(turn, UNIX).again, [1]);
        waiting.hurry(&handle, turn + Duration::from_secs(1));
        assert_eq!(waiting.take_due(turn + Duration::from_secs(1), UNIX).again, [1], "later it is as any other");
    }

    #[test]
    fn push_services_are_asked_once_at_a_time() {
        let mut waiting = Waiting::default();
        waiting.insert(1, PushHandle([1; 32]), UnixTime(2_000), Instant::now());
        waiting.begin_sending(1);
        waiting.begin_sending(1);
        waiting.end_sending(1);
        assert!(waiting.is_sending(1), "one of two services hasn't answered");
        waiting.end_sending(1);
        assert!(!waiting.is_sending(1));
    }
}
