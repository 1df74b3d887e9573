//! From the dial to the ring through push, in one-way trips; and what the device sends before it rings.

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use halloo::Event;
use halloo::handle::calls::DialOptions;
use halloo::handle::directory::ResolveOptions;
use halloo_protocol::push::PushSend;
use halloo_protocol::wire::Message;

use super::town::{Town, is_vouched_for};
use crate::dial::{DELAY, name_of};
use crate::lab::{Member, eventually};
use crate::report::{Report, Row, median};
use crate::slow_link::{Packet, SlowLink};
use crate::wiretap::{Sent, Wiretap};

/// One-way trips that the program itself may add to what the network takes.
const TOLERANCE: f64 = 0.4;

const RING_LIMIT: Duration = Duration::from_secs(20);

/// How things are before a dial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Case {
    /// The caller is connected with the gateway.
    Open,
    /// With nobody.
    None,
}

impl Case {
    const fn name(self) -> &'static str {
        match self {
            Self::Open => "dial to ring through push: connection to the gateway open",
            Self::None => "dial to ring through push: no connection",
        }
    }

    /// One-way trips: caller, gateway, push service, device; and a handshake.
    const fn bound(self) -> f64 {
        match self {
            Self::Open => 3.0,
            Self::None => 5.0,
        }
    }
}

/// One dial.
struct Dial {
    to_ring: Duration,
    /// From the push's arrival at the device to the ring.
    from_push: Duration,
    push_bytes: usize,
    /// Packets of the device in that time.
    packets: usize,
    /// The caller's frames before the push.
    before: Vec<String>,
}

/// Measures both cases, `dials` times each.
pub(crate) async fn measure(link: &SlowLink, tap: &Wiretap, town: &mut Town, dials: usize, report: &mut Report) -> Result<()> {
    link.set_delay(DELAY);
    let mut all: Vec<Dial> = Vec::new();
    for case in [Case::Open, Case::None] {
        let mut done: Vec<Dial> = Vec::new();
        // The first one opens the gateway's connection to the push service, and doesn't count.
        let mut is_warm = false;
        while done.len() < dials {
            town.sleep().await?;
            for number in 0..town.sleepers.len() {
                let caller = (done.len() + number / 2) % town.callers.len();
                let opened = town.service.connections();
                let dial = town.dial(link, tap, case, caller, number).await;
                let dial = dial.with_context(|| format!("{}, caller {caller}, device {number}", case.name()))?;
                if is_warm && done.len() < dials {
                    if town.service.connections() > opened {
                        eprintln!("the gateway had no connection to the push service");
                    }
                    done.push(dial);
                }
                is_warm = true;
            }
        }
        report.add(row_of(case, &done));
        all.extend(done);
    }
    add_device_rows(&all, report);
    Ok(())
}

fn row_of(case: Case, done: &[Dial]) -> Row {
    let trips: Vec<f64> = done.iter().map(|dial| dial.to_ring.as_secs_f64() / DELAY.as_secs_f64()).collect();
    let mut before: BTreeMap<&str, usize> = BTreeMap::new();
    for name in done.iter().flat_map(|dial| &dial.before) {
        *before.entry(name).or_default() += 1;
    }
    let words: Vec<String> = before.iter().map(|(name, count)| format!("{count} {name}")).collect();
    let words = if words.is_empty() { "none".to_owned() } else { words.join(", ") };
    let most = trips.iter().copied().fold(0.0, f64::max);
    Row::at_most(case.name(), "one-way trips", case.bound(), TOLERANCE, median(&trips))
        .note(format!("{} dials, slowest {most:.2}; the caller's frames before the push: {words}", done.len()))
}

fn add_device_rows(all: &[Dial], report: &mut Report) {
    let packets = all.iter().map(|dial| dial.packets).max().unwrap_or(usize::MAX);
    let times: Vec<f64> = all.iter().map(|dial| dial.from_push.as_secs_f64() * 1e3).collect();
    let bytes = all.iter().map(|dial| dial.push_bytes).max().unwrap_or_default();
    report.add(Row::at_most("the push's arrival to the ring: packets of the device", "packets", 0.0, 0.0, packets as f64).note(
        format!("most of {} dials; a round trip takes {} ms; push messages of {bytes} bytes", all.len(), 2 * DELAY.as_millis()),
    ));
    let most = times.iter().copied().fold(0.0, f64::max);
    report.add(
        Row::stated("the push's arrival to the ring: time", "ms", median(&times))
            .note(format!("slowest {most:.2}, thread to thread")),
    );
}

