//! A whole network on this machine, in one process, over loopback sockets.
//!
//! [`run`] is what `halloo testnet` does: the tour of all capabilities, or a scenario from a file. [`Network`] is the network alone, for
//! examples and tests.

mod network;
mod report;
mod scenario;
mod scratch;
mod tour;

use std::path::PathBuf;
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio_util::sync::CancellationToken;

pub use self::network::{AUTHORITY, Network, NetworkOptions, Person, UserOptions, full_name, wait_ready};
use self::report::{Outcome, Report};
use self::scenario::Scenario;
use self::tour::Cast;
use crate::handle::problem::NodeError;

/// What `halloo testnet` is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TestnetOptions {
    /// How many users; `None`: as many as the tour needs.
    pub nodes: Option<u32>,
    /// Seed of everything random; `None`: one is drawn and told.
    pub seed: Option<u64>,
    /// A scenario file instead of the tour.
    pub scenario: Option<PathBuf>,
    /// Keep the network running after the tour, until `stop` is cancelled.
    pub stay: bool,
    /// Enrol everybody without invite.
    pub open: bool,
}

/// What a test network tells while it runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum TestnetEvent {
    /// A stage begins; shown as progress, not part of the JSON lines.
    StageStarted {
        /// Its name.
        name: String,
    },
    /// A stage is over.
    Stage(Stage),
    /// The network stays; how to reach its nodes.
    Staying {
        /// Homes of its nodes: `halloo --home HOME ..` talks to them.
        homes: Vec<PathBuf>,
    },
    /// All is over; the last event.
    Summary {
        /// Whether every stage worked.
        ok: bool,
        /// The stages, in order.
        stages: Vec<Stage>,
    },
}

/// One stage of the tour or the scenario.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Stage {
    /// Its name.
    pub name: String,
    /// Whether it worked.
    pub ok: bool,
    /// How long it took.
    pub elapsed_ms: u64,
    /// What happened, in words.
    pub detail: String,
}

/// Why a test network could not be set up. A stage that fails is no error of this kind.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TestnetError {
    /// The scenario file can't be used.
    #[error("{}: {reason}", path.display())]
    Scenario {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A node can't run.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// Something else on this machine is in the way.
    #[error("can't set up the network: {reason}")]
    Setup {
        /// What.
        reason: String,
    },
}

impl TestnetError {
    fn setup(reason: impl std::fmt::Display) -> Self {
        Self::Setup { reason: reason.to_string() }
    }
}

/// Users of the tour when nothing is said.
const USERS_DEFAULT: u32 = 5;

/// Fewer can't talk to each other.
const USERS_MIN: u32 = 2;

/// What the first users are called; further ones are `user-6`, `user-7`, ..
const NAMES: [&str; 5] = ["alice", "bob", "carol", "dave", "erin"];

/// So many users, the first, can be frozen whole when they are suspended. It costs a thread each.
const FREEZABLE_MAX: usize = 20;

/// How long it may take until everybody is ready.
const NETWORK_LIMIT: Duration = Duration::from_secs(600);

/// Runs a test network; returns whether every stage worked.
///
/// # Errors
/// See [`TestnetError`].
pub async fn run(
    options: TestnetOptions,
    stop: CancellationToken,
    mut on_event: impl FnMut(TestnetEvent),
) -> Result<bool, TestnetError> {
    let scenario = options.scenario.as_deref().map(Scenario::load).transpose()?;
    let seed = match options.seed {
        Some(seed) => seed,
        // Short enough to be typed again.
        None => u64::from(u32::from_be_bytes(crate::key_file::random_bytes().map_err(TestnetError::setup)?)),
    };
    let mut rng = StdRng::seed_from_u64(seed);
    let users = users(&options, scenario.as_ref());
    let mut network =
        Network::start(NetworkOptions { open: options.open, homes: options.stay, strangers: scenario.is_some() }).await?;
    let mut report = Report::new(stop, &mut on_event);
    if report.stage("network up", NETWORK_LIMIT, bring_up(&mut network, &users, seed)).await {
        match &scenario {
            Some(scenario) => scenario::play::play(&mut network, scenario, &mut rng, &mut report).await,
            None => tour::tour(&mut network, &Cast::new(&users), &mut rng, &mut report).await,
        }
        if options.stay && !report.stop().is_cancelled() {
            stay(&mut network, &mut report).await;
        }
    }
    network.shutdown().await;
    Ok(report.finish())
}

fn users(options: &TestnetOptions, scenario: Option<&Scenario>) -> Vec<String> {
    match scenario {
        Some(scenario) => scenario::all_users(&scenario.users, options.nodes.unwrap_or(0).max(scenario.nodes)),
        None => user_names(options.nodes.unwrap_or(USERS_DEFAULT).max(USERS_MIN)),
    }
}

async fn stay(network: &mut Network, report: &mut Report<'_>) {
    // What was killed on the way would not answer.
    let dead: Vec<String> = network.users().filter(|name| network.node(name).is_none()).map(str::to_owned).collect();
    for name in dead {
        if let Err(error) = network.restart(&name).await {
            tracing::warn!(%error, name, "not started again");
        }
    }
    report.tell(TestnetEvent::Staying { homes: network.homes() });
    report.stop().cancelled().await;
}

fn user_names(count: u32) -> Vec<String> {
    let names = (1..=count as usize).map(|n| NAMES.get(n - 1).map_or_else(|| format!("user-{n}"), |name| (*name).to_owned()));
    names.collect()
}

async fn bring_up(network: &mut Network, users: &[String], seed: u64) -> Outcome {
    let before = resident_bytes();
    let options = users
        .iter()
        .enumerate()
        .map(|(index, name)| (name.clone(), UserOptions { freezable: index < FREEZABLE_MAX, ..UserOptions::default() }));
    network.add_users(options.collect::<Vec<_>>()).await?;
    let memory = before.zip(resident_bytes()).map_or_else(String::new, |(before, after)| {
        let each = after.saturating_sub(before) / (users.len() as u64).max(1);
        format!(", {:.1} MB resident, {:.1} MB a node", megabytes(after), megabytes(each))
    });
    Ok(format!("{} users and the infrastructure are ready{memory}; seed {seed}", users.len()))
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

/// The memory this process occupies; `None` where the system doesn't say.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1_024)
}
