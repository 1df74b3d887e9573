//! A whole network on this machine, in one process, over loopback sockets.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio_util::sync::CancellationToken;

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

/// Runs a test network; returns whether every stage worked.
///
/// # Errors
/// See [`TestnetError`].
pub async fn run(
    _options: TestnetOptions,
    _stop: CancellationToken,
    _on_event: impl FnMut(TestnetEvent),
) -> Result<bool, TestnetError> {
    Err(NodeError::Unsupported { what: "a test network" }.into())
}
