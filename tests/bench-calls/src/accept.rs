//! From the accept to the first audio at the caller: between contacts, who are connected while it rings, and between strangers.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use halloo::Event;
use halloo::handle::calls::{AnswerOptions, CallStageKind, DialOptions};

use crate::dial::{DELAY, ROUND_TRIP, Town};
use crate::lab::{Member, eventually};
use crate::report::{Report, Row, median};
use crate::slow_link::SlowLink;

/// Round trips that the program itself may add, frames of 20 ms included: audio goes in steps of one.
const TOLERANCE: f64 = 0.4;

/// For how long it rings: longer than ICE and DTLS take.
const RINGS: Duration = Duration::from_millis(1_500);

/// For how long a call is listened to.
const LISTENS: Duration = Duration::from_secs(2);

struct Heard {
    to_audio: Duration,
    buffer_ms: f64,
}

pub(crate) async fn measure(link: &SlowLink, town: &Town, calls: usize, report: &mut Report) -> Result<()> {
    link.set_delay(DELAY);
    for are_contacts in [true, false] {
        let mut heard = Vec::new();
        for number in 0..calls {
            let caller = &town.callers[number % town.callers.len()];
            let pool = if are_contacts { &town.open } else { &town.strangers };
            let callee = &pool[number / town.callers.len() % pool.len()];
            let one = call(caller, callee).await;
            heard.push(one.with_context(|| format!("{} calls {}", caller.username, callee.username))?);
        }
        report.add(row_of(are_contacts, &heard));
    }
    Ok(())
}

fn row_of(are_contacts: bool, heard: &[Heard]) -> Row {
    let trips: Vec<f64> = heard.iter().map(|one| one.to_audio.as_secs_f64() / ROUND_TRIP.as_secs_f64()).collect();
    let buffers: Vec<f64> = heard.iter().map(|one| one.buffer_ms).collect();
    let most = trips.iter().copied().fold(0.0, f64::max);
    let note = format!(
        "{} calls, slowest {most:.2}; the buffer then holds a frame for {:.0} ms before it is played",
        heard.len(),
        median(&buffers)
    );
    let row = if are_contacts {
        Row::at_most("accept to first audio at the caller: contacts", "round trips", 0.5, TOLERANCE, median(&trips))
    } else {
        Row::stated(
            "accept to first audio at the caller: strangers (ICE and DTLS after the accept)",
            "round trips",
            median(&trips),
        )
    };
    row.note(note)
}

async fn call(caller: &Member, callee: &Member) -> Result<Heard> {
    let mut events = callee.node.subscribe();
    let dialler = caller.node.clone();
    let options = DialOptions::to(&callee.username);
    let began = Instant::now();
    let outcome = tokio::spawn(async move { dialler.calls().dial(options).await });
    let ring = async {
        while let Some(record) = events.recv().await {
            if let Event::CallIncoming { call_id, .. } = record.event {
                return Ok(call_id);
            }
        }
        bail!("the callee's node stopped")
    };
    let call_id = tokio::time::timeout(Duration::from_secs(20), ring).await.context("it doesn't ring")??;
    tokio::time::sleep(RINGS).await;
    let accepted = Instant::now();
    callee.node.calls().answer(&call_id, AnswerOptions::default()).await?;
    let audio_ms = eventually("audio", async || {
        let call = caller.node.calls().show(&call_id).await?;
        let is_audio = |stage: &&halloo::handle::calls::CallStage| {
            stage.stage == CallStageKind::Media && stage.detail.starts_with("first audio")
        };
        Ok(call.stages.iter().find(is_audio).map(|stage| stage.at_ms))
    })
    .await?;
    tokio::time::sleep(LISTENS).await;
    let calls = caller.node.calls().list().await?.calls;
    let media = calls.iter().find(|call| call.call_id == call_id).and_then(|call| call.media.clone());
    if std::env::var_os("HALLOO_BENCH_STAGES").is_some() {
        let shown = caller.node.calls().show(&call_id).await?;
        eprintln!("accepted after {} ms", (accepted - began).as_millis());
        shown.stages.iter().for_each(|stage| eprintln!("  {} {:?} {}", stage.at_ms, stage.stage, stage.detail));
    }
    caller.node.calls().hangup(&call_id).await?;
    let _completed = outcome.await??;
    let to_audio = (began + Duration::from_millis(audio_ms.unsigned_abs())).saturating_duration_since(accepted);
    Ok(Heard { to_audio, buffer_ms: media.map_or(f64::NAN, |media| media.buffer_ms) })
}
