//! Short messages, by a provider's HTTP interface as the operator describes it.
//!
//! A payload has twenty times the length of a short message. So the message only wakes: what kind of event there is, and the first digits of the
//! device's handle, by which an application with several accounts knows whom to start. Woken, the device connects, and the payload comes over the
//! stream, where it has waited. The provider, and every telephone company on the way, learn the number, the time and the kind of event.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use data_encoding::HEXLOWER;
use halloo_protocol::push::is_phone_number;
use halloo_protocol::rate::{Rate, RateLimiter};
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, StatusCode, Uri};
use http_body_util::Full;
use tracing::{debug, warn};

use super::channel::{Outcome, PushMessage};
use super::http::{HttpClient, retry_after, stated_retry_after};
use super::webpush::ClientError;
use crate::config::SmsConfig;

/// Short messages to one number: they cost money, and the number's owner hasn't asked for them.
const NUMBER_RATE: Rate = Rate { per_hour: 6, burst: 3 };

/// Numbers whose rate is remembered.
const NUMBERS_MAX: usize = 65_536;

/// Digits of the handle in a message, in bytes.
const HANDLE_BYTES: usize = 4;

/// Longest body made from the template.
const BODY_BYTES_MAX: usize = 8 * 1_024;

/// Why the provider can't be used as configured.
#[derive(Debug, thiserror::Error)]
pub(super) enum SmsError {
    /// A setting can't be used.
    #[error("{0}")]
    Field(String),
    /// The HTTP client's settings.
    #[error(transparent)]
    Client(#[from] ClientError),
}

/// How a value is written into the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Escape {
    /// Inside a JSON string.
    Json,
    /// In a form, or in the URL.
    Percent,
    None,
}

impl Escape {
    fn of(content_type: &str) -> Self {
        let kind = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        match kind.as_str() {
            "application/x-www-form-urlencoded" => Self::Percent,
            kind if kind == "application/json" || kind.ends_with("+json") => Self::Json,
            _ => Self::None,
        }
    }

    /// Numbers and texts of ours are ASCII without quotes and backslashes: JSON needs nothing.
    fn apply(self, text: &str) -> String {
        let percent = |byte: u8| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
            byte => format!("%{byte:02X}"),
        };
        match self {
            Self::Percent => text.bytes().map(percent).collect(),
            Self::Json | Self::None => text.to_owned(),
        }
    }
}

/// The provider's interface.
#[derive(Debug)]
struct Template {
    method: Method,
    url: String,
    headers: HeaderMap,
    body: String,
    escape: Escape,
}

impl Template {
    fn new(config: &SmsConfig, is_lab: bool) -> Result<Self, SmsError> {
        let field = |text: &str| SmsError::Field(text.to_owned());
        let method = match config.method.as_deref().unwrap_or("POST") {
            "POST" => Method::POST,
            "PUT" => Method::PUT,
            "GET" => Method::GET,
            _ => return Err(field("method is none of POST, PUT, GET")),
        };
        let mut headers = HeaderMap::new();
        for (name, value) in &config.headers {
            let header =
                name.parse::<HeaderName>().map_err(|_| SmsError::Field(format!("header {name:?} has no usable name")))?;
            let mut value =
                HeaderValue::from_str(value).map_err(|_| SmsError::Field(format!("header {name:?} has no usable value")))?;
            value.set_sensitive(true);
            headers.insert(header, value);
        }
        let content_type = headers.get(http::header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let escape = content_type.map_or(Escape::None, Escape::of);
        let template = Self { method, url: config.url.clone(), headers, body: config.body.clone(), escape };
        template.check(is_lab)?;
        Ok(template)
    }

    fn check(&self, is_lab: bool) -> Result<(), SmsError> {
        let field = |text: &str| Err(SmsError::Field(text.to_owned()));
        let both = format!("{}{}", self.url, self.body);
        if !both.contains("{number}") || !(both.contains("{text}") || both.contains("{text_hex}")) {
            return field("url and body must hold {number}, and {text} or {text_hex}");
        }
        if self.body.len() > BODY_BYTES_MAX / 2 {
            return field("body is too long");
        }
        let uri = self.uri("+15550100", "Halloo").ok_or_else(|| SmsError::Field("url is not a URL".into()))?;
        match uri.scheme_str() {
            Some("https") => Ok(()),
            Some("http") if is_lab => Ok(()),
            _ => field("url is not an https URL"),
        }
    }

    fn uri(&self, number: &str, text: &str) -> Option<Uri> {
        let uri: Uri = fill(&self.url, Escape::Percent, number, text).parse().ok()?;
        uri.host().is_some_and(|host| !host.is_empty()).then_some(uri)
    }

    fn request(&self, number: &str, text: &str) -> Option<Request<Full<Bytes>>> {
        let body = fill(&self.body, self.escape, number, text);
        let mut request = Request::new(Full::new(Bytes::from(body)));
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri(number, text)?;
        *request.headers_mut() = self.headers.clone();
        Some(request)
    }
}

/// Puts the values in. Nothing of ours holds braces, so the order doesn't matter.
fn fill(template: &str, escape: Escape, number: &str, text: &str) -> String {
    template
        .replace("{number}", &escape.apply(number))
        .replace("{text_hex}", &HEXLOWER.encode(text.as_bytes()))
        .replace("{text}", &escape.apply(text))
}

/// What the telephone gets: characters of the GSM alphabet only (3GPP TS 23.038), well below the 160 of one message.
fn wake_text(message: &PushMessage) -> String {
    format!("Halloo: {} halloo:{}", message.event, HEXLOWER.encode(&message.handle.0[..HANDLE_BYTES]))
}

/// How many short messages may go out.
struct Limits {
    numbers: RateLimiter<String>,
    all: RateLimiter<()>,
    all_rate: Rate,
}

impl Limits {
    fn new(per_hour_max: u32) -> Self {
        let all_rate = Rate { per_hour: per_hour_max, burst: per_hour_max };
        Self { numbers: RateLimiter::new(NUMBERS_MAX), all: RateLimiter::new(1), all_rate }
    }

