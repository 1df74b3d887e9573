//! Streams in pieces, the log-in of the specifications, and answers of servers that mean well and of others.

use proptest::prelude::*;

use super::scram::{Mechanism, Scram, ScramError};
use super::stanza::{self, Incoming};
use super::stream::{Piece, STANZA_BYTES_MAX, StreamError, StreamReader};
use crate::identity::UserId;
use crate::key::{IdentityKey, SecretKey};
use crate::linked::{Association, AssociationParams, LinkedId, ListEntry, ProofMethod, Shown};
use crate::simple::xml::Element;
use crate::test_identity::NOW;

const HEADER: &str = "<?xml version='1.0'?><stream:stream xmlns:stream='http://etherx.jabber.org/streams' xmlns='jabber:client' \
from='there.example' id='a&gt;b' version='1.0'>";

fn alice() -> LinkedId {
    "xmpp:alice@there.example".parse().expect("an address")
}

fn pieces(text: &str, step: usize) -> Result<Vec<Piece>, StreamError> {
    let mut reader = StreamReader::default();
    let mut pieces = Vec::new();
    for part in text.as_bytes().chunks(step) {
        reader.push(part)?;
        while let Some(piece) = reader.next_piece()? {
            let is_end = piece == Piece::Closed;
            pieces.push(piece);
            if is_end {
                return Ok(pieces);
            }
        }
    }
    Ok(pieces)
}

fn stanza_of(text: &str) -> Element {
    match pieces(&format!("{HEADER}{text}"), 4_096).expect("in order").pop() {
        Some(Piece::Stanza(stanza)) => stanza,
        other => panic!("{other:?}"),
    }
}

fn read(text: &str) -> Incoming {
    stanza::read(&stanza_of(text), &alice())
}

#[test]
fn a_stream_is_the_same_however_it_is_cut() {
    let text = format!(
        "{HEADER} <iq type='result' id='1'><q xmlns='x'>a &lt; b<![CDATA[</iq>]]></q></iq>\n<presence from='a>b'/></stream:stream>"
    );
    let whole = pieces(&text, text.len()).expect("in order");
    assert!(matches!(&whole[..], [Piece::Opened, Piece::Stanza(_), Piece::Stanza(_), Piece::Closed]), "{whole:?}");
    for step in 1..20 {
        assert_eq!(pieces(&text, step).as_ref(), Ok(&whole), "in pieces of {step}");
    }
}

#[test]
fn what_no_server_may_send_ends_the_stream() {
    for text in ["<!DOCTYPE x>", "<!-- x -->", "<?x?>", "text<iq/>", "<p:iq/>", "</iq>"] {
        let ended = pieces(&format!("{HEADER}{text}"), 4_096);
        assert!(ended.is_err() || ended == Ok(vec![Piece::Opened, Piece::Closed]), "{text}: {ended:?}");
    }
    assert!(pieces("<html><body/>", 4_096).is_err());
    assert!(pieces(&format!("<stream:stream {}", "a".repeat(5_000)), 100).is_err());
    let mut reader = StreamReader::default();
    assert_eq!(reader.push(&vec![b'x'; STANZA_BYTES_MAX + 1]), Err(StreamError::TooLong));
    let many = format!("{}{HEADER}", "<?x?>".repeat(20_000));
    assert_eq!(pieces(&many, many.len()).map(|pieces| pieces.len()), Ok(1), "instructions before the stream, however many");
}

/// What a contact puts into their own item comes in an answer of the server: it mustn't end the connection.
#[test]
fn of_a_stanza_that_cant_be_read_its_start_is() {
    let deep = format!("{}{}", "<a>".repeat(40), "</a>".repeat(40));
    let wide: String = (0..100).map(|number| format!(" a{number}=''")).collect();
    for inside in [deep, format!("<a{wide}/>"), "<a><b></a></b>".to_owned()] {
        let read = read(&format!("<iq type='result' id='7' from='alice@there.example'>{inside}</iq>"));
        let expected = Incoming::Answer { id: "7".into(), from: Some("alice@there.example".into()), result: Ok(None) };
        assert_eq!(read, expected, "{inside}");
    }
    assert_eq!(stanza::read_look(None), None, "nothing stands there");
}

