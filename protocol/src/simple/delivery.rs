//! Messages on their way to an account's phones: each phone gets each once, one at a time and in order; what no phone has taken is kept.
//!
//! The first phone that answers with a success has taken a message: it counts as read. Phones that were there then still get it; those that come later don't.
//! Never reads the clock.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

/// Messages held for phones; more wait in the account's database.
pub const HELD_MAX: usize = 64;
/// Messages remembered that all phones have refused.
const UNWANTED_MAX: usize = 4_096;
/// When a phone that didn't answer is tried again, doubled each time up to [`RETRY_MAX`].
pub const RETRY: Duration = Duration::from_secs(30);
/// See [`RETRY`].
pub const RETRY_MAX: Duration = Duration::from_secs(1_800);

#[derive(Debug)]
struct Held {
    id: String,
    is_taken: bool,
}

/// A message's place among those held: they go out in this order.
type Place = u64;

#[derive(Debug, Default)]
struct Phone {
    /// What it has had, or isn't to have, of what is held.
    done: BTreeSet<Place>,
    under_way: Option<String>,
    failures: u32,
    not_before: Option<Instant>,
}

impl Phone {
    /// The next one for it. What it is done with lies at the front, and is what no phone takes: little.
    fn next<'a>(&self, held: &'a BTreeMap<Place, Held>) -> Option<&'a Held> {
        held.iter().find(|(place, _)| !self.done.contains(place)).map(|(_, held)| held)
    }

    /// It has answered, or goes another way.
    fn is_back(&mut self, id: &str) {
        self.under_way.take_if(|under_way| under_way == id);
        (self.failures, self.not_before) = (0, None);
    }
}

/// What a phone's final answer means for a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It has it.
    Taken,
    /// It will never take this one.
    Refused,
    /// It may take it another time.
    Failed,
}

/// By the status (RFC 3428 section 7, RFC 3261 section 21). What the message itself is refused for won't be different next time.
#[must_use]
pub const fn fate_of(status: u16) -> Fate {
    match status {
        200..=299 => Fate::Taken,
        400 | 405 | 413 | 415 | 420 | 488 | 493 | 501 | 513 | 606 => Fate::Refused,
        _ => Fate::Failed,
    }
}

/// All messages of an account that phones are to get. Messages and phones are named by whoever uses it.
#[derive(Debug, Default)]
pub struct Delivery {
    held: BTreeMap<Place, Held>,
    places: HashMap<String, Place>,
    next: Place,
    phones: BTreeMap<String, Phone>,
    /// What all phones have refused and was let go of to make room: not held again while there are only these phones.
    unwanted: BTreeSet<String>,
    has_new_phone: bool,
}

impl Delivery {
    /// A message has come. False if it is held already, all phones have refused it, or there is no room.
    pub fn hold(&mut self, id: &str) -> bool {
        let is_known = self.places.contains_key(id) || self.unwanted.contains(id);
        let has_room = self.held.len() < HELD_MAX && !is_known;
        if has_room {
            self.places.insert(id.to_owned(), self.next);
            self.held.insert(self.next, Held { id: id.to_owned(), is_taken: false });
            self.next += 1;
        }
        has_room
    }

    /// Which phones there are. One that is new gets what nobody has taken; one in `fresh` has registered again, and is tried at once.
    pub fn set_phones(&mut self, phones: &BTreeSet<String>, fresh: &BTreeSet<String>) {
        self.phones.retain(|phone, _| phones.contains(phone));
        let is_new = |name: &String| !self.phones.contains_key(name);
        if !self.unwanted.is_empty() && phones.iter().any(is_new) {
            self.unwanted.clear();
            self.has_new_phone = true;
        }
        for name in phones {
            let taken = self.held.iter().filter(|(_, held)| held.is_taken).map(|(place, _)| *place);
            let phone = self.phones.entry(name.clone()).or_insert_with(|| Phone { done: taken.collect(), ..Phone::default() });
            if fresh.contains(name) {
                (phone.failures, phone.not_before) = (0, None);
            }
        }
        self.tidy();
    }

    /// The next message for a phone; it counts as sent.
    pub fn poll_send(&mut self, now: Instant) -> Option<(String, String)> {
        let Self { held, phones, .. } = self;
        phones.iter_mut().find_map(|(name, phone)| {
            if phone.under_way.is_some() || phone.not_before.is_some_and(|at| at > now) {
                return None;
            }
            let next = phone.next(held)?.id.clone();
            phone.under_way = Some(next.clone());
            Some((name.clone(), next))
        })
    }

