//! Presence on an account's connection: what this client says of itself there, and whose associations come with that of others.
//!
//! Whoever sends presence is shown as there, away and not for messages; servers give others' presence to nobody else. A contact's own client says its association
//! as long as it is there, so nothing needs to be looked at. Only what has changed is told on, and of each contact a few changes an hour: presence is
//! sent as often as somebody likes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use halloo_protocol::key::hash;
use halloo_protocol::linked::{LinkedId, ListEntry, Shown};
use halloo_protocol::rate::{Rate, RateLimiter};
use halloo_protocol::wire;
use halloo_protocol::xmpp::stanza::{self, Presence};

use super::super::News;

/// Changes of one contact's presence that are told on, an hour and at once: of each time that their client comes and goes.
const CHANGES: Rate = Rate { per_hour: 30, burst: 6 };

/// Contacts whose changes are counted.
const CONTACTS_MAX: usize = 8_192;

/// Where somebody who sees the account's presence isn't to learn who this user is, the others are told one by one; so many at most, else nobody by presence.
const DIRECTED_MAX: usize = 256;

/// What the server was told to tell, and to whom it isn't to be told.
#[derive(Debug, PartialEq, Eq)]
struct Announced {
    shown: Shown,
    hidden: BTreeSet<LinkedId>,
}

/// What was said and heard on one connection.
#[derive(Debug)]
pub(super) struct Presences {
    contacts: BTreeSet<LinkedId>,
    readers: BTreeSet<LinkedId>,
    announced: Option<Announced>,
    /// By whom an association is shown at present: by which client, and the hash of what is shown.
    heard: BTreeMap<LinkedId, (String, [u8; 32])>,
    /// What came too often to be told on: the last that each contact's client has said, told when its time comes.
    late: BTreeMap<LinkedId, (String, Box<Shown>)>,
    changes: RateLimiter<LinkedId>,
}

impl Presences {
    pub(super) fn new() -> Self {
        let (contacts, readers, heard, late) = (BTreeSet::new(), BTreeSet::new(), BTreeMap::new(), BTreeMap::new());
        Self { contacts, readers, announced: None, heard, late, changes: RateLimiter::new(CONTACTS_MAX) }
    }

    /// A new connection: nothing is said on it yet. Rates go on.
    pub(super) fn begin(&mut self, list: &[ListEntry]) {
        (self.announced, self.heard, self.late) = (None, BTreeMap::new(), BTreeMap::new());
        self.contacts.clear();
        self.readers.clear();
        list.iter().for_each(|entry| self.change(entry));
    }

    /// The contact list has changed.
    pub(super) fn change(&mut self, entry: &ListEntry) {
        let set = |all: &mut BTreeSet<LinkedId>, is_in: bool| {
            if is_in {
                all.insert(entry.id.clone())
            } else {
                all.remove(&entry.id)
            };
        };
        set(&mut self.contacts, entry.is_contact);
        set(&mut self.readers, entry.is_reader);
        if !entry.is_contact {
            self.heard.remove(&entry.id);
            self.late.remove(&entry.id);
        }
    }

    /// What is said for everybody who sees the account's presence, but for whom it is denied, to know the association. Nothing if it was said before.
    pub(super) fn announce(&mut self, shown: &Shown, denied: &[LinkedId]) -> Vec<String> {
        let hidden: BTreeSet<LinkedId> = denied.iter().filter(|id| self.readers.contains(*id)).cloned().collect();
        let announced = Announced { shown: shown.clone(), hidden };
        if self.announced.as_ref() == Some(&announced) {
            return Vec::new();
        }
        let told = if announced.hidden.is_empty() {
            vec![stanza::presence(None, Some(shown))]
        } else {
            let others: Vec<&LinkedId> = self.readers.difference(&announced.hidden).collect();
            let others = Some(others).filter(|others| others.len() <= DIRECTED_MAX).unwrap_or_default();
            let others = others.iter().map(|reader| stanza::presence(Some(reader.address()), Some(shown)));
            std::iter::once(stanza::presence(None, None)).chain(others).collect()
        };
        self.announced = Some(announced);
        told
    }

