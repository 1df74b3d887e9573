//! One push by one service: what every service is given, and what each can say to it.
//!
//! A service takes a [`PushMessage`] for a channel and answers with an [`Outcome`]. What follows from that for the push and for the channel is
//! decided here too ([`Outcome::next`]), so that a new service has to know nothing of it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use halloo_protocol::event::EventKind;
use halloo_protocol::push::phone::PhoneTarget;
use halloo_protocol::push::registration::PushWays;
use halloo_protocol::push::{ChannelEnd, PushChannel, PushHandle, PushPayload, PushWay, Urgency};

use super::apns::ApnsClient;
use super::fcm::FcmClient;
use super::http::HttpError;
use super::sip::SipClient;
use super::sms::SmsClient;
use super::webhook::WebhookClient;
use super::webpush::{self, PushError, Subscription, WebPushClient};

/// What a service is asked to bring.
#[derive(Debug, Clone)]
pub(super) struct PushMessage {
    /// The registration.
    pub(super) handle: PushHandle,
    /// An encoded [`PushPayload`].
    pub(super) payload: Bytes,
    /// What kind of event it is.
    pub(super) event: EventKind,
    /// How soon it is wanted.
    pub(super) urgency: Urgency,
    /// For how many seconds from now on.
    pub(super) ttl_secs: u32,
}

impl PushMessage {
    pub(super) fn new(handle: PushHandle, payload: &[u8], urgency: Urgency, ttl_secs: u64) -> Self {
        let event = PushPayload::from_bytes(payload).map_or(EventKind::NOTICE, |payload| payload.event());
        let ttl_secs = u32::try_from(ttl_secs).unwrap_or(u32::MAX);
        Self { handle, payload: Bytes::copy_from_slice(payload), event, urgency, ttl_secs }
    }
}

/// What a service said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It has the message. That says nothing about the device.
    Sent,
    /// The channel will never work again.
    Dead(ChannelEnd),
    /// The same again after so long.
    RetryAfter(Duration),
    /// The message is over the service's limit.
    TooLarge,
    /// The service doesn't take the gateway for who it says it is: the operator's to mend.
    BadCredentials,
    /// The service takes neither this message nor the same again.
    Refused {
        /// HTTP status; 0 if it wasn't asked.
        status: u16,
    },
    /// Not reached, or it failed: the same again later.
    Temporary,
}

/// What follows from an [`Outcome`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// This channel has nothing more to do for the push.
    StrikeOff,
    /// That, and the device loses the channel.
    End(ChannelEnd),
    /// Again when the push's turn comes.
    Again,
    /// Again, not before so long.
    AgainAfter(Duration),
}

impl Outcome {
    /// What is to be done.
    pub(super) const fn next(self) -> Next {
        match self {
            Self::Sent | Self::TooLarge | Self::Refused { .. } => Next::StrikeOff,
            Self::Dead(end) => Next::End(end),
            Self::RetryAfter(pause) => Next::AgainAfter(pause),
            // Pushes outlast a restart with the right key; until then they cost one request at growing pauses.
            Self::BadCredentials | Self::Temporary => Next::Again,
        }
    }
}

impl From<HttpError> for Outcome {
    fn from(error: HttpError) -> Self {
        match error {
            HttpError::Forbidden(_) => Self::Dead(ChannelEnd::FORBIDDEN),
            HttpError::Unreachable | HttpError::Untrusted | HttpError::Interrupted | HttpError::Timeout => Self::Temporary,
        }
    }
}

impl From<PushError> for Outcome {
    fn from(error: PushError) -> Self {
        match error {
            PushError::Gone => Self::Dead(ChannelEnd::UNREGISTERED),
            PushError::Forbidden(_) => Self::Dead(ChannelEnd::FORBIDDEN),
            PushError::TooLarge => Self::TooLarge,
            PushError::RetryAfter { after } => Self::RetryAfter(after),
            PushError::Refused { status } => Self::Refused { status },
            PushError::Transient { .. }
            | PushError::Unreachable
            | PushError::Untrusted
            | PushError::Interrupted
            | PushError::Timeout
            | PushError::Randomness => Self::Temporary,
        }
    }
}

/// The services of this gateway.
#[derive(Clone)]
pub(super) struct Services {
    pub(super) web_push: Arc<WebPushClient>,
    pub(super) webhook: Arc<WebhookClient>,
    pub(super) fcm: Option<Arc<FcmClient>>,
    pub(super) apns: Option<Arc<ApnsClient>>,
    pub(super) sms: Option<Arc<SmsClient>>,
    /// The SIP edge beside the gateway, once it is there.
    pub(super) sip: Option<SipClient>,
}

impl Services {
    /// By which ways this gateway delivers.
    pub(super) fn ways(&self) -> PushWays {
        let configured = [
            (PushWay::Fcm, self.fcm.is_some()),
            (PushWay::Apns, self.apns.is_some()),
            (PushWay::Sms, self.sms.is_some()),
            (PushWay::Sip, self.sip.is_some()),
        ];
        configured.into_iter().filter(|(_, is_there)| *is_there).fold(PushWays::OWN, |ways, (way, _)| ways.with(way))
    }

