//! `/v1/calls`.

use axum::Json;
use axum::extract::State;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ApiState;
use super::extract::{Answer, JsonBody, PathPart};
use super::route::Route;
use crate::handle::call_media::{CallCandidate, CallDescription, IceServers, MediaReport};
use crate::handle::calls::{
    AddOptions, AnswerOptions, CallAdded, CallEntry, CallList, CallOutcome, CallRejoined, DialOptions, KeyOptions,
};

/// A call did what was asked.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct CallDone {
    /// The call.
    pub(crate) call_id: String,
    /// What was done: `answered`, `declined`, `dismissed`, `ended`, `told`, `pressed`.
    pub(crate) done: String,
}

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::get("/v1/calls", "listCalls", "The calls in progress, and the last that were", list).returns::<CallList>(),
        Route::post("/v1/calls", "dial", "Call; answers when the call is over. Closing the connection hangs up", dial)
            .body::<DialOptions>()
            .returns::<CallOutcome>()
            .lasts(),
        Route::get("/v1/calls/{id}", "showCall", "One call, also of an earlier run, with what happened in it", show)
            .returns::<CallEntry>(),
        Route::post("/v1/calls/{id}/answer", "answerCall", "Answer a ringing call", answer)
            .body::<AnswerOptions>()
            .returns::<CallDone>(),
        Route::post("/v1/calls/{id}/decline", "declineCall", "Decline a ringing call", decline).returns::<CallDone>(),
        Route::post("/v1/calls/{id}/dismiss", "dismissCall", "Note that an ended call was seen", dismiss).returns::<CallDone>(),
        Route::post("/v1/calls/{id}/add", "addToCall", "Add somebody to a call; answers when they take part, or won't", add)
            .body::<AddOptions>()
            .returns::<CallAdded>()
            .lasts(),
        Route::post("/v1/calls/{id}/rejoin", "rejoinCall", "Come back to a conference that was left here", rejoin)
            .body::<AnswerOptions>()
            .returns::<CallRejoined>()
            .lasts(),
        Route::post("/v1/calls/{id}/keys", "pressKeys", "Press keys in a call", press).body::<KeyOptions>().returns::<CallDone>(),
        Route::get("/v1/ice-servers", "iceServers", "The media relays at hand, for a media engine of one's own", ice_servers)
            .returns::<IceServers>(),
        Route::get("/v1/calls/{id}/description", "callDescription", "What the other end says of its media", description)
            .returns::<CallDescription>(),
        Route::post("/v1/calls/{id}/candidates", "trickle", "Tell the other end a candidate of one's own media engine", trickle)
            .body::<CallCandidate>()
            .returns::<CallDone>(),
        Route::post("/v1/calls/{id}/media", "reportMedia", "Say how one's own media engine gets on", report)
            .body::<MediaReport>()
            .returns::<CallDone>(),
        Route::post("/v1/calls/{id}/hangup", "hangUpCall", "End a call in any state", hangup).returns::<CallDone>(),
    ]
}

async fn list(State(state): State<ApiState>) -> Answer<CallList> {
    Ok(Json(state.node.calls().list().await?))
}

async fn show(State(state): State<ApiState>, PathPart(call_id): PathPart) -> Answer<CallEntry> {
    Ok(Json(state.node.calls().show(&call_id).await?))
}

async fn dial(State(state): State<ApiState>, JsonBody(options): JsonBody<DialOptions>) -> Answer<CallOutcome> {
    Ok(Json(state.node.calls().dial(options).await?))
}

async fn answer(
    State(state): State<ApiState>,
    PathPart(call_id): PathPart,
    JsonBody(options): JsonBody<AnswerOptions>,
) -> Answer<CallDone> {
    state.node.calls().answer(&call_id, options).await?;
    done(call_id, "answered")
}

async fn decline(State(state): State<ApiState>, PathPart(call_id): PathPart) -> Answer<CallDone> {
    state.node.calls().decline(&call_id).await?;
    done(call_id, "declined")
}

async fn dismiss(State(state): State<ApiState>, PathPart(call_id): PathPart) -> Answer<CallDone> {
    state.node.calls().dismiss(&call_id).await?;
    done(call_id, "dismissed")
}

async fn add(
    State(state): State<ApiState>,
    PathPart(call_id): PathPart,
    JsonBody(options): JsonBody<AddOptions>,
) -> Answer<CallAdded> {
    Ok(Json(state.node.calls().add(&call_id, options).await?))
}

async fn rejoin(
    State(state): State<ApiState>,
    PathPart(call_id): PathPart,
    JsonBody(options): JsonBody<AnswerOptions>,
) -> Answer<CallRejoined> {
    Ok(Json(state.node.calls().rejoin(&call_id, options).await?))
}

async fn press(
    State(state): State<ApiState>,
    PathPart(call_id): PathPart,
    JsonBody(options): JsonBody<KeyOptions>,
) -> Answer<CallDone> {
    state.node.calls().press(&call_id, &options.keys).await?;
    done(call_id, "pressed")
}

async fn ice_servers(State(state): State<ApiState>) -> Answer<IceServers> {
    Ok(Json(state.node.calls().ice_servers().await?))
}

async fn description(State(state): State<ApiState>, PathPart(call_id): PathPart) -> Answer<CallDescription> {
    Ok(Json(state.node.calls().description(&call_id).await?))
}

async fn trickle(
    State(state): State<ApiState>,
    PathPart(call_id): PathPart,
    JsonBody(told): JsonBody<CallCandidate>,
) -> Answer<CallDone> {
    state.node.calls().trickle(&call_id, &told.candidate).await?;
    done(call_id, "told")
}

async fn report(
    State(state): State<ApiState>,
    PathPart(call_id): PathPart,
    JsonBody(report): JsonBody<MediaReport>,
) -> Answer<CallDone> {
    state.node.calls().report_media(&call_id, report).await?;
    done(call_id, "told")
}

async fn hangup(State(state): State<ApiState>, PathPart(call_id): PathPart) -> Answer<CallDone> {
    state.node.calls().hangup(&call_id).await?;
    done(call_id, "ended")
}

fn done(call_id: String, done: &str) -> Answer<CallDone> {
    Ok(Json(CallDone { call_id, done: done.to_owned() }))
}
