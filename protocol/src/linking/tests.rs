//! Two devices, and those who would like to be one of them.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::contact::privacy::PrivacySettings;
use crate::contact::{OwnKeys, Secret32};
use crate::directory::DeviceKind;
use crate::identity::{Chain, DeviceCertificate, DeviceCertificateParams, UserChain};
use crate::key::{AuthorityKey, DeviceKey, IdentityKey, PublicKey, SecretKey};
use crate::test_identity::{Authority, NOW};
use crate::wire::{self, Extensions, Frame, Signed};

const HOLDER: DeviceKey = DeviceKey(PublicKey([10; 32]));
const JOINER: DeviceKey = DeviceKey(PublicKey([20; 32]));
const MIDDLE: DeviceKey = DeviceKey(PublicKey([30; 32]));

fn code(number: u8) -> LinkCode {
    LinkCode::from_bytes([number; 5])
}

fn identity() -> SecretKey {
    SecretKey::from_bytes([7; 32])
}

fn request() -> LinkRequest {
    LinkRequest { name: "tablet".into(), kind: DeviceKind::Tablet, extensions: Extensions::none() }
}

/// A grant for `device`, of a user known by key.
fn grant_for(device: DeviceKey) -> LinkGrant {
    let params = DeviceCertificateParams { device, slot: 1, serial: 5, now: NOW };
    let certificate = Signed::sign(DeviceCertificate::new(params), &identity());
    LinkGrant {
        chain: Chain { user: UserChain::Key(IdentityKey(identity().public())), device: certificate },
        authorities: Vec::new(),
        revocations: Vec::new(),
        bootstrap: Vec::new(),
        own: OwnKeys::new(Secret32::from_bytes([9; 32])),
        privacy: PrivacySettings::default(),
        vault_key: None,
        identity_key: None,
        extensions: Extensions::none(),
    }
}

fn events(holder: &mut LinkHolder) -> Vec<HolderEvent> {
    std::iter::from_fn(|| holder.poll_event()).collect()
}

/// What crosses the wire is what a reader makes of it.
fn sent<M: crate::wire::Message>(message: &M) -> M {
    let bytes = wire::encode(&Frame::new(1, message));
    wire::decode::<Frame>(&bytes, wire::FRAME_BYTES_MAX).and_then(|frame| frame.parse()).expect("own frames are read")
}

/// Both sides up to the holder's last answer.
fn run(holder: &mut LinkHolder, typed: &LinkCode, joiner: DeviceKey, now: Instant) -> (LinkJoiner, Result<LinkGrant, JoinError>) {
    let (mut side, start) = LinkJoiner::begin(typed, joiner, HOLDER, None, [joiner.as_bytes()[0]; 32]);
    let started = holder.handle_start(joiner, &sent(&start), [2; 32], now);
    let confirm = match side.handle_started(&sent(&started), &request()) {
        Ok(confirm) => confirm,
        Err(error) => return (side, Err(error)),
    };
    let confirmed = holder.handle_confirm(joiner, &sent(&confirm), now, |_| Some(grant_for(joiner)));
    let outcome = side.handle_confirmed(&sent(&confirmed), NOW);
    (side, outcome)
}

#[test]
fn who_knows_the_code_is_linked() {
    let now = Instant::now();
    let mut holder = LinkHolder::new(code(1), HOLDER, now);
    let (side, grant) = run(&mut holder, &code(1), JOINER, now);
    assert_eq!(grant, Ok(grant_for(JOINER)));
    assert_eq!(holder.poll_timeout(), Some(now + Duration::from_secs(60)));
    let done = side.done().expect("granted");
    assert!(!holder.handle_done(MIDDLE, &done).is_known, "another device's word counts for nothing");
    assert!(holder.handle_done(JOINER, &sent(&done)).is_known);
    let granted = HolderEvent::Granted { device: JOINER, request: request() };
    assert_eq!(events(&mut holder), [HolderEvent::Asked { device: JOINER }, granted, HolderEvent::Linked { device: JOINER }]);
    assert!(holder.is_over() && holder.poll_timeout().is_none());
    assert!(!holder.handle_done(JOINER, &done).is_known, "a replay");
}

