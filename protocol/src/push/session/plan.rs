//! The gateway's plan: which of an identity's clients get a session initiation request, and how they are told apart. A pure function, each step with its reason.
//!
//! What the gateway knows of a client (its registration's terms) spares requests that the client would refuse; what it doesn't know, the client decides.

use super::{Acceptance, SessionMode, SessionTerms};
use crate::key::DeviceKey;
use crate::push::session::IdentifierError;
use crate::push::{IDENTIFIERS_MAX, Identifier};

/// What a gateway knows of one client of an identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownClient {
    /// The client's device.
    pub device: DeviceKey,
    /// Its identifiers, in normal form.
    pub identifiers: Vec<Identifier>,
    /// Ids of its applications; empty if it didn't say.
    pub applications: Vec<String>,
    /// Its subscription and preferences; `None` if it didn't say.
    pub terms: Option<SessionTerms>,
    /// Whether it has a session with this gateway.
    pub has_session: bool,
    /// Whether it is connected.
    pub is_connected: bool,
    /// Whether it can be activated otherwise: by a push service, or another bearer.
    pub can_be_woken: bool,
}

/// What is wanted.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// Device identifiers, in normal form; empty: every client.
    pub identifiers: &'a [Identifier],
    /// The mode, if it isn't to be chosen.
    pub mode: Option<SessionMode>,
    /// The application to be activated.
    pub application: Option<&'a str>,
}

/// Why the mode is what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum ModeReason {
    /// There is one client.
    #[error("the identity has no other clients: the identifier is left out")]
    OnlyClient,
    /// All clients are wanted.
    #[error("all clients are wanted: the identifiers are left out")]
    EveryClient,
    /// Each identifier belongs to a client that is known.
    #[error("each client wanted is known by its identifier")]
    EachKnown,
    /// Some identifier belongs to no client that is known, but perhaps to one that didn't say so.
    #[error("not every identifier is known here: the clients compare")]
    SomeUnknown,
    /// It was asked for.
    #[error("asked for")]
    Asked,
}

/// Why a client gets no request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum LeaveReason {
    /// It isn't wanted.
    #[error("not wanted")]
    NotWanted,
    /// It isn't subscribed to this gateway, or not for this application.
    #[error("not subscribed")]
    NotSubscribed,
    /// Its user doesn't want sessions, or not for this application.
    #[error("the user wants none")]
    Preference,
    /// It hasn't the application.
    #[error("the application isn't there")]
    NoApplication,
    /// It isn't connected and can't be woken.
    #[error("not connected, and no way to wake it")]
    NoWay,
}

/// What is done about one client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientStep {
    /// It has a session: what is to be pushed goes there.
    Deliver,
    /// It gets a request with these identifiers.
    Request {
        /// What the request carries.
        identifiers: Vec<Identifier>,
    },
    /// Nothing.
    Leave(LeaveReason),
}

/// What is done about an identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionPlan {
    /// How the clients are told apart.
    pub mode: SessionMode,
    /// Why so.
    pub reason: ModeReason,
    /// Each client and what is done about it, in the order they were given.
    pub clients: Vec<(DeviceKey, ClientStep)>,
}

/// Why there is no plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// Nobody is registered.
    #[error("no client of this identity is registered here")]
    NoClients,
    /// More than [`IDENTIFIERS_MAX`].
    #[error("{0} identifiers, at most {IDENTIFIERS_MAX}")]
    TooMany(usize),
    /// One isn't an identifier, or not in normal form.
    #[error("{0}")]
    Identifier(#[from] IdentifierError),
    /// Mode A routes by identifier, and this one leads nowhere.
    #[error("no client is known by the identifier of kind {0}")]
    UnknownIdentifier(String),
    /// Modes A and C need identifiers.
    #[error("mode {0} needs a device identifier")]
    NoIdentifier(char),
}

