//! Push sessions: a gateway gets the right one of a user's clients to open a session to it, before it pushes content there.
//!
//! 1. The gateway looks at what it knows of the user's clients and [plans](plan): whom to ask and how, with the reason for each.
//! 2. It signs a [`SessionInitiation`] and brings it to them: as [`SessionRequest`] on a stream, or in one of the [encapsulations](encapsulation) for
//!    another bearer.
//! 3. Each client [decides](decision): ignore it, ask its user, refuse, or open. On a stream the answer is [`SessionRequested`].
//! 4. It opens by sending [`SessionOpen`] to the server that the request names, which may be another than the sender, with the answers that were asked
//!    for; [`SessionOpened`] brings the content. Later content of an open session comes as [`SessionContent`].
//!
//! A session lasts as long as the connection. A call's invite never waits for one. Nothing here reads the clock or keeps state but [`SeenNonces`].

pub mod decision;
pub mod encapsulation;
mod identifier;
mod messages;
pub mod plan;
#[cfg(test)]
mod tests;

use bincode::{Decode, Encode};

use super::{APPLICATIONS_MAX, IDENTIFIERS_MAX, Identifier, NAME_BYTES_MAX, PushRegister};
use crate::directory::Helper;
pub use crate::id::SessionNonce;
use crate::identity::UserId;
use crate::key::DeviceKey;
use crate::time::UnixTime;
use crate::wire::{self, Body, DecodeError, Extensions};
pub use decision::SeenNonces;
pub use identifier::{IDENTIFIER_KINDS, IdentifierError};
pub use messages::*;

/// Longest life of a session initiation request, in seconds: what is taken up later has nothing to do with why it was sent.
pub const SESSION_SECS_MAX: u64 = 600;

/// Largest content of a request, and of a session's single push.
pub const SESSION_CONTENT_BYTES_MAX: usize = 1_024;

/// The push header that says which application takes the request (WAP-235 section 8.4).
pub const SIA_APPLICATION: &str = "x-wap-application:push.sia";

/// The content type of a session initiation request.
pub const SIA_CONTENT_TYPE: &str = "application/vnd.wap.sia";

/// Extension of [`PushRegister`]: encoded [`SessionTerms`].
const TERMS_EXTENSION: u16 = 0x004a;

/// Whom a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub enum SessionMode {
    /// Mode A: one client; routed to it, by its identifier if it carries one.
    One,
    /// Mode B: all clients of the identity; each decides.
    All,
    /// Mode C: all clients of the identity; only those that have one of the identifiers respond.
    Matching,
}

impl SessionMode {
    /// Its letter.
    #[must_use]
    pub const fn letter(self) -> char {
        match self {
            Self::One => 'A',
            Self::All => 'B',
            Self::Matching => 'C',
        }
    }
}

/// When the application is activated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub enum ActivateWhen {
    /// Before connecting: it supplies the answers.
    Before,
    /// After connecting: cheaper, nothing starts for a connection that fails.
    After,
}

/// An application of a device.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct Application {
    /// Its id, such as `x-wap-application:mms.ua` or `org.example.mail`; 1 to 128 bytes.
    pub id: String,
    /// Its name for people; at most 128 bytes.
    pub name: String,
}

impl Application {
    fn check(&self) -> Result<(), DecodeError> {
        let is_plain = |text: &str| text.len() <= NAME_BYTES_MAX && !text.chars().any(char::is_control);
        if self.id.is_empty() || self.id.contains(['=', ',', ';']) || !is_plain(&self.id) || !is_plain(&self.name) {
            return Err(DecodeError::invalid(
                "application",
                format!("id of 1 and name of 0 to {NAME_BYTES_MAX} bytes, no controls"),
            ));
        }
        Ok(())
    }

    /// Reads `ID` or `ID=NAME`.
    ///
    /// # Errors
    /// [`DecodeError::Invalid`] if it is too long, empty, or has control characters.
    pub fn parse(text: &str) -> Result<Self, DecodeError> {
        let (id, name) = text.split_once('=').unwrap_or((text, ""));
        let application = Self { id: id.to_owned(), name: name.to_owned() };
        application.check().map(|()| application)
    }
}

