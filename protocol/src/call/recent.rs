//! Memory of calls a device has seen, so that each rings once, whatever ways its copies take and however late they come.

use std::collections::BTreeMap;

use bincode::{Decode, Encode};

use super::Reason;
use crate::id::CallId;
use crate::key::DeviceKey;
use crate::time::UnixTime;

/// Most calls remembered; the oldest makes room. At one call a second that is longer than an invite lives.
pub const RECENT_CALLS_MAX: usize = 1_024;

/// How long a call is remembered: a push service may hold a push that long, and the missed call should be listed once.
const RECENT_SECS: u64 = 2 * 86_400;

/// Calls seen lately. Store it where the process may be restarted for every push.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct RecentCalls {
    seen: BTreeMap<(DeviceKey, CallId), UnixTime>,
}

impl RecentCalls {
    /// Remembers nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Notes a call. True if it is new: ring. Ids are the caller's own, so they count per calling device.
    pub fn insert(&mut self, caller: DeviceKey, call: CallId, now: UnixTime) -> bool {
        self.seen.retain(|_, seen_at| now.secs_since(*seen_at) <= RECENT_SECS);
        if self.seen.contains_key(&(caller, call)) {
            return false;
        }
        if self.seen.len() >= RECENT_CALLS_MAX
            && let Some(oldest) = self.seen.iter().min_by_key(|(_, seen_at)| **seen_at).map(|(key, _)| *key)
        {
            self.seen.remove(&oldest);
        }
        self.seen.insert((caller, call), now);
        true
    }

    /// True if the call was seen.
    #[must_use]
    pub fn contains(&self, caller: DeviceKey, call: CallId) -> bool {
        self.seen.contains_key(&(caller, call))
    }

    /// How many are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.seen.len()
    }

    /// True if none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.seen.is_empty()
    }
}

/// Calls taken back before their invite came, each with what its caller said: such an invite doesn't ring, it is listed. Apart from
/// [`RecentCalls`], since anybody can sign such a signal, and enough of them would push out those that rang.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WithdrawnCalls(BTreeMap<(DeviceKey, CallId), (UnixTime, Reason)>);

impl WithdrawnCalls {
    /// None.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Notes that a call was taken back. What was said first counts.
    pub fn insert(&mut self, caller: DeviceKey, call: CallId, reason: Reason, now: UnixTime) {
        if self.0.contains_key(&(caller, call)) {
            return;
        }
        if self.0.len() >= RECENT_CALLS_MAX
            && let Some(oldest) = self.0.iter().min_by_key(|(_, (at, _))| *at).map(|(key, _)| *key)
        {
            self.0.remove(&oldest);
        }
        self.0.insert((caller, call), (now, reason));
    }

    /// Why a call was taken back, if it was.
    #[must_use]
    pub fn reason(&self, caller: DeviceKey, call: CallId) -> Option<Reason> {
        self.0.get(&(caller, call)).map(|(_, reason)| *reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::PublicKey;

    #[test]
    fn each_call_is_new_once_and_memory_is_bounded() {
        let caller = DeviceKey(PublicKey([1; 32]));
        let mut recent = RecentCalls::new();
        let id = |number: u32| {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&number.to_be_bytes());
            CallId(bytes)
        };
        assert!(recent.insert(caller, id(0), UnixTime(10)));
        assert!(!recent.insert(caller, id(0), UnixTime(11)));
        assert!(recent.insert(DeviceKey(PublicKey([2; 32])), id(0), UnixTime(11)), "another device's id is another call");
        for number in 1..3_000 {
            recent.insert(caller, id(number), UnixTime(20 + u64::from(number)));
        }
        assert_eq!(recent.len(), RECENT_CALLS_MAX);
        assert!(!recent.contains(caller, id(0)));
        assert!(!recent.insert(caller, id(2_999), UnixTime(4_000)));
        assert!(recent.insert(caller, id(2_999), UnixTime(4_000 + RECENT_SECS)));
    }

    #[test]
    fn a_call_taken_back_keeps_its_first_reason_and_memory_is_bounded() {
        let caller = DeviceKey(PublicKey([1; 32]));
        let id = |number: u32| {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&number.to_be_bytes());
            CallId(bytes)
        };
        let mut withdrawn = WithdrawnCalls::new();
        withdrawn.insert(caller, id(0), Reason::CANCELLED, UnixTime(1));
        withdrawn.insert(caller, id(0), Reason::ANSWERED_ELSEWHERE, UnixTime(2));
        assert_eq!(withdrawn.reason(caller, id(0)), Some(Reason::CANCELLED));
        assert_eq!(withdrawn.reason(DeviceKey(PublicKey([2; 32])), id(0)), None, "another device has no say");
        for number in 1..3_000 {
            withdrawn.insert(caller, id(number), Reason::CANCELLED, UnixTime(20));
        }
        assert_eq!(withdrawn.0.len(), RECENT_CALLS_MAX);
    }
}
