//! The trust decision over everything that can be the case, and attacks on it.

use std::collections::BTreeSet;

use super::*;
use crate::call::CallId;
use crate::contact::privacy::{self, Audience, Because, Kind, PrivacySettings, Relation};
use crate::identity::UserId;
use crate::key::{IdentityKey, SecretKey};
use crate::test_identity::NOW;
use crate::time::UnixTime;
use crate::wire::{self, Extensions, Signed};

/// By these, with no account hidden, and nobody's proofs taken.
fn grounds<'a>(
    lists: &'a ContactLists,
    known: &'a KnownAssociations,
    settings: &'a PrivacySettings,
    sighting_secs_max: u64,
) -> Grounds<'a> {
    const NONE: &BTreeSet<LinkedId> = &BTreeSet::new();
    Grounds { lists, hidden: NONE, known, trusted: nobody(), settings, sighting_secs_max, now: NOW }
}

fn key(seed: u8) -> SecretKey {
    SecretKey::from_bytes([seed; 32])
}

/// Alice's identity here; Mallory's is another.
const ALICE: u8 = 1;
const MALLORY: u8 = 2;

const SCOPE: LeaveScope = LeaveScope { calls: true, messages: true };

fn user(seed: u8) -> UserId {
    UserId::Key(IdentityKey(key(seed).public()))
}

fn id(address: &str) -> LinkedId {
    format!("xmpp:{address}").parse().expect("an address")
}

fn alice() -> LinkedId {
    id("alice@there.example")
}

fn bob() -> LinkedId {
    id("bob@there.example")
}

fn params(seed: u8, linked: LinkedId, now: UnixTime) -> AssociationParams {
    AssociationParams { user: user(seed), linked, method: ProofMethod::OWN_ITEM, last_serial: 0, now }
}

fn association(seed: u8, linked: LinkedId) -> Signed<Association> {
    Association::sign(params(seed, linked, NOW), &key(seed))
}

fn revoked(seed: u8) -> Signed<Association> {
    Association::revoke(params(seed, alice(), NOW.plus_secs(1)), &key(seed))
}

fn expired(seed: u8) -> Signed<Association> {
    Association::sign(params(seed, alice(), NOW.minus_secs(ASSOCIATION_SECS_MAX + 1)), &key(seed))
}

fn early(seed: u8) -> Signed<Association> {
    Association::sign(params(seed, alice(), NOW.plus_secs(86_400)), &key(seed))
}

/// Says that it is Alice's, and is signed by Mallory.
fn forged() -> Signed<Association> {
    Signed::sign(association(ALICE, alice()).unverified().clone(), &key(MALLORY))
}

fn part(association: Signed<Association>, callee: LinkedId) -> LinkedPart {
    LinkedPart { association, callee, extensions: Extensions::none() }
}

fn bare(association: Signed<Association>) -> Shown {
    Shown { association, leave: None }
}

fn lists(has_alice: bool) -> ContactLists {
    let carol = (id("carol@there.example"), None);
    let entries = has_alice.then(|| (alice(), Some("Alice L.".to_owned()))).into_iter().chain([carol]);
    ContactLists::from([(bob(), entries.collect())])
}

fn seen(association: Signed<Association>, at: UnixTime) -> KnownAssociations {
    KnownAssociations::from([((bob(), alice()), Sighting::take(&alice(), bare(association), at).expect("in order"))])
}

/// What the caller's invite says, and why that alone is refused, if it is.
fn claims() -> Vec<(&'static str, Option<LinkedPart>, Option<NotLinked>)> {
    let said = |association| Some(part(association, bob()));
    let ended = AssociationError::Expired(expired(ALICE).unverified().not_after);
    let begins = AssociationError::NotYet(early(ALICE).unverified().not_before);
    vec![
        ("nothing", None, Some(NotLinked::NothingSaid)),
        ("forged", said(forged()), Some(NotLinked::NotTheirs)),
        ("another's", said(association(MALLORY, alice())), Some(NotLinked::NotTheirs)),
        ("expired", said(expired(ALICE)), Some(NotLinked::Association(ended))),
        ("early", said(early(ALICE)), Some(NotLinked::Association(begins))),
        ("revoked", said(revoked(ALICE)), Some(NotLinked::Association(AssociationError::Revoked))),
        ("other account", Some(part(association(ALICE, alice()), id("bob@work.example"))), Some(NotLinked::OtherAccount)),
        ("good", said(association(ALICE, alice())), None),
    ]
}

