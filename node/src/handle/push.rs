//! Registrations that let a gateway wake this device.

use halloo_protocol::push::phone::{PhonePush, PhonePushed};
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
    /// Firebase Cloud Messaging: a data message, which the application hands to the node.
    Fcm {
        /// The application instance's registration token.
        token: String,
    },
    /// The Apple Push Notification service: the payload beside `aps`, which the application hands to the node.
    Apns {
        /// The device token, in hexadecimal digits.
        token: String,
        /// The application's identifier; with `.voip` at its end it takes calls and nothing else.
        topic: String,
        /// True if the token is of Apple's development environment.
        #[serde(default)]
        sandbox: bool,
    },
    /// A server of the user's own, which gets the payload by HTTP and hands it to the device.
    Webhook {
        /// Where it takes posts.
        url: String,
        /// The secret that signs them, `whsec_` and 32 bytes in base64; without one the node makes it, and the answer shows it.
        #[serde(default)]
        secret: Option<String>,
    },
    /// A short message that says that there is something; the payload waits at the gateway.
    Sms {
        /// The number, `+` and 7 to 15 digits.
        number: String,
    },
    /// A SIP request (MESSAGE) to a phone of the same user, at the SIP edge beside the gateway. The app that gets it hands the payload to the node.
    Sip {
        /// `sip:name@authority`, with `;gr=` and the phone's instance if one phone is meant.
        address: String,
    },
}

impl PushChannel {
    /// The channel's name, as the command line and JSON write it.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Stream {} => "stream",
            Self::Webpush { .. } => "webpush",
            Self::Fcm { .. } => "fcm",
            Self::Apns { .. } => "apns",
            Self::Webhook { .. } => "webhook",
            Self::Sms { .. } => "sms",
            Self::Sip { .. } => "sip",
        }
    }
}

/// Whether a gateway can use a channel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum ChannelState {
    /// It can.
    #[default]
    Live,
    /// The push service has ended it, as the gateway says: register anew.
    Dead,
}

impl ChannelState {
    /// The word that the command line and JSON use.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Dead => "dead",
        }
    }
}

/// A registration a gateway accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PushRegistration {
    /// What [`Push::unregister`] takes.
    pub id: String,
    /// The channel: `stream`, `webpush`, `fcm`, `apns`, `webhook`, `sms`, `sip`.
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
    /// Whether it can be used.
    #[serde(default)]
    pub state: ChannelState,
    /// Why it can't.
    #[serde(default)]
    pub reason: Option<String>,
    /// A webhook's secret, `whsec_` and base64, in the answer to its registration and never again.
    #[serde(default)]
    pub secret: Option<String>,
}

/// A registration that is no more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PushRemoved {
    /// Its id.
    pub id: String,
    /// True if the gateway has forgotten the channel too, or had before; false if it can't be reached, and forgets it when the registration expires.
    pub gateway_told: bool,
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
    /// No registration has this id.
    #[error("no registration {id}; see halloo push list")]
    NotFound {
        /// The id.
        id: String,
    },
    /// No gateway is known.
    #[error("no gateway is known; give one with --gateway")]
    NoGateway,
    /// The gateway can't be reached.
    #[error("gateway {gateway} is not reachable")]
    GatewayUnreachable {
        /// The gateway.
        gateway: String,
    },
    /// A field of a push session's request can't be used.
    #[error("invalid {field}: {reason}")]
    InvalidSession {
        /// Which field.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// This node is no gateway.
    #[error("this node isn't a gateway: run it with --role gateway")]
    NotAGateway,
    /// The gateway has no plan.
    #[error("{0}")]
    NoPlan(String),
    /// No such request waits for the user's word.
    #[error("no request {0} waits for an answer")]
    UnknownSession(String),
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
            Self::InvalidChannel { .. } | Self::InvalidSession { .. } | Self::InvalidPolicy { .. } => ProblemKind::InvalidRequest,
            Self::UnknownEvent { .. } | Self::NotRegistered | Self::NotFound { .. } => ProblemKind::NotFound,
            Self::NoGateway | Self::GatewayUnreachable { .. } => ProblemKind::Unreachable,
            Self::Refused { .. } | Self::NotAGateway | Self::NoPlan(_) | Self::UnknownSession(_) => ProblemKind::Refused,
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

    /// Takes a registration back; others at the same gateway stay.
    ///
    /// # Errors
    /// See [`PushError`].
    pub async fn unregister(&self, id: &str) -> Result<PushRemoved, PushError> {
        let id = id.to_owned();
        self.0.ask(|reply| Command::PushUnregister { id, reply }).await
    }

    /// Has a gateway wake a phone's app, or asks whom it can wake. Without `gateway` one of this device's own, or another that is known.
    ///
    /// # Errors
    /// See [`PushError`].
    pub(crate) async fn phone(&self, gateway: Option<String>, request: PhonePush) -> Result<PhonePushed, PushError> {
        self.0.ask(|reply| Command::PhonePush { gateway, request: Box::new(request), reply }).await
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
