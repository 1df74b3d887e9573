//! One copy in memory of equal records, for simulations of many nodes in one process.
//!
//! Off unless [`share_records`] turns it on for the calling thread, which the daemon doesn't. It changes what memory is used and nothing else:
//! only records whose bytes have the same hash are shared, and shared ones are never changed.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::{Arc, Weak};

use super::Kept;

/// Only looked up: its order is random.
type Known = HashMap<[u8; 32], Weak<Kept>>;

/// What is known, and at how many those that nobody keeps any more are swept out.
struct Shared {
    known: Known,
    sweep_at: usize,
}

thread_local! {
    static SHARED: RefCell<Option<Shared>> = const { RefCell::new(None) };
}

/// From now on, equal records in the stores of the calling thread's directories are kept in memory once.
pub fn share_records() {
    SHARED.with_borrow_mut(|shared| *shared = Some(Shared { known: Known::new(), sweep_at: 1_024 }));
}

/// The record with this state hash: one that is kept already, or the one that `make` makes.
pub(super) fn one_of(state: [u8; 32], make: impl FnOnce() -> Kept) -> Arc<Kept> {
    SHARED.with_borrow_mut(|shared| {
        let Some(shared) = shared else { return Arc::new(make()) };
        if let Some(kept) = shared.known.get(&state).and_then(Weak::upgrade) {
            return kept;
        }
        if shared.known.len() >= shared.sweep_at {
            shared.known.retain(|_, kept| kept.strong_count() > 0);
            shared.sweep_at = 2 * shared.known.len() + 1_024;
        }
        let kept = Arc::new(make());
        shared.known.insert(state, Arc::downgrade(&kept));
        kept
    })
}
