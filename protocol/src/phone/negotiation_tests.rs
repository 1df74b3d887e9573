//! Offers and answers with phones, real ones and others.

use rand::SeedableRng;
use rand::rngs::StdRng;

use super::super::sdp::tests::{BARESIP, LINPHONE};
use super::*;

const KEY: &str = "akdUxvfZMdz2w1Nos7gi0kvRREIsjk3PEPzXxKNG";

fn negotiation(security: Security) -> Negotiation {
    let local = Local { address: "198.51.100.1".parse().unwrap(), port: 16_384, rtcp_port: 16_385, security };
    Negotiation::new(local, &mut StdRng::seed_from_u64(7))
}

fn phone(transport: &str, lines: &str) -> String {
    format!(
        "v=0\r\no=- 1 1 IN IP4 192.0.2.2\r\ns=-\r\nc=IN IP4 192.0.2.2\r\nt=0 0\r\nm=audio 4000 {transport} 0 8 101\r\n\
a=rtpmap:101 telephone-event/8000\r\n{lines}"
    )
}

fn has(sdp: &str, line: &str) -> bool {
    sdp.split("\r\n").any(|known| known == line)
}

#[test]
fn a_phones_offer_is_answered_in_one_codec() {
    let mut negotiation = negotiation(Security::Accepted);
    let offer = negotiation.take_offer(BARESIP.as_bytes()).unwrap();
    assert_eq!(offer.codecs, [AudioCodec::Opus, AudioCodec::G722, AudioCodec::Pcmu, AudioCodec::Pcma]);
    assert!(!offer.is_secure && negotiation.agreed().is_none());
    let answer = negotiation.answer(AudioCodec::Pcmu).unwrap();
    assert!(has(&answer, "m=audio 16384 RTP/AVP 0 101") && has(&answer, "a=rtpmap:0 PCMU/8000"), "{answer}");
    assert!(has(&answer, "a=rtpmap:101 telephone-event/8000") && has(&answer, "a=sendrecv"), "{answer}");
    assert!(has(&answer, "c=IN IP4 198.51.100.1") && !answer.contains("rtcp-mux"), "{answer}");
    let agreed = negotiation.agreed().unwrap();
    assert_eq!((agreed.types.to_phone, agreed.types.from_phone, agreed.hold()), (0, 0, Hold::Active));
    assert_eq!(agreed.media_to, Some("192.0.2.2:20038".parse().unwrap()));
    Description::parse(answer.as_bytes()).unwrap();
}

#[test]
fn a_phone_with_many_keys_and_event_clocks_is_answered_with_one_of_each() {
    let mut negotiation = negotiation(Security::Required);
    let offer = negotiation.take_offer(LINPHONE.as_bytes()).unwrap();
    assert_eq!((offer.codecs, offer.is_secure), (vec![AudioCodec::Opus, AudioCodec::Pcmu, AudioCodec::Pcma], true));
    let answer = negotiation.answer(AudioCodec::Opus).unwrap();
    assert!(has(&answer, "m=audio 16384 RTP/SAVP 96 99") && has(&answer, "a=rtpmap:99 telephone-event/48000"), "{answer}");
    assert!(answer.contains("a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:"), "{answer}");
    let agreed = negotiation.agreed().unwrap();
    assert_eq!(agreed.media_to, Some("[fd00::2]:7078".parse().unwrap()));
    // The longer keys can be read too.
    let longer = LINPHONE.replace("a=crypto:1 ", "a=x:1 ").replace("a=crypto:2 ", "a=x:2 ");
    negotiation.take_offer(longer.as_bytes()).unwrap();
    assert!(negotiation.answer(AudioCodec::Pcmu).unwrap().contains("a=crypto:3 AES_256_CM_HMAC_SHA1_80 inline:"));
}

