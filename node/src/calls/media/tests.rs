//! Two ends in one process over loopback sockets, in real time.

use std::{
    net::{SocketAddr, UdpSocket},
    time::Instant,
};

use proptest::prelude::*;

use super::{
    tone::{dominant_frequency, level_db, write_tone},
    *,
};

/// No event of a healthy session takes longer.
pub(super) const EVENT_DEADLINE: Duration = Duration::from_secs(10);

pub(super) fn config() -> MediaConfig {
    MediaConfig::default().lab(true).bind(["127.0.0.1".parse().unwrap()])
}

/// The next event but for marks, which come where they come.
async fn event(session: &mut MediaSession) -> MediaEvent {
    loop {
        let event = tokio::time::timeout(EVENT_DEADLINE, session.next_event()).await;
        match event.expect("an event in time").expect("the session runs") {
            MediaEvent::IceConnected | MediaEvent::FirstAudio => {}
            event => return event,
        }
    }
}

async fn connected(session: &mut MediaSession) -> MediaPath {
    loop {
        match event(session).await {
            MediaEvent::Connected(path) => return path,
            // That one of several relays lends nothing is told beside.
            MediaEvent::RelayFailed(..) | MediaEvent::LocalCandidate(_) => {}
            other => panic!("{other:?} instead of a connection"),
        }
    }
}

pub(super) async fn call(caller: MediaConfig, callee: MediaConfig) -> (MediaSession, MediaSession) {
    let (pending, offer) = offer(caller).await.unwrap();
    let (mut callee, answer) = answer(callee, &offer).await.unwrap();
    let mut caller = pending.accept(&answer).await.unwrap();
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

#[tokio::test]
async fn nothing_is_heard_before_the_call_is_answered() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    write_tone(file("440.wav"), 440.0, Duration::from_secs(1), 48_000).unwrap();
    let (mut caller, callee) =
        call(config().play(file("440.wav")), config().play(file("440.wav")).record(file("callee.wav"))).await;
    // The caller speaks, the callee still rings: it neither sends nor records.
    caller.start();
    assert!(matches!(event(&mut caller).await, MediaEvent::PlaybackFinished));
    let callee = callee.close().await;
    let caller = caller.close().await;
    assert_eq!((callee.stats.packets_sent, caller.stats.packets_received), (0, 0));
    assert!(callee.stats.packets_received > 0);
    assert!(!file("callee.wav").exists());
}

/// Waits until `count` round trips have been measured: each is a report of the engine, half a second after the one before.
async fn reported(session: &MediaSession, count: usize) {
    let mut stats = session.watch_stats();
    for _ in 0..count {
        tokio::time::timeout(EVENT_DEADLINE, stats.changed()).await.expect("reports come").expect("the session runs");
    }
}

#[tokio::test]
async fn both_ends_may_be_connected_long_before_the_answer_and_no_audio_leaves() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    write_tone(file("440.wav"), 440.0, Duration::from_secs(2), 48_000).unwrap();
    write_tone(file("660.wav"), 660.0, Duration::from_secs(2), 48_000).unwrap();
    let (pending, sdp) = offer(config().play(file("440.wav")).record(file("caller.wav"))).await.unwrap();
    let (mut callee, sdp) = answer(config().early(true), &sdp).await.unwrap();
    let mut caller = pending.early().accept(&sdp).await.unwrap();
    for session in [&mut caller, &mut callee] {
        assert!(matches!(session.next_event().await, Some(MediaEvent::IceConnected)));
        assert!(matches!(session.next_event().await, Some(MediaEvent::Connected(_))));
    }
    reported(&caller, 2).await;
    reported(&callee, 2).await;
    for stats in [caller.stats(), callee.stats()] {
        assert_eq!((stats.packets_sent, stats.packets_received, stats.packets_early), (0, 0, 0), "{stats:?}");
    }
    // The callee's files are named when its person answers.
    callee.answered(Some(file("660.wav")), Some(file("callee.wav")));
    caller.start();
    callee.start();
    for session in [&mut caller, &mut callee] {
        assert!(matches!(session.next_event().await, Some(MediaEvent::FirstAudio)), "there is nothing left to connect");
        assert!(matches!(event(session).await, MediaEvent::PlaybackFinished));
    }
    for (session, name, heard) in [(caller, "caller.wav", 660.0), (callee, "callee.wav", 440.0)] {
        let summary = session.close().await;
        assert_eq!((summary.failure, summary.stats.packets_early), (None, 0), "{name}");
        let found = dominant_frequency(&read(&file(name)), 48_000).unwrap();
        assert!((found - heard).abs() < 2.0, "{name}: {found} Hz");
    }
}

