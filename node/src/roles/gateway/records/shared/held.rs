//! The pushes of this process in memory, beside their rows. What is here is newer than any row: rows are fetched while others are on their way.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::store::PendingPush;

/// Numbers remembered of pushes that are done with, so that a row that was read before isn't taken for one that was forgotten.
const STRUCK_MAX: usize = 100_000;

/// Rows that are taken up, or struck again, at a time.
const MISSING_MAX: usize = 256;

/// The numbers of rows that a process owns, as they were at one time.
#[derive(Clone, Debug, Default)]
pub(crate) struct Owned {
    /// The process.
    pub(in crate::roles::gateway) process: u64,
    /// The count of looks when this one was begun ([`Held::take_up`]).
    pub(in crate::roles::gateway) since: u64,
    pub(in crate::roles::gateway) numbers: Vec<u64>,
    /// False if there are more.
    pub(in crate::roles::gateway) is_all: bool,
}

/// What a look at the rows has shown.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::roles::gateway) struct Compared {
    /// Pushes whose rows are gone: another has brought them, or they are another's. They are let go already.
    pub(in crate::roles::gateway) lost: Vec<u64>,
    /// Rows that aren't in memory: their commit's answer was lost.
    pub(in crate::roles::gateway) missing: Vec<u64>,
    /// Rows of pushes that are done with: what would have struck them was lost.
    pub(in crate::roles::gateway) undone: Vec<u64>,
}

#[derive(Debug)]
struct Own {
    push: PendingPush,
    /// How many looks had been begun when its row was known to be there; `None` while that isn't known.
    there_at: Option<u64>,
}

/// The pushes of this process.
#[derive(Debug)]
pub(super) struct Held {
    pushes: HashMap<u64, Own>,
    struck: HashSet<u64>,
    struck_order: VecDeque<u64>,
    looks: Arc<AtomicU64>,
}

impl Held {
    /// None yet. `looks` counts looks at the rows; each adds one before it reads.
    pub(super) fn new(looks: Arc<AtomicU64>) -> Self {
        Self { pushes: HashMap::new(), struck: HashSet::new(), struck_order: VecDeque::new(), looks }
    }

    pub(super) fn len(&self) -> usize {
        self.pushes.len()
    }

    pub(super) fn contains(&self, number: u64) -> bool {
        self.pushes.contains_key(&number)
    }

    pub(super) fn get(&self, number: u64) -> Option<&PendingPush> {
        self.pushes.get(&number).map(|own| &own.push)
    }

    /// A push that is on its way to the database.
    pub(super) fn begin(&mut self, number: u64, push: PendingPush) {
        self.pushes.insert(number, Own { push, there_at: None });
    }

    /// Changes one; false if it isn't there.
    pub(super) fn update(&mut self, number: u64, push: &PendingPush) -> bool {
        let known = self.pushes.get_mut(&number);
        known.map(|own| own.push = push.clone()).is_some()
    }

    /// Pushes whose rows are there. Gives those that are to be delivered: all but those that are done with.
    pub(super) fn take_up(&mut self, pushes: &[(u64, PendingPush)]) -> Vec<(u64, PendingPush)> {
        let looks = self.looks.load(Ordering::Relaxed);
        let (struck, own) = (&self.struck, &mut self.pushes);
        let alive = pushes.iter().filter(|(number, _)| !struck.contains(number));
        let taken = alive.map(|(number, push)| {
            let own = own.entry(*number).or_insert_with(|| Own { push: push.clone(), there_at: None });
            own.there_at = Some(looks);
            (*number, own.push.clone())
        });
        taken.collect()
    }

    /// Forgets a push as if it had never been.
    pub(super) fn let_go(&mut self, number: u64) -> bool {
        self.pushes.remove(&number).is_some()
    }

