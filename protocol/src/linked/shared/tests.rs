//! Merge rules and bounds of what own devices share.

use super::*;
use crate::identity::UserId;
use crate::key::{IdentityKey, PublicKey, SecretKey};
use crate::linked::{AssociationParams, LeaveScope, LinkedLeave, ProofMethod, Shown};
use crate::presence::PresenceSecret;
use crate::test_identity::NOW;
use crate::wire::Message;

const PHONE: DeviceKey = DeviceKey(PublicKey([1; 32]));
const LAPTOP: DeviceKey = DeviceKey(PublicKey([2; 32]));

fn id(name: &str) -> LinkedId {
    format!("xmpp:{name}@there.example").parse().expect("an address")
}

fn association(seed: u8, name: &str) -> Signed<Association> {
    let key = SecretKey::from_bytes([seed; 32]);
    let user = UserId::Key(IdentityKey(key.public()));
    let params = AssociationParams { user, linked: id(name), method: ProofMethod::OWN_ITEM, last_serial: 0, now: NOW };
    Association::sign(params, &key)
}

fn sighting(seed: u8, name: &str, at: UnixTime) -> Sighting {
    let key = SecretKey::from_bytes([seed; 32]);
    let scope = LeaveScope { calls: true, messages: true };
    let leave = LinkedLeave::sign(PresenceSecret::new(1, [seed; 32]).linked_key(), scope, &key, NOW);
    let shown = Shown { association: association(seed, name), leave: Some(wire::encode(&leave)) };
    Sighting::take(&id(name), shown, at).expect("in order")
}

type List = BTreeMap<LinkedId, Option<String>>;

fn list(names: &[&str]) -> List {
    names.iter().map(|name| (id(name), Some(format!("{name} from there")))).collect()
}

/// The phone holds bob's account, with these contacts, and has seen alice.
fn phone(names: &[&str]) -> (SharedLinks, Vec<SharedPiece>) {
    let mut links = SharedLinks::default();
    let mut pieces: Vec<SharedPiece> = links.begin(&id("bob"), PHONE, false, NOW).into_iter().collect();
    pieces.extend(say(&mut links, &list(names), &[("alice", &sighting(2, "alice", NOW))], NOW));
    (links, pieces)
}

fn say(links: &mut SharedLinks, list: &List, seen: &[(&str, &Sighting)], now: UnixTime) -> Vec<SharedPiece> {
    let (bob, said) = (id("bob"), association(1, "bob"));
    let places: Vec<LinkedId> = seen.iter().map(|(name, _)| id(name)).collect();
    let sightings = places.iter().zip(seen).map(|(place, (_, sighting))| (place, *sighting, Carrier::Place)).collect();
    let held = Held {
        id: &bob,
        holder: PHONE,
        is_token_only: false,
        association: Some(&said),
        proof: None,
        list: Some(list),
        sightings,
    };
    links.update(&held, now)
}

#[test]
fn pieces_in_any_order_and_twice_come_to_the_same() {
    let (mut links, mut pieces) = phone(&["alice", "carol"]);
    pieces.extend(say(&mut links, &list(&["alice", "dave"]), &[], NOW.plus_secs(5)));
    assert_eq!(links.list(&id("bob")), list(&["alice", "dave"]));
    let mut orders = vec![pieces.clone()];
    for at in 1..pieces.len() {
        let mut order = pieces.clone();
        order.rotate_left(at);
        orders.push(order.clone());
        order.reverse();
        orders.push(order);
    }
    for order in orders {
        let mut other = SharedLinks::default();
        for piece in order.iter().chain(&order) {
            assert!(piece.check().is_ok());
            other.merge(piece.clone());
        }
        assert_eq!(other, links);
    }
    assert!(pieces.into_iter().all(|piece| !links.merge(piece)), "nothing of it is news twice");
    assert_eq!(links.sightings(&id("bob")).map(|(place, ..)| place.clone()).collect::<Vec<_>>(), [id("alice")]);
}

#[test]
fn who_leaves_the_list_takes_what_was_seen_along() {
    let (mut links, pieces) = phone(&["alice", "carol"]);
    let (mut laptop, _) = phone(&["alice", "carol"]);
    let gone = say(&mut links, &list(&["carol"]), &[], NOW.plus_secs(60));
    assert_eq!(gone.len(), 1, "one page");
    laptop.merge_all(gone);
    for links in [&mut links, &mut laptop] {
        assert_eq!((links.list(&id("bob")), links.sightings(&id("bob")).count()), (list(&["carol"]), 0));
        // An old copy, as a mailbox that was set back gives it, brings nobody back.
        links.merge_all(pieces.clone());
        assert_eq!((links.list(&id("bob")), links.sightings(&id("bob")).count()), (list(&["carol"]), 0));
    }
}

