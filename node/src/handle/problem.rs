//! What can go wrong, for people and for programs.
//!
//! Each operation has its own error type. All map to one [`ProblemKind`], and this file is
//! the only place that says what a kind means: the exit code of the command line, and type,
//! title and status of the API's RFC 9457 document.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where the API explains its problem types; RFC 9457 section 3.1.1 allows relative references.
const TYPE_PREFIX: &str = "/v1/problems/";

/// An error that an operation of the handle can end with.
pub trait Fault: std::error::Error {
    /// Its kind, which decides exit code and HTTP status.
    fn kind(&self) -> ProblemKind;

    /// The document the API answers with.
    fn problem(&self) -> Problem {
        Problem::new(self.kind(), self.to_string())
    }

    /// The exit code of the command line: 1, the operation failed; 2, bad input.
    fn exit_code(&self) -> u8 {
        self.kind().exit_code()
    }
}

/// An RFC 9457 problem document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Problem {
    /// URI reference of the problem type: `/v1/problems/` and the kind's [`slug`](ProblemKind::slug).
    #[serde(rename = "type")]
    pub type_uri: String,
    /// The kind in words, the same for every occurrence.
    pub title: String,
    /// The HTTP status it was answered with.
    pub status: u16,
    /// What went wrong this time.
    pub detail: String,
    /// What `halloo` exits with.
    pub exit_code: u8,
}

impl Problem {
    /// A problem of `kind`; `detail` says what went wrong this time.
    #[must_use]
    pub fn new(kind: ProblemKind, detail: impl Into<String>) -> Self {
        Self {
            type_uri: format!("{TYPE_PREFIX}{}", kind.slug()),
            title: kind.title().to_owned(),
            status: kind.status(),
            detail: detail.into(),
            exit_code: kind.exit_code(),
        }
    }

    /// The kind, if this build knows it.
    #[must_use]
    pub fn kind(&self) -> Option<ProblemKind> {
        let slug = self.type_uri.strip_prefix(TYPE_PREFIX)?;
        ProblemKind::ALL.iter().copied().find(|kind| kind.slug() == slug)
    }
}

macro_rules! problem_kinds {
    ($($(#[$doc:meta])* $kind:ident = ($slug:literal, $status:literal, $exit:literal, $title:literal),)*) => {
        /// The kinds of problems.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum ProblemKind {
            $($(#[$doc])* $kind,)*
        }

        impl ProblemKind {
            /// All kinds, in the order the API lists them.
            pub const ALL: &[Self] = &[$(Self::$kind,)*];

            /// The last part of the type's URI; stable.
            #[must_use]
            pub const fn slug(self) -> &'static str {
                match self { $(Self::$kind => $slug,)* }
            }

            /// The HTTP status.
            #[must_use]
            pub const fn status(self) -> u16 {
                match self { $(Self::$kind => $status,)* }
            }

            /// What the command line exits with.
            #[must_use]
            pub const fn exit_code(self) -> u8 {
                match self { $(Self::$kind => $exit,)* }
            }

            /// The kind in words.
            #[must_use]
            pub const fn title(self) -> &'static str {
                match self { $(Self::$kind => $title,)* }
            }
        }
    };
}

problem_kinds! {
    /// The text is not a username.
    InvalidUsername = ("invalid-username", 400, 2, "Not a valid username"),
    /// The label of the authority means nothing to this node.
    UnknownAuthority = ("unknown-authority", 400, 2, "Unknown authority"),
    /// The request or an argument can't be used as it is.
    InvalidRequest = ("invalid-request", 400, 2, "Invalid request"),
    /// The caller showed no token, or a wrong one.
    Unauthorized = ("unauthorized", 401, 2, "Authorization required"),
    /// The request comes from a web page or names a host that isn't us.
    Forbidden = ("forbidden", 403, 2, "Forbidden"),
    /// Nobody has this username.
    UserNotFound = ("user-not-found", 404, 1, "No such user"),
    /// No call, message or other thing has this id.
    NotFound = ("not-found", 404, 1, "Not found"),
    /// The resource exists and doesn't take this method.
    MethodNotAllowed = ("method-not-allowed", 405, 2, "Method not allowed"),
    /// The thing's state doesn't allow this.
    Conflict = ("conflict", 409, 1, "Not possible in this state"),
    /// The name belongs to another key.
    NameTaken = ("name-taken", 409, 1, "Name already taken"),
    /// This home has no user certificate yet.
    NotEnrolled = ("not-enrolled", 409, 1, "Not enrolled"),
    /// The node is suspended and must be woken first.
    NodeSuspended = ("suspended", 409, 1, "Node is suspended"),
    /// The node doesn't have the role this needs.
    RoleMissing = ("role-missing", 409, 1, "Node lacks the role"),
    /// The body is larger than the limit.
    TooLarge = ("too-large", 413, 2, "Too large"),
    /// The body isn't JSON.
    UnsupportedMediaType = ("unsupported-media-type", 415, 2, "Unsupported media type"),
    /// The other side refused.
    Refused = ("refused", 403, 1, "Refused"),
    /// A certificate or record was revoked or doesn't verify.
    Untrusted = ("untrusted", 403, 1, "Not trustworthy"),
    /// A limit of this node is reached; later it may work.
    LimitReached = ("limit-reached", 429, 1, "Limit reached"),
    /// Nobody who could answer is reachable.
    Unreachable = ("unreachable", 502, 1, "Unreachable"),
    /// The event loop has ended or is ending.
    NodeStopped = ("node-stopped", 503, 1, "Node stopped"),
    /// No answer in time.
    TimedOut = ("timed-out", 504, 1, "Timed out"),
    /// This build can't do that.
    Unsupported = ("unsupported", 501, 1, "Not supported"),
    /// Our own fault: storage, files, a bug.
    Internal = ("internal", 500, 1, "Internal error"),
}

/// What any operation can meet: the node itself can't do it now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// The event loop has ended or is ending.
    #[error("the node has stopped")]
    Stopped,
    /// The node is suspended.
    #[error("the node is suspended; wake it first")]
    Suspended,
    /// This home has no user certificate.
    #[error("this home has no username yet; run `halloo enrol NAME@AUTHORITY --invite CODE`")]
    NotEnrolled,
    /// The user has removed this device.
    #[error(
        "this device was removed by its user (halloo device revoke, on another one): nobody believes it any more; its data is still here"
    )]
    Revoked,
    /// A queue or table is full.
    #[error("too many {what} at once, at most {max}")]
    LimitReached {
        /// What there are too many of.
        what: &'static str,
        /// The limit.
        max: usize,
    },
    /// The contact's name has come with another identity key.
    #[error("the identity key of {username} has changed: compare fingerprints (`halloo contact verify`) before going on")]
    IdentityChanged {
        /// Whose, `name@authority`.
        username: String,
    },
    /// This build can't do that.
    #[error("{what} is not supported yet")]
    Unsupported {
        /// What was asked for.
        what: &'static str,
    },
    /// Storage or another part of ours failed; the log has the chain.
    #[error("internal error: {detail}")]
    Internal {
        /// The outermost message, without secrets.
        detail: String,
    },
}

