//! Two people with one or two devices each: whatever they do, and whatever becomes of what their devices send, in the end all see the same.

use super::*;

/// One device of the four: two of Alice's, then two of Bob's.
type Which = usize;

/// What happens, one thing after the other.
#[derive(Clone, Copy, Debug)]
enum Happening {
    Ask(Which),
    Accept(Which),
    Decline(Which),
    Remove(Which),
    Block(Which),
    Unblock(Which),
    /// One of all letters ever sent arrives, perhaps not for the first time.
    Arrive(u16),
    /// A device tells its user's other device what has changed.
    Share(Which),
    /// A device's clock goes on.
    Wait(Which, u8),
}

use Happening::{Accept, Arrive, Ask, Block, Decline, Remove, Share, Unblock, Wait};

fn happening() -> impl Strategy<Value = Happening> {
    let which = || 0..4_usize;
    prop_oneof![
        3 => which().prop_map(Ask),
        3 => which().prop_map(Accept),
        1 => which().prop_map(Decline),
        2 => which().prop_map(Remove),
        1 => which().prop_map(Block),
        1 => which().prop_map(Unblock),
        6 => any::<u16>().prop_map(Arrive),
        2 => which().prop_map(Share),
        1 => (which(), 0..3_u8).prop_map(|(which, secs)| Wait(which, secs)),
    ]
}

/// Something on its way between two devices.
struct Letter {
    from: Which,
    to: Which,
    signal: ContactSignal,
    has_arrived: bool,
}

/// The four devices, and all that was ever sent between them.
struct World {
    devices: [Party; 4],
    /// Devices in use: a person's second one may lie in a drawer.
    counts: [usize; 2],
    letters: Vec<Letter>,
    /// Picks what arrives next in the end.
    order: u64,
}

const ALICE: Which = 0;
const ALICES_OTHER: Which = 1;
const BOB: Which = 2;
const BOBS_OTHER: Which = 3;

/// More letters than any history here may cause: devices that answer each other for ever are found out.
const LETTERS_MAX: usize = 20_000;

impl World {
    fn new(counts: [usize; 2], offsets: [u16; 4], order: u64) -> Self {
        let authority = Authority::new(1);
        let device = |name, seed, slot| Party::of(authority.device(name, seed, slot), seed + slot);
        let mut devices = [device("alice", 10, 0), device("alice", 10, 1), device("bob", 20, 0), device("bob", 20, 1)];
        for (one, other) in [(ALICE, ALICES_OTHER), (BOB, BOBS_OTHER)] {
            // A linked device is given the own part.
            let own = devices[one].roster.own().clone();
            devices[other].roster = Roster::new(own, []);
        }
        for (device, offset) in devices.iter_mut().zip(offsets) {
            device.now = NOW.plus_secs(u64::from(offset));
        }
        Self { devices, counts, letters: Vec::new(), order }
    }

    const fn used(&self, which: Which) -> Which {
        let person = which / 2;
        person * 2 + which % 2 % self.counts[person]
    }

    fn of_person(&self, person: usize) -> std::ops::Range<Which> {
        person * 2..person * 2 + self.counts[person]
    }

    fn everybody(&self) -> impl Iterator<Item = Which> + use<> {
        self.of_person(0).chain(self.of_person(1))
    }

