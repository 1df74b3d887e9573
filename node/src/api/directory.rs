//! `/v1/users/{user}`.

use axum::Json;
use axum::extract::State;

use super::ApiState;
use super::extract::{Answer, PathPart, UrlQuery};
use super::route::Route;
use crate::handle::directory::{ResolveOptions, Resolved};

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::get("/v1/users/{user}", "resolve", "Find a user's identity and devices", resolve)
            .query::<ResolveOptions>()
            .returns::<Resolved>(),
    ]
}

async fn resolve(
    State(state): State<ApiState>,
    PathPart(user): PathPart,
    UrlQuery(options): UrlQuery<ResolveOptions>,
) -> Answer<Resolved> {
    Ok(Json(state.node.directory().resolve(&user, options).await?))
}
