//! A relay's decisions on hand-overs, and what a caller believes of its answers.

use std::time::{Duration, Instant};

use crate::call::*;
use crate::capability::{
    Capability, CapabilityError, CapabilityId, CapabilityProof, CapabilityRules, Grant, Holder, Issuer, Limits, Service,
};
use crate::identity::VerifiedChain;
use crate::key::{DeviceKey, SecretKey};
use crate::rate::RateError;
use crate::test_identity::{Authority, NOW, Person};
use crate::time::Now;
use crate::wire::{DecodeError, Extensions, Frame, Signed};

struct Scene {
    authority: Authority,
    bob: Person,
    bob_chain: VerifiedChain,
    alice: Person,
    rules: CapabilityRules,
    rates: HandOverRates,
    start: Instant,
}

fn relay() -> DeviceKey {
    DeviceKey(SecretKey::from_bytes([77; 32]).public())
}

fn scene() -> Scene {
    let authority = Authority::new(1);
    let (bob, alice) = (authority.person("bob", 20), authority.person("alice", 10));
    let bob_chain = bob.chain.verify(NOW, &authority.trust()).expect("good");
    let rules = CapabilityRules::new(bob.device(), bob_chain.user.identity, 3);
    Scene { authority, bob, bob_chain, alice, rules, rates: HandOverRates::new(100), start: Instant::now() }
}

impl Scene {
    fn chain_of(&self, person: &Person) -> VerifiedChain {
        person.chain.verify(NOW, &self.authority.trust()).expect("good")
    }

    fn token(&self) -> Capability {
        Capability {
            id: CapabilityId([4; 16]),
            issuer: Issuer::Device(self.bob.device()),
            service: Service::InviteHandOver,
            holder: Holder::Certified,
            limits: Limits { per_hour: 60, payload_bytes_max: 2_800 },
            epoch: 3,
            not_before: NOW,
            not_after: NOW.plus_secs(86_400),
            extensions: Extensions::none(),
        }
    }

    /// What `person` asks, by a token that bob has signed.
    fn request(&self, token: Capability, person: &Person) -> InviteHandOver {
        let sealed = SealedInvite::from_bytes(vec![1; 1_024]).expect("within its size");
        let hash = InviteHandOver::hash_of(&self.bob.device(), &sealed);
        let proof = CapabilityProof::sign(token.id, relay(), hash, NOW, &person.device_key);
        let capability = Signed::sign(token, &self.bob.device_key);
        InviteHandOver { target: self.bob.device(), capability, proof, sealed, extensions: Extensions::none() }
    }

    fn decide_at(
        &mut self,
        request: &InviteHandOver,
        presenter: Option<&VerifiedChain>,
        secs: u64,
    ) -> Result<Grant, HandOverRefusal> {
        let now = Now { unix: NOW.plus_secs(secs), instant: self.start + Duration::from_secs(secs) };
        decide_hand_over(request, Some(&self.rules), presenter, &relay(), &mut self.rates, now)
    }

    fn decide(&mut self, request: &InviteHandOver) -> Result<Grant, HandOverRefusal> {
        let alice = self.chain_of(&self.alice);
        self.decide_at(request, Some(&alice), 0)
    }

