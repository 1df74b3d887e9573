//! `/v1/links`: accounts in other systems, whose contacts can call here.

use axum::Json;
use axum::extract::State;

use super::ApiState;
use super::extract::{Answer, JsonBody, PathPart};
use super::route::Route;
use crate::handle::linked::{
    LinkBook, LinkBookOptions, LinkBookServer, LinkCertified, LinkCode, LinkCodeOptions, LinkCodeShown, LinkFound, LinkList,
    LinkLogin, LinkLoginOptions, LinkOptions, LinkRemoved, LinkedAccount,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Whether an account is in the directory.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListingRequest {
    /// Whether who knows the address finds this user by it.
    pub(crate) listed: bool,
}

/// Who is sought.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct FindRequest {
    /// Who they are there: `mailto:bob@example.org`.
    pub(crate) id: String,
}

/// What the certificate is to say.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CertifyLinkRequest {
    /// The identity: `xmpp:alice@example.org`.
    pub(crate) id: String,
    /// Whether it is to hint at it.
    #[serde(default = "yes")]
    pub(crate) is_wanted: bool,
}

const fn yes() -> bool {
    true
}

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
        Route::get("/v1/links/book", "showLinkBook", "Where the address book is from, and how it stands", show_book)
            .returns::<LinkBook>(),
        Route::post("/v1/links/book", "setLinkBook", "Take a file for the contacts of own addresses", book)
            .body::<LinkBookOptions>()
            .returns::<LinkBook>(),
        Route::post(
            "/v1/links/book/server",
            "followLinkBook",
            "Take the address books at a server for the contacts of own addresses, and follow them",
            book_server,
        )
        .body::<LinkBookServer>()
        .returns::<LinkBook>(),
        Route::post("/v1/links/book/again", "readLinkBook", "Read the address book again, now", read_book).returns::<LinkBook>(),
        Route::post("/v1/links/book/forget", "forgetLinkBook", "Forget the address book, and its password", forget_book)
            .returns::<LinkBook>(),
        Route::post("/v1/links/{account}/remove", "removeLink", "Unlink an account and forget its password", remove)
            .returns::<LinkRemoved>(),
        Route::post("/v1/links/{account}/listing", "setLinkListed", "Whether who knows the address finds this user", listing)
            .body::<ListingRequest>()
            .returns::<LinkedAccount>(),
        Route::post("/v1/links/find", "findLinked", "Who somebody in another system is here, as the directory says", find)
            .body::<FindRequest>()
            .returns::<LinkFound>(),
        Route::post("/v1/links/certify", "certifyLink", "Have the certificate hint at an identity, or no more", certify)
            .body::<CertifyLinkRequest>()
            .returns::<LinkCertified>(),
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

async fn show_book(State(state): State<ApiState>) -> Answer<LinkBook> {
    Ok(Json(state.node.links().show_book().await?))
}

async fn book_server(State(state): State<ApiState>, JsonBody(options): JsonBody<LinkBookServer>) -> Answer<LinkBook> {
    Ok(Json(state.node.links().book_server(options).await?))
}

async fn read_book(State(state): State<ApiState>) -> Answer<LinkBook> {
    Ok(Json(state.node.links().read_book_again().await?))
}

async fn forget_book(State(state): State<ApiState>) -> Answer<LinkBook> {
    Ok(Json(state.node.links().forget_book().await?))
}

async fn remove(State(state): State<ApiState>, PathPart(account): PathPart) -> Answer<LinkRemoved> {
    Ok(Json(state.node.links().remove(&account).await?))
}

async fn listing(
    State(state): State<ApiState>,
    PathPart(account): PathPart,
    JsonBody(request): JsonBody<ListingRequest>,
) -> Answer<LinkedAccount> {
    Ok(Json(state.node.links().set_listed(&account, request.listed).await?))
}

async fn find(State(state): State<ApiState>, JsonBody(request): JsonBody<FindRequest>) -> Answer<LinkFound> {
    Ok(Json(state.node.links().find(&request.id).await?))
}

async fn certify(State(state): State<ApiState>, JsonBody(request): JsonBody<CertifyLinkRequest>) -> Answer<LinkCertified> {
    Ok(Json(state.node.links().certify(&request.id, request.is_wanted).await?))
}
