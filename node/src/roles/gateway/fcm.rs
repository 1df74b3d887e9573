//! Firebase Cloud Messaging, HTTP v1.
//!
//! 1. The gateway signs an assertion with the service account's RSA key and changes it for a bearer token that is good for an hour (RFC 7523
//!    section 2.1, Google's "OAuth 2.0 for server to server applications").
//! 2. It posts a data message to `/v1/projects/PROJECT/messages:send`: `{"halloo": payload in base64}`, which the application gets whole, in the
//!    background too. Nothing in it is for Google to read: no notification text, no collapse key.
//! 3. The answer's `errorCode` says what became of it ([`read_answer`]).

use std::fmt;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use data_encoding::BASE64;
use halloo_protocol::push::{ChannelEnd, Urgency};
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{Method, Request, StatusCode, Uri};
use http_body_util::Full;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tracing::{debug, warn};

use super::channel::{Outcome, PushMessage};
use super::http::{Answer, HttpClient, retry_after, stated_retry_after};
use super::jwt::{KeyError, RsaSigner};
use super::webpush::ClientError;

/// Where Google takes messages.
const ENDPOINT: &str = "https://fcm.googleapis.com";

/// What the token is for.
const SCOPE: &str = "https://www.googleapis.com/auth/firebase.messaging";

/// How long an assertion is valid: the longest Google takes.
const ASSERTION_SECS: u64 = 3_600;

/// A bearer token with less than this to go isn't used any more.
const TOKEN_MARGIN_SECS: u64 = 300;

/// Longest data of a message: names and values together.
const DATA_BYTES_MAX: usize = 4_096;

/// The name of our value in the data.
const DATA_KEY: &str = "halloo";

/// Pause after a failure that names none: Google asks for at least this.
const RETRY_MIN: Duration = Duration::from_secs(10);

/// How long it stands that the token endpoint failed, and that it refused: the first mends itself, the second doesn't.
const FAILURE_STANDS: Duration = Duration::from_secs(4);
const REFUSAL_STANDS: Duration = Duration::from_secs(60);

/// Longest bearer token used. Google promises no more than 2,048 bytes.
const TOKEN_BYTES_MAX: usize = 4_096;

/// Why FCM can't be used as configured.
#[derive(Debug, thiserror::Error)]
pub(super) enum FcmError {
    /// Not the JSON file of a service account.
    #[error("the file is not a service account's key: {0}")]
    Json(String),
    /// The key in it.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A field can't be used.
    #[error("{0} is not usable")]
    Field(&'static str),
    /// The HTTP client's settings.
    #[error(transparent)]
    Client(#[from] ClientError),
}

/// The file that Google gives for a service account. Other fields are passed over.
#[derive(Deserialize)]
struct AccountFile {
    #[serde(rename = "type")]
    kind: String,
    project_id: String,
    private_key_id: String,
    private_key: String,
    client_email: String,
    token_uri: String,
}

/// Who the gateway is to Google.
pub(super) struct ServiceAccount {
    project_id: String,
    key_id: String,
    signer: RsaSigner,
    client_email: String,
    token_uri: Uri,
}

impl ServiceAccount {
    /// # Errors
    /// [`FcmError`].
    pub(super) fn from_json(json: &[u8]) -> Result<Self, FcmError> {
        // serde names the field and never the value.
        let file: AccountFile = serde_json::from_slice(json).map_err(|error| FcmError::Json(error.to_string()))?;
        if file.kind != "service_account" {
            return Err(FcmError::Json("its type is not service_account".into()));
        }
        let is_project = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b':');
        if file.project_id.is_empty() || !file.project_id.bytes().all(is_project) {
            return Err(FcmError::Field("project_id"));
        }
        let token_uri = https_uri(&file.token_uri).ok_or(FcmError::Field("token_uri"))?;
        let signer = RsaSigner::from_pem(&file.private_key)?;
        Ok(Self { project_id: file.project_id, key_id: file.private_key_id, signer, client_email: file.client_email, token_uri })
    }

    /// What is changed for a bearer token, at `now` in seconds since 1970.
    fn assertion(&self, now: u64) -> Result<String, KeyError> {
        let header = json!({"alg": "RS256", "typ": "JWT", "kid": self.key_id});
        let claims = json!({
            "iss": self.client_email,
            "scope": SCOPE,
            "aud": self.token_uri.to_string(),
            "iat": now,
            "exp": now.saturating_add(ASSERTION_SECS),
        });
        self.signer.sign(&header, &claims)
    }
}

/// An `https` URL with a host.
pub(super) fn https_uri(text: &str) -> Option<Uri> {
    let uri: Uri = text.parse().ok()?;
    (uri.scheme_str() == Some("https") && uri.host().is_some_and(|host| !host.is_empty())).then_some(uri)
}

/// A bearer token.
struct AccessToken {
    authorization: HeaderValue,
    /// Counts changes: who finds a token refused names it by this.
    generation: u64,
    usable_until: u64,
}

/// What the token endpoint answers (RFC 6749 section 5.1).
#[derive(Deserialize)]
struct TokenAnswer {
    access_token: String,
    expires_in: u64,
}

/// What an answer to a message means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Outcome(Outcome),
    /// The bearer token isn't taken: once more with a new one.
    NewToken,
}

