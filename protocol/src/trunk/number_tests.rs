use proptest::prelude::*;

use super::*;

fn germany() -> DialPlan {
    DialPlan { country: Some("49".to_owned()), area: Some("30".to_owned()), ..DialPlan::default() }
}

fn number(plan: &DialPlan, text: &str) -> Result<String, NumberError> {
    plan.number(&Dialled::parse(text)?, |text| text == "115").map(|number| number.to_string())
}

#[test]
fn a_number_is_the_same_however_it_is_written() {
    let written = [
        "+4930123456",
        "tel:+4930123456",
        "TEL:+49-30-12.34(56)",
        "tel:123456;phone-context=+4930",
        "tel:+4930123456;phone-context=ignored.example",
        "004930123456",
        "030 123456",
        "(030) 12 34-56",
        "123456",
    ];
    for text in written {
        assert_eq!(number(&germany(), text).as_deref(), Ok("+4930123456"), "{text}");
    }
    assert_eq!(number(&germany(), "115").as_deref(), Ok("115"), "one that a pattern names");
    let america = DialPlan {
        country: Some("1".to_owned()),
        international_prefix: "011".to_owned(),
        national_prefix: "1".to_owned(),
        ..germany()
    };
    assert_eq!(number(&america, "1 212 555 0100").as_deref(), Ok("+12125550100"));
    assert_eq!(number(&america, "011 49 30 123456").as_deref(), Ok("+4930123456"));
    let denmark = DialPlan { country: Some("45".to_owned()), national_prefix: String::new(), area: None, ..germany() };
    assert_eq!(number(&denmark, "33 12 34 56").as_deref(), Ok("+4533123456"));
}

#[test]
fn what_is_no_number_says_why() {
    let cases = [
        ("", NumberError::Empty),
        ("tel:", NumberError::Empty),
        ("+", NumberError::Empty),
        ("tel:+49301234;ext=12", NumberError::Extension),
        ("bob", NumberError::Character),
        ("+49+30", NumberError::Character),
        ("+49*30", NumberError::Character),
        ("+4930123456789012", NumberError::Length),
        ("+1", NumberError::Length),
        ("+0301234567", NumberError::Length),
    ];
    for (text, error) in cases {
        assert_eq!(number(&germany(), text), Err(error), "{text:?}");
    }
    assert_eq!(Dialled::parse(&"1".repeat(33)), Err(NumberError::TooLong));
    assert_eq!(Dialled::parse(&"-".repeat(1_000)), Err(NumberError::TooLong));
    assert_eq!(number(&DialPlan::default(), "030123456"), Err(NumberError::Local));
    assert_eq!(number(&DialPlan { area: None, ..germany() }, "123456"), Err(NumberError::Local));
}

#[test]
fn an_emergency_number_is_one_however_it_is_written() {
    for text in
        ["112", "1-1-2", "tel:112", "tel:112;phone-context=+49", "+49112", "0049112", "+112", "0112", "911", "+1911", "+44 999"]
    {
        let plan = germany();
        let found = plan.number(&Dialled::parse(text).expect("one"), |_| false).expect("one");
        assert!(plan.emergency.iter().any(|known| known == found.as_str()), "{text}: {found}");
        assert!(matches!(found, Number::Short(_)), "{text}");
    }
    // Somebody's number that begins or ends so.
    for text in ["+49301120112", "030 112 112", "+1 911 555 0100", "1124567"] {
        let found = germany().number(&Dialled::parse(text).expect("one"), |_| false).expect("one");
        assert!(matches!(found, Number::Global(_)), "{text}: {found}");
    }
}

#[test]
fn patterns_say_which_numbers() {
    let cases = [
        ("+49*", "+4930123", true),
        ("+49*", "+48123456", false),
        ("+49*", "+4", false),
        ("*", "+4930123", true),
        ("+4989????", "+49891234", true),
        ("+4989????", "+4989123", false),
        ("+4989????", "+498912345", false),
        ("115", "115", true),
        ("115", "1155", false),
        ("??", "+1", false),
    ];
    for (pattern, number, expected) in cases {
        assert_eq!(Pattern::parse(pattern).expect("one").matches(number), expected, "{pattern} {number}");
    }
    for wrong in ["", "+49-30", "a", "4*9", "+49**", &"1".repeat(40)] {
        assert!(Pattern::parse(wrong).is_err(), "{wrong}");
    }
    assert!(Pattern::parse("115").expect("one").is_short());
    assert!(!Pattern::parse("+49*").expect("one").is_short() && !Pattern::parse("0*").expect("one").is_short());
}

proptest! {
    #[test]
    fn whatever_is_dialled_is_a_number_or_an_error(text in "\\PC{0,40}") {
        if let Ok(dialled) = Dialled::parse(&text) {
            prop_assert!(dialled.as_str().len() <= DIALLED_CHARS_MAX);
            prop_assert_eq!(Dialled::parse(dialled.as_str()), Ok(dialled.clone()), "read again it is the same");
            if let Ok(Number::Global(number)) = germany().number(&dialled, |_| false) {
                prop_assert!(number.starts_with('+') && number.len() <= GLOBAL_DIGITS_MAX + 1);
                prop_assert!(number[1..].bytes().all(|b| b.is_ascii_digit()));
            }
        }
    }

    #[test]
    fn separators_change_nothing(digits in "\\+?[0-9]{3,15}", at in 0_usize..16, separator in "[-. ()/]") {
        let mut text = digits.clone();
        text.insert_str(at.min(digits.len()), &separator);
        prop_assert_eq!(Dialled::parse(&text), Dialled::parse(&digits));
    }
}
