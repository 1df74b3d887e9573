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
use zeroize::Zeroizing;

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
pub(crate) enum SmsError {
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

    fn apply(self, text: &str) -> String {
        let percent = |byte: u8| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
            byte => format!("%{byte:02X}"),
        };
        match self {
            Self::Percent => text.bytes().map(percent).collect(),
            // A string is written with its quotes.
            Self::Json => {
                let written = serde_json::Value::from(text).to_string();
                written.get(1..written.len() - 1).unwrap_or_default().to_owned()
            }
            Self::None => text.to_owned(),
        }
    }
}

/// What a telephone is to get.
#[derive(Clone, Copy)]
pub(crate) struct Text<'a> {
    pub(crate) number: &'a str,
    pub(crate) text: &'a str,
    /// The code that is in the text, if one is.
    pub(crate) code: &'a str,
}

/// The provider's interface.
struct Template {
    method: Method,
    url: String,
    headers: HeaderMap,
    body: String,
    escape: Escape,
    secret: Zeroizing<String>,
    success: Vec<u16>,
}

impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Template").field("method", &self.method).finish_non_exhaustive()
    }
}

impl Template {
    fn new(config: &SmsConfig, is_lab: bool, has_codes: bool) -> Result<Self, SmsError> {
        let field = |text: &str| SmsError::Field(text.to_owned());
        let method = match config.method.as_deref().unwrap_or("POST") {
            "POST" => Method::POST,
            "PUT" => Method::PUT,
            "GET" => Method::GET,
            _ => return Err(field("method is none of POST, PUT, GET")),
        };
        let secret = config.secret_file.as_deref().map(crate::mail::password).transpose();
        let secret = secret.map_err(|error| SmsError::Field(format!("secret_file: {error}")))?.unwrap_or_default();
        let mut headers = HeaderMap::new();
        for (name, value) in &config.headers {
            let header =
                name.parse::<HeaderName>().map_err(|_| SmsError::Field(format!("header {name:?} has no usable name")))?;
            let value = Zeroizing::new(value.replace("{secret}", &secret));
            let mut value =
                HeaderValue::from_str(&value).map_err(|_| SmsError::Field(format!("header {name:?} has no usable value")))?;
            value.set_sensitive(true);
            headers.insert(header, value);
        }
        let content_type = headers.get(http::header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let escape = content_type.map_or(Escape::None, Escape::of);
        let (url, body, success) = (config.url.clone(), config.body.clone(), config.success.clone());
        let template = Self { method, url, headers, body, escape, secret, success };
        template.check(is_lab, has_codes)?;
        Ok(template)
    }

    fn check(&self, is_lab: bool, has_codes: bool) -> Result<(), SmsError> {
        let field = |text: &str| Err(SmsError::Field(text.to_owned()));
        let both = format!("{}{}", self.url, self.body);
        if !both.contains("{number}") || !(both.contains("{text}") || both.contains("{text_hex}") || both.contains("{code}")) {
            return field("url and body must hold {number}, and {text} or {text_hex}");
        }
        if both.contains("{code}") && !has_codes {
            return field("{code} is for codes alone");
        }
        if self.body.len() > BODY_BYTES_MAX / 2 {
            return field("body is too long");
        }
        let example = Text { number: "+15550100", text: "Halloo", code: "01234567" };
        let uri = self.uri(&example).ok_or_else(|| SmsError::Field("url is not a URL".into()))?;
        match uri.scheme_str() {
            Some("https") => Ok(()),
            Some("http") if is_lab => Ok(()),
            _ => field("url is not an https URL"),
        }
    }

    fn uri(&self, text: &Text<'_>) -> Option<Uri> {
        let uri: Uri = fill(&self.url, Escape::Percent, text, &self.secret).parse().ok()?;
        uri.host().is_some_and(|host| !host.is_empty()).then_some(uri)
    }

    fn request(&self, text: &Text<'_>) -> Option<Request<Full<Bytes>>> {
        let body = fill(&self.body, self.escape, text, &self.secret);
        let mut request = Request::new(Full::new(Bytes::from(body)));
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri(text)?;
        *request.headers_mut() = self.headers.clone();
        Some(request)
    }

    fn is_success(&self, status: StatusCode) -> bool {
        if self.success.is_empty() { status.is_success() } else { self.success.contains(&status.as_u16()) }
    }
}

/// Puts the values in. What is put in isn't looked at again, whatever it holds.
fn fill(template: &str, escape: Escape, text: &Text<'_>, secret: &str) -> String {
    let value = |name: &str| match name {
        "number" => Some(escape.apply(text.number)),
        "text" => Some(escape.apply(text.text)),
        "text_hex" => Some(HEXLOWER.encode(text.text.as_bytes())),
        "code" => Some(escape.apply(text.code)),
        "secret" => Some(escape.apply(secret)),
        _ => None,
    };
    let mut filled = String::with_capacity(template.len() + text.text.len());
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        filled.push_str(before);
        match after.split_once('}').and_then(|(name, after)| Some((value(name)?, after))) {
            Some((value, after)) => {
                filled.push_str(&value);
                rest = after;
            }
            None => {
                filled.push('{');
                rest = after;
            }
        }
    }
    filled + rest
}

