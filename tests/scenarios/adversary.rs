//! Goal: who is no contact learns what the table in docs/security.md says and no more, whatever role they have taken; and a contact learns no other contacts
//! but those it shares, or none. Method: an adversary with a real certificate that keeps every byte it is told, as a helper that everybody has chosen and as
//! a stranger who asks for everything; what it holds is searched. Each search finds the same things where the key is given.

use std::collections::BTreeSet;
use std::time::Duration;

use halloo_protocol::contact::PresenceKey;
use halloo_protocol::directory::{DeviceEntry, UnverifiedRecord};
use halloo_protocol::kademlia::{FindNode, Nodes, Store};
use halloo_protocol::key::{DeviceKey, PublicKey};
use halloo_protocol::mailbox::{LETTER_SIZE_CLASSES, MailboxOpen, MailboxPut, MailboxTake};
use halloo_protocol::presence::{
    LinkTag, Mode, NamedTopic, Part, PassedDocument, PresenceGossip, PresenceSecret, SEALED_SIZES, SealedBody, SealedDocument,
    Topic, TopicName, TopicPlace, TopicSlot, TopicWant,
};
use halloo_protocol::session::KeyFetch;
use halloo_protocol::vault::{CHUNK_SIZE_CLASSES, VaultLook, VaultPut};
use halloo_protocol::wire::{self, Extensions, Frame, FrameKind, Message, Signed};
use halloo_tests::attacker::{Attacker, Forger, device_secret, record_key};
use halloo_tests::presence_reader::Kept;
use halloo_tests::spy::{Spy, Told};
use halloo_tests::{Network, Plan, User, eventually};

const SEEN_TIME_MAX: Duration = Duration::from_secs(45);

/// What alice says of herself, to contacts.
const NAME: &str = "Alice of the Looking Glass";
const PROFILE_MOOD: &str = "rather be painting roses";
const MOOD: &str = "down the rabbit hole until tea";
const DEVICE: &str = "the device on the mushroom";

/// What she writes, once short and once longer.
const SHORT: &str = "curiouser and curiouser";
const LONG: &str =
    "why, sometimes I've believed as many as six impossible things before breakfast, said the Queen; and now be off";

const SECRETS: [&str; 6] = [NAME, PROFILE_MOOD, MOOD, DEVICE, SHORT, LONG];

/// Names long enough that they don't turn up in random bytes.
const BOB: &str = "bobwhitequail";
const CAROL: &str = "carolinawren";

fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}

fn device_key(user: &User) -> DeviceKey {
    halloo::address::device_key(&user.peer_id().parse().expect("a peer id")).expect("an Ed25519 key")
}

fn identity(user: &User) -> [u8; 32] {
    let encoded = user.identity.rsplit(':').next().expect("a key");
    data_encoding::BASE64URL_NOPAD.decode(encoded.as_bytes()).ok().and_then(|bytes| bytes.try_into().ok()).expect("32 bytes")
}

/// Alice says all there is to say, and does all that strangers aren't to learn of.
fn alice_lives(alice: &User) {
    alice.cli(["profile", "set", "--name", NAME, "--mood", PROFILE_MOOD]).ok();
    alice.cli(["device", "rename", &alice.peer_id(), DEVICE]).ok();
    alice.cli(["presence", "set", "dnd", "--mood", MOOD]).ok();
}

#[track_caller]
fn sees_mood(user: &User, of: &User) {
    eventually(SEEN_TIME_MAX, "a contact sees the mood", || {
        let seen = user.api().get(&format!("/v1/presence/contacts/{}", of.username))?;
        if seen["mood"] == MOOD { Ok(()) } else { Err(seen.to_string()) }
    });
}

#[track_caller]
fn has_chosen(user: &User, mailbox: &DeviceKey) {
    let wanted = halloo::address::peer_id(mailbox).expect("a key").to_string();
    eventually(SEEN_TIME_MAX, &format!("{} has chosen the spy", user.username), || {
        let status = user.api().get("/v1/status")?;
        let is_chosen = status["mailboxes"].as_array().is_some_and(|list| list.iter().any(|named| *named == wanted.as_str()));
        if is_chosen { Ok(()) } else { Err(status["mailboxes"].to_string()) }
    });
}

