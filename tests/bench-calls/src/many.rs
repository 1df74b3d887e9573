//! Many calls at the same time, between nodes of this process.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt, stream};
use halloo::Event;
use halloo::calls::media::tone;
use halloo::handle::calls::{AnswerOptions, CallMedia, CallState, DialOptions};
use halloo_bench_directory::usage::{cpu, resident_bytes};

use crate::lab::{Lab, Member, Part, eventually};
use crate::report::{Report, Row};
use crate::slow_link::SlowLink;

/// Nodes that call; each calls as many as the others.
const CALLERS: usize = 10;

/// Dials at a time: setting up isn't what is measured.
const DIALS_AT_ONCE: usize = 8;

const IDLE: Duration = Duration::from_secs(5);
const TALK: Duration = Duration::from_secs(20);

/// Packets of both ends a second.
const PACKETS_PER_SEC: f64 = 100.0;

pub(crate) async fn measure(link: &SlowLink, calls: usize, report: &mut Report) -> Result<()> {
    link.bypass(true)?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("tone.wav");
    tone::write_tone(&file, 440.0, Duration::from_secs(300), 48_000).context("can't write a tone")?;
    let mut lab = Lab::new();
    let server = lab.join(Part::Server).await?;
    let (mut callers, mut callees) = (Vec::new(), Vec::new());
    for _ in 0..CALLERS {
        callers.push(lab.join(Part::Open).await?);
    }
    for number in 1..=calls {
        callees.push(lab.join(Part::Open).await?);
        if number % 50 == 0 {
            eprintln!("{number} of {calls} callees are ready");
        }
    }
    let nodes = Nodes { callers, callees };
    nodes.talk(None, report).await?;
    nodes.talk(Some(&file), report).await?;
    let ends = nodes.callers.iter().chain(&nodes.callees).chain([&server]).map(|member| member.node.shutdown());
    let _stopped = futures::future::join_all(ends).await;
    link.bypass(false)
}

struct Nodes {
    callers: Vec<Member>,
    callees: Vec<Member>,
}

impl Nodes {
    async fn talk(&self, play: Option<&Path>, report: &mut Report) -> Result<()> {
        let calls = self.callees.len();
        let what = if play.is_some() { "a tone each way" } else { "silence" };
        let (memory, idle) = (resident_bytes(), cpu());
        tokio::time::sleep(IDLE).await;
        let idle = cpu().saturating_sub(idle).as_secs_f64() / IDLE.as_secs_f64();
        let answering: Vec<_> =
            self.callees.iter().map(|callee| tokio::spawn(answer(callee.clone(), play.map(Path::to_owned)))).collect();
        let mut outcomes = Vec::new();
        let pairs = self.callees.iter().zip(self.callers.iter().cycle());
        let dialling = stream::iter(pairs).map(|(callee, caller)| async move {
            let dialler = caller.node.clone();
            let options = DialOptions { play: play.map(Path::to_owned), ..DialOptions::to(&callee.username) };
            let outcome = tokio::spawn(async move { dialler.calls().dial(options).await });
            eventually("a call's audio", async || {
                let heard = media_of(callee).await?.iter().any(|media| media.packets_received > 0);
                Ok((heard || outcome.is_finished()).then_some(()))
            })
            .await?;
            anyhow::Ok(outcome)
        });
        let mut dialling = std::pin::pin!(dialling.buffer_unordered(DIALS_AT_ONCE));
        while let Some(outcome) = dialling.try_next().await? {
            outcomes.push(outcome);
        }
        eprintln!("{} calls are up, {what}", outcomes.len());
        let before = self.sum().await?;
        let used = cpu();
        tokio::time::sleep(TALK).await;
        let used = cpu().saturating_sub(used).as_secs_f64() / TALK.as_secs_f64();
        let (after, grown) = (self.sum().await?, resident_bytes() - memory);
        // A machine that can't keep up takes its time to hang up.
        eprintln!("{used:.2} cores, {:.0} KiB a call; hanging up", grown as f64 / 1_024.0 / calls as f64);
        for caller in &self.callers {
            for call in caller.node.calls().list().await?.calls.iter().filter(|call| call.state != CallState::Ended) {
                caller.node.calls().hangup(&call.call_id).await?;
            }
        }
        let mut completed = 0;
        for outcome in outcomes {
            completed += usize::from(outcome.await?.is_ok_and(|outcome| outcome.setup_ms.is_some()));
        }
        for task in answering {
            task.await??;
        }
        let received = (after.received - before.received) as f64;
        let arrived = 100.0 * received / (calls as f64 * PACKETS_PER_SEC * TALK.as_secs_f64());
        let concealed = 100.0 * (after.concealed - before.concealed) as f64 / received.max(1.0);
        report.add(
            Row::stated(&format!("{calls} calls at once, {what}: processor time a call"), "% of a core", 100.0 * (used - idle) / calls as f64)
                .note(format!(
                    "both ends; {used:.2} cores in all, {idle:.2} before; {completed} calls connected, {arrived:.1}% of the packets due \
                     arrived, {concealed:.2}% of frames concealed"
                )),
        );
        report.add(
            Row::stated(&format!("{calls} calls at once, {what}: memory a call"), "KiB", grown as f64 / 1_024.0 / calls as f64)
                .note("both ends, resident"),
        );
        Ok(())
    }

    async fn sum(&self) -> Result<Sum> {
        let mut sum = Sum::default();
        for member in self.callers.iter().chain(&self.callees) {
            for media in media_of(member).await? {
                sum.received += media.packets_received;
                sum.concealed += media.concealed_frames;
            }
        }
        Ok(sum)
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    received: u64,
    concealed: u64,
}

async fn media_of(member: &Member) -> Result<Vec<CallMedia>> {
    let calls = member.node.calls().list().await?.calls;
    Ok(calls.into_iter().filter(|call| call.state != CallState::Ended).filter_map(|call| call.media).collect())
}

/// Answers the next call.
async fn answer(callee: Member, play: Option<PathBuf>) -> Result<()> {
    let mut events = callee.node.subscribe();
    while let Some(record) = events.recv().await {
        if let Event::CallIncoming { call_id, .. } = record.event {
            callee.node.calls().answer(&call_id, AnswerOptions { play, ..AnswerOptions::default() }).await?;
            return Ok(());
        }
    }
    anyhow::bail!("the callee's node stopped")
}
