//! Request bodies and queries in, problems out.

use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::de::DeserializeOwned;

use crate::handle::problem::{Fault, Problem, ProblemKind};

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

    async fn from_request(request: Request, state: &S) -> Result<Self, Refusal> {
        let is_json = is_json(&request);
        let read = tokio::time::timeout(BODY_TIME_MAX, Bytes::from_request(request, state));
        let bytes = match read.await {
            Ok(Ok(bytes)) => bytes,
            Ok(Err(rejection)) => return Err(body_refusal(&rejection)),
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

fn body_refusal(rejection: &BytesRejection) -> Refusal {
    let kind = match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => ProblemKind::TooLarge,
        _ => ProblemKind::InvalidRequest,
    };
    let limit = super::BODY_BYTES_MAX;
    Refusal::new(kind, format!("{} (at most {limit} bytes)", rejection.body_text()))
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