/// Sends to FCM. One for all tokens of a gateway.
pub(super) struct FcmClient {
    http: HttpClient,
    account: ServiceAccount,
    send_uri: Uri,
    /// Held while a token is fetched: those who need it too wait for it.
    token: Mutex<TokenState>,
}

/// The bearer token that is kept, or why there is none.
#[derive(Default)]
struct TokenState {
    kept: Option<AccessToken>,
    failure: Option<Failure>,
}

/// A token wasn't to be had. It stands for a while, for all who need one: else each that waits would ask in vain for itself, one after the other.
#[derive(Clone, Copy)]
struct Failure {
    outcome: Outcome,
    until: Instant,
}

impl Failure {
    fn new(outcome: Outcome, now: Instant) -> Self {
        let stands = match outcome {
            Outcome::RetryAfter(pause) => pause,
            Outcome::BadCredentials => REFUSAL_STANDS,
            _ => FAILURE_STANDS,
        };
        Self { outcome, until: now + stands }
    }

    /// What it says at `now`; `None` when it is time to ask again.
    fn outcome(&self, now: Instant) -> Option<Outcome> {
        let left = self.until.saturating_duration_since(now);
        match self.outcome {
            _ if left.is_zero() => None,
            Outcome::RetryAfter(_) => Some(Outcome::RetryAfter(left)),
            outcome => Some(outcome),
        }
    }
}

impl FcmClient {
    /// `endpoint` in place of Google's, for tests and proxies. Nothing is connected yet. Call it within a Tokio runtime.
    ///
    /// # Errors
    /// [`FcmError`].
    pub(super) fn new(account: ServiceAccount, endpoint: Option<&str>, roots: &[Vec<u8>]) -> Result<Self, FcmError> {
        let base = endpoint.unwrap_or(ENDPOINT).trim_end_matches('/');
        let send_uri = https_uri(&format!("{base}/v1/projects/{}/messages:send", account.project_id));
        Ok(Self {
            http: HttpClient::for_own_service(roots, false)?,
            send_uri: send_uri.ok_or(FcmError::Field("endpoint"))?,
            account,
            token: Mutex::new(TokenState::default()),
        })
    }

    /// The project whose apps it reaches.
    pub(super) fn project(&self) -> &str {
        &self.account.project_id
    }

    /// Sends a message to the holder of a registration token.
    pub(super) async fn send(&self, token: &str, message: &PushMessage) -> Outcome {
        let Some(body) = body(token, message) else { return Outcome::TooLarge };
        let mut refused = None;
        for _ in 0..2 {
            let (authorization, generation) = match self.authorization(refused).await {
                Ok(authorization) => authorization,
                Err(outcome) => return outcome,
            };
            match self.attempt(body.clone(), authorization).await {
                Verdict::Outcome(outcome) => return outcome,
                Verdict::NewToken => refused = Some(generation),
            }
        }
        warn!("FCM takes no bearer token of this service account");
        Outcome::BadCredentials
    }

    async fn attempt(&self, body: Bytes, authorization: HeaderValue) -> Verdict {
        let request = post(&self.send_uri, "application/json", Some(authorization), body);
        match self.http.exchange(request).await {
            Ok(answer) => {
                let verdict = read_answer(answer.status, &answer.headers, &answer.body, SystemTime::now());
                debug!(status = answer.status.as_u16(), ?verdict, "FCM answered");
                verdict
            }
            Err(error) => {
                debug!(%error, "FCM did not answer");
                Verdict::Outcome(error.into())
            }
        }
    }

    /// The header for a request, from the token kept or a new one. `refused` is the generation that FCM didn't take.
    async fn authorization(&self, refused: Option<u64>) -> Result<(HeaderValue, u64), Outcome> {
        let mut state = self.token.lock().await;
        let now = unix_now();
        if let Some(token) = state.kept.as_ref().filter(|token| now < token.usable_until && Some(token.generation) != refused) {
            return Ok((token.authorization.clone(), token.generation));
        }
        if let Some(outcome) = state.failure.and_then(|failure| failure.outcome(Instant::now())) {
            return Err(outcome);
        }
        let generation = state.kept.as_ref().map_or(0, |token| token.generation + 1);
        let fetched = self.fetch_token(now, generation).await;
        state.failure = fetched.as_ref().err().map(|outcome| Failure::new(*outcome, Instant::now()));
        let token = fetched?;
        let authorization = token.authorization.clone();
        state.kept = Some(token);
        Ok((authorization, generation))
    }

    async fn fetch_token(&self, now: u64, generation: u64) -> Result<AccessToken, Outcome> {
        let assertion = self.account.assertion(now).map_err(|_| Outcome::Temporary)?;
        // Base64url and dots need no escaping in a form.
        let form = format!("grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion={assertion}");
        let request = post(&self.account.token_uri, "application/x-www-form-urlencoded", None, Bytes::from(form));
        let answer = self.http.exchange(request).await.map_err(|error| {
            debug!(%error, "the token endpoint did not answer");
            Outcome::from(error)
        })?;
        read_token(&answer, now, generation, SystemTime::now())
    }
}

