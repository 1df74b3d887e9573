//! Sends push messages to push services (RFC 8030 section 5).
//!
//! Connections are kept and shared (HTTP/2 where the push service speaks it). Every wait has an
//! end: [`CONNECT_TIMEOUT`] for a connection, [`WebPushConfig::timeout`] for the whole exchange.
//! What the push service says beyond status and two headers is read to keep the connection usable,
//! up to a limit, and thrown away.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, RootCertStore};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tower_service::Service;
use tracing::debug;

use super::guard::GuardedConnector;
use super::{
    AddressGuard, EncryptError, ForbiddenTarget, Subscription, Topic, Urgency, VapidKey, VapidSigner, VapidSubject, encrypt,
};

/// Longest wait for a TCP connection, over all addresses of a name.
const TCP_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest wait for a whole connection: name, TCP and TLS.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest wait for an exchange, unless configured otherwise: a call rings for a minute or two,
/// and a second attempt should still find it ringing.
const TIMEOUT: Duration = Duration::from_secs(15);

/// How long an answer's body is waited for once its status is known.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// Longest answer body read. A longer one costs the connection.
const ANSWER_BYTES_MAX: usize = 16 * 1_024;

/// Longest answer head read on HTTP/1.1.
const ANSWER_HEAD_BYTES_MAX: usize = 32 * 1_024;

/// Exchanges at a time. More wait for their turn, within their own timeout. High enough that a
/// few push services that do not answer leave room for the others.
const EXCHANGES_MAX: usize = 256;

/// Idle connections kept per push service, for HTTP/1.1; HTTP/2 needs one.
const IDLE_CONNECTIONS_MAX: usize = 4;

/// How long an idle connection is kept.
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);

/// Assumed when a push service says "later" but not when.
const RETRY_AFTER_DEFAULT: Duration = Duration::from_secs(60);

/// Longest delay taken from a push service: after a day no message of ours is worth sending.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(24 * 3_600);

const TTL: HeaderName = HeaderName::from_static("ttl");
const URGENCY: HeaderName = HeaderName::from_static("urgency");
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
    /// The push service wants a pause (429, 503).
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
    http: Client<TimedConnector, Full<Bytes>>,
    signer: Mutex<VapidSigner>,
    exchanges: Semaphore,
    timeout: Duration,
}

