//! `/v1/links`: accounts in other systems, whose contacts can call here.

use axum::Json;
use axum::extract::State;

use super::ApiState;
use super::extract::{Answer, JsonBody, PathPart};
use super::route::Route;
use crate::handle::linked::{LinkList, LinkOptions, LinkRemoved, LinkedAccount};

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::get("/v1/links", "listLinks", "Linked accounts, and who is in their contact lists", list).returns::<LinkList>(),
        Route::post("/v1/links", "addLink", "Link an account; its password is kept on this device, sealed", add)
            .body::<LinkOptions>()
            .returns::<LinkedAccount>(),
        Route::post("/v1/links/{account}/remove", "removeLink", "Unlink an account and forget its password", remove)
            .returns::<LinkRemoved>(),
    ]
}

async fn list(State(state): State<ApiState>) -> Answer<LinkList> {
    Ok(Json(state.node.links().list().await?))
}

async fn add(State(state): State<ApiState>, JsonBody(options): JsonBody<LinkOptions>) -> Answer<LinkedAccount> {
    Ok(Json(state.node.links().add(options).await?))
}

async fn remove(State(state): State<ApiState>, PathPart(account): PathPart) -> Answer<LinkRemoved> {
    Ok(Json(state.node.links().remove(&account).await?))
}