#[test]
fn a_link_that_has_ended_stays_so_until_another_begins() {
    let (mut links, pieces) = phone(&["alice"]);
    let ended = links.end(&id("bob")).expect("it was linked");
    assert!(links.end(&id("bob")).is_none());
    // Said by the laptop, while the phone says something new.
    let (mut phone, _) = phone(&["alice"]);
    let later = say(&mut phone, &list(&["alice", "dave"]), &[], NOW.plus_secs(9));
    links.merge_all(later.into_iter().chain(pieces.clone()));
    assert!(links.live().next().is_none() && links.list(&id("bob")).is_empty());
    assert_eq!(links.pieces().count(), 1, "the end alone is kept");
    phone.merge(ended);
    assert!(phone.linked(&id("bob")).is_none());
    assert!(say(&mut phone, &list(&["alice"]), &[], NOW).is_empty(), "nobody holds it");
    // Within the same second, on another device.
    links.begin(&id("bob"), LAPTOP, false, NOW).expect("news");
    links.merge_all(pieces);
    assert_eq!(links.linked(&id("bob")).map(|account| account.holder), Some(LAPTOP));
    assert!(links.list(&id("bob")).is_empty(), "what the former link brought is gone");
    assert!(say(&mut links, &list(&["alice"]), &[], NOW).is_empty(), "the phone doesn't hold it any more");
}

#[test]
fn what_is_seen_again_is_shared_again_now_and_then_alone() {
    let (mut links, _) = phone(&["alice"]);
    let all = list(&["alice"]);
    let again = |links: &mut SharedLinks, sighting: &Sighting, now| say(links, &all, &[("alice", sighting)], now).len();
    let soon = NOW.plus_secs(SEEN_AGAIN_SECS - 1);
    assert_eq!(again(&mut links, &sighting(2, "alice", soon), soon), 0);
    let later = NOW.plus_secs(SEEN_AGAIN_SECS);
    assert_eq!(again(&mut links, &sighting(2, "alice", later), later), 1);
    assert_eq!(again(&mut links, &sighting(3, "alice", later.plus_secs(1)), later), 1, "another user's is news");
    assert_eq!(again(&mut links, &Sighting::nothing(later.plus_secs(2)), later), 1, "and that there is none");
    assert_eq!(again(&mut links, &Sighting::nothing(later.plus_secs(90_000)), later), 0);
}

#[test]
fn everything_is_bounded() {
    let mut links = SharedLinks::default();
    for number in 0..3 * SHARED_ACCOUNTS_MAX {
        let account = id(&format!("b{number}"));
        if links.begin(&account, PHONE, false, NOW).is_some() && number % 2 == 0 {
            links.end(&account);
        }
    }
    assert_eq!(links.live().count(), LINKED_MAX);
    assert!(links.accounts.len() <= SHARED_ACCOUNTS_MAX, "{}", links.accounts.len());
    // Pages of accounts that nobody has heard of.
    for number in 0..3 * SHARED_ACCOUNTS_MAX {
        let (account, contacts) = (id(&format!("x{number}")), Vec::new());
        let page = SharedContacts { account, link: 1, page: 0, version: 1, contacts, extensions: Extensions::none() };
        links.merge(SharedPiece::Contacts(page));
    }
    assert!(links.pages.len() <= SHARED_ACCOUNTS_MAX, "{}", links.pages.len());
    let mut links = SharedLinks::default();
    links.begin(&id("bob"), PHONE, false, NOW);
    let shown = sighting(2, "alice", NOW);
    for number in 0..SHARED_SIGHTINGS_MAX + 10 {
        let (account, place) = (id("bob"), id(&format!("c{number}")));
        let at = NOW.plus_secs(u64::try_from(number).expect("small"));
        let sighting = Sighting { read_at: at, ..shown.clone() };
        links.merge(SharedPiece::Sighting(Box::new(SharedSighting {
            account,
            link: NOW.0,
            place,
            sighting,
            extensions: Extensions::none(),
        })));
    }
    assert_eq!(links.sightings.len(), SHARED_SIGHTINGS_MAX);
    assert!(!links.sightings.contains_key(&(id("bob"), id("c9"))), "the oldest fall out");
}