#[tokio::test]
async fn what_is_sent_before_the_answer_is_not_kept() {
    let folder = tempfile::tempdir().unwrap();
    write_tone(folder.path().join("440.wav"), 440.0, Duration::from_secs(1), 48_000).unwrap();
    let (pending, sdp) = offer(config().play(folder.path().join("440.wav"))).await.unwrap();
    let (mut callee, sdp) = answer(config().early(true), &sdp).await.unwrap();
    let mut caller = pending.early().accept(&sdp).await.unwrap();
    connected(&mut caller).await;
    connected(&mut callee).await;
    // A caller that doesn't wait for the answer.
    caller.start();
    assert!(matches!(event(&mut caller).await, MediaEvent::PlaybackFinished));
    let callee = callee.close().await.stats;
    assert_eq!((callee.packets_sent, callee.packets_received), (0, 0), "{callee:?}");
    assert!(callee.packets_early > 0, "{callee:?}");
    caller.close().await;
}

#[tokio::test]
async fn an_offer_is_met_again_when_the_first_connection_came_to_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    write_tone(file("440.wav"), 440.0, Duration::from_secs(1), 48_000).unwrap();
    write_tone(file("660.wav"), 660.0, Duration::from_secs(1), 48_000).unwrap();
    for connects_first in [true, false] {
        let (pending, sdp) = offer(config().play(file("440.wav")).record(file("caller.wav"))).await.unwrap();
        let spare = pending.spare();
        let (mut first, early) = answer(config().early(true), &sdp).await.unwrap();
        let mut early_caller = pending.early().accept(&early).await.unwrap();
        if connects_first {
            connected(&mut early_caller).await;
            connected(&mut first).await;
        }
        drop((first, early_caller));
        // The same offer, answered anew.
        let (mut callee, sdp) = answer(config().play(file("660.wav")).record(file("callee.wav")), &sdp).await.unwrap();
        assert_ne!(early, sdp);
        let mut caller = spare.accept(&sdp).await.unwrap();
        callee.start();
        caller.start();
        assert!(matches!(event(&mut caller).await, MediaEvent::LocalCandidate(_)), "new sockets");
        assert_eq!(connected(&mut caller).await.kind, PathKind::Direct);
        connected(&mut callee).await;
        assert!(matches!(event(&mut caller).await, MediaEvent::PlaybackFinished));
        assert!(matches!(event(&mut callee).await, MediaEvent::PlaybackFinished));
        for (session, name, heard) in [(caller, "caller.wav", 660.0), (callee, "callee.wav", 440.0)] {
            let summary = session.close().await;
            assert_eq!(summary.failure, None, "{name}");
            let found = dominant_frequency(&read(&file(name)), 48_000).unwrap();
            assert!((found - heard).abs() < 2.0, "{name}: {found} Hz");
        }
    }
}

#[tokio::test]
async fn a_second_answer_is_judged_like_a_first() {
    let (pending, sdp) = offer(config()).await.unwrap();
    let spare = pending.spare();
    let (_callee, good) = answer(config(), &sdp).await.unwrap();
    drop(pending);
    let without =
        |name: &str| good.lines().filter(|line| !line.starts_with(name)).map(|line| format!("{line}\r\n")).collect::<String>();
    for lacking in ["a=ice-ufrag", "a=ice-pwd", "a=fingerprint", "m=audio"] {
        let failure = spare.clone().accept(&without(lacking)).await;
        assert!(matches!(failure, Err(MediaError::SdpInvalid { .. } | MediaError::NoCommonAudio)), "{lacking}: {failure:?}");
    }
    for spoilt in [good.replace("a=sendrecv", "a=inactive"), good.replace("SAVPF 111", "SAVPF 96")] {
        let failure = spare.clone().accept(&spoilt).await;
        assert!(matches!(failure, Err(MediaError::NoCommonAudio | MediaError::SdpInvalid { .. })), "{failure:?}");
    }
    let mut deceived = spare.accept(&with_other_fingerprint(&good)).await.unwrap();
    // The candidates of the new sockets come first.
    let end = loop {
        match event(&mut deceived).await {
            MediaEvent::LocalCandidate(_) => {}
            event => break event,
        }
    };
    assert!(matches!(end, MediaEvent::Failed(MediaError::FingerprintMismatch)), "{end:?}");
}

