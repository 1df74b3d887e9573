//! Requests to another system's HTTPS servers: no redirections, an end to every wait, and answers read up to a limit.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, ETAG, HeaderName, HeaderValue, IF_NONE_MATCH, LOCATION};
use http::{Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::system::LinkedError;

/// Longest wait for an exchange.
const TIMEOUT: Duration = Duration::from_secs(20);

/// How long a connection that nobody uses is kept.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// Longest reason taken from an answer.
const REASON_CHARS_MAX: usize = 160;

/// Asks servers.
#[derive(Clone, Debug)]
pub(super) struct Http(Client<HttpsConnector<HttpConnector>, Full<Bytes>>);

/// What came back.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) etag: Option<String>,
    /// Where it sends who asks, for those who follow.
    pub(super) location: Option<String>,
    pub(super) body: Bytes,
}

/// What is asked.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Asked<'a> {
    /// Instead of GET: POST of a form.
    pub(super) form: Option<&'a [(&'a str, &'a str)]>,
    /// Instead of GET: a method of WebDAV.
    pub(super) dav: Option<Dav<'a>>,
    /// `Authorization`.
    pub(super) authorization: Option<&'a str>,
    /// `If-None-Match`.
    pub(super) etag: Option<&'a str>,
    /// Longest answer.
    pub(super) bytes_max: usize,
}

/// A request with a method of WebDAV (RFC 4918).
#[derive(Clone, Copy, Debug)]
pub(super) struct Dav<'a> {
    /// `PROPFIND`, `REPORT`
    pub(super) method: &'static str,
    /// `Depth`: what is right below, too.
    pub(super) is_deep: bool,
    /// XML.
    pub(super) body: &'a str,
}

/// What an OAuth server says of a refusal (RFC 6749 section 5.2).
#[derive(serde::Deserialize)]
struct Refusal {
    error: String,
    error_description: Option<String>,
}

impl Http {
    /// `more_roots`: certificates in PEM, beside the usual ones. Call it within a Tokio runtime.
    pub(super) fn new(more_roots: Option<&Path>) -> Result<Self, String> {
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(crate::mail::tls_config(more_roots)?)
            .https_only()
            .enable_http1()
            .build();
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(1)
            .build(connector);
        Ok(Self(client))
    }

    /// One exchange, whatever its status.
    pub(super) async fn ask(&self, url: &str, asked: Asked<'_>) -> Result<Answer, LinkedError> {
        let request = request(url, asked)?;
        let exchange = async {
            let answer = self.0.request(request).await.map_err(|error| unreachable_reason(&error))?;
            let (head, body) = answer.into_parts();
            let body = Limited::new(body, asked.bytes_max).collect().await;
            let body = body.map_err(|error| match error.is::<LengthLimitError>() {
                true => LinkedError::TooLong,
                false => LinkedError::Protocol("its answer breaks off"),
            })?;
            let body = body.to_bytes();
            let header = |name: HeaderName| head.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
            Ok(Answer { status: head.status, etag: header(ETAG), location: header(LOCATION), body })
        };
        timeout(TIMEOUT, exchange).await.map_err(|_elapsed| LinkedError::Timeout)?
    }

    /// One exchange that is to bring JSON of a kind.
    pub(super) async fn json<T: DeserializeOwned>(
        &self,
        what: &'static str,
        url: &str,
        asked: Asked<'_>,
    ) -> Result<T, LinkedError> {
        let answer = self.ask(url, asked).await?;
        if answer.status != StatusCode::OK {
            return Err(answer.refused(what));
        }
        serde_json::from_slice(&answer.body).map_err(|_| LinkedError::Refused { what, reason: "its answer can't be read".into() })
    }
}

impl Answer {
    /// As a refusal: what the server says of it, or its status.
    pub(super) fn refused(&self, what: &'static str) -> LinkedError {
        let said: Option<Refusal> = serde_json::from_slice(&self.body).ok();
        let reason = match said {
            Some(Refusal { error, error_description: Some(more) }) => format!("{error}: {more}"),
            Some(Refusal { error, .. }) => error,
            None => self.status.to_string(),
        };
        let is_plain = |c: &char| !c.is_control();
        LinkedError::Refused { what, reason: reason.chars().filter(is_plain).take(REASON_CHARS_MAX).collect() }
    }

