//! Identifiers; the gateway's plan and the client's decision over every case there is; encapsulations.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, OnceLock};

use super::decision::{Client, Decision, SEEN_MAX, SeenNonces, decide};
use super::encapsulation::{Encapsulation, EncapsulationError, Reassembly, SEGMENTS_MAX, sia};
use super::plan::{ClientStep, KnownClient, LeaveReason, ModeReason, PlanError, Wanted, plan};
use super::*;
use crate::key::SecretKey;
use crate::node::{Address, Transport};
use crate::test_identity::{Authority, NOW};
use crate::wire::Signed;

fn secret(seed: u8) -> SecretKey {
    SecretKey::from_bytes([seed; 32])
}

fn device(seed: u8) -> DeviceKey {
    DeviceKey(secret(seed).public())
}

fn id(text: &str) -> Identifier {
    Identifier::parse(text).expect("an identifier")
}

fn bob() -> UserId {
    static BOB: OnceLock<UserId> = OnceLock::new();
    let verify = || Authority::new(1).person("bob", 20).chain.verify(NOW, &Authority::new(1).trust()).expect("good").user.id;
    BOB.get_or_init(verify).clone()
}

const GATEWAY: u8 = 90;
const IMEI: &str = "imei:490154203237518";
const OTHER_IMEI: &str = "imei:356938035643809";

fn mail() -> Application {
    Application { id: "org.example.mail".into(), name: "Mail".into() }
}

fn initiation(mode: SessionMode, identifiers: Vec<Identifier>) -> SessionInitiation {
    let address = Address::V4 { ip: [192, 0, 2, 7], port: 4_001, transport: Transport::Quic };
    SessionInitiation {
        gateway: device(GATEWAY),
        nonce: SessionNonce([7; 16]),
        created_at: NOW,
        expires_at: NOW.plus_secs(60),
        mode,
        identity: bob(),
        identifiers,
        server: Helper { device: device(GATEWAY), addresses: vec![address] },
        application: Some(Activation { application: mail(), when: ActivateWhen::After }),
        asks: Asks::CAPABILITIES.with(Asks::REFUSAL),
        sends: Sends::REGISTRATION,
        content: b"you have mail".to_vec(),
        extensions: Extensions::none(),
    }
}

fn signed(initiation: SessionInitiation) -> Signed<SessionInitiation> {
    Signed::sign(initiation, &secret(GATEWAY))
}

#[test]
fn identifiers_of_known_kinds_have_one_form() {
    for (written, normal) in [
        ("IMEI:49-015420-323751-8", IMEI),
        ("imei:49015420323751", IMEI),
        ("imei:4901542032375199", IMEI),
        ("uuid:F81D4FAE-7DEC-11D0-A765-00A0C91E6BF6", "uuid:urn:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6"),
        ("urn:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6", "uuid:urn:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6"),
        ("gruu:SIP:Bob@Example.COM;GR=urn:uuid:AB", "gruu:sip:Bob@example.com;gr=urn:uuid:AB"),
        ("mac:00-1A-2b-3C-4d-5E", "mac:00:1a:2b:3c:4d:5e"),
        ("mac:001a.2b3c.4d5e", "mac:00:1a:2b:3c:4d:5e"),
        ("esn:80a1b2c3", "esn:80A1B2C3"),
        ("rfid:30-39-60-62-c3-84-39-40-00-19-2e-f3", "rfid:30396062C384394000192EF3"),
        ("uri:HTTPS://Bob@Example.org/Path", "uri:https://Bob@example.org/Path"),
        ("urn:ISBN:0451450523", "urn:isbn:0451450523"),
        (
            "fingerprint:SHA-1:00:11:22:33:44:55:66:77:88:99:aa:bb:cc:dd:ee:ff:00:11:22:33",
            "fingerprint:sha-1:00112233445566778899AABBCCDDEEFF00112233",
        ),
        ("badge:Ab-12", "badge:Ab-12"),
    ] {
        let identifier = Identifier::parse(written).unwrap_or_else(|error| panic!("{written}: {error}"));
        assert_eq!(identifier.text(), normal, "{written}");
        assert_eq!(identifier.normal().as_ref(), Ok(&identifier), "the normal form is its own");
        assert_eq!(Identifier::parse(&identifier.text()).as_ref(), Ok(&identifier));
    }
}