/// The description with another certificate's fingerprint.
fn with_other_fingerprint(sdp: &str) -> String {
    let at = sdp.find("a=fingerprint:sha-256 ").unwrap() + "a=fingerprint:sha-256 ".len();
    let other = if sdp[at..].starts_with("00") { "11" } else { "00" };
    format!("{}{other}{}", &sdp[..at], &sdp[at + 2..])
}

#[tokio::test]
async fn a_swapped_fingerprint_ends_both_sides_without_audio() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    write_tone(file("440.wav"), 440.0, Duration::from_secs(1), 48_000).unwrap();
    let limit = Duration::from_secs(3);
    let side = |record: &str| config().play(file("440.wav")).record(file(record)).connect_timeout(limit);
    for tampered in ["offer", "answer"] {
        let (pending, mut sdp) = offer(side("caller.wav")).await.unwrap();
        if tampered == "offer" {
            sdp = with_other_fingerprint(&sdp);
        }
        let (mut callee, mut sdp) = answer(side("callee.wav"), &sdp).await.unwrap();
        if tampered == "answer" {
            sdp = with_other_fingerprint(&sdp);
        }
        let mut caller = pending.accept(&sdp).await.unwrap();
        caller.start();
        callee.start();
        let begun = Instant::now();
        let (mut deceived, mut other) = (event(&mut callee).await, event(&mut caller).await);
        if tampered == "answer" {
            std::mem::swap(&mut deceived, &mut other);
        }
        assert!(matches!(deceived, MediaEvent::Failed(MediaError::FingerprintMismatch)), "{deceived:?}");
        // The deceived side falls silent: the other never finishes its handshake.
        assert!(matches!(other, MediaEvent::Failed(MediaError::ConnectTimeout { .. })), "{other:?}");
        assert!(begun.elapsed() < limit * 2);
        for session in [caller, callee] {
            let summary = session.close().await;
            assert!(summary.failure.is_some());
            assert_eq!((summary.stats.packets_sent, summary.stats.packets_received), (0, 0));
        }
        assert!(!file("caller.wav").exists() && !file("callee.wav").exists());
    }
}

#[tokio::test]
async fn hanging_up_is_told_to_the_other_end() {
    let (caller, mut callee) = call(config(), config()).await;
    assert_eq!(caller.close().await.failure, None);
    assert!(matches!(event(&mut callee).await, MediaEvent::Closed));
    assert!(callee.next_event().await.is_none());
    assert!(matches!(callee.add_remote_candidate("candidate:1 1 udp 1 192.0.2.1 9 typ host"), Err(MediaError::Ended)));
    assert_eq!(callee.close().await.failure, None);
}

/// Passes datagrams between two addresses and loses every tenth one that is audio.
async fn lossy_wire(near: tokio::net::UdpSocket, far: tokio::net::UdpSocket, target: SocketAddr) {
    let (mut from_near, mut from_far) = ([0; 2_048], [0; 2_048]);
    let mut source = None;
    let mut audio = [0u32; 2];
    let mut survives = |direction: usize, datagram: &[u8]| {
        let is_audio = datagram.first().is_some_and(|byte| (128..192).contains(byte)) && datagram[1] & 0x7f == 111;
        audio[direction] += u32::from(is_audio);
        !is_audio || audio[direction] % 10 != 5
    };
    loop {
        tokio::select! {
            Ok((length, from)) = near.recv_from(&mut from_near) => {
                source = Some(from);
                if survives(0, &from_near[..length]) {
                    far.send_to(&from_near[..length], target).await.unwrap();
                }
            }
            Ok((length, _)) = far.recv_from(&mut from_far), if source.is_some() => {
                if survives(1, &from_far[..length]) {
                    near.send_to(&from_far[..length], source.unwrap()).await.unwrap();
                }
            }
        }
    }
}