    /// A phone has taken what was sent to it. True if it is the first that has taken this message.
    pub fn taken(&mut self, phone: &str, id: &str) -> bool {
        self.is_done_with(phone, id);
        let Some(place) = self.places.get(id).copied() else { return false };
        let is_first = self.held.get_mut(&place).is_some_and(|held| !std::mem::replace(&mut held.is_taken, true));
        self.drop_done(place);
        is_first
    }

    /// A phone hasn't taken it. It is tried again later, unless another phone has it.
    pub fn failed(&mut self, phone: &str, id: &str, now: Instant) {
        let place = self.places.get(id).copied();
        let is_taken = place.and_then(|place| self.held.get(&place)).is_none_or(|held| held.is_taken);
        if let Some(phone) = self.phones.get_mut(phone) {
            phone.under_way.take_if(|under_way| under_way == id);
            phone.done.extend(place.filter(|_| is_taken));
            phone.not_before = Some(now + (RETRY * 2_u32.pow(phone.failures.min(8))).min(RETRY_MAX));
            phone.failures = phone.failures.saturating_add(1);
        }
        self.tidy();
    }

    /// A phone will never take it: it is too long for it, or of no kind that it knows. The next one has its turn; this one stays for other phones, and unread.
    pub fn refused(&mut self, phone: &str, id: &str) {
        self.is_done_with(phone, id);
        self.tidy();
    }

    /// Lets go of what all phones have refused, if nothing else has room: it stays unread.
    pub fn make_room(&mut self) {
        let Self { held, phones, unwanted, .. } = self;
        if held.len() < HELD_MAX || phones.is_empty() {
            return;
        }
        held.retain(|place, held| {
            let is_refused = phones.values().all(|phone| phone.done.contains(place));
            if is_refused {
                if unwanted.len() >= UNWANTED_MAX {
                    unwanted.clear();
                }
                unwanted.insert(held.id.clone());
            }
            !is_refused
        });
        self.tidy();
    }

    /// True, once, if a phone has come that may take what was let go of.
    pub fn take_new_phone(&mut self) -> bool {
        std::mem::take(&mut self.has_new_phone)
    }

    /// What is under way to a phone goes another way from now on: it is to be sent again, at once.
    pub fn start_over(&mut self, phone: &str) {
        if let Some(phone) = self.phones.get_mut(phone) {
            (phone.under_way, phone.failures, phone.not_before) = (None, 0, None);
        }
    }

    /// It isn't to be sent any more: it was read elsewhere.
    pub fn forget(&mut self, is_over: impl Fn(&str) -> bool) {
        self.held.retain(|_, held| !is_over(&held.id));
        self.tidy();
    }

    fn is_done_with(&mut self, phone: &str, id: &str) {
        if let Some(phone) = self.phones.get_mut(phone) {
            phone.is_back(id);
            phone.done.extend(self.places.get(id));
        }
    }

    /// Drops a message if a phone has it, and every phone is done with it.
    fn drop_done(&mut self, place: Place) {
        let Self { held, phones, places, .. } = self;
        let is_over = |held: &Held| held.is_taken && phones.values().all(|phone| phone.done.contains(&place));
        if let Some(over) = held.get(&place).filter(|held| is_over(held)) {
            places.remove(&over.id);
            held.remove(&place);
            for phone in phones.values_mut() {
                phone.done.remove(&place);
            }
        }
    }

    /// Drops whatever every phone is done with.
    fn tidy(&mut self) {
        let Self { held, phones, places, .. } = self;
        held.retain(|place, held| !held.is_taken || !phones.values().all(|phone| phone.done.contains(place)));
        places.retain(|_, place| held.contains_key(place));
        for phone in phones.values_mut() {
            phone.done.retain(|place| held.contains_key(place));
        }
    }

    /// Whether it is held.
    #[must_use]
    pub fn holds(&self, id: &str) -> bool {
        self.places.contains_key(id)
    }

