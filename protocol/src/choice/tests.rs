//! The decision: cases to read, and a table over everything that can be known or unknown.

use std::collections::BTreeSet;

use super::*;
use crate::directory::DeviceKind;
use crate::event::EventKind;
use crate::key::{DeviceKey, PublicKey};
use crate::time::UnixTime;
use crate::wire::{self, Extensions};

/// Friday, the 27th of November 2026, 12:00 UTC.
const NOON: UnixTime = UnixTime(1_795_780_800);

const PHONE: u8 = 1;
const LAPTOP: u8 = 2;
const DESKTOP: u8 = 3;

fn key(number: u8) -> DeviceKey {
    DeviceKey(PublicKey([number; 32]))
}

fn report(usage: Option<Usage>, age_secs: u64) -> DeviceReport {
    DeviceReport { sequence: 1, at: NOON.minus_secs(age_secs), usage, ..DeviceReport::default() }
}

fn candidate(number: u8, name: &str, kind: DeviceKind, reach: Reach, report: Option<DeviceReport>) -> Candidate {
    Candidate { device: key(number), name: Some(name.to_owned()), kind: Some(kind), report, reach }
}

fn call_from(caller: &str, candidates: Vec<Candidate>) -> Inputs {
    let event = Event { kind: EventKind::VOICE_CALL, callers: vec![CallerRef::Name(caller.to_owned())], format: None };
    Inputs { event, at: NOON, presence: Some(Presence::Online), candidates }
}

/// Bob's phone is suspended, his laptop idle, his desktop in use.
fn bobs_devices() -> Inputs {
    let phone = candidate(PHONE, "phone", DeviceKind::Phone, Reach::Wakeable, Some(report(Some(Usage::Locked), 4_000)));
    let laptop = candidate(LAPTOP, "laptop", DeviceKind::Laptop, Reach::Connected, Some(report(Some(Usage::Idle), 30)));
    let desktop = candidate(DESKTOP, "desktop", DeviceKind::Desktop, Reach::Connected, Some(report(Some(Usage::InUse), 10)));
    call_from("alice@example", vec![phone, laptop, desktop])
}

fn policy(text: &str) -> Policy {
    Policy::parse(text).expect("a policy")
}

fn stages(decision: &Decision) -> Vec<(u16, Vec<u8>)> {
    let of = |stage: &Stage| (stage.after_secs, stage.choices.iter().map(|choice| choice.device.0.0[0]).collect());
    decision.stages.iter().map(of).collect()
}

#[test]
fn without_a_policy_every_device_is_told_at_once() {
    let decision = decide(&bobs_devices(), None);
    assert_eq!(stages(&decision), [(0, vec![DESKTOP, LAPTOP, PHONE])]);
    assert!(decision.stages[0].choices.iter().all(|choice| choice.because == Because::NoPolicy));
}

#[test]
fn the_device_in_use_is_told_first_and_the_others_when_it_stays_silent() {
    let policy = policy("version = 1\n[[rule]]\ntargets = [\"in-use\"]\nescalate_after = 15\n");
    let decision = decide(&bobs_devices(), Some(&policy));
    assert_eq!(stages(&decision), [(0, vec![DESKTOP]), (15, vec![LAPTOP, PHONE])]);
    let (after, choice) = decision.turn_of(&key(DESKTOP)).expect("a turn");
    assert_eq!((after, choice.because), (0, Because::InUse));
    assert_eq!(choice.words, "at once: it is in use (in use 10 s ago)");
    let (after, choice) = decision.turn_of(&key(PHONE)).expect("a turn");
    assert_eq!((after, choice.because), (15, Because::NotAnswered));
    assert_eq!(choice.words, "after 15 s, unless answered: nobody before has answered (nothing was heard of it for 4000 s)");
}

#[test]
fn where_nobody_fits_nobody_is_waited_for() {
    let mut inputs = bobs_devices();
    inputs.candidates.pop();
    let policy = policy("version = 1\n[[rule]]\ntargets = [\"in-use\"]\nthen = [{ targets = [\"desktop\"] }]\n");
    let decision = decide(&inputs, Some(&policy));
    assert_eq!(stages(&decision), [(0, vec![LAPTOP, PHONE])]);
    assert!(decision.stages[0].choices.iter().all(|choice| choice.because == Because::NobodyFits));
}

