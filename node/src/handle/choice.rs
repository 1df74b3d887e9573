//! Which of the user's devices an event goes to: what devices say of themselves, the policy, and why it decides as it does.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::devices::{DeviceError, DeviceView, Devices};
use super::problem::NodeError;
use super::push::{Push, PushError};
use super::{Command, Reply};
use crate::timestamp::Timestamp;

/// Whether a device is being used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum DeviceUsage {
    /// It had input a moment ago, senses its user, or is carried
    InUse,
    /// It is on, and nobody is at it
    Idle,
    /// Its screen is locked
    Locked,
    /// It sleeps
    Asleep,
}

/// What this device says of its use. Whatever watches for input says it anew on every change; the node repeats it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UsageReport {
    /// Whether it is in use.
    pub usage: DeviceUsage,
    /// Whether its user is near; absent if that isn't known.
    #[serde(default)]
    pub near: Option<bool>,
    /// How near, in metres, at most 10,000.
    #[serde(default)]
    pub metres: Option<u16>,
}

/// What this device can do. What is absent stays as it was.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AttributesReport {
    /// Its screen in pixels, `1920x1080`; `0x0` is none.
    pub screen: Option<String>,
    /// Whether it has a camera.
    pub camera: Option<bool>,
    /// MIME types it can show, at most 16; `image/*` stands for all images.
    pub formats: Option<Vec<String>>,
    /// Whether it can ring.
    pub can_ring: Option<bool>,
    /// The MAC address at which a magic packet wakes it; empty takes it back.
    pub wake_mac: Option<String>,
}

/// The newest that is known of a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DeviceReportView {
    /// When it said so.
    pub reported_at: Timestamp,
    /// Whether it is in use.
    pub usage: Option<DeviceUsage>,
    /// Whether its user is near.
    pub near: Option<bool>,
    /// How near, in metres.
    pub metres: Option<u16>,
    /// Its screen in pixels.
    pub screen: Option<String>,
    /// Whether it has a camera.
    pub camera: Option<bool>,
    /// MIME types it can show.
    pub formats: Option<Vec<String>>,
    /// Whether it can ring.
    pub can_ring: Option<bool>,
    /// The MAC address at which a magic packet wakes it.
    pub wake_mac: Option<String>,
}

/// The push policy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PushPolicy {
    /// Grows with every change, on whichever device; 0 if there never was one.
    pub version: u64,
    /// Its text in TOML; empty: there is none, and every device is told of everything at once.
    pub text: String,
}

/// What is to be explained: a call that came, or one that might.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ExplainOptions {
    /// Id of a call, message or file that came to this device: decided anew from what was known then.
    pub event_id: Option<String>,
    /// Without an id: the kind of event, `call`, `video`, `message`, `file` or `voicemail`; decided from what is known now.
    pub event: Option<String>,
    /// Who it would come from.
    pub from: Option<String>,
    /// MIME type of what would be shown.
    pub format: Option<String>,
    /// Text of the policy to decide by; absent: the one in force.
    pub policy: Option<String>,
}

/// A rule that doesn't apply.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PassedOverRule {
    /// Its number, from 1.
    pub rule: u32,
    /// `event`, `caller`, `unknown-caller`, `time` or `presence`.
    pub why: String,
    /// The same in words.
    pub detail: String,
}

/// A device's part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ChosenDevice {
    /// Its peer id.
    pub peer_id: String,
    /// Its name, if known.
    pub name: Option<String>,
    /// `no-policy`, `no-rule`, `all`, `in-use`, `nearest`, `kind`, `named`, `can-show`, `nobody-fits` or `not-answered`.
    pub because: String,
    /// The same in words, with what was known.
    pub detail: String,
    /// The peer id of the device that shows it instead, if this one can't: it gets a prompt that says so.
    pub shown_on: Option<String>,
}

