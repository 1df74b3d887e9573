//! Every method and every error code.

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use super::harness::*;
use crate::allocation::binding::{CHANNEL_LIFETIME, PERMISSION_LIFETIME};
use crate::allocation::ports::RESERVATION_LIFETIME;
use crate::auth::Credentials;
use crate::metrics::DropReason;
use crate::packet::{StreamId, Transport};
use crate::stun::attribute::AttributeType;
use crate::stun::integrity::Check;
use crate::stun::{Class, Message, MessageBuilder, Method, TransactionId};
use crate::time::UnixTime;

const FAMILY_V4: [u8; 4] = [1, 0, 0, 0];
const FAMILY_V6: [u8; 4] = [2, 0, 0, 0];

fn plain(class: Class, method: Method, fill: Fill<'_>) -> Vec<u8> {
    let mut buffer = vec![0; 4_096];
    let message = MessageBuilder::begin(&mut buffer, class, method, TransactionId(*b"transaction!")).unwrap();
    let length = fill(message).unwrap().finish();
    buffer.truncate(length);
    buffer
}

fn answered(lab: &mut Lab, path: &str, packet: &[u8]) -> Response {
    Response { bytes: lab.exchange(udp(path), packet) }
}

#[test]
fn binding_tells_the_source_address() {
    let mut lab = Lab::new();
    for (source, seen) in [
        ("192.0.2.1:50000", "192.0.2.1:50000"),
        ("[2001:db8::1]:50000", "[2001:db8::1]:50000"),
        ("[::ffff:192.0.2.1]:50000", "192.0.2.1:50000"),
    ] {
        let response = answered(&mut lab, source, &plain(Class::Request, Method::BINDING, NOTHING));
        assert_eq!(response.addresses(AttributeType::XOR_MAPPED_ADDRESS), [address(seen)]);
        assert_eq!(response.message().check_fingerprint(), Check::Absent, "none was asked for");
    }
}

#[test]
fn a_fingerprint_is_answered_with_one_and_a_wrong_one_not_at_all() {
    let mut lab = Lab::new();
    for method in [Method::BINDING, Method::ALLOCATE] {
        let mut packet = plain(Class::Request, method, &|message| message.fingerprint());
        let response = answered(&mut lab, "192.0.2.1:9", &packet);
        assert_eq!(response.message().check_fingerprint(), Check::Valid);
        packet[10] ^= 1;
        lab.client_sends(udp("192.0.2.1:9"), &packet);
        lab.assert_silent();
    }
    assert_eq!(lab.dropped(DropReason::WrongFingerprint), 2);
}

#[test]
fn unknown_attributes_are_listed_up_to_a_number() {
    let mut lab = Lab::new();
    let packet = plain(Class::Request, Method::BINDING, &|message| {
        (0..200).try_fold(message, |message, number| message.attribute(AttributeType(0x7000 + number), b""))
    });
    let response = answered(&mut lab, "192.0.2.1:9", &packet);
    assert_eq!(response.code(), 420);
    let listed: Vec<_> = response.message().attribute(AttributeType::UNKNOWN_ATTRIBUTES).unwrap().types().unwrap().collect();
    assert_eq!((listed.len(), listed[0]), (64, AttributeType(0x7000)));
    // TURN's methods look after the credentials (RFC 8489 section 6.3), optional ones are passed over.
    let mut ann = Client::ann("192.0.2.1:9");
    let response = ann.ask(&mut lab, Method::ALLOCATE, &|message| {
        with_udp(message)?.attribute(AttributeType(0x7001), b"")?.attribute(AttributeType(0x8777), b"")
    });
    assert_eq!((response.code(), response.value(AttributeType::UNKNOWN_ATTRIBUTES)), (420, Some(vec![0x70, 0x01])));
}

#[test]
fn what_is_no_request_gets_no_response() {
    let mut lab = Lab::new();
    for (packet, reason) in [
        (vec![], DropReason::NotStun),
        (b"\xFFnoise".to_vec(), DropReason::NotStun),
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), DropReason::Malformed),
        (plain(Class::Indication, Method::BINDING, NOTHING), DropReason::Indication),
        (plain(Class::Indication, Method::DATA, NOTHING), DropReason::Indication),
        (plain(Class::Success, Method::BINDING, NOTHING), DropReason::UnexpectedResponse),
        (plain(Class::Error, Method::ALLOCATE, NOTHING), DropReason::UnexpectedResponse),
        (plain(Class::Request, Method::SEND, NOTHING), DropReason::UnknownMethod),
        (plain(Class::Request, Method::from_number(0x0FF), NOTHING), DropReason::UnknownMethod),
    ] {
        let before = lab.dropped(reason);
        lab.client_sends(udp("192.0.2.1:9"), &packet);
        lab.assert_silent();
        assert_eq!(lab.dropped(reason), before + 1, "{packet:?}");
    }
}