impl Fault for NodeError {
    fn kind(&self) -> ProblemKind {
        match self {
            Self::Stopped => ProblemKind::NodeStopped,
            Self::Suspended => ProblemKind::NodeSuspended,
            Self::NotEnrolled => ProblemKind::NotEnrolled,
            Self::Revoked => ProblemKind::Untrusted,
            Self::LimitReached { .. } => ProblemKind::LimitReached,
            Self::IdentityChanged { .. } => ProblemKind::Untrusted,
            Self::Unsupported { .. } => ProblemKind::Unsupported,
            Self::Internal { .. } => ProblemKind::Internal,
        }
    }
}

/// A username could not be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UsernameError {
    /// Not a username at all.
    #[error("invalid username {username:?}: {reason}")]
    Invalid {
        /// What the user wrote.
        username: String,
        /// The rule it breaks.
        reason: String,
    },
    /// `name@label` with a label this node doesn't know.
    #[error(
        "authority {authority:?} is not known here; enrol with its invite code, or give `halloo run` its key: --authority NAME=KEY"
    )]
    UnknownAuthority {
        /// The label.
        authority: String,
    },
    /// `name` alone on a home without an authority.
    #[error("{username:?} names no authority and this home has none; write NAME@AUTHORITY")]
    NoAuthority {
        /// What the user wrote.
        username: String,
    },
}

impl Fault for UsernameError {
    fn kind(&self) -> ProblemKind {
        match self {
            Self::Invalid { .. } => ProblemKind::InvalidUsername,
            Self::UnknownAuthority { .. } | Self::NoAuthority { .. } => ProblemKind::UnknownAuthority,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_kind_has_its_own_slug_and_a_sane_code() {
        let slugs: HashSet<_> = ProblemKind::ALL.iter().map(|kind| kind.slug()).collect();
        assert_eq!(slugs.len(), ProblemKind::ALL.len());
        for kind in ProblemKind::ALL {
            assert!((400..600).contains(&kind.status()), "{kind:?}");
            assert!(matches!(kind.exit_code(), 1 | 2), "{kind:?}");
        }
    }

    #[test]
    fn a_problem_survives_json_and_names_its_kind() {
        let problem = NodeError::Suspended.problem();
        let json = serde_json::to_string(&problem).expect("serialises");
        let back: Problem = serde_json::from_str(&json).expect("parses");
        assert_eq!(back, problem);
        assert_eq!(back.kind(), Some(ProblemKind::NodeSuspended));
    }
}