/// Devices that are told together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ChosenStage {
    /// How long after the event, unless somebody has answered.
    pub after_secs: u16,
    /// Who, the best first.
    pub devices: Vec<ChosenDevice>,
}

/// Why an event goes where it goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PolicyExplanation {
    /// Kind of the event.
    pub event: String,
    /// Who it is from, if known.
    pub from: Option<String>,
    /// When it came.
    pub at: Timestamp,
    /// Version of the policy in force; `None` if another was given.
    pub version: Option<u64>,
    /// Number of the rule that decides, from 1.
    pub rule: Option<u32>,
    /// Its name.
    pub rule_name: Option<String>,
    /// Rules before it.
    pub passed_over: Vec<PassedOverRule>,
    /// Who is told, and when.
    pub stages: Vec<ChosenStage>,
}

/// What the event loop can be asked about the choice of devices.
#[derive(Debug)]
#[allow(missing_docs, reason = "each variant is documented at the handle method that sends it")]
pub enum ChoiceCommand {
    /// [`Devices::report_usage`]
    ReportUsage { report: UsageReport, reply: Reply<DeviceView, DeviceError> },
    /// [`Devices::set_attributes`]
    SetAttributes { attributes: AttributesReport, reply: Reply<DeviceView, DeviceError> },
    /// [`Push::policy`]
    Policy(Reply<PushPolicy, PushError>),
    /// [`Push::set_policy`]
    SetPolicy { text: String, reply: Reply<PushPolicy, PushError> },
    /// [`Push::explain`]
    Explain { options: ExplainOptions, reply: Reply<PolicyExplanation, PushError> },
}

impl ChoiceCommand {
    /// Refuses it, whatever it is.
    pub(crate) fn refuse(self, error: NodeError) {
        match self {
            Self::ReportUsage { reply, .. } | Self::SetAttributes { reply, .. } => reply.send(Err(error.into())),
            Self::Policy(reply) | Self::SetPolicy { reply, .. } => reply.send(Err(error.into())),
            Self::Explain { reply, .. } => reply.send(Err(error.into())),
        }
    }
}

impl Devices<'_> {
    /// Says whether this device is in use, and how near its user is. The user's other devices and the gateways are told.
    ///
    /// # Errors
    /// [`DeviceError::InvalidReport`].
    pub async fn report_usage(&self, report: UsageReport) -> Result<DeviceView, DeviceError> {
        self.0.ask(|reply| Command::Choice(ChoiceCommand::ReportUsage { report, reply })).await
    }

    /// Says what this device can do.
    ///
    /// # Errors
    /// [`DeviceError::InvalidReport`].
    pub async fn set_attributes(&self, attributes: AttributesReport) -> Result<DeviceView, DeviceError> {
        self.0.ask(|reply| Command::Choice(ChoiceCommand::SetAttributes { attributes, reply })).await
    }
}

impl Push<'_> {
    /// The policy in force.
    ///
    /// # Errors
    /// See [`PushError`].
    pub async fn policy(&self) -> Result<PushPolicy, PushError> {
        self.0.ask(|reply| Command::Choice(ChoiceCommand::Policy(reply))).await
    }

    /// Sets the policy, for all devices of the user. An empty text takes it back.
    ///
    /// # Errors
    /// [`PushError::InvalidPolicy`].
    pub async fn set_policy(&self, text: &str) -> Result<PushPolicy, PushError> {
        let text = text.to_owned();
        self.0.ask(|reply| Command::Choice(ChoiceCommand::SetPolicy { text, reply })).await
    }

    /// Decides on an event that came, or one that might, and says why.
    ///
    /// # Errors
    /// [`PushError::InvalidPolicy`], [`PushError::UnknownEvent`].
    pub async fn explain(&self, options: ExplainOptions) -> Result<PolicyExplanation, PushError> {
        self.0.ask(|reply| Command::Choice(ChoiceCommand::Explain { options, reply })).await
    }
}
