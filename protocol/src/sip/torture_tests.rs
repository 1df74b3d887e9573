//! The 49 messages of RFC 4475, as far as reading them decides. `tests/scenarios/sip_torture.rs` sends them to a running edge.

use super::message::{Message, Refusal};

fn read(name: &str) -> Result<Message, Refusal> {
    let path = format!("{}/../tests/vectors/rfc4475/{name}.dat", env!("CARGO_MANIFEST_DIR"));
    Message::parse(&std::fs::read(path).expect(name))
}

#[test]
fn what_is_valid_is_read() {
    // Sections 3.1.1, 3.2, 3.4, and of 3.3 what is for those to decide who know more than the text.
    for name in [
        "wsinv",
        "intmeth",
        "esc01",
        "escnull",
        "esc02",
        "lwsdisp",
        "longreq",
        "dblreq",
        "semiuri",
        "transports",
        "mpart01",
        "unreason",
        "noreason",
        "badbranch",
        "unksm2",
        "bext01",
        "invut",
        "regaut01",
        "bcast",
        "zeromf",
        "cparam01",
        "cparam02",
        "regescrt",
        "sdp01",
        "inv2543",
    ] {
        if let Err(refusal) = read(name) {
            panic!("{name}: {refusal:?}");
        }
    }
}

#[test]
fn what_is_invalid_is_refused_with_the_status_that_the_rfc_names() {
    for (name, expected) in [
        ("badinv01", 400),
        ("clerr", 400),
        ("ncl", 400),
        ("scalar02", 400),
        ("quotbal", 400),
        ("ltgtruri", 400),
        ("lwsruri", 400),
        ("lwsstart", 400),
        ("trws", 400),
        ("escruri", 400),
        ("baddate", 400),
        ("regbadct", 400),
        ("badaspec", 400),
        ("baddn", 400),
        ("badvers", 505),
        ("mismatch01", 400),
        ("mismatch02", 400),
        ("insuf", 400),
        ("unkscm", 416),
        ("novelsc", 416),
        ("multi01", 400),
        ("mcl01", 400),
    ] {
        match read(name) {
            Err(Refusal::Answer { status, .. }) => assert_eq!(status, expected, "{name}"),
            other => panic!("{name}: {other:?}"),
        }
    }
}

#[test]
fn responses_that_are_none_are_dropped() {
    for name in ["scalarlg", "bigcode"] {
        assert!(matches!(read(name), Err(Refusal::Drop(_))), "{name}");
    }
}

#[test]
fn what_the_messages_say_is_understood() {
    let wsinv = read("wsinv").expect("valid");
    assert_eq!(wsinv.vias().expect("three").len(), 3);
    assert_eq!((wsinv.to_tag().as_deref(), wsinv.call_id()), (Some("1918181833n"), "wsinv.ndaksdj@192.0.2.1"));
    let intmeth = read("intmeth").expect("valid");
    assert_eq!(intmeth.method(), "!interesting-Method0123456789_*+`.%indeed'~");
    let dblreq = read("dblreq").expect("valid");
    assert_eq!((dblreq.method(), dblreq.body.len()), ("REGISTER", 0));
    let semiuri = read("semiuri").expect("valid");
    assert_eq!(super::uri::SipUri::parse(semiuri.request_uri()).expect("a URI").user.as_deref(), Some("user;par=u@example.net"));
    let escnull = read("escnull").expect("valid");
    assert_eq!(escnull.contacts().expect("two").len(), 2);
}

#[test]
fn a_branch_that_is_no_ascii_is_another_branch() {
    let via = super::message::Via::parse("SIP/2.0/UDP host;branch=z9hG\u{434}\u{435}\u{432}4bK").expect("a Via");
    assert_eq!(via.branch(), None);
}
