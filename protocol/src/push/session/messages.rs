//! What gateway, client and server say to each other about a session.

use std::fmt;

use bincode::{Decode, Encode};

use super::{
    Application, SESSION_CONTENT_BYTES_MAX, SessionInitiation, SessionNonce, SessionPreferences, Subscription,
    check_applications, check_content, check_names,
};
use crate::push::{APPLICATIONS_MAX, CHANNELS_MAX, LANGUAGES_MAX, NAME_BYTES_MAX, PushWay};
use crate::time::UnixTime;
use crate::wire::{Body, DecodeError, Extensions, FrameKind, Message, Signed};

/// Why a request is ignored, a session refused, or content not taken. Its own number on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct SessionReason(pub u16);

impl SessionReason {
    /// The gateway isn't one that the client subscribed to.
    pub const NOT_SUBSCRIBED: Self = Self(1);
    /// The gateway didn't sign it.
    pub const SIGNATURE: Self = Self(2);
    /// Too late.
    pub const EXPIRED: Self = Self(3);
    /// Dated in the future.
    pub const FUTURE: Self = Self(4);
    /// It was taken before.
    pub const REPLAYED: Self = Self(5);
    /// For another identity.
    pub const OTHER_IDENTITY: Self = Self(6);
    /// For another of the identity's clients.
    pub const OTHER_CLIENT: Self = Self(7);
    /// There is a session already.
    pub const HAS_SESSION: Self = Self(8);
    /// The user wants none.
    pub const PREFERENCE: Self = Self(9);
    /// The application isn't on this device.
    pub const NO_APPLICATION: Self = Self(10);
    /// The user was asked, and said no.
    pub const USER: Self = Self(11);
    /// Too many requests.
    pub const BUSY: Self = Self(12);
    /// The server knows of no such request.
    pub const UNKNOWN: Self = Self(13);
    /// The asker isn't certified as who was meant.
    pub const NOT_CERTIFIED: Self = Self(14);
    /// This node is no gateway.
    pub const NOT_SERVED: Self = Self(15);

    /// A word for it, for JSON and scripts.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::NOT_SUBSCRIBED => "not-subscribed",
            Self::SIGNATURE => "signature",
            Self::EXPIRED => "expired",
            Self::FUTURE => "future",
            Self::REPLAYED => "replayed",
            Self::OTHER_IDENTITY => "other-identity",
            Self::OTHER_CLIENT => "other-client",
            Self::HAS_SESSION => "has-session",
            Self::PREFERENCE => "preference",
            Self::NO_APPLICATION => "no-application",
            Self::USER => "user",
            Self::BUSY => "busy",
            Self::UNKNOWN => "unknown",
            Self::NOT_CERTIFIED => "not-certified",
            Self::NOT_SERVED => "not-served",
            Self(_) => "other",
        }
    }
}

impl fmt::Display for SessionReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match *self {
            Self::NOT_SUBSCRIBED => "not subscribed to this gateway",
            Self::SIGNATURE => "not signed by the gateway",
            Self::EXPIRED => "past its time",
            Self::FUTURE => "dated in the future",
            Self::REPLAYED => "taken before",
            Self::OTHER_IDENTITY => "for another identity",
            Self::OTHER_CLIENT => "for another client",
            Self::HAS_SESSION => "there is a session already",
            Self::PREFERENCE => "the user wants none",
            Self::NO_APPLICATION => "the application isn't there",
            Self::USER => "the user said no",
            Self::BUSY => "too many requests",
            Self::UNKNOWN => "no such request",
            Self::NOT_CERTIFIED => "not certified as who was meant",
            Self::NOT_SERVED => "no gateway",
            Self(other) => return write!(f, "reason {other}"),
        })
    }
}

/// A session initiation request on the client's stream.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct SessionRequest {
    /// The request.
    pub initiation: Signed<SessionInitiation>,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Message for SessionRequest {
    const KIND: FrameKind = FrameKind(0x004a);
    const LIMIT: usize = SessionInitiation::LIMIT + 512;
}

/// What a client does with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum SessionStatus {
    /// Nothing.
    Ignored(SessionReason),
    /// It opens a session.
    Opening,
    /// Its user is asked; a session, or a refusal if one was asked for, may follow.
    Asking,
    /// It won't.
    Refused(SessionReason),
}

