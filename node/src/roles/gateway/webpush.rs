//! The Web Push channel: browsers, UnifiedPush distributors, ntfy, autopush, or our own
//! [local push service](crate::push::receiver).
//!
//! The parties are the *device*, its *push service* and we, the *application server*:
//!
//! 1. The device makes a key pair and a secret ([`ReceiverKeys`]), gets an endpoint URL from its
//!    push service, and registers the three with the gateway as a [`Subscription`].
//! 2. To wake it, [`WebPushClient::send`] encrypts the payload for the device ([`encrypt`],
//!    RFC 8291), signs who we are for the push service ([`VapidSigner`], RFC 8292), and posts both
//!    to the endpoint (RFC 8030).
//! 3. The push service delivers the body, which it cannot read, and the device
//!    [decrypts](decrypt) it.
//!
//! An endpoint is a URL that a stranger gave us: [`AddressGuard`] keeps the client from being
//! used to reach machines that only this host can reach. An endpoint is a secret as well, since
//! whoever knows it can address the device: it never appears in logs, errors or `Debug` output.

mod client;
mod encryption;
pub(super) mod guard;
mod vapid;

use std::fmt;
use std::str::FromStr;

use data_encoding::{BASE64URL, BASE64URL_NOPAD};
use http::Uri;
use serde::{Deserialize, Serialize};

pub use client::{Accepted, ClientError, PushError, WebPushClient, WebPushConfig};
pub use encryption::{
    BODY_BYTES_MAX, DecryptError, EncryptError, MessageKeys, PLAINTEXT_BYTES_MAX, ReceiverKeys, decrypt, encrypt, encrypt_with,
};
pub use guard::{AddressGuard, ForbiddenTarget};
pub use vapid::{VapidError, VapidKey, VapidSigner, VapidSubject};

/// Bytes of an uncompressed P-256 point: a tag and two coordinates of 32.
pub const PUBLIC_KEY_BYTES: usize = 65;

/// Bytes of the authentication secret (RFC 8291 section 3.2).
pub const AUTH_SECRET_BYTES: usize = 16;

/// Longest endpoint accepted. Endpoints of the large push services have 150 to 400 characters.
pub const ENDPOINT_BYTES_MAX: usize = 2_048;

/// Longest JSON form accepted: the endpoint, should every character be escaped as `\u0000`, and
/// 512 bytes for keys and names.
const SUBSCRIPTION_JSON_BYTES_MAX: usize = 6 * ENDPOINT_BYTES_MAX + 512;

/// Where and for whom to encrypt: what a device's push service gave it (W3C Push API).
///
/// A value has an `http` or `https` endpoint with a host, and a key that is a point on P-256.
/// Whether the endpoint may be connected to is decided at each connection, since names change
/// their addresses.
#[derive(Clone, PartialEq, Eq)]
pub struct Subscription {
    endpoint: Uri,
    p256dh: [u8; PUBLIC_KEY_BYTES],
    auth: [u8; AUTH_SECRET_BYTES],
}

/// Why a subscription was not accepted.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum SubscriptionError {
    /// Longer than any endpoint with its keys can be.
    #[error("subscription of {bytes} bytes is too long")]
    TooLong {
        /// Length received.
        bytes: usize,
    },
    /// Not the JSON object that `PushSubscription.toJSON()` makes.
    #[error("subscription is not the expected JSON object")]
    Json,
    /// Not an absolute `http` or `https` URL with a host, or with user name or fragment.
    #[error("endpoint is not a usable URL")]
    Endpoint,
    /// Not base64url of the right length.
    #[error("{field} is not base64url of {expected} bytes")]
    Base64 {
        /// `p256dh` or `auth`.
        field: &'static str,
        /// Length it should have.
        expected: usize,
    },
    /// Right length, but not an uncompressed point on the curve.
    #[error("p256dh is not a point on P-256")]
    PublicKey,
}

