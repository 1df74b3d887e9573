//! Golden vectors: the bytes of every wire type, kept in `tests/golden/`.
//!
//! A difference means that nodes of yesterday and today don't understand each other. If that is what you decided, run
//! `HALLOO_BLESS=1 cargo test -p halloo-protocol --test golden` and say so in the change log and `docs/wire.md`.

/// What the fuzz targets do, so that it is built and run here too.
#[expect(unreachable_pub, reason = "elsewhere it is a library")]
#[path = "../fuzz/src/lib.rs"]
mod fuzz;
mod support;

use std::collections::BTreeSet;
use std::path::PathBuf;

use data_encoding::HEXLOWER;
use halloo_protocol::wire;
use support::vectors;

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn is_blessing() -> bool {
    std::env::var_os("HALLOO_BLESS").is_some_and(|value| value == "1")
}

/// Hexadecimal in lines of 32 bytes, which version control can compare.
fn written(bytes: &[u8]) -> String {
    bytes.chunks(32).map(|line| HEXLOWER.encode(line) + "\n").collect()
}

fn read(text: &str) -> Vec<u8> {
    let digits: String = text.split_whitespace().collect();
    HEXLOWER.decode(digits.as_bytes()).expect("golden files are hexadecimal")
}

#[test]
fn every_wire_type_has_the_bytes_it_had() {
    for vector in vectors::all() {
        let path = directory().join(vector.name).with_extension("hex");
        if is_blessing() {
            std::fs::write(&path, written(&vector.bytes)).expect("the golden directory can be written");
        }
        let stored = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert_eq!(written(&vector.bytes), stored, "{} is encoded differently than before", vector.name);
        let again = (vector.again)(&read(&stored)).unwrap_or_else(|error| panic!("{} no longer decodes: {error}", vector.name));
        assert_eq!(again, vector.bytes, "{} doesn't survive decoding", vector.name);
    }
}

#[test]
fn every_golden_file_belongs_to_a_type() {
    let known: BTreeSet<_> = vectors::all().iter().map(|vector| format!("{}.hex", vector.name)).collect();
    for file in std::fs::read_dir(directory()).expect("the golden directory is there") {
        let name = file.expect("it can be listed").file_name().into_string().expect("names are ASCII");
        assert!(known.contains(&name), "{name} belongs to no wire type");
    }
}

#[test]
fn stored_statements_are_believed() {
    let trust = support::trust();
    let record = std::fs::read_to_string(directory().join("directory_record.hex")).expect("golden file");
    let record = halloo_protocol::directory::UnverifiedRecord::from_bytes(&read(&record)).expect("decodes");
    let record = record.verify(support::NOW, &trust).expect("its signatures hold");
    assert!(record.is_successor_of(&support::identity(1)));
    let chain = std::fs::read_to_string(directory().join("chain.hex")).expect("golden file");
    let chain: halloo_protocol::identity::Chain = wire::decode(&read(&chain), 8 * 1024).expect("decodes");
    assert_eq!(chain.verify(support::NOW, &trust).map(|verified| verified.device), Ok(support::device(0)));
}

#[test]
fn one_byte_more_or_less_is_refused_everywhere() {
    for vector in vectors::all() {
        let mut longer = vector.bytes.clone();
        longer.push(0);
        assert!((vector.again)(&longer).is_err(), "{}: a byte after the end", vector.name);
        for length in 0..vector.bytes.len() {
            assert!((vector.again)(&vector.bytes[..length]).is_err(), "{}: cut at {length}", vector.name);
        }
    }
}