#[test]
fn kinds_are_taken_in_order_if_they_are_on() {
    let text = "version = 1\n[[rule]]\ntargets = [\"laptop\", \"desktop\"]\nescalate_after = 10\nthen = [{ targets = [\"device:phone\"], escalate_after = 5 }]\n";
    let decision = decide(&bobs_devices(), Some(&policy(text)));
    assert_eq!(stages(&decision), [(0, vec![LAPTOP]), (10, vec![PHONE]), (15, vec![DESKTOP])]);
    let mut inputs = bobs_devices();
    inputs.candidates[1].report = Some(report(Some(Usage::Asleep), 30));
    let decision = decide(&inputs, Some(&policy(text)));
    assert_eq!(stages(&decision)[0], (0, vec![DESKTOP]), "a laptop that sleeps isn't on");
}

#[test]
fn several_are_told_where_several_are_asked_for() {
    let decision =
        decide(&bobs_devices(), Some(&policy("version = 1\n[[rule]]\ntargets = [\"in-use\", \"laptop\"]\ncount = 2\n")));
    assert_eq!(stages(&decision), [(0, vec![DESKTOP, LAPTOP]), (20, vec![PHONE])]);
}

#[test]
fn the_nearest_is_told_by_its_metres() {
    let mut inputs = bobs_devices();
    let near = |is_near, metres| Some(Proximity { is_near, metres });
    for (candidate, proximity) in inputs.candidates.iter_mut().zip([near(true, Some(1)), near(true, None), near(false, None)]) {
        candidate.report.as_mut().expect("a report").proximity = proximity;
        candidate.report.as_mut().expect("a report").at = NOON;
    }
    let policy = policy("version = 1\n[[rule]]\ntargets = [\"nearest\"]\n");
    assert_eq!(stages(&decide(&inputs, Some(&policy)))[0], (0, vec![PHONE]));
    inputs.candidates[0].report.as_mut().expect("a report").at = NOON.minus_secs(STALE_SECS + 1);
    assert_eq!(stages(&decide(&inputs, Some(&policy)))[0], (0, vec![LAPTOP]), "where it was long ago doesn't count");
}

#[test]
fn a_device_silent_for_long_is_off_and_one_that_is_connected_is_on() {
    let mut inputs = bobs_devices();
    let policy = policy("version = 1\n[[rule]]\ntargets = [\"desktop\"]\n");
    inputs.candidates[2].report = Some(report(Some(Usage::InUse), STALE_SECS + 1));
    assert_eq!(stages(&decide(&inputs, Some(&policy)))[0], (0, vec![DESKTOP]), "connected");
    inputs.candidates[2].reach = Reach::Unknown;
    assert_eq!(stages(&decide(&inputs, Some(&policy)))[0].1.len(), 3, "off: no device fits");
}

#[test]
fn what_a_device_cannot_show_is_shown_elsewhere_and_it_says_where() {
    let mut inputs = bobs_devices();
    inputs.event = Event { kind: EventKind::MESSAGE, callers: vec![], format: Some("image/png".into()) };
    let shows = |formats: &[&str]| Some(formats.iter().map(|format| (*format).to_owned()).collect());
    inputs.candidates[2].report.as_mut().expect("a report").attributes.formats = shows(&["text/plain"]);
    inputs.candidates[1].report.as_mut().expect("a report").attributes.formats = shows(&["text/*", "image/*"]);
    let decision = decide(&inputs, Some(&policy("version = 1\n[[rule]]\ntargets = [\"in-use\"]\n")));
    assert_eq!(stages(&decision), [(0, vec![DESKTOP, LAPTOP]), (20, vec![PHONE])]);
    let [desktop, laptop] = decision.stages[0].choices.as_slice() else { panic!("two") };
    assert_eq!(desktop.delivery, Delivery::Prompt { shown_on: key(LAPTOP) });
    assert_eq!((laptop.delivery, laptop.because), (Delivery::Content, Because::CanShow));
    assert_eq!(decision.stages[1].choices[0].delivery, Delivery::Content, "whether the phone can isn't known");
}

#[test]
fn a_device_that_cannot_ring_is_not_left_alone_with_a_call() {
    let mut inputs = bobs_devices();
    inputs.candidates[2].report.as_mut().expect("a report").attributes.can_ring = Some(false);
    let decision = decide(&inputs, Some(&policy("version = 1\n[[rule]]\ntargets = [\"in-use\"]\n")));
    assert_eq!(stages(&decision)[0], (0, vec![DESKTOP, LAPTOP]));
    assert_eq!(decision.stages[0].choices[0].delivery, Delivery::Prompt { shown_on: key(LAPTOP) });
}