#[tokio::test]
async fn losses_are_measured_and_concealed() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    write_tone(file("440.wav"), 440.0, Duration::from_secs(2), 48_000).unwrap();
    let (pending, sdp) = offer(config().play(file("440.wav"))).await.unwrap();
    let (mut callee, sdp) = answer(config().record(file("callee.wav")), &without_candidates(&sdp)).await.unwrap();
    let mut caller = pending.accept(&without_candidates(&sdp)).await.unwrap();
    // The caller is told the near end of the wire instead of the callee's address.
    let near = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let far = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let target = port(callee.local_candidates());
    let announced = callee.local_candidates()[0]
        .replace(&format!(" {} ", target.port()), &format!(" {} ", near.local_addr().unwrap().port()));
    let wire = tokio::spawn(lossy_wire(near, far, target));
    caller.add_remote_candidate(&announced).unwrap();
    connected(&mut caller).await;
    // The callee was never told an address: it learnt one from packets.
    assert_eq!(connected(&mut callee).await.kind, PathKind::Punched);
    caller.start();
    callee.start();
    assert!(matches!(event(&mut caller).await, MediaEvent::PlaybackFinished));
    let summary = callee.close().await;
    wire.abort();
    let stats = &summary.stats;
    assert!((0.07..0.13).contains(&stats.loss), "{stats:?}");
    assert!(stats.packets_lost >= 8 && stats.concealed_frames >= 7, "{stats:?}");
    // The handshake's first message overtakes the checks and is not lost for that.
    assert!(stats.connect_ms.unwrap() < 900.0, "{stats:?}");
    let samples = read(&file("callee.wav"));
    assert!((dominant_frequency(&samples, 48_000).unwrap() - 440.0).abs() < 2.0);
    // Full scale is at -6; what a busy machine keeps back is concealed, and fades.
    assert!(level_db(&samples, 48_000, 440.0) > -16.0);
}

/// A process that is frozen neither answers nor says goodbye; one that thaws goes on.
#[test]
fn an_end_that_falls_silent_is_noticed_and_welcomed_back() {
    let awake = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    // Its tasks run only while the test blocks on it.
    let freezing = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (pending, sdp) = awake.block_on(offer(config())).unwrap();
    let (mut callee, sdp) = freezing.block_on(answer(config(), &sdp)).unwrap();
    let mut caller = awake.block_on(pending.accept(&sdp)).unwrap();
    freezing.block_on(connected(&mut callee));
    awake.block_on(connected(&mut caller));
    caller.start();
    callee.start();

    let frozen = Instant::now();
    assert!(matches!(awake.block_on(event(&mut caller)), MediaEvent::Disconnected));
    assert!((4..8).contains(&frozen.elapsed().as_secs()), "{:?}", frozen.elapsed());

    let reconnected = awake.spawn(async move { (event(&mut caller).await, caller) });
    let (event, caller) = freezing.block_on(reconnected).unwrap();
    assert!(matches!(event, MediaEvent::Reconnected), "{event:?}");
    // What was missed while frozen is not sent in a burst afterwards.
    let sent = freezing.block_on(callee.close()).stats.packets_sent;
    assert!(sent <= 60, "{sent} packets");
    awake.block_on(caller.close());
}

