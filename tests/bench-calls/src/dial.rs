//! From the dial to the ring: how many round trips, and what is said before the invite.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use halloo::Event;
use halloo::handle::calls::{CallWay, DialOptions};
use halloo_protocol::call::{CallInvite, InviteHandOver};
use halloo_protocol::wire::Message;

use crate::lab::{Lab, Member, Part, eventually};
use crate::report::{Report, Row, median};
use crate::slow_link::SlowLink;
use crate::wiretap::{Sent, Wiretap};

/// Each way.
pub(crate) const DELAY: Duration = Duration::from_millis(50);

/// What a round trip takes.
pub(crate) const ROUND_TRIP: Duration = DELAY.saturating_mul(2);

/// Round trips that the program itself may add to what the network takes.
const TOLERANCE: f64 = 0.2;

const SERVERS: usize = 3;
const CALLERS: usize = 3;
const CALLEES: usize = 3;

/// How long a ring may take.
const RING_LIMIT: Duration = Duration::from_secs(20);

/// How things are before a dial.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
#[allow(missing_docs, reason = "their names say it")]
pub(crate) enum Case {
    Connected,
    Unconnected,
    RelayConnected,
    RelayUnconnected,
    HolderConnected,
    HolderUnconnected,
}

impl Case {
    const ALL: [Self; 6] = [
        Self::Connected,
        Self::Unconnected,
        Self::RelayConnected,
        Self::RelayUnconnected,
        Self::HolderConnected,
        Self::HolderUnconnected,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Connected => "contact, connection open",
            Self::Unconnected => "contact, no connection",
            Self::RelayConnected => "contact at a relay only, the relay connected",
            Self::RelayUnconnected => "contact at a relay only, the relay not connected",
            Self::HolderConnected => "name not cached, a holder connected; callee not",
            Self::HolderUnconnected => "name not cached, nobody connected",
        }
    }

    /// Round trips.
    const fn bound(self) -> f64 {
        match self {
            Self::Connected => 0.5,
            Self::Unconnected => 1.5,
            Self::RelayConnected => 1.0,
            Self::RelayUnconnected => 2.0,
            Self::HolderConnected => 2.5,
            Self::HolderUnconnected => 3.5,
        }
    }

    const fn is_relayed(self) -> bool {
        matches!(self, Self::RelayConnected | Self::RelayUnconnected)
    }

    const fn is_cached(self) -> bool {
        !matches!(self, Self::HolderConnected | Self::HolderUnconnected)
    }
}

/// One dial.
struct Dial {
    to_ring: Duration,
    /// Frames of the caller before the one that brought the invite, by name.
    before: Vec<String>,
    way: CallWay,
}

/// Who there is.
#[derive(Debug)]
pub(crate) struct Town {
    servers: Vec<Member>,
    pub(crate) callers: Vec<Member>,
    /// Contacts of all callers.
    pub(crate) open: Vec<Member>,
    hidden: Vec<Member>,
    /// Nobody knows them.
    pub(crate) strangers: Vec<Member>,
}

/// Measures everything, `dials` times each.
pub(crate) async fn measure(
    link: &SlowLink,
    tap: &Wiretap,
    town: &Town,
    cases: &[Case],
    dials: usize,
    report: &mut Report,
) -> Result<()> {
    link.set_delay(DELAY);
    // Round trips are measured anew, by the connections too.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let mut strangers = town.strangers.iter();
    for case in Case::ALL.into_iter().filter(|case| cases.is_empty() || cases.contains(case)) {
        let mut done: Vec<Dial> = Vec::new();
        for number in 0..dials {
            let caller = &town.callers[number % CALLERS];
            let callee = if case.is_cached() {
                let pool = if case.is_relayed() { &town.hidden } else { &town.open };
                &pool[number / CALLERS % CALLEES]
            } else if number % CALLERS == 0 {
                strangers.next().context("more dials than strangers")?
            } else {
                &town.strangers[town.strangers.len() - strangers.len() - 1]
            };
            let dial = town.dial(tap, case, caller, callee).await;
            done.push(dial.with_context(|| format!("{}, {} to {}", case.name(), caller.username, callee.username))?);
        }
        report.add(row_of(case, &done));
    }
    Ok(())
}

fn row_of(case: Case, done: &[Dial]) -> Row {
    let trips = |dial: &Dial| dial.to_ring.as_secs_f64() / ROUND_TRIP.as_secs_f64();
    let all: Vec<f64> = done.iter().map(trips).collect();
    let mut ways: BTreeMap<String, usize> = BTreeMap::new();
    let mut before: BTreeMap<String, usize> = BTreeMap::new();
    for dial in done {
        *ways.entry(format!("{:?}", dial.way).to_lowercase()).or_default() += 1;
        for name in &dial.before {
            *before.entry(name.clone()).or_default() += 1;
        }
    }
    let words = |counts: &BTreeMap<String, usize>| {
        let words: Vec<String> = counts.iter().map(|(name, count)| format!("{count} {name}")).collect();
        if words.is_empty() { "none".to_owned() } else { words.join(", ") }
    };
    let (middle, most) = (median(&all), all.iter().copied().fold(0.0, f64::max));
    Row::at_most(&format!("dial to ring: {}", case.name()), "round trips", case.bound(), TOLERANCE, middle).note(format!(
        "{} dials, slowest {most:.2}; rung by {}; frames before the invite: {}",
        done.len(),
        words(&ways),
        words(&before)
    ))
}

