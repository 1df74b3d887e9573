//! Invites: sealed, opened, refused.

use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;

use crate::call::invite::Origin;
use crate::call::*;
use crate::directory::{DeviceKind, Helper};
use crate::event::EventKind;
use crate::id::ConversationId;
use crate::identity::ChainError;
use crate::key::DeviceKey;
use crate::node::{Address, Transport};
use crate::test_identity::{Authority, NOW, Person};
use crate::wire::{self, Extensions, Signed};

struct Scene {
    authority: Authority,
    alice: Person,
    bob: Person,
    keys: HpkeKeyRing,
    rng: ChaCha20Rng,
}

fn scene() -> Scene {
    let authority = Authority::new(1);
    let (alice, bob) = (authority.person("alice", 10), authority.person("bob", 20));
    let mut rng = ChaCha20Rng::seed_from_u64(3);
    let keys = HpkeKeyRing::new(HpkeKeyPair::generate(&mut rng), NOW);
    Scene { authority, alice, bob, keys, rng }
}

fn invite(from: &Person, to: DeviceKey, offer_bytes: usize) -> Invite {
    let address = Address::V4 { ip: [192, 0, 2, 7], port: 4_242, transport: Transport::Quic };
    Invite {
        chain: from.chain.clone(),
        recipient: to,
        call: CallId([5; 16]),
        conversation: ConversationId([6; 16]),
        kind: EventKind::VOICE_CALL,
        display_name: "Alice in Wonderland".into(),
        avatar: None,
        origin: Origin {
            kind: DeviceKind::Laptop,
            addresses: vec![address.clone()],
            relays: vec![Helper { device: to, addresses: vec![address] }],
        },
        issued_at: NOW,
        expires_at: NOW.plus_secs(60),
        offer: "v".repeat(offer_bytes),
        extensions: Extensions::none(),
    }
}

impl Scene {
    fn sealed(&mut self) -> SealedInvite {
        let content = invite(&self.alice, self.bob.device(), 900);
        SealedInvite::seal(content, &self.alice.device_key, &self.keys.public(), &mut self.rng).expect("fits")
    }

    fn open(&self, sealed: &SealedInvite) -> Result<VerifiedInvite, InviteError> {
        sealed.open(&self.keys, &self.bob.device(), NOW, &self.authority.trust())
    }
}

#[test]
fn an_invite_opens_at_its_recipient_and_names_the_caller() {
    let mut scene = scene();
    let sealed = scene.sealed();
    let opened = scene.open(&sealed).expect("genuine");
    assert_eq!(opened.caller().user.name().map(|name| name.as_str()), Some("alice"));
    assert_eq!(opened.caller_device(), scene.alice.device());
    assert_eq!(opened.invite().offer.len(), 900);
    let frame = wire::encode(&CallInvite { sealed: sealed.clone(), extensions: Extensions::none() });
    let arrived: CallInvite = wire::decode(&frame, <CallInvite as wire::Message>::LIMIT).expect("decodes");
    assert_eq!(arrived.sealed, sealed);
}

#[test]
fn sizes_are_classes_and_an_offer_of_900_bytes_fits_the_middle_one() {
    let mut scene = scene();
    for (offer, size) in [(0, 1_024), (150, 1_024), (900, 1_800), (1_700, 2_800)] {
        let content = invite(&scene.alice, scene.bob.device(), offer);
        let plain = wire::encode(&Signed::sign(content.clone(), &scene.alice.device_key)).len();
        let sealed = SealedInvite::seal(content, &scene.alice.device_key, &scene.keys.public(), &mut scene.rng).expect("fits");
        assert_eq!(sealed.as_bytes().len(), size, "offer of {offer} bytes, {plain} signed");
    }
    let content = invite(&scene.alice, scene.bob.device(), 2_500);
    let refused = SealedInvite::seal(content, &scene.alice.device_key, &scene.keys.public(), &mut scene.rng);
    assert!(matches!(refused, Err(SealInviteError::TooLong(_))), "{refused:?}");
}