#[tokio::test]
async fn strangers_packets_do_not_disturb_a_call() {
    let (caller, callee) = call(config(), config()).await;
    caller.start();
    callee.start();
    let stranger = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let target = port(callee.local_candidates());
    for n in 0..2_000u32 {
        // All kinds by first byte: STUN, DTLS, RTP, RTCP, nothing known.
        let mut noise = [[0, 1, 22, 128, 200, 255][n as usize % 6]; 100];
        noise[1..5].copy_from_slice(&n.to_be_bytes());
        noise[5..9].copy_from_slice(&0x2112_A442_u32.to_be_bytes());
        let _ = stranger.send_to(&noise[..(n as usize % 100)], target).await;
        if n % 20 == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    let (caller, callee) = (caller.close().await, callee.close().await);
    assert_eq!((&caller.failure, &callee.failure), (&None, &None));
    assert!(callee.stats.packets_received >= 20, "{:?}", callee.stats);
    assert!(callee.stats.packets_received <= caller.stats.packets_sent);
    assert!(callee.stats.loss < 0.05, "{:?}", callee.stats);
}

fn port(candidates: &[String]) -> SocketAddr {
    let mut words = candidates[0].split(' ').skip(4);
    format!("{}:{}", words.next().unwrap(), words.next().unwrap()).parse().unwrap()
}

#[tokio::test]
async fn ports_are_free_as_soon_as_a_session_is_gone() {
    let (pending, sdp) = offer(config()).await.unwrap();
    let unanswered = port(pending.local_candidates());
    UdpSocket::bind(unanswered).expect_err("the port is taken");
    drop(pending);
    becomes_free(unanswered).await;

    let (session, _) = answer(config(), &sdp).await.unwrap();
    let closed = port(session.local_candidates());
    UdpSocket::bind(closed).expect_err("the port is taken");
    session.close().await;
    UdpSocket::bind(closed).expect("the closed session's port is free");

    let (session, _) = answer(config(), &sdp).await.unwrap();
    let dropped = port(session.local_candidates());
    drop(session);
    becomes_free(dropped).await;
}

/// The runtime drops an aborted task when it next gets to it.
async fn becomes_free(port: SocketAddr) {
    let freed = async {
        while UdpSocket::bind(port).is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(EVENT_DEADLINE, freed).await.expect("the port is free");
}

#[tokio::test]
async fn a_phone_may_ring_longer_than_silence_is_borne() {
    let (mut caller, mut callee) = call(config(), config()).await;
    let ringing = Duration::from_secs(7);
    let (caller_event, callee_event) =
        tokio::join!(tokio::time::timeout(ringing, caller.next_event()), tokio::time::timeout(ringing, callee.next_event()));
    assert!(caller_event.is_err() && callee_event.is_err(), "{caller_event:?} {callee_event:?}");
    assert_eq!(caller.stats().packets_sent + callee.stats().packets_sent, 0);
}

#[tokio::test]
async fn an_offer_never_taken_up_times_out() {
    let (_pending, sdp) = offer(config()).await.unwrap();
    let limit = Duration::from_millis(300);
    let (mut session, _) = answer(config().connect_timeout(limit), &sdp).await.unwrap();
    match event(&mut session).await {
        MediaEvent::Failed(MediaError::ConnectTimeout { after }) => assert_eq!(after, limit),
        other => panic!("{other:?}"),
    }
    assert!(session.next_event().await.is_none());
}

fn without_candidates(sdp: &str) -> String {
    sdp.lines().filter(|line| !line.starts_with("a=candidate:")).map(|line| format!("{line}\r\n")).collect()
}

#[tokio::test]
async fn candidates_may_come_later() {
    let (pending, sdp) = offer(config()).await.unwrap();
    let (mut callee, sdp) = answer(config(), &without_candidates(&sdp)).await.unwrap();
    let mut caller = pending.accept(&without_candidates(&sdp)).await.unwrap();
    for candidate in caller.local_candidates() {
        callee.add_remote_candidate(candidate).unwrap();
    }
    for candidate in callee.local_candidates() {
        caller.add_remote_candidate(&format!("a={candidate}")).unwrap();
    }
    assert!(matches!(caller.add_remote_candidate("nonsense"), Err(MediaError::CandidateInvalid { .. })));
    connected(&mut caller).await;
    connected(&mut callee).await;
}

#[tokio::test]
async fn loopback_candidates_are_ignored_outside_a_lab() {
    let (_pending, sdp) = offer(config()).await.unwrap();
    let careful = config().lab(false).connect_timeout(Duration::from_millis(500));
    let (mut session, _) = answer(careful, &sdp).await.unwrap();
    assert!(matches!(event(&mut session).await, MediaEvent::Failed(MediaError::ConnectTimeout { .. })));
}

#[tokio::test]
async fn gathered_interfaces_connect_too() {
    let lab = || MediaConfig::default().lab(true);
    let (pending, sdp) = offer(lab()).await.unwrap();
    assert!(!pending.local_candidates().is_empty());
    let (mut callee, sdp) = answer(lab(), &sdp).await.unwrap();
    let mut caller = pending.accept(&sdp).await.unwrap();
    connected(&mut caller).await;
    connected(&mut callee).await;
}

#[tokio::test]
async fn descriptions_stay_small() {
    let four = ["127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4"].map(|ip| ip.parse().unwrap());
    let config = || config().bind(four);
    let (_pending, offer_sdp) = offer(config()).await.unwrap();
    let (_session, answer_sdp) = answer(config(), &offer_sdp).await.unwrap();
    for sdp in [offer_sdp, answer_sdp] {
        assert_eq!(sdp.matches("a=candidate:").count(), 4);
        assert!(sdp.len() < 1_300, "{} bytes", sdp.len());
    }
}

#[tokio::test]
async fn unusable_descriptions_are_refused_with_their_reason() {
    let (_pending, good) = offer(MediaConfig { codecs: vec![AudioCodec::Opus], ..config() }).await.unwrap();
    let refused = async |sdp: &str| answer(config(), sdp).await.expect_err("refused");
    assert!(matches!(refused(&"x".repeat(SDP_BYTES_MAX + 1)).await, MediaError::SdpTooLarge { .. }));
    assert!(matches!(refused("").await, MediaError::SdpInvalid { .. }));
    assert!(matches!(refused("v=0\r\n").await, MediaError::SdpInvalid { .. }));
    let unfingerprinted = good.replace("a=fingerprint", "a=x-fingerprint");
    assert!(matches!(refused(&unfingerprinted).await, MediaError::SdpInvalid { .. }));
    for (what, wrong) in [("opus/48000/2", "GSM/8000"), ("a=sendrecv", "a=recvonly"), ("m=audio", "m=video")] {
        let error = refused(&good.replace(what, wrong)).await;
        assert!(matches!(error, MediaError::NoCommonAudio | MediaError::SdpInvalid { .. }), "{wrong}: {error}");
    }
    // The caller checks the answer alike.
    for bad in ["", "v=0\r\n", &unfingerprinted] {
        let (pending, _) = offer(config()).await.unwrap();
        assert!(matches!(pending.accept(bad).await, Err(MediaError::SdpInvalid { .. })));
    }
}

#[tokio::test]
async fn unusable_files_are_found_before_the_call() {
    let folder = tempfile::tempdir().unwrap();
    let missing = offer(config().play(folder.path().join("missing.wav"))).await;
    assert!(matches!(missing, Err(MediaError::Play { source: WavError::Io(_), .. })));
    let nowhere = offer(config().record(folder.path().join("no/such/folder.wav"))).await;
    assert!(matches!(nowhere, Err(MediaError::Record { .. })));
}

#[tokio::test]
async fn a_recording_that_cannot_be_written_fails_the_session_with_its_reason() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("callee.wav");
    let (mut caller, mut callee) = call(config(), config().record(&path)).await;
    // Taken between the check and the call.
    std::fs::create_dir(&path).unwrap();
    callee.start();
    assert!(matches!(event(&mut callee).await, MediaEvent::Failed(MediaError::Record { .. })));
    assert!(matches!(event(&mut caller).await, MediaEvent::Closed));
    assert!(callee.close().await.failure.is_some());
}

#[tokio::test]
async fn a_running_recording_is_readable() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("callee.wav");
    let (_caller, callee) = call(config(), config().record(&path)).await;
    callee.start();
    let readable = async {
        loop {
            if hound::WavReader::open(&path).is_ok_and(|reader| reader.duration() >= 48_000) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(EVENT_DEADLINE, readable).await.expect("a second of audio with a valid header");
    // Dropping is what a crash leaves of the task; the file is complete all the same.
    drop(callee);
}

/// A transport and a description to spoil, made once: each takes a certificate.
async fn transport_and_offer() -> (Transport, String) {
    let mut transport = Transport::new(&config()).await.unwrap();
    let (_, sdp) = transport.create_offer().unwrap();
    (transport, sdp)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn spoilt_descriptions_never_panic(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0u8..4), 1..12),
        noise in ".{0,200}",
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (_, good) = transport_and_offer().await;
            let spoilt = spoil(&good, &edits, &noise);
            for sdp in [&spoilt, &noise] {
                let (mut callee, _) = transport_and_offer().await;
                let _ = callee.accept_offer(sdp);
                let (pending, _) = offer(config()).await.unwrap();
                let _ = pending.accept(sdp).await;
            }
        });
    }
}