#[test]
fn rules_are_for_events_callers_hours_days_and_presence() {
    let text = r#"
version = 1
utc_offset = "-05:00"
[groups]
family = ["alice@example"]
[[rule]]
when = { events = ["message"] }
targets = ["all"]
[[rule]]
when = { from = ["dave@example"] }
targets = ["all"]
[[rule]]
when = { between = "22:00-06:00" }
targets = ["all"]
[[rule]]
when = { days = ["sat", "sun"] }
targets = ["all"]
[[rule]]
when = { presence = ["dnd"] }
targets = ["all"]
[[rule]]
name = "family"
when = { events = ["call"], from = ["family"], between = "07:00-08:00", days = ["fri"], presence = ["online", "away"] }
targets = ["in-use"]
"#;
    let policy = policy(text);
    let mut inputs = bobs_devices();
    let decision = decide(&inputs, Some(&policy));
    let why: Vec<Mismatch> = decision.passed_over.iter().map(|passed| passed.why).collect();
    assert_eq!(why, [Mismatch::Event, Mismatch::Caller, Mismatch::Time, Mismatch::Time, Mismatch::Presence]);
    assert_eq!(decision.rule, Some(5), "12:00 in UTC is 07:00 there");
    // In the small hours of UTC it is the evening before, there.
    inputs.at = NOON.plus_secs(15 * 3_600);
    assert_eq!(decide(&inputs, Some(&policy)).rule, Some(2));
    inputs.event.callers.clear();
    inputs.at = NOON;
    let decision = decide(&inputs, Some(&policy));
    assert_eq!(decision.passed_over[1].why, Mismatch::UnknownCaller);
    assert_eq!((decision.rule, decision.stages[0].choices[0].because), (None, Because::NoRule));
}

#[test]
fn a_gateway_learns_no_names_and_decides_alike() {
    let text = "version = 1\n[groups]\nwork = [\"alice@example\", \"zoe@example\"]\n[[rule]]\nname = \"boss\"\nwhen = { from = [\"work\"] }\ntargets = [\"device:laptop\", \"device:gone\"]\n";
    let here = policy(text);
    let holder = PublicKey([9; 32]);
    let holders = |name: &str| if name == "alice@example" { vec![holder] } else { vec![] };
    let there = here.for_gateway(holders, |name| (name == "laptop").then(|| key(LAPTOP)));
    let bytes = wire::encode(&there);
    for secret in ["alice", "zoe", "boss", "laptop", "work", "gone"] {
        assert!(!bytes.windows(secret.len()).any(|part| part == secret.as_bytes()), "{secret}");
    }
    there.check().expect("in range");
    let inputs = bobs_devices();
    let mut at_gateway = inputs.clone();
    at_gateway.event.callers = vec![CallerRef::Holder(holder)];
    at_gateway.candidates.iter_mut().for_each(|candidate| candidate.name = None);
    assert_eq!(stages(&decide(&inputs, Some(&here))), stages(&decide(&at_gateway, Some(&there))));
    at_gateway.event.callers = vec![CallerRef::Holder(PublicKey([8; 32]))];
    assert_eq!(decide(&at_gateway, Some(&there)).rule, None);
}

#[test]
fn texts_that_are_no_policy_say_where() {
    let error = |text: &str| Policy::parse(text).expect_err("no policy").to_string();
    assert!(error("version = 1\n\n[[rule]]\ntarget = [\"all\"]\n").starts_with("line 4: unknown field `target`"));
    assert!(error("version = 1\n[[rule]]\n").starts_with("line 2: missing field `targets`"));
    assert!(error("version = 1\n[[rule]\n").starts_with("line 2: "));
    assert_eq!(error("version = 2\n"), "version 2 isn't known; this program reads version 1");
    let rule = |rest: &str| error(&format!("version = 1\n[[rule]]\nname = \"x\"\n{rest}\n"));
    assert!(rule("targets = []").starts_with("rule 1 (\"x\"): targets: none"));
    assert!(rule("targets = [\"fridge\"]").contains("\"fridge\" isn't all, in-use,"));
    assert!(rule("targets = [\"all\"]\ncount = 0").contains("count: 0"));
    assert!(rule("targets = [\"all\"]\nescalate_after = 46").contains("46 s, expected 1 to 45"));
    assert!(rule("targets = [\"all\"]\nwhen = { from = [\"nobody\"] }").contains("neither a group"));
    assert!(rule("targets = [\"all\"]\nwhen = { between = \"7-8\" }").contains("HH:MM-HH:MM"));
    assert!(rule("targets = [\"all\"]\nwhen = { days = [\"friday\"] }").contains("mon to sun"));
    assert!(rule("targets = [\"all\"]\nwhen = { events = [\"fax\"] }").contains("\"fax\" isn't"));
    assert!(error("version = 1\nutc_offset = \"2\"\n").contains("+HH:MM"));
    assert!(matches!(Policy::parse(&"#".repeat(POLICY_TEXT_BYTES_MAX + 1)), Err(PolicyError::TooLong(_))));
    let many = "[[rule]]\ntargets = [\"all\"]\n".repeat(RULES_MAX + 1);
    assert!(error(&format!("version = 1\n{many}")).contains("at most 32"));
}

