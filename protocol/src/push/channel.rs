//! The ways of a gateway to a device, and their end.

use std::fmt;

use bincode::{Decode, Encode};

use super::PushHandle;
use crate::event::EventKind;
use crate::key::hash;
use crate::sip::uri::SipUri;
use crate::time::UnixTime;
use crate::wire::{self, DecodeError, Extensions, FrameKind, Message};

/// Longest Web Push endpoint or webhook URL, in bytes: services use up to about 500.
pub const ENDPOINT_BYTES_MAX: usize = 1_024;

/// Longest FCM registration token, in bytes: they have about 160 today, and Google promises no length.
pub const FCM_TOKEN_BYTES_MAX: usize = 1_024;

/// Longest APNs device token, in bytes: they have 32 today, and Apple promises no length.
pub const APNS_TOKEN_BYTES_MAX: usize = 128;

/// Longest APNs topic, in bytes: an application's identifier, with an ending for calls.
pub const TOPIC_BYTES_MAX: usize = 255;

/// Longest address of a phone, in bytes.
pub const SIP_ADDRESS_BYTES_MAX: usize = 512;

/// The content type of a payload in a SIP request.
pub const PUSH_CONTENT_TYPE: &str = "application/vnd.halloo.push";

/// Digits of a telephone number (E.164 section 6: at most 15), and the shortest that can be one.
const DIGITS_MAX: usize = 15;
const DIGITS_MIN: usize = 7;

/// One way of a gateway to a device. A gateway that doesn't know a kind can't read the registration and answers that it doesn't support it.
#[derive(Clone, PartialEq, Eq, Hash, Encode, Decode)]
pub enum PushChannel {
    /// The overlay stream the device keeps to the gateway.
    Stream,
    /// Web Push (RFC 8030, 8291) or UnifiedPush.
    WebPush {
        /// Where the push service takes messages; at most [`ENDPOINT_BYTES_MAX`].
        endpoint: String,
        /// The subscription's P-256 key, uncompressed.
        p256dh: [u8; 65],
        /// The subscription's authentication secret.
        auth: [u8; 16],
    },
    /// Firebase Cloud Messaging.
    Fcm {
        /// The application instance's registration token: 1 to [`FCM_TOKEN_BYTES_MAX`] printable ASCII characters.
        token: String,
    },
    /// The Apple Push Notification service.
    Apns {
        /// The device token; 1 to [`APNS_TOKEN_BYTES_MAX`].
        token: Vec<u8>,
        /// The application it is for: 1 to [`TOPIC_BYTES_MAX`] of letters, digits, `.` and `-`. One that ends in `.voip` takes calls and nothing else.
        topic: String,
        /// True if the token is of Apple's development environment.
        is_sandbox: bool,
    },
    /// An HTTP server of the device's owner.
    Webhook {
        /// Where it takes posts; at most [`ENDPOINT_BYTES_MAX`].
        url: String,
        /// Signs the posts.
        secret: [u8; 32],
    },
    /// A short message to a telephone, by a provider of the gateway's. It says that there is something, not what.
    Sms {
        /// The number: `+`, then 7 to 15 digits (E.164).
        number: String,
    },
    /// A MESSAGE request to a phone of the device's own user, at the SIP edge beside the gateway.
    Sip {
        /// `sip:name@authority`, with `;gr=` the phone's instance; at most [`SIP_ADDRESS_BYTES_MAX`].
        address: String,
    },
}

impl PushChannel {
    /// Its name in answers and counters.
    #[must_use]
    pub const fn way(&self) -> PushWay {
        match self {
            Self::Stream => PushWay::Stream,
            Self::WebPush { .. } => PushWay::WebPush,
            Self::Fcm { .. } => PushWay::Fcm,
            Self::Apns { .. } => PushWay::Apns,
            Self::Webhook { .. } => PushWay::Webhook,
            Self::Sms { .. } => PushWay::Sms,
            Self::Sip { .. } => PushWay::Sip,
        }
    }

    /// True if only what rings may travel this way: Apple ends an application that wakes so and doesn't ring.
    #[must_use]
    pub fn is_for_calls_only(&self) -> bool {
        matches!(self, Self::Apns { topic, .. } if topic.ends_with(".voip"))
    }

    /// True if an event of this kind may travel this way.
    #[must_use]
    pub fn takes(&self, event: EventKind) -> bool {
        !self.is_for_calls_only() || event.is_call() || event == EventKind::SELF_TEST
    }

    /// What a gateway names it by to the device that registered it, without the secrets in it.
    #[must_use]
    pub fn fingerprint(&self) -> [u8; 32] {
        hash("halloo push channel", &[&wire::encode(self)])
    }