    /// Lets a device do something about the other person, and sends what comes of it to all their devices.
    fn act(&mut self, which: Which, deed: impl FnOnce(&mut Roster, &UserId, IdentityKey, &mut Signer<'_>)) {
        let which = self.used(which);
        let other = (1 - which / 2) * 2;
        let (user, identity) = (self.devices[other].user(), self.devices[other].identity());
        self.devices[which].act(|roster, signer| deed(roster, &user, identity, signer));
        self.post(which);
    }

    fn post(&mut self, from: Which) {
        for (_, signal) in std::mem::take(&mut self.devices[from].sent) {
            for to in self.of_person(1 - from / 2) {
                self.letters.push(Letter { from, to, signal: signal.clone(), has_arrived: false });
            }
        }
    }

    fn share(&mut self, which: Which) {
        let from = self.used(which);
        let device = &mut self.devices[from];
        let (has_changes, has_own) = (std::mem::take(&mut device.changes) > 0, std::mem::take(&mut device.own_changes) > 0);
        if !has_changes && !has_own {
            return;
        }
        let entries = if has_changes { device.roster.entries().cloned().collect() } else { Vec::new() };
        let presence = has_own.then(|| device.roster.own().presence.clone());
        let share = RosterShare { entries, presence, profile: None, extensions: Extensions::none() };
        for to in self.of_person(from / 2).filter(|to| *to != from) {
            let signal = ContactSignal::Share(Box::new(share.clone()));
            self.letters.push(Letter { from, to, signal, has_arrived: false });
        }
    }

    fn arrive(&mut self, number: usize) {
        let letter = &mut self.letters[number];
        letter.has_arrived = true;
        let (from, to, signal) = (letter.from, letter.to, letter.signal.clone());
        let sender = (self.devices[from].chain.clone(), self.devices[from].person.chain.device.clone());
        let taken = self.devices[to].act(|roster, signer| roster.receive(&sender.0, &sender.1, signal, signer));
        assert_eq!(taken, Ok(()), "nothing is refused");
        self.post(to);
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Ask(which) => {
                let asking = Asking { text: "It's me".into(), display_name: "Somebody".into() };
                self.act(which, |roster, user, identity, signer| drop(roster.ask(user, identity, asking, signer)));
            }
            Accept(which) => self.act(which, |roster, user, _, signer| drop(roster.accept(user, signer))),
            Decline(which) => self.act(which, |roster, user, _, signer| drop(roster.decline(user, signer))),
            Remove(which) => self.act(which, |roster, user, _, signer| drop(roster.remove(user, signer))),
            Block(which) => self.act(which, |roster, user, identity, signer| drop(roster.block(user, Some(identity), signer))),
            Unblock(which) => self.act(which, |roster, user, _, _| drop(roster.unblock(user))),
            Arrive(number) if !self.letters.is_empty() => self.arrive(usize::from(number) % self.letters.len()),
            Arrive(_) => {}
            Share(which) => self.share(which),
            Wait(which, secs) => {
                let which = self.used(which);
                self.devices[which].now = self.devices[which].now.plus_secs(u64::from(secs));
            }
        }
    }

    /// Everything that is on its way arrives, in some order, and what it makes them say.
    fn settle(&mut self) {
        loop {
            let waiting: Vec<usize> = (0..self.letters.len()).filter(|number| !self.letters[*number].has_arrived).collect();
            if waiting.is_empty() {
                for which in self.everybody() {
                    self.share(which);
                }
                if self.letters.iter().all(|letter| letter.has_arrived) {
                    return;
                }
                continue;
            }
            // Any order will do, so long as the same numbers make the same.
            self.order = self.order.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let pick = usize::try_from(self.order >> 33).expect("31 bits") % waiting.len();
            self.arrive(waiting[pick]);
            if self.order >> 62 == 0 {
                let which = self.used(usize::try_from(self.order >> 40 & 3).expect("two bits"));
                self.share(which);
            }
            assert!(self.letters.len() < LETTERS_MAX, "there is no end to what they say");
        }
    }

    fn standing(&self, which: Which) -> Standing {
        self.devices[which].standing(&self.devices[(1 - which / 2) * 2])
    }