#[test]
fn sources_nobody_can_be_answered_at_are_ignored() {
    let mut lab = Lab::new();
    for source in
        ["192.0.2.1:0", "0.0.0.0:9", "224.0.0.1:9", "255.255.255.255:9", "[ff02::1]:9", "[::]:9", "[::ffff:224.0.0.1]:9"]
    {
        lab.client_sends(udp(source), &plain(Class::Request, Method::BINDING, NOTHING));
        lab.assert_silent();
    }
    assert_eq!(lab.dropped(DropReason::UnusableSource), 7);
}

#[test]
fn a_server_without_users_says_so_at_once() {
    let mut lab = Lab::with(|settings| settings.serves_turn = false);
    for method in [Method::ALLOCATE, Method::REFRESH, Method::CREATE_PERMISSION, Method::CHANNEL_BIND] {
        assert_eq!(answered(&mut lab, "192.0.2.1:9", &plain(Class::Request, method, NOTHING)).code(), 403);
    }
}

#[test]
fn an_allocation_is_made_for_each_way_of_signing() {
    for style in [Style::Old, Style::New, Style::Hidden] {
        let mut settings = settings();
        settings.limits.allocations_max = 10;
        let mut users = crate::auth::Users::new(REALM);
        users.insert("ann", "secret", Default::default());
        let mut lab = Lab::with_credentials(settings, Credentials::new(users, []));
        let mut ann = Client { style, ..Client::ann("192.0.2.1:9") };
        let response = ann.ask(&mut lab, Method::ALLOCATE, &with_udp);
        assert_eq!(response.code(), 0, "{style:?}");
        let relayed = response.addresses(AttributeType::XOR_RELAYED_ADDRESS);
        assert_eq!(relayed.len(), 1);
        assert_eq!(relayed[0].ip(), EXTERNAL_V4.parse::<std::net::IpAddr>().unwrap());
        assert!((50_000..51_000).contains(&relayed[0].port()));
        assert_eq!(response.addresses(AttributeType::XOR_MAPPED_ADDRESS), [ann.path.address]);
        assert_eq!(response.lifetime(), 600);
        let open: Vec<_> = lab.sink.open.values().map(ToString::to_string).collect();
        assert_eq!(open, [format!("{LOCAL_V4}:{}", relayed[0].port())]);
        assert_eq!(ann.refresh(&mut lab, 1_000).lifetime(), 1_000);
        assert_eq!(ann.refresh(&mut lab, 0).lifetime(), 0);
        assert!(lab.sink.open.is_empty() && lab.relay.allocation_count() == 0);
    }
}

#[test]
fn code_401_for_the_unsigned_the_unknown_and_the_wrongly_signed() {
    let mut lab = Lab::new();
    for mut client in [
        Client::new(udp("192.0.2.1:1"), "eve", "secret"),
        Client::new(udp("192.0.2.1:2"), "ann", "wrong"),
        Client::new(udp("192.0.2.1:3"), "999999:bob", "run out"),
        Client::new(udp("192.0.2.1:4"), "1000001:bob", "wrong"),
        Client { style: Style::New, ..Client::new(udp("192.0.2.1:5"), "ann", "wrong") },
        Client { style: Style::Hidden, ..Client::new(udp("192.0.2.1:6"), "eve", "secret") },
    ] {
        let response = client.ask(&mut lab, Method::ALLOCATE, &with_udp);
        assert_eq!(response.code(), 401, "{client:?}");
        assert!(response.value(AttributeType::NONCE).is_some() && response.value(AttributeType::REALM).is_some());
        assert_eq!(response.value(AttributeType::PASSWORD_ALGORITHMS).unwrap(), [0, 2, 0, 0, 0, 1, 0, 0]);
        assert_eq!(response.message().check_integrity_sha1(client.key().as_bytes()), Check::Absent);
    }
    assert_eq!(lab.relay.allocation_count(), 0);
}

