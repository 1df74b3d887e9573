use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// A packet of one 20 ms frame, CELT full band.
fn packet(length: usize, fill: u8) -> Vec<u8> {
    let mut packet = vec![fill; length.max(1)];
    packet[0] = 31 << 3;
    packet
}

fn recording_of(lengths: &[usize]) -> Recording {
    let packets: Vec<Vec<u8>> = lengths.iter().zip((0_u8..=255).cycle()).map(|(length, fill)| packet(*length, fill)).collect();
    let samples = packets.len() as u64 * 960 - 312 - 100;
    Recording::new(packets.iter().map(Vec::as_slice), 312, samples).expect("a recording")
}

fn file() -> Vec<u8> {
    ogg::write(&recording_of(&[60; 120]), "test").expect("it fits")
}

/// Checksums made right again, so that what is behind them is tried too.
fn mend(bytes: &mut [u8]) {
    let mut at = 0;
    while let Some(header) = bytes.get(at..at + 27).map(<[u8]>::to_vec) {
        let segments = usize::from(header[26]);
        let Some(lacing) = bytes.get(at + 27..at + 27 + segments) else { return };
        let end = at + 27 + segments + lacing.iter().map(|segment| usize::from(*segment)).sum::<usize>();
        let Some(page) = bytes.get_mut(at..end) else { return };
        page[22..26].fill(0);
        let sum = page.iter().fold(0_u32, |sum, byte| {
            (0..8).fold(sum ^ u32::from(*byte) << 24, |sum, _| if sum >> 31 == 0 { sum << 1 } else { sum << 1 ^ 0x04c1_1db7 })
        });
        page[22..26].copy_from_slice(&sum.to_le_bytes());
        at = end;
    }
}

#[test]
fn what_is_written_is_read() {
    let recording = recording_of(&[60; 120]);
    let bytes = ogg::write(&recording, "test").expect("it fits");
    let read = ogg::read(&bytes).expect("it is whole");
    assert_eq!(read, recording);
    assert_eq!((read.duration_ms(), read.packets().count(), read.channels()), (2_392, 120, 1));
    assert_eq!(recording.packets().map(<[u8]>::len).sum::<usize>(), 120 * 60);
}

#[test]
fn the_longest_recording_fits_at_the_rate_it_is_made_for_and_a_longer_one_does_not_count() {
    let lengths = vec![60; VOICEMAIL_MS_MAX as usize / 20];
    let recording = recording_of(&lengths);
    let bytes = ogg::write(&recording, "test").expect("three minutes at 24 kbit/s fit");
    assert!(bytes.len() <= VOICEMAIL_BYTES_MAX, "{}", bytes.len());
    assert_eq!(ogg::read(&bytes).as_ref(), Ok(&recording));

    let packets = vec![packet(3, 1); lengths.len() + 120];
    let samples = packets.len() as u64 * 960;
    assert_eq!(Recording::new(packets.iter().map(Vec::as_slice), 0, samples), Err(OggError::TooLong));
    assert_eq!(ogg::read(&vec![0; VOICEMAIL_BYTES_MAX + 1]), Err(OggError::TooLarge { bytes: VOICEMAIL_BYTES_MAX + 1 }));
}

#[test]
fn nothing_cut_short_is_taken() {
    let bytes = file();
    for length in 0..bytes.len() {
        let error = ogg::read(&bytes[..length]).expect_err("cut short");
        assert!(matches!(error, OggError::Truncated { .. }), "{length}: {error}");
    }
    let longer = [&bytes[..], b"OggS"].concat();
    assert_eq!(ogg::read(&longer), Err(OggError::Trailing { bytes: 4 }));
}

#[test]
fn no_byte_can_be_changed() {
    let bytes = file();
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 1 << (at % 8);
        assert!(ogg::read(&changed).is_err(), "byte {at}");
    }
}

#[test]
fn what_is_wrong_is_named() {
    let bytes = file();
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut changed = bytes.clone();
        change(&mut changed);
        mend(&mut changed);
        ogg::read(&changed).expect_err("not as it should be")
    };
    assert_eq!(with(&|bytes| bytes[0] = b'X'), OggError::NoPage { at: 0 });
    assert_eq!(with(&|bytes| bytes[5] = 0), OggError::Order { page: 0 });
    assert_eq!(with(&|bytes| bytes[28] = b'o'), OggError::Head);
    assert_eq!(with(&|bytes| bytes[28 + 9] = 3), OggError::Head, "three channels");
    let second = 27 + 1 + 19;
    assert_eq!(with(&|bytes| bytes[second + 18] = 7), OggError::Order { page: 1 });
    assert_eq!(with(&|bytes| bytes[second + 14] = 9), OggError::Order { page: 1 });
    assert_eq!(with(&|bytes| bytes[second + 28] = b'o'), OggError::Tags);
    assert_eq!(with(&|bytes| bytes[second + 28 + 8] = 200), OggError::Tags);
    let third = second + 27 + 1 + 20;
    assert_eq!(&bytes[third..third + 4], b"OggS");
    assert_eq!(with(&|bytes| bytes[third + 6] ^= 1), OggError::Position { page: 2 });
    // Three frames told by a packet of code 3 that has none.
    assert_eq!(with(&|bytes| bytes[third + 27 + 50..][..2].copy_from_slice(&[31 << 3 | 3, 0])), OggError::Packet { number: 0 });
    assert_eq!(Recording::new([], 0, 0), Err(OggError::Empty));
    assert_eq!(Recording::new([&[0xf8, 1][..]], 0, 961), Err(OggError::Position { page: 0 }));
}

