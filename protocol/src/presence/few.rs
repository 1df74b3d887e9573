//! A map of few entries: one piece of memory of its size, where the smallest node of a B-tree has room for eleven.
//!
//! Somebody with 1,000 contacts has three such maps for each, and nearly all of them hold one device or one day.

use std::ops::Index;

/// Entries in the order of their keys, one behind the other. Looking up is a search from the start: for the few devices of a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FewMap<K, V>(Vec<(K, V)>);

impl<K, V> Default for FewMap<K, V> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<K: Ord, V> FewMap<K, V> {
    pub(super) const fn new() -> Self {
        Self(Vec::new())
    }

    pub(super) const fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn get(&self, key: &K) -> Option<&V> {
        self.0.iter().find(|(known, _)| known == key).map(|(_, value)| value)
    }

    pub(super) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.0.iter_mut().find(|(known, _)| known == key).map(|(_, value)| value)
    }

    pub(super) fn contains_key(&self, key: &K) -> bool {
        self.get(key).is_some()
    }

    /// The value of a key, made by `make` if there is none.
    pub(super) fn get_or_insert_with(&mut self, key: K, make: impl FnOnce() -> V) -> &mut V {
        let position = self.0.partition_point(|(known, _)| *known < key);
        if self.0.get(position).is_none_or(|(known, _)| *known != key) {
            self.0.reserve_exact(1);
            self.0.insert(position, (key, make()));
        }
        &mut self.0[position].1
    }

    pub(super) fn retain(&mut self, mut is_kept: impl FnMut(&K, &mut V) -> bool) {
        self.0.retain_mut(|(key, value)| is_kept(key, value));
    }

    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = (&K, &V)> + Clone {
        self.0.iter().map(|(key, value)| (key, value))
    }

    pub(super) fn values(&self) -> impl DoubleEndedIterator<Item = &V> + Clone {
        self.0.iter().map(|(_, value)| value)
    }
}

impl<'a, K, V> IntoIterator for &'a mut FewMap<K, V> {
    type Item = (&'a K, &'a mut V);
    type IntoIter = std::iter::Map<std::slice::IterMut<'a, (K, V)>, fn(&'a mut (K, V)) -> (&'a K, &'a mut V)>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter_mut().map(|(key, value)| (key, value))
    }
}

impl<K: Ord, V> Index<&K> for FewMap<K, V> {
    type Output = V;

    fn index(&self, key: &K) -> &V {
        self.get(key).expect("the caller knows the key")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_does_what_a_tree_does(inputs in proptest::collection::vec((0u8..6, 0u8..200), 0..20)) {
            let (mut few, mut tree) = (FewMap::new(), BTreeMap::new());
            for (key, value) in inputs {
                prop_assert_eq!(few.get_or_insert_with(key, || value), tree.entry(key).or_insert(value));
                if value > 100 {
                    few.retain(|known, _| *known != key);
                    tree.remove(&key);
                }
                prop_assert!(few.iter().eq(tree.iter()));
                prop_assert_eq!(few.get(&key), tree.get(&key));
            }
        }
    }
}