#[test]
fn the_codec_that_is_preferred_is_chosen_and_it_is_said_why() {
    use AudioCodec::{G722, Opus, Pcma, Pcmu};
    let preferred = choose(&[Pcma, Opus, Pcmu], &[Opus, Pcma]).unwrap();
    assert_eq!(preferred, Choice { codec: Pcma, reason: ChoiceReason::Preferred { over: vec![Opus] } });
    assert_eq!(choose(&[G722, Pcmu], &[Pcmu]).unwrap(), Choice { codec: Pcmu, reason: ChoiceReason::OnlyCommon });
    let none = choose(&[G722], &[Opus, Pcmu]).unwrap_err();
    assert_eq!(none, MediaRefusal::NoCommonCodec { phone: vec![G722], other: vec![Opus, Pcmu] });
    assert_eq!((none.status(), none.warning()), (488, 305));
    assert_eq!(none.to_string(), "no codec in common: the phone has g722, the other end opus, pcmu");
}

#[test]
fn an_offer_of_ours_names_what_the_caller_has_and_the_phone_chooses() {
    let mut negotiation = negotiation(Security::Accepted);
    let offer = negotiation.offer(&[AudioCodec::Opus, AudioCodec::Pcmu]).unwrap();
    assert!(has(&offer, "m=audio 16384 RTP/AVP 96 0 102 101"), "{offer}");
    assert!(has(&offer, "a=rtpmap:96 opus/48000/2") && has(&offer, "a=rtcp-mux") && !offer.contains("crypto"), "{offer}");
    // The phone numbers Opus otherwise.
    let answer = "v=0\r\nc=IN IP4 192.0.2.3\r\nm=audio 5004 RTP/AVP 111\r\na=rtpmap:111 opus/48000/2\r\na=rtcp-mux\r\n";
    assert_eq!(negotiation.take_answer(answer.as_bytes()), Ok(AudioCodec::Opus));
    let agreed = negotiation.agreed().unwrap();
    assert_eq!((agreed.types.to_phone, agreed.types.from_phone, agreed.events), (111, 96, None));
    assert_eq!((agreed.media_to, agreed.is_rtcp_muxed), (agreed.reports_to, true));
    assert_eq!(negotiation.take_answer(answer.as_bytes()), Err(MediaRefusal::NothingToAnswer));
}

#[test]
fn what_a_phone_cant_do_is_refused_and_says_why() {
    let mut negotiation = negotiation(Security::Accepted);
    let refused = |negotiation: &mut Negotiation, text: &str| negotiation.take_offer(text.as_bytes()).unwrap_err();
    let gsm = "v=0\r\nc=IN IP4 192.0.2.2\r\nm=audio 4000 RTP/AVP 3 18\r\n";
    assert!(matches!(refused(&mut negotiation, gsm), MediaRefusal::NoCommonCodec { phone, .. } if phone.is_empty()));
    let video = "v=0\r\nc=IN IP4 192.0.2.2\r\nm=video 4000 RTP/AVP 96\r\n";
    assert_eq!(refused(&mut negotiation, video), MediaRefusal::NoAudio);
    let dtls = phone("UDP/TLS/RTP/SAVP", "a=fingerprint:sha-256 AB\r\n");
    assert!(matches!(refused(&mut negotiation, &dtls), MediaRefusal::SecurityUnusable(_)));
    assert_eq!(negotiation.answer(AudioCodec::Pcmu), Err(MediaRefusal::NothingToAnswer));
    assert_eq!(refused(&mut negotiation, "nonsense").status(), 400);
    negotiation.take_offer(phone("RTP/AVP", "").as_bytes()).unwrap();
    let other = negotiation.answer(AudioCodec::Opus).unwrap_err();
    assert!(matches!(other, MediaRefusal::NoCommonCodec { .. }));
    // The offer can still be answered in what the phone has.
    negotiation.answer(AudioCodec::Pcma).unwrap();
}

#[test]
fn video_is_refused_in_its_place() {
    let mut negotiation = negotiation(Security::Accepted);
    let offer = "v=0\r\nc=IN IP4 192.0.2.2\r\nm=video 4002 RTP/AVP 97 98\r\nm=audio 4000 RTP/AVP 8\r\nm=audio 4004 RTP/AVP 0\r\n";
    negotiation.take_offer(offer.as_bytes()).unwrap();
    let answer = negotiation.answer(AudioCodec::Pcma).unwrap();
    let sections: Vec<&str> = answer.lines().filter(|line| line.starts_with("m=")).collect();
    assert_eq!(sections, ["m=video 0 RTP/AVP 97 98", "m=audio 16384 RTP/AVP 8", "m=audio 0 RTP/AVP 0"]);
    // A later offer of ours keeps the places.
    let hold = negotiation.hold(true).unwrap();
    assert_eq!(hold.lines().filter(|line| line.starts_with("m=")).count(), 3);
}