impl Town {
    async fn prepare(&self, case: Case, caller: &Member, callee: &Member) -> Result<()> {
        eventually("a lease of the gateway's", async || Ok(is_vouched_for(caller, callee).await?.then_some(()))).await?;
        match case {
            Case::Open => {
                eventually("a connection with the gateway", async || {
                    let found = caller.connection(&self.gateway.peer_id).await?.is_some();
                    if !found {
                        // Whoever keeps records is connected to look one up.
                        let options = ResolveOptions { fresh: true, settled: true };
                        caller.node.directory().resolve(&callee.username, options).await?;
                    }
                    Ok(found.then_some(()))
                })
                .await?;
                // Who is connected only just still talks about other things.
                tokio::time::sleep(6 * DELAY).await;
                caller.leave(&[callee]).await
            }
            Case::None => {
                tokio::time::sleep(6 * DELAY).await;
                let everybody: Vec<&Member> = self.servers.iter().chain([&self.gateway, callee]).collect();
                caller.leave(&everybody).await
            }
        }
    }

    async fn dial(&mut self, link: &SlowLink, tap: &Wiretap, case: Case, caller: usize, number: usize) -> Result<Dial> {
        let caller = self.callers[caller].clone();
        let callee = self.sleepers[number].member.clone();
        while self.sleepers[number].hand_overs.try_recv().is_ok() {}
        let mut events = callee.node.subscribe();
        self.prepare(case, &caller, &callee).await?;
        let dialler = caller.node.clone();
        let options = DialOptions::to(&callee.username);
        tap.begin();
        link.listen();
        let began = Instant::now();
        let outcome = tokio::spawn(async move { dialler.calls().dial(options).await });
        let ring = async {
            while let Some(record) = events.recv().await {
                if let Event::CallIncoming { call_id, via_push, .. } = record.event {
                    return Ok((began.elapsed(), call_id, via_push));
                }
            }
            bail!("the callee's node stopped")
        };
        let rang = tokio::time::timeout(RING_LIMIT, ring).await;
        // What was sent a moment ago is still to be read.
        tokio::time::sleep(Duration::from_millis(5)).await;
        let (heard, packets) = (tap.take(), link.heard());
        let Ok(rang) = rang else { bail!("didn't ring: {:?}", caller.node.calls().list().await?.calls.last()) };
        let (to_ring, call_id, via_push) = rang?;
        if !via_push {
            bail!("it rang, but not by push");
        }
        let hand_over = self.sleepers[number].hand_overs.try_recv().context("no push came to the device")?;
        let rang_at = heard.iter().find(|sent| sent.is_ring).and_then(|sent| sent.at).unwrap_or(began + to_ring);
        let window = since(&packets, hand_over.at, rang_at);
        let dial = Dial {
            to_ring,
            from_push: rang_at.saturating_duration_since(hand_over.at),
            push_bytes: hand_over.bytes,
            packets: self.packets_of(Some(number), &window).await?,
            before: before_push(&heard, &caller),
        };
        if std::env::var_os("HALLOO_BENCH_STAGES").is_some() {
            eprintln!("{}: {to_ring:?}, {:?}", case.name(), caller.node.calls().show(&call_id).await?.stages);
            for frame in heard.iter().filter(|frame| frame.from == caller.peer_id) {
                eprintln!("  {:?} {:#06x} to {}", frame.at.map(|at| at - began), frame.kind, frame.to);
            }
            eprintln!("  the push was at the device after {:?}", hand_over.at - began);
        }
        callee.node.calls().decline(&call_id).await?;
        let _declined = outcome.await??;
        Ok(dial)
    }
}

/// The packets of that time from ports that had sent nothing before: a frozen device can't have.
fn since(packets: &[Packet], begin: Instant, end: Instant) -> Vec<Packet> {
    let earlier: HashSet<u16> = packets.iter().filter(|packet| packet.at < begin).map(|packet| packet.from).collect();
    let is_new = |packet: &&Packet| begin <= packet.at && packet.at <= end && !earlier.contains(&packet.from);
    packets.iter().filter(is_new).copied().collect()
}

/// The caller's frames before the first push of its own.
fn before_push(heard: &[Sent], caller: &Member) -> Vec<String> {
    let own = heard.iter().filter(|frame| frame.from == caller.peer_id && !frame.is_ring);
    own.take_while(|frame| frame.kind != PushSend::KIND.0).map(|frame| name_of(frame.kind)).collect()
}