#[test]
fn code_400_for_halves_of_credentials_and_altered_offers() {
    let mut lab = Lab::new();
    let mut ann = Client::ann("192.0.2.1:9");
    let nonce = ann.challenge(&mut lab);
    let offers: [u8; 8] = [0, 2, 0, 0, 0, 1, 0, 0];
    let fills: [Fill<'_>; 8] = [
        &|message| message.attribute(AttributeType::NONCE, &nonce)?.attribute(AttributeType::REALM, b"halloo"),
        &|message| message.attribute(AttributeType::USERNAME, b"ann")?.attribute(AttributeType::REALM, b"halloo"),
        &|message| message.attribute(AttributeType::USERNAME, b"ann")?.attribute(AttributeType::NONCE, &nonce),
        &|message| message.attribute(AttributeType::USERNAME, b"\xFF")?.attribute(AttributeType::NONCE, &nonce),
        &|message| message.attribute(AttributeType::USERHASH, b"short")?.attribute(AttributeType::NONCE, &nonce),
        // The list without the choice, the choice without the list, and a list somebody has shortened.
        &|message| whole(message, &nonce)?.attribute(AttributeType::PASSWORD_ALGORITHMS, &offers),
        &|message| whole(message, &nonce)?.attribute(AttributeType::PASSWORD_ALGORITHM, &[0, 1, 0, 0]),
        &|message| {
            whole(message, &nonce)?
                .attribute(AttributeType::PASSWORD_ALGORITHMS, &offers[4..])?
                .attribute(AttributeType::PASSWORD_ALGORITHM, &[0, 1, 0, 0])
        },
    ];
    fn whole<'m>(message: MessageBuilder<'m>, nonce: &[u8]) -> Result<MessageBuilder<'m>, crate::stun::EncodeError> {
        message
            .attribute(AttributeType::USERNAME, b"ann")?
            .attribute(AttributeType::REALM, b"halloo")?
            .attribute(AttributeType::NONCE, nonce)
    }
    for (index, fill) in fills.into_iter().enumerate() {
        let packet = plain(Class::Request, Method::ALLOCATE, &|message| fill(message)?.message_integrity_sha1(b"key"));
        assert_eq!(answered(&mut lab, "192.0.2.1:9", &packet).code(), 400, "case {index}");
    }
}

#[test]
fn code_438_for_a_nonce_that_is_old_or_somebody_elses() {
    let mut lab = Lab::new();
    let mut ann = Client::ann("192.0.2.1:9");
    ann.allocate(&mut lab);
    lab.pass(Duration::from_secs(500));
    assert_eq!(ann.refresh(&mut lab, 3_600).code(), 0);
    lab.pass(Duration::from_secs(3_200));
    let response = ann.refresh(&mut lab, 3_600);
    assert_eq!(response.code(), 438);
    ann.nonce = response.value(AttributeType::NONCE).unwrap();
    assert_eq!(ann.refresh(&mut lab, 3_600).code(), 0, "with the new one it goes on");

    let mut elsewhere = Client { path: udp("192.0.2.1:10"), ..ann };
    assert_eq!(elsewhere.ask(&mut lab, Method::ALLOCATE, &with_udp).code(), 438);
    elsewhere.nonce = b"nonsense".to_vec();
    assert_eq!(elsewhere.ask(&mut lab, Method::ALLOCATE, &with_udp).code(), 438);
}

#[test]
fn a_repeated_allocate_is_answered_alike_and_another_gets_437() {
    let mut lab = Lab::new();
    let mut ann = Client::ann("192.0.2.1:9");
    ann.nonce = ann.challenge(&mut lab);
    let packet = ann.request(Method::ALLOCATE, &with_udp);
    let first = lab.exchange(ann.path, &packet);
    let again = lab.exchange(ann.path, &packet);
    assert_eq!((first, lab.relay.allocation_count()), (again, 1));
    assert_eq!(ann.ask(&mut lab, Method::ALLOCATE, &with_udp).code(), 437);
    let mut bob = Client { username: "bob".into(), ..ann };
    assert_eq!(bob.ask(&mut lab, Method::ALLOCATE, &with_udp).code(), 437);
}

#[test]
fn code_437_without_an_allocation() {
    let mut lab = Lab::new();
    let mut ann = Client::ann("192.0.2.1:9");
    assert_eq!(ann.refresh(&mut lab, 600).code(), 437);
    assert_eq!(ann.refresh(&mut lab, 0).code(), 437);
    assert_eq!(ann.permit(&mut lab, &[address(PEER)]).code(), 437);
    assert_eq!(ann.bind(&mut lab, 0x4000, address(PEER)).code(), 437);
}

#[test]
fn code_441_for_another_users_request() {
    let mut lab = Lab::new();
    Client::ann("192.0.2.1:9").allocate(&mut lab);
    let mut bob = Client::bob("192.0.2.1:9");
    assert_eq!(bob.refresh(&mut lab, 0).code(), 441);
    assert_eq!(bob.permit(&mut lab, &[address(PEER)]).code(), 441);
    assert_eq!(bob.bind(&mut lab, 0x4000, address(PEER)).code(), 441);
    assert_eq!(lab.relay.allocation_count(), 1);
}

#[test]
fn code_442_and_400_for_transports() {
    let mut lab = Lab::new();
    let mut ann = Client::ann("192.0.2.1:9");
    let mut code = |fill: Fill<'_>| ann.ask(&mut lab, Method::ALLOCATE, fill).code();
    assert_eq!(code(NOTHING), 400);
    assert_eq!(code(&|message| message.attribute(AttributeType::REQUESTED_TRANSPORT, &[6, 0, 0, 0])), 442);
    assert_eq!(code(&|message| message.attribute(AttributeType::REQUESTED_TRANSPORT, &[17])), 400);
}

