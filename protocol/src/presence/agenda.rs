//! What is to happen when: timers by name, each planned at most once.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::hash::Hash;
use std::time::{Duration, Instant};

/// Entries that may be out of date before the heap is made anew, beside three for each timer.
const STALE_MAX: usize = 64;

/// Planned timers; those of one moment in the order of their names.
///
/// What is planned otherwise than before leaves its old entry in the heap, which is passed over when it comes up: the first entry is always true. So
/// the next moment is known without a search, which is asked for after every input.
#[derive(Debug)]
pub(super) struct Agenda<T> {
    heap: BinaryHeap<Reverse<(Instant, T)>>,
    planned: HashMap<T, Instant>,
}

impl<T> Default for Agenda<T> {
    fn default() -> Self {
        Self { heap: BinaryHeap::new(), planned: HashMap::new() }
    }
}

impl<T: Copy + Ord + Hash> Agenda<T> {
    /// The next moment.
    pub(super) fn next(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }

    /// When a timer is planned.
    pub(super) fn planned(&self, timer: &T) -> Option<Instant> {
        self.planned.get(timer).copied()
    }

    /// Plans a timer, in place of what was planned.
    pub(super) fn plan(&mut self, timer: T, at: Instant) {
        if self.planned.insert(timer, at) == Some(at) {
            return;
        }
        self.heap.push(Reverse((at, timer)));
        if self.heap.len() > STALE_MAX + 4 * self.planned.len() {
            self.heap = self.planned.iter().map(|(timer, at)| Reverse((*at, *timer))).collect();
        }
        self.tidy();
    }

    /// Plans a timer, unless it is planned for an earlier moment.
    pub(super) fn plan_by(&mut self, timer: T, at: Instant) {
        if self.planned(&timer).is_none_or(|planned| at < planned) {
            self.plan(timer, at);
        }
    }

    /// Plans a timer no longer.
    pub(super) fn cancel(&mut self, timer: &T) {
        if self.planned.remove(timer).is_some() {
            self.tidy();
        }
    }

    /// Takes the first timer that is due.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<T> {
        self.next().filter(|at| *at <= now)?;
        let Reverse((_, timer)) = self.heap.pop()?;
        self.planned.remove(&timer);
        self.tidy();
        Some(timer)
    }

    /// Plans for now what is overdue by more than `most`. True if there was any.
    pub(super) fn catch_up(&mut self, now: Instant, most: Duration) -> bool {
        let is_overdue = |at: Instant| now > at + most;
        if !self.next().is_some_and(is_overdue) {
            return false;
        }
        let overdue: Vec<_> = self.planned.iter().filter(|(_, at)| is_overdue(**at)).map(|(timer, _)| *timer).collect();
        for timer in overdue {
            self.plan(timer, now);
        }
        true
    }

    /// Passes over entries at the head that are out of date.
    fn tidy(&mut self) {
        while let Some(Reverse((at, timer))) = self.heap.peek()
            && self.planned.get(timer) != Some(at)
        {
            self.heap.pop();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_does_what_a_sorted_list_does(inputs in proptest::collection::vec((0u8..5, 0u8..12, 0u64..40), 0..300)) {
            let start = Instant::now();
            let at = |secs: u64| start + Duration::from_secs(secs);
            let (mut agenda, mut list) = (Agenda::default(), BTreeMap::new());
            for (what, timer, secs) in inputs {
                match what {
                    0 => {
                        agenda.plan(timer, at(secs));
                        list.insert(timer, secs);
                    }
                    1 => {
                        agenda.plan_by(timer, at(secs));
                        list.entry(timer).and_modify(|planned| *planned = secs.min(*planned)).or_insert(secs);
                    }
                    2 => {
                        agenda.cancel(&timer);
                        list.remove(&timer);
                    }
                    3 => {
                        let due = list.iter().map(|(timer, secs)| (*secs, *timer)).min().filter(|(due, _)| *due <= secs);
                        prop_assert_eq!(agenda.take_due(at(secs)), due.map(|(_, timer)| timer));
                        due.map(|(_, timer)| list.remove(&timer));
                    }
                    _ => {
                        let overdue = list.values_mut().filter(|planned| secs > **planned + 5);
                        let count = overdue.map(|planned| *planned = secs).count();
                        prop_assert_eq!(agenda.catch_up(at(secs), Duration::from_secs(5)), count > 0);
                    }
                }
                prop_assert_eq!(agenda.next(), list.values().min().map(|secs| at(*secs)));
                prop_assert_eq!(agenda.planned(&timer), list.get(&timer).map(|secs| at(*secs)));
            }
        }
    }
}
