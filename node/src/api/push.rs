//! `/v1/push`.

use axum::Json;
use axum::extract::State;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ApiState;
use super::extract::{Answer, JsonBody, PathPart};
use super::route::Route;
use crate::handle::choice::{ExplainOptions, PolicyExplanation, PushPolicy};
use crate::handle::push::{PushList, PushRegistration, PushRemoved, PushTarget, PushTest};
use crate::handle::push_sessions::{
    PushSessionBrought, PushSessionChoice, PushSessionOptions, PushSessionReport, PushSessionTaken, PushSettings,
    PushSettingsChange,
};

/// A policy to be set.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PolicyRequest {
    /// Its text in TOML; empty takes the policy back.
    pub(crate) text: String,
}

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::get("/v1/push", "listPush", "This device's push registrations", list).returns::<PushList>(),
        Route::post("/v1/push", "registerPush", "Let a gateway wake this device", register)
            .body::<PushTarget>()
            .returns::<PushRegistration>(),
        Route::get("/v1/push/settings", "pushSettings", "What this device tells its gateways of itself", settings)
            .returns::<PushSettings>(),
        Route::post("/v1/push/settings", "changePushSettings", "Subscriptions, preferences, identifiers, applications", change)
            .body::<PushSettingsChange>()
            .returns::<PushSettings>(),
        Route::post("/v1/push/sessions", "requestPushSessions", "As a gateway: get clients to open a session", request)
            .body::<PushSessionOptions>()
            .returns::<PushSessionReport>(),
        Route::post("/v1/push/session-requests", "takePushSessionRequest", "A session request that another bearer brought", take)
            .body::<PushSessionBrought>()
            .returns::<PushSessionTaken>(),
        Route::post("/v1/push/session-requests/{id}", "answerPushSessionRequest", "The user's word on a session request", answer)
            .body::<PushSessionChoice>()
            .returns::<PushSessionTaken>(),
        Route::get("/v1/push/policy", "pushPolicy", "Which device an event goes to: the policy", policy).returns::<PushPolicy>(),
        Route::post("/v1/push/policy", "setPushPolicy", "Set the policy, for all devices of the user", set_policy)
            .body::<PolicyRequest>()
            .returns::<PushPolicy>(),
        Route::post(
            "/v1/push/policy/explain",
            "explainPushPolicy",
            "Decide on an event that came, or might, and say why",
            explain,
        )
        .body::<ExplainOptions>()
        .returns::<PolicyExplanation>(),
        Route::post("/v1/push/test", "testPush", "Ring this device through its gateways", test).returns::<PushTest>(),
        Route::post("/v1/push/{id}/unregister", "unregisterPush", "Take a push registration back", unregister)
            .returns::<PushRemoved>(),
    ]
}

async fn policy(State(state): State<ApiState>) -> Answer<PushPolicy> {
    Ok(Json(state.node.push().policy().await?))
}

async fn set_policy(State(state): State<ApiState>, JsonBody(request): JsonBody<PolicyRequest>) -> Answer<PushPolicy> {
    Ok(Json(state.node.push().set_policy(&request.text).await?))
}

async fn explain(State(state): State<ApiState>, JsonBody(options): JsonBody<ExplainOptions>) -> Answer<PolicyExplanation> {
    Ok(Json(state.node.push().explain(options).await?))
}

async fn list(State(state): State<ApiState>) -> Answer<PushList> {
    Ok(Json(state.node.push().list().await?))
}

async fn register(State(state): State<ApiState>, JsonBody(target): JsonBody<PushTarget>) -> Answer<PushRegistration> {
    Ok(Json(state.node.push().register(target).await?))
}

async fn settings(State(state): State<ApiState>) -> Answer<PushSettings> {
    Ok(Json(state.node.push().settings().await?))
}

async fn change(State(state): State<ApiState>, JsonBody(change): JsonBody<PushSettingsChange>) -> Answer<PushSettings> {
    Ok(Json(state.node.push().change_settings(change).await?))
}

async fn request(State(state): State<ApiState>, JsonBody(options): JsonBody<PushSessionOptions>) -> Answer<PushSessionReport> {
    Ok(Json(state.node.push().request_sessions(options).await?))
}

async fn take(State(state): State<ApiState>, JsonBody(brought): JsonBody<PushSessionBrought>) -> Answer<PushSessionTaken> {
    Ok(Json(state.node.push().take_session_request(brought).await?))
}

async fn answer(
    State(state): State<ApiState>,
    PathPart(id): PathPart,
    JsonBody(choice): JsonBody<PushSessionChoice>,
) -> Answer<PushSessionTaken> {
    Ok(Json(state.node.push().answer_session_request(&id, choice).await?))
}

async fn test(State(state): State<ApiState>) -> Answer<PushTest> {
    Ok(Json(state.node.push().test().await?))
}

async fn unregister(State(state): State<ApiState>, PathPart(id): PathPart) -> Answer<PushRemoved> {
    Ok(Json(state.node.push().unregister(&id).await?))
}
