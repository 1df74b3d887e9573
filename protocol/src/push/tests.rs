//! Payloads and a gateway's decisions.

use std::time::{Duration, Instant};

use super::registration::*;
use super::*;
use crate::capability::{CapabilityError, CapabilityId, Holder, Issuer, Limits, Service};
use crate::identity::VerifiedChain;
use crate::key::SecretKey;
use crate::rate::RateError;
use crate::test_identity::{Authority, NOW, Person};
use crate::time::Now;
use crate::wire;

const POLICY: GatewayPolicy = GatewayPolicy { registrations_max: 10, ways: PushWays::OWN };

fn gateway() -> (SecretKey, DeviceKey) {
    let key = SecretKey::from_bytes([99; 32]);
    let device = DeviceKey(key.public());
    (key, device)
}

struct Scene {
    bob: Person,
    bob_chain: VerifiedChain,
    pairwise: SecretKey,
    registration: Registration,
    rates: PushRates,
    start: Instant,
}

fn scene() -> Scene {
    let authority = Authority::new(1);
    let bob = authority.person("bob", 20);
    let bob_chain = bob.chain.verify(NOW, &authority.trust()).expect("good");
    let request = PushRegister::new(vec![PushChannel::Stream]);
    let registration = decide_register(request, &bob_chain, None, 0, PushHandle([3; 32]), &POLICY, NOW).expect("registered");
    let pairwise = SecretKey::from_bytes([55; 32]);
    Scene { bob, bob_chain, pairwise, registration, rates: PushRates::new(100), start: Instant::now() }
}

impl Scene {
    fn push(&self, sealed: Vec<u8>) -> PushSend {
        let capability = Capability {
            id: CapabilityId([4; 16]),
            issuer: Issuer::Device(self.bob.device()),
            service: Service::Push,
            holder: Holder::Key(self.pairwise.public()),
            limits: Limits { per_hour: 60, payload_bytes_max: 2_800 },
            epoch: 0,
            not_before: NOW,
            not_after: NOW.plus_secs(86_400),
            extensions: Extensions::none(),
        };
        let handle = self.registration.handle;
        let hints = PushHints { event: EventKind::VOICE_CALL, ttl_secs: 60, urgency: Urgency::High };
        let request_hash = PushSend::hash_of(&handle, &hints, &sealed);
        let proof = CapabilityProof::sign(capability.id, gateway().1, request_hash, NOW, &self.pairwise);
        let capability = Signed::sign(capability, &self.bob.device_key);
        PushSend { handle, capability, proof, hints, sealed, extensions: Extensions::none() }
    }

    fn decide(&mut self, push: &PushSend, after_secs: u64) -> Result<crate::capability::Grant, PushRefusal> {
        let now = Now { unix: NOW, instant: self.start + Duration::from_secs(after_secs) };
        decide_push(push, Some(&self.registration), None, &gateway().1, &mut self.rates, now)
    }
}

#[test]
fn a_push_with_a_capability_passes_and_goes_over_the_wire() {
    let mut scene = scene();
    let push = scene.push(vec![7; 2_800]);
    let frame = wire::encode(&push);
    assert!(frame.len() < 3_400, "{}", frame.len());
    let arrived: PushSend = wire::decode(&frame, PushSend::LIMIT).expect("decodes");
    assert_eq!(arrived, push);
    assert!(scene.decide(&arrived, 0).is_ok());
}

#[test]
fn pushes_are_refused_with_their_reason() {
    let mut scene = scene();
    let good = scene.push(vec![7; 1_024]);
    let refused = |scene: &mut Scene, push: &PushSend| scene.decide(push, 0).expect_err("refused").reason();
    let elsewhere = PushSend { handle: PushHandle([1; 32]), ..good.clone() };
    assert_eq!(refused(&mut scene, &elsewhere), PushReason::UNKNOWN_HANDLE);
    let swapped = PushSend { sealed: vec![8; 1_024], ..good.clone() };
    assert_eq!(scene.decide(&swapped, 0), Err(PushRefusal::Capability(CapabilityError::WrongProof("request"))));
    let large = scene.push(vec![7; 2_801]);
    assert_eq!(refused(&mut scene, &large), PushReason::TOO_LARGE);
    let mut long = good.clone();
    long.hints.ttl_secs = TTL_SECS_MAX + 1;
    assert_eq!(refused(&mut scene, &long), PushReason::INVALID);
    scene.registration.expires_at = NOW.minus_secs(1);
    assert_eq!(refused(&mut scene, &good), PushReason::UNKNOWN_HANDLE);
    scene.registration.expires_at = NOW;
    assert!(scene.registration.remove_channel(&PushChannel::Stream), "none is left");
    assert_eq!(refused(&mut scene, &good), PushReason::GONE);
    let now = Now { unix: NOW, instant: scene.start };
    let nobody = decide_push(&good, None, None, &gateway().1, &mut scene.rates, now);
    assert_eq!(nobody, Err(PushRefusal::UnknownHandle));
}

