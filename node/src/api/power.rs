//! `/v1/suspend`, `/v1/wake`.

use axum::Json;
use axum::extract::State;
use data_encoding::BASE64URL_NOPAD;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ApiState;
use super::extract::{Answer, JsonBody, Refusal};
use super::route::Route;
use crate::handle::power::{SuspendOptions, Suspended, WakeOutcome};
use crate::handle::problem::ProblemKind;

/// What woke the device.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct WakeRequest {
    /// What the push service delivered: base64url without padding.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) payload: Option<String>,
}

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::post("/v1/suspend", "suspend", "Freeze the node", suspend).body::<SuspendOptions>().returns::<Suspended>(),
        Route::post("/v1/wake", "wake", "Wake the node, with or without a push payload", wake)
            .body::<WakeRequest>()
            .returns::<WakeOutcome>(),
    ]
}

async fn suspend(State(state): State<ApiState>, JsonBody(options): JsonBody<SuspendOptions>) -> Answer<Suspended> {
    Ok(Json(state.node.suspend(options).await?))
}

async fn wake(State(state): State<ApiState>, JsonBody(request): JsonBody<WakeRequest>) -> Answer<WakeOutcome> {
    let payload = request.payload.map(|text| BASE64URL_NOPAD.decode(text.as_bytes()));
    let payload = payload
        .transpose()
        .map_err(|error| Refusal::new(ProblemKind::InvalidRequest, format!("payload is no base64url: {error}")))?;
    Ok(Json(state.node.wake(payload).await?))
}
