//! `/v1/groups`. A group's texts are messages: `/v1/messages` takes `group:` and an id for a recipient.

use axum::Json;
use axum::extract::State;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ApiState;
use super::extract::{Answer, JsonBody, PathPart};
use super::route::Route;
use crate::handle::groups::{GroupChange, GroupEntry, GroupList};

/// A group to found.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct GroupRequest {
    /// Its name, at most 128 bytes.
    pub(crate) name: String,
}

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::get("/v1/groups", "listGroups", "All groups, with their members", list).returns::<GroupList>(),
        Route::post("/v1/groups", "createGroup", "Found a group", create).body::<GroupRequest>().returns::<GroupEntry>(),
        Route::get("/v1/groups/{group}", "getGroup", "One group, by its id, the start of it, or its name", get)
            .returns::<GroupEntry>(),
        Route::post("/v1/groups/{group}", "changeGroup", "Add, remove, leave, rename, accept or decline", change)
            .body::<GroupChange>()
            .returns::<GroupEntry>(),
    ]
}

async fn list(State(state): State<ApiState>) -> Answer<GroupList> {
    Ok(Json(state.node.groups().list().await?))
}

async fn create(State(state): State<ApiState>, JsonBody(request): JsonBody<GroupRequest>) -> Answer<GroupEntry> {
    Ok(Json(state.node.groups().create(&request.name).await?))
}

async fn get(State(state): State<ApiState>, PathPart(group): PathPart) -> Answer<GroupEntry> {
    Ok(Json(state.node.groups().get(&group).await?))
}

async fn change(
    State(state): State<ApiState>,
    PathPart(group): PathPart,
    JsonBody(change): JsonBody<GroupChange>,
) -> Answer<GroupEntry> {
    Ok(Json(state.node.groups().change(&group, change).await?))
}
