//! Two ends in one process over loopback sockets, with video.

use super::tests::{EVENT_DEADLINE, call, config};
use super::video::{VideoCodec, VideoEvent, VideoFrame, VideoLink, VideoPort, VideoRefused};
use super::*;

fn frame(index: u32, is_key: bool) -> VideoFrame {
    // Of very different lengths, so that they take one packet, two, or many.
    let length = 20 + (index as usize * 977) % 9_000 + if is_key { 30_000 } else { 0 };
    let mut data: Vec<u8> = (0..length).map(|place| (place as u32).wrapping_mul(index + 7) as u8).collect();
    data[0] = u8::from(!is_key);
    VideoFrame::new(VideoCodec::Vp8, Duration::from_millis(33) * index, data)
}

async fn next(port: &mut VideoPort) -> VideoEvent {
    let event = tokio::time::timeout(EVENT_DEADLINE, port.next()).await;
    event.expect("an event in time").expect("the call goes on")
}

async fn started(port: &mut VideoPort) -> Vec<VideoCodec> {
    match next(port).await {
        VideoEvent::Started(codecs) => codecs,
        other => panic!("{other:?} before the start"),
    }
}

#[tokio::test]
async fn frames_arrive_as_they_were_sent_both_ways() {
    let ((link_a, mut a), (link_b, mut b)) = (VideoLink::new(), VideoLink::new());
    let (caller, callee) = call(config().video(Some(link_a)), config().video(Some(link_b))).await;
    // What is sent before the call is answered reaches nobody.
    a.send(frame(99, true)).unwrap();
    caller.start();
    callee.start();
    let both = vec![VideoCodec::Vp8, VideoCodec::H264];
    assert_eq!((started(&mut a).await, started(&mut b).await), (both.clone(), both));
    for index in 0..40 {
        let (sent_a, sent_b) = (frame(index, index % 10 == 0), frame(index + 100, index % 10 == 0));
        a.send(sent_a.clone()).unwrap();
        b.send(sent_b.clone()).unwrap();
        let VideoEvent::Frame(at_b) = next(&mut b).await else { panic!("no frame") };
        let VideoEvent::Frame(at_a) = next(&mut a).await else { panic!("no frame") };
        assert_eq!((&at_a.data, &at_b.data), (&sent_b.data, &sent_a.data));
        assert_eq!(at_b.is_key, index % 10 == 0);
        assert_eq!(at_b.at.as_micros(), sent_a.at.as_micros());
    }
    b.want_key_frame();
    assert_eq!(next(&mut a).await, VideoEvent::KeyFrameWanted);
    let (a_summary, b_summary) = (caller.close().await, callee.close().await);
    assert_eq!((next(&mut a).await, next(&mut b).await), (VideoEvent::Ended, VideoEvent::Ended));
    assert_eq!((a.next().await, b.next().await), (None, None));
    assert_eq!(a.send(frame(1, true)), Err(VideoRefused::Ended));
    let (a, b) = (a_summary.stats.video.unwrap(), b_summary.stats.video.unwrap());
    assert_eq!((a.frames_sent, a.frames_received, a.key_frames_sent, a.key_frames_wanted), (40, 40, 4, 1), "{a:?}");
    assert_eq!((b.frames_sent, b.frames_received, b.packets_lost, b.key_frames_asked), (40, 40, 0, 1), "{b:?}");
    assert_eq!((a.bytes_sent, a.codec), (b.bytes_received, Some(VideoCodec::Vp8)));
}

/// A key frame of one packet.
fn small(index: u16) -> VideoFrame {
    let data = [&[0, 1, 2][..], &index.to_le_bytes()].concat();
    VideoFrame::new(VideoCodec::Vp8, Duration::from_millis(1) * index.into(), data)
}

#[tokio::test]
async fn whoever_takes_no_frames_delays_nothing_and_goes_on_from_a_key_frame() {
    let ((link_a, mut a), (link_b, mut b)) = (VideoLink::new(), VideoLink::new());
    let (caller, callee) = call(config().video(Some(link_a)), config().video(Some(link_b))).await;
    caller.start();
    callee.start();
    started(&mut a).await;
    started(&mut b).await;
    let talk = async {
        // Nobody takes any: what doesn't fit is dropped, and the call goes on.
        let mut index = 0;
        while callee.stats().video.is_none_or(|video| video.frames_dropped == 0) {
            index += 1;
            // One that finds no room isn't missed here.
            let _ = a.send(small(index));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let last = small(60_000);
        loop {
            let _ = a.send(last.clone());
            let event = tokio::time::timeout(Duration::from_millis(50), b.next()).await;
            if event.is_ok_and(|event| matches!(event, Some(VideoEvent::Frame(frame)) if frame.data == last.data)) {
                break;
            }
        }
    };
    tokio::time::timeout(EVENT_DEADLINE * 3, talk).await.expect("it goes on");
    drop(caller);
}

#[tokio::test]
async fn a_voice_call_has_no_video_whatever_the_offer_says() {
    let (link, mut port) = VideoLink::new();
    let (caller, callee) = call(config().video(Some(link)), config()).await;
    caller.start();
    callee.start();
    assert!(started(&mut port).await.is_empty(), "the other end takes none");
    let (caller, callee) = (caller.close().await, callee.close().await);
    assert!(caller.stats.video.is_none() && callee.stats.video.is_none());
    assert_eq!((caller.failure, callee.failure), (None, None));
}

#[tokio::test]
async fn an_offer_that_is_met_again_brings_video_too() {
    let ((link_a, mut a), (link_b, mut b)) = (VideoLink::new(), VideoLink::new());
    let (pending, offer) = offer(config().video(Some(link_a))).await.unwrap();
    let spare = pending.spare();
    drop(pending);
    let (mut callee, answer) = answer(config().video(Some(link_b)), &offer).await.unwrap();
    let mut caller = spare.accept(&answer).await.unwrap();
    // Its candidates are told one by one.
    let trickled = tokio::time::timeout(EVENT_DEADLINE, async {
        loop {
            tokio::select! {
                Some(event) = caller.next_event() => match event {
                    MediaEvent::LocalCandidate(candidate) => callee.add_remote_candidate(&candidate).unwrap(),
                    MediaEvent::Connected(_) => break,
                    _ => {}
                },
                Some(_) = callee.next_event() => {}
            }
        }
    });
    trickled.await.expect("connected in time");
    caller.start();
    callee.start();
    assert_eq!(started(&mut a).await.len(), 2);
    started(&mut b).await;
    a.send(frame(1, true)).unwrap();
    b.send(frame(2, true)).unwrap();
    let (VideoEvent::Frame(at_b), VideoEvent::Frame(at_a)) = (next(&mut b).await, next(&mut a).await) else {
        panic!("no frames")
    };
    assert_eq!((at_a.data, at_b.data), (frame(2, true).data, frame(1, true).data));
}

#[tokio::test]
async fn descriptions_with_video_fit_the_signalling() {
    let (link, _port) = VideoLink::new();
    let (_pending, sdp) = offer(config().video(Some(link.clone()))).await.unwrap();
    let (_callee, answered) = answer(config().video(Some(link)), &sdp).await.unwrap();
    eprintln!("offer of {} bytes, answer of {}", sdp.len(), answered.len());
    // Some candidates more fit an invite, and the rest is told later.
    assert!(sdp.len() < 1_480, "{} bytes", sdp.len());
    assert!(answered.len() < SDP_BYTES_MAX - 1_024, "room for candidates: {} bytes", answered.len());
}
