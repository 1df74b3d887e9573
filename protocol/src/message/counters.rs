//! Which numbers there are: what has come of a device, and what was read of it.

use bincode::{Decode, Encode};

/// Ranges one set may have. Each gap is a message that hasn't come; when there are more, the oldest is given up: it counts as there.
pub const COUNTER_RANGES_MAX: usize = 32;

/// A set of counters as ranges, inclusive, ascending, with gaps between them. Sets only grow ([`CounterSet::merge`] is their union), so it doesn't
/// matter in which order, or how often, they are exchanged.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode)]
pub struct CounterSet(Vec<(u64, u64)>);

impl CounterSet {
    /// Nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// All numbers from `first` to `last`; nothing if `last` is smaller.
    #[must_use]
    pub fn of_range(first: u64, last: u64) -> Self {
        Self(if first <= last { vec![(first, last)] } else { Vec::new() })
    }

    /// The ranges, inclusive, ascending.
    pub fn ranges(&self) -> impl Iterator<Item = (u64, u64)> {
        self.0.iter().copied()
    }

    /// True if it holds nothing.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many numbers it holds.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.0.iter().fold(0_u64, |sum, (first, last)| sum.saturating_add((last - first).saturating_add(1)))
    }

    /// The greatest number in it.
    #[must_use]
    pub fn newest(&self) -> Option<u64> {
        self.0.last().map(|(_, last)| *last)
    }

    /// True if the number is in it.
    #[must_use]
    pub fn contains(&self, number: u64) -> bool {
        self.0.iter().any(|(first, last)| (*first..=*last).contains(&number))
    }

    /// Adds one number; true if it wasn't in it.
    pub fn insert(&mut self, number: u64) -> bool {
        self.merge(&Self::of_range(number, number))
    }

    /// Takes up everything that the other holds; true if that was news.
    pub fn merge(&mut self, other: &Self) -> bool {
        let mut all: Vec<(u64, u64)> = self.0.iter().chain(&other.0).copied().collect();
        all.sort_unstable();
        let mut joined: Vec<(u64, u64)> = Vec::with_capacity(all.len());
        for (first, last) in all {
            match joined.last_mut() {
                Some(open) if first <= open.1.saturating_add(1) => open.1 = open.1.max(last),
                _ => joined.push((first, last)),
            }
        }
        while joined.len() > COUNTER_RANGES_MAX {
            let (first, _) = joined.remove(0);
            joined[0].0 = first;
        }
        let changed = joined != self.0;
        self.0 = joined;
        changed
    }

    /// What of this isn't in the other.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        let mut left = Vec::new();
        for (first, last) in &self.0 {
            let mut from = Some(*first);
            for (begin, end) in other.0.iter().filter(|(begin, end)| begin <= last && end >= first) {
                let Some(start) = from else { break };
                if *begin > start {
                    left.push((start, begin - 1));
                }
                from = end.checked_add(1).filter(|next| next <= last).map(|next| next.max(start));
            }
            if let Some(start) = from {
                left.push((start, *last));
            }
        }
        Self(left)
    }

    /// Takes everything between its first and its last number for there.
    pub fn close_gaps(&mut self) {
        if let (Some((first, _)), Some((_, last))) = (self.0.first().copied(), self.0.last().copied()) {
            self.0 = vec![(first, last)];
        }
    }

    /// The numbers that are missing between its first and its last.
    #[must_use]
    pub fn gaps(&self) -> Self {
        let between = self.0.windows(2).map(|pair| (pair[0].1 + 1, pair[1].0 - 1));
        Self(between.collect())
    }
}

impl<Context> Decode<Context> for CounterSet {
    fn decode<D: bincode::de::Decoder<Context = Context>>(decoder: &mut D) -> Result<Self, bincode::error::DecodeError> {
        let count = u64::decode(decoder)?;
        if count > COUNTER_RANGES_MAX as u64 {
            return Err(bincode::error::DecodeError::OtherString(format!("{count} ranges, at most {COUNTER_RANGES_MAX}")));
        }
        let ranges = (0..count).map(|_| <(u64, u64)>::decode(decoder)).collect::<Result<Vec<_>, _>>()?;
        let is_sound = ranges.iter().all(|(first, last)| first <= last)
            && ranges.windows(2).all(|pair| pair[0].1.checked_add(1).is_some_and(|next| next < pair[1].0));
        if is_sound { Ok(Self(ranges)) } else { Err(bincode::error::DecodeError::Other("ranges are not ascending")) }
    }
}
bincode::impl_borrow_decode!(CounterSet);

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::wire;

    fn set(numbers: &BTreeSet<u64>) -> CounterSet {
        let mut set = CounterSet::new();
        for number in numbers {
            set.insert(*number);
        }
        set
    }

    fn numbers(set: &CounterSet) -> BTreeSet<u64> {
        set.ranges().flat_map(|(first, last)| first..=last).collect()
    }

    proptest! {
        /// Below the limit of ranges a set is what a set of numbers is.
        #[test]
        fn it_is_a_set(one in prop::collection::btree_set(1_u64..60, 0..25), other in prop::collection::btree_set(1_u64..60, 0..25)) {
            let (a, b) = (set(&one), set(&other));
            prop_assert_eq!(&numbers(&a), &one);
            prop_assert_eq!(a.len(), one.len() as u64);
            let mut both = a.clone();
            prop_assert_eq!(both.merge(&b), !other.is_subset(&one));
            prop_assert_eq!(numbers(&both), one.union(&other).copied().collect::<BTreeSet<_>>());
            let mut reverse = b.clone();
            reverse.merge(&a);
            prop_assert_eq!(&both, &reverse);
            prop_assert_eq!(numbers(&a.without(&b)), one.difference(&other).copied().collect::<BTreeSet<_>>());
            if let (Some(first), Some(last)) = (one.first(), one.last()) {
                prop_assert_eq!(numbers(&a.gaps()), (*first..=*last).filter(|n| !one.contains(n)).collect::<BTreeSet<_>>());
            }
            prop_assert_eq!(wire::decode::<CounterSet>(&wire::encode(&a), 1_000), Ok(a));
        }

        #[test]
        fn it_only_grows_and_has_a_bound(steps in prop::collection::vec(1_u64..5_000, 1..200)) {
            let mut grown = CounterSet::new();
            for step in steps {
                let before = grown.clone();
                grown.insert(step);
                prop_assert!(grown.contains(step));
                prop_assert!(before.without(&grown).is_empty());
                prop_assert!(grown.ranges().count() <= COUNTER_RANGES_MAX);
            }
            prop_assert!(wire::decode::<CounterSet>(&wire::encode(&grown), 1_000).is_ok());
        }
    }

    #[test]
    fn what_is_no_set_of_ranges_is_refused() {
        for bad in [vec![(2_u64, 1_u64)], vec![(1, 3), (4, 5)], vec![(5, 6), (1, 2)], vec![(1, u64::MAX), (3, 3)]] {
            assert!(wire::decode::<CounterSet>(&wire::encode(&bad), 1_000).is_err(), "{bad:?}");
        }
        let many: Vec<(u64, u64)> = (0..40).map(|number| (number * 3, number * 3)).collect();
        assert!(wire::decode::<CounterSet>(&wire::encode(&many), 1_000).is_err());
        let mut all = CounterSet::of_range(0, u64::MAX);
        assert!(!all.insert(7));
        assert!(all.without(&CounterSet::of_range(0, u64::MAX)).is_empty());
    }
}
