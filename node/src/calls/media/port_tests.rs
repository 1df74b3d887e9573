//! Two ends in one process over loopback sockets, with audio that passes through, and with G.711.

use std::sync::Arc;
use std::time::Instant;

use super::port::{AudioEvent, AudioFormat, AudioLink, AudioPacket, AudioPort, AudioRefused};
use super::tests::{EVENT_DEADLINE, call, config};
use super::tone::{dominant_frequency, level_db, write_tone};
use super::*;

async fn next(port: &mut AudioPort) -> AudioEvent {
    let event = tokio::time::timeout(EVENT_DEADLINE, port.next()).await;
    event.expect("an event in time").expect("the call goes on")
}

async fn connected(port: &mut AudioPort) -> AudioCodec {
    let AudioEvent::Agreed(agreed) = next(port).await else { panic!("nothing agreed on") };
    assert!(agreed.has_events);
    assert_eq!(next(port).await, AudioEvent::Connected);
    agreed.codec
}

fn packet(index: u64, format: AudioFormat) -> AudioPacket {
    let length = if format == AudioFormat::Audio { 160 } else { 4 };
    let payload: Arc<[u8]> = (0..length).map(|place| (place * 7 + index) as u8).collect();
    AudioPacket {
        format,
        sequence: 70_000 + index,
        timestamp: 9_000_000 + index * 160,
        marker: index == 0,
        payload,
        arrived: Instant::now(),
    }
}

fn through(link: AudioLink, codecs: &[AudioCodec]) -> MediaConfig {
    config().passthrough(Some(link), codecs)
}

#[tokio::test]
async fn packets_pass_as_they_are_in_every_codec() {
    for codec in AudioCodec::ALL {
        let ((link_a, mut a), (link_b, mut b)) = (AudioLink::new(), AudioLink::new());
        let all = [&[codec][..], &AudioCodec::ALL].concat();
        let (caller, callee) = call(through(link_a, &all), through(link_b, &[codec])).await;
        a.send(packet(99, AudioFormat::Audio)).unwrap();
        caller.start();
        callee.start();
        assert_eq!((connected(&mut a).await, connected(&mut b).await), (codec, codec));
        let mut first = None;
        // Some are lost before they come here, and a key is pressed among them.
        for index in (0..40).filter(|index| index % 10 != 5) {
            let format = if index % 10 == 7 { AudioFormat::TelephoneEvent } else { AudioFormat::Audio };
            let sent = packet(index, format);
            a.send(sent.clone()).unwrap();
            let AudioEvent::Packet(came) = next(&mut b).await else { panic!("{codec}: no packet") };
            assert_eq!((came.format, &came.payload), (format, &sent.payload), "{codec}");
            let (sequence, timestamp) = *first.get_or_insert((came.sequence, came.timestamp));
            assert_eq!((came.sequence - sequence, came.timestamp - timestamp), (index, index * 160), "{codec}");
        }
        b.send(packet(1, AudioFormat::Audio)).unwrap();
        assert!(matches!(next(&mut a).await, AudioEvent::Packet(came) if came.payload == packet(1, AudioFormat::Audio).payload));
        let stats = callee.close().await.stats;
        assert_eq!((stats.codec, stats.packets_received, stats.packets_lost), (Some(codec), 36, 4), "{codec}");
        assert_eq!(next(&mut b).await, AudioEvent::Ended);
        assert_eq!((b.next().await, b.send(packet(1, AudioFormat::Audio))), (None, Err(AudioRefused::Ended)));
        drop(caller);
    }
}