#[test]
fn what_is_no_identifier_is_refused() {
    for wrong in [
        "imei",
        ":x",
        "imei:",
        "imei:490154203237519",
        "imei:12",
        "imei:49015420323751x",
        "uuid:f81d4fae",
        "gruu:sip:bob@example",
        "gruu:tel:1;gr=x",
        "mac:00:1a",
        "mac:00:1a:2b:3c:4d:5e:6f",
        "esn:80a1b2c",
        "esn:80a1b2cg",
        "rfid:30",
        "uri:nothing",
        "uri:1x:y",
        "urn:urn:x",
        "fingerprint:md5:00",
        "fingerprint:sha-256:00",
        "ki nd:x",
        "badge:a b",
        "badge:a\u{7}b",
        "Bädge:x",
    ] {
        assert!(Identifier::parse(wrong).is_err(), "{wrong}");
    }
    assert!(Identifier::parse(&format!("badge:{}", "x".repeat(128))).is_ok());
    assert!(Identifier::parse(&format!("badge:{}", "x".repeat(129))).is_err());
    assert_eq!(Identifier::parse("imei:490154203237519"), Err(IdentifierError::CheckDigit));
}

#[test]
fn requests_keep_to_their_mode() {
    let many: Vec<Identifier> = (0..9).map(|number| id(&format!("badge:{number}"))).collect();
    for (mode, count, is_good) in [
        (SessionMode::One, 0, true),
        (SessionMode::One, 1, true),
        (SessionMode::One, 2, false),
        (SessionMode::All, 0, true),
        (SessionMode::All, 1, false),
        (SessionMode::Matching, 0, false),
        (SessionMode::Matching, 8, true),
        (SessionMode::Matching, 9, false),
    ] {
        assert_eq!(initiation(mode, many[..count].to_vec()).check().is_ok(), is_good, "{mode:?} with {count}");
    }
    let odd = Identifier { kind: "IMEI".into(), value: "490154203237518".into() };
    assert!(initiation(SessionMode::One, vec![odd]).check().is_err(), "not in normal form");
    let long = SessionInitiation { expires_at: NOW.plus_secs(601), ..initiation(SessionMode::All, vec![]) };
    assert!(long.check().is_err());
    let large = SessionInitiation { content: vec![0; 1_025], ..initiation(SessionMode::All, vec![]) };
    assert!(large.check().is_err());
}

/// A client and what surrounds it, for the table.
#[derive(Clone, Debug)]
struct Case {
    mode: SessionMode,
    carries: Vec<Identifier>,
    has: Vec<Identifier>,
    is_subscribed: bool,
    acceptance: Acceptance,
    is_unwanted: bool,
    has_application: bool,
    has_session: bool,
    choice: Option<bool>,
    secs_late: u64,
    is_forged: bool,
    is_replay: bool,
    is_other_identity: bool,
}

impl Case {
    fn good() -> Self {
        Self {
            mode: SessionMode::All,
            carries: vec![],
            has: vec![id(IMEI)],
            is_subscribed: true,
            acceptance: Acceptance::Always,
            is_unwanted: false,
            has_application: true,
            has_session: false,
            choice: None,
            secs_late: 0,
            is_forged: false,
            is_replay: false,
            is_other_identity: false,
        }
    }