#[test]
fn a_wrong_code_is_refused_and_burns_the_right_one() {
    let now = Instant::now();
    let mut holder = LinkHolder::new(code(1), HOLDER, now);
    let (_, outcome) = run(&mut holder, &code(2), JOINER, now);
    assert_eq!(outcome, Err(JoinError::Refused(LinkReason::WRONG_CODE)));
    assert_eq!(events(&mut holder), [HolderEvent::Asked { device: JOINER }, HolderEvent::WrongCode { device: JOINER }]);
    let (_, outcome) = run(&mut holder, &code(1), JOINER, now);
    assert_eq!(outcome, Err(JoinError::Refused(LinkReason::CLOSED)));
}

#[test]
fn who_relays_between_the_two_gets_nothing() {
    let now = Instant::now();
    let mut holder = LinkHolder::new(code(1), HOLDER, now);
    // The joiner was led to MIDDLE, which talks to the holder under its own key and passes everything on.
    let (mut joiner, start) = LinkJoiner::begin(&code(1), JOINER, MIDDLE, None, [1; 32]);
    let started = holder.handle_start(MIDDLE, &start, [2; 32], now);
    let confirm = joiner.handle_started(&started, &request()).expect("the element is one");
    let confirmed = holder.handle_confirm(MIDDLE, &confirm, now, |_| panic!("nobody knows the code"));
    assert_eq!(confirmed.status, ConfirmStatus::Refused(LinkReason::WRONG_CODE));
    assert_eq!(joiner.handle_confirmed(&confirmed, NOW), Err(JoinError::Refused(LinkReason::WRONG_CODE)));
}

#[test]
fn a_false_holder_learns_nothing_and_gives_nothing() {
    let now = Instant::now();
    let mut false_holder = LinkHolder::new(code(2), HOLDER, now);
    let (mut joiner, start) = LinkJoiner::begin(&code(1), JOINER, HOLDER, None, [1; 32]);
    let started = false_holder.handle_start(JOINER, &start, [2; 32], now);
    joiner.handle_started(&started, &request()).expect("the element is one");
    let made_up = ConfirmStatus::Granted { proof: [0; 32], sealed: wire::encode(&grant_for(JOINER)) };
    let made_up = LinkConfirmed { status: made_up, extensions: Extensions::none() };
    assert_eq!(joiner.handle_confirmed(&made_up, NOW), Err(JoinError::NotProved));
    assert!(joiner.done().is_none());
}

#[test]
fn messages_out_of_order_and_replays_do_nothing() {
    let now = Instant::now();
    let mut holder = LinkHolder::new(code(1), HOLDER, now);
    let (mut side, start) = LinkJoiner::begin(&code(1), JOINER, HOLDER, None, [1; 32]);
    let empty = LinkConfirm { proof: [0; 32], sealed: Vec::new(), extensions: Extensions::none() };
    let unasked = holder.handle_confirm(JOINER, &empty, now, |_| None);
    assert_eq!(unasked.status, ConfirmStatus::Refused(LinkReason::CLOSED), "who hasn't begun has no try");
    assert!(side.done().is_none());

    let first = holder.handle_start(JOINER, &start, [2; 32], now);
    let confirm = side.handle_started(&first, &request()).expect("in order");
    assert_eq!(side.handle_started(&first, &request()), Err(JoinError::OutOfOrder));
    // Another device that repeats what it saw of the first one's proof.
    holder.handle_start(MIDDLE, &start, [3; 32], now);
    let mut stolen = holder;
    assert_eq!(stolen.handle_confirm(MIDDLE, &confirm, now, |_| None).status, ConfirmStatus::Refused(LinkReason::WRONG_CODE));
    assert!(stolen.is_over());

    let mut holder = LinkHolder::new(code(1), HOLDER, now);
    let (mut side, start) = LinkJoiner::begin(&code(1), JOINER, HOLDER, None, [1; 32]);
    let started = holder.handle_start(JOINER, &start, [2; 32], now);
    let confirm = side.handle_started(&started, &request()).expect("in order");
    let confirmed = holder.handle_confirm(JOINER, &confirm, now, |_| Some(grant_for(JOINER)));
    let again = holder.handle_confirm(JOINER, &confirm, now, |_| panic!("a grant is given once"));
    assert_eq!(again.status, ConfirmStatus::Refused(LinkReason::CLOSED));
    let start_again = holder.handle_start(JOINER, &start, [2; 32], now);
    assert_eq!(start_again.status, StartStatus::Refused(LinkReason::CLOSED));
    assert!(side.handle_confirmed(&confirmed, NOW).is_ok());
    assert_eq!(side.handle_confirmed(&confirmed, NOW), Err(JoinError::OutOfOrder));
}