    fn take(&mut self, number: &str, now: Instant) -> bool {
        self.numbers.take(&number.to_owned(), NUMBER_RATE, now).is_ok() && self.all.take(&(), self.all_rate, now).is_ok()
    }
}

/// Sends short messages. One for all of a gateway.
pub(super) struct SmsClient {
    http: HttpClient,
    template: Template,
    limits: Mutex<Limits>,
}

impl SmsClient {
    /// Nothing is connected yet. Call it within a Tokio runtime.
    ///
    /// # Errors
    /// [`SmsError`].
    pub(super) fn new(config: &SmsConfig, is_lab: bool, roots: &[Vec<u8>]) -> Result<Self, SmsError> {
        Ok(Self {
            http: HttpClient::for_own_service(roots, false)?,
            template: Template::new(config, is_lab)?,
            limits: Mutex::new(Limits::new(config.per_hour_max)),
        })
    }

    /// Sends a wake-up to a number.
    pub(super) async fn send(&self, number: &str, message: &PushMessage) -> Outcome {
        if !is_phone_number(number) {
            return Outcome::Refused { status: 0 };
        }
        if !self.limits.lock().unwrap_or_else(PoisonError::into_inner).take(number, Instant::now()) {
            warn!("too many short messages: one is not sent");
            return Outcome::Refused { status: 0 };
        }
        let Some(request) = self.template.request(number, &wake_text(message)) else {
            return Outcome::Refused { status: 0 };
        };
        match self.http.exchange(request).await {
            Ok(answer) => {
                debug!(status = answer.status.as_u16(), "SMS provider answered");
                read_answer(answer.status, &answer.headers, SystemTime::now())
            }
            Err(error) => {
                debug!(%error, "SMS provider did not answer");
                error.into()
            }
        }
    }
}

impl fmt::Debug for SmsClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SmsClient")
    }
}

