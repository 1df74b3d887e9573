//! `/v1/enrol`, `/v1/authority`.

use axum::Json;
use axum::extract::State;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ApiState;
use super::extract::{Answer, JsonBody};
use super::route::Route;
use crate::handle::authority::{
    AuthorityCertified, AuthorityInvite, AuthorityLog, AuthorityRevocation, AuthorityStatus, EnrolOptions, Enrolled,
    InviteOptions,
};

/// Whom to revoke.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RevokeRequest {
    /// `name@authority`, or `name` alone.
    pub(crate) username: String,
}

/// Whose an identity in another system is.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CertifyRequest {
    /// Whose, `name@authority`, or `name` alone.
    pub(crate) username: String,
    /// The identity: `xmpp:alice@example.org`.
    pub(crate) id: String,
    /// Whether it is theirs; `false` takes it back.
    #[serde(default = "yes")]
    pub(crate) is_certified: bool,
}

const fn yes() -> bool {
    true
}

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::post("/v1/enrol", "enrol", "Get a username for this home", enrol).body::<EnrolOptions>().returns::<Enrolled>(),
        Route::get("/v1/authority", "showAuthority", "What this authority is", show).returns::<AuthorityStatus>(),
        Route::post("/v1/authority/invites", "invite", "Make an invite code", invite)
            .body::<InviteOptions>()
            .returns::<AuthorityInvite>(),
        Route::post("/v1/authority/revocations", "revoke", "Revoke a user", revoke)
            .body::<RevokeRequest>()
            .returns::<AuthorityRevocation>(),
        Route::post("/v1/authority/certified", "certify", "Say that an identity in another system is a user's", certify)
            .body::<CertifyRequest>()
            .returns::<AuthorityCertified>(),
        Route::get("/v1/authority/log", "authorityLog", "What this authority has done", log).returns::<AuthorityLog>(),
    ]
}

async fn enrol(State(state): State<ApiState>, JsonBody(options): JsonBody<EnrolOptions>) -> Answer<Enrolled> {
    Ok(Json(state.node.enrol(options).await?))
}

async fn show(State(state): State<ApiState>) -> Answer<AuthorityStatus> {
    Ok(Json(state.node.authority().show().await?))
}

async fn invite(State(state): State<ApiState>, JsonBody(options): JsonBody<InviteOptions>) -> Answer<AuthorityInvite> {
    Ok(Json(state.node.authority().invite(options).await?))
}

async fn revoke(State(state): State<ApiState>, JsonBody(request): JsonBody<RevokeRequest>) -> Answer<AuthorityRevocation> {
    Ok(Json(state.node.authority().revoke(&request.username).await?))
}

async fn certify(State(state): State<ApiState>, JsonBody(request): JsonBody<CertifyRequest>) -> Answer<AuthorityCertified> {
    let CertifyRequest { username, id, is_certified } = request;
    Ok(Json(state.node.authority().certify(&username, &id, is_certified).await?))
}

async fn log(State(state): State<ApiState>) -> Answer<AuthorityLog> {
    Ok(Json(state.node.authority().log().await?))
}
