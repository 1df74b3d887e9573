//! Two ends in one process over loopback sockets, in real time.

use std::time::Instant;

use super::{
    tone::{dominant_frequency, level_db, write_tone},
    *,
};

/// No event of a healthy session takes longer.
const EVENT_DEADLINE: Duration = Duration::from_secs(10);

fn config() -> MediaConfig {
    MediaConfig::default().lab(true).bind(["127.0.0.1".parse().unwrap()])
}

async fn event(session: &mut MediaSession) -> MediaEvent {
    let event = tokio::time::timeout(EVENT_DEADLINE, session.next_event()).await;
    event.expect("an event in time").expect("the session runs")
}

async fn connected(session: &mut MediaSession) -> MediaPath {
    match event(session).await {
        MediaEvent::Connected(path) => path,
        other => panic!("{other:?} instead of a connection"),
    }
}

async fn call(caller: MediaConfig, callee: MediaConfig) -> (MediaSession, MediaSession) {
    let (pending, offer) = offer(caller).await.unwrap();
    let (mut callee, answer) = answer(callee, &offer).await.unwrap();
    let mut caller = pending.accept(&answer).unwrap();
    let (a, b) = (connected(&mut caller).await, connected(&mut callee).await);
    assert_eq!((a.local, a.remote), (b.remote, b.local));
    (caller, callee)
}

fn read(path: &Path) -> Vec<i16> {
    let mut reader = hound::WavReader::open(path).unwrap();
    assert_eq!((reader.spec().channels, reader.spec().sample_rate), (1, 48_000));
    reader.samples().map(Result::unwrap).collect()
}

#[tokio::test]
async fn both_ends_hear_exactly_the_other() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    let length = Duration::from_secs(2);
    write_tone(file("440.wav"), 440.0, length, 48_000).unwrap();
    write_tone(file("660.wav"), 660.0, length, 16_000).unwrap();

    let (mut caller, mut callee) = call(
        config().play(file("440.wav")).record(file("caller.wav")),
        config().play(file("660.wav")).record(file("callee.wav")),
    )
    .await;
    caller.start();
    callee.start();
    assert!(matches!(event(&mut caller).await, MediaEvent::PlaybackFinished));
    assert!(matches!(event(&mut callee).await, MediaEvent::PlaybackFinished));
    let caller = caller.close().await;
    let callee = callee.close().await;

    for (summary, name, heard, own) in [(&caller, "caller.wav", 660.0, 440.0), (&callee, "callee.wav", 440.0, 660.0)] {
        assert_eq!(summary.failure, None, "{name}");
        let samples = read(&file(name));
        assert_eq!(samples.len() as u64, summary.recorded_ms * 48, "{name}");
        assert!(summary.recorded_ms >= 1_900, "{name}: {} ms", summary.recorded_ms);
        let found = dominant_frequency(&samples, 48_000).unwrap();
        assert!((found - heard).abs() < 2.0, "{name}: {found} Hz");
        assert!(level_db(&samples, 48_000, heard) > -10.0, "{name}");
        assert!(level_db(&samples, 48_000, own) < -40.0, "{name}");

        let stats = &summary.stats;
        assert!(stats.packets_sent >= 95, "{stats:?}");
        assert!(stats.packets_received >= 90, "{stats:?}");
        assert!(stats.loss < 0.02, "{stats:?}");
        assert!(stats.rtt_ms.is_some_and(|rtt| rtt < 1_000.0), "{stats:?}");
        assert_eq!(stats.path.unwrap().kind, PathKind::Direct);
    }
}
