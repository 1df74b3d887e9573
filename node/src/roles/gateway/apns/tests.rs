use data_encoding::BASE64URL_NOPAD;
use halloo_protocol::push::{PUSH_PAYLOAD_BYTES_MAX, PushHandle};
use http::header::RETRY_AFTER;
use proptest::prelude::*;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};

use super::*;

const NOW: u64 = 1_800_000_000;

fn tokens() -> ProviderTokens {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap().serialize_pem();
    ProviderTokens::new(&key, "ABC123DEFG", "DEF123GHIJ").unwrap()
}

fn message(event: EventKind, urgency: Urgency, payload: usize) -> PushMessage {
    PushMessage { handle: PushHandle([1; 32]), payload: Bytes::from(vec![7; payload]), event, urgency, ttl_secs: 60 }
}

#[test]
fn a_provider_token_names_key_team_and_time() {
    let authorization = tokens().authorization(NOW).unwrap();
    assert!(authorization.is_sensitive());
    let token = authorization.to_str().unwrap().strip_prefix("bearer ").unwrap();
    let part = |index: usize| -> Value {
        serde_json::from_slice(&BASE64URL_NOPAD.decode(token.split('.').nth(index).unwrap().as_bytes()).unwrap()).unwrap()
    };
    assert_eq!(part(0), json!({"alg": "ES256", "kid": "ABC123DEFG", "typ": "JWT"}));
    assert_eq!(part(1), json!({"iss": "DEF123GHIJ", "iat": NOW}));
}

/// Apple: not older than 60 minutes, not renewed more often than every 20.
#[test]
fn a_provider_token_is_kept_as_long_as_apple_wants() {
    let mut tokens = tokens();
    let first = tokens.authorization(NOW).unwrap();
    assert_eq!(tokens.authorization(NOW + 44 * 60).unwrap(), first);
    let second = tokens.authorization(NOW + 45 * 60).unwrap();
    assert_ne!(second, first);
    let earlier = tokens.authorization(NOW - 3_600).unwrap();
    assert_ne!(earlier, second, "a clock that was set back");
}

#[test]
fn an_expired_token_is_made_anew_once_in_20_minutes() {
    let mut tokens = tokens();
    let first = tokens.authorization(NOW).unwrap();
    assert!(tokens.renew(&first, NOW + 1));
    let second = tokens.authorization(NOW + 1).unwrap();
    assert_ne!(second, first);
    assert!(tokens.renew(&first, NOW + 2), "of another request: the new one hasn't been tried");
    assert_eq!(tokens.authorization(NOW + 2).unwrap(), second);
    assert!(!tokens.renew(&second, NOW + 3), "the clock is wrong, or the key: no storm of tokens");
    assert!(tokens.renew(&second, NOW + 1 + TOKEN_SECS_MIN));
}

#[test]
fn what_happens_decides_how_it_travels() {
    let (app, calls) = ("org.example.app", "org.example.app.voip");
    for (topic, event, urgency, push_type) in [
        (calls, EventKind::VOICE_CALL, Urgency::High, Some(PushType::Voip)),
        (calls, EventKind::VIDEO_CALL, Urgency::High, Some(PushType::Voip)),
        (calls, EventKind::SELF_TEST, Urgency::High, Some(PushType::Voip)),
        (calls, EventKind::MESSAGE, Urgency::High, None),
        (calls, EventKind::NOTICE, Urgency::Low, None),
        (app, EventKind::VOICE_CALL, Urgency::High, Some(PushType::Alert)),
        (app, EventKind::MESSAGE, Urgency::Normal, Some(PushType::Alert)),
        (app, EventKind::MESSAGE, Urgency::Low, Some(PushType::Background)),
        (app, EventKind::NOTICE, Urgency::VeryLow, Some(PushType::Background)),
    ] {
        assert_eq!(PushType::of(topic, event, urgency), push_type, "{topic} {event} {urgency:?}");
    }
    let priorities = [PushType::Voip, PushType::Alert, PushType::Background].map(PushType::priority);
    assert_eq!(priorities, ["10", "10", "5"]);
}

#[test]
fn the_largest_payload_fits_whatever_happens() {
    for event in (0..8).map(EventKind) {
        let message = message(event, Urgency::High, PUSH_PAYLOAD_BYTES_MAX);
        for push_type in [PushType::Voip, PushType::Alert, PushType::Background] {
            let body = push_type.body(&message).expect("fits");
            assert!(body.len() <= push_type.bytes_max(), "{event} {push_type:?}: {}", body.len());
            let body: Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(body["halloo"], BASE64.encode(&message.payload));
        }
    }
    assert!(PushType::Voip.body(&message(EventKind::VOICE_CALL, Urgency::High, 3_900)).is_none());
    let alert = PushType::Alert.body(&message(EventKind::VOICE_CALL, Urgency::High, 1)).unwrap();
    let alert: Value = serde_json::from_slice(&alert).unwrap();
    assert_eq!(alert["aps"], json!({"alert": {"loc-key": "voice-call"}, "mutable-content": 1}));
}