    fn refusal_of(&mut self, change: impl FnOnce(&mut Capability)) -> CapabilityError {
        let mut token = self.token();
        change(&mut token);
        let request = self.request(token, &self.alice);
        match self.decide(&request) {
            Err(HandOverRefusal::Capability(error)) => error,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_certified_caller_is_served_and_counted_by_user() {
    let mut scene = scene();
    let request = scene.request(scene.token(), &scene.alice);
    let grant = scene.decide(&request).expect("served");
    assert_eq!(grant.holder, scene.chain_of(&scene.alice).user.identity.0);
    assert!(grant.is_stranger);
    let elsewhere = decide_hand_over(
        &request,
        None,
        Some(&scene.chain_of(&scene.alice)),
        &relay(),
        &mut scene.rates,
        Now { unix: NOW, instant: scene.start },
    );
    assert_eq!(elsewhere, Err(HandOverRefusal::NoReservation));
}

#[test]
fn a_reservation_is_no_leave_to_reach_another_device() {
    let mut scene = scene();
    let mut request = scene.request(scene.token(), &scene.alice);
    request.target = scene.alice.device();
    assert_eq!(scene.decide(&request), Err(HandOverRefusal::NoReservation), "whose rules these aren't");
    let issued_by_another = scene.refusal_of(|token| token.issuer = Issuer::Device(relay()));
    assert_eq!(issued_by_another, CapabilityError::WrongIssuer(Issuer::Device(relay())));
}

#[test]
fn copied_tokens_and_carried_proofs_are_worth_nothing() {
    let mut scene = scene();
    let alice = scene.chain_of(&scene.alice);
    let request = scene.request(scene.token(), &scene.alice);
    // Somebody else shows alice's request, or comes without a chain.
    let bob = scene.bob_chain.clone();
    assert!(matches!(
        scene.decide_at(&request, Some(&bob), 0),
        Err(HandOverRefusal::Capability(CapabilityError::ProofSignature(_)))
    ));
    assert_eq!(scene.decide_at(&request, None, 0), Err(CapabilityError::NotCertified.into()));
    // The same at another relay.
    let now = Now { unix: NOW, instant: scene.start };
    let other = scene.bob.device();
    let carried = decide_hand_over(&request, Some(&scene.rules), Some(&alice), &other, &mut scene.rates, now);
    assert_eq!(carried, Err(CapabilityError::WrongProof("helper").into()));
    // With another invite.
    let mut other = request.clone();
    other.sealed = SealedInvite::from_bytes(vec![2; 1_024]).expect("within its size");
    assert_eq!(scene.decide(&other), Err(CapabilityError::WrongProof("request").into()));
    // Much later.
    assert_eq!(scene.decide_at(&request, Some(&alice), 301), Err(CapabilityError::ProofTime(NOW).into()));
    // A capability for one holder doesn't serve another.
    let token = Capability { holder: Holder::Key(SecretKey::from_bytes([55; 32]).public()), ..scene.token() };
    let pairwise = scene.request(token, &scene.alice);
    assert!(matches!(scene.decide(&pairwise), Err(HandOverRefusal::Capability(CapabilityError::ProofSignature(_)))));
}

#[test]
fn what_the_device_took_back_counts_no_longer() {
    let mut scene = scene();
    assert_eq!(scene.refusal_of(|token| token.epoch = 2), CapabilityError::OldEpoch { found: 2, newest: 3 });
    assert_eq!(
        scene.refusal_of(|token| token.service = Service::Push),
        CapabilityError::WrongService { found: Service::Push, wanted: Service::InviteHandOver }
    );
    assert!(matches!(
        scene.refusal_of(|token| (token.not_before, token.not_after) = (NOW.minus_secs(60), NOW.minus_secs(1))),
        CapabilityError::Expired(_)
    ));
    assert_eq!(
        scene.refusal_of(|token| token.limits.payload_bytes_max = 1_000),
        CapabilityError::TooLarge { length: 1_024, limit: 1_000 }
    );
    let request = scene.request(scene.token(), &scene.alice);
    assert!(scene.decide(&request).is_ok());
    assert!(scene.rules.revoke(CapabilityId([4; 16])));
    assert_eq!(scene.decide(&request), Err(CapabilityError::Revoked(CapabilityId([4; 16])).into()));
    let forged = InviteHandOver { capability: Signed::sign(scene.token(), &scene.alice.device_key), ..request };
    scene.rules = CapabilityRules::new(scene.bob.device(), scene.bob_chain.user.identity, 3);
    assert!(matches!(scene.decide(&forged), Err(HandOverRefusal::Capability(CapabilityError::Signature(_)))));
}

#[test]
fn strangers_are_limited_each_and_a_device_is_limited_by_all() {
    let mut scene = scene();
    let request = scene.request(scene.token(), &scene.alice);
    let served = (0..10).filter(|_| scene.decide(&request).is_ok()).count();
    assert_eq!(served, 5, "a burst, whatever the capability says");
    assert!(matches!(scene.decide(&request), Err(HandOverRefusal::Rate(RateError::Exceeded { .. }))));
    let alice = scene.chain_of(&scene.alice);
    let again = scene.request(scene.token(), &scene.alice);
    assert!(scene.decide_at(&again, Some(&alice), 180).is_ok(), "20 an hour: the next after three minutes");
    let mut served = 0;
    for number in 30..60 {
        let name = format!("user{number}");
        let other = scene.authority.person(&name, number);
        let chain = scene.chain_of(&other);
        let request = scene.request(scene.token(), &other);
        served += u32::from(scene.decide_at(&request, Some(&chain), 180).is_ok());
    }
    assert_eq!(served, 19, "a burst of 20 for the device, whoever asks");
}

#[test]
fn only_what_is_of_an_invites_size_is_carried() {
    let scene = scene();
    let mut request = scene.request(scene.token(), &scene.alice);
    for (length, is_carried) in [(1_024, true), (1_800, true), (2_800, true), (0, false), (1_023, false), (2_799, false)] {
        request.sealed = SealedInvite::from_bytes(vec![1; length]).expect("within its size");
        let asked = Frame::new(1, &request).parse::<InviteHandOver>();
        let passed_on = InviteHandedOver { sealed: request.sealed.clone(), extensions: Extensions::none() };
        let passed_on = Frame::new(1, &passed_on).parse::<InviteHandedOver>();
        assert_eq!((asked.is_ok(), passed_on.is_ok()), (is_carried, is_carried), "{length} bytes");
    }
    let oversized = Frame { kind: <InviteHandOver as crate::wire::Message>::KIND, id: 1, body: vec![0; 5_000] };
    assert!(matches!(oversized.parse::<InviteHandOver>(), Err(DecodeError::TooLarge { .. })));
    let answer =
        HandedOverAnswer { status: InviteStatus::Ringing, word: vec![0; WORD_BYTES_MAX + 1], extensions: Extensions::none() };
    assert!(Frame::new(1, &answer).parse::<HandedOverAnswer>().is_err());
    let revoked = vec![CapabilityId([1; 16]); crate::capability::REVOKED_MAX + 1];
    let rules = HandOverRules { epoch: 0, revoked, extensions: Extensions::none() };
    assert!(Frame::new(0, &rules).parse::<HandOverRules>().is_err());
}

#[test]
fn a_word_is_the_devices_own_and_for_this_caller() {
    let scene = scene();
    let (bob, alice) = (scene.bob.device(), scene.alice.device());
    let signal = |from: DeviceKey, to: DeviceKey| Signal {
        call: CallId([5; 16]),
        from,
        to,
        sequence: 1,
        body: SignalBody::Ringing,
        extensions: Extensions::none(),
    };
    let word = word_of(&Signed::sign(signal(bob, alice), &scene.bob.device_key));
    let opened = open_word(&word, &bob, &alice).expect("bob's");
    assert_eq!(opened.signal().body, SignalBody::Ringing);
    assert_eq!(open_word(&word, &bob, &relay()), None, "for somebody else");
    assert_eq!(open_word(&word, &relay(), &alice), None, "of somebody else");
    let forged = word_of(&Signed::sign(signal(bob, alice), &SecretKey::from_bytes([77; 32])));
    assert_eq!(open_word(&forged, &bob, &alice), None, "signed by the relay");
    assert_eq!(open_word(&[], &bob, &alice), None);
    let accept = Signal { body: SignalBody::Accept { answer: "x".repeat(600) }, ..signal(bob, alice) };
    assert!(word_of(&Signed::sign(accept, &scene.bob.device_key)).is_empty(), "too long to be one");
}
