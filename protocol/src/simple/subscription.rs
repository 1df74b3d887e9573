//! Who is told of whose presence, until when, and when the next notice is due (RFC 6665, RFC 3856, RFC 4662).
//!
//! One notice of a subscription is under way at a time; what changes meanwhile is in the next, so that a phone that answers slowly costs no more than one that
//! doesn't. What is told is read when it is sent; here is only that something is to be told. Never reads the clock.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// Subscriptions of one account.
pub const SUBSCRIPTIONS_MAX: usize = 256;
/// How long one lasts at most, and where nothing is asked for.
pub const EXPIRES_SECS_MAX: u32 = 3_600;
/// How long at least; less is answered with 423, but for 0.
pub const EXPIRES_SECS_MIN: u32 = 60;
/// The pause between two notices of one subscription.
pub const PAUSE: Duration = Duration::from_secs(1);
/// People told in one notice of a list; the others are in those that follow.
pub const PER_NOTICE_MAX: usize = 30;
/// People on a list.
pub const LIST_MAX: usize = 200;

/// Whose presence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// The user's own.
    Own,
    /// Of one other, `name@authority`.
    Buddy(String),
    /// Of all contacts.
    List,
}

/// Why a subscription is over (RFC 6665 section 4.1.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Its time is over, or the phone has ended it.
    Timeout,
    /// The other isn't a contact any more.
    Rejected,
}

impl Ended {
    /// As it stands in `Subscription-State`.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Rejected => "rejected",
        }
    }
}

/// A subscription; `D` is the dialogue that it lives in.
#[derive(Debug)]
pub struct Subscription<D> {
    /// The dialogue.
    pub dialog: D,
    /// Whose presence.
    pub target: Target,
    /// How many notices of the list were sent.
    pub version: u32,
    /// Whether the other's presence was ever told: otherwise the subscription waits.
    pub is_active: bool,
    /// The body of the last notice.
    pub told: String,
    expires_at: Instant,
    ended: Option<Ended>,
    /// Something is to be told.
    is_due: bool,
    /// Everybody on the list is to be named.
    is_full: bool,
    /// Whose presence on the list is to be told.
    whom: BTreeSet<String>,
    is_under_way: bool,
    not_before: Instant,
}

/// What the next notice is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// The subscription.
    pub id: u64,
    /// It is the last.
    pub ended: Option<Ended>,
    /// How long it lasts still, in seconds.
    pub expires_secs: u64,
    /// Everybody on the list is named; their presence follows where it has no room.
    pub is_full: bool,
    /// Whose presence of the list is told, if it isn't full.
    pub whom: Vec<String>,
}

/// No room, or too brief.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SubscribeError {
    /// 423, with `Min-Expires`.
    #[error("a subscription lasts {EXPIRES_SECS_MIN} seconds at least")]
    TooBrief,
    /// 503
    #[error("an account has {SUBSCRIPTIONS_MAX} subscriptions at most")]
    TooMany,
}

impl SubscribeError {
    /// The status to refuse with.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::TooBrief => 423,
            Self::TooMany => 503,
        }
    }
}

/// How long a subscription lasts that asks for so much, in seconds.
///
/// # Errors
/// [`SubscribeError::TooBrief`].
pub fn duration(asked: Option<u32>) -> Result<u32, SubscribeError> {
    match asked.unwrap_or(EXPIRES_SECS_MAX).min(EXPIRES_SECS_MAX) {
        secs if (1..EXPIRES_SECS_MIN).contains(&secs) => Err(SubscribeError::TooBrief),
        secs => Ok(secs),
    }
}

/// All subscriptions of an account.
#[derive(Debug)]
pub struct Subscriptions<D> {
    next_id: u64,
    all: BTreeMap<u64, Subscription<D>>,
}

impl<D> Default for Subscriptions<D> {
    fn default() -> Self {
        Self { next_id: 0, all: BTreeMap::new() }
    }
}

impl<D> Subscriptions<D> {
    /// A new one; its first notice is due at once. With 0 seconds it is its last too.
    ///
    /// # Errors
    /// [`SubscribeError::TooMany`].
    pub fn open(&mut self, target: Target, dialog: D, secs: u32, now: Instant) -> Result<u64, SubscribeError> {
        if self.all.len() >= SUBSCRIPTIONS_MAX {
            return Err(SubscribeError::TooMany);
        }
        self.next_id += 1;
        let subscription = Subscription {
            dialog,
            target,
            version: 0,
            is_active: false,
            told: String::new(),
            expires_at: now + Duration::from_secs(secs.into()),
            ended: (secs == 0).then_some(Ended::Timeout),
            is_due: true,
            is_full: true,
            whom: BTreeSet::new(),
            is_under_way: false,
            not_before: now,
        };
        self.all.insert(self.next_id, subscription);
        Ok(self.next_id)
    }