/// Documents that a device brought to the carrier itself.
fn brought(spy: &Spy, by: &DeviceKey) -> Vec<(Topic, SealedDocument)> {
    let parts = spy.said::<PresenceGossip>().into_iter().filter(|(from, _)| from == by).flat_map(|(_, gossip)| gossip.parts);
    let documents = parts.filter_map(documents).flatten();
    documents
        .filter_map(|passed| match passed.place {
            TopicPlace::Topic(topic) => Some((topic, passed.document)),
            TopicPlace::Slot(_) => None,
        })
        .collect()
}

fn documents(part: Part) -> Option<Vec<PassedDocument>> {
    match part {
        Part::Documents(list) => Some(list),
        _ => None,
    }
}

fn names(part: Part) -> Option<Vec<NamedTopic>> {
    match part {
        Part::Names(list) => Some(list),
        _ => None,
    }
}

/// Lengths, each once; all of them have to be of these classes.
#[track_caller]
fn of_classes(what: &str, lengths: impl Iterator<Item = usize>, classes: &[usize]) {
    let lengths: BTreeSet<usize> = lengths.collect();
    eprintln!("{what}: sizes {lengths:?}");
    assert!(!lengths.is_empty(), "no {what}: nothing is shown");
    assert!(lengths.iter().all(|length| classes.contains(length)), "{what}: {lengths:?}, not all of {classes:?}");
}