/// What is known of Alice's place, and why that is refused, if it is.
fn sightings() -> Vec<(&'static str, KnownAssociations, Option<NotLinked>)> {
    let ended = AssociationError::Expired(expired(ALICE).unverified().not_after);
    let good = association(ALICE, alice());
    vec![
        ("never seen", KnownAssociations::new(), Some(NotLinked::NotSeen)),
        ("seen long ago", seen(good.clone(), NOW.minus_secs(SIGHTING_SECS_FRESH + 1)), Some(NotLinked::NotSeen)),
        ("nothing there", KnownAssociations::from([((bob(), alice()), Sighting::nothing(NOW))]), Some(NotLinked::NotShown)),
        ("another user's", seen(association(MALLORY, alice()), NOW), Some(NotLinked::OtherUser)),
        ("revoked", seen(revoked(ALICE), NOW), Some(NotLinked::Shown(AssociationError::Revoked))),
        ("revoked by another", seen(revoked(MALLORY), NOW), Some(NotLinked::Shown(AssociationError::Revoked))),
        ("expired", seen(expired(ALICE), NOW), Some(NotLinked::Shown(AssociationError::Expired(ended_at(&ended))))),
        ("good", seen(good, NOW), None),
    ]
}

fn ended_at(error: &AssociationError) -> UnixTime {
    match error {
        AssociationError::Expired(at) => *at,
        _ => UnixTime(0),
    }
}

/// No proof that stands by itself is trusted.
fn nobody() -> TrustedProofs<'static> {
    static NOBODY: std::sync::LazyLock<(Providers, crate::identity::TrustStore)> = std::sync::LazyLock::new(Default::default);
    TrustedProofs { providers: &NOBODY.0, authorities: &NOBODY.1 }
}

fn settings(audience: Audience) -> PrivacySettings {
    PrivacySettings::all(audience)
}

fn decided(
    relation: Relation,
    kind: Kind,
    part: Option<&LinkedPart>,
    lists: &ContactLists,
    known: &KnownAssociations,
    audience: Audience,
) -> TrustDecision {
    let (user, identity) = (user(ALICE), IdentityKey(key(ALICE).public()));
    let request = TrustRequest { user: &user, identity: &identity, relation, kind, claim: part.map(Claim::Association) };
    decide(&request, &grounds(lists, known, &settings(audience), SIGHTING_SECS_FRESH))
}

/// A call of somebody who is no contact here, with what it claims.
fn call_of_stranger<'a>(user: &'a UserId, identity: &'a IdentityKey, claim: &'a LinkedPart) -> TrustRequest<'a> {
    TrustRequest { user, identity, relation: Relation::Stranger, kind: Kind::Call, claim: Some(Claim::Association(claim)) }
}

/// Everything at once: relation, what is asked, what is allowed to whom, what the invite says, who is in the list, what the place shows.
#[test]
fn the_whole_table() {
    let (claims, sightings) = (claims(), sightings());
    let mut rows = 0;
    for relation in Relation::ALL {
        // The other kinds differ in which setting counts alone, which `privacy::decide` has a table of its own for.
        for kind in [Kind::Call, Kind::Presence] {
            for audience in Audience::ALL {
                for (said, part, claim_fault) in &claims {
                    for has_alice in [true, false] {
                        for (shows, known, place_fault) in &sightings {
                            let in_list = if has_alice { None } else { Some(NotLinked::NotInList) };
                            // The first thing that is wrong, in the order in which it is looked at.
                            let fault = claim_fault.or(in_list).or(*place_fault);
                            let got = decided(relation, kind, part.as_ref(), &lists(has_alice), known, audience);
                            let row = format!("{relation:?} {kind:?} {audience}: {said}, in list {has_alice}, {shows}");
                            assert_eq!(got.linked.as_ref().err().copied(), fault, "{row}");
                            let stands_for =
                                if relation == Relation::Stranger && fault.is_none() { Relation::Linked } else { relation };
                            assert_eq!(got.decision, privacy::decide(&settings(audience), stands_for, kind), "{row}");
                            // Only a stranger gains, and only who isn't allowed already waits for a look.
                            if got.decision.because == Because::Linked && relation != Relation::Linked {
                                assert!(relation == Relation::Stranger && fault.is_none(), "{row}");
                            }
                            let opens = kind == Kind::Call;
                            let waits = relation == Relation::Stranger
                                && audience == Audience::Linked
                                && opens
                                && claim_fault.is_none()
                                && fault.is_some();
                            assert_eq!(got.takes_a_look, waits, "{row}");
                            rows += 1;
                        }
                    }
                }
            }
        }
    }
    assert_eq!(rows, 6 * 2 * 4 * 8 * 2 * 8);
}