    /// Signed once for all cases with the same request.
    fn request(&self) -> Signed<SessionInitiation> {
        type Key = (SessionMode, Vec<Identifier>, bool, bool);
        static REQUESTS: OnceLock<Mutex<HashMap<Key, Signed<SessionInitiation>>>> = OnceLock::new();
        let key = (self.mode, self.carries.clone(), self.is_forged, self.is_other_identity);
        let mut requests = REQUESTS.get_or_init(Mutex::default).lock().expect("nobody panics with it");
        let sign = || {
            let mut asked = initiation(self.mode, self.carries.clone());
            if self.is_other_identity {
                asked.identity = UserId::Key(crate::key::IdentityKey(secret(3).public()));
            }
            Signed::sign(asked, &secret(if self.is_forged { 1 } else { GATEWAY }))
        };
        requests.entry(key).or_insert_with(sign).clone()
    }

    fn decide(&self) -> Decision {
        let request = self.request();
        let subscription = Subscription { gateway: device(GATEWAY), applications: vec![] };
        let unwanted = if self.is_unwanted { vec![mail().id] } else { vec![] };
        let preferences =
            SessionPreferences { acceptance: self.acceptance, unwanted, disclosed: Asks::CAPABILITIES.with(Asks::SECURITY) };
        let (identity, applications, sessions) = (bob(), [mail()], [device(GATEWAY)]);
        let client = Client {
            identity: &identity,
            identifiers: &self.has,
            applications: if self.has_application { &applications } else { &[] },
            preferences: &preferences,
            subscriptions: if self.is_subscribed { std::slice::from_ref(&subscription) } else { &[] },
            sessions: if self.has_session { &sessions } else { &[] },
            choice: self.choice,
        };
        let is_new = if self.is_replay { Err(SessionReason::REPLAYED) } else { Ok(()) };
        decide(&request, &client, is_new, NOW.plus_secs(self.secs_late))
    }
}

fn ignored(case: &Case) -> SessionReason {
    match case.decide() {
        Decision::Ignore(reason) => reason,
        other => panic!("{case:?}: {other:?}"),
    }
}

fn refused(case: &Case) -> SessionReason {
    match case.decide() {
        Decision::Refuse { reason, tell } => {
            assert!(tell.is_some(), "a refusal was asked for");
            reason
        }
        other => panic!("{case:?}: {other:?}"),
    }
}

#[test]
fn a_client_decides_with_its_reason() {
    let good = Case::good();
    let Decision::Open(opening) = good.decide() else { panic!("{:?}", good.decide()) };
    assert_eq!(opening.server.device, device(GATEWAY));
    assert_eq!(opening.returns, Asks::CAPABILITIES, "what was asked for and may be told");
    assert_eq!(opening.activate.map(|activation| activation.application), Some(mail()));
    assert_eq!(ignored(&Case { is_subscribed: false, ..good.clone() }), SessionReason::NOT_SUBSCRIBED);
    assert_eq!(ignored(&Case { is_forged: true, ..good.clone() }), SessionReason::SIGNATURE);
    assert_eq!(ignored(&Case { secs_late: 361, ..good.clone() }), SessionReason::EXPIRED);
    assert!(matches!(Case { secs_late: 360, ..good.clone() }.decide(), Decision::Open(_)), "clocks are minutes off");
    assert_eq!(ignored(&Case { is_replay: true, ..good.clone() }), SessionReason::REPLAYED);
    assert_eq!(ignored(&Case { is_other_identity: true, ..good.clone() }), SessionReason::OTHER_IDENTITY);
    assert_eq!(ignored(&Case { has_session: true, ..good.clone() }), SessionReason::HAS_SESSION);
    assert_eq!(refused(&Case { acceptance: Acceptance::Never, ..good.clone() }), SessionReason::PREFERENCE);
    assert_eq!(refused(&Case { is_unwanted: true, ..good.clone() }), SessionReason::PREFERENCE);
    assert_eq!(refused(&Case { has_application: false, ..good.clone() }), SessionReason::NO_APPLICATION);
    let ask = Case { acceptance: Acceptance::Ask, ..good.clone() };
    assert!(matches!(ask.decide(), Decision::Ask(_)));
    assert!(matches!(Case { choice: Some(true), ..ask.clone() }.decide(), Decision::Open(_)));
    assert_eq!(refused(&Case { choice: Some(false), ..ask }), SessionReason::USER);
    for mode in [SessionMode::One, SessionMode::Matching] {
        let mine = Case { mode, carries: vec![id(IMEI)], ..good.clone() };
        assert!(matches!(mine.decide(), Decision::Open(_)), "{mode:?}");
        assert_eq!(ignored(&Case { carries: vec![id(OTHER_IMEI)], ..mine.clone() }), SessionReason::OTHER_CLIENT);
        assert_eq!(ignored(&Case { has: vec![], ..mine }), SessionReason::OTHER_CLIENT);
    }
}