#[test]
fn holders_are_limited_and_revoked_at_renewal() {
    let mut scene = scene();
    let push = scene.push(vec![7; 100]);
    let passed = (0..100).filter(|_| scene.decide(&push, 0).is_ok()).count();
    assert_eq!(passed, 10);
    assert!(matches!(scene.decide(&push, 59), Err(PushRefusal::Rate(RateError::Exceeded { .. }))));
    assert!(scene.decide(&push, 60).is_ok());
    let mut renewal = PushRegister::new(vec![PushChannel::Stream]);
    renewal.revoked = vec![CapabilityId([4; 16])];
    let known = scene.registration.clone();
    let renewed = decide_register(renewal, &scene.bob_chain, Some(&known), 1, PushHandle([9; 32]), &POLICY, NOW);
    scene.registration = renewed.expect("renewed");
    assert_eq!(scene.registration.handle, known.handle, "a renewal keeps the handle");
    assert_eq!(scene.decide(&push, 4_000).expect_err("revoked").reason(), PushReason::CAPABILITY);
}

#[test]
fn strangers_come_through_a_narrow_door() {
    let mut scene = scene();
    let authority = Authority::new(1);
    let alice = authority.person("alice", 10);
    let alice_chain = alice.chain.verify(NOW, &authority.trust()).expect("good");
    let mut push = scene.push(vec![7; 100]);
    let mut token = push.capability.unverified().clone();
    (token.holder, token.limits.per_hour) = (Holder::Certified, 1_000);
    push.proof = CapabilityProof::sign(token.id, gateway().1, push.request_hash(), NOW, &alice.device_key);
    push.capability = Signed::sign(token, &scene.bob.device_key);
    let now = Now { unix: NOW, instant: scene.start };
    let mut decide = |presenter| decide_push(&push, Some(&scene.registration), presenter, &gateway().1, &mut scene.rates, now);
    assert_eq!(decide(None), Err(PushRefusal::Capability(CapabilityError::NotCertified)));
    let passed = (0..100).filter(|_| decide(Some(&alice_chain)).is_ok()).count();
    assert_eq!(passed, 3, "whatever the token promises");
}

#[test]
fn registrations_are_decided_with_reasons() {
    let scene = scene();
    let register = |request: PushRegister, registered, policy: &GatewayPolicy| {
        decide_register(request, &scene.bob_chain, None, registered, PushHandle([3; 32]), policy, NOW)
            .map_err(|refusal| refusal.reason())
    };
    let web_push = PushChannel::WebPush { endpoint: "https://push.example/x".into(), p256dh: [4; 65], auth: [1; 16] };
    assert!(register(PushRegister::new(vec![web_push.clone(), PushChannel::Stream]), 0, &POLICY).is_ok());
    let without = GatewayPolicy { ways: PushWays::NONE.with(PushWay::Stream), ..POLICY };
    assert_eq!(register(PushRegister::new(vec![web_push]), 0, &without), Err(PushReason::CHANNEL));
    assert_eq!(register(PushRegister::new(vec![PushChannel::Stream]), 10, &POLICY), Err(PushReason::FULL));
    assert_eq!(register(PushRegister::new(vec![]), 0, &POLICY), Err(PushReason::INVALID));
    assert_eq!(register(PushRegister::new(vec![PushChannel::Stream; 5]), 0, &POLICY), Err(PushReason::INVALID));
    let mut nameless = scene.bob_chain.clone();
    nameless.user.id = crate::identity::UserId::Key(nameless.user.identity);
    let request = PushRegister::new(vec![PushChannel::Stream]);
    let refused = decide_register(request, &nameless, None, 0, PushHandle([3; 32]), &POLICY, NOW);
    assert_eq!(refused, Err(RegisterRefusal::NotCertified));
}