#[test]
fn a_contact_elsewhere_is_shown_as_one() {
    let known = seen(association(ALICE, alice()), NOW);
    let claim = part(association(ALICE, alice()), bob());
    let got = decided(Relation::Stranger, Kind::Call, Some(&claim), &lists(true), &known, Audience::Linked);
    assert!(got.decision.is_allowed);
    assert_eq!(
        got.linked,
        Ok(LinkedContact { id: alice(), name: Some("Alice L.".into()), account: bob(), carrier: Carrier::Request })
    );
    let why = "a contact in a linked system: xmpp:alice@there.example of xmpp:bob@there.example, by the request";
    assert_eq!(got.to_string(), why);
    let stranger = decided(Relation::Stranger, Kind::Call, Some(&claim), &lists(false), &known, Audience::Linked);
    assert_eq!(stranger.to_string(), "not a contact; isn't in the contact list of the linked system");
}

#[test]
fn a_stranger_can_not_tell_whether_somebody_is_in_the_list() {
    // Mallory claims to be Alice under an association of her own: what she gets is the same for a list with Alice and without.
    let (mallory, identity) = (user(MALLORY), IdentityKey(key(MALLORY).public()));
    let claim = part(association(MALLORY, alice()), bob());
    let request = call_of_stranger(&mallory, &identity, &claim);
    for known in [KnownAssociations::new(), seen(association(ALICE, alice()), NOW)] {
        let ask =
            |has_alice| decide(&request, &grounds(&lists(has_alice), &known, &settings(Audience::Linked), SIGHTING_SECS_FRESH));
        let (with, without) = (ask(true), ask(false));
        assert_eq!((with.decision, with.takes_a_look), (without.decision, without.takes_a_look));
        assert!(with.takes_a_look && !with.decision.is_allowed);
    }
}

#[test]
fn somebody_elses_identity_is_not_gained_by_claiming_it() {
    let (mallory, identity) = (user(MALLORY), IdentityKey(key(MALLORY).public()));
    let known = seen(association(ALICE, alice()), NOW);
    for (claim, why) in [
        // A word of her own about Alice's address.
        (association(MALLORY, alice()), NotLinked::OtherUser),
        // Alice's own word, which anybody in her list can read.
        (association(ALICE, alice()), NotLinked::NotTheirs),
        (forged(), NotLinked::NotTheirs),
    ] {
        let claim = part(claim, bob());
        let request = call_of_stranger(&mallory, &identity, &claim);
        let got = decide(&request, &grounds(&lists(true), &known, &settings(Audience::Linked), SIGHTING_SECS_FRESH));
        assert_eq!((got.decision.is_allowed, got.linked), (false, Err(why)));
    }
}

#[test]
fn another_name_under_the_same_key_is_another_user() {
    let other = UserId::Named { authority: crate::key::AuthorityKey(key(9).public()), name: "alice".parse().expect("a name") };
    let identity = IdentityKey(key(ALICE).public());
    let claim = part(association(ALICE, alice()), bob());
    let request = call_of_stranger(&other, &identity, &claim);
    let known = seen(association(ALICE, alice()), NOW);
    let got = decide(&request, &grounds(&lists(true), &known, &settings(Audience::Linked), SIGHTING_SECS_FRESH));
    assert_eq!(got.linked, Err(NotLinked::NotTheirs));
}

#[test]
fn a_statement_copied_to_another_place_is_not_taken() {
    let mallorys = id("mallory@there.example");
    assert_eq!(Sighting::take(&mallorys, bare(association(ALICE, alice())), NOW), Err(SightingError::OtherPlace));
    assert!(matches!(
        Sighting::take(&alice(), bare(forged()), NOW),
        Err(SightingError::Association(AssociationError::Signature(_)))
    ));
    let params = AssociationParams { method: ProofMethod(7), ..params(ALICE, alice(), NOW) };
    let otherwise = Association::sign(params, &key(ALICE));
    assert_eq!(Sighting::take(&alice(), bare(otherwise), NOW), Err(SightingError::Method));
}