/// Every combination there is.
fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let carried = [vec![], vec![id(IMEI)], vec![id(OTHER_IMEI)], vec![id(OTHER_IMEI), id(IMEI)]];
    let owned = [vec![], vec![id(IMEI)], vec![id(OTHER_IMEI), id("badge:7")]];
    for mode in [SessionMode::One, SessionMode::All, SessionMode::Matching] {
        for carries in carried.iter().filter(|carries| initiation(mode, carries.to_vec()).check().is_ok()) {
            for has in &owned {
                for acceptance in [Acceptance::Always, Acceptance::Ask, Acceptance::Never] {
                    for choice in [None, Some(true), Some(false)] {
                        for bits in 0..256_u32 {
                            let bit = |place: u32| bits >> place & 1 == 1;
                            cases.push(Case {
                                mode,
                                carries: carries.clone(),
                                has: has.clone(),
                                acceptance,
                                choice,
                                is_subscribed: bit(0),
                                is_unwanted: bit(1),
                                has_application: bit(2),
                                has_session: bit(3),
                                secs_late: if bit(4) { 1_000 } else { 0 },
                                is_forged: bit(5),
                                is_replay: bit(6),
                                is_other_identity: bit(7),
                            });
                        }
                    }
                }
            }
        }
    }
    cases
}

/// What must hold of every decision, said otherwise than the code says it.
#[test]
fn over_all_cases_nothing_opens_that_should_not_and_nothing_is_said_to_strangers() {
    let cases = cases();
    let (mut opened, mut asked, mut refusals, mut ignored) = (0, 0, 0, 0);
    for case in &cases {
        let matches = case.carries.iter().any(|wanted| case.has.contains(wanted));
        let is_addressed = match case.mode {
            SessionMode::One => case.carries.is_empty() || matches,
            SessionMode::All => true,
            SessionMode::Matching => matches,
        };
        let is_believed =
            case.is_subscribed && !case.is_forged && case.secs_late == 0 && !case.is_replay && !case.is_other_identity;
        let concerns_us = is_believed && is_addressed && !case.has_session;
        let may = case.acceptance != Acceptance::Never && !case.is_unwanted && case.has_application;
        let decision = case.decide();
        match decision {
            Decision::Ignore(_) => {
                ignored += 1;
                assert!(!concerns_us, "{case:?}");
            }
            Decision::Refuse { .. } => {
                refusals += 1;
                assert!(concerns_us && (!may || case.choice == Some(false)), "{case:?}");
            }
            Decision::Ask(_) => {
                asked += 1;
                assert!(concerns_us && may && case.choice.is_none() && case.acceptance == Acceptance::Ask, "{case:?}");
            }
            Decision::Open(_) => {
                opened += 1;
                assert!(concerns_us && may && case.choice != Some(false), "{case:?}");
                assert!(case.acceptance == Acceptance::Always || case.choice == Some(true), "{case:?}");
            }
        }
    }
    assert_eq!(opened + asked + refusals + ignored, cases.len());
    assert!(
        cases.len() > 10_000 && [opened, asked, refusals, ignored].iter().all(|count| *count > 10),
        "{opened} {asked} {refusals} {ignored}"
    );
}