    /// The one that is in a dialogue which this is true of.
    pub fn find(&mut self, is_it: impl Fn(&D) -> bool) -> Option<(u64, &mut Subscription<D>)> {
        self.all.iter_mut().find(|(_, subscription)| is_it(&subscription.dialog)).map(|(id, subscription)| (*id, subscription))
    }

    /// By its number.
    pub fn get_mut(&mut self, id: u64) -> Option<&mut Subscription<D>> {
        self.all.get_mut(&id)
    }

    /// The phone has subscribed anew within the dialogue: it is told everything.
    pub fn refresh(&mut self, id: u64, secs: u32, now: Instant) {
        let Some(subscription) = self.all.get_mut(&id) else { return };
        subscription.expires_at = now + Duration::from_secs(secs.into());
        subscription.ended = subscription.ended.or((secs == 0).then_some(Ended::Timeout));
        (subscription.is_due, subscription.is_full) = (true, true);
        subscription.not_before = now;
    }

    /// Somebody's presence has changed, or whether they are a contact.
    pub fn changed(&mut self, user: &str) {
        for subscription in self.all.values_mut() {
            match &subscription.target {
                Target::Buddy(buddy) if buddy == user => subscription.is_due = true,
                Target::List if subscription.is_full => {}
                Target::List => {
                    subscription.is_due = true;
                    subscription.whom.insert(user.to_owned());
                    if subscription.whom.len() > LIST_MAX {
                        (subscription.is_full, subscription.whom) = (true, BTreeSet::new());
                    }
                }
                Target::Own | Target::Buddy(_) => {}
            }
        }
    }

    /// The user's own presence has changed.
    pub fn own_changed(&mut self) {
        for subscription in self.all.values_mut().filter(|subscription| subscription.target == Target::Own) {
            subscription.is_due = true;
        }
    }

    /// Who is on the list has changed, or everything may have.
    pub fn all_changed(&mut self) {
        for subscription in self.all.values_mut() {
            (subscription.is_due, subscription.is_full) = (true, true);
        }
    }

    /// What was due isn't worth a notice: nothing has changed that is seen.
    pub fn skipped(&mut self, id: u64) {
        if let Some(subscription) = self.all.get_mut(&id) {
            subscription.is_under_way = false;
        }
    }

    /// What is under way is its last notice.
    pub fn last_sent(&mut self, id: u64, ended: Ended) {
        if let Some(subscription) = self.all.get_mut(&id) {
            (subscription.is_due, subscription.ended) = (false, Some(ended));
        }
    }

    /// The next notice that is due; it counts as sent.
    pub fn poll_notice(&mut self, now: Instant) -> Option<Notice> {
        for (id, subscription) in &mut self.all {
            if subscription.is_under_way {
                continue;
            }
            if subscription.expires_at <= now && subscription.ended.is_none() {
                (subscription.ended, subscription.is_due) = (Some(Ended::Timeout), true);
                subscription.not_before = now;
            }
            if !subscription.is_due || subscription.not_before > now {
                continue;
            }
            subscription.is_under_way = true;
            let whom: Vec<String> = subscription.whom.iter().take(PER_NOTICE_MAX).cloned().collect();
            subscription.whom.retain(|user| !whom.contains(user));
            let is_full = std::mem::take(&mut subscription.is_full);
            if is_full {
                subscription.whom.clear();
            }
            subscription.is_due = !subscription.whom.is_empty();
            let expires_secs = subscription.expires_at.saturating_duration_since(now).as_secs();
            return Some(Notice { id: *id, ended: subscription.ended, expires_secs, is_full, whom });
        }
        None
    }

    /// These of the list had no room in the notice.
    pub fn postpone(&mut self, id: u64, whom: impl IntoIterator<Item = String>) {
        if let Some(subscription) = self.all.get_mut(&id) {
            subscription.whom.extend(whom);
            subscription.is_due |= !subscription.whom.is_empty();
        }
    }