#[test]
fn parts_make_the_recording_in_order_only_and_whole_only() {
    let lengths = vec![60; 3_000];
    let bytes = ogg::write(&recording_of(&lengths), "test").expect("it fits");
    let voicemail = Voicemail::of(&bytes, None, 59_992, Vec::new());
    let parts: Vec<VoicemailPart> = VoicemailPart::of(MessageId([1; 16]), &bytes).collect();
    assert_eq!(parts.len(), voicemail.part_count());
    assert!(parts.len() > 3, "{}", parts.len());
    for (index, part) in parts.iter().enumerate() {
        assert_eq!((usize::from(part.index), Some(part.bytes.len())), (index, voicemail.part_bytes(index)));
        part.check().expect("in range");
    }
    assert_eq!(voicemail.part_bytes(parts.len()), None);
    let pieces: Vec<&[u8]> = parts.iter().map(|part| part.bytes.as_slice()).collect();
    let (whole, recording) = assemble(&voicemail, pieces.iter().copied()).expect("all is there");
    assert_eq!((whole, recording.duration_ms()), (bytes.clone(), 59_992));

    let missing = assemble(&voicemail, pieces[1..].iter().copied()).expect_err("one is missing");
    assert!(matches!(missing, VoicemailError::Length { .. }), "{missing}");
    let mut swapped = pieces.clone();
    swapped.swap(0, 1);
    assert_eq!(assemble(&voicemail, swapped), Err(VoicemailError::Hash));
    let twice = pieces.iter().chain(&pieces[..1]).copied();
    assert!(matches!(assemble(&voicemail, twice), Err(VoicemailError::Length { .. })));
    let noise = Voicemail::of(b"not a recording", None, 1, Vec::new());
    let error = assemble(&noise, [&b"not a recording"[..]]).expect_err("noise");
    assert!(matches!(error, VoicemailError::Ogg(OggError::Truncated { .. })), "{error}");
}

#[test]
fn fields_out_of_range_are_refused() {
    let good = Voicemail::of(b"x", None, 1, vec![0; WAVEFORM_POINTS_MAX]);
    good.check().expect("in range");
    assert!(Voicemail { duration_ms: VOICEMAIL_MS_MAX + 1, ..good.clone() }.check().is_err());
    assert!(Voicemail { duration_ms: 0, ..good.clone() }.check().is_err());
    assert!(Voicemail { bytes: 0, ..good.clone() }.check().is_err());
    assert!(Voicemail { bytes: VOICEMAIL_BYTES_MAX as u32 + 1, ..good.clone() }.check().is_err());
    assert!(Voicemail { waveform: vec![0; WAVEFORM_POINTS_MAX + 1], ..good }.check().is_err());
    let part = |index, length| VoicemailPart {
        voicemail: MessageId([1; 16]),
        index,
        bytes: vec![0; length],
        extensions: Extensions::none(),
    };
    part(15, VOICEMAIL_PART_BYTES).check().expect("in range");
    for bad in [part(16, 1), part(0, 0), part(0, VOICEMAIL_PART_BYTES + 1)] {
        assert!(VoicemailSignal::Part(bad).check().is_err());
    }
}

proptest! {
    /// Whatever packets there are: what is written is read, and with it what was put in.
    #[test]
    fn writing_is_undone_by_reading(lengths in vec(1_usize..1_276, 1..120)) {
        let recording = recording_of(&lengths);
        let bytes = ogg::write(&recording, "test");
        prop_assert_eq!(bytes.and_then(|bytes| ogg::read(&bytes)), Ok(recording));
    }

    /// No bytes make the reader panic, with checksums that are wrong or right.
    #[test]
    fn no_bytes_make_the_reader_panic(
        mut bytes in vec(any::<u8>(), 0..2_000),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let _ = ogg::read(&bytes);
        mend(&mut bytes);
        let _ = ogg::read(&bytes);
        let mut changed = file();
        for (at, value) in changes {
            let at = at.index(changed.len());
            changed[at] = value;
        }
        mend(&mut changed);
        let _ = ogg::read(&changed);
        let end = cut.index(changed.len());
        let _ = ogg::read(&changed[..end]);
        let voicemail = Voicemail::of(&changed, None, 1, Vec::new());
        let _ = assemble(&voicemail, changed.chunks(VOICEMAIL_PART_BYTES));
    }

    /// Whatever is read is written the same, and has a length within bounds.
    #[test]
    fn packets_of_any_kind_are_taken_or_refused(packets in vec(vec(any::<u8>(), 0..80), 1..12), skip in 0_u16..4_000, samples in 0_u64..60_000) {
        let Ok(recording) = Recording::new(packets.iter().map(Vec::as_slice), skip, samples) else { return Ok(()) };
        prop_assert!(recording.duration_ms() <= VOICEMAIL_MS_MAX);
        let bytes = ogg::write(&recording, "test").expect("so few fit");
        prop_assert_eq!(ogg::read(&bytes), Ok(recording));
    }
}
