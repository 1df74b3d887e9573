//! A push service for a device that has none: a desktop, a server, a test.
//!
//! It plays the operating system's push service and distributor at once, on the loopback
//! interface of the device's own machine: a gateway on the same machine (or one that is reached
//! through a tunnel ending here) posts to it as to any push service.
//!
//! 1. The device binds the service and [subscribes](LocalPushService::subscribe): it gets an
//!    endpoint with an unguessable path, and registers it with its own keys.
//! 2. The gateway posts a message (RFC 8030 section 5). The service checks its form, answers 201
//!    with a `Location`, and hands the still encrypted body over.
//! 3. The device decrypts it with [`crate::roles::gateway::webpush::decrypt`].
//!
//! Nothing is stored: a message is handed over at once or refused (503 with `Retry-After` when
//! the device is behind, 410 when it is gone). Hence the answer's `TTL` is 0, receipts are not
//! offered, and VAPID tokens are not looked at: the path is the only key, and the messages'
//! encryption shows who wrote them.

use std::collections::HashSet;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use data_encoding::BASE64URL_NOPAD;
use http::header::{CONTENT_ENCODING, LOCATION, RETRY_AFTER};
use http::{HeaderMap, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;
use tower_service::Service;
use tracing::debug;

use crate::roles::gateway::webpush::BODY_BYTES_MAX;

/// Messages waiting for the device. When full, senders are asked to come back.
const QUEUE_MAX: usize = 64;

/// Subscriptions of one device: one per gateway, with room for renewals. More are refused.
const SUBSCRIPTIONS_MAX: usize = 64;

/// Connections at a time. More wait in the kernel's queue until one ends.
const CONNECTIONS_MAX: usize = 32;

/// Longest wait for a request's head and for its body. Also how long an idle connection is kept.
const READ_TIMEOUT: Duration = Duration::from_secs(10);

/// Pause after a failed accept: it fails when the process is out of file descriptors, and would
/// fail again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Randomness in a path: 128 bits are beyond guessing.
const PATH_BYTES: usize = 16;

/// Why the service could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// Whoever reaches the service can wake the device, so it is not for other machines.
    #[error("{addr} is not a loopback address")]
    NotLoopback {
        /// The address asked for.
        addr: SocketAddr,
    },
    /// The operating system refused.
    #[error("cannot listen on {addr}")]
    Io {
        /// The address asked for.
        addr: SocketAddr,
        /// What the operating system says.
        source: io::Error,
    },
}

/// Why no subscription was made.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum SubscribeError {
    /// 64 subscriptions exist.
    #[error("limit of {SUBSCRIPTIONS_MAX} subscriptions is reached")]
    TooMany,
    /// The operating system gave no randomness.
    #[error("no randomness from the operating system")]
    Randomness,
}

/// The running service. Dropping it ends the service and its connections.
#[must_use = "dropping it ends the service"]
pub struct LocalPushService {
    shared: Arc<Shared>,
    local_addr: SocketAddr,
    task: JoinHandle<()>,
}

struct Shared {
    /// `http://ADDRESS:PORT`.
    origin: String,
    /// Last path segments of the endpoints given out.
    subscriptions: Mutex<HashSet<String>>,
    messages: mpsc::Sender<Vec<u8>>,
}

impl LocalPushService {
    /// Starts the service on a loopback address (port 0 takes a free one), and gives the encrypted
    /// messages as they come. Dropping the receiver makes the service answer that its
    /// subscriptions have ended.
    ///
    /// # Errors
    /// Any [`BindError`].
    pub async fn bind(addr: SocketAddr) -> Result<(Self, mpsc::Receiver<Vec<u8>>), BindError> {
        if !addr.ip().is_loopback() {
            return Err(BindError::NotLoopback { addr });
        }
        let failed = |source| BindError::Io { addr, source };
        let listener = TcpListener::bind(addr).await.map_err(failed)?;
        let local_addr = listener.local_addr().map_err(failed)?;
        let (sender, receiver) = mpsc::channel(QUEUE_MAX);
        let shared = Arc::new(Shared {
            origin: format!("http://{local_addr}"),
            subscriptions: Mutex::new(HashSet::new()),
            messages: sender,
        });
        let router = Router::new().route("/push/{path}", post(accept_message)).with_state(shared.clone());
        let service = Self { shared, local_addr, task: tokio::spawn(serve(listener, router)) };
        Ok((service, receiver))
    }

