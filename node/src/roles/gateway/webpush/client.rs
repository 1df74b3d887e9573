//! Sends push messages to push services (RFC 8030 section 5).
//!
//! Connections are kept and shared (HTTP/2 where the push service speaks it). Every wait has an
//! end: 10 s for a connection, [`WebPushConfig::timeout`] for the whole exchange.
//! What the push service says beyond status and two headers is read to keep the connection usable,
//! up to a limit, and thrown away.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use tracing::debug;

use super::{
    AddressGuard, EncryptError, ForbiddenTarget, Subscription, Topic, Urgency, VapidKey, VapidSigner, VapidSubject, encrypt,
    origin_of, parse_endpoint,
};
use crate::roles::gateway::http::{HttpClient, HttpError, TIMEOUT, header_text, retry_after, stated_retry_after};

const TTL: HeaderName = HeaderName::from_static("ttl");
const URGENCY: HeaderName = HeaderName::from_static("urgency");
/// What messages without content are about, all of them.
const WAKE_TOPIC: &str = "wake";
const TOPIC: HeaderName = HeaderName::from_static("topic");

/// What a [`WebPushClient`] needs to know.
#[derive(Debug, Clone)]
pub struct WebPushConfig {
    /// The gateway's key, the same for its whole life.
    pub vapid_key: VapidKey,
    /// Whom push services contact about this gateway.
    pub subject: VapidSubject,
    /// Allows `http` and any address. For test networks on one machine: a gateway that serves
    /// strangers would reach its own host and network for them. Default off.
    pub lab: bool,
    /// Certificates trusted besides Mozilla's list, in DER: for push services run in-house.
    pub extra_roots: Vec<Vec<u8>>,
    /// Longest wait for a whole exchange. Default 15 s.
    pub timeout: Duration,
}

impl WebPushConfig {
    /// The configuration for the public Internet.
    pub fn new(vapid_key: VapidKey, subject: VapidSubject) -> Self {
        Self { vapid_key, subject, lab: false, extra_roots: Vec::new(), timeout: TIMEOUT }
    }
}

/// Why a client could not be made: its configuration is at fault.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// An extra root certificate is not one.
    #[error("extra root certificate {index} is not usable")]
    RootCertificate {
        /// Place in [`WebPushConfig::extra_roots`], from 0.
        index: usize,
        /// What the TLS library says.
        source: rustls::Error,
    },
    /// The TLS library refused our settings.
    #[error("TLS settings are not usable")]
    Tls(#[from] rustls::Error),
}

/// The push service took the message. It says nothing about the device having it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Accepted {
    /// How long the push service keeps the message for the device, in seconds, where it said so:
    /// it may be less than asked for (RFC 8030 section 5.2).
    pub ttl_secs: Option<u32>,
}

/// Why a message was not accepted.
#[derive(Debug, Clone, Copy, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum PushError {
    /// The subscription has ended (404, 410): remove it.
    #[error("subscription has ended")]
    Gone,
    /// The payload is over our limit, or (413) over that of the push service.
    #[error("payload is too large")]
    TooLarge,
    /// The push service wants a pause (429, or 5xx that says for how long).
    #[error("push service asks to wait {} s", after.as_secs())]
    RetryAfter {
        /// From the answer, at least 1 s and at most a day; a minute if it does not say.
        after: Duration,
    },
    /// The push service takes neither this message nor the same again (any other 3xx or 4xx;
    /// redirects are not followed).
    #[error("push service refused with status {status}")]
    Refused {
        /// HTTP status.
        status: u16,
    },
    /// The push service failed (any other 5xx): try again later.
    #[error("push service failed with status {status}")]
    Transient {
        /// HTTP status.
        status: u16,
    },
    /// The endpoint must not be connected to: remove the subscription.
    #[error("endpoint is forbidden")]
    Forbidden(#[from] ForbiddenTarget),
    /// No connection: name, network or port.
    #[error("push service cannot be reached")]
    Unreachable,
    /// TLS failed: above all, a certificate that no trusted root vouches for.
    #[error("push service has no trusted TLS identity")]
    Untrusted,
    /// The exchange broke off, or the answer was not HTTP. The message may have arrived.
    #[error("exchange with the push service broke off")]
    Interrupted,
    /// No answer in time. The message may have arrived.
    #[error("push service did not answer in time")]
    Timeout,
    /// The operating system gave no randomness.
    #[error("no randomness from the operating system")]
    Randomness,
}

impl PushError {
    /// Whether the subscription will never work again and is to be removed.
    pub fn is_subscription_dead(&self) -> bool {
        matches!(self, Self::Gone | Self::Forbidden(_))
    }

    /// Whether the same message may be accepted later.
    pub fn is_worth_retrying(&self) -> bool {
        match self {
            Self::RetryAfter { .. }
            | Self::Transient { .. }
            | Self::Unreachable
            | Self::Untrusted
            | Self::Interrupted
            | Self::Timeout
            | Self::Randomness => true,
            Self::Gone | Self::TooLarge | Self::Refused { .. } | Self::Forbidden(_) => false,
        }
    }
}

