//! Push sessions: what a device lets gateways ask for, and, on a gateway, asking.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::problem::NodeError;
use super::push::{Push, PushError};
use super::{Command, Reply};

/// An application of this device, or of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PushApplication {
    /// Its id.
    pub id: String,
    /// Its name for people; may be empty.
    #[serde(default)]
    pub name: String,
}

/// A gateway that may ask this device for sessions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PushSubscription {
    /// Its peer id.
    pub gateway: String,
    /// For these applications; empty: for all.
    #[serde(default)]
    pub applications: Vec<String>,
}

/// What is done with requests for sessions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PushAcceptance {
    /// A session is opened.
    #[default]
    Always,
    /// The user is asked, by an event.
    Ask,
    /// It is refused.
    Never,
}

/// What this device tells its gateways of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PushSettings {
    /// Gateways that may ask for sessions.
    pub subscriptions: Vec<PushSubscription>,
    /// What is done with their requests.
    pub sessions: PushAcceptance,
    /// Applications that nobody may activate.
    pub unwanted: Vec<String>,
    /// What may be told: `capabilities`, `preferences`, `security`, `subscriptions`, `refusal`.
    pub disclose: Vec<String>,
    /// Further names of the device, `KIND:VALUE`.
    pub identifiers: Vec<String>,
    /// Applications that are there to take pushes.
    pub applications: Vec<PushApplication>,
}

/// A change of [`PushSettings`]: what is left out stays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PushSettingsChange {
    /// Adds a subscription, or changes its applications.
    pub subscribe: Option<PushSubscription>,
    /// Ends a subscription: the gateway's peer id.
    pub unsubscribe: Option<String>,
    /// See [`PushSettings::sessions`].
    pub sessions: Option<PushAcceptance>,
    /// See [`PushSettings::unwanted`].
    pub unwanted: Option<Vec<String>>,
    /// See [`PushSettings::disclose`].
    pub disclose: Option<Vec<String>>,
    /// See [`PushSettings::identifiers`].
    pub identifiers: Option<Vec<String>>,
    /// See [`PushSettings::applications`].
    pub applications: Option<Vec<PushApplication>>,
}

/// Which of a user's clients are asked for a session, and for what. For operators of a gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PushSessionOptions {
    /// The user, `name@authority`.
    pub identity: String,
    /// Device identifiers, `KIND:VALUE`; none: all clients.
    #[serde(default)]
    pub devices: Vec<String>,
    /// `A`, `B` or `C`; without it the gateway chooses.
    #[serde(default)]
    pub mode: Option<String>,
    /// The application to activate.
    #[serde(default)]
    pub application: Option<PushApplication>,
    /// Whether it is activated before connecting; after it otherwise.
    #[serde(default)]
    pub before: bool,
    /// What to return: names as in [`PushSettings::disclose`].
    #[serde(default)]
    pub ask: Vec<String>,
    /// Whether clients are to register anew.
    #[serde(default)]
    pub register: bool,
    /// What to push, at most 1,024 bytes.
    #[serde(default)]
    pub content: Option<String>,
    /// The server to connect to, a multiaddress with peer id; without it this gateway.
    #[serde(default)]
    pub server: Option<String>,
}

/// What became of one client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PushSessionClient {
    /// Its peer id.
    pub peer_id: String,
    /// `open`, `delivered`, `opening`, `asking`, `ignored`, `refused`, `left`, `sent`, `unreachable`.
    pub outcome: String,
    /// Why, in words.
    pub reason: Option<String>,
    /// What it has returned, by name.
    pub answers: serde_json::Value,
}

/// A gateway's plan, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PushSessionReport {
    /// `A`: one request for each client; `B`: to all; `C`: to all, and those that match respond.
    pub mode: String,
    /// Why this mode.
    pub reason: String,
    /// Every client of the identity.
    pub clients: Vec<PushSessionClient>,
}

