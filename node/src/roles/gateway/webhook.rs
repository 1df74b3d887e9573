//! Posts to an HTTP server that the device's owner runs, signed in the form of Standard Webhooks, so that there are libraries that check it.
//!
//! The server learns that the gateway speaks (nobody else knows the secret), when, and that the body is whole. What the body says it can't read: it
//! is sealed to the device, as on every way. The URL is a stranger's: the guard of Web Push stands before it.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use data_encoding::{BASE64, BASE64URL_NOPAD};
use halloo_protocol::key::hash;
use halloo_protocol::push::ChannelEnd;
use halloo_protocol::push::session::SessionInitiation;
use halloo_protocol::push::session::encapsulation::http_post;
use halloo_protocol::wire::Signed;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use ring::hmac;
use tracing::debug;

use super::channel::{Outcome, PushMessage};
use super::http::{HttpClient, TIMEOUT, retry_after, stated_retry_after};
use super::webpush::{AddressGuard, ClientError, parse_endpoint};

const ID: HeaderName = HeaderName::from_static("webhook-id");
const TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");
const TTL: HeaderName = HeaderName::from_static("ttl");
const URGENCY: HeaderName = HeaderName::from_static("urgency");

/// Posts to webhooks. One for all of a gateway.
pub(super) struct WebhookClient {
    http: HttpClient,
}

impl WebhookClient {
    /// `is_lab` takes the guard away. Call it within a Tokio runtime.
    ///
    /// # Errors
    /// [`ClientError`] for a root that is no certificate.
    pub(super) fn new(is_lab: bool, roots: &[Vec<u8>]) -> Result<Self, ClientError> {
        Ok(Self { http: HttpClient::for_strangers(AddressGuard::new(is_lab), roots, TIMEOUT)? })
    }

    /// Posts a message.
    pub(super) async fn send(&self, url: &str, secret: &[u8; 32], message: &PushMessage) -> Outcome {
        self.post(url, secret, message, &[]).await
    }

    /// Posts a request for a session in the form of WAP's push over the air, signed like every message.
    pub(super) async fn send_initiation(
        &self,
        url: &str,
        secret: &[u8; 32],
        message: &PushMessage,
        request: &Signed<SessionInitiation>,
    ) -> Outcome {
        let (headers, body) = http_post(request);
        self.post(url, secret, &PushMessage { payload: body.into(), ..message.clone() }, &headers).await
    }

    /// Posts a message with more headers, which may take the place of others.
    async fn post(&self, url: &str, secret: &[u8; 32], message: &PushMessage, more: &[(&'static str, String)]) -> Outcome {
        let Ok(uri) = parse_endpoint(url) else { return Outcome::Dead(ChannelEnd::INVALID) };
        let now = UNIX_EPOCH.elapsed().unwrap_or_default().as_secs();
        let Some(mut headers) = headers(secret, message, now) else { return Outcome::Temporary };
        for (name, value) in more {
            let (Ok(name), Ok(value)) = (HeaderName::try_from(*name), HeaderValue::try_from(value)) else {
                return Outcome::TooLarge;
            };
            headers.insert(name, value);
        }
        let mut request = Request::new(Full::new(message.payload.clone()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        match self.http.exchange(request).await {
            Ok(answer) => {
                debug!(status = answer.status.as_u16(), "webhook answered");
                read_answer(answer.status, &answer.headers, SystemTime::now())
            }
            Err(error) => {
                debug!(%error, "webhook did not answer");
                error.into()
            }
        }
    }
}

impl fmt::Debug for WebhookClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WebhookClient")
    }
}

/// `None` for what can't be: every value is ASCII.
fn headers(secret: &[u8; 32], message: &PushMessage, now: u64) -> Option<HeaderMap> {
    let id = message_id(&message.payload);
    let mut headers = HeaderMap::new();
    headers.insert(SIGNATURE, HeaderValue::try_from(signature(secret, &id, now, &message.payload)).ok()?);
    headers.insert(ID, HeaderValue::try_from(id).ok()?);
    headers.insert(TIMESTAMP, HeaderValue::from(now));
    headers.insert(TTL, HeaderValue::from(message.ttl_secs));
    headers.insert(URGENCY, HeaderValue::from_static(message.urgency.as_str()));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    Some(headers)
}

/// The same for every attempt with the same message.
fn message_id(payload: &[u8]) -> String {
    format!("msg_{}", BASE64URL_NOPAD.encode(&hash("halloo push id", &[payload])[..15]))
}

/// Standard Webhooks, "Signature scheme": HMAC-SHA-256 over `id.timestamp.body`.
fn signature(secret: &[u8; 32], id: &str, timestamp: u64, body: &Bytes) -> String {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, secret));
    context.update(format!("{id}.{timestamp}.").as_bytes());
    context.update(body);
    format!("v1,{}", BASE64.encode(context.sign().as_ref()))
}

