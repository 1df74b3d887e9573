use super::super::transaction::Transport;
use super::*;

const NOW: UnixTime = UnixTime(1_700_000_000);

fn flow(connection: u64) -> Flow {
    Flow {
        transport: if connection == 0 { Transport::Udp } else { Transport::Tcp },
        peer: "127.0.0.1:5060".parse().expect("one"),
        connection,
    }
}

fn request(cseq: u32, headers: &[(&str, &str)]) -> Message {
    let mut message = Message::request("REGISTER", "sip:example");
    message.add("call-id", "c");
    message.add("cseq", format!("{cseq} REGISTER"));
    for (name, value) in headers {
        message.add(name, *value);
    }
    message
}

fn contact(text: &str) -> [(&str, &str); 1] {
    [("contact", text)]
}

#[test]
fn phones_come_and_go() {
    let mut registrar = Registrar::new();
    let aor = SipUri::parse("sip:bob@example").expect("a URI");
    for (cseq, headers, expected) in [
        (1, &contact("<sip:a@1>;expires=600")[..], 1),
        (2, &contact("<sip:b@1>;q=0.5"), 2),
        (3, &contact("<sip:a@1>"), 2),
        (4, &contact("<sip:a@1>;expires=0"), 1),
        (5, &[], 1),
        (6, &[("contact", "*"), ("expires", "0")], 0),
    ] {
        registrar.register("bob", &request(cseq, headers), flow(0), NOW).expect("taken");
        assert_eq!(registrar.bindings("bob", NOW).len(), expected, "{cseq}");
        assert_eq!(registrar.contacts("bob", &aor, None, NOW).len(), expected, "{cseq}");
    }
    assert!(registrar.is_empty());
}

#[test]
fn what_is_refused_changes_nothing() {
    let mut registrar = Registrar::new();
    registrar.register("bob", &request(5, &contact("<sip:a@1>")), flow(0), NOW).expect("taken");
    let before = registrar.clone();
    let many: Vec<(&str, String)> = (0..=BINDINGS_MAX).map(|n| ("contact", format!("<sip:{n}@1>"))).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|(name, value)| (*name, value.as_str())).collect();
    for (cseq, headers, expected) in [
        (6, &contact("<sip:b@1>;expires=59")[..], RegisterError::TooBrief),
        (5, &contact("<sip:a@1>"), RegisterError::OutOfOrder),
        (4, &[("contact", "*"), ("expires", "0")], RegisterError::OutOfOrder),
        (6, &contact("*"), RegisterError::Malformed("a star stands alone and with Expires: 0")),
        (6, &contact("<tel:1>"), RegisterError::Malformed("a phone's address is a SIP URI")),
        (6, &many, RegisterError::TooMany),
    ] {
        assert_eq!(registrar.register("bob", &request(cseq, headers), flow(0), NOW), Err(expected));
        assert_eq!(registrar, before);
    }
}

#[test]
fn a_phone_is_its_instance_and_has_its_own_address() {
    let mut registrar = Registrar::new();
    let aor = SipUri::parse("sip:bob@example").expect("a URI");
    let first = "<sip:bob@192.0.2.1:1>;+sip.instance=\"<urn:uuid:1>\";reg-id=1";
    let moved = "<sip:bob@192.0.2.9:7>;+sip.instance=\"<urn:uuid:1>\";reg-id=1";
    for (cseq, contact_text) in [(1, first), (2, moved)] {
        let headers = [("contact", contact_text), ("supported", "gruu, outbound")];
        registrar.register("bob", &request(cseq, &headers), flow(1), NOW).expect("taken");
    }
    let contacts = registrar.contacts("bob", &aor, Some(&|instance| format!("tgruu.{}", instance.len())), NOW);
    assert_eq!(
        contacts,
        [
            "<sip:bob@192.0.2.9:7>;expires=3600;+sip.instance=\"<urn:uuid:1>\";reg-id=1;pub-gruu=\"sip:bob@example;gr=urn:uuid:1\";\
          temp-gruu=\"sip:tgruu.10@example;gr\""
        ]
    );
    assert!(registrar.bindings("bob", NOW)[0].is_outbound);
    registrar.flow_closed(flow(1));
    assert!(registrar.is_empty());
}

#[test]
fn registrations_end_and_absurd_times_are_bounded() {
    let mut registrar = Registrar::new();
    registrar.register("bob", &request(1, &contact("<sip:a@1>;expires=280297596632815")), flow(0), NOW).expect("taken");
    assert_eq!(registrar.bindings("bob", NOW)[0].expires_at, NOW.plus_secs(EXPIRES_SECS_MAX.into()));
    assert_eq!(registrar.expire(NOW.plus_secs(EXPIRES_SECS_MAX.into())), ["bob"]);
    assert!(registrar.is_empty());
}

#[test]
fn the_way_to_wake_a_phone_is_kept_and_headers_in_its_address_are_not() {
    let mut registrar = Registrar::new();
    let text = "<sip:a@1;pn-provider=fcm;pn-param=app;pn-prid=token?Route=%3Csip:evil%3E>";
    registrar.register("bob", &request(1, &contact(text)), flow(0), NOW).expect("taken");
    let binding = registrar.bindings("bob", NOW)[0].clone();
    assert_eq!(binding.push, Some(PushParams { provider: "fcm".into(), param: "app".into(), prid: "token".into() }));
    assert!(!binding.contact.contains("Route"), "{}", binding.contact);
}

#[test]
fn a_refresh_needs_no_writing_and_a_restart_forgets_nothing_that_was_promised() {
    let mut registrar = Registrar::new();
    let expiring = [("contact", "<sip:a@1>"), ("expires", "600")];
    let at = |secs: u64| NOW.plus_secs(secs);
    let register = |registrar: &mut Registrar, cseq: u32, headers: &[(&str, &str)], secs: u64| {
        registrar.register("bob", &request(cseq, headers), flow(0), at(secs)).expect("taken").unkept
    };
    assert_eq!(register(&mut registrar, 1, &expiring, 0), 1, "a new phone is written before it is told");
    registrar.begin_keeping(false);
    assert_eq!(register(&mut registrar, 2, &expiring, 1), 1, "it is being written");
    registrar.kept();
    let disk = registrar.clone();
    assert_eq!(register(&mut registrar, 3, &expiring, 300), 0, "what is on disk lasts as long");
    assert_eq!(register(&mut registrar, 4, &expiring, 590), 0);
    assert_eq!(register(&mut registrar, 5, &expiring, 700), 1, "no longer");
    let mut other = expiring.to_vec();
    other.push(("user-agent", "another"));
    assert_eq!(register(&mut registrar, 6, &other, 300), 1, "it is something else that is kept");

    // The refresh at 590 s promised until 1,190 s; the process is killed before it was written.
    let mut after = disk;
    after.resume();
    assert_eq!(after.bindings("bob", at(1_189)).len(), 1);
    // An end in order is exact.
    registrar.begin_keeping(true);
    registrar.resume();
    assert!(registrar.bindings("bob", at(900)).is_empty());
}
