//! Who is let in, and who isn't.

use super::*;

const ID: ConferenceId = ConferenceId([1; 16]);
const LEG: CallId = CallId([2; 16]);

/// Bob's end: alice is there, since a second after him.
struct Bob {
    alice: Person,
    bob: Person,
    start: Instant,
    conference: Conference,
}

impl Bob {
    fn new() -> Self {
        let (alice, bob, start) = (person(1), person(2), Instant::now());
        let mut conference = Conference::new(ID, bob.participant.clone(), START, start);
        conference.leg_up(&alice.participant, LEG, now(start, 1));
        Self { alice, bob, start, conference }
    }

    fn at(&self, secs: u64) -> Now {
        now(self.start, secs)
    }

    /// What becomes of a call for a leg that shows `word` after `secs`.
    fn admit(&self, caller: &Person, secs: u64, word: Option<&Signed<Introduction>>) -> Result<Option<Participant>, Reason> {
        let now = self.at(secs).unix;
        let word = match word.map(|word| VerifiedIntroduction::verify(word, now)) {
            Some(Ok(word)) => Some(word),
            // As the node does with a word that isn't good.
            Some(Err(_)) => return Err(Reason::NOT_ALLOWED),
            None => None,
        };
        self.conference.admit(&caller.participant, now, word.as_ref())
    }

    fn attendance(&self, from: &Person, call: CallId, number: u32, present: &[(&Person, UnixTime)]) -> VerifiedAttendance {
        let draft = AttendanceDraft {
            conference: ID,
            call,
            from: from.participant.device,
            to: self.bob.participant.clone(),
            number,
            since: START.plus_secs(1),
            present: present.iter().map(|(who, since)| Present { participant: who.participant.clone(), since: *since }).collect(),
            issued_at: START.plus_secs(1),
        };
        let signed = draft.sign(&from.device);
        VerifiedAttendance::verify(&signed, &self.bob.participant.device).expect("for bob, and signed")
    }

    fn dials(&mut self) -> Vec<Participant> {
        let mut dials = Vec::new();
        while let Some(action) = self.conference.poll_action() {
            if let ConferenceAction::Dial(participant) = action {
                dials.push(participant);
            }
        }
        dials
    }
}

#[test]
fn a_stranger_is_let_in_on_the_word_of_somebody_present_and_is_shown_as_such() {
    let bob = Bob::new();
    let carol = person(3);
    assert_eq!(bob.admit(&carol, 5, None), Err(Reason::NOT_ALLOWED));
    let good = word(&bob.alice, &carol, ID, START.plus_secs(3));
    assert_eq!(bob.admit(&carol, 5, Some(&good)), Ok(Some(bob.alice.participant.clone())));
}

#[test]
fn words_that_are_not_good_let_nobody_in() {
    let bob = Bob::new();
    let (carol, dave) = (person(3), person(4));
    let issued = START.plus_secs(3);
    let refused = |what: &str, caller: &Person, secs: u64, word: &Signed<Introduction>| {
        assert_eq!(bob.admit(caller, secs, Some(word)), Err(Reason::NOT_ALLOWED), "{what}");
    };
    let good = word(&bob.alice, &carol, ID, issued);
    refused("expired", &carol, 3 + INTRODUCTION_SECS_MAX, &good);
    refused("for somebody else", &dave, 5, &good);
    refused("of another conference", &carol, 5, &word(&bob.alice, &carol, ConferenceId([9; 16]), issued));
    refused("of somebody who doesn't take part", &carol, 5, &word(&dave, &carol, ID, issued));
    refused("of the stranger", &carol, 5, &word(&carol, &carol, ID, issued));
    refused("from the future", &carol, 5, &word(&bob.alice, &carol, ID, issued.plus_secs(3_600)));
    let forged = Introduction { by: bob.alice.participant.device, ..word(&dave, &carol, ID, issued).unverified().clone() };
    refused("signed by another than it says", &carol, 5, &Signed::sign(forged, &dave.device));
    let mut other_device = carol.clone();
    other_device.participant.device = dave.participant.device;
    refused("for another device of theirs", &other_device, 5, &good);
    let mut other_identity = carol.clone();
    other_identity.participant.identity = dave.participant.identity;
    refused("for another identity", &other_identity, 5, &good);
}

