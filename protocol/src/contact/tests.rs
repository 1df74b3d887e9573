//! People and what they say to each other, in every order.

mod convergence;

use proptest::prelude::*;

use super::privacy::Relation;
use super::*;
use crate::call::Reason;
use crate::capability::Service;
use crate::identity::{Tombstone, UserId, VerifiedChain};
use crate::key::{DeviceKey, IdentityKey, SecretKey};
use crate::profile::{Avatar, Profile};
use crate::test_identity::{Authority, NOW, Person};
use crate::time::UnixTime;
use crate::wire::{Body, Signed};

/// One device of one person.
struct Party {
    person: Person,
    chain: VerifiedChain,
    roster: Roster,
    now: UnixTime,
    seed: u8,
    /// How often it has acted, so that it never draws the same secret twice.
    acts: u64,
    /// Signals on their way, with whom they are for.
    sent: Vec<(UserId, ContactSignal)>,
    events: Vec<RosterEvent>,
    own_changes: usize,
    /// Changes that own other devices want to know.
    changes: usize,
    /// Tombstones of contacts' devices that were taken.
    removed: Vec<Signed<Tombstone>>,
}

impl Party {
    fn new(name: &str, seed: u8) -> Self {
        Self::of(Authority::new(1).person(name, seed), seed)
    }

    fn of(person: Person, seed: u8) -> Self {
        let chain = person.chain.verify(NOW, &Authority::new(1).trust()).expect("a good chain");
        let roster = Roster::new(OwnKeys::new(Secret32::from_bytes([seed; 32])), []);
        Self {
            person,
            chain,
            roster,
            now: NOW,
            seed,
            acts: 0,
            sent: Vec::new(),
            events: Vec::new(),
            own_changes: 0,
            changes: 0,
            removed: Vec::new(),
        }
    }

    fn user(&self) -> UserId {
        self.chain.user.id.clone()
    }

    fn identity(&self) -> IdentityKey {
        self.chain.user.identity
    }