#[test]
fn what_was_taken_back_does_not_come_again() {
    let old = association(ALICE, alice());
    let last = Sighting::take(&alice(), bare(revoked(ALICE)), NOW).expect("in order");
    let again = Sighting::take(&alice(), bare(old.clone()), NOW.plus_secs(9)).expect("in order").after(Some(&last));
    assert_eq!(again.association, last.association, "the newer word of the same user stays");
    assert_eq!(again.read_at, NOW.plus_secs(9));
    // A newer one counts, and so does another user's, whose account it is now.
    let params = AssociationParams { last_serial: revoked(ALICE).unverified().serial, ..params(ALICE, alice(), NOW) };
    for newer in [Association::sign(params, &key(ALICE)), association(MALLORY, alice())] {
        let seen = Sighting::take(&alice(), bare(newer.clone()), NOW).expect("in order").after(Some(&last));
        assert_eq!(seen.association, Some(newer));
    }
    assert_eq!(Sighting::nothing(NOW).after(Some(&last)).association, None);
}

#[test]
fn the_leave_beside_an_association_is_the_one_of_the_word_that_counts() {
    let leave = |epoch: u32| LinkedLeave::sign(LinkedKey::of_secret(epoch, &[5; 32]), SCOPE, &key(ALICE), NOW);
    let take = |association, leave: Option<LinkedLeave>| {
        Sighting::take(&alice(), Shown { association, leave: leave.map(|leave| wire::encode(&leave)) }, NOW).expect("in order")
    };
    let good = association(ALICE, alice());
    let first = take(good.clone(), Some(leave(1)));
    assert_eq!(first.leave, Some(leave(1)));
    // The same word with another leave, or none: what stands there now counts.
    assert_eq!(take(good.clone(), Some(leave(2))).after(Some(&first)).leave, Some(leave(2)));
    assert_eq!(take(good.clone(), None).after(Some(&first)).leave, None);
    // A place that was set back to before the word was taken back gives no leave either.
    let last = take(revoked(ALICE), None);
    assert_eq!(take(good.clone(), Some(leave(1))).after(Some(&last)).leave, None);
    // Another user's leave, and what isn't one, is none; the association counts all the same.
    let others = LinkedLeave::sign(LinkedKey::of_secret(1, &[5; 32]), SCOPE, &key(MALLORY), NOW);
    assert_eq!(take(good.clone(), Some(others)).leave, None);
    let broken = Sighting::take(&alice(), Shown { association: good.clone(), leave: Some(vec![1; 40]) }, NOW).expect("in order");
    assert_eq!((broken.leave, broken.association), (None, Some(good)));
}

#[test]
fn a_place_that_can_not_be_looked_at_counts_for_a_day() {
    let claim = part(association(ALICE, alice()), bob());
    let (user, identity) = (user(ALICE), IdentityKey(key(ALICE).public()));
    let request = call_of_stranger(&user, &identity, &claim);
    for (age, is_allowed) in [(0, true), (SIGHTING_SECS_MAX, true), (SIGHTING_SECS_MAX + 1, false)] {
        let known = seen(association(ALICE, alice()), NOW.minus_secs(age));
        let got = decide(&request, &grounds(&lists(true), &known, &settings(Audience::Linked), SIGHTING_SECS_MAX));
        assert_eq!(got.decision.is_allowed, is_allowed, "{age} s");
    }
}

#[test]
fn an_association_is_bounded_and_says_what_it_is() {
    let good = association(ALICE, alice());
    assert_eq!(Association::verify(&good, NOW).map(|said| &said.linked), Ok(&alice()));
    let said = good.unverified().clone();
    let long = Association { not_after: said.not_after.plus_secs(1), ..said.clone() };
    let backwards = Association { not_after: said.not_before.minus_secs(1), ..said.clone() };
    let other_key = Association { user: user(MALLORY), ..said.clone() };
    for wrong in [long, backwards, other_key] {
        let bytes = wire::encode(&Signed::sign(wrong, &key(ALICE)));
        assert!(wire::decode::<Signed<Association>>(&bytes, 2_000).is_err());
    }
    assert!(said.renew_at() > NOW && said.renew_at() < said.not_after);
    let next = AssociationParams { last_serial: NOW.0 + 5_000, ..params(ALICE, alice(), NOW) };
    assert_eq!(Association::sign(next, &key(ALICE)).unverified().serial, NOW.0 + 5_001);
}

