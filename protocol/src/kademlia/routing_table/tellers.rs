//! Who told of those known by hearsay: each key once, named by two bytes in the thousands of entries that came from a few hundred.

use crate::key::DeviceKey;

/// Most tellers of one table: what more tell has no teller.
const TELLERS_MAX: usize = 16_384;

/// Room for so many before those of whom nothing is left are looked for.
const ROOM: usize = 64;

/// A teller's number in its table, used again once nothing that it told is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Teller(pub(super) u16);

impl Teller {
    const fn index(self) -> usize {
        self.0 as usize
    }
}

/// Tellers by number.
#[derive(Clone, Debug, Default)]
pub(super) struct Tellers {
    keys: Vec<Option<DeviceKey>>,
    /// How many are filled when they are swept.
    sweep_at: usize,
    filled: usize,
    /// Who was looked for last: a teller mostly tells of several.
    latest: usize,
}

impl Tellers {
    pub(super) fn key(&self, teller: Teller) -> Option<DeviceKey> {
        *self.keys.get(teller.index())?
    }

    /// The number of a device. Those that nothing in `used` names may lose theirs.
    pub(super) fn number(&mut self, device: &DeviceKey, used: impl Iterator<Item = Teller>) -> Option<Teller> {
        let is_theirs = |key: &Option<DeviceKey>| key.as_ref() == Some(device);
        if !self.keys.get(self.latest).is_some_and(is_theirs) {
            self.latest = self.keys.iter().position(is_theirs).unwrap_or(usize::MAX);
        }
        if self.latest < self.keys.len() {
            return u16::try_from(self.latest).ok().map(Teller);
        }
        if self.filled >= self.sweep_at {
            self.sweep(used);
        }
        if self.filled >= TELLERS_MAX {
            return None;
        }
        let free = self.keys.iter().position(Option::is_none).unwrap_or(self.keys.len());
        let number = u16::try_from(free).ok().map(Teller)?;
        match self.keys.get_mut(free) {
            Some(room) => *room = Some(*device),
            None => self.keys.push(Some(*device)),
        }
        self.filled += 1;
        Some(number)
    }

    /// Forgets who isn't named any more; next when half as many again have come.
    fn sweep(&mut self, used: impl Iterator<Item = Teller>) {
        let mut is_used = vec![false; self.keys.len()];
        for teller in used {
            if let Some(is_used) = is_used.get_mut(teller.index()) {
                *is_used = true;
            }
        }
        for (key, is_used) in self.keys.iter_mut().zip(is_used) {
            *key = key.filter(|_| is_used);
        }
        while self.keys.pop_if(|last| last.is_none()).is_some() {}
        self.filled = self.keys.iter().flatten().count();
        self.sweep_at = self.filled + self.filled / 2 + ROOM;
        self.keys.shrink_to(self.sweep_at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::PublicKey;

    fn device(number: u32) -> DeviceKey {
        let mut bytes = [7; 32];
        bytes[..4].copy_from_slice(&number.to_be_bytes());
        DeviceKey(PublicKey(bytes))
    }

    #[test]
    fn numbers_last_while_they_are_named_and_are_used_again_afterwards() {
        let mut tellers = Tellers::default();
        let kept = tellers.number(&device(0), std::iter::empty()).expect("room");
        assert_eq!(tellers.number(&device(0), std::iter::empty()), Some(kept));
        for number in 1..10_000 {
            let teller = tellers.number(&device(number), std::iter::once(kept)).expect("room");
            assert_ne!(teller, kept);
            assert_eq!(tellers.key(teller), Some(device(number)));
        }
        assert_eq!(tellers.key(kept), Some(device(0)));
        assert!(tellers.keys.len() <= 2 * ROOM, "{}", tellers.keys.len());
    }

    #[test]
    fn there_is_an_end_to_them() {
        let mut tellers = Tellers::default();
        let all: Vec<_> = (0..20_000).map_while(|number| tellers.number(&device(number), (0..20_000).map(Teller))).collect();
        assert_eq!(all.len(), TELLERS_MAX);
        assert_eq!(tellers.key(all[TELLERS_MAX - 1]), Some(device(TELLERS_MAX as u32 - 1)));
        assert_eq!(tellers.number(&device(3), all.iter().copied()), Some(all[3]), "who is known stays so");
    }
}