    /// The error code that an OAuth server gives (RFC 6749 section 5.2).
    pub(super) fn error_code(&self) -> Option<String> {
        serde_json::from_slice::<Refusal>(&self.body).ok().map(|said| said.error)
    }
}

fn request(url: &str, asked: Asked<'_>) -> Result<Request<Full<Bytes>>, LinkedError> {
    let uri: Uri = url.parse().map_err(|_| LinkedError::Name(url.chars().take(REASON_CHARS_MAX).collect()))?;
    if uri.scheme_str() != Some("https") {
        return Err(LinkedError::NoTls);
    }
    let body = asked.form.map(form).unwrap_or_default();
    let mut request = Request::new(Full::new(Bytes::from(body)));
    *request.uri_mut() = uri;
    let value = |text: &str| HeaderValue::from_str(text).map_err(|_| LinkedError::Protocol("a header can't be sent"));
    if asked.form.is_some() {
        *request.method_mut() = Method::POST;
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
    }
    let mut accepted = "application/json";
    if let Some(dav) = asked.dav {
        *request.method_mut() = Method::from_bytes(dav.method.as_bytes()).map_err(|_| LinkedError::Protocol("no such method"))?;
        *request.body_mut() = Full::new(Bytes::copy_from_slice(dav.body.as_bytes()));
        request.headers_mut().insert("depth", HeaderValue::from_static(if dav.is_deep { "1" } else { "0" }));
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/xml; charset=utf-8"));
        accepted = "*/*";
    }
    request.headers_mut().insert(http::header::ACCEPT, HeaderValue::from_static(accepted));
    if let Some(authorization) = asked.authorization {
        let mut value = value(authorization)?;
        value.set_sensitive(true);
        request.headers_mut().insert(AUTHORIZATION, value);
    }
    if let Some(etag) = asked.etag {
        request.headers_mut().insert(IF_NONE_MATCH, value(etag)?);
    }
    Ok(request)
}

/// The libraries' own words for what went wrong, the innermost first.
fn unreachable_reason(error: &dyn std::error::Error) -> LinkedError {
    let mut inner = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    LinkedError::Io(std::io::Error::other(inner.to_string()))
}

/// `application/x-www-form-urlencoded`, and the query of a URL.
pub(super) fn form(pairs: &[(&str, &str)]) -> String {
    pairs.iter().map(|(name, value)| format!("{}={}", encoded(name), encoded(value))).collect::<Vec<_>>().join("&")
}

/// Percent-encoded (RFC 3986 section 2.1): all but what is unreserved.
pub(super) fn encoded(text: &str) -> String {
    use std::fmt::Write;
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a string can't fail.
            let _ok = write!(out, "%{byte:02X}");
        }
    }
    out
}

/// The pairs of a query. What isn't valid there is passed over.
pub(super) fn parse_form(text: &str) -> Vec<(String, String)> {
    let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
    pairs.filter_map(|(name, value)| Some((decoded(name)?, decoded(value)?))).collect()
}

fn decoded(text: &str) -> Option<String> {
    percent_decoded(&text.replace('+', " "))
}

/// What percent-encoded text stands for; `None` if it isn't valid.
pub(super) fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let mut digit = || char::from(rest.next()?).to_digit(16);
                u8::try_from(digit()? * 16 + digit()?).ok()?
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_are_written_and_read() {
        let text = form(&[("scope", "openid a b"), ("redirect_uri", "http://127.0.0.1:9/ü?")]);
        assert_eq!(text, "scope=openid%20a%20b&redirect_uri=http%3A%2F%2F127.0.0.1%3A9%2F%C3%BC%3F");
        assert_eq!(parse_form(&text)[1], ("redirect_uri".into(), "http://127.0.0.1:9/ü?".into()));
        assert_eq!(parse_form("a=b+c&x&%zz=1&d=%"), [("a".to_owned(), "b c".to_owned())]);
    }

    #[test]
    fn nothing_is_asked_without_tls() {
        let asked = Asked { bytes_max: 10, ..Asked::default() };
        assert!(matches!(request("http://id.example/", asked), Err(LinkedError::NoTls)));
        assert!(matches!(request("not a url", asked), Err(LinkedError::Name(_))));
        assert!(request("https://id.example/", asked).is_ok());
    }
}