/// What another bearer brought for this device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PushSessionBrought {
    /// `http`, `sms`, `ussd`, `wsp`, `datagram` or `stream`.
    pub encapsulation: String,
    /// The messages as they came, base64url without padding; of a bearer with short messages, one after the other or together.
    pub messages: Vec<String>,
    /// Who sent them, as the bearer says: segments of one sender belong together.
    #[serde(default)]
    pub sender: String,
}

/// What this device does with a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PushSessionTaken {
    /// `opening`, `asking`, `refused`, `ignored`; `incomplete` while segments are missing.
    pub status: String,
    /// Why it is refused or ignored, in a word.
    pub reason: Option<String>,
}

/// A user's word on a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PushSessionChoice {
    /// Whether the session is opened.
    pub accept: bool,
}

/// Commands on push sessions.
#[derive(Debug)]
#[allow(missing_docs, reason = "each variant is documented at the handle method that sends it")]
pub enum PushSessionCommand {
    /// [`Push::settings`]
    Settings(Reply<PushSettings, PushError>),
    /// [`Push::change_settings`]
    Change { change: PushSettingsChange, reply: Reply<PushSettings, PushError> },
    /// [`Push::request_sessions`]
    Request { options: Box<PushSessionOptions>, reply: Reply<PushSessionReport, PushError> },
    /// [`Push::take_session_request`]
    Take { brought: PushSessionBrought, reply: Reply<PushSessionTaken, PushError> },
    /// [`Push::answer_session_request`]
    Answer { id: String, choice: PushSessionChoice, reply: Reply<PushSessionTaken, PushError> },
}

impl PushSessionCommand {
    /// Answers that it can't be done now.
    pub(crate) fn refuse(self, error: NodeError) {
        match self {
            Self::Settings(reply) | Self::Change { reply, .. } => reply.send(Err(error.into())),
            Self::Request { reply, .. } => reply.send(Err(error.into())),
            Self::Take { reply, .. } | Self::Answer { reply, .. } => reply.send(Err(error.into())),
        }
    }
}

impl Push<'_> {
    /// What this device tells its gateways of itself.
    ///
    /// # Errors
    /// See [`PushError`].
    pub async fn settings(&self) -> Result<PushSettings, PushError> {
        self.0.ask(|reply| Command::PushSessions(PushSessionCommand::Settings(reply))).await
    }

    /// Changes it. Gateways that the device is registered with hear of it at once if they are reachable.
    ///
    /// # Errors
    /// See [`PushError`].
    pub async fn change_settings(&self, change: PushSettingsChange) -> Result<PushSettings, PushError> {
        self.0.ask(|reply| Command::PushSessions(PushSessionCommand::Change { change, reply })).await
    }

    /// As a gateway: gets the wanted ones of a user's clients to open a session. Answered when all have said what they do, within 10 s.
    ///
    /// # Errors
    /// See [`PushError`].
    pub async fn request_sessions(&self, options: PushSessionOptions) -> Result<PushSessionReport, PushError> {
        let options = Box::new(options);
        self.0.ask(|reply| Command::PushSessions(PushSessionCommand::Request { options, reply })).await
    }

    /// Takes a request for a session that another bearer brought.
    ///
    /// # Errors
    /// See [`PushError`].
    pub async fn take_session_request(&self, brought: PushSessionBrought) -> Result<PushSessionTaken, PushError> {
        self.0.ask(|reply| Command::PushSessions(PushSessionCommand::Take { brought, reply })).await
    }

    /// The user's word on a request that was told as `asking`.
    ///
    /// # Errors
    /// See [`PushError`].
    pub async fn answer_session_request(&self, id: &str, choice: PushSessionChoice) -> Result<PushSessionTaken, PushError> {
        let id = id.to_owned();
        self.0.ask(|reply| Command::PushSessions(PushSessionCommand::Answer { id, choice, reply })).await
    }
}
