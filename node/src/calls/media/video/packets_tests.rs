use proptest::prelude::*;

use super::*;

fn cut_and_joined(codec: VideoCodec, frame: &[u8]) -> Option<Vec<u8>> {
    let packets = cut(codec, frame);
    assert!(packets.iter().all(|packet| packet.len() <= PAYLOAD_MAX));
    join(codec, packets.iter().map(Vec::as_slice))
}

fn annex_b(units: &[&[u8]]) -> Vec<u8> {
    units.iter().flat_map(|unit| [&START_CODE, *unit].concat()).collect()
}

#[test]
fn vp8_frames_come_back_as_they_were() {
    for length in [1, 2, PAYLOAD_MAX - 1, PAYLOAD_MAX, PAYLOAD_MAX + 1, 100_000] {
        let frame: Vec<u8> = (0..length).map(|index| (index % 251) as u8 & 0xFE).collect();
        assert_eq!(cut_and_joined(VideoCodec::Vp8, &frame).as_ref(), Some(&frame));
        let packets = cut(VideoCodec::Vp8, &frame);
        assert!(begins_key_frame(VideoCodec::Vp8, &packets[0]), "its lowest bit is 0");
        assert!(packets[1..].iter().all(|packet| !begins_key_frame(VideoCodec::Vp8, packet)));
    }
    assert!(!is_key_frame(VideoCodec::Vp8, &[0x31, 0, 0]));
}

#[test]
fn vp8_descriptors_of_others_are_read() {
    // Extended with every field; the number of the picture in two bytes.
    let full = [0x90, 0xF0, 0x81, 0x02, 7, 0x20, 0xAA, 0xBB];
    let short = [0x80, 0x80, 0x03, 0xCC];
    assert_eq!(join(VideoCodec::Vp8, [&full[..], &short[..]].into_iter()), Some(vec![0xAA, 0xBB, 0xCC]));
    assert!(begins_key_frame(VideoCodec::Vp8, &full));
    assert_eq!(join(VideoCodec::Vp8, [&short[..]].into_iter()), None, "it doesn't begin");
    for cut_off in 0..6 {
        assert_eq!(join(VideoCodec::Vp8, [&full[..cut_off]].into_iter()), None);
    }
}

#[test]
fn h264_pictures_come_back_unit_by_unit() {
    let (sequence, picture, slice) = ([0x67, 0x42, 0xE0, 0x1F, 1], [0x68, 0xCE, 0x38, 0x80], vec![0x65; 5_000]);
    let with_delimiter = annex_b(&[&[0x09, 0xF0], &sequence, &picture, &slice]);
    let expected = annex_b(&[&sequence, &picture, &slice]);
    let packets = cut(VideoCodec::H264, &with_delimiter);
    assert_eq!(cut_and_joined(VideoCodec::H264, &with_delimiter), Some(expected));
    assert_eq!(unit_type(&packets[0]), Some(AGGREGATE));
    assert!(begins_key_frame(VideoCodec::H264, &packets[0]));
    assert!(!begins_key_frame(VideoCodec::H264, &packets[1]));
    assert!(is_key_frame(VideoCodec::H264, &with_delimiter));
    let inter = annex_b(&[&[0x41, 0x9A, 1, 2, 3]]);
    assert_eq!(cut_and_joined(VideoCodec::H264, &inter), Some(inter.clone()));
    assert!(!is_key_frame(VideoCodec::H264, &inter));
}

#[test]
fn a_part_of_a_unit_makes_no_picture() {
    let packets = cut(VideoCodec::H264, &annex_b(&[&[0x65; 5_000]]));
    assert!(packets.len() > 3);
    let joined = |packets: &[Vec<u8>]| join(VideoCodec::H264, packets.iter().map(Vec::as_slice));
    assert_eq!(joined(&packets[1..]), None);
    assert_eq!(joined(&packets[..packets.len() - 1]), None);
}

#[test]
fn units_are_found_whatever_stands_between_them() {
    let stream = [0, 0, 0, 1, 0x67, 1, 0, 0, 1, 0x68, 2, 0, 0, 0, 0, 1, 0, 0, 1, 0x65, 3];
    assert_eq!(units(&stream).collect::<Vec<_>>(), [&[0x67, 1][..], &[0x68, 2], &[0x65, 3]]);
    assert_eq!(units(&[1, 2, 3]).count(), 0);
    assert_eq!(units(&[]).count(), 0);
}

proptest! {
    #[test]
    fn whatever_comes_is_survived(payloads in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..8)) {
        for codec in [VideoCodec::Vp8, VideoCodec::H264] {
            let _ = join(codec, payloads.iter().map(Vec::as_slice));
            for payload in &payloads {
                let _ = begins_key_frame(codec, payload);
                let _ = cut(codec, payload);
                let _ = is_key_frame(codec, payload);
            }
        }
    }

    #[test]
    fn any_units_come_back(bodies in proptest::collection::vec((1_u8..6, 1..3_000_usize), 1..5)) {
        let units: Vec<Vec<u8>> = bodies.iter().map(|(kind, length)| {
            let body = (0..*length).map(|index| (index % 255) as u8 + 1);
            std::iter::once(*kind | 0x60).chain(body).collect()
        }).collect();
        let frame = annex_b(&units.iter().map(Vec::as_slice).collect::<Vec<_>>());
        prop_assert_eq!(cut_and_joined(VideoCodec::H264, &frame), Some(frame));
    }
}