/// Providers differ; none of their answers says that a number is gone for ever.
fn read_answer(status: StatusCode, headers: &HeaderMap, now: SystemTime) -> Outcome {
    match status.as_u16() {
        200..=299 => Outcome::Sent,
        401 | 403 => Outcome::BadCredentials,
        429 => Outcome::RetryAfter(retry_after(headers, now)),
        500.. => stated_retry_after(headers, now).map_or(Outcome::Temporary, Outcome::RetryAfter),
        status => Outcome::Refused { status },
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use halloo_protocol::event::EventKind;
    use halloo_protocol::push::{PushHandle, Urgency};
    use http_body_util::BodyExt;

    use super::*;

    fn config(url: &str, content_type: &str, body: &str) -> SmsConfig {
        SmsConfig {
            url: url.into(),
            method: None,
            headers: [("Content-Type".to_owned(), content_type.to_owned()), ("Authorization".into(), "Bearer key".into())].into(),
            body: body.into(),
            per_hour_max: 100,
        }
    }

    fn message() -> PushMessage {
        PushMessage {
            handle: PushHandle([0xab; 32]),
            payload: Bytes::from_static(b"secret payload"),
            event: EventKind::VOICE_CALL,
            urgency: Urgency::High,
            ttl_secs: 60,
        }
    }

    async fn request(config: &SmsConfig) -> (Uri, String) {
        let template = Template::new(config, false).unwrap();
        let request = template.request("+15550100", &wake_text(&message())).unwrap();
        let uri = request.uri().clone();
        let body = request.into_body().collect().await.unwrap().to_bytes();
        (uri, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn the_provider_gets_number_and_wake_text_in_its_own_form() {
        let json = config("https://sms.example/send", "application/json", r#"{"to":"{number}","text":"{text}"}"#);
        let (uri, body) = request(&json).await;
        assert_eq!(uri, "https://sms.example/send");
        assert_eq!(body, r#"{"to":"+15550100","text":"Halloo: voice-call halloo:abababab"}"#);
        let form = config("https://sms.example/send", "application/x-www-form-urlencoded", "To={number}&Body={text}");
        assert_eq!(request(&form).await.1, "To=%2B15550100&Body=Halloo%3A%20voice-call%20halloo%3Aabababab");
        let binary = config("https://sms.example/{number}", "text/plain", "udh=&data={text_hex}");
        let (uri, body) = request(&binary).await;
        assert_eq!(uri, "https://sms.example/%2B15550100");
        assert_eq!(body, format!("udh=&data={}", HEXLOWER.encode(b"Halloo: voice-call halloo:abababab")));
    }

    #[test]
    fn every_wake_text_is_one_short_message() {
        for event in 0..8 {
            let text = wake_text(&PushMessage { event: EventKind(event), ..message() });
            assert!(text.len() <= 160 && text.is_ascii(), "{text}");
            assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b" :-".contains(&byte)), "{text}");
        }
    }

    #[test]
    fn settings_that_cannot_work_are_named() {
        let refused = |config: &SmsConfig| Template::new(config, false).unwrap_err().to_string();
        let good = config("https://sms.example/send", "application/json", r#"{"to":"{number}","text":"{text}"}"#);
        assert!(refused(&SmsConfig { body: "{text}".into(), ..good.clone() }).contains("{number}"));
        assert!(refused(&SmsConfig { body: "{number}".into(), ..good.clone() }).contains("{text}"));
        assert!(refused(&SmsConfig { url: "http://sms.example/send".into(), ..good.clone() }).contains("https"));
        assert!(refused(&SmsConfig { url: "sms".into(), ..good.clone() }).contains("url"));
        assert!(refused(&SmsConfig { method: Some("DELETE".into()), ..good.clone() }).contains("method"));
        let bad_header = SmsConfig { headers: [("a b".to_owned(), String::new())].into(), ..good.clone() };
        assert!(refused(&bad_header).contains("header"));
        assert!(Template::new(&SmsConfig { url: "http://127.0.0.1/".into(), ..good.clone() }, true).is_ok(), "in a laboratory");
        assert!(!format!("{good:?}").contains("Bearer key"), "{good:?}");
        assert!(!format!("{:?}", Template::new(&good, false).unwrap()).contains("Bearer key"));
    }

    #[test]
    fn short_messages_are_limited_by_number_and_in_all() {
        let now = Instant::now();
        let mut limits = Limits::new(5);
        assert_eq!((0..10).filter(|_| limits.take("+15550100", now)).count(), 3);
        assert_eq!((0..10).filter(|_| limits.take("+15550101", now)).count(), 2, "five in all");
        assert!(limits.take("+15550100", now + Duration::from_secs(3_600)));
    }

    #[test]
    fn each_answer_has_its_meaning() {
        let read = |status: u16| read_answer(StatusCode::from_u16(status).unwrap(), &HeaderMap::new(), SystemTime::now());
        assert_eq!(read(202), Outcome::Sent);
        assert_eq!(read(401), Outcome::BadCredentials);
        assert_eq!(read(429), Outcome::RetryAfter(Duration::from_secs(60)));
        assert_eq!(read(502), Outcome::Temporary);
        assert_eq!(read(404), Outcome::Refused { status: 404 });
    }
}
