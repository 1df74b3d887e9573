//! The counts of the spending guard: in the gateway's database before anything leaves.

use std::sync::{Mutex, MutexGuard, PoisonError};

use halloo_protocol::trunk::Refusal;
use halloo_protocol::trunk::guard::{Count, Ledger, Reached, Spending, Whose};
use tracing::warn;

use crate::event_loop::ClockSource;
use crate::store::{Store, StoreError};

const LEDGER: &str = "telephone counts";

#[derive(Debug, Default)]
struct Open {
    store: Option<Store>,
    ledger: Ledger,
}

/// What was spent, and where that is kept.
#[derive(Debug, Default)]
pub(super) struct Books(Mutex<Open>);

impl Books {
    fn lock(&self) -> MutexGuard<'_, Open> {
        // What is kept is whole before it is changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Goes on with what was counted before. What can't be read keeps the books closed: nothing is spent that nobody counts.
    pub(super) fn open(&self, store: Store) {
        match store.read::<_, StoreError>(|view| view.setting_value::<Ledger>(LEDGER)) {
            Ok(ledger) => *self.lock() = Open { store: Some(store), ledger: ledger.unwrap_or_default() },
            Err(error) => warn!(%error, "the counts of telephone calls can't be read: none is placed"),
        }
    }

    pub(super) fn close(&self) {
        *self.lock() = Open::default();
    }

    pub(super) fn is_open(&self) -> bool {
        self.lock().store.is_some()
    }

    /// Counts a call, on disk before this returns.
    pub(super) fn book_call(&self, spending: &Spending<'_>) -> Result<u64, Refusal> {
        let day = today();
        self.change(|ledger| ledger.book_call(spending, day)).map(|()| day)
    }

    /// Counts a minute that is about to begin.
    pub(super) fn book_minute(&self, spending: &Spending<'_>) -> Result<(), Refusal> {
        let day = today();
        self.change(|ledger| ledger.book_minute(spending, day))
    }

    /// Takes a call back that was booked on that day.
    pub(super) fn release_call(&self, spending: &Spending<'_>, day: u64) {
        let released = self.change(|ledger| {
            ledger.release_call(spending, day);
            Ok(())
        });
        if released.is_err() {
            warn!("a telephone call that wasn't carried stays counted");
        }
    }

    fn change(&self, change: impl FnOnce(&mut Ledger) -> Result<(), Reached>) -> Result<(), Refusal> {
        let mut open = self.lock();
        let Some(store) = open.store.clone() else { return Err(Refusal::TrunksFailed) };
        let mut ledger = open.ledger.clone();
        change(&mut ledger).map_err(Refusal::Limit)?;
        if let Err(error) = store.transaction::<_, StoreError>(|tx| tx.put_setting_value(LEDGER, &ledger)) {
            warn!(%error, "a telephone call can't be counted: it isn't placed");
            return Err(Refusal::TrunksFailed);
        }
        open.ledger = ledger;
        Ok(())
    }

    pub(super) fn used(&self, trunk: &str, whose: &Whose) -> Count {
        self.lock().ledger.used(trunk, whose, today())
    }
}

/// Days since 1970, by UTC.
fn today() -> u64 {
    const DAY_SECS: u64 = 24 * 3_600;
    ClockSource::default().raw_unix().0 / DAY_SECS
}

#[cfg(test)]
mod tests {
    use halloo_protocol::trunk::guard::{Limit, Limits};
    use halloo_protocol::trunk::number::Number;

    use super::*;

    #[test]
    fn what_is_counted_outlives_the_process_and_nothing_goes_uncounted() {
        let limits = Limits { user: Limit { calls: 2, minutes: 2 }, ..Limits::default() };
        let number = Number::Global("+4930123456".to_owned());
        let spending = Spending { trunk: "home", limits: &limits, user: "alice@example", number: &number };
        let books = Books::default();
        assert_eq!(books.book_call(&spending), Err(Refusal::TrunksFailed), "nobody counts");

        let store = Store::in_memory().expect("a store");
        books.open(store.clone());
        let day = books.book_call(&spending).expect("the first");
        books.book_minute(&spending).expect("a minute");
        let again = Books::default();
        again.open(store);
        assert_eq!(again.used("home", &Whose::All), Count { calls: 1, minutes: 1 });
        again.book_call(&spending).expect("the second");
        assert!(matches!(again.book_call(&spending), Err(Refusal::Limit(_))));
        again.release_call(&spending, day);
        assert!(again.book_call(&spending).is_ok());
        again.close();
        assert!(!again.is_open() && again.book_call(&spending).is_err());
    }
}