/// Removes, doubles, swaps or scribbles over lines.
fn spoil(sdp: &str, edits: &[(prop::sample::Index, u8, u8)], noise: &str) -> String {
    let mut lines: Vec<String> = sdp.lines().map(str::to_owned).collect();
    for (at, byte, kind) in edits {
        if lines.is_empty() {
            break;
        }
        let at = at.index(lines.len());
        match kind {
            0 => drop(lines.remove(at)),
            1 => lines.insert(at, lines[at].clone()),
            2 => {
                let other = usize::from(*byte) % lines.len();
                lines.swap(at, other);
            }
            _ => {
                let key: String = lines[at].chars().take(usize::from(*byte) % 24).collect();
                lines[at] = key + noise;
            }
        }
    }
    lines.join("\r\n") + "\r\n"
}

/// coturn's server from Debian, on loopback; ends with the value.
struct Coturn {
    process: std::process::Child,
    address: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Coturn {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        // Nothing tells its port afterwards, so one that is free now has to do.
        let address = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let process = std::process::Command::new("turnserver")
            .args(["-n", "--no-cli", "--no-tls", "--no-dtls", "--lt-cred-mech", "--allow-loopback-peers", "--log-file", "stdout"])
            .args(["--realm", "example", "--user", "alice:secret", "-L", "127.0.0.1", "-E", "127.0.0.1"])
            .arg(format!("--listening-port={}", address.port()))
            .arg("--pidfile")
            .arg(folder.path().join("pid"))
            .current_dir(folder.path())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .expect("`turnserver` runs: install coturn (scripts/setup does)");
        let coturn = Self { process, address, _folder: folder };
        tokio::time::timeout(EVENT_DEADLINE, coturn.answers()).await.expect("coturn answers");
        coturn
    }

