use super::*;

fn rule(name: &str, patterns: &[&str], callers: &[&str]) -> TrunkRule {
    TrunkRule {
        name: name.to_owned(),
        patterns: patterns.iter().map(|text| Pattern::parse(text).expect("a pattern")).collect(),
        callers: callers.iter().map(ToString::to_string).collect(),
        emergency: false,
        caller_id: CallerId::Number("+4930100".to_owned()),
        caller_ids: BTreeMap::from([("bob@example".to_owned(), CallerId::Anonymous)]),
        limits: Limits::default(),
    }
}

fn plan() -> Plan {
    let dial_plan = DialPlan { country: Some("49".to_owned()), ..DialPlan::default() };
    let trunks = vec![
        rule("home", &["+49*", "115"], &["alice@example", "bob@example"]),
        rule("cheap", &["+44*", "+49*"], &["alice@example"]),
        rule("world", &["*"], &["alice@example"]),
    ];
    Plan { dial_plan, trunks }
}

fn route(plan: &Plan, user: &str, text: &str) -> Result<(String, Vec<usize>), Refusal> {
    plan.route(user, &Dialled::parse(text).expect("dialled")).map(|route| (route.number.to_string(), route.trunks))
}

#[test]
fn trunks_are_tried_in_their_order_as_far_as_they_lead_there() {
    assert_eq!(route(&plan(), "alice@example", "030 123456"), Ok(("+4930123456".to_owned(), vec![0, 1, 2])));
    assert_eq!(route(&plan(), "alice@example", "+442012345678"), Ok(("+442012345678".to_owned(), vec![1, 2])));
    assert_eq!(route(&plan(), "alice@example", "115"), Ok(("115".to_owned(), vec![0, 2])));
    assert_eq!(route(&plan(), "bob@example", "+4930123456"), Ok(("+4930123456".to_owned(), vec![0])), "his own only");
}

#[test]
fn who_isnt_named_hears_nothing_else() {
    for text in ["+4930123456", "112", "1"] {
        assert_eq!(route(&plan(), "mallory@example", text), Err(Refusal::NotNamed), "{text}");
    }
    assert_eq!(route(&plan(), "alice@other", "+4930123456"), Err(Refusal::NotNamed), "another authority's");
    assert_eq!(route(&Plan::default(), "alice@example", "+4930123456"), Err(Refusal::NotNamed));
    assert_eq!(route(&plan(), "bob@example", "+442012345678"), Err(Refusal::NoTrunk("+442012345678".to_owned())));
}

#[test]
fn emergency_numbers_go_where_the_owner_says_or_nowhere() {
    let refused = route(&plan(), "alice@example", "112").expect_err("not set up");
    assert_eq!(refused.reason(), Reason::TELEPHONE_EMERGENCY);
    assert!(refused.to_string().starts_with("112 is an emergency number"), "{refused}");
    assert!(route(&plan(), "alice@example", "+49112").is_err(), "however it is written");
    let mut ready = plan();
    ready.trunks[1].emergency = true;
    let dialled = Dialled::parse("112").expect("one");
    let expected = Route { number: Number::Short("112".to_owned()), is_emergency: true, trunks: vec![1] };
    assert_eq!(ready.route("alice@example", &dialled), Ok(expected));
    assert_eq!(route(&ready, "bob@example", "112"), Err(Refusal::Emergency("112".to_owned())));
}

#[test]
fn callers_are_shown_as_the_owner_says() {
    let plan = plan();
    assert_eq!(plan.trunks[0].caller_id_of("alice@example"), &CallerId::Number("+4930100".to_owned()));
    assert_eq!(plan.trunks[0].caller_id_of("bob@example"), &CallerId::Anonymous);
}

#[test]
fn only_what_another_trunk_could_mend_goes_to_another_trunk() {
    for status in [None, Some(408), Some(503), Some(500), Some(403), Some(407)] {
        assert_eq!(fate_of(status), TrunkFate::Next, "{status:?}");
    }
    for (status, reason) in [
        (486, Reason::BUSY),
        (404, Reason::TELEPHONE_UNKNOWN),
        (603, Reason::TELEPHONE_DECLINED),
        (480, Reason::TELEPHONE_NO_ANSWER),
        (488, Reason::MEDIA_FAILED),
    ] {
        assert_eq!(fate_of(Some(status)), TrunkFate::Over(reason), "{status}");
    }
}

#[test]
fn every_refusal_has_a_status_and_words() {
    let refusals = [
        Refusal::NotNamed,
        Refusal::Number(NumberError::Empty),
        Refusal::Emergency("112".to_owned()),
        Refusal::NoTrunk("+1".to_owned()),
        Refusal::TrunksFailed,
    ];
    for refusal in refusals {
        let (status, words) = refusal_of(refusal.reason()).expect("a status");
        assert!((400..700).contains(&status) && !words.is_empty());
        assert!(!refusal.reason().to_string().starts_with("reason "), "{refusal:?} has words");
    }
    assert_eq!(refusal_of(Reason::BUSY), None);
}
