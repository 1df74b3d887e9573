//! The profile over INFO: requests of a client, notices of the server, and when what isn't answered is sent again (`docs/sip.md`).
//!
//! ```text
//! client                                        server
//! INFO {id: 1, login}          ------------->
//!                              <-------------   200 OK
//!                              <-------------   INFO {id: 1, notice: logged-in, re: 1}
//! 200 OK                       ------------->
//! ```
//!
//! A body is one JSON object; fields that aren't known are passed over. Its `id` is the sender's, so that what comes twice counts once ([`Seen`]). Who sends is known from the SIP dialogue and
//! its digest, never from a body. Never reads the clock.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// The type of content.
pub const CONTENT_TYPE: &str = "application/halloo-info+json";
/// Longest body, in bytes: a message of full length, or a list of 200 buddies.
pub const BODY_BYTES_MAX: usize = 64 * 1_024;
/// Most buddies told in one notice; longer lists come in several.
pub const BUDDIES_MAX: usize = 200;
/// Longest text of a message, in bytes.
pub const TEXT_BYTES_MAX: usize = 16 * 1_024;
/// Longest name, address or mood, in bytes.
const WORD_BYTES_MAX: usize = 512;
/// The version that a client names at log-in.
pub const VERSION: u32 = 1;

/// Somebody's status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Status {
    /// There.
    Online,
    /// Not at the device.
    Away,
    /// Not to be disturbed.
    Busy,
    /// Reached by a push.
    Push,
    /// Not there, or not to be seen.
    Offline,
}

/// A buddy and what is known of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Buddy {
    /// Who, a `sip:` URI.
    pub uri: String,
    /// By which name they are shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Status>,
    /// What they say of themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mood: Option<String>,
}

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Request {
    /// To be logged in, and told everything from now on.
    Login {
        /// The profile's version that the client speaks.
        version: u32,
    },
    /// The configuration.
    GetConfiguration,
    /// All buddies.
    GetBuddies,
    /// The status of one buddy, or of all.
    GetStatus {
        /// Whose.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        buddy: Option<String>,
    },
    /// A new buddy.
    AddBuddy {
        /// Who.
        buddy: String,
        /// By which name they are to be shown.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<String>,
    },
    /// One buddy less.
    RemoveBuddy {
        /// Who.
        buddy: String,
    },
    /// Another name for a buddy.
    ChangeBuddy {
        /// Who.
        buddy: String,
        /// The name; none: as they call themselves.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<String>,
    },
    /// What the user is from now on.
    SetStatus {
        /// The status.
        status: Status,
        /// What they say of themselves.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mood: Option<String>,
    },
    /// A message.
    SendMessage {
        /// To whom.
        to: String,
        /// What.
        text: String,
    },
    /// The user goes; the client de-registers once it is confirmed.
    GoOffline,
}

/// What the server tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "notice", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Notice {
    /// The client is logged in, as this user.
    LoggedIn {
        /// The request's id.
        re: u32,
        /// Who.
        user: String,
    },
    /// A request was done.
    Done {
        /// Its id.
        re: u32,
    },
    /// A request can't be done.
    Refused {
        /// Its id.
        re: u32,
        /// Why, as a SIP status.
        code: u16,
        /// Why, in words.
        reason: String,
    },
    /// The configuration.
    Configuration {
        /// The request's id.
        re: u32,
        /// After how many seconds what isn't answered is sent again.
        retry_secs: u32,
        /// How often.
        tries: u32,
        /// Longest text of a message, in bytes.
        text_bytes_max: u32,
    },
    /// Buddies: all of them, or the next of a list that is too long for one notice.
    Buddies {
        /// The request's id.
        re: u32,
        /// The buddies.
        buddies: Vec<Buddy>,
        /// More follow.
        more: bool,
    },
    /// A buddy's status has changed, or was asked for.
    BuddyStatus {
        /// The buddy.
        buddy: Buddy,
    },
    /// A message has come.
    Message {
        /// From whom.
        from: String,
        /// What.
        text: String,
        /// When it was written, in seconds since 1970.
        sent_at: u64,
    },
    /// The user's offline status is out: de-register.
    Offline {
        /// The request's id.
        re: u32,
    },
}