#[test]
fn code_400_for_what_cannot_be_asked_together_or_is_malformed() {
    let mut lab = Lab::new();
    let mut ann = Client::ann("192.0.2.1:9");
    let mut code = |fill: Fill<'_>| ann.ask(&mut lab, Method::ALLOCATE, &|message| fill(with_udp(message)?)).code();
    let token = [7; 8];
    let fills: [Fill<'_>; 10] = [
        &|m| m.attribute(AttributeType::RESERVATION_TOKEN, &token)?.attribute(AttributeType::EVEN_PORT, &[0]),
        &|m| {
            m.attribute(AttributeType::RESERVATION_TOKEN, &token)?.attribute(AttributeType::REQUESTED_ADDRESS_FAMILY, &FAMILY_V4)
        },
        &|m| {
            m.attribute(AttributeType::RESERVATION_TOKEN, &token)?.attribute(AttributeType::ADDITIONAL_ADDRESS_FAMILY, &FAMILY_V6)
        },
        &|m| {
            m.attribute(AttributeType::REQUESTED_ADDRESS_FAMILY, &FAMILY_V4)?
                .attribute(AttributeType::ADDITIONAL_ADDRESS_FAMILY, &FAMILY_V6)
        },
        &|m| m.attribute(AttributeType::ADDITIONAL_ADDRESS_FAMILY, &FAMILY_V4),
        &|m| m.attribute(AttributeType::ADDITIONAL_ADDRESS_FAMILY, &FAMILY_V6)?.attribute(AttributeType::EVEN_PORT, &[0x80]),
        &|m| m.attribute(AttributeType::EVEN_PORT, &[]),
        &|m| m.attribute(AttributeType::RESERVATION_TOKEN, &[1]),
        &|m| m.attribute(AttributeType::LIFETIME, &[1]),
        &|m| m.attribute(AttributeType::REQUESTED_ADDRESS_FAMILY, &[]),
    ];
    for (index, fill) in fills.into_iter().enumerate() {
        assert_eq!(code(fill), 400, "case {index}");
    }
}

#[test]
fn families_are_given_as_asked_and_440_where_they_cannot_be() {
    let mut lab = Lab::new();
    let v6: Fill<'_> = &|m| with_udp(m)?.attribute(AttributeType::REQUESTED_ADDRESS_FAMILY, &FAMILY_V6);
    let both: Fill<'_> = &|m| with_udp(m)?.attribute(AttributeType::ADDITIONAL_ADDRESS_FAMILY, &FAMILY_V6);
    let response = Client::ann("192.0.2.1:1").ask(&mut lab, Method::ALLOCATE, v6);
    assert!(response.addresses(AttributeType::XOR_RELAYED_ADDRESS)[0].is_ipv6());
    let mut ann = Client::ann("192.0.2.1:2");
    let response = ann.ask(&mut lab, Method::ALLOCATE, both);
    let relayed = response.addresses(AttributeType::XOR_RELAYED_ADDRESS);
    assert!(relayed.len() == 2 && relayed[0].is_ipv4() && relayed[1].is_ipv6());
    assert_eq!(ann.permit(&mut lab, &[address(PEER), address(PEER_V6)]).code(), 0);
    // One family is given up, then the other.
    let end = |lab: &mut Lab, ann: &mut Client, family: [u8; 4]| {
        ann.ask(lab, Method::REFRESH, &|m| {
            m.attribute(AttributeType::LIFETIME, &[0; 4])?.attribute(AttributeType::REQUESTED_ADDRESS_FAMILY, &family)
        })
        .code()
    };
    assert_eq!(end(&mut lab, &mut ann, FAMILY_V4), 0);
    assert_eq!(end(&mut lab, &mut ann, FAMILY_V4), 443, "it has only the other left");
    assert_eq!(ann.permit(&mut lab, &[address(PEER)]).code(), 443);
    assert_eq!(end(&mut lab, &mut ann, FAMILY_V6), 0);
    assert_eq!(lab.relay.allocation_count(), 1);

    let mut lab = Lab::with(|settings| settings.relayed.truncate(1));
    assert_eq!(Client::ann("192.0.2.1:3").ask(&mut lab, Method::ALLOCATE, v6).code(), 440);
    let unknown: Fill<'_> = &|m| with_udp(m)?.attribute(AttributeType::REQUESTED_ADDRESS_FAMILY, &[9, 0, 0, 0]);
    assert_eq!(Client::ann("192.0.2.1:4").ask(&mut lab, Method::ALLOCATE, unknown).code(), 440);
    let response = Client::ann("192.0.2.1:5").ask(&mut lab, Method::ALLOCATE, both);
    assert_eq!((response.code(), response.addresses(AttributeType::XOR_RELAYED_ADDRESS).len()), (0, 1));
    assert_eq!(response.value(AttributeType::ADDRESS_ERROR_CODE).unwrap(), [2, 0, 4, 40]);
}