#[test]
fn pieces_out_of_range_are_refused() {
    let (links, _) = phone(&["alice"]);
    let page = links.pages.values().next().expect("one").clone();
    let carol = ["carol", "dave", "erin"].iter().map(|name| id(name)).find(|id| page_of(id) != page.page).expect("one");
    for wrong in [
        SharedContacts { page: PAGES, ..page.clone() },
        SharedContacts { contacts: vec![(carol, None)], ..page.clone() },
        SharedContacts { contacts: [page.contacts.clone(), page.contacts.clone()].concat(), ..page.clone() },
        SharedContacts { contacts: vec![(id("alice"), Some("n".repeat(PAGE_BYTES_MAX)))], ..page.clone() },
    ] {
        assert!(SharedPiece::Contacts(wrong).check().is_err());
    }
    let seen = links.sightings.values().next().expect("one").clone();
    assert!(SharedPiece::Sighting(Box::new(SharedSighting { place: id("carol"), ..seen })).check().is_err());
    let many = vec![SharedPiece::Contacts(page); SHARE_PIECES_MAX + 1];
    let shares = LinkedShare::of(&many);
    assert_eq!(shares.iter().map(|share| share.pieces.len()).collect::<Vec<_>>(), [SHARE_PIECES_MAX, 1]);
    assert!(LinkedShare { pieces: many, extensions: Extensions::none() }.check().is_err());
}

#[test]
fn what_is_dated_ahead_is_told_from_what_is_not() {
    let (links, pieces) = phone(&["alice"]);
    assert!(pieces.iter().all(|piece| !piece.is_from_the_future(NOW) && piece.is_from_the_future(NOW.minus_secs(86_400))));
    let account = links.account(&id("bob")).expect("linked").clone();
    let worn_out = SharedAccount { version: u64::MAX, ..account };
    assert!(SharedPiece::Account(Box::new(worn_out)).check().is_err(), "no version could follow");
}

/// What sharing costs, as docs/operations.md says it.
#[test]
fn the_largest_lists_fit_the_vault() {
    let mut links = SharedLinks::default();
    let shown = sighting(2, "alice", NOW);
    for account in 0..8 {
        let bob = id(&format!("bob{account}"));
        links.begin(&bob, PHONE, false, NOW);
        let contacts = (0..5_000).map(|number| (id(&format!("contact{number}")), Some(format!("Contact Number {number}"))));
        let all: List = contacts.collect();
        let sightings = all.keys().take(SHARED_SIGHTINGS_MAX / 8).map(|place| (place, &shown, Carrier::Place)).collect();
        let held =
            Held { id: &bob, holder: PHONE, is_token_only: false, association: None, proof: None, list: Some(&all), sightings };
        links.update(&held, NOW);
        assert_eq!(links.list(&bob).len(), 5_000);
    }
    let sizes =
        |kind: fn(&SharedPiece) -> bool| -> usize { links.pieces().filter(kind).map(|piece| wire::encoded_len(&piece)).sum() };
    let pages = sizes(|piece| matches!(piece, SharedPiece::Contacts(_)));
    let sightings = sizes(|piece| matches!(piece, SharedPiece::Sighting(_)));
    // A vault has 24 MiB, and chunks are half full at worst.
    assert!(pages < 3 * 1_024 * 1_024 && sightings < 2 * 1_024 * 1_024, "lists {pages} bytes, sightings {sightings} bytes");
    let largest = links.pieces().map(|piece| wire::encoded_len(&piece)).max().expect("some");
    assert!(largest <= PAGE_BYTES_MAX);
}

#[test]
fn own_devices_hear_by_which_carrier_something_came() {
    let (mut links, _) = phone(&["alice", "carol", "dave"]);
    let (alice, carol, dave) = (sighting(2, "alice", NOW), sighting(3, "carol", NOW), sighting(4, "dave", NOW));
    let (ids, list) = (["alice", "carol", "dave"].map(id), list(&["alice", "carol", "dave"]));
    let by = [Carrier::Place, Carrier::Presence, Carrier::Directory];
    let sightings = ids.iter().zip([&alice, &carol, &dave]).zip(by).map(|((place, seen), by)| (place, seen, by)).collect();
    let bob = id("bob");
    let held =
        Held { id: &bob, holder: PHONE, is_token_only: false, association: None, proof: None, list: Some(&list), sightings };
    links.update(&held, NOW);
    let mut laptop = SharedLinks::default();
    laptop.merge_all(links.pieces());
    assert_eq!(laptop.sightings(&id("bob")).map(|(.., by)| by).collect::<Vec<_>>(), by);
}