#[test]
fn a_handle_does_not_pass_to_another_device() {
    let scene = scene();
    let authority = Authority::new(1);
    let mallory = authority.person("mallory", 40).chain.verify(NOW, &authority.trust()).expect("good");
    let request = PushRegister::new(vec![PushChannel::Stream]);
    let taken =
        decide_register(request, &mallory, Some(&scene.registration), 1, PushHandle([9; 32]), &POLICY, NOW).expect("own one");
    assert_eq!(taken.handle, PushHandle([9; 32]));
    assert_eq!(taken.device(), mallory.device);
}

#[test]
fn payloads_hold_the_largest_invite_and_open_only_whole() {
    let (key, device) = gateway();
    let sealed = vec![7; PUSH_SEALED_BYTES_MAX];
    let outer = OuterPayload::new(device, EventKind::CONTACT_REQUEST, NOW, 60, &sealed);
    let payload = PushPayload::new(outer.clone(), sealed.clone(), &key).expect("fits");
    let bytes = payload.to_bytes();
    assert!(bytes.len() <= PUSH_PAYLOAD_BYTES_MAX, "{}", bytes.len());
    let arrived = PushPayload::from_bytes(&bytes).expect("decodes");
    assert_eq!(arrived.verify(&[device]), Ok(&outer));
    assert_eq!(arrived.sealed(), sealed);
    assert_eq!(arrived.verify(&[]), Err(PayloadError::UnknownGateway(device)));
    let mut changed = bytes.clone();
    changed[bytes.len() - 2] ^= 1; // The last byte counts the extensions, the one before it ends the sealed part.
    let moved = PushPayload::from_bytes(&changed).expect("well formed");
    assert_eq!(moved.verify(&[device]), Err(PayloadError::Mismatch));
    let forged = PushPayload::new(outer, sealed, &SecretKey::from_bytes([1; 32])).expect("fits");
    assert!(matches!(forged.verify(&[device]), Err(PayloadError::Signature(_))));
    let large = OuterPayload::new(device, EventKind::VOICE_CALL, NOW, 60, &[]);
    assert!(matches!(PushPayload::new(large, vec![0; 2_801], &key), Err(PayloadError::TooLarge(_))));
    assert!(PushPayload::from_bytes(&[0; 3_001]).is_err());
}

/// One of each kind that a push service carries.
fn services() -> Vec<PushChannel> {
    vec![
        PushChannel::WebPush { endpoint: "https://push.example/secret".into(), p256dh: [4; 65], auth: [1; 16] },
        PushChannel::Fcm { token: "secret:APA91b".into() },
        PushChannel::Apns { token: b"secret".to_vec(), topic: "example.secret".into(), is_sandbox: false },
        PushChannel::Webhook { url: "https://hook.example/secret".into(), secret: [5; 32] },
        PushChannel::Sms { number: "+15550100".into() },
        PushChannel::Sip { address: "sip:secret@example;gr=urn:uuid:1".into() },
    ]
}

#[test]
fn secrets_of_channels_do_not_print() {
    for channel in services() {
        let printed = format!("{:?}", PushRegister::new(vec![channel.clone()]));
        assert!(!printed.contains("secret") && !printed.contains("115, 101") && !printed.contains("1555"), "{printed}");
        assert!(printed.contains(&format!("{:?}", channel.way())), "{printed}");
    }
}

