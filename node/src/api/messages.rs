//! `/v1/messages`.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ApiState;
use super::extract::{Answer, JsonBody, PathPart, UrlQuery};
use super::route::Route;
use crate::handle::messages::{MessageList, MessageListOptions, MessageStatus};

/// How long a client may have a message waited for: below the limit of a request.
pub(crate) const WAIT_MS_MAX: u64 = 50_000;

/// What a client waits for a message when it doesn't say.
pub(crate) const WAIT_MS_DEFAULT: u64 = 30_000;

/// A message to send.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct MessageRequest {
    /// To whom, `name@authority`.
    pub(crate) to: String,
    /// The text.
    pub(crate) text: String,
    /// Answer only when it is delivered, or failed, or after so long; at most 50,000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) wait_ms: Option<u64>,
}

/// Which conversation to list.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    /// With whom, `name@authority`.
    with: String,
    /// At most so many, the newest.
    limit: Option<u32>,
}

/// How long to wait for a message.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WaitQuery {
    /// At most so long; at most 50,000.
    wait_ms: Option<u64>,
}

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::get("/v1/messages", "listMessages", "The conversation with a user", list)
            .query::<ListQuery>()
            .returns::<MessageList>(),
        Route::post("/v1/messages", "sendMessage", "Send a message", send).body::<MessageRequest>().returns::<MessageStatus>(),
        Route::get("/v1/messages/{id}", "waitMessage", "Wait until a message is delivered", wait)
            .query::<WaitQuery>()
            .returns::<MessageStatus>(),
    ]
}

async fn list(State(state): State<ApiState>, UrlQuery(query): UrlQuery<ListQuery>) -> Answer<MessageList> {
    let options = MessageListOptions { limit: query.limit };
    Ok(Json(state.node.messages().list(&query.with, options).await?))
}

async fn send(State(state): State<ApiState>, JsonBody(request): JsonBody<MessageRequest>) -> Answer<MessageStatus> {
    let messages = state.node.messages();
    let status = messages.send(&request.to, &request.text).await?;
    match request.wait_ms {
        Some(wait_ms) => Ok(Json(messages.wait(&status.id, wait_limit(wait_ms)).await?)),
        None => Ok(Json(status)),
    }
}

async fn wait(
    State(state): State<ApiState>,
    PathPart(id): PathPart,
    UrlQuery(query): UrlQuery<WaitQuery>,
) -> Answer<MessageStatus> {
    let limit = wait_limit(query.wait_ms.unwrap_or(WAIT_MS_DEFAULT));
    Ok(Json(state.node.messages().wait(&id, limit).await?))
}

fn wait_limit(wait_ms: u64) -> Duration {
    Duration::from_millis(wait_ms.min(WAIT_MS_MAX))
}