#[test]
fn a_helper_of_everybody_reads_nothing_and_a_stranger_is_told_nothing() {
    let mut network = Plan::new(["alice", BOB, CAROL, "mallory"]).contacts_only().start();
    network.befriend(&network.users[0], &network.users[1]);
    network.befriend(&network.users[0], &network.users[2]);
    let forger = Forger::of_user(&network, &network.users[3], 1);
    network.users[3].kill();
    let meets = network.users[..3].iter().map(|user| user.addresses()[0].clone()).collect();
    let spy = Spy::start(&forger, meets);
    let [alice, bob, carol, _] = network.users();
    for user in [&*alice, &*bob, &*carol] {
        has_chosen(user, &forger.device_key());
    }
    alice_lives(alice);
    sees_mood(bob, alice);
    sees_mood(carol, alice);
    let (alices, bobs) = (device_key(alice), device_key(bob));
    // Bob is away, and what alice writes lies with the spy.
    assert_eq!(bob.terminate().0, 0);
    for text in [SHORT, LONG] {
        alice.cli(["msg", "send", &bob.username, text]).ok();
    }
    let letters = eventually(SEEN_TIME_MAX, "two letters at the spy", || {
        let letters: Vec<MailboxPut> =
            spy.said::<MailboxPut>().into_iter().filter(|(from, _)| *from == alices).map(|(_, put)| put).collect();
        let ids: BTreeSet<[u8; 16]> = letters.iter().map(|put| put.id.0).collect();
        if ids.len() >= 2 { Ok(letters) } else { Err(format!("{} letters", ids.len())) }
    });
    let kept = Kept::of(bob.home(), "alice");
    let (day, topic) = kept.topic(&alices);
    eventually(SEEN_TIME_MAX, "the spy carries alice's presence", || {
        let held = brought(&spy, &alices);
        let opened = held
            .iter()
            .filter(|(under, _)| *under == topic)
            .filter_map(|(_, sealed)| kept.open(sealed, &alices, (day, &topic)).ok());
        if opened.into_iter().any(|read| read.mood == MOOD) { Ok(()) } else { Err(format!("{} documents", held.len())) }
    });
    let record = eventually(SEEN_TIME_MAX, "the spy keeps alice's record", || {
        let stored = spy.said::<Store>();
        let mut records = stored.iter().filter_map(|(_, store)| UnverifiedRecord::from_bytes(&store.record).ok());
        let found = records.rfind(|record| record.entries.iter().any(|parts| opens_as_renamed(parts.entry(), &kept.key)));
        found.ok_or_else(|| format!("{} records", stored.len()))
    });
    let answers = a_stranger_asks_for_everything(&network, &forger);
    let [alice, bob, carol, _] = network.users();
    let told = spy.told();
    eprintln!("the spy holds {} frames, the stranger {} answers", told.len(), answers.len());

    // What nobody but contacts may read. That these bytes are searched well shows in what may be found in them.
    let all: Vec<&[u8]> = told.iter().map(|told| told.bytes.as_slice()).chain(answers.iter().map(Vec::as_slice)).collect();
    let is_held = |wanted: &[u8]| all.iter().any(|bytes| contains(bytes, wanted));
    assert!(is_held(b"alice") && is_held(&identity(alice)) && is_held(alices.as_bytes()), "names and keys are public");
    for secret in SECRETS {
        assert!(!is_held(secret.as_bytes()), "the adversary can read {secret:?}");
        // Texts are long: a beginning would be as bad.
        assert!(!is_held(&secret.as_bytes()[..secret.len() / 2]), "the adversary can read the beginning of {secret:?}");
    }
    // The same is there for whoever has the key.
    let entry = record.entries.iter().map(|parts| parts.entry()).find(|entry| entry.device == alices).expect("her device");
    let sealed = entry.sealed.as_ref().expect("a part for contacts");
    let private = kept.key.seal_key().open(&alices, sealed).expect("a contact's key opens it");
    assert!(contains(&wire::encode(&private), DEVICE.as_bytes()));
    let wrong = PresenceSecret::new(kept.key.epoch, [7; 32]).key();
    assert!(wrong.seal_key().open(&alices, sealed).is_err(), "another key doesn't");
    who_knows_whom(&told, alice, [bob, carol]);

    of_classes("letters", letters.iter().map(|put| put.letter.as_bytes().len()), &LETTER_SIZE_CLASSES);
    assert_eq!(
        letters.iter().map(|put| put.letter.as_bytes().len()).collect::<BTreeSet<_>>().len(),
        1,
        "a short and a longer message are of one size"
    );
    let documents = spy.said::<PresenceGossip>().into_iter().flat_map(|(_, gossip)| gossip.parts).filter_map(documents).flatten();
    of_classes("presence documents", documents.map(|passed| sealed_len(&passed.document)), &SEALED_SIZES);
    let chunks = spy.said::<VaultPut>().into_iter().filter_map(|(_, put)| put.chunk).map(|chunk| chunk.as_bytes().len());
    of_classes("vault chunks", chunks, &CHUNK_SIZE_CLASSES);
    assert!(spy.said::<MailboxOpen>().iter().any(|(from, _)| *from == alices), "it is her mailbox");
    assert!(letters.iter().all(|put| put.recipient == bobs), "for whom a letter is it has to know");
    // The letters said what they were to say: bob reads them, from his other mailbox.
    let [alice, bob, _, _] = network.users();
    bob.restart();
    for text in [SHORT, LONG] {
        eventually(SEEN_TIME_MAX, "bob reads it", || {
            let list = bob.api().get(&format!("/v1/messages?with={}", alice.username))?;
            let entries = list["messages"].as_array().into_iter().flatten();
            if entries.into_iter().any(|entry| entry["text"] == text) { Ok(()) } else { Err(list.to_string()) }
        });
    }
}

fn opens_as_renamed(entry: &DeviceEntry, key: &PresenceKey) -> bool {
    let opened = entry.sealed.as_ref().and_then(|sealed| key.seal_key().open(&entry.device, sealed).ok());
    opened.is_some_and(|private| private.name == DEVICE)
}

/// The length of what is sealed.
fn sealed_len(document: &SealedDocument) -> usize {
    let signed: Signed<SealedBody> = wire::decode(&wire::encode(document), 1_024).expect("it came so");
    signed.unverified().sealed.len()
}