#[test]
fn channels_of_services_are_kept_within_bounds() {
    let check = |channel: &PushChannel| PushRegister::new(vec![channel.clone()]).check();
    services().iter().for_each(|channel| assert_eq!(check(channel), Ok(()), "{channel:?}"));
    let apns = |token: usize, topic: &str| PushChannel::Apns { token: vec![1; token], topic: topic.into(), is_sandbox: true };
    assert_eq!(check(&apns(APNS_TOKEN_BYTES_MAX, "org.example-1.App.voip")), Ok(()));
    let long = "a".repeat(1_025);
    let sms = |number: &str| PushChannel::Sms { number: number.into() };
    let refused = [
        PushChannel::Fcm { token: String::new() },
        PushChannel::Fcm { token: long.clone() },
        PushChannel::Fcm { token: "a b".into() },
        PushChannel::Fcm { token: "a\r\nX-Header: b".into() },
        apns(0, "org.example"),
        apns(APNS_TOKEN_BYTES_MAX + 1, "org.example"),
        apns(32, ""),
        apns(32, "org.example\r\n"),
        apns(32, &long[..TOPIC_BYTES_MAX + 1]),
        PushChannel::Webhook { url: long, secret: [0; 32] },
        PushChannel::Sip { address: "sip:example".into() },
        PushChannel::Sip { address: "tel:+15550100".into() },
        sms("15550100"),
        sms("+155501"),
        sms("+0155501001"),
        sms("+1555010012345678"),
        sms("+1555010a1"),
        sms("+155501 00"),
    ];
    for channel in refused {
        assert!(check(&channel).is_err(), "{channel:?}");
    }
}

#[test]
fn a_gateway_refuses_ways_it_has_not() {
    let scene = scene();
    let register = |channel: &PushChannel, ways| {
        let policy = GatewayPolicy { ways, ..POLICY };
        let request = PushRegister::new(vec![PushChannel::Stream, channel.clone()]);
        decide_register(request, &scene.bob_chain, None, 0, PushHandle([3; 32]), &policy, NOW)
    };
    for channel in services() {
        let without = register(&channel, PushWays::NONE.with(PushWay::Stream)).expect_err("no such way");
        assert_eq!(without, RegisterRefusal::Channel(channel.way()));
        assert_eq!(without.reason(), PushReason::CHANNEL);
        assert!(register(&channel, PushWays::NONE.with(PushWay::Stream).with(channel.way())).is_ok());
    }
    assert!(!PushWays::OWN.contains(PushWay::Fcm) && PushWays::OWN.contains(PushWay::Webhook));
}

#[test]
fn a_channel_for_calls_takes_nothing_that_does_not_ring() {
    let apns = |topic: &str| PushChannel::Apns { token: vec![1], topic: topic.into(), is_sandbox: false };
    for event in (0..8).map(EventKind) {
        let rings = [EventKind::VOICE_CALL, EventKind::VIDEO_CALL, EventKind::SELF_TEST].contains(&event);
        assert_eq!(apns("org.example.voip").takes(event), rings, "{event}");
        assert!(apns("org.example").takes(event) && PushChannel::Stream.takes(event));
    }
}

#[test]
fn a_fingerprint_is_of_one_registration() {
    let token = |token: &str| PushChannel::Fcm { token: token.into() }.fingerprint();
    assert_eq!(token("a"), token("a"));
    assert_ne!(token("a"), token("b"), "the device has registered another token since");
    let apns = |is_sandbox| PushChannel::Apns { token: vec![1], topic: "a".into(), is_sandbox }.fingerprint();
    assert_ne!(apns(true), apns(false));
}

#[test]
fn languages_travel_both_ways_and_nonsense_is_left_out() {
    let tags = |tags: &[&str]| tags.iter().map(|tag| (*tag).to_owned()).collect::<Vec<_>>();
    let mut push = scene().push(vec![1; 8]);
    assert_eq!(push.languages(), tags(&[]), "nothing was told");
    push.extensions = PushSend::with_languages(Extensions::none(), &tags(&["de", "", "fr-CH"]));
    assert_eq!(push.languages(), tags(&["de", "fr-CH"]));
    let many: Vec<String> = (0..20).map(|number| format!("x-{number}")).collect();
    push.extensions = PushSend::with_languages(Extensions::none(), &many);
    assert_eq!(push.languages(), many[..LANGUAGES_MAX]);
    for foreign in [vec![0xff; 4], wire::encode(&vec!["de".repeat(40)]), wire::encode(&vec!["de".to_owned(); 200])] {
        push.extensions = Extensions::none().with(0x0001, foreign);
        assert!(push.languages().len() <= LANGUAGES_MAX && push.languages().iter().all(|language| language.len() <= 35));
    }
    let outer = OuterPayload::new(gateway().1, EventKind::VOICE_CALL, NOW, 60, &[1]);
    assert_eq!(outer.language(), None);
    assert_eq!(outer.clone().in_language("de").language().as_deref(), Some("de"));
    assert_eq!(outer.in_language(&"d".repeat(36)).language(), None);
}
