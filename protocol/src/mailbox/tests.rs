use std::time::{Duration, Instant};

use proptest::prelude::*;
use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;

use super::*;
use crate::call::{HpkeKeyPair, HpkeKeyRing};
use crate::capability::{CapabilityError, Holder, Issuer, Limits, Service};
use crate::id::ConversationId;
use crate::identity::{ChainError, TrustStore, VerifiedChain};
use crate::key::{PublicKey, SecretKey};
use crate::message::{Content, Envelope, MessageBody, TEXT_BYTES_MAX};
use crate::session::MailboxKeyFetch;
use crate::test_identity::{Authority, NOW, Person};
use crate::time::Now;
use crate::wire;

const MAILBOX: DeviceKey = DeviceKey(PublicKey([70; 32]));
const POLICY: MailboxPolicy = MailboxPolicy { accounts_max: 10, bytes_max: 1_000_000 };

struct Scene {
    trust: TrustStore,
    alice: Person,
    alice_chain: VerifiedChain,
    bob: Person,
    bob_chain: VerifiedChain,
    ring: HpkeKeyRing,
    rng: ChaCha20Rng,
    start: Instant,
}

fn scene() -> Scene {
    let authority = Authority::new(1);
    let (alice, bob) = (authority.person("alice", 10), authority.person("bob", 20));
    let trust = authority.trust();
    let mut rng = ChaCha20Rng::seed_from_u64(7);
    let ring = HpkeKeyRing::new(HpkeKeyPair::generate(&mut rng), NOW);
    let alice_chain = alice.chain.verify(NOW, &trust).expect("good");
    let bob_chain = bob.chain.verify(NOW, &trust).expect("good");
    Scene { trust, alice, alice_chain, bob, bob_chain, ring, rng, start: Instant::now() }
}

fn envelope(text: &str) -> Envelope {
    Envelope {
        id: MessageId([2; 16]),
        conversation: ConversationId([3; 16]),
        counter: 1,
        sent_at: NOW,
        body: MessageBody::Text(text.into()),
        extensions: Extensions::none(),
    }
}

fn raw(bytes: Vec<u8>) -> SealedLetter {
    SealedLetter::from_bytes(bytes).expect("not too many")
}

impl Scene {
    fn letter(&self, text: &str) -> Letter {
        Letter {
            chain: self.alice.chain.clone(),
            recipient: self.bob.device(),
            content: Content::Plain(envelope(text)),
            extensions: Extensions::none(),
        }
    }

    fn sealed(&mut self, text: &str) -> SealedLetter {
        let letter = self.letter(text);
        SealedLetter::seal(letter, &self.alice.device_key, &self.ring.public(), &mut self.rng).expect("fits")
    }

    fn put(&mut self, text: &str) -> MailboxPut {
        let recipient = self.bob.device();
        MailboxPut {
            recipient,
            id: LetterId::of(&MessageId([2; 16]), &recipient, &MAILBOX, 0),
            letter: self.sealed(text),
            until: NOW.plus_secs(86_400),
            admission: None,
            extensions: Extensions::none(),
        }
    }

    fn admitted(&mut self, text: &str, holder: Holder, key: &SecretKey) -> MailboxPut {
        let mut put = self.put(text);
        let capability = Capability {
            id: CapabilityId([4; 16]),
            issuer: Issuer::Device(self.bob.device()),
            service: Service::Mailbox,
            holder,
            limits: Limits { per_hour: 100, payload_bytes_max: 43_008 },
            epoch: 3,
            not_before: NOW,
            not_after: NOW.plus_secs(86_400),
            extensions: Extensions::none(),
        };
        let proof = CapabilityProof::sign(capability.id, MAILBOX, put.request_hash(), NOW, key);
        put.admission = Some(Admission { capability: Signed::sign(capability, &self.bob.device_key), proof });
        put
    }

    fn account(&self, has_door: bool) -> Account {
        let request = MailboxOpen { epoch: 3, revoked: Vec::new(), has_door, extensions: Extensions::none() };
        decide_open(&request, &self.bob_chain, None, 0, &POLICY, NOW).expect("opened")
    }

    fn now(&self) -> Now {
        Now { instant: self.start, unix: NOW }
    }

    fn decide(
        &self,
        put: &MailboxPut,
        account: &Account,
        presenter: Option<&VerifiedChain>,
        rates: &mut MailboxRates,
    ) -> Result<PutGrant, PutRefusal> {
        decide_put(put, Some(account), presenter, &MAILBOX, rates, self.now())
    }
}