    /// What has to hold when nothing is on its way.
    fn check(&self) {
        for person in 0..2 {
            let mut devices = self.of_person(person).map(|which| &self.devices[which].roster);
            let first = devices.next().expect("everybody has a device");
            for other in devices {
                assert_eq!(first.own().presence, other.own().presence, "own devices share a key");
                assert_eq!(first.entries().collect::<Vec<_>>(), other.entries().collect::<Vec<_>>(), "own devices know the same");
            }
        }
        let (alice, bob) = (self.standing(ALICE), self.standing(BOB));
        for (one, other) in [(alice, bob), (bob, alice)] {
            match one {
                Standing::Contact => assert_eq!(other, Standing::Contact),
                Standing::Asked => {
                    assert!(matches!(other, Standing::Requested | Standing::Removed | Standing::Blocked), "{other:?}")
                }
                Standing::Requested => {
                    assert!(matches!(other, Standing::Asked | Standing::Removed | Standing::Blocked), "{other:?}")
                }
                Standing::Changed => panic!("nobody has another key"),
                Standing::Declined | Standing::Removed | Standing::Blocked => {}
            }
        }
        for one in self.everybody() {
            for other in self.of_person(1 - one / 2) {
                self.check_keys(&self.devices[one], &self.devices[other]);
            }
        }
    }

    /// Contacts hold what the other has for contacts; others nothing that still opens.
    fn check_keys(&self, one: &Party, other: &Party) {
        let is_contact = one.standing(other) == Standing::Contact;
        assert_eq!(one.holds_key_of(other), is_contact, "the present key is for contacts, and for all of them");
        if !is_contact {
            return;
        }
        let entry = one.roster.entry(&other.user()).expect("a contact");
        let capability = entry.capability(&other.chain.device, Service::Push).expect("given").unverified();
        let pairwise = entry.own_pairwise().expect("made").public();
        assert_eq!(capability.holder, crate::capability::Holder::Key(pairwise), "made out to the key in use");
        assert_eq!(capability.epoch, other.roster.own().presence.epoch(), "and good");
    }

    fn play(&mut self, history: impl IntoIterator<Item = Happening>) {
        for happening in history {
            self.happen(happening);
        }
        self.settle();
        self.check();
    }
}

proptest! {
    #[test]
    fn all_devices_of_both_come_to_the_same_end(
        history in proptest::collection::vec(happening(), 0..40),
        counts in [1..=2_usize, 1..=2],
        offsets in prop_oneof![Just([0; 4]), [0..3_u16, 0..3, 0..3, 0..3], [0..700_u16, 0..700, 0..700, 0..700]],
        order in any::<u64>(),
    ) {
        World::new(counts, offsets, order).play(history);
    }

    /// What two devices of one person know, then and now, merges as a join.
    #[test]
    fn what_own_devices_know_merges_as_a_join(
        then in proptest::collection::vec(happening(), 4..20),
        since in proptest::collection::vec(happening(), 0..20),
    ) {
        let mut world = World::new([2, 1], [0; 4], 0);
        let of_alice = |world: &World| -> Vec<RosterEntry> {
            world.of_person(0).flat_map(|which| world.devices[which].roster.entries().cloned()).collect()
        };
        then.into_iter().for_each(|happening| world.happen(happening));
        let mut entries = of_alice(&world);
        since.into_iter().for_each(|happening| world.happen(happening));
        entries.extend(of_alice(&world));
        let join = |one: &RosterEntry, other: &RosterEntry| {
            let mut joined = one.clone();
            joined.join(other.clone());
            joined
        };
        for (a, b) in entries.iter().flat_map(|a| entries.iter().map(move |b| (a, b))) {
            prop_assert_eq!(join(a, b), join(b, a));
            prop_assert_eq!(join(&join(a, b), b), join(a, b));
            for c in &entries {
                prop_assert_eq!(join(&join(a, b), c), join(a, &join(b, c)));
            }
        }
    }
}

/// What somebody has just sent.
fn sent(party: &mut Party) -> ContactSignal {
    party.sent.remove(0).1
}