#[test]
fn the_largest_part_fits_what_is_read() {
    let longest = id(&format!("{}@there.example", "a".repeat(LINKED_ADDRESS_BYTES_MAX - 14)));
    let name = "n".repeat(crate::identity::USERNAME_CHARS_MAX).parse().expect("a name");
    let user = UserId::Named { authority: crate::key::AuthorityKey(key(9).public()), name };
    let params = AssociationParams { user, ..params(ALICE, longest.clone(), NOW) };
    let part = part(Association::sign(params, &key(ALICE)), longest);
    let extensions = part.add_to(Extensions::none());
    assert_eq!(LinkedPart::of_extensions(&extensions), Ok(Some(part)));
    assert_eq!(LinkedPart::of_extensions(&Extensions::none()), Ok(None));
    assert!(LinkedPart::of_extensions(&Extensions::none().with(LINKED_EXTENSION, vec![1])).is_err());
}

const CALL: CallId = CallId([7; 16]);

fn token_part() -> TokenPart {
    let not_after = NOW.plus_secs(120);
    TokenPart { caller: alice(), callee: bob(), token: "t-1".into(), not_after, extensions: Extensions::none() }
}

/// What Alice's place shows under her token for a call.
fn committed(part: &TokenPart, seed: u8, call: CallId) -> Option<Option<[u8; 32]>> {
    Some(Some(part.commitment(&user(seed), &IdentityKey(key(seed).public()), call)))
}

fn decided_by_token(
    relation: Relation,
    audience: Audience,
    part: &TokenPart,
    shown: Option<Option<[u8; 32]>>,
    lists: &ContactLists,
) -> TrustDecision {
    let (user, identity) = (user(ALICE), IdentityKey(key(ALICE).public()));
    let claim = Some(Claim::Token { part, call: CALL, shown });
    let request = TrustRequest { user: &user, identity: &identity, relation, kind: Kind::Call, claim };
    decide(&request, &grounds(lists, &KnownAssociations::new(), &settings(audience), SIGHTING_SECS_FRESH))
}

/// Every token that somebody may show, with everything that the server may say of it.
#[test]
fn the_whole_table_of_tokens() {
    let good = token_part();
    let parts = [
        ("good", good.clone(), None),
        ("expired", TokenPart { not_after: NOW.minus_secs(1), ..good.clone() }, Some(NotLinked::TokenTime)),
        ("for ever", TokenPart { not_after: NOW.plus_secs(TOKEN_SECS_MAX + 1), ..good.clone() }, Some(NotLinked::TokenTime)),
        ("other account", TokenPart { callee: id("bob@work.example"), ..good.clone() }, Some(NotLinked::OtherAccount)),
    ];
    let other_callee = TokenPart { callee: id("carol@there.example"), ..good.clone() };
    let longer = TokenPart { not_after: NOW.plus_secs(300), ..good.clone() };
    let server = [
        ("not asked", None, Some(NotLinked::NotSeen)),
        ("forged: nothing there, or spent", Some(None), Some(NotLinked::NotShown)),
        ("of another call, replayed", committed(&good, ALICE, CallId([8; 16])), Some(NotLinked::OtherEvent)),
        ("of another user", committed(&good, MALLORY, CALL), Some(NotLinked::OtherEvent)),
        ("for another callee", committed(&other_callee, ALICE, CALL), Some(NotLinked::OtherEvent)),
        ("with more time", committed(&longer, ALICE, CALL), Some(NotLinked::OtherEvent)),
        ("good", committed(&good, ALICE, CALL), None),
    ];
    let mut rows = 0;
    for relation in Relation::ALL {
        for audience in Audience::ALL {
            for (said, part, part_fault) in &parts {
                for has_alice in [true, false] {
                    for (shows, shown, server_fault) in &server {
                        let in_list = if has_alice { None } else { Some(NotLinked::NotInList) };
                        let fault = part_fault.or(in_list).or(*server_fault);
                        let got = decided_by_token(relation, audience, part, *shown, &lists(has_alice));
                        let row = format!("{relation:?} {audience}: {said}, in list {has_alice}, {shows}");
                        assert_eq!(got.linked.as_ref().err().copied(), fault, "{row}");
                        let stands_for =
                            if relation == Relation::Stranger && fault.is_none() { Relation::Linked } else { relation };
                        assert_eq!(got.decision, privacy::decide(&settings(audience), stands_for, Kind::Call), "{row}");
                        // Whether the list has them doesn't show in whether the server is asked.
                        let waits = relation == Relation::Stranger
                            && audience == Audience::Linked
                            && part_fault.is_none()
                            && fault.is_some();
                        assert_eq!(got.takes_a_look, waits, "{row}");
                        rows += 1;
                    }
                }
            }
        }
    }
    assert_eq!(rows, 6 * 4 * 4 * 2 * 7);
}