#[test]
fn who_only_begins_burns_nothing_and_is_bounded() {
    let now = Instant::now();
    let mut holder = LinkHolder::new(code(1), HOLDER, now);
    let begin = |holder: &mut LinkHolder, number: u8, at: Instant| {
        let device = DeviceKey(PublicKey([number; 32]));
        let (_, start) = LinkJoiner::begin(&code(9), device, HOLDER, None, [number; 32]);
        holder.handle_start(device, &start, [number; 32], at).status
    };
    let started = |status: &StartStatus| matches!(status, StartStatus::Started { .. });
    assert_eq!((100..110).filter(|number| started(&begin(&mut holder, *number, now))).count(), 4);
    assert_eq!(begin(&mut holder, 120, now), StartStatus::Refused(LinkReason::BUSY));
    // Those who stall make room, and the true one comes through.
    let later = now + Duration::from_secs(31);
    let (_, grant) = run(&mut holder, &code(1), JOINER, later);
    assert!(grant.is_ok());

    let mut holder = LinkHolder::new(code(1), HOLDER, now);
    let begun = (0..200_u8).filter(|_| started(&begin(&mut holder, 5, now))).count();
    assert_eq!(begun, 32, "and all together have a bound");
    assert!(!holder.is_over());
}

#[test]
fn a_code_ends_with_its_time() {
    let now = Instant::now();
    let mut holder = LinkHolder::new(code(1), HOLDER, now);
    let end = now + Duration::from_secs(LINK_SECS);
    assert_eq!(holder.poll_timeout(), Some(end));
    let (_, outcome) = run(&mut holder, &code(1), JOINER, end);
    assert_eq!(outcome, Err(JoinError::Refused(LinkReason::CLOSED)));
    assert_eq!(events(&mut holder), [HolderEvent::TimedOut]);

    let mut holder = LinkHolder::new(code(1), HOLDER, now);
    let (side, grant) = run(&mut holder, &code(1), JOINER, now);
    assert!(grant.is_ok());
    holder.handle_timeout(now + Duration::from_secs(60));
    assert_eq!(events(&mut holder).last(), Some(&HolderEvent::Unconfirmed { device: JOINER }));
    assert!(!holder.handle_done(JOINER, &side.done().expect("granted")).is_known);
}

#[test]
fn a_grant_that_cannot_be_used_is_refused() {
    let now = Instant::now();
    let try_with = |made: Option<LinkGrant>, root: Option<AuthorityKey>| {
        let mut holder = LinkHolder::new(code(1), HOLDER, now);
        let (mut side, start) = LinkJoiner::begin(&code(1), JOINER, HOLDER, root, [1; 32]);
        let started = holder.handle_start(JOINER, &start, [2; 32], now);
        let confirm = side.handle_started(&started, &request()).expect("in order");
        let confirmed = holder.handle_confirm(JOINER, &confirm, now, |_| made);
        side.handle_confirmed(&confirmed, NOW).map(|_| ())
    };
    assert_eq!(try_with(None, None), Err(JoinError::Refused(LinkReason::FAILED)));
    assert_eq!(try_with(Some(grant_for(MIDDLE)), None), Err(JoinError::Grant(LinkGrantError::OtherDevice)));
    let with_key = |seed| LinkGrant { identity_key: Some(Secret32::from_bytes(seed)), ..grant_for(JOINER) };
    assert_eq!(try_with(Some(with_key([8; 32])), None), Err(JoinError::Grant(LinkGrantError::OtherIdentity)));
    assert_eq!(try_with(Some(with_key([7; 32])), None), Ok(()));
    let expired = LinkGrant {
        chain: {
            let params = DeviceCertificateParams { device: JOINER, slot: 1, serial: 5, now: NOW.minus_secs(400 * 86_400) };
            Chain { device: Signed::sign(DeviceCertificate::new(params), &identity()), ..grant_for(JOINER).chain }
        },
        ..grant_for(JOINER)
    };
    assert!(matches!(try_with(Some(expired), None), Err(JoinError::Grant(LinkGrantError::Chain(_)))));

    // A named user: the authority must be among those given, and the one of the link.
    let authority = Authority::new(40);
    let person = authority.person("alice", 50);
    let UserChain::Named { root, .. } = person.chain.user else { panic!("named") };
    let named = |authorities| LinkGrant { chain: person.chain.clone(), authorities, ..grant_for(JOINER) };
    let to_person =
        |grant: &LinkGrant, expected: Option<&AuthorityKey>| grant.verify(&person.device(), expected, NOW).map(|_| ());
    assert!(matches!(to_person(&named(Vec::new()), None), Err(LinkGrantError::Chain(_))));
    let whole = named(vec![("example".to_owned(), root)]);
    assert_eq!(to_person(&whole, Some(&root)), Ok(()));
    assert_eq!(to_person(&whole, Some(&AuthorityKey(PublicKey([1; 32])))), Err(LinkGrantError::OtherAuthority));
}

