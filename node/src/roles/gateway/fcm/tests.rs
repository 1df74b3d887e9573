use data_encoding::BASE64URL_NOPAD;
use halloo_protocol::event::EventKind;
use halloo_protocol::push::{PUSH_PAYLOAD_BYTES_MAX, PushHandle};
use http::header::RETRY_AFTER;
use proptest::prelude::*;

use super::*;

const NOW: u64 = 1_800_000_000;

fn account() -> ServiceAccount {
    let file = json!({
        "type": "service_account",
        "project_id": "halloo-test",
        "private_key_id": "key-1",
        "private_key": include_str!("../jwt/rfc7515-a2.pem"),
        "client_email": "gateway@halloo-test.iam.gserviceaccount.com",
        "client_id": "123",
        "token_uri": "https://oauth2.googleapis.com/token",
    });
    ServiceAccount::from_json(file.to_string().as_bytes()).unwrap()
}

fn message(payload: usize, urgency: Urgency) -> PushMessage {
    PushMessage {
        handle: PushHandle([1; 32]),
        payload: Bytes::from(vec![7; payload]),
        event: EventKind::VOICE_CALL,
        urgency,
        ttl_secs: 60,
    }
}

fn answer(status: u16, body: &Value) -> Answer {
    let status = StatusCode::from_u16(status).unwrap();
    Answer { status, headers: HeaderMap::new(), body: Bytes::from(body.to_string()) }
}

#[test]
fn an_assertion_names_account_scope_and_an_hour() {
    let token = account().assertion(NOW).unwrap();
    let part = |index: usize| -> Value {
        serde_json::from_slice(&BASE64URL_NOPAD.decode(token.split('.').nth(index).unwrap().as_bytes()).unwrap()).unwrap()
    };
    assert_eq!(part(0), json!({"alg": "RS256", "typ": "JWT", "kid": "key-1"}));
    assert_eq!(
        part(1),
        json!({
            "iss": "gateway@halloo-test.iam.gserviceaccount.com",
            "scope": "https://www.googleapis.com/auth/firebase.messaging",
            "aud": "https://oauth2.googleapis.com/token",
            "iat": NOW,
            "exp": NOW + 3_600,
        })
    );
}

#[test]
fn a_message_is_data_alone_and_fits_with_the_largest_payload() {
    let body = body("token", &message(PUSH_PAYLOAD_BYTES_MAX, Urgency::High)).unwrap();
    let body: Value = serde_json::from_slice(&body).unwrap();
    let payload = BASE64.encode(&[7; PUSH_PAYLOAD_BYTES_MAX]);
    assert_eq!(
        body,
        json!({"message": {
            "token": "token",
            "data": {"halloo": payload},
            "android": {"priority": "HIGH", "ttl": "60s"},
        }})
    );
    assert!(super::body("token", &message(DATA_BYTES_MAX, Urgency::High)).is_none(), "too large");
    let normal: Value = serde_json::from_slice(&super::body("t", &message(1, Urgency::Normal)).unwrap()).unwrap();
    assert_eq!(normal["message"]["android"]["priority"], "NORMAL");
}

/// The errors of Google's documentation, as FCM writes them.
fn fcm_error(code: u16, status: &str, own: Option<&str>, field: Option<&str>, message: &str) -> Value {
    let mut details = Vec::new();
    if let Some(own) = own {
        details.push(json!({"@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError", "errorCode": own}));
    }
    if let Some(field) = field {
        let violations = [json!({"field": field, "description": "invalid"})];
        details.push(json!({"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": violations}));
    }
    json!({"error": {"code": code, "message": message, "status": status, "details": details}})
}

fn read(status: u16, body: &Value, retry_after: Option<&str>) -> Verdict {
    let mut headers = HeaderMap::new();
    if let Some(text) = retry_after {
        headers.insert(RETRY_AFTER, HeaderValue::from_str(text).unwrap());
    }
    read_answer(StatusCode::from_u16(status).unwrap(), &headers, body.to_string().as_bytes(), SystemTime::now())
}

