//! `/v1/messages`.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use halloo_protocol::message::COMPOSING_SECS;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ApiState;
use super::extract::{Answer, JsonBody, PathPart, UrlQuery};
use super::route::Route;
use crate::handle::messages::{ComposingTold, ConversationList, MessageList, MessageListOptions, MessageStatus, ReadOutcome};

/// How long a client may have a message waited for: below the limit of a request.
pub(crate) const WAIT_MS_MAX: u64 = 50_000;

/// What a client waits for a message when it doesn't say.
pub(crate) const WAIT_MS_DEFAULT: u64 = 30_000;

/// A message to send.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct MessageRequest {
    /// To whom: `name@authority`, or `group:` and a group's id, the start of it, or its name.
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
    /// With whom: `name@authority`, or `group:` and a group's id, the start of it, or its name.
    with: String,
    /// At most so many, the newest.
    limit: Option<u32>,
}

/// What a person has read.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ReadRequest {
    /// Which conversation: `name@authority`, or `group:` and a group's id, the start of it, or its name.
    pub(crate) with: String,
    /// Up to this message; without it, up to the newest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) id: Option<String>,
}

/// Whether a person is writing.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ComposingRequest {
    /// To whom, `name@authority`.
    pub(crate) with: String,
    /// They are, for two minutes unless said again; or they have stopped.
    pub(crate) active: bool,
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
        Route::get("/v1/conversations", "listConversations", "Everybody with whom there is a conversation", conversations)
            .returns::<ConversationList>(),
        Route::post("/v1/conversations/read", "markRead", "Mark messages as read; their authors are told", read)
            .body::<ReadRequest>()
            .returns::<ReadOutcome>(),
        Route::post("/v1/conversations/composing", "sayComposing", "Say that the person is writing; nobody keeps it", composing)
            .body::<ComposingRequest>()
            .returns::<ComposingTold>(),
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

async fn conversations(State(state): State<ApiState>) -> Answer<ConversationList> {
    Ok(Json(state.node.messages().conversations().await?))
}

async fn read(State(state): State<ApiState>, JsonBody(request): JsonBody<ReadRequest>) -> Answer<ReadOutcome> {
    Ok(Json(state.node.messages().mark_read(&request.with, request.id.as_deref()).await?))
}

async fn composing(State(state): State<ApiState>, JsonBody(request): JsonBody<ComposingRequest>) -> Answer<ComposingTold> {
    let for_secs = if request.active { COMPOSING_SECS } else { 0 };
    Ok(Json(state.node.messages().composing(&request.with, for_secs).await?))
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
