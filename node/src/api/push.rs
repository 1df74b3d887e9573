//! `/v1/push`.

use axum::Json;
use axum::extract::State;

use super::ApiState;
use super::extract::{Answer, JsonBody, PathPart};
use super::route::Route;
use crate::handle::push::{PushList, PushRegistration, PushRemoved, PushTarget, PushTest};

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::get("/v1/push", "listPush", "This device's push registrations", list).returns::<PushList>(),
        Route::post("/v1/push", "registerPush", "Let a gateway wake this device", register)
            .body::<PushTarget>()
            .returns::<PushRegistration>(),
        Route::post("/v1/push/test", "testPush", "Ring this device through its gateways", test).returns::<PushTest>(),
        Route::post("/v1/push/{id}/unregister", "unregisterPush", "Take a push registration back", unregister)
            .returns::<PushRemoved>(),
    ]
}

async fn list(State(state): State<ApiState>) -> Answer<PushList> {
    Ok(Json(state.node.push().list().await?))
}

async fn register(State(state): State<ApiState>, JsonBody(target): JsonBody<PushTarget>) -> Answer<PushRegistration> {
    Ok(Json(state.node.push().register(target).await?))
}

async fn test(State(state): State<ApiState>) -> Answer<PushTest> {
    Ok(Json(state.node.push().test().await?))
}

async fn unregister(State(state): State<ApiState>, PathPart(id): PathPart) -> Answer<PushRemoved> {
    Ok(Json(state.node.push().unregister(&id).await?))
}