#[test]
fn changed_bytes_wrong_recipients_and_wrong_keys_are_refused() {
    let mut scene = scene();
    let sealed = scene.sealed();
    for position in [0, 1, 40, 900, 1_799] {
        let mut bytes = sealed.as_bytes().to_vec();
        bytes[position] ^= 1;
        assert!(scene.open(&SealedInvite::from_bytes(bytes).expect("short enough")).is_err(), "byte {position}");
    }
    for length in [0, 1, 33, 48, 1_799] {
        let bytes = sealed.as_bytes()[..length].to_vec();
        assert!(scene.open(&SealedInvite::from_bytes(bytes).expect("short enough")).is_err());
    }
    assert!(SealedInvite::from_bytes(vec![1; 2_801]).is_err());
    let trust = scene.authority.trust();
    assert_eq!(sealed.open(&scene.keys, &scene.alice.device(), NOW, &trust), Err(InviteError::NotForMe));
    let other = HpkeKeyRing::new(HpkeKeyPair::generate(&mut scene.rng), NOW);
    assert_eq!(sealed.open(&other, &scene.bob.device(), NOW, &trust), Err(InviteError::NotForMe));
    let stranger = Authority::new(90).trust();
    let refused = sealed.open(&scene.keys, &scene.bob.device(), NOW, &stranger);
    assert!(matches!(refused, Err(InviteError::Chain(ChainError::UnknownAuthority(_)))));
}

#[test]
fn an_invite_sealed_on_by_its_recipient_is_refused() {
    // Bob opens alice's invite to him and seals the signed inside to carol: she must not believe that alice calls her.
    let mut scene = scene();
    let carol = scene.authority.person("carol", 30);
    let signed = Signed::sign(invite(&scene.alice, scene.bob.device(), 100), &scene.alice.device_key);
    let inside = wire::encode(&signed);
    let mut plain = u16::try_from(inside.len()).expect("small").to_be_bytes().to_vec();
    plain.extend_from_slice(&inside);
    let seal = |plain, rng: &mut ChaCha20Rng| {
        let sealed =
            hpke_key::seal(&scene.keys.public(), plain, b"halloo invite 1", carol.device().as_bytes(), rng).expect("key");
        SealedInvite::from_bytes([vec![1], sealed].concat()).expect("short")
    };
    let sealed = seal(plain, &mut scene.rng);
    let refused = sealed.open(&scene.keys, &carol.device(), NOW, &scene.authority.trust());
    assert_eq!(refused, Err(InviteError::WrongRecipient(scene.bob.device())));
}

#[test]
fn an_invite_signed_by_another_device_than_its_chain_is_refused() {
    let mut scene = scene();
    let mallory = scene.authority.person("mallory", 40);
    let content = invite(&scene.alice, scene.bob.device(), 100);
    let sealed = SealedInvite::seal(content, &mallory.device_key, &scene.keys.public(), &mut scene.rng).expect("fits");
    assert!(matches!(scene.open(&sealed), Err(InviteError::Signature(_))));
}

#[test]
fn a_late_invite_is_a_missed_call_with_its_caller_and_an_early_one_is_refused() {
    let mut scene = scene();
    let sealed = scene.sealed();
    let (me, trust) = (scene.bob.device(), scene.authority.trust());
    let late = sealed.open(&scene.keys, &me, NOW.plus_secs(60), &trust);
    let Err(InviteError::Expired(missed)) = late else { panic!("{late:?}") };
    assert_eq!(missed.caller().user.name().map(|name| name.as_str()), Some("alice"));
    assert!(sealed.open(&scene.keys, &me, NOW.plus_secs(59), &trust).is_ok());
    assert!(sealed.open(&scene.keys, &me, NOW.minus_secs(299), &trust).is_ok(), "clocks are minutes apart");
    assert_eq!(sealed.open(&scene.keys, &me, NOW.minus_secs(301), &trust), Err(InviteError::FromTheFuture(NOW)));
    let mut content = invite(&scene.alice, me, 10);
    content.expires_at = NOW.plus_secs(INVITE_SECS_MAX + 1);
    let refused = SealedInvite::seal(content, &scene.alice.device_key, &scene.keys.public(), &mut scene.rng);
    assert!(matches!(refused, Err(SealInviteError::Field(_))));
}