impl Town {
    /// Sets it up, without any delay.
    pub(crate) async fn build(link: &SlowLink, dials: usize) -> Result<Self> {
        link.set_delay(Duration::ZERO);
        let mut lab = Lab::new();
        let strangers = 2 * dials.div_ceil(CALLERS);
        let servers = join(&mut lab, Part::Server, SERVERS, "servers").await?;
        let callers = join(&mut lab, Part::Open, CALLERS, "callers").await?;
        let open = join(&mut lab, Part::Open, CALLEES, "callees").await?;
        let hidden = join(&mut lab, Part::Hidden, CALLEES, "callees at relays").await?;
        let strangers = join(&mut lab, Part::Open, strangers, "strangers").await?;
        for callee in &hidden {
            callee.wait_relayed(&callers[0]).await?;
        }
        eprintln!("making contacts");
        for caller in &callers {
            for callee in open.iter().chain(&hidden) {
                caller.befriend(callee).await?;
            }
        }
        Ok(Self { servers, callers, open, hidden, strangers })
    }

    async fn prepare(&self, case: Case, caller: &Member, callee: &Member) -> Result<()> {
        match case {
            Case::Connected => {
                if caller.connection(&callee.peer_id).await?.is_none_or(|peer| peer.relayed) {
                    caller.node.messages().send(&callee.username, "Are you there?").await?;
                    eventually("a connection", async || {
                        let peer = caller.connection(&callee.peer_id).await?;
                        Ok(peer.filter(|peer| !peer.relayed).map(|_| ()))
                    })
                    .await?;
                }
            }
            Case::Unconnected | Case::HolderConnected => caller.leave(&[callee]).await?,
            Case::RelayConnected => {
                let relays = callee.node.status().await?.relays;
                eventually("a connection with a relay of the callee", async || {
                    let peers = caller.node.peers().await?.peers;
                    let found = peers.iter().any(|peer| relays.contains(&peer.peer_id));
                    if !found {
                        // Whoever keeps records is connected to look one up.
                        let options = halloo::handle::directory::ResolveOptions { fresh: true, settled: true };
                        caller.node.directory().resolve(&callee.username, options).await?;
                    }
                    Ok(found.then_some(()))
                })
                .await?;
                caller.leave(&[callee]).await?;
            }
            Case::RelayUnconnected | Case::HolderUnconnected => {
                let everybody: Vec<&Member> = self.servers.iter().chain([callee]).collect();
                caller.leave(&everybody).await?;
            }
        }
        Ok(())
    }

    async fn dial(&self, tap: &Wiretap, case: Case, caller: &Member, callee: &Member) -> Result<Dial> {
        if case.is_cached() {
            caller.node.directory().resolve(&callee.username, Default::default()).await?;
        }
        self.settle(caller, callee).await?;
        let mut events = callee.node.subscribe();
        let dialler = caller.node.clone();
        let options = DialOptions::to(&callee.username);
        self.prepare(case, caller, callee).await?;
        tap.begin();
        let began = Instant::now();
        let outcome = tokio::spawn(async move { dialler.calls().dial(options).await });
        let ring = async {
            while let Some(record) = events.recv().await {
                if let Event::CallIncoming { call_id, via, .. } = record.event {
                    return Ok((began.elapsed(), call_id, via));
                }
            }
            bail!("the callee's node stopped")
        };
        let rang = tokio::time::timeout(RING_LIMIT, ring).await;
        let heard = tap.take();
        let Ok(rang) = rang else { bail!("didn't ring: {:?}", caller.node.calls().list().await?.calls.last()) };
        let (to_ring, call_id, way) = rang?;
        let until = began + to_ring;
        let before = before_invite(&heard, caller, until);
        callee.node.calls().decline(&call_id).await?;
        let _declined = outcome.await??;
        if std::env::var_os("HALLOO_BENCH_STAGES").is_some() {
            eprintln!("{} {:?} {way:?}: {:?}", case.name(), to_ring, caller.node.calls().show(&call_id).await?.stages);
            for frame in heard.iter().filter(|frame| frame.from == caller.peer_id) {
                eprintln!("  {:?} {:#06x} to {}", frame.at.map(|at| at - began), frame.kind, frame.to);
            }
        }
        Ok(Dial { to_ring, before, way })
    }

    /// Waits until nothing of earlier dials is under way.
    async fn settle(&self, caller: &Member, callee: &Member) -> Result<()> {
        eventually("the end of earlier calls", async || {
            let over = async |member: &Member| {
                let calls = member.node.calls().list().await?.calls;
                anyhow::Ok(calls.iter().all(|call| call.state == halloo::handle::calls::CallState::Ended))
            };
            Ok((over(caller).await? && over(callee).await?).then_some(()))
        })
        .await?;
        tokio::time::sleep(3 * ROUND_TRIP).await;
        Ok(())
    }
}

/// The caller's frames before the first invite of its own, or hand-over of one.
fn before_invite(heard: &[Sent], caller: &Member, until: Instant) -> Vec<String> {
    let own = heard.iter().filter(|frame| frame.from == caller.peer_id && frame.at.is_some_and(|at| at <= until));
    let is_invite = |frame: &&Sent| [CallInvite::KIND.0, InviteHandOver::KIND.0].contains(&frame.kind);
    own.take_while(|frame| !is_invite(frame)).map(|frame| name_of(frame.kind)).collect()
}

pub(crate) fn name_of(kind: u16) -> String {
    match kind {
        0x0010 => "look-up".to_owned(),
        kind => format!("{kind:#06x}"),
    }
}

async fn join(lab: &mut Lab, part: Part, count: usize, what: &str) -> Result<Vec<Member>> {
    let mut members = Vec::new();
    for _ in 0..count {
        members.push(lab.join(part).await?);
    }
    eprintln!("{count} {what} are ready");
    Ok(members)
}