/// Of what alice told the spy nothing names her contacts but what a mailbox has to know, and records, which are public and passed on by everybody.
fn who_knows_whom(told: &[Told], alice: &User, contacts: [&User; 2]) {
    let alices = device_key(alice);
    let hers: Vec<&Told> = told.iter().filter(|told| told.from == alices && told.frame.kind != Store::KIND).collect();
    assert!(hers.iter().any(|told| contains(&told.bytes, b"alice")), "her own name is in her hello");
    for contact in contacts {
        let name = contact.username.split('@').next().expect("a name").as_bytes();
        for told in &hers {
            let kind = told.frame.kind;
            assert!(!contains(&told.bytes, &identity(contact)), "{kind:?} has {}'s identity key", contact.username);
            assert!(!contains(&told.bytes, name), "{kind:?} has {}'s name", contact.username);
        }
    }
}

/// A certified stranger who knows the name asks alice's device and her mailbox for all there is to ask for; everything that comes back.
fn a_stranger_asks_for_everything(network: &Network, forger: &Forger) -> Vec<Vec<u8>> {
    let alice = &network.users[0];
    let stranger = Forger::new(&network.users[3].phrase, forger.user.clone(), 2);
    let guesses = [identity(alice), *device_key(alice).as_bytes(), record_key(network, alice).0];
    let mut answers = Vec::new();
    for address in [alice.addresses()[0].clone(), network.bootstrap()] {
        let mut asker = Attacker::connect(&address, &stranger.device, &stranger.hello(None));
        asker.find_record(record_key(network, alice));
        for kind in (0x0010..0x00c0).map(FrameKind) {
            for body in [Vec::new(), vec![0; 64], device_key(alice).as_bytes().repeat(2), identity(alice).repeat(2)] {
                asker.send_request(kind, body);
            }
            // What is sent leaves before more is.
            asker.idle(Duration::from_millis(10));
        }
        asker.send_request(MailboxTake::KIND, wire::encode(&MailboxTake::default()));
        asker.send_request(VaultLook::KIND, wire::encode(&VaultLook::default()));
        asker.send_request(KeyFetch::KIND, wire::encode(&KeyFetch::default()));
        let named = guesses.iter().enumerate().flat_map(|(index, guess)| {
            let slot = |number: usize| TopicSlot(u16::try_from(2 * index + number).expect("few"));
            let topic = Topic(PublicKey(*guess));
            let tag = topic.tag(&stranger.device_key(), &device_key(alice));
            [
                NamedTopic { slot: slot(0), name: TopicName::Topic { topic, carriers: Vec::new() } },
                NamedTopic { slot: slot(1), name: TopicName::Tag(tag) },
            ]
        });
        let named: Vec<NamedTopic> = named.collect();
        let wants = named.iter().map(|named| TopicWant { slot: named.slot, mode: Mode::Push, have: 0 }).collect();
        asker.notify(&PresenceGossip { parts: vec![Part::Names(named), Part::Wants(wants)], extensions: Extensions::none() });
        // Answered after all that.
        let last: Result<Nodes, Frame> = asker.ask(&FindNode { target: guesses[0], want: 16, extensions: Extensions::none() });
        assert!(last.is_ok() || last.is_err_and(|frame| frame.kind == FrameKind::BUSY), "it still talks to strangers");
        let said: Vec<Frame> = asker.inbox().to_vec();
        let gossip = said.iter().filter_map(|frame| frame.parse::<PresenceGossip>().ok()).flat_map(|gossip| gossip.parts);
        assert_eq!(gossip.filter_map(documents).flatten().count(), 0, "presence for a guess");
        answers.extend(said.iter().map(wire::encode));
    }
    answers
}

/// Ends a user's daemon, and gives its device into the hands of code.
fn turn(network: &mut Network, index: usize) -> Forger {
    let forger = Forger::of_user(network, &network.users[index], 1);
    let user = &mut network.users[index];
    assert_eq!(user.terminate().0, 0);
    Forger { device: device_secret(user.home()), ..forger }
}

