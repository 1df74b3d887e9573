//! The codec against the samples of RFC 5769 and RFC 8489, against what it writes itself, and against arbitrary bytes.

use std::net::SocketAddr;

use proptest::prelude::*;

use super::attribute::{AttributeError, AttributeType, ErrorCode};
use super::integrity::Check;
use super::*;

/// RFC 5769 sections 2.1 to 2.3: password of the three short-term samples.
const SHORT_TERM_KEY: &[u8] = b"VOkJxbRl1RmTxUk/WvJxBt";

const SAMPLE_ID: TransactionId = TransactionId([0xb7, 0xe7, 0xa7, 0x01, 0xbc, 0x34, 0xd6, 0x86, 0xfa, 0x87, 0xdf, 0xae]);

/// RFC 5769 section 2.1: request with SOFTWARE, PRIORITY, ICE-CONTROLLED, USERNAME (padded with spaces), MESSAGE-INTEGRITY
/// and FINGERPRINT.
const SAMPLE_REQUEST: &str = "
    00010058 2112a442 b7e7a701bc34d686fa87dfae
    80220010 5354554e207465737420636c69656e74
    00240004 6e0001ff
    80290008 932ff9b151263b36
    00060009 6576746a3a68367659202020
    00080014 9aeaa70cbfd8cb56781ef2b5b2d3f249c1b571a2
    80280004 e57a3bcf";

/// RFC 5769 section 2.2: response, 192.0.2.1 port 32853, SOFTWARE padded with a space.
const SAMPLE_IPV4_RESPONSE: &str = "
    0101003c 2112a442 b7e7a701bc34d686fa87dfae
    8022000b 7465737420766563746f7220
    00200008 0001a147e112a643
    00080014 2b91f599fd9e90c38c7489f92af9ba53f06be7d7
    80280004 c07d4c96";

/// RFC 5769 section 2.3: response, 2001:db8:1234:5678:11:2233:4455:6677 port 32853.
const SAMPLE_IPV6_RESPONSE: &str = "
    01010048 2112a442 b7e7a701bc34d686fa87dfae
    8022000b 7465737420766563746f7220
    00200014 0002a1470113a9faa5d3f179bc25f4b5bed2b9d9
    00080014 a382954e4be67bf11784c97c8292c275bfe3ed41
    80280004 c8fb0b4c";

/// RFC 5769 section 2.4: request with long-term credentials and without FINGERPRINT.
const SAMPLE_LONG_TERM_REQUEST: &str = "
    00010060 2112a442 78ad3433c6ad72c029da412e
    00060012 e3839ee38388e383aae38383e382afe382b90000
    0015001c 662f2f3439396b39353464364f4c33346f4c39465354767936347341
    0014000b 6578616d706c652e6f726700
    00080014 f67024656dd64a3e02b8e0712e85c9a28ca89666";

/// MD5 of the sample's user name, realm `example.org` and password `TheMatrIX`, joined by colons (RFC 8489 section 9.2.2).
const LONG_TERM_KEY_MD5: &str = "e8ca7ad59d5eb0518e312911d2dab2a9";

/// RFC 8489 appendix B.1 as corrected by its verified erratum 6268: USERHASH, PASSWORD-ALGORITHM, MESSAGE-INTEGRITY-SHA256.
const SAMPLE_SHA256_REQUEST: &str = "
    00010090 2112a442 78ad3433c6ad72c029da412e
    001e0020 4a3cf38fef6992bda952c6780417da0f24819415569e60b205c46e41407f1704
    00150029 6f624d61744a6f73324141414366 2f2f3439396b39353464364f4c33346f4c39465354767936347341000000
    0014000b 6578616d706c652e6f726700
    001d0004 00020000
    001c0020 b5c7bf005b6c52a21c51c5e892f81924136296cb927c43149309278cc6518e65";

/// SHA-256 of the same text as [`LONG_TERM_KEY_MD5`].
const LONG_TERM_KEY_SHA256: &str = "dd295a613b9058c3c23d6dc7165bda072304d989c9d0af3a8c7e184b4f9bb4a1";

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u32> = text.chars().filter_map(|c| c.to_digit(16)).collect();
    digits.chunks(2).map(|pair| (pair[0] << 4 | pair[1]) as u8).collect()
}

