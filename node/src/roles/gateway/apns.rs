//! The Apple Push Notification service.
//!
//! One HTTP/2 connection that stays open, a provider token (ES256) in each request, and a push type by what happens: calls to a topic that ends in
//! `.voip` wake the application to ring; other events are alerts that the application's service extension opens (`mutable-content`), or, if they
//! aren't urgent, background wake-ups. The payload travels as `"halloo"` beside `aps`, in base64; the text that Apple sees is a key, no text.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use data_encoding::{BASE64, HEXLOWER};
use halloo_protocol::event::EventKind;
use halloo_protocol::key::hash;
use halloo_protocol::push::{ChannelEnd, Urgency};
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, StatusCode, Uri};
use http_body_util::Full;
use serde_json::{Value, json};
use tracing::{debug, warn};

use super::channel::{Outcome, PushMessage};
use super::fcm::https_uri;
use super::http::{HttpClient, HttpError, retry_after, stated_retry_after};
use super::jwt::{EcSigner, KeyError};
use super::webpush::ClientError;

/// Where Apple takes notifications, for applications from the store and for those under development.
const ENDPOINT: &str = "https://api.push.apple.com";
const SANDBOX_ENDPOINT: &str = "https://api.sandbox.push.apple.com";

/// Longest payload, and longest one of a call.
const PAYLOAD_BYTES_MAX: usize = 4_096;
const VOIP_PAYLOAD_BYTES_MAX: usize = 5_120;

/// When a token is made anew. Apple refuses one older than an hour, and new ones more often than every 20 minutes.
const TOKEN_SECS: u64 = 45 * 60;
const TOKEN_SECS_MIN: u64 = 20 * 60;

/// Length of a key's and a team's id.
const ID_BYTES: usize = 10;

/// Pause after a failure that names none.
const RETRY_MIN: Duration = Duration::from_secs(10);

const APNS_TOPIC: HeaderName = HeaderName::from_static("apns-topic");
const APNS_PUSH_TYPE: HeaderName = HeaderName::from_static("apns-push-type");
const APNS_PRIORITY: HeaderName = HeaderName::from_static("apns-priority");
const APNS_EXPIRATION: HeaderName = HeaderName::from_static("apns-expiration");
const APNS_ID: HeaderName = HeaderName::from_static("apns-id");

/// Why APNs can't be used as configured.
#[derive(Debug, thiserror::Error)]
pub(super) enum ApnsError {
    /// The key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A field can't be used.
    #[error("{0}")]
    Field(&'static str),
    /// The HTTP client's settings.
    #[error(transparent)]
    Client(#[from] ClientError),
}

/// Signs provider tokens and keeps the newest. It reads no clock: the time comes with each call, in seconds since 1970.
pub(super) struct ProviderTokens {
    signer: EcSigner,
    key_id: String,
    team_id: String,
    kept: Option<Token>,
    /// When one was made before its time because Apple called it expired.
    forced_at: Option<u64>,
}

struct Token {
    authorization: HeaderValue,
    made_at: u64,
}

impl ProviderTokens {
    /// # Errors
    /// [`ApnsError`].
    pub(super) fn new(key_pem: &str, key_id: &str, team_id: &str) -> Result<Self, ApnsError> {
        let is_id = |text: &str| text.len() == ID_BYTES && text.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if !is_id(key_id) {
            return Err(ApnsError::Field("key_id is not 10 letters and digits"));
        }
        if !is_id(team_id) {
            return Err(ApnsError::Field("team_id is not 10 letters and digits"));
        }
        let signer = EcSigner::from_pem(key_pem)?;
        Ok(Self { signer, key_id: key_id.to_owned(), team_id: team_id.to_owned(), kept: None, forced_at: None })
    }

    /// The header's value, made anew when it is due. A clock set back makes a new one too.
    fn authorization(&mut self, now: u64) -> Option<HeaderValue> {
        let is_good = |token: &Token| (token.made_at..token.made_at.saturating_add(TOKEN_SECS)).contains(&now);
        if let Some(token) = self.kept.as_ref().filter(|token| is_good(token)) {
            return Some(token.authorization.clone());
        }
        let header = json!({"alg": "ES256", "kid": self.key_id, "typ": "JWT"});
        let token = self.signer.sign(&header, &json!({"iss": self.team_id, "iat": now}));
        let mut authorization = HeaderValue::try_from(format!("bearer {token}")).ok()?;
        authorization.set_sensitive(true);
        self.kept = Some(Token { authorization: authorization.clone(), made_at: now });
        Some(authorization)
    }

    /// Apple calls `expired` expired: drops it, if it is the one that is kept. False if the last time was too short ago.
    fn renew(&mut self, expired: &HeaderValue, now: u64) -> bool {
        if self.kept.as_ref().is_none_or(|token| token.authorization != *expired) {
            return true;
        }
        if self.forced_at.is_some_and(|at| (at..at.saturating_add(TOKEN_SECS_MIN)).contains(&now)) {
            return false;
        }
        (self.kept, self.forced_at) = (None, Some(now));
        true
    }
}

/// How a notification travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PushType {
    Voip,
    Alert,
    Background,
}

impl PushType {
    /// `None`: not to this topic. Apple ends an application that is woken for a call and doesn't ring.
    fn of(topic: &str, event: EventKind, urgency: Urgency) -> Option<Self> {
        let rings = event.is_call() || event == EventKind::SELF_TEST;
        match (topic.ends_with(".voip"), rings, urgency) {
            (true, true, _) => Some(Self::Voip),
            (true, false, _) => None,
            (false, true, _) | (false, _, Urgency::Normal | Urgency::High) => Some(Self::Alert),
            (false, false, _) => Some(Self::Background),
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Voip => "voip",
            Self::Alert => "alert",
            Self::Background => "background",
        }
    }