/// A body: what is said, with its sender's number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Numbered<T> {
    /// The number; each of a sender's another one.
    pub id: u32,
    /// What is said.
    #[serde(flatten)]
    pub body: T,
}

/// Why a body can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BodyError {
    /// It is longer than [`BODY_BYTES_MAX`], or something in it is too long.
    #[error("too long: {0}")]
    TooLong(&'static str),
    /// It isn't one of these objects.
    #[error("not a body of this profile: {0}")]
    Form(String),
}

/// What may stand in a body.
pub trait Content: Serialize + for<'de> Deserialize<'de> {
    /// Whether all in it is within bounds.
    ///
    /// # Errors
    /// [`BodyError::TooLong`].
    fn check(&self) -> Result<(), BodyError>;
}

impl Content for Request {
    fn check(&self) -> Result<(), BodyError> {
        match self {
            Self::Login { .. } | Self::GetConfiguration | Self::GetBuddies | Self::GoOffline => Ok(()),
            Self::GetStatus { buddy } => optional(buddy),
            Self::RemoveBuddy { buddy } => word(buddy),
            Self::AddBuddy { buddy, name } | Self::ChangeBuddy { buddy, name } => word(buddy).and_then(|()| optional(name)),
            Self::SetStatus { mood, .. } => optional(mood),
            Self::SendMessage { to, text } => word(to).and_then(|()| check_text(text)),
        }
    }
}

impl Content for Notice {
    fn check(&self) -> Result<(), BodyError> {
        match self {
            Self::Done { .. } | Self::Configuration { .. } | Self::Offline { .. } => Ok(()),
            Self::LoggedIn { user: text, .. } | Self::Refused { reason: text, .. } => word(text),
            Self::Buddies { buddies, .. } if buddies.len() > BUDDIES_MAX => Err(BodyError::TooLong("more than 200 buddies")),
            Self::Buddies { buddies, .. } => buddies.iter().try_for_each(check_buddy),
            Self::BuddyStatus { buddy } => check_buddy(buddy),
            Self::Message { from, text, .. } => word(from).and_then(|()| check_text(text)),
        }
    }
}

fn check_buddy(buddy: &Buddy) -> Result<(), BodyError> {
    word(&buddy.uri).and_then(|()| optional(&buddy.name)).and_then(|()| optional(&buddy.mood))
}

fn word(word: &str) -> Result<(), BodyError> {
    if word.len() > WORD_BYTES_MAX { Err(BodyError::TooLong("a name, address or mood")) } else { Ok(()) }
}

fn optional(text: &Option<String>) -> Result<(), BodyError> {
    text.as_deref().map_or(Ok(()), word)
}

fn check_text(text: &str) -> Result<(), BodyError> {
    if text.len() > TEXT_BYTES_MAX { Err(BodyError::TooLong("the text of a message")) } else { Ok(()) }
}

impl<T: Content> Numbered<T> {
    /// Reads a body.
    ///
    /// # Errors
    /// See [`BodyError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, BodyError> {
        if bytes.len() > BODY_BYTES_MAX {
            return Err(BodyError::TooLong("longer than 64 KiB"));
        }
        let read: Self = serde_json::from_slice(bytes).map_err(|error| BodyError::Form(error.to_string()))?;
        read.body.check()?;
        Ok(read)
    }

    /// The body, if all in it is within bounds.
    ///
    /// # Errors
    /// See [`BodyError`].
    pub fn to_bytes(&self) -> Result<Vec<u8>, BodyError> {
        self.body.check()?;
        let bytes = serde_json::to_vec(self).map_err(|error| BodyError::Form(error.to_string()))?;
        if bytes.len() > BODY_BYTES_MAX { Err(BodyError::TooLong("longer than 64 KiB")) } else { Ok(bytes) }
    }
}

/// Numbers of what came lately: a body that is sent again counts once.
#[derive(Debug, Default)]
pub struct Seen(VecDeque<u32>);

impl Seen {
    /// As many as may be under way from one sender, and twice as many again.
    const MAX: usize = 3 * OUTSTANDING_MAX;