/// What is known of the contacts' indicators: Alice's.
fn indicated() -> Indicated {
    Indicated::from([(SlowId::for_tests(1).indicator, alice())])
}

/// Every certificate that a caller may have, with everything that may be known of their place.
#[test]
fn the_whole_table_of_certificates() {
    let (hers, others) = (SlowId::for_tests(1).indicator, SlowId::for_tests(2).indicator);
    let certificates = [
        ("no hint", vec![], Some(NotLinked::NothingSaid)),
        ("another's", vec![others], Some(NotLinked::NotIndicated)),
        ("good", vec![hers], None),
        ("good, among others", vec![others, hers], None),
    ];
    // The place counts where it says otherwise, however long ago it was seen; where it says nothing of this user, the authority's word does.
    let place_fault = |shows: &str| match shows {
        "another user's" => Some(NotLinked::OtherUser),
        "revoked" => Some(NotLinked::Shown(AssociationError::Revoked)),
        _ => None,
    };
    let (user, identity, contacts) = (user(ALICE), IdentityKey(key(ALICE).public()), indicated());
    let mut rows = 0;
    for relation in Relation::ALL {
        for audience in Audience::ALL {
            for (said, indicators, fault) in &certificates {
                for has_alice in [true, false] {
                    for (shows, known, _) in &sightings() {
                        let in_list = if has_alice { None } else { Some(NotLinked::NotIndicated) };
                        let fault = fault.or(in_list).or(place_fault(shows));
                        let claim = Some(Claim::Certificate { indicators, contacts: &contacts });
                        let request = TrustRequest { user: &user, identity: &identity, relation, kind: Kind::Call, claim };
                        let got = decide(&request, &grounds(&lists(has_alice), known, &settings(audience), SIGHTING_SECS_FRESH));
                        let row = format!("{relation:?} {audience}: {said}, in list {has_alice}, {shows}");
                        assert_eq!(got.linked.as_ref().err().copied(), fault, "{row}");
                        assert!(got.linked.as_ref().is_ok_and(|by| by.carrier == Carrier::Certificate) || fault.is_some());
                        let stands_for =
                            if relation == Relation::Stranger && fault.is_none() { Relation::Linked } else { relation };
                        assert_eq!(got.decision, privacy::decide(&settings(audience), stands_for, Kind::Call), "{row}");
                        assert!(!got.takes_a_look, "{row}: nothing says where to look");
                        rows += 1;
                    }
                }
            }
        }
    }
    assert_eq!(rows, 6 * 4 * 4 * 2 * 8);
}

/// Who says nothing is known by what was seen, fresh, in a list, and of nobody else.
#[test]
fn the_whole_table_of_what_was_seen() {
    let (user, identity) = (user(ALICE), IdentityKey(key(ALICE).public()));
    for relation in Relation::ALL {
        for audience in Audience::ALL {
            for has_alice in [true, false] {
                for (shows, known, fault) in &sightings() {
                    for carrier in [Carrier::Presence, Carrier::Place] {
                        let was_hers = *shows == "seen long ago" && has_alice;
                        let fault = fault.is_some() || !has_alice;
                        let claim = Some(Claim::Seen(carrier));
                        let request = TrustRequest { user: &user, identity: &identity, relation, kind: Kind::Call, claim };
                        let got = decide(&request, &grounds(&lists(has_alice), known, &settings(audience), SIGHTING_SECS_FRESH));
                        let row = format!("{relation:?} {audience}: in list {has_alice}, {shows}");
                        let expected = match fault {
                            true if was_hers => Err(NotLinked::NotSeen),
                            true => Err(NotLinked::NothingSaid),
                            false => Ok(carrier),
                        };
                        assert_eq!(got.linked.as_ref().map(|by| by.carrier).map_err(|why| *why), expected, "{row}");
                        let is_linked = relation == Relation::Stranger && !fault;
                        let stands_for = if is_linked { Relation::Linked } else { relation };
                        assert_eq!(got.decision, privacy::decide(&settings(audience), stands_for, Kind::Call), "{row}");
                        let waits = was_hers && relation == Relation::Stranger && audience == Audience::Linked;
                        assert_eq!(got.takes_a_look, waits, "{row}: nobody waits whom nothing was seen of");
                    }
                }
            }
        }
    }
}