    /// It listens some time after its start.
    async fn answers(&self) {
        let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        // A STUN binding request (RFC 8489 section 5).
        let request = [&[0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42][..], &[7; 12]].concat();
        let mut buffer = [0; 512];
        loop {
            let _ = socket.send_to(&request, self.address).await;
            let answer = socket.recv_from(&mut buffer);
            if matches!(tokio::time::timeout(Duration::from_millis(50), answer).await, Ok(Ok(_))) {
                return;
            }
        }
    }

    fn relay(&self, password: &str) -> RelayServer {
        let password = halloo_protocol::redact::Redacted(password.to_owned());
        RelayServer { address: self.address, stream: None, tls: None, username: "alice".to_owned(), password }
    }
}

impl Drop for Coturn {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test]
async fn a_call_goes_through_a_relay_of_another_make() {
    let coturn = Coturn::start().await;
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    write_tone(file("440.wav"), 440.0, Duration::from_secs(2), 48_000).unwrap();
    let relayed = || config().relays([coturn.relay("secret")]).relayed_only(true);
    let (pending, offer) = offer(relayed().play(file("440.wav"))).await.unwrap();
    assert!(offer.contains("typ relay") && !offer.contains("typ host"), "no address of our own goes out: {offer}");
    let (mut callee, answer) = answer(relayed().record(file("callee.wav")), &offer).await.unwrap();
    let mut caller = pending.accept(&answer).await.unwrap();
    for end in [&mut caller, &mut callee] {
        let path = connected(end).await;
        assert_eq!(path.kind, PathKind::Relayed, "{path:?}");
        end.start();
    }
    while !matches!(event(&mut caller).await, MediaEvent::PlaybackFinished) {}
    assert!(caller.close().await.failure.is_none());
    let summary = callee.close().await;
    assert!(summary.stats.packets_received > 80, "{:?}", summary.stats);
    let samples = read(&file("callee.wav"));
    assert!((dominant_frequency(&samples, 48_000).unwrap() - 440.0).abs() < 2.0);
}

#[tokio::test]
async fn candidates_of_a_relay_are_told_when_they_come_and_are_enough() {
    let coturn = Coturn::start().await;
    let (pending, offer) = offer(config()).await.unwrap();
    // The callee doesn't wait for its relay, and nobody can reach its own address: a checked pair is through the relay.
    let (mut callee, answer) = answer(config().relays([coturn.relay("secret")]), &offer).await.unwrap();
    assert!(!answer.contains("typ relay"), "the answer waits for nobody");
    let mut caller = pending.accept(&without_candidates(&answer)).await.unwrap();
    let trickled = loop {
        match event(&mut callee).await {
            MediaEvent::LocalCandidate(candidate) => break candidate,
            other => assert!(matches!(other, MediaEvent::Connected(_)), "{other:?}"),
        }
    };
    assert!(trickled.contains("typ relay"), "{trickled}");
    caller.add_remote_candidate(&trickled).unwrap();
    connected(&mut caller).await;
}

#[tokio::test]
async fn a_relay_that_refuses_or_is_silent_costs_no_call() {
    let coturn = Coturn::start().await;
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let nobody = RelayServer { address: silent.local_addr().unwrap(), ..coturn.relay("") };
    let (caller, callee) = call(config().relays([coturn.relay("wrong")]), config().relays([nobody.clone()])).await;
    drop((caller, callee));
    let alone = offer(config().relays([nobody]).relayed_only(true)).await;
    let (_, offer) = alone.expect("an offer without candidates is one: they may come");
    assert!(!offer.contains("candidate:"), "{offer}");
}