#[test]
fn even_ports_and_the_reservation_of_the_next() {
    let mut lab = Lab::new();
    let mut ann = Client::ann("192.0.2.1:1");
    let response = ann.ask(&mut lab, Method::ALLOCATE, &|m| with_udp(m)?.attribute(AttributeType::EVEN_PORT, &[0x80]));
    let even = response.addresses(AttributeType::XOR_RELAYED_ADDRESS)[0].port();
    let token = response.value(AttributeType::RESERVATION_TOKEN).unwrap();
    assert_eq!(even % 2, 0);
    let next = SocketAddr::new(LOCAL_V4.parse().unwrap(), even + 1);
    assert_eq!(*lab.sink.held.lock().unwrap(), HashSet::from([next]), "the next one is bound as well");
    let redeem: Fill<'_> = &|m| with_udp(m)?.attribute(AttributeType::RESERVATION_TOKEN, &token);
    let response = Client::bob("192.0.2.1:2").ask(&mut lab, Method::ALLOCATE, redeem);
    assert_eq!((response.code(), response.phrase()), (508, "No such reservation".into()), "it is ann's");
    let response = Client::ann("192.0.2.1:3").ask(&mut lab, Method::ALLOCATE, redeem);
    assert_eq!(response.addresses(AttributeType::XOR_RELAYED_ADDRESS)[0].port(), even + 1);
    assert_eq!(Client::ann("192.0.2.1:4").ask(&mut lab, Method::ALLOCATE, redeem).code(), 508, "good once");
    let response =
        Client::ann("192.0.2.1:5").ask(&mut lab, Method::ALLOCATE, &|m| with_udp(m)?.attribute(AttributeType::EVEN_PORT, &[0]));
    assert!(response.value(AttributeType::RESERVATION_TOKEN).is_none());
    assert_eq!(response.addresses(AttributeType::XOR_RELAYED_ADDRESS)[0].port() % 2, 0);
}

#[test]
fn a_pair_whose_second_port_is_in_use_is_passed_over() {
    let mut lab = Lab::new();
    lab.sink.hold_failures = vec![io::ErrorKind::AddrInUse];
    let ask: Fill<'_> = &|m| with_udp(m)?.attribute(AttributeType::EVEN_PORT, &[0x80]);
    assert_eq!(Client::ann("192.0.2.1:1").ask(&mut lab, Method::ALLOCATE, ask).code(), 0);
    assert_eq!((lab.sink.open.len(), lab.sink.held.lock().unwrap().len()), (1, 1), "the first even port is closed again");
    lab.sink.hold_failures = vec![io::ErrorKind::PermissionDenied];
    let response = Client::ann("192.0.2.1:2").ask(&mut lab, Method::ALLOCATE, ask);
    assert_eq!((response.code(), lab.sink.open.len()), (508, 1));
}

#[test]
fn a_reserved_port_is_held_until_its_time_is_over() {
    let mut lab = Lab::new();
    let ask: Fill<'_> = &|m| with_udp(m)?.attribute(AttributeType::EVEN_PORT, &[0x80]);
    assert_eq!(Client::ann("192.0.2.1:1").ask(&mut lab, Method::ALLOCATE, ask).code(), 0);
    assert_eq!(lab.relay.poll_timeout(), Some(lab.now + RESERVATION_LIFETIME), "the relay wants to be woken for it");
    lab.pass(RESERVATION_LIFETIME - Duration::from_millis(1));
    lab.tick();
    assert_eq!(lab.sink.held.lock().unwrap().len(), 1);
    lab.pass(Duration::from_millis(1));
    lab.tick();
    assert_eq!((lab.sink.open.len(), lab.sink.held.lock().unwrap().len()), (1, 0));
}

#[test]
fn dont_fragment_is_420_where_it_cannot_be_had() {
    let ask: Fill<'_> = &|m| with_udp(m)?.attribute(AttributeType::DONT_FRAGMENT, b"");
    assert_eq!(Client::ann("192.0.2.1:1").ask(&mut Lab::new(), Method::ALLOCATE, ask).code(), 0);
    let mut lab = Lab::with(|settings| settings.can_set_dont_fragment = false);
    let response = Client::ann("192.0.2.1:1").ask(&mut lab, Method::ALLOCATE, ask);
    assert_eq!((response.code(), response.value(AttributeType::UNKNOWN_ATTRIBUTES)), (420, Some(vec![0, 0x1A])));
}