/// An argument of a program that sends messages.
pub(crate) fn fill_argument(argument: &str, text: &Text<'_>) -> String {
    fill(argument, Escape::None, text, "")
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
pub(crate) struct SmsClient {
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
        Self::with(config, is_lab, roots, false)
    }

    /// The same for messages with codes.
    ///
    /// # Errors
    /// [`SmsError`].
    pub(crate) fn for_codes(config: &SmsConfig, is_lab: bool, roots: &[Vec<u8>]) -> Result<Self, SmsError> {
        Self::with(config, is_lab, roots, true)
    }

    fn with(config: &SmsConfig, is_lab: bool, roots: &[Vec<u8>], has_codes: bool) -> Result<Self, SmsError> {
        Ok(Self {
            http: HttpClient::for_own_service(roots, false)?,
            template: Template::new(config, is_lab, has_codes)?,
            limits: Mutex::new(Limits::new(config.per_hour_max)),
        })
    }

    fn may_send(&self, number: &str) -> bool {
        self.limits.lock().unwrap_or_else(PoisonError::into_inner).take(number, Instant::now())
    }

    /// Sends a message once.
    ///
    /// # Errors
    /// Why it wasn't taken.
    pub(crate) async fn send_text(&self, text: &Text<'_>) -> Result<(), String> {
        if !self.may_send(text.number) {
            return Err("too many short messages".to_owned());
        }
        let request = self.template.request(text).ok_or("the URL can't be made")?;
        let answer = self.http.exchange(request).await.map_err(|error| error.to_string())?;
        if self.template.is_success(answer.status) { Ok(()) } else { Err(format!("the provider answers {}", answer.status)) }
    }

    /// Sends a wake-up to a number.
    pub(super) async fn send(&self, number: &str, message: &PushMessage) -> Outcome {
        if !is_phone_number(number) {
            return Outcome::Refused { status: 0 };
        }
        if !self.may_send(number) {
            warn!("too many short messages: one is not sent");
            return Outcome::Refused { status: 0 };
        }
        let Some(request) = self.template.request(&Text { number, text: &wake_text(message), code: "" }) else {
            return Outcome::Refused { status: 0 };
        };
        match self.http.exchange(request).await {
            Ok(answer) => {
                debug!(status = answer.status.as_u16(), "SMS provider answered");
                let is_sent = self.template.is_success(answer.status);
                read_answer(answer.status, is_sent, &answer.headers, SystemTime::now())
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
fn read_answer(status: StatusCode, is_sent: bool, headers: &HeaderMap, now: SystemTime) -> Outcome {
    match status.as_u16() {
        _ if is_sent => Outcome::Sent,
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
            ..SmsConfig::default()
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
        let template = Template::new(config, false, false).unwrap();
        let text = wake_text(&message());
        let request = template.request(&Text { number: "+15550100", text: &text, code: "" }).unwrap();
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
        let refused = |config: &SmsConfig| Template::new(config, false, false).unwrap_err().to_string();
        let good = config("https://sms.example/send", "application/json", r#"{"to":"{number}","text":"{text}"}"#);
        assert!(refused(&SmsConfig { body: "{text}".into(), ..good.clone() }).contains("{number}"));
        assert!(refused(&SmsConfig { body: "{number}".into(), ..good.clone() }).contains("{text}"));
        assert!(refused(&SmsConfig { url: "http://sms.example/send".into(), ..good.clone() }).contains("https"));
        assert!(refused(&SmsConfig { url: "sms".into(), ..good.clone() }).contains("url"));
        assert!(refused(&SmsConfig { method: Some("DELETE".into()), ..good.clone() }).contains("method"));
        let bad_header = SmsConfig { headers: [("a b".to_owned(), String::new())].into(), ..good.clone() };
        assert!(refused(&bad_header).contains("header"));
        assert!(
            Template::new(&SmsConfig { url: "http://127.0.0.1/".into(), ..good.clone() }, true, false).is_ok(),
            "in a laboratory"
        );
        assert!(!format!("{good:?}").contains("Bearer key"), "{good:?}");
        assert!(!format!("{:?}", Template::new(&good, false, false).unwrap()).contains("Bearer key"));
        let with_code = SmsConfig { body: "{number}{code}".into(), ..good.clone() };
        assert!(refused(&with_code).contains("{code}") && Template::new(&with_code, false, true).is_ok());
        assert!(refused(&SmsConfig { secret_file: Some("/no/such/file".into()), ..good }).contains("secret_file"));
    }

    #[test]
    fn values_are_escaped_and_never_looked_at_again() {
        let text = Text { number: "+15550100", text: "a \"b\" {secret}\n\\ü&", code: "01234567" };
        let filled = |template: &str, escape| fill(template, escape, &text, "k\"ey");
        assert_eq!(filled(r#"{"t":"{text}","k":"{secret}"}"#, Escape::Json), r#"{"t":"a \"b\" {secret}\n\\ü&","k":"k\"ey"}"#);
        assert_eq!(filled("t={text}&c={code}", Escape::Percent), "t=a%20%22b%22%20%7Bsecret%7D%0A%5C%C3%BC%26&c=01234567");
        assert_eq!(filled("{number} {what} {code", Escape::None), "+15550100 {what} {code");
    }

    #[test]
    fn the_key_is_in_a_file_and_success_is_what_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let secret_file = folder.path().join("key");
        std::fs::write(&secret_file, "the-key\n").unwrap();
        #[cfg(unix)]
        std::fs::set_permissions(&secret_file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        let headers = [("Authorization".to_owned(), "Bearer {secret}".to_owned())].into();
        let body = "{number}{text}".to_owned();
        let config = SmsConfig {
            secret_file: Some(secret_file),
            headers,
            success: vec![201],
            ..config("https://sms.example/{secret}", "text/plain", &body)
        };
        let template = Template::new(&config, false, false).unwrap();
        let request = template.request(&Text { number: "+15550100", text: "x", code: "" }).unwrap();
        assert_eq!(request.headers().get("authorization").unwrap(), "Bearer the-key");
        assert_eq!(request.uri(), "https://sms.example/the-key");
        assert!(template.is_success(StatusCode::CREATED) && !template.is_success(StatusCode::OK));
        assert!(!format!("{template:?}").contains("the-key"));
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
        let read = |status: u16| {
            let status = StatusCode::from_u16(status).unwrap();
            read_answer(status, status.is_success(), &HeaderMap::new(), SystemTime::now())
        };
        assert_eq!(read(202), Outcome::Sent);
        assert_eq!(read(401), Outcome::BadCredentials);
        assert_eq!(read(429), Outcome::RetryAfter(Duration::from_secs(60)));
        assert_eq!(read(502), Outcome::Temporary);
        assert_eq!(read(404), Outcome::Refused { status: 404 });
    }
}
