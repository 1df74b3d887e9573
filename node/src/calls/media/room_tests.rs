//! Several legs in one room: what each sends, and what is recorded of all.

use std::time::{Duration, Instant};

use super::*;
use crate::calls::media::audio::SAMPLE_RATE;
use crate::calls::media::tone::{level_db, tone};

fn frames(frequency_hz: f64, count: usize) -> Vec<Vec<i16>> {
    let samples: Vec<i16> = tone(frequency_hz, Duration::from_secs(20), SAMPLE_RATE).collect();
    samples.chunks_exact(FRAME_SAMPLES).take(count).map(<[i16]>::to_vec).collect()
}

fn recording(path: &std::path::Path) -> Vec<i16> {
    let mut reader = hound::WavReader::open(path).expect("recorded");
    reader.samples::<i16>().map(|sample| sample.expect("whole")).collect()
}

#[tokio::test]
async fn both_voices_are_recorded_and_each_leg_sends_the_same_bytes() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("heard.wav");
    let room = Room::new(None, Some(path.clone()));
    // The second leg's frames are due 7 ms after the first one's.
    let (mut at, phase) = (Instant::now(), Duration::from_millis(7));
    let (mut one, mut other) = (room.enter(at, AudioCodec::Opus).unwrap(), room.enter(at + phase, AudioCodec::Opus).unwrap());
    for (left, right) in frames(440.0, 100).iter().zip(&frames(660.0, 100)) {
        let (first, second) = (one.turn(at, left).expect("a turn"), other.turn(at + phase, right).expect("a turn"));
        at += FRAME_DURATION;
        assert_eq!(first.payload, second.payload, "encoded once");
        assert!(first.payload.is_some());
    }
    assert_eq!(one.leave().await.expect("left"), 100 * FRAME_SAMPLES as u64);
    assert_eq!(other.leave().await.expect("left"), 100 * FRAME_SAMPLES as u64);
    let heard = recording(&path);
    assert_eq!(heard.len(), 100 * FRAME_SAMPLES);
    for hertz in [440.0, 660.0] {
        assert!(level_db(&heard, SAMPLE_RATE, hertz) > -8.0, "{hertz}: {}", level_db(&heard, SAMPLE_RATE, hertz));
    }
}

#[tokio::test]
async fn one_voice_alone_is_recorded_as_it_was() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("heard.wav");
    let mut at = Instant::now();
    let mut seat = Room::new(None, Some(path.clone())).enter(at, AudioCodec::Opus).unwrap();
    let said = frames(440.0, 20);
    for frame in &said {
        seat.turn(at, frame).expect("a turn");
        at += FRAME_DURATION;
    }
    seat.leave().await.expect("left");
    assert_eq!(recording(&path), said.concat());
}

#[tokio::test]
async fn a_leg_that_is_held_up_catches_up_and_is_recorded_where_it_belongs() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("heard.wav");
    let room = Room::new(None, Some(path.clone()));
    let start = Instant::now();
    let due = |number: usize| start + FRAME_DURATION * u32::try_from(number).expect("few");
    let (mut quick, mut slow) = (room.enter(start, AudioCodec::Opus).unwrap(), room.enter(start, AudioCodec::Opus).unwrap());
    let silent = silence();
    let said = frames(440.0, 50);
    let sent: Vec<_> = (0..50).map(|number| quick.turn(due(number), &silent).expect("a turn").payload).collect();
    for (number, frame) in said.iter().enumerate() {
        let payload = slow.turn(due(number), frame).expect("a turn").payload;
        assert_eq!(payload, sent[number], "what the first has sent at that time");
    }
    quick.leave().await.expect("left");
    slow.leave().await.expect("left");
    assert_eq!(recording(&path), said.concat(), "as long as it took, and no longer");
}

#[tokio::test]
async fn a_leg_that_stands_still_holds_nobody_up_and_nothing_grows() {
    let room = Room::new(None, None);
    let start = Instant::now();
    let due = |number: u32| start + FRAME_DURATION * number;
    let (mut quick, mut still) = (room.enter(start, AudioCodec::Opus).unwrap(), room.enter(start, AudioCodec::Opus).unwrap());
    let silent = silence();
    for number in 0..300 {
        quick.turn(due(number), &silent).expect("a turn");
    }
    assert!(room.lock().heard.len() <= BEHIND_MAX && room.lock().sent.len() <= BEHIND_MAX);
    let late = still.turn(due(1), &silent).expect("a turn").payload;
    let same = still.turn(due(299), &silent).expect("a turn").payload;
    assert!(late.is_some() && same == quick.turn(due(299), &silent).expect("a turn").payload);
    // After a time in which nobody was there it goes on with what is due.
    quick.turn(due(100_000), &silent).expect("a turn");
    assert!(room.lock().sent.len() == 1 && room.lock().heard.len() <= 1);
}

#[tokio::test]
async fn a_recording_goes_on_when_somebody_comes_after_the_last_has_gone() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("heard.wav");
    let room = Room::new(None, Some(path.clone()));
    let mut at = Instant::now();
    for hertz in [440.0, 660.0] {
        // A minute later, of which nothing is recorded.
        at += Duration::from_secs(60);
        let mut seat = room.enter(at, AudioCodec::Opus).unwrap();
        for frame in frames(hertz, 50) {
            seat.turn(at, &frame).expect("a turn");
            at += FRAME_DURATION;
        }
        seat.leave().await.expect("left");
    }
    let heard = recording(&path);
    assert_eq!(heard.len(), 100 * FRAME_SAMPLES);
    let (first, second) = heard.split_at(50 * FRAME_SAMPLES);
    assert!(level_db(first, SAMPLE_RATE, 440.0) > -8.0 && level_db(second, SAMPLE_RATE, 660.0) > -8.0);
}

#[test]
fn seven_loud_voices_do_not_clip_and_loudness_comes_back() {
    let mut limiter = Limiter::default();
    let loud: Vec<i32> = (0..FRAME_SAMPLES).map(|n| if n % 2 == 0 { 7 * 32_767 } else { -7 * 32_767 }).collect();
    let quiet = vec![1_000; FRAME_SAMPLES];
    let frame = limiter.apply(&loud);
    let peak = frame.iter().map(|sample| sample.unsigned_abs()).max();
    assert!(peak.is_some_and(|peak| (32_700..=32_767).contains(&peak)), "{peak:?}");
    let after = limiter.apply(&quiet);
    assert!(after[0] < after[FRAME_SAMPLES - 1], "no step");
    let last = (0..100).map(|_| limiter.apply(&quiet)).last().expect("some");
    assert_eq!(last.iter().copied().max(), Some(1_000));
}

#[tokio::test]
async fn a_leg_that_only_listens_is_recorded_and_what_it_says_later_begins_then() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("heard.wav");
    let mut at = Instant::now();
    let room = Room::new(None, Some(path.clone()));
    let mut seat = room.listen(at, AudioCodec::Opus).unwrap();
    let heard = frames(440.0, 40);
    let (before, after) = heard.split_at(30);
    for frame in before {
        seat.hear(at, frame);
        at += FRAME_DURATION;
    }
    seat.speak(at);
    assert_eq!(room.lock().sent_from, 30, "nothing of the time before is said");
    for frame in after {
        assert!(seat.turn(at, frame).expect("a turn").payload.is_some());
        at += FRAME_DURATION;
    }
    seat.leave().await.expect("left");
    assert_eq!(recording(&path), heard.concat());
}
