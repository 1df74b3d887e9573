//! Suspending and waking the node, as a phone's operating system would.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::problem::{Fault, NodeError, ProblemKind};
use super::{Command, Node};

/// How to suspend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SuspendOptions {
    /// Take leave of peers first. Without it the node freezes as an operating system would
    /// freeze it: says nothing, closes nothing on the wire, leaves only the push registration.
    pub clean: bool,
}

/// The node is suspended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Suspended {
    /// Always true.
    pub suspended: bool,
    /// Whether it took leave first.
    pub clean: bool,
    /// How many push registrations can wake it.
    pub push_registrations: u32,
}

/// The node is awake again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WakeOutcome {
    /// Whether it had been asleep; waking a node that is awake is no error.
    pub was_suspended: bool,
    /// For how long it slept.
    pub suspended_ms: u64,
    /// The call that the payload announced, if it carried one.
    pub call_id: Option<String>,
    /// The message that the payload held or announced, if it did.
    #[serde(default)]
    pub message_id: Option<String>,
    /// Who calls, or wrote, `name@authority`.
    pub from: Option<String>,
}

/// Why suspending or waking failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PowerError {
    /// The node can't do it now.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// The payload is larger than a push message can be.
    #[error("the payload has {bytes} bytes, at most {max} are allowed")]
    PayloadTooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// The payload isn't for this device, too old, or doesn't verify. The node is awake anyway.
    #[error("the push payload was refused: {reason}")]
    PayloadRefused {
        /// The check that failed.
        reason: String,
    },
}

impl Fault for PowerError {
    fn kind(&self) -> ProblemKind {
        match self {
            Self::Node(error) => error.kind(),
            Self::PayloadTooLarge { .. } => ProblemKind::TooLarge,
            Self::PayloadRefused { .. } => ProblemKind::Untrusted,
        }
    }
}

impl Node {
    /// Freezes the node: no traffic at all until [`Node::wake`] or a push message.
    /// The local API stays.
    ///
    /// # Errors
    /// See [`PowerError`].
    pub async fn suspend(&self, options: SuspendOptions) -> Result<Suspended, PowerError> {
        self.ask(|reply| Command::Suspend { options, reply }).await
    }

    /// Wakes the node; `payload` is what the operating system's push service delivered.
    ///
    /// # Errors
    /// See [`PowerError`].
    pub async fn wake(&self, payload: Option<Vec<u8>>) -> Result<WakeOutcome, PowerError> {
        self.ask(|reply| Command::Wake { payload, reply }).await
    }
}