/// The topics that a neighbour has named, with their tags.
fn named_tags(frames: &[Frame]) -> Vec<(TopicSlot, LinkTag)> {
    let parts = frames.iter().filter_map(|frame| frame.parse::<PresenceGossip>().ok()).flat_map(|gossip| gossip.parts);
    let tag = |named: NamedTopic| match named.name {
        TopicName::Tag(tag) => Some((named.slot, tag)),
        TopicName::Topic { .. } => None,
    };
    parts.filter_map(names).flatten().filter_map(tag).collect()
}

/// Asks a neighbour for the documents of these topics by their tags, and waits until the last has come. Which have.
fn ask_by_tag(asker: &mut Attacker, me: &DeviceKey, neighbour: &DeviceKey, topics: &[Topic]) -> Vec<bool> {
    let slots: Vec<TopicSlot> = topics.iter().map(|_| TopicSlot(asker.next_slot())).collect();
    let named = slots.iter().zip(topics);
    let named = named.map(|(slot, topic)| NamedTopic { slot: *slot, name: TopicName::Tag(topic.tag(me, neighbour)) }).collect();
    let wants = slots.iter().map(|slot| TopicWant { slot: *slot, mode: Mode::Push, have: 0 }).collect();
    asker.notify(&PresenceGossip { parts: vec![Part::Names(named), Part::Wants(wants)], extensions: Extensions::none() });
    let mut has_come = vec![false; topics.len()];
    eventually(SEEN_TIME_MAX, "the last topic's document", || {
        asker.idle(Duration::from_millis(100));
        let parts = asker.inbox().iter().filter_map(|frame| frame.parse::<PresenceGossip>().ok()).flat_map(|gossip| gossip.parts);
        for passed in parts.filter_map(documents).flatten() {
            let index = slots.iter().position(|slot| passed.place == TopicPlace::Slot(*slot));
            if let Some(come) = index.and_then(|index| has_come.get_mut(index)) {
                *come = true;
            }
        }
        if has_come.last() == Some(&true) { Ok(()) } else { Err("not yet".to_owned()) }
    });
    has_come
}