#[tokio::test]
async fn an_end_that_encodes_is_heard_in_g711_by_another_and_by_one_that_passes_it_through() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    write_tone(file("440.wav"), 440.0, Duration::from_secs(2), 48_000).unwrap();
    for codec in [AudioCodec::Pcmu, AudioCodec::Pcma] {
        let narrow = MediaConfig { codecs: vec![codec], ..config() };
        let (caller, mut callee) = call(narrow.play(file("440.wav")), config().record(file("heard.wav"))).await;
        caller.start();
        callee.start();
        // The caller's file has come to its end when it takes leave.
        let mut caller = caller;
        while !matches!(caller.next_event().await.expect("it goes on"), MediaEvent::PlaybackFinished) {}
        let (caller, callee) = {
            let callee_summary = {
                callee.next_event().await;
                callee.close().await
            };
            (caller.close().await, callee_summary)
        };
        assert_eq!((caller.stats.codec, callee.stats.codec), (Some(codec), Some(codec)));
        // By another clock than the codec's the jitter would be seconds; what a busy machine makes of it is no fault.
        assert!(callee.stats.packets_received > 90 && callee.stats.jitter_ms < 250.0, "{:?}", callee.stats);
        let mut reader = hound::WavReader::open(file("heard.wav")).unwrap();
        let samples: Vec<i16> = reader.samples().map(Result::unwrap).collect();
        let found = dominant_frequency(&samples, 48_000).unwrap();
        assert!((found - 440.0).abs() < 2.0 && level_db(&samples, 48_000, 440.0) > -10.0, "{codec}: {found} Hz");
    }
}

#[tokio::test]
async fn opus_is_used_where_nobody_says_otherwise_and_old_ends_have_it_alone() {
    let opus_only = || MediaConfig { codecs: vec![AudioCodec::Opus], ..config() };
    for (caller, callee) in [(config(), config()), (opus_only(), config()), (config(), opus_only())] {
        let (caller, callee) = call(caller, callee).await;
        let (caller, callee) = (caller.close().await, callee.close().await);
        assert_eq!((caller.stats.codec, callee.stats.codec), (Some(AudioCodec::Opus), Some(AudioCodec::Opus)));
    }
    let (pending, sdp) = offer(config()).await.unwrap();
    assert_eq!(codecs::offered(&sdp), codecs::OWN);
    assert!(sdp.len() < 1_500, "{} bytes, and an invite has room for 1,500", sdp.len());
    drop(pending);
}

#[tokio::test]
async fn ends_without_a_codec_in_common_say_so() {
    let (pending, sdp) = offer(config()).await.unwrap();
    let (link, mut port) = AudioLink::new();
    let refusal = answer(through(link, &[AudioCodec::G722]), &sdp).await.map(|_| ()).unwrap_err();
    assert!(matches!(&refusal, MediaError::NoCommonCodec { able, .. } if able == &[AudioCodec::G722]), "{refusal}");
    assert_eq!(port.next().await, None, "nothing holds it any more");
    drop(pending);
}

#[tokio::test]
async fn audio_passes_through_an_offer_that_is_met_again() {
    let ((link_a, mut a), (link_b, mut b)) = (AudioLink::new(), AudioLink::new());
    let (pending, offer) = offer(through(link_a, &[AudioCodec::Pcma, AudioCodec::Pcmu])).await.unwrap();
    let spare = pending.spare();
    drop(pending);
    let (callee, answer) = answer(through(link_b, &[AudioCodec::Pcmu]), &offer).await.unwrap();
    let mut caller = spare.accept(&answer).await.unwrap();
    caller.start();
    callee.start();
    let trickled = async {
        loop {
            match caller.next_event().await.expect("it goes on") {
                MediaEvent::LocalCandidate(candidate) => callee.add_remote_candidate(&candidate).unwrap(),
                MediaEvent::Connected(_) => break,
                _ => {}
            }
        }
    };
    tokio::time::timeout(EVENT_DEADLINE, trickled).await.expect("it connects");
    assert_eq!((connected(&mut a).await, connected(&mut b).await), (AudioCodec::Pcmu, AudioCodec::Pcmu));
    a.send(packet(1, AudioFormat::Audio)).unwrap();
    assert!(matches!(next(&mut b).await, AudioEvent::Packet(_)));
}