#[test]
fn a_phone_holds_and_goes_on() {
    let mut negotiation = negotiation(Security::Accepted);
    negotiation.take_offer(phone("RTP/AVP", "").as_bytes()).unwrap();
    let first = negotiation.answer(AudioCodec::Pcmu).unwrap();
    let version = |sdp: &str| sdp.lines().nth(1).and_then(|line| line.split(' ').nth(2)).unwrap().parse::<u64>().unwrap();
    let mut last = version(&first);
    for (line, ours, hold) in [
        ("a=sendonly", "a=recvonly", Hold::Held),
        ("a=inactive", "a=inactive", Hold::Inactive),
        ("a=recvonly", "a=sendonly", Hold::Active),
        ("a=sendrecv", "a=sendrecv", Hold::Active),
        ("c=IN IP4 0.0.0.0", "a=recvonly", Hold::Held),
        ("", "a=sendrecv", Hold::Active),
    ] {
        let answer = negotiation.reanswer(phone("RTP/AVP", &format!("{line}\r\n")).as_bytes()).unwrap();
        assert!(has(&answer.sdp, ours) && answer.hold == hold, "{line}: {}", answer.sdp);
        assert_eq!(version(&answer.sdp), last + 1, "{line}: something has changed");
        last += 1;
    }
    let again = negotiation.reanswer(phone("RTP/AVP", "").as_bytes()).unwrap();
    assert_eq!(version(&again.sdp), last, "a refresh changes nothing");
    // A phone that has lost the codec keeps what was agreed on.
    let before = negotiation.agreed().cloned();
    let other = phone("RTP/AVP", "").replace("RTP/AVP 0 8", "RTP/AVP 8");
    assert!(matches!(negotiation.reanswer(other.as_bytes()), Err(MediaRefusal::NoCommonCodec { .. })));
    assert_eq!(negotiation.agreed().cloned(), before);
    // It has moved.
    let moved = phone("RTP/AVP", "").replace("192.0.2.2", "192.0.2.77").replace("4000", "4100");
    negotiation.reanswer(moved.as_bytes()).unwrap();
    assert_eq!(negotiation.agreed().unwrap().media_to, Some("192.0.2.77:4100".parse().unwrap()));
}

#[test]
fn we_hold_the_phone() {
    let mut negotiation = negotiation(Security::Accepted);
    assert_eq!(negotiation.hold(true), Err(MediaRefusal::NothingToAnswer));
    negotiation.take_offer(phone("RTP/AVP", "").as_bytes()).unwrap();
    negotiation.answer(AudioCodec::Pcmu).unwrap();
    assert!(has(&negotiation.hold(true).unwrap(), "a=sendonly"));
    negotiation.take_answer(phone("RTP/AVP", "a=recvonly\r\n").as_bytes()).unwrap();
    assert_eq!(negotiation.agreed().unwrap().direction, Direction::RecvOnly);
    assert!(has(&negotiation.hold(false).unwrap(), "a=sendrecv"));
    negotiation.take_answer(phone("RTP/AVP", "").as_bytes()).unwrap();
    assert_eq!(negotiation.agreed().unwrap().hold(), Hold::Active);
}