#[test]
fn a_contact_learns_of_no_others_but_those_it_shares_and_of_none_if_that_is_forbidden() {
    let mut network = Plan::new(["alice", BOB, CAROL]).contacts_only().start();
    network.befriend(&network.users[0], &network.users[1]);
    network.befriend(&network.users[0], &network.users[2]);
    {
        let [alice, bob, carol] = network.users();
        alice_lives(alice);
        sees_mood(bob, alice);
        sees_mood(carol, alice);
        // What bob was told until now, in any way, doesn't name carol.
        for shown in [bob.cli(["contact", "list"]), bob.cli(["presence", "get"]), bob.cli(["msg", "conversations"])] {
            assert!(!shown.ok().to_string().contains(CAROL), "{shown:?}");
        }
        // Connections are told of by name: everybody here is a node of the directory.
        let told = bob.events().into_iter().filter(|event| event["event"] != "peer_up" && event["event"] != "peer_down");
        let of_carol: Vec<_> = told.filter(|event| event.to_string().contains(CAROL)).collect();
        assert!(of_carol.is_empty(), "{of_carol:?}");
    }
    let carols = device_key(&network.users[2]);
    let alices = device_key(&network.users[0]);
    let bobs = turn(&mut network, 1);
    let me = bobs.device_key();
    let shown = {
        // As alice's neighbour in gossip. She asks who is her contact for the topics of all her contacts, in words that say nothing to others.
        let mut neighbour = Attacker::connect(&network.users[0].addresses()[0], &bobs.device, &bobs.hello(None));
        let alice = Kept::of(network.users[1].home(), "alice");
        assert_eq!(ask_by_tag(&mut neighbour, &me, &alices, &[alice.topic(&alices).1]), [true], "she still trusts the device");
        eventually(SEEN_TIME_MAX, "alice asks for topics", || {
            neighbour.idle(Duration::from_millis(100));
            if named_tags(neighbour.inbox()).len() >= 2 { Ok(()) } else { Err(format!("{:?}", named_tags(neighbour.inbox()))) }
        });
        neighbour.inbox().to_vec()
    };

    // Bob and carol become contacts too: now they share alice.
    network.users[1].restart();
    network.befriend(&network.users[1], &network.users[2]);
    for (one, other) in [(1, 2), (2, 1)] {
        eventually(SEEN_TIME_MAX, "they see each other", || {
            let seen = network.users[one].api().get(&format!("/v1/presence/contacts/{}", network.users[other].username))?;
            if seen["state"] == "online" { Ok(()) } else { Err(seen.to_string()) }
        });
    }
    let bobs = turn(&mut network, 1);
    let home = network.users[1].home().to_owned();
    let ((_, alices_topic), (_, carols_topic)) = (Kept::of(&home, "alice").topic(&alices), Kept::of(&home, CAROL).topic(&carols));
    // With what is known now: nothing of what alice said before was carol's, save a tag that means something to carol's contacts alone.
    let carol = &network.users[2];
    for frame in &shown {
        let bytes = wire::encode(frame);
        let of_carol = [carols.as_bytes(), &identity(carol), carols_topic.as_bytes()];
        // Descriptors name devices of all nodes, whosever contacts they are.
        let of_carol = if frame.kind == PresenceGossip::KIND { &of_carol[..] } else { &of_carol[1..] };
        assert!(!of_carol.iter().any(|wanted| contains(&bytes, *wanted)), "{:?} names carol", frame.kind);
        assert!(!contains(&bytes, CAROL.as_bytes()), "{:?} names carol", frame.kind);
    }
    assert!(
        named_tags(&shown).iter().any(|(_, tag)| *tag == carols_topic.tag(&alices, &me)),
        "the tag is found with carol's key"
    );

    let mut neighbour = Attacker::connect(&carol.addresses()[0], &bobs.device, &bobs.hello(None));
    let both = [alices_topic, carols_topic];
    assert_eq!(ask_by_tag(&mut neighbour, &me, &carols, &both), [true, true], "who shares alice passes her presence on");
    let alices_tag = alices_topic.tag(&carols, &me);
    let named = |frames: &[Frame]| named_tags(frames).into_iter().find(|(_, tag)| *tag == alices_tag).map(|(slot, _)| slot);
    let slot = named(neighbour.inbox()).expect("and asks for it");

    let set = network.users[0].cli(["privacy", "set", "--pass-on", "off"]).ok();
    assert_eq!(set["pass_on"], false, "{set}");
    eventually(SEEN_TIME_MAX, "carol takes back that she asked", || {
        neighbour.idle(Duration::from_millis(100));
        let parts =
            neighbour.inbox().iter().filter_map(|frame| frame.parse::<PresenceGossip>().ok()).flat_map(|gossip| gossip.parts);
        let mut dropped = parts.filter_map(|part| if let Part::Drops(slots) = part { Some(slots) } else { None }).flatten();
        if dropped.any(|dropped| dropped == slot) { Ok(()) } else { Err("not yet".to_owned()) }
    });
    assert_eq!(ask_by_tag(&mut neighbour, &me, &carols, &both), [false, true], "nor does she pass anything on");
    let mut again = Attacker::connect(&carol.addresses()[0], &bobs.device, &bobs.hello(None));
    assert_eq!(ask_by_tag(&mut again, &me, &carols, &both), [false, true]);
    assert_eq!(named(again.inbox()), None, "nobody who meets carol anew is told");
    // Carol herself still sees alice.
    network.users[0].cli(["presence", "set", "away", "--mood", "by other ways"]).ok();
    eventually(SEEN_TIME_MAX, "carol sees alice", || {
        let seen = network.users[2].api().get(&format!("/v1/presence/contacts/{}", network.users[0].username))?;
        if seen["mood"] == "by other ways" { Ok(()) } else { Err(seen.to_string()) }
    });
}