/// RFC 5802 section 5 and RFC 7677 section 3.
#[test]
fn scram_says_what_the_specifications_say() {
    for (mechanism, nonce, said, answer, last) in [
        (
            Mechanism::Sha1,
            "fyko+d2lbbFgONRv9qkxdawL",
            "r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,s=QSXCR+Q6sek8bf92,i=4096",
            "c=biws,r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,p=v0X8v3Bz2T0CJGbJQyF0X+HI4Ts=",
            "v=rmF9pqV8S7suAoZWja4dJRkFsKQ=",
        ),
        (
            Mechanism::Sha256,
            "rOprNGfwEbeRWgbNEkqO",
            "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
            "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
            "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=",
        ),
    ] {
        let nonce = data_encoding::BASE64.decode(nonce.as_bytes()).expect("base64");
        let mut scram = Scram::new(mechanism, "user", "pencil", &nonce);
        assert!(scram.first().starts_with(b"n,,n=user,r="));
        assert_eq!(String::from_utf8(scram.answer(said.as_bytes()).expect("in order")).as_deref(), Ok(answer));
        assert_eq!(scram.check(last.as_bytes()), Ok(()));
        assert_eq!(scram.check(b"v=AAAA"), Err(ScramError::Server));
        assert!(scram.check(b"e=other-error").is_err());
    }
}

#[test]
fn a_server_that_cheats_is_not_told_anything() {
    let mut scram = Scram::new(Mechanism::Sha256, "a,b=c", "pencil", &[0; 18]);
    assert!(scram.first().starts_with(b"n,,n=a=2Cb=3Dc,r=AAAA"));
    let nonce = "A".repeat(24);
    for (said, error) in [
        (format!("r={nonce}x,s=QSXCR+Q6sek8bf92,i=1"), ScramError::Iterations(1)),
        (format!("r={nonce}x,s=QSXCR+Q6sek8bf92,i=2000000"), ScramError::Iterations(2_000_000)),
        (format!("r={nonce},s=QSXCR+Q6sek8bf92,i=4096"), ScramError::Form),
        ("r=other,s=QSXCR+Q6sek8bf92,i=4096".into(), ScramError::Form),
        (format!("m=x,r={nonce}x,s=QSXCR+Q6sek8bf92,i=4096"), ScramError::Form),
        ("x".repeat(5_000), ScramError::Form),
    ] {
        assert_eq!(scram.answer(said.as_bytes()), Err(error));
    }
    assert_eq!(scram.check(b"v=AAAA"), Err(ScramError::Server), "before it has said anything");
}

#[test]
fn features_and_the_log_in_are_read() {
    let features = "<stream:features><starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>\
                    <mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>PLAIN</mechanism><mechanism>SCRAM-SHA-1</mechanism></mechanisms></stream:features>";
    let Incoming::Features(features) = read(features) else { panic!("no features") };
    assert!(features.has_tls);
    assert_eq!(Mechanism::choose(features.mechanisms.iter().map(String::as_str)), Some(Mechanism::Sha1));
    let failure = "<failure xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><not-authorized/></failure>";
    assert_eq!(read(failure), Incoming::Failure("not-authorized".into()));
    let challenge = "<challenge xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>cj0x</challenge>";
    assert_eq!(read(challenge), Incoming::Challenge(b"r=1".to_vec()));
}

#[test]
fn a_contact_list_is_of_those_whose_presence_is_seen() {
    let query = "<iq type='result' id='1'><query xmlns='jabber:iq:roster'><item jid='Bob@There.example' subscription='both' name='Bob B.'/>\
                 <item jid='carol@there.example' subscription='to'/><item jid='dan@there.example' subscription='from'/>\
                 <item jid='eve@there.example' subscription='none' ask='subscribe'/><item jid='there.example' subscription='both'/></query></iq>";
    let Incoming::Answer { result: Ok(answer), .. } = read(query) else { panic!("no answer") };
    let list = stanza::read_list(answer.as_ref());
    let shown: Vec<_> =
        list.iter().map(|entry| (entry.id.address(), entry.name.as_deref(), entry.is_contact, entry.is_reader)).collect();
    let bob = ("bob@there.example", Some("Bob B."), true, true);
    // Dan sees what this user shows, and shows nothing.
    assert_eq!(shown, [bob, ("carol@there.example", None, true, false), ("dan@there.example", None, false, true)]);
}