#[test]
fn requests_are_taken_once_and_the_memory_of_them_is_bounded() {
    let mut seen = SeenNonces::default();
    let numbered = |number: u16| {
        let mut nonce = [0; 16];
        nonce[..2].copy_from_slice(&number.to_be_bytes());
        SessionInitiation { nonce: SessionNonce(nonce), ..initiation(SessionMode::All, vec![]) }
    };
    for number in 0..u16::try_from(SEEN_MAX).expect("small") {
        assert_eq!(seen.check(&numbered(number).nonce, NOW), Ok(()));
        seen.note(&numbered(number));
        assert_eq!(seen.check(&numbered(number).nonce, NOW), Err(SessionReason::REPLAYED));
    }
    let one_more = numbered(60_000);
    assert_eq!(seen.check(&one_more.nonce, NOW), Err(SessionReason::BUSY), "forgetting one would let it be taken again");
    assert_eq!(seen.check(&one_more.nonce, NOW.plus_secs(362)), Ok(()), "what has expired is forgotten");
}

fn client(seed: u8, identifiers: &[&str]) -> KnownClient {
    let subscription = Subscription { gateway: device(GATEWAY), applications: vec![] };
    KnownClient {
        device: device(seed),
        identifiers: identifiers.iter().map(|text| id(text)).collect(),
        applications: vec![mail().id],
        terms: Some(SessionTerms { preferences: SessionPreferences::default(), subscription: Some(subscription) }),
        has_session: false,
        is_connected: true,
        can_be_woken: false,
    }
}

fn planned(wanted: &[&str], clients: &[KnownClient]) -> (SessionMode, ModeReason, Vec<ClientStep>) {
    let identifiers: Vec<Identifier> = wanted.iter().map(|text| id(text)).collect();
    let wanted = Wanted { identifiers: &identifiers, mode: None, application: Some("org.example.mail") };
    let plan = plan(&wanted, clients).expect("a plan");
    (plan.mode, plan.reason, plan.clients.into_iter().map(|(_, step)| step).collect())
}

fn request(identifiers: &[&str]) -> ClientStep {
    ClientStep::Request { identifiers: identifiers.iter().map(|text| id(text)).collect() }
}

#[test]
fn a_gateway_chooses_the_mode_with_its_reason() {
    let clients = [client(1, &[IMEI]), client(2, &[OTHER_IMEI]), client(3, &[])];
    let not_wanted = ClientStep::Leave(LeaveReason::NotWanted);
    let one = planned(&[IMEI], &clients);
    assert_eq!(one, (SessionMode::One, ModeReason::EachKnown, vec![request(&[IMEI]), not_wanted.clone(), not_wanted.clone()]));
    let two = planned(&[IMEI, OTHER_IMEI], &clients);
    assert_eq!(two, (SessionMode::One, ModeReason::EachKnown, vec![request(&[IMEI]), request(&[OTHER_IMEI]), not_wanted]));
    let all = planned(&[], &clients);
    assert_eq!(all, (SessionMode::All, ModeReason::EveryClient, vec![request(&[]); 3]));
    let unknown = planned(&["badge:7"], &clients);
    assert_eq!(unknown, (SessionMode::Matching, ModeReason::SomeUnknown, vec![request(&["badge:7"]); 3]));
    // The identity has no others than those that are wanted: no identifier.
    assert_eq!(planned(&[IMEI], &clients[..1]), (SessionMode::One, ModeReason::OnlyClient, vec![request(&[])]));
    assert_eq!(planned(&[], &clients[2..]), (SessionMode::One, ModeReason::OnlyClient, vec![request(&[])]));
    assert_eq!(planned(&[IMEI, OTHER_IMEI], &clients[..2]).0, SessionMode::All);
}

