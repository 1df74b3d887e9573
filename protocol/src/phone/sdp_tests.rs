//! Descriptions of real phones and hostile ones.

use proptest::prelude::*;

use super::*;

/// baresip 1.0.0.
pub(in crate::phone) const BARESIP: &str = "v=0\r\no=- 3330541494 1386367947 IN IP4 192.0.2.2\r\ns=-\r\nc=IN IP4 192.0.2.2\r\nt=0 0\r\n\
a=tool:baresip 1.0.0\r\nm=audio 20038 RTP/AVP 96 9 0 8 101\r\na=rtpmap:96 opus/48000/2\r\na=fmtp:96 stereo=1;sprop-stereo=1\r\n\
a=rtpmap:9 G722/8000\r\na=rtpmap:0 PCMU/8000\r\na=rtpmap:8 PCMA/8000\r\na=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-15\r\n\
a=sendrecv\r\na=label:1\r\na=rtcp-rsize\r\na=ssrc:2597006256 cname:sip:alice@127.0.0.1:5099\r\na=minptime:20\r\na=ptime:20\r\n";

/// linphonec 5.1 with `media_encryption=srtp`.
pub(in crate::phone) const LINPHONE: &str = "\
v=0\r\n\
o=alice 2935 2023 IN IP6 fd00::2\r\n\
s=Talk\r\n\
c=IN IP6 fd00::2\r\n\
t=0 0\r\n\
a=rtcp-xr:rcvr-rtt=all:10000 stat-summary=loss,dup,jitt,TTL voip-metrics\r\n\
m=audio 7078 RTP/SAVP 96 97 98 0 8 18 99 100 101\r\n\
a=rtpmap:96 opus/48000/2\r\n\
a=fmtp:96 useinbandfec=1\r\n\
a=rtpmap:97 speex/16000\r\n\
a=fmtp:97 vbr=on\r\n\
a=rtpmap:98 speex/8000\r\n\
a=fmtp:98 vbr=on\r\n\
a=fmtp:18 annexb=yes\r\n\
a=rtpmap:99 telephone-event/48000\r\n\
a=rtpmap:100 telephone-event/16000\r\n\
a=rtpmap:101 telephone-event/8000\r\n\
a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:qz/Cr+EV1bH8AfO++fgeS0D337j6vUms2osPVdkv\r\n\
a=crypto:2 AES_CM_128_HMAC_SHA1_32 inline:raqfsEsjWh/WNAaQAxoisB7yVb3Tf1TdxAn8j3NC\r\n\
a=crypto:3 AES_256_CM_HMAC_SHA1_80 inline:WiOKftPblBkerTxL71PFt8/6N5DClyF0u7DjdN48hyzUI7NW9UKKhacQmBHhig==\r\n\
a=crypto:4 AES_256_CM_HMAC_SHA1_32 inline:EHfjPg9bzzzVBcKkDT3tTDm6Z9oAlZHeVB1vOk7lb5djbr4oxr9jPMV8iW5weA==\r\n\
a=rtcp-fb:* trr-int 5000\r\n\
a=rtcp-fb:* ccm tmmbr\r\n";

#[test]
fn a_phones_description_is_read() {
    let description = Description::parse(BARESIP.as_bytes()).unwrap();
    let [section] = description.sections.as_slice() else { panic!("one section") };
    assert_eq!((section.kind.as_str(), section.port, section.transport()), ("audio", 20_038, Transport::Plain));
    assert_eq!(section.payload_types().collect::<Vec<_>>(), [96, 9, 0, 8, 101]);
    assert_eq!(
        section.format(96).map(|format| (format.name.as_str(), format.clock_hz, format.channels)),
        Some(("opus", 48_000, 2))
    );
    assert_eq!((section.ptime, section.direction, section.has_rtcp_mux), (Some(20), Some(Direction::SendRecv), false));
    let to = destinations(section, description.address);
    assert_eq!(to, (Some("192.0.2.2:20038".parse().unwrap()), Some("192.0.2.2:20039".parse().unwrap())));
}

#[test]
fn where_packets_go_is_said_in_many_ways() {
    let read = |lines: &str| {
        let text = format!("v=0\r\nc=IN IP4 192.0.2.1\r\nm=audio 4000 RTP/AVP 0\r\n{lines}");
        let description = Description::parse(text.as_bytes()).unwrap();
        destinations(&description.sections[0], description.address)
    };
    let at = |text: &str| Some(text.parse().unwrap());
    assert_eq!(read(""), (at("192.0.2.1:4000"), at("192.0.2.1:4001")));
    assert_eq!(read("c=IN IP6 2001:db8::1\r\n"), (at("[2001:db8::1]:4000"), at("[2001:db8::1]:4001")));
    assert_eq!(read("a=rtcp:5000\r\n"), (at("192.0.2.1:4000"), at("192.0.2.1:5000")));
    assert_eq!(read("a=rtcp:5000 IN IP4 192.0.2.9\r\n"), (at("192.0.2.1:4000"), at("192.0.2.9:5000")));
    assert_eq!(read("a=rtcp-mux\r\na=rtcp:5000\r\n"), (at("192.0.2.1:4000"), at("192.0.2.1:4000")));
    assert_eq!(read("c=IN IP4 0.0.0.0\r\n"), (None, None), "an old phone that holds");
    assert_eq!(read("c=IN IP4 phone.example\r\n").1, at("192.0.2.1:4001"), "names aren't looked up");
}