#[test]
fn a_letter_opens_for_its_recipient_and_says_who_wrote_it() {
    let mut scene = scene();
    let sealed = scene.sealed("hello");
    let opened = sealed.open(&scene.ring, &scene.bob.device(), NOW, &scene.trust).expect("opens");
    assert_eq!(opened.sender().user.id, scene.alice_chain.user.id);
    let (content, sender, _) = opened.into_parts();
    assert_eq!(content, Content::Plain(envelope("hello")));
    assert_eq!(sender.device, scene.alice.device());
}

#[test]
fn sizes_tell_classes_only_and_the_longest_text_fits() {
    let mut scene = scene();
    let short: Vec<usize> = ["", "a", &"b".repeat(900)].map(|text| scene.sealed(text).as_bytes().len()).to_vec();
    assert_eq!(short, vec![DOOR_LETTER_BYTES_MAX; 3], "a contact request of 1 KiB goes through the door");
    let longest = scene.sealed(&"x".repeat(TEXT_BYTES_MAX));
    assert!(longest.has_class_size());
    let put = MailboxPut { letter: longest, ..scene.put("") };
    assert!(wire::encode(&put).len() <= MailboxPut::LIMIT);
    let too_long = scene.letter(&"x".repeat(TEXT_BYTES_MAX + 1));
    let refused = SealedLetter::seal(too_long, &scene.alice.device_key, &scene.ring.public(), &mut scene.rng);
    assert!(matches!(refused, Err(SealLetterError::Field(_))), "{refused:?}");
}

#[test]
fn letters_forged_resealed_changed_or_of_the_revoked_are_refused() {
    let mut scene = scene();
    let me = scene.bob.device();
    let open = |scene: &Scene, sealed: &SealedLetter, me: &DeviceKey| sealed.open(&scene.ring, me, NOW, &scene.trust);
    let sealed = scene.sealed("hello");
    assert!(open(&scene, &sealed, &me).is_ok());
    for position in [0, 5, 40, sealed.as_bytes().len() - 1] {
        let mut bytes = sealed.as_bytes().to_vec();
        bytes[position] ^= 1;
        assert!(open(&scene, &raw(bytes), &me).is_err(), "byte {position} was changed");
    }
    for length in [0, 1, 30, 48, 49, 60] {
        assert!(open(&scene, &raw(sealed.as_bytes()[..length].to_vec()), &me).is_err());
    }
    assert_eq!(open(&scene, &sealed, &scene.alice.device()), Err(LetterError::NotForMe));
    // Bob reads a letter to him, and seals it on to somebody else with the same key ring.
    let resealed = Letter { recipient: scene.alice.device(), ..scene.letter("hello") };
    let resealed = SealedLetter::seal(resealed, &scene.alice.device_key, &scene.ring.public(), &mut scene.rng).expect("fits");
    assert_eq!(open(&scene, &resealed, &me), Err(LetterError::NotForMe), "the recipient is bound to the seal");
    let forged = scene.letter("I am alice");
    let forged = SealedLetter::seal(forged, &scene.bob.device_key, &scene.ring.public(), &mut scene.rng).expect("fits");
    assert!(matches!(open(&scene, &forged, &me), Err(LetterError::Signature(_))));
    let stranger = Authority::new(9).person("alice", 10);
    let foreign = Letter { chain: stranger.chain.clone(), ..scene.letter("hello") };
    let foreign = SealedLetter::seal(foreign, &stranger.device_key, &scene.ring.public(), &mut scene.rng).expect("fits");
    assert!(matches!(open(&scene, &foreign, &me), Err(LetterError::Chain(ChainError::UnknownAuthority(_)))));
    let not_a_key = SealedLetter::seal(scene.letter("hello"), &scene.alice.device_key, &[0; 32], &mut scene.rng);
    assert_eq!(not_a_key, Err(SealLetterError::RecipientKey));
}

#[test]
fn the_former_key_opens_what_waited() {
    let mut scene = scene();
    let sealed = scene.sealed("hello");
    let later = NOW.plus_secs(20 * 86_400);
    scene.ring.rotate(HpkeKeyPair::generate(&mut scene.rng), later);
    assert!(sealed.open(&scene.ring, &scene.bob.device(), later, &scene.trust).is_ok());
}