    /// When a phone is tried again.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let waits = |phone: &&Phone| phone.not_before.is_some() && phone.under_way.is_none() && phone.next(&self.held).is_some();
        self.phones.values().filter(waits).filter_map(|phone| phone.not_before).min()
    }

    /// Whether some phone has, or is to get, something that is held.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.phones.values().any(|phone| phone.under_way.is_some() || phone.next(&self.held).is_some())
    }

    /// How many are held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// True if none are.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn pair(phone: &str, id: &str) -> Option<(String, String)> {
        Some((phone.to_owned(), id.to_owned()))
    }

    #[test]
    fn a_message_waits_for_a_phone_and_each_phone_has_it_once() {
        let (mut all, now) = (Delivery::default(), Instant::now());
        assert!(all.hold("1") && all.hold("2") && !all.hold("1"));
        assert_eq!(all.poll_send(now), None);
        all.set_phones(&names(&["a", "b"]), &names(&[]));
        assert_eq!(all.poll_send(now), pair("a", "1"));
        assert_eq!(all.poll_send(now), pair("b", "1"));
        assert_eq!(all.poll_send(now), None, "one at a time");
        assert!(all.taken("a", "1"));
        assert!(!all.taken("b", "1"), "the second to take it");
        assert_eq!(all.len(), 1);
        assert_eq!(all.poll_send(now), pair("a", "2"));
        assert!(all.taken("a", "2"));
        all.set_phones(&names(&["a", "b", "c"]), &names(&["c"]));
        assert_eq!(all.poll_send(now), pair("b", "2"));
        assert_eq!(all.poll_send(now), None, "what was taken before a phone came isn't for it");
        all.taken("b", "2");
        assert!(all.is_empty());
    }

    #[test]
    fn who_doesnt_answer_is_tried_again_and_at_once_when_registered_again() {
        let (mut all, now) = (Delivery::default(), Instant::now());
        all.hold("1");
        all.set_phones(&names(&["a"]), &names(&[]));
        assert_eq!(all.poll_send(now), pair("a", "1"));
        all.failed("a", "1", now);
        assert_eq!((all.poll_send(now), all.poll_timeout()), (None, Some(now + RETRY)));
        assert_eq!(all.poll_send(now + RETRY), pair("a", "1"));
        all.failed("a", "1", now + RETRY);
        assert_eq!(all.poll_timeout(), Some(now + RETRY * 3));
        all.set_phones(&names(&["a"]), &names(&["a"]));
        assert_eq!(all.poll_send(now + RETRY), pair("a", "1"));
        all.start_over("a");
        assert_eq!(all.poll_send(now + RETRY), pair("a", "1"), "another way");
        all.set_phones(&names(&[]), &names(&[]));
        assert_eq!(all.len(), 1, "kept without phones");
        all.forget(|id| id == "1");
        assert!(all.is_empty());
    }

    #[test]
    fn what_a_phone_never_takes_lets_the_next_one_pass() {
        assert_eq!([202, 415, 486, 600].map(fate_of), [Fate::Taken, Fate::Refused, Fate::Failed, Fate::Failed]);
        let (mut all, now) = (Delivery::default(), Instant::now());
        assert!(all.hold("long") && all.hold("short"));
        all.set_phones(&names(&["a"]), &names(&[]));
        assert_eq!(all.poll_send(now), pair("a", "long"));
        all.refused("a", "long");
        assert_eq!(all.poll_send(now), pair("a", "short"));
        assert!(all.taken("a", "short"));
        assert!(all.holds("long"), "another phone may take it");
        all.set_phones(&names(&["a", "b"]), &names(&[]));
        assert_eq!(all.poll_send(now), pair("b", "long"));
    }

    #[test]
    fn what_all_phones_refuse_doesnt_stand_in_the_way() {
        let (mut all, now) = (Delivery::default(), Instant::now());
        all.set_phones(&names(&["a"]), &names(&[]));
        for number in 0..HELD_MAX {
            assert!(all.hold(&number.to_string()));
            let (phone, id) = all.poll_send(now).expect("its turn");
            all.refused(&phone, &id);
        }
        assert!(!all.hold("short"), "no room");
        all.make_room();
        assert!(all.hold("short"));
        assert_eq!(all.poll_send(now), pair("a", "short"));
        assert!(!all.hold("0"), "it was refused");
        assert!(!all.take_new_phone());
        all.set_phones(&names(&["a", "b"]), &names(&[]));
        assert!(all.take_new_phone() && !all.take_new_phone());
        assert!(all.hold("0"), "another phone may take it");
    }

    #[test]
    fn who_fails_what_another_has_isnt_tried_again() {
        let (mut all, now) = (Delivery::default(), Instant::now());
        all.hold("1");
        all.set_phones(&names(&["a", "b"]), &names(&[]));
        all.poll_send(now);
        all.poll_send(now);
        assert!(all.taken("a", "1"));
        all.failed("b", "1", now);
        assert!(all.is_empty());
        for number in 0..HELD_MAX {
            assert!(all.hold(&number.to_string()));
        }
        assert!(!all.hold("more"));
    }
}