#[test]
fn code_486_and_508_name_the_quota() {
    let refusal = |change: fn(&mut crate::quota::Limits), paths: [&str; 2], users: [&str; 2]| {
        let mut lab = Lab::with(|settings| change(&mut settings.limits));
        Client::new(udp(paths[0]), users[0], "secret").allocate(&mut lab);
        let response = Client::new(udp(paths[1]), users[1], "secret").ask(&mut lab, Method::ALLOCATE, &with_udp);
        assert_eq!((lab.relay.allocation_count(), lab.sink.open.len()), (1, 1));
        (response.code(), response.phrase())
    };
    let (near, far) = (["192.0.2.1:1", "192.0.2.1:2"], ["192.0.2.1:1", "192.0.2.2:1"]);
    let of_user = refusal(|limits| limits.allocations_per_user_max = 1, far, ["ann", "ann"]);
    assert_eq!(of_user, (486, "Allocations of this user".into()));
    let of_address = refusal(|limits| limits.allocations_per_address_max = 1, near, ["ann", "bob"]);
    assert_eq!(of_address, (486, "Allocations of this client address".into()));
    let total = refusal(|limits| limits.allocations_max = 1, far, ["ann", "bob"]);
    assert_eq!(total, (508, "Allocations of this relay".into()));

    let mut lab = Lab::with(|settings| settings.ports = (50_000, 50_000));
    Client::ann("192.0.2.1:1").allocate(&mut lab);
    let response = Client::ann("192.0.2.1:2").ask(&mut lab, Method::ALLOCATE, &with_udp);
    assert_eq!((response.code(), response.phrase()), (508, "No relayed port is free".into()));

    let mut lab = Lab::with(|settings| (settings.limits.permissions_max, settings.limits.channels_max) = (3, 2));
    let mut ann = Client::ann("192.0.2.1:1");
    ann.allocate(&mut lab);
    let peers: Vec<_> = (1..=4).map(|last| address(&format!("8.8.8.{last}:1"))).collect();
    let response = ann.permit(&mut lab, &peers);
    assert_eq!((response.code(), response.phrase()), (508, "Permissions of this allocation".into()));
    assert_eq!(ann.permit(&mut lab, &peers[..3]).code(), 0, "all or nothing: three fit");
    assert_eq!(ann.bind(&mut lab, 0x4000, peers[3]).code(), 508, "a channel brings a permission");
    assert_eq!(ann.bind(&mut lab, 0x4000, peers[0]).code(), 0);
    assert_eq!(ann.bind(&mut lab, 0x4001, peers[1]).code(), 0);
    let response = ann.bind(&mut lab, 0x4002, peers[2]);
    assert_eq!((response.code(), response.phrase()), (508, "Channels of this allocation".into()));
    lab.pass(CHANNEL_LIFETIME - Duration::from_secs(1));
    assert_eq!(ann.refresh(&mut lab, 600).code(), 0);
    lab.pass(Duration::from_secs(1));
    assert_eq!(ann.bind(&mut lab, 0x4002, peers[3]).code(), 0, "what has run out makes room");
}

#[test]
fn a_port_somebody_else_has_is_passed_over_and_other_failures_are_508() {
    let mut lab = Lab::new();
    lab.sink.failures = vec![io::ErrorKind::AddrInUse; 3];
    Client::ann("192.0.2.1:1").allocate(&mut lab);
    lab.sink.failures = vec![io::ErrorKind::Other];
    assert_eq!(Client::ann("192.0.2.1:2").ask(&mut lab, Method::ALLOCATE, &with_udp).code(), 508);
    assert!(lab.sink.failures.is_empty());
    assert_eq!(lab.relay.allocation_count(), 1);
    // Nothing of the failed ones was kept.
    let taken: usize = (0..999)
        .filter(|port| {
            let mut client =
                Client::new(udp(&format!("192.0.3.{}:{}", port % 250, 1_000 + port)), &format!("{}:u{port}", 2_000_000), "");
            client.password = Credentials::issue(SECRET, &format!("u{port}"), UnixTime(2_000_000)).1;
            client.ask(&mut lab, Method::ALLOCATE, &with_udp).code() == 0
        })
        .count();
    assert_eq!(taken, 999);
}

#[test]
fn code_300_or_508_while_draining_and_old_allocations_go_on() {
    for alternate in [None, Some(address("198.41.0.5:3478"))] {
        let mut lab = Lab::with(|settings| settings.alternate = alternate);
        let mut ann = Client::ann("192.0.2.1:1");
        ann.allocate(&mut lab);
        lab.relay.shared().drain();
        let response = Client::ann("192.0.2.1:2").ask(&mut lab, Method::ALLOCATE, &with_udp);
        assert_eq!(response.code(), if alternate.is_some() { 300 } else { 508 });
        let value = response.value(AttributeType::ALTERNATE_SERVER);
        assert_eq!(value, alternate.map(|_| vec![0, 1, 0x0D, 0x96, 198, 41, 0, 5]));
        assert_eq!((ann.refresh(&mut lab, 600).code(), ann.permit(&mut lab, &[address(PEER)]).code()), (0, 0));
    }
}