    /// 10: at once; 5: with regard to the battery, and the only one for the background.
    const fn priority(self) -> &'static str {
        match self {
            Self::Voip | Self::Alert => "10",
            Self::Background => "5",
        }
    }

    const fn bytes_max(self) -> usize {
        match self {
            Self::Voip => VOIP_PAYLOAD_BYTES_MAX,
            Self::Alert | Self::Background => PAYLOAD_BYTES_MAX,
        }
    }

    /// The payload, or `None` if it is over the limit.
    fn body(self, message: &PushMessage) -> Option<Bytes> {
        let aps = match self {
            Self::Voip => json!({}),
            Self::Alert => json!({"alert": {"loc-key": message.event.to_string()}, "mutable-content": 1}),
            Self::Background => json!({"content-available": 1}),
        };
        let body = json!({"aps": aps, "halloo": BASE64.encode(&message.payload)}).to_string();
        (body.len() <= self.bytes_max()).then(|| Bytes::from(body))
    }
}

/// What an answer means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Outcome(Outcome),
    /// The provider token is too old: once more with a new one.
    NewToken,
}

/// Sends to APNs. One for all tokens of a gateway.
pub(super) struct ApnsClient {
    http: HttpClient,
    tokens: Mutex<ProviderTokens>,
    team_id: String,
    endpoint: String,
    sandbox_endpoint: String,
}

impl ApnsClient {
    /// The endpoints in place of Apple's, for tests. Nothing is connected yet. Call it within a Tokio runtime.
    ///
    /// # Errors
    /// [`ApnsError`].
    pub(super) fn new(
        tokens: ProviderTokens,
        endpoint: Option<&str>,
        sandbox_endpoint: Option<&str>,
        roots: &[Vec<u8>],
    ) -> Result<Self, ApnsError> {
        let checked = |text: &str, reason| {
            let text = text.trim_end_matches('/');
            https_uri(text).map(|_| text.to_owned()).ok_or(ApnsError::Field(reason))
        };
        Ok(Self {
            http: HttpClient::for_own_service(roots, true)?,
            team_id: tokens.team_id.clone(),
            tokens: Mutex::new(tokens),
            endpoint: checked(endpoint.unwrap_or(ENDPOINT), "endpoint is not an https URL")?,
            sandbox_endpoint: checked(sandbox_endpoint.unwrap_or(SANDBOX_ENDPOINT), "sandbox_endpoint is not an https URL")?,
        })
    }

    /// Whether it is this team whose apps it reaches.
    pub(super) fn is_team(&self, team: &str) -> bool {
        self.team_id.eq_ignore_ascii_case(team)
    }

    /// Sends a message to a device token.
    pub(super) async fn send(&self, token: &[u8], topic: &str, is_sandbox: bool, message: &PushMessage) -> Outcome {
        let Some(push_type) = PushType::of(topic, message.event, message.urgency) else {
            return Outcome::Refused { status: 0 };
        };
        let Some(body) = push_type.body(message) else { return Outcome::TooLarge };
        let base = if is_sandbox { &self.sandbox_endpoint } else { &self.endpoint };
        let Some(uri) = https_uri(&format!("{base}/3/device/{}", HEXLOWER.encode(token))) else {
            return Outcome::Dead(ChannelEnd::INVALID);
        };
        let Some(headers) = headers(push_type, topic, token, message, unix_now()) else {
            return Outcome::Dead(ChannelEnd::INVALID);
        };
        self.send_with_token(&uri, &headers, &body).await
    }

