//! What a packet of audio costs from end to end, beside str0m alone; and what a relay adds to the delay.

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use halloo::calls::media::rehearsal::codec_time;
use halloo::calls::media::{self, MediaConfig, MediaEvent, MediaSession, tone};
use halloo::handle::calls::{AnswerOptions, CallPath, DialOptions};
use halloo_bench_directory::usage::cpu;

use crate::lab::{Lab, Member, Part, eventually};
use crate::plain;
use crate::report::{Report, Row, median};
use crate::slow_link::SlowLink;

/// Calls at a time: enough for the clock of the processor time, few enough that two cores aren't full.
const PAIRS: usize = 20;

const WARM_UP: Duration = Duration::from_secs(2);
const MEASURED: Duration = Duration::from_secs(10);

/// Rounds of the two, taking turns.
const ROUNDS: usize = 3;

/// Frames encoded and decoded to know what that takes.
const CODEC_FRAMES: u32 = 5_000;

const RELAYED_FOR: Duration = Duration::from_secs(15);

pub(crate) async fn measure(link: &SlowLink, report: &mut Report) -> Result<()> {
    link.bypass(true)?;
    processor_time(report).await?;
    relay_delay(report).await?;
    link.bypass(false)
}

async fn processor_time(report: &mut Report) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("tone.wav");
    tone::write_tone(&file, 440.0, Duration::from_secs(60), 48_000).context("can't write a tone")?;
    let (mut ours, mut silent, mut theirs) = (Vec::new(), Vec::new(), Vec::new());
    for round in 1..=ROUNDS {
        eprintln!("processor time, round {round} of {ROUNDS}");
        theirs.push(plain_call().await?);
        ours.push(our_call(Some(&file)).await?);
        silent.push(our_call(None).await?);
    }
    let (encoding, decoding) = codec_time(CODEC_FRAMES)?;
    let each = |time: Duration| time.as_secs_f64() * 1e6 / f64::from(CODEC_FRAMES);
    let codec = each(encoding) + each(decoding);
    let (ours, silent, theirs) = (median(&ours), median(&silent), median(&theirs));
    let how =
        format!("{PAIRS} calls for {} s, {ROUNDS} rounds in turn, both ends and the kernel's part included", MEASURED.as_secs());
    report.add(Row::stated("a packet from end to end, str0m alone: processor time", "µs", theirs).note(&how));
    report.add(Row::stated("a packet from end to end, Halloo: processor time", "µs", ours).note(format!("a tone; {how}")));
    report.add(Row::stated("the same, silence: processor time", "µs", silent).note(&how));
    report.add(Row::stated("Opus alone, a frame encoded and played", "µs", codec).note(format!(
        "of it {:.0} encoding, {:.0} decoding with the jitter buffer",
        each(encoding),
        each(decoding)
    )));
    report.add(Row::stated("added to str0m by us, Opus and jitter buffer apart", "µs", ours - theirs - codec));
    Ok(())
}

/// Microseconds a packet.
async fn plain_call() -> Result<f64> {
    // A runtime of its own, so that the calls end with it.
    let counts = Arc::new(plain::Counts::default());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let all = Arc::clone(&counts);
    let started = runtime.spawn(async move {
        for _ in 0..PAIRS {
            plain::call(&all).await?;
        }
        anyhow::Ok(())
    });
    started.await??;
    eventually("plain calls", async || Ok((counts.connected.load(Ordering::Relaxed) == 2 * PAIRS as u64).then_some(()))).await?;
    tokio::time::sleep(WARM_UP).await;
    let (before, packets) = (cpu(), counts.received.load(Ordering::Relaxed));
    tokio::time::sleep(MEASURED).await;
    let used = cpu().saturating_sub(before);
    let packets = counts.received.load(Ordering::Relaxed) - packets;
    runtime.shutdown_background();
    per_packet(used, packets)
}