/// Plans whom of `clients`, all those of one identity, to ask.
///
/// # Errors
/// [`PlanError`].
pub fn plan(wanted: &Wanted<'_>, clients: &[KnownClient]) -> Result<SessionPlan, PlanError> {
    if wanted.identifiers.len() > IDENTIFIERS_MAX {
        return Err(PlanError::TooMany(wanted.identifiers.len()));
    }
    for identifier in wanted.identifiers {
        if identifier.normal()? != *identifier {
            return Err(IdentifierError::Value.into());
        }
    }
    if clients.is_empty() {
        return Err(PlanError::NoClients);
    }
    let (mode, reason) = choose_mode(wanted, clients)?;
    let steps = clients.iter().map(|client| (client.device, step(wanted, mode, reason, client))).collect();
    Ok(SessionPlan { mode, reason, clients: steps })
}

fn choose_mode(wanted: &Wanted<'_>, clients: &[KnownClient]) -> Result<(SessionMode, ModeReason), PlanError> {
    let is_known = |identifier: &Identifier| clients.iter().any(|client| client.identifiers.contains(identifier));
    let unknown = wanted.identifiers.iter().find(|identifier| !is_known(identifier));
    // First of all: has the identity others than those that are wanted?
    let are_all_wanted = clients.iter().all(|client| is_wanted(wanted, client)) && unknown.is_none();
    if let (Some(mode @ (SessionMode::One | SessionMode::Matching)), true, false) =
        (wanted.mode, wanted.identifiers.is_empty(), clients.len() == 1)
    {
        return Err(PlanError::NoIdentifier(mode.letter()));
    }
    if are_all_wanted {
        return Ok(match clients.len() {
            1 => (SessionMode::One, ModeReason::OnlyClient),
            _ => (SessionMode::All, ModeReason::EveryClient),
        });
    }
    match (wanted.mode, unknown) {
        (Some(SessionMode::One), Some(unknown)) => Err(PlanError::UnknownIdentifier(unknown.kind.clone())),
        (Some(mode), _) => Ok((mode, ModeReason::Asked)),
        (None, None) => Ok((SessionMode::One, ModeReason::EachKnown)),
        (None, Some(_)) => Ok((SessionMode::Matching, ModeReason::SomeUnknown)),
    }
}

fn is_wanted(wanted: &Wanted<'_>, client: &KnownClient) -> bool {
    wanted.identifiers.is_empty() || client.identifiers.iter().any(|known| wanted.identifiers.contains(known))
}

fn step(wanted: &Wanted<'_>, mode: SessionMode, reason: ModeReason, client: &KnownClient) -> ClientStep {
    let is_wanted = is_wanted(wanted, client);
    if !is_wanted && (mode == SessionMode::One || client.has_session) {
        return ClientStep::Leave(LeaveReason::NotWanted);
    }
    if let Some(reason) = known_refusal(wanted.application, client) {
        return ClientStep::Leave(reason);
    }
    if client.has_session {
        return ClientStep::Deliver;
    }
    if !client.is_connected && !client.can_be_woken {
        return ClientStep::Leave(LeaveReason::NoWay);
    }
    let identifiers = match mode {
        SessionMode::All => Vec::new(),
        SessionMode::One if reason == ModeReason::OnlyClient => Vec::new(),
        SessionMode::One => wanted.identifiers.iter().find(|one| client.identifiers.contains(one)).cloned().into_iter().collect(),
        SessionMode::Matching => wanted.identifiers.to_vec(),
    };
    ClientStep::Request { identifiers }
}

/// Why the client would refuse, as far as it has told.
fn known_refusal(application: Option<&str>, client: &KnownClient) -> Option<LeaveReason> {
    let terms = client.terms.as_ref()?;
    if !terms.subscription.as_ref().is_some_and(|known| known.covers(application)) {
        return Some(LeaveReason::NotSubscribed);
    }
    let preferences = &terms.preferences;
    if preferences.acceptance == Acceptance::Never || application.is_some_and(|id| preferences.unwanted.iter().any(|no| no == id))
    {
        return Some(LeaveReason::Preference);
    }
    let is_there = application.is_none_or(|id| client.applications.iter().any(|known| known == id));
    (!is_there).then_some(LeaveReason::NoApplication)
}