#[test]
fn reports_merge_by_their_number_and_are_bounded() {
    let mut reports = Reports::default();
    let numbered = |sequence, at| DeviceReport { sequence, at: UnixTime(at), ..DeviceReport::default() };
    assert!(reports.merge(key(1), numbered(5, 10)));
    assert!(!reports.merge(key(1), numbered(5, 11)), "the same once more");
    assert!(!reports.merge(key(1), numbered(4, 12)), "an older one");
    assert!(reports.merge(key(1), numbered(6, 5)), "numbers count, not clocks");
    for number in 2..60 {
        reports.merge(key(number), numbered(1, u64::from(number)));
    }
    assert_eq!(reports.len(), REPORTS_MAX);
    assert!(reports.get(&key(59)).is_some() && reports.get(&key(2)).is_none());
    reports.retain(|device| *device == key(59));
    assert_eq!(reports.len(), 1);
}

#[test]
fn reports_out_of_range_are_refused() {
    let refused = |change: fn(&mut DeviceReport)| {
        let mut report = DeviceReport::default();
        change(&mut report);
        assert!(report.check().is_err(), "{report:?}");
    };
    refused(|report| report.usage = Some(Usage::Off));
    refused(|report| report.proximity = Some(Proximity { is_near: false, metres: Some(u16::MAX) }));
    refused(|report| report.attributes.formats = Some(vec!["text/plain".into(); FORMATS_MAX + 1]));
    for format in ["text", "/", "a/b/c", "text/ plain", ""] {
        assert!(Attributes { formats: Some(vec![format.into()]), ..Attributes::default() }.check().is_err(), "{format:?}");
    }
    assert!("12x".parse::<Screen>().is_err() && "0x0".parse::<Screen>().is_ok_and(|screen| !screen.is_there()));
    assert!("02:00:5e:10:00:0".parse::<MacAddress>().is_err());
    assert_eq!("02-00-5E-10-00-01".parse::<MacAddress>().map(|mac| mac.to_string()).as_deref(), Ok("02:00:5e:10:00:01"));
}

#[test]
fn held_extensions_say_how_long() {
    assert_eq!(held_for(&with_held(Extensions::none(), 15)), Some(15));
    assert_eq!(held_for(&with_held(Extensions::none(), u16::MAX)), Some(HELD_SECS_MAX));
    assert_eq!(held_for(&Extensions::none()), None);
    assert_eq!(held_for(&Extensions::none().with(EXTENSION_HELD, vec![])), None);
}

/// What can be known of one device.
fn variants(number: u8) -> Vec<Candidate> {
    let mut variants = Vec::new();
    let usages = [None, Some(Usage::InUse), Some(Usage::Idle), Some(Usage::Locked), Some(Usage::Asleep)];
    let proximities = [
        None,
        Some(Proximity { is_near: true, metres: None }),
        Some(Proximity { is_near: true, metres: Some(2) }),
        Some(Proximity { is_near: false, metres: None }),
    ];
    let attributes = [
        Attributes::default(),
        Attributes {
            kind: Some(DeviceKind::Laptop),
            screen: Some(Screen { width: 80, height: 25 }),
            formats: Some(vec!["image/*".into()]),
            can_ring: Some(true),
            ..Attributes::default()
        },
        Attributes {
            kind: Some(DeviceKind::Desktop),
            formats: Some(vec!["text/plain".into()]),
            can_ring: Some(false),
            ..Attributes::default()
        },
    ];
    let kind = [Some(DeviceKind::Phone), None, Some(DeviceKind::Desktop)][usize::from(number) % 3];
    let name = (number % 2 == 1).then(|| format!("device {number}"));
    for reach in [Reach::Connected, Reach::Wakeable, Reach::Unknown] {
        variants.push(Candidate { device: key(number), name: name.clone(), kind, report: None, reach });
        for usage in usages {
            for proximity in proximities {
                for attributes in &attributes {
                    for age_secs in [10, STALE_SECS + 1] {
                        let report = DeviceReport { proximity, attributes: attributes.clone(), ..report(usage, age_secs) };
                        variants.push(Candidate { device: key(number), name: name.clone(), kind, report: Some(report), reach });
                    }
                }
            }
        }
    }
    variants
}