#[test]
fn a_word_is_worth_nothing_once_the_conference_is_over() {
    let mut bob = Bob::new();
    let carol = person(3);
    let good = word(&bob.alice, &carol, ID, START.plus_secs(3));
    let alice = bob.alice.participant.device;
    bob.conference.leg_failed(&alice, Some(LEG), LegEnd::Left, bob.at(4));
    assert!(bob.conference.is_over());
    assert_eq!(bob.admit(&carol, 5, Some(&good)), Err(Reason::NOT_IN_CONFERENCE));
}

#[test]
fn the_word_of_somebody_who_left_counts_if_it_was_said_before() {
    let mut bob = Bob::new();
    let (carol, dave, erin) = (person(3), person(4), person(5));
    bob.conference.leg_up(&dave.participant, CallId([4; 16]), bob.at(2));
    bob.conference.leg_failed(&bob.alice.participant.device.clone(), Some(LEG), LegEnd::Left, bob.at(10));
    let before = word(&bob.alice, &carol, ID, START.plus_secs(9));
    let after = word(&bob.alice, &erin, ID, START.plus_secs(11));
    assert_eq!(bob.admit(&carol, 12, Some(&before)), Ok(Some(bob.alice.participant.clone())));
    assert_eq!(bob.admit(&erin, 12, Some(&after)), Err(Reason::NOT_ALLOWED));
}

#[test]
fn whoever_left_may_come_back_and_what_is_left_of_them_may_not() {
    let mut bob = Bob::new();
    let carol = person(3);
    let call = CallId([3; 16]);
    bob.conference.connecting(&carol.participant, Some(START.plus_secs(2)), call, None, bob.at(2));
    bob.conference.leg_up(&carol.participant, call, bob.at(2));
    bob.conference.leg_failed(&carol.participant.device, Some(call), LegEnd::Left, bob.at(8));
    let late = bob.conference.admit(&carol.participant, START.plus_secs(2), None);
    assert_eq!(late, Err(Reason::NOT_IN_CONFERENCE), "an invite of before");
    assert_eq!(bob.admit(&carol, 9, None), Ok(None), "no word is needed to come back");
    let stale = bob.attendance(&bob.alice, LEG, 1, &[(&carol, START.plus_secs(2))]);
    bob.dials();
    bob.conference.handle_attendance(&stale, bob.at(10));
    assert_eq!(bob.dials(), [], "who is known to have left isn't dialled on hearsay");
    let fresh = bob.attendance(&bob.alice, LEG, 2, &[(&carol, START.plus_secs(9))]);
    bob.conference.handle_attendance(&fresh, bob.at(10));
    bob.conference.handle_timeout(bob.at(10 + GRACE.as_secs()));
    assert_eq!(bob.dials(), [carol.participant], "who is back is dialled, if they don't dial");
}

#[test]
fn only_over_a_leg_is_anybody_told_who_is_there() {
    let mut bob = Bob::new();
    let (carol, dave) = (person(3), person(4));
    let here = [(&dave, START)];
    let from_stranger = bob.attendance(&carol, CallId([3; 16]), 1, &here);
    assert_eq!(bob.conference.handle_attendance(&from_stranger, bob.at(2)), AttendanceStatus::NoSuchLeg);
    let over_another = bob.attendance(&bob.alice, CallId([3; 16]), 1, &here);
    assert_eq!(bob.conference.handle_attendance(&over_another, bob.at(2)), AttendanceStatus::NoSuchLeg);
    assert!(bob.dials().is_empty());
    let good = bob.attendance(&bob.alice, LEG, 2, &[]);
    assert_eq!(bob.conference.handle_attendance(&good, bob.at(2)), AttendanceStatus::Taken);
    let older = bob.attendance(&bob.alice, LEG, 1, &here);
    assert_eq!(bob.conference.handle_attendance(&older, bob.at(2)), AttendanceStatus::Taken);
    assert!(bob.dials().is_empty(), "a number that was passed says nothing any more");
    let signed = Signed::sign(good.attendance().clone(), &carol.device);
    assert!(VerifiedAttendance::verify(&signed, &bob.bob.participant.device).is_none(), "signed by another");
}

#[test]
fn the_one_who_came_later_dials_and_the_other_only_if_it_waited_in_vain() {
    let mut bob = Bob::new();
    let (later, earlier) = (person(3), person(4));
    let told = bob.attendance(&bob.alice, LEG, 1, &[(&later, START.plus_secs(5)), (&earlier, START.minus_secs(5))]);
    bob.conference.handle_attendance(&told, bob.at(6));
    assert_eq!(bob.dials(), [earlier.participant]);
    bob.conference.handle_timeout(bob.at(6 + GRACE.as_secs()));
    assert_eq!(bob.dials(), [later.participant]);
}