/// The application to activate.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct Activation {
    /// Which.
    pub application: Application,
    /// When.
    pub when: ActivateWhen,
}

/// What a client is to return once connected: a set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Encode, Decode)]
pub struct Asks(pub u8);

impl Asks {
    /// What the device is and can show.
    pub const CAPABILITIES: Self = Self(1);
    /// The user's preferences on sessions.
    pub const PREFERENCES: Self = Self(2);
    /// What the client goes by when it believes: its clock, its certificate's end.
    pub const SECURITY: Self = Self(4);
    /// What it is subscribed to at this gateway.
    pub const SUBSCRIPTIONS: Self = Self(8);
    /// A refusal, by connecting, if it won't open the session.
    pub const REFUSAL: Self = Self(16);

    /// Every member with its name.
    pub const NAMED: [(Self, &'static str); 5] = [
        (Self::CAPABILITIES, "capabilities"),
        (Self::PREFERENCES, "preferences"),
        (Self::SECURITY, "security"),
        (Self::SUBSCRIPTIONS, "subscriptions"),
        (Self::REFUSAL, "refusal"),
    ];

    /// True if all of `other` are in.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Both sets together.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// What is in both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// The member with this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::NAMED.iter().find(|(_, known)| *known == name).map(|(ask, _)| *ask)
    }
}

/// Messages a client is to send once connected: a set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Encode, Decode)]
pub struct Sends(pub u8);

impl Sends {
    /// Its registration, anew.
    pub const REGISTRATION: Self = Self(1);
    /// Its capabilities.
    pub const CAPABILITIES: Self = Self(2);

    /// True if all of `other` are in.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Both sets together.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// A session initiation request. Signed by the gateway's device; holds for [`SESSION_SECS_MAX`] at most and is taken once.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct SessionInitiation {
    /// Who asks, and signs.
    pub gateway: DeviceKey,
    /// Names the request.
    pub nonce: SessionNonce,
    /// When it was signed.
    pub created_at: UnixTime,
    /// Until when it may be taken up.
    pub expires_at: UnixTime,
    /// Whom it is for.
    pub mode: SessionMode,
    /// The public identity whose clients are meant.
    pub identity: UserId,
    /// Device identifiers in normal form: at most one in mode A, none in mode B, 1 to 8 in mode C.
    pub identifiers: Vec<Identifier>,
    /// Where to connect.
    pub server: Helper,
    /// What to activate.
    pub application: Option<Activation>,
    /// What to return.
    pub asks: Asks,
    /// What to send.
    pub sends: Sends,
    /// Content for the application, at most [`SESSION_CONTENT_BYTES_MAX`] bytes.
    pub content: Vec<u8>,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Body for SessionInitiation {
    const KIND: u16 = 0x0510;
    const LIMIT: usize = 4 * 1024;

    fn check(&self) -> Result<(), DecodeError> {
        if self.expires_at < self.created_at || self.expires_at.secs_since(self.created_at) > SESSION_SECS_MAX {
            return Err(DecodeError::invalid("expires_at", format!("before or more than {SESSION_SECS_MAX} s after created_at")));
        }
        let allowed = match self.mode {
            SessionMode::One => 0..=1,
            SessionMode::All => 0..=0,
            SessionMode::Matching => 1..=IDENTIFIERS_MAX,
        };
        if !allowed.contains(&self.identifiers.len()) {
            let reason = format!("{} in mode {}", self.identifiers.len(), self.mode.letter());
            return Err(DecodeError::invalid("identifiers", reason));
        }
        check_identifiers(&self.identifiers)?;
        self.server.check()?;
        if let Some(activation) = &self.application {
            activation.application.check()?;
        }
        check_content(&self.content)
    }
}

/// Identifiers of others are compared in normal form, so they have to be.
fn check_identifiers(identifiers: &[Identifier]) -> Result<(), DecodeError> {
    match identifiers.iter().find(|identifier| identifier.normal().as_ref() != Ok(identifier)) {
        Some(identifier) => Err(DecodeError::invalid("identifiers", format!("{:?} isn't in normal form", identifier.kind))),
        None => Ok(()),
    }
}

fn check_content(content: &[u8]) -> Result<(), DecodeError> {
    if content.len() > SESSION_CONTENT_BYTES_MAX {
        return Err(DecodeError::invalid("content", format!("{} bytes, at most {SESSION_CONTENT_BYTES_MAX}", content.len())));
    }
    Ok(())
}

fn check_applications(applications: &[Application]) -> Result<(), DecodeError> {
    if applications.len() > APPLICATIONS_MAX {
        return Err(DecodeError::invalid("applications", format!("{}, at most {APPLICATIONS_MAX}", applications.len())));
    }
    applications.iter().try_for_each(Application::check)
}

fn check_names(field: &'static str, names: &[String], max: usize) -> Result<(), DecodeError> {
    if names.len() > max || names.iter().any(|name| name.len() > NAME_BYTES_MAX) {
        return Err(DecodeError::invalid(field, format!("{}, at most {max} of {NAME_BYTES_MAX} bytes", names.len())));
    }
    Ok(())
}

/// What the user wants done with requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Encode, Decode)]
pub enum Acceptance {
    /// Open.
    #[default]
    Always,
    /// Ask.
    Ask,
    /// Refuse.
    Never,
}

/// A user's preferences on push sessions, for one device.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct SessionPreferences {
    /// What is done with requests.
    pub acceptance: Acceptance,
    /// Applications that nobody may activate; at most 16.
    pub unwanted: Vec<String>,
    /// What may be told to gateways that ask.
    pub disclosed: Asks,
}