#[test]
fn clients_that_would_refuse_or_are_there_already_are_not_asked() {
    let good = client(1, &[IMEI]);
    let terms = good.terms.clone().expect("set");
    let step = |client: KnownClient| planned(&[], &[client]).2.remove(0);
    assert_eq!(step(KnownClient { has_session: true, ..good.clone() }), ClientStep::Deliver);
    assert_eq!(step(KnownClient { is_connected: false, ..good.clone() }), ClientStep::Leave(LeaveReason::NoWay));
    assert_eq!(step(KnownClient { is_connected: false, can_be_woken: true, ..good.clone() }), request(&[]));
    let unsubscribed = SessionTerms { subscription: None, ..terms.clone() };
    assert_eq!(step(KnownClient { terms: Some(unsubscribed), ..good.clone() }), ClientStep::Leave(LeaveReason::NotSubscribed));
    let elsewhere = Subscription { gateway: device(GATEWAY), applications: vec!["org.example.news".into()] };
    let elsewhere = SessionTerms { subscription: Some(elsewhere), ..terms.clone() };
    assert_eq!(step(KnownClient { terms: Some(elsewhere), ..good.clone() }), ClientStep::Leave(LeaveReason::NotSubscribed));
    let never = SessionPreferences { acceptance: Acceptance::Never, ..terms.preferences.clone() };
    let never = SessionTerms { preferences: never, ..terms };
    assert_eq!(step(KnownClient { terms: Some(never), ..good.clone() }), ClientStep::Leave(LeaveReason::Preference));
    assert_eq!(step(KnownClient { applications: vec![], ..good.clone() }), ClientStep::Leave(LeaveReason::NoApplication));
    assert_eq!(
        step(KnownClient { terms: None, applications: vec![], ..good }),
        request(&[]),
        "what isn't known the client decides"
    );
}

#[test]
fn plans_that_cannot_be_made_are_refused() {
    let clients = [client(1, &[IMEI]), client(2, &[])];
    let with = |identifiers: &[Identifier], mode, clients: &[KnownClient]| {
        plan(&Wanted { identifiers, mode, application: None }, clients)
    };
    assert_eq!(with(&[], None, &[]), Err(PlanError::NoClients));
    assert_eq!(with(&vec![id(IMEI); 9], None, &clients), Err(PlanError::TooMany(9)));
    assert_eq!(with(&[id("badge:7")], Some(SessionMode::One), &clients), Err(PlanError::UnknownIdentifier("badge".into())));
    assert_eq!(with(&[], Some(SessionMode::Matching), &clients), Err(PlanError::NoIdentifier('C')));
    let forced = with(&[id(IMEI)], Some(SessionMode::Matching), &clients).expect("a plan");
    assert_eq!((forced.mode, forced.reason), (SessionMode::Matching, ModeReason::Asked));
}

/// Every three clients of nine sorts, every wish: what is planned, the clients' own decisions carry out.
#[test]
fn plan_and_decision_agree_over_all_cases() {
    let sorts: Vec<KnownClient> = [&[][..], &[IMEI], &[OTHER_IMEI]]
        .into_iter()
        .flat_map(|identifiers| {
            let plain = client(1, identifiers);
            let away = KnownClient { is_connected: false, ..plain.clone() };
            let there = KnownClient { has_session: true, ..plain.clone() };
            [plain, away, there]
        })
        .collect();
    let wishes = [vec![], vec![IMEI], vec![OTHER_IMEI], vec![IMEI, OTHER_IMEI], vec!["badge:7"], vec![IMEI, "badge:7"]];
    let (mut modes, mut requests) = (BTreeSet::new(), 0);
    for (first, second, third) in (0..729).map(|number| (number / 81, number / 9 % 9, number % 9)) {
        let mut clients = [sorts[first].clone(), sorts[second].clone(), sorts[third].clone()];
        clients.iter_mut().zip(1..).for_each(|(client, seed)| client.device = device(seed));
        for wish in &wishes {
            let (mode, reason, steps) = planned(wish, &clients);
            modes.insert(mode.letter());
            for (client, step) in clients.iter().zip(&steps) {
                let is_wanted = wish.is_empty() || wish.iter().any(|wanted| client.identifiers.contains(&id(wanted)));
                match step {
                    ClientStep::Deliver => assert!(client.has_session && is_wanted),
                    ClientStep::Leave(LeaveReason::NoWay) => assert!(!client.is_connected && !client.has_session),
                    ClientStep::Leave(why) => assert!(!is_wanted && *why == LeaveReason::NotWanted, "{why:?}"),
                    ClientStep::Request { identifiers } => {
                        requests += 1;
                        assert!(client.is_connected && !client.has_session);
                        assert!(initiation(mode, identifiers.clone()).check().is_ok(), "{mode:?} {identifiers:?}");
                        let case = Case { mode, carries: identifiers.clone(), has: client.identifiers.clone(), ..Case::good() };
                        assert_eq!(matches!(case.decide(), Decision::Open(_)), is_wanted, "{mode:?} {reason:?} {case:?}");
                    }
                }
            }
        }
    }
    assert_eq!(modes, BTreeSet::from(['A', 'B', 'C']));
    assert!(requests > 1_000, "{requests}");
}