    /// Sends a message by a channel that isn't the stream. One attempt; dropping the future ends it.
    pub(super) async fn send(&self, channel: &PushChannel, message: &PushMessage) -> Outcome {
        // What was registered when a service was configured that is no more: nothing is lost by waiting for it.
        match channel {
            PushChannel::Stream => Outcome::Refused { status: 0 },
            PushChannel::WebPush { endpoint, p256dh, auth } => self.send_web_push(endpoint, *p256dh, *auth, message).await,
            PushChannel::Fcm { token } => match &self.fcm {
                Some(fcm) => fcm.send(token, message).await,
                None => Outcome::BadCredentials,
            },
            PushChannel::Apns { token, topic, is_sandbox } => match &self.apns {
                Some(apns) => apns.send(token, topic, *is_sandbox, message).await,
                None => Outcome::BadCredentials,
            },
            PushChannel::Webhook { url, secret } => self.webhook.send(url, secret, message).await,
            PushChannel::Sms { number } => match &self.sms {
                Some(sms) => sms.send(number, message).await,
                None => Outcome::BadCredentials,
            },
            PushChannel::Sip { address } => match &self.sip {
                Some(sip) => sip.send(address, message).await,
                None => Outcome::Temporary,
            },
        }
    }

    /// Wakes a phone's app, with nothing in it.
    pub(super) async fn wake(&self, target: &PhoneTarget, event: EventKind, urgency: Urgency, ttl_secs: u32) -> Outcome {
        let message = PushMessage { handle: PushHandle([0; 32]), payload: Bytes::new(), event, urgency, ttl_secs };
        match target {
            PhoneTarget::WebPush { endpoint } => match self.web_push.send_empty(endpoint, ttl_secs, urgency_of(urgency)).await {
                Ok(_) => Outcome::Sent,
                Err(error) => error.into(),
            },
            PhoneTarget::Fcm { project, token } => match &self.fcm {
                Some(fcm) if fcm.project() == project => fcm.send(token, &message).await,
                Some(_) => Outcome::Dead(ChannelEnd::FOREIGN),
                None => Outcome::BadCredentials,
            },
            PhoneTarget::Apns { team, topic, token } => match &self.apns {
                Some(apns) if apns.is_team(team) => apns.send(token, topic, false, &message).await,
                Some(_) => Outcome::Dead(ChannelEnd::FOREIGN),
                None => Outcome::BadCredentials,
            },
        }
    }

    async fn send_web_push(&self, endpoint: &str, p256dh: [u8; 65], auth: [u8; 16], message: &PushMessage) -> Outcome {
        let Ok(subscription) = Subscription::new(endpoint, p256dh, auth) else { return Outcome::Dead(ChannelEnd::INVALID) };
        let urgency = urgency_of(message.urgency);
        match self.web_push.send(&subscription, &message.payload, message.ttl_secs, urgency, None).await {
            Ok(_) => Outcome::Sent,
            Err(error) => error.into(),
        }
    }
}

const fn urgency_of(urgency: Urgency) -> webpush::Urgency {
    match urgency {
        Urgency::VeryLow => webpush::Urgency::VeryLow,
        Urgency::Low => webpush::Urgency::Low,
        Urgency::Normal => webpush::Urgency::Normal,
        Urgency::High => webpush::Urgency::High,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_outcome_says_what_is_to_be_done() {
        let minute = Duration::from_secs(60);
        for (outcome, next) in [
            (Outcome::Sent, Next::StrikeOff),
            (Outcome::TooLarge, Next::StrikeOff),
            (Outcome::Refused { status: 400 }, Next::StrikeOff),
            (Outcome::Dead(ChannelEnd::FOREIGN), Next::End(ChannelEnd::FOREIGN)),
            (Outcome::RetryAfter(minute), Next::AgainAfter(minute)),
            (Outcome::BadCredentials, Next::Again),
            (Outcome::Temporary, Next::Again),
        ] {
            assert_eq!(outcome.next(), next, "{outcome:?}");
        }
    }

    #[test]
    fn what_keeps_a_web_push_from_going_out_has_the_same_meaning_as_elsewhere() {
        assert_eq!(Outcome::from(PushError::Gone), Outcome::Dead(ChannelEnd::UNREGISTERED));
        assert_eq!(Outcome::from(PushError::TooLarge), Outcome::TooLarge);
        let after = Duration::from_secs(7);
        assert_eq!(Outcome::from(PushError::RetryAfter { after }), Outcome::RetryAfter(after));
        for error in [PushError::Transient { status: 500 }, PushError::Timeout, PushError::Untrusted, PushError::Unreachable] {
            assert_eq!(Outcome::from(error), Outcome::Temporary);
        }
    }
}
