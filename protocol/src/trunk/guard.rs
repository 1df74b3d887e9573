//! The spending guard: how many calls and minutes a day a trunk carries, all together, for each user, and to each prefix.
//!
//! A call is counted before its INVITE leaves, and each minute before it begins, as providers bill them: whoever keeps the [`Ledger`] on disk before
//! going on loses nothing, however the process ends. A call that the provider's machine refused without trying it is taken back.
//!
//! Days are of UTC. A clock that goes back begins no new day.

use std::collections::BTreeMap;

use bincode::{Decode, Encode};

use super::number::Number;

/// Counts of one day at most: named users and prefixes of all trunks. What doesn't fit is refused.
const COUNTS_MAX: usize = 2_048;

/// What is allowed in a day. `u32::MAX` is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Calls.
    pub calls: u32,
    /// Minutes begun.
    pub minutes: u32,
}

impl Limit {
    /// For each user, unless the owner says otherwise: more than a person dials, less than a thief would.
    pub const OF_USER: Self = Self { calls: 50, minutes: 120 };
    /// For all users of a trunk together.
    pub const OF_ALL: Self = Self { calls: 200, minutes: 600 };
}

/// A limit for numbers that begin so, all users together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrefixLimit {
    /// `+49900`
    pub prefix: String,
    /// What is allowed; no calls at all forbids the prefix.
    pub limit: Limit,
}

/// The limits of a trunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// For all users together.
    pub all: Limit,
    /// For each user.
    pub user: Limit,
    /// For numbers that begin so; all that apply hold.
    pub prefixes: Vec<PrefixLimit>,
}

impl Default for Limits {
    fn default() -> Self {
        Self { all: Limit::OF_ALL, user: Limit::OF_USER, prefixes: Vec::new() }
    }
}

/// Whose count it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub enum Whose {
    /// All users' together.
    All,
    /// This user's, `name@authority`.
    User(String),
    /// That of numbers which begin so.
    Prefix(String),
}

/// What has been used of a limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Count {
    /// Calls.
    pub calls: u32,
    /// Minutes begun.
    pub minutes: u32,
}

/// Which limit is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reached {
    /// Whose.
    pub whose: Whose,
    /// What is counted: calls, else minutes.
    pub is_calls: bool,
    /// The limit.
    pub limit: u32,
}

impl std::fmt::Display for Reached {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let what = if self.is_calls { "calls" } else { "minutes" };
        match &self.whose {
            Whose::All => write!(f, "{} {what} a day for all users together", self.limit),
            Whose::User(_) => write!(f, "{} {what} a day for each user", self.limit),
            Whose::Prefix(prefix) => write!(f, "{} {what} a day to {prefix}", self.limit),
        }
    }
}

/// Who calls where: what counts are kept of.
#[derive(Clone, Copy, Debug)]
pub struct Spending<'a> {
    /// The trunk's name.
    pub trunk: &'a str,
    /// Its limits.
    pub limits: &'a Limits,
    /// Who calls, `name@authority`.
    pub user: &'a str,
    /// Where.
    pub number: &'a Number,
}

impl Spending<'_> {
    fn counted(&self) -> Vec<(Whose, Limit)> {
        let prefixes = self.limits.prefixes.iter().filter(|of| self.number.as_str().starts_with(&of.prefix));
        let prefixes = prefixes.map(|of| (Whose::Prefix(of.prefix.clone()), of.limit));
        let whole = [(Whose::All, self.limits.all), (Whose::User(self.user.to_owned()), self.limits.user)];
        whole.into_iter().chain(prefixes).collect()
    }
}

/// What was spent in a day.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Ledger {
    /// Days since 1970.
    day: u64,
    counts: BTreeMap<(String, Whose), Count>,
}

impl Ledger {
    /// Counts a call that is about to be placed.
    ///
    /// # Errors
    /// [`Reached`]: nothing was counted, and the call must not be placed.
    pub fn book_call(&mut self, spending: &Spending<'_>, day: u64) -> Result<(), Reached> {
        self.turn_to(day);
        for (whose, limit) in spending.counted() {
            let count = self.count(spending.trunk, &whose);
            // A call without a minute left couldn't go on.
            self.check(&whose, count.calls, limit.calls, true)?;
            self.check(&whose, count.minutes, limit.minutes, false)?;
        }
        self.add(spending, |count| count.calls = count.calls.saturating_add(1));
        Ok(())
    }

    /// Counts a minute that is about to begin.
    ///
    /// # Errors
    /// [`Reached`]: nothing was counted, and the call has to end.
    pub fn book_minute(&mut self, spending: &Spending<'_>, day: u64) -> Result<(), Reached> {
        self.turn_to(day);
        for (whose, limit) in spending.counted() {
            self.check(&whose, self.count(spending.trunk, &whose).minutes, limit.minutes, false)?;
        }
        self.add(spending, |count| count.minutes = count.minutes.saturating_add(1));
        Ok(())
    }

    /// Takes a call back that was booked on `day` and that nobody tried to carry: the next trunk has it.
    pub fn release_call(&mut self, spending: &Spending<'_>, day: u64) {
        if day == self.day {
            self.add(spending, |count| count.calls = count.calls.saturating_sub(1));
        }
    }

    /// What was used on that day.
    #[must_use]
    pub fn used(&self, trunk: &str, whose: &Whose, day: u64) -> Count {
        if day > self.day { Count::default() } else { self.count(trunk, whose) }
    }

    fn turn_to(&mut self, day: u64) {
        if day > self.day {
            self.day = day;
            self.counts.clear();
        }
    }

    fn count(&self, trunk: &str, whose: &Whose) -> Count {
        self.counts.get(&(trunk.to_owned(), whose.clone())).copied().unwrap_or_default()
    }

    fn check(&self, whose: &Whose, used: u32, limit: u32, is_calls: bool) -> Result<(), Reached> {
        let has_room = self.counts.len() < COUNTS_MAX;
        if has_room && (used < limit || limit == u32::MAX) {
            Ok(())
        } else {
            Err(Reached { whose: whose.clone(), is_calls, limit })
        }
    }

    fn add(&mut self, spending: &Spending<'_>, change: impl Fn(&mut Count)) {
        for (whose, _) in spending.counted() {
            change(self.counts.entry((spending.trunk.to_owned(), whose)).or_default());
        }
    }
}

#[cfg(test)]
#[path = "guard_tests.rs"]
mod tests;