    /// Somebody's client has said something: what is told on, and what is answered.
    pub(super) fn hear(&mut self, presence: Presence, now: Instant) -> (Option<News>, Option<String>) {
        let Presence { of: at, client, is_available, shown } = presence;
        let is_contact = self.contacts.contains(&at);
        let is_its = self.heard.get(&at).is_some_and(|(known, _)| *known == client);
        let Some(shown) = shown.filter(|_| is_contact) else {
            let answer = is_available.then(|| self.answer(&at, &client, now)).flatten();
            if self.late.get(&at).is_some_and(|(late, _)| *late == client) {
                self.late.remove(&at);
            }
            // Other clients of theirs know nothing of it; the one that has shown it has ended, or shows it no more.
            return (is_its.then(|| self.heard.remove(&at)).map(|_| News::NotPresent { at }), answer);
        };
        self.late.remove(&at);
        let digest = digest(&shown);
        let is_same = self.heard.get(&at).is_some_and(|(_, known)| *known == digest);
        if is_same {
            return (None, None);
        }
        if self.changes.take(&at, CHANGES, now).is_err() {
            self.late.insert(at, (client, shown));
            return (None, None);
        }
        let answer = self.answer(&at, &client, now);
        self.heard.insert(at.clone(), (client, digest));
        (Some(News::Present { at, shown }), answer)
    }

    /// What came too often and can be told on now.
    pub(super) fn told_late(&mut self, now: Instant) -> Vec<News> {
        let Self { late, heard, changes, .. } = self;
        let may: Vec<LinkedId> = late.keys().filter(|at| changes.take(at, CHANGES, now).is_ok()).cloned().collect();
        let told = may.into_iter().filter_map(|at| {
            let (client, shown) = late.remove(&at)?;
            heard.insert(at.clone(), (client, digest(&shown)));
            Some(News::Present { at, shown })
        });
        told.collect()
    }

    /// Whoever comes where others were told one by one is told as well: their server has nothing of it.
    fn answer(&mut self, to: &LinkedId, client: &str, now: Instant) -> Option<String> {
        let announced = self.announced.as_ref().filter(|announced| !announced.hidden.is_empty())?;
        let is_told = self.readers.contains(to) && !announced.hidden.contains(to);
        if !is_told || self.readers.len() > DIRECTED_MAX || self.changes.take(to, CHANGES, now).is_err() {
            return None;
        }
        let to = if client.is_empty() { to.address().to_owned() } else { format!("{}/{client}", to.address()) };
        Some(stanza::presence(Some(&to), Some(&announced.shown)))
    }
}

