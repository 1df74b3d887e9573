//! Requests to push services: connections that are kept and shared, an end to every wait, and answers read up to a limit.
//!
//! Errors name what the caller can act upon and nothing else: the libraries' own may name the host, and an endpoint is a secret.

use std::error::Error;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{HeaderMap, HeaderName, RETRY_AFTER};
use http::{Request, Response, StatusCode, Uri};
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

use super::webpush::guard::GuardedConnector;
use super::webpush::{AddressGuard, ClientError, ForbiddenTarget};

/// Longest wait for a TCP connection, over all addresses of a name.
const TCP_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest wait for a whole connection: name, TCP and TLS.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest wait for an exchange, unless configured otherwise: a call rings for a minute or two,
/// and a second attempt should still find it ringing.
pub(super) const TIMEOUT: Duration = Duration::from_secs(15);

/// How long an answer's body is waited for once its status is known.
const BODY_TIMEOUT: Duration = Duration::from_secs(1);

/// Longest answer body read. A longer one costs the connection.
pub(super) const ANSWER_BYTES_MAX: usize = 16 * 1_024;

/// Longest answer head read on HTTP/1.1.
pub(super) const ANSWER_HEAD_BYTES_MAX: usize = 32 * 1_024;

/// Exchanges at a time. More wait for their turn, within their own timeout. High enough that a
/// few push services that do not answer leave room for the others.
const EXCHANGES_MAX: usize = 256;

/// Idle connections kept per push service, for HTTP/1.1; HTTP/2 needs one.
const IDLE_CONNECTIONS_MAX: usize = 4;

/// How long an idle connection to a stranger's endpoint is kept.
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);

/// How long an idle connection to a service of the operator's is kept: a push that finds one open is three round trips faster.
const OWN_IDLE_TIMEOUT: Duration = Duration::from_secs(6 * 3_600);

/// How often such a connection is looked at, and how long the answer may take (HTTP/2 PING, RFC 9113 section 6.7).
const PING_EVERY: Duration = Duration::from_secs(60);
const PING_TIMEOUT: Duration = Duration::from_secs(15);

/// Assumed when a push service says "later" but not when.
const RETRY_AFTER_DEFAULT: Duration = Duration::from_secs(60);

/// Longest delay taken from a push service: after a day no message of ours is worth sending.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(24 * 3_600);

/// What came back.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    /// The body; empty if it was too long or too slow.
    pub(super) body: Bytes,
}

/// Why nothing came back.
#[derive(Debug, Clone, Copy, thiserror::Error, PartialEq, Eq)]
pub(super) enum HttpError {
    /// The guard doesn't let us connect there.
    #[error("endpoint is forbidden")]
    Forbidden(#[from] ForbiddenTarget),
    /// No connection: name, network or port.
    #[error("no connection")]
    Unreachable,
    /// TLS failed: above all, a certificate that no trusted root vouches for.
    #[error("no trusted TLS identity")]
    Untrusted,
    /// The exchange broke off, or the answer was not HTTP. The request may have arrived.
    #[error("exchange broke off")]
    Interrupted,
    /// No answer in time. The request may have arrived.
    #[error("no answer in time")]
    Timeout,
}

/// Asks push services. One for all requests of a kind.
pub(super) struct HttpClient {
    http: Client<TimedConnector, Full<Bytes>>,
    exchanges: Semaphore,
    timeout: Duration,
}

impl HttpClient {
    /// For endpoints that strangers name. Call it within a Tokio runtime.
    ///
    /// # Errors
    /// [`ClientError`] for a root that is no certificate.
    pub(super) fn for_strangers(guard: AddressGuard, roots: &[Vec<u8>], timeout: Duration) -> Result<Self, ClientError> {
        let http = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
            .http1_max_buf_size(ANSWER_HEAD_BYTES_MAX)
            .build(TimedConnector::new(guard, tls_config(roots)?, CONNECT_TIMEOUT));
        Ok(Self { http, exchanges: Semaphore::new(EXCHANGES_MAX), timeout })
    }