/// 410 alone ends a webhook: 404 is what a server says whose files are being changed.
fn read_answer(status: StatusCode, headers: &HeaderMap, now: SystemTime) -> Outcome {
    match status.as_u16() {
        200..=299 => Outcome::Sent,
        410 => Outcome::Dead(ChannelEnd::UNREGISTERED),
        413 => Outcome::TooLarge,
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
    use http::header::RETRY_AFTER;

    use super::*;

    fn message(payload: &'static [u8]) -> PushMessage {
        PushMessage {
            handle: PushHandle([1; 32]),
            payload: Bytes::from_static(payload),
            event: EventKind::VOICE_CALL,
            urgency: Urgency::High,
            ttl_secs: 60,
        }
    }

    /// The example of the Standard Webhooks specification and its libraries.
    #[test]
    fn signatures_are_those_of_standard_webhooks() {
        let secret = BASE64.decode(b"MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, &secret));
        let (id, body) = ("msg_p5jXN8AQM9LWM0D4loKWxJek", br#"{"test": 2432232314}"#);
        context.update(format!("{id}.1614265330.").as_bytes());
        context.update(body);
        assert_eq!(BASE64.encode(context.sign().as_ref()), "g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
        // The same with a secret of our length, computed by Python's hmac.
        let ours = signature(&[7; 32], id, 1_614_265_330, &Bytes::from_static(body));
        assert_eq!(ours, "v1,YO/ulmd+VFtlnbodv7yLOOsS6RlBZ48h++gXZrGOpZo=");
    }

    #[test]
    fn headers_name_the_message_and_its_time() {
        let headers = headers(&[7; 32], &message(b"wake"), 1_800_000_000).unwrap();
        assert_eq!(headers["webhook-timestamp"], "1800000000");
        assert_eq!(headers["content-type"], "application/octet-stream");
        assert_eq!(headers["ttl"], "60");
        assert_eq!(headers["urgency"], "high");
        let id = headers["webhook-id"].to_str().unwrap();
        assert_eq!(id, message_id(b"wake"), "a second attempt has the same");
        assert_ne!(id, message_id(b"other"));
    }

    #[test]
    fn each_answer_has_its_meaning() {
        let now = SystemTime::now();
        let read = |status: u16| read_answer(StatusCode::from_u16(status).unwrap(), &HeaderMap::new(), now);
        assert_eq!(read(200), Outcome::Sent);
        assert_eq!(read(204), Outcome::Sent);
        assert_eq!(read(410), Outcome::Dead(ChannelEnd::UNREGISTERED));
        assert_eq!(read(413), Outcome::TooLarge);
        assert_eq!(read(429), Outcome::RetryAfter(Duration::from_secs(60)));
        assert_eq!(read(500), Outcome::Temporary);
        for status in [302, 400, 401, 404] {
            assert_eq!(read(status), Outcome::Refused { status });
        }
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, HeaderValue::from(7));
        let later = read_answer(StatusCode::SERVICE_UNAVAILABLE, &headers, now);
        assert_eq!(later, Outcome::RetryAfter(Duration::from_secs(7)));
    }

    #[tokio::test]
    async fn a_webhook_on_this_machine_is_not_called() {
        let client = WebhookClient::new(false, &[]).unwrap();
        for url in ["https://127.0.0.1:9/a", "http://push.example.net/a", "https://localhost:9999/a"] {
            assert_eq!(client.send(url, &[7; 32], &message(b"wake")).await, Outcome::Dead(ChannelEnd::FORBIDDEN), "{url}");
        }
        let outcome = client.send("https://user@push.example.net/a", &[7; 32], &message(b"wake")).await;
        assert_eq!(outcome, Outcome::Dead(ChannelEnd::INVALID));
    }
}
