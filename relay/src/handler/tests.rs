//! Decisions about datagrams, and the promise about amplification for arbitrary ones.

use std::hash::RandomState;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::quota::RateLimit;
use crate::stun::TransactionId;

const ID: TransactionId = TransactionId(*b"transaction!");

fn handler(limit: RateLimit, now: Instant) -> Handler {
    Handler::new(SourceRates::new(limit, 64, RandomState::new(), now))
}

fn generous() -> Handler {
    handler(RateLimit { per_sec: 1_000_000, burst: 1_000_000 }, Instant::now())
}

fn message(
    class: Class,
    method: Method,
    fill: impl FnOnce(MessageBuilder<'_>) -> Result<MessageBuilder<'_>, EncodeError>,
) -> Vec<u8> {
    let mut buffer = vec![0; 1_024];
    let length = fill(MessageBuilder::begin(&mut buffer, class, method, ID).unwrap()).unwrap().finish();
    buffer.truncate(length);
    buffer
}

fn bare(message: MessageBuilder<'_>) -> Result<MessageBuilder<'_>, EncodeError> {
    Ok(message)
}

fn binding() -> Vec<u8> {
    message(Class::Request, Method::BINDING, bare)
}

/// Decision and response to one packet from that source.
fn handled_from(source: &str, packet: &[u8]) -> (Decision, Vec<u8>) {
    let mut buffer = [0; RESPONSE_BYTES_MAX];
    let decision = generous().handle_datagram(packet, source.parse().unwrap(), Instant::now(), &mut buffer);
    let bytes = if let Decision::Respond { bytes, .. } = decision { bytes } else { 0 };
    (decision, buffer[..bytes].to_vec())
}

fn handled(packet: &[u8]) -> (Decision, Vec<u8>) {
    handled_from("192.0.2.1:50000", packet)
}

#[test]
fn binding_tells_the_source_address() {
    for (source, seen) in [
        ("192.0.2.1:50000", "192.0.2.1:50000"),
        ("[2001:db8::1]:50000", "[2001:db8::1]:50000"),
        ("[::ffff:192.0.2.1]:50000", "192.0.2.1:50000"),
    ] {
        let (decision, bytes) = handled_from(source, &binding());
        assert_eq!(decision, Decision::Respond { bytes: bytes.len(), response: Response::Binding });
        let response = Message::parse(&bytes).unwrap();
        assert_eq!((response.class(), response.method(), response.transaction_id()), (Class::Success, Method::BINDING, ID));
        let mapped = response.attribute(AttributeType::XOR_MAPPED_ADDRESS).unwrap().xor_address(ID);
        assert_eq!(mapped, Ok(seen.parse().unwrap()));
        assert_eq!(response.check_fingerprint(), Check::Absent, "none was asked for");
    }
}

#[test]
fn a_fingerprint_is_answered_with_one_and_a_wrong_one_not_at_all() {
    let mut packet = message(Class::Request, Method::BINDING, |message| message.fingerprint());
    let (_, bytes) = handled(&packet);
    assert_eq!(Message::parse(&bytes).unwrap().check_fingerprint(), Check::Valid);
    packet[10] ^= 1;
    assert_eq!(handled(&packet).0, Decision::Ignore(IgnoreReason::WrongFingerprint));
}

#[test]
fn attributes_without_use_here_are_passed_over() {
    let packet = message(Class::Request, Method::BINDING, |message| {
        message.software("a client")?.attribute(AttributeType::USERNAME, b"somebody")?.message_integrity_sha1(b"key")
    });
    assert!(matches!(handled(&packet).0, Decision::Respond { response: Response::Binding, .. }));
}

#[test]
fn attributes_that_must_be_understood_and_are_not_are_listed() {
    let change_request = AttributeType(0x0003);
    let packet = message(Class::Request, Method::BINDING, |message| {
        message.attribute(change_request, &[0; 4])?.software("x")?.attribute(AttributeType(0x7000), b"")?.fingerprint()
    });
    let (decision, bytes) = handled(&packet);
    assert!(matches!(decision, Decision::Respond { response: Response::UnknownAttribute, .. }));
    let response = Message::parse(&bytes).unwrap();
    assert_eq!(response.class(), Class::Error);
    assert_eq!(response.attribute(AttributeType::ERROR_CODE).unwrap().error_code().unwrap().code, 420);
    let listed: Vec<_> = response.attribute(AttributeType::UNKNOWN_ATTRIBUTES).unwrap().types().unwrap().collect();
    assert_eq!(listed, [change_request, AttributeType(0x7000)]);
    assert_eq!(response.check_fingerprint(), Check::Valid);
}

#[test]
fn the_list_of_unknown_attributes_is_bounded() {
    let packet = message(Class::Request, Method::BINDING, |message| {
        (0..200).try_fold(message, |message, number| message.attribute(AttributeType(0x7000 + number), b""))?.fingerprint()
    });
    let (_, bytes) = handled(&packet);
    assert_eq!(bytes.len(), RESPONSE_BYTES_MAX);
    let response = Message::parse(&bytes).unwrap();
    assert_eq!(response.attribute(AttributeType::UNKNOWN_ATTRIBUTES).unwrap().types().unwrap().count(), UNKNOWN_ATTRIBUTES_MAX);
}

#[test]
fn turn_requests_are_refused_at_once() {
    for method in [Method::ALLOCATE, Method::REFRESH, Method::CREATE_PERMISSION, Method::CHANNEL_BIND] {
        let (decision, bytes) = handled(&message(Class::Request, method, bare));
        assert!(matches!(decision, Decision::Respond { response: Response::BadRequest, .. }));
        let response = Message::parse(&bytes).unwrap();
        assert_eq!((response.class(), response.method()), (Class::Error, method));
        assert_eq!(response.attribute(AttributeType::ERROR_CODE).unwrap().error_code().unwrap().code, 400);
    }
}

#[test]
fn what_is_no_request_gets_no_response() {
    let ignored = |packet: &[u8]| match handled(packet).0 {
        Decision::Ignore(reason) => reason,
        Decision::Respond { .. } => panic!("answered"),
    };
    assert_eq!(ignored(b""), IgnoreReason::NotStun);
    assert_eq!(ignored(b"GET / HTTP/1.1\r\n\r\n"), IgnoreReason::NotStun);
    assert_eq!(ignored(&message(Class::Indication, Method::BINDING, bare)), IgnoreReason::Indication);
    assert_eq!(ignored(&message(Class::Success, Method::BINDING, bare)), IgnoreReason::UnexpectedResponse);
    assert_eq!(ignored(&message(Class::Error, Method::BINDING, bare)), IgnoreReason::UnexpectedResponse);
    assert_eq!(ignored(&message(Class::Request, Method::from_number(0x0FF), bare)), IgnoreReason::UnknownMethod);
}

#[test]
fn sources_nobody_can_be_answered_at_are_ignored() {
    for source in
        ["192.0.2.1:0", "0.0.0.0:9", "224.0.0.1:9", "255.255.255.255:9", "[ff02::1]:9", "[::]:9", "[::ffff:224.0.0.1]:9"]
    {
        assert_eq!(handled_from(source, &binding()).0, Decision::Ignore(IgnoreReason::UnusableSource), "{source}");
    }
}

#[test]
fn own_responses_sent_back_start_no_loop() {
    let (_, response) = handled(&binding());
    assert_eq!(handled(&response).0, Decision::Ignore(IgnoreReason::UnexpectedResponse));
}

#[test]
fn a_source_has_its_share_and_no_more() {
    let now = Instant::now();
    let mut handler = handler(RateLimit { per_sec: 10, burst: 3 }, now);
    let mut answered = |source: &str, packet: &[u8], now: Instant| {
        let mut buffer = [0; RESPONSE_BYTES_MAX];
        let decision = handler.handle_datagram(packet, source.parse().unwrap(), now, &mut buffer);
        assert!(matches!(
            decision,
            Decision::Respond { .. } | Decision::Ignore(IgnoreReason::RateLimited | IgnoreReason::NotStun)
        ));
        matches!(decision, Decision::Respond { .. })
    };
    for _ in 0..100 {
        assert!(!answered("192.0.2.1:1", b"noise", now), "noise uses up nothing");
    }
    let first: usize = (1..=10).filter(|port| answered(&format!("192.0.2.1:{port}"), &binding(), now)).count();
    assert_eq!(first, 3, "all ports of an address share");
    assert!(answered("192.0.2.2:1", &binding(), now), "another address is served");
    assert!(answered("192.0.2.1:1", &binding(), now + Duration::from_millis(100)));
    assert!(!answered("192.0.2.1:1", &binding(), now + Duration::from_millis(100)));
}

#[test]
fn a_small_buffer_is_an_ignored_request() {
    let mut buffer = [0; 24];
    let decision = generous().handle_datagram(&binding(), "192.0.2.1:1".parse().unwrap(), Instant::now(), &mut buffer);
    assert_eq!(decision, Decision::Ignore(IgnoreReason::NoRoom));
}

/// Attributes of arbitrary types and lengths, with and without fingerprint.
fn requests() -> impl Strategy<Value = Vec<u8>> {
    let attributes = proptest::collection::vec((any::<u16>(), 0_usize..40), 0..100);
    let method = prop_oneof![Just(Method::BINDING), Just(Method::ALLOCATE), Just(Method::CHANNEL_BIND)];
    (attributes, method, any::<bool>()).prop_map(|(attributes, method, has_fingerprint)| {
        let mut buffer = vec![0; 8_192];
        let mut message = MessageBuilder::begin(&mut buffer, Class::Request, method, ID).unwrap();
        for (kind, bytes) in attributes {
            message = message.attribute(AttributeType(kind), &[0; 40][..bytes]).unwrap();
        }
        let message = if has_fingerprint { message.fingerprint().unwrap() } else { message };
        let length = message.finish();
        buffer.truncate(length);
        buffer
    })
}

proptest! {
    #[test]
    fn no_response_amplifies_beyond_the_promise(packet in requests(), over_ipv6 in any::<bool>()) {
        let source = if over_ipv6 { "[2001:db8::1]:9" } else { "192.0.2.1:9" };
        let (decision, response) = handled_from(source, &packet);
        prop_assert_ne!(decision, Decision::Ignore(IgnoreReason::NoRoom));
        prop_assert!(response.len() as f64 <= AMPLIFICATION_MAX * packet.len() as f64, "{} to {}", response.len(), packet.len());
        prop_assert!(response.is_empty() || Message::parse(&response).is_ok());
    }

    #[test]
    fn arbitrary_bytes_never_panic(packet in proptest::collection::vec(any::<u8>(), 0..200), source in any::<SocketAddr>()) {
        let mut buffer = [0; RESPONSE_BYTES_MAX];
        let _ = generous().handle_datagram(&packet, source, Instant::now(), &mut buffer);
    }
}