    /// Makes a subscription and gives its endpoint, a URL that is a secret.
    ///
    /// # Errors
    /// Any [`SubscribeError`].
    pub fn subscribe(&self) -> Result<String, SubscribeError> {
        let path = random_path().map_err(|_| SubscribeError::Randomness)?;
        let mut subscriptions = self.shared.lock_subscriptions();
        if subscriptions.len() >= SUBSCRIPTIONS_MAX {
            return Err(SubscribeError::TooMany);
        }
        subscriptions.insert(path.clone());
        Ok(format!("{}/push/{path}", self.shared.origin))
    }

    /// Ends a subscription: the next message to it is answered with 404. Whether there was one.
    pub fn unsubscribe(&self, endpoint: &str) -> bool {
        let prefix = format!("{}/push/", self.shared.origin);
        endpoint.strip_prefix(&prefix).is_some_and(|path| self.shared.lock_subscriptions().remove(path))
    }

    /// Where the service listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }
}

impl Drop for LocalPushService {
    fn drop(&mut self) {
        // The task owns the listener and its connections' tasks: they end with it.
        self.task.abort();
    }
}

impl fmt::Debug for LocalPushService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalPushService").field("local_addr", &self.local_addr).finish_non_exhaustive()
    }
}

impl Shared {
    fn lock_subscriptions(&self) -> std::sync::MutexGuard<'_, HashSet<String>> {
        self.subscriptions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn random_path() -> Result<String, getrandom::Error> {
    let mut bytes = [0; PATH_BYTES];
    getrandom::fill(&mut bytes)?;
    Ok(BASE64URL_NOPAD.encode(&bytes))
}

async fn serve(listener: TcpListener, router: Router) {
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        if connections.len() >= CONNECTIONS_MAX {
            connections.join_next().await;
            continue;
        }
        match listener.accept().await {
            Ok((stream, _)) => {
                connections.spawn(serve_connection(stream, router.clone()));
            }
            Err(error) => {
                debug!(%error, "local push service could not accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve_connection(stream: TcpStream, router: Router) {
    let service = service_fn(move |request: http::Request<hyper::body::Incoming>| router.clone().call(request));
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(READ_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        debug!(%error, "connection to the local push service ended early");
    }
}

/// Takes a message (RFC 8030 section 5), or says what is wrong with it.
async fn accept_message(State(shared): State<Arc<Shared>>, Path(path): Path<String>, request: Request) -> Response {
    if !shared.lock_subscriptions().contains(&path) {
        return StatusCode::NOT_FOUND.into_response();
    }
    if let Err(status) = check_headers(request.headers()) {
        return status.into_response();
    }
    let body = match timeout(READ_TIMEOUT, read_body(request.into_body())).await {
        Ok(Ok(body)) => body,
        Ok(Err(status)) => return status.into_response(),
        Err(_) => return StatusCode::REQUEST_TIMEOUT.into_response(),
    };
    let Ok(message) = random_path() else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    match shared.messages.try_send(body) {
        Ok(()) => created(&shared.origin, &message),
        Err(TrySendError::Full(_)) => (StatusCode::SERVICE_UNAVAILABLE, [(RETRY_AFTER, "1")]).into_response(),
        Err(TrySendError::Closed(_)) => StatusCode::GONE.into_response(),
    }
}

/// The message resource's URL is required in the answer (RFC 8030 section 5). Ours has ended
/// already, the message being handed over: 404 is what it answers.
fn created(origin: &str, message: &str) -> Response {
    let headers = [(LOCATION, format!("{origin}/message/{message}")), (http::HeaderName::from_static("ttl"), "0".to_owned())];
    (StatusCode::CREATED, headers).into_response()
}

/// TTL is required (RFC 8030 section 5.2), and so is the encoding of RFC 8291.
fn check_headers(headers: &HeaderMap) -> Result<(), StatusCode> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let ttl = text("ttl").ok_or(StatusCode::BAD_REQUEST)?;
    if ttl.is_empty() || !ttl.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(StatusCode::BAD_REQUEST);
    }
    let encoding = text(CONTENT_ENCODING.as_str()).unwrap_or_default();
    if !encoding.eq_ignore_ascii_case("aes128gcm") {
        return Err(StatusCode::UNSUPPORTED_MEDIA_TYPE);
    }
    Ok(())
}

async fn read_body(body: Body) -> Result<Vec<u8>, StatusCode> {
    match Limited::new(body, BODY_BYTES_MAX).collect().await {
        Ok(body) => Ok(body.to_bytes().into()),
        Err(error) if error.is::<LengthLimitError>() => Err(StatusCode::PAYLOAD_TOO_LARGE),
        Err(_) => Err(StatusCode::BAD_REQUEST),
    }
}

#[cfg(test)]
mod tests;
