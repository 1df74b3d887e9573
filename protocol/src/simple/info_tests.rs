//! Bodies, and what is sent again.

use proptest::prelude::*;

use super::*;

fn request(text: &str) -> Result<Numbered<Request>, BodyError> {
    Numbered::parse(text.as_bytes())
}

#[test]
fn every_request_and_notice_reads_as_the_specification_says() {
    let requests = [
        (r#"{"id":1,"request":"login","version":1}"#, Request::Login { version: 1 }),
        (r#"{"id":1,"request":"get-configuration"}"#, Request::GetConfiguration),
        (r#"{"id":1,"request":"get-buddies"}"#, Request::GetBuddies),
        (r#"{"id":1,"request":"get-status","buddy":"sip:b@x"}"#, Request::GetStatus { buddy: Some("sip:b@x".into()) }),
        (r#"{"id":1,"request":"get-status"}"#, Request::GetStatus { buddy: None }),
        (
            r#"{"id":1,"request":"add-buddy","buddy":"sip:b@x","name":"B"}"#,
            Request::AddBuddy { buddy: "sip:b@x".into(), name: Some("B".into()) },
        ),
        (r#"{"id":1,"request":"remove-buddy","buddy":"sip:b@x"}"#, Request::RemoveBuddy { buddy: "sip:b@x".into() }),
        (r#"{"id":1,"request":"change-buddy","buddy":"sip:b@x"}"#, Request::ChangeBuddy { buddy: "sip:b@x".into(), name: None }),
        (
            r#"{"id":1,"request":"set-status","status":"away","mood":"m"}"#,
            Request::SetStatus { status: Status::Away, mood: Some("m".into()) },
        ),
        (
            r#"{"id":1,"request":"send-message","to":"sip:b@x","text":"hi"}"#,
            Request::SendMessage { to: "sip:b@x".into(), text: "hi".into() },
        ),
        (r#"{"id":1,"request":"go-offline"}"#, Request::GoOffline),
    ];
    for (text, body) in requests {
        assert_eq!(request(text), Ok(Numbered { id: 1, body: body.clone() }), "{text}");
        assert_eq!(Numbered { id: 1, body }.to_bytes().unwrap(), text.as_bytes());
    }
    let buddy = Buddy { uri: "sip:b@x".into(), name: None, status: Some(Status::Push), mood: None };
    let notices = [
        (r#"{"id":9,"notice":"logged-in","re":1,"user":"sip:a@x"}"#, Notice::LoggedIn { re: 1, user: "sip:a@x".into() }),
        (r#"{"id":9,"notice":"done","re":1}"#, Notice::Done { re: 1 }),
        (
            r#"{"id":9,"notice":"refused","re":1,"code":404,"reason":"no such user"}"#,
            Notice::Refused { re: 1, code: 404, reason: "no such user".into() },
        ),
        (
            r#"{"id":9,"notice":"configuration","re":1,"retry_secs":8,"tries":4,"text_bytes_max":16384}"#,
            Notice::Configuration { re: 1, retry_secs: 8, tries: 4, text_bytes_max: 16_384 },
        ),
        (
            r#"{"id":9,"notice":"buddies","re":1,"buddies":[{"uri":"sip:b@x","status":"push"}],"more":false}"#,
            Notice::Buddies { re: 1, buddies: vec![buddy.clone()], more: false },
        ),
        (r#"{"id":9,"notice":"buddy-status","buddy":{"uri":"sip:b@x","status":"push"}}"#, Notice::BuddyStatus { buddy }),
        (
            r#"{"id":9,"notice":"message","from":"sip:b@x","text":"hi","sent_at":5}"#,
            Notice::Message { from: "sip:b@x".into(), text: "hi".into(), sent_at: 5 },
        ),
        (r#"{"id":9,"notice":"offline","re":1}"#, Notice::Offline { re: 1 }),
    ];
    for (text, body) in notices {
        assert_eq!(Numbered::<Notice>::parse(text.as_bytes()), Ok(Numbered { id: 9, body: body.clone() }), "{text}");
        assert_eq!(Numbered { id: 9, body }.to_bytes().unwrap(), text.as_bytes());
    }
}

#[test]
fn other_bodies_are_refused() {
    for wrong in
        ["", "[]", "{}", r#"{"request":"get-buddies"}"#, r#"{"id":1,"request":"shout"}"#, r#"{"id":-1,"request":"get-buddies"}"#]
    {
        assert!(matches!(request(wrong), Err(BodyError::Form(_))), "{wrong}");
    }
    let long = |text: usize| format!(r#"{{"id":1,"request":"send-message","to":"sip:b@x","text":"{}"}}"#, "x".repeat(text));
    assert!(request(&long(TEXT_BYTES_MAX)).is_ok());
    assert!(matches!(request(&long(TEXT_BYTES_MAX + 1)), Err(BodyError::TooLong(_))));
    assert!(matches!(request(&long(BODY_BYTES_MAX)), Err(BodyError::TooLong(_))));
    assert!(request(&format!(r#"{{"id":1,"request":"remove-buddy","buddy":"{}"}}"#, "x".repeat(600))).is_err());
}

#[test]
fn what_isnt_answered_is_sent_again_and_given_up() {
    let mut exchange = Exchange::default();
    let begun = Instant::now();
    let (one, two) = (exchange.next_id(), exchange.next_id());
    exchange.send(one, b"one".to_vec(), begun).unwrap();
    exchange.send(two, b"two".to_vec(), begun + Duration::from_secs(1)).unwrap();
    assert_eq!(exchange.poll_transmit().map(|transmit| (transmit.id, transmit.tries)), Some((one, 0)));
    assert_eq!(exchange.poll_transmit().map(|transmit| transmit.body), Some(b"two".to_vec()));
    exchange.handle_answer(two, 200);
    assert_eq!(exchange.poll_outcome(), Some(Outcome::Answered { id: two }));
    let mut sent = 1;
    while let Some(at) = exchange.poll_timeout() {
        // A server that fails is asked again, in its time.
        exchange.handle_answer(one, 503);
        exchange.handle_timeout(at);
        sent += std::iter::from_fn(|| exchange.poll_transmit()).inspect(|transmit| assert_eq!(transmit.body, b"one")).count();
    }
    assert_eq!((sent, exchange.poll_outcome()), (TRIES as usize, Some(Outcome::GivenUp { id: one })));
    // It is over: a late answer changes nothing.
    exchange.handle_answer(one, 200);
    assert_eq!((exchange.poll_outcome(), exchange.poll_transmit(), exchange.poll_timeout()), (None, None, None));
}

#[test]
fn a_refusal_ends_it_and_too_much_is_refused() {
    let mut exchange = Exchange::default();
    let now = Instant::now();
    let id = exchange.next_id();
    exchange.send(id, Vec::new(), now).unwrap();
    exchange.handle_answer(id, 403);
    assert_eq!(exchange.poll_outcome(), Some(Outcome::Refused { id, status: 403 }));
    for _ in 0..OUTSTANDING_MAX {
        let id = exchange.next_id();
        exchange.send(id, Vec::new(), now).unwrap();
    }
    assert_eq!(exchange.send(0, Vec::new(), now), Err(Full));
    let mut seen = Seen::default();
    assert!(seen.is_new(5) && !seen.is_new(5));
    assert!((100..400).all(|id| seen.is_new(id)) && seen.is_new(5), "long forgotten");
}

proptest! {
    #[test]
    fn anything_is_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Numbered::<Request>::parse(&bytes);
        let _ = Numbered::<Notice>::parse(&bytes);
    }
}
