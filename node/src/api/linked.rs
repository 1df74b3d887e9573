//! `/v1/links`: accounts in other systems, whose contacts can call here.

use axum::Json;
use axum::extract::State;

use super::ApiState;
use super::extract::{Answer, JsonBody, PathPart};
use super::route::Route;
use crate::handle::linked::{
    LinkBook, LinkBookOptions, LinkCode, LinkCodeOptions, LinkCodeShown, LinkList, LinkLogin, LinkLoginOptions, LinkOptions,
    LinkRemoved, LinkedAccount,
};

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::get("/v1/links", "listLinks", "Linked accounts, and who is in their contact lists", list).returns::<LinkList>(),
        Route::post("/v1/links", "addLink", "Link an account; its password is kept on this device, sealed", add)
            .body::<LinkOptions>()
            .returns::<LinkedAccount>(),
        Route::post(
            "/v1/links/login",
            "beginLinkLogin",
            "Begin a login to an OpenID Connect provider, to link the account there",
            login,
        )
        .body::<LinkLoginOptions>()
        .returns::<LinkLogin>(),
        Route::post("/v1/links/login/{login}/wait", "waitLinkLogin", "Wait until the user has logged in there", wait_login)
            .returns::<LinkedAccount>(),
        Route::post("/v1/links/code", "askLinkCode", "Have the own authority send a code to an address, to link it", ask_code)
            .body::<LinkCodeOptions>()
            .returns::<LinkCode>(),
        Route::post("/v1/links/code/show", "showLinkCode", "Link an address by the code that came there", show_code)
            .body::<LinkCodeShown>()
            .returns::<LinkedAccount>(),
        Route::post("/v1/links/book", "setLinkBook", "Take an address book for the contacts of own addresses", book)
            .body::<LinkBookOptions>()
            .returns::<LinkBook>(),
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

async fn login(State(state): State<ApiState>, JsonBody(options): JsonBody<LinkLoginOptions>) -> Answer<LinkLogin> {
    Ok(Json(state.node.links().login(options).await?))
}

async fn wait_login(State(state): State<ApiState>, PathPart(login): PathPart) -> Answer<LinkedAccount> {
    Ok(Json(state.node.links().wait_login(&login).await?))
}

async fn ask_code(State(state): State<ApiState>, JsonBody(options): JsonBody<LinkCodeOptions>) -> Answer<LinkCode> {
    Ok(Json(state.node.links().ask_code(options).await?))
}

async fn show_code(State(state): State<ApiState>, JsonBody(options): JsonBody<LinkCodeShown>) -> Answer<LinkedAccount> {
    Ok(Json(state.node.links().show_code(options).await?))
}

async fn book(State(state): State<ApiState>, JsonBody(options): JsonBody<LinkBookOptions>) -> Answer<LinkBook> {
    Ok(Json(state.node.links().book(options).await?))
}

async fn remove(State(state): State<ApiState>, PathPart(account): PathPart) -> Answer<LinkRemoved> {
    Ok(Json(state.node.links().remove(&account).await?))
}
