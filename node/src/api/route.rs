//! One row of the route table.

use std::time::Duration;

use axum::extract::Request;
use axum::handler::Handler;
use axum::http::Method;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, MethodRouter, on};
use schemars::{JsonSchema, Schema, SchemaGenerator};

use super::ApiState;
use super::extract::Refusal;
use crate::handle::problem::ProblemKind;

/// How long a request may take, unless it lasts by nature. Longer than every deadline of the
/// node's own operations, which give better answers.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(60);

/// Asks a generator for a type's schema.
type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

/// What is served where, and what the OpenAPI document says about it.
pub(super) struct Route {
    pub(super) method: Method,
    pub(super) path: &'static str,
    /// `operationId`: stable, for generated clients.
    pub(super) id: &'static str,
    pub(super) summary: &'static str,
    pub(super) query: Option<SchemaOf>,
    pub(super) body: Option<SchemaOf>,
    /// Media type and schema of the good answer.
    pub(super) answer: (&'static str, SchemaOf),
    lasts: bool,
    handler: MethodRouter<ApiState>,
}

impl Route {
    /// A row that answers GET with JSON of any shape.
    pub(super) fn get<H, X>(path: &'static str, id: &'static str, summary: &'static str, handler: H) -> Self
    where
        H: Handler<X, ApiState>,
        X: 'static,
    {
        Self::new((Method::GET, MethodFilter::GET), path, id, summary, handler)
    }

    /// A row that answers POST with JSON of any shape.
    pub(super) fn post<H, X>(path: &'static str, id: &'static str, summary: &'static str, handler: H) -> Self
    where
        H: Handler<X, ApiState>,
        X: 'static,
    {
        Self::new((Method::POST, MethodFilter::POST), path, id, summary, handler)
    }

    fn new<H, X>(
        (method, filter): (Method, MethodFilter),
        path: &'static str,
        id: &'static str,
        summary: &'static str,
        handler: H,
    ) -> Self
    where
        H: Handler<X, ApiState>,
        X: 'static,
    {
        Self {
            method,
            path,
            id,
            summary,
            query: None,
            body: None,
            answer: ("application/json", schema_of::<serde_json::Value>),
            lasts: false,
            handler: on(filter, handler),
        }
    }

    /// Its query string is a `T`.
    pub(super) fn query<T: JsonSchema>(mut self) -> Self {
        self.query = Some(schema_of::<T>);
        self
    }

    /// Its body is a `T`.
    pub(super) fn body<T: JsonSchema>(mut self) -> Self {
        self.body = Some(schema_of::<T>);
        self
    }

    /// Its good answer is a `T`.
    pub(super) fn returns<T: JsonSchema>(mut self) -> Self {
        self.answer.1 = schema_of::<T>;
        self
    }

    /// Its good answer is bytes of this media type.
    pub(super) fn gives(mut self, media_type: &'static str) -> Self {
        self.answer = (media_type, bytes_schema);
        self
    }

    /// Its good answer is a stream of server-sent events.
    pub(super) fn streams<T: JsonSchema>(mut self) -> Self {
        self.answer = ("text/event-stream", schema_of::<T>);
        self.lasts()
    }

    /// It may take as long as it lasts.
    pub(super) fn lasts(mut self) -> Self {
        self.lasts = true;
        self
    }

    /// The handler, with its limit of time.
    pub(super) fn into_handler(self) -> MethodRouter<ApiState> {
        if self.lasts { self.handler } else { self.handler.layer(from_fn(limit_time)) }
    }
}

fn schema_of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

/// OpenAPI 3.1 describes bytes by their media type alone.
fn bytes_schema(_: &mut SchemaGenerator) -> Schema {
    Schema::default()
}

async fn limit_time(request: Request, next: Next) -> Response {
    match tokio::time::timeout(REQUEST_TIME_MAX, next.run(request)).await {
        Ok(response) => response,
        Err(_elapsed) => {
            let detail = format!("no answer within {} s", REQUEST_TIME_MAX.as_secs());
            Refusal::new(ProblemKind::TimedOut, detail).into_response()
        }
    }
}