#[test]
fn numbers_are_written_as_the_document_says() {
    let written: [(u64, &str); 7] = [
        (0, "00"),
        (250, "fa"),
        (251, "fbfb00"),
        (0x4001, "fb0140"),
        (65_536, "fc00000100"),
        (1_800_000_000, "fc00d2496b"),
        (1 << 40, "fd0000000000010000"),
    ];
    for (number, bytes) in written {
        assert_eq!(HEXLOWER.encode(&wire::encode(&number)), bytes);
        assert_eq!(wire::decode::<u64>(&read(bytes), 9), Ok(number));
    }
    assert_eq!(wire::decode::<u64>(&read("fc01000000"), 9), Ok(1), "a longer form is read");
    assert!(wire::decode::<u16>(&read("fc01000000"), 9).is_err(), "a form wider than the field isn't");
    for reserved in ["fe00000000000000000000000000000000", "ff"] {
        assert!(wire::decode::<u64>(&read(reserved), 20).is_err());
    }
    assert!(wire::decode::<bool>(&[2], 1).is_err());
    assert!(wire::decode::<Option<u8>>(&[2, 0], 2).is_err());
    assert_eq!(wire::encode(&Some(7_u8)), [1, 7]);
    assert_eq!(wire::encode(&"ab".to_string()), [2, b'a', b'b']);
    assert_eq!(wire::encode(&[9_u8; 3]), [9; 3], "fixed lengths aren't written");
}

#[test]
fn fuzz_targets_take_their_seeds_whole_cut_and_changed() {
    let targets = [
        fuzz::frame,
        fuzz::signed,
        fuzz::directory_record,
        fuzz::sealed_content,
        fuzz::session_bearer,
        fuzz::voicemail,
        fuzz::phone,
        fuzz::phone_documents,
        fuzz::sip,
        fuzz::text,
    ];
    for vector in vectors::all() {
        let step = (vector.bytes.len() / 16).max(1);
        for at in (0..=vector.bytes.len()).step_by(step) {
            let mut changed = vector.bytes.clone();
            if let Some(byte) = changed.get_mut(at) {
                *byte ^= 0x41;
            }
            for target in targets {
                target(&vector.bytes[..at]);
                target(&changed);
            }
        }
    }
}

/// What phones send has no golden vector: it isn't ours.
#[test]
fn fuzz_targets_of_phones_take_what_phones_send_whole_cut_and_changed() {
    let offer = "v=0\r\nc=IN IP4 192.0.2.2\r\nm=audio 4000 RTP/AVP 0 101\r\na=rtpmap:101 telephone-event/8000\r\na=rtcp-mux\r\n";
    let packet = [&[0x80, 0, 0, 1, 0, 0, 0, 160, 0, 0, 0, 9][..], &[0xFF; 48]].concat();
    let talk = [offer.as_bytes(), &[0, 0], &packet].concat();
    let presence = "<presence xmlns='urn:ietf:params:xml:ns:pidf' entity='sip:a@b'><tuple id='t'><status><basic>open</basic></status></tuple>\
<note>x &amp; y</note></presence>";
    let list =
        "<list xmlns='urn:ietf:params:xml:ns:rlmi' uri='sip:l@b' version='1' fullState='true'><resource uri='sip:a@b'/></list>";
    let composing = "<isComposing xmlns='urn:ietf:params:xml:ns:im-iscomposing'><state>active</state></isComposing>";
    let info = r#"{"id":1,"request":"set-status","status":"away"}"#;
    let request = "REGISTER sip:b SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.1;branch=z9hG4b\u{e9}1\r\nTo: <sip:bob@b>\r\nFrom: <sip:bob@b>;tag=1\r\nCall-ID: 1\r\n\
CSeq: 1 REGISTER\r\nMax-Forwards: 70\r\nContact: <sip:bob@192.0.2.1>\r\nAuthorization: Digest username=\"bob\", realm=\"halloo\", nonce=\"1\", uri=\"sip:b\", \
response=\"0\", algorithm=MD5, qop=auth, nc=00000001, cnonce=\"c\"\r\nContent-Length: 0\r\n\r\n";
    for seed in [&talk[..], request.as_bytes(), presence.as_bytes(), list.as_bytes(), composing.as_bytes(), info.as_bytes()] {
        for at in 0..=seed.len() {
            for flipped in [0x01, 0x10, 0x41] {
                let mut changed = seed.to_vec();
                changed.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= flipped);
                for target in [fuzz::phone, fuzz::phone_documents, fuzz::sip] {
                    target(&seed[..at]);
                    target(&changed);
                }
            }
        }
    }
}