/// `PushSubscription.toJSON()`. Browsers add `expirationTime`, others more; unknown fields are
/// passed over.
#[derive(Serialize, Deserialize)]
struct SubscriptionJson {
    endpoint: String,
    keys: KeysJson,
}

#[derive(Serialize, Deserialize)]
struct KeysJson {
    p256dh: String,
    auth: String,
}

impl Subscription {
    /// Checks the parts and joins them.
    ///
    /// # Errors
    /// [`SubscriptionError::Endpoint`] and [`SubscriptionError::PublicKey`].
    pub fn new(endpoint: &str, p256dh: [u8; PUBLIC_KEY_BYTES], auth: [u8; AUTH_SECRET_BYTES]) -> Result<Self, SubscriptionError> {
        encryption::parse_public_key(&p256dh).ok_or(SubscriptionError::PublicKey)?;
        Ok(Self { endpoint: parse_endpoint(endpoint)?, p256dh, auth })
    }

    /// Reads the JSON that a browser's `PushSubscription.toJSON()` gives:
    /// `{"endpoint": "...", "keys": {"p256dh": "...", "auth": "..."}}`, keys in base64url with or
    /// without padding. Untrusted input.
    ///
    /// # Errors
    /// Any [`SubscriptionError`].
    pub fn from_json(json: &[u8]) -> Result<Self, SubscriptionError> {
        if json.len() > SUBSCRIPTION_JSON_BYTES_MAX {
            return Err(SubscriptionError::TooLong { bytes: json.len() });
        }
        let parsed: SubscriptionJson = serde_json::from_slice(json).map_err(|_| SubscriptionError::Json)?;
        Self::new(
            &parsed.endpoint,
            decode_base64url("p256dh", &parsed.keys.p256dh)?,
            decode_base64url("auth", &parsed.keys.auth)?,
        )
    }

    /// The JSON form, as [`Self::from_json`] reads it. It holds secrets: for storage and for the
    /// device itself only.
    pub fn to_json(&self) -> String {
        let value = SubscriptionJson {
            endpoint: self.endpoint.to_string(),
            keys: KeysJson { p256dh: BASE64URL_NOPAD.encode(&self.p256dh), auth: BASE64URL_NOPAD.encode(&self.auth) },
        };
        serde_json::to_string(&value).expect("an object of strings always has a JSON form")
    }

    /// The push resource to post to. A secret.
    pub fn endpoint(&self) -> &Uri {
        &self.endpoint
    }

    /// The device's public key, an uncompressed P-256 point.
    pub fn p256dh(&self) -> &[u8; PUBLIC_KEY_BYTES] {
        &self.p256dh
    }

    /// The secret shared by device and application server.
    pub fn auth(&self) -> &[u8; AUTH_SECRET_BYTES] {
        &self.auth
    }

    /// Scheme, host and, where it is not the scheme's own, port, as RFC 6454 writes them: what a
    /// VAPID token is for.
    pub fn origin(&self) -> String {
        origin_of(&self.endpoint)
    }
}

/// As [`Subscription::origin`].
fn origin_of(endpoint: &Uri) -> String {
    let scheme = endpoint.scheme_str().unwrap_or_default();
    let host = endpoint.host().unwrap_or_default().to_ascii_lowercase();
    match endpoint.port_u16() {
        Some(port) if Some(port) != default_port(scheme) => format!("{scheme}://{host}:{port}"),
        _ => format!("{scheme}://{host}"),
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Subscription(..)")
    }
}

/// The port that a scheme means when a URL names none.
fn default_port(scheme: &str) -> Option<u16> {
    match scheme {
        "https" => Some(443),
        "http" => Some(80),
        _ => None,
    }
}