/// Writes one message into a vector.
fn written(class: Class, fill: impl FnOnce(MessageBuilder<'_>) -> Result<MessageBuilder<'_>, EncodeError>) -> Vec<u8> {
    let mut buffer = vec![0xAA; 512];
    let message = MessageBuilder::begin(&mut buffer, class, Method::BINDING, SAMPLE_ID).unwrap();
    let length = fill(message).unwrap().finish();
    buffer.truncate(length);
    buffer
}

fn bare(message: MessageBuilder<'_>) -> Result<MessageBuilder<'_>, EncodeError> {
    Ok(message)
}

#[test]
fn sample_request_is_read() {
    let bytes = hex(SAMPLE_REQUEST);
    let message = Message::parse(&bytes).unwrap();
    assert_eq!((message.class(), message.method()), (Class::Request, Method::BINDING));
    assert_eq!(message.transaction_id(), SAMPLE_ID);
    assert_eq!(message.attribute(AttributeType::SOFTWARE).unwrap().text().unwrap(), "STUN test client");
    assert_eq!(message.attribute(AttributeType::USERNAME).unwrap().value, b"evtj:h6vY");
    assert_eq!(message.check_integrity_sha1(SHORT_TERM_KEY), Check::Valid);
    assert_eq!(message.check_integrity_sha1(b"another"), Check::Invalid);
    assert_eq!(message.check_integrity_sha256(SHORT_TERM_KEY), Check::Absent);
    assert_eq!(message.check_fingerprint(), Check::Valid);
}

#[test]
fn sample_responses_are_read() {
    for (sample, address) in
        [(SAMPLE_IPV4_RESPONSE, "192.0.2.1:32853"), (SAMPLE_IPV6_RESPONSE, "[2001:db8:1234:5678:11:2233:4455:6677]:32853")]
    {
        let bytes = hex(sample);
        let message = Message::parse(&bytes).unwrap();
        assert_eq!((message.class(), message.method()), (Class::Success, Method::BINDING));
        let mapped = message.attribute(AttributeType::XOR_MAPPED_ADDRESS).unwrap().xor_address(SAMPLE_ID).unwrap();
        assert_eq!(mapped, address.parse().unwrap());
        assert_eq!(message.attribute(AttributeType::SOFTWARE).unwrap().text().unwrap(), "test vector");
        assert_eq!(message.check_integrity_sha1(SHORT_TERM_KEY), Check::Valid);
        assert_eq!(message.check_fingerprint(), Check::Valid);
    }
}

#[test]
fn sample_addresses_are_written_as_they_stand_in_the_samples() {
    for (sample, address) in
        [(SAMPLE_IPV4_RESPONSE, "192.0.2.1:32853"), (SAMPLE_IPV6_RESPONSE, "[2001:db8:1234:5678:11:2233:4455:6677]:32853")]
    {
        let bytes = hex(sample);
        let sample = Message::parse(&bytes).unwrap().attribute(AttributeType::XOR_MAPPED_ADDRESS).unwrap();
        let ours = written(Class::Success, |message| message.xor_mapped_address(address.parse().unwrap()));
        assert_eq!(Message::parse(&ours).unwrap().attributes().next().unwrap().value, sample.value);
    }
}

#[test]
fn long_term_samples_pass_with_their_keys_only() {
    let bytes = hex(SAMPLE_LONG_TERM_REQUEST);
    let message = Message::parse(&bytes).unwrap();
    assert_eq!(message.attribute(AttributeType::REALM).unwrap().text().unwrap(), "example.org");
    assert_eq!(message.check_integrity_sha1(&hex(LONG_TERM_KEY_MD5)), Check::Valid);
    assert_eq!(message.check_integrity_sha1(&hex(LONG_TERM_KEY_SHA256)), Check::Invalid);
    assert_eq!(message.check_fingerprint(), Check::Absent);

    let bytes = hex(SAMPLE_SHA256_REQUEST);
    let message = Message::parse(&bytes).unwrap();
    assert_eq!(message.check_integrity_sha256(&hex(LONG_TERM_KEY_SHA256)), Check::Valid);
    assert_eq!(message.check_integrity_sha256(&hex(LONG_TERM_KEY_MD5)), Check::Invalid);
    assert_eq!(message.check_integrity_sha1(&hex(LONG_TERM_KEY_MD5)), Check::Absent);
}

/// The samples' integrity and fingerprint, made by our writer over the sample's own bytes.
#[test]
fn integrity_and_fingerprint_are_written_as_in_the_samples() {
    let sample = hex(SAMPLE_REQUEST);
    let ours = written(Class::Request, |message| {
        message
            .software("STUN test client")?
            .attribute(AttributeType(0x0024), &hex("6e0001ff"))?
            .attribute(AttributeType(0x8029), &hex("932ff9b151263b36"))?
            .attribute(AttributeType::USERNAME, b"evtj:h6vY")
    });
    // The sample pads with spaces, which integrity covers; ours are zero, so only up to there are they the same.
    assert_eq!(ours[HEADER_BYTES..ours.len() - 3], sample[HEADER_BYTES..ours.len() - 3]);

    let long_term = hex(SAMPLE_LONG_TERM_REQUEST);
    let message = Message::parse(&long_term).unwrap();
    let mut buffer = [0; 256];
    let mut ours = MessageBuilder::begin(&mut buffer, Class::Request, Method::BINDING, message.transaction_id()).unwrap();
    for attribute in message.attributes().filter(|attribute| attribute.kind != AttributeType::MESSAGE_INTEGRITY) {
        ours = ours.attribute(attribute.kind, attribute.value).unwrap();
    }
    let length = ours.message_integrity_sha1(&hex(LONG_TERM_KEY_MD5)).unwrap().finish();
    assert_eq!(&buffer[..length], long_term);
}

#[test]
fn a_flipped_bit_anywhere_is_noticed() {
    let good = hex(SAMPLE_IPV4_RESPONSE);
    for bit in 0..good.len() * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        let is_noticed = Message::parse(&bad).map_or(true, |message| message.check_fingerprint() != Check::Valid);
        assert!(is_noticed, "bit {bit}");
    }
}

#[test]
fn own_integrity_of_both_kinds_is_accepted_together() {
    let bytes = written(Class::Request, |message| {
        message.software("halloo")?.message_integrity_sha1(b"key")?.message_integrity_sha256(b"key")?.fingerprint()
    });
    let message = Message::parse(&bytes).unwrap();
    assert_eq!(message.check_integrity_sha1(b"key"), Check::Valid);
    assert_eq!(message.check_integrity_sha256(b"key"), Check::Valid);
    assert_eq!(message.check_fingerprint(), Check::Valid);
}

#[test]
fn sha256_integrity_may_be_cut_to_16_bytes_and_no_further() {
    let whole = written(Class::Request, |message| message.message_integrity_sha256(b"key"));
    let tag = Message::parse(&whole).unwrap().attribute(AttributeType::MESSAGE_INTEGRITY_SHA256).unwrap().value.to_vec();
    // A cut tag changes the length it covers, so it can't be taken from the whole one: it has to come out wrong.
    let cut = written(Class::Request, |message| message.attribute(AttributeType::MESSAGE_INTEGRITY_SHA256, &tag[..16]));
    assert_eq!(Message::parse(&cut).unwrap().check_integrity_sha256(b"key"), Check::Invalid);

    for (bytes, expected) in [(16, Check::Valid), (28, Check::Valid), (12, Check::Invalid), (18, Check::Invalid)] {
        let cut = written(Class::Request, |message| {
            let tag = cut_tag(bytes);
            message.attribute(AttributeType::MESSAGE_INTEGRITY_SHA256, &tag)
        });
        assert_eq!(Message::parse(&cut).unwrap().check_integrity_sha256(b"key"), expected, "{bytes} bytes");
    }
}

/// HMAC-SHA256 of a bare request whose length counts an integrity attribute of that many bytes.
fn cut_tag(bytes: usize) -> Vec<u8> {
    use hmac::{Hmac, KeyInit, Mac};
    let mut header = written(Class::Request, bare);
    let length = ATTRIBUTE_HEADER_BYTES + bytes.next_multiple_of(4);
    header[2..4].copy_from_slice(&u16::try_from(length).unwrap().to_be_bytes());
    let mut hmac = Hmac::<sha2::Sha256>::new_from_slice(b"key").unwrap();
    hmac.update(&header);
    hmac.finalize().into_bytes()[..bytes].to_vec()
}

#[test]
fn what_stands_after_integrity_or_fingerprint_does_not_count() {
    let bytes = written(Class::Request, |message| {
        let unknown = AttributeType(0x0003);
        message.message_integrity_sha1(b"key")?.attribute(unknown, b"late")?.fingerprint()
    });
    let kinds: Vec<_> = Message::parse(&bytes).unwrap().attributes().map(|attribute| attribute.kind).collect();
    assert_eq!(kinds, [AttributeType::MESSAGE_INTEGRITY, AttributeType::FINGERPRINT]);

    let bytes = written(Class::Request, |message| message.fingerprint()?.software("late"));
    let message = Message::parse(&bytes).unwrap();
    assert_eq!(message.attributes().count(), 1);
    assert_eq!(message.check_fingerprint(), Check::Invalid, "it has to be the last");
}

#[test]
fn errors_and_unknown_types_are_written_and_read() {
    let types = [AttributeType(0x0003), AttributeType(0x0024), AttributeType(0x7FFF)];
    let bytes =
        written(Class::Error, |message| message.error_code(420, "Unknown Attribute")?.unknown_attributes(types.iter().copied()));
    let message = Message::parse(&bytes).unwrap();
    assert_eq!(message.class(), Class::Error);
    let error = message.attribute(AttributeType::ERROR_CODE).unwrap().error_code().unwrap();
    assert_eq!(error, ErrorCode { code: 420, reason: "Unknown Attribute" });
    let listed: Vec<_> = message.attribute(AttributeType::UNKNOWN_ATTRIBUTES).unwrap().types().unwrap().collect();
    assert_eq!(listed, types);
}

#[test]
fn values_that_cannot_be_are_refused() {
    let value = |kind, value: &[u8]| written(Class::Success, |message| message.attribute(kind, value));
    let address = |bytes: &[u8]| {
        let message = value(AttributeType::XOR_MAPPED_ADDRESS, bytes);
        Message::parse(&message).unwrap().attributes().next().unwrap().xor_address(SAMPLE_ID)
    };
    assert!(matches!(address(&[0, 1, 0]), Err(AttributeError::WrongLength { .. })));
    assert!(matches!(address(&[0, 1, 0, 0, 1, 2, 3]), Err(AttributeError::WrongLength { .. })));
    assert!(matches!(address(&[0, 2, 0, 0, 1, 2, 3, 4]), Err(AttributeError::WrongLength { .. })));
    assert_eq!(address(&[0, 3, 0, 0, 1, 2, 3, 4]), Err(AttributeError::UnknownFamily { family: 3 }));

    let error = |bytes: &[u8]| {
        let message = value(AttributeType::ERROR_CODE, bytes);
        Message::parse(&message).unwrap().attributes().next().unwrap().error_code().map(|error| error.code)
    };
    assert!(matches!(error(&[0, 0, 4]), Err(AttributeError::WrongLength { .. })));
    assert_eq!(error(&[0, 0, 2, 0]), Err(AttributeError::ErrorCodeOutOfRange { code: 200 }));
    assert!(matches!(error(&[0, 0, 3, 100]), Err(AttributeError::ErrorCodeOutOfRange { .. })));
    assert!(matches!(error(&[0, 0, 4, 0, 0xFF]), Err(AttributeError::NotUtf8 { .. })));
}

#[test]
fn packets_that_are_no_message_are_refused_with_the_reason() {
    let good = hex(SAMPLE_REQUEST);
    let altered = |change: fn(&mut Vec<u8>)| {
        let mut bytes = good.clone();
        change(&mut bytes);
        Message::parse(&bytes).unwrap_err()
    };
    assert_eq!(altered(|b| b.truncate(19)), ParseError::TooShort { bytes: 19 });
    assert_eq!(altered(|b| b[0] = 0x40), ParseError::NotStun { first: 0x40 }, "channel data");
    assert!(matches!(altered(|b| b[7] = 0), ParseError::WrongCookie { .. }));
    assert!(matches!(altered(|b| b.truncate(104)), ParseError::WrongLength { announced: 88, present: 84 }));
    assert!(matches!(altered(|b| b.extend([0; 4])), ParseError::WrongLength { .. }));
    assert!(
        matches!(
            altered(|b| {
                b[3] += 1;
                b.push(0)
            }),
            ParseError::WrongLength { .. }
        ),
        "no multiple of four"
    );
    let out_of_bounds = ParseError::AttributeOutOfBounds { kind: AttributeType::FINGERPRINT, offset: 100 };
    assert_eq!(altered(|b| b[103] = 5), out_of_bounds);
}

#[test]
fn a_full_buffer_and_long_values_are_refused() {
    let begin = |bytes: usize| {
        let mut buffer = vec![0; bytes];
        MessageBuilder::begin(&mut buffer, Class::Success, Method::BINDING, SAMPLE_ID)
            .and_then(|message| message.xor_mapped_address("192.0.2.1:1".parse().unwrap()))
            .map(MessageBuilder::finish)
    };
    assert_eq!(begin(19), Err(EncodeError::BufferFull { needed: 20, available: 19 }));
    assert_eq!(begin(31), Err(EncodeError::BufferFull { needed: 32, available: 31 }));
    assert_eq!(begin(32), Ok(32));

    let mut buffer = vec![0; 70_000];
    let mut refusal = |fill: fn(MessageBuilder<'_>) -> Result<MessageBuilder<'_>, EncodeError>| {
        fill(MessageBuilder::begin(&mut buffer, Class::Error, Method::BINDING, SAMPLE_ID).unwrap()).unwrap_err()
    };
    assert!(matches!(refusal(|message| message.software(&"x".repeat(510))), EncodeError::ValueTooLong { .. }));
    assert!(matches!(refusal(|message| message.attribute(AttributeType::NONCE, &[0; 65_534])), EncodeError::ValueTooLong { .. }));
    assert_eq!(refusal(|message| message.error_code(299, "")), EncodeError::ErrorCodeOutOfRange { code: 299 });
    assert_eq!(refusal(|message| message.error_code(700, "")), EncodeError::ErrorCodeOutOfRange { code: 700 });
}

#[test]
fn printing_a_message_shows_no_values() {
    let bytes = hex(SAMPLE_REQUEST);
    let printed = format!("{:?}", Message::parse(&bytes).unwrap());
    assert!(printed.contains("b7e7a701bc34d686fa87dfae") && !printed.contains("evtj"), "{printed}");
}

/// Asks a message everything it can be asked.
fn read_everything(message: Message<'_>) -> usize {
    let _ = (message.class(), message.method(), message.check_fingerprint());
    let _ = (message.check_integrity_sha1(b"key"), message.check_integrity_sha256(b"key"));
    message
        .attributes()
        .map(|attribute| {
            let _ = (attribute.xor_address(message.transaction_id()), attribute.text(), attribute.error_code());
            attribute.value.len() + attribute.types().map_or(0, Iterator::count)
        })
        .sum()
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        if let Ok(message) = Message::parse(&bytes) {
            read_everything(message);
        }
    }

    /// Right header and length, so that what comes after is reached.
    #[test]
    fn arbitrary_attributes_never_panic(kind in 0_u16..0x4000, mut body in proptest::collection::vec(any::<u8>(), 0..600), known in any::<bool>()) {
        body.truncate(body.len() / 4 * 4);
        if known && body.len() >= 4 {
            // A likely type and a short length, or few bodies would have any attribute within bounds.
            (body[0], body[1], body[2]) = (0, body[1] & 0x2F, 0);
        }
        let mut bytes = kind.to_be_bytes().to_vec();
        bytes.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
        bytes.extend(MAGIC_COOKIE.to_be_bytes());
        bytes.extend(SAMPLE_ID.0);
        bytes.extend(&body);
        if let Ok(message) = Message::parse(&bytes) {
            prop_assert!(read_everything(message) <= 2 * body.len());
        }
    }

    #[test]
    fn what_is_written_is_read(address in any::<SocketAddr>(), id in any::<[u8; 12]>(), class in 0_usize..4, method in 0_u16..0x1000, value in proptest::collection::vec(any::<u8>(), 0..40)) {
        let class = [Class::Request, Class::Indication, Class::Success, Class::Error][class];
        let (method, id) = (Method::from_number(method), TransactionId(id));
        let mut buffer = [0xAA; 256];
        let length = MessageBuilder::begin(&mut buffer, class, method, id)?
            .attribute(AttributeType::NONCE, &value)?
            .xor_mapped_address(address)?
            .message_integrity_sha1(&value)?
            .message_integrity_sha256(&value)?
            .fingerprint()?
            .finish();
        let message = Message::parse(&buffer[..length])?;
        prop_assert_eq!((message.class(), message.method(), message.transaction_id()), (class, method, id));
        prop_assert_eq!(message.attribute(AttributeType::NONCE).map(|nonce| nonce.value), Some(&value[..]));
        let mapped = message.attribute(AttributeType::XOR_MAPPED_ADDRESS).map(|mapped| mapped.xor_address(id));
        prop_assert_eq!(mapped.map(|mapped| mapped.map(|mapped| (mapped.ip(), mapped.port()))), Some(Ok((address.ip(), address.port()))));
        prop_assert_eq!(message.check_integrity_sha1(&value), Check::Valid);
        prop_assert_eq!(message.check_integrity_sha256(&value), Check::Valid);
        prop_assert_eq!(message.check_fingerprint(), Check::Valid);
    }
}
