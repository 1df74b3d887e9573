//! What kind of thing happens to a user: decides template, urgency and which devices are told.

use std::fmt;

use bincode::{Decode, Encode};

/// Kind of an event, a number on the wire: a reader who doesn't know it treats it as [`EventKind::NOTICE`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct EventKind(pub u16);

impl EventKind {
    /// Something else than below.
    pub const NOTICE: Self = Self(0);
    /// Voice call.
    pub const VOICE_CALL: Self = Self(1);
    /// Video call.
    pub const VIDEO_CALL: Self = Self(2);
    /// Message.
    pub const MESSAGE: Self = Self(3);
    /// A call that rings no longer.
    pub const MISSED_CALL: Self = Self(4);
    /// Contact request.
    pub const CONTACT_REQUEST: Self = Self(5);
    /// The device's own self-test.
    pub const SELF_TEST: Self = Self(6);
    /// A recording that a caller left.
    pub const VOICEMAIL: Self = Self(7);
    /// An offer of a file.
    pub const FILE: Self = Self(8);

    /// A mail.
    pub const MAIL: Self = Self(9);

    /// True if a person has to react while it lasts.
    #[must_use]
    pub const fn is_call(self) -> bool {
        matches!(self, Self::VOICE_CALL | Self::VIDEO_CALL)
    }
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match *self {
            Self::VOICE_CALL => "voice-call",
            Self::VIDEO_CALL => "video-call",
            Self::MESSAGE => "message",
            Self::MISSED_CALL => "missed-call",
            Self::CONTACT_REQUEST => "contact-request",
            Self::SELF_TEST => "self-test",
            Self::VOICEMAIL => "voicemail",
            Self::FILE => "file",
            Self::MAIL => "mail",
            _ => "notice",
        })
    }
}