#[test]
fn the_list_is_changed_by_the_own_account_alone() {
    let push = |from: &str, subscription: &str| {
        read(&format!(
            "<iq type='set' id='9'{from}><query xmlns='jabber:iq:roster'><item jid='bob@there.example' subscription='{subscription}'/></query></iq>"
        ))
    };
    let id: LinkedId = "xmpp:bob@there.example".parse().expect("an address");
    let entry = |is_contact, is_reader| ListEntry { id: id.clone(), name: None, is_contact, is_reader };
    for own in ["", " from='alice@there.example'"] {
        assert_eq!(push(own, "both"), Incoming::ListChanged { id: "9".into(), entry: entry(true, true) });
        assert_eq!(push(own, "remove"), Incoming::ListChanged { id: "9".into(), entry: entry(false, false) });
        assert_eq!(push(own, "from"), Incoming::ListChanged { id: "9".into(), entry: entry(false, true) });
    }
    for other in [" from='mallory@there.example'", " from='alice@there.example/phone'", " from='there.example'"] {
        assert!(matches!(push(other, "both"), Incoming::Request { .. }), "{other}");
    }
}

#[test]
fn what_is_shown_is_read_as_it_was_put_there() {
    let key = SecretKey::from_bytes([1; 32]);
    let user = UserId::Key(IdentityKey(key.public()));
    let params = AssociationParams { user, linked: alice(), method: ProofMethod::OWN_ITEM, last_serial: 0, now: NOW };
    let association = Association::sign(params, &key);
    let item_of = |shown: &Shown| stanza_of(&stanza::publish("5", shown)).children[0].children[0].children[0].clone();
    let bare = Shown { association, leave: None };
    let item = item_of(&bare);
    let answer = |node: &str, item: &Element| {
        let items = Element {
            namespace: item.namespace.clone(),
            name: "items".into(),
            attributes: vec![("node".into(), node.into())],
            children: vec![item.clone()],
            text: String::new(),
        };
        Element { children: vec![items], ..Element::default() }
    };
    assert_eq!(stanza::read_look(Some(&answer(stanza::ASSOCIATION_NODE, &item))), Some(bare.clone()));
    let with_leave = Shown { leave: Some(vec![7; 900]), ..bare.clone() };
    assert_eq!(stanza::read_look(Some(&answer(stanza::ASSOCIATION_NODE, &item_of(&with_leave)))), Some(with_leave.clone()));
    // A leave that is too long takes nothing from the association.
    let long = Shown { leave: Some(vec![7; 1_500]), ..with_leave };
    assert_eq!(stanza::read_look(Some(&answer(stanza::ASSOCIATION_NODE, &item_of(&long)))), Some(bare));
    assert_eq!(stanza::read_look(Some(&answer("other", &item))), None);
    assert_eq!(stanza::read_look(Some(&Element::default())), None);
    let mut broken = item;
    broken.children[0].text.truncate(100);
    assert_eq!(stanza::read_look(Some(&answer(stanza::ASSOCIATION_NODE, &broken))), None);
}