#[test]
fn terms_travel_in_a_registration() {
    let mut registration = PushRegister::new(vec![crate::push::PushChannel::Stream]);
    assert_eq!(SessionTerms::of(&registration), None);
    let terms = client(1, &[]).terms.expect("set");
    registration.extensions = terms.put(Extensions::none());
    assert_eq!(SessionTerms::of(&registration), Some(terms));
    registration.extensions = Extensions::none().with(TERMS_EXTENSION, vec![9]);
    assert_eq!(SessionTerms::of(&registration), None, "what can't be read says nothing");
}

#[test]
fn every_encapsulation_carries_a_request() {
    for mode in [
        initiation(SessionMode::All, vec![]),
        initiation(SessionMode::Matching, vec![id(IMEI), id("uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6")]),
    ] {
        let request = signed(mode);
        for way in Encapsulation::ALL {
            let mut messages = way.encode(&request).unwrap_or_else(|error| panic!("{way:?}: {error}"));
            assert_eq!(Encapsulation::named(way.name()), Some(way));
            messages.reverse();
            assert_eq!(way.decode(&messages), Ok(request.clone()), "{way:?}, in any order");
            let limit = match way {
                Encapsulation::Sms => 140,
                Encapsulation::Ussd => 160,
                Encapsulation::Datagram => 1_232,
                _ => 4_096,
            };
            assert!(messages.iter().all(|message| message.len() <= limit), "{way:?}");
        }
    }
    let sms = Encapsulation::Sms.encode(&signed(initiation(SessionMode::All, vec![]))).expect("fits");
    assert!((2..=6).contains(&sms.len()), "{} short messages", sms.len());
    let large = SessionInitiation { content: vec![0; 1_024], ..initiation(SessionMode::All, vec![]) };
    assert!(matches!(Encapsulation::Datagram.encode(&signed(large)), Err(EncapsulationError::TooLarge { .. })));
}

#[test]
fn the_open_part_is_what_was_signed_or_nothing_is_believed() {
    let request = signed(initiation(SessionMode::All, vec![]));
    for way in [Encapsulation::Wsp, Encapsulation::Http, Encapsulation::Sip] {
        let mut message = way.encode(&request).expect("fits").remove(0);
        let last = message.len() - 1;
        message[last] ^= 1; // The contact point's address.
        assert_eq!(way.decode(&[message]), Err(EncapsulationError::Mismatch), "{way:?}");
    }
    let content = sia::encode(request.unverified());
    let read = sia::decode(&content).expect("its own");
    assert_eq!(read.applications, ["org.example.mail"]);
    assert_eq!(read.contacts, ["192.0.2.7:4001".parse().expect("an address")]);
}

#[test]
fn damaged_messages_are_refused_and_never_panic() {
    let request = signed(initiation(SessionMode::Matching, vec![id(IMEI)]));
    for way in Encapsulation::ALL {
        let messages = way.encode(&request).expect("fits");
        for (index, message) in messages.iter().enumerate() {
            for at in 0..message.len() {
                let mut short = messages.clone();
                short[index].truncate(at);
                assert!(way.decode(&short).is_err(), "{way:?} cut at {at}");
                let mut flipped = messages.clone();
                flipped[index][at] ^= 1 << (at % 8);
                // A bit may be one that nothing reads, such as a header's spelling: then it is the same request.
                if let Ok(read) = way.decode(&flipped) {
                    let is_same = read == request;
                    assert!(is_same || read.verify(&device(GATEWAY).0).is_err(), "{way:?} {at}");
                }
            }
        }
        let none: [&[u8]; 0] = [];
        assert!(way.decode(&none).is_err() && way.decode(&[[0u8; 9_000]]).is_err());
    }
}