fn per_packet(used: Duration, packets: u64) -> Result<f64> {
    let expected = 2 * PAIRS as u64 * 50 * MEASURED.as_secs();
    if packets < expected * 9 / 10 {
        bail!("{packets} of {expected} packets arrived: the machine is too busy");
    }
    Ok(used.as_secs_f64() * 1e6 / packets as f64)
}

async fn our_call(play: Option<&Path>) -> Result<f64> {
    let config = MediaConfig::default().lab(true).bind([Ipv4Addr::LOCALHOST.into()]);
    let config = play.map_or(config.clone(), |file| config.play(file));
    let mut sessions = Vec::new();
    for _ in 0..PAIRS {
        let (pending, offer) = media::offer(config.clone()).await?;
        let (callee, answer) = media::answer(config.clone(), &offer).await?;
        let caller = pending.accept(&answer).await?;
        for mut session in [caller, callee] {
            session.start();
            connected(&mut session).await?;
            sessions.push(session);
        }
    }
    tokio::time::sleep(WARM_UP).await;
    let count = || sessions.iter().map(|session| session.stats().packets_received).sum::<u64>();
    let (before, packets) = (cpu(), count());
    tokio::time::sleep(MEASURED).await;
    let (used, packets) = (cpu().saturating_sub(before), count() - packets);
    for session in sessions {
        let _summary = session.close().await;
    }
    per_packet(used, packets)
}

async fn connected(session: &mut MediaSession) -> Result<()> {
    loop {
        match session.next_event().await {
            Some(MediaEvent::Connected(_)) => return Ok(()),
            Some(MediaEvent::Failed(error)) => return Err(error.into()),
            Some(_) => {}
            None => bail!("the session is over"),
        }
    }
}

async fn relay_delay(report: &mut Report) -> Result<()> {
    let mut lab = Lab::new();
    let (_server, caller) = (lab.join(Part::Server).await?, lab.join(Part::Open).await?);
    let callee = lab.join(Part::Open).await?;
    for member in [&caller, &callee] {
        eventually("a media relay at hand", async || Ok((!member.node.media_relays().await?.relays.is_empty()).then_some(())))
            .await?;
    }
    let direct = round_trip(&caller, &callee, false).await?;
    let relayed = round_trip(&caller, &callee, true).await?;
    report.add(
        Row::stated("a relayed call's extra delay, one way", "ms", (relayed - direct) / 2.0)
            .note(format!("round trips by ICE's checks over loopback, medians: {direct:.2} ms direct, {relayed:.2} ms relayed")),
    );
    Ok(())
}

/// Milliseconds, the median of a call's.
async fn round_trip(caller: &Member, callee: &Member, relayed_only: bool) -> Result<f64> {
    let mut events = callee.node.subscribe();
    let dialler = caller.node.clone();
    let options = DialOptions { relayed_only, ..DialOptions::to(&callee.username) };
    let outcome = tokio::spawn(async move { dialler.calls().dial(options).await });
    let call_id = loop {
        let record = events.recv().await.context("the callee's node stopped")?;
        if let halloo::Event::CallIncoming { call_id, .. } = record.event {
            break call_id;
        }
    };
    callee.node.calls().answer(&call_id, AnswerOptions::default()).await?;
    let mut measured = Vec::new();
    let end = Instant::now() + RELAYED_FOR;
    let mut path = None;
    while Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let calls = caller.node.calls().list().await?.calls;
        let media = calls.iter().find(|call| call.call_id == call_id).and_then(|call| call.media.clone());
        let Some(media) = media else { continue };
        path = media.path.or(path);
        measured.extend(media.rtt_ms);
    }
    caller.node.calls().hangup(&call_id).await?;
    let _completed = outcome.await??;
    let wanted = if relayed_only { CallPath::Relayed } else { CallPath::Direct };
    if path != Some(wanted) {
        bail!("the path was {path:?}, not {wanted:?}");
    }
    Ok(median(&measured))
}