#[test]
fn presence_is_of_whom_servers_say_and_its_association_is_whole() {
    let key = SecretKey::from_bytes([1; 32]);
    let user = UserId::Key(IdentityKey(key.public()));
    let params = AssociationParams { user, linked: alice(), method: ProofMethod::OWN_ITEM, last_serial: 0, now: NOW };
    let association = Association::sign(params, &key);
    let bare = Shown { association: association.clone(), leave: None };
    let said = stanza::presence(None, Some(&bare));
    assert!(said.len() < 500, "{} bytes to everybody who sees it", said.len());
    let from = |attributes: &str| read(&said.replacen("<presence", &format!("<presence from='{attributes}"), 1));
    let presence = |client: &str, is_available, shown: Option<&Shown>| {
        let shown = shown.cloned().map(Box::new);
        Incoming::Presence(stanza::Presence { of: alice(), client: client.into(), is_available, shown })
    };
    assert_eq!(from("Alice@there.example/desk/1'"), presence("desk/1", true, Some(&bare)));
    assert_eq!(from("alice@there.example'"), presence("", true, Some(&bare)));
    // Where there is no place for it the leave is in it too.
    let scope = crate::linked::LeaveScope { calls: true, messages: true };
    let leave = crate::linked::LinkedLeave::sign(crate::presence::PresenceSecret::new(1, [1; 32]).linked_key(), scope, &key, NOW);
    let whole = Shown { leave: Some(crate::wire::encode(&leave)), ..bare.clone() };
    let with_leave = stanza::presence(None, Some(&whole));
    assert!(with_leave.len() < 1_800, "{} bytes, where a server has no place", with_leave.len());
    assert_eq!(
        read(&with_leave.replacen("<presence", "<presence from='alice@there.example/h'", 1)),
        presence("h", true, Some(&whole))
    );
    // Who goes says nothing, whatever is in it.
    assert_eq!(from("alice@there.example/desk' type='unavailable'"), presence("desk", false, None));
    assert_eq!(from("alice@there.example' type='error'"), presence("", false, None));
    assert_eq!(read("<presence from='alice@there.example/phone'><show>away</show></presence>"), presence("phone", true, None));
    let broken = said.replace("==</association>", "</association>").replace("<association xmlns='", "<association xmlns='x");
    assert_eq!(read(&broken.replacen("<presence", "<presence from='alice@there.example/desk'", 1)), presence("desk", true, None));
    let long = format!("alice@there.example/{}'", "x".repeat(2_000));
    for other in ["alice@there.example' type='subscribe'", "there.example'", "'", long.as_str()] {
        assert_eq!(from(other), Incoming::Other, "{other}");
    }
    assert_eq!(read(&said), Incoming::Other, "nobody's");
    assert!(
        stanza::presence(Some("a'b@there.example"), None).starts_with("<presence to='a&apos;b@there.example'><show>xa</show>")
    );
}

#[test]
fn a_token_is_what_the_server_has_named() {
    let element = |text: &str| match read(text) {
        Incoming::Answer { result: Ok(answer), .. } => answer,
        other => panic!("{other:?}"),
    };
    let pubsub = "pubsub xmlns='http://jabber.org/protocol/pubsub'";
    let issued = |id: &str| {
        element(&format!(
            "<iq type='result' id='1'><{pubsub}><publish node='urn:halloo:event:0'><item {id}/></publish></pubsub></iq>"
        ))
    };
    assert_eq!(stanza::read_issued(issued("id='f00-1'").as_ref()), Some("f00-1".into()));
    assert_eq!(stanza::read_issued(issued("").as_ref()), None, "a server that names nothing issues nothing");
    assert_eq!(stanza::read_issued(None), None);
    let shown = |id: &str, text: &str| {
        element(&format!(
            "<iq type='result' id='2' from='bob@there.example'><{pubsub}><items node='urn:halloo:event:0'><item id='{id}'>\
             <event xmlns='urn:halloo:event:0'>{text}</event></item></items></pubsub></iq>"
        ))
    };
    let commitment = [9; 32];
    let text = data_encoding::BASE64.encode(&commitment);
    assert_eq!(stanza::read_token(shown("f00-1", &text).as_ref(), "f00-1"), Some(commitment));
    assert_eq!(stanza::read_token(shown("other", &text).as_ref(), "f00-1"), None, "another item than was asked for");
    assert_eq!(stanza::read_token(shown("f00-1", &text[..40]).as_ref(), "f00-1"), None);
    assert!(stanza::issue("5", &commitment).contains(&text));
    assert!(stanza::token("6", &alice(), "a'b").contains("a&apos;b"));
    assert!(stanza::spend("7", "f00-1").contains("retract"));
}

proptest! {
    #[test]
    fn anything_is_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300), tags in "[<>/a='&;\\[\\]!? -]{0,80}") {
        let _ = pieces(&format!("{HEADER}{tags}"), 7);
        let mut reader = StreamReader::default();
        let _ = reader.push(&bytes);
        while let Ok(Some(piece)) = reader.next_piece() {
            if piece == Piece::Closed { break; }
        }
        let mut scram = Scram::new(Mechanism::Sha1, "u", "p", &[1; 18]);
        let _ = scram.answer(&bytes);
    }
}