/// An `http` or `https` URL as a stranger may give it.
///
/// # Errors
/// [`SubscriptionError::TooLong`], [`SubscriptionError::Endpoint`].
pub(crate) fn parse_endpoint(endpoint: &str) -> Result<Uri, SubscriptionError> {
    if endpoint.len() > ENDPOINT_BYTES_MAX {
        return Err(SubscriptionError::TooLong { bytes: endpoint.len() });
    }
    // `Uri` would drop a fragment and carry other bytes along; a URL as browsers write it has
    // neither.
    if !endpoint.bytes().all(|byte| byte.is_ascii_graphic()) || endpoint.contains('#') {
        return Err(SubscriptionError::Endpoint);
    }
    let uri: Uri = endpoint.parse().map_err(|_| SubscriptionError::Endpoint)?;
    let has_scheme = matches!(uri.scheme_str(), Some("https" | "http"));
    let authority = uri.authority().ok_or(SubscriptionError::Endpoint)?;
    let has_port_zero = uri.port_u16() == Some(0);
    // A port that is present but no number (`host:` or `host:99999`) is not read as the default.
    let has_odd_port = uri.port_u16().is_none() && authority.as_str() != authority.host();
    if !has_scheme || authority.host().is_empty() || has_port_zero || has_odd_port {
        return Err(SubscriptionError::Endpoint);
    }
    if authority.as_str().contains('@') {
        return Err(SubscriptionError::Endpoint);
    }
    Ok(uri)
}

fn decode_base64url<const N: usize>(field: &'static str, text: &str) -> Result<[u8; N], SubscriptionError> {
    let error = SubscriptionError::Base64 { field, expected: N };
    let encoding = if text.ends_with('=') { BASE64URL } else { BASE64URL_NOPAD };
    let bytes = encoding.decode(text.as_bytes()).map_err(|_| error)?;
    bytes.try_into().map_err(|_| SubscriptionError::Base64 { field, expected: N })
}

/// How much a message is worth to the device's battery (RFC 8030 section 5.3). A push service
/// may hold back what is less urgent than the device's state allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Urgency {
    /// On power and Wi-Fi only: advertisements.
    VeryLow,
    /// On power or Wi-Fi: topic updates.
    Low,
    /// Neither: a chat or calendar message. What a push service assumes.
    #[default]
    Normal,
    /// Low battery too: an incoming call.
    High,
}

impl Urgency {
    /// The header's value.
    fn as_str(self) -> &'static str {
        match self {
            Self::VeryLow => "very-low",
            Self::Low => "low",
            Self::Normal => "normal",
            Self::High => "high",
        }
    }
}

/// Names what a message is about: it replaces an undelivered one with the same topic
/// (RFC 8030 section 5.4). 1 to 32 characters of the base64url alphabet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topic(String);

/// Longest topic (RFC 8030 section 5.4).
const TOPIC_BYTES_MAX: usize = 32;

/// A topic was empty, over 32 characters, or had a character outside the base64url alphabet.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("topic is not 1 to {TOPIC_BYTES_MAX} characters of base64url")]
pub struct TopicError;

impl FromStr for Topic {
    type Err = TopicError;

    fn from_str(text: &str) -> Result<Self, TopicError> {
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if text.is_empty() || text.len() > TOPIC_BYTES_MAX || !text.bytes().all(is_allowed) {
            return Err(TopicError);
        }
        Ok(Self(text.to_owned()))
    }
}