fn digest(shown: &Shown) -> [u8; 32] {
    hash("halloo presence heard", &[&wire::encode(&shown.association), shown.leave.as_deref().unwrap_or_default()])
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use halloo_protocol::identity::UserId;
    use halloo_protocol::key::{IdentityKey, SecretKey};
    use halloo_protocol::linked::{Association, AssociationParams, ProofMethod};
    use halloo_protocol::time::UnixTime;

    use super::*;

    fn id(name: &str) -> LinkedId {
        format!("xmpp:{name}@there.example").parse().expect("an address")
    }

    fn association(name: &str, seed: u8) -> Shown {
        let key = SecretKey::from_bytes([seed; 32]);
        let user = UserId::Key(IdentityKey(key.public()));
        let now = UnixTime(1_800_000_000);
        let params = AssociationParams { user, linked: id(name), method: ProofMethod::OWN_ITEM, last_serial: 0, now };
        Shown { association: Association::sign(params, &key), leave: None }
    }

    fn entry(name: &str, is_contact: bool, is_reader: bool) -> ListEntry {
        ListEntry { id: id(name), name: None, is_contact, is_reader }
    }

    fn presences() -> Presences {
        let mut presences = Presences::new();
        presences.begin(&[entry("bob", true, true), entry("carol", true, true), entry("dan", false, true)]);
        presences
    }

    fn says(name: &str, client: &str, shown: Option<Shown>) -> Presence {
        Presence { of: id(name), client: client.into(), is_available: true, shown: shown.map(Box::new) }
    }

    fn gone(name: &str, client: &str) -> Presence {
        Presence { is_available: false, ..says(name, client, None) }
    }

    #[test]
    fn a_change_is_told_once_and_other_clients_say_nothing_of_it() {
        let (mut presences, now) = (presences(), Instant::now());
        let said = association("bob", 1);
        let told = |told: (Option<News>, Option<String>)| match told.0 {
            Some(News::Present { at, .. }) => format!("present {at}"),
            Some(News::NotPresent { at }) => format!("gone {at}"),
            None => String::new(),
            other => panic!("{other:?}"),
        };
        assert_eq!(told(presences.hear(says("bob", "h", Some(said.clone())), now)), "present xmpp:bob@there.example");
        assert_eq!(told(presences.hear(says("bob", "h", Some(said.clone())), now)), "", "as before");
        let with_leave = Shown { leave: Some(vec![1; 600]), ..said.clone() };
        assert_eq!(
            told(presences.hear(says("bob", "h", Some(with_leave)), now)),
            "present xmpp:bob@there.example",
            "another key"
        );
        assert_eq!(told(presences.hear(says("bob", "phone", None), now)), "", "another client has none");
        assert_eq!(told(presences.hear(gone("bob", "phone"), now)), "");
        assert_eq!(told(presences.hear(gone("bob", "h"), now)), "gone xmpp:bob@there.example");
        assert_eq!(told(presences.hear(gone("bob", "h"), now)), "", "once");
        // Whoever isn't a contact there says nothing that counts, and takes no memory.
        for stranger in ["dan", "mallory"] {
            assert_eq!(told(presences.hear(says(stranger, "h", Some(association(stranger, 2))), now)), "", "{stranger}");
        }
        assert!(presences.heard.is_empty());
        // Taken out of the list, they are nobody.
        presences.hear(says("bob", "h", Some(said.clone())), now);
        presences.change(&entry("bob", false, true));
        assert_eq!(told(presences.hear(gone("bob", "h"), now)), "");
    }

    #[test]
    fn who_changes_all_the_time_is_told_a_few_times() {
        let (mut presences, now) = (presences(), Instant::now());
        let changes = (0..200).filter(|turn| presences.hear(says("bob", "h", Some(association("bob", *turn))), now).0.is_some());
        assert_eq!(changes.count(), 6);
        assert!(presences.hear(says("carol", "h", Some(association("carol", 1))), now).0.is_some(), "others aren't kept out");
        // The last of them is told when its time comes, once.
        assert!(presences.told_late(now).is_empty());
        let later = now + Duration::from_secs(3_600);
        let told = presences.told_late(later);
        let last = association("bob", 199);
        assert!(matches!(told.as_slice(), [News::Present { at, shown }] if *at == id("bob") && **shown == last), "{told:?}");
        assert!(presences.told_late(later).is_empty() && presences.late.is_empty());
        assert!(presences.hear(says("bob", "h", Some(last)), later).0.is_none(), "as before");
        // Not of who has gone meanwhile.
        (0..200).for_each(|turn| drop(presences.hear(says("bob", "h", Some(association("bob", turn))), later)));
        assert!(!presences.late.is_empty());
        presences.hear(gone("bob", "h"), later);
        assert!(presences.late.is_empty());
    }

    #[test]
    fn who_is_denied_sees_no_association_and_comes_to_see_none() {
        let (mut presences, now) = (presences(), Instant::now());
        let own = association("alice", 9);
        let has_it = |text: &String| text.contains("<association");
        let to_all = presences.announce(&own, &[id("mallory")]);
        assert!(
            to_all.len() == 1 && has_it(&to_all[0]) && !to_all[0].contains(" to="),
            "who can't see it needn't be hidden from"
        );
        assert!(to_all[0].contains("<priority>-128</priority>"), "no message is for it");
        assert_eq!(presences.announce(&own, &[]), [""; 0], "said before");
        assert_eq!(presences.hear(says("carol", "phone", None), now).1, None, "her server tells her");

        let told = presences.announce(&own, &[id("bob")]);
        assert!(!has_it(&told[0]) && !told[0].contains(" to="), "everybody hears that it is there: {told:?}");
        let mut to: Vec<&str> = told[1..].iter().filter_map(|text| text.split('\'').nth(1)).collect();
        to.sort_unstable();
        assert_eq!(to, ["carol@there.example", "dan@there.example"]);
        assert!(told[1..].iter().all(has_it));
        // Who comes later is told, but for whom it is denied.
        let answer = presences.hear(says("carol", "phone", None), now).1.expect("she is told");
        assert!(has_it(&answer) && answer.contains("to='carol@there.example/phone'"), "{answer}");
        assert_eq!(presences.hear(says("bob", "phone", None), now).1, None);
        assert_eq!(presences.hear(says("mallory", "phone", None), now).1, None);
        let answers = (0..100).filter(|_| presences.hear(says("carol", "phone", None), now).1.is_some()).count();
        assert!(answers < 6, "{answers}: as often as she likes");
        // With more than can be told one by one nobody is.
        (0..300).for_each(|number| presences.change(&entry(&format!("r{number}"), false, true)));
        let other = association("alice", 8);
        assert_eq!(presences.announce(&other, &[id("bob")]).iter().filter(|text| has_it(text)).count(), 0);
    }
}