impl From<HttpError> for PushError {
    fn from(error: HttpError) -> Self {
        match error {
            HttpError::Forbidden(target) => Self::Forbidden(target),
            HttpError::Unreachable => Self::Unreachable,
            HttpError::Untrusted => Self::Untrusted,
            HttpError::Interrupted => Self::Interrupted,
            HttpError::Timeout => Self::Timeout,
        }
    }
}

impl From<EncryptError> for PushError {
    fn from(error: EncryptError) -> Self {
        match error {
            EncryptError::TooLarge { .. } => Self::TooLarge,
            EncryptError::Randomness => Self::Randomness,
        }
    }
}

/// Sends push messages. One for all subscriptions of a gateway; share it in an `Arc`.
pub struct WebPushClient {
    http: HttpClient,
    signer: Mutex<VapidSigner>,
}

impl WebPushClient {
    /// Makes a client; nothing is connected yet. Call it within a Tokio runtime.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub fn new(config: WebPushConfig) -> Result<Self, ClientError> {
        Ok(Self {
            http: HttpClient::for_strangers(AddressGuard::new(config.lab), &config.extra_roots, config.timeout)?,
            signer: Mutex::new(VapidSigner::new(&config.vapid_key, config.subject)),
        })
    }

    /// Encrypts `payload` for the subscription's device and has its push service deliver it.
    ///
    /// `ttl_secs` is how long the push service may keep the message for a device that is not
    /// there; 0 means now or never. A message with a `topic` replaces an undelivered one with the
    /// same topic.
    ///
    /// One attempt; whether and when to try again is the caller's to say. Dropping the future
    /// ends the exchange; the push service may have the message then or not.
    ///
    /// # Errors
    /// Any [`PushError`].
    pub async fn send(
        &self,
        subscription: &Subscription,
        payload: &[u8],
        ttl_secs: u32,
        urgency: Urgency,
        topic: Option<&Topic>,
    ) -> Result<Accepted, PushError> {
        let body = encrypt(subscription, payload)?;
        let mut request = Request::new(Full::new(Bytes::from(body)));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = subscription.endpoint().clone();
        let mut headers = self.headers(&subscription.origin(), ttl_secs, urgency, topic);
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("aes128gcm"));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        *request.headers_mut() = headers;
        self.exchange(request).await
    }

    /// Has a push service deliver a message without content (RFC 8030 section 5), which needs no keys of the device's. One that is undelivered yet is replaced by
    /// the next: either wakes.
    ///
    /// # Errors
    /// As [`Self::send`]; [`PushError::Gone`] if `endpoint` is no usable URL.
    pub async fn send_empty(&self, endpoint: &str, ttl_secs: u32, urgency: Urgency) -> Result<Accepted, PushError> {
        let endpoint = parse_endpoint(endpoint).map_err(|_| PushError::Gone)?;
        let topic: Option<Topic> = WAKE_TOPIC.parse().ok();
        let mut request = Request::new(Full::new(Bytes::new()));
        *request.method_mut() = Method::POST;
        *request.headers_mut() = self.headers(&origin_of(&endpoint), ttl_secs, urgency, topic.as_ref());
        request.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        *request.uri_mut() = endpoint;
        self.exchange(request).await
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<Accepted, PushError> {
        let answer = self.http.exchange(request).await?;
        debug!(status = answer.status.as_u16(), "push service answered");
        read_answer(answer.status, &answer.headers, SystemTime::now())
    }

    fn headers(&self, origin: &str, ttl_secs: u32, urgency: Urgency, topic: Option<&Topic>) -> HeaderMap {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let authorization = self.signer.lock().unwrap_or_else(PoisonError::into_inner).authorization(origin, now.as_secs());
        let mut authorization = HeaderValue::try_from(authorization).expect("a token is base64url and has no control characters");
        authorization.set_sensitive(true);

        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, authorization);
        headers.insert(TTL, HeaderValue::from(ttl_secs));
        headers.insert(URGENCY, HeaderValue::from_static(urgency.as_str()));
        if let Some(topic) = topic {
            let topic = HeaderValue::from_str(topic.as_str()).expect("a topic has characters of the base64url alphabet only");
            headers.insert(TOPIC, topic);
        }
        headers
    }
}

impl fmt::Debug for WebPushClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebPushClient").finish_non_exhaustive()
    }
}

/// What a status means (RFC 8030 sections 5 and 7, RFC 9110 section 15: an unknown status counts
/// as the first of its class).
fn read_answer(status: StatusCode, headers: &HeaderMap, now: SystemTime) -> Result<Accepted, PushError> {
    let code = status.as_u16();
    match code {
        200..=299 => Ok(Accepted { ttl_secs: header_text(headers, &TTL).and_then(|text| text.parse().ok()) }),
        404 | 410 => Err(PushError::Gone),
        413 => Err(PushError::TooLarge),
        429 => Err(PushError::RetryAfter { after: retry_after(headers, now) }),
        // A service that is out of order for a moment must not cost a call that rings for one.
        500.. => match stated_retry_after(headers, now) {
            Some(after) => Err(PushError::RetryAfter { after }),
            None => Err(PushError::Transient { status: code }),
        },
        _ => Err(PushError::Refused { status: code }),
    }
}

#[cfg(test)]
mod tests;