impl Topic {
    /// The header's value.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn keys() -> ReceiverKeys {
        ReceiverKeys::generate().expect("the system has randomness")
    }

    fn subscription(endpoint: &str) -> Result<Subscription, SubscriptionError> {
        Subscription::new(endpoint, keys().public_key(), [7; 16])
    }

    #[test]
    fn json_from_a_browser_is_read() {
        // The shape of Chrome's and Firefox's toJSON(); key and secret from RFC 8291 section 5.
        let json = br#"{
            "endpoint": "https://push.example.net/push/JzLQ3raZJfFBR0aqvOMsLrt54w4rJUsV",
            "expirationTime": null,
            "keys": {
                "p256dh": "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4",
                "auth": "BTBZMqHH6r4Tts7J_aSIgg=="
            }
        }"#;
        let subscription = Subscription::from_json(json).unwrap();
        assert_eq!(subscription.origin(), "https://push.example.net");
        assert_eq!(subscription.auth()[0], 0x05);
        let again = Subscription::from_json(subscription.to_json().as_bytes()).unwrap();
        assert_eq!(again, subscription);
    }

    #[test]
    fn endpoints_that_are_no_urls_are_refused() {
        let long = format!("https://example.net/{}", "a".repeat(ENDPOINT_BYTES_MAX));
        assert!(matches!(subscription(&long), Err(SubscriptionError::TooLong { .. })));
        for endpoint in [
            "",
            "/push/abc",
            "push.example.net",
            "ftp://push.example.net/abc",
            "file:///etc/passwd",
            "https://",
            "https:///abc",
            "https://user:password@push.example.net/abc",
            "https://push.example.net/abc#fragment",
            "https://push.example.net:0/abc",
            "https://push.example.net:/abc",
            "https://push.example.net:99999/abc",
            "https://push.example.net/with space",
            "https://push.example.net/\r\nX-Injected: 1",
            "https://p\u{fc}sh.example.net/abc",
        ] {
            assert_eq!(subscription(endpoint), Err(SubscriptionError::Endpoint), "{endpoint}");
        }
    }

    #[test]
    fn keys_of_wrong_form_are_refused() {
        let with = |p256dh: &str, auth: &str| {
            Subscription::from_json(
                serde_json::json!({"endpoint": "https://example.net/a", "keys": {"p256dh": p256dh, "auth": auth}})
                    .to_string()
                    .as_bytes(),
            )
        };
        let key = BASE64URL_NOPAD.encode(&keys().public_key());
        let auth = BASE64URL_NOPAD.encode(&[1; 16]);
        assert!(with(&key, &auth).is_ok());
        for auth in [&BASE64URL_NOPAD.encode(&[1; 15]), "not base64!", ""] {
            let error = SubscriptionError::Base64 { field: "auth", expected: 16 };
            assert_eq!(with(&key, auth), Err(error), "{auth}");
        }
        let error = with(&key[1..], &auth).unwrap_err();
        assert_eq!(error.to_string(), "p256dh is not base64url of 65 bytes");
        let mut off_curve = keys().public_key();
        off_curve[64] ^= 1;
        assert_eq!(with(&BASE64URL_NOPAD.encode(&off_curve), &auth), Err(SubscriptionError::PublicKey));
        let mut compressed = [0; 65];
        compressed[0] = 0x02;
        assert_eq!(with(&BASE64URL_NOPAD.encode(&compressed), &auth), Err(SubscriptionError::PublicKey));
    }

    #[test]
    fn origin_leaves_out_the_default_port_only() {
        let origin = |endpoint| subscription(endpoint).unwrap().origin();
        assert_eq!(origin("https://Push.Example.net:443/a"), { "https://push.example.net" });
        assert_eq!(origin("https://example.net:8443/a"), { "https://example.net:8443" });
        assert_eq!(origin("http://127.0.0.1:80/a"), "http://127.0.0.1");
        assert_eq!(origin("https://[2001:db8::1]/a"), "https://[2001:db8::1]");
    }

    #[test]
    fn debug_output_shows_no_secret() {
        let text = format!("{:?}", subscription("https://example.net/secret").unwrap());
        assert_eq!(text, "Subscription(..)");
    }

    #[test]
    fn topics_are_limited_to_32_characters_of_base64url() {
        assert!("call-1_A".parse::<Topic>().is_ok());
        assert!("a".repeat(32).parse::<Topic>().is_ok());
        for topic in ["", &"a".repeat(33), "a b", "a/b", "a\r\nb", "\u{e9}"] {
            assert_eq!(topic.parse::<Topic>(), Err(TopicError), "{topic:?}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = Subscription::from_json(&bytes);
        }

        #[test]
        fn arbitrary_endpoints_never_panic(endpoint in "\\PC{0,80}") {
            if let Ok(subscription) = subscription(&endpoint) {
                prop_assert!(subscription.origin().starts_with("http"));
            }
        }
    }
}
