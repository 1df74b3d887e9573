//! `/v1/devices`.

use axum::Json;
use axum::extract::State;

use super::ApiState;
use super::extract::{Answer, JsonBody, PathPart};
use super::route::Route;
use crate::handle::devices::{LinkOffer, LinkOptions, LinkedDevice};

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::post("/v1/devices/link", "offerLink", "Open a code by which one new device can be linked", offer)
            .body::<LinkOptions>()
            .returns::<LinkOffer>(),
        Route::post(
            "/v1/devices/link/{id}/wait",
            "waitLink",
            "Answers when a device is linked, or none can be. Closing the connection takes the code back",
            wait,
        )
        .returns::<LinkedDevice>()
        .lasts(),
    ]
}

async fn offer(State(state): State<ApiState>, JsonBody(options): JsonBody<LinkOptions>) -> Answer<LinkOffer> {
    Ok(Json(state.node.devices().offer_link(options).await?))
}

async fn wait(State(state): State<ApiState>, PathPart(id): PathPart) -> Answer<LinkedDevice> {
    Ok(Json(state.node.devices().wait_link(&id).await?))
}
