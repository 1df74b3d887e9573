//! Waking a phone's app that isn't of the overlay: a SIP edge asks a gateway for a push without content (RFC 8599).
//!
//! The app has registered with the edge and knows nothing of gateways; the gateway has the push services' credentials, and needs to know nothing of SIP. What it sends
//! says nothing: who calls, and whom, is told over SIP once the app is up.

use std::fmt;

use bincode::{Decode, Encode};

use super::registration::PushWays;
use super::{
    APNS_TOKEN_BYTES_MAX, ChannelEnd, ENDPOINT_BYTES_MAX, FCM_TOKEN_BYTES_MAX, PushReason, PushWay, TOPIC_BYTES_MAX,
    TTL_SECS_MAX, Urgency,
};
use crate::event::EventKind;
use crate::wire::{DecodeError, Extensions, FrameKind, Message};

/// Longest name of a project or a team at a push service, in bytes.
pub const SENDER_BYTES_MAX: usize = 64;

/// Where a phone's app is woken.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub enum PhoneTarget {
    /// Web Push (RFC 8030): a message without content, as the app's keys aren't known.
    WebPush {
        /// Where the push service takes messages; 1 to [`ENDPOINT_BYTES_MAX`].
        endpoint: String,
    },
    /// Firebase Cloud Messaging.
    Fcm {
        /// The project that the app belongs to, which is to be the gateway's; 1 to [`SENDER_BYTES_MAX`] printable ASCII characters.
        project: String,
        /// The app instance's registration token; 1 to [`FCM_TOKEN_BYTES_MAX`] printable ASCII characters.
        token: String,
    },
    /// The Apple Push Notification service.
    Apns {
        /// The developers' team, which is to be the gateway's; 1 to [`SENDER_BYTES_MAX`] letters and digits.
        team: String,
        /// The application; 1 to [`TOPIC_BYTES_MAX`] of letters, digits, `.` and `-`.
        topic: String,
        /// The device token; 1 to [`APNS_TOKEN_BYTES_MAX`].
        token: Vec<u8>,
    },
}

impl PhoneTarget {
    /// By which way of a gateway's it is reached.
    #[must_use]
    pub const fn way(&self) -> PushWay {
        match self {
            Self::WebPush { .. } => PushWay::WebPush,
            Self::Fcm { .. } => PushWay::Fcm,
            Self::Apns { .. } => PushWay::Apns,
        }
    }

    /// Checks the fields' ranges.
    ///
    /// # Errors
    /// [`DecodeError::Invalid`] for the field out of range.
    pub fn check(&self) -> Result<(), DecodeError> {
        let holds =
            |field: &'static str, is_good: bool| if is_good { Ok(()) } else { Err(DecodeError::invalid(field, "malformed")) };
        let is_within = |length: usize, max: usize| (1..=max).contains(&length);
        let is_text = |text: &str, max: usize| is_within(text.len(), max) && text.bytes().all(|byte| byte.is_ascii_graphic());
        match self {
            Self::WebPush { endpoint } => holds("endpoint", is_text(endpoint, ENDPOINT_BYTES_MAX)),
            Self::Fcm { project, token } => {
                holds("project", is_text(project, SENDER_BYTES_MAX))?;
                holds("token", is_text(token, FCM_TOKEN_BYTES_MAX))
            }
            Self::Apns { team, topic, token } => {
                let is_topic = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-');
                holds("team", is_within(team.len(), SENDER_BYTES_MAX) && team.bytes().all(|byte| byte.is_ascii_alphanumeric()))?;
                holds("topic", is_within(topic.len(), TOPIC_BYTES_MAX) && topic.bytes().all(is_topic))?;
                holds("token", is_within(token.len(), APNS_TOKEN_BYTES_MAX))
            }
        }
    }
}

/// Endpoints and tokens are secrets: whoever knows one can send there.
impl fmt::Debug for PhoneTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PhoneTarget::{:?}(..)", self.way())
    }
}

/// "Wake this app", from a certified device; without a target: "whom can you wake?"
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PhonePush {
    /// The app.
    pub target: Option<PhoneTarget>,
    /// Why: what rings may wake otherwise than what doesn't.
    pub event: EventKind,
    /// How soon it is wanted.
    pub urgency: Urgency,
    /// For how long it is worth delivering, in seconds; at most [`TTL_SECS_MAX`].
    pub ttl_secs: u32,
    /// Room to grow.
    pub extensions: Extensions,
}

impl PhonePush {
    /// Asks whom a gateway can wake.
    #[must_use]
    pub const fn query() -> Self {
        Self { target: None, event: EventKind::NOTICE, urgency: Urgency::Normal, ttl_secs: 0, extensions: Extensions::none() }
    }
}

impl Message for PhonePush {
    const KIND: FrameKind = FrameKind(0x00e0);
    const LIMIT: usize = 2 * 1024;

    fn check(&self) -> Result<(), DecodeError> {
        if self.ttl_secs > TTL_SECS_MAX {
            return Err(DecodeError::invalid("ttl_secs", format!("{}, at most {TTL_SECS_MAX}", self.ttl_secs)));
        }
        self.target.as_ref().map_or(Ok(()), PhoneTarget::check)
    }
}

/// What became of a [`PhonePush`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum PhonePushStatus {
    /// Nothing was to be sent.
    Offered,
    /// The push service has it. That says nothing about the app.
    Sent,
    /// The push service will never bring anything there: forget it.
    Gone(ChannelEnd),
    /// Not sent.
    Refused(PushReason),
}

/// Answer to [`PhonePush`], once the push service has answered.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PhonePushed {
    /// What happened.
    pub status: PhonePushStatus,
    /// Whom the gateway can wake; at most 8.
    pub ways: Vec<PushWay>,
    /// Its key towards Web Push services (RFC 8292 section 3.2), uncompressed: apps subscribe for it.
    pub vapid_key: Option<[u8; 65]>,
    /// Room to grow.
    pub extensions: Extensions,
}

impl PhonePushed {
    /// Of all the ways of a gateway those by which apps are woken.
    #[must_use]
    pub fn ways_of(ways: PushWays) -> Vec<PushWay> {
        [PushWay::WebPush, PushWay::Fcm, PushWay::Apns].into_iter().filter(|way| ways.contains(*way)).collect()
    }
}

impl Message for PhonePushed {
    const KIND: FrameKind = FrameKind(FrameKind::ANSWER | PhonePush::KIND.0);
    const LIMIT: usize = 512;

    fn check(&self) -> Result<(), DecodeError> {
        if self.ways.len() > 8 {
            return Err(DecodeError::invalid("ways", format!("{}, at most 8", self.ways.len())));
        }
        Ok(())
    }
}