#[test]
fn a_ninth_finds_it_full_unless_they_came_before_somebody() {
    let mut bob = Bob::new();
    for number in 3..=8 {
        let other = person(number);
        let (call, since) = (CallId([number; 16]), START.plus_secs(u64::from(number)));
        bob.conference.connecting(&other.participant, Some(since), call, None, bob.at(10));
        bob.conference.leg_up(&other.participant, call, bob.at(10));
    }
    assert!(!bob.conference.add(CallId([90; 16])), "eight are there");
    let ninth = person(9);
    let good = word(&bob.alice, &ninth, ID, START.plus_secs(20));
    assert_eq!(bob.admit(&ninth, 20, Some(&good)), Err(Reason::CONFERENCE_FULL));
    let good = VerifiedIntroduction::verify(&good, START.plus_secs(20)).expect("good");
    let since = START.plus_secs(7);
    assert!(bob.conference.admit(&ninth.participant, since, Some(&good)).is_ok());
    bob.conference.connecting(&ninth.participant, Some(since), CallId([9; 16]), None, bob.at(20));
    let hung_up = std::iter::from_fn(|| bob.conference.poll_action())
        .find_map(|action| if let ConferenceAction::HangUp { call, reason } = action { Some((call, reason)) } else { None });
    assert_eq!(hung_up, Some((CallId([8; 16]), Reason::CONFERENCE_FULL)), "who came last goes");
}

#[test]
fn whom_others_merely_name_takes_nobodys_place_and_not_many_are_dialled() {
    let mut bob = Bob::new();
    for number in 3..=7 {
        let other = person(number);
        bob.conference.leg_up(&other.participant, CallId([number; 16]), bob.at(10));
    }
    // Seven are there; alice names people who came long before all of them, others each time.
    let mut dialled = 0;
    for round in 0..20u8 {
        let named: Vec<Person> = (0..6).map(|number| person(20 + number + 2 * round)).collect();
        let named: Vec<(&Person, UnixTime)> = named.iter().map(|who| (who, UnixTime(1))).collect();
        let told = bob.attendance(&bob.alice, LEG, u32::from(round) + 1, &named);
        bob.conference.handle_attendance(&told, bob.at(11));
        for who in bob.dials() {
            bob.conference.leg_failed(&who.device, None, LegEnd::NotThere, bob.at(11));
            dialled += 1;
        }
    }
    assert!((1..=HEARSAY_MAX).contains(&dialled), "{dialled}");
    assert_eq!(bob.conference.present().count(), 6, "everybody is still there");
    let carol = person(8);
    let good = word(&bob.alice, &carol, ID, START.plus_secs(12));
    assert!(bob.admit(&carol, 12, Some(&good)).is_ok(), "and whoever comes with a word finds room");
}

#[test]
fn both_ends_of_a_call_mean_the_same_conference_and_no_other_call_does() {
    let (alice, bob) = (person(1).participant.device, person(2).participant.device);
    let id = ConferenceId::of_call(&LEG, &alice, &bob);
    assert_eq!(id, ConferenceId::of_call(&LEG, &alice, &bob));
    assert_ne!(id, ConferenceId::of_call(&LEG, &bob, &alice));
    assert_ne!(id, ConferenceId::of_call(&CallId([9; 16]), &alice, &bob));
}

#[test]
fn two_who_are_connected_have_each_other_once_both_say_so() {
    let (mut end, carol, second) = (Bob::new(), person(3), CallId([3; 16]));
    let (alice, ends) = (end.alice.clone(), [end.alice.participant.device, carol.participant.device]);
    let have =
        |end: &Bob| (end.conference.have_each_other(&ends[0], &ends[1]), end.conference.have_each_other(&ends[1], &ends[0]));
    end.conference.leg_up(&carol.participant, second, end.at(2));
    assert_eq!(have(&end), (false, false), "bob has both, and neither has said anything");
    let of_alice = end.attendance(&alice, LEG, 1, &[(&carol, START)]);
    assert_eq!(end.conference.handle_attendance(&of_alice, end.at(3)), AttendanceStatus::Taken);
    assert_eq!(have(&end), (false, false), "alice alone says so");
    let of_carol = end.attendance(&carol, second, 1, &[(&alice, START)]);
    assert_eq!(end.conference.handle_attendance(&of_carol, end.at(3)), AttendanceStatus::Taken);
    assert_eq!(have(&end), (true, true));
    end.conference.leg_failed(&ends[1], Some(second), LegEnd::Left, end.at(4));
    assert_eq!(have(&end), (false, false), "carol is gone");
}