#[test]
fn strangers_leave_a_few_small_letters() {
    let mut scene = scene();
    let (account, mut rates) = (scene.account(true), MailboxRates::new(100));
    let alice = scene.alice_chain.clone();
    let put = scene.put("may I?");
    assert_eq!(scene.decide(&put, &account, None, &mut rates), Err(PutRefusal::NotCertified));
    let grant = scene.decide(&put, &account, Some(&alice), &mut rates).expect("the door is open");
    assert!(grant.is_stranger);
    assert_eq!(grant.holder, alice.user.identity.0);
    let (large, closed) = (scene.put(&"x".repeat(4_000)), scene.account(false));
    assert!(matches!(scene.decide(&large, &account, Some(&alice), &mut rates), Err(PutRefusal::Size(_))));
    assert_eq!(scene.decide(&put, &closed, Some(&alice), &mut rates), Err(PutRefusal::ContactsOnly));
    let allowed = (0..20).filter(|_| scene.decide(&put, &account, Some(&alice), &mut rates).is_ok()).count();
    assert_eq!(allowed, 3, "four in all at once");
    let waiting = Held { letters: DOOR_LETTERS_PER_HOLDER, bytes: 100 };
    let none = Held::default();
    let room = |of_box, of_door, of_holder, of_all| grant.check_room(2_560, of_box, of_door, of_holder, of_all, &POLICY);
    assert_eq!(room(none, none, none, none), Ok(()));
    assert_eq!(room(none, none, waiting, none), Err(PutRefusal::Share(3)));
    let crowd = Held { letters: DOOR_LETTERS_PER_ACCOUNT, bytes: 100 };
    assert_eq!(room(crowd, crowd, none, none), Err(PutRefusal::Full));
    assert_eq!(room(crowd, none, none, none), Ok(()), "contacts' letters don't close the door");
    let all = Held { letters: 9, bytes: POLICY.bytes_max };
    assert_eq!(room(none, none, none, all), Err(PutRefusal::Full));
}

#[test]
fn contacts_leave_letters_under_a_pseudonym() {
    let mut scene = scene();
    let (account, mut rates) = (scene.account(false), MailboxRates::new(100));
    let pairwise = SecretKey::from_bytes([55; 32]);
    let put = scene.admitted(&"x".repeat(4_000), Holder::Key(pairwise.public()), &pairwise);
    let grant = scene.decide(&put, &account, None, &mut rates).expect("admitted without a name");
    assert_eq!((grant.holder, grant.is_stranger), (pairwise.public(), false));
    let thief = scene.admitted("x", Holder::Key(pairwise.public()), &SecretKey::from_bytes([1; 32]));
    let refused = scene.decide(&thief, &account, None, &mut rates);
    assert!(matches!(refused, Err(PutRefusal::Capability(CapabilityError::ProofSignature(_)))), "{refused:?}");
    let other_letter = MailboxPut { letter: scene.sealed("another"), ..put.clone() };
    let refused = scene.decide(&other_letter, &account, None, &mut rates);
    assert_eq!(refused, Err(PutRefusal::Capability(CapabilityError::WrongProof("request"))));
    let mut moved_on = account.clone();
    moved_on.rules.raise_epoch(4);
    let refused = scene.decide(&put, &moved_on, None, &mut rates);
    assert!(matches!(refused, Err(PutRefusal::Capability(CapabilityError::OldEpoch { .. }))), "{refused:?}");
    let half = Held { letters: 1, bytes: ACCOUNT_BYTES_MAX / u64::from(HOLDER_SHARE) };
    let none = Held::default();
    assert_eq!(grant.check_room(1, half, none, half, none, &POLICY), Err(PutRefusal::Share(1)), "one contact fills no box");
    assert_eq!(grant.check_room(1, half, none, none, none, &POLICY), Ok(()));
    let alice = scene.alice_chain.clone();
    let alices_key = scene.alice.device_key.clone();
    let certified = scene.admitted("x", Holder::Certified, &alices_key);
    assert_eq!(
        scene.decide(&certified, &account, Some(&alice), &mut rates),
        Err(PutRefusal::ContactsOnly),
        "what anybody may use is the door by another name"
    );
}

#[test]
fn own_devices_need_no_capability() {
    let mut scene = scene();
    let (account, mut rates) = (scene.account(false), MailboxRates::new(100));
    let bob = scene.bob_chain.clone();
    let put = scene.put(&"x".repeat(9_000));
    let grant = scene.decide(&put, &account, Some(&bob), &mut rates).expect("own");
    assert!(!grant.is_stranger);
}