    /// A push is done with: it isn't taken up again, whatever row of it is read. False if it wasn't here.
    pub(super) fn strike(&mut self, number: u64) -> bool {
        if self.struck.insert(number) {
            self.struck_order.push_back(number);
        }
        if self.struck_order.len() > STRUCK_MAX
            && let Some(oldest) = self.struck_order.pop_front()
        {
            self.struck.remove(&oldest);
        }
        self.let_go(number)
    }

    /// Compares with the rows. What was begun or committed after the look is left alone.
    pub(super) fn compare(&mut self, owned: &Owned) -> Compared {
        let rows: HashSet<u64> = owned.numbers.iter().copied().collect();
        let is_lost = |number: &u64, own: &Own| {
            owned.is_all && own.there_at.is_some_and(|there_at| there_at <= owned.since) && !rows.contains(number)
        };
        let lost: Vec<u64> = self.pushes.iter().filter(|(number, own)| is_lost(number, own)).map(|(number, _)| *number).collect();
        for number in &lost {
            self.let_go(*number);
        }
        let (undone, missing): (Vec<u64>, Vec<u64>) =
            owned.numbers.iter().filter(|number| !self.contains(**number)).partition(|number| self.struck.contains(number));
        let some = |numbers: Vec<u64>| numbers.into_iter().take(MISSING_MAX).collect();
        Compared { lost, missing: some(missing), undone: some(undone) }
    }
}

#[cfg(test)]
mod tests {
    use halloo_protocol::time::UnixTime;

    use super::*;

    fn push(number: u8) -> PendingPush {
        PendingPush { handle: vec![number; 32], due: UnixTime(1), expires_at: UnixTime(9), content: vec![number] }
    }

    fn look(looks: &AtomicU64, numbers: &[u64]) -> Owned {
        let since = looks.fetch_add(1, Ordering::Relaxed);
        Owned { process: 1, since, numbers: numbers.to_vec(), is_all: true }
    }

    #[test]
    fn an_older_look_drops_nothing_that_was_committed_meanwhile() {
        let looks = Arc::new(AtomicU64::new(0));
        let mut held = Held::new(Arc::clone(&looks));
        held.take_up(&[(1, push(1)), (2, push(2))]);
        held.begin(3, push(3));
        let rows = look(&looks, &[1]);
        // Committed while the rows were read, and one that is on its way.
        held.take_up(&[(3, push(3))]);
        held.begin(4, push(4));
        assert_eq!(held.compare(&rows), Compared { lost: vec![2], ..Compared::default() });
        assert!(held.contains(1) && held.contains(3) && held.contains(4) && held.len() == 3);
        // The next look sees it.
        let rows = look(&looks, &[1]);
        assert_eq!(held.compare(&rows).lost, [3]);
        // Of more rows than were read nothing is said.
        let rows = Owned { is_all: false, ..look(&looks, &[]) };
        assert_eq!(held.compare(&rows), Compared::default());
    }

    #[test]
    fn a_row_whose_answer_was_lost_is_missed_and_one_that_is_done_with_is_not() {
        let looks = Arc::new(AtomicU64::new(0));
        let mut held = Held::new(Arc::clone(&looks));
        held.begin(1, push(1));
        held.let_go(1);
        held.begin(2, push(2));
        held.take_up(&[(3, push(3))]);
        let rows = look(&looks, &[1, 2, 3]);
        assert!(held.strike(3));
        assert_eq!(held.compare(&rows), Compared { missing: vec![1], undone: vec![3], ..Compared::default() });
        assert_eq!(held.take_up(&[(1, push(1)), (3, push(3))]), [(1, push(1))]);
        assert!(!held.contains(3));
        // What is in memory is newer than a row.
        assert!(held.update(1, &push(7)));
        assert_eq!(held.take_up(&[(1, push(1))]), [(1, push(7))]);
    }

    #[test]
    fn what_is_remembered_of_the_past_is_bounded() {
        let mut held = Held::new(Arc::default());
        (0..STRUCK_MAX as u64 + 10).for_each(|number| assert!(!held.strike(number)));
        assert_eq!((held.struck.len(), held.struck_order.len()), (STRUCK_MAX, STRUCK_MAX));
    }
}
