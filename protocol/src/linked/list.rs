//! An account's contact list, and who can read what stands at the account's place.

use std::collections::BTreeSet;

use super::id::LinkedId;

/// Somebody in an account's contact list, as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListEntry {
    /// Who.
    pub id: LinkedId,
    /// The name that the account's owner has given them.
    pub name: Option<String>,
    /// This user sees what they show: a contact.
    pub is_contact: bool,
    /// They see what this user shows. Not every contact does, and not only contacts do.
    pub is_reader: bool,
}

/// Who can read what stands at an account's place, and who could since the present key began: whoever can't any more has it still.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Readers {
    now: BTreeSet<LinkedId>,
    since: BTreeSet<LinkedId>,
}

impl Readers {
    /// The list is this one. Readers beyond `readers_max` aren't followed.
    pub fn set(&mut self, list: &[ListEntry], readers_max: usize) {
        // In order, so that of too many the same ones are followed each time.
        let readers: BTreeSet<&LinkedId> = list.iter().filter(|entry| entry.is_reader).map(|entry| &entry.id).collect();
        self.now = readers.into_iter().take(readers_max).cloned().collect();
        self.since.extend(self.now.iter().cloned());
        self.bound(readers_max);
    }

    /// Everybody who could read it since the key began, and whether they still can; for keeping.
    pub fn marks(&self) -> impl Iterator<Item = (&LinkedId, bool)> {
        self.since.iter().map(|id| (id, self.now.contains(id)))
    }

    /// With what was kept.
    #[must_use]
    pub fn of_marks(marks: impl IntoIterator<Item = (LinkedId, bool)>) -> Self {
        let mut readers = Self::default();
        for (id, can_read) in marks {
            if can_read {
                readers.now.insert(id.clone());
            }
            readers.since.insert(id);
        }
        readers
    }

    /// One of the list has changed.
    pub fn change(&mut self, entry: &ListEntry, readers_max: usize) {
        if !entry.is_reader {
            self.now.remove(&entry.id);
        } else if self.now.len() < readers_max {
            self.now.insert(entry.id.clone());
            self.since.insert(entry.id.clone());
            self.bound(readers_max);
        }
    }

    /// Whether somebody has the key who can't read it any more.
    #[must_use]
    pub fn has_left(&self) -> bool {
        self.since.len() > self.now.len()
    }

    /// A new key has begun: it is for those who can read it now.
    pub fn begin(&mut self) {
        self.since = self.now.clone();
    }

    /// Of those who have left one is enough to be known.
    fn bound(&mut self, readers_max: usize) {
        if self.since.len() > readers_max {
            let gone = self.since.difference(&self.now).next().cloned();
            self.since = self.now.iter().cloned().chain(gone).collect();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, is_reader: bool) -> ListEntry {
        let id = format!("xmpp:{name}@there.example").parse().expect("an address");
        ListEntry { id, name: None, is_contact: false, is_reader }
    }

    #[test]
    fn whoever_can_not_read_any_more_is_noticed_until_a_new_key_begins() {
        let mut readers = Readers::default();
        readers.set(&[entry("alice", true), entry("bob", true), entry("carol", false)], 10);
        assert!(!readers.has_left());
        readers.change(&entry("carol", true), 10);
        assert!(!readers.has_left());
        readers.change(&entry("alice", false), 10);
        assert!(readers.has_left());
        readers.change(&entry("dave", true), 10);
        assert!(readers.has_left(), "a new one doesn't hide it");
        let kept = Readers::of_marks(readers.marks().map(|(id, can_read)| (id.clone(), can_read)));
        assert_eq!(kept, readers);
        readers.begin();
        assert!(!readers.has_left());
        // Seen by comparison after a time apart, as well.
        readers.set(&[entry("bob", true)], 10);
        assert!(readers.has_left());
        // And somebody who has come back has had nothing that they mayn't.
        readers.set(&[entry("bob", true), entry("carol", true), entry("dave", true)], 10);
        assert!(!readers.has_left());
    }

    #[test]
    fn it_is_bounded_and_forgets_nobody_who_left() {
        let mut readers = Readers::default();
        for round in 0..50 {
            readers.set(&[entry(&format!("a{round}"), true), entry("bob", true)], 4);
            assert!(readers.since.len() <= 5, "{round}");
            assert_eq!(readers.has_left(), round > 0);
        }
    }
}