#[test]
fn carriers_are_tried_in_order() {
    let (user, identity) = (user(ALICE), IdentityKey(key(ALICE).public()));
    let said = part(association(ALICE, alice()), bob());
    let (indicators, contacts) = ([SlowId::for_tests(1).indicator], indicated());
    let request = TrustRequest { claim: None, ..call_of_stranger(&user, &identity, &said) };
    let all = [
        Claim::Association(&said),
        Claim::Certificate { indicators: &indicators, contacts: &contacts },
        Claim::Seen(Carrier::Presence),
        Claim::Seen(Carrier::Place),
    ];
    let shown = seen(association(ALICE, alice()), NOW);
    let decide = |claims: &[Claim<'_>], known: &KnownAssociations| {
        decide_by_first(&request, claims, &grounds(&lists(true), known, &settings(Audience::Linked), SIGHTING_SECS_FRESH))
    };
    let carriers = [Carrier::Request, Carrier::Certificate, Carrier::Presence, Carrier::Place];
    for (first, carrier) in carriers.into_iter().enumerate() {
        let got = decide(&all[first..], &shown);
        assert_eq!((got.decision.is_allowed, got.linked.map(|by| by.carrier)), (true, Ok(carrier)));
    }
    // Her place wasn't seen yet: her certificate is enough, and without it there is a place to look at.
    let got = decide(&all, &KnownAssociations::new());
    assert_eq!(got.linked.map(|by| by.carrier), Ok(Carrier::Certificate));
    let got = decide(&[all[0], all[2]], &KnownAssociations::new());
    assert_eq!((got.linked.clone(), got.takes_a_look), (Err(NotLinked::NotSeen), true));
    let got = decide(&[], &shown);
    assert_eq!((got.linked, got.takes_a_look), (Err(NotLinked::NothingSaid), false));

    let some: Carriers = [Carrier::Directory, Carrier::Request].into_iter().collect();
    assert!(some.has(Carrier::Request) && !some.has(Carrier::Certificate));
    assert_eq!(some.iter().collect::<Vec<_>>(), [Carrier::Request, Carrier::Directory]);
    assert_eq!(Carriers::default().iter().collect::<Vec<_>>(), Carrier::ALL);
    assert!(Carrier::ALL.iter().all(|carrier| carrier.as_str().parse() == Ok(*carrier)) && "sms".parse::<Carrier>().is_err());
}

#[test]
fn a_token_is_bounded() {
    assert!(is_token("f3a1-9") && is_token(&"x".repeat(TOKEN_BYTES_MAX)));
    for bad in ["", "a b", "a\n", "t\u{e9}", &"x".repeat(TOKEN_BYTES_MAX + 1)] {
        assert!(!is_token(bad), "{bad:?}");
    }
}

/// An account that nobody is to know of is as if it weren't linked, whatever is said or was seen.
#[test]
fn a_hidden_account_lets_nobody_in() {
    let (user, identity) = (user(ALICE), IdentityKey(key(ALICE).public()));
    let (all, known, settings) = (lists(true), seen(association(ALICE, alice()), NOW), settings(Audience::Linked));
    for (hidden, is_let_in) in [(BTreeSet::new(), true), (all.keys().cloned().collect(), false)] {
        let claim = Some(Claim::Seen(Carrier::Place));
        let request = TrustRequest { user: &user, identity: &identity, relation: Relation::Stranger, kind: Kind::Call, claim };
        let (lists, known, settings) = (&all, &known, &settings);
        let grounds = Grounds { hidden: &hidden, ..grounds(lists, known, settings, SIGHTING_SECS_FRESH) };
        let got = decide(&request, &grounds);
        assert_eq!((got.decision.is_allowed, got.takes_a_look), (is_let_in, false));
    }
}

/// What comes in alice's presence, which servers have stamped with her address.
fn heard(association: Signed<Association>, before: Option<&Sighting>, is_settled: bool) -> Result<Heard, SightingError> {
    Sighting::hear(&alice(), bare(association), before, is_settled, NOW)
}