impl Default for SessionPreferences {
    fn default() -> Self {
        let all = Asks::NAMED.iter().fold(Asks::default(), |set, (ask, _)| set.with(*ask));
        Self { acceptance: Acceptance::Always, unwanted: Vec::new(), disclosed: all }
    }
}

impl SessionPreferences {
    /// Checks counts and lengths.
    ///
    /// # Errors
    /// [`DecodeError::Invalid`] for the field out of range.
    pub fn check(&self) -> Result<(), DecodeError> {
        check_names("unwanted", &self.unwanted, APPLICATIONS_MAX)
    }
}

/// "This gateway may ask me for sessions."
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Subscription {
    /// Which gateway.
    pub gateway: DeviceKey,
    /// For these applications; empty: for all. At most 16.
    pub applications: Vec<String>,
}

impl Subscription {
    /// True if the subscription is for this application; a request without one is for the subscription as such.
    #[must_use]
    pub fn covers(&self, application: Option<&str>) -> bool {
        self.applications.is_empty() || application.is_none_or(|id| self.applications.iter().any(|known| known == id))
    }
}

/// What a device tells its gateway, so that it isn't asked in vain: an extension of its registration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct SessionTerms {
    /// Its preferences.
    pub preferences: SessionPreferences,
    /// Its subscription to the gateway it registers with, if it has one.
    pub subscription: Option<Subscription>,
}

impl SessionTerms {
    /// Puts them into a registration, in place of none.
    #[must_use]
    pub fn put(&self, extensions: Extensions) -> Extensions {
        extensions.with(TERMS_EXTENSION, wire::encode(self))
    }

    /// What a registration says; `None` if it says nothing, or nothing that can be read.
    #[must_use]
    pub fn of(registration: &PushRegister) -> Option<Self> {
        let bytes = registration.extensions.find(TERMS_EXTENSION)?;
        let terms: Self = wire::decode(bytes, PushRegister::TERMS_BYTES_MAX).ok()?;
        terms.preferences.check().ok()?;
        let subscribed = terms.subscription.as_ref().map_or(&[][..], |known| &known.applications);
        check_names("applications", subscribed, APPLICATIONS_MAX).ok().map(|()| terms)
    }
}

impl PushRegister {
    /// Longest encoded [`SessionTerms`].
    const TERMS_BYTES_MAX: usize = 5 * 1024;
}