#[test]
fn a_yes_counts_though_an_older_no_comes_just_before_it() {
    // Both ask and both think better of it; each hears of the other's question alone, and says yes to it after all.
    let (mut alice, mut bob) = couple();
    bob.ask(&alice).expect("asks");
    alice.ask(&bob).expect("asks");
    let (of_bob, of_alice) = (sent(&mut bob), sent(&mut alice));
    bob.remove(&alice).expect("withdraws");
    alice.remove(&bob).expect("withdraws");
    let (bobs_no, alices_no) = (sent(&mut bob), sent(&mut alice));
    alice.receive(&bob, of_bob).expect("taken");
    assert_eq!(alice.ask(&bob), Ok(Standing::Contact), "that accepts");
    bob.receive(&alice, of_alice).expect("taken");
    assert_eq!(bob.accept(&alice), Ok(Standing::Contact));
    let (bobs_yes, alices_yes) = (sent(&mut bob), sent(&mut alice));
    bob.receive(&alice, alices_yes).expect("taken");
    // Now what each had said before is heard. To Alice that is the newest she knows of Bob, but his yes is newer.
    bob.receive(&alice, alices_no).expect("taken");
    alice.receive(&bob, bobs_no).expect("taken");
    assert_eq!((alice.standing(&bob), bob.standing(&alice)), (Standing::Removed, Standing::Contact));
    alice.receive(&bob, bobs_yes).expect("taken");
    settle(&mut alice, &mut bob);
    assert_eq!((alice.standing(&bob), bob.standing(&alice)), (Standing::Contact, Standing::Contact));
    assert!(alice.holds_key_of(&bob) && bob.holds_key_of(&alice));
}

#[test]
fn who_says_yes_to_a_request_that_was_taken_back_hears_of_it() {
    for is_blocked in [false, true] {
        let (mut alice, mut bob) = couple();
        alice.ask(&bob).expect("asks");
        let request = sent(&mut alice);
        if is_blocked {
            alice.block(&bob).expect("blocks");
        } else {
            alice.remove(&bob).expect("withdraws");
        }
        // The removal comes first, and Bob doesn't know whose it is.
        settle(&mut alice, &mut bob);
        bob.receive(&alice, request).expect("taken");
        assert_eq!(bob.accept(&alice), Ok(Standing::Contact));
        settle(&mut alice, &mut bob);
        assert_eq!(bob.standing(&alice), Standing::Removed);
        assert!(!alice.holds_key_of(&bob), "what Bob gave away opens nothing");
    }
}

#[test]
fn a_request_that_overtakes_a_removal_ends_what_was() {
    let (mut alice, mut bob) = contacts();
    bob.remove(&alice).expect("removes");
    let removal = sent(&mut bob);
    bob.ask(&alice).expect("asks");
    settle(&mut alice, &mut bob);
    assert_eq!((alice.standing(&bob), bob.standing(&alice)), (Standing::Requested, Standing::Asked));
    assert!(!bob.holds_key_of(&alice), "he has left");
    alice.receive(&bob, removal).expect("taken");
    assert_eq!(alice.standing(&bob), Standing::Requested);
}

#[test]
fn a_yes_that_came_to_nothing_can_be_taken_back() {
    let (mut alice, mut bob) = couple();
    alice.ask(&bob).expect("asks");
    settle(&mut alice, &mut bob);
    alice.remove(&bob).expect("withdraws");
    bob.accept(&alice).expect("accepts, for he hasn't heard");
    settle(&mut alice, &mut bob);
    assert_eq!(bob.standing(&alice), Standing::Removed);
    assert_eq!(bob.remove(&alice), Ok(Standing::Removed));
    assert_eq!(bob.remove(&alice), Err(RosterError::Unknown), "and once");
    settle(&mut alice, &mut bob);
    alice.ask(&bob).expect("asks anew");
    settle(&mut alice, &mut bob);
    assert_eq!((alice.standing(&bob), bob.standing(&alice)), (Standing::Asked, Standing::Requested));
}