#[test]
fn what_isnt_a_description_is_refused() {
    let wrong = |text: &str| Description::parse(text.as_bytes()).unwrap_err();
    let line = |line, what| SdpError::Line { line, what };
    assert_eq!(wrong(""), line(1, "a description begins with v=0"));
    assert_eq!(wrong("o=- 1 1 IN IP4 192.0.2.1\r\n"), line(1, "a description begins with v=0"));
    assert_eq!(wrong("v=0\r\nnonsense\r\n"), line(2, "no type and value"));
    assert_eq!(wrong("v=0\r\nm=audio\r\n"), line(2, "a section has a kind, a port, a transport and formats"));
    assert_eq!(wrong("v=0\r\nm=audio 70000 RTP/AVP 0\r\n"), line(2, "a port is 0 to 65535"));
    assert_eq!(wrong("v=0\r\nm=audio 1 RTP/AVP\r\n"), line(2, "a section has 1 to 40 formats"));
    assert_eq!(wrong("v=0\r\nc=IN IP4 224.0.0.1/127\r\n"), line(2, "an address that isn't one machine's"));
    assert_eq!(wrong("v=0\r\nc=IN IP6 192.0.2.1\r\n"), line(2, "an address of another family"));
    assert_eq!(wrong("v=0\r\nm=audio 1 RTP/AVP 0\r\na=rtpmap:0\r\n"), line(3, "an rtpmap that can't be read"));
    assert_eq!(wrong(&format!("v=0\r\n{}", "a=x\r\n".repeat(2_000))), SdpError::TooMuch("longer than 8 KiB"));
    assert_eq!(wrong(&format!("v=0\r\na={}\r\n", "x".repeat(2_000))), SdpError::TooMuch("a line longer than 1 KiB"));
    assert_eq!(wrong(&format!("v=0\r\n{}", "m=audio 1 RTP/AVP 0\r\n".repeat(9))), SdpError::TooMuch("more than 8 sections"));
    assert_eq!(Description::parse(b"v=0\r\ns=\xff\r\n"), Err(SdpError::NotText));
}

#[test]
fn keys_that_cant_be_used_are_passed_over() {
    let read = |crypto: &str| {
        let text = format!("v=0\r\nm=audio 4000 RTP/SAVP 0\r\na=crypto:{crypto}\r\n");
        Description::parse(text.as_bytes()).unwrap().sections[0].keys.clone()
    };
    let key = "akdUxvfZMdz2w1Nos7gi0kvRREIsjk3PEPzXxKNG";
    let good = format!("1 AES_CM_128_HMAC_SHA1_80 inline:{key}");
    let [crypto] = read(&good).try_into().unwrap();
    assert_eq!((crypto.tag, crypto.suite, crypto.to_value()), (1, crate::phone::sdes::Suite::Aes128Sha1Of80, good.clone()));
    for fine in [format!("{good}|2^31"), format!("{good} WSH=64"), format!("{good} -DUMMY=1")] {
        assert_eq!(read(&fine).len(), 1, "{fine}");
    }
    for useless in [
        format!("{good}|2^31|1:4"),
        format!("{good};inline:{key}"),
        format!("{good} UNENCRYPTED_SRTP"),
        format!("{good} KDR=1"),
        format!("1 F8_128_HMAC_SHA1_80 inline:{key}"),
        format!("1 AES_256_CM_HMAC_SHA1_80 inline:{key}"),
        format!("12345678901 AES_CM_128_HMAC_SHA1_80 inline:{key}"),
        "1 AES_CM_128_HMAC_SHA1_80 inline:&&&&".to_owned(),
        "1 AES_CM_128_HMAC_SHA1_80".to_owned(),
    ] {
        assert!(read(&useless).is_empty(), "{useless}");
    }
    assert!(!format!("{crypto:?}").contains("akdU"), "keys aren't shown");
}

proptest! {
    #[test]
    fn anything_is_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let _ = Description::parse(&bytes);
    }

    #[test]
    fn a_spoilt_description_is_read_or_refused(at in 0usize..600, byte in any::<u8>(), cut in 0usize..700) {
        let mut bytes = BARESIP.as_bytes().to_vec();
        let place = at % bytes.len();
        bytes[place] = byte;
        bytes.truncate(cut.max(10));
        if let Ok(description) = Description::parse(&bytes) {
            assert!(description.sections.len() <= 2);
        }
    }
}
