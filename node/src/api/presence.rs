//! `/v1/presence`.

use axum::Json;
use axum::extract::State;

use super::ApiState;
use super::extract::{Answer, JsonBody, PathPart};
use super::route::Route;
use crate::handle::presence::{OwnPresence, PresenceChange, PresenceList, PresenceView};

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::get("/v1/presence", "ownPresence", "What this user chose to be", own).returns::<OwnPresence>(),
        Route::post("/v1/presence", "setPresence", "Choose what to be", set).body::<PresenceChange>().returns::<OwnPresence>(),
        Route::get("/v1/presence/contacts", "listPresence", "The presence of every contact", list).returns::<PresenceList>(),
        Route::get("/v1/presence/contacts/{user}", "getPresence", "A contact's presence", get).returns::<PresenceView>(),
    ]
}

async fn own(State(state): State<ApiState>) -> Answer<OwnPresence> {
    Ok(Json(state.node.presence().own().await?))
}

async fn set(State(state): State<ApiState>, JsonBody(change): JsonBody<PresenceChange>) -> Answer<OwnPresence> {
    Ok(Json(state.node.presence().set(change).await?))
}

async fn list(State(state): State<ApiState>) -> Answer<PresenceList> {
    Ok(Json(state.node.presence().list().await?))
}

async fn get(State(state): State<ApiState>, PathPart(user): PathPart) -> Answer<PresenceView> {
    Ok(Json(state.node.presence().get(user).await?))
}