#[test]
fn an_association_in_presence_counts_if_it_is_hers_and_holds_and_is_no_older_one() {
    let good = association(ALICE, alice());
    let Ok(Heard::News(seen)) = heard(good.clone(), None, false) else { panic!("it counts") };
    assert_eq!((seen.read_at, seen.association.as_ref(), seen.proved_at), (NOW, Some(&good), None));
    let ended = AssociationError::Expired(expired(ALICE).unverified().not_after);
    let begins = AssociationError::NotYet(early(ALICE).unverified().not_before);
    let other_method = {
        let said = Association { method: ProofMethod::PROVIDER_TOKEN, ..good.unverified().clone() };
        Signed::sign(said, &key(ALICE))
    };
    let nothing = Sighting::nothing(NOW);
    for (what, said, refused) in [
        ("another address in it", association(ALICE, bob()), SightingError::OtherPlace),
        (
            "somebody else's signature",
            forged(),
            SightingError::Association(forged().verify(&good.unverified().identity.0).expect_err("forged").into()),
        ),
        ("expired", expired(ALICE), SightingError::Association(ended)),
        ("not yet", early(ALICE), SightingError::Association(begins)),
        ("taken back, of nobody known", revoked(ALICE), SightingError::Association(AssociationError::Revoked)),
        ("proved otherwise", other_method, SightingError::Method),
    ] {
        for before in [None, Some(&nothing)] {
            assert_eq!(heard(said.clone(), before, true), Err(refused), "{what}");
        }
    }
    // Against what is known of her.
    let later = Association::sign(params(ALICE, alice(), NOW.plus_secs(5)), &key(ALICE));
    let leave = LinkedLeave::sign(crate::presence::PresenceSecret::new(1, [1; 32]).linked_key(), SCOPE, &key(ALICE), NOW);
    let shown = Shown { association: good.clone(), leave: Some(wire::encode(&leave)) };
    let known = Sighting::take(&alice(), shown, NOW).expect("in order");
    let knows_later = Sighting::take(&alice(), bare(later.clone()), NOW).expect("in order");
    let knows_end = Sighting::take(&alice(), bare(revoked(ALICE)), NOW).expect("in order");
    for is_settled in [true, false] {
        assert_eq!(heard(good.clone(), Some(&known), is_settled), Ok(Heard::Known));
        for before in [&knows_later, &knows_end] {
            assert_eq!(heard(good.clone(), Some(before), is_settled), Err(SightingError::Older), "an older one is shown again");
        }
        let Ok(Heard::News(newer)) = heard(later.clone(), Some(&known), is_settled) else { panic!("a newer one counts") };
        assert_eq!((newer.association.as_ref(), newer.leave.as_ref()), (Some(&later), Some(&leave)), "with the leave known");
        // She takes it back herself, and mallory can't for her.
        let Ok(Heard::News(back)) = heard(revoked(ALICE), Some(&known), is_settled) else { panic!("taken back") };
        assert_eq!(back.holds(NOW), Err(Some(AssociationError::Revoked)));
        let refused = SightingError::Association(AssociationError::Revoked);
        assert_eq!(heard(revoked(MALLORY), Some(&known), is_settled), Err(refused));
    }
    // Where there is no place the leave comes with it: another one is news of the same association, and somebody else's is none.
    let leave_of = |seed: u8, epoch| {
        let key_of_epoch = crate::presence::PresenceSecret::new(epoch, [1; 32]).linked_key();
        wire::encode(&LinkedLeave::sign(key_of_epoch, SCOPE, &key(seed), NOW))
    };
    let with_leave = |leave| {
        let shown = Shown { association: good.clone(), leave: Some(leave) };
        Sighting::hear(&alice(), shown, Some(&known), true, NOW)
    };
    assert_eq!(with_leave(leave_of(ALICE, 1)), Ok(Heard::Known));
    let Ok(Heard::News(turned)) = with_leave(leave_of(ALICE, 2)) else { panic!("another key") };
    let epoch = turned.leave.as_ref().map(|leave| leave.key.epoch);
    assert_eq!((turned.association.as_ref(), epoch), (Some(&good), Some(2)));
    let again = Shown { association: good.clone(), leave: Some(leave_of(ALICE, 1)) };
    assert_eq!(Sighting::hear(&alice(), again, Some(&turned), true, NOW), Ok(Heard::Known), "an old copy of the leave");
    assert_eq!(with_leave(leave_of(MALLORY, 2)), Ok(Heard::Known), "copied from another's");
    assert_eq!(with_leave(vec![1, 2, 3]), Ok(Heard::Known));
    // Another user in her presence: what was seen at her place stands until that was looked at.
    let mallorys = association(MALLORY, alice());
    assert_eq!(heard(mallorys.clone(), Some(&known), true), Ok(Heard::Disputed));
    assert!(matches!(heard(mallorys.clone(), Some(&known), false), Ok(Heard::News(_))), "what came in presence before");
    assert!(matches!(heard(mallorys, Some(&knows_end), true), Ok(Heard::News(_))), "she doesn't have it any more");
}
