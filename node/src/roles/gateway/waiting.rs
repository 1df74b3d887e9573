//! Which pushes wait and when each is tried next. The pushes themselves are in the database; this is the order of the day, made anew at
//! every start, so that putting off a push costs no commit.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use halloo_protocol::push::{PushChannel, PushHandle};
use halloo_protocol::time::UnixTime;

/// Pushes that may wait for one device. Whoever has many calls missed has no use for more, and a device that never comes mustn't fill
/// the gateway.
pub(super) const PENDING_PER_DEVICE_MAX: usize = 32;

/// Of these, places that only calls may take.
pub(super) const PENDING_FOR_CALLS: usize = 12;

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
    /// Channels whose service is being asked.
    sending: Vec<PushChannel>,
    /// Channels whose service has asked for a pause, and until when.
    held: Vec<(PushChannel, Instant)>,
}

impl Entry {
    /// The next turn: after the pause, or as soon as a service may be asked again.
    fn next_turn(&self, now: Instant) -> Instant {
        let after_pause = now + self.pause;
        self.held.iter().map(|(_, until)| *until).filter(|until| *until > now).fold(after_pause, Instant::min)
    }
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
        let entry =
            Entry { handle, expires_at, due: now, pause: RETRY_MIN, held_until: None, sending: Vec::new(), held: Vec::new() };
        self.entries.insert(number, entry);
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
        entry.due = entry.next_turn(now);
        entry.pause = (entry.pause * 2).min(RETRY_MAX);
        self.order.insert((entry.due, number));
    }

    /// Holds a push back, whatever else would make it due.
    pub(super) fn hold_back(&mut self, number: u64, until: Instant) {
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

    /// A service wants a pause: it isn't asked for this push before `until`, and is then. Others go on.
    pub(super) fn hold(&mut self, number: u64, channel: PushChannel, until: Instant) {
        let Some(entry) = self.entries.get_mut(&number) else { return };
        entry.held.retain(|(known, _)| *known != channel);
        entry.held.push((channel, until));
        if until < entry.due {
            self.order.remove(&(entry.due, number));
            entry.due = until;
            self.order.insert((until, number));
        }
    }

    /// True while a channel's service has asked not to be asked for this push.
    fn is_held(&self, number: u64, channel: &PushChannel, now: Instant) -> bool {
        let held = self.entries.get(&number).map(|entry| entry.held.as_slice()).unwrap_or_default();
        held.iter().any(|(known, until)| known == channel && *until > now)
    }

    /// Whether this push waits.
    pub(super) fn contains(&self, number: u64) -> bool {
        self.entries.contains_key(&number)
    }

    /// True if none waits.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// True if a channel's service may be asked to take this push: it isn't being asked, and hasn't asked for a pause that lasts.
    pub(super) fn may_send(&self, number: u64, channel: &PushChannel, now: Instant) -> bool {
        let is_sending = self.entries.get(&number).is_some_and(|entry| entry.sending.contains(channel));
        !is_sending && !self.is_held(number, channel, now)
    }

    /// Whether any service is being asked just now.
    pub(super) fn is_sending(&self, number: u64) -> bool {
        self.entries.get(&number).is_some_and(|entry| !entry.sending.is_empty())
    }

    /// A channel's service is asked.
    pub(super) fn begin_sending(&mut self, number: u64, channel: &PushChannel) {
        if let Some(entry) = self.entries.get_mut(&number) {
            entry.sending.push(channel.clone());
        }
    }

    /// It has answered.
    pub(super) fn end_sending(&mut self, number: u64, channel: &PushChannel) {
        if let Some(entry) = self.entries.get_mut(&number) {
            entry.sending.retain(|known| known != channel);
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

    /// Virtual time: 429 with `Retry-After: 60`, and a stream that is tried meanwhile.
    #[test]
    fn a_push_that_is_held_waits_for_its_turn_also_when_its_device_connects() {
        let now = Instant::now();
        let turn = now + Duration::from_secs(20);
        let mut waiting = Waiting::default();
        let handle = PushHandle([1; 32]);
        waiting.insert(1, handle, UnixTime(2_000), now);
        waiting.hold_back(1, turn);
        waiting.hurry(&handle, now);
        assert_eq!(waiting.take_due(turn - Duration::from_millis(1), UNIX), Due::default());
        assert_eq!(waiting.take_due(turn, UNIX).again, [1]);
        waiting.hurry(&handle, turn + Duration::from_secs(1));
        assert_eq!(waiting.take_due(turn + Duration::from_secs(1), UNIX).again, [1], "later it is as any other");
    }

    #[test]
    fn a_service_is_asked_again_when_it_said_and_not_before() {
        let start = Instant::now();
        let at = |secs: u64| start + Duration::from_secs(secs);
        let mut waiting = Waiting::default();
        let fcm = PushChannel::Fcm { token: "a".into() };
        waiting.insert(7, PushHandle([1; 32]), UnixTime(2_000), start);
        waiting.put_off(7, start);
        waiting.hold(7, fcm.clone(), at(60));
        let mut tries = Vec::new();
        for secs in 0..=120 {
            if !waiting.take_due(at(secs), UNIX).again.is_empty() {
                tries.push((secs, waiting.is_held(7, &fcm, at(secs))));
            }
        }
        assert_eq!(tries, [(5, true), (15, true), (35, true), (60, false)], "the pause after 35 s is cut short");
        assert!(!waiting.is_held(7, &PushChannel::Stream, start), "others aren't held");
        // A pause that ends before the next turn brings it forward; a device that connects doesn't shorten it.
        waiting.hold(7, fcm.clone(), at(123));
        waiting.hurry(&PushHandle([1; 32]), at(121));
        assert_eq!(waiting.take_due(at(121), UNIX).again, [7]);
        assert!(waiting.is_held(7, &fcm, at(121)));
        assert_eq!(waiting.take_due(at(123), UNIX).again, [7]);
        assert!(!waiting.is_held(7, &fcm, at(123)));
    }

    #[test]
    fn push_services_are_asked_once_at_a_time_and_none_waits_for_another() {
        let now = Instant::now();
        let mut waiting = Waiting::default();
        let (slow, fast) = (PushChannel::Fcm { token: "slow".into() }, PushChannel::Fcm { token: "fast".into() });
        waiting.insert(1, PushHandle([1; 32]), UnixTime(2_000), now);
        waiting.begin_sending(1, &slow);
        waiting.begin_sending(1, &fast);
        assert!(!waiting.may_send(1, &slow, now) && !waiting.may_send(1, &fast, now));
        waiting.end_sending(1, &fast);
        assert!(!waiting.may_send(1, &slow, now), "one of two services hasn't answered");
        assert!(waiting.may_send(1, &fast, now), "the other may be asked again");
        waiting.hold(1, fast.clone(), now + RETRY_MIN);
        assert!(!waiting.may_send(1, &fast, now));
        waiting.end_sending(1, &slow);
        assert!(waiting.may_send(1, &slow, now) && waiting.may_send(1, &fast, now + RETRY_MIN));
    }
}