#[test]
fn keys_are_exchanged_where_they_are_offered() {
    let crypto = format!("a=crypto:3 AES_CM_128_HMAC_SHA1_32 inline:{KEY}|2^48\r\n");
    for transport in ["RTP/SAVP", "RTP/AVP"] {
        let mut negotiation = negotiation(Security::Accepted);
        let offer = negotiation.take_offer(phone(transport, &crypto).as_bytes()).unwrap();
        assert!(offer.is_secure);
        let answer = negotiation.answer(AudioCodec::Pcmu).unwrap();
        assert!(has(&answer, &format!("m=audio 16384 {transport} 0 101")), "{answer}");
        assert!(answer.contains("a=crypto:3 AES_CM_128_HMAC_SHA1_32 inline:") && !answer.contains(KEY), "{answer}");
        assert_eq!(answer.matches("a=crypto").count(), 1);
        let keys = negotiation.agreed().unwrap().keys.clone().unwrap();
        assert_ne!(keys.to_phone, keys.from_phone);
        // Our key stays for as long as the call.
        negotiation.reanswer(phone(transport, &crypto).as_bytes()).unwrap();
        assert_eq!(negotiation.agreed().unwrap().keys.as_ref(), Some(&keys));
    }
    let mut off = negotiation(Security::Off);
    assert!(matches!(off.take_offer(phone("RTP/SAVP", &crypto).as_bytes()), Err(MediaRefusal::SecurityUnusable(_))));
    assert!(!off.take_offer(phone("RTP/AVP", &crypto).as_bytes()).unwrap().is_secure);
    let mut required = negotiation(Security::Required);
    assert_eq!(required.take_offer(phone("RTP/AVP", "").as_bytes()), Err(MediaRefusal::NotSecure));
    assert!(matches!(required.take_offer(phone("RTP/SAVP", "").as_bytes()), Err(MediaRefusal::SecurityUnusable(_))));
    assert!(required.take_offer(phone("RTP/SAVP", &crypto).as_bytes()).unwrap().is_secure);
}

#[test]
fn where_media_must_be_encrypted_the_answer_has_to_agree() {
    let mut negotiation = negotiation(Security::Required);
    let offer = negotiation.offer(&[AudioCodec::Pcmu]).unwrap();
    assert!(has(&offer, "m=audio 16384 RTP/SAVP 0 101"), "{offer}");
    assert_eq!(offer.matches("a=crypto").count(), 4);
    let answer = |tag: u32| phone("RTP/SAVP", &format!("a=crypto:{tag} AES_CM_128_HMAC_SHA1_80 inline:{KEY}\r\n"));
    // A key for another suite than the one of that number.
    assert!(matches!(negotiation.take_answer(answer(1).as_bytes()), Err(MediaRefusal::SecurityUnusable(_))));
    negotiation.offer(&[AudioCodec::Pcmu]).unwrap();
    assert_eq!(negotiation.take_answer(phone("RTP/AVP", "").as_bytes()), Err(MediaRefusal::NotSecure));
    negotiation.offer(&[AudioCodec::Pcmu]).unwrap();
    negotiation.take_answer(answer(2).as_bytes()).unwrap();
    assert_eq!(negotiation.agreed().unwrap().keys.as_ref().unwrap().suite, Suite::Aes128Sha1Of80);
    // An offer within an encrypted call is encrypted.
    assert!(negotiation.hold(true).unwrap().contains("RTP/SAVP"));
}

#[test]
fn what_is_agreed_on_while_it_rings_is_agreed_on_again_with_the_answer() {
    let mut called = negotiation(Security::Accepted);
    called.offer(&[AudioCodec::Opus, AudioCodec::Pcmu]).unwrap();
    assert!(called.take_early_answer(b"nonsense").is_err(), "the offer stands all the same");
    assert_eq!(called.take_early_answer(phone("RTP/AVP", "a=sendonly\r\n").as_bytes()), Ok(AudioCodec::Pcmu));
    assert_eq!(called.agreed().unwrap().hold(), Hold::Held);
    assert_eq!(called.take_answer(phone("RTP/AVP", "").as_bytes()), Ok(AudioCodec::Pcmu));
    assert_eq!(called.agreed().unwrap().hold(), Hold::Active);
    assert_eq!(called.take_early_answer(phone("RTP/AVP", "").as_bytes()), Err(MediaRefusal::NothingToAnswer));

    let mut calling = negotiation(Security::Accepted);
    assert_eq!(calling.answer_early(AudioCodec::Pcmu), Err(MediaRefusal::NothingToAnswer));
    calling.take_offer(phone("RTP/AVP", "").as_bytes()).unwrap();
    let early = calling.answer_early(AudioCodec::Pcmu).unwrap();
    assert_eq!(calling.answer(AudioCodec::Pcmu).unwrap(), early, "the same words");
    assert_eq!(calling.answer(AudioCodec::Pcmu), Err(MediaRefusal::NothingToAnswer));
}