#[test]
fn code_403_for_peers_that_are_never_reached() {
    let mut lab = Lab::new();
    let mut ann = Client::ann("192.0.2.1:1");
    ann.allocate(&mut lab);
    let response = ann.permit(&mut lab, &[address(PEER), address("127.0.0.1:1")]);
    assert_eq!((response.code(), response.phrase()), (403, "Forbidden peer address".into()));
    assert_eq!(ann.bind(&mut lab, 0x4000, address("10.0.0.1:1")).code(), 403);
    assert_eq!(ann.bind(&mut lab, 0x4000, address("8.8.8.8:0")).code(), 403);
    lab.peer_sends(PEER, lab_relayed(&lab), b"x", 64);
    assert_eq!(lab.dropped(DropReason::PeerNotPermitted), 1, "none of the refused request was installed");
}

fn lab_relayed(lab: &Lab) -> std::net::SocketAddr {
    lab.relay.shared().external(*lab.sink.open.values().next().unwrap())
}

#[test]
fn code_443_for_peers_of_another_family() {
    let mut lab = Lab::new();
    let mut ann = Client::ann("192.0.2.1:1");
    ann.allocate(&mut lab);
    assert_eq!(ann.permit(&mut lab, &[address(PEER), address(PEER_V6)]).code(), 443);
    assert_eq!(ann.bind(&mut lab, 0x4000, address(PEER_V6)).code(), 443);
    let refresh = ann.ask(&mut lab, Method::REFRESH, &|m| m.attribute(AttributeType::REQUESTED_ADDRESS_FAMILY, &FAMILY_V6));
    assert_eq!(refresh.code(), 443);
}

#[test]
fn code_400_for_permissions_and_channels_without_sense() {
    let mut lab = Lab::new();
    let mut ann = Client::ann("192.0.2.1:1");
    ann.allocate(&mut lab);
    assert_eq!(ann.permit(&mut lab, &[]).code(), 400);
    let malformed = ann.ask(&mut lab, Method::CREATE_PERMISSION, &|m| m.attribute(AttributeType::XOR_PEER_ADDRESS, &[0, 1, 2]));
    assert_eq!(malformed.code(), 400);
    for number in [0, 0x3FFF, 0x8000, 0xFFFF] {
        assert_eq!(ann.bind(&mut lab, number, address(PEER)).code(), 400, "{number:#x}");
    }
    assert_eq!(ann.ask(&mut lab, Method::CHANNEL_BIND, NOTHING).code(), 400);
    assert_eq!(ann.bind(&mut lab, 0x4000, address(PEER)).code(), 0);
    assert_eq!(ann.bind(&mut lab, 0x4000, address(PEER)).code(), 0, "the same again prolongs");
    assert_eq!(ann.bind(&mut lab, 0x4000, address("8.8.8.8:5001")).code(), 400, "the number is taken");
    assert_eq!(ann.bind(&mut lab, 0x4001, address(PEER)).code(), 400, "the peer has another number");
    assert_eq!(ann.bind(&mut lab, 0x7FFF, address("8.8.8.8:5001")).code(), 0);
}

#[test]
fn lifetimes_are_kept_within_limits_and_run_out() {
    let mut lab = Lab::new();
    let mut ann = Client::ann("192.0.2.1:1");
    let response = ann.ask(&mut lab, Method::ALLOCATE, &|m| with_udp(m)?.attribute(AttributeType::LIFETIME, &[0, 0, 0, 1]));
    assert_eq!(response.lifetime(), 600);
    assert_eq!(ann.refresh(&mut lab, 1_000_000).lifetime(), 3_600);
    lab.pass(Duration::from_secs(3_000));
    let timer = lab.relay.poll_timeout().expect("a timer for the end");
    assert!(timer <= lab.now, "as the first lifetime had it");
    lab.tick();
    assert_eq!(lab.relay.allocation_count(), 1, "it was prolonged");
    lab.now = lab.relay.poll_timeout().expect("another timer");
    // Before the timer is handled nothing gets through already.
    lab.client_sends(ann.path, &channel_data(0x4000, b"x"));
    assert_eq!(lab.dropped(DropReason::NoAllocation), 1);
    lab.tick();
    assert_eq!((lab.relay.allocation_count(), lab.sink.open.len(), lab.relay.timers.len()), (0, 0, 0));
    let snapshot = lab.snapshot();
    assert_eq!((snapshot.allocations_made, snapshot.allocations_ended, snapshot.allocations()), (1, 1, 0));
}

#[test]
fn an_expired_allocation_gives_way_to_a_new_one_before_its_timer() {
    let mut lab = Lab::new();
    let mut ann = Client::ann("192.0.2.1:1");
    ann.allocate(&mut lab);
    lab.pass(Duration::from_secs(600));
    ann.allocate(&mut lab);
    assert_eq!((lab.relay.allocation_count(), lab.sink.open.len()), (1, 1));
    lab.tick();
    assert_eq!(lab.relay.allocation_count(), 1, "the old one's timer leaves the new one alone");
}

