//! Request bodies and queries in, problems out.

use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;

use crate::handle::problem::{Fault, Problem, ProblemKind};

/// Largest request body: a message of the largest size with every character escaped.
const BODY_BYTES_MAX: usize = 512 * 1024;

/// How much of a larger body is read to be thrown away, before the connection is closed on it.
const DISCARDED_BYTES_MAX: usize = 16 * BODY_BYTES_MAX;

/// How long a client may take to send its body; it comes from this machine.
const BODY_TIME_MAX: Duration = Duration::from_secs(10);

/// An answer that is an RFC 9457 document.
#[derive(Debug)]
pub(super) struct Refusal(pub(super) Problem);

/// What handlers return.
pub(super) type Answer<T> = Result<Json<T>, Refusal>;

impl<E: Fault> From<E> for Refusal {
    fn from(error: E) -> Self {
        Self(error.problem())
    }
}

impl Refusal {
    pub(super) fn new(kind: ProblemKind, detail: impl Into<String>) -> Self {
        Self(Problem::new(kind, detail))
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");
        let status = StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(self.0)).into_response();
        response.headers_mut().insert(header::CONTENT_TYPE, PROBLEM_JSON);
        if status == StatusCode::UNAUTHORIZED {
            let bearer = HeaderValue::from_static("Bearer realm=\"halloo\"");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, bearer);
        }
        response
    }
}

/// A JSON body. No body at all counts as `{}`.
#[derive(Debug)]
pub(super) struct JsonBody<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for JsonBody<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, _state: &S) -> Result<Self, Refusal> {
        let is_json = is_json(&request);
        let bytes = match tokio::time::timeout(BODY_TIME_MAX, read(request.into_body())).await {
            Ok(bytes) => bytes?,
            Err(_elapsed) => {
                return Err(Refusal::new(ProblemKind::TimedOut, "the request's body never came"));
            }
        };
        if bytes.is_empty() {
            return parse(b"{}").map(Self);
        }
        if !is_json {
            let detail = "send the body as content-type: application/json";
            return Err(Refusal::new(ProblemKind::UnsupportedMediaType, detail));
        }
        parse(&bytes).map(Self)
    }
}

/// Reads a body up to the limit. What is larger is thrown away while it comes, so that the client
/// reads the refusal instead of a broken connection.
async fn read(mut body: Body) -> Result<Vec<u8>, Refusal> {
    let mut bytes = Vec::new();
    let mut size = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Refusal::new(ProblemKind::InvalidRequest, format!("body: {error}")))?;
        let Ok(data) = frame.into_data() else { continue };
        size += data.len();
        if size <= BODY_BYTES_MAX {
            bytes.extend_from_slice(&data);
        } else if size > DISCARDED_BYTES_MAX {
            break;
        }
    }
    if size > BODY_BYTES_MAX {
        let detail = format!("the body is larger than {BODY_BYTES_MAX} bytes");
        return Err(Refusal::new(ProblemKind::TooLarge, detail));
    }
    Ok(bytes)
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(bytes).map_err(|error| Refusal::new(ProblemKind::InvalidRequest, format!("body: {error}")))
}

fn is_json(request: &Request) -> bool {
    let content_type = request.headers().get(header::CONTENT_TYPE);
    content_type.and_then(|value| value.to_str().ok()).is_some_and(|value| {
        let essence = value.split(';').next().unwrap_or_default().trim();
        essence.eq_ignore_ascii_case("application/json")
    })
}

/// The query string.
#[derive(Debug)]
pub(super) struct UrlQuery<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for UrlQuery<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let query: Result<Query<T>, QueryRejection> = Query::from_request_parts(parts, state).await;
        query
            .map(|Query(query)| Self(query))
            .map_err(|rejection| Refusal::new(ProblemKind::InvalidRequest, rejection.body_text()))
    }
}

/// The one variable part of a path, percent-decoded.
#[derive(Debug)]
pub(super) struct PathPart(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for PathPart {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let part: Result<Path<String>, PathRejection> = Path::from_request_parts(parts, state).await;
        part.map(|Path(part)| Self(part)).map_err(|rejection| Refusal::new(ProblemKind::InvalidRequest, rejection.body_text()))
    }
}
