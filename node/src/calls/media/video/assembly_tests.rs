use super::*;

fn vp8(is_key: bool, length: usize) -> Vec<u8> {
    let mut frame: Vec<u8> = (0..length).map(|index| (index % 251) as u8).collect();
    frame[0] = if is_key { 0 } else { 1 };
    frame
}

/// The packets of frames of two packets each, at 30 a second; every tenth is a key frame.
fn stream(frames: usize) -> (Vec<Vec<u8>>, Vec<(u64, Part)>) {
    let (mut sent, mut packets_of_all) = (Vec::new(), Vec::new());
    for index in 0..frames {
        let frame = vp8(index % 10 == 0, packets::PAYLOAD_MAX + 100);
        let payloads = packets::cut(VideoCodec::Vp8, &frame);
        let last = payloads.len() - 1;
        for (place, payload) in payloads.into_iter().enumerate() {
            let part = Part {
                codec: VideoCodec::Vp8,
                ticks: 500 + index as u64 * 3_000,
                is_last: place == last,
                payload: payload.into(),
            };
            packets_of_all.push((packets_of_all.len() as u64, part));
        }
        sent.push(frame);
    }
    (sent, packets_of_all)
}

fn frames(assembly: &mut Assembly, now: Instant) -> Vec<VideoFrame> {
    let mut frames = Vec::new();
    while let Some(assembled) = assembly.poll(now) {
        if let Assembled::Frame(frame) = assembled {
            frames.push(frame);
        }
    }
    frames
}

#[test]
fn frames_come_out_whole_and_in_order_however_their_packets_come() {
    let (sent, packets) = stream(20);
    let now = Instant::now();
    let mut assembly = Assembly::default();
    let mut got = Vec::new();
    // Neighbours change places, and some come twice.
    for pair in packets.chunks(4) {
        for (number, part) in pair.iter().rev().chain(&pair[..1]) {
            assembly.insert(*number, part.clone());
            got.extend(frames(&mut assembly, now));
        }
    }
    assert_eq!(got.iter().map(|frame| frame.data.to_vec()).collect::<Vec<_>>(), sent);
    assert_eq!(got[1].at.as_micros(), 33_333);
    assert!(got[0].is_key && !got[1].is_key);
    assert_eq!((assembly.lost(), assembly.wake_at()), (0, None));
}

#[test]
fn what_is_lost_is_waited_for_and_then_a_key_frame_has_to_come() {
    let (sent, packets) = stream(30);
    let start = Instant::now();
    let mut assembly = Assembly::default();
    let mut got = Vec::new();
    // The sixth frame's second packet is lost.
    for (number, part) in packets.iter().filter(|(number, _)| *number != 11).take(16) {
        assembly.insert(*number, part.clone());
        got.extend(frames(&mut assembly, start));
    }
    assert_eq!(got.len(), 5);
    assert_eq!(assembly.wake_at(), Some(start + GAP_MAX));
    assert_eq!(assembly.poll(start + GAP_MAX - Duration::from_millis(1)), None);
    assert_eq!(assembly.poll(start + GAP_MAX), None, "nothing is there to ask for");
    assert_eq!((assembly.lost(), assembly.wake_at()), (1, None));
    let later = start + GAP_MAX;
    // What comes far too late is of no use, and the next frame has to be asked for.
    assembly.insert(11, packets[11].1.clone());
    assert_eq!(assembly.poll(later), None);
    assembly.insert(17, packets[17].1.clone());
    assert_eq!(assembly.poll(later), Some(Assembled::KeyFrameNeeded));
    assert_eq!(assembly.poll(later), None, "not asked again at once");
    assert_eq!(assembly.wake_at(), Some(later + ASK_AGAIN));
    assert_eq!(assembly.poll(later + ASK_AGAIN), Some(Assembled::KeyFrameNeeded));
    for (number, part) in &packets[18..] {
        assembly.insert(*number, part.clone());
        got.extend(frames(&mut assembly, later + ASK_AGAIN));
    }
    let expected: Vec<&Vec<u8>> = sent[..5].iter().chain(&sent[10..]).collect();
    assert_eq!(got.iter().map(|frame| frame.data.to_vec()).collect::<Vec<_>>().iter().collect::<Vec<_>>(), expected);
}

#[test]
fn a_packet_that_was_asked_for_again_closes_the_gap() {
    let (_, packets) = stream(4);
    let start = Instant::now();
    let mut assembly = Assembly::default();
    for (number, part) in packets.iter().filter(|(number, _)| *number != 1) {
        assembly.insert(*number, part.clone());
        assert_eq!(assembly.poll(start), None);
    }
    assembly.insert(1, packets[1].1.clone());
    assert_eq!(frames(&mut assembly, start + GAP_MAX / 2).len(), 4);
    assert_eq!((assembly.lost(), assembly.wake_at()), (0, None));
}

#[test]
fn a_gap_that_closes_before_a_frame_is_whole_leaves_nothing_to_wait_for() {
    let (_, packets) = stream(2);
    let start = Instant::now();
    let mut assembly = Assembly::default();
    for number in [0, 2, 1] {
        assembly.insert(number as u64, packets[number].1.clone());
        frames(&mut assembly, start);
    }
    assert_eq!(assembly.wake_at(), None, "the rest of the second frame is simply not there yet");
}

#[test]
fn no_more_is_kept_than_said() {
    let start = Instant::now();
    let mut assembly = Assembly::default();
    let part = |is_key: bool| Part {
        codec: VideoCodec::Vp8,
        ticks: 0,
        is_last: false,
        payload: packets::cut(VideoCodec::Vp8, &vp8(is_key, 1_000))[0].clone().into(),
    };
    for number in 0..20_000 {
        assembly.insert(number * 2, part(number == 0));
        while assembly.poll(start).is_some() {}
        assert!(assembly.parts.len() <= PACKETS_MAX && assembly.bytes <= BYTES_MAX);
    }
    assert!(assembly.parts.len() <= BEFORE_KEY_MAX + 1, "the one key frame was given up");
}