    pub(super) fn check(&self) -> Result<(), DecodeError> {
        match self {
            Self::Stream => Ok(()),
            Self::WebPush { endpoint, .. } => within("endpoint", endpoint.len(), 0, ENDPOINT_BYTES_MAX),
            Self::Fcm { token } => {
                within("token", token.len(), 1, FCM_TOKEN_BYTES_MAX)?;
                holds("token", token.bytes().all(|byte| byte.is_ascii_graphic()))
            }
            Self::Apns { token, topic, .. } => {
                within("token", token.len(), 1, APNS_TOKEN_BYTES_MAX)?;
                within("topic", topic.len(), 1, TOPIC_BYTES_MAX)?;
                holds("topic", topic.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-')))
            }
            Self::Webhook { url, .. } => within("url", url.len(), 1, ENDPOINT_BYTES_MAX),
            Self::Sms { number } => holds("number", is_phone_number(number)),
            Self::Sip { address } => {
                within("address", address.len(), 1, SIP_ADDRESS_BYTES_MAX)?;
                holds("address", sip_account(address).is_some())
            }
        }
    }
}

/// Account, `name@authority`, and the phone's instance of a SIP channel's address; `None` if it is none.
#[must_use]
pub fn sip_account(address: &str) -> Option<(String, Option<String>)> {
    let uri = SipUri::parse(address).ok()?;
    let instance = uri.param("gr").filter(|instance| !instance.is_empty()).map(str::to_owned);
    let user = uri.user.filter(|user| !user.is_empty())?;
    Some((format!("{user}@{}", uri.host), instance))
}

/// True for `+` and 7 to 15 digits, the first no zero (E.164).
#[must_use]
pub fn is_phone_number(text: &str) -> bool {
    text.strip_prefix('+').is_some_and(|digits| {
        (DIGITS_MIN..=DIGITS_MAX).contains(&digits.len())
            && digits.bytes().all(|byte| byte.is_ascii_digit())
            && !digits.starts_with('0')
    })
}

fn within(field: &'static str, length: usize, min: usize, max: usize) -> Result<(), DecodeError> {
    if (min..=max).contains(&length) {
        return Ok(());
    }
    Err(DecodeError::invalid(field, format!("{length} bytes, {min} to {max}")))
}

fn holds(field: &'static str, is_good: bool) -> Result<(), DecodeError> {
    if is_good { Ok(()) } else { Err(DecodeError::invalid(field, "malformed")) }
}

/// Endpoints and tokens are secrets: whoever knows one can send there.
impl fmt::Debug for PushChannel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PushChannel::{:?}(..)", self.way())
    }
}

/// A kind of channel, without its secrets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub enum PushWay {
    /// The overlay stream.
    Stream,
    /// Web Push.
    WebPush,
    /// Firebase Cloud Messaging.
    Fcm,
    /// The Apple Push Notification service.
    Apns,
    /// An HTTP server of the device's owner.
    Webhook,
    /// A short message to a telephone.
    Sms,
    /// A SIP request to a phone.
    Sip,
}

impl PushWay {
    /// Its word in answers, logs and commands.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stream => "stream",
            Self::WebPush => "webpush",
            Self::Fcm => "fcm",
            Self::Apns => "apns",
            Self::Webhook => "webhook",
            Self::Sms => "sms",
            Self::Sip => "sip",
        }
    }
}

/// Why a channel has ended: a number on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct ChannelEnd(pub u16);

impl ChannelEnd {
    /// The service doesn't know the subscription any more: the application was removed, or it expired.
    pub const UNREGISTERED: Self = Self(1);
    /// The service says that it never was one.
    pub const INVALID: Self = Self(2);
    /// It belongs to another application, or to another sender than this gateway.
    pub const FOREIGN: Self = Self(3);
    /// The gateway doesn't connect to such addresses.
    pub const FORBIDDEN: Self = Self(4);
}

impl fmt::Display for ChannelEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match *self {
            Self::UNREGISTERED => "the push service doesn't know it any more",
            Self::INVALID => "the push service takes it for invalid",
            Self::FOREIGN => "it belongs to another application or sender than the gateway's",
            Self::FORBIDDEN => "the gateway may not connect there",
            Self(other) => return write!(f, "reason {other}"),
        })
    }
}

/// "A channel of yours has ended": from a gateway to the device that registered it, again whenever the device connects, until it is noted. Other
/// channels of the registration go on; without any the registration is over.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PushChannelGone {
    /// The registration.
    pub handle: PushHandle,
    /// [`PushChannel::fingerprint`] of the channel: one that was registered since isn't meant.
    pub fingerprint: [u8; 32],
    /// What kind it was.
    pub way: PushWay,
    /// Why.
    pub reason: ChannelEnd,
    /// When the gateway was told.
    pub at: UnixTime,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Message for PushChannelGone {
    const KIND: FrameKind = FrameKind(0x0046);
    const LIMIT: usize = 512;
}

/// Answer to [`PushChannelGone`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PushChannelGoneNoted {
    /// True if the device had such a channel.
    pub was_known: bool,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Message for PushChannelGoneNoted {
    const KIND: FrameKind = FrameKind(FrameKind::ANSWER | PushChannelGone::KIND.0);
    const LIMIT: usize = 256;
}