#[test]
fn oversized_parts_are_refused_before_anything_is_done() {
    let long = LinkConfirm { proof: [0; 32], sealed: vec![0; 529], extensions: Extensions::none() };
    assert!(Frame::new(1, &long).parse::<LinkConfirm>().is_err());
    let vast = ConfirmStatus::Granted { proof: [0; 32], sealed: vec![0; GRANT_BYTES_MAX + 17] };
    let vast = LinkConfirmed { status: vast, extensions: Extensions::none() };
    assert!(Frame::new(1, &vast).parse::<LinkConfirmed>().is_err());
    assert!(LinkRequest::from_bytes(&wire::encode(&LinkRequest { name: "x".repeat(200), ..request() })).is_err());
    let crowded = LinkGrant { authorities: vec![(String::new(), AuthorityKey(PublicKey([1; 32]))); 65], ..grant_for(JOINER) };
    assert!(LinkGrant::from_bytes(&wire::encode(&crowded)).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Whatever a hostile holder answers, and in whatever order, nothing is taken from it.
    #[test]
    fn arbitrary_answers_link_nobody(element: [u8; 32], side in 0_u8..=255, proof: [u8; 32], sealed in proptest::collection::vec(any::<u8>(), 0..200)) {
        let (mut joiner, _) = LinkJoiner::begin(&code(1), JOINER, HOLDER, None, [1; 32]);
        let mut message = [side; 33];
        message[1..].copy_from_slice(&element);
        let started = LinkStarted { status: StartStatus::Started { element: message }, extensions: Extensions::none() };
        let _ = joiner.handle_started(&started, &request());
        let status = ConfirmStatus::Granted { proof, sealed };
        let outcome = joiner.handle_confirmed(&LinkConfirmed { status, extensions: Extensions::none() }, NOW);
        prop_assert!(outcome.is_err());
    }

    /// Whatever hostile devices ask, in whatever order, they get no grant; one proof at most is judged.
    #[test]
    fn arbitrary_requests_get_nothing(steps in proptest::collection::vec((0_u8..3, 0_u8..4, any::<[u8; 32]>()), 0..40)) {
        let now = Instant::now();
        let mut holder = LinkHolder::new(code(1), HOLDER, now);
        let mut burnt = 0;
        for (kind, device, bytes) in steps {
            let device = DeviceKey(PublicKey([100 + device; 32]));
            match kind {
                0 => {
                    let mut element = [0x41; 33];
                    element[1..].copy_from_slice(&bytes);
                    holder.handle_start(device, &LinkStart { element, extensions: Extensions::none() }, bytes, now);
                }
                1 => {
                    let confirm = LinkConfirm { proof: bytes, sealed: bytes.to_vec(), extensions: Extensions::none() };
                    let answer = holder.handle_confirm(device, &confirm, now, |_| panic!("nobody knows the code"));
                    burnt += u32::from(answer.status == ConfirmStatus::Refused(LinkReason::WRONG_CODE));
                }
                _ => {
                    let done = LinkDone { proof: bytes, extensions: Extensions::none() };
                    let is_known = holder.handle_done(device, &done).is_known;
                    prop_assert!(!is_known);
                }
            }
        }
        prop_assert!(burnt <= 1);
    }
}
