//! `/v1/status`, `/v1/peers`, `/v1/doctor`, `/v1/users/{user}/why`.

use axum::Json;
use axum::extract::State;

use super::ApiState;
use super::extract::{Answer, PathPart};
use super::route::Route;
use crate::handle::network::{Diagnosis, Explanation, MediaRelays, PeerList, RelayUsage, Status};

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::get("/v1/status", "status", "What runs", status).returns::<Status>(),
        Route::get("/v1/relay", "relayUsage", "Who has used how much of this node's media relay", relay_usage)
            .returns::<RelayUsage>(),
        Route::get(
            "/v1/media-relays",
            "mediaRelays",
            "The media relays at hand, with credentials to use them (TURN)",
            media_relays,
        )
        .returns::<MediaRelays>(),
        Route::get("/v1/peers", "peers", "Whom this node knows", peers).returns::<PeerList>(),
        Route::get("/v1/doctor", "doctor", "What is wrong with the connectivity", doctor).returns::<Diagnosis>(),
        Route::get("/v1/users/{user}/why", "why", "Why a user can or can't be reached", why).returns::<Explanation>(),
    ]
}

async fn status(State(state): State<ApiState>) -> Answer<Status> {
    Ok(Json(state.node.status().await?))
}

async fn media_relays(State(state): State<ApiState>) -> Answer<MediaRelays> {
    Ok(Json(state.node.media_relays().await?))
}

async fn relay_usage(State(state): State<ApiState>) -> Answer<RelayUsage> {
    Ok(Json(state.node.relay_usage().await?))
}

async fn peers(State(state): State<ApiState>) -> Answer<PeerList> {
    Ok(Json(state.node.peers().await?))
}

async fn doctor(State(state): State<ApiState>) -> Answer<Diagnosis> {
    Ok(Json(state.node.doctor().await?))
}

async fn why(State(state): State<ApiState>, PathPart(user): PathPart) -> Answer<Explanation> {
    Ok(Json(state.node.why(&user).await?))
}
