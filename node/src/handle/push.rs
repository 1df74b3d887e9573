//! Registrations that let a gateway wake this device.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::problem::{Fault, NodeError, ProblemKind};
use super::{Command, Node};
use crate::timestamp::Timestamp;

/// Push registrations; from [`Node::push`].
#[derive(Clone, Copy, Debug)]
pub struct Push<'a>(pub(super) &'a Node);

/// What to register: the channel, and through which gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PushTarget {
    /// How the gateway reaches the sleeping device.
    pub channel: PushChannel,
    /// The gateway's peer id or multiaddress; `None`: the one this node prefers.
    #[serde(default)]
    pub gateway: Option<String>,
}

/// How a gateway reaches a sleeping device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
#[non_exhaustive]
pub enum PushChannel {
    /// Straight to the device over the connection it keeps to its gateway: for a device that is awake or in the background and that others
    /// can't reach. A suspended one reads nothing; it needs a push service.
    Stream {},
    /// Web Push (RFC 8030) with message encryption (RFC 8291), as browsers and
    /// UnifiedPush distributors offer it.
    Webpush {
        /// The push resource's URL; without one the node runs a push service for itself, on this machine.
        #[serde(default)]
        endpoint: Option<String>,
        /// The receiver's P-256 public key, uncompressed, base64url; without one the node makes keys and opens payloads itself.
        #[serde(default)]
        p256dh: Option<String>,
        /// The 16-byte authentication secret, base64url; together with `p256dh`.
        #[serde(default)]
        auth: Option<String>,
    },
}

impl PushChannel {
    /// The channel's name, as the command line and JSON write it.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Stream {} => "stream",
            Self::Webpush { .. } => "webpush",
        }
    }
}

/// A registration a gateway accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PushRegistration {
    /// Its id at the gateway.
    pub id: String,
    /// The channel: `stream`, `webpush`, ..
    pub kind: String,
    /// The gateway's peer id.
    pub gateway: String,
    /// When it was made.
    pub registered_at: Timestamp,
    /// Until when the gateway keeps it, if it said so.
    pub expires_at: Option<Timestamp>,
    /// Version of the push policy that the gateway decides by; `None`: it has none of this user.
    #[serde(default)]
    pub policy_version: Option<u64>,
}

/// This device's registrations.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PushList {
    /// The registrations.
    pub registrations: Vec<PushRegistration>,
}

/// What came of ringing this device through its gateways.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PushTest {
    /// Whether it came back through every gateway by every channel.
    pub ok: bool,
    /// Each gateway.
    pub gateways: Vec<PushTestGateway>,
}

/// What came of it at one gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PushTestGateway {
    /// The gateway's peer id.
    pub gateway: String,
    /// Whether all stages went well.
    pub ok: bool,
    /// The gateway's answer, then what came back, in the order in which it came.
    pub stages: Vec<PushTestStage>,
}

/// One stage of a test.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PushTestStage {
    /// Which.
    pub step: PushTestStep,
    /// Whether it went well.
    pub ok: bool,
    /// When, since the test began.
    pub at_ms: u64,
    /// What happened.
    pub detail: String,
}

/// A stage's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PushTestStep {
    /// The gateway took the push.
    Gateway,
    /// It came back on the gateway's stream, and rang.
    Stream,
    /// It came back from a push service, and rang.
    Service,
}

/// Why an operation on push registrations failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PushError {
    /// The node can't do it now.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// The channel's parameters can't be used.
    #[error("invalid {field}: {reason}")]
    InvalidChannel {
        /// Which parameter.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The text is no policy.
    #[error("not a policy: {reason}")]
    InvalidPolicy {
        /// What is wrong with it, and where.
        reason: String,
    },
    /// Nothing is kept of such an event.
    #[error("nothing is known of a call {event_id}: it didn't come to this device, or too many came since")]
    UnknownEvent {
        /// What was asked for.
        event_id: String,
    },
    /// No gateway can wake this device yet.
    #[error("no gateway can wake this device: halloo push register stream, or webpush")]
    NotRegistered,
    /// No gateway is known.
    #[error("no gateway is known; give one with --gateway")]
    NoGateway,
    /// The gateway can't be reached.
    #[error("gateway {gateway} is not reachable")]
    GatewayUnreachable {
        /// The gateway.
        gateway: String,
    },
    /// The gateway refused.
    #[error("gateway {gateway} refused the registration: {reason}")]
    Refused {
        /// The gateway.
        gateway: String,
        /// What it said.
        reason: String,
    },
}

impl Fault for PushError {
    fn kind(&self) -> ProblemKind {
        match self {
            Self::Node(error) => error.kind(),
            Self::InvalidChannel { .. } | Self::InvalidPolicy { .. } => ProblemKind::InvalidRequest,
            Self::UnknownEvent { .. } | Self::NotRegistered => ProblemKind::NotFound,
            Self::NoGateway | Self::GatewayUnreachable { .. } => ProblemKind::Unreachable,
            Self::Refused { .. } => ProblemKind::Refused,
        }
    }
}

impl Push<'_> {
    /// Registers a channel at a gateway, so that it can wake this device.
    ///
    /// # Errors
    /// See [`PushError`].
    pub async fn register(&self, target: PushTarget) -> Result<PushRegistration, PushError> {
        self.0.ask(|reply| Command::PushRegister { target, reply }).await
    }

    /// This device's registrations.
    ///
    /// # Errors
    /// See [`PushError`].
    pub async fn list(&self) -> Result<PushList, PushError> {
        self.0.ask(Command::PushList).await
    }

    /// Rings this very device through the whole chain: to each of its gateways, from there by each of its channels, and back. Takes up to 15 seconds.
    ///
    /// # Errors
    /// See [`PushError`].
    pub async fn test(&self) -> Result<PushTest, PushError> {
        self.0.ask(Command::PushTest).await
    }
}