fn policies() -> Vec<Option<Policy>> {
    let targets = [
        "[\"all\"]",
        "[\"in-use\"]",
        "[\"nearest\"]",
        "[\"laptop\", \"desktop\"]",
        "[\"device:device 1\"]",
        "[\"device:nothing\"]",
        "[\"in-use\", \"nearest\", \"phone\"]",
    ];
    let mut policies = vec![
        None,
        Some(policy("version = 1\n")),
        Some(policy("version = 1\n[[rule]]\nwhen = { from = [\"x@y\"] }\ntargets = [\"all\"]\n")),
    ];
    for first in targets {
        for count in [1, 2] {
            for then in
                ["", "{ targets = [\"in-use\"], escalate_after = 45 }", "{ targets = [\"nearest\"] }, { targets = [\"all\"] }"]
            {
                let text =
                    format!("version = 1\n[[rule]]\ntargets = {first}\ncount = {count}\nescalate_after = 30\nthen = [{then}]\n");
                policies.push(Some(policy(&text)));
            }
        }
    }
    policies
}

fn events() -> [Event; 3] {
    let event = |kind, format: Option<&str>| Event {
        kind,
        callers: vec![CallerRef::Name("alice@example".into())],
        format: format.map(str::to_owned),
    };
    [event(EventKind::VOICE_CALL, None), event(EventKind::VIDEO_CALL, None), event(EventKind::MESSAGE, Some("image/png"))]
}

fn holds(inputs: &Inputs, policy: Option<&Policy>) {
    let decision = decide(inputs, policy);
    let context = || format!("{inputs:?}\n{policy:?}\n{decision:?}");
    let told: Vec<DeviceKey> =
        decision.stages.iter().flat_map(|stage| stage.choices.iter().map(|choice| choice.device)).collect();
    let distinct: BTreeSet<DeviceKey> = told.iter().copied().collect();
    let known: BTreeSet<DeviceKey> = inputs.candidates.iter().map(|candidate| candidate.device).collect();
    assert_eq!(told.len(), distinct.len(), "each once: {}", context());
    assert_eq!(distinct, known, "nobody is left out: {}", context());
    assert!(decision.stages.first().is_none_or(|stage| stage.after_secs == 0), "somebody at once: {}", context());
    assert!(decision.stages.windows(2).all(|pair| pair[0].after_secs <= pair[1].after_secs), "in order: {}", context());
    for stage in &decision.stages {
        assert!(!stage.choices.is_empty() && stage.after_secs <= LAST_STAGE_SECS, "{}", context());
        assert!(stage.choices.iter().any(|choice| choice.delivery == Delivery::Content), "somebody shows it: {}", context());
        for choice in &stage.choices {
            assert!(!choice.words.is_empty(), "{}", context());
            if let Delivery::Prompt { shown_on } = choice.delivery {
                let is_there = stage.choices.iter().any(|other| other.device == shown_on && other.delivery == Delivery::Content);
                assert!(is_there, "where it says, it is: {}", context());
            }
        }
    }
    let mut turned = inputs.clone();
    turned.candidates.reverse();
    assert_eq!(decide(&turned, policy), decision, "whatever the order: {}", context());
}

/// One device alone and two together, each in every state, under every policy and event.
#[test]
fn whatever_is_known_nobody_is_left_out_or_told_twice() {
    let policies = policies();
    for policy in &policies {
        for event in events() {
            for candidate in variants(1) {
                holds(&Inputs { event: event.clone(), at: NOON, presence: None, candidates: vec![candidate] }, policy.as_ref());
            }
        }
    }
    // Two: every pair of every ninth state, for the pairs alone are a hundred thousand a policy.
    let few = |number: u8| variants(number).into_iter().step_by(9).collect::<Vec<_>>();
    let (first, second) = (few(1), few(2));
    let third = candidate(3, "device 3", DeviceKind::Server, Reach::Unknown, None);
    for policy in &policies {
        for event in events() {
            for (one, other) in first.iter().flat_map(|one| second.iter().map(move |other| (one, other))) {
                let candidates = vec![one.clone(), other.clone(), third.clone()];
                holds(&Inputs { event: event.clone(), at: NOON, presence: None, candidates }, policy.as_ref());
            }
        }
    }
    holds(&Inputs { event: events()[0].clone(), at: NOON, presence: None, candidates: vec![] }, None);
}