/// Answer to [`SessionRequest`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct SessionRequested {
    /// What happens.
    pub status: SessionStatus,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Message for SessionRequested {
    const KIND: FrameKind = FrameKind(FrameKind::ANSWER | SessionRequest::KIND.0);
    const LIMIT: usize = 256;
}

/// What a device is and can do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct DeviceCapabilities {
    /// Its software and version.
    pub agent: String,
    /// Its applications.
    pub applications: Vec<Application>,
    /// Languages, preferred first.
    pub languages: Vec<String>,
    /// How the gateway can reach it.
    pub ways: Vec<PushWay>,
}

/// What the client goes by when it believes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct SecurityInformation {
    /// Its corrected clock.
    pub clock: UnixTime,
    /// How long its own certificate lasts.
    pub certified_until: UnixTime,
}

/// What was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct SessionAnswers {
    /// Whether the application has been activated; `None` without one.
    pub is_activated: Option<bool>,
    /// What the device is.
    pub capabilities: Option<DeviceCapabilities>,
    /// What the user prefers.
    pub preferences: Option<SessionPreferences>,
    /// What it goes by.
    pub security: Option<SecurityInformation>,
    /// Its subscription to the gateway that asked.
    pub subscription: Option<Subscription>,
}

impl SessionAnswers {
    fn check(&self) -> Result<(), DecodeError> {
        if let Some(capabilities) = &self.capabilities {
            check_applications(&capabilities.applications)?;
            check_names("languages", &capabilities.languages, LANGUAGES_MAX)?;
            if capabilities.agent.len() > NAME_BYTES_MAX || capabilities.ways.len() > CHANNELS_MAX {
                return Err(DecodeError::invalid("capabilities", "the agent is too long, or there are too many ways"));
            }
        }
        if let Some(preferences) = &self.preferences {
            preferences.check()?;
        }
        let subscribed = self.subscription.as_ref().map_or(&[][..], |known| &known.applications);
        check_names("subscription", subscribed, APPLICATIONS_MAX)
    }
}

/// "Here I am", or a refusal that was asked for. Who says so is known from the hello.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct SessionOpen {
    /// The request this follows from: the server may be another than who sent it.
    pub initiation: Signed<SessionInitiation>,
    /// The answers; `Err` if there will be no session.
    pub answers: Result<SessionAnswers, SessionReason>,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Message for SessionOpen {
    const KIND: FrameKind = FrameKind(0x004b);
    const LIMIT: usize = SessionInitiation::LIMIT + 16 * 1024;

    fn check(&self) -> Result<(), DecodeError> {
        self.answers.as_ref().map_or(Ok(()), SessionAnswers::check)
    }
}

/// What the server did with a client that came.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum SessionOutcome {
    /// There is a session.
    Open {
        /// What is pushed, if anything is there; at most [`SESSION_CONTENT_BYTES_MAX`] bytes.
        content: Option<Vec<u8>>,
    },
    /// There is none.
    Refused(SessionReason),
}

/// Answer to [`SessionOpen`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct SessionOpened {
    /// What happened.
    pub status: SessionOutcome,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Message for SessionOpened {
    const KIND: FrameKind = FrameKind(FrameKind::ANSWER | SessionOpen::KIND.0);
    const LIMIT: usize = SESSION_CONTENT_BYTES_MAX + 256;

    fn check(&self) -> Result<(), DecodeError> {
        match &self.status {
            SessionOutcome::Open { content: Some(content) } => check_content(content),
            _ => Ok(()),
        }
    }
}

/// Content for a client whose session is open.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct SessionContent {
    /// Names the push: the same twice is taken once.
    pub nonce: SessionNonce,
    /// Which application it is for.
    pub application: Option<Application>,
    /// At most [`SESSION_CONTENT_BYTES_MAX`] bytes.
    pub content: Vec<u8>,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Message for SessionContent {
    const KIND: FrameKind = FrameKind(0x004d);
    const LIMIT: usize = SESSION_CONTENT_BYTES_MAX + 1_024;

    fn check(&self) -> Result<(), DecodeError> {
        check_applications(self.application.as_slice())?;
        check_content(&self.content)
    }
}

/// Answer to [`SessionContent`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct SessionContentTaken {
    /// `Err` if it wasn't.
    pub result: Result<(), SessionReason>,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Message for SessionContentTaken {
    const KIND: FrameKind = FrameKind(FrameKind::ANSWER | SessionContent::KIND.0);
    const LIMIT: usize = 256;
}