    /// Whether it comes for the first time.
    pub fn is_new(&mut self, id: u32) -> bool {
        if self.0.contains(&id) {
            return false;
        }
        if self.0.len() == Self::MAX {
            self.0.pop_front();
        }
        self.0.push_back(id);
        true
    }
}

/// How long an answer may take until a body is sent again, and how often it is sent in all. An INFO is repeated by SIP itself within that time where it goes
/// over UDP (RFC 3261 section 17.1.2).
pub const RETRY: Duration = Duration::from_secs(8);
/// See [`RETRY`].
pub const TRIES: u32 = 4;
/// Bodies that may wait for their answers; when full, the next is refused.
pub const OUTSTANDING_MAX: usize = 64;

/// What is to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// Its number.
    pub id: u32,
    /// How often it was sent before.
    pub tries: u32,
    /// The body.
    pub body: Vec<u8>,
}

/// What became of something that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was answered by a success.
    Answered {
        /// Its number.
        id: u32,
    },
    /// It was refused for good, with this status: tell the user.
    Refused {
        /// Its number.
        id: u32,
        /// The status.
        status: u16,
    },
    /// Nobody has answered, however often it was sent: tell the user.
    GivenUp {
        /// Its number.
        id: u32,
    },
}

/// Too much is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{OUTSTANDING_MAX} bodies wait for their answers")]
pub struct Full;

#[derive(Debug)]
struct Outstanding {
    id: u32,
    body: Vec<u8>,
    tries: u32,
    due: Instant,
}

/// Sends bodies again until they are answered, or gives them up. One for each direction of each client.
///
/// Call [`Exchange::send`], [`Exchange::handle_answer`] and, when [`Exchange::poll_timeout`] says so, [`Exchange::handle_timeout`]; after each, drain
/// [`Exchange::poll_transmit`] and [`Exchange::poll_outcome`].
#[derive(Debug, Default)]
pub struct Exchange {
    next_id: u32,
    outstanding: Vec<Outstanding>,
    transmits: VecDeque<Transmit>,
    outcomes: VecDeque<Outcome>,
}

impl Exchange {
    /// The number of the next body.
    #[must_use]
    pub fn next_id(&mut self) -> u32 {
        self.next_id = self.next_id.wrapping_add(1);
        self.next_id
    }

    /// Sends a body with this number, from [`Exchange::next_id`].
    ///
    /// # Errors
    /// [`Full`].
    pub fn send(&mut self, id: u32, body: Vec<u8>, now: Instant) -> Result<(), Full> {
        if self.outstanding.len() >= OUTSTANDING_MAX {
            return Err(Full);
        }
        self.transmits.push_back(Transmit { id, tries: 0, body: body.clone() });
        self.outstanding.push(Outstanding { id, body, tries: 1, due: now + RETRY });
        Ok(())
    }

    /// A final answer has come. What may be otherwise next time is sent again when its time has come: 408, 480, and servers that fail.
    pub fn handle_answer(&mut self, id: u32, status: u16) {
        let Some(place) = self.outstanding.iter().position(|waiting| waiting.id == id) else { return };
        let outcome = match status {
            200..=299 => Outcome::Answered { id },
            408 | 480 | 500..=599 => return,
            _ => Outcome::Refused { id, status },
        };
        self.outstanding.swap_remove(place);
        self.outcomes.push_back(outcome);
    }

    /// When to call [`Exchange::handle_timeout`].
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.outstanding.iter().map(|waiting| waiting.due).min()
    }

    /// Sends again what is due, or gives it up.
    pub fn handle_timeout(&mut self, now: Instant) {
        let Self { outstanding, transmits, outcomes, .. } = self;
        outstanding.retain_mut(|waiting| {
            if waiting.due > now {
                return true;
            }
            if waiting.tries >= TRIES {
                outcomes.push_back(Outcome::GivenUp { id: waiting.id });
                return false;
            }
            transmits.push_back(Transmit { id: waiting.id, tries: waiting.tries, body: waiting.body.clone() });
            waiting.tries += 1;
            waiting.due = now + RETRY;
            true
        });
    }

    /// What is to be sent next.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// What has become of something.
    pub fn poll_outcome(&mut self) -> Option<Outcome> {
        self.outcomes.pop_front()
    }
}

#[cfg(test)]
#[path = "info_tests.rs"]
mod tests;
