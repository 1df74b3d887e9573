//! Packets and reports.

use proptest::prelude::*;

use super::*;

#[test]
fn a_packet_is_read_as_it_was_written() {
    let header = Header {
        payload_type: 96,
        marker: true,
        sequence: 65_535,
        timestamp: 7,
        ssrc: 0xDEAD_BEEF,
        payload_at: 12,
        is_padded: false,
    };
    let mut packet = vec![1, 2, 3];
    header.write(b"audio", &mut packet);
    assert_eq!(Header::parse(&packet), Some(header.clone()));
    assert_eq!(&packet[header.payload(&packet).unwrap()], b"audio");
    assert_eq!(kind(&packet), Kind::Rtp);
}

#[test]
fn lists_extensions_and_padding_are_no_payload() {
    let mut packet = vec![0xB1, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3];
    packet.extend_from_slice(&[0, 0, 0, 9, 0xBE, 0xDE, 0, 1, 1, 2, 3, 4]);
    packet.extend_from_slice(b"payload\x00\x00\x03");
    let header = Header::parse(&packet).unwrap();
    assert_eq!((header.payload_at, header.is_padded), (24, true));
    assert_eq!(&packet[header.payload(&packet).unwrap()], b"payload");
    for spoilt in [200, 0] {
        *packet.last_mut().unwrap() = spoilt;
        assert_eq!(header.payload(&packet), None, "padding of {spoilt}");
    }
    assert_eq!(Header::parse(&packet[..20]), None, "the extension is cut");
    assert_eq!(Header::parse(&[0x40; 20]), None, "another version");
    assert_eq!(Header::parse(&vec![0x80; PACKET_BYTES_MAX + 1]), None);
}

#[test]
fn reports_tell_loss_and_the_round_trip() {
    let begun = Instant::now();
    let at = |ms: u64| begun + Duration::from_millis(ms);
    let mut reception = Reception::default();
    for number in [10, 11, 13, 12, 15] {
        reception.count(number, number * 160, 8_000, at(number * 20));
    }
    assert_eq!((reception.received(), reception.lost()), (5, 1));
    let now = NtpTime::from_unix(Duration::from_millis(1_700_000_000_500));
    let block = reception.report(0xABCD, 15, Some((at(0), now.middle())), at(250));
    assert_eq!((block.fraction_lost, block.lost, block.since_last_report), (42, 1, 16_384));
    let mut packet = Vec::new();
    let sent = Sent { packets: 7, bytes: 1_120, timestamp: 99 };
    write_reports(1, now, Some(sent), Some(block), true, &mut packet);
    assert_eq!(kind(&packet), Kind::Rtcp);
    let reports = Reports::parse(&packet).unwrap();
    assert_eq!((reports.sender, &reports.blocks[..], reports.is_bye), (Some((1, now.middle())), &[block][..], true));
    let later = NtpTime::from_unix(Duration::from_millis(1_700_000_000_800));
    let round_trip = block.round_trip(later).unwrap();
    assert!(round_trip.as_millis().abs_diff(50) <= 1, "{round_trip:?}");
    let earlier = NtpTime::from_unix(Duration::from_millis(1_700_000_000_000));
    assert_eq!(block.round_trip(earlier), None, "a clock that went back");
    write_reports(1, now, None, None, false, &mut packet);
    let empty = Reports::parse(&packet).unwrap();
    assert_eq!((empty.sender, empty.blocks.len(), empty.is_bye), (None, 0, false));
    // Nothing was lost since.
    assert_eq!(reception.report(0xABCD, 15, None, at(300)).fraction_lost, 0);
}

#[test]
fn datagrams_are_told_apart() {
    assert_eq!(kind(&[0, 1, 0, 0, 0x21, 0x12, 0xA4, 0x42]), Kind::Stun);
    assert_eq!(kind(b"\r\n\r\n"), Kind::Other);
    assert_eq!(kind(&[0x80]), Kind::Other);
    assert_eq!(kind(&[0x80, 0xE0]), Kind::Rtp);
    assert_eq!(kind(&[0x81, 201]), Kind::Rtcp);
}

proptest! {
    #[test]
    fn anything_is_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Some(header) = Header::parse(&bytes) {
            prop_assert!(header.payload(&bytes).is_none_or(|payload| payload.end <= bytes.len()));
        }
        let _ = Reports::parse(&bytes);
    }
}