#[test]
fn a_credential_that_runs_out_does_not_cut_a_call() {
    let mut lab = Lab::new();
    let (username, password) = Credentials::issue(SECRET, "cid", UnixTime(UNIX_START.0 + 60));
    let mut cid = Client::new(udp("192.0.2.1:1"), &username, &password);
    cid.allocate(&mut lab);
    lab.pass(Duration::from_secs(120));
    assert_eq!(cid.refresh(&mut lab, 600).code(), 0);
    assert_eq!(cid.permit(&mut lab, &[address(PEER)]).code(), 0);
    assert_eq!(cid.bind(&mut lab, 0x4000, address(PEER)).code(), 0);
    let mut another = Client { path: udp("192.0.2.1:2"), nonce: Vec::new(), ..cid };
    assert_eq!(another.ask(&mut lab, Method::ALLOCATE, &with_udp).code(), 401, "no new one is made with it");
    let usage = lab.relay.shared().shares.usage();
    assert_eq!((&*usage[0].0, usage[0].1.allocations), ("cid", 1), "counted under the name");
}

#[test]
fn the_clock_can_be_set() {
    let mut lab = Lab::new();
    let (username, password) = Credentials::issue(SECRET, "cid", UnixTime(UNIX_START.0 + 60));
    let mut cid = Client::new(udp("192.0.2.1:1"), &username, &password);
    lab.relay.shared().set_unix_time(lab.now, UnixTime(UNIX_START.0 + 61));
    assert_eq!(cid.ask(&mut lab, Method::ALLOCATE, &with_udp).code(), 401);
    lab.pass(Duration::from_secs(10));
    lab.relay.shared().set_unix_time(lab.now, UNIX_START);
    cid.allocate(&mut lab);
}

#[test]
fn an_allocation_ends_with_its_connection() {
    let mut lab = Lab::new();
    let path = stream("192.0.2.1:1", 7);
    let mut ann = Client::new(path, "ann", "secret");
    ann.allocate(&mut lab);
    assert!(lab.relay.has_allocation(&path));
    let Transport::Stream(StreamId(number)) = path.transport else { unreachable!() };
    lab.relay.handle_stream_closed(StreamId(number + 1), path.address, &mut lab.sink);
    assert_eq!(lab.relay.allocation_count(), 1);
    lab.relay.handle_stream_closed(StreamId(number), path.address, &mut lab.sink);
    assert_eq!((lab.relay.allocation_count(), lab.sink.open.len()), (0, 0));
}

#[test]
fn permissions_last_five_minutes_and_channels_ten() {
    let mut lab = Lab::new();
    let mut ann = Client::ann("192.0.2.1:1");
    let relayed = ann.allocate(&mut lab);
    ann.refresh(&mut lab, 3_600);
    ann.bind(&mut lab, 0x4000, address(PEER));
    lab.pass(PERMISSION_LIFETIME - Duration::from_secs(1));
    lab.peer_sends(PEER, relayed, b"x", 64);
    lab.taken();
    lab.pass(Duration::from_secs(1));
    lab.peer_sends(PEER, relayed, b"x", 64);
    assert_eq!(lab.dropped(DropReason::PeerNotPermitted), 1);
    ann.permit(&mut lab, &[address(PEER)]);
    lab.pass(CHANNEL_LIFETIME - PERMISSION_LIFETIME - Duration::from_secs(1));
    lab.client_sends(ann.path, &channel_data(0x4000, b"x"));
    lab.taken_by_peer();
    lab.pass(Duration::from_secs(1));
    ann.permit(&mut lab, &[address(PEER)]);
    lab.client_sends(ann.path, &channel_data(0x4000, b"x"));
    assert_eq!(lab.dropped(DropReason::UnknownChannel), 1);
    lab.peer_sends(PEER, relayed, b"x", 64);
    assert_eq!(read_data(&lab.taken().1), (address(PEER), b"x".to_vec()), "without its channel");
}

#[test]
fn nothing_of_a_request_is_taken_from_behind_its_signature() {
    let mut lab = Lab::new();
    let mut ann = Client::ann("192.0.2.1:1");
    ann.allocate(&mut lab);
    let mut packet = ann.request(Method::CREATE_PERMISSION, NOTHING);
    // XOR-PEER-ADDRESS appended by somebody in between.
    packet.extend([0, 0x12, 0, 8, 0, 1, 1, 1, 1, 1, 1, 1]);
    let length = u16::try_from(packet.len() - 20).unwrap().to_be_bytes();
    packet[2..4].copy_from_slice(&length);
    assert!(Message::parse(&packet).is_ok());
    assert_eq!(Response { bytes: lab.exchange(ann.path, &packet) }.code(), 400);
}