#[test]
fn every_documented_error_has_its_outcome() {
    let secs = |secs| Outcome::RetryAfter(Duration::from_secs(secs));
    let invalid = "The registration token is not a valid FCM registration token";
    for (status, body, outcome) in [
        (200, json!({"name": "projects/p/messages/1"}), Outcome::Sent),
        (
            404,
            fcm_error(404, "NOT_FOUND", Some("UNREGISTERED"), None, "Requested entity was not found."),
            Outcome::Dead(ChannelEnd::UNREGISTERED),
        ),
        (
            400,
            fcm_error(400, "INVALID_ARGUMENT", Some("INVALID_ARGUMENT"), Some("message.token"), "Invalid registration"),
            Outcome::Dead(ChannelEnd::INVALID),
        ),
        (400, fcm_error(400, "INVALID_ARGUMENT", Some("INVALID_ARGUMENT"), None, invalid), Outcome::Dead(ChannelEnd::INVALID)),
        (
            400,
            fcm_error(400, "INVALID_ARGUMENT", Some("INVALID_ARGUMENT"), Some("message.data"), "Invalid data"),
            Outcome::Refused { status: 400 },
        ),
        (
            400,
            fcm_error(400, "INVALID_ARGUMENT", Some("INVALID_ARGUMENT"), None, "Android message is too big"),
            Outcome::TooLarge,
        ),
        (
            403,
            fcm_error(403, "PERMISSION_DENIED", Some("SENDER_ID_MISMATCH"), None, "SenderId mismatch"),
            Outcome::Dead(ChannelEnd::FOREIGN),
        ),
        (403, fcm_error(403, "PERMISSION_DENIED", None, None, "no permission"), Outcome::BadCredentials),
        (
            401,
            fcm_error(401, "UNAUTHENTICATED", Some("THIRD_PARTY_AUTH_ERROR"), None, "APNs certificate"),
            Outcome::BadCredentials,
        ),
        (429, fcm_error(429, "RESOURCE_EXHAUSTED", Some("QUOTA_EXCEEDED"), None, "quota"), secs(60)),
        (503, fcm_error(503, "UNAVAILABLE", Some("UNAVAILABLE"), None, "overloaded"), secs(10)),
        (500, fcm_error(500, "INTERNAL", Some("INTERNAL"), None, "internal"), secs(10)),
        // Google's front end, not FCM: says nothing about the token.
        (404, json!("<html>"), Outcome::Refused { status: 404 }),
        (502, json!("<html>"), secs(10)),
        (413, json!("<html>"), Outcome::TooLarge),
    ] {
        assert_eq!(read(status, &body, None), Verdict::Outcome(outcome), "{status} {body}");
    }
    let unauthenticated = fcm_error(401, "UNAUTHENTICATED", None, None, "invalid authentication credentials");
    assert_eq!(read(401, &unauthenticated, None), Verdict::NewToken);
    for (status, own) in [(429, "QUOTA_EXCEEDED"), (503, "UNAVAILABLE")] {
        let body = fcm_error(status, "", Some(own), None, "");
        assert_eq!(read(status, &body, Some("120")), Verdict::Outcome(secs(120)), "{own}");
    }
}

#[test]
fn a_bearer_token_serves_until_shortly_before_it_expires() {
    let token = |expires_in: u64| {
        let body = json!({"access_token": "ya29.a", "expires_in": expires_in, "token_type": "Bearer"});
        read_token(&answer(200, &body), NOW, 0, SystemTime::now()).unwrap()
    };
    assert_eq!(token(3_600).usable_until, NOW + 3_300);
    assert_eq!(token(u64::MAX).usable_until, NOW + 3_300, "no longer than asked for");
    assert_eq!(token(100).usable_until, NOW + 50);
    assert_eq!(token(3_600).authorization, "Bearer ya29.a");
    assert!(!format!("{:?}", token(1).authorization).contains("ya29"), "a secret");
    let refused = |status: u16, body: &Value| read_token(&answer(status, body), NOW, 0, SystemTime::now()).err();
    assert_eq!(refused(400, &json!({"error": "invalid_grant"})), Some(Outcome::BadCredentials));
    assert_eq!(refused(401, &json!({"error": "invalid_client"})), Some(Outcome::BadCredentials));
    assert_eq!(refused(503, &json!({})), Some(Outcome::RetryAfter(Duration::from_secs(60))));
    assert_eq!(refused(500, &json!({})), Some(Outcome::Temporary));
    for body in [json!({}), json!({"access_token": "", "expires_in": 1}), json!({"access_token": "a\nb", "expires_in": 1})] {
        assert_eq!(refused(200, &body), Some(Outcome::Temporary), "{body}");
    }
}

#[test]
fn a_token_that_is_not_to_be_had_is_not_asked_for_by_everybody() {
    let now = Instant::now();
    let after = |secs| now + Duration::from_secs(secs);
    let failed = Failure::new(Outcome::Temporary, now);
    assert_eq!(failed.outcome(after(3)), Some(Outcome::Temporary));
    assert_eq!(failed.outcome(after(4)), None, "before the push's own first pause is over");
    let refused = Failure::new(Outcome::BadCredentials, now);
    assert_eq!(refused.outcome(after(59)), Some(Outcome::BadCredentials));
    assert_eq!(refused.outcome(after(60)), None);
    let later = Failure::new(Outcome::RetryAfter(Duration::from_secs(30)), now);
    assert_eq!(later.outcome(after(10)), Some(Outcome::RetryAfter(Duration::from_secs(20))), "what is left of it");
    assert_eq!(later.outcome(after(30)), None);
}

proptest! {
    /// Google, or whoever answers in its place, can say what it likes.
    #[test]
    fn arbitrary_answers_never_panic(status in 100_u16..1_000, body in prop::collection::vec(any::<u8>(), 0..300), after in "\\PC{0,20}") {
        let status = StatusCode::from_u16(status).unwrap();
        let mut headers = HeaderMap::new();
        if let Ok(value) = HeaderValue::from_str(&after) {
            headers.insert(RETRY_AFTER, value);
        }
        let _ = read_answer(status, &headers, &body, SystemTime::now());
        let answer = Answer { status, headers, body: Bytes::from(body.clone()) };
        let _ = read_token(&answer, NOW, 0, SystemTime::now());
        let _ = ServiceAccount::from_json(&body);
    }
}