    /// The phone has answered its notice, with a success or otherwise: then it wants no more (RFC 6665 section 4.2.2).
    pub fn answered(&mut self, id: u64, is_success: bool, now: Instant) {
        let Some(subscription) = self.all.get_mut(&id) else { return };
        subscription.is_under_way = false;
        subscription.not_before = now + PAUSE;
        // What it was told last isn't its end if it was ended meanwhile: then that is due.
        if !is_success || (subscription.ended.is_some() && !subscription.is_due) {
            self.all.remove(&id);
        }
    }

    /// When [`Subscriptions::poll_notice`] may have something.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let next = |one: &Subscription<D>| match (one.ended, one.is_due) {
            (Some(_), _) => one.not_before,
            (None, true) => one.not_before.min(one.expires_at),
            (None, false) => one.expires_at,
        };
        self.all.values().filter(|subscription| !subscription.is_under_way).map(next).min()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// True if there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(target: Target) -> (Subscriptions<u8>, u64, Instant) {
        let (mut all, now) = (Subscriptions::default(), Instant::now());
        let id = all.open(target, 7, 600, now).unwrap();
        (all, id, now)
    }

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    #[test]
    fn the_first_notice_is_due_at_once_and_changes_come_one_at_a_time() {
        let (mut all, id, now) = open(Target::Buddy("bob@example".into()));
        let first = all.poll_notice(now).unwrap();
        assert_eq!((first.id, first.ended, first.expires_secs), (id, None, 600));
        all.changed("bob@example");
        all.changed("carol@example");
        assert_eq!(all.poll_notice(now), None, "one is under way");
        all.answered(id, true, now);
        assert_eq!(all.poll_notice(now), None, "the next has to wait a little");
        assert_eq!(all.poll_timeout(), Some(now + PAUSE));
        assert!(all.poll_notice(now + PAUSE).is_some());
        all.answered(id, true, now + PAUSE);
        assert_eq!(all.poll_notice(now + secs(10)), None, "nothing is new");
    }

    #[test]
    fn it_ends_by_time_by_the_phone_and_by_a_refusal() {
        let (mut all, id, now) = open(Target::Own);
        all.poll_notice(now);
        all.answered(id, true, now);
        assert_eq!(all.poll_timeout(), Some(now + secs(600)));
        assert_eq!(all.poll_notice(now + secs(600)).unwrap().ended, Some(Ended::Timeout));
        all.answered(id, true, now + secs(600));
        assert!(all.is_empty());

        let (mut all, id, now) = open(Target::Own);
        all.poll_notice(now);
        all.refresh(id, 0, now);
        all.answered(id, true, now);
        assert_eq!(all.poll_notice(now + PAUSE).unwrap().ended, Some(Ended::Timeout), "the end is told too");
        all.answered(id, true, now + PAUSE);
        assert!(all.is_empty());

        let (mut all, id, now) = open(Target::Own);
        all.poll_notice(now);
        all.answered(id, false, now);
        assert!(all.is_empty());
    }

    #[test]
    fn a_long_list_is_told_in_parts() {
        let (mut all, id, now) = open(Target::List);
        assert!(all.poll_notice(now).unwrap().is_full);
        let users: Vec<String> = (0..PER_NOTICE_MAX + 5).map(|number| format!("u{number:03}@example")).collect();
        all.postpone(id, users.iter().cloned());
        all.answered(id, true, now);
        let second = all.poll_notice(now + secs(2)).unwrap();
        assert_eq!((second.is_full, second.whom.len()), (false, PER_NOTICE_MAX));
        all.answered(id, true, now + secs(2));
        assert_eq!(all.poll_notice(now + secs(4)).unwrap().whom.len(), 5);
        all.answered(id, true, now + secs(4));
        (0..LIST_MAX + 1).for_each(|number| all.changed(&format!("x{number}@example")));
        assert!(all.poll_notice(now + secs(6)).unwrap().is_full, "too many to name");
    }

    #[test]
    fn there_are_bounds() {
        let (mut all, now) = (Subscriptions::default(), Instant::now());
        for _ in 0..SUBSCRIPTIONS_MAX {
            assert!(all.open(Target::Own, 0, 60, now).is_ok());
        }
        assert_eq!(all.open(Target::Own, 0, 60, now), Err(SubscribeError::TooMany));
        assert_eq!(
            (duration(Some(59)), duration(Some(0)), duration(Some(9_999))),
            (Err(SubscribeError::TooBrief), Ok(0), Ok(3_600))
        );
    }
}