#[test]
fn a_device_speaks_for_the_other() {
    // The one that asked is switched off; the other asks again, and answers Bob's request that crosses.
    let mut world = World::new([2, 1], [0; 4], 0);
    world.happen(Ask(ALICE));
    world.share(ALICE);
    let share = world.letters.pop().expect("told");
    world.letters.clear();
    world.letters.push(share);
    world.arrive(0);
    world.happen(Ask(ALICES_OTHER));
    let request = world.letters.len() - 1;
    assert_eq!(world.letters[request].signal.name(), "request");
    world.arrive(request);
    assert_eq!(world.standing(BOB), Standing::Requested);
    world.play([Accept(BOB)]);
    assert_eq!(world.standing(ALICE), Standing::Contact);
}

#[test]
fn nobody_takes_the_last_number() {
    let (mut alice, mut bob) = couple();
    bob.ask(&alice).expect("asks");
    let ContactSignal::Request(request) = sent(&mut bob) else { panic!("a request") };
    let said = request.statement.unverified().clone();
    let far = |sequence, ends| {
        let statement = Signed::sign(ContactStatement { sequence, ends, ..said.clone() }, &SecretKey::from_bytes([21; 32]));
        ContactSignal::Request(Box::new(ContactRequest { statement, ..(*request).clone() }))
    };
    for (sequence, ends) in [(u64::MAX, 0), (said.sequence, u64::MAX), (SEQUENCE_MAX + 1, 0), (said.sequence, SEQUENCE_MAX + 1)] {
        assert_eq!(alice.receive(&bob, far(sequence, ends)), Err(Reason::INVALID));
    }
    alice.receive(&bob, far(SEQUENCE_MAX, SEQUENCE_MAX)).expect("taken");
    // Alice can still say yes, and no.
    assert_eq!(alice.accept(&bob), Ok(Standing::Contact));
    assert_eq!(alice.remove(&bob), Ok(Standing::Removed));
    let mine = alice.roster.entry(&bob.user()).and_then(RosterEntry::own_statement).expect("said").said().clone();
    assert_eq!((mine.sequence, mine.stance, mine.ends), (SEQUENCE_MAX + 2, Stance::Removed, SEQUENCE_MAX));
}

#[test]
fn capabilities_are_renewed_in_time_though_the_mood_changes_daily() {
    let (mut alice, mut bob) = contacts();
    let until = |bob: &Party, alice: &Party| {
        let entry = bob.roster.entry(&alice.user()).expect("known");
        entry.capability(&alice.chain.device, Service::Push).expect("given").unverified().not_after
    };
    let first = until(&bob, &alice);
    let step = KEYS_RENEWED_AFTER_SECS / 4;
    for day in 1..=5 {
        alice.now = NOW.plus_secs(day * step);
        alice.set_mood(&format!("mood {day}"));
        alice.act(|roster, signer| roster.reconcile_all(signer));
        settle(&mut alice, &mut bob);
    }
    assert!(until(&bob, &alice) > first);
}

#[test]
fn a_contact_who_leaves_while_one_device_did_not_know_them_gets_no_key() {
    // One of Alice's devices accepts and gives Bob the key; the other hears of his leaving first, and didn't know that there was anything to leave.
    let mut world = World::new([2, 1], [0; 4], 0);
    world.happen(Ask(BOB));
    world.arrive(0);
    world.arrive(1);
    world.happen(Accept(ALICE));
    world.arrive(2);
    assert_eq!(world.standing(BOB), Standing::Contact);
    world.happen(Remove(BOB));
    let to_other = |letter: &Letter| matches!(letter.signal, ContactSignal::Remove(_)) && letter.to == ALICES_OTHER;
    let removal = world.letters.iter().position(to_other).expect("told");
    world.arrive(removal);
    world.share(ALICES_OTHER);
    world.arrive(world.letters.len() - 1);
    world.play([]);
    assert_eq!(world.standing(ALICE), Standing::Removed);
}
