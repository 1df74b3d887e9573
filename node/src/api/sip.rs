//! `/v1/sip`: accounts for ordinary phones, and trunks to the telephone network.

use axum::Json;
use axum::extract::State;

use super::ApiState;
use super::extract::{Answer, JsonBody, PathPart};
use super::route::Route;
use crate::handle::sip::{SipAccount, SipAccountList, SipAccountOptions, SipAccountRemoved, SipCredentials, SipTrunkList};

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::get("/v1/sip/accounts", "listSipAccounts", "Accounts for SIP phones, and the phones registered", list)
            .returns::<SipAccountList>(),
        Route::post("/v1/sip/accounts", "addSipAccount", "Make an account; its password is told this once", add)
            .body::<SipAccountOptions>()
            .returns::<SipCredentials>(),
        Route::get("/v1/sip/accounts/{account}", "showSipAccount", "One account", show).returns::<SipAccount>(),
        Route::post("/v1/sip/accounts/{account}/remove", "removeSipAccount", "Remove an account with its keys", remove)
            .returns::<SipAccountRemoved>(),
        Route::post("/v1/sip/accounts/{account}/password", "changeSipPassword", "Give an account another password", password)
            .returns::<SipCredentials>(),
        Route::get("/v1/sip/trunks", "listSipTrunks", "Trunks to the telephone network, and what was used of them today", trunks)
            .returns::<SipTrunkList>(),
    ]
}

async fn list(State(state): State<ApiState>) -> Answer<SipAccountList> {
    Ok(Json(state.node.sip().list().await?))
}

async fn trunks(State(state): State<ApiState>) -> Answer<SipTrunkList> {
    Ok(Json(state.node.sip().trunks().await?))
}

async fn add(State(state): State<ApiState>, JsonBody(options): JsonBody<SipAccountOptions>) -> Answer<SipCredentials> {
    Ok(Json(state.node.sip().add(options).await?))
}

async fn show(State(state): State<ApiState>, PathPart(account): PathPart) -> Answer<SipAccount> {
    Ok(Json(state.node.sip().show(&account).await?))
}

async fn remove(State(state): State<ApiState>, PathPart(account): PathPart) -> Answer<SipAccountRemoved> {
    Ok(Json(state.node.sip().remove(&account).await?))
}

async fn password(State(state): State<ApiState>, PathPart(account): PathPart) -> Answer<SipCredentials> {
    Ok(Json(state.node.sip().new_password(&account).await?))
}