impl WebPushClient {
    /// Makes a client; nothing is connected yet. Call it within a Tokio runtime.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub fn new(config: WebPushConfig) -> Result<Self, ClientError> {
        let guard = AddressGuard::new(config.lab);
        let tls = tls_config(&config.extra_roots)?;
        let http = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
            .http1_max_buf_size(ANSWER_HEAD_BYTES_MAX)
            .build(TimedConnector::new(guard, tls, CONNECT_TIMEOUT));
        Ok(Self {
            http,
            signer: Mutex::new(VapidSigner::new(&config.vapid_key, config.subject)),
            exchanges: Semaphore::new(EXCHANGES_MAX),
            timeout: config.timeout,
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
        *request.headers_mut() = self.headers(subscription, ttl_secs, urgency, topic);

        let answer = timeout(self.timeout, self.exchange(request)).await.unwrap_or(Err(PushError::Timeout))?;
        let outcome = read_answer(answer.status(), answer.headers(), SystemTime::now());
        debug!(status = answer.status().as_u16(), "push service answered");
        drain(answer).await;
        outcome
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, PushError> {
        let _permit = self.exchanges.acquire().await.expect("the semaphore is never closed");
        self.http.request(request).await.map_err(|error| classify(&error))
    }

    fn headers(&self, subscription: &Subscription, ttl_secs: u32, urgency: Urgency, topic: Option<&Topic>) -> HeaderMap {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let authorization =
            self.signer.lock().unwrap_or_else(PoisonError::into_inner).authorization(&subscription.origin(), now.as_secs());
        let mut authorization = HeaderValue::try_from(authorization).expect("a token is base64url and has no control characters");
        authorization.set_sensitive(true);

        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, authorization);
        headers.insert(TTL, HeaderValue::from(ttl_secs));
        headers.insert(URGENCY, HeaderValue::from_static(urgency.as_str()));
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("aes128gcm"));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
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

/// Gives up connections that take too long. The client goes on connecting in the background when
/// another connection has served the request meanwhile; without this, a push service that stalls
/// the TLS handshake would hold such a connection for ever.
#[derive(Clone)]
struct TimedConnector {
    inner: HttpsConnector<GuardedConnector>,
    limit: Duration,
}

impl TimedConnector {
    fn new(guard: AddressGuard, tls: ClientConfig, limit: Duration) -> Self {
        // Whether `http` is allowed is the guard's to say.
        let inner = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_all_versions()
            .wrap_connector(GuardedConnector::new(guard, TCP_TIMEOUT));
        Self { inner, limit }
    }
}

impl Service<Uri> for TimedConnector {
    type Response = <HttpsConnector<GuardedConnector> as Service<Uri>>::Response;
    type Error = Box<dyn Error + Send + Sync>;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connecting = timeout(self.limit, self.inner.call(uri));
        Box::pin(async move { connecting.await? })
    }
}

/// Mozilla's roots and the extra ones, with a provider named: a process may have several.
fn tls_config(extra_roots: &[Vec<u8>]) -> Result<ClientConfig, ClientError> {
    let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    for (index, root) in extra_roots.iter().enumerate() {
        roots.add(CertificateDer::from(root.as_slice())).map_err(|source| ClientError::RootCertificate { index, source })?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(config)
}

/// What a status means (RFC 8030 sections 5 and 7, RFC 9110 section 15: an unknown status counts
/// as the first of its class).
fn read_answer(status: StatusCode, headers: &HeaderMap, now: SystemTime) -> Result<Accepted, PushError> {
    let code = status.as_u16();
    match code {
        200..=299 => Ok(Accepted { ttl_secs: header_text(headers, &TTL).and_then(|text| text.parse().ok()) }),
        404 | 410 => Err(PushError::Gone),
        413 => Err(PushError::TooLarge),
        429 | 503 => {
            let after = header_text(headers, &RETRY_AFTER)
                .and_then(|text| parse_retry_after(text, now))
                .unwrap_or(RETRY_AFTER_DEFAULT)
                .clamp(Duration::from_secs(1), RETRY_AFTER_MAX);
            Err(PushError::RetryAfter { after })
        }
        500.. => Err(PushError::Transient { status: code }),
        _ => Err(PushError::Refused { status: code }),
    }
}

fn header_text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok().map(str::trim)
}

/// Seconds or an HTTP date (RFC 9110 section 10.2.3); a date that has passed is no wait at all.
fn parse_retry_after(text: &str, now: SystemTime) -> Option<Duration> {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // More digits than fit mean a long time.
        return Some(Duration::from_secs(text.parse().unwrap_or(u64::MAX)));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

/// Reads a body to its end, so that an HTTP/1.1 connection can be used again. One that is too
/// long or too slow is dropped, and its connection with it: the status is all we need.
async fn drain(answer: Response<Incoming>) {
    let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX);
    let _ = timeout(DRAIN_TIMEOUT, body.collect()).await;
}

/// Finds in the HTTP client's error what the caller can act upon. The error itself may name the
/// host, so it goes no further.
fn classify(error: &hyper_util::client::legacy::Error) -> PushError {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(current) = cause {
        if let Some(forbidden) = current.downcast_ref::<ForbiddenTarget>() {
            return PushError::Forbidden(*forbidden);
        }
        if current.is::<rustls::Error>() {
            return PushError::Untrusted;
        }
        // `io::Error::source` passes over the error that it was made from.
        let inner = current.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        cause = match inner {
            Some(inner) => Some(inner),
            None => current.source(),
        };
    }
    if error.is_connect() { PushError::Unreachable } else { PushError::Interrupted }
}

#[cfg(test)]
mod tests;
