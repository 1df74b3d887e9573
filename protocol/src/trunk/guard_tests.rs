use super::*;

const DAY: u64 = 20_000;

fn limits(user_calls: u32) -> Limits {
    Limits { user: Limit { calls: user_calls, minutes: 5 }, ..Limits::default() }
}

fn spending<'a>(limits: &'a Limits, user: &'a str, number: &'a Number) -> Spending<'a> {
    Spending { trunk: "main", limits, user, number }
}

fn number(text: &str) -> Number {
    Number::Global(text.to_owned())
}

#[test]
fn the_eleventh_call_of_ten_is_refused_and_the_next_day_begins_anew() {
    let (limits, number, mut ledger) = (limits(10), number("+4930123456"), Ledger::default());
    let of_alice = spending(&limits, "alice@example", &number);
    for _ in 0..10 {
        assert_eq!(ledger.book_call(&of_alice, DAY), Ok(()));
    }
    let reached = ledger.book_call(&of_alice, DAY).expect_err("ten");
    assert_eq!(reached.to_string(), "10 calls a day for each user");
    assert_eq!(ledger.used("main", &Whose::All, DAY), Count { calls: 10, minutes: 0 }, "what was refused counts nowhere");
    assert_eq!(ledger.book_call(&spending(&limits, "bob@example", &number), DAY), Ok(()), "another's are another's");
    assert_eq!(ledger.book_call(&of_alice, DAY - 1), Err(reached), "a clock that goes back begins no new day");
    assert_eq!(ledger.used("main", &Whose::All, DAY + 1), Count::default());
    assert_eq!(ledger.book_call(&of_alice, DAY + 1), Ok(()));
}

#[test]
fn minutes_end_a_call_and_keep_the_next_one_from_beginning() {
    let (limits, number, mut ledger) = (limits(10), number("+4930123456"), Ledger::default());
    let of_alice = spending(&limits, "alice@example", &number);
    ledger.book_call(&of_alice, DAY).expect("the first");
    for _ in 0..5 {
        assert_eq!(ledger.book_minute(&of_alice, DAY), Ok(()));
    }
    assert_eq!(ledger.book_minute(&of_alice, DAY).expect_err("five").to_string(), "5 minutes a day for each user");
    assert!(!ledger.book_call(&of_alice, DAY).expect_err("none left").is_calls);
}

#[test]
fn a_prefix_has_limits_of_its_own() {
    let prefix = |prefix: &str, calls| PrefixLimit { prefix: prefix.to_owned(), limit: Limit { calls, minutes: u32::MAX } };
    let limits = Limits { prefixes: vec![prefix("+49", 100), prefix("+49900", 0), prefix("+44", 1)], ..limits(10) };
    let mut ledger = Ledger::default();
    let expensive = number("+4990012345");
    assert_eq!(
        ledger.book_call(&spending(&limits, "alice@example", &expensive), DAY).expect_err("forbidden").to_string(),
        "0 calls a day to +49900"
    );
    let london = number("+442012345678");
    assert_eq!(ledger.book_call(&spending(&limits, "alice@example", &london), DAY), Ok(()));
    assert!(ledger.book_call(&spending(&limits, "bob@example", &london), DAY).is_err(), "all users together");
    assert_eq!(ledger.book_call(&spending(&limits, "bob@example", &number("+4930123456")), DAY), Ok(()));
}

#[test]
fn a_call_that_nobody_tried_is_taken_back() {
    let (limits, number, mut ledger) = (limits(1), number("+4930123456"), Ledger::default());
    let of_alice = spending(&limits, "alice@example", &number);
    ledger.book_call(&of_alice, DAY).expect("the first");
    ledger.release_call(&of_alice, DAY);
    assert_eq!(ledger.book_call(&of_alice, DAY), Ok(()));
    ledger.release_call(&of_alice, DAY - 1);
    assert!(ledger.book_call(&of_alice, DAY).is_err(), "of another day");
    let encoded = crate::wire::encode(&ledger);
    assert_eq!(crate::wire::decode::<Ledger>(&encoded, 4_096), Ok(ledger));
}