    /// For a service the operator has configured: any address, and its connection stays open. Call it within a Tokio runtime.
    ///
    /// # Errors
    /// [`ClientError`] for a root that is no certificate.
    pub(super) fn for_own_service(roots: &[Vec<u8>], is_http2_only: bool) -> Result<Self, ClientError> {
        let http = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(OWN_IDLE_TIMEOUT)
            .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
            .http1_max_buf_size(ANSWER_HEAD_BYTES_MAX)
            .http2_only(is_http2_only)
            .http2_keep_alive_interval(PING_EVERY)
            .http2_keep_alive_timeout(PING_TIMEOUT)
            .http2_keep_alive_while_idle(true)
            .build(TimedConnector::new(AddressGuard::new(true), tls_config(roots)?, CONNECT_TIMEOUT));
        Ok(Self { http, exchanges: Semaphore::new(EXCHANGES_MAX), timeout: TIMEOUT })
    }

    /// One attempt. Dropping the future ends the exchange; the service may have the request then or not.
    ///
    /// # Errors
    /// [`HttpError`].
    pub(super) async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<Answer, HttpError> {
        let answer = timeout(self.timeout, self.send(request)).await.map_err(|_| HttpError::Timeout)??;
        let (head, body) = answer.into_parts();
        Ok(Answer { status: head.status, headers: head.headers, body: read_body(body).await })
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, HttpError> {
        let _permit = self.exchanges.acquire().await.map_err(|_| HttpError::Interrupted)?;
        self.http.request(request).await.map_err(|error| classify(&error))
    }
}

/// Reads a body to its end, so that an HTTP/1.1 connection can be used again. One that is too
/// long or too slow is dropped, and its connection with it: the status is what counts.
async fn read_body(body: Incoming) -> Bytes {
    let body = Limited::new(body, ANSWER_BYTES_MAX);
    match timeout(BODY_TIMEOUT, body.collect()).await {
        Ok(Ok(body)) => body.to_bytes(),
        _ => Bytes::new(),
    }
}

/// Gives up connections that take too long. The client goes on connecting in the background when
/// another connection has served the request meanwhile; without this, a push service that stalls
/// the TLS handshake would hold such a connection for ever.
#[derive(Clone)]
pub(super) struct TimedConnector {
    inner: HttpsConnector<GuardedConnector>,
    limit: Duration,
}

impl TimedConnector {
    pub(super) fn new(guard: AddressGuard, tls: ClientConfig, limit: Duration) -> Self {
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
pub(super) fn tls_config(extra_roots: &[Vec<u8>]) -> Result<ClientConfig, ClientError> {
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

/// How long to wait, from the answer: at least 1 s and at most a day, a minute if it does not say.
pub(super) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Duration {
    stated_retry_after(headers, now).unwrap_or(RETRY_AFTER_DEFAULT)
}

/// How long to wait, if the answer says it: at least 1 s and at most a day.
pub(super) fn stated_retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let stated = header_text(headers, &RETRY_AFTER).and_then(|text| parse_retry_after(text, now))?;
    Some(stated.clamp(Duration::from_secs(1), RETRY_AFTER_MAX))
}

pub(super) fn header_text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
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

/// Finds in the HTTP client's error what the caller can act upon.
fn classify(error: &hyper_util::client::legacy::Error) -> HttpError {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(current) = cause {
        if let Some(forbidden) = current.downcast_ref::<ForbiddenTarget>() {
            return HttpError::Forbidden(*forbidden);
        }
        if current.is::<rustls::Error>() {
            return HttpError::Untrusted;
        }
        // `io::Error::source` passes over the error that it was made from.
        let inner = current.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        cause = match inner {
            Some(inner) => Some(inner),
            None => current.source(),
        };
    }
    if error.is_connect() { HttpError::Unreachable } else { HttpError::Interrupted }
}