#[test]
fn headers_are_those_that_apple_asks_for() {
    let call = message(EventKind::VOICE_CALL, Urgency::High, 100);
    let made = headers(PushType::Voip, "org.example.app.voip", &[1; 32], &call, NOW).unwrap();
    assert_eq!(made["apns-topic"], "org.example.app.voip");
    assert_eq!(made["apns-push-type"], "voip");
    assert_eq!(made["apns-priority"], "10");
    assert_eq!(made["apns-expiration"], (NOW + 60).to_string());
    assert!(!made.contains_key("apns-collapse-id"));
    let again = headers(PushType::Voip, "org.example.app.voip", &[1; 32], &call, NOW + 5).unwrap();
    assert_eq!(made["apns-id"], again["apns-id"], "the same message has the same id");
    let id = made["apns-id"].to_str().unwrap();
    assert_eq!(id.split('-').map(str::len).collect::<Vec<_>>(), [8, 4, 4, 4, 12], "{id}");
    let at_once = PushMessage { ttl_secs: 0, ..call };
    let made = headers(PushType::Voip, "org.example.app.voip", &[1; 32], &at_once, NOW).unwrap();
    assert_eq!(made["apns-expiration"], "0", "now or never");
}

/// The table of Apple's "Handling notification responses from APNs".
#[test]
fn every_documented_error_has_its_outcome() {
    let now = SystemTime::now();
    let read = |status: u16, reason: &str, after: Option<&str>| {
        let mut headers = HeaderMap::new();
        if let Some(text) = after {
            headers.insert(RETRY_AFTER, HeaderValue::from_str(text).unwrap());
        }
        let body = json!({"reason": reason, "timestamp": 1}).to_string();
        read_answer(StatusCode::from_u16(status).unwrap(), &headers, body.as_bytes(), now)
    };
    let secs = |secs| Outcome::RetryAfter(Duration::from_secs(secs));
    let refused = |status| Outcome::Refused { status };
    for (status, reason, outcome) in [
        (200, "", Outcome::Sent),
        (400, "BadDeviceToken", Outcome::Dead(ChannelEnd::INVALID)),
        (400, "DeviceTokenNotForTopic", Outcome::Dead(ChannelEnd::FOREIGN)),
        (400, "TopicDisallowed", Outcome::Dead(ChannelEnd::FOREIGN)),
        (400, "BadTopic", Outcome::Dead(ChannelEnd::FOREIGN)),
        (400, "IdleTimeout", Outcome::Temporary),
        (400, "BadCollapseId", refused(400)),
        (400, "BadExpirationDate", refused(400)),
        (400, "BadMessageId", refused(400)),
        (400, "BadPriority", refused(400)),
        (400, "DuplicateHeaders", refused(400)),
        (400, "InvalidPushType", refused(400)),
        (400, "MissingDeviceToken", refused(400)),
        (400, "MissingTopic", refused(400)),
        (400, "PayloadEmpty", refused(400)),
        (403, "BadCertificate", Outcome::BadCredentials),
        (403, "BadCertificateEnvironment", Outcome::BadCredentials),
        (403, "Forbidden", Outcome::BadCredentials),
        (403, "InvalidProviderToken", Outcome::BadCredentials),
        (403, "MissingProviderToken", Outcome::BadCredentials),
        (404, "BadPath", refused(404)),
        (405, "MethodNotAllowed", refused(405)),
        (410, "ExpiredToken", Outcome::Dead(ChannelEnd::UNREGISTERED)),
        (410, "Unregistered", Outcome::Dead(ChannelEnd::UNREGISTERED)),
        (413, "PayloadTooLarge", Outcome::TooLarge),
        (429, "TooManyProviderTokenUpdates", secs(60)),
        (429, "TooManyRequests", secs(60)),
        (500, "InternalServerError", secs(10)),
        (503, "ServiceUnavailable", secs(10)),
        (503, "Shutdown", secs(10)),
    ] {
        assert_eq!(read(status, reason, None), Verdict::Outcome(outcome), "{status} {reason}");
    }
    assert_eq!(read(403, "ExpiredProviderToken", None), Verdict::NewToken);
    for status in [429, 503] {
        assert_eq!(read(status, "TooManyRequests", Some("300")), Verdict::Outcome(secs(300)), "{status}");
    }
}

proptest! {
    #[test]
    fn arbitrary_answers_never_panic(status in 100_u16..1_000, body in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = read_answer(StatusCode::from_u16(status).unwrap(), &HeaderMap::new(), &body, SystemTime::now());
    }
}
