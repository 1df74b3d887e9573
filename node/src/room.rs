//! Room that maps keep for more than they hold.

use std::collections::HashMap;
use std::hash::Hash;

/// Room for so many is kept.
const KEPT: usize = 14;

/// Gives back room for more than four times as many as there are. Whoever has joined a network knows fifty for a minute, and nine from then on.
pub(crate) fn give_back<K: Eq + Hash, V>(map: &mut HashMap<K, V>) {
    if map.capacity() > KEPT.max(4 * map.len()) {
        map.shrink_to(KEPT.max(2 * map.len()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_needed_once_is_given_back_and_what_is_needed_stays() {
        let mut map: HashMap<u32, [u8; 64]> = (0..1_000).map(|key| (key, [0; 64])).collect();
        map.retain(|key, _| *key < 500);
        let room = map.capacity();
        give_back(&mut map);
        assert_eq!(map.capacity(), room, "more than a quarter of it is used");
        map.retain(|key, _| *key < 100);
        give_back(&mut map);
        assert!((200..room).contains(&map.capacity()), "{} of {room}", map.capacity());
        map.clear();
        give_back(&mut map);
        let least = map.capacity();
        assert!((KEPT..=2 * KEPT).contains(&least), "{least}");
        give_back(&mut map);
        assert_eq!(map.capacity(), least, "it doesn't go to and fro");
    }
}