#[test]
fn boxes_end_and_sizes_and_times_are_checked() {
    let mut scene = scene();
    let (account, mut rates) = (scene.account(true), MailboxRates::new(100));
    let alice = scene.alice_chain.clone();
    let put = scene.put("hello");
    let refused = decide_put(&put, None, Some(&alice), &MAILBOX, &mut rates, scene.now());
    assert_eq!(refused, Err(PutRefusal::NoBox));
    let over = Now { instant: scene.start + Duration::from_secs(1), unix: account.expires_at.plus_secs(1) };
    let late = MailboxPut { until: over.unix.plus_secs(60), ..put.clone() };
    assert_eq!(decide_put(&late, Some(&account), Some(&alice), &MAILBOX, &mut rates, over), Err(PutRefusal::NoBox));
    let odd = MailboxPut { letter: raw(vec![1; 2_559]), ..put.clone() };
    assert_eq!(scene.decide(&odd, &account, Some(&alice), &mut rates), Err(PutRefusal::Size(2_559)));
    let spent = MailboxPut { until: NOW, ..put.clone() };
    assert_eq!(scene.decide(&spent, &account, Some(&alice), &mut rates), Err(PutRefusal::Expired(NOW)));
    let long = MailboxPut { until: NOW.plus_secs(10 * LETTER_SECS_MAX), ..put };
    let grant = scene.decide(&long, &account, Some(&alice), &mut rates).expect("kept");
    assert_eq!(grant.until, NOW.plus_secs(LETTER_SECS_MAX));
}

#[test]
fn a_box_keeps_its_epoch_and_revocations() {
    let scene = scene();
    let open = |epoch, revoked: &[u8], known: Option<&Account>, accounts| {
        let revoked = revoked.iter().map(|number| CapabilityId([*number; 16])).collect();
        let request = MailboxOpen { epoch, revoked, has_door: true, extensions: Extensions::none() };
        decide_open(&request, &scene.bob_chain, known, accounts, &POLICY, NOW)
    };
    let first = open(3, &[1], None, 0).expect("room");
    let again = open(2, &[2], Some(&first), POLICY.accounts_max).expect("known ones need no room");
    assert_eq!(again.rules.epoch(), 3, "never back");
    assert!(again.rules.is_revoked(&CapabilityId([1; 16])) && again.rules.is_revoked(&CapabilityId([2; 16])));
    assert_eq!(open(3, &[], None, POLICY.accounts_max), Err(OpenRefusal::Full));
    let nameless = VerifiedChain {
        user: crate::identity::UserChain::Key(scene.bob_chain.user.identity).verify(NOW, &scene.trust).expect("its own key"),
        ..scene.bob_chain.clone()
    };
    let request = MailboxOpen { epoch: 0, revoked: Vec::new(), has_door: true, extensions: Extensions::none() };
    assert_eq!(decide_open(&request, &nameless, None, 0, &POLICY, NOW), Err(OpenRefusal::NotCertified));
}

#[test]
fn ids_tell_mailboxes_nothing() {
    let message = MessageId([2; 16]);
    let (one, two) = (DeviceKey(PublicKey([1; 32])), DeviceKey(PublicKey([2; 32])));
    let id = LetterId::of(&message, &one, &MAILBOX, 0);
    assert_eq!(id, LetterId::of(&message, &one, &MAILBOX, 0), "a repetition is known again");
    assert_ne!(id, LetterId::of(&message, &two, &MAILBOX, 0));
    assert_ne!(id, LetterId::of(&message, &one, &two, 0));
    assert_ne!(id, LetterId::of(&message, &one, &MAILBOX, 1), "encrypted anew it is another letter");
    assert_ne!(id.0, message.0);
}

#[test]
fn an_answer_full_of_the_largest_letters_fits_its_frame() {
    let item = MailboxItem { number: u64::MAX, kept_at: NOW, letter: raw(vec![1; LETTER_BYTES_MAX]) };
    let items = MailboxItems {
        items: vec![item; ITEMS_BYTES_MAX / LETTER_BYTES_MAX],
        has_more: true,
        refused: None,
        extensions: Extensions::none(),
    };
    assert!(wire::encode(&items).len() <= MailboxItems::LIMIT);
    let done = MailboxTake { done: vec![u64::MAX; DONE_MAX], after: u64::MAX, extensions: Extensions::none() };
    assert!(wire::encode(&done).len() <= MailboxTake::LIMIT);
}