    async fn send_with_token(&self, uri: &Uri, headers: &HeaderMap, body: &Bytes) -> Outcome {
        for _ in 0..2 {
            let Some(authorization) = self.tokens().authorization(unix_now()) else { return Outcome::Temporary };
            match self.attempt(uri, headers, body, &authorization).await {
                Verdict::Outcome(outcome) => return outcome,
                Verdict::NewToken if self.tokens().renew(&authorization, unix_now()) => {}
                Verdict::NewToken => break,
            }
        }
        warn!("APNs takes no provider token of this key: is this machine's clock right?");
        Outcome::BadCredentials
    }

    async fn attempt(&self, uri: &Uri, headers: &HeaderMap, body: &Bytes, authorization: &HeaderValue) -> Verdict {
        let request = || {
            let mut request = Request::new(Full::new(body.clone()));
            *request.method_mut() = Method::POST;
            *request.uri_mut() = uri.clone();
            *request.headers_mut() = headers.clone();
            request.headers_mut().insert(AUTHORIZATION, authorization.clone());
            request
        };
        let mut answer = self.http.exchange(request()).await;
        // Apple closes connections as it likes (GOAWAY). What came twice has the same `apns-id`, and rings once.
        if answer.as_ref().is_err_and(|error| *error == HttpError::Interrupted) {
            answer = self.http.exchange(request()).await;
        }
        match answer {
            Ok(answer) => {
                let verdict = read_answer(answer.status, &answer.headers, &answer.body, SystemTime::now());
                debug!(status = answer.status.as_u16(), ?verdict, "APNs answered");
                if verdict == Verdict::Outcome(Outcome::BadCredentials) {
                    warn!("APNs does not take this provider: see key_file, key_id and team_id");
                }
                verdict
            }
            Err(error) => {
                debug!(%error, "APNs did not answer");
                Verdict::Outcome(error.into())
            }
        }
    }

    fn tokens(&self) -> std::sync::MutexGuard<'_, ProviderTokens> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for ApnsClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApnsClient")
    }
}

fn unix_now() -> u64 {
    UNIX_EPOCH.elapsed().unwrap_or_default().as_secs()
}

fn headers(push_type: PushType, topic: &str, token: &[u8], message: &PushMessage, now: u64) -> Option<HeaderMap> {
    // 0: now or never.
    let expiration = if message.ttl_secs == 0 { 0 } else { now.saturating_add(message.ttl_secs.into()) };
    let mut headers = HeaderMap::new();
    headers.insert(APNS_TOPIC, HeaderValue::from_str(topic).ok()?);
    headers.insert(APNS_PUSH_TYPE, HeaderValue::from_static(push_type.name()));
    headers.insert(APNS_PRIORITY, HeaderValue::from_static(push_type.priority()));
    headers.insert(APNS_EXPIRATION, HeaderValue::from(expiration));
    headers.insert(APNS_ID, HeaderValue::try_from(apns_id(token, &message.payload)).ok()?);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Some(headers)
}

/// The same for every attempt with the same message, in the form of a UUID (version 8, RFC 9562 section 5.8).
fn apns_id(token: &[u8], payload: &[u8]) -> String {
    let digest = hash("halloo push id", &[token, payload]);
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    bytes[6] = 0x80 | bytes[6] & 0x0f;
    bytes[8] = 0x80 | bytes[8] & 0x3f;
    let hex = HEXLOWER.encode(&bytes);
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

/// What an answer says (Apple's "Handling notification responses from APNs").
fn read_answer(status: StatusCode, headers: &HeaderMap, body: &[u8], now: SystemTime) -> Verdict {
    if status == StatusCode::OK {
        return Verdict::Outcome(Outcome::Sent);
    }
    let answer = serde_json::from_slice::<Value>(body).unwrap_or_default();
    let outcome = match (status.as_u16(), answer["reason"].as_str().unwrap_or_default()) {
        (400, "BadDeviceToken") => Outcome::Dead(ChannelEnd::INVALID),
        (400, "DeviceTokenNotForTopic" | "TopicDisallowed" | "BadTopic") => Outcome::Dead(ChannelEnd::FOREIGN),
        (403, "ExpiredProviderToken") => return Verdict::NewToken,
        (403, _) => Outcome::BadCredentials,
        (410, _) => Outcome::Dead(ChannelEnd::UNREGISTERED),
        (413, _) => Outcome::TooLarge,
        // Apple takes new provider tokens every 20 minutes at most; the old one goes on meanwhile.
        (429, _) => Outcome::RetryAfter(retry_after(headers, now)),
        // The connection was idle, or ends: nothing is wrong with the message.
        (400, "IdleTimeout") => Outcome::Temporary,
        (500.., _) => Outcome::RetryAfter(stated_retry_after(headers, now).unwrap_or(RETRY_MIN)),
        (status, _) => Outcome::Refused { status },
    };
    Verdict::Outcome(outcome)
}

#[cfg(test)]
mod tests;
