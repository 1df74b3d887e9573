//! How often the nodes of a table to whom no connection is open turned out to live: how many are asked at once so that one of them does.

use std::collections::VecDeque;

/// First contacts remembered: did nodes of this table to whom no connection was open show life?
pub(super) const CONTACTS: usize = 32;

/// Of contacts that are missing to so many a quarter counts as silent: whoever has asked hardly anybody goes by what others said, some time ago.
const CONTACTS_MIN: usize = 16;

/// Nodes asked at once for the first answer, at most.
const WIDTH_MAX: u32 = 4;

/// Of the latest first contacts, whether the node showed life in time.
#[derive(Clone, Debug, Default)]
pub(super) struct FirstContacts {
    alive: VecDeque<bool>,
}

impl FirstContacts {
    pub(super) fn note(&mut self, is_alive: bool) {
        if self.alive.len() >= CONTACTS {
            self.alive.pop_front();
        }
        self.alive.push_back(is_alive);
    }

    /// How many it takes; at most [`WIDTH_MAX`].
    pub(super) fn width(&self) -> usize {
        let missing = CONTACTS_MIN.saturating_sub(self.alive.len());
        let silent = self.alive.iter().filter(|is_alive| !**is_alive).count() + missing.div_ceil(4);
        let all = self.alive.len() + missing;
        let is_enough = |width: &u32| 400 * silent.pow(*width) <= all.pow(*width);
        (1..WIDTH_MAX).find(is_enough).unwrap_or(WIDTH_MAX) as usize
    }
}