proptest! {
    #[test]
    fn arbitrary_bytes_open_nothing_and_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..3_000)) {
        let scene = scene();
        let sealed = raw(bytes);
        prop_assert!(sealed.open(&scene.ring, &scene.bob.device(), NOW, &scene.trust).is_err());
    }
}

#[test]
fn what_is_encrypted_fits_a_letter_of_the_next_size() {
    use crate::session::{Account as Keys, PLAIN_SIZE_CLASSES, Pair, Sessions};
    let mut scene = scene();
    let (alice, bob) = (Keys::new(NOW), Keys::new(NOW));
    let users = [&scene.alice_chain, &scene.bob_chain].map(|chain| (&chain.user.id, &chain.user.identity, &chain.device));
    let pair = Pair::of(users[0], users[1]);
    let mut sessions = Sessions::default();
    sessions.start(&alice, &bob.keys(), None, None).expect("good keys");
    let mut sizes = Vec::new();
    for class in PLAIN_SIZE_CLASSES {
        let room = class - 41 - wire::encoded_len(&envelope("")) - 4;
        let text = "x".repeat(room.min(TEXT_BYTES_MAX));
        let is_text = room <= TEXT_BYTES_MAX;
        let mut full = envelope(&text);
        if !is_text {
            full.extensions = Extensions::none().with(7, vec![0; room - TEXT_BYTES_MAX - 12]);
        }
        let sealed = sessions.encrypt(&pair, &full).expect("fits its class");
        let letter = Letter { content: Content::Sealed(sealed), ..scene.letter("") };
        let sealed = SealedLetter::seal(letter, &scene.alice.device_key, &scene.ring.public(), &mut scene.rng).expect("fits");
        assert!(sealed.has_class_size());
        sizes.push(sealed.as_bytes().len());
    }
    assert_eq!(sizes, [2_560, 2_560, 5_120, 10_240, 20_480, 43_008]);
}

#[test]
fn one_time_keys_are_for_those_who_may_write() {
    let scene = scene();
    let account = scene.account(true);
    let mut rates = MailboxRates::new(10);
    let plain = MailboxKeyFetch { device: scene.bob.device(), admission: None, extensions: Extensions::none() };
    let ask = |request: &MailboxKeyFetch, account: Option<&Account>, who: Option<&VerifiedChain>, rates: &mut MailboxRates| {
        decide_key_fetch(request, account, who, &MAILBOX, rates, scene.now())
    };
    let alice = Some(&scene.alice_chain);
    assert_eq!(ask(&plain, None, alice, &mut rates), Err(PutRefusal::NoBox));
    assert_eq!(ask(&plain, Some(&account), None, &mut rates), Err(PutRefusal::NotCertified));
    assert_eq!(ask(&plain, Some(&scene.account(false)), alice, &mut rates), Err(PutRefusal::ContactsOnly));
    assert_eq!(ask(&plain, Some(&account), alice, &mut rates), Ok(()));
    let refused = (0..20).find_map(|_| ask(&plain, Some(&account), alice, &mut rates).err());
    assert!(matches!(refused, Some(PutRefusal::Rate(_))), "nobody empties a box of keys: {refused:?}");
    // A contact comes with a capability; one of another request isn't taken.
    let key = SecretKey::from_bytes([77; 32]);
    let capability = Capability {
        id: CapabilityId([4; 16]),
        issuer: Issuer::Device(scene.bob.device()),
        service: Service::Mailbox,
        holder: Holder::Key(key.public()),
        limits: Limits { per_hour: 100, payload_bytes_max: 43_008 },
        epoch: 3,
        not_before: NOW,
        not_after: NOW.plus_secs(86_400),
        extensions: Extensions::none(),
    };
    let admitted = |hash: [u8; 32]| {
        let proof = CapabilityProof::sign(capability.id, MAILBOX, hash, NOW, &key);
        let capability = Signed::sign(capability.clone(), &scene.bob.device_key);
        MailboxKeyFetch { admission: Some(Admission { capability, proof }), ..plain.clone() }
    };
    assert_eq!(ask(&admitted(plain.request_hash()), Some(&scene.account(false)), None, &mut rates), Ok(()));
    assert!(matches!(ask(&admitted([9; 32]), Some(&account), None, &mut rates), Err(PutRefusal::Capability(_))));
}