#[test]
fn the_former_key_opens_for_a_week_and_stored_rings_come_back() {
    let mut scene = scene();
    let sealed = scene.sealed();
    assert!(!scene.keys.is_due(NOW.plus_secs(HPKE_ROTATION_SECS - 1)));
    let later = NOW.plus_secs(HPKE_ROTATION_SECS);
    assert!(scene.keys.is_due(later));
    scene.keys.rotate(HpkeKeyPair::generate(&mut scene.rng), later);
    assert!(scene.open(&sealed).is_ok());
    scene.keys = HpkeKeyRing::from_bytes(&scene.keys.to_bytes()).expect("own bytes");
    assert!(scene.open(&sealed).is_ok());
    assert!(!scene.keys.prune(later.plus_secs(HPKE_ROTATION_SECS)));
    assert!(scene.keys.prune(later.plus_secs(HPKE_ROTATION_SECS + 1)));
    assert_eq!(scene.open(&sealed), Err(InviteError::NotForMe));
}

#[test]
fn signals_are_believed_from_the_device_that_signed_for_us() {
    let scene = scene();
    let (bob, alice) = (scene.bob.device(), scene.alice.device());
    let body = SignalBody::Accept { answer: "v=0".into() };
    let signal = Signal { call: CallId([5; 16]), from: bob, to: alice, sequence: 1, body, extensions: Extensions::none() };
    let signed = Signed::sign(signal.clone(), &scene.bob.device_key);
    assert_eq!(VerifiedSignal::verify(&signed, &alice).expect("genuine").signal(), &signal);
    assert_eq!(VerifiedSignal::verify(&signed, &bob), Err(SignalError::WrongRecipient(alice)));
    let forged = Signed::sign(signal, &scene.alice.device_key);
    assert!(matches!(VerifiedSignal::verify(&forged, &alice), Err(SignalError::Signature(_))));
}

/// Whoever passes signalling on changes nothing of what media goes by: neither the description nor the fingerprint in it, whether it comes with the answer or
/// while it rings.
#[test]
fn an_answer_that_was_changed_on_the_way_is_refused() {
    let scene = scene();
    let (bob, alice) = (scene.bob.device(), scene.alice.device());
    let answer = "v=0\r\na=fingerprint:sha-256 AA:BB:CC:DD\r\na=ice-ufrag:abcd\r\n".to_owned();
    let accept = Signal {
        call: CallId([5; 16]),
        from: bob,
        to: alice,
        sequence: 1,
        body: SignalBody::Accept { answer: answer.clone() },
        extensions: Extensions::none(),
    };
    let early = Signal { body: SignalBody::Ringing, extensions: Signal::with_early_answer(answer, true), ..accept.clone() };
    for signal in [accept, early] {
        let bytes = wire::encode(&Signed::sign(signal, &scene.bob.device_key));
        let swapped = with_other(&bytes, b"AA:BB:CC:DD", b"AA:BB:CC:EE");
        let swapped = wire::decode::<Signed<Signal>>(&swapped, bytes.len()).expect("it still reads as a signal");
        assert!(matches!(VerifiedSignal::verify(&swapped, &alice), Err(SignalError::Signature(_))));
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            let read = wire::decode::<Signed<Signal>>(&changed, bytes.len());
            assert!(read.is_err() || VerifiedSignal::verify(&read.unwrap(), &alice).is_err(), "byte {at} changes nothing");
        }
    }
}

fn with_other(bytes: &[u8], old: &[u8], new: &[u8]) -> Vec<u8> {
    let at = bytes.windows(old.len()).position(|window| window == old).expect("it is in there");
    [&bytes[..at], new, &bytes[at + old.len()..]].concat()
}