    /// Gives the roster one input and carries out what it wants.
    fn act<T>(&mut self, input: impl FnOnce(&mut Roster, &mut Signer<'_>) -> T) -> T {
        self.acts += 1;
        let mut seed = [self.seed; 32];
        seed[..8].copy_from_slice(&self.acts.to_be_bytes());
        let certificate = &self.person.chain.device;
        let mut signer = Signer::new(self.chain.user.identity, &self.person.device_key, certificate, self.now, seed);
        let result = input(&mut self.roster, &mut signer);
        while let Some(action) = self.roster.poll_action() {
            match action {
                RosterAction::Send { to, signal } => {
                    assert!(signal.check().is_ok(), "{signal:?}");
                    self.sent.push((to, *signal));
                }
                RosterAction::Tell(event) => self.events.push(event),
                RosterAction::OwnChanged => self.own_changes += 1,
                RosterAction::Removed { tombstones, .. } => self.removed.extend(tombstones),
                RosterAction::Persist { .. } => self.changes += 1,
                RosterAction::PersistTold { .. } | RosterAction::Forget { .. } | RosterAction::KeepAvatar { .. } => {}
            }
        }
        result
    }

    fn ask(&mut self, other: &Self) -> Result<Standing, RosterError> {
        let (user, identity) = (other.user(), other.identity());
        let asking = Asking { text: "It's me".into(), display_name: "Somebody".into() };
        self.act(|roster, signer| roster.ask(&user, identity, asking, signer))
    }

    fn accept(&mut self, other: &Self) -> Result<Standing, RosterError> {
        self.act(|roster, signer| roster.accept(&other.user(), signer))
    }

    fn decline(&mut self, other: &Self) -> Result<Standing, RosterError> {
        self.act(|roster, signer| roster.decline(&other.user(), signer))
    }

    fn remove(&mut self, other: &Self) -> Result<Standing, RosterError> {
        self.act(|roster, signer| roster.remove(&other.user(), signer))
    }

    fn block(&mut self, other: &Self) -> Result<Standing, RosterError> {
        self.act(|roster, signer| roster.block(&other.user(), Some(other.identity()), signer))
    }

    fn set_mood(&mut self, mood: &str) {
        let profile = profile(mood);
        self.act(|roster, signer| roster.set_profile(profile, None, signer)).expect("in range");
    }

    fn receive(&mut self, from: &Self, signal: ContactSignal) -> Result<(), Reason> {
        self.act(|roster, signer| roster.receive(&from.chain, &from.person.chain.device, signal, signer))
    }

    fn standing(&self, other: &Self) -> Standing {
        self.roster.standing(&other.user())
    }

    fn relation(&self, other: &Self) -> Relation {
        self.roster.relation(&other.user(), &other.identity())
    }

    /// Whether this one holds the other's present key.
    fn holds_key_of(&self, other: &Self) -> bool {
        let key = &other.roster.own().presence.key();
        self.roster.entry(&other.user()).is_some_and(|entry| entry.presence_keys(None).any(|known| known == key))
    }
}

fn profile(mood: &str) -> Profile {
    Profile {
        sequence: 0,
        display_name: "Alice".into(),
        mood: mood.into(),
        languages: vec!["de".into()],
        avatar: None,
        extensions: crate::wire::Extensions::none(),
    }
}

/// Delivers what waits between two people until nothing does.
fn settle(one: &mut Party, other: &mut Party) {
    while !one.sent.is_empty() || !other.sent.is_empty() {
        let (of_one, of_other) = (std::mem::take(&mut one.sent), std::mem::take(&mut other.sent));
        let (to_one, to_other) = (one.user(), other.user());
        for (_, signal) in of_one.into_iter().filter(|(to, _)| *to == to_other) {
            other.receive(one, signal).expect("taken");
        }
        for (_, signal) in of_other.into_iter().filter(|(to, _)| *to == to_one) {
            one.receive(other, signal).expect("taken");
        }
    }
}

fn couple() -> (Party, Party) {
    (Party::new("alice", 10), Party::new("bob", 20))
}

fn contacts() -> (Party, Party) {
    let (mut alice, mut bob) = couple();
    alice.ask(&bob).expect("asks");
    settle(&mut alice, &mut bob);
    bob.accept(&alice).expect("accepts");
    settle(&mut alice, &mut bob);
    (alice, bob)
}

#[test]
fn a_request_accepted_makes_contacts_of_both() {
    let (mut alice, mut bob) = couple();
    alice.set_mood("curious");
    bob.set_mood("open");
    assert_eq!(alice.ask(&bob), Ok(Standing::Asked));
    settle(&mut alice, &mut bob);
    assert_eq!(bob.standing(&alice), Standing::Requested);
    let request = RosterEvent::Request { user: alice.user(), display_name: "Somebody".into(), text: "It's me".into() };
    assert_eq!(bob.events, [request]);
    assert_eq!(bob.relation(&alice), Relation::Stranger, "asking gives no right");
    assert!(!bob.holds_key_of(&alice), "nor does it give anything away");
    assert_eq!(bob.accept(&alice), Ok(Standing::Contact));
    settle(&mut alice, &mut bob);
    for (one, other, mood) in [(&alice, &bob, "open"), (&bob, &alice, "curious")] {
        assert_eq!((one.standing(other), one.relation(other)), (Standing::Contact, Relation::Contact));
        assert!(one.holds_key_of(other));
        let entry = one.roster.entry(&other.user()).expect("known");
        assert_eq!(entry.profile().map(|profile| profile.mood.as_str()), Some(mood));
        let capability = entry.capability(&other.chain.device, Service::Push).expect("given");
        let pairwise = entry.own_pairwise().expect("made").public();
        assert_eq!(capability.unverified().holder, crate::capability::Holder::Key(pairwise));
        let (mine, theirs) = (entry.own_statement().expect("said"), entry.their_statement().expect("said"));
        assert!(is_mutual(mine.said(), theirs.said()), "by signature of both");
    }
    assert!(alice.events.contains(&RosterEvent::Accepted { user: bob.user() }));
}

#[test]
fn requests_that_cross_make_contacts() {
    let (mut alice, mut bob) = couple();
    alice.ask(&bob).expect("asks");
    bob.ask(&alice).expect("asks");
    settle(&mut alice, &mut bob);
    assert_eq!((alice.standing(&bob), bob.standing(&alice)), (Standing::Contact, Standing::Contact));
    assert!(alice.holds_key_of(&bob) && bob.holds_key_of(&alice));
}

#[test]
fn adding_somebody_who_has_asked_accepts() {
    let (mut alice, mut bob) = couple();
    alice.ask(&bob).expect("asks");
    settle(&mut alice, &mut bob);
    assert_eq!(bob.ask(&alice), Ok(Standing::Contact));
    settle(&mut alice, &mut bob);
    assert_eq!(alice.standing(&bob), Standing::Contact);
}

#[test]
fn who_was_declined_is_not_heard_for_a_time() {
    let (mut alice, mut bob) = couple();
    alice.ask(&bob).expect("asks");
    settle(&mut alice, &mut bob);
    bob.decline(&alice).expect("declines");
    settle(&mut alice, &mut bob);
    assert_eq!((alice.standing(&bob), bob.standing(&alice)), (Standing::Declined, Standing::Removed));
    assert_eq!(alice.events, [RosterEvent::Declined { user: bob.user() }]);
    bob.events.clear();
    alice.ask(&bob).expect("asks again");
    settle(&mut alice, &mut bob);
    assert_eq!((alice.standing(&bob), bob.standing(&alice)), (Standing::Asked, Standing::Removed));
    assert_eq!(bob.events, []);
    // Bob may change his mind, though.
    assert_eq!(bob.ask(&alice), Ok(Standing::Contact));
    settle(&mut alice, &mut bob);
    assert_eq!(alice.standing(&bob), Standing::Contact);
    // And once the time is over a request is shown again.
    bob.remove(&alice).expect("removes");
    settle(&mut alice, &mut bob);
    for party in [&mut alice, &mut bob] {
        party.now = NOW.plus_secs(QUIET_SECS + 1);
        party.events.clear();
    }
    alice.ask(&bob).expect("asks");
    settle(&mut alice, &mut bob);
    assert_eq!(bob.standing(&alice), Standing::Requested);
}

#[test]
fn who_is_removed_holds_nothing_that_opens() {
    let (mut alice, mut bob) = contacts();
    let mut carol = Party::new("carol", 30);
    carol.ask(&alice).expect("asks");
    settle(&mut carol, &mut alice);
    alice.accept(&carol).expect("accepts");
    settle(&mut carol, &mut alice);
    let old = alice.roster.own().presence.clone();
    alice.remove(&bob).expect("removes");
    let new = alice.roster.own().presence.clone();
    assert!(new.epoch() > old.epoch() && new.to_bytes() != old.to_bytes());
    assert!(alice.sent.iter().filter(|(to, _)| *to == bob.user()).all(|(_, signal)| matches!(signal, ContactSignal::Remove(_))));
    for (to, signal) in std::mem::take(&mut alice.sent) {
        let receiver = if to == bob.user() { &mut bob } else { &mut carol };
        receiver.receive(&alice, signal).expect("taken");
    }
    assert!(carol.holds_key_of(&alice) && !bob.holds_key_of(&alice));
    assert_eq!((bob.standing(&alice), bob.relation(&alice)), (Standing::Removed, Relation::Stranger));
    assert!(bob.events.contains(&RosterEvent::Removed { user: alice.user() }));
    assert!(bob.roster.own().presence.epoch() > 1, "and Bob's key is another too");
    let epoch = carol.roster.entry(&alice.user()).and_then(|entry| entry.capability(&alice.chain.device, Service::Push));
    assert_eq!(epoch.map(|capability| capability.unverified().epoch), Some(new.epoch()));
    // Neither side's former yes counts when the other asks anew.
    alice.ask(&bob).expect("asks");
    settle(&mut alice, &mut bob);
    assert_eq!((alice.standing(&bob), bob.standing(&alice)), (Standing::Asked, Standing::Requested));
    bob.accept(&alice).expect("accepts");
    settle(&mut alice, &mut bob);
    assert_eq!((alice.standing(&bob), bob.standing(&alice)), (Standing::Contact, Standing::Contact));
}

#[test]
fn whoever_asked_first_sees_a_removal_as_one() {
    let (mut alice, mut bob) = contacts();
    alice.events.clear();
    bob.remove(&alice).expect("removes");
    settle(&mut alice, &mut bob);
    assert_eq!((alice.standing(&bob), bob.standing(&alice)), (Standing::Removed, Standing::Removed));
    assert_eq!(alice.events, [RosterEvent::Removed { user: bob.user() }]);
    alice.ask(&bob).expect("asks");
    settle(&mut alice, &mut bob);
    bob.decline(&alice).expect("declines");
    alice.events.clear();
    settle(&mut alice, &mut bob);
    assert_eq!(alice.events, [RosterEvent::Declined { user: bob.user() }]);
}

#[test]
fn who_is_blocked_gets_the_answers_of_a_stranger() {
    let (mut alice, mut bob) = contacts();
    bob.block(&alice).expect("blocks");
    let told: Vec<_> = bob.sent.iter().map(|(_, signal)| signal.name()).collect();
    assert_eq!(told, ["remove"], "a block looks like a removal");
    settle(&mut alice, &mut bob);
    bob.events.clear();
    assert_eq!(alice.ask(&bob), Ok(Standing::Asked));
    for (_, signal) in std::mem::take(&mut alice.sent) {
        bob.receive(&alice, signal).expect("taken");
    }
    assert_eq!((bob.standing(&alice), bob.relation(&alice)), (Standing::Blocked, Relation::Blocked));
    assert_eq!((bob.events.len(), bob.sent.len()), (0, 0));
    assert_eq!(alice.standing(&bob), Standing::Asked, "as with anybody who hasn't answered yet");
    assert_eq!(bob.ask(&alice), Err(RosterError::Blocked));
    let user = alice.user();
    assert_eq!(bob.act(|roster, _| roster.unblock(&user)), Ok(Standing::Removed), "what was asked meanwhile isn't shown");
    alice.now = NOW.plus_secs(60);
    alice.remove(&bob).expect("withdraws");
    alice.ask(&bob).expect("asks");
    settle(&mut alice, &mut bob);
    assert_eq!(bob.standing(&alice), Standing::Requested);
    // Who is blocked under one name is under another as well.
    bob.block(&alice).expect("blocks");
    let nameless = UserId::Key(alice.identity());
    assert_eq!(bob.roster.relation(&nameless, &alice.identity()), Relation::Blocked);
}

#[test]
fn a_changed_key_is_shown_and_counts_for_nothing_until_it_is_accepted() {
    let (mut alice, bob) = contacts();
    let mut other = Party::new("bob", 40);
    assert_eq!(other.user(), bob.user());
    alice.events.clear();
    other.ask(&alice).expect("asks");
    for (_, signal) in std::mem::take(&mut other.sent) {
        alice.receive(&other, signal).expect("taken");
    }
    let changed = RosterEvent::IdentityChanged { user: bob.user(), old: bob.identity(), new: other.identity() };
    assert_eq!(alice.events, [changed]);
    assert_eq!(alice.standing(&other), Standing::Changed);
    assert_eq!((alice.relation(&other), alice.relation(&bob)), (Relation::Changed, Relation::Contact));
    let found = RosterError::KeyChanged { pinned: bob.identity(), found: other.identity() };
    assert_eq!(alice.ask(&other), Err(found));
    // Again is no news.
    let seen = Seen { identity: other.identity(), serial: other.chain.user.serial, is_successor: false };
    let user = bob.user();
    alice.act(|roster, signer| roster.see(&user, seen, signer));
    assert_eq!(alice.events.len(), 1);
    let epoch = alice.roster.own().presence.epoch();
    alice.act(|roster, signer| roster.accept_identity(&user, Asking::default(), signer)).expect("accepts");
    assert!(alice.roster.own().presence.epoch() > epoch, "whoever has the old key opens nothing");
    settle(&mut alice, &mut other);
    assert_eq!((alice.standing(&other), other.standing(&alice)), (Standing::Contact, Standing::Contact));
    assert_eq!(alice.relation(&bob), Relation::Changed, "the old key is nobody now");
}

#[test]
fn a_key_that_the_old_one_has_signed_over_is_followed() {
    let (mut alice, bob) = contacts();
    let heir = Party::new("bob", 40);
    alice.events.clear();
    let seen = Seen { identity: heir.identity(), serial: heir.chain.user.serial, is_successor: true };
    let user = bob.user();
    alice.act(|roster, signer| roster.see(&user, seen, signer));
    assert_eq!((alice.standing(&heir), alice.relation(&heir)), (Standing::Contact, Relation::Contact));
    assert_eq!(alice.events, []);
    assert!(
        alice.sent.iter().any(|(_, signal)| matches!(signal, ContactSignal::Accept(_))),
        "with a statement about the new key"
    );
    assert_eq!(alice.relation(&bob), Relation::Changed);
}

#[test]
fn strangers_wait_in_a_line_of_bounded_length() {
    let mut alice = Party::new("alice", 10);
    let authority = Authority::new(1);
    let crowd: Vec<Party> =
        (0..=REQUESTS_MAX).map(|number| Party::of(authority.person(&format!("user{number}"), 60 + number as u8), 7)).collect();
    let blocked = Party::new("blocked", 50);
    alice.block(&blocked).expect("blocks");
    let mut results = Vec::new();
    for mut stranger in crowd {
        stranger.ask(&alice).expect("asks");
        let (_, signal) = stranger.sent.remove(0);
        results.push(alice.receive(&stranger, signal));
    }
    assert_eq!(results.pop(), Some(Err(Reason::TOO_MANY)));
    assert!(results.iter().all(Result::is_ok));
    let mut blocked = blocked;
    blocked.ask(&alice).expect("asks");
    let (_, signal) = blocked.sent.remove(0);
    assert_eq!(alice.receive(&blocked, signal), Err(Reason::TOO_MANY), "no other answer than a stranger's");
}

#[test]
fn what_nobody_asked_for_is_passed_over() {
    let (mut alice, mut bob) = contacts();
    let mut carol = Party::new("carol", 30);
    carol.ask(&bob).expect("asks");
    settle(&mut carol, &mut bob);
    bob.accept(&carol).expect("accepts");
    let (_, accept) = bob.sent.remove(0);
    assert_eq!(alice.receive(&bob, accept.clone()), Err(Reason::INVALID), "a statement about somebody else");
    assert_eq!(alice.receive(&carol, accept), Ok(()), "of somebody unknown");
    assert_eq!(alice.roster.entries().count(), 1);
    // A statement that another device than the certified one has signed.
    let mut mallory = Party::new("mallory", 70);
    mallory.ask(&alice).expect("asks");
    let (_, ContactSignal::Request(mut request)) = mallory.sent.remove(0) else { panic!("a request") };
    let forged = ContactStatement { owner: mallory.identity(), ..request.statement.unverified().clone() };
    request.statement = Signed::sign(forged, &SecretKey::from_bytes([9; 32]));
    assert_eq!(alice.receive(&mallory, ContactSignal::Request(request)), Err(Reason::INVALID));
    assert_eq!(alice.roster.entries().count(), 1);
}

#[test]
fn a_profile_change_reaches_contacts_alone_and_the_picture_only_when_it_is_another() {
    let (mut alice, mut bob) = contacts();
    bob.events.clear();
    alice.set_mood("at sea");
    assert_eq!(alice.sent.len(), 1);
    settle(&mut alice, &mut bob);
    assert_eq!(bob.events, [RosterEvent::ProfileChanged { user: alice.user() }]);
    alice.set_mood("at sea");
    assert!(alice.sent.is_empty(), "the same again is no news");
    // Somebody else's signature under it isn't believed.
    let forged = Signed::sign(Profile { sequence: u64::MAX, ..profile("forged") }, &SecretKey::from_bytes([9; 32]));
    let card = crate::profile::ProfileCard { profile: forged, avatar: None };
    let update = ContactUpdate { keys: None, profile: Some(card), extensions: crate::wire::Extensions::none() };
    bob.receive(&alice, ContactSignal::Update(Box::new(update))).expect("passed over");
    let entry = bob.roster.entry(&alice.user()).expect("known");
    assert_eq!(entry.profile().map(|profile| profile.mood.as_str()), Some("at sea"));
    assert!(Avatar::received(vec![0; 10]).is_err());
}

#[test]
fn a_home_that_lost_its_contacts_gets_them_back_by_asking() {
    let (alice, mut bob) = contacts();
    let Party { person, .. } = alice;
    let mut again = Party::of(person, 11);
    (again.now, bob.now) = (NOW.plus_secs(3_600), NOW.plus_secs(3_600));
    again.ask(&bob).expect("asks");
    settle(&mut again, &mut bob);
    assert_eq!((again.standing(&bob), bob.standing(&again)), (Standing::Contact, Standing::Contact));
    assert!(again.holds_key_of(&bob) && bob.holds_key_of(&again));
}

#[test]
fn a_thousand_contacts_get_a_new_key_when_one_goes() {
    let mut alice = Party::new("alice", 10);
    let template = contacts().1;
    let mine = template.roster.entries().next().expect("one").clone();
    // Entries of a thousand people, made from one: what differs is the name.
    let stored = (0..1_000).map(|number| {
        let name = crate::identity::Username::new(&format!("user{number}")).expect("a good name");
        let UserId::Named { authority, .. } = template.user() else { panic!("a named user") };
        let mut entry = mine.clone();
        entry.user = UserId::Named { authority, name };
        Contact { entry, told: Told::default() }
    });
    alice.roster = Roster::new(OwnKeys::new(Secret32::from_bytes([1; 32])), stored);
    assert_eq!(alice.roster.contact_count(), 1_000);
    let gone = alice.roster.entries().next().expect("one").user.clone();
    alice.act(|roster, signer| roster.remove(&gone, signer)).expect("removes");
    let told = alice.sent.iter().filter(|(to, signal)| *to != gone && matches!(signal, ContactSignal::Update(_))).count();
    assert_eq!(told, 999);
}

#[test]
fn a_removed_device_is_told_with_new_keys_until_it_was_heard() {
    let (mut alice, mut bob) = contacts();
    let identity = SecretKey::from_bytes([10; 32]);
    assert_eq!(IdentityKey(identity.public()), alice.identity());
    let device = DeviceKey(SecretKey::from_bytes([99; 32]).public());
    let made = Tombstone { device, removed_at: NOW, until: NOW.plus_secs(1_000), extensions: Extensions::none() };
    let tombstone = Signed::sign(made.clone(), &identity);
    let epoch = alice.roster.own().presence.epoch();
    assert!(alice.act(|roster, signer| roster.remove_device(tombstone.clone(), signer)));
    assert!(!alice.act(|roster, signer| roster.remove_device(tombstone.clone(), signer)), "once is enough");
    assert_eq!(alice.roster.own().presence.epoch(), epoch + 1);
    let (_, signal) = alice.sent.pop().expect("bob is told");
    bob.receive(&alice, signal.clone()).expect("taken");
    assert_eq!(bob.removed, std::slice::from_ref(&tombstone));
    assert!(bob.holds_key_of(&alice));
    // It rides along with every later update: a lost one costs nothing.
    alice.set_mood("safe");
    assert!(alice.sent.is_empty() || matches!(alice.sent[0].1, ContactSignal::Update(_)));
    bob.removed.clear();
    settle(&mut alice, &mut bob);
    assert_eq!(bob.removed, std::slice::from_ref(&tombstone));

    // Nobody but the identity key removes a device.
    let ContactSignal::Update(mut update) = signal else { panic!("an update") };
    let forged = Signed::sign(made, &SecretKey::from_bytes([77; 32]));
    update.extensions = crate::identity::with_tombstones(Extensions::none(), &[forged]);
    bob.removed.clear();
    bob.receive(&alice, ContactSignal::Update(update)).expect("the rest is taken");
    assert!(bob.removed.is_empty());

    // And own devices take it over, with the new key.
    let mut second = Party::of(Authority::new(1).person("alice", 10), 77);
    let share = RosterShare {
        entries: Vec::new(),
        presence: Some(alice.roster.own().presence.clone()),
        profile: None,
        extensions: crate::identity::with_tombstones(Extensions::none(), &alice.roster.own().tombstones),
    };
    second.receive(&alice, ContactSignal::Share(Box::new(share))).expect("taken");
    assert_eq!(second.roster.own().tombstones, [tombstone]);
    assert_eq!(second.roster.own().presence, alice.roster.own().presence);
}

#[test]
fn own_devices_agree() {
    let (mut alice, mut bob) = couple();
    let authority = Authority::new(1);
    // The same user: only the device key could differ, and what is merged doesn't look at it.
    let mut second = Party::of(authority.person("alice", 10), 99);
    alice.ask(&bob).expect("asks");
    let share = |from: &Party| {
        let entries = from.roster.entries().cloned().collect();
        let own = from.roster.own();
        let (presence, profile) = (Some(own.presence.clone()), own.profile.clone());
        ContactSignal::Share(Box::new(RosterShare { entries, presence, profile, extensions: crate::wire::Extensions::none() }))
    };
    settle(&mut alice, &mut bob);
    bob.accept(&alice).expect("accepts");
    let (_, accept) = bob.sent.remove(0);
    second.receive(&alice, share(&alice)).expect("own");
    assert_eq!(second.standing(&bob), Standing::Asked);
    second.receive(&bob, accept.clone()).expect("taken");
    alice.receive(&bob, accept).expect("taken");
    alice.receive(&second, share(&second)).expect("own");
    second.receive(&alice, share(&alice)).expect("own");
    assert_eq!(alice.roster.own().presence, second.roster.own().presence);
    let entry = |party: &Party| party.roster.entry(&bob.user()).cloned();
    assert_eq!(entry(&alice), entry(&second));
    assert_eq!(second.relation(&bob), Relation::Contact);
    // A stranger's share is nobody's.
    let before = entry(&alice);
    alice.receive(&bob, share(&bob)).expect("passed over");
    assert_eq!(entry(&alice), before);
}

#[test]
fn own_devices_make_one_new_key_for_a_removal_and_replace_what_was_given_away() {
    for is_key_first in [false, true] {
        let (mut alice, mut bob) = couple();
        let mut second = Party::of(Authority::new(1).person("alice", 10), 99);
        alice.ask(&bob).expect("asks");
        settle(&mut alice, &mut bob);
        bob.accept(&alice).expect("accepts");
        settle(&mut bob, &mut alice);
        let known = |from: &Party| {
            let entries: Vec<RosterEntry> = from.roster.entries().cloned().collect();
            let own = from.roster.own().clone();
            (entries, OwnNews { presence: Some(own.presence), profile: own.profile, tombstones: own.tombstones })
        };
        let (entries, own) = known(&alice);
        second.act(|roster, signer| roster.merge(entries, Some(own), signer));
        assert_eq!(second.relation(&bob), Relation::Contact);
        second.sent.clear();
        alice.remove(&bob).expect("removes");
        let (entries, own) = known(&alice);
        let new = own.presence.clone().expect("a key");
        if is_key_first {
            second.act(|roster, signer| roster.merge(Vec::new(), Some(own), signer));
            assert!(!second.sent.is_empty(), "it couldn't know that bob isn't to have it");
            second.act(|roster, signer| roster.merge(entries, None, signer));
            assert!(second.roster.own().presence > new, "given away");
        } else {
            second.act(|roster, signer| roster.merge(entries, Some(own), signer));
            assert!(second.sent.is_empty(), "who was removed is told nothing: {:?}", second.sent);
            assert_eq!(second.roster.own().presence, new);
        }
        assert_ne!(second.relation(&bob), Relation::Contact);
    }
}

#[test]
fn a_request_fits_a_kilobyte_and_secrets_do_not_print() {
    let (mut alice, bob) = couple();
    let asking = Asking { text: "x".repeat(REQUEST_TEXT_BYTES_MAX), display_name: "ü".repeat(200) };
    let (user, identity) = (bob.user(), bob.identity());
    alice.act(|roster, signer| roster.ask(&user, identity, asking, signer)).expect("asks");
    let (_, signal) = alice.sent.remove(0);
    let length = crate::wire::encoded_len(&signal);
    assert!(length <= REQUEST_BYTES_MAX, "{length}");
    let long = Asking { text: "x".repeat(REQUEST_TEXT_BYTES_MAX + 1), display_name: String::new() };
    let refused = alice.act(|roster, signer| roster.ask(&user, identity, long, signer));
    assert!(matches!(refused, Err(RosterError::Invalid(_))));
    let text = format!("{:?} {:?}", alice.roster, alice.roster.own());
    assert!(text.contains("Secret32(..)") && !text.contains("10, 10, 10"), "keys must not print");
}

#[test]
fn statements_are_bounded() {
    let key = SecretKey::from_bytes([1; 32]);
    let identity = IdentityKey(key.public());
    let extensions = crate::wire::Extensions::none();
    let statement = ContactStatement {
        owner: identity,
        other: identity,
        sequence: u64::MAX,
        stance: Stance::Removed,
        ends: u64::MAX,
        issued_at: UnixTime(u64::MAX),
        extensions,
    };
    assert!(crate::wire::encode(&statement).len() <= ContactStatement::LIMIT);
}

/// One act of one of two people, or one delivery.
#[derive(Clone, Copy, Debug)]
enum Step {
    Ask(bool),
    Accept(bool),
    Decline(bool),
    Remove(bool),
    /// Deliver one of what was ever sent, again perhaps.
    Deliver(bool, u8),
    Wait(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        any::<bool>().prop_map(Step::Ask),
        any::<bool>().prop_map(Step::Accept),
        any::<bool>().prop_map(Step::Decline),
        any::<bool>().prop_map(Step::Remove),
        (any::<bool>(), any::<u8>()).prop_map(|(who, which)| Step::Deliver(who, which)),
        (any::<bool>(), any::<u8>()).prop_map(|(who, which)| Step::Deliver(who, which)),
        (0..3u8).prop_map(Step::Wait),
    ]
}

proptest! {
    /// Whatever both do, and in whatever order their signals come: when all have come both see the same, and contacts hold each other's keys.
    #[test]
    fn both_sides_come_to_the_same_end(steps in proptest::collection::vec(step(), 0..40)) {
        let (mut alice, mut bob) = couple();
        let (mut from_alice, mut from_bob): (Vec<ContactSignal>, Vec<ContactSignal>) = (Vec::new(), Vec::new());
        for step in steps {
            match step {
                Step::Ask(first) => drop(if first { alice.ask(&bob) } else { bob.ask(&alice) }),
                Step::Accept(first) => drop(if first { alice.accept(&bob) } else { bob.accept(&alice) }),
                Step::Decline(first) => drop(if first { alice.decline(&bob) } else { bob.decline(&alice) }),
                Step::Remove(first) => drop(if first { alice.remove(&bob) } else { bob.remove(&alice) }),
                Step::Deliver(true, which) if !from_alice.is_empty() => {
                    let signal = from_alice[usize::from(which) % from_alice.len()].clone();
                    bob.receive(&alice, signal).expect("taken");
                }
                Step::Deliver(false, which) if !from_bob.is_empty() => {
                    let signal = from_bob[usize::from(which) % from_bob.len()].clone();
                    alice.receive(&bob, signal).expect("taken");
                }
                Step::Deliver(..) => {}
                Step::Wait(secs) => {
                    alice.now = alice.now.plus_secs(u64::from(secs));
                    bob.now = bob.now.plus_secs(1);
                }
            }
            from_alice.extend(alice.sent.drain(..).map(|(_, signal)| signal));
            from_bob.extend(bob.sent.drain(..).map(|(_, signal)| signal));
        }
        // Everything arrives in the end, and what that makes them say.
        let (mut alice_done, mut bob_done) = (0, 0);
        while alice_done < from_alice.len() || bob_done < from_bob.len() {
            if let Some(signal) = from_alice.get(alice_done).cloned() {
                alice_done += 1;
                bob.receive(&alice, signal).expect("taken");
            }
            if let Some(signal) = from_bob.get(bob_done).cloned() {
                bob_done += 1;
                alice.receive(&bob, signal).expect("taken");
            }
            from_alice.extend(alice.sent.drain(..).map(|(_, signal)| signal));
            from_bob.extend(bob.sent.drain(..).map(|(_, signal)| signal));
        }
        prop_assert_eq!(alice.standing(&bob) == Standing::Contact, bob.standing(&alice) == Standing::Contact);
        if alice.standing(&bob) == Standing::Contact {
            prop_assert!(alice.holds_key_of(&bob) && bob.holds_key_of(&alice));
        }
        if alice.standing(&bob) == Standing::Asked {
            prop_assert!(matches!(bob.standing(&alice), Standing::Requested | Standing::Removed), "{:?}", bob.standing(&alice));
        }
    }

    /// Entries merge as a join, whatever parts of a common history they know.
    #[test]
    fn entries_merge_as_a_join(histories in proptest::collection::vec(proptest::collection::vec(step(), 0..12), 3)) {
        let entries: Vec<RosterEntry> = histories.into_iter().zip(1..).map(|(steps, seed)| {
            let (mut alice, mut bob) = (Party::new("alice", 10), Party::new("bob", 20));
            alice.seed = seed;
            alice.now = NOW.plus_secs(u64::from(seed));
            alice.ask(&bob).expect("asks");
            for step in steps {
                match step {
                    Step::Ask(_) => drop(alice.ask(&bob)),
                    Step::Accept(_) => drop(bob.accept(&alice)),
                    Step::Decline(_) => drop(bob.decline(&alice)),
                    Step::Remove(first) => drop(if first { alice.remove(&bob) } else { bob.remove(&alice) }),
                    Step::Deliver(..) => settle(&mut alice, &mut bob),
                    Step::Wait(secs) => alice.now = alice.now.plus_secs(u64::from(secs)),
                }
            }
            alice.roster.entry(&bob.user()).expect("asked").clone()
        }).collect();
        let join = |one: &RosterEntry, other: &RosterEntry| {
            let mut joined = one.clone();
            joined.join(other.clone());
            joined
        };
        let (a, b, c) = (&entries[0], &entries[1], &entries[2]);
        prop_assert_eq!(&join(a, a), a);
        prop_assert_eq!(join(a, b), join(b, a));
        prop_assert_eq!(join(&join(a, b), c), join(a, &join(b, c)));
        prop_assert_eq!(join(&join(a, b), b), join(a, b));
        let bytes = crate::wire::encode(a);
        prop_assert_eq!(crate::wire::decode::<RosterEntry>(&bytes, 64 * 1024), Ok(a.clone()));
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        if let Ok(signal) = crate::wire::decode::<ContactSignal>(&bytes, 40_960) {
            let _ = signal.check();
            let (mut alice, bob) = couple();
            let _ = alice.receive(&bob, signal);
        }
        let _ = crate::wire::decode::<Contact>(&bytes, 64 * 1024);
    }
}

#[test]
fn contacts_are_told_whether_they_may_pass_presence_on_and_the_newer_word_counts() {
    let (mut alice, mut bob) = contacts();
    let seen = |bob: &Party, alice: &Party| bob.roster.entry(&alice.user()).expect("known").pass_on();
    assert_eq!(seen(&bob, &alice), PassOn::default());
    assert!(seen(&bob, &alice).is_allowed, "until something else is said");
    let before = bob.roster.entry(&alice.user()).expect("known").clone();
    let (no, yes) = (PassOn { version: 5, is_allowed: false }, PassOn { version: 9, is_allowed: true });
    alice.act(|roster, signer| roster.set_pass_on(no, signer));
    assert_eq!(alice.sent.len(), 1, "told at once");
    let first = alice.sent.clone();
    settle(&mut alice, &mut bob);
    assert_eq!(seen(&bob, &alice), no);
    alice.act(|roster, signer| roster.reconcile_all(signer));
    assert!(alice.sent.is_empty(), "and once");
    alice.act(|roster, signer| roster.set_pass_on(yes, signer));
    settle(&mut alice, &mut bob);
    assert_eq!(seen(&bob, &alice), yes);
    // Late, doubled, or from another device: the newer stays.
    for (_, signal) in first {
        bob.receive(&alice, signal).expect("taken");
    }
    assert_eq!(seen(&bob, &alice), yes);
    let newest = bob.roster.entry(&alice.user()).expect("known").clone();
    let (mut one, mut other) = (before.clone(), newest.clone());
    one.join(newest);
    other.join(before);
    assert_eq!((one.pass_on(), other.pass_on()), (yes, yes));
    // An older word of an own other device changes nothing.
    alice.act(|roster, signer| roster.set_pass_on(no, signer));
    assert!(alice.sent.is_empty());
}

#[test]
fn contacts_are_told_of_accounts_elsewhere_once_and_strangers_never() {
    let (mut alice, mut bob) = contacts();
    let told = |signal: &ContactSignal| signal.told_links().map(<[u8]>::to_vec);
    alice.act(|roster, signer| roster.set_links(vec![1, 2], signer));
    let said: Vec<_> = alice.sent.iter().filter_map(|(_, signal)| told(signal)).collect();
    assert_eq!(said, [vec![1, 2]]);
    settle(&mut alice, &mut bob);
    alice.act(|roster, signer| roster.set_links(vec![1, 2], signer));
    alice.act(|roster, signer| roster.reconcile_all(signer));
    assert!(alice.sent.is_empty(), "and once");
    alice.act(|roster, signer| roster.set_links(vec![3], signer));
    assert_eq!(alice.sent.iter().filter_map(|(_, signal)| told(signal)).collect::<Vec<_>>(), [vec![3]]);
    settle(&mut alice, &mut bob);
    // Who asks isn't told, and who is no contact any more neither.
    let mut carol = Party::new("carol", 90);
    let user = carol.user();
    let identity = carol.chain.user.identity;
    alice.act(|roster, signer| roster.ask(&user, identity, Asking::default(), signer).expect("new"));
    let bobs = bob.user();
    alice.act(|roster, signer| roster.remove(&bobs, signer).expect("a contact"));
    alice.act(|roster, signer| roster.set_links(vec![4], signer));
    assert_eq!(alice.sent.iter().filter_map(|(_, signal)| told(signal)).count(), 0);
    settle(&mut alice, &mut carol);
    let alices = alice.user();
    carol.act(|roster, signer| roster.accept(&alices, signer).expect("asked"));
    settle(&mut alice, &mut carol);
    assert!(alice.roster.contact_count() == 1, "carol is told with her keys");
}