impl fmt::Debug for FcmClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FcmClient")
    }
}

fn unix_now() -> u64 {
    UNIX_EPOCH.elapsed().unwrap_or_default().as_secs()
}

fn post(uri: &Uri, kind: &'static str, authorization: Option<HeaderValue>, body: Bytes) -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = uri.clone();
    request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    if let Some(authorization) = authorization {
        request.headers_mut().insert(AUTHORIZATION, authorization);
    }
    request
}

/// The message, or `None` if its data is over the limit.
fn body(token: &str, message: &PushMessage) -> Option<Bytes> {
    let payload = BASE64.encode(&message.payload);
    if DATA_KEY.len() + payload.len() > DATA_BYTES_MAX {
        return None;
    }
    let priority = if message.urgency >= Urgency::High { "HIGH" } else { "NORMAL" };
    let body = json!({"message": {
        "token": token,
        "data": {DATA_KEY: payload},
        "android": {"priority": priority, "ttl": format!("{}s", message.ttl_secs)},
    }});
    Some(Bytes::from(body.to_string()))
}

fn read_token(answer: &Answer, now: u64, generation: u64, clock: SystemTime) -> Result<AccessToken, Outcome> {
    match answer.status.as_u16() {
        200 => {}
        429 | 503 => return Err(Outcome::RetryAfter(retry_after(&answer.headers, clock))),
        500.. => return Err(Outcome::Temporary),
        status => {
            warn!(status, "Google takes no assertion of this service account");
            return Err(Outcome::BadCredentials);
        }
    }
    let token: TokenAnswer = serde_json::from_slice(&answer.body).map_err(|_| Outcome::Temporary)?;
    if token.access_token.is_empty() || token.access_token.len() > TOKEN_BYTES_MAX {
        return Err(Outcome::Temporary);
    }
    let mut authorization = HeaderValue::try_from(format!("Bearer {}", token.access_token)).map_err(|_| Outcome::Temporary)?;
    authorization.set_sensitive(true);
    let lifetime = token.expires_in.min(ASSERTION_SECS);
    // A token that lives no longer than the margin serves half of its life.
    let usable = lifetime.saturating_sub(TOKEN_MARGIN_SECS).max(lifetime / 2);
    Ok(AccessToken { authorization, generation, usable_until: now.saturating_add(usable) })
}

/// What an answer says (FCM's "ErrorCode", Google's API error model).
fn read_answer(status: StatusCode, headers: &HeaderMap, body: &[u8], now: SystemTime) -> Verdict {
    if status.is_success() {
        return Verdict::Outcome(Outcome::Sent);
    }
    let error = serde_json::from_slice::<Value>(body).unwrap_or_default();
    let error = &error["error"];
    let outcome = match (status.as_u16(), error_code(error)) {
        (_, "UNREGISTERED") => Outcome::Dead(ChannelEnd::UNREGISTERED),
        (_, "SENDER_ID_MISMATCH") => Outcome::Dead(ChannelEnd::FOREIGN),
        // Google can't reach Apple or the browser's service in our name: no other token of ours changes that.
        (_, "THIRD_PARTY_AUTH_ERROR") => Outcome::BadCredentials,
        (400, _) => read_invalid_argument(error),
        (401, _) => return Verdict::NewToken,
        (403, _) => Outcome::BadCredentials,
        (413, _) => Outcome::TooLarge,
        (429, _) => Outcome::RetryAfter(retry_after(headers, now)),
        (500.., _) => Outcome::RetryAfter(stated_retry_after(headers, now).unwrap_or(RETRY_MIN)),
        (status, _) => Outcome::Refused { status },
    };
    Verdict::Outcome(outcome)
}

/// FCM's own code, from the details; else the API's general status.
fn error_code(error: &Value) -> &str {
    let details = error["details"].as_array().map(Vec::as_slice).unwrap_or_default();
    let own = details.iter().find_map(|detail| detail["errorCode"].as_str());
    own.or_else(|| error["status"].as_str()).unwrap_or_default()
}

/// 400 is for a token that never was one, and for a message that can't be sent: the token is ended only for the first.
fn read_invalid_argument(error: &Value) -> Outcome {
    let message = error["message"].as_str().unwrap_or_default();
    let details = error["details"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut fields =
        details.iter().flat_map(|detail| detail["fieldViolations"].as_array().map(Vec::as_slice).unwrap_or_default());
    let names_token = fields.any(|violation| violation["field"] == "message.token");
    if names_token || message.contains("not a valid FCM registration token") {
        return Outcome::Dead(ChannelEnd::INVALID);
    }
    if message.contains("too big") {
        return Outcome::TooLarge;
    }
    Outcome::Refused { status: 400 }
}

#[cfg(test)]
mod tests;