#[test]
fn reassembly_is_bounded_and_forgets() {
    let way = Encapsulation::Sms;
    let messages = |nonce: u8| {
        let numbered = SessionInitiation { nonce: SessionNonce([nonce; 16]), ..initiation(SessionMode::All, vec![]) };
        way.encode(&signed(numbered)).expect("fits")
    };
    let mut reassembly = Reassembly::default();
    for nonce in 0..100 {
        assert_eq!(way.take_segment(&mut reassembly, "+4912345", &messages(nonce)[0], NOW), Ok(None));
    }
    assert_eq!(reassembly.waiting(), super::encapsulation::PARTIAL_MAX);
    let whole = messages(99);
    assert_eq!(way.take_segment(&mut reassembly, "+4912345", &whole[0], NOW), Ok(None), "the same again");
    assert_eq!(way.take_segment(&mut reassembly, "+49999", &whole[1], NOW), Ok(None), "another sender's is another request");
    let mut last = Ok(None);
    for message in &whole[1..] {
        last = way.take_segment(&mut reassembly, "+4912345", message, NOW);
    }
    assert!(matches!(last, Ok(Some(_))));
    let late = NOW.plus_secs(super::encapsulation::PARTIAL_SECS_MAX + 1);
    assert_eq!(way.take_segment(&mut reassembly, "x", &messages(1)[0], late), Ok(None));
    assert_eq!(reassembly.waiting(), 1, "the others' time is over");
    let mut wrong = messages(1)[0].clone();
    wrong[10] = u8::try_from(SEGMENTS_MAX).expect("small") + 1;
    assert!(way.take_segment(&mut reassembly, "x", &wrong, late).is_err());
}

/// The bytes around the signed part, as Wireshark 4.0 read them: a short message for port 2948 in parts, a WSP push of this type for `push.sia`.
#[test]
fn bearers_of_the_phone_network_have_the_bytes_that_others_read() {
    let request = signed(initiation(SessionMode::All, vec![]));
    let hex = |bytes: &[u8]| data_encoding::HEXLOWER.encode(bytes);
    let content = "00116f72672e6578616d706c652e6d61696c0008c4000fa1c0000207";
    assert_eq!(hex(&sia::encode(request.unverified())), content);
    let pdu = Encapsulation::Wsp.encode(&request).expect("fits").remove(0);
    let lengths = 128 + usize::from(pdu[3]) + (usize::from(pdu[2] & 0x7f) - 1) * 128;
    assert_eq!((pdu[0], pdu[1], pdu.len()), (7, 6, 4 + lengths + content.len() / 2), "the headers' length in two bytes");
    assert_eq!(hex(&pdu[4..7]), "b4af81");
    assert_eq!(&pdu[7..20], b"X-Halloo-Sir\0");
    assert!(hex(&pdu).ends_with(&format!("00{content}")));
    let messages = Encapsulation::Sms.encode(&request).expect("fits");
    for (message, number) in messages.iter().zip(1_u8..) {
        let total = u8::try_from(messages.len()).expect("few");
        assert_eq!(hex(&message[..12]), format!("0b05040b8423f0000307{total:02x}{number:02x}"));
    }
    let joined: Vec<u8> = messages.iter().flat_map(|message| message[12..].to_vec()).collect();
    assert_eq!(joined, pdu);
    let other = SessionInitiation { application: None, ..initiation(SessionMode::All, vec![]) };
    assert_eq!(hex(&sia::encode(&other)), "00018008c4000fa1c0000207", "any application has a number");
    let datagram = Encapsulation::Datagram.encode(&request).expect("fits").remove(0);
    assert_eq!(&datagram[..4], b"SIR1");
}
